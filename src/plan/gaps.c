#include "plan/gaps.h"

#include "base/error.h"
#include "base/text.h"

#include <stdlib.h>
#include <string.h>

/* Fewer layers show no habit; more of them with a gap are of another kind. */
enum { FEWEST_LAYERS = 4, MOST_LAYERS_WITH_GAPS = 8 };

typedef struct gaps {
  const mlxq_checkpoint *checkpoint;
  const mlxq_weights *tensors;
  const mlxq_flaws *notes;
  uint64_t layers;     /* num_hidden_layers */
  unsigned char *kind; /* of each layer, of these: */
  size_t judged;       /* layers that are PART or OTHER */
  mlxq_text name;
} gaps;

enum {
  ABSENT,
  PRESENT, /* has tensors */
  PART,    /* as well, and no .weight that the layer before it lacks */
  OTHER,   /* as well, and such a one */
};

/* The text model's layers. Towers beside it number theirs too, and have another count of them. */
static const char *const PREFIXES[] = {"model.layers.", "language_model.model.layers.", "model.language_model.layers.",
                                       "backbone.layers."};

/* A name taken apart: prefix, number, rest. False where it is of no layer below num_hidden_layers. */
static bool split(const gaps *g, const char *name, size_t *prefix, uint64_t *number, const char **rest) {
  for (size_t i = 0; i < sizeof PREFIXES / sizeof *PREFIXES; i++) {
    *prefix = strlen(PREFIXES[i]);
    if (strncmp(name, PREFIXES[i], *prefix) != 0) continue;
    const char *digits = name + *prefix;
    size_t length = strspn(digits, "0123456789");
    if (length == 0 || length > 9 || digits[length] != '.' || (digits[0] == '0' && length > 1)) return false;
    *number = strtoull(digits, NULL, 10);
    *rest = digits + length;
    return *number < g->layers;
  }
  return false;
}

/* Whether a layer has the tensor that `name` is of its own; leaves its name in g->name. */
static bool has(gaps *g, const char *name, size_t prefix, uint64_t number, const char *rest) {
  mlxq_text_set(&g->name, name, prefix);
  mlxq_text_printf(&g->name, "%llu%s", (unsigned long long)number, rest);
  return !g->name.failed && mlxq_weights_index(g->tensors, g->name.data, g->name.length) != SIZE_MAX;
}

static bool is_weight(const char *name) {
  size_t length;
  return mlxq_name_splits(name, ".weight", &length);
}

static bool is_part(gaps *g, uint64_t layer) {
  size_t prefix;
  uint64_t number;
  const char *rest;
  if (g->kind[layer] != PRESENT) return g->kind[layer] == PART;
  if (g->judged >= MOST_LAYERS_WITH_GAPS) return false;
  g->judged++;
  g->kind[layer] = PART;
  for (size_t i = 0; g->kind[layer] == PART && i < g->tensors->count; i++) {
    const char *name = g->tensors->entries[i].tensor.name;
    if (!split(g, name, &prefix, &number, &rest) || number != layer || !is_weight(name)) continue;
    if (!has(g, name, prefix, (layer > 0 ? layer : g->layers) - 1, rest)) g->kind[layer] = OTHER;
  }
  return g->kind[layer] == PART;
}

static mlxq_status tell_gap(gaps *g, const char *name, size_t prefix, uint64_t lacking, const char *rest,
                            mlxq_error *error) {
  size_t length;
  mlxq_error note;
  has(g, name, prefix, lacking, rest);
  if (g->name.failed) return mlxq_fail_memory(error);
  char *layer =
      mlxq_name_splits(g->name.data, ".weight", &length) ? mlxq_asprintf("%.*s", (int)length, g->name.data) : NULL;
  if (!layer) return mlxq_fail_memory(error);
  mlxq_fail(&note, MLXQ_MISSING_KEY, layer, g->name.data, "missing: all the other %llu layers have it",
            (unsigned long long)g->layers - 1);
  mlxq_error_at_file(&note, note.status, g->checkpoint->path);
  g->notes->add(g->notes->user, &note);
  free(layer);
  return MLXQ_OK;
}

