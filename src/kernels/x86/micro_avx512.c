/* The formats whose groups have a scale of one byte, for AVX-512: bit for bit ref/micro_ref.c. */
#include "kernels/kernel_list.h"
#include "kernels/x86/avx512.h"

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

/* Both vectors of a pair: the value of a chunk's group, or of its two groups. */
INLINE __m512 spread(micro_format format, const float *values) {
  __m512 first = _mm512_set1_ps(values[0]);
  return format.group_size == 32 ? first : _mm512_mask_mov_ps(first, 0xFF00, _mm512_set1_ps(values[1]));
}

/* ---- E4M3, E8M0 ------------------------------------------------------------------------------------------------ */

/* |x| to E4M3, saturating; as mlxq_f32_to_e4m3. A sum with `unit`, whose last place is that of the code, rounds. */
INLINE __m512i encode_e4m3_magnitude(__m512 x) {
  __m512i exponent = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7F800000));
  __m512i unit = _mm512_max_epi32(exponent, _mm512_set1_epi32(121 << 23)); /* subnormals have the exponent -6 too */
  unit = _mm512_add_epi32(unit, _mm512_set1_epi32(20 << 23));
  __m512i sum = _mm512_castps_si512(_mm512_add_ps(_mm512_abs_ps(x), _mm512_castsi512_ps(unit)));
  __m512i whole = _mm512_add_epi32(_mm512_sub_epi32(sum, unit), _mm512_srli_epi32(unit, 20));
  return _mm512_min_epi32(_mm512_sub_epi32(whole, _mm512_set1_epi32(141 << 3)), _mm512_set1_epi32(0x7E));
}

INLINE __m512i encode_e4m3(__m512 x) {
  __m512i signs = _mm512_srli_epi32(_mm512_castps_si512(x), 24);
  return _mm512_ternarylogic_epi32(encode_e4m3_magnitude(x), signs, _mm512_set1_epi32(0x80), 0xF8); /* a | (b & c) */
}

/* Sixteen scale bytes to float32; E4M3 0x7F and 0xFF are NaN. */
INLINE __m512 decode_scales(bool e8m0, __m512i bytes) {
  if (e8m0) return _mm512_castsi512_ps(_mm512_max_epu32(_mm512_slli_epi32(bytes, 23), _mm512_set1_epi32(0x400000)));
  __m512i magnitude = _mm512_and_si512(bytes, _mm512_set1_epi32(0x7F));
  __m512 sign = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_xor_si512(bytes, magnitude), 24));
  /* The exponent's bias goes from 7 to 127. Never through a float32 that is subnormal: that takes long. */
  __m512i normal = _mm512_add_epi32(_mm512_slli_epi32(magnitude, 20), _mm512_set1_epi32(120 << 23));
  __mmask16 is_small = _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32(8));
  __m512 value =
      _mm512_mask_mul_ps(_mm512_castsi512_ps(normal), is_small, _mm512_cvtepi32_ps(magnitude), _mm512_set1_ps(0x1p-9f));
  __mmask16 is_nan = _mm512_cmpeq_epi32_mask(magnitude, _mm512_set1_epi32(0x7F));
  value = _mm512_mask_mov_ps(value, is_nan, _mm512_castsi512_ps(_mm512_set1_epi32(0x7FC00000)));
  return _mm512_or_ps(value, sign);
}

/* ---- Quantize -------------------------------------------------------------------------------------------------- */

/* What a block's elements are multiplied with (nvfp4 of float32, cpu: divided by); in words, what is subtracted from
 * the magnitudes of 16-bit floats to the same end where the scale is a power of two. */
typedef struct factors {
  float values[BLOCK];
  int32_t words[BLOCK];
  int32_t least[BLOCK]; /* the lowest of such differences that is a normal E4M3, of a normal float16 */
} factors;

INLINE bool divides(micro_format format, bool gpu, mlxq_dtype dtype) {
  return !format.e8m0 && !gpu && dtype == MLXQ_F32;
}

/* Whether 16 bits hold a quotient: divided by a power of two, a normal float has another exponent. */
INLINE bool has_quotient_words(micro_format format, mlxq_dtype dtype) {
  return format.e8m0 && dtype != MLXQ_F32;
}

