/* publish.c: where a destination may be, the working folder and its lock, and the rename at the end. */
#include "run/publish.h"

#include "base/file.h"
#include "helpers.h"
#include "safetensors/safetensors.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FILE_RESULT = false, FOLDER_RESULT = true };

/* ---- Helpers --------------------------------------------------------------------------------------------------- */

/* A source folder "src" with a checkpoint, and the file "src.safetensors". */
static int make_places(void **state) {
  if (make_scratch(state) != 0) return -1;
  mlxq_weights *weights = new_weights();
  add_random(weights, "a", MLXQ_U8, SHAPE(3));
  make_folder(path_in(*state, "src"));
  write_safetensors(path_in(*state, "src/model.safetensors"), weights);
  write_safetensors(path_in(*state, "src.safetensors"), weights);
  write_text(path_in(*state, "src/config.json"), "{}");
  mlxq_weights_free(weights);
  return 0;
}

/* Checks a destination, and releases everything where it is refused. */
static mlxq_status check_only(const char *source, const char *destination, bool is_folder, bool force,
                              mlxq_error *error) {
  mlxq_staging staging;
  memset(&staging, 0x55, sizeof staging);
  mlxq_status status = mlxq_staging_check(&staging, source, destination, is_folder, force, false, false, error);
  mlxq_staging_close(&staging);
  return status;
}

static void assert_refused(const char *source, const char *destination, bool is_folder, bool force,
                           mlxq_status status) {
  mlxq_error error;
  memset(&error, 'x', sizeof error);
  mlxq_status result = check_only(source, destination, is_folder, force, &error);
  if (result != status) fail_msg("%s: %s, not %s", destination, mlxq_status_name(result), mlxq_status_name(status));
  assert_int_equal(error.status, status);
  assert_true(strlen(error.file) > 0);
  assert_true(strlen(error.message) > 0);
  assert_int_equal(check_only(source, destination, is_folder, force, NULL), status);
}

static void assert_accepted(const char *source, const char *destination, bool is_folder, bool force) {
  mlxq_error error;
  if (check_only(source, destination, is_folder, force, &error) != MLXQ_OK) {
    fail_msg("%s: %s: %s", destination, error.file, error.message);
  }
}

/* A staging that has passed the check. */
static mlxq_staging checked(const char *source, const char *destination, bool is_folder, bool force, bool keep) {
  mlxq_staging staging;
  mlxq_error error;
  if (mlxq_staging_check(&staging, source, destination, is_folder, force, keep, false, &error) != MLXQ_OK) {
    fail_msg("%s: %s", error.file, error.message);
  }
  return staging;
}

/* A plan of `files` files (one, of the destination's name, for a file result) whose tensors are one byte each. */
static mlxq_plan *plan_of(mlxq_weights *source, size_t files, const char *single_name) {
  mlxq_plan *plan = NULL;
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  for (size_t i = 0; i < files; i++) {
    char name[32];
    snprintf(name, sizeof name, "t%zu", i);
    add_random(source, name, MLXQ_U8, SHAPE(1));
  }
  mlxq_plan_request request = {.source = source, .config = config};
  assert_int_equal(mlxq_plan_quantize(&plan, &request, NULL), MLXQ_OK);
  assert_int_equal(mlxq_plan_layout(plan, 1, single_name, NULL), MLXQ_OK);
  assert_int_equal(plan->file_count, files);
  mlxq_quant_config_free(config);
  return plan;
}

/* Goes all the way: creates, writes the files, publishes. */
static mlxq_status publish(mlxq_staging *staging, size_t files, mlxq_error *error) {
  mlxq_weights *source = new_weights();
  const char *name = staging->is_folder ? NULL : mlxq_path_base(staging->destination);
  mlxq_plan *plan = plan_of(source, files, name);
  mlxq_status status = mlxq_staging_create(staging, error);
  if (status == MLXQ_OK) status = mlxq_staging_create_files(staging, plan, NULL, error);
  if (status == MLXQ_OK && staging->is_folder) write_text(path_in(staging->folder, "config.json"), "{}");
  if (status == MLXQ_OK) status = mlxq_staging_publish(staging, plan, error);
  mlxq_plan_free(plan);
  mlxq_weights_free(source);
  return status;
}

static void assert_published_file(const char *path) {
  mlxq_weights *found = read_safetensors(path);
  assert_int_equal(mlxq_weights_count(found), 1);
  assert_string_equal(mlxq_weights_at(found, 0)->name, "t0");
  mlxq_weights_free(found);
}

static void make_old_checkpoint(const char *folder) {
  make_folder(folder);
  write_text(path_in(folder, "config.json"), "{}");
  write_text(path_in(folder, "model-00001-of-00002.safetensors"), "old");
}

