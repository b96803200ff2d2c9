#include "imported.h"

#include "run/run.h"

#include <mlxq/transform.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 128, MAX_LAYERS = 4 };

static const char QWEIGHT[] = ".qweight";

/* ---- The plan -------------------------------------------------------------------------------------------------- */

/* Every byte of every output is made once, in tiles that are numbered through. */
static void check_jobs(const mlxq_plan *plan) {
  uint64_t tiles = 0, *made = calloc(plan->outputs->count + 1, sizeof *made);
  require(made != NULL);
  for (size_t i = 0; i < plan->job_count; i++) {
    const mlxq_job *job = &plan->jobs[i];
    require(job->first_tile == tiles && job->input_count > 0 && job->output_count > 0);
    require(job->units == 0 || job->units_per_tile > 0);
    if (job->units > 0) tiles += (job->units - 1) / job->units_per_tile + 1;
    for (unsigned k = 0; k < job->output_count; k++) {
      require(job->outputs[k].tensor < plan->outputs->count);
      made[job->outputs[k].tensor] += job->units * job->outputs[k].unit_bytes;
    }
    for (unsigned k = 0; k < job->input_count; k++) require(job->inputs[k].tensor < plan->stored->count);
  }
  require(tiles == plan->tile_count);
  for (size_t i = 0; i < plan->outputs->count; i++) require(made[i] == plan->outputs->entries[i].tensor.bytes);
  free(made);
}

/* Whether the tensor is what a packed layer becomes. */
static bool is_of_layer(const mlxq_weights *source, const char *name) {
  size_t length = 0;
  bool part = mlxq_name_splits(name, ".weight", &length) || mlxq_name_splits(name, ".scales", &length) ||
              mlxq_name_splits(name, ".biases", &length);
  return part && mlxq_weights_part(source, name, length, QWEIGHT);
}

static bool same_shape(const mlxq_tensor *a, const mlxq_tensor *b) {
  return a->rank == b->rank && (a->rank == 0 || memcmp(a->shape, b->shape, a->rank * sizeof *a->shape) == 0);
}

/* A triple that MLX reads, with the scheme that the configuration gives it. */
static const mlxq_scheme *check_triple(const mlxq_weights *outputs, const char *path, const mlxq_quant_config *config) {
  const mlxq_tensor *weight = mlxq_weights_part(outputs, path, strlen(path), ".weight");
  const mlxq_tensor *scales = mlxq_weights_part(outputs, path, strlen(path), ".scales");
  const mlxq_tensor *biases = mlxq_weights_part(outputs, path, strlen(path), ".biases");
  const mlxq_scheme *scheme = mlxq_quant_config_lookup(config, path);
  require(weight && scales && biases && scheme);
  require(scheme->mode == MLXQ_AFFINE && mlxq_scheme_check(scheme, NULL) == MLXQ_OK);
  require(weight->dtype == MLXQ_U32 && weight->rank == 2 && mlxq_dtype_is_floating(scales->dtype));
  require(same_shape(scales, biases) && scales->dtype == biases->dtype && scales->rank == 2);
  uint64_t ins = scales->shape[1] * (uint64_t)scheme->group_size;
  require(weight->shape[0] == scales->shape[0] && weight->shape[1] == ins / 32 * (uint64_t)scheme->bits);
  return scheme;
}

/* What is no part of a layer passes through, with another dtype only where that was asked for. */
static void check_others(const mlxq_plan *plan, const mlxq_plan_request *request) {
  for (size_t i = 0; i < plan->outputs->count; i++) {
    const mlxq_tensor *made = mlxq_weights_at(plan->outputs, i);
    const mlxq_tensor *stored = mlxq_weights_find(request->source, made->name);
    size_t length = 0;
    require(!mlxq_name_splits(made->name, QWEIGHT, &length));
    if (is_of_layer(request->source, made->name)) continue;
    require(stored && same_shape(made, stored));
    require(made->dtype == mlxq_plan_cast_dtype(request, stored) || request->for_mlx);
  }
}

static void check_plan(const mlxq_plan *plan, const mlxq_import_request *request) {
  const mlxq_weights *source = request->common.source;
  const mlxq_scheme *fallback = mlxq_quant_config_default(request->result);
  size_t layers = 0, length = 0;
  char path[256];
  require(fallback != NULL);
  for (size_t i = 0; i < source->count; i++) {
    const char *name = mlxq_weights_at(source, i)->name;
    if (!mlxq_name_splits(name, QWEIGHT, &length)) continue;
    snprintf(path, sizeof path, "%.*s", (int)length, name);
    check_triple(plan->outputs, path, request->result);
    layers++;
  }
  require((layers == 0 && !request->common.for_mlx) || mlxq_scheme_check(fallback, NULL) == MLXQ_OK);
  require(mlxq_quant_config_layer_count(request->result) <= layers);
  check_jobs(plan);
  check_others(plan, &request->common);
}

/* ---- What comes out -------------------------------------------------------------------------------------------- */

/* Runs the plan into memory. Numbers that MLX should not get may be refused, where there are some. */
static bool run(mlxq_plan *plan, mlxq_isa isa, bool may_fail) {
  mlxq_run_request request = {.plan = plan, .threads = 1, .isa = isa};
  mlxq_error error = {0};
  for (size_t i = 0; i < plan->outputs->count; i++) {
    void *data;
    require(mlxq_weights_allocate(plan->outputs, i, &data, NULL) == MLXQ_OK);
  }
  mlxq_status status = mlxq_run(&request, &error);
  require(status == MLXQ_OK || (status == MLXQ_NON_FINITE && may_fail));
  if (status != MLXQ_OK) require_error(&error, status);
  return status == MLXQ_OK;
}

