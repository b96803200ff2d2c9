/* memory.c: checked sizes, allocation, growing arrays, the arena, hashing; and whole operations with each of their
 * allocations, or a thread, failing on purpose. The linker sends malloc and its kin to the functions below. */
#include "base/memory.h"

#include "base/file.h"
#include "base/text.h"
#include "helpers.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

/* An allocation that is too large is then a NULL under the address sanitizer too. */
const char *__asan_default_options(void) __attribute__((visibility("default")));
const char *__asan_default_options(void) {
  return "allocator_may_return_null=1";
}

/* ---- Sizes ----------------------------------------------------------------------------------------------------- */

static const uint64_t EDGES[] = {0,
                                 1,
                                 2,
                                 3,
                                 7,
                                 10,
                                 UINT32_MAX - 1,
                                 UINT32_MAX,
                                 UINT64_C(1) << 32,
                                 3037000499, /* the root of INT64_MAX, rounded down */
                                 3037000500,
                                 INT64_MAX / 2,
                                 INT64_MAX / 2 + 1,
                                 INT64_MAX - 1,
                                 INT64_MAX,
                                 (uint64_t)INT64_MAX + 1,
                                 UINT64_MAX - 1,
                                 UINT64_MAX};

static void test_sums_and_products_fit_63_bits(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT(EDGES); i++) {
    for (size_t k = 0; k < COUNT(EDGES); k++) {
      uint64_t a = EDGES[i], b = EDGES[k], result = 77;
      bool fits = a == 0 || b <= INT64_MAX / a;
      assert_int_equal(mlxq_mul_u64(&result, a, b), fits);
      if (fits) assert_int_equal(result, a * b);
      fits = a <= INT64_MAX && b <= INT64_MAX - a;
      assert_int_equal(mlxq_add_u64(&result, a, b), fits);
      if (fits) assert_int_equal(result, a + b);
    }
  }
}

static void test_a_result_may_be_an_operand(void **state) {
  (void)state;
  uint64_t value = 6;
  assert_true(mlxq_mul_u64(&value, value, 7));
  assert_int_equal(value, 42);
  assert_true(mlxq_add_u64(&value, value, value));
  assert_int_equal(value, 84);
}

/* ---- Allocation ------------------------------------------------------------------------------------------------ */

static void test_nothing_is_a_valid_pointer(void **state) {
  (void)state;
  static const size_t SIZES[][2] = {{0, 0}, {0, 8}, {8, 0}, {0, SIZE_MAX}, {SIZE_MAX, 0}};
  for (size_t i = 0; i < COUNT(SIZES); i++) {
    void *a = mlxq_alloc(SIZES[i][0], SIZES[i][1]), *b = mlxq_calloc(SIZES[i][0], SIZES[i][1]);
    void *c = mlxq_realloc(NULL, SIZES[i][0], SIZES[i][1]);
    assert_non_null(a);
    assert_non_null(b);
    assert_non_null(c);
    free(a);
    free(b);
    free(c);
  }
}

static void test_too_much_is_null(void **state) {
  (void)state;
  static const size_t SIZES[][2] = {
      {SIZE_MAX, 2},         {2, SIZE_MAX},         {SIZE_MAX, SIZE_MAX},  {(size_t)1 << 32, (size_t)1 << 31},
      {SIZE_MAX / 2 + 1, 1}, {(size_t)1 << 61, 16}, {SIZE_MAX / 8 + 1, 8}, {(size_t)1 << 62, 1}};
  void *old = mlxq_alloc(4, 1);
  memcpy(old, "kept", 4);
  for (size_t i = 0; i < COUNT(SIZES); i++) {
    assert_null(mlxq_alloc(SIZES[i][0], SIZES[i][1]));
    assert_null(mlxq_calloc(SIZES[i][0], SIZES[i][1]));
    assert_null(mlxq_realloc(old, SIZES[i][0], SIZES[i][1]));
    assert_memory_equal(old, "kept", 4);
  }
  free(old);
}

static void test_calloc_clears(void **state) {
  (void)state;
  for (int round = 0; round < 50; round++) {
    unsigned char *dirty = mlxq_alloc(100, 7);
    memset(dirty, 0xFF, 700);
    free(dirty);
    unsigned char *clean = mlxq_calloc(100, 7);
    for (size_t i = 0; i < 700; i++) assert_int_equal(clean[i], 0);
    free(clean);
  }
}

static void test_realloc_keeps(void **state) {
  (void)state;
  unsigned char *bytes = NULL;
  for (size_t size = 1; size < 100000; size = size * 3 + 1) {
    bytes = mlxq_realloc(bytes, size, 1);
    assert_non_null(bytes);
    for (size_t i = 0; i < size / 3; i++) assert_int_equal(bytes[i], i % 251);
    for (size_t i = 0; i < size; i++) bytes[i] = (unsigned char)(i % 251);
  }
  free(bytes);
}

