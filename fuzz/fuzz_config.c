/* The input is a JSON document. Our two readers must agree on it, what is written must read back as the same, and as
 * the config.json of a folder with a few tensors it must be refused with an error or give a config that holds. */
#include "input.h"

#include "base/json.h"
#include "checkpoint/config_out.h"
#include "plan/family.h"
#include "safetensors/json_stream.h"
#include "scheme/quant_config.h"

#include <json-c/json_object_iterator.h>
#include <json-c/linkhash.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const char PATH[] = "folder/config.json";

/* ---- The text -------------------------------------------------------------------------------------------------- */

/* Whether the reader of indexes and headers takes the text. */
static bool streams(const uint8_t *data, size_t size) {
  static mlxq_json_stream stream;
  mlxq_error error;
  int fd = memfd_create("fuzz.json", MFD_CLOEXEC);
  require(fd >= 0 && mlxq_file_write_at(fd, data, size, 0, PATH, NULL) == MLXQ_OK);
  mlxq_json_start(&stream, fd, 0, size, PATH, &error);
  stream.is_document = true;
  bool taken = mlxq_json_skip(&stream, MLXQ_JSON_MAX_DEPTH) && mlxq_json_end(&stream);
  require(taken == (stream.status == MLXQ_OK));
  if (!taken) require_error(&error, MLXQ_PARSE);
  close(fd);
  return taken;
}

/* Python's dump, like JavaScript's, has other ways to say these: they do not come back. */
static bool has_nonfinite(struct json_object *value) {
  struct json_object_iter member;
  if (json_object_is_type(value, json_type_double)) return !isfinite(json_object_get_double(value));
  for (size_t i = 0; json_object_is_type(value, json_type_array) && i < json_object_array_length(value); i++) {
    if (has_nonfinite(json_object_array_get_idx(value, i))) return true;
  }
  if (!json_object_is_type(value, json_type_object)) return false;
  json_object_object_foreachC(value, member) {
    if (has_nonfinite(member.val)) return true;
  }
  return false;
}

static struct json_object *read_back(const mlxq_text *text) {
  struct json_object *document;
  require(mlxq_json_parse(&document, text->data, text->length, NULL) == MLXQ_OK);
  return document;
}

static void check_ascii(const mlxq_text *text) {
  for (size_t i = 0; i < text->length; i++) {
    require((text->data[i] >= ' ' && text->data[i] <= '~') || text->data[i] == '\n');
  }
}

static void check_round_trip(struct json_object *document) {
  mlxq_text line = json_text(document, 0), indented = json_text(document, 4), limited = {0}, cut = {0};
  check_ascii(&indented);
  require(memchr(line.data, '\n', line.length) == NULL);
  struct json_object *from_line = read_back(&line), *from_indented = read_back(&indented);
  require(has_nonfinite(document) || json_object_equal(document, from_line));
  mlxq_text again = json_text(from_line, 0), flattened = json_text(from_indented, 0);
  require(same_text(&line, &again) && same_text(&line, &flattened));
  require(mlxq_json_write_within(&limited, document, 0, 6 * line.length + 6) && same_text(&line, &limited));
  require(!mlxq_json_write_within(&cut, document, 0, line.length - 1) && cut.length <= line.length);
  json_object_put(from_line);
  json_object_put(from_indented);
  mlxq_text *texts[] = {&line, &indented, &limited, &cut, &again, &flattened};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) mlxq_text_free(texts[i]);
}

/* ---- The config of a folder ------------------------------------------------------------------------------------ */

static void describe(mlxq_weights *weights, const char *name, mlxq_dtype dtype, uint64_t rows, uint64_t columns) {
  const uint64_t shape[] = {rows, columns};
  mlxq_error error;
  require(mlxq_weights_describe(weights, name, strlen(name), dtype, 2, shape, 0, 0, NULL, &error) == MLXQ_OK);
}

