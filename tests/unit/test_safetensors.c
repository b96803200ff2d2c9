/* The safetensors reader and writer: what is accepted, every refusal with its words, and tokens at every position of
 * the reader's chunk boundary. */
#include "base/file.h"
#include "safetensors/json_stream.h"
#include "safetensors/safetensors.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const char PATH[] = "model.safetensors";

/* ---- Helpers --------------------------------------------------------------------------------------------------- */

/* A file that is gone when closed. */
static int open_scratch(void) {
  char name[] = "/tmp/mlxq-test-XXXXXX";
  int fd = mkstemp(name);
  assert_true(fd >= 0);
  assert_int_equal(unlink(name), 0);
  return fd;
}

static void put_bytes(int fd, const void *bytes, size_t count, uint64_t offset) {
  assert_int_equal(mlxq_file_write_at(fd, bytes, count, offset, PATH, NULL), MLXQ_OK);
}

static void put_length(int fd, uint64_t length) {
  unsigned char word[8];
  for (int i = 0; i < 8; i++) word[i] = (unsigned char)(length >> 8 * i);
  put_bytes(fd, word, sizeof word, 0);
}

static mlxq_weights *new_map(void) {
  mlxq_weights *map = NULL;
  assert_int_equal(mlxq_weights_new(&map, NULL), MLXQ_OK);
  return map;
}

/* Reads a file of this header and `data_bytes` bytes of data into `map`. */
static mlxq_status read_bytes(mlxq_weights *map, uint32_t file, const char *header, size_t length, uint64_t data_bytes,
                              mlxq_error *error) {
  int fd = open_scratch();
  put_length(fd, length);
  put_bytes(fd, header, length, 8);
  assert_int_equal(ftruncate(fd, (off_t)(8 + length + data_bytes)), 0);
  mlxq_status status = mlxq_safetensors_read(map, file, fd, 8 + length + data_bytes, PATH, error);
  close(fd);
  return status;
}

static mlxq_status read_text(mlxq_weights *map, const char *header, uint64_t data_bytes, mlxq_error *error) {
  return read_bytes(map, 0, header, strlen(header), data_bytes, error);
}

static void assert_refused(const char *header, size_t length, uint64_t data_bytes, mlxq_status status,
                           const char *line) {
  mlxq_weights *map = new_map();
  mlxq_error error;
  char found[4096];
  mlxq_status result = read_bytes(map, 0, header, length, data_bytes, &error);
  if (result != MLXQ_OK) mlxq_error_format(&error, found, sizeof found);
  if (result != status) fail_msg("%.200s: %s, not %s", header, mlxq_status_name(result), mlxq_status_name(status));
  assert_int_equal(error.status, status);
  assert_string_equal(found, line);
  mlxq_weights_free(map);

  map = new_map();
  assert_int_equal(read_bytes(map, 0, header, length, data_bytes, NULL), status);
  mlxq_weights_free(map);
}

/* Every entry is found under its name, lies right behind the one before, and the last ends the file. */
static void assert_covers(const mlxq_weights *map, size_t first, uint64_t data_start, uint64_t file_bytes) {
  uint64_t offset = data_start;
  for (size_t i = first; i < map->count; i++) {
    const mlxq_tensor_entry *entry = &map->entries[i];
    assert_int_equal(entry->offset, offset);
    assert_int_equal(mlxq_weights_index(map, entry->tensor.name, strlen(entry->tensor.name)), i);
    offset += entry->tensor.bytes;
  }
  assert_int_equal(offset, file_bytes);
}

static void assert_tensor(const mlxq_weights *map, size_t index, const char *name, mlxq_dtype dtype, uint32_t rank,
                          const uint64_t *shape, uint64_t bytes) {
  const mlxq_tensor *tensor = mlxq_weights_at(map, index);
  assert_non_null(tensor);
  assert_string_equal(tensor->name, name);
  assert_int_equal(tensor->dtype, dtype);
  assert_int_equal(tensor->rank, rank);
  for (uint32_t i = 0; i < rank; i++) assert_int_equal(tensor->shape[i], shape[i]);
  assert_int_equal(tensor->bytes, bytes);
  assert_null(tensor->data);
}

/* ---- What is read ---------------------------------------------------------------------------------------------- */

static void test_reads_no_tensors(void **state) {
  (void)state;
  static const char *const HEADERS[] = {"{}",
                                        "{ }",
                                        "{}   ",
                                        "{}\n\t\r ",
                                        "{\"__metadata__\":{}}",
                                        "{\"__metadata__\": null }",
                                        "{\"__metadata__\":{\"format\":\"pt\",\"\":\"\",\"\\u0000\":\"\\u0000\"}}"};
  for (size_t i = 0; i < sizeof HEADERS / sizeof *HEADERS; i++) {
    mlxq_weights *map = new_map();
    assert_int_equal(read_text(map, HEADERS[i], 0, NULL), MLXQ_OK);
    assert_int_equal(mlxq_weights_count(map), 0);
    mlxq_weights_free(map);
  }
}

