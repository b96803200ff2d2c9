/* mlxq_dequantize_weights: which tensors make a triple, what it refuses and in which order, and what it gives. */
#include "helpers.h"

static mlxq_weights *dequantize(const mlxq_weights *in, const mlxq_quant_config *config,
                                const mlxq_transform_options *options) {
  mlxq_weights *out = NULL;
  mlxq_error error;
  if (mlxq_dequantize_weights(&out, in, config, options, &error) != MLXQ_OK) {
    fail_msg("%s: %s: %s", error.layer, error.key, error.message);
  }
  assert_non_null(out);
  return out;
}

static void assert_refused(const mlxq_weights *in, const mlxq_quant_config *config, mlxq_status status,
                           const char *layer, const char *key) {
  mlxq_weights *out = (mlxq_weights *)(uintptr_t)16;
  mlxq_error error;
  memset(&error, 'x', sizeof error);
  mlxq_status result = mlxq_dequantize_weights(&out, in, config, NULL, &error);
  if (result != status) fail_msg("%s, not %s", mlxq_status_name(result), mlxq_status_name(status));
  assert_null(out);
  assert_error(&error, status, layer, key);
}

/* ---- The order of the rules ------------------------------------------------------------------------------------ */

enum { BY_DEFAULT, BY_OVERRIDE, BY_OVERRIDE_ALONE, BY_TRUE, SKIPPED, HOW_COUNT };

/* How scales or biases relate to the weight. */
enum { ABSENT, FITTING, DEEPER, FLATTER, OTHER_LEADING, OTHER_GROUPS, FIT_COUNT };

static const test_scheme SCHEMES[] = {
    {false, {MLXQ_AFFINE, 0, 0}, NULL},         {true, {MLXQ_AFFINE, 4, 64}, NULL},
    {true, {MLXQ_AFFINE, 3, 32}, NULL},         {true, {MLXQ_MXFP4, 4, 32}, NULL},
    {true, {MLXQ_NVFP4, 4, 16}, NULL},          {true, {MLXQ_AFFINE, 7, 64}, "bits"},
    {true, {MLXQ_AFFINE, 4, 48}, "group_size"}, {true, {MLXQ_MXFP8, 4, 32}, "bits"},
    {true, {MLXQ_AFFINE, 4, 0}, "group_size"},  {true, {MLXQ_NVFP4, 4, -16}, "group_size"},
};

static const mlxq_dtype WEIGHT_DTYPES[] = {MLXQ_U32, MLXQ_I32, MLXQ_BF16};
static const mlxq_dtype PART_DTYPES[] = {MLXQ_U8, MLXQ_BF16, MLXQ_F64};

/* The packed weight; `groups` of scales fit it where the scheme can say so. 96 words are a multiple of every group. */
static const struct {
  uint32_t rank;
  uint64_t shape[4];
} SHAPES[] = {{0, {0}}, {1, {96}}, {2, {2, 96}}, {2, {2, 95}}, {3, {2, 3, 96}}, {2, {0, 96}}, {2, {2, 0}}};

typedef struct combination {
  const test_scheme *scheme;
  int how, scales, biases;
  mlxq_dtype weight_dtype, scales_dtype, biases_dtype;
  uint32_t rank;
  const uint64_t *shape;
} combination;

typedef struct verdict {
  mlxq_status status;
  const char *key; /* NULL: the layer's name goes before `part` */
  const char *part;
  bool dequantized;
} verdict;

static uint64_t bits_of_group(const combination *c) {
  return (uint64_t)c->scheme->scheme.group_size * (uint64_t)c->scheme->scheme.bits;
}

static bool is_affine_dtype(mlxq_dtype dtype) {
  return dtype == MLXQ_BF16 || dtype == MLXQ_F16 || dtype == MLXQ_F32;
}

