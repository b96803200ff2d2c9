/* journal.c: what it believes of an earlier run, and what it does not. */
#include "run/journal.h"

#include "helpers.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEADER = 32, LINE = 26, FILES = 3 };

typedef struct plan_on_disk {
  const char *folder;
  mlxq_weights *source;
  mlxq_plan *plan;
} plan_on_disk;

/* A plan of three files, to be made in the scratch folder. */
static plan_on_disk new_plan(const void *folder) {
  plan_on_disk made = {.folder = folder, .source = new_weights()};
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  seed_random(1);
  add_random(made.source, "a", MLXQ_U8, SHAPE(5001));
  add_random(made.source, "b", MLXQ_U8, SHAPE(8));
  add_random(made.source, "c", MLXQ_U8, SHAPE(0));
  add_random(made.source, "d", MLXQ_U8, SHAPE(4999));
  mlxq_plan_request request = {.source = made.source, .config = config};
  assert_int_equal(mlxq_plan_quantize(&made.plan, &request, NULL), MLXQ_OK);
  assert_int_equal(mlxq_plan_layout(made.plan, 5001, NULL, NULL), MLXQ_OK);
  assert_int_equal(made.plan->file_count, FILES);
  mlxq_quant_config_free(config);
  return made;
}

static void free_plan(plan_on_disk *made) {
  mlxq_plan_free(made->plan);
  mlxq_weights_free(made->source);
}

static mlxq_status open_journal(mlxq_journal *journal, const plan_on_disk *made, uint64_t key, bool reuse) {
  mlxq_journal_request request = {.plan = made->plan, .folder = made->folder, .key = key, .reuse = reuse};
  return mlxq_journal_open(journal, &request, NULL);
}

static const char *file_path(const plan_on_disk *made, uint32_t file) {
  return path_in(made->folder, "%s", made->plan->files[file].name);
}

static const char *journal_path(const plan_on_disk *made) {
  return path_in(made->folder, MLXQ_JOURNAL_NAME);
}

/* Writes some content in pieces, the last first. */
static void write_file(mlxq_journal *journal, const plan_on_disk *made, uint32_t file) {
  unsigned char bytes[8192];
  size_t length = (size_t)made->plan->files[file].bytes, at = length;
  assert_true(length <= sizeof bytes);
  for (size_t i = 0; i < length; i++) bytes[i] = (unsigned char)next_random();
  int fd = open(file_path(made, file), O_RDWR | O_CREAT | O_TRUNC, 0600);
  while (at > 0) {
    size_t part = at < 37 ? at : 37;
    at -= part;
    assert_int_equal(pwrite(fd, bytes + at, part, (off_t)at), part);
    assert_int_equal(mlxq_journal_wrote(journal, file, fd, at, bytes + at, part, NULL), MLXQ_OK);
  }
  close(fd);
}

/* A journal of key 7 that lists all files. */
static void write_all(const plan_on_disk *made) {
  mlxq_journal journal;
  assert_int_equal(open_journal(&journal, made, 7, true), MLXQ_OK);
  for (uint32_t i = 0; i < FILES; i++) write_file(&journal, made, i);
  mlxq_journal_close(&journal);
}

/* Which files are believed to be whole: one bit each. The journal is left as it was. */
static unsigned whole_files(const plan_on_disk *made, uint64_t key, bool reuse) {
  mlxq_journal journal;
  unsigned whole = 0;
  uint64_t bytes = 0;
  static const uint64_t TENSORS[FILES] = {5001, 8 + 0, 4999};
  char *text = NULL;
  size_t length = 0;
  const char *path = path_in(made->folder, MLXQ_JOURNAL_NAME);
  bool kept = mlxq_file_read_text(&text, &length, path, 1 << 20, NULL) == MLXQ_OK;
  assert_int_equal(open_journal(&journal, made, key, reuse), MLXQ_OK);
  for (uint32_t i = 0; i < FILES; i++) {
    if (!mlxq_journal_has(&journal, i)) continue;
    whole |= 1u << i;
    bytes += i == 1 ? TENSORS[1] : TENSORS[i];
  }
  assert_int_equal(journal.reused_bytes, bytes);
  mlxq_journal_close(&journal);
  if (kept) {
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mlxq_file_write_text(path, text, length, NULL), MLXQ_OK);
  }
  free(text);
  return whole;
}

/* Replaces bytes of a file, or adds some. */
static void patch(const char *path, off_t at, const void *bytes, size_t length) {
  int fd = open(path, O_WRONLY);
  assert_true(fd >= 0);
  assert_int_equal(pwrite(fd, bytes, length, at), length);
  close(fd);
}

