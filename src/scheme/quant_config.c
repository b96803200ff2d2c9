#include "scheme/quant_config.h"

#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"

#include <json-c/json_object_iterator.h>
#include <json-c/linkhash.h>
#include <stdlib.h>
#include <string.h>

typedef struct layer_entry {
  const char *path; /* in the arena */
  mlxq_layer_option option;
} layer_entry;

struct mlxq_quant_config {
  bool has_default;
  mlxq_layer_option fallback; /* the default scheme, as a layer has its own */
  layer_entry *layers;
  size_t count, capacity;
  uint32_t *slots; /* open addressing; 0 is empty, else index + 1 */
  size_t slot_count;
  mlxq_arena arena;
};

/* Members of the block that describe the whole of it. */
static bool is_reserved(const char *key) {
  static const char *const RESERVED[] = {"group_size",   "bits",         "mode",
                                         "quant_method", "linear_class", "quantization_mode"};
  for (size_t i = 0; i < sizeof RESERVED / sizeof *RESERVED; i++) {
    if (strcmp(key, RESERVED[i]) == 0) return true;
  }
  return false;
}

mlxq_status mlxq_quant_config_new(mlxq_quant_config **config, const mlxq_scheme *default_scheme, mlxq_error *error) {
  *config = mlxq_calloc(1, sizeof **config);
  if (!*config) return mlxq_fail_memory(error);
  (*config)->has_default = default_scheme != NULL;
  if (default_scheme) (*config)->fallback = (mlxq_layer_option){MLXQ_LAYER_SCHEME, *default_scheme, false};
  return MLXQ_OK;
}

void mlxq_quant_config_free(mlxq_quant_config *config) {
  if (!config) return;
  free(config->layers);
  free(config->slots);
  mlxq_arena_free(&config->arena);
  free(config);
}

void mlxq_free(void *memory) {
  free(memory);
}

/* The slot of a path, or the empty slot where it would go. There is always an empty one. */
static uint32_t *find_slot(const mlxq_quant_config *config, const char *path) {
  size_t mask = config->slot_count - 1;
  size_t i = (size_t)mlxq_hash(path, strlen(path)) & mask;
  while (config->slots[i] != 0 && strcmp(config->layers[config->slots[i] - 1].path, path) != 0) i = (i + 1) & mask;
  return &config->slots[i];
}

static bool rehash(mlxq_quant_config *config, size_t slot_count) {
  uint32_t *slots = mlxq_calloc(slot_count, sizeof *slots);
  if (!slots) return false;
  free(config->slots);
  config->slots = slots;
  config->slot_count = slot_count;
  for (size_t i = 0; i < config->count; i++) *find_slot(config, config->layers[i].path) = (uint32_t)(i + 1);
  return true;
}

mlxq_status mlxq_quant_config_set_layer(mlxq_quant_config *config, const char *path, const mlxq_layer_option *option,
                                        mlxq_error *error) {
  if (is_reserved(path)) {
    return mlxq_fail(error, MLXQ_USAGE, path, NULL, "the name is a key of the quantization block, not a layer");
  }
  if (config->count >= UINT32_MAX / 2) return mlxq_fail_memory(error);
  if (2 * (config->count + 1) > config->slot_count &&
      !rehash(config, config->slot_count ? 2 * config->slot_count : 64)) {
    return mlxq_fail_memory(error);
  }
  uint32_t *slot = find_slot(config, path);
  if (*slot != 0) {
    config->layers[*slot - 1].option = *option;
    return MLXQ_OK;
  }
  void *layers = config->layers;
  if (!mlxq_grow(&layers, config->count, &config->capacity, sizeof *config->layers)) return mlxq_fail_memory(error);
  config->layers = layers;
  const char *copy = mlxq_arena_text(&config->arena, path, strlen(path));
  if (!copy) return mlxq_fail_memory(error);
  config->layers[config->count++] = (layer_entry){copy, *option};
  *slot = (uint32_t)config->count;
  return MLXQ_OK;
}

mlxq_status mlxq_quant_config_from_layers(mlxq_quant_config **config, const mlxq_scheme *default_scheme,
                                          const char *const *paths, const mlxq_layer_option *options, size_t count,
                                          mlxq_error *error) {
  mlxq_status status = mlxq_quant_config_new(config, default_scheme, error);
  for (size_t i = 0; status == MLXQ_OK && i < count; i++) {
    status = mlxq_quant_config_set_layer(*config, paths[i], &options[i], error);
  }
  if (status != MLXQ_OK) {
    mlxq_quant_config_free(*config);
    *config = NULL;
  }
  return status;
}

