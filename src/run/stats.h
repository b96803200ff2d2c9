/* Errors of a quantization, added up by layer kind. */
#ifndef MLXQ_RUN_STATS_H
#define MLXQ_RUN_STATS_H

#include "run/run.h"

#include <mlxq/checkpoint.h>

/* Adds up the tiles of the plan's quantize jobs, in order, so that the sums do not depend on threads. The caller
 * releases
 * `*result` with mlxq_stats_free. */
mlxq_status mlxq_stats_by_kind(mlxq_kind_stats **result, size_t *result_count, const mlxq_plan *plan,
                               const mlxq_tile_stats *tiles, mlxq_error *error);
void mlxq_stats_free(mlxq_kind_stats *kinds, size_t count);

#endif