static void test_arrays_grow(void **state) {
  (void)state;
  void *items = NULL;
  size_t capacity = 0, moves = 0;
  for (size_t count = 0; count < 100000; count++) {
    size_t before = capacity;
    assert_true(mlxq_grow(&items, count, &capacity, sizeof(uint64_t)));
    assert_true(capacity > count);
    moves += capacity != before;
    ((uint64_t *)items)[count] = count * count;
  }
  for (size_t i = 0; i < 100000; i++) assert_int_equal(((uint64_t *)items)[i], i * i);
  /* By a factor, not by a step: adding must not be quadratic. */
  assert_in_range(moves, 1, 40);
  free(items);
}

static void test_a_failed_growth_changes_nothing(void **state) {
  (void)state;
  char kept[] = "kept";
  void *items = kept;
  size_t capacity = SIZE_MAX / 4;
  assert_false(mlxq_grow(&items, capacity, &capacity, 16));
  assert_ptr_equal(items, kept);
  assert_int_equal(capacity, SIZE_MAX / 4);
  /* With room left there is nothing to do. */
  assert_true(mlxq_grow(&items, capacity - 1, &capacity, 16));
  assert_ptr_equal(items, kept);
}

/* ---- The arena ------------------------------------------------------------------------------------------------- */

static void test_arena_blocks_are_apart_and_aligned(void **state) {
  (void)state;
  static const size_t LARGE[] = {65535, 65536, 65537, 1 << 20};
  enum { ROUNDS = 4000 };
  mlxq_arena arena = {0};
  unsigned char *places[ROUNDS];
  size_t sizes[ROUNDS];
  seed_random(5);
  for (size_t i = 0; i < ROUNDS; i++) {
    sizes[i] = i % 500 == 7 ? LARGE[random_below(COUNT(LARGE))] : (size_t)random_below(200);
    places[i] = mlxq_arena_alloc(&arena, sizes[i]);
    assert_non_null(places[i]);
    assert_int_equal((uintptr_t)places[i] % _Alignof(max_align_t), 0);
    memset(places[i], (int)(i % 251), sizes[i]);
  }
  for (size_t i = 0; i < ROUNDS; i++) {
    for (size_t k = 0; k < sizes[i]; k++) assert_int_equal(places[i][k], i % 251);
  }
  mlxq_arena_free(&arena);
  assert_null(arena.blocks);
}

static void test_arena_refuses_what_cannot_be(void **state) {
  (void)state;
  mlxq_arena arena = {0};
  assert_null(mlxq_arena_alloc(&arena, SIZE_MAX));
  assert_null(mlxq_arena_alloc(&arena, SIZE_MAX - 15));
  assert_null(mlxq_arena_alloc(&arena, SIZE_MAX / 2 + 1));
  assert_null(mlxq_arena_alloc(&arena, SIZE_MAX / 2));
  assert_non_null(mlxq_arena_alloc(&arena, 1));
  mlxq_arena_free(&arena);
}

static void test_arena_is_free_twice(void **state) {
  (void)state;
  mlxq_arena arena = {0};
  mlxq_arena_free(&arena);
  assert_non_null(mlxq_arena_alloc(&arena, 10));
  mlxq_arena_free(&arena);
  mlxq_arena_free(&arena);
  assert_non_null(mlxq_arena_alloc(&arena, 10));
  mlxq_arena_free(&arena);
}

static void test_arena_text(void **state) {
  (void)state;
  mlxq_arena arena = {0};
  char source[] = "abcdef";
  char *part = mlxq_arena_text(&arena, source, 3), *none = mlxq_arena_text(&arena, source, 0);
  source[0] = '#';
  assert_string_equal(part, "abc");
  assert_string_equal(none, "");
  char *binary = mlxq_arena_text(&arena, "x\0y", 3);
  assert_memory_equal(binary, "x\0y", 4);
  mlxq_arena_free(&arena);
}

static void test_asprintf(void **state) {
  (void)state;
  char *text = mlxq_asprintf("%s-%05d", "model", 7);
  assert_string_equal(text, "model-00007");
  free(text);
  text = mlxq_asprintf("%s", "");
  assert_string_equal(text, "");
  free(text);
  text = mlxq_asprintf("%100000d", 1);
  assert_int_equal(strlen(text), 100000);
  free(text);
}

/* ---- Hashes ---------------------------------------------------------------------------------------------------- */

