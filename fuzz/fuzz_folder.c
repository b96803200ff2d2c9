/* Whole checkpoints, made of the input's bytes: config.json, one to three files of layers as tools write them, an
 * index, and now and then damage to any of them. They go through every public call. What must hold, whatever is in
 * them: an error says what it is and leaves nothing but the source; the source stays as it is; a dry run is right about
 * the run; what is published verifies, dequantizes, and is the same whoever makes it; and quantized weights are those
 * that verify finds for their original. */
#include "checkpoint/index.h"
#include "safetensors/safetensors.h"
#include "sketch.h"

#include <dirent.h>
#include <mlxq/mlxq.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FILES = 3, MAX_PARTS = 6, PATH_BYTES = 256 };

static char source[PATH_BYTES], result[PATH_BYTES], other[PATH_BYTES];

typedef enum origin { DENSE, MLX, AWQ, GPTQ, FP8 } origin;
typedef enum operation { QUANTIZE, DEQUANTIZE, IMPORT } operation;

/* What the input asks for. */
typedef struct scenario {
  input in;
  sketch sketch;
  origin origin;
  bool single_file;
  mlxq_scheme scheme; /* of MLX's layers, and to quantize with */
  mlxq_dtype dtype;   /* of most floating tensors */
  awq_version version;
  unsigned bits;
  uint64_t group;
  operation operation;
  mlxq_convert_options common;
  const char *recipe, *skip;
  mlxq_override override;
  const char *from;
  int32_t requantize_bits;
  bool exact;
} scenario;

static void print(char *path, const char *folder, const char *name) {
  require((size_t)snprintf(path, PATH_BYTES, "%s/%s", folder, name) < PATH_BYTES);
}

/* ---- Layers ---------------------------------------------------------------------------------------------------- */

static const mlxq_scheme SCHEMES[] = {
    {MLXQ_AFFINE, 4, 64}, {MLXQ_AFFINE, 4, 32},  {MLXQ_AFFINE, 2, 32}, {MLXQ_AFFINE, 3, 64}, {MLXQ_AFFINE, 5, 64},
    {MLXQ_AFFINE, 6, 32}, {MLXQ_AFFINE, 8, 128}, {MLXQ_MXFP4, 4, 32},  {MLXQ_MXFP8, 8, 32},  {MLXQ_NVFP4, 4, 16},
};

static void add_layer(scenario *s, const char *path) {
  static const uint64_t OUTS[] = {32, 64, 8, 128, 4, 1}, INS[] = {128, 64, 256, 32, 16};
  uint64_t outs = take_one(&s->in, OUTS), ins = take_one(&s->in, INS), group = s->group < ins ? s->group : ins;
  mlxq_dtype dtype = take_rarely(&s->in, 8) ? sketch_float(&s->sketch) : s->dtype;
  switch (take_rarely(&s->in, 4) ? DENSE : s->origin) {
    case MLX:
      sketch_triple(&s->sketch, path, &s->scheme, dtype, outs, ins);
      break;
    case AWQ:
      sketch_awq(&s->sketch, path, s->version, dtype, outs, ins, group);
      break;
    case GPTQ:
      sketch_gptq(&s->sketch, path, s->bits, dtype, outs, ins, group);
      break;
    case FP8:
      sketch_fp8(&s->sketch, path, outs, ins);
      break;
    default:
      sketch_dense(&s->sketch, path, dtype, outs, ins);
  }
}

/* Experts come in sets, all alike. */
static void add_experts(scenario *s, const char *layer) {
  static const char *const FOLDERS[] = {"mlp.experts", "block_sparse_moe.experts", "mixer.experts"};
  static const char *const PARTS[][3] = {{"gate_proj", "up_proj", "down_proj"}, {"w1", "w2", "w3"}};
  const char *folder = take_one(&s->in, FOLDERS), *const *parts = take_one(&s->in, PARTS);
  const input start = s->in;
  for (int i = 0; i < 6; i++) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%.100s%s.%d.%s", layer, folder, i / 3, parts[i % 3]);
    s->in = start;
    add_layer(s, path);
  }
}

