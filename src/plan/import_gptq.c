/* GPTQ, as AutoGPTQ and GPTQModel write it: docs/formats.md, section 3. */
#include "base/error.h"
#include "plan/import.h"

#include <stdlib.h>
#include <string.h>

typedef struct gptq_state {
  mlxq_import_request *request;
  const mlxq_weights *source;
  mlxq_zero_rule zero_rule; /* where stored values do not say better */
  mlxq_foreign_layers layers;
  bool ambiguous; /* AutoGPTQ's v1 with a field of all ones: 2^bits, or 0 that wrapped around */
  bool mislabelled;
  size_t dropped_biases;
} gptq_state;

static mlxq_status check_config(gptq_state *state, mlxq_error *error) {
  const mlxq_foreign_config *config = &state->request->config;
  if (config->bits != 0 && config->bits != 2 && config->bits != 3 && config->bits != 4 && config->bits != 8) {
    return mlxq_fail(error, MLXQ_OUT_OF_RANGE, NULL, "bits", "GPTQ has 2, 3, 4 or 8 bits, not %lld",
                     (long long)config->bits);
  }
  if (config->group_size == 0 || config->group_size < -1 || config->group_size > INT32_MAX) {
    return mlxq_fail(error, MLXQ_OUT_OF_RANGE, NULL, "group_size", "must be -1 or a positive number, not %lld",
                     (long long)config->group_size);
  }
  if (strcmp(config->format, "gptq_v2") == 0) {
    state->zero_rule = MLXQ_ZERO_STORED;
  } else if (strcmp(config->format, "") == 0 || strcmp(config->format, "gptq") == 0) {
    state->zero_rule = config->gptqmodel ? MLXQ_ZERO_BORROWED : MLXQ_ZERO_LESS_ONE;
  } else {
    return mlxq_fail(error, MLXQ_UNSUPPORTED, NULL, "checkpoint_format",
                     "\"%s\" packs weights in a way of its own; gptq and gptq_v2 can be imported", config->format);
  }
  return MLXQ_OK;
}

/* ---- One layer ------------------------------------------------------------------------------------------------- */

static bool is_word(mlxq_dtype dtype) {
  return dtype == MLXQ_I32 || dtype == MLXQ_U32;
}

/* The part P + suffix: its index, or MLXQ_MISSING_KEY. */
static mlxq_status find(const gptq_state *state, const char *path, const char *suffix, uint32_t *index,
                        mlxq_error *error) {
  const mlxq_tensor *found = mlxq_weights_part(state->source, path, strlen(path), suffix);
  if (found) {
    *index = (uint32_t)mlxq_weights_index(state->source, found->name, strlen(found->name));
    return MLXQ_OK;
  }
  char *key = mlxq_asprintf("%s%s", path, suffix);
  mlxq_fail(error, MLXQ_MISSING_KEY, path, key, "missing: there is a .qweight, which comes with it");
  free(key);
  return MLXQ_MISSING_KEY;
}

/* Where layers have bits of their own, or nothing says how many, the shapes tell them. */
static void measure(mlxq_foreign_layer *layer, const mlxq_tensor *scales, const mlxq_tensor *zeros) {
  uint64_t outs = scales->shape[1], words = zeros->shape[1];
  if (outs > 0 && words <= outs / 4 && words * 32 % outs == 0) layer->bits = (uint32_t)(words * 32 / outs);
}

