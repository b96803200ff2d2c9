/* The parser is ours, the document is json-c's. json-c's own parser takes what Python refuses ('x', 1., raw control
 * characters), saturates integers beyond 64 bits and ends keys at U+0000, differently from release to release; a check
 * ahead of it would be this same grammar, and positions in errors would still be json-c's. */
#include "base/json.h"

#include "base/error.h"
#include "base/memory.h"

#include <errno.h>
#include <float.h>
#include <inttypes.h>
#include <json-c/json_object_iterator.h>
#include <json-c/json_tokener.h>
#include <json-c/linkhash.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What the parts of a document take in memory, json-c's 0.16 with glibc's malloc, rounded up. */
enum {
  VALUE_BYTES = 64,   /* and the text of it */
  OBJECT_BYTES = 768, /* more: its table begins with 16 places */
  ARRAY_BYTES = 128,  /* more */
  ELEM_BYTES = 24,    /* of an array, while it grows */
  MEMBER_BYTES = 160, /* and the key; its table grows by copying */
};

typedef struct parser {
  const char *text;
  size_t bytes, at;
  size_t budget;  /* bytes that the document may still take */
  unsigned depth; /* containers around `at` */
  mlxq_error *error;
} parser;

static mlxq_status too_large(const parser *p) {
  return mlxq_fail(p->error, MLXQ_OUT_OF_RANGE, NULL, NULL, "the document is too large: it takes more than %d MiB",
                   MLXQ_JSON_MAX_MEMORY >> 20);
}

static mlxq_status charge(parser *p, size_t bytes) {
  if (bytes > p->budget) return too_large(p);
  p->budget -= bytes;
  return MLXQ_OK;
}

/* There must be room for a string or number of this length as it is put together and copied. */
static bool has_room(const parser *p, size_t length) {
  return length <= p->budget / 4;
}

/* Says what is wrong at a place. Lines and columns count from 1, columns in characters, as Python's do. */
static mlxq_status broken(const parser *p, size_t at, const char *reason) {
  size_t line = 1, column = 1;
  for (size_t i = 0; i < at; i++) {
    if (p->text[i] == '\n') {
      line++;
      column = 1;
    } else if (((unsigned char)p->text[i] & 0xC0) != 0x80) {
      column++;
    }
  }
  return mlxq_fail(p->error, MLXQ_PARSE, NULL, NULL, "line %zu, column %zu: %s", line, column, reason);
}

/* The byte at `at`, or NUL at the end: no token has a NUL in it. */
static char peek(const parser *p) {
  if (p->at < p->bytes) return p->text[p->at];
  return '\0';
}

static void skip_space(parser *p) {
  while (peek(p) == ' ' || peek(p) == '\t' || peek(p) == '\n' || peek(p) == '\r') p->at++;
}

static bool skip_char(parser *p, char c) {
  if (peek(p) != c) return false;
  p->at++;
  return true;
}

static bool skip_word(parser *p, const char *word) {
  size_t length = strlen(word);
  if (p->bytes - p->at < length || memcmp(p->text + p->at, word, length) != 0) return false;
  p->at += length;
  return true;
}

/* The four digits of a \uXXXX. */
static bool read_hex4(parser *p, uint32_t *unit) {
  *unit = 0;
  for (int i = 0; i < 4; i++, p->at++) {
    char c = peek(p);
    unsigned digit;
    if (c >= '0' && c <= '9') {
      digit = (unsigned)(c - '0');
    } else if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')) {
      digit = (unsigned)((c & 7) + 9);
    } else {
      return false;
    }
    *unit = *unit << 4 | digit;
  }
  return true;
}

static void append_utf8(mlxq_text *text, uint32_t character) {
  static const unsigned char LEADS[] = {0, 0, 0xC0, 0xE0, 0xF0};
  char utf8[4];
  size_t length = character < 0x80 ? 1 : character < 0x800 ? 2 : character < 0x10000 ? 3 : 4;
  for (size_t i = length - 1; i > 0; i--, character >>= 6) utf8[i] = (char)(0x80 | (character & 0x3F));
  utf8[0] = (char)(LEADS[length] | character);
  mlxq_text_append(text, utf8, length);
}

