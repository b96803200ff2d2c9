#!/bin/sh
# Builds and runs the consumer through pkg-config, shared and static:  pkg_config.sh PREFIX WORK
# CC is the C compiler, CXX the C++ compiler. The prefix is moved on purpose.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$2
rm -rf "$work"
mkdir -p "$work"
cp -a "$1" "$work/shared"
cp -a "$1" "$work/static"
# A linker takes the shared library where it finds both.
find "$work/static" -name 'libmlxq.so*' -exec rm {} +

# consume NAME OPTIONS
consume() {
  PKG_CONFIG_PATH=$(dirname "$(find "$work/$1" -name mlxq.pc)")
  export PKG_CONFIG_PATH
  flags=$(pkg-config --cflags mlxq)
  # shellcheck disable=SC2086  # lists of words
  libraries=$(pkg-config $2 --libs mlxq)
  # shellcheck disable=SC2086
  {
    ${CC:-cc} -std=c11 -Wall -Wextra -Wpedantic -Werror $flags "$here/consumer/consumer.c" -o "$work/$1/consumer_c" $libraries
    ${CXX:-c++} -std=c++20 -Wall -Wpedantic -Werror $flags "$here/consumer/consumer.cc" -o "$work/$1/consumer_cc" $libraries
  }
  for program in consumer_c consumer_cc; do
    LD_LIBRARY_PATH=$(dirname "$(find "$work/$1" -name libmlxq.a)")
    export LD_LIBRARY_PATH
    printed=$("$work/$1/$program" "$work/$1/out.safetensors")
    echo "$1, $program: $printed"
  done
}

consume shared ''
consume static --static
test "$(pkg-config --modversion mlxq)" = "$("$work/shared/bin/mlxq" --version | sed 's/mlxq //')"
