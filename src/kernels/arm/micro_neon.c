/* The formats whose groups have a scale of one byte, for NEON: bit for bit ref/micro_ref.c. */
#include "kernels/arm/neon.h"
#include "kernels/kernel_list.h"

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
INLINE uint32x4_t encode_e4m3_magnitude(float32x4_t x) {
  const float32x4_t one_unit = vdupq_n_f32(16384.0f); /* whose last place is the smallest E4M3 */
  x = vabsq_f32(x);
  int32x4_t bits = vreinterpretq_s32_f32(x), odd = vandq_s32(vshrq_n_s32(bits, 20), vdupq_n_s32(1));
  int32x4_t sum = vaddq_s32(vaddq_s32(bits, vdupq_n_s32(0x7FFFF - (120 << 23))), odd);
  int32x4_t normal = vminq_s32(vshrq_n_s32(sum, 20), vdupq_n_s32(0x7E));
  int32x4_t subnormal = vsubq_s32(vreinterpretq_s32_f32(vaddq_f32(x, one_unit)), vreinterpretq_s32_f32(one_unit));
  uint32x4_t is_small = vcltq_s32(bits, vdupq_n_s32(0x3C800000));
  return vreinterpretq_u32_s32(vbslq_s32(is_small, subnormal, normal));
}

/* Scale bytes to float32; E4M3 0x7F and 0xFF are NaN. */
INLINE float32x4_t decode_scales(bool e8m0, uint32x4_t bytes) {
  if (e8m0) return vreinterpretq_f32_u32(vmaxq_u32(vshlq_n_u32(bytes, 23), vdupq_n_u32(0x400000)));
  uint32x4_t magnitude = vandq_u32(bytes, vdupq_n_u32(0x7F)), sign = vshlq_n_u32(veorq_u32(bytes, magnitude), 24);
  /* The exponent's bias goes from 7 to 127. */
  uint32x4_t normal = vaddq_u32(vshlq_n_u32(magnitude, 20), vdupq_n_u32(120 << 23));
  uint32x4_t subnormal = vreinterpretq_u32_f32(vmulq_f32(vcvtq_f32_u32(magnitude), vdupq_n_f32(0x1p-9f)));
  uint32x4_t value = vbslq_u32(vcltq_u32(magnitude, vdupq_n_u32(8)), subnormal, normal);
  value = vbslq_u32(vceqq_u32(magnitude, vdupq_n_u32(0x7F)), vdupq_n_u32(0x7FC00000), value);
  return vreinterpretq_f32_u32(vorrq_u32(value, sign));
}

/* ---- Codes ----------------------------------------------------------------------------------------------------- */

/* The upper bytes of sixteen float32, in which the signs are. */
INLINE uint8x16_t signs16(float32x4x4_t q) {
  uint16x8_t low = upper_halves(vreinterpretq_u32_f32(q.val[0]), vreinterpretq_u32_f32(q.val[1]));
  uint16x8_t high = upper_halves(vreinterpretq_u32_f32(q.val[2]), vreinterpretq_u32_f32(q.val[3]));
  return upper_bytes(low, high);
}

INLINE uint8x16_t encode_e4m3(float32x4x4_t q) {
  uint16x8_t low = lower_halves(encode_e4m3_magnitude(q.val[0]), encode_e4m3_magnitude(q.val[1]));
  uint16x8_t high = lower_halves(encode_e4m3_magnitude(q.val[2]), encode_e4m3_magnitude(q.val[3]));
  return vbslq_u8(vdupq_n_u8(0x80), signs16(q), lower_bytes(low, high));
}

/* Where |q| lies among the values .25 * (1, 1.25, 1.5, 1.75, 2, 2.5, ...), which all boundaries between codes are of,
 * in bits 21 and up: 1 for up to .25, 2 up to the next value, ... The boundaries whose tie goes up in the gpu profile
 * (.75, 1.75, 3.5) are those with the upper bit of the mantissa set: there, one unit more is added. */
