/* The public calls on one array: sizes, results, and every error. The bits themselves are test_kernels.c's and
 * golden/test_golden.c's. */
#include "helpers.h"
#include "kernels/kernels.h"

#include <math.h>

enum { ELEMS = 4 * 128 };

/* Small integers, exact in every dtype. */
static void fill(mlxq_dtype dtype, void *weight) {
  float values[ELEMS];
  for (int i = 0; i < ELEMS; i++) values[i] = (float)(i * 37 % 101 - 50);
  mlxq_kernels(MLXQ_ISA_REF)->cast(MLXQ_F32, dtype, values, weight, ELEMS);
}

static void test_sizes(void **state) {
  (void)state;
  for (size_t i = 0; i < LEGAL_COUNT; i++) {
    for (size_t d = 0; d < QUANTIZABLE_COUNT; d++) {
      const mlxq_scheme *scheme = &LEGAL[i];
      static const uint64_t GROUPS[] = {0, 1, 7, (uint64_t)1 << 40};
      for (size_t g = 0; g < COUNT(GROUPS); g++) {
        uint64_t packed = 1, scales = 1, biases = 1, elems = GROUPS[g] * (uint64_t)scheme->group_size;
        assert_int_equal(mlxq_quantized_bytes(&packed, &scales, &biases, scheme, QUANTIZABLE[d], elems, NULL), MLXQ_OK);
        bool affine = scheme->mode == MLXQ_AFFINE;
        assert_int_equal(packed, elems * (uint64_t)scheme->bits / 32 * 4);
        assert_int_equal(scales, GROUPS[g] * (affine ? mlxq_dtype_bits(QUANTIZABLE[d]) / 8 : 1));
        assert_int_equal(biases, affine ? scales : 0);
      }
    }
  }
  uint64_t packed, scales, biases; /* the largest there can be */
  mlxq_scheme widest = {MLXQ_AFFINE, 8, 32};
  uint64_t most = UINT64_MAX / 32 * 32;
  assert_int_equal(mlxq_quantized_bytes(&packed, &scales, &biases, &widest, MLXQ_F32, most, NULL), MLXQ_OK);
  assert_true(packed == most && scales == most / 8 && biases == scales);
}

/* The calls do what the kernels do, for every scheme, dtype and profile. */
static void test_results(void **state) {
  (void)state;
  const mlxq_kernel_table *kernels = mlxq_kernels(MLXQ_ISA_REF);
  for (size_t i = 0; i < LEGAL_COUNT; i++) {
    for (size_t d = 0; d < QUANTIZABLE_COUNT; d++) {
      for (int p = 0; p < 2; p++) {
        const mlxq_scheme *scheme = &LEGAL[i];
        mlxq_profile profile = p == 0 ? MLXQ_PROFILE_CPU : MLXQ_PROFILE_GPU;
        size_t group_size = (size_t)scheme->group_size;
        mlxq_kernel_args args = {profile, QUANTIZABLE[d], group_size, ELEMS / group_size};
        mlxq_format format = mlxq_format_of(scheme);
        float weight[ELEMS], scales[2][32] = {{0}}, biases[2][32] = {{0}}, dense[2][ELEMS] = {{0}};
        uint32_t packed[2][ELEMS / 4] = {{0}};
        void *biases0 = scheme->mode == MLXQ_AFFINE ? biases[0] : NULL;
        void *biases1 = scheme->mode == MLXQ_AFFINE ? biases[1] : NULL;
        mlxq_error error = {0};
        fill(QUANTIZABLE[d], weight);
        kernels->quantize[format](&args, weight, packed[0], scales[0], biases0);
        assert_int_equal(mlxq_quantize_array(packed[1], scales[1], biases1, weight, QUANTIZABLE[d], ELEMS, scheme,
                                             profile, false, &error),
                         MLXQ_OK);
        assert_memory_equal(packed[0], packed[1], sizeof packed[0]);
        assert_memory_equal(scales[0], scales[1], sizeof scales[0]);
        assert_memory_equal(biases[0], biases[1], sizeof biases[0]);
        kernels->dequantize[format](&args, packed[0], scales[0], biases0, dense[0]);
        assert_int_equal(mlxq_dequantize_array(dense[1], QUANTIZABLE[d], ELEMS, packed[1], scales[1], biases1, scheme,
                                               profile, &error),
                         MLXQ_OK);
        assert_memory_equal(dense[0], dense[1], sizeof dense[0]);
        assert_int_equal(error.status, MLXQ_OK); /* written only on failure */
      }
    }
  }
}

