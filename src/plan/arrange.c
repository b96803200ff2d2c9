/* From stored tensors to those of mlx-lm's class: the rules of a family, applied. */
#include "base/error.h"
#include "base/json.h"
#include "plan/family_rules.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

bool mlxq_rule_matches(const char *pattern, const char *name, size_t *length, long *number) {
  const char *p = pattern + strlen(pattern), *n = name + strlen(name);
  *number = -1;
  while (p > pattern) {
    if (p[-1] == '#') {
      const char *end = n;
      while (n > name && n[-1] >= '0' && n[-1] <= '9') n--;
      if (n == end || end - n > 9 || (*n == '0' && end - n > 1)) return false;
      *number = strtol(n, NULL, 10);
      p--;
    } else {
      if (n == name || n[-1] != p[-1]) return false;
      p--;
      n--;
    }
  }
  *length = (size_t)(n - name);
  return true;
}

/* Most experts and heads that a model's tensors may be taken apart into. Each costs some 400 bytes, which no file has
 * to pay for: 512 experts in 60 layers, each in two halves, are 61,440. */
#define MAX_MATRICES (1u << 17)

enum { MAX_RULES = 64 };

typedef struct arrange_state {
  const mlxq_family_traits *traits;
  const mlxq_checkpoint *checkpoint;
  struct json_object *config;  /* the one with the model's keys */
  const mlxq_weights *tensors; /* as stored, or as collected in `from` */
  const mlxq_model *from;      /* NULL: the tensors are stored themselves */
  const mlxq_weights *stored;
  mlxq_model *model;
  bool add_one;
  bool rule_off[MAX_RULES]; /* by its `unless` */
  uint64_t matrices;        /* that tensors were taken apart into so far */
} arrange_state;

/* The text with `length` bytes of `name`, then `end`, whose `#` becomes `number`. The caller frees it. */
static char *join(const char *name, size_t length, const char *end, long number) {
  const char *hash = strchr(end, '#');
  if (!hash) return mlxq_asprintf("%.*s%s", (int)length, name, end);
  return mlxq_asprintf("%.*s%.*s%ld%s", (int)length, name, (int)(hash - end), end, number, hash + 1);
}

/* ---- Pieces ---------------------------------------------------------------------------------------------------- */

/* The tensors of an F8_E4M3 matrix's block scales, or MLXQ_NO_TENSOR where it is no such matrix. */
static uint32_t block_scales_of(const arrange_state *state, const mlxq_tensor *tensor) {
  if (!state->traits->fp8 || tensor->dtype != MLXQ_F8_E4M3 || tensor->rank != 2) return MLXQ_NO_TENSOR;
  size_t length = strlen(tensor->name);
  const mlxq_tensor *scales = mlxq_weights_part(state->tensors, tensor->name, length, "_scale_inv");
  return scales ? (uint32_t)mlxq_weights_index(state->tensors, scales->name, strlen(scales->name)) : MLXQ_NO_TENSOR;
}

/* The one piece that is all of the i-th tensor, and the dtype of its elements. Foreign layers and FP8 matrices count as
 * what they become. */
static mlxq_piece piece_of(const arrange_state *state, size_t index, mlxq_dtype *dtype) {
  const mlxq_tensor *tensor = &state->tensors->entries[index].tensor;
  size_t count = 0;
  *dtype = tensor->dtype;
  if (state->from) return *mlxq_model_pieces(state->from, index, &count);
  mlxq_piece piece = mlxq_whole_piece(index, tensor->rank, tensor->shape);
  piece.block_scales = block_scales_of(state, tensor);
  if (piece.block_scales != MLXQ_NO_TENSOR) *dtype = MLXQ_BF16;
  return piece;
}

/* Packed codes can be moved as a whole, not taken apart. */
static bool is_packed(const arrange_state *state, const mlxq_piece *piece) {
  size_t length = 0;
  return mlxq_name_splits(state->stored->entries[piece->stored].tensor.name, ".qweight", &length);
}

/* The name after the family's prefixes; NULL, `*dropped` true, for a tensor that is left out. The caller frees it. */
static char *prefixed(const arrange_state *state, const char *name, bool *dropped) {
  *dropped = false;
  for (const mlxq_prefix *prefix = state->traits->prefixes; prefix && prefix->from; prefix++) {
    size_t length = strlen(prefix->from);
    if (strncmp(name, prefix->from, length) != 0) continue;
    *dropped = prefix->to == NULL;
    return prefix->to ? mlxq_asprintf("%s%s", prefix->to, name + length) : NULL;
  }
  return mlxq_asprintf("%s", name);
}

