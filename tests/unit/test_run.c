/* run.c and worker.c: plans run from files into files give the bytes that memory gives, for any number of threads; what
 * stops a run, and which of several errors is told. */
#include "run/run.h"

#include "base/error.h"
#include "checkpoint/report.h"
#include "helpers.h"
#include "run/publish.h"
#include "run/stats.h"
#include "run/worker.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

/* ---- Helpers --------------------------------------------------------------------------------------------------- */

/* One conversion from a checkpoint on disk into a working folder beside it. */
typedef struct job_on_disk {
  const char *folder; /* scratch */
  mlxq_checkpoint *checkpoint;
  mlxq_quant_config *config;
  mlxq_plan *plan;
  mlxq_staging staging;
  mlxq_run_request request;
} job_on_disk;

/* Opens FOLDER/src and plans it. */
static job_on_disk open_job(const void *folder, mlxq_quant_config *config, bool quantize, uint64_t shard_bytes) {
  job_on_disk job = {.folder = folder, .config = config};
  mlxq_error error;
  if (mlxq_checkpoint_open(&job.checkpoint, path_in(folder, "src"), &error) != MLXQ_OK) {
    fail_msg("%s: %s: %s", error.file, error.key, error.message);
  }
  mlxq_plan_request request = {.source = job.checkpoint->tensors, .config = config, .scale_only_dtype = MLXQ_BF16};
  mlxq_status status =
      quantize ? mlxq_plan_quantize(&job.plan, &request, &error) : mlxq_plan_dequantize(&job.plan, &request, &error);
  if (status != MLXQ_OK) fail_msg("%s: %s", error.key, error.message);
  assert_int_equal(mlxq_plan_layout(job.plan, shard_bytes, NULL, NULL), MLXQ_OK);
  return job;
}

/* Makes the empty files, again for each run. */
static void prepare(job_on_disk *job) {
  assert_int_equal(mlxq_staging_check(&job->staging, path_in(job->folder, "src"), path_in(job->folder, "out"), true,
                                      false, false, false, NULL),
                   MLXQ_OK);
  assert_int_equal(mlxq_staging_create(&job->staging, NULL), MLXQ_OK);
  assert_int_equal(mlxq_staging_create_files(&job->staging, job->plan, NULL, NULL), MLXQ_OK);
  job->request = (mlxq_run_request){.plan = job->plan,
                                    .source_files = job->checkpoint->files,
                                    .sink_folder = job->staging.folder,
                                    .isa = MLXQ_ISA_COUNT};
}

static void close_job(job_on_disk *job) {
  mlxq_plan_free(job->plan);
  mlxq_quant_config_free(job->config);
  mlxq_checkpoint_free(job->checkpoint);
}

/* What the files in the working folder hold, in the order of `expected`. */
static void assert_written(const job_on_disk *job, const mlxq_weights *expected) {
  size_t found = 0;
  for (size_t i = 0; i < job->plan->file_count; i++) {
    mlxq_weights *weights = read_safetensors(path_in(job->staging.folder, "%s", job->plan->files[i].name));
    for (size_t k = 0; k < mlxq_weights_count(weights); k++, found++) {
      const mlxq_tensor *tensor = mlxq_weights_at(weights, k);
      assert_same_tensor(tensor, mlxq_weights_find(expected, tensor->name));
    }
    mlxq_weights_free(weights);
  }
  assert_int_equal(found, mlxq_weights_count(expected));
}

static void make_source(const void *folder) {
  make_folder(path_in(folder, "src"));
  write_text(path_in(folder, "src/config.json"), "{}");
}

/* Writes maps as the shards of FOLDER/src, and gives all their tensors as one map, in the order of opening. */
static mlxq_weights *write_shards(const void *folder, mlxq_weights **shards, size_t count) {
  mlxq_weights *all = new_weights();
  for (size_t i = 0; i < count; i++) {
    const char *path = path_in(folder, "src/model-%05zu-of-%05zu.safetensors", i + 1, count);
    write_safetensors(path, shards[i]);
    mlxq_weights *written = read_safetensors(path);
    for (size_t k = 0; k < mlxq_weights_count(written); k++) {
      const mlxq_tensor *tensor = mlxq_weights_at(written, k);
      add_bytes(all, tensor->name, tensor->dtype, tensor->rank, tensor->shape, tensor->data);
    }
    mlxq_weights_free(written);
    mlxq_weights_free(shards[i]);
  }
  return all;
}

