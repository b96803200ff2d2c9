#include "checkpoint/checkpoint.h"

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/index.h"
#include "checkpoint/survey.h"
#include "safetensors/safetensors.h"
#include "scheme/quant_config.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_CONFIG_BYTES = 52 << 20, MAX_GENERATION_CONFIG_BYTES = 64 << 10 };

static int compare_files(const void *a, const void *b) {
  return strcmp(((const mlxq_source_file *)a)->path, ((const mlxq_source_file *)b)->path);
}

static mlxq_status add_file(mlxq_checkpoint *checkpoint, size_t *capacity, char *path, mlxq_error *error) {
  void *files = checkpoint->files;
  if (!path || !mlxq_grow(&files, checkpoint->file_count, capacity, sizeof *checkpoint->files)) {
    free(path);
    return mlxq_fail_memory(error);
  }
  checkpoint->files = files;
  checkpoint->files[checkpoint->file_count++] = (mlxq_source_file){.path = path, .name = mlxq_path_base(path)};
  return MLXQ_OK;
}

/* Collects the folder's files whose names match `pattern`, sorted by name. Hidden files never match. */
static mlxq_status list_files(mlxq_checkpoint *checkpoint, const char *pattern, mlxq_error *error) {
  mlxq_status status = MLXQ_OK;
  size_t capacity = 0;
  DIR *folder = opendir(checkpoint->path);
  if (!folder) return mlxq_fail_errno(error, errno, checkpoint->path, "cannot open");
  for (;;) {
    errno = 0;
    const struct dirent *entry = readdir(folder);
    if (!entry) {
      if (errno != 0) status = mlxq_fail_errno(error, errno, checkpoint->path, "cannot list");
      break;
    }
    if (fnmatch(pattern, entry->d_name, FNM_PERIOD) != 0) continue;
    if (checkpoint->file_count == MLXQ_MAX_FILES) {
      mlxq_fail(error, MLXQ_OUT_OF_RANGE, NULL, NULL, "the folder holds more than %u .safetensors files",
                MLXQ_MAX_FILES);
      status = mlxq_error_at_file(error, MLXQ_OUT_OF_RANGE, checkpoint->path);
      break;
    }
    status = add_file(checkpoint, &capacity, mlxq_path_join(checkpoint->path, entry->d_name), error);
    if (status != MLXQ_OK) break;
  }
  closedir(folder);
  if (checkpoint->file_count > 0) {
    qsort(checkpoint->files, checkpoint->file_count, sizeof *checkpoint->files, compare_files);
  }
  return status;
}

/* The files that mlx-lm takes the tensors from. */
static mlxq_status list_shards(mlxq_checkpoint *checkpoint, mlxq_error *error) {
  mlxq_status status = list_files(checkpoint, "model*.safetensors", error);
  if (status == MLXQ_OK && checkpoint->file_count == 0) status = list_files(checkpoint, "*.safetensors", error);
  return status;
}

static void free_files(mlxq_source_file *files, size_t count) {
  for (size_t i = 0; i < count; i++) free(files[i].path);
  free(files);
}

static mlxq_status read_headers(mlxq_checkpoint *checkpoint, mlxq_error *error) {
  for (size_t i = 0; i < checkpoint->file_count; i++) {
    mlxq_source_file *file = &checkpoint->files[i];
    int fd;
    mlxq_status status = mlxq_cancel_check(&checkpoint->cancel, error);
    if (status == MLXQ_OK) status = mlxq_file_open(&fd, &file->identity, file->path, error);
    if (status != MLXQ_OK) return status;
    status = mlxq_safetensors_read(checkpoint->tensors, (uint32_t)i, fd, file->identity.bytes, file->path, error);
    close(fd);
    if (status != MLXQ_OK) return mlxq_error_at_file(error, status, file->path);
  }
  return MLXQ_OK;
}

static mlxq_status read_config(mlxq_checkpoint *checkpoint, mlxq_error *error) {
  char *text = NULL;
  size_t length = 0;
  checkpoint->config_path = mlxq_path_join(checkpoint->path, "config.json");
  if (!checkpoint->config_path) return mlxq_fail_memory(error);
  mlxq_status status = mlxq_file_read_text(&text, &length, checkpoint->config_path, MAX_CONFIG_BYTES, error);
  if (status == MLXQ_OK) status = mlxq_json_parse(&checkpoint->config, text, length, error);
  if (status == MLXQ_OK && !json_object_is_type(checkpoint->config, json_type_object)) {
    status = mlxq_fail(error, MLXQ_PARSE, NULL, NULL, "the document is not a JSON object");
  }
  free(text);
  return mlxq_error_at_file(error, status, checkpoint->config_path);
}

