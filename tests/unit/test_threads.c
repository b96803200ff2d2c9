/* What the headers promise threads: calls at once, on maps and configurations that nobody changes, from one source, to
 * destinations of their own or to one. Only public calls; ThreadSanitizer looks on in `make test-long`. */
#include "helpers.h"

#include <pthread.h>
#include <stdatomic.h>

enum { CALLERS = 6 };

/* What one thread is given, and what it leaves for the main thread to judge: cmocka's assertions are not for others. */
typedef struct caller {
  pthread_barrier_t *start;
  const char *source, *destination, *restored;
  const mlxq_weights *weights;
  const mlxq_quant_config *config;
  mlxq_status status;
  mlxq_error error;
  uint64_t defects, different;
  mlxq_weights *packed, *dense;
  char *json;
} caller;

static void run_callers(caller *callers, void *(*run)(void *)) {
  pthread_t threads[CALLERS];
  pthread_barrier_t start;
  assert_int_equal(pthread_barrier_init(&start, NULL, CALLERS), 0);
  for (size_t i = 0; i < CALLERS; i++) {
    callers[i].start = &start;
    assert_int_equal(pthread_create(&threads[i], NULL, run, &callers[i]), 0);
  }
  for (size_t i = 0; i < CALLERS; i++) assert_int_equal(pthread_join(threads[i], NULL), 0);
  pthread_barrier_destroy(&start);
}

static void assert_done(const caller *callers) {
  for (size_t i = 0; i < CALLERS; i++) {
    if (callers[i].status != MLXQ_OK) fail_msg("caller %zu: %s", i, callers[i].error.message);
  }
}

static mlxq_weights *dense_weights(void) {
  mlxq_weights *weights = new_weights();
  seed_random(901);
  for (int i = 0; i < 4; i++) {
    char name[64];
    snprintf(name, sizeof name, "model.layers.%d.up_proj.weight", i);
    add_random(weights, name, i % 2 ? MLXQ_F32 : MLXQ_BF16, SHAPE(64, 256));
  }
  add_random(weights, "model.norm.weight", MLXQ_BF16, SHAPE(256));
  return weights;
}

/* A single file, so that the tests need no family. */
static const char *write_source(const void *folder) {
  const char *path = path_in(folder, "src.safetensors");
  mlxq_weights *weights = dense_weights();
  write_safetensors(path, weights);
  mlxq_weights_free(weights);
  return path;
}

static void assert_same_files(const char *path, const char *expected) {
  mlxq_weights *one = read_safetensors(path), *other = read_safetensors(expected);
  assert_same_weights(one, other);
  mlxq_weights_free(one);
  mlxq_weights_free(other);
}

/* ---- Files ----------------------------------------------------------------------------------------------------- */

/* Quantizes, inspects, verifies, and dequantizes. */
static void *convert(void *argument) {
  caller *c = argument;
  mlxq_quantize_options quantize = MLXQ_QUANTIZE_OPTIONS_INIT;
  mlxq_dequantize_options dequantize = MLXQ_DEQUANTIZE_OPTIONS_INIT;
  mlxq_verify_options verify = MLXQ_VERIFY_OPTIONS_INIT;
  mlxq_scheme scheme = mlxq_scheme_default(MLXQ_AFFINE);
  mlxq_report *report = NULL;
  mlxq_verification *verification = NULL;
  quantize.common.threads = 2;
  quantize.stats = true;
  dequantize.common.threads = 2;
  dequantize.scheme = &scheme;
  verify.threads = 2;
  verify.against = c->source;
  pthread_barrier_wait(c->start);
  c->status = mlxq_quantize_checkpoint(NULL, c->source, c->destination, &quantize, &c->error);
  if (c->status == MLXQ_OK) c->status = mlxq_inspect(&report, c->destination, &c->error);
  if (c->status == MLXQ_OK) c->status = mlxq_verify(&verification, c->destination, &verify, &c->error);
  if (c->status == MLXQ_OK) {
    c->defects = verification->defects_found;
    c->status = mlxq_dequantize_checkpoint(NULL, c->destination, c->restored, &dequantize, &c->error);
  }
  mlxq_report_free(report);
  mlxq_verification_free(verification);
  return NULL;
}

/* The first test, so that the tables of kernels are chosen by all at once, too. */
static void test_conversions_at_once(void **state) {
  caller callers[CALLERS] = {{0}};
  const char *source = write_source(*state);
  for (size_t i = 0; i < CALLERS; i++) {
    callers[i].source = source;
    callers[i].destination = path_in(*state, "out-%zu.safetensors", i);
    callers[i].restored = path_in(*state, "back-%zu.safetensors", i);
  }
  run_callers(callers, convert);
  assert_done(callers);
  for (size_t i = 0; i < CALLERS; i++) {
    assert_int_equal(callers[i].defects, 0);
    assert_same_files(callers[i].destination, callers[0].destination);
    assert_same_files(callers[i].restored, callers[0].restored);
  }
}

