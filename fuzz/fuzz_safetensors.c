/* Reads the input twice: as a whole file, and as the header of a well-framed one, where the fuzzer need not get the
 * length word right: 8 bytes that say how much data follows (modulo MAX_DATA_BYTES), then the header.
 * What is read must cover the data, and must come back from the file that the writer makes of it. */
#include "base/file.h"
#include "safetensors/safetensors.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { WORD_BYTES = 8, MAX_DATA_BYTES = 1 << 20 };

static const char PATH[] = "fuzz.safetensors";

static void require(bool holds) {
  if (!holds) abort();
}

static void put_bytes(int fd, const void *bytes, size_t count, uint64_t offset) {
  require(mlxq_file_write_at(fd, bytes, count, offset, PATH, NULL) == MLXQ_OK);
}

static int open_memory(uint64_t bytes) {
  int fd = memfd_create(PATH, MFD_CLOEXEC);
  require(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
  return fd;
}

static mlxq_weights *new_map(void) {
  mlxq_weights *map = NULL;
  require(mlxq_weights_new(&map, NULL) == MLXQ_OK);
  return map;
}

static void check_map(const mlxq_weights *map, uint64_t file_bytes) {
  uint64_t offset = map->count ? map->entries[0].offset : file_bytes;
  for (size_t i = 0; i < map->count; i++) {
    const mlxq_tensor *tensor = &map->entries[i].tensor;
    size_t name_length = strlen(tensor->name);
    uint64_t bytes = 0;
    require(name_length > 0 && name_length <= MLXQ_SAFETENSORS_MAX_NAME_BYTES);
    require(mlxq_weights_index(map, tensor->name, name_length) == i);
    require(mlxq_tensor_bytes(&bytes, tensor->dtype, tensor->rank, tensor->shape, NULL) == MLXQ_OK);
    require(bytes == tensor->bytes && map->entries[i].offset == offset && map->entries[i].file == 1);
    offset += bytes;
  }
  require(offset == file_bytes);
}

/* The same tensors, whatever their places. */
static void check_same(const mlxq_weights *a, const mlxq_weights *b) {
  require(a->count == b->count);
  for (size_t i = 0; i < a->count; i++) {
    const mlxq_tensor *left = &a->entries[i].tensor, *right = mlxq_weights_find(b, left->name);
    require(right && left->dtype == right->dtype && left->rank == right->rank);
    require(left->rank == 0 || memcmp(left->shape, right->shape, left->rank * sizeof *left->shape) == 0);
  }
}

static char *lay_out(mlxq_weights *map, size_t *header_bytes, uint64_t *file_bytes) {
  char *header = NULL;
  size_t *indices = malloc((map->count + 1) * sizeof *indices);
  require(indices != NULL);
  for (size_t i = 0; i < map->count; i++) indices[i] = i;
  require(mlxq_safetensors_layout(map, 1, indices, map->count, &header, header_bytes, file_bytes, NULL) == MLXQ_OK);
  free(indices);
  return header;
}

static void check_round_trip(mlxq_weights *map) {
  size_t header_bytes, again_bytes;
  uint64_t file_bytes, again_file_bytes;
  char *header = lay_out(map, &header_bytes, &file_bytes);
  int fd = open_memory(file_bytes);
  put_bytes(fd, header, header_bytes, 0);
  mlxq_weights *read_back = new_map();
  require(mlxq_safetensors_read(read_back, 1, fd, file_bytes, PATH, NULL) == MLXQ_OK);
  check_map(read_back, file_bytes);
  check_same(map, read_back);
  char *again = lay_out(read_back, &again_bytes, &again_file_bytes);
  require(again_bytes == header_bytes && again_file_bytes == file_bytes && memcmp(again, header, header_bytes) == 0);
  free(again);
  free(header);
  mlxq_weights_free(read_back);
  close(fd);
}

static void check_file(int fd, uint64_t file_bytes) {
  mlxq_error error = {0};
  mlxq_weights *map = new_map();
  mlxq_status status = mlxq_safetensors_read(map, 1, fd, file_bytes, PATH, &error);
  if (status == MLXQ_OK) {
    check_map(map, file_bytes);
    check_round_trip(map);
  } else {
    require(error.status == status && error.message[0] != '\0' && strcmp(error.file, PATH) == 0);
    require(status == MLXQ_CORRUPT || status == MLXQ_OVERFLOW || status == MLXQ_UNSUPPORTED);
  }
  mlxq_weights_free(map);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  int fd = open_memory(size);
  put_bytes(fd, data, size, 0);
  check_file(fd, size);
  if (size >= WORD_BYTES) {
    uint64_t data_bytes = 0;
    uint8_t word[WORD_BYTES];
    for (int i = 0; i < WORD_BYTES; i++) {
      data_bytes |= (uint64_t)data[i] << 8 * i;
      word[i] = (uint8_t)((uint64_t)(size - WORD_BYTES) >> 8 * i);
    }
    data_bytes %= MAX_DATA_BYTES;
    put_bytes(fd, word, sizeof word, 0);
    require(ftruncate(fd, (off_t)(size + data_bytes)) == 0);
    check_file(fd, size + data_bytes);
  }
  close(fd);
  return 0;
}