/* What Python takes for true. */
static bool is_truthy(struct json_object *value) {
  switch (json_object_get_type(value)) {
    case json_type_boolean:
      return json_object_get_boolean(value);
    case json_type_int:
    case json_type_double:
      return json_object_get_double(value) != 0.0;
    case json_type_string:
      return json_object_get_string_len(value) > 0;
    case json_type_array:
      return json_object_array_length(value) > 0;
    case json_type_object:
      return json_object_object_length(value) > 0;
    default:
      return false;
  }
}

/* Takes eos_token_id from generation_config.json over config.json's, as mlx-lm does. */
static mlxq_status merge_generation_config(mlxq_checkpoint *checkpoint, mlxq_error *error) {
  char *text = NULL;
  size_t length = 0;
  struct json_object *generation = NULL, *eos = NULL;
  char *path = mlxq_path_join(checkpoint->path, "generation_config.json");
  if (!path) return mlxq_fail_memory(error);
  bool there = false;
  mlxq_status status = mlxq_file_exists(&there, path, error);
  if (!there) goto cleanup;
  status = mlxq_file_read_text(&text, &length, path, MAX_GENERATION_CONFIG_BYTES, error);
  if (status != MLXQ_OK) goto cleanup;
  /* mlx-lm passes over a generation_config.json that is no JSON. */
  status = mlxq_json_parse(&generation, text, length, error);
  if (status == MLXQ_PARSE) status = MLXQ_OK;
  if (status != MLXQ_OK) goto cleanup;
  if (json_object_object_get_ex(generation, "eos_token_id", &eos) && is_truthy(eos)) {
    if (json_object_object_add(checkpoint->config, "eos_token_id", json_object_get(eos)) != 0) {
      json_object_put(eos);
      status = mlxq_fail_memory(error);
    }
  }
cleanup:
  json_object_put(generation);
  free(text);
  free(path);
  return status;
}

mlxq_status mlxq_checkpoint_note(mlxq_checkpoint *checkpoint, char *path, mlxq_error *error) {
  void *others = checkpoint->others;
  mlxq_file_identity identity;
  int fd = -1;
  mlxq_status status = path ? mlxq_file_open(&fd, &identity, path, error) : mlxq_fail_memory(error);
  mlxq_file_close(fd);
  if (status == MLXQ_OK &&
      !mlxq_grow(&others, checkpoint->other_count, &checkpoint->other_capacity, sizeof *checkpoint->others)) {
    status = mlxq_fail_memory(error);
  }
  if (status != MLXQ_OK) {
    free(path);
    return status;
  }
  checkpoint->others = others;
  checkpoint->others[checkpoint->other_count++] =
      (mlxq_source_file){.path = path, .name = mlxq_path_base(path), .identity = identity};
  return MLXQ_OK;
}

/* Takes note of what is about to be read. What cannot be opened is left to those who read it. */
static mlxq_status note_read_files(mlxq_checkpoint *checkpoint, mlxq_error *error) {
  static const char *const NAMES[] = {"config.json",       "generation_config.json", MLXQ_INDEX_NAME,
                                      "quant_config.json", "quantize_config.json",   "hf_quant_config.json"};
  for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
    mlxq_status status = mlxq_checkpoint_note(checkpoint, mlxq_path_join(checkpoint->path, NAMES[i]), error);
    if (status == MLXQ_NO_MEMORY) return status;
  }
  return MLXQ_OK;
}

/* What a folder holds, as far as it can be read. */
static mlxq_status survey_folder(mlxq_checkpoint *checkpoint, const mlxq_flaws *flaws, mlxq_error *error) {
  mlxq_status read = read_config(checkpoint, error);
  mlxq_status status = mlxq_flaws_take(flaws, read, error);
  if (read != MLXQ_OK) {
    json_object_put(checkpoint->config);
    checkpoint->config = NULL;
  }
  if (status == MLXQ_OK) status = mlxq_survey_shards(checkpoint, flaws, error);
  if (status == MLXQ_OK) status = mlxq_survey_headers(checkpoint, flaws, error);
  if (status == MLXQ_OK)
    status = mlxq_flaws_take(flaws, mlxq_index_survey(checkpoint, &checkpoint->index_bytes, flaws, error), error);
  return status;
}

