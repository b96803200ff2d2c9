#include "kernels/ref/group.h"

#include "kernels/ref/floats.h"

void mlxq_ref_load(float *restrict values, mlxq_dtype dtype, const void *restrict dense, size_t first, size_t count) {
  if (dtype == MLXQ_F16) {
    const uint16_t *in = (const uint16_t *)dense + first;
    for (size_t i = 0; i < count; i++) values[i] = mlxq_f16_to_f32(in[i]);
  } else if (dtype == MLXQ_BF16) {
    const uint16_t *in = (const uint16_t *)dense + first;
    for (size_t i = 0; i < count; i++) values[i] = mlxq_bf16_to_f32(in[i]);
  } else if (dtype == MLXQ_F32) {
    memcpy(values, (const float *)dense + first, count * sizeof *values);
  } else {
    const double *in = (const double *)dense + first;
    for (size_t i = 0; i < count; i++) values[i] = (float)in[i];
  }
}

void mlxq_ref_store(mlxq_dtype dtype, void *restrict dense, size_t first, const float *restrict values, size_t count) {
  if (dtype == MLXQ_F16) {
    uint16_t *out = (uint16_t *)dense + first;
    for (size_t i = 0; i < count; i++) out[i] = mlxq_f32_to_f16(values[i]);
  } else if (dtype == MLXQ_BF16) {
    uint16_t *out = (uint16_t *)dense + first;
    for (size_t i = 0; i < count; i++) out[i] = mlxq_f32_to_bf16(values[i]);
  } else {
    memcpy((float *)dense + first, values, count * sizeof *values);
  }
}

void mlxq_ref_round(mlxq_dtype dtype, float *values, size_t count) {
  if (dtype == MLXQ_F16) {
    for (size_t i = 0; i < count; i++) values[i] = mlxq_f16_to_f32(mlxq_f32_to_f16(values[i]));
  } else if (dtype == MLXQ_BF16) {
    for (size_t i = 0; i < count; i++) values[i] = mlxq_bf16_to_f32(mlxq_f32_to_bf16(values[i]));
  }
}

/* Float bits as an integer of the same order (-0 before 0), NaNs beyond the infinities of their sign; its own inverse.
 */
static int32_t ordered(int32_t bits) {
  return bits < 0 ? bits ^ 0x7FFFFFFF : bits;
}

bool mlxq_ref_range(const float *values, size_t count, float *lowest, float *highest) {
  int32_t bits[MLXQ_REF_GROUP_MAX];
  memcpy(bits, values, count * sizeof *bits);
  int32_t low = INT32_MAX, high = INT32_MIN;
  for (size_t i = 0; i < count; i++) {
    int32_t key = ordered(bits[i]);
    low = key < low ? key : low;
    high = key > high ? key : high;
  }
  *lowest = mlxq_f32_from_bits((uint32_t)ordered(low));
  *highest = mlxq_f32_from_bits((uint32_t)ordered(high));
  return mlxq_f32_magnitude(*lowest) < 0x7F800000u && mlxq_f32_magnitude(*highest) < 0x7F800000u;
}

bool mlxq_ref_largest(const float *values, size_t count, float *largest) {
  int32_t bits[MLXQ_REF_GROUP_MAX];
  memcpy(bits, values, count * sizeof *bits);
  int32_t high = 0;
  for (size_t i = 0; i < count; i++) {
    int32_t magnitude = bits[i] & 0x7FFFFFFF;
    high = magnitude > high ? magnitude : high;
  }
  *largest = mlxq_f32_from_bits((uint32_t)high);
  return high < 0x7F800000;
}

size_t mlxq_ref_first_nonfinite(const float *values, size_t count) {
  size_t i = 0;
  while (i < count && mlxq_f32_magnitude(values[i]) < 0x7F800000u) i++;
  return i;
}

/* Eight codes take `bits` bytes: neighbours are joined to pairs, pairs to fours, fours to eight. */
void mlxq_ref_pack(unsigned bits, uint8_t *restrict packed, const uint8_t *restrict codes, size_t count) {
  uint8_t stream[MLXQ_REF_GROUP_MAX + sizeof(uint64_t)];
  for (size_t i = 0; i < count / 8; i++) {
    uint64_t x;
    memcpy(&x, codes + 8 * i, sizeof x);
    x = (x & 0x00FF00FF00FF00FFu) | ((x >> 8) & 0x00FF00FF00FF00FFu) << bits;
    x = (x & 0x0000FFFF0000FFFFu) | ((x >> 16) & 0x0000FFFF0000FFFFu) << 2 * bits;
    x = (x & 0x00000000FFFFFFFFu) | (x >> 32) << 4 * bits;
    memcpy(stream + bits * i, &x, sizeof x); /* the bytes above `bits` are overwritten by the next eight */
  }
  memcpy(packed, stream, count * bits / 8);
}

void mlxq_ref_unpack(unsigned bits, uint8_t *restrict codes, const uint8_t *restrict packed, size_t count) {
  uint8_t stream[MLXQ_REF_GROUP_MAX + sizeof(uint64_t)] = {0};
  memcpy(stream, packed, count * bits / 8);
  uint64_t one = ((uint64_t)1 << bits) - 1, two = one << bits | one, four = two << 2 * bits | two;
  for (size_t i = 0; i < count / 8; i++) {
    uint64_t x;
    memcpy(&x, stream + bits * i, sizeof x);
    x = (x & four) | ((x >> 4 * bits) & four) << 32;
    x = (x & (two | two << 32)) | ((x >> 2 * bits) & (two | two << 32)) << 16;
    x = (x & 0x0001000100010001u * one) | ((x >> bits) & 0x0001000100010001u * one) << 8;
    memcpy(codes + 8 * i, &x, sizeof x);
  }
}
