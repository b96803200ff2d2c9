#include "checkpoint/config_out.h"

#include "base/error.h"
#include "base/json.h"
#include "scheme/quant_config.h"

#include <json-c/linkhash.h>

/* Moves every member of `from` into `into`, over what is there. */
static bool merge(struct json_object *into, struct json_object *from) {
  json_object_object_foreach(from, key, value) {
    if (json_object_object_add(into, key, json_object_get(value)) != 0) {
      json_object_put(value);
      return false;
    }
  }
  return true;
}

/* mlx-lm writes a layer's group size as null where it is the mode's default; a number says the same to everyone. */
static bool number_group_sizes(struct json_object *block) {
  json_object_object_foreach(block, path, layer) {
    struct json_object *group_size = NULL, *mode_name = NULL;
    mlxq_mode mode = MLXQ_AFFINE;
    (void)path;
    if (!json_object_is_type(layer, json_type_object)) continue;
    if (!json_object_object_get_ex(layer, "group_size", &group_size) || group_size) continue;
    if (json_object_object_get_ex(layer, "mode", &mode_name)) {
      mlxq_mode_parse(&mode, json_object_get_string(mode_name), NULL);
    }
    struct json_object *number = json_object_new_int(mlxq_scheme_default(mode).group_size);
    if (!number || json_object_object_add(layer, "group_size", number) != 0) {
      json_object_put(number);
      return false;
    }
  }
  return true;
}

/* Sets `quantization` and an equal `quantization_config`. */
static mlxq_status set_quantization(struct json_object *config, const mlxq_quant_config *added, mlxq_error *error) {
  struct json_object *block = NULL, *existing = NULL;
  mlxq_status status = mlxq_quant_config_to_object(&block, added, error);
  if (status != MLXQ_OK) return status;
  if (json_object_object_get_ex(config, "quantization", &existing) && existing) {
    /* The source's block stays as it is, unknown keys included, and takes the new layers. */
    static const char *const GLOBAL[] = {"group_size", "bits", "mode"};
    for (size_t i = 0; i < sizeof GLOBAL / sizeof *GLOBAL; i++) json_object_object_del(block, GLOBAL[i]);
    bool merged = merge(existing, block) && number_group_sizes(existing);
    json_object_put(block);
    if (!merged) return mlxq_fail_memory(error);
    block = json_object_get(existing);
  } else if (json_object_object_add(config, "quantization", json_object_get(block)) != 0) {
    json_object_put(block);
    json_object_put(block);
    return mlxq_fail_memory(error);
  }
  if (json_object_object_add(config, "quantization_config", block) == 0) return MLXQ_OK;
  json_object_put(block);
  return mlxq_fail_memory(error);
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
  mlxq_json_write(text, config, 4);
  return text->failed ? mlxq_fail_memory(error) : MLXQ_OK;
}