/* `layer` is NULL for the block itself. */
static mlxq_status wrong_form(mlxq_error *error, const char *layer, const char *key, const char *reason) {
  return mlxq_fail(error, MLXQ_PARSE, layer, key, "%s%s", reason, layer ? "" : " in the quantization block");
}

static mlxq_status read_int32(int32_t *value, struct json_object *object, const char *key, const char *layer,
                              mlxq_error *error) {
  if (!json_object_object_get_ex(object, key, NULL)) return wrong_form(error, layer, key, "missing");
  if (!mlxq_json_get_int32(object, key, value)) return wrong_form(error, layer, key, "not a 32-bit integer");
  return MLXQ_OK;
}

/* Reads the three keys of a scheme out of the block (`layer` NULL) or a layer's object. */
static mlxq_status read_scheme(mlxq_layer_option *option, struct json_object *object, const char *layer,
                               mlxq_error *error) {
  struct json_object *mode, *group_size;
  *option = (mlxq_layer_option){MLXQ_LAYER_SCHEME, {.mode = MLXQ_AFFINE}, false};
  option->mode_implied = !json_object_object_get_ex(object, "mode", &mode);
  if (!option->mode_implied) {
    if (!json_object_is_type(mode, json_type_string)) return wrong_form(error, layer, "mode", "not a string");
    const char *name = json_object_get_string(mode);
    if (strlen(name) != (size_t)json_object_get_string_len(mode) ||
        mlxq_mode_parse(&option->scheme.mode, name, NULL) != MLXQ_OK) {
      return mlxq_fail(error, MLXQ_PARSE, layer, "mode", "unknown mode \"%s\"", name);
    }
  }
  if (layer && json_object_object_get_ex(object, "group_size", &group_size) && !group_size) {
    /* mlx-lm writes null for the mode's default. */
    option->scheme.group_size = mlxq_scheme_default(option->scheme.mode).group_size;
  } else {
    mlxq_status status = read_int32(&option->scheme.group_size, object, "group_size", layer, error);
    if (status != MLXQ_OK) return status;
  }
  return read_int32(&option->scheme.bits, object, "bits", layer, error);
}

static mlxq_status read_layer(mlxq_layer_option *option, struct json_object *value, const char *layer,
                              mlxq_error *error) {
  struct json_object *global_scale;
  *option = (mlxq_layer_option){.kind = MLXQ_LAYER_DEFAULT};
  if (json_object_is_type(value, json_type_boolean)) {
    if (!json_object_get_boolean(value)) option->kind = MLXQ_LAYER_SKIP;
    return MLXQ_OK;
  }
  if (!json_object_is_type(value, json_type_object)) {
    return wrong_form(error, layer, NULL, "neither true, false nor an object");
  }
  mlxq_status status = read_scheme(option, value, layer, error);
  if (status != MLXQ_OK) return status;
  if (json_object_object_get_ex(value, "global_scale", &global_scale) &&
      json_object_is_type(global_scale, json_type_boolean) && json_object_get_boolean(global_scale)) {
    return mlxq_fail(error, MLXQ_UNSUPPORTED, layer, "global_scale", "a scale for the whole tensor is not supported");
  }
  return MLXQ_OK;
}

mlxq_status mlxq_quant_config_from_json(mlxq_quant_config **config, struct json_object *block, mlxq_error *error) {
  return mlxq_quant_config_survey(config, block, NULL, error);
}

mlxq_status mlxq_quant_config_survey(mlxq_quant_config **config, struct json_object *block, const mlxq_flaws *flaws,
                                     mlxq_error *error) {
  struct json_object_iter member;
  mlxq_layer_option option;
  mlxq_quant_config *made = NULL;
  *config = NULL;
  if (!block) return MLXQ_OK;
  if (!json_object_is_type(block, json_type_object)) {
    return mlxq_fail(error, MLXQ_PARSE, NULL, "quantization", "not an object");
  }
  mlxq_status status = read_scheme(&option, block, NULL, error);
  if (status != MLXQ_OK) return status;
  status = mlxq_quant_config_new(&made, &option.scheme, error);
  if (status != MLXQ_OK) return status;
  made->fallback.mode_implied = option.mode_implied;
  json_object_object_foreachC(block, member) {
    if (is_reserved(member.key)) continue;
    status = read_layer(&option, member.val, member.key, error);
    if (status != MLXQ_OK) {
      status = mlxq_flaws_take(flaws, status, error);
      if (status != MLXQ_OK) goto cleanup;
      continue;
    }
    status = mlxq_quant_config_set_layer(made, member.key, &option, error);
    if (status != MLXQ_OK) goto cleanup;
  }
  *config = made;
  made = NULL;

cleanup:
  mlxq_quant_config_free(made);
  return status;
}

