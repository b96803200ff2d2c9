/* The input is the index of a folder with three files, of which two hold tensors. Reading on after a flaw must not
 * change the verdict, and the verdict must be that of the same document in memory. */
#include "input.h"

#include "base/json.h"
#include "checkpoint/index.h"

#include <json-c/json_object_iterator.h>
#include <json-c/linkhash.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const FILES[] = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                                    "model.safetensors"};

static const struct {
  const char *name;
  uint32_t file;
} TENSORS[] = {
    {"lm_head.weight", 1}, {"model.layers.0.mlp.up_proj.weight", 0}, {"model.layers.0.mlp.up_proj.scales", 1}, {"a", 0},
    {"\"\xC3\xA9\n", 0},
};

enum { FILE_COUNT = sizeof FILES / sizeof *FILES, TENSOR_COUNT = sizeof TENSORS / sizeof *TENSORS };

static char index_path[256];

static void describe_folder(mlxq_checkpoint *checkpoint, mlxq_source_file *files) {
  *checkpoint = (mlxq_checkpoint){.path = (char *)(uintptr_t)scratch_folder(),
                                  .is_folder = true,
                                  .files = files,
                                  .file_count = FILE_COUNT,
                                  .tensors = new_weights()};
  for (size_t i = 0; i < FILE_COUNT; i++) files[i] = (mlxq_source_file){.name = FILES[i]};
  for (size_t i = 0; i < TENSOR_COUNT; i++) {
    const char *name = TENSORS[i].name;
    require(mlxq_weights_describe(checkpoint->tensors, name, strlen(name), MLXQ_F32, 0, NULL, TENSORS[i].file, 0, NULL,
                                  NULL) == MLXQ_OK);
  }
  require((size_t)snprintf(index_path, sizeof index_path, "%s/%s", checkpoint->path, MLXQ_INDEX_NAME) <
          sizeof index_path);
}

/* ---- What it must say ------------------------------------------------------------------------------------------ */

static bool is_right(const char *name, struct json_object *value) {
  for (size_t i = 0; i < TENSOR_COUNT; i++) {
    if (strcmp(TENSORS[i].name, name) != 0) continue;
    const char *file = FILES[TENSORS[i].file];
    return json_object_is_type(value, json_type_string) && strcmp(json_object_get_string(value), file) == 0 &&
           strlen(file) == (size_t)json_object_get_string_len(value);
  }
  return false;
}

static bool is_exact(struct json_object *document) {
  struct json_object *map = NULL;
  struct json_object_iter member;
  if (!json_object_is_type(document, json_type_object)) return false;
  if (!json_object_object_get_ex(document, "weight_map", &map) || !json_object_is_type(map, json_type_object)) {
    return false;
  }
  json_object_object_foreachC(map, member) {
    if (!is_right(member.key, member.val)) return false;
  }
  return json_object_object_length(map) == TENSOR_COUNT;
}

/* ---- What is found --------------------------------------------------------------------------------------------- */

static void count_flaw(void *user, const mlxq_error *flaw) {
  require_error(flaw, flaw->status);
  require(strcmp(flaw->file, index_path) == 0);
  ++*(size_t *)user;
}

/* The verdict on what is written: the first fault, or MLXQ_OK. */
static mlxq_status judge(mlxq_checkpoint *checkpoint, const void *text, size_t length) {
  mlxq_error error = {0}, later = {0};
  size_t flaws = 0, fewer = 0;
  uint64_t total;
  mlxq_flaws taker = {count_flaw, &flaws}, fewer_taker = {count_flaw, &fewer};
  write_bytes(index_path, text, length);
  mlxq_status status = mlxq_index_check(checkpoint, &error);
  if (status != MLXQ_OK) {
    require(status == MLXQ_CORRUPT || status == MLXQ_PARSE);
    require_error(&error, status);
    require(strcmp(error.file, index_path) == 0);
  }
  mlxq_status surveyed = mlxq_index_survey(checkpoint, &total, &taker, &later);
  if (surveyed != MLXQ_OK) require_error(&later, surveyed);
  require(surveyed == MLXQ_OK || surveyed == MLXQ_PARSE);
  require((status == MLXQ_OK) == (surveyed == MLXQ_OK && flaws == 0));
  /* Nothing is said of a file that could not be read. */
  checkpoint->files[2].unknown = true;
  require(mlxq_index_survey(checkpoint, &total, &fewer_taker, NULL) == surveyed && fewer <= flaws);
  checkpoint->files[2].unknown = false;
  return status;
}

static const char *file_name(const void *user, size_t index) {
  (void)user;
  return FILES[index];
}

static void check_document(mlxq_checkpoint *checkpoint, struct json_object *document, mlxq_status status) {
  /* Of a key that is there twice Python takes the last; here each must be right. */
  require(status != MLXQ_OK || is_exact(document));
  mlxq_text text = json_text(document, 0);
  require((judge(checkpoint, text.data, text.length) == MLXQ_OK) == is_exact(document));
  mlxq_text_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  mlxq_checkpoint checkpoint;
  mlxq_source_file files[FILE_COUNT];
  struct json_object *document;
  describe_folder(&checkpoint, files);
  mlxq_status status = judge(&checkpoint, data, size);
  if (mlxq_json_parse(&document, (const char *)data, size, NULL) == MLXQ_OK) {
    check_document(&checkpoint, document, status);
    json_object_put(document);
  }
  if (size == 0) { /* what is written is right */
    mlxq_text text = {0};
    require(mlxq_index_write(&text, checkpoint.tensors, file_name, NULL, 0, 0, NULL) == MLXQ_OK);
    require(judge(&checkpoint, text.data, text.length) == MLXQ_OK);
    mlxq_text_free(&text);
  }
  require(unlink(index_path) == 0);
  mlxq_weights_free(checkpoint.tensors);
  return 0;
}
