#include "print.h"

#include "cli.h"

#include <errno.h>
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

char *escape(const char *text) {
  char *escaped = malloc(4 * strlen(text) + 1), *to = escaped;
  if (!escaped) return NULL;
  for (; *text; text++) {
    unsigned char c = (unsigned char)*text;
    if (c < 0x20 || c == 0x7F) {
      to += sprintf(to, "\\x%02X", c);
    } else {
      *to++ = *text;
    }
  }
  *to = '\0';
  return escaped;
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

static struct json_object *json_scheme(const mlxq_scheme *scheme) {
  struct json_object *object = json_object_new_object();
  json_object_object_add(object, "mode", json_object_new_string(mlxq_mode_name(scheme->mode)));
  json_object_object_add(object, "group_size", json_object_new_int(scheme->group_size));
  json_object_object_add(object, "bits", json_object_new_int(scheme->bits));
  return object;
}

struct json_object *json_quantization(const mlxq_quant_config *config) {
  if (!config) return NULL;
  const mlxq_scheme *fallback = mlxq_quant_config_default(config);
  struct json_object *object = json_object_new_object(), *layers = json_object_new_object();
  json_object_object_add(object, "default", fallback ? json_scheme(fallback) : NULL);
  json_object_object_add(object, "layers", layers);
  for (size_t i = 0; i < mlxq_quant_config_layer_count(config); i++) {
    const char *path = mlxq_quant_config_layer_at(config, i, NULL);
    const mlxq_scheme *scheme = mlxq_quant_config_lookup(config, path);
    json_object_object_add(layers, path, scheme ? json_scheme(scheme) : json_object_new_boolean(false));
  }
  return object;
}

struct json_object *json_tensors(const mlxq_report *report) {
  struct json_object *list = json_object_new_array();
  for (size_t i = 0; i < mlxq_weights_count(report->tensors); i++) {
    const mlxq_tensor *tensor = mlxq_weights_at(report->tensors, i);
    struct json_object *object = json_object_new_object(), *shape = json_object_new_array();
    for (uint32_t k = 0; k < tensor->rank; k++) json_object_array_add(shape, json_object_new_uint64(tensor->shape[k]));
    json_object_object_add(object, "name", json_object_new_string(tensor->name));
    json_object_object_add(object, "dtype", json_object_new_string(mlxq_dtype_name(tensor->dtype)));
    json_object_object_add(object, "shape", shape);
    json_object_object_add(object, "bytes", json_object_new_uint64(tensor->bytes));
    json_object_object_add(object, "file", json_object_new_string(report->files[report->tensor_files[i]]));
    json_object_array_add(list, object);
  }
  return list;
}

void print_json(struct json_object *object) {
  puts(json_object_to_json_string_ext(object, JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE));
  json_object_put(object);
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
    struct json_object *outer = json_object_new_object(), *inner = json_object_new_object();
    const char *const parts[][2] = {{"file", error->file}, {"layer", error->layer}, {"key", error->key}};
    json_object_object_add(outer, "error", inner);
    json_object_object_add(inner, "status", json_object_new_string(mlxq_status_name(error->status)));
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
      json_object_object_add(inner, parts[i][0], *parts[i][1] ? json_object_new_string(parts[i][1]) : NULL);
    }
    json_object_object_add(inner, "message", json_object_new_string(error->message));
    fprintf(stderr, "%s\n",
            json_object_to_json_string_ext(outer, JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(outer);
  } else {
    char line[sizeof *error];
    mlxq_error_format(error, line, sizeof line);
    fprintf(stderr, "mlxq: %s\n", line);
  }
  return exit_status_of(error->status);
}

int finish_output(bool json) {
  if (fflush(stdout) == 0 && !ferror(stdout)) return EXIT_DONE;
  mlxq_error error = {.status = MLXQ_IO, .os_errno = errno};
  snprintf(error.message, sizeof error.message, "cannot write to standard output: %s", strerror(error.os_errno));
  return print_error(&error, json);
}