static void test_reads_any_field_order(void **state) {
  (void)state;
  static const char *const FIELDS[] = {"\"dtype\":\"F32\"", "\"shape\":[2,3]", "\"data_offsets\":[0,24]"};
  static const int ORDERS[][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
  for (size_t i = 0; i < sizeof ORDERS / sizeof *ORDERS; i++) {
    char header[256];
    snprintf(header, sizeof header, "{\"a.weight\":{%s,%s,%s}}", FIELDS[ORDERS[i][0]], FIELDS[ORDERS[i][1]],
             FIELDS[ORDERS[i][2]]);
    mlxq_weights *map = new_map();
    assert_int_equal(read_bytes(map, 7, header, strlen(header), 24, NULL), MLXQ_OK);
    assert_tensor(map, 0, "a.weight", MLXQ_F32, 2, (const uint64_t[]){2, 3}, 24);
    assert_int_equal(map->entries[0].file, 7);
    assert_int_equal(map->entries[0].offset, 8 + strlen(header));
    mlxq_weights_free(map);
  }
}

static void test_reads_scalars_and_empty_tensors(void **state) {
  (void)state;
  mlxq_weights *map = new_map();
  const char *header =
      "{\"end\":{\"dtype\":\"I64\",\"shape\":[0],\"data_offsets\":[6,6]},"
      "\"two\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[4,6]},"
      "\"middle\":{\"dtype\":\"F64\",\"shape\":[4,0,4],\"data_offsets\":[4,4]},"
      "\"scalar\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
      "\"start\":{\"dtype\":\"F4\",\"shape\":[0,1],\"data_offsets\":[0,0]},"
      "\"large\":{\"dtype\":\"U8\",\"shape\":[1152921504606846975,0],\"data_offsets\":[6,6]}}";
  assert_int_equal(read_text(map, header, 6, NULL), MLXQ_OK);
  assert_int_equal(mlxq_weights_count(map), 6);
  assert_tensor(map, 0, "start", MLXQ_F4, 2, (const uint64_t[]){0, 1}, 0);
  assert_tensor(map, 1, "scalar", MLXQ_F32, 0, NULL, 4);
  assert_tensor(map, 2, "middle", MLXQ_F64, 3, (const uint64_t[]){4, 0, 4}, 0);
  assert_tensor(map, 3, "two", MLXQ_U8, 1, (const uint64_t[]){2}, 2);
  assert_tensor(map, 4, "end", MLXQ_I64, 1, (const uint64_t[]){0}, 0);
  assert_tensor(map, 5, "large", MLXQ_U8, 2, (const uint64_t[]){INT64_MAX / 8, 0}, 0);
  assert_covers(map, 0, 8 + strlen(header), 8 + strlen(header) + 6);
  mlxq_weights_free(map);
}

static void test_reads_the_highest_rank(void **state) {
  (void)state;
  mlxq_weights *map = new_map();
  assert_int_equal(read_text(map,
                             "{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,3],"
                             "\"data_offsets\":[0,3]}}",
                             3, NULL),
                   MLXQ_OK);
  assert_int_equal(mlxq_weights_at(map, 0)->rank, MLXQ_MAX_RANK);
  assert_int_equal(mlxq_weights_at(map, 0)->shape[15], 3);
  mlxq_weights_free(map);
}

/* A header with every kind of token, cut after its first character, so that white space can move the rest. */
static const char ALL_TOKENS[] =
    "{"
    "\t\"__metadata__\" : { \"fo\\u0072mat\" : \"\\\"\\\\\\/\\b\\f\\n\\r\\t\\uD83D\\uDE00\\u00e9\\u4e2d\" ,"
    "\"\xE2\x82\xAC\":\"\xF0\x9F\x98\x80 \xC3\xA9\"},\r\n"
    "\"l\\u00e9\\ud83d\\ude00\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\\u0001\\\\.w\" : "
    "{ \"\\u0064type\" : \"BF\\u00316\" , \"shape\" : [ 12 , 345 ] , \"data_offsets\" : [ 100 , 8380 ] } ,"
    "\"b\":{\"data_offsets\":[0,100],\"shape\":[5,20],\"dtype\":\"F8_E4M3\"}}"
    "\n ";

static void assert_all_tokens(const mlxq_weights *map) {
  assert_int_equal(map->count, 2);
  assert_tensor(map, 0, "b", MLXQ_F8_E4M3, 2, (const uint64_t[]){5, 20}, 100);
  assert_tensor(map, 1, "l\xC3\xA9\xF0\x9F\x98\x80\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\x01\\.w", MLXQ_BF16, 2,
                (const uint64_t[]){12, 345}, 8280);
}

/* Writes `header` so that its byte `split` (at least 1) is the first of the reader's second chunk: white space goes
 * after its first byte. `fd` holds white space there already, or a text written with the next lower split. */
static uint64_t put_split(int fd, const char *header, size_t length, size_t split) {
  size_t moved = MLXQ_JSON_CHUNK_BYTES - split;
  put_length(fd, moved + length);
  put_bytes(fd, header, 1, 8);
  put_bytes(fd, header + 1, length - 1, 8 + 1 + moved);
  return 8 + moved + length;
}

static int open_spaces(void) {
  int fd = open_scratch();
  char *spaces = malloc(2 * MLXQ_JSON_CHUNK_BYTES);
  assert_non_null(spaces);
  memset(spaces, ' ', 2 * MLXQ_JSON_CHUNK_BYTES);
  put_bytes(fd, spaces, 2 * MLXQ_JSON_CHUNK_BYTES, 0);
  free(spaces);
  return fd;
}

static void test_reads_tokens_across_chunks(void **state) {
  (void)state;
  int fd = open_spaces();
  for (size_t split = 1; split < sizeof ALL_TOKENS; split++) {
    mlxq_weights *map = new_map();
    mlxq_error error;
    uint64_t data_start = put_split(fd, ALL_TOKENS, sizeof ALL_TOKENS - 1, split);
    assert_int_equal(ftruncate(fd, (off_t)data_start + 8380), 0);
    mlxq_status status = mlxq_safetensors_read(map, 0, fd, data_start + 8380, PATH, &error);
    if (status != MLXQ_OK) fail_msg("split at %zu: %s: %s", split, error.key, error.message);
    assert_all_tokens(map);
    assert_covers(map, 0, data_start, data_start + 8380);
    mlxq_weights_free(map);
  }
  close(fd);
}

static void test_reads_long_texts(void **state) {
  (void)state;
  /* A metadata value and white space of several chunks, and the longest name. */
  enum { LONG = 5 * MLXQ_JSON_CHUNK_BYTES + 17, NAME = MLXQ_SAFETENSORS_MAX_NAME_BYTES };
  char *header = malloc(2 * LONG + NAME + 256), name[NAME + 1];
  assert_non_null(header);
  memset(name, 'n', NAME);
  name[NAME] = '\0';
  int length = sprintf(header, "{\"__metadata__\":{\"k\":\"");
  memset(header + length, 'v', LONG);
  length += LONG;
  length += sprintf(header + length, "\"},");
  memset(header + length, '\n', LONG);
  length += LONG;
  length += sprintf(header + length, "\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", name);
  mlxq_weights *map = new_map();
  assert_int_equal(read_text(map, header, 1, NULL), MLXQ_OK);
  assert_tensor(map, 0, name, MLXQ_U8, 1, (const uint64_t[]){1}, 1);
  mlxq_weights_free(map);
  free(header);
}

static void test_reads_many_tensors_out_of_order(void **state) {
  (void)state;
  enum { COUNT = 100000, LINE = 96 };
  char *header = malloc((size_t)COUNT * LINE + 2);
  assert_non_null(header);
  size_t length = 0;
  for (unsigned i = 0; i < COUNT; i++) {
    unsigned place = (unsigned)(i * UINT64_C(7919) % COUNT); /* 7919 and COUNT share no factor: every place once */
    length += (size_t)sprintf(header + length, "%c\"model.layers.%u.weight\":{\"dtype\":\"I16\",\"shape\":[2,2],",
                              i ? ',' : '{', place);
    length += (size_t)sprintf(header + length, "\"data_offsets\":[%u,%u]}", 8 * place, 8 * place + 8);
  }
  header[length++] = '}';
  mlxq_weights *map = new_map();
  assert_int_equal(mlxq_weights_add_copy(map, "earlier", MLXQ_U8, 0, NULL, "x", NULL), MLXQ_OK);
  assert_int_equal(read_bytes(map, 3, header, length, 8 * COUNT, NULL), MLXQ_OK);
  assert_int_equal(map->count, COUNT + 1);
  assert_covers(map, 1, 8 + length, 8 + length + 8 * COUNT);
  for (unsigned i = 0; i < COUNT; i++) {
    char name[64];
    snprintf(name, sizeof name, "model.layers.%u.weight", i);
    assert_string_equal(map->entries[1 + i].tensor.name, name);
    assert_int_equal(map->entries[1 + i].file, 3);
  }
  assert_string_equal(map->entries[0].tensor.name, "earlier");
  assert_int_equal(mlxq_weights_index(map, "earlier", 7), 0);
  mlxq_weights_free(map);
  free(header);
}

static void test_reads_several_files_into_one_map(void **state) {
  (void)state;
  static const char *const HEADERS[] = {
      "{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]},"
      "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
      "{\"c\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]},"
      "\"d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
      "{\"e\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]},"
      "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
  };
  static const char *const NAMES[] = {"a", "b", "d", "c"};
  mlxq_weights *map = new_map();
  mlxq_error error;
  assert_int_equal(read_bytes(map, 0, HEADERS[0], strlen(HEADERS[0]), 3, NULL), MLXQ_OK);
  assert_int_equal(read_bytes(map, 1, HEADERS[1], strlen(HEADERS[1]), 3, NULL), MLXQ_OK);
  for (size_t i = 0; i < 4; i++) {
    assert_string_equal(map->entries[i].tensor.name, NAMES[i]);
    assert_int_equal(map->entries[i].file, i / 2);
    assert_int_equal(mlxq_weights_index(map, NAMES[i], 1), i);
  }
  assert_int_equal(read_bytes(map, 2, HEADERS[2], strlen(HEADERS[2]), 3, &error), MLXQ_CORRUPT);
  assert_string_equal(error.key, "a");
  assert_string_equal(error.message, "is in another file too");
  mlxq_weights_free(map);
}

/* ---- Numbers that may be something else ------------------------------------------------------------------------- */

static void test_values_that_may_be_integers(void **state) {
  (void)state;
  static const struct {
    const char *text;
    mlxq_status status;
    bool is_uint;
    uint64_t value;
  } CASES[] = {
      {"0", MLXQ_OK, true, 0},
      {" 17", MLXQ_OK, true, 17},
      {"9223372036854775807", MLXQ_OK, true, INT64_MAX},
      {"9223372036854775808", MLXQ_OK, false, 0},
      {"99999999999999999999999999", MLXQ_OK, false, 0},
      {"0.0", MLXQ_OK, false, 0},
      {"17.5", MLXQ_OK, false, 0},
      {"17e1", MLXQ_OK, false, 0},
      {"0E0", MLXQ_OK, false, 0},
      {"-0", MLXQ_OK, false, 0},
      {"-17", MLXQ_OK, false, 0},
      {"null", MLXQ_OK, false, 0},
      {"\"17\"", MLXQ_OK, false, 0},
      {"[17]", MLXQ_OK, false, 0},
      {"{\"a\": 17}", MLXQ_OK, false, 0},
      {"Infinity", MLXQ_OK, false, 0},
      {"[[17]]", MLXQ_PARSE, false, 0}, /* nests too deeply */
      {"017", MLXQ_PARSE, false, 0},
      {"17x", MLXQ_PARSE, false, 0},
      {"17.", MLXQ_PARSE, false, 0},
      {"17e", MLXQ_PARSE, false, 0},
      {"+17", MLXQ_PARSE, false, 0},
      {"", MLXQ_PARSE, false, 0},
  };
  for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
    static mlxq_json_stream json;
    mlxq_error error;
    bool is_uint = false;
    uint64_t value = 0, length = strlen(CASES[i].text);
    int fd = open_scratch();
    put_bytes(fd, CASES[i].text, length, 0);
    mlxq_json_start(&json, fd, 0, length, PATH, &error);
    json.is_document = true;
    bool read = mlxq_json_skip_uint(&json, 1, &is_uint, &value) && mlxq_json_end(&json);
    close(fd);
    if (json.status != CASES[i].status || read != (json.status == MLXQ_OK)) {
      fail_msg("'%s': %s", CASES[i].text, mlxq_status_name(json.status));
    }
    if (read && (is_uint != CASES[i].is_uint || (is_uint && value != CASES[i].value))) {
      fail_msg("'%s': %s %" PRIu64, CASES[i].text, is_uint ? "the integer" : "no integer", value);
    }
  }
}

