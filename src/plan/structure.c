#include "plan/structure.h"

#include "base/text.h"
#include "checkpoint/index.h"
#include "checkpoint/report.h"
#include "plan/gaps.h"
#include "scheme/quant_config.h"

#include <stdlib.h>
#include <string.h>

/* What the steps share. */
typedef struct survey {
  mlxq_structure *structure;
  const mlxq_weights *tensors;
  const mlxq_flaws *defects, *notes;
  const char *file; /* that flaws are of, see `at_file` */
  mlxq_flaws at_file;
  mlxq_error *error;
} survey;

static bool get_bit(const unsigned char *bits, size_t index) {
  return bits[index / 8] >> index % 8 & 1;
}

static void set_bit(unsigned char *bits, size_t index) {
  bits[index / 8] |= (unsigned char)(1u << index % 8);
}

/* A taker that adds the file the survey is at. */
static void add_at_file(void *user, const mlxq_error *flaw) {
  survey *s = user;
  mlxq_error placed = *flaw;
  mlxq_error_at_file(&placed, placed.status, s->file);
  s->defects->add(s->defects->user, &placed);
}

static const char *file_of(const survey *s, size_t index) {
  return s->structure->checkpoint->files[s->tensors->entries[index].file].path;
}

/* Tells of a defect, or of a note, in the file the survey is at. */
static void tell(survey *s, const mlxq_flaws *taker, mlxq_status status, mlxq_error *flaw) {
  if (status == MLXQ_OK) return;
  mlxq_error_at_file(flaw, status, s->file);
  taker->add(taker->user, flaw);
}

/* ---- The configuration ----------------------------------------------------------------------------------------- */

/* mlx-lm writes the block twice, and reads the first. */
static void compare_blocks(survey *s) {
  struct json_object *block = s->structure->block, *copy = NULL;
  mlxq_error flaw;
  json_object_object_get_ex(s->structure->checkpoint->config, "quantization_config", &copy);
  if (!block || !copy || json_object_equal(block, copy)) return;
  tell(s, s->notes,
       mlxq_fail(&flaw, MLXQ_INVARIANT, NULL, "quantization_config", "differs from quantization, which is what counts"),
       &flaw);
}

/* total_size is for people: no loader takes it for anything. */
static mlxq_status compare_total(survey *s) {
  const mlxq_checkpoint *checkpoint = s->structure->checkpoint;
  uint64_t bytes = mlxq_total_bytes(s->tensors);
  mlxq_error flaw;
  if (!s->structure->complete || checkpoint->index_bytes == MLXQ_NO_TOTAL || checkpoint->index_bytes == bytes) {
    return MLXQ_OK;
  }
  char *path = mlxq_path_join(checkpoint->path, MLXQ_INDEX_NAME);
  if (!path) return mlxq_fail_memory(s->error);
  s->file = path;
  tell(s, s->notes,
       mlxq_fail(&flaw, MLXQ_INVARIANT, NULL, "total_size", "is %llu, but the tensors have %llu bytes",
                 (unsigned long long)checkpoint->index_bytes, (unsigned long long)bytes),
       &flaw);
  free(path);
  s->file = NULL;
  return MLXQ_OK;
}

static mlxq_status read_config(survey *s) {
  mlxq_structure *structure = s->structure;
  const mlxq_checkpoint *checkpoint = structure->checkpoint;
  mlxq_error flaw;
  bool guessed = false;
  mlxq_status status = mlxq_checkpoint_foreign(&structure->foreign, &guessed, checkpoint, s->error);
  status = mlxq_flaws_take(s->defects, status, s->error);
  if (status != MLXQ_OK) return status;
  if (structure->foreign) {
    s->file = checkpoint->path;
    tell(s, s->notes,
         mlxq_fail(&flaw, MLXQ_UNSUPPORTED, NULL, NULL, "quantized in another format, '%s': its layers are not checked",
                   structure->foreign),
         &flaw);
  }
  structure->config_known = checkpoint->config != NULL;
  if (!checkpoint->config) return MLXQ_OK;
  json_object_object_get_ex(checkpoint->config, "quantization", &structure->block);
  if (!structure->block) structure->block = mlxq_checkpoint_lone_copy(checkpoint); /* a defect, and better than none */
  s->file = checkpoint->config_path;
  compare_blocks(s);
  status = mlxq_quant_config_survey(&structure->config, structure->block, &s->at_file, s->error);
  if (status != MLXQ_OK) structure->config_known = false;
  return mlxq_flaws_take(&s->at_file, status, s->error);
}

