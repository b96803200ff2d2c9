/* The journal of a working folder: which of the plan's files are whole, so that a run after one that was killed makes
 * only the rest.
 *
 * It lies in the working folder. Its first line holds a key: a hash of the plan and of the inputs' identity, without
 * which nothing in the folder is of use. Each further line names a file and the checksum of its bytes. A line is added
 * after the fsync of the file it vouches for, and is believed only where the file's bytes still have the checksum, so
 * that a torn or a wrong line costs work and nothing else. The checksum adds up over pieces in any order: workers
 * compute it from the tiles they have at hand. */
#ifndef MLXQ_RUN_JOURNAL_H
#define MLXQ_RUN_JOURNAL_H

#include "checkpoint/checkpoint.h"
#include "plan/plan.h"

#include <pthread.h>
#include <stdatomic.h>

/* One of the plan's files. */
typedef struct mlxq_shard {
  _Atomic uint64_t left; /* bytes not yet written */
  _Atomic uint64_t sum;  /* of those that are */
  bool whole;            /* of an earlier run; never changes while tiles are made */
} mlxq_shard;

typedef struct mlxq_journal {
  const mlxq_plan *plan;
  const char *folder;
  char *path;
  int fd;
  uint64_t length;      /* of the lines so far */
  pthread_mutex_t lock; /* for the two above */
  mlxq_shard *shards;
  uint64_t reused_bytes; /* of tensors in whole files */
  bool stale;            /* there was one, of another key or not to be reused */
} mlxq_journal;

typedef struct mlxq_journal_request {
  const mlxq_plan *plan; /* laid out; it and `folder` must outlive the journal */
  const char *folder;    /* locked by this process */
  uint64_t key;
  bool reuse;                                                              /* else everything is made anew */
  void (*progress)(void *user, uint64_t done_bytes, uint64_t total_bytes); /* while old files are read */
  bool (*cancelled)(void *user);
  void *user;
} mlxq_journal_request;

/* Whatever decides the bytes of the plan's files. */
uint64_t mlxq_journal_key(const mlxq_plan *plan, const mlxq_source_file *sources, size_t source_count);

/* Finds out which files of an earlier run are whole, by reading them, and starts the journal of this one. The caller
 * releases `*journal` with mlxq_journal_close, also on failure. */
mlxq_status mlxq_journal_open(mlxq_journal *journal, const mlxq_journal_request *request, mlxq_error *error);

/* Whether a file is there, whole, and not to be written. False for a journal that is NULL. */
bool mlxq_journal_has(const mlxq_journal *journal, uint32_t file);

/* Takes note of bytes written to a file through `fd`: every byte of it, once, in any order. The last ones make it
 * sync the file and add its line. Thread-safe; does nothing for a journal that is NULL. */
mlxq_status mlxq_journal_wrote(mlxq_journal *journal, uint32_t file, int fd, uint64_t offset, const void *data,
                               size_t bytes, mlxq_error *error);

void mlxq_journal_close(mlxq_journal *journal);

/* The checksum of `bytes` bytes that lie at `offset` of a file. That of a file is the sum of its pieces'. */
uint64_t mlxq_journal_sum(uint64_t offset, const void *data, size_t bytes);

#endif