/* Adds a tensor under the family's name for `name`. */
static mlxq_status add(arrange_state *state, const char *name, mlxq_dtype dtype, uint32_t rank, const uint64_t *shape,
                       mlxq_error *error) {
  bool dropped;
  char *named = prefixed(state, name, &dropped);
  if (!named) return mlxq_fail_memory(error);
  mlxq_status status = mlxq_model_add(state->model, named, dtype, rank, shape, error);
  free(named);
  return status;
}

static mlxq_status fail_shape(mlxq_error *error, const mlxq_tensor *tensor, const char *reason) {
  return mlxq_fail(error, MLXQ_SHAPE_MISMATCH, NULL, tensor->name, "%s", reason);
}

/* An F8_E4M3 matrix of a family that knows them comes with block scales that fit. */
static mlxq_status check_blocks(const arrange_state *state, const mlxq_tensor *tensor, mlxq_error *error) {
  size_t length = 0;
  if (state->from || !state->traits->fp8 || tensor->dtype != MLXQ_F8_E4M3 || tensor->rank != 2) return MLXQ_OK;
  uint32_t index = block_scales_of(state, tensor);
  if (index == MLXQ_NO_TENSOR) {
    if (!mlxq_name_splits(tensor->name, ".weight", &length)) return MLXQ_OK;
    char *key = mlxq_asprintf("%s_scale_inv", tensor->name);
    mlxq_fail(error, MLXQ_MISSING_KEY, NULL, key, "missing: an FP8 matrix comes with the scales of its blocks");
    free(key);
    return MLXQ_MISSING_KEY;
  }
  const mlxq_tensor *scales = &state->tensors->entries[index].tensor;
  uint64_t rows = (tensor->shape[0] + MLXQ_FP8_BLOCK - 1) / MLXQ_FP8_BLOCK;
  uint64_t columns = (tensor->shape[1] + MLXQ_FP8_BLOCK - 1) / MLXQ_FP8_BLOCK;
  if (!mlxq_dtype_is_floating(scales->dtype)) {
    return mlxq_fail(error, MLXQ_UNSUPPORTED_DTYPE, NULL, scales->name, "is %s; block scales are floats",
                     mlxq_dtype_name(scales->dtype));
  }
  bool fits = scales->rank == 2 && scales->shape[0] == rows && scales->shape[1] == columns;
  bool padded =
      state->traits->fp8_padded && scales->rank == 2 && scales->shape[0] >= rows && scales->shape[1] >= columns;
  if (fits || padded) return MLXQ_OK;
  return mlxq_fail(error, MLXQ_SHAPE_MISMATCH, NULL, scales->name,
                   "must be [%llu, %llu]: a scale for each 128 x 128 block", (unsigned long long)rows,
                   (unsigned long long)columns);
}

/* ---- Operations ------------------------------------------------------------------------------------------------ */

/* Adds the tensor as it is, under another name and shape (of as many elements, NULL: its own). */
static mlxq_status keep(arrange_state *state, size_t index, const char *name, const uint64_t *shape, bool add_one,
                        mlxq_error *error) {
  const mlxq_tensor *tensor = &state->tensors->entries[index].tensor;
  mlxq_dtype dtype;
  mlxq_piece piece = piece_of(state, index, &dtype);
  if (shape) piece = mlxq_whole_piece(piece.stored, tensor->rank, shape);
  piece.add_one = add_one;
  mlxq_status status = add(state, name, dtype, tensor->rank, shape ? shape : tensor->shape, error);
  return status == MLXQ_OK ? mlxq_model_add_piece(state->model, &piece, error) : status;
}

/* Sets `*index` to the tensor of an expert; SIZE_MAX where there is none. */
static mlxq_status find_expert(size_t *index, const arrange_state *state, const char *first, size_t length,
                               const mlxq_rule *rule, uint64_t expert, mlxq_error *error) {
  char *name = join(first, length, rule->from, (long)expert);
  if (!name) return mlxq_fail_memory(error);
  *index = mlxq_weights_index(state->tensors, name, strlen(name));
  free(name);
  return MLXQ_OK;
}

