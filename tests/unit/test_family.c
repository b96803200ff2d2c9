/* family.c: what mlx-lm does with each model family's tensors before it quantizes. The expectations were taken from
 * mlx-lm 0.32.2's model classes, made and asked what parameters they have. */
#include "plan/family.h"

#include "base/json.h"
#include "helpers.h"

/* ---- Helpers --------------------------------------------------------------------------------------------------- */

/* A checkpoint that is only described. */
static mlxq_checkpoint *describe(const char *config, const char *const *names, size_t count) {
  mlxq_error error;
  mlxq_checkpoint *checkpoint = calloc(1, sizeof *checkpoint);
  assert_non_null(checkpoint);
  checkpoint->is_folder = true;
  checkpoint->tensors = new_weights();
  if (mlxq_json_parse(&checkpoint->config, config, strlen(config), &error) != MLXQ_OK) fail_msg("%s", error.message);
  for (size_t i = 0; i < count; i++) {
    assert_int_equal(mlxq_weights_describe(checkpoint->tensors, names[i], strlen(names[i]), MLXQ_BF16, SHAPE(2, 64),
                                           (uint32_t)i % 3, 1000 + i, NULL, NULL),
                     MLXQ_OK);
  }
  return checkpoint;
}

#define NAMES(...) (const char *const[]){__VA_ARGS__}, COUNT(((const char *const[]){__VA_ARGS__}))

typedef struct warnings {
  size_t count;
  char text[2048];
} warnings;

static void note(void *user, const char *message) {
  warnings *seen = user;
  seen->count++;
  strncat(seen->text, message, sizeof seen->text - strlen(seen->text) - 2);
  strcat(seen->text, "\n");
}

static warnings sanitize(mlxq_checkpoint *checkpoint) {
  warnings seen = {0};
  assert_int_equal(mlxq_family_sanitize(mlxq_family_of(checkpoint), checkpoint, note, &seen, NULL), MLXQ_OK);
  return seen;
}

/* config["tie_word_embeddings"] as JSON, "absent" where there is none. */
static const char *tie_key(const mlxq_checkpoint *checkpoint) {
  struct json_object *key = NULL;
  if (!json_object_object_get_ex(checkpoint->config, "tie_word_embeddings", &key)) return "absent";
  return json_object_to_json_string(key);
}

/* ---- The table ------------------------------------------------------------------------------------------------- */

/* Whether the head stays, for tie_word_embeddings absent, null, true and false. */
typedef struct tie_case {
  const char *model_type;
  bool absent, null, tied, untied;
} tie_case;

static const tie_case TIES[] = {
    {"cohere", false, false, false, false},
    {"cohere2", false, false, false, false},
    {"ernie4_5", true, true, false, true},
    {"exaone", false, true, false, true},
    {"exaone4", true, true, false, true},
    {"gemma", false, false, false, false},
    {"gemma2", false, false, false, false},
    {"gemma3_text", true, true, true, true}, /* tied where there is no head */
    {"glm", false, true, false, true},
    {"glm4", true, true, true, true},
    {"granite", false, true, false, true},
    {"helium", true, true, true, true}, /* has a head even where tied, and does not load without */
    {"hunyuan_v1_dense", true, true, false, true},
    {"internlm3", true, true, false, true},
    {"iquestcoder", false, true, false, true},
    {"llama", false, true, false, true},
    {"mimo", true, true, false, true},
    {"minicpm3", true, true, false, true},
    {"ministral3", false, true, false, true},
    {"mistral", false, true, false, true},
    {"nemotron", true, true, false, true},
    {"olmo", true, true, true, true},
    {"olmo2", false, true, false, true},
    {"olmo3", true, true, false, true},
    {"phi", true, true, true, true},
    {"phi3", true, true, false, true},
    {"qwen", true, true, true, true},
    {"qwen2", false, true, false, true},
    {"qwen3", true, true, false, true},
    {"seed_oss", false, true, false, true},
    {"smollm3", false, true, false, true},
    {"stablelm", true, true, true, true},
    {"starcoder2", false, true, false, true},
    {"xverse", false, true, false, true},
};