static void *quantize_alone(void *argument) {
  caller *c = argument;
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  options.common.threads = 2;
  pthread_barrier_wait(c->start);
  c->status = mlxq_quantize_checkpoint(NULL, c->source, c->destination, &options, &c->error);
  return NULL;
}

static void test_one_destination(void **state) {
  caller callers[CALLERS] = {{0}};
  const char *source = write_source(*state), *destination = path_in(*state, "out.safetensors");
  size_t done = 0;
  for (size_t i = 0; i < CALLERS; i++) {
    callers[i].source = source;
    callers[i].destination = destination;
  }
  run_callers(callers, quantize_alone);
  for (size_t i = 0; i < CALLERS; i++) {
    mlxq_status status = callers[i].status;
    done += status == MLXQ_OK;
    if (status != MLXQ_OK && status != MLXQ_BUSY && status != MLXQ_EXISTS) fail_msg("%s", callers[i].error.message);
  }
  assert_int_equal(done, 1);
  assert_int_equal(entries_in(*state), 2);
}

static bool is_third_poll(void *user) {
  return atomic_fetch_add((atomic_int *)user, 1) >= 2;
}

static void *cancel(void *argument) {
  caller *c = argument;
  atomic_int polls = 0;
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  options.common.threads = 3;
  options.common.cancelled = is_third_poll;
  options.common.user = &polls;
  pthread_barrier_wait(c->start);
  c->status = mlxq_quantize_checkpoint(NULL, c->source, c->destination, &options, &c->error);
  return NULL;
}

static void test_cancelled_by_a_worker(void **state) {
  caller callers[CALLERS] = {{0}};
  const char *source = write_source(*state);
  for (size_t i = 0; i < CALLERS; i++) {
    callers[i].source = source;
    callers[i].destination = path_in(*state, "out-%zu.safetensors", i);
  }
  run_callers(callers, cancel);
  for (size_t i = 0; i < CALLERS; i++) assert_int_equal(callers[i].status, MLXQ_CANCELLED);
  assert_int_equal(entries_in(*state), 1);
}

/* ---- Objects that are only read -------------------------------------------------------------------------------- */

static void *transform(void *argument) {
  caller *c = argument;
  mlxq_transform_options options = MLXQ_TRANSFORM_OPTIONS_INIT;
  options.threads = 2;
  pthread_barrier_wait(c->start);
  for (size_t i = 0; i < mlxq_weights_count(c->weights); i++) {
    const mlxq_tensor *tensor = mlxq_weights_at(c->weights, i);
    c->different += mlxq_weights_find(c->weights, tensor->name) != tensor;
    c->different += mlxq_quant_config_lookup(c->config, tensor->name) == NULL;
  }
  c->status = mlxq_quant_config_to_json(&c->json, c->config, &c->error);
  if (c->status != MLXQ_OK) return NULL;
  c->status = mlxq_quantize_weights(&c->packed, c->weights, c->config, NULL, NULL, &options, &c->error);
  if (c->status != MLXQ_OK) return NULL;
  c->status = mlxq_dequantize_weights(&c->dense, c->packed, c->config, &options, &c->error);
  return NULL;
}

static void test_shared_objects(void **state) {
  caller callers[CALLERS] = {{0}};
  mlxq_weights *weights = dense_weights();
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  mlxq_layer_option option = {.kind = MLXQ_LAYER_SCHEME, .scheme = {MLXQ_AFFINE, 8, 32}};
  (void)state;
  assert_int_equal(mlxq_quant_config_set_layer(config, "model.layers.1.up_proj", &option, NULL), MLXQ_OK);
  for (size_t i = 0; i < CALLERS; i++) {
    callers[i].weights = weights;
    callers[i].config = config;
  }
  run_callers(callers, transform);
  assert_done(callers);
  for (size_t i = 0; i < CALLERS; i++) {
    assert_int_equal(callers[i].different, 0);
    assert_string_equal(callers[i].json, callers[0].json);
    assert_same_weights(callers[i].packed, callers[0].packed);
    assert_same_weights(callers[i].dense, callers[0].dense);
  }
  for (size_t i = 0; i < CALLERS; i++) {
    mlxq_free(callers[i].json);
    mlxq_weights_free(callers[i].packed);
    mlxq_weights_free(callers[i].dense);
  }
  mlxq_quant_config_free(config);
  mlxq_weights_free(weights);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_conversions_at_once, make_scratch, remove_scratch),
      cmocka_unit_test_setup_teardown(test_one_destination, make_scratch, remove_scratch),
      cmocka_unit_test_setup_teardown(test_cancelled_by_a_worker, make_scratch, remove_scratch),
      cmocka_unit_test(test_shared_objects),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
