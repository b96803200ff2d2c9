/* plan.c, quantize.c and dequantize.c as plans: what is to be made, by which jobs, in which files. Planning reads no
 * weights, so the tensors here have none, and may be larger than any memory. */
#include "plan/plan.h"

#include "helpers.h"
#include "run/worker.h"
#include "safetensors/safetensors.h"

#include <inttypes.h>

static const mlxq_scheme SCHEMES[] = {
    {MLXQ_AFFINE, 2, 32},  {MLXQ_AFFINE, 3, 64}, {MLXQ_AFFINE, 4, 64}, {MLXQ_AFFINE, 5, 128}, {MLXQ_AFFINE, 6, 32},
    {MLXQ_AFFINE, 8, 128}, {MLXQ_MXFP4, 4, 32},  {MLXQ_MXFP8, 8, 32},  {MLXQ_NVFP4, 4, 16},
};

/* Describes a tensor without data. */
static void describe(mlxq_weights *weights, const char *name, mlxq_dtype dtype, uint32_t rank, const uint64_t *shape) {
  mlxq_error error;
  if (mlxq_weights_describe(weights, name, strlen(name), dtype, rank, shape, 0, 0, NULL, &error) != MLXQ_OK) {
    fail_msg("%s: %s", name, error.message);
  }
}

static mlxq_plan *plan_quantize(const mlxq_plan_request *request) {
  mlxq_plan *plan = NULL;
  mlxq_error error;
  if (mlxq_plan_quantize(&plan, request, &error) != MLXQ_OK) fail_msg("%s: %s", error.key, error.message);
  assert_non_null(plan);
  return plan;
}

static mlxq_plan *plan_dequantize(const mlxq_plan_request *request) {
  mlxq_plan *plan = NULL;
  mlxq_error error;
  if (mlxq_plan_dequantize(&plan, request, &error) != MLXQ_OK) fail_msg("%s: %s", error.key, error.message);
  assert_non_null(plan);
  return plan;
}

static void assert_plan_refused(const mlxq_plan_request *request, bool quantize, mlxq_status status, const char *layer,
                                const char *key) {
  mlxq_plan *plan = (mlxq_plan *)(uintptr_t)16;
  mlxq_error error;
  memset(&error, 'x', sizeof error);
  mlxq_status result =
      quantize ? mlxq_plan_quantize(&plan, request, &error) : mlxq_plan_dequantize(&plan, request, &error);
  if (result != status) {
    if (result == MLXQ_OK) mlxq_plan_free(plan);
    fail_msg("%s: %s, not %s", key, mlxq_status_name(result), mlxq_status_name(status));
  }
  assert_null(plan);
  assert_error(&error, status, layer, key);
}

/* ---- Jobs and tiles -------------------------------------------------------------------------------------------- */

/* Every byte of every output is made by exactly one tile, every byte of every input read by exactly one. */
static void assert_covers(const mlxq_plan *plan, bool reads_all) {
  size_t outputs = plan->outputs->count, inputs = plan->stored->count;
  unsigned *made = calloc(outputs + 1, sizeof *made), *read = calloc(inputs + 1, sizeof *read);
  uint64_t next_tile = 0;
  assert_non_null(made);
  assert_non_null(read);
  for (size_t j = 0; j < plan->job_count; j++) {
    const mlxq_job *job = &plan->jobs[j];
    assert_true(job->units_per_tile > 0);
    assert_int_equal(job->first_tile, next_tile);
    /* Walk the tiles of small jobs as a worker does; large ones have their number computed. */
    uint64_t tiles = 0, done = 0;
    if (job->units / job->units_per_tile < 1000) {
      for (; done < job->units; tiles++) {
        uint64_t left = job->units - done;
        done += left < job->units_per_tile ? left : job->units_per_tile;
      }
    } else {
      tiles = (job->units - 1) / job->units_per_tile + 1;
    }
    next_tile += tiles;
    assert_in_range(job->input_count, 1, MLXQ_MAX_INPUTS);
    assert_in_range(job->output_count, 1, MLXQ_MAX_OUTPUTS);
    for (uint32_t i = 0; i < job->output_count; i++) {
      const mlxq_tensor *tensor = mlxq_weights_at(plan->outputs, job->outputs[i].tensor);
      assert_non_null(tensor);
      made[job->outputs[i].tensor]++;
      if (job->units * job->outputs[i].unit_bytes != tensor->bytes) fail_msg("%s: not covered", tensor->name);
    }
    for (uint32_t i = 0; i < job->input_count; i++) {
      const mlxq_tensor *tensor = mlxq_weights_at(plan->stored, job->inputs[i].tensor);
      assert_non_null(tensor);
      read[job->inputs[i].tensor]++;
      if (job->units * job->inputs[i].unit_bytes != tensor->bytes) fail_msg("%s: not read whole", tensor->name);
    }
  }
  assert_int_equal(plan->tile_count, next_tile);
  for (size_t i = 0; i < outputs; i++) assert_int_equal(made[i], 1);
  for (size_t i = 0; reads_all && i < inputs; i++) assert_int_equal(read[i], 1);
  /* The memory promise: at most 8 MiB a worker. */
  assert_in_range(mlxq_worker_buffer_bytes(plan, true), 0, 8 << 20);
  free(made);
  free(read);
}