/* Counts the experts and sets the dtype that MLX gives their stack: of floats that differ float32. */
static mlxq_status count_experts(uint64_t *count, mlxq_dtype *dtype, const arrange_state *state, const char *first,
                                 size_t length, const mlxq_rule *rule, mlxq_error *error) {
  for (*count = 0;; ++*count) {
    mlxq_dtype found;
    size_t index = SIZE_MAX;
    mlxq_status status = find_expert(&index, state, first, length, rule, *count, error);
    if (status != MLXQ_OK || index == SIZE_MAX) return status;
    piece_of(state, index, &found);
    if (*count == 0) *dtype = found;
    if (found != *dtype && mlxq_dtype_is_floating(found) && mlxq_dtype_is_floating(*dtype)) {
      *dtype = found == MLXQ_F64 || *dtype == MLXQ_F64 ? MLXQ_F64 : MLXQ_F32;
    }
  }
}

/* config.json says how many experts there are. */
static mlxq_status check_count(const arrange_state *state, const char *first, size_t length, const mlxq_rule *rule,
                               uint64_t experts, mlxq_error *error) {
  static const char *const KEYS[] = {"num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"};
  for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++) {
    int said = 0;
    if (!mlxq_json_get_int32(state->config, KEYS[i], &said) || said <= 0) continue;
    if ((uint64_t)said == experts) return MLXQ_OK;
    char *name = join(first, length, rule->from, (uint64_t)said > experts ? (long)experts : said);
    if ((uint64_t)said > experts) {
      mlxq_fail(error, MLXQ_MISSING_KEY, NULL, name, "missing: config.json says that there are %d experts", said);
    } else {
      mlxq_fail(error, MLXQ_INVARIANT, NULL, name, "must not be there: config.json says that there are %d experts",
                said);
    }
    free(name);
    return (uint64_t)said > experts ? MLXQ_MISSING_KEY : MLXQ_INVARIANT;
  }
  return MLXQ_OK;
}

/* The first expert brings the others along; of those it is only seen that none before them is missing. */
static mlxq_status check_previous(const arrange_state *state, const char *name, size_t length, const mlxq_rule *rule,
                                  long number, mlxq_error *error) {
  char *before = join(name, length, rule->from, number - 1);
  if (!before) return mlxq_fail_memory(error);
  mlxq_status status = MLXQ_OK;
  if (!mlxq_weights_find(state->tensors, before)) {
    status =
        mlxq_fail(error, MLXQ_MISSING_KEY, NULL, before, "missing: the experts of a layer are stacked, all of them");
  }
  free(before);
  return status;
}

static mlxq_status stack(arrange_state *state, size_t index, const mlxq_rule *rule, size_t length, long number,
                         mlxq_error *error) {
  const mlxq_tensor *first = &state->tensors->entries[index].tensor;
  uint64_t experts = 0, shape[MLXQ_MAX_RANK] = {0};
  bool packed = false;
  mlxq_dtype dtype = first->dtype, other_dtype;
  if (number > 0) return check_previous(state, first->name, length, rule, number, error);
  if (first->rank + 1 > MLXQ_MAX_RANK || first->rank == 0) return fail_shape(error, first, "is no expert's matrix");
  mlxq_status status = count_experts(&experts, &dtype, state, first->name, length, rule, error);
  if (status == MLXQ_OK) status = check_count(state, first->name, length, rule, experts, error);
  if (status != MLXQ_OK) return status;
  shape[0] = experts;
  memcpy(shape + 1, first->shape, first->rank * sizeof *shape);
  char *target = join(first->name, length, rule->to, 0);
  status = target ? add(state, target, dtype, first->rank + 1, shape, error) : mlxq_fail_memory(error);
  free(target);
  for (uint64_t e = 0; status == MLXQ_OK && e < experts; e++) {
    size_t expert = SIZE_MAX;
    status = find_expert(&expert, state, first->name, length, rule, e, error);
    if (status != MLXQ_OK) break;
    const mlxq_tensor *tensor = &state->tensors->entries[expert].tensor;
    status = check_blocks(state, tensor, error);
    if (status != MLXQ_OK) break;
    mlxq_piece piece = piece_of(state, expert, &other_dtype);
    bool same_kind = mlxq_dtype_is_floating(dtype) ? mlxq_dtype_is_floating(other_dtype) : other_dtype == dtype;
    if (e == 0) packed = is_packed(state, &piece);
    bool same = tensor->rank == first->rank && same_kind && is_packed(state, &piece) == packed &&
                memcmp(tensor->shape, first->shape, first->rank * sizeof *first->shape) == 0;
    status = same ? mlxq_model_add_piece(state->model, &piece, error)
                  : fail_shape(error, tensor, "differs in shape or dtype from the experts before it");
  }
  return status;
}

