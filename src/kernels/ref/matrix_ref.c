/* Matrices of stored weights on their way to MLX's layout: transposes, FP8 with block scales, AutoAWQ's codes. */
#include "kernels/kernel_list.h"
#include "kernels/ref/floats.h"

/* Columns are done a few at a time, so that the lines read are still in the cache for the next ones. */
enum { STRIP = 32 };

/* One loop for each width: `width` is a constant once this is inlined. */
static inline void transpose(size_t width, const uint8_t *matrix, size_t rows, size_t columns, uint8_t *result) {
  for (size_t first = 0; first < columns; first += STRIP) {
    size_t end = columns - first < STRIP ? columns : first + STRIP;
    for (size_t row = 0; row < rows; row++) {
      for (size_t column = first; column < end; column++) {
        memcpy(result + (column * rows + row) * width, matrix + (row * columns + column) * width, width);
      }
    }
  }
}

void mlxq_transpose_ref(size_t elem_bytes, const void *matrix, size_t rows, size_t columns, void *result) {
  if (elem_bytes == 4) {
    transpose(4, matrix, rows, columns, result);
  } else if (elem_bytes == 2) {
    transpose(2, matrix, rows, columns, result);
  } else {
    transpose(1, matrix, rows, columns, result);
  }
}

void mlxq_fp8_ref(const mlxq_block_args *args, const uint8_t *codes, const float *scales, void *dense) {
  float values[256];
  uint16_t *result = dense;
  for (unsigned code = 0; code < 256; code++) values[code] = mlxq_e4m3_to_f32((uint8_t)code);
  for (size_t row = 0; row < args->rows; row++) {
    const float *row_scales = scales + (args->first_row + row) / args->block_rows * args->scale_columns;
    for (size_t column = 0; column < args->columns;) {
      size_t block = (size_t)(args->first_column + column) / args->block_columns;
      size_t end = (block + 1) * args->block_columns - (size_t)args->first_column;
      if (end > args->columns) end = args->columns;
      for (; column < end; column++) {
        float value = values[codes[row * args->columns + column]] * row_scales[block];
        if (!mlxq_f32_is_finite(row_scales[block])) value = mlxq_one_nan(value);
        result[row * args->columns + column] = mlxq_f32_to_bf16(value);
      }
    }
  }
}

void mlxq_repack_awq_ref(const uint32_t *stored, size_t rows, size_t words, void *packed) {
  static const unsigned SHIFTS[] = {0, 16, 4, 20, 8, 24, 12, 28};
  uint32_t *result = packed;
  for (size_t row = 0; row < rows; row += 8) {
    for (size_t word = 0; word < words; word++) {
      uint32_t block[8] = {0}; /* of 8 inputs, the codes of each of 8 outputs */
      for (size_t i = 0; i < 8; i++) {
        uint32_t codes = stored[(row + i) * words + word];
        for (size_t out = 0; out < 8; out++) block[out] |= (codes >> SHIFTS[out] & 15u) << 4 * i;
      }
      for (size_t out = 0; out < 8; out++) result[(8 * word + out) * (rows / 8) + row / 8] = block[out];
    }
  }
}
