#include "safetensors/json_stream.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { END = -1 }; /* of the text, or of a failed stream */

void mlxq_json_start(mlxq_json_stream *stream, int fd, uint64_t file_offset, uint64_t text_bytes, const char *path,
                     mlxq_error *error) {
  stream->fd = fd;
  stream->path = path;
  stream->error = error;
  stream->key = NULL;
  stream->is_document = false;
  stream->status = MLXQ_OK;
  stream->file_offset = file_offset;
  stream->text_bytes = text_bytes;
  stream->consumed = 0;
  stream->used = stream->filled = 0;
}

bool mlxq_json_fail(mlxq_json_stream *stream, mlxq_status status, const char *format, ...) {
  if (stream->status != MLXQ_OK) return false;
  char reason[MLXQ_ERROR_MESSAGE_BYTES];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(reason, sizeof reason, format, arguments);
  va_end(arguments);
  stream->status = mlxq_fail(stream->error, status, NULL, stream->key, "%s", reason);
  return false;
}

/* The line and column of a byte of the text, counted from 1, columns in characters. Ends the stream: its chunk is used
 * for reading once more what came before. */
static bool find_line(mlxq_json_stream *stream, uint64_t at, uint64_t *line, uint64_t *column) {
  *line = *column = 1;
  stream->used = stream->filled = 0;
  for (uint64_t done = 0; done < at; done += stream->filled) {
    stream->filled = at - done < sizeof stream->chunk ? (size_t)(at - done) : sizeof stream->chunk;
    stream->status = mlxq_file_read_at(stream->fd, stream->chunk, stream->filled, stream->file_offset + done,
                                       stream->path, stream->error);
    if (stream->status != MLXQ_OK) return false;
    for (size_t i = 0; i < stream->filled; i++) {
      if (stream->chunk[i] == '\n') {
        ++*line;
        *column = 1;
      } else if ((stream->chunk[i] & 0xC0) != 0x80) {
        ++*column;
      }
    }
  }
  return true;
}

/* A syntax error `back` bytes before the next byte. */
static bool fail_before(mlxq_json_stream *stream, size_t back, const char *reason) {
  uint64_t at = stream->consumed + stream->used - back, line, column;
  if (stream->status != MLXQ_OK) return false;
  if (!stream->is_document) return mlxq_json_fail(stream, MLXQ_CORRUPT, "header byte %" PRIu64 ": %s", at, reason);
  if (!find_line(stream, at, &line, &column)) return false;
  return mlxq_json_fail(stream, MLXQ_PARSE, "line %" PRIu64 ", column %" PRIu64 ": %s", line, column, reason);
}

static bool fail_here(mlxq_json_stream *stream, const char *reason) {
  return fail_before(stream, 0, reason);
}

static int peek(mlxq_json_stream *stream) {
  if (stream->status != MLXQ_OK) return END;
  if (stream->used == stream->filled) {
    stream->consumed += stream->filled;
    stream->used = stream->filled = 0;
    uint64_t left = stream->text_bytes - stream->consumed;
    size_t wanted = left < sizeof stream->chunk ? (size_t)left : sizeof stream->chunk;
    if (wanted == 0) return END;
    stream->status = mlxq_file_read_at(stream->fd, stream->chunk, wanted, stream->file_offset + stream->consumed,
                                       stream->path, stream->error);
    if (stream->status != MLXQ_OK) return END;
    stream->filled = wanted;
  }
  return stream->chunk[stream->used];
}

static int peek_token(mlxq_json_stream *stream) {
  for (;;) {
    int byte = peek(stream);
    if (byte != ' ' && byte != '\t' && byte != '\n' && byte != '\r') return byte;
    stream->used++;
  }
}

bool mlxq_json_fault(mlxq_json_stream *stream, const char *reason) {
  peek_token(stream);
  return fail_here(stream, reason);
}

int mlxq_json_peek(mlxq_json_stream *stream) {
  return peek_token(stream);
}

bool mlxq_json_at(mlxq_json_stream *stream, char wanted) {
  return peek(stream) == wanted;
}

bool mlxq_json_expect(mlxq_json_stream *stream, char wanted) {
  if (peek_token(stream) != wanted) {
    char reason[] = "expected '?'";
    *strchr(reason, '?') = wanted;
    return fail_here(stream, reason);
  }
  stream->used++;
  return true;
}

bool mlxq_json_next(mlxq_json_stream *stream, char close, bool *first) {
  int byte = peek_token(stream);
  if (byte == close) {
    stream->used++;
    return false;
  }
  if (*first) {
    *first = false;
    return stream->status == MLXQ_OK;
  }
  if (byte != ',') {
    char reason[] = "expected ',' or '?'";
    *strchr(reason, '?') = close;
    return fail_here(stream, reason);
  }
  stream->used++;
  return true;
}