mlxq_status mlxq_quant_config_parse(mlxq_quant_config **config, const char *text, size_t text_bytes,
                                    mlxq_error *error) {
  struct json_object *document;
  *config = NULL;
  mlxq_status status = mlxq_json_parse(&document, text, text_bytes, error);
  if (status != MLXQ_OK) return status;
  if (json_object_is_type(document, json_type_object)) {
    status = mlxq_quant_config_from_json(config, json_object_object_get(document, "quantization"), error);
  }
  json_object_put(document);
  return status;
}

const mlxq_scheme *mlxq_quant_config_default(const mlxq_quant_config *config) {
  return config->has_default ? &config->fallback.scheme : NULL;
}

const mlxq_layer_option *mlxq_quant_config_layer(const mlxq_quant_config *config, const char *path) {
  if (config->count == 0) return NULL;
  uint32_t found = *find_slot(config, path);
  return found ? &config->layers[found - 1].option : NULL;
}

const mlxq_scheme *mlxq_quant_config_lookup(const mlxq_quant_config *config, const char *path) {
  const mlxq_layer_option *option = mlxq_quant_config_layer(config, path);
  if (option && option->kind == MLXQ_LAYER_SKIP) return NULL;
  if (option && option->kind == MLXQ_LAYER_SCHEME) return &option->scheme;
  return mlxq_quant_config_default(config);
}

size_t mlxq_quant_config_layer_count(const mlxq_quant_config *config) {
  return config->count;
}

const char *mlxq_quant_config_layer_at(const mlxq_quant_config *config, size_t index,
                                       const mlxq_layer_option **option) {
  if (index >= config->count) return NULL;
  if (option) *option = &config->layers[index].option;
  return config->layers[index].path;
}

/* Adds a member and takes its value over, also where that is NULL because memory is out. */
static bool add_member(struct json_object *object, const char *key, struct json_object *value) {
  if (value && json_object_object_add(object, key, value) == 0) return true;
  json_object_put(value);
  return false;
}

static bool add_scheme(struct json_object *object, const mlxq_layer_option *option) {
  const mlxq_scheme *scheme = &option->scheme;
  if (!add_member(object, "group_size", json_object_new_int(scheme->group_size)) ||
      !add_member(object, "bits", json_object_new_int(scheme->bits))) {
    return false;
  }
  if (option->mode_implied && scheme->mode == MLXQ_AFFINE) return true;
  return add_member(object, "mode", json_object_new_string(mlxq_mode_name(scheme->mode)));
}

static bool add_layer(struct json_object *block, const layer_entry *layer) {
  mlxq_layer_kind kind = layer->option.kind;
  if (kind != MLXQ_LAYER_SCHEME) {
    return add_member(block, layer->path, json_object_new_boolean(kind == MLXQ_LAYER_DEFAULT));
  }
  struct json_object *object = json_object_new_object();
  return add_member(block, layer->path, object) && add_scheme(object, &layer->option);
}

mlxq_status mlxq_quant_config_to_object(struct json_object **block, const mlxq_quant_config *config,
                                        mlxq_error *error) {
  *block = NULL;
  if (!config->has_default) {
    return mlxq_fail(error, MLXQ_INVARIANT, NULL, NULL, "a quantization block needs a default scheme");
  }
  struct json_object *object = json_object_new_object();
  bool complete = object && add_scheme(object, &config->fallback);
  for (size_t i = 0; complete && i < config->count; i++) complete = add_layer(object, &config->layers[i]);
  if (!complete) {
    json_object_put(object);
    return mlxq_fail_memory(error);
  }
  *block = object;
  return MLXQ_OK;
}

mlxq_status mlxq_quant_config_to_json(char **text, const mlxq_quant_config *config, mlxq_error *error) {
  struct json_object *block;
  mlxq_text written = {0};
  *text = NULL;
  mlxq_status status = mlxq_quant_config_to_object(&block, config, error);
  if (status != MLXQ_OK) return status;
  mlxq_json_write(&written, block, 0);
  json_object_put(block);
  if (written.failed) {
    mlxq_text_free(&written);
    return mlxq_fail_memory(error);
  }
  *text = written.data;
  return MLXQ_OK;
}