/* ---- What is refused ------------------------------------------------------------------------------------------- */

typedef struct refusal {
  const char *header;
  uint64_t data_bytes;
  mlxq_status status;
  const char *line; /* after "model.safetensors: " */
} refusal;

#define A_IS(fields) "{\"a\":{" fields "}}"
#define SHAPE2       "\"dtype\":\"U8\",\"shape\":[2]"

static const refusal REFUSALS[] = {
    /* The object and what is around it. */
    {"", 0, MLXQ_CORRUPT, "the header does not begin with '{'"},
    {" {}", 0, MLXQ_CORRUPT, "the header does not begin with '{'"},
    {"\xEF\xBB\xBF{}", 0, MLXQ_CORRUPT, "the header does not begin with '{'"},
    {"[]", 0, MLXQ_CORRUPT, "the header does not begin with '{'"},
    {"null", 0, MLXQ_CORRUPT, "the header does not begin with '{'"},
    {"{", 0, MLXQ_CORRUPT, "header byte 1: expected a string"},
    {"{}{}", 0, MLXQ_CORRUPT, "header byte 2: text after the end of the header's object"},
    {"{} x", 0, MLXQ_CORRUPT, "header byte 3: text after the end of the header's object"},
    {"{}\f", 0, MLXQ_CORRUPT, "header byte 2: text after the end of the header's object"},
    {"{a", 0, MLXQ_CORRUPT, "header byte 1: expected a string"},
    {"{,}", 0, MLXQ_CORRUPT, "header byte 1: expected a string"},
    {"{/**/}", 0, MLXQ_CORRUPT, "header byte 1: expected a string"},
    {"{\"a\"}", 0, MLXQ_CORRUPT, "a: header byte 4: expected ':'"},
    {"{\"a\":}", 0, MLXQ_CORRUPT, "a: header byte 5: expected '{'"},
    {"{\"a\":null}", 0, MLXQ_CORRUPT, "a: header byte 5: expected '{'"},
    {"{\"__metadata__\":{},}", 0, MLXQ_CORRUPT, "header byte 19: expected a string"},
    {"{\"__metadata__\":{}", 0, MLXQ_CORRUPT, "header byte 18: expected ',' or '}'"},
    {"{\"__metadata__\":{};}", 0, MLXQ_CORRUPT, "header byte 18: expected ',' or '}'"},
    /* The metadata. */
    {"{\"__metadata__\":nul}", 0, MLXQ_CORRUPT, "__metadata__: header byte 19: expected null"},
    {"{\"__metadata__\":nulll}", 0, MLXQ_CORRUPT, "header byte 20: expected ',' or '}'"},
    {"{\"__metadata__\":null,\"__metadata__\":null}", 0, MLXQ_CORRUPT, "__metadata__: is given twice"},
    {"{\"__metadata__\":true}", 0, MLXQ_CORRUPT, "__metadata__: header byte 16: expected '{'"},
    {"{\"__metadata__\":[]}", 0, MLXQ_CORRUPT, "__metadata__: header byte 16: expected '{'"},
    {"{\"__metadata__\":{\"a\":1}}", 0, MLXQ_CORRUPT, "__metadata__: header byte 21: expected a string"},
    {"{\"__metadata__\":{\"a\":{}}}", 0, MLXQ_CORRUPT, "__metadata__: header byte 21: expected a string"},
    {"{\"__metadata__\":{\"a\":\"b\",}}", 0, MLXQ_CORRUPT, "__metadata__: header byte 25: expected a string"},
    {"{\"__metadata__\":{\"a\" \"b\"}}", 0, MLXQ_CORRUPT, "__metadata__: header byte 21: expected ':'"},
    {"{\"__metadata__\":{\"a\":\"b\"", 0, MLXQ_CORRUPT, "__metadata__: header byte 24: expected ',' or '}'"},
    {"{\"__metadata__\":{},\"__meta\\u0064ata__\":{}}", 0, MLXQ_CORRUPT, "__metadata__: is given twice"},
    /* Strings. */
    {"{\"a", 0, MLXQ_CORRUPT, "header byte 3: the header ends within a string"},
    {"{\"a\nb\"", 0, MLXQ_CORRUPT, "header byte 3: a control character within a string"},
    {"{\"a\x1F\"", 0, MLXQ_CORRUPT, "header byte 3: a control character within a string"},
    {"{\"\\x41\"", 0, MLXQ_CORRUPT, "header byte 3: an unknown escape"},
    {"{\"\\'\"", 0, MLXQ_CORRUPT, "header byte 3: an unknown escape"},
    {"{\"\\", 0, MLXQ_CORRUPT, "header byte 3: an unknown escape"},
    {"{\"\\U0041\"", 0, MLXQ_CORRUPT, "header byte 3: an unknown escape"},
    {"{\"\\u004\"", 0, MLXQ_CORRUPT, "header byte 7: expected four hexadecimal digits after \\u"},
    {"{\"\\u00g0\"", 0, MLXQ_CORRUPT, "header byte 6: expected four hexadecimal digits after \\u"},
    {"{\"\\u00", 0, MLXQ_CORRUPT, "header byte 6: expected four hexadecimal digits after \\u"},
    {"{\"\\u0000\"", 0, MLXQ_CORRUPT, "header byte 8: a NUL character is not accepted here"},
    {"{\"a\\u0000b\":{}}", 0, MLXQ_CORRUPT, "header byte 9: a NUL character is not accepted here"},
    {"{\"\\ud800\"", 0, MLXQ_CORRUPT, "header byte 8: a lone surrogate"},
    {"{\"\\uD800\\n\"", 0, MLXQ_CORRUPT, "header byte 9: a lone surrogate"},
    {"{\"\\udfff\"", 0, MLXQ_CORRUPT, "header byte 8: a lone surrogate"},
    {"{\"\\udbff\\udbff\"", 0, MLXQ_CORRUPT, "header byte 14: a lone surrogate"},
    {"{\"\\ud800\\u0041\"", 0, MLXQ_CORRUPT, "header byte 14: a lone surrogate"},
    {"{\"\\ud800\\u00", 0, MLXQ_CORRUPT, "header byte 12: expected four hexadecimal digits after \\u"},
    {"{\"\x80\"", 0, MLXQ_CORRUPT, "header byte 2: not UTF-8"},
    {"{\"\xC0\x80\"", 0, MLXQ_CORRUPT, "header byte 2: not UTF-8"},
    {"{\"\xC3\"", 0, MLXQ_CORRUPT, "header byte 2: not UTF-8"},
    {"{\"\xE2\x82", 0, MLXQ_CORRUPT, "header byte 2: not UTF-8"},
    {"{\"\xE0\x80\x80\"", 0, MLXQ_CORRUPT, "header byte 2: not UTF-8"},
    {"{\"\xED\xA0\x80\"", 0, MLXQ_CORRUPT, "header byte 2: not UTF-8"},
    {"{\"\xF4\x90\x80\x80\"", 0, MLXQ_CORRUPT, "header byte 2: not UTF-8"},
    {"{\"\xF8\x88\x80\x80\x80\"", 0, MLXQ_CORRUPT, "header byte 2: not UTF-8"},
    {"{\"\xFF\"", 0, MLXQ_CORRUPT, "header byte 2: not UTF-8"},
    {"{\"__metadata__\":{\"\":\"\xFF\"}}", 0, MLXQ_CORRUPT, "__metadata__: header byte 21: not UTF-8"},
    /* The fields of a tensor. */
    {"{\"\":{}}", 0, MLXQ_UNSUPPORTED, "a tensor with an empty name"},
    {A_IS(""), 0, MLXQ_CORRUPT, "a: dtype: is missing"},
    {A_IS("\"dtype\":\"U8\",\"data_offsets\":[0,0]"), 0, MLXQ_CORRUPT, "a: shape: is missing"},
    {A_IS(SHAPE2), 2, MLXQ_CORRUPT, "a: data_offsets: is missing"},
    {A_IS(SHAPE2 ",\"dtype\":\"U8\""), 2, MLXQ_CORRUPT, "a: dtype: is given twice"},
    {A_IS(SHAPE2 ",\"shape\":[2]"), 2, MLXQ_CORRUPT, "a: shape: is given twice"},
    {A_IS("\"data_offsets\":[0,2],\"data_\\u006fffsets\":[0,2]"), 2, MLXQ_CORRUPT, "a: data_offsets: is given twice"},
    {A_IS("\"strides\":[1]"), 0, MLXQ_CORRUPT, "a: unknown field \"strides\""},
    {A_IS("\"DTYPE\":\"U8\""), 0, MLXQ_CORRUPT, "a: unknown field \"DTYPE\""},
    {A_IS("\"\":0"), 0, MLXQ_CORRUPT, "a: unknown field \"\""},
    {A_IS("\"dtype\""), 0, MLXQ_CORRUPT, "a: header byte 13: expected ':'"},
    {A_IS("\"dtype\":\"U8\","), 0, MLXQ_CORRUPT, "a: header byte 19: expected a string"},
    {"{\"a\":{\"dtype\":\"U8\"", 0, MLXQ_CORRUPT, "a: header byte 18: expected ',' or '}'"},
    {A_IS("\"dtype\":1"), 0, MLXQ_CORRUPT, "a: header byte 14: expected a string"},
    {A_IS("\"dtype\":\"F128\""), 0, MLXQ_CORRUPT, "a: dtype: \"F128\" is unknown"},
    {A_IS("\"dtype\":\"f32\""), 0, MLXQ_CORRUPT, "a: dtype: \"f32\" is unknown"},
    {A_IS("\"dtype\":\"\""), 0, MLXQ_CORRUPT, "a: dtype: \"\" is unknown"},
    {A_IS("\"dtype\":\"U8\\u0000\""), 0, MLXQ_CORRUPT, "a: header byte 23: a NUL character is not accepted here"},
    {A_IS("\"shape\":2"), 0, MLXQ_CORRUPT, "a: header byte 14: expected '['"},
    {A_IS("\"shape\":[2,]"), 0, MLXQ_CORRUPT, "a: header byte 17: expected a non-negative integer"},
    {A_IS("\"shape\":[,2]"), 0, MLXQ_CORRUPT, "a: header byte 15: expected a non-negative integer"},
    {A_IS("\"shape\":[2 3]"), 0, MLXQ_CORRUPT, "a: header byte 17: expected ',' or ']'"},
    {A_IS("\"shape\":[[2]]"), 0, MLXQ_CORRUPT, "a: header byte 15: expected a non-negative integer"},
    {"{\"a\":{\"shape\":[2", 0, MLXQ_CORRUPT, "a: header byte 16: expected ',' or ']'"},
    {A_IS("\"shape\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]"), 1, MLXQ_UNSUPPORTED, "a: shape: more than 16 dimensions"},
    /* Integers. */
    {A_IS("\"shape\":[-1]"), 0, MLXQ_CORRUPT, "a: header byte 15: expected a non-negative integer"},
    {A_IS("\"shape\":[-0]"), 0, MLXQ_CORRUPT, "a: header byte 15: expected a non-negative integer"},
    {A_IS("\"shape\":[+1]"), 0, MLXQ_CORRUPT, "a: header byte 15: expected a non-negative integer"},
    {A_IS("\"shape\":[01]"), 0, MLXQ_CORRUPT, "a: header byte 16: an integer with a leading zero"},
    {A_IS("\"shape\":[00]"), 0, MLXQ_CORRUPT, "a: header byte 16: an integer with a leading zero"},
    {A_IS("\"shape\":[2.0]"), 0, MLXQ_CORRUPT, "a: header byte 16: a number that is no plain integer"},
    {A_IS("\"shape\":[2e0]"), 0, MLXQ_CORRUPT, "a: header byte 16: a number that is no plain integer"},
    {A_IS("\"shape\":[0E1]"), 0, MLXQ_CORRUPT, "a: header byte 16: a number that is no plain integer"},
    {A_IS("\"shape\":[0x2]"), 0, MLXQ_CORRUPT, "a: header byte 16: expected ',' or ']'"},
    {A_IS("\"shape\":[\"2\"]"), 0, MLXQ_CORRUPT, "a: header byte 15: expected a non-negative integer"},
    {A_IS("\"shape\":[true]"), 0, MLXQ_CORRUPT, "a: header byte 15: expected a non-negative integer"},
    {A_IS("\"shape\":[9223372036854775808]"), 0, MLXQ_OVERFLOW, "a: header byte 33: the integer does not fit 63 bits"},
    {A_IS("\"shape\":[18446744073709551616]"), 0, MLXQ_OVERFLOW, "a: header byte 34: the integer does not fit 63 bits"},
    /* Offsets. */
    {A_IS("\"data_offsets\":[]"), 0, MLXQ_CORRUPT, "a: header byte 22: expected a non-negative integer"},
    {A_IS("\"data_offsets\":[0]"), 0, MLXQ_CORRUPT, "a: header byte 23: expected ','"},
    {A_IS("\"data_offsets\":[0,1,2]"), 0, MLXQ_CORRUPT, "a: header byte 25: expected ']'"},
    {A_IS("\"data_offsets\":{}"), 0, MLXQ_CORRUPT, "a: header byte 21: expected '['"},
    {A_IS(SHAPE2 ",\"data_offsets\":[2,0]"), 2, MLXQ_CORRUPT, "a: data_offsets: begin 2 exceeds end 0"},
    {A_IS(SHAPE2 ",\"data_offsets\":[0,2]"), 1, MLXQ_CORRUPT,
     "a: data_offsets: end 2 exceeds the file's 1 bytes of data"},
    {A_IS("\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[3,3]"), 2, MLXQ_CORRUPT,
     "a: data_offsets: end 3 exceeds the file's 2 bytes of data"},
    {A_IS(SHAPE2 ",\"data_offsets\":[9223372036854775805,9223372036854775807]"), 2, MLXQ_CORRUPT,
     "a: data_offsets: end 9223372036854775807 exceeds the file's 2 bytes of data"},
    {A_IS(SHAPE2 ",\"data_offsets\":[0,3]"), 3, MLXQ_CORRUPT,
     "a: data_offsets: 3 bytes, where the shape and dtype U8 take 2"},
    {A_IS("\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,0]"), 0, MLXQ_CORRUPT,
     "a: data_offsets: 0 bytes, where the shape and dtype F32 take 4"},
    {A_IS("\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]"), 2, MLXQ_CORRUPT,
     "a: shape: F4 elements fill no whole number of bytes"},
    {A_IS("\"dtype\":\"F6_E2M3\",\"shape\":[3,2],\"data_offsets\":[0,5]"), 5, MLXQ_CORRUPT,
     "a: shape: F6_E2M3 elements fill no whole number of bytes"},
    {A_IS("\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]"), 0, MLXQ_OVERFLOW,
     "a: shape: the product of the dimensions does not fit 63 bits"},
    {A_IS("\"dtype\":\"U8\",\"shape\":[3037000500,3037000500],\"data_offsets\":[0,0]"), 0, MLXQ_OVERFLOW,
     "a: shape: the product of the dimensions does not fit 63 bits"},
    {A_IS("\"dtype\":\"F64\",\"shape\":[288230376151711744],\"data_offsets\":[0,0]"), 0, MLXQ_OVERFLOW,
     "a: shape: the size in bits does not fit 63 bits"},
    /* The cover of the data. */
    {"{}", 1, MLXQ_CORRUPT, "the last 1 bytes of the data belong to no tensor"},
    {A_IS(SHAPE2 ",\"data_offsets\":[0,2]"), 5, MLXQ_CORRUPT, "the last 3 bytes of the data belong to no tensor"},
    {A_IS(SHAPE2 ",\"data_offsets\":[1,3]"), 3, MLXQ_CORRUPT,
     "a: data_offsets: begin 1 leaves a hole after byte 0 of the data"},
    {"{\"b\":{" SHAPE2 ",\"data_offsets\":[4,6]},\"a\":{" SHAPE2 ",\"data_offsets\":[0,2]}}", 6, MLXQ_CORRUPT,
     "b: data_offsets: begin 4 leaves a hole after byte 2 of the data"},
    {"{\"b\":{" SHAPE2 ",\"data_offsets\":[1,3]},\"a\":{" SHAPE2 ",\"data_offsets\":[0,2]}}", 3, MLXQ_CORRUPT,
     "b: data_offsets: begin 1 lies within \"a\", which ends at 2"},
    {"{\"a\":{" SHAPE2 ",\"data_offsets\":[0,2]},\"b\":{" SHAPE2 ",\"data_offsets\":[0,2]}}", 2, MLXQ_CORRUPT,
     "b: data_offsets: begin 0 lies within \"a\", which ends at 2"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[1,1]},\"b\":{" SHAPE2 ",\"data_offsets\":[0,2]}}", 2,
     MLXQ_CORRUPT, "a: data_offsets: begin 1 lies within \"b\", which ends at 2"},
    /* Names. */
    {"{\"a\":{" SHAPE2 ",\"data_offsets\":[0,2]},\"a\":{" SHAPE2 ",\"data_offsets\":[2,4]}}", 4, MLXQ_CORRUPT,
     "a: is given twice"},
    {"{\"a\":{" SHAPE2 ",\"data_offsets\":[0,2]},\"\\u0061\":{" SHAPE2 ",\"data_offsets\":[0,2]}}", 2, MLXQ_CORRUPT,
     "a: is given twice"},
    {"{\"a\\u001b[2J\xC3\xA9\":{}}", 0, MLXQ_CORRUPT, "a\\x1B[2J\xC3\xA9: dtype: is missing"},
};