static void random_shape(uint64_t *shape, uint32_t rank, uint64_t last_multiple) {
  for (uint32_t i = 0; i < rank; i++) {
    static const uint64_t LIMITS[] = {3, 70, 5000};
    shape[i] = random_below(LIMITS[random_below(3)]) + (random_below(20) > 0);
  }
  if (rank > 0 && last_multiple > 0) shape[rank - 1] = (random_below(40) + (random_below(20) > 0)) * last_multiple;
}

static void test_quantize_covers_any_shapes(void **state) {
  (void)state;
  seed_random(101);
  for (int round = 0; round < 400; round++) {
    const mlxq_scheme *scheme = &SCHEMES[random_below(COUNT(SCHEMES))];
    mlxq_weights *source = new_weights();
    mlxq_quant_config *config = config_of(scheme->mode, scheme->bits, scheme->group_size);
    size_t count = (size_t)random_below(12);
    for (size_t i = 0; i < count; i++) {
      static const mlxq_dtype FLOATS[] = {MLXQ_F16, MLXQ_BF16, MLXQ_F32};
      char name[32];
      uint64_t shape[5];
      uint32_t rank = (uint32_t)random_below(6);
      bool weight = rank >= 2 && random_below(3) > 0;
      random_shape(shape, rank, weight ? (uint64_t)scheme->group_size : random_below(2) ? 8 : 0);
      mlxq_dtype dtype = weight ? FLOATS[random_below(3)] : (mlxq_dtype)random_below(MLXQ_F8_E4M3);
      snprintf(name, sizeof name, "t%zu%s", i, weight ? ".weight" : "");
      describe(source, name, dtype, rank, shape);
    }
    mlxq_plan_request request = {.source = source, .config = config};
    mlxq_plan *plan = plan_quantize(&request);
    assert_covers(plan, true);
    mlxq_plan_free(plan);
    /* With a cast, tiles are counted in elements. */
    request.cast = true;
    request.cast_to = MLXQ_F32;
    plan = plan_quantize(&request);
    assert_covers(plan, true);
    for (size_t i = 0; i < plan->outputs->count; i++) {
      mlxq_dtype dtype = mlxq_weights_at(plan->outputs, i)->dtype;
      assert_true(!mlxq_dtype_is_floating(dtype) || dtype == MLXQ_F32);
    }
    mlxq_plan_free(plan);
    mlxq_weights_free(source);
    mlxq_quant_config_free(config);
  }
}

static void test_dequantize_covers_any_shapes(void **state) {
  (void)state;
  seed_random(102);
  for (int round = 0; round < 400; round++) {
    const mlxq_scheme *scheme = &SCHEMES[random_below(COUNT(SCHEMES))];
    mlxq_weights *source = new_weights();
    mlxq_quant_config *config = config_of(scheme->mode, scheme->bits, scheme->group_size);
    size_t count = (size_t)random_below(12);
    bool affine = scheme->mode == MLXQ_AFFINE;
    for (size_t i = 0; i < count; i++) {
      char name[32];
      uint64_t shape[5];
      uint32_t rank = 2 + (uint32_t)random_below(3);
      random_shape(shape, rank, (uint64_t)scheme->group_size);
      uint64_t last = shape[rank - 1];
      snprintf(name, sizeof name, "t%zu.weight", i);
      shape[rank - 1] = last * (uint64_t)scheme->bits / 32;
      describe(source, name, MLXQ_U32, rank, shape);
      shape[rank - 1] = last / (uint64_t)scheme->group_size;
      snprintf(name, sizeof name, "t%zu.scales", i);
      describe(source, name, affine ? MLXQ_F16 : MLXQ_U8, rank, shape);
      snprintf(name, sizeof name, "t%zu.biases", i);
      if (affine) describe(source, name, MLXQ_F16, rank, shape);
      snprintf(name, sizeof name, "t%zu.bias", i);
      describe(source, name, MLXQ_F16, SHAPE(random_below(100)));
    }
    mlxq_plan_request request = {.source = source, .config = config, .scale_only_dtype = MLXQ_F16};
    mlxq_plan *plan = plan_dequantize(&request);
    assert_covers(plan, true);
    assert_int_equal(plan->outputs->count, 2 * count);
    mlxq_plan_free(plan);
    request.cast = true;
    request.cast_to = MLXQ_F32;
    plan = plan_dequantize(&request);
    assert_covers(plan, true);
    mlxq_plan_free(plan);
    mlxq_weights_free(source);
    mlxq_quant_config_free(config);
  }
}

