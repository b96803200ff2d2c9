/* arrange.c: the rules of families on described tensors, what each refuses, and small plans run from files whose bytes
 * are compared with loops written here. */
#include "base/json.h"
#include "helpers.h"
#include "kernels/kernels.h"
#include "plan/family_rules.h"
#include "plan/plan.h"
#include "run/publish.h"
#include "run/run.h"

#include <math.h>

/* ---- Families made for a test ---------------------------------------------------------------------------------- */

#define END_OF_RULES \
  { RULE_RENAME, NULL, NULL, NULL, NULL }
#define ONE(op, from, to) \
  { op, from, to, NULL, NULL }
#define TWO(op, from, first, second) \
  { op, from, first, second, NULL }

static mlxq_family family_of(const mlxq_family_traits *traits) {
  return (mlxq_family){"made_up", TIE_NEVER, NULL, traits};
}

/* ---- Described checkpoints ------------------------------------------------------------------------------------- */

typedef struct told {
  const char *name;
  mlxq_dtype dtype;
  uint32_t rank;
  uint64_t shape[4];
} told;

static mlxq_checkpoint *describe(const char *config, const told *tensors, size_t count) {
  static mlxq_source_file files[] = {{.path = (char *)(uintptr_t) "one.safetensors"},
                                     {.path = (char *)(uintptr_t) "two.safetensors"}};
  mlxq_error error;
  mlxq_checkpoint *checkpoint = calloc(1, sizeof *checkpoint);
  assert_non_null(checkpoint);
  checkpoint->is_folder = true;
  checkpoint->config_path = strdup("config.json");
  checkpoint->tensors = new_weights();
  checkpoint->files = files;
  if (mlxq_json_parse(&checkpoint->config, config, strlen(config), &error) != MLXQ_OK) fail_msg("%s", error.message);
  for (size_t i = 0; i < count; i++) {
    if (mlxq_weights_describe(checkpoint->tensors, tensors[i].name, strlen(tensors[i].name), tensors[i].dtype,
                              tensors[i].rank, tensors[i].shape, (uint32_t)(i % 2), 64 * i, NULL, &error) != MLXQ_OK) {
      fail_msg("%s: %s", tensors[i].name, error.message);
    }
  }
  return checkpoint;
}

static void forget(mlxq_checkpoint *checkpoint) {
  checkpoint->files = NULL;
  mlxq_checkpoint_free(checkpoint);
}

#define TOLD(...) ((const told[]){__VA_ARGS__}), COUNT(((const told[]){__VA_ARGS__}))

/* A model and what it points into. */
typedef struct arranged {
  mlxq_checkpoint *checkpoint;
  mlxq_model *model;
} arranged;

static arranged arrange(const mlxq_family_traits *traits, const char *config, const told *tensors, size_t count) {
  const mlxq_family family = family_of(traits);
  mlxq_error error;
  arranged result = {describe(config, tensors, count), NULL};
  if (mlxq_family_arrange(&result.model, &family, result.checkpoint, result.checkpoint->tensors, NULL, &error) !=
      MLXQ_OK) {
    fail_msg("%s: %s: %s", error.file, error.key, error.message);
  }
  assert_non_null(result.model);
  return result;
}

static void release(arranged *result) {
  mlxq_model_free(result->model);
  forget(result->checkpoint);
}

static void assert_refused(const mlxq_family_traits *traits, const char *config, const told *tensors, size_t count,
                           mlxq_status status, const char *key) {
  const mlxq_family family = family_of(traits);
  mlxq_error error;
  mlxq_model *model = (mlxq_model *)(uintptr_t)16;
  mlxq_checkpoint *checkpoint = describe(config, tensors, count);
  memset(&error, 'x', sizeof error);
  mlxq_status found = mlxq_family_arrange(&model, &family, checkpoint, checkpoint->tensors, NULL, &error);
  if (found != status) {
    fail_msg("%s, not %s: %s", mlxq_status_name(found), mlxq_status_name(status), found ? error.message : key);
  }
  assert_null(model);
  assert_int_equal(error.status, status);
  assert_string_equal(error.key, key);
  assert_string_equal(error.layer, "");
  assert_true(strlen(error.message) > 0);
  assert_true(strlen(error.file) > 0);
  assert_null(strchr(error.message, '\n'));
  forget(checkpoint);
}

static const mlxq_tensor *tensor_of(const arranged *result, const char *name, size_t *index) {
  *index = mlxq_weights_index(result->model->tensors, name, strlen(name));
  if (*index == SIZE_MAX) fail_msg("%s is missing", name);
  return &result->model->tensors->entries[*index].tensor;
}

/* The stored tensors that a model's tensor is made of, by name. */
static void assert_made_of(const arranged *result, const char *name, const char *const *stored, size_t count) {
  size_t index, found = 0;
  tensor_of(result, name, &index);
  const mlxq_piece *pieces = mlxq_model_pieces(result->model, index, &found);
  assert_int_equal(found, count);
  for (size_t i = 0; i < count; i++) {
    assert_string_equal(result->checkpoint->tensors->entries[pieces[i].stored].tensor.name, stored[i]);
  }
}

#define NAMES(...) (const char *const[]){__VA_ARGS__}, COUNT(((const char *const[]){__VA_ARGS__}))

static void assert_described(const arranged *result, const char *name, mlxq_dtype dtype, uint32_t rank,
                             const uint64_t *shape) {
  size_t index;
  assert_shape(tensor_of(result, name, &index), dtype, rank, shape);
}

/* ---- Patterns -------------------------------------------------------------------------------------------------- */

static void test_patterns(void **state) {
  (void)state;
  static const struct {
    const char *pattern, *name;
    bool matches;
    size_t length;
    long number;
  } CASES[] = {
      {".w", "a.w", true, 1, -1},
      {".w", ".w", true, 0, -1},
      {"", "abc", true, 3, -1},
      {"", "", true, 0, -1},
      {"abc", "abc", true, 0, -1},
      {"abcd", "bcd", false, 0, -1},
      {".w", "w", false, 0, -1},
      {".w", "", false, 0, -1},
      {".w", "a.w.x", false, 0, -1},
      {".w", "a_w", false, 0, -1},
      {".e.#.w", "a.e.0.w", true, 1, 0},
      {".e.#.w", "a.e.12.w", true, 1, 12},
      {".e.#.w", "a.e.999999999.w", true, 1, 999999999},
      {".e.#.w", "a.e.1000000000.w", false, 0, -1},
      {".e.#.w", "a.e.99999999999999999999999999.w", false, 0, -1},
      {".e.#.w", "a.e..w", false, 0, -1},
      {".e.#.w", "a.e.x.w", false, 0, -1},
      {".e.#.w", "a.e.1x.w", false, 0, -1},
      {".e.#.w", "a.e.-1.w", false, 0, -1},
      {".e.#.w", "a.e.+1.w", false, 0, -1},
      {".e.#.w", "a.e. 1.w", false, 0, -1},
      {".e.#.w", ".e.5.w", true, 0, 5},
      {".e.#.w", "5.w", false, 0, -1},
      {".e.#.w", ".w", false, 0, -1},
      {".e.#.w", "w", false, 0, -1},
      {".e.#.w", "a.l.3.e.7.w", true, 5, 7},
      {"#.w", "12.w", true, 0, 12},
      {"#", "a7", true, 1, 7},
      {"#", "a", false, 0, -1},
      {"#", "", false, 0, -1},
      {".#", ".3", true, 0, 3},
      {".#", ".", false, 0, -1},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    size_t length = 0;
    long number = 77;
    bool matches = mlxq_rule_matches(CASES[i].pattern, CASES[i].name, &length, &number);
    if (matches != CASES[i].matches) fail_msg("%s, %s", CASES[i].pattern, CASES[i].name);
    if (!matches) continue;
    assert_int_equal(length, CASES[i].length);
    assert_int_equal(number, CASES[i].number);
  }
}

/* A number is written in one way only: what is looked up by its number must be found. */
static void test_numbers_with_leading_zeros(void **state) {
  (void)state;
  size_t length;
  long number;
  assert_true(mlxq_rule_matches(".#.w", "e.0.w", &length, &number));
  assert_true(mlxq_rule_matches(".#.w", "e.10.w", &length, &number));
  assert_false(mlxq_rule_matches(".#.w", "e.00.w", &length, &number));
  assert_false(mlxq_rule_matches(".#.w", "e.01.w", &length, &number));
  assert_false(mlxq_rule_matches(".#.w", "e.000000001.w", &length, &number));
}

/* ---- Renaming, prefixes, drops --------------------------------------------------------------------------------- */

static void test_no_traits(void **state) {
  (void)state;
  const mlxq_family family = family_of(NULL);
  mlxq_model *model = (mlxq_model *)(uintptr_t)16;
  mlxq_checkpoint *checkpoint = describe("{}", TOLD({"a.weight", MLXQ_F16, 1, {4}}));
  assert_int_equal(mlxq_family_arrange(&model, &family, checkpoint, checkpoint->tensors, NULL, NULL), MLXQ_OK);
  assert_null(model);
  forget(checkpoint);
}

static void test_no_rules(void **state) {
  (void)state;
  static const mlxq_family_traits TRAITS = {.nested = false};
  arranged result =
      arrange(&TRAITS, "{}",
              TOLD({"a.weight", MLXQ_F16, 2, {4, 5}}, {"s", MLXQ_I64, 0, {0}},
                   {"f8.weight", MLXQ_F8_E4M3, 2, {200, 300}}, {"f8.weight_scale_inv", MLXQ_F32, 2, {2, 3}}));
  assert_int_equal(mlxq_weights_count(result.model->tensors), 4); /* FP8 means nothing to this family */
  assert_described(&result, "a.weight", MLXQ_F16, SHAPE(4, 5));
  assert_described(&result, "s", MLXQ_I64, SCALAR);
  assert_described(&result, "f8.weight", MLXQ_F8_E4M3, SHAPE(200, 300));
  assert_made_of(&result, "a.weight", NAMES("a.weight"));
  release(&result);
}

