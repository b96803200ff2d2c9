/* Does what a checkpoint's files say of each other agree? Judges every layer by config.json, and plans the reading of
 * all data. No weights are read. */
#ifndef MLXQ_PLAN_STRUCTURE_H
#define MLXQ_PLAN_STRUCTURE_H

#include "plan/plan.h"

/* Zero-initialise, set `checkpoint`; release with mlxq_structure_free. */
typedef struct mlxq_structure {
  const mlxq_checkpoint *checkpoint;
  mlxq_quant_config *config; /* NULL: none, or it could not be read */
  struct json_object *block; /* that `config` was read from; the checkpoint's */
  const char *foreign;       /* the method, where it is another format's; the checkpoint's */
  bool config_known;         /* config.json could be read, so that what it does not say is known too */
  bool complete;             /* every file's header could be read, so that what is absent is known too */
  uint64_t layers;           /* with scales */
  unsigned char *sound;      /* a bit for each tensor: the .weight of a layer whose triple fits its configuration */
  unsigned char *triples;    /* likewise: read as a triple */
  mlxq_plan *reading;        /* jobs with inputs alone: triples (MLXQ_ACTION_DEQUANTIZE) by groups, all other tensors
                                (MLXQ_ACTION_COPY) by elements, or by bytes where they are not floating */
} mlxq_structure;

/* Fills the rest of `structure`. All that disagrees is told to `defects`, what is only unusual to `notes`. */
mlxq_status mlxq_structure_survey(mlxq_structure *structure, const mlxq_flaws *defects, const mlxq_flaws *notes,
                                  mlxq_error *error);
void mlxq_structure_free(mlxq_structure *structure);

/* Whether the layer has a triple that fits. `layer_length` bytes of `layer` are its path. */
bool mlxq_structure_is_sound(const mlxq_structure *structure, const char *layer, size_t layer_length);

#endif