static void test_hash_of_a_text_in_two_parts(void **state) {
  (void)state;
  static const char NAME[] = "model.layers.12.self_attn.q_proj.weight";
  uint64_t whole = mlxq_hash(NAME, strlen(NAME));
  for (size_t split = 0; split <= strlen(NAME); split++) {
    assert_int_equal(mlxq_hash_joined(NAME, split, NAME + split, strlen(NAME) - split), whole);
  }
  assert_int_equal(mlxq_hash("", 0), mlxq_hash_joined("", 0, "", 0));
  assert_int_not_equal(mlxq_hash("a", 1), mlxq_hash("b", 1));
  assert_int_not_equal(mlxq_hash("\x80", 1), mlxq_hash("\x00", 1));
  assert_int_not_equal(mlxq_hash("\0", 1), mlxq_hash("", 0));
  assert_int_not_equal(mlxq_hash(NAME, 8), mlxq_hash(NAME, 7));
}

/* Journals on disk hold what is made of it. */
static void test_the_digest_is_the_same_everywhere(void **state) {
  (void)state;
  assert_true(mlxq_digest("", 0) == UINT64_C(0x8570e254d5cb36d5));
  assert_true(mlxq_digest("model.safetensors", 17) == UINT64_C(0x2c5a220f6c3e8f9f));
}

static int compare_hashes(const void *a, const void *b) {
  uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
  return left < right ? -1 : left > right;
}

/* Names of real models differ in a digit; whole hashes and their low bits must still differ. */
static void test_hashes_spread(void **state) {
  (void)state;
  enum { COUNT_OF_NAMES = 100000, BUCKETS = 1 << 12 };
  uint64_t *hashes = malloc(COUNT_OF_NAMES * sizeof *hashes);
  unsigned *buckets = calloc(BUCKETS, sizeof *buckets), fullest = 0;
  assert_non_null(hashes);
  assert_non_null(buckets);
  for (size_t i = 0; i < COUNT_OF_NAMES; i++) {
    char name[64];
    snprintf(name, sizeof name, "model.layers.%zu.mlp.experts.%zu.up_proj.weight", i / 256, i % 256);
    hashes[i] = mlxq_hash(name, strlen(name));
    unsigned in_bucket = ++buckets[hashes[i] % BUCKETS];
    if (in_bucket > fullest) fullest = in_bucket;
  }
  qsort(hashes, COUNT_OF_NAMES, sizeof *hashes, compare_hashes);
  for (size_t i = 1; i < COUNT_OF_NAMES; i++) assert_int_not_equal(hashes[i], hashes[i - 1]);
  /* About 24 are expected; a uniform spread passes 70 less than once in a billion times. */
  assert_in_range(fullest, 1, 70);
  free(hashes);
  free(buckets);
}

/* ---- Growing text ---------------------------------------------------------------------------------------------- */

static void test_text_is_set(void **state) {
  (void)state;
  mlxq_text text = {0};
  mlxq_text_set(&text, "", 0);
  assert_non_null(text.data);
  assert_string_equal(text.data, "");
  mlxq_text_set(&text, "a.b.weight", 3);
  assert_string_equal(text.data, "a.b");
  mlxq_text_set(&text, "longer than before", 18);
  assert_string_equal(text.data, "longer than before");
  assert_int_equal(text.length, 18);
  mlxq_text_set(&text, "", 0);
  assert_string_equal(text.data, "");
  assert_int_equal(text.length, 0);
  mlxq_text_puts(&text, "x");
  assert_string_equal(text.data, "x");
  mlxq_text_free(&text);
}

/* ---- What fails on purpose ------------------------------------------------------------------------------------- */

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument);

static _Atomic long allocations_left = -1; /* that succeed before the first failure; negative: nothing fails */
static _Atomic bool only_one_fails, failed_once;
static _Atomic long threads_left = -1;

static bool allocation_fails(void) {
  long left = atomic_load(&allocations_left);
  if (left < 0) return false;
  if (left > 0) {
    atomic_fetch_sub(&allocations_left, 1);
    return false;
  }
  if (atomic_load(&only_one_fails) && atomic_exchange(&failed_once, true)) return false;
  atomic_store(&failed_once, true);
  return true;
}

void *__wrap_malloc(size_t bytes) {
  return allocation_fails() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes) {
  return allocation_fails() ? NULL : __real_calloc(count, bytes);
}

void *__wrap_realloc(void *old, size_t bytes) {
  return allocation_fails() ? NULL : __real_realloc(old, bytes);
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes) {
  return allocation_fails() ? NULL : __real_aligned_alloc(alignment, bytes);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument) {
  if (atomic_load(&threads_left) == 0) return EAGAIN;
  if (atomic_load(&threads_left) > 0) atomic_fetch_sub(&threads_left, 1);
  return __real_pthread_create(thread, attributes, start, argument);
}

static void fail_after(long allocations, bool only_one) {
  atomic_store(&only_one_fails, only_one);
  atomic_store(&failed_once, false);
  atomic_store(&allocations_left, allocations);
}

