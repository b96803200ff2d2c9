/* Affine quantization, 2 to 8 bits, for AVX-512: bit for bit ref/affine_ref.c. */
#include "kernels/kernel_list.h"
#include "kernels/x86/avx512.h"

/* ---- Quantize -------------------------------------------------------------------------------------------------- */

/* The extremes of sixteen groups. Infinite or NaN where a group holds something that is; -0 is below 0. */
INLINE void find_range(mlxq_dtype dtype, const uint8_t *dense, size_t size, __m512 *lowest, __m512 *highest) {
  __m512 low = find_extreme(LARGEST_UNSIGNED, dtype, dense, size);
  __m512 high = find_extreme(LARGEST_SIGNED, dtype, dense, size);
  __mmask16 has_negative = _mm512_movepi32_mask(_mm512_castps_si512(low));
  __mmask16 all_negative = _mm512_movepi32_mask(_mm512_castps_si512(high));
  if (has_negative != 0xFFFF || all_negative != 0) { /* not what weights look like */
    __m512 nearest = find_extreme(SMALLEST_UNSIGNED, dtype, dense, size);
    low = _mm512_mask_mov_ps(nearest, has_negative, low);
    high = _mm512_mask_mov_ps(high, all_negative, nearest);
  }
  *lowest = low;
  *highest = high;
}

/* The same where the size is no constant; once for all bits. */
static __attribute__((noinline)) void find_range_any(mlxq_dtype dtype, const uint8_t *dense, size_t size,
                                                     __m512 *lowest, __m512 *highest) {
#define FIND(type) /* the sizes that there are */  \
  if (size == 32) {                                \
    find_range(type, dense, 32, lowest, highest);  \
  } else if (size == 64) {                         \
    find_range(type, dense, 64, lowest, highest);  \
  } else {                                         \
    find_range(type, dense, 128, lowest, highest); \
  }
  if (dtype == MLXQ_BF16) {
    FIND(MLXQ_BF16)
  } else if (dtype == MLXQ_F16) {
    FIND(MLXQ_F16)
  } else {
    FIND(MLXQ_F32)
  }
}

/* To the nearest integer: half to even (cpu), half away from zero (gpu). Any finite x. */
INLINE __m512 round_to_whole(bool gpu, __m512 x) {
  if (!gpu) return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
  __m512 one = _mm512_or_ps(_mm512_and_ps(x, _mm512_set1_ps(-0.0f)), _mm512_set1_ps(1.0f));
  __mmask16 up = _mm512_cmp_ps_mask(_mm512_abs_ps(_mm512_sub_ps(x, whole)), _mm512_set1_ps(0.5f), _CMP_GE_OQ);
  return _mm512_mask_add_ps(whole, up, whole, one);
}

/* The float32 scales and biases of sixteen groups. */
INLINE void fit16(bool gpu, float n, __m512 lo, __m512 hi, __m512 *scale, __m512 *bias) {
  const __m512 zero = _mm512_setzero_ps();
  if (gpu) hi = _mm512_max_ps(hi, zero);
  __mmask16 side = _mm512_cmp_ps_mask(_mm512_abs_ps(lo), _mm512_abs_ps(hi), _CMP_GT_OQ);
  __m512 s = _mm512_max_ps(_mm512_div_ps(_mm512_sub_ps(hi, lo), _mm512_set1_ps(n)), _mm512_set1_ps(1e-7f));
  s = _mm512_mask_xor_ps(s, _mm512_knot(side), s, _mm512_set1_ps(-0.0f));
  __m512 edge = _mm512_mask_mov_ps(hi, side, lo);
  __m512 q0 = round_to_whole(gpu, _mm512_div_ps(edge, s));
  __mmask16 usable = _mm512_cmp_ps_mask(q0, zero, _CMP_NEQ_OQ);
  *scale = _mm512_mask_div_ps(s, usable, edge, q0);
  *bias = _mm512_maskz_mov_ps(usable, edge);
}

/* Whether all extremes are finite and below 1e30: then scales are neither 0 nor infinite, nor are their inverses, and
 * (w - b) / s is from -0.5 to a little more than n + 1. */
INLINE bool is_ordinary(__m512 lo, __m512 hi) {
  const __m512 limit = _mm512_set1_ps(1e30f);
  __mmask16 below = _mm512_cmp_ps_mask(_mm512_abs_ps(lo), limit, _CMP_LT_OQ);
  return _mm512_mask_cmp_ps_mask(below, _mm512_abs_ps(hi), limit, _CMP_LT_OQ) == 0xFFFF;
}

/* A block's scales and biases, and the scales' inverses. */
typedef struct fits {
  float scales[BLOCK], biases[BLOCK], inverses[BLOCK];
} fits;

/* rnd(x / s) by division, as int32. */
INLINE __m512i divide(bool gpu, __m512 x, __m512 s) {
  x = _mm512_div_ps(x, s);
  if (!gpu) return _mm512_cvtps_epi32(x);
  __m512i whole = _mm512_cvttps_epi32(x);
  __mmask16 up = _mm512_cmp_ps_mask(_mm512_sub_ps(x, _mm512_cvtepi32_ps(whole)), _mm512_set1_ps(0.5f), _CMP_GE_OQ);
  return _mm512_mask_add_epi32(whole, up, whole, _mm512_set1_epi32(1));
}