static mlxq_status check_parts(const gptq_state *state, const char *path, mlxq_foreign_layer *layer,
                               mlxq_error *error) {
  const mlxq_tensor *weight = &state->source->entries[layer->weight].tensor;
  const mlxq_tensor *scales = &state->source->entries[layer->scales].tensor;
  const mlxq_tensor *zeros = &state->source->entries[layer->zeros].tensor;
  int64_t group_size = state->request->config.group_size;
  bool from_shapes = state->request->config.dynamic || state->request->config.bits == 0;
  mlxq_status status = mlxq_foreign_check_collisions(state->source, path, path, error);
  if (status != MLXQ_OK) return status;
  const mlxq_tensor *words[] = {weight, zeros};
  for (size_t i = 0; i < 2; i++) {
    if (is_word(words[i]->dtype)) continue;
    return mlxq_fail(error, MLXQ_UNSUPPORTED_DTYPE, path, words[i]->name, "is %s; it must be I32 or U32",
                     mlxq_dtype_name(words[i]->dtype));
  }
  if (scales->dtype != MLXQ_F16 && scales->dtype != MLXQ_BF16 && scales->dtype != MLXQ_F32) {
    return mlxq_fail(error, MLXQ_UNSUPPORTED_DTYPE, path, scales->name, "is %s; scales are F16, BF16 or F32",
                     mlxq_dtype_name(scales->dtype));
  }
  const mlxq_tensor *matrices[] = {weight, scales, zeros};
  for (size_t i = 0; i < 3; i++) {
    if (matrices[i]->rank == 2) continue;
    return mlxq_fail(error, MLXQ_RANK_MISMATCH, path, matrices[i]->name, "must have two dimensions");
  }
  if (from_shapes) measure(layer, scales, zeros);
  if (layer->bits != 2 && layer->bits != 3 && layer->bits != 4 && layer->bits != 8) {
    return mlxq_fail(error, MLXQ_OUT_OF_RANGE, path, zeros->name, "is for codes of %u bits; GPTQ has 2, 3, 4 or 8",
                     layer->bits);
  }
  if (!mlxq_mul_u64(&layer->ins, weight->shape[0], 32) || layer->ins % layer->bits != 0) {
    return mlxq_fail(error, MLXQ_NOT_DIVISIBLE, path, weight->name, "has %llu rows, which hold no whole %u-bit codes",
                     (unsigned long long)weight->shape[0], layer->bits);
  }
  layer->ins /= layer->bits;
  layer->outs = weight->shape[1];
  layer->group_ins = group_size > 0 ? (uint64_t)group_size : layer->ins;
  if (layer->group_ins > layer->ins) layer->group_ins = layer->ins;
  bool fits = layer->ins > 0 && (layer->ins - 1) / layer->group_ins + 1 == scales->shape[0];
  bool divides = scales->shape[0] > 0 && layer->ins % scales->shape[0] == 0;
  if (!fits && divides && (from_shapes || group_size < 0)) layer->group_ins = layer->ins / scales->shape[0];
  if (layer->ins == 0 || layer->group_ins == 0 || layer->ins % 8 != 0 ||
      layer->outs % mlxq_foreign_unit_outs(layer) != 0) {
    return mlxq_fail(error, MLXQ_NOT_DIVISIBLE, path, weight->name,
                     "has %llu inputs and %llu outputs of %u bits, which "
                     "fill no whole words",
                     (unsigned long long)layer->ins, (unsigned long long)layer->outs, layer->bits);
  }
  layer->groups = (layer->ins - 1) / layer->group_ins + 1;
  if (scales->shape[0] != layer->groups || scales->shape[1] != layer->outs) {
    return mlxq_foreign_fail_shape(error, path, scales, layer->groups, layer->outs);
  }
  if (zeros->shape[0] != layer->groups ||
      zeros->shape[1] != layer->outs / 32 * layer->bits + layer->outs % 32 * layer->bits / 32) {
    return mlxq_foreign_fail_shape(error, path, zeros, layer->groups, layer->outs * layer->bits / 32);
  }
  return MLXQ_OK;
}

/* Sets `group_index` where the inputs of a group are scattered. Most files hold indices that say nothing. */
static mlxq_status read_group_index(gptq_state *state, const char *path, mlxq_foreign_layer *layer, mlxq_error *error) {
  const mlxq_tensor *tensor = mlxq_weights_part(state->source, path, strlen(path), ".g_idx");
  enum { PIECE = 1024 };
  int32_t piece[PIECE];
  if (!tensor) return MLXQ_OK;
  size_t index = mlxq_weights_index(state->source, tensor->name, strlen(tensor->name));
  state->layers.consumed[index] = true;
  if (tensor->bytes == 0) return MLXQ_OK;
  if (tensor->dtype != MLXQ_I32) {
    return mlxq_fail(error, MLXQ_UNSUPPORTED_DTYPE, path, tensor->name, "is %s; it must be I32",
                     mlxq_dtype_name(tensor->dtype));
  }
  if (tensor->rank != 1 || tensor->shape[0] != layer->ins) {
    return mlxq_fail(error, MLXQ_SHAPE_MISMATCH, path, tensor->name, "must be [%llu]", (unsigned long long)layer->ins);
  }
  for (uint64_t at = 0; at < layer->ins; at += PIECE) {
    size_t count = layer->ins - at < PIECE ? (size_t)(layer->ins - at) : PIECE;
    mlxq_status status =
        mlxq_plan_read(&state->request->common, index, at * sizeof *piece, piece, count * sizeof *piece, error);
    if (status != MLXQ_OK) return status;
    for (size_t i = 0; i < count; i++) {
      if (piece[i] < 0 || (uint64_t)piece[i] >= layer->groups) {
        return mlxq_fail(error, MLXQ_OUT_OF_RANGE, path, tensor->name, "element %llu is %d; there are %llu groups",
                         (unsigned long long)(at + i), piece[i], (unsigned long long)layer->groups);
      }
      if ((uint64_t)piece[i] != (at + i) / layer->group_ins) layer->group_index = (uint32_t)index;
    }
  }
  return MLXQ_OK;
}

