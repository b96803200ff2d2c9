/* An ordered map from tensor name to tensor. */
#ifndef MLXQ_WEIGHTS_H
#define MLXQ_WEIGHTS_H

#include <mlxq/dtype.h>
#include <stddef.h>
#include <stdint.h>

/* The most dimensions a tensor can have. */
#define MLXQ_MAX_RANK 16u

/* One named tensor, row-major (the last axis is contiguous), little-endian. */
typedef struct mlxq_tensor {
  const char *name; /* NUL-terminated */
  mlxq_dtype dtype;
  uint32_t rank;         /* 0 for a scalar */
  const uint64_t *shape; /* `rank` dimensions, outermost first */
  uint64_t bytes;        /* product of shape x bits of dtype / 8 */
  const void *data;      /* `bytes` bytes; NULL where they are in a file (checkpoints) */
} mlxq_tensor;

/* The map: iteration is in the order of insertion, look-up by hash. Opaque. Any number of threads may read one at
 * once; adding needs exclusive use. */
typedef struct mlxq_weights mlxq_weights;

/* Makes an empty map, released by the caller with mlxq_weights_free. MLXQ_NO_MEMORY on failure. */
MLXQ_API mlxq_status mlxq_weights_new(mlxq_weights **weights, mlxq_error *error);

/* Adds a tensor whose bytes the map copies. Name and shape are copied too. MLXQ_KEY_COLLISION where the name is
 * there already, MLXQ_USAGE for a dtype that is none, MLXQ_OUT_OF_RANGE above MLXQ_MAX_RANK, MLXQ_OVERFLOW where the
 * product of the shape does not fit 63 bits, MLXQ_NO_MEMORY; the map is unchanged then. Exclusive use. */
MLXQ_API mlxq_status mlxq_weights_add_copy(mlxq_weights *weights, const char *name, mlxq_dtype dtype, uint32_t rank,
                                           const uint64_t *shape, const void *data, mlxq_error *error);

/* The same, but `data` stays the caller's and must outlive the map. */
MLXQ_API mlxq_status mlxq_weights_add_borrowed(mlxq_weights *weights, const char *name, mlxq_dtype dtype, uint32_t rank,
                                               const uint64_t *shape, const void *data, mlxq_error *error);

/* How many tensors there are. Thread-safe. */
MLXQ_API size_t mlxq_weights_count(const mlxq_weights *weights);

/* The i-th tensor, 0 <= i < count. Owned by the map, valid until the next addition. Thread-safe. */
MLXQ_API const mlxq_tensor *mlxq_weights_at(const mlxq_weights *weights, size_t index);

/* The tensor of a name, or NULL. Ownership as above. Thread-safe. */
MLXQ_API const mlxq_tensor *mlxq_weights_find(const mlxq_weights *weights, const char *name);

/* Releases the map and what it copied; NULL is accepted. */
MLXQ_API void mlxq_weights_free(mlxq_weights *weights);

#endif
