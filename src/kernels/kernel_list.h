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

/* Defines an ISA's kernels of affine, one a number of bits, and of the formats with a scale of one byte. `quantize` and
 * `dequantize` are macros of the bits (the format's lower-case and upper-case name): calls with the names above. */
#define MLXQ_DEFINE_AFFINE(isa, quantize, dequantize)   \
  MLXQ_DEFINE(affine2, isa, quantize(2), dequantize(2)) \
  MLXQ_DEFINE(affine3, isa, quantize(3), dequantize(3)) \
  MLXQ_DEFINE(affine4, isa, quantize(4), dequantize(4)) \
  MLXQ_DEFINE(affine5, isa, quantize(5), dequantize(5)) \
  MLXQ_DEFINE(affine6, isa, quantize(6), dequantize(6)) \
  MLXQ_DEFINE(affine8, isa, quantize(8), dequantize(8))

#define MLXQ_DEFINE_MICRO(isa, quantize, dequantize)                        \
  MLXQ_DEFINE(mxfp4, isa, quantize(mxfp4, MXFP4), dequantize(mxfp4, MXFP4)) \
  MLXQ_DEFINE(mxfp8, isa, quantize(mxfp8, MXFP8), dequantize(mxfp8, MXFP8)) \
  MLXQ_DEFINE(nvfp4, isa, quantize(nvfp4, NVFP4), dequantize(nvfp4, NVFP4))

#define MLXQ_DEFINE(name, isa, quantize, dequantize)                                                               \
  size_t mlxq_quantize_##name##_##isa(const mlxq_kernel_args *args, const void *dense, void *packed, void *scales, \
                                      void *biases) {                                                              \
    (void)biases;                                                                                                  \
    return quantize;                                                                                               \
  }                                                                                                                \
  void mlxq_dequantize_##name##_##isa(const mlxq_kernel_args *args, const void *packed, const void *scales,        \
                                      const void *biases, void *dense) {                                           \
    (void)biases;                                                                                                  \
    dequantize;                                                                                                    \
  }

#endif