/* The files of a conversion that is not finished have their sizes and headers, but not all of their content. */
static mlxq_status check_finished(const mlxq_checkpoint *checkpoint, const mlxq_flaws *flaws, mlxq_error *error) {
  bool there = false;
  char *path = mlxq_path_join(checkpoint->path, MLXQ_JOURNAL_NAME);
  mlxq_status status = path ? mlxq_file_exists(&there, path, error) : mlxq_fail_memory(error);
  if (there) {
    mlxq_fail(error, MLXQ_CORRUPT, NULL, NULL, "the folder is of a conversion that is not finished; run that again");
    status = mlxq_flaws_take(flaws, mlxq_error_at_file(error, MLXQ_CORRUPT, path), error);
  }
  free(path);
  return status;
}

static mlxq_status open_folder(mlxq_checkpoint *checkpoint, const mlxq_flaws *flaws, mlxq_error *error) {
  mlxq_status status = list_shards(checkpoint, error);
  if (status != MLXQ_OK) return status;
  if (checkpoint->file_count == 0) {
    mlxq_fail(error, MLXQ_IO, NULL, NULL, "the folder holds no .safetensors file");
    return mlxq_error_at_file(error, MLXQ_IO, checkpoint->path);
  }
  status = check_finished(checkpoint, flaws, error);
  if (status == MLXQ_OK) status = note_read_files(checkpoint, error);
  if (status != MLXQ_OK) return status;
  if (flaws) return survey_folder(checkpoint, flaws, error);
  status = read_config(checkpoint, error);
  if (status == MLXQ_OK) status = merge_generation_config(checkpoint, error);
  if (status == MLXQ_OK) status = read_headers(checkpoint, error);
  if (status == MLXQ_OK) status = mlxq_index_check(checkpoint, error);
  return status;
}

mlxq_status mlxq_checkpoint_open(mlxq_checkpoint **result, const char *path, mlxq_error *error) {
  return mlxq_checkpoint_survey(result, path, NULL, NULL, error);
}

mlxq_status mlxq_checkpoint_survey(mlxq_checkpoint **result, const char *path, const mlxq_cancel *cancel,
                                   const mlxq_flaws *flaws, mlxq_error *error) {
  struct stat status_of_path;
  *result = NULL;
  if (!*path) return mlxq_fail(error, MLXQ_IO, NULL, NULL, "the source needs a name");
  if (stat(path, &status_of_path) != 0) return mlxq_fail_errno(error, errno, path, "cannot open");
  mlxq_checkpoint *checkpoint = mlxq_calloc(1, sizeof *checkpoint);
  if (!checkpoint) return mlxq_fail_memory(error);
  checkpoint->is_folder = S_ISDIR(status_of_path.st_mode);
  checkpoint->index_bytes = MLXQ_NO_TOTAL;
  if (cancel) checkpoint->cancel = *cancel;
  checkpoint->path = mlxq_asprintf("%s", path);
  mlxq_status status = checkpoint->path ? mlxq_weights_new(&checkpoint->tensors, error) : mlxq_fail_memory(error);
  if (status == MLXQ_OK && checkpoint->is_folder) {
    status = open_folder(checkpoint, flaws, error);
  } else if (status == MLXQ_OK) {
    size_t capacity = 0;
    status = add_file(checkpoint, &capacity, mlxq_asprintf("%s", path), error);
    if (status == MLXQ_OK) {
      status = flaws ? mlxq_survey_headers(checkpoint, flaws, error) : read_headers(checkpoint, error);
    }
  }
  if (status != MLXQ_OK) {
    mlxq_checkpoint_free(checkpoint);
    return status;
  }
  *result = checkpoint;
  return MLXQ_OK;
}

void mlxq_checkpoint_free(mlxq_checkpoint *checkpoint) {
  if (!checkpoint) return;
  free_files(checkpoint->files, checkpoint->file_count);
  free_files(checkpoint->others, checkpoint->other_count);
  mlxq_weights_free(checkpoint->tensors);
  json_object_put(checkpoint->config);
  free(checkpoint->config_path);
  free(checkpoint->path);
  free(checkpoint);
}

