/* Planning for families whose tensors are stacked, split, transposed and renamed, with each allocation failing. */
#include "exhaust.h"
#include "helpers.h"

typedef struct stored {
  const char *name;
  mlxq_dtype dtype;
  uint32_t rank;
  uint64_t shape[4];
} stored;

typedef struct model {
  const char *config;
  const char *override; /* a pattern of layers that get 8 bits */
  stored tensors[24];
  uint64_t quantized, dequantized; /* layers that these operations change */
} model;

static const model NATIVE_MXFP4 = {
    "{\"model_type\": \"gpt_oss\", \"num_hidden_layers\": 1, \"num_local_experts\": 2,"
    " \"quantization_config\": {\"quant_method\": \"mxfp4\"}}",
    "lm_head",
    {{"model.layers.0.mlp.experts.gate_up_proj_blocks", MLXQ_U8, 4, {2, 64, 2, 16}},
     {"model.layers.0.mlp.experts.gate_up_proj_scales", MLXQ_U8, 3, {2, 64, 2}},
     {"model.layers.0.mlp.experts.gate_up_proj_bias", MLXQ_BF16, 2, {2, 64}},
     {"model.layers.0.mlp.experts.down_proj_blocks", MLXQ_U8, 4, {2, 64, 1, 16}},
     {"model.layers.0.mlp.experts.down_proj_scales", MLXQ_U8, 3, {2, 64, 1}},
     {"lm_head.weight", MLXQ_BF16, 2, {64, 64}}},
    1,
    3};

static const model NATIVE_FP8 = {
    "{\"model_type\": \"deepseek_v3\", \"num_hidden_layers\": 1, \"n_routed_experts\": 2, \"num_attention_heads\": 2,"
    " \"qk_nope_head_dim\": 32, \"v_head_dim\": 64, \"torch_dtype\": \"bfloat16\","
    " \"quantization_config\": {\"quant_method\": \"fp8\", \"weight_block_size\": [128, 128]}}",
    "*unembed_out",
    {{"model.layers.0.self_attn.kv_b_proj.weight", MLXQ_F8_E4M3, 2, {192, 64}},
     {"model.layers.0.self_attn.kv_b_proj.weight_scale_inv", MLXQ_F32, 2, {2, 1}},
     {"model.layers.0.mlp.experts.1.up_proj.weight", MLXQ_F8_E4M3, 2, {64, 64}},
     {"model.layers.0.mlp.experts.1.up_proj.weight_scale_inv", MLXQ_F32, 2, {1, 1}},
     {"model.layers.0.mlp.experts.0.up_proj.weight", MLXQ_F8_E4M3, 2, {64, 64}},
     {"model.layers.0.mlp.experts.0.up_proj.weight_scale_inv", MLXQ_F32, 2, {1, 1}},
     {"model.layers.0.mlp.gate.e_score_correction_bias", MLXQ_F32, 1, {2}},
     {"model.layers.1.embed_tokens.weight", MLXQ_BF16, 2, {64, 64}}},
    2, /* embed_q has less columns than a group */
    0};

static const model NESTED = {
    "{\"model_type\": \"qwen3_5_moe\", \"vision_config\": {}, \"text_config\": {\"num_hidden_layers\": 1,"
    " \"dtype\": \"bfloat16\", \"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 10000}}}",
    "*.gate_proj",
    {{"model.language_model.layers.0.linear_attn.conv1d.weight", MLXQ_BF16, 3, {8, 1, 4}},
     {"model.language_model.layers.0.input_layernorm.weight", MLXQ_F32, 1, {64}},
     {"model.language_model.layers.0.mlp.experts.gate_up_proj", MLXQ_BF16, 3, {2, 8, 64}},
     {"model.language_model.layers.0.mlp.experts.down_proj", MLXQ_BF16, 3, {2, 64, 64}},
     {"model.visual.patch.weight", MLXQ_BF16, 2, {64, 64}},
     {"mtp.fc.weight", MLXQ_BF16, 2, {64, 64}},
     {"lm_head.weight", MLXQ_BF16, 2, {64, 64}}},
    4,
    0};

static const model TRANSPOSED = {
    "{\"model_type\": \"qwen3_vl_moe\", \"text_config\": {\"num_hidden_layers\": 1}, \"torch_dtype\": \"float16\","
    " \"rope_parameters\": {\"rope_type\": \"default\"}}",
    "*.gate_proj",
    {{"model.language_model.layers.0.mlp.experts.gate_up_proj", MLXQ_F16, 3, {2, 64, 8}},
     {"model.language_model.layers.0.mlp.experts.down_proj", MLXQ_F16, 3, {2, 64, 8}},
     {"lm_head.weight", MLXQ_F16, 2, {64, 64}}},
    4,
    0};

/* Quantized by MLX before its experts were stacked. */
static const model PACKED_EXPERTS = {
    "{\"model_type\": \"mixtral\", \"num_hidden_layers\": 1, \"num_local_experts\": 2,"
    " \"quantization\": {\"group_size\": 64, \"bits\": 4}}",
    "lm_head",
    {{"model.layers.0.block_sparse_moe.experts.0.w1.weight", MLXQ_U32, 2, {4, 8}},
     {"model.layers.0.block_sparse_moe.experts.0.w1.scales", MLXQ_F16, 2, {4, 1}},
     {"model.layers.0.block_sparse_moe.experts.0.w1.biases", MLXQ_F16, 2, {4, 1}},
     {"model.layers.0.block_sparse_moe.experts.1.w1.weight", MLXQ_U32, 2, {4, 8}},
     {"model.layers.0.block_sparse_moe.experts.1.w1.scales", MLXQ_F16, 2, {4, 1}},
     {"model.layers.0.block_sparse_moe.experts.1.w1.biases", MLXQ_F16, 2, {4, 1}},
     {"lm_head.weight", MLXQ_F16, 2, {64, 64}}},
    1,
    1};

