/* Quantizing and dequantizing in memory: one array, or a whole map of weights. */
#ifndef MLXQ_TRANSFORM_H
#define MLXQ_TRANSFORM_H

#include <mlxq/scheme.h>
#include <mlxq/weights.h>

/* ---- One array -------------------------------------------------------------------------------------------------
 * The caller owns every buffer. Leading dimensions need not be told: a group never crosses a row as long as the last
 * axis is a multiple of the group size, so an array is `elems` elements, rows one after the other.
 * Buffers must be aligned to their element; inputs and outputs must not overlap. All of these are thread-safe. */

/* Bytes of the three results of `elems` elements of `dtype` under a scheme: packed codes (uint32 words), scales, and
 * biases (0 for the scale-only modes). MLXQ_OUT_OF_RANGE for a scheme MLX lacks, MLXQ_NOT_DIVISIBLE where the group
 * size does not divide `elems`, MLXQ_UNSUPPORTED_DTYPE unless F16, BF16 or F32. */
MLXQ_API mlxq_status mlxq_quantized_bytes(uint64_t *packed, uint64_t *scales, uint64_t *biases,
                                          const mlxq_scheme *scheme, mlxq_dtype dtype, uint64_t elems,
                                          mlxq_error *error);

/* Quantizes `elems` elements of `dtype` (F16, BF16 or F32) as mx.quantize does. `packed` takes elems * bits / 32
 * uint32 words; `scales` elems / group_size scales, of `dtype` for affine, else uint8; `biases` as many biases of
 * `dtype` for affine, and is ignored (may be NULL) otherwise. MLXQ_NON_FINITE, with the index of the first NaN or
 * infinity in the message, unless `allow_nonfinite`: then each such group gets codes 0 and a NaN scale. On failure
 * the buffers hold unspecified bytes. Other errors as mlxq_quantized_bytes. */
MLXQ_API mlxq_status mlxq_quantize_array(void *packed, void *scales, void *biases, const void *weight, mlxq_dtype dtype,
                                         uint64_t elems, const mlxq_scheme *scheme, mlxq_profile profile,
                                         bool allow_nonfinite, mlxq_error *error);

/* Dequantizes to `elems` elements of `dtype` (F16, BF16 or F32) as mx.dequantize does. For affine, scales and biases
 * are of `dtype`; for the other modes scales are uint8 and `biases` is ignored. Errors as mlxq_quantized_bytes. */
MLXQ_API mlxq_status mlxq_dequantize_array(void *weight, mlxq_dtype dtype, uint64_t elems, const void *packed,
                                           const void *scales, const void *biases, const mlxq_scheme *scheme,
                                           mlxq_profile profile, mlxq_error *error);

/* ---- A map of weights ------------------------------------------------------------------------------------------ */

/* Options of the two calls below. Start from MLXQ_TRANSFORM_OPTIONS_INIT. */
typedef struct mlxq_transform_options {
  uint32_t version; /* MLXQ_TRANSFORM_OPTIONS_VERSION; another is MLXQ_USAGE */
  mlxq_profile profile;
  unsigned threads;     /* workers; 0 means one for each processor */
  bool allow_nonfinite; /* quantize: see mlxq_quantize_array */
  mlxq_dtype dtype;     /* dequantize: the result's dtype in the scale-only modes */
} mlxq_transform_options;

#define MLXQ_TRANSFORM_OPTIONS_VERSION 1u
#define MLXQ_TRANSFORM_OPTIONS_INIT \
  { MLXQ_TRANSFORM_OPTIONS_VERSION, MLXQ_PROFILE_CPU, 0, false, MLXQ_BF16 }

/* Says whether the dense weight of a layer may be quantized. Called on the calling thread, in order. */
typedef bool (*mlxq_eligible_fn)(void *user, const char *layer, const mlxq_tensor *weight);

/* Quantizes every dense `P.weight` that `eligible` (NULL: all) accepts, that the configuration has a scheme for, that
 * has two or more dimensions and a last axis its group size divides; everything else passes through. The triple of
 * a layer that is quantized already is checked and passes through untouched.
 *
 * On success the caller owns `*out`, which copies what it holds. `*out` is in the order of `in`, the scales and biases
 * of a layer after its weight. On failure `*out` is NULL and the error is that of the first layer in order. For each
 * `P.weight`, in this order:
 *   `.biases` without `.scales`                          MLXQ_MISSING_KEY, key P.scales
 *   `.scales` on a layer the configuration skips         MLXQ_KEY_COLLISION, key P.scales
 *   `.scales` and no scheme                              MLXQ_INVARIANT
 *   affine without `.biases`                             MLXQ_MISSING_KEY, key P.biases
 *   a scale-only mode with `.biases`                     MLXQ_KEY_COLLISION, key P.biases
 *   `.scales` beside a `.weight` that is not uint32      MLXQ_UNSUPPORTED_DTYPE
 *   ... of fewer than two dimensions                     MLXQ_RANK_MISMATCH
 *   ... whose rank is not that of `.scales`              MLXQ_LENGTH_MISMATCH
 *   ... whose leading dimensions are not its             MLXQ_SHAPE_MISMATCH
 *   dense, eligible: a negative group size, or a scheme MLX lacks  MLXQ_OUT_OF_RANGE
 *   ... a weight that is not F16, BF16 or F32            MLXQ_UNSUPPORTED_DTYPE
 * and a NaN or infinity is MLXQ_NON_FINITE. `options` may be NULL. Thread-safe. */
MLXQ_API mlxq_status mlxq_quantize_weights(mlxq_weights **out, const mlxq_weights *in, const mlxq_quant_config *config,
                                           mlxq_eligible_fn eligible, void *user, const mlxq_transform_options *options,
                                           mlxq_error *error);

/* Replaces every triple by one dense `P.weight`; everything else passes through, `.scales` without a `.weight` too.
 * The result's dtype is that of the scales for affine, else `options->dtype`. Ownership and order as above. For each
 * layer:
 *   `.biases` without `.scales` beside a uint32 `.weight` of two or more dimensions   MLXQ_MISSING_KEY, key P.scales
 *   no scheme, or a layer the configuration skips                       MLXQ_INVARIANT
 *   affine without `.biases`                                            MLXQ_MISSING_KEY, key P.biases
 *   a scale-only mode with `.biases`                                    MLXQ_KEY_COLLISION, key P.biases
 *   a scheme MLX lacks                                                  MLXQ_OUT_OF_RANGE
 *   `.weight` not uint32                                                MLXQ_UNSUPPORTED_DTYPE
 *   `.weight` of fewer than two dimensions                              MLXQ_RANK_MISMATCH
 *   scales or biases of another rank                                    MLXQ_LENGTH_MISMATCH
 *   other leading dimensions, or a last axis that does not fit          MLXQ_SHAPE_MISMATCH
 *   scales not uint8 (scale-only) or not F16, BF16 or F32 (affine), biases of another dtype
 *                                                                       MLXQ_UNSUPPORTED_DTYPE */
MLXQ_API mlxq_status mlxq_dequantize_weights(mlxq_weights **out, const mlxq_weights *in,
                                             const mlxq_quant_config *config, const mlxq_transform_options *options,
                                             mlxq_error *error);

#endif
