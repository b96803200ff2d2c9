/* Transposes, AutoAWQ's codes and FP8 blocks in vectors of any width: byte for byte ref/matrix_ref.c. A file that
 * includes this defines LANES before it, how many words of 32 bits a vector has, and after it the functions that are
 * only declared here. Blocks that would reach beyond the end begin earlier, and write again what others wrote; a matrix
 * smaller than a block is left to another kernel. */
#ifndef MLXQ_KERNELS_MATRIX_H
#define MLXQ_KERNELS_MATRIX_H

#include "kernels/blocks.h"
#include "kernels/kernel_list.h"
#include "kernels/ref/floats.h"

#include <math.h>

typedef uint32_t vector __attribute__((vector_size(4 * LANES)));

/* As many vectors of as many words, transposed. */
INLINE void transpose_words(vector v[LANES]);

/* Two rows of elements of two bytes: those of `even` as the lower halves of words, those of `odd` as the upper. */
INLINE vector join_rows(const uint8_t *even, const uint8_t *odd);

/* BF16(value * scale) for SCALED codes of E4M3, NaNs among them; the scale is finite. */
enum { SCALED = 2 * LANES };
INLINE void scale_codes(const uint8_t *codes, float scale, uint16_t *result);

INLINE vector load_vector(const void *p) {
  vector x;
  memcpy(&x, p, sizeof x);
  return x;
}

INLINE void store_vector(void *p, vector x) {
  memcpy(p, &x, sizeof x);
}

INLINE size_t smaller(size_t a, size_t b) {
  return a < b ? a : b;
}

/* ---- Transposes ------------------------------------------------------------------------------------------------ */

/* Columns of a strip, so that the rows written stay in the cache until their lines are full. */
enum { STRIP = 64 };

/* LANES columns of `width` bytes; rows are `in_row` and `out_row` bytes apart. */
INLINE void transpose_block(size_t width, const uint8_t *in, size_t in_row, uint8_t *out, size_t out_row) {
  vector v[LANES];
  for (size_t i = 0; i < LANES; i++) {
    v[i] = width == 4 ? load_vector(in + i * in_row) : join_rows(in + 2 * i * in_row, in + (2 * i + 1) * in_row);
  }
  transpose_words(v);
  for (size_t i = 0; i < LANES; i++) store_vector(out + i * out_row, v[i]);
}

INLINE bool transpose(size_t width, const uint8_t *matrix, size_t rows, size_t columns, uint8_t *result) {
  const size_t block_rows = 4 * LANES / width;
  if (rows < block_rows || columns < LANES) return false;
  for (size_t first = 0; first < columns; first += STRIP) {
    for (size_t i = 0; i < rows; i += block_rows) {
      const size_t row = smaller(i, rows - block_rows);
      for (size_t k = first; k < smaller(columns, first + STRIP); k += LANES) {
        const size_t column = smaller(k, columns - LANES);
        transpose_block(width, matrix + (row * columns + column) * width, columns * width,
                        result + (column * rows + row) * width, rows * width);
      }
    }
  }
  return true;
}

/* ---- AutoAWQ --------------------------------------------------------------------------------------------------- */

/* Exchanges the upper halves of `a`'s fields with the lower ones of `b`'s; `mask` is the lower halves, `bits` their
 * width. */
INLINE void exchange(vector *a, vector *b, uint32_t bits, uint32_t mask) {
  vector moved = (*a >> bits ^ *b) & mask;
  *b ^= moved;
  *a ^= moved << bits;
}

/* Of 8 inputs the codes of 8 outputs each, as AutoAWQ orders them in a word, to a word for each output: the codes of
 * eight words are a square, which is transposed. */
INLINE void gather_codes(vector stored[8], vector words[8]) {
  static const int ORDER[] = {0, 4, 1, 5, 2, 6, 3, 7};
  for (int i = 0; i < 4; i++) exchange(&stored[i], &stored[i + 4], 16, 0x0000FFFFu);
  for (int i = 0; i < 8; i += i % 4 == 1 ? 3 : 1) exchange(&stored[i], &stored[i + 2], 8, 0x00FF00FFu);
  for (int i = 0; i < 8; i += 2) exchange(&stored[i], &stored[i + 1], 4, 0x0F0F0F0Fu);
  for (int i = 0; i < 8; i++) words[i] = stored[ORDER[i]];
}