static bool keeps_head(const char *model_type, const char *key) {
  char config[256];
  snprintf(config, sizeof config, "{\"model_type\": \"%s\"%s%s}", model_type, key ? ", \"tie_word_embeddings\": " : "",
           key ? key : "");
  mlxq_checkpoint *checkpoint = describe(config, NAMES("model.embed_tokens.weight", "lm_head.weight"));
  sanitize(checkpoint);
  assert_non_null(mlxq_weights_find(checkpoint->tensors, "model.embed_tokens.weight"));
  bool kept = mlxq_weights_find(checkpoint->tensors, "lm_head.weight") != NULL;
  mlxq_checkpoint_free(checkpoint);
  return kept;
}

static void test_every_family_is_known(void **state) {
  (void)state;
  for (size_t i = 0; i <= COUNT(TIES); i++) {
    char config[128];
    const char *model_type = i < COUNT(TIES) ? TIES[i].model_type : "internlm2";
    snprintf(config, sizeof config, "{\"model_type\": \"%s\"}", model_type);
    mlxq_checkpoint *checkpoint = describe(config, NAMES("model.embed_tokens.weight"));
    const mlxq_family *family = mlxq_family_of(checkpoint);
    if (!mlxq_family_is_known(family)) fail_msg("%s is unknown", model_type);
    assert_int_equal(mlxq_family_check(family, checkpoint, NULL), MLXQ_OK);
    mlxq_checkpoint_free(checkpoint);
  }
}

static void test_the_head_of_tied_embeddings(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT(TIES); i++) {
    const tie_case *c = &TIES[i];
    if (keeps_head(c->model_type, NULL) != c->absent) fail_msg("%s: key absent", c->model_type);
    if (keeps_head(c->model_type, "true") != c->tied) fail_msg("%s: tied", c->model_type);
    if (keeps_head(c->model_type, "false") != c->untied) fail_msg("%s: untied", c->model_type);
  }
}

/* The dataclass's default is for an absent key; a null is taken as it is, and is false. */
static void test_a_null_key_means_untied(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT(TIES); i++) {
    if (keeps_head(TIES[i].model_type, "null") != TIES[i].null) fail_msg("%s: key null", TIES[i].model_type);
  }
}

static void test_the_head_of_unknown_types(void **state) {
  (void)state;
  assert_true(keeps_head("unheard-of", NULL));
  assert_true(keeps_head("unheard-of", "false"));
  assert_false(keeps_head("unheard-of", "true"));
}

/* Where the config leaves it open and there is a head, it is made to say what was done. */
static void test_the_key_is_written(void **state) {
  (void)state;
  static const struct {
    const char *config;
    bool head;
    const char *expected;
    size_t warned;
  } CASES[] = {
      {"{\"model_type\": \"llama\"}", true, "true", 1},
      {"{\"model_type\": \"llama\"}", false, "absent", 0},
      {"{\"model_type\": \"llama\", \"tie_word_embeddings\": true}", true, "true", 0},
      {"{\"model_type\": \"llama\", \"tie_word_embeddings\": false}", true, "false", 0},
      {"{\"model_type\": \"qwen3\"}", true, "false", 0},
      {"{\"model_type\": \"qwen3\"}", false, "absent", 0},
      {"{\"model_type\": \"gemma2\"}", true, "absent", 0},
      {"{\"model_type\": \"gemma3_text\"}", true, "absent", 0},
      {"{\"model_type\": \"glm4\"}", true, "absent", 0},
      {"{\"model_type\": \"unheard-of\"}", true, "absent", 0},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    mlxq_checkpoint *checkpoint = describe(
        CASES[i].config, (const char *const[]){"model.embed_tokens.weight", "lm_head.weight"}, CASES[i].head ? 2 : 1);
    warnings seen = sanitize(checkpoint);
    if (strcmp(tie_key(checkpoint), CASES[i].expected) != 0) fail_msg("%s: %s", CASES[i].config, tie_key(checkpoint));
    assert_int_equal(seen.count, CASES[i].warned);
    if (seen.count > 0) assert_non_null(strstr(seen.text, "lm_head"));
    mlxq_checkpoint_free(checkpoint);
  }
}

/* ---- What is dropped ------------------------------------------------------------------------------------------- */

