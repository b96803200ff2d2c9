#include "plan/select.h"

#include "base/error.h"
#include "base/text.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

/* mlx-lm's mixed recipes: low bits, and more for the layers that matter most. */
typedef struct recipe {
  const char *name;
  int32_t low_bits, high_bits;
} recipe;

static const recipe RECIPES[] = {{"mixed_2_6", 2, 6}, {"mixed_3_4", 3, 4}, {"mixed_3_6", 3, 6}, {"mixed_4_6", 4, 6}};

/* What a recipe needs to know of the model. */
typedef struct recipe_state {
  const recipe *recipe;  /* NULL: none */
  size_t layer_position; /* which part of a path is the layer number */
  int64_t layer_count;
} recipe_state;

typedef struct select_state {
  mlxq_selection *selection;
  const mlxq_weights *tensors;
  const mlxq_quant_config *existing;
  const mlxq_quantize_options *options;
  mlxq_scheme fallback;
  recipe_state recipe;
  bool *skip_matched, *override_matched;
} select_state;

static bool matches(const char *pattern, const char *layer) {
  return fnmatch(pattern, layer, FNM_NOESCAPE) == 0;
}

enum { MAX_LAYER_NUMBER = 1000000000 };

/* The number in part `position` of a dotted path, cut at MAX_LAYER_NUMBER; 0 where there is no such part or it is none.
 */
static int64_t number_at(const char *path, size_t position) {
  for (; position > 0; position--) {
    path = strchr(path, '.');
    if (!path) return 0;
    path++;
  }
  long long number = strtoll(path, NULL, 10);
  return number < 0 ? 0 : number > MAX_LAYER_NUMBER ? MAX_LAYER_NUMBER : number;
}

/* The position of the first part of a path that is a number. */
static size_t number_position(const char *path) {
  size_t position = 0;
  for (const char *part = path;; position++) {
    size_t length = strcspn(part, ".");
    if (length > 0 && strspn(part, "0123456789") == length) return position;
    if (!part[length]) return position;
    part += length + 1;
  }
}

static mlxq_status prepare_recipe(select_state *state, mlxq_error *error) {
  const char *name = state->options->recipe;
  recipe_state *found = &state->recipe;
  if (!name) return MLXQ_OK;
  for (size_t i = 0; i < sizeof RECIPES / sizeof *RECIPES; i++) {
    if (strcmp(name, RECIPES[i].name) == 0) found->recipe = &RECIPES[i];
  }
  if (!found->recipe) {
    return mlxq_fail(error, MLXQ_USAGE, NULL, "recipe",
                     "unknown recipe '%s'; mixed_2_6, mixed_3_4, mixed_3_6 and mixed_4_6 are known", name);
  }
  if (state->fallback.mode != MLXQ_AFFINE) {
    return mlxq_fail(error, MLXQ_USAGE, NULL, "recipe", "recipes are for the affine mode only");
  }
  bool has_down_proj = false;
  for (size_t i = 0; i < state->tensors->count; i++) {
    const char *tensor = state->tensors->entries[i].tensor.name;
    if (!strstr(tensor, "down_proj")) continue;
    if (!has_down_proj) found->layer_position = number_position(tensor);
    has_down_proj = true;
  }
  if (!has_down_proj) {
    return mlxq_fail(error, MLXQ_UNSUPPORTED, NULL, "recipe",
                     "recipes need layers named down_proj, and this model has none");
  }
  for (size_t i = 0; i < state->tensors->count; i++) {
    const char *tensor = state->tensors->entries[i].tensor.name;
    if (!strstr(tensor, "down_proj")) continue;
    int64_t number = number_at(tensor, found->layer_position);
    if (number >= found->layer_count) found->layer_count = number + 1;
  }
  return MLXQ_OK;
}

