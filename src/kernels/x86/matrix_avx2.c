/* Transposes, AutoAWQ's codes and FP8 blocks, for AVX2; the rest is in matrix.h. */
#define LANES ((size_t)8)
#include "kernels/matrix.h"
#include "kernels/x86/avx2.h"

INLINE void transpose_words(vector v[LANES]) {
  __m256i a[8], b[8];
  for (size_t i = 0; i < 4; i++) {
    a[2 * i] = _mm256_unpacklo_epi32((__m256i)v[2 * i], (__m256i)v[2 * i + 1]);
    a[2 * i + 1] = _mm256_unpackhi_epi32((__m256i)v[2 * i], (__m256i)v[2 * i + 1]);
  }
  for (size_t i = 0; i < 2; i++) {
    for (size_t k = 0; k < 2; k++) {
      b[4 * i + 2 * k] = _mm256_unpacklo_epi64(a[4 * i + k], a[4 * i + 2 + k]);
      b[4 * i + 2 * k + 1] = _mm256_unpackhi_epi64(a[4 * i + k], a[4 * i + 2 + k]);
    }
  }
  for (size_t i = 0; i < 4; i++) {
    v[i] = (vector)_mm256_permute2x128_si256(b[i], b[4 + i], 0x20);
    v[4 + i] = (vector)_mm256_permute2x128_si256(b[i], b[4 + i], 0x31);
  }
}

INLINE vector join_rows(const uint8_t *even, const uint8_t *odd) {
  __m128i low = _mm_loadu_si128((const __m128i *)(const void *)even);
  __m128i high = _mm_loadu_si128((const __m128i *)(const void *)odd);
  return (vector)_mm256_set_m128i(_mm_unpackhi_epi16(low, high), _mm_unpacklo_epi16(low, high));
}

/* As float16 with the same fields, codes are 2^-8 of what they stand for. */
INLINE void scale_codes(const uint8_t *codes, float scale, uint16_t *result) {
  const __m256i magnitude = _mm256_set1_epi16(0x7F);
  __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)codes));
  __m256i half = _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16((int16_t)0xBFFF));
  __m256i is_nan = _mm256_cmpeq_epi16(_mm256_and_si256(wide, magnitude), magnitude);
  half = _mm256_xor_si256(half, _mm256_and_si256(is_nan, _mm256_set1_epi16(0x3F80 ^ 0x7E00)));
  for (size_t i = 0; i < 2; i++) {
    __m256 value = _mm256_cvtph_ps(i == 0 ? _mm256_castsi256_si128(half) : _mm256_extracti128_si256(half, 1));
    value = _mm256_mul_ps(_mm256_mul_ps(value, _mm256_set1_ps(256.0f)), _mm256_set1_ps(scale));
    _mm_storeu_si128((__m128i *)(void *)(result + 8 * i), narrow8(MLXQ_BF16, value));
  }
}

MLXQ_DEFINE_MATRIX(avx2, ref)