static void test_names_change(void **state) {
  (void)state;
  static const mlxq_rule RULES[] = {ONE(RULE_RENAME, ".w1.weight", ".gate.weight"),
                                    {RULE_RENAME, ".w2.weight", ".up.weight", NULL, ".router.weight"},
                                    {RULE_RENAME, ".w3.weight", ".down.weight", NULL, ".absent.#.weight"},
                                    END_OF_RULES};
  static const mlxq_prefix PREFIXES[] = {
      {"visual", NULL}, {"model.text.", "text.model."}, {"keep.", "keep."}, {"", "text."}, {NULL, NULL}};
  static const char *const DROPPED[] = {"mtp.", "_tmp", NULL};
  static const mlxq_family_traits TRAITS = {.rules = RULES, .prefixes = PREFIXES, .dropped = DROPPED};
  arranged result = arrange(
      &TRAITS, "{}",
      TOLD({"visual.x.w1.weight", MLXQ_F16, 1, {4}}, {"model.text.a.w1.weight", MLXQ_F16, 1, {4}},
           {"keep.w2.weight", MLXQ_F16, 1, {4}}, {"a.router.weight", MLXQ_F16, 1, {4}}, {"lm_head", MLXQ_F16, 1, {4}},
           {"model.mtp.w1.weight", MLXQ_F16, 1, {4}}, {"x_tmp", MLXQ_F16, 0, {0}}, {"b.w3.weight", MLXQ_F16, 1, {4}}));
  static const char *const EXPECTED[] = {"text.model.a.gate.weight", "keep.w2.weight", "text.a.router.weight",
                                         "text.lm_head", "text.b.down.weight"};
  assert_names(result.model->tensors, EXPECTED, COUNT(EXPECTED));
  assert_made_of(&result, "text.b.down.weight", NAMES("b.w3.weight"));
  release(&result);
}

static void test_two_tensors_of_one_name(void **state) {
  (void)state;
  static const mlxq_rule RULES[] = {ONE(RULE_RENAME, ".a", ".b"), END_OF_RULES};
  static const mlxq_family_traits TRAITS = {.rules = RULES};
  assert_refused(&TRAITS, "{}", TOLD({"x.b", MLXQ_F16, 1, {4}}, {"x.a", MLXQ_F16, 1, {4}}), MLXQ_KEY_COLLISION, "x.b");
}

static void test_a_refused_tensor(void **state) {
  (void)state;
  static const mlxq_rule RULES[] = {ONE(RULE_REFUSE, ".bad", "is bad"), END_OF_RULES};
  static const mlxq_family_traits TRAITS = {.rules = RULES};
  assert_refused(&TRAITS, "{}", TOLD({"ok", MLXQ_F16, 1, {4}}, {"x.bad", MLXQ_F16, 1, {4}}), MLXQ_UNSUPPORTED, "x.bad");
}

/* ---- Stacks ---------------------------------------------------------------------------------------------------- */

static const mlxq_rule STACK_RULES[] = {ONE(RULE_STACK, ".experts.#.w1.weight", ".switch.gate.weight"),
                                        ONE(RULE_STACK, ".experts.#.w2.weight", ".switch.down.weight"), END_OF_RULES};
static const mlxq_family_traits STACKED = {.rules = STACK_RULES};