/* Rows of gigabytes are cut as well as rows of bytes. */
static void test_huge_tensors_keep_small_tiles(void **state) {
  (void)state;
  for (size_t s = 0; s < COUNT(SCHEMES); s++) {
    mlxq_weights *source = new_weights();
    mlxq_quant_config *config = config_of(SCHEMES[s].mode, SCHEMES[s].bits, SCHEMES[s].group_size);
    describe(source, "wide.weight", MLXQ_F64, SHAPE(2, UINT64_C(1) << 38));
    describe(source, "tall.weight", MLXQ_BF16, SHAPE(UINT64_C(1) << 38, 128));
    describe(source, "table", MLXQ_F32, SHAPE(UINT64_C(1) << 20, UINT64_C(1) << 20));
    describe(source, "packed", MLXQ_F4, SHAPE(UINT64_C(1) << 40));
    mlxq_plan_request request = {.source = source, .config = config, .cast = true, .cast_to = MLXQ_F32};
    mlxq_plan *plan = plan_quantize(&request);
    assert_covers(plan, true);
    assert_true(plan->tile_count > 1000000);
    mlxq_plan_free(plan);
    mlxq_weights_free(source);
    mlxq_quant_config_free(config);
  }
}

static void test_jobs_say_what_they_do(void **state) {
  (void)state;
  mlxq_weights *source = new_weights();
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 3, 64);
  describe(source, "a.weight", MLXQ_BF16, SHAPE(4, 128));
  describe(source, "a.bias", MLXQ_BF16, SHAPE(4));
  describe(source, "ids", MLXQ_I32, SHAPE(4));
  mlxq_plan_request request = {.source = source,
                               .config = config,
                               .cast = true,
                               .cast_to = MLXQ_F16,
                               .profile = MLXQ_PROFILE_GPU,
                               .allow_nonfinite = true};
  mlxq_plan *plan = plan_quantize(&request);
  static const char *const NAMES[] = {"a.weight", "a.scales", "a.biases", "a.bias", "ids"};
  assert_names(plan->outputs, NAMES, COUNT(NAMES));
  assert_int_equal(plan->job_count, 3);
  assert_int_equal(plan->profile, MLXQ_PROFILE_GPU);
  assert_true(plan->allow_nonfinite);
  assert_ptr_equal(plan->stored, source);
  const mlxq_job *quantize = &plan->jobs[0], *cast = &plan->jobs[1], *copy = &plan->jobs[2];
  assert_int_equal(quantize->action, MLXQ_ACTION_QUANTIZE);
  assert_int_equal(quantize->dtype, MLXQ_F16);
  assert_int_equal(quantize->units, 8);
  assert_int_equal(quantize->scheme.bits, 3);
  assert_int_equal(quantize->inputs[0].unit_bytes, 128);
  assert_int_equal(quantize->inputs[0].cast_elems, 64);
  assert_int_equal(quantize->inputs[0].cast_from, MLXQ_BF16);
  assert_int_equal(quantize->inputs[0].cast_to, MLXQ_F16);
  assert_int_equal(quantize->outputs[0].unit_bytes, 24);
  assert_int_equal(quantize->outputs[1].unit_bytes, 2);
  assert_int_equal(quantize->outputs[2].unit_bytes, 2);
  assert_int_equal(cast->action, MLXQ_ACTION_COPY);
  assert_int_equal(cast->inputs[0].cast_elems, 1);
  assert_int_equal(cast->units, 4);
  assert_int_equal(copy->action, MLXQ_ACTION_COPY);
  assert_int_equal(copy->inputs[0].cast_elems, 0);
  assert_int_equal(copy->units, 16);
  assert_shape(mlxq_weights_at(plan->outputs, 1), MLXQ_F16, SHAPE(4, 2)); /* scales take the cast */
  mlxq_plan_free(plan);
  mlxq_weights_free(source);
  mlxq_quant_config_free(config);
  mlxq_plan_free(NULL);
}

