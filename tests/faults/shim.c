/* Faults on demand, for LD_PRELOAD: the n-th call of a group fails, is cut short, or is the process's last.
 *
 *     FAULT_GROUP   open, close, read, write, sync, hint, allocate, truncate, rename, folder, stat, chmod, room,
 *                   remove, memory or thread
 *     FAULT_AT      which call of the group, from 1
 *     FAULT_ACTION  a number: fails with that errno; "short": one byte is transferred; "full": no room is told;
 *                   "kill": SIGKILL, when half of a write is done, before any other call
 *     FAULT_REPORT  a file that gets, at the fault and at the end of the process, lines of "name value": what was
 *                   hit, calls of each group, allocations that were not freed and descriptors that were not closed
 *
 * Calls that the C library makes on its own are not seen, but for its allocations. glibc only. */
#undef _FILE_OFFSET_BITS /* both open and open64 are defined here */
#undef _FORTIFY_SOURCE   /* its headers define some of these functions themselves */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

enum {
  OPEN,
  CLOSE,
  READ,
  WRITE,
  SYNC,
  HINT,
  ALLOCATE,
  TRUNCATE,
  RENAME,
  FOLDER,
  STAT,
  CHMOD,
  ROOM,
  REMOVE,
  MEMORY,
  THREAD,
  GROUPS
};
static const char *const NAMES[GROUPS] = {"open",   "close",  "read", "write", "sync", "hint",   "allocate", "truncate",
                                          "rename", "folder", "stat", "chmod", "room", "remove", "memory",   "thread"};

static struct {
  int group, failure; /* group -1: none */
  bool cut, kill, full;
  long at;
  const char *report;
} fault = {.group = -1};
static atomic_long calls[GROUPS], live;
static atomic_bool over; /* the program is; what follows is of destructors, gcov's for one */

static void note(const char *format, ...) {
  char line[4200];
  va_list values;
  if (!fault.report) return;
  va_start(values, format);
  int length = vsnprintf(line, sizeof line, format, values);
  va_end(values);
  int fd = (int)syscall(SYS_openat, AT_FDCWD, fault.report, O_WRONLY | O_CREAT | O_APPEND, 0600);
  if (fd < 0) return;
  syscall(SYS_write, fd, line, (size_t)length);
  syscall(SYS_close, fd);
}

__attribute__((constructor)) static void start(void) {
  const char *group = getenv("FAULT_GROUP"), *at = getenv("FAULT_AT"), *action = getenv("FAULT_ACTION");
  fault.report = getenv("FAULT_REPORT");
  for (int i = 0; i < GROUPS; i++) atomic_store(&calls[i], 0);
  atomic_store(&live, 0);
  if (!group || !at || !action) return;
  fault.at = strtol(at, NULL, 10);
  fault.cut = strcmp(action, "short") == 0;
  fault.full = strcmp(action, "full") == 0;
  fault.kill = strcmp(action, "kill") == 0;
  fault.failure = (int)strtol(action, NULL, 10);
  for (int i = 0; i < GROUPS; i++) {
    if (strcmp(group, NAMES[i]) == 0) fault.group = i;
  }
}

__attribute__((destructor)) static void finish(void) {
  for (int i = 0; i < GROUPS; i++) note("%s %ld\n", NAMES[i], atomic_load(&calls[i]));
  note("live %ld\n", atomic_load(&live));
  int open_fds = 0;
  for (int fd = 3; fd < 1024; fd++) open_fds += (int)(syscall(SYS_fcntl, fd, F_GETFD) >= 0);
  note("descriptors %d\n", open_fds);
}

static void end(void) {
  atomic_store(&over, true);
}

/* Once main runs, such a handler comes before all destructors. */
static void end_at_exit(void) {
  static atomic_bool done;
  if (!atomic_exchange(&done, true)) atexit(end);
}

enum { MAX_PATH_BYTES = 4096 };

