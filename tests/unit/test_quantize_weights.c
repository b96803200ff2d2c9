/* mlxq_quantize_weights: which layers it quantizes, what it refuses and in which order, and what it makes of them. */
#include "helpers.h"

#include <math.h>
#include <pthread.h>

static mlxq_weights *quantize(const mlxq_weights *in, const mlxq_quant_config *config,
                              const mlxq_transform_options *options) {
  mlxq_weights *out = NULL;
  mlxq_error error;
  if (mlxq_quantize_weights(&out, in, config, NULL, NULL, options, &error) != MLXQ_OK) {
    fail_msg("%s: %s: %s", error.layer, error.key, error.message);
  }
  assert_non_null(out);
  return out;
}

static mlxq_transform_options with_threads(unsigned threads) {
  mlxq_transform_options options = MLXQ_TRANSFORM_OPTIONS_INIT;
  options.threads = threads;
  return options;
}

static void assert_refused(const mlxq_weights *in, const mlxq_quant_config *config, mlxq_status status,
                           const char *layer, const char *key) {
  mlxq_weights *out = (mlxq_weights *)(uintptr_t)16;
  mlxq_error error;
  memset(&error, 'x', sizeof error);
  mlxq_status result = mlxq_quantize_weights(&out, in, config, NULL, NULL, NULL, &error);
  assert_int_equal(result, status);
  assert_null(out);
  assert_error(&error, status, layer, key);
}

/* ---- The order of the rules ------------------------------------------------------------------------------------ */

/* One layer in every state that the rules tell apart; all of them together leave no pair of errors untried. */
enum { BY_DEFAULT, BY_OVERRIDE, BY_OVERRIDE_ALONE, BY_TRUE, SKIPPED, HOW_COUNT };
enum { NO_SCALES, SCALES, DEEPER_SCALES, FLATTER_SCALES, OTHER_SCALES, SCALES_COUNT };
enum { NO_PREDICATE, ACCEPTED, REFUSED, PREDICATE_COUNT };

static const test_scheme SCHEMES[] = {
    {false, {MLXQ_AFFINE, 0, 0}, NULL},          {true, {MLXQ_AFFINE, 4, 64}, NULL},
    {true, {MLXQ_AFFINE, 3, 32}, NULL},          {true, {MLXQ_MXFP4, 4, 32}, NULL},
    {true, {MLXQ_NVFP4, 4, 16}, NULL},           {true, {MLXQ_AFFINE, 7, 64}, "bits"},
    {true, {MLXQ_AFFINE, 4, 48}, "group_size"},  {true, {MLXQ_MXFP8, 4, 32}, "bits"},
    {true, {MLXQ_NVFP4, 4, 32}, "group_size"},   {true, {MLXQ_AFFINE, 4, 0}, NULL},
    {true, {MLXQ_AFFINE, 4, -64}, "group_size"}, {true, {MLXQ_AFFINE, 4, INT32_MIN}, "group_size"},
};

static const mlxq_dtype WEIGHT_DTYPES[] = {MLXQ_U32, MLXQ_BF16, MLXQ_F64, MLXQ_I32, MLXQ_U8};

static const struct {
  uint32_t rank;
  uint64_t shape[4];
} SHAPES[] = {
    {0, {0}}, {1, {64}}, {2, {4, 64}}, {2, {3, 96}}, {2, {2, 40}}, {3, {2, 3, 64}}, {2, {0, 64}}, {2, {4, 0}},
};

typedef struct combination {
  const test_scheme *scheme;
  int how, scales, predicate;
  bool biases;
  mlxq_dtype dtype;
  uint32_t rank;
  const uint64_t *shape;
} combination;

typedef struct verdict {
  mlxq_status status;
  const char *key; /* NULL: the layer's name goes before `part` */
  const char *part;
  bool quantized;
} verdict;

static bool can_be_flatter_or_other(const combination *c) {
  return c->rank >= 2;
}