/* Where a string goes: `length` counts all of it, `text` (may be NULL) takes what fits. */
typedef struct string_sink {
  char *text;
  size_t capacity, length;
} string_sink;

static void put(string_sink *sink, const char *bytes, size_t count) {
  if (sink->text && sink->length + count < sink->capacity) {
    memcpy(sink->text + sink->length, bytes, count);
    sink->text[sink->length + count] = '\0';
  }
  sink->length += count;
}

/* A character beyond ASCII. */
static bool read_utf8(mlxq_json_stream *stream, string_sink *sink) {
  char bytes[4];
  uint32_t character;
  size_t length = 0;
  int byte = peek(stream);
  size_t wanted = byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
  do {
    bytes[length++] = (char)byte;
    stream->used++;
  } while (length < wanted && ((byte = peek(stream)) & 0xC0) == 0x80);
  if (mlxq_utf8_decode(&character, bytes, length) != length) return fail_before(stream, length, "not UTF-8");
  put(sink, bytes, length);
  return true;
}

static bool read_hex4(mlxq_json_stream *stream, unsigned *value) {
  *value = 0;
  for (int i = 0; i < 4; i++) {
    int byte = peek(stream);
    int lower = byte | 0x20;
    int digit = byte >= '0' && byte <= '9' ? byte - '0' : lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : END;
    if (byte == END || digit == END) return fail_here(stream, "expected four hexadecimal digits after \\u");
    *value = *value * 16 + (unsigned)digit;
    stream->used++;
  }
  return true;
}

/* After "\u". */
static bool read_unicode_escape(mlxq_json_stream *stream, string_sink *sink) {
  unsigned code, second;
  if (!read_hex4(stream, &code)) return false;
  if (code == 0 && sink->text && !stream->is_document) return fail_here(stream, "a NUL character is not accepted here");
  if (code >= 0xDC00 && code < 0xE000) return fail_here(stream, "a lone surrogate");
  if (code >= 0xD800 && code < 0xDC00) {
    for (const char *wanted = "\\u"; *wanted; wanted++, stream->used++) {
      if (peek(stream) != *wanted) return fail_here(stream, "a lone surrogate");
    }
    if (!read_hex4(stream, &second)) return false;
    if (second < 0xDC00 || second > 0xDFFF) return fail_here(stream, "a lone surrogate");
    code = 0x10000 + ((code - 0xD800) << 10) + (second - 0xDC00);
  }
  char bytes[4];
  size_t length = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  static const unsigned MARKS[] = {0, 0, 0xC0, 0xE0, 0xF0};
  for (size_t i = length - 1; i > 0; i--) {
    bytes[i] = (char)(0x80 | (code & 0x3F));
    code >>= 6;
  }
  bytes[0] = (char)(MARKS[length] | code);
  put(sink, bytes, length);
  return true;
}

/* After the backslash. */
static bool read_escape(mlxq_json_stream *stream, string_sink *sink) {
  static const char NAMES[] = "\"\\/bfnrt", VALUES[] = "\"\\/\b\f\n\r\t";
  int byte = peek(stream);
  if (byte == 'u') {
    stream->used++;
    return read_unicode_escape(stream, sink);
  }
  const char *name = byte > 0 ? strchr(NAMES, byte) : NULL;
  if (!name) return fail_here(stream, "an unknown escape");
  stream->used++;
  put(sink, &VALUES[name - NAMES], 1);
  return true;
}

bool mlxq_json_string(mlxq_json_stream *stream, char *text, size_t capacity, size_t *length) {
  string_sink sink = {text, capacity, 0};
  if (text) text[0] = '\0';
  if (peek_token(stream) != '"') return fail_here(stream, "expected a string");
  stream->used++;
  for (;;) {
    int byte = peek(stream);
    if (byte == END) {
      return fail_here(stream,
                       stream->is_document ? "the text ends within a string" : "the header ends within a string");
    }
    if (byte == '"') break;
    if (byte < 0x20) return fail_here(stream, "a control character within a string");
    if (byte == '\\') {
      stream->used++;
      if (!read_escape(stream, &sink)) return false;
    } else if (byte < 0x80) {
      char plain = (char)byte;
      stream->used++;
      put(&sink, &plain, 1);
    } else if (!read_utf8(stream, &sink)) {
      return false;
    }
  }
  stream->used++;
  if (length) *length = sink.length;
  return true;
}

