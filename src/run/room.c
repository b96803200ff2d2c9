#include "run/room.h"

#include "base/error.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

/* Adds what a sparse file will still take, in whole blocks. */
static mlxq_status add_missing(uint64_t *missing, const char *path, uint64_t block_bytes, mlxq_error *error) {
  enum { STAT_BLOCK_BYTES = 512 }; /* of st_blocks, whatever the file system's are */
  struct stat file;
  if (stat(path, &file) != 0) return mlxq_fail_errno(error, errno, path, "cannot stat");
  uint64_t whole = ((uint64_t)file.st_size + block_bytes - 1) / block_bytes * block_bytes;
  uint64_t present = (uint64_t)file.st_blocks * STAT_BLOCK_BYTES;
  *missing += whole > present ? whole - present : 0;
  return MLXQ_OK;
}

mlxq_status mlxq_room_check(const mlxq_staging *staging, const mlxq_plan *plan, const mlxq_journal *journal,
                            uint64_t other_bytes, mlxq_error *error) {
  struct statvfs system;
  /* Some that are in memory have no limit, and say 0 blocks. */
  if (mlxq_file_can_reserve(journal->fd) || statvfs(staging->folder, &system) != 0 || system.f_blocks == 0) {
    return MLXQ_OK;
  }
  uint64_t missing = other_bytes, room = (uint64_t)system.f_bavail * system.f_frsize;
  mlxq_status status = add_missing(&missing, journal->path, system.f_frsize, error);
  for (size_t i = 0; status == MLXQ_OK && i < plan->file_count; i++) {
    if (mlxq_journal_has(journal, (uint32_t)i)) continue;
    char *path = mlxq_path_join(staging->folder, plan->files[i].name);
    status = path ? add_missing(&missing, path, system.f_frsize, error) : mlxq_fail_memory(error);
    free(path);
  }
  if (status != MLXQ_OK || missing <= room) return status;
  mlxq_fail(error, MLXQ_NO_SPACE, NULL, NULL, "%llu bytes are still to be written, and there is room for %llu",
            (unsigned long long)missing, (unsigned long long)room);
  return mlxq_error_at_file(error, MLXQ_NO_SPACE, staging->destination);
}