INLINE uint32x4_t place_e2m1(bool gpu, float32x4_t q) {
  const uint32x4_t quarter = vdupq_n_u32(0x3E800000);
  uint32x4_t bits = vmaxq_u32(vreinterpretq_u32_f32(vabsq_f32(q)), quarter);
  /* Rounds up to whole steps; and begins with 1, not 0. */
  uint32x4_t sum = vaddq_u32(bits, vdupq_n_u32((1u << 21) - 1 - 0x3E800000u + (1u << 21)));
  if (gpu) sum = vaddq_u32(sum, vandq_u32(vshrq_n_u32(bits, 22), vdupq_n_u32(1)));
  return sum;
}

INLINE uint8x16_t encode_e2m1(bool gpu, float32x4x4_t q) {
  static const uint8_t CODE_AT[32] = {0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7};
  const uint8x16x2_t table = {{vld1q_u8(CODE_AT), vld1q_u8(CODE_AT + 16)}};
  uint16x8_t low = upper_halves(place_e2m1(gpu, q.val[0]), place_e2m1(gpu, q.val[1]));
  uint16x8_t high = upper_halves(place_e2m1(gpu, q.val[2]), place_e2m1(gpu, q.val[3]));
  uint8x16_t place = vshrn_high_n_u16(vshrn_n_u16(low, 5), high, 5);
  uint8x16_t code = vqtbl2q_u8(table, vminq_u8(place, vdupq_n_u8(19)));
  uint8x16_t sign = vandq_u8(vshrq_n_u8(signs16(q), 4), vdupq_n_u8(8));
  if (!gpu) sign = vandq_u8(sign, vtstq_u8(code, code)); /* no -0 */
  return vorrq_u8(code, sign);
}

/* ---- Quantize -------------------------------------------------------------------------------------------------- */

/* Scale bytes of four groups with these largest magnitudes, and what to divide by (nvfp4, cpu) or to multiply with.
 * Where the scale is a power of two, multiplying with its inverse rounds as dividing does. A lane of the result is
 * false where it is a case for the reference. */
INLINE uint32x4_t scales4(micro_format format, bool gpu, mlxq_dtype dtype, float32x4_t amax, uint32x4_t *bytes,
                          float32x4_t *factor) {
  /* E8M0: no wrap-around, and no power of two whose inverse is subnormal; E4M3: quotients below 2^24. Not NaN. */
  uint32x4_t ordinary = vcltq_f32(amax, vdupq_n_f32(format.e8m0 ? 0x1p120f : 0x1p30f));
  float32x4_t s = vdivq_f32(amax, vdupq_n_f32(format.largest));
  if (!gpu) s = round4(dtype, s);
  if (format.e8m0) {
    uint32x4_t large = vcgeq_f32(amax, vdupq_n_f32(0x1p-100f));
    uint32x4_t e = vshrq_n_u32(vaddq_u32(vreinterpretq_u32_f32(s), vdupq_n_u32(0x7FFFFF)), 23);
    if (!gpu) e = vbslq_u32(vceqzq_f32(s), vdupq_n_u32(127), e);
    *bytes = e;
    *factor = vreinterpretq_f32_u32(vshlq_n_u32(vsubq_u32(vdupq_n_u32(254), e), 23));
    return vandq_u32(ordinary, vorrq_u32(large, vceqzq_f32(amax)));
  }
  *bytes = encode_e4m3_magnitude(s);
  float32x4_t decoded = decode_scales(false, *bytes);
  uint32x4_t is_nothing = vceqzq_f32(decoded);
  if (gpu) {
    *factor = vdivq_f32(vdupq_n_f32(1.0f), decoded);
    return vbicq_u32(ordinary, is_nothing);
  }
  /* Dividing by infinity makes every code 0. */
  *factor = vbslq_f32(is_nothing, vdupq_n_f32(INFINITY), decoded);
  return ordinary;
}