/* More shards than a worker keeps open, tensors of several tiles, odd sizes, empty tensors. */
static mlxq_weights *write_dense_source(const void *folder) {
  mlxq_weights *shards[9];
  make_source(folder);
  seed_random(201);
  for (size_t i = 0; i < COUNT(shards); i++) {
    char name[64];
    shards[i] = new_weights();
    snprintf(name, sizeof name, "l.%zu.up.weight", i);
    add_random(shards[i], name, i % 2 ? MLXQ_BF16 : MLXQ_F32, SHAPE(i == 3 ? 1500 : 40 + i, 1024));
    snprintf(name, sizeof name, "l.%zu.experts.weight", i);
    add_random(shards[i], name, MLXQ_F16, SHAPE(2, i, 64));
    snprintf(name, sizeof name, "l.%zu.norm.weight", i);
    add_random(shards[i], name, MLXQ_BF16, SHAPE(65 + i));
    snprintf(name, sizeof name, "l.%zu.table", i);
    add_random(shards[i], name, MLXQ_U8, SHAPE(i == 5 ? (3 << 20) + 1 : 3));
    snprintf(name, sizeof name, "l.%zu.scalar", i);
    add_random(shards[i], name, MLXQ_I64, SCALAR);
  }
  return write_shards(folder, shards, COUNT(shards));
}

/* A small source: one file. */
static mlxq_weights *write_small_source(const void *folder, uint64_t rows) {
  mlxq_weights *shard = new_weights();
  make_source(folder);
  seed_random(202);
  add_random(shard, "a.weight", MLXQ_F32, SHAPE(rows, 1024));
  add_random(shard, "b.weight", MLXQ_F32, SHAPE(rows, 1024));
  return write_shards(folder, &shard, 1);
}

/* ---- The same bytes -------------------------------------------------------------------------------------------- */

static void run_with_all_thread_counts(const void *folder, mlxq_quant_config *config, bool quantize,
                                       const mlxq_weights *in, uint64_t shard_bytes) {
  mlxq_weights *expected = NULL;
  mlxq_status status = quantize ? mlxq_quantize_weights(&expected, in, config, NULL, NULL, NULL, NULL)
                                : mlxq_dequantize_weights(&expected, in, config, NULL, NULL);
  assert_int_equal(status, MLXQ_OK);
  job_on_disk job = open_job(folder, config, quantize, shard_bytes);
  for (unsigned threads = 0; threads <= 9; threads++) {
    mlxq_error error;
    prepare(&job);
    job.request.threads = threads == 9 ? 64 : threads; /* 0: one for each processor; 64: more than tiles */
    if (mlxq_run(&job.request, &error) != MLXQ_OK) fail_msg("%s: %s: %s", error.file, error.key, error.message);
    assert_written(&job, expected);
    mlxq_staging_close(&job.staging);
  }
  close_job(&job);
  mlxq_weights_free(expected);
}

static void test_files_get_the_bytes_that_memory_gets(void **state) {
  mlxq_weights *in = write_dense_source(*state);
  /* A file for each tensor or so, more than a worker keeps open; and all of them in one. */
  run_with_all_thread_counts(*state, config_of(MLXQ_AFFINE, 4, 64), true, in, 200000);
  run_with_all_thread_counts(*state, config_of(MLXQ_NVFP4, 4, 16), true, in, UINT64_C(5) << 30);
  mlxq_weights_free(in);
}

static void test_dequantized_files_too(void **state) {
  static const mlxq_scheme CHOSEN[] = {{MLXQ_AFFINE, 3, 64}, {MLXQ_MXFP8, 8, 32}};
  for (size_t s = 0; s < COUNT(CHOSEN); s++) {
    mlxq_weights *shards[6];
    if (s == 0) make_source(*state);
    for (size_t i = 0; i < COUNT(shards); i++) {
      char layer[64];
      shards[i] = new_weights();
      snprintf(layer, sizeof layer, "l.%zu", i);
      add_triple(shards[i], layer, &CHOSEN[s], SHAPE(i == 2 ? 1500 : i, 1024));
    }
    mlxq_weights *in = write_shards(*state, shards, COUNT(shards));
    run_with_all_thread_counts(*state, config_of(CHOSEN[s].mode, CHOSEN[s].bits, CHOSEN[s].group_size), false, in,
                               200000);
    mlxq_weights_free(in);
  }
}

