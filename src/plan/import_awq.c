/* AutoAWQ: docs/formats.md, sections 1 and 2. The order of the checks is part of mlxq_import_awq's contract. */
#include "base/error.h"
#include "plan/import.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* The tensors of one packed layer. */
typedef struct awq_parts {
  const char *path; /* NUL-terminated copy */
  size_t length;
  uint32_t weight;
  mlxq_packing packing;
  const mlxq_tensor *qweight, *scales, *zeros; /* zeros NULL where absent */
} awq_parts;

typedef struct awq_state {
  mlxq_import_request *request;
  const mlxq_weights *source;
  mlxq_packing packing;
  int64_t group_size; /* as configured; -1: the whole row */
  awq_parts *parts;   /* sorted by path */
  size_t count;
  mlxq_foreign_layers layers;
} awq_state;

/* An error of a part; errors of a whole tensor name it as the layer. */
static mlxq_status fail_tensor(mlxq_error *error, mlxq_status status, const mlxq_tensor *tensor, const char *reason) {
  return mlxq_fail(error, status, tensor->name, tensor->name, "%s", reason);
}

static mlxq_status check_version(awq_state *state, mlxq_error *error) {
  const char *version = state->request->config.version;
  if (strcmp(version, "") == 0 || strcasecmp(version, "gemm") == 0) {
    state->packing = MLXQ_PACKING_AWQ_GEMM;
  } else if (strcasecmp(version, "gemv") == 0) {
    state->packing = MLXQ_PACKING_AWQ_GEMV;
  } else if (strcasecmp(version, "gemv_fast") == 0) {
    state->packing = MLXQ_PACKING_AWQ_GEMV_FAST;
  } else {
    return mlxq_fail(error, MLXQ_UNKNOWN_VALUE, NULL, "version", "\"%s\" is none of gemm, gemv, gemv_fast", version);
  }
  return MLXQ_OK;
}

static mlxq_status check_config(awq_state *state, mlxq_error *error) {
  const mlxq_foreign_config *config = &state->request->config;
  mlxq_status status = check_version(state, error);
  if (status != MLXQ_OK) return status;
  if (config->bits != 4) {
    return mlxq_fail(error, MLXQ_OUT_OF_RANGE, NULL, "bits", "must be 4, not %lld", (long long)config->bits);
  }
  if (config->group_size > INT32_MAX || config->group_size < -1) {
    return mlxq_fail(error, MLXQ_OUT_OF_RANGE, NULL, "group_size", "must be -1 or fit 31 bits, not %lld",
                     (long long)config->group_size);
  }
  state->group_size = config->group_size;
  return MLXQ_OK;
}

/* ---- Finding layers -------------------------------------------------------------------------------------------- */

static int compare_parts(const void *left, const void *right) {
  return strcmp(((const awq_parts *)left)->path, ((const awq_parts *)right)->path);
}

static mlxq_status find_parts(awq_state *state, mlxq_error *error) {
  const mlxq_weights *source = state->source;
  size_t capacity = 0, length = 0;
  for (size_t i = 0; i < source->count; i++) {
    const mlxq_tensor *tensor = &source->entries[i].tensor;
    if (mlxq_name_splits(tensor->name, ".g_idx", &length)) {
      return fail_tensor(error, MLXQ_INVARIANT, tensor, "AWQ has no g_idx; a GPTQ checkpoint is imported as gptq");
    }
  }
  for (size_t i = 0; i < source->count; i++) {
    const mlxq_tensor *tensor = &source->entries[i].tensor;
    void *parts = state->parts;
    if (!mlxq_name_splits(tensor->name, ".qweight", &length)) continue;
    if (!mlxq_grow(&parts, state->count, &capacity, sizeof *state->parts)) return mlxq_fail_memory(error);
    state->parts = parts;
    char *path = mlxq_asprintf("%.*s", (int)length, tensor->name);
    if (!path) return mlxq_fail_memory(error);
    awq_parts *added = &state->parts[state->count++];
    *added = (awq_parts){.path = path,
                         .length = length,
                         .weight = (uint32_t)i,
                         .packing = state->packing,
                         .qweight = tensor,
                         .scales = mlxq_weights_part(source, path, length, ".scales"),
                         .zeros = mlxq_weights_part(source, path, length, ".qzeros")};
    const mlxq_tensor *scaled_zeros = mlxq_weights_part(source, path, length, ".scaled_zeros");
    if (scaled_zeros) { /* llm-awq's name for what GEMV_fast has */
      added->packing = MLXQ_PACKING_AWQ_GEMV_FAST;
      added->zeros = scaled_zeros;
    }
  }
  if (state->count > 0) qsort(state->parts, state->count, sizeof *state->parts, compare_parts);
  return MLXQ_OK;
}

