/* What the AVX-512 kernels share. They go by blocks of sixteen groups as the AVX2 kernels do by eight (avx2.h), and
 * leave the rest to those. 32 elements are two vectors of float32, one of the even elements and one of the odd: so 32
 * words of 16 bits come apart and together again without moving between lanes.
 * Only for files compiled with the flags of AVX-512 F, BW, DQ and VL; everything is static. */
#ifndef MLXQ_KERNELS_X86_AVX512_H
#define MLXQ_KERNELS_X86_AVX512_H

#include "kernels/blocks.h"

#include <immintrin.h>

/* Without optimization, GCC's intrinsics are macros whose masks change their sign. */
#if defined(__GNUC__) && !defined(__OPTIMIZE__)
#pragma GCC diagnostic ignored "-Wsign-conversion"
#endif

/* Groups in a block: the lanes of a vector of float32. */
#define BLOCK ((size_t)16)

/* 32 float32 or int32: elements 0, 2, 4, ... and 1, 3, 5, ... */
typedef struct pair {
  __m512 even, odd;
} pair;

INLINE __m512i load512(const void *p) {
  return _mm512_loadu_si512(p);
}

INLINE __m256i load256(const void *p) {
  return _mm256_loadu_si256((const __m256i *)p);
}

INLINE void store512(void *p, __m512i x) {
  _mm512_storeu_si512(p, x);
}

INLINE void store256(void *p, __m256i x) {
  _mm256_storeu_si256((__m256i *)p, x);
}

/* Fetches the 32 elements `ahead` bytes on, so that a block is there when its turn comes. Harmless beyond the end. */
INLINE void fetch_ahead(mlxq_dtype dtype, const uint8_t *p, size_t ahead) {
  _mm_prefetch((const char *)p + ahead, _MM_HINT_T0);
  if (dtype == MLXQ_F32) _mm_prefetch((const char *)p + ahead + 64, _MM_HINT_T0);
}

/* ---- Floats ---------------------------------------------------------------------------------------------------- */

/* Sixteen 16-bit floats widened; exact. */
INLINE __m512 widen16(mlxq_dtype dtype, __m256i half) {
  if (dtype == MLXQ_F16) return _mm512_cvtph_ps(half);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* Sixteen elements of F16, BF16 or F32, in order. */
INLINE __m512 load16(mlxq_dtype dtype, const uint8_t *p) {
  if (dtype == MLXQ_F32) return _mm512_loadu_ps(p);
  return widen16(dtype, load256(p));
}

/* Sixteen numbers of which none is a NaN or an infinity. */
INLINE bool are_finite16(__m512 x) {
  enum { QUIET_NAN = 0x01, INFINITE = 0x08, MINUS_INFINITE = 0x10, SIGNALING_NAN = 0x80 };
  return _mm512_fpclass_ps_mask(x, QUIET_NAN | INFINITE | MINUS_INFINITE | SIGNALING_NAN) == 0;
}

INLINE pair load_pair(mlxq_dtype dtype, const uint8_t *p) {
  if (dtype == MLXQ_BF16) {
    __m512i x = load512(p);
    return (pair){_mm512_castsi512_ps(_mm512_slli_epi32(x, 16)),
                  _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32((int32_t)0xFFFF0000u)))};
  }
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  __m512 low = load16(dtype, p), high = load16(dtype, p + 16 * dtype_bytes(dtype));
  return (pair){_mm512_permutex2var_ps(low, even, high),
                _mm512_permutex2var_ps(low, _mm512_or_si512(even, _mm512_set1_epi32(1)), high)};
}

/* The upper halves of 32 int32, in the elements' order. */
INLINE __m512i upper_halves(__m512i even, __m512i odd) {
  return _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(even, 16), odd);
}

/* Float32 bits with those of the nearest bfloat16 in the upper half and others below. A NaN stays one if its lower half
 * is 0, as that of every NaN is that comes from a bfloat16 or a constant. */
INLINE __m512i bf16_sum(__m512 x) {
  __m512i bits = _mm512_castps_si512(x), sum = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF));
  __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  return _mm512_mask_add_epi32(sum, odd, sum, _mm512_set1_epi32(1));
}

