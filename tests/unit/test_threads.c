/* What the headers promise threads: calls at once, on maps and configurations that nobody changes, from one source, to
 * destinations of their own or to one. Only public calls; ThreadSanitizer looks on in `make test-long`. */
#include "helpers.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

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

/* ---- The first calls ------------------------------------------------------------------------------------------- */

static void *fill_a_map(void *argument) {
  caller *c = argument;
  mlxq_weights *weights = NULL;
  pthread_barrier_wait(c->start);
  c->status = mlxq_weights_new(&weights, &c->error);
  if (c->status == MLXQ_OK) c->status = mlxq_weights_add_copy(weights, "a", MLXQ_U8, SHAPE(1), "x", &c->error);
  c->different = c->status == MLXQ_OK && !mlxq_weights_find(weights, "a");
  mlxq_weights_free(weights);
  return NULL;
}

/* Before anything else: the key of hashes is drawn by all at once. */
static void test_first_maps_at_once(void **state) {
  caller callers[CALLERS] = {{0}};
  (void)state;
  run_callers(callers, fill_a_map);
  assert_done(callers);
  for (size_t i = 0; i < CALLERS; i++) assert_int_equal(callers[i].different, 0);
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

/* The first test that runs kernels, so that their tables are chosen by all at once, too. */
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

/* ---- Two workers of one call ----------------------------------------------------------------------------------- */

/* Has the workers of a call with two threads wait for each other, each with a tile before it, so that neither makes all
 * tiles, and both change what they share. Relaxed atomics: any order that these gave, ThreadSanitizer would take for
 * one that the library gives. */
typedef struct meeting {
  pthread_t calling;
  bool in_second_half;       /* of the progress, rather than at the start */
  bool running;              /* the calling thread has made a tile: earlier polls may be of planning */
  bool cancels[2];           /* what the calling thread and the other then answer */
  atomic_bool open, here[2]; /* whoever polls is to wait; has come */
} meeting;

static meeting new_meeting(bool calling_cancels, bool other_cancels) {
  return (meeting){.calling = pthread_self(), .cancels = {calling_cancels, other_cancels}, .open = true};
}

static void note_progress(void *user, uint64_t done, uint64_t total) {
  meeting *m = user;
  uint64_t start = m->in_second_half ? total / 2 : 0;
  if (done >= start) atomic_store_explicit(&m->open, true, memory_order_relaxed);
  if (done > start) m->running = true;
}

static bool meet(void *user) {
  enum { TRIES = 30000 };
  meeting *m = user;
  const bool other = !pthread_equal(m->calling, pthread_self());
  if (other ? !atomic_load_explicit(&m->open, memory_order_relaxed) : !m->running) return false;
  atomic_store_explicit(&m->here[other], true, memory_order_relaxed);
  for (int i = 0; i < TRIES && !atomic_load_explicit(&m->here[!other], memory_order_relaxed); i++) {
    nanosleep(&(struct timespec){0, 1000000}, NULL);
  }
  return m->cancels[other];
}

static void assert_met(meeting *m) {
  assert_true(atomic_load(&m->here[0]) && atomic_load(&m->here[1]));
}

/* A model with `layers` layers of `rows` x 64 elements. */
static const char *write_model(const void *folder, int layers, uint64_t rows) {
  const char *path = path_in(folder, "src");
  mlxq_weights *weights = new_weights();
  make_folder(path);
  write_text(path_in(path, "config.json"), "{\"model_type\": \"llama\", \"tie_word_embeddings\": false}");
  seed_random(902);
  for (int i = 0; i < layers; i++) {
    char name[64];
    snprintf(name, sizeof name, "model.layers.%d.mlp.up_proj.weight", i);
    add_random(weights, name, MLXQ_F32, SHAPE(rows, 64));
  }
  write_safetensors(path_in(path, "model.safetensors"), weights);
  mlxq_weights_free(weights);
  return path;
}

static mlxq_quantize_options meet_while_quantizing(meeting *m) {
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  options.common.threads = 2;
  options.common.progress = note_progress;
  options.common.cancelled = meet;
  options.common.user = m;
  return options;
}

/* Both, or the one that does not call: the other then learns that it has to stop. */
static void test_workers_that_fail(void **state) {
  const char *source = write_model(*state, 64, 4);
  for (int calling_cancels = 0; calling_cancels < 2; calling_cancels++) {
    mlxq_error error;
    meeting m = new_meeting(calling_cancels, true);
    mlxq_quantize_options options = meet_while_quantizing(&m);
    assert_int_equal(mlxq_quantize_checkpoint(NULL, source, path_in(*state, "out"), &options, &error), MLXQ_CANCELLED);
    assert_error(&error, MLXQ_CANCELLED, "", "");
    assert_met(&m);
    assert_int_equal(entries_in(*state), 1);
  }
}

/* Each of them finishes files, which the journal is told. */
static void test_workers_that_finish_files(void **state) {
  mlxq_error error;
  meeting m = new_meeting(false, false);
  mlxq_quantize_options options = meet_while_quantizing(&m);
  const char *source = write_model(*state, 4, 4);
  options.common.max_shard_bytes = 1;
  if (mlxq_quantize_checkpoint(NULL, source, path_in(*state, "out"), &options, &error) != MLXQ_OK) {
    fail_msg("%s", error.message);
  }
  assert_met(&m);
  assert_int_equal(entries_in(path_in(*state, "out")), 3 * 4 + 3); /* with config.json, README.md, the index */
}

/* Tiles of one tensor, each with something to tell. */
enum { LARGE_ROWS = 5 << 20 >> 8 };

static void verify_together(meeting *m, mlxq_verification **report, const char *path, const char *against) {
  mlxq_error error;
  mlxq_verify_options options = MLXQ_VERIFY_OPTIONS_INIT;
  options.threads = 2;
  options.against = against;
  options.progress = note_progress;
  options.cancelled = meet;
  options.user = m;
  if (mlxq_verify(report, path, &options, &error) != MLXQ_OK) fail_msg("%s", error.message);
  assert_met(m);
}

static void test_workers_that_find_nan(void **state) {
  const uint32_t nan = 0x7FC00000;
  const char *path = path_in(*state, "src.safetensors");
  mlxq_verification *report = NULL;
  mlxq_weights *weights = new_weights();
  meeting m = new_meeting(false, false);
  seed_random(903);
  add_random(weights, "a.weight", MLXQ_F32, SHAPE(LARGE_ROWS, 64));
  for (size_t row = 9; row < LARGE_ROWS; row += 10) memcpy(bytes_of(weights, "a.weight") + row * 256, &nan, 4);
  write_safetensors(path, weights);
  mlxq_weights_free(weights);
  verify_together(&m, &report, path, NULL);
  assert_int_equal(report->defects_found, 1);
  assert_string_equal(report->defects[0].message, "2048 of 1310720 elements are NaN or infinite; the first is 576");
  mlxq_verification_free(report);
}

static void test_workers_that_find_differences(void **state) {
  mlxq_error error;
  mlxq_verification *report = NULL;
  mlxq_weights *weights = new_weights();
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  meeting m = new_meeting(false, false);
  const char *source = path_in(*state, "src.safetensors"), *packed = path_in(*state, "out.safetensors");
  seed_random(904);
  add_random(weights, "a.weight", MLXQ_F32, SHAPE(LARGE_ROWS, 64));
  write_safetensors(source, weights);
  if (mlxq_quantize_checkpoint(NULL, source, packed, &options, &error) != MLXQ_OK) fail_msg("%s", error.message);
  mlxq_weights *changed = read_safetensors(packed);
  for (size_t row = 9; row < LARGE_ROWS; row += 10) bytes_of(changed, "a.weight")[row * 32] ^= 1;
  write_safetensors(packed, changed);
  mlxq_weights_free(changed);
  mlxq_weights_free(weights);
  m.in_second_half = true; /* the first reads the data, the second compares */
  m.open = false;
  verify_together(&m, &report, packed, source);
  assert_non_null(report->comparison);
  assert_int_equal(report->comparison->elems_different, 2048);
  assert_int_equal(report->comparison->tensors_different, 1);
  mlxq_verification_free(report);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_first_maps_at_once),
      cmocka_unit_test_setup_teardown(test_conversions_at_once, make_scratch, remove_scratch),
      cmocka_unit_test_setup_teardown(test_one_destination, make_scratch, remove_scratch),
      cmocka_unit_test_setup_teardown(test_cancelled_by_a_worker, make_scratch, remove_scratch),
      cmocka_unit_test(test_shared_objects),
      cmocka_unit_test_setup_teardown(test_workers_that_fail, make_scratch, remove_scratch),
      cmocka_unit_test_setup_teardown(test_workers_that_finish_files, make_scratch, remove_scratch),
      cmocka_unit_test_setup_teardown(test_workers_that_find_nan, make_scratch, remove_scratch),
      cmocka_unit_test_setup_teardown(test_workers_that_find_differences, make_scratch, remove_scratch),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
