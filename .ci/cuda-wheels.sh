#!/usr/bin/env bash
# Fetches CUDA's run-time compiler and headers from PyPI, for `make check-cuda`: no GPU, no driver, no CUDA installed.
# Prints the folder that holds lib/ and include/. Does nothing when it is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# CUDA 13.0 is what the drivers of version 580 compile for; a newer NVRTC would use registers differently.
readonly WHEELS=(nvidia-cuda-nvrtc==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 nvidia-cuda-crt==13.0.88)
readonly FOLDER="${CARGO_TARGET_DIR:-$PWD/target}/cuda-wheels"

if [ "$(cat "$FOLDER/wheels" 2>/dev/null)" != "${WHEELS[*]}" ]; then
  python3 -m pip --version >/dev/null 2>&1 ||
    { echo 'cuda-wheels: error: pip is missing. Debian, Ubuntu: apt-get install python3-pip' >&2; exit 1; }
  rm -rf "$FOLDER"
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps \
    --only-binary=:all: --target "$FOLDER" "${WHEELS[@]}" >&2
  printf '%s\n' "${WHEELS[*]}" >"$FOLDER/wheels"
fi
echo "$FOLDER/nvidia/cu13"
