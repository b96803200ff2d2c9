/* Which scheme each layer of a checkpoint gets: skips, overrides, the recipe, the family's rule and the default become
 * one configuration, which the planner follows and config.json records. */
#ifndef MLXQ_PLAN_SELECT_H
#define MLXQ_PLAN_SELECT_H

#include "plan/family.h"

#include <mlxq/checkpoint.h>

typedef struct mlxq_selection {
  mlxq_quant_config *config; /* what the planner follows */
  mlxq_quant_config *added;  /* what config.json gets beyond the source's block; same default */
  const mlxq_family *family; /* NULL for a single file: every layer that the default's group size divides */
  int32_t group_size;        /* of the default; a layer it does not divide stays dense */
} mlxq_selection;

/* `existing` (may be NULL) is the source's own configuration: its layers keep what it says of them. Errors:
 * MLXQ_OUT_OF_RANGE for a scheme MLX lacks, MLXQ_UNKNOWN_VALUE for a pattern that matches nothing, MLXQ_NOT_DIVISIBLE
 * for an override's group, MLXQ_USAGE for a recipe that is unknown or has another mode than affine, MLXQ_UNSUPPORTED
 * for a recipe on a model without down_proj. */
mlxq_status mlxq_select(mlxq_selection *selection, const mlxq_weights *tensors, const mlxq_family *family,
                        const mlxq_quant_config *existing, const mlxq_quantize_options *options, mlxq_error *error);
void mlxq_selection_free(mlxq_selection *selection);

/* An mlxq_eligible_fn for the planner; `selection` is its user pointer. */
bool mlxq_selection_eligible(void *selection, const char *layer, const mlxq_tensor *weight);

#endif