static void test_casts(void **state) {
  (void)state;
  static const mlxq_dtype TO[] = {MLXQ_F16, MLXQ_BF16, MLXQ_F32};
  for (size_t t = 0; t < COUNT(TO); t++) {
    mlxq_weights *source = new_weights();
    mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
    for (int dtype = 0; dtype < MLXQ_DTYPE_COUNT; dtype++) {
      describe(source, mlxq_dtype_name((mlxq_dtype)dtype), (mlxq_dtype)dtype, SHAPE(8));
    }
    describe(source, "w.weight", MLXQ_F64, SHAPE(2, 64));
    add_triple(source, "q", &(mlxq_scheme){MLXQ_AFFINE, 4, 64}, SHAPE(2, 64));
    mlxq_plan_request request = {.source = source, .config = config, .cast = true, .cast_to = TO[t]};
    mlxq_plan *plan = plan_quantize(&request);
    for (int dtype = 0; dtype < MLXQ_DTYPE_COUNT; dtype++) {
      const mlxq_tensor *found = mlxq_weights_find(plan->outputs, mlxq_dtype_name((mlxq_dtype)dtype));
      assert_int_equal(found->dtype, mlxq_dtype_is_floating((mlxq_dtype)dtype) ? TO[t] : (mlxq_dtype)dtype);
    }
    assert_int_equal(mlxq_weights_find(plan->outputs, "w.scales")->dtype, TO[t]);
    assert_int_equal(mlxq_weights_find(plan->outputs, "w.biases")->dtype, TO[t]);
    /* A triple's scales are floating tensors like others. */
    assert_int_equal(mlxq_weights_find(plan->outputs, "q.scales")->dtype, TO[t]);
    assert_int_equal(mlxq_weights_find(plan->outputs, "q.weight")->dtype, MLXQ_U32);
    assert_covers(plan, true);
    mlxq_plan_free(plan);
    plan = plan_dequantize(&request);
    assert_shape(mlxq_weights_find(plan->outputs, "q.weight"), TO[t], SHAPE(2, 64));
    assert_covers(plan, true);
    mlxq_plan_free(plan);
    mlxq_weights_free(source);
    mlxq_quant_config_free(config);
  }
}

/* Where the result's configuration will describe the triples, they must fit it, as dequantizing demands. */
static void test_triples_must_fit_a_config_that_speaks(void **state) {
  (void)state;
  static const struct {
    mlxq_dtype scales, biases;
    uint64_t words, groups, bias_groups;
    mlxq_status status;
    const char *key;
  } CASES[] = {
      {MLXQ_BF16, MLXQ_BF16, 16, 2, 2, MLXQ_OK, NULL},
      {MLXQ_BF16, MLXQ_BF16, 16, 3, 3, MLXQ_SHAPE_MISMATCH, "q.scales"},
      {MLXQ_BF16, MLXQ_BF16, 15, 2, 2, MLXQ_SHAPE_MISMATCH, "q.scales"},
      {MLXQ_BF16, MLXQ_BF16, 16, 2, 1, MLXQ_SHAPE_MISMATCH, "q.biases"},
      {MLXQ_I32, MLXQ_I32, 16, 2, 2, MLXQ_UNSUPPORTED_DTYPE, "q.scales"},
      {MLXQ_F16, MLXQ_BF16, 16, 2, 2, MLXQ_UNSUPPORTED_DTYPE, "q.biases"},
  };
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  for (size_t i = 0; i < COUNT(CASES); i++) {
    mlxq_weights *source = new_weights();
    describe(source, "q.weight", MLXQ_U32, SHAPE(4, CASES[i].words));
    describe(source, "q.scales", CASES[i].scales, SHAPE(4, CASES[i].groups));
    describe(source, "q.biases", CASES[i].biases, SHAPE(4, CASES[i].bias_groups));
    mlxq_plan_request request = {.source = source, .config = config};
    mlxq_plan_free(plan_quantize(&request));
    request.config_speaks = true;
    if (CASES[i].status == MLXQ_OK) {
      mlxq_plan_free(plan_quantize(&request));
    } else {
      assert_plan_refused(&request, true, CASES[i].status, "q", CASES[i].key);
    }
    mlxq_weights_free(source);
  }
  mlxq_quant_config_free(config);
}

