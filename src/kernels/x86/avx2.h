/* What the AVX2 kernels share. Quantizing goes by blocks of eight groups: each group's extremes are reduced to one lane
 * of a vector, so that scales are computed eight at a time, and then each group's codes with its scale broadcast.
 * What is rare (a block with a NaN, an infinity or an extreme scale) or small (the last groups) is left to the
 * reference kernel, which also finds the index of the first bad element.
 * Only for files compiled with -mavx2 -mfma -mf16c; everything is static, so that no baseline object can end up
 * calling code from here. */
#ifndef MLXQ_KERNELS_X86_AVX2_H
#define MLXQ_KERNELS_X86_AVX2_H

#include "kernels/blocks.h"

#include <immintrin.h>

/* Groups in a block: the lanes of a vector of float32. */
#define BLOCK 8

INLINE __m256i load256(const void *p) {
  return _mm256_loadu_si256((const __m256i *)p);
}

INLINE void store256(void *p, __m256i x) {
  _mm256_storeu_si256((__m256i *)p, x);
}

/* ---- Floats ---------------------------------------------------------------------------------------------------- */

/* Eight 16-bit floats widened; exact. */
INLINE __m256 widen8(mlxq_dtype dtype, __m128i half) {
  if (dtype == MLXQ_F16) return _mm256_cvtph_ps(half);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

/* Eight elements of F16, BF16 or F32. */
INLINE __m256 load8(mlxq_dtype dtype, const uint8_t *p) {
  if (dtype == MLXQ_F32) return _mm256_loadu_ps((const float *)(const void *)p);
  return widen8(dtype, _mm_loadu_si128((const __m128i *)(const void *)p));
}

/* Eight numbers of which none is a NaN or an infinity. */
INLINE bool are_finite8(__m256 x) {
  const __m256i exponent = _mm256_set1_epi32(0x7F800000);
  __m256i is_special = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_castps_si256(x), exponent), exponent);
  return _mm256_testz_si256(is_special, is_special) != 0;
}

/* Float32 bits with those of the nearest bfloat16 in the upper half and others below. A NaN stays one if its lower half
 * is 0, as that of every NaN is that comes from a bfloat16 or a constant. */
INLINE __m256i bf16_sum(__m256 x) {
  __m256i bits = _mm256_castps_si256(x);
  __m256i even = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  return _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), even);
}

/* T(x) as float32. */
INLINE __m256 round8(mlxq_dtype dtype, __m256 x) {
  if (dtype == MLXQ_F16) return _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  if (dtype == MLXQ_F32) return x;
  return _mm256_castsi256_ps(_mm256_and_si256(bf16_sum(x), _mm256_set1_epi32((int32_t)0xFFFF0000u)));
}

/* Eight values rounded to F16 or BF16. */
INLINE __m128i narrow8(mlxq_dtype dtype, __m256 x) {
  if (dtype == MLXQ_F16) return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
  __m256i high = _mm256_srli_epi32(bf16_sum(x), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}

/* As mlxq_f32_to_bf16; narrow8 is right for fewer NaNs. */
INLINE __m128i narrow_to_bf16(__m256 x) {
  __m256i nan = _mm256_or_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x400000));
  __m256 is_nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
  __m256 bits = _mm256_blendv_ps(_mm256_castsi256_ps(bf16_sum(x)), _mm256_castsi256_ps(nan), is_nan);
  __m256i high = _mm256_srli_epi32(_mm256_castps_si256(bits), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}

INLINE void store8(mlxq_dtype dtype, uint8_t *p, __m256 x) {
  if (dtype == MLXQ_F32) {
    _mm256_storeu_ps((float *)(void *)p, x);
  } else {
    _mm_storeu_si128((__m128i *)(void *)p, narrow8(dtype, x));
  }
}

