/* Reads in one pass: every tensor is checked on its own and described as soon as its object closes; overlaps, holes
 * and the tail are found afterwards, on the descriptions sorted by offset. */
#include "base/error.h"
#include "base/file.h"
#include "safetensors/json_stream.h"
#include "safetensors/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH_WORD_BYTES = 8 };

typedef struct reader {
  mlxq_json_stream json;
  mlxq_weights *weights;
  size_t first; /* index of this file's first tensor */
  uint32_t file;
  uint64_t data_start, data_bytes;
  bool metadata_seen;
  char name[MLXQ_SAFETENSORS_MAX_NAME_BYTES + 1];
} reader;

/* One tensor's object as it stands in the header. */
typedef struct description {
  unsigned fields_seen; /* bits of tensor_field */
  mlxq_dtype dtype;
  uint32_t rank;
  uint64_t shape[MLXQ_MAX_RANK];
  uint64_t begin, end;
} description;

typedef enum tensor_field { FIELD_DTYPE, FIELD_SHAPE, FIELD_DATA_OFFSETS, FIELD_COUNT } tensor_field;

static const char *const FIELD_NAMES[FIELD_COUNT] = {"dtype", "shape", "data_offsets"};

static bool read_metadata(reader *r) {
  mlxq_json_stream *json = &r->json;
  if (r->metadata_seen) return mlxq_json_fail(json, MLXQ_CORRUPT, "is given twice");
  r->metadata_seen = true;
  if (mlxq_json_null(json)) return true; /* MLX writes that where it was given no metadata */
  if (!mlxq_json_expect(json, '{')) return false;
  for (bool first = true; mlxq_json_next(json, '}', &first);) {
    if (!mlxq_json_string(json, NULL, 0, NULL) || !mlxq_json_expect(json, ':') ||
        !mlxq_json_string(json, NULL, 0, NULL)) {
      return false;
    }
  }
  return json->status == MLXQ_OK;
}

static bool read_dtype(reader *r, description *d) {
  char text[64];
  if (!mlxq_json_string(&r->json, text, sizeof text, NULL)) return false;
  if (mlxq_dtype_parse(text, &d->dtype)) return true;
  return mlxq_json_fail(&r->json, MLXQ_CORRUPT, "dtype: \"%s\" is unknown", text);
}

static bool read_shape(reader *r, description *d) {
  mlxq_json_stream *json = &r->json;
  if (!mlxq_json_expect(json, '[')) return false;
  for (bool first = true; mlxq_json_next(json, ']', &first);) {
    if (d->rank == MLXQ_MAX_RANK) {
      return mlxq_json_fail(json, MLXQ_UNSUPPORTED, "shape: more than %u dimensions", MLXQ_MAX_RANK);
    }
    if (!mlxq_json_uint(json, &d->shape[d->rank++])) return false;
  }
  return json->status == MLXQ_OK;
}

static bool read_data_offsets(reader *r, description *d) {
  mlxq_json_stream *json = &r->json;
  return mlxq_json_expect(json, '[') && mlxq_json_uint(json, &d->begin) && mlxq_json_expect(json, ',') &&
         mlxq_json_uint(json, &d->end) && mlxq_json_expect(json, ']');
}

static bool read_field(reader *r, description *d) {
  char name[64];
  if (!mlxq_json_string(&r->json, name, sizeof name, NULL) || !mlxq_json_expect(&r->json, ':')) return false;
  unsigned field = 0;
  while (field < FIELD_COUNT && strcmp(name, FIELD_NAMES[field]) != 0) field++;
  if (field == FIELD_COUNT) return mlxq_json_fail(&r->json, MLXQ_CORRUPT, "unknown field \"%s\"", name);
  if (d->fields_seen & 1u << field) return mlxq_json_fail(&r->json, MLXQ_CORRUPT, "%s: is given twice", name);
  d->fields_seen |= 1u << field;
  if (field == FIELD_DTYPE) return read_dtype(r, d);
  if (field == FIELD_SHAPE) return read_shape(r, d);
  return read_data_offsets(r, d);
}

