/* checkpoint.c, index.c, config_out.c, report.c: folders and files opened, described, and written about; and the
 * conversions of checkpoint.h from end to end. */
#include "checkpoint/checkpoint.h"

#include "base/json.h"
#include "checkpoint/config_out.h"
#include "checkpoint/index.h"
#include "helpers.h"

#include <errno.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- Helpers --------------------------------------------------------------------------------------------------- */

/* Writes FOLDER/NAME with tensors of three bytes by these names. */
static void write_shard(const void *folder, const char *name, const char *const *tensors, size_t count) {
  mlxq_weights *weights = new_weights();
  for (size_t i = 0; i < count; i++) add_random(weights, tensors[i], MLXQ_U8, SHAPE(3));
  write_safetensors(path_in(folder, "%s", name), weights);
  mlxq_weights_free(weights);
}

#define SHARD(folder, name, ...) \
  write_shard(folder, name, (const char *const[]){__VA_ARGS__}, COUNT(((const char *const[]){__VA_ARGS__})))

/* A folder with one shard of tensors "a" and "b", and this config.json (none where NULL). */
static const char *make_checkpoint(const void *scratch, const char *config) {
  static unsigned number;
  const char *folder = path_in(scratch, "checkpoint%u", number++);
  make_folder(folder);
  SHARD(folder, "model.safetensors", "a", "b");
  if (config) write_text(path_in(folder, "config.json"), config);
  return folder;
}

static mlxq_checkpoint *open_checkpoint(const char *path) {
  mlxq_checkpoint *checkpoint = NULL;
  mlxq_error error;
  if (mlxq_checkpoint_open(&checkpoint, path, &error) != MLXQ_OK) {
    fail_msg("%s: %s: %s", error.file, error.key, error.message);
  }
  assert_non_null(checkpoint);
  return checkpoint;
}

/* `file` is what the error names. */
static void assert_not_opened(const char *path, mlxq_status status, const char *file, const char *key) {
  mlxq_checkpoint *checkpoint = (mlxq_checkpoint *)(uintptr_t)16;
  mlxq_error error;
  memset(&error, 'x', sizeof error);
  mlxq_status result = mlxq_checkpoint_open(&checkpoint, path, &error);
  if (result != status) fail_msg("%s: %s, not %s", path, mlxq_status_name(result), mlxq_status_name(status));
  assert_null(checkpoint);
  assert_int_equal(error.status, status);
  assert_string_equal(error.file, file);
  assert_string_equal(error.key, key);
  assert_true(strlen(error.message) > 0);
  assert_int_equal(mlxq_checkpoint_open(&checkpoint, path, NULL), status);
}

/* ---- Which files ----------------------------------------------------------------------------------------------- */

static void test_a_single_file(void **state) {
  SHARD(*state, "x.safetensors", "a", "b");
  write_text(path_in(*state, "config.json"), "not looked at");
  const char *path = path_in(*state, "x.safetensors");
  mlxq_checkpoint *checkpoint = open_checkpoint(path);
  mlxq_quant_config *config = (mlxq_quant_config *)(uintptr_t)16;
  assert_false(checkpoint->is_folder);
  assert_int_equal(checkpoint->file_count, 1);
  assert_string_equal(checkpoint->files[0].path, path);
  assert_string_equal(checkpoint->files[0].name, "x.safetensors");
  assert_names(checkpoint->tensors, (const char *const[]){"a", "b"}, 2);
  assert_null(checkpoint->config);
  assert_int_equal(mlxq_checkpoint_quantization(&config, checkpoint, NULL), MLXQ_OK);
  assert_null(config);
  bool guessed = false;
  const char *method = "";
  assert_int_equal(mlxq_checkpoint_foreign(&method, &guessed, checkpoint, NULL), MLXQ_OK);
  assert_null(method);
  assert_int_equal(mlxq_checkpoint_check(checkpoint, NULL), MLXQ_OK);
  mlxq_checkpoint_free(checkpoint);
  mlxq_checkpoint_free(NULL);
}

static void test_files_named_model_are_preferred(void **state) {
  const char *folder = path_in(*state, "f");
  make_folder(folder);
  write_text(path_in(folder, "config.json"), "{}");
  SHARD(folder, "adapter.safetensors", "adapter");
  SHARD(folder, "zz.safetensors", "zz");
  SHARD(folder, ".model.safetensors", "hidden");
  write_text(path_in(folder, "model.safetensors.bak"), "no checkpoint");
  /* Without any of them, all others, in the order of their names. */
  mlxq_checkpoint *checkpoint = open_checkpoint(folder);
  assert_int_equal(checkpoint->file_count, 2);
  assert_string_equal(checkpoint->files[0].name, "adapter.safetensors");
  assert_string_equal(checkpoint->files[1].name, "zz.safetensors");
  mlxq_checkpoint_free(checkpoint);
  SHARD(folder, "model-00002-of-00002.safetensors", "c", "d");
  SHARD(folder, "model-00001-of-00002.safetensors", "b", "e");
  SHARD(folder, "model.safetensors", "a");
  SHARD(folder, "models.safetensors", "s");
  checkpoint = open_checkpoint(folder);
  static const char *const FILES[] = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                                      "model.safetensors", "models.safetensors"};
  static const char *const TENSORS[] = {"b", "e", "c", "d", "a", "s"};
  static const uint32_t PLACES[] = {0, 0, 1, 1, 2, 3};
  assert_int_equal(checkpoint->file_count, COUNT(FILES));
  for (size_t i = 0; i < COUNT(FILES); i++) {
    assert_string_equal(checkpoint->files[i].name, FILES[i]);
    assert_string_equal(checkpoint->files[i].path, path_in(folder, "%s", FILES[i]));
  }
  assert_names(checkpoint->tensors, TENSORS, COUNT(TENSORS));
  for (size_t i = 0; i < COUNT(PLACES); i++) assert_int_equal(checkpoint->tensors->entries[i].file, PLACES[i]);
  mlxq_checkpoint_free(checkpoint);
}

/* As the cache of Hugging Face has them. */
static void test_links_are_followed(void **state) {
  const char *folder = path_in(*state, "snapshot");
  make_folder(path_in(*state, "blobs"));
  make_folder(folder);
  SHARD(*state, "blobs/0a1b2c", "a");
  write_text(path_in(*state, "blobs/ffff"), "{\"model_type\": \"llama\"}");
  assert_int_equal(symlink("../blobs/0a1b2c", path_in(folder, "model.safetensors")), 0);
  assert_int_equal(symlink("../blobs/ffff", path_in(folder, "config.json")), 0);
  assert_int_equal(symlink("snapshot", path_in(*state, "link")), 0);
  mlxq_checkpoint *checkpoint = open_checkpoint(path_in(*state, "link"));
  assert_true(checkpoint->is_folder);
  assert_string_equal(checkpoint->files[0].name, "model.safetensors");
  assert_names(checkpoint->tensors, (const char *const[]){"a"}, 1);
  mlxq_checkpoint_free(checkpoint);
}

static void test_folders_that_are_no_checkpoints(void **state) {
  const char *empty = path_in(*state, "empty"), *missing = path_in(*state, "missing");
  make_folder(empty);
  assert_not_opened(missing, MLXQ_IO, missing, "");
  assert_not_opened(empty, MLXQ_IO, empty, "");
  write_text(path_in(empty, "config.json"), "{}");
  write_text(path_in(empty, "pytorch_model.bin"), "x");
  assert_not_opened(empty, MLXQ_IO, empty, "");
  make_folder(path_in(empty, "model.safetensors"));
  assert_not_opened(empty, MLXQ_IO, path_in(empty, "model.safetensors"), "");
  assert_not_opened("", MLXQ_IO, "", "");
  assert_not_opened("/dev/null", MLXQ_IO, "/dev/null", "");
}