/* Words of rnd((w - b) / s) for 32 elements of a group, not clamped to n.
 * Instead of dividing, x = w - b is multiplied with the inverse of s, in the fixed point that a sum with 2^7 (8 bits:
 * 2^8) is: one unit is 2^-16 (2^-15) and half and two units are added. Inverse, sum and the quotient's own rounding
 * make an error below 1.5 units. So the whole part is right where the fraction is 4 units or more; where it is less,
 * the quotient is near a half or is one, and only there the division is done. */
INLINE __m512i encode32(unsigned bits, bool gpu, mlxq_dtype dtype, const uint8_t *dense, const fits *fit,
                        size_t group) {
  const float base = bits == 8 ? 256.0f : 128.0f;
  const unsigned shift = bits == 8 ? 1 : 0;
  const __m512 b = _mm512_set1_ps(fit->biases[group]), inverse = _mm512_set1_ps(fit->inverses[group]);
  const __m512 rounding = _mm512_set1_ps(base + 0.5f + base * 0x1p-22f);
  const __m512i fraction = _mm512_set1_epi32((0xFFFF >> shift) & ~3);
  pair w = load_pair(dtype, dense);
  w.even = _mm512_sub_ps(w.even, b);
  w.odd = _mm512_sub_ps(w.odd, b);
  __m512i even = _mm512_castps_si512(_mm512_fmadd_ps(w.even, inverse, rounding));
  __m512i odd = _mm512_castps_si512(_mm512_fmadd_ps(w.odd, inverse, rounding));
  __mmask16 near_even = _mm512_testn_epi32_mask(even, fraction), near_odd = _mm512_testn_epi32_mask(odd, fraction);
  if (__builtin_expect(!_mm512_kortestz(near_even, near_odd), 0)) {
    const __m512 s = _mm512_set1_ps(fit->scales[group]);
    return _mm512_or_si512(divide(gpu, w.even, s), _mm512_slli_epi32(divide(gpu, w.odd, s), 16));
  }
  __m512i words = upper_halves(_mm512_slli_epi32(even, shift), _mm512_slli_epi32(odd, shift));
  return _mm512_sub_epi16(words, _mm512_set1_epi16((int16_t)(bits == 8 ? 0x8700 : 0x4300)));
}

INLINE void encode_block(unsigned bits, bool gpu, mlxq_dtype dtype, size_t size, const uint8_t *dense, uint8_t *packed,
                         const fits *fit) {
  const size_t width = dtype_bytes(dtype);
  const int shift = __builtin_ctzll(size);
  for (size_t i = 0; i < BLOCK * size; i += 64) {
    fetch_ahead(dtype, dense + i * width, 2 * BLOCK * size * width);
    fetch_ahead(dtype, dense + (i + 32) * width, 2 * BLOCK * size * width);
    __m512i low = encode32(bits, gpu, dtype, dense + i * width, fit, i >> shift);
    __m512i high = encode32(bits, gpu, dtype, dense + (i + 32) * width, fit, (i + 32) >> shift);
    __m512i bytes = _mm512_min_epu8(words_to_bytes(low, high), _mm512_set1_epi8((int8_t)((1u << bits) - 1)));
    pack64(bits, packed + i / 8 * bits, bytes);
  }
}

/* Finds a block's scales and biases. False: a case for the other kernel. */
INLINE bool fit_block(unsigned bits, bool gpu, mlxq_dtype dtype, const quantize_call *call, size_t group, fits *fit) {
  __m512 lo, hi, scale, bias;
  find_range_any(dtype, call->dense + group * call->dense_bytes, call->args->group_size, &lo, &hi);
  if (!is_ordinary(lo, hi)) return false;
  fit16(gpu, (float)((1u << bits) - 1), lo, hi, &scale, &bias);
  _mm512_storeu_ps(fit->scales, scale);
  _mm512_storeu_ps(fit->biases, bias);
  _mm512_storeu_ps(fit->inverses, _mm512_div_ps(_mm512_set1_ps(1.0f), scale));
  store16(dtype, call->scales + group * call->scale_bytes, scale);
  store16(dtype, call->biases + group * call->scale_bytes, bias);
  return true;
}

/* Fits are a block ahead of codes: their long chain of divisions then runs beside these. */
INLINE size_t quantize(unsigned bits, mlxq_dtype dtype, quantize_call call) {
  const bool gpu = call.args->profile == MLXQ_PROFILE_GPU;
  const size_t size = call.args->group_size, groups = call.args->groups, end = groups - groups % BLOCK;
  fits fit[2];
  bool usable = end > 0 && fit_block(bits, gpu, dtype, &call, 0, &fit[0]);
  for (size_t group = 0; group < end; group += BLOCK) {
    const size_t next = group + BLOCK;
    bool next_usable = next < end && fit_block(bits, gpu, dtype, &call, next, &fit[next / BLOCK % 2]);
    if (usable) {
      encode_block(bits, gpu, dtype, size, call.dense + group * call.dense_bytes,
                   call.packed + group * call.packed_bytes, &fit[group / BLOCK % 2]);
    } else {
      leave(&call, group, BLOCK);
    }
    usable = next_usable;
  }
  if (end < groups) leave(&call, end, groups - end);
  return call.first_bad;
}

