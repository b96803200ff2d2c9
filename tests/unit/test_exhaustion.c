/* Whole operations, each of whose allocations fails on purpose, or a thread. */
#include "base/file.h"
#include "exhaust.h"
#include "helpers.h"

#include <dirent.h>

/* ---- In memory ------------------------------------------------------------------------------------------------- */

typedef struct in_memory {
  mlxq_weights *in, *expected;
  mlxq_quant_config *config;
  bool quantize;
} in_memory;

static mlxq_status transform(void *user, mlxq_error *error) {
  const in_memory *work = user;
  mlxq_transform_options options = MLXQ_TRANSFORM_OPTIONS_INIT;
  mlxq_weights *out = (mlxq_weights *)(uintptr_t)16;
  options.threads = 1;
  mlxq_status status = work->quantize ? mlxq_quantize_weights(&out, work->in, work->config, NULL, NULL, &options, error)
                                      : mlxq_dequantize_weights(&out, work->in, work->config, &options, error);
  stop_failing();
  if (status != MLXQ_OK) {
    assert_null(out);
    return status;
  }
  assert_same_weights(out, work->expected);
  mlxq_weights_free(out);
  return status;
}

static void test_transforms_without_memory(void **state) {
  (void)state;
  in_memory work = {.in = new_weights(), .config = config_of(MLXQ_AFFINE, 4, 64)};
  for (int i = 0; i < 40; i++) {
    char name[32];
    snprintf(name, sizeof name, "l.%d.weight", i);
    add_random(work.in, name, MLXQ_BF16, SHAPE(2, i % 4 == 0 ? 63 : 64));
  }
  assert_int_equal(mlxq_quantize_weights(&work.expected, work.in, work.config, NULL, NULL, NULL, NULL), MLXQ_OK);
  work.quantize = true;
  assert_in_range(exhaust(transform, NULL, &work), 100, 10000);
  mlxq_weights_free(work.in);
  work.in = work.expected;
  work.quantize = false;
  assert_int_equal(mlxq_dequantize_weights(&work.expected, work.in, work.config, NULL, NULL), MLXQ_OK);
  assert_in_range(exhaust(transform, NULL, &work), 50, 10000);
  mlxq_weights_free(work.in);
  mlxq_weights_free(work.expected);
  mlxq_quant_config_free(work.config);
}

static mlxq_status build_map(void *user, mlxq_error *error) {
  (void)user;
  mlxq_weights *map = NULL;
  mlxq_status status = mlxq_weights_new(&map, error);
  for (size_t i = 0; status == MLXQ_OK && i < 300; i++) {
    char name[600];
    memset(name, 'n', sizeof name);
    snprintf(name + sizeof name - 8, 8, "%zu", i);
    status = mlxq_weights_add_copy(map, name, MLXQ_U8, SHAPE(3), "abc", error);
    assert_int_equal(mlxq_weights_count(map), status == MLXQ_OK ? i + 1 : i);
    assert_int_equal(mlxq_weights_find(map, name) != NULL, status == MLXQ_OK);
    /* The failure over, the addition succeeds. */
    if (status != MLXQ_OK) {
      stop_failing();
      assert_int_equal(mlxq_weights_add_copy(map, name, MLXQ_U8, SHAPE(3), "abc", NULL), MLXQ_OK);
      assert_memory_equal(mlxq_weights_find(map, name)->data, "abc", 3);
    }
  }
  mlxq_weights_free(map);
  return status;
}

static void test_maps_without_memory(void **state) {
  (void)state;
  assert_in_range(exhaust(build_map, NULL, NULL), 300, 1000);
}

static mlxq_status build_config(void *user, mlxq_error *error) {
  (void)user;
  static const char TEXT[] =
      "{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"a\": false, \"b\": true,"
      " \"c\": {\"group_size\": 32, \"bits\": 6, \"mode\": \"affine\"}}}";
  mlxq_quant_config *config = (mlxq_quant_config *)(uintptr_t)16;
  char *text = NULL;
  mlxq_status status = mlxq_quant_config_parse(&config, TEXT, sizeof TEXT - 1, error);
  if (status != MLXQ_OK) {
    assert_null(config);
    return status;
  }
  status = mlxq_quant_config_to_json(&text, config, error);
  if (status == MLXQ_OK) assert_non_null(strstr(text, "\"c\": {\"group_size\": 32"));
  mlxq_free(text);
  mlxq_quant_config_free(config);
  return status;
}

