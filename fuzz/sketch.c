#include "sketch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TENSOR_BYTES = 1 << 18 };

static const mlxq_dtype FLOATS[] = {MLXQ_F16, MLXQ_BF16, MLXQ_F32};

mlxq_dtype sketch_float(sketch *s) {
  return take_one(s->in, FLOATS);
}

/* Clears the highest bit of the exponent: what is left is finite, and below 2. */
static void make_finite(uint8_t *data, uint64_t bytes, mlxq_dtype dtype) {
  size_t elem_bytes = mlxq_dtype_bits(dtype) / 8;
  for (size_t i = elem_bytes - 1; mlxq_dtype_is_floating(dtype) && i < bytes; i += elem_bytes) data[i] &= 0xBF;
}

/* One byte again and again (zero points are often of one value), or pseudo-random ones. */
static void fill(sketch *s, uint8_t *data, uint64_t bytes, mlxq_dtype dtype) {
  static const uint8_t CONSTANTS[] = {0, 0x88, 0x77, 0xFF, 0x55, 0x01};
  unsigned how = take_byte(s->in);
  uint32_t random = how * 2654435761u + 1;
  bool constant = how < sizeof CONSTANTS;
  for (uint64_t i = 0; i < bytes; i++) {
    random = random * 1664525u + 1013904223u;
    data[i] = constant ? CONSTANTS[how] : (uint8_t)(random >> 24);
  }
  if (how < 0xF0) {
    make_finite(data, bytes, dtype);
  } else if (mlxq_dtype_is_floating(dtype)) {
    s->finite = false;
  }
}

/* What the input makes of a tensor; false: it is left out. */
static bool bend(sketch *s, mlxq_dtype *dtype, uint32_t *rank, uint64_t *shape) {
  unsigned how = take_byte(s->in), axis = *rank > 0 ? how % *rank : 0;
  if (how < 0xF0) return true;
  s->bent = true;
  switch (how & 7) {
    case 0:
      *dtype = (mlxq_dtype)take_below(s->in, MLXQ_DTYPE_COUNT);
      return true;
    case 1:
      shape[axis] = take_number(s->in);
      return true;
    case 2:
      *rank -= *rank > 0;
      return true;
    case 3:
      shape[*rank] = 1 + take_below(s->in, 2);
      ++*rank;
      return true;
    case 4:
      shape[0] = take_number(s->in);
      shape[1] = 0;
      return true;
    case 5:
      shape[axis] += 1;
      return true;
    case 6:
      shape[axis] *= 2;
      return true;
    default:
      return false;
  }
}

static void add(sketch *s, const char *path, const char *suffix, mlxq_dtype dtype, uint32_t rank, const uint64_t *shape,
                const void *data) {
  char name[256];
  mlxq_error error;
  require((size_t)snprintf(name, sizeof name, "%s%s", path, suffix) < sizeof name);
  mlxq_status status = mlxq_weights_add_copy(s->tensors, name, dtype, rank, shape, data, &error);
  if (status != MLXQ_OK) require_error(&error, status);
  require(status == MLXQ_OK || status == MLXQ_KEY_COLLISION);
}

void sketch_tensor(sketch *s, const char *path, const char *suffix, mlxq_dtype dtype, uint32_t rank,
                   const uint64_t *shape) {
  uint64_t bytes, bent[MLXQ_MAX_RANK] = {0};
  memcpy(bent, shape, rank * sizeof *shape);
  if (!bend(s, &dtype, &rank, bent)) return;
  if (mlxq_tensor_bytes(&bytes, dtype, rank, bent, NULL) != MLXQ_OK || bytes > MAX_TENSOR_BYTES) return;
  uint8_t *data = malloc(bytes + 1);
  require(data != NULL);
  fill(s, data, bytes, dtype);
  add(s, path, suffix, dtype, rank, bent, data);
  free(data);
}

