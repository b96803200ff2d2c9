#include "plan/family.h"

#include "base/error.h"

#include <fnmatch.h>
#include <json-c/json_object.h>
#include <json-c/json_object_iterator.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* How a family decides whether the output head is the embedding. */
typedef enum tie_rule {
  TIE_BY_KEY,         /* tie_word_embeddings; untied where the key is absent */
  TIE_BY_KEY_OR_TRUE, /* tie_word_embeddings; tied where the key is absent */
  TIE_ALWAYS,
  TIE_BY_PRESENCE, /* tied where there is no lm_head */
  TIE_NEVER,       /* the key means nothing */
} tie_rule;

struct mlxq_family {
  const char *model_type;
  tie_rule tie;
  const char *refused; /* why it cannot be converted yet; NULL where it can */
  bool (*option)(const char *layer, mlxq_layer_option *option);
};

static bool ends_with(const char *text, const char *suffix) {
  size_t length = 0;
  return mlxq_name_splits(text, suffix, &length);
}

/* Granite keeps the layers with the smallest weights at 8 bits, without naming a mode. */
static bool granite_option(const char *layer, mlxq_layer_option *option) {
  if (!ends_with(layer, "self_attn.o_proj") && !ends_with(layer, "mlp.down_proj") && strcmp(layer, "lm_head") != 0) {
    return false;
  }
  *option = (mlxq_layer_option){
      .kind = MLXQ_LAYER_SCHEME, .scheme = {.mode = MLXQ_AFFINE, .bits = 8, .group_size = 64}, .mode_implied = true};
  return true;
}

#define EXPERTS   "its experts must be stacked"
#define TRANSFORM "its tensors must be split, transposed or rescaled"
#define CONV      "its convolutions must be transposed"