/* What is no layer, or a layer in a shape of its own. */
static void add_odd(scenario *s, const char *layer) {
  static const char *const NAMES[] = {"mlp.experts.gate_up_proj",
                                      "mlp.experts.down_proj",
                                      "mlp.experts.gate_up_proj_blocks",
                                      "self_attn.rotary_emb.inv_freq",
                                      "conv.weight",
                                      "mlp.gate.e_score_correction_bias",
                                      "A_log",
                                      "self_attn.sinks",
                                      "self_attn.kv_b_proj.weight",
                                      "mlp.experts.gate_up_proj_scales"};
  static const uint64_t DIMENSIONS[] = {64, 2, 32, 128, 1, 0, 4, 16, 3};
  uint64_t shape[4];
  uint32_t rank = take_below(&s->in, 5);
  const char *name = take_one(&s->in, NAMES);
  mlxq_dtype dtype = take_rarely(&s->in, 3) ? (mlxq_dtype)take_below(&s->in, MLXQ_DTYPE_COUNT) : s->dtype;
  for (uint32_t i = 0; i < rank; i++) shape[i] = take_one(&s->in, DIMENSIONS);
  sketch_tensor(&s->sketch, layer, name, dtype, rank, shape);
}

static void add_part(scenario *s) {
  static const char *const FOLDERS[] = {"model.layers", "transformer.h", "language_model.model.layers",
                                        "model.language_model.layers", "backbone.layers"};
  static const char *const LAYERS[] = {
      "self_attn.q_proj", "mlp.up_proj", "mlp.down_proj",   "self_attn.v_proj", "self_attn.qkv_proj",
      "mlp.gate_up_proj", "mlp.gate",    "input_layernorm", "attn.c_attn",      "mlp.shared_experts.up_proj"};
  static const char *const TOPS[] = {"lm_head", "model.embed_tokens", "model.norm", "model.vision_tower.patch", ""};
  char layer[PATH_BYTES], path[PATH_BYTES];
  unsigned how = take_below(&s->in, 16);
  const char *folder = take_rarely(&s->in, 4) ? take_one(&s->in, FOLDERS) : FOLDERS[0];
  snprintf(layer, sizeof layer, "%s.%u.", folder, take_below(&s->in, 3));
  if (how == 0) {
    add_experts(s, layer);
  } else if (how == 1) {
    add_odd(s, layer);
  } else if (how < 5) {
    add_layer(s, take_one(&s->in, TOPS));
  } else {
    snprintf(path, sizeof path, "%s%s", layer, take_one(&s->in, LAYERS));
    add_layer(s, path);
  }
}

/* ---- config.json ----------------------------------------------------------------------------------------------- */

static void print_scheme(mlxq_text *text, const mlxq_scheme *scheme) {
  mlxq_text_printf(text, "\"group_size\": %d, \"bits\": %d, \"mode\": \"%s\"", scheme->group_size, scheme->bits,
                   mlxq_mode_name(scheme->mode));
}