/* A triple may be spread over shards. */
static void test_parts_in_different_files(void **state) {
  mlxq_weights *whole = new_weights(), *shards[3] = {new_weights(), new_weights(), new_weights()};
  static const char *const PARTS[] = {"a.biases", "a.weight", "a.scales"};
  add_triple(whole, "a", &AFFINE_4_64, SHAPE(5, 128));
  for (size_t i = 0; i < 3; i++) {
    const mlxq_tensor *tensor = mlxq_weights_find(whole, PARTS[i]);
    add_bytes(shards[i], tensor->name, tensor->dtype, tensor->rank, tensor->shape, tensor->data);
  }
  mlxq_weights_free(whole);
  make_source(*state);
  mlxq_weights *in = write_shards(*state, shards, 3);
  run_with_all_thread_counts(*state, config_of(MLXQ_AFFINE, 4, 64), false, in, 1000);
  mlxq_weights_free(in);
}

static void test_casts_on_the_way(void **state) {
  static const mlxq_dtype TO[] = {MLXQ_F16, MLXQ_BF16, MLXQ_F32};
  mlxq_weights *in = write_dense_source(*state);
  for (size_t t = 0; t < COUNT(TO); t++) {
    /* What casting by hand and then quantizing gives. */
    mlxq_weights *cast = new_weights(), *expected = NULL;
    mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
    for (size_t i = 0; i < mlxq_weights_count(in); i++) {
      const mlxq_tensor *tensor = mlxq_weights_at(in, i);
      size_t elems = (size_t)(tensor->bytes * 8 / mlxq_dtype_bits(tensor->dtype));
      if (!mlxq_dtype_is_floating(tensor->dtype) || tensor->dtype == TO[t]) {
        add_bytes(cast, tensor->name, tensor->dtype, tensor->rank, tensor->shape, tensor->data);
        continue;
      }
      void *converted = malloc(4 * elems + 1);
      mlxq_kernels(MLXQ_ISA_REF)->cast(tensor->dtype, TO[t], tensor->data, converted, elems);
      add_bytes(cast, tensor->name, TO[t], tensor->rank, tensor->shape, converted);
      free(converted);
    }
    assert_int_equal(mlxq_quantize_weights(&expected, cast, config, NULL, NULL, NULL, NULL), MLXQ_OK);
    job_on_disk job = open_job(*state, config, true, 1);
    mlxq_plan_free(job.plan);
    mlxq_plan_request request = {
        .source = job.checkpoint->tensors, .config = config, .cast = true, .cast_to = TO[t], .for_mlx = true};
    assert_int_equal(mlxq_plan_quantize(&job.plan, &request, NULL), MLXQ_OK);
    assert_int_equal(mlxq_plan_layout(job.plan, 1000000, NULL, NULL), MLXQ_OK);
    for (unsigned threads = 1; threads <= 3; threads++) {
      prepare(&job);
      job.request.threads = threads;
      assert_int_equal(mlxq_run(&job.request, NULL), MLXQ_OK);
      assert_written(&job, expected);
      mlxq_staging_close(&job.staging);
    }
    close_job(&job);
    mlxq_weights_free(expected);
    mlxq_weights_free(cast);
  }
  mlxq_weights_free(in);
}

static void test_a_plan_without_tiles(void **state) {
  mlxq_weights *shard = new_weights();
  make_source(*state);
  add_random(shard, "a.weight", MLXQ_F32, SHAPE(0, 64));
  mlxq_weights *in = write_shards(*state, &shard, 1);
  run_with_all_thread_counts(*state, config_of(MLXQ_AFFINE, 4, 64), true, in, 1000);
  mlxq_weights_free(in);
}

/* ---- Progress and cancelling ----------------------------------------------------------------------------------- */

typedef struct observer {
  pthread_t thread;
  uint64_t calls, done, total;
  _Atomic uint64_t polls;
  uint64_t cancel_at;    /* polls that are answered with no */
  const char *to_change; /* a file that is cut to half at that poll instead */
} observer;

static void watch(void *user, uint64_t done, uint64_t total) {
  observer *seen = user;
  assert_true(pthread_equal(seen->thread, pthread_self()));
  assert_true(done >= seen->done);
  assert_true(done <= total);
  if (seen->calls > 0) assert_int_equal(total, seen->total);
  seen->calls++;
  seen->done = done;
  seen->total = total;
}

static bool is_cancelled(void *user) {
  observer *seen = user;
  uint64_t poll = atomic_fetch_add(&seen->polls, 1);
  if (seen->to_change) {
    if (poll == seen->cancel_at && truncate(seen->to_change, 1000000) != 0) abort();
    return false;
  }
  return poll >= seen->cancel_at;
}