static const mlxq_family FAMILIES[] = {
    {"cohere", TIE_ALWAYS, NULL, NULL},
    {"cohere2", TIE_ALWAYS, NULL, NULL},
    {"ernie4_5", TIE_BY_KEY, NULL, NULL},
    {"exaone", TIE_BY_KEY_OR_TRUE, NULL, NULL},
    {"exaone4", TIE_BY_KEY, NULL, NULL},
    {"gemma", TIE_ALWAYS, NULL, NULL},
    {"gemma2", TIE_ALWAYS, NULL, NULL},
    {"gemma3_text", TIE_BY_PRESENCE, NULL, NULL},
    {"glm", TIE_BY_KEY_OR_TRUE, NULL, NULL},
    {"glm4", TIE_NEVER, NULL, NULL},
    {"granite", TIE_BY_KEY_OR_TRUE, NULL, granite_option},
    {"helium", TIE_NEVER, NULL, NULL},
    {"hunyuan_v1_dense", TIE_BY_KEY, NULL, NULL},
    {"iquestcoder", TIE_BY_KEY_OR_TRUE, NULL, NULL},
    {"internlm2", TIE_BY_KEY, NULL, NULL},
    {"internlm3", TIE_BY_KEY, NULL, NULL},
    {"llama", TIE_BY_KEY_OR_TRUE, NULL, NULL},
    {"mimo", TIE_BY_KEY, NULL, NULL},
    {"minicpm3", TIE_BY_KEY, NULL, NULL},
    {"ministral3", TIE_BY_KEY_OR_TRUE, NULL, NULL},
    {"mistral", TIE_BY_KEY_OR_TRUE, NULL, NULL},
    {"nemotron", TIE_BY_KEY, NULL, NULL},
    {"olmo", TIE_NEVER, NULL, NULL},
    {"olmo2", TIE_BY_KEY_OR_TRUE, NULL, NULL},
    {"olmo3", TIE_BY_KEY, NULL, NULL},
    {"phi", TIE_NEVER, NULL, NULL},
    {"phi3", TIE_BY_KEY, NULL, NULL},
    {"qwen", TIE_NEVER, NULL, NULL},
    {"qwen2", TIE_BY_KEY_OR_TRUE, NULL, NULL},
    {"qwen3", TIE_BY_KEY, NULL, NULL},
    {"seed_oss", TIE_BY_KEY_OR_TRUE, NULL, NULL},
    {"smollm3", TIE_BY_KEY_OR_TRUE, NULL, NULL},
    {"stablelm", TIE_NEVER, NULL, NULL},
    {"starcoder2", TIE_BY_KEY_OR_TRUE, NULL, NULL},
    {"xverse", TIE_BY_KEY_OR_TRUE, NULL, NULL},

    {"deepseek", TIE_NEVER, EXPERTS, NULL},
    {"deepseek_v2", TIE_NEVER, EXPERTS, NULL},
    {"dots1", TIE_NEVER, EXPERTS, NULL},
    {"ernie4_5_moe", TIE_NEVER, EXPERTS, NULL},
    {"exaone_moe", TIE_NEVER, EXPERTS, NULL},
    {"glm4_moe", TIE_NEVER, EXPERTS, NULL},
    {"kimi_linear", TIE_NEVER, EXPERTS, NULL},
    {"lfm2_moe", TIE_NEVER, EXPERTS, NULL},
    {"mimo_v2_flash", TIE_NEVER, EXPERTS, NULL},
    {"minimax", TIE_NEVER, EXPERTS, NULL},
    {"minimax_m2", TIE_NEVER, EXPERTS, NULL},
    {"mixtral", TIE_NEVER, EXPERTS, NULL},
    {"nemotron_h", TIE_NEVER, EXPERTS, NULL},
    {"olmoe", TIE_NEVER, EXPERTS, NULL},
    {"phimoe", TIE_NEVER, EXPERTS, NULL},
    {"qwen2_moe", TIE_NEVER, EXPERTS, NULL},
    {"qwen3_moe", TIE_NEVER, EXPERTS, NULL},

    {"falcon_mamba", TIE_NEVER, CONV, NULL},
    {"jamba", TIE_NEVER, CONV, NULL},
    {"lfm2", TIE_NEVER, CONV, NULL},
    {"mamba", TIE_NEVER, CONV, NULL},
    {"mamba2", TIE_NEVER, CONV, NULL},

    {"baichuan_m1", TIE_NEVER, TRANSFORM, NULL},
    {"bailing_moe", TIE_NEVER, TRANSFORM, NULL},
    {"deepseek_v3", TIE_NEVER, TRANSFORM, NULL},
    {"deepseek_v32", TIE_NEVER, TRANSFORM, NULL},
    {"falcon_h1", TIE_NEVER, TRANSFORM, NULL},
    {"gemma4", TIE_NEVER, TRANSFORM, NULL},
    {"gemma4_text", TIE_NEVER, TRANSFORM, NULL},
    {"glm4_moe_lite", TIE_NEVER, TRANSFORM, NULL},
    {"gpt2", TIE_NEVER, TRANSFORM, NULL},
    {"gpt_oss", TIE_NEVER, TRANSFORM, NULL},
    {"granitemoe", TIE_NEVER, TRANSFORM, NULL},
    {"granitemoehybrid", TIE_NEVER, TRANSFORM, NULL},
    {"kimi_k2", TIE_NEVER, TRANSFORM, NULL},
    {"llama4", TIE_NEVER, TRANSFORM, NULL},
    {"llama4_text", TIE_NEVER, TRANSFORM, NULL},
    {"qwen3_5", TIE_NEVER, TRANSFORM, NULL},
    {"qwen3_5_moe", TIE_NEVER, TRANSFORM, NULL},
    {"qwen3_next", TIE_NEVER, TRANSFORM, NULL},
    {"qwen3_vl_moe", TIE_NEVER, TRANSFORM, NULL},
};

static const mlxq_family UNKNOWN = {NULL, TIE_BY_KEY, NULL, NULL};

const mlxq_family *mlxq_family_of(const mlxq_checkpoint *checkpoint) {
  struct json_object *model_type = NULL;
  if (!json_object_object_get_ex(checkpoint->config, "model_type", &model_type) ||
      !json_object_is_type(model_type, json_type_string)) {
    return &UNKNOWN;
  }
  for (size_t i = 0; i < sizeof FAMILIES / sizeof *FAMILIES; i++) {
    if (strcmp(json_object_get_string(model_type), FAMILIES[i].model_type) == 0) return &FAMILIES[i];
  }
  return &UNKNOWN;
}

const mlxq_family *mlxq_family_unknown(void) {
  return &UNKNOWN;
}

bool mlxq_family_is_known(const mlxq_family *family) {
  return family->model_type != NULL;
}

/* ---- Refusals -------------------------------------------------------------------------------------------------- */

