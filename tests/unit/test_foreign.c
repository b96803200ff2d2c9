/* plan/foreign.c and checkpoint/foreign.c: what stored zero points mean, how many outputs a unit has, and how foreign
 * checkpoints say that they are quantized. */
#include "checkpoint/foreign.h"

#include "base/json.h"
#include "helpers.h"
#include "plan/foreign.h"
#include "plan/model.h"

static const uint32_t GPTQ_BITS[] = {2, 3, 4, 8};

/* ---- Zero points ----------------------------------------------------------------------------------------------- */

/* Puts a field into a stream of little-endian words. */
static void put_field(uint32_t *words, size_t index, unsigned bits, uint32_t value) {
  for (unsigned k = 0; k < bits; k++) {
    size_t bit = index * bits + k;
    words[bit / 32] |= (value >> k & 1u) << bit % 32;
  }
}

static mlxq_foreign_layer layer_with(mlxq_packing packing, mlxq_zero_rule rule, uint32_t bits) {
  return (mlxq_foreign_layer){
      .packing = packing, .zero_rule = rule, .group_index = MLXQ_NO_TENSOR, .bits = bits, .outs = 96, .ins = 128};
}

/* Every value in every place of some words, and what the three rules without borrowing make of it. */
static void test_fields_one_by_one(void **state) {
  (void)state;
  for (size_t b = 0; b < COUNT(GPTQ_BITS); b++) {
    unsigned bits = GPTQ_BITS[b], count = 96;
    for (unsigned value = 0; value < 1u << bits; value++) {
      for (unsigned other = 0; other < 2; other++) {
        uint32_t words[24] = {0};
        float zeros[96];
        unsigned rest = other ? (1u << bits) - 1 : 0;
        static const mlxq_zero_rule RULES[] = {MLXQ_ZERO_STORED, MLXQ_ZERO_LESS_ONE, MLXQ_ZERO_WRAPPED};
        for (size_t i = 0; i < count; i++) put_field(words, i, bits, i % 5 == 0 ? value : rest);
        for (size_t r = 0; r < COUNT(RULES); r++) {
          mlxq_foreign_layer layer = layer_with(MLXQ_PACKING_GPTQ, RULES[r], bits);
          mlxq_foreign_unpack_zeros(&layer, words, count, zeros);
          for (size_t i = 0; i < count; i++) {
            unsigned expected = i % 5 == 0 ? value : rest;
            if (RULES[r] != MLXQ_ZERO_STORED) expected++;
            if (RULES[r] == MLXQ_ZERO_WRAPPED) expected %= 1u << bits;
            assert_true(zeros[i] == (float)expected);
          }
        }
      }
    }
  }
}

/* GPTQModel subtracts these from packed words: 1 from each field, with what is borrowed going from word to word never,
 * and inside a word from field to field. Its words of 3 bits are three of their own, a field straddles two of them. */
static void subtract_ones(uint32_t *words, size_t count, unsigned bits) {
  for (size_t i = 0; i < count; i++) {
    uint32_t ones = 0;
    for (size_t bit = 0; bit < 32; bit++) {
      if ((32 * i + bit) % bits == 0) ones |= 1u << bit;
    }
    words[i] -= ones;
  }
}

static void test_borrowed(void **state) {
  (void)state;
  static const unsigned WHOLE[] = {2, 4, 8};
  seed_random(31);
  for (size_t b = 0; b < COUNT(WHOLE); b++) {
    for (unsigned round = 0; round < 200; round++) {
      unsigned bits = WHOLE[b], count = 96;
      uint32_t words[24] = {0};
      float zeros[96];
      unsigned expected[96];
      for (size_t i = 0; i < count; i++) {
        /* Many zeros: they borrow. */
        expected[i] = random_below(2) ? 0 : (unsigned)random_below(1u << bits);
        put_field(words, i, bits, expected[i]);
      }
      subtract_ones(words, count * bits / 32, bits);
      mlxq_foreign_layer layer = layer_with(MLXQ_PACKING_GPTQ, MLXQ_ZERO_BORROWED, bits);
      mlxq_foreign_unpack_zeros(&layer, words, count, zeros);
      for (size_t i = 0; i < count; i++) assert_true(zeros[i] == (float)expected[i]);
    }
  }
}