/* The rules, in the header's order. */
static verdict judge(const combination *c) {
  static const verdict PASSES = {MLXQ_OK, NULL, NULL, false};
  bool affine = c->scheme->scheme.mode == MLXQ_AFFINE;
  if (!c->scales) {
    bool stale = c->biases && c->weight_dtype == MLXQ_U32 && c->rank >= 2;
    return stale ? (verdict){MLXQ_MISSING_KEY, NULL, ".scales", false} : PASSES;
  }
  if (!c->scheme->any || c->how == SKIPPED) return (verdict){MLXQ_INVARIANT, "", NULL, false};
  if (affine && !c->biases) return (verdict){MLXQ_MISSING_KEY, NULL, ".biases", false};
  if (!affine && c->biases) return (verdict){MLXQ_KEY_COLLISION, NULL, ".biases", false};
  if (c->scheme->illegal) return (verdict){MLXQ_OUT_OF_RANGE, c->scheme->illegal, NULL, false};
  if (c->weight_dtype != MLXQ_U32) return (verdict){MLXQ_UNSUPPORTED_DTYPE, NULL, ".weight", false};
  if (c->rank < 2) return (verdict){MLXQ_RANK_MISMATCH, NULL, ".weight", false};
  if (c->scales == DEEPER || c->scales == FLATTER) return (verdict){MLXQ_LENGTH_MISMATCH, NULL, ".scales", false};
  if (c->scales == OTHER_LEADING) return (verdict){MLXQ_SHAPE_MISMATCH, NULL, ".scales", false};
  if (c->biases == DEEPER || c->biases == FLATTER) return (verdict){MLXQ_LENGTH_MISMATCH, NULL, ".biases", false};
  if (c->biases == OTHER_LEADING) return (verdict){MLXQ_SHAPE_MISMATCH, NULL, ".biases", false};
  uint64_t bits = c->shape[c->rank - 1] * 32;
  if (bits % bits_of_group(c) != 0 || c->scales == OTHER_GROUPS) {
    return (verdict){MLXQ_SHAPE_MISMATCH, NULL, ".scales", false};
  }
  if (c->biases == OTHER_GROUPS) return (verdict){MLXQ_SHAPE_MISMATCH, NULL, ".biases", false};
  if (affine ? !is_affine_dtype(c->scales_dtype) : c->scales_dtype != MLXQ_U8) {
    return (verdict){MLXQ_UNSUPPORTED_DTYPE, NULL, ".scales", false};
  }
  if (affine && c->biases_dtype != c->scales_dtype) return (verdict){MLXQ_UNSUPPORTED_DTYPE, NULL, ".biases", false};
  return (verdict){MLXQ_OK, NULL, NULL, true};
}

static mlxq_quant_config *config_for(const combination *c) {
  static const mlxq_scheme WRONG = {MLXQ_AFFINE, 9, 1};
  mlxq_quant_config *config = NULL;
  mlxq_layer_option option = {.kind = MLXQ_LAYER_DEFAULT, .scheme = c->scheme->scheme};
  const mlxq_scheme *fallback = c->scheme->any ? &c->scheme->scheme : NULL;
  if (c->how == BY_OVERRIDE || c->how == BY_OVERRIDE_ALONE) {
    fallback = c->how == BY_OVERRIDE && c->scheme->any ? &WRONG : NULL;
    option.kind = MLXQ_LAYER_SCHEME;
  }
  if (c->how == SKIPPED) option.kind = MLXQ_LAYER_SKIP;
  assert_int_equal(mlxq_quant_config_new(&config, fallback, NULL), MLXQ_OK);
  bool names_it = c->how != BY_DEFAULT && (option.kind != MLXQ_LAYER_SCHEME || c->scheme->any);
  if (names_it) assert_int_equal(mlxq_quant_config_set_layer(config, "model.foo", &option, NULL), MLXQ_OK);
  return config;
}

static void add_part(mlxq_weights *in, const char *name, mlxq_dtype dtype, int fit, const combination *c) {
  uint64_t shape[5], group = bits_of_group(c);
  uint32_t rank = c->rank;
  if (fit == ABSENT) return;
  if (rank > 0) {
    memcpy(shape, c->shape, rank * sizeof *shape);
    shape[rank - 1] = group > 0 && group < 1000 ? shape[rank - 1] * 32 / group : 1;
    if (fit == OTHER_GROUPS) shape[rank - 1]++;
  }
  if (fit == DEEPER) shape[rank++] = 1;
  if (fit == FLATTER) rank--;
  if (fit == OTHER_LEADING) shape[rank - 2]++;
  add_random(in, name, dtype, rank, shape);
}