/* ---- Where a destination may be -------------------------------------------------------------------------------- */

static void test_a_new_destination(void **state) {
  const char *source = path_in(*state, "src"), *file = path_in(*state, "src.safetensors");
  mlxq_staging staging = checked(source, path_in(*state, "out"), FOLDER_RESULT, true, true);
  assert_string_equal(staging.destination, path_in(*state, "out"));
  assert_string_equal(staging.folder, path_in(*state, ".out.mlxq-partial"));
  assert_int_equal(staging.lock, -1);
  assert_true(staging.is_folder && staging.force && staging.keep_partial);
  mlxq_staging_close(&staging);
  staging = checked(file, path_in(*state, "out.safetensors"), FILE_RESULT, false, false);
  assert_string_equal(staging.folder, path_in(*state, ".out.safetensors.mlxq-partial"));
  assert_false(staging.is_folder || staging.force || staging.keep_partial);
  mlxq_staging_close(&staging);
  assert_null(staging.destination);
  mlxq_staging_close(&staging);            /* harmless */
  assert_int_equal(entries_in(*state), 2); /* nothing was made */
}

static void test_slashes_at_the_end(void **state) {
  const char *source = path_in(*state, "src");
  static const char *const ENDS[] = {"/", "//", "////"};
  for (size_t i = 0; i < COUNT(ENDS); i++) {
    mlxq_staging staging = checked(source, path_in(*state, "out%s", ENDS[i]), FOLDER_RESULT, false, false);
    assert_string_equal(staging.destination, path_in(*state, "out"));
    assert_string_equal(staging.folder, path_in(*state, ".out.mlxq-partial"));
    mlxq_staging_close(&staging);
  }
  assert_refused(source, path_in(*state, "src//"), FOLDER_RESULT, true, MLXQ_USAGE);
  make_folder(path_in(*state, "there"));
  assert_refused(source, path_in(*state, "there/"), FOLDER_RESULT, false, MLXQ_EXISTS);
}

static void test_relative_destinations(void **state) {
  char before[4096];
  assert_non_null(getcwd(before, sizeof before));
  assert_int_equal(chdir(*state), 0);
  mlxq_staging staging = checked("src", "out", FOLDER_RESULT, false, false);
  assert_string_equal(staging.parent, ".");
  mlxq_error error;
  mlxq_status status = publish(&staging, 2, &error);
  mlxq_staging_close(&staging);
  mlxq_status inside = check_only("src", "src/out", FOLDER_RESULT, false, NULL);
  mlxq_status same = check_only("src", "./src/../src", FOLDER_RESULT, true, NULL);
  mlxq_status file = check_only("./src.safetensors", "src.safetensors", FILE_RESULT, true, NULL);
  assert_int_equal(chdir(before), 0);
  assert_int_equal(status, MLXQ_OK);
  assert_int_equal(inside, MLXQ_USAGE);
  assert_int_equal(same, MLXQ_USAGE);
  assert_int_equal(file, MLXQ_USAGE);
  assert_true(exists(path_in(*state, "out/model-00002-of-00002.safetensors")));
  assert_false(exists(path_in(*state, ".out.mlxq-partial")));
}

static void test_a_destination_needs_a_name(void **state) {
  const char *source = path_in(*state, "src");
  static const char *const NAMES[] = {"", "/", "//", ".", "..", "./", "../", "/.", "/.."};
  for (size_t i = 0; i < COUNT(NAMES); i++) {
    mlxq_error error;
    assert_int_equal(check_only(source, NAMES[i], FOLDER_RESULT, true, &error), MLXQ_USAGE);
    assert_true(strlen(error.message) > 0);
  }
  assert_refused(source, path_in(*state, "."), FOLDER_RESULT, true, MLXQ_USAGE);
  assert_refused(source, path_in(*state, ".."), FOLDER_RESULT, true, MLXQ_USAGE);
  assert_refused(source, path_in(*state, "src/.."), FOLDER_RESULT, true, MLXQ_USAGE);
  assert_refused(source, path_in(*state, "new/."), FOLDER_RESULT, true, MLXQ_USAGE);
  assert_accepted(source, path_in(*state, "..."), FOLDER_RESULT, false);
  assert_accepted(source, path_in(*state, ".hidden"), FOLDER_RESULT, false);
}

static void test_the_parent_must_be_there(void **state) {
  const char *source = path_in(*state, "src");
  assert_refused(source, path_in(*state, "missing/out"), FOLDER_RESULT, true, MLXQ_IO);
  assert_refused(source, path_in(*state, "src.safetensors/out"), FOLDER_RESULT, true, MLXQ_IO);
  assert_false(exists(path_in(*state, "missing")));
  /* A name that no file system holds. */
  char name[300];
  memset(name, 'n', sizeof name);
  name[sizeof name - 1] = '\0';
  assert_refused(source, path_in(*state, "%s", name), FOLDER_RESULT, false, MLXQ_IO);
}

