#!/bin/sh
# The command on other x86 processors than this machine's, in an emulator:  processors.sh EMULATOR MLXQ MODEL
# Where a processor, or its operating system, lacks a part of what AVX2 kernels use, they must not be chosen and --cpu avx2
# is an error; with all of it they run. Every result is that of the reference, which is made here.
set -eu
emulator=$1 mlxq=$2 model=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
failed=0

say() {
  echo "$1"
  failed=1
}

"$mlxq" quantize "$model" "$work/expected" --quiet --cpu ref >/dev/null

# on PROCESSOR [OPTION...]: quantizes on it; false where mlxq refuses.
on() {
  processor=$1
  shift
  rm -rf "$work/made"
  "$emulator" -cpu "$processor" "$mlxq" quantize "$model" "$work/made" --quiet --threads 2 "$@" >"$work/out" 2>&1 || return 1
  diff -r "$work/expected" "$work/made" >/dev/null || say "$processor $*: the result is another"
}

for processor in Nehalem Haswell,-avx Haswell,-avx2 Haswell,-fma Haswell,-f16c Haswell,-xsave; do
  on "$processor" || say "$processor: $(cat "$work/out")"
  if on "$processor" --cpu avx2; then
    say "$processor: --cpu avx2 was taken"
  elif ! grep -q "^mlxq: .*avx2" "$work/out"; then
    say "$processor: $(cat "$work/out")"
  fi
done
on Haswell --cpu avx2 || say "Haswell: $(cat "$work/out")"
[ $failed = 0 ] && echo "no processor was asked for more than it has"
exit $failed
