/* What a conversion did, or would do, for people and as JSON. */
#include "cli.h"
#include "print.h"

#include <math.h>
#include <stdlib.h>

static double relative_error(const mlxq_kind_stats *kind) {
  if (kind->squared_weight > 0) return sqrt(kind->squared_error / kind->squared_weight);
  return 0;
}

static void json_stats(json_writer *json, const char *key, const mlxq_report *report) {
  json_open(json, key, '[');
  for (size_t i = 0; i < report->kind_count; i++) {
    const mlxq_kind_stats *kind = &report->kinds[i];
    json_open(json, NULL, '{');
    json_string(json, "kind", kind->kind);
    json_uint(json, "layers", kind->layers);
    json_uint(json, "weights", kind->elems);
    json_double(json, "relative_rms_error", relative_error(kind));
    json_close(json, '}');
  }
  json_close(json, ']');
}

static void print_conversion_json(const arguments *parsed, const mlxq_report *report) {
  json_writer json = {stdout, ""};
  json_open(&json, NULL, '{');
  json_string(&json, "source", parsed->source);
  json_string(&json, "destination", parsed->destination);
  json_bool(&json, "dry_run", parsed->quantize.common.dry_run);
  json_uint(&json, "layers_changed", report->layers_changed);
  json_uint(&json, "source_bytes", report->source_bytes);
  json_uint(&json, "total_bytes", report->total_bytes);
  json_uint(&json, "resumed_bytes", report->resumed_bytes);
  json_uint(&json, "parameters", report->parameters);
  json_double(&json, "bits_per_weight", report->bits_per_weight);
  json_open(&json, "files", '[');
  for (size_t i = 0; i < report->file_count; i++) json_string(&json, NULL, report->files[i]);
  json_close(&json, ']');
  json_quantization(&json, "quantization", report->config);
  if (parsed->quantize.common.dry_run) json_tensors(&json, "tensors", report);
  if (parsed->quantize.stats && !parsed->quantize.common.dry_run) json_stats(&json, "stats", report);
  json_close(&json, '}');
  puts("");
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
  printf("%s", dry_run ? "dry run, nothing written: " : "");
  print_escaped(parsed->source);
  printf(" -> ");
  print_escaped(parsed->destination);
  puts("");
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
  if (report->resumed_bytes > 0) {
    format_bytes(after, sizeof after, report->resumed_bytes);
    printf("  resumed          %s were whole already\n", after);
  }
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