/* What the rules of families look for. */
static mlxq_weights *some_tensors(void) {
  static const char *const NAMES[] = {
      "lm_head.weight",
      "model.embed_tokens.weight",
      "model.layers.0.input_layernorm.weight",
      "model.layers.0.self_attn.q_proj.weight",
      "model.layers.0.self_attn.qkv_proj.weight",
      "model.layers.0.self_attn.kv_b_proj.weight",
      "model.layers.0.self_attn.rotary_emb.inv_freq",
      "model.layers.0.mlp.gate_up_proj.weight",
      "model.layers.0.mlp.experts.0.gate_proj.weight",
      "model.layers.0.mlp.experts.0.up_proj.weight",
      "model.layers.0.mlp.experts.0.down_proj.weight",
      "model.layers.0.block_sparse_moe.experts.0.w1.weight",
      "model.layers.0.mlp.experts.gate_up_proj",
      "model.layers.1.mlp.gate.e_score_correction_bias",
      "model.language_model.layers.0.mlp.up_proj.weight",
      "model.mtp.layers.0.weight",
      "model.vision_tower.patch.weight",
      "transformer.h.0.attn.c_attn.weight",
  };
  mlxq_weights *weights = new_weights();
  for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) describe(weights, NAMES[i], MLXQ_BF16, 64, 64);
  return weights;
}

static void on_warning(void *user, const char *message) {
  (void)user;
  require(message[0] != '\0');
}

/* As a conversion goes about it; false where the config is refused. */
static bool prepare(mlxq_checkpoint *checkpoint) {
  mlxq_error error = {0};
  mlxq_model *model = NULL;
  const mlxq_family *family = mlxq_family_of(checkpoint);
  mlxq_status status = mlxq_family_check(family, checkpoint, &error);
  if (status == MLXQ_OK) status = mlxq_family_edit_config(family, checkpoint, &error);
  if (status == MLXQ_OK) status = mlxq_family_sanitize(family, checkpoint, on_warning, NULL, &error);
  if (status == MLXQ_OK) {
    status = mlxq_family_arrange(&model, family, checkpoint, checkpoint->tensors, NULL, &error);
  }
  require(status == MLXQ_OK || !model);
  mlxq_model_free(model);
  if (status != MLXQ_OK) require_error(&error, status);
  return status == MLXQ_OK;
}

static void check_sorted(struct json_object *config) {
  struct json_object_iter member;
  const char *last = NULL;
  json_object_object_foreachC(config, member) {
    require(!last || strcmp(last, member.key) < 0);
    last = member.key;
  }
}

static bool same_option(const mlxq_layer_option *a, const mlxq_layer_option *b) {
  return a->kind == b->kind &&
         (a->kind != MLXQ_LAYER_SCHEME || (a->scheme.mode == b->scheme.mode && a->scheme.bits == b->scheme.bits &&
                                           a->scheme.group_size == b->scheme.group_size));
}

/* All layers of `part`, unless another configuration (may be NULL) says otherwise of them. */
static void check_layers(const mlxq_quant_config *whole, const mlxq_quant_config *part, const mlxq_quant_config *over) {
  for (size_t i = 0; part && i < mlxq_quant_config_layer_count(part); i++) {
    const mlxq_layer_option *option;
    const char *path = mlxq_quant_config_layer_at(part, i, &option);
    const mlxq_layer_option *found = mlxq_quant_config_layer(whole, path);
    require(found && (same_option(found, option) || (over && mlxq_quant_config_layer(over, path))));
  }
}

static void check_result(const mlxq_text *text, const mlxq_quant_config *existing, const mlxq_quant_config *added) {
  struct json_object *config = read_back(text), *block = NULL, *other = NULL;
  mlxq_quant_config *read = NULL;
  check_sorted(config);
  require(!json_object_object_get_ex(config, "_name_or_path", NULL));
  require(!json_object_object_get_ex(config, "vision_config", NULL));
  bool there = json_object_object_get_ex(config, "quantization", &block);
  require(there == json_object_object_get_ex(config, "quantization_config", &other) && there == (added != NULL));
  require(json_object_equal(block, other));
  require(mlxq_quant_config_from_json(&read, block, NULL) == MLXQ_OK);
  check_layers(read, added, NULL);
  check_layers(read, added ? existing : NULL, added);
  mlxq_quant_config_free(read);
  json_object_put(config);
}

