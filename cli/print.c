#include "print.h"

#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void format_scheme(char *text, size_t text_bytes, const mlxq_scheme *scheme) {
  snprintf(text, text_bytes, "%s, %d bits, group size %d", mlxq_mode_name(scheme->mode), scheme->bits,
           scheme->group_size);
}

void format_bytes(char *text, size_t text_bytes, uint64_t bytes) {
  static const char *const UNITS[] = {"bytes", "kB", "MB", "GB", "TB", "PB", "EB"};
  double value = (double)bytes;
  size_t unit = 0;
  while (value >= 999.5 && unit + 1 < sizeof UNITS / sizeof *UNITS) {
    value /= 1000;
    unit++;
  }
  snprintf(text, text_bytes, "%.*f %s", unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2, value, UNITS[unit]);
}

/* The UTF-8 sequence that text starts with: its length and character; length 0 where there is none. */
static size_t decode(const char *text, unsigned long *character) {
  static const unsigned long SMALLEST[] = {0, 0, 0x80, 0x800, 0x10000};
  const unsigned char *s = (const unsigned char *)text;
  *character = s[0];
  if (s[0] < 0x80) return 1;
  if (s[0] < 0xC0 || s[0] > 0xF7) return 0;
  size_t length = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
  *character &= 0x7Fu >> length;
  for (size_t i = 1; i < length; i++) {
    if ((s[i] & 0xC0) != 0x80) return 0; /* also at the end of the text */
    *character = *character << 6 | (s[i] & 0x3Fu);
  }
  bool is_surrogate = *character >= 0xD800 && *character <= 0xDFFF;
  return *character < SMALLEST[length] || *character > 0x10FFFF || is_surrogate ? 0 : length;
}

/* Control characters, and those that break lines or turn the direction of writing. */
static bool is_control(unsigned long character) {
  return character < 0x20 || (character >= 0x7F && character < 0xA0) || (character >= 0x2028 && character <= 0x202E) ||
         (character >= 0x2066 && character <= 0x2069);
}

char *escape(const char *text) {
  char *escaped = malloc(4 * strlen(text) + 1), *to = escaped;
  if (!escaped) return NULL;
  while (*text) {
    unsigned long character;
    size_t length = decode(text, &character);
    bool is_plain = length > 0 && !is_control(character);
    for (size_t i = 0; i < length || i < 1; i++, text++) {
      if (is_plain) {
        *to++ = *text;
      } else {
        to += sprintf(to, "\\x%02X", (unsigned char)*text);
      }
    }
  }
  *to = '\0';
  return escaped;
}

void print_escaped(const char *text) {
  char *escaped = escape(text);
  fputs(escaped ? escaped : "?", stdout);
  free(escaped);
}

void set_escaped(char *part, size_t part_bytes, const char *text) {
  char *escaped = escape(text);
  snprintf(part, part_bytes, "%s", escaped ? escaped : "?");
  free(escaped);
}

const mlxq_scheme *scheme_of_tensor(const mlxq_report *report, const mlxq_tensor *tensor) {
  size_t length = strlen(tensor->name), suffix = strlen(".weight");
  const mlxq_scheme *scheme = NULL;
  if (!report->config || tensor->dtype != MLXQ_U32 || length < suffix ||
      strcmp(tensor->name + length - suffix, ".weight") != 0) {
    return NULL;
  }
  char *name = malloc(length + 1);
  if (!name) return NULL;
  memcpy(name, tensor->name, length - suffix);
  memcpy(name + length - suffix, ".scales", suffix + 1);
  if (mlxq_weights_find(report->tensors, name)) {
    name[length - suffix] = '\0';
    scheme = mlxq_quant_config_lookup(report->config, name);
  }
  free(name);
  return scheme;
}

/* ---- JSON ------------------------------------------------------------------------------------------------------ */

static void print_json_string(FILE *stream, const char *text) {
  static const char SPECIAL[] = "\"\\\b\f\n\r\t", LETTERS[] = "\"\\bfnrt";
  putc('"', stream);
  while (*text) {
    unsigned long character;
    size_t length = decode(text, &character);
    const char *special = strchr(SPECIAL, *text);
    if (length == 0) {
      fputs("\xEF\xBF\xBD", stream); /* U+FFFD */
    } else if (special) {
      fprintf(stream, "\\%c", LETTERS[special - SPECIAL]);
    } else if (is_control(character)) {
      fprintf(stream, "\\u%04lx", character);
    } else {
      fwrite(text, 1, length, stream);
    }
    text += length > 0 ? length : 1;
  }
  putc('"', stream);
}

/* What comes before a value: a separator and, in an object, its key. */
static void begin_value(json_writer *json, const char *key) {
  fputs(json->separator, json->stream);
  json->separator = ", ";
  if (!key) return;
  print_json_string(json->stream, key);
  fputs(": ", json->stream);
}