enum { REFUSAL_COUNT = sizeof REFUSALS / sizeof *REFUSALS };

static void test_refuses_with_its_reason(void **state) {
  (void)state;
  for (size_t i = 0; i < REFUSAL_COUNT; i++) {
    char line[512];
    snprintf(line, sizeof line, "%s: %s", PATH, REFUSALS[i].line);
    assert_refused(REFUSALS[i].header, strlen(REFUSALS[i].header), REFUSALS[i].data_bytes, REFUSALS[i].status, line);
  }
}

/* Copies an error's line without the number after "header byte ". */
static void without_position(char *line) {
  char *number = strstr(line, "header byte ");
  if (!number) return;
  number += strlen("header byte ");
  size_t digits = strspn(number, "0123456789");
  memmove(number, number + digits, strlen(number + digits) + 1);
}

static void test_refuses_across_chunks(void **state) {
  (void)state;
  for (size_t i = 0; i < REFUSAL_COUNT; i++) {
    const refusal *r = &REFUSALS[i];
    size_t length = strlen(r->header);
    if (!strstr(r->line, "header byte")) continue; /* what is found later does not depend on chunks */
    int fd = open_spaces();
    for (size_t split = 1; split <= length; split++) {
      mlxq_weights *map = new_map();
      mlxq_error error;
      char expected[512], found[4096];
      uint64_t data_start = put_split(fd, r->header, length, split);
      assert_int_equal(ftruncate(fd, (off_t)(data_start + r->data_bytes)), 0);
      assert_int_equal(mlxq_safetensors_read(map, 0, fd, data_start + r->data_bytes, PATH, &error), r->status);
      snprintf(expected, sizeof expected, "%s: %s", PATH, r->line);
      mlxq_error_format(&error, found, sizeof found);
      without_position(expected);
      without_position(found);
      assert_string_equal(found, expected);
      mlxq_weights_free(map);
    }
    close(fd);
  }
}

