/* Importing: foreign layers are recognised and checked by their format's planner, their names and places are those of
 * the model, and each becomes a job. */
#ifndef MLXQ_PLAN_IMPORT_H
#define MLXQ_PLAN_IMPORT_H

#include "checkpoint/foreign.h"
#include "plan/family.h"
#include "plan/plan.h"

#include <mlxq/import.h>

typedef struct mlxq_import_request {
  mlxq_plan_request common; /* `source` is what is stored; no model */
  mlxq_foreign_config config;
  const mlxq_family *family;         /* NULL: names stay as they are */
  const mlxq_checkpoint *checkpoint; /* of files; NULL in memory */
  int32_t requantize_bits;           /* 0: layers that MLX cannot hold exactly are refused */
  bool exact;
  mlxq_quant_config *result; /* made by the planner; the caller releases it */
} mlxq_import_request;

typedef mlxq_status (*mlxq_import_fn)(mlxq_plan **plan, mlxq_import_request *request, mlxq_error *error);

mlxq_status mlxq_plan_import_awq(mlxq_plan **plan, mlxq_import_request *request, mlxq_error *error);
mlxq_status mlxq_plan_import_gptq(mlxq_plan **plan, mlxq_import_request *request, mlxq_error *error);

/* The planner of a method ("awq", "gptq"); NULL where there is none. */
mlxq_import_fn mlxq_import_planner(const char *method);

/* ---- For the formats' planners --------------------------------------------------------------------------------- */

/* The layers found, in the order of the source. */
typedef struct mlxq_foreign_layers {
  mlxq_foreign_layer *items;
  size_t count, capacity;
  bool *consumed; /* of every stored tensor: part of a layer, or dropped */
} mlxq_foreign_layers;

/* Sets the layers' dtypes: scales and biases of all take one, the widest there is, except that float16 beside bfloat16
 * alone becomes float32; float64 does where the result is for MLX or a layer is quantized anew. A cast takes their
 * place. */
void mlxq_foreign_choose_dtypes(mlxq_foreign_layers *layers, const mlxq_plan_request *request);

/* MLXQ_KEY_COLLISION for what a packed layer would become, beside it. `layer` (may be NULL) is what the error names. */
mlxq_status mlxq_foreign_check_collisions(const mlxq_weights *source, const char *path, const char *layer,
                                          mlxq_error *error);

/* MLXQ_SHAPE_MISMATCH of a part beside its `.qweight`. */
mlxq_status mlxq_foreign_fail_shape(mlxq_error *error, const char *layer, const mlxq_tensor *part, uint64_t rows,
                                    uint64_t columns);

/* Sets a layer's `repeat`, `scheme` and `requantized`: which MLX group holds the stored ones. MLXQ_OUT_OF_RANGE (for
 * scattered groups MLXQ_UNSUPPORTED), naming the layer and hinting at --requantize, where none does. */
mlxq_status mlxq_foreign_choose(mlxq_foreign_layer *layer, const char *path, const mlxq_import_request *request,
                                mlxq_error *error);

/* MLXQ_UNSUPPORTED for `.scales` and such that belong to no packed layer: those of activations have no place in MLX. */
mlxq_status mlxq_foreign_check_orphans(const mlxq_plan_request *request, const mlxq_foreign_layers *layers,
                                       mlxq_error *error);

/* With --exact: widens every layer of which a bias would lose bits. MLXQ_OUT_OF_RANGE for one of 8 bits. */
mlxq_status mlxq_foreign_widen(mlxq_foreign_layers *layers, const mlxq_import_request *request, mlxq_error *error);

/* Tells by the request's `warn` how many layers are widened, and at what cost. */
void mlxq_foreign_warn_of_cost(const mlxq_foreign_layers *layers, const mlxq_plan_request *request);

/* The scheme that most layers (there are some) get. */
mlxq_scheme mlxq_foreign_common_scheme(const mlxq_foreign_layers *layers);

/* Makes the plan out of the layers found; `fallback` is the configuration's default scheme. */
mlxq_status mlxq_plan_foreign(mlxq_plan **result, mlxq_import_request *request, const mlxq_foreign_layers *layers,
                              const mlxq_scheme *fallback, mlxq_error *error);

#endif
