/* Does a checkpoint hold the layers that config.json tells of, and each what its fellows have? */
#ifndef MLXQ_PLAN_GAPS_H
#define MLXQ_PLAN_GAPS_H

#include "checkpoint/checkpoint.h"

/* Tells `defects` of layers below config.json's num_hidden_layers that have no tensors at all. The rest is unusual, and
 * no more, since nothing in a checkpoint says which tensors a model needs, so `notes` are told of it: a `.weight` that
 * exactly one layer lacks, where that layer has no `.weight` of its own instead (the dense first layer of a mixture of
 * experts and the kinds of layers of a hybrid model lack nothing), and layers with embeddings or a last norm, but not
 * both. All headers have been read. */
mlxq_status mlxq_find_gaps(const mlxq_checkpoint *checkpoint, const mlxq_flaws *defects, const mlxq_flaws *notes,
                           mlxq_error *error);

#endif
