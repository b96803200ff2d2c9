/* select.c: skips, overrides, recipes, the family's rule and the default become one configuration. */
#include "plan/select.h"

#include "base/json.h"
#include "helpers.h"

/* ---- Helpers --------------------------------------------------------------------------------------------------- */

typedef struct test_model {
  mlxq_checkpoint checkpoint;
  const mlxq_family *family;
  mlxq_quant_config *existing;
} test_model;

/* A model of a type ("" for a single file, which has no family), without tensors yet. */
static test_model make_model(const char *model_type) {
  char config[128];
  test_model made = {.checkpoint = {.is_folder = true, .tensors = new_weights()}};
  if (!*model_type) return made;
  snprintf(config, sizeof config, "{\"model_type\": \"%s\"}", model_type);
  assert_int_equal(mlxq_json_parse(&made.checkpoint.config, config, strlen(config), NULL), MLXQ_OK);
  made.family = mlxq_family_of(&made.checkpoint);
  return made;
}

static void free_model(test_model *model) {
  mlxq_weights_free(model->checkpoint.tensors);
  json_object_put(model->checkpoint.config);
  mlxq_quant_config_free(model->existing);
}

static void add(test_model *model, const char *name, mlxq_dtype dtype, uint32_t rank, const uint64_t *shape) {
  assert_int_equal(
      mlxq_weights_describe(model->checkpoint.tensors, name, strlen(name), dtype, rank, shape, 0, 0, NULL, NULL),
      MLXQ_OK);
}

/* Describes LAYER.weight, BF16. */
static void add_layer(test_model *model, const char *layer, uint64_t last) {
  char name[256];
  snprintf(name, sizeof name, "%s.weight", layer);
  add(model, name, MLXQ_BF16, SHAPE(4, last));
}

static mlxq_selection select_for(const test_model *model, const mlxq_quantize_options *options) {
  mlxq_selection selection;
  mlxq_error error;
  if (mlxq_select(&selection, model->checkpoint.tensors, model->family, model->existing, options, &error) != MLXQ_OK) {
    fail_msg("%s: %s: %s", error.layer, error.key, error.message);
  }
  assert_non_null(selection.config);
  assert_non_null(selection.added);
  return selection;
}

static void assert_refused(const test_model *model, const mlxq_quantize_options *options, mlxq_status status,
                           const char *layer, const char *key) {
  mlxq_selection selection;
  mlxq_error error;
  memset(&error, 'x', sizeof error);
  mlxq_status result =
      mlxq_select(&selection, model->checkpoint.tensors, model->family, model->existing, options, &error);
  if (result != status) fail_msg("%s, not %s", mlxq_status_name(result), mlxq_status_name(status));
  assert_error(&error, status, layer, key);
  assert_null(selection.config);
  assert_null(selection.added);
  assert_int_equal(mlxq_select(&selection, model->checkpoint.tensors, model->family, model->existing, options, NULL),
                   status);
}

/* What is written into config.json. */
static void assert_added(const mlxq_selection *selection, const char *expected) {
  char *text = NULL;
  assert_int_equal(mlxq_quant_config_to_json(&text, selection->added, NULL), MLXQ_OK);
  assert_string_equal(text, expected);
  mlxq_free(text);
}

/* What the planner would do with a layer: "dense", or mode/bits/group. */
static const char *treatment(const mlxq_selection *selection, const test_model *model, const char *layer) {
  static char text[64];
  char name[256];
  snprintf(name, sizeof name, "%s.weight", layer);
  const mlxq_tensor *weight = mlxq_weights_find(model->checkpoint.tensors, name);
  assert_non_null(weight);
  const mlxq_scheme *scheme = mlxq_quant_config_lookup(selection->config, layer);
  mlxq_selection copy = *selection;
  if (!scheme || !mlxq_selection_eligible(&copy, layer, weight)) return "dense";
  snprintf(text, sizeof text, "%s/%d/%d", mlxq_mode_name(scheme->mode), scheme->bits, scheme->group_size);
  return text;
}

#define PATTERNS(...)     \
  (const char *const[]) { \
    __VA_ARGS__           \
  }
#define OVERRIDES(...)      \
  (const mlxq_override[]) { \
    __VA_ARGS__             \
  }

/* ---- The default ----------------------------------------------------------------------------------------------- */

