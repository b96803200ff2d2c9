#include "checkpoint/defects.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

/* A copy of a text, NULL for an empty one. */
static char *copy(const char *text, bool *complete) {
  if (!*text) return NULL;
  char *copied = mlxq_asprintf("%s", text);
  *complete = *complete && copied;
  return copied;
}

static void release(mlxq_defect *defect) {
  free(defect->file);
  free(defect->layer);
  free(defect->key);
  free(defect->message);
}

static bool keep(mlxq_defect **list, size_t *count, size_t *capacity, const mlxq_error *flaw) {
  void *grown = *list;
  if (!mlxq_grow(&grown, *count, capacity, sizeof **list)) return false;
  *list = grown;
  bool complete = true;
  mlxq_defect *defect = &(*list)[*count];
  *defect = (mlxq_defect){.status = flaw->status,
                          .file = copy(flaw->file, &complete),
                          .layer = copy(flaw->layer, &complete),
                          .key = copy(flaw->key, &complete),
                          .message = copy(flaw->message, &complete)};
  if (!complete) {
    release(defect);
    return false;
  }
  ++*count;
  return true;
}

static void add_defect(void *user, const mlxq_error *flaw) {
  mlxq_defects *defects = user;
  mlxq_verification *report = defects->report;
  if (report->defects_found++ >= MLXQ_VERIFY_MAX_DEFECTS) return;
  if (!keep(&report->defects, &report->defects_kept, &defects->defect_capacity, flaw)) defects->out_of_memory = true;
}

static void add_note(void *user, const mlxq_error *flaw) {
  mlxq_defects *defects = user;
  mlxq_verification *report = defects->report;
  if (report->notes_found++ >= MLXQ_VERIFY_MAX_DEFECTS) return;
  if (!keep(&report->notes, &report->notes_kept, &defects->note_capacity, flaw)) defects->out_of_memory = true;
}

mlxq_flaws mlxq_defects_taker(mlxq_defects *defects) {
  return (mlxq_flaws){add_defect, defects};
}

mlxq_flaws mlxq_notes_taker(mlxq_defects *defects) {
  return (mlxq_flaws){add_note, defects};
}

void mlxq_verification_free(mlxq_verification *report) {
  if (!report) return;
  for (size_t i = 0; i < report->defects_kept; i++) release(&report->defects[i]);
  for (size_t i = 0; i < report->notes_kept; i++) release(&report->notes[i]);
  free(report->defects);
  free(report->notes);
  if (report->comparison) free(report->comparison->worst_layer);
  free(report->comparison);
  free(report);
}
