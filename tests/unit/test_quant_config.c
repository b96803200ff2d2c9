/* quant_config.c: the `quantization` block of config.json, read, asked and written. */
#include "scheme/quant_config.h"

#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* Uses the headers above. */
#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Parses a copy of just the text's bytes, so that the address sanitizer sees a read beyond them. */
static mlxq_status parse_exact(mlxq_quant_config **config, const char *text, mlxq_error *error) {
  size_t bytes = strlen(text);
  char *exact = malloc(bytes > 0 ? bytes : 1);
  assert_non_null(exact);
  memcpy(exact, text, bytes);
  mlxq_status status = mlxq_quant_config_parse(config, exact, bytes, error);
  free(exact);
  return status;
}

static mlxq_quant_config *parse(const char *text) {
  mlxq_quant_config *config;
  mlxq_error error = {0};
  if (parse_exact(&config, text, &error) != MLXQ_OK) {
    fail_msg("%s: %s: %s: %s", text, error.layer, error.key, error.message);
  }
  assert_non_null(config);
  return config;
}

/* Parses {"quantization": {"group_size": 64, "bits": 4, MEMBERS}}. */
static mlxq_quant_config *parse_members(const char *members) {
  char text[2048];
  snprintf(text, sizeof text, "{\"quantization\": {\"group_size\": 64, \"bits\": 4, %s}}", members);
  return parse(text);
}

static void assert_fails(const char *text, mlxq_status status, const char *layer, const char *key,
                         const char *message) {
  mlxq_quant_config *config = (mlxq_quant_config *)(uintptr_t)1;
  mlxq_error error = {0};
  if (parse_exact(&config, text, &error) != status) fail_msg("not refused as expected: %s", text);
  assert_null(config);
  assert_int_equal(error.status, status);
  assert_string_equal(error.file, "");
  assert_string_equal(error.layer, layer);
  assert_string_equal(error.key, key);
  assert_string_equal(error.message, message);
  assert_int_equal(parse_exact(&config, text, NULL), status);
}

static void assert_scheme(const mlxq_scheme *scheme, mlxq_mode mode, int32_t bits, int32_t group_size) {
  assert_non_null(scheme);
  assert_int_equal(scheme->mode, mode);
  assert_int_equal(scheme->bits, bits);
  assert_int_equal(scheme->group_size, group_size);
}

