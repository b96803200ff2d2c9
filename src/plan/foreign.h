/* Layers that another tool has quantized: where their parts are stored, what they mean, and what they become. The
 * formats are in import_awq.c and import_gptq.c; docs/formats.md describes them byte by byte. */
#ifndef MLXQ_PLAN_FOREIGN_H
#define MLXQ_PLAN_FOREIGN_H

#include "tensor/tensor_map.h"

#include <mlxq/scheme.h>

typedef enum mlxq_packing {
  MLXQ_PACKING_AWQ_GEMM,
  MLXQ_PACKING_AWQ_GEMV,
  MLXQ_PACKING_AWQ_GEMV_FAST,
  MLXQ_PACKING_GPTQ,
} mlxq_packing;

/* What a stored zero point means. */
typedef enum mlxq_zero_rule {
  MLXQ_ZERO_MIDDLE,   /* none is stored, or all say so: 2^(bits - 1) */
  MLXQ_ZERO_STORED,   /* GPTQ v2, AWQ */
  MLXQ_ZERO_LESS_ONE, /* GPTQ v1: one less is stored */
  MLXQ_ZERO_WRAPPED,  /* the same, of a zero point of 0 all ones */
  MLXQ_ZERO_BORROWED, /* GPTQModel's v1: one was subtracted from each field, of whole words */
  MLXQ_ZERO_SCALED,   /* AWQ GEMV_fast: floats, -zero * scale */
} mlxq_zero_rule;

/* (code - zero) * scale, codes of `bits` bits, a zero and a scale for a group of inputs of each output. */
typedef struct mlxq_foreign_layer {
  mlxq_packing packing;
  mlxq_zero_rule zero_rule;
  uint32_t weight, scales, zeros, group_index; /* stored tensors; MLXQ_NO_TENSOR for the last two where unused */
  uint32_t bits;
  uint64_t outs, ins, groups;
  uint64_t group_ins;     /* inputs of a group; the last may have fewer */
  uint32_t repeat;        /* groups of the result for each stored one */
  mlxq_dtype round_dtype; /* of biases, before they are widened to `dtype` */
  mlxq_dtype dtype;       /* of the result's scales and biases */
  mlxq_scheme scheme;     /* of the result */
  bool widened;           /* codes of one more bit, shifted so that the zero point is 2^bits */
  bool requantized;       /* dequantized to `dtype`, then quantized */
} mlxq_foreign_layer;

/* Outputs that a unit of the layer's job makes: the fewest whose zero points are whole words. */
uint32_t mlxq_foreign_unit_outs(const mlxq_foreign_layer *layer);

/* Bytes of working memory that a unit needs beside inputs and outputs. */
uint64_t mlxq_foreign_scratch_bytes(const mlxq_foreign_layer *layer);

/* `count` zero points (whole words of them, except for GEMV) from one row of stored words. Not for scaled ones. */
void mlxq_foreign_unpack_zeros(const mlxq_foreign_layer *layer, const uint32_t *stored, size_t count, float *zeros);

#endif
