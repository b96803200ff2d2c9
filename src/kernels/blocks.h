/* What the vector kernels share that is no vector code: they go by blocks of groups, and leave what they do not do to
 * another kernel (`rest`): the last groups, and blocks that hold something rare. */
#ifndef MLXQ_KERNELS_BLOCKS_H
#define MLXQ_KERNELS_BLOCKS_H

#include "kernels/kernels.h"

#include <string.h>

/* Arguments such as bits, dtype and profile are constants once inlined: one loop a combination, no branch in it. */
#define INLINE static inline __attribute__((always_inline))

/* call(gpu, dtype), both constants, for the profile and dtype of `args`. */
#define FOR_DTYPE(args, gpu, call)                    \
  ((args)->dtype == MLXQ_BF16  ? call(gpu, MLXQ_BF16) \
   : (args)->dtype == MLXQ_F16 ? call(gpu, MLXQ_F16)  \
                               : call(gpu, MLXQ_F32))
#define SPECIALISE(args, call) \
  ((args)->profile == MLXQ_PROFILE_GPU ? FOR_DTYPE(args, true, call) : FOR_DTYPE(args, false, call))

INLINE size_t dtype_bytes(mlxq_dtype dtype) {
  return dtype == MLXQ_F32 ? 4 : 2;
}

/* A call's arguments, and the bytes that a group takes of each. */
typedef struct quantize_call {
  const mlxq_kernel_args *args;
  mlxq_quantize_fn rest;
  const uint8_t *dense;
  uint8_t *packed, *scales, *biases;
  size_t dense_bytes, packed_bytes, scale_bytes;
  size_t first_bad; /* the first non-finite element, or MLXQ_ALL_FINITE */
} quantize_call;

/* Of a call's arguments; `scale_bytes` of a group, `biases` NULL where the format has none. */
INLINE quantize_call new_call(mlxq_quantize_fn rest, const mlxq_kernel_args *args, unsigned bits, size_t scale_bytes,
                              const void *dense, void *packed, void *scales, void *biases) {
  return (quantize_call){.args = args,
                         .rest = rest,
                         .dense = dense,
                         .packed = packed,
                         .scales = scales,
                         .biases = biases,
                         .dense_bytes = args->group_size * dtype_bytes(args->dtype),
                         .packed_bytes = args->group_size / 8 * bits,
                         .scale_bytes = scale_bytes,
                         .first_bad = MLXQ_ALL_FINITE};
}

/* Groups first .. first + count by the other kernel; not inlined: what is rare should not crowd the loops. */
static __attribute__((noinline, unused)) void leave(quantize_call *call, size_t first, size_t count) {
  mlxq_kernel_args args = *call->args;
  args.groups = count;
  size_t bad = call->rest(&args, call->dense + first * call->dense_bytes, call->packed + first * call->packed_bytes,
                          call->scales + first * call->scale_bytes,
                          call->biases ? call->biases + first * call->scale_bytes : NULL);
  if (bad != MLXQ_ALL_FINITE && call->first_bad == MLXQ_ALL_FINITE) call->first_bad = first * args.group_size + bad;
}

#endif