static void test_what_is_dropped(void **state) {
  (void)state;
  static const char *const KEPT[] = {
      "model.embed_tokens.weight",
      "model.layers.0.self_attn.q_proj.weight",
      "model.layers.1.self_attn.rotary_emb.inv_freq.weight",
      "model.layers.1.self_attn.q_proj.bias",
      "model.inv_freq",
      "model.mtp.weight",
      "xmtp.weight",
      "sublayers.7.weight",
      "layers.x.weight",
      "layers.1.weight",
      "model.lm_head.weight",
      "lm_headx.weight",
      "my_lm_head.weight",
  };
  static const char *const DROPPED[] = {
      "model.layers.0.self_attn.rotary_emb.inv_freq",
      "model.rotary_emb.inv_freq",
      "rotary_emb.inv_freq",
      "model.layers.0.attention.rope.inv_freq",
      "mtp.fc.weight",
      "mtp.layers.0.weight",
      "model.mtp_layers.0.weight",
      "model.layers.2.self_attn.q_proj.weight",
      "model.layers.10.weight",
      "layers.2.weight",
      "lm_head.weight",
      "lm_head.scales",
      "lm_head.biases",
      "lm_head.bias",
  };
  const char *all[COUNT(KEPT) + COUNT(DROPPED)];
  size_t count = 0;
  for (size_t i = 0; i < COUNT(DROPPED); i++) {
    all[count++] = DROPPED[i];
    if (i < COUNT(KEPT)) all[count++] = KEPT[i];
  }
  mlxq_checkpoint *checkpoint =
      describe("{\"model_type\": \"llama\", \"num_hidden_layers\": 2, \"tie_word_embeddings\": true}", all, count);
  warnings seen = sanitize(checkpoint);
  assert_names(checkpoint->tensors, KEPT, COUNT(KEPT));
  assert_int_equal(seen.count, 1);
  assert_non_null(strstr(seen.text, "num_hidden_layers"));
  /* Each keeps its place in its file. */
  for (size_t i = 0; i < COUNT(KEPT); i++) {
    const mlxq_tensor_entry *entry = &checkpoint->tensors->entries[i];
    size_t original = 0;
    while (strcmp(all[original], KEPT[i]) != 0) original++;
    assert_int_equal(entry->file, original % 3);
    assert_int_equal(entry->offset, 1000 + original);
    assert_shape(&entry->tensor, MLXQ_BF16, SHAPE(2, 64));
  }
  mlxq_checkpoint_free(checkpoint);
}

static void test_nothing_to_drop(void **state) {
  (void)state;
  mlxq_checkpoint *checkpoint =
      describe("{\"model_type\": \"llama\", \"num_hidden_layers\": 2, \"tie_word_embeddings\": false}",
               NAMES("model.layers.1.weight", "lm_head.weight", "model.norm.weight"));
  const mlxq_weights *before = checkpoint->tensors;
  assert_int_equal(sanitize(checkpoint).count, 0);
  assert_ptr_equal(checkpoint->tensors, before);
  assert_int_equal(mlxq_weights_count(before), 3);
  /* No one need listen. */
  assert_int_equal(mlxq_family_sanitize(mlxq_family_of(checkpoint), checkpoint, NULL, NULL, NULL), MLXQ_OK);
  mlxq_checkpoint_free(checkpoint);
}

static void test_the_number_of_layers(void **state) {
  (void)state;
  static const struct {
    const char *model_type, *layers;
    size_t kept;
  } CASES[] = {
      {"llama", "3", 4},      {"llama", "2", 3},    {"llama", "1", 2},     {"llama", "0", 1},
      {"llama", "100", 4},    {"llama", "null", 4}, {"llama", "\"2\"", 4}, {"llama", "99999999999", 4},
      {"unheard-of", "1", 4}, {"gemma2", "1", 2},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    char config[128];
    snprintf(config, sizeof config, "{\"model_type\": \"%s\", \"num_hidden_layers\": %s}", CASES[i].model_type,
             CASES[i].layers);
    mlxq_checkpoint *checkpoint =
        describe(config, NAMES("model.layers.0.a", "model.norm", "model.layers.1.a", "model.layers.2.a"));
    sanitize(checkpoint);
    if (mlxq_weights_count(checkpoint->tensors) != CASES[i].kept) {
      fail_msg("%s: %zu", config, mlxq_weights_count(checkpoint->tensors));
    }
    mlxq_checkpoint_free(checkpoint);
  }
}