/* Errors tell in which file the tensor is. */
static void test_errors_name_the_file(void **state) {
  (void)state;
  static const mlxq_source_file FILES[] = {{.path = (char *)(uintptr_t) "one"}, {.path = (char *)(uintptr_t) "two"}};
  mlxq_weights *source = new_weights();
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  mlxq_plan *plan = NULL;
  mlxq_error error;
  describe(source, "a.weight", MLXQ_BF16, SHAPE(4, 64));
  assert_int_equal(mlxq_weights_describe(source, "b.weight", 8, MLXQ_F64, SHAPE(4, 64), 1, 0, NULL, NULL), MLXQ_OK);
  mlxq_plan_request request = {.source = source, .config = config, .files = FILES, .for_mlx = true};
  assert_int_equal(mlxq_plan_quantize(&plan, &request, &error), MLXQ_UNSUPPORTED_DTYPE);
  assert_string_equal(error.key, "b.weight");
  assert_string_equal(error.file, "two");
  assert_int_equal(mlxq_plan_dequantize(&plan, &request, &error), MLXQ_UNSUPPORTED_DTYPE);
  assert_string_equal(error.file, "two");
  mlxq_weights_free(source);
  mlxq_quant_config_free(config);
}

/* ---- What MLX loads -------------------------------------------------------------------------------------------- */

static void test_dtypes_for_mlx(void **state) {
  (void)state;
  for (int direction = 0; direction < 2; direction++) {
    for (int d = 0; d < MLXQ_DTYPE_COUNT; d++) {
      mlxq_dtype dtype = (mlxq_dtype)d;
      mlxq_weights *source = new_weights();
      mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
      describe(source, "fine", MLXQ_BF16, SHAPE(1));
      describe(source, "tensor", dtype, SHAPE(2, 4));
      mlxq_plan_request request = {.source = source, .config = config, .for_mlx = true};
      bool refused = dtype == MLXQ_F64 || dtype == MLXQ_F8_E5M2 || dtype == MLXQ_F4 || dtype == MLXQ_F6_E2M3 ||
                     dtype == MLXQ_F6_E3M2;
      if (refused) {
        assert_plan_refused(&request, direction, MLXQ_UNSUPPORTED_DTYPE, "", "tensor");
      } else {
        mlxq_plan *plan = direction ? plan_quantize(&request) : plan_dequantize(&request);
        bool bytes = dtype == MLXQ_F8_E4M3 || dtype == MLXQ_F8_E8M0;
        assert_shape(mlxq_weights_find(plan->outputs, "tensor"), bytes ? MLXQ_U8 : dtype, SHAPE(2, 4));
        assert_covers(plan, true);
        mlxq_plan_free(plan);
      }
      /* In memory everything passes as it is. */
      request.for_mlx = false;
      mlxq_plan *plan = direction ? plan_quantize(&request) : plan_dequantize(&request);
      assert_int_equal(mlxq_weights_find(plan->outputs, "tensor")->dtype, dtype);
      mlxq_plan_free(plan);
      mlxq_weights_free(source);
      mlxq_quant_config_free(config);
    }
  }
}

static void test_float64_for_mlx(void **state) {
  (void)state;
  mlxq_weights *source = new_weights();
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  describe(source, "a.weight", MLXQ_F64, SHAPE(2, 64));
  describe(source, "b", MLXQ_F64, SHAPE(2, 64));
  mlxq_plan_request request = {.source = source, .config = config, .for_mlx = true};
  assert_plan_refused(&request, true, MLXQ_UNSUPPORTED_DTYPE, "a", "a.weight");
  request.cast = true;
  request.cast_to = MLXQ_BF16;
  mlxq_plan *plan = plan_quantize(&request);
  assert_int_equal(mlxq_weights_find(plan->outputs, "b")->dtype, MLXQ_BF16);
  assert_int_equal(mlxq_weights_find(plan->outputs, "a.scales")->dtype, MLXQ_BF16);
  mlxq_plan_free(plan);
  mlxq_weights_free(source);
  mlxq_quant_config_free(config);
}

/* MLX keeps dimensions in 32 bits: 2^32 + 2 would become 2. */
static void test_large_dimensions_for_mlx(void **state) {
  (void)state;
  static const uint64_t LARGE[] = {(uint64_t)INT32_MAX + 1, UINT64_C(1) << 32, (UINT64_C(1) << 32) + 2};
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  for (size_t i = 0; i < COUNT(LARGE); i++) {
    for (int first = 0; first < 2; first++) {
      mlxq_weights *source = new_weights();
      uint64_t shape[2] = {first ? LARGE[i] : 3, first ? 3 : LARGE[i]};
      describe(source, "large", MLXQ_U8, 2, shape);
      mlxq_plan_request request = {.source = source, .config = config, .for_mlx = true};
      assert_plan_refused(&request, true, MLXQ_OUT_OF_RANGE, "", "large");
      assert_plan_refused(&request, false, MLXQ_OUT_OF_RANGE, "", "large");
      request.for_mlx = false;
      mlxq_plan_free(plan_quantize(&request));
      mlxq_weights_free(source);
    }
  }
  mlxq_weights *source = new_weights();
  describe(source, "largest", MLXQ_U8, SHAPE(INT32_MAX, 2));
  mlxq_plan_request request = {.source = source, .config = config, .for_mlx = true};
  mlxq_plan_free(plan_quantize(&request));
  mlxq_weights_free(source);
  mlxq_quant_config_free(config);
}