static void test_defaults_of_the_modes(void **state) {
  (void)state;
  static const struct {
    mlxq_scheme scheme;
    const char *expected;
  } CASES[] = {
      {{MLXQ_AFFINE, 0, 0}, "{\"group_size\": 64, \"bits\": 4, \"mode\": \"affine\"}"},
      {{MLXQ_AFFINE, 3, 0}, "{\"group_size\": 64, \"bits\": 3, \"mode\": \"affine\"}"},
      {{MLXQ_AFFINE, 0, 128}, "{\"group_size\": 128, \"bits\": 4, \"mode\": \"affine\"}"},
      {{MLXQ_AFFINE, 8, 32}, "{\"group_size\": 32, \"bits\": 8, \"mode\": \"affine\"}"},
      {{MLXQ_MXFP4, 0, 0}, "{\"group_size\": 32, \"bits\": 4, \"mode\": \"mxfp4\"}"},
      {{MLXQ_MXFP8, 0, 0}, "{\"group_size\": 32, \"bits\": 8, \"mode\": \"mxfp8\"}"},
      {{MLXQ_NVFP4, 0, 0}, "{\"group_size\": 16, \"bits\": 4, \"mode\": \"nvfp4\"}"},
  };
  test_model llama = make_model("llama");
  add_layer(&llama, "model.layers.0.mlp.up_proj", 128);
  for (size_t i = 0; i < COUNT(CASES); i++) {
    mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
    options.scheme = CASES[i].scheme;
    mlxq_selection selection = select_for(&llama, &options);
    assert_added(&selection, CASES[i].expected);
    assert_int_equal(mlxq_quant_config_layer_count(selection.config), 0);
    assert_string_not_equal(treatment(&selection, &llama, "model.layers.0.mlp.up_proj"), "dense");
    mlxq_selection_free(&selection);
    assert_null(selection.config);
    mlxq_selection_free(&selection);
  }
  free_model(&llama);
}

static void test_schemes_that_mlx_lacks(void **state) {
  (void)state;
  static const struct {
    mlxq_scheme scheme;
    const char *key;
  } CASES[] = {{{MLXQ_AFFINE, 7, 0}, "bits"},  {{MLXQ_AFFINE, 0, 48}, "group_size"},
               {{MLXQ_MXFP4, 8, 0}, "bits"},   {{MLXQ_NVFP4, 0, 32}, "group_size"},
               {{MLXQ_AFFINE, -4, 0}, "bits"}, {{MLXQ_MODE_COUNT, 4, 64}, "mode"}};
  test_model llama = make_model("llama");
  add_layer(&llama, "a", 128);
  for (size_t i = 0; i < COUNT(CASES); i++) {
    mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
    options.scheme = CASES[i].scheme;
    assert_refused(&llama, &options, MLXQ_OUT_OF_RANGE, "", CASES[i].key);
    /* An override's scheme names the first layer that it would be for. */
    options.scheme = (mlxq_scheme){MLXQ_AFFINE, 0, 0};
    options.overrides = OVERRIDES({"a", CASES[i].scheme});
    options.override_count = 1;
    mlxq_scheme complete = CASES[i].scheme;
    if (complete.bits != 0 && complete.group_size != 0) {
      assert_refused(&llama, &options, MLXQ_OUT_OF_RANGE, "a", CASES[i].key);
    }
  }
  free_model(&llama);
}

static void test_who_is_eligible(void **state) {
  (void)state;
  static const struct {
    const char *name;
    mlxq_dtype dtype;
    uint32_t rank;
    uint64_t shape[4];
    const char *llama, *file; /* as what they come out */
  } CASES[] = {
      {"l.q.weight", MLXQ_BF16, 2, {4, 64}, "affine/4/64", "affine/4/64"},
      {"l.e.weight", MLXQ_BF16, 3, {2, 4, 64}, "affine/4/64", "affine/4/64"},
      {"l.f.weight", MLXQ_BF16, 4, {2, 2, 4, 64}, "dense", "affine/4/64"},
      {"l.norm.weight", MLXQ_BF16, 2, {4, 64}, "dense", "affine/4/64"},
      {"l.flat.weight", MLXQ_BF16, 1, {64}, "dense", "dense"},
      {"l.point.weight", MLXQ_BF16, 0, {0}, "dense", "dense"},
      {"l.odd.weight", MLXQ_BF16, 2, {4, 96}, "dense", "dense"},
      {"l.none.weight", MLXQ_BF16, 2, {4, 0}, "affine/4/64", "affine/4/64"},
  };
  for (int is_file = 0; is_file < 2; is_file++) {
    test_model made = make_model(is_file ? "" : "llama");
    for (size_t i = 0; i < COUNT(CASES); i++) {
      add(&made, CASES[i].name, CASES[i].dtype, CASES[i].rank, CASES[i].shape);
    }
    mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
    mlxq_selection selection = select_for(&made, &options);
    for (size_t i = 0; i < COUNT(CASES); i++) {
      char layer[64];
      snprintf(layer, sizeof layer, "%.*s", (int)strlen(CASES[i].name) - 7, CASES[i].name);
      const char *found = treatment(&selection, &made, layer), *expected = is_file ? CASES[i].file : CASES[i].llama;
      if (strcmp(found, expected) != 0) fail_msg("%s: %s, not %s", layer, found, expected);
    }
    mlxq_selection_free(&selection);
    free_model(&made);
  }
}