INLINE int mantissa_bits(mlxq_dtype dtype) {
  return dtype == MLXQ_F16 ? 10 : 7;
}

INLINE __mmask32 is_subnormal_half(__m512i magnitude) {
  return _mm512_cmplt_epi16_mask(magnitude, _mm512_set1_epi16(0x400));
}

/* Scale bytes of sixteen groups with these largest magnitudes, and the factors. Where the scale is a power of two,
 * multiplying with its inverse rounds as dividing does. False: a case for the reference. */
INLINE bool scales16(micro_format format, bool gpu, mlxq_dtype dtype, __m512 amax, __m512i *bytes, factors *factor) {
  const __m512 zero = _mm512_setzero_ps(), one = _mm512_set1_ps(1.0f);
  /* E8M0: no wrap-around, and no power of two whose inverse is subnormal; E4M3: quotients below 2^24. Not NaN. */
  __mmask16 ordinary = _mm512_cmp_ps_mask(amax, _mm512_set1_ps(format.e8m0 ? 0x1p120f : 0x1p30f), _CMP_LT_OQ);
  if (format.e8m0) {
    __mmask16 large = _mm512_cmp_ps_mask(amax, _mm512_set1_ps(0x1p-100f), _CMP_GE_OQ);
    ordinary &= (__mmask16)(large | _mm512_cmp_ps_mask(amax, zero, _CMP_EQ_OQ));
  }
  if (ordinary != 0xFFFF) return false;
  __m512 s = _mm512_div_ps(amax, _mm512_set1_ps(format.largest));
  if (!gpu) s = round16(dtype, s);
  if (format.e8m0) {
    __m512i e = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(s), _mm512_set1_epi32(0x7FFFFF)), 23);
    if (!gpu) e = _mm512_mask_mov_epi32(e, _mm512_cmp_ps_mask(s, zero, _CMP_EQ_OQ), _mm512_set1_epi32(127));
    *bytes = e;
    _mm512_storeu_ps(factor->values,
                     _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_sub_epi32(_mm512_set1_epi32(254), e), 23)));
    /* As the dtype shows the exponent of E2M1's values, and as E4M3 has its own. Zeros are to stay small: below 2^-9.
     */
    const int bias = format.bits == 4 ? 127 : dtype == MLXQ_F16 ? 127 - 15 + 7 : 7;
    __m512i word = _mm512_max_epi32(e, _mm512_set1_epi32(16));
    word = _mm512_sll_epi32(_mm512_sub_epi32(word, _mm512_set1_epi32(bias)), _mm_cvtsi32_si128(mantissa_bits(dtype)));
    word = _mm512_mask_blend_epi16(0xAAAAAAAA, word, _mm512_slli_epi32(word, 16));
    store512(factor->words, word);
    if (dtype == MLXQ_F16 && format.bits == 8) {
      const __m512i least = _mm512_set1_epi16(0x400);
      store512(factor->least, _mm512_max_epi16(least, _mm512_sub_epi16(least, word)));
    }
    return true;
  }
  *bytes = encode_e4m3_magnitude(s);
  __m512 decoded = decode_scales(false, *bytes);
  __mmask16 is_nothing = _mm512_cmp_ps_mask(decoded, zero, _CMP_EQ_OQ);
  if (gpu && is_nothing != 0) return false;
  /* Multiplying with 0 or dividing by infinity makes every code 0. */
  _mm512_storeu_ps(factor->values, divides(format, gpu, dtype)
                                       ? _mm512_mask_mov_ps(decoded, is_nothing, _mm512_set1_ps(INFINITY))
                                       : _mm512_maskz_div_ps(_mm512_knot(is_nothing), one, decoded));
  return true;
}

/* The quotients of 32 elements. In the cpu profile they are rounded to the dtype, but where the scale is a power of two
 * that changes no code: the quotient is exact, except where it is so small that its code is 0 either way. For nvfp4,
 * see place_offset. */
