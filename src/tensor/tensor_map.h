/* What mlxq_weights is inside: tensor descriptions whose bytes are in memory or in a file. */
#ifndef MLXQ_TENSOR_TENSOR_MAP_H
#define MLXQ_TENSOR_TENSOR_MAP_H

#include "base/memory.h"

#include <mlxq/weights.h>

typedef struct mlxq_tensor_entry {
  mlxq_tensor tensor;
  uint32_t file;   /* index into the owner's list of files (checkpoints, plans) */
  uint64_t offset; /* of its first byte in that file */
} mlxq_tensor_entry;

struct mlxq_weights {
  mlxq_tensor_entry *entries;
  size_t count, capacity;
  uint32_t *slots; /* open addressing; 0 is empty, else index + 1 */
  size_t slot_count;
  mlxq_arena arena; /* names, shapes and copied bytes */
  void **owned;     /* large copies, each freed on its own */
  size_t owned_count, owned_capacity;
};

/* Bytes of `shape` in `dtype`: MLXQ_OVERFLOW beyond 63 bits, MLXQ_CORRUPT where sub-byte elements fill no whole
 * byte. */
mlxq_status mlxq_tensor_bytes(uint64_t *bytes, mlxq_dtype dtype, uint32_t rank, const uint64_t *shape,
                              mlxq_error *error);

/* Product of the shape, which a described tensor's bytes have shown to fit. */
uint64_t mlxq_tensor_elems(const mlxq_tensor *tensor);

/* Adds a description with no data. Errors as mlxq_weights_add_copy. `*entry` (may be NULL) is valid until the next
 * addition. */
mlxq_status mlxq_weights_describe(mlxq_weights *weights, const char *name, size_t name_length, mlxq_dtype dtype,
                                  uint32_t rank, const uint64_t *shape, uint32_t file, uint64_t offset,
                                  mlxq_tensor_entry **entry, mlxq_error *error);

/* Gives a described tensor `bytes` freshly allocated bytes, owned by the map. */
mlxq_status mlxq_weights_allocate(mlxq_weights *weights, size_t index, void **data, mlxq_error *error);

/* Index of a name, or SIZE_MAX. */
size_t mlxq_weights_index(const mlxq_weights *weights, const char *name, size_t name_length);

/* The tensor `layer` + `suffix`, or NULL: a triple's parts without building their names for the caller. */
const mlxq_tensor *mlxq_weights_part(const mlxq_weights *weights, const char *layer, size_t layer_length,
                                     const char *suffix);

/* True where the name is a layer path followed by `suffix` (".weight"); `*layer_length` is the length of the path. */
bool mlxq_name_splits(const char *name, const char *suffix, size_t *layer_length);

#endif
