/* scheme.c: modes, defaults, and which schemes MLX has. */
#include <mlxq/scheme.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
/* Uses the headers above. */
#include <cmocka.h>

static const char *const NAMES[MLXQ_MODE_COUNT] = {"affine", "mxfp4", "mxfp8", "nvfp4"};

static void test_mode_names(void **state) {
  (void)state;
  for (int i = 0; i < MLXQ_MODE_COUNT; i++) {
    mlxq_mode mode = MLXQ_MODE_COUNT;
    assert_string_equal(mlxq_mode_name((mlxq_mode)i), NAMES[i]);
    assert_int_equal(mlxq_mode_parse(&mode, NAMES[i], NULL), MLXQ_OK);
    assert_int_equal(mode, i);
  }
  assert_string_equal(mlxq_mode_name(MLXQ_MODE_COUNT), "unknown");
}

static void test_unknown_modes(void **state) {
  (void)state;
  static const char *const WRONG[] = {"", "AFFINE", "affine ", "mxfp", "mxfp44", "unknown", "int4"};
  for (size_t i = 0; i < sizeof WRONG / sizeof *WRONG; i++) {
    mlxq_mode mode = MLXQ_NVFP4;
    mlxq_error error = {0};
    assert_int_equal(mlxq_mode_parse(&mode, WRONG[i], &error), MLXQ_UNKNOWN_VALUE);
    assert_int_equal(error.status, MLXQ_UNKNOWN_VALUE);
    assert_string_equal(error.key, "mode");
    assert_int_equal(mode, MLXQ_NVFP4);
    assert_int_equal(mlxq_mode_parse(&mode, WRONG[i], NULL), MLXQ_UNKNOWN_VALUE);
  }
  mlxq_mode mode;
  mlxq_error error = {0};
  mlxq_mode_parse(&mode, "int4\n", &error);
  assert_string_equal(error.message, "\"int4\\x0A\" is none of affine, mxfp4, mxfp8, nvfp4");
}

static void test_biases(void **state) {
  (void)state;
  assert_true(mlxq_mode_has_biases(MLXQ_AFFINE));
  assert_false(mlxq_mode_has_biases(MLXQ_MXFP4));
  assert_false(mlxq_mode_has_biases(MLXQ_MXFP8));
  assert_false(mlxq_mode_has_biases(MLXQ_NVFP4));
}

static void test_defaults(void **state) {
  (void)state;
  static const int32_t BITS[] = {4, 4, 8, 4}, GROUPS[] = {64, 32, 32, 16};
  for (int i = 0; i < MLXQ_MODE_COUNT; i++) {
    mlxq_scheme scheme = mlxq_scheme_default((mlxq_mode)i);
    assert_int_equal(scheme.mode, i);
    assert_int_equal(scheme.bits, BITS[i]);
    assert_int_equal(scheme.group_size, GROUPS[i]);
    assert_int_equal(mlxq_scheme_check(&scheme, NULL), MLXQ_OK);
  }
}

static bool mlx_has(mlxq_mode mode, int32_t bits, int32_t group_size) {
  switch (mode) {
    case MLXQ_AFFINE:
      return (bits == 2 || bits == 3 || bits == 4 || bits == 5 || bits == 6 || bits == 8) &&
             (group_size == 32 || group_size == 64 || group_size == 128);
    case MLXQ_MXFP4:
      return bits == 4 && group_size == 32;
    case MLXQ_MXFP8:
      return bits == 8 && group_size == 32;
    case MLXQ_NVFP4:
      return bits == 4 && group_size == 16;
    default:
      return false;
  }
}

static void test_every_scheme(void **state) {
  (void)state;
  int legal = 0;
  for (int mode = 0; mode < MLXQ_MODE_COUNT; mode++) {
    for (int32_t bits = -1; bits <= 33; bits++) {
      for (int32_t group_size = -64; group_size <= 257; group_size++) {
        mlxq_scheme scheme = {(mlxq_mode)mode, bits, group_size};
        bool expected = mlx_has(scheme.mode, bits, group_size);
        assert_int_equal(mlxq_scheme_check(&scheme, NULL), expected ? MLXQ_OK : MLXQ_OUT_OF_RANGE);
        legal += expected;
      }
    }
  }
  assert_int_equal(legal, 6 * 3 + 3);
}

static void test_extremes(void **state) {
  (void)state;
  static const int32_t EXTREMES[] = {INT32_MIN, INT32_MIN + 1, 0, INT32_MAX - 1, INT32_MAX};
  for (size_t i = 0; i < sizeof EXTREMES / sizeof *EXTREMES; i++) {
    mlxq_scheme bits = {MLXQ_AFFINE, EXTREMES[i], 64}, group_size = {MLXQ_AFFINE, 4, EXTREMES[i]};
    assert_int_equal(mlxq_scheme_check(&bits, NULL), MLXQ_OUT_OF_RANGE);
    assert_int_equal(mlxq_scheme_check(&group_size, NULL), MLXQ_OUT_OF_RANGE);
  }
}

static void test_check_errors(void **state) {
  (void)state;
  static const struct {
    mlxq_scheme scheme;
    const char *key, *message;
  } CASES[] = {
      {{MLXQ_AFFINE, 7, 64}, "bits", "affine takes 2, 3, 4, 5, 6 or 8 bits, not 7"},
      {{MLXQ_AFFINE, 4, 48}, "group_size", "affine takes groups of 32, 64 or 128, not 48"},
      {{MLXQ_AFFINE, 1, -1}, "bits", "affine takes 2, 3, 4, 5, 6 or 8 bits, not 1"},
      {{MLXQ_MXFP4, 8, 32}, "bits", "mxfp4 takes 4 bits, not 8"},
      {{MLXQ_MXFP8, 8, 64}, "group_size", "mxfp8 takes groups of 32, not 64"},
      {{MLXQ_NVFP4, 4, 32}, "group_size", "nvfp4 takes groups of 16, not 32"},
      {{MLXQ_MODE_COUNT, 4, 64}, "mode", "4 is no mode"},
  };
  for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
    mlxq_error error = {0};
    assert_int_equal(mlxq_scheme_check(&CASES[i].scheme, &error), MLXQ_OUT_OF_RANGE);
    assert_int_equal(error.status, MLXQ_OUT_OF_RANGE);
    assert_string_equal(error.key, CASES[i].key);
    assert_string_equal(error.message, CASES[i].message);
    assert_string_equal(error.layer, "");
  }
}

static void test_error_untouched_on_success(void **state) {
  (void)state;
  mlxq_error error, before;
  memset(&error, 'x', sizeof error);
  before = error;
  mlxq_mode mode;
  mlxq_scheme scheme = mlxq_scheme_default(MLXQ_AFFINE);
  assert_int_equal(mlxq_mode_parse(&mode, "affine", &error), MLXQ_OK);
  assert_int_equal(mlxq_scheme_check(&scheme, &error), MLXQ_OK);
  assert_memory_equal(&error, &before, sizeof error);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_mode_names),   cmocka_unit_test(test_unknown_modes),
      cmocka_unit_test(test_biases),       cmocka_unit_test(test_defaults),
      cmocka_unit_test(test_every_scheme), cmocka_unit_test(test_extremes),
      cmocka_unit_test(test_check_errors), cmocka_unit_test(test_error_untouched_on_success),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
