#!/usr/bin/env bash
# Installs what the build and the tests need from the system, where it is missing. Run by `make setup`; with the word
# `pip`, also what `make check-cuda` needs on top.
#
# Each need is probed, not looked up in the package database: an FFmpeg of one's own (PKG_CONFIG_PATH), another
# libclang (LIBCLANG_PATH) or another Vulkan driver counts too. Installs with apt; elsewhere it names the packages.
set -euo pipefail

readonly EXTRA="${1:-}"
readonly MANIFEST="${BASH_SOURCE[0]%/*}/../Cargo.toml"

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: error: %s\n' "$1" >&2; [ $# -lt 2 ] || printf '  %s\n' "${@:2}" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
# No pipe into `grep -q`: it leaves at the first match, and a writer cut off then counts as a failure under pipefail.
has_library() { [[ "$(/sbin/ldconfig -p 2>/dev/null)" == *"$1"* ]]; }
any_file() { compgen -G "$1" >/dev/null; }

has_build_tools() { have make && have cc && have c++; }
has_ffmpeg_headers() { have pkg-config && pkg-config --exists libavcodec libavformat libavutil libswscale; }

has_libclang() {
  any_file "${LIBCLANG_PATH:-/nonexistent}/libclang*.so*" || any_file '/usr/lib/llvm-*/lib/libclang*.so*' ||
    any_file '/usr/lib*/libclang*.so*'
}

has_vulkan_driver() {
  [ -z "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] || return 0
  local driver
  for driver in /usr/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json /usr/local/share/vulkan/icd.d/*.json; do
    [ -e "$driver" ] || continue
    case "$driver" in
      # Containers often carry NVIDIA's description without the device.
      *nvidia*) [ -e /dev/nvidiactl ] && return 0 ;;
      *) return 0 ;;
    esac
  done
  return 1
}

check_rust() {
  have cargo || fail 'Rust is missing. Install it, open a new shell and run this again:' \
    "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
  local needed found
  needed=$(sed -n '/^rust-version = "/{s/^rust-version = "\(.*\)"/\1/p;q}' "$MANIFEST")
  found=$(rustc --version | awk '{ print $2 }')
  printf '%s\n' "$needed" "$found" | sort -VC ||
    fail "Rust $needed or newer is needed, found $found. With rustup:" 'rustup update stable'
}

# Fills `packages` with the Debian names of what is missing.
find_missing() {
  packages=()
  has_build_tools || packages+=(build-essential)
  have pkg-config || packages+=(pkg-config)
  has_ffmpeg_headers || packages+=(libavcodec-dev libavformat-dev libavutil-dev libswscale-dev)
  have ffmpeg || packages+=(ffmpeg)
  have clang || packages+=(clang)
  has_libclang || packages+=(libclang-dev)
  has_library libvulkan.so.1 || packages+=(libvulkan1)
  has_vulkan_driver || packages+=(mesa-vulkan-drivers)
  [ "$EXTRA" != pip ] || python3 -m pip --version >/dev/null 2>&1 || packages+=(python3-pip)
}

# Network and mirrors fail now and then: three tries, with a pause.
retry() {
  local try
  for try in 1 2 3; do
    "$@" && return 0
    [ "$try" = 3 ] || { say "failed, try $((try + 1)) of 3 in $((try * 5)) s: $*"; sleep $((try * 5)); }
  done
  return 1
}

apt_get() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" \
    </dev/null
}

explain() {
  fail "$1" \
    "Debian, Ubuntu: apt-get install ${packages[*]}" \
    'Fedora (dnf), with FFmpeg from RPM Fusion: ffmpeg ffmpeg-devel mesa-vulkan-drivers vulkan-loader clang clang-devel pkgconf make gcc gcc-c++' \
    'Arch (pacman): ffmpeg vulkan-swrast vulkan-icd-loader clang pkgconf base-devel' \
    'macOS (brew), not tested: ffmpeg molten-vk vulkan-loader llvm pkgconf'
}

install_missing() {
  have apt-get || explain 'these are missing, and there is no apt-get to install them with. Packages by system:'
  as_root=()
  if [ "$(id -u)" != 0 ]; then
    have sudo || explain 'these are missing; installing them needs root or sudo. Ask an administrator for:'
    as_root=(sudo)
  fi
  say "installing ${packages[*]}"
  retry apt_get update || say 'apt-get update failed; going on with the lists that are there'
  retry apt_get install -y --no-install-recommends "${packages[@]}" || explain 'apt-get could not install these:'
}

check_rust
find_missing
if [ "${#packages[@]}" -gt 0 ]; then
  install_missing
  find_missing
  [ "${#packages[@]}" = 0 ] || explain 'still missing after the installation:'
fi
say 'everything is there'
