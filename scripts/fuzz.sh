#!/bin/sh
# Runs every fuzzer of the build folder $1 for $2 seconds each, from the corpora in the repo; new inputs stay in the build.
set -eu

build=$1
seconds=$2
here=$(cd "$(dirname "$0")/.." && pwd)
for fuzzer in "$build"/fuzz/fuzz_*; do
  [ -x "$fuzzer" ] && [ -f "$fuzzer" ] || continue
  name=$(basename "$fuzzer")
  work="$build/fuzz/work-$name"
  mkdir -p "$work"
  echo "$name: $seconds seconds"
  "$fuzzer" -max_total_time="$seconds" -timeout=30 -rss_limit_mb=2048 -print_final_stats=1 \
    "$work" "$here/fuzz/corpus/${name#fuzz_}"
done
