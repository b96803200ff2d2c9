/* model.safetensors.index.json: which file holds which tensor. */
#ifndef MLXQ_CHECKPOINT_INDEX_H
#define MLXQ_CHECKPOINT_INDEX_H

#include "base/text.h"
#include "checkpoint/checkpoint.h"

#define MLXQ_INDEX_NAME "model.safetensors.index.json"

/* Checks the folder's index, if there is one, against the files: every name it gives is a tensor of the file it names,
 * and every tensor is in it. MLXQ_CORRUPT or MLXQ_PARSE, naming the index and the tensor, otherwise. */
mlxq_status mlxq_index_check(const mlxq_checkpoint *checkpoint, mlxq_error *error);

/* The same for those who list flaws, which are told to `flaws`; a file of the index that is absent is told of once.
 * What it says of files whose headers are unknown is not judged. Errors are left for what cannot be read.
 * `*total_bytes` is the total_size of its metadata, MLXQ_NO_TOTAL where that is no integer or there is none. */
mlxq_status mlxq_index_survey(const mlxq_checkpoint *checkpoint, uint64_t *total_bytes, const mlxq_flaws *flaws,
                              mlxq_error *error);

/* Appends the index of `tensors` as mlx-lm writes it: names sorted, `file_name(user, i)` the name of file i.
 * MLXQ_NO_MEMORY on failure. */
mlxq_status mlxq_index_write(mlxq_text *text, const mlxq_weights *tensors,
                             const char *(*file_name)(const void *user, size_t index), const void *user,
                             uint64_t total_bytes, uint64_t parameters, mlxq_error *error);

#endif