static void test_broken_shards(void **state) {
  const char *folder = make_checkpoint(*state, "{}");
  write_text(path_in(folder, "model2.safetensors"), "short");
  assert_not_opened(folder, MLXQ_CORRUPT, path_in(folder, "model2.safetensors"), "");
  SHARD(folder, "model2.safetensors", "c", "b");
  assert_not_opened(folder, MLXQ_CORRUPT, path_in(folder, "model2.safetensors"), "b");
  write_text(path_in(*state, "single.safetensors"), "version https://git-lfs.github.com/spec/v1\n");
  assert_not_opened(path_in(*state, "single.safetensors"), MLXQ_CORRUPT, path_in(*state, "single.safetensors"), "");
}

static void test_changes_after_opening(void **state) {
  const char *folder = make_checkpoint(*state, "{}"), *shard = path_in(folder, "model2.safetensors");
  mlxq_error error;
  SHARD(folder, "model2.safetensors", "c");
  mlxq_checkpoint *checkpoint = open_checkpoint(folder);
  assert_int_equal(mlxq_checkpoint_check(checkpoint, NULL), MLXQ_OK);
  nanosleep(&(struct timespec){0, 30000000}, NULL); /* the tick by which file systems stamp times */
  assert_int_equal(utimensat(0, shard, NULL, 0), 0);
  assert_int_equal(mlxq_checkpoint_check(checkpoint, &error), MLXQ_CHANGED);
  assert_string_equal(error.file, shard);
  assert_int_equal(unlink(shard), 0);
  assert_int_equal(mlxq_checkpoint_check(checkpoint, &error), MLXQ_CHANGED);
  assert_string_equal(error.file, shard);
  mlxq_checkpoint_free(checkpoint);
}

/* A file of tensors that comes later, before or after the others by its name, or of names that go before theirs. */
static void test_files_that_come_later(void **state) {
  static const char *const LATER[] = {"model.safetensors", "model1.safetensors", "model3.safetensors"};
  for (size_t i = 0; i < COUNT(LATER); i++) {
    const char *folder = make_checkpoint(*state, "{}"), *later = path_in(folder, "%s", LATER[i]);
    mlxq_error error;
    if (i > 0) SHARD(folder, "model2.safetensors", "c");
    mlxq_checkpoint *checkpoint = open_checkpoint(folder);
    write_text(path_in(folder, "notes.txt"), "other files may come");
    write_text(path_in(folder, ".model3.safetensors"), "and hidden ones");
    assert_int_equal(mlxq_checkpoint_check(checkpoint, NULL), MLXQ_OK);
    if (exists(later)) {
      mlxq_checkpoint_free(checkpoint);
      assert_int_equal(rename(later, path_in(folder, "other.safetensors")), 0);
      checkpoint = open_checkpoint(folder);
    }
    write_text(later, "");
    assert_int_equal(mlxq_checkpoint_check(checkpoint, &error), MLXQ_CHANGED);
    assert_string_equal(error.file, later);
    mlxq_checkpoint_free(checkpoint);
  }
}

/* ---- config.json ----------------------------------------------------------------------------------------------- */

static void test_configs_that_are_refused(void **state) {
  static const struct {
    const char *text;
    const char *place; /* in the message */
  } CASES[] = {
      {"", "line 1"},
      {"null", NULL},
      {"[]", NULL},
      {"\"{}\"", NULL},
      {"1", NULL},
      {"true", NULL},
      {"{", "line 1"},
      {"{\"a\": 1,}", "line 1"},
      {"{\n\"a\": 1\n\"b\": 2}", "line 3"},
      {"{} {}", "line 1"},
      {"{'a': 1}", "line 1"},
      {"\xEF\xBB\xBF{}", "line 1"},
      {"{\"a\": \xFF}", NULL},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    const char *folder = make_checkpoint(*state, CASES[i].text);
    mlxq_checkpoint *checkpoint = NULL;
    mlxq_error error;
    assert_not_opened(folder, MLXQ_PARSE, path_in(folder, "config.json"), "");
    mlxq_checkpoint_open(&checkpoint, folder, &error);
    if (CASES[i].place && !strstr(error.message, CASES[i].place)) fail_msg("%s: %s", CASES[i].text, error.message);
  }
}

static void test_a_config_must_be_there(void **state) {
  const char *folder = make_checkpoint(*state, NULL), *path = path_in(folder, "config.json");
  mlxq_checkpoint *checkpoint = NULL;
  mlxq_error error;
  assert_not_opened(folder, MLXQ_IO, path, "");
  mlxq_checkpoint_open(&checkpoint, folder, &error);
  assert_int_equal(error.os_errno, ENOENT);
  make_folder(path);
  assert_not_opened(folder, MLXQ_IO, path, "");
}

static void test_a_config_of_any_size_is_not_read(void **state) {
  const char *folder = make_checkpoint(*state, "{}"), *path = path_in(folder, "config.json");
  assert_int_equal(truncate(path, (64 << 20) + 1), 0);
  assert_not_opened(folder, MLXQ_OUT_OF_RANGE, path, "");
}

static void test_configs_that_python_reads(void **state) {
  static const char *const TEXTS[] = {
      "{}",
      " \n{ }\n",
      "{\"a\": NaN, \"b\": [Infinity, -Infinity]}",
      "{\"a\": 123456789012345678901234567890}",
      "{\"a\": 1, \"a\": 2}",
      "{\"quantization\": null, \"x\": {\"y\": [1, 2, {\"z\": null}]}}",
  };
  for (size_t i = 0; i < COUNT(TEXTS); i++) mlxq_checkpoint_free(open_checkpoint(make_checkpoint(*state, TEXTS[i])));
}

/* ---- generation_config.json ------------------------------------------------------------------------------------ */

/* config["eos_token_id"] as JSON, with this generation_config.json beside a config.json that says 1. */
static void assert_eos(const void *scratch, const char *generation, const char *expected) {
  const char *folder = make_checkpoint(scratch, "{\"eos_token_id\": 1, \"other\": 5}");
  struct json_object *eos = NULL;
  mlxq_text text = {0};
  write_text(path_in(folder, "generation_config.json"), generation);
  mlxq_checkpoint *checkpoint = open_checkpoint(folder);
  assert_true(json_object_object_get_ex(checkpoint->config, "eos_token_id", &eos));
  mlxq_json_write(&text, eos, 0);
  if (strcmp(text.data, expected) != 0) fail_msg("%s: %s, not %s", generation, text.data, expected);
  assert_true(json_object_object_get_ex(checkpoint->config, "other", NULL));
  mlxq_text_free(&text);
  mlxq_checkpoint_free(checkpoint);
}

static void test_eos_of_the_generation_config(void **state) {
  /* What Python takes for true goes over the config's own. */
  static const char *const TRUE_VALUES[] = {
      "2",
      "[2, 3]",
      "[0]",
      "[null]",
      "-1",
      "true",
      "\"</s>\"",
      "\"0\"",
      "0.5",
      "{\"a\": 0}",
      "9223372036854775808",
      "123456789012345678901234567890",
  };
  for (size_t i = 0; i < COUNT(TRUE_VALUES); i++) {
    char generation[128];
    snprintf(generation, sizeof generation, "{\"eos_token_id\": %s, \"x\": 3}", TRUE_VALUES[i]);
    assert_eos(*state, generation, TRUE_VALUES[i]);
  }
  assert_eos(*state, "{\"eos_token_id\": NaN}", "{\"__float__\": \"NaN\"}");
  assert_eos(*state, "{\"eos_token_id\": 3, \"eos_token_id\": 2}", "2");
  static const char *const FALSE_VALUES[] = {"0",    "-0",    "0.0",  "-0.0", "0e5", "1e-400",
                                             "null", "false", "\"\"", "[]",   "{}"};
  for (size_t i = 0; i < COUNT(FALSE_VALUES); i++) {
    char generation[128];
    snprintf(generation, sizeof generation, "{\"eos_token_id\": %s}", FALSE_VALUES[i]);
    assert_eos(*state, generation, "1");
  }
  /* Nothing there, and what is no JSON is passed over. */
  static const char *const PASSED[] = {"{}",       "{\"x\": {\"eos_token_id\": 2}}", "",     "{\"eos_token_id\": 2",
                                       "nonsense", "[{\"eos_token_id\": 2}]",        "null", "2"};
  for (size_t i = 0; i < COUNT(PASSED); i++) assert_eos(*state, PASSED[i], "1");
}