static void restart(const plan_on_disk *made) {
  remove(path_in(made->folder, MLXQ_JOURNAL_NAME));
  for (uint32_t i = 0; i < FILES; i++) remove(file_path(made, i));
  write_all(made);
}

/* ---- Checksum -------------------------------------------------------------------------------------------------- */

static void test_sums_add_up(void **state) {
  (void)state;
  unsigned char bytes[900];
  for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)next_random();
  uint64_t whole = mlxq_journal_sum(5, bytes, sizeof bytes);
  for (int round = 0; round < 2000; round++) {
    size_t first = (size_t)random_below(sizeof bytes + 1);
    size_t second = first + (size_t)random_below(sizeof bytes + 1 - first);
    uint64_t sum = mlxq_journal_sum(5 + second, bytes + second, sizeof bytes - second);
    sum += mlxq_journal_sum(5, bytes, first);
    sum += mlxq_journal_sum(5 + first, bytes + first, second - first);
    assert_true(sum == whole);
  }
  assert_true(mlxq_journal_sum(0, bytes, 0) == 0);
}

static void test_a_change_changes_the_sum(void **state) {
  (void)state;
  unsigned char bytes[256] = {0};
  uint64_t whole = mlxq_journal_sum(0, bytes, sizeof bytes);
  for (size_t i = 0; i < sizeof bytes; i++) {
    for (int bit = 0; bit < 8; bit++) {
      bytes[i] = (unsigned char)(1u << bit);
      assert_true(mlxq_journal_sum(0, bytes, sizeof bytes) != whole);
    }
    bytes[i] = 0;
  }
  /* Halves of words that change places. */
  for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)i;
  whole = mlxq_journal_sum(0, bytes, sizeof bytes);
  for (size_t i = 0; i + 4 <= sizeof bytes; i += 4) {
    for (size_t k = 0; k < i; k += 4) {
      unsigned char changed[sizeof bytes];
      memcpy(changed, bytes, sizeof bytes);
      memcpy(changed + i, bytes + k, 4);
      memcpy(changed + k, bytes + i, 4);
      assert_true(mlxq_journal_sum(0, changed, sizeof bytes) != whole);
    }
  }
}

/* ---- What is believed ------------------------------------------------------------------------------------------ */

static void test_whole_files_are_kept(void **state) {
  plan_on_disk made = new_plan(*state);
  assert_int_equal(whole_files(&made, 7, true), 0);
  remove(path_in(*state, MLXQ_JOURNAL_NAME));
  write_all(&made);
  struct stat status;
  assert_int_equal(stat(path_in(*state, MLXQ_JOURNAL_NAME), &status), 0);
  assert_int_equal(status.st_size, HEADER + FILES * LINE);
  assert_false(exists(path_in(*state, MLXQ_JOURNAL_NAME ".new")));
  assert_int_equal(whole_files(&made, 7, true), 7);
  assert_int_equal(whole_files(&made, 7, false), 0);
  assert_int_equal(whole_files(&made, 8, true), 0);
  free_plan(&made);
}

/* A second run, killed in its turn, leaves a journal of what both have made. */
static void test_a_third_run(void **state) {
  plan_on_disk made = new_plan(*state);
  mlxq_journal journal;
  assert_int_equal(open_journal(&journal, &made, 7, true), MLXQ_OK);
  write_file(&journal, &made, 2);
  mlxq_journal_close(&journal);
  assert_int_equal(open_journal(&journal, &made, 7, true), MLXQ_OK);
  assert_true(mlxq_journal_has(&journal, 2) && !mlxq_journal_has(&journal, 0));
  write_file(&journal, &made, 0);
  mlxq_journal_close(&journal);
  assert_int_equal(whole_files(&made, 7, true), 1 | 4);
  free_plan(&made);
}

static void test_torn_journals(void **state) {
  plan_on_disk made = new_plan(*state);
  for (int length = HEADER + FILES * LINE; length >= 0; length--) {
    restart(&made);
    assert_int_equal(truncate(journal_path(&made), length), 0);
    unsigned lines = length < HEADER ? 0 : (unsigned)(length - HEADER) / LINE;
    assert_int_equal(whole_files(&made, 7, true), (1u << lines) - 1);
    /* The rest may be there as zeros. */
    assert_int_equal(truncate(journal_path(&made), HEADER + FILES * LINE), 0);
    assert_int_equal(whole_files(&made, 7, true), (1u << lines) - 1);
  }
  free_plan(&made);
}

