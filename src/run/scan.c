#include "run/scan.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Sorts of findings. The first is of any tensor, the next two are of scales. The last counts what lies in tiles of
 * zeros alone, and is one where that is all of a dense matrix, or of a layer's scales with their codes and biases. */
typedef enum finding_kind { NON_FINITE, ZERO_SCALE, ZERO_SCALE_AS_GPU, NOTHING_BUT_ZEROS, KIND_COUNT } finding_kind;

typedef struct finding {
  uint64_t count, first; /* elements, and the index of the first */
} finding;

typedef struct scan {
  const mlxq_structure *structure;
  pthread_mutex_t lock;            /* for what follows */
  finding (*findings)[KIND_COUNT]; /* of each tensor */
} scan;

static void count_one(finding *found, uint64_t index) {
  if (found->count++ == 0) found->first = index;
}

/* Adds what a tile had to what its tensor has. */
static void add(scan *s, size_t tensor, finding_kind kind, const finding *found) {
  if (found->count == 0) return;
  pthread_mutex_lock(&s->lock);
  finding *sum = &s->findings[tensor][kind];
  if (sum->count == 0 || found->first < sum->first) sum->first = found->first;
  sum->count += found->count;
  pthread_mutex_unlock(&s->lock);
}

/* ---- NaN and infinity ------------------------------------------------------------------------------------------ */

/* Elements whose exponent is all ones, in `words` of one width. */
#define COUNT_SPECIAL(type, exponent)                                                      \
  do {                                                                                     \
    const type *words = data;                                                              \
    for (size_t i = 0; i < elems; i++) {                                                   \
      if ((words[i] & (type)(exponent)) == (type)(exponent)) count_one(&found, first + i); \
    }                                                                                      \
  } while (0)

/* `data` is aligned for its dtype. */
static finding find_non_finite(mlxq_dtype dtype, const void *data, size_t elems, uint64_t first) {
  finding found = {0};
  switch (dtype) {
    case MLXQ_F16:
      COUNT_SPECIAL(uint16_t, 0x7C00u);
      break;
    case MLXQ_BF16:
      COUNT_SPECIAL(uint16_t, 0x7F80u);
      break;
    case MLXQ_F32:
      COUNT_SPECIAL(uint32_t, 0x7F800000u);
      break;
    case MLXQ_F64:
      COUNT_SPECIAL(uint64_t, UINT64_C(0x7FF0000000000000));
      break;
    default:
      break;
  }
  return found;
}

/* Bytes that are NaN: 255 in E8M0, 0x7F and 0xFF in E4M3. */
static finding find_nan_bytes(bool is_e8m0, const uint8_t *bytes, size_t count, uint64_t first) {
  finding found = {0};
  for (size_t i = 0; i < count; i++) {
    if ((is_e8m0 ? bytes[i] : bytes[i] | 0x80) == 0xFF) count_one(&found, first + i);
  }
  return found;
}

/* ---- Scales of zero -------------------------------------------------------------------------------------------- */

/* A float of scales or biases, as the bits of a float32 without its sign. */
static uint32_t magnitude_at(mlxq_dtype dtype, const void *data, size_t index) {
  if (dtype == MLXQ_F32) return ((const uint32_t *)data)[index] & 0x7FFFFFFFu;
  uint32_t bits = ((const uint16_t *)data)[index] & 0x7FFFu;
  return dtype == MLXQ_BF16 ? bits << 16 : bits; /* F16: 0 is 0, and nothing comes near the limit below */
}

static bool all_are(const uint32_t *words, size_t count, uint32_t value) {
  for (size_t i = 0; i < count; i++) {
    if (words[i] != value) return false;
  }
  return true;
}

/* MLX's GPU back-ends give a constant group above about 3.4e31 the scale 0 and its highest code. */
static void find_zero_affine(finding found[KIND_COUNT], const mlxq_job *job, uint64_t first, size_t groups,
                             const void *const *inputs) {
  enum { TWO_TO_THE_100 = (127 + 100) << 23 };
  size_t group_words = job->inputs[0].unit_bytes / 4;
  const uint32_t *words = inputs[0];
  for (size_t i = 0; i < groups; i++, words += group_words) {
    if (magnitude_at(job->dtype, inputs[1], i) != 0 || all_are(words, group_words, 0)) continue;
    bool as_gpu = all_are(words, group_words, UINT32_MAX) && magnitude_at(job->dtype, inputs[2], i) > TWO_TO_THE_100;
    count_one(&found[as_gpu ? ZERO_SCALE_AS_GPU : ZERO_SCALE], first + i);
  }
}

