/* mlxq_import_awq and mlxq_unpack_awq in memory: values against a packer written here from the description of the
 * format, what passes through, every check with its status, layer and key, and which of two faults is told. */
#include "helpers.h"

#include "tensor/tensor_map.h"

#include <math.h>

/* ---- Numbers, rounded without the library ---------------------------------------------------------------------- */

static int precision_of(mlxq_dtype dtype) {
  return dtype == MLXQ_F16 ? 11 : dtype == MLXQ_BF16 ? 8 : dtype == MLXQ_F32 ? 24 : 53;
}

static int lowest_exponent_of(mlxq_dtype dtype) {
  return dtype == MLXQ_F16 ? -14 : dtype == MLXQ_F64 ? -1022 : -126;
}

static int exponent_bits_of(mlxq_dtype dtype) {
  return dtype == MLXQ_F16 ? 5 : dtype == MLXQ_F64 ? 11 : 8;
}

/* The nearest value that the dtype has, ties to even. */
static double round_to(mlxq_dtype dtype, double value) {
  int highest = -lowest_exponent_of(dtype) + 2;
  if (value == 0 || !isfinite(value)) return value;
  int exponent = ilogb(value);
  if (exponent < lowest_exponent_of(dtype)) exponent = lowest_exponent_of(dtype);
  double step = ldexp(1, exponent - precision_of(dtype) + 1), rounded = nearbyint(value / step) * step;
  return fabs(rounded) >= ldexp(1, highest) ? copysign((double)INFINITY, value) : rounded;
}

/* The bits of a value that the dtype has. */
static uint64_t encode(mlxq_dtype dtype, double value) {
  int mantissa_bits = precision_of(dtype) - 1, exponent_bits = exponent_bits_of(dtype);
  uint64_t sign = (uint64_t)(signbit(value) != 0) << (mantissa_bits + exponent_bits);
  uint64_t all_ones = (UINT64_C(1) << exponent_bits) - 1;
  if (value == 0) return sign;
  if (isinf(value)) return sign | all_ones << mantissa_bits;
  int exponent = ilogb(value), lowest = lowest_exponent_of(dtype);
  if (exponent < lowest) return sign | (uint64_t)ldexp(fabs(value), mantissa_bits - lowest);
  uint64_t fraction = (uint64_t)(ldexp(fabs(value), mantissa_bits - exponent) - ldexp(1, mantissa_bits));
  return sign | (uint64_t)(exponent - lowest + 1) << mantissa_bits | fraction;
}

static size_t bytes_in(mlxq_dtype dtype) {
  return mlxq_dtype_bits(dtype) / 8;
}

static void put(void *data, size_t index, mlxq_dtype dtype, double value) {
  uint64_t bits = encode(dtype, value);
  memcpy((char *)data + index * bytes_in(dtype), &bits, bytes_in(dtype));
}

/* ---- Layers as formulas ---------------------------------------------------------------------------------------- */

typedef enum awq_packing { GEMM, GEMV, GEMV_FAST } awq_packing;

typedef struct awq_layer {
  const char *path;
  awq_packing packing;
  mlxq_dtype dtype; /* of the scales */
  size_t outs, ins, group;
  bool no_zeros;
  bool is_unsigned; /* words are U32, not I32 */
} awq_layer;