static bool check(reader *r, const description *d) {
  mlxq_json_stream *json = &r->json;
  mlxq_error reason;
  uint64_t bytes;
  for (unsigned field = 0; field < FIELD_COUNT; field++) {
    if (!(d->fields_seen & 1u << field)) {
      return mlxq_json_fail(json, MLXQ_CORRUPT, "%s: is missing", FIELD_NAMES[field]);
    }
  }
  if (d->begin > d->end) {
    return mlxq_json_fail(json, MLXQ_CORRUPT, "data_offsets: begin %" PRIu64 " exceeds end %" PRIu64, d->begin, d->end);
  }
  if (d->end > r->data_bytes) {
    return mlxq_json_fail(json, MLXQ_CORRUPT,
                          "data_offsets: end %" PRIu64 " exceeds the file's %" PRIu64 " bytes of data", d->end,
                          r->data_bytes);
  }
  mlxq_status status = mlxq_tensor_bytes(&bytes, d->dtype, d->rank, d->shape, &reason);
  if (status != MLXQ_OK) return mlxq_json_fail(json, status, "%s", reason.message);
  if (d->end - d->begin != bytes) {
    return mlxq_json_fail(json, MLXQ_CORRUPT,
                          "data_offsets: %" PRIu64 " bytes, where the shape and dtype %s take %" PRIu64,
                          d->end - d->begin, mlxq_dtype_name(d->dtype), bytes);
  }
  return true;
}

static bool describe(reader *r, size_t name_length, const description *d) {
  mlxq_json_stream *json = &r->json;
  if (r->weights->count >= MLXQ_SAFETENSORS_MAX_TENSORS) {
    return mlxq_json_fail(json, MLXQ_UNSUPPORTED, "more than %u tensors", MLXQ_SAFETENSORS_MAX_TENSORS);
  }
  mlxq_status status = mlxq_weights_describe(r->weights, r->name, name_length, d->dtype, d->rank, d->shape, r->file,
                                             r->data_start + d->begin, NULL, json->error);
  if (status == MLXQ_KEY_COLLISION) {
    bool here = mlxq_weights_index(r->weights, r->name, name_length) >= r->first;
    return mlxq_json_fail(json, MLXQ_CORRUPT, here ? "is given twice" : "is in another file too");
  }
  json->status = status;
  return status == MLXQ_OK;
}

static bool read_tensor(reader *r, size_t name_length) {
  mlxq_json_stream *json = &r->json;
  description d = {0};
  if (name_length == 0) return mlxq_json_fail(json, MLXQ_UNSUPPORTED, "a tensor with an empty name");
  if (name_length > MLXQ_SAFETENSORS_MAX_NAME_BYTES) {
    return mlxq_json_fail(json, MLXQ_UNSUPPORTED, "the name has %zu bytes; at most %u are accepted", name_length,
                          MLXQ_SAFETENSORS_MAX_NAME_BYTES);
  }
  if (!mlxq_json_expect(json, '{')) return false;
  for (bool first = true; mlxq_json_next(json, '}', &first);) {
    if (!read_field(r, &d)) return false;
  }
  return json->status == MLXQ_OK && check(r, &d) && describe(r, name_length, &d);
}

static bool read_header(reader *r) {
  mlxq_json_stream *json = &r->json;
  /* The specification lets white space follow the object, as padding, but not precede it. */
  if (!mlxq_json_at(json, '{')) return mlxq_json_fail(json, MLXQ_CORRUPT, "the header does not begin with '{'");
  mlxq_json_expect(json, '{');
  for (bool first = true; mlxq_json_next(json, '}', &first);) {
    size_t length;
    if (!mlxq_json_string(json, r->name, sizeof r->name, &length)) return false;
    json->key = r->name;
    if (!mlxq_json_expect(json, ':')) return false;
    if (!(strcmp(r->name, "__metadata__") == 0 ? read_metadata(r) : read_tensor(r, length))) return false;
    json->key = NULL;
  }
  return json->status == MLXQ_OK && mlxq_json_end(json);
}

/* By offset, empty tensors before the one that begins where they are; names make the order unique. */
static int compare_entries(const void *left, const void *right) {
  const mlxq_tensor_entry *a = left, *b = right;
  if (a->offset != b->offset) return a->offset < b->offset ? -1 : 1;
  if (a->tensor.bytes != b->tensor.bytes) return a->tensor.bytes < b->tensor.bytes ? -1 : 1;
  return strcmp(a->tensor.name, b->tensor.name);
}