/* Wherever a valid header stops, it is refused; and so is a NUL byte anywhere, which must end no text early. */
static void test_refuses_every_truncation_and_nul(void **state) {
  (void)state;
  size_t last = sizeof ALL_TOKENS - 1;
  while (ALL_TOKENS[last - 1] != '}') last--;
  for (size_t length = 0; length < last; length++) {
    mlxq_weights *map = new_map();
    mlxq_error error;
    assert_int_equal(read_bytes(map, 0, ALL_TOKENS, length, 8380, &error), MLXQ_CORRUPT);
    mlxq_weights_free(map);
  }
  for (size_t i = 0; i < sizeof ALL_TOKENS - 1; i++) {
    char header[sizeof ALL_TOKENS];
    memcpy(header, ALL_TOKENS, sizeof header);
    header[i] = '\0';
    mlxq_weights *map = new_map();
    mlxq_error error;
    assert_int_equal(read_bytes(map, 0, header, sizeof ALL_TOKENS - 1, 8380, &error), MLXQ_CORRUPT);
    mlxq_weights_free(map);
  }
}

static void test_refuses_bad_lengths(void **state) {
  (void)state;
  static const struct {
    uint64_t length, file_bytes;
    const char *message;
  } CASES[] = {
      {0, 0, "the file's 0 bytes are too few for a safetensors file"},
      {0, 7, "the file's 7 bytes are too few for a safetensors file"},
      {0, 8, "the header does not begin with '{'"},
      {1, 8, "the header's length 1 exceeds the 0 bytes that follow"},
      {99, 106, "the header's length 99 exceeds the 98 bytes that follow"},
      {100000000, 200000000, "the header's length 100000000 is not below the limit of 100000000"},
      {99999999, 200000000, "the header does not begin with '{'"},
      {UINT64_MAX, 100, "the header's length 18446744073709551615 is not below the limit of 100000000"},
  };
  for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
    int fd = open_scratch();
    mlxq_weights *map = new_map();
    mlxq_error error;
    put_length(fd, CASES[i].length);
    assert_int_equal(ftruncate(fd, (off_t)CASES[i].file_bytes), 0);
    assert_int_equal(mlxq_safetensors_read(map, 0, fd, CASES[i].file_bytes, PATH, &error), MLXQ_CORRUPT);
    assert_string_equal(error.message, CASES[i].message);
    assert_string_equal(error.file, PATH);
    assert_string_equal(error.key, "");
    mlxq_weights_free(map);
    close(fd);
  }
}