static void test_neither_lies_inside_the_other(void **state) {
  const char *source = path_in(*state, "src"), *file = path_in(*state, "src.safetensors");
  make_folder(path_in(*state, "src/sub"));
  make_folder(path_in(*state, "outer"));
  make_folder(path_in(*state, "outer/inner"));
  assert_int_equal(symlink("src", path_in(*state, "link")), 0);
  assert_int_equal(symlink("src/sub", path_in(*state, "sublink")), 0);
  assert_int_equal(symlink("outer/inner", path_in(*state, "innerlink")), 0);
  for (int force = 0; force < 2; force++) {
    static const char *const INSIDE[] = {"src", "src/out", "src/sub/out", "link/out", "sublink/out", "src/./x/../out"};
    for (size_t i = 0; i < COUNT(INSIDE); i++) {
      if (strstr(INSIDE[i], "/x/")) make_folder(path_in(*state, "src/x"));
      assert_refused(source, path_in(*state, "%s", INSIDE[i]), FOLDER_RESULT, force, MLXQ_USAGE);
      if (strstr(INSIDE[i], "/x/")) assert_int_equal(rmdir(path_in(*state, "src/x")), 0);
    }
    assert_refused(path_in(*state, "outer/inner"), path_in(*state, "outer"), FOLDER_RESULT, force, MLXQ_USAGE);
    assert_refused(path_in(*state, "innerlink"), path_in(*state, "outer"), FOLDER_RESULT, force, MLXQ_USAGE);
    assert_refused(path_in(*state, "link"), path_in(*state, "src/out"), FOLDER_RESULT, force, MLXQ_USAGE);
    assert_refused(file, file, FILE_RESULT, force, MLXQ_USAGE);
    assert_refused(path_in(*state, "src/model.safetensors"), path_in(*state, "src"), FILE_RESULT, force, MLXQ_USAGE);
  }
  /* Names that begin alike are other places. */
  assert_accepted(source, path_in(*state, "src2"), FOLDER_RESULT, false);
  assert_accepted(source, path_in(*state, "sr"), FOLDER_RESULT, false);
  assert_accepted(path_in(*state, "src/model.safetensors"), path_in(*state, "src/model.4bit.safetensors"), FILE_RESULT,
                  false);
}

/* The working folder is emptied, so the source must not be there: an interrupted result is no rare source. */
static void test_the_source_is_not_the_working_folder(void **state) {
  const char *partial = path_in(*state, ".out.mlxq-partial");
  make_folder(partial);
  write_text(path_in(*state, ".out.mlxq-partial/model.safetensors"), "kept");
  assert_refused(partial, path_in(*state, "out"), FOLDER_RESULT, false, MLXQ_USAGE);
  make_folder(path_in(*state, ".out.mlxq-partial/sub"));
  assert_refused(path_in(*state, ".out.mlxq-partial/sub"), path_in(*state, "out"), FOLDER_RESULT, false, MLXQ_USAGE);
  assert_refused(path_in(*state, ".out.mlxq-partial/model.safetensors"), path_in(*state, "out"), FILE_RESULT, false,
                 MLXQ_USAGE);
}

/* Nor the folder that an interrupted replacement set aside, which is put back and in the end removed. */
static void test_the_source_is_not_what_was_set_aside(void **state) {
  const char *aside = path_in(*state, ".out.mlxq-old");
  make_old_checkpoint(aside);
  for (int force = 0; force < 2; force++) {
    mlxq_status status = check_only(aside, path_in(*state, "out"), FOLDER_RESULT, force, NULL);
    assert_true(exists(path_in(aside, "config.json")));
    assert_false(exists(path_in(*state, "out")));
    assert_int_equal(status, MLXQ_USAGE);
  }
}

static void test_a_missing_source(void **state) {
  assert_refused(path_in(*state, "missing"), path_in(*state, "out"), FOLDER_RESULT, false, MLXQ_IO);
}

/* ---- What is there already ------------------------------------------------------------------------------------- */