/* An escape, `at` on its backslash. */
static mlxq_status read_escape(parser *p, mlxq_text *string) {
  static const char LETTERS[] = "\"\\/bfnrt", MEANINGS[] = "\"\\/\b\f\n\r\t";
  size_t start = p->at++;
  const char *letter = peek(p) ? strchr(LETTERS, peek(p)) : NULL;
  if (letter) {
    p->at++;
    mlxq_text_append(string, &MEANINGS[letter - LETTERS], 1);
    return MLXQ_OK;
  }
  uint32_t unit, low;
  if (!skip_char(p, 'u') || !read_hex4(p, &unit)) return broken(p, start, "invalid escape in a string");
  if (unit >= 0xD800 && unit <= 0xDFFF) {
    /* Python keeps half a pair; UTF-8 has no form for it, and to drop it would change the document in silence. */
    if (unit > 0xDBFF || !skip_word(p, "\\u") || !read_hex4(p, &low) || low < 0xDC00 || low > 0xDFFF) {
      return broken(p, start, "half a surrogate pair in a string");
    }
    unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
  }
  append_utf8(string, unit);
  return MLXQ_OK;
}

/* A string, `at` on its opening quote, into `string` (empty before) without quotes and escapes. */
static mlxq_status read_string(parser *p, mlxq_text *string) {
  size_t start = p->at++;
  while (!skip_char(p, '"')) {
    uint32_t character;
    if (!has_room(p, string->length)) return too_large(p);
    if (p->at == p->bytes) return broken(p, start, "string without an end");
    if (peek(p) == '\\') {
      mlxq_status status = read_escape(p, string);
      if (status != MLXQ_OK) return status;
      continue;
    }
    size_t length = mlxq_utf8_decode(&character, p->text + p->at, p->bytes - p->at);
    if (length == 0) return broken(p, p->at, "invalid UTF-8");
    if (character < 0x20) return broken(p, p->at, "control character in a string");
    mlxq_text_append(string, p->text + p->at, length);
    p->at += length;
  }
  return string->failed ? mlxq_fail_memory(p->error) : MLXQ_OK;
}

static bool skip_digits(parser *p) {
  size_t start = p->at;
  while (peek(p) >= '0' && peek(p) <= '9') p->at++;
  return p->at > start;
}

/* Moves over a number. Like Python, stops at what cannot continue it: 01 is a 0 and then a fault, 1. is a 1. */
static bool skip_number(parser *p, bool *is_integer) {
  skip_char(p, '-');
  if (!skip_char(p, '0') && !skip_digits(p)) return false;
  size_t whole = p->at, end = whole;
  if (skip_char(p, '.') && skip_digits(p)) end = p->at;
  p->at = end;
  if (skip_char(p, 'e') || skip_char(p, 'E')) {
    if (!skip_char(p, '+')) skip_char(p, '-');
    if (skip_digits(p)) end = p->at;
  }
  p->at = end;
  *is_integer = end == whole;
  return true;
}

static struct json_object *new_integer(const char *digits) {
  errno = 0;
  long long value = strtoll(digits, NULL, 10);
  if (errno == 0) return json_object_new_int64(value);
  errno = 0;
  unsigned long long large = strtoull(digits, NULL, 10);
  if (errno == 0 && digits[0] != '-') return json_object_new_uint64(large);
  /* A double that carries its text. Finite, however many digits: the writer tags what is not. */
  double nearest = strtod(digits, NULL);
  return json_object_new_double_s(fmax(-DBL_MAX, fmin(nearest, DBL_MAX)), digits);
}

static mlxq_status read_number(parser *p, struct json_object **value) {
  size_t start = p->at;
  bool is_integer;
  if (!skip_number(p, &is_integer)) return broken(p, start, "a value is expected");
  if (!has_room(p, p->at - start)) return too_large(p);
  mlxq_text number = {0};
  mlxq_text_append(&number, p->text + start, p->at - start);
  /* json-c reads a decimal point whatever the locale, and keeps the text. */
  if (!number.failed) *value = is_integer ? new_integer(number.data) : json_tokener_parse(number.data);
  mlxq_text_free(&number);
  return *value ? MLXQ_OK : mlxq_fail_memory(p->error);
}