/* The quotient. In the cpu profile it is rounded to the dtype, but where the scale is a power of two that changes no
 * code: the quotient is exact, except where it is so small that its code is 0 either way. */
INLINE float32x4_t quotient4(micro_format format, bool gpu, mlxq_dtype dtype, float32x4_t w, float32x4_t factor) {
  if (gpu || format.e8m0) return vmulq_f32(w, factor);
  return round4(dtype, vdivq_f32(w, factor));
}

INLINE uint8x16_t encode16(micro_format format, bool gpu, mlxq_dtype dtype, const uint8_t *dense, float32x4_t factor) {
  float32x4x4_t q = load16(dtype, dense);
  for (size_t i = 0; i < 4; i++) q.val[i] = quotient4(format, gpu, dtype, q.val[i], factor);
  return format.bits == 8 ? encode_e4m3(q) : encode_e2m1(gpu, q);
}

/* A block's codes; factors[i] is for group i. */
INLINE void encode_block(micro_format format, bool gpu, mlxq_dtype dtype, const uint8_t *dense, uint8_t *packed,
                         const float *factors) {
  const size_t width = dtype_bytes(dtype);
  for (size_t i = 0; i < BLOCK * format.group_size; i += 32) {
    uint8x16_t codes[2];
    for (size_t half = 0; half < 2; half++) {
      const size_t at = i + 16 * half;
      codes[half] = encode16(format, gpu, dtype, dense + at * width, vdupq_n_f32(factors[at / format.group_size]));
    }
    pack32(format.bits, packed + i / 8 * format.bits, codes[0], codes[1]);
  }
}