INLINE pair quotients(micro_format format, bool gpu, mlxq_dtype dtype, const uint8_t *dense, const float *values) {
  const __m512 factor = spread(format, values);
  pair w = load_pair(dtype, dense);
  if (divides(format, gpu, dtype)) return (pair){_mm512_div_ps(w.even, factor), _mm512_div_ps(w.odd, factor)};
  return (pair){_mm512_mul_ps(w.even, factor), _mm512_mul_ps(w.odd, factor)};
}

/* 32 codes of E4M3, as words. */
INLINE __m512i encode_e4m3_words(bool gpu, mlxq_dtype dtype, const uint8_t *dense, const factors *factor,
                                 size_t group) {
  if (has_quotient_words(MXFP8, dtype)) {
    const int dropped = mantissa_bits(dtype) - 3;
    __m512i w = load512(dense), magnitude = _mm512_and_si512(w, _mm512_set1_epi16(0x7FFF));
    __m512i x = _mm512_sub_epi16(magnitude, _mm512_set1_epi32(factor->words[group]));
    const int32_t least = dtype == MLXQ_F16 ? factor->least[group] : (8 << dropped) * 0x10001;
    __mmask32 is_subnormal = _mm512_cmplt_epi16_mask(x, _mm512_set1_epi32(least));
    if (__builtin_expect(is_subnormal == 0, 1)) {
      __mmask32 odd = _mm512_test_epi16_mask(x, _mm512_set1_epi16((int16_t)(1 << dropped)));
      x = _mm512_add_epi16(x, _mm512_set1_epi16((int16_t)((1 << (dropped - 1)) - 1)));
      x = _mm512_mask_add_epi16(x, odd, x, _mm512_set1_epi16(1));
      x = dtype == MLXQ_F16 ? _mm512_srli_epi16(x, 7) : _mm512_srli_epi16(x, 4);
      if (dtype == MLXQ_F16) x = _mm512_min_epi16(x, _mm512_set1_epi16(0x7E)); /* a subnormal scale is rounded far */
      return _mm512_ternarylogic_epi32(x, _mm512_srli_epi16(w, 8), _mm512_set1_epi16(0x80), 0xF8); /* a | (b & c) */
    }
  }
  pair q = quotients(MXFP8, gpu, dtype, dense, &factor->values[group]);
  return _mm512_or_si512(encode_e4m3(q.even), _mm512_slli_epi32(encode_e4m3(q.odd), 16));
}

/* Where q lies among the values .25 * (1, 1.25, 1.5, 1.75, 2, 2.5, ...), which all boundaries between codes are of, is
 * its upper bits once this is added: beyond a boundary, the next place. The quotient in the cpu profile of nvfp4 is
 * rounded to the dtype, a value half a unit beyond a boundary to the boundary. A quotient of a dtype's value and an
 * E4M3 that is not that value is more than 2^9 (float16: 2^6) units of float32 from it; what is multiplied with an
 * inverse instead is no more than 2 units from the quotient. */
INLINE int32_t place_offset(micro_format format, bool gpu, mlxq_dtype dtype) {
  const bool rounds = !format.e8m0 && !gpu;
  return (1 << 21) - (rounds && dtype == MLXQ_BF16 ? 0x8100 : rounds && dtype == MLXQ_F16 ? 0x1020 : 1);
}

/* The upper halves of such sums. The boundaries whose tie goes up in the gpu profile (.75, 1.75, 3.5) are those with
 * the upper bit of the mantissa set: there, one unit more is added. */
INLINE __m512i place16(micro_format format, bool gpu, mlxq_dtype dtype, __m512 q) {
  __m512 x = _mm512_range_ps(q, _mm512_set1_ps(0.25f), 0x0B); /* the larger magnitude */
  if (!format.e8m0) x = _mm512_min_ps(x, _mm512_set1_ps(8.0f));
  __m512i bits = _mm512_castps_si512(x);
  __m512i sum = _mm512_add_epi32(bits, _mm512_set1_epi32(place_offset(format, gpu, dtype)));
  if (!gpu) return sum;
  return _mm512_mask_add_epi32(sum, _mm512_test_epi32_mask(bits, _mm512_set1_epi32(1 << 22)), sum,
                               _mm512_set1_epi32(1));
}