INLINE size_t quantize_any(unsigned bits, mlxq_quantize_fn rest, const mlxq_kernel_args *args, const void *dense,
                           void *packed, void *scales, void *biases) {
  const quantize_call call = new_call(rest, args, bits, dtype_bytes(args->dtype), dense, packed, scales, biases);
#define CALL(gpu, dtype) quantize(bits, dtype, call) /* which finds the profile in its arguments */
  return FOR_DTYPE(args, false, CALL);
#undef CALL
}

/* ---- Dequantize ------------------------------------------------------------------------------------------------ */

/* Values of sixteen codes in float32: the last rounding, to the dtype, is still to come. */
INLINE __m512 decode16(bool gpu, mlxq_dtype dtype, __m512i codes, __m512 s, __m512 b) {
  __m512 x = _mm512_cvtepi32_ps(codes);
  if (gpu) return _mm512_fmadd_ps(x, s, b);
  return _mm512_add_ps(round16(dtype, _mm512_mul_ps(x, s)), b);
}

INLINE void decode_group(unsigned bits, bool gpu, mlxq_dtype dtype, size_t size, const uint8_t *packed, uint8_t *dense,
                         __m512 s, __m512 b) {
  const size_t width = dtype_bytes(dtype);
  const __m512i n = _mm512_set1_epi32((1 << bits) - 1);
  if (bits <= 5 && width == 2) { /* at most 32 values: a table, repeated so that bits above the code do not matter */
    const __m512i count = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m256i low = narrow16(dtype, decode16(gpu, dtype, _mm512_and_si512(count, n), s, b)), high = low;
    if (bits == 5) high = narrow16(dtype, decode16(gpu, dtype, _mm512_add_epi32(count, _mm512_set1_epi32(16)), s, b));
    __m512i table = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    for (size_t i = 0; i < size; i += 32) {
      store512(dense + i * width, _mm512_permutexvar_epi16(unpack32(bits, packed + i / 8 * bits), table));
    }
    return;
  }
  for (size_t i = 0; i < size; i += 32) {
    __m512i codes = unpack32(bits, packed + i / 8 * bits);
    pair x = {decode16(gpu, dtype, _mm512_and_si512(codes, n), s, b),
              decode16(gpu, dtype, _mm512_and_si512(_mm512_srli_epi32(codes, 16), n), s, b)};
    store_pair(dtype, dense + i * width, x);
  }
}

INLINE void dequantize(unsigned bits, bool gpu, mlxq_dtype dtype, mlxq_dequantize_fn rest, const mlxq_kernel_args *args,
                       const uint8_t *packed, const uint8_t *scales, const uint8_t *biases, uint8_t *dense) {
  const size_t size = args->group_size, groups = args->groups, width = dtype_bytes(dtype);
  const size_t packed_bytes = size / 8 * bits, dense_bytes = size * width;
  mlxq_kernel_args last = *args;
  size_t group = 0;
  for (; group + BLOCK <= groups; group += BLOCK) {
    float s[BLOCK], b[BLOCK];
    __m512 block_scales = load16(dtype, scales + group * width), block_biases = load16(dtype, biases + group * width);
    if (!are_finite16(block_scales) || !are_finite16(block_biases)) {
      last.groups = BLOCK;
      rest(&last, packed + group * packed_bytes, scales + group * width, biases + group * width,
           dense + group * dense_bytes);
      continue;
    }
    _mm512_storeu_ps(s, block_scales);
    _mm512_storeu_ps(b, block_biases);
    for (size_t i = 0; i < BLOCK; i++) {
      decode_group(bits, gpu, dtype, size, packed + (group + i) * packed_bytes, dense + (group + i) * dense_bytes,
                   _mm512_set1_ps(s[i]), _mm512_set1_ps(b[i]));
    }
  }
  last.groups = groups - group;
  if (last.groups > 0) {
    rest(&last, packed + group * packed_bytes, scales + group * width, biases + group * width,
         dense + group * dense_bytes);
  }
}

INLINE void dequantize_any(unsigned bits, mlxq_dequantize_fn rest, const mlxq_kernel_args *args, const uint8_t *packed,
                           const uint8_t *scales, const uint8_t *biases, uint8_t *dense) {
#define CALL(gpu, dtype) dequantize(bits, gpu, dtype, rest, args, packed, scales, biases, dense)
  SPECIALISE(args, CALL);
#undef CALL
}

#define QUANTIZE(bits)   quantize_any(bits, mlxq_quantize_affine##bits##_avx2, args, dense, packed, scales, biases)
#define DEQUANTIZE(bits) dequantize_any(bits, mlxq_dequantize_affine##bits##_avx2, args, packed, scales, biases, dense)
MLXQ_DEFINE_AFFINE(avx512, QUANTIZE, DEQUANTIZE)