static void make_occupants(const void *folder) {
  mlxq_weights *weights = new_weights();
  make_folder(path_in(folder, "empty"));
  make_old_checkpoint(path_in(folder, "checkpoint"));
  make_old_checkpoint(path_in(folder, "with-folder"));
  make_folder(path_in(folder, "with-folder/.git"));
  make_folder(path_in(folder, "no-config"));
  write_text(path_in(folder, "no-config/model.safetensors"), "kept");
  make_folder(path_in(folder, "no-weights"));
  write_text(path_in(folder, "no-weights/config.json"), "{}");
  make_folder(path_in(folder, "home"));
  write_text(path_in(folder, "home/notes.txt"), "kept");
  make_folder(path_in(folder, "hidden"));
  write_text(path_in(folder, "hidden/.profile"), "kept");
  make_folder(path_in(folder, "nested"));
  make_folder(path_in(folder, "nested/model"));
  write_text(path_in(folder, "nested/model/model.safetensors"), "kept");
  write_text(path_in(folder, "notes"), "some text that is no weights");
  write_text(path_in(folder, "braces"), "12345678{\"a\": 1}");
  write_text(path_in(folder, "nothing"), "");
  write_safetensors(path_in(folder, "old.safetensors"), weights);
  assert_int_equal(mkfifo(path_in(folder, "fifo"), 0666), 0);
  assert_int_equal(symlink("checkpoint", path_in(folder, "to-checkpoint")), 0);
  assert_int_equal(symlink("old.safetensors", path_in(folder, "to-file")), 0);
  assert_int_equal(symlink("nowhere", path_in(folder, "dangling")), 0);
  mlxq_weights_free(weights);
}

static void test_what_exists(void **state) {
  static const struct {
    const char *name;
    bool folder_may_replace, file_may_replace; /* with force; never without */
  } CASES[] = {
      {"empty", true, false},      {"checkpoint", true, false},     {"with-folder", false, false},
      {"no-config", false, false}, {"no-weights", false, false},    {"home", false, false},
      {"hidden", false, false},    {"nested", false, false},        {"notes", false, false},
      {"braces", false, false},    {"nothing", false, true},        {"old.safetensors", false, true},
      {"fifo", false, false},      {"to-checkpoint", false, false}, {"to-file", false, false},
      {"dangling", false, false},
  };
  make_occupants(*state);
  for (size_t i = 0; i < COUNT(CASES); i++) {
    const char *folder = path_in(*state, "src"), *file = path_in(*state, "src.safetensors");
    const char *destination = path_in(*state, "%s", CASES[i].name);
    assert_refused(folder, destination, FOLDER_RESULT, false, MLXQ_EXISTS);
    assert_refused(file, destination, FILE_RESULT, false, MLXQ_EXISTS);
    if (CASES[i].folder_may_replace) {
      assert_accepted(folder, destination, FOLDER_RESULT, true);
    } else {
      assert_refused(folder, destination, FOLDER_RESULT, true, MLXQ_EXISTS);
    }
    if (CASES[i].file_may_replace) {
      assert_accepted(file, destination, FILE_RESULT, true);
    } else {
      assert_refused(file, destination, FILE_RESULT, true, MLXQ_EXISTS);
    }
  }
  mlxq_error error;
  check_only(path_in(*state, "src"), path_in(*state, "home"), FOLDER_RESULT, true, &error);
  assert_string_equal(error.file, path_in(*state, "home"));
}

/* ---- The working folder ---------------------------------------------------------------------------------------- */

static void test_the_working_folder_is_made_and_removed(void **state) {
  mlxq_staging staging = checked(path_in(*state, "src"), path_in(*state, "out"), FOLDER_RESULT, false, false);
  const char *partial = path_in(*state, ".out.mlxq-partial");
  assert_int_equal(mlxq_staging_create(&staging, NULL), MLXQ_OK);
  assert_true(staging.lock >= 0);
  assert_true(exists(partial));
  write_text(path_in(partial, "work"), "unfinished");
  make_folder(path_in(partial, "folder"));
  mlxq_staging_close(&staging);
  assert_false(exists(partial));
  assert_false(exists(path_in(*state, "out")));
}

static void test_the_working_folder_is_kept_on_demand(void **state) {
  const char *partial = path_in(*state, ".out.mlxq-partial");
  mlxq_staging staging = checked(path_in(*state, "src"), path_in(*state, "out"), FOLDER_RESULT, false, true);
  assert_int_equal(mlxq_staging_create(&staging, NULL), MLXQ_OK);
  write_text(path_in(partial, "work"), "unfinished");
  mlxq_staging_close(&staging);
  assert_text(path_in(partial, "work"), "unfinished");
}

/* A check alone must not remove what it did not make. */
static void test_close_removes_only_its_own(void **state) {
  const char *partial = path_in(*state, ".out.mlxq-partial");
  make_folder(partial);
  write_text(path_in(partial, "work"), "of another run");
  assert_accepted(path_in(*state, "src"), path_in(*state, "out"), FOLDER_RESULT, false);
  assert_text(path_in(partial, "work"), "of another run");
}

