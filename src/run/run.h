/* Running a plan: worker threads take tiles by number, read their slices, run the kernels, and write at final offsets.
 * Any order gives the same bytes; of several errors the one of the lowest tile is reported, so messages do not depend
 * on scheduling. */
#ifndef MLXQ_RUN_RUN_H
#define MLXQ_RUN_RUN_H

#include "checkpoint/checkpoint.h"
#include "kernels/kernels.h"
#include "plan/plan.h"
#include "run/journal.h"

/* What a quantize tile lost: sums over its elements, for the relative RMS error. */
typedef struct mlxq_tile_stats {
  double squared_error, squared_weight;
} mlxq_tile_stats;

typedef struct mlxq_run_request {
  const mlxq_plan *plan;
  const mlxq_source_file *source_files; /* NULL: the source tensors have their data */
  const char *sink_folder;              /* where the plan's files are; NULL: the outputs have their data */
  mlxq_journal *journal;                /* of the sink; NULL: none */
  unsigned threads;                     /* 0: one for each processor */
  mlxq_isa isa;
  mlxq_tile_stats *stats; /* NULL, or one for each of the plan's tiles */

  /* For those who look at tiles instead of writing them (NULL for none), on the workers' threads. `store` gets each
   * output in place of the sink; `visit` gets a tile's inputs in place of the kernels. */
  mlxq_status (*store)(void *look_user, size_t output, uint64_t offset, const void *data, size_t bytes,
                       mlxq_error *error);
  mlxq_status (*visit)(void *look_user, const mlxq_job *job, uint64_t first_unit, size_t units,
                       const void *const *inputs, mlxq_error *error);
  void *look_user;

  void (*progress)(void *user, uint64_t done_bytes, uint64_t total_bytes); /* on the calling thread */
  bool (*cancelled)(void *user);
  void *user;
} mlxq_run_request;

/* Makes all outputs, but for those in files that the journal has. Blocks until every worker is done, whatever happens.
 */
mlxq_status mlxq_run(const mlxq_run_request *request, mlxq_error *error);

#endif
