#!/bin/sh
# Where a kernel's time goes: samples of `checkkern --bench KERNEL` by instruction, the hottest first. Needs perf; where a
# machine counts no cycles, as rented ones often do not, perf takes its clock.
#   bench/profile.sh build/tests/checkkern affine4 mlxq_quantize_affine4_avx2 [INSTRUCTIONS]
set -eu
checkkern=$1 kernel=$2 function=$3 most=${4:-24}
data=$(mktemp)
trap 'rm -f "$data"' EXIT
perf record -q -F 4000 -o "$data" "$checkkern" --bench "$kernel" >/dev/null
perf report -i "$data" --stdio --no-children -F overhead,symbol 2>/dev/null | grep -v '^#' | grep . | head -n 6
echo
perf annotate -i "$data" --stdio --no-source -s "$function" 2>/dev/null | grep -E '^ +[0-9]+\.[0-9]+' | sort -rn | head -n "$most"