static bool can_be(int fit, uint32_t rank) {
  return fit < FLATTER || rank >= 2;
}

static verdict check(const combination *c) {
  verdict expected = judge(c);
  mlxq_quant_config *config = config_for(c);
  mlxq_weights *in = new_weights(), *out = (mlxq_weights *)(uintptr_t)16;
  mlxq_transform_options options = MLXQ_TRANSFORM_OPTIONS_INIT;
  mlxq_error error;
  char key[64];
  options.threads = 1;
  options.dtype = MLXQ_F32;
  add_part(in, "model.foo.biases", c->biases_dtype, c->biases, c);
  add_random(in, "model.foo.weight", c->weight_dtype, c->rank, c->shape);
  add_random(in, "other.bias", MLXQ_F32, SHAPE(5));
  add_part(in, "model.foo.scales", c->scales_dtype, c->scales, c);
  memset(&error, 'x', sizeof error);
  mlxq_status status = mlxq_dequantize_weights(&out, in, config, &options, &error);
  if (status != expected.status) {
    fail_msg("%s, not %s: scheme %d, how %d, scales %d, biases %d, rank %u, %s, %s, %s", mlxq_status_name(status),
             mlxq_status_name(expected.status), (int)(c->scheme - SCHEMES), c->how, c->scales, c->biases, c->rank,
             mlxq_dtype_name(c->weight_dtype), mlxq_dtype_name(c->scales_dtype), mlxq_dtype_name(c->biases_dtype));
  }
  if (status != MLXQ_OK) {
    snprintf(key, sizeof key, "model.foo%s", expected.part ? expected.part : "");
    assert_null(out);
    assert_error(&error, status, "model.foo", expected.key ? expected.key : key);
  } else if (expected.dequantized) {
    static const char *const NAMES[] = {"model.foo.weight", "other.bias"};
    uint64_t shape[4];
    memcpy(shape, c->shape, c->rank * sizeof *shape);
    shape[c->rank - 1] = shape[c->rank - 1] * 32 / (uint64_t)c->scheme->scheme.bits;
    assert_names(out, NAMES, COUNT(NAMES));
    mlxq_dtype dtype = c->scheme->scheme.mode == MLXQ_AFFINE ? c->scales_dtype : MLXQ_F32;
    assert_shape(mlxq_weights_at(out, 0), dtype, c->rank, shape);
    assert_same_tensor(mlxq_weights_at(out, 1), mlxq_weights_find(in, "other.bias"));
  } else {
    assert_same_weights(out, in);
  }
  mlxq_weights_free(out);
  mlxq_weights_free(in);
  mlxq_quant_config_free(config);
  return expected;
}

static void test_every_combination(void **state) {
  (void)state;
  unsigned seen[32] = {0}, dequantized = 0, passed = 0;
  combination c;
  for (size_t s = 0; s < COUNT(SCHEMES); s++) {
    for (size_t shape = 0; shape < COUNT(SHAPES); shape++) {
      c = (combination){.scheme = &SCHEMES[s], .rank = SHAPES[shape].rank, .shape = SHAPES[shape].shape};
      for (int rest = 0; rest < HOW_COUNT * FIT_COUNT * FIT_COUNT; rest++) {
        c.how = rest % HOW_COUNT;
        c.scales = rest / HOW_COUNT % FIT_COUNT;
        c.biases = rest / HOW_COUNT / FIT_COUNT;
        if (!can_be(c.scales, c.rank) || !can_be(c.biases, c.rank)) continue;
        for (size_t d = 0; d < COUNT(WEIGHT_DTYPES) * COUNT(PART_DTYPES) * COUNT(PART_DTYPES); d++) {
          c.weight_dtype = WEIGHT_DTYPES[d % COUNT(WEIGHT_DTYPES)];
          c.scales_dtype = PART_DTYPES[d / COUNT(WEIGHT_DTYPES) % COUNT(PART_DTYPES)];
          c.biases_dtype = PART_DTYPES[d / COUNT(WEIGHT_DTYPES) / COUNT(PART_DTYPES)];
          if (!c.scales && c.scales_dtype != PART_DTYPES[0]) continue; /* said already */
          if (!c.biases && c.biases_dtype != PART_DTYPES[0]) continue;
          verdict expected = check(&c);
          seen[expected.status]++;
          dequantized += expected.dequantized;
          passed += expected.status == MLXQ_OK && !expected.dequantized;
        }
      }
    }
  }
  static const mlxq_status ALL[] = {MLXQ_MISSING_KEY,    MLXQ_KEY_COLLISION,     MLXQ_INVARIANT,
                                    MLXQ_RANK_MISMATCH,  MLXQ_UNSUPPORTED_DTYPE, MLXQ_LENGTH_MISMATCH,
                                    MLXQ_SHAPE_MISMATCH, MLXQ_OUT_OF_RANGE};
  for (size_t i = 0; i < COUNT(ALL); i++) assert_true(seen[ALL[i]] > 10);
  assert_true(dequantized > 60);
  assert_true(passed > 1000);
}

