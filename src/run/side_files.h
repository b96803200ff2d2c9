/* What a converted folder holds beside its weights. */
#ifndef MLXQ_RUN_SIDE_FILES_H
#define MLXQ_RUN_SIDE_FILES_H

#include "base/text.h"
#include "plan/plan.h"

/* Finds the tokenizer, chat template, code and generation config of the source, which must be readable. */
mlxq_status mlxq_side_files_find(mlxq_checkpoint *source, mlxq_error *error);

/* How much of these there is; INT64_MAX for more than that. */
uint64_t mlxq_side_files_bytes(const mlxq_checkpoint *source);

/* Writes config.json (its text given), the index and a model card into `folder`, and copies the files that
 * were found. `result` is the configuration of what was made, or NULL. */
mlxq_status mlxq_side_files_write(const char *folder, const mlxq_checkpoint *source, const mlxq_text *config,
                                  const mlxq_plan *plan, const mlxq_quant_config *result, mlxq_error *error);

#endif