/* A config may say nonsense; tensors outside of all layers stay. */
static void test_a_negative_number_of_layers(void **state) {
  (void)state;
  mlxq_checkpoint *checkpoint = describe("{\"model_type\": \"llama\", \"num_hidden_layers\": -1}",
                                         NAMES("model.norm.weight", "model.embed_tokens.weight"));
  sanitize(checkpoint);
  assert_int_equal(mlxq_weights_count(checkpoint->tensors), 2);
  mlxq_checkpoint_free(checkpoint);
}

/* ---- Refusals -------------------------------------------------------------------------------------------------- */

static void test_families_that_are_refused(void **state) {
  (void)state;
  static const char *const TYPES[] = {
      "baichuan_m1", "bailing_moe", "deepseek_v32", "falcon_h1",   "gemma4",
      "gemma4_text", "gpt2",        "kimi_linear",  "llama4_text",
  };
  for (size_t i = 0; i < COUNT(TYPES); i++) {
    char config[128];
    mlxq_error error;
    snprintf(config, sizeof config, "{\"model_type\": \"%s\"}", TYPES[i]);
    mlxq_checkpoint *checkpoint = describe(config, NAMES("a"));
    const mlxq_family *family = mlxq_family_of(checkpoint);
    if (mlxq_family_check(family, checkpoint, &error) != MLXQ_UNSUPPORTED) fail_msg("%s is not refused", TYPES[i]);
    assert_error(&error, MLXQ_UNSUPPORTED, "", "model_type");
    assert_non_null(strstr(error.message, TYPES[i]));
    assert_true(mlxq_family_is_known(family));
    assert_int_equal(mlxq_family_check(family, checkpoint, NULL), MLXQ_UNSUPPORTED);
    mlxq_checkpoint_free(checkpoint);
  }
}

static void test_unknown_types(void **state) {
  (void)state;
  static const char *const CONFIGS[] = {"{}",
                                        "{\"model_type\": null}",
                                        "{\"model_type\": 5}",
                                        "{\"model_type\": \"\"}",
                                        "{\"model_type\": \"LLAMA\"}",
                                        "{\"model_type\": \"llama \"}",
                                        "{\"x\": {\"model_type\": \"llama\"}}"};
  for (size_t i = 0; i < COUNT(CONFIGS); i++) {
    mlxq_checkpoint *checkpoint = describe(CONFIGS[i], NAMES("model.layers.0.mlp.up_proj.weight"));
    const mlxq_family *family = mlxq_family_of(checkpoint);
    assert_false(mlxq_family_is_known(family));
    assert_int_equal(mlxq_family_check(family, checkpoint, NULL), MLXQ_OK);
    mlxq_checkpoint_free(checkpoint);
  }
}

/* Tensors that tell of a treatment mlxq does not know; a known type knows better. */
static void test_signs_that_an_unknown_type_would_come_out_wrong(void **state) {
  (void)state;
  static const char *const SIGNS[] = {
      "lm_head.norm_head.weight",
      "model.layers.0.q_proj.weight_scale_inv",
      "model.layers.0.q_proj.weight_packed",
      "model.layers.0.experts.up_blocks",
      "h.0.attn.c_attn.weight",
  };
  for (size_t i = 0; i < COUNT(SIGNS); i++) {
    mlxq_error error;
    mlxq_checkpoint *checkpoint = describe("{\"model_type\": \"unheard-of\"}", NAMES("fine.weight", SIGNS[i]));
    assert_int_equal(mlxq_family_check(mlxq_family_of(checkpoint), checkpoint, &error), MLXQ_UNSUPPORTED);
    assert_error(&error, MLXQ_UNSUPPORTED, "", SIGNS[i]);
    mlxq_checkpoint_free(checkpoint);
    checkpoint = describe("{\"model_type\": \"llama\"}", NAMES("fine.weight", SIGNS[i]));
    assert_int_equal(mlxq_family_check(mlxq_family_of(checkpoint), checkpoint, &error), MLXQ_OK);
    mlxq_checkpoint_free(checkpoint);
  }
  static const char *const FINE[] = {"model.blocks.0.weight", "c_attn.bias", "packed.weight", "x_blocks.weight"};
  for (size_t i = 0; i < COUNT(FINE); i++) {
    mlxq_checkpoint *checkpoint = describe("{\"model_type\": \"unheard-of\"}", NAMES(FINE[i]));
    assert_int_equal(mlxq_family_check(mlxq_family_of(checkpoint), checkpoint, NULL), MLXQ_OK);
    mlxq_checkpoint_free(checkpoint);
  }
}

