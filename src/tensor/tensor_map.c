#include "tensor/tensor_map.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

mlxq_status mlxq_weights_new(mlxq_weights **weights, mlxq_error *error) {
  *weights = mlxq_calloc(1, sizeof **weights);
  return *weights ? MLXQ_OK : mlxq_fail_memory(error);
}

void mlxq_weights_free(mlxq_weights *weights) {
  if (!weights) return;
  for (size_t i = 0; i < weights->owned_count; i++) free(weights->owned[i]);
  free(weights->owned);
  free(weights->entries);
  free(weights->slots);
  mlxq_arena_free(&weights->arena);
  free(weights);
}

mlxq_status mlxq_tensor_bytes(uint64_t *bytes, mlxq_dtype dtype, uint32_t rank, const uint64_t *shape,
                              mlxq_error *error) {
  /* A zero dimension makes the tensor empty, however large the others are; their product must still fit. */
  uint64_t elems = 1, bits;
  bool empty = false;
  for (uint32_t i = 0; i < rank; i++) {
    empty = empty || shape[i] == 0;
    if (!mlxq_mul_u64(&elems, elems, shape[i] ? shape[i] : 1)) {
      return mlxq_fail(error, MLXQ_OVERFLOW, NULL, NULL, "shape: the product of the dimensions does not fit 63 bits");
    }
  }
  if (!mlxq_mul_u64(&bits, elems, mlxq_dtype_bits(dtype))) {
    return mlxq_fail(error, MLXQ_OVERFLOW, NULL, NULL, "shape: the size in bits does not fit 63 bits");
  }
  if (empty) bits = 0;
  if (bits % 8 != 0) {
    return mlxq_fail(error, MLXQ_CORRUPT, NULL, NULL, "shape: %s elements fill no whole number of bytes",
                     mlxq_dtype_name(dtype));
  }
  *bytes = bits / 8;
  return MLXQ_OK;
}

uint64_t mlxq_tensor_elems(const mlxq_tensor *tensor) {
  uint64_t elems = 1;
  for (uint32_t i = 0; i < tensor->rank; i++) elems *= tensor->shape[i];
  return elems;
}

/* The slot of a name, or the empty slot where it would go. The table always has empty slots. Names are compared as
 * `name` followed by `suffix`; a name that is looked up may hold a NUL, which none in the map does. */
static size_t find_slot(const mlxq_weights *weights, uint64_t hash, const char *name, size_t length,
                        const char *suffix) {
  size_t mask = weights->slot_count - 1;
  for (size_t slot = (size_t)hash & mask;; slot = (slot + 1) & mask) {
    if (weights->slots[slot] == 0) return slot;
    const char *other = weights->entries[weights->slots[slot] - 1].tensor.name;
    if (strnlen(other, length) < length || memcmp(other, name, length) != 0) continue;
    if (strcmp(other + length, suffix) == 0) return slot;
  }
}

static bool rehash(mlxq_weights *weights, size_t slot_count) {
  uint32_t *slots = mlxq_calloc(slot_count, sizeof *slots);
  if (!slots) return false;
  free(weights->slots);
  weights->slots = slots;
  weights->slot_count = slot_count;
  for (size_t i = 0; i < weights->count; i++) {
    const char *name = weights->entries[i].tensor.name;
    size_t length = strlen(name);
    slots[find_slot(weights, mlxq_hash(name, length), name, length, "")] = (uint32_t)(i + 1);
  }
  return true;
}

mlxq_status mlxq_weights_describe(mlxq_weights *weights, const char *name, size_t name_length, mlxq_dtype dtype,
                                  uint32_t rank, const uint64_t *shape, uint32_t file, uint64_t offset,
                                  mlxq_tensor_entry **entry, mlxq_error *error) {
  uint64_t bytes = 0;
  if ((unsigned)dtype >= MLXQ_DTYPE_COUNT)
    return mlxq_fail(error, MLXQ_USAGE, NULL, name, "unknown dtype %d", (int)dtype);
  if (rank > MLXQ_MAX_RANK) {
    return mlxq_fail(error, MLXQ_OUT_OF_RANGE, NULL, name, "shape: %u dimensions; at most %u are accepted", rank,
                     MLXQ_MAX_RANK);
  }
  mlxq_status status = mlxq_tensor_bytes(&bytes, dtype, rank, shape, error);
  if (status != MLXQ_OK) return mlxq_error_at_key(error, status, name);
  if (weights->count >= UINT32_MAX - 1) {
    return mlxq_fail(error, MLXQ_OVERFLOW, NULL, name, "too many tensors");
  }
  if (2 * (weights->count + 1) > weights->slot_count &&
      !rehash(weights, weights->slot_count ? 2 * weights->slot_count : 64)) {
    return mlxq_fail_memory(error);
  }
  size_t slot = find_slot(weights, mlxq_hash(name, name_length), name, name_length, "");
  if (weights->slots[slot] != 0) {
    return mlxq_fail(error, MLXQ_KEY_COLLISION, NULL, name, "the name is there already");
  }
  void *entries = weights->entries;
  if (!mlxq_grow(&entries, weights->count, &weights->capacity, sizeof *weights->entries)) {
    return mlxq_fail_memory(error);
  }
  weights->entries = entries;
  char *name_copy = mlxq_arena_text(&weights->arena, name, name_length);
  uint64_t *shape_copy = mlxq_arena_alloc(&weights->arena, rank * sizeof *shape);
  if (!name_copy || !shape_copy) return mlxq_fail_memory(error);
  if (rank > 0) memcpy(shape_copy, shape, rank * sizeof *shape);
  weights->entries[weights->count] = (mlxq_tensor_entry){
      .tensor = {.name = name_copy, .dtype = dtype, .rank = rank, .shape = shape_copy, .bytes = bytes},
      .file = file,
      .offset = offset,
  };
  if (entry) *entry = &weights->entries[weights->count];
  weights->count++;
  weights->slots[slot] = (uint32_t)weights->count;
  return MLXQ_OK;
}

