#!/bin/sh
# Every public header compiles alone, twice over, in C and in C++:  headers.sh INCLUDE_FOLDER
# CC is the C compiler, CXX the C++ compiler.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
count=0
for header in "$1"/mlxq/*.h; do
  name=mlxq/$(basename "$header")
  printf '#include <%s>\n#include <%s>\nextern int not_empty;\n' "$name" "$name" >"$work/alone.c"
  cp "$work/alone.c" "$work/alone.cc"
  for standard in c11 c17; do
    ${CC:-cc} -std=$standard -Wall -Wextra -Wpedantic -Wstrict-prototypes -Werror -fsyntax-only -I "$1" "$work/alone.c"
  done
  for standard in c++11 c++20; do
    ${CXX:-c++} -std=$standard -Wall -Wextra -Wpedantic -Werror -fsyntax-only -I "$1" "$work/alone.cc"
  done
  count=$((count + 1))
done
test "$count" -gt 0
echo "$count headers"