/* Whether the block has an entry of the layer that could not be read. */
static bool is_unreadable(const mlxq_structure *structure, const char *layer) {
  return structure->config && !mlxq_quant_config_layer(structure->config, layer) &&
         json_object_object_get_ex(structure->block, layer, NULL);
}

static void check_schemes(survey *s) {
  const mlxq_quant_config *config = s->structure->config;
  const mlxq_scheme *fallback = config ? mlxq_quant_config_default(config) : NULL;
  const mlxq_layer_option *option = NULL;
  const char *path = NULL;
  mlxq_error flaw;
  if (fallback) tell(s, s->defects, mlxq_scheme_check(fallback, &flaw), &flaw);
  for (size_t i = 0; config && (path = mlxq_quant_config_layer_at(config, i, &option)); i++) {
    if (option->kind != MLXQ_LAYER_SCHEME) continue;
    tell(s, s->defects, mlxq_error_at_layer(&flaw, mlxq_scheme_check(&option->scheme, &flaw), path), &flaw);
  }
}

/* Entries of layers that are not there. MLX does not mind one that says `false`. */
static mlxq_status check_entries(survey *s) {
  const mlxq_quant_config *config = s->structure->config;
  const mlxq_layer_option *option = NULL;
  const char *path = NULL;
  mlxq_error flaw;
  if (!s->structure->complete) return MLXQ_OK;
  s->file = s->structure->checkpoint->config_path;
  for (size_t i = 0; config && (path = mlxq_quant_config_layer_at(config, i, &option)); i++) {
    if (mlxq_weights_part(s->tensors, path, strlen(path), ".weight")) continue;
    bool skip = option->kind == MLXQ_LAYER_SKIP;
    char *key = mlxq_asprintf("%s.weight", path);
    if (!key) return mlxq_fail_memory(s->error);
    tell(s, skip ? s->notes : s->defects,
         mlxq_fail(&flaw, MLXQ_MISSING_KEY, path, key, "missing: the configuration names the layer%s",
                   skip ? ", as one that is not quantized" : ""),
         &flaw);
    free(key);
  }
  return MLXQ_OK;
}

/* ---- Layers ---------------------------------------------------------------------------------------------------- */

/* The scheme of a triple nobody tells of, by its shapes. The formats of one byte a scale have each their own number of
 * words a group; in affine mode any scheme that fits will do, since only what is in a group matters. */
static bool infer_scheme(mlxq_scheme *scheme, const mlxq_layer *layer) {
  const mlxq_tensor *weight = layer->weight, *scales = layer->scales;
  if (weight->dtype != MLXQ_U32 || weight->rank < 2 || scales->rank != weight->rank) return false;
  uint64_t words = weight->shape[weight->rank - 1], groups = scales->shape[weight->rank - 1];
  bool empty = words == 0 && groups == 0;
  if (!empty && (groups == 0 || words % groups != 0)) return false;
  for (int mode = 0; mode < MLXQ_MODE_COUNT; mode++) {
    mlxq_scheme tried = mlxq_scheme_default((mlxq_mode)mode);
    if (mlxq_mode_has_biases(tried.mode) == (scales->dtype == MLXQ_U8)) continue;
    for (tried.group_size = tried.mode == MLXQ_AFFINE ? 128 : tried.group_size; tried.group_size >= 16;
         tried.group_size /= 2) {
      uint64_t bits = empty ? (uint64_t)tried.bits : words / groups * 32 / (uint64_t)tried.group_size;
      tried.bits = bits <= 8 ? (int32_t)bits : 0;
      if (mlxq_scheme_check(&tried, NULL) != MLXQ_OK ||
          (!empty && words / groups * 32 != bits * (uint64_t)tried.group_size)) {
        continue;
      }
      *scheme = tried;
      return true;
    }
  }
  return false;
}