#define EXPERT(layer, number, part, ...) \
  { "l." #layer ".experts." #number "." part ".weight", __VA_ARGS__ }
#define W1(number) EXPERT(0, number, "w1", MLXQ_BF16, 2, {8, 64})

static void test_experts_in_any_order(void **state) {
  (void)state;
  arranged result = arrange(&STACKED, "{\"num_experts\": 4}",
                            TOLD(W1(2), EXPERT(1, 0, "w1", MLXQ_BF16, 2, {8, 64}), W1(3), W1(0),
                                 EXPERT(1, 1, "w1", MLXQ_BF16, 2, {8, 64}), {"norm", MLXQ_F32, 1, {8}}, W1(1),
                                 EXPERT(1, 3, "w1", MLXQ_BF16, 2, {8, 64}), EXPERT(1, 2, "w1", MLXQ_BF16, 2, {8, 64})));
  static const char *const EXPECTED[] = {"l.1.switch.gate.weight", "l.0.switch.gate.weight", "norm"};
  assert_names(result.model->tensors, EXPECTED, COUNT(EXPECTED));
  assert_described(&result, "l.0.switch.gate.weight", MLXQ_BF16, SHAPE(4, 8, 64));
  assert_made_of(&result, "l.0.switch.gate.weight",
                 NAMES("l.0.experts.0.w1.weight", "l.0.experts.1.w1.weight", "l.0.experts.2.w1.weight",
                       "l.0.experts.3.w1.weight"));
  release(&result);
}

static void test_eleven_experts(void **state) {
  (void)state;
  arranged result = arrange(&STACKED, "{\"n_routed_experts\": 11}",
                            TOLD(W1(10), W1(9), W1(8), W1(7), W1(6), W1(5), W1(4), W1(3), W1(2), W1(1), W1(0)));
  assert_described(&result, "l.0.switch.gate.weight", MLXQ_BF16, SHAPE(11, 8, 64));
  assert_made_of(
      &result, "l.0.switch.gate.weight",
      NAMES("l.0.experts.0.w1.weight", "l.0.experts.1.w1.weight", "l.0.experts.2.w1.weight", "l.0.experts.3.w1.weight",
            "l.0.experts.4.w1.weight", "l.0.experts.5.w1.weight", "l.0.experts.6.w1.weight", "l.0.experts.7.w1.weight",
            "l.0.experts.8.w1.weight", "l.0.experts.9.w1.weight", "l.0.experts.10.w1.weight"));
  release(&result);
}

/* Vectors are stacked too, and one expert is a stack. */
static void test_small_stacks(void **state) {
  (void)state;
  arranged result =
      arrange(&STACKED, "{}", TOLD(EXPERT(0, 0, "w1", MLXQ_F32, 1, {5}), EXPERT(0, 0, "w2", MLXQ_U8, 3, {2, 0, 3})));
  assert_described(&result, "l.0.switch.gate.weight", MLXQ_F32, SHAPE(1, 5));
  assert_described(&result, "l.0.switch.down.weight", MLXQ_U8, SHAPE(1, 2, 0, 3));
  release(&result);
}

static void test_missing_experts(void **state) {
  (void)state;
  static const char *const CONFIGS[] = {"{}", "{\"num_local_experts\": 4}", "{\"moe_num_experts\": 4}",
                                        "{\"num_experts\": 4}", "{\"n_routed_experts\": 4}"};
  for (size_t i = 0; i < COUNT(CONFIGS); i++) {
    assert_refused(&STACKED, CONFIGS[i], TOLD(W1(1), W1(2), W1(3)), MLXQ_MISSING_KEY, "l.0.experts.0.w1.weight");
    assert_refused(&STACKED, CONFIGS[i], TOLD(W1(3), W1(2), W1(1)), MLXQ_MISSING_KEY, "l.0.experts.0.w1.weight");
    assert_refused(&STACKED, CONFIGS[i], TOLD(W1(3), W1(2), W1(0)), MLXQ_MISSING_KEY, "l.0.experts.1.w1.weight");
    if (i > 0)
      assert_refused(&STACKED, CONFIGS[i], TOLD(W1(0), W1(1), W1(2)), MLXQ_MISSING_KEY, "l.0.experts.3.w1.weight");
  }
}

static void test_too_many_experts(void **state) {
  (void)state;
  assert_refused(&STACKED, "{\"num_experts\": 2}", TOLD(W1(0), W1(1), W1(2)), MLXQ_INVARIANT,
                 "l.0.experts.2.w1.weight");
  assert_refused(&STACKED, "{\"num_experts\": 2}", TOLD(W1(0), W1(1), W1(3)), MLXQ_MISSING_KEY,
                 "l.0.experts.2.w1.weight");
}

/* A count that is none says nothing. */
static void test_counts_that_are_none(void **state) {
  (void)state;
  static const char *const CONFIGS[] = {"{\"num_experts\": 0}",     "{\"num_experts\": -1}",
                                        "{\"num_experts\": \"2\"}", "{\"num_experts\": null}",
                                        "{\"num_experts\": 3}",     "{\"num_local_experts\": 0, \"num_experts\": 3}"};
  for (size_t i = 0; i < COUNT(CONFIGS); i++) {
    arranged result = arrange(&STACKED, CONFIGS[i], TOLD(W1(0), W1(1), W1(2)));
    assert_described(&result, "l.0.switch.gate.weight", MLXQ_BF16, SHAPE(3, 8, 64));
    release(&result);
  }
}

static void test_experts_that_differ(void **state) {
  (void)state;
  static const told OTHERS[] = {
      EXPERT(0, 1, "w1", MLXQ_BF16, 2, {8, 32}), EXPERT(0, 1, "w1", MLXQ_BF16, 2, {64, 8}),
      EXPERT(0, 1, "w1", MLXQ_BF16, 1, {512}),   EXPERT(0, 1, "w1", MLXQ_BF16, 3, {1, 8, 64}),
      EXPERT(0, 1, "w1", MLXQ_U8, 2, {8, 64}),   EXPERT(0, 1, "w1", MLXQ_F8_E4M3, 2, {8, 64}),
  };
  for (size_t i = 0; i < COUNT(OTHERS); i++) {
    const told tensors[] = {W1(0), OTHERS[i], W1(2)};
    assert_refused(&STACKED, "{}", tensors, 3, MLXQ_SHAPE_MISMATCH, "l.0.experts.1.w1.weight");
  }
  assert_refused(&STACKED, "{}", TOLD(EXPERT(0, 0, "w1", MLXQ_F32, 0, {0})), MLXQ_SHAPE_MISMATCH,
                 "l.0.experts.0.w1.weight");
}

/* Integers are not promoted: neither to floats nor the other way round. */
static void test_integers_beside_floats(void **state) {
  (void)state;
  static const mlxq_dtype OTHERS[] = {MLXQ_I32, MLXQ_U8, MLXQ_I16, MLXQ_BOOL, MLXQ_F8_E4M3};
  for (size_t i = 0; i < COUNT(OTHERS); i++) {
    const told first[] = {EXPERT(0, 0, "w1", OTHERS[i], 2, {8, 64}), W1(1)};
    assert_refused(&STACKED, "{}", first, 2, MLXQ_SHAPE_MISMATCH, "l.0.experts.1.w1.weight");
    const told second[] = {W1(0), EXPERT(0, 1, "w1", OTHERS[i], 2, {8, 64})};
    assert_refused(&STACKED, "{}", second, 2, MLXQ_SHAPE_MISMATCH, "l.0.experts.1.w1.weight");
  }
}

static void test_dtypes_of_experts(void **state) {
  (void)state;
  static const mlxq_dtype CASES[][4] = {
      {MLXQ_F16, MLXQ_F16, MLXQ_F16, MLXQ_F16},   {MLXQ_F16, MLXQ_BF16, MLXQ_F16, MLXQ_F32},
      {MLXQ_BF16, MLXQ_BF16, MLXQ_F16, MLXQ_F32}, {MLXQ_F32, MLXQ_BF16, MLXQ_BF16, MLXQ_F32},
      {MLXQ_BF16, MLXQ_F32, MLXQ_F16, MLXQ_F32},  {MLXQ_F16, MLXQ_F64, MLXQ_BF16, MLXQ_F64},
      {MLXQ_F64, MLXQ_F16, MLXQ_F32, MLXQ_F64},   {MLXQ_U32, MLXQ_U32, MLXQ_U32, MLXQ_U32},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    const told tensors[] = {EXPERT(0, 0, "w1", CASES[i][0], 2, {8, 64}), EXPERT(0, 1, "w1", CASES[i][1], 2, {8, 64}),
                            EXPERT(0, 2, "w1", CASES[i][2], 2, {8, 64})};
    arranged result = arrange(&STACKED, "{}", tensors, 3);
    assert_described(&result, "l.0.switch.gate.weight", CASES[i][3], SHAPE(3, 8, 64));
    release(&result);
  }
}

/* A name such as `.experts.00.` is no expert: nothing is lost of it. */
static void test_odd_numbers_of_experts(void **state) {
  (void)state;
  arranged result = arrange(&STACKED, "{}", TOLD(EXPERT(0, 00, "w1", MLXQ_BF16, 2, {8, 64})));
  assert_described(&result, "l.0.experts.00.w1.weight", MLXQ_BF16, SHAPE(8, 64));
  release(&result);
  result = arrange(&STACKED, "{}", TOLD(W1(0), W1(1), EXPERT(0, 01, "w1", MLXQ_BF16, 2, {8, 64})));
  assert_described(&result, "l.0.experts.01.w1.weight", MLXQ_BF16, SHAPE(8, 64));
  assert_described(&result, "l.0.switch.gate.weight", MLXQ_BF16, SHAPE(2, 8, 64));
  release(&result);
}

static void test_a_stack_that_is_there_already(void **state) {
  (void)state;
  assert_refused(&STACKED, "{}", TOLD(W1(0), {"l.0.switch.gate.weight", MLXQ_BF16, 3, {1, 8, 64}}), MLXQ_KEY_COLLISION,
                 "l.0.switch.gate.weight");
}

static void test_experts_of_too_many_axes(void **state) {
  (void)state;
  mlxq_family family = family_of(&STACKED);
  uint64_t shape[MLXQ_MAX_RANK];
  mlxq_error error;
  mlxq_model *model;
  for (size_t i = 0; i < MLXQ_MAX_RANK; i++) shape[i] = 1;
  mlxq_checkpoint *checkpoint = describe("{}", NULL, 0);
  assert_int_equal(mlxq_weights_describe(checkpoint->tensors, "a.experts.0.w1.weight", 21, MLXQ_F16, MLXQ_MAX_RANK,
                                         shape, 0, 0, NULL, NULL),
                   MLXQ_OK);
  assert_int_equal(mlxq_family_arrange(&model, &family, checkpoint, checkpoint->tensors, NULL, &error),
                   MLXQ_SHAPE_MISMATCH);
  forget(checkpoint);
}

/* ---- Halves ---------------------------------------------------------------------------------------------------- */

static void test_what_cannot_be_split(void **state) {
  (void)state;
  static const struct {
    mlxq_rule_op op;
    told tensor;
  } CASES[] = {
      {RULE_HALVES, {"a.x", MLXQ_F16, 2, {3, 64}}},
      {RULE_HALVES, {"a.x", MLXQ_F16, 1, {4}}},
      {RULE_HALVES, {"a.x", MLXQ_F16, 0, {0}}},
      {RULE_HALVES, {"a.x", MLXQ_F16, 3, {4, 5, 64}}},
      {RULE_ALTERNATE, {"a.x", MLXQ_F16, 2, {3, 64}}},
      {RULE_ALTERNATE, {"a.x", MLXQ_F16, 1, {4}}},
      {RULE_ALTERNATE_COLUMNS, {"a.x", MLXQ_F16, 2, {4, 3}}},
      {RULE_ALTERNATE_COLUMNS, {"a.x", MLXQ_F16, 0, {0}}},
      {RULE_TRANSPOSE, {"a.x", MLXQ_F16, 1, {4}}},
      {RULE_TRANSPOSE, {"a.x", MLXQ_F16, 0, {0}}},
      {RULE_HALVES_TRANSPOSED, {"a.x", MLXQ_F16, 2, {4, 3}}},
      {RULE_HALVES_TRANSPOSED, {"a.x", MLXQ_F16, 1, {4}}},
      {RULE_BLOCKS, {"a.x", MLXQ_U8, 2, {4, 16}}},
      {RULE_BLOCKS, {"a.x", MLXQ_U8, 3, {4, 2, 8}}},
      {RULE_BLOCKS, {"a.x", MLXQ_I8, 3, {4, 2, 16}}},
      {RULE_BLOCKS, {"a.x", MLXQ_U8, 0, {0}}},
      {RULE_ALTERNATE_BLOCKS, {"a.x", MLXQ_U8, 4, {2, 3, 2, 16}}},
      {RULE_ALTERNATE_BLOCKS, {"a.x", MLXQ_U8, 2, {4, 16}}},
      {RULE_CONV, {"a.x", MLXQ_F16, 3, {8, 2, 4}}},
      {RULE_CONV, {"a.x", MLXQ_F16, 3, {8, 0, 4}}},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    const mlxq_rule rules[] = {TWO(CASES[i].op, ".x", ".y", ".z"), END_OF_RULES};
    const mlxq_family_traits traits = {.rules = rules};
    assert_refused(&traits, "{}", &CASES[i].tensor, 1, MLXQ_SHAPE_MISMATCH, "a.x");
  }
}

static void test_shapes_of_what_is_split(void **state) {
  (void)state;
  static const struct {
    mlxq_rule_op op;
    told tensor, first, second; /* no second: rank 9 */
  } CASES[] = {
      {RULE_HALVES, {"a.x", MLXQ_F16, 2, {6, 64}}, {"a.y", MLXQ_F16, 2, {3, 64}}, {"a.z", MLXQ_F16, 2, {3, 64}}},
      {RULE_HALVES, {"a.x", MLXQ_F16, 3, {4, 6, 5}}, {"a.y", MLXQ_F16, 3, {4, 3, 5}}, {"a.z", MLXQ_F16, 3, {4, 3, 5}}},
      {RULE_HALVES, {"a.x", MLXQ_F16, 2, {0, 5}}, {"a.y", MLXQ_F16, 2, {0, 5}}, {"a.z", MLXQ_F16, 2, {0, 5}}},
      {RULE_HALVES, {"a.x", MLXQ_F16, 3, {0, 6, 5}}, {"a.y", MLXQ_F16, 3, {0, 3, 5}}, {"a.z", MLXQ_F16, 3, {0, 3, 5}}},
      {RULE_ALTERNATE, {"a.x", MLXQ_U8, 3, {4, 6, 5}}, {"a.y", MLXQ_U8, 3, {4, 3, 5}}, {"a.z", MLXQ_U8, 3, {4, 3, 5}}},
      {RULE_ALTERNATE_COLUMNS,
       {"a.x", MLXQ_F16, 2, {4, 6}},
       {"a.y", MLXQ_F16, 2, {4, 3}},
       {"a.z", MLXQ_F16, 2, {4, 3}}},
      {RULE_ALTERNATE_COLUMNS, {"a.x", MLXQ_F16, 1, {6}}, {"a.y", MLXQ_F16, 1, {3}}, {"a.z", MLXQ_F16, 1, {3}}},
      {RULE_TRANSPOSE, {"a.x", MLXQ_F16, 3, {4, 6, 5}}, {"a.y", MLXQ_F16, 3, {4, 5, 6}}, {"", MLXQ_F16, 9, {0}}},
      {RULE_TRANSPOSE, {"a.x", MLXQ_F16, 2, {0, 5}}, {"a.y", MLXQ_F16, 2, {5, 0}}, {"", MLXQ_F16, 9, {0}}},
      {RULE_HALVES_TRANSPOSED,
       {"a.x", MLXQ_F16, 3, {4, 6, 10}},
       {"a.y", MLXQ_F16, 3, {4, 5, 6}},
       {"a.z", MLXQ_F16, 3, {4, 5, 6}}},
      {RULE_BLOCKS, {"a.x", MLXQ_U8, 4, {2, 3, 5, 16}}, {"a.y", MLXQ_U32, 3, {2, 3, 20}}, {"", MLXQ_F16, 9, {0}}},
      {RULE_BLOCKS, {"a.x", MLXQ_U8, 3, {3, 5, 16}}, {"a.y", MLXQ_U32, 2, {3, 20}}, {"", MLXQ_F16, 9, {0}}},
      {RULE_ALTERNATE_BLOCKS,
       {"a.x", MLXQ_U8, 4, {2, 6, 5, 16}},
       {"a.y", MLXQ_U32, 3, {2, 3, 20}},
       {"a.z", MLXQ_U32, 3, {2, 3, 20}}},
      {RULE_CONV, {"a.x", MLXQ_F16, 3, {8, 1, 4}}, {"a.y", MLXQ_F16, 3, {8, 4, 1}}, {"", MLXQ_F16, 9, {0}}},
      {RULE_CONV, {"a.x", MLXQ_F16, 3, {8, 4, 1}}, {"a.y", MLXQ_F16, 3, {8, 4, 1}}, {"", MLXQ_F16, 9, {0}}},
      {RULE_CONV, {"a.x", MLXQ_F16, 3, {8, 1, 1}}, {"a.y", MLXQ_F16, 3, {8, 1, 1}}, {"", MLXQ_F16, 9, {0}}},
      {RULE_CONV, {"a.x", MLXQ_F16, 2, {8, 4}}, {"a.y", MLXQ_F16, 2, {8, 4}}, {"", MLXQ_F16, 9, {0}}},
      {RULE_CONV, {"a.x", MLXQ_F16, 3, {0, 1, 4}}, {"a.y", MLXQ_F16, 3, {0, 4, 1}}, {"", MLXQ_F16, 9, {0}}},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    const mlxq_rule rules[] = {TWO(CASES[i].op, ".x", ".y", ".z"), END_OF_RULES};
    const mlxq_family_traits traits = {.rules = rules};
    const told *first = &CASES[i].first, *second = &CASES[i].second;
    arranged result = arrange(&traits, "{}", &CASES[i].tensor, 1);
    assert_int_equal(mlxq_weights_count(result.model->tensors), second->rank == 9 ? 1 : 2);
    assert_described(&result, first->name, first->dtype, first->rank, first->shape);
    if (second->rank != 9) assert_described(&result, second->name, second->dtype, second->rank, second->shape);
    release(&result);
  }
}

/* Dimensions beyond all memory, of tensors that hold nothing, are no work. */
static void test_huge_empty_tensors(void **state) {
  (void)state;
  static const uint64_t HUGE_ONE = UINT64_C(1) << 40;
  static const mlxq_rule_op OPS[] = {RULE_HALVES, RULE_ALTERNATE, RULE_ALTERNATE_COLUMNS, RULE_TRANSPOSE,
                                     RULE_HALVES_TRANSPOSED};
  for (size_t i = 0; i < COUNT(OPS); i++) {
    const mlxq_rule rules[] = {TWO(OPS[i], ".x", ".y", ".z"), END_OF_RULES};
    const mlxq_family_traits traits = {.rules = rules};
    const told tensors[] = {{"a.x", MLXQ_F16, 3, {HUGE_ONE, 0, 64}},
                            {"b.x", MLXQ_F16, 3, {HUGE_ONE, 64, 0}},
                            {"c.x", MLXQ_F16, 2, {HUGE_ONE, 0}},
                            {"d.x", MLXQ_F16, 2, {0, HUGE_ONE}}};
    arranged result = arrange(&traits, "{}", tensors, COUNT(tensors));
    assert_in_range(result.model->piece_count, 0, 64);
    release(&result);
  }
  const mlxq_rule rules[] = {TWO(RULE_KV_B, ".x", ".y", ".z"), END_OF_RULES};
  const mlxq_family_traits traits = {.rules = rules};
  const told tensors[] = {{"a.x", MLXQ_F16, 2, {UINT64_C(8) * INT32_MAX, 0}}};
  arranged result =
      arrange(&traits, "{\"num_attention_heads\": 2147483647, \"qk_nope_head_dim\": 4, \"v_head_dim\": 4}", tensors, 1);
  assert_in_range(result.model->piece_count, 0, 64);
  release(&result);
}

/* ---- kv_b_proj ------------------------------------------------------------------------------------------------- */

static const mlxq_rule KV_B_RULES[] = {TWO(RULE_KV_B, ".kv_b.weight", ".embed_q.weight", ".unembed_out.weight"),
                                       END_OF_RULES};
static const mlxq_family_traits ABSORBED = {.rules = KV_B_RULES};

static void test_kv_b(void **state) {
  (void)state;
  arranged result = arrange(&ABSORBED, "{\"num_attention_heads\": 3, \"qk_nope_head_dim\": 5, \"v_head_dim\": 7}",
                            TOLD({"l.kv_b.weight", MLXQ_BF16, 2, {36, 64}}));
  assert_described(&result, "l.embed_q.weight", MLXQ_BF16, SHAPE(3, 64, 5));
  assert_described(&result, "l.unembed_out.weight", MLXQ_BF16, SHAPE(3, 7, 64));
  release(&result);
}

static void test_kv_b_refusals(void **state) {
  (void)state;
  static const char GOOD[] = "{\"num_attention_heads\": 3, \"qk_nope_head_dim\": 5, \"v_head_dim\": 7}";
  static const told OTHERS[] = {{"l.kv_b.weight", MLXQ_BF16, 2, {35, 64}},
                                {"l.kv_b.weight", MLXQ_BF16, 2, {64, 36}},
                                {"l.kv_b.weight", MLXQ_BF16, 1, {36}},
                                {"l.kv_b.weight", MLXQ_BF16, 0, {0}},
                                {"l.kv_b.weight", MLXQ_BF16, 3, {36, 64, 1}}};
  for (size_t i = 0; i < COUNT(OTHERS); i++) {
    assert_refused(&ABSORBED, GOOD, &OTHERS[i], 1, MLXQ_SHAPE_MISMATCH, "l.kv_b.weight");
  }
  static const char *const CONFIGS[][2] = {
      {"{}", "num_attention_heads"},
      {"{\"num_attention_heads\": 3}", "qk_nope_head_dim"},
      {"{\"num_attention_heads\": 3, \"qk_nope_head_dim\": 5}", "v_head_dim"},
      {"{\"num_attention_heads\": \"3\", \"qk_nope_head_dim\": 5, \"v_head_dim\": 7}", "num_attention_heads"},
      {"{\"num_attention_heads\": 3, \"qk_nope_head_dim\": -5, \"v_head_dim\": 7}", "qk_nope_head_dim"},
      {"{\"num_attention_heads\": 3, \"qk_nope_head_dim\": 5, \"v_head_dim\": 7.5}", "v_head_dim"},
      {"{\"num_attention_heads\": 3, \"qk_nope_head_dim\": 5, \"v_head_dim\": 99999999999}", "v_head_dim"},
  };
  for (size_t i = 0; i < COUNT(CONFIGS); i++) {
    assert_refused(&ABSORBED, CONFIGS[i][0], TOLD({"l.kv_b.weight", MLXQ_BF16, 2, {36, 64}}), MLXQ_PARSE,
                   CONFIGS[i][1]);
  }
}

/* The numbers are text_config's in a family that nests them. */
static void test_nested_numbers(void **state) {
  (void)state;
  static const mlxq_family_traits NESTED = {.rules = KV_B_RULES, .nested = true};
  arranged result = arrange(&NESTED,
                            "{\"num_attention_heads\": 1, \"text_config\": {\"num_attention_heads\": 3,"
                            " \"qk_nope_head_dim\": 5, \"v_head_dim\": 7}}",
                            TOLD({"l.kv_b.weight", MLXQ_BF16, 2, {36, 64}}));
  assert_described(&result, "l.embed_q.weight", MLXQ_BF16, SHAPE(3, 64, 5));
  release(&result);
}

/* ---- Norms less one -------------------------------------------------------------------------------------------- */

static bool adds_one(const arranged *result, const char *name) {
  size_t index, count = 0;
  tensor_of(result, name, &index);
  const mlxq_piece *pieces = mlxq_model_pieces(result->model, index, &count);
  assert_int_equal(count, 1);
  return pieces[0].add_one;
}

static void test_when_one_is_added(void **state) {
  (void)state;
  static const mlxq_rule RULES[] = {ONE(RULE_ADD_ONE, ".norm.weight", ".norm.weight"),
                                    ONE(RULE_CONV, ".conv1d.weight", ".conv1d.weight"),
                                    ONE(RULE_STACK, ".mlp.experts.#.up_proj.weight", ".mlp.up.weight"), END_OF_RULES};
  static const struct {
    mlxq_add_one when;
    told sign;
    bool adds;
  } CASES[] = {
      {ADD_ONE_NEVER, {"l.conv1d.weight", MLXQ_F16, 3, {8, 1, 4}}, false},
      {ADD_ONE_NEVER, {"l.mlp.experts.0.up_proj.weight", MLXQ_F16, 2, {8, 4}}, false},
      {ADD_ONE_WITH_CONV, {"l.conv1d.weight", MLXQ_F16, 3, {8, 1, 4}}, true},
      {ADD_ONE_WITH_CONV, {"l.conv1d.weight", MLXQ_F16, 3, {8, 4, 1}}, false},
      {ADD_ONE_WITH_CONV, {"l.conv1d.weight", MLXQ_F16, 3, {8, 1, 1}}, false},
      {ADD_ONE_WITH_CONV, {"l.conv1d.weight", MLXQ_F16, 2, {8, 4}}, false},
      {ADD_ONE_WITH_CONV, {"l.mlp.experts.0.up_proj.weight", MLXQ_F16, 2, {8, 4}}, false},
      {ADD_ONE_WITH_EXPERTS, {"l.mlp.experts.0.up_proj.weight", MLXQ_F16, 2, {8, 4}}, true},
      {ADD_ONE_WITH_EXPERTS, {"l.conv1d.weight", MLXQ_F16, 3, {8, 1, 4}}, false},
      {ADD_ONE_WITH_EXPERTS, {"l.mlp.switch_mlp.up_proj.weight", MLXQ_F16, 3, {1, 8, 4}}, false},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    const mlxq_family_traits traits = {.rules = RULES, .add_one = CASES[i].when};
    const told tensors[] = {{"a.norm.weight", MLXQ_BF16, 1, {64}},
                            {"b.norm.weight", MLXQ_BF16, 2, {4, 16}},
                            {"norm.weight", MLXQ_BF16, 1, {64}},
                            {"a.other.weight", MLXQ_BF16, 1, {64}},
                            CASES[i].sign};
    arranged result = arrange(&traits, "{}", tensors, COUNT(tensors));
    assert_int_equal(adds_one(&result, "a.norm.weight"), CASES[i].adds);
    assert_false(adds_one(&result, "b.norm.weight")); /* only vectors are norms */
    assert_false(adds_one(&result, "norm.weight"));
    assert_false(adds_one(&result, "a.other.weight"));
    release(&result);
  }
}

/* ---- FP8 ------------------------------------------------------------------------------------------------------- */

static const mlxq_family_traits FP8 = {.fp8 = true, .rules = STACK_RULES};

static void test_block_scales(void **state) {
  (void)state;
  static const uint64_t SHAPES[][4] = {{200, 300, 2, 3}, {128, 128, 1, 1}, {129, 127, 2, 1}, {1, 1, 1, 1},
                                       {0, 300, 0, 3},   {300, 0, 3, 0},   {256, 384, 2, 3}};
  for (size_t i = 0; i < COUNT(SHAPES); i++) {
    const told tensors[] = {{"a.weight_scale_inv", i % 2 ? MLXQ_F32 : MLXQ_BF16, 2, {SHAPES[i][2], SHAPES[i][3]}},
                            {"a.weight", MLXQ_F8_E4M3, 2, {SHAPES[i][0], SHAPES[i][1]}}};
    arranged result = arrange(&FP8, "{}", tensors, 2);
    assert_int_equal(mlxq_weights_count(result.model->tensors), 1);
    assert_described(&result, "a.weight", MLXQ_BF16, SHAPE(SHAPES[i][0], SHAPES[i][1]));
    release(&result);
  }
}

/* Scales of no FP8 matrix are tensors like others. */
static void test_scales_that_are_none(void **state) {
  (void)state;
  arranged result = arrange(&FP8, "{}",
                            TOLD({"a.weight_scale_inv", MLXQ_F32, 2, {2, 3}}, {"b.weight", MLXQ_BF16, 2, {200, 300}},
                                 {"b.weight_scale_inv", MLXQ_F32, 2, {2, 3}}));
  assert_int_equal(mlxq_weights_count(result.model->tensors), 3);
  release(&result);
}

/* An FP8 matrix alone is nothing that mlx-lm reads. */
static void test_a_matrix_without_scales(void **state) {
  (void)state;
  assert_refused(&FP8, "{}", TOLD({"a.weight", MLXQ_BF16, 2, {8, 8}}, {"c.weight", MLXQ_F8_E4M3, 2, {8, 8}}),
                 MLXQ_MISSING_KEY, "c.weight_scale_inv");
  assert_refused(&FP8, "{}", TOLD(EXPERT(0, 0, "w1", MLXQ_F8_E4M3, 2, {8, 8})), MLXQ_MISSING_KEY,
                 "l.0.experts.0.w1.weight_scale_inv");
}

static void test_wrong_block_scales(void **state) {
  (void)state;
  static const told WRONG[] = {
      {"a.weight_scale_inv", MLXQ_F32, 2, {3, 2}},   {"a.weight_scale_inv", MLXQ_F32, 2, {2, 2}},
      {"a.weight_scale_inv", MLXQ_F32, 2, {1, 1}},   {"a.weight_scale_inv", MLXQ_F32, 1, {6}},
      {"a.weight_scale_inv", MLXQ_F32, 0, {0}},      {"a.weight_scale_inv", MLXQ_F32, 2, {0, 3}},
      {"a.weight_scale_inv", MLXQ_F32, 3, {2, 3, 1}}};
  for (size_t i = 0; i < COUNT(WRONG); i++) {
    const told tensors[] = {WRONG[i], {"a.weight", MLXQ_F8_E4M3, 2, {200, 300}}};
    assert_refused(&FP8, "{}", tensors, 2, MLXQ_SHAPE_MISMATCH, "a.weight_scale_inv");
  }
  static const mlxq_dtype DTYPES[] = {MLXQ_U8, MLXQ_F8_E4M3, MLXQ_F8_E8M0, MLXQ_I32};
  for (size_t i = 0; i < COUNT(DTYPES); i++) {
    const told tensors[] = {{"a.weight", MLXQ_F8_E4M3, 2, {200, 300}}, {"a.weight_scale_inv", DTYPES[i], 2, {2, 3}}};
    assert_refused(&FP8, "{}", tensors, 2, MLXQ_UNSUPPORTED_DTYPE, "a.weight_scale_inv");
  }
}

/* An expert of bfloat16 among those of FP8 is as they become. */
static void test_fp8_experts(void **state) {
  (void)state;
  arranged result = arrange(
      &FP8, "{}",
      TOLD(EXPERT(0, 0, "w1", MLXQ_F8_E4M3, 2, {200, 300}), {"l.0.experts.0.w1.weight_scale_inv", MLXQ_F32, 2, {2, 3}},
           EXPERT(0, 1, "w1", MLXQ_BF16, 2, {200, 300})));
  assert_int_equal(mlxq_weights_count(result.model->tensors), 1);
  assert_described(&result, "l.0.switch.gate.weight", MLXQ_BF16, SHAPE(2, 200, 300));
  release(&result);
}

/* ---- From files to bytes --------------------------------------------------------------------------------------- */

/* Adds elements of another tensor, addressed by strides: element (i, j, ...) is the one at first + i * strides[0] + ...
 */
static void add_view(mlxq_weights *weights, const char *name, mlxq_dtype dtype, uint32_t rank, const uint64_t *shape,
                     const mlxq_tensor *from, uint64_t first, const uint64_t *strides) {
  size_t bytes = mlxq_dtype_bits(dtype) / 8, elems = 1;
  for (uint32_t i = 0; i < rank; i++) elems *= shape[i];
  char *data = malloc(elems * bytes + 1);
  assert_non_null(data);
  for (size_t i = 0; i < elems; i++) {
    uint64_t at = first;
    size_t rest = i;
    for (uint32_t axis = rank; axis-- > 0;) {
      at += rest % shape[axis] * strides[axis];
      rest /= shape[axis];
    }
    assert_true((at + 1) * bytes <= from->bytes);
    memcpy(data + i * bytes, (const char *)from->data + at * bytes, bytes);
  }
  add_bytes(weights, name, dtype, rank, shape, data);
  free(data);
}

#define STRIDES(...) ((const uint64_t[]){__VA_ARGS__})

/* Adds a tensor as it is. */
static void add_same(mlxq_weights *weights, const char *name, const mlxq_tensor *from, uint32_t rank,
                     const uint64_t *shape) {
  add_bytes(weights, name, from->dtype, rank, shape, from->data);
}

static mlxq_weights *cast_all(const mlxq_weights *weights, mlxq_dtype to) {
  mlxq_weights *cast = new_weights();
  for (size_t i = 0; i < mlxq_weights_count(weights); i++) {
    const mlxq_tensor *tensor = mlxq_weights_at(weights, i);
    size_t elems = (size_t)(tensor->bytes * 8 / mlxq_dtype_bits(tensor->dtype));
    if (!mlxq_dtype_is_floating(tensor->dtype) || tensor->dtype == to) {
      add_same(cast, tensor->name, tensor, tensor->rank, tensor->shape);
      continue;
    }
    void *converted = malloc(4 * elems + 1);
    mlxq_kernels(MLXQ_ISA_REF)->cast(tensor->dtype, to, tensor->data, converted, elems);
    add_bytes(cast, tensor->name, to, tensor->rank, tensor->shape, converted);
    free(converted);
  }
  return cast;
}

/* Runs the arranged checkpoint in FOLDER/src into files and compares them with `expected`. */
static void run_and_compare(const void *folder, const mlxq_checkpoint *checkpoint, const mlxq_model *model,
                            const mlxq_quant_config *config, const mlxq_dtype *cast, const mlxq_weights *expected) {
  mlxq_plan *plan = NULL;
  mlxq_error error;
  mlxq_plan_request request = {
      .source = model->tensors, .model = model, .files = checkpoint->files, .config = config, .cast = cast != NULL};
  if (cast) request.cast_to = *cast;
  if (mlxq_plan_quantize(&plan, &request, &error) != MLXQ_OK) fail_msg("%s: %s", error.key, error.message);
  assert_int_equal(mlxq_plan_layout(plan, 1 << 20, NULL, NULL), MLXQ_OK);
  for (unsigned threads = 1; threads <= 3; threads += 2) {
    mlxq_staging staging = {.lock = -1, .old_lock = -1};
    size_t found = 0;
    assert_int_equal(
        mlxq_staging_check(&staging, path_in(folder, "src"), path_in(folder, "out"), true, false, false, false, NULL),
        MLXQ_OK);
    assert_int_equal(mlxq_staging_create(&staging, NULL), MLXQ_OK);
    assert_int_equal(mlxq_staging_create_files(&staging, plan, NULL, NULL), MLXQ_OK);
    mlxq_run_request run = {.plan = plan,
                            .source_files = checkpoint->files,
                            .sink_folder = staging.folder,
                            .threads = threads,
                            .isa = threads == 1 ? MLXQ_ISA_REF : MLXQ_ISA_COUNT};
    if (mlxq_run(&run, &error) != MLXQ_OK) fail_msg("%s: %s: %s", error.file, error.key, error.message);
    for (size_t i = 0; i < plan->file_count; i++) {
      mlxq_weights *weights = read_safetensors(path_in(staging.folder, "%s", plan->files[i].name));
      for (size_t k = 0; k < mlxq_weights_count(weights); k++, found++) {
        const mlxq_tensor *tensor = mlxq_weights_at(weights, k);
        if (!mlxq_weights_find(expected, tensor->name)) fail_msg("%s is not expected", tensor->name);
        assert_same_tensor(tensor, mlxq_weights_find(expected, tensor->name));
      }
      mlxq_weights_free(weights);
    }
    assert_int_equal(found, mlxq_weights_count(expected));
    mlxq_staging_close(&staging);
  }
  mlxq_plan_free(plan);
}

/* Writes the tensors into two shards, arranges them by the family, and compares what comes of it dense, cast, and
 * quantized (what a group of 32 divides) with what the expected tensors become. Releases both maps. */
static void check_run(const void *folder, const mlxq_family_traits *traits, const char *config_text, mlxq_weights *in,
                      mlxq_weights *expected) {
  const mlxq_family family = family_of(traits);
  mlxq_weights *shards[2] = {new_weights(), new_weights()};
  mlxq_checkpoint *checkpoint = NULL;
  mlxq_model *model = NULL;
  mlxq_quant_config *none = NULL, *config = config_of(MLXQ_AFFINE, 4, 32);
  mlxq_error error;
  if (exists(path_in(folder, "src"))) assert_int_equal(mlxq_file_remove_tree(path_in(folder, "src"), NULL), MLXQ_OK);
  make_folder(path_in(folder, "src"));
  write_text(path_in(folder, "src/config.json"), config_text);
  for (size_t i = 0; i < mlxq_weights_count(in); i++) {
    const mlxq_tensor *tensor = mlxq_weights_at(in, i);
    add_same(shards[i % 2], tensor->name, tensor, tensor->rank, tensor->shape);
  }
  for (size_t i = 0; i < 2; i++) {
    write_safetensors(path_in(folder, "src/model-%zu-of-2.safetensors", i + 1), shards[i]);
    mlxq_weights_free(shards[i]);
  }
  if (mlxq_checkpoint_open(&checkpoint, path_in(folder, "src"), &error) != MLXQ_OK) fail_msg("%s", error.message);
  if (mlxq_family_arrange(&model, &family, checkpoint, checkpoint->tensors, NULL, &error) != MLXQ_OK) {
    fail_msg("%s: %s", error.key, error.message);
  }
  assert_int_equal(mlxq_quant_config_new(&none, NULL, NULL), MLXQ_OK);
  run_and_compare(folder, checkpoint, model, none, NULL, expected);
  static const mlxq_dtype TO[] = {MLXQ_F16, MLXQ_F32};
  for (size_t i = 0; i < COUNT(TO); i++) {
    mlxq_weights *cast = cast_all(expected, TO[i]), *quantized = NULL;
    run_and_compare(folder, checkpoint, model, none, &TO[i], cast);
    assert_int_equal(mlxq_quantize_weights(&quantized, cast, config, NULL, NULL, NULL, NULL), MLXQ_OK);
    run_and_compare(folder, checkpoint, model, config, &TO[i], quantized);
    mlxq_weights_free(quantized);
    mlxq_weights_free(cast);
  }
  mlxq_quant_config_free(none);
  mlxq_quant_config_free(config);
  mlxq_model_free(model);
  mlxq_checkpoint_free(checkpoint);
  mlxq_weights_free(in);
  mlxq_weights_free(expected);
}

static void test_run_stacks(void **state) {
  static const mlxq_dtype DTYPES[][3] = {{MLXQ_BF16, MLXQ_BF16, MLXQ_BF16}, {MLXQ_F16, MLXQ_BF16, MLXQ_F32}};
  static const char *const EXPERTS[] = {"l.experts.2.w1.weight", "l.experts.0.w1.weight", "l.experts.1.w1.weight"};
  static const size_t NUMBERS[] = {2, 0, 1};
  for (size_t c = 0; c < COUNT(DTYPES); c++) {
    mlxq_weights *in = new_weights(), *expected = new_weights();
    mlxq_dtype dtype = c == 0 ? MLXQ_BF16 : MLXQ_F32;
    size_t bytes = mlxq_dtype_bits(dtype) / 8, elems = 24 * 96;
    char *stacked = malloc(3 * elems * bytes);
    assert_non_null(stacked);
    seed_random(50 + c);
    add_random(in, "norm.weight", MLXQ_BF16, SHAPE(24));
    for (size_t i = 0; i < 3; i++) {
      add_random(in, EXPERTS[i], DTYPES[c][NUMBERS[i]], SHAPE(24, 96));
      mlxq_kernels(MLXQ_ISA_REF)
          ->cast(DTYPES[c][NUMBERS[i]], dtype, mlxq_weights_find(in, EXPERTS[i])->data,
                 stacked + NUMBERS[i] * elems * bytes, elems);
      if (DTYPES[c][NUMBERS[i]] == dtype) {
        memcpy(stacked + NUMBERS[i] * elems * bytes, mlxq_weights_find(in, EXPERTS[i])->data, elems * bytes);
      }
    }
    add_bytes(expected, "l.switch.gate.weight", dtype, SHAPE(3, 24, 96), stacked);
    add_same(expected, "norm.weight", mlxq_weights_find(in, "norm.weight"), SHAPE(24));
    free(stacked);
    check_run(*state, &STACKED, "{\"num_experts\": 3}", in, expected);
  }
}

static void test_run_halves(void **state) {
  static const mlxq_rule RULES[] = {TWO(RULE_HALVES, ".gate_up", ".gate.weight", ".up.weight"),
                                    TWO(RULE_ALTERNATE, ".mixed", ".even.weight", ".odd.weight"),
                                    TWO(RULE_ALTERNATE_COLUMNS, ".bias2", ".even.bias", ".odd.bias"), END_OF_RULES};
  static const mlxq_family_traits TRAITS = {.rules = RULES};
  static const uint64_t SIZES[][3] = {{3, 6, 64}, {1, 2, 32}, {5, 300, 160}, {2, 4, 7}};
  for (size_t s = 0; s < COUNT(SIZES); s++) {
    uint64_t e = SIZES[s][0], rows = SIZES[s][1], columns = SIZES[s][2], all = rows * columns;
    mlxq_weights *in = new_weights(), *expected = new_weights();
    seed_random(60 + s);
    add_random(in, "a.gate_up", MLXQ_BF16, SHAPE(e, rows, columns));
    add_random(in, "b.gate_up", MLXQ_F32, SHAPE(rows, columns));
    add_random(in, "a.mixed", MLXQ_BF16, SHAPE(e, rows, columns));
    add_random(in, "a.bias2", MLXQ_BF16, SHAPE(e, rows));
    add_random(in, "b.bias2", MLXQ_F32, SHAPE(rows));
    const mlxq_tensor *a = mlxq_weights_find(in, "a.gate_up"), *b = mlxq_weights_find(in, "b.gate_up");
    add_view(expected, "a.gate.weight", a->dtype, SHAPE(e, rows / 2, columns), a, 0, STRIDES(all, columns, 1));
    add_view(expected, "a.up.weight", a->dtype, SHAPE(e, rows / 2, columns), a, all / 2, STRIDES(all, columns, 1));
    add_view(expected, "b.gate.weight", b->dtype, SHAPE(rows / 2, columns), b, 0, STRIDES(columns, 1));
    add_view(expected, "b.up.weight", b->dtype, SHAPE(rows / 2, columns), b, all / 2, STRIDES(columns, 1));
    a = mlxq_weights_find(in, "a.mixed");
    add_view(expected, "a.even.weight", a->dtype, SHAPE(e, rows / 2, columns), a, 0, STRIDES(all, 2 * columns, 1));
    add_view(expected, "a.odd.weight", a->dtype, SHAPE(e, rows / 2, columns), a, columns, STRIDES(all, 2 * columns, 1));
    a = mlxq_weights_find(in, "a.bias2");
    add_view(expected, "a.even.bias", a->dtype, SHAPE(e, rows / 2), a, 0, STRIDES(rows, 2));
    add_view(expected, "a.odd.bias", a->dtype, SHAPE(e, rows / 2), a, 1, STRIDES(rows, 2));
    a = mlxq_weights_find(in, "b.bias2");
    add_view(expected, "b.even.bias", a->dtype, SHAPE(rows / 2), a, 0, STRIDES(2));
    add_view(expected, "b.odd.bias", a->dtype, SHAPE(rows / 2), a, 1, STRIDES(2));
    check_run(*state, &TRAITS, "{}", in, expected);
  }
}

static void test_run_bytes(void **state) {
  static const mlxq_rule RULES[] = {TWO(RULE_ALTERNATE_BLOCKS, ".gate_up_blocks", ".gate.w", ".up.w"),
                                    TWO(RULE_ALTERNATE, ".gate_up_scales", ".gate.scales", ".up.scales"),
                                    ONE(RULE_BLOCKS, ".down_blocks", ".down.w"), END_OF_RULES};
  static const mlxq_family_traits TRAITS = {.rules = RULES};
  mlxq_weights *in = new_weights(), *expected = new_weights();
  seed_random(70);
  add_random(in, "a.gate_up_blocks", MLXQ_U8, SHAPE(3, 10, 6, 16));
  add_random(in, "a.gate_up_scales", MLXQ_U8, SHAPE(3, 10, 6));
  add_random(in, "a.down_blocks", MLXQ_U8, SHAPE(3, 7, 5, 16));
  mlxq_tensor words = *mlxq_weights_find(in, "a.gate_up_blocks");
  add_view(expected, "a.gate.w", MLXQ_U32, SHAPE(3, 5, 24), &words, 0, STRIDES(240, 48, 1));
  add_view(expected, "a.up.w", MLXQ_U32, SHAPE(3, 5, 24), &words, 24, STRIDES(240, 48, 1));
  const mlxq_tensor *scales = mlxq_weights_find(in, "a.gate_up_scales");
  add_view(expected, "a.gate.scales", MLXQ_U8, SHAPE(3, 5, 6), scales, 0, STRIDES(60, 12, 1));
  add_view(expected, "a.up.scales", MLXQ_U8, SHAPE(3, 5, 6), scales, 6, STRIDES(60, 12, 1));
  add_bytes(expected, "a.down.w", MLXQ_U32, SHAPE(3, 7, 20), mlxq_weights_find(in, "a.down_blocks")->data);
  check_run(*state, &TRAITS, "{}", in, expected);
}

static void check_transposes(const void *folder, uint64_t e, uint64_t rows, uint64_t columns, mlxq_dtype dtype) {
  static const mlxq_rule RULES[] = {TWO(RULE_HALVES_TRANSPOSED, ".gate_up", ".gate.weight", ".up.weight"),
                                    ONE(RULE_TRANSPOSE, ".down", ".down.weight"), END_OF_RULES};
  static const mlxq_family_traits TRAITS = {.rules = RULES};
  mlxq_weights *in = new_weights(), *expected = new_weights();
  uint64_t all = rows * columns;
  add_random(in, "a.gate_up", dtype, SHAPE(e, rows, columns));
  add_random(in, "a.down", dtype, SHAPE(e, rows, columns));
  const mlxq_tensor *a = mlxq_weights_find(in, "a.gate_up"), *down = mlxq_weights_find(in, "a.down");
  add_view(expected, "a.gate.weight", dtype, SHAPE(e, columns / 2, rows), a, 0, STRIDES(all, 1, columns));
  add_view(expected, "a.up.weight", dtype, SHAPE(e, columns / 2, rows), a, columns / 2, STRIDES(all, 1, columns));
  add_view(expected, "a.down.weight", dtype, SHAPE(e, columns, rows), down, 0, STRIDES(all, 1, columns));
  check_run(folder, &TRAITS, "{}", in, expected);
}

static void test_run_transposes(void **state) {
  seed_random(80);
  check_transposes(*state, 3, 64, 10, MLXQ_BF16);
  check_transposes(*state, 2, 96, 130, MLXQ_F32);
  check_transposes(*state, 1, 7, 2, MLXQ_F16);
}

/* Strips of columns: more than one tile of them. */
static void test_run_wide_transposes(void **state) {
  seed_random(81);
  check_transposes(*state, 1, 4096, 1500, MLXQ_BF16);
}

static void test_run_convolutions_and_norms(void **state) {
  static const mlxq_rule RULES[] = {ONE(RULE_ADD_ONE, ".norm.weight", ".norm.weight"),
                                    ONE(RULE_CONV, ".conv1d.weight", ".conv1d.weight"), END_OF_RULES};
  static const mlxq_family_traits TRAITS = {.rules = RULES, .add_one = ADD_ONE_WITH_CONV};
  static const mlxq_dtype DTYPES[] = {MLXQ_BF16, MLXQ_F16, MLXQ_F32};
  const mlxq_kernel_table *kernels = mlxq_kernels(MLXQ_ISA_REF);
  mlxq_weights *in = new_weights(), *expected = new_weights();
  seed_random(90);
  add_random(in, "l.conv1d.weight", MLXQ_BF16, SHAPE(40, 1, 4));
  add_same(expected, "l.conv1d.weight", mlxq_weights_find(in, "l.conv1d.weight"), SHAPE(40, 4, 1));
  for (size_t i = 0; i < COUNT(DTYPES); i++) {
    char name[32];
    float values[70];
    uint32_t results[70];
    snprintf(name, sizeof name, "l.%zu.norm.weight", i);
    add_random(in, name, DTYPES[i], SHAPE(70));
    /* The sum of two floats of fewer bits, rounded once. */
    kernels->cast(DTYPES[i], MLXQ_F32, mlxq_weights_find(in, name)->data, values, 70);
    if (DTYPES[i] == MLXQ_F32) memcpy(values, mlxq_weights_find(in, name)->data, sizeof values);
    for (size_t k = 0; k < 70; k++) values[k] += 1;
    memcpy(results, values, sizeof values);
    if (DTYPES[i] != MLXQ_F32) kernels->cast(MLXQ_F32, DTYPES[i], values, results, 70);
    add_bytes(expected, name, DTYPES[i], SHAPE(70), results);
  }
  check_run(*state, &TRAITS, "{}", in, expected);
}

static void test_run_kv_b(void **state) {
  mlxq_weights *in = new_weights(), *expected = new_weights();
  seed_random(100);
  add_random(in, "l.kv_b.weight", MLXQ_BF16, SHAPE(3 * (32 + 5), 64));
  const mlxq_tensor *tensor = mlxq_weights_find(in, "l.kv_b.weight");
  add_view(expected, "l.embed_q.weight", MLXQ_BF16, SHAPE(3, 64, 32), tensor, 0, STRIDES(37 * 64, 1, 64));
  add_view(expected, "l.unembed_out.weight", MLXQ_BF16, SHAPE(3, 5, 64), tensor, 32 * 64, STRIDES(37 * 64, 64, 1));
  check_run(*state, &ABSORBED, "{\"num_attention_heads\": 3, \"qk_nope_head_dim\": 32, \"v_head_dim\": 5}", in,
            expected);
}

/* ---- FP8 blocks, run ------------------------------------------------------------------------------------------- */

static float value_of_e4m3(unsigned byte) {
  unsigned exponent = byte >> 3 & 15u, fraction = byte & 7u;
  double value = exponent ? ldexp(8 + fraction, (int)exponent - 10) : ldexp(fraction, -9);
  return (float)(byte & 128u ? -value : value);
}

static uint16_t bfloat16_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1u)) >> 16);
}