static void print_quantization(scenario *s, mlxq_text *text) {
  static const char *const VERSIONS[] = {"gemm", "gemv", "gemv_fast"};
  static const char *const FORMATS[] = {"gptq", "gptq_v2", "marlin", ""};
  static const char *const QUANTIZERS[] = {"", "gptqmodel:2.0", "gptqmodel:7.1", "autogptq"};
  if (take_rarely(&s->in, 12)) return;
  switch (s->origin) {
    case MLX:
      mlxq_text_puts(text, ", \"quantization\": {");
      print_scheme(text, take_rarely(&s->in, 8) ? &take_one(&s->in, SCHEMES) : &s->scheme);
      if (take_rarely(&s->in, 4)) mlxq_text_puts(text, ", \"lm_head\": false");
      if (take_rarely(&s->in, 4)) {
        mlxq_text_puts(text, ", \"model.layers.0.mlp.up_proj\": {");
        print_scheme(text, &take_one(&s->in, SCHEMES));
        mlxq_text_puts(text, "}");
      }
      mlxq_text_puts(text, "}");
      break;
    case AWQ:
      mlxq_text_printf(text,
                       ", \"quantization_config\": {\"quant_method\": \"awq\", \"group_size\": %d, \"bits\": 4, "
                       "\"zero_point\": %s, \"version\": \"%s\"}",
                       take_rarely(&s->in, 8) ? -1 : (int)s->group, take_rarely(&s->in, 8) ? "false" : "true",
                       take_rarely(&s->in, 8) ? take_one(&s->in, VERSIONS) : VERSIONS[s->version]);
      break;
    case GPTQ:
      mlxq_text_printf(text,
                       ", \"quantization_config\": {\"quant_method\": \"gptq\", \"group_size\": %d, \"bits\": %u, "
                       "\"sym\": %s, \"checkpoint_format\": \"%s\", \"meta\": {\"quantizer\": \"%s\"}%s}",
                       take_rarely(&s->in, 8) ? -1 : (int)s->group, s->bits, take_bool(&s->in) ? "true" : "false",
                       take_one(&s->in, FORMATS), take_one(&s->in, QUANTIZERS),
                       take_rarely(&s->in, 8) ? ", \"dynamic\": {}" : "");
      break;
    case FP8:
      mlxq_text_puts(text, ", \"quantization_config\": {\"quant_method\": \"fp8\", \"weight_block_size\": [128, 128]}");
      break;
    default:
      break;
  }
}

static void print_config(scenario *s, mlxq_text *text) {
  static const char *const TYPES[] = {"llama",       "qwen2",   "mixtral",  "qwen3_moe",  "deepseek_v3", "gpt_oss",
                                      "gemma3_text", "phi3",    "olmoe",    "gemma3",     "gpt2",        "qwen2_moe",
                                      "mamba2",      "minimax", "qwen3_5",  "qwen3_next", "deepseek_v2", "phimoe",
                                      "nemotron_h",  "lfm2",    "glm4_moe", "unknown"};
  static const char *const DTYPES[] = {"bfloat16", "float16", "float32", "float64"};
  mlxq_text_printf(text, "{\"model_type\": \"%s\"", take_one(&s->in, TYPES));
  if (!take_rarely(&s->in, 4)) mlxq_text_printf(text, ", \"torch_dtype\": \"%s\"", take_one(&s->in, DTYPES));
  if (take_bool(&s->in)) {
    mlxq_text_printf(text, ", \"tie_word_embeddings\": %s", take_bool(&s->in) ? "true" : "false");
  }
  mlxq_text_printf(text, ", \"num_hidden_layers\": %u", take_rarely(&s->in, 8) ? 1 : 3);
  if (!take_rarely(&s->in, 8)) {
    mlxq_text_puts(text,
                   ", \"num_experts\": 2, \"num_local_experts\": 2, \"n_routed_experts\": 2, \"hidden_size\": 64, "
                   "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"head_dim\": 16, "
                   "\"qk_nope_head_dim\": 16, \"v_head_dim\": 16, \"kv_lora_rank\": 64, "
                   "\"first_k_dense_replace\": 0, \"intermediate_size\": 128");
  }
  print_quantization(s, text);
  mlxq_text_puts(text, "}");
}

/* ---- The source's files ---------------------------------------------------------------------------------------- */

/* One thing that is wrong with a file. */
static void damage(scenario *s, char *bytes, size_t *count) {
  size_t at = (size_t)take_number(&s->in) % *count;
  switch (take_below(&s->in, 4)) {
    case 0:
      *count = at;
      break;
    case 1:
      bytes[at] ^= (char)(1 + take_below(&s->in, 255));
      break;
    case 2:
      bytes[at] = (char)take_byte(&s->in);
      break;
    default:
      memmove(bytes + at, bytes + at + 1, *count - at - 1);
      --*count;
  }
}

