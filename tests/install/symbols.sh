#!/bin/sh
# The shared library exports what exported_symbols.txt lists, and that is what the headers declare; the static one has
# no external name of another's:  symbols.sh LIBMLXQ_SO LIBMLXQ_A INCLUDE_FOLDER
set -eu
here=$(cd "$(dirname "$0")" && pwd)
LC_ALL=C
export LC_ALL
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

nm -D --defined-only "$1" | sed 's/.* //' | sort >"$work/exported"
sed -n 's/^MLXQ_API [^(]*[ *]\(mlxq_[a-z0-9_]*\)(.*/\1/p' "$3"/mlxq/*.h | sort >"$work/declared"
status=0
diff -u --label exported_symbols.txt --label exported "$here/exported_symbols.txt" "$work/exported" || status=1
diff -u --label exported_symbols.txt --label 'declared in the headers' "$here/exported_symbols.txt" "$work/declared" || status=1
# A declaration that this pattern does not see would be missing in both lists.
test "$(grep -c '^MLXQ_API' "$3"/mlxq/*.h | awk -F: '{sum += $2} END {print sum}')" = "$(wc -l <"$work/declared")" || status=1
if nm -g --defined-only "$2" | sed -n 's/^[0-9a-f]* [A-Z] //p' | grep -v '^mlxq_'; then
  echo 'external names in the static library that do not begin with mlxq_'
  status=1
fi
exit $status