static void test_what_an_interrupted_run_left_is_replaced(void **state) {
  const char *partial = path_in(*state, ".out.mlxq-partial"), *outside = path_in(*state, "outside");
  make_folder(partial);
  write_text(path_in(partial, "model.safetensors"), "stale");
  write_text(path_in(partial, ".hidden"), "stale");
  make_folder(path_in(partial, "deep"));
  write_text(path_in(partial, "deep/file"), "stale");
  make_folder(outside);
  write_text(path_in(outside, "precious"), "kept");
  assert_int_equal(symlink(outside, path_in(partial, "link")), 0);
  mlxq_staging staging = checked(path_in(*state, "src"), path_in(*state, "out"), FOLDER_RESULT, false, false);
  mlxq_weights *source = new_weights();
  mlxq_plan *plan = plan_of(source, 1, NULL);
  assert_int_equal(mlxq_staging_create(&staging, NULL), MLXQ_OK);
  assert_int_equal(mlxq_staging_create_files(&staging, plan, NULL, NULL), MLXQ_OK);
  assert_int_equal(entries_in(partial), 1);
  assert_text(path_in(outside, "precious"), "kept");
  mlxq_staging_close(&staging);
  mlxq_plan_free(plan);
  mlxq_weights_free(source);
}

/* Something else by the working folder's name is neither followed nor emptied. */
static void test_the_working_name_is_taken(void **state) {
  const char *partial = path_in(*state, ".out.mlxq-partial"), *outside = path_in(*state, "outside");
  mlxq_error error;
  make_folder(outside);
  write_text(path_in(outside, "precious"), "kept");
  for (int kind = 0; kind < 3; kind++) {
    if (kind == 0) write_text(partial, "a file");
    if (kind == 1) assert_int_equal(symlink(outside, partial), 0);
    if (kind == 2) assert_int_equal(symlink("nowhere", partial), 0);
    mlxq_staging staging = checked(path_in(*state, "src"), path_in(*state, "out"), FOLDER_RESULT, false, false);
    assert_int_equal(mlxq_staging_create(&staging, &error), MLXQ_IO);
    assert_string_equal(error.file, partial);
    mlxq_staging_close(&staging);
    assert_true(exists(partial));
    assert_int_equal(unlink(partial), 0);
  }
  assert_text(path_in(outside, "precious"), "kept");
  assert_false(exists(path_in(*state, "nowhere")));
}

/* ---- A second process ------------------------------------------------------------------------------------------ */

/* Starts a process that holds the working folder until it is killed. */
static pid_t start_rival(const char *source, const char *destination, const char *note) {
  int ready[2];
  char byte = 0;
  assert_int_equal(pipe(ready), 0);
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    mlxq_staging staging;
    mlxq_status status = mlxq_staging_check(&staging, source, destination, true, false, false, false, NULL);
    if (status == MLXQ_OK) status = mlxq_staging_create(&staging, NULL);
    int fd = status == MLXQ_OK ? open(note, O_WRONLY | O_CREAT, 0666) : -1;
    byte = fd >= 0 && write(fd, "rival", 5) == 5 ? 'y' : 'n';
    if (write(ready[1], &byte, 1) == 1) pause();
    _exit(0);
  }
  close(ready[1]);
  assert_int_equal(read(ready[0], &byte, 1), 1);
  close(ready[0]);
  assert_int_equal(byte, 'y');
  return child;
}

static void end_rival(pid_t rival) {
  int status;
  kill(rival, SIGKILL);
  assert_int_equal(waitpid(rival, &status, 0), rival);
}

static void test_one_process_at_a_time(void **state) {
  const char *source = path_in(*state, "src"), *destination = path_in(*state, "out");
  const char *note = path_in(*state, ".out.mlxq-partial/note");
  pid_t rival = start_rival(source, destination, note);
  for (int keep = 0; keep < 2; keep++) {
    mlxq_error error;
    mlxq_staging staging = checked(source, destination, FOLDER_RESULT, false, keep);
    assert_int_equal(mlxq_staging_create(&staging, &error), MLXQ_BUSY);
    assert_int_equal(error.status, MLXQ_BUSY);
    assert_string_equal(error.file, destination);
    assert_true(strlen(error.message) > 0);
    mlxq_staging_close(&staging);
    assert_text(note, "rival"); /* its work is untouched */
  }
  /* Another destination beside it is free. */
  mlxq_staging other = checked(source, path_in(*state, "other"), FOLDER_RESULT, false, false);
  assert_int_equal(mlxq_staging_create(&other, NULL), MLXQ_OK);
  mlxq_staging_close(&other);
  /* kill -9 gives the lock back, and leaves the folder to the next run. */
  end_rival(rival);
  assert_text(note, "rival");
  mlxq_staging staging = checked(source, destination, FOLDER_RESULT, false, false);
  mlxq_error error;
  assert_int_equal(publish(&staging, 1, &error), MLXQ_OK);
  mlxq_staging_close(&staging);
  assert_int_equal(entries_in(destination), 2);
  assert_false(exists(path_in(*state, ".out.mlxq-partial")));
}