static void test_the_first_layer_in_order_is_told(void **state) {
  (void)state;
  static const char *const LAYERS[] = {"z.stale", "a.packed", "m.wide"};
  static const mlxq_status STATUSES[] = {MLXQ_MISSING_KEY, MLXQ_SHAPE_MISMATCH, MLXQ_UNSUPPORTED_DTYPE};
  static const char *const KEYS[] = {"z.stale.scales", "a.packed.scales", "m.wide.weight"};
  static const int ORDERS[][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
  mlxq_quant_config *config = config_of(MLXQ_MXFP4, 4, 32);
  for (size_t order = 0; order < COUNT(ORDERS); order++) {
    mlxq_weights *in = new_weights();
    add_random(in, "m.wide.scales", MLXQ_U8, SHAPE(2, 1));
    add_random(in, "z.stale.biases", MLXQ_F32, SHAPE(1));
    add_triple(in, "fine", &(mlxq_scheme){MLXQ_MXFP4, 4, 32}, SHAPE(2, 32));
    for (int i = 0; i < 3; i++) {
      char name[64];
      int layer = ORDERS[order][i];
      snprintf(name, sizeof name, "%s.weight", LAYERS[layer]);
      add_random(in, name, layer == 2 ? MLXQ_F32 : MLXQ_U32, SHAPE(2, 4));
    }
    add_random(in, "a.packed.scales", MLXQ_U8, SHAPE(2, 2));
    int first = ORDERS[order][0];
    assert_refused(in, config, STATUSES[first], LAYERS[first], KEYS[first]);
    mlxq_weights_free(in);
  }
  mlxq_quant_config_free(config);
}

/* ---- What passes through --------------------------------------------------------------------------------------- */

static void test_everything_else_passes_through(void **state) {
  (void)state;
  mlxq_weights *in = new_weights();
  mlxq_quant_config *config = parse_config("{\"group_size\": 64, \"bits\": 4, \"skipped\": false}");
  add_random(in, "orphan.scales", MLXQ_BF16, SHAPE(4, 1));
  add_random(in, "pair.scales", MLXQ_BF16, SHAPE(4, 1));
  add_random(in, "pair.biases", MLXQ_BF16, SHAPE(4, 1));
  add_random(in, "alone.biases", MLXQ_BF16, SHAPE(4, 1));
  add_random(in, "dense.weight", MLXQ_BF16, SHAPE(4, 64));
  add_random(in, "dense.biases", MLXQ_BF16, SHAPE(4, 1));
  add_random(in, "flat.weight", MLXQ_U32, SHAPE(64));
  add_random(in, "flat.biases", MLXQ_BF16, SHAPE(4));
  add_random(in, "point.weight", MLXQ_U32, SCALAR);
  add_random(in, "point.biases", MLXQ_BF16, SCALAR);
  add_random(in, "packed.weight", MLXQ_U32, SHAPE(4, 64)); /* nothing says that it is quantized */
  add_random(in, "skipped.weight", MLXQ_F32, SHAPE(4, 64));
  add_random(in, "weight", MLXQ_U32, SHAPE(4, 8));
  add_random(in, "scales", MLXQ_BF16, SHAPE(4, 1));
  add_random(in, "biases", MLXQ_BF16, SHAPE(4, 1));
  for (int dtype = 0; dtype < MLXQ_DTYPE_COUNT; dtype++) {
    add_random(in, mlxq_dtype_name((mlxq_dtype)dtype), (mlxq_dtype)dtype, SHAPE(3, 4, 5, 8));
  }
  mlxq_weights *out = dequantize(in, config, NULL);
  assert_same_weights(out, in);
  mlxq_weights_free(out);
  mlxq_weights_free(in);
  mlxq_quant_config_free(config);
}

static void test_order_of_the_result(void **state) {
  (void)state;
  static const char *const EXPECTED[] = {"first", "b.weight", "middle", "a.weight", "dense.weight", "last"};
  mlxq_weights *in = new_weights();
  mlxq_quant_config *config =
      parse_config("{\"group_size\": 64, \"bits\": 4, \"a\": {\"group_size\": 32, \"bits\": 8, \"mode\": \"mxfp8\"}}");
  add_random(in, "first", MLXQ_U8, SHAPE(1));
  add_random(in, "b.biases", MLXQ_F16, SHAPE(2, 1));
  add_random(in, "a.scales", MLXQ_U8, SHAPE(2, 2));
  add_random(in, "b.weight", MLXQ_U32, SHAPE(2, 8));
  add_random(in, "middle", MLXQ_U8, SHAPE(1));
  add_random(in, "a.weight", MLXQ_U32, SHAPE(2, 16));
  add_random(in, "dense.weight", MLXQ_F16, SHAPE(2, 64));
  add_random(in, "last", MLXQ_U8, SHAPE(1));
  add_random(in, "b.scales", MLXQ_F16, SHAPE(2, 1));
  mlxq_weights *out = dequantize(in, config, NULL);
  assert_names(out, EXPECTED, COUNT(EXPECTED));
  assert_shape(mlxq_weights_at(out, 1), MLXQ_F16, SHAPE(2, 64));
  assert_shape(mlxq_weights_at(out, 3), MLXQ_BF16, SHAPE(2, 64));
  assert_null(mlxq_weights_find(out, "b.scales"));
  mlxq_weights_free(out);
  mlxq_weights_free(in);
  mlxq_quant_config_free(config);
}

/* ".weight" and ".scales" are the layer "". */
static void test_a_layer_without_a_name(void **state) {
  (void)state;
  mlxq_weights *in = new_weights();
  mlxq_quant_config *config = parse_config("{\"group_size\": 64, \"bits\": 4, \"skipped\": false}");
  add_random(in, "skipped.weight", MLXQ_F32, SHAPE(2, 64));
  add_random(in, ".weight", MLXQ_U32, SHAPE(2, 8));
  add_random(in, ".scales", MLXQ_F32, SHAPE(2, 1));
  add_random(in, ".biases", MLXQ_F32, SHAPE(2, 1));
  mlxq_weights *out = dequantize(in, config, NULL);
  assert_int_equal(mlxq_weights_count(out), 2);
  assert_shape(mlxq_weights_find(out, ".weight"), MLXQ_F32, SHAPE(2, 64));
  mlxq_weights_free(out);
  mlxq_weights_free(in);
  mlxq_quant_config_free(config);
}

/* A dimension that the packed one multiplied by 32 / bits does not fit. */
static void test_sizes_that_overflow(void **state) {
  (void)state;
  mlxq_weights *in = new_weights();
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 2, 32);
  uint64_t words = UINT64_C(1) << 57, groups = words / 2;
  const unsigned char nowhere = 0;
  assert_int_equal(mlxq_weights_add_borrowed(in, "a.weight", MLXQ_U32, SHAPE(1, words), &nowhere, NULL), MLXQ_OK);
  assert_int_equal(mlxq_weights_add_borrowed(in, "a.scales", MLXQ_F32, SHAPE(1, groups), &nowhere, NULL), MLXQ_OK);
  assert_int_equal(mlxq_weights_add_borrowed(in, "a.biases", MLXQ_F32, SHAPE(1, groups), &nowhere, NULL), MLXQ_OK);
  mlxq_weights *out = (mlxq_weights *)(uintptr_t)16;
  mlxq_error error;
  assert_int_equal(mlxq_dequantize_weights(&out, in, config, NULL, &error), MLXQ_OVERFLOW);
  assert_null(out);
  assert_string_equal(error.layer, "a");
  mlxq_weights_free(in);
  mlxq_quant_config_free(config);
}

