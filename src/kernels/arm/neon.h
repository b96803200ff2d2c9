/* What the NEON kernels share. Quantizing goes by blocks of eight groups: each group's extremes are reduced to one lane
 * of a vector, so that scales are computed four at a time, and then each group's codes with its scale broadcast.
 * What is rare (a block with a NaN, an infinity or an extreme scale) or small (the last groups) is left to the
 * reference kernel, which also finds the index of the first bad element.
 * Rounding, NaNs and subnormals are those of IEEE 754: nobody has changed FPCR from what a process starts with. Shifts
 * by a count that follows from `bits` are by a vector of it: an immediate would have to be a literal. */
#ifndef MLXQ_KERNELS_ARM_NEON_H
#define MLXQ_KERNELS_ARM_NEON_H

#include "kernels/blocks.h"

#include <arm_neon.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the kernels read and write little-endian tensors in place"
#endif

/* Groups in a block: the lanes of a vector of 16-bit floats, or of two of float32. */
#define BLOCK ((size_t)8)

/* ---- Floats ---------------------------------------------------------------------------------------------------- */

INLINE uint16x8_t load_half8(const uint8_t *p) {
  return vreinterpretq_u16_u8(vld1q_u8(p));
}

INLINE float32x4_t load_wide4(const uint8_t *p) {
  return vreinterpretq_f32_u8(vld1q_u8(p));
}

/* Eight 16-bit floats widened; exact. */
INLINE float32x4x2_t widen8(mlxq_dtype dtype, uint16x8_t half) {
  if (dtype == MLXQ_F16) {
    float16x8_t x = vreinterpretq_f16_u16(half);
    return (float32x4x2_t){{vcvt_f32_f16(vget_low_f16(x)), vcvt_high_f32_f16(x)}};
  }
  const uint16x8_t zero = vdupq_n_u16(0);
  return (float32x4x2_t){
      {vreinterpretq_f32_u16(vzip1q_u16(zero, half)), vreinterpretq_f32_u16(vzip2q_u16(zero, half))}};
}

/* Eight elements of F16, BF16 or F32. */
INLINE float32x4x2_t load8(mlxq_dtype dtype, const uint8_t *p) {
  if (dtype == MLXQ_F32) return (float32x4x2_t){{load_wide4(p), load_wide4(p + 16)}};
  return widen8(dtype, load_half8(p));
}

/* Eight numbers of which none is a NaN or an infinity. */
INLINE bool are_finite8(float32x4x2_t x) {
  const uint32x4_t magnitude = vdupq_n_u32(0x7FFFFFFF);
  uint32x4_t low = vandq_u32(vreinterpretq_u32_f32(x.val[0]), magnitude);
  uint32x4_t high = vandq_u32(vreinterpretq_u32_f32(x.val[1]), magnitude);
  return vmaxvq_u32(vmaxq_u32(low, high)) < 0x7F800000;
}

INLINE float32x4x4_t load16(mlxq_dtype dtype, const uint8_t *p) {
  float32x4x2_t low = load8(dtype, p), high = load8(dtype, p + 8 * dtype_bytes(dtype));
  return (float32x4x4_t){{low.val[0], low.val[1], high.val[0], high.val[1]}};
}

/* Added to float32 bits, it makes their upper half those of the nearest bfloat16. A NaN stays one if its lower half is
 * 0, as that of every NaN is that comes from a bfloat16 or a constant. */
INLINE uint32x4_t bf16_rounding(uint32x4_t bits) {
  return vaddq_u32(vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1)), vdupq_n_u32(0x7FFF));
}

/* T(x) as float32. */
INLINE float32x4_t round4(mlxq_dtype dtype, float32x4_t x) {
  if (dtype == MLXQ_F16) return vcvt_f32_f16(vcvt_f16_f32(x));
  if (dtype == MLXQ_F32) return x;
  uint32x4_t bits = vreinterpretq_u32_f32(x);
  return vreinterpretq_f32_u32(vandq_u32(vaddq_u32(bits, bf16_rounding(bits)), vdupq_n_u32(0xFFFF0000u)));
}