static void test_progress(void **state) {
  mlxq_weights *in = write_dense_source(*state);
  job_on_disk job = open_job(*state, config_of(MLXQ_AFFINE, 4, 64), true, 200000);
  uint64_t bytes = 0;
  for (size_t i = 0; i < job.plan->outputs->count; i++) bytes += mlxq_weights_at(job.plan->outputs, i)->bytes;
  for (unsigned threads = 1; threads <= 4; threads++) {
    observer seen = {.thread = pthread_self(), .cancel_at = UINT64_MAX};
    prepare(&job);
    job.request.threads = threads;
    job.request.progress = watch;
    job.request.cancelled = is_cancelled;
    job.request.user = &seen;
    assert_int_equal(mlxq_run(&job.request, NULL), MLXQ_OK);
    assert_true(seen.calls > 0);
    if (threads == 1) assert_true(seen.calls >= job.plan->tile_count);
    assert_int_equal(seen.done, bytes);
    assert_int_equal(seen.total, bytes);
    assert_true(atomic_load(&seen.polls) >= job.plan->tile_count);
    mlxq_staging_close(&job.staging);
  }
  close_job(&job);
  mlxq_weights_free(in);
}

static void test_cancelling(void **state) {
  mlxq_weights *in = write_dense_source(*state);
  job_on_disk job = open_job(*state, config_of(MLXQ_AFFINE, 4, 64), true, 200000);
  for (unsigned threads = 1; threads <= 8; threads++) {
    for (uint64_t at = 0; at < 20; at += 1 + at / 3) {
      mlxq_error error;
      observer seen = {.thread = pthread_self(), .cancel_at = at};
      prepare(&job);
      job.request.threads = threads;
      job.request.cancelled = is_cancelled;
      job.request.progress = watch;
      job.request.user = &seen;
      assert_int_equal(mlxq_run(&job.request, &error), MLXQ_CANCELLED);
      assert_error(&error, MLXQ_CANCELLED, "", "");
      /* Every worker stops at its next poll. */
      assert_in_range(atomic_load(&seen.polls), at + 1, at + threads);
      assert_true(seen.done < seen.total || seen.calls == 0);
      assert_int_equal(mlxq_run(&job.request, NULL), MLXQ_CANCELLED);
      mlxq_staging_close(&job.staging);
    }
  }
  close_job(&job);
  mlxq_weights_free(in);
}

/* ---- Errors ---------------------------------------------------------------------------------------------------- */

static void cut_source(const char *path) {
  assert_int_equal(truncate(path, 2000000), 0);
}

static void replace_source(const char *path) {
  mlxq_weights *same = read_safetensors(path);
  assert_int_equal(unlink(path), 0);
  write_safetensors(path, same);
  mlxq_weights_free(same);
}

static void remove_source(const char *path) {
  assert_int_equal(unlink(path), 0);
}

static void make_source_a_folder(const char *path) {
  assert_int_equal(unlink(path), 0);
  make_folder(path);
}

static void test_a_source_that_changes_after_the_plan(void **state) {
  static const struct {
    void (*change)(const char *path);
    mlxq_status status;
  } CASES[] = {{cut_source, MLXQ_CHANGED},
               {replace_source, MLXQ_CHANGED},
               {remove_source, MLXQ_CHANGED},
               {make_source_a_folder, MLXQ_IO}};
  for (size_t i = 0; i < COUNT(CASES); i++) {
    for (unsigned threads = 1; threads <= 4; threads += 3) {
      mlxq_error error;
      mlxq_weights *in = write_small_source(*state, 1000);
      const char *path = path_in(*state, "src/model-00001-of-00001.safetensors");
      job_on_disk job = open_job(*state, config_of(MLXQ_AFFINE, 4, 64), true, UINT64_C(1) << 30);
      prepare(&job);
      /* The clock tick by which file systems stamp times. */
      nanosleep(&(struct timespec){0, 30000000}, NULL);
      CASES[i].change(path);
      job.request.threads = threads;
      memset(&error, 0, sizeof error);
      assert_int_equal(mlxq_run(&job.request, &error), CASES[i].status);
      assert_int_equal(error.status, CASES[i].status);
      assert_string_equal(error.file, path);
      assert_true(strlen(error.message) > 0);
      mlxq_staging_close(&job.staging);
      close_job(&job);
      mlxq_weights_free(in);
      assert_int_equal(mlxq_file_remove_tree(path_in(*state, "src"), NULL), MLXQ_OK);
    }
  }
}

