/* Describing a checkpoint, read or planned, as an mlxq_report. */
#ifndef MLXQ_CHECKPOINT_REPORT_H
#define MLXQ_CHECKPOINT_REPORT_H

#include "checkpoint/checkpoint.h"

#include <mlxq/checkpoint.h>

/* Makes a report of `tensors` in `file_count` files whose names `file_name(user, i)` gives. Takes over `tensors` and
 * `config` (may be NULL), also on failure. */
mlxq_status mlxq_report_new(mlxq_report **result, mlxq_weights *tensors, mlxq_quant_config *config, size_t file_count,
                            const char *(*file_name)(const void *user, size_t index), const void *user,
                            mlxq_error *error);

/* Bytes of all tensors together. */
uint64_t mlxq_total_bytes(const mlxq_weights *tensors);

#endif