/* Hybrids of attention and convolution may have their weights multiplied by numbers in the config. */
static mlxq_status check_multipliers(struct json_object *config, mlxq_error *error) {
  if (!json_object_is_type(config, json_type_object)) return MLXQ_OK;
  struct json_object_iterator at = json_object_iter_begin(config), end = json_object_iter_end(config);
  for (; !json_object_iter_equal(&at, &end); json_object_iter_next(&at)) {
    const char *key = json_object_iter_peek_name(&at);
    if (ends_with(key, "_multiplier")) {
      return mlxq_fail(error, MLXQ_UNSUPPORTED, NULL, key, "unknown model_type, and its weights may need multiplying");
    }
  }
  return MLXQ_OK;
}

mlxq_status mlxq_family_check(const mlxq_family *family, const mlxq_checkpoint *checkpoint, mlxq_error *error) {
  static const struct {
    const char *pattern, *reason;
  } SIGNS[] = {
      {"*norm_head*", "the head is normalised before it is used"},
      {"*.weight_scale_inv", "the weights are FP8 with scales of their own"},
      {"*_packed", "the weights are packed in another format"},
      {"*_blocks", "the weights are packed in another format"},
      {"*.c_attn.weight", "GPT-2's Conv1D weights are transposed"},
  };
  if (family->refused) {
    return mlxq_fail(error, MLXQ_UNSUPPORTED, NULL, "model_type", "%s: %s, which mlxq does not do yet",
                     family->model_type, family->refused);
  }
  if (family->model_type) return MLXQ_OK;
  bool conv1d = false;
  for (size_t i = 0; i < checkpoint->tensors->count; i++) {
    const char *name = checkpoint->tensors->entries[i].tensor.name;
    conv1d = conv1d || strstr(name, "conv1d") != NULL;
    for (size_t k = 0; k < sizeof SIGNS / sizeof *SIGNS; k++) {
      if (fnmatch(SIGNS[k].pattern, name, 0) == 0) {
        return mlxq_fail(error, MLXQ_UNSUPPORTED, NULL, name, "unknown model_type, and %s", SIGNS[k].reason);
      }
    }
  }
  struct json_object *text_config = NULL;
  if (!conv1d) return MLXQ_OK;
  mlxq_status status = check_multipliers(checkpoint->config, error);
  if (status == MLXQ_OK && json_object_object_get_ex(checkpoint->config, "text_config", &text_config)) {
    status = check_multipliers(text_config, error);
  }
  return status;
}

/* ---- Sanitize -------------------------------------------------------------------------------------------------- */

/* The number of the layer that a tensor belongs to ("model.layers.12.mlp..." is 12), or -1. */
static long layer_number(const char *name) {
  const char *at = strstr(name, "layers.");
  if (!at || (at != name && at[-1] != '.')) return -1;
  at += strlen("layers.");
  char *end;
  if (*at < '0' || *at > '9') return -1;
  long number = strtol(at, &end, 10);
  return *end == '.' ? number : -1;
}

static bool is_beyond(const char *name, long layer_count) {
  long number = layer_number(name);
  return number >= 0 && number >= layer_count;
}

/* The head, by the names that families use for it. */
static bool is_head(const mlxq_family *family, const char *name) {
  bool internlm2 = family->model_type && strcmp(family->model_type, "internlm2") == 0;
  const char *head = internlm2 ? "output." : "lm_head.";
  return strncmp(name, head, strlen(head)) == 0;
}

static bool is_tied(const mlxq_family *family, const mlxq_checkpoint *checkpoint, bool *open) {
  struct json_object *key = NULL;
  bool absent = !json_object_object_get_ex(checkpoint->config, "tie_word_embeddings", &key);
  *open = false;
  switch (family->tie) {
    case TIE_ALWAYS:
      return true;
    case TIE_BY_KEY:
    case TIE_BY_KEY_OR_TRUE:
      *open = absent && family->model_type;
      return absent ? family->tie == TIE_BY_KEY_OR_TRUE : json_object_get_boolean(key);
    default:
      return false;
  }
}

static bool is_dropped(const mlxq_family *family, const char *name, bool tied, long layer_count) {
  if (ends_with(name, "rotary_emb.inv_freq") || ends_with(name, "attention.rope.inv_freq")) return true;
  if (strncmp(name, "mtp.", 4) == 0 || strncmp(name, "model.mtp_layers.", 17) == 0) return true;
  if (is_beyond(name, layer_count)) return true;
  return tied && is_head(family, name);
}