/* Looks through all layers for what the tensor `name` is of its own: once, from layer 0, or from layer 1 where that
 * lacks it. Every look but two finds a tensor that no other search does, so all searches together are linear. */
static mlxq_status search_layers(gaps *g, const char *name, mlxq_error *error) {
  size_t prefix, lacking = 0;
  uint64_t number, layer = 0;
  const char *rest;
  mlxq_status status = mlxq_cancel_check(&g->checkpoint->cancel, error);
  if (!split(g, name, &prefix, &number, &rest) || number > 1 || !is_weight(name)) return status;
  if (number == 1 && has(g, name, prefix, 0, rest)) return status;
  for (uint64_t i = 0; status == MLXQ_OK && lacking < 2 && i < g->layers; i++) {
    status = mlxq_cancel_check(&g->checkpoint->cancel, error);
    if (has(g, name, prefix, i, rest)) continue;
    lacking++;
    layer = i;
  }
  if (status == MLXQ_OK && lacking == 1 && g->kind[layer] != ABSENT && is_part(g, layer)) {
    status = tell_gap(g, name, prefix, layer, rest, error);
  }
  return status == MLXQ_OK && g->name.failed ? mlxq_fail_memory(error) : status;
}

static void tell_absent(const gaps *g) {
  uint64_t absent = 0, first = 0;
  mlxq_error note;
  for (uint64_t i = 0; i < g->layers; i++) {
    if (g->kind[i] == ABSENT && absent++ == 0) first = i;
  }
  if (absent == 0 || absent == g->layers) return;
  mlxq_fail(&note, MLXQ_MISSING_KEY, NULL, "num_hidden_layers",
            "is %llu, but %llu of these layers have no tensors; the first is %llu", (unsigned long long)g->layers,
            (unsigned long long)absent, (unsigned long long)first);
  mlxq_error_at_file(&note, note.status, g->checkpoint->config_path);
  g->notes->add(g->notes->user, &note);
}

static bool find_layer_count(gaps *g) {
  struct json_object *config = g->checkpoint->config, *inner = NULL, *count = NULL;
  if (json_object_object_get_ex(config, "text_config", &inner) && json_object_is_type(inner, json_type_object)) {
    config = inner;
  }
  if (!json_object_object_get_ex(config, "num_hidden_layers", &count) || !json_object_is_type(count, json_type_int)) {
    return false;
  }
  int64_t layers = json_object_get_int64(count);
  /* Each layer has a tensor, so that the count does not tell how long this takes. */
  if (layers < FEWEST_LAYERS || (uint64_t)layers > g->tensors->count) return false;
  g->layers = (uint64_t)layers;
  return true;
}

mlxq_status mlxq_find_gaps(const mlxq_checkpoint *checkpoint, const mlxq_flaws *notes, mlxq_error *error) {
  gaps g = {.checkpoint = checkpoint, .tensors = checkpoint->tensors, .notes = notes};
  mlxq_status status = MLXQ_OK;
  size_t prefix;
  uint64_t number;
  const char *rest;
  if (!checkpoint->config || !find_layer_count(&g)) return MLXQ_OK;
  g.kind = mlxq_calloc((size_t)g.layers, 1);
  if (!g.kind) return mlxq_fail_memory(error);
  for (size_t i = 0; i < g.tensors->count; i++) {
    if (split(&g, g.tensors->entries[i].tensor.name, &prefix, &number, &rest)) g.kind[number] = PRESENT;
  }
  tell_absent(&g);
  for (size_t i = 0; status == MLXQ_OK && i < g.tensors->count; i++) {
    status = search_layers(&g, g.tensors->entries[i].tensor.name, error);
  }
  mlxq_text_free(&g.name);
  free(g.kind);
  return status;
}
