/* tensor_map.c and dtype.c: the ordered map of named tensors, and element types. */
#include <mlxq/weights.h>

#include "base/memory.h"
#include "helpers.h"
#include "tensor/tensor_map.h"

#include <time.h>

/* An allocation that is too large is then a NULL under the address sanitizer too. */
const char *__asan_default_options(void) __attribute__((visibility("default")));
const char *__asan_default_options(void) {
  return "allocator_may_return_null=1";
}

/* ---- Element types --------------------------------------------------------------------------------------------- */

static const struct {
  mlxq_dtype dtype;
  const char *name;
  unsigned bits;
  bool floating;
} DTYPES[] = {
    {MLXQ_BOOL, "BOOL", 8, false},       {MLXQ_U8, "U8", 8, false},           {MLXQ_I8, "I8", 8, false},
    {MLXQ_I16, "I16", 16, false},        {MLXQ_U16, "U16", 16, false},        {MLXQ_I32, "I32", 32, false},
    {MLXQ_U32, "U32", 32, false},        {MLXQ_I64, "I64", 64, false},        {MLXQ_U64, "U64", 64, false},
    {MLXQ_F16, "F16", 16, true},         {MLXQ_BF16, "BF16", 16, true},       {MLXQ_F32, "F32", 32, true},
    {MLXQ_F64, "F64", 64, true},         {MLXQ_C64, "C64", 64, false},        {MLXQ_F8_E4M3, "F8_E4M3", 8, false},
    {MLXQ_F8_E5M2, "F8_E5M2", 8, false}, {MLXQ_F8_E8M0, "F8_E8M0", 8, false}, {MLXQ_F6_E2M3, "F6_E2M3", 6, false},
    {MLXQ_F6_E3M2, "F6_E3M2", 6, false}, {MLXQ_F4, "F4", 4, false},
};

static void test_dtypes(void **state) {
  (void)state;
  assert_int_equal(COUNT(DTYPES), MLXQ_DTYPE_COUNT);
  for (size_t i = 0; i < COUNT(DTYPES); i++) {
    mlxq_dtype dtype = MLXQ_DTYPE_COUNT;
    assert_string_equal(mlxq_dtype_name(DTYPES[i].dtype), DTYPES[i].name);
    assert_int_equal(mlxq_dtype_bits(DTYPES[i].dtype), DTYPES[i].bits);
    assert_int_equal(mlxq_dtype_is_floating(DTYPES[i].dtype), DTYPES[i].floating);
    assert_true(mlxq_dtype_parse(DTYPES[i].name, &dtype));
    assert_int_equal(dtype, DTYPES[i].dtype);
  }
}

static void test_no_dtypes(void **state) {
  (void)state;
  static const char *const WRONG[] = {"", "f32", "F32 ", "F3", "F321", "unknown", "float32", "F8", "BOOL8"};
  for (size_t i = 0; i < COUNT(WRONG); i++) {
    mlxq_dtype dtype = MLXQ_C64;
    assert_false(mlxq_dtype_parse(WRONG[i], &dtype));
    assert_int_equal(dtype, MLXQ_C64);
  }
  assert_string_equal(mlxq_dtype_name(MLXQ_DTYPE_COUNT), "unknown");
  assert_string_equal(mlxq_dtype_name((mlxq_dtype)-1), "unknown");
  assert_int_equal(mlxq_dtype_bits(MLXQ_DTYPE_COUNT), 0);
  assert_false(mlxq_dtype_is_floating(MLXQ_DTYPE_COUNT));
}

/* ---- Adding and finding ---------------------------------------------------------------------------------------- */

static void test_an_empty_map(void **state) {
  (void)state;
  mlxq_weights *map = new_weights();
  assert_int_equal(mlxq_weights_count(map), 0);
  assert_null(mlxq_weights_find(map, "a"));
  assert_null(mlxq_weights_find(map, ""));
  assert_int_equal(mlxq_weights_index(map, "a", 1), SIZE_MAX);
  assert_null(mlxq_weights_part(map, "a", 1, ".weight"));
  mlxq_weights_free(map);
  mlxq_weights_free(NULL);
}