static bool is_digit(int byte) {
  return byte >= '0' && byte <= '9';
}

bool mlxq_json_uint(mlxq_json_stream *stream, uint64_t *value) {
  int byte = peek_token(stream);
  if (!is_digit(byte)) return fail_here(stream, "expected a non-negative integer");
  *value = 0;
  bool leading_zero = byte == '0';
  for (size_t digits = 0; is_digit(byte); digits++, byte = peek(stream)) {
    if (leading_zero && digits > 0) return fail_here(stream, "an integer with a leading zero");
    if (!mlxq_mul_u64(value, *value, 10) || !mlxq_add_u64(value, *value, (uint64_t)(byte - '0'))) {
      return mlxq_json_fail(stream, MLXQ_OVERFLOW, "header byte %" PRIu64 ": the integer does not fit 63 bits",
                            stream->consumed + stream->used);
    }
    stream->used++;
  }
  if (byte == '.' || byte == 'e' || byte == 'E') return fail_here(stream, "a number that is no plain integer");
  return stream->status == MLXQ_OK;
}

static bool skip_word(mlxq_json_stream *stream, const char *word, const char *reason) {
  for (const char *wanted = word; *wanted; wanted++, stream->used++) {
    if (peek(stream) != *wanted) return fail_here(stream, reason);
  }
  return true;
}

bool mlxq_json_null(mlxq_json_stream *stream) {
  return peek_token(stream) == 'n' && skip_word(stream, "null", "expected null");
}

static bool skip_digits(mlxq_json_stream *stream) {
  if (!is_digit(peek(stream))) return fail_here(stream, "a digit is expected");
  while (is_digit(peek(stream))) stream->used++;
  return true;
}

/* What may follow a number's integer part. */
static bool skip_fraction(mlxq_json_stream *stream) {
  if (peek(stream) == '.') {
    stream->used++;
    if (!skip_digits(stream)) return false;
  }
  if (peek(stream) != 'e' && peek(stream) != 'E') return stream->status == MLXQ_OK;
  stream->used++;
  if (peek(stream) == '+' || peek(stream) == '-') stream->used++;
  return skip_digits(stream);
}

static bool skip_number(mlxq_json_stream *stream) {
  if (peek(stream) == '-') stream->used++;
  if (peek(stream) == 'I') return skip_word(stream, "Infinity", "a value is expected");
  if (peek(stream) == '0') {
    stream->used++;
  } else if (!skip_digits(stream)) {
    return false;
  }
  return skip_fraction(stream);
}

bool mlxq_json_skip_uint(mlxq_json_stream *stream, unsigned max_depth, bool *is_uint, uint64_t *value) {
  int byte = peek_token(stream);
  *value = 0;
  *is_uint = is_digit(byte);
  if (!*is_uint) return mlxq_json_skip(stream, max_depth);
  if (byte == '0') {
    stream->used++;
  } else {
    for (; is_digit(byte); stream->used++, byte = peek(stream)) {
      *is_uint = *is_uint && mlxq_mul_u64(value, *value, 10) && mlxq_add_u64(value, *value, (uint64_t)(byte - '0'));
    }
  }
  byte = peek(stream);
  if (byte == '.' || byte == 'e' || byte == 'E') *is_uint = false;
  return skip_fraction(stream);
}

bool mlxq_json_skip(mlxq_json_stream *stream, unsigned max_depth) {
  int open = peek_token(stream);
  if (open == '"') return mlxq_json_string(stream, NULL, 0, NULL);
  if (open == '-' || is_digit(open) || open == 'I') return skip_number(stream);
  static const char *const WORDS[] = {"null", "true", "false", "NaN"};
  for (size_t i = 0; i < sizeof WORDS / sizeof *WORDS; i++) {
    if (open == *WORDS[i]) return skip_word(stream, WORDS[i], "a value is expected");
  }
  if (open != '{' && open != '[') return fail_here(stream, "a value is expected");
  if (max_depth == 0) return fail_here(stream, "nested too deeply");
  stream->used++;
  for (bool first = true; mlxq_json_next(stream, open == '{' ? '}' : ']', &first);) {
    if (open == '{' && (!mlxq_json_string(stream, NULL, 0, NULL) || !mlxq_json_expect(stream, ':'))) return false;
    if (!mlxq_json_skip(stream, max_depth - 1)) return false;
  }
  return stream->status == MLXQ_OK;
}

bool mlxq_json_end(mlxq_json_stream *stream) {
  if (peek_token(stream) != END) {
    return fail_here(stream,
                     stream->is_document ? "text after the document" : "text after the end of the header's object");
  }
  return stream->status == MLXQ_OK;
}
