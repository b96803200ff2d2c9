#!/bin/sh
# Installs the Debian packages that building (default), testing ("test"), or a part of `make test-long` ("long", "fuzz",
# "coverage") needs, as far as they are missing.
set -eu

packages="gcc libc6-dev cmake ninja-build pkg-config libjson-c-dev"
if [ "${1:-}" = test ]; then
  packages="$packages g++ libcmocka-dev python3 python3-venv clang clang-format clang-tidy cppcheck binutils util-linux"
  case $(uname -m) in
  aarch64 | arm64) ;;
  *) packages="$packages gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user" ;; # for the NEON kernels
  esac
fi

if [ "${1:-}" = long ]; then
  packages="valgrind libc6-dbg" # without the names of libc6-dbg memcheck cannot start
fi

if [ "${1:-}" = fuzz ]; then # libFuzzer comes with the compiler's own version
  packages="libclang-rt-$(clang -dumpversion | cut -d. -f1)-dev"
fi

if [ "${1:-}" = coverage ]; then
  packages=gcovr
fi

missing=""
for package in $packages; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "not a Debian system: install the equivalents of:$missing" >&2
  exit 0
fi
as_root=""
if [ "$(id -u)" != 0 ]; then
  as_root=sudo
  if ! command -v sudo >/dev/null; then
    echo "there is no sudo: as root, run: apt-get install$missing" >&2
    exit 1
  fi
fi
echo "installing:$missing"
$as_root apt-get update -q
# shellcheck disable=SC2086  # a list of words
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -q --no-install-recommends $missing
