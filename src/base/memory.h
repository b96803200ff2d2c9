/* Checked sizes and allocation. */
#ifndef MLXQ_BASE_MEMORY_H
#define MLXQ_BASE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* `*result = a * b` or `a + b`; false where it does not fit 63 bits (so that it also fits off_t). */
bool mlxq_mul_u64(uint64_t *result, uint64_t a, uint64_t b);
bool mlxq_add_u64(uint64_t *result, uint64_t a, uint64_t b);

/* malloc, calloc and realloc for arrays of `count` elements, NULL on overflow or exhaustion. Released with free. A
 * count of 0 gives a valid pointer. */
void *mlxq_alloc(size_t count, size_t elem_bytes);
void *mlxq_calloc(size_t count, size_t elem_bytes);
void *mlxq_realloc(void *old, size_t count, size_t elem_bytes);

/* Makes room for one more element in a growing array (`*items`, `count` used of `*capacity`). False when memory is
 * out, the array untouched. */
bool mlxq_grow(void **items, size_t count, size_t *capacity, size_t elem_bytes);

/* A bump allocator for many small objects that live and die together. Zero-initialise; free with mlxq_arena_free. */
typedef struct mlxq_arena {
  struct mlxq_arena_block *blocks;
} mlxq_arena;

/* `bytes` bytes aligned for any type, uninitialised; NULL when memory is out. */
void *mlxq_arena_alloc(mlxq_arena *arena, size_t bytes);

/* A copy of `length` bytes of text plus a NUL. */
char *mlxq_arena_text(mlxq_arena *arena, const char *text, size_t length);

void mlxq_arena_free(mlxq_arena *arena);

/* printf into a fresh string that the caller frees; NULL when memory is out. */
char *mlxq_asprintf(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* 64-bit hash of `length` bytes for hash tables: SipHash-1-3 with a key that each process draws anew, so that nobody
 * can choose names that collide. Nothing that is written may depend on it. */
uint64_t mlxq_hash(const char *text, size_t length);

/* The hash of one text followed by another. */
uint64_t mlxq_hash_joined(const char *text, size_t length, const char *suffix, size_t suffix_length);

/* 64 bits of `length` bytes (FNV-1a with a final mix), in every process the same. */
uint64_t mlxq_digest(const char *text, size_t length);

#endif
