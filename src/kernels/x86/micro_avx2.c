/* The formats whose groups have a scale of one byte, for AVX2: bit for bit ref/micro_ref.c. */
#include "kernels/kernel_list.h"
#include "kernels/x86/avx2.h"

#include <math.h>

/* What differs between the formats; constant once inlined. */
typedef struct micro_format {
  unsigned bits;     /* 4: E2M1 codes; 8: E4M3 codes */
  float largest;     /* value of a code */
  bool e8m0;         /* the scale is a power of two; else it is an E4M3 */
  size_t group_size; /* 32 codes are two groups or one */
} micro_format;

#define MXFP4 ((micro_format){4, 6.0f, true, 32})
#define MXFP8 ((micro_format){8, 448.0f, true, 32})
#define NVFP4 ((micro_format){4, 6.0f, false, 16})

/* ---- E4M3, E8M0 ------------------------------------------------------------------------------------------------ */

/* |x| to E4M3, saturating; as mlxq_f32_to_e4m3. */
INLINE __m256i encode_e4m3_magnitude(__m256 x) {
  const __m256 one_unit = _mm256_set1_ps(16384.0f); /* whose last place is the smallest E4M3 */
  x = abs8(x);
  __m256i bits = _mm256_castps_si256(x);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 20), _mm256_set1_epi32(1));
  __m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFFF - (120 << 23))), odd);
  __m256i normal = _mm256_min_epi32(_mm256_srai_epi32(sum, 20), _mm256_set1_epi32(0x7E));
  __m256i subnormal = _mm256_sub_epi32(_mm256_castps_si256(_mm256_add_ps(x, one_unit)), _mm256_castps_si256(one_unit));
  __m256i is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x3C800000), bits);
  return _mm256_blendv_epi8(normal, subnormal, is_small);
}

INLINE __m256i encode_e4m3(__m256 x) {
  __m256i sign = _mm256_srli_epi32(_mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(INT32_MIN)), 24);
  return _mm256_or_si256(encode_e4m3_magnitude(x), sign);
}

/* Eight scale bytes to float32; E4M3 0x7F and 0xFF are NaN. */
INLINE __m256 decode_scales(bool e8m0, __m256i bytes) {
  if (e8m0) return _mm256_castsi256_ps(_mm256_max_epu32(_mm256_slli_epi32(bytes, 23), _mm256_set1_epi32(0x400000)));
  __m256i magnitude = _mm256_and_si256(bytes, _mm256_set1_epi32(0x7F));
  __m256i sign = _mm256_slli_epi32(_mm256_xor_si256(bytes, magnitude), 24);
  /* The exponent's bias goes from 7 to 127. Never through a float32 that is subnormal: that takes long. */
  __m256i normal = _mm256_add_epi32(_mm256_slli_epi32(magnitude, 20), _mm256_set1_epi32(120 << 23));
  __m256 subnormal = _mm256_mul_ps(_mm256_cvtepi32_ps(magnitude), _mm256_set1_ps(0x1p-9f));
  __m256i is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(8), magnitude);
  __m256 value = _mm256_blendv_ps(_mm256_castsi256_ps(normal), subnormal, _mm256_castsi256_ps(is_small));
  __m256i is_nan = _mm256_cmpeq_epi32(magnitude, _mm256_set1_epi32(0x7F));
  value = _mm256_blendv_ps(value, _mm256_castsi256_ps(_mm256_set1_epi32(0x7FC00000)), _mm256_castsi256_ps(is_nan));
  return _mm256_or_ps(value, _mm256_castsi256_ps(sign));
}

/* Eight int32 below 256 as bytes. */
INLINE void store_bytes8(uint8_t *p, __m256i x) {
  __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  _mm_storel_epi64((__m128i *)(void *)p, _mm_packus_epi16(words, words));
}

/* ---- E2M1 ------------------------------------------------------------------------------------------------------ */

/* Where q lies among the values .25 * (1, 1.25, 1.5, 1.75, 2, 2.5, ...), which all boundaries between codes are of: 1
 * for |q| <= .25, 2 up to the next value, ...; negative for negative q, 0 for +0. The boundaries whose tie goes up in
 * the gpu profile (.75, 1.75, 3.5) are those with the upper bit of the mantissa set: there, one unit more is added. */