/* The formula is mlx-lm's (mlx_lm/convert.py, mixed_quant_predicate_builder). */
static int32_t recipe_bits(const recipe_state *state, const char *layer) {
  int64_t index = number_at(layer, state->layer_position), eighth = state->layer_count / 8;
  bool more = index < eighth || index >= 7 * state->layer_count / 8 || (index - eighth) % 3 == 2;
  bool value = strstr(layer, "v_proj") || strstr(layer, "v_a_proj") || strstr(layer, "v_b_proj");
  bool high = (more && (value || strstr(layer, "down_proj"))) || strstr(layer, "lm_head");
  return high ? state->recipe->high_bits : state->recipe->low_bits;
}

static mlxq_status set_option(select_state *state, const char *layer, const mlxq_layer_option *option,
                              mlxq_error *error) {
  mlxq_status status = mlxq_quant_config_set_layer(state->selection->config, layer, option, error);
  if (status == MLXQ_OK) status = mlxq_quant_config_set_layer(state->selection->added, layer, option, error);
  if (status != MLXQ_USAGE) return status;
  return mlxq_fail(error, MLXQ_UNSUPPORTED, layer, NULL, "a layer of this name cannot have an entry in config.json");
}

static mlxq_status set_scheme(select_state *state, const char *layer, const mlxq_tensor *weight,
                              const mlxq_layer_option *option, mlxq_error *error) {
  uint64_t last = weight->shape[weight->rank - 1];
  mlxq_status status = mlxq_scheme_check(&option->scheme, error);
  if (status != MLXQ_OK) return mlxq_error_at_layer(error, status, layer);
  if (last % (uint64_t)option->scheme.group_size != 0) {
    return mlxq_fail(error, MLXQ_NOT_DIVISIBLE, layer, "group_size", "%d does not divide the last axis, %llu",
                     option->scheme.group_size, (unsigned long long)last);
  }
  return set_option(state, layer, option, error);
}

/* Decides on one dense layer. */
static mlxq_status select_layer(select_state *state, const char *layer, const mlxq_tensor *weight, mlxq_error *error) {
  const mlxq_quantize_options *options = state->options;
  mlxq_layer_option option = {.kind = MLXQ_LAYER_SCHEME, .scheme = state->fallback};
  bool eligible = mlxq_selection_eligible(state->selection, layer, weight), skipped = false, decided = false;
  for (size_t i = 0; i < options->skip_count; i++) {
    if (!matches(options->skips[i], layer)) continue;
    state->skip_matched[i] = skipped = true;
  }
  for (size_t i = 0; eligible && i < options->override_count; i++) {
    if (!matches(options->overrides[i].pattern, layer)) continue;
    state->override_matched[i] = decided = true;
    option.scheme = options->overrides[i].scheme;
  }
  if (!eligible || !mlxq_dtype_is_floating(weight->dtype)) return MLXQ_OK;
  if (skipped) {
    option.kind = MLXQ_LAYER_SKIP;
    return set_option(state, layer, &option, error);
  }
  if (decided) return set_scheme(state, layer, weight, &option, error);
  /* What the source says of a layer stays; its default does not speak for layers that are dense in it. */
  if (state->existing && mlxq_quant_config_layer(state->existing, layer)) return MLXQ_OK;
  if (state->recipe.recipe) {
    option.scheme.bits = recipe_bits(&state->recipe, layer);
    return set_scheme(state, layer, weight, &option, error);
  }
  if (state->selection->family && mlxq_family_option(state->selection->family, layer, &option)) {
    return set_scheme(state, layer, weight, &option, error);
  }
  return state->existing ? set_scheme(state, layer, weight, &option, error) : MLXQ_OK;
}

static mlxq_status select_layers(select_state *state, mlxq_error *error) {
  mlxq_text path = {0};
  mlxq_status status = MLXQ_OK;
  for (size_t i = 0; status == MLXQ_OK && i < state->tensors->count; i++) {
    const mlxq_tensor *weight = &state->tensors->entries[i].tensor;
    size_t length = 0;
    if (!mlxq_name_splits(weight->name, ".weight", &length)) continue;
    mlxq_text_set(&path, weight->name, length);
    if (path.failed) {
      status = mlxq_fail_memory(error);
    } else if (!mlxq_weights_part(state->tensors, weight->name, length, ".scales")) {
      status = select_layer(state, path.data, weight, error);
    } else if (state->selection->family && !state->existing) {
      status = mlxq_fail(error, MLXQ_INVARIANT, path.data, NULL,
                         "the layer has scales, but config.json does not say how it is quantized");
    }
  }
  mlxq_text_free(&path);
  return status;
}