INLINE __m256 abs8(__m256 x) {
  return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

/* ---- Extremes of eight groups ---------------------------------------------------------------------------------- */

/* Float bits as signed integers of the same order (-0 before 0), infinities and NaNs outermost; its own inverse. */
INLINE __m256i order16(__m256i x) {
  return _mm256_xor_si256(x, _mm256_srli_epi16(_mm256_srai_epi16(x, 15), 1));
}

INLINE __m256i order32(__m256i x) {
  return _mm256_xor_si256(x, _mm256_srli_epi32(_mm256_srai_epi32(x, 31), 1));
}

/* The larger or smaller of two integers, lane by lane. */
INLINE __m256i pick32(bool largest, __m256i a, __m256i b) {
  return largest ? _mm256_max_epi32(a, b) : _mm256_min_epi32(a, b);
}

INLINE __m256i pick16(bool largest, __m256i a, __m256i b) {
  return largest ? _mm256_max_epi16(a, b) : _mm256_min_epi16(a, b);
}

INLINE __m128i pick16_half(bool largest, __m128i a, __m128i b) {
  return largest ? _mm_max_epi16(a, b) : _mm_min_epi16(a, b);
}

/* Lane i: the largest (smallest) of the eight int32 of x[i]. Each step joins two vectors and halves what is left. */
INLINE __m256i reduce32(bool largest, const __m256i *x) {
  __m256i two[4], four[2];
  for (size_t i = 0; i < 4; i++) {
    two[i] =
        pick32(largest, _mm256_unpacklo_epi32(x[2 * i], x[2 * i + 1]), _mm256_unpackhi_epi32(x[2 * i], x[2 * i + 1]));
  }
  for (size_t i = 0; i < 2; i++) {
    four[i] = pick32(largest, _mm256_unpacklo_epi64(two[2 * i], two[2 * i + 1]),
                     _mm256_unpackhi_epi64(two[2 * i], two[2 * i + 1]));
  }
  return pick32(largest, _mm256_permute2x128_si256(four[0], four[1], 0x20),
                _mm256_permute2x128_si256(four[0], four[1], 0x31));
}

/* The same of the sixteen int16 of x[i]. */
INLINE __m128i reduce16(bool largest, const __m256i *x) {
  __m256i one[4], two[2];
  for (size_t i = 0; i < 4; i++) { /* groups i and i + 4 in the halves of one vector */
    one[i] = pick16(largest, _mm256_permute2x128_si256(x[i], x[i + 4], 0x20),
                    _mm256_permute2x128_si256(x[i], x[i + 4], 0x31));
  }
  for (size_t i = 0; i < 2; i++) {
    two[i] = pick16(largest, _mm256_unpacklo_epi16(one[2 * i], one[2 * i + 1]),
                    _mm256_unpackhi_epi16(one[2 * i], one[2 * i + 1]));
  }
  __m256i four = pick16(largest, _mm256_unpacklo_epi32(two[0], two[1]), _mm256_unpackhi_epi32(two[0], two[1]));
  __m128i low = _mm256_castsi256_si128(four), high = _mm256_extracti128_si256(four, 1);
  return pick16_half(largest, _mm_unpacklo_epi64(low, high), _mm_unpackhi_epi64(low, high));
}

/* The extremes of eight groups of `size` elements each: lane i is group i's. Infinite or NaN where a group holds
 * something that is; -0 is below 0. */
INLINE void range8(mlxq_dtype dtype, const uint8_t *dense, size_t size, __m256 *lowest, __m256 *highest) {
  const bool wide = dtype == MLXQ_F32;
  const size_t group_bytes = size * dtype_bytes(dtype);
  __m256i low[BLOCK], high[BLOCK];
  for (size_t group = 0; group < BLOCK; group++) {
    const uint8_t *p = dense + group * group_bytes;
    low[group] = high[group] = wide ? order32(load256(p)) : order16(load256(p));
    for (size_t at = 32; at < group_bytes; at += 32) {
      __m256i key = wide ? order32(load256(p + at)) : order16(load256(p + at));
      low[group] = wide ? pick32(false, low[group], key) : pick16(false, low[group], key);
      high[group] = wide ? pick32(true, high[group], key) : pick16(true, high[group], key);
    }
  }
  if (wide) {
    *lowest = _mm256_castsi256_ps(order32(reduce32(false, low)));
    *highest = _mm256_castsi256_ps(order32(reduce32(true, high)));
  } else {
    *lowest = widen8(dtype, _mm256_castsi256_si128(order16(_mm256_castsi128_si256(reduce16(false, low)))));
    *highest = widen8(dtype, _mm256_castsi256_si128(order16(_mm256_castsi128_si256(reduce16(true, high)))));
  }
}

/* The largest magnitudes of eight groups, likewise. Without their signs, float bits are ordered as they are. */
INLINE __m256 largest8(mlxq_dtype dtype, const uint8_t *dense, size_t size) {
  const bool wide = dtype == MLXQ_F32;
  const size_t group_bytes = size * dtype_bytes(dtype);
  const __m256i magnitude = wide ? _mm256_set1_epi32(0x7FFFFFFF) : _mm256_set1_epi16(0x7FFF);
  __m256i high[BLOCK];
  for (size_t group = 0; group < BLOCK; group++) {
    const uint8_t *p = dense + group * group_bytes;
    high[group] = _mm256_and_si256(load256(p), magnitude);
    for (size_t at = 32; at < group_bytes; at += 32) {
      __m256i key = _mm256_and_si256(load256(p + at), magnitude);
      high[group] = wide ? pick32(true, high[group], key) : pick16(true, high[group], key);
    }
  }
  if (wide) return _mm256_castsi256_ps(reduce32(true, high));
  return widen8(dtype, reduce16(true, high));
}

/* ---- Packed codes ---------------------------------------------------------------------------------------------- */

/* The 32 int32 of four vectors as bytes, in order. Saturates: `is_signed` to -128 .. 127, else to 0 .. 255. */
INLINE __m256i narrow_to_bytes(bool is_signed, const __m256i *x) {
  __m256i low = _mm256_packs_epi32(x[0], x[1]), high = _mm256_packs_epi32(x[2], x[3]);
  __m256i bytes = is_signed ? _mm256_packs_epi16(low, high) : _mm256_packus_epi16(low, high);
  return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)); /* packs work on halves */
}