static void matrix(sketch *s, const char *path, const char *suffix, mlxq_dtype dtype, uint64_t rows, uint64_t columns) {
  const uint64_t shape[] = {rows, columns};
  sketch_tensor(s, path, suffix, dtype, 2, shape);
}

void sketch_dense(sketch *s, const char *path, mlxq_dtype dtype, uint64_t outs, uint64_t ins) {
  matrix(s, path, ".weight", dtype, outs, ins);
  if (take_rarely(s->in, 4)) sketch_tensor(s, path, ".bias", dtype, 1, &outs);
}

void sketch_triple(sketch *s, const char *path, const mlxq_scheme *scheme, mlxq_dtype dtype, uint64_t outs,
                   uint64_t ins) {
  bool affine = mlxq_mode_has_biases(scheme->mode);
  uint64_t groups = ins / (uint64_t)scheme->group_size;
  matrix(s, path, ".weight", MLXQ_U32, outs, ins * (uint64_t)scheme->bits / 32);
  matrix(s, path, ".scales", affine ? dtype : MLXQ_U8, outs, groups);
  if (affine) matrix(s, path, ".biases", dtype, outs, groups);
}

void sketch_awq(sketch *s, const char *path, awq_version version, mlxq_dtype dtype, uint64_t outs, uint64_t ins,
                uint64_t group) {
  uint64_t groups = ins / group, multiple = group >= 128 ? 1 : group >= 64 ? 2 : 4;
  uint64_t words = (((groups + 7) / 8) + multiple - 1) / multiple * multiple;
  bool zeros = !take_rarely(s->in, 8);
  if (version == AWQ_GEMM) {
    matrix(s, path, ".qweight", MLXQ_I32, ins, outs / 8);
    matrix(s, path, ".scales", dtype, groups, outs);
    if (zeros) matrix(s, path, ".qzeros", MLXQ_I32, groups, outs / 8);
  } else if (version == AWQ_GEMV) {
    matrix(s, path, ".qweight", MLXQ_I32, outs, ins / 8);
    matrix(s, path, ".scales", dtype, outs, 8 * words);
    if (zeros) matrix(s, path, ".qzeros", MLXQ_I32, outs, words);
  } else {
    matrix(s, path, ".qweight", MLXQ_I16, outs / 4, ins);
    matrix(s, path, ".scales", dtype, 8 * words, outs);
    if (zeros) matrix(s, path, take_bool(s->in) ? ".scaled_zeros" : ".qzeros", dtype, 8 * words, outs);
  }
}

/* In order, or with one input's group exchanged for any. */
static void group_index(sketch *s, const char *path, uint64_t ins, uint64_t group) {
  int32_t index[1024];
  require(ins <= sizeof index / sizeof *index);
  for (uint64_t i = 0; i < ins; i++) index[i] = (int32_t)(i / group);
  if (ins > 0 && take_rarely(s->in, 4)) index[take_byte(s->in) % ins] = (int32_t)take_below(s->in, 4) - 1;
  add(s, path, ".g_idx", MLXQ_I32, 1, &ins, index);
}

void sketch_gptq(sketch *s, const char *path, unsigned bits, mlxq_dtype dtype, uint64_t outs, uint64_t ins,
                 uint64_t group) {
  uint64_t groups = (ins + group - 1) / group;
  matrix(s, path, ".qweight", MLXQ_I32, ins * bits / 32, outs);
  matrix(s, path, ".qzeros", MLXQ_I32, groups, outs * bits / 32);
  matrix(s, path, ".scales", dtype, groups, outs);
  if (take_bool(s->in)) group_index(s, path, ins, group);
  if (take_rarely(s->in, 4)) sketch_tensor(s, path, ".bias", dtype, 1, &outs);
}

void sketch_fp8(sketch *s, const char *path, uint64_t outs, uint64_t ins) {
  matrix(s, path, ".weight", MLXQ_F8_E4M3, outs, ins);
  matrix(s, path, ".weight_scale_inv", MLXQ_F32, (outs + 127) / 128, (ins + 127) / 128);
}