static mlxq_status check_patterns(const select_state *state, mlxq_error *error) {
  const mlxq_quantize_options *options = state->options;
  for (size_t i = 0; i < options->skip_count; i++) {
    if (!state->skip_matched[i]) {
      return mlxq_fail(error, MLXQ_UNKNOWN_VALUE, NULL, "skip",
                       "'%s' matches no dense layer; a pattern is for whole paths, as in model.layers.*.mlp.down_proj",
                       options->skips[i]);
    }
  }
  for (size_t i = 0; i < options->override_count; i++) {
    if (!state->override_matched[i]) {
      return mlxq_fail(error, MLXQ_UNKNOWN_VALUE, NULL, "override",
                       "'%s' matches no layer that can be quantized; a pattern is for whole paths, as in "
                       "model.layers.*.mlp.down_proj",
                       options->overrides[i].pattern);
    }
  }
  return MLXQ_OK;
}

/* The planner's configuration starts as the source's, or as the default alone. */
static mlxq_status start_configs(mlxq_selection *selection, const mlxq_scheme *fallback,
                                 const mlxq_quant_config *existing, mlxq_error *error) {
  const mlxq_scheme *base = existing ? mlxq_quant_config_default(existing) : fallback;
  mlxq_status status = mlxq_quant_config_new(&selection->config, base, error);
  if (status == MLXQ_OK) status = mlxq_quant_config_new(&selection->added, base, error);
  size_t count = existing ? mlxq_quant_config_layer_count(existing) : 0;
  for (size_t i = 0; status == MLXQ_OK && i < count; i++) {
    const mlxq_layer_option *option = NULL;
    const char *path = mlxq_quant_config_layer_at(existing, i, &option);
    status = mlxq_quant_config_set_layer(selection->config, path, option, error);
  }
  return status;
}

mlxq_status mlxq_select(mlxq_selection *selection, const mlxq_weights *tensors, const mlxq_family *family,
                        const mlxq_quant_config *existing, const mlxq_quantize_options *options, mlxq_error *error) {
  select_state state = {.selection = selection,
                        .tensors = tensors,
                        .existing = existing,
                        .options = options,
                        .fallback = mlxq_scheme_complete(&options->scheme)};
  *selection = (mlxq_selection){.family = family, .group_size = state.fallback.group_size};
  mlxq_status status = mlxq_scheme_check(&state.fallback, error);
  if (status != MLXQ_OK) return status;
  state.skip_matched = mlxq_calloc(options->skip_count, sizeof(bool));
  state.override_matched = mlxq_calloc(options->override_count, sizeof(bool));
  status = state.skip_matched && state.override_matched ? MLXQ_OK : mlxq_fail_memory(error);
  if (status == MLXQ_OK) status = start_configs(selection, &state.fallback, existing, error);
  if (status == MLXQ_OK) status = prepare_recipe(&state, error);
  if (status == MLXQ_OK) status = select_layers(&state, error);
  if (status == MLXQ_OK) status = check_patterns(&state, error);
  free(state.skip_matched);
  free(state.override_matched);
  if (status != MLXQ_OK) mlxq_selection_free(selection);
  return status;
}

void mlxq_selection_free(mlxq_selection *selection) {
  mlxq_quant_config_free(selection->config);
  mlxq_quant_config_free(selection->added);
  *selection = (mlxq_selection){0};
}

bool mlxq_selection_eligible(void *user, const char *layer, const mlxq_tensor *weight) {
  const mlxq_selection *selection = user;
  if (weight->rank < 2 || weight->shape[weight->rank - 1] % (uint64_t)selection->group_size != 0) return false;
  return !selection->family || mlxq_family_quantizes(selection->family, layer, weight);
}
