/* Positional file I/O that survives short transfers and interrupts. */
#ifndef MLXQ_BASE_FILE_H
#define MLXQ_BASE_FILE_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What tells one file's content from another's: if these are equal, the bytes are taken to be. */
typedef struct mlxq_file_identity {
  uint64_t device, inode, bytes;
  int64_t modified_ns, changed_ns;
} mlxq_file_identity;

/* open(2) again where a signal interrupts it, as it may on network file systems. */
int mlxq_open(const char *path, int flags);

/* Whether there is something at `path`. What is there and cannot be reached is an error: a link that leads nowhere, a
 * folder that may not be searched. */
mlxq_status mlxq_file_exists(bool *there, const char *path, mlxq_error *error);

/* Opens a regular file for reading, symbolic links followed. Anything else is MLXQ_IO. The caller closes `*fd`. */
mlxq_status mlxq_file_open(int *fd, mlxq_file_identity *identity, const char *path, mlxq_error *error);

/* Closes a descriptor that was only read; -1 is accepted. */
void mlxq_file_close(int fd);

/* Opens a file that had the identity when it was opened before: MLXQ_CHANGED where it is gone or another one. */
mlxq_status mlxq_file_reopen(int *fd, const mlxq_file_identity *identity, const char *path, mlxq_error *error);

/* Creates (must not exist) or opens for writing. The caller closes `*fd`. */
mlxq_status mlxq_file_create(int *fd, const char *path, mlxq_error *error);
mlxq_status mlxq_file_open_write(int *fd, const char *path, mlxq_error *error);

/* Reads or writes all of `bytes` at `offset`. A file that ends early is MLXQ_CHANGED: its size was checked before. */
mlxq_status mlxq_file_read_at(int fd, void *buffer, size_t bytes, uint64_t offset, const char *path, mlxq_error *error);
mlxq_status mlxq_file_write_at(int fd, const void *buffer, size_t bytes, uint64_t offset, const char *path,
                               mlxq_error *error);

/* Gives the file its size and reserves `bytes` for it, so that a full disk is known before the work. On file systems
 * that cannot reserve it becomes sparse: see mlxq_room_check. */
mlxq_status mlxq_file_reserve(int fd, uint64_t bytes, const char *path, mlxq_error *error);

/* Whether the file's file system reserves anything. The file must not be empty, and stays as it is. */
bool mlxq_file_can_reserve(int fd);

/* A hint: what was just written there may go to the disk now, so that the disk is busy before fsync. */
void mlxq_file_start_writing(int fd, uint64_t offset, uint64_t bytes);

/* fsync of an open descriptor, or of a folder by path. */
mlxq_status mlxq_file_sync(int fd, const char *path, mlxq_error *error);
mlxq_status mlxq_folder_sync(const char *path, mlxq_error *error);

/* Reads a whole small file (config.json and such) of at most `max_bytes`. The caller frees `*text`, which has a NUL
 * after its `*length` bytes. */
mlxq_status mlxq_file_read_text(char **text, size_t *length, const char *path, size_t max_bytes, mlxq_error *error);

/* Creates the file and writes it whole, then fsyncs it. */
mlxq_status mlxq_file_write_text(const char *path, const char *text, size_t length, mlxq_error *error);

/* Creates the file `to` with the bytes of the regular file `from`, for which space is reserved first, then fsyncs it.
 */
mlxq_status mlxq_file_copy(const char *to, const char *from, const mlxq_cancel *cancel, mlxq_error *error);

/* Removes a file or a folder with what is in it (links are removed, not followed). Absent is fine. */
mlxq_status mlxq_file_remove_tree(const char *path, mlxq_error *error);

/* "a/b", and the part after the last slash. The caller frees the former. */
char *mlxq_path_join(const char *folder, const char *name);
const char *mlxq_path_base(const char *path);

#endif
