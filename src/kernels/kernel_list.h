/* The prototype of every kernel in kernels.def: for the files that define them, for dispatch, and for tests. */
#ifndef MLXQ_KERNELS_KERNEL_LIST_H
#define MLXQ_KERNELS_KERNEL_LIST_H

#include "kernels/kernels.h"

#define MLXQ_QUANTIZE(format, isa, function) \
  size_t function(const mlxq_kernel_args *args, const void *dense, void *packed, void *scales, void *biases);
#define MLXQ_DEQUANTIZE(format, isa, function) \
  void function(const mlxq_kernel_args *args, const void *packed, const void *scales, const void *biases, void *dense);
#define MLXQ_CAST(isa, function) \
  void function(mlxq_dtype from, mlxq_dtype to, const void *source, void *result, size_t elems);
#define MLXQ_TRANSPOSE(isa, function) \
  void function(size_t elem_bytes, const void *matrix, size_t rows, size_t columns, void *result);
#define MLXQ_FP8(isa, function) \
  void function(const mlxq_block_args *args, const uint8_t *codes, const float *scales, void *dense);
#define MLXQ_REPACK_AWQ(isa, function) void function(const uint32_t *stored, size_t rows, size_t words, void *packed);
#include "kernels/kernels.def"

#endif
