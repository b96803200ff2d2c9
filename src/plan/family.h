/* What mlx-lm does with each model family's tensors before it quantizes: which it drops, which it treats in its own
 * way, and which families need more than that. One table, one row a family (docs/models.md). */
#ifndef MLXQ_PLAN_FAMILY_H
#define MLXQ_PLAN_FAMILY_H

#include "checkpoint/checkpoint.h"
#include "plan/model.h"

#include <mlxq/scheme.h>

typedef struct mlxq_family mlxq_family;

/* The row of the checkpoint's model_type; for a type that has none a row that stands for unknown types. Constant. */
const mlxq_family *mlxq_family_of(const mlxq_checkpoint *checkpoint);

/* The row for types that have none. Constant. */
const mlxq_family *mlxq_family_unknown(void);

/* Whether the row is that of a known type. */
bool mlxq_family_is_known(const mlxq_family *family);

/* MLXQ_UNSUPPORTED, with the reason, for a family or tensors that would come out wrong. */
mlxq_status mlxq_family_check(const mlxq_family *family, const mlxq_checkpoint *checkpoint, mlxq_error *error);

/* Drops from the checkpoint's tensors what mlx-lm's model would not load: rotary tables, multi-token prediction, layers
 * beyond num_hidden_layers, the lm_head of tied embeddings. Where config.json leaves open whether they are tied, makes
 * it say so. Each surprising drop is told by `warn`. */
mlxq_status mlxq_family_sanitize(const mlxq_family *family, mlxq_checkpoint *checkpoint,
                                 void (*warn)(void *user, const char *message), void *user, mlxq_error *error);

/* The tensors as mlx-lm's class names and shapes them: experts stacked, fused matrices split, FP8 blocks undone.
 * `tensors` are those of the checkpoint, or of the model `from` that was made of them. `*model` is NULL where the
 * family changes nothing. Errors: MLXQ_MISSING_KEY for an expert, MLXQ_SHAPE_MISMATCH, MLXQ_UNSUPPORTED, naming file
 * and key. */
mlxq_status mlxq_family_arrange(mlxq_model **model, const mlxq_family *family, const mlxq_checkpoint *checkpoint,
                                const mlxq_weights *tensors, const mlxq_model *from, mlxq_error *error);

/* The object of config.json that has the model's keys: text_config for families that nest them. */
struct json_object *mlxq_family_config(const mlxq_family *family, const mlxq_checkpoint *checkpoint);

/* Makes the changes that mlx-lm's class makes to the config it was read from. */
mlxq_status mlxq_family_edit_config(const mlxq_family *family, mlxq_checkpoint *checkpoint, mlxq_error *error);

/* Whether mlx-lm's class itself reads tensors that `quant_method` names: "fp8", "mxfp4". */
bool mlxq_family_reads(const mlxq_family *family, const char *quant_method);

/* Whether a tensor of this name keeps its dtype when others are cast; `family` as an untyped pointer, for planners. */
bool mlxq_family_keeps_dtype(void *family, const char *name);

/* Whether a layer may have a `.bias`; false only where the family surely has none. */
bool mlxq_family_has_bias(const mlxq_family *family, const mlxq_checkpoint *checkpoint, const char *layer);

/* mlx-lm's choice by name and rank: is this the weight of a layer that is quantized? */
bool mlxq_family_quantizes(const mlxq_family *family, const char *layer, const mlxq_tensor *weight);

/* True, and `*option` set, where the family's own rule gives a layer a scheme of its own. */
bool mlxq_family_option(const mlxq_family *family, const char *layer, mlxq_layer_option *option);

#endif