/* Eight values rounded to F16 or BF16. */
INLINE uint16x8_t narrow8(mlxq_dtype dtype, float32x4x2_t x) {
  if (dtype == MLXQ_F16) return vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(x.val[0]), x.val[1]));
  uint32x4_t low = vreinterpretq_u32_f32(x.val[0]), high = vreinterpretq_u32_f32(x.val[1]);
  return vaddhn_high_u32(vaddhn_u32(low, bf16_rounding(low)), high, bf16_rounding(high));
}

INLINE void store8(mlxq_dtype dtype, uint8_t *p, float32x4x2_t x) {
  if (dtype == MLXQ_F32) {
    vst1q_u8(p, vreinterpretq_u8_f32(x.val[0]));
    vst1q_u8(p + 16, vreinterpretq_u8_f32(x.val[1]));
  } else {
    vst1q_u8(p, vreinterpretq_u8_u16(narrow8(dtype, x)));
  }
}

/* ---- Extremes of eight groups ---------------------------------------------------------------------------------- */

/* Lane i of the result: the largest (smallest) lane of x[i], for an `op` on pairs of neighbours. */
#define REDUCE4(op, x) op(op((x)[0], (x)[1]), op((x)[2], (x)[3]))
#define REDUCE8(op, x) op(REDUCE4(op, x), REDUCE4(op, (x) + 4))

/* Of unsigned bits, the largest are those of the lowest negative value; of signed bits, those of the highest positive.
 * Where there is none, the smallest unsigned bits are the other end. -0 is below 0, infinities and NaNs are outermost.
 */
INLINE void range_half8(mlxq_dtype dtype, const uint8_t *dense, size_t group_bytes, float32x4x2_t *lowest,
                        float32x4x2_t *highest) {
  uint16x8_t large[BLOCK], small[BLOCK];
  int16x8_t top[BLOCK];
  for (size_t group = 0; group < BLOCK; group++) {
    const uint8_t *p = dense + group * group_bytes;
    large[group] = small[group] = load_half8(p);
    top[group] = vreinterpretq_s16_u16(large[group]);
    for (size_t at = 16; at < group_bytes; at += 16) {
      uint16x8_t x = load_half8(p + at);
      large[group] = vmaxq_u16(large[group], x);
      small[group] = vminq_u16(small[group], x);
      top[group] = vmaxq_s16(top[group], vreinterpretq_s16_u16(x));
    }
  }
  uint16x8_t most = REDUCE8(vpmaxq_u16, large), least = REDUCE8(vpminq_u16, small);
  int16x8_t positive = REDUCE8(vpmaxq_s16, top);
  uint16x8_t has_negative = vcltzq_s16(vreinterpretq_s16_u16(most)), has_positive = vcgezq_s16(positive);
  *lowest = widen8(dtype, vbslq_u16(has_negative, most, least));
  *highest = widen8(dtype, vbslq_u16(has_positive, vreinterpretq_u16_s16(positive), least));
}

/* The extremes of eight groups of `size` elements each: lane i is group i's. Infinite or NaN where a group holds
 * something that is. */
INLINE void range8(mlxq_dtype dtype, const uint8_t *dense, size_t size, float32x4x2_t *lowest, float32x4x2_t *highest) {
  const size_t group_bytes = size * dtype_bytes(dtype);
  if (dtype != MLXQ_F32) {
    range_half8(dtype, dense, group_bytes, lowest, highest);
    return;
  }
  float32x4_t low[BLOCK], high[BLOCK];
  for (size_t group = 0; group < BLOCK; group++) {
    const uint8_t *p = dense + group * group_bytes;
    low[group] = high[group] = load_wide4(p);
    for (size_t at = 16; at < group_bytes; at += 16) {
      low[group] = vminq_f32(low[group], load_wide4(p + at));
      high[group] = vmaxq_f32(high[group], load_wide4(p + at));
    }
  }
  *lowest = (float32x4x2_t){{REDUCE4(vpminq_f32, low), REDUCE4(vpminq_f32, low + 4)}};
  *highest = (float32x4x2_t){{REDUCE4(vpmaxq_f32, high), REDUCE4(vpmaxq_f32, high + 4)}};
}

