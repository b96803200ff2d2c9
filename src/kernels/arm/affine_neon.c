/* Affine quantization, 2 to 8 bits, for NEON: bit for bit ref/affine_ref.c. */
#include "kernels/arm/neon.h"
#include "kernels/kernel_list.h"

/* ---- Quantize -------------------------------------------------------------------------------------------------- */

/* The float32 scales and biases of four groups. */
INLINE void fit4(bool gpu, float n, float32x4_t lo, float32x4_t hi, float32x4_t *scale, float32x4_t *bias) {
  if (gpu) hi = vmaxnmq_f32(hi, vdupq_n_f32(0.0f));
  uint32x4_t side = vcagtq_f32(lo, hi); /* |lo| > |hi| */
  float32x4_t s = vmaxnmq_f32(vdivq_f32(vsubq_f32(hi, lo), vdupq_n_f32(n)), vdupq_n_f32(1e-7f));
  s = vbslq_f32(side, s, vnegq_f32(s));
  float32x4_t edge = vbslq_f32(side, lo, hi), quotient = vdivq_f32(edge, s);
  float32x4_t q0 = gpu ? vrndaq_f32(quotient) : vrndnq_f32(quotient);
  uint32x4_t is_zero = vceqzq_f32(q0);
  *scale = vbslq_f32(is_zero, s, vdivq_f32(edge, q0));
  *bias = vbslq_f32(is_zero, vdupq_n_f32(0.0f), edge);
}

/* Whether all extremes are finite and below 1e30: then scales are neither 0 nor infinite, and (w - b) / s is at most
 * about 2 * n. */
INLINE bool is_ordinary(float32x4x2_t lo, float32x4x2_t hi) {
  const float32x4_t limit = vdupq_n_f32(1e30f);
  uint32x4_t low = vandq_u32(vcaltq_f32(lo.val[0], limit), vcaltq_f32(lo.val[1], limit));
  uint32x4_t high = vandq_u32(vcaltq_f32(hi.val[0], limit), vcaltq_f32(hi.val[1], limit));
  return all_true(low, high);
}

/* rnd((w - b) / s), at least 0: half to even (cpu), half away from zero (gpu). */
INLINE uint32x4_t encode4(bool gpu, float32x4_t w, float32x4_t s, float32x4_t b) {
  float32x4_t x = vdivq_f32(vsubq_f32(w, b), s);
  return gpu ? vcvtaq_u32_f32(x) : vcvtnq_u32_f32(x);
}

INLINE uint8x16_t encode16(unsigned bits, bool gpu, float32x4x4_t w, float32x4_t s, float32x4_t b) {
  const uint16x8_t n = vdupq_n_u16((uint16_t)((1u << bits) - 1));
  uint16x8_t low = lower_halves(encode4(gpu, w.val[0], s, b), encode4(gpu, w.val[1], s, b));
  uint16x8_t high = lower_halves(encode4(gpu, w.val[2], s, b), encode4(gpu, w.val[3], s, b));
  return lower_bytes(vminq_u16(low, n), vminq_u16(high, n));
}

INLINE void encode_group(unsigned bits, bool gpu, mlxq_dtype dtype, size_t size, const uint8_t *dense, uint8_t *packed,
                         float32x4_t s, float32x4_t b) {
  const size_t width = dtype_bytes(dtype);
  for (size_t i = 0; i < size; i += 32) {
    uint8x16_t low = encode16(bits, gpu, load16(dtype, dense + i * width), s, b);
    uint8x16_t high = encode16(bits, gpu, load16(dtype, dense + (i + 16) * width), s, b);
    pack32(bits, packed + i / 8 * bits, low, high);
  }
}