/* Adds a piece for each of `matrices`; `step` elements after a piece the next one starts. */
static mlxq_status add_pieces(arrange_state *state, const mlxq_tensor *tensor, mlxq_piece piece, uint64_t matrices,
                              uint64_t step, mlxq_error *error) {
  mlxq_status status = MLXQ_OK;
  if (tensor->bytes == 0) { /* however many matrices of nothing there are */
    piece.rows = 0;
    return mlxq_model_add_piece(state->model, &piece, error);
  }
  if (matrices > MAX_MATRICES - state->matrices) {
    return mlxq_fail(error, MLXQ_OUT_OF_RANGE, NULL, tensor->name,
                     "has %llu matrices; up to %u of a model can be taken apart", (unsigned long long)matrices,
                     MAX_MATRICES);
  }
  state->matrices += matrices;
  for (uint64_t i = 0; status == MLXQ_OK && i < matrices; i++) {
    status = mlxq_model_add_piece(state->model, &piece, error);
    piece.first += step;
  }
  return status;
}

/* Adds one of the two tensors that a rule makes of one. `piece` describes its rows of the first matrix; `step` elements
 * further on those of the next begin. */
static mlxq_status add_part(arrange_state *state, size_t index, const mlxq_rule *rule, size_t length, bool second,
                            mlxq_dtype dtype, const uint64_t *shape, mlxq_piece piece, uint64_t matrices, uint64_t step,
                            mlxq_error *error) {
  const mlxq_tensor *tensor = &state->tensors->entries[index].tensor;
  uint32_t rank = tensor->rank - (rule->op == RULE_BLOCKS || rule->op == RULE_ALTERNATE_BLOCKS);
  char *target = join(tensor->name, length, second ? rule->to2 : rule->to, 0);
  mlxq_status status = target ? add(state, target, dtype, rank, shape, error) : mlxq_fail_memory(error);
  free(target);
  return status == MLXQ_OK ? add_pieces(state, tensor, piece, matrices, step, error) : status;
}

/* Elements of the axes before the last `axes`. */
static uint64_t leading(const mlxq_tensor *tensor, uint32_t axes) {
  uint64_t elems = 1;
  for (uint32_t i = 0; i + axes < tensor->rank; i++) elems *= tensor->shape[i];
  return elems;
}

static mlxq_status split_rows(arrange_state *state, size_t index, const mlxq_rule *rule, size_t length,
                              mlxq_error *error) {
  const mlxq_tensor *tensor = &state->tensors->entries[index].tensor;
  uint64_t shape[MLXQ_MAX_RANK];
  mlxq_dtype dtype;
  mlxq_piece whole = piece_of(state, index, &dtype);
  if (tensor->rank < 2 || tensor->shape[tensor->rank - 2] % 2 != 0 || is_packed(state, &whole) ||
      whole.block_scales != MLXQ_NO_TENSOR) {
    return fail_shape(error, tensor, "cannot be split in two: it needs an even number of rows, and to be dense");
  }
  uint64_t columns = tensor->shape[tensor->rank - 1], rows = tensor->shape[tensor->rank - 2] / 2;
  bool alternate = rule->op == RULE_ALTERNATE;
  memcpy(shape, tensor->shape, tensor->rank * sizeof *shape);
  shape[tensor->rank - 2] = rows;
  mlxq_status status = MLXQ_OK;
  for (unsigned half = 0; status == MLXQ_OK && half < 2; half++) {
    mlxq_piece piece = whole;
    piece.first = half * (alternate ? columns : rows * columns);
    piece.stride = alternate ? 2 * columns : columns;
    /* Alternate rows go on regularly from one matrix to the next. */
    piece.rows = alternate ? leading(tensor, 2) * rows : rows;
    status = add_part(state, index, rule, length, half, dtype, shape, piece, alternate ? 1 : leading(tensor, 2),
                      2 * rows * columns, error);
  }
  return status;
}

