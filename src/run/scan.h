/* Reading every byte of a checkpoint, for numbers that no model has. */
#ifndef MLXQ_RUN_SCAN_H
#define MLXQ_RUN_SCAN_H

#include "plan/structure.h"
#include "run/run.h"

/* Reads all tensors by tiles, and tells of NaNs and infinities (`defects`) and of groups whose scale is 0 and whose
 * codes are not: `notes` of those that MLX's GPU back-ends write, `defects` of the others. One flaw a tensor and sort.
 * `how` gives threads, progress and cancellation. */
mlxq_status mlxq_scan(const mlxq_structure *structure, const mlxq_run_request *how, const mlxq_flaws *defects,
                      const mlxq_flaws *notes, mlxq_error *error);

#endif
