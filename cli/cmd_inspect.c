#include "cli.h"
#include "print.h"

#include <stdlib.h>
#include <string.h>

mlxq_status inspect(mlxq_report **report, const arguments *parsed, mlxq_error *error) {
  return mlxq_inspect(report, parsed->source, error);
}

/* A line of the table: tensors whose names differ in numbers only, and that are alike otherwise. */
typedef struct row {
  char *name; /* numbers replaced by "*" where the line stands for several tensors */
  const mlxq_tensor *first;
  const mlxq_scheme *scheme;
  size_t count;
  uint64_t bytes;
} row;

/* The name with every part that is a number replaced by "*". The caller frees it. */
static char *pattern_of(const char *name) {
  char *pattern = malloc(strlen(name) + 1), *to = pattern;
  if (!pattern) return NULL;
  for (const char *part = name;;) {
    size_t length = strcspn(part, ".");
    if (length > 0 && strspn(part, "0123456789") == length) {
      *to++ = '*';
    } else {
      memcpy(to, part, length);
      to += length;
    }
    part += length;
    if (!*part) break;
    *to++ = *part++;
  }
  *to = '\0';
  return pattern;
}

static bool is_alike(const row *candidate, const char *pattern, const mlxq_tensor *tensor, const mlxq_scheme *scheme) {
  const mlxq_tensor *first = candidate->first;
  const mlxq_scheme *other = candidate->scheme;
  bool same_scheme = (!scheme && !other) || (scheme && other && memcmp(scheme, other, sizeof *scheme) == 0);
  return same_scheme && first->dtype == tensor->dtype && first->rank == tensor->rank &&
         memcmp(first->shape, tensor->shape, tensor->rank * sizeof *tensor->shape) == 0 &&
         strcmp(candidate->name, pattern) == 0;
}

/* Adds a tensor to its line, newest lines first: a model's layers follow each other. False when memory is out. */
static bool add_tensor(row **rows, size_t *count, const mlxq_tensor *tensor, const mlxq_scheme *scheme) {
  char *pattern = pattern_of(tensor->name);
  if (!pattern) return false;
  for (size_t i = *count; i > 0; i--) {
    row *found = &(*rows)[i - 1];
    if (!is_alike(found, pattern, tensor, scheme)) continue;
    found->count++;
    found->bytes += tensor->bytes;
    free(pattern);
    return true;
  }
  row *grown = realloc(*rows, (*count + 1) * sizeof **rows);
  if (!grown) {
    free(pattern);
    return false;
  }
  *rows = grown;
  grown[(*count)++] = (row){pattern, tensor, scheme, 1, tensor->bytes};
  return true;
}

static void print_row(const row *line) {
  char shape[MLXQ_MAX_RANK * 22 + 3] = "[", bytes[32], scheme[64] = "";
  size_t used = 1;
  for (uint32_t i = 0; i < line->first->rank; i++) {
    used += (size_t)snprintf(shape + used, sizeof shape - used, "%s%llu", i > 0 ? ", " : "",
                             (unsigned long long)line->first->shape[i]);
  }
  snprintf(shape + used, sizeof shape - used, "]");
  format_bytes(bytes, sizeof bytes, line->bytes);
  if (line->scheme) format_scheme(scheme, sizeof scheme, line->scheme);
  printf("  %-52s %6zu  %-7s %-18s %9s%s%s\n", line->count > 1 ? line->name : line->first->name, line->count,
         mlxq_dtype_name(line->first->dtype), shape, bytes, *scheme ? "  " : "", scheme);
}

static void print_tensors(const mlxq_report *report) {
  row *rows = NULL;
  size_t count = 0;
  printf("  %-52s %6s  %-7s %-18s %9s  %s\n", "tensor", "count", "dtype", "shape", "bytes", "scheme");
  for (size_t i = 0; i < mlxq_weights_count(report->tensors); i++) {
    const mlxq_tensor *tensor = mlxq_weights_at(report->tensors, i);
    if (!add_tensor(&rows, &count, tensor, scheme_of_tensor(report, tensor))) break;
  }
  for (size_t i = 0; i < count; i++) {
    print_row(&rows[i]);
    free(rows[i].name);
  }
  free(rows);
}

static void print_inspection_json(const mlxq_report *report) {
  struct json_object *object = json_object_new_object();
  json_object_object_add(object, "tensors", json_tensors(report));
  json_object_object_add(object, "quantization", json_quantization(report->config));
  json_object_object_add(object, "foreign", report->foreign ? json_object_new_string(report->foreign) : NULL);
  json_object_object_add(object, "total_bytes", json_object_new_uint64(report->total_bytes));
  json_object_object_add(object, "parameters", json_object_new_uint64(report->parameters));
  json_object_object_add(object, "bits_per_weight", json_object_new_double(report->bits_per_weight));
  print_json(object);
}

void print_inspection(const arguments *parsed, const mlxq_report *report) {
  char size[32], scheme[64] = "none";
  if (parsed->json) {
    print_inspection_json(report);
    return;
  }
  const mlxq_scheme *fallback = report->config ? mlxq_quant_config_default(report->config) : NULL;
  format_bytes(size, sizeof size, report->total_bytes);
  if (fallback) format_scheme(scheme, sizeof scheme, fallback);
  printf("%s\n", parsed->source);
  printf("  files            %zu\n", report->file_count);
  printf("  tensors          %zu\n", mlxq_weights_count(report->tensors));
  printf("  quantization     %s", report->foreign ? report->foreign : scheme);
  if (report->foreign) printf(" (not an MLX format)");
  size_t own = report->config ? mlxq_quant_config_layer_count(report->config) : 0;
  if (own > 0) printf(", %zu %s of %s own", own, own == 1 ? "layer" : "layers", own == 1 ? "its" : "their");
  printf("\n  parameters       %llu\n", (unsigned long long)report->parameters);
  printf("  size             %s (%llu bytes)\n", size, (unsigned long long)report->total_bytes);
  printf("  bits per weight  %.3f\n\n", report->bits_per_weight);
  print_tensors(report);
}