static mlxq_status read_value(parser *p, struct json_object **value);

/* The key of a member and its colon. `key` is empty before. */
static mlxq_status read_key(parser *p, mlxq_text *key) {
  size_t start = p->at;
  if (peek(p) != '"') return broken(p, start, "a key in double quotes is expected");
  mlxq_status status = read_string(p, key);
  if (status != MLXQ_OK) return status;
  if (key->length > 0 && strlen(key->data) != key->length) return broken(p, start, "U+0000 in a key");
  skip_space(p);
  return skip_char(p, ':') ? MLXQ_OK : broken(p, p->at, "':' is expected");
}

/* Objects and arrays read shortly before in the same container: one that has the text of such a one is that one. A
 * quantization block gives most layers one of a few schemes, and is itself written twice. */
typedef struct siblings {
  struct {
    size_t start, bytes;
    struct json_object *value;
  } recent[8];
  unsigned next;
} siblings;

static struct json_object *find_sibling(parser *p, const siblings *list) {
  for (size_t i = 0; i < sizeof list->recent / sizeof *list->recent; i++) {
    size_t bytes = list->recent[i].bytes;
    if (bytes == 0 || bytes > p->bytes - p->at) continue;
    if (memcmp(p->text + p->at, p->text + list->recent[i].start, bytes) != 0) continue;
    p->at += bytes;
    return json_object_get(list->recent[i].value);
  }
  return NULL;
}

static void add_sibling(siblings *list, size_t start, size_t end, struct json_object *value) {
  unsigned place = list->next++ % (sizeof list->recent / sizeof *list->recent);
  json_object_put(list->recent[place].value);
  list->recent[place].start = start;
  list->recent[place].bytes = end - start;
  list->recent[place].value = json_object_get(value);
}

static void free_siblings(siblings *list) {
  for (size_t i = 0; i < sizeof list->recent / sizeof *list->recent; i++) json_object_put(list->recent[i].value);
}

/* Reads the value of a container's next element. */
static mlxq_status read_elem(parser *p, siblings *list, struct json_object **value) {
  size_t start = p->at;
  bool is_container = peek(p) == '{' || peek(p) == '[';
  *value = is_container ? find_sibling(p, list) : NULL;
  if (*value) return MLXQ_OK;
  mlxq_status status = read_value(p, value);
  if (status == MLXQ_OK && is_container) add_sibling(list, start, p->at, *value);
  return status;
}

/* Reads an element, in an object with its key, into the container. `key` is for its use. */
static mlxq_status read_into(parser *p, struct json_object *container, bool is_object, siblings *list, mlxq_text *key) {
  struct json_object *value;
  mlxq_status status = MLXQ_OK;
  mlxq_text_free(key);
  skip_space(p);
  if (is_object) status = read_key(p, key);
  if (status == MLXQ_OK) status = charge(p, is_object ? MEMBER_BYTES + key->length : ELEM_BYTES);
  if (status != MLXQ_OK) return status;
  skip_space(p);
  status = read_elem(p, list, &value);
  if (status != MLXQ_OK) return status;
  int added = is_object ? json_object_object_add(container, key->length > 0 ? key->data : "", value)
                        : json_object_array_add(container, value);
  if (added == 0) return MLXQ_OK;
  json_object_put(value);
  return mlxq_fail_memory(p->error);
}

static mlxq_status read_container(parser *p, struct json_object **value) {
  if (p->depth == MLXQ_JSON_MAX_DEPTH) return broken(p, p->at, "nested too deeply");
  bool is_object = peek(p) == '{';
  char close = is_object ? '}' : ']';
  mlxq_status status = charge(p, is_object ? OBJECT_BYTES : ARRAY_BYTES);
  if (status != MLXQ_OK) return status;
  struct json_object *container = is_object ? json_object_new_object() : json_object_new_array_ext(4);
  if (!container) return mlxq_fail_memory(p->error);
  siblings list = {0};
  mlxq_text key = {0};
  p->depth++;
  p->at++;
  skip_space(p);
  if (!skip_char(p, close)) {
    do {
      status = read_into(p, container, is_object, &list, &key);
      if (status == MLXQ_OK) skip_space(p);
    } while (status == MLXQ_OK && skip_char(p, ','));
    if (status == MLXQ_OK && !skip_char(p, close)) {
      status = broken(p, p->at, is_object ? "',' or '}' is expected" : "',' or ']' is expected");
    }
  }
  p->depth--;
  mlxq_text_free(&key);
  free_siblings(&list);
  if (status == MLXQ_OK) {
    *value = container;
  } else {
    json_object_put(container);
  }
  return status;
}