static mlxq_status check_files(const mlxq_source_file *files, size_t count, mlxq_error *error) {
  for (size_t i = 0; i < count; i++) {
    int fd = -1;
    if (files[i].unknown) continue;
    mlxq_status status = mlxq_file_reopen(&fd, &files[i].identity, files[i].path, error);
    if (status != MLXQ_OK) return status;
    mlxq_file_close(fd);
  }
  return MLXQ_OK;
}

/* Whether the folder's files of tensors are those that were opened: one may have come since. */
static mlxq_status check_listing(const mlxq_checkpoint *checkpoint, mlxq_error *error) {
  mlxq_checkpoint now = {.path = checkpoint->path};
  mlxq_status status = list_shards(&now, error);
  for (size_t i = 0; status == MLXQ_OK && i < now.file_count; i++) {
    const char *path = now.files[i].path;
    if (bsearch(&now.files[i], checkpoint->files, checkpoint->file_count, sizeof *now.files, compare_files)) continue;
    mlxq_fail(error, MLXQ_CHANGED, NULL, NULL, "the file was added while others were read");
    status = mlxq_error_at_file(error, MLXQ_CHANGED, path);
  }
  free_files(now.files, now.file_count);
  return status;
}

mlxq_status mlxq_checkpoint_check(const mlxq_checkpoint *checkpoint, mlxq_error *error) {
  mlxq_status status = check_files(checkpoint->files, checkpoint->file_count, error);
  if (status == MLXQ_OK) status = check_files(checkpoint->others, checkpoint->other_count, error);
  return status == MLXQ_OK && checkpoint->is_folder ? check_listing(checkpoint, error) : status;
}

struct json_object *mlxq_checkpoint_foreign_block(const mlxq_checkpoint *checkpoint) {
  struct json_object *block = NULL, *text_config = NULL;
  json_object_object_get_ex(checkpoint->config, "quantization_config", &block);
  if (!block && json_object_object_get_ex(checkpoint->config, "text_config", &text_config)) {
    json_object_object_get_ex(text_config, "quantization_config", &block);
  }
  return is_truthy(block) ? block : NULL;
}

/* The quant_method of a block; "unknown" for one that names none. */
static const char *method_of(struct json_object *block) {
  struct json_object *method = NULL;
  if (json_object_object_get_ex(block, "quant_method", &method) && json_object_is_type(method, json_type_string)) {
    return json_object_get_string(method);
  }
  return "unknown";
}

/* A config file beside the weights, by which packers of other formats are known; NULL without one. */
static mlxq_status method_by_files(const char **method, const mlxq_checkpoint *checkpoint, mlxq_error *error) {
  static const char *const FILES[][2] = {
      {"quant_config.json", "awq"}, {"quantize_config.json", "gptq"}, {"hf_quant_config.json", "modelopt"}};
  mlxq_status status = MLXQ_OK;
  *method = NULL;
  for (size_t i = 0; status == MLXQ_OK && i < sizeof FILES / sizeof *FILES && !*method; i++) {
    bool there = false;
    char *path = mlxq_path_join(checkpoint->path, FILES[i][0]);
    if (!path) return mlxq_fail_memory(error);
    status = mlxq_file_exists(&there, path, error);
    if (there) *method = FILES[i][1];
    free(path);
  }
  return status;
}

/* Guesses by the names and types that the packers use, for folders whose config says nothing. */
static const char *foreign_by_tensors(const mlxq_weights *tensors) {
  for (size_t i = 0; i < tensors->count; i++) {
    const mlxq_tensor *tensor = &tensors->entries[i].tensor;
    const char *last = strrchr(tensor->name, '.');
    if (!last) continue;
    if (strcmp(last, ".qweight") == 0) {
      size_t layer_length = (size_t)(last - tensor->name);
      return mlxq_weights_part(tensors, tensor->name, layer_length, ".g_idx") ? "gptq" : "awq";
    }
    if (strcmp(last, ".weight_packed") == 0) return "compressed-tensors";
    if (strcmp(last, ".weight_scale_inv") == 0) return "fp8";
    if (strcmp(last, ".SCB") == 0) return "bitsandbytes";
    if (tensor->dtype == MLXQ_F8_E4M3 || tensor->dtype == MLXQ_F8_E5M2) return "fp8";
  }
  return NULL;
}

static bool is_integer(struct json_object *block, const char *key) {
  struct json_object *value = NULL;
  return json_object_object_get_ex(block, key, &value) && json_object_is_type(value, json_type_int);
}