/* In both halves: which bytes of two 64-bit lanes are used when the first `bits` of each are, -1 for none. */
INLINE __m256i used_bytes(unsigned bits) {
  int8_t from[32];
  for (unsigned i = 0; i < 32; i++) {
    unsigned at = i % 16;
    from[i] = (int8_t)(at < bits ? at : at < 2 * bits ? at - bits + 8 : 0x80);
  }
  return load256(from);
}

/* 32 codes, a byte each, to the packed bit stream: 4 * bits bytes. Neighbours are joined to pairs, pairs to fours,
 * fours to eight, as in the reference. */
INLINE void pack32(unsigned bits, uint8_t *packed, __m256i codes) {
  if (bits == 8) {
    store256(packed, codes);
    return;
  }
  __m256i two = _mm256_maddubs_epi16(codes, _mm256_set1_epi16((int16_t)(1 | 1 << (8 + bits))));
  if (bits == 4) {
    __m128i low = _mm256_castsi256_si128(two), high = _mm256_extracti128_si256(two, 1);
    _mm_storeu_si128((__m128i *)(void *)packed, _mm_packus_epi16(low, high));
    return;
  }
  __m256i four = _mm256_madd_epi16(two, _mm256_set1_epi32(1 | 1 << (16 + 2 * bits)));
  __m256i upper = _mm256_srli_epi64(four, 32);
  __m256i lower = _mm256_and_si256(four, _mm256_set1_epi64x(0xFFFFFFFF));
  __m256i eight = _mm256_or_si256(lower, _mm256_slli_epi64(upper, (int)(4 * bits)));
  __m256i joined = _mm256_shuffle_epi8(eight, used_bytes(bits));
  __m128i low = _mm256_castsi256_si128(joined), high = _mm256_extracti128_si256(joined, 1);
  const size_t half_bytes = (size_t)2 * bits;
  memcpy(packed, &low, half_bytes);
  memcpy(packed + half_bytes, &high, half_bytes);
}