static mlxq_status split_columns(arrange_state *state, size_t index, const mlxq_rule *rule, size_t length,
                                 mlxq_error *error) {
  const mlxq_tensor *tensor = &state->tensors->entries[index].tensor;
  uint64_t shape[MLXQ_MAX_RANK];
  mlxq_dtype dtype;
  mlxq_piece whole = piece_of(state, index, &dtype);
  if (tensor->rank < 1 || tensor->shape[tensor->rank - 1] % 2 != 0 || is_packed(state, &whole)) {
    return fail_shape(error, tensor, "cannot be split in two: it needs an even number of columns");
  }
  uint64_t columns = tensor->shape[tensor->rank - 1] / 2;
  memcpy(shape, tensor->shape, tensor->rank * sizeof *shape);
  shape[tensor->rank - 1] = columns;
  mlxq_status status = MLXQ_OK;
  for (unsigned half = 0; status == MLXQ_OK && half < 2; half++) {
    /* Every second element, seen as a column that becomes a row. */
    mlxq_piece piece = whole;
    piece.first = half;
    piece.stride = 2;
    piece.rows = 1;
    piece.transposed = true;
    status = add_part(state, index, rule, length, half, dtype, shape, piece, leading(tensor, 1), 2 * columns, error);
  }
  return status;
}

static mlxq_status transpose(arrange_state *state, size_t index, const mlxq_rule *rule, size_t length,
                             mlxq_error *error) {
  const mlxq_tensor *tensor = &state->tensors->entries[index].tensor;
  bool halves = rule->op == RULE_HALVES_TRANSPOSED;
  uint64_t shape[MLXQ_MAX_RANK];
  mlxq_dtype dtype;
  mlxq_piece whole = piece_of(state, index, &dtype);
  if (tensor->rank < 2 || (halves && tensor->shape[tensor->rank - 1] % 2 != 0) || is_packed(state, &whole) ||
      whole.block_scales != MLXQ_NO_TENSOR) {
    return fail_shape(error, tensor, "cannot be transposed: it needs two axes, and to be dense");
  }
  uint64_t columns = tensor->shape[tensor->rank - 1], rows = tensor->shape[tensor->rank - 2];
  uint64_t part = halves ? columns / 2 : columns;
  memcpy(shape, tensor->shape, tensor->rank * sizeof *shape);
  shape[tensor->rank - 2] = part;
  shape[tensor->rank - 1] = rows;
  mlxq_status status = MLXQ_OK;
  for (unsigned half = 0; status == MLXQ_OK && half < (halves ? 2u : 1u); half++) {
    mlxq_piece piece = whole;
    piece.first = half * part;
    piece.stride = columns;
    piece.rows = part;
    piece.transposed = true;
    status = add_part(state, index, rule, length, half, dtype, shape, piece, leading(tensor, 2), rows * columns, error);
  }
  return status;
}

/* Blocks of 16 bytes are 4 words; the bytes stay. */
static mlxq_status join_blocks(arrange_state *state, size_t index, const mlxq_rule *rule, size_t length,
                               mlxq_error *error) {
  const mlxq_tensor *tensor = &state->tensors->entries[index].tensor;
  bool alternate = rule->op == RULE_ALTERNATE_BLOCKS;
  uint64_t shape[MLXQ_MAX_RANK];
  mlxq_dtype dtype;
  mlxq_piece whole = piece_of(state, index, &dtype);
  if (tensor->rank < 3 || tensor->dtype != MLXQ_U8 || tensor->shape[tensor->rank - 1] != 16 ||
      (alternate && tensor->shape[tensor->rank - 3] % 2 != 0)) {
    return fail_shape(error, tensor, "must be U8 [..., rows, blocks, 16], with an even number of rows to be split");
  }
  const char *ending = strrchr(tensor->name, '_');
  char *scales = mlxq_asprintf("%.*s_scales", ending ? (int)(ending - tensor->name) : 0, tensor->name);
  if (!scales) return mlxq_fail_memory(error);
  bool there = mlxq_weights_find(state->tensors, scales) != NULL;
  if (state->traits->mxfp4 && !there)
    mlxq_fail(error, MLXQ_MISSING_KEY, NULL, scales, "missing: there are blocks, which come with scales");
  free(scales);
  if (state->traits->mxfp4 && !there) return MLXQ_MISSING_KEY;
  uint64_t bytes = tensor->shape[tensor->rank - 2] * 16, rows = tensor->shape[tensor->rank - 3];
  memcpy(shape, tensor->shape, tensor->rank * sizeof *shape);
  shape[tensor->rank - 2] = bytes / 4;
  if (alternate) shape[tensor->rank - 3] = rows / 2;
  mlxq_status status = MLXQ_OK;
  for (unsigned half = 0; status == MLXQ_OK && half < (alternate ? 2u : 1u); half++) {
    mlxq_piece piece = whole;
    piece.first = half * bytes;
    piece.stride = alternate ? 2 * bytes : bytes;
    piece.rows = leading(tensor, 3) * (alternate ? rows / 2 : rows);
    status = add_part(state, index, rule, length, half, MLXQ_U32, shape, piece, 1, 0, error);
  }
  return status;
}

