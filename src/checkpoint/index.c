#include "checkpoint/index.h"

#include "base/error.h"
#include "base/json.h"
#include "safetensors/json_stream.h"
#include "safetensors/safetensors.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* It is read once, in pieces: a limit to the time that a file without end may take. Ten million tensors fit. */
#define MAX_INDEX_BYTES (1u << 30)

/* More of these than the limit are told of tensor by tensor. */
typedef struct absent_file {
  char *name;
  uint64_t hash, tensors;
} absent_file;

enum { MAX_ABSENT_FILES = 1000, CANCEL_INTERVAL = 1024 };

typedef struct checker {
  mlxq_json_stream json;
  const mlxq_checkpoint *checkpoint;
  unsigned char *seen; /* a bit for each tensor: the last weight_map names it */
  size_t seen_bytes;
  uint64_t entries; /* read so far */
  bool has_map;
  uint64_t *total_bytes;   /* metadata.total_size; as mlxq_index_survey's */
  const mlxq_flaws *flaws; /* a survey: told of what is wrong; NULL: the first is an error */
  const char *path;
  struct absent_file *absent; /* a survey: files that the index names and the folder lacks */
  size_t absent_count, absent_capacity;
  char name[MLXQ_SAFETENSORS_MAX_NAME_BYTES + 1];
  char file[NAME_MAX + 2]; /* a longer one is cut, and still too long for a file of the folder */
} checker;

/* Reads a key and its colon; `*length` as mlxq_json_string's. */
static bool read_key(checker *c, size_t *length) {
  if (mlxq_json_peek(&c->json) != '"') return mlxq_json_fault(&c->json, "a key in double quotes is expected");
  return mlxq_json_string(&c->json, c->name, sizeof c->name, length) && mlxq_json_expect(&c->json, ':');
}

/* What is wrong with an entry; `json.key` is its tensor. False where that ends the reading. */
static bool wrong(checker *c, mlxq_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));

static bool wrong(checker *c, mlxq_status status, const char *format, ...) {
  char reason[MLXQ_ERROR_MESSAGE_BYTES];
  mlxq_error flaw;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(reason, sizeof reason, format, arguments);
  va_end(arguments);
  if (!c->flaws) return mlxq_json_fail(&c->json, status, "%s", reason);
  mlxq_error_at_file(&flaw, mlxq_fail(&flaw, status, NULL, c->json.key, "%s", reason), c->path);
  mlxq_flaws_take(c->flaws, status, &flaw);
  return true;
}

/* The folder's file of that name, or NULL. The files are sorted by name. */
static const mlxq_source_file *find_file(const mlxq_checkpoint *checkpoint, const char *name) {
  size_t low = 0, high = checkpoint->file_count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    int order = strcmp(checkpoint->files[middle].name, name);
    if (order == 0) return &checkpoint->files[middle];
    if (order < 0) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return NULL;
}

/* Counts a tensor of a file that the folder lacks. */
static bool count_absent(checker *c) {
  uint64_t hash = mlxq_hash(c->file, strlen(c->file));
  for (size_t i = 0; i < c->absent_count; i++) {
    if (c->absent[i].hash != hash || strcmp(c->absent[i].name, c->file) != 0) continue;
    c->absent[i].tensors++;
    return true;
  }
  void *absent = c->absent;
  char *name = mlxq_asprintf("%s", c->file);
  if (!name || !mlxq_grow(&absent, c->absent_count, &c->absent_capacity, sizeof *c->absent)) {
    free(name);
    c->json.status = mlxq_fail_memory(c->json.error);
    return false;
  }
  c->absent = absent;
  c->absent[c->absent_count++] = (absent_file){name, hash, 1};
  return true;
}

static void tell_absent_files(checker *c) {
  for (size_t i = 0; i < c->absent_count; i++) {
    c->json.key = c->absent[i].name;
    wrong(c, MLXQ_MISSING_KEY, "missing: the index has %llu tensor%s in it", (unsigned long long)c->absent[i].tensors,
          c->absent[i].tensors == 1 ? "" : "s");
    free(c->absent[i].name);
  }
  c->json.key = NULL;
  c->absent_count = 0;
}

/* The file name of the tensor `name`, whose key was just read. */
static bool check_entry(checker *c, size_t name_length) {
  mlxq_json_stream *json = &c->json;
  const mlxq_checkpoint *checkpoint = c->checkpoint;
  size_t length;
  size_t index =
      name_length < sizeof c->name ? mlxq_weights_index(checkpoint->tensors, c->name, name_length) : SIZE_MAX;
  if (index != SIZE_MAX) c->seen[index / 8] |= (unsigned char)(1u << index % 8);
  if (mlxq_json_peek(json) != '"') {
    return mlxq_json_skip(json, MLXQ_JSON_MAX_DEPTH) &&
           wrong(c, MLXQ_PARSE, "weight_map: the file name is not a string");
  }
  if (!mlxq_json_string(json, c->file, sizeof c->file, &length)) return false;
  if (length < sizeof c->file && strlen(c->file) != length) {
    return wrong(c, MLXQ_CORRUPT, "weight_map: the file name holds a NUL character");
  }
  if (strchr(c->file, '/') || strstr(c->file, "..")) {
    return wrong(c, MLXQ_CORRUPT, "weight_map: the file name '%s' leads out of the folder", c->file);
  }
  const mlxq_source_file *here = find_file(checkpoint, c->file);
  if (here && here->unknown) return true;
  if (index == SIZE_MAX) {
    if (!here && c->flaws && c->absent_count < MAX_ABSENT_FILES) return count_absent(c);
    return wrong(c, MLXQ_CORRUPT, "the index has it in %s, which %s", c->file,
                 here ? "does not hold it" : "is not in the folder");
  }
  const char *actual = checkpoint->files[checkpoint->tensors->entries[index].file].name;
  return strcmp(actual, c->file) == 0 ||
         wrong(c, MLXQ_CORRUPT, "the index has it in %s, but it is in %s", c->file, actual);
}

