/* Affine quantization, 2 to 8 bits: "affine" in docs/numerics.md. */
#include "kernels/kernel_list.h"
#include "kernels/ref/floats.h"
#include "kernels/ref/group.h"

#include <math.h>

#define QUIET_NAN mlxq_f32_from_bits(0x7FC00000u)

/* The float32 scale and bias of a group with these extremes. */
static void fit(mlxq_profile profile, float lo, float hi, float n, float *scale, float *bias) {
  if (profile == MLXQ_PROFILE_GPU) hi = fmaxf(hi, 0.0f);
  bool side = fabsf(lo) > fabsf(hi);
  float s = fmaxf((hi - lo) / n, 1e-7f);
  s = side ? s : -s;
  float edge = side ? lo : hi;
  float q0 = profile == MLXQ_PROFILE_GPU ? roundf(edge / s) : rintf(edge / s);
  *scale = q0 != 0 ? edge / q0 : s;
  *bias = q0 != 0 ? edge : 0.0f;
}

/* Codes of a group. Clamping first makes the rounding simple, and changes nothing: 0 and n are integers. A group of
 * one value beyond 3.4e31 has s = 0 and (w - b) / s = NaN; as in MLX's code, the order of the clamps makes that 0 (cpu)
 * or n (gpu). */
static void encode(mlxq_profile profile, uint8_t *restrict codes, const float *restrict w, size_t count, float s,
                   float b, float n) {
  if (profile == MLXQ_PROFILE_CPU) {
    for (size_t i = 0; i < count; i++) {
      float x = (w[i] - b) / s;
      x = x > 0.0f ? x : 0.0f;
      x = x < n ? x : n;
      codes[i] = (uint8_t)mlxq_f32_bits(x + 0x1p23f); /* half to even: one unit of 2^23 is 1 */
    }
  } else {
    for (size_t i = 0; i < count; i++) {
      float x = (w[i] - b) / s;
      x = x < n ? x : n;
      x = x > 0.0f ? x : 0.0f;
      int32_t whole = (int32_t)x;
      codes[i] = (uint8_t)(whole + (x - (float)whole >= 0.5f)); /* half away from zero */
    }
  }
}

static size_t quantize(unsigned bits, const mlxq_kernel_args *args, const void *dense, uint8_t *packed, void *scales,
                       void *biases) {
  const size_t size = args->group_size;
  const float n = (float)((1u << bits) - 1);
  size_t first_bad = MLXQ_ALL_FINITE;
  for (size_t group = 0; group < args->groups; group++) {
    float w[MLXQ_REF_GROUP_MAX], lo, hi, scale = QUIET_NAN, bias = QUIET_NAN;
    uint8_t codes[MLXQ_REF_GROUP_MAX] = {0};
    mlxq_ref_load(w, args->dtype, dense, group * size, size);
    if (mlxq_ref_range(w, size, &lo, &hi)) {
      fit(args->profile, lo, hi, n, &scale, &bias);
      encode(args->profile, codes, w, size, scale, bias, n);
    } else if (first_bad == MLXQ_ALL_FINITE) {
      first_bad = group * size + mlxq_ref_first_nonfinite(w, size);
    }
    mlxq_ref_pack(bits, packed + group * (size * bits / 8), codes, size);
    mlxq_ref_store(args->dtype, scales, group, &scale, 1);
    mlxq_ref_store(args->dtype, biases, group, &bias, 1);
  }
  return first_bad;
}

static void dequantize(unsigned bits, const mlxq_kernel_args *args, const uint8_t *packed, const void *scales,
                       const void *biases, void *dense) {
  const size_t size = args->group_size;
  for (size_t group = 0; group < args->groups; group++) {
    float w[MLXQ_REF_GROUP_MAX], scale, bias;
    uint8_t codes[MLXQ_REF_GROUP_MAX];
    mlxq_ref_load(&scale, args->dtype, scales, group, 1);
    mlxq_ref_load(&bias, args->dtype, biases, group, 1);
    mlxq_ref_unpack(bits, codes, packed + group * (size * bits / 8), size);
    if (args->profile == MLXQ_PROFILE_CPU) {
      for (size_t i = 0; i < size; i++) w[i] = (float)codes[i] * scale;
      mlxq_ref_round(args->dtype, w, size);
      for (size_t i = 0; i < size; i++) w[i] += bias;
    } else {
      for (size_t i = 0; i < size; i++) w[i] = fmaf((float)codes[i], scale, bias);
    }
    if (!mlxq_f32_is_finite(scale) || !mlxq_f32_is_finite(bias)) {
      for (size_t i = 0; i < size; i++) w[i] = mlxq_one_nan(w[i]);
    }
    mlxq_ref_store(args->dtype, dense, group * size, w, size);
  }
}

#define QUANTIZE(bits)   quantize(bits, args, dense, packed, scales, biases)
#define DEQUANTIZE(bits) dequantize(bits, args, packed, scales, biases, dense)
MLXQ_DEFINE_AFFINE(ref, QUANTIZE, DEQUANTIZE)