/* The three constants of GPTQModel, model.py: a field that lies across two words has its 1 in the first of them. */
static void test_borrowed_of_three_bits(void **state) {
  (void)state;
  static const uint32_t ONES[] = {0x24924924u, 0x92492492u, 0x49249249u};
  seed_random(32);
  for (unsigned round = 0; round < 400; round++) {
    uint32_t words[9] = {0};
    float zeros[96];
    unsigned expected[96];
    for (size_t i = 0; i < 96; i++) {
      expected[i] = round % 2 && random_below(2) ? 0 : (unsigned)random_below(8);
      put_field(words, i, 3, expected[i]);
    }
    for (size_t i = 0; i < 9; i++) words[i] -= ONES[i % 3];
    mlxq_foreign_layer layer = layer_with(MLXQ_PACKING_GPTQ, MLXQ_ZERO_BORROWED, 3);
    mlxq_foreign_unpack_zeros(&layer, words, 96, zeros);
    for (size_t i = 0; i < 96; i++) assert_true(zeros[i] == (float)expected[i]);
  }
}

/* Where no field was 0, borrowing and "one less" are the same. */
static void test_borrowed_without_zeros_is_one_less(void **state) {
  (void)state;
  static const unsigned WHOLE[] = {2, 4, 8};
  seed_random(33);
  for (size_t b = 0; b < COUNT(WHOLE); b++) {
    unsigned bits = WHOLE[b], count = 96;
    uint32_t words[24] = {0};
    float borrowed[96], less_one[96];
    for (size_t i = 0; i < count; i++) put_field(words, i, bits, (unsigned)random_below((1u << bits) - 1));
    mlxq_foreign_layer layer = layer_with(MLXQ_PACKING_GPTQ, MLXQ_ZERO_BORROWED, bits);
    mlxq_foreign_unpack_zeros(&layer, words, count, borrowed);
    layer.zero_rule = MLXQ_ZERO_LESS_ONE;
    mlxq_foreign_unpack_zeros(&layer, words, count, less_one);
    assert_memory_equal(borrowed, less_one, sizeof borrowed);
  }
}

static void test_zero_points_of_awq(void **state) {
  (void)state;
  static const uint32_t WORDS[] = {0x76543210u, 0xFEDCBA98u};
  static const float GEMM[] = {0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15};
  float zeros[16];
  mlxq_foreign_layer layer = layer_with(MLXQ_PACKING_AWQ_GEMM, MLXQ_ZERO_STORED, 4);
  mlxq_foreign_unpack_zeros(&layer, WORDS, 16, zeros);
  assert_memory_equal(zeros, GEMM, sizeof GEMM);
  layer.packing = MLXQ_PACKING_AWQ_GEMV;
  for (size_t count = 1; count <= 16; count++) { /* not whole words here */
    memset(zeros, 0xAA, sizeof zeros);
    mlxq_foreign_unpack_zeros(&layer, WORDS, count, zeros);
    for (size_t i = 0; i < count; i++) assert_true(zeros[i] == (float)i);
    if (count < 16) assert_memory_equal(&zeros[count], "\xAA\xAA\xAA\xAA", 4);
  }
}

/* ---- Units ----------------------------------------------------------------------------------------------------- */