static float float_of(mlxq_dtype dtype, const void *data, size_t index) {
  float value;
  mlxq_kernels(MLXQ_ISA_REF)->cast(dtype, MLXQ_F32, (const char *)data + index * mlxq_dtype_bits(dtype) / 8, &value, 1);
  return value;
}

/* Adds an FP8 matrix with the scales of its blocks; `dense` (which has its elements) gets what it stands for. */
static void add_fp8(mlxq_weights *weights, const char *name, uint64_t rows, uint64_t columns, mlxq_dtype scale_dtype,
                    uint16_t *dense) {
  char scale_name[64];
  uint64_t scale_columns = (columns + 127) / 128;
  snprintf(scale_name, sizeof scale_name, "%s_scale_inv", name);
  add_random(weights, name, MLXQ_F8_E4M3, SHAPE(rows, columns));
  add_random(weights, scale_name, scale_dtype, SHAPE((rows + 127) / 128, scale_columns));
  unsigned char *codes = bytes_of(weights, name);
  for (uint64_t i = 0; i < rows * columns; i++) {
    if ((codes[i] & 0x7Fu) == 0x7F) codes[i] = 0x7E; /* no NaN */
    uint64_t block = i / columns / 128 * scale_columns + i % columns / 128;
    float scale;
    if (scale_dtype == MLXQ_F32) {
      memcpy(&scale, bytes_of(weights, scale_name) + 4 * block, 4);
    } else {
      scale = float_of(scale_dtype, bytes_of(weights, scale_name), (size_t)block);
    }
    dense[i] = bfloat16_of(value_of_e4m3(codes[i]) * scale);
  }
}

