/* What all reference kernels do with a group: load it to float32, look at its range, pack its codes, store results. */
#ifndef MLXQ_KERNELS_REF_GROUP_H
#define MLXQ_KERNELS_REF_GROUP_H

#include <mlxq/dtype.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The largest group; counts below are multiples of 8 up to this, unless they say otherwise. */
#define MLXQ_REF_GROUP_MAX 128

/* Elements first .. first + count of `dense` (F16, BF16, F32 or F64), as float32. Any count. */
void mlxq_ref_load(float *values, mlxq_dtype dtype, const void *dense, size_t first, size_t count);

/* Rounds to `dtype` (F16, BF16 or F32) and stores as elements first .. first + count of `dense`. Any count. */
void mlxq_ref_store(mlxq_dtype dtype, void *dense, size_t first, const float *values, size_t count);

/* T(x) in place: rounds to `dtype` (F16, BF16 or F32). Any count. */
void mlxq_ref_round(mlxq_dtype dtype, float *values, size_t count);

/* The extremes of a group, or its largest magnitude. False, results unspecified, where it holds a NaN or infinity. */
bool mlxq_ref_range(const float *values, size_t count, float *lowest, float *highest);
bool mlxq_ref_largest(const float *values, size_t count, float *largest);

/* Index of the first NaN or infinity; `count` where there is none. */
size_t mlxq_ref_first_nonfinite(const float *values, size_t count);

/* Codes to the packed bit stream of docs/numerics.md (count * bits / 8 bytes), and back. */
void mlxq_ref_pack(unsigned bits, uint8_t *packed, const uint8_t *codes, size_t count);
void mlxq_ref_unpack(unsigned bits, uint8_t *codes, const uint8_t *packed, size_t count);

#endif