/* 8 * LANES inputs of LANES words: as many words in a row of each of 8 * LANES outputs. */
INLINE void repack_block(const uint32_t *in, size_t words, uint32_t *out, size_t row_words) {
  vector made[8][LANES]; /* [output of a word][eight inputs], a lane for each word */
  for (size_t eight = 0; eight < LANES; eight++) {
    vector stored[8], codes[8];
    for (size_t i = 0; i < 8; i++) stored[i] = load_vector(in + (8 * eight + i) * words);
    gather_codes(stored, codes);
    for (size_t i = 0; i < 8; i++) made[i][eight] = codes[i];
  }
  for (size_t output = 0; output < 8; output++) {
    transpose_words(made[output]);
    for (size_t word = 0; word < LANES; word++) store_vector(out + (8 * word + output) * row_words, made[output][word]);
  }
}

INLINE bool repack(const uint32_t *stored, size_t rows, size_t words, uint32_t *result) {
  if (rows < 8 * LANES || words < LANES) return false;
  for (size_t i = 0; i < rows; i += 8 * LANES) {
    const size_t row = smaller(i, rows - 8 * LANES);
    for (size_t k = 0; k < words; k += LANES) {
      const size_t word = smaller(k, words - LANES);
      repack_block(stored + row * words + word, words, result + word * rows + row / 8, rows / 8);
    }
  }
  return true;
}

/* ---- FP8 ------------------------------------------------------------------------------------------------------- */

/* Columns that share a scale. */
INLINE void scale_run(const uint8_t *codes, size_t count, float scale, uint16_t *result) {
  const bool is_finite = mlxq_f32_is_finite(scale);
  if (count >= SCALED && is_finite) {
    for (size_t i = 0; i < count; i += SCALED) {
      const size_t at = smaller(i, count - SCALED);
      scale_codes(codes + at, scale, result + at);
    }
  } else {
    for (size_t i = 0; i < count; i++) {
      float value = mlxq_e4m3_to_f32(codes[i]) * scale;
      result[i] = mlxq_f32_to_bf16(is_finite ? value : mlxq_one_nan(value));
    }
  }
}

INLINE void scale_blocks(const mlxq_block_args *args, const uint8_t *codes, const float *scales, uint16_t *result) {
  for (size_t row = 0; row < args->rows; row++) {
    const float *row_scales = scales + (args->first_row + row) / args->block_rows * args->scale_columns;
    const size_t start = row * args->columns;
    for (size_t column = 0; column < args->columns;) {
      size_t block = (size_t)(args->first_column + column) / args->block_columns;
      size_t end = smaller((block + 1) * args->block_columns - (size_t)args->first_column, args->columns);
      scale_run(codes + start + column, end - column, row_scales[block], result + start + column);
      column = end;
    }
  }
}

/* ---- Kernels --------------------------------------------------------------------------------------------------- */

/* Defines those of an ISA; small matrices are left to those of `rest`. */
#define MLXQ_DEFINE_MATRIX(isa, rest)                                                                           \
  void mlxq_transpose_##isa(size_t elem_bytes, const void *matrix, size_t rows, size_t columns, void *result) { \
    if (elem_bytes == 4 && transpose(4, matrix, rows, columns, result)) return;                                 \
    if (elem_bytes == 2 && transpose(2, matrix, rows, columns, result)) return;                                 \
    mlxq_transpose_##rest(elem_bytes, matrix, rows, columns, result);                                           \
  }                                                                                                             \
  void mlxq_fp8_##isa(const mlxq_block_args *args, const uint8_t *codes, const float *scales, void *dense) {    \
    scale_blocks(args, codes, scales, dense);                                                                   \
  }                                                                                                             \
  void mlxq_repack_awq_##isa(const uint32_t *stored, size_t rows, size_t words, void *packed) {                 \
    if (!repack(stored, rows, words, packed)) mlxq_repack_awq_##rest(stored, rows, words, packed);              \
  }

#endif
