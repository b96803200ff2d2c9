#include "base/memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool mlxq_mul_u64(uint64_t *result, uint64_t a, uint64_t b) {
  return !__builtin_mul_overflow(a, b, result) && *result <= INT64_MAX;
}

bool mlxq_add_u64(uint64_t *result, uint64_t a, uint64_t b) {
  return !__builtin_add_overflow(a, b, result) && *result <= INT64_MAX;
}

/* The size of an array, at least 1 so that no allocation is a NULL that means success; 0 on overflow. */
static size_t array_bytes(size_t count, size_t elem_bytes) {
  uint64_t bytes;
  if (!mlxq_mul_u64(&bytes, count, elem_bytes) || bytes > SIZE_MAX) return 0;
  return bytes ? (size_t)bytes : 1;
}

void *mlxq_alloc(size_t count, size_t elem_bytes) {
  size_t bytes = array_bytes(count, elem_bytes);
  return bytes ? malloc(bytes) : NULL;
}

void *mlxq_calloc(size_t count, size_t elem_bytes) {
  size_t bytes = array_bytes(count, elem_bytes);
  return bytes ? calloc(1, bytes) : NULL;
}

void *mlxq_realloc(void *old, size_t count, size_t elem_bytes) {
  size_t bytes = array_bytes(count, elem_bytes);
  return bytes ? realloc(old, bytes) : NULL;
}

bool mlxq_grow(void **items, size_t count, size_t *capacity, size_t elem_bytes) {
  if (count < *capacity) return true;
  size_t larger = *capacity ? *capacity + *capacity / 2 + 1 : 16;
  void *grown = mlxq_realloc(*items, larger, elem_bytes);
  if (!grown) return false;
  *items = grown;
  *capacity = larger;
  return true;
}

enum { ARENA_BLOCK_BYTES = 64 * 1024, ARENA_ALIGNMENT = 16 };

struct mlxq_arena_block {
  struct mlxq_arena_block *next;
  size_t used, capacity;
  _Alignas(ARENA_ALIGNMENT) unsigned char bytes[];
};

void *mlxq_arena_alloc(mlxq_arena *arena, size_t bytes) {
  if (bytes > SIZE_MAX / 2) return NULL;
  size_t rounded = (bytes + ARENA_ALIGNMENT - 1) / ARENA_ALIGNMENT * ARENA_ALIGNMENT;
  struct mlxq_arena_block *block = arena->blocks;
  if (!block || block->capacity - block->used < rounded) {
    size_t capacity = rounded > ARENA_BLOCK_BYTES ? rounded : ARENA_BLOCK_BYTES;
    block = mlxq_alloc(1, sizeof *block + capacity);
    if (!block) return NULL;
    *block = (struct mlxq_arena_block){.next = arena->blocks, .capacity = capacity};
    arena->blocks = block;
  }
  void *result = block->bytes + block->used;
  block->used += rounded;
  return result;
}

char *mlxq_arena_text(mlxq_arena *arena, const char *text, size_t length) {
  char *copy = mlxq_arena_alloc(arena, length + 1);
  if (!copy) return NULL;
  memcpy(copy, text, length);
  copy[length] = '\0';
  return copy;
}

void mlxq_arena_free(mlxq_arena *arena) {
  for (struct mlxq_arena_block *block = arena->blocks, *next; block; block = next) {
    next = block->next;
    free(block);
  }
  arena->blocks = NULL;
}

char *mlxq_asprintf(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(NULL, 0, format, arguments);
  va_end(arguments);
  if (length < 0) return NULL;
  char *text = mlxq_alloc((size_t)length + 1, 1);
  if (!text) return NULL;
  va_start(arguments, format);
  vsnprintf(text, (size_t)length + 1, format, arguments);
  va_end(arguments);
  return text;
}

uint64_t mlxq_hash(const char *text, size_t length) {
  return mlxq_hash_joined(text, length, "", 0);
}

uint64_t mlxq_hash_joined(const char *text, size_t length, const char *suffix, size_t suffix_length) {
  uint64_t hash = UINT64_C(0xcbf29ce484222325);
  for (size_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)text[i]) * UINT64_C(0x100000001b3);
  for (size_t i = 0; i < suffix_length; i++) hash = (hash ^ (unsigned char)suffix[i]) * UINT64_C(0x100000001b3);
  hash ^= hash >> 32; /* FNV mixes little into the low bits of short names */
  return hash * UINT64_C(0x9e3779b97f4a7c15);
}