static void assert_serialises(const mlxq_quant_config *config, const char *expected) {
  char *text;
  assert_int_equal(mlxq_quant_config_to_json(&text, config, NULL), MLXQ_OK);
  assert_string_equal(text, expected);
  mlxq_free(text);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static void test_no_block(void **state) {
  (void)state;
  static const char *const TEXTS[] = {
      "null",
      "true",
      "1",
      "\"quantization\"",
      "[]",
      "[{\"quantization\": 1}]",
      "{}",
      "{\"model_type\": \"llama\", \"x\": {\"quantization\": 1}}",
      "{\"quantization\": null}",
      "{\"quantization\": {\"bits\": \"wrong\"}, \"quantization\": null}",
      "{\"quantization_config\": {\"group_size\": 64, \"bits\": 4}}",
  };
  for (size_t i = 0; i < COUNT(TEXTS); i++) {
    mlxq_quant_config *config = (mlxq_quant_config *)(uintptr_t)1;
    assert_int_equal(parse_exact(&config, TEXTS[i], NULL), MLXQ_OK);
    assert_null(config);
  }
}

static void test_default(void **state) {
  (void)state;
  static const char *const NAMES[] = {"affine", "mxfp4", "mxfp8", "nvfp4"};
  mlxq_quant_config *config = parse("{\"quantization\": {\"group_size\": 32, \"bits\": 8}}");
  assert_scheme(mlxq_quant_config_default(config), MLXQ_AFFINE, 8, 32);
  assert_int_equal(mlxq_quant_config_layer_count(config), 0);
  assert_null(mlxq_quant_config_layer(config, "model"));
  assert_ptr_equal(mlxq_quant_config_lookup(config, "model"), mlxq_quant_config_default(config));
  mlxq_quant_config_free(config);
  for (int mode = 0; mode < MLXQ_MODE_COUNT; mode++) {
    char text[128];
    snprintf(text, sizeof text, "{\"quantization\": {\"mode\": \"%s\", \"bits\": 4, \"group_size\": 16}}", NAMES[mode]);
    config = parse(text);
    assert_scheme(mlxq_quant_config_default(config), (mlxq_mode)mode, 4, 16);
    mlxq_quant_config_free(config);
  }
}

static void test_numbers_are_not_judged(void **state) {
  (void)state;
  mlxq_quant_config *config = parse(
      "{\"quantization\": {\"group_size\": -2147483648, \"bits\": 7, \"a\": {\"group_size\": 0, \"bits\": 2147483647, "
      "\"mode\": \"nvfp4\"}}}");
  assert_scheme(mlxq_quant_config_default(config), MLXQ_AFFINE, 7, INT32_MIN);
  assert_scheme(mlxq_quant_config_lookup(config, "a"), MLXQ_NVFP4, INT32_MAX, 0);
  mlxq_quant_config_free(config);
}

static void test_layers(void **state) {
  (void)state;
  mlxq_quant_config *config = parse_members(
      "\"skipped\": false, \"plain\": true, \"own\": {\"group_size\": 32, \"bits\": 8, \"mode\": \"mxfp8\"}, "
      "\"implied\": {\"group_size\": 64, \"bits\": 8}, \"more\": {\"bits\": 6, \"group_size\": 128, \"x\": [1], "
      "\"global_scale\": false}");
  assert_int_equal(mlxq_quant_config_layer_count(config), 5);
  assert_null(mlxq_quant_config_lookup(config, "skipped"));
  assert_ptr_equal(mlxq_quant_config_lookup(config, "plain"), mlxq_quant_config_default(config));
  assert_scheme(mlxq_quant_config_lookup(config, "own"), MLXQ_MXFP8, 8, 32);
  assert_scheme(mlxq_quant_config_lookup(config, "implied"), MLXQ_AFFINE, 8, 64);
  assert_scheme(mlxq_quant_config_lookup(config, "more"), MLXQ_AFFINE, 6, 128);
  assert_scheme(mlxq_quant_config_lookup(config, "unnamed"), MLXQ_AFFINE, 4, 64);
  /* Paths are whole: neither a prefix nor a longer one is the layer. */
  assert_scheme(mlxq_quant_config_lookup(config, "skippe"), MLXQ_AFFINE, 4, 64);
  assert_scheme(mlxq_quant_config_lookup(config, "skipped.x"), MLXQ_AFFINE, 4, 64);
  assert_scheme(mlxq_quant_config_lookup(config, ""), MLXQ_AFFINE, 4, 64);

  assert_int_equal(mlxq_quant_config_layer(config, "skipped")->kind, MLXQ_LAYER_SKIP);
  assert_int_equal(mlxq_quant_config_layer(config, "plain")->kind, MLXQ_LAYER_DEFAULT);
  assert_int_equal(mlxq_quant_config_layer(config, "own")->kind, MLXQ_LAYER_SCHEME);
  assert_false(mlxq_quant_config_layer(config, "own")->mode_implied);
  assert_true(mlxq_quant_config_layer(config, "implied")->mode_implied);
  assert_null(mlxq_quant_config_layer(config, "unnamed"));
  mlxq_quant_config_free(config);
}

static void test_null_group_size(void **state) {
  (void)state;
  /* A recipe without --q-group-size makes mlx-lm write this. */
  mlxq_quant_config *config = parse_members(
      "\"a\": {\"group_size\": null, \"bits\": 6, \"mode\": \"affine\"}, \"b\": {\"group_size\": null, \"bits\": 4, "
      "\"mode\": \"nvfp4\"}, \"c\": {\"group_size\": null, \"bits\": 3}");
  assert_scheme(mlxq_quant_config_lookup(config, "a"), MLXQ_AFFINE, 6, 64);
  assert_scheme(mlxq_quant_config_lookup(config, "b"), MLXQ_NVFP4, 4, 16);
  assert_scheme(mlxq_quant_config_lookup(config, "c"), MLXQ_AFFINE, 3, 64);
  assert_serialises(config,
                    "{\"group_size\": 64, \"bits\": 4, \"a\": {\"group_size\": 64, \"bits\": 6, \"mode\": \"affine\"}, "
                    "\"b\": {\"group_size\": 16, \"bits\": 4, \"mode\": \"nvfp4\"}, \"c\": {\"group_size\": 64, "
                    "\"bits\": 3}}");
  mlxq_quant_config_free(config);
}

static void test_reserved_keys(void **state) {
  (void)state;
  mlxq_quant_config *config = parse_members(
      "\"mode\": \"affine\", \"quant_method\": \"x\", \"linear_class\": [1], \"quantization_mode\": {\"bits\": 1.5}");
  assert_int_equal(mlxq_quant_config_layer_count(config), 0);
  mlxq_quant_config_free(config);
  config =
      parse_members("\"quant_method\": false, \"linear_class\": null, \"quantization_mode\": true, \"Bits\": false");
  assert_int_equal(mlxq_quant_config_layer_count(config), 1);
  assert_null(mlxq_quant_config_lookup(config, "Bits"));
  mlxq_quant_config_free(config);
}

static void test_order_and_duplicates(void **state) {
  (void)state;
  mlxq_quant_config *config = parse(
      "{\"quantization\": {\"z\": false, \"group_size\": 32, \"m\": true, \"bits\": 2, \"a\": true, \"mode\": "
      "\"mxfp4\", \"k\": false, \"m\": false, \"bits\": 3}}");
  static const char *const ORDER[] = {"z", "m", "a", "k"};
  static const mlxq_layer_kind KINDS[] = {MLXQ_LAYER_SKIP, MLXQ_LAYER_SKIP, MLXQ_LAYER_DEFAULT, MLXQ_LAYER_SKIP};
  assert_scheme(mlxq_quant_config_default(config), MLXQ_MXFP4, 3, 32);
  assert_int_equal(mlxq_quant_config_layer_count(config), COUNT(ORDER));
  for (size_t i = 0; i < COUNT(ORDER); i++) {
    const mlxq_layer_option *option;
    assert_string_equal(mlxq_quant_config_layer_at(config, i, &option), ORDER[i]);
    assert_int_equal(option->kind, KINDS[i]);
    assert_ptr_equal(option, mlxq_quant_config_layer(config, ORDER[i]));
    assert_string_equal(mlxq_quant_config_layer_at(config, i, NULL), ORDER[i]);
  }
  assert_null(mlxq_quant_config_layer_at(config, COUNT(ORDER), NULL));
  mlxq_quant_config_free(config);

  /* The last block wins whole. */
  config = parse(
      "{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"a\": false}, \"quantization\": {\"group_size\": 32, "
      "\"bits\": 8}}");
  assert_scheme(mlxq_quant_config_lookup(config, "a"), MLXQ_AFFINE, 8, 32);
  mlxq_quant_config_free(config);
}

static void test_unicode_layers(void **state) {
  (void)state;
  mlxq_quant_config *config = parse_members(
      "\"mod\\u00e8le.\\ud83d\\ude00\": false, \"\u5c42.0\": {\"group_size\": 32, \"bits\": 8}, \"\": false");
  assert_null(mlxq_quant_config_lookup(config, "mod\u00e8le.\U0001F600"));
  assert_scheme(mlxq_quant_config_lookup(config, "\u5c42.0"), MLXQ_AFFINE, 8, 32);
  assert_null(mlxq_quant_config_lookup(config, ""));
  assert_string_equal(mlxq_quant_config_layer_at(config, 0, NULL), "mod\u00e8le.\U0001F600");
  assert_serialises(config,
                    "{\"group_size\": 64, \"bits\": 4, \"mod\\u00e8le.\\ud83d\\ude00\": false, \"\\u5c42.0\": "
                    "{\"group_size\": 32, \"bits\": 8}, \"\": false}");
  mlxq_quant_config_free(config);
}

/* ---- refusing --------------------------------------------------------------------------------------------------- */

static void test_broken_documents(void **state) {
  (void)state;
  assert_fails("", MLXQ_PARSE, "", "", "line 1, column 1: a value is expected");
  assert_fails("{\"quantization\": {\"group_size\": 64,\n  \"bits\": }}", MLXQ_PARSE, "", "",
               "line 2, column 11: a value is expected");
  assert_fails("{\"a\": 'b'}", MLXQ_PARSE, "", "", "line 1, column 7: a value is expected");
  assert_fails("{\"quantization\": null} x", MLXQ_PARSE, "", "", "line 1, column 24: text after the document");
}

static void test_wrong_blocks(void **state) {
  (void)state;
  static const struct {
    const char *block, *key, *message;
  } CASES[] = {
      {"1", "quantization", "not an object"},
      {"true", "quantization", "not an object"},
      {"false", "quantization", "not an object"},
      {"\"affine\"", "quantization", "not an object"},
      {"[]", "quantization", "not an object"},
      {"{}", "group_size", "missing in the quantization block"},
      {"{\"bits\": 4}", "group_size", "missing in the quantization block"},
      {"{\"group_size\": 64}", "bits", "missing in the quantization block"},
      {"{\"group_size\": null, \"bits\": 4}", "group_size", "not a 32-bit integer in the quantization block"},
      {"{\"group_size\": true, \"bits\": 4}", "group_size", "not a 32-bit integer in the quantization block"},
      {"{\"group_size\": 64.0, \"bits\": 4}", "group_size", "not a 32-bit integer in the quantization block"},
      {"{\"group_size\": \"64\", \"bits\": 4}", "group_size", "not a 32-bit integer in the quantization block"},
      {"{\"group_size\": 2147483648, \"bits\": 4}", "group_size", "not a 32-bit integer in the quantization block"},
      {"{\"group_size\": 18446744073709551680, \"bits\": 4}", "group_size",
       "not a 32-bit integer in the quantization block"},
      {"{\"group_size\": 64, \"bits\": null}", "bits", "not a 32-bit integer in the quantization block"},
      {"{\"group_size\": 64, \"bits\": false}", "bits", "not a 32-bit integer in the quantization block"},
      {"{\"group_size\": 64, \"bits\": 4e0}", "bits", "not a 32-bit integer in the quantization block"},
      {"{\"group_size\": 64, \"bits\": NaN}", "bits", "not a 32-bit integer in the quantization block"},
      {"{\"group_size\": 64, \"bits\": [4]}", "bits", "not a 32-bit integer in the quantization block"},
      {"{\"group_size\": 64, \"bits\": {}}", "bits", "not a 32-bit integer in the quantization block"},
      {"{\"group_size\": 64, \"bits\": -2147483649}", "bits", "not a 32-bit integer in the quantization block"},
      {"{\"group_size\": 64, \"bits\": 340282366920938463463374607431768211460}", "bits",
       "not a 32-bit integer in the quantization block"},
      {"{\"group_size\": 64, \"bits\": 4, \"mode\": null}", "mode", "not a string in the quantization block"},
      {"{\"group_size\": 64, \"bits\": 4, \"mode\": 0}", "mode", "not a string in the quantization block"},
      {"{\"group_size\": 64, \"bits\": 4, \"mode\": [\"affine\"]}", "mode", "not a string in the quantization block"},
      {"{\"group_size\": 64, \"bits\": 4, \"mode\": \"\"}", "mode", "unknown mode \"\""},
      {"{\"group_size\": 64, \"bits\": 4, \"mode\": \"int4\"}", "mode", "unknown mode \"int4\""},
      {"{\"group_size\": 64, \"bits\": 4, \"mode\": \"Affine\"}", "mode", "unknown mode \"Affine\""},
      {"{\"group_size\": 64, \"bits\": 4, \"mode\": \"a\\n\\u001b[1m\"}", "mode", "unknown mode \"a\\x0A\\x1B[1m\""},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    char text[256];
    snprintf(text, sizeof text, "{\"quantization\": %s}", CASES[i].block);
    assert_fails(text, MLXQ_PARSE, "", CASES[i].key, CASES[i].message);
  }
  /* A mode is compared whole, also behind a NUL. */
  mlxq_quant_config *config;
  assert_int_equal(
      parse_exact(&config, "{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"mode\": \"affine\\u0000\"}}", NULL),
      MLXQ_PARSE);
}

static void test_wrong_layers(void **state) {
  (void)state;
  static const struct {
    const char *value;
    mlxq_status status;
    const char *key, *message;
  } CASES[] = {
      {"null", MLXQ_PARSE, "", "neither true, false nor an object"},
      {"0", MLXQ_PARSE, "", "neither true, false nor an object"},
      {"1.5", MLXQ_PARSE, "", "neither true, false nor an object"},
      {"\"false\"", MLXQ_PARSE, "", "neither true, false nor an object"},
      {"[]", MLXQ_PARSE, "", "neither true, false nor an object"},
      {"{}", MLXQ_PARSE, "group_size", "missing"},
      {"{\"bits\": 8}", MLXQ_PARSE, "group_size", "missing"},
      {"{\"group_size\": 64}", MLXQ_PARSE, "bits", "missing"},
      {"{\"group_size\": true, \"bits\": 8}", MLXQ_PARSE, "group_size", "not a 32-bit integer"},
      {"{\"group_size\": 1e2, \"bits\": 8}", MLXQ_PARSE, "group_size", "not a 32-bit integer"},
      {"{\"group_size\": 64, \"bits\": null}", MLXQ_PARSE, "bits", "not a 32-bit integer"},
      {"{\"group_size\": null, \"bits\": null}", MLXQ_PARSE, "bits", "not a 32-bit integer"},
      {"{\"group_size\": null}", MLXQ_PARSE, "bits", "missing"},
      {"{\"group_size\": 64, \"bits\": 4294967300}", MLXQ_PARSE, "bits", "not a 32-bit integer"},
      {"{\"group_size\": 64, \"bits\": 8, \"mode\": null}", MLXQ_PARSE, "mode", "not a string"},
      {"{\"group_size\": 64, \"bits\": 8, \"mode\": \"fp8\"}", MLXQ_PARSE, "mode", "unknown mode \"fp8\""},
      {"{\"group_size\": 16, \"bits\": 4, \"mode\": \"nvfp4\", \"global_scale\": true}", MLXQ_UNSUPPORTED,
       "global_scale", "a scale for the whole tensor is not supported"},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    char text[512];
    snprintf(text, sizeof text,
             "{\"quantization\": {\"group_size\": 64, \"model.a\": false, \"model.layers.0.\\u00e9\\n\": %s, \"bits\": "
             "4}}",
             CASES[i].value);
    assert_fails(text, CASES[i].status, "model.layers.0.\u00e9\\x0A", CASES[i].key, CASES[i].message);
  }
}

static void test_global_scale_other_than_true(void **state) {
  (void)state;
  static const char *const IGNORED[] = {"false", "null", "1", "\"true\"", "[true]"};
  for (size_t i = 0; i < COUNT(IGNORED); i++) {
    char members[128];
    snprintf(members, sizeof members, "\"a\": {\"group_size\": 32, \"bits\": 8, \"global_scale\": %s}", IGNORED[i]);
    mlxq_quant_config *config = parse_members(members);
    assert_scheme(mlxq_quant_config_lookup(config, "a"), MLXQ_AFFINE, 8, 32);
    mlxq_quant_config_free(config);
  }
}

static void test_first_wrong_layer_is_named(void **state) {
  (void)state;
  assert_fails("{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"z\": 1, \"a\": 2}}", MLXQ_PARSE, "z", "",
               "neither true, false nor an object");
  /* What is wrong with the block itself comes first. */
  assert_fails("{\"quantization\": {\"z\": 1, \"group_size\": 64}}", MLXQ_PARSE, "", "bits",
               "missing in the quantization block");
}

static void test_long_layer_name_in_error(void **state) {
  (void)state;
  char text[4096];
  int used = snprintf(text, sizeof text, "{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"");
  memset(text + used, 'n', 2000);
  snprintf(text + used + 2000, sizeof text - (size_t)used - 2000, "\": 7}}");
  mlxq_quant_config *config;
  mlxq_error error = {0};
  assert_int_equal(parse_exact(&config, text, &error), MLXQ_PARSE);
  assert_int_equal(strlen(error.layer), MLXQ_ERROR_NAME_BYTES - 1);
  assert_string_equal(error.layer + MLXQ_ERROR_NAME_BYTES - 5, "n...");
}

static void test_hostile_nesting(void **state) {
  (void)state;
  enum { DEPTH = 100000 };
  static const char START[] = "{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"a\": ";
  char *text = malloc(sizeof START + DEPTH);
  assert_non_null(text);
  memcpy(text, START, sizeof START);
  memset(text + sizeof START - 1, '[', DEPTH);
  text[sizeof START - 1 + DEPTH] = '\0';
  mlxq_quant_config *config;
  mlxq_error error = {0};
  assert_int_equal(parse_exact(&config, text, &error), MLXQ_PARSE);
  assert_null(config);
  assert_non_null(strstr(error.message, "nested too deeply"));
  free(text);
}

/* ---- making ----------------------------------------------------------------------------------------------------- */

static void test_new(void **state) {
  (void)state;
  mlxq_quant_config *config;
  mlxq_scheme scheme = {MLXQ_MXFP8, 8, 32};
  assert_int_equal(mlxq_quant_config_new(&config, &scheme, NULL), MLXQ_OK);
  scheme.bits = 1; /* copied */
  assert_scheme(mlxq_quant_config_default(config), MLXQ_MXFP8, 8, 32);
  assert_serialises(config, "{\"group_size\": 32, \"bits\": 8, \"mode\": \"mxfp8\"}");
  mlxq_quant_config_free(config);
  mlxq_quant_config_free(NULL);
  mlxq_free(NULL);
}

static void test_no_default(void **state) {
  (void)state;
  mlxq_quant_config *config;
  mlxq_layer_option own = {MLXQ_LAYER_SCHEME, {MLXQ_AFFINE, 4, 64}, false}, plain = {.kind = MLXQ_LAYER_DEFAULT};
  assert_int_equal(mlxq_quant_config_new(&config, NULL, NULL), MLXQ_OK);
  assert_int_equal(mlxq_quant_config_set_layer(config, "own", &own, NULL), MLXQ_OK);
  assert_int_equal(mlxq_quant_config_set_layer(config, "plain", &plain, NULL), MLXQ_OK);
  assert_null(mlxq_quant_config_default(config));
  assert_null(mlxq_quant_config_lookup(config, "plain"));
  assert_null(mlxq_quant_config_lookup(config, "unnamed"));
  assert_scheme(mlxq_quant_config_lookup(config, "own"), MLXQ_AFFINE, 4, 64);
  char *text = (char *)(uintptr_t)1;
  mlxq_error error = {0};
  assert_int_equal(mlxq_quant_config_to_json(&text, config, &error), MLXQ_INVARIANT);
  assert_null(text);
  assert_int_equal(error.status, MLXQ_INVARIANT);
  assert_string_equal(error.message, "a quantization block needs a default scheme");
  mlxq_quant_config_free(config);
}

static void test_from_layers(void **state) {
  (void)state;
  char first[] = "b";
  const char *paths[] = {first, "a", "c", "b"};
  mlxq_layer_option options[] = {
      {.kind = MLXQ_LAYER_SKIP},
      {.kind = MLXQ_LAYER_DEFAULT},
      {MLXQ_LAYER_SCHEME, {MLXQ_NVFP4, 4, 16}, false},
      {MLXQ_LAYER_SCHEME, {MLXQ_AFFINE, 8, 64}, true},
  };
  mlxq_scheme scheme = mlxq_scheme_default(MLXQ_AFFINE);
  mlxq_quant_config *config;
  assert_int_equal(mlxq_quant_config_from_layers(&config, &scheme, paths, options, COUNT(paths), NULL), MLXQ_OK);
  first[0] = 'x'; /* copied */
  options[2].kind = MLXQ_LAYER_SKIP;
  assert_int_equal(mlxq_quant_config_layer_count(config), 3);
  assert_serialises(config,
                    "{\"group_size\": 64, \"bits\": 4, \"mode\": \"affine\", \"b\": {\"group_size\": 64, \"bits\": 8}, "
                    "\"a\": true, \"c\": {\"group_size\": 16, \"bits\": 4, \"mode\": \"nvfp4\"}}");
  mlxq_quant_config_free(config);

  assert_int_equal(mlxq_quant_config_from_layers(&config, NULL, NULL, NULL, 0, NULL), MLXQ_OK);
  assert_int_equal(mlxq_quant_config_layer_count(config), 0);
  assert_null(mlxq_quant_config_default(config));
  mlxq_quant_config_free(config);
}

static void test_set_layer(void **state) {
  (void)state;
  mlxq_scheme scheme = mlxq_scheme_default(MLXQ_MXFP4);
  mlxq_layer_option skip = {.kind = MLXQ_LAYER_SKIP}, plain = {.kind = MLXQ_LAYER_DEFAULT};
  mlxq_quant_config *config;
  assert_int_equal(mlxq_quant_config_new(&config, &scheme, NULL), MLXQ_OK);
  assert_int_equal(mlxq_quant_config_set_layer(config, "a", &skip, NULL), MLXQ_OK);
  assert_int_equal(mlxq_quant_config_set_layer(config, "b", &plain, NULL), MLXQ_OK);
  assert_int_equal(mlxq_quant_config_set_layer(config, "a", &plain, NULL), MLXQ_OK);
  assert_int_equal(mlxq_quant_config_layer_count(config), 2);
  assert_serialises(config, "{\"group_size\": 32, \"bits\": 4, \"mode\": \"mxfp4\", \"a\": true, \"b\": true}");
  mlxq_quant_config_free(config);
}

static void test_reserved_paths_are_refused(void **state) {
  (void)state;
  static const char *const RESERVED[] = {"group_size",   "bits",         "mode",
                                         "quant_method", "linear_class", "quantization_mode"};
  mlxq_scheme scheme = mlxq_scheme_default(MLXQ_AFFINE);
  mlxq_layer_option skip = {.kind = MLXQ_LAYER_SKIP}, skips[2] = {skip, skip};
  mlxq_quant_config *config, *none;
  assert_int_equal(mlxq_quant_config_new(&config, &scheme, NULL), MLXQ_OK);
  for (size_t i = 0; i < COUNT(RESERVED); i++) {
    mlxq_error error = {0};
    const char *paths[] = {"fine", RESERVED[i]};
    assert_int_equal(mlxq_quant_config_set_layer(config, RESERVED[i], &skip, &error), MLXQ_USAGE);
    assert_string_equal(error.layer, RESERVED[i]);
    assert_string_equal(error.message, "the name is a key of the quantization block, not a layer");
    assert_int_equal(mlxq_quant_config_from_layers(&none, NULL, paths, skips, 2, NULL), MLXQ_USAGE);
    assert_null(none);
  }
  assert_int_equal(mlxq_quant_config_layer_count(config), 0);
  mlxq_quant_config_free(config);
}

static void test_implied_mode_of_another_mode_is_written(void **state) {
  (void)state;
  mlxq_scheme scheme = mlxq_scheme_default(MLXQ_AFFINE);
  mlxq_layer_option option = {MLXQ_LAYER_SCHEME, {MLXQ_MXFP4, 4, 32}, true};
  const char *path = "a";
  mlxq_quant_config *config;
  assert_int_equal(mlxq_quant_config_from_layers(&config, &scheme, &path, &option, 1, NULL), MLXQ_OK);
  assert_serialises(config,
                    "{\"group_size\": 64, \"bits\": 4, \"mode\": \"affine\", \"a\": {\"group_size\": 32, \"bits\": 4, "
                    "\"mode\": \"mxfp4\"}}");
  mlxq_quant_config_free(config);
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

static void test_round_trip(void **state) {
  (void)state;
  /* As mlx_lm.convert writes it: a granite model (no mode in its own entries), then one whose config is from before
   * there were modes. */
  static const char *const BLOCKS[] = {
      "{\"group_size\": 32, \"bits\": 4, \"mode\": \"mxfp4\", \"model.layers.0.block_sparse_moe.router.layer\": "
      "{\"group_size\": 64, \"bits\": 8}, \"model.embed_tokens\": {\"group_size\": 64, \"bits\": 6, \"mode\": "
      "\"affine\"}, \"lm_head\": false, \"model.layers.1.mlp\": true}",
      "{\"group_size\": 64, \"bits\": 4, \"lm_head\": {\"group_size\": 128, \"bits\": 3, \"mode\": \"affine\"}}",
  };
  for (size_t i = 0; i < COUNT(BLOCKS); i++) {
    char text[1024];
    snprintf(text, sizeof text, "{\"quantization\": %s}", BLOCKS[i]);
    mlxq_quant_config *config = parse(text);
    assert_serialises(config, BLOCKS[i]);
    mlxq_quant_config_free(config);
  }
}

static void test_json_objects(void **state) {
  (void)state;
  static const char BLOCK[] =
      "{\"group_size\": 64, \"bits\": 4, \"mode\": \"affine\", \"a\": {\"group_size\": 64, \"bits\": 8}, \"b\": false}";
  struct json_object *block, *written;
  mlxq_quant_config *config = (mlxq_quant_config *)(uintptr_t)1;
  assert_int_equal(mlxq_quant_config_from_json(&config, NULL, NULL), MLXQ_OK);
  assert_null(config);
  assert_int_equal(mlxq_json_parse(&block, BLOCK, sizeof BLOCK - 1, NULL), MLXQ_OK);
  assert_int_equal(mlxq_quant_config_from_json(&config, block, NULL), MLXQ_OK);
  json_object_put(block); /* still ours, and nothing of it is used any more */
  assert_scheme(mlxq_quant_config_lookup(config, "a"), MLXQ_AFFINE, 8, 64);
  assert_int_equal(mlxq_quant_config_to_object(&written, config, NULL), MLXQ_OK);
  mlxq_quant_config_free(config);
  mlxq_text text = {0};
  mlxq_json_write(&text, written, 0);
  assert_string_equal(text.data, BLOCK);
  mlxq_text_free(&text);
  json_object_put(written);

  assert_int_equal(mlxq_quant_config_new(&config, NULL, NULL), MLXQ_OK);
  assert_int_equal(mlxq_quant_config_to_object(&written, config, NULL), MLXQ_INVARIANT);
  assert_null(written);
  mlxq_quant_config_free(config);
}

static void test_many_layers(void **state) {
  (void)state;
  enum { LAYERS = 100000 };
  mlxq_text text = {0};
  mlxq_text_puts(&text, "{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"mode\": \"affine\"");
  for (int i = 0; i < LAYERS; i++) {
    mlxq_text_printf(&text, ", \"model.layers.%d.mlp.down_proj\": ", i);
    if (i % 3 == 0) mlxq_text_puts(&text, "false");
    if (i % 3 == 1) mlxq_text_puts(&text, "true");
    if (i % 3 == 2) mlxq_text_printf(&text, "{\"group_size\": 32, \"bits\": %d, \"mode\": \"affine\"}", i % 7);
  }
  mlxq_text_puts(&text, "}}");
  mlxq_quant_config *config;
  assert_int_equal(mlxq_quant_config_parse(&config, text.data, text.length, NULL), MLXQ_OK);
  assert_int_equal(mlxq_quant_config_layer_count(config), LAYERS);
  for (int i = 0; i < LAYERS; i++) {
    char path[64];
    snprintf(path, sizeof path, "model.layers.%d.mlp.down_proj", i);
    assert_string_equal(mlxq_quant_config_layer_at(config, (size_t)i, NULL), path);
    const mlxq_scheme *scheme = mlxq_quant_config_lookup(config, path);
    if (i % 3 == 0) assert_null(scheme);
    if (i % 3 == 1) assert_ptr_equal(scheme, mlxq_quant_config_default(config));
    if (i % 3 == 2) assert_scheme(scheme, MLXQ_AFFINE, i % 7, 32);
    snprintf(path, sizeof path, "model.layers.%d.mlp.up_proj", i);
    assert_null(mlxq_quant_config_layer(config, path));
  }
  char *written;
  assert_int_equal(mlxq_quant_config_to_json(&written, config, NULL), MLXQ_OK);
  text.data[text.length - 1] = '\0'; /* without the document around the block */
  assert_string_equal(written, text.data + strlen("{\"quantization\": "));
  mlxq_free(written);
  mlxq_quant_config_free(config);
  mlxq_text_free(&text);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_no_block),
      cmocka_unit_test(test_default),
      cmocka_unit_test(test_numbers_are_not_judged),
      cmocka_unit_test(test_layers),
      cmocka_unit_test(test_null_group_size),
      cmocka_unit_test(test_reserved_keys),
      cmocka_unit_test(test_order_and_duplicates),
      cmocka_unit_test(test_unicode_layers),
      cmocka_unit_test(test_broken_documents),
      cmocka_unit_test(test_wrong_blocks),
      cmocka_unit_test(test_wrong_layers),
      cmocka_unit_test(test_global_scale_other_than_true),
      cmocka_unit_test(test_first_wrong_layer_is_named),
      cmocka_unit_test(test_long_layer_name_in_error),
      cmocka_unit_test(test_hostile_nesting),
      cmocka_unit_test(test_new),
      cmocka_unit_test(test_no_default),
      cmocka_unit_test(test_from_layers),
      cmocka_unit_test(test_set_layer),
      cmocka_unit_test(test_reserved_paths_are_refused),
      cmocka_unit_test(test_implied_mode_of_another_mode_is_written),
      cmocka_unit_test(test_round_trip),
      cmocka_unit_test(test_json_objects),
      cmocka_unit_test(test_many_layers),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