/* T(x) as float32. */
INLINE __m512 round16(mlxq_dtype dtype, __m512 x) {
  if (dtype == MLXQ_F16) return _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  if (dtype == MLXQ_F32) return x;
  return _mm512_castsi512_ps(_mm512_and_si512(bf16_sum(x), _mm512_set1_epi32((int32_t)0xFFFF0000u)));
}

/* Sixteen values rounded to F16 or BF16. */
INLINE __m256i narrow16(mlxq_dtype dtype, __m512 x) {
  if (dtype == MLXQ_F16) return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(bf16_sum(x), 16));
}

INLINE void store16(mlxq_dtype dtype, uint8_t *p, __m512 x) {
  if (dtype == MLXQ_F32) {
    _mm512_storeu_ps(p, x);
  } else {
    store256(p, narrow16(dtype, x));
  }
}

INLINE void store_pair(mlxq_dtype dtype, uint8_t *p, pair x) {
  if (dtype == MLXQ_BF16) {
    store512(p, upper_halves(bf16_sum(x.even), bf16_sum(x.odd)));
    return;
  }
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  store16(dtype, p, _mm512_permutex2var_ps(x.even, low, x.odd));
  store16(dtype, p + 16 * dtype_bytes(dtype), _mm512_permutex2var_ps(x.even, high, x.odd));
}

/* ---- Extremes of sixteen groups -------------------------------------------------------------------------------- */

/* Of float bits as integers. As such, negative floats are the lower the larger they are. */
typedef enum extreme { LARGEST_SIGNED, LARGEST_UNSIGNED, SMALLEST_UNSIGNED, LARGEST_MAGNITUDE } extreme;

INLINE __m512i pick(extreme which, bool wide, __m512i a, __m512i b) {
  switch (which) {
    case LARGEST_SIGNED:
      return wide ? _mm512_max_epi32(a, b) : _mm512_max_epi16(a, b);
    case SMALLEST_UNSIGNED:
      return wide ? _mm512_min_epu32(a, b) : _mm512_min_epu16(a, b);
    default:
      return wide ? _mm512_max_epu32(a, b) : _mm512_max_epu16(a, b);
  }
}

/* Each step joins two vectors and halves what is left of each: x[i] and x[i + 1] side by side in units of `bytes`. */
INLINE void join_step(extreme which, bool wide, unsigned bytes, __m512i *x, size_t count) {
  for (size_t i = 0; i < count / 2; i++) {
    __m512i a = x[2 * i], b = x[2 * i + 1];
    if (bytes == 2) {
      x[i] = pick(which, wide, _mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b));
    } else if (bytes == 4) {
      x[i] = pick(which, wide, _mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    } else if (bytes == 8) {
      x[i] = pick(which, wide, _mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    } else {
      x[i] = pick(which, wide, _mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xDD));
    }
  }
}

/* Lane i: an extreme of the sixteen int32 of x[i]. */
INLINE __m512i reduce32(extreme which, __m512i *x) {
  join_step(which, true, 4, x, 16);
  join_step(which, true, 8, x, 8);
  join_step(which, true, 16, x, 4);
  join_step(which, true, 16, x, 2);
  return x[0];
}

/* The same of the int16 of sixteen vectors, or of the halves of eight: lower halves first. */
INLINE __m256i reduce16(extreme which, __m512i *x, size_t count) {
  join_step(which, false, 2, x, count);
  join_step(which, false, 4, x, count / 2);
  join_step(which, false, 8, x, count / 4);
  if (count == 16) join_step(which, false, 16, x, 2);
  __m512i two = pick(which, false, x[0], _mm512_shuffle_i32x4(x[0], x[0], 0xB1));
  return _mm512_castsi512_si256(_mm512_shuffle_i32x4(two, two, 0x08));
}