static void test_the_lock_goes_with_close(void **state) {
  for (int round = 0; round < 3; round++) {
    mlxq_staging staging = checked(path_in(*state, "src"), path_in(*state, "out"), FOLDER_RESULT, false, round % 2);
    assert_int_equal(mlxq_staging_create(&staging, NULL), MLXQ_OK);
    mlxq_staging second = checked(path_in(*state, "src"), path_in(*state, "out"), FOLDER_RESULT, false, false);
    assert_int_equal(mlxq_staging_create(&second, NULL), MLXQ_BUSY);
    mlxq_staging_close(&second);
    mlxq_staging_close(&staging);
  }
}

/* ---- The files ------------------------------------------------------------------------------------------------- */

static void test_files_have_their_size_and_header(void **state) {
  mlxq_weights *source = new_weights();
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  mlxq_plan *plan = NULL;
  add_random(source, "a.weight", MLXQ_F32, SHAPE(8, 64));
  add_random(source, "b", MLXQ_U8, SHAPE(999));
  add_random(source, "c", MLXQ_F64, SHAPE(0));
  mlxq_plan_request request = {.source = source, .config = config};
  assert_int_equal(mlxq_plan_quantize(&plan, &request, NULL), MLXQ_OK);
  assert_int_equal(mlxq_plan_layout(plan, 300, NULL, NULL), MLXQ_OK);
  assert_int_equal(plan->file_count, 4);
  mlxq_staging staging = checked(path_in(*state, "src"), path_in(*state, "out"), FOLDER_RESULT, false, false);
  assert_int_equal(mlxq_staging_create(&staging, NULL), MLXQ_OK);
  assert_int_equal(mlxq_staging_create_files(&staging, plan, NULL, NULL), MLXQ_OK);
  size_t tensors = 0;
  for (size_t i = 0; i < plan->file_count; i++) {
    struct stat status;
    const char *path = path_in(staging.folder, "%s", plan->files[i].name);
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_size, plan->files[i].bytes);
    mlxq_weights *found = read_safetensors(path);
    for (size_t k = 0; k < found->count; k++, tensors++) {
      const mlxq_tensor_entry *entry = &found->entries[k];
      size_t index = mlxq_weights_index(plan->outputs, entry->tensor.name, strlen(entry->tensor.name));
      assert_int_not_equal(index, SIZE_MAX);
      assert_int_equal(plan->outputs->entries[index].file, i);
      assert_int_equal(plan->outputs->entries[index].offset, entry->offset);
      assert_shape(&entry->tensor, plan->outputs->entries[index].tensor.dtype,
                   plan->outputs->entries[index].tensor.rank, plan->outputs->entries[index].tensor.shape);
    }
    mlxq_weights_free(found);
  }
  assert_int_equal(tensors, 5);
  mlxq_staging_close(&staging);
  mlxq_plan_free(plan);
  mlxq_weights_free(source);
  mlxq_quant_config_free(config);
}

/* ---- Publishing ------------------------------------------------------------------------------------------------ */

static void test_publish_a_folder(void **state) {
  struct stat status;
  mlxq_error error;
  mlxq_staging staging = checked(path_in(*state, "src"), path_in(*state, "out"), FOLDER_RESULT, false, false);
  assert_int_equal(publish(&staging, 3, &error), MLXQ_OK);
  mlxq_staging_close(&staging);
  assert_int_equal(entries_in(path_in(*state, "out")), 4);
  assert_published_file(path_in(*state, "out/model-00001-of-00003.safetensors"));
  assert_false(exists(path_in(*state, ".out.mlxq-partial")));
  mode_t mask = umask(0);
  umask(mask);
  assert_int_equal(stat(path_in(*state, "out"), &status), 0);
  assert_int_equal(status.st_mode & 0777, 0777 & ~mask);
  assert_int_equal(stat(path_in(*state, "out/model-00001-of-00003.safetensors"), &status), 0);
  assert_int_equal(status.st_mode & 0777, 0666 & ~mask);
  assert_refused(path_in(*state, "src"), path_in(*state, "out"), FOLDER_RESULT, false, MLXQ_EXISTS);
}

static void test_publish_a_file(void **state) {
  mlxq_error error;
  mlxq_staging staging =
      checked(path_in(*state, "src.safetensors"), path_in(*state, "out.safetensors"), FILE_RESULT, false, true);
  assert_int_equal(publish(&staging, 1, &error), MLXQ_OK);
  mlxq_staging_close(&staging);
  assert_published_file(path_in(*state, "out.safetensors"));
  assert_false(exists(path_in(*state, ".out.safetensors.mlxq-partial")));
}

