#!/bin/sh
# RUSTC_WORKSPACE_WRAPPER of `make fuzz`: cargo calls it, instead of rustc, for the crates of this repository. Coverage
# counters and overflow checks go into the program's library and the fuzz targets only; Burn, CubeCL and all other
# dependencies stay as every other build has them.
rustc=$1
shift
case " $* " in
*" --crate-name avion "* | *" --crate-name avion_fuzz "* | *" --crate-name fuzz_"*)
  # What cargo-fuzz passes, less the sanitizer: counters at every edge, compared values for libFuzzer's dictionary.
  exec "$rustc" "$@" \
    -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions=yes -Coverflow-checks=yes
  ;;
esac
exec "$rustc" "$@"