static void test_multipliers_with_convolutions(void **state) {
  (void)state;
  static const struct {
    const char *config, *tensor;
    const char *key; /* of the refusal */
  } CASES[] = {
      {"{\"a\": 1, \"ssm_multiplier\": 2}", "l.0.conv1d.weight", "ssm_multiplier"},
      {"{\"a\": 1, \"ssm_multiplier\": 2}", "l.0.conv.weight", NULL},
      {"{\"a\": 1, \"multiplier\": 2}", "l.0.conv1d.weight", NULL},
      {"{\"a\": 1}", "l.0.conv1d.weight", NULL},
      {"{\"text_config\": {\"mup_multiplier\": 2}}", "l.0.conv1d.weight", "mup_multiplier"},
      {"{\"text_config\": {\"b\": 2}}", "l.0.conv1d.weight", NULL},
      {"{\"text_config\": [\"mup_multiplier\"]}", "l.0.conv1d.weight", NULL},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    mlxq_error error;
    mlxq_checkpoint *checkpoint = describe(CASES[i].config, NAMES(CASES[i].tensor));
    mlxq_status status = mlxq_family_check(mlxq_family_of(checkpoint), checkpoint, &error);
    assert_int_equal(status, CASES[i].key ? MLXQ_UNSUPPORTED : MLXQ_OK);
    if (CASES[i].key) assert_error(&error, MLXQ_UNSUPPORTED, "", CASES[i].key);
    mlxq_checkpoint_free(checkpoint);
  }
}

/* ---- Which layers ---------------------------------------------------------------------------------------------- */

static void assert_quantizes(const char *model_type, const char *layer, uint32_t rank, bool expected) {
  char config[128];
  uint64_t shape[5] = {2, 2, 2, 2, 64};
  snprintf(config, sizeof config, "{\"model_type\": \"%s\"}", model_type);
  mlxq_checkpoint *checkpoint = describe(config, NAMES("a"));
  mlxq_tensor weight = {.name = layer, .dtype = MLXQ_BF16, .rank = rank, .shape = shape};
  if (mlxq_family_quantizes(mlxq_family_of(checkpoint), layer, &weight) != expected) {
    fail_msg("%s: %s of rank %u", model_type, layer, rank);
  }
  mlxq_checkpoint_free(checkpoint);
}

static void test_the_generic_rule(void **state) {
  (void)state;
  static const struct {
    const char *layer;
    bool known, unknown; /* for rank 2 */
  } CASES[] = {
      {"model.layers.0.self_attn.q_proj", true, true},
      {"model.embed_tokens", true, true},
      {"lm_head", true, true},
      {"q", true, true},
      {"model.norm", false, false},
      {"model.layers.0.input_layernorm", false, false},
      {"model.layers.0.q_norm", false, false},
      {"norm_x", false, false},
      {"layernorm.dense", true, true}, /* only the last part counts */
      {"norm_attn_norm.attn.Wqkv", true, true},
      {"l.0.conv", false, false},
      {"l.0.conv1d", false, false},
      {"l.0.conv_1d", false, false},
      {"l.0.conv.in_proj", true, true},
      {"l.0.conv2d", true, true},
      {"l.0.convolution", true, true},
      /* doubtful in a type that is not known */
      {"model.layers.0.mlp.gate", true, false},
      {"model.layers.0.mlp.gate_proj", true, true},
      {"l.0.router", true, false},
      {"l.0.router.proj", true, true},
      {"l.0.wg", true, false},
      {"score.classifier", true, false},
      {"l.0.kv_b_proj", true, false},
      {"l.0.kv_a_proj", true, true},
      {"vision_tower.l.0.q", true, false},
      {"visual.l.0.q", true, false},
      {"audio_tower.l.0.q", true, false},
      {"patch_embed.proj", true, false},
      {"position_embeddings", true, false},
      {"mlp.experts.0.up_proj", true, false},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    for (uint32_t rank = 0; rank <= 5; rank++) {
      assert_quantizes("llama", CASES[i].layer, rank, CASES[i].known && (rank == 2 || rank == 3));
      assert_quantizes("unheard-of", CASES[i].layer, rank, CASES[i].unknown && rank == 2);
    }
  }
}

