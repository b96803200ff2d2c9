/* file.c: positional reads and writes, identities, creating, reserving, copying and removing. */
#include "base/file.h"

#include "helpers.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* An error of the operating system on a file. */
static void assert_os_error(const mlxq_error *error, mlxq_status status, int os_errno, const char *file) {
  if (error->status != status) {
    fail_msg("%s, not %s: %s", mlxq_status_name(error->status), mlxq_status_name(status), error->message);
  }
  assert_int_equal(error->os_errno, os_errno);
  assert_string_equal(error->file, file);
  assert_true(strlen(error->message) > 0);
  if (os_errno) assert_non_null(strstr(error->message, strerror(os_errno)));
}

static int open_read(const char *path, mlxq_file_identity *identity) {
  int fd = -1;
  assert_int_equal(mlxq_file_open(&fd, identity, path, NULL), MLXQ_OK);
  assert_true(fd >= 0);
  return fd;
}

static const mlxq_cancel NO_CANCEL;

static int create(const char *path) {
  int fd = -1;
  assert_int_equal(mlxq_file_create(&fd, path, NULL), MLXQ_OK);
  return fd;
}

/* Longer than the clock tick by which file systems stamp times. */
static void wait_a_tick(void) {
  nanosleep(&(struct timespec){0, 30000000}, NULL);
}

/* ---- Opening --------------------------------------------------------------------------------------------------- */

static void test_open(void **state) {
  const char *path = path_in(*state, "file");
  mlxq_file_identity identity;
  struct stat status;
  write_text(path, "hello");
  int fd = open_read(path, &identity);
  assert_int_equal(stat(path, &status), 0);
  assert_int_equal(identity.bytes, 5);
  assert_int_equal(identity.device, status.st_dev);
  assert_int_equal(identity.inode, status.st_ino);
  assert_int_equal(identity.modified_ns, status.st_mtim.tv_sec * INT64_C(1000000000) + status.st_mtim.tv_nsec);
  assert_int_equal(identity.changed_ns, status.st_ctim.tv_sec * INT64_C(1000000000) + status.st_ctim.tv_nsec);
  assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
  assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
  mlxq_file_close(fd);
  mlxq_file_close(-1);
}

static void test_open_follows_links(void **state) {
  const char *path = path_in(*state, "file"), *link = path_in(*state, "link");
  mlxq_file_identity direct, linked;
  write_text(path, "hello");
  assert_int_equal(symlink("file", link), 0);
  mlxq_file_close(open_read(path, &direct));
  mlxq_file_close(open_read(link, &linked));
  assert_int_equal(direct.inode, linked.inode);
  assert_int_equal(linked.bytes, 5);
}

/* A FIFO must not hang the call, a folder or a device is no file to read. */
static void test_open_takes_regular_files_alone(void **state) {
  const char *fifo = path_in(*state, "fifo"), *missing = path_in(*state, "missing"), *loop = path_in(*state, "loop");
  mlxq_file_identity identity;
  mlxq_error error;
  assert_int_equal(mkfifo(fifo, 0666), 0);
  assert_int_equal(symlink("loop", loop), 0);
  const struct {
    const char *path;
    int os_errno;
  } CASES[] = {{fifo, 0}, {*state, 0}, {"/dev/null", 0}, {missing, ENOENT}, {loop, ELOOP}, {"", ENOENT}};
  for (size_t i = 0; i < COUNT(CASES); i++) {
    int fd = -77;
    memset(&error, 'x', sizeof error);
    assert_int_equal(mlxq_file_open(&fd, &identity, CASES[i].path, &error), MLXQ_IO);
    assert_os_error(&error, MLXQ_IO, CASES[i].os_errno, CASES[i].path);
    assert_int_equal(fd, -77);
  }
}

/* ---- Identity -------------------------------------------------------------------------------------------------- */

/* The status of opening it again; nothing is left open. */
static mlxq_status reopen(const char *path, const mlxq_file_identity *identity, mlxq_error *error) {
  int fd = -77;
  mlxq_status status = mlxq_file_reopen(&fd, identity, path, error);
  if (status == MLXQ_OK) mlxq_file_close(fd);
  assert_true(status == MLXQ_OK ? fd >= 0 : fd == -77);
  return status;
}

