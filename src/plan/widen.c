/* --exact: a bias is -(zero * scale), which the dtype of the scales may not hold. With the zero point at a power of two
 * it always does, at the price of one more bit a code. */
#include "base/error.h"
#include "kernels/kernels.h"
#include "plan/import.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One row of scales with its zero points. */
typedef struct fit_row {
  size_t count, words;
  void *stored; /* scales as stored */
  uint32_t *zero_words;
  float *scales, *zeros, *rounded;
  void *narrow; /* of any dtype */
} fit_row;

static mlxq_status alloc_row(fit_row *row, size_t count, size_t words, mlxq_error *error) {
  *row = (fit_row){.count = count,
                   .words = words,
                   .stored = mlxq_alloc(count, sizeof(double)),
                   .zero_words = mlxq_alloc(words, sizeof(uint32_t)),
                   .scales = mlxq_alloc(count, sizeof(float)),
                   .zeros = mlxq_alloc(count, sizeof(float)),
                   .rounded = mlxq_alloc(count, sizeof(float)),
                   .narrow = mlxq_alloc(count, sizeof(double))};
  bool complete = row->stored && row->zero_words && row->scales && row->zeros && row->rounded && row->narrow;
  return complete ? MLXQ_OK : mlxq_fail_memory(error);
}

static void free_row(fit_row *row) {
  free(row->stored);
  free(row->zero_words);
  free(row->scales);
  free(row->zeros);
  free(row->rounded);
  free(row->narrow);
}

static bool row_loses_bits(const fit_row *row, const mlxq_foreign_layer *layer, mlxq_dtype stored) {
  const mlxq_kernel_table *kernels = mlxq_kernels(MLXQ_ISA_COUNT);
  kernels->cast(stored, MLXQ_F32, row->stored, row->scales, row->count);
  kernels->cast(MLXQ_F32, layer->round_dtype, row->scales, row->narrow, row->count); /* --dtype */
  kernels->cast(layer->round_dtype, MLXQ_F32, row->narrow, row->scales, row->count);
  mlxq_foreign_unpack_zeros(layer, row->zero_words, row->count, row->zeros);
  for (size_t i = 0; i < row->count; i++) row->rounded[i] = row->zeros[i] * row->scales[i];
  kernels->cast(MLXQ_F32, layer->round_dtype, row->rounded, row->narrow, row->count);
  kernels->cast(layer->round_dtype, MLXQ_F32, row->narrow, row->rounded, row->count);
  for (size_t i = 0; i < row->count; i++) {
    if ((double)row->zeros[i] * (double)row->scales[i] != (double)row->rounded[i]) return true; /* 53 bits hold it */
  }
  return false;
}

static mlxq_status loses_bits(bool *loses, const mlxq_foreign_layer *layer, const mlxq_plan_request *request,
                              mlxq_error *error) {
  const mlxq_tensor *scales = &request->source->entries[layer->scales].tensor;
  const mlxq_tensor *zeros = &request->source->entries[layer->zeros].tensor;
  size_t elem_bytes = mlxq_dtype_bits(scales->dtype) / 8;
  bool by_rows = layer->packing == MLXQ_PACKING_AWQ_GEMV;
  uint64_t rows = scales->bytes == 0 ? 0 : by_rows ? layer->outs : layer->groups;
  fit_row row;
  mlxq_status status = alloc_row(&row, (size_t)(by_rows ? layer->groups : layer->outs), (size_t)zeros->shape[1], error);
  *loses = false;
  for (uint64_t i = 0; status == MLXQ_OK && !*loses && i < rows; i++) {
    status = mlxq_plan_read(request, layer->scales, i * scales->shape[1] * elem_bytes, row.stored,
                            row.count * elem_bytes, error);
    if (status == MLXQ_OK) {
      status = mlxq_plan_read(request, layer->zeros, i * zeros->shape[1] * sizeof(uint32_t), row.zero_words,
                              row.words * sizeof(uint32_t), error);
    }
    if (status == MLXQ_OK) *loses = row_loses_bits(&row, layer, scales->dtype);
  }
  free_row(&row);
  return status;
}

mlxq_status mlxq_foreign_widen(mlxq_foreign_layers *layers, const mlxq_import_request *request, mlxq_error *error) {
  if (!request->exact) return MLXQ_OK;
  for (size_t i = 0; i < layers->count; i++) {
    mlxq_foreign_layer *layer = &layers->items[i];
    bool loses = false;
    if (layer->requantized || layer->zeros == MLXQ_NO_TENSOR || layer->zero_rule == MLXQ_ZERO_SCALED) continue;
    mlxq_status status = loses_bits(&loses, layer, &request->common, error);
    if (status != MLXQ_OK) return status;
    if (!loses) continue;
    if (layer->bits == 8) {
      return mlxq_fail(error, MLXQ_OUT_OF_RANGE, NULL, request->common.source->entries[layer->weight].tensor.name,
                       "its biases lose bits, and codes of 8 bits cannot be widened");
    }
    layer->widened = true;
    layer->scheme.bits = (int32_t)layer->bits + 1;
  }
  return MLXQ_OK;
}

__attribute__((format(printf, 2, 3))) static void warn(const mlxq_plan_request *request, const char *format, ...) {
  char message[256];
  va_list values;
  if (!request->warn) return;
  va_start(values, format);
  vsnprintf(message, sizeof message, format, values);
  va_end(values);
  request->warn(request->warn_user, message);
}

static const char *noun(uint64_t layers) {
  return layers == 1 ? "layer" : "layers";
}

void mlxq_foreign_warn_of_cost(const mlxq_foreign_layers *layers, const mlxq_plan_request *request) {
  uint64_t widened = 0, bytes = 0, requantized = 0, without_zeros = 0, with_zeros = 0;
  for (size_t i = 0; i < layers->count; i++) {
    const mlxq_foreign_layer *layer = &layers->items[i];
    requantized += layer->requantized;
    without_zeros += layer->packing != MLXQ_PACKING_GPTQ && layer->zeros == MLXQ_NO_TENSOR;
    with_zeros += layer->zeros != MLXQ_NO_TENSOR;
    if (!layer->widened) continue;
    widened++;
    bytes += layer->outs * layer->ins / 8;
  }
  if (widened > 0) {
    warn(request, "one bit more a code for %" PRIu64 " %s, so that no bias is rounded: %" PRIu64 " bytes more", widened,
         noun(widened), bytes);
  }
  if (requantized > 0) {
    warn(request, "%" PRIu64 " %s dequantized and quantized anew, with a loss", requantized, noun(requantized));
  }
  if (with_zeros > 0 && without_zeros > 0) {
    warn(request, "%" PRIu64 " packed %s without .qzeros, though others have them: the zero point is taken for 8",
         without_zeros, noun(without_zeros));
  }
}