INLINE uint16x8_t magnitude_half8(const uint8_t *p) {
  return vandq_u16(load_half8(p), vdupq_n_u16(0x7FFF));
}

/* The largest magnitudes of eight groups, likewise. Without their signs, float bits are ordered as they are. */
INLINE float32x4x2_t largest8(mlxq_dtype dtype, const uint8_t *dense, size_t size) {
  const size_t group_bytes = size * dtype_bytes(dtype);
  float32x4_t wide[BLOCK];
  uint16x8_t half[BLOCK];
  for (size_t group = 0; group < BLOCK; group++) {
    const uint8_t *p = dense + group * group_bytes;
    if (dtype == MLXQ_F32) {
      wide[group] = vabsq_f32(load_wide4(p));
      for (size_t at = 16; at < group_bytes; at += 16) {
        wide[group] = vmaxq_f32(wide[group], vabsq_f32(load_wide4(p + at)));
      }
    } else {
      half[group] = magnitude_half8(p);
      for (size_t at = 16; at < group_bytes; at += 16) half[group] = vmaxq_u16(half[group], magnitude_half8(p + at));
    }
  }
  if (dtype != MLXQ_F32) return widen8(dtype, REDUCE8(vpmaxq_u16, half));
  return (float32x4x2_t){{REDUCE4(vpmaxq_f32, wide), REDUCE4(vpmaxq_f32, wide + 4)}};
}

/* Whether all lanes of both comparisons are true. */
INLINE bool all_true(uint32x4_t a, uint32x4_t b) {
  return vminvq_u32(vandq_u32(a, b)) != 0;
}

/* ---- Packed codes ---------------------------------------------------------------------------------------------- */

/* Lower (upper) halves of eight int32. */
INLINE uint16x8_t lower_halves(uint32x4_t a, uint32x4_t b) {
  return vuzp1q_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b));
}

INLINE uint16x8_t upper_halves(uint32x4_t a, uint32x4_t b) {
  return vuzp2q_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b));
}

/* Lower (upper) bytes of sixteen int16. */
INLINE uint8x16_t lower_bytes(uint16x8_t a, uint16x8_t b) {
  return vuzp1q_u8(vreinterpretq_u8_u16(a), vreinterpretq_u8_u16(b));
}

INLINE uint8x16_t upper_bytes(uint16x8_t a, uint16x8_t b) {
  return vuzp2q_u8(vreinterpretq_u8_u16(a), vreinterpretq_u8_u16(b));
}

/* Sixteen codes, a byte each, joined to the lowest bits of two 64-bit lanes: neighbours to pairs, pairs to fours, fours
 * to eight. What is moved down brings others along below it: there, the bits that stay are chosen. */
INLINE uint8x16_t join16(unsigned bits, uint8x16_t codes) {
  const int16_t down = (int16_t)(8 - bits);
  const uint64_t one = ((uint64_t)1 << bits) - 1, two = ((uint64_t)1 << 2 * bits) - 1,
                 four = ((uint64_t)1 << 4 * bits) - 1;
  uint16x8_t x = vreinterpretq_u16_u8(codes);
  x = vbslq_u16(vdupq_n_u16((uint16_t)one), x, vshlq_u16(x, vdupq_n_s16((int16_t)-down)));
  uint32x4_t y = vreinterpretq_u32_u16(x);
  y = vbslq_u32(vdupq_n_u32((uint32_t)two), y, vshlq_u32(y, vdupq_n_s32(-2 * down)));
  uint64x2_t z = vreinterpretq_u64_u32(y);
  z = vbslq_u64(vdupq_n_u64(four), z, vshlq_u64(z, vdupq_n_s64(-4 * (int64_t)down)));
  return vreinterpretq_u8_u64(z);
}