static void test_an_untouched_file_is_the_same(void **state) {
  const char *path = path_in(*state, "file");
  mlxq_file_identity identity;
  char bytes[5];
  write_text(path, "hello");
  int fd = open_read(path, &identity);
  wait_a_tick();
  assert_int_equal(mlxq_file_read_at(fd, bytes, 5, 0, path, NULL), MLXQ_OK);
  mlxq_file_close(fd);
  assert_int_equal(reopen(path, &identity, NULL), MLXQ_OK);
}

static void append_to(const char *path) {
  int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
  assert_int_equal(write(fd, "!", 1), 1);
  close(fd);
}

static void truncate_it(const char *path) {
  assert_int_equal(truncate(path, 3), 0);
}

static void overwrite_it(const char *path) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  assert_int_equal(write(fd, "HELLO", 5), 5);
  close(fd);
}

/* Same size, and the old modification time put back: the time of change still tells. */
static void overwrite_and_hide_it(const char *path) {
  struct stat status;
  assert_int_equal(stat(path, &status), 0);
  overwrite_it(path);
  struct timespec times[2] = {status.st_atim, status.st_mtim};
  assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void replace_it(const char *path) {
  char other[4096];
  snprintf(other, sizeof other, "%s.new", path);
  write_text(other, "hello");
  assert_int_equal(rename(other, path), 0);
}

static void test_any_change_is_seen(void **state) {
  static void (*const CHANGES[])(const char *path) = {append_to, truncate_it, overwrite_it, overwrite_and_hide_it,
                                                      replace_it};
  for (size_t i = 0; i < COUNT(CHANGES); i++) {
    const char *path = path_in(*state, "file%zu", i);
    mlxq_file_identity identity, now;
    mlxq_error error;
    write_text(path, "hello");
    mlxq_file_close(open_read(path, &identity));
    wait_a_tick();
    CHANGES[i](path);
    mlxq_file_close(open_read(path, &now));
    assert_int_equal(reopen(path, &identity, &error), MLXQ_CHANGED);
    assert_os_error(&error, MLXQ_CHANGED, 0, path);
    assert_int_equal(reopen(path, &identity, NULL), MLXQ_CHANGED);
    assert_int_equal(reopen(path, &now, NULL), MLXQ_OK);
  }
}

static void test_every_part_of_an_identity_counts(void **state) {
  const char *path = path_in(*state, "file");
  mlxq_file_identity identity;
  write_text(path, "hello");
  mlxq_file_close(open_read(path, &identity));
  for (int part = 0; part < 5; part++) {
    mlxq_file_identity other = identity;
    if (part == 0) other.device++;
    if (part == 1) other.inode++;
    if (part == 2) other.bytes++;
    if (part == 3) other.modified_ns++;
    if (part == 4) other.changed_ns++;
    assert_int_equal(reopen(path, &other, NULL), MLXQ_CHANGED);
  }
}

/* What is gone has changed; what cannot be reached for another reason is told with that. */
static void test_a_file_that_is_gone(void **state) {
  const char *path = path_in(*state, "file"), *link = path_in(*state, "link");
  mlxq_file_identity identity;
  mlxq_error error;
  write_text(path, "hello");
  assert_int_equal(symlink(path, link), 0);
  mlxq_file_close(open_read(link, &identity));
  assert_int_equal(unlink(path), 0);
  assert_int_equal(reopen(path, &identity, &error), MLXQ_CHANGED);
  assert_os_error(&error, MLXQ_CHANGED, 0, path);
  assert_int_equal(reopen(link, &identity, NULL), MLXQ_CHANGED);
  assert_int_equal(mkdir(path, 0777), 0);
  assert_int_equal(reopen(path, &identity, &error), MLXQ_IO);
  assert_os_error(&error, MLXQ_IO, 0, path);
}

/* ---- Reading and writing --------------------------------------------------------------------------------------- */

static void test_reads_and_writes_at_offsets(void **state) {
  enum { BYTES = 3 << 20 };
  const char *path = path_in(*state, "file");
  unsigned char *data = malloc(BYTES), *found = malloc(BYTES);
  mlxq_file_identity identity;
  assert_non_null(data);
  assert_non_null(found);
  seed_random(3);
  for (size_t i = 0; i < BYTES; i++) data[i] = (unsigned char)next_random();
  int fd = create(path);
  /* Pieces in any order, with the first byte last. */
  for (size_t at = BYTES; at > 0;) {
    size_t piece = (size_t)random_below(100000) + 1;
    if (piece > at) piece = at;
    at -= piece;
    assert_int_equal(mlxq_file_write_at(fd, data + at, piece, at, path, NULL), MLXQ_OK);
  }
  assert_int_equal(mlxq_file_sync(fd, path, NULL), MLXQ_OK);
  assert_int_equal(close(fd), 0);
  fd = open_read(path, &identity);
  assert_int_equal(identity.bytes, BYTES);
  assert_int_equal(mlxq_file_read_at(fd, found, BYTES, 0, path, NULL), MLXQ_OK);
  assert_memory_equal(found, data, BYTES);
  for (int round = 0; round < 200; round++) {
    size_t at = (size_t)random_below(BYTES), length = (size_t)random_below(BYTES - at + 1);
    memset(found, 0, length);
    assert_int_equal(mlxq_file_read_at(fd, found, length, at, path, NULL), MLXQ_OK);
    assert_memory_equal(found, data + at, length);
  }
  assert_int_equal(mlxq_file_read_at(fd, NULL, 0, 0, path, NULL), MLXQ_OK);
  assert_int_equal(mlxq_file_read_at(fd, NULL, 0, 99999999, path, NULL), MLXQ_OK);
  mlxq_file_close(fd);
  free(data);
  free(found);
}

/* Beyond 4 GiB, where a 32-bit offset would wrap around. */
static void test_large_offsets(void **state) {
  const char *path = path_in(*state, "sparse");
  uint64_t far = (UINT64_C(5) << 30) + 3;
  char found[4] = "";
  mlxq_file_identity identity;
  int fd = create(path);
  assert_int_equal(mlxq_file_write_at(fd, "near", 4, 3, path, NULL), MLXQ_OK);
  assert_int_equal(mlxq_file_write_at(fd, "far!", 4, far, path, NULL), MLXQ_OK);
  close(fd);
  fd = open_read(path, &identity);
  assert_int_equal(identity.bytes, far + 4);
  assert_int_equal(mlxq_file_read_at(fd, found, 4, far, path, NULL), MLXQ_OK);
  assert_memory_equal(found, "far!", 4);
  assert_int_equal(mlxq_file_read_at(fd, found, 4, 3, path, NULL), MLXQ_OK);
  assert_memory_equal(found, "near", 4);
  mlxq_file_close(fd);
}

static void test_a_file_that_ends_early_has_changed(void **state) {
  const char *path = path_in(*state, "file");
  mlxq_file_identity identity;
  char buffer[16];
  write_text(path, "0123456789");
  int fd = open_read(path, &identity);
  static const struct {
    size_t bytes;
    uint64_t offset;
  } CASES[] = {{11, 0}, {1, 10}, {2, 9}, {1, 11}, {16, 5}, {1, UINT64_C(1) << 40}};
  for (size_t i = 0; i < COUNT(CASES); i++) {
    mlxq_error error;
    assert_int_equal(mlxq_file_read_at(fd, buffer, CASES[i].bytes, CASES[i].offset, path, &error), MLXQ_CHANGED);
    assert_os_error(&error, MLXQ_CHANGED, 0, path);
    assert_int_equal(mlxq_file_read_at(fd, buffer, CASES[i].bytes, CASES[i].offset, path, NULL), MLXQ_CHANGED);
  }
  assert_int_equal(mlxq_file_read_at(fd, buffer, 10, 0, path, NULL), MLXQ_OK);
  mlxq_file_close(fd);
}

static void test_refused_transfers(void **state) {
  const char *path = path_in(*state, "file");
  mlxq_file_identity identity;
  mlxq_error error;
  char byte = 'x';
  write_text(path, "0123456789");
  int fd = open_read(path, &identity);
  assert_int_equal(mlxq_file_write_at(fd, &byte, 1, 0, path, &error), MLXQ_IO);
  assert_os_error(&error, MLXQ_IO, EBADF, path);
  assert_int_equal(mlxq_file_read_at(fd, &byte, 1, UINT64_MAX, path, &error), MLXQ_IO);
  assert_os_error(&error, MLXQ_IO, EINVAL, path);
  mlxq_file_close(fd);
  assert_int_equal(mlxq_file_read_at(-1, &byte, 1, 0, path, &error), MLXQ_IO);
  assert_os_error(&error, MLXQ_IO, EBADF, path);
  assert_text(path, "0123456789");
}

static void test_a_full_disk(void **state) {
  (void)state;
  mlxq_error error;
  int fd = -1;
  if (access("/dev/full", W_OK) != 0) skip();
  assert_int_equal(mlxq_file_open_write(&fd, "/dev/full", NULL), MLXQ_OK);
  assert_int_equal(mlxq_file_write_at(fd, "x", 1, 0, "/dev/full", &error), MLXQ_NO_SPACE);
  assert_os_error(&error, MLXQ_NO_SPACE, ENOSPC, "/dev/full");
  close(fd);
}

/* The part that fits is written, then the limit strikes in the middle of one call. */
static void test_a_file_size_limit(void **state) {
  const char *path = path_in(*state, "file");
  struct rlimit before, limit;
  mlxq_error error;
  char data[10000];
  memset(data, 'a', sizeof data);
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
  limit = before;
  limit.rlim_cur = 5000;
  void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
  int fd = create(path);
  mlxq_status written = mlxq_file_write_at(fd, data, sizeof data, 0, path, &error);
  mlxq_error second;
  mlxq_status reserved = mlxq_file_reserve(fd, 100000, path, &second);
  close(fd);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, handler);
  assert_int_equal(written, MLXQ_NO_SPACE);
  assert_os_error(&error, MLXQ_NO_SPACE, EFBIG, path);
  assert_int_equal(reserved, MLXQ_NO_SPACE);
  assert_os_error(&second, MLXQ_NO_SPACE, EFBIG, path);
}