static void check_equal(const mlxq_weights *a, const mlxq_weights *b) {
  require(a->count == b->count);
  for (size_t i = 0; i < a->count; i++) {
    const mlxq_tensor *left = mlxq_weights_at(a, i), *right = mlxq_weights_at(b, i);
    require(strcmp(left->name, right->name) == 0 && left->dtype == right->dtype && same_shape(left, right));
    require(left->bytes == 0 || memcmp(left->data, right->data, left->bytes) == 0);
  }
}

static void check_layers(const mlxq_weights *outputs, const mlxq_import_request *request, check_codes_fn check_codes) {
  const mlxq_weights *source = request->common.source;
  bool kept = request->requantize_bits == 0 && !request->exact;
  bool readable = true;
  for (size_t i = 0; i < source->count; i++) {
    const mlxq_tensor *stored = mlxq_weights_at(source, i);
    size_t length = 0;
    char path[256];
    if (!mlxq_name_splits(stored->name, QWEIGHT, &length)) continue;
    snprintf(path, sizeof path, "%.*s", (int)length, stored->name);
    const mlxq_scheme *scheme = check_triple(outputs, path, request->result);
    const mlxq_tensor *scales = mlxq_weights_part(outputs, path, length, ".scales");
    readable = readable && scales->dtype != MLXQ_F64;
    if (kept) check_codes(stored, mlxq_weights_part(outputs, path, length, ".weight"), (unsigned)scheme->bits);
  }
  /* Other tensors may look like triples, so only what MLX would load must dequantize. */
  if (!readable || !request->common.for_mlx) return;
  mlxq_weights *dense = NULL;
  mlxq_transform_options options = MLXQ_TRANSFORM_OPTIONS_INIT;
  options.threads = 1;
  mlxq_status status = mlxq_dequantize_weights(&dense, outputs, request->result, &options, NULL);
  require((dense != NULL) == (status == MLXQ_OK));
  mlxq_weights_free(dense);
}

static void check_copies(const mlxq_weights *outputs, const mlxq_weights *source) {
  for (size_t i = 0; i < outputs->count; i++) {
    const mlxq_tensor *made = mlxq_weights_at(outputs, i), *stored = mlxq_weights_find(source, made->name);
    if (is_of_layer(source, made->name) || made->dtype != stored->dtype || made->bytes == 0) continue;
    require(memcmp(made->data, stored->data, made->bytes) == 0);
  }
}

/* Plans; NULL, with an error, where it is refused. */
static mlxq_plan *plan_once(mlxq_import_fn planner, mlxq_import_request *request, mlxq_error *error) {
  mlxq_plan *plan = NULL;
  request->result = NULL;
  mlxq_status status = planner(&plan, request, error);
  require((plan != NULL) == (status == MLXQ_OK));
  if (!plan) require_error(error, status);
  return plan;
}

static void import_twice(mlxq_import_fn planner, mlxq_import_request *request, bool finite,
                         check_codes_fn check_codes) {
  mlxq_error error = {0}, again = {0};
  mlxq_plan *first = plan_once(planner, request, &error);
  mlxq_quant_config *config = request->result;
  if (first) check_plan(first, request);
  mlxq_plan *second = plan_once(planner, request, &again);
  require(!first == !second && (first || strcmp(error.message, again.message) == 0));
  if (first) {
    bool may_fail = !finite && (request->requantize_bits != 0 || request->common.for_mlx);
    bool made = run(first, MLXQ_ISA_COUNT, may_fail);
    require(run(second, MLXQ_ISA_REF, may_fail) == made);
    if (made) check_equal(first->outputs, second->outputs);
    if (made) check_copies(first->outputs, request->common.source);
    if (made) check_layers(first->outputs, request, check_codes);
  }
  mlxq_plan_free(first);
  mlxq_plan_free(second);
  mlxq_quant_config_free(config);
  mlxq_quant_config_free(request->result);
}

static void on_warning(void *user, const char *message) {
  (void)user;
  require(message[0] != '\0');
}

void check_import(mlxq_import_fn plan, sketch *s, mlxq_import_request *request, check_codes_fn check_codes) {
  mlxq_plan_request *common = &request->common;
  common->source = s->tensors;
  common->profile = take_bool(s->in) ? MLXQ_PROFILE_GPU : MLXQ_PROFILE_CPU;
  common->for_mlx = !take_rarely(s->in, 3);
  common->cast = take_rarely(s->in, 4);
  common->cast_to = common->cast ? sketch_float(s) : MLXQ_F16;
  common->warn = on_warning;
  request->exact = take_rarely(s->in, 4);
  if (take_rarely(s->in, 4)) request->requantize_bits = 2 + (int32_t)take_below(s->in, 7);
  import_twice(plan, request, s->finite, check_codes);
}

void sketch_layers(sketch *s, void (*add_layer)(void *user, const char *path), void *user) {
  static const char *const PATHS[] = {"model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj", "lm_head", "a", ""};
  static const char *const SUFFIXES[] = {".weight", ".bias", ".scales", ".biases", ".g_idx", ".qzeros", ".x"};
  unsigned layers = take_below(s->in, MAX_LAYERS) + 1;
  for (unsigned i = 0; i < layers; i++) add_layer(user, take_one(s->in, PATHS));
  while (take_rarely(s->in, 4)) {
    const uint64_t shape[] = {8, 32};
    const char *path = take_one(s->in, PATHS), *suffix = take_one(s->in, SUFFIXES);
    mlxq_dtype dtype = take_rarely(s->in, 4) ? (mlxq_dtype)take_below(s->in, MLXQ_DTYPE_COUNT) : sketch_float(s);
    sketch_tensor(s, path, suffix, dtype, take_below(s->in, 3), shape);
  }
}
