#!/bin/sh
# Builds and runs the consumer through find_package(mlxq), shared and static:  find_package.sh PREFIX WORK
# CC is the C compiler.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
prefix=$1
work=$2
rm -rf "$work"

# consume NAME COMPONENTS
consume() {
  cmake -S "$here/consumer" -B "$work/$1" -DCMAKE_PREFIX_PATH="$prefix" -DMLXQ_COMPONENTS="$2" >/dev/null
  cmake --build "$work/$1" >"$work/$1/log" || { cat "$work/$1/log"; exit 1; }
  for program in consumer_c consumer_cc; do
    printed=$("$work/$1/$program" "$work/$1/out.safetensors")
    echo "$1, $program: $printed"
  done
}

# links PROGRAM: whether it needs the shared library
links() {
  readelf -d "$1" | grep -q 'NEEDED.*libmlxq'
}

mkdir -p "$work"
consume shared ''
consume static static
links "$work/shared/consumer_c" || { echo 'shared: not linked with libmlxq.so'; exit 1; }
! links "$work/static/consumer_c" || { echo 'static: linked with libmlxq.so'; exit 1; }