/* A read past the new end is told, where the file was open already. */
static void test_a_source_that_is_cut_while_it_is_read(void **state) {
  for (unsigned threads = 1; threads <= 4; threads++) {
    mlxq_error error;
    mlxq_weights *in = write_small_source(*state, 2000);
    const char *path = path_in(*state, "src/model-00001-of-00001.safetensors");
    job_on_disk job = open_job(*state, config_of(MLXQ_AFFINE, 4, 64), true, UINT64_C(1) << 30);
    observer seen = {.cancel_at = 3, .to_change = path};
    assert_true(job.plan->tile_count > 6);
    prepare(&job);
    job.request.threads = threads;
    job.request.cancelled = is_cancelled;
    job.request.user = &seen;
    assert_int_equal(mlxq_run(&job.request, &error), MLXQ_CHANGED);
    assert_string_equal(error.file, path);
    assert_true(strlen(error.message) > 0);
    mlxq_staging_close(&job.staging);
    close_job(&job);
    mlxq_weights_free(in);
    assert_int_equal(mlxq_file_remove_tree(path_in(*state, "src"), NULL), MLXQ_OK);
  }
}

static void test_a_sink_that_is_gone(void **state) {
  mlxq_error error;
  mlxq_weights *in = write_small_source(*state, 100);
  job_on_disk job = open_job(*state, config_of(MLXQ_AFFINE, 4, 64), true, UINT64_C(1) << 30);
  prepare(&job);
  assert_int_equal(unlink(path_in(job.staging.folder, "model.safetensors")), 0);
  assert_int_equal(mlxq_run(&job.request, &error), MLXQ_IO);
  assert_non_null(strstr(error.file, "model.safetensors"));
  assert_false(exists(path_in(job.staging.folder, "model.safetensors")));
  mlxq_staging_close(&job.staging);
  close_job(&job);
  mlxq_weights_free(in);
}

static unsigned long long element_told(const mlxq_error *error) {
  unsigned long long index = 0;
  const char *digit = strpbrk(error->message, "0123456789");
  assert_non_null(digit);
  assert_int_equal(sscanf(digit, "%llu", &index), 1);
  return index;
}

/* Of many tiles that fail, the lowest is told, however the workers are scheduled. */
static void test_the_lowest_tile_is_told(void **state) {
  enum { ROWS = 4000, COLUMNS = 1024 };
  mlxq_weights *shard = new_weights();
  uint32_t nan = 0x7FC00000;
  make_source(*state);
  seed_random(203);
  add_random(shard, "a.weight", MLXQ_F32, SHAPE(ROWS, COLUMNS));
  add_random(shard, "b.weight", MLXQ_F32, SHAPE(ROWS, COLUMNS));
  for (uint64_t row = 1900; row < ROWS; row += 100) {
    memcpy(bytes_of(shard, "a.weight") + 4 * (row * COLUMNS + 5), &nan, 4);
    memcpy(bytes_of(shard, "b.weight") + 4 * (row * COLUMNS - 1800 * COLUMNS), &nan, 4);
  }
  mlxq_weights *in = write_shards(*state, &shard, 1);
  job_on_disk job = open_job(*state, config_of(MLXQ_AFFINE, 4, 64), true, UINT64_C(1) << 30);
  for (int round = 0; round < 24; round++) {
    mlxq_error error;
    prepare(&job);
    job.request.threads = 1 + (unsigned)round % 8;
    assert_int_equal(mlxq_run(&job.request, &error), MLXQ_NON_FINITE);
    assert_string_equal(error.layer, "a");
    assert_string_equal(error.key, "a.weight");
    assert_string_equal(error.file, path_in(*state, "src/model-00001-of-00001.safetensors"));
    assert_int_equal(element_told(&error), 1900 * COLUMNS + 5);
    mlxq_staging_close(&job.staging);
  }
  close_job(&job);
  mlxq_weights_free(in);
}

/* ---- Stretches ------------------------------------------------------------------------------------------------- */

/* Layers of a tile each: one or two workers take 32 tiles at a time, 8 take 21, 64 take two. */
enum { MANY = 700, OUTPUTS = 3 };
static const unsigned CREWS[] = {1, 2, 8, 64};