static mlxq_status check_scales(const awq_state *state, mlxq_error *error) {
  for (size_t i = 0; i < state->count; i++) {
    const mlxq_tensor *scales = state->parts[i].scales;
    if (scales && !mlxq_dtype_is_floating(scales->dtype)) {
      return mlxq_fail(error, MLXQ_UNSUPPORTED_DTYPE, scales->name, scales->name,
                       "is %s; AutoAWQ's scales are F16, BF16, F32 or F64", mlxq_dtype_name(scales->dtype));
    }
  }
  for (size_t i = 0; i < state->count; i++) {
    if (state->parts[i].scales) continue;
    char *key = mlxq_asprintf("%s.scales", state->parts[i].path);
    mlxq_fail(error, MLXQ_MISSING_KEY, NULL, key, "missing: there is a .qweight, which comes with scales");
    free(key);
    return MLXQ_MISSING_KEY;
  }
  return MLXQ_OK;
}

/* ---- One layer ------------------------------------------------------------------------------------------------- */

static mlxq_status check_dtypes_and_ranks(const awq_parts *parts, mlxq_error *error) {
  const mlxq_tensor *qweight = parts->qweight, *scales = parts->scales;
  bool fast = parts->packing == MLXQ_PACKING_AWQ_GEMV_FAST;
  bool fits = fast ? qweight->dtype == MLXQ_I16 : qweight->dtype == MLXQ_U32 || qweight->dtype == MLXQ_I32;
  if (!fits) {
    return mlxq_fail(error, MLXQ_UNSUPPORTED_DTYPE, qweight->name, qweight->name, "is %s; it must be %s",
                     mlxq_dtype_name(qweight->dtype), fast ? "I16" : "I32 or U32");
  }
  if (qweight->rank != 2) return fail_tensor(error, MLXQ_RANK_MISMATCH, qweight, "must have two dimensions");
  if (scales->rank != 2) return fail_tensor(error, MLXQ_RANK_MISMATCH, scales, "must have two dimensions");
  return MLXQ_OK;
}

static bool has_shape(const mlxq_tensor *tensor, uint64_t rows, uint64_t columns) {
  return tensor->rank == 2 && tensor->shape[0] == rows && tensor->shape[1] == columns;
}

/* Words in a row of GEMV's zero points: a multiple of 1, 2 or 4 for groups of 128, 64 or 32. */
static uint64_t gemv_zero_words(uint64_t ins, uint64_t group_ins) {
  uint64_t multiple = group_ins >= 128 ? 1 : group_ins >= 64 ? 2 : 4;
  uint64_t words = (ins / group_ins + 7) / 8;
  return (words + multiple - 1) / multiple * multiple;
}

