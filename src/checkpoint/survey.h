/* What a survey of a checkpoint looks at beyond what opening it does. */
#ifndef MLXQ_CHECKPOINT_SURVEY_H
#define MLXQ_CHECKPOINT_SURVEY_H

#include "checkpoint/checkpoint.h"

/* Reads every file's header on its own into the checkpoint's tensors, see mlxq_checkpoint_survey. */
mlxq_status mlxq_survey_headers(mlxq_checkpoint *checkpoint, const mlxq_flaws *flaws, mlxq_error *error);

/* Numbered shards ("model-00002-of-00003.safetensors") that the folder lacks. */
mlxq_status mlxq_survey_shards(const mlxq_checkpoint *checkpoint, const mlxq_flaws *flaws, mlxq_error *error);

#endif