/* Runs an operation with its first allocation failing, then its second, and so on until none is left to fail; each
 * time that one alone, and all behind it too. `operation` returns its status and cleans up; `check` looks at what it
 * left behind. Returns how many allocations there were. */
static long exhaust(mlxq_status (*operation)(void *user, mlxq_error *error),
                    void (*check)(void *user, mlxq_status status), void *user) {
  long count = 0;
  for (int only_one = 0; only_one < 2; only_one++) {
    for (count = 0;; count++) {
      mlxq_error error;
      memset(&error, 0, sizeof error);
      fail_after(count, only_one);
      mlxq_status status = operation(user, &error);
      atomic_store(&allocations_left, -1);
      bool failed = atomic_load(&failed_once);
      if (status != MLXQ_OK) {
        if (status != MLXQ_NO_MEMORY)
          fail_msg("allocation %ld: %s: %s", count, mlxq_status_name(status), error.message);
        assert_int_equal(error.status, MLXQ_NO_MEMORY);
        assert_true(strlen(error.message) > 0);
        assert_true(failed);
      }
      if (check) check(user, status);
      if (!failed) {
        assert_int_equal(status, MLXQ_OK);
        break;
      }
    }
  }
  return count;
}

/* ---- In memory ------------------------------------------------------------------------------------------------- */

typedef struct in_memory {
  mlxq_weights *in, *expected;
  mlxq_quant_config *config;
  bool quantize;
} in_memory;

static mlxq_status transform(void *user, mlxq_error *error) {
  const in_memory *work = user;
  mlxq_transform_options options = MLXQ_TRANSFORM_OPTIONS_INIT;
  mlxq_weights *out = (mlxq_weights *)(uintptr_t)16;
  options.threads = 1;
  mlxq_status status = work->quantize ? mlxq_quantize_weights(&out, work->in, work->config, NULL, NULL, &options, error)
                                      : mlxq_dequantize_weights(&out, work->in, work->config, &options, error);
  atomic_store(&allocations_left, -1);
  if (status != MLXQ_OK) {
    assert_null(out);
    return status;
  }
  assert_same_weights(out, work->expected);
  mlxq_weights_free(out);
  return status;
}

static void test_transforms_without_memory(void **state) {
  (void)state;
  in_memory work = {.in = new_weights(), .config = config_of(MLXQ_AFFINE, 4, 64)};
  for (int i = 0; i < 40; i++) {
    char name[32];
    snprintf(name, sizeof name, "l.%d.weight", i);
    add_random(work.in, name, MLXQ_BF16, SHAPE(2, i % 4 == 0 ? 63 : 64));
  }
  assert_int_equal(mlxq_quantize_weights(&work.expected, work.in, work.config, NULL, NULL, NULL, NULL), MLXQ_OK);
  work.quantize = true;
  assert_in_range(exhaust(transform, NULL, &work), 100, 10000);
  mlxq_weights_free(work.in);
  work.in = work.expected;
  work.quantize = false;
  assert_int_equal(mlxq_dequantize_weights(&work.expected, work.in, work.config, NULL, NULL), MLXQ_OK);
  assert_in_range(exhaust(transform, NULL, &work), 50, 10000);
  mlxq_weights_free(work.in);
  mlxq_weights_free(work.expected);
  mlxq_quant_config_free(work.config);
}

static mlxq_status build_map(void *user, mlxq_error *error) {
  (void)user;
  mlxq_weights *map = NULL;
  mlxq_status status = mlxq_weights_new(&map, error);
  for (size_t i = 0; status == MLXQ_OK && i < 300; i++) {
    char name[600];
    memset(name, 'n', sizeof name);
    snprintf(name + sizeof name - 8, 8, "%zu", i);
    status = mlxq_weights_add_copy(map, name, MLXQ_U8, SHAPE(3), "abc", error);
    assert_int_equal(mlxq_weights_count(map), status == MLXQ_OK ? i + 1 : i);
    assert_int_equal(mlxq_weights_find(map, name) != NULL, status == MLXQ_OK);
    /* The failure over, the addition succeeds. */
    if (status != MLXQ_OK) {
      atomic_store(&allocations_left, -1);
      assert_int_equal(mlxq_weights_add_copy(map, name, MLXQ_U8, SHAPE(3), "abc", NULL), MLXQ_OK);
      assert_memory_equal(mlxq_weights_find(map, name)->data, "abc", 3);
    }
  }
  mlxq_weights_free(map);
  return status;
}

static void test_maps_without_memory(void **state) {
  (void)state;
  assert_in_range(exhaust(build_map, NULL, NULL), 300, 1000);
}