static void test_no_elements(void **state) {
  (void)state;
  for (size_t i = 0; i < LEGAL_COUNT; i++) {
    assert_int_equal(
        mlxq_quantize_array(NULL, NULL, NULL, NULL, MLXQ_BF16, 0, &LEGAL[i], MLXQ_PROFILE_CPU, false, NULL), MLXQ_OK);
    assert_int_equal(mlxq_dequantize_array(NULL, MLXQ_BF16, 0, NULL, NULL, NULL, &LEGAL[i], MLXQ_PROFILE_CPU, NULL),
                     MLXQ_OK);
  }
}

/* The three calls share their checks: all must fail alike, with and without an error to fill. */
static void expect_error(const mlxq_scheme *scheme, mlxq_dtype dtype, uint64_t elems, mlxq_status status,
                         const char *key, const char *message) {
  uint64_t packed, scales, biases;
  mlxq_error error[3] = {{0}};
  for (int with = 0; with < 2; with++) {
    mlxq_error *e = with ? error : NULL;
    assert_int_equal(mlxq_quantized_bytes(&packed, &scales, &biases, scheme, dtype, elems, e), status);
    e = with ? error + 1 : NULL;
    assert_int_equal(mlxq_quantize_array(NULL, NULL, NULL, NULL, dtype, elems, scheme, MLXQ_PROFILE_CPU, false, e),
                     status);
    e = with ? error + 2 : NULL;
    assert_int_equal(mlxq_dequantize_array(NULL, dtype, elems, NULL, NULL, NULL, scheme, MLXQ_PROFILE_GPU, e), status);
  }
  for (int i = 0; i < 3; i++) {
    assert_int_equal(error[i].status, status);
    assert_string_equal(error[i].key, key);
    if (message) assert_string_equal(error[i].message, message);
    assert_true(error[i].message[0] != '\0');
    assert_string_equal(error[i].file, "");
    assert_string_equal(error[i].layer, "");
  }
}

static void test_illegal_schemes(void **state) {
  (void)state;
  static const struct {
    mlxq_scheme scheme;
    const char *key;
  } CASES[] = {
      {{MLXQ_AFFINE, 7, 64}, "bits"},        {{MLXQ_AFFINE, 1, 64}, "bits"},        {{MLXQ_AFFINE, 0, 64}, "bits"},
      {{MLXQ_AFFINE, -4, 64}, "bits"},       {{MLXQ_AFFINE, 4, 16}, "group_size"},  {{MLXQ_AFFINE, 4, 0}, "group_size"},
      {{MLXQ_AFFINE, 4, -64}, "group_size"}, {{MLXQ_AFFINE, 4, 256}, "group_size"}, {{MLXQ_MXFP4, 8, 32}, "bits"},
      {{MLXQ_MXFP4, 4, 64}, "group_size"},   {{MLXQ_MXFP8, 4, 32}, "bits"},         {{MLXQ_NVFP4, 4, 32}, "group_size"},
      {{MLXQ_MODE_COUNT, 4, 32}, "mode"}};
  for (size_t i = 0; i < COUNT(CASES); i++) {
    expect_error(&CASES[i].scheme, MLXQ_BF16, ELEMS, MLXQ_OUT_OF_RANGE, CASES[i].key, NULL);
    expect_error(&CASES[i].scheme, MLXQ_U8, 1, MLXQ_OUT_OF_RANGE, CASES[i].key, NULL); /* comes first */
  }
}

static void test_unsupported_dtypes(void **state) {
  (void)state;
  for (unsigned dtype = 0; dtype < MLXQ_DTYPE_COUNT; dtype++) {
    if (dtype == MLXQ_F16 || dtype == MLXQ_BF16 || dtype == MLXQ_F32) continue;
    char message[64];
    snprintf(message, sizeof message, "%s is none of F16, BF16 and F32", mlxq_dtype_name((mlxq_dtype)dtype));
    expect_error(&AFFINE_4_64, (mlxq_dtype)dtype, ELEMS, MLXQ_UNSUPPORTED_DTYPE, "", message);
    expect_error(&AFFINE_4_64, (mlxq_dtype)dtype, 1, MLXQ_UNSUPPORTED_DTYPE, "", message); /* before the division */
  }
}

