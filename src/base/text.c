#include "base/text.h"

#include "base/memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Makes room for `length` more bytes and a NUL. */
static bool reserve(mlxq_text *text, size_t length) {
  if (text->failed) return false;
  if (length >= SIZE_MAX / 2 - text->length) {
    text->failed = true;
    return false;
  }
  size_t needed = text->length + length + 1;
  if (needed <= text->capacity) return true;
  size_t capacity = needed < 64 ? 64 : needed + needed / 2;
  char *data = mlxq_realloc(text->data, capacity, 1);
  if (!data) {
    text->failed = true;
    return false;
  }
  text->data = data;
  text->capacity = capacity;
  return true;
}

void mlxq_text_append(mlxq_text *text, const char *bytes, size_t length) {
  if (length == 0 || !reserve(text, length)) return;
  memcpy(text->data + text->length, bytes, length);
  text->length += length;
  text->data[text->length] = '\0';
}

void mlxq_text_set(mlxq_text *text, const char *bytes, size_t length) {
  text->length = 0;
  if (!reserve(text, length)) return;
  memcpy(text->data, bytes, length);
  text->length = length;
  text->data[length] = '\0';
}

void mlxq_text_puts(mlxq_text *text, const char *string) {
  mlxq_text_append(text, string, strlen(string));
}

void mlxq_text_printf(mlxq_text *text, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(NULL, 0, format, arguments);
  va_end(arguments);
  if (length < 0) text->failed = true;
  if (length <= 0 || !reserve(text, (size_t)length)) return;
  va_start(arguments, format);
  vsnprintf(text->data + text->length, (size_t)length + 1, format, arguments);
  va_end(arguments);
  text->length += (size_t)length;
}

size_t mlxq_utf8_decode(uint32_t *character, const char *bytes, size_t left) {
  static const uint32_t SMALLEST[] = {0, 0, 0x80, 0x800, 0x10000};
  const unsigned char *s = (const unsigned char *)bytes;
  if (s[0] < 0x80) {
    *character = s[0];
    return 1;
  }
  size_t length = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
  if (s[0] < 0xC0 || s[0] > 0xF7 || left < length) return 0;
  uint32_t value = s[0] & (0x7Fu >> length);
  for (size_t i = 1; i < length; i++) {
    if ((s[i] & 0xC0) != 0x80) return 0;
    value = value << 6 | (s[i] & 0x3Fu);
  }
  if (value < SMALLEST[length] || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) return 0;
  *character = value;
  return length;
}

void mlxq_text_json_string(mlxq_text *text, const char *bytes, size_t length) {
  static const char SHORT_ESCAPED[] = "\"\\\b\f\n\r\t", SHORT_LETTERS[] = "\"\\bfnrt";
  mlxq_text_puts(text, "\"");
  for (size_t at = 0; at < length;) {
    size_t plain = at;
    while (plain < length && bytes[plain] >= ' ' && bytes[plain] <= '~' && bytes[plain] != '"' &&
           bytes[plain] != '\\') {
      plain++;
    }
    mlxq_text_append(text, bytes + at, plain - at);
    at = plain;
    if (at == length) break;
    uint32_t character = 0xFFFD;
    size_t taken = mlxq_utf8_decode(&character, bytes + at, length - at);
    const char *escaped = bytes[at] ? strchr(SHORT_ESCAPED, bytes[at]) : NULL;
    if (escaped) {
      mlxq_text_printf(text, "\\%c", SHORT_LETTERS[escaped - SHORT_ESCAPED]);
    } else if (character > 0xFFFF) {
      unsigned beyond = (unsigned)character - 0x10000;
      mlxq_text_printf(text, "\\u%04x\\u%04x", 0xD800 + (beyond >> 10), 0xDC00 + (beyond & 0x3FF));
    } else {
      mlxq_text_printf(text, "\\u%04x", (unsigned)character);
    }
    at += taken ? taken : 1;
  }
  mlxq_text_puts(text, "\"");
}

void mlxq_text_free(mlxq_text *text) {
  free(text->data);
  *text = (mlxq_text){0};
}
