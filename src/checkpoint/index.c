#include "checkpoint/index.h"

#include "base/error.h"
#include "base/json.h"

#include <json-c/linkhash.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* 100,000 tensors with long names take about 15 MB. */
enum { MAX_INDEX_BYTES = 1 << 28 };

static mlxq_status check_entry(const mlxq_checkpoint *checkpoint, const char *name, struct json_object *value,
                               mlxq_error *error) {
  if (!json_object_is_type(value, json_type_string)) {
    return mlxq_fail(error, MLXQ_PARSE, NULL, name, "weight_map: the file name is not a string");
  }
  const char *file = json_object_get_string(value);
  if (strlen(file) != (size_t)json_object_get_string_len(value)) {
    return mlxq_fail(error, MLXQ_CORRUPT, NULL, name, "weight_map: the file name holds a NUL character");
  }
  if (strchr(file, '/') || strstr(file, "..")) {
    return mlxq_fail(error, MLXQ_CORRUPT, NULL, name, "weight_map: the file name '%s' leads out of the folder", file);
  }
  size_t index = mlxq_weights_index(checkpoint->tensors, name, strlen(name));
  if (index == SIZE_MAX) {
    for (size_t i = 0; i < checkpoint->file_count; i++) {
      if (strcmp(checkpoint->files[i].name, file) == 0) {
        return mlxq_fail(error, MLXQ_CORRUPT, NULL, name, "the index has it in %s, which does not hold it", file);
      }
    }
    return mlxq_fail(error, MLXQ_CORRUPT, NULL, name, "the index has it in %s, which is not in the folder", file);
  }
  const char *actual = checkpoint->files[checkpoint->tensors->entries[index].file].name;
  if (strcmp(actual, file) != 0) {
    return mlxq_fail(error, MLXQ_CORRUPT, NULL, name, "the index has it in %s, but it is in %s", file, actual);
  }
  return MLXQ_OK;
}

static mlxq_status check_document(const mlxq_checkpoint *checkpoint, struct json_object *document, mlxq_error *error) {
  struct json_object *map = NULL;
  if (!json_object_object_get_ex(document, "weight_map", &map) || !json_object_is_type(map, json_type_object)) {
    return mlxq_fail(error, MLXQ_PARSE, NULL, "weight_map", "missing, or not a JSON object");
  }
  json_object_object_foreach(map, name, value) {
    mlxq_status status = check_entry(checkpoint, name, value, error);
    if (status != MLXQ_OK) return status;
  }
  /* All of the index's names are tensors, so equal counts mean equal sets. */
  if ((size_t)json_object_object_length(map) == checkpoint->tensors->count) return MLXQ_OK;
  for (size_t i = 0; i < checkpoint->tensors->count; i++) {
    const mlxq_tensor_entry *entry = &checkpoint->tensors->entries[i];
    if (!json_object_object_get_ex(map, entry->tensor.name, NULL)) {
      return mlxq_fail(error, MLXQ_CORRUPT, NULL, entry->tensor.name, "%s holds it, but the index does not name it",
                       checkpoint->files[entry->file].name);
    }
  }
  return MLXQ_OK;
}

mlxq_status mlxq_index_check(const mlxq_checkpoint *checkpoint, mlxq_error *error) {
  char *text = NULL;
  size_t length = 0;
  struct json_object *document = NULL;
  char *path = mlxq_path_join(checkpoint->path, MLXQ_INDEX_NAME);
  if (!path) return mlxq_fail_memory(error);
  mlxq_status status = MLXQ_OK;
  if (access(path, F_OK) != 0) goto cleanup;
  status = mlxq_file_read_text(&text, &length, path, MAX_INDEX_BYTES, error);
  if (status == MLXQ_OK) status = mlxq_json_parse(&document, text, length, error);
  if (status == MLXQ_OK) status = check_document(checkpoint, document, error);
  if (status != MLXQ_OK) mlxq_error_at_file(error, status, path);
cleanup:
  json_object_put(document);
  free(text);
  free(path);
  return status;
}

static int compare_entries(const void *a, const void *b) {
  return strcmp((*(const mlxq_tensor_entry *const *)a)->tensor.name,
                (*(const mlxq_tensor_entry *const *)b)->tensor.name);
}

mlxq_status mlxq_index_write(mlxq_text *text, const mlxq_weights *tensors,
                             const char *(*file_name)(const void *user, size_t index), const void *user,
                             uint64_t total_bytes, uint64_t parameters, mlxq_error *error) {
  const mlxq_tensor_entry **sorted = mlxq_alloc(tensors->count, sizeof(void *));
  if (!sorted) return mlxq_fail_memory(error);
  for (size_t i = 0; i < tensors->count; i++) sorted[i] = &tensors->entries[i];
  qsort(sorted, tensors->count, sizeof(void *), compare_entries);
  mlxq_text_printf(text,
                   "{\n    \"metadata\": {\n        \"total_size\": %llu,\n        \"total_parameters\": %llu\n    },\n"
                   "    \"weight_map\": {",
                   (unsigned long long)total_bytes, (unsigned long long)parameters);
  for (size_t i = 0; i < tensors->count; i++) {
    const char *name = sorted[i]->tensor.name, *file = file_name(user, sorted[i]->file);
    mlxq_text_puts(text, i == 0 ? "\n        " : ",\n        ");
    mlxq_text_json_string(text, name, strlen(name));
    mlxq_text_puts(text, ": ");
    mlxq_text_json_string(text, file, strlen(file));
  }
  mlxq_text_puts(text, tensors->count > 0 ? "\n    }\n}" : "}\n}");
  free(sorted);
  return text->failed ? mlxq_fail_memory(error) : MLXQ_OK;
}