/* `*value` is NULL on failure, and for null. */
static mlxq_status read_value(parser *p, struct json_object **value) {
  size_t start = p->at;
  *value = NULL;
  mlxq_status status = charge(p, VALUE_BYTES);
  if (status != MLXQ_OK) return status;
  if (peek(p) == '{' || peek(p) == '[') return read_container(p, value);
  if (skip_word(p, "null")) return MLXQ_OK;
  if (peek(p) == '"') {
    mlxq_text string = {0};
    status = read_string(p, &string);
    if (status == MLXQ_OK) *value = json_object_new_string_len(string.data ? string.data : "", (int)string.length);
    mlxq_text_free(&string);
    if (status != MLXQ_OK) return status;
  } else if (skip_word(p, "true")) {
    *value = json_object_new_boolean(1);
  } else if (skip_word(p, "false")) {
    *value = json_object_new_boolean(0);
  } else if (skip_word(p, "NaN")) {
    *value = json_object_new_double((double)NAN);
  } else if (skip_word(p, "Infinity")) {
    *value = json_object_new_double((double)INFINITY);
  } else if (skip_word(p, "-Infinity")) {
    *value = json_object_new_double((double)-INFINITY);
  } else {
    status = read_number(p, value);
    if (status != MLXQ_OK) return status;
  }
  if (!*value) return mlxq_fail_memory(p->error);
  status = charge(p, p->at - start);
  /* It is written as an object, which must be readable again. */
  bool is_level = json_object_is_type(*value, json_type_double) && !isfinite(json_object_get_double(*value));
  if (is_level && p->depth == MLXQ_JSON_MAX_DEPTH) status = broken(p, start, "nested too deeply");
  if (status == MLXQ_OK) return MLXQ_OK;
  json_object_put(*value);
  *value = NULL;
  return status;
}

mlxq_status mlxq_json_parse(struct json_object **document, const char *text, size_t bytes, mlxq_error *error) {
  *document = NULL;
  /* So no string has more bytes than json-c's int can count. */
  parser p = {.text = text, .bytes = bytes, .budget = MLXQ_JSON_MAX_MEMORY, .error = error};
  mlxq_status status = charge(&p, bytes);
  if (status != MLXQ_OK) return status;
  struct json_object *value;
  skip_space(&p);
  status = read_value(&p, &value);
  if (status == MLXQ_OK) {
    skip_space(&p);
    if (p.at < bytes) status = broken(&p, p.at, "text after the document");
  }
  if (status == MLXQ_OK) {
    *document = value;
  } else {
    json_object_put(value);
  }
  return status;
}

/* A new line with its indentation, or what stands in its place on a single line. */
static void break_line(mlxq_text *text, int indent, int level, const char *otherwise) {
  if (indent == 0) {
    mlxq_text_puts(text, otherwise);
  } else {
    mlxq_text_printf(text, "\n%*s", indent * level, "");
  }
}

static void write_double(mlxq_text *text, struct json_object *value, int indent, int level) {
  double number = json_object_get_double(value);
  if (isfinite(number)) {
    const char *digits = json_object_to_json_string(value);
    if (digits) mlxq_text_puts(text, digits);
    text->failed = text->failed || !digits;
    return;
  }
  mlxq_text_puts(text, "{");
  break_line(text, indent, level + 1, "");
  mlxq_text_printf(text, "\"__float__\": \"%s\"", isnan(number) ? "NaN" : number > 0 ? "Infinity" : "-Infinity");
  break_line(text, indent, level, "");
  mlxq_text_puts(text, "}");
}

/* Whether the text has room for a string, however many of its bytes are escaped. */
static bool may_append(const mlxq_text *text, size_t length, size_t max_bytes) {
  return text->length < max_bytes && length <= (max_bytes - text->length) / 6;
}

