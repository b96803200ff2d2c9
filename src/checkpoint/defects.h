/* Keeping the flaws that are found as a report's defects and notes. */
#ifndef MLXQ_CHECKPOINT_DEFECTS_H
#define MLXQ_CHECKPOINT_DEFECTS_H

#include "base/error.h"

#include <mlxq/verify.h>

typedef struct mlxq_defects {
  mlxq_verification *report;
  size_t defect_capacity, note_capacity;
  bool out_of_memory; /* some were not kept for want of memory */
} mlxq_defects;

/* Where flaws become defects, or notes. `defects` must outlive the result. */
mlxq_flaws mlxq_defects_taker(mlxq_defects *defects);
mlxq_flaws mlxq_notes_taker(mlxq_defects *defects);

#endif