static void write_damaged(scenario *s, const char *path, char *bytes, size_t count) {
  if (count > 0 && take_rarely(&s->in, 24)) {
    s->sketch.bent = true;
    damage(s, bytes, &count);
  }
  write_bytes(path, bytes, count);
}

/* Writes the tensors of `indices` as one file. */
static void write_file(scenario *s, const char *path, uint32_t file, size_t *indices, size_t count) {
  mlxq_weights *tensors = s->sketch.tensors;
  char *header = NULL;
  size_t header_bytes = 0;
  uint64_t file_bytes = 0;
  require(mlxq_safetensors_layout(tensors, file, indices, count, &header, &header_bytes, &file_bytes, NULL) == MLXQ_OK);
  char *bytes = malloc(file_bytes + 1);
  require(bytes != NULL);
  memcpy(bytes, header, header_bytes);
  for (size_t i = 0; i < count; i++) {
    const mlxq_tensor_entry *entry = &tensors->entries[indices[i]];
    if (entry->tensor.bytes > 0) memcpy(bytes + entry->offset, entry->tensor.data, entry->tensor.bytes);
  }
  write_damaged(s, path, bytes, file_bytes);
  free(bytes);
  free(header);
}

static const char *file_name(const void *count, size_t index) {
  static const char *const NAMES[][MAX_FILES] = {
      {"model.safetensors"},
      {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"},
      {"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"},
  };
  return NAMES[*(const unsigned *)count - 1][index];
}

/* Deals the tensors out to `count` files. */
static void write_files(scenario *s, unsigned count) {
  size_t total = mlxq_weights_count(s->sketch.tensors), *indices = malloc((total + 1) * sizeof *indices);
  require(indices != NULL);
  unsigned step = 1 + take_below(&s->in, 3);
  for (unsigned file = 0; file < count; file++) {
    char path[PATH_BYTES];
    size_t taken = 0;
    for (size_t i = 0; i < total; i++) {
      if (i / step % count == file) indices[taken++] = i;
    }
    print(path, source, file_name(&count, file));
    write_file(s, s->single_file ? source : path, file, indices, taken);
  }
  free(indices);
}

static void write_index(scenario *s, unsigned count) {
  mlxq_text text = {0};
  char path[PATH_BYTES];
  require(mlxq_index_write(&text, s->sketch.tensors, file_name, &count, 0, 0, NULL) == MLXQ_OK);
  print(path, source, MLXQ_INDEX_NAME);
  write_damaged(s, path, text.data, text.length);
  mlxq_text_free(&text);
}

static void write_source(scenario *s) {
  char path[PATH_BYTES];
  mlxq_text config = {0};
  unsigned parts = 1 + take_below(&s->in, MAX_PARTS), files = s->single_file ? 1 : 1 + take_below(&s->in, MAX_FILES);
  print_config(s, &config);
  for (unsigned i = 0; i < parts; i++) add_part(s);
  if (!s->single_file) {
    require(mkdir(source, 0755) == 0);
    print(path, source, "config.json");
    write_damaged(s, path, config.data, config.length);
  }
  write_files(s, files);
  if (!s->single_file && files > 1) write_index(s, files);
  mlxq_text_free(&config);
}

/* ---- What is on the disk --------------------------------------------------------------------------------------- */

static uint64_t hash_file(const char *path) {
  char *text = NULL;
  size_t length = 0;
  require(mlxq_file_read_text(&text, &length, path, 1 << 24, NULL) == MLXQ_OK);
  uint64_t hash = mlxq_hash(text, length);
  free(text);
  return hash;
}

/* Of the names and contents of a folder's files; of a file, of its content. 0: it is not there. */
static uint64_t hash_tree(const char *path) {
  struct stat status;
  uint64_t sum = 1;
  if (lstat(path, &status) != 0) return 0;
  if (!S_ISDIR(status.st_mode)) return hash_file(path);
  DIR *folder = opendir(path);
  require(folder != NULL);
  for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
    char file[PATH_BYTES];
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    print(file, path, entry->d_name);
    sum += (mlxq_hash(entry->d_name, strlen(entry->d_name)) | 1) * hash_file(file);
  }
  closedir(folder);
  return sum;
}