static bool write_value(mlxq_text *text, struct json_object *value, int indent, int level, size_t max_bytes) {
  size_t count = 0;
  if (text->length > max_bytes) return false;
  switch (json_object_get_type(value)) {
    case json_type_null:
      mlxq_text_puts(text, "null");
      break;
    case json_type_double:
      write_double(text, value, indent, level);
      break;
    case json_type_string:
      if (!may_append(text, (size_t)json_object_get_string_len(value), max_bytes)) return false;
      mlxq_text_json_string(text, json_object_get_string(value), (size_t)json_object_get_string_len(value));
      break;
    case json_type_array:
      mlxq_text_puts(text, "[");
      for (; count < json_object_array_length(value); count++) {
        if (count > 0) mlxq_text_puts(text, ",");
        break_line(text, indent, level + 1, count > 0 ? " " : "");
        struct json_object *elem = json_object_array_get_idx(value, count);
        if (!write_value(text, elem, indent, level + 1, max_bytes)) return false;
      }
      if (count > 0) break_line(text, indent, level, "");
      mlxq_text_puts(text, "]");
      break;
    case json_type_object: {
      struct json_object_iter member;
      mlxq_text_puts(text, "{");
      json_object_object_foreachC(value, member) {
        if (count > 0) mlxq_text_puts(text, ",");
        break_line(text, indent, level + 1, count > 0 ? " " : "");
        if (!may_append(text, strlen(member.key), max_bytes)) return false;
        mlxq_text_json_string(text, member.key, strlen(member.key));
        mlxq_text_puts(text, ": ");
        if (!write_value(text, member.val, indent, level + 1, max_bytes)) return false;
        count++;
      }
      if (count > 0) break_line(text, indent, level, "");
      mlxq_text_puts(text, "}");
      break;
    }
    case json_type_boolean:
      mlxq_text_puts(text, json_object_get_boolean(value) ? "true" : "false");
      break;
    case json_type_int: {
      /* json-c saturates what does not fit the type asked for. */
      int64_t number = json_object_get_int64(value);
      if (number < INT64_MAX) {
        mlxq_text_printf(text, "%" PRId64, number);
      } else {
        mlxq_text_printf(text, "%" PRIu64, json_object_get_uint64(value));
      }
      break;
    }
  }
  return text->length <= max_bytes;
}

void mlxq_json_write(mlxq_text *text, struct json_object *document, int indent) {
  write_value(text, document, indent, 0, SIZE_MAX);
}

bool mlxq_json_write_within(mlxq_text *text, struct json_object *document, int indent, size_t max_bytes) {
  return write_value(text, document, indent, 0, max_bytes);
}

static int compare_keys(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

bool mlxq_json_sort_keys(struct json_object *object) {
  size_t count = (size_t)json_object_object_length(object), copied = 0;
  struct json_object_iter member;
  mlxq_arena arena = {0};
  bool sorted = false;
  char **keys = mlxq_alloc(count, sizeof *keys);
  if (!keys) goto cleanup;
  json_object_object_foreachC(object, member) {
    keys[copied] = mlxq_arena_text(&arena, member.key, strlen(member.key));
    if (!keys[copied++]) goto cleanup;
  }
  /* The order of UTF-8 bytes is that of code points. */
  qsort(keys, count, sizeof *keys, compare_keys);
  for (size_t i = 0; i < count; i++) {
    /* Taken out and added again, a member is the last. */
    struct json_object *value = json_object_get(json_object_object_get(object, keys[i]));
    json_object_object_del(object, keys[i]);
    if (json_object_object_add_ex(object, keys[i], value, JSON_C_OBJECT_ADD_KEY_IS_NEW) != 0) {
      json_object_put(value);
      goto cleanup;
    }
  }
  sorted = true;

cleanup:
  free(keys);
  mlxq_arena_free(&arena);
  return sorted;
}

bool mlxq_json_get_int32(struct json_object *object, const char *key, int *value) {
  struct json_object *member;
  if (!json_object_object_get_ex(object, key, &member) || !json_object_is_type(member, json_type_int)) return false;
  int64_t number = json_object_get_int64(member);
  if (number < INT32_MIN || number > INT32_MAX) return false;
  *value = (int)number;
  return true;
}