/* ---- Precedence ------------------------------------------------------------------------------------------------ */

static void test_skip_then_last_override_then_recipe_then_default(void **state) {
  (void)state;
  /* 8 layers: 0, 3, 6 and 7 get more bits. */
  test_model llama = make_model("llama");
  char layer[64];
  for (int i = 0; i < 8; i++) {
    snprintf(layer, sizeof layer, "model.layers.%d.mlp.down_proj", i);
    add_layer(&llama, layer, 256);
    snprintf(layer, sizeof layer, "model.layers.%d.mlp.up_proj", i);
    add_layer(&llama, layer, 256);
  }
  add_layer(&llama, "model.norm", 256);
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  options.scheme = (mlxq_scheme){MLXQ_AFFINE, 5, 128};
  options.recipe = "mixed_2_6";
  options.skips = PATTERNS("*.0.mlp.*", "model.layers.6.mlp.up_proj");
  options.skip_count = 2;
  options.overrides = OVERRIDES({"*.layers.0.*", {MLXQ_MXFP8, 8, 32}}, {"*.layers.3.*", {MLXQ_AFFINE, 8, 64}},
                                {"*.layers.?.mlp.down_proj", {MLXQ_NVFP4, 4, 16}},
                                {"model.layers.7.mlp.down_proj", {MLXQ_AFFINE, 3, 32}});
  options.override_count = 4;
  mlxq_selection selection = select_for(&llama, &options);
  static const struct {
    const char *layer, *expected;
  } CASES[] = {
      {"model.layers.0.mlp.down_proj", "dense"},
      {"model.layers.0.mlp.up_proj", "dense"},
      {"model.layers.1.mlp.down_proj", "nvfp4/4/16"},
      {"model.layers.1.mlp.up_proj", "affine/2/128"},
      {"model.layers.3.mlp.down_proj", "nvfp4/4/16"},
      {"model.layers.3.mlp.up_proj", "affine/8/64"},
      {"model.layers.6.mlp.down_proj", "nvfp4/4/16"},
      {"model.layers.6.mlp.up_proj", "dense"},
      {"model.layers.7.mlp.down_proj", "affine/3/32"},
      {"model.layers.7.mlp.up_proj", "affine/2/128"},
      {"model.norm", "dense"},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    const char *found = treatment(&selection, &llama, CASES[i].layer);
    if (strcmp(found, CASES[i].expected) != 0) fail_msg("%s: %s, not %s", CASES[i].layer, found, CASES[i].expected);
  }
  assert_int_equal(mlxq_quant_config_default(selection.added)->bits, 5);
  /* All of the sixteen are written, the skipped ones as false; the norm is not. */
  assert_int_equal(mlxq_quant_config_layer_count(selection.added), 16);
  assert_int_equal(mlxq_quant_config_layer(selection.added, "model.layers.0.mlp.up_proj")->kind, MLXQ_LAYER_SKIP);
  assert_null(mlxq_quant_config_layer(selection.added, "model.norm"));
  mlxq_selection_free(&selection);
  free_model(&llama);
}

