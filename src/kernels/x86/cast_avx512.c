/* Casts between dtypes, for AVX-512: bit for bit ref/cast_ref.c, NaNs included. */
#include "kernels/kernel_list.h"
#include "kernels/x86/avx512.h"

/* Sixteen elements of F16, BF16, F32 or F64. */
INLINE __m512 load_any16(mlxq_dtype dtype, const uint8_t *p) {
  if (dtype != MLXQ_F64) return load16(dtype, p);
  __m256 low = _mm512_cvtpd_ps(_mm512_loadu_pd(p)), high = _mm512_cvtpd_ps(_mm512_loadu_pd(p + 64));
  return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}

/* As mlxq_f32_to_bf16; narrow16 is right for fewer NaNs. */
INLINE __m256i narrow_to_bf16(__m512 x) {
  __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  __m512i bits = _mm512_mask_or_epi32(bf16_sum(x), is_nan, _mm512_castps_si512(x), _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16));
}

INLINE void cast(mlxq_dtype from, mlxq_dtype to, const uint8_t *source, uint8_t *result, size_t elems) {
  const size_t source_width = from == MLXQ_F64 ? 8 : dtype_bytes(from), result_width = dtype_bytes(to);
  size_t i = 0;
  for (; i + 16 <= elems; i += 16) {
    __m512 x = load_any16(from, source + i * source_width);
    if (to == MLXQ_BF16) {
      store256(result + i * result_width, narrow_to_bf16(x));
    } else {
      store16(to, result + i * result_width, x);
    }
  }
  mlxq_cast_avx2(from, to, source + i * source_width, result + i * result_width, elems - i);
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

void mlxq_cast_avx512(mlxq_dtype from, mlxq_dtype to, const void *source, void *result, size_t elems) {
  if (from == MLXQ_F16) {
    cast_from(MLXQ_F16, to, source, result, elems);
  } else if (from == MLXQ_BF16) {
    cast_from(MLXQ_BF16, to, source, result, elems);
  } else if (from == MLXQ_F32) {
    cast_from(MLXQ_F32, to, source, result, elems);
  } else {
    cast_from(MLXQ_F64, to, source, result, elems);
  }
}