/* Sets the layer's outs, ins and groups. */
static mlxq_status measure(const awq_state *state, const awq_parts *parts, mlxq_foreign_layer *layer,
                           mlxq_error *error) {
  const mlxq_tensor *qweight = parts->qweight;
  bool gemm = parts->packing == MLXQ_PACKING_AWQ_GEMM, fast = parts->packing == MLXQ_PACKING_AWQ_GEMV_FAST;
  layer->ins = qweight->shape[gemm ? 0 : 1];
  layer->outs = qweight->shape[gemm ? 1 : 0];
  uint64_t *packed = gemm || fast ? &layer->outs : &layer->ins;
  if (!mlxq_mul_u64(packed, *packed, fast ? 4 : 8)) {
    return fail_tensor(error, MLXQ_OVERFLOW, qweight, "the layer's size does not fit 63 bits");
  }
  if (state->group_size == 0) return mlxq_fail(error, MLXQ_OUT_OF_RANGE, NULL, "group_size", "must not be 0");
  layer->group_ins = state->group_size > 0 ? (uint64_t)state->group_size : layer->ins;
  if (state->group_size < 0 && gemm && parts->scales->shape[0] > 0) layer->group_ins /= parts->scales->shape[0];
  if (layer->group_ins == 0 || layer->ins % layer->group_ins != 0) {
    return mlxq_fail(error, MLXQ_NOT_DIVISIBLE, qweight->name, qweight->name,
                     "has %llu inputs, which are no multiple of the group size %llu", (unsigned long long)layer->ins,
                     (unsigned long long)layer->group_ins);
  }
  if (layer->ins % (parts->packing == MLXQ_PACKING_AWQ_GEMV_FAST ? 64 : 8) != 0) {
    return mlxq_fail(error, MLXQ_NOT_DIVISIBLE, qweight->name, qweight->name,
                     "has %llu inputs, which do not fill whole words", (unsigned long long)layer->ins);
  }
  layer->groups = layer->ins / layer->group_ins;
  return MLXQ_OK;
}

static mlxq_status check_shapes(const awq_parts *parts, const mlxq_foreign_layer *layer, mlxq_error *error) {
  bool gemm = parts->packing == MLXQ_PACKING_AWQ_GEMM, gemv = parts->packing == MLXQ_PACKING_AWQ_GEMV;
  const mlxq_tensor *zeros = parts->zeros;
  uint64_t words = gemm ? 0 : gemv_zero_words(layer->ins, layer->group_ins);
  uint64_t scale_rows = gemm ? layer->groups : gemv ? layer->outs : 8 * words;
  uint64_t scale_columns = gemv ? 8 * words : layer->outs;
  uint64_t zero_rows = gemv ? layer->outs : scale_rows;
  uint64_t zero_columns = gemm ? layer->outs / 8 : gemv ? words : layer->outs;
  if (!has_shape(parts->scales, scale_rows, scale_columns)) {
    return mlxq_foreign_fail_shape(error, parts->path, parts->scales, scale_rows, scale_columns);
  }
  if (!zeros) return MLXQ_OK;
  bool fits = gemm || gemv ? zeros->dtype == MLXQ_U32 || zeros->dtype == MLXQ_I32
                           : zeros->dtype == parts->scales->dtype; /* gemv_fast: floats */
  if (!fits) {
    return mlxq_fail(error, MLXQ_UNSUPPORTED_DTYPE, zeros->name, zeros->name, "is %s; it must be %s",
                     mlxq_dtype_name(zeros->dtype), gemm || gemv ? "I32 or U32" : "as the scales are");
  }
  if (!has_shape(zeros, zero_rows, zero_columns)) {
    return mlxq_foreign_fail_shape(error, zeros->name, zeros, zero_rows, zero_columns);
  }
  return MLXQ_OK;
}

static mlxq_status read_layer(const awq_state *state, const awq_parts *parts, mlxq_foreign_layer *layer,
                              mlxq_error *error) {
  const mlxq_weights *source = state->source;
  *layer = (mlxq_foreign_layer){
      .packing = parts->packing,
      .weight = parts->weight,
      .scales = (uint32_t)mlxq_weights_index(source, parts->scales->name, strlen(parts->scales->name)),
      .zeros = MLXQ_NO_TENSOR,
      .group_index = MLXQ_NO_TENSOR,
      .bits = 4};
  mlxq_status status = mlxq_foreign_check_collisions(source, parts->path, NULL, error);
  if (status == MLXQ_OK) status = check_dtypes_and_ranks(parts, error);
  if (status == MLXQ_OK) status = measure(state, parts, layer, error);
  if (status == MLXQ_OK) status = check_shapes(parts, layer, error);
  if (status != MLXQ_OK) return status;
  state->layers.consumed[layer->scales] = true;
  if (parts->zeros) {
    uint32_t zeros = (uint32_t)mlxq_weights_index(source, parts->zeros->name, strlen(parts->zeros->name));
    state->layers.consumed[zeros] = true;
    if (state->request->config.zero_point) layer->zeros = zeros;
  }
  if (layer->zeros == MLXQ_NO_TENSOR) {
    layer->zero_rule = MLXQ_ZERO_MIDDLE;
  } else {
    layer->zero_rule = parts->packing == MLXQ_PACKING_AWQ_GEMV_FAST ? MLXQ_ZERO_SCALED : MLXQ_ZERO_STORED;
  }
  return MLXQ_OK;
}