static void test_the_family_comes_before_the_default(void **state) {
  (void)state;
  test_model granite = make_model("granite");
  add_layer(&granite, "model.layers.0.self_attn.q_proj", 128);
  add_layer(&granite, "model.layers.0.self_attn.o_proj", 128);
  add_layer(&granite, "model.layers.0.mlp.down_proj", 128);
  add_layer(&granite, "lm_head", 128);
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  options.scheme.mode = MLXQ_MXFP4;
  mlxq_selection selection = select_for(&granite, &options);
  assert_added(&selection,
               "{\"group_size\": 32, \"bits\": 4, \"mode\": \"mxfp4\","
               " \"model.layers.0.self_attn.o_proj\": {\"group_size\": 64, \"bits\": 8},"
               " \"model.layers.0.mlp.down_proj\": {\"group_size\": 64, \"bits\": 8},"
               " \"lm_head\": {\"group_size\": 64, \"bits\": 8}}");
  assert_string_equal(treatment(&selection, &granite, "lm_head"), "affine/8/64");
  assert_string_equal(treatment(&selection, &granite, "model.layers.0.self_attn.q_proj"), "mxfp4/4/32");
  mlxq_selection_free(&selection);
  /* Overrides, skips and recipes come before it. */
  options.scheme.mode = MLXQ_AFFINE;
  options.skips = PATTERNS("*o_proj");
  options.skip_count = 1;
  options.overrides = OVERRIDES({"lm_head", {MLXQ_NVFP4, 4, 16}});
  options.override_count = 1;
  selection = select_for(&granite, &options);
  assert_added(&selection,
               "{\"group_size\": 64, \"bits\": 4, \"mode\": \"affine\", \"model.layers.0.self_attn.o_proj\": false,"
               " \"model.layers.0.mlp.down_proj\": {\"group_size\": 64, \"bits\": 8},"
               " \"lm_head\": {\"group_size\": 16, \"bits\": 4, \"mode\": \"nvfp4\"}}");
  mlxq_selection_free(&selection);
  options = (mlxq_quantize_options)MLXQ_QUANTIZE_OPTIONS_INIT;
  options.recipe = "mixed_3_4";
  selection = select_for(&granite, &options);
  assert_string_equal(treatment(&selection, &granite, "model.layers.0.self_attn.o_proj"), "affine/3/64");
  assert_string_equal(treatment(&selection, &granite, "lm_head"), "affine/4/64");
  mlxq_selection_free(&selection);
  free_model(&granite);
}

/* mlx-lm would fail inside of MLX there. */
static void test_a_family_rule_that_does_not_fit(void **state) {
  (void)state;
  test_model granite = make_model("granite");
  add_layer(&granite, "model.layers.0.mlp.down_proj", 96);
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  options.scheme.mode = MLXQ_MXFP4;
  assert_refused(&granite, &options, MLXQ_NOT_DIVISIBLE, "model.layers.0.mlp.down_proj", "group_size");
  free_model(&granite);
}

/* ---- Patterns -------------------------------------------------------------------------------------------------- */

static bool pattern_matches(const char *pattern, const char *layer) {
  test_model made = make_model("");
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  add_layer(&made, layer, 64);
  add_layer(&made, "always", 64);
  options.skips = PATTERNS(pattern, "always");
  options.skip_count = 2;
  mlxq_selection selection;
  mlxq_status status = mlxq_select(&selection, made.checkpoint.tensors, NULL, NULL, &options, NULL);
  bool matched = status == MLXQ_OK;
  if (matched) {
    assert_string_equal(treatment(&selection, &made, layer), "dense");
    mlxq_selection_free(&selection);
  } else {
    assert_int_equal(status, MLXQ_UNKNOWN_VALUE);
  }
  free_model(&made);
  return matched;
}

static void test_patterns(void **state) {
  (void)state;
  static const struct {
    const char *pattern, *layer;
    bool matches;
  } CASES[] = {
      {"a.b", "a.b", true},
      {"a.b", "a.bc", false},
      {"a.b", "xa.b", false},
      {"a.b", "a_b", false},
      {"b", "a.b", false},
      {"*", "a.b.c", true},
      {"*.c", "a.b.c", true},
      {"a.*", "a.b.c", true},
      {"a.*.c", "a.b.x.c", true},
      {"a.*.c", "a.c", false},
      {"a*c", "ac", true},
      {"*.layers.?.*", "m.layers.1.q", true},
      {"*.layers.?.*", "m.layers.12.q", false},
      {"*.layers.1?.*", "m.layers.12.q", true},
      {"a?b", "a.b", true},
      {"?", "ab", false},
      {"", "a", false},
      {"*q*", "m.q_proj", true},
      {".*", ".hidden", true},
      {"*hidden", ".hidden", true},
      {"a\\*", "a*", false}, /* a backslash is a letter as others */
      {"a\\*", "a\\b", true},
      {"A", "a", false},
      {"l.[01].q", "l.1.q", true},
      {"l.[01].q", "l.2.q", false},
      {"l.[!0-3].q", "l.4.q", true},
      {"l[0].q", "l[0].q", false},
      {"a/*", "a/b", true},
      {"*", "a/b", true},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    if (pattern_matches(CASES[i].pattern, CASES[i].layer) != CASES[i].matches) {
      fail_msg("%s and %s", CASES[i].pattern, CASES[i].layer);
    }
  }
}