static void test_eos_where_the_config_has_none(void **state) {
  struct json_object *eos = NULL;
  const char *folder = make_checkpoint(*state, "{}");
  write_text(path_in(folder, "generation_config.json"), "{\"eos_token_id\": [7, 8]}");
  mlxq_checkpoint *checkpoint = open_checkpoint(folder);
  assert_true(json_object_object_get_ex(checkpoint->config, "eos_token_id", &eos));
  assert_int_equal(json_object_array_length(eos), 2);
  mlxq_checkpoint_free(checkpoint);
}

/* ---- The index ------------------------------------------------------------------------------------------------- */

/* A folder of two shards, "a" in the first, "b" and "c" in the second, and this index. */
static const char *make_indexed(const void *scratch, const char *index) {
  static unsigned number;
  const char *folder = path_in(scratch, "indexed%u", number++);
  make_folder(folder);
  write_text(path_in(folder, "config.json"), "{}");
  SHARD(folder, "model-1.safetensors", "a");
  SHARD(folder, "model-2.safetensors", "b", "c");
  SHARD(folder, "other.safetensors", "d");
  write_text(path_in(folder, MLXQ_INDEX_NAME), index);
  return folder;
}

#define A "\"a\": \"model-1.safetensors\""
#define B "\"b\": \"model-2.safetensors\""
#define C "\"c\": \"model-2.safetensors\""

static void test_an_index_that_agrees(void **state) {
  static const char *const INDEXES[] = {
      "{\"weight_map\": {" A ", " B ", " C "}}",
      "{\"metadata\": {\"total_size\": \"wrong\"}, \"weight_map\": {" C ", " A ", " B "}, \"x\": null}",
  };
  for (size_t i = 0; i < COUNT(INDEXES); i++) {
    mlxq_checkpoint *checkpoint = open_checkpoint(make_indexed(*state, INDEXES[i]));
    assert_int_equal(mlxq_weights_count(checkpoint->tensors), 3);
    mlxq_checkpoint_free(checkpoint);
  }
}

static void test_an_index_that_does_not(void **state) {
  static const struct {
    const char *index;
    mlxq_status status;
    const char *key;
    bool leads_out;
  } CASES[] = {
      {"", MLXQ_PARSE, "", false},
      {"{", MLXQ_PARSE, "", false},
      {"[]", MLXQ_PARSE, "weight_map", false},
      {"null", MLXQ_PARSE, "weight_map", false},
      {"{}", MLXQ_PARSE, "weight_map", false},
      {"{\"weight_map\": null}", MLXQ_PARSE, "weight_map", false},
      {"{\"weight_map\": [\"a\"]}", MLXQ_PARSE, "weight_map", false},
      {"{\"weight_map\": {\"a\": 1, " B ", " C "}}", MLXQ_PARSE, "a", false},
      {"{\"weight_map\": {\"a\": null, " B ", " C "}}", MLXQ_PARSE, "a", false},
      /* names that lead out of the folder, whatever else they are */
      {"{\"weight_map\": {" A ", " B ", \"c\": \"../model-2.safetensors\"}}", MLXQ_CORRUPT, "c", true},
      {"{\"weight_map\": {" A ", " B ", \"c\": \"/model-2.safetensors\"}}", MLXQ_CORRUPT, "c", true},
      {"{\"weight_map\": {" A ", " B ", \"c\": \"./model-2.safetensors\"}}", MLXQ_CORRUPT, "c", true},
      {"{\"weight_map\": {" A ", " B ", \"c\": \"sub/model-2.safetensors\"}}", MLXQ_CORRUPT, "c", true},
      {"{\"weight_map\": {" A ", " B ", \"c\": \"..\"}}", MLXQ_CORRUPT, "c", true},
      {"{\"weight_map\": {" A ", " B ", \"c\": \"a..b\"}}", MLXQ_CORRUPT, "c", true},
      {"{\"weight_map\": {" A ", " B ", " C ", \"x\": \"/etc/passwd\"}}", MLXQ_CORRUPT, "x", true},
      /* a tensor in another shard, in a file that is not opened, in one that is not there */
      {"{\"weight_map\": {\"a\": \"model-2.safetensors\", " B ", " C "}}", MLXQ_CORRUPT, "a", false},
      {"{\"weight_map\": {" A ", " B ", \"c\": \"other.safetensors\"}}", MLXQ_CORRUPT, "c", false},
      {"{\"weight_map\": {" A ", " B ", \"c\": \"model-3.safetensors\"}}", MLXQ_CORRUPT, "c", false},
      {"{\"weight_map\": {" A ", " B ", \"c\": \"\"}}", MLXQ_CORRUPT, "c", false},
      /* a tensor that no shard has, one that the index lacks, both at once */
      {"{\"weight_map\": {" A ", " B ", " C ", \"x\": \"model-1.safetensors\"}}", MLXQ_CORRUPT, "x", false},
      {"{\"weight_map\": {" A ", " B ", " C ", \"d\": \"other.safetensors\"}}", MLXQ_CORRUPT, "d", false},
      {"{\"weight_map\": {" A ", " B ", " C ", \"x\": \"model-9.safetensors\"}}", MLXQ_CORRUPT, "x", false},
      {"{\"weight_map\": {" A ", " C "}}", MLXQ_CORRUPT, "b", false},
      {"{\"weight_map\": {}}", MLXQ_CORRUPT, "a", false},
      {"{\"weight_map\": {" A ", " C ", \"x\": \"model-2.safetensors\"}}", MLXQ_CORRUPT, "x", false},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    const char *folder = make_indexed(*state, CASES[i].index);
    assert_not_opened(folder, CASES[i].status, path_in(folder, MLXQ_INDEX_NAME), CASES[i].key);
    if (!CASES[i].leads_out) continue;
    mlxq_checkpoint *checkpoint = NULL;
    mlxq_error error;
    mlxq_checkpoint_open(&checkpoint, folder, &error);
    if (!strstr(error.message, "out of the folder")) fail_msg("%s: %s", CASES[i].index, error.message);
  }
}

/* The name goes on behind the NUL, and is another one. */
static void test_an_index_with_a_nul_character(void **state) {
  const char *folder = make_indexed(*state, "{\"weight_map\": {" A ", " B ", \"c\": \"model-2.safetensors\\u0000x\"}}");
  assert_not_opened(folder, MLXQ_CORRUPT, path_in(folder, MLXQ_INDEX_NAME), "c");
}

static const char *file_name(const void *user, size_t index) {
  return ((const char *const *)user)[index];
}

static void test_index_as_mlx_lm_writes_it(void **state) {
  (void)state;
  static const char *const FILES[] = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
  mlxq_weights *weights = new_weights();
  mlxq_text text = {0};
  assert_int_equal(mlxq_index_write(&text, weights, file_name, FILES, 0, 0, NULL), MLXQ_OK);
  assert_string_equal(text.data,
                      "{\n    \"metadata\": {\n        \"total_size\": 0,\n        \"total_parameters\": 0\n    },\n"
                      "    \"weight_map\": {}\n}");
  mlxq_text_free(&text);
  static const char *const NAMES[] = {"b.10", "b.9", "B", "k\xC3\xBC", "a\"q"};
  for (size_t i = 0; i < COUNT(NAMES); i++) {
    assert_int_equal(mlxq_weights_describe(weights, NAMES[i], strlen(NAMES[i]), MLXQ_U8, 0, NULL, i % 2, 0, NULL, NULL),
                     MLXQ_OK);
  }
  assert_int_equal(mlxq_index_write(&text, weights, file_name, FILES, UINT64_C(5) << 32, 77, NULL), MLXQ_OK);
  assert_string_equal(text.data,
                      "{\n    \"metadata\": {\n        \"total_size\": 21474836480,\n"
                      "        \"total_parameters\": 77\n    },\n"
                      "    \"weight_map\": {\n"
                      "        \"B\": \"model-00001-of-00002.safetensors\",\n"
                      "        \"a\\\"q\": \"model-00001-of-00002.safetensors\",\n"
                      "        \"b.10\": \"model-00001-of-00002.safetensors\",\n"
                      "        \"b.9\": \"model-00002-of-00002.safetensors\",\n"
                      "        \"k\\u00fc\": \"model-00002-of-00002.safetensors\"\n"
                      "    }\n}");
  mlxq_text_free(&text);
  mlxq_weights_free(weights);
}