static void test_outputs_of_a_unit(void **state) {
  (void)state;
  static const struct {
    mlxq_packing packing;
    uint32_t bits, outs;
  } CASES[] = {{MLXQ_PACKING_AWQ_GEMM, 4, 8}, {MLXQ_PACKING_AWQ_GEMV, 4, 1}, {MLXQ_PACKING_AWQ_GEMV_FAST, 4, 4},
               {MLXQ_PACKING_GPTQ, 2, 16},    {MLXQ_PACKING_GPTQ, 3, 32},    {MLXQ_PACKING_GPTQ, 4, 8},
               {MLXQ_PACKING_GPTQ, 8, 4}};
  for (size_t i = 0; i < COUNT(CASES); i++) {
    mlxq_foreign_layer layer = layer_with(CASES[i].packing, MLXQ_ZERO_STORED, CASES[i].bits);
    assert_int_equal(mlxq_foreign_unit_outs(&layer), CASES[i].outs);
    /* The zero points of a unit are whole words, and there is no smaller unit that has this. */
    if (CASES[i].packing == MLXQ_PACKING_GPTQ) {
      assert_int_equal(CASES[i].outs * CASES[i].bits % 32, 0);
      for (uint32_t fewer = 1; fewer < CASES[i].outs; fewer++) assert_int_not_equal(fewer * CASES[i].bits % 32, 0);
    }
  }
}

static void test_scratch(void **state) {
  (void)state;
  mlxq_foreign_layer layer = layer_with(MLXQ_PACKING_GPTQ, MLXQ_ZERO_STORED, 4);
  layer.groups = 4;
  uint64_t plain = mlxq_foreign_scratch_bytes(&layer);
  assert_true(plain >= 8 * 4 * (4 * sizeof(float) + sizeof(double)));
  layer.widened = true;
  assert_int_equal(mlxq_foreign_scratch_bytes(&layer), plain + 8 * 128 / 2);
  layer.widened = false;
  layer.requantized = true;
  assert_int_equal(mlxq_foreign_scratch_bytes(&layer), plain + 8 * 128 / 2);
}

/* ---- What the config says -------------------------------------------------------------------------------------- */

/* Reads the foreign configuration of FOLDER, in which `config.json` and, where `name` is not NULL, another file are
 * written first. */
static mlxq_status read_config(mlxq_foreign_config *foreign, const char *folder, const char *method, const char *config,
                               const char *name, const char *text, mlxq_error *error) {
  mlxq_checkpoint checkpoint = {.path = (char *)(uintptr_t)folder, .is_folder = true};
  checkpoint.config_path = (char *)(uintptr_t)path_in(folder, "config.json");
  if (name) write_text(path_in(folder, "%s", name), text);
  memset(error, 0, sizeof *error);
  if (config && mlxq_json_parse(&checkpoint.config, config, strlen(config), error) != MLXQ_OK) {
    fail_msg("%s", error->message);
  }
  mlxq_status status = mlxq_foreign_config_read(foreign, &checkpoint, method, error);
  json_object_put(checkpoint.config); /* what is read stays valid */
  return status;
}

static mlxq_foreign_config good_config(const char *folder, const char *method, const char *config) {
  mlxq_foreign_config foreign;
  mlxq_error error;
  if (read_config(&foreign, folder, method, config, NULL, NULL, &error) != MLXQ_OK) {
    fail_msg("%s: %s: %s", config, error.key, error.message);
  }
  return foreign;
}

static void test_defaults(void **state) {
  static const char *const CONFIGS[] = {"{}", "{\"quantization_config\": {}}", "{\"quantization_config\": null}",
                                        "{\"text_config\": {}}", "{\"text_config\": {\"quantization_config\": {}}}"};
  for (size_t i = 0; i < COUNT(CONFIGS); i++) {
    mlxq_foreign_config foreign = good_config(*state, i % 2 ? "awq" : "gptq", CONFIGS[i]);
    assert_int_equal(foreign.bits, i % 2 ? 4 : 0); /* AWQ has no others */
    assert_int_equal(foreign.group_size, -1);
    assert_true(foreign.zero_point);
    assert_true(foreign.symmetric); /* as GPTQ's packers have it */
    assert_false(foreign.says_symmetric || foreign.gptqmodel || foreign.dynamic);
    assert_int_equal(foreign.gptqmodel_version, 0);
    assert_string_equal(foreign.version, "");
    assert_string_equal(foreign.format, "");
    mlxq_foreign_config_free(&foreign);
    mlxq_foreign_config_free(&foreign); /* twice is harmless */
  }
}