static size_t count_entries(const char *path) {
  DIR *folder = opendir(path);
  size_t count = 0;
  require(folder != NULL);
  for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
    count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
  }
  closedir(folder);
  return count;
}

/* ---- Looking at a checkpoint ----------------------------------------------------------------------------------- */

static bool is_of_numbers(const mlxq_defect *defect) {
  return defect->status == MLXQ_NON_FINITE || strstr(defect->message, "scales are 0 beside");
}

/* What verify finds: defects of its numbers, and others but for layers that the model never had. False: it could not be
 * opened. */
static bool look(const char *path, uint64_t *numbers, uint64_t *others) {
  mlxq_verify_options options = MLXQ_VERIFY_OPTIONS_INIT;
  mlxq_verification *found = NULL;
  mlxq_error error = {0};
  options.threads = 1;
  *numbers = *others = 0;
  mlxq_status status = mlxq_verify(&found, path, &options, &error);
  if (status != MLXQ_OK) {
    require(!found);
    require_error(&error, status);
    return false;
  }
  require(found->defects_kept == found->defects_found && found->notes_kept == found->notes_found);
  for (size_t i = 0; i < found->defects_kept; i++) {
    const mlxq_defect *defect = &found->defects[i];
    require(defect->status != MLXQ_OK && defect->message && defect->message[0]);
    if (defect->key && strcmp(defect->key, "num_hidden_layers") == 0) continue;
    ++*(is_of_numbers(defect) ? numbers : others);
  }
  mlxq_verification_free(found);
  return true;
}

static void check_report(const mlxq_report *report) {
  uint64_t bytes = 0;
  for (size_t i = 0; i < mlxq_weights_count(report->tensors); i++) {
    bytes += mlxq_weights_at(report->tensors, i)->bytes;
    require(report->tensor_files[i] < report->file_count);
  }
  require(bytes == report->total_bytes && report->bits_per_weight >= 0);
}

/* inspect and verify: what has no defect can be opened. Returns whether it has none, as far as verify looks: not into
 * layers of another format, which --force converts all the same. */
static bool check_source(const scenario *s) {
  mlxq_report *report = NULL;
  mlxq_error error = {0};
  uint64_t numbers, others;
  mlxq_status status = mlxq_inspect(&report, source, &error);
  if (status == MLXQ_OK) check_report(report);
  if (status != MLXQ_OK) require_error(&error, status);
  bool sound = look(source, &numbers, &others) && others == 0;
  require(!sound || status == MLXQ_OK);
  bool forced = report && report->foreign && s->common.force;
  mlxq_report_free(report);
  return sound && !forced;
}

/* ---- Converting ------------------------------------------------------------------------------------------------ */

static void on_warning(void *user, const char *message) {
  (void)user;
  require(message[0] != '\0' && !strchr(message, '\n'));
}

static mlxq_status convert(mlxq_report **report, const scenario *s, const mlxq_convert_options *common,
                           const char *destination, mlxq_error *error) {
  if (s->operation == QUANTIZE) {
    mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
    options.common = *common;
    options.scheme = s->scheme;
    options.recipe = s->recipe;
    options.skips = &s->skip;
    options.skip_count = s->skip != NULL;
    options.overrides = &s->override;
    options.override_count = s->override.pattern != NULL;
    return mlxq_quantize_checkpoint(report, source, destination, &options, error);
  }
  if (s->operation == DEQUANTIZE) {
    mlxq_dequantize_options options = MLXQ_DEQUANTIZE_OPTIONS_INIT;
    options.common = *common;
    options.scheme = s->single_file ? &s->scheme : NULL;
    return mlxq_dequantize_checkpoint(report, source, destination, &options, error);
  }
  mlxq_import_options options = MLXQ_IMPORT_OPTIONS_INIT;
  options.common = *common;
  options.from = s->from;
  options.requantize_bits = s->requantize_bits;
  options.exact = s->exact;
  return mlxq_import_checkpoint(report, source, destination, &options, error);
}