/* By the lowest five bits of a place: those of |q| <= .25 are 20. */
static const uint16_t CODE_OF_PLACE[32] = {4, 4, 5, 5, 6, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
                                           7, 7, 7, 7, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3};

/* The places of 32 quotients that words hold. Float16s that are subnormal have the code 0: see encode_e2m1_words. */
INLINE __m512i quotient_places(bool gpu, mlxq_dtype dtype, __m512i w, int32_t subtracted) {
  const int dropped = mantissa_bits(dtype) - 2;
  const __m512i quarter = _mm512_set1_epi16(dtype == MLXQ_F16 ? 0x3400 : 0x3E80);
  __m512i x = _mm512_and_si512(w, _mm512_set1_epi16(0x7FFF));
  __mmask32 taken = dtype == MLXQ_F16 ? _knot_mask32(is_subnormal_half(x)) : UINT32_MAX;
  x = _mm512_max_epi16(_mm512_maskz_sub_epi16(taken, x, _mm512_set1_epi32(subtracted)), quarter);
  __m512i places = _mm512_add_epi16(x, _mm512_set1_epi16((int16_t)((1 << dropped) - 1)));
  if (gpu) {
    __mmask32 upper = _mm512_test_epi16_mask(x, _mm512_set1_epi16((int16_t)(2 << dropped)));
    places = _mm512_mask_add_epi16(places, upper, places, _mm512_set1_epi16(1));
  }
  return dtype == MLXQ_F16 ? _mm512_srli_epi16(places, 8) : _mm512_srli_epi16(places, 5);
}

/* 32 codes of E2M1, as words. */
INLINE __m512i encode_e2m1_words(micro_format format, bool gpu, mlxq_dtype dtype, const uint8_t *dense,
                                 const factors *factor, size_t group) {
  __m512i places, signs;
  /* A float16 below 2^-14, multiplied with 2^12, is no more than .25. */
  if (has_quotient_words(format, dtype) && (dtype == MLXQ_BF16 || factor->values[group] <= 0x1p12f)) {
    signs = load512(dense);
    places = quotient_places(gpu, dtype, signs, factor->words[group]);
  } else {
    pair q = quotients(format, gpu, dtype, dense, &factor->values[group]);
    signs = upper_halves(_mm512_castps_si512(q.even), _mm512_castps_si512(q.odd));
    places = upper_halves(place16(format, gpu, dtype, q.even), place16(format, gpu, dtype, q.odd));
    places = _mm512_srli_epi16(places, 5);
  }
  __m512i codes = _mm512_permutexvar_epi16(places, load512(CODE_OF_PLACE));
  __mmask32 negative = _mm512_movepi16_mask(signs);
  if (!gpu) negative = _mm512_mask_test_epi16_mask(negative, codes, codes); /* no -0 */
  return _mm512_mask_add_epi16(codes, negative, codes, _mm512_set1_epi16(8));
}

INLINE void encode_block(micro_format format, bool gpu, mlxq_dtype dtype, const uint8_t *dense, uint8_t *packed,
                         const factors *factor) {
  for (size_t i = 0; i < BLOCK * format.group_size; i += 32) {
    const uint8_t *from = dense + i * dtype_bytes(dtype);
    const size_t group = i / format.group_size;
    fetch_ahead(dtype, from, 2 * BLOCK * format.group_size * dtype_bytes(dtype));
    if (format.bits == 8) {
      store256(packed + i, _mm512_cvtepi16_epi8(encode_e4m3_words(gpu, dtype, from, factor, group)));
    } else {
      __m512i codes = encode_e2m1_words(format, gpu, dtype, from, factor, group);
      __m512i pairs = _mm512_madd_epi16(codes, _mm512_set1_epi32(1 | 1 << 20));
      _mm_storeu_si128((__m128i *)(void *)(packed + i / 2), _mm512_cvtepi32_epi8(pairs));
    }
  }
}