static bool conv_is_stored_otherwise(const mlxq_tensor *tensor) {
  return tensor->rank == 3 && tensor->shape[2] != 1;
}

static mlxq_status move_conv(arrange_state *state, size_t index, const mlxq_rule *rule, size_t length,
                             mlxq_error *error) {
  const mlxq_tensor *tensor = &state->tensors->entries[index].tensor;
  char *target = join(tensor->name, length, rule->to, 0);
  mlxq_status status = target ? MLXQ_OK : mlxq_fail_memory(error);
  if (status == MLXQ_OK && conv_is_stored_otherwise(tensor)) {
    uint64_t shape[] = {tensor->shape[0], tensor->shape[2], tensor->shape[1]};
    status = tensor->shape[1] == 1 ? keep(state, index, target, shape, false, error)
                                   : fail_shape(error, tensor, "is no depthwise convolution [channels, 1, width]");
  } else if (status == MLXQ_OK) {
    status = keep(state, index, target, NULL, false, error);
  }
  free(target);
  return status;
}

static mlxq_status absorb_kv_b(arrange_state *state, size_t index, const mlxq_rule *rule, size_t length,
                               mlxq_error *error) {
  static const char *const KEYS[] = {"num_attention_heads", "qk_nope_head_dim", "v_head_dim"};
  const mlxq_tensor *tensor = &state->tensors->entries[index].tensor;
  int sizes[3];
  mlxq_dtype dtype;
  mlxq_piece whole = piece_of(state, index, &dtype);
  for (size_t i = 0; i < 3; i++) {
    if (!mlxq_json_get_int32(state->config, KEYS[i], &sizes[i]) || sizes[i] < 0) {
      mlxq_fail(error, MLXQ_PARSE, NULL, KEYS[i], "kv_b_proj is split by it: it must be a positive integer");
      return mlxq_error_at_file(error, MLXQ_PARSE, state->checkpoint->config_path);
    }
  }
  uint64_t heads = (uint64_t)sizes[0], nope = (uint64_t)sizes[1], v = (uint64_t)sizes[2];
  if (is_packed(state, &whole)) {
    return mlxq_fail(error, MLXQ_UNSUPPORTED, NULL, tensor->name,
                     "is packed, and this family's kv_b_proj is taken apart");
  }
  if (tensor->rank != 2 || tensor->shape[0] != heads * (nope + v)) {
    return fail_shape(error, tensor, "has other rows than heads * (qk_nope_head_dim + v_head_dim)");
  }
  uint64_t rank = tensor->shape[1];
  uint64_t embed_shape[] = {heads, rank, nope}, unembed_shape[] = {heads, v, rank};
  mlxq_piece embed = whole, unembed = whole;
  embed.transposed = true;
  embed.rows = rank;
  unembed.first = nope * rank;
  unembed.rows = v;
  mlxq_status status = MLXQ_OK;
  for (unsigned half = 0; status == MLXQ_OK && half < 2; half++) {
    char *target = join(tensor->name, length, half ? rule->to2 : rule->to, 0);
    mlxq_piece piece = half ? unembed : embed;
    status = target ? add(state, target, dtype, 3, half ? unembed_shape : embed_shape, error) : mlxq_fail_memory(error);
    free(target);
    if (status == MLXQ_OK) status = add_pieces(state, tensor, piece, heads, (nope + v) * rank, error);
  }
  return status;
}

