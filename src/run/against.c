#include "run/against.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE_BYTES = 16 << 10, NO_TENSOR = -1 };

/* What a made tensor is compared with, and how that went. */
typedef struct match {
  int64_t tensor;            /* of the checkpoint; NO_TENSOR: not compared */
  uint64_t different, first; /* elements, and the index of the first */
} match;

typedef struct comparer {
  const mlxq_structure *structure;
  const mlxq_weights *tensors; /* of the checkpoint */
  const mlxq_flaws *defects, *notes;
  mlxq_plan *plan;
  pthread_mutex_t lock; /* for the counts */
  match *matches;       /* of each output */
  uint64_t not_given;   /* tensors of the checkpoint that the dense original does not give */
  /* Floating tensors that both have, of one shape: all, and those of another dtype, by the dtype they are here. */
  uint64_t floating, other_dtype[MLXQ_DTYPE_COUNT];
} comparer;

static const mlxq_source_file *file_of(const comparer *c, size_t tensor) {
  return &c->structure->checkpoint->files[c->tensors->entries[tensor].file];
}

/* The length of the path of the layer that a tensor is a part of; its whole name where it is of none. */
static size_t layer_length(const char *name) {
  static const char *const PARTS[] = {".weight", ".scales", ".biases"};
  size_t length = strlen(name);
  for (size_t i = 0; i < sizeof PARTS / sizeof *PARTS; i++) {
    if (mlxq_name_splits(name, PARTS[i], &length)) break;
  }
  return length;
}

/* ---- Schemes --------------------------------------------------------------------------------------------------- */

static bool is_quantized_here(void *user, const char *layer, const mlxq_tensor *weight) {
  (void)weight;
  return mlxq_structure_is_sound(user, layer, strlen(layer));
}

/* The scheme of a layer that no configuration tells of, by what its last axis is dense and packed. */
static bool find_scheme(mlxq_scheme *scheme, const comparer *c, const char *layer, size_t length,
                        const mlxq_tensor *dense) {
  const mlxq_tensor *weight = mlxq_weights_part(c->tensors, layer, length, ".weight");
  const mlxq_tensor *scales = mlxq_weights_part(c->tensors, layer, length, ".scales");
  if (dense->rank != weight->rank) return false;
  uint64_t elems = dense->shape[dense->rank - 1], words = weight->shape[weight->rank - 1];
  uint64_t groups = scales->shape[scales->rank - 1];
  if (groups == 0 || elems == 0 || elems % groups != 0 || elems / groups > 128) return false;
  *scheme = (mlxq_scheme){MLXQ_AFFINE, 0, (int32_t)(elems / groups)};
  for (int32_t bits = 2; bits <= 8; bits++) {
    uint64_t rest = elems % 32 * (uint64_t)bits;
    if (rest % 32 == 0 && elems / 32 * (uint64_t)bits + rest / 32 == words) scheme->bits = bits;
  }
  if (scales->dtype == MLXQ_U8) {
    scheme->mode = scheme->group_size == 16 ? MLXQ_NVFP4 : scheme->bits == 8 ? MLXQ_MXFP8 : MLXQ_MXFP4;
  }
  return mlxq_scheme_check(scheme, NULL) == MLXQ_OK;
}

/* The configuration for a checkpoint that has none: each layer with its own scheme. */
static mlxq_status make_config(mlxq_quant_config **config, const comparer *c, const mlxq_weights *dense,
                               mlxq_error *error) {
  mlxq_status status = mlxq_quant_config_new(config, NULL, error);
  for (size_t i = 0; status == MLXQ_OK && i < dense->count; i++) {
    const mlxq_tensor *weight = &dense->entries[i].tensor;
    mlxq_layer_option option = {.kind = MLXQ_LAYER_SCHEME};
    size_t length = 0;
    if (!mlxq_name_splits(weight->name, ".weight", &length) ||
        !mlxq_structure_is_sound(c->structure, weight->name, length) ||
        !find_scheme(&option.scheme, c, weight->name, length, weight)) {
      continue;
    }
    char *layer = mlxq_asprintf("%.*s", (int)length, weight->name);
    status = layer ? mlxq_quant_config_set_layer(*config, layer, &option, error) : mlxq_fail_memory(error);
    free(layer);
    if (status == MLXQ_USAGE) status = MLXQ_OK; /* a name that no configuration can have: it stays dense */
  }
  return status;
}

