#include "plan/family_rules.h"

#include "base/error.h"

#include <fnmatch.h>
#include <json-c/json_object.h>
#include <json-c/json_object_iterator.h>
#include <json-c/linkhash.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

static bool ends_with(const char *text, const char *suffix) {
  size_t length = 0;
  return mlxq_name_splits(text, suffix, &length);
}

/* ---- Traits ---------------------------------------------------------------------------------------------------- */

#define LIST(...)     ((const char *const[]){__VA_ARGS__, NULL})
#define RULES(...)    ((const mlxq_rule[]){__VA_ARGS__, {RULE_RENAME, NULL, NULL, NULL, NULL}})
#define PREFIXES(...) ((const mlxq_prefix[]){__VA_ARGS__, {NULL, NULL}})

#define RENAME(from, to) \
  { RULE_RENAME, from, to, NULL, NULL }
#define CONV(name) \
  { RULE_CONV, name, name, NULL, NULL }
#define ADD_ONE(name) \
  { RULE_ADD_ONE, name, name, NULL, NULL }
#define STACK(from, to) \
  { RULE_STACK, from, to, NULL, NULL }
#define TWO(op, from, first, second) \
  { RULE_##op, from, first, second, NULL }

/* Experts with a matrix each, numbered below `from`, to a stack below `to`. */
#define STACKS(from, to)                                                                                            \
  STACK(from ".#.gate_proj.weight", to ".gate_proj.weight"), STACK(from ".#.up_proj.weight", to ".up_proj.weight"), \
      STACK(from ".#.down_proj.weight", to ".down_proj.weight")
#define STACKS_W(from, to)                                                                              \
  STACK(from ".#.w1.weight", to ".gate_proj.weight"), STACK(from ".#.w3.weight", to ".up_proj.weight"), \
      STACK(from ".#.w2.weight", to ".down_proj.weight")

#define ADD_ONE_TO_NORMS                                                                                         \
  ADD_ONE(".input_layernorm.weight"), ADD_ONE(".post_attention_layernorm.weight"), ADD_ONE("model.norm.weight"), \
      ADD_ONE(".q_norm.weight"), ADD_ONE(".k_norm.weight")

#define KV_B TWO(KV_B, ".self_attn.kv_b_proj.weight", ".self_attn.embed_q.weight", ".self_attn.unembed_out.weight")

static const mlxq_rule MLP_STACKS[] = {STACKS(".mlp.experts", ".mlp.switch_mlp"),
                                       {RULE_RENAME, NULL, NULL, NULL, NULL}};
static const mlxq_rule BLOCK_STACKS[] = {STACKS_W(".block_sparse_moe.experts", ".block_sparse_moe.switch_mlp"),
                                         {RULE_RENAME, NULL, NULL, NULL, NULL}};
static const mlxq_rule CONV1D[] = {CONV(".conv1d.weight"), {RULE_RENAME, NULL, NULL, NULL, NULL}};
static const mlxq_rule MLA_STACKS[] = {
    STACKS(".mlp.experts", ".mlp.switch_mlp"), KV_B, {RULE_RENAME, NULL, NULL, NULL, NULL}};

static const mlxq_family_traits STACKED = {.rules = MLP_STACKS};
static const mlxq_family_traits STACKED_BLOCKS = {.rules = BLOCK_STACKS};
static const mlxq_family_traits STACKED_RAW = {.rules = MLP_STACKS, .raw = LIST(".mlp.gate")};
static const mlxq_family_traits MOVED_CONV = {.rules = CONV1D};

static const mlxq_family_traits GLM4_MOE = {
    .rules = MLP_STACKS, .raw = LIST(".mlp.gate"), .never_cast = LIST("e_score_correction_bias")};
static const mlxq_family_traits EXAONE_MOE = {
    .rules = RULES(STACKS(".mlp.experts", ".mlp.switch_mlp"),
                   RENAME(".mlp.e_score_correction_bias", ".mlp.gate.e_score_correction_bias")),
    .raw = LIST(".mlp.gate"),
    .never_cast = LIST("e_score_correction_bias")};
static const mlxq_family_traits DOTS1 = {.rules = RULES(STACKS(".mlp.experts", ".mlp.experts")),
                                         .raw = LIST(".mlp.gate")};
static const mlxq_family_traits ERNIE4_5_MOE = {
    .rules = MLP_STACKS,
    .dropped = LIST("mtp_block.", "mtp_linear_proj.", "mtp_hidden_norm.", "mtp_emb_norm.", "e_score_correction_bias")};
static const mlxq_family_traits QWEN3_MOE = {.rules = MLP_STACKS, .eight_bits = LIST("mlp.gate")};
static const mlxq_family_traits MINIMAX = {.fp8 = true,
                                           .rules = BLOCK_STACKS,
                                           .eight_bits = LIST("block_sparse_moe.gate"),
                                           .never_cast = LIST("e_score_correction_bias")};
static const mlxq_family_traits MIMO_V2_FLASH = {.fp8 = true,
                                                 .fp8_padded = true,
                                                 .rules = MLP_STACKS,
                                                 .raw = LIST(".mlp.gate"),
                                                 .never_cast = LIST("e_score_correction_bias"),
                                                 .dropped = LIST("model.mtp")};
static const mlxq_family_traits DEEPSEEK_V3 = {
    .fp8 = true, .rules = MLA_STACKS, .raw = LIST(".mlp.gate"), .never_cast = LIST("e_score_correction_bias")};

static const mlxq_family_traits GRANITE = {.eight_bits = LIST("self_attn.o_proj", "mlp.down_proj", "^lm_head")};
#define GRANITE_EXPERTS                                                                                 \
  TWO(HALVES, ".block_sparse_moe.input_linear.weight", ".block_sparse_moe.switch_mlp.gate_proj.weight", \
      ".block_sparse_moe.switch_mlp.up_proj.weight"),                                                   \
      RENAME(".block_sparse_moe.output_linear.weight", ".block_sparse_moe.switch_mlp.down_proj.weight")
static const mlxq_family_traits GRANITEMOE = {
    .rules = RULES(GRANITE_EXPERTS),
    .eight_bits = LIST("block_sparse_moe.router.layer", "self_attn.o_proj", "mlp.down_proj", "^lm_head")};
static const mlxq_family_traits GRANITEMOEHYBRID = {
    .rules = RULES(CONV(".conv1d.weight"), GRANITE_EXPERTS,
                   {RULE_HALVES, ".shared_mlp.input_linear.weight", ".mlp.gate_proj.weight", ".mlp.up_proj.weight",
                    ".block_sparse_moe.router.layer.weight"},
                   {RULE_RENAME, ".shared_mlp.output_linear.weight", ".mlp.down_proj.weight", NULL,
                    ".block_sparse_moe.router.layer.weight"}),
    .eight_bits = LIST("router.layer")};

#define QWEN3_5_PREFIXES                                                                                     \
  PREFIXES({"vision_tower", NULL}, {"model.visual", NULL}, {"model.language_model", "language_model.model"}, \
           {"language_model.", "language_model."}, {"", "language_model."})
static const mlxq_family_traits QWEN3_5 = {.rules = RULES(CONV(".conv1d.weight"), ADD_ONE_TO_NORMS),
                                           .prefixes = QWEN3_5_PREFIXES,
                                           .never_cast = LIST("A_log"),
                                           .dropped = LIST("mtp."),
                                           .add_one = ADD_ONE_WITH_CONV,
                                           .nested = true,
                                           .rope_type_renamed = true};
static const mlxq_family_traits QWEN3_5_MOE = {
    .rules = RULES(
        CONV(".conv1d.weight"), ADD_ONE_TO_NORMS,
        TWO(HALVES, ".mlp.experts.gate_up_proj", ".mlp.switch_mlp.gate_proj.weight", ".mlp.switch_mlp.up_proj.weight"),
        RENAME(".mlp.experts.down_proj", ".mlp.switch_mlp.down_proj.weight")),
    .prefixes = QWEN3_5_PREFIXES,
    .eight_bits = LIST("mlp.gate", "shared_expert_gate"),
    .never_cast = LIST("A_log"),
    .dropped = LIST("mtp."),
    .add_one = ADD_ONE_WITH_CONV,
    .nested = true,
    .rope_type_renamed = true};
static const mlxq_family_traits QWEN3_NEXT = {
    .rules = RULES(CONV(".conv1d.weight"), ADD_ONE_TO_NORMS, STACKS(".mlp.experts", ".mlp.switch_mlp")),
    .eight_bits = LIST("mlp.gate", "shared_expert_gate"),
    .dropped = LIST("mtp."),
    .add_one = ADD_ONE_WITH_EXPERTS};
static const mlxq_family_traits QWEN3_VL = {
    .prefixes = PREFIXES({"model.language_model.", "language_model.model."}, {"visual", NULL}, {"vision_tower", NULL},
                         {"model.visual", NULL}, {"language_model.", "language_model."}, {"", "language_model."}),
    .nested = true};
static const mlxq_family_traits QWEN3_VL_MOE = {
    .rules = RULES(TWO(HALVES_TRANSPOSED, ".mlp.experts.gate_up_proj", ".mlp.switch_mlp.gate_proj.weight",
                       ".mlp.switch_mlp.up_proj.weight"),
                   {RULE_TRANSPOSE, ".mlp.experts.down_proj", ".mlp.switch_mlp.down_proj.weight", NULL, NULL}),
    .prefixes = PREFIXES(
        {"model.language_model.", "language_model.model."}, {"language_model.model.", "language_model.model."},
        {"language_model.lm_head", "language_model.lm_head"}, {"lm_head.", "language_model.lm_head."}, {"", NULL}),
    .eight_bits = LIST("mlp.gate"),
    .nested = true};
static const mlxq_family_traits LLAMA4 = {
    .rules = RULES(
        TWO(HALVES_TRANSPOSED, ".feed_forward.experts.gate_up_proj", ".feed_forward.experts.gate_proj.weight",
            ".feed_forward.experts.up_proj.weight"),
        {RULE_TRANSPOSE, ".feed_forward.experts.down_proj", ".feed_forward.experts.down_proj.weight", NULL, NULL}),
    .dropped = LIST("vision_model", "multi_modal_projector"),
    .nested = true};

static const mlxq_family_traits LFM2 = {.rules = RULES(CONV(".conv.weight"))};
static const mlxq_family_traits LFM2_MOE = {
    .rules = RULES(CONV(".conv.weight"), STACKS_W(".feed_forward.experts", ".feed_forward.switch_mlp"),
                   RENAME(".w1.weight", ".gate_proj.weight"), RENAME(".w2.weight", ".down_proj.weight"),
                   RENAME(".w3.weight", ".up_proj.weight")),
    .eight_bits = LIST("feed_forward.gate"),
    .never_cast = LIST("expert_bias")};
static const mlxq_family_traits JAMBA = {
    .rules = RULES(CONV(".conv1d.weight"), STACKS(".feed_forward.experts", ".feed_forward.switch_mlp")),
    .eight_bits = LIST("router")};
static const mlxq_family_traits NEMOTRON_H = {
    .rules = RULES(CONV(".conv1d.weight"), STACK(".mixer.experts.#.up_proj.weight", ".mixer.switch_mlp.fc1.weight"),
                   STACK(".mixer.experts.#.down_proj.weight", ".mixer.switch_mlp.fc2.weight")),
    .raw = LIST(".mixer.gate"),
    .never_cast = LIST("e_score_correction_bias", "A_log")};

static const mlxq_family_traits GPT_OSS = {
    .mxfp4 = true,
    .rules =
        RULES(TWO(ALTERNATE_BLOCKS, ".mlp.experts.gate_up_proj_blocks", ".mlp.experts.gate_proj.weight",
                  ".mlp.experts.up_proj.weight"),
              TWO(ALTERNATE, ".mlp.experts.gate_up_proj_scales", ".mlp.experts.gate_proj.scales",
                  ".mlp.experts.up_proj.scales"),
              TWO(ALTERNATE, ".mlp.experts.gate_up_proj.weight", ".mlp.experts.gate_proj.weight",
                  ".mlp.experts.up_proj.weight"),
              TWO(ALTERNATE_COLUMNS, ".mlp.experts.gate_up_proj_bias", ".mlp.experts.gate_proj.bias",
                  ".mlp.experts.up_proj.bias"),
              {RULE_BLOCKS, ".mlp.experts.down_proj_blocks", ".mlp.experts.down_proj.weight", NULL, NULL},
              RENAME(".mlp.experts.down_proj_scales", ".mlp.experts.down_proj.scales"),
              RENAME(".mlp.experts.down_proj_bias", ".mlp.experts.down_proj.bias"),
              {RULE_REFUSE, ".mlp.experts.gate_up_proj",
               "holds the experts as transformers saves them in bfloat16, which mlx-lm does not load", NULL, NULL}),
    .eight_bits = LIST("router")};

/* ---- The table ------------------------------------------------------------------------------------------------- */

#define EXPERTS   "its experts must be stacked"
#define TRANSFORM "its tensors must be split, transposed or rescaled"

static const mlxq_family FAMILIES[] = {
    {"cohere", TIE_ALWAYS, NULL, NULL},
    {"cohere2", TIE_ALWAYS, NULL, NULL},
    {"deepseek", TIE_NEVER, NULL, &STACKED_RAW},
    {"deepseek_v2", TIE_NEVER, NULL, &STACKED_RAW},
    {"deepseek_v3", TIE_NEVER, NULL, &DEEPSEEK_V3},
    {"dots1", TIE_BY_KEY, NULL, &DOTS1},
    {"ernie4_5", TIE_BY_KEY, NULL, NULL},
    {"ernie4_5_moe", TIE_BY_KEY, NULL, &ERNIE4_5_MOE},
    {"exaone", TIE_BY_KEY_OR_TRUE, NULL, NULL},
    {"exaone4", TIE_BY_KEY, NULL, NULL},
    {"exaone_moe", TIE_BY_KEY, NULL, &EXAONE_MOE},
    {"falcon_mamba", TIE_BY_KEY_OR_TRUE, NULL, &MOVED_CONV},
    {"gemma", TIE_ALWAYS, NULL, NULL},
    {"gemma2", TIE_ALWAYS, NULL, NULL},
    {"gemma3_text", TIE_BY_PRESENCE, NULL, NULL},
    {"glm", TIE_BY_KEY_OR_TRUE, NULL, NULL},
    {"glm4", TIE_NEVER, NULL, NULL},
    {"glm4_moe", TIE_NEVER, NULL, &GLM4_MOE},
    {"glm4_moe_lite", TIE_NEVER, NULL, &DEEPSEEK_V3},
    {"gpt_oss", TIE_NEVER, NULL, &GPT_OSS},
    {"granite", TIE_BY_KEY_OR_TRUE, NULL, &GRANITE},
    {"granitemoe", TIE_BY_KEY_OR_TRUE, NULL, &GRANITEMOE},
    {"granitemoehybrid", TIE_BY_KEY_OR_TRUE, NULL, &GRANITEMOEHYBRID},
    {"helium", TIE_NEVER, NULL, NULL},
    {"hunyuan_v1_dense", TIE_BY_KEY, NULL, NULL},
    {"internlm2", TIE_BY_KEY, NULL, NULL},
    {"internlm3", TIE_BY_KEY, NULL, NULL},
    {"iquestcoder", TIE_BY_KEY_OR_TRUE, NULL, NULL},
    {"jamba", TIE_BY_KEY_OR_TRUE, NULL, &JAMBA},
    {"kimi_k2", TIE_NEVER, NULL, &DEEPSEEK_V3},
    {"lfm2", TIE_ALWAYS, NULL, &LFM2},
    {"lfm2_moe", TIE_ALWAYS, NULL, &LFM2_MOE},
    {"llama", TIE_BY_KEY_OR_TRUE, NULL, NULL},
    {"llama4", TIE_NEVER, NULL, &LLAMA4},
    {"mamba", TIE_BY_KEY_OR_TRUE, NULL, &MOVED_CONV},
    {"mamba2", TIE_BY_KEY, NULL, &MOVED_CONV},
    {"mimo", TIE_BY_KEY, NULL, NULL},
    {"mimo_v2_flash", TIE_NEVER, NULL, &MIMO_V2_FLASH},
    {"minicpm3", TIE_BY_KEY, NULL, NULL},
    {"minimax", TIE_BY_KEY, NULL, &MINIMAX},
    {"minimax_m2", TIE_BY_KEY, NULL, &MINIMAX},
    {"ministral3", TIE_BY_KEY_OR_TRUE, NULL, NULL},
    {"mistral", TIE_BY_KEY_OR_TRUE, NULL, NULL},
    {"mixtral", TIE_BY_KEY, NULL, &STACKED_BLOCKS},
    {"nemotron", TIE_BY_KEY, NULL, NULL},
    {"nemotron_h", TIE_NEVER, NULL, &NEMOTRON_H},
    {"olmo", TIE_NEVER, NULL, NULL},
    {"olmo2", TIE_BY_KEY_OR_TRUE, NULL, NULL},
    {"olmo3", TIE_BY_KEY, NULL, NULL},
    {"olmoe", TIE_BY_KEY_OR_TRUE, NULL, &STACKED},
    {"phi", TIE_NEVER, NULL, NULL},
    {"phi3", TIE_BY_KEY, NULL, NULL},
    {"phimoe", TIE_NEVER, NULL, &STACKED_BLOCKS},
    {"qwen", TIE_NEVER, NULL, NULL},
    {"qwen2", TIE_BY_KEY_OR_TRUE, NULL, NULL},
    {"qwen2_moe", TIE_NEVER, NULL, &STACKED},
    {"qwen3", TIE_BY_KEY, NULL, NULL},
    {"qwen3_5", TIE_BY_KEY, NULL, &QWEN3_5},
    {"qwen3_5_moe", TIE_BY_KEY, NULL, &QWEN3_5_MOE},
    {"qwen3_moe", TIE_BY_KEY, NULL, &QWEN3_MOE},
    {"qwen3_next", TIE_BY_KEY, NULL, &QWEN3_NEXT},
    {"qwen3_vl", TIE_BY_KEY, NULL, &QWEN3_VL},
    {"qwen3_vl_moe", TIE_NEVER, NULL, &QWEN3_VL_MOE},
    {"seed_oss", TIE_BY_KEY_OR_TRUE, NULL, NULL},
    {"smollm3", TIE_BY_KEY_OR_TRUE, NULL, NULL},
    {"stablelm", TIE_NEVER, NULL, NULL},
    {"starcoder2", TIE_BY_KEY_OR_TRUE, NULL, NULL},
    {"xverse", TIE_BY_KEY_OR_TRUE, NULL, NULL},

    {"baichuan_m1", TIE_NEVER, TRANSFORM, NULL},
    {"bailing_moe", TIE_NEVER, TRANSFORM, NULL},
    {"deepseek_v32", TIE_NEVER, TRANSFORM, NULL},
    {"falcon_h1", TIE_NEVER, TRANSFORM, NULL},
    {"gemma4", TIE_NEVER, TRANSFORM, NULL},
    {"gemma4_text", TIE_NEVER, TRANSFORM, NULL},
    {"gpt2", TIE_NEVER, TRANSFORM, NULL},
    {"kimi_linear", TIE_NEVER, EXPERTS, NULL},
    {"llama4_text", TIE_NEVER, TRANSFORM, NULL},
};

static const mlxq_family UNKNOWN = {NULL, TIE_BY_KEY, NULL, NULL};

static const mlxq_family_traits NO_TRAITS = {.nested = false};

static const mlxq_family_traits *traits_of(const mlxq_family *family) {
  return family->traits ? family->traits : &NO_TRAITS;
}

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

struct json_object *mlxq_family_config(const mlxq_family *family, const mlxq_checkpoint *checkpoint) {
  struct json_object *nested = NULL;
  if (traits_of(family)->nested && json_object_object_get_ex(checkpoint->config, "text_config", &nested) &&
      json_object_is_type(nested, json_type_object)) {
    return nested;
  }
  return checkpoint->config;
}

bool mlxq_family_reads(const mlxq_family *family, const char *quant_method) {
  const mlxq_family_traits *traits = traits_of(family);
  return (traits->fp8 && strcmp(quant_method, "fp8") == 0) || (traits->mxfp4 && strcmp(quant_method, "mxfp4") == 0);
}

bool mlxq_family_keeps_dtype(void *family, const char *name) {
  for (const char *const *part = traits_of(family)->never_cast; part && *part; part++) {
    if (strstr(name, *part)) return true;
  }
  return false;
}

/* A copy of an object, with `key` as `new_key`; what is parsed may be shared and is not changed. */
static struct json_object *with_key_renamed(struct json_object *object, const char *key, const char *new_key) {
  struct json_object *copy = json_object_new_object();
  json_object_object_foreach(object, name, value) {
    if (!copy) break;
    if (json_object_object_add(copy, strcmp(name, key) == 0 ? new_key : name, json_object_get(value)) != 0) {
      json_object_put(value);
      json_object_put(copy);
      copy = NULL;
    }
  }
  return copy;
}

mlxq_status mlxq_family_edit_config(const mlxq_family *family, mlxq_checkpoint *checkpoint, mlxq_error *error) {
  struct json_object *config = mlxq_family_config(family, checkpoint), *rope = NULL;
  if (!traits_of(family)->rope_type_renamed || !json_object_object_get_ex(config, "rope_parameters", &rope) ||
      !json_object_is_type(rope, json_type_object) || json_object_object_get_ex(rope, "type", NULL) ||
      !json_object_object_get_ex(rope, "rope_type", NULL)) {
    return MLXQ_OK;
  }
  struct json_object *renamed = with_key_renamed(rope, "rope_type", "type");
  if (!renamed) return mlxq_fail_memory(error);
  /* A config of its own, too, where it is text_config. */
  struct json_object *edited = with_key_renamed(config, "", "");
  if (!edited || json_object_object_add(edited, "rope_parameters", renamed) != 0) {
    json_object_put(renamed);
    json_object_put(edited);
    return mlxq_fail_memory(error);
  }
  if (config == checkpoint->config) {
    json_object_put(checkpoint->config);
    checkpoint->config = edited;
  } else if (json_object_object_add(checkpoint->config, "text_config", edited) != 0) {
    json_object_put(edited);
    return mlxq_fail_memory(error);
  }
  return MLXQ_OK;
}

bool mlxq_family_has_bias(const mlxq_family *family, const mlxq_checkpoint *checkpoint, const char *layer) {
  static const char *const WITHOUT[] = {"llama", "mistral", "mixtral"};
  bool known = false;
  for (size_t i = 0; family->model_type && i < sizeof WITHOUT / sizeof *WITHOUT; i++) {
    known = known || strcmp(family->model_type, WITHOUT[i]) == 0;
  }
  const char *key = strstr(layer, ".self_attn.") ? "attention_bias" : strstr(layer, ".mlp.") ? "mlp_bias" : NULL;
  struct json_object *said = NULL;
  if (!known) return true;
  return key && json_object_object_get_ex(checkpoint->config, key, &said) && json_object_get_boolean(said);
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
  if (traits_of(family)->nested && strncmp(name, "language_model.", 15) == 0) name += 15;
  return strncmp(name, head, strlen(head)) == 0;
}

static bool is_tied(const mlxq_family *family, const mlxq_checkpoint *checkpoint, bool *open) {
  struct json_object *key = NULL;
  struct json_object *config = mlxq_family_config(family, checkpoint);
  bool absent = !json_object_object_get_ex(config, "tie_word_embeddings", &key);
  *open = false;
  switch (family->tie) {
    case TIE_ALWAYS:
      return true;
    case TIE_BY_KEY:
    case TIE_BY_KEY_OR_TRUE:
      *open = absent && family->model_type && config == checkpoint->config;
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
  if (family->model_type &&
      json_object_object_get_ex(mlxq_family_config(family, checkpoint), "num_hidden_layers", &hidden_layers) &&
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
  for (const char *const *end = traits_of(family)->raw; end && *end; end++) {
    if (ends_with(layer, *end)) return false;
  }
  return family->model_type || (weight->rank == 2 && !is_doubtful(layer, last));
}

bool mlxq_family_option(const mlxq_family *family, const char *layer, mlxq_layer_option *option) {
  for (const char *const *end = traits_of(family)->eight_bits; end && *end; end++) {
    bool whole = **end == '^';
    if (whole ? strcmp(layer, *end + 1) != 0 : !ends_with(layer, *end)) continue;
    *option = (mlxq_layer_option){
        .kind = MLXQ_LAYER_SCHEME, .scheme = {.mode = MLXQ_AFFINE, .bits = 8, .group_size = 64}, .mode_implied = true};
    return true;
  }
  return false;
}
