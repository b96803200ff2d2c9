#include "plan/foreign.h"

#include "plan/model.h"

#include <limits.h>

uint32_t mlxq_foreign_unit_outs(const mlxq_foreign_layer *layer) {
  switch (layer->packing) {
    case MLXQ_PACKING_AWQ_GEMM:
      return 8;
    case MLXQ_PACKING_AWQ_GEMV:
      return 1;
    case MLXQ_PACKING_AWQ_GEMV_FAST:
      return 4;
    default:
      return layer->bits == 3 ? 32 : 32 / layer->bits;
  }
}

uint64_t mlxq_foreign_scratch_bytes(const mlxq_foreign_layer *layer) {
  uint64_t outs = mlxq_foreign_unit_outs(layer);
  /* Scales, zeros and biases as floats, room to transpose them, and results before they are spread. */
  uint64_t bytes = outs * layer->groups * (4 * sizeof(float) + sizeof(double));
  if (layer->widened || layer->requantized) bytes += outs * layer->ins * layer->bits / 8;
  return bytes;
}

/* Field `index` of a stream of little-endian words, `bits` bits each. */
static unsigned field(const uint32_t *words, size_t index, unsigned bits) {
  size_t bit = index * bits, word = bit / 32;
  uint64_t pair = words[word];
  if (bit % 32 + bits > 32) pair |= (uint64_t)words[word + 1] << 32;
  return (unsigned)(pair >> (bit % 32)) & ((1u << bits) - 1);
}

/* Zero points from which one was subtracted in all fields of a word at once: a field of 0 borrowed from the next. The
 * constants are GPTQModel's; those for 3 bits repeat every three words. */
static void unpack_borrowed(const uint32_t *stored, size_t count, unsigned bits, float *zeros) {
  static const uint32_t ONES_OF_3[] = {0x24924924u, 0x92492492u, 0x49249249u};
  const uint32_t ones = bits == 2 ? 0x55555555u : bits == 4 ? 0x11111111u : 0x01010101u;
  const size_t words = bits == 3 ? 3 : 1, fields = words * 32 / bits;
  for (size_t i = 0; i < count; i += fields) {
    uint32_t restored[3] = {0};
    for (size_t k = 0; k < words; k++) restored[k] = stored[i * bits / 32 + k] + (bits == 3 ? ONES_OF_3[k] : ones);
    for (size_t k = 0; k < fields; k++) zeros[i + k] = (float)field(restored, k, bits);
  }
}

void mlxq_foreign_unpack_zeros(const mlxq_foreign_layer *layer, const uint32_t *stored, size_t count, float *zeros) {
  static const unsigned AWQ_ORDER[] = {0, 4, 1, 5, 2, 6, 3, 7};
  if (layer->packing == MLXQ_PACKING_AWQ_GEMM) {
    for (size_t i = 0; i < count; i++) zeros[i] = (float)(stored[i / 8] >> 4 * AWQ_ORDER[i % 8] & 15u);
  } else if (layer->zero_rule == MLXQ_ZERO_BORROWED) {
    unpack_borrowed(stored, count, layer->bits, zeros);
  } else {
    unsigned more = layer->zero_rule == MLXQ_ZERO_LESS_ONE || layer->zero_rule == MLXQ_ZERO_WRAPPED;
    unsigned mask = layer->zero_rule == MLXQ_ZERO_WRAPPED ? (1u << layer->bits) - 1 : UINT_MAX;
    for (size_t i = 0; i < count; i++) zeros[i] = (float)((field(stored, i, layer->bits) + more) & mask);
  }
}