/* With a report, or an error and nothing on the disk. */
static mlxq_status convert_checked(mlxq_report **report, const scenario *s, const mlxq_convert_options *common,
                                   const char *destination) {
  mlxq_error error = {0};
  mlxq_status status = convert(report, s, common, destination, &error);
  require((*report != NULL) == (status == MLXQ_OK));
  if (status != MLXQ_OK) require_error(&error, status);
  require((hash_tree(destination) != 0) == (status == MLXQ_OK && !common->dry_run));
  if (status == MLXQ_OK) check_report(*report);
  return status;
}

/* A dry run knows everything but what is in the data. */
static bool check_conversion(const scenario *s) {
  mlxq_report *planned = NULL, *made = NULL;
  mlxq_convert_options dry = s->common;
  dry.dry_run = true;
  mlxq_status expected = convert_checked(&planned, s, &dry, result);
  mlxq_status status = convert_checked(&made, s, &s->common, result);
  require(status == expected || (expected == MLXQ_OK && status == MLXQ_NON_FINITE));
  require(status != MLXQ_NON_FINITE || !s->sketch.finite || s->sketch.bent || s->origin != DENSE);
  if (status == MLXQ_OK) {
    require(made->total_bytes == planned->total_bytes && made->parameters == planned->parameters);
    require(made->layers_changed == planned->layers_changed && made->file_count == planned->file_count);
    require(mlxq_weights_count(made->tensors) == mlxq_weights_count(planned->tensors));
  }
  mlxq_report_free(planned);
  mlxq_report_free(made);
  return status == MLXQ_OK;
}

/* The same from other threads and kernels. */
static void check_again(const scenario *s) {
  mlxq_report *report = NULL;
  mlxq_convert_options common = s->common;
  common.threads = 3 - common.threads;
  common.cpu = common.cpu ? NULL : "ref";
  require(convert_checked(&report, s, &common, other) == MLXQ_OK);
  mlxq_report_free(report);
  require(s->single_file || hash_tree(other) == hash_tree(result));
  require(mlxq_file_remove_tree(other, NULL) == MLXQ_OK);
}

static void check_dequantizes(const scenario *s) {
  mlxq_dequantize_options options = MLXQ_DEQUANTIZE_OPTIONS_INIT;
  mlxq_error error = {0};
  options.common = s->common;
  options.scheme = s->single_file ? &s->scheme : NULL;
  require(mlxq_dequantize_checkpoint(NULL, result, other, &options, &error) == MLXQ_OK);
  require(mlxq_file_remove_tree(other, NULL) == MLXQ_OK);
}

/* What verify makes of a dense original is what was made of it. */
static void check_against(const scenario *s) {
  mlxq_verify_options options = MLXQ_VERIFY_OPTIONS_INIT;
  mlxq_verification *found = NULL;
  mlxq_error error = {0};
  options.threads = 1;
  options.against = source;
  options.profile = s->common.profile;
  options.dtype = s->common.dtype;
  mlxq_status status = mlxq_verify(&found, result, &options, &error);
  if (status != MLXQ_OK) {
    require(s->origin != DENSE); /* else it is no dense one */
    require_error(&error, status);
    return;
  }
  require(found->comparison->elems_different == 0 && found->comparison->tensors_different == 0);
  mlxq_verification_free(found);
}

static void check_result(const scenario *s, bool source_is_sound, bool again) {
  uint64_t numbers, others;
  require(look(result, &numbers, &others));
  if (source_is_sound) require(others == 0);
  if (s->operation == QUANTIZE && s->origin == DENSE && s->sketch.finite && !s->sketch.bent) require(numbers == 0);
  if (again) check_again(s);
  if (s->operation == QUANTIZE && !s->common.force && source_is_sound) check_against(s);
  if (s->operation != DEQUANTIZE && source_is_sound && !s->single_file) check_dequantizes(s);
}