/* ---- Foreign formats ------------------------------------------------------------------------------------------- */

static void assert_foreign(const char *folder, const char *expected, bool by_tensors) {
  bool guessed = false;
  mlxq_checkpoint *checkpoint = open_checkpoint(folder);
  const char *found = NULL, *wanted = expected ? expected : "none";
  assert_int_equal(mlxq_checkpoint_foreign(&found, &guessed, checkpoint, NULL), MLXQ_OK);
  if (found) assert_int_equal(guessed, by_tensors);
  if (!found) found = "none";
  if (strcmp(found, wanted) != 0) fail_msg("%s: %s, not %s", folder, found, wanted);
  mlxq_checkpoint_free(checkpoint);
}

static void test_foreign_by_config(void **state) {
  static const struct {
    const char *config, *expected;
  } CASES[] = {
      {"{}", NULL},
      {"{\"quantization_config\": null}", NULL},
      {"{\"quantization_config\": {\"quant_method\": \"awq\", \"bits\": 4}}", "awq"},
      {"{\"quantization_config\": {\"quant_method\": \"gptq\"}}", "gptq"},
      {"{\"quantization_config\": {\"quant_method\": \"fp8\"}, \"quantization\": null}", "fp8"},
      {"{\"quantization_config\": {\"bits\": 4}}", "unknown"},
      {"{\"quantization_config\": {\"quant_method\": 5}}", "unknown"},
      {"{\"quantization_config\": {}}", NULL}, /* Python takes it for false */
      {"{\"quantization_config\": {\"group_size\": 64, \"bits\": 4, \"quant_method\": \"x\"}}", "x"},
      {"{\"text_config\": {\"quantization_config\": {\"quant_method\": \"mxfp4\"}}}", "mxfp4"},
      {"{\"quantization_config\": null, \"text_config\": {\"quantization_config\": {\"quant_method\": \"x\"}}}", "x"},
      {"{\"text_config\": {\"quantization_config\": null}}", NULL},
      {"{\"text_config\": null}", NULL},
      {"{\"text_config\": [1]}", NULL},
      /* MLX's own: the block tells it, whatever stands beside */
      {"{\"quantization\": {\"group_size\": 64, \"bits\": 4}}", NULL},
      {"{\"quantization\": {\"group_size\": 64, \"bits\": 4}, \"quantization_config\": {\"quant_method\": \"x\"}}",
       NULL},
      {"{\"quantization\": {\"group_size\": 64, \"bits\": 4}, \"quantization_config\": {\"bits\": 4}}", NULL},
  };
  for (size_t i = 0; i < COUNT(CASES); i++)
    assert_foreign(make_checkpoint(*state, CASES[i].config), CASES[i].expected, false);
}

static void test_foreign_by_files(void **state) {
  static const char *const FILES[][2] = {
      {"quant_config.json", "awq"}, {"quantize_config.json", "gptq"}, {"hf_quant_config.json", "modelopt"}};
  for (size_t i = 0; i < COUNT(FILES); i++) {
    const char *folder = make_checkpoint(*state, "{}");
    write_text(path_in(folder, "%s", FILES[i][0]), "{}");
    assert_foreign(folder, FILES[i][1], false);
    /* The config says it better, and MLX's own block best. */
    write_text(path_in(folder, "config.json"), "{\"quantization_config\": {\"quant_method\": \"eetq\"}}");
    assert_foreign(folder, "eetq", false);
    write_text(path_in(folder, "config.json"), "{\"quantization\": {\"group_size\": 64, \"bits\": 4}}");
    assert_foreign(folder, NULL, false);
  }
}

static void test_foreign_by_tensors(void **state) {
  static const struct {
    const char *first, *second;
    mlxq_dtype dtype;
    const char *expected;
  } CASES[] = {
      {"l.0.q.qweight", "l.0.q.scales", MLXQ_I32, "awq"},
      {"l.0.q.qweight", "l.0.q.g_idx", MLXQ_I32, "gptq"},
      {"l.0.q.weight_packed", "l.0.q.weight_scale", MLXQ_I32, "compressed-tensors"},
      {"l.0.q.weight", "l.0.q.weight_scale_inv", MLXQ_F32, "fp8"},
      {"l.0.q.weight", "l.0.q.SCB", MLXQ_I8, "bitsandbytes"},
      {"l.0.q.weight", "x", MLXQ_F8_E4M3, "fp8"},
      {"l.0.q.weight", "x", MLXQ_F8_E5M2, "fp8"},
      {"l.0.q.weight", "l.0.q.scales", MLXQ_BF16, NULL},
      {"l.0.qweight.weight", "qweight", MLXQ_BF16, NULL},
      {"l.0.weight", "g_idx", MLXQ_I32, NULL},
      {"l.0.weight", "scale", MLXQ_F8_E8M0, NULL},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    const char *folder = make_checkpoint(*state, "{}");
    mlxq_weights *weights = new_weights();
    add_random(weights, CASES[i].first, CASES[i].dtype, SHAPE(4));
    add_random(weights, CASES[i].second, CASES[i].dtype, SHAPE(4));
    write_safetensors(path_in(folder, "model.safetensors"), weights);
    mlxq_weights_free(weights);
    assert_foreign(folder, CASES[i].expected, true);
    assert_foreign(path_in(folder, "model.safetensors"), CASES[i].expected, true);
  }
}

/* ---- The quantization ------------------------------------------------------------------------------------------ */

static void test_the_quantization_block(void **state) {
  mlxq_quant_config *config = NULL;
  mlxq_error error;
  mlxq_checkpoint *checkpoint =
      open_checkpoint(make_checkpoint(*state, "{\"quantization\": {\"group_size\": 32, \"bits\": 8, \"a\": false}}"));
  assert_int_equal(mlxq_checkpoint_quantization(&config, checkpoint, NULL), MLXQ_OK);
  assert_int_equal(mlxq_quant_config_default(config)->bits, 8);
  assert_null(mlxq_quant_config_lookup(config, "a"));
  mlxq_quant_config_free(config);
  mlxq_checkpoint_free(checkpoint);
  static const char *const NONE[] = {"{}", "{\"quantization\": null}", "{\"quantization_config\": {\"bits\": 4}}"};
  for (size_t i = 0; i < COUNT(NONE); i++) {
    config = (mlxq_quant_config *)(uintptr_t)16;
    checkpoint = open_checkpoint(make_checkpoint(*state, NONE[i]));
    assert_int_equal(mlxq_checkpoint_quantization(&config, checkpoint, NULL), MLXQ_OK);
    assert_null(config);
    mlxq_checkpoint_free(checkpoint);
  }
  static const char *const WRONG[] = {"{\"quantization\": 4}", "{\"quantization\": {}}",
                                      "{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"l\": 3}}"};
  for (size_t i = 0; i < COUNT(WRONG); i++) {
    const char *folder = make_checkpoint(*state, WRONG[i]);
    config = (mlxq_quant_config *)(uintptr_t)16;
    checkpoint = open_checkpoint(folder);
    assert_int_equal(mlxq_checkpoint_quantization(&config, checkpoint, &error), MLXQ_PARSE);
    assert_null(config);
    assert_string_equal(error.file, path_in(folder, "config.json"));
    mlxq_checkpoint_free(checkpoint);
  }
}