INLINE size_t quantize(micro_format format, bool gpu, mlxq_dtype dtype, quantize_call call) {
  const size_t groups = call.args->groups;
  size_t group = 0;
  for (; group + BLOCK <= groups; group += BLOCK) {
    const uint8_t *dense = call.dense + group * call.dense_bytes;
    const float32x4x2_t amax = largest8(dtype, dense, format.group_size);
    uint32x4_t bytes[2], ordinary[2];
    float factors[BLOCK];
    for (size_t i = 0; i < 2; i++) {
      float32x4_t factor;
      ordinary[i] = scales4(format, gpu, dtype, amax.val[i], &bytes[i], &factor);
      vst1q_f32(factors + 4 * i, factor);
    }
    if (!all_true(ordinary[0], ordinary[1])) {
      leave(&call, group, BLOCK);
      continue;
    }
    encode_block(format, gpu, dtype, dense, call.packed + group * call.packed_bytes, factors);
    vst1_u8(call.scales + group, vmovn_u16(lower_halves(bytes[0], bytes[1])));
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

/* The values of E2M1 codes 0 to 7, which bfloat16 holds too; code + 8 is the negative. */
static const uint16_t E2M1_BF16[8] = {0, 0x3F00, 0x3F80, 0x3FC0, 0x4000, 0x4040, 0x4080, 0x40C0};

INLINE float32x4x2_t scaled8(float32x4x2_t x, float32x4_t s) {
  return (float32x4x2_t){{vmulq_f32(x.val[0], s), vmulq_f32(x.val[1], s)}};
}

/* Sixteen E2M1 codes of a group. In a 16-bit dtype, the table has the group's sixteen values. */
INLINE void decode_e2m1(mlxq_dtype dtype, uint8x16_t codes, uint8_t *dense, float32x4_t s) {
  uint16x8_t positive = vld1q_u16(E2M1_BF16), negative = vorrq_u16(positive, vdupq_n_u16(0x8000));
  if (dtype != MLXQ_F32) {
    positive = narrow8(dtype, scaled8(widen8(MLXQ_BF16, positive), s));
    negative = narrow8(dtype, scaled8(widen8(MLXQ_BF16, negative), s));
    store_looked_up16(dense, make_table(positive, negative), codes);
    return;
  }
  uint16x8x2_t values = look_up16(make_table(positive, negative), codes);
  store8(MLXQ_F32, dense, scaled8(widen8(MLXQ_BF16, values.val[0]), s));
  store8(MLXQ_F32, dense + 32, scaled8(widen8(MLXQ_BF16, values.val[1]), s));
}

/* Eight E4M3 codes that are not NaN. With the exponent's field moved they are the F16 of a 256th. */
INLINE float32x4x2_t decode_e4m3(uint8x8_t codes) {
  int16x8_t moved = vshlq_n_s16(vmovl_s8(vreinterpret_s8_u8(codes)), 7);
  uint16x8_t half = vandq_u16(vreinterpretq_u16_s16(moved), vdupq_n_u16(0xBFFF));
  return scaled8(widen8(MLXQ_F16, half), vdupq_n_f32(256.0f));
}

/* Sixteen codes of a group. */
INLINE void decode16(micro_format format, mlxq_dtype dtype, uint8x16_t codes, uint8_t *dense, float32x4_t s) {
  if (format.bits == 4) {
    decode_e2m1(dtype, codes, dense, s);
  } else {
    store8(dtype, dense, scaled8(decode_e4m3(vget_low_u8(codes)), s));
    store8(dtype, dense + 8 * dtype_bytes(dtype), scaled8(decode_e4m3(vget_high_u8(codes)), s));
  }
}

INLINE bool has_nan(micro_format format, uint8x16x2_t codes) {
  if (format.bits == 4) return false;
  const uint8x16_t magnitude = vdupq_n_u8(0x7F);
  return vmaxvq_u8(vmaxq_u8(vandq_u8(codes.val[0], magnitude), vandq_u8(codes.val[1], magnitude))) == 0x7F;
}

/* The factors of eight groups. */
INLINE float32x4x2_t load_scales(micro_format format, bool gpu, mlxq_dtype dtype, const uint8_t *scales) {
  uint16x8_t bytes = vmovl_u8(vld1_u8(scales));
  float32x4_t low = decode_scales(format.e8m0, vmovl_u16(vget_low_u16(bytes)));
  float32x4_t high = decode_scales(format.e8m0, vmovl_high_u16(bytes));
  return gpu ? (float32x4x2_t){{low, high}} : (float32x4x2_t){{round4(dtype, low), round4(dtype, high)}};
}

INLINE void dequantize(micro_format format, bool gpu, mlxq_dtype dtype, mlxq_dequantize_fn ref,
                       const mlxq_kernel_args *args, const uint8_t *packed, const uint8_t *scales, uint8_t *dense) {
  const size_t groups = args->groups, packed_bytes = format.group_size / 8 * format.bits;
  const size_t dense_bytes = format.group_size * dtype_bytes(dtype), chunk_groups = 32 / format.group_size;
  mlxq_kernel_args rest = *args;
  size_t group = 0;
  for (; group + BLOCK <= groups; group += BLOCK) {
    float factors[BLOCK];
    float32x4x2_t decoded = load_scales(format, gpu, dtype, scales + group);
    if (!are_finite8(decoded)) {
      rest.groups = BLOCK;
      ref(&rest, packed + group * packed_bytes, scales + group, NULL, dense + group * dense_bytes);
      continue;
    }
    store8(MLXQ_F32, (uint8_t *)factors, decoded);
    for (size_t i = 0; i < BLOCK; i += chunk_groups) {
      const uint8_t *from = packed + (group + i) * packed_bytes;
      uint8_t *to = dense + (group + i) * dense_bytes;
      uint8x16x2_t codes = unpack32(format.bits, from);
      if (has_nan(format, codes)) {
        rest.groups = chunk_groups;
        ref(&rest, from, scales + group + i, NULL, to);
      } else {
        decode16(format, dtype, codes.val[0], to, vdupq_n_f32(factors[i]));
        decode16(format, dtype, codes.val[1], to + 16 * dtype_bytes(dtype),
                 vdupq_n_f32(factors[i + 16 / format.group_size]));
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
MLXQ_DEFINE_MICRO(neon, QUANTIZE, DEQUANTIZE)