static mlxq_status build_config(void *user, mlxq_error *error) {
  (void)user;
  static const char TEXT[] =
      "{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"a\": false, \"b\": true,"
      " \"c\": {\"group_size\": 32, \"bits\": 6, \"mode\": \"affine\"}}}";
  mlxq_quant_config *config = (mlxq_quant_config *)(uintptr_t)16;
  char *text = NULL;
  mlxq_status status = mlxq_quant_config_parse(&config, TEXT, sizeof TEXT - 1, error);
  if (status != MLXQ_OK) {
    assert_null(config);
    return status;
  }
  status = mlxq_quant_config_to_json(&text, config, error);
  if (status == MLXQ_OK) assert_non_null(strstr(text, "\"c\": {\"group_size\": 32"));
  mlxq_free(text);
  mlxq_quant_config_free(config);
  return status;
}

static void test_configs_without_memory(void **state) {
  (void)state;
  assert_in_range(exhaust(build_config, NULL, NULL), 3, 1000);
}

/* ---- On disk --------------------------------------------------------------------------------------------------- */

typedef struct on_disk {
  const char *scratch;
  bool quantize, with_report;
} on_disk;

/* A folder with two shards, an index that follows from them, side files. */
static void make_source(const void *scratch) {
  mlxq_weights *shard = new_weights();
  make_folder(path_in(scratch, "src"));
  write_text(path_in(scratch, "src/config.json"),
             "{\"model_type\": \"llama\", \"torch_dtype\": \"bfloat16\", \"num_hidden_layers\": 1}");
  write_text(path_in(scratch, "src/generation_config.json"), "{\"eos_token_id\": 2}");
  write_text(path_in(scratch, "src/tokenizer.json"), "{}");
  write_text(path_in(scratch, "src/merges.txt"), "a b");
  add_random(shard, "model.layers.0.mlp.down_proj.weight", MLXQ_F32, SHAPE(4, 64));
  add_random(shard, "lm_head.weight", MLXQ_F32, SHAPE(4, 64));
  write_safetensors(path_in(scratch, "src/model-1.safetensors"), shard);
  mlxq_weights_free(shard);
  shard = new_weights();
  add_random(shard, "model.norm.weight", MLXQ_F32, SHAPE(64));
  write_safetensors(path_in(scratch, "src/model-2.safetensors"), shard);
  mlxq_weights_free(shard);
  write_text(path_in(scratch, "src/model.safetensors.index.json"),
             "{\"weight_map\": {\"model.layers.0.mlp.down_proj.weight\": \"model-1.safetensors\","
             " \"lm_head.weight\": \"model-1.safetensors\", \"model.norm.weight\": \"model-2.safetensors\"}}");
}

static mlxq_status convert(void *user, mlxq_error *error) {
  const on_disk *work = user;
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  mlxq_dequantize_options back = MLXQ_DEQUANTIZE_OPTIONS_INIT;
  mlxq_report *report = (mlxq_report *)(uintptr_t)16;
  static const char *const SKIPS[] = {"model.norm"};
  options.common.threads = back.common.threads = 1;
  options.common.max_shard_bytes = back.common.max_shard_bytes = 100;
  options.skips = SKIPS;
  options.skip_count = 1;
  options.recipe = "mixed_3_6";
  options.stats = true;
  const char *source = path_in(work->scratch, work->quantize ? "src" : "quantized");
  const char *out = path_in(work->scratch, "out");
  mlxq_report **requested = work->with_report ? &report : NULL;
  mlxq_status status = work->quantize ? mlxq_quantize_checkpoint(requested, source, out, &options, error)
                                      : mlxq_dequantize_checkpoint(requested, source, out, &back, error);
  atomic_store(&allocations_left, -1);
  if (work->with_report && status != MLXQ_OK) assert_null(report);
  if (work->with_report && status == MLXQ_OK) mlxq_report_free(report);
  return status;
}

/* Every file of the reference is in the other folder, with the same bytes, and nothing else. */
static void assert_same_folder(const char *folder, const char *reference) {
  assert_int_equal(entries_in(folder), entries_in(reference));
  DIR *entries = opendir(reference);
  assert_non_null(entries);
  const struct dirent *entry;
  while ((entry = readdir(entries))) {
    char *found = NULL, *expected = NULL;
    size_t found_length = 0, expected_length = 0;
    if (entry->d_name[0] == '.') continue;
    expected = NULL;
    assert_int_equal(
        mlxq_file_read_text(&expected, &expected_length, path_in(reference, "%s", entry->d_name), 1 << 20, NULL),
        MLXQ_OK);
    if (mlxq_file_read_text(&found, &found_length, path_in(folder, "%s", entry->d_name), 1 << 20, NULL) != MLXQ_OK) {
      fail_msg("%s is missing", entry->d_name);
    }
    if (found_length != expected_length || memcmp(found, expected, found_length) != 0) {
      fail_msg("%s is another: %s", entry->d_name, found);
    }
    free(found);
    free(expected);
  }
  closedir(entries);
}