static void test_configs_without_memory(void **state) {
  (void)state;
  assert_in_range(exhaust(build_config, NULL, NULL), 3, 1000);
}

/* ---- On disk --------------------------------------------------------------------------------------------------- */

typedef struct on_disk {
  const char *scratch;
  bool quantize, with_report;
} on_disk;

/* A folder with two shards, an index that follows from them, side files. */
static void make_source(const void *scratch) {
  mlxq_weights *shard = new_weights();
  make_folder(path_in(scratch, "src"));
  write_text(path_in(scratch, "src/config.json"),
             "{\"model_type\": \"llama\", \"torch_dtype\": \"bfloat16\", \"num_hidden_layers\": 1}");
  write_text(path_in(scratch, "src/generation_config.json"), "{\"eos_token_id\": 2}");
  write_text(path_in(scratch, "src/tokenizer.json"), "{}");
  write_text(path_in(scratch, "src/merges.txt"), "a b");
  add_random(shard, "model.layers.0.mlp.down_proj.weight", MLXQ_F32, SHAPE(4, 64));
  add_random(shard, "lm_head.weight", MLXQ_F32, SHAPE(4, 64));
  write_safetensors(path_in(scratch, "src/model-1.safetensors"), shard);
  mlxq_weights_free(shard);
  shard = new_weights();
  add_random(shard, "model.norm.weight", MLXQ_F32, SHAPE(64));
  write_safetensors(path_in(scratch, "src/model-2.safetensors"), shard);
  mlxq_weights_free(shard);
  write_text(path_in(scratch, "src/model.safetensors.index.json"),
             "{\"weight_map\": {\"model.layers.0.mlp.down_proj.weight\": \"model-1.safetensors\","
             " \"lm_head.weight\": \"model-1.safetensors\", \"model.norm.weight\": \"model-2.safetensors\"}}");
}

static mlxq_status convert(void *user, mlxq_error *error) {
  const on_disk *work = user;
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  mlxq_dequantize_options back = MLXQ_DEQUANTIZE_OPTIONS_INIT;
  mlxq_report *report = (mlxq_report *)(uintptr_t)16;
  static const char *const SKIPS[] = {"model.norm"};
  options.common.threads = back.common.threads = 1;
  options.common.max_shard_bytes = back.common.max_shard_bytes = 100;
  options.skips = SKIPS;
  options.skip_count = 1;
  options.recipe = "mixed_3_6";
  options.stats = true;
  const char *source = path_in(work->scratch, work->quantize ? "src" : "quantized");
  const char *out = path_in(work->scratch, "out");
  mlxq_report **requested = work->with_report ? &report : NULL;
  mlxq_status status = work->quantize ? mlxq_quantize_checkpoint(requested, source, out, &options, error)
                                      : mlxq_dequantize_checkpoint(requested, source, out, &back, error);
  stop_failing();
  if (work->with_report && status != MLXQ_OK) assert_null(report);
  if (work->with_report && status == MLXQ_OK) mlxq_report_free(report);
  return status;
}

/* Every file of the reference is in the other folder, with the same bytes, and nothing else. */
static void assert_same_folder(const char *folder, const char *reference) {
  assert_int_equal(entries_in(folder), entries_in(reference));
  DIR *entries = opendir(reference);
  assert_non_null(entries);
  const struct dirent *entry;
  while ((entry = readdir(entries))) {
    char *found = NULL, *expected = NULL;
    size_t found_length = 0, expected_length = 0;
    if (entry->d_name[0] == '.') continue;
    expected = NULL;
    assert_int_equal(
        mlxq_file_read_text(&expected, &expected_length, path_in(reference, "%s", entry->d_name), 1 << 20, NULL),
        MLXQ_OK);
    if (mlxq_file_read_text(&found, &found_length, path_in(folder, "%s", entry->d_name), 1 << 20, NULL) != MLXQ_OK) {
      fail_msg("%s is missing", entry->d_name);
    }
    if (found_length != expected_length || memcmp(found, expected, found_length) != 0) {
      fail_msg("%s is another: %s", entry->d_name, found);
    }
    free(found);
    free(expected);
  }
  closedir(entries);
}

