/* Casts between dtypes, for AVX2: bit for bit ref/cast_ref.c, NaNs included. */
#include "kernels/kernel_list.h"
#include "kernels/x86/avx2.h"

/* Eight elements of F16, BF16, F32 or F64. */
INLINE __m256 load_any8(mlxq_dtype dtype, const uint8_t *p) {
  if (dtype != MLXQ_F64) return load8(dtype, p);
  const double *in = (const double *)(const void *)p;
  return _mm256_set_m128(_mm256_cvtpd_ps(_mm256_loadu_pd(in + 4)), _mm256_cvtpd_ps(_mm256_loadu_pd(in)));
}

INLINE void cast(mlxq_dtype from, mlxq_dtype to, const uint8_t *source, uint8_t *result, size_t elems) {
  const size_t source_width = from == MLXQ_F64 ? 8 : dtype_bytes(from), result_width = dtype_bytes(to);
  size_t i = 0;
  for (; i + 8 <= elems; i += 8) {
    __m256 x = load_any8(from, source + i * source_width);
    if (to == MLXQ_BF16) {
      _mm_storeu_si128((__m128i *)(void *)(result + i * result_width), narrow_to_bf16(x));
    } else {
      store8(to, result + i * result_width, x);
    }
  }
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

void mlxq_cast_avx2(mlxq_dtype from, mlxq_dtype to, const void *source, void *result, size_t elems) {
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
