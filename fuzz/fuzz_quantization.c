/* The input is a JSON document: a `quantization` block, or a config.json with one of ours or of another tool's. What is
 * read must come back from what is written of it, in whatever way it is put together. */
#include "input.h"

#include "base/json.h"
#include "checkpoint/foreign.h"
#include "scheme/quant_config.h"

#include <stdlib.h>
#include <string.h>

static const char PATH[] = "folder/config.json";

/* ---- MLX's block ----------------------------------------------------------------------------------------------- */

static bool same_scheme(const mlxq_scheme *a, const mlxq_scheme *b) {
  if (!a || !b) return a == b;
  return a->mode == b->mode && a->bits == b->bits && a->group_size == b->group_size;
}

static void check_same(const mlxq_quant_config *a, const mlxq_quant_config *b) {
  size_t count = mlxq_quant_config_layer_count(a);
  require(same_scheme(mlxq_quant_config_default(a), mlxq_quant_config_default(b)));
  require(count == mlxq_quant_config_layer_count(b));
  for (size_t i = 0; i < count; i++) {
    const mlxq_layer_option *left, *right;
    const char *path = mlxq_quant_config_layer_at(a, i, &left);
    require(strcmp(path, mlxq_quant_config_layer_at(b, i, &right)) == 0);
    require(left->kind == right->kind);
    if (left->kind != MLXQ_LAYER_SCHEME) continue;
    require(same_scheme(&left->scheme, &right->scheme) && left->mode_implied == right->mode_implied);
  }
}

static void check_scheme(const mlxq_scheme *scheme) {
  mlxq_error error = {0};
  mlxq_status status = mlxq_scheme_check(scheme, &error);
  if (status != MLXQ_OK) {
    require(status == MLXQ_OUT_OF_RANGE);
    require_error(&error, status);
    return;
  }
  mlxq_scheme complete = mlxq_scheme_complete(scheme);
  require(same_scheme(&complete, scheme));
}

static void check_lookups(const mlxq_quant_config *config) {
  const mlxq_scheme *fallback = mlxq_quant_config_default(config);
  require(fallback && same_scheme(mlxq_quant_config_lookup(config, "no.layer\n"), fallback));
  check_scheme(fallback);
  for (size_t i = 0; i < mlxq_quant_config_layer_count(config); i++) {
    const mlxq_layer_option *option;
    const char *path = mlxq_quant_config_layer_at(config, i, &option);
    const mlxq_scheme *scheme = mlxq_quant_config_lookup(config, path);
    require(mlxq_quant_config_layer(config, path) == option);
    if (option->kind == MLXQ_LAYER_SKIP) require(!scheme);
    if (option->kind == MLXQ_LAYER_DEFAULT) require(scheme == fallback);
    if (option->kind == MLXQ_LAYER_SCHEME) require(scheme == &option->scheme);
    if (scheme) check_scheme(scheme);
  }
}

/* The same out of its parts. */
static mlxq_quant_config *rebuild(const mlxq_quant_config *config) {
  size_t count = mlxq_quant_config_layer_count(config);
  const char **paths = malloc((count + 1) * sizeof *paths);
  mlxq_layer_option *options = malloc((count + 1) * sizeof *options);
  mlxq_quant_config *made = NULL;
  require(paths && options);
  for (size_t i = 0; i < count; i++) {
    const mlxq_layer_option *option;
    paths[i] = mlxq_quant_config_layer_at(config, i, &option);
    options[i] = *option;
  }
  require(mlxq_quant_config_from_layers(&made, mlxq_quant_config_default(config), paths, options, count, NULL) ==
          MLXQ_OK);
  free(paths);
  free(options);
  return made;
}

static mlxq_text block_text(const mlxq_quant_config *config) {
  struct json_object *block = NULL;
  require(mlxq_quant_config_to_object(&block, config, NULL) == MLXQ_OK);
  mlxq_text text = json_text(block, 0);
  json_object_put(block);
  return text;
}

static void check_written(const mlxq_quant_config *config) {
  mlxq_text text = {0};
  mlxq_quant_config *read = NULL;
  char *block = NULL;
  require(mlxq_quant_config_to_json(&block, config, NULL) == MLXQ_OK);
  mlxq_text_printf(&text, "{\"quantization\": %s}", block);
  require(mlxq_quant_config_parse(&read, text.data, text.length, NULL) == MLXQ_OK && read);
  check_same(config, read);
  mlxq_text again = block_text(read);
  require(strcmp(again.data, block) == 0);
  mlxq_text_free(&again);
  mlxq_text_free(&text);
  mlxq_quant_config_free(read);
  mlxq_free(block);
}