/* ---- Numbers --------------------------------------------------------------------------------------------------- */

/* The dense weight is what dequantizing the whole array at once gives. */
static void assert_dequantized(const mlxq_weights *out, const mlxq_weights *in, const char *layer,
                               const mlxq_scheme *scheme, mlxq_profile profile) {
  const void *parts[3] = {NULL};
  static const char *const PARTS[] = {".weight", ".scales", ".biases"};
  char name[128];
  for (int i = 0; i < (scheme->mode == MLXQ_AFFINE ? 3 : 2); i++) {
    snprintf(name, sizeof name, "%s%s", layer, PARTS[i]);
    parts[i] = bytes_of(in, name);
  }
  snprintf(name, sizeof name, "%s.weight", layer);
  const mlxq_tensor *dense = mlxq_weights_find(out, name);
  assert_non_null(dense);
  void *expected = malloc((size_t)dense->bytes + 1);
  assert_non_null(expected);
  uint64_t elems = dense->bytes * 8 / mlxq_dtype_bits(dense->dtype);
  assert_int_equal(
      mlxq_dequantize_array(expected, dense->dtype, elems, parts[0], parts[1], parts[2], scheme, profile, NULL),
      MLXQ_OK);
  if (memcmp(dense->data, expected, (size_t)dense->bytes) != 0) fail_msg("%s: other bytes", name);
  free(expected);
}

