#!/bin/sh
# gcc's analyzer over the library and the command; fails on any warning. Left out are the kernels of one instruction
# set: straight code on buffers of the caller's, which nothing allocates or owns, whose unrolled loops cost it gigabytes.
set -eu
cd "$(dirname "$0")/.."
flags="-fanalyzer -Werror -DMLXQ_ANALYZER -DMLXQ_BUILDING -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -std=c17 -Iinclude -Isrc"
flags="$flags -DMLXQ_SOURCES_DIGEST=\"\" $(pkg-config --cflags json-c) -c -o /dev/null"
# gcc 12 loses sight of a number that memcpy has filled once it is copied on to a place that varies.
blind=src/kernels/ref/group.c
# shellcheck disable=SC2086  # a list of words
find src cli -name '*.c' ! -path 'src/kernels/x86/*' ! -path 'src/kernels/arm/*' ! -path $blind -print0 |
  xargs -0 -P "$(nproc)" -n 1 gcc $flags
# shellcheck disable=SC2086
gcc $flags -Wno-analyzer-use-of-uninitialized-value $blind
