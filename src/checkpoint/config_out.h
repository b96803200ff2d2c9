/* config.json of a converted folder, as mlx_lm.convert writes it. */
#ifndef MLXQ_CHECKPOINT_CONFIG_OUT_H
#define MLXQ_CHECKPOINT_CONFIG_OUT_H

#include "base/text.h"
#include "checkpoint/checkpoint.h"

/* Turns the checkpoint's config into that of the result: drops _name_or_path (and vision_config unless `keep_vision`),
 * sets or removes (`added` NULL) the quantization, sorts the keys, and appends the text. `added` gives the default
 * of a source that had no quantization; its layers are set in either case. MLXQ_OUT_OF_RANGE for a
 * config that would be written at far greater length than its source's. */
mlxq_status mlxq_config_write(mlxq_text *text, mlxq_checkpoint *checkpoint, const mlxq_quant_config *added,
                              bool keep_vision, mlxq_error *error);

#endif
