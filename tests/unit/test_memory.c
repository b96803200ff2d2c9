/* memory.c: checked sizes, allocation, growing arrays, the arena, hashing. */
#include "base/memory.h"

#include "base/text.h"
#include "helpers.h"

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
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