/* ---- The scenario ---------------------------------------------------------------------------------------------- */

static void take_options(scenario *s) {
  static const mlxq_dtype DTYPES[] = {MLXQ_F16, MLXQ_BF16, MLXQ_F32};
  static const char *const RECIPES[] = {"mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"};
  static const char *const PATTERNS[] = {"lm_head", "*.mlp.*", "model.layers.?.self_attn.q_proj", "*", "[a"};
  input *in = &s->in;
  s->common.threads = 1 + take_rarely(in, 16);
  s->common.warn = on_warning;
  s->common.profile = take_bool(in) ? MLXQ_PROFILE_GPU : MLXQ_PROFILE_CPU;
  s->common.dtype = take_rarely(in, 4) ? &take_one(in, DTYPES) : NULL;
  s->common.force = take_rarely(in, 8);
  s->common.allow_nonfinite = take_rarely(in, 8);
  s->common.max_shard_bytes = take_rarely(in, 4) ? 1 + 64 * (uint64_t)take_byte(in) : 0;
  s->common.cpu = take_rarely(in, 4) ? "ref" : NULL;
  if (take_rarely(in, 8)) s->recipe = take_one(in, RECIPES);
  if (take_rarely(in, 8)) s->skip = take_one(in, PATTERNS);
  if (take_rarely(in, 8)) s->override = (mlxq_override){take_one(in, PATTERNS), take_one(in, SCHEMES)};
  s->requantize_bits = take_rarely(in, 4) ? 2 + (int32_t)take_below(in, 8) : 0;
  s->exact = take_rarely(in, 4);
  if (take_rarely(in, 8)) s->from = take_bool(in) ? "awq" : "gptq";
}

static void take_scenario(scenario *s) {
  static const origin ORIGINS[] = {DENSE, MLX, AWQ, GPTQ, FP8, DENSE, MLX, GPTQ};
  static const operation OPERATIONS[][3] = {[DENSE] = {QUANTIZE, QUANTIZE, DEQUANTIZE},
                                            [MLX] = {DEQUANTIZE, QUANTIZE, IMPORT},
                                            [AWQ] = {IMPORT, IMPORT, QUANTIZE},
                                            [GPTQ] = {IMPORT, IMPORT, DEQUANTIZE},
                                            [FP8] = {QUANTIZE, DEQUANTIZE, IMPORT}};
  static const uint64_t GROUPS[] = {128, 64, 32, 256, 16, 48};
  static const unsigned BITS[] = {4, 2, 3, 8};
  s->origin = take_one(&s->in, ORIGINS);
  s->operation = take_one(&s->in, OPERATIONS[s->origin]);
  s->single_file = take_rarely(&s->in, 12);
  s->scheme = take_one(&s->in, SCHEMES);
  s->dtype = sketch_float(&s->sketch);
  s->version = (awq_version)take_below(&s->in, 3);
  s->bits = take_one(&s->in, BITS);
  s->group = take_one(&s->in, GROUPS);
  take_options(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  scenario s = {.in = {data, size}, .sketch = {.tensors = new_weights(), .finite = true}};
  s.sketch.in = &s.in;
  print(source, scratch_folder(), "source");
  print(result, scratch_folder(), "result");
  print(other, scratch_folder(), "other");
  take_scenario(&s);
  bool again = take_rarely(&s.in, 4);
  write_source(&s);
  uint64_t before = hash_tree(source);
  bool sound = check_source(&s);
  if (check_conversion(&s)) {
    check_result(&s, sound, again);
    require(mlxq_file_remove_tree(result, NULL) == MLXQ_OK);
  }
  require(hash_tree(source) == before && count_entries(scratch_folder()) == 1);
  require(mlxq_file_remove_tree(source, NULL) == MLXQ_OK);
  mlxq_weights_free(s.sketch.tensors);
  return 0;
}