/* Finds a block's scales. False: a case for the other kernel. */
INLINE bool scale_block(micro_format format, bool gpu, mlxq_dtype dtype, const quantize_call *call, size_t group,
                        factors *factor) {
  __m512i bytes;
  __m512 amax = find_extreme(LARGEST_MAGNITUDE, dtype, call->dense + group * call->dense_bytes, format.group_size);
  if (!scales16(format, gpu, dtype, amax, &bytes, factor)) return false;
  _mm_storeu_si128((__m128i *)(void *)(call->scales + group), _mm512_cvtepi32_epi8(bytes));
  return true;
}

/* Scales are a block ahead of codes: their long chain of operations then runs beside these. */
INLINE size_t quantize(micro_format format, bool gpu, mlxq_dtype dtype, quantize_call call) {
  const size_t groups = call.args->groups, end = groups - groups % BLOCK;
  factors factor[2];
  bool usable = end > 0 && scale_block(format, gpu, dtype, &call, 0, &factor[0]);
  for (size_t group = 0; group < end; group += BLOCK) {
    const size_t next = group + BLOCK;
    bool next_usable = next < end && scale_block(format, gpu, dtype, &call, next, &factor[next / BLOCK % 2]);
    if (usable) {
      encode_block(format, gpu, dtype, call.dense + group * call.dense_bytes, call.packed + group * call.packed_bytes,
                   &factor[group / BLOCK % 2]);
    } else {
      leave(&call, group, BLOCK);
    }
    usable = next_usable;
  }
  if (end < groups) leave(&call, end, groups - end);
  return call.first_bad;
}

INLINE size_t quantize_any(micro_format format, mlxq_quantize_fn rest, const mlxq_kernel_args *args, const void *dense,
                           void *packed, void *scales) {
  const quantize_call call = new_call(rest, args, format.bits, 1, dense, packed, scales, NULL);
#define CALL(gpu, dtype) quantize(format, gpu, dtype, call)
  return SPECIALISE(args, CALL);
#undef CALL
}

/* ---- Dequantize ------------------------------------------------------------------------------------------------ */

#define E2M1 \
  _mm512_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f, -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f)

/* 32 codes, of one group or two. */
INLINE void decode_e2m1(micro_format format, mlxq_dtype dtype, __m512i codes, uint8_t *dense, const float *scales) {
  if (dtype == MLXQ_F32) {
    const __m512 s = spread(format, scales);
    store_pair(dtype, dense,
               (pair){_mm512_mul_ps(_mm512_permutexvar_ps(codes, E2M1), s),
                      _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(codes, 16), E2M1), s)});
    return;
  }
  /* A table of 32 words: one group's sixteen values twice, or those of both. */
  __m256i first = narrow16(dtype, _mm512_mul_ps(E2M1, _mm512_set1_ps(scales[0]))), second = first;
  if (format.group_size == 16) {
    second = narrow16(dtype, _mm512_mul_ps(E2M1, _mm512_set1_ps(scales[1])));
    const __m512i group = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(16), 1);
    codes = _mm512_ternarylogic_epi32(group, codes, _mm512_set1_epi16(15), 0xF8); /* a | (b & c) */
  }
  __m512i table = _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
  store512(dense, _mm512_permutexvar_epi16(codes, table));
}

/* Sixteen E4M3 codes that are not NaN. With the exponent's field moved they are the F16 of a 256th. */
INLINE __m512 decode_e4m3(__m128i codes) {
  __m256i half =
      _mm256_and_si256(_mm256_slli_epi16(_mm256_cvtepi8_epi16(codes), 7), _mm256_set1_epi16((int16_t)0xBFFF));
  return _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0f));
}

/* 32 E4M3 codes, sign-extended to words, to bfloat16: `byte` is an E8M0 with which all values are normal. */
INLINE __m512i decode_e4m3_bf16(__m512i codes, uint8_t byte) {
  /* The subnormals 1 to 7 as numbers with an exponent, below that of the normal ones. */
  const __m512i subnormals =
      _mm512_castsi128_si512(_mm_setr_epi16(0, -2 * 0x80, -1 * 0x80, -1 * 0x80 + 0x40, 0, 0x20, 0x40, 0x60));
  __m512i x = _mm512_and_si512(_mm512_slli_epi16(codes, 4), _mm512_set1_epi16(0x7F0));
  __mmask32 is_subnormal = _mm512_cmplt_epi16_mask(x, _mm512_set1_epi16(0x80));
  __mmask32 is_not_zero = _mm512_test_epi16_mask(x, x);
  x = _mm512_mask_permutexvar_epi16(x, is_subnormal, codes, subnormals);
  x = _mm512_maskz_add_epi16(is_not_zero, x, _mm512_set1_epi16((int16_t)((byte - 7) * 0x80)));
  return _mm512_ternarylogic_epi32(x, codes, _mm512_set1_epi16(INT16_MIN), 0xF8); /* a | (b & c) */
}