static void test_patterns_that_match_nothing(void **state) {
  (void)state;
  test_model llama = make_model("llama");
  add_layer(&llama, "model.layers.0.mlp.up_proj", 128);
  add_layer(&llama, "model.norm", 128);
  add(&llama, "model.bias", MLXQ_BF16, SHAPE(4, 128));
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  static const char *const SKIPS[] = {"model.layers.1.*", "model.bias", "up_proj", "model.layers.0.mlp.up_proj.weight"};
  for (size_t i = 0; i < COUNT(SKIPS); i++) {
    options.skips = PATTERNS("*up_proj", SKIPS[i]);
    options.skip_count = 2;
    assert_refused(&llama, &options, MLXQ_UNKNOWN_VALUE, "", "skip");
  }
  options.skip_count = 0;
  /* An override must find a layer that can be quantized. */
  static const char *const PATTERNS_OF_OVERRIDES[] = {"model.layers.1.*", "model.bias", "model.norm"};
  for (size_t i = 0; i < COUNT(PATTERNS_OF_OVERRIDES); i++) {
    options.overrides = OVERRIDES({"*up_proj", {MLXQ_AFFINE, 8, 64}}, {PATTERNS_OF_OVERRIDES[i], {MLXQ_AFFINE, 8, 64}});
    options.override_count = 2;
    assert_refused(&llama, &options, MLXQ_UNKNOWN_VALUE, "", "override");
  }
  /* A skip may name a layer that stays dense anyway. */
  options.override_count = 0;
  options.skips = PATTERNS("model.norm");
  options.skip_count = 1;
  mlxq_selection selection = select_for(&llama, &options);
  assert_int_equal(mlxq_quant_config_layer_count(selection.added), 0);
  mlxq_selection_free(&selection);
  /* One that every layer of a later pattern shadows has matched all the same. */
  options.skip_count = 0;
  options.overrides = OVERRIDES({"*up_proj", {MLXQ_AFFINE, 8, 64}}, {"*", {MLXQ_AFFINE, 3, 64}});
  options.override_count = 2;
  selection = select_for(&llama, &options);
  assert_string_equal(treatment(&selection, &llama, "model.layers.0.mlp.up_proj"), "affine/3/64");
  mlxq_selection_free(&selection);
  free_model(&llama);
}

/* A layer that is quantized already is none that a pattern can be for. */
static void test_patterns_that_match_quantized_layers(void **state) {
  (void)state;
  test_model llama = make_model("llama");
  llama.existing = parse_config("{\"group_size\": 64, \"bits\": 4}");
  add(&llama, "done.weight", MLXQ_U32, SHAPE(4, 16));
  add(&llama, "done.scales", MLXQ_BF16, SHAPE(4, 2));
  add(&llama, "done.biases", MLXQ_BF16, SHAPE(4, 2));
  add_layer(&llama, "dense", 128);
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  options.skips = PATTERNS("done");
  options.skip_count = 1;
  assert_refused(&llama, &options, MLXQ_UNKNOWN_VALUE, "", "skip");
  options.skip_count = 0;
  options.overrides = OVERRIDES({"don?", {MLXQ_AFFINE, 8, 64}});
  options.override_count = 1;
  assert_refused(&llama, &options, MLXQ_UNKNOWN_VALUE, "", "override");
  free_model(&llama);
}

/* Names that a configuration cannot hold, because they are the block's own keys. */
static void test_layers_named_as_the_keys_of_the_block(void **state) {
  (void)state;
  static const char *const KEYS[] = {"group_size", "bits", "mode", "quant_method", "linear_class", "quantization_mode"};
  for (size_t i = 0; i < COUNT(KEYS); i++) {
    test_model made = make_model("");
    add_layer(&made, KEYS[i], 128);
    mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
    options.skips = PATTERNS("*");
    options.skip_count = 1;
    assert_refused(&made, &options, MLXQ_UNSUPPORTED, KEYS[i], "");
    options.skip_count = 0;
    options.overrides = OVERRIDES({"*", {MLXQ_AFFINE, 8, 64}});
    options.override_count = 1;
    assert_refused(&made, &options, MLXQ_UNSUPPORTED, KEYS[i], "");
    /* The default needs no entry. */
    options.override_count = 0;
    mlxq_selection selection = select_for(&made, &options);
    assert_string_equal(treatment(&selection, &made, KEYS[i]), "affine/4/64");
    mlxq_selection_free(&selection);
    free_model(&made);
  }
}

static void test_an_override_that_does_not_divide(void **state) {
  (void)state;
  test_model llama = make_model("llama");
  add_layer(&llama, "a", 256);
  add_layer(&llama, "b", 192);
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  options.overrides = OVERRIDES({"*", {MLXQ_AFFINE, 4, 128}});
  options.override_count = 1;
  assert_refused(&llama, &options, MLXQ_NOT_DIVISIBLE, "b", "group_size");
  /* Who the default's group does not divide is not eligible, whatever the override's. */
  options.scheme.group_size = 128;
  options.overrides = OVERRIDES({"b", {MLXQ_AFFINE, 4, 64}});
  assert_refused(&llama, &options, MLXQ_UNKNOWN_VALUE, "", "override");
  free_model(&llama);
}