/* Codes 0, 7, 8 and 15 alone: what w * (1 / 0) gives, and zeros. */
static bool is_zero_or_largest(uint64_t codes) {
  for (; codes != 0; codes >>= 4) {
    if ((codes & 7) != 0 && (codes & 7) != 7) return false;
  }
  return true;
}

static void find_zero_nvfp4(finding found[KIND_COUNT], uint64_t first, size_t groups, const void *const *inputs) {
  const uint8_t *scales = inputs[1];
  for (size_t i = 0; i < groups; i++) {
    uint64_t codes;
    if ((scales[i] & 0x7F) != 0) continue;
    memcpy(&codes, (const uint8_t *)inputs[0] + i * sizeof codes, sizeof codes);
    if (codes != 0) count_one(&found[is_zero_or_largest(codes) ? ZERO_SCALE_AS_GPU : ZERO_SCALE], first + i);
  }
}

/* ---- Nothing but zeros ----------------------------------------------------------------------------------------- */

/* Whether a tile's inputs are zeros to the byte, as holes in a file are: from a download or a copy that broke off. */
static bool is_hole(const mlxq_job *job, size_t units, const void *const *inputs) {
  for (uint32_t i = 0; i < job->input_count; i++) {
    const unsigned char *bytes = inputs[i];
    size_t count = units * job->inputs[i].unit_bytes;
    if (count > 0 && (bytes[0] != 0 || memcmp(bytes, bytes + 1, count - 1) != 0)) return false;
  }
  return true;
}

/* ---- Tiles ----------------------------------------------------------------------------------------------------- */

static void visit_triple(scan *s, const mlxq_job *job, uint64_t first, size_t groups, const void *const *inputs) {
  finding found[KIND_COUNT] = {{0}};
  size_t scales = job->inputs[1].tensor;
  if (job->scheme.mode == MLXQ_AFFINE) {
    found[NON_FINITE] = find_non_finite(job->dtype, inputs[1], groups, first);
    finding of_biases = find_non_finite(job->dtype, inputs[2], groups, first);
    add(s, job->inputs[2].tensor, NON_FINITE, &of_biases);
    find_zero_affine(found, job, first, groups, inputs);
  } else {
    found[NON_FINITE] = find_nan_bytes(job->scheme.mode != MLXQ_NVFP4, inputs[1], groups, first);
    if (job->scheme.mode == MLXQ_NVFP4) find_zero_nvfp4(found, first, groups, inputs);
  }
  if (job->scheme.mode == MLXQ_MXFP8) {
    size_t group_bytes = job->inputs[0].unit_bytes;
    finding of_codes = find_nan_bytes(false, inputs[0], groups * group_bytes, first * group_bytes);
    add(s, job->inputs[0].tensor, NON_FINITE, &of_codes);
  }
  if (is_hole(job, groups, inputs)) found[NOTHING_BUT_ZEROS] = (finding){groups, first};
  for (int kind = 0; kind < KIND_COUNT; kind++) add(s, scales, (finding_kind)kind, &found[kind]);
}

static void visit_dense(scan *s, const mlxq_job *job, uint64_t first, size_t elems, const void *const *inputs) {
  size_t tensor = job->inputs[0].tensor;
  finding non_finite = find_non_finite(job->dtype, inputs[0], elems, first), zeros = {0};
  if (s->structure->checkpoint->tensors->entries[tensor].tensor.rank >= 2 && is_hole(job, elems, inputs)) {
    zeros = (finding){elems, first};
  }
  add(s, tensor, NON_FINITE, &non_finite);
  add(s, tensor, NOTHING_BUT_ZEROS, &zeros);
}

static mlxq_status visit(void *user, const mlxq_job *job, uint64_t first_unit, size_t units, const void *const *inputs,
                         mlxq_error *error) {
  (void)error;
  if (job->action == MLXQ_ACTION_DEQUANTIZE) {
    visit_triple(user, job, first_unit, units, inputs);
  } else {
    visit_dense(user, job, first_unit, units, inputs);
  }
  return MLXQ_OK;
}

/* ---- Telling --------------------------------------------------------------------------------------------------- */