/* ---- Parameters ------------------------------------------------------------------------------------------------ */

static void test_parameters_as_mlx_lm_counts_them(void **state) {
  (void)state;
  mlxq_weights *weights = new_weights();
  mlxq_quant_config *config = parse_config(
      "{\"group_size\": 64, \"bits\": 4, \"three\": {\"group_size\": 32, \"bits\": 3},"
      " \"eight\": {\"group_size\": 32, \"bits\": 8, \"mode\": \"mxfp8\"}, \"skipped\": false}");
  assert_int_equal(mlxq_count_parameters(weights, config), 0);
  add_triple(weights, "four", &AFFINE_4_64, SHAPE(5, 128));
  add_random(weights, "four.bias", MLXQ_BF16, SHAPE(5));
  assert_int_equal(mlxq_count_parameters(weights, config), 5 * 128 + 5);
  add_triple(weights, "three", &(mlxq_scheme){MLXQ_AFFINE, 3, 32}, SHAPE(2, 7, 96));
  assert_int_equal(mlxq_count_parameters(weights, config), 5 * 128 + 5 + 2 * 7 * 96);
  add_triple(weights, "eight", &(mlxq_scheme){MLXQ_MXFP8, 8, 32}, SHAPE(3, 64));
  assert_int_equal(mlxq_count_parameters(weights, config), 5 * 128 + 5 + 2 * 7 * 96 + 3 * 64);
  /* Everything else has its elements: norms, empty tensors, scales without a packed weight. */
  add_random(weights, "norm.weight", MLXQ_BF16, SHAPE(64));
  add_random(weights, "scalar", MLXQ_F32, SCALAR);
  add_random(weights, "empty", MLXQ_F32, SHAPE(0, 9));
  add_random(weights, "orphan.scales", MLXQ_F32, SHAPE(11));
  add_random(weights, "dense.weight", MLXQ_F32, SHAPE(2, 64));
  add_random(weights, "dense.biases", MLXQ_F32, SHAPE(7));
  uint64_t dense = 64 + 1 + 11 + 128 + 7;
  assert_int_equal(mlxq_count_parameters(weights, config), 5 * 128 + 5 + 2 * 7 * 96 + 3 * 64 + dense);
  /* Without a configuration nothing is quantized. */
  uint64_t four = 5 * 16 + 5 * 2 + 5 * 2 + 5, three = 2 * 7 * 9 + 2 * 7 * 3 * 2, eight = 3 * 16 + 3 * 2;
  assert_int_equal(mlxq_count_parameters(weights, NULL), four + three + eight + dense);
  mlxq_weights_free(weights);
  mlxq_quant_config_free(config);
}

/* ---- Other files ----------------------------------------------------------------------------------------------- */

static void test_side_files(void **state) {
  (void)state;
  static const char *const KEPT[] = {
      "tokenizer.json",
      "tokenizer_config.json",
      "tokenizer.model",
      "special_tokens_map.json",
      "added_tokens.json",
      "vocab.json",
      "vocab.txt",
      "merges.txt",
      "chat_template.jinja",
      "chat_template.json",
      "qwen.tiktoken",
      "spiece.model",
      "modeling_x.py",
      "tokenization_x.py",
      "generation_config.json",
      "template.jinja",
  };
  static const char *const LEFT[] = {
      "config.json",
      "model.safetensors",
      "model.safetensors.index.json",
      "model-00001-of-00002.safetensors",
      "hf_quant_config.json",
      "quant_config.json",
      "quantize_config.json",
      "README.md",
      "LICENSE",
      ".gitattributes",
      "pytorch_model.bin",
      "preprocessor_config.json",
      ".hidden.py",
      ".tokenizer.json",
      "tokenizer.safetensors",
      "tokenizer.safetensors.index.json",
      "vocab.safetensors",
      "x.py.bak",
      "model",
      "",
      "adapter_config.json",
  };
  for (size_t i = 0; i < COUNT(KEPT); i++) {
    if (!mlxq_is_side_file(KEPT[i])) fail_msg("%s is left behind", KEPT[i]);
  }
  for (size_t i = 0; i < COUNT(LEFT); i++) {
    if (mlxq_is_side_file(LEFT[i])) fail_msg("%s is taken along", LEFT[i]);
  }
}

/* ---- config.json of a result ----------------------------------------------------------------------------------- */

static void assert_config(const void *scratch, const char *source, const mlxq_quant_config *added, bool keep_vision,
                          const char *expected) {
  mlxq_text text = {0};
  mlxq_checkpoint *checkpoint = open_checkpoint(make_checkpoint(scratch, source));
  assert_int_equal(mlxq_config_write(&text, checkpoint, added, keep_vision, NULL), MLXQ_OK);
  assert_string_equal(text.data, expected);
  mlxq_text_free(&text);
  mlxq_checkpoint_free(checkpoint);
}

static void test_config_of_a_quantized_result(void **state) {
  mlxq_quant_config *added = parse_config(
      "{\"group_size\": 64, \"bits\": 4, \"mode\": \"affine\", \"z\": false, \"a\": {\"group_size\": 32, \"bits\": "
      "6}}");
  static const char BLOCK[] =
      "{\n        \"group_size\": 64,\n        \"bits\": 4,\n        \"mode\": \"affine\",\n"
      "        \"z\": false,\n        \"a\": {\n            \"group_size\": 32,\n            \"bits\": 6\n        }\n  "
      "  }";
  char expected[2048];
  snprintf(
      expected, sizeof expected,
      "{\n    \"b\": [\n        3,\n        1e-05,\n        18446744073709551616\n    ],\n"
      "    \"model_type\": \"llama\",\n    \"quantization\": %s,\n    \"quantization_config\": %s,\n"
      "    \"z\": {\n        \"y\": 1,\n        \"x\": {\n            \"__float__\": \"Infinity\"\n        }\n    }\n}",
      BLOCK, BLOCK);
  assert_config(*state,
                "{\"z\": {\"y\": 1, \"x\": Infinity}, \"_name_or_path\": \"secret\", \"model_type\": \"llama\","
                " \"quantization_config\": null, \"vision_config\": {}, \"b\": [3, 1e-05, 18446744073709551616]}",
                added, false, expected);
  mlxq_quant_config_free(added);
}

/* The source's block keeps what it says, unknown keys included, and takes the new layers. */
static void test_config_of_a_source_that_is_quantized(void **state) {
  mlxq_quant_config *added = parse_config(
      "{\"group_size\": 32, \"bits\": 8, \"mode\": \"mxfp8\", \"new\": {\"group_size\": 64, \"bits\": 4}}");
  static const char BLOCK[] =
      "{\n        \"group_size\": 64,\n        \"bits\": 4,\n        \"quant_method\": \"x\",\n"
      "        \"old\": false,\n        \"new\": {\n            \"group_size\": 64,\n            \"bits\": 4\n        "
      "}\n    }";
  char expected[2048];
  snprintf(expected, sizeof expected, "{\n    \"quantization\": %s,\n    \"quantization_config\": %s\n}", BLOCK, BLOCK);
  assert_config(*state,
                "{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"quant_method\": \"x\", \"old\": false},"
                " \"quantization_config\": {\"stale\": 1}}",
                added, false, expected);
  mlxq_quant_config_free(added);
}

/* mlx-lm's recipes write null for the mode's own group size. */
static void test_null_group_sizes_become_numbers(void **state) {
  mlxq_quant_config *added = parse_config("{\"group_size\": 64, \"bits\": 4}");
  static const char BLOCK[] =
      "{\n        \"group_size\": 64,\n        \"bits\": 4,\n"
      "        \"a\": {\n            \"group_size\": 64,\n            \"bits\": 6\n        },\n"
      "        \"b\": {\n            \"bits\": 4,\n            \"mode\": \"nvfp4\",\n            \"group_size\": 16\n"
      "        },\n        \"c\": {\n            \"group_size\": 32,\n            \"bits\": 6\n        }\n    }";
  char expected[2048];
  snprintf(expected, sizeof expected, "{\n    \"quantization\": %s,\n    \"quantization_config\": %s\n}", BLOCK, BLOCK);
  assert_config(*state,
                "{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"a\": {\"group_size\": null, \"bits\": 6},"
                " \"b\": {\"bits\": 4, \"mode\": \"nvfp4\", \"group_size\": null},"
                " \"c\": {\"group_size\": 32, \"bits\": 6}}}",
                added, false, expected);
  mlxq_quant_config_free(added);
}