static void test_run_fp8(void **state) {
  static const uint64_t SIZES[][2] = {{200, 300}, {128, 128}, {1, 1}, {129, 256}, {5, 416}};
  for (size_t s = 0; s < COUNT(SIZES); s++) {
    for (unsigned d = 0; d < 2; d++) {
      uint64_t rows = SIZES[s][0], columns = SIZES[s][1];
      mlxq_weights *in = new_weights(), *expected = new_weights();
      uint16_t *dense = malloc(3 * rows * columns * sizeof *dense);
      assert_non_null(dense);
      seed_random(110 + s);
      mlxq_dtype scales = d ? MLXQ_BF16 : MLXQ_F32;
      add_fp8(in, "l.experts.0.w1.weight", rows, columns, scales, dense);
      add_fp8(in, "l.experts.1.w1.weight", rows, columns, scales, dense + rows * columns);
      add_bytes(expected, "l.switch.gate.weight", MLXQ_BF16, SHAPE(2, rows, columns), dense);
      add_fp8(in, "q.weight", rows, columns, scales, dense);
      add_bytes(expected, "q.weight", MLXQ_BF16, SHAPE(rows, columns), dense);
      free(dense);
      check_run(*state, &FP8, "{}", in, expected);
    }
  }
}

/* kv_b_proj of FP8: pieces begin in the middle of blocks, and the first kind is transposed. */
static void test_run_fp8_kv_b(void **state) {
  static const mlxq_family_traits TRAITS = {.fp8 = true, .rules = KV_B_RULES};
  enum { HEADS = 3, NOPE = 64, V = 37, RANK = 192, ROWS = HEADS * (NOPE + V) };
  mlxq_weights *in = new_weights(), *expected = new_weights();
  uint16_t *dense = malloc(ROWS * RANK * sizeof *dense);
  const uint64_t shape[] = {ROWS, RANK};
  assert_non_null(dense);
  seed_random(120);
  add_fp8(in, "l.kv_b.weight", ROWS, RANK, MLXQ_F32, dense);
  mlxq_tensor tensor = {"", MLXQ_BF16, 2, shape, ROWS * RANK * sizeof *dense, dense};
  add_view(expected, "l.embed_q.weight", MLXQ_BF16, SHAPE(HEADS, RANK, NOPE), &tensor, 0,
           STRIDES((NOPE + V) * RANK, 1, RANK));
  add_view(expected, "l.unembed_out.weight", MLXQ_BF16, SHAPE(HEADS, V, RANK), &tensor, NOPE * RANK,
           STRIDES((NOPE + V) * RANK, RANK, 1));
  free(dense);
  check_run(*state, &TRAITS, "{\"num_attention_heads\": 3, \"qk_nope_head_dim\": 64, \"v_head_dim\": 37}", in,
            expected);
}