INLINE size_t quantize(unsigned bits, bool gpu, mlxq_dtype dtype, quantize_call call) {
  const size_t size = call.args->group_size, groups = call.args->groups;
  const float n = (float)((1u << bits) - 1);
  size_t group = 0;
  for (; group + BLOCK <= groups; group += BLOCK) {
    float32x4x2_t lo, hi, scale, bias;
    float scales[BLOCK], biases[BLOCK];
    range8(dtype, call.dense + group * call.dense_bytes, size, &lo, &hi);
    if (!is_ordinary(lo, hi)) {
      leave(&call, group, BLOCK);
      continue;
    }
    for (size_t i = 0; i < 2; i++) {
      fit4(gpu, n, lo.val[i], hi.val[i], &scale.val[i], &bias.val[i]);
      vst1q_f32(scales + 4 * i, scale.val[i]);
      vst1q_f32(biases + 4 * i, bias.val[i]);
    }
    for (size_t i = 0; i < BLOCK; i++) {
      encode_group(bits, gpu, dtype, size, call.dense + (group + i) * call.dense_bytes,
                   call.packed + (group + i) * call.packed_bytes, vdupq_n_f32(scales[i]), vdupq_n_f32(biases[i]));
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

/* Values of codes in float32: the last rounding, to the dtype, is still to come. */
INLINE float32x4_t decode4(bool gpu, mlxq_dtype dtype, uint32x4_t codes, float32x4_t s, float32x4_t b) {
  float32x4_t x = vcvtq_f32_u32(codes);
  if (gpu) return vfmaq_f32(b, x, s);
  return vaddq_f32(round4(dtype, vmulq_f32(x, s)), b);
}

INLINE float32x4x2_t decode8(bool gpu, mlxq_dtype dtype, uint8x8_t codes, float32x4_t s, float32x4_t b) {
  uint16x8_t wide = vmovl_u8(codes);
  return (float32x4x2_t){
      {decode4(gpu, dtype, vmovl_u16(vget_low_u16(wide)), s, b), decode4(gpu, dtype, vmovl_high_u16(wide), s, b)}};
}

/* All values of up to 4 bits, in a 16-bit dtype. */
INLINE uint8x16x2_t table_of(unsigned bits, bool gpu, mlxq_dtype dtype, float32x4_t s, float32x4_t b) {
  const uint8x8_t count = vcreate_u8(0x0706050403020100u);
  uint16x8_t first = narrow8(dtype, decode8(gpu, dtype, count, s, b));
  if (bits < 4) return make_table(first, first);
  return make_table(first, narrow8(dtype, decode8(gpu, dtype, vadd_u8(count, vdup_n_u8(8)), s, b)));
}

INLINE void decode_group(unsigned bits, bool gpu, mlxq_dtype dtype, size_t size, const uint8_t *packed, uint8_t *dense,
                         float32x4_t s, float32x4_t b) {
  const size_t width = dtype_bytes(dtype);
  if (bits <= 4 && width == 2) {
    const uint8x16x2_t table = table_of(bits, gpu, dtype, s, b);
    for (size_t i = 0; i < size; i += 32) {
      uint8x16x2_t codes = unpack32(bits, packed + i / 8 * bits);
      store_looked_up16(dense + i * width, table, codes.val[0]);
      store_looked_up16(dense + (i + 16) * width, table, codes.val[1]);
    }
    return;
  }
  for (size_t i = 0; i < size; i += 32) {
    uint8x16x2_t codes = unpack32(bits, packed + i / 8 * bits);
    for (size_t half = 0; half < 2; half++) {
      uint8_t *p = dense + (i + 16 * half) * width;
      store8(dtype, p, decode8(gpu, dtype, vget_low_u8(codes.val[half]), s, b));
      store8(dtype, p + 8 * width, decode8(gpu, dtype, vget_high_u8(codes.val[half]), s, b));
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
    float32x4x2_t block_scales = load8(dtype, scales + group * width);
    float32x4x2_t block_biases = load8(dtype, biases + group * width);
    if (!are_finite8(block_scales) || !are_finite8(block_biases)) {
      rest.groups = BLOCK;
      ref(&rest, packed + group * packed_bytes, scales + group * width, biases + group * width,
          dense + group * dense_bytes);
      continue;
    }
    store8(MLXQ_F32, (uint8_t *)s, block_scales);
    store8(MLXQ_F32, (uint8_t *)b, block_biases);
    for (size_t i = 0; i < BLOCK; i++) {
      decode_group(bits, gpu, dtype, size, packed + (group + i) * packed_bytes, dense + (group + i) * dense_bytes,
                   vdupq_n_f32(s[i]), vdupq_n_f32(b[i]));
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
MLXQ_DEFINE_AFFINE(neon, QUANTIZE, DEQUANTIZE)
