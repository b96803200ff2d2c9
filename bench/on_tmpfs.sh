#!/bin/sh
# Converting beside copying, and models of growing size, on tmpfs, so that the disk is out of it:
#   bench/on_tmpfs.sh PYTHON MLXQ MODEL
set -eu
python=$1 mlxq=$2 model=$3 here=$(dirname "$0")
free=$(df -P -B 1000000000 /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 }')
if [ "${free:-0}" -lt 12 ]; then
  echo "bench/on_tmpfs.sh: not run, it needs 12 GB in /dev/shm" >&2
  exit 0
fi
work=$(mktemp -d /dev/shm/mlxq-bench-XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
cp -r "$model" "$work/model"
"$python" "$here/compare_copy.py" --mlxq "$mlxq" --model "$work/model"
rm -rf "$work/model"
"$python" "$here/growth.py" --mlxq "$mlxq" --on "$work"