static void test_the_order_is_that_of_insertion(void **state) {
  (void)state;
  static const char *const NAMES[] = {"z", "a", "m.weight", "a.weight", "B", "", "b", "m"};
  mlxq_weights *map = new_weights();
  for (size_t i = 0; i < COUNT(NAMES); i++) add_random(map, NAMES[i], MLXQ_U8, SHAPE(i + 1));
  assert_names(map, NAMES, COUNT(NAMES));
  for (size_t i = 0; i < COUNT(NAMES); i++) {
    assert_ptr_equal(mlxq_weights_find(map, NAMES[i]), mlxq_weights_at(map, i));
    assert_int_equal(mlxq_weights_index(map, NAMES[i], strlen(NAMES[i])), i);
    assert_int_equal(mlxq_weights_at(map, i)->bytes, i + 1);
  }
  assert_null(mlxq_weights_find(map, "m.weigh"));
  assert_null(mlxq_weights_find(map, "m.weights"));
  assert_null(mlxq_weights_find(map, "m."));
  assert_null(mlxq_weights_find(map, "A"));
  mlxq_weights_free(map);
}

/* What is told to the map is copied; copied bytes are the map's, borrowed ones the caller's. */
static void test_ownership(void **state) {
  (void)state;
  mlxq_weights *map = new_weights();
  char name[] = "a.weight";
  uint64_t shape[] = {2, 3};
  unsigned char data[] = {1, 2, 3, 4, 5, 6};
  assert_int_equal(mlxq_weights_add_copy(map, name, MLXQ_U8, 2, shape, data, NULL), MLXQ_OK);
  name[0] = 'b';
  assert_int_equal(mlxq_weights_add_borrowed(map, name, MLXQ_U8, 2, shape, data, NULL), MLXQ_OK);
  name[0] = 'x';
  shape[0] = 99;
  data[0] = 77;
  const mlxq_tensor *copied = mlxq_weights_find(map, "a.weight"), *borrowed = mlxq_weights_find(map, "b.weight");
  assert_shape(copied, MLXQ_U8, SHAPE(2, 3));
  assert_shape(borrowed, MLXQ_U8, SHAPE(2, 3));
  assert_memory_equal(copied->data, ((unsigned char[]){1, 2, 3, 4, 5, 6}), 6);
  assert_ptr_equal(borrowed->data, data);
  assert_string_equal(copied->name, "a.weight");
  mlxq_weights_free(map);
  assert_memory_equal(data, ((unsigned char[]){77, 2, 3, 4, 5, 6}), 6);
}

static void test_scalars_and_empty_tensors(void **state) {
  (void)state;
  mlxq_weights *map = new_weights();
  float one = 1;
  assert_int_equal(mlxq_weights_add_copy(map, "scalar", MLXQ_F32, SCALAR, &one, NULL), MLXQ_OK);
  assert_int_equal(mlxq_weights_add_copy(map, "empty", MLXQ_F32, SHAPE(4, 0, 4), NULL, NULL), MLXQ_OK);
  assert_int_equal(mlxq_weights_add_borrowed(map, "wide", MLXQ_I64, SHAPE(0, UINT64_C(1) << 40), NULL, NULL), MLXQ_OK);
  assert_shape(mlxq_weights_find(map, "scalar"), MLXQ_F32, SCALAR);
  assert_int_equal(mlxq_tensor_elems(mlxq_weights_find(map, "scalar")), 1);
  assert_memory_equal(mlxq_weights_find(map, "scalar")->data, &one, sizeof one);
  assert_shape(mlxq_weights_find(map, "empty"), MLXQ_F32, SHAPE(4, 0, 4));
  assert_int_equal(mlxq_tensor_elems(mlxq_weights_find(map, "empty")), 0);
  assert_int_equal(mlxq_weights_find(map, "wide")->bytes, 0);
  mlxq_weights_free(map);
}

static void test_bytes_of_each_dtype(void **state) {
  (void)state;
  mlxq_weights *map = new_weights();
  for (size_t i = 0; i < COUNT(DTYPES); i++) {
    add_random(map, DTYPES[i].name, DTYPES[i].dtype, SHAPE(3, 8));
    assert_int_equal(mlxq_weights_find(map, DTYPES[i].name)->bytes, 3 * 8 * DTYPES[i].bits / 8);
  }
  mlxq_weights_free(map);
}

