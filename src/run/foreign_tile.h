/* What a tile does with the parts of a foreign layer. */
#ifndef MLXQ_RUN_FOREIGN_TILE_H
#define MLXQ_RUN_FOREIGN_TILE_H

#include "kernels/kernels.h"
#include "plan/foreign.h"

typedef struct mlxq_foreign_tile {
  const mlxq_foreign_layer *layer;
  mlxq_profile profile;
  size_t outs;       /* made by the tile */
  size_t scale_row;  /* GEMV: elements in a row of scales */
  size_t zero_row;   /* GEMV: words in a row of zero points */
  mlxq_dtype scales; /* as stored */
  bool must_be_finite;
  const int32_t *group_index; /* of each input; NULL: groups are of neighbours */
  void *scratch;              /* mlxq_foreign_scratch_bytes for each unit, and mlxq_foreign_tile_bytes once */
} mlxq_foreign_tile;

/* Bytes of scratch for a tile as such, beside what its units need. */
size_t mlxq_foreign_tile_bytes(const mlxq_foreign_layer *layer);

/* Makes weight, scales and biases (`outputs`) of codes, scales, and where the layer has them zero points (`inputs`).
 * False where a requantized weight, or an index, is not what it must be; `*bad` says why. */
bool mlxq_foreign_tile_run(const mlxq_foreign_tile *tile, const mlxq_kernel_table *kernels, const void *const *inputs,
                           void *const *outputs, const char **bad);

#endif
