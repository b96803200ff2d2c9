#include "cli.h"
#include "print.h"

#include <stdlib.h>
#include <string.h>

mlxq_status inspect(mlxq_report **report, const arguments *parsed, mlxq_error *error) {
  return mlxq_inspect(report, parsed->source, error);
}

/* A tensor, and the line of the table it goes to: lines stand for tensors whose names differ in numbers only, and that
 * are alike otherwise. */
typedef struct row {
  char *name; /* numbers replaced by "*" */
  const mlxq_tensor *tensor;
  const mlxq_scheme *scheme;
  size_t place; /* of the tensor in the checkpoint */
  size_t count; /* tensors of the line; 0 for all but its first */
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

/* Orders rows so that those of one line follow each other; 0 for rows of one line. */
static int compare_lines(const row *a, const row *b) {
  int order = strcmp(a->name, b->name);
  if (order == 0) order = (a->tensor->dtype > b->tensor->dtype) - (a->tensor->dtype < b->tensor->dtype);
  if (order == 0) order = (a->tensor->rank > b->tensor->rank) - (a->tensor->rank < b->tensor->rank);
  for (uint32_t i = 0; order == 0 && i < a->tensor->rank; i++) {
    order = (a->tensor->shape[i] > b->tensor->shape[i]) - (a->tensor->shape[i] < b->tensor->shape[i]);
  }
  if (order != 0 || !a->scheme || !b->scheme) return order != 0 ? order : (a->scheme != NULL) - (b->scheme != NULL);
  return memcmp(a->scheme, b->scheme, sizeof *a->scheme);
}

static int compare_rows(const void *left, const void *right) {
  const row *a = left, *b = right;
  int order = compare_lines(a, b);
  return order != 0 ? order : (a->place > b->place) - (a->place < b->place);
}

static int compare_places(const void *left, const void *right) {
  const row *a = left, *b = right;
  return (a->place > b->place) - (a->place < b->place);
}

/* Adds up the rows of each line in its first tensor's row, and puts them back in order. */
static void merge_lines(row *rows, size_t count) {
  row *first = rows;
  if (count == 0) return;
  qsort(rows, count, sizeof *rows, compare_rows);
  for (size_t i = 0; i < count; i++) {
    if (compare_lines(first, &rows[i]) != 0) first = &rows[i];
    first->count++;
    first->bytes += rows[i].tensor->bytes;
  }
  qsort(rows, count, sizeof *rows, compare_places);
}

static void print_row(const row *line) {
  char shape[MLXQ_MAX_RANK * 22 + 3] = "[", bytes[32], scheme[64] = "";
  size_t used = 1;
  for (uint32_t i = 0; i < line->tensor->rank; i++) {
    used += (size_t)snprintf(shape + used, sizeof shape - used, "%s%llu", i > 0 ? ", " : "",
                             (unsigned long long)line->tensor->shape[i]);
  }
  snprintf(shape + used, sizeof shape - used, "]");
  format_bytes(bytes, sizeof bytes, line->bytes);
  if (line->scheme) format_scheme(scheme, sizeof scheme, line->scheme);
  char *name = escape(line->count > 1 ? line->name : line->tensor->name);
  printf("  %-52s %6zu  %-7s %-18s %9s%s%s\n", name ? name : "?", line->count, mlxq_dtype_name(line->tensor->dtype),
         shape, bytes, *scheme ? "  " : "", scheme);
  free(name);
}

static void print_tensors(const mlxq_report *report) {
  size_t count = mlxq_weights_count(report->tensors);
  row *rows = calloc(count + 1, sizeof *rows);
  bool complete = rows != NULL;
  for (size_t i = 0; complete && i < count; i++) {
    const mlxq_tensor *tensor = mlxq_weights_at(report->tensors, i);
    rows[i] = (row){pattern_of(tensor->name), tensor, scheme_of_tensor(report, tensor), i, 0, 0};
    complete = rows[i].name != NULL;
  }
  if (complete) {
    merge_lines(rows, count);
    printf("  %-52s %6s  %-7s %-18s %9s  %s\n", "tensor", "count", "dtype", "shape", "bytes", "scheme");
  } else {
    printf("  no memory for the table of tensors\n");
  }
  for (size_t i = 0; rows && i < count; i++) {
    if (complete && rows[i].count > 0) print_row(&rows[i]);
    free(rows[i].name);
  }
  free(rows);
}

/* ---- Schemes that nothing records ------------------------------------------------------------------------------ */

enum { MOST_WORDS = 32 }; /* packed words of a group: 8 bits, group size 128 */

/* The tensor of the weight's layer with another ending; NULL where there is none. */
static const mlxq_tensor *part_of(const mlxq_report *report, const mlxq_tensor *weight, const char *ending) {
  size_t length = strlen(weight->name) - strlen(".weight"), bytes = length + strlen(ending) + 1;
  char *name = malloc(bytes);
  if (!name) return NULL;
  snprintf(name, bytes, "%.*s%s", (int)length, weight->name, ending);
  const mlxq_tensor *part = mlxq_weights_find(report->tensors, name);
  free(name);
  return part;
}

/* The packed words of a group of the layer, which is all that shapes tell; 0 where it is not quantized. */
static uint64_t words_of_group(bool *affine, const mlxq_report *report, const mlxq_tensor *weight) {
  size_t length = strlen(weight->name), suffix = strlen(".weight");
  if (weight->dtype != MLXQ_U32 || weight->rank < 2 || length < suffix ||
      strcmp(weight->name + length - suffix, ".weight") != 0) {
    return 0;
  }
  const mlxq_tensor *scales = part_of(report, weight, ".scales");
  if (!scales || scales->rank != weight->rank) return 0;
  *affine = scales->dtype != MLXQ_U8;
  uint64_t words = weight->shape[weight->rank - 1], groups = scales->shape[weight->rank - 1];
  bool fits = groups > 0 && words % groups == 0 && words / groups <= MOST_WORDS;
  return fits && (part_of(report, weight, ".biases") != NULL) == *affine ? words / groups : 0;
}

/* Prints the schemes with so many words a group, behind `lead`. False where there is none. */
static bool print_schemes(const char *lead, size_t layers, uint64_t words, bool affine) {
  bool any = false;
  for (int mode = 0; mode < MLXQ_MODE_COUNT; mode++) {
    for (mlxq_scheme tried = {.mode = (mlxq_mode)mode, .bits = 2}; tried.bits <= 8; tried.bits++) {
      tried.group_size = (int32_t)(words * 32 / (uint64_t)tried.bits);
      if (mlxq_mode_has_biases(tried.mode) != affine || words * 32 % (uint64_t)tried.bits != 0 ||
          mlxq_scheme_check(&tried, NULL) != MLXQ_OK) {
        continue;
      }
      if (any) {
        printf(" or");
      } else {
        printf("%s%zu %s like %s", lead, layers, layers == 1 ? "layer looks" : "layers look",
               mlxq_mode_name(tried.mode));
      }
      printf(" %d/%d", tried.bits, tried.group_size);
      any = true;
    }
  }
  return any;
}

/* What the layers look like where neither a config.json nor anything else tells; false where none looks quantized. */
static bool print_unrecorded(const mlxq_report *report) {
  size_t layers[2][MOST_WORDS + 1] = {{0}};
  bool affine = false, any = false;
  for (size_t i = 0; i < mlxq_weights_count(report->tensors); i++) {
    uint64_t words = words_of_group(&affine, report, mlxq_weights_at(report->tensors, i));
    layers[affine][words]++;
  }
  for (int kind = 1; kind >= 0; kind--) {
    for (uint64_t words = 1; words <= MOST_WORDS; words++) {
      const char *lead = any ? ", " : "not recorded; ";
      if (layers[kind][words] > 0) any |= print_schemes(lead, layers[kind][words], words, kind == 1);
    }
  }
  if (any) printf(" (bits/group size, by shape)");
  return any;
}

/* ---- The result ------------------------------------------------------------------------------------------------ */

static void print_inspection_json(const mlxq_report *report) {
  json_writer json = {stdout, ""};
  json_open(&json, NULL, '{');
  json_tensors(&json, "tensors", report);
  json_quantization(&json, "quantization", report->config);
  json_string(&json, "foreign", report->foreign);
  json_uint(&json, "total_bytes", report->total_bytes);
  json_uint(&json, "parameters", report->parameters);
  json_double(&json, "bits_per_weight", report->bits_per_weight);
  json_close(&json, '}');
  puts("");
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
  print_escaped(parsed->destination ? parsed->destination : parsed->source);
  puts("");
  printf("  files            %zu\n", report->file_count);
  printf("  tensors          %zu\n", mlxq_weights_count(report->tensors));
  printf("  quantization     ");
  bool unrecorded = !report->config && !report->foreign && print_unrecorded(report);
  bool packed = unrecorded || report->foreign; /* in a way that nothing, or another tool, tells */
  char *foreign = report->foreign ? escape(report->foreign) : NULL;
  if (!unrecorded) printf("%s", foreign ? foreign : scheme);
  if (report->foreign) printf(" (not an MLX format)");
  free(foreign);
  size_t own = report->config ? mlxq_quant_config_layer_count(report->config) : 0;
  if (own > 0) printf(", %zu %s of %s own", own, own == 1 ? "layer" : "layers", own == 1 ? "its" : "their");
  printf("\n  parameters       %llu%s\n", (unsigned long long)report->parameters,
         packed ? " (a packed word counted as one)" : "");
  printf("  size             %s (%llu bytes)\n", size, (unsigned long long)report->total_bytes);
  if (packed) {
    printf("  bits per weight  not known\n\n");
  } else {
    printf("  bits per weight  %.3f\n\n", report->bits_per_weight);
  }
  print_tensors(report);
}