static void test_parts_of_a_layer(void **state) {
  (void)state;
  size_t length = 99;
  mlxq_weights *map = new_weights();
  add_random(map, "a.b.weight", MLXQ_U8, SHAPE(1));
  add_random(map, "a.b.scales", MLXQ_U8, SHAPE(2));
  add_random(map, "a.weight", MLXQ_U8, SHAPE(3));
  add_random(map, ".weight", MLXQ_U8, SHAPE(4));
  assert_int_equal(mlxq_weights_part(map, "a.b.weight", 3, ".scales")->bytes, 2);
  assert_int_equal(mlxq_weights_part(map, "a.b.weight", 3, ".weight")->bytes, 1);
  assert_int_equal(mlxq_weights_part(map, "a.b", 1, ".weight")->bytes, 3);
  assert_int_equal(mlxq_weights_part(map, "", 0, ".weight")->bytes, 4);
  assert_null(mlxq_weights_part(map, "a.b", 3, ".biases"));
  assert_null(mlxq_weights_part(map, "a.b", 2, ".scales"));
  assert_true(mlxq_name_splits("a.b.weight", ".weight", &length));
  assert_int_equal(length, 3);
  assert_true(mlxq_name_splits(".weight", ".weight", &length));
  assert_int_equal(length, 0);
  length = 99;
  assert_false(mlxq_name_splits("a.weights", ".weight", &length));
  assert_false(mlxq_name_splits("weight", ".weight", &length));
  assert_false(mlxq_name_splits("", ".weight", &length));
  assert_int_equal(length, 99);
  mlxq_weights_free(map);
}

/* ---- Refusals -------------------------------------------------------------------------------------------------- */

/* The map still holds its two tensors, is found through, and takes a third. */
static void assert_unchanged(mlxq_weights *map, const char *name) {
  assert_int_equal(mlxq_weights_count(map), 2);
  assert_string_equal(mlxq_weights_at(map, 0)->name, "first");
  assert_string_equal(mlxq_weights_at(map, 1)->name, "second");
  assert_ptr_equal(mlxq_weights_find(map, "first"), mlxq_weights_at(map, 0));
  assert_ptr_equal(mlxq_weights_find(map, "second"), mlxq_weights_at(map, 1));
  assert_memory_equal(mlxq_weights_at(map, 0)->data, "one", 3);
  if (name) assert_null(mlxq_weights_find(map, name));
}

static mlxq_weights *map_of_two(void) {
  mlxq_weights *map = new_weights();
  add_bytes(map, "first", MLXQ_U8, SHAPE(3), "one");
  add_bytes(map, "second", MLXQ_U8, SHAPE(3), "two");
  return map;
}

static void test_a_name_comes_once(void **state) {
  (void)state;
  mlxq_weights *map = map_of_two();
  mlxq_error error;
  assert_int_equal(mlxq_weights_add_copy(map, "first", MLXQ_F16, SHAPE(1), "ab", &error), MLXQ_KEY_COLLISION);
  assert_error(&error, MLXQ_KEY_COLLISION, "", "first");
  assert_int_equal(mlxq_weights_add_borrowed(map, "second", MLXQ_U8, SHAPE(3), "abc", &error), MLXQ_KEY_COLLISION);
  assert_error(&error, MLXQ_KEY_COLLISION, "", "second");
  assert_int_equal(mlxq_weights_add_copy(map, "first", MLXQ_U8, SHAPE(3), "abc", NULL), MLXQ_KEY_COLLISION);
  assert_unchanged(map, NULL);
  mlxq_weights_free(map);
}

static void test_the_rank_is_limited(void **state) {
  (void)state;
  uint64_t shape[MLXQ_MAX_RANK + 1];
  for (size_t i = 0; i < COUNT(shape); i++) shape[i] = 1;
  mlxq_weights *map = map_of_two();
  mlxq_error error;
  assert_int_equal(mlxq_weights_add_copy(map, "deep", MLXQ_U8, 17, shape, "x", &error), MLXQ_OUT_OF_RANGE);
  assert_error(&error, MLXQ_OUT_OF_RANGE, "", "deep");
  assert_int_equal(mlxq_weights_add_borrowed(map, "deep", MLXQ_U8, UINT32_MAX, shape, "x", &error), MLXQ_OUT_OF_RANGE);
  assert_unchanged(map, "deep");
  assert_int_equal(mlxq_weights_add_copy(map, "deep", MLXQ_U8, 16, shape, "x", &error), MLXQ_OK);
  assert_shape(mlxq_weights_find(map, "deep"), MLXQ_U8, 16, shape);
  mlxq_weights_free(map);
}

