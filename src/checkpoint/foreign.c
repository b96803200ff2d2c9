#include "checkpoint/foreign.h"

#include "base/error.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_FILE_BYTES = 1 << 20 };

/* The text under a key; `*text` stays where there is none. */
static mlxq_status read_text(const char **text, struct json_object *object, const char *key, mlxq_error *error) {
  struct json_object *value = NULL;
  if (!json_object_object_get_ex(object, key, &value) || !value) return MLXQ_OK;
  if (!json_object_is_type(value, json_type_string)) return mlxq_fail(error, MLXQ_PARSE, NULL, key, "not a string");
  *text = json_object_get_string(value);
  return MLXQ_OK;
}

/* The integer under the first of two keys that is there; `*value` stays where neither is. */
static mlxq_status read_integer(int64_t *value, struct json_object *object, const char *key, const char *other_key,
                                mlxq_error *error) {
  struct json_object *member = NULL;
  if (!json_object_object_get_ex(object, key, &member) || !member) {
    key = other_key;
    if (!json_object_object_get_ex(object, key, &member) || !member) return MLXQ_OK;
  }
  if (!json_object_is_type(member, json_type_int)) return mlxq_fail(error, MLXQ_PARSE, NULL, key, "not an integer");
  *value = json_object_get_int64(member);
  return MLXQ_OK;
}

static mlxq_status read_bool(bool *there, bool *value, struct json_object *object, const char *key, mlxq_error *error) {
  struct json_object *member = NULL;
  *there = json_object_object_get_ex(object, key, &member) && member;
  if (!*there) return MLXQ_OK;
  if (!json_object_is_type(member, json_type_boolean)) {
    return mlxq_fail(error, MLXQ_PARSE, NULL, key, "neither true nor false");
  }
  *value = json_object_get_boolean(member);
  return MLXQ_OK;
}

/* "gptqmodel:5.8.0", alone or in a list. */
static void read_quantizer(mlxq_foreign_config *foreign, struct json_object *meta) {
  static const char NAME[] = "gptqmodel";
  struct json_object *quantizer = NULL;
  if (!json_object_object_get_ex(meta, "quantizer", &quantizer)) return;
  bool is_list = json_object_is_type(quantizer, json_type_array);
  size_t count = is_list ? json_object_array_length(quantizer) : 1;
  for (size_t i = 0; i < count; i++) {
    struct json_object *one = is_list ? json_object_array_get_idx(quantizer, i) : quantizer;
    if (!json_object_is_type(one, json_type_string)) continue;
    const char *text = json_object_get_string(one);
    if (strncasecmp(text, NAME, sizeof NAME - 1) != 0) continue;
    const char *version = strchr(text, ':');
    foreign->gptqmodel = true;
    foreign->gptqmodel_version = version ? (int)strtol(version + 1, NULL, 10) : 0;
  }
}

static mlxq_status read_block(mlxq_foreign_config *foreign, struct json_object *block, mlxq_error *error) {
  struct json_object *meta = NULL;
  bool there = false, marlin = false;
  mlxq_status status = read_integer(&foreign->bits, block, "bits", "w_bit", error);
  if (status == MLXQ_OK) status = read_integer(&foreign->group_size, block, "group_size", "q_group_size", error);
  if (status == MLXQ_OK) {
    status = read_bool(&there, &foreign->zero_point, block, "zero_point", error);
  }
  if (status == MLXQ_OK) status = read_bool(&foreign->says_symmetric, &foreign->symmetric, block, "sym", error);
  if (status == MLXQ_OK) status = read_text(&foreign->version, block, "version", error);
  if (status == MLXQ_OK) status = read_text(&foreign->format, block, "format", error);
  if (status == MLXQ_OK) status = read_text(&foreign->format, block, "checkpoint_format", error);
  if (json_object_object_get_ex(block, "meta", &meta)) read_quantizer(foreign, meta);
  foreign->dynamic = json_object_object_get_ex(block, "dynamic", &meta) && json_object_is_type(meta, json_type_object);
  if (status == MLXQ_OK) status = read_bool(&there, &marlin, block, "is_marlin_format", error);
  if (marlin) foreign->format = "marlin";
  return status;
}

static mlxq_status read_file(mlxq_foreign_config *foreign, const mlxq_checkpoint *checkpoint, const char *name,
                             mlxq_error *error) {
  char *text = NULL, *path = mlxq_path_join(checkpoint->path, name);
  size_t length = 0;
  bool there = false;
  if (!path) return mlxq_fail_memory(error);
  mlxq_status status = mlxq_file_exists(&there, path, error);
  if (there) {
    status = mlxq_file_read_text(&text, &length, path, MAX_FILE_BYTES, error);
    if (status == MLXQ_OK) status = mlxq_json_parse(&foreign->owner, text, length, error);
    if (status == MLXQ_OK && !json_object_is_type(foreign->owner, json_type_object)) {
      status = mlxq_fail(error, MLXQ_PARSE, NULL, NULL, "the document is not a JSON object");
    }
    if (status == MLXQ_OK) status = read_block(foreign, foreign->owner, error);
  }
  mlxq_error_at_file(error, status, path);
  free(text);
  free(path);
  return status;
}

mlxq_status mlxq_foreign_config_read(mlxq_foreign_config *foreign, const mlxq_checkpoint *checkpoint,
                                     const char *method, mlxq_error *error) {
  *foreign =
      (mlxq_foreign_config){.group_size = -1, .zero_point = true, .symmetric = true, .version = "", .format = ""};
  if (strcmp(method, "awq") == 0) foreign->bits = 4; /* it has no others */
  struct json_object *block = checkpoint->config ? mlxq_checkpoint_foreign_block(checkpoint) : NULL;
  if (!block) {
    if (!checkpoint->is_folder) return MLXQ_OK;
    return read_file(foreign, checkpoint, strcmp(method, "awq") == 0 ? "quant_config.json" : "quantize_config.json",
                     error);
  }
  if (!json_object_is_type(block, json_type_object)) {
    mlxq_fail(error, MLXQ_PARSE, NULL, "quantization_config", "not an object");
    return mlxq_error_at_file(error, MLXQ_PARSE, checkpoint->config_path);
  }
  foreign->owner = json_object_get(block); /* config.json's own block goes away when the result's config is made */
  return mlxq_error_at_file(error, read_block(foreign, block, error), checkpoint->config_path);
}

void mlxq_foreign_config_free(mlxq_foreign_config *foreign) {
  json_object_put(foreign->owner);
  foreign->owner = NULL;
}