/* The element `nan_at` of the layers in `bad` is NaN. */
static mlxq_weights *write_many_layers(const void *folder, const size_t *bad, size_t bad_count, size_t nan_at) {
  const uint32_t nan = 0x7FC00000;
  mlxq_weights *shard = new_weights();
  char name[64];
  make_source(folder);
  seed_random(205);
  for (size_t i = 0; i < MANY; i++) {
    snprintf(name, sizeof name, "l.%zu.weight", i);
    add_random(shard, name, MLXQ_F32, SHAPE(1 + i % 3, 128));
  }
  for (size_t i = 0; i < bad_count; i++) {
    snprintf(name, sizeof name, "l.%zu.weight", bad[i]);
    memcpy(bytes_of(shard, name) + 4 * nan_at, &nan, 4);
  }
  return write_shards(folder, &shard, 1);
}

static void test_stretches(void **state) {
  mlxq_weights *in = write_many_layers(*state, NULL, 0, 0), *expected = NULL;
  job_on_disk job = open_job(*state, config_of(MLXQ_AFFINE, 4, 64), true, 20000);
  assert_int_equal(job.plan->tile_count, MANY);
  assert_int_equal(mlxq_quantize_weights(&expected, in, job.config, NULL, NULL, NULL, NULL), MLXQ_OK);
  for (size_t i = 0; i < COUNT(CREWS); i++) {
    mlxq_error error;
    observer seen = {.thread = pthread_self(), .cancel_at = UINT64_MAX};
    prepare(&job);
    job.request.threads = CREWS[i];
    job.request.progress = watch;
    job.request.cancelled = is_cancelled;
    job.request.user = &seen;
    if (mlxq_run(&job.request, &error) != MLXQ_OK) fail_msg("%s: %s: %s", error.file, error.key, error.message);
    assert_written(&job, expected);
    assert_int_equal(atomic_load(&seen.polls), MANY);
    assert_int_equal(seen.total, mlxq_total_bytes(job.plan->outputs));
    assert_int_equal(seen.done, seen.total);
    if (CREWS[i] == 1) assert_int_equal(seen.calls, MANY + 1);
    mlxq_staging_close(&job.staging);
  }
  close_job(&job);
  mlxq_weights_free(expected);
  mlxq_weights_free(in);
}

static void test_nan_late_in_many_tiles(void **state) {
  static const size_t BAD[] = {668, 626, 658, 627}; /* one is in the same stretch, the others in later ones */
  mlxq_weights *in = write_many_layers(*state, BAD, COUNT(BAD), 77);
  job_on_disk job = open_job(*state, config_of(MLXQ_AFFINE, 4, 64), true, UINT64_C(1) << 30);
  for (unsigned round = 0; round < 5 * COUNT(CREWS); round++) {
    mlxq_error error;
    prepare(&job);
    job.request.threads = CREWS[round % COUNT(CREWS)];
    assert_int_equal(mlxq_run(&job.request, &error), MLXQ_NON_FINITE);
    assert_string_equal(error.layer, "l.626");
    assert_string_equal(error.key, "l.626.weight");
    assert_int_equal(element_told(&error), 77);
    mlxq_staging_close(&job.staging);
  }
  close_job(&job);
  mlxq_weights_free(in);
}

/* Takes what a run makes: how often each output came; fails at some, and holds the run up at another. */
typedef struct taker {
  _Atomic unsigned came[MANY * OUTPUTS];
  size_t held, low, high; /* layers; the first two wait until `high` has failed, if `waits` */
  bool waits;
  atomic_bool high_failed;
} taker;

static mlxq_status take(void *user, size_t output, uint64_t offset, const void *data, size_t bytes, mlxq_error *error) {
  taker *t = user;
  const size_t layer = output / OUTPUTS;
  (void)offset, (void)data, (void)bytes;
  const bool waits = t->waits && (layer == t->held || layer == t->low);
  for (int i = 0; waits && i < 30000 && !atomic_load(&t->high_failed); i++) {
    nanosleep(&(struct timespec){0, 1000000}, NULL);
  }
  if (layer == t->low || layer == t->high) {
    if (layer == t->high) atomic_store(&t->high_failed, true);
    return mlxq_fail(error, MLXQ_NO_SPACE, NULL, NULL, "layer %zu", layer);
  }
  atomic_fetch_add(&t->came[output], 1);
  return MLXQ_OK;
}

static void start_taking(job_on_disk *job, taker *t, unsigned threads) {
  for (size_t i = 0; i < COUNT(t->came); i++) atomic_init(&t->came[i], 0);
  t->held = t->low = t->high = MANY;
  t->waits = false;
  atomic_init(&t->high_failed, false);
  job->request = (mlxq_run_request){.plan = job->plan,
                                    .source_files = job->checkpoint->files,
                                    .isa = MLXQ_ISA_COUNT,
                                    .threads = threads,
                                    .store = take,
                                    .look_user = t};
}