/* "3 of 64 PLURAL" and where the first is. */
static mlxq_status describe(mlxq_error *flaw, const char *layer, const mlxq_tensor *tensor, finding_kind kind,
                            const finding *found) {
  uint64_t elems = mlxq_tensor_elems(tensor);
  if (kind == NOTHING_BUT_ZEROS) {
    size_t length = 0;
    return mlxq_fail(flaw, MLXQ_INVARIANT, layer, tensor->name, "nothing but zeros%s",
                     mlxq_name_splits(tensor->name, ".scales", &length) ? ", as all of the layer is" : "");
  }
  const char *what = "elements are NaN or infinite";
  if (kind == NON_FINITE && tensor->dtype == MLXQ_U8) what = "scales are NaN";
  if (kind == NON_FINITE && tensor->dtype == MLXQ_U32) what = "codes are NaN";
  if (kind == NON_FINITE && tensor->dtype == MLXQ_U32) elems *= 4; /* 8-bit codes, the only ones that can be */
  if (kind == ZERO_SCALE) what = "scales are 0 beside codes that are not";
  if (kind == ZERO_SCALE_AS_GPU) what = "scales are 0 beside codes that are not, as MLX's GPU back-ends write them";
  return mlxq_fail(flaw, kind == NON_FINITE ? MLXQ_NON_FINITE : MLXQ_INVARIANT, layer, tensor->name,
                   "%" PRIu64 " of %" PRIu64 " %s; the first is %" PRIu64, found->count, elems, what, found->first);
}

/* Whether what the tiles had is a finding. */
static bool is_one(const finding *found, finding_kind kind, const mlxq_tensor *tensor) {
  return kind == NOTHING_BUT_ZEROS ? found->count > 0 && found->count == mlxq_tensor_elems(tensor) : found->count > 0;
}

static mlxq_status tell(const scan *s, size_t index, const mlxq_flaws *defects, const mlxq_flaws *notes,
                        mlxq_error *error) {
  static const char *const PARTS[] = {".weight", ".scales", ".biases"};
  const mlxq_checkpoint *checkpoint = s->structure->checkpoint;
  const mlxq_tensor_entry *entry = &checkpoint->tensors->entries[index];
  size_t length = 0;
  char *layer = NULL;
  for (size_t i = 0; i < sizeof PARTS / sizeof *PARTS; i++) {
    if (!mlxq_name_splits(entry->tensor.name, PARTS[i], &length)) continue;
    layer = mlxq_asprintf("%.*s", (int)length, entry->tensor.name);
    if (!layer) return mlxq_fail_memory(error);
  }
  for (int kind = 0; kind < KIND_COUNT; kind++) {
    mlxq_error flaw;
    const finding *found = &s->findings[index][kind];
    if (!is_one(found, (finding_kind)kind, &entry->tensor)) continue;
    mlxq_status status = describe(&flaw, layer, &entry->tensor, (finding_kind)kind, found);
    mlxq_error_at_file(&flaw, status, checkpoint->files[entry->file].path);
    const mlxq_flaws *taker = kind == NON_FINITE || kind == ZERO_SCALE ? defects : notes;
    taker->add(taker->user, &flaw);
  }
  free(layer);
  return MLXQ_OK;
}

static bool has_findings(const finding found[KIND_COUNT]) {
  for (int kind = 0; kind < KIND_COUNT; kind++) {
    if (found[kind].count > 0) return true;
  }
  return false;
}

mlxq_status mlxq_scan(const mlxq_structure *structure, const mlxq_run_request *how, const mlxq_flaws *defects,
                      const mlxq_flaws *notes, mlxq_error *error) {
  const mlxq_checkpoint *checkpoint = structure->checkpoint;
  size_t count = checkpoint->tensors->count;
  scan s = {.structure = structure, .findings = mlxq_calloc(count, sizeof *s.findings)};
  if (!s.findings) return mlxq_fail_memory(error);
  pthread_mutex_init(&s.lock, NULL);
  mlxq_run_request request = *how;
  request.plan = structure->reading;
  request.source_files = checkpoint->files;
  request.visit = visit;
  request.look_user = &s;
  mlxq_status status = mlxq_run(&request, error);
  for (size_t i = 0; status == MLXQ_OK && i < count; i++) {
    if (has_findings(s.findings[i])) status = tell(&s, i, defects, notes, error);
  }
  pthread_mutex_destroy(&s.lock);
  free(s.findings);
  return status;
}