static void add_typed_triple(mlxq_weights *in, const mlxq_scheme *scheme, mlxq_dtype dtype, uint32_t rank,
                             const uint64_t *dense) {
  uint64_t shape[MLXQ_MAX_RANK];
  memcpy(shape, dense, rank * sizeof *shape);
  shape[rank - 1] = dense[rank - 1] * (uint64_t)scheme->bits / 32;
  add_random(in, "p.weight", MLXQ_U32, rank, shape);
  shape[rank - 1] = dense[rank - 1] / (uint64_t)scheme->group_size;
  add_random(in, "p.scales", scheme->mode == MLXQ_AFFINE ? dtype : MLXQ_U8, rank, shape);
  if (scheme->mode == MLXQ_AFFINE) add_random(in, "p.biases", dtype, rank, shape);
}

static void test_every_scheme_dtype_and_rank(void **state) {
  (void)state;
  static const struct {
    uint32_t rank;
    uint64_t shape[4];
  } RANKS[] = {{2, {6, 256}}, {3, {2, 3, 128}}, {4, {1, 2, 3, 256}}, {2, {0, 128}}, {2, {4, 0}}, {3, {2, 0, 128}}};
  seed_random(61);
  for (size_t s = 0; s < LEGAL_COUNT; s++) {
    for (size_t d = 0; d < QUANTIZABLE_COUNT; d++) {
      for (size_t r = 0; r < COUNT(RANKS); r++) {
        for (int profile = 0; profile < 2; profile++) {
          mlxq_weights *in = new_weights();
          mlxq_quant_config *config = config_of(LEGAL[s].mode, LEGAL[s].bits, LEGAL[s].group_size);
          mlxq_transform_options options = MLXQ_TRANSFORM_OPTIONS_INIT;
          options.profile = (mlxq_profile)profile;
          options.dtype =
              LEGAL[s].mode == MLXQ_AFFINE ? QUANTIZABLE[(d + 1) % 3] : QUANTIZABLE[d]; /* affine has its own */
          add_typed_triple(in, &LEGAL[s], QUANTIZABLE[d], RANKS[r].rank, RANKS[r].shape);
          mlxq_weights *out = dequantize(in, config, &options);
          assert_int_equal(mlxq_weights_count(out), 1);
          assert_shape(mlxq_weights_at(out, 0), QUANTIZABLE[d], RANKS[r].rank, RANKS[r].shape);
          assert_dequantized(out, in, "p", &LEGAL[s], options.profile);
          mlxq_weights_free(out);
          mlxq_weights_free(in);
          mlxq_quant_config_free(config);
        }
      }
    }
  }
}