static void test_names_a_git_lfs_pointer(void **state) {
  (void)state;
  static const char POINTER[] = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
  int fd = open_scratch();
  mlxq_weights *map = new_map();
  mlxq_error error;
  put_bytes(fd, POINTER, sizeof POINTER - 1, 0);
  assert_int_equal(mlxq_safetensors_read(map, 0, fd, sizeof POINTER - 1, PATH, &error), MLXQ_CORRUPT);
  assert_string_equal(error.message, "this is a Git LFS pointer; the file itself was not downloaded");
  mlxq_weights_free(map);
  close(fd);
}

static void test_refuses_a_long_name(void **state) {
  (void)state;
  char header[MLXQ_SAFETENSORS_MAX_NAME_BYTES + 64];
  int length = sprintf(header, "{\"");
  memset(header + length, 'n', MLXQ_SAFETENSORS_MAX_NAME_BYTES - 1);
  length += (int)MLXQ_SAFETENSORS_MAX_NAME_BYTES - 1;
  sprintf(header + length, "\xC3\xA9\":{}}"); /* the limit falls within a character */
  mlxq_weights *map = new_map();
  mlxq_error error;
  assert_int_equal(read_text(map, header, 0, &error), MLXQ_UNSUPPORTED);
  assert_string_equal(error.message, "the name has 4097 bytes; at most 4096 are accepted");
  assert_int_equal(strspn(error.key, "n"), MLXQ_ERROR_NAME_BYTES - 4);
  mlxq_weights_free(map);
}

static void test_refuses_too_many_tensors(void **state) {
  (void)state;
  mlxq_weights *map = new_map();
  mlxq_error error;
  map->count = MLXQ_SAFETENSORS_MAX_TENSORS; /* pretended: ten million entries would take a gigabyte */
  assert_int_equal(read_text(map, "{\"a\":{" SHAPE2 ",\"data_offsets\":[0,2]}}", 2, &error), MLXQ_UNSUPPORTED);
  assert_string_equal(error.key, "a");
  assert_string_equal(error.message, "more than 10000000 tensors");
  map->count = 0;
  mlxq_weights_free(map);
}