/* Of two entries for a tensor Python takes the last; here each must be right, and so must each of two maps. */
static bool check_map(checker *c) {
  mlxq_json_stream *json = &c->json;
  const mlxq_weights *tensors = c->checkpoint->tensors;
  c->has_map = true;
  memset(c->seen, 0, c->seen_bytes);
  if (!mlxq_json_expect(json, '{')) return false;
  for (bool first = true; mlxq_json_next(json, '}', &first);) {
    size_t length = 0;
    if (!read_key(c, &length)) return false;
    json->key = c->name;
    if (!check_entry(c, length)) return false;
    json->key = NULL;
    if (++c->entries % CANCEL_INTERVAL != 0) continue;
    json->status = mlxq_cancel_check(&c->checkpoint->cancel, json->error);
    if (json->status != MLXQ_OK) return false;
  }
  for (size_t i = 0; json->status == MLXQ_OK && i < tensors->count; i++) {
    if (c->seen[i / 8] & 1u << i % 8) continue;
    json->key = tensors->entries[i].tensor.name;
    wrong(c, MLXQ_CORRUPT, "%s holds it, but the index does not name it",
          c->checkpoint->files[tensors->entries[i].file].name);
  }
  json->key = NULL;
  tell_absent_files(c);
  return json->status == MLXQ_OK;
}

/* Of two values Python takes the last. */
static bool read_metadata(checker *c) {
  *c->total_bytes = MLXQ_NO_TOTAL;
  if (!mlxq_json_expect(&c->json, '{')) return false;
  for (bool first = true; mlxq_json_next(&c->json, '}', &first);) {
    bool is_uint = false;
    uint64_t value = 0;
    if (!read_key(c, NULL)) return false;
    bool is_total = strcmp(c->name, "total_size") == 0;
    if (!mlxq_json_skip_uint(&c->json, MLXQ_JSON_MAX_DEPTH - 2, &is_uint, &value)) return false;
    if (is_total) *c->total_bytes = is_uint ? value : MLXQ_NO_TOTAL;
  }
  return c->json.status == MLXQ_OK;
}

static bool check_member(checker *c) {
  if (strcmp(c->name, "metadata") == 0 && mlxq_json_peek(&c->json) == '{') return read_metadata(c);
  bool is_map = strcmp(c->name, "weight_map") == 0;
  if (is_map && mlxq_json_peek(&c->json) == '{') return check_map(c);
  if (is_map) c->has_map = false;
  return mlxq_json_skip(&c->json, MLXQ_JSON_MAX_DEPTH - 1);
}

static bool check_document(checker *c) {
  mlxq_json_stream *json = &c->json;
  if (mlxq_json_peek(json) != '{') {
    if (!mlxq_json_skip(json, MLXQ_JSON_MAX_DEPTH)) return false;
  } else {
    mlxq_json_expect(json, '{');
    for (bool first = true; mlxq_json_next(json, '}', &first);) {
      if (!read_key(c, NULL) || !check_member(c)) return false;
    }
  }
  if (!mlxq_json_end(json)) return false;
  json->key = "weight_map";
  return c->has_map || mlxq_json_fail(json, MLXQ_PARSE, "missing, or not a JSON object");
}

mlxq_status mlxq_index_check(const mlxq_checkpoint *checkpoint, mlxq_error *error) {
  uint64_t total_bytes;
  return mlxq_index_survey(checkpoint, &total_bytes, NULL, error);
}

mlxq_status mlxq_index_survey(const mlxq_checkpoint *checkpoint, uint64_t *total_bytes, const mlxq_flaws *flaws,
                              mlxq_error *error) {
  checker *c = NULL;
  int fd = -1;
  mlxq_file_identity identity;
  *total_bytes = MLXQ_NO_TOTAL;
  char *path = mlxq_path_join(checkpoint->path, MLXQ_INDEX_NAME);
  if (!path) return mlxq_fail_memory(error);
  bool there = false;
  mlxq_status status = mlxq_file_exists(&there, path, error);
  if (!there) goto cleanup;
  status = mlxq_file_open(&fd, &identity, path, error);
  if (status == MLXQ_OK && identity.bytes > MAX_INDEX_BYTES) {
    status = mlxq_fail(error, MLXQ_OUT_OF_RANGE, NULL, NULL, "the file has %llu bytes; at most %u are accepted",
                       (unsigned long long)identity.bytes, MAX_INDEX_BYTES);
  }
  if (status != MLXQ_OK) goto cleanup;
  c = mlxq_calloc(1, sizeof *c);
  if (c) c->seen = mlxq_calloc(c->seen_bytes = checkpoint->tensors->count / 8 + 1, 1);
  if (!c || !c->seen) {
    status = mlxq_fail_memory(error);
    goto cleanup;
  }
  c->checkpoint = checkpoint;
  c->total_bytes = total_bytes;
  c->flaws = flaws;
  c->path = path;
  mlxq_json_start(&c->json, fd, 0, identity.bytes, path, error);
  c->json.is_document = true;
  check_document(c);
  status = c->json.status;
cleanup:
  if (status != MLXQ_OK) mlxq_error_at_file(error, status, path);
  if (c) {
    for (size_t i = 0; i < c->absent_count; i++) free(c->absent[i].name);
    free(c->absent);
    free(c->seen);
  }
  free(c);
  mlxq_file_close(fd);
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
