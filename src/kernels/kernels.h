/* The compute kernels: one prototype an operation, a table filled at start-up, and the list in kernels.def that
 * dispatch and tests both read. A kernel works on whole groups in caller's buffers, allocates nothing, and is
 * bit for bit equal to its scalar reference in ref/, which is the specification. Formulas: docs/numerics.md. */
#ifndef MLXQ_KERNELS_KERNELS_H
#define MLXQ_KERNELS_KERNELS_H

#include <mlxq/dtype.h>
#include <mlxq/scheme.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Formats are what differs in code; group size, dtype and profile are arguments. */
typedef enum mlxq_format {
  MLXQ_FORMAT_AFFINE2,
  MLXQ_FORMAT_AFFINE3,
  MLXQ_FORMAT_AFFINE4,
  MLXQ_FORMAT_AFFINE5,
  MLXQ_FORMAT_AFFINE6,
  MLXQ_FORMAT_AFFINE8,
  MLXQ_FORMAT_MXFP4,
  MLXQ_FORMAT_MXFP8,
  MLXQ_FORMAT_NVFP4,
  MLXQ_FORMAT_COUNT
} mlxq_format;

/* The format of a scheme that mlxq_scheme_check has accepted. */
mlxq_format mlxq_format_of(const mlxq_scheme *scheme);

typedef struct mlxq_kernel_args {
  mlxq_profile profile;
  mlxq_dtype dtype; /* F16, BF16 or F32: of the dense elements, and of scales and biases for affine */
  size_t group_size;
  size_t groups;
} mlxq_kernel_args;

/* No bad element: what a quantize kernel returns when every element was finite. */
#define MLXQ_ALL_FINITE SIZE_MAX

/* Quantizes `groups` groups. Reads groups * group_size elements of `dense`; writes group_size * bits / 8 bytes a group
 * to `packed`, a scale and (affine) a bias a group. A group that holds a NaN or an infinity gets codes 0 and a NaN
 * scale (and bias): quiet NaN 0x7FC00000 rounded to dtype (0x7FC0, 0x7E00), 255 (mx) or 0x7F (nvfp4). Returns the index
 * of the first such element, or MLXQ_ALL_FINITE. Buffers are aligned to their element only. */
typedef size_t (*mlxq_quantize_fn)(const mlxq_kernel_args *args, const void *dense, void *packed, void *scales,
                                   void *biases);

/* The inverse. `scales` and `biases` of affine are of `dtype`. Of a group whose scale or bias is not finite every NaN
 * is 0x7FC00000 rounded to dtype. */
typedef void (*mlxq_dequantize_fn)(const mlxq_kernel_args *args, const void *packed, const void *scales,
                                   const void *biases, void *dense);

/* Converts `elems` elements from `from` (F16, BF16, F32, F64) to `to` (F16, BF16, F32), round to nearest even; F64 by
 * way of float32. A NaN stays a NaN. Buffers do not overlap. */
typedef void (*mlxq_cast_fn)(mlxq_dtype from, mlxq_dtype to, const void *source, void *result, size_t elems);

/* Transposes a matrix of `rows` x `columns` elements of 1, 2 or 4 bytes. Buffers do not overlap. */
typedef void (*mlxq_transpose_fn)(size_t elem_bytes, const void *matrix, size_t rows, size_t columns, void *result);

/* A part of a matrix in F8_E4M3 whose blocks have a scale each. */
typedef struct mlxq_block_args {
  size_t rows, columns;             /* of the part */
  uint64_t first_row, first_column; /* of the part, in the matrix */
  size_t block_rows, block_columns;
  size_t scale_columns; /* scales in a row of blocks */
} mlxq_block_args;

/* BF16(value * scale) for each element, the product in float32 (docs/formats.md). `scales` are those of the whole
 * matrix; where one is not finite every NaN is 0x7FC0. */
typedef void (*mlxq_fp8_fn)(const mlxq_block_args *args, const uint8_t *codes, const float *scales, void *dense);

/* Repacks AutoAWQ GEMM codes: `rows` (inputs, a multiple of 8) x `words` words of 8 outputs each become MLX's packed
 * rows, 8 * words of them with rows / 8 words each (docs/formats.md). */
typedef void (*mlxq_repack_awq_fn)(const uint32_t *stored, size_t rows, size_t words, void *packed);

typedef struct mlxq_kernel_table {
  mlxq_quantize_fn quantize[MLXQ_FORMAT_COUNT];
  mlxq_dequantize_fn dequantize[MLXQ_FORMAT_COUNT];
  mlxq_cast_fn cast;
  mlxq_transpose_fn transpose;
  mlxq_fp8_fn fp8;
  mlxq_repack_awq_fn repack_awq;
} mlxq_kernel_table;

/* Instruction sets, lowest first. A level is usable where the processor and the operating system both say so. */
typedef enum mlxq_isa { MLXQ_ISA_REF, MLXQ_ISA_AVX2, MLXQ_ISA_AVX512, MLXQ_ISA_NEON, MLXQ_ISA_COUNT } mlxq_isa;

/* "ref", "avx2", "avx512", "neon", ...; constant. Every build knows all names. */
const char *mlxq_isa_name(mlxq_isa isa);

/* Whether this machine can run the kernels of an ISA. Constant, thread-safe. */
bool mlxq_isa_usable(mlxq_isa isa);

/* The table of the best usable kernels up to `limit`. Constant, thread-safe. */
const mlxq_kernel_table *mlxq_kernels(mlxq_isa limit);

#endif
