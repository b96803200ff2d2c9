#!/bin/sh
# A release build is hardened:  hardening.sh FILE...   (executables and shared libraries)
set -eu
LC_ALL=C
export LC_ALL
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0

# has FILE WHAT TOLD PATTERN: a line of what readelf has told of the file
has() {
  grep -Eq "$4" "$work/$3" && return
  echo "$1: $2"
  status=1
}

for file in "$@"; do
  readelf -hW "$file" >"$work/header"
  readelf -lW "$file" >"$work/segments"
  readelf -dW "$file" >"$work/dynamic"
  readelf --dyn-syms -W "$file" >"$work/symbols"
  has "$file" 'not position-independent' header '^ *Type: +DYN '
  has "$file" 'symbols are not bound at the start' dynamic '\((FLAGS|FLAGS_1|BIND_NOW)\).*(BIND_NOW|NOW)'
  has "$file" 'relocations stay writable' segments '^ *GNU_RELRO '
  has "$file" 'the stack is executable' segments '^ *GNU_STACK .* RW +0x'
  has "$file" 'no stack protector' symbols ' UND __stack_chk_fail(@|$)'
  has "$file" 'no checked calls (_FORTIFY_SOURCE)' symbols ' UND __(mem|str|v?s?n?printf|v?f?printf|p?read)[a-z]*_chk(@|$)'
done
exit $status