/* An embedding that is the head, and the head: the key that is missing is written. */
static const model TIED = {"{\"model_type\": \"granite\", \"num_hidden_layers\": 1}",
                           "*.down_proj",
                           {{"model.embed_tokens.weight", MLXQ_F16, 2, {64, 64}},
                            {"model.layers.0.mlp.down_proj.weight", MLXQ_F16, 2, {64, 64}},
                            {"lm_head.weight", MLXQ_F16, 2, {64, 64}}},
                           2,
                           0};

/* Quantized already, in part: its block is kept, and takes the new layer. */
static const model QUANTIZED = {
    "{\"model_type\": \"llama\", \"num_hidden_layers\": 1, \"tie_word_embeddings\": false, \"quantization\":"
    " {\"group_size\": 64, \"bits\": 4, \"mode\": \"affine\", \"model.norm\": false, \"lm_head\": true,"
    " \"model.embed_tokens\": {\"group_size\": null, \"bits\": 4, \"mode\": \"mxfp4\"}}}",
    "lm_head",
    {{"model.embed_tokens.weight", MLXQ_U32, 2, {64, 8}},
     {"model.embed_tokens.scales", MLXQ_U8, 2, {64, 2}},
     {"model.layers.0.mlp.down_proj.weight", MLXQ_F16, 2, {64, 64}},
     {"model.norm.weight", MLXQ_F16, 1, {64}},
     {"lm_head.weight", MLXQ_F16, 2, {64, 64}}},
    2,
    1};

typedef struct planning {
  const char *scratch;
  const model *of;
  bool quantize;
} planning;

static void make_model(const void *scratch, const model *of) {
  mlxq_weights *weights = new_weights();
  make_folder(path_in(scratch, "src"));
  write_text(path_in(scratch, "src/config.json"), of->config);
  for (const stored *tensor = of->tensors; tensor < of->tensors + COUNT(of->tensors) && tensor->name; tensor++) {
    add_random(weights, tensor->name, tensor->dtype, tensor->rank, tensor->shape);
  }
  write_safetensors(path_in(scratch, "src/model.safetensors"), weights);
  mlxq_weights_free(weights);
}

static void ignore_warning(void *user, const char *message) {
  (void)user;
  assert_true(strlen(message) > 0);
}

/* A dry run, which is all but the files. */
static mlxq_status plan(void *user, mlxq_error *error) {
  const planning *work = user;
  const mlxq_override override = {work->of->override, {MLXQ_AFFINE, 8, 32}};
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  mlxq_dequantize_options back = MLXQ_DEQUANTIZE_OPTIONS_INIT;
  mlxq_report *report = (mlxq_report *)(uintptr_t)16;
  options.common.dry_run = back.common.dry_run = true;
  options.common.warn = back.common.warn = ignore_warning;
  options.overrides = &override;
  options.override_count = 1;
  const char *source = path_in(work->scratch, "src"), *out = path_in(work->scratch, "out");
  mlxq_status status = work->quantize ? mlxq_quantize_checkpoint(&report, source, out, &options, error)
                                      : mlxq_dequantize_checkpoint(&report, source, out, &back, error);
  stop_failing();
  if (status != MLXQ_OK) {
    assert_null(report);
    return status;
  }
  assert_int_equal(report->layers_changed, work->quantize ? work->of->quantized : work->of->dequantized);
  mlxq_report_free(report);
  return status;
}

static void check_nothing_written(void *user, mlxq_status status) {
  const planning *work = user;
  (void)status;
  assert_int_equal(entries_in(work->scratch), 1);
}

static void exhaust_model(void *scratch, const model *of) {
  make_model(scratch, of);
  for (int quantize = 0; quantize < 2; quantize++) {
    planning work = {.scratch = scratch, .of = of, .quantize = quantize};
    mlxq_error error;
    if (plan(&work, &error) != MLXQ_OK) fail_msg("%s: %s: %s", error.file, error.key, error.message);
    assert_in_range(exhaust(plan, check_nothing_written, &work), 50, 10000);
  }
}

static void test_native_mxfp4_without_memory(void **state) {
  exhaust_model(*state, &NATIVE_MXFP4);
}

static void test_native_fp8_without_memory(void **state) {
  exhaust_model(*state, &NATIVE_FP8);
}

static void test_nested_configs_without_memory(void **state) {
  exhaust_model(*state, &NESTED);
}

static void test_transposed_experts_without_memory(void **state) {
  exhaust_model(*state, &TRANSPOSED);
}

static void test_packed_experts_without_memory(void **state) {
  exhaust_model(*state, &PACKED_EXPERTS);
}

static void test_quantizing_again_without_memory(void **state) {
  exhaust_model(*state, &QUANTIZED);
}

static void test_tied_heads_without_memory(void **state) {
  exhaust_model(*state, &TIED);
}

#define ON_DISK(function) cmocka_unit_test_setup_teardown(function, make_scratch, remove_scratch)

int main(void) {
  const struct CMUnitTest tests[] = {
      ON_DISK(test_native_mxfp4_without_memory),     ON_DISK(test_native_fp8_without_memory),
      ON_DISK(test_nested_configs_without_memory),   ON_DISK(test_transposed_experts_without_memory),
      ON_DISK(test_packed_experts_without_memory),   ON_DISK(test_tied_heads_without_memory),
      ON_DISK(test_quantizing_again_without_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