/* The path of an open file; "" where it has none. */
static void path_of(int fd, char path[MAX_PATH_BYTES]) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, MAX_PATH_BYTES - 1);
  path[length > 0 ? length : 0] = '\0';
}

/* Counts a call; true where it is the one. `path` may be NULL; then `fd` names the file. */
static bool hit(int group, const char *path, int fd) {
  char target[MAX_PATH_BYTES] = "";
  if (atomic_load(&over)) return false;
  if (atomic_fetch_add(&calls[group], 1) + 1 != fault.at || group != fault.group) return false;
  if (!path && fd >= 0) path_of(fd, target);
  note("hit %s\n", path ? path : target[0] ? target : "-");
  if (fault.kill && group != WRITE) kill(getpid(), SIGKILL);
  return true;
}

static bool fails(int group, const char *path, int fd) {
  if (!hit(group, path, fd) || fault.cut || fault.full) return false;
  errno = fault.failure;
  return true;
}

/* Makes `real` the C library's own function. */
#define NEXT(name)                                  \
  __typeof__(&(name)) real;                         \
  void *symbol_of_##name = dlsym(RTLD_NEXT, #name); \
  memcpy(&real, &symbol_of_##name, sizeof real)

/* ---- Files ----------------------------------------------------------------------------------------------------- */

int open64(const char *path, int flags, ...) {
  va_list values;
  va_start(values, flags);
  mode_t mode = flags & O_CREAT ? va_arg(values, mode_t) : 0;
  va_end(values);
  end_at_exit();
  if (fails(OPEN, path, -1)) return -1;
  return (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_LARGEFILE, mode);
}

int open(const char *path, int flags, ...) {
  va_list values;
  va_start(values, flags);
  mode_t mode = flags & O_CREAT ? va_arg(values, mode_t) : 0;
  va_end(values);
  return open64(path, flags, mode);
}

/* Closed it is in any case, as by the kernel. */
int close(int fd) {
  bool failed = fails(CLOSE, NULL, fd);
  int result = (int)syscall(SYS_close, fd);
  return failed ? (errno = fault.failure, -1) : result;
}

ssize_t pread64(int fd, void *buffer, size_t bytes, off_t offset) {
  if (hit(READ, NULL, fd)) {
    if (!fault.cut) {
      errno = fault.failure;
      return -1;
    }
    bytes = bytes > 0;
  }
  return syscall(SYS_pread64, fd, buffer, bytes, offset);
}

ssize_t pwrite64(int fd, const void *buffer, size_t bytes, off_t offset) {
  if (hit(WRITE, NULL, fd)) {
    if (fault.kill) {
      syscall(SYS_pwrite64, fd, buffer, bytes / 2, offset);
      kill(getpid(), SIGKILL);
    }
    if (!fault.cut) {
      errno = fault.failure;
      return -1;
    }
    bytes = bytes > 0;
  }
  return syscall(SYS_pwrite64, fd, buffer, bytes, offset);
}

int fsync(int fd) {
  return fails(SYNC, NULL, fd) ? -1 : (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
  return fails(SYNC, NULL, fd) ? -1 : (int)syscall(SYS_fdatasync, fd);
}

int sync_file_range(int fd, off64_t offset, off64_t bytes, unsigned flags) {
  return fails(HINT, NULL, fd) ? -1 : (int)syscall(SYS_sync_file_range, fd, offset, bytes, flags);
}

int fallocate64(int fd, int mode, off_t offset, off_t bytes) {
  return fails(ALLOCATE, NULL, fd) ? -1 : (int)syscall(SYS_fallocate, fd, mode, offset, bytes);
}

int ftruncate64(int fd, off_t bytes) {
  return fails(TRUNCATE, NULL, fd) ? -1 : (int)syscall(SYS_ftruncate, fd, bytes);
}

int rename(const char *from, const char *to) {
  return fails(RENAME, to, -1) ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
  return fails(RENAME, to, -1) ? -1 : (int)syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
}

int mkdir(const char *path, mode_t mode) {
  return fails(FOLDER, path, -1) ? -1 : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

int flock(int fd, int operation) {
  return fails(FOLDER, NULL, fd) ? -1 : (int)syscall(SYS_flock, fd, operation);
}

DIR *opendir(const char *path) {
  NEXT(opendir);
  return fails(FOLDER, path, -1) ? NULL : real(path);
}

struct dirent64 *readdir64(DIR *folder) {
  NEXT(readdir64);
  return fails(FOLDER, NULL, dirfd(folder)) ? NULL : real(folder);
}

int fstat64(int fd, struct stat64 *status) {
  NEXT(fstat64);
  return fails(STAT, NULL, fd) ? -1 : real(fd, status);
}

int stat64(const char *path, struct stat64 *status) {
  NEXT(stat64);
  return fails(STAT, path, -1) ? -1 : real(path, status);
}

int lstat64(const char *path, struct stat64 *status) {
  NEXT(lstat64);
  return fails(STAT, path, -1) ? -1 : real(path, status);
}

int fstatat64(int folder, const char *path, struct stat64 *status, int flags) {
  NEXT(fstatat64);
  char of_folder[MAX_PATH_BYTES], whole[MAX_PATH_BYTES + NAME_MAX + 2];
  path_of(folder, of_folder);
  snprintf(whole, sizeof whole, "%s/%s", of_folder, path);
  return fails(STAT, whole, -1) ? -1 : real(folder, path, status, flags);
}

int chmod(const char *path, mode_t mode) {
  return fails(CHMOD, path, -1) ? -1 : (int)syscall(SYS_fchmodat, AT_FDCWD, path, mode);
}

char *realpath(const char *path, char *resolved) {
  NEXT(realpath);
  return fails(STAT, path, -1) ? NULL : real(path, resolved);
}

int fstatfs64(int fd, struct statfs64 *system) {
  NEXT(fstatfs64);
  return fails(ROOM, NULL, fd) ? -1 : real(fd, system);
}

int statvfs64(const char *path, struct statvfs64 *system) {
  NEXT(statvfs64);
  bool is_hit = hit(ROOM, path, -1);
  if (is_hit && !fault.full) {
    errno = fault.failure;
    return -1;
  }
  int result = real(path, system);
  if (is_hit) system->f_bavail = 0;
  return result;
}

int remove(const char *path) {
  NEXT(remove);
  return fails(REMOVE, path, -1) ? -1 : real(path);
}

int nftw64(const char *path, __nftw64_func_t function, int descriptors, int flags) {
  NEXT(nftw64);
  return fails(REMOVE, path, -1) ? -1 : real(path, function, descriptors, flags);
}

/* ---- Memory and threads ---------------------------------------------------------------------------------------- */

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *old, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);
void __libc_free(void *memory);

/* While a thread is made: what the C library allocates for it stays for the next one. */
static _Thread_local bool making_thread;

static void *counted(void *memory) {
  if (memory && !making_thread) atomic_fetch_add(&live, 1);
  return memory;
}

void *malloc(size_t bytes) {
  return fails(MEMORY, "memory", -1) ? NULL : counted(__libc_malloc(bytes));
}

void *calloc(size_t count, size_t bytes) {
  return fails(MEMORY, "memory", -1) ? NULL : counted(__libc_calloc(count, bytes));
}

void *realloc(void *old, size_t bytes) {
  if (fails(MEMORY, "memory", -1)) return NULL;
  return old ? __libc_realloc(old, bytes) : counted(__libc_realloc(old, bytes));
}

void *aligned_alloc(size_t alignment, size_t bytes) {
  return fails(MEMORY, "memory", -1) ? NULL : counted(__libc_memalign(alignment, bytes));
}

void free(void *memory) {
  if (memory && !making_thread) atomic_fetch_sub(&live, 1);
  __libc_free(memory);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) {
  NEXT(pthread_create);
  if (fails(THREAD, "thread", -1)) return fault.failure;
  making_thread = true;
  int failure = real(thread, attributes, run, argument);
  making_thread = false;
  return failure;
}