/* ---- Descriptions ---------------------------------------------------------------------------------------------- */

/* "U32 [64, 8]" */
static void format_shape(char *text, size_t bytes, const mlxq_tensor *tensor) {
  size_t used = (size_t)snprintf(text, bytes, "%s [", mlxq_dtype_name(tensor->dtype));
  for (uint32_t i = 0; i < tensor->rank && used < bytes; i++) {
    used += (size_t)snprintf(text + used, bytes - used, "%s%" PRIu64, i > 0 ? ", " : "", tensor->shape[i]);
  }
  if (used < bytes) snprintf(text + used, bytes - used, "]");
}

/* Tells of a tensor of the checkpoint (`index`), or of one that it lacks (NO_TENSOR). */
static mlxq_status tell(const comparer *c, int64_t index, const char *name, mlxq_status status, const char *reason,
                        mlxq_error *error) {
  mlxq_error flaw;
  size_t length = layer_length(name);
  char *layer = mlxq_asprintf("%.*s", name[length] ? (int)length : 0, name);
  if (!layer) return mlxq_fail_memory(error);
  const char *file = index == NO_TENSOR ? c->structure->checkpoint->path : file_of(c, (size_t)index)->path;
  mlxq_error_at_file(&flaw, mlxq_fail(&flaw, status, layer, name, "%s", reason), file);
  c->defects->add(c->defects->user, &flaw);
  free(layer);
  return MLXQ_OK;
}

/* Whether a layer's triple is broken, which has been told: nothing of it is compared. */
static bool is_broken(const comparer *c, const char *name) {
  size_t length = layer_length(name);
  return name[length] && mlxq_weights_part(c->tensors, name, length, ".scales") &&
         !mlxq_structure_is_sound(c->structure, name, length);
}

static bool same_shape(const mlxq_tensor *a, const mlxq_tensor *b) {
  return a->rank == b->rank && (a->rank == 0 || memcmp(a->shape, b->shape, a->rank * sizeof *a->shape) == 0);
}

/* Finds what an output is to be compared with. */
static mlxq_status find_match(match *found, comparer *c, const mlxq_tensor *made, mlxq_error *error) {
  char reason[MLXQ_ERROR_MESSAGE_BYTES], shapes[2][MLXQ_ERROR_MESSAGE_BYTES / 2 - 64];
  size_t index = mlxq_weights_index(c->tensors, made->name, strlen(made->name));
  *found = (match){.tensor = NO_TENSOR};
  if (is_broken(c, made->name)) return MLXQ_OK;
  if (index == SIZE_MAX) {
    if (!c->structure->complete) return MLXQ_OK;
    return tell(c, NO_TENSOR, made->name, MLXQ_MISSING_KEY, "missing: the dense original gives it", error);
  }
  const mlxq_tensor *here = &c->tensors->entries[index].tensor;
  bool same_dtype = here->dtype == made->dtype;
  if (same_shape(here, made)) {
    bool floating = mlxq_dtype_is_floating(here->dtype) && mlxq_dtype_is_floating(made->dtype);
    c->floating += floating;
    c->other_dtype[here->dtype] += floating && !same_dtype;
    if (same_dtype) {
      found->tensor = (int64_t)index;
      return MLXQ_OK;
    }
  }
  format_shape(shapes[0], sizeof shapes[0], here);
  format_shape(shapes[1], sizeof shapes[1], made);
  snprintf(reason, sizeof reason, "is %s, but the dense original gives %s", shapes[0], shapes[1]);
  return tell(c, (int64_t)index, made->name, same_dtype ? MLXQ_SHAPE_MISMATCH : MLXQ_UNSUPPORTED_DTYPE, reason, error);
}

/* Where most floating tensors have one other dtype, the checkpoint was likely made with that one. */
static void hint_at_dtype(const comparer *c) {
  for (int i = 0; i < MLXQ_DTYPE_COUNT; i++) {
    const char *cast = mlxq_torch_dtype_name((mlxq_dtype)i);
    uint64_t others = c->other_dtype[i];
    mlxq_error note;
    if (!cast || others <= c->floating / 2) continue;
    mlxq_fail(&note, MLXQ_UNSUPPORTED_DTYPE, NULL, "dtype",
              "%" PRIu64 " of %" PRIu64
              " floating tensors are %s, and the dense original gives another dtype; "
              "--dtype %s casts it first",
              others, c->floating, mlxq_dtype_name((mlxq_dtype)i), cast);
    mlxq_error_at_file(&note, note.status, c->structure->checkpoint->path);
    c->notes->add(c->notes->user, &note);
  }
}