/* Sorts the entries from `first` on, and redirects the map's slots to where they went. */
static mlxq_status sort_entries(mlxq_weights *weights, size_t first, mlxq_error *error) {
  size_t count = weights->count - first;
  if (count < 2) return MLXQ_OK;
  mlxq_tensor_entry *entries = weights->entries + first;
  uint32_t *new_places = mlxq_alloc(count, sizeof *new_places);
  if (!new_places) return mlxq_fail_memory(error);
  uint32_t file = entries[0].file;
  for (size_t i = 0; i < count; i++) entries[i].file = (uint32_t)i; /* they are all of one file: remembers the place */
  qsort(entries, count, sizeof *entries, compare_entries);
  for (size_t i = 0; i < count; i++) {
    new_places[entries[i].file] = (uint32_t)i;
    entries[i].file = file;
  }
  for (size_t i = 0; i < weights->slot_count; i++) {
    uint32_t *slot = &weights->slots[i];
    if (*slot > first) *slot = (uint32_t)first + new_places[*slot - 1 - first] + 1;
  }
  free(new_places);
  return MLXQ_OK;
}

/* A flaw that a survey goes on after; without one it is the call's error. */
static mlxq_status tell(const reader *r, const mlxq_flaws *flaws, mlxq_status status, mlxq_error *error) {
  return mlxq_flaws_take(flaws, mlxq_error_at_file(error, status, r->json.path), error);
}

static mlxq_status check_begin(const mlxq_tensor *tensor, uint64_t begin, uint64_t covered, const char *previous,
                               mlxq_error *error) {
  if (begin < covered) {
    return mlxq_fail(error, MLXQ_CORRUPT, NULL, tensor->name,
                     "data_offsets: begin %" PRIu64 " lies within \"%s\", which ends at %" PRIu64, begin, previous,
                     covered);
  }
  if (begin > covered) {
    return mlxq_fail(error, MLXQ_CORRUPT, NULL, tensor->name,
                     "data_offsets: begin %" PRIu64 " leaves a hole after byte %" PRIu64 " of the data", begin,
                     covered);
  }
  return MLXQ_OK;
}

/* The sorted entries must cover the data from its first byte to its last, each byte once. */
static mlxq_status check_cover(const reader *r, const mlxq_flaws *flaws, mlxq_error *error) {
  uint64_t covered = 0;
  const char *previous = NULL;
  for (size_t i = r->first; i < r->weights->count; i++) {
    const mlxq_tensor *tensor = &r->weights->entries[i].tensor;
    uint64_t begin = r->weights->entries[i].offset - r->data_start;
    mlxq_status status = tell(r, flaws, check_begin(tensor, begin, covered, previous, error), error);
    if (status != MLXQ_OK) return status;
    if (begin + tensor->bytes < covered) continue;
    covered = begin + tensor->bytes;
    previous = tensor->name;
  }
  if (covered == r->data_bytes) return MLXQ_OK;
  return tell(r, flaws,
              mlxq_fail(error, MLXQ_CORRUPT, NULL, NULL, "the last %" PRIu64 " bytes of the data belong to no tensor",
                        r->data_bytes - covered),
              error);
}

/* JSON lets any white space follow the object; the format has spaces there. Looks from the header's end, by chunks. */
static mlxq_status check_padding(reader *r, uint64_t header_bytes, const mlxq_flaws *flaws, mlxq_error *error) {
  unsigned char *chunk = r->json.chunk;
  for (uint64_t left = header_bytes; left > 0;) {
    size_t bytes = left < sizeof r->json.chunk ? (size_t)left : sizeof r->json.chunk;
    left -= bytes;
    mlxq_status status = mlxq_file_read_at(r->json.fd, chunk, bytes, LENGTH_WORD_BYTES + left, r->json.path, error);
    if (status != MLXQ_OK) return status;
    while (bytes > 0 && chunk[bytes - 1] == ' ') bytes--;
    if (bytes == 0) continue;
    unsigned char last = chunk[bytes - 1];
    if (last == '}') return MLXQ_OK;
    return tell(r, flaws,
                mlxq_fail(error, MLXQ_CORRUPT, NULL, NULL,
                          "header byte %" PRIu64 ": 0x%02X in the padding, which is of spaces", left + bytes - 1, last),
                error);
  }
  return MLXQ_OK;
}