/* Quantized and dequantized tensors are loaded by MLX too. */
static void test_large_dimensions_of_what_is_quantized(void **state) {
  (void)state;
  mlxq_weights *source = new_weights();
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  describe(source, "a.weight", MLXQ_BF16, SHAPE(UINT64_C(1) << 32, 64));
  mlxq_plan_request request = {.source = source, .config = config, .for_mlx = true};
  assert_plan_refused(&request, true, MLXQ_OUT_OF_RANGE, "a", "a.weight");
  mlxq_weights_free(source);
  mlxq_quant_config_free(config);
}

static void test_large_dimensions_of_what_is_dequantized(void **state) {
  (void)state;
  mlxq_weights *source = new_weights();
  mlxq_quant_config *config = config_of(MLXQ_MXFP4, 4, 32);
  describe(source, "a.weight", MLXQ_U32, SHAPE(1, UINT64_C(1) << 29)); /* dense: 2^32 */
  describe(source, "a.scales", MLXQ_U8, SHAPE(1, UINT64_C(1) << 27));
  mlxq_plan_request request = {.source = source, .config = config, .for_mlx = true, .scale_only_dtype = MLXQ_BF16};
  assert_plan_refused(&request, false, MLXQ_OUT_OF_RANGE, "a", "a.weight");
  mlxq_weights_free(source);
  mlxq_quant_config_free(config);
}

typedef struct warnings {
  size_t count;
  char last[512];
} warnings;

static void count_warning(void *user, const char *message) {
  warnings *seen = user;
  seen->count++;
  snprintf(seen->last, sizeof seen->last, "%s", message);
}

static void test_integer_weights_for_mlx(void **state) {
  (void)state;
  static const mlxq_dtype DTYPES[] = {MLXQ_I8, MLXQ_U32, MLXQ_I64, MLXQ_BOOL, MLXQ_F8_E4M3};
  for (size_t i = 0; i < COUNT(DTYPES); i++) {
    warnings seen = {0};
    mlxq_weights *source = new_weights();
    mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
    describe(source, "model.ids.weight", DTYPES[i], SHAPE(2, 64));
    describe(source, "model.odd.weight", DTYPES[i], SHAPE(2, 63));
    mlxq_plan_request request = {
        .source = source, .config = config, .for_mlx = true, .warn = count_warning, .warn_user = &seen};
    mlxq_plan *plan = plan_quantize(&request);
    assert_int_equal(seen.count, 1);
    assert_non_null(strstr(seen.last, "model.ids.weight"));
    assert_null(strchr(seen.last, '\n'));
    assert_int_equal(plan->outputs->count, 2);
    mlxq_plan_free(plan);
    request.warn = NULL;
    mlxq_plan_free(plan_quantize(&request));
    request.for_mlx = false;
    assert_plan_refused(&request, true, MLXQ_UNSUPPORTED_DTYPE, "model.ids", "model.ids.weight");
    mlxq_weights_free(source);
    mlxq_quant_config_free(config);
  }
}

/* ---- Files ----------------------------------------------------------------------------------------------------- */

/* A plan that copies tensors of these many bytes. */
static mlxq_plan *plan_of_sizes(mlxq_weights *source, const uint64_t *sizes, size_t count) {
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  for (size_t i = 0; i < count; i++) {
    char name[32];
    snprintf(name, sizeof name, "t%zu", i);
    describe(source, name, i % 3 ? MLXQ_U8 : MLXQ_I8, SHAPE(sizes[i]));
  }
  mlxq_plan_request request = {.source = source, .config = config};
  mlxq_plan *plan = plan_quantize(&request);
  mlxq_quant_config_free(config);
  return plan;
}

/* mlx-lm's make_shards: `shards[i]` is the file of tensor i; returns how many there are. */
static size_t make_shards(size_t *shards, const uint64_t *sizes, size_t count, uint64_t limit) {
  size_t made = 0;
  uint64_t shard_size = 0;
  for (size_t i = 0; i < count; i++) {
    if (made == 0 || shard_size + sizes[i] > limit) {
      made++;
      shard_size = 0;
    }
    shards[i] = made - 1;
    shard_size += sizes[i];
  }
  return made;
}

