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
  const mlxq_flaws *defects, *notes;
  struct json_object *config;                 /* of the text model */
  uint64_t layers;                            /* num_hidden_layers */
  uint64_t known;                             /* layers that are looked at: no more than can have a tensor, and one */
  unsigned char *kind;                        /* of each of them, of these: */
  size_t judged;                              /* layers that are PART or OTHER */
  bool has_numbers, has_embeddings, has_norm; /* of the tensors that are of none of them */
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

/* A name taken apart: prefix, number, rest. False where it is of no layer that is looked at. */
static bool split(const gaps *g, const char *name, size_t *prefix, uint64_t *number, const char **rest) {
  for (size_t i = 0; i < sizeof PREFIXES / sizeof *PREFIXES; i++) {
    *prefix = strlen(PREFIXES[i]);
    if (strncmp(name, PREFIXES[i], *prefix) != 0) continue;
    const char *digits = name + *prefix;
    size_t length = strspn(digits, "0123456789");
    if (length == 0 || length > 9 || digits[length] != '.' || (digits[0] == '0' && length > 1)) return false;
    *number = strtoull(digits, NULL, 10);
    *rest = digits + length;
    return *number < g->known;
  }
  return false;
}

/* Whether a part of a name is a number. */
static bool has_number(const char *name) {
  while (name) {
    size_t length = strcspn(name, ".");
    if (length > 0 && strspn(name, "0123456789") >= length) return true;
    name = name[length] ? name + length + 1 : NULL;
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

static void tell(const mlxq_flaws *taker, mlxq_error *flaw, const char *file) {
  mlxq_error_at_file(flaw, flaw->status, file);
  taker->add(taker->user, flaw);
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
  tell(g->notes, &note, g->checkpoint->path);
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

/* What is beside the layers, by the words that all families' names have: embed_tokens, word_embeddings, wte; norm,
 * final_layernorm, ln_f. */
static void look_beside(gaps *g, const char *name) {
  if (has_number(name)) {
    g->has_numbers = true; /* layers beyond the last, another tower's, or layers of another name */
    return;
  }
  g->has_embeddings = g->has_embeddings || strstr(name, "emb") || strstr(name, "wte");
  g->has_norm = g->has_norm || strstr(name, "norm") || strstr(name, "ln_f");
}

static void tell_ends(const gaps *g) {
  mlxq_error note;
  if (g->has_embeddings == g->has_norm) return;
  mlxq_fail(&note, MLXQ_MISSING_KEY, NULL, g->has_norm ? "embed_tokens" : "norm",
            "missing: no tensor beside the layers has such a name");
  tell(g->notes, &note, g->checkpoint->path);
}

/* How many layers have no tensors, and the first of them. */
static uint64_t count_absent(const gaps *g, uint64_t *first) {
  uint64_t absent = g->layers - g->known;
  *first = g->known;
  for (uint64_t i = g->known; i > 0; i--) {
    if (g->kind[i - 1] != ABSENT) continue;
    absent++;
    *first = i - 1;
  }
  return absent;
}

/* Layers without tensors. Where all are, they may have other names. Some models have layers that do nothing: their
 * `block_configs` say which. */
static void tell_absent(const gaps *g, uint64_t absent, uint64_t first) {
  mlxq_error flaw;
  bool is_text_model = g->has_embeddings || g->has_norm || g->tensors->count == 0;
  bool may_have_other_names = absent == g->layers && (g->has_numbers || !is_text_model);
  if (absent == 0 || may_have_other_names) return;
  mlxq_fail(&flaw, MLXQ_MISSING_KEY, NULL, "num_hidden_layers", "is %llu, but layer %llu has no tensors%s",
            (unsigned long long)g->layers, (unsigned long long)first,
            absent > 1 ? ", and others have none either" : "");
  bool may_be = json_object_object_get_ex(g->config, "block_configs", NULL);
  tell(may_be ? g->notes : g->defects, &flaw, g->checkpoint->config_path);
}

/* A positive number under a key, or 0. */
static uint64_t count_under(struct json_object *config, const char *key) {
  struct json_object *count = NULL;
  if (!json_object_object_get_ex(config, key, &count) || !json_object_is_type(count, json_type_int)) return 0;
  int64_t value = json_object_get_int64(count);
  return value > 0 ? (uint64_t)value : 0;
}

static bool find_layer_count(gaps *g) {
  struct json_object *inner = NULL;
  g->config = g->checkpoint->config;
  if (json_object_object_get_ex(g->config, "text_config", &inner) && json_object_is_type(inner, json_type_object)) {
    g->config = inner;
  }
  g->layers = count_under(g->config, "num_hidden_layers");
  if (g->layers == 0) return false;
  /* longcat_flash counts two for each that has a name of its own. */
  uint64_t named = count_under(g->config, "num_layers");
  if (named > 0 && named < g->layers) g->layers = named;
  g->known = g->layers <= g->tensors->count ? g->layers : g->tensors->count + 1;
  return true;
}

/* What one layer lacks and all the others have. */
static mlxq_status search_all_layers(gaps *g, mlxq_error *error) {
  mlxq_status status = MLXQ_OK;
  if (g->layers < FEWEST_LAYERS || g->known < g->layers) return MLXQ_OK;
  for (size_t i = 0; status == MLXQ_OK && i < g->tensors->count; i++) {
    status = search_layers(g, g->tensors->entries[i].tensor.name, error);
  }
  return status;
}

mlxq_status mlxq_find_gaps(const mlxq_checkpoint *checkpoint, const mlxq_flaws *defects, const mlxq_flaws *notes,
                           mlxq_error *error) {
  gaps g = {.checkpoint = checkpoint, .tensors = checkpoint->tensors, .defects = defects, .notes = notes};
  size_t prefix;
  uint64_t number;
  const char *rest;
  if (!checkpoint->config || !find_layer_count(&g)) return MLXQ_OK;
  g.kind = mlxq_calloc((size_t)g.known, 1);
  if (!g.kind) return mlxq_fail_memory(error);
  for (size_t i = 0; i < g.tensors->count; i++) {
    const char *name = g.tensors->entries[i].tensor.name;
    if (split(&g, name, &prefix, &number, &rest)) {
      g.kind[number] = PRESENT;
    } else {
      look_beside(&g, name);
    }
  }
  uint64_t first, absent = count_absent(&g, &first);
  if (absent < g.layers) tell_ends(&g);
  tell_absent(&g, absent, first);
  mlxq_status status = search_all_layers(&g, error);
  mlxq_text_free(&g.name);
  free(g.kind);
  return status;
}