static void test_integers_are_left_to_the_planner(void **state) {
  (void)state;
  test_model llama = make_model("llama");
  add(&llama, "a.weight", MLXQ_I32, SHAPE(4, 64));
  add_layer(&llama, "b", 64);
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  options.overrides = OVERRIDES({"*", {MLXQ_AFFINE, 8, 64}});
  options.override_count = 1;
  mlxq_selection selection = select_for(&llama, &options);
  assert_null(mlxq_quant_config_layer(selection.added, "a"));
  assert_non_null(mlxq_quant_config_layer(selection.added, "b"));
  mlxq_selection_free(&selection);
  free_model(&llama);
}

/* ".weight" is the weight of the layer "", not of the one before it. */
static void test_a_layer_without_a_name(void **state) {
  (void)state;
  test_model made = make_model("");
  add_layer(&made, "a", 128);
  add(&made, ".weight", MLXQ_BF16, SHAPE(4, 64));
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  options.overrides = OVERRIDES({"a", {MLXQ_AFFINE, 8, 128}});
  options.override_count = 1;
  mlxq_selection selection = select_for(&made, &options);
  assert_int_equal(mlxq_quant_config_layer_count(selection.added), 1);
  assert_string_equal(treatment(&selection, &made, "a"), "affine/8/128");
  assert_string_equal(treatment(&selection, &made, ""), "affine/4/64");
  mlxq_selection_free(&selection);
  free_model(&made);
}

/* ---- Recipes --------------------------------------------------------------------------------------------------- */

/* mlx-lm's mixed_quant_predicate, with `index` the layer number of the path, 0 where it has none. */
static int predicate_bits(const char *path, int index, int num_layers, int low_bits, int high_bits) {
  bool use_more_bits = index < num_layers / 8 || index >= 7 * num_layers / 8 || (index - num_layers / 8) % 3 == 2;
  if ((strstr(path, "v_proj") || strstr(path, "v_a_proj") || strstr(path, "v_b_proj")) && use_more_bits) {
    return high_bits;
  }
  if (strstr(path, "down_proj") && use_more_bits) return high_bits;
  if (strstr(path, "lm_head")) return high_bits;
  return low_bits;
}

static void test_recipes_are_mlx_lms(void **state) {
  (void)state;
  static const struct {
    const char *name;
    int low, high;
  } RECIPES[] = {{"mixed_2_6", 2, 6}, {"mixed_3_4", 3, 4}, {"mixed_3_6", 3, 6}, {"mixed_4_6", 4, 6}};
  static const int LAYERS[] = {1, 2, 3, 7, 8, 9, 12, 15, 16, 17, 22, 24, 28, 32, 33, 40, 61, 80};
  static const char *const INSIDE[] = {
      "self_attn.q_proj", "self_attn.k_proj",    "self_attn.v_proj",    "self_attn.o_proj",   "self_attn.qkv_proj",
      "mlp.down_proj",    "self_attn.kv_a_proj", "self_attn.v_a_proj",  "self_attn.v_b_proj", "mlp.gate_up_proj",
      "mlp.up_proj",      "mlp.gate_proj",       "mlp.shared_down_proj"};
  static const char *const OUTSIDE[] = {"model.embed_tokens", "lm_head", "model.v_proj", "down_proj",
                                        "model.lm_head.x"};
  for (size_t r = 0; r < COUNT(RECIPES); r++) {
    for (size_t l = 0; l < COUNT(LAYERS); l++) {
      char layer[128];
      test_model llama = make_model("llama");
      for (int i = LAYERS[l] - 1; i >= 0; i--) { /* files come in any order */
        for (size_t k = 0; k < COUNT(INSIDE); k++) {
          snprintf(layer, sizeof layer, "model.layers.%d.%s", i, INSIDE[k]);
          add_layer(&llama, layer, 128);
        }
      }
      for (size_t k = 0; k < COUNT(OUTSIDE); k++) add_layer(&llama, OUTSIDE[k], 128);
      mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
      options.recipe = RECIPES[r].name;
      options.scheme.group_size = l % 2 ? 32 : 0;
      mlxq_selection selection = select_for(&llama, &options);
      for (int i = -1; i < LAYERS[l]; i++) {
        for (size_t k = 0; k < (i < 0 ? COUNT(OUTSIDE) : COUNT(INSIDE)); k++) {
          snprintf(layer, sizeof layer, "model.layers.%d.%s", i, INSIDE[k]);
          const char *path = i < 0 ? OUTSIDE[k] : layer;
          int bits = predicate_bits(path, i < 0 ? 0 : i, LAYERS[l], RECIPES[r].low, RECIPES[r].high);
          const mlxq_layer_option *option = mlxq_quant_config_layer(selection.added, path);
          assert_non_null(option); /* every layer is written */
          assert_int_equal(option->kind, MLXQ_LAYER_SCHEME);
          assert_int_equal(option->scheme.mode, MLXQ_AFFINE);
          assert_int_equal(option->scheme.group_size, l % 2 ? 32 : 64);
          assert_false(option->mode_implied);
          if (option->scheme.bits != bits) {
            fail_msg("%s, %d layers: %s: %d bits, not %d", RECIPES[r].name, LAYERS[l], path, option->scheme.bits, bits);
          }
        }
      }
      mlxq_selection_free(&selection);
      free_model(&llama);
    }
  }
}