static void test_any_number_of_threads_makes_the_same_bytes(void **state) {
  (void)state;
  static const mlxq_scheme CHOSEN[] = {{MLXQ_AFFINE, 5, 64}, {MLXQ_NVFP4, 4, 16}};
  for (size_t s = 0; s < COUNT(CHOSEN); s++) {
    mlxq_weights *in = new_weights(), *expected = NULL;
    mlxq_quant_config *config = config_of(CHOSEN[s].mode, CHOSEN[s].bits, CHOSEN[s].group_size);
    add_triple(in, "a", &CHOSEN[s], SHAPE(1031, 1088));
    add_random(in, "copied", MLXQ_U8, SHAPE((5 << 20) + 1));
    add_triple(in, "b", &CHOSEN[s], SHAPE(2, 1, 64));
    add_triple(in, "c", &CHOSEN[s], SHAPE(7, 300, 1024));
    for (unsigned threads = 1; threads <= 8; threads++) {
      mlxq_transform_options options = MLXQ_TRANSFORM_OPTIONS_INIT;
      options.threads = threads;
      mlxq_weights *out = dequantize(in, config, &options);
      if (!expected) {
        expected = out;
        for (const char *layer = "a\0b\0c\0"; *layer; layer += 2) {
          assert_dequantized(out, in, layer, &CHOSEN[s], MLXQ_PROFILE_CPU);
        }
        assert_same_tensor(mlxq_weights_find(out, "copied"), mlxq_weights_find(in, "copied"));
      } else {
        assert_same_weights(out, expected);
        mlxq_weights_free(out);
      }
    }
    mlxq_weights_free(expected);
    mlxq_weights_free(in);
    mlxq_quant_config_free(config);
  }
}

static void test_unaligned_data(void **state) {
  (void)state;
  static const mlxq_scheme CHOSEN[] = {{MLXQ_AFFINE, 3, 32}, {MLXQ_MXFP4, 4, 32}};
  for (size_t s = 0; s < COUNT(CHOSEN); s++) {
    for (size_t shift = 1; shift < 8; shift++) {
      mlxq_weights *aligned = new_weights(), *in = new_weights();
      mlxq_quant_config *config = config_of(CHOSEN[s].mode, CHOSEN[s].bits, CHOSEN[s].group_size);
      add_typed_triple(aligned, &CHOSEN[s], MLXQ_F32, SHAPE(33, 96));
      unsigned char *blocks[3] = {NULL};
      for (size_t i = 0; i < mlxq_weights_count(aligned); i++) {
        const mlxq_tensor *tensor = mlxq_weights_at(aligned, i);
        blocks[i] = malloc((size_t)tensor->bytes + shift);
        assert_non_null(blocks[i]);
        memcpy(blocks[i] + shift, tensor->data, (size_t)tensor->bytes);
        assert_int_equal(mlxq_weights_add_borrowed(in, tensor->name, tensor->dtype, tensor->rank, tensor->shape,
                                                   blocks[i] + shift, NULL),
                         MLXQ_OK);
      }
      mlxq_weights *expected = dequantize(aligned, config, NULL), *out = dequantize(in, config, NULL);
      for (size_t i = 0; i < 3; i++) free(blocks[i]);
      assert_same_weights(out, expected);
      mlxq_weights_free(out);
      mlxq_weights_free(expected);
      mlxq_weights_free(in);
      mlxq_weights_free(aligned);
      mlxq_quant_config_free(config);
    }
  }
}