static void test_odd_journals(void **state) {
  plan_on_disk made = new_plan(*state);
  static const struct {
    int at;
    const char *bytes;
    unsigned whole;
  } CASES[] = {
      {0, "M", 0},                         /* another kind of file */
      {13, "2", 0},                        /* another version */
      {HEADER - 1, " ", 0},                /* no end of the first line */
      {HEADER + 7, "3", 0},                /* a file beyond the last: nothing after it counts */
      {HEADER + LINE, "ffffffff", 1},      /* likewise */
      {HEADER + LINE + 8, "x", 1},         /* no space */
      {HEADER + LINE + 9, "G", 1},         /* no digit */
      {HEADER + LINE + 9, "A", 1},         /* nor that */
      {HEADER + LINE + LINE - 1, "\r", 1}, /* no end */
      {HEADER + 7, "1", 4},                /* the sum of another file; a later line of the same file counts */
      {HEADER + 2 * LINE + 7, "0", 2},     /* likewise: the last line counts */
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    restart(&made);
    patch(journal_path(&made), CASES[i].at, CASES[i].bytes, strlen(CASES[i].bytes));
    unsigned expected = i == 9 ? 2 | 4 : CASES[i].whole;
    assert_int_equal(whole_files(&made, 7, true), expected);
  }
  restart(&made);
  patch(journal_path(&made), HEADER + FILES * LINE, "x", 1); /* larger than it can be */
  assert_int_equal(whole_files(&made, 7, true), 0);
  free_plan(&made);
}

static void test_a_journal_that_is_no_file(void **state) {
  plan_on_disk made = new_plan(*state);
  const char *path = path_in(*state, MLXQ_JOURNAL_NAME);
  write_all(&made);
  assert_int_equal(rename(path, path_in(*state, "elsewhere")), 0);
  assert_int_equal(symlink("elsewhere", path), 0);
  assert_int_equal(whole_files(&made, 7, true), 0);
  assert_true(exists(path_in(*state, "elsewhere")));
  assert_int_equal(unlink(path), 0);
  make_folder(path);
  assert_int_equal(whole_files(&made, 7, true), 0);
  free_plan(&made);
}

static void test_damaged_files(void **state) {
  plan_on_disk made = new_plan(*state);
  for (uint32_t i = 0; i < FILES; i++) {
    off_t length = (off_t)made.plan->files[i].bytes;
    static const off_t AT[] = {0, 9, -1};
    for (size_t k = 0; k < COUNT(AT); k++) {
      char byte = 0;
      off_t at = AT[k] < 0 ? length - 1 : AT[k];
      restart(&made);
      int fd = open(file_path(&made, i), O_RDONLY);
      assert_int_equal(pread(fd, &byte, 1, at), 1);
      close(fd);
      byte = (char)(byte ^ 0x40);
      patch(file_path(&made, i), at, &byte, 1);
      assert_int_equal(whole_files(&made, 7, true), 7u & ~(1u << i));
    }
    restart(&made);
    assert_int_equal(truncate(file_path(&made, i), length - 1), 0);
    assert_int_equal(whole_files(&made, 7, true), 7u & ~(1u << i));
    restart(&made);
    patch(file_path(&made, i), length, "", 1);
    assert_int_equal(whole_files(&made, 7, true), 7u & ~(1u << i));
    restart(&made);
    assert_int_equal(rename(file_path(&made, i), path_in(*state, "moved")), 0);
    assert_int_equal(symlink("moved", file_path(&made, i)), 0);
    assert_int_equal(whole_files(&made, 7, true), 7u & ~(1u << i));
    assert_int_equal(unlink(file_path(&made, i)), 0);
    assert_int_equal(whole_files(&made, 7, true), 7u & ~(1u << i));
  }
  free_plan(&made);
}

static bool always(void *user) {
  ++*(int *)user;
  return true;
}

static void test_cancelled_while_old_files_are_read(void **state) {
  plan_on_disk made = new_plan(*state);
  int asked = 0;
  mlxq_journal journal;
  mlxq_error error;
  write_all(&made);
  mlxq_journal_request request = {
      .plan = made.plan, .folder = made.folder, .key = 7, .reuse = true, .cancelled = always, .user = &asked};
  assert_int_equal(mlxq_journal_open(&journal, &request, &error), MLXQ_CANCELLED);
  assert_true(asked > 0);
  mlxq_journal_close(&journal);
  assert_int_equal(whole_files(&made, 7, true), 7); /* the journal is as it was */
  free_plan(&made);
}

