#include "run/foreign_tile.h"

#include "kernels/ref/group.h"
#include "plan/model.h"

#include <math.h>
#include <string.h>

/* Scales and zeros of a tile, a row for each output. */
typedef struct mlxq_fit {
  float *scales, *zeros; /* [outs][groups] */
  float *by_group;       /* room for [groups][outs] */
  float *biases;         /* [outs][groups] */
  void *results;         /* [outs][groups] of the result's dtype */
  uint8_t *words;        /* codes in MLX's order where they are not the result */
  uint8_t *once;         /* room for a row of codes, then one of floats */
} mlxq_fit;

static mlxq_fit fit_of(const mlxq_foreign_tile *tile) {
  size_t elems = tile->outs * (size_t)tile->layer->groups;
  mlxq_fit fit = {.results = tile->scratch};
  void *after = (uint8_t *)tile->scratch + elems * sizeof(double);
  fit.scales = after;
  fit.zeros = fit.scales + elems;
  fit.by_group = fit.zeros + elems;
  fit.biases = fit.by_group + elems;
  fit.words = (uint8_t *)(fit.biases + elems);
  fit.once = fit.words;
  if (tile->layer->widened || tile->layer->requantized) {
    fit.once += tile->outs * (size_t)tile->layer->ins * tile->layer->bits / 8;
  }
  return fit;
}

size_t mlxq_foreign_tile_bytes(const mlxq_foreign_layer *layer) {
  return layer->widened || layer->requantized ? (size_t)layer->ins * (1 + sizeof(float)) + sizeof(float) : 0;
}

/* ---- Scales and zero points ------------------------------------------------------------------------------------ */

/* Fills scales and zeros, [outs][groups], from what is stored. Scaled zeros become biases at once. */
static void load_fit(const mlxq_foreign_tile *tile, const mlxq_kernel_table *kernels, const void *const *inputs,
                     mlxq_fit *fit) {
  const mlxq_foreign_layer *layer = tile->layer;
  size_t outs = tile->outs, groups = (size_t)layer->groups, elems = outs * groups;
  size_t scale_bytes = mlxq_dtype_bits(tile->scales) / 8;
  bool by_rows = layer->packing == MLXQ_PACKING_AWQ_GEMV, scaled = layer->zero_rule == MLXQ_ZERO_SCALED;
  if (by_rows) {
    for (size_t out = 0; out < outs; out++) {
      kernels->cast(tile->scales, MLXQ_F32, (const char *)inputs[1] + out * tile->scale_row * scale_bytes,
                    fit->scales + out * groups, groups);
    }
  } else {
    kernels->cast(tile->scales, MLXQ_F32, inputs[1], fit->by_group, elems);
    kernels->transpose(sizeof(float), fit->by_group, groups, outs, fit->scales);
  }
  if (layer->zero_rule == MLXQ_ZERO_MIDDLE) {
    for (size_t i = 0; i < elems; i++) fit->zeros[i] = (float)(1u << (layer->bits - 1));
  } else if (scaled) {
    kernels->cast(tile->scales, MLXQ_F32, inputs[2], fit->by_group, elems);
    kernels->transpose(sizeof(float), fit->by_group, groups, outs, fit->biases);
  } else if (by_rows) {
    for (size_t out = 0; out < outs; out++) {
      mlxq_foreign_unpack_zeros(layer, (const uint32_t *)inputs[2] + out * tile->zero_row, groups,
                                fit->zeros + out * groups);
    }
  } else {
    size_t row_words = outs * layer->bits / 32;
    for (size_t group = 0; group < groups; group++) {
      mlxq_foreign_unpack_zeros(layer, (const uint32_t *)inputs[2] + group * row_words, outs,
                                fit->by_group + group * outs);
    }
    kernels->transpose(sizeof(float), fit->by_group, groups, outs, fit->zeros);
  }
}

/* Rounds floats to a dtype, in place; `room` is for them in it. */
static void round_to(const mlxq_kernel_table *kernels, mlxq_dtype dtype, size_t elems, float *values, void *room) {
  kernels->cast(MLXQ_F32, dtype, values, room, elems);
  kernels->cast(dtype, MLXQ_F32, room, values, elems);
}

