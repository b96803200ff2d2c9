/* The first steps of a conversion, for those who go on in their own way. */
#ifndef MLXQ_RUN_CONVERT_H
#define MLXQ_RUN_CONVERT_H

#include "kernels/kernels.h"
#include "plan/plan.h"

#include <mlxq/checkpoint.h>

/* Checks what is general in the options; `*isa` is what `cpu` names. */
mlxq_status mlxq_convert_check(mlxq_isa *isa, const mlxq_convert_options *options, mlxq_error *error);

/* Opens a dense checkpoint as quantizing does: `*checkpoint` holds what is left of its tensors after the family's
 * drops, `*request` what a planner needs but for `config` and `eligible`. Errors as mlxq_quantize_checkpoint; one that
 * is quantized is MLXQ_UNSUPPORTED. The caller releases `*checkpoint` and
 * `*model` (may be NULL), which `*request` refers to. */
mlxq_status mlxq_convert_open_dense(mlxq_checkpoint **checkpoint, mlxq_model **model, mlxq_plan_request *request,
                                    const char *source, const mlxq_convert_options *options, mlxq_error *error);

#endif
