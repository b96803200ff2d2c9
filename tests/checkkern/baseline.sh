#!/bin/sh
# No instruction beyond the baseline in objects that every machine runs, and no function that the linker could take from
# an object that not every machine runs but its kernels:  baseline.sh OBJDUMP NM OBJECT...
# Objects whose name ends in _avx2.c.o or _avx512.c.o are the latter.
set -eu
objdump=$1
nm=$2
shift 2
status=0
baseline=0
special=0
for object in "$@"; do
  case $object in
  *_avx2.c.o | *_avx512.c.o)
    special=$((special + 1))
    if "$nm" -g --defined-only "$object" | grep -v ' T mlxq_[a-z0-9_]*_avx\(2\|512\)$'; then
      echo "$object defines these beside its kernels"
      status=1
    fi
    # The test would be empty if it could not see such an instruction.
    if ! "$objdump" -d "$object" | grep -q '%[yz]mm'; then
      echo "$object: no AVX instruction was found where there must be some"
      status=1
    fi
    ;;
  *)
    baseline=$((baseline + 1))
    # All VEX and EVEX encoded vector instructions begin with v, those of mask registers with k; the others that begin with v
    # are verr, verw and vm*.
    if "$objdump" -d --no-show-raw-insn "$object" |
      grep -E '%[yz]mm|%k[0-7]|	v[a-z0-9]+ ' | grep -v -E '	(verr|verw|vm[a-z]+) *($| %?[re]?[a-d]x)'; then
      echo "$object has these instructions"
      status=1
    fi
    ;;
  esac
done
echo "$baseline baseline objects, $special others"
test "$baseline" -gt 0 && test "$special" -gt 0 || status=1
exit $status