/* The destination is whole, or absent, and nothing lies beside it. */
static void check_destination(void *user, mlxq_status status) {
  const on_disk *work = user;
  const char *out = path_in(work->scratch, "out");
  assert_false(exists(path_in(work->scratch, ".out.mlxq-partial")));
  if (status == MLXQ_OK) {
    assert_same_folder(out, path_in(work->scratch, "reference"));
    assert_int_equal(mlxq_file_remove_tree(out, NULL), MLXQ_OK);
  } else if (exists(out)) {
    fail_msg("the destination is there, although the call failed");
  }
}

static void test_conversions_without_memory(void **state) {
  make_source(*state);
  for (int with_report = 0; with_report < 2; with_report++) {
    for (int quantize = 1; quantize >= 0; quantize--) {
      on_disk work = {.scratch = *state, .quantize = quantize, .with_report = with_report};
      mlxq_error error;
      if (convert(&work, &error) != MLXQ_OK) fail_msg("%s: %s", error.key, error.message);
      assert_int_equal(rename(path_in(*state, "out"), path_in(*state, "reference")), 0);
      assert_in_range(exhaust(convert, check_destination, &work), 50, 10000);
      if (quantize) {
        assert_int_equal(rename(path_in(*state, "reference"), path_in(*state, "quantized")), 0);
      } else {
        assert_int_equal(mlxq_file_remove_tree(path_in(*state, "reference"), NULL), MLXQ_OK);
        assert_int_equal(mlxq_file_remove_tree(path_in(*state, "quantized"), NULL), MLXQ_OK);
      }
    }
  }
}

static mlxq_status inspect(void *user, mlxq_error *error) {
  mlxq_report *report = (mlxq_report *)(uintptr_t)16;
  mlxq_status status = mlxq_inspect(&report, path_in(user, "src"), error);
  stop_failing();
  if (status != MLXQ_OK) {
    assert_null(report);
    return status;
  }
  if (!report->foreign || strcmp(report->foreign, "awq") != 0) fail_msg("the foreign format is not seen");
  assert_int_equal(mlxq_weights_count(report->tensors), 3);
  mlxq_report_free(report);
  return status;
}

static void test_inspecting_without_memory(void **state) {
  make_source(*state);
  write_text(path_in(*state, "src/quant_config.json"), "{}");
  assert_in_range(exhaust(inspect, NULL, *state), 20, 1000);
}

static mlxq_status verify(void *user, mlxq_error *error) {
  mlxq_verification *report = (mlxq_verification *)(uintptr_t)16;
  mlxq_verify_options options = MLXQ_VERIFY_OPTIONS_INIT;
  options.threads = 1;
  options.against = path_in(user, "src");
  mlxq_status status = mlxq_verify(&report, path_in(user, "broken"), &options, error);
  stop_failing();
  if (status != MLXQ_OK) {
    assert_null(report);
    return status;
  }
  assert_int_equal(report->defects_found, 12);
  assert_int_equal(report->defects_kept, 12);
  assert_int_equal(report->notes_found, 3);
  assert_string_equal(report->comparison->worst_layer, "model.norm");
  mlxq_verification_free(report);
  return status;
}

/* With defects of every room: an absent shard, two files of a tensor, an index, a name, a layer, NaN, other bits. */
static void test_verifying_without_memory(void **state) {
  make_source(*state);
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  const char *broken = path_in(*state, "broken");
  assert_int_equal(mlxq_quantize_checkpoint(NULL, path_in(*state, "src"), broken, &options, NULL), MLXQ_OK);
  mlxq_weights *tensors = read_safetensors(path_in(broken, "model.safetensors"));
  bytes_of(tensors, "model.layers.0.mlp.down_proj.weight")[3] ^= 1;
  write_safetensors(path_in(broken, "model.safetensors"), tensors);
  mlxq_weights_free(tensors);
  tensors = new_weights();
  add_random(tensors, "a/b.scales", MLXQ_F32, SHAPE(4));
  add_random(tensors, "model.norm.weight", MLXQ_BF16, SHAPE(64));
  memset(bytes_of(tensors, "model.norm.weight"), 0xFF, 2);
  write_safetensors(path_in(broken, "model-00001-of-00002.safetensors"), tensors);
  mlxq_weights_free(tensors);
  write_text(
      path_in(broken, "config.json"),
      "{\"num_hidden_layers\": 4, \"quantization\": {\"group_size\": 64, \"bits\": 4, \"b\": 7, \"none\": false}}");
  write_text(path_in(broken, "model.safetensors.index.json"),
             "{\"weight_map\": {\"model.layers.0.mlp.down_proj.weight\": \"model.safetensors\","
             " \"model.layers.0.mlp.down_proj.scales\": \"model.safetensors\","
             " \"model.layers.0.mlp.down_proj.biases\": \"model.safetensors\","
             " \"model.norm.weight\": \"model.safetensors\", \"x\": \"gone.safetensors\"}}");
  assert_in_range(exhaust(verify, NULL, *state), 100, 10000);
}

