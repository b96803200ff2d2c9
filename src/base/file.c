#include "base/file.h"

#include "base/error.h"
#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#if defined(__linux__)
#include <linux/magic.h>
#include <sys/vfs.h>
#endif
#include <unistd.h>

/* Some systems refuse or cut transfers of 2 GiB and more. */
enum { MAX_TRANSFER_BYTES = 1 << 30 };

static void identity_of(mlxq_file_identity *identity, const struct stat *status) {
  *identity = (mlxq_file_identity){
      .device = (uint64_t)status->st_dev,
      .inode = (uint64_t)status->st_ino,
      .bytes = (uint64_t)status->st_size,
      .modified_ns = (int64_t)status->st_mtim.tv_sec * 1000000000 + status->st_mtim.tv_nsec,
      .changed_ns = (int64_t)status->st_ctim.tv_sec * 1000000000 + status->st_ctim.tv_nsec,
  };
}

int mlxq_open(const char *path, int flags) {
  int fd;
  do {
    fd = open(path, flags | O_CLOEXEC, 0666);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

mlxq_status mlxq_file_exists(bool *there, const char *path, mlxq_error *error) {
  struct stat status;
  *there = stat(path, &status) == 0;
  if (*there) return MLXQ_OK;
  int reason = errno;
  if (reason == ENOENT && lstat(path, &status) != 0) { /* else a link leads nowhere */
    if (errno == ENOENT) return MLXQ_OK;
    reason = errno;
  }
  return mlxq_fail_errno(error, reason, path, "cannot open");
}

mlxq_status mlxq_file_open(int *fd, mlxq_file_identity *identity, const char *path, mlxq_error *error) {
  struct stat status;
  /* O_NONBLOCK: a FIFO by the name of a checkpoint file must not hang us. */
  int opened = mlxq_open(path, O_RDONLY | O_NONBLOCK);
  if (opened < 0) return mlxq_fail_errno(error, errno, path, "cannot open");
  mlxq_status result = MLXQ_OK;
  if (fstat(opened, &status) != 0) {
    result = mlxq_fail_errno(error, errno, path, "cannot stat");
  } else if (!S_ISREG(status.st_mode)) {
    result = mlxq_error_at_file(error, mlxq_fail(error, MLXQ_IO, NULL, NULL, "not a regular file"), path);
  }
  if (result != MLXQ_OK) {
    close(opened);
    return result;
  }
  identity_of(identity, &status);
  *fd = opened;
  return MLXQ_OK;
}

void mlxq_file_close(int fd) {
  if (fd >= 0) close(fd);
}

static mlxq_status fail_changed(const char *path, const char *how, mlxq_error *error) {
  mlxq_fail(error, MLXQ_CHANGED, NULL, NULL, "%s", how);
  return mlxq_error_at_file(error, MLXQ_CHANGED, path);
}

mlxq_status mlxq_file_reopen(int *fd, const mlxq_file_identity *identity, const char *path, mlxq_error *error) {
  struct stat gone;
  mlxq_file_identity now;
  int opened = -1;
  mlxq_status status = mlxq_file_open(&opened, &now, path, error);
  if (status != MLXQ_OK) {
    bool removed = stat(path, &gone) != 0 && errno == ENOENT;
    return removed ? fail_changed(path, "the file was removed while it was read", error) : status;
  }
  if (now.device == identity->device && now.inode == identity->inode && now.bytes == identity->bytes &&
      now.modified_ns == identity->modified_ns && now.changed_ns == identity->changed_ns) {
    *fd = opened;
    return MLXQ_OK;
  }
  close(opened);
  return fail_changed(path, "the file changed while it was read", error);
}

mlxq_status mlxq_file_create(int *fd, const char *path, mlxq_error *error) {
  *fd = mlxq_open(path, O_RDWR | O_CREAT | O_EXCL);
  return *fd < 0 ? mlxq_fail_errno(error, errno, path, "cannot create") : MLXQ_OK;
}

mlxq_status mlxq_file_open_write(int *fd, const char *path, mlxq_error *error) {
  *fd = mlxq_open(path, O_RDWR);
  return *fd < 0 ? mlxq_fail_errno(error, errno, path, "cannot open for writing") : MLXQ_OK;
}

mlxq_status mlxq_file_read_at(int fd, void *buffer, size_t bytes, uint64_t offset, const char *path,
                              mlxq_error *error) {
  char *target = buffer;
  while (bytes > 0) {
    size_t wanted = bytes < MAX_TRANSFER_BYTES ? bytes : MAX_TRANSFER_BYTES;
    ssize_t got = pread(fd, target, wanted, (off_t)offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return mlxq_fail_errno(error, errno, path, "cannot read");
    if (got == 0) {
      mlxq_fail(error, MLXQ_CHANGED, NULL, NULL, "the file ends at byte %llu, before its size when opened",
                (unsigned long long)offset);
      return mlxq_error_at_file(error, MLXQ_CHANGED, path);
    }
    target += got;
    offset += (uint64_t)got;
    bytes -= (size_t)got;
  }
  return MLXQ_OK;
}

mlxq_status mlxq_file_write_at(int fd, const void *buffer, size_t bytes, uint64_t offset, const char *path,
                               mlxq_error *error) {
  const char *source = buffer;
  while (bytes > 0) {
    size_t wanted = bytes < MAX_TRANSFER_BYTES ? bytes : MAX_TRANSFER_BYTES;
    ssize_t put = pwrite(fd, source, wanted, (off_t)offset);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return mlxq_fail_errno(error, errno, path, "cannot write");
    source += put;
    offset += (uint64_t)put;
    bytes -= (size_t)put;
  }
  return MLXQ_OK;
}

void mlxq_file_start_writing(int fd, uint64_t offset, uint64_t bytes) {
#if defined(SYNC_FILE_RANGE_WRITE)
  (void)sync_file_range(fd, (off_t)offset, (off_t)bytes, SYNC_FILE_RANGE_WRITE);
#else
  (void)fd, (void)offset, (void)bytes;
#endif
}

/* 0, or why nothing was reserved. fallocate, not posix_fallocate: glibc emulates the latter by writing, where the file
 * system cannot. One in memory has no blocks to reserve but pages, which it would fill with zeros first. */
static int allocate(int fd, bool keep_size, uint64_t bytes) {
  int failed = EOPNOTSUPP;
#if defined(__linux__)
  struct statfs system;
  if (fstatfs(fd, &system) == 0 && system.f_type == TMPFS_MAGIC) return EOPNOTSUPP;
  do {
    failed = bytes > 0 && fallocate(fd, keep_size ? FALLOC_FL_KEEP_SIZE : 0, 0, (off_t)bytes) != 0 ? errno : 0;
  } while (failed == EINTR);
#else
  (void)fd, (void)keep_size, (void)bytes;
#endif
  return failed;
}

mlxq_status mlxq_file_reserve(int fd, uint64_t bytes, const char *path, mlxq_error *error) {
  int failed = allocate(fd, false, bytes);
  if (failed == EOPNOTSUPP || failed == ENOSYS || failed == EINVAL) {
    do {
      failed = ftruncate(fd, (off_t)bytes) != 0 ? errno : 0;
    } while (failed == EINTR);
  }
  return failed ? mlxq_fail_errno(error, failed, path, "cannot reserve space") : MLXQ_OK;
}

bool mlxq_file_can_reserve(int fd) {
  return allocate(fd, true, 1) == 0;
}

static int sync_fd(int fd) {
  int failed;
  do {
    failed = fsync(fd) != 0 ? errno : 0;
  } while (failed == EINTR);
  return failed;
}

mlxq_status mlxq_file_sync(int fd, const char *path, mlxq_error *error) {
  int failed = sync_fd(fd);
  return failed ? mlxq_fail_errno(error, failed, path, "cannot sync") : MLXQ_OK;
}

mlxq_status mlxq_folder_sync(const char *path, mlxq_error *error) {
  int fd = mlxq_open(path, O_RDONLY | O_DIRECTORY);
  if (fd < 0) return mlxq_fail_errno(error, errno, path, "cannot open");
  /* Some file systems cannot sync a folder and say EINVAL; there is nothing more to do then. */
  int failed = sync_fd(fd);
  mlxq_status result = failed && failed != EINVAL ? mlxq_fail_errno(error, failed, path, "cannot sync") : MLXQ_OK;
  close(fd);
  return result;
}

mlxq_status mlxq_file_read_text(char **text, size_t *length, const char *path, size_t max_bytes, mlxq_error *error) {
  int fd = -1;
  mlxq_file_identity identity = {0};
  mlxq_status result = mlxq_file_open(&fd, &identity, path, error);
  if (result != MLXQ_OK) return result;
  char *buffer = NULL;
  if (identity.bytes > max_bytes) {
    mlxq_fail(error, MLXQ_OUT_OF_RANGE, NULL, NULL, "the file has %llu bytes; at most %zu are accepted",
              (unsigned long long)identity.bytes, max_bytes);
    result = mlxq_error_at_file(error, MLXQ_OUT_OF_RANGE, path);
    goto cleanup;
  }
  buffer = mlxq_alloc((size_t)identity.bytes + 1, 1);
  if (!buffer) {
    result = mlxq_fail_memory(error);
    goto cleanup;
  }
  result = mlxq_file_read_at(fd, buffer, (size_t)identity.bytes, 0, path, error);
  if (result != MLXQ_OK) goto cleanup;
  buffer[identity.bytes] = '\0';
  *text = buffer;
  *length = (size_t)identity.bytes;
  buffer = NULL;
cleanup:
  free(buffer);
  close(fd);
  return result;
}

mlxq_status mlxq_file_write_text(const char *path, const char *text, size_t length, mlxq_error *error) {
  int fd = -1;
  mlxq_status result = mlxq_file_create(&fd, path, error);
  if (result != MLXQ_OK) return result;
  result = mlxq_file_write_at(fd, text, length, 0, path, error);
  if (result == MLXQ_OK) result = mlxq_file_sync(fd, path, error);
  if (close(fd) != 0 && result == MLXQ_OK) result = mlxq_fail_errno(error, errno, path, "cannot close");
  return result;
}

mlxq_status mlxq_file_copy(const char *to, const char *from, const mlxq_cancel *cancel, mlxq_error *error) {
  enum { PIECE_BYTES = 1 << 20 };
  mlxq_file_identity identity = {0};
  int source = -1, target = -1;
  char *piece = mlxq_alloc(PIECE_BYTES, 1);
  mlxq_status result = piece ? mlxq_file_open(&source, &identity, from, error) : mlxq_fail_memory(error);
  if (result == MLXQ_OK) result = mlxq_file_create(&target, to, error);
  if (result == MLXQ_OK) result = mlxq_file_reserve(target, identity.bytes, to, error);
  for (uint64_t at = 0; result == MLXQ_OK && at < identity.bytes;) {
    uint64_t left = identity.bytes - at;
    size_t bytes = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;
    result = mlxq_cancel_check(cancel, error);
    if (result == MLXQ_OK) result = mlxq_file_read_at(source, piece, bytes, at, from, error);
    if (result == MLXQ_OK) result = mlxq_file_write_at(target, piece, bytes, at, to, error);
    at += bytes;
  }
  if (result == MLXQ_OK) result = mlxq_file_sync(target, to, error);
  if (target >= 0 && close(target) != 0 && result == MLXQ_OK)
    result = mlxq_fail_errno(error, errno, to, "cannot close");
  mlxq_file_close(source);
  free(piece);
  return result;
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *place) {
  (void)status;
  (void)kind;
  (void)place;
  return remove(path) == 0 || errno == ENOENT ? 0 : errno;
}

mlxq_status mlxq_file_remove_tree(const char *path, mlxq_error *error) {
  struct stat status;
  if (lstat(path, &status) != 0) return errno == ENOENT ? MLXQ_OK : mlxq_fail_errno(error, errno, path, "cannot stat");
  int failed = nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
  if (failed == 0) return MLXQ_OK;
  return mlxq_fail_errno(error, failed > 0 ? failed : errno, path, "cannot remove");
}

char *mlxq_path_join(const char *folder, const char *name) {
  size_t length = strlen(folder);
  return mlxq_asprintf(length > 0 && folder[length - 1] == '/' ? "%s%s" : "%s/%s", folder, name);
}

const char *mlxq_path_base(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}