mlxq_status mlxq_weights_allocate(mlxq_weights *weights, size_t index, void **data, mlxq_error *error) {
  mlxq_tensor *tensor = &weights->entries[index].tensor;
  void *owned = weights->owned;
  if (tensor->bytes > SIZE_MAX || !mlxq_grow(&owned, weights->owned_count, &weights->owned_capacity, sizeof(void *))) {
    return mlxq_fail_memory(error);
  }
  weights->owned = owned;
  *data = mlxq_alloc((size_t)tensor->bytes, 1);
  if (!*data) {
    return mlxq_fail(error, MLXQ_NO_MEMORY, NULL, tensor->name, "out of memory for %llu bytes",
                     (unsigned long long)tensor->bytes);
  }
  weights->owned[weights->owned_count++] = *data;
  tensor->data = *data;
  return MLXQ_OK;
}

/* Takes the newest entry back, for an addition that failed half-way. Its name stays in the arena. */
static void forget_last(mlxq_weights *weights) {
  const char *name = weights->entries[weights->count - 1].tensor.name;
  size_t length = strlen(name);
  /* Nothing was inserted after it, so no probe sequence runs through its slot. */
  weights->slots[find_slot(weights, mlxq_hash(name, length), name, length, "")] = 0;
  weights->count--;
}

mlxq_status mlxq_weights_add_borrowed(mlxq_weights *weights, const char *name, mlxq_dtype dtype, uint32_t rank,
                                      const uint64_t *shape, const void *data, mlxq_error *error) {
  mlxq_tensor_entry *entry = NULL;
  mlxq_status status = mlxq_weights_describe(weights, name, strlen(name), dtype, rank, shape, 0, 0, &entry, error);
  if (status == MLXQ_OK && entry) entry->tensor.data = data;
  return status;
}

mlxq_status mlxq_weights_add_copy(mlxq_weights *weights, const char *name, mlxq_dtype dtype, uint32_t rank,
                                  const uint64_t *shape, const void *data, mlxq_error *error) {
  void *copy = NULL;
  mlxq_status status = mlxq_weights_add_borrowed(weights, name, dtype, rank, shape, NULL, error);
  if (status != MLXQ_OK) return status;
  status = mlxq_weights_allocate(weights, weights->count - 1, &copy, error);
  if (!copy) {
    forget_last(weights);
    return status;
  }
  uint64_t bytes = weights->entries[weights->count - 1].tensor.bytes;
  if (bytes > 0) memcpy(copy, data, (size_t)bytes);
  return MLXQ_OK;
}

size_t mlxq_weights_count(const mlxq_weights *weights) {
  return weights->count;
}

const mlxq_tensor *mlxq_weights_at(const mlxq_weights *weights, size_t index) {
  return index < weights->count ? &weights->entries[index].tensor : NULL;
}

static size_t index_of(const mlxq_weights *weights, const char *name, size_t length, const char *suffix) {
  if (weights->slot_count == 0) return SIZE_MAX;
  uint64_t hash = mlxq_hash_joined(name, length, suffix, strlen(suffix));
  uint32_t found = weights->slots[find_slot(weights, hash, name, length, suffix)];
  return found ? found - 1 : SIZE_MAX;
}

size_t mlxq_weights_index(const mlxq_weights *weights, const char *name, size_t name_length) {
  return index_of(weights, name, name_length, "");
}

const mlxq_tensor *mlxq_weights_find(const mlxq_weights *weights, const char *name) {
  size_t index = index_of(weights, name, strlen(name), "");
  return index == SIZE_MAX ? NULL : &weights->entries[index].tensor;
}

const mlxq_tensor *mlxq_weights_part(const mlxq_weights *weights, const char *layer, size_t layer_length,
                                     const char *suffix) {
  size_t index = index_of(weights, layer, layer_length, suffix);
  return index == SIZE_MAX ? NULL : &weights->entries[index].tensor;
}

bool mlxq_name_splits(const char *name, const char *suffix, size_t *layer_length) {
  size_t length = strlen(name), suffix_length = strlen(suffix);
  if (length < suffix_length || strcmp(name + length - suffix_length, suffix) != 0) return false;
  *layer_length = length - suffix_length;
  return true;
}