static void test_publish_over_an_old_folder(void **state) {
  mlxq_error error;
  make_occupants(*state);
  static const char *const NAMES[] = {"checkpoint", "empty"};
  for (size_t i = 0; i < COUNT(NAMES); i++) {
    const char *destination = path_in(*state, "%s", NAMES[i]);
    mlxq_staging staging = checked(path_in(*state, "src"), destination, FOLDER_RESULT, true, false);
    assert_int_equal(publish(&staging, 1, &error), MLXQ_OK);
    mlxq_staging_close(&staging);
    assert_int_equal(entries_in(destination), 2);
    assert_published_file(path_in(destination, "model.safetensors"));
    assert_false(exists(path_in(*state, ".%s.mlxq-partial", NAMES[i])));
  }
}

static const mlxq_cancel NO_CANCEL;

static void test_publish_over_an_old_file(void **state) {
  mlxq_error error;
  const char *destination = path_in(*state, "out.safetensors");
  assert_int_equal(mlxq_file_copy(destination, path_in(*state, "src.safetensors"), &NO_CANCEL, NULL), MLXQ_OK);
  mlxq_staging staging = checked(path_in(*state, "src.safetensors"), destination, FILE_RESULT, true, false);
  assert_int_equal(publish(&staging, 1, &error), MLXQ_OK);
  mlxq_staging_close(&staging);
  assert_published_file(destination);
  assert_false(exists(path_in(*state, ".out.safetensors.mlxq-partial")));
}

/* Without force, what came after the check is not touched. */
static void test_a_destination_that_appears_late(void **state) {
  static const char *const NAMES[] = {"late", "late.safetensors"};
  for (int is_folder = 0; is_folder < 2; is_folder++) {
    mlxq_error error;
    const char *destination = path_in(*state, "%s", NAMES[!is_folder]);
    const char *source = path_in(*state, is_folder ? "src" : "src.safetensors");
    mlxq_staging staging = checked(source, destination, is_folder, false, false);
    if (is_folder) {
      make_folder(destination);
    } else {
      write_text(destination, "late");
    }
    assert_int_equal(publish(&staging, 1, &error), MLXQ_EXISTS);
    assert_string_equal(error.file, destination);
    mlxq_staging_close(&staging);
    assert_false(exists(path_in(*state, ".%s.mlxq-partial", NAMES[!is_folder])));
    if (is_folder) {
      assert_int_equal(entries_in(destination), 0);
    } else {
      assert_text(destination, "late");
    }
  }
}

/* With force too: it may replace a checkpoint, not whatever came in the hours since the check. */
static void test_force_does_not_replace_what_is_no_checkpoint(void **state) {
  mlxq_error error;
  const char *destination = path_in(*state, "late");
  mlxq_staging staging = checked(path_in(*state, "src"), destination, FOLDER_RESULT, true, false);
  make_folder(destination);
  write_text(path_in(destination, "thesis.tex"), "kept");
  mlxq_status status = publish(&staging, 1, &error);
  mlxq_staging_close(&staging);
  assert_int_equal(status, MLXQ_EXISTS);
  assert_text(path_in(destination, "thesis.tex"), "kept");
}

static void test_force_does_not_replace_a_folder_by_a_file(void **state) {
  mlxq_error error;
  const char *destination = path_in(*state, "late.safetensors");
  mlxq_staging staging = checked(path_in(*state, "src.safetensors"), destination, FILE_RESULT, true, false);
  make_folder(destination);
  mlxq_status status = publish(&staging, 1, &error);
  mlxq_staging_close(&staging);
  assert_int_equal(status, MLXQ_EXISTS);
  assert_int_equal(entries_in(destination), 0);
  assert_false(exists(path_in(*state, ".late.safetensors.mlxq-partial")));
}

/* Where folders cannot be exchanged, the old one is set aside for a moment; one that was killed then is put back. */
static void test_what_was_set_aside_is_put_back(void **state) {
  const char *aside = path_in(*state, ".out.mlxq-old"), *out = path_in(*state, "out");
  make_old_checkpoint(aside);
  assert_refused(path_in(*state, "src"), out, FOLDER_RESULT, false, MLXQ_EXISTS);
  assert_text(path_in(out, "model-00001-of-00002.safetensors"), "old");
  assert_false(exists(aside));
  /* Where there is a destination, it stays; what lies aside goes with the next replacement. */
  make_old_checkpoint(aside);
  write_text(path_in(aside, "config.json"), "{\"older\": 1}");
  mlxq_error error;
  mlxq_staging staging = checked(path_in(*state, "src"), out, FOLDER_RESULT, true, false);
  assert_text(path_in(out, "config.json"), "{}");
  assert_int_equal(publish(&staging, 1, &error), MLXQ_OK);
  mlxq_staging_close(&staging);
  assert_published_file(path_in(out, "model.safetensors"));
  assert_false(exists(aside));
}