static mlxq_status apply(arrange_state *state, size_t index, const mlxq_rule *rule, size_t length, long number,
                         mlxq_error *error) {
  const mlxq_tensor *tensor = &state->tensors->entries[index].tensor;
  char *target = NULL;
  mlxq_status status;
  switch (rule->op) {
    case RULE_STACK:
      return stack(state, index, rule, length, number, error);
    case RULE_HALVES:
    case RULE_ALTERNATE:
      return split_rows(state, index, rule, length, error);
    case RULE_ALTERNATE_COLUMNS:
      return split_columns(state, index, rule, length, error);
    case RULE_TRANSPOSE:
    case RULE_HALVES_TRANSPOSED:
      return transpose(state, index, rule, length, error);
    case RULE_BLOCKS:
    case RULE_ALTERNATE_BLOCKS:
      return join_blocks(state, index, rule, length, error);
    case RULE_CONV:
      return move_conv(state, index, rule, length, error);
    case RULE_KV_B:
      return absorb_kv_b(state, index, rule, length, error);
    case RULE_ADD_ONE:
      return keep(state, index, tensor->name, NULL, state->add_one && tensor->rank == 1, error);
    case RULE_REFUSE:
      return mlxq_fail(error, MLXQ_UNSUPPORTED, NULL, tensor->name, "%s", rule->to);
    default:
      target = join(tensor->name, length, rule->to, 0);
      status = target ? keep(state, index, target, NULL, false, error) : mlxq_fail_memory(error);
      free(target);
      return status;
  }
}

/* ---- The whole ------------------------------------------------------------------------------------------------- */

static bool any_matches(const mlxq_weights *tensors, const char *pattern) {
  size_t length;
  long number;
  for (size_t i = 0; i < tensors->count; i++) {
    if (mlxq_rule_matches(pattern, tensors->entries[i].tensor.name, &length, &number)) return true;
  }
  return false;
}

static void switch_rules_off(arrange_state *state) {
  const mlxq_rule *rules = state->traits->rules;
  for (size_t i = 0; rules && rules[i].from; i++) {
    assert(i < MAX_RULES);
    state->rule_off[i] = rules[i].unless && any_matches(state->tensors, rules[i].unless);
  }
}

/* Whether norms are still stored less one: mlx-lm tells by whether something else is still as it was. */
static bool needs_add_one(const arrange_state *state) {
  size_t length;
  long number;
  for (size_t i = 0; i < state->tensors->count; i++) {
    const mlxq_tensor *tensor = &state->tensors->entries[i].tensor;
    if (state->traits->add_one == ADD_ONE_WITH_EXPERTS) {
      if (mlxq_rule_matches(".mlp.experts.#.up_proj.weight", tensor->name, &length, &number)) return true;
    } else if (state->traits->add_one == ADD_ONE_WITH_CONV) {
      if (strstr(tensor->name, "conv1d.weight") && conv_is_stored_otherwise(tensor)) return true;
    }
  }
  return false;
}

static const mlxq_rule *find_rule(const arrange_state *state, const char *name, size_t *length, long *number) {
  for (const mlxq_rule *rule = state->traits->rules; rule && rule->from; rule++) {
    if (!state->rule_off[rule - state->traits->rules] && mlxq_rule_matches(rule->from, name, length, number)) {
      return rule;
    }
  }
  return NULL;
}

/* The block scales of an FP8 matrix go with it. */
static bool is_block_scale(const arrange_state *state, const char *name) {
  size_t length = 0;
  if (state->from || !mlxq_name_splits(name, "_scale_inv", &length)) return false;
  size_t index = mlxq_weights_index(state->tensors, name, length);
  return index != SIZE_MAX && block_scales_of(state, &state->tensors->entries[index].tensor) != MLXQ_NO_TENSOR;
}

