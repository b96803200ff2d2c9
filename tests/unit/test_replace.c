/* Replacing a checkpoint where the file system cannot exchange two names, where renames fail half-way, and where a
 * folder has two paths. */
#include "run/publish.h"

#include "helpers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* Renames go through these; the linker wraps them. `fail_rename` counts down to the plain rename that fails. */
static int fail_rename;

/* Once a folder is renamed to `out`, another process makes a working folder in the old name's place. */
static bool another_follows;

int __wrap_renameat2(int old_folder, const char *from, int new_folder, const char *to, unsigned flags);
int __wrap_rename(const char *from, const char *to);
int __real_rename(const char *from, const char *to);

int __wrap_renameat2(int old_folder, const char *from, int new_folder, const char *to, unsigned flags) {
  (void)old_folder;
  (void)from;
  (void)new_folder;
  (void)to;
  (void)flags;
  errno = EINVAL;
  return -1;
}

int __wrap_rename(const char *from, const char *to) {
  if (fail_rename > 0 && --fail_rename == 0) {
    errno = EIO;
    return -1;
  }
  int failed = __real_rename(from, to);
  size_t length = strlen(to);
  if (failed == 0 && another_follows && length > 4 && strcmp(to + length - 4, "/out") == 0) {
    make_folder(from);
    write_text(path_in(from, "its"), "work");
  }
  return failed;
}

/* What links lead to is then there twice, as what is mounted in two places. */
static bool links_are_mounts;

char *__wrap_realpath(const char *path, char *resolved);
char *__real_realpath(const char *path, char *resolved);

char *__wrap_realpath(const char *path, char *resolved) {
  return links_are_mounts && !resolved ? strdup(path) : __real_realpath(path, resolved);
}

static void make_old(const char *folder) {
  make_folder(folder);
  write_text(path_in(folder, "config.json"), "old");
  write_text(path_in(folder, "model.safetensors"), "old");
}

/* Publishes a folder with one new file over `out`. */
static mlxq_status publish_over(const char *scratch, mlxq_error *error) {
  const char *source = path_in(scratch, "src"), *destination = path_in(scratch, "out");
  mlxq_plan plan = {0};
  mlxq_staging staging;
  mlxq_status status = mlxq_staging_check(&staging, source, destination, true, true, false, false, error);
  if (status == MLXQ_OK) status = mlxq_staging_create(&staging, error);
  if (status == MLXQ_OK) {
    write_text(path_in(staging.folder, "config.json"), "new");
    write_text(path_in(staging.folder, "model.safetensors"), "new");
    status = mlxq_staging_publish(&staging, &plan, error);
  }
  mlxq_staging_close(&staging);
  return status;
}

static void assert_only(const char *scratch, const char *expected) {
  assert_text(path_in(scratch, "out/config.json"), expected);
  assert_text(path_in(scratch, "out/model.safetensors"), expected);
  assert_int_equal(access(path_in(scratch, ".out.mlxq-old"), F_OK), -1);
  assert_int_equal(access(path_in(scratch, ".out.mlxq-partial"), F_OK), -1);
}

static void assert_refused(const char *source, const char *destination, bool is_folder) {
  for (int force = 0; force < 2; force++) {
    mlxq_staging staging;
    mlxq_error error;
    assert_int_equal(mlxq_staging_check(&staging, source, destination, is_folder, force, false, false, &error),
                     MLXQ_USAGE);
    assert_string_equal(error.file, destination);
    mlxq_staging_close(&staging);
  }
}

static void test_a_source_that_is_mounted_twice(void **state) {
  const char *source = path_in(*state, "one/src"), *again = path_in(*state, "two/src");
  mlxq_staging staging;
  mlxq_error error;
  make_folder(path_in(*state, "one"));
  make_old(source);
  make_folder(path_in(source, "sub"));
  assert_int_equal(symlink("one", path_in(*state, "two")), 0);
  links_are_mounts = true;
  assert_refused(source, again, true);
  assert_refused(source, path_in(again, "out"), true);
  assert_refused(source, path_in(again, "sub/out"), true);
  assert_refused(path_in(source, "sub"), again, true);
  assert_refused(path_in(source, "model.safetensors"), path_in(again, "model.safetensors"), false);
  /* A file that is read by the one path, and lies in what is replaced by the other. */
  assert_int_equal(rmdir(path_in(source, "sub")), 0);
  make_folder(path_in(*state, "links"));
  assert_int_equal(mlxq_staging_check(&staging, path_in(*state, "links"), again, true, true, false, false, &error), 0);
  assert_int_equal(mlxq_staging_check_file(&staging, path_in(source, "model.safetensors"), &error), MLXQ_USAGE);
  assert_int_equal(mlxq_staging_check_file(&staging, path_in(*state, "links"), &error), MLXQ_OK);
  mlxq_staging_close(&staging);
  links_are_mounts = false;
}