/* An extreme of each of sixteen groups of `size` elements, widened. */
INLINE __m512 find_extreme(extreme which, mlxq_dtype dtype, const uint8_t *dense, size_t size) {
  const bool wide = dtype == MLXQ_F32;
  const size_t group_bytes = size * dtype_bytes(dtype), count = group_bytes == 32 ? 8 : 16;
  const __m512i magnitude = wide ? _mm512_set1_epi32(0x7FFFFFFF) : _mm512_set1_epi16(0x7FFF);
  __m512i x[16];
  for (size_t group = 0; group < count; group++) {
    const uint8_t *p = dense + group * group_bytes;
    for (size_t at = 0; at < group_bytes; at += 64) {
      __m512i part = group_bytes == 32 ? _mm512_inserti64x4(_mm512_castsi256_si512(load256(p)), load256(p + 256), 1)
                                       : load512(p + at);
      if (which == LARGEST_MAGNITUDE) part = _mm512_and_si512(part, magnitude);
      x[group] = at == 0 ? part : pick(which, wide, x[group], part);
    }
  }
  return wide ? _mm512_castsi512_ps(reduce32(which, x)) : widen16(dtype, reduce16(which, x, count));
}

/* ---- Packed codes ---------------------------------------------------------------------------------------------- */

/* 64 words below 2^15 as bytes, in order; what is above 255 becomes 255. */
INLINE __m512i words_to_bytes(__m512i low, __m512i high) {
  return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), _mm512_packus_epi16(low, high));
}

/* 64 codes, a byte each, to the packed bit stream: 8 * bits bytes. Neighbours are joined to pairs, pairs to fours,
 * fours to eight, as in the reference. */
INLINE void pack64(unsigned bits, uint8_t *packed, __m512i codes) {
  if (bits == 8) {
    store512(packed, codes);
    return;
  }
  __m512i two = _mm512_maddubs_epi16(codes, _mm512_set1_epi16((int16_t)(1 | 1 << (8 + bits))));
  if (bits == 4) {
    store256(packed, _mm512_cvtepi16_epi8(two));
    return;
  }
  __m512i four = _mm512_madd_epi16(two, _mm512_set1_epi32(1 | 1 << (16 + 2 * bits)));
  __m512i upper = _mm512_slli_epi64(_mm512_srli_epi64(four, 32), 4 * bits);
  __m512i eight = _mm512_or_si512(upper, _mm512_and_si512(four, _mm512_set1_epi64(0xFFFFFFFF)));
  int8_t byte_from[64];  /* the first `bits` bytes of both 64-bit lanes to the start of each 128-bit lane ... */
  int16_t word_from[32]; /* ... and from there to the start of all */
  for (unsigned i = 0; i < 64; i++) {
    byte_from[i] = (int8_t)(i % 16 < bits ? i % 16 : i % 16 < 2 * bits ? i % 16 - bits + 8 : 0x80);
  }
  for (unsigned i = 0; i < 32; i++) word_from[i] = (int16_t)(i / bits * 8 + i % bits);
  __m512i joined = _mm512_permutexvar_epi16(load512(word_from), _mm512_shuffle_epi8(eight, load512(byte_from)));
  _mm512_mask_storeu_epi32(packed, (__mmask16)((1u << 2 * bits) - 1), joined);
}

/* 32 codes of the bit stream as words, in order; the bits above `bits` are anything. Reads 4 * bits bytes. */
INLINE __m512i unpack32(unsigned bits, const uint8_t *packed) {
  if (bits == 8) return _mm512_cvtepu8_epi16(load256(packed));
  int32_t dword_from[16]; /* the dwords that eight codes begin in, to their 128-bit lane; then the two bytes of each */
  int8_t byte_from[64];
  int16_t shift[32];
  for (size_t i = 0; i < 16; i++) dword_from[i] = (int32_t)(i / 4 * bits / 4 + i % 4);
  for (size_t i = 0; i < 32; i++) {
    size_t at = i / 8 * bits % 4 * 8 + i % 8 * bits;
    byte_from[2 * i] = (int8_t)(at / 8);
    byte_from[2 * i + 1] = (int8_t)(at / 8 + 1);
    shift[i] = (int16_t)(at % 8);
  }
  __m512i bytes = _mm512_maskz_loadu_epi32((__mmask16)((1u << bits) - 1), packed);
  bytes = _mm512_shuffle_epi8(_mm512_permutexvar_epi32(load512(dword_from), bytes), load512(byte_from));
  return _mm512_srlv_epi16(bytes, load512(shift));
}

#endif
