#include "helpers.h"

#include "base/file.h"
#include "safetensors/safetensors.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- Random numbers -------------------------------------------------------------------------------------------- */

static uint64_t random_state = 1;

void seed_random(uint64_t seed) {
  random_state = seed;
}

/* SplitMix64. */
uint64_t next_random(void) {
  uint64_t z = random_state += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

uint64_t random_below(uint64_t limit) {
  return next_random() % limit;
}

/* ---- Weights --------------------------------------------------------------------------------------------------- */

const mlxq_scheme AFFINE_4_64 = {MLXQ_AFFINE, 4, 64};
const mlxq_scheme LEGAL[LEGAL_COUNT] = {
    {MLXQ_AFFINE, 2, 32},  {MLXQ_AFFINE, 2, 64},  {MLXQ_AFFINE, 2, 128}, {MLXQ_AFFINE, 3, 32},  {MLXQ_AFFINE, 3, 64},
    {MLXQ_AFFINE, 3, 128}, {MLXQ_AFFINE, 4, 32},  {MLXQ_AFFINE, 4, 64},  {MLXQ_AFFINE, 4, 128}, {MLXQ_AFFINE, 5, 32},
    {MLXQ_AFFINE, 5, 64},  {MLXQ_AFFINE, 5, 128}, {MLXQ_AFFINE, 6, 32},  {MLXQ_AFFINE, 6, 64},  {MLXQ_AFFINE, 6, 128},
    {MLXQ_AFFINE, 8, 32},  {MLXQ_AFFINE, 8, 64},  {MLXQ_AFFINE, 8, 128}, {MLXQ_MXFP4, 4, 32},   {MLXQ_MXFP8, 8, 32},
    {MLXQ_NVFP4, 4, 16},
};
const mlxq_dtype QUANTIZABLE[QUANTIZABLE_COUNT] = {MLXQ_F16, MLXQ_BF16, MLXQ_F32};

mlxq_weights *new_weights(void) {
  mlxq_weights *weights = NULL;
  assert_int_equal(mlxq_weights_new(&weights, NULL), MLXQ_OK);
  return weights;
}

void add_bytes(mlxq_weights *weights, const char *name, mlxq_dtype dtype, uint32_t rank, const uint64_t *shape,
               const void *data) {
  mlxq_error error;
  if (mlxq_weights_add_copy(weights, name, dtype, rank, shape, data, &error) != MLXQ_OK) {
    fail_msg("%s: %s", name, error.message);
  }
}

/* Fills `bytes` bytes with elements of a dtype; floating ones are about as large as weights are. */
static void fill_random(unsigned char *data, mlxq_dtype dtype, uint64_t bytes) {
  for (uint64_t i = 0; i < bytes; i += 8) {
    uint64_t bits = next_random();
    if (dtype == MLXQ_F16) {
      bits = (bits & UINT64_C(0x83ff83ff83ff83ff)) | (next_random() & UINT64_C(0x0c000c000c000c00)) |
             UINT64_C(0x2000200020002000);
    } else if (dtype == MLXQ_BF16) {
      bits = (bits & UINT64_C(0x80ff80ff80ff80ff)) | UINT64_C(0x3c003c003c003c00);
    } else if (dtype == MLXQ_F32) {
      bits = (bits & UINT64_C(0x80ffffff80ffffff)) | UINT64_C(0x3c0000003c000000);
    } else if (dtype == MLXQ_F64) {
      bits = (bits & UINT64_C(0x801fffffffffffff)) | UINT64_C(0x3f80000000000000);
    }
    memcpy(data + i, &bits, bytes - i < 8 ? (size_t)(bytes - i) : 8);
  }
}

void add_random(mlxq_weights *weights, const char *name, mlxq_dtype dtype, uint32_t rank, const uint64_t *shape) {
  uint64_t bits = mlxq_dtype_bits(dtype);
  for (uint32_t i = 0; i < rank; i++) bits *= shape[i];
  unsigned char *data = malloc((size_t)bits / 8 + 1);
  assert_non_null(data);
  fill_random(data, dtype, bits / 8);
  add_bytes(weights, name, dtype, rank, shape, data);
  free(data);
}

void add_triple(mlxq_weights *weights, const char *layer, const mlxq_scheme *scheme, uint32_t rank,
                const uint64_t *dense) {
  char name[256];
  uint64_t shape[MLXQ_MAX_RANK];
  memcpy(shape, dense, rank * sizeof *shape);
  bool affine = scheme->mode == MLXQ_AFFINE;
  shape[rank - 1] = dense[rank - 1] * (uint64_t)scheme->bits / 32;
  snprintf(name, sizeof name, "%s.weight", layer);
  add_random(weights, name, MLXQ_U32, rank, shape);
  shape[rank - 1] = dense[rank - 1] / (uint64_t)scheme->group_size;
  snprintf(name, sizeof name, "%s.scales", layer);
  add_random(weights, name, affine ? MLXQ_BF16 : MLXQ_U8, rank, shape);
  snprintf(name, sizeof name, "%s.biases", layer);
  if (affine) add_random(weights, name, MLXQ_BF16, rank, shape);
}

unsigned char *bytes_of(const mlxq_weights *weights, const char *name) {
  const mlxq_tensor *tensor = mlxq_weights_find(weights, name);
  assert_non_null(tensor);
  return (unsigned char *)(uintptr_t)tensor->data;
}

mlxq_quant_config *config_of(mlxq_mode mode, int32_t bits, int32_t group_size) {
  mlxq_quant_config *config = NULL;
  mlxq_scheme scheme = {mode, bits, group_size};
  assert_int_equal(mlxq_quant_config_new(&config, &scheme, NULL), MLXQ_OK);
  return config;
}

mlxq_quant_config *parse_config(const char *block) {
  char text[4096];
  mlxq_error error;
  mlxq_quant_config *config = NULL;
  int length = snprintf(text, sizeof text, "{\"quantization\": %s}", block);
  assert_in_range(length, 1, sizeof text - 1);
  if (mlxq_quant_config_parse(&config, text, (size_t)length, &error) != MLXQ_OK) {
    fail_msg("%s: %s: %s", block, error.layer, error.message);
  }
  assert_non_null(config);
  return config;
}

void assert_shape(const mlxq_tensor *tensor, mlxq_dtype dtype, uint32_t rank, const uint64_t *shape) {
  assert_non_null(tensor);
  assert_int_equal(tensor->dtype, dtype);
  assert_int_equal(tensor->rank, rank);
  uint64_t bits = mlxq_dtype_bits(dtype);
  for (uint32_t i = 0; i < rank; i++) {
    assert_int_equal(tensor->shape[i], shape[i]);
    bits *= shape[i];
  }
  assert_int_equal(tensor->bytes, bits / 8);
}

void assert_same_tensor(const mlxq_tensor *tensor, const mlxq_tensor *expected) {
  assert_non_null(tensor);
  assert_non_null(expected);
  assert_string_equal(tensor->name, expected->name);
  assert_shape(tensor, expected->dtype, expected->rank, expected->shape);
  if (tensor->bytes == 0) return;
  if (memcmp(tensor->data, expected->data, (size_t)tensor->bytes) != 0) fail_msg("%s: other bytes", tensor->name);
}

void assert_same_weights(const mlxq_weights *weights, const mlxq_weights *expected) {
  assert_int_equal(mlxq_weights_count(weights), mlxq_weights_count(expected));
  for (size_t i = 0; i < mlxq_weights_count(weights); i++) {
    assert_same_tensor(mlxq_weights_at(weights, i), mlxq_weights_at(expected, i));
  }
}

void assert_names(const mlxq_weights *weights, const char *const *names, size_t count) {
  assert_int_equal(mlxq_weights_count(weights), count);
  for (size_t i = 0; i < count; i++) assert_string_equal(mlxq_weights_at(weights, i)->name, names[i]);
}

void assert_error(const mlxq_error *error, mlxq_status status, const char *layer, const char *key) {
  if (error->status != status) {
    fail_msg("%s, not %s: %s", mlxq_status_name(error->status), mlxq_status_name(status), error->message);
  }
  assert_string_equal(error->layer, layer);
  assert_string_equal(error->key, key);
  assert_string_equal(error->file, "");
  assert_int_equal(error->os_errno, 0);
  assert_true(strlen(error->message) > 0);
  assert_null(strchr(error->message, '\n'));
}

/* ---- Files ----------------------------------------------------------------------------------------------------- */

static size_t descriptors_at_start;

int make_scratch(void **state) {
  char *path = strdup("/tmp/mlxq-test-XXXXXX");
  if (!path || !mkdtemp(path)) return -1;
  *state = path;
  descriptors_at_start = entries_in("/proc/self/fd");
  return 0;
}

int remove_scratch(void **state) {
  size_t descriptors = entries_in("/proc/self/fd");
  mlxq_status status = mlxq_file_remove_tree(*state, NULL);
  free(*state);
  if (descriptors != descriptors_at_start) fprintf(stderr, "descriptors were left open\n");
  return status == MLXQ_OK && descriptors == descriptors_at_start ? 0 : -1;
}

const char *path_in(const void *folder, const char *name, ...) {
  static char buffers[32][4096];
  static unsigned turn;
  char *buffer = buffers[turn++ % COUNT(buffers)];
  int length = snprintf(buffer, sizeof buffers[0], "%s/", (const char *)folder);
  assert_in_range(length, 1, sizeof buffers[0] - 1);
  va_list arguments;
  va_start(arguments, name);
  vsnprintf(buffer + length, sizeof buffers[0] - (size_t)length, name, arguments);
  va_end(arguments);
  return buffer;
}

void make_folder(const char *path) {
  assert_int_equal(mkdir(path, 0777), 0);
}

void write_text(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  assert_true(fd >= 0);
  assert_int_equal(write(fd, text, strlen(text)), strlen(text));
  assert_int_equal(close(fd), 0);
}

void assert_text(const char *path, const char *text) {
  char *found = NULL;
  size_t length = 0;
  assert_int_equal(mlxq_file_read_text(&found, &length, path, 1 << 24, NULL), MLXQ_OK);
  assert_int_equal(strlen(found), length);
  assert_string_equal(found, text);
  free(found);
}

bool exists(const char *path) {
  struct stat status;
  return lstat(path, &status) == 0;
}

size_t entries_in(const char *path) {
  size_t count = 0;
  DIR *folder = opendir(path);
  assert_non_null(folder);
  while (readdir(folder)) count++;
  closedir(folder);
  return count - 2; /* "." and ".." */
}

void write_safetensors(const char *path, mlxq_weights *weights) {
  char *header = NULL;
  size_t header_bytes = 0, count = weights->count;
  uint64_t file_bytes = 0;
  mlxq_error error;
  size_t *indices = malloc((count + 1) * sizeof *indices);
  assert_non_null(indices);
  for (size_t i = 0; i < count; i++) indices[i] = i;
  assert_int_equal(mlxq_safetensors_layout(weights, 0, indices, count, &header, &header_bytes, &file_bytes, &error),
                   MLXQ_OK);
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  assert_true(fd >= 0);
  assert_int_equal(mlxq_file_write_at(fd, header, header_bytes, 0, path, &error), MLXQ_OK);
  for (size_t i = 0; i < count; i++) {
    const mlxq_tensor_entry *entry = &weights->entries[i];
    assert_int_equal(
        mlxq_file_write_at(fd, entry->tensor.data, (size_t)entry->tensor.bytes, entry->offset, path, &error), MLXQ_OK);
  }
  assert_int_equal(close(fd), 0);
  free(header);
  free(indices);
}

mlxq_weights *read_safetensors(const char *path) {
  int fd = -1;
  mlxq_file_identity identity;
  mlxq_error error;
  mlxq_weights *weights = new_weights();
  assert_int_equal(mlxq_file_open(&fd, &identity, path, &error), MLXQ_OK);
  if (mlxq_safetensors_read(weights, 0, fd, identity.bytes, path, &error) != MLXQ_OK) {
    fail_msg("%s: %s: %s", path, error.key, error.message);
  }
  for (size_t i = 0; i < weights->count; i++) {
    void *data;
    const mlxq_tensor_entry *entry = &weights->entries[i];
    assert_int_equal(mlxq_weights_allocate(weights, i, &data, NULL), MLXQ_OK);
    assert_int_equal(mlxq_file_read_at(fd, data, (size_t)entry->tensor.bytes, entry->offset, path, NULL), MLXQ_OK);
  }
  close(fd);
  return weights;
}