/* The number of layers that came, each whole and once. */
static uint64_t layers_that_came(taker *t) {
  uint64_t layers = 0;
  for (size_t i = 0; i < MANY; i++) {
    const unsigned count = atomic_load(&t->came[i * OUTPUTS]);
    assert_true(count <= 1);
    for (size_t k = 1; k < OUTPUTS; k++) assert_int_equal(atomic_load(&t->came[i * OUTPUTS + k]), count);
    layers += count;
  }
  return layers;
}

/* No tile is made after the poll that says no, whatever its stretch still had. */
static void test_cancelling_in_a_stretch(void **state) {
  static const uint64_t AT[] = {1, 16, 31, 33, 100, 350, MANY - 1};
  static taker taken;
  mlxq_weights *in = write_many_layers(*state, NULL, 0, 0);
  job_on_disk job = open_job(*state, config_of(MLXQ_AFFINE, 4, 64), true, UINT64_C(1) << 30);
  for (unsigned round = 0; round < COUNT(AT) * COUNT(CREWS); round++) {
    const uint64_t at = AT[round / COUNT(CREWS)];
    const unsigned threads = CREWS[round % COUNT(CREWS)];
    observer seen = {.thread = pthread_self(), .cancel_at = at};
    start_taking(&job, &taken, threads);
    job.request.progress = watch;
    job.request.cancelled = is_cancelled;
    job.request.user = &seen;
    assert_int_equal(mlxq_run(&job.request, NULL), MLXQ_CANCELLED);
    assert_int_equal(layers_that_came(&taken), at);
    assert_in_range(atomic_load(&seen.polls), at + 1, at + threads);
    assert_true(seen.calls == 0 || seen.done < seen.total);
    if (threads == 1) assert_int_equal(atomic_load(&taken.came[(at - 1) * OUTPUTS]), 1);
  }
  close_job(&job);
  mlxq_weights_free(in);
}

/* A worker in the middle of its stretch makes the rest of it up to the tile that failed, and finds what fails below. */
static void test_a_failure_above_a_stretch(void **state) {
  static taker taken;
  mlxq_weights *in = write_many_layers(*state, NULL, 0, 0);
  job_on_disk job = open_job(*state, config_of(MLXQ_AFFINE, 4, 64), true, UINT64_C(1) << 30);
  for (unsigned round = 0; round < 2 * COUNT(CREWS); round++) {
    mlxq_error error;
    const unsigned threads = CREWS[round / 2];
    const size_t low = round % 2 == 0 ? 20 : MANY; /* with and without a failure in the stretch itself */
    const size_t told = low < 500 ? low : 500;
    start_taking(&job, &taken, threads);
    taken.held = 15;
    taken.low = low;
    taken.high = 500;
    taken.waits = threads > 1;
    assert_int_equal(mlxq_run(&job.request, &error), MLXQ_NO_SPACE);
    assert_int_equal(atomic_load(&taken.high_failed), threads > 1 || low == MANY);
    char expected[32];
    snprintf(expected, sizeof expected, "layer %zu", told);
    assert_string_equal(error.message, expected);
    layers_that_came(&taken);
    for (size_t i = 0; i < told; i++) assert_int_equal(atomic_load(&taken.came[i * OUTPUTS]), 1);
    if (threads == 1) assert_int_equal(atomic_load(&taken.came[(told + 1) * OUTPUTS]), 0);
  }
  close_job(&job);
  mlxq_weights_free(in);
}

/* ---- Statistics ------------------------------------------------------------------------------------------------ */