/* Moves the descriptions of all tensors but the dropped ones to a new map. */
static mlxq_status keep_tensors(const mlxq_family *family, mlxq_checkpoint *checkpoint, bool tied, long layer_count,
                                mlxq_error *error) {
  mlxq_weights *kept = NULL;
  const mlxq_weights *all = checkpoint->tensors;
  mlxq_status status = mlxq_weights_new(&kept, error);
  for (size_t i = 0; status == MLXQ_OK && i < all->count; i++) {
    const mlxq_tensor_entry *entry = &all->entries[i];
    const mlxq_tensor *tensor = &entry->tensor;
    if (is_dropped(family, tensor->name, tied, layer_count)) continue;
    status = mlxq_weights_describe(kept, tensor->name, strlen(tensor->name), tensor->dtype, tensor->rank, tensor->shape,
                                   entry->file, entry->offset, NULL, error);
  }
  if (status != MLXQ_OK) {
    mlxq_weights_free(kept);
    return status;
  }
  mlxq_weights_free(checkpoint->tensors);
  checkpoint->tensors = kept;
  return MLXQ_OK;
}

static mlxq_status write_tied(mlxq_checkpoint *checkpoint, bool tied, mlxq_error *error) {
  struct json_object *value = json_object_new_boolean(tied);
  if (value && json_object_object_add(checkpoint->config, "tie_word_embeddings", value) == 0) return MLXQ_OK;
  json_object_put(value);
  return mlxq_fail_memory(error);
}

mlxq_status mlxq_family_sanitize(const mlxq_family *family, mlxq_checkpoint *checkpoint,
                                 void (*warn)(void *user, const char *message), void *user, mlxq_error *error) {
  struct json_object *hidden_layers = NULL;
  bool open = false, head = false, drops = false, extra_layers = false;
  bool tied = is_tied(family, checkpoint, &open);
  long layer_count = LONG_MAX;
  if (family->model_type && json_object_object_get_ex(checkpoint->config, "num_hidden_layers", &hidden_layers) &&
      json_object_is_type(hidden_layers, json_type_int)) {
    layer_count = json_object_get_int(hidden_layers);
  }
  for (size_t i = 0; i < checkpoint->tensors->count; i++) {
    const char *name = checkpoint->tensors->entries[i].tensor.name;
    head = head || is_head(family, name);
    drops = drops || is_dropped(family, name, tied, layer_count);
    extra_layers = extra_layers || is_beyond(name, layer_count);
  }
  mlxq_status status = open && head ? write_tied(checkpoint, tied, error) : MLXQ_OK;
  if (status == MLXQ_OK && drops) status = keep_tensors(family, checkpoint, tied, layer_count, error);
  if (status != MLXQ_OK || !warn) return status;
  if (open && head && tied) {
    warn(user,
         "config.json does not say tie_word_embeddings; mlx-lm takes this family's embeddings as tied, so lm_head is "
         "dropped");
  }
  if (drops && !family->model_type) {
    warn(user,
         "unknown model_type: rotary tables, multi-token prediction and a tied lm_head are dropped, as mlx-lm does");
  }
  if (extra_layers) warn(user, "layers beyond num_hidden_layers are dropped, as mlx-lm does");
  return MLXQ_OK;
}

/* ---- Which layers ---------------------------------------------------------------------------------------------- */

static bool is_one_of(const char *text, const char *const *list, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (strcmp(text, list[i]) == 0) return true;
  }
  return false;
}

/* Layers that a family we do not know may hold, and that often are not nn.Linear. */
static bool is_doubtful(const char *layer, const char *last) {
  static const char *const LAST[] = {"gate", "router", "wg", "classifier", "kv_b_proj"};
  static const char *const INSIDE[] = {"vision", "visual", "audio", "patch", "position", "experts"};
  if (is_one_of(last, LAST, sizeof LAST / sizeof *LAST)) return true;
  for (size_t i = 0; i < sizeof INSIDE / sizeof *INSIDE; i++) {
    if (strstr(layer, INSIDE[i])) return true;
  }
  return false;
}

bool mlxq_family_quantizes(const mlxq_family *family, const char *layer, const mlxq_tensor *weight) {
  static const char *const CONVOLUTIONS[] = {"conv", "conv1d", "conv_1d"};
  const char *dot = strrchr(layer, '.');
  const char *last = dot ? dot + 1 : layer;
  if (weight->rank < 2 || weight->rank > 3) return false;
  if (strstr(last, "norm") || is_one_of(last, CONVOLUTIONS, sizeof CONVOLUTIONS / sizeof *CONVOLUTIONS)) return false;
  return family->model_type || (weight->rank == 2 && !is_doubtful(layer, last));
}

bool mlxq_family_option(const mlxq_family *family, const char *layer, mlxq_layer_option *option) {
  return family->option && family->option(layer, option);
}