static void test_integers_and_their_aliases(void **state) {
  static const struct {
    const char *block;
    int64_t bits, group_size;
  } CASES[] = {
      {"{\"bits\": 4, \"group_size\": 128}", 4, 128},
      {"{\"w_bit\": 4, \"q_group_size\": 64}", 4, 64},
      {"{\"bits\": 3, \"w_bit\": 4}", 3, -1},
      {"{\"bits\": null, \"w_bit\": 8, \"group_size\": null, \"q_group_size\": 32}", 8, 32},
      {"{\"bits\": null, \"w_bit\": null}", 4, -1},
      {"{\"group_size\": -1}", 4, -1},
      {"{\"bits\": -3, \"group_size\": 9223372036854775807}", -3, INT64_MAX},
      {"{\"w_bit\": \"four\", \"bits\": 4}", 4, -1},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    char config[512];
    snprintf(config, sizeof config, "{\"quantization_config\": %s}", CASES[i].block);
    mlxq_foreign_config foreign = good_config(*state, "awq", config);
    assert_int_equal(foreign.bits, CASES[i].bits);
    assert_int_equal(foreign.group_size, CASES[i].group_size);
    mlxq_foreign_config_free(&foreign);
  }
}

static void test_flags_and_texts(void **state) {
  mlxq_foreign_config foreign = good_config(
      *state, "gptq",
      "{\"quantization_config\": {\"zero_point\": false, \"sym\": true, \"version\": \"GEMM\", \"format\": \"gptq_v2\","
      " \"checkpoint_format\": \"gptq\", \"dynamic\": {}}}");
  assert_false(foreign.zero_point);
  assert_true(foreign.symmetric && foreign.says_symmetric);
  assert_true(foreign.dynamic);
  assert_string_equal(foreign.version, "GEMM");
  assert_string_equal(foreign.format, "gptq");
  mlxq_foreign_config_free(&foreign);
  /* null is not said. */
  foreign = good_config(*state, "gptq",
                        "{\"quantization_config\": {\"zero_point\": null, \"sym\": null, \"version\": null,"
                        " \"checkpoint_format\": null, \"format\": \"gptq_v2\", \"dynamic\": null}}");
  assert_true(foreign.zero_point);
  assert_true(foreign.symmetric);
  assert_false(foreign.says_symmetric || foreign.dynamic);
  assert_string_equal(foreign.version, "");
  assert_string_equal(foreign.format, "gptq_v2");
  mlxq_foreign_config_free(&foreign);
  foreign = good_config(*state, "gptq",
                        "{\"quantization_config\": {\"is_marlin_format\": true, \"checkpoint_format\": \"gptq\"}}");
  assert_string_equal(foreign.format, "marlin");
  mlxq_foreign_config_free(&foreign);
  foreign = good_config(*state, "gptq",
                        "{\"quantization_config\": {\"is_marlin_format\": false, \"checkpoint_format\": \"gptq\"}}");
  assert_string_equal(foreign.format, "gptq");
  mlxq_foreign_config_free(&foreign);
}

/* What Python takes for false says nothing: the packers' defaults hold. */
static void test_empty_blocks(void **state) {
  static const char *const CONFIGS[] = {
      "{}",
      "{\"quantization_config\": {}}",
      "{\"quantization_config\": []}",
      "{\"quantization_config\": false}",
      "{\"quantization_config\": {}, \"text_config\": {\"quantization_config\": {\"group_size\": 64}}}",
  };
  for (size_t i = 0; i < COUNT(CONFIGS); i++) {
    mlxq_foreign_config foreign = good_config(*state, "awq", CONFIGS[i]);
    assert_int_equal(foreign.bits, 4);
    assert_int_equal(foreign.group_size, -1);
    mlxq_foreign_config_free(&foreign);
  }
}

static void test_the_block_of_text_config(void **state) {
  mlxq_foreign_config foreign = good_config(
      *state, "awq",
      "{\"text_config\": {\"quantization_config\": {\"bits\": 4, \"group_size\": 64}}, \"quantization_config\": null}");
  assert_int_equal(foreign.group_size, 64);
  mlxq_foreign_config_free(&foreign);
  foreign = good_config(*state, "awq",
                        "{\"text_config\": {\"quantization_config\": {\"group_size\": 64}},"
                        " \"quantization_config\": {\"group_size\": 32}}");
  assert_int_equal(foreign.group_size, 32);
  mlxq_foreign_config_free(&foreign);
}