/* Offsets are contiguous behind the header, in alignment order, and the file ends with the last tensor. */
static void assert_placed(mlxq_plan *plan) {
  size_t next = 0;
  for (size_t i = 0; i < plan->file_count; i++) {
    const mlxq_plan_file *file = &plan->files[i];
    char *header = NULL;
    size_t header_bytes = 0;
    uint64_t file_bytes = 0;
    assert_int_equal(file->first, next);
    next += file->count;
    uint64_t offset = 0;
    for (size_t k = file->first; k < next; k++) {
      const mlxq_tensor_entry *entry = &plan->outputs->entries[plan->file_order[k]];
      assert_int_equal(entry->file, i);
      if (k > file->first) assert_int_equal(entry->offset, offset);
      if (k == file->first) assert_int_equal(entry->offset % 8, 0);
      offset = entry->offset + entry->tensor.bytes;
    }
    if (file->count > 0) assert_int_equal(offset, file->bytes);
    /* The header is made again when the file is created: it must say the same. */
    uint64_t first_offset = file->count ? plan->outputs->entries[plan->file_order[file->first]].offset : file->bytes;
    assert_int_equal(mlxq_safetensors_layout(plan->outputs, (uint32_t)i, plan->file_order + file->first, file->count,
                                             &header, &header_bytes, &file_bytes, NULL),
                     MLXQ_OK);
    assert_int_equal(header_bytes, first_offset);
    assert_int_equal(file_bytes, file->bytes);
    free(header);
  }
  assert_int_equal(next, plan->outputs->count);
}

static void assert_sharded(const uint64_t *sizes, size_t count, uint64_t limit) {
  size_t *shards = malloc((count + 1) * sizeof *shards);
  assert_non_null(shards);
  size_t expected = make_shards(shards, sizes, count, limit);
  mlxq_weights *source = new_weights();
  mlxq_plan *plan = plan_of_sizes(source, sizes, count);
  assert_int_equal(mlxq_plan_layout(plan, limit, NULL, NULL), MLXQ_OK);
  if (plan->file_count != expected) fail_msg("%zu files, not %zu", plan->file_count, expected);
  for (size_t i = 0; i < count; i++) assert_int_equal(plan->outputs->entries[i].file, shards[i]);
  for (size_t i = 0; i < expected; i++) {
    char name[64] = "model.safetensors";
    if (expected > 1) snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, expected);
    assert_string_equal(plan->files[i].name, name);
  }
  assert_placed(plan);
  mlxq_plan_free(plan);
  mlxq_weights_free(source);
  free(shards);
}

static void test_shards_by_hand(void **state) {
  (void)state;
  static const struct {
    uint64_t limit;
    size_t count;
    uint64_t sizes[6];
  } CASES[] = {
      {10, 1, {10}},
      {10, 1, {11}},
      {10, 2, {5, 5}},
      {10, 2, {5, 6}},
      {10, 3, {11, 1, 9}},
      {10, 3, {11, 1, 10}},
      {10, 3, {1, 11, 1}},
      {10, 4, {20, 20, 20, 20}},
      {10, 6, {3, 3, 3, 3, 3, 3}},
      {10, 6, {10, 10, 0, 10, 0, 1}},
      {10, 3, {0, 0, 10}},
      {1, 3, {1, 1, 1}},
      {UINT64_MAX, 3, {1, 2, 3}},
      {UINT64_C(5) << 30, 3, {UINT64_C(5) << 30, 1, UINT64_C(5) << 30}},
      {UINT64_C(5) << 30, 3, {(UINT64_C(5) << 30) - 1, 1, 1}},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) assert_sharded(CASES[i].sizes, CASES[i].count, CASES[i].limit);
}

static void test_shards_at_random(void **state) {
  (void)state;
  seed_random(103);
  for (int round = 0; round < 2000; round++) {
    uint64_t sizes[40], limit = random_below(100) + 1;
    size_t count = (size_t)random_below(COUNT(sizes)) + 1;
    for (size_t i = 0; i < count; i++) sizes[i] = random_below(limit + limit / 4 + 1) + 1;
    assert_sharded(sizes, count, limit);
  }
}

/* A shard that a large tensor overfills takes nothing more, an empty tensor included. */
static void test_an_empty_tensor_behind_a_large_one(void **state) {
  (void)state;
  static const uint64_t SIZES[] = {11, 0, 10};
  assert_sharded(SIZES, COUNT(SIZES), 10);
}

