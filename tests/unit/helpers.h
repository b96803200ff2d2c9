/* What several unit tests share: weights and configurations to work on, scratch folders, checkpoint files. */
#ifndef MLXQ_TESTS_HELPERS_H
#define MLXQ_TESTS_HELPERS_H

#include <mlxq/mlxq.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* Uses the headers above. */
#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Two arguments, rank and dimensions: add_random(map, "a.weight", MLXQ_F32, SHAPE(4, 64)). */
#define SHAPE(...)                                                                             \
  (uint32_t)(sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t)), (const uint64_t[]) { \
    __VA_ARGS__                                                                                \
  }
#define SCALAR 0, NULL

/* Pseudo-random numbers that are the same in every run. */
void seed_random(uint64_t seed);
uint64_t next_random(void);
uint64_t random_below(uint64_t limit);

/* ---- Weights and configurations -------------------------------------------------------------------------------- */

extern const mlxq_scheme AFFINE_4_64;

/* Every scheme that MLX has, and the dtypes that can be quantized. */
enum { LEGAL_COUNT = 21, QUANTIZABLE_COUNT = 3 };
extern const mlxq_scheme LEGAL[LEGAL_COUNT];
extern const mlxq_dtype QUANTIZABLE[QUANTIZABLE_COUNT];

/* A scheme that a test takes, legal or not; none where `any` is false. */
typedef struct test_scheme {
  bool any;
  mlxq_scheme scheme;
  const char *illegal; /* the key at fault; NULL where MLX has the scheme */
} test_scheme;

mlxq_weights *new_weights(void);
void add_bytes(mlxq_weights *weights, const char *name, mlxq_dtype dtype, uint32_t rank, const uint64_t *shape,
               const void *data);

/* Adds a tensor of random content: finite numbers for F16, BF16, F32 and F64, any bytes for the rest. */
void add_random(mlxq_weights *weights, const char *name, mlxq_dtype dtype, uint32_t rank, const uint64_t *shape);

/* Adds a valid triple that the scheme describes (random codes; scales of any byte, NaN among them, or BF16 with biases
 * in affine mode), whose dense shape this is. */
void add_triple(mlxq_weights *weights, const char *layer, const mlxq_scheme *scheme, uint32_t rank,
                const uint64_t *shape);

/* A tensor's bytes, to change. Only for tensors that the map copied. */
unsigned char *bytes_of(const mlxq_weights *weights, const char *name);

mlxq_quant_config *config_of(mlxq_mode mode, int32_t bits, int32_t group_size);
mlxq_quant_config *parse_config(const char *block);

void assert_shape(const mlxq_tensor *tensor, mlxq_dtype dtype, uint32_t rank, const uint64_t *shape);
void assert_same_tensor(const mlxq_tensor *tensor, const mlxq_tensor *expected);
void assert_same_weights(const mlxq_weights *weights, const mlxq_weights *expected);
void assert_names(const mlxq_weights *weights, const char *const *names, size_t count);

/* All parts of an error: no file, no errno, some message on one line. */
void assert_error(const mlxq_error *error, mlxq_status status, const char *layer, const char *key);

/* ---- Files ----------------------------------------------------------------------------------------------------- */

/* cmocka fixtures: `*state` is the path of a fresh folder, which goes with all that is in it. The teardown also fails
 * where the test left descriptors open. */
int make_scratch(void **state);
int remove_scratch(void **state);

/* FOLDER/NAME with a formatted name, in one of 32 buffers that are reused in turn. */
const char *path_in(const void *folder, const char *name, ...) __attribute__((format(printf, 2, 3)));

void make_folder(const char *path);
void write_text(const char *path, const char *text);
void assert_text(const char *path, const char *text);
bool exists(const char *path); /* dangling links too */
size_t entries_in(const char *folder);

/* Writes a map as a .safetensors file (its tensors' places in the map change), reads one back with its data. */
void write_safetensors(const char *path, mlxq_weights *weights);
mlxq_weights *read_safetensors(const char *path);

#endif