static void test_stats(void **state) {
  mlxq_weights *shard = new_weights(), *quantized = NULL, *back = NULL;
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  make_source(*state);
  seed_random(204);
  add_random(shard, "l.0.up_proj.weight", MLXQ_F32, SHAPE(2000, 512));
  add_random(shard, "l.0.down_proj.weight", MLXQ_BF16, SHAPE(30, 512));
  add_random(shard, "l.1.up_proj.weight", MLXQ_F16, SHAPE(20, 512));
  add_random(shard, "head.weight", MLXQ_F32, SHAPE(0, 64));
  add_random(shard, "norm.weight", MLXQ_F32, SHAPE(64));
  mlxq_weights *in = write_shards(*state, &shard, 1);
  assert_int_equal(mlxq_quantize_weights(&quantized, in, config, NULL, NULL, NULL, NULL), MLXQ_OK);
  assert_int_equal(mlxq_dequantize_weights(&back, quantized, config, NULL, NULL), MLXQ_OK);
  mlxq_kind_stats *first = NULL;
  size_t first_count = 0;
  job_on_disk job = open_job(*state, config, true, UINT64_C(1) << 30);
  mlxq_tile_stats *tiles = calloc((size_t)job.plan->tile_count, sizeof *tiles);
  assert_non_null(tiles);
  for (unsigned threads = 1; threads <= 4; threads++) {
    mlxq_kind_stats *kinds = NULL;
    size_t count = 0;
    prepare(&job);
    job.request.threads = threads;
    job.request.stats = tiles;
    assert_int_equal(mlxq_run(&job.request, NULL), MLXQ_OK);
    assert_written(&job, quantized);
    mlxq_staging_close(&job.staging);
    assert_int_equal(mlxq_stats_by_kind(&kinds, &count, job.plan, tiles, NULL), MLXQ_OK);
    assert_int_equal(count, 3);
    if (!first) {
      first = kinds;
      first_count = count;
      continue;
    }
    for (size_t i = 0; i < count; i++) {
      assert_string_equal(kinds[i].kind, first[i].kind);
      assert_memory_equal(&kinds[i].squared_error, &first[i].squared_error, sizeof(double));
      assert_memory_equal(&kinds[i].squared_weight, &first[i].squared_weight, sizeof(double));
    }
    mlxq_stats_free(kinds, count);
  }
  for (size_t i = 0; i < first_count; i++) {
    double error = 0, weight = 0;
    uint64_t elems = 0, layers = 0;
    for (size_t k = 0; k < mlxq_weights_count(in); k++) {
      const mlxq_tensor *tensor = mlxq_weights_at(in, k), *lossy = mlxq_weights_find(back, tensor->name);
      char suffix[64];
      snprintf(suffix, sizeof suffix, "%s.weight", first[i].kind);
      if (tensor->rank < 2 || !strstr(tensor->name, suffix)) continue;
      size_t count = (size_t)(tensor->bytes * 8 / mlxq_dtype_bits(tensor->dtype));
      float *values = malloc(8 * count + 1);
      float *lossy_values = values + count;
      if (tensor->dtype == MLXQ_F32) {
        if (count > 0) memcpy(values, tensor->data, 4 * count);
        if (count > 0) memcpy(lossy_values, lossy->data, 4 * count);
      } else {
        mlxq_kernels(MLXQ_ISA_REF)->cast(tensor->dtype, MLXQ_F32, tensor->data, values, count);
        mlxq_kernels(MLXQ_ISA_REF)->cast(tensor->dtype, MLXQ_F32, lossy->data, lossy_values, count);
      }
      for (size_t e = 0; e < count; e++) {
        error += ((double)values[e] - lossy_values[e]) * ((double)values[e] - lossy_values[e]);
        weight += (double)values[e] * values[e];
      }
      free(values);
      elems += count;
      layers++;
    }
    assert_int_equal(first[i].layers, layers);
    assert_int_equal(first[i].elems, elems);
    assert_true(first[i].squared_error >= error * (1 - 1e-9) && first[i].squared_error <= error * (1 + 1e-9));
    assert_true(first[i].squared_weight >= weight * (1 - 1e-9) && first[i].squared_weight <= weight * (1 + 1e-9));
  }
  mlxq_stats_free(first, first_count);
  free(tiles);
  close_job(&job);
  mlxq_weights_free(in);
  mlxq_weights_free(quantized);
  mlxq_weights_free(back);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, make_scratch, remove_scratch)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_files_get_the_bytes_that_memory_gets),
      TEST(test_dequantized_files_too),
      TEST(test_parts_in_different_files),
      TEST(test_casts_on_the_way),
      TEST(test_a_plan_without_tiles),
      TEST(test_progress),
      TEST(test_cancelling),
      TEST(test_a_source_that_changes_after_the_plan),
      TEST(test_a_source_that_is_cut_while_it_is_read),
      TEST(test_a_sink_that_is_gone),
      TEST(test_the_lowest_tile_is_told),
      TEST(test_stretches),
      TEST(test_nan_late_in_many_tiles),
      TEST(test_cancelling_in_a_stretch),
      TEST(test_a_failure_above_a_stretch),
      TEST(test_stats),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