/* ---- All of it ------------------------------------------------------------------------------------------------- */

static int compare_layers(const void *left, const void *right) {
  const mlxq_foreign_layer *a = left, *b = right;
  return (a->weight > b->weight) - (a->weight < b->weight);
}

static mlxq_status read_layers(awq_state *state, mlxq_error *error) {
  mlxq_status status = MLXQ_OK;
  state->layers.items = mlxq_calloc(state->count, sizeof *state->layers.items);
  state->layers.consumed = mlxq_calloc(state->source->count, sizeof *state->layers.consumed);
  if (!state->layers.items || !state->layers.consumed) return mlxq_fail_memory(error);
  for (size_t i = 0; status == MLXQ_OK && i < state->count; i++) {
    status = read_layer(state, &state->parts[i], &state->layers.items[i], error);
    if (status == MLXQ_OK) state->layers.count++;
  }
  for (size_t i = 0; status == MLXQ_OK && i < state->count; i++) {
    mlxq_foreign_layer *layer = &state->layers.items[i];
    status = mlxq_foreign_choose(layer, state->parts[i].path, state->request, error);
  }
  if (status == MLXQ_OK && state->request->common.for_mlx) {
    status = mlxq_foreign_check_orphans(&state->request->common, &state->layers, error);
  }
  return status;
}

/* The file of the tensor that an error is about. */
static void name_file(const awq_state *state, mlxq_status status, mlxq_error *error) {
  const mlxq_source_file *files = state->request->common.files;
  if (status == MLXQ_OK || !files || !error) return;
  size_t index = mlxq_weights_index(state->source, error->key, strlen(error->key));
  if (index != SIZE_MAX) mlxq_error_at_file(error, status, files[state->source->entries[index].file].path);
}

mlxq_status mlxq_plan_import_awq(mlxq_plan **plan, mlxq_import_request *request, mlxq_error *error) {
  awq_state state = {.request = request, .source = request->common.source};
  *plan = NULL;
  mlxq_status status = check_config(&state, error);
  if (status == MLXQ_OK) status = find_parts(&state, error);
  if (status == MLXQ_OK) status = check_scales(&state, error);
  if (status == MLXQ_OK) status = read_layers(&state, error);
  name_file(&state, status, error);
  if (status == MLXQ_OK) {
    mlxq_foreign_choose_dtypes(&state.layers, &request->common);
    status = mlxq_foreign_widen(&state.layers, request, error);
  }
  if (status == MLXQ_OK) {
    mlxq_scheme fallback = {.mode = MLXQ_AFFINE, .bits = 4, .group_size = 128};
    mlxq_scheme configured = fallback;
    if (state.group_size >= 0) configured.group_size = (int32_t)state.group_size;
    /* A config.json names no scheme that MLX lacks, though no layer has it. */
    if (!request->common.for_mlx || mlxq_scheme_check(&configured, NULL) == MLXQ_OK) fallback = configured;
    if (state.layers.count > 0) fallback = mlxq_foreign_common_scheme(&state.layers);
    qsort(state.layers.items, state.layers.count, sizeof *state.layers.items, compare_layers);
    status = mlxq_plan_foreign(plan, request, &state.layers, &fallback, error);
  }
  for (size_t i = 0; i < state.count; i++) free((void *)(uintptr_t)state.parts[i].path);
  free(state.parts);
  free(state.layers.items);
  free(state.layers.consumed);
  return status;
}
