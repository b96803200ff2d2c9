#!/bin/sh
# Runs the command-line cases with every mlxq under valgrind's memcheck:  valgrind.sh MLXQ WORK [CASE_FOLDER...]
# Fails where a case does, or where memcheck tells of anything: a bad access, a decision on uninitialised memory, a
# lost block. WORK keeps what each process told (log.PID). Left out are the cases that meddle with mlxq at a certain
# moment, which a program twenty times slower misses, those that limit its memory or close its standard descriptors,
# which valgrind takes for itself, and those that need a namespace.
set -eu
tests=$(cd "$(dirname "$0")" && pwd)
mlxq=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
mkdir -p "$2"
work=$(cd "$2" && pwd)
shift 2
[ $# -gt 0 ] || set -- "$tests"/cases/*
rm -f "$work"/log.*

cat >"$work/mlxq" <<END_OF_WRAPPER
#!/bin/sh
exec valgrind --quiet --error-exitcode=99 --leak-check=full --show-leak-kinds=definite,possible \\
  --errors-for-leak-kinds=definite,possible --log-file='$work/log.%p' '$mlxq' "\$@"
END_OF_WRAPPER
chmod +x "$work/mlxq"

# valgrind's processor has no AVX-512.
CPU_FLAGS=$(sed -n '/^flags/{s/avx512[a-z0-9_]*//g;p;q;}' /proc/cpuinfo)
export CPU_FLAGS

for folder in "$@"; do
  grep -q -e meddle -e '^ *killed' -e with_little_memory -e little_disk -e '>&-' "$folder/cmd" || echo "$folder"
done >"$work/cases"
status=0
MLXQ="$work/mlxq" xargs -P "$(nproc)" -n 1 "$tests/run.sh" <"$work/cases" || status=1
# With --quiet, the log of a process without errors is empty.
runs=$(find "$work" -name 'log.*' | wc -l)
find "$work" -name 'log.*' -size +0 -exec cat {} + >"$work/told"
cat "$work/told"
[ "$runs" -gt 0 ] && [ ! -s "$work/told" ] || status=1
echo "valgrind: $(wc -l <"$work/cases") of $# cases, $runs runs of mlxq: $([ $status = 0 ] && echo no error || echo FAILED)"
exit $status