INLINE __m256i place_e2m1(bool gpu, __m256 q) {
  const __m256i quarter = _mm256_set1_epi32(0x3E800000);
  __m256i bits = _mm256_max_epi32(_mm256_castps_si256(abs8(q)), quarter);
  /* Rounds up to whole steps; and begins with 1, not 0. */
  __m256i sum = _mm256_add_epi32(bits, _mm256_set1_epi32((1 << 21) - 1 - 0x3E800000 + (1 << 21)));
  if (gpu) {
    __m256i upper = _mm256_and_si256(_mm256_srli_epi32(bits, 22), _mm256_set1_epi32(1));
    sum = _mm256_add_epi32(sum, upper);
  }
  return _mm256_sign_epi32(_mm256_srli_epi32(sum, 21), _mm256_castps_si256(q));
}

/* Codes of 32 places, narrowed to bytes. */
INLINE __m256i codes_e2m1(bool gpu, __m256i places) {
  /* |place| - 4, from 0 to 15: code 1 is up to place 7 (.75), 2 up to 10, 3 to 12, 4 to 14, 5 to 16, 6 to 18. */
  const __m256i table = _mm256_broadcastsi128_si256(_mm_setr_epi8(1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7));
  __m256i magnitude = _mm256_abs_epi8(places);
  __m256i index = _mm256_min_epu8(_mm256_subs_epu8(magnitude, _mm256_set1_epi8(4)), _mm256_set1_epi8(15));
  __m256i above_quarter = _mm256_cmpgt_epi8(magnitude, _mm256_set1_epi8(1));
  __m256i sign = _mm256_srli_epi16(_mm256_and_si256(places, _mm256_set1_epi8(-128)), 4);
  __m256i code = _mm256_shuffle_epi8(table, index);
  if (gpu) return _mm256_or_si256(_mm256_and_si256(code, above_quarter), sign);
  return _mm256_and_si256(_mm256_or_si256(code, sign), above_quarter); /* no -0 */
}

/* ---- Quantize -------------------------------------------------------------------------------------------------- */

/* Scale bytes of eight groups with these largest magnitudes, and what to divide by (nvfp4, cpu) or to multiply with.
 * Where the scale is a power of two, multiplying with its inverse rounds as dividing does. False: a case for the
 * reference. */
INLINE bool scales8(micro_format format, bool gpu, mlxq_dtype dtype, __m256 amax, __m256i *bytes, __m256 *factor) {
  const __m256 zero = _mm256_setzero_ps();
  /* E8M0: no wrap-around, and no power of two whose inverse is subnormal; E4M3: quotients below 2^24. Not NaN. */
  __m256 ordinary = _mm256_cmp_ps(amax, _mm256_set1_ps(format.e8m0 ? 0x1p120f : 0x1p30f), _CMP_LT_OQ);
  __m256 is_zero = _mm256_cmp_ps(amax, zero, _CMP_EQ_OQ);
  if (format.e8m0) {
    __m256 large = _mm256_cmp_ps(amax, _mm256_set1_ps(0x1p-100f), _CMP_GE_OQ);
    ordinary = _mm256_and_ps(ordinary, _mm256_or_ps(large, is_zero));
  }
  if (_mm256_movemask_ps(ordinary) != 0xFF) return false;
  __m256 s = _mm256_div_ps(amax, _mm256_set1_ps(format.largest));
  if (!gpu) s = round8(dtype, s);
  __m256 s_is_zero = _mm256_cmp_ps(s, zero, _CMP_EQ_OQ);
  if (format.e8m0) {
    __m256i e = _mm256_srli_epi32(_mm256_add_epi32(_mm256_castps_si256(s), _mm256_set1_epi32(0x7FFFFF)), 23);
    if (!gpu) e = _mm256_blendv_epi8(e, _mm256_set1_epi32(127), _mm256_castps_si256(s_is_zero));
    *bytes = e;
    *factor = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_sub_epi32(_mm256_set1_epi32(254), e), 23));
    return true;
  }
  *bytes = encode_e4m3_magnitude(s);
  __m256 decoded = decode_scales(false, *bytes);
  __m256 is_nothing = _mm256_cmp_ps(decoded, zero, _CMP_EQ_OQ);
  if (gpu) {
    *factor = _mm256_div_ps(_mm256_set1_ps(1.0f), decoded);
    return _mm256_movemask_ps(is_nothing) == 0;
  }
  /* Dividing by infinity makes every code 0. */
  *factor = _mm256_blendv_ps(decoded, _mm256_set1_ps(INFINITY), is_nothing);
  return true;
}

