#!/bin/sh
# What the true division costs an AVX2 kernel: its speed beside that of a copy which multiplies in its place, and makes wrong
# codes. The most that a cheaper way to the same bits could win.
#   bench/without_division.sh [FORMAT ...]
set -eu
cd "$(dirname "$0")/.."
[ "$(uname -m)" = x86_64 ] || {
  echo "AVX2 is x86's" >&2
  exit 0
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r include src tests "$work"
sed -i 's/_mm256_div_ps/_mm256_mul_ps/' "$work"/src/kernels/x86/affine_avx2.c "$work"/src/kernels/x86/micro_avx2.c
build() { # FOLDER: its checkkern
  for file in "$1"/src/kernels/ref/*.c "$1"/src/kernels/kernels.c "$1"/src/kernels/x86/*.c "$1"/src/tensor/dtype.c \
    "$1"/tests/checkkern/checkkern.c; do
    case $file in
    *_avx2.c) flags="-mavx2 -mfma -mf16c" ;;
    *_avx512.c) flags="-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512" ;;
    *) flags="" ;;
    esac
    # shellcheck disable=SC2086  # a list of words
    ${CC:-gcc} -std=c17 -O3 -DNDEBUG -D_GNU_SOURCE -ffp-contract=off -I"$1/include" -I"$1/src" $flags -c "$file" \
      -o "$work/$(basename "$file" .c).o"
  done
  ${CC:-gcc} "$work"/*.o -lm -lpthread -o "$2"
  rm "$work"/*.o
}
build . "$work/divides"
build "$work" "$work/multiplies"
for format in "${@:-affine4}"; do
  for round in 1 2 3; do # in turn, so that a change in the machine's load falls on both
    for way in divides multiplies; do
      "$work/$way" --bench "$format" | grep -E '^quantize.*BF16' | sed "s/^/$round $way: /"
    done
  done
done
