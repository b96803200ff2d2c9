#include "plan/model.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

mlxq_status mlxq_model_new(mlxq_model **model, const mlxq_weights *stored, mlxq_error *error) {
  *model = mlxq_calloc(1, sizeof **model);
  if (!*model) return mlxq_fail_memory(error);
  (*model)->stored = stored;
  mlxq_status status = mlxq_weights_new(&(*model)->tensors, error);
  if (status != MLXQ_OK) {
    mlxq_model_free(*model);
    *model = NULL;
  }
  return status;
}

void mlxq_model_free(mlxq_model *model) {
  if (!model) return;
  mlxq_weights_free(model->tensors);
  free(model->first_piece);
  free(model->pieces);
  free(model);
}

mlxq_status mlxq_model_add(mlxq_model *model, const char *name, mlxq_dtype dtype, uint32_t rank, const uint64_t *shape,
                           mlxq_error *error) {
  void *firsts = model->first_piece;
  if (!mlxq_grow(&firsts, model->tensors->count, &model->first_capacity, sizeof *model->first_piece)) {
    return mlxq_fail_memory(error);
  }
  model->first_piece = firsts;
  model->first_piece[model->tensors->count] = model->piece_count;
  return mlxq_weights_describe(model->tensors, name, strlen(name), dtype, rank, shape, 0, 0, NULL, error);
}

mlxq_status mlxq_model_add_piece(mlxq_model *model, const mlxq_piece *piece, mlxq_error *error) {
  void *pieces = model->pieces;
  if (!mlxq_grow(&pieces, model->piece_count, &model->piece_capacity, sizeof *model->pieces)) {
    return mlxq_fail_memory(error);
  }
  model->pieces = pieces;
  if (model->first_piece[model->tensors->count - 1] == model->piece_count) { /* errors name the first piece's file */
    model->tensors->entries[model->tensors->count - 1].file = model->stored->entries[piece->stored].file;
  }
  model->pieces[model->piece_count++] = *piece;
  return MLXQ_OK;
}

mlxq_status mlxq_model_add_stored(mlxq_model *model, size_t stored, const char *name, uint32_t rank,
                                  const uint64_t *shape, mlxq_error *error) {
  mlxq_status status = mlxq_model_add(model, name, model->stored->entries[stored].tensor.dtype, rank, shape, error);
  mlxq_piece piece = mlxq_whole_piece(stored, rank, shape);
  return status == MLXQ_OK ? mlxq_model_add_piece(model, &piece, error) : status;
}

mlxq_piece mlxq_whole_piece(size_t stored, uint32_t rank, const uint64_t *shape) {
  mlxq_piece piece = {.stored = (uint32_t)stored, .block_scales = MLXQ_NO_TENSOR, .rows = 1, .stride = 1};
  for (uint32_t i = 0; i + 1 < rank; i++) piece.rows *= shape[i];
  if (rank > 0) piece.stride = shape[rank - 1];
  return piece;
}

const mlxq_piece *mlxq_model_pieces(const mlxq_model *model, size_t index, size_t *count) {
  size_t first = model->first_piece[index];
  size_t end = index + 1 < model->tensors->count ? model->first_piece[index + 1] : model->piece_count;
  *count = end - first;
  return &model->pieces[first];
}