/* ---- Packed layers made of pieces, dense again ----------------------------------------------------------------- */

/* Adds what a packed tensor's rows give, by strides as add_view takes them. */
static void add_rows(mlxq_weights *packed, const char *name, const mlxq_tensor *from, uint64_t first, uint64_t stride,
                     uint64_t rows, uint64_t columns) {
  add_view(packed, name, from->dtype, SHAPE(rows, columns), from, first, STRIDES(stride, 1));
}

static mlxq_plan_request dense_request(const mlxq_checkpoint *checkpoint, const mlxq_model *model,
                                       const mlxq_quant_config *config) {
  return (mlxq_plan_request){.source = model->tensors,
                             .model = model,
                             .files = checkpoint->files,
                             .config = config,
                             .scale_only_dtype = MLXQ_BF16};
}

/* A folder whose public conversion gives `expected`, tensor for tensor. Releases both maps. */
static void check_dense(const void *folder, const char *config, mlxq_weights *in, mlxq_weights *expected) {
  mlxq_dequantize_options options = MLXQ_DEQUANTIZE_OPTIONS_INIT;
  mlxq_error error;
  make_folder(path_in(folder, "src"));
  write_text(path_in(folder, "src/config.json"), config);
  write_safetensors(path_in(folder, "src/model.safetensors"), in);
  for (unsigned threads = 1; threads <= 3; threads += 2) {
    options.common.threads = threads;
    options.common.force = threads > 1;
    if (mlxq_dequantize_checkpoint(NULL, path_in(folder, "src"), path_in(folder, "out"), &options, &error) != MLXQ_OK) {
      fail_msg("%s: %s: %s", error.file, error.key, error.message);
    }
    mlxq_weights *out = read_safetensors(path_in(folder, "out/model.safetensors"));
    assert_int_equal(mlxq_weights_count(out), mlxq_weights_count(expected));
    for (size_t i = 0; i < mlxq_weights_count(out); i++) {
      const mlxq_tensor *tensor = mlxq_weights_at(out, i);
      if (!mlxq_weights_find(expected, tensor->name)) fail_msg("%s is not expected", tensor->name);
      assert_same_tensor(tensor, mlxq_weights_find(expected, tensor->name));
    }
    mlxq_weights_free(out);
  }
  mlxq_weights_free(in);
  mlxq_weights_free(expected);
}