static void test_config_of_a_dense_result(void **state) {
  assert_config(*state,
                "{\"quantization\": {\"group_size\": 64, \"bits\": 4}, \"quantization_config\": {\"bits\": 4},"
                " \"vision_config\": 5, \"a\": 1}",
                NULL, true, "{\n    \"a\": 1,\n    \"vision_config\": 5\n}");
  assert_config(*state, "{}", NULL, false, "{}");
}

/* ---- Reports --------------------------------------------------------------------------------------------------- */

static void test_inspect(void **state) {
  const char *folder = make_checkpoint(*state, "{\"quantization\": {\"group_size\": 64, \"bits\": 4}}");
  mlxq_weights *weights = new_weights();
  mlxq_report *report = NULL;
  add_triple(weights, "q", &AFFINE_4_64, SHAPE(4, 64));
  add_random(weights, "norm.weight", MLXQ_F16, SHAPE(64));
  write_safetensors(path_in(folder, "model2.safetensors"), weights);
  mlxq_weights_free(weights);
  assert_int_equal(mlxq_inspect(&report, folder, NULL), MLXQ_OK);
  assert_int_equal(report->file_count, 2);
  assert_string_equal(report->files[0], "model.safetensors");
  assert_string_equal(report->files[1], "model2.safetensors");
  assert_int_equal(mlxq_weights_count(report->tensors), 6);
  assert_int_equal(report->tensor_files[0], 0);
  assert_int_equal(report->tensor_files[5], 1);
  assert_null(mlxq_weights_at(report->tensors, 0)->data);
  assert_int_equal(mlxq_quant_config_default(report->config)->bits, 4);
  assert_null(report->foreign);
  assert_int_equal(report->total_bytes, 6 + 4 * 32 + 8 + 8 + 128);
  assert_int_equal(report->parameters, 6 + 256 + 64);
  assert_true(report->bits_per_weight == 278 * 8 / 326.0);
  assert_int_equal(report->kind_count, 0);
  mlxq_report_free(report);
  mlxq_report_free(NULL);
}

static void test_inspect_of_other_checkpoints(void **state) {
  mlxq_report *report = NULL;
  mlxq_error error;
  const char *folder = make_checkpoint(*state, "{\"quantization_config\": {\"quant_method\": \"awq\"}}");
  assert_int_equal(mlxq_inspect(&report, folder, NULL), MLXQ_OK);
  assert_string_equal(report->foreign, "awq");
  assert_null(report->config);
  mlxq_report_free(report);
  mlxq_weights *nothing = new_weights();
  write_safetensors(path_in(*state, "empty.safetensors"), nothing);
  mlxq_weights_free(nothing);
  assert_int_equal(mlxq_inspect(&report, path_in(*state, "empty.safetensors"), NULL), MLXQ_OK);
  assert_int_equal(report->parameters, 0);
  assert_true(report->bits_per_weight == 0);
  mlxq_report_free(report);
  folder = make_checkpoint(*state, "{\"quantization\": []}");
  report = (mlxq_report *)(uintptr_t)16;
  assert_int_equal(mlxq_inspect(&report, folder, &error), MLXQ_PARSE);
  assert_null(report);
  assert_string_equal(error.file, path_in(folder, "config.json"));
  assert_int_equal(mlxq_inspect(&report, path_in(*state, "missing"), &error), MLXQ_IO);
}

/* ---- Conversions ----------------------------------------------------------------------------------------------- */

static const char *make_model(const void *scratch, const char *config) {
  const char *folder = make_checkpoint(scratch, config);
  mlxq_weights *weights = new_weights();
  add_random(weights, "model.layers.0.mlp.up_proj.weight", MLXQ_BF16, SHAPE(8, 128));
  add_random(weights, "model.layers.0.mlp.down_proj.weight", MLXQ_BF16, SHAPE(16, 64));
  add_random(weights, "model.norm.weight", MLXQ_BF16, SHAPE(64));
  write_safetensors(path_in(folder, "model.safetensors"), weights);
  write_text(path_in(folder, "tokenizer.json"), "{\"t\": 1}");
  write_text(path_in(folder, "notes.txt"), "stays");
  mlxq_weights_free(weights);
  return folder;
}

static void assert_not_quantized(const char *source, const char *destination, const mlxq_quantize_options *options,
                                 mlxq_status status, const char *key) {
  mlxq_report *report = (mlxq_report *)(uintptr_t)16;
  mlxq_error error;
  memset(&error, 0, sizeof error);
  mlxq_status result = mlxq_quantize_checkpoint(&report, source, destination, options, &error);
  if (result != status) {
    fail_msg("%s, not %s: %s", mlxq_status_name(result), mlxq_status_name(status), error.message);
  }
  assert_null(report);
  assert_int_equal(error.status, status);
  assert_string_equal(error.key, key);
  assert_true(strlen(error.message) > 0);
}

static void test_there_and_back(void **state) {
  const char *source = make_model(*state, "{\"model_type\": \"llama\", \"tie_word_embeddings\": false}");
  const char *quantized = path_in(*state, "quantized"), *dense = path_in(*state, "dense");
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  mlxq_dequantize_options back = MLXQ_DEQUANTIZE_OPTIONS_INIT;
  mlxq_report *report = NULL, *inspected = NULL;
  options.common.max_shard_bytes = 600;
  options.stats = true;
  assert_int_equal(mlxq_quantize_checkpoint(&report, source, quantized, &options, NULL), MLXQ_OK);
  assert_int_equal(report->layers_changed, 2);
  assert_int_equal(report->source_bytes, 2 * (8 * 128 + 16 * 64 + 64));
  assert_int_equal(report->parameters, 8 * 128 + 16 * 64 + 64);
  assert_int_equal(report->kind_count, 2);
  assert_string_equal(report->kinds[0].kind, "down_proj"); /* tensors of a file come by name */
  assert_int_equal(mlxq_inspect(&inspected, quantized, NULL), MLXQ_OK);
  assert_int_equal(inspected->total_bytes, report->total_bytes);
  assert_int_equal(inspected->parameters, report->parameters);
  assert_int_equal(inspected->file_count, report->file_count);
  assert_true(inspected->file_count > 1);
  for (size_t i = 0; i < mlxq_weights_count(report->tensors); i++) {
    const mlxq_tensor *tensor = mlxq_weights_at(report->tensors, i);
    const mlxq_tensor *found = mlxq_weights_find(inspected->tensors, tensor->name);
    assert_non_null(found);
    assert_shape(found, tensor->dtype, tensor->rank, tensor->shape);
  }
  mlxq_report_free(inspected);
  mlxq_report_free(report);
  assert_text(path_in(quantized, "tokenizer.json"), "{\"t\": 1}");
  assert_false(exists(path_in(quantized, "notes.txt")));
  assert_true(exists(path_in(quantized, MLXQ_INDEX_NAME)));
  assert_int_equal(mlxq_dequantize_checkpoint(NULL, quantized, dense, &back, NULL), MLXQ_OK);
  assert_int_equal(mlxq_inspect(&inspected, dense, NULL), MLXQ_OK);
  assert_null(inspected->config);
  assert_int_equal(mlxq_weights_count(inspected->tensors), 3);
  assert_shape(mlxq_weights_find(inspected->tensors, "model.layers.0.mlp.up_proj.weight"), MLXQ_BF16, SHAPE(8, 128));
  mlxq_report_free(inspected);
}

