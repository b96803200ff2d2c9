/* A destination that appears whole or not at all: the work is done in one hidden sibling with a predictable name, which
 * is locked against a second process, then synced and renamed. */
#ifndef MLXQ_RUN_PUBLISH_H
#define MLXQ_RUN_PUBLISH_H

#include "run/journal.h"

typedef struct mlxq_staging {
  char *destination;
  char *parent; /* of the destination; "." where it names none */
  char *folder; /* parent/.NAME.mlxq-partial */
  char *aside;  /* parent/.NAME.mlxq-old: where the file system cannot exchange, the old folder while it is replaced */
  int lock;     /* descriptor of `folder`, locked; -1 before */
  int old_lock; /* of the folder that is replaced, locked until it is removed; -1: none */
  bool is_folder, force, keep_partial;
  bool occupied; /* there was something at the destination when it was checked */
  bool published, replaced, exchanged;
  mlxq_cancel cancel; /* looked at before each file is made, and before each is synced; set it after the check */
} mlxq_staging;

/* Checks that the destination may be made: that its parent exists, that it is absent (or with `force` is a checkpoint
 * that may be replaced), and that neither it nor the source lies inside the other. Changes
 * nothing, but, unless `look_only`, for putting an old checkpoint back that an interrupted replacement left aside. */
mlxq_status mlxq_staging_check(mlxq_staging *staging, const char *source, const char *destination, bool is_folder,
                               bool force, bool keep_partial, bool look_only, mlxq_error *error);

/* Checks that a file that is read or copied, wherever its links lead, does not lie in a destination that is replaced.
 */
mlxq_status mlxq_staging_check_file(const mlxq_staging *staging, const char *path, mlxq_error *error);

/* Makes the working folder, or takes over what an interrupted run left. MLXQ_BUSY while another process has it. */
mlxq_status mlxq_staging_create(mlxq_staging *staging, mlxq_error *error);

/* Empties the working folder but for the journal (may be NULL) and the files it has; creates the plan's other files at
 * full size with their headers. */
mlxq_status mlxq_staging_create_files(const mlxq_staging *staging, mlxq_plan *plan, mlxq_journal *journal,
                                      mlxq_error *error);

/* Syncs the plan's files and the folder, removes the journal, renames the result to the destination, syncs that, and
 * removes what was replaced. From the rename on the destination is whole: an error after it says that it may not be on
 * the disk yet (then what was replaced stays, under a working name), or that the old one could not be removed. */
mlxq_status mlxq_staging_publish(mlxq_staging *staging, const mlxq_plan *plan, mlxq_error *error);

/* Whether closing it will leave the working folder of a run that has failed. */
bool mlxq_staging_is_kept(const mlxq_staging *staging);

/* Removes the working folder, unless published or to be kept, and releases everything. */
void mlxq_staging_close(mlxq_staging *staging);

#endif