/* The rules, as the issue and the header tell them. */
static verdict judge(const combination *c) {
  static const verdict PASSES = {MLXQ_OK, NULL, NULL, false};
  bool resolves = c->scheme->any && c->how != SKIPPED;
  const mlxq_scheme *scheme = &c->scheme->scheme;
  bool has_biases = scheme->mode == MLXQ_AFFINE;
  if (!c->scales && c->biases) return (verdict){MLXQ_MISSING_KEY, NULL, ".scales", false};
  if (c->scales) {
    if (c->how == SKIPPED) return (verdict){MLXQ_KEY_COLLISION, NULL, ".scales", false};
    if (!resolves) return (verdict){MLXQ_INVARIANT, "", NULL, false};
    if (has_biases && !c->biases) return (verdict){MLXQ_MISSING_KEY, NULL, ".biases", false};
    if (!has_biases && c->biases) return (verdict){MLXQ_KEY_COLLISION, NULL, ".biases", false};
    if (c->dtype != MLXQ_U32) return (verdict){MLXQ_UNSUPPORTED_DTYPE, NULL, ".weight", false};
    if (c->rank < 2) return (verdict){MLXQ_RANK_MISMATCH, NULL, ".weight", false};
    if (c->scales == DEEPER_SCALES || c->scales == FLATTER_SCALES) {
      return (verdict){MLXQ_LENGTH_MISMATCH, NULL, ".scales", false};
    }
    if (c->scales == OTHER_SCALES) return (verdict){MLXQ_SHAPE_MISMATCH, NULL, ".scales", false};
    return PASSES;
  }
  if (c->predicate == REFUSED || !resolves || c->rank < 2) return PASSES;
  if (scheme->group_size < 0) return (verdict){MLXQ_OUT_OF_RANGE, "group_size", NULL, false};
  if (scheme->group_size == 0 || c->shape[c->rank - 1] % (uint64_t)scheme->group_size != 0) return PASSES;
  if (c->scheme->illegal) return (verdict){MLXQ_OUT_OF_RANGE, c->scheme->illegal, NULL, false};
  if (c->dtype != MLXQ_BF16) return (verdict){MLXQ_UNSUPPORTED_DTYPE, NULL, ".weight", false};
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

static mlxq_weights *weights_for(const combination *c) {
  uint64_t shape[5];
  uint32_t rank = c->rank;
  mlxq_weights *in = new_weights();
  add_random(in, "model.foo.weight", c->dtype, c->rank, c->shape);
  if (c->rank > 0) memcpy(shape, c->shape, c->rank * sizeof *shape);
  if (c->rank > 0) shape[rank - 1] = 1;
  if (c->scales == DEEPER_SCALES) shape[rank++] = 1;
  if (c->scales == FLATTER_SCALES) rank--;
  if (c->scales == OTHER_SCALES) shape[rank - 2]++;
  if (c->scales) add_random(in, "model.foo.scales", MLXQ_I8, rank, shape);
  if (c->biases) add_random(in, "model.foo.biases", MLXQ_F64, SHAPE(3));
  add_random(in, "other.bias", MLXQ_F32, SHAPE(5));
  return in;
}

static bool predicate_says(void *user, const char *layer, const mlxq_tensor *weight) {
  const combination *c = user;
  assert_string_equal(layer, "model.foo");
  assert_string_equal(weight->name, "model.foo.weight");
  return c->predicate != REFUSED;
}

static void assert_quantized_shapes(const mlxq_weights *out, const combination *c) {
  uint64_t shape[4], last = c->shape[c->rank - 1];
  const mlxq_scheme *scheme = &c->scheme->scheme;
  bool affine = scheme->mode == MLXQ_AFFINE;
  memcpy(shape, c->shape, c->rank * sizeof *shape);
  static const char *const NAMES[] = {"model.foo.weight", "model.foo.scales", "model.foo.biases", "other.bias"};
  static const char *const SCALE_ONLY[] = {"model.foo.weight", "model.foo.scales", "other.bias"};
  if (affine) {
    assert_names(out, NAMES, COUNT(NAMES));
  } else {
    assert_names(out, SCALE_ONLY, COUNT(SCALE_ONLY));
  }
  shape[c->rank - 1] = last * (uint64_t)scheme->bits / 32;
  assert_shape(mlxq_weights_at(out, 0), MLXQ_U32, c->rank, shape);
  shape[c->rank - 1] = last / (uint64_t)scheme->group_size;
  assert_shape(mlxq_weights_at(out, 1), affine ? c->dtype : MLXQ_U8, c->rank, shape);
  if (affine) assert_shape(mlxq_weights_at(out, 2), c->dtype, c->rank, shape);
}

static verdict check(const combination *c) {
  verdict expected = judge(c);
  mlxq_quant_config *config = config_for(c);
  mlxq_weights *in = weights_for(c), *out = (mlxq_weights *)(uintptr_t)16;
  mlxq_transform_options options = with_threads(1);
  mlxq_error error;
  char key[64];
  memset(&error, 'x', sizeof error);
  mlxq_status status = mlxq_quantize_weights(&out, in, config, c->predicate == NO_PREDICATE ? NULL : predicate_says,
                                             (void *)(uintptr_t)c, &options, &error);
  if (status != expected.status) {
    fail_msg("%s, not %s: scheme %d, how %d, scales %d, biases %d, predicate %d, %s, rank %u", mlxq_status_name(status),
             mlxq_status_name(expected.status), (int)(c->scheme - SCHEMES), c->how, c->scales, c->biases, c->predicate,
             mlxq_dtype_name(c->dtype), c->rank);
  }
  if (status != MLXQ_OK) {
    snprintf(key, sizeof key, "model.foo%s", expected.part ? expected.part : "");
    assert_null(out);
    assert_error(&error, status, "model.foo", expected.key ? expected.key : key);
  } else if (expected.quantized) {
    assert_quantized_shapes(out, c);
    assert_same_tensor(mlxq_weights_find(out, "other.bias"), mlxq_weights_find(in, "other.bias"));
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
  unsigned seen[32] = {0}, quantized = 0, passed = 0;
  combination c;
  for (size_t s = 0; s < COUNT(SCHEMES); s++) {
    for (size_t shape = 0; shape < COUNT(SHAPES); shape++) {
      c = (combination){.scheme = &SCHEMES[s], .rank = SHAPES[shape].rank, .shape = SHAPES[shape].shape};
      for (c.how = 0; c.how < HOW_COUNT; c.how++) {
        for (c.scales = 0; c.scales < SCALES_COUNT; c.scales++) {
          if (c.scales >= FLATTER_SCALES && !can_be_flatter_or_other(&c)) continue;
          for (int rest = 0; rest < 2 * PREDICATE_COUNT * (int)COUNT(WEIGHT_DTYPES); rest++) {
            c.biases = rest % 2;
            c.predicate = rest / 2 % PREDICATE_COUNT;
            c.dtype = WEIGHT_DTYPES[rest / 2 / PREDICATE_COUNT];
            verdict expected = check(&c);
            seen[expected.status]++;
            quantized += expected.quantized;
            passed += expected.status == MLXQ_OK && !expected.quantized;
          }
        }
      }
    }
  }
  /* The combinations reach every rule. */
  static const mlxq_status ALL[] = {MLXQ_MISSING_KEY,    MLXQ_KEY_COLLISION,     MLXQ_INVARIANT,
                                    MLXQ_RANK_MISMATCH,  MLXQ_UNSUPPORTED_DTYPE, MLXQ_LENGTH_MISMATCH,
                                    MLXQ_SHAPE_MISMATCH, MLXQ_OUT_OF_RANGE};
  for (size_t i = 0; i < COUNT(ALL); i++) assert_true(seen[ALL[i]] > 10);
  assert_true(quantized > 100);
  assert_true(passed > 1000);
}

/* ---- The first layer in order ---------------------------------------------------------------------------------- */

static void test_the_first_layer_in_order_is_told(void **state) {
  (void)state;
  /* Three layers that break three rules, in every order. */
  static const char *const LAYERS[] = {"z.stale", "a.packed", "m.wide"};
  static const mlxq_status STATUSES[] = {MLXQ_MISSING_KEY, MLXQ_INVARIANT, MLXQ_UNSUPPORTED_DTYPE};
  static const char *const KEYS[] = {"z.stale.scales", "", "m.wide.weight"};
  static const int ORDERS[][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
  mlxq_quant_config *config = NULL;
  mlxq_layer_option option = {.kind = MLXQ_LAYER_SCHEME, .scheme = AFFINE_4_64};
  assert_int_equal(mlxq_quant_config_new(&config, NULL, NULL), MLXQ_OK);
  assert_int_equal(mlxq_quant_config_set_layer(config, "m.wide", &option, NULL), MLXQ_OK);
  assert_int_equal(mlxq_quant_config_set_layer(config, "fine", &option, NULL), MLXQ_OK);
  for (size_t order = 0; order < COUNT(ORDERS); order++) {
    mlxq_weights *in = new_weights();
    /* The parts that make a layer wrong may stand anywhere; its `.weight` gives it its place. */
    add_random(in, "z.stale.biases", MLXQ_F32, SHAPE(1));
    add_random(in, "fine.weight", MLXQ_F32, SHAPE(2, 64));
    for (int i = 0; i < 3; i++) {
      char name[64];
      int layer = ORDERS[order][i];
      snprintf(name, sizeof name, "%s.weight", LAYERS[layer]);
      add_random(in, name, layer == 2 ? MLXQ_F64 : MLXQ_U32, SHAPE(2, 64));
    }
    add_random(in, "a.packed.scales", MLXQ_F32, SHAPE(2, 1));
    int first = ORDERS[order][0];
    assert_refused(in, config, STATUSES[first], LAYERS[first], KEYS[first]);
    mlxq_weights_free(in);
  }
  mlxq_quant_config_free(config);
}

/* Structure is checked before any number is read. */
static void test_structure_comes_before_numbers(void **state) {
  (void)state;
  mlxq_weights *in = new_weights();
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  add_random(in, "a.weight", MLXQ_F32, SHAPE(2, 64));
  memset(bytes_of(in, "a.weight"), 0xFF, 4);
  add_random(in, "b.weight", MLXQ_I32, SHAPE(2, 64));
  assert_refused(in, config, MLXQ_UNSUPPORTED_DTYPE, "b", "b.weight");
  mlxq_weights_free(in);
  mlxq_quant_config_free(config);
}

/* ---- What passes through --------------------------------------------------------------------------------------- */

static void test_everything_else_passes_through(void **state) {
  (void)state;
  mlxq_weights *in = new_weights();
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  uint64_t deep[16] = {1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 64};
  add_random(in, "orphan.scales", MLXQ_BF16, SHAPE(4, 1));
  add_random(in, "other.biases", MLXQ_BF16, SHAPE(4, 1));
  add_random(in, "both.scales", MLXQ_U32, SHAPE(4, 64));
  add_random(in, "both.biases", MLXQ_F32, SHAPE(64));
  add_random(in, "a.bias", MLXQ_F32, SHAPE(4, 64));
  add_random(in, "weight", MLXQ_F32, SHAPE(4, 64));
  add_random(in, "a.weights", MLXQ_F32, SHAPE(4, 64));
  add_random(in, "aweight", MLXQ_F32, SHAPE(4, 64));
  add_random(in, "a.weight.x", MLXQ_F32, SHAPE(4, 64));
  add_random(in, "a.weight_scale", MLXQ_F32, SHAPE(4, 64));
  add_random(in, "norm.weight", MLXQ_F32, SHAPE(64));
  add_random(in, "scalar.weight", MLXQ_F16, SCALAR);
  add_random(in, "odd.weight", MLXQ_BF16, SHAPE(4, 65));
  add_random(in, "rank1.weight", MLXQ_U32, SHAPE(64));
  add_random(in, "empty", MLXQ_F32, SHAPE(0, 3));
  add_random(in, "deep", MLXQ_U16, 16, deep);
  for (int dtype = 0; dtype < MLXQ_DTYPE_COUNT; dtype++) {
    add_random(in, mlxq_dtype_name((mlxq_dtype)dtype), (mlxq_dtype)dtype, SHAPE(3, 4, 5, 8));
  }
  memset(bytes_of(in, "norm.weight"), 0xFF, 256); /* NaN is no business of a tensor that is not quantized */
  mlxq_weights *out = quantize(in, config, NULL);
  assert_same_weights(out, in);
  mlxq_weights_free(out);
  mlxq_weights_free(in);
  mlxq_quant_config_free(config);
}

/* A triple is taken at its word, whatever its last axis, the dtype of its scales or the shape of its biases say. */
static void test_triples_pass_through(void **state) {
  (void)state;
  mlxq_weights *in = new_weights();
  mlxq_quant_config *config = parse_config(
      "{\"group_size\": 64, \"bits\": 4, \"mx\": {\"group_size\": 32, \"bits\": 4, \"mode\": \"mxfp4\"},"
      " \"illegal\": {\"group_size\": 5, \"bits\": 7}, \"negative\": {\"group_size\": -1, \"bits\": 4}}");
  add_triple(in, "good", &AFFINE_4_64, SHAPE(4, 128));
  add_random(in, "odd.biases", MLXQ_BOOL, SHAPE(2, 2, 2));
  add_random(in, "odd.weight", MLXQ_U32, SHAPE(2, 3, 7));
  add_random(in, "odd.scales", MLXQ_I64, SHAPE(2, 3, 11));
  add_random(in, "mx.scales", MLXQ_F32, SHAPE(5, 1));
  add_random(in, "mx.weight", MLXQ_U32, SHAPE(5, 1));
  add_random(in, "illegal.weight", MLXQ_U32, SHAPE(1, 1));
  add_random(in, "illegal.scales", MLXQ_F32, SHAPE(1, 1));
  add_random(in, "illegal.biases", MLXQ_F32, SCALAR);
  add_random(in, "negative.weight", MLXQ_U32, SHAPE(0, 1));
  add_random(in, "negative.scales", MLXQ_F32, SHAPE(0, 0));
  add_random(in, "negative.biases", MLXQ_F32, SCALAR);
  mlxq_weights *out = quantize(in, config, NULL);
  assert_same_weights(out, in);
  mlxq_weights_free(out);
  mlxq_weights_free(in);
  mlxq_quant_config_free(config);
}

static void test_no_tensors(void **state) {
  (void)state;
  mlxq_weights *in = new_weights();
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  mlxq_weights *out = quantize(in, config, NULL);
  assert_int_equal(mlxq_weights_count(out), 0);
  mlxq_weights_free(out);
  mlxq_weights_free(in);
  mlxq_quant_config_free(config);
}

/* ---- Order, names, the predicate ------------------------------------------------------------------------------- */

static void test_order_of_the_result(void **state) {
  (void)state;
  static const char *const EXPECTED[] = {"z",        "z.weight", "z.scales", "z.biases", "a.bias",  "a.weight",
                                         "a.scales", "b.scales", "b.weight", "b.biases", "n.weight"};
  mlxq_weights *in = new_weights();
  mlxq_quant_config *config = parse_config(
      "{\"group_size\": 64, \"bits\": 4, \"a\": {\"group_size\": 32, \"bits\": 8, \"mode\": \"mxfp8\"}, \"n\": false}");
  add_random(in, "z", MLXQ_F32, SHAPE(2));
  add_random(in, "z.weight", MLXQ_F32, SHAPE(2, 64));
  add_random(in, "a.bias", MLXQ_F32, SHAPE(2));
  add_random(in, "a.weight", MLXQ_F32, SHAPE(2, 64));
  add_random(in, "b.scales", MLXQ_BF16, SHAPE(2, 1)); /* of a triple: stays where it is */
  add_random(in, "b.weight", MLXQ_U32, SHAPE(2, 8));
  add_random(in, "b.biases", MLXQ_BF16, SHAPE(2, 1));
  add_random(in, "n.weight", MLXQ_F32, SHAPE(2, 64));
  mlxq_weights *out = quantize(in, config, NULL);
  assert_names(out, EXPECTED, COUNT(EXPECTED));
  for (size_t i = 0; i < mlxq_weights_count(out); i++) {
    assert_ptr_equal(mlxq_weights_find(out, EXPECTED[i]), mlxq_weights_at(out, i));
  }
  mlxq_weights_free(out);
  mlxq_weights_free(in);
  mlxq_quant_config_free(config);
}

typedef struct calls {
  pthread_t thread;
  size_t count;
  char layers[16][64];
} calls;

static bool only_with_q(void *user, const char *layer, const mlxq_tensor *weight) {
  calls *recorded = user;
  assert_true(pthread_equal(recorded->thread, pthread_self()));
  assert_in_range(recorded->count, 0, COUNT(recorded->layers) - 1);
  assert_non_null(layer);
  snprintf(recorded->layers[recorded->count++], sizeof recorded->layers[0], "%s", layer);
  assert_memory_equal(weight->name, layer, strlen(layer));
  assert_string_equal(weight->name + strlen(layer), ".weight");
  assert_non_null(weight->data);
  return strchr(layer, 'q') != NULL;
}

static void test_the_predicate(void **state) {
  (void)state;
  static const char *const ASKED[] = {"l.q", "l.k", "qnorm", "int.q.skip"};
  static const char *const EXPECTED[] = {"l.q.weight",   "l.q.scales",       "l.q.biases",    "l.k.weight",
                                         "l.bias",       "done.q.weight",    "done.q.scales", "done.q.biases",
                                         "qnorm.weight", "int.q.skip.weight"};
  calls recorded = {.thread = pthread_self()};
  mlxq_weights *in = new_weights(), *out = NULL;
  mlxq_quant_config *config = parse_config("{\"group_size\": 64, \"bits\": 4, \"int.q.skip\": false}");
  mlxq_transform_options options = with_threads(4);
  add_random(in, "l.q.weight", MLXQ_F32, SHAPE(2, 64));
  add_random(in, "l.k.weight", MLXQ_F32, SHAPE(2, 64));
  add_random(in, "l.bias", MLXQ_F32, SHAPE(2, 64));
  add_triple(in, "done.q", &AFFINE_4_64, SHAPE(2, 64));
  add_random(in, "qnorm.weight", MLXQ_F32, SHAPE(64));
  add_random(in, "int.q.skip.weight", MLXQ_F32, SHAPE(2, 64));
  assert_int_equal(mlxq_quantize_weights(&out, in, config, only_with_q, &recorded, &options, NULL), MLXQ_OK);
  assert_int_equal(recorded.count, COUNT(ASKED));
  for (size_t i = 0; i < COUNT(ASKED); i++) assert_string_equal(recorded.layers[i], ASKED[i]);
  assert_names(out, EXPECTED, COUNT(EXPECTED));
  assert_same_tensor(mlxq_weights_find(out, "l.k.weight"), mlxq_weights_find(in, "l.k.weight"));
  mlxq_weights_free(out);
  mlxq_weights_free(in);
  mlxq_quant_config_free(config);
}

/* A tensor named ".weight" is the weight of the layer "". */
static void test_a_layer_without_a_name(void **state) {
  (void)state;
  static const char *const EXPECTED[] = {"q.weight", "q.scales", "q.biases", ".weight"};
  calls recorded = {.thread = pthread_self()};
  mlxq_weights *in = new_weights(), *out = NULL;
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  add_random(in, "q.weight", MLXQ_F32, SHAPE(2, 64));
  add_random(in, ".weight", MLXQ_F32, SHAPE(2, 64));
  assert_int_equal(mlxq_quantize_weights(&out, in, config, only_with_q, &recorded, NULL, NULL), MLXQ_OK);
  assert_int_equal(recorded.count, 2);
  assert_string_equal(recorded.layers[1], "");
  assert_names(out, EXPECTED, COUNT(EXPECTED));
  mlxq_weights_free(out);
  mlxq_weights_free(in);
  mlxq_quant_config_free(config);
}

static void test_a_layer_without_a_name_comes_first(void **state) {
  (void)state;
  calls recorded = {.thread = pthread_self()};
  mlxq_weights *in = new_weights(), *out = NULL;
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  add_random(in, ".weight", MLXQ_F32, SHAPE(2, 64));
  assert_int_equal(mlxq_quantize_weights(&out, in, config, only_with_q, &recorded, NULL, NULL), MLXQ_OK);
  assert_string_equal(recorded.layers[0], "");
  assert_same_weights(out, in);
  mlxq_weights_free(out);
  mlxq_weights_free(in);
  mlxq_quant_config_free(config);
}

/* ---- Numbers --------------------------------------------------------------------------------------------------- */

/* The layer's three tensors are what quantizing the whole array at once gives. */
static void assert_quantized(const mlxq_weights *out, const char *layer, const mlxq_tensor *weight,
                             const mlxq_scheme *scheme, mlxq_profile profile) {
  static const char *const PARTS[] = {".weight", ".scales", ".biases"};
  uint64_t bytes[3], elems = weight->bytes * 8 / mlxq_dtype_bits(weight->dtype);
  unsigned char *parts[3];
  assert_int_equal(mlxq_quantized_bytes(&bytes[0], &bytes[1], &bytes[2], scheme, weight->dtype, elems, NULL), MLXQ_OK);
  for (int i = 0; i < 3; i++) {
    parts[i] = malloc((size_t)bytes[i] + 1);
    assert_non_null(parts[i]);
  }
  assert_int_equal(mlxq_quantize_array(parts[0], parts[1], parts[2], weight->data, weight->dtype, elems, scheme,
                                       profile, true, NULL),
                   MLXQ_OK);
  for (int i = 0; i < 3; i++) {
    char name[128];
    snprintf(name, sizeof name, "%s%s", layer, PARTS[i]);
    const mlxq_tensor *found = mlxq_weights_find(out, name);
    if (i == 2 && scheme->mode != MLXQ_AFFINE) {
      assert_null(found);
    } else {
      assert_non_null(found);
      assert_int_equal(found->bytes, bytes[i]);
      if (bytes[i] > 0 && memcmp(found->data, parts[i], (size_t)bytes[i]) != 0) fail_msg("%s: other bytes", name);
    }
    free(parts[i]);
  }
}

/* How far dequantizing leads back at worst, relative to the whole (root mean square); halved with every bit. */
static double worst_error(const mlxq_scheme *scheme) {
  if (scheme->mode == MLXQ_AFFINE) return 0.9 / (1 << (scheme->bits - 1));
  return scheme->mode == MLXQ_MXFP8 ? 0.04 : 0.25;
}

static double value(const mlxq_tensor *tensor, uint64_t index) {
  uint32_t bits = 0;
  float single;
  if (tensor->dtype == MLXQ_F16) {
    uint16_t half = ((const uint16_t *)tensor->data)[index];
    int exponent = half >> 10 & 31;
    double fraction = ldexp((half & 1023) + (exponent ? 1024 : 0), (exponent ? exponent : 1) - 25);
    return half & 0x8000 ? -fraction : fraction;
  }
  if (tensor->dtype == MLXQ_BF16) {
    bits = (uint32_t)((const uint16_t *)tensor->data)[index] << 16;
  } else {
    bits = ((const uint32_t *)tensor->data)[index];
  }
  memcpy(&single, &bits, sizeof single);
  return single;
}

static void test_every_scheme_dtype_and_rank_round_trips(void **state) {
  (void)state;
  static const struct {
    uint32_t rank;
    uint64_t shape[4];
  } RANKS[] = {{2, {6, 256}}, {3, {2, 3, 128}}, {4, {1, 2, 3, 256}}};
  seed_random(21);
  for (size_t s = 0; s < LEGAL_COUNT; s++) {
    for (size_t d = 0; d < QUANTIZABLE_COUNT; d++) {
      for (size_t r = 0; r < COUNT(RANKS); r++) {
        for (int profile = 0; profile < 2; profile++) {
          mlxq_weights *in = new_weights(), *back = NULL;
          mlxq_quant_config *config = config_of(LEGAL[s].mode, LEGAL[s].bits, LEGAL[s].group_size);
          mlxq_transform_options options = with_threads(1);
          options.profile = (mlxq_profile)profile;
          options.dtype = QUANTIZABLE[d];
          add_random(in, "p.weight", QUANTIZABLE[d], RANKS[r].rank, RANKS[r].shape);
          mlxq_weights *out = quantize(in, config, &options);
          const mlxq_tensor *weight = mlxq_weights_at(in, 0);
          assert_quantized(out, "p", weight, &LEGAL[s], options.profile);
          assert_int_equal(mlxq_dequantize_weights(&back, out, config, &options, NULL), MLXQ_OK);
          assert_int_equal(mlxq_weights_count(back), 1);
          const mlxq_tensor *dense = mlxq_weights_at(back, 0);
          assert_string_equal(dense->name, "p.weight");
          assert_shape(dense, QUANTIZABLE[d], RANKS[r].rank, RANKS[r].shape);
          double lost = 0, whole = 0;
          for (uint64_t i = 0; i < dense->bytes * 8 / mlxq_dtype_bits(dense->dtype); i++) {
            lost += pow(value(weight, i) - value(dense, i), 2);
            whole += pow(value(weight, i), 2);
          }
          if (sqrt(lost / whole) > worst_error(&LEGAL[s])) fail_msg("scheme %zu: error %g", s, sqrt(lost / whole));
          mlxq_weights_free(back);
          mlxq_weights_free(out);
          mlxq_weights_free(in);
          mlxq_quant_config_free(config);
        }
      }
    }
  }
}

static void test_empty_weights(void **state) {
  (void)state;
  for (size_t s = 0; s < LEGAL_COUNT; s++) {
    const mlxq_scheme *scheme = &LEGAL[s];
    uint64_t words = 128 * (uint64_t)scheme->bits / 32, groups = 128 / (uint64_t)scheme->group_size;
    mlxq_weights *in = new_weights(), *back = NULL;
    mlxq_quant_config *config = config_of(scheme->mode, scheme->bits, scheme->group_size);
    add_random(in, "rows.weight", MLXQ_BF16, SHAPE(0, 128));
    add_random(in, "columns.weight", MLXQ_BF16, SHAPE(4, 0));
    add_random(in, "middle.weight", MLXQ_BF16, SHAPE(2, 0, 128));
    mlxq_weights *out = quantize(in, config, NULL);
    mlxq_dtype dtype = scheme->mode == MLXQ_AFFINE ? MLXQ_BF16 : MLXQ_U8;
    assert_shape(mlxq_weights_find(out, "rows.weight"), MLXQ_U32, SHAPE(0, words));
    assert_shape(mlxq_weights_find(out, "rows.scales"), dtype, SHAPE(0, groups));
    assert_shape(mlxq_weights_find(out, "columns.weight"), MLXQ_U32, SHAPE(4, 0));
    assert_shape(mlxq_weights_find(out, "columns.scales"), dtype, SHAPE(4, 0));
    assert_shape(mlxq_weights_find(out, "middle.weight"), MLXQ_U32, SHAPE(2, 0, words));
    assert_shape(mlxq_weights_find(out, "middle.scales"), dtype, SHAPE(2, 0, groups));
    if (scheme->mode == MLXQ_AFFINE) {
      assert_shape(mlxq_weights_find(out, "rows.biases"), dtype, SHAPE(0, groups));
      assert_shape(mlxq_weights_find(out, "columns.biases"), dtype, SHAPE(4, 0));
      assert_shape(mlxq_weights_find(out, "middle.biases"), dtype, SHAPE(2, 0, groups));
    }
    assert_int_equal(mlxq_dequantize_weights(&back, out, config, NULL, NULL), MLXQ_OK);
    assert_same_weights(back, in);
    mlxq_weights_free(back);
    mlxq_weights_free(out);
    mlxq_weights_free(in);
    mlxq_quant_config_free(config);
  }
}

/* Several layers of several tiles each, empty ones and copies between them. */
static mlxq_weights *several_tiles(void) {
  mlxq_weights *in = new_weights();
  seed_random(31);
  add_random(in, "empty.weight", MLXQ_BF16, SHAPE(0, 64));
  add_random(in, "a.weight", MLXQ_F32, SHAPE(1025, 1088));
  add_random(in, "a.bias", MLXQ_F32, SHAPE(1024, 1024, 2));
  add_random(in, "empty2.weight", MLXQ_BF16, SHAPE(0, 64));
  add_random(in, "b.weight", MLXQ_BF16, SHAPE(3, 700, 1024));
  add_random(in, "norm.weight", MLXQ_BF16, SHAPE(64));
  add_random(in, "tiny.weight", MLXQ_F16, SHAPE(1, 64));
  add_random(in, "bytes", MLXQ_U8, SHAPE((5 << 20) + 3));
  add_random(in, "empty3.weight", MLXQ_BF16, SHAPE(0, 64));
  return in;
}

static void test_any_number_of_threads_makes_the_same_bytes(void **state) {
  (void)state;
  static const mlxq_scheme CHOSEN[] = {{MLXQ_AFFINE, 3, 64}, {MLXQ_MXFP8, 8, 32}};
  mlxq_weights *in = several_tiles();
  for (size_t s = 0; s < COUNT(CHOSEN); s++) {
    mlxq_quant_config *config = config_of(CHOSEN[s].mode, CHOSEN[s].bits, CHOSEN[s].group_size);
    mlxq_weights *expected = NULL;
    for (unsigned threads = 1; threads <= 8; threads++) {
      mlxq_transform_options options = with_threads(threads);
      mlxq_weights *out = quantize(in, config, &options);
      if (!expected) {
        expected = out;
        assert_quantized(out, "a", mlxq_weights_find(in, "a.weight"), &CHOSEN[s], MLXQ_PROFILE_CPU);
        assert_quantized(out, "b", mlxq_weights_find(in, "b.weight"), &CHOSEN[s], MLXQ_PROFILE_CPU);
        assert_quantized(out, "tiny", mlxq_weights_find(in, "tiny.weight"), &CHOSEN[s], MLXQ_PROFILE_CPU);
        assert_same_tensor(mlxq_weights_find(out, "a.bias"), mlxq_weights_find(in, "a.bias"));
        assert_same_tensor(mlxq_weights_find(out, "bytes"), mlxq_weights_find(in, "bytes"));
      } else {
        assert_same_weights(out, expected);
        mlxq_weights_free(out);
      }
    }
    mlxq_weights_free(expected);
    mlxq_quant_config_free(config);
  }
  mlxq_weights_free(in);
}

static void test_an_unknown_profile(void **state) {
  (void)state;
  mlxq_weights *in = new_weights(), *out = (mlxq_weights *)(uintptr_t)16;
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  mlxq_transform_options options = MLXQ_TRANSFORM_OPTIONS_INIT;
  mlxq_error error;
  options.profile = (mlxq_profile)9;
  assert_int_equal(mlxq_quantize_weights(&out, in, config, NULL, NULL, &options, &error), MLXQ_USAGE);
  assert_error(&error, MLXQ_USAGE, "", "profile");
  assert_null(out);
  mlxq_weights_free(in);
  mlxq_quant_config_free(config);
}

/* ---- Options --------------------------------------------------------------------------------------------------- */

static void test_no_options_are_the_initial_ones(void **state) {
  (void)state;
  mlxq_weights *in = new_weights();
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  mlxq_transform_options options = MLXQ_TRANSFORM_OPTIONS_INIT;
  assert_int_equal(options.version, 1);
  assert_int_equal(options.profile, MLXQ_PROFILE_CPU);
  assert_int_equal(options.threads, 0);
  assert_false(options.allow_nonfinite);
  assert_int_equal(options.dtype, MLXQ_BF16);
  add_random(in, "a.weight", MLXQ_F32, SHAPE(64, 64));
  mlxq_weights *out = quantize(in, config, &options), *same = quantize(in, config, NULL);
  assert_same_weights(same, out);
  mlxq_weights_free(same);
  mlxq_weights_free(out);
  mlxq_weights_free(in);
  mlxq_quant_config_free(config);
}

static void test_an_unknown_version(void **state) {
  (void)state;
  static const uint32_t VERSIONS[] = {0, 2, UINT32_MAX};
  mlxq_weights *in = new_weights();
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  for (size_t i = 0; i < COUNT(VERSIONS); i++) {
    mlxq_transform_options options = {.version = VERSIONS[i], .dtype = MLXQ_BF16};
    mlxq_weights *out = (mlxq_weights *)(uintptr_t)16;
    mlxq_error error;
    assert_int_equal(mlxq_quantize_weights(&out, in, config, NULL, NULL, &options, &error), MLXQ_USAGE);
    assert_error(&error, MLXQ_USAGE, "", "version");
    assert_null(out);
  }
  mlxq_weights_free(in);
  mlxq_quant_config_free(config);
}

static void test_profiles_differ(void **state) {
  (void)state;
  /* Half a step lies between two codes: half to even (cpu), away from zero (gpu). */
  float ties[64];
  for (int i = 0; i < 64; i++) ties[i] = (float)(i % 31) * 0.5f;
  mlxq_weights *in = new_weights();
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  add_bytes(in, "p.weight", MLXQ_F32, SHAPE(1, 64), ties);
  mlxq_transform_options options = MLXQ_TRANSFORM_OPTIONS_INIT;
  mlxq_weights *cpu = quantize(in, config, &options);
  options.profile = MLXQ_PROFILE_GPU;
  mlxq_weights *gpu = quantize(in, config, &options);
  assert_quantized(cpu, "p", mlxq_weights_at(in, 0), &AFFINE_4_64, MLXQ_PROFILE_CPU);
  assert_quantized(gpu, "p", mlxq_weights_at(in, 0), &AFFINE_4_64, MLXQ_PROFILE_GPU);
  assert_memory_not_equal(mlxq_weights_at(cpu, 0)->data, mlxq_weights_at(gpu, 0)->data, 32);
  mlxq_weights_free(cpu);
  mlxq_weights_free(gpu);
  mlxq_weights_free(in);
  mlxq_quant_config_free(config);
}

/* ---- Ownership ------------------------------------------------------------------------------------------------- */

static void test_inputs_are_neither_changed_nor_kept(void **state) {
  (void)state;
  mlxq_weights *in = new_weights(), *same = new_weights();
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  for (int i = 0; i < 2; i++) {
    mlxq_weights *map = i ? same : in;
    seed_random(41);
    add_random(map, "a.weight", MLXQ_F32, SHAPE(64, 128));
    add_random(map, "a.bias", MLXQ_F32, SHAPE(64));
    add_triple(map, "b", &AFFINE_4_64, SHAPE(8, 64));
  }
  mlxq_weights *first = quantize(in, config, NULL);
  assert_same_weights(in, same);
  mlxq_weights *second = quantize(in, config, NULL);
  mlxq_quant_config_free(config);
  memset(bytes_of(in, "a.bias"), 0, 256);
  memset(bytes_of(in, "b.scales"), 0, 16);
  mlxq_weights_free(in);
  assert_same_weights(first, second);
  mlxq_weights_free(second);
  assert_same_tensor(mlxq_weights_find(first, "a.bias"), mlxq_weights_find(same, "a.bias"));
  assert_same_tensor(mlxq_weights_find(first, "b.scales"), mlxq_weights_find(same, "b.scales"));
  mlxq_weights_free(first);
  mlxq_weights_free(same);
}

/* Borrowed bytes may lie anywhere, as in a mapped file. */
static void test_unaligned_data(void **state) {
  (void)state;
  static const mlxq_scheme CHOSEN[] = {{MLXQ_AFFINE, 4, 32}, {MLXQ_NVFP4, 4, 16}};
  for (size_t s = 0; s < COUNT(CHOSEN); s++) {
    for (size_t d = 0; d < QUANTIZABLE_COUNT; d++) {
      for (size_t shift = 1; shift < 8; shift++) {
        mlxq_weights *aligned = new_weights(), *in = new_weights();
        mlxq_quant_config *config = config_of(CHOSEN[s].mode, CHOSEN[s].bits, CHOSEN[s].group_size);
        add_random(aligned, "a.weight", QUANTIZABLE[d], SHAPE(33, 96));
        add_random(aligned, "a.bias", QUANTIZABLE[d], SHAPE(33));
        unsigned char *blocks[2];
        for (size_t i = 0; i < 2; i++) {
          const mlxq_tensor *tensor = mlxq_weights_at(aligned, i);
          blocks[i] = malloc((size_t)tensor->bytes + shift);
          assert_non_null(blocks[i]);
          memcpy(blocks[i] + shift, tensor->data, (size_t)tensor->bytes);
          assert_int_equal(mlxq_weights_add_borrowed(in, tensor->name, tensor->dtype, tensor->rank, tensor->shape,
                                                     blocks[i] + shift, NULL),
                           MLXQ_OK);
        }
        mlxq_weights *expected = quantize(aligned, config, NULL), *out = quantize(in, config, NULL);
        free(blocks[0]);
        free(blocks[1]);
        assert_same_weights(out, expected);
        mlxq_weights_free(out);
        mlxq_weights_free(expected);
        mlxq_weights_free(in);
        mlxq_weights_free(aligned);
        mlxq_quant_config_free(config);
      }
    }
  }
}

/* ---- NaN and infinity ------------------------------------------------------------------------------------------ */

static void assert_first_bad(const mlxq_weights *in, const mlxq_quant_config *config, unsigned threads,
                             const char *layer, uint64_t index) {
  char key[64];
  unsigned long long told = 0;
  mlxq_transform_options options = with_threads(threads);
  mlxq_weights *out = (mlxq_weights *)(uintptr_t)16;
  mlxq_error error;
  snprintf(key, sizeof key, "%s.weight", layer);
  assert_int_equal(mlxq_quantize_weights(&out, in, config, NULL, NULL, &options, &error), MLXQ_NON_FINITE);
  assert_null(out);
  assert_error(&error, MLXQ_NON_FINITE, layer, key);
  const char *digit = strpbrk(error.message, "0123456789");
  assert_non_null(digit);
  assert_int_equal(sscanf(digit, "%llu", &told), 1);
  if (told != index) fail_msg("%u threads: element %llu, not %llu", threads, told, (unsigned long long)index);
}

static void put_bad(unsigned char *data, mlxq_dtype dtype, uint64_t index, int kind) {
  static const uint32_t SINGLE[] = {0x7FC00000, 0xFF800001, 0x7F800000, 0xFF800000};
  static const uint16_t HALF[] = {0x7E00, 0xFC01, 0x7C00, 0xFC00}, BRAIN[] = {0x7FC0, 0xFF81, 0x7F80, 0xFF80};
  if (dtype == MLXQ_F32) {
    memcpy(data + 4 * index, &SINGLE[kind], 4);
  } else {
    memcpy(data + 2 * index, dtype == MLXQ_F16 ? &HALF[kind] : &BRAIN[kind], 2);
  }
}

static void test_a_bad_element_is_told(void **state) {
  (void)state;
  static const uint64_t PLACES[] = {0, 1, 31, 32, 63, 64, 127, 128, 190, 191};
  for (size_t s = 0; s < LEGAL_COUNT; s++) {
    if (192 % LEGAL[s].group_size != 0) continue;
    mlxq_quant_config *config = config_of(LEGAL[s].mode, LEGAL[s].bits, LEGAL[s].group_size);
    for (size_t d = 0; d < QUANTIZABLE_COUNT; d++) {
      for (size_t i = 0; i < COUNT(PLACES); i++) {
        mlxq_weights *in = new_weights();
        add_random(in, "fine.weight", QUANTIZABLE[d], SHAPE(1, 192));
        add_random(in, "m.layers.0.weight", QUANTIZABLE[d], SHAPE(1, 192));
        add_random(in, "later.weight", QUANTIZABLE[d], SHAPE(1, 192));
        put_bad(bytes_of(in, "m.layers.0.weight"), QUANTIZABLE[d], PLACES[i], (int)(i % 4));
        put_bad(bytes_of(in, "m.layers.0.weight"), QUANTIZABLE[d], 191, (int)((i + 1) % 4));
        put_bad(bytes_of(in, "later.weight"), QUANTIZABLE[d], 0, 0);
        assert_first_bad(in, config, 1, "m.layers.0", PLACES[i]);
        mlxq_weights_free(in);
      }
    }
    mlxq_quant_config_free(config);
  }
}

/* Of several bad tiles the lowest is told, whichever worker is first. */
static void test_the_first_bad_element_of_many_tiles(void **state) {
  (void)state;
  enum { ROWS = 8192, COLUMNS = 1024 };
  static const uint64_t ELEMS = (uint64_t)ROWS * COLUMNS;
  mlxq_weights *in = new_weights();
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  unsigned char *ahead;
  add_random(in, "ahead.weight", MLXQ_BF16, SHAPE(4096, 1024));
  add_random(in, "big.weight", MLXQ_F32, SHAPE(ROWS, COLUMNS));
  add_random(in, "behind.weight", MLXQ_BF16, SHAPE(1, 64));
  put_bad(bytes_of(in, "behind.weight"), MLXQ_BF16, 0, 0);
  put_bad(bytes_of(in, "big.weight"), MLXQ_F32, ELEMS - 1, 0);
  for (unsigned threads = 1; threads <= 8; threads++) assert_first_bad(in, config, threads, "big", ELEMS - 1);
  /* From the end towards the beginning, each one before the others; every place stays bad. */
  static const uint64_t SHARE[] = {15, 12, 11, 7, 6, 2, 1, 0};
  for (size_t i = 0; i < COUNT(SHARE); i++) {
    uint64_t index = ELEMS / 16 * SHARE[i] + 77;
    put_bad(bytes_of(in, "big.weight"), MLXQ_F32, index, (int)(i % 4));
    for (unsigned threads = 2; threads <= 8; threads += 3) assert_first_bad(in, config, threads, "big", index);
  }
  ahead = bytes_of(in, "ahead.weight");
  put_bad(ahead, MLXQ_BF16, 4096 * 1024 - 1, 2);
  for (unsigned threads = 1; threads <= 8; threads++) {
    assert_first_bad(in, config, threads, "ahead", 4096 * 1024 - 1);
  }
  mlxq_weights_free(in);
  mlxq_quant_config_free(config);
}

static void test_nonfinite_groups_may_pass(void **state) {
  (void)state;
  for (size_t s = 0; s < LEGAL_COUNT; s++) {
    const mlxq_scheme *scheme = &LEGAL[s];
    uint64_t group = (uint64_t)scheme->group_size, words = group * (uint64_t)scheme->bits / 32;
    for (size_t d = 0; d < QUANTIZABLE_COUNT; d++) {
      mlxq_weights *clean = new_weights(), *in = new_weights();
      mlxq_quant_config *config = config_of(scheme->mode, scheme->bits, scheme->group_size);
      mlxq_transform_options options = with_threads(2);
      options.allow_nonfinite = true;
      seed_random(51);
      add_random(clean, "p.weight", QUANTIZABLE[d], SHAPE(4, 512));
      seed_random(51);
      add_random(in, "p.weight", QUANTIZABLE[d], SHAPE(4, 512));
      uint64_t groups = 4 * 512 / group;
      bool bad[4 * 512 / 16] = {false};
      for (int kind = 0; kind < 4; kind++) {
        uint64_t index = 300 + 450 * (uint64_t)kind;
        put_bad(bytes_of(in, "p.weight"), QUANTIZABLE[d], index, kind);
        bad[index / group] = true;
      }
      mlxq_weights *expected = quantize(clean, config, NULL), *out = quantize(in, config, &options);
      assert_quantized(out, "p", mlxq_weights_at(in, 0), scheme, MLXQ_PROFILE_CPU);
      for (size_t part = 0; part < mlxq_weights_count(out); part++) {
        const unsigned char *found = mlxq_weights_at(out, part)->data;
        const unsigned char *wanted = mlxq_weights_at(expected, part)->data;
        size_t size = (size_t)(mlxq_weights_at(out, part)->bytes / groups);
        for (size_t g = 0; g < groups; g++) {
          uint32_t zero[32] = {0};
          if (!bad[g]) {
            assert_memory_equal(found + g * size, wanted + g * size, size);
          } else if (part == 0) {
            assert_int_equal(size, words * 4);
            assert_memory_equal(found + g * size, zero, size);
          } else if (scheme->mode == MLXQ_AFFINE) {
            assert_true(size == 4
                            ? isnan(((const float *)found)[g])
                            : (((const uint16_t *)found)[g] & 0x7FFF) > (QUANTIZABLE[d] == MLXQ_F16 ? 0x7C00 : 0x7F80));
          } else {
            assert_int_equal(found[g], scheme->mode == MLXQ_NVFP4 ? 0x7F : 0xFF);
          }
        }
      }
      mlxq_weights_free(out);
      mlxq_weights_free(expected);
      mlxq_weights_free(in);
      mlxq_weights_free(clean);
      mlxq_quant_config_free(config);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_combination),
      cmocka_unit_test(test_the_first_layer_in_order_is_told),
      cmocka_unit_test(test_structure_comes_before_numbers),
      cmocka_unit_test(test_everything_else_passes_through),
      cmocka_unit_test(test_triples_pass_through),
      cmocka_unit_test(test_no_tensors),
      cmocka_unit_test(test_order_of_the_result),
      cmocka_unit_test(test_the_predicate),
      cmocka_unit_test(test_a_layer_without_a_name),
      cmocka_unit_test(test_a_layer_without_a_name_comes_first),
      cmocka_unit_test(test_every_scheme_dtype_and_rank_round_trips),
      cmocka_unit_test(test_empty_weights),
      cmocka_unit_test(test_any_number_of_threads_makes_the_same_bytes),
      cmocka_unit_test(test_an_unknown_profile),
      cmocka_unit_test(test_no_options_are_the_initial_ones),
      cmocka_unit_test(test_an_unknown_version),
      cmocka_unit_test(test_profiles_differ),
      cmocka_unit_test(test_inputs_are_neither_changed_nor_kept),
      cmocka_unit_test(test_unaligned_data),
      cmocka_unit_test(test_a_bad_element_is_told),
      cmocka_unit_test(test_the_first_bad_element_of_many_tiles),
      cmocka_unit_test(test_nonfinite_groups_may_pass),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