/* A configuration for what a conversion would add to the config. */
static mlxq_quant_config *added_config(const mlxq_quant_config *existing) {
  static const mlxq_scheme SCHEME = {MLXQ_AFFINE, 4, 64};
  static const mlxq_layer_option SKIP = {.kind = MLXQ_LAYER_SKIP};
  static const mlxq_layer_option MXFP8 = {MLXQ_LAYER_SCHEME, {MLXQ_MXFP8, 8, 32}, false};
  mlxq_quant_config *added = NULL;
  require(mlxq_quant_config_new(&added, existing ? NULL : &SCHEME, NULL) == MLXQ_OK);
  require(mlxq_quant_config_set_layer(added, "lm_head", &SKIP, NULL) == MLXQ_OK);
  require(mlxq_quant_config_set_layer(added, "model.layers.0.mlp.up_proj", &MXFP8, NULL) == MLXQ_OK);
  return added;
}

static void check_write(mlxq_checkpoint *checkpoint, const mlxq_quant_config *existing, mlxq_quant_config *added) {
  mlxq_text text = {0};
  mlxq_error error = {0};
  mlxq_status status = mlxq_config_write(&text, checkpoint, added, false, &error);
  if (status == MLXQ_OK) {
    check_result(&text, existing, added);
  } else {
    require(status == MLXQ_OUT_OF_RANGE);
    require_error(&error, status);
  }
  mlxq_text_free(&text);
  mlxq_quant_config_free(added);
}

static void check_as_config(struct json_object *document) {
  mlxq_quant_config *existing = NULL;
  mlxq_error error = {0};
  mlxq_dtype dtype = MLXQ_DTYPE_COUNT;
  mlxq_source_file file = {.path = (char *)(uintptr_t) "folder/model.safetensors", .name = "model.safetensors"};
  mlxq_checkpoint checkpoint = {.path = (char *)(uintptr_t) "folder",
                                .config_path = (char *)(uintptr_t)PATH,
                                .is_folder = true,
                                .files = &file,
                                .file_count = 1,
                                .config = document,
                                .tensors = some_tensors()};
  require(mlxq_checkpoint_dtype(&checkpoint, &dtype) == (dtype != MLXQ_DTYPE_COUNT));
  (void)format_of(&checkpoint);
  mlxq_status status = mlxq_checkpoint_quantization(&existing, &checkpoint, &error);
  if (status != MLXQ_OK) {
    require(!existing && strcmp(error.file, PATH) == 0);
    require_error(&error, status);
  } else if (prepare(&checkpoint)) {
    check_write(&checkpoint, existing, added_config(existing));
    check_write(&checkpoint, existing, NULL);
  }
  mlxq_quant_config_free(existing);
  mlxq_weights_free(checkpoint.tensors);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct json_object *document;
  mlxq_error error = {0};
  mlxq_status status = mlxq_json_parse(&document, (const char *)data, size, &error);
  bool streamed = streams(data, size);
  if (status != MLXQ_OK) {
    require(!document && (status == MLXQ_PARSE || status == MLXQ_OUT_OF_RANGE));
    require_error(&error, status);
    bool alone = strstr(error.message, "U+0000 in a key") || strstr(error.message, "nested too deeply");
    require(!streamed || status == MLXQ_OUT_OF_RANGE || alone);
    return 0;
  }
  require(streamed);
  check_round_trip(document);
  if (json_object_is_type(document, json_type_object)) check_as_config(document);
  json_object_put(document);
  return 0;
}