/* What people give by mistake, by its first bytes; NULL for none of them. */
static const char *looks_like(const unsigned char *start) {
  if (memcmp(start, "GGUF", 4) == 0) return "GGUF";
  if (memcmp(start, "PK\3\4", 4) == 0) return "a zip archive, such as PyTorch's .bin files";
  return start[0] == '{' ? "JSON" : NULL;
}

static mlxq_status read_length(uint64_t *header_bytes, int fd, uint64_t file_bytes, const char *path,
                               mlxq_error *error) {
  unsigned char word[LENGTH_WORD_BYTES];
  if (file_bytes < sizeof word) {
    return mlxq_fail(error, MLXQ_CORRUPT, NULL, NULL, "the file's %" PRIu64 " bytes are too few for a safetensors file",
                     file_bytes);
  }
  mlxq_status status = mlxq_file_read_at(fd, word, sizeof word, 0, path, error);
  if (status != MLXQ_OK) return status;
  if (memcmp(word, "version ", sizeof word) == 0) {
    return mlxq_fail(error, MLXQ_CORRUPT, NULL, NULL, "this is a Git LFS pointer; the file itself was not downloaded");
  }
  for (int i = 0; i < LENGTH_WORD_BYTES; i++) *header_bytes |= (uint64_t)word[i] << 8 * i;
  if (*header_bytes >= MLXQ_SAFETENSORS_MAX_HEADER_BYTES) {
    const char *other = looks_like(word);
    if (other)
      return mlxq_fail(error, MLXQ_CORRUPT, NULL, NULL, "this is no safetensors file but looks like %s", other);
    return mlxq_fail(error, MLXQ_CORRUPT, NULL, NULL, "the header's length %" PRIu64 " is not below the limit of %u",
                     *header_bytes, MLXQ_SAFETENSORS_MAX_HEADER_BYTES);
  }
  if (*header_bytes > file_bytes - sizeof word) {
    return mlxq_fail(error, MLXQ_CORRUPT, NULL, NULL,
                     "the header's length %" PRIu64 " exceeds the %" PRIu64 " bytes that follow", *header_bytes,
                     file_bytes - sizeof word);
  }
  return MLXQ_OK;
}

mlxq_status mlxq_safetensors_read(mlxq_weights *weights, uint32_t file, int fd, uint64_t file_bytes, const char *path,
                                  mlxq_error *error) {
  return mlxq_safetensors_survey(weights, file, fd, file_bytes, path, NULL, error);
}

mlxq_status mlxq_safetensors_survey(mlxq_weights *weights, uint32_t file, int fd, uint64_t file_bytes, const char *path,
                                    const mlxq_flaws *flaws, mlxq_error *error) {
  uint64_t header_bytes = 0;
  reader *r = NULL;
  mlxq_status status = read_length(&header_bytes, fd, file_bytes, path, error);
  if (status != MLXQ_OK) goto cleanup;
  r = mlxq_alloc(1, sizeof *r);
  if (!r) {
    status = mlxq_fail_memory(error);
    goto cleanup;
  }
  r->weights = weights;
  r->first = weights->count;
  r->file = file;
  r->data_start = LENGTH_WORD_BYTES + header_bytes;
  r->data_bytes = file_bytes - r->data_start;
  r->metadata_seen = false;
  mlxq_json_start(&r->json, fd, LENGTH_WORD_BYTES, header_bytes, path, error);
  if (!read_header(r)) {
    status = r->json.status;
    goto cleanup;
  }
  status = sort_entries(weights, r->first, error);
  if (status == MLXQ_OK) status = check_cover(r, flaws, error);
  if (status == MLXQ_OK && flaws) status = check_padding(r, header_bytes, flaws, error);
cleanup:
  free(r);
  return status == MLXQ_OK ? MLXQ_OK : mlxq_error_at_file(error, status, path);
}