static mlxq_status verify_file(void *user, mlxq_error *error) {
  mlxq_verification *report = (mlxq_verification *)(uintptr_t)16;
  mlxq_verify_options options = MLXQ_VERIFY_OPTIONS_INIT;
  options.threads = 1;
  options.against = path_in(user, "dense.safetensors");
  mlxq_status status = mlxq_verify(&report, path_in(user, "quantized.safetensors"), &options, error);
  stop_failing();
  if (status != MLXQ_OK) {
    assert_null(report);
    return status;
  }
  assert_int_equal(report->defects_found, 0);
  assert_int_equal(report->comparison->tensors, 6);
  assert_int_equal(report->comparison->elems_different, 0);
  mlxq_verification_free(report);
  return status;
}

/* Without a config.json each layer's scheme is found by its shapes. */
static void test_verifying_files_without_memory(void **state) {
  mlxq_weights *dense = new_weights(), *quantized = NULL;
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  const mlxq_layer_option other = {.kind = MLXQ_LAYER_SCHEME, .scheme = {MLXQ_MXFP4, 4, 32}};
  assert_int_equal(mlxq_quant_config_set_layer(config, "b", &other, NULL), MLXQ_OK);
  add_random(dense, "a.weight", MLXQ_BF16, SHAPE(4, 64));
  add_random(dense, "b.weight", MLXQ_BF16, SHAPE(4, 64));
  add_random(dense, "norm.weight", MLXQ_BF16, SHAPE(64));
  assert_int_equal(mlxq_quantize_weights(&quantized, dense, config, NULL, NULL, NULL, NULL), MLXQ_OK);
  write_safetensors(path_in(*state, "dense.safetensors"), dense);
  write_safetensors(path_in(*state, "quantized.safetensors"), quantized);
  assert_in_range(exhaust(verify_file, NULL, *state), 50, 10000);
  mlxq_weights_free(dense);
  mlxq_weights_free(quantized);
  mlxq_quant_config_free(config);
}

/* ---- Importing ------------------------------------------------------------------------------------------------- */

typedef struct importing {
  mlxq_weights *in, *expected;
  const char *scratch;
  const char *source;
  on_disk *folder;
} importing;

static void add_awq_layer(mlxq_weights *weights, const char *path, mlxq_dtype scales) {
  char name[96];
  snprintf(name, sizeof name, "%s.qweight", path);
  add_random(weights, name, MLXQ_I32, SHAPE(64, 2));
  snprintf(name, sizeof name, "%s.qzeros", path);
  add_random(weights, name, MLXQ_I32, SHAPE(2, 2));
  snprintf(name, sizeof name, "%s.scales", path);
  add_random(weights, name, scales, SHAPE(2, 16));
}

static mlxq_status import_awq(void *user, mlxq_error *error) {
  const importing *work = user;
  mlxq_awq_options options = MLXQ_AWQ_OPTIONS_INIT;
  mlxq_transform_options transform = MLXQ_TRANSFORM_OPTIONS_INIT;
  mlxq_weights *out = (mlxq_weights *)(uintptr_t)16;
  mlxq_quant_config *config = (mlxq_quant_config *)(uintptr_t)16;
  options.group_size = 32;
  transform.threads = 1;
  mlxq_status status = mlxq_import_awq(&out, &config, work->in, &options, &transform, error);
  stop_failing();
  if (status != MLXQ_OK) {
    assert_null(out);
    assert_null(config);
    return status;
  }
  if (work->expected) assert_same_weights(out, work->expected);
  mlxq_quant_config_free(config);
  mlxq_weights_free(out);
  return status;
}