/* Rounds `values` to the layer's dtype, widens them to the result's, and repeats each for its groups. False where one
 * of them is not finite then. */
static bool store(const mlxq_foreign_layer *layer, const mlxq_kernel_table *kernels, size_t elems, float *values,
                  void *rounded, void *result) {
  size_t bytes = mlxq_dtype_bits(layer->dtype) / 8;
  if (layer->dtype == MLXQ_F64) {
    if (layer->round_dtype != MLXQ_F64) round_to(kernels, layer->round_dtype, elems, values, rounded);
    for (size_t i = 0; i < elems; i++) ((double *)rounded)[i] = values[i];
  } else {
    if (layer->round_dtype != layer->dtype) round_to(kernels, layer->round_dtype, elems, values, rounded);
    round_to(kernels, layer->dtype, elems, values, rounded);
  }
  bool finite = true;
  for (size_t i = 0; i < elems; i++) finite = finite && isfinite(values[i]);
  for (size_t i = 0; i < elems; i++) {
    for (uint32_t k = 0; k < layer->repeat; k++) {
      memcpy((char *)result + (i * layer->repeat + k) * bytes, (const char *)rounded + i * bytes, bytes);
    }
  }
  return finite;
}

/* Float64 scales keep their bits, and so does what is computed of them without zero points. */
static void store_wide(const mlxq_foreign_tile *tile, const double *stored, const void *zeros, mlxq_fit *fit,
                       void *const *outputs) {
  const mlxq_foreign_layer *layer = tile->layer;
  size_t groups = (size_t)layer->groups, outs = tile->outs;
  bool by_rows = layer->packing == MLXQ_PACKING_AWQ_GEMV, middle = layer->zero_rule == MLXQ_ZERO_MIDDLE;
  bool scaled = layer->zero_rule == MLXQ_ZERO_SCALED;
  for (size_t out = 0; out < outs; out++) {
    for (size_t group = 0; group < groups; group++) {
      double scale = by_rows ? stored[out * tile->scale_row + group] : stored[group * outs + out];
      double bias = middle ? scale * -(double)(1u << (layer->bits - 1)) : fit->biases[out * groups + group];
      if (scaled) bias = ((const double *)zeros)[group * outs + out];
      for (size_t k = 0; k < layer->repeat; k++) {
        size_t at = (out * groups + group) * layer->repeat + k;
        ((double *)outputs[1])[at] = scale;
        ((double *)outputs[2])[at] = bias;
      }
    }
  }
}

/* ---- Codes ----------------------------------------------------------------------------------------------------- */

/* The matrix of codes as MLX packs it: a row for each output, codes in order of inputs, least significant bits first.
 */
static void arrange(const mlxq_foreign_tile *tile, const mlxq_kernel_table *kernels, const void *stored,
                    uint8_t *words) {
  const mlxq_foreign_layer *layer = tile->layer;
  size_t ins = (size_t)layer->ins, outs = tile->outs;
  switch (layer->packing) {
    case MLXQ_PACKING_AWQ_GEMM:
      kernels->repack_awq(stored, ins, outs / 8, words);
      break;
    case MLXQ_PACKING_GPTQ:
      kernels->transpose(sizeof(uint32_t), stored, ins * layer->bits / 32, outs, words);
      break;
    case MLXQ_PACKING_AWQ_GEMV:
      memcpy(words, stored, outs * ins / 2);
      break;
    case MLXQ_PACKING_AWQ_GEMV_FAST:
      memset(words, 0, outs * ins / 2);
      for (size_t i = 0; i < outs / 4 * ins; i++) {
        size_t column = i % ins, in_block = column % 64, t = in_block % 16;
        size_t row = i / ins * 4 + in_block / 16, in = column / 64 * 64 + 32 * (t >> 3) + (t & 7);
        uint32_t word = ((const uint16_t *)stored)[i];
        for (size_t n = 0; n < 4; n++, in += 8) {
          words[(row * ins + in) / 2] |= (uint8_t)((word >> 4 * n & 15u) << in % 2 * 4);
        }
      }
      break;
  }
}

