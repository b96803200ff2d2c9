/* Transposes, AutoAWQ's codes and FP8 blocks, for AVX-512; the rest is in matrix.h. */
#define LANES ((size_t)16)
#include "kernels/matrix.h"
#include "kernels/x86/avx512.h"

INLINE void transpose_words(vector v[LANES]) {
  __m512i a[16], b[16];
  for (size_t i = 0; i < 8; i++) {
    a[2 * i] = _mm512_unpacklo_epi32((__m512i)v[2 * i], (__m512i)v[2 * i + 1]);
    a[2 * i + 1] = _mm512_unpackhi_epi32((__m512i)v[2 * i], (__m512i)v[2 * i + 1]);
  }
  for (size_t i = 0; i < 4; i++) {
    for (size_t k = 0; k < 2; k++) {
      b[4 * i + 2 * k] = _mm512_unpacklo_epi64(a[4 * i + k], a[4 * i + 2 + k]);
      b[4 * i + 2 * k + 1] = _mm512_unpackhi_epi64(a[4 * i + k], a[4 * i + 2 + k]);
    }
  }
  for (size_t i = 0; i < 4; i++) { /* the 128-bit lanes of four vectors, transposed */
    __m512i low_even = _mm512_shuffle_i32x4(b[i], b[4 + i], 0x88), low_odd = _mm512_shuffle_i32x4(b[i], b[4 + i], 0xDD);
    __m512i high_even = _mm512_shuffle_i32x4(b[8 + i], b[12 + i], 0x88);
    __m512i high_odd = _mm512_shuffle_i32x4(b[8 + i], b[12 + i], 0xDD);
    v[i] = (vector)_mm512_shuffle_i32x4(low_even, high_even, 0x88);
    v[4 + i] = (vector)_mm512_shuffle_i32x4(low_odd, high_odd, 0x88);
    v[8 + i] = (vector)_mm512_shuffle_i32x4(low_even, high_even, 0xDD);
    v[12 + i] = (vector)_mm512_shuffle_i32x4(low_odd, high_odd, 0xDD);
  }
}

INLINE vector join_rows(const uint8_t *even, const uint8_t *odd) {
  uint16_t from[32];
  for (size_t i = 0; i < 32; i++) from[i] = (uint16_t)(i / 2 + i % 2 * 16);
  __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(load256(even)), load256(odd), 1);
  return (vector)_mm512_permutexvar_epi16(load512(from), both);
}

/* Codes become bfloat16 first, which holds all their values; subnormals are looked up. */
INLINE void scale_codes(const uint8_t *codes, float scale, uint16_t *result) {
  const __m512i subnormals =
      _mm512_castsi128_si512(_mm_setr_epi16(0, 0x3B00, 0x3B80, 0x3BC0, 0x3C00, 0x3C20, 0x3C40, 0x3C60));
  __m512i wide = _mm512_cvtepi8_epi16(load256(codes));
  __m512i x = _mm512_and_si512(_mm512_slli_epi16(wide, 4), _mm512_set1_epi16(0x7F0));
  __mmask32 is_subnormal = _mm512_cmplt_epi16_mask(x, _mm512_set1_epi16(0x80));
  __mmask32 is_nan = _mm512_cmpeq_epi16_mask(x, _mm512_set1_epi16(0x7F0));
  x = _mm512_add_epi16(x, _mm512_set1_epi16((127 - 7) * 0x80));
  x = _mm512_mask_permutexvar_epi16(x, is_subnormal, wide, subnormals);
  x = _mm512_mask_mov_epi16(x, is_nan, _mm512_set1_epi16(0x7FC0));
  x = _mm512_ternarylogic_epi32(x, wide, _mm512_set1_epi16(INT16_MIN), 0xF8); /* a | (b & c) */
  pair value = load_pair(MLXQ_BF16, (const uint8_t *)&x);
  value.even = _mm512_mul_ps(value.even, _mm512_set1_ps(scale));
  value.odd = _mm512_mul_ps(value.odd, _mm512_set1_ps(scale));
  store_pair(MLXQ_BF16, (uint8_t *)result, value);
}

MLXQ_DEFINE_MATRIX(avx512, avx2)