static void test_awq_without_memory(void **state) {
  (void)state;
  importing work = {.in = new_weights()};
  mlxq_awq_options options = MLXQ_AWQ_OPTIONS_INIT;
  mlxq_quant_config *config = NULL;
  options.group_size = 32;
  for (int i = 0; i < 12; i++) {
    char name[32];
    snprintf(name, sizeof name, "l.%d", i);
    add_awq_layer(work.in, name, i % 2 ? MLXQ_F16 : MLXQ_BF16);
    snprintf(name, sizeof name, "l.%d.norm", i);
    add_random(work.in, name, MLXQ_F32, SHAPE(8));
  }
  assert_int_equal(mlxq_import_awq(&work.expected, &config, work.in, &options, NULL, NULL), MLXQ_OK);
  mlxq_quant_config_free(config);
  assert_in_range(exhaust(import_awq, NULL, &work), 50, 10000);
  mlxq_weights_free(work.in);
  mlxq_weights_free(work.expected);
}

static mlxq_status import_folder(void *user, mlxq_error *error) {
  const importing *work = user;
  mlxq_import_options options = MLXQ_IMPORT_OPTIONS_INIT;
  mlxq_report *report = (mlxq_report *)(uintptr_t)16;
  options.common.threads = 1;
  options.exact = true;
  options.requantize_bits = 4;
  mlxq_status status = mlxq_import_checkpoint(&report, path_in(work->scratch, "%s", work->source),
                                              path_in(work->scratch, "out"), &options, error);
  stop_failing();
  if (status != MLXQ_OK) assert_null(report);
  if (status == MLXQ_OK) mlxq_report_free(report);
  return status;
}

static void check_import(void *user, mlxq_status status) {
  const importing *work = user;
  check_destination(work->folder, status);
}

/* As old AutoGPTQ wrote it: every zero point is the middle less one, every layer has a bias, and the indices are even.
 */
static void make_symmetric_source(const void *scratch) {
  static const uint32_t ZEROS[4] = {0x77777777, 0x77777777, 0x77777777, 0x77777777};
  static const uint16_t BIAS[16] = {0};
  mlxq_weights *weights = new_weights();
  int32_t groups[64];
  make_folder(path_in(scratch, "symmetric"));
  write_text(
      path_in(scratch, "symmetric/config.json"),
      "{\"model_type\": \"llama\", \"num_hidden_layers\": 1, \"quantization_config\": {\"quant_method\": \"gptq\","
      " \"bits\": 4, \"group_size\": 32, \"sym\": true}}");
  for (int i = 0; i < 64; i++) groups[i] = i / 32;
  add_random(weights, "model.layers.0.mlp.up_proj.qweight", MLXQ_I32, SHAPE(8, 16));
  add_bytes(weights, "model.layers.0.mlp.up_proj.qzeros", MLXQ_I32, SHAPE(2, 2), ZEROS);
  add_random(weights, "model.layers.0.mlp.up_proj.scales", MLXQ_F16, SHAPE(2, 16));
  add_bytes(weights, "model.layers.0.mlp.up_proj.g_idx", MLXQ_I32, SHAPE(64), groups);
  add_bytes(weights, "model.layers.0.mlp.up_proj.bias", MLXQ_F16, SHAPE(16), BIAS);
  write_safetensors(path_in(scratch, "symmetric/model.safetensors"), weights);
  mlxq_weights_free(weights);
}

