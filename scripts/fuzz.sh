#!/bin/sh
# Runs every fuzzer of the build folder $1 for $2 seconds each, two at a time, from the corpora in the repo; new inputs stay
# in the build. Prints a line for each at the end: executions, edges covered, findings. Fails where there is a finding.
set -u

build=$(cd "$1" && pwd)/fuzz
seconds=$2
corpora=$(cd "$(dirname "$0")/.." && pwd)/fuzz
TMPDIR=$(mktemp -d "$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)/mlxq-fuzz-XXXXXX")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
trap 'exit 130' INT TERM HUP

# The documents share one dictionary.
run_one() {
  name=$1
  dictionary=
  case $name in config | index | quantization) dictionary=-dict=$corpora/json.dict ;; esac
  rm -f "$build/$name-finding-"*
  mkdir -p "$build/work-$name"
  echo "$name: $seconds seconds"
  # shellcheck disable=SC2086
  "$build/fuzz_$name" -max_total_time="$seconds" -timeout=100 -rss_limit_mb=2048 -print_final_stats=1 -report_slow_units=1000 \
    $dictionary -artifact_prefix="$build/$name-finding-" "$build/work-$name" "$corpora/corpus/$name" \
    >"$build/$name.log" 2>&1
  echo $? >"$build/$name.status"
}

names=
for source in "$corpora"/fuzz_*.c; do
  name=$(basename "$source" .c)
  names="$names ${name#fuzz_}"
done

pair=
for name in $names; do
  rm -f "$build/$name.status"
  run_one "$name" &
  pair="$pair $!"
  if [ "$(nproc)" -lt 2 ] || [ "$(echo "$pair" | wc -w)" -eq 2 ]; then
    # shellcheck disable=SC2086
    wait $pair
    pair=
  fi
done
wait

findings=0
for name in $names; do
  log=$build/$name.log
  found=$(find "$build" -name "$name-finding-*" ! -name '*-slow-unit-*' | wc -l)
  status=$(cat "$build/$name.status" 2>/dev/null || echo 1)
  [ "$status" -eq 0 ] || [ "$found" -gt 0 ] || found=1
  findings=$((findings + found))
  printf '%-14s %12s executions  cov %6s  %s findings%s\n' "$name" \
    "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" "$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)" \
    "$found" "$([ "$found" -eq 0 ] || echo ": $log")"
done
[ "$findings" -eq 0 ]