/* gpt-oss as it is published: rows of gate and up alternate, in blocks and in scales. */
static void test_dequantize_alternate_blocks(void **state) {
  enum { EXPERTS = 3, ROWS = 5, GROUPS = 2 };
  mlxq_weights *in = new_weights(), *rows = new_weights(), *expected = new_weights(), *dense = NULL;
  mlxq_quant_config *config = config_of(MLXQ_MXFP4, 4, 32);
  seed_random(130);
  add_random(in, "l.0.mlp.experts.gate_up_proj_blocks", MLXQ_U8, SHAPE(EXPERTS, 2 * ROWS, GROUPS, 16));
  add_random(in, "l.0.mlp.experts.gate_up_proj_scales", MLXQ_U8, SHAPE(EXPERTS, 2 * ROWS, GROUPS));
  mlxq_tensor words = *mlxq_weights_find(in, "l.0.mlp.experts.gate_up_proj_blocks");
  const mlxq_tensor *scales = mlxq_weights_find(in, "l.0.mlp.experts.gate_up_proj_scales");
  words.dtype = MLXQ_U32;
  for (uint64_t half = 0; half < 2; half++) {
    add_rows(rows, half ? "up.weight" : "gate.weight", &words, half * GROUPS * 4, GROUPS * 8, EXPERTS * ROWS,
             GROUPS * 4);
    add_rows(rows, half ? "up.scales" : "gate.scales", scales, half * GROUPS, GROUPS * 2, EXPERTS * ROWS, GROUPS);
  }
  assert_int_equal(mlxq_dequantize_weights(&dense, rows, config, NULL, NULL), MLXQ_OK);
  add_same(expected, "l.0.mlp.experts.gate_proj.weight", mlxq_weights_find(dense, "gate.weight"),
           SHAPE(EXPERTS, ROWS, GROUPS * 32));
  add_same(expected, "l.0.mlp.experts.up_proj.weight", mlxq_weights_find(dense, "up.weight"),
           SHAPE(EXPERTS, ROWS, GROUPS * 32));
  check_dense(*state, "{\"model_type\": \"gpt_oss\", \"quantization_config\": {\"quant_method\": \"mxfp4\"}}", in,
              expected);
  mlxq_weights_free(rows);
  mlxq_weights_free(dense);
  mlxq_quant_config_free(config);
}