/* The packed codes of a row, one byte each, and back. */
enum { CODES_AT_ONCE = 64 };

static void unpack_row(unsigned bits, uint8_t *codes, const uint8_t *words, size_t count) {
  for (size_t i = 0; i < count; i += CODES_AT_ONCE) {
    size_t some = count - i < CODES_AT_ONCE ? count - i : CODES_AT_ONCE;
    mlxq_ref_unpack(bits, codes + i, words + i * bits / 8, some);
  }
}

static void pack_row(unsigned bits, uint8_t *words, const uint8_t *codes, size_t count) {
  for (size_t i = 0; i < count; i += CODES_AT_ONCE) {
    size_t some = count - i < CODES_AT_ONCE ? count - i : CODES_AT_ONCE;
    mlxq_ref_pack(bits, words + i * bits / 8, codes + i, some);
  }
}

/* The inputs of a group: `first` up to `end`. */
static size_t group_end(const mlxq_foreign_layer *layer, size_t first) {
  size_t left = (size_t)layer->ins - first;
  return first + (left < layer->group_ins ? left : (size_t)layer->group_ins);
}

/* Moves the codes of a row so that the zero point of every group is 2^bits, in one bit more. */
static void widen_row(const mlxq_foreign_layer *layer, const uint8_t *words, const float *zeros, mlxq_fit *fit,
                      uint8_t *result) {
  size_t ins = (size_t)layer->ins;
  uint8_t *codes = fit->once;
  unpack_row(layer->bits, codes, words, ins);
  for (size_t first = 0, end; first < ins; first = end, zeros++) {
    const uint8_t shift = (uint8_t)((1u << layer->bits) - (unsigned)*zeros);
    end = group_end(layer, first);
    for (size_t i = first; i < end; i++) codes[i] = (uint8_t)(codes[i] + shift);
  }
  pack_row((unsigned)layer->scheme.bits, result, codes, ins);
}

/* Dequantizes a row to floats: (code - zero) * scale, or where zeros are scaled, scale * code + bias. */
static void dequantize_row(const mlxq_foreign_layer *layer, const uint8_t *codes, const float *scales,
                           const float *zeros, const float *biases, float *dense) {
  size_t ins = (size_t)layer->ins;
  for (size_t first = 0, end, group = 0; first < ins; first = end, group++) {
    const float scale = scales[group];
    end = group_end(layer, first);
    if (layer->zero_rule == MLXQ_ZERO_SCALED) {
      for (size_t i = first; i < end; i++) dense[i] = scale * (float)codes[i] + biases[group];
    } else {
      for (size_t i = first; i < end; i++) dense[i] = ((float)codes[i] - zeros[group]) * scale;
    }
  }
}

/* The same where each input has a group of its own, as GPTQ alone has it. False where that is out of range. */
static bool dequantize_reordered_row(const mlxq_foreign_layer *layer, const uint8_t *codes, const float *scales,
                                     const float *zeros, const int32_t *group_index, float *dense) {
  for (size_t i = 0; i < layer->ins; i++) {
    const size_t group = (size_t)group_index[i];
    if (group >= layer->groups) return false;
    dense[i] = ((float)codes[i] - zeros[group]) * scales[group];
  }
  return true;
}

/* Rounds floats to a dtype of two bytes that takes their place. */
static void narrow_in_place(const mlxq_kernel_table *kernels, mlxq_dtype dtype, float *values, size_t count) {
  enum { PIECE = 512 };
  float wide[PIECE];
  for (size_t at = 0; at < count; at += PIECE) {
    size_t some = count - at < PIECE ? count - at : PIECE;
    memcpy(wide, values + at, some * sizeof *wide);
    kernels->cast(MLXQ_F32, dtype, wide, (uint16_t *)(void *)values + at, some);
  }
}