/* The layer's number may stand elsewhere in the path. */
static void test_recipes_find_the_layer_number(void **state) {
  (void)state;
  static const char *const PREFIXES[] = {"layers", "transformer.h", "language_model.model.layers", "a.b.c.d"};
  for (size_t p = 0; p < COUNT(PREFIXES); p++) {
    char layer[128];
    test_model llama = make_model("llama");
    for (int i = 0; i < 16; i++) {
      snprintf(layer, sizeof layer, "%s.%d.mlp.down_proj", PREFIXES[p], i);
      add_layer(&llama, layer, 64);
    }
    mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
    options.recipe = "mixed_3_6";
    mlxq_selection selection = select_for(&llama, &options);
    for (int i = 0; i < 16; i++) {
      snprintf(layer, sizeof layer, "%s.%d.mlp.down_proj", PREFIXES[p], i);
      assert_int_equal(mlxq_quant_config_lookup(selection.config, layer)->bits, predicate_bits(layer, i, 16, 3, 6));
    }
    mlxq_selection_free(&selection);
    free_model(&llama);
  }
}

static void test_recipes_that_are_refused(void **state) {
  (void)state;
  test_model llama = make_model("llama"), other = make_model("llama");
  add_layer(&llama, "model.layers.0.mlp.down_proj", 128);
  add_layer(&other, "model.layers.0.mlp.fc2", 128);
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  static const char *const WRONG[] = {"", "mixed", "mixed_2_4", "MIXED_2_6", "mixed_2_6 "};
  for (size_t i = 0; i < COUNT(WRONG); i++) {
    options.recipe = WRONG[i];
    assert_refused(&llama, &options, MLXQ_USAGE, "", "recipe");
  }
  options.recipe = "mixed_2_6";
  assert_refused(&other, &options, MLXQ_UNSUPPORTED, "", "recipe");
  static const mlxq_mode MODES[] = {MLXQ_MXFP4, MLXQ_MXFP8, MLXQ_NVFP4};
  for (size_t i = 0; i < COUNT(MODES); i++) {
    options.scheme.mode = MODES[i];
    assert_refused(&llama, &options, MLXQ_USAGE, "", "recipe");
  }
  free_model(&llama);
  free_model(&other);
}

/* ---- Sources that are quantized already ------------------------------------------------------------------------ */

static void test_a_source_that_is_quantized(void **state) {
  (void)state;
  test_model llama = make_model("llama");
  llama.existing = parse_config(
      "{\"group_size\": 32, \"bits\": 8, \"mode\": \"mxfp8\", \"model.done\": {\"group_size\": 64, \"bits\": 3},"
      " \"model.kept\": false, \"model.named\": {\"group_size\": 64, \"bits\": 5}, \"model.default\": true}");
  add(&llama, "model.done.weight", MLXQ_U32, SHAPE(4, 12));
  add(&llama, "model.done.scales", MLXQ_BF16, SHAPE(4, 2));
  add_layer(&llama, "model.new", 128);
  add_layer(&llama, "model.kept", 128);
  add_layer(&llama, "model.named", 128);
  add_layer(&llama, "model.default", 128);
  add_layer(&llama, "model.norm", 128);
  add_layer(&llama, "model.skipped", 128);
  add_layer(&llama, "model.overridden", 128);
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  options.skips = PATTERNS("model.skipped");
  options.skip_count = 1;
  options.overrides = OVERRIDES({"model.overridden", {MLXQ_NVFP4, 4, 16}});
  options.override_count = 1;
  mlxq_selection selection = select_for(&llama, &options);
  static const struct {
    const char *layer, *expected;
  } CASES[] = {
      {"model.new", "affine/4/64"},       {"model.kept", "dense"}, {"model.named", "affine/5/64"},
      {"model.default", "mxfp8/8/32"},    {"model.norm", "dense"}, {"model.skipped", "dense"},
      {"model.overridden", "nvfp4/4/16"},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    const char *found = treatment(&selection, &llama, CASES[i].layer);
    if (strcmp(found, CASES[i].expected) != 0) fail_msg("%s: %s, not %s", CASES[i].layer, found, CASES[i].expected);
  }
  /* The default and the entries are the source's; what is quantized now has entries of its own. */
  assert_int_equal(mlxq_quant_config_default(selection.config)->mode, MLXQ_MXFP8);
  assert_int_equal(mlxq_quant_config_lookup(selection.config, "model.done")->bits, 3);
  assert_added(&selection,
               "{\"group_size\": 32, \"bits\": 8, \"mode\": \"mxfp8\","
               " \"model.new\": {\"group_size\": 64, \"bits\": 4, \"mode\": \"affine\"}, \"model.skipped\": false,"
               " \"model.overridden\": {\"group_size\": 16, \"bits\": 4, \"mode\": \"nvfp4\"}}");
  mlxq_selection_free(&selection);
  free_model(&llama);
}