/* ---- Creating and reserving ------------------------------------------------------------------------------------ */

static void test_create_refuses_what_is_there(void **state) {
  const char *file = path_in(*state, "file"), *folder = path_in(*state, "folder"), *link = path_in(*state, "link");
  write_text(file, "kept");
  make_folder(folder);
  assert_int_equal(symlink("nowhere", link), 0);
  const char *const PATHS[] = {file, folder, link};
  for (size_t i = 0; i < COUNT(PATHS); i++) {
    int fd = -1;
    mlxq_error error;
    assert_int_equal(mlxq_file_create(&fd, PATHS[i], &error), MLXQ_EXISTS);
    assert_os_error(&error, MLXQ_EXISTS, EEXIST, PATHS[i]);
    assert_int_equal(mlxq_file_write_text(PATHS[i], "new", 3, &error), MLXQ_EXISTS);
    assert_os_error(&error, MLXQ_EXISTS, EEXIST, PATHS[i]);
    assert_int_equal(mlxq_file_copy(PATHS[i], file, &NO_CANCEL, &error), MLXQ_EXISTS);
    assert_os_error(&error, MLXQ_EXISTS, EEXIST, PATHS[i]);
  }
  assert_text(file, "kept");
  assert_false(exists(path_in(*state, "nowhere")));
}