static bool requantize(const mlxq_foreign_tile *tile, const mlxq_kernel_table *kernels, mlxq_fit *fit,
                       void *const *outputs, const char **bad) {
  const mlxq_foreign_layer *layer = tile->layer;
  size_t ins = (size_t)layer->ins, groups = (size_t)layer->groups;
  size_t row_groups = ins / (size_t)layer->scheme.group_size, bytes = mlxq_dtype_bits(layer->dtype) / 8;
  mlxq_kernel_args args = {.profile = tile->profile,
                           .dtype = layer->dtype,
                           .group_size = (size_t)layer->scheme.group_size,
                           .groups = row_groups};
  size_t padding = (sizeof(float) - ins % sizeof(float)) % sizeof(float);
  float *dense = (float *)(void *)(fit->once + ins + padding);
  for (size_t out = 0; out < tile->outs; out++) {
    const float *scales = fit->scales + out * groups, *zeros = fit->zeros + out * groups;
    const float *biases = fit->biases + out * groups;
    unpack_row(layer->bits, fit->once, fit->words + out * ins * layer->bits / 8, ins);
    if (!tile->group_index) {
      dequantize_row(layer, fit->once, scales, zeros, biases, dense);
    } else if (!dequantize_reordered_row(layer, fit->once, scales, zeros, tile->group_index, dense)) {
      *bad = "an index in g_idx is no group";
      return false;
    }
    if (layer->dtype != MLXQ_F32) narrow_in_place(kernels, layer->dtype, dense, ins);
    size_t failed = kernels->quantize[mlxq_format_of(&layer->scheme)](
        &args, dense, (uint8_t *)outputs[0] + out * ins * (size_t)layer->scheme.bits / 8,
        (uint8_t *)outputs[1] + out * row_groups * bytes, (uint8_t *)outputs[2] + out * row_groups * bytes);
    if (failed != MLXQ_ALL_FINITE) {
      *bad = "a dequantized weight is NaN or infinite";
      return false;
    }
  }
  return true;
}

bool mlxq_foreign_tile_run(const mlxq_foreign_tile *tile, const mlxq_kernel_table *kernels, const void *const *inputs,
                           void *const *outputs, const char **bad) {
  const mlxq_foreign_layer *layer = tile->layer;
  size_t elems = tile->outs * (size_t)layer->groups;
  bool changed = layer->widened || layer->requantized;
  mlxq_fit fit = fit_of(tile);
  load_fit(tile, kernels, inputs, &fit);
  arrange(tile, kernels, inputs[0], changed ? fit.words : outputs[0]);
  if (layer->requantized) {
    return requantize(tile, kernels, &fit, outputs, bad);
  }
  /* --dtype rounds the scales before anything is computed of them. */
  if (layer->round_dtype != tile->scales && layer->round_dtype != MLXQ_F64 && layer->round_dtype != MLXQ_F32) {
    round_to(kernels, layer->round_dtype, elems, fit.scales, fit.results);
  }
  if (layer->widened) {
    for (size_t out = 0; out < tile->outs; out++) {
      widen_row(layer, fit.words + out * (size_t)layer->ins * layer->bits / 8, fit.zeros + out * (size_t)layer->groups,
                &fit, (uint8_t *)outputs[0] + out * (size_t)layer->ins * (size_t)layer->scheme.bits / 8);
    }
    for (size_t i = 0; i < elems; i++) fit.zeros[i] = (float)(1u << layer->bits);
  }
  if (layer->zero_rule != MLXQ_ZERO_SCALED) {
    for (size_t i = 0; i < elems; i++) fit.biases[i] = -(fit.zeros[i] * fit.scales[i]);
  }
  if (tile->scales == MLXQ_F64 && layer->dtype == MLXQ_F64) {
    store_wide(tile, inputs[1], inputs[2], &fit, outputs);
    return true;
  }
  if (!store(layer, kernels, elems, fit.scales, fit.results, outputs[1]) && tile->must_be_finite) {
    *bad = "a scale is NaN or infinite";
    return false;
  }
  if (!store(layer, kernels, elems, fit.biases, fit.results, outputs[2]) && tile->must_be_finite) {
    *bad = "zero point * scale is beyond the dtype of the scales (--dtype bfloat16 or float32 can hold it)";
    return false;
  }
  return true;
}