static void test_inputs_are_neither_changed_nor_kept(void **state) {
  (void)state;
  mlxq_weights *in = new_weights(), *same = new_weights();
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  for (int i = 0; i < 2; i++) {
    seed_random(71);
    add_random(i ? same : in, "a.bias", MLXQ_F32, SHAPE(64));
    add_triple(i ? same : in, "b", &AFFINE_4_64, SHAPE(8, 64));
  }
  mlxq_weights *first = dequantize(in, config, NULL);
  assert_same_weights(in, same);
  mlxq_weights *second = dequantize(in, config, NULL);
  memset(bytes_of(in, "a.bias"), 0, 256);
  memset(bytes_of(in, "b.scales"), 0, 16);
  mlxq_weights_free(in);
  mlxq_quant_config_free(config);
  assert_same_weights(first, second);
  mlxq_weights_free(second);
  assert_same_tensor(mlxq_weights_find(first, "a.bias"), mlxq_weights_find(same, "a.bias"));
  mlxq_weights_free(first);
  mlxq_weights_free(same);
}

/* ---- Options --------------------------------------------------------------------------------------------------- */

static void test_no_options_are_the_initial_ones(void **state) {
  (void)state;
  mlxq_weights *in = new_weights();
  mlxq_quant_config *config = config_of(MLXQ_NVFP4, 4, 16);
  mlxq_transform_options options = MLXQ_TRANSFORM_OPTIONS_INIT;
  add_triple(in, "p", &(mlxq_scheme){MLXQ_NVFP4, 4, 16}, SHAPE(8, 64));
  mlxq_weights *out = dequantize(in, config, &options), *same = dequantize(in, config, NULL);
  assert_int_equal(mlxq_weights_at(out, 0)->dtype, MLXQ_BF16);
  assert_same_weights(same, out);
  mlxq_weights_free(same);
  mlxq_weights_free(out);
  mlxq_weights_free(in);
  mlxq_quant_config_free(config);
}

static void test_options_that_are_refused(void **state) {
  (void)state;
  mlxq_weights *in = new_weights();
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  mlxq_error error;
  static const uint32_t VERSIONS[] = {0, 2, UINT32_MAX};
  for (size_t i = 0; i < COUNT(VERSIONS); i++) {
    mlxq_transform_options options = MLXQ_TRANSFORM_OPTIONS_INIT;
    options.version = VERSIONS[i];
    mlxq_weights *out = (mlxq_weights *)(uintptr_t)16;
    assert_int_equal(mlxq_dequantize_weights(&out, in, config, &options, &error), MLXQ_USAGE);
    assert_error(&error, MLXQ_USAGE, "", "version");
    assert_null(out);
  }
  static const mlxq_dtype DTYPES[] = {MLXQ_F64, MLXQ_U32, MLXQ_F8_E4M3, MLXQ_BOOL};
  for (size_t i = 0; i < COUNT(DTYPES); i++) {
    mlxq_transform_options options = MLXQ_TRANSFORM_OPTIONS_INIT;
    options.dtype = DTYPES[i];
    mlxq_weights *out = (mlxq_weights *)(uintptr_t)16;
    assert_int_equal(mlxq_dequantize_weights(&out, in, config, &options, &error), MLXQ_UNSUPPORTED_DTYPE);
    assert_error(&error, MLXQ_UNSUPPORTED_DTYPE, "", "dtype");
    assert_null(out);
  }
  mlxq_weights_free(in);
  mlxq_quant_config_free(config);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_combination),
      cmocka_unit_test(test_the_first_layer_in_order_is_told),
      cmocka_unit_test(test_everything_else_passes_through),
      cmocka_unit_test(test_order_of_the_result),
      cmocka_unit_test(test_a_layer_without_a_name),
      cmocka_unit_test(test_sizes_that_overflow),
      cmocka_unit_test(test_every_scheme_dtype_and_rank),
      cmocka_unit_test(test_any_number_of_threads_makes_the_same_bytes),
      cmocka_unit_test(test_unaligned_data),
      cmocka_unit_test(test_inputs_are_neither_changed_nor_kept),
      cmocka_unit_test(test_no_options_are_the_initial_ones),
      cmocka_unit_test(test_options_that_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
