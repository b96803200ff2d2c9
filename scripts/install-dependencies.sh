#!/bin/sh
# Installs the Debian packages that building (default) or testing ("test") needs, as far as they are missing.
set -eu

packages="gcc libc6-dev cmake ninja-build pkg-config libjson-c-dev"
if [ "${1:-}" = test ]; then
  packages="$packages g++ libcmocka-dev python3 python3-venv clang clang-format clang-tidy binutils util-linux"
fi

missing=""
for package in $packages; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

as_root=""
[ "$(id -u)" = 0 ] || as_root=sudo
echo "installing:$missing"
$as_root apt-get update -q
# shellcheck disable=SC2086  # a list of words
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -q --no-install-recommends $missing
