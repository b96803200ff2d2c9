/* Does a layer lack what all its fellows have? Nothing in a checkpoint says which tensors a model needs, so what is
 * found is unusual, and no more. */
#ifndef MLXQ_PLAN_GAPS_H
#define MLXQ_PLAN_GAPS_H

#include "checkpoint/checkpoint.h"

/* Tells `notes` of layers below config.json's num_hidden_layers that have no tensors at all, and of each `.weight` that
 * exactly one layer lacks, where that layer has no `.weight` of its own instead: the dense first layer of a
 * mixture of experts and the kinds of layers of a hybrid model lack nothing. All headers have been read. */
mlxq_status mlxq_find_gaps(const mlxq_checkpoint *checkpoint, const mlxq_flaws *notes, mlxq_error *error);

#endif
