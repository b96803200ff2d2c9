/* A model's tensors as mlx-lm's own class names and shapes them, and the pieces of stored tensors that each is made of:
 * experts stacked, fused matrices split, matrices transposed. Nothing is read; the planners turn pieces into jobs. */
#ifndef MLXQ_PLAN_MODEL_H
#define MLXQ_PLAN_MODEL_H

#include "tensor/tensor_map.h"

#define MLXQ_NO_TENSOR UINT32_MAX

/* Rows and columns of a block of an F8_E4M3 tensor that has one scale (docs/formats.md). */
#define MLXQ_FP8_BLOCK 128u

/* Some rows of a model tensor (seen as a matrix whose columns are its last axis), and where they are stored. */
typedef struct mlxq_piece {
  uint32_t stored;       /* index of the stored tensor */
  uint32_t block_scales; /* of the stored tensor with the scales of an F8_E4M3 tensor's blocks, or MLXQ_NO_TENSOR */
  uint64_t first;        /* element of the stored tensor */
  uint64_t stride;       /* elements from one stored row to the next */
  uint64_t rows;         /* of the model tensor */
  bool transposed;       /* the rows are columns of the stored tensor */
  bool add_one;
} mlxq_piece;

typedef struct mlxq_model {
  const mlxq_weights *stored;
  mlxq_weights *tensors;
  size_t *first_piece; /* of each tensor; the pieces of the i-th end where those of the next begin */
  size_t first_capacity;
  mlxq_piece *pieces;
  size_t piece_count, piece_capacity;
} mlxq_model;

/* An empty model over `stored`, which must outlive it. */
mlxq_status mlxq_model_new(mlxq_model **model, const mlxq_weights *stored, mlxq_error *error);
void mlxq_model_free(mlxq_model *model);

/* Adds a tensor, whose pieces are then added in the order of its rows. MLXQ_KEY_COLLISION where the name is taken. */
mlxq_status mlxq_model_add(mlxq_model *model, const char *name, mlxq_dtype dtype, uint32_t rank, const uint64_t *shape,
                           mlxq_error *error);
mlxq_status mlxq_model_add_piece(mlxq_model *model, const mlxq_piece *piece, mlxq_error *error);

/* The piece that is all of a stored tensor of this shape. */
mlxq_piece mlxq_whole_piece(size_t stored, uint32_t rank, const uint64_t *shape);

/* Adds a stored tensor as it is, under `name` and with `shape` (of as many elements). */
mlxq_status mlxq_model_add_stored(mlxq_model *model, size_t stored, const char *name, uint32_t rank,
                                  const uint64_t *shape, mlxq_error *error);

/* The pieces of the i-th tensor; `*count` is how many. */
const mlxq_piece *mlxq_model_pieces(const mlxq_model *model, size_t index, size_t *count);

#endif