/* Judges a layer that has scales; true where its triple can be read as one of `*scheme`. */
static bool judge_triple(survey *s, size_t index, const mlxq_layer *layer, mlxq_scheme *scheme) {
  const mlxq_structure *structure = s->structure;
  const mlxq_quant_config *config = structure->config;
  const mlxq_scheme *found = config ? mlxq_quant_config_lookup(config, layer->path) : NULL;
  mlxq_error flaw;
  bool unreadable = is_unreadable(structure, layer->path);
  bool said = structure->config_known && !unreadable, agrees = !unreadable;
  if (said && !found) {
    agrees = false;
    tell(s, s->defects,
         config ? mlxq_fail_part(&flaw, MLXQ_KEY_COLLISION, layer, ".scales",
                                 "must not be there: the configuration says that the layer is not quantized")
                : mlxq_fail(&flaw, MLXQ_INVARIANT, layer->path, NULL,
                            "the layer has scales, but config.json does not say how it is quantized"),
         &flaw);
  }
  /* An illegal scheme is told of as the configuration's. */
  if (said && found && mlxq_scheme_check(found, NULL) != MLXQ_OK) return false;
  bool known = said && found ? (*scheme = *found, true) : infer_scheme(scheme, layer);
  size_t flaws = mlxq_survey_triple(layer, known ? scheme : NULL, &s->at_file);
  if (!known && flaws == 0) {
    flaws++;
    tell(s, s->defects,
         mlxq_fail_part(&flaw, MLXQ_SHAPE_MISMATCH, layer, ".scales", "no scheme has %llu groups in %llu packed words",
                        (unsigned long long)layer->scales->shape[layer->weight->rank - 1],
                        (unsigned long long)layer->weight->shape[layer->weight->rank - 1]),
         &flaw);
  }
  if (agrees && flaws == 0) set_bit(structure->sound, index);
  return flaws == 0;
}

/* Judges a layer without scales. */
static void judge_dense(survey *s, const mlxq_layer *layer) {
  const mlxq_quant_config *config = s->structure->config;
  const mlxq_layer_option *option = config ? mlxq_quant_config_layer(config, layer->path) : NULL;
  const char *reason = NULL;
  mlxq_error flaw;
  if (!s->structure->complete) return;
  if (option && option->kind != MLXQ_LAYER_SKIP) reason = "the configuration says that the layer is quantized";
  if (layer->weight->dtype == MLXQ_U32 && layer->weight->rank >= 2) reason = "the weight is U32, as packed weights are";
  if (layer->biases) reason = "there are biases, which never come without scales";
  if (!reason) return;
  tell(s, s->defects, mlxq_fail_part(&flaw, MLXQ_MISSING_KEY, layer, ".scales", "missing: %s", reason), &flaw);
}

/* ---- The reading ----------------------------------------------------------------------------------------------- */

static uint32_t place_of(const survey *s, const mlxq_tensor *tensor) {
  return (uint32_t)mlxq_weights_index(s->tensors, tensor->name, strlen(tensor->name));
}