static void test_sizes_that_overflow(void **state) {
  (void)state;
  static const struct {
    mlxq_dtype dtype;
    uint64_t shape[3];
  } CASES[] = {
      {MLXQ_U8, {UINT64_C(1) << 32, UINT64_C(1) << 31, 1}},
      {MLXQ_U8, {UINT64_MAX, 1, 1}},
      {MLXQ_U8, {(uint64_t)INT64_MAX + 1, 1, 1}},
      {MLXQ_U8, {UINT64_C(1) << 63, 2, 1}}, /* 0 modulo 2^64 */
      {MLXQ_U8, {UINT64_C(1) << 32, UINT64_C(1) << 32, 1}},
      {MLXQ_F32, {UINT64_C(1) << 21, UINT64_C(1) << 21, UINT64_C(1) << 21}},
      {MLXQ_F4, {UINT64_C(1) << 61, 2, 1}},
      {MLXQ_F64, {UINT64_C(1) << 30, UINT64_C(1) << 30, 2}},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    mlxq_weights *map = map_of_two();
    mlxq_error error;
    memset(&error, 0, sizeof error);
    assert_int_equal(mlxq_weights_add_borrowed(map, "huge", CASES[i].dtype, 3, CASES[i].shape, "x", &error),
                     MLXQ_OVERFLOW);
    assert_int_equal(error.status, MLXQ_OVERFLOW);
    assert_true(strlen(error.message) > 0);
    assert_int_equal(mlxq_weights_add_copy(map, "huge", CASES[i].dtype, 3, CASES[i].shape, "x", NULL), MLXQ_OVERFLOW);
    assert_unchanged(map, "huge");
    mlxq_weights_free(map);
  }
}

/* As every other refusal does. */
static void test_an_overflow_names_the_tensor(void **state) {
  (void)state;
  mlxq_weights *map = new_weights();
  mlxq_error error;
  assert_int_equal(mlxq_weights_add_borrowed(map, "huge", MLXQ_U8, SHAPE(UINT64_MAX), "x", &error), MLXQ_OVERFLOW);
  assert_error(&error, MLXQ_OVERFLOW, "", "huge");
  mlxq_weights_free(map);
}

static void test_elements_below_a_byte(void **state) {
  (void)state;
  mlxq_weights *map = map_of_two();
  mlxq_error error;
  assert_int_not_equal(mlxq_weights_add_copy(map, "odd", MLXQ_F4, SHAPE(3), "ab", &error), MLXQ_OK);
  assert_int_not_equal(mlxq_weights_add_copy(map, "odd", MLXQ_F6_E2M3, SHAPE(2), "ab", &error), MLXQ_OK);
  assert_unchanged(map, "odd");
  assert_int_equal(mlxq_weights_add_copy(map, "even", MLXQ_F4, SHAPE(3, 2), "abc", &error), MLXQ_OK);
  assert_int_equal(mlxq_weights_find(map, "even")->bytes, 3);
  assert_int_equal(mlxq_weights_add_copy(map, "six", MLXQ_F6_E3M2, SHAPE(4), "abc", &error), MLXQ_OK);
  assert_int_equal(mlxq_weights_find(map, "six")->bytes, 3);
  mlxq_weights_free(map);
}

/* More than any machine has: the name must not stay behind without its bytes. */
static void test_memory_runs_out(void **state) {
  (void)state;
  mlxq_weights *map = map_of_two();
  mlxq_error error;
  uint64_t huge = UINT64_C(1) << 59;
  for (int round = 0; round < 3; round++) {
    assert_int_equal(mlxq_weights_add_copy(map, "huge", MLXQ_U8, 1, &huge, "x", &error), MLXQ_NO_MEMORY);
    assert_error(&error, MLXQ_NO_MEMORY, "", "huge");
    assert_unchanged(map, "huge");
  }
  assert_int_equal(mlxq_weights_add_copy(map, "huge", MLXQ_U8, SHAPE(1), "x", &error), MLXQ_OK);
  assert_memory_equal(mlxq_weights_find(map, "huge")->data, "x", 1);
  mlxq_weights_free(map);
}

/* ---- Many ------------------------------------------------------------------------------------------------------ */

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void name_of(char *name, size_t room, size_t i) {
  snprintf(name, room, "model.layers.%zu.block_sparse_moe.experts.%zu.w%zu.weight", i / 1000, i / 10 % 100, i % 10);
}

static void test_a_hundred_thousand_names(void **state) {
  (void)state;
  enum { MANY = 100000 };
  char name[128];
  double start = seconds();
  mlxq_weights *map = new_weights();
  for (size_t i = 0; i < MANY; i++) {
    name_of(name, sizeof name, i);
    assert_int_equal(mlxq_weights_add_copy(map, name, MLXQ_U32, SHAPE(1), &(uint32_t){(uint32_t)i}, NULL), MLXQ_OK);
  }
  for (size_t i = 0; i < MANY; i++) {
    name_of(name, sizeof name, i);
    const mlxq_tensor *tensor = mlxq_weights_find(map, name);
    assert_ptr_equal(tensor, mlxq_weights_at(map, i));
    assert_string_equal(tensor->name, name);
    assert_int_equal(*(const uint32_t *)tensor->data, i);
    name[6] = '_';
    assert_null(mlxq_weights_find(map, name));
  }
  name_of(name, sizeof name, 50000);
  assert_int_equal(mlxq_weights_add_copy(map, name, MLXQ_U32, SHAPE(1), name, NULL), MLXQ_KEY_COLLISION);
  assert_int_equal(mlxq_weights_count(map), MANY);
  /* It takes some 50 ms; the room is for sanitizers and busy machines, a quadratic map would not fit it. */
  assert_true(seconds() - start < 5);
  mlxq_weights_free(map);
}

