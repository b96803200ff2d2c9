#include "checkpoint/config_out.h"

#include "base/error.h"
#include "base/json.h"

#include <json-c/linkhash.h>
#include <string.h>

/* What is kept of the result's config.json, within the promise of memory. */
enum { MAX_CONFIG_BYTES = 16 << 20, CONFIG_BYTES_OF_TENSOR = 512 };

/* Adds a member and takes its value over; false, the value released, when memory is out. */
static bool add(struct json_object *object, const char *key, struct json_object *value) {
  if (json_object_object_add(object, key, value) == 0) return true;
  json_object_put(value);
  return false;
}

static bool add_number(struct json_object *object, const char *key, int number) {
  struct json_object *value = json_object_new_int(number);
  return value && add(object, key, value);
}

/* Adds what the config's own block says of a layer, or a key of the whole. mlx-lm writes a layer's group size as null
 * where it is the mode's default; a number says the same to everyone. Parsed objects are shared, so that takes a new
 * one. */
static bool add_existing(struct json_object *block, const char *path, struct json_object *value) {
  struct json_object *group_size = NULL, *mode_name = NULL;
  mlxq_mode mode = MLXQ_AFFINE;
  if (!json_object_is_type(value, json_type_object) || !json_object_object_get_ex(value, "group_size", &group_size) ||
      group_size) {
    return add(block, path, json_object_get(value));
  }
  if (json_object_object_get_ex(value, "mode", &mode_name)) {
    mlxq_mode_parse(&mode, json_object_get_string(mode_name), NULL);
  }
  struct json_object *layer = json_object_new_object();
  if (!layer || !add(block, path, layer)) return false;
  json_object_object_foreach(value, key, member) {
    bool added = strcmp(key, "group_size") == 0 ? add_number(layer, key, mlxq_scheme_default(mode).group_size)
                                                : add(layer, key, json_object_get(member));
    if (!added) return false;
  }
  return true;
}

static bool add_scheme(struct json_object *object, const mlxq_scheme *scheme, bool mode_implied) {
  if (!add_number(object, "group_size", scheme->group_size) || !add_number(object, "bits", scheme->bits)) return false;
  if (mode_implied && scheme->mode == MLXQ_AFFINE) return true;
  struct json_object *name = json_object_new_string(mlxq_mode_name(scheme->mode));
  return name && add(object, "mode", name);
}

/* Entries made for layers, by turns: an object for each of 100,000 layers would take 100 MB, and most layers have one
 * of a few schemes. */
typedef struct made_entries {
  struct {
    mlxq_layer_option option;
    struct json_object *entry;
  } recent[8];
  unsigned next;
} made_entries;

static bool same_option(const mlxq_layer_option *a, const mlxq_layer_option *b) {
  return a->kind == b->kind && a->scheme.mode == b->scheme.mode && a->scheme.bits == b->scheme.bits &&
         a->scheme.group_size == b->scheme.group_size && a->mode_implied == b->mode_implied;
}

static bool add_layer(struct json_object *block, const char *path, const mlxq_layer_option *option,
                      made_entries *made) {
  enum { RECENT = sizeof made->recent / sizeof *made->recent };
  for (size_t i = 0; i < RECENT; i++) {
    if (made->recent[i].entry && same_option(&made->recent[i].option, option)) {
      return add(block, path, json_object_get(made->recent[i].entry));
    }
  }
  bool is_scheme = option->kind == MLXQ_LAYER_SCHEME;
  struct json_object *entry =
      is_scheme ? json_object_new_object() : json_object_new_boolean(option->kind == MLXQ_LAYER_DEFAULT);
  if (!entry || !add(block, path, entry)) return false;
  if (is_scheme && !add_scheme(entry, &option->scheme, option->mode_implied)) return false;
  unsigned place = made->next++ % RECENT;
  json_object_put(made->recent[place].entry);
  made->recent[place].option = *option;
  made->recent[place].entry = json_object_get(entry);
  return true;
}

/* The source's block stays as it is, unknown keys included, and takes the new layers. */
static bool fill_block(struct json_object *block, struct json_object *existing, const mlxq_quant_config *added) {
  made_entries made = {0};
  bool complete = existing || add_scheme(block, mlxq_quant_config_default(added), false);
  if (existing) {
    json_object_object_foreach(existing, path, value) {
      complete = complete && add_existing(block, path, value);
    }
  }
  for (size_t i = 0; complete && i < mlxq_quant_config_layer_count(added); i++) {
    const mlxq_layer_option *option;
    const char *path = mlxq_quant_config_layer_at(added, i, &option);
    complete = add_layer(block, path, option, &made);
  }
  for (size_t i = 0; i < sizeof made.recent / sizeof *made.recent; i++) json_object_put(made.recent[i].entry);
  return complete;
}

/* Sets `quantization` and an equal `quantization_config`. */
static mlxq_status set_quantization(struct json_object *config, const mlxq_quant_config *added, mlxq_error *error) {
  struct json_object *existing = NULL;
  json_object_object_get_ex(config, "quantization", &existing);
  if (!existing && !mlxq_quant_config_default(added)) {
    return mlxq_fail(error, MLXQ_INVARIANT, NULL, NULL, "a quantization block needs a default scheme");
  }
  struct json_object *block = json_object_new_object();
  if (!block) return mlxq_fail_memory(error);
  bool complete = fill_block(block, existing, added) && add(config, "quantization", json_object_get(block)) &&
                  add(config, "quantization_config", json_object_get(block));
  json_object_put(block);
  return complete ? MLXQ_OK : mlxq_fail_memory(error);
}

mlxq_status mlxq_config_write(mlxq_text *text, mlxq_checkpoint *checkpoint, const mlxq_quant_config *added,
                              bool keep_vision, mlxq_error *error) {
  struct json_object *config = checkpoint->config;
  json_object_object_del(config, "_name_or_path");
  if (!keep_vision) json_object_object_del(config, "vision_config");
  if (added) {
    mlxq_status status = set_quantization(config, added, error);
    if (status != MLXQ_OK) return status;
  } else {
    json_object_object_del(config, "quantization");
    json_object_object_del(config, "quantization_config");
  }
  if (!mlxq_json_sort_keys(config)) return mlxq_fail_memory(error);
  size_t max_bytes = MAX_CONFIG_BYTES + CONFIG_BYTES_OF_TENSOR * checkpoint->tensors->count;
  if (!mlxq_json_write_within(text, config, 4, max_bytes)) {
    mlxq_fail(error, MLXQ_OUT_OF_RANGE, NULL, NULL, "the result's config.json would have more than %zu bytes",
              max_bytes);
    return mlxq_error_at_file(error, MLXQ_OUT_OF_RANGE, checkpoint->config_path);
  }
  return text->failed ? mlxq_fail_memory(error) : MLXQ_OK;
}
