/* Verifying a checkpoint: survey its files, judge its structure, read its data, compare it with its dense original. */
#include "base/error.h"
#include "checkpoint/defects.h"
#include "checkpoint/report.h"
#include "run/against.h"
#include "run/convert.h"
#include "run/scan.h"

/* One verification, from the arguments to the report. */
typedef struct verification {
  const mlxq_verify_options *options;
  mlxq_convert_options convert; /* what they say to a conversion */
  mlxq_isa isa;
  mlxq_verification *report;
  mlxq_defects kept;
  mlxq_flaws defects, notes;
  mlxq_checkpoint *checkpoint, *dense;
  mlxq_model *model; /* the dense one's */
  mlxq_structure structure;
  mlxq_plan_request request; /* for the dense original */
  uint64_t data_bytes;       /* of the checkpoint */
  bool comparing;            /* the data has been read once */
} verification;

static mlxq_status start(verification *work, mlxq_error *error) {
  const mlxq_verify_options *options = work->options;
  if (options->version != MLXQ_VERIFY_OPTIONS_VERSION) {
    return mlxq_fail(error, MLXQ_USAGE, NULL, "version", "unknown version %u of the options", options->version);
  }
  work->convert = (mlxq_convert_options){.threads = options->threads,
                                         .profile = options->profile,
                                         .dtype = options->dtype,
                                         .cpu = options->cpu,
                                         .cancelled = options->cancelled,
                                         .warn = options->warn,
                                         .user = options->user};
  mlxq_status status = mlxq_convert_check(&work->isa, &work->convert, error);
  if (status != MLXQ_OK) return status;
  work->report = mlxq_calloc(1, sizeof *work->report);
  if (!work->report) return mlxq_fail_memory(error);
  work->kept.report = work->report;
  work->defects = mlxq_defects_taker(&work->kept);
  work->notes = mlxq_notes_taker(&work->kept);
  return MLXQ_OK;
}

/* Reading and comparing both go through as many bytes, if all is well. */
static void on_progress(void *user, uint64_t done, uint64_t total) {
  const verification *work = user;
  (void)total;
  if (done > work->data_bytes) done = work->data_bytes;
  work->options->progress(work->options->user, work->comparing ? work->data_bytes + done : done,
                          work->options->against ? 2 * work->data_bytes : work->data_bytes);
}

static bool is_cancelled(void *user) {
  const verification *work = user;
  return work->options->cancelled(work->options->user);
}

static mlxq_run_request how_to_run(verification *work) {
  return (mlxq_run_request){.threads = work->options->threads,
                            .isa = work->isa,
                            .progress = work->options->progress ? on_progress : NULL,
                            .cancelled = work->options->cancelled ? is_cancelled : NULL,
                            .user = work};
}

static mlxq_status compare(verification *work, mlxq_error *error) {
  const mlxq_run_request how = how_to_run(work);
  if (work->structure.foreign) {
    mlxq_fail(error, MLXQ_UNSUPPORTED, NULL, NULL, "cannot be compared: it is quantized in another format, '%s'",
              work->structure.foreign);
    mlxq_error_at_file(error, MLXQ_UNSUPPORTED, work->checkpoint->path);
    return mlxq_flaws_take(&work->defects, MLXQ_UNSUPPORTED, error);
  }
  work->comparing = true;
  mlxq_status status = mlxq_compare_with_dense(&work->report->comparison, &work->structure, &work->request, &how,
                                               &work->defects, &work->notes, error);
  return status == MLXQ_OK ? mlxq_checkpoint_check(work->dense, error) : status;
}

static mlxq_status verify(verification *work, const char *source, mlxq_error *error) {
  mlxq_verification *report = work->report;
  const mlxq_cancel cancel = {work->options->cancelled, work->options->user};
  mlxq_status status = mlxq_checkpoint_survey(&work->checkpoint, source, &cancel, &work->defects, error);
  if (status != MLXQ_OK) return status;
  work->structure.checkpoint = work->checkpoint;
  work->data_bytes = mlxq_total_bytes(work->checkpoint->tensors);
  /* The original is opened before the long reading, lest a wrong path be told of after it. */
  if (work->options->against) {
    status = mlxq_convert_open_dense(&work->dense, &work->model, &work->request, work->options->against, &work->convert,
                                     error);
  }
  if (status == MLXQ_OK) status = mlxq_structure_survey(&work->structure, &work->defects, &work->notes, error);
  const mlxq_run_request how = how_to_run(work);
  if (status == MLXQ_OK) status = mlxq_scan(&work->structure, &how, &work->defects, &work->notes, error);
  if (status == MLXQ_OK && work->options->against) status = compare(work, error);
  if (status == MLXQ_OK) status = mlxq_checkpoint_check(work->checkpoint, error);
  if (status == MLXQ_OK && work->kept.out_of_memory) status = mlxq_fail_memory(error);
  report->files = work->checkpoint->file_count;
  report->tensors = work->checkpoint->tensors->count;
  report->layers = work->structure.layers;
  report->bytes = work->data_bytes;
  return status;
}

mlxq_status mlxq_verify(mlxq_verification **report, const char *source, const mlxq_verify_options *options,
                        mlxq_error *error) {
  verification work = {.options = options};
  mlxq_error reason; /* flaws are made of errors, so there must be one */
  *report = NULL;
  mlxq_status status = start(&work, &reason);
  if (status == MLXQ_OK) status = verify(&work, source, &reason);
  mlxq_structure_free(&work.structure);
  mlxq_checkpoint_free(work.checkpoint);
  mlxq_checkpoint_free(work.dense);
  mlxq_model_free(work.model);
  if (status == MLXQ_OK) {
    *report = work.report;
    return MLXQ_OK;
  }
  mlxq_verification_free(work.report);
  if (error) *error = reason;
  return status;
}