/* The quotient. In the cpu profile it is rounded to the dtype, but where the scale is a power of two that changes no
 * code: the quotient is exact, except where it is so small that its code is 0 either way. */
INLINE __m256 quotient8(micro_format format, bool gpu, mlxq_dtype dtype, __m256 w, __m256 factor) {
  if (gpu || format.e8m0) return _mm256_mul_ps(w, factor);
  return round8(dtype, _mm256_div_ps(w, factor));
}

/* A block's codes; factors[i] is for group i. */
INLINE void encode_block(micro_format format, bool gpu, mlxq_dtype dtype, const uint8_t *dense, uint8_t *packed,
                         const float *factors) {
  const size_t width = dtype_bytes(dtype);
  for (size_t i = 0; i < BLOCK * format.group_size; i += 32) {
    __m256i codes[4];
    for (size_t part = 0; part < 4; part++) {
      const size_t at = i + 8 * part;
      __m256 factor = _mm256_broadcast_ss(&factors[at / format.group_size]);
      __m256 q = quotient8(format, gpu, dtype, load8(dtype, dense + at * width), factor);
      codes[part] = format.bits == 8 ? encode_e4m3(q) : place_e2m1(gpu, q);
    }
    if (format.bits == 8) {
      store256(packed + i, narrow_to_bytes(false, codes));
    } else {
      pack32(4, packed + i / 2, codes_e2m1(gpu, narrow_to_bytes(true, codes)));
    }
  }
}

INLINE size_t quantize(micro_format format, bool gpu, mlxq_dtype dtype, quantize_call call) {
  const size_t groups = call.args->groups;
  size_t group = 0;
  for (; group + BLOCK <= groups; group += BLOCK) {
    const uint8_t *dense = call.dense + group * call.dense_bytes;
    __m256i bytes;
    __m256 factor;
    float factors[BLOCK];
    if (!scales8(format, gpu, dtype, largest8(dtype, dense, format.group_size), &bytes, &factor)) {
      leave(&call, group, BLOCK);
      continue;
    }
    _mm256_storeu_ps(factors, factor);
    encode_block(format, gpu, dtype, dense, call.packed + group * call.packed_bytes, factors);
    store_bytes8(call.scales + group, bytes);
  }
  if (group < groups) leave(&call, group, groups - group);
  return call.first_bad;
}

INLINE size_t quantize_any(micro_format format, mlxq_quantize_fn ref, const mlxq_kernel_args *args, const void *dense,
                           void *packed, void *scales) {
  const quantize_call call = new_call(ref, args, format.bits, 1, dense, packed, scales, NULL);
#define CALL(gpu, dtype) quantize(format, gpu, dtype, call)
  return SPECIALISE(args, CALL);
#undef CALL
}

/* ---- Dequantize ------------------------------------------------------------------------------------------------ */

#define E2M1_MAGNITUDES _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f)
#define E2M1_NEGATIVES  _mm256_setr_ps(-0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f)

/* 32 E2M1 codes to a 16-bit dtype: the table of a group has all sixteen values. */
INLINE void decode_e2m1_half(mlxq_dtype dtype, size_t group_size, __m256i codes, uint8_t *dense, const float *scales) {
  __m256i lower[2], upper[2];
  for (size_t i = 0; i < 32 / group_size; i++) {
    __m256 s = _mm256_broadcast_ss(&scales[i]);
    make_table(narrow8(dtype, _mm256_mul_ps(E2M1_MAGNITUDES, s)), narrow8(dtype, _mm256_mul_ps(E2M1_NEGATIVES, s)),
               &lower[i], &upper[i]);
  }
  if (group_size == 16) { /* one group's table in each half */
    __m256i low = _mm256_shuffle_epi8(_mm256_blend_epi32(lower[0], lower[1], 0xF0), codes);
    __m256i high = _mm256_shuffle_epi8(_mm256_blend_epi32(upper[0], upper[1], 0xF0), codes);
    __m256i first = _mm256_unpacklo_epi8(low, high), second = _mm256_unpackhi_epi8(low, high);
    store256(dense, _mm256_permute2x128_si256(first, second, 0x20));
    store256(dense + 32, _mm256_permute2x128_si256(first, second, 0x31));
  } else {
    store_looked_up(dense, codes, lower[0], upper[0]);
  }
}

