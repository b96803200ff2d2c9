/* Transposes, AutoAWQ's codes and FP8 blocks, for AVX2: byte for byte ref/matrix_ref.c. The former two work on blocks
 * of 8 x 8 words; what is left at the edges is done one element at a time. */
#include "kernels/kernel_list.h"
#include "kernels/x86/avx2.h"

/* Eight vectors of eight words, transposed. */
INLINE void transpose_words(__m256i v[8]) {
  __m256i a[8], b[8];
  for (size_t i = 0; i < 4; i++) {
    a[2 * i] = _mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
    a[2 * i + 1] = _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
  }
  for (size_t i = 0; i < 2; i++) {
    for (size_t k = 0; k < 2; k++) {
      b[4 * i + 2 * k] = _mm256_unpacklo_epi64(a[4 * i + k], a[4 * i + 2 + k]);
      b[4 * i + 2 * k + 1] = _mm256_unpackhi_epi64(a[4 * i + k], a[4 * i + 2 + k]);
    }
  }
  for (int i = 0; i < 4; i++) {
    v[i] = _mm256_permute2x128_si256(b[i], b[4 + i], 0x20);
    v[4 + i] = _mm256_permute2x128_si256(b[i], b[4 + i], 0x31);
  }
}

/* ---- Transposes ------------------------------------------------------------------------------------------------ */

/* Columns of a strip, so that the rows written stay in the cache until their lines are full. */
enum { STRIP = 64 };

/* 8 x 8 words from `in` (rows `columns` apart) to `out` (rows `rows` apart). */
INLINE void transpose_block4(const uint32_t *in, size_t columns, uint32_t *out, size_t rows) {
  __m256i v[8];
  for (size_t i = 0; i < 8; i++) v[i] = load256(in + i * columns);
  transpose_words(v);
  for (size_t i = 0; i < 8; i++) store256(out + i * rows, v[i]);
}

/* 16 x 8 elements of two bytes: pairs of rows become words. */
INLINE void transpose_block2(const uint16_t *in, size_t columns, uint16_t *out, size_t rows) {
  __m256i v[8];
  for (size_t i = 0; i < 8; i++) {
    __m128i even = _mm_loadu_si128((const __m128i *)(const void *)(in + 2 * i * columns));
    __m128i odd = _mm_loadu_si128((const __m128i *)(const void *)(in + (2 * i + 1) * columns));
    v[i] = _mm256_set_m128i(_mm_unpackhi_epi16(even, odd), _mm_unpacklo_epi16(even, odd));
  }
  transpose_words(v);
  for (size_t i = 0; i < 8; i++) store256(out + i * rows, v[i]);
}

static void transpose4(const uint32_t *matrix, size_t rows, size_t columns, uint32_t *result) {
  size_t whole_rows = rows - rows % 8, whole_columns = columns - columns % 8;
  for (size_t first = 0; first < whole_columns; first += STRIP) {
    size_t end = whole_columns - first < STRIP ? whole_columns : first + STRIP;
    for (size_t row = 0; row < whole_rows; row += 8) {
      for (size_t column = first; column < end; column += 8) {
        transpose_block4(matrix + row * columns + column, columns, result + column * rows + row, rows);
      }
    }
  }
  for (size_t row = 0; row < rows; row++) {
    for (size_t column = row < whole_rows ? whole_columns : 0; column < columns; column++) {
      result[column * rows + row] = matrix[row * columns + column];
    }
  }
}

static void transpose2(const uint16_t *matrix, size_t rows, size_t columns, uint16_t *result) {
  size_t whole_rows = rows - rows % 16, whole_columns = columns - columns % 8;
  for (size_t first = 0; first < whole_columns; first += STRIP) {
    size_t end = whole_columns - first < STRIP ? whole_columns : first + STRIP;
    for (size_t row = 0; row < whole_rows; row += 16) {
      for (size_t column = first; column < end; column += 8) {
        transpose_block2(matrix + row * columns + column, columns, result + column * rows + row, rows);
      }
    }
  }
  for (size_t row = 0; row < rows; row++) {
    for (size_t column = row < whole_rows ? whole_columns : 0; column < columns; column++) {
      result[column * rows + row] = matrix[row * columns + column];
    }
  }
}

void mlxq_transpose_avx2(size_t elem_bytes, const void *matrix, size_t rows, size_t columns, void *result) {
  if (elem_bytes == 4) {
    transpose4(matrix, rows, columns, result);
  } else if (elem_bytes == 2) {
    transpose2(matrix, rows, columns, result);
  } else {
    mlxq_transpose_ref(elem_bytes, matrix, rows, columns, result);
  }
}

/* ---- AutoAWQ --------------------------------------------------------------------------------------------------- */

/* Exchanges the upper halves of `a`'s fields with the lower ones of `b`'s; `mask` is the lower halves, `bits` their
 * width. */
INLINE void exchange(__m256i *a, __m256i *b, int bits, uint32_t mask) {
  __m256i moved = _mm256_xor_si256(_mm256_srli_epi32(*a, bits), *b);
  moved = _mm256_and_si256(moved, _mm256_set1_epi32((int32_t)mask));
  *b = _mm256_xor_si256(*b, moved);
  *a = _mm256_xor_si256(*a, _mm256_slli_epi32(moved, bits));
}

