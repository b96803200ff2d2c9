/* The formats whose groups have a scale of one byte: "mxfp4, mxfp8, nvfp4" in docs/numerics.md. */
#include "kernels/kernel_list.h"
#include "kernels/ref/floats.h"
#include "kernels/ref/group.h"

#include <math.h>

typedef struct micro_format {
  unsigned bits; /* 4: E2M1 codes; 8: E4M3 codes */
  float largest; /* value of a code */
  bool e8m0;     /* the scale is a power of two; else it is an E4M3 */
} micro_format;

static const micro_format MXFP4 = {4, 6.0f, true};
static const micro_format MXFP8 = {8, 448.0f, true};
static const micro_format NVFP4 = {4, 6.0f, false};

static const float E2M1[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                               -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

static float decode_scale(const micro_format *format, uint8_t byte) {
  return format->e8m0 ? mlxq_e8m0_to_f32(byte) : mlxq_e4m3_to_f32(byte);
}

static void encode_e4m3(uint8_t *restrict codes, const float *restrict q, size_t count) {
  for (size_t i = 0; i < count; i++) codes[i] = mlxq_f32_to_e4m3(q[i]);
}

/* The gpu profile's E2M1: ties to the even code, the sign always kept. */
static void encode_e2m1_gpu(uint8_t *restrict codes, const float *restrict q, size_t count) {
  for (size_t i = 0; i < count; i++) {
    float x = fabsf(q[i]);
    int code = (x > 0.25f) + (x >= 0.75f) + (x > 1.25f) + (x >= 1.75f) + (x > 2.5f) + (x >= 3.5f) + (x > 5.0f);
    codes[i] = (uint8_t)((uint32_t)code | (mlxq_f32_bits(q[i]) >> 28 & 8u));
  }
}

/* The cpu profile's E2M1: the lowest code i of the smallest |q - E2M1[i]|. As long as |q| <= 2^24 that is the nearest
 * value, ties to the smaller magnitude, 0 for -0: the smallest distance is exact, also where distances are rounded to
 * the dtype (mxfp4), and a larger one never rounds to it. Beyond 2^24 (`huge`, nvfp4 alone) several distances do. */
static void encode_e2m1_cpu(uint8_t *restrict codes, const float *restrict q, size_t count, bool huge) {
  for (size_t i = 0; i < count; i++) {
    float x = fabsf(q[i]);
    int code = (x > 0.25f) + (x > 0.75f) + (x > 1.25f) + (x > 1.75f) + (x > 2.5f) + (x > 3.5f) + (x > 5.0f);
    codes[i] = (uint8_t)((uint32_t)code | (code != 0 ? mlxq_f32_bits(q[i]) >> 28 & 8u : 0u));
  }
  for (size_t i = 0; huge && i < count; i++) {
    float smallest = INFINITY;
    for (uint8_t code = 0; code < 16; code++) {
      float distance = fabsf(q[i] - E2M1[code]);
      if (distance < smallest) {
        smallest = distance;
        codes[i] = code;
      }
    }
  }
}

/* Codes of a finite group whose largest magnitude is `amax`; returns the scale byte. */
static uint8_t encode_gpu(const micro_format *format, uint8_t *codes, const float *w, size_t count, float amax) {
  float s = amax / format->largest;
  uint8_t byte = format->e8m0 ? mlxq_f32_to_e8m0(s) : mlxq_f32_to_e4m3(s);
  float decoded = decode_scale(format, byte);
  if (decoded == 0.0f) { /* nvfp4: w * (1 / 0) is infinite, or NaN for a zero; that is 7. An all-zero group: code 0 */
    for (size_t i = 0; i < count; i++) codes[i] = amax == 0.0f ? 0 : w[i] < 0.0f ? 15 : 7;
    return byte;
  }
  float q[MLXQ_REF_GROUP_MAX], inverse = 1.0f / decoded;
  for (size_t i = 0; i < count; i++) q[i] = w[i] * inverse;
  if (format->bits == 8) {
    encode_e4m3(codes, q, count);
  } else {
    encode_e2m1_gpu(codes, q, count);
  }
  return byte;
}

/* The same, every step rounded to the dtype. */
static uint8_t encode_cpu(const micro_format *format, mlxq_dtype dtype, uint8_t *codes, const float *w, size_t count,
                          float amax) {
  float s = amax / format->largest; /* 6 and 448 are exact in every dtype */
  mlxq_ref_round(dtype, &s, 1);
  uint8_t byte;
  if (!format->e8m0) {
    byte = mlxq_f32_to_e4m3(s);
  } else if (s == 0.0f) {
    byte = 127;
  } else if (s > 0x1p-128f) {
    byte = mlxq_f32_to_e8m0(s);
  } else { /* MLX's byte wraps around here */
    return encode_gpu(format, codes, w, count, amax);
  }
  float decoded = decode_scale(format, byte); /* exact in the dtype */
  if (decoded == 0.0f) {
    memset(codes, 0, count);
    return byte;
  }
  float q[MLXQ_REF_GROUP_MAX];
  for (size_t i = 0; i < count; i++) q[i] = w[i] / decoded;
  mlxq_ref_round(dtype, q, count);
  if (format->bits == 8) {
    encode_e4m3(codes, q, count);
  } else {
    encode_e2m1_cpu(codes, q, count, amax / decoded > 0x1p24f);
  }
  return byte;
}

static size_t quantize(const micro_format *format, const mlxq_kernel_args *args, const void *dense, uint8_t *packed,
                       uint8_t *scales) {
  const size_t size = args->group_size;
  size_t first_bad = MLXQ_ALL_FINITE;
  for (size_t group = 0; group < args->groups; group++) {
    float w[MLXQ_REF_GROUP_MAX], amax;
    uint8_t codes[MLXQ_REF_GROUP_MAX];
    mlxq_ref_load(w, args->dtype, dense, group * size, size);
    if (!mlxq_ref_largest(w, size, &amax)) {
      if (first_bad == MLXQ_ALL_FINITE) first_bad = group * size + mlxq_ref_first_nonfinite(w, size);
      memset(codes, 0, size);
      scales[group] = format->e8m0 ? 0xFF : 0x7F;
    } else if (args->profile == MLXQ_PROFILE_CPU) {
      scales[group] = encode_cpu(format, args->dtype, codes, w, size, amax);
    } else {
      scales[group] = encode_gpu(format, codes, w, size, amax);
    }
    mlxq_ref_pack(format->bits, packed + group * (size * format->bits / 8), codes, size);
  }
  return first_bad;
}

static void dequantize(const micro_format *format, const mlxq_kernel_args *args, const uint8_t *packed,
                       const uint8_t *scales, void *dense) {
  const size_t size = args->group_size;
  for (size_t group = 0; group < args->groups; group++) {
    float w[MLXQ_REF_GROUP_MAX], scale = decode_scale(format, scales[group]);
    uint8_t codes[MLXQ_REF_GROUP_MAX];
    if (args->profile == MLXQ_PROFILE_CPU) mlxq_ref_round(args->dtype, &scale, 1);
    mlxq_ref_unpack(format->bits, codes, packed + group * (size * format->bits / 8), size);
    /* The value of a code is exact in every dtype. */
    if (format->bits == 8) {
      for (size_t i = 0; i < size; i++) w[i] = mlxq_e4m3_to_f32(codes[i]) * scale;
    } else {
      for (size_t i = 0; i < size; i++) w[i] = E2M1[codes[i]] * scale;
    }
    if (!mlxq_f32_is_finite(scale)) {
      for (size_t i = 0; i < size; i++) w[i] = mlxq_one_nan(w[i]);
    }
    mlxq_ref_store(args->dtype, dense, group * size, w, size);
  }
}

#define QUANTIZE(name, format)   quantize(&(format), args, dense, packed, scales)
#define DEQUANTIZE(name, format) dequantize(&(format), args, packed, scales, dense)
MLXQ_DEFINE_MICRO(ref, QUANTIZE, DEQUANTIZE)