static void test_created_files(void **state) {
  const char *path = path_in(*state, "file"), *nowhere = path_in(*state, "no/file");
  struct stat status;
  mlxq_error error;
  int fd = create(path);
  assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
  assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR);
  close(fd);
  mode_t mask = umask(0);
  umask(mask);
  assert_int_equal(stat(path, &status), 0);
  assert_int_equal(status.st_mode & 0777, 0666 & ~mask);
  assert_int_equal(status.st_size, 0);
  assert_int_equal(mlxq_file_create(&fd, nowhere, &error), MLXQ_IO);
  assert_os_error(&error, MLXQ_IO, ENOENT, nowhere);
  assert_int_equal(mlxq_file_open_write(&fd, path_in(*state, "absent"), &error), MLXQ_IO);
  assert_false(exists(path_in(*state, "absent")));
  write_text(path, "0123456789");
  assert_int_equal(mlxq_file_open_write(&fd, path, NULL), MLXQ_OK);
  assert_int_equal(mlxq_file_write_at(fd, "ab", 2, 4, path, NULL), MLXQ_OK);
  close(fd);
  assert_text(path, "0123ab6789");
}

static void test_reserve(void **state) {
  static const uint64_t SIZES[] = {0, 1, 4095, 4096, 4097, 10000000};
  for (size_t i = 0; i < COUNT(SIZES); i++) {
    const char *path = path_in(*state, "file%zu", i);
    mlxq_file_identity identity;
    unsigned char last = 0xFF;
    int fd = create(path);
    assert_int_equal(mlxq_file_write_at(fd, "x", SIZES[i] ? 1 : 0, 0, path, NULL), MLXQ_OK);
    assert_int_equal(mlxq_file_reserve(fd, SIZES[i], path, NULL), MLXQ_OK);
    close(fd);
    fd = open_read(path, &identity);
    assert_int_equal(identity.bytes, SIZES[i]);
    if (SIZES[i] > 1) {
      assert_int_equal(mlxq_file_read_at(fd, &last, 1, SIZES[i] - 1, path, NULL), MLXQ_OK);
      assert_int_equal(last, 0);
      assert_int_equal(mlxq_file_read_at(fd, &last, 1, 0, path, NULL), MLXQ_OK);
      assert_int_equal(last, 'x');
    }
    mlxq_file_close(fd);
  }
}