static void test_a_dry_run_writes_nothing(void **state) {
  const char *source = make_model(*state, "{\"model_type\": \"llama\"}");
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  mlxq_report *report = NULL;
  size_t before = entries_in(*state);
  options.common.dry_run = true;
  assert_int_equal(mlxq_quantize_checkpoint(&report, source, path_in(*state, "out"), &options, NULL), MLXQ_OK);
  assert_int_equal(report->layers_changed, 2);
  assert_int_equal(mlxq_weights_count(report->tensors), 7);
  mlxq_report_free(report);
  assert_int_equal(entries_in(*state), before);
  /* What would stop the real run stops this one. */
  assert_not_quantized(source, source, &options, MLXQ_USAGE, "");
  assert_int_equal(entries_in(*state), before);
}

static void test_options_that_are_refused(void **state) {
  const char *source = make_model(*state, "{\"model_type\": \"llama\"}"), *out = path_in(*state, "out");
  const char *file = path_in(source, "model.safetensors");
  mlxq_dtype integer = MLXQ_I32;
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  options.version = 0;
  assert_not_quantized(source, out, &options, MLXQ_USAGE, "version");
  options = (mlxq_quantize_options)MLXQ_QUANTIZE_OPTIONS_INIT;
  options.common.dtype = &integer;
  assert_not_quantized(source, out, &options, MLXQ_UNSUPPORTED_DTYPE, "dtype");
  options = (mlxq_quantize_options)MLXQ_QUANTIZE_OPTIONS_INIT;
  options.common.cpu = "z80";
  assert_not_quantized(source, out, &options, MLXQ_USAGE, "cpu");
  options = (mlxq_quantize_options)MLXQ_QUANTIZE_OPTIONS_INIT;
  options.scheme.bits = 7;
  assert_not_quantized(source, out, &options, MLXQ_OUT_OF_RANGE, "bits");
  mlxq_dequantize_options back = MLXQ_DEQUANTIZE_OPTIONS_INIT;
  mlxq_error error;
  back.version = 2;
  assert_int_equal(mlxq_dequantize_checkpoint(NULL, source, out, &back, &error), MLXQ_USAGE);
  assert_string_equal(error.key, "version");
  back = (mlxq_dequantize_options)MLXQ_DEQUANTIZE_OPTIONS_INIT;
  back.scheme = &AFFINE_4_64;
  assert_int_equal(mlxq_dequantize_checkpoint(NULL, source, out, &back, &error), MLXQ_USAGE);
  back.scheme = NULL;
  assert_int_equal(mlxq_dequantize_checkpoint(NULL, file, path_in(*state, "out.safetensors"), &back, &error),
                   MLXQ_USAGE);
  assert_false(exists(out));
}

static void test_foreign_sources_are_refused(void **state) {
  const char *source = make_model(*state, "{\"quantization_config\": {\"quant_method\": \"awq\"}}");
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  mlxq_dequantize_options back = MLXQ_DEQUANTIZE_OPTIONS_INIT;
  mlxq_error error;
  assert_not_quantized(source, path_in(*state, "out"), &options, MLXQ_UNSUPPORTED, "quant_method");
  assert_int_equal(mlxq_dequantize_checkpoint(NULL, source, path_in(*state, "out"), &back, &error), MLXQ_UNSUPPORTED);
  assert_non_null(strstr(error.message, "awq"));
}

static void test_an_existing_destination(void **state) {
  const char *source = make_model(*state, "{\"model_type\": \"llama\"}"), *out = path_in(*state, "out");
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  assert_int_equal(mlxq_quantize_checkpoint(NULL, source, out, &options, NULL), MLXQ_OK);
  assert_not_quantized(source, out, &options, MLXQ_EXISTS, "");
  options.common.force = true;
  options.scheme.bits = 8;
  assert_int_equal(mlxq_quantize_checkpoint(NULL, source, out, &options, NULL), MLXQ_OK);
  mlxq_report *report = NULL;
  assert_int_equal(mlxq_inspect(&report, out, NULL), MLXQ_OK);
  assert_int_equal(mlxq_quant_config_default(report->config)->bits, 8);
  mlxq_report_free(report);
  assert_false(exists(path_in(*state, ".out.mlxq-partial")));
}

/* The unfinished work of an interrupted run as the source: it must come out untouched. */
static void test_the_source_survives(void **state) {
  const char *model = make_model(*state, "{\"model_type\": \"llama\"}"), *source = path_in(*state, ".out.mlxq-partial");
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  assert_int_equal(rename(model, source), 0);
  mlxq_quantize_checkpoint(NULL, source, path_in(*state, "out"), &options, NULL);
  assert_true(exists(path_in(source, "model.safetensors")));
  assert_true(exists(path_in(source, "notes.txt")));
}

/* What is done at the second poll after `output` is there: the source's files are open by then, and are not looked at
 * again before the end. */
typedef struct interruption {
  const char *output, *to_change; /* NULL: nothing is changed */
  bool cancel;
  int polls;
} interruption;

static bool interrupt(void *user) {
  interruption *wanted = user;
  if (!exists(wanted->output) || wanted->polls++ < 1) return false;
  /* Long enough after the file was written that its time shows the change. */
  if (wanted->to_change && wanted->polls == 2) {
    nanosleep(&(struct timespec){0, 30000000}, NULL);
    if (utimensat(0, wanted->to_change, NULL, 0) != 0) abort();
  }
  return wanted->cancel;
}

/* Whatever stops a run: nothing at the destination, nothing beside it unless it is to be kept. */
static void test_runs_that_fail_leave_nothing(void **state) {
  const char *source = make_model(*state, "{\"model_type\": \"llama\"}"), *out = path_in(*state, "out");
  const char *partial = path_in(*state, ".out.mlxq-partial"), *output = path_in(partial, "model.safetensors");
  static const char *const READ[] = {"model.safetensors", "config.json", "tokenizer.json", "generation_config.json"};
  mlxq_error error;
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  interruption wanted = {.output = output, .cancel = true};
  write_text(path_in(source, "generation_config.json"), "{}");
  options.common.cancelled = interrupt;
  options.common.user = &wanted;
  assert_not_quantized(source, out, &options, MLXQ_CANCELLED, "");
  assert_false(exists(out) || exists(partial));
  options.common.threads = 1;
  for (size_t i = 0; i < COUNT(READ); i++) {
    const char *changed = path_in(source, "%s", READ[i]);
    wanted = (interruption){.output = output, .to_change = changed};
    assert_int_equal(mlxq_quantize_checkpoint(NULL, source, out, &options, &error), MLXQ_CHANGED);
    assert_string_equal(error.file, changed);
    assert_false(exists(out) || exists(partial));
  }
  options.common.keep_partial = true;
  wanted = (interruption){.output = output, .cancel = true};
  assert_not_quantized(source, out, &options, MLXQ_CANCELLED, "");
  assert_false(exists(out));
  assert_true(exists(output));
  /* A rerun replaces what was kept. */
  options.common.cancelled = NULL;
  assert_int_equal(mlxq_quantize_checkpoint(NULL, source, out, &options, NULL), MLXQ_OK);
  assert_false(exists(partial));
}

/* Says yes from the poll number `at` on. */
typedef struct late_cancel {
  int polls, at;
} late_cancel;

static bool cancel_late(void *user) {
  late_cancel *cancel = user;
  return cancel->polls++ >= cancel->at;
}