static void test_the_quantizer(void **state) {
  static const struct {
    const char *quantizer;
    bool gptqmodel;
    int version;
  } CASES[] = {
      {"\"gptqmodel:5.8.0\"", true, 5},
      {"\"gptqmodel:7.0.0-dev\"", true, 7},
      {"\"GPTQModel:10.1\"", true, 10},
      {"\"gptqmodel\"", true, 0},
      {"\"gptqmodel:\"", true, 0},
      {"\"gptqmodel:x\"", true, 0},
      {"\"autogptq:0.7\"", false, 0},
      {"\"autoround:0.4 gptqmodel\"", false, 0},
      {"\"\"", false, 0},
      {"null", false, 0},
      {"5", false, 0},
      {"{\"gptqmodel\": 5}", false, 0},
      {"[]", false, 0},
      {"[\"gptqmodel:1.4.5\"]", true, 1},
      {"[\"optimum:1.23\", \"gptqmodel:2.0.0\"]", true, 2},
      {"[7, null, \"auto\", [\"gptqmodel:3\"]]", false, 0},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    char config[512];
    snprintf(config, sizeof config, "{\"quantization_config\": {\"meta\": {\"quantizer\": %s}}}", CASES[i].quantizer);
    mlxq_foreign_config foreign = good_config(*state, "gptq", config);
    if (foreign.gptqmodel != CASES[i].gptqmodel || foreign.gptqmodel_version != CASES[i].version) {
      fail_msg("%s: %d, %d", CASES[i].quantizer, foreign.gptqmodel, foreign.gptqmodel_version);
    }
    mlxq_foreign_config_free(&foreign);
  }
  static const char *const METAS[] = {"null", "[]", "\"gptqmodel:5\"", "{}", "7"};
  for (size_t i = 0; i < COUNT(METAS); i++) {
    char config[512];
    snprintf(config, sizeof config, "{\"quantization_config\": {\"meta\": %s}}", METAS[i]);
    mlxq_foreign_config foreign = good_config(*state, "gptq", config);
    assert_false(foreign.gptqmodel);
    mlxq_foreign_config_free(&foreign);
  }
}

static void test_wrong_types(void **state) {
  static const struct {
    const char *block, *key;
  } CASES[] = {
      {"{\"bits\": \"4\"}", "bits"},
      {"{\"bits\": 4.0}", "bits"},
      {"{\"bits\": [4]}", "bits"},
      {"{\"w_bit\": true}", "w_bit"},
      {"{\"group_size\": \"128\"}", "group_size"},
      {"{\"q_group_size\": {}}", "q_group_size"},
      {"{\"zero_point\": 1}", "zero_point"},
      {"{\"zero_point\": \"true\"}", "zero_point"},
      {"{\"sym\": 0}", "sym"},
      {"{\"sym\": \"false\"}", "sym"},
      {"{\"version\": 7}", "version"},
      {"{\"checkpoint_format\": []}", "checkpoint_format"},
      {"{\"format\": 2}", "format"},
      {"{\"is_marlin_format\": \"false\"}", "is_marlin_format"},
      {"4", "quantization_config"},
      {"[1]", "quantization_config"},
      {"\"awq\"", "quantization_config"},
      {"true", "quantization_config"},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    char config[512];
    mlxq_foreign_config foreign;
    mlxq_error error;
    snprintf(config, sizeof config, "{\"quantization_config\": %s}", CASES[i].block);
    mlxq_status status = read_config(&foreign, *state, i % 2 ? "awq" : "gptq", config, NULL, NULL, &error);
    if (status != MLXQ_PARSE) fail_msg("%s: %s", CASES[i].block, mlxq_status_name(status));
    assert_string_equal(error.key, CASES[i].key);
    assert_string_equal(error.file, path_in(*state, "config.json"));
    mlxq_foreign_config_free(&foreign);
  }
}