static void test_more_than_any_disk_is_refused(void **state) {
  const char *path = path_in(*state, "file");
  mlxq_error error;
  int fd = create(path);
  assert_int_equal(mlxq_file_write_at(fd, "x", 1, 0, path, NULL), MLXQ_OK);
  if (!mlxq_file_can_reserve(fd)) skip(); /* such as tmpfs, where files of any size are sparse */
  assert_text(path, "x");
  assert_int_equal(mlxq_file_reserve(fd, UINT64_C(1) << 62, path, &error), MLXQ_NO_SPACE);
  assert_string_equal(error.file, path);
  assert_int_not_equal(error.os_errno, 0);
  close(fd);
}

/* ---- Whole files ----------------------------------------------------------------------------------------------- */

static void test_read_text(void **state) {
  const char *path = path_in(*state, "file"), *empty = path_in(*state, "empty"), *nul = path_in(*state, "nul");
  char *text = NULL;
  size_t length = 99;
  mlxq_error error;
  write_text(path, "0123456789");
  write_text(empty, "");
  assert_int_equal(mlxq_file_read_text(&text, &length, path, 10, NULL), MLXQ_OK);
  assert_int_equal(length, 10);
  assert_string_equal(text, "0123456789");
  free(text);
  assert_int_equal(mlxq_file_read_text(&text, &length, empty, 0, NULL), MLXQ_OK);
  assert_int_equal(length, 0);
  assert_string_equal(text, "");
  free(text);
  assert_int_equal(mlxq_file_write_text(nul, "a\0b", 3, NULL), MLXQ_OK);
  assert_int_equal(mlxq_file_read_text(&text, &length, nul, 10, NULL), MLXQ_OK);
  assert_int_equal(length, 3);
  assert_memory_equal(text, "a\0b", 4);
  free(text);
  assert_int_equal(mlxq_file_read_text(&text, &length, path, 9, &error), MLXQ_OUT_OF_RANGE);
  assert_os_error(&error, MLXQ_OUT_OF_RANGE, 0, path);
  assert_int_equal(mlxq_file_read_text(&text, &length, *state, 9, &error), MLXQ_IO);
}

static void test_write_text(void **state) {
  const char *path = path_in(*state, "file"), *empty = path_in(*state, "empty");
  assert_int_equal(mlxq_file_write_text(path, "some text", 4, NULL), MLXQ_OK);
  assert_text(path, "some");
  assert_int_equal(mlxq_file_write_text(empty, NULL, 0, NULL), MLXQ_OK);
  assert_text(empty, "");
}