/* Opening and planning can be cancelled too: before each shard, and at each tensor. */
static void test_cancelling_at_every_poll(void **state) {
  const char *source = make_model(*state, "{\"model_type\": \"mixtral\"}"), *out = path_in(*state, "out");
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  mlxq_verify_options verify = MLXQ_VERIFY_OPTIONS_INIT;
  mlxq_verification *report = NULL;
  late_cancel cancel = {0};
  options.common.cancelled = verify.cancelled = cancel_late;
  options.common.user = verify.user = &cancel;
  options.common.threads = verify.threads = 1;
  options.common.dry_run = true;
  SHARD(source, "model2.safetensors", "c");
  int most = 0;
  for (;; most++) {
    cancel = (late_cancel){.at = most};
    if (mlxq_quantize_checkpoint(NULL, source, out, &options, NULL) == MLXQ_OK) break;
    assert_not_quantized(source, out, &options, MLXQ_CANCELLED, "");
  }
  assert_in_range(most, 2 + 4 + 4, 100); /* shards, tensors as they are arranged, tensors as they are planned */
  options.common.dry_run = false;
  for (most = 0;; most++) {
    cancel = (late_cancel){.at = most};
    if (mlxq_quantize_checkpoint(NULL, source, out, &options, NULL) == MLXQ_OK) break;
    assert_false(exists(out) || exists(path_in(*state, ".out.mlxq-partial")));
  }
  for (most = 0;; most++) {
    cancel = (late_cancel){.at = most};
    mlxq_status status = mlxq_verify(&report, source, &verify, NULL);
    if (status == MLXQ_OK) break;
    assert_int_equal(status, MLXQ_CANCELLED);
  }
  mlxq_verification_free(report);
  assert_in_range(most, 2 + 4, 100);
}

/* So can looking for what is missing: numbered shards, and what an index names. */
static void test_cancelling_the_search_for_what_is_missing(void **state) {
  enum { ABSENT = 5, NAMES = 5000 };
  const char *source = make_checkpoint(*state, "{}");
  mlxq_verify_options verify = MLXQ_VERIFY_OPTIONS_INIT;
  mlxq_verification *report = NULL;
  late_cancel cancel = {0};
  mlxq_text index = {0};
  verify.cancelled = cancel_late;
  verify.user = &cancel;
  verify.threads = 1;
  assert_int_equal(rename(path_in(source, "model.safetensors"), path_in(source, "model-00006-of-00006.safetensors")),
                   0);
  mlxq_text_puts(&index, "{\"weight_map\": {");
  for (int i = 0; i < NAMES; i++) mlxq_text_printf(&index, "%s\"x%d\": \"gone.safetensors\"", i ? ", " : "", i);
  mlxq_text_puts(&index, "}}");
  int polls[2];
  for (int with_index = 0; with_index < 2; with_index++) {
    if (with_index) write_text(path_in(source, "model.safetensors.index.json"), index.data);
    for (int at = 0;; at++) {
      cancel = (late_cancel){.at = at};
      mlxq_status status = mlxq_verify(&report, source, &verify, NULL);
      polls[with_index] = at;
      if (status == MLXQ_OK) break;
      assert_int_equal(status, MLXQ_CANCELLED);
    }
    assert_int_equal(report->defects_found,
                     ABSENT + (with_index ? 3 : 0)); /* gone.safetensors; a and b are not in it */
    mlxq_verification_free(report);
  }
  assert_in_range(polls[0], 1 + ABSENT, 50);
  assert_in_range(polls[1] - polls[0], NAMES / 1024, 50);
  mlxq_text_free(&index);
}

static void test_a_bad_weight_is_told_with_its_place(void **state) {
  const char *source = make_model(*state, "{\"model_type\": \"llama\"}"), *shard = path_in(source, "model.safetensors");
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  mlxq_weights *weights = read_safetensors(shard);
  mlxq_error error;
  memset(bytes_of(weights, "model.layers.0.mlp.up_proj.weight") + 2 * 77, 0xFF, 2);
  write_safetensors(shard, weights);
  mlxq_weights_free(weights);
  assert_int_equal(mlxq_quantize_checkpoint(NULL, source, path_in(*state, "out"), &options, &error), MLXQ_NON_FINITE);
  assert_string_equal(error.file, shard);
  assert_string_equal(error.layer, "model.layers.0.mlp.up_proj");
  assert_string_equal(error.key, "model.layers.0.mlp.up_proj.weight");
  assert_non_null(strstr(error.message, "77"));
  options.common.allow_nonfinite = true;
  assert_int_equal(mlxq_quantize_checkpoint(NULL, source, path_in(*state, "out"), &options, &error), MLXQ_OK);
}

static void test_single_files(void **state) {
  const char *source = path_in(make_model(*state, "{}"), "model.safetensors");
  const char *quantized = path_in(*state, "q.safetensors"), *dense = path_in(*state, "d.safetensors");
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  mlxq_dequantize_options back = MLXQ_DEQUANTIZE_OPTIONS_INIT;
  mlxq_scheme scheme = {MLXQ_NVFP4, 0, 0};
  options.scheme.mode = MLXQ_NVFP4;
  options.common.max_shard_bytes = 1; /* a file stays one */
  assert_int_equal(mlxq_quantize_checkpoint(NULL, source, quantized, &options, NULL), MLXQ_OK);
  mlxq_weights *found = read_safetensors(quantized), *original = read_safetensors(source);
  assert_int_equal(mlxq_weights_count(found), 5);
  assert_same_tensor(mlxq_weights_find(found, "model.norm.weight"), mlxq_weights_find(original, "model.norm.weight"));
  mlxq_weights_free(found);
  back.scheme = &scheme;
  assert_int_equal(mlxq_dequantize_checkpoint(NULL, quantized, dense, &back, NULL), MLXQ_OK);
  found = read_safetensors(dense);
  assert_int_equal(mlxq_weights_count(found), 3);
  mlxq_weights_free(found);
  mlxq_weights_free(original);
}

/* A hostile name must be refused or carried along, not crash. */
static void test_a_tensor_without_a_layer(void **state) {
  for (int is_folder = 0; is_folder < 2; is_folder++) {
    const char *folder = make_checkpoint(*state, "{\"model_type\": \"unheard-of\"}");
    mlxq_weights *weights = new_weights();
    mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
    add_random(weights, ".weight", MLXQ_BF16, SHAPE(4, 64));
    write_safetensors(path_in(folder, "model.safetensors"), weights);
    mlxq_weights_free(weights);
    const char *source = is_folder ? folder : path_in(folder, "model.safetensors");
    assert_int_equal(mlxq_quantize_checkpoint(NULL, source, path_in(*state, "out%d", is_folder), &options, NULL),
                     MLXQ_OK);
  }
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, make_scratch, remove_scratch)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_a_single_file),
      TEST(test_files_named_model_are_preferred),
      TEST(test_links_are_followed),
      TEST(test_folders_that_are_no_checkpoints),
      TEST(test_broken_shards),
      TEST(test_changes_after_opening),
      TEST(test_files_that_come_later),
      TEST(test_configs_that_are_refused),
      TEST(test_a_config_must_be_there),
      TEST(test_a_config_of_any_size_is_not_read),
      TEST(test_configs_that_python_reads),
      TEST(test_eos_of_the_generation_config),
      TEST(test_eos_where_the_config_has_none),
      TEST(test_an_index_that_agrees),
      TEST(test_an_index_that_does_not),
      TEST(test_an_index_with_a_nul_character),
      TEST(test_index_as_mlx_lm_writes_it),
      TEST(test_foreign_by_config),
      TEST(test_foreign_by_files),
      TEST(test_foreign_by_tensors),
      TEST(test_the_quantization_block),
      TEST(test_parameters_as_mlx_lm_counts_them),
      TEST(test_side_files),
      TEST(test_config_of_a_quantized_result),
      TEST(test_config_of_a_source_that_is_quantized),
      TEST(test_null_group_sizes_become_numbers),
      TEST(test_config_of_a_dense_result),
      TEST(test_inspect),
      TEST(test_inspect_of_other_checkpoints),
      TEST(test_there_and_back),
      TEST(test_a_dry_run_writes_nothing),
      TEST(test_options_that_are_refused),
      TEST(test_foreign_sources_are_refused),
      TEST(test_an_existing_destination),
      TEST(test_the_source_survives),
      TEST(test_runs_that_fail_leave_nothing),
      TEST(test_cancelling_at_every_poll),
      TEST(test_cancelling_the_search_for_what_is_missing),
      TEST(test_a_bad_weight_is_told_with_its_place),
      TEST(test_single_files),
      TEST(test_a_tensor_without_a_layer),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