static uint64_t mix(const awq_layer *layer, uint64_t kind, uint64_t out, uint64_t in) {
  uint64_t z = UINT64_C(0x9e3779b97f4a7c15) * (kind + 1) + out * UINT64_C(0xd1342543de82ef95) + in;
  for (const char *p = layer->path; *p; p++) z = z * 257 + (unsigned char)*p;
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

static unsigned code_of(const awq_layer *layer, size_t out, size_t in) {
  return mix(layer, 0, out, in) & 15u;
}

static unsigned zero_of(const awq_layer *layer, size_t out, size_t group) {
  return mix(layer, 1, out, group) & 15u;
}

/* All bits of the dtype's mantissa may be set; some are negative, as AutoAWQ's never are. */
static double scale_of(const awq_layer *layer, size_t out, size_t group) {
  uint64_t bits = mix(layer, 2, out, group);
  double value = ldexp((double)(bits >> 11), -53) / 16 + 0.001;
  return round_to(layer->dtype, bits & 1 ? value : -value);
}

/* GEMV_fast stores these. */
static double scaled_zero_of(const awq_layer *layer, size_t out, size_t group) {
  return round_to(layer->dtype, ldexp((double)(mix(layer, 3, out, group) >> 11), -53) - 0.5);
}

/* Words in a row of zero points, from AutoAWQ's calculate_zeros_width. */
static size_t zero_words(const awq_layer *layer) {
  size_t multiple = layer->group >= 128 ? 1 : layer->group >= 64 ? 2 : 4;
  size_t words = (layer->ins / layer->group + 7) / 8;
  return (words + multiple - 1) / multiple * multiple;
}

/* ---- The packer ------------------------------------------------------------------------------------------------ */

static void add_part(mlxq_weights *weights, const awq_layer *layer, const char *suffix, mlxq_dtype dtype, size_t rows,
                     size_t columns, const void *data) {
  char name[128];
  snprintf(name, sizeof name, "%s%s", layer->path, suffix);
  add_bytes(weights, name, dtype, SHAPE(rows, columns), data);
}

static void *zeroed(size_t count, size_t bytes) {
  void *data = calloc(count + 1, bytes);
  assert_non_null(data);
  return data;
}

static void add_gemm(mlxq_weights *weights, const awq_layer *layer) {
  static const unsigned ORDER[] = {0, 4, 1, 5, 2, 6, 3, 7};
  size_t columns = layer->outs / 8, groups = layer->ins / layer->group;
  mlxq_dtype words = layer->is_unsigned ? MLXQ_U32 : MLXQ_I32;
  uint32_t *codes = zeroed(layer->ins * columns, 4), *zeros = zeroed(groups * columns, 4);
  void *scales = zeroed(groups * layer->outs, 8);
  for (size_t c = 0; c < columns; c++) {
    for (size_t j = 0; j < 8; j++) {
      size_t out = 8 * c + j;
      for (size_t i = 0; i < layer->ins; i++) {
        codes[i * columns + c] |= (uint32_t)code_of(layer, out, i) << 4 * ORDER[j];
      }
      for (size_t g = 0; g < groups; g++) {
        zeros[g * columns + c] |= (uint32_t)zero_of(layer, out, g) << 4 * ORDER[j];
        put(scales, g * layer->outs + out, layer->dtype, scale_of(layer, out, g));
      }
    }
  }
  add_part(weights, layer, ".qweight", words, layer->ins, columns, codes);
  if (!layer->no_zeros) add_part(weights, layer, ".qzeros", words, groups, columns, zeros);
  add_part(weights, layer, ".scales", layer->dtype, groups, layer->outs, scales);
  free(codes);
  free(zeros);
  free(scales);
}

/* What is stored beyond the last group means nothing. */
static void add_gemv(mlxq_weights *weights, const awq_layer *layer) {
  size_t columns = layer->ins / 8, groups = layer->ins / layer->group, width = zero_words(layer);
  mlxq_dtype words = layer->is_unsigned ? MLXQ_U32 : MLXQ_I32;
  uint32_t *codes = zeroed(layer->outs * columns, 4), *zeros = zeroed(layer->outs * width, 4);
  void *scales = zeroed(layer->outs * 8 * width, 8);
  for (size_t out = 0; out < layer->outs; out++) {
    for (size_t i = 0; i < layer->ins; i++) {
      codes[out * columns + i / 8] |= (uint32_t)code_of(layer, out, i) << i % 8 * 4;
    }
    for (size_t g = 0; g < 8 * width; g++) {
      zeros[out * width + g / 8] |= (g < groups ? (uint32_t)zero_of(layer, out, g) : 15u) << g % 8 * 4;
      put(scales, out * 8 * width + g, layer->dtype, g < groups ? scale_of(layer, out, g) : 99);
    }
  }
  add_part(weights, layer, ".scales", layer->dtype, layer->outs, 8 * width, scales);
  add_part(weights, layer, ".qweight", words, layer->outs, columns, codes);
  if (!layer->no_zeros) add_part(weights, layer, ".qzeros", words, layer->outs, width, zeros);
  free(codes);
  free(zeros);
  free(scales);
}

static void add_gemv_fast(mlxq_weights *weights, const awq_layer *layer, const char *zeros_suffix) {
  size_t groups = layer->ins / layer->group, rows = 8 * zero_words(layer), words = layer->outs / 4 * layer->ins;
  uint16_t *codes = zeroed(words, 2);
  void *scales = zeroed(rows * layer->outs, 8), *zeros = zeroed(rows * layer->outs, 8);
  for (size_t k = 0; k < words; k++) {
    size_t row = k / layer->ins, column = k % layer->ins, w = column % 64, t = w % 16;
    for (size_t n = 0; n < 4; n++) {
      size_t out = 4 * row + w / 16, in = 64 * (column / 64) + 32 * (t >> 3) + 8 * n + (t & 7);
      codes[k] = (uint16_t)(codes[k] | code_of(layer, out, in) << 4 * n);
    }
  }
  for (size_t g = 0; g < rows; g++) {
    for (size_t out = 0; out < layer->outs; out++) {
      put(scales, g * layer->outs + out, layer->dtype, g < groups ? scale_of(layer, out, g) : 99);
      put(zeros, g * layer->outs + out, layer->dtype, g < groups ? scaled_zero_of(layer, out, g) : 99);
    }
  }
  add_part(weights, layer, ".qweight", MLXQ_I16, layer->outs / 4, layer->ins, codes);
  add_part(weights, layer, ".scales", layer->dtype, rows, layer->outs, scales);
  if (!layer->no_zeros) add_part(weights, layer, zeros_suffix, layer->dtype, rows, layer->outs, zeros);
  free(codes);
  free(scales);
  free(zeros);
}

static void add_packed(mlxq_weights *weights, const awq_layer *layer) {
  if (layer->packing == GEMM) add_gemm(weights, layer);
  if (layer->packing == GEMV) add_gemv(weights, layer);
  if (layer->packing == GEMV_FAST) add_gemv_fast(weights, layer, ".qzeros");
}

/* ---- The triple it must become --------------------------------------------------------------------------------- */

static double bias_of(const awq_layer *layer, size_t out, size_t group, bool zero_point) {
  double scale = scale_of(layer, out, group);
  bool middle = layer->no_zeros || !zero_point;
  if (!middle && layer->packing == GEMV_FAST) return scaled_zero_of(layer, out, group);
  if (layer->dtype == MLXQ_F64 && middle) return -8 * scale; /* in float64 itself, as the seed */
  double product = round_to(MLXQ_F32, (middle ? 8 : zero_of(layer, out, group)) * round_to(MLXQ_F32, scale));
  return round_to(layer->dtype, -product);
}

/* Adds the triple in groups of `group`, scales and biases in the model's dtype. */
static void add_triple_of(mlxq_weights *weights, const awq_layer *layer, bool zero_point, mlxq_dtype dtype,
                          size_t group) {
  size_t columns = layer->ins / 8, groups = layer->ins / group;
  uint32_t *codes = zeroed(layer->outs * columns, 4);
  void *scales = zeroed(layer->outs * groups, 8), *biases = zeroed(layer->outs * groups, 8);
  for (size_t out = 0; out < layer->outs; out++) {
    for (size_t i = 0; i < layer->ins; i++) {
      codes[out * columns + i / 8] |= (uint32_t)code_of(layer, out, i) << i % 8 * 4;
    }
    for (size_t g = 0; g < groups; g++) {
      size_t stored = g * group / layer->group;
      put(scales, out * groups + g, dtype, scale_of(layer, out, stored));
      put(biases, out * groups + g, dtype, bias_of(layer, out, stored, zero_point));
    }
  }
  add_part(weights, layer, ".weight", MLXQ_U32, layer->outs, columns, codes);
  add_part(weights, layer, ".scales", dtype, layer->outs, groups, scales);
  add_part(weights, layer, ".biases", dtype, layer->outs, groups, biases);
  free(codes);
  free(scales);
  free(biases);
}

/* ---- Calls ----------------------------------------------------------------------------------------------------- */

static mlxq_awq_options options_of(int64_t group_size, const char *version) {
  mlxq_awq_options options = MLXQ_AWQ_OPTIONS_INIT;
  options.group_size = group_size;
  options.version = version;
  return options;
}

static mlxq_weights *import(const mlxq_weights *in, const mlxq_awq_options *options, mlxq_quant_config **config) {
  mlxq_weights *out = (mlxq_weights *)(uintptr_t)16;
  mlxq_error error;
  *config = (mlxq_quant_config *)(uintptr_t)16;
  if (mlxq_import_awq(&out, config, in, options, NULL, &error) != MLXQ_OK) {
    fail_msg("%s: %s: %s", error.layer, error.key, error.message);
  }
  assert_non_null(out);
  assert_non_null(*config);
  return out;
}

static void assert_refused(const mlxq_weights *in, const mlxq_awq_options *options, mlxq_status status,
                           const char *layer, const char *key) {
  mlxq_weights *out = (mlxq_weights *)(uintptr_t)16;
  mlxq_quant_config *config = (mlxq_quant_config *)(uintptr_t)16;
  mlxq_error error;
  memset(&error, 'x', sizeof error);
  assert_int_equal(mlxq_import_awq(&out, &config, in, options, NULL, &error), status);
  assert_null(out);
  assert_null(config);
  assert_error(&error, status, layer, key);
  assert_int_equal(mlxq_import_awq(&out, &config, in, options, NULL, NULL), status);
}

static void assert_default(const mlxq_quant_config *config, int32_t group_size, size_t layers) {
  const mlxq_scheme *scheme = mlxq_quant_config_default(config);
  assert_non_null(scheme);
  assert_int_equal(scheme->mode, MLXQ_AFFINE);
  assert_int_equal(scheme->bits, 4);
  assert_int_equal(scheme->group_size, group_size);
  assert_int_equal(mlxq_quant_config_layer_count(config), layers);
}

/* Imports one layer alone and compares. */
static void check_layer(const awq_layer *layer, int64_t group_size, const char *version, bool zero_point,
                        size_t mlx_group) {
  mlxq_weights *in = new_weights(), *expected = new_weights();
  mlxq_awq_options options = options_of(group_size, version);
  mlxq_quant_config *config;
  options.zero_point = zero_point;
  add_packed(in, layer);
  add_triple_of(expected, layer, zero_point, layer->dtype, mlx_group);
  mlxq_weights *out = import(in, &options, &config);
  assert_same_weights(out, expected);
  assert_default(config, (int32_t)mlx_group, 0);
  mlxq_quant_config_free(config);
  mlxq_weights_free(out);
  mlxq_weights_free(expected);
  mlxq_weights_free(in);
}

/* ---- Values ---------------------------------------------------------------------------------------------------- */

static const mlxq_dtype FLOATS[] = {MLXQ_F16, MLXQ_BF16, MLXQ_F32, MLXQ_F64};

static void test_the_packer_itself(void **state) {
  (void)state;
  assert_int_equal(encode(MLXQ_F16, 1), 0x3C00);
  assert_int_equal(encode(MLXQ_F16, -0.0), 0x8000);
  assert_int_equal(encode(MLXQ_F16, ldexp(1, -24)), 1);
  assert_int_equal(encode(MLXQ_F16, 65504), 0x7BFF);
  assert_int_equal(encode(MLXQ_BF16, -2.5), 0xC020);
  assert_int_equal(encode(MLXQ_F32, 0.1f), 0x3DCCCCCD);
  assert_true(encode(MLXQ_F64, 0.1) == UINT64_C(0x3FB999999999999A));
  assert_true(round_to(MLXQ_F16, 1 + ldexp(1, -11)) == 1);
  assert_true(round_to(MLXQ_F16, 1 + ldexp(3, -11)) == 1 + ldexp(1, -9));
  assert_true(isinf(round_to(MLXQ_F16, 65520)));
  assert_true(round_to(MLXQ_BF16, 1.00390625) == 1);
  assert_true(round_to(MLXQ_F32, 16777217) == 16777216);
}

static void test_gemm(void **state) {
  (void)state;
  static const size_t SIZES[][3] = {{8, 32, 32}, {8, 128, 128}, {24, 256, 64}, {128, 128, 32}, {1000, 384, 128}};
  for (size_t s = 0; s < COUNT(SIZES); s++) {
    for (size_t d = 0; d < COUNT(FLOATS); d++) {
      for (unsigned how = 0; how < 8; how++) {
        awq_layer layer = {
            "model.layers.0.mlp.up_proj", GEMM, FLOATS[d], SIZES[s][0], SIZES[s][1], SIZES[s][2], how & 1u, how & 2u};
        check_layer(&layer, (int64_t)layer.group, how & 1u ? "gemm" : "", how & 4u, layer.group);
      }
    }
  }
}

static void test_gemv(void **state) {
  (void)state;
  /* Zero points in rows of 1, 2 and 4 words, full and not. */
  static const size_t SIZES[][3] = {{1, 32, 32},    {3, 128, 128}, {4, 2048, 64},
                                    {5, 1152, 128}, {2, 1088, 32}, {70, 4096, 128}};
  for (size_t s = 0; s < COUNT(SIZES); s++) {
    for (size_t d = 0; d < COUNT(FLOATS); d++) {
      for (unsigned how = 0; how < 8; how++) {
        awq_layer layer = {"a", GEMV, FLOATS[d], SIZES[s][0], SIZES[s][1], SIZES[s][2], how & 1u, how & 2u};
        check_layer(&layer, (int64_t)layer.group, how & 1u ? "gemv" : "GEMV", how & 4u, layer.group);
      }
    }
  }
}

static void test_gemv_fast(void **state) {
  (void)state;
  static const size_t SIZES[][3] = {{4, 64, 64}, {4, 128, 128}, {8, 1152, 128}, {12, 1088, 32}, {64, 2048, 64}};
  for (size_t s = 0; s < COUNT(SIZES); s++) {
    for (size_t d = 0; d < COUNT(FLOATS); d++) {
      for (unsigned how = 0; how < 4; how++) {
        awq_layer layer = {"a", GEMV_FAST, FLOATS[d], SIZES[s][0], SIZES[s][1], SIZES[s][2], how & 1u, false};
        check_layer(&layer, (int64_t)layer.group, how & 1u ? "gemv_fast" : "Gemv_Fast", how & 2u, layer.group);
      }
    }
  }
}

/* llm-awq's name for the zero points of GEMV_fast tells the packing, whatever the version. */
static void test_scaled_zeros(void **state) {
  (void)state;
  const awq_layer layer = {"a", GEMV_FAST, MLXQ_F16, 8, 256, 128, false, false};
  mlxq_weights *in = new_weights(), *expected = new_weights();
  mlxq_awq_options options = options_of(128, "");
  mlxq_quant_config *config;
  add_gemv_fast(in, &layer, ".scaled_zeros");
  add_triple_of(expected, &layer, true, MLXQ_F16, 128);
  mlxq_weights *out = import(in, &options, &config);
  assert_same_weights(out, expected);
  mlxq_quant_config_free(config);
  mlxq_weights_free(out);
  mlxq_weights_free(expected);
  mlxq_weights_free(in);
}

static void test_versions(void **state) {
  (void)state;
  static const char *const GEMMS[] = {"", "gemm", "GEMM", "Gemm", "gEmM", NULL};
  const awq_layer gemm = {"a", GEMM, MLXQ_F16, 16, 64, 64, false, false};
  for (size_t i = 0; i < COUNT(GEMMS); i++) check_layer(&gemm, 64, GEMMS[i], true, 64);
  static const char *const UNKNOWN[] = {"marlin", "gemv fast", "gemm ", " gemm", "gemv_", "exllama", "ipex", "1"};
  mlxq_weights *in = new_weights();
  add_packed(in, &gemm);
  for (size_t i = 0; i < COUNT(UNKNOWN); i++) {
    mlxq_awq_options options = options_of(64, UNKNOWN[i]);
    mlxq_error error;
    mlxq_weights *out;
    mlxq_quant_config *config;
    assert_refused(in, &options, MLXQ_UNKNOWN_VALUE, "", "version");
    mlxq_import_awq(&out, &config, in, &options, NULL, &error);
    assert_non_null(strstr(error.message, UNKNOWN[i]));
  }
  mlxq_weights_free(in);
}

/* -(0 * s) is -0.0, whatever the dtype, and +0.0 for a negative scale. */
static void test_a_zero_point_of_zero(void **state) {
  (void)state;
  for (size_t d = 0; d < COUNT(FLOATS); d++) {
    static const uint32_t CODES[32] = {0}, ZEROS[1] = {0};
    unsigned char scales[8 * 8];
    mlxq_weights *in = new_weights();
    mlxq_awq_options options = options_of(32, "");
    mlxq_quant_config *config;
    for (size_t i = 0; i < 8; i++) put(scales, i, FLOATS[d], i == 7 ? -0.5 : i == 6 ? 0 : 0.25);
    add_bytes(in, "a.qweight", MLXQ_I32, SHAPE(32, 1), CODES);
    add_bytes(in, "a.qzeros", MLXQ_I32, SHAPE(1, 1), ZEROS);
    add_bytes(in, "a.scales", FLOATS[d], SHAPE(1, 8), scales);
    mlxq_weights *out = import(in, &options, &config);
    for (size_t i = 0; i < 8; i++) {
      uint64_t bits = 0;
      memcpy(&bits, bytes_of(out, "a.biases") + i * bytes_in(FLOATS[d]), bytes_in(FLOATS[d]));
      assert_true(bits == encode(FLOATS[d], i == 7 ? 0.0 : -0.0));
    }
    mlxq_quant_config_free(config);
    mlxq_weights_free(out);
    mlxq_weights_free(in);
  }
}

/* A product that float32 rounds before float16 does: 1 + 2^-10 times 11 and 13 are ties or near them. */
static void test_products_at_the_edges(void **state) {
  (void)state;
  for (size_t d = 0; d < COUNT(FLOATS); d++) {
    /* Every zero point against subnormal, tiny, large and overflowing scales. */
    double values[8] = {ldexp(1, -24), ldexp(3, -25), ldexp(1.5, -14), 1 + ldexp(1, -10), 4094, 5000, 65504, 1e-30};
    uint32_t codes[32] = {0}, zeros[16];
    unsigned char scales[16 * 8 * 8], expected[16 * 8 * 8];
    mlxq_weights *in = new_weights();
    mlxq_awq_options options = options_of(32, "");
    mlxq_quant_config *config;
    for (size_t g = 0; g < 16; g++) {
      zeros[g] = 0x11111111u * (uint32_t)g;
      for (size_t i = 0; i < 8; i++) {
        double scale = round_to(FLOATS[d], values[i]);
        put(scales, g * 8 + i, FLOATS[d], scale);
        put(expected, i * 16 + g, FLOATS[d],
            round_to(FLOATS[d], -round_to(MLXQ_F32, (double)g * round_to(MLXQ_F32, scale))));
      }
    }
    uint32_t *many = zeroed(16 * 32, 4);
    (void)codes;
    add_bytes(in, "a.qweight", MLXQ_I32, SHAPE(16 * 32, 1), many);
    add_bytes(in, "a.qzeros", MLXQ_U32, SHAPE(16, 1), zeros);
    add_bytes(in, "a.scales", FLOATS[d], SHAPE(16, 8), scales);
    mlxq_weights *out = import(in, &options, &config);
    assert_memory_equal(bytes_of(out, "a.biases"), expected, 16 * 8 * bytes_in(FLOATS[d]));
    free(many);
    mlxq_quant_config_free(config);
    mlxq_weights_free(out);
    mlxq_weights_free(in);
  }
}

/* ---- One dtype for all ----------------------------------------------------------------------------------------- */

static mlxq_dtype widest_of(unsigned set) {
  if (set & 8u) return MLXQ_F64;
  if (set & 4u) return MLXQ_F32;
  return set == 3 ? MLXQ_F32 : set & 2u ? MLXQ_BF16 : MLXQ_F16;
}

/* Every set of dtypes, with its layers in either order. */
static void test_dtypes_are_unified(void **state) {
  (void)state;
  static const char *const PATHS[] = {"l.0", "l.1", "l.2", "l.3"};
  for (unsigned set = 1; set < 16; set++) {
    for (unsigned how = 0; how < 8; how++) {
      bool backwards = how & 1u, zero_point = how & 2u;
      mlxq_weights *in = new_weights(), *expected = new_weights();
      mlxq_awq_options options = options_of(32, "");
      mlxq_quant_config *config;
      options.zero_point = zero_point;
      for (size_t k = 0; k < 4; k++) {
        size_t d = backwards ? 3 - k : k;
        awq_layer layer = {PATHS[d], GEMM, FLOATS[d], 16, 96, 32, (how & 4u) && d % 2, false};
        if (!(set >> d & 1u)) continue;
        add_packed(in, &layer);
        add_triple_of(expected, &layer, zero_point, widest_of(set), 32);
      }
      mlxq_weights *out = import(in, &options, &config);
      assert_same_weights(out, expected);
      mlxq_quant_config_free(config);
      mlxq_weights_free(out);
      mlxq_weights_free(expected);
      mlxq_weights_free(in);
    }
  }
}

static void test_a_float16_survives_beside_bfloat16(void **state) {
  (void)state;
  static const uint16_t PRECISE[8] = {0x3C01, 0x3C01, 0x3C01, 0x3C01, 0x3C01, 0x3C01, 0x3C01, 0x3C01};
  static const uint16_t COARSE[8] = {0x3F81, 0x3F81, 0x3F81, 0x3F81, 0x3F81, 0x3F81, 0x3F81, 0x3F81};
  static const uint32_t CODES[32] = {0};
  mlxq_weights *in = new_weights();
  mlxq_awq_options options = options_of(32, "");
  mlxq_quant_config *config;
  uint32_t bits;
  add_bytes(in, "a.qweight", MLXQ_I32, SHAPE(32, 1), CODES);
  add_bytes(in, "a.scales", MLXQ_F16, SHAPE(1, 8), PRECISE);
  add_bytes(in, "b.qweight", MLXQ_I32, SHAPE(32, 1), CODES);
  add_bytes(in, "b.scales", MLXQ_BF16, SHAPE(1, 8), COARSE);
  mlxq_weights *out = import(in, &options, &config);
  assert_shape(mlxq_weights_find(out, "a.scales"), MLXQ_F32, SHAPE(8, 1));
  memcpy(&bits, bytes_of(out, "a.scales"), 4);
  assert_int_equal(bits, 0x3F802000);
  memcpy(&bits, bytes_of(out, "b.scales"), 4);
  assert_int_equal(bits, 0x3F810000);
  memcpy(&bits, bytes_of(out, "a.biases"), 4);
  assert_int_equal(bits, 0xC1002000);
  mlxq_quant_config_free(config);
  mlxq_weights_free(out);
  mlxq_weights_free(in);
}

/* Tensors beside the layers, `.scales` of no layer among them, have no say in the dtype. */
static void test_only_layers_choose_the_dtype(void **state) {
  (void)state;
  const awq_layer layer = {"a", GEMM, MLXQ_F16, 8, 32, 32, false, false};
  mlxq_weights *in = new_weights(), *expected = new_weights();
  mlxq_awq_options options = options_of(32, "");
  mlxq_quant_config *config;
  seed_random(5);
  for (unsigned i = 0; i < 2; i++) {
    mlxq_weights *to = i ? expected : in;
    seed_random(5);
    add_random(to, "norm.weight", MLXQ_F32, SHAPE(8));
    add_random(to, "act.scales", MLXQ_F64, SHAPE(8));
  }
  add_packed(in, &layer);
  add_triple_of(expected, &layer, true, MLXQ_F16, 32);
  mlxq_weights *out = import(in, &options, &config);
  assert_same_weights(out, expected);
  mlxq_quant_config_free(config);
  mlxq_weights_free(out);
  mlxq_weights_free(expected);
  mlxq_weights_free(in);
}

/* ---- Everything else ------------------------------------------------------------------------------------------- */

static void add_others(mlxq_weights *weights) {
  seed_random(11);
  add_random(weights, "model.embed_tokens.weight", MLXQ_F64, SHAPE(3, 7));
  add_random(weights, "orphan.scales", MLXQ_I32, SHAPE(3));
  add_random(weights, "orphan.qzeros", MLXQ_F16, SHAPE(5, 1, 2));
  add_random(weights, "a.bias", MLXQ_BF16, SHAPE(8));
  add_random(weights, "scalar", MLXQ_U8, SCALAR);
  add_random(weights, "empty.weight", MLXQ_F32, SHAPE(0, 9));
  add_random(weights, "b.biases", MLXQ_F16, SHAPE(8, 1));
  add_random(weights, "c.weight", MLXQ_F8_E5M2, SHAPE(8));
  add_random(weights, "qweight", MLXQ_F16, SHAPE(2)); /* no layer's: there is no dot */
  add_random(weights, "d.qweight.x", MLXQ_I32, SHAPE(2));
  add_random(weights, "g_idx", MLXQ_I32, SHAPE(2));
  add_random(weights, "half_bytes", MLXQ_F4, SHAPE(3, 2));
  add_random(weights, "three_quarters", MLXQ_F6_E2M3, SHAPE(8));
}

/* The result is in the order of the source, a triple where its qweight stood. */
static void test_what_passes_through(void **state) {
  (void)state;
  const awq_layer first = {"z", GEMM, MLXQ_F16, 8, 32, 32, false, false};
  const awq_layer second = {"a", GEMM, MLXQ_F16, 16, 64, 32, true, true};
  mlxq_weights *in = new_weights(), *expected = new_weights();
  mlxq_awq_options options = options_of(32, "");
  mlxq_quant_config *config;
  add_packed(in, &first);
  add_triple_of(expected, &first, true, MLXQ_F16, 32);
  add_others(in);
  add_others(expected);
  add_packed(in, &second);
  add_triple_of(expected, &second, true, MLXQ_F16, 32);
  mlxq_weights *out = import(in, &options, &config);
  assert_same_weights(out, expected);
  mlxq_quant_config_free(config);
  mlxq_weights_free(out);
  mlxq_weights_free(expected);
  mlxq_weights_free(in);
}

static void test_no_packed_layer(void **state) {
  (void)state;
  mlxq_weights *in = new_weights(), *empty = new_weights();
  mlxq_awq_options options = MLXQ_AWQ_OPTIONS_INIT;
  mlxq_quant_config *config;
  add_others(in);
  mlxq_weights *out = import(in, &options, &config);
  assert_same_weights(out, in);
  assert_default(config, 128, 0);
  mlxq_quant_config_free(config);
  mlxq_weights_free(out);
  options.group_size = 64;
  out = import(empty, &options, &config);
  assert_int_equal(mlxq_weights_count(out), 0);
  assert_default(config, 64, 0);
  mlxq_quant_config_free(config);
  mlxq_weights_free(out);
  mlxq_weights_free(in);
  mlxq_weights_free(empty);
}

static void test_the_source_is_not_kept(void **state) {
  (void)state;
  const awq_layer layer = {"a", GEMM, MLXQ_BF16, 64, 256, 64, false, false};
  mlxq_weights *in = new_weights(), *expected = new_weights();
  mlxq_awq_options options = options_of(64, "");
  mlxq_quant_config *config;
  add_others(in);
  add_packed(in, &layer);
  add_others(expected);
  add_triple_of(expected, &layer, true, MLXQ_BF16, 64);
  mlxq_weights *out = import(in, &options, &config);
  mlxq_weights_free(in);
  assert_same_weights(out, expected);
  mlxq_quant_config_free(config);
  mlxq_weights_free(out);
  mlxq_weights_free(expected);
}

static void test_threads(void **state) {
  (void)state;
  const awq_layer layers[] = {{"a", GEMM, MLXQ_F16, 1024, 4096, 128, false, false},
                              {"b", GEMM, MLXQ_BF16, 4096, 1024, 128, false, false}};
  mlxq_weights *in = new_weights(), *expected = new_weights();
  for (size_t i = 0; i < 2; i++) {
    add_packed(in, &layers[i]);
    add_triple_of(expected, &layers[i], true, MLXQ_F32, 128);
  }
  for (unsigned threads = 0; threads < 6; threads++) {
    mlxq_transform_options transform = MLXQ_TRANSFORM_OPTIONS_INIT;
    mlxq_awq_options options = MLXQ_AWQ_OPTIONS_INIT;
    mlxq_weights *out = NULL;
    mlxq_quant_config *config = NULL;
    transform.threads = threads == 5 ? 32 : threads;
    assert_int_equal(mlxq_import_awq(&out, &config, in, &options, &transform, NULL), MLXQ_OK);
    assert_same_weights(out, expected);
    mlxq_quant_config_free(config);
    mlxq_weights_free(out);
  }
  mlxq_weights_free(in);
  mlxq_weights_free(expected);
}

/* ---- Groups ---------------------------------------------------------------------------------------------------- */

static void test_large_groups_are_split(void **state) {
  (void)state;
  /* inputs, stored group, configured, MLX's */
  static const int CASES[][4] = {{512, 256, 256, 128}, {384, 384, -1, 128},    {192, 192, -1, 64},
                                 {96, 96, -1, 32},     {96, 96, 96, 32},       {512, 128, -1, 128},
                                 {320, 160, -1, 32},   {640, 320, 320, 64},    {1024, 1024, -1, 128},
                                 {64, 64, -1, 64},     {2048, 1024, 1024, 128}};
  for (size_t i = 0; i < COUNT(CASES); i++) {
    for (size_t d = 0; d < COUNT(FLOATS); d++) {
      for (unsigned zeros = 0; zeros < 2; zeros++) {
        awq_layer layer = {"a", GEMM, FLOATS[d], 24, (size_t)CASES[i][0], (size_t)CASES[i][1], zeros, false};
        check_layer(&layer, CASES[i][2], "", true, (size_t)CASES[i][3]);
      }
    }
  }
  awq_layer gemv = {"a", GEMV, MLXQ_F16, 5, 512, 256, false, false};
  check_layer(&gemv, 256, "gemv", true, 128);
  gemv.group = 512;
  check_layer(&gemv, -1, "gemv", true, 128);
  awq_layer fast = {"a", GEMV_FAST, MLXQ_F16, 8, 512, 256, false, false};
  check_layer(&fast, 256, "gemv_fast", true, 128);
  fast.group = 512;
  check_layer(&fast, -1, "gemv_fast", true, 128);
}

/* A group of -1 may mean another group in each layer: the configuration says so. */
static void test_groups_differ(void **state) {
  (void)state;
  static const struct {
    const char *path;
    size_t ins, group, mlx;
  } LAYERS[] = {{"a", 128, 128, 128}, {"b", 192, 192, 64}, {"c", 64, 64, 64}, {"d", 96, 96, 32}};
  mlxq_weights *in = new_weights(), *expected = new_weights();
  mlxq_awq_options options = options_of(-1, "");
  mlxq_quant_config *config;
  for (size_t i = 0; i < COUNT(LAYERS); i++) {
    awq_layer layer = {LAYERS[i].path, GEMM, MLXQ_F16, 8, LAYERS[i].ins, LAYERS[i].group, false, false};
    add_packed(in, &layer);
    add_triple_of(expected, &layer, true, MLXQ_F16, LAYERS[i].mlx);
  }
  mlxq_weights *out = import(in, &options, &config);
  assert_same_weights(out, expected);
  assert_default(config, 64, 2);
  for (size_t i = 0; i < COUNT(LAYERS); i++) {
    const mlxq_scheme *scheme = mlxq_quant_config_lookup(config, LAYERS[i].path);
    assert_int_equal(scheme->group_size, LAYERS[i].mlx);
    assert_int_equal(scheme->bits, 4);
  }
  mlxq_quant_config_free(config);
  mlxq_weights_free(out);
  mlxq_weights_free(expected);
  mlxq_weights_free(in);
}

static void test_groups_that_mlx_lacks(void **state) {
  (void)state;
  static const size_t GROUPS[] = {8, 16, 24, 48, 80, 144};
  for (size_t i = 0; i < COUNT(GROUPS); i++) {
    awq_layer layer = {"m.a", GEMM, MLXQ_F16, 8, 720, GROUPS[i], false, false};
    mlxq_weights *in = new_weights(), *out;
    mlxq_awq_options options = options_of((int64_t)GROUPS[i], "");
    mlxq_quant_config *config;
    mlxq_error error;
    add_packed(in, &layer);
    assert_refused(in, &options, MLXQ_OUT_OF_RANGE, "m.a", "group_size");
    mlxq_import_awq(&out, &config, in, &options, NULL, &error);
    assert_non_null(strstr(error.message, "--requantize"));
    mlxq_weights_free(in);
  }
}

/* The GEMM layout again, dequantized in the end: what MLX reads is (code - zero) * scale of the source. */
static void test_the_result_dequantizes_to_the_formula(void **state) {
  (void)state;
  const awq_layer layer = {"a", GEMM, MLXQ_F32, 16, 256, 64, false, false};
  mlxq_weights *in = new_weights(), *dense = NULL;
  mlxq_awq_options options = options_of(64, "");
  mlxq_quant_config *config;
  add_packed(in, &layer);
  mlxq_weights *out = import(in, &options, &config);
  assert_int_equal(mlxq_dequantize_weights(&dense, out, config, NULL, NULL), MLXQ_OK);
  const mlxq_tensor *weight = mlxq_weights_find(dense, "a.weight");
  assert_shape(weight, MLXQ_F32, SHAPE(16, 256));
  for (size_t i = 0; i < 16 * 256; i++) {
    size_t o = i / 256, k = i % 256;
    double wanted = ((double)code_of(&layer, o, k) - zero_of(&layer, o, k / 64)) * scale_of(&layer, o, k / 64);
    float found;
    memcpy(&found, (const char *)weight->data + 4 * i, 4);
    assert_true(fabs(found - wanted) <= 1e-6);
  }
  mlxq_quant_config_free(config);
  mlxq_weights_free(dense);
  mlxq_weights_free(out);
  mlxq_weights_free(in);
}

/* ---- The checks, in order -------------------------------------------------------------------------------------- */

/* One tensor of a layer that is only described. */
typedef struct sketch_part {
  bool there;
  mlxq_dtype dtype;
  uint32_t rank;
  uint64_t shape[3];
} sketch_part;

typedef struct sketch {
  sketch_part qweight, scales, qzeros, weight, biases;
} sketch;

/* What one call gets: options, the layers "m.a" and "m.b" (told first), and what is of no layer. */
typedef struct import_call {
  mlxq_awq_options options;
  sketch layers[2];
  bool g_idx, lone_qweight;
} import_call;

static const sketch GOOD = {{true, MLXQ_I32, 2, {256, 2}},
                            {true, MLXQ_F16, 2, {2, 16}},
                            {true, MLXQ_I32, 2, {2, 2}},
                            {false, MLXQ_F16, 2, {16, 256}},
                            {false, MLXQ_F16, 2, {16, 2}}};

/* The shape, which must outlive the map, may be one that no file can have. */
static void describe_part(mlxq_weights *weights, const char *path, const char *suffix, const sketch_part *part) {
  static const uint64_t NOTHING[3] = {0};
  char name[64];
  mlxq_tensor_entry *entry = NULL;
  int length = snprintf(name, sizeof name, "%s%s", path, suffix);
  if (!part->there) return;
  assert_int_equal(
      mlxq_weights_describe(weights, name, (size_t)length, part->dtype, part->rank, NOTHING, 0, 0, &entry, NULL),
      MLXQ_OK);
  entry->tensor.shape = part->shape;
}

static mlxq_weights *describe(const import_call *call) {
  static const char *const PATHS[] = {"m.a", "m.b"};
  static const sketch_part INDEX = {true, MLXQ_I32, 1, {256}}, LONE = {true, MLXQ_I32, 2, {256, 2}};
  mlxq_weights *weights = new_weights();
  if (call->lone_qweight) describe_part(weights, "m.lone", ".qweight", &LONE);
  for (size_t i = 2; i-- > 0;) {
    const sketch *layer = &call->layers[i];
    describe_part(weights, PATHS[i], ".biases", &layer->biases);
    describe_part(weights, PATHS[i], ".qzeros", &layer->qzeros);
    describe_part(weights, PATHS[i], ".scales", &layer->scales);
    describe_part(weights, PATHS[i], ".qweight", &layer->qweight);
    describe_part(weights, PATHS[i], ".weight", &layer->weight);
  }
  if (call->g_idx) describe_part(weights, "m.other", ".g_idx", &INDEX);
  return weights;
}

/* Which parts of a call a fault changes: two that change the same one cannot be there at once. */
enum {
  BITS = 1,
  VERSION = 2,
  GROUP = 4,
  INDEX = 8,
  LONE = 16,
  Q_DTYPE = 32,
  Q_SHAPE = 64,
  S_DTYPE = 128,
  S_SHAPE = 256,
  Z_DTYPE = 512,
  Z_SHAPE = 1024,
  WEIGHT = 2048,
  BIASES = 4096,
  OF_CALL = BITS | VERSION | GROUP | INDEX | LONE
};

/* In the order of the checks. */
typedef enum fault_kind {
  BAD_VERSION,
  BAD_BITS,
  GROUP_TOO_LARGE,
  GROUP_TOO_SMALL,
  G_IDX,
  SCALES_DTYPE,
  NO_SCALES,
  DENSE_WEIGHT,
  STALE_BIASES,
  QWEIGHT_DTYPE,
  QWEIGHT_RANK,
  QWEIGHT_SCALAR,
  SCALES_RANK,
  TOO_MANY_OUTS,
  GROUP_ZERO,
  NOT_DIVISIBLE,
  NOT_WORDS,
  SCALES_SHAPE,
  QZEROS_DTYPE,
  QZEROS_RANK,
  QZEROS_SHAPE,
  GROUP_16,
  FAULT_COUNT
} fault_kind;

static const struct {
  unsigned touches;
  mlxq_status status;
  const char *layer, *key; /* `@` stands for the layer's path */
} FAULTS[FAULT_COUNT] = {
    [BAD_VERSION] = {VERSION, MLXQ_UNKNOWN_VALUE, "", "version"},
    [BAD_BITS] = {BITS, MLXQ_OUT_OF_RANGE, "", "bits"},
    [GROUP_TOO_LARGE] = {GROUP, MLXQ_OUT_OF_RANGE, "", "group_size"},
    [GROUP_TOO_SMALL] = {GROUP, MLXQ_OUT_OF_RANGE, "", "group_size"},
    [G_IDX] = {INDEX, MLXQ_INVARIANT, "m.other.g_idx", "m.other.g_idx"},
    [SCALES_DTYPE] = {S_DTYPE, MLXQ_UNSUPPORTED_DTYPE, "@.scales", "@.scales"},
    [NO_SCALES] = {LONE, MLXQ_MISSING_KEY, "", "m.lone.scales"},
    [DENSE_WEIGHT] = {WEIGHT, MLXQ_KEY_COLLISION, "", "@.weight"},
    [STALE_BIASES] = {BIASES, MLXQ_KEY_COLLISION, "", "@.biases"},
    [QWEIGHT_DTYPE] = {Q_DTYPE, MLXQ_UNSUPPORTED_DTYPE, "@.qweight", "@.qweight"},
    [QWEIGHT_RANK] = {Q_SHAPE, MLXQ_RANK_MISMATCH, "@.qweight", "@.qweight"},
    [QWEIGHT_SCALAR] = {Q_SHAPE, MLXQ_RANK_MISMATCH, "@.qweight", "@.qweight"},
    [SCALES_RANK] = {S_SHAPE, MLXQ_RANK_MISMATCH, "@.scales", "@.scales"},
    [TOO_MANY_OUTS] = {Q_SHAPE, MLXQ_OVERFLOW, "@.qweight", "@.qweight"},
    [GROUP_ZERO] = {GROUP, MLXQ_OUT_OF_RANGE, "", "group_size"},
    [NOT_DIVISIBLE] = {Q_SHAPE, MLXQ_NOT_DIVISIBLE, "@.qweight", "@.qweight"},
    [NOT_WORDS] = {Q_SHAPE | GROUP, MLXQ_NOT_DIVISIBLE, "@.qweight", "@.qweight"},
    [SCALES_SHAPE] = {S_SHAPE, MLXQ_SHAPE_MISMATCH, "@", "@.scales"},
    [QZEROS_DTYPE] = {Z_DTYPE, MLXQ_UNSUPPORTED_DTYPE, "@.qzeros", "@.qzeros"},
    [QZEROS_RANK] = {Z_SHAPE, MLXQ_SHAPE_MISMATCH, "@.qzeros", "@.qzeros"},
    [QZEROS_SHAPE] = {Z_SHAPE, MLXQ_SHAPE_MISMATCH, "@.qzeros", "@.qzeros"},
    [GROUP_16] = {GROUP | S_SHAPE | Z_SHAPE, MLXQ_OUT_OF_RANGE, "@", "group_size"},
};

static void set_shape(sketch_part *part, uint32_t rank, uint64_t first, uint64_t second) {
  part->rank = rank;
  part->shape[0] = first;
  part->shape[1] = second;
  part->shape[2] = 1;
}

static void break_call(import_call *call, fault_kind fault, size_t index) {
  sketch *layer = &call->layers[index];
  switch (fault) {
    case BAD_VERSION:
      call->options.version = "marlin";
      break;
    case BAD_BITS:
      call->options.bits = 8;
      break;
    case GROUP_TOO_LARGE:
      call->options.group_size = INT64_C(1) << 31;
      break;
    case GROUP_TOO_SMALL:
      call->options.group_size = -2;
      break;
    case G_IDX:
      call->g_idx = true;
      break;
    case SCALES_DTYPE:
      layer->scales.dtype = MLXQ_I32;
      break;
    case NO_SCALES:
      call->lone_qweight = true;
      break;
    case DENSE_WEIGHT:
      layer->weight.there = true;
      break;
    case STALE_BIASES:
      layer->biases.there = true;
      break;
    case QWEIGHT_DTYPE:
      layer->qweight.dtype = MLXQ_I16;
      break;
    case QWEIGHT_RANK:
      layer->qweight.rank = 3;
      layer->qweight.shape[2] = 1;
      break;
    case QWEIGHT_SCALAR:
      layer->qweight.rank = 0;
      break;
    case SCALES_RANK:
      set_shape(&layer->scales, 1, 32, 1);
      break;
    case TOO_MANY_OUTS:
      set_shape(&layer->qweight, 2, 0, UINT64_C(1) << 60);
      break;
    case GROUP_ZERO:
      call->options.group_size = 0;
      break;
    case NOT_DIVISIBLE:
      set_shape(&layer->qweight, 2, 264, 2);
      break;
    case NOT_WORDS:
      set_shape(&layer->qweight, 2, 36, 2);
      call->options.group_size = 36;
      break;
    case SCALES_SHAPE:
      set_shape(&layer->scales, 2, 16, 2);
      break;
    case QZEROS_DTYPE:
      layer->qzeros.dtype = MLXQ_I64;
      break;
    case QZEROS_RANK:
      set_shape(&layer->qzeros, 3, 2, 2);
      break;
    case QZEROS_SHAPE:
      set_shape(&layer->qzeros, 2, 2, 16);
      break;
    default:
      call->options.group_size = 16;
      set_shape(&layer->scales, 2, 16, 16);
      set_shape(&layer->qzeros, 2, 16, 2);
      break;
  }
}

static void assert_fault(const import_call *call, fault_kind fault, size_t index) {
  char layer[64], key[64];
  const char *path = index ? "m.b" : "m.a";
  const char *told = FAULTS[fault].layer, *named = FAULTS[fault].key;
  snprintf(layer, sizeof layer, "%s%s", *told == '@' ? path : told, *told == '@' ? told + 1 : "");
  snprintf(key, sizeof key, "%s%s", *named == '@' ? path : named, *named == '@' ? named + 1 : "");
  mlxq_weights *weights = describe(call);
  assert_refused(weights, &call->options, FAULTS[fault].status, layer, key);
  mlxq_weights_free(weights);
}

static import_call good_call(size_t layers) {
  import_call call = {.options = MLXQ_AWQ_OPTIONS_INIT};
  for (size_t i = 0; i < layers; i++) call.layers[i] = GOOD;
  return call;
}

static void test_every_fault_alone(void **state) {
  (void)state;
  for (unsigned zero_point = 0; zero_point < 2; zero_point++) {
    for (fault_kind fault = 0; fault < FAULT_COUNT; fault++) {
      import_call call = good_call(1);
      call.options.zero_point = zero_point; /* qzeros are checked even where they are not used */
      break_call(&call, fault, 0);
      assert_fault(&call, fault, 0);
    }
  }
}

static void test_the_earlier_of_two_faults(void **state) {
  (void)state;
  size_t pairs = 0;
  for (fault_kind first = 0; first < FAULT_COUNT; first++) {
    for (fault_kind second = first + 1; second < FAULT_COUNT; second++) {
      import_call call = good_call(1);
      if (FAULTS[first].touches & FAULTS[second].touches) continue;
      break_call(&call, second, 0);
      break_call(&call, first, 0);
      assert_fault(&call, first, 0);
      pairs++;
    }
  }
  assert_in_range(pairs, 150, 231);
}

/* What concerns all layers is checked first, then one layer after the other, sorted; a group that MLX lacks is last. */
static void test_the_first_layer_is_told(void **state) {
  (void)state;
  for (fault_kind first = 0; first < GROUP_16; first++) {
    for (fault_kind second = 0; second < GROUP_16; second++) {
      import_call call = good_call(2);
      if ((FAULTS[first].touches & OF_CALL) || (FAULTS[second].touches & OF_CALL)) continue;
      break_call(&call, first, 0);
      break_call(&call, second, 1);
      bool second_is_first = second == SCALES_DTYPE && first != SCALES_DTYPE;
      assert_fault(&call, second_is_first ? second : first, second_is_first ? 1 : 0);
    }
  }
  for (fault_kind second = 0; second < GROUP_16; second++) {
    import_call call = good_call(2);
    if (FAULTS[second].touches & (GROUP | S_SHAPE | Z_SHAPE)) continue;
    break_call(&call, GROUP_16, 0);
    break_call(&call, GROUP_16, 1);
    break_call(&call, second, 1);
    assert_fault(&call, second, 1);
  }
}

/* Layers are compared as texts. */
static void test_layers_are_sorted_by_bytes(void **state) {
  (void)state;
  static const char *const PATHS[] = {"l.2", "l.10", "l.1", "l"};
  mlxq_awq_options options = MLXQ_AWQ_OPTIONS_INIT;
  for (size_t count = 1; count <= COUNT(PATHS); count++) {
    char key[32];
    mlxq_weights *in = new_weights();
    for (size_t i = 0; i < count; i++) describe_part(in, PATHS[i], ".qweight", &GOOD.qweight);
    snprintf(key, sizeof key, "%s.scales", PATHS[count - 1]);
    assert_refused(in, &options, MLXQ_MISSING_KEY, "", key);
    mlxq_weights_free(in);
  }
}

static void test_any_g_idx(void **state) {
  (void)state;
  mlxq_weights *in = new_weights();
  mlxq_awq_options options = MLXQ_AWQ_OPTIONS_INIT;
  add_random(in, "x.weight", MLXQ_F16, SHAPE(4));
  add_random(in, "x.g_idx", MLXQ_F16, SHAPE(0));
  assert_refused(in, &options, MLXQ_INVARIANT, "x.g_idx", "x.g_idx");
  mlxq_weights_free(in);
}

static void test_other_bits(void **state) {
  (void)state;
  static const int64_t BITS_OF[] = {0, 1, 2, 3, 5, 8, 16, -4, INT64_MAX, INT64_MIN, (INT64_C(1) << 32) + 4};
  mlxq_weights *in = new_weights(), *out;
  mlxq_quant_config *config;
  for (size_t i = 0; i < COUNT(BITS_OF); i++) {
    mlxq_awq_options options = MLXQ_AWQ_OPTIONS_INIT;
    mlxq_error error;
    options.bits = BITS_OF[i];
    assert_refused(in, &options, MLXQ_OUT_OF_RANGE, "", "bits");
    mlxq_import_awq(&out, &config, in, &options, NULL, &error);
    assert_non_null(strstr(error.message, "must be 4"));
  }
  mlxq_weights_free(in);
}

static void test_versions_of_the_structs(void **state) {
  (void)state;
  mlxq_weights *in = new_weights(), *out = (mlxq_weights *)(uintptr_t)16;
  mlxq_quant_config *config = (mlxq_quant_config *)(uintptr_t)16;
  mlxq_awq_options options = MLXQ_AWQ_OPTIONS_INIT;
  mlxq_transform_options transform = MLXQ_TRANSFORM_OPTIONS_INIT;
  mlxq_error error;
  options.struct_version = 2;
  assert_refused(in, &options, MLXQ_USAGE, "", "struct_version");
  options.struct_version = MLXQ_AWQ_OPTIONS_VERSION;
  transform.version = 77;
  assert_int_equal(mlxq_import_awq(&out, &config, in, &options, &transform, &error), MLXQ_USAGE);
  assert_error(&error, MLXQ_USAGE, "", "version");
  assert_null(out);
  assert_null(config);
  mlxq_weights_free(in);
}

/* The other layouts have shapes of their own. */
static void test_shapes_of_gemv(void **state) {
  (void)state;
  static const struct {
    const char *version;
    mlxq_dtype qweight_dtype;
    uint64_t qweight[2], scales[2], qzeros[2];
    mlxq_dtype zeros_dtype;
    int64_t group;
    mlxq_status status;
    const char *layer, *key;
  } CASES[] = {
      {"gemv", MLXQ_I16, {4, 32}, {4, 8}, {4, 1}, MLXQ_I32, 128, MLXQ_UNSUPPORTED_DTYPE, "a.qweight", "a.qweight"},
      {"gemv", MLXQ_I32, {4, 32}, {4, 2}, {4, 1}, MLXQ_I32, 128, MLXQ_SHAPE_MISMATCH, "a", "a.scales"},
      {"gemv", MLXQ_I32, {4, 32}, {8, 4}, {4, 1}, MLXQ_I32, 128, MLXQ_SHAPE_MISMATCH, "a", "a.scales"},
      {"gemv", MLXQ_I32, {4, 32}, {4, 8}, {4, 2}, MLXQ_I32, 128, MLXQ_SHAPE_MISMATCH, "a.qzeros", "a.qzeros"},
      {"gemv", MLXQ_I32, {4, 32}, {4, 16}, {4, 1}, MLXQ_I32, 64, MLXQ_SHAPE_MISMATCH, "a.qzeros", "a.qzeros"},
      {"gemv", MLXQ_I32, {4, 32}, {4, 8}, {4, 1}, MLXQ_F16, 128, MLXQ_UNSUPPORTED_DTYPE, "a.qzeros", "a.qzeros"},
      {"gemv", MLXQ_I32, {4, 33}, {4, 8}, {4, 1}, MLXQ_I32, 128, MLXQ_NOT_DIVISIBLE, "a.qweight", "a.qweight"},
      {"gemv_fast",
       MLXQ_I32,
       {2, 256},
       {8, 8},
       {8, 8},
       MLXQ_F16,
       128,
       MLXQ_UNSUPPORTED_DTYPE,
       "a.qweight",
       "a.qweight"},
      {"gemv_fast", MLXQ_I16, {2, 256}, {2, 8}, {8, 8}, MLXQ_F16, 128, MLXQ_SHAPE_MISMATCH, "a", "a.scales"},
      {"gemv_fast", MLXQ_I16, {2, 256}, {8, 8}, {2, 8}, MLXQ_F16, 128, MLXQ_SHAPE_MISMATCH, "a.qzeros", "a.qzeros"},
      {"gemv_fast", MLXQ_I16, {2, 256}, {8, 8}, {8, 8}, MLXQ_I32, 128, MLXQ_UNSUPPORTED_DTYPE, "a.qzeros", "a.qzeros"},
      {"gemv_fast", MLXQ_I16, {2, 256}, {8, 8}, {8, 8}, MLXQ_F32, 128, MLXQ_UNSUPPORTED_DTYPE, "a.qzeros", "a.qzeros"},
      {"gemv_fast", MLXQ_I16, {2, 96}, {32, 8}, {32, 8}, MLXQ_F16, 32, MLXQ_NOT_DIVISIBLE, "a.qweight", "a.qweight"},
      {"gemv",
       MLXQ_I32,
       {4, UINT64_C(1) << 60},
       {4, 8},
       {4, 1},
       MLXQ_I32,
       128,
       MLXQ_OVERFLOW,
       "a.qweight",
       "a.qweight"},
      {"gemv_fast",
       MLXQ_I16,
       {UINT64_C(1) << 61, 0},
       {8, 8},
       {8, 8},
       MLXQ_F16,
       128,
       MLXQ_OVERFLOW,
       "a.qweight",
       "a.qweight"},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    mlxq_weights *in = new_weights();
    mlxq_awq_options options = options_of(CASES[i].group, CASES[i].version);
    sketch_part qweight = {true, CASES[i].qweight_dtype, 2, {CASES[i].qweight[0], CASES[i].qweight[1]}};
    sketch_part scales = {true, MLXQ_F16, 2, {CASES[i].scales[0], CASES[i].scales[1]}};
    sketch_part qzeros = {true, CASES[i].zeros_dtype, 2, {CASES[i].qzeros[0], CASES[i].qzeros[1]}};
    describe_part(in, "a", ".qweight", &qweight);
    describe_part(in, "a", ".scales", &scales);
    describe_part(in, "a", ".qzeros", &qzeros);
    assert_refused(in, &options, CASES[i].status, CASES[i].layer, CASES[i].key);
    mlxq_weights_free(in);
  }
}

/* ---- Hostile shapes -------------------------------------------------------------------------------------------- */

static void test_empty_layers(void **state) {
  (void)state;
  static const struct {
    uint64_t ins, words;
    int64_t group;
    bool refused;
  } CASES[] = {
      {0, 2, 128, false}, {0, 0, 128, false},      {256, 0, 128, false},    {0, 2, -1, true},  {256, 0, -1, false},
      {64, 2, 128, true}, {8, 2, INT32_MAX, true}, {0, 2, INT32_MAX, true}, {0, 2, 32, false},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    uint64_t ins = CASES[i].ins, words = CASES[i].words;
    uint64_t groups = CASES[i].group > 0 ? ins / (uint64_t)CASES[i].group : ins / 128;
    mlxq_weights *in = new_weights(), *out = NULL;
    mlxq_awq_options options = options_of(CASES[i].group, "");
    mlxq_quant_config *config = NULL;
    mlxq_error error;
    add_random(in, "a.qweight", MLXQ_I32, SHAPE(ins, words));
    add_random(in, "a.scales", MLXQ_F16, SHAPE(groups, 8 * words));
    add_random(in, "a.qzeros", MLXQ_I32, SHAPE(groups, words));
    mlxq_status status = mlxq_import_awq(&out, &config, in, &options, NULL, &error);
    assert_int_equal(status != MLXQ_OK, CASES[i].refused);
    if (status == MLXQ_OK) {
      uint64_t row = CASES[i].group > 0 ? ins / (uint64_t)CASES[i].group : groups;
      assert_shape(mlxq_weights_find(out, "a.weight"), MLXQ_U32, SHAPE(8 * words, ins / 8));
      assert_shape(mlxq_weights_find(out, "a.scales"), MLXQ_F16, SHAPE(8 * words, row));
      assert_shape(mlxq_weights_find(out, "a.biases"), MLXQ_F16, SHAPE(8 * words, row));
    } else {
      assert_null(out);
      assert_null(config);
    }
    mlxq_quant_config_free(config);
    mlxq_weights_free(out);
    mlxq_weights_free(in);
  }
}

/* Dimensions beyond 32 bits, of tensors that hold nothing. */
static void test_huge_empty_layers(void **state) {
  (void)state;
  static const uint64_t SIZES[] = {UINT64_C(1) << 28, UINT64_C(1) << 31, UINT64_C(1) << 33, UINT64_C(1) << 40,
                                   UINT64_C(1) << 59};
  for (size_t i = 0; i < COUNT(SIZES); i++) {
    for (unsigned wide = 0; wide < 2; wide++) {
      uint64_t ins = wide ? 0 : SIZES[i], words = wide ? SIZES[i] : 0;
      mlxq_weights *in = new_weights(), *out = NULL;
      mlxq_awq_options options = MLXQ_AWQ_OPTIONS_INIT;
      mlxq_quant_config *config = NULL;
      mlxq_error error;
      sketch_part qweight = {true, MLXQ_I32, 2, {ins, words}}, scales = {true, MLXQ_F16, 2, {ins / 128, 8 * words}};
      describe_part(in, "a", ".qweight", &qweight);
      describe_part(in, "a", ".scales", &scales);
      if (mlxq_import_awq(&out, &config, in, &options, NULL, &error) == MLXQ_OK) {
        assert_shape(mlxq_weights_find(out, "a.weight"), MLXQ_U32, SHAPE(8 * words, ins / 8));
        assert_shape(mlxq_weights_find(out, "a.biases"), MLXQ_F16, SHAPE(8 * words, ins / 128));
      } else {
        assert_null(out);
        assert_null(config);
      }
      mlxq_quant_config_free(config);
      mlxq_weights_free(out);
      mlxq_weights_free(in);
    }
  }
}

/* ---- Unpacking ------------------------------------------------------------------------------------------------- */

static void test_unpack(void **state) {
  (void)state;
  const awq_layer layer = {"a", GEMM, MLXQ_F16, 40, 32, 32, false, false};
  for (unsigned kind = 0; kind < 2; kind++) {
    awq_layer chosen = layer;
    mlxq_weights *in = new_weights();
    uint32_t *codes = NULL;
    uint64_t shape[2] = {77, 77};
    chosen.is_unsigned = kind;
    add_packed(in, &chosen);
    assert_int_equal(mlxq_unpack_awq(&codes, shape, mlxq_weights_find(in, "a.qweight"), NULL), MLXQ_OK);
    assert_int_equal(shape[0], 32);
    assert_int_equal(shape[1], 40);
    for (size_t i = 0; i < 32 * 40; i++) assert_int_equal(codes[i], code_of(&chosen, i % 40, i / 40));
    mlxq_free(codes);
    assert_int_equal(mlxq_unpack_awq(&codes, shape, mlxq_weights_find(in, "a.qzeros"), NULL), MLXQ_OK);
    assert_int_equal(shape[0], 1);
    for (size_t i = 0; i < 40; i++) assert_int_equal(codes[i], zero_of(&chosen, i, 0));
    mlxq_free(codes);
    mlxq_weights_free(in);
  }
}

/* The word 0x76543210 holds, in natural order, columns 0 2 4 6 1 3 5 7 backwards: AutoAWQ's order. */
static void test_unpack_one_word(void **state) {
  (void)state;
  static const uint32_t WORDS[] = {0x76543210u, 0xFFFFFFFFu, 0x80000000u};
  static const uint32_t EXPECTED[] = {0, 4, 1, 5, 2, 6, 3, 7, 15, 15, 15, 15, 15, 15, 15, 15, 0, 0, 0, 0, 0, 0, 0, 8};
  const uint64_t shape_in[] = {1, 3};
  mlxq_tensor tensor = {"w", MLXQ_I32, 2, shape_in, 12, WORDS};
  uint32_t *codes = NULL;
  uint64_t shape[2];
  assert_int_equal(mlxq_unpack_awq(&codes, shape, &tensor, NULL), MLXQ_OK);
  assert_memory_equal(codes, EXPECTED, sizeof EXPECTED);
  mlxq_free(codes);
}

static void test_unpack_errors(void **state) {
  (void)state;
  static const struct {
    mlxq_dtype dtype;
    uint32_t rank;
    uint64_t shape[3];
    mlxq_status status;
  } CASES[] = {
      {MLXQ_I32, 0, {0}, MLXQ_RANK_MISMATCH},
      {MLXQ_I32, 1, {8}, MLXQ_RANK_MISMATCH},
      {MLXQ_U32, 3, {1, 1, 1}, MLXQ_RANK_MISMATCH},
      {MLXQ_F16, 3, {1, 1, 1}, MLXQ_RANK_MISMATCH},
      {MLXQ_F32, 2, {1, 1}, MLXQ_UNSUPPORTED_DTYPE},
      {MLXQ_I64, 2, {0, UINT64_C(1) << 60}, MLXQ_UNSUPPORTED_DTYPE},
      {MLXQ_I16, 2, {1, 1}, MLXQ_UNSUPPORTED_DTYPE},
      {MLXQ_I32, 2, {0, UINT64_C(1) << 60}, MLXQ_OVERFLOW},
      {MLXQ_U32, 2, {0, UINT64_C(1) << 62}, MLXQ_OVERFLOW},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    uint32_t *codes = (uint32_t *)(uintptr_t)16;
    uint64_t shape[2];
    mlxq_error error;
    mlxq_tensor tensor = {"the.qweight", CASES[i].dtype, CASES[i].rank, CASES[i].shape, 0, NULL};
    assert_int_equal(mlxq_unpack_awq(&codes, shape, &tensor, &error), CASES[i].status);
    assert_null(codes);
    assert_error(&error, CASES[i].status, "", "the.qweight");
  }
}

static void test_unpack_nothing(void **state) {
  (void)state;
  static const uint64_t SHAPES[][2] = {{0, 0}, {0, 5}, {5, 0}, {UINT64_C(1) << 40, 0}, {0, UINT64_C(1) << 59}};
  for (size_t i = 0; i < COUNT(SHAPES); i++) {
    uint32_t *codes = NULL;
    uint64_t shape[2] = {77, 77};
    mlxq_tensor tensor = {"w", MLXQ_I32, 2, SHAPES[i], 0, NULL};
    assert_int_equal(mlxq_unpack_awq(&codes, shape, &tensor, NULL), MLXQ_OK);
    assert_non_null(codes);
    assert_true(shape[0] == SHAPES[i][0] && shape[1] == 8 * SHAPES[i][1]);
    mlxq_free(codes);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_the_packer_itself),
      cmocka_unit_test(test_gemm),
      cmocka_unit_test(test_gemv),
      cmocka_unit_test(test_gemv_fast),
      cmocka_unit_test(test_scaled_zeros),
      cmocka_unit_test(test_versions),
      cmocka_unit_test(test_a_zero_point_of_zero),
      cmocka_unit_test(test_products_at_the_edges),
      cmocka_unit_test(test_dtypes_are_unified),
      cmocka_unit_test(test_a_float16_survives_beside_bfloat16),
      cmocka_unit_test(test_only_layers_choose_the_dtype),
      cmocka_unit_test(test_what_passes_through),
      cmocka_unit_test(test_no_packed_layer),
      cmocka_unit_test(test_the_source_is_not_kept),
      cmocka_unit_test(test_threads),
      cmocka_unit_test(test_large_groups_are_split),
      cmocka_unit_test(test_groups_differ),
      cmocka_unit_test(test_groups_that_mlx_lacks),
      cmocka_unit_test(test_the_result_dequantizes_to_the_formula),
      cmocka_unit_test(test_every_fault_alone),
      cmocka_unit_test(test_the_earlier_of_two_faults),
      cmocka_unit_test(test_the_first_layer_is_told),
      cmocka_unit_test(test_layers_are_sorted_by_bytes),
      cmocka_unit_test(test_any_g_idx),
      cmocka_unit_test(test_other_bits),
      cmocka_unit_test(test_versions_of_the_structs),
      cmocka_unit_test(test_shapes_of_gemv),
      cmocka_unit_test(test_empty_layers),
      cmocka_unit_test(test_huge_empty_layers),
      cmocka_unit_test(test_unpack),
      cmocka_unit_test(test_unpack_one_word),
      cmocka_unit_test(test_unpack_errors),
      cmocka_unit_test(test_unpack_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