/* 32 codes of MXFP8. False: a NaN among them is a case for the reference. */
INLINE bool decode_mxfp8(mlxq_dtype dtype, const uint8_t *packed, uint8_t *dense, uint8_t byte, float scale) {
  const __m256i nan = _mm256_set1_epi8(0x7F);
  __m256i codes = load256(packed);
  if (_mm256_cmpeq_epi8_mask(_mm256_and_si256(codes, nan), nan) != 0) return false;
  if (dtype == MLXQ_BF16 && byte >= 10 && byte <= 246) {
    store512(dense, decode_e4m3_bf16(_mm512_cvtepi8_epi16(codes), byte));
    return true;
  }
  const __m512 s = _mm512_set1_ps(scale);
  store16(dtype, dense, _mm512_mul_ps(decode_e4m3(_mm256_castsi256_si128(codes)), s));
  store16(dtype, dense + 16 * dtype_bytes(dtype), _mm512_mul_ps(decode_e4m3(_mm256_extracti128_si256(codes, 1)), s));
  return true;
}

INLINE void dequantize(micro_format format, bool gpu, mlxq_dtype dtype, mlxq_dequantize_fn rest,
                       const mlxq_kernel_args *args, const uint8_t *packed, const uint8_t *scales, uint8_t *dense) {
  const size_t groups = args->groups, packed_bytes = format.group_size / 8 * format.bits;
  const size_t dense_bytes = format.group_size * dtype_bytes(dtype), chunk_groups = 32 / format.group_size;
  mlxq_kernel_args last = *args;
  size_t group = 0;
  for (; group + BLOCK <= groups; group += BLOCK) {
    float decoded[BLOCK];
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(scales + group));
    __m512 s = decode_scales(format.e8m0, _mm512_cvtepu8_epi32(bytes));
    if (!gpu) s = round16(dtype, s);
    if (!are_finite16(s)) {
      last.groups = BLOCK;
      rest(&last, packed + group * packed_bytes, scales + group, NULL, dense + group * dense_bytes);
      continue;
    }
    _mm512_storeu_ps(decoded, s);
    for (size_t i = 0; i < BLOCK; i += chunk_groups) {
      const uint8_t *from = packed + (group + i) * packed_bytes;
      uint8_t *to = dense + (group + i) * dense_bytes;
      if (format.bits == 4) {
        decode_e2m1(format, dtype, unpack32(4, from), to, &decoded[i]);
      } else if (!decode_mxfp8(dtype, from, to, scales[group + i], decoded[i])) {
        last.groups = 1;
        rest(&last, from, scales + group + i, NULL, to);
      }
    }
  }
  last.groups = groups - group;
  if (last.groups > 0) rest(&last, packed + group * packed_bytes, scales + group, NULL, dense + group * dense_bytes);
}

INLINE void dequantize_any(micro_format format, mlxq_dequantize_fn rest, const mlxq_kernel_args *args,
                           const uint8_t *packed, const uint8_t *scales, uint8_t *dense) {
#define CALL(gpu, dtype) dequantize(format, gpu, dtype, rest, args, packed, scales, dense)
  SPECIALISE(args, CALL);
#undef CALL
}

#define QUANTIZE(name, format)   quantize_any(format, mlxq_quantize_##name##_avx2, args, dense, packed, scales)
#define DEQUANTIZE(name, format) dequantize_any(format, mlxq_dequantize_##name##_avx2, args, packed, scales, dense)
MLXQ_DEFINE_MICRO(avx512, QUANTIZE, DEQUANTIZE)