/* Experts of AWQ, and GPTQ with layers of every kind: widened, quantized anew, as they are. */
static void make_foreign_sources(const void *scratch) {
  mlxq_weights *awq = new_weights(), *gptq = new_weights();
  make_folder(path_in(scratch, "awq"));
  make_folder(path_in(scratch, "gptq"));
  write_text(path_in(scratch, "awq/config.json"),
             "{\"model_type\": \"mixtral\", \"num_hidden_layers\": 1, \"num_local_experts\": 2,"
             " \"quantization_config\": {\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 32}}");
  write_text(path_in(scratch, "gptq/config.json"), "{\"model_type\": \"llama\", \"num_hidden_layers\": 1}");
  write_text(path_in(scratch, "gptq/quantize_config.json"),
             "{\"bits\": 4, \"group_size\": 32, \"sym\": false, \"checkpoint_format\": \"gptq_v2\"}");
  for (int i = 0; i < 6; i++) {
    char name[96];
    snprintf(name, sizeof name, "model.layers.0.block_sparse_moe.experts.%d.w%d", i % 2, i / 2 + 1);
    add_awq_layer(awq, name, MLXQ_F16);
  }
  for (int i = 0; i < 3; i++) {
    static const int32_t SCATTERED[64] = {1};
    char name[96];
    snprintf(name, sizeof name, "l.%d.qweight", i);
    add_random(gptq, name, MLXQ_I32, SHAPE(8, 16));
    snprintf(name, sizeof name, "l.%d.qzeros", i);
    add_random(gptq, name, MLXQ_I32, SHAPE(2, 2));
    snprintf(name, sizeof name, "l.%d.scales", i);
    add_random(gptq, name, i == 1 ? MLXQ_BF16 : MLXQ_F16, SHAPE(2, 16));
    snprintf(name, sizeof name, "l.%d.g_idx", i);
    if (i == 2) add_bytes(gptq, name, MLXQ_I32, SHAPE(64), SCATTERED);
  }
  make_symmetric_source(scratch);
  add_random(awq, "model.norm.weight", MLXQ_F16, SHAPE(8));
  add_random(gptq, "model.norm.weight", MLXQ_F16, SHAPE(8));
  write_safetensors(path_in(scratch, "awq/model.safetensors"), awq);
  write_safetensors(path_in(scratch, "gptq/model.safetensors"), gptq);
  mlxq_weights_free(awq);
  mlxq_weights_free(gptq);
}

static void test_imports_without_memory(void **state) {
  static const char *const SOURCES[] = {"awq", "gptq", "symmetric"};
  make_foreign_sources(*state);
  for (size_t i = 0; i < COUNT(SOURCES); i++) {
    importing work = {.scratch = *state, .source = SOURCES[i]};
    on_disk folder = {.scratch = *state};
    mlxq_error error;
    if (import_folder(&work, &error) != MLXQ_OK) fail_msg("%s: %s", error.key, error.message);
    assert_int_equal(rename(path_in(*state, "out"), path_in(*state, "reference")), 0);
    work.folder = &folder;
    assert_in_range(exhaust(import_folder, check_import, &work), 50, 10000);
    assert_int_equal(mlxq_file_remove_tree(path_in(*state, "reference"), NULL), MLXQ_OK);
  }
}

/* ---- Threads --------------------------------------------------------------------------------------------------- */

/* Fewer threads than asked for only take longer. */
static void test_threads_that_cannot_start(void **state) {
  (void)state;
  mlxq_weights *in = new_weights(), *expected = NULL;
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  add_random(in, "a.weight", MLXQ_F32, SHAPE(2000, 1024));
  assert_int_equal(mlxq_quantize_weights(&expected, in, config, NULL, NULL, NULL, NULL), MLXQ_OK);
  for (long started = 0; started < 4; started++) {
    mlxq_transform_options options = MLXQ_TRANSFORM_OPTIONS_INIT;
    mlxq_weights *out = NULL;
    options.threads = 8;
    only_start(started);
    mlxq_status status = mlxq_quantize_weights(&out, in, config, NULL, NULL, &options, NULL);
    only_start(-1);
    assert_int_equal(status, MLXQ_OK);
    assert_same_weights(out, expected);
    mlxq_weights_free(out);
  }
  mlxq_weights_free(expected);
  mlxq_weights_free(in);
  mlxq_quant_config_free(config);
}

#define ON_DISK(function) cmocka_unit_test_setup_teardown(function, make_scratch, remove_scratch)

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_transforms_without_memory),
      cmocka_unit_test(test_maps_without_memory),
      cmocka_unit_test(test_configs_without_memory),
      ON_DISK(test_conversions_without_memory),
      ON_DISK(test_inspecting_without_memory),
      ON_DISK(test_verifying_without_memory),
      ON_DISK(test_verifying_files_without_memory),
      cmocka_unit_test(test_awq_without_memory),
      ON_DISK(test_imports_without_memory),
      cmocka_unit_test(test_threads_that_cannot_start),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