static mlxq_status find_matches(comparer *c, mlxq_error *error) {
  const mlxq_weights *made = c->plan->outputs;
  mlxq_status status = MLXQ_OK;
  c->matches = mlxq_calloc(made->count, sizeof *c->matches);
  if (!c->matches) return mlxq_fail_memory(error);
  for (size_t i = 0; status == MLXQ_OK && i < made->count; i++) {
    status = find_match(&c->matches[i], c, &made->entries[i].tensor, error);
  }
  for (size_t i = 0; status == MLXQ_OK && i < c->tensors->count; i++) {
    const char *name = c->tensors->entries[i].tensor.name;
    if (mlxq_weights_index(made, name, strlen(name)) != SIZE_MAX) continue;
    c->not_given++;
    if (is_broken(c, name)) continue;
    status = tell(c, (int64_t)i, name, MLXQ_KEY_COLLISION, "the dense original does not give it", error);
  }
  return status;
}

/* ---- Bytes ----------------------------------------------------------------------------------------------------- */

/* Adds the elements of a piece that differ to the tensor's counts. */
static void count_different(comparer *c, size_t output, uint64_t offset, const unsigned char *made,
                            const unsigned char *here, size_t bytes) {
  match *sum = &c->matches[output];
  size_t elem_bytes = mlxq_dtype_bits(c->plan->outputs->entries[output].tensor.dtype) / 8;
  uint64_t different = 0, first = 0;
  if (elem_bytes == 0) elem_bytes = 1;
  for (size_t at = 0; at < bytes; at += elem_bytes) {
    if (memcmp(made + at, here + at, elem_bytes) == 0) continue;
    if (different++ == 0) first = (offset + at) / elem_bytes;
  }
  pthread_mutex_lock(&c->lock);
  if (sum->different == 0 || first < sum->first) sum->first = first;
  sum->different += different;
  pthread_mutex_unlock(&c->lock);
}

/* The sink: compares what was made with what the checkpoint holds at the same place. */
static mlxq_status compare(void *user, size_t output, uint64_t offset, const void *data, size_t bytes,
                           mlxq_error *error) {
  comparer *c = user;
  unsigned char here[PIECE_BYTES];
  int fd = -1;
  if (c->matches[output].tensor == NO_TENSOR) return MLXQ_OK;
  const mlxq_tensor_entry *entry = &c->tensors->entries[c->matches[output].tensor];
  const mlxq_source_file *file = file_of(c, (size_t)c->matches[output].tensor);
  mlxq_status status = mlxq_file_reopen(&fd, &file->identity, file->path, error);
  for (size_t at = 0; status == MLXQ_OK && at < bytes; at += PIECE_BYTES) {
    const unsigned char *made = (const unsigned char *)data + at;
    size_t piece = bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES;
    status = mlxq_file_read_at(fd, here, piece, entry->offset + offset + at, file->path, error);
    if (status == MLXQ_OK && memcmp(made, here, piece) != 0) count_different(c, output, offset + at, made, here, piece);
  }
  mlxq_file_close(fd);
  return status;
}

/* ---- The result ------------------------------------------------------------------------------------------------ */

static bool is_of_layer(const mlxq_tensor *tensor, const char *layer, size_t length) {
  return layer_length(tensor->name) == length && strncmp(tensor->name, layer, length) == 0;
}

/* Adds up the tensors from `*next` on that are of one layer: outputs of a layer follow each other. */
static mlxq_status add_layer(mlxq_comparison *sum, const comparer *c, size_t *next, mlxq_error *error) {
  const mlxq_weights *made = c->plan->outputs;
  const char *layer = made->entries[*next].tensor.name;
  size_t length = layer_length(layer);
  uint64_t elems = 0, different = 0;
  for (; *next < made->count && is_of_layer(&made->entries[*next].tensor, layer, length); ++*next) {
    const match *found = &c->matches[*next];
    bool compared = found->tensor != NO_TENSOR;
    sum->tensors++;
    sum->tensors_different += !compared || found->different > 0;
    if (!compared) continue;
    elems += mlxq_tensor_elems(&made->entries[*next].tensor);
    different += found->different;
  }
  sum->elems += elems;
  sum->elems_different += different;
  double share = elems > 0 ? (double)different / (double)elems : 0;
  if (different == 0 || (sum->worst_layer && share <= (double)sum->worst_different / (double)sum->worst_elems)) {
    return MLXQ_OK;
  }
  free(sum->worst_layer);
  sum->worst_layer = mlxq_asprintf("%.*s", (int)length, layer);
  sum->worst_elems = elems;
  sum->worst_different = different;
  return sum->worst_layer ? MLXQ_OK : mlxq_fail_memory(error);
}