static void test_a_single_file(void **state) {
  (void)state;
  static const uint64_t SIZES[] = {10, 20, 0, 30, UINT64_C(1) << 40};
  mlxq_weights *source = new_weights();
  mlxq_plan *plan = plan_of_sizes(source, SIZES, COUNT(SIZES));
  assert_int_equal(mlxq_plan_layout(plan, 1, "out.safetensors", NULL), MLXQ_OK);
  assert_int_equal(plan->file_count, 1);
  assert_string_equal(plan->files[0].name, "out.safetensors");
  assert_placed(plan);
  mlxq_plan_free(plan);
  mlxq_weights_free(source);
}

static void test_no_tensors_are_one_file(void **state) {
  (void)state;
  for (int single = 0; single < 2; single++) {
    mlxq_weights *source = new_weights();
    mlxq_plan *plan = plan_of_sizes(source, NULL, 0);
    assert_int_equal(plan->tile_count, 0);
    assert_int_equal(mlxq_plan_layout(plan, 10, single ? "x.safetensors" : NULL, NULL), MLXQ_OK);
    assert_int_equal(plan->file_count, 1);
    assert_string_equal(plan->files[0].name, single ? "x.safetensors" : "model.safetensors");
    assert_placed(plan);
    mlxq_plan_free(plan);
    mlxq_weights_free(source);
  }
}

/* Tensors of mixed widths, and the order that keeps each aligned. */
static void test_tensors_are_aligned(void **state) {
  (void)state;
  seed_random(104);
  for (int round = 0; round < 100; round++) {
    mlxq_weights *source = new_weights();
    mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
    for (size_t i = 0; i < 30; i++) {
      char name[32];
      snprintf(name, sizeof name, "%c%zu", (char)('a' + random_below(26)), i);
      describe(source, name, (mlxq_dtype)random_below(MLXQ_F8_E5M2), SHAPE(random_below(9), random_below(9)));
    }
    mlxq_plan_request request = {.source = source, .config = config};
    mlxq_plan *plan = plan_quantize(&request);
    assert_int_equal(mlxq_plan_layout(plan, 300, NULL, NULL), MLXQ_OK);
    assert_placed(plan);
    for (size_t i = 0; i < plan->outputs->count; i++) {
      const mlxq_tensor_entry *entry = &plan->outputs->entries[i];
      assert_int_equal(entry->offset % (mlxq_dtype_bits(entry->tensor.dtype) / 8), 0);
    }
    mlxq_plan_free(plan);
    mlxq_weights_free(source);
    mlxq_quant_config_free(config);
  }
}

static void test_a_name_that_cannot_be_written(void **state) {
  (void)state;
  mlxq_weights *source = new_weights();
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  mlxq_error error;
  describe(source, "fine", MLXQ_U8, SHAPE(9));
  describe(source, "__metadata__", MLXQ_U8, SHAPE(9));
  mlxq_plan_request request = {.source = source, .config = config};
  mlxq_plan *plan = plan_quantize(&request);
  assert_int_equal(mlxq_plan_layout(plan, 10, NULL, &error), MLXQ_UNSUPPORTED);
  assert_string_equal(error.key, "__metadata__");
  assert_string_equal(error.file, "model-00002-of-00002.safetensors");
  mlxq_plan_free(plan);
  mlxq_weights_free(source);
  mlxq_quant_config_free(config);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_quantize_covers_any_shapes),
      cmocka_unit_test(test_dequantize_covers_any_shapes),
      cmocka_unit_test(test_huge_tensors_keep_small_tiles),
      cmocka_unit_test(test_jobs_say_what_they_do),
      cmocka_unit_test(test_casts),
      cmocka_unit_test(test_triples_must_fit_a_config_that_speaks),
      cmocka_unit_test(test_errors_name_the_file),
      cmocka_unit_test(test_dtypes_for_mlx),
      cmocka_unit_test(test_float64_for_mlx),
      cmocka_unit_test(test_large_dimensions_for_mlx),
      cmocka_unit_test(test_large_dimensions_of_what_is_quantized),
      cmocka_unit_test(test_large_dimensions_of_what_is_dequantized),
      cmocka_unit_test(test_integer_weights_for_mlx),
      cmocka_unit_test(test_shards_by_hand),
      cmocka_unit_test(test_shards_at_random),
      cmocka_unit_test(test_an_empty_tensor_behind_a_large_one),
      cmocka_unit_test(test_a_single_file),
      cmocka_unit_test(test_no_tensors_are_one_file),
      cmocka_unit_test(test_tensors_are_aligned),
      cmocka_unit_test(test_a_name_that_cannot_be_written),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