static void test_reports_failing_reads(void **state) {
  (void)state;
  mlxq_weights *map = new_map();
  mlxq_error error;
  assert_int_equal(mlxq_safetensors_read(map, 0, -1, 100, PATH, &error), MLXQ_IO);
  assert_string_equal(error.file, PATH);
  assert_int_not_equal(error.os_errno, 0);

  /* The file is cut within its length word, then within its header, after its size was taken. */
  int fd = open_scratch();
  put_bytes(fd, "\x10\0\0", 3, 0);
  assert_int_equal(mlxq_safetensors_read(map, 0, fd, 100, PATH, &error), MLXQ_CHANGED);
  put_length(fd, 16);
  put_bytes(fd, "{\"a\"", 4, 8);
  assert_int_equal(mlxq_safetensors_read(map, 0, fd, 100, PATH, &error), MLXQ_CHANGED);
  assert_string_equal(error.file, PATH);
  close(fd);
  mlxq_weights_free(map);
}

/* ---- What is written ------------------------------------------------------------------------------------------- */

static size_t *all_indices(const mlxq_weights *map) {
  size_t *indices = malloc((map->count + 1) * sizeof *indices);
  assert_non_null(indices);
  for (size_t i = 0; i < map->count; i++) indices[i] = i;
  return indices;
}

static void describe(mlxq_weights *map, const char *name, mlxq_dtype dtype, uint32_t rank, const uint64_t *shape) {
  assert_int_equal(mlxq_weights_describe(map, name, strlen(name), dtype, rank, shape, 0, 0, NULL, NULL), MLXQ_OK);
}

static void test_writes_this_header(void **state) {
  (void)state;
  mlxq_weights *map = new_map();
  describe(map, "z", MLXQ_U32, 2, (const uint64_t[]){2, 3});
  describe(map, "b\"\xC3\xA9", MLXQ_BF16, 0, NULL);
  describe(map, "skipped", MLXQ_BF16, 0, NULL);
  describe(map, "a", MLXQ_F4, 1, (const uint64_t[]){2});
  describe(map, "B", MLXQ_BF16, 1, (const uint64_t[]){0});
  size_t indices[] = {0, 1, 3, 4};
  char *header = NULL;
  size_t header_bytes = 0;
  uint64_t file_bytes = 0;
  assert_int_equal(mlxq_safetensors_layout(map, 5, indices, 4, &header, &header_bytes, &file_bytes, NULL), MLXQ_OK);
  static const char EXPECTED[] =
      "{\"__metadata__\":{\"format\":\"mlx\"},"
      "\"z\":{\"dtype\":\"U32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
      "\"B\":{\"dtype\":\"BF16\",\"shape\":[0],\"data_offsets\":[24,24]},"
      "\"b\\\"\\u00e9\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[24,26]},"
      "\"a\":{\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[26,27]}}";
  size_t length = sizeof EXPECTED - 1, padded = (length + 7) / 8 * 8;
  assert_int_not_equal(length, padded); /* so that there is padding to look at */
  assert_int_equal(header_bytes, 8 + padded);
  assert_int_equal((unsigned char)header[0] + 256 * (unsigned char)header[1], padded);
  for (int i = 2; i < 8; i++) assert_int_equal(header[i], 0);
  assert_memory_equal(header + 8, EXPECTED, length);
  for (size_t i = length; i < padded; i++) assert_int_equal(header[8 + i], ' ');
  assert_int_equal(file_bytes, header_bytes + 27);
  static const size_t ORDER[] = {0, 4, 1, 3}, OFFSETS[] = {0, 24, 24, 26};
  for (size_t i = 0; i < 4; i++) {
    assert_int_equal(indices[i], ORDER[i]);
    assert_int_equal(map->entries[indices[i]].offset, header_bytes + OFFSETS[i]);
    assert_int_equal(map->entries[indices[i]].file, 5);
  }
  assert_int_equal(map->entries[2].offset, 0);
  assert_int_equal(map->entries[2].file, 0);
  free(header);
  mlxq_weights_free(map);
}

static void test_writes_no_tensors(void **state) {
  (void)state;
  mlxq_weights *map = new_map();
  char *header = NULL;
  size_t header_bytes = 0;
  uint64_t file_bytes = 0;
  assert_int_equal(mlxq_safetensors_layout(map, 0, NULL, 0, &header, &header_bytes, &file_bytes, NULL), MLXQ_OK);
  assert_int_equal(header_bytes, 48);
  assert_int_equal(file_bytes, 48);
  assert_memory_equal(header, "\x28\0\0\0\0\0\0\0{\"__metadata__\":{\"format\":\"mlx\"}}       ", 48);
  free(header);
  mlxq_weights_free(map);
}

/* Lays out all of `map` and writes the file, then reads it into `*read_back`. Data in files stay holes. */
static void write_and_read(mlxq_weights *map, mlxq_weights **read_back, int *fd) {
  size_t *indices = all_indices(map);
  char *header = NULL;
  size_t header_bytes = 0;
  uint64_t file_bytes = 0;
  assert_int_equal(mlxq_safetensors_layout(map, 0, indices, map->count, &header, &header_bytes, &file_bytes, NULL),
                   MLXQ_OK);
  *fd = open_scratch();
  put_bytes(*fd, header, header_bytes, 0);
  assert_int_equal(ftruncate(*fd, (off_t)file_bytes), 0);
  for (size_t i = 0; i < map->count; i++) {
    const mlxq_tensor_entry *entry = &map->entries[i];
    if (entry->tensor.data) put_bytes(*fd, entry->tensor.data, (size_t)entry->tensor.bytes, entry->offset);
  }
  *read_back = new_map();
  assert_int_equal(mlxq_safetensors_read(*read_back, 0, *fd, file_bytes, PATH, NULL), MLXQ_OK);
  assert_int_equal((*read_back)->count, map->count);
  assert_covers(*read_back, 0, header_bytes, file_bytes);
  for (size_t i = 0; i < map->count; i++) {
    const mlxq_tensor *written = &map->entries[i].tensor;
    size_t index = mlxq_weights_index(*read_back, written->name, strlen(written->name));
    assert_true(index < map->count);
    assert_tensor(*read_back, index, written->name, written->dtype, written->rank, written->shape, written->bytes);
    assert_int_equal((*read_back)->entries[index].offset, map->entries[i].offset);
  }
  for (size_t i = 1; i < map->count; i++) {
    const mlxq_tensor *a = &map->entries[indices[i - 1]].tensor, *b = &map->entries[indices[i]].tensor;
    assert_true(mlxq_dtype_bits(a->dtype) >= mlxq_dtype_bits(b->dtype));
    if (mlxq_dtype_bits(a->dtype) == mlxq_dtype_bits(b->dtype)) assert_true(strcmp(a->name, b->name) < 0);
  }
  free(indices);
  free(header);
}