/* What all zero points of a layer have in common: as they are stored, and by the layer's rule. */
typedef struct zero_survey {
  bool stored_middle, stored_less_one, some_all_ones;
  bool meant_middle;
} zero_survey;

static mlxq_status survey_zeros(zero_survey *survey, const gptq_state *state, const mlxq_foreign_layer *layer,
                                mlxq_error *error) {
  mlxq_foreign_layer plain = *layer;
  const float middle = (float)(1u << (layer->bits - 1)), ones = (float)((1u << layer->bits) - 1);
  size_t words = (size_t)state->source->entries[layer->zeros].tensor.shape[1], outs = (size_t)layer->outs;
  uint32_t *row = mlxq_alloc(words, sizeof *row);
  float *zeros = mlxq_alloc(outs, sizeof *zeros);
  mlxq_status status = row && zeros ? MLXQ_OK : mlxq_fail_memory(error);
  uint64_t groups = outs > 0 ? layer->groups : 0;
  plain.zero_rule = MLXQ_ZERO_STORED;
  *survey = (zero_survey){.stored_middle = true, .stored_less_one = true, .meant_middle = true};
  for (uint64_t group = 0; status == MLXQ_OK && group < groups; group++) {
    status = mlxq_plan_read(&state->request->common, layer->zeros, group * words * sizeof *row, row,
                            words * sizeof *row, error);
    if (status != MLXQ_OK) break;
    mlxq_foreign_unpack_zeros(&plain, row, outs, zeros);
    for (size_t i = 0; i < outs; i++) {
      survey->stored_middle = survey->stored_middle && zeros[i] == middle;
      survey->stored_less_one = survey->stored_less_one && zeros[i] == middle - 1;
      survey->some_all_ones = survey->some_all_ones || zeros[i] == ones;
    }
    mlxq_foreign_unpack_zeros(layer, row, outs, zeros);
    for (size_t i = 0; i < outs; i++) survey->meant_middle = survey->meant_middle && zeros[i] == middle;
  }
  free(row);
  free(zeros);
  return status;
}

/* A symmetric checkpoint has one zero point, however its version is labelled; the stored values show whether it is
 * one. */
static mlxq_status choose_zero_rule(gptq_state *state, mlxq_foreign_layer *layer, mlxq_error *error) {
  zero_survey survey;
  bool symmetric = state->request->config.symmetric;
  layer->zero_rule = state->zero_rule;
  if (layer->zero_rule == MLXQ_ZERO_BORROWED && layer->bits == 3 && state->request->config.gptqmodel_version >= 7) {
    layer->zero_rule = MLXQ_ZERO_WRAPPED; /* from this version on fields of 3 bits are treated one by one */
  }
  if (!symmetric && state->zero_rule != MLXQ_ZERO_LESS_ONE) return MLXQ_OK;
  mlxq_status status = survey_zeros(&survey, state, layer, error);
  if (status != MLXQ_OK) return status;
  if (symmetric && (survey.stored_middle || survey.stored_less_one || survey.meant_middle)) {
    layer->zero_rule = MLXQ_ZERO_MIDDLE;
    layer->zeros = MLXQ_NO_TENSOR;
    return MLXQ_OK;
  }
  state->mislabelled = state->mislabelled || (symmetric && state->request->config.says_symmetric);
  state->ambiguous = state->ambiguous || (state->zero_rule == MLXQ_ZERO_LESS_ONE && survey.some_all_ones);
  return MLXQ_OK;
}

/* Sets `*all` to whether all bytes of a tensor are zero. */
static mlxq_status is_zero(bool *all, const gptq_state *state, size_t index, mlxq_error *error) {
  enum { PIECE = 4096 };
  char piece[PIECE];
  uint64_t bytes = state->source->entries[index].tensor.bytes;
  *all = true;
  for (uint64_t at = 0; *all && at < bytes; at += PIECE) {
    size_t count = bytes - at < PIECE ? (size_t)(bytes - at) : PIECE;
    mlxq_status status = mlxq_plan_read(&state->request->common, index, at, piece, count, error);
    if (status != MLXQ_OK) return status;
    for (size_t i = 0; i < count; i++) *all = *all && piece[i] == 0;
  }
  return MLXQ_OK;
}