/* A folder whose config.json says nothing of its triples cannot be written about; a single file has no config. */
static void test_triples_that_no_config_describes(void **state) {
  (void)state;
  for (int is_file = 0; is_file < 2; is_file++) {
    test_model made = make_model(is_file ? "" : "llama");
    add_layer(&made, "model.new", 128);
    add(&made, "model.done.weight", MLXQ_U32, SHAPE(4, 12));
    add(&made, "model.done.scales", MLXQ_BF16, SHAPE(4, 2));
    mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
    if (is_file) {
      mlxq_selection selection = select_for(&made, &options);
      assert_int_equal(mlxq_quant_config_layer_count(selection.config), 0);
      mlxq_selection_free(&selection);
    } else {
      assert_refused(&made, &options, MLXQ_INVARIANT, "model.done", "");
    }
    free_model(&made);
  }
}

/* An explicit wish comes before what the source says of a dense layer; a recipe does not. */
static void test_wishes_against_the_source(void **state) {
  (void)state;
  test_model llama = make_model("llama");
  llama.existing = parse_config(
      "{\"group_size\": 64, \"bits\": 4, \"l.0.down_proj\": {\"group_size\": 64, \"bits\": 5}, \"l.1.down_proj\": "
      "false}");
  add_layer(&llama, "l.0.down_proj", 128);
  add_layer(&llama, "l.1.down_proj", 128);
  add_layer(&llama, "l.2.down_proj", 128);
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  options.recipe = "mixed_2_6";
  mlxq_selection selection = select_for(&llama, &options);
  assert_string_equal(treatment(&selection, &llama, "l.0.down_proj"), "affine/5/64");
  assert_string_equal(treatment(&selection, &llama, "l.1.down_proj"), "dense");
  assert_string_equal(treatment(&selection, &llama, "l.2.down_proj"), "affine/6/64");
  mlxq_selection_free(&selection);
  options.recipe = NULL;
  options.skips = PATTERNS("l.0.*");
  options.skip_count = 1;
  options.overrides = OVERRIDES({"l.1.*", {MLXQ_AFFINE, 8, 32}});
  options.override_count = 1;
  selection = select_for(&llama, &options);
  assert_string_equal(treatment(&selection, &llama, "l.0.down_proj"), "dense");
  assert_string_equal(treatment(&selection, &llama, "l.1.down_proj"), "affine/8/32");
  mlxq_selection_free(&selection);
  free_model(&llama);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_defaults_of_the_modes),
      cmocka_unit_test(test_schemes_that_mlx_lacks),
      cmocka_unit_test(test_who_is_eligible),
      cmocka_unit_test(test_skip_then_last_override_then_recipe_then_default),
      cmocka_unit_test(test_the_family_comes_before_the_default),
      cmocka_unit_test(test_a_family_rule_that_does_not_fit),
      cmocka_unit_test(test_patterns),
      cmocka_unit_test(test_patterns_that_match_nothing),
      cmocka_unit_test(test_patterns_that_match_quantized_layers),
      cmocka_unit_test(test_layers_named_as_the_keys_of_the_block),
      cmocka_unit_test(test_an_override_that_does_not_divide),
      cmocka_unit_test(test_integers_are_left_to_the_planner),
      cmocka_unit_test(test_a_layer_without_a_name),
      cmocka_unit_test(test_recipes_are_mlx_lms),
      cmocka_unit_test(test_recipes_find_the_layer_number),
      cmocka_unit_test(test_recipes_that_are_refused),
      cmocka_unit_test(test_a_source_that_is_quantized),
      cmocka_unit_test(test_triples_that_no_config_describes),
      cmocka_unit_test(test_wishes_against_the_source),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