static void test_granite_keeps_small_weights_at_eight_bits(void **state) {
  (void)state;
  static const struct {
    const char *layer;
    bool own;
  } CASES[] = {
      {"model.layers.0.self_attn.o_proj", true},
      {"model.layers.39.mlp.down_proj", true},
      {"lm_head", true},
      {"self_attn.o_proj", true},
      {"xself_attn.o_proj", true},
      {"model.lm_head", false},
      {"model.layers.0.attn.o_proj", false},
      {"model.layers.0.mlp.up_proj", false},
      {"down_proj", false},
      {"model.layers.0.mlp.down_proj.x", false},
      {"model.layers.0.mlp.down_proj2", false},
      {"model.embed_tokens", false},
  };
  mlxq_checkpoint *granite = describe("{\"model_type\": \"granite\"}", NAMES("a"));
  mlxq_checkpoint *llama = describe("{\"model_type\": \"llama\"}", NAMES("a"));
  for (size_t i = 0; i < COUNT(CASES); i++) {
    mlxq_layer_option option = {.kind = MLXQ_LAYER_SKIP};
    bool own = mlxq_family_option(mlxq_family_of(granite), CASES[i].layer, &option);
    if (own != CASES[i].own) fail_msg("%s", CASES[i].layer);
    if (own) {
      assert_int_equal(option.kind, MLXQ_LAYER_SCHEME);
      assert_int_equal(option.scheme.mode, MLXQ_AFFINE);
      assert_int_equal(option.scheme.bits, 8);
      assert_int_equal(option.scheme.group_size, 64);
      assert_true(option.mode_implied); /* mlx-lm's entry names no mode */
    } else {
      assert_int_equal(option.kind, MLXQ_LAYER_SKIP);
    }
    assert_false(mlxq_family_option(mlxq_family_of(llama), CASES[i].layer, &option));
  }
  mlxq_checkpoint_free(granite);
  mlxq_checkpoint_free(llama);
}

/* ---- What the class changes in the config, and what it reads itself ---------------------------------------------- */

static void assert_edited(const char *config, const char *expected) {
  mlxq_text text = {0};
  mlxq_error error;
  mlxq_checkpoint *checkpoint = describe(config, NULL, 0);
  if (mlxq_family_edit_config(mlxq_family_of(checkpoint), checkpoint, &error) != MLXQ_OK) fail_msg("%s", error.message);
  mlxq_json_write(&text, checkpoint->config, 0);
  assert_string_equal(text.data, expected);
  mlxq_text_free(&text);
  mlxq_checkpoint_free(checkpoint);
}

static void test_the_rope_type_is_renamed(void **state) {
  (void)state;
  assert_edited(
      "{\"model_type\": \"qwen3_5\", \"rope_parameters\": {\"rope_theta\": 10.0, \"rope_type\": \"default\"}, \"a\": "
      "1}",
      "{\"model_type\": \"qwen3_5\", \"rope_parameters\": {\"rope_theta\": 10.0, \"type\": \"default\"}, \"a\": 1}");
  assert_edited(
      "{\"model_type\": \"qwen3_5\", \"text_config\": {\"rope_parameters\": {\"rope_type\": null}}, \"b\": 2}",
      "{\"model_type\": \"qwen3_5\", \"text_config\": {\"rope_parameters\": {\"type\": null}}, \"b\": 2}");
}

static void test_configs_that_stay(void **state) {
  (void)state;
  static const char *const CONFIGS[] = {
      "{\"model_type\": \"llama\", \"rope_parameters\": {\"rope_type\": \"default\"}}",
      "{\"model_type\": \"qwen3_5\"}",
      "{\"model_type\": \"qwen3_5\", \"rope_parameters\": [\"rope_type\"]}",
      "{\"model_type\": \"qwen3_5\", \"rope_parameters\": {\"rope_theta\": 1}}",
      "{\"model_type\": \"qwen3_5\", \"rope_parameters\": {\"rope_type\": \"a\", \"type\": \"b\"}}",
      "{\"model_type\": \"qwen3_5\", \"rope_parameters\": {\"rope_type\": \"a\"}, \"text_config\": {}}",
      "{\"model_type\": \"qwen3_5\", \"text_config\": 3}"};
  for (size_t i = 0; i < COUNT(CONFIGS); i++) assert_edited(CONFIGS[i], CONFIGS[i]);
}

