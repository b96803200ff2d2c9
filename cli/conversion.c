/* What a conversion did, or would do, for people and as JSON. */
#include "cli.h"
#include "print.h"

#include <math.h>
#include <stdlib.h>

static double relative_error(const mlxq_kind_stats *kind) {
  if (kind->squared_weight > 0) return sqrt(kind->squared_error / kind->squared_weight);
  return 0;
}

static void print_conversion_json(const arguments *parsed, const mlxq_report *report) {
  struct json_object *object = json_object_new_object(), *files = json_object_new_array();
  for (size_t i = 0; i < report->file_count; i++)
    json_object_array_add(files, json_object_new_string(report->files[i]));
  json_object_object_add(object, "source", json_object_new_string(parsed->source));
  json_object_object_add(object, "destination", json_object_new_string(parsed->destination));
  json_object_object_add(object, "dry_run", json_object_new_boolean(parsed->quantize.common.dry_run));
  json_object_object_add(object, "layers_changed", json_object_new_uint64(report->layers_changed));
  json_object_object_add(object, "source_bytes", json_object_new_uint64(report->source_bytes));
  json_object_object_add(object, "total_bytes", json_object_new_uint64(report->total_bytes));
  json_object_object_add(object, "parameters", json_object_new_uint64(report->parameters));
  json_object_object_add(object, "bits_per_weight", json_object_new_double(report->bits_per_weight));
  json_object_object_add(object, "files", files);
  json_object_object_add(object, "quantization", json_quantization(report->config));
  if (parsed->quantize.common.dry_run) json_object_object_add(object, "tensors", json_tensors(report));
  if (parsed->quantize.stats && !parsed->quantize.common.dry_run) {
    struct json_object *kinds = json_object_new_array();
    for (size_t i = 0; i < report->kind_count; i++) {
      const mlxq_kind_stats *kind = &report->kinds[i];
      struct json_object *row = json_object_new_object();
      json_object_object_add(row, "kind", json_object_new_string(kind->kind));
      json_object_object_add(row, "layers", json_object_new_uint64(kind->layers));
      json_object_object_add(row, "weights", json_object_new_uint64(kind->elems));
      json_object_object_add(row, "relative_rms_error", json_object_new_double(relative_error(kind)));
      json_object_array_add(kinds, row);
    }
    json_object_object_add(object, "stats", kinds);
  }
  print_json(object);
}

void print_conversion(const arguments *parsed, const mlxq_report *report) {
  char before[32], after[32], scheme[64];
  bool dry_run = parsed->quantize.common.dry_run;
  const mlxq_scheme *fallback = report->config ? mlxq_quant_config_default(report->config) : NULL;
  if (parsed->json) {
    print_conversion_json(parsed, report);
    return;
  }
  format_bytes(before, sizeof before, report->source_bytes);
  format_bytes(after, sizeof after, report->total_bytes);
  if (dry_run) {
    print_inspection(parsed, report);
    puts("");
  }
  printf("%s%s -> %s\n", dry_run ? "dry run, nothing written: " : "", parsed->source, parsed->destination);
  printf("  layers changed   %llu", (unsigned long long)report->layers_changed);
  if (fallback) {
    format_scheme(scheme, sizeof scheme, fallback);
    printf("  (%s%s)", scheme, mlxq_quant_config_layer_count(report->config) > 0 ? ", and layers of their own" : "");
  }
  printf("\n  size             %s -> %s", before, after);
  if (report->source_bytes > 0) {
    printf("  (%.1f%%)", 100.0 * (double)report->total_bytes / (double)report->source_bytes);
  }
  printf("\n  bits per weight  %.3f\n", report->bits_per_weight);
  printf("  files            %zu\n", report->file_count);
  if (report->kind_count == 0 || dry_run) return;
  printf("\n  %-20s %8s %14s %18s\n", "layer kind", "layers", "weights", "relative RMS error");
  for (size_t i = 0; i < report->kind_count; i++) {
    const mlxq_kind_stats *kind = &report->kinds[i];
    char *name = escape(kind->kind);
    printf("  %-20s %8llu %14llu %18.6f\n", name ? name : "?", (unsigned long long)kind->layers,
           (unsigned long long)kind->elems, relative_error(kind));
    free(name);
  }
}