/* The inverse. */
INLINE __m256i unpack32(unsigned bits, const uint8_t *packed) {
  if (bits == 8) return load256(packed);
  if (bits == 4) {
    __m256i pairs = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)packed));
    __m256i codes = _mm256_or_si256(pairs, _mm256_slli_epi16(pairs, 4));
    return _mm256_and_si256(codes, _mm256_set1_epi8(15));
  }
  /* Loads of 16 bytes from the start and up to the end, or of all 12 or 8 there are. */
  const size_t bytes = (size_t)4 * bits;
  __m128i low, high;
  unsigned skipped = 16 - 2 * bits; /* bytes of `high` before its codes */
  if (bits > 4) {
    low = _mm_loadu_si128((const __m128i *)(const void *)packed);
    high = _mm_loadu_si128((const __m128i *)(const void *)(packed + bytes - 16));
  } else {
    int32_t last = 0;
    memcpy(&last, packed + bytes - 4, sizeof last);
    low = _mm_loadl_epi64((const __m128i *)(const void *)packed);
    if (bits == 3) low = _mm_insert_epi32(low, last, 2);
    high = low;
    skipped = 2 * bits;
  }
  int8_t from[32]; /* the first `bits` bytes to the lower 64-bit lane, the next to the upper */
  for (unsigned i = 0; i < 32; i++) {
    from[i] = (int8_t)(i % 8 < bits ? i % 8 + (i % 16 / 8) * bits + (i / 16) * skipped : 0x80);
  }
  __m256i x = _mm256_shuffle_epi8(_mm256_set_m128i(high, low), load256(from));
  const int64_t one = (1 << bits) - 1, two = one << bits | one, four = two << 2 * bits | two;
  x = _mm256_or_si256(_mm256_and_si256(x, _mm256_set1_epi64x(four)),
                      _mm256_and_si256(_mm256_slli_epi64(x, (int)(32 - 4 * bits)),
                                       _mm256_set1_epi64x((int64_t)((uint64_t)four << 32))));
  x = _mm256_or_si256(
      _mm256_and_si256(x, _mm256_set1_epi32((int32_t)two)),
      _mm256_and_si256(_mm256_slli_epi32(x, (int)(16 - 2 * bits)), _mm256_set1_epi32((int32_t)((uint32_t)two << 16))));
  return _mm256_or_si256(
      _mm256_and_si256(x, _mm256_set1_epi16((int16_t)one)),
      _mm256_and_si256(_mm256_slli_epi16(x, (int)(8 - bits)), _mm256_set1_epi16((int16_t)((uint32_t)one << 8))));
}

/* Code i to the i-th of sixteen 16-bit values, given as their lower and upper bytes in both halves; 32 of them stored.
 */
INLINE void store_looked_up(uint8_t *p, __m256i codes, __m256i lower, __m256i upper) {
  codes = _mm256_permute4x64_epi64(codes, 0xD8); /* unpacking works on halves */
  __m256i low = _mm256_shuffle_epi8(lower, codes), high = _mm256_shuffle_epi8(upper, codes);
  store256(p, _mm256_unpacklo_epi8(low, high));
  store256(p + 32, _mm256_unpackhi_epi8(low, high));
}

/* The table for it, of the values of codes 0 to 7 and 8 to 15. */
INLINE void make_table(__m128i first, __m128i second, __m256i *lower, __m256i *upper) {
  const __m128i byte = _mm_set1_epi16(0xFF);
  *lower = _mm256_broadcastsi128_si256(_mm_packus_epi16(_mm_and_si128(first, byte), _mm_and_si128(second, byte)));
  *upper = _mm256_broadcastsi128_si256(_mm_packus_epi16(_mm_srli_epi16(first, 8), _mm_srli_epi16(second, 8)));
}

/* Codes 8 * part .. 8 * part + 7 of 32, as int32. */
INLINE __m256i spread8(__m256i codes, int part) {
  __m128i half = part < 2 ? _mm256_castsi256_si128(codes) : _mm256_extracti128_si256(codes, 1);
  return _mm256_cvtepu8_epi32(part % 2 == 0 ? half : _mm_srli_si128(half, 8));
}

#endif
