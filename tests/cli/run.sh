#!/bin/sh
# Runs one command-line test, or several:   MLXQ=build/mlxq tests/cli/run.sh [--update] CASE_FOLDER...
#
# A case is a folder: `cmd` is a sh script that runs in an empty temporary folder with lib.sh loaded; `exit`, `stdout`
# and `stderr` are what must come of it, to the byte (an absent stdout or stderr is an empty one). --update writes them
# instead of comparing. PYTHON names the Python that makes inputs. A case that ends with 77 lacks something of the
# machine: it is skipped, and 77 is the end of this script, unless another failed.
set -u

tests=$(cd "$(dirname "$0")" && pwd)
update=false
if [ "${1-}" = --update ]; then
  update=true
  shift
fi
: "${MLXQ:?the path of the mlxq to test}"
MLXQ=$(cd "$(dirname "$MLXQ")" && pwd)/$(basename "$MLXQ")
PYTHON=${PYTHON:-python3}
export MLXQ PYTHON CLI_TESTS="$tests" LC_ALL=C TZ=UTC TERM=dumb
unset MLXQ_CPU COLUMNS
umask 022

work=$(mktemp -d) || exit 1
trap 'chmod -R u+rwx "$work"; rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# Compares what came with what was expected; says nothing where they are equal.
compare() {
  expected=$1
  [ -f "$expected" ] || expected=/dev/null
  diff -u --label "expected $(basename "$1")" --label "actual $(basename "$1")" "$expected" "$2"
}

# An output that is empty is kept as no file.
keep() {
  rm -f "$1"
  [ ! -s "$2" ] || cp "$2" "$1"
}

result=0
for folder in "$@"; do
  folder=$(cd "$folder" && pwd) || exit 1
  case=$(basename "$folder")
  rm -rf "${work:?}/$case"
  mkdir -p "$work/$case/run"
  # The caller's standard input is not the test's.
  (cd "$work/$case/run" && exec sh -c '. "$CLI_TESTS/lib.sh"; . "$1"' sh "$folder/cmd") \
    </dev/null >"$work/$case/stdout" 2>"$work/$case/stderr"
  echo $? >"$work/$case/exit"
  if [ "$(cat "$work/$case/exit")" = 77 ]; then
    echo "SKIPPED: $case" >&2
    [ $result = 1 ] || result=77
    continue
  fi
  if $update; then
    for part in exit stdout stderr; do keep "$folder/$part" "$work/$case/$part"; done
    continue
  fi
  for part in exit stdout stderr; do
    compare "$folder/$part" "$work/$case/$part" && continue
    echo "FAILED: $case: $part" >&2
    result=1
  done
done
exit $result
