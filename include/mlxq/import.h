/* Weights that other tools have quantized, turned into MLX's without loss. */
#ifndef MLXQ_IMPORT_H
#define MLXQ_IMPORT_H

#include <mlxq/scheme.h>
#include <mlxq/transform.h>
#include <mlxq/weights.h>

/* How AutoAWQ packed the weights: its `quantization_config`. Start from MLXQ_AWQ_OPTIONS_INIT. */
typedef struct mlxq_awq_options {
  uint32_t struct_version; /* MLXQ_AWQ_OPTIONS_VERSION; another is MLXQ_USAGE */
  int64_t bits;            /* 4 */
  int64_t group_size;      /* inputs that share a scale; -1: as the scales' shape says */
  bool zero_point;         /* false: `.qzeros` are checked and dropped, the zero point is 8 */
  const char *version;     /* "", "gemm", "gemv" or "gemv_fast", in any case; NULL is "" */
} mlxq_awq_options;

#define MLXQ_AWQ_OPTIONS_VERSION 1u
#define MLXQ_AWQ_OPTIONS_INIT \
  { MLXQ_AWQ_OPTIONS_VERSION, 4, 128, true, "" }

/* Unpacks AutoAWQ GEMM's `.qweight` or `.qzeros`: a U32 or I32 tensor [rows, columns] with data becomes uint32 codes
 * 0 to 15, [rows, 8 * columns] in natural order. The codes of column 8 c + j are at bits 4 * [0, 4, 1, 5, 2, 6, 3,
 * 7][j] of word c (AutoAWQ, awq/utils/packing_utils.py). `*codes` belongs to the caller, who releases it with
 * mlxq_free; `shape` gets its two dimensions. Errors: MLXQ_RANK_MISMATCH, MLXQ_UNSUPPORTED_DTYPE, MLXQ_OVERFLOW,
 * MLXQ_NO_MEMORY. Thread-safe. */
MLXQ_API mlxq_status mlxq_unpack_awq(uint32_t **codes, uint64_t shape[2], const mlxq_tensor *packed, mlxq_error *error);

/* Replaces every `P.qweight` (GEMM: [in, out / 8]) with its `.scales` and `.qzeros` by the affine triple `P.weight`,
 * `P.scales`, `P.biases` ([out, ...]) of the same values: (q - z) * s is s * q + b with b = -(z * s), a float32 product
 * rounded to the dtype of the layer's scales. All scales and biases then take one dtype, the widest there is (float16
 * beside bfloat16 alone: float32). Everything else passes through as it is. `*config` is one affine scheme for all,
 * with layers of their own only where a group of -1 makes them differ; groups above 128 are split.
 *
 * `in` is only read; on success the caller owns `*out` and `*config`; on failure both are NULL. Checks and errors,
 * in this order:
 *   another version                                   MLXQ_UNKNOWN_VALUE
 *   other bits than 4, a group size beyond 31 bits    MLXQ_OUT_OF_RANGE
 *   any `.g_idx`                                      MLXQ_INVARIANT
 *   `.scales` that are not floating                   MLXQ_UNSUPPORTED_DTYPE, layer P.scales
 *   `.scales` missing                                 MLXQ_MISSING_KEY
 * then for each P, sorted:
 *   `.weight` or `.biases` beside `.qweight`          MLXQ_KEY_COLLISION
 *   `.qweight` not U32 or I32 (gemv_fast: I16)        MLXQ_UNSUPPORTED_DTYPE
 *   `.qweight` or `.scales` not of two dimensions     MLXQ_RANK_MISMATCH
 *   out does not fit 63 bits                          MLXQ_OVERFLOW
 *   a group size of 0                                 MLXQ_OUT_OF_RANGE
 *   in no multiple of the group size, or of 8         MLXQ_NOT_DIVISIBLE
 *   `.scales` of another shape                        MLXQ_SHAPE_MISMATCH, layer P
 *   `.qzeros` of another dtype or shape               MLXQ_UNSUPPORTED_DTYPE, MLXQ_SHAPE_MISMATCH
 *   a group that no MLX group divides (16)            MLXQ_OUT_OF_RANGE
 * `transform` may be NULL; of it the threads count. Thread-safe. */
MLXQ_API mlxq_status mlxq_import_awq(mlxq_weights **out, mlxq_quant_config **config, const mlxq_weights *in,
                                     const mlxq_awq_options *options, const mlxq_transform_options *transform,
                                     mlxq_error *error);

#endif