/* Older packers write a file of their own, under names of their own. */
static void test_files_beside_the_config(void **state) {
  mlxq_foreign_config foreign;
  mlxq_error error;
  static const char AWQ[] = "{\"zero_point\": true, \"q_group_size\": 64, \"w_bit\": 4, \"version\": \"GEMM\"}";
  static const char GPTQ[] = "{\"bits\": 3, \"group_size\": 32, \"sym\": true, \"desc_act\": false}";
  assert_int_equal(read_config(&foreign, *state, "awq", "{}", "quant_config.json", AWQ, &error), MLXQ_OK);
  assert_int_equal(foreign.bits, 4);
  assert_int_equal(foreign.group_size, 64);
  assert_string_equal(foreign.version, "GEMM");
  mlxq_foreign_config_free(&foreign);
  assert_int_equal(read_config(&foreign, *state, "gptq", "{}", NULL, NULL, &error), MLXQ_OK);
  assert_int_equal(foreign.bits, 0); /* it is AWQ's file */
  mlxq_foreign_config_free(&foreign);
  assert_int_equal(read_config(&foreign, *state, "gptq", "{}", "quantize_config.json", GPTQ, &error), MLXQ_OK);
  assert_int_equal(foreign.bits, 3);
  assert_int_equal(foreign.group_size, 32);
  assert_true(foreign.symmetric);
  mlxq_foreign_config_free(&foreign);
  /* config.json comes first. */
  foreign = good_config(*state, "gptq", "{\"quantization_config\": {\"bits\": 8}}");
  assert_int_equal(foreign.bits, 8);
  assert_int_equal(foreign.group_size, -1);
  mlxq_foreign_config_free(&foreign);
}

static void test_broken_files_beside_the_config(void **state) {
  static const char *const TEXTS[] = {"", "{", "[]", "4", "{\"bits\": \"4\"}", "{\"sym\": 1}", "null", "{} {}"};
  for (size_t i = 0; i < COUNT(TEXTS); i++) {
    mlxq_foreign_config foreign;
    mlxq_error error;
    mlxq_status status = read_config(&foreign, *state, "gptq", "{}", "quantize_config.json", TEXTS[i], &error);
    if (status != MLXQ_PARSE) fail_msg("%s: %s", TEXTS[i], mlxq_status_name(status));
    assert_string_equal(error.file, path_in(*state, "quantize_config.json"));
    mlxq_foreign_config_free(&foreign);
  }
}

/* A single file has nothing beside it. */
static void test_a_single_file(void **state) {
  mlxq_foreign_config foreign;
  mlxq_error error;
  mlxq_checkpoint checkpoint = {.path = (char *)(uintptr_t)path_in(*state, "model.safetensors")};
  assert_int_equal(mlxq_foreign_config_read(&foreign, &checkpoint, "awq", &error), MLXQ_OK);
  assert_int_equal(foreign.group_size, -1);
  assert_int_equal(foreign.bits, 4);
  mlxq_foreign_config_free(&foreign);
}

#define ON_DISK(function) cmocka_unit_test_setup_teardown(function, make_scratch, remove_scratch)

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_fields_one_by_one),
      cmocka_unit_test(test_borrowed),
      cmocka_unit_test(test_borrowed_of_three_bits),
      cmocka_unit_test(test_borrowed_without_zeros_is_one_less),
      cmocka_unit_test(test_zero_points_of_awq),
      cmocka_unit_test(test_outputs_of_a_unit),
      cmocka_unit_test(test_scratch),
      ON_DISK(test_defaults),
      ON_DISK(test_integers_and_their_aliases),
      ON_DISK(test_flags_and_texts),
      ON_DISK(test_empty_blocks),
      ON_DISK(test_the_block_of_text_config),
      ON_DISK(test_the_quantizer),
      ON_DISK(test_wrong_types),
      ON_DISK(test_files_beside_the_config),
      ON_DISK(test_broken_files_beside_the_config),
      ON_DISK(test_a_single_file),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