static void test_errors_name_the_journal(void **state) {
  plan_on_disk made = new_plan(*state);
  mlxq_journal journal;
  mlxq_error error;
  mlxq_journal_request request = {.plan = made.plan, .folder = path_in(*state, "absent"), .key = 7};
  assert_int_equal(mlxq_journal_open(&journal, &request, &error), MLXQ_IO);
  assert_non_null(strstr(error.file, "absent/" MLXQ_JOURNAL_NAME));
  mlxq_journal_close(&journal);
  mlxq_journal_close(&journal); /* harmless */
  assert_false(mlxq_journal_has(NULL, 0));
  assert_int_equal(mlxq_journal_wrote(NULL, 0, -1, 0, "x", 1, NULL), MLXQ_OK);
  free_plan(&made);
}

/* ---- Key ------------------------------------------------------------------------------------------------------- */

static void test_the_key_depends_on_everything(void **state) {
  plan_on_disk made = new_plan(*state);
  mlxq_plan *plan = made.plan;
  char path[] = "src";
  mlxq_source_file source = {.path = path, .identity = {1, 2, 3, 4, 5}};
  uint64_t keys[32];
  size_t count = 0;
#define KEY() keys[count++] = mlxq_journal_key(plan, &source, 1)
#define CHANGED(change, undo) \
  do {                        \
    change;                   \
    KEY();                    \
    undo;                     \
  } while (0)
  KEY();
  CHANGED(source.identity.device++, source.identity.device--);
  CHANGED(source.identity.inode++, source.identity.inode--);
  CHANGED(source.identity.bytes++, source.identity.bytes--);
  CHANGED(source.identity.modified_ns++, source.identity.modified_ns--);
  CHANGED(source.identity.changed_ns++, source.identity.changed_ns--);
  CHANGED(path[0] = 't', path[0] = 's');
  CHANGED(plan->profile = MLXQ_PROFILE_GPU, plan->profile = MLXQ_PROFILE_CPU);
  CHANGED(plan->allow_nonfinite = true, plan->allow_nonfinite = false);
  CHANGED(plan->for_mlx = true, plan->for_mlx = false);
  CHANGED(plan->jobs[0].action = MLXQ_ACTION_QUANTIZE, plan->jobs[0].action = MLXQ_ACTION_COPY);
  CHANGED(plan->jobs[0].scheme.bits++, plan->jobs[0].scheme.bits--);
  CHANGED(plan->jobs[1].units++, plan->jobs[1].units--);
  CHANGED(plan->jobs[1].inputs[0].cast_to++, plan->jobs[1].inputs[0].cast_to--);
  CHANGED(plan->jobs[1].inputs[0].slice++, plan->jobs[1].inputs[0].slice--);
  CHANGED(plan->jobs[1].outputs[0].tensor++, plan->jobs[1].outputs[0].tensor--);
  CHANGED(plan->files[1].bytes++, plan->files[1].bytes--);
  CHANGED(plan->files[1].name[0]++, plan->files[1].name[0]--);
  CHANGED(plan->outputs->entries[2].offset++, plan->outputs->entries[2].offset--);
  CHANGED(plan->outputs->entries[2].file++, plan->outputs->entries[2].file--);
  CHANGED(plan->outputs->entries[2].tensor.dtype++, plan->outputs->entries[2].tensor.dtype--);
  for (size_t i = 0; i < count; i++) {
    for (size_t k = 0; k < i; k++) assert_true(keys[i] != keys[k]);
  }
  assert_true(mlxq_journal_key(plan, &source, 1) == keys[0]);
  free_plan(&made);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_sums_add_up),
      cmocka_unit_test(test_a_change_changes_the_sum),
      cmocka_unit_test_setup_teardown(test_whole_files_are_kept, make_scratch, remove_scratch),
      cmocka_unit_test_setup_teardown(test_a_third_run, make_scratch, remove_scratch),
      cmocka_unit_test_setup_teardown(test_torn_journals, make_scratch, remove_scratch),
      cmocka_unit_test_setup_teardown(test_odd_journals, make_scratch, remove_scratch),
      cmocka_unit_test_setup_teardown(test_a_journal_that_is_no_file, make_scratch, remove_scratch),
      cmocka_unit_test_setup_teardown(test_damaged_files, make_scratch, remove_scratch),
      cmocka_unit_test_setup_teardown(test_cancelled_while_old_files_are_read, make_scratch, remove_scratch),
      cmocka_unit_test_setup_teardown(test_errors_name_the_journal, make_scratch, remove_scratch),
      cmocka_unit_test_setup_teardown(test_the_key_depends_on_everything, make_scratch, remove_scratch),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
