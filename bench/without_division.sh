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
for way in divides multiplies; do
  mkdir "$work/$way"
  cp -r CMakeLists.txt bench cli cmake examples fuzz include src tests "$work/$way"
done
sed -i 's/_mm256_div_ps/_mm256_mul_ps/' "$work"/multiplies/src/kernels/x86/affine_avx2.c "$work"/multiplies/src/kernels/x86/micro_avx2.c
for way in divides multiplies; do
  cmake -G Ninja -S "$work/$way" -B "$work/$way/build" >/dev/null
  ninja -C "$work/$way/build" checkkern >/dev/null
done
for format in "${@:-affine4}"; do
  for round in 1 2 3; do # in turn, so that a change in the machine's load falls on both
    for way in divides multiplies; do
      "$work/$way/build/tests/checkkern" --bench "$format" | grep -E '^quantize.*BF16' | sed "s/^/$round $way: /"
    done
  done
done
