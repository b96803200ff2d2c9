/* Affine quantization, 2 to 8 bits, for AVX2: bit for bit ref/affine_ref.c. */
#include "kernels/kernel_list.h"
#include "kernels/x86/avx2.h"

/* ---- Quantize -------------------------------------------------------------------------------------------------- */

/* To the nearest integer: half to even (cpu), half away from zero (gpu). Any finite x. */
INLINE __m256 round_to_whole(bool gpu, __m256 x) {
  if (!gpu) return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 sign = _mm256_and_ps(x, _mm256_set1_ps(-0.0f));
  __m256 whole = _mm256_round_ps(x, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
  __m256 up = _mm256_cmp_ps(abs8(_mm256_sub_ps(x, whole)), _mm256_set1_ps(0.5f), _CMP_GE_OQ);
  return _mm256_add_ps(whole, _mm256_and_ps(up, _mm256_or_ps(sign, _mm256_set1_ps(1.0f))));
}

/* The float32 scales and biases of eight groups. */
INLINE void fit8(bool gpu, float n, __m256 lo, __m256 hi, __m256 *scale, __m256 *bias) {
  const __m256 zero = _mm256_setzero_ps();
  if (gpu) hi = _mm256_max_ps(hi, zero);
  __m256 side = _mm256_cmp_ps(abs8(lo), abs8(hi), _CMP_GT_OQ);
  __m256 s = _mm256_max_ps(_mm256_div_ps(_mm256_sub_ps(hi, lo), _mm256_set1_ps(n)), _mm256_set1_ps(1e-7f));
  s = _mm256_xor_ps(s, _mm256_andnot_ps(side, _mm256_set1_ps(-0.0f)));
  __m256 edge = _mm256_blendv_ps(hi, lo, side);
  __m256 q0 = round_to_whole(gpu, _mm256_div_ps(edge, s));
  __m256 is_zero = _mm256_cmp_ps(q0, zero, _CMP_EQ_OQ);
  *scale = _mm256_blendv_ps(_mm256_div_ps(edge, q0), s, is_zero);
  *bias = _mm256_andnot_ps(is_zero, edge);
}

/* Whether all extremes are finite and below 1e30: then scales are neither 0 nor infinite, and (w - b) / s is at most
 * about 2 * n, within what converts to an integer. */
INLINE bool is_ordinary(__m256 lo, __m256 hi) {
  const __m256 limit = _mm256_set1_ps(1e30f);
  __m256 below = _mm256_and_ps(_mm256_cmp_ps(abs8(lo), limit, _CMP_LT_OQ), _mm256_cmp_ps(abs8(hi), limit, _CMP_LT_OQ));
  return _mm256_movemask_ps(below) == 0xFF;
}

/* rnd((w - b) / s), not clamped. A negative quotient may round to 0 or below; either is clamped to 0. */
INLINE __m256i encode8(bool gpu, __m256 w, __m256 s, __m256 b) {
  __m256 x = _mm256_div_ps(_mm256_sub_ps(w, b), s);
  if (!gpu) return _mm256_cvtps_epi32(x);
  __m256i whole = _mm256_cvttps_epi32(x);
  __m256 up = _mm256_cmp_ps(_mm256_sub_ps(x, _mm256_cvtepi32_ps(whole)), _mm256_set1_ps(0.5f), _CMP_GE_OQ);
  return _mm256_sub_epi32(whole, _mm256_castps_si256(up)); /* true is -1 */
}

INLINE void encode_group(unsigned bits, bool gpu, mlxq_dtype dtype, size_t size, const uint8_t *dense, uint8_t *packed,
                         __m256 s, __m256 b) {
  const size_t width = dtype_bytes(dtype);
  for (size_t i = 0; i < size; i += 32) {
    __m256i codes[4];
    for (size_t part = 0; part < 4; part++) {
      codes[part] = encode8(gpu, load8(dtype, dense + (i + 8 * part) * width), s, b);
    }
    __m256i bytes = _mm256_min_epu8(narrow_to_bytes(false, codes), _mm256_set1_epi8((int8_t)((1u << bits) - 1)));
    pack32(bits, packed + i / 8 * bits, bytes);
  }
}

INLINE size_t quantize(unsigned bits, bool gpu, mlxq_dtype dtype, quantize_call call) {
  const size_t size = call.args->group_size, groups = call.args->groups;
  const float n = (float)((1u << bits) - 1);
  size_t group = 0;
  for (; group + BLOCK <= groups; group += BLOCK) {
    __m256 lo, hi, scale, bias;
    float scales[BLOCK], biases[BLOCK];
    range8(dtype, call.dense + group * call.dense_bytes, size, &lo, &hi);
    if (!is_ordinary(lo, hi)) {
      leave(&call, group, BLOCK);
      continue;
    }
    fit8(gpu, n, lo, hi, &scale, &bias);
    _mm256_storeu_ps(scales, scale);
    _mm256_storeu_ps(biases, bias);
    for (size_t i = 0; i < BLOCK; i++) {
      encode_group(bits, gpu, dtype, size, call.dense + (group + i) * call.dense_bytes,
                   call.packed + (group + i) * call.packed_bytes, _mm256_set1_ps(scales[i]), _mm256_set1_ps(biases[i]));
    }
    store8(dtype, call.scales + group * call.scale_bytes, scale);
    store8(dtype, call.biases + group * call.scale_bytes, bias);
  }
  if (group < groups) leave(&call, group, groups - group);
  return call.first_bad;
}

INLINE size_t quantize_any(unsigned bits, mlxq_quantize_fn ref, const mlxq_kernel_args *args, const void *dense,
                           void *packed, void *scales, void *biases) {
  const quantize_call call = new_call(ref, args, bits, dtype_bytes(args->dtype), dense, packed, scales, biases);
#define CALL(gpu, dtype) quantize(bits, gpu, dtype, call)
  return SPECIALISE(args, CALL);
#undef CALL
}

/* ---- Dequantize ------------------------------------------------------------------------------------------------ */

/* Values of eight codes in float32: the last rounding, to the dtype, is still to come. */
INLINE __m256 decode8(bool gpu, mlxq_dtype dtype, __m256i codes, __m256 s, __m256 b) {
  __m256 x = _mm256_cvtepi32_ps(codes);
  if (gpu) return _mm256_fmadd_ps(x, s, b);
  return _mm256_add_ps(round8(dtype, _mm256_mul_ps(x, s)), b);
}

INLINE void decode_group(unsigned bits, bool gpu, mlxq_dtype dtype, size_t size, const uint8_t *packed, uint8_t *dense,
                         __m256 s, __m256 b) {
  const size_t width = dtype_bytes(dtype);
  if (bits <= 4 && width == 2) { /* at most sixteen values: a table */
    const __m256i count = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i lower, upper;
    make_table(narrow8(dtype, decode8(gpu, dtype, count, s, b)),
               narrow8(dtype, decode8(gpu, dtype, _mm256_add_epi32(count, _mm256_set1_epi32(8)), s, b)), &lower,
               &upper);
    for (size_t i = 0; i < size; i += 32) {
      store_looked_up(dense + i * width, unpack32(bits, packed + i / 8 * bits), lower, upper);
    }
    return;
  }
  for (size_t i = 0; i < size; i += 32) {
    __m256i codes = unpack32(bits, packed + i / 8 * bits);
    for (int part = 0; part < 4; part++) {
      store8(dtype, dense + (i + 8 * (size_t)part) * width, decode8(gpu, dtype, spread8(codes, part), s, b));
    }
  }
}

INLINE void dequantize(unsigned bits, bool gpu, mlxq_dtype dtype, mlxq_dequantize_fn ref, const mlxq_kernel_args *args,
                       const uint8_t *packed, const uint8_t *scales, const uint8_t *biases, uint8_t *dense) {
  const size_t size = args->group_size, groups = args->groups, width = dtype_bytes(dtype);
  const size_t packed_bytes = size / 8 * bits, dense_bytes = size * width;
  mlxq_kernel_args rest = *args;
  size_t group = 0;
  for (; group + BLOCK <= groups; group += BLOCK) {
    float s[BLOCK], b[BLOCK];
    __m256 block_scales = load8(dtype, scales + group * width), block_biases = load8(dtype, biases + group * width);
    if (!are_finite8(block_scales) || !are_finite8(block_biases)) {
      rest.groups = BLOCK;
      ref(&rest, packed + group * packed_bytes, scales + group * width, biases + group * width,
          dense + group * dense_bytes);
      continue;
    }
    _mm256_storeu_ps(s, block_scales);
    _mm256_storeu_ps(b, block_biases);
    for (size_t i = 0; i < BLOCK; i++) {
      decode_group(bits, gpu, dtype, size, packed + (group + i) * packed_bytes, dense + (group + i) * dense_bytes,
                   _mm256_broadcast_ss(&s[i]), _mm256_broadcast_ss(&b[i]));
    }
  }
  rest.groups = groups - group;
  if (rest.groups > 0) {
    ref(&rest, packed + group * packed_bytes, scales + group * width, biases + group * width,
        dense + group * dense_bytes);
  }
}

INLINE void dequantize_any(unsigned bits, mlxq_dequantize_fn ref, const mlxq_kernel_args *args, const uint8_t *packed,
                           const uint8_t *scales, const uint8_t *biases, uint8_t *dense) {
#define CALL(gpu, dtype) dequantize(bits, gpu, dtype, ref, args, packed, scales, biases, dense)
  SPECIALISE(args, CALL);
#undef CALL
}

#define QUANTIZE(bits)   quantize_any(bits, mlxq_quantize_affine##bits##_ref, args, dense, packed, scales, biases)
#define DEQUANTIZE(bits) dequantize_any(bits, mlxq_dequantize_affine##bits##_ref, args, packed, scales, biases, dense)
MLXQ_DEFINE_AFFINE(avx2, QUANTIZE, DEQUANTIZE)
