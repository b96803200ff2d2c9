/* Is a checkpoint whole? Its defects, for people one line each, or as JSON. */
#include "cli.h"
#include "print.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- For people ------------------------------------------------------------------------------------------------ */

/* Beside "FILE: LAYER: KEY: reason". */
static void print_defects(const char *prefix, const mlxq_defect *defects, size_t kept, uint64_t found,
                          const char *plural) {
  for (size_t i = 0; i < kept; i++) {
    const mlxq_defect *defect = &defects[i];
    printf("%s%s%s%s%s%s%s%s\n", prefix, defect->file ? defect->file : "", defect->file ? ": " : "",
           defect->layer ? defect->layer : "", defect->layer ? ": " : "", defect->key ? defect->key : "",
           defect->key ? ": " : "", defect->message);
  }
  if (found > kept) printf("%s%" PRIu64 " further %s\n", prefix, found - kept, plural);
}

static void print_comparison(const arguments *parsed, const mlxq_comparison *comparison) {
  uint64_t equal = comparison->tensors - comparison->tensors_different;
  printf("  against  ");
  print_escaped(parsed->against);
  printf(": %" PRIu64 " of %" PRIu64 " tensors equal, bit for bit", equal, comparison->tensors);
  if (comparison->elems_different > 0) {
    printf("; %" PRIu64 " of %" PRIu64 " elements differ", comparison->elems_different, comparison->elems);
  }
  printf("\n");
  if (!comparison->worst_layer) return;
  char *layer = escape(comparison->worst_layer);
  printf("  worst    %s: %" PRIu64 " of %" PRIu64 " elements differ\n", layer ? layer : "?",
         comparison->worst_different, comparison->worst_elems);
  free(layer);
}

static void print_text(const arguments *parsed, const mlxq_verification *report) {
  char size[32];
  format_bytes(size, sizeof size, report->bytes);
  print_defects("", report->defects, report->defects_kept, report->defects_found, "defects");
  print_defects("note: ", report->notes, report->notes_kept, report->notes_found, "notes");
  print_escaped(parsed->source);
  if (report->defects_found == 0) {
    printf(": whole\n");
  } else {
    printf(": %" PRIu64 " %s\n", report->defects_found, report->defects_found == 1 ? "defect" : "defects");
  }
  printf("  files    %" PRIu64 "\n  tensors  %" PRIu64 "\n  layers   %" PRIu64 " quantized\n  size     %s\n",
         report->files, report->tensors, report->layers, size);
  if (report->comparison) print_comparison(parsed, report->comparison);
}

/* ---- JSON ------------------------------------------------------------------------------------------------------ */

static void json_defects(json_writer *json, const char *key, const mlxq_defect *defects, size_t count) {
  json_open(json, key, '[');
  for (size_t i = 0; i < count; i++) {
    json_open(json, NULL, '{');
    json_string(json, "status", mlxq_status_name(defects[i].status));
    json_string(json, "file", defects[i].file);
    json_string(json, "layer", defects[i].layer);
    json_string(json, "key", defects[i].key);
    json_string(json, "message", defects[i].message);
    json_close(json, '}');
  }
  json_close(json, ']');
}

static void json_comparison(json_writer *json, const char *key, const arguments *parsed,
                            const mlxq_comparison *comparison) {
  if (!comparison) {
    json_string(json, key, NULL);
    return;
  }
  json_open(json, key, '{');
  json_string(json, "source", parsed->against);
  json_uint(json, "tensors", comparison->tensors);
  json_uint(json, "tensors_different", comparison->tensors_different);
  json_uint(json, "elements", comparison->elems);
  json_uint(json, "elements_different", comparison->elems_different);
  if (comparison->worst_layer) {
    json_open(json, "worst", '{');
    json_string(json, "layer", comparison->worst_layer);
    json_uint(json, "elements", comparison->worst_elems);
    json_uint(json, "elements_different", comparison->worst_different);
    json_close(json, '}');
  } else {
    json_string(json, "worst", NULL);
  }
  json_close(json, '}');
}

static void print_json(const arguments *parsed, const mlxq_verification *report) {
  json_writer json = {stdout, ""};
  json_open(&json, NULL, '{');
  json_string(&json, "source", parsed->source);
  json_bool(&json, "ok", report->defects_found == 0);
  json_open(&json, "checked", '{');
  json_uint(&json, "files", report->files);
  json_uint(&json, "tensors", report->tensors);
  json_uint(&json, "layers", report->layers);
  json_uint(&json, "bytes", report->bytes);
  json_close(&json, '}');
  json_uint(&json, "defect_count", report->defects_found);
  json_defects(&json, "defects", report->defects, report->defects_kept);
  json_uint(&json, "note_count", report->notes_found);
  json_defects(&json, "notes", report->notes, report->notes_kept);
  json_comparison(&json, "against", parsed, report->comparison);
  json_close(&json, '}');
  puts("");
}

/* ---- The command ----------------------------------------------------------------------------------------------- */

int verify(arguments *parsed) {
  mlxq_convert_options *common = &parsed->quantize.common;
  mlxq_verification *report = NULL;
  mlxq_error error;
  watch_start(common, parsed->quiet, "checked");
  mlxq_verify_options options = MLXQ_VERIFY_OPTIONS_INIT;
  options.threads = common->threads;
  options.against = parsed->against;
  options.profile = common->profile;
  options.dtype = common->dtype;
  options.cpu = common->cpu;
  options.progress = common->progress;
  options.warn = common->warn;
  options.cancelled = common->cancelled;
  options.user = common->user;
  mlxq_status status = mlxq_verify(&report, parsed->source, &options, &error);
  watch_stop();
  if (status != MLXQ_OK) return print_error(&error, parsed->json);
  if (parsed->json) {
    print_json(parsed, report);
  } else {
    print_text(parsed, report);
  }
  int exit_status = finish_output(parsed->json, NULL);
  if (exit_status == EXIT_DONE && report->defects_found > 0) exit_status = EXIT_FAILED;
  mlxq_verification_free(report);
  return exit_status;
}
