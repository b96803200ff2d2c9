/* The small float formats as bits, one function a conversion (docs/numerics.md). All of them are exact or round to
 * nearest, ties to even, subnormals included; a NaN stays a NaN, quiet, with its sign and what fits of its payload
 * (as F16C converts it). There are no branches, so that loops over these vectorise.
 * Every float operation is float32 in the default rounding mode, with no contraction and no flush to zero. */
#ifndef MLXQ_KERNELS_REF_FLOATS_H
#define MLXQ_KERNELS_REF_FLOATS_H

#include <float.h>
#include <stdint.h>
#include <string.h>

#if FLT_EVAL_METHOD != 0 || defined(__FAST_MATH__)
#error "the kernels need float arithmetic in float32, as written"
#endif
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the kernels read and write little-endian tensors in place"
#endif

static inline uint32_t mlxq_f32_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

static inline float mlxq_f32_from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

static inline uint32_t mlxq_pick(int condition, uint32_t yes, uint32_t no) {
  uint32_t mask = 0u - (uint32_t)condition;
  return (yes & mask) | (no & ~mask);
}

/* |x| as bits: ordered as the magnitudes are, infinity 0x7F800000, every NaN above it. */
static inline uint32_t mlxq_f32_magnitude(float x) {
  return mlxq_f32_bits(x) & 0x7FFFFFFFu;
}

static inline int mlxq_f32_is_finite(float x) {
  return mlxq_f32_magnitude(x) < 0x7F800000u;
}

/* One NaN for all: which sign and payload arithmetic gives a NaN is up to the processor and the compiler. */
static inline float mlxq_one_nan(float x) {
  return mlxq_f32_from_bits(mlxq_pick(mlxq_f32_magnitude(x) > 0x7F800000u, 0x7FC00000u, mlxq_f32_bits(x)));
}

static inline float mlxq_bf16_to_f32(uint16_t h) {
  return mlxq_f32_from_bits((uint32_t)h << 16);
}

static inline uint16_t mlxq_f32_to_bf16(float x) {
  uint32_t bits = mlxq_f32_bits(x);
  uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  uint32_t nan = (bits >> 16) | 0x40u;
  return (uint16_t)mlxq_pick(mlxq_f32_magnitude(x) > 0x7F800000u, nan, rounded);
}

static inline float mlxq_f16_to_f32(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000u) << 16, magnitude = h & 0x7FFFu;
  uint32_t normal = (magnitude << 13) + (112u << 23); /* the exponent's bias goes from 15 to 127 */
  uint32_t subnormal = mlxq_f32_bits((float)(int32_t)magnitude * 0x1p-24f);
  uint32_t special = (magnitude << 13) | mlxq_pick(magnitude > 0x7C00u, 0x7FC00000u, 0x7F800000u);
  uint32_t finite = mlxq_pick(magnitude < 0x400u, subnormal, normal);
  return mlxq_f32_from_bits(sign | mlxq_pick(magnitude < 0x7C00u, finite, special));
}

static inline uint16_t mlxq_f32_to_f16(float x) {
  uint32_t sign = (mlxq_f32_bits(x) >> 16) & 0x8000u, magnitude = mlxq_f32_magnitude(x);
  uint32_t normal = (magnitude - (112u << 23) + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
  /* One unit of 0.5f is the smallest float16, so that the sum rounds where float16 does. */
  uint32_t subnormal = mlxq_f32_bits(mlxq_f32_from_bits(magnitude) + 0.5f) - mlxq_f32_bits(0.5f);
  uint32_t nan = 0x7E00u | ((magnitude >> 13) & 0x3FFu);
  uint32_t finite = mlxq_pick(magnitude < 0x38800000u, subnormal, normal);
  uint32_t special = mlxq_pick(magnitude > 0x7F800000u, nan, 0x7C00u);
  return (uint16_t)(sign | mlxq_pick(magnitude < 0x477FF000u, finite, special)); /* 65520 and above: infinity */
}

/* E4M3 with the sign kept, saturating at 448 (0x7E); x is not NaN. */
static inline uint8_t mlxq_f32_to_e4m3(float x) {
  uint32_t sign = (mlxq_f32_bits(x) >> 24) & 0x80u, magnitude = mlxq_f32_magnitude(x);
  uint32_t normal = (magnitude - (120u << 23) + 0x7FFFFu + ((magnitude >> 20) & 1u)) >> 20;
  /* One unit of 16384 is the smallest E4M3. */
  uint32_t subnormal = mlxq_f32_bits(mlxq_f32_from_bits(magnitude) + 16384.0f) - mlxq_f32_bits(16384.0f);
  uint32_t finite = mlxq_pick(magnitude < 0x3C800000u, subnormal, normal);
  return (uint8_t)(sign | mlxq_pick(magnitude < 0x43E00000u, finite, 0x7Eu));
}

static inline float mlxq_e4m3_to_f32(uint8_t code) {
  uint32_t sign = (uint32_t)(code & 0x80u) << 24, magnitude = code & 0x7Fu;
  uint32_t normal = (magnitude << 20) + (120u << 23);
  uint32_t subnormal = mlxq_f32_bits((float)(int32_t)magnitude * 0x1p-9f);
  uint32_t finite = mlxq_pick(magnitude < 8u, subnormal, normal);
  return mlxq_f32_from_bits(sign | mlxq_pick(magnitude < 0x7Fu, finite, 0x7FC00000u));
}

/* E8M0: the smallest power of two >= x, at least 2^-127 (byte 0), for 0 <= x <= 2^127. */
static inline uint8_t mlxq_f32_to_e8m0(float x) {
  uint32_t bits = mlxq_f32_bits(x);
  return (uint8_t)(bits <= 0x400000u ? 0u : (bits + 0x7FFFFFu) >> 23);
}

/* 2^(code - 127); 255 is infinity. */
static inline float mlxq_e8m0_to_f32(uint8_t code) {
  return mlxq_f32_from_bits(code == 0 ? 0x400000u : (uint32_t)code << 23);
}

#endif