static mlxq_status read_triple(survey *s, size_t index, const mlxq_layer *layer, const mlxq_scheme *scheme) {
  uint64_t group_words = (uint64_t)scheme->group_size * (uint64_t)scheme->bits / 32;
  mlxq_job job = {.action = MLXQ_ACTION_DEQUANTIZE,
                  .input_count = layer->biases ? 3 : 2,
                  .inputs = {mlxq_plan_operand(index, group_words, MLXQ_U32, MLXQ_U32)},
                  .scheme = *scheme,
                  .dtype = (uint8_t)layer->scales->dtype,
                  .units = mlxq_tensor_elems(layer->scales)};
  const mlxq_tensor *others[] = {layer->scales, layer->biases};
  for (uint32_t i = 1; i < job.input_count; i++) {
    mlxq_dtype dtype = others[i - 1]->dtype;
    job.inputs[i] = mlxq_plan_operand(place_of(s, others[i - 1]), 1, dtype, dtype);
  }
  set_bit(s->structure->triples, index);
  return mlxq_plan_add_job(s->structure->reading, &job, s->error);
}

static mlxq_status read_plain(survey *s, size_t index) {
  const mlxq_tensor *tensor = &s->tensors->entries[index].tensor;
  mlxq_dtype dtype = mlxq_dtype_is_floating(tensor->dtype) ? tensor->dtype : MLXQ_U8;
  mlxq_job job = {.action = MLXQ_ACTION_COPY,
                  .input_count = 1,
                  .inputs = {mlxq_plan_operand(index, 1, dtype, dtype)},
                  .dtype = (uint8_t)dtype,
                  .units = tensor->bytes / (mlxq_dtype_bits(dtype) / 8)};
  return mlxq_plan_add_job(s->structure->reading, &job, s->error);
}

/* ---- The walk -------------------------------------------------------------------------------------------------- */

/* Layer paths are names of modules joined by dots. */
static void check_name(survey *s, const char *name) {
  size_t length = strlen(name);
  const char *reason = NULL;
  mlxq_error flaw;
  if (strstr(name, "..") || name[0] == '.' || name[length - 1] == '.') reason = "the name has an empty part";
  if (strchr(name, '/')) reason = "the name holds a '/'";
  if (reason) tell(s, s->defects, mlxq_fail(&flaw, MLXQ_CORRUPT, NULL, name, "%s", reason), &flaw);
}

static mlxq_status walk_layer(survey *s, size_t index, size_t length, mlxq_text *path) {
  const mlxq_tensor *weight = &s->tensors->entries[index].tensor;
  mlxq_scheme scheme;
  mlxq_text_set(path, weight->name, length);
  if (path->failed) return mlxq_fail_memory(s->error);
  mlxq_layer layer = {.path = path->data,
                      .path_length = length,
                      .weight = weight,
                      .scales = mlxq_weights_part(s->tensors, weight->name, length, ".scales"),
                      .biases = mlxq_weights_part(s->tensors, weight->name, length, ".biases")};
  if (s->structure->foreign) return read_plain(s, index);
  if (!layer.scales) {
    judge_dense(s, &layer);
    return read_plain(s, index);
  }
  s->structure->layers++;
  if (!judge_triple(s, index, &layer, &scheme)) return read_plain(s, index);
  return read_triple(s, index, &layer, &scheme);
}

/* Scales and biases: of a triple that is read as one, or on their own. */
static mlxq_status walk_part(survey *s, size_t index, size_t length, const char *suffix, mlxq_text *path) {
  const char *name = s->tensors->entries[index].tensor.name;
  const mlxq_tensor *weight = mlxq_weights_part(s->tensors, name, length, ".weight");
  const mlxq_tensor *scales = mlxq_weights_part(s->tensors, name, length, ".scales");
  mlxq_error flaw;
  if (weight && scales && get_bit(s->structure->triples, place_of(s, weight))) return MLXQ_OK;
  bool told = strcmp(suffix, ".biases") == 0 && scales; /* as the scales' */
  if (!weight && !told && !s->structure->foreign && s->structure->complete) {
    mlxq_text_set(path, name, length);
    if (path->failed) return mlxq_fail_memory(s->error);
    mlxq_layer layer = {.path = path->data, .path_length = length};
    tell(s, s->defects, mlxq_fail_part(&flaw, MLXQ_MISSING_KEY, &layer, ".weight", "missing: there are %s", suffix + 1),
         &flaw);
  }
  return read_plain(s, index);
}