static mlxq_status tell_differences(const comparer *c, mlxq_error *error) {
  const mlxq_weights *made = c->plan->outputs;
  mlxq_status status = MLXQ_OK;
  for (size_t i = 0; status == MLXQ_OK && i < made->count; i++) {
    const match *found = &c->matches[i];
    const mlxq_tensor *tensor = &made->entries[i].tensor;
    char reason[128];
    if (found->different == 0) continue;
    snprintf(reason, sizeof reason,
             "%" PRIu64 " of %" PRIu64 " elements differ from what the dense original gives; the first is %" PRIu64,
             found->different, mlxq_tensor_elems(tensor), found->first);
    status = tell(c, found->tensor, tensor->name, MLXQ_INVARIANT, reason, error);
  }
  return status;
}

/* Where most packed weights differ and nothing else tells why, they may be the other profile's: it rounds ties, of
 * which every weight has some, otherwise. */
static void hint_at_profile(const comparer *c) {
  const mlxq_weights *made = c->plan->outputs;
  uint64_t packed = 0, different = 0;
  const bool gpu = c->plan->profile == MLXQ_PROFILE_GPU;
  mlxq_error note;
  for (size_t i = 0; i < made->count; i++) {
    if (made->entries[i].tensor.dtype != MLXQ_U32 || c->matches[i].tensor == NO_TENSOR) continue;
    packed++;
    different += c->matches[i].different > 0;
  }
  if (different <= packed / 2) return;
  mlxq_fail(&note, MLXQ_INVARIANT, NULL, "profile",
            "%" PRIu64 " of %" PRIu64
            " packed weights differ from what the profile %s gives; --profile %s is the other",
            different, packed, gpu ? "gpu" : "cpu", gpu ? "cpu" : "gpu");
  mlxq_error_at_file(&note, note.status, c->structure->checkpoint->path);
  c->notes->add(c->notes->user, &note);
}

mlxq_status mlxq_compare_with_dense(mlxq_comparison **comparison, const mlxq_structure *structure,
                                    mlxq_plan_request *dense, const mlxq_run_request *how, const mlxq_flaws *defects,
                                    const mlxq_flaws *notes, mlxq_error *error) {
  comparer c = {.structure = structure, .tensors = structure->checkpoint->tensors, .defects = defects, .notes = notes};
  mlxq_quant_config *made_config = NULL;
  mlxq_run_request request = *how;
  mlxq_comparison *sum = mlxq_calloc(1, sizeof *sum);
  *comparison = sum;
  pthread_mutex_init(&c.lock, NULL);
  mlxq_status status = sum ? MLXQ_OK : mlxq_fail_memory(error);
  if (status == MLXQ_OK && !structure->config) status = make_config(&made_config, &c, dense->source, error);
  dense->config = structure->config ? structure->config : made_config;
  dense->eligible = is_quantized_here;
  dense->eligible_user = (void *)(uintptr_t)structure;
  dense->allow_nonfinite = true; /* they are found where they stand */
  if (status == MLXQ_OK) status = mlxq_plan_quantize(&c.plan, dense, error);
  if (status == MLXQ_OK) status = find_matches(&c, error);
  if (status == MLXQ_OK) hint_at_dtype(&c);
  request.plan = c.plan;
  request.source_files = dense->files;
  request.store = compare;
  request.look_user = &c;
  if (status == MLXQ_OK) status = mlxq_run(&request, error);
  if (status == MLXQ_OK) status = tell_differences(&c, error);
  if (status == MLXQ_OK) hint_at_profile(&c);
  for (size_t i = 0; status == MLXQ_OK && i < c.plan->outputs->count;) status = add_layer(sum, &c, &i, error);
  if (status == MLXQ_OK) {
    sum->tensors += c.not_given;
    sum->tensors_different += c.not_given;
  }
  pthread_mutex_destroy(&c.lock);
  free(c.matches);
  mlxq_plan_free(c.plan);
  mlxq_quant_config_free(made_config);
  return status;
}