static void count_flaw(void *user, const mlxq_error *flaw) {
  require_error(flaw, flaw->status);
  require(flaw->status == MLXQ_PARSE || flaw->status == MLXQ_UNSUPPORTED);
  ++*(size_t *)user;
}

/* Reading on after a flaw gives the layers that are right; `config` (NULL: there is a flaw) is the strict reader's. */
static void check_survey(struct json_object *block, const mlxq_quant_config *config) {
  size_t flaws = 0;
  mlxq_flaws taker = {count_flaw, &flaws};
  mlxq_quant_config *surveyed = NULL;
  mlxq_error error = {0};
  mlxq_status status = mlxq_quant_config_survey(&surveyed, block, &taker, &error);
  if (status != MLXQ_OK) {
    require(!surveyed && status == MLXQ_PARSE && !config);
    require_error(&error, status);
  } else {
    require((flaws == 0) == (config != NULL));
    if (config) check_same(config, surveyed);
    check_written(surveyed);
  }
  mlxq_quant_config_free(surveyed);
}

static void check_block(struct json_object *block) {
  mlxq_quant_config *config = NULL;
  mlxq_error error = {0};
  mlxq_status status = mlxq_quant_config_from_json(&config, block, &error);
  if (status != MLXQ_OK) {
    require(!config && (status == MLXQ_PARSE || status == MLXQ_UNSUPPORTED));
    require_error(&error, status);
  }
  require((config != NULL) == (status == MLXQ_OK && block));
  if (block) check_survey(block, config);
  if (!config) return;
  check_lookups(config);
  check_written(config);
  mlxq_quant_config *made = rebuild(config);
  require(same_scheme(mlxq_quant_config_default(config), mlxq_quant_config_default(made)));
  require(mlxq_quant_config_layer_count(config) == mlxq_quant_config_layer_count(made));
  mlxq_quant_config_free(made);
  mlxq_quant_config_free(config);
}

/* ---- Blocks of other tools ------------------------------------------------------------------------------------- */

static void check_read(const mlxq_foreign_config *foreign) {
  require(foreign->version && foreign->format && strlen(foreign->version) + strlen(foreign->format) < SIZE_MAX);
  require(!foreign->says_symmetric || json_object_is_type(foreign->owner, json_type_object));
  require(foreign->gptqmodel || foreign->gptqmodel_version == 0);
}

static void check_foreign(const mlxq_checkpoint *checkpoint, const char *method) {
  mlxq_foreign_config foreign;
  mlxq_error error = {0};
  mlxq_status status = mlxq_foreign_config_read(&foreign, checkpoint, method, &error);
  if (status == MLXQ_OK) {
    check_read(&foreign);
  } else {
    require(status == MLXQ_PARSE && strcmp(error.file, PATH) == 0);
    require_error(&error, status);
  }
  mlxq_foreign_config_free(&foreign);
}

static void check_config(struct json_object *document) {
  mlxq_checkpoint checkpoint = {.path = (char *)(uintptr_t)scratch_folder(),
                                .config_path = (char *)(uintptr_t)PATH,
                                .is_folder = true,
                                .config = document,
                                .tensors = new_weights()};
  const char *method = format_of(&checkpoint);
  check_foreign(&checkpoint, "awq");
  check_foreign(&checkpoint, "gptq");
  require(!method || !json_object_object_get(document, "quantization"));
  if (method && strcmp(method, "fp8") == 0) {
    mlxq_error error = {0};
    mlxq_status status = mlxq_checkpoint_accept(&checkpoint, method, &error);
    if (status != MLXQ_OK) require_error(&error, status);
  }
  mlxq_weights_free(checkpoint.tensors);
}

/* The public call, on the text, agrees with the block in the document. */
static void check_parse(const uint8_t *data, size_t size, struct json_object *block) {
  mlxq_quant_config *from_text = NULL, *from_block = NULL;
  mlxq_status status = mlxq_quant_config_from_json(&from_block, block, NULL);
  require(mlxq_quant_config_parse(&from_text, (const char *)data, size, NULL) == status);
  require(!from_text == !from_block);
  if (from_text) check_same(from_text, from_block);
  mlxq_quant_config_free(from_text);
  mlxq_quant_config_free(from_block);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct json_object *document, *block = NULL;
  if (mlxq_json_parse(&document, (const char *)data, size, NULL) != MLXQ_OK) return 0;
  check_block(document);
  if (json_object_is_type(document, json_type_object)) {
    json_object_object_get_ex(document, "quantization", &block);
    if (block) check_block(block);
    check_parse(data, size, block);
    check_config(document);
  }
  json_object_put(document);
  return 0;
}