/* The destination is whole, or absent, and nothing lies beside it. */
static void check_destination(void *user, mlxq_status status) {
  const on_disk *work = user;
  const char *out = path_in(work->scratch, "out");
  assert_false(exists(path_in(work->scratch, ".out.mlxq-partial")));
  if (status == MLXQ_OK) {
    assert_same_folder(out, path_in(work->scratch, "reference"));
    assert_int_equal(mlxq_file_remove_tree(out, NULL), MLXQ_OK);
  } else if (exists(out)) {
    fail_msg("the destination is there, although the call failed");
  }
}

static void test_conversions_without_memory(void **state) {
  make_source(*state);
  for (int with_report = 0; with_report < 2; with_report++) {
    for (int quantize = 1; quantize >= 0; quantize--) {
      on_disk work = {.scratch = *state, .quantize = quantize, .with_report = with_report};
      mlxq_error error;
      if (convert(&work, &error) != MLXQ_OK) fail_msg("%s: %s", error.key, error.message);
      assert_int_equal(rename(path_in(*state, "out"), path_in(*state, "reference")), 0);
      assert_in_range(exhaust(convert, check_destination, &work), 50, 10000);
      if (quantize) {
        assert_int_equal(rename(path_in(*state, "reference"), path_in(*state, "quantized")), 0);
      } else {
        assert_int_equal(mlxq_file_remove_tree(path_in(*state, "reference"), NULL), MLXQ_OK);
        assert_int_equal(mlxq_file_remove_tree(path_in(*state, "quantized"), NULL), MLXQ_OK);
      }
    }
  }
}

static mlxq_status inspect(void *user, mlxq_error *error) {
  mlxq_report *report = (mlxq_report *)(uintptr_t)16;
  mlxq_status status = mlxq_inspect(&report, path_in(user, "src"), error);
  atomic_store(&allocations_left, -1);
  if (status != MLXQ_OK) {
    assert_null(report);
    return status;
  }
  if (!report->foreign || strcmp(report->foreign, "awq") != 0) fail_msg("the foreign format is not seen");
  assert_int_equal(mlxq_weights_count(report->tensors), 3);
  mlxq_report_free(report);
  return status;
}

static void test_inspecting_without_memory(void **state) {
  make_source(*state);
  write_text(path_in(*state, "src/quant_config.json"), "{}");
  assert_in_range(exhaust(inspect, NULL, *state), 20, 1000);
}

static mlxq_status verify(void *user, mlxq_error *error) {
  mlxq_verification *report = (mlxq_verification *)(uintptr_t)16;
  mlxq_verify_options options = MLXQ_VERIFY_OPTIONS_INIT;
  options.threads = 1;
  options.against = path_in(user, "src");
  mlxq_status status = mlxq_verify(&report, path_in(user, "broken"), &options, error);
  atomic_store(&allocations_left, -1);
  if (status != MLXQ_OK) {
    assert_null(report);
    return status;
  }
  assert_int_equal(report->defects_found, 11);
  assert_int_equal(report->defects_kept, 11);
  assert_int_equal(report->notes_found, 1);
  assert_string_equal(report->comparison->worst_layer, "model.norm");
  mlxq_verification_free(report);
  return status;
}

/* With defects of every room: an absent shard, two files of a tensor, an index, a name, a layer, NaN, other bits. */
static void test_verifying_without_memory(void **state) {
  make_source(*state);
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  const char *broken = path_in(*state, "broken");
  assert_int_equal(mlxq_quantize_checkpoint(NULL, path_in(*state, "src"), broken, &options, NULL), MLXQ_OK);
  mlxq_weights *tensors = read_safetensors(path_in(broken, "model.safetensors"));
  bytes_of(tensors, "model.layers.0.mlp.down_proj.weight")[3] ^= 1;
  write_safetensors(path_in(broken, "model.safetensors"), tensors);
  mlxq_weights_free(tensors);
  tensors = new_weights();
  add_random(tensors, "a/b.scales", MLXQ_F32, SHAPE(4));
  add_random(tensors, "model.norm.weight", MLXQ_BF16, SHAPE(64));
  memset(bytes_of(tensors, "model.norm.weight"), 0xFF, 2);
  write_safetensors(path_in(broken, "model-00001-of-00002.safetensors"), tensors);
  mlxq_weights_free(tensors);
  write_text(path_in(broken, "config.json"),
             "{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"b\": 7, \"none\": false}}");
  write_text(path_in(broken, "model.safetensors.index.json"),
             "{\"weight_map\": {\"model.layers.0.mlp.down_proj.weight\": \"model.safetensors\","
             " \"model.layers.0.mlp.down_proj.scales\": \"model.safetensors\","
             " \"model.layers.0.mlp.down_proj.biases\": \"model.safetensors\","
             " \"model.norm.weight\": \"model.safetensors\", \"x\": \"gone.safetensors\"}}");
  assert_in_range(exhaust(verify, NULL, *state), 100, 10000);
}