static void test_formats_that_classes_read(void **state) {
  (void)state;
  static const struct {
    const char *model_type;
    bool fp8, mxfp4;
  } CASES[] = {{"gpt_oss", false, true}, {"deepseek_v3", true, false}, {"minimax", true, false},
               {"llama", false, false},  {"qwen3_moe", false, false},  {"never_seen", false, false}};
  for (size_t i = 0; i < COUNT(CASES); i++) {
    char config[64];
    snprintf(config, sizeof config, "{\"model_type\": \"%s\"}", CASES[i].model_type);
    mlxq_checkpoint *checkpoint = describe(config, NULL, 0);
    const mlxq_family *family = mlxq_family_of(checkpoint);
    assert_int_equal(mlxq_family_reads(family, "fp8"), CASES[i].fp8);
    assert_int_equal(mlxq_family_reads(family, "mxfp4"), CASES[i].mxfp4);
    assert_false(mlxq_family_reads(family, "awq"));
    mlxq_checkpoint_free(checkpoint);
  }
}

static void test_which_layers_may_have_biases(void **state) {
  (void)state;
  static const struct {
    const char *config, *layer;
    bool may;
  } CASES[] = {
      {"\"model_type\": \"llama\"", "model.layers.0.self_attn.q_proj", false},
      {"\"model_type\": \"llama\", \"attention_bias\": true", "model.layers.0.self_attn.q_proj", true},
      {"\"model_type\": \"llama\", \"attention_bias\": false", "model.layers.0.self_attn.q_proj", false},
      {"\"model_type\": \"llama\", \"attention_bias\": true", "model.layers.0.mlp.up_proj", false},
      {"\"model_type\": \"llama\", \"mlp_bias\": true", "model.layers.0.mlp.up_proj", true},
      {"\"model_type\": \"llama\", \"mlp_bias\": true", "lm_head", false},
      {"\"model_type\": \"mistral\", \"mlp_bias\": true", "model.layers.0.mlp.up_proj", false},
      {"\"model_type\": \"qwen2\"", "model.layers.0.self_attn.q_proj", true},
      {"\"model_type\": \"qwen2\"", "model.layers.0.self_attn.k_proj", true},
      {"\"model_type\": \"qwen2_moe\"", "model.layers.0.self_attn.v_proj", true},
      {"\"model_type\": \"qwen2\"", "model.layers.0.self_attn.o_proj", false},
      {"\"model_type\": \"qwen3\"", "model.layers.0.self_attn.q_proj", false},
      {"\"model_type\": \"phi\"", "model.layers.0.self_attn.q_proj", true},
      {"\"model_type\": \"never_seen\"", "anything", true},
      {"\"a\": 1", "anything", true},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    char config[128];
    snprintf(config, sizeof config, "{%s}", CASES[i].config);
    mlxq_checkpoint *checkpoint = describe(config, NULL, 0);
    if (mlxq_family_has_bias(mlxq_family_of(checkpoint), checkpoint, CASES[i].layer) != CASES[i].may) {
      fail_msg("%s, %s: not %d", CASES[i].config, CASES[i].layer, CASES[i].may);
    }
    mlxq_checkpoint_free(checkpoint);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_family_is_known),
      cmocka_unit_test(test_the_head_of_tied_embeddings),
      cmocka_unit_test(test_a_null_key_means_untied),
      cmocka_unit_test(test_the_head_of_unknown_types),
      cmocka_unit_test(test_the_key_is_written),
      cmocka_unit_test(test_what_is_dropped),
      cmocka_unit_test(test_nothing_to_drop),
      cmocka_unit_test(test_the_number_of_layers),
      cmocka_unit_test(test_a_negative_number_of_layers),
      cmocka_unit_test(test_families_that_are_refused),
      cmocka_unit_test(test_unknown_types),
      cmocka_unit_test(test_signs_that_an_unknown_type_would_come_out_wrong),
      cmocka_unit_test(test_multipliers_with_convolutions),
      cmocka_unit_test(test_the_generic_rule),
      cmocka_unit_test(test_granite_keeps_small_weights_at_eight_bits),
      cmocka_unit_test(test_the_rope_type_is_renamed),
      cmocka_unit_test(test_configs_that_stay),
      cmocka_unit_test(test_formats_that_classes_read),
      cmocka_unit_test(test_which_layers_may_have_biases),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