void json_open(json_writer *json, const char *key, char bracket) {
  begin_value(json, key);
  putc(bracket, json->stream);
  json->separator = " ";
}

void json_close(json_writer *json, char bracket) {
  fprintf(json->stream, " %c", bracket);
  json->separator = ", ";
}

void json_string(json_writer *json, const char *key, const char *text) {
  begin_value(json, key);
  if (text) {
    print_json_string(json->stream, text);
  } else {
    fputs("null", json->stream);
  }
}

void json_uint(json_writer *json, const char *key, uint64_t value) {
  begin_value(json, key);
  fprintf(json->stream, "%" PRIu64, value);
}

void json_double(json_writer *json, const char *key, double value) {
  char digits[32];
  begin_value(json, key);
  snprintf(digits, sizeof digits, "%.17g", value);
  bool is_whole = strspn(digits, "-0123456789") == strlen(digits);
  fprintf(json->stream, "%s%s", isfinite(value) ? digits : "null", is_whole ? ".0" : "");
}

void json_bool(json_writer *json, const char *key, bool value) {
  begin_value(json, key);
  fputs(value ? "true" : "false", json->stream);
}

static void json_scheme(json_writer *json, const char *key, const mlxq_scheme *scheme) {
  json_open(json, key, '{');
  json_string(json, "mode", mlxq_mode_name(scheme->mode));
  json_uint(json, "group_size", (uint64_t)scheme->group_size);
  json_uint(json, "bits", (uint64_t)scheme->bits);
  json_close(json, '}');
}

void json_quantization(json_writer *json, const char *key, const mlxq_quant_config *config) {
  if (!config) {
    json_string(json, key, NULL);
    return;
  }
  const mlxq_scheme *fallback = mlxq_quant_config_default(config);
  json_open(json, key, '{');
  if (fallback) {
    json_scheme(json, "default", fallback);
  } else {
    json_string(json, "default", NULL);
  }
  json_open(json, "layers", '{');
  for (size_t i = 0; i < mlxq_quant_config_layer_count(config); i++) {
    const char *path = mlxq_quant_config_layer_at(config, i, NULL);
    const mlxq_scheme *scheme = mlxq_quant_config_lookup(config, path);
    if (scheme) {
      json_scheme(json, path, scheme);
    } else {
      json_bool(json, path, false);
    }
  }
  json_close(json, '}');
  json_close(json, '}');
}

void json_tensors(json_writer *json, const char *key, const mlxq_report *report) {
  json_open(json, key, '[');
  for (size_t i = 0; i < mlxq_weights_count(report->tensors); i++) {
    const mlxq_tensor *tensor = mlxq_weights_at(report->tensors, i);
    json_open(json, NULL, '{');
    json_string(json, "name", tensor->name);
    json_string(json, "dtype", mlxq_dtype_name(tensor->dtype));
    json_open(json, "shape", '[');
    for (uint32_t k = 0; k < tensor->rank; k++) json_uint(json, NULL, tensor->shape[k]);
    json_close(json, ']');
    json_uint(json, "bytes", tensor->bytes);
    json_string(json, "file", report->files[report->tensor_files[i]]);
    json_close(json, '}');
  }
  json_close(json, ']');
}

/* ---- Errors ---------------------------------------------------------------------------------------------------- */

bool wants_json(int argc, char **argv) {
  for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
    if (strcmp(argv[i], "--json") == 0) return true;
  }
  return false;
}

static int exit_status_of(mlxq_status status) {
  if (status == MLXQ_USAGE) return EXIT_USAGE;
  return status == MLXQ_CANCELLED ? EXIT_INTERRUPTED : EXIT_FAILED;
}

int print_error(const mlxq_error *error, bool json) {
  if (json) {
    json_writer writer = {stderr, ""};
    json_open(&writer, NULL, '{');
    json_open(&writer, "error", '{');
    json_string(&writer, "status", mlxq_status_name(error->status));
    json_string(&writer, "file", *error->file ? error->file : NULL);
    json_string(&writer, "layer", *error->layer ? error->layer : NULL);
    json_string(&writer, "key", *error->key ? error->key : NULL);
    json_string(&writer, "message", error->message);
    json_close(&writer, '}');
    json_close(&writer, '}');
    putc('\n', stderr);
  } else {
    char line[sizeof *error];
    mlxq_error_format(error, line, sizeof line);
    fprintf(stderr, "mlxq: %s\n", line);
  }
  return exit_status_of(error->status);
}

int finish_output(bool json, const char *complete) {
  if (fflush(stdout) == 0 && !ferror(stdout)) return EXIT_DONE;
  mlxq_error error = {.status = MLXQ_IO, .os_errno = errno};
  if (complete) set_escaped(error.file, sizeof error.file, complete);
  snprintf(error.message, sizeof error.message, "%scannot write to standard output: %s",
           complete ? "is complete, but " : "", strerror(error.os_errno));
  return print_error(&error, json);
}
