/* Casts between dtypes, for NEON: bit for bit ref/cast_ref.c, NaNs included. */
#include "kernels/arm/neon.h"
#include "kernels/kernel_list.h"

INLINE float64x2_t load_double2(const uint8_t *p) {
  return vreinterpretq_f64_u8(vld1q_u8(p));
}

/* Eight elements of F16, BF16, F32 or F64. */
INLINE float32x4x2_t load_any8(mlxq_dtype dtype, const uint8_t *p) {
  if (dtype != MLXQ_F64) return load8(dtype, p);
  return (float32x4x2_t){{vcvt_high_f32_f64(vcvt_f32_f64(load_double2(p)), load_double2(p + 16)),
                          vcvt_high_f32_f64(vcvt_f32_f64(load_double2(p + 32)), load_double2(p + 48))}};
}

/* Bits whose upper half is that of mlxq_f32_to_bf16; narrow8 is right for fewer NaNs. */
INLINE uint32x4_t bf16_or_nan(float32x4_t x) {
  uint32x4_t bits = vreinterpretq_u32_f32(x), nan = vorrq_u32(bits, vdupq_n_u32(0x400000));
  return vbslq_u32(vceqq_f32(x, x), vaddq_u32(bits, bf16_rounding(bits)), nan);
}

INLINE void store_any8(mlxq_dtype dtype, uint8_t *p, float32x4x2_t x) {
  if (dtype == MLXQ_BF16) {
    vst1q_u8(p, vreinterpretq_u8_u16(upper_halves(bf16_or_nan(x.val[0]), bf16_or_nan(x.val[1]))));
  } else {
    store8(dtype, p, x);
  }
}

INLINE void cast(mlxq_dtype from, mlxq_dtype to, const uint8_t *source, uint8_t *result, size_t elems) {
  const size_t source_width = from == MLXQ_F64 ? 8 : dtype_bytes(from), result_width = dtype_bytes(to);
  size_t i = 0;
  for (; i + 8 <= elems; i += 8) store_any8(to, result + i * result_width, load_any8(from, source + i * source_width));
  mlxq_cast_ref(from, to, source + i * source_width, result + i * result_width, elems - i);
}

INLINE void cast_from(mlxq_dtype from, mlxq_dtype to, const uint8_t *source, uint8_t *result, size_t elems) {
  if (to == MLXQ_F16) {
    cast(from, MLXQ_F16, source, result, elems);
  } else if (to == MLXQ_BF16) {
    cast(from, MLXQ_BF16, source, result, elems);
  } else {
    cast(from, MLXQ_F32, source, result, elems);
  }
}

void mlxq_cast_neon(mlxq_dtype from, mlxq_dtype to, const void *source, void *result, size_t elems) {
  if (from == MLXQ_F16 && to == MLXQ_F16) { /* compilers leave out the two conversions, which make NaNs quiet */
    mlxq_cast_ref(from, to, source, result, elems);
  } else if (from == MLXQ_F16) {
    cast_from(MLXQ_F16, to, source, result, elems);
  } else if (from == MLXQ_BF16) {
    cast_from(MLXQ_BF16, to, source, result, elems);
  } else if (from == MLXQ_F32) {
    cast_from(MLXQ_F32, to, source, result, elems);
  } else {
    cast_from(MLXQ_F64, to, source, result, elems);
  }
}