/* Weights first, since they tell how their scales and biases are read. */
static mlxq_status walk(survey *s) {
  enum { CANCEL_INTERVAL = 1024 };
  static const char *const PARTS[] = {".scales", ".biases"};
  const mlxq_cancel *cancel = &s->structure->checkpoint->cancel;
  mlxq_text path = {0};
  mlxq_status status = MLXQ_OK;
  for (size_t i = 0; status == MLXQ_OK && i < s->tensors->count; i++) {
    size_t length;
    s->file = file_of(s, i);
    check_name(s, s->tensors->entries[i].tensor.name);
    if (mlxq_name_splits(s->tensors->entries[i].tensor.name, ".weight", &length)) {
      status = walk_layer(s, i, length, &path);
    }
    if (status == MLXQ_OK && (i + 1) % CANCEL_INTERVAL == 0) status = mlxq_cancel_check(cancel, s->error);
  }
  for (size_t i = 0; status == MLXQ_OK && i < s->tensors->count; i++) {
    const char *name = s->tensors->entries[i].tensor.name;
    size_t length = 0, part = 0;
    if (mlxq_name_splits(name, ".weight", &length)) continue;
    s->file = file_of(s, i);
    while (part < 2 && !mlxq_name_splits(name, PARTS[part], &length)) part++;
    status = part < 2 ? walk_part(s, i, length, PARTS[part], &path) : read_plain(s, i);
  }
  mlxq_text_free(&path);
  return status;
}

mlxq_status mlxq_structure_survey(mlxq_structure *structure, const mlxq_flaws *defects, const mlxq_flaws *notes,
                                  mlxq_error *error) {
  const mlxq_checkpoint *checkpoint = structure->checkpoint;
  size_t bytes = checkpoint->tensors->count / 8 + 1;
  survey s = {
      .structure = structure, .tensors = checkpoint->tensors, .defects = defects, .notes = notes, .error = error};
  s.at_file = (mlxq_flaws){add_at_file, &s};
  structure->complete = true;
  for (size_t i = 0; i < checkpoint->file_count; i++) structure->complete &= !checkpoint->files[i].unknown;
  structure->sound = mlxq_calloc(bytes, 1);
  structure->triples = mlxq_calloc(bytes, 1);
  if (!structure->sound || !structure->triples) return mlxq_fail_memory(error);
  const mlxq_plan_request request = {.source = checkpoint->tensors};
  mlxq_status status = mlxq_plan_new(&structure->reading, &request, error);
  if (status == MLXQ_OK) status = compare_total(&s);
  if (status == MLXQ_OK) status = read_config(&s);
  if (status != MLXQ_OK) return status;
  check_schemes(&s);
  status = check_entries(&s);
  if (status == MLXQ_OK) status = walk(&s);
  if (status == MLXQ_OK && structure->complete) status = mlxq_find_gaps(checkpoint, defects, notes, error);
  return status;
}

void mlxq_structure_free(mlxq_structure *structure) {
  mlxq_quant_config_free(structure->config);
  mlxq_plan_free(structure->reading);
  free(structure->sound);
  free(structure->triples);
}

bool mlxq_structure_is_sound(const mlxq_structure *structure, const char *layer, size_t layer_length) {
  const mlxq_weights *tensors = structure->checkpoint->tensors;
  const mlxq_tensor *weight = mlxq_weights_part(tensors, layer, layer_length, ".weight");
  return weight && get_bit(structure->sound, mlxq_weights_index(tensors, weight->name, layer_length + 7));
}
