/* Whether the disk has room for the rest of the work. */
#ifndef MLXQ_RUN_ROOM_H
#define MLXQ_RUN_ROOM_H

#include "run/publish.h"

/* MLXQ_NO_SPACE where the file system reserves nothing (tmpfs, some network file systems) and has less room than the
 * plan's files and the journal will still take, and `other_bytes` beside them. Comes once all of these are there at
 * full size. Where space is reserved nothing is judged: a disk that compresses may hold more than it has blocks. */
mlxq_status mlxq_room_check(const mlxq_staging *staging, const mlxq_plan *plan, const mlxq_journal *journal,
                            uint64_t other_bytes, mlxq_error *error);

#endif