static void test_replaced_in_two_steps(void **state) {
  make_folder(path_in(*state, "src"));
  make_old(path_in(*state, "out"));
  assert_int_equal(publish_over(*state, NULL), MLXQ_OK);
  assert_only(*state, "new");
}

/* The first rename moves the old one aside, the second puts the new one in its place. */
static void test_a_rename_that_fails_keeps_the_old(void **state) {
  mlxq_error error;
  make_folder(path_in(*state, "src"));
  make_old(path_in(*state, "out"));
  /* Publishing renames: new (nothing there? it is, so none), aside, in place. */
  for (int failing = 1; failing <= 2; failing++) {
    fail_rename = failing;
    assert_int_equal(publish_over(*state, &error), MLXQ_IO);
    assert_int_equal(fail_rename, 0);
    assert_string_equal(error.file, path_in(*state, "out"));
    assert_only(*state, "old");
  }
}

/* What a kill between the two renames leaves is put back by the next run. */
static void test_an_old_checkpoint_comes_back(void **state) {
  mlxq_staging staging;
  make_folder(path_in(*state, "src"));
  make_old(path_in(*state, ".out.mlxq-old"));
  assert_int_equal(
      mlxq_staging_check(&staging, path_in(*state, "src"), path_in(*state, "out"), true, false, false, false, NULL),
      MLXQ_EXISTS);
  mlxq_staging_close(&staging);
  assert_only(*state, "old");
  assert_int_equal(publish_over(*state, NULL), MLXQ_OK);
  assert_only(*state, "new");
}

/* The name of the working folder is free from the rename on. */
static void test_the_next_ones_work_is_left_alone(void **state) {
  make_folder(path_in(*state, "src"));
  another_follows = true;
  for (int over = 0; over < 2; over++) { /* at first nothing is there */
    assert_int_equal(publish_over(*state, NULL), MLXQ_OK);
    assert_text(path_in(*state, "out/model.safetensors"), "new");
    assert_text(path_in(*state, ".out.mlxq-partial/its"), "work");
    unlink(path_in(*state, ".out.mlxq-partial/its"));
  }
  another_follows = false;
}

/* What is set aside is put back by nobody while the one who did it is there, and never by one who only looks. */
static void test_what_is_aside_is_left_alone(void **state) {
  mlxq_staging staging;
  const char *source = path_in(*state, "src"), *out = path_in(*state, "out");
  const char *partial = path_in(*state, ".out.mlxq-partial");
  make_folder(source);
  make_folder(partial);
  make_old(path_in(*state, ".out.mlxq-old"));
  int lock = open(partial, O_RDONLY | O_DIRECTORY);
  assert_int_equal(flock(lock, LOCK_EX), 0);
  assert_int_equal(mlxq_staging_check(&staging, source, out, true, true, false, false, NULL), MLXQ_BUSY);
  mlxq_staging_close(&staging);
  close(lock);
  assert_int_equal(mlxq_staging_check(&staging, source, out, true, false, false, true, NULL), MLXQ_EXISTS);
  mlxq_staging_close(&staging);
  assert_int_equal(access(out, F_OK), -1);
  assert_text(path_in(*state, ".out.mlxq-old/config.json"), "old");
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, make_scratch, remove_scratch)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_a_source_that_is_mounted_twice),    TEST(test_replaced_in_two_steps),
      TEST(test_a_rename_that_fails_keeps_the_old), TEST(test_an_old_checkpoint_comes_back),
      TEST(test_the_next_ones_work_is_left_alone),  TEST(test_what_is_aside_is_left_alone),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