/* Around every size at which the map's arrays grow, nothing is lost. */
static void test_growth(void **state) {
  (void)state;
  mlxq_weights *map = new_weights();
  char name[32];
  for (size_t i = 0; i < 3000; i++) {
    snprintf(name, sizeof name, "t%zu", i);
    add_bytes(map, name, MLXQ_U8, SHAPE(strlen(name)), name);
    for (size_t k = i > 40 ? i - 40 : 0; k <= i; k++) {
      snprintf(name, sizeof name, "t%zu", k);
      const mlxq_tensor *tensor = mlxq_weights_find(map, name);
      assert_ptr_equal(tensor, mlxq_weights_at(map, k));
      assert_memory_equal(tensor->data, name, strlen(name));
    }
    snprintf(name, sizeof name, "t%zu", i + 1);
    assert_null(mlxq_weights_find(map, name));
  }
  mlxq_weights_free(map);
}

/* Steps from the slot where a name's search starts to the one where it ends, on the average. */
static double mean_probes(const mlxq_weights *map) {
  double probes = 0;
  for (size_t slot = 0; slot < map->slot_count; slot++) {
    if (map->slots[slot] == 0) continue;
    const char *name = map->entries[map->slots[slot] - 1].tensor.name;
    probes += (double)((slot - mlxq_hash(name, strlen(name))) % map->slot_count);
  }
  return probes / (double)map->count;
}

/* Names that a file could hold because they meet in one slot under a hash that is known: they do not here. */
static void test_names_that_were_chosen_to_collide(void **state) {
  (void)state;
  enum { NAMES = 1000, SLOTS = 2048 };
  char name[32];
  size_t found = 0;
  mlxq_weights *map = new_weights();
  for (unsigned long i = 0; found < NAMES; i++) {
    snprintf(name, sizeof name, "w%lu", i);
    if (mlxq_digest(name, strlen(name)) % SLOTS != 0) continue;
    add_bytes(map, name, MLXQ_U8, SHAPE(1), name);
    found++;
  }
  assert_int_equal(map->slot_count, SLOTS);
  /* About a half is expected of a table that is half full; names of one slot would take 500. */
  assert_true(mean_probes(map) < 4);
  mlxq_weights_free(map);
}

/* A key of an index may hold a NUL. Its search meets names equal up to there, and reads no further in them. */
static void test_a_name_with_a_nul_is_not_there(void **state) {
  (void)state;
  enum { LENGTH = 100000 };
  char *name = calloc(1, LENGTH + 1);
  assert_non_null(name);
  mlxq_weights *map = new_weights();
  add_random(map, "a", MLXQ_U8, SHAPE(1));
  name[0] = 'a';
  for (int i = 0; i < 1000; i++) { /* some of them meet it */
    memcpy(name + 2, &i, sizeof i);
    assert_true(mlxq_weights_index(map, name, LENGTH) == SIZE_MAX);
  }
  assert_int_equal(mlxq_weights_index(map, name, 1), 0);
  mlxq_weights_free(map);
  free(name);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_dtypes),
      cmocka_unit_test(test_no_dtypes),
      cmocka_unit_test(test_an_empty_map),
      cmocka_unit_test(test_the_order_is_that_of_insertion),
      cmocka_unit_test(test_ownership),
      cmocka_unit_test(test_scalars_and_empty_tensors),
      cmocka_unit_test(test_bytes_of_each_dtype),
      cmocka_unit_test(test_parts_of_a_layer),
      cmocka_unit_test(test_a_name_comes_once),
      cmocka_unit_test(test_the_rank_is_limited),
      cmocka_unit_test(test_sizes_that_overflow),
      cmocka_unit_test(test_an_overflow_names_the_tensor),
      cmocka_unit_test(test_elements_below_a_byte),
      cmocka_unit_test(test_memory_runs_out),
      cmocka_unit_test(test_a_hundred_thousand_names),
      cmocka_unit_test(test_growth),
      cmocka_unit_test(test_names_that_were_chosen_to_collide),
      cmocka_unit_test(test_a_name_with_a_nul_is_not_there),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
