/* Comparing a quantized checkpoint with its dense original: quantized again by tiles, and compared instead of written.
 */
#ifndef MLXQ_RUN_AGAINST_H
#define MLXQ_RUN_AGAINST_H

#include "plan/structure.h"
#include "run/run.h"

#include <mlxq/verify.h>

/* Quantizes the layers that are sound in `structure` as its configuration says (or, where it has none, as the shapes of
 * both tell), casts and copies the rest, and compares. All that differs is told to `defects`, one flaw a tensor; a
 * dtype that most of those have to `notes`. `dense` is a request for a planner as mlxq_convert_open_dense gives it;
 * `how` as for mlxq_scan. The caller releases
 * `*comparison` as a part of a report. */
mlxq_status mlxq_compare_with_dense(mlxq_comparison **comparison, const mlxq_structure *structure,
                                    mlxq_plan_request *dense, const mlxq_run_request *how, const mlxq_flaws *defects,
                                    const mlxq_flaws *notes, mlxq_error *error);

#endif