static void test_copy(void **state) {
  static const size_t SIZES[] = {0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (3 << 20) + 17};
  char *data = malloc((3 << 20) + 18), *found;
  size_t length;
  assert_non_null(data);
  for (size_t i = 0; i < (3 << 20) + 18; i++) data[i] = (char)(i * 2654435761u >> 13);
  for (size_t i = 0; i < COUNT(SIZES); i++) {
    const char *from = path_in(*state, "from%zu", i), *to = path_in(*state, "to%zu", i);
    assert_int_equal(mlxq_file_write_text(from, data, SIZES[i], NULL), MLXQ_OK);
    assert_int_equal(mlxq_file_copy(to, from, &NO_CANCEL, NULL), MLXQ_OK);
    assert_int_equal(mlxq_file_read_text(&found, &length, to, 1 << 24, NULL), MLXQ_OK);
    assert_int_equal(length, SIZES[i]);
    assert_memory_equal(found, data, length);
    free(found);
  }
  free(data);
}

static bool at_the_second_piece(void *user) {
  int *asked = user;
  return ++*asked == 2;
}

/* What is beside the weights may be large as well. */
static void test_a_copy_can_be_cancelled(void **state) {
  const char *from = path_in(*state, "from"), *to = path_in(*state, "to");
  int asked = 0;
  const mlxq_cancel cancel = {at_the_second_piece, &asked};
  mlxq_error error;
  write_text(from, "");
  assert_int_equal(truncate(from, 5 << 20), 0);
  assert_int_equal(mlxq_file_copy(to, from, &cancel, &error), MLXQ_CANCELLED);
  assert_int_equal(asked, 2);
}

static void test_copies_that_fail_leave_nothing(void **state) {
  const char *to = path_in(*state, "to"), *missing = path_in(*state, "missing"), *link = path_in(*state, "link");
  mlxq_error error;
  assert_int_equal(mlxq_file_copy(to, missing, &NO_CANCEL, &error), MLXQ_IO);
  assert_os_error(&error, MLXQ_IO, ENOENT, missing);
  assert_int_equal(mlxq_file_copy(to, *state, &NO_CANCEL, &error), MLXQ_IO);
  assert_os_error(&error, MLXQ_IO, 0, *state);
  assert_false(exists(to));
  /* A link's file is copied, not the link. */
  write_text(path_in(*state, "from"), "content");
  assert_int_equal(symlink("from", link), 0);
  assert_int_equal(mlxq_file_copy(to, link, &NO_CANCEL, NULL), MLXQ_OK);
  struct stat status;
  assert_int_equal(lstat(to, &status), 0);
  assert_true(S_ISREG(status.st_mode));
  assert_text(to, "content");
}

/* ---- Removing -------------------------------------------------------------------------------------------------- */

static void test_remove_tree(void **state) {
  const char *root = path_in(*state, "root");
  make_folder(root);
  make_folder(path_in(root, "a"));
  make_folder(path_in(root, "a/b"));
  make_folder(path_in(root, "empty"));
  for (int i = 0; i < 200; i++) write_text(path_in(*state, "root/a/b/file%d", i), "x");
  root = path_in(*state, "root");
  write_text(path_in(root, ".hidden"), "x");
  assert_int_equal(mkfifo(path_in(root, "a/fifo"), 0666), 0);
  assert_int_equal(mlxq_file_remove_tree(root, NULL), MLXQ_OK);
  assert_false(exists(root));
  assert_int_equal(mlxq_file_remove_tree(root, NULL), MLXQ_OK);
  assert_int_equal(entries_in(*state), 0);
  write_text(root, "a file");
  assert_int_equal(mlxq_file_remove_tree(root, NULL), MLXQ_OK);
  assert_false(exists(root));
}