/* The scales and biases of experts that are packed already are stacked as their weights are. */
static mlxq_status stack_part(arrange_state *state, size_t index, bool *done, mlxq_error *error) {
  static const char *const PARTS[] = {".scales", ".biases"};
  static const char WEIGHT[] = ".weight";
  const char *name = state->tensors->entries[index].tensor.name;
  mlxq_status status = MLXQ_OK;
  *done = false;
  for (size_t i = 0; i < 2; i++) {
    size_t length = 0, before = 0;
    long number = -1;
    if (!mlxq_name_splits(name, PARTS[i], &length)) continue;
    char *weight = mlxq_asprintf("%.*s%s", (int)length, name, WEIGHT);
    if (!weight) return mlxq_fail_memory(error);
    const mlxq_rule *rule =
        mlxq_weights_find(state->tensors, weight) ? find_rule(state, weight, &before, &number) : NULL;
    free(weight);
    if (!rule || rule->op != RULE_STACK) return MLXQ_OK;
    char *from = mlxq_asprintf("%.*s%s", (int)(strlen(rule->from) - strlen(WEIGHT)), rule->from, PARTS[i]);
    char *to = mlxq_asprintf("%.*s%s", (int)(strlen(rule->to) - strlen(WEIGHT)), rule->to, PARTS[i]);
    mlxq_rule part = {.op = RULE_STACK, .from = from, .to = to};
    *done = true;
    status = from && to ? stack(state, index, &part, before, number, error) : mlxq_fail_memory(error);
    free(from);
    free(to);
  }
  return status;
}

static mlxq_status arrange_one(arrange_state *state, size_t index, mlxq_error *error) {
  const mlxq_tensor *tensor = &state->tensors->entries[index].tensor;
  size_t length = 0;
  long number = -1;
  bool dropped = false;
  for (const char *const *part = state->traits->dropped; part && *part; part++) {
    if (strstr(tensor->name, *part)) return MLXQ_OK;
  }
  char *named = prefixed(state, tensor->name, &dropped);
  if (!named && !dropped) return mlxq_fail_memory(error);
  free(named);
  if (dropped || is_block_scale(state, tensor->name)) return MLXQ_OK;
  mlxq_status status = check_blocks(state, tensor, error);
  if (status != MLXQ_OK) return status;
  bool done = false;
  status = stack_part(state, index, &done, error);
  if (status != MLXQ_OK || done) return status;
  const mlxq_rule *rule = find_rule(state, tensor->name, &length, &number);
  return rule ? apply(state, index, rule, length, number, error) : keep(state, index, tensor->name, NULL, false, error);
}

/* Scales that a rule has made of another name are of no use without their weight. */
static mlxq_status check_made_scales(const arrange_state *state, mlxq_error *error) {
  const mlxq_weights *made = state->model->tensors;
  for (size_t i = 0; i < made->count; i++) {
    const char *name = made->entries[i].tensor.name;
    size_t length = 0;
    if (!mlxq_name_splits(name, ".scales", &length) || mlxq_weights_part(made, name, length, ".weight")) continue;
    if (mlxq_weights_find(state->tensors, name)) continue;
    char *key = mlxq_asprintf("%.*s.weight", (int)length, name);
    if (!key) return mlxq_fail_memory(error);
    mlxq_fail(error, MLXQ_MISSING_KEY, NULL, key, "missing: there are scales");
    free(key);
    return MLXQ_MISSING_KEY;
  }
  return MLXQ_OK;
}

mlxq_status mlxq_family_arrange(mlxq_model **model, const mlxq_family *family, const mlxq_checkpoint *checkpoint,
                                const mlxq_weights *tensors, const mlxq_model *from, mlxq_error *error) {
  arrange_state state = {.traits = family->traits,
                         .checkpoint = checkpoint,
                         .config = mlxq_family_config(family, checkpoint),
                         .tensors = tensors,
                         .from = from,
                         .stored = from ? from->stored : tensors};
  *model = NULL;
  if (!family->traits) return MLXQ_OK;
  state.add_one = needs_add_one(&state);
  switch_rules_off(&state);
  mlxq_status status = mlxq_model_new(&state.model, state.stored, error);
  for (size_t i = 0; status == MLXQ_OK && i < tensors->count; i++) {
    status = checkpoint ? mlxq_cancel_check(&checkpoint->cancel, error) : MLXQ_OK;
    if (status != MLXQ_OK) break;
    status = arrange_one(&state, i, error);
    if (status != MLXQ_OK && checkpoint) {
      mlxq_error_at_file(error, status, checkpoint->files[tensors->entries[i].file].path);
    }
  }
  if (status == MLXQ_OK && family->traits->mxfp4) {
    status = mlxq_error_at_file(error, check_made_scales(&state, error), checkpoint ? checkpoint->path : NULL);
  }
  if (status != MLXQ_OK) {
    mlxq_model_free(state.model);
    return status;
  }
  *model = state.model;
  return MLXQ_OK;
}