static void test_an_unknown_profile(void **state) {
  (void)state;
  static const float weight[64] = {0};
  float scale = 7, bias = 7;
  uint32_t packed[8] = {7};
  mlxq_error error = {0};
  assert_int_equal(
      mlxq_quantize_array(packed, &scale, &bias, weight, MLXQ_F32, 64, &AFFINE_4_64, (mlxq_profile)9, false, &error),
      MLXQ_USAGE);
  assert_error(&error, MLXQ_USAGE, "", "profile");
  assert_string_equal(error.message, "unknown profile 9");
  assert_int_equal(packed[0], 7);
}

static void test_not_divisible(void **state) {
  (void)state;
  for (size_t i = 0; i < LEGAL_COUNT; i++) {
    uint64_t group_size = (uint64_t)LEGAL[i].group_size;
    uint64_t cases[] = {1, group_size - 1, group_size + 1, group_size * 1000 + group_size / 2, UINT64_MAX};
    for (size_t c = 0; c < COUNT(cases); c++) {
      expect_error(&LEGAL[i], MLXQ_F16, cases[c], MLXQ_NOT_DIVISIBLE, "", NULL);
    }
  }
  expect_error(&AFFINE_4_64, MLXQ_F16, 100, MLXQ_NOT_DIVISIBLE, "",
               "100 elements are no multiple of the group size 64");
}

static void test_nonfinite(void **state) {
  (void)state;
  static const float BAD[] = {NAN, INFINITY, -INFINITY};
  for (size_t i = 0; i < LEGAL_COUNT; i++) {
    for (size_t b = 0; b < COUNT(BAD); b++) {
      float weight[ELEMS], scales[32], biases[32], dense[ELEMS];
      uint32_t packed[ELEMS / 4];
      size_t group_size = (size_t)LEGAL[i].group_size;
      mlxq_error error = {0};
      fill(MLXQ_F32, weight);
      weight[200] = BAD[b];
      weight[391] = NAN;
      assert_int_equal(mlxq_quantize_array(packed, scales, biases, weight, MLXQ_F32, ELEMS, &LEGAL[i], MLXQ_PROFILE_CPU,
                                           false, &error),
                       MLXQ_NON_FINITE);
      assert_int_equal(error.status, MLXQ_NON_FINITE);
      assert_string_equal(error.message, "element 200 is NaN or infinite");
      assert_int_equal(mlxq_quantize_array(packed, scales, biases, weight, MLXQ_F32, ELEMS, &LEGAL[i], MLXQ_PROFILE_CPU,
                                           false, NULL),
                       MLXQ_NON_FINITE);
      /* Let through, exactly the two groups are lost. */
      mlxq_error none = {0};
      assert_int_equal(mlxq_quantize_array(packed, scales, biases, weight, MLXQ_F32, ELEMS, &LEGAL[i], MLXQ_PROFILE_CPU,
                                           true, &none),
                       MLXQ_OK);
      assert_int_equal(none.status, MLXQ_OK);
      assert_int_equal(
          mlxq_dequantize_array(dense, MLXQ_F32, ELEMS, packed, scales, biases, &LEGAL[i], MLXQ_PROFILE_CPU, &none),
          MLXQ_OK);
      for (size_t e = 0; e < ELEMS; e++) {
        bool lost = e / group_size == 200 / group_size || e / group_size == 391 / group_size;
        assert_int_equal(isnan(dense[e]) != 0, lost);
      }
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_sizes),
      cmocka_unit_test(test_results),
      cmocka_unit_test(test_no_elements),
      cmocka_unit_test(test_illegal_schemes),
      cmocka_unit_test(test_unsupported_dtypes),
      cmocka_unit_test(test_an_unknown_profile),
      cmocka_unit_test(test_not_divisible),
      cmocka_unit_test(test_nonfinite),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