/* Of 8 inputs the codes of 8 outputs each, as AutoAWQ orders them in a word, to a word for each output: the codes of
 * eight words are a square, which is transposed. */
INLINE void gather_codes(__m256i stored[8], __m256i words[8]) {
  static const int ORDER[] = {0, 4, 1, 5, 2, 6, 3, 7};
  for (int i = 0; i < 4; i++) exchange(&stored[i], &stored[i + 4], 16, 0x0000FFFFu);
  for (int i = 0; i < 8; i += i % 4 == 1 ? 3 : 1) exchange(&stored[i], &stored[i + 2], 8, 0x00FF00FFu);
  for (int i = 0; i < 8; i += 2) exchange(&stored[i], &stored[i + 1], 4, 0x0F0F0F0Fu);
  for (int i = 0; i < 8; i++) words[i] = stored[ORDER[i]];
}

/* 64 inputs of 8 words: eight words in a row of each of 64 outputs. */
INLINE void repack_block(const uint32_t *in, size_t words, uint32_t *out, size_t row_words) {
  __m256i made[8][8]; /* [output of a word][eight inputs], a lane for each word */
  for (size_t eight = 0; eight < 8; eight++) {
    __m256i stored[8], codes[8];
    for (size_t i = 0; i < 8; i++) stored[i] = load256(in + (8 * eight + i) * words);
    gather_codes(stored, codes);
    for (size_t i = 0; i < 8; i++) made[i][eight] = codes[i];
  }
  for (size_t output = 0; output < 8; output++) {
    transpose_words(made[output]);
    for (size_t word = 0; word < 8; word++) store256(out + (8 * word + output) * row_words, made[output][word]);
  }
}

/* The same for 8 inputs of one word. */
static void repack_word(const uint32_t *in, size_t words, uint32_t *out, size_t row_words) {
  static const unsigned SHIFTS[] = {0, 16, 4, 20, 8, 24, 12, 28};
  for (size_t output = 0; output < 8; output++) {
    uint32_t word = 0;
    for (size_t i = 0; i < 8; i++) word |= (in[i * words] >> SHIFTS[output] & 15u) << 4 * i;
    out[output * row_words] = word;
  }
}

void mlxq_repack_awq_avx2(const uint32_t *stored, size_t rows, size_t words, void *packed) {
  uint32_t *result = packed;
  size_t row_words = rows / 8, whole_rows = rows - rows % 64, whole_words = words - words % 8;
  for (size_t row = 0; row < rows; row += 8) {
    for (size_t word = row < whole_rows ? whole_words : 0; word < words; word++) {
      repack_word(stored + row * words + word, words, result + 8 * word * row_words + row / 8, row_words);
    }
  }
  for (size_t row = 0; row < whole_rows; row += 64) {
    for (size_t word = 0; word < whole_words; word += 8) {
      repack_block(stored + row * words + word, words, result + 8 * word * row_words + row / 8, row_words);
    }
  }
}

/* ---- FP8 ------------------------------------------------------------------------------------------------------- */

/* Eight E4M3 codes as float32: as float16 with the same fields they are 2^-8 of what they stand for. */
INLINE __m256 decode_e4m3_or_nan(__m128i codes) {
  __m128i wide = _mm_cvtepi8_epi16(codes);
  __m128i half = _mm_and_si128(_mm_slli_epi16(wide, 7), _mm_set1_epi16((int16_t)0xBFFF));
  __m128i is_nan = _mm_cmpeq_epi16(_mm_and_si128(wide, _mm_set1_epi16(0x7F)), _mm_set1_epi16(0x7F));
  __m128i nan = _mm_or_si128(_mm_and_si128(half, _mm_set1_epi16((int16_t)0x8000)), _mm_set1_epi16(0x7E00));
  half = _mm_blendv_epi8(half, nan, is_nan);
  return _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.0f));
}

/* Columns that share a scale. */
static void fp8_run(const uint8_t *codes, size_t count, float scale, uint16_t *result) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    __m256 value = decode_e4m3_or_nan(_mm_loadl_epi64((const __m128i *)(const void *)(codes + i)));
    __m128i rounded = narrow_to_bf16(_mm256_mul_ps(value, _mm256_set1_ps(scale)));
    _mm_storeu_si128((__m128i *)(void *)(result + i), rounded);
  }
  const mlxq_block_args rest = {
      .rows = 1, .columns = count - i, .block_rows = 1, .block_columns = SIZE_MAX, .scale_columns = 1};
  if (i < count) mlxq_fp8_ref(&rest, codes + i, &scale, result + i);
}

void mlxq_fp8_avx2(const mlxq_block_args *args, const uint8_t *codes, const float *scales, void *dense) {
  uint16_t *result = dense;
  for (size_t row = 0; row < args->rows; row++) {
    const float *row_scales = scales + (args->first_row + row) / args->block_rows * args->scale_columns;
    for (size_t column = 0; column < args->columns;) {
      size_t block = (size_t)(args->first_column + column) / args->block_columns;
      size_t end = (block + 1) * args->block_columns - (size_t)args->first_column;
      if (end > args->columns) end = args->columns;
      fp8_run(codes + row * args->columns + column, end - column, row_scales[block],
              result + row * args->columns + column);
      column = end;
    }
  }
}