static bool has_packed_layer(const mlxq_weights *tensors) {
  size_t length = 0;
  for (size_t i = 0; i < tensors->count; i++) {
    const mlxq_tensor *tensor = &tensors->entries[i].tensor;
    if (tensor->dtype == MLXQ_U32 && mlxq_name_splits(tensor->name, ".weight", &length) &&
        mlxq_weights_part(tensors, tensor->name, length, ".scales")) {
      return true;
    }
  }
  return false;
}

struct json_object *mlxq_checkpoint_lone_copy(const mlxq_checkpoint *checkpoint) {
  struct json_object *other = NULL;
  if (!checkpoint->config) return NULL;
  if (json_object_object_get_ex(checkpoint->config, "quantization", &other) && other) return NULL;
  struct json_object *block = mlxq_checkpoint_foreign_block(checkpoint);
  if (!json_object_is_type(block, json_type_object) || json_object_object_get_ex(block, "quant_method", NULL)) {
    return NULL;
  }
  if (foreign_by_tensors(checkpoint->tensors)) return NULL;
  bool speaks = is_integer(block, "group_size") && is_integer(block, "bits");
  return speaks || has_packed_layer(checkpoint->tensors) ? block : NULL;
}

mlxq_status mlxq_checkpoint_foreign(const char **method, bool *guessed, const mlxq_checkpoint *checkpoint,
                                    mlxq_error *error) {
  struct json_object *block = NULL;
  mlxq_status status = MLXQ_OK;
  *method = NULL;
  *guessed = false;
  if (checkpoint->config) {
    if (json_object_object_get_ex(checkpoint->config, "quantization", &block) && block) return MLXQ_OK;
    if (mlxq_checkpoint_lone_copy(checkpoint)) {
      mlxq_fail(error, MLXQ_MISSING_KEY, NULL, "quantization",
                "missing: MLX's own copy of it, quantization_config, is not read without it");
      return mlxq_error_at_file(error, MLXQ_MISSING_KEY, checkpoint->config_path);
    }
    block = mlxq_checkpoint_foreign_block(checkpoint);
    if (block) *method = method_of(block);
  }
  if (!*method && checkpoint->is_folder) status = method_by_files(method, checkpoint, error);
  if (status != MLXQ_OK || *method) return status;
  *method = foreign_by_tensors(checkpoint->tensors);
  *guessed = *method != NULL;
  return MLXQ_OK;
}

static mlxq_status check_block_size(const mlxq_checkpoint *checkpoint, mlxq_error *error) {
  struct json_object *block = NULL, *size = NULL;
  json_object_object_get_ex(checkpoint->config, "quantization_config", &block);
  if (!block || !json_object_object_get_ex(block, "weight_block_size", &size)) return MLXQ_OK;
  bool fits = json_object_is_type(size, json_type_array) && json_object_array_length(size) == 2;
  for (size_t i = 0; fits && i < 2; i++) fits = json_object_get_int(json_object_array_get_idx(size, i)) == 128;
  if (fits) return MLXQ_OK;
  mlxq_fail(error, MLXQ_UNSUPPORTED, NULL, "weight_block_size", "only blocks of 128 x 128 are known");
  return mlxq_error_at_file(error, MLXQ_UNSUPPORTED, checkpoint->config_path);
}

mlxq_status mlxq_checkpoint_accept(mlxq_checkpoint *checkpoint, const char *method, mlxq_error *error) {
  if (strcmp(method, "mxfp4") != 0) return check_block_size(checkpoint, error);
  const mlxq_scheme scheme = {MLXQ_MXFP4, 4, 32};
  mlxq_quant_config *config = NULL;
  struct json_object *block = NULL;
  mlxq_status status = mlxq_quant_config_new(&config, &scheme, error);
  if (status == MLXQ_OK) status = mlxq_quant_config_to_object(&block, config, error);
  mlxq_quant_config_free(config);
  if (status != MLXQ_OK) return status;
  if (json_object_object_add(checkpoint->config, "quantization", block) == 0) return MLXQ_OK;
  json_object_put(block);
  return mlxq_fail_memory(error);
}

mlxq_status mlxq_checkpoint_quantization(mlxq_quant_config **config, const mlxq_checkpoint *checkpoint,
                                         mlxq_error *error) {
  struct json_object *block = NULL;
  *config = NULL;
  if (!checkpoint->config || !json_object_object_get_ex(checkpoint->config, "quantization", &block) || !block) {
    return MLXQ_OK;
  }
  mlxq_status status = mlxq_quant_config_from_json(config, block, error);
  return status == MLXQ_OK ? MLXQ_OK : mlxq_error_at_file(error, status, checkpoint->config_path);
}