static void test_remove_tree_goes_deep(void **state) {
  char path[4096];
  size_t length = (size_t)snprintf(path, sizeof path, "%s/root", (const char *)*state);
  make_folder(path);
  for (int depth = 0; depth < 100; depth++) {
    length += (size_t)snprintf(path + length, sizeof path - length, "/d");
    make_folder(path);
  }
  assert_int_equal(mlxq_file_remove_tree(path_in(*state, "root"), NULL), MLXQ_OK);
  assert_int_equal(entries_in(*state), 0);
}

static void test_remove_tree_does_not_follow_links(void **state) {
  const char *outside = path_in(*state, "outside"), *root = path_in(*state, "root"), *link = path_in(*state, "link");
  char target[4096];
  make_folder(outside);
  write_text(path_in(outside, "precious"), "kept");
  make_folder(root);
  assert_non_null(realpath(outside, target));
  assert_int_equal(symlink(target, path_in(root, "folder")), 0);
  assert_int_equal(symlink(path_in(target, "precious"), path_in(root, "file")), 0);
  assert_int_equal(symlink("nowhere", path_in(root, "dangling")), 0);
  assert_int_equal(symlink("..", path_in(root, "up")), 0);
  assert_int_equal(mlxq_file_remove_tree(root, NULL), MLXQ_OK);
  assert_false(exists(root));
  assert_text(path_in(outside, "precious"), "kept");
  /* The root itself may be a link. */
  assert_int_equal(symlink(target, link), 0);
  assert_int_equal(mlxq_file_remove_tree(link, NULL), MLXQ_OK);
  assert_false(exists(link));
  assert_text(path_in(outside, "precious"), "kept");
}

static void test_folder_sync(void **state) {
  mlxq_error error;
  const char *missing = path_in(*state, "missing"), *file = path_in(*state, "file");
  write_text(file, "x");
  assert_int_equal(mlxq_folder_sync(*state, NULL), MLXQ_OK);
  assert_int_equal(mlxq_folder_sync(missing, &error), MLXQ_IO);
  assert_os_error(&error, MLXQ_IO, ENOENT, missing);
  assert_int_equal(mlxq_folder_sync(file, &error), MLXQ_IO);
  assert_os_error(&error, MLXQ_IO, ENOTDIR, file);
}

/* ---- Paths ----------------------------------------------------------------------------------------------------- */

static void test_paths(void **state) {
  (void)state;
  static const char *const JOINS[][3] = {
      {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"/", "b", "/b"}, {".", "b", "./b"}, {"a/b", "c.d", "a/b/c.d"},
  };
  static const char *const BASES[][2] = {
      {"a/b", "b"}, {"a", "a"}, {"/a", "a"}, {"a/", ""}, {"", ""}, {"/", ""}, {"a/b/.c", ".c"},
  };
  for (size_t i = 0; i < COUNT(JOINS); i++) {
    char *joined = mlxq_path_join(JOINS[i][0], JOINS[i][1]);
    assert_string_equal(joined, JOINS[i][2]);
    free(joined);
  }
  for (size_t i = 0; i < COUNT(BASES); i++) assert_string_equal(mlxq_path_base(BASES[i][0]), BASES[i][1]);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, make_scratch, remove_scratch)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_open),
      TEST(test_open_follows_links),
      TEST(test_open_takes_regular_files_alone),
      TEST(test_an_untouched_file_is_the_same),
      TEST(test_any_change_is_seen),
      TEST(test_every_part_of_an_identity_counts),
      TEST(test_a_file_that_is_gone),
      TEST(test_reads_and_writes_at_offsets),
      TEST(test_large_offsets),
      TEST(test_a_file_that_ends_early_has_changed),
      TEST(test_refused_transfers),
      TEST(test_a_full_disk),
      TEST(test_a_file_size_limit),
      TEST(test_create_refuses_what_is_there),
      TEST(test_created_files),
      TEST(test_reserve),
      TEST(test_more_than_any_disk_is_refused),
      TEST(test_read_text),
      TEST(test_write_text),
      TEST(test_copy),
      TEST(test_a_copy_can_be_cancelled),
      TEST(test_copies_that_fail_leave_nothing),
      TEST(test_remove_tree),
      TEST(test_remove_tree_goes_deep),
      TEST(test_remove_tree_does_not_follow_links),
      TEST(test_folder_sync),
      TEST(test_paths),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
