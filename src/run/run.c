#include "run/run.h"

#include "base/error.h"
#include "checkpoint/report.h"
#include "run/worker.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

enum { MAX_THREADS = 1024 };

typedef struct mlxq_run_state {
  const mlxq_run_request *request;
  size_t buffer_bytes;
  uint64_t total_bytes;
  unsigned workers;
  _Atomic uint64_t next_tile;
  _Atomic uint64_t
      end_tile; /* tiles from here on need not be made: all of them at first, the lowest failed one later */
  _Atomic uint64_t done_bytes;
  pthread_mutex_t failure_lock; /* for what follows, and for lowering end_tile */
  mlxq_status failure;
  mlxq_error failure_error;
  uint64_t failed_tile;
} mlxq_run_state;

/* Keeps the failure of the lowest tile. Every lower tile has been taken already, and is finished by its worker. */
static void keep_failure(mlxq_run_state *state, uint64_t tile, mlxq_status status, const mlxq_error *error) {
  pthread_mutex_lock(&state->failure_lock);
  if (state->failure == MLXQ_OK || tile < state->failed_tile) {
    state->failure = status;
    state->failure_error = *error;
    state->failed_tile = tile;
    if (tile < atomic_load(&state->end_tile)) atomic_store(&state->end_tile, tile);
  }
  pthread_mutex_unlock(&state->failure_lock);
}

/* Tiles that follow each other, so that a worker reads and writes long stretches of a file and the system reads ahead
 * of it; fewer towards the end, so that the workers finish together. */
typedef struct mlxq_stretch {
  uint64_t next, end;
} mlxq_stretch;

static mlxq_stretch take_stretch(mlxq_run_state *state) {
  enum { MAX_TILES = 32, SHARES = 4 };
  uint64_t all = state->request->plan->tile_count, taken = atomic_load(&state->next_tile);
  uint64_t tiles = taken < all ? (all - taken) / ((uint64_t)SHARES * state->workers) : 0;
  if (tiles > MAX_TILES) tiles = MAX_TILES;
  if (tiles == 0) tiles = 1;
  uint64_t first = atomic_fetch_add(&state->next_tile, tiles);
  return (mlxq_stretch){first, first + tiles};
}

static void work(mlxq_run_state *state, bool on_calling_thread) {
  const mlxq_run_request *request = state->request;
  const mlxq_cancel cancel = {request->cancelled, request->user};
  mlxq_worker worker;
  mlxq_error error;
  uint64_t written = 0;
  mlxq_stretch stretch = {0, 0};
  mlxq_status status = mlxq_worker_open(&worker, request, state->buffer_bytes, &error);
  if (status != MLXQ_OK) {
    /* The others go on without this one; the calling thread is the last. */
    if (on_calling_thread) keep_failure(state, 0, status, &error);
    return;
  }
  for (;;) {
    if (stretch.next == stretch.end) stretch = take_stretch(state);
    uint64_t tile = stretch.next++;
    if (tile >= atomic_load(&state->end_tile)) break;
    status = mlxq_cancel_check(&cancel, &error);
    if (status == MLXQ_OK) status = mlxq_worker_tile(&worker, tile, &written, &error);
    if (status != MLXQ_OK) {
      keep_failure(state, tile, status, &error);
      continue;
    }
    uint64_t done = atomic_fetch_add(&state->done_bytes, written) + written;
    if (on_calling_thread && request->progress) request->progress(request->user, done, state->total_bytes);
  }
  status = mlxq_worker_close(&worker, &error);
  if (status != MLXQ_OK) keep_failure(state, UINT64_MAX - 1, status, &error);
}

static void *thread_main(void *state) {
  work(state, false);
  return NULL;
}

static unsigned worker_count(const mlxq_run_request *request) {
  long online = request->threads ? (long)request->threads : sysconf(_SC_NPROCESSORS_ONLN);
  uint64_t count = online > 0 ? (uint64_t)online : 1;
  if (count > MAX_THREADS) count = MAX_THREADS;
  if (count > request->plan->tile_count) count = request->plan->tile_count;
  return count > 0 ? (unsigned)count : 1;
}

mlxq_status mlxq_run(const mlxq_run_request *request, mlxq_error *error) {
  mlxq_run_state state = {
      .request = request,
      .workers = worker_count(request),
      .buffer_bytes = mlxq_worker_buffer_bytes(request->plan, request->stats != NULL),
      .total_bytes = mlxq_total_bytes(request->visit ? request->plan->stored : request->plan->outputs),
      .end_tile = request->plan->tile_count,
      .done_bytes = request->journal ? request->journal->reused_bytes : 0,
  };
  unsigned count = state.workers, started = 0;
  pthread_t *threads = mlxq_alloc(count, sizeof *threads);
  if (!threads) return mlxq_fail_memory(error);
  pthread_mutex_init(&state.failure_lock, NULL);
  /* The calling thread is a worker too, so fewer threads than asked for only take longer. */
  while (started + 1 < count && pthread_create(&threads[started], NULL, thread_main, &state) == 0) started++;
  work(&state, true);
  for (unsigned i = 0; i < started; i++) pthread_join(threads[i], NULL);
  pthread_mutex_destroy(&state.failure_lock);
  free(threads);
  if (state.failure != MLXQ_OK) {
    if (error) *error = state.failure_error;
    return state.failure;
  }
  if (request->progress) request->progress(request->user, state.total_bytes, state.total_bytes);
  return MLXQ_OK;
}