/* 32 codes, a byte each, to the packed bit stream: 4 * bits bytes. */
INLINE void pack32(unsigned bits, uint8_t *packed, uint8x16_t low, uint8x16_t high) {
  if (bits == 8) {
    vst1q_u8(packed, low);
    vst1q_u8(packed + 16, high);
    return;
  }
  if (bits == 4) {
    vst1q_u8(packed, vsliq_n_u8(vuzp1q_u8(low, high), vuzp2q_u8(low, high), 4));
    return;
  }
  const size_t bytes = (size_t)4 * bits;
  uint8_t from[32] = {0}; /* of the four lanes, the first `bits` bytes each */
  for (size_t i = 0; i < bytes; i++) from[i] = (uint8_t)(i / bits * 8 + i % bits);
  uint8x16x2_t joined = {{join16(bits, low), join16(bits, high)}};
  uint8x16_t first = vqtbl2q_u8(joined, vld1q_u8(from)), second = vqtbl2q_u8(joined, vld1q_u8(from + 16));
  const size_t whole = bytes < 16 ? bytes : 16;
  memcpy(packed, &first, whole);
  memcpy(packed + whole, &second, bytes - whole);
}

/* Sixteen codes of the bit stream that begins at byte `first` of x: for each, the two bytes that it is in are put in a
 * 16-bit lane and shifted down. */
INLINE uint8x16_t spread16(unsigned bits, uint8x16_t x, unsigned first) {
  uint8_t from[32];
  int16_t down[8];
  for (size_t i = 0; i < 16; i++) {
    from[2 * i] = (uint8_t)(first + i * bits / 8);
    from[2 * i + 1] = (uint8_t)(first + i * bits / 8 + 1); /* beyond the end it is not used */
    down[i % 8] = (int16_t)(0 - i * bits % 8);
  }
  const int16x8_t shift = vld1q_s16(down);
  uint16x8_t low = vshlq_u16(vreinterpretq_u16_u8(vqtbl1q_u8(x, vld1q_u8(from))), shift);
  uint16x8_t high = vshlq_u16(vreinterpretq_u16_u8(vqtbl1q_u8(x, vld1q_u8(from + 16))), shift);
  return vandq_u8(lower_bytes(low, high), vdupq_n_u8((uint8_t)((1u << bits) - 1)));
}

/* The inverse of pack32. Reads 16 bytes from the start and up to the end, or all of the 12 or 8 there are. */
INLINE uint8x16x2_t unpack32(unsigned bits, const uint8_t *packed) {
  if (bits == 8) return (uint8x16x2_t){{vld1q_u8(packed), vld1q_u8(packed + 16)}};
  if (bits == 4) {
    uint8x16_t x = vld1q_u8(packed), even = vandq_u8(x, vdupq_n_u8(15)), odd = vshrq_n_u8(x, 4);
    return (uint8x16x2_t){{vzip1q_u8(even, odd), vzip2q_u8(even, odd)}};
  }
  const unsigned bytes = 4 * bits;
  if (bytes > 16) {
    uint8x16_t low = vld1q_u8(packed), high = vld1q_u8(packed + bytes - 16);
    return (uint8x16x2_t){{spread16(bits, low, 0), spread16(bits, high, 16 - bytes / 2)}};
  }
  uint32_t last;
  memcpy(&last, packed + bytes - 4, sizeof last);
  uint8x16_t x = vcombine_u8(vld1_u8(packed), vreinterpret_u8_u32(vdup_n_u32(last)));
  return (uint8x16x2_t){{spread16(bits, x, 0), spread16(bits, x, bytes / 2)}};
}

/* Code i to the i-th of sixteen 16-bit values, which are given as their lower and their upper bytes. */
INLINE uint8x16x2_t make_table(uint16x8_t first, uint16x8_t second) {
  return (uint8x16x2_t){{lower_bytes(first, second), upper_bytes(first, second)}};
}

INLINE uint16x8x2_t look_up16(uint8x16x2_t table, uint8x16_t codes) {
  uint8x16_t low = vqtbl1q_u8(table.val[0], codes), high = vqtbl1q_u8(table.val[1], codes);
  return (uint16x8x2_t){{vreinterpretq_u16_u8(vzip1q_u8(low, high)), vreinterpretq_u16_u8(vzip2q_u8(low, high))}};
}

INLINE void store_looked_up16(uint8_t *p, uint8x16x2_t table, uint8x16_t codes) {
  uint16x8x2_t x = look_up16(table, codes);
  vst1q_u8(p, vreinterpretq_u8_u16(x.val[0]));
  vst1q_u8(p + 16, vreinterpretq_u8_u16(x.val[1]));
}

#endif