/* What lies under the name for it is not always what was set aside. */
static void test_what_is_aside_is_not_anybodys(void **state) {
  const char *source = path_in(*state, "src"), *out = path_in(*state, "out"), *aside = path_in(*state, ".out.mlxq-old");
  mlxq_error error;
  make_old_checkpoint(out);
  make_old_checkpoint(aside);
  assert_accepted(source, out, FOLDER_RESULT, true);
  write_text(path_in(aside, "notes.txt"), "precious");
  assert_int_equal(check_only(source, out, FOLDER_RESULT, true, &error), MLXQ_EXISTS);
  assert_string_equal(error.file, aside);
  assert_true(exists(path_in(aside, "notes.txt")));
  /* What a kill left of it while it was removed is nobody's. */
  assert_int_equal(unlink(path_in(aside, "notes.txt")), 0);
  assert_int_equal(unlink(path_in(aside, "config.json")), 0);
  assert_accepted(source, out, FOLDER_RESULT, true);
}

/* The process that has just put the destination there still holds its lock. */
static void test_a_destination_that_is_locked_is_not_replaced(void **state) {
  mlxq_error error;
  const char *destination = path_in(*state, "out");
  make_old_checkpoint(destination);
  mlxq_staging staging = checked(path_in(*state, "src"), destination, FOLDER_RESULT, true, false);
  int fd = open(destination, O_RDONLY | O_DIRECTORY);
  assert_true(fd >= 0);
  assert_int_equal(flock(fd, LOCK_EX), 0);
  mlxq_status status = publish(&staging, 1, &error);
  mlxq_staging_close(&staging);
  close(fd);
  assert_int_equal(status, MLXQ_BUSY);
  assert_string_equal(error.file, destination);
  assert_text(path_in(destination, "model-00001-of-00002.safetensors"), "old");
}

/* The rename is the end: a reader who looks all the time sees the old or the new, never neither. */
static void test_the_exchange_leaves_no_gap(void **state) {
  const char *destination = path_in(*state, "out");
  make_old_checkpoint(destination);
  int ready[2];
  assert_int_equal(pipe(ready), 0);
  char byte = 0;
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    bool gap = false;
    if (write(ready[1], &byte, 1) != 1) _exit(2);
    while (!gap) gap = access(destination, F_OK) != 0;
    _exit(1);
  }
  assert_int_equal(read(ready[0], &byte, 1), 1);
  close(ready[0]);
  close(ready[1]);
  mlxq_status statuses[50];
  for (size_t i = 0; i < COUNT(statuses); i++) {
    mlxq_staging staging = checked(path_in(*state, "src"), destination, FOLDER_RESULT, true, false);
    statuses[i] = publish(&staging, 1, NULL);
    mlxq_staging_close(&staging);
    destination = path_in(*state, "out");
  }
  int status = 0;
  bool still_watching = waitpid(child, &status, WNOHANG) == 0;
  if (still_watching) end_rival(child);
  for (size_t i = 0; i < COUNT(statuses); i++) assert_int_equal(statuses[i], MLXQ_OK);
  assert_true(still_watching);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, make_places, remove_scratch)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_a_new_destination),
      TEST(test_slashes_at_the_end),
      TEST(test_relative_destinations),
      TEST(test_a_destination_needs_a_name),
      TEST(test_the_parent_must_be_there),
      TEST(test_neither_lies_inside_the_other),
      TEST(test_the_source_is_not_the_working_folder),
      TEST(test_the_source_is_not_what_was_set_aside),
      TEST(test_a_missing_source),
      TEST(test_what_exists),
      TEST(test_the_working_folder_is_made_and_removed),
      TEST(test_the_working_folder_is_kept_on_demand),
      TEST(test_close_removes_only_its_own),
      TEST(test_what_an_interrupted_run_left_is_replaced),
      TEST(test_the_working_name_is_taken),
      TEST(test_one_process_at_a_time),
      TEST(test_the_lock_goes_with_close),
      TEST(test_files_have_their_size_and_header),
      TEST(test_publish_a_folder),
      TEST(test_publish_a_file),
      TEST(test_publish_over_an_old_folder),
      TEST(test_publish_over_an_old_file),
      TEST(test_a_destination_that_appears_late),
      TEST(test_force_does_not_replace_what_is_no_checkpoint),
      TEST(test_force_does_not_replace_a_folder_by_a_file),
      TEST(test_what_was_set_aside_is_put_back),
      TEST(test_what_is_aside_is_not_anybodys),
      TEST(test_a_destination_that_is_locked_is_not_replaced),
      TEST(test_the_exchange_leaves_no_gap),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
