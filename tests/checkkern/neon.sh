#!/bin/sh
# Compiles the kernels and checkkern for aarch64 and runs them in an emulator:  neon.sh COMPILER EMULATOR [CHECKKERN_OPTION...]
# It fails where anything differs, or fewer kernels were run than kernels.def has for NEON.
set -eu
compiler=$1
emulator=$2
shift 2
source=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

"$compiler" -std=c17 -O3 -ffp-contract=off -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror -D_GNU_SOURCE \
  -I"$source/include" -I"$source/src" -static -o "$work/checkkern" "$source"/tests/checkkern/checkkern.c \
  "$source"/src/kernels/kernels.c "$source"/src/kernels/ref/*.c "$source"/src/kernels/arm/*.c \
  "$source"/src/tensor/dtype.c -lm -lpthread

"$emulator" "$work/checkkern" "$@" >"$work/output" || {
  cat "$work/output"
  exit 1
}
cat "$work/output"
listed=$(grep -c '[(, ]NEON, ' "$source/src/kernels/kernels.def")
grep -q "^$listed of $listed usable kernels" "$work/output" || {
  echo "kernels.def lists $listed for NEON"
  exit 1
}
