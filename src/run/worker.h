/* One worker: its tile buffers, its open files, and what it does with a tile. */
#ifndef MLXQ_RUN_WORKER_H
#define MLXQ_RUN_WORKER_H

#include "run/run.h"

/* The file that a worker keeps open: the last one it used. Two descriptors a worker, however many shards there are. */
typedef struct mlxq_open_file {
  int fd; /* -1: none */
  uint32_t file;
} mlxq_open_file;

typedef struct mlxq_worker {
  const mlxq_run_request *request;
  const mlxq_kernel_table *kernels;
  unsigned char *buffer;
  size_t buffer_bytes;
  mlxq_open_file source, sink;
} mlxq_worker;

/* Bytes of buffer that any tile of the plan needs at most. */
size_t mlxq_worker_buffer_bytes(const mlxq_plan *plan, bool stats);

mlxq_status mlxq_worker_open(mlxq_worker *worker, const mlxq_run_request *request, size_t buffer_bytes,
                             mlxq_error *error);
mlxq_status mlxq_worker_close(mlxq_worker *worker, mlxq_error *error);

/* Makes one tile; `*written` is the bytes of its outputs, without those in files that the journal has. */
mlxq_status mlxq_worker_tile(mlxq_worker *worker, uint64_t number, uint64_t *written, mlxq_error *error);

#endif