/* Experts that were packed one by one, and are stacked now. */
static void test_dequantize_packed_experts(void **state) {
  static const mlxq_scheme SCHEME = {MLXQ_AFFINE, 3, 32};
  enum { ROWS = 6, COLUMNS = 96, ELEMS = ROWS * COLUMNS };
  static const char *const PARTS[] = {"weight", "scales", "biases"};
  mlxq_weights *in = new_weights(), *expected = new_weights();
  mlxq_quant_config *config = config_of(SCHEME.mode, SCHEME.bits, SCHEME.group_size);
  uint16_t stacked[3 * ELEMS];
  seed_random(140);
  for (size_t e = 0; e < 3; e++) {
    mlxq_weights *expert = new_weights(), *dense = NULL;
    add_triple(expert, "w", &SCHEME, SHAPE(ROWS, COLUMNS));
    for (size_t i = 0; i < COUNT(PARTS); i++) {
      char part[16], name[64];
      snprintf(part, sizeof part, "w.%s", PARTS[i]);
      snprintf(name, sizeof name, "l.0.block_sparse_moe.experts.%zu.w2.%s", e, PARTS[i]);
      const mlxq_tensor *tensor = mlxq_weights_find(expert, part);
      add_same(in, name, tensor, tensor->rank, tensor->shape);
    }
    assert_int_equal(mlxq_dequantize_weights(&dense, expert, config, NULL, NULL), MLXQ_OK);
    memcpy(stacked + e * ELEMS, mlxq_weights_find(dense, "w.weight")->data, ELEMS * sizeof *stacked);
    mlxq_weights_free(expert);
    mlxq_weights_free(dense);
  }
  add_bytes(expected, "l.0.block_sparse_moe.switch_mlp.down_proj.weight", MLXQ_BF16, SHAPE(3, ROWS, COLUMNS), stacked);
  check_dense(*state,
              "{\"model_type\": \"mixtral\", \"num_local_experts\": 3,"
              " \"quantization\": {\"group_size\": 32, \"bits\": 3}}",
              in, expected);
  mlxq_quant_config_free(config);
}

/* No family has such rules; a plan must not read rows by another's places. */
static void test_parts_that_are_not_stored_alike(void **state) {
  (void)state;
  static const mlxq_rule RULES[] = {TWO(RULE_ALTERNATE, ".gate_up.weight", ".gate.weight", ".up.weight"),
                                    TWO(RULE_HALVES, ".gate_up.scales", ".gate.scales", ".up.scales"), END_OF_RULES};
  static const mlxq_family_traits TRAITS = {.rules = RULES};
  mlxq_quant_config *config = config_of(MLXQ_MXFP4, 4, 32);
  mlxq_plan *plan = NULL;
  mlxq_error error;
  arranged result = arrange(
      &TRAITS, "{}", TOLD({"l.gate_up.weight", MLXQ_U32, 3, {2, 6, 8}}, {"l.gate_up.scales", MLXQ_U8, 3, {2, 6, 2}}));
  mlxq_plan_request request = dense_request(result.checkpoint, result.model, config);
  assert_int_equal(mlxq_plan_dequantize(&plan, &request, &error), MLXQ_UNSUPPORTED);
  assert_null(plan);
  assert_string_equal(error.layer, "l.gate");
  assert_string_equal(error.key, "l.gate.weight");
  assert_string_equal(error.message, "its parts are not stored alike");
  release(&result);
  mlxq_quant_config_free(config);
}

#define ON_DISK(function) cmocka_unit_test_setup_teardown(function, make_scratch, remove_scratch)

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_patterns),
      cmocka_unit_test(test_numbers_with_leading_zeros),
      cmocka_unit_test(test_no_traits),
      cmocka_unit_test(test_no_rules),
      cmocka_unit_test(test_names_change),
      cmocka_unit_test(test_two_tensors_of_one_name),
      cmocka_unit_test(test_a_refused_tensor),
      cmocka_unit_test(test_experts_in_any_order),
      cmocka_unit_test(test_eleven_experts),
      cmocka_unit_test(test_small_stacks),
      cmocka_unit_test(test_missing_experts),
      cmocka_unit_test(test_too_many_experts),
      cmocka_unit_test(test_counts_that_are_none),
      cmocka_unit_test(test_experts_that_differ),
      cmocka_unit_test(test_integers_beside_floats),
      cmocka_unit_test(test_dtypes_of_experts),
      cmocka_unit_test(test_odd_numbers_of_experts),
      cmocka_unit_test(test_a_stack_that_is_there_already),
      cmocka_unit_test(test_experts_of_too_many_axes),
      cmocka_unit_test(test_what_cannot_be_split),
      cmocka_unit_test(test_shapes_of_what_is_split),
      cmocka_unit_test(test_huge_empty_tensors),
      cmocka_unit_test(test_kv_b),
      cmocka_unit_test(test_kv_b_refusals),
      cmocka_unit_test(test_nested_numbers),
      cmocka_unit_test(test_when_one_is_added),
      cmocka_unit_test(test_block_scales),
      cmocka_unit_test(test_scales_that_are_none),
      cmocka_unit_test(test_a_matrix_without_scales),
      cmocka_unit_test(test_wrong_block_scales),
      cmocka_unit_test(test_fp8_experts),
      ON_DISK(test_run_stacks),
      ON_DISK(test_run_halves),
      ON_DISK(test_run_bytes),
      ON_DISK(test_run_transposes),
      ON_DISK(test_run_wide_transposes),
      ON_DISK(test_run_convolutions_and_norms),
      ON_DISK(test_run_kv_b),
      ON_DISK(test_run_fp8),
      ON_DISK(test_run_fp8_kv_b),
      ON_DISK(test_dequantize_alternate_blocks),
      ON_DISK(test_dequantize_packed_experts),
      cmocka_unit_test(test_parts_that_are_not_stored_alike),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