static void test_round_trips_every_dtype(void **state) {
  (void)state;
  static const uint64_t SHAPES[][3] = {{4, 3, 8}, {4, 0, 8}, {1, 1, 4}};
  mlxq_weights *map = new_map(), *read_back;
  unsigned char data[4 * 3 * 8 * 8];
  for (unsigned dtype = 0; dtype < MLXQ_DTYPE_COUNT; dtype++) {
    for (size_t shape = 0; shape < 3; shape++) {
      char name[64];
      snprintf(name, sizeof name,
               "m\xC3\xB6"
               "del/%zu.%s \"\\\n\x7F",
               shape, mlxq_dtype_name((mlxq_dtype)dtype));
      for (size_t i = 0; i < sizeof data; i++) data[i] = (unsigned char)(31 * dtype + 7 * shape + i);
      assert_int_equal(mlxq_weights_add_copy(map, name, (mlxq_dtype)dtype, 3, SHAPES[shape], data, NULL), MLXQ_OK);
    }
  }
  assert_int_equal(mlxq_weights_add_copy(map, "scalar", MLXQ_C64, 0, NULL, data, NULL), MLXQ_OK);
  int fd;
  write_and_read(map, &read_back, &fd);
  for (size_t i = 0; i < map->count; i++) {
    const mlxq_tensor_entry *entry = &map->entries[i];
    assert_int_equal(mlxq_file_read_at(fd, data, (size_t)entry->tensor.bytes, entry->offset, PATH, NULL), MLXQ_OK);
    assert_memory_equal(data, entry->tensor.data, (size_t)entry->tensor.bytes);
    assert_int_equal(
        entry->offset % (mlxq_dtype_bits(entry->tensor.dtype) / 8 ? mlxq_dtype_bits(entry->tensor.dtype) / 8 : 1), 0);
  }
  close(fd);
  mlxq_weights_free(read_back);
  mlxq_weights_free(map);
}

static void test_round_trips_many_tensors(void **state) {
  (void)state;
  static const mlxq_dtype DTYPES[] = {MLXQ_U32, MLXQ_BF16, MLXQ_F64, MLXQ_F4, MLXQ_U8};
  mlxq_weights *map = new_map(), *read_back;
  for (unsigned i = 0; i < 100000; i++) {
    char name[64];
    snprintf(name, sizeof name, "model.layers.%u.mlp.experts.%u.up_proj.weight", i % 97, i);
    describe(map, name, DTYPES[i % 5], 2, (const uint64_t[]){i % 7, 64});
  }
  int fd;
  write_and_read(map, &read_back, &fd);
  close(fd);
  mlxq_weights_free(read_back);
  mlxq_weights_free(map);
}

static void assert_not_written(mlxq_weights *map, mlxq_status status, const char *key, const char *message) {
  size_t *indices = all_indices(map), header_bytes = 0;
  char *header = NULL;
  uint64_t file_bytes = 0;
  mlxq_error error;
  assert_int_equal(mlxq_safetensors_layout(map, 9, indices, map->count, &header, &header_bytes, &file_bytes, &error),
                   status);
  assert_int_equal(error.status, status);
  assert_string_equal(error.key, key);
  assert_string_equal(error.message, message);
  assert_null(header);
  for (size_t i = 0; i < map->count; i++) assert_int_equal(map->entries[i].file, 0);
  free(indices);
}

static void test_refuses_to_write_bad_names(void **state) {
  (void)state;
  static const struct {
    const char *name, *key, *message;
  } CASES[] = {
      {"", "", "a tensor with an empty name cannot be written"},
      {"__metadata__", "__metadata__", "the name is reserved in safetensors files"},
      {"a\xFF", "a\\xFF", "the name is not UTF-8"},
      {"a\xE2\x82", "a\\xE2\\x82", "the name is not UTF-8"},
  };
  for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
    mlxq_weights *map = new_map();
    describe(map, "fine", MLXQ_U8, 0, NULL);
    describe(map, CASES[i].name, MLXQ_U8, 0, NULL);
    assert_not_written(map, MLXQ_UNSUPPORTED, CASES[i].key, CASES[i].message);
    mlxq_weights_free(map);
  }
  char name[MLXQ_SAFETENSORS_MAX_NAME_BYTES + 2], key[MLXQ_ERROR_NAME_BYTES];
  memset(name, 'n', sizeof name - 1);
  name[sizeof name - 1] = '\0';
  memset(key, 'n', sizeof key - 4);
  memcpy(key + sizeof key - 4, "...", 4);
  mlxq_weights *map = new_map();
  describe(map, name, MLXQ_U8, 0, NULL);
  assert_not_written(map, MLXQ_UNSUPPORTED, key, "the name is too long to be written");
  mlxq_weights_free(map);
}

static void test_refuses_to_write_too_much(void **state) {
  (void)state;
  mlxq_weights *map = new_map();
  describe(map, "a", MLXQ_F4, 1, (const uint64_t[]){UINT64_C(1) << 60});
  for (char name[] = "b0"; name[1] < '8'; name[1]++) describe(map, name, MLXQ_U8, 1, (const uint64_t[]){INT64_MAX / 8});
  assert_not_written(map, MLXQ_OVERFLOW, "a", "the size of the file does not fit 63 bits");
  mlxq_weights_free(map);

  map = new_map(); /* the data fit 63 bits, with the header they do not */
  for (char name[] = "b0"; name[1] < '8'; name[1]++) describe(map, name, MLXQ_U8, 1, (const uint64_t[]){INT64_MAX / 8});
  assert_not_written(map, MLXQ_OVERFLOW, "", "the size of the file does not fit 63 bits");
  mlxq_weights_free(map);

  enum { COUNT = 100000000 / 4000 };
  char name[4001];
  memset(name, 'n', sizeof name - 1);
  name[4000] = '\0';
  map = new_map();
  for (unsigned i = 0; i < COUNT; i++) {
    char number[7];
    snprintf(number, sizeof number, "%06u", i);
    memcpy(name, number, 6);
    describe(map, name, MLXQ_U8, 0, NULL);
  }
  assert_not_written(map, MLXQ_OVERFLOW, "", "the header of 25000 tensors reaches the limit of 100000000 bytes");
  mlxq_weights_free(map);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_values_that_may_be_integers),
      cmocka_unit_test(test_reads_no_tensors),
      cmocka_unit_test(test_reads_any_field_order),
      cmocka_unit_test(test_reads_scalars_and_empty_tensors),
      cmocka_unit_test(test_reads_the_highest_rank),
      cmocka_unit_test(test_reads_tokens_across_chunks),
      cmocka_unit_test(test_reads_long_texts),
      cmocka_unit_test(test_reads_many_tensors_out_of_order),
      cmocka_unit_test(test_reads_several_files_into_one_map),
      cmocka_unit_test(test_refuses_with_its_reason),
      cmocka_unit_test(test_refuses_across_chunks),
      cmocka_unit_test(test_refuses_every_truncation_and_nul),
      cmocka_unit_test(test_refuses_bad_lengths),
      cmocka_unit_test(test_names_a_git_lfs_pointer),
      cmocka_unit_test(test_refuses_a_long_name),
      cmocka_unit_test(test_refuses_too_many_tensors),
      cmocka_unit_test(test_reports_failing_reads),
      cmocka_unit_test(test_writes_this_header),
      cmocka_unit_test(test_writes_no_tensors),
      cmocka_unit_test(test_round_trips_every_dtype),
      cmocka_unit_test(test_round_trips_many_tensors),
      cmocka_unit_test(test_refuses_to_write_bad_names),
      cmocka_unit_test(test_refuses_to_write_too_much),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