INLINE __m256 decode_e2m1(__m256i codes) {
  __m256i sign = _mm256_and_si256(_mm256_slli_epi32(codes, 28), _mm256_set1_epi32(INT32_MIN));
  return _mm256_or_ps(_mm256_permutevar8x32_ps(E2M1_MAGNITUDES, codes), _mm256_castsi256_ps(sign));
}

/* Eight E4M3 codes that are not NaN. With the exponent's field moved they are the F16 of a 256th. */
INLINE __m256 decode_e4m3(__m128i codes) {
  __m128i half = _mm_and_si128(_mm_slli_epi16(_mm_cvtepi8_epi16(codes), 7), _mm_set1_epi16((int16_t)0xBFFF));
  return _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.0f));
}

/* 32 codes, of one group or two. */
INLINE void decode32(micro_format format, mlxq_dtype dtype, __m256i codes, uint8_t *dense, const float *scales) {
  const size_t width = dtype_bytes(dtype);
  if (format.bits == 4 && width == 2) {
    decode_e2m1_half(dtype, format.group_size, codes, dense, scales);
    return;
  }
  for (size_t part = 0; part < 4; part++) {
    __m128i half = part < 2 ? _mm256_castsi256_si128(codes) : _mm256_extracti128_si256(codes, 1);
    if (part % 2 == 1) half = _mm_srli_si128(half, 8);
    __m256 value = format.bits == 8 ? decode_e4m3(half) : decode_e2m1(_mm256_cvtepu8_epi32(half));
    __m256 s = _mm256_broadcast_ss(&scales[8 * part / format.group_size]);
    store8(dtype, dense + 8 * part * width, _mm256_mul_ps(value, s));
  }
}

INLINE bool has_nan(micro_format format, __m256i codes) {
  if (format.bits == 4) return false;
  const __m256i nan = _mm256_set1_epi8(0x7F);
  return _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_and_si256(codes, nan), nan)) != 0;
}

INLINE void dequantize(micro_format format, bool gpu, mlxq_dtype dtype, mlxq_dequantize_fn ref,
                       const mlxq_kernel_args *args, const uint8_t *packed, const uint8_t *scales, uint8_t *dense) {
  const size_t groups = args->groups, packed_bytes = format.group_size / 8 * format.bits;
  const size_t dense_bytes = format.group_size * dtype_bytes(dtype), chunk_groups = 32 / format.group_size;
  mlxq_kernel_args rest = *args;
  size_t group = 0;
  for (; group + BLOCK <= groups; group += BLOCK) {
    float decoded[BLOCK];
    uint64_t bytes;
    memcpy(&bytes, scales + group, sizeof bytes);
    __m256 s = decode_scales(format.e8m0, _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)bytes)));
    if (!gpu) s = round8(dtype, s);
    if (!are_finite8(s)) {
      rest.groups = BLOCK;
      ref(&rest, packed + group * packed_bytes, scales + group, NULL, dense + group * dense_bytes);
      continue;
    }
    _mm256_storeu_ps(decoded, s);
    for (size_t i = 0; i < BLOCK; i += chunk_groups) {
      const uint8_t *from = packed + (group + i) * packed_bytes;
      uint8_t *to = dense + (group + i) * dense_bytes;
      __m256i codes = unpack32(format.bits, from);
      if (has_nan(format, codes)) {
        rest.groups = chunk_groups;
        ref(&rest, from, scales + group + i, NULL, to);
      } else {
        decode32(format, dtype, codes, to, &decoded[i]);
      }
    }
  }
  rest.groups = groups - group;
  if (rest.groups > 0) ref(&rest, packed + group * packed_bytes, scales + group, NULL, dense + group * dense_bytes);
}

INLINE void dequantize_any(micro_format format, mlxq_dequantize_fn ref, const mlxq_kernel_args *args,
                           const uint8_t *packed, const uint8_t *scales, uint8_t *dense) {
#define CALL(gpu, dtype) dequantize(format, gpu, dtype, ref, args, packed, scales, dense)
  SPECIALISE(args, CALL);
#undef CALL
}

#define QUANTIZE(name, format)   quantize_any(format, mlxq_quantize_##name##_ref, args, dense, packed, scales)
#define DEQUANTIZE(name, format) dequantize_any(format, mlxq_dequantize_##name##_ref, args, packed, scales, dense)
MLXQ_DEFINE_MICRO(avx2, QUANTIZE, DEQUANTIZE)