/* ---- Importing ------------------------------------------------------------------------------------------------- */

typedef struct importing {
  mlxq_weights *in, *expected;
  const char *scratch;
  const char *source;
  on_disk *folder;
} importing;

static void add_awq_layer(mlxq_weights *weights, const char *path, mlxq_dtype scales) {
  char name[96];
  snprintf(name, sizeof name, "%s.qweight", path);
  add_random(weights, name, MLXQ_I32, SHAPE(64, 2));
  snprintf(name, sizeof name, "%s.qzeros", path);
  add_random(weights, name, MLXQ_I32, SHAPE(2, 2));
  snprintf(name, sizeof name, "%s.scales", path);
  add_random(weights, name, scales, SHAPE(2, 16));
}

static mlxq_status import_awq(void *user, mlxq_error *error) {
  const importing *work = user;
  mlxq_awq_options options = MLXQ_AWQ_OPTIONS_INIT;
  mlxq_transform_options transform = MLXQ_TRANSFORM_OPTIONS_INIT;
  mlxq_weights *out = (mlxq_weights *)(uintptr_t)16;
  mlxq_quant_config *config = (mlxq_quant_config *)(uintptr_t)16;
  options.group_size = 32;
  transform.threads = 1;
  mlxq_status status = mlxq_import_awq(&out, &config, work->in, &options, &transform, error);
  atomic_store(&allocations_left, -1);
  if (status != MLXQ_OK) {
    assert_null(out);
    assert_null(config);
    return status;
  }
  if (work->expected) assert_same_weights(out, work->expected);
  mlxq_quant_config_free(config);
  mlxq_weights_free(out);
  return status;
}

static void test_awq_without_memory(void **state) {
  (void)state;
  importing work = {.in = new_weights()};
  mlxq_awq_options options = MLXQ_AWQ_OPTIONS_INIT;
  mlxq_quant_config *config = NULL;
  options.group_size = 32;
  for (int i = 0; i < 12; i++) {
    char name[32];
    snprintf(name, sizeof name, "l.%d", i);
    add_awq_layer(work.in, name, i % 2 ? MLXQ_F16 : MLXQ_BF16);
    snprintf(name, sizeof name, "l.%d.norm", i);
    add_random(work.in, name, MLXQ_F32, SHAPE(8));
  }
  assert_int_equal(mlxq_import_awq(&work.expected, &config, work.in, &options, NULL, NULL), MLXQ_OK);
  mlxq_quant_config_free(config);
  assert_in_range(exhaust(import_awq, NULL, &work), 50, 10000);
  mlxq_weights_free(work.in);
  mlxq_weights_free(work.expected);
}

static mlxq_status import_folder(void *user, mlxq_error *error) {
  const importing *work = user;
  mlxq_import_options options = MLXQ_IMPORT_OPTIONS_INIT;
  mlxq_report *report = (mlxq_report *)(uintptr_t)16;
  options.common.threads = 1;
  options.exact = true;
  options.requantize_bits = 4;
  mlxq_status status = mlxq_import_checkpoint(&report, path_in(work->scratch, "%s", work->source),
                                              path_in(work->scratch, "out"), &options, error);
  atomic_store(&allocations_left, -1);
  if (status != MLXQ_OK) assert_null(report);
  if (status == MLXQ_OK) mlxq_report_free(report);
  return status;
}

static void check_import(void *user, mlxq_status status) {
  const importing *work = user;
  check_destination(work->folder, status);
}

