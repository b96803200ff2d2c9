/* Quantizing and dequantizing one array in memory. */
#include "base/error.h"
#include "kernels/kernels.h"

#include <inttypes.h>
#include <mlxq/transform.h>

mlxq_status mlxq_quantized_bytes(uint64_t *packed, uint64_t *scales, uint64_t *biases, const mlxq_scheme *scheme,
                                 mlxq_dtype dtype, uint64_t elems, mlxq_error *error) {
  mlxq_status status = mlxq_scheme_check(scheme, error);
  if (status != MLXQ_OK) return status;
  if (dtype != MLXQ_F16 && dtype != MLXQ_BF16 && dtype != MLXQ_F32) {
    return mlxq_fail(error, MLXQ_UNSUPPORTED_DTYPE, NULL, NULL, "%s is none of F16, BF16 and F32",
                     mlxq_dtype_name(dtype));
  }
  uint64_t group_size = (uint64_t)scheme->group_size;
  if (elems % group_size != 0) {
    return mlxq_fail(error, MLXQ_NOT_DIVISIBLE, NULL, NULL,
                     "%" PRIu64 " elements are no multiple of the group size %" PRIu64, elems, group_size);
  }
  bool affine = mlxq_mode_has_biases(scheme->mode);
  *packed = elems / 8 * (uint64_t)scheme->bits; /* no overflow: bits <= 8, and 8 divides every group size */
  *scales = elems / group_size * (affine ? mlxq_dtype_bits(dtype) / 8 : 1);
  *biases = affine ? *scales : 0;
  return MLXQ_OK;
}

/* What the kernels of a legal call get. */
static mlxq_status prepare(mlxq_kernel_args *args, const mlxq_scheme *scheme, mlxq_profile profile, mlxq_dtype dtype,
                           uint64_t elems, mlxq_error *error) {
  uint64_t packed, scales, biases;
  mlxq_status status = mlxq_quantized_bytes(&packed, &scales, &biases, scheme, dtype, elems, error);
  if (status != MLXQ_OK) return status;
  if (profile != MLXQ_PROFILE_CPU && profile != MLXQ_PROFILE_GPU) {
    return mlxq_fail(error, MLXQ_USAGE, NULL, "profile", "unknown profile %d", (int)profile);
  }
  args->profile = profile;
  args->dtype = dtype;
  args->group_size = (size_t)scheme->group_size;
  args->groups = (size_t)(elems / args->group_size);
  return MLXQ_OK;
}

mlxq_status mlxq_quantize_array(void *packed, void *scales, void *biases, const void *weight, mlxq_dtype dtype,
                                uint64_t elems, const mlxq_scheme *scheme, mlxq_profile profile, bool allow_nonfinite,
                                mlxq_error *error) {
  mlxq_kernel_args args;
  mlxq_status status = prepare(&args, scheme, profile, dtype, elems, error);
  if (status != MLXQ_OK) return status;
  mlxq_quantize_fn quantize = mlxq_kernels(MLXQ_ISA_COUNT - 1)->quantize[mlxq_format_of(scheme)];
  size_t bad = quantize(&args, weight, packed, scales, biases);
  if (bad != MLXQ_ALL_FINITE && !allow_nonfinite) {
    return mlxq_fail(error, MLXQ_NON_FINITE, NULL, NULL, "element %zu is NaN or infinite", bad);
  }
  return MLXQ_OK;
}

mlxq_status mlxq_dequantize_array(void *weight, mlxq_dtype dtype, uint64_t elems, const void *packed,
                                  const void *scales, const void *biases, const mlxq_scheme *scheme,
                                  mlxq_profile profile, mlxq_error *error) {
  mlxq_kernel_args args;
  mlxq_status status = prepare(&args, scheme, profile, dtype, elems, error);
  if (status != MLXQ_OK) return status;
  mlxq_kernels(MLXQ_ISA_COUNT - 1)->dequantize[mlxq_format_of(scheme)](&args, packed, scales, biases, weight);
  return MLXQ_OK;
}
