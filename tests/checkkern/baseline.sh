#!/bin/sh
# No instruction beyond the baseline in objects that every machine runs, and no function that the linker could take from
# an object that not every machine runs but its kernels:  baseline.sh OBJDUMP NM OBJECT...
# Objects whose name ends in _avx2.c.o or _avx512.c.o are the latter.
set -eu
objdump=$1
nm=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
status=0
baseline=0
special=0

# All VEX and EVEX encoded vector instructions begin with v, those of mask registers with k; the others that begin with v
# are verr, verw and vm*.
beyond='%[yz]mm|%k[0-7]|	v[a-z0-9]+ '
fine='	(verr|verw|vm[a-z]+) *($| %?[re]?[a-d]x)'
# SSE3 to SSE4.2 and what came beside them; tzcnt is bsf to older machines.
old='popcnt|lzcnt|crc32|movbe|lddqu|ptest|pshufb|palignr|insertps|extractps|mpsadbw|pcmp[ei]str[im]|pcmp(eq|gt)q'
old="$old|h(add|sub)p[sd]|addsubp[sd]|mov(sl|sh|d)dup|ph(add|sub)[a-z]+|pabs[bwd]|psign[bwd]|pmul(ld|dq|hrsw)|pmaddubsw"
old="$old|pm(in|ax)(sb|sd|uw|ud)|pmov[sz]x[a-z]+|p(ext|ins)r[bdq]|round[sp][sd]|p?blend[a-z]+|dpp[sd]|packusdw"
old="$old|andn|bextr|bls(i|r|msk)|bzhi|mulx|pdep|pext|rorx|sarx|shlx|shrx"
old="	($old)[lqw]? "

for object in "$@"; do
  "$objdump" -d --no-show-raw-insn "$object" >"$work/code"
  # The test would be empty if nothing was taken apart.
  if ! grep -q '^ *[0-9a-f]*:	' "$work/code"; then
    echo "$object: no instruction was found"
    status=1
  fi
  case $object in
  *_avx2.c.o | *_avx512.c.o)
    special=$((special + 1))
    "$nm" -g --defined-only "$object" >"$work/symbols"
    if grep -v ' T mlxq_[a-z0-9_]*_avx\(2\|512\)$' "$work/symbols"; then
      echo "$object defines these beside its kernels"
      status=1
    fi
    # Nor if it could not see such an instruction.
    if ! grep -E "$beyond" "$work/code" | grep -q -v -E "$fine"; then
      echo "$object: no AVX instruction was found where there must be some"
      status=1
    fi
    ;;
  *)
    baseline=$((baseline + 1))
    if grep -E "$beyond" "$work/code" | grep -v -E "$fine" || grep -E "$old" "$work/code"; then
      echo "$object has these instructions"
      status=1
    fi
    ;;
  esac
done
echo "$baseline baseline objects, $special others"
test "$baseline" -gt 0 && test "$special" -gt 0 || status=1
exit $status