/* Experts of AWQ, and GPTQ with layers of every kind: widened, quantized anew, as they are. */
static void make_foreign_sources(const void *scratch) {
  mlxq_weights *awq = new_weights(), *gptq = new_weights();
  make_folder(path_in(scratch, "awq"));
  make_folder(path_in(scratch, "gptq"));
  write_text(path_in(scratch, "awq/config.json"),
             "{\"model_type\": \"mixtral\", \"num_hidden_layers\": 1, \"num_local_experts\": 2,"
             " \"quantization_config\": {\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 32}}");
  write_text(path_in(scratch, "gptq/config.json"), "{\"model_type\": \"llama\", \"num_hidden_layers\": 1}");
  write_text(path_in(scratch, "gptq/quantize_config.json"),
             "{\"bits\": 4, \"group_size\": 32, \"sym\": false, \"checkpoint_format\": \"gptq_v2\"}");
  for (int i = 0; i < 6; i++) {
    char name[96];
    snprintf(name, sizeof name, "model.layers.0.block_sparse_moe.experts.%d.w%d", i % 2, i / 2 + 1);
    add_awq_layer(awq, name, MLXQ_F16);
  }
  for (int i = 0; i < 3; i++) {
    static const int32_t SCATTERED[64] = {1};
    char name[96];
    snprintf(name, sizeof name, "l.%d.qweight", i);
    add_random(gptq, name, MLXQ_I32, SHAPE(8, 16));
    snprintf(name, sizeof name, "l.%d.qzeros", i);
    add_random(gptq, name, MLXQ_I32, SHAPE(2, 2));
    snprintf(name, sizeof name, "l.%d.scales", i);
    add_random(gptq, name, i == 1 ? MLXQ_BF16 : MLXQ_F16, SHAPE(2, 16));
    snprintf(name, sizeof name, "l.%d.g_idx", i);
    if (i == 2) add_bytes(gptq, name, MLXQ_I32, SHAPE(64), SCATTERED);
  }
  add_random(awq, "model.norm.weight", MLXQ_F16, SHAPE(8));
  add_random(gptq, "model.norm.weight", MLXQ_F16, SHAPE(8));
  write_safetensors(path_in(scratch, "awq/model.safetensors"), awq);
  write_safetensors(path_in(scratch, "gptq/model.safetensors"), gptq);
  mlxq_weights_free(awq);
  mlxq_weights_free(gptq);
}

static void test_imports_without_memory(void **state) {
  static const char *const SOURCES[] = {"awq", "gptq"};
  make_foreign_sources(*state);
  for (size_t i = 0; i < COUNT(SOURCES); i++) {
    importing work = {.scratch = *state, .source = SOURCES[i]};
    on_disk folder = {.scratch = *state};
    mlxq_error error;
    if (import_folder(&work, &error) != MLXQ_OK) fail_msg("%s: %s", error.key, error.message);
    assert_int_equal(rename(path_in(*state, "out"), path_in(*state, "reference")), 0);
    work.folder = &folder;
    assert_in_range(exhaust(import_folder, check_import, &work), 50, 10000);
    assert_int_equal(mlxq_file_remove_tree(path_in(*state, "reference"), NULL), MLXQ_OK);
  }
}

/* ---- Threads --------------------------------------------------------------------------------------------------- */

/* Fewer threads than asked for only take longer. */
static void test_threads_that_cannot_start(void **state) {
  (void)state;
  mlxq_weights *in = new_weights(), *expected = NULL;
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  add_random(in, "a.weight", MLXQ_F32, SHAPE(2000, 1024));
  assert_int_equal(mlxq_quantize_weights(&expected, in, config, NULL, NULL, NULL, NULL), MLXQ_OK);
  for (long started = 0; started < 4; started++) {
    mlxq_transform_options options = MLXQ_TRANSFORM_OPTIONS_INIT;
    mlxq_weights *out = NULL;
    options.threads = 8;
    atomic_store(&threads_left, started);
    mlxq_status status = mlxq_quantize_weights(&out, in, config, NULL, NULL, &options, NULL);
    atomic_store(&threads_left, -1);
    assert_int_equal(status, MLXQ_OK);
    assert_same_weights(out, expected);
    mlxq_weights_free(out);
  }
  mlxq_weights_free(expected);
  mlxq_weights_free(in);
  mlxq_quant_config_free(config);
}

#define ON_DISK(function) cmocka_unit_test_setup_teardown(function, make_scratch, remove_scratch)

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_sums_and_products_fit_63_bits),
      cmocka_unit_test(test_a_result_may_be_an_operand),
      cmocka_unit_test(test_nothing_is_a_valid_pointer),
      cmocka_unit_test(test_too_much_is_null),
      cmocka_unit_test(test_calloc_clears),
      cmocka_unit_test(test_realloc_keeps),
      cmocka_unit_test(test_arrays_grow),
      cmocka_unit_test(test_a_failed_growth_changes_nothing),
      cmocka_unit_test(test_arena_blocks_are_apart_and_aligned),
      cmocka_unit_test(test_arena_refuses_what_cannot_be),
      cmocka_unit_test(test_arena_is_free_twice),
      cmocka_unit_test(test_arena_text),
      cmocka_unit_test(test_asprintf),
      cmocka_unit_test(test_hash_of_a_text_in_two_parts),
      cmocka_unit_test(test_the_digest_is_the_same_everywhere),
      cmocka_unit_test(test_hashes_spread),
      cmocka_unit_test(test_text_is_set),
      cmocka_unit_test(test_transforms_without_memory),
      cmocka_unit_test(test_maps_without_memory),
      cmocka_unit_test(test_configs_without_memory),
      ON_DISK(test_conversions_without_memory),
      ON_DISK(test_inspecting_without_memory),
      ON_DISK(test_verifying_without_memory),
      cmocka_unit_test(test_awq_without_memory),
      ON_DISK(test_imports_without_memory),
      cmocka_unit_test(test_threads_that_cannot_start),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