/* Old AutoGPTQ gave every layer a bias, of zeros where the model has none; mlx-lm refuses to load those. */
static mlxq_status drop_zero_bias(gptq_state *state, const char *path, mlxq_error *error) {
  const mlxq_tensor *bias = mlxq_weights_part(state->source, path, strlen(path), ".bias");
  bool zero = false;
  if (!bias || !state->request->family ||
      mlxq_family_has_bias(state->request->family, state->request->checkpoint, path)) {
    return MLXQ_OK;
  }
  size_t index = mlxq_weights_index(state->source, bias->name, strlen(bias->name));
  mlxq_status status = is_zero(&zero, state, index, error);
  if (zero) state->layers.consumed[index] = true;
  state->dropped_biases += zero;
  return status;
}

static mlxq_status read_layer(gptq_state *state, size_t index, const char *path, mlxq_foreign_layer *layer,
                              mlxq_error *error) {
  *layer = (mlxq_foreign_layer){.packing = MLXQ_PACKING_GPTQ,
                                .weight = (uint32_t)index,
                                .group_index = MLXQ_NO_TENSOR,
                                .bits = (uint32_t)state->request->config.bits};
  mlxq_status status = find(state, path, ".scales", &layer->scales, error);
  if (status == MLXQ_OK) status = find(state, path, ".qzeros", &layer->zeros, error);
  if (status == MLXQ_OK) status = check_parts(state, path, layer, error);
  if (status != MLXQ_OK) return status;
  state->layers.consumed[layer->scales] = state->layers.consumed[layer->zeros] = true;
  status = read_group_index(state, path, layer, error);
  if (status == MLXQ_OK) status = choose_zero_rule(state, layer, error);
  if (status == MLXQ_OK) status = drop_zero_bias(state, path, error);
  if (status != MLXQ_OK) return status;
  return mlxq_foreign_choose(layer, path, state->request, error);
}

/* ---- All of it ------------------------------------------------------------------------------------------------- */

static mlxq_status read_layers(gptq_state *state, mlxq_error *error) {
  const mlxq_weights *source = state->source;
  mlxq_status status = MLXQ_OK;
  state->layers.consumed = mlxq_calloc(source->count, sizeof *state->layers.consumed);
  if (!state->layers.consumed) return mlxq_fail_memory(error);
  for (size_t i = 0; status == MLXQ_OK && i < source->count; i++) {
    size_t length = 0;
    void *items = state->layers.items;
    if (!mlxq_name_splits(source->entries[i].tensor.name, ".qweight", &length)) continue;
    char *path = mlxq_asprintf("%.*s", (int)length, source->entries[i].tensor.name);
    if (!path || !mlxq_grow(&items, state->layers.count, &state->layers.capacity, sizeof *state->layers.items)) {
      status = mlxq_fail_memory(error);
    } else {
      state->layers.items = items;
      status = read_layer(state, i, path, &state->layers.items[state->layers.count++], error);
    }
    if (state->request->common.files) {
      mlxq_error_at_file(error, status, state->request->common.files[source->entries[i].file].path);
    }
    free(path);
  }
  return status;
}

static void warn(const gptq_state *state) {
  const mlxq_plan_request *common = &state->request->common;
  if (!common->warn) return;
  if (state->mislabelled) {
    common->warn(common->warn_user,
                 "the config says sym, but not all zero points are the middle: they are taken as its version has them");
  }
  if (state->dropped_biases > 0) {
    common->warn(common->warn_user, "biases of zeros are dropped: this model has no biases, old AutoGPTQ wrote them");
  }
  if (state->ambiguous) {
    common->warn(common->warn_user,
                 "zero points whose bits are all ones are taken for 2^bits; in files of old AutoGPTQ they may be 0");
  }
}

mlxq_status mlxq_plan_import_gptq(mlxq_plan **plan, mlxq_import_request *request, mlxq_error *error) {
  gptq_state state = {.request = request, .source = request->common.source};
  *plan = NULL;
  mlxq_status status = check_config(&state, error);
  if (status == MLXQ_OK) status = read_layers(&state, error);
  if (status == MLXQ_OK && request->common.for_mlx) {
    status = mlxq_foreign_check_orphans(&request->common, &state.layers, error);
  }
  if (status == MLXQ_OK) {
    mlxq_foreign_choose_dtypes(&state.layers, &request->common);
    status = mlxq_foreign_widen(&state.layers, request, error);
  }
  if (status == MLXQ_OK) {
    mlxq_scheme fallback = {.mode = MLXQ_AFFINE, .bits = (int32_t)request->config.bits, .group_size = 128};
    if (fallback.bits == 0) fallback.bits = 4;
    if (state.layers.count > 0) fallback = mlxq_foreign_common_scheme(&state.layers);
    warn(&state);
    status = mlxq_plan_foreign(plan, request, &state.layers, &fallback, error);
  }
  free(state.layers.items);
  free(state.layers.consumed);
  return status;
}
