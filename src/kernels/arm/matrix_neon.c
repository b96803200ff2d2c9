/* Transposes, AutoAWQ's codes and FP8 blocks, for NEON; the rest is in matrix.h. */
#define LANES ((size_t)4)
#include "kernels/arm/neon.h"
#include "kernels/matrix.h"

/* Lanes of pairs of 64-bit halves, in vectors of words. */
INLINE uint32x4_t lower_pairs(uint32x4_t a, uint32x4_t b) {
  return vreinterpretq_u32_u64(vtrn1q_u64(vreinterpretq_u64_u32(a), vreinterpretq_u64_u32(b)));
}

INLINE uint32x4_t upper_pairs(uint32x4_t a, uint32x4_t b) {
  return vreinterpretq_u32_u64(vtrn2q_u64(vreinterpretq_u64_u32(a), vreinterpretq_u64_u32(b)));
}

INLINE void transpose_words(vector v[LANES]) {
  uint32x4x2_t low = vtrnq_u32((uint32x4_t)v[0], (uint32x4_t)v[1]);
  uint32x4x2_t high = vtrnq_u32((uint32x4_t)v[2], (uint32x4_t)v[3]);
  for (size_t i = 0; i < 2; i++) {
    v[i] = (vector)lower_pairs(low.val[i], high.val[i]);
    v[2 + i] = (vector)upper_pairs(low.val[i], high.val[i]);
  }
}

INLINE vector join_rows(const uint8_t *even, const uint8_t *odd) {
  uint16x4x2_t both = vzip_u16(vreinterpret_u16_u8(vld1_u8(even)), vreinterpret_u16_u8(vld1_u8(odd)));
  return (vector)vcombine_u16(both.val[0], both.val[1]);
}

/* As float16 with the same fields, codes are 2^-8 of what they stand for. */
INLINE void scale_codes(const uint8_t *codes, float scale, uint16_t *result) {
  const uint8x8_t x = vld1_u8(codes);
  uint16x8_t wide = vreinterpretq_u16_s16(vmovl_s8(vreinterpret_s8_u8(x)));
  uint16x8_t half = vandq_u16(vshlq_n_u16(wide, 7), vdupq_n_u16(0xBFFF));
  uint16x8_t is_nan = vceqq_u16(vandq_u16(wide, vdupq_n_u16(0x7F)), vdupq_n_u16(0x7F));
  half = veorq_u16(half, vandq_u16(is_nan, vdupq_n_u16(0x3F80 ^ 0x7E00)));
  float32x4x2_t value = widen8(MLXQ_F16, half);
  for (size_t i = 0; i < 2; i++) value.val[i] = vmulq_n_f32(vmulq_n_f32(value.val[i], 256.0f), scale);
  store8(MLXQ_BF16, (uint8_t *)result, value);
}

MLXQ_DEFINE_MATRIX(neon, ref)
