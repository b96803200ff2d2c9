#include "base/error.h"
#include "base/text.h"
#include "safetensors/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH_WORD_BYTES = 8, HEADER_ALIGNMENT = 8 };

typedef struct placed {
  const mlxq_tensor *tensor;
  size_t index;
} placed;

/* Widest first keeps every tensor aligned to its element without a hole. */
static int compare_placed(const void *left, const void *right) {
  const mlxq_tensor *a = ((const placed *)left)->tensor, *b = ((const placed *)right)->tensor;
  unsigned a_bits = mlxq_dtype_bits(a->dtype), b_bits = mlxq_dtype_bits(b->dtype);
  if (a_bits != b_bits) return a_bits > b_bits ? -1 : 1;
  return strcmp(a->name, b->name);
}

static mlxq_status sort_indices(const mlxq_weights *weights, size_t *indices, size_t count, mlxq_error *error) {
  placed *order = mlxq_alloc(count, sizeof *order);
  if (!order) return mlxq_fail_memory(error);
  for (size_t i = 0; i < count; i++) {
    order[i] = (placed){.tensor = &weights->entries[indices[i]].tensor, .index = indices[i]};
  }
  if (count) qsort(order, count, sizeof *order, compare_placed);
  for (size_t i = 0; i < count; i++) indices[i] = order[i].index;
  free(order);
  return MLXQ_OK;
}

static bool is_utf8(const char *text, size_t length) {
  uint32_t character;
  for (size_t at = 0, taken; at < length; at += taken) {
    taken = mlxq_utf8_decode(&character, text + at, length - at);
    if (taken == 0) return false;
  }
  return true;
}

/* A name that the reader would not give back as it is must not be written. */
static mlxq_status check_name(const char *name, mlxq_error *error) {
  size_t length = strlen(name);
  const char *reason = NULL;
  if (length == 0) reason = "a tensor with an empty name cannot be written";
  if (length > MLXQ_SAFETENSORS_MAX_NAME_BYTES) reason = "the name is too long to be written";
  if (strcmp(name, "__metadata__") == 0) reason = "the name is reserved in safetensors files";
  if (!is_utf8(name, length)) reason = "the name is not UTF-8";
  return reason ? mlxq_fail(error, MLXQ_UNSUPPORTED, NULL, name, "%s", reason) : MLXQ_OK;
}

static void append_tensor(mlxq_text *text, const mlxq_tensor *tensor, uint64_t begin) {
  mlxq_text_puts(text, ",");
  mlxq_text_json_string(text, tensor->name, strlen(tensor->name));
  mlxq_text_printf(text, ":{\"dtype\":\"%s\",\"shape\":[", mlxq_dtype_name(tensor->dtype));
  for (uint32_t i = 0; i < tensor->rank; i++) mlxq_text_printf(text, i ? ",%" PRIu64 : "%" PRIu64, tensor->shape[i]);
  mlxq_text_printf(text, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", begin, begin + tensor->bytes);
}

/* Makes the length word and the header; `*data_bytes` is what they describe. */
static mlxq_status build_header(mlxq_text *text, uint64_t *data_bytes, const mlxq_weights *weights,
                                const size_t *indices, size_t count, mlxq_error *error) {
  mlxq_text_append(text, "\0\0\0\0\0\0\0", LENGTH_WORD_BYTES);
  mlxq_text_puts(text, "{\"__metadata__\":{\"format\":\"mlx\"}");
  *data_bytes = 0;
  for (size_t i = 0; i < count; i++) {
    const mlxq_tensor *tensor = &weights->entries[indices[i]].tensor;
    mlxq_status status = check_name(tensor->name, error);
    if (status != MLXQ_OK) return status;
    uint64_t begin = *data_bytes;
    if (!mlxq_add_u64(data_bytes, begin, tensor->bytes)) {
      return mlxq_fail(error, MLXQ_OVERFLOW, NULL, tensor->name, "the size of the file does not fit 63 bits");
    }
    append_tensor(text, tensor, begin);
    if (text->length >= MLXQ_SAFETENSORS_MAX_HEADER_BYTES) break;
  }
  mlxq_text_puts(text, "}");
  while (!text->failed && text->length % HEADER_ALIGNMENT != 0) mlxq_text_puts(text, " ");
  if (text->failed) return mlxq_fail_memory(error);
  uint64_t header_bytes = text->length - LENGTH_WORD_BYTES;
  if (header_bytes >= MLXQ_SAFETENSORS_MAX_HEADER_BYTES) {
    return mlxq_fail(error, MLXQ_OVERFLOW, NULL, NULL, "the header of %zu tensors reaches the limit of %u bytes", count,
                     MLXQ_SAFETENSORS_MAX_HEADER_BYTES);
  }
  for (int i = 0; i < LENGTH_WORD_BYTES; i++) text->data[i] = (char)(header_bytes >> 8 * i & 0xFF);
  return MLXQ_OK;
}

mlxq_status mlxq_safetensors_layout(mlxq_weights *weights, uint32_t file, size_t *indices, size_t count, char **header,
                                    size_t *header_bytes, uint64_t *file_bytes, mlxq_error *error) {
  mlxq_text text = {0};
  uint64_t data_bytes, total, offset;
  mlxq_status status = sort_indices(weights, indices, count, error);
  if (status != MLXQ_OK) goto cleanup;
  status = build_header(&text, &data_bytes, weights, indices, count, error);
  if (status != MLXQ_OK) goto cleanup;
  if (!mlxq_add_u64(&total, text.length, data_bytes)) {
    status = mlxq_fail(error, MLXQ_OVERFLOW, NULL, NULL, "the size of the file does not fit 63 bits");
    goto cleanup;
  }
  offset = text.length;
  for (size_t i = 0; i < count; i++) {
    mlxq_tensor_entry *entry = &weights->entries[indices[i]];
    entry->file = file;
    entry->offset = offset;
    offset += entry->tensor.bytes;
  }
  *header = text.data;
  *header_bytes = text.length;
  *file_bytes = total;
  text.data = NULL;
cleanup:
  mlxq_text_free(&text);
  return status;
}
