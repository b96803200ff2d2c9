/* A growing string. Appends after a failed one do nothing, so that only the end needs a check. */
#ifndef MLXQ_BASE_TEXT_H
#define MLXQ_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zero-initialise. `data` has a NUL after `length` bytes, or is NULL while empty. */
typedef struct mlxq_text {
  char *data;
  size_t length, capacity;
  bool failed; /* memory ran out */
} mlxq_text;

/* Replaces the content. `data` is NULL afterwards only where that failed. */
void mlxq_text_set(mlxq_text *text, const char *bytes, size_t length);

void mlxq_text_append(mlxq_text *text, const char *bytes, size_t length);
void mlxq_text_puts(mlxq_text *text, const char *string);
void mlxq_text_printf(mlxq_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Appends a JSON string with its quotes, as Python's json.dumps writes it: ASCII, \uXXXX (surrogate pairs) for the
 * rest. Bytes that are not UTF-8 become U+FFFD. */
void mlxq_text_json_string(mlxq_text *text, const char *bytes, size_t length);

void mlxq_text_free(mlxq_text *text);

/* Length of the UTF-8 sequence that starts at `bytes` (`left` of them, at least 1) and the character it stands for;
 * 0, `*character` untouched, where there is none: overlong forms and surrogates are not UTF-8. */
size_t mlxq_utf8_decode(uint32_t *character, const char *bytes, size_t left);

#endif
