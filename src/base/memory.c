#include "base/memory.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__APPLE__)
#include <sys/random.h>
#endif
#include <time.h>
#include <unistd.h>

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

/* Under sanitizers each allocation is a block of its own, so that they see a read beyond it. */
#if defined(MLXQ_SANITIZED)
enum { ARENA_BLOCK_BYTES = 0 };
#else
enum { ARENA_BLOCK_BYTES = 64 * 1024 };
#endif
enum { ARENA_ALIGNMENT = 16 };

struct mlxq_arena_block {
  struct mlxq_arena_block *next;
  size_t used, capacity;
  _Alignas(ARENA_ALIGNMENT) unsigned char bytes[];
};

void *mlxq_arena_alloc(mlxq_arena *arena, size_t bytes) {
  if (bytes > SIZE_MAX / 2) return NULL;
  if (bytes == 0) bytes = 1; /* a place of its own */
  struct mlxq_arena_block *block = arena->blocks;
  if (!block || block->capacity - block->used < bytes) {
    size_t capacity = bytes > ARENA_BLOCK_BYTES ? bytes : ARENA_BLOCK_BYTES;
    block = mlxq_alloc(1, sizeof *block + capacity);
    if (!block) return NULL;
    *block = (struct mlxq_arena_block){.next = arena->blocks, .capacity = capacity};
    arena->blocks = block;
  }
  void *result = block->bytes + block->used;
  size_t rounded = (bytes + ARENA_ALIGNMENT - 1) / ARENA_ALIGNMENT * ARENA_ALIGNMENT,
         left = block->capacity - block->used;
  block->used += rounded < left ? rounded : left;
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

/* ---- Hashes ---------------------------------------------------------------------------------------------------- */

static uint64_t hash_key[2];
static pthread_once_t hash_key_drawn = PTHREAD_ONCE_INIT;

/* Without a source of randomness, where the program lies and what time it is must do. */
static void draw_hash_key(void) {
  if (getentropy(hash_key, sizeof hash_key) == 0) return;
  hash_key[0] = (uint64_t)(uintptr_t)&hash_key ^ (uint64_t)time(NULL) << 32;
  hash_key[1] = (uint64_t)clock() * UINT64_C(0x9e3779b97f4a7c15);
}

/* SipHash's four words, and the bytes that do not make a word yet. */
typedef struct sip_state {
  uint64_t v[4], word;
  size_t length;
} sip_state;

static uint64_t turned(uint64_t word, unsigned bits) {
  return word << bits | word >> (64 - bits);
}

static void sip_round(uint64_t *v) {
  v[0] += v[1];
  v[2] += v[3];
  v[1] = turned(v[1], 13) ^ v[0];
  v[3] = turned(v[3], 16) ^ v[2];
  v[0] = turned(v[0], 32);
  v[2] += v[1];
  v[0] += v[3];
  v[1] = turned(v[1], 17) ^ v[2];
  v[3] = turned(v[3], 21) ^ v[0];
  v[2] = turned(v[2], 32);
}

static void sip_word(sip_state *state, uint64_t word) {
  state->v[3] ^= word;
  sip_round(state->v);
  state->v[0] ^= word;
}

static void sip_bytes(sip_state *state, const char *text, size_t length) {
  for (size_t i = 0; i < length; i++) {
    state->word |= (uint64_t)(unsigned char)text[i] << 8 * (state->length % 8);
    if (++state->length % 8 != 0) continue;
    sip_word(state, state->word);
    state->word = 0;
  }
}

static uint64_t sip_end(sip_state *state) {
  sip_word(state, state->word | (uint64_t)state->length << 56);
  state->v[2] ^= 0xFF;
  for (int i = 0; i < 3; i++) sip_round(state->v);
  return state->v[0] ^ state->v[1] ^ state->v[2] ^ state->v[3];
}

uint64_t mlxq_hash_joined(const char *text, size_t length, const char *suffix, size_t suffix_length) {
  pthread_once(&hash_key_drawn, draw_hash_key);
  sip_state state = {.v = {hash_key[0] ^ UINT64_C(0x736f6d6570736575), hash_key[1] ^ UINT64_C(0x646f72616e646f6d),
                           hash_key[0] ^ UINT64_C(0x6c7967656e657261), hash_key[1] ^ UINT64_C(0x7465646279746573)}};
  sip_bytes(&state, text, length);
  sip_bytes(&state, suffix, suffix_length);
  return sip_end(&state);
}

uint64_t mlxq_hash(const char *text, size_t length) {
  return mlxq_hash_joined(text, length, "", 0);
}

uint64_t mlxq_digest(const char *text, size_t length) {
  uint64_t digest = UINT64_C(0xcbf29ce484222325);
  for (size_t i = 0; i < length; i++) digest = (digest ^ (unsigned char)text[i]) * UINT64_C(0x100000001b3);
  digest ^= digest >> 32; /* FNV mixes little into the low bits of short names */
  return digest * UINT64_C(0x9e3779b97f4a7c15);
}
