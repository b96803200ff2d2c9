/* A pull parser for the JSON of safetensors headers and their index: objects, arrays, strings, non-negative integers,
 * null; anything else can be skipped. It reads a range of a file in chunks and keeps nothing, so that a text of any
 * size costs one chunk. Strict RFC 8259: valid UTF-8, no control characters, no lone surrogates.
 *
 * Functions that return bool return false after a failure, which `status` and the error then tell; the first failure
 * stays. White space before a token is skipped. */
#ifndef MLXQ_SAFETENSORS_JSON_STREAM_H
#define MLXQ_SAFETENSORS_JSON_STREAM_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MLXQ_JSON_CHUNK_BYTES 65536u

typedef struct mlxq_json_stream {
  int fd;
  const char *path;
  mlxq_error *error;
  const char *key;  /* of the error, where one comes; NULL for none */
  bool is_document; /* a file of its own: faults are MLXQ_PARSE with line and column; else MLXQ_CORRUPT with the byte */
  mlxq_status status;
  uint64_t file_offset; /* of the text */
  uint64_t text_bytes;
  uint64_t consumed; /* bytes of the text before the chunk */
  size_t used, filled;
  unsigned char chunk[MLXQ_JSON_CHUNK_BYTES];
} mlxq_json_stream;

/* Starts at `file_offset`, for `text_bytes` bytes that the file is known to have. `path` and `error` must live as long
 * as the stream, which needs no release. The text is a header; set `is_document` where it is not. */
void mlxq_json_start(mlxq_json_stream *stream, int fd, uint64_t file_offset, uint64_t text_bytes, const char *path,
                     mlxq_error *error);

/* Fails the stream with a reason of the caller's. Always false. */
bool mlxq_json_fail(mlxq_json_stream *stream, mlxq_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Fails the stream because of the next token. Always false. */
bool mlxq_json_fault(mlxq_json_stream *stream, const char *reason);

/* The first byte of the next token; -1 at the end and after a failure. */
int mlxq_json_peek(mlxq_json_stream *stream);

/* Whether the very next byte, white space not skipped, is `wanted`. */
bool mlxq_json_at(mlxq_json_stream *stream, char wanted);

/* Reads one punctuation character. */
bool mlxq_json_expect(mlxq_json_stream *stream, char wanted);

/* Steps through an object or array that has been opened:
 *   for (bool first = true; mlxq_json_next(stream, '}', &first);) { read one member }
 * False after the closing character, and on failure. */
bool mlxq_json_next(mlxq_json_stream *stream, char close, bool *first);

/* Reads a string into `text`, decoded and NUL-terminated; `*length` is its whole length, of which what `capacity`
 * cannot take is cut off. Refuses NUL characters in headers. With `text` NULL the string is checked and dropped. */
bool mlxq_json_string(mlxq_json_stream *stream, char *text, size_t capacity, size_t *length);

/* Reads an integer of decimal digits alone: MLXQ_OVERFLOW beyond 63 bits. */
bool mlxq_json_uint(mlxq_json_stream *stream, uint64_t *value);

/* Reads `null` if that is the next token; false if it is another. */
bool mlxq_json_null(mlxq_json_stream *stream);

/* Skips any value that nests no deeper than `max_depth`. Numbers may be fractions and, as in Python, NaN, Infinity and
 * -Infinity. */
bool mlxq_json_skip(mlxq_json_stream *stream, unsigned max_depth);

/* The same; `*is_uint` tells whether the value is an integer of decimal digits alone that fits 63 bits, `*value`. */
bool mlxq_json_skip_uint(mlxq_json_stream *stream, unsigned max_depth, bool *is_uint, uint64_t *value);

/* Nothing but white space follows. */
bool mlxq_json_end(mlxq_json_stream *stream);

#endif