/* Parameters that belong to a module with others inside it; mlx-lm counts those of the innermost modules only. */
static bool is_uncounted(const char *name) {
  static const char *const ENDS[] = {".A_log",
                                     ".D",
                                     ".dt_bias",
                                     ".sinks",
                                     ".attention_sink_bias",
                                     ".expert_bias",
                                     ".layer_scalar",
                                     ".router.scale",
                                     ".per_expert_scale"};
  size_t length = 0;
  for (size_t i = 0; i < sizeof ENDS / sizeof *ENDS; i++) {
    if (mlxq_name_splits(name, ENDS[i], &length)) return true;
  }
  return mlxq_name_splits(name, ".e_score_correction_bias", &length) &&
         !mlxq_name_splits(name, ".gate.e_score_correction_bias", &length);
}

/* The string under a key, or NULL. */
static const char *string_of(struct json_object *object, const char *key) {
  struct json_object *value = NULL;
  json_object_object_get_ex(object, key, &value);
  return json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL;
}

const char *mlxq_torch_dtype_name(mlxq_dtype dtype) {
  switch (dtype) {
    case MLXQ_F16:
      return "float16";
    case MLXQ_BF16:
      return "bfloat16";
    case MLXQ_F32:
      return "float32";
    default:
      return NULL;
  }
}

bool mlxq_checkpoint_dtype(const mlxq_checkpoint *checkpoint, mlxq_dtype *dtype) {
  struct json_object *config = checkpoint->config, *text_config = NULL;
  if (!config) return false;
  const char *name = string_of(config, "torch_dtype");
  if (!name && json_object_object_get_ex(config, "text_config", &text_config) &&
      json_object_is_type(text_config, json_type_object)) {
    name = string_of(text_config, "dtype");
  }
  for (int i = 0; name && i < MLXQ_DTYPE_COUNT; i++) {
    const char *known = mlxq_torch_dtype_name((mlxq_dtype)i);
    if (!known || strcmp(name, known) != 0) continue;
    *dtype = (mlxq_dtype)i;
    return true;
  }
  return false;
}

uint64_t mlxq_count_parameters(const mlxq_weights *tensors, const mlxq_quant_config *config) {
  uint64_t parameters = 0;
  for (size_t i = 0; i < tensors->count; i++) {
    const mlxq_tensor *tensor = &tensors->entries[i].tensor;
    uint64_t elems = mlxq_tensor_elems(tensor);
    size_t layer_length = 0;
    if (is_uncounted(tensor->name)) continue;
    if (config && (mlxq_name_splits(tensor->name, ".scales", &layer_length) ||
                   mlxq_name_splits(tensor->name, ".biases", &layer_length))) {
      const mlxq_tensor *weight = mlxq_weights_part(tensors, tensor->name, layer_length, ".weight");
      if (weight && weight->dtype == MLXQ_U32) continue;
    }
    if (config && tensor->dtype == MLXQ_U32 && mlxq_name_splits(tensor->name, ".weight", &layer_length) &&
        mlxq_weights_part(tensors, tensor->name, layer_length, ".scales")) {
      char path[MLXQ_SAFETENSORS_MAX_NAME_BYTES + 1];
      memcpy(path, tensor->name, layer_length);
      path[layer_length] = '\0';
      const mlxq_scheme *scheme = mlxq_quant_config_lookup(config, path);
      if (scheme && scheme->bits > 0) elems = elems * 32 / (uint64_t)scheme->bits;
    }
    parameters += elems;
  }
  return parameters;
}

bool mlxq_is_side_file(const char *name) {
  static const char *const PATTERNS[] = {
      "tokenizer*",
      "special_tokens_map*.json",
      "added_tokens*.json",
      "vocab*",
      "merges*",
      "*.jinja",
      "chat_template*.json",
      "*.tiktoken",
      "*.model",
      "*.py",
      "generation_config.json",
  };
  if (fnmatch("*.safetensors*", name, 0) == 0) return false;
  for (size_t i = 0; i < sizeof PATTERNS / sizeof *PATTERNS; i++) {
    if (fnmatch(PATTERNS[i], name, FNM_PERIOD) == 0) return true;
  }
  return false;
}
