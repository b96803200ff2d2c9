/* Converting checkpoints on disk: open, plan, run, publish. */
#include "run/convert.h"

#include "base/error.h"
#include "base/text.h"
#include "checkpoint/config_out.h"
#include "checkpoint/report.h"
#include "checkpoint/survey.h"
#include "plan/family.h"
#include "plan/gaps.h"
#include "plan/import.h"
#include "plan/select.h"
#include "run/journal.h"
#include "run/publish.h"
#include "run/room.h"
#include "run/run.h"
#include "run/side_files.h"
#include "run/stats.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_SHARD_BYTES (UINT64_C(5) << 30)

/* One conversion, from the arguments to the report. */
typedef struct conversion {
  const mlxq_convert_options *options;
  mlxq_checkpoint *checkpoint;
  uint64_t source_bytes;
  mlxq_quant_config *existing; /* of the source; NULL: not quantized */
  const mlxq_family *family;   /* NULL: a single file */
  const char *foreign;         /* the source's format where it is not MLX's, else NULL */
  bool foreign_guessed;        /* ... by the tensors alone */
  mlxq_model *model;           /* the tensors as the family has them; NULL: as they are stored */
  mlxq_selection selection;    /* quantize */
  mlxq_quant_config *result;   /* of the result; NULL: not quantized */
  mlxq_plan *plan;
  mlxq_tile_stats *stats;
  mlxq_text config_text; /* of the result; empty for a single file */
  mlxq_staging staging;
  mlxq_journal journal;
  mlxq_isa isa;
} conversion;

static void warn(const conversion *work, const char *message) {
  if (message && work->options->warn) work->options->warn(work->options->user, message);
}

static void warn_format(const conversion *work, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void warn_format(const conversion *work, const char *format, ...) {
  char message[512];
  va_list values;
  va_start(values, format);
  vsnprintf(message, sizeof message, format, values);
  va_end(values);
  warn(work, message);
}

static void warn_of_flaw(void *user, const mlxq_error *flaw) {
  char message[sizeof flaw->file + sizeof flaw->message];
  mlxq_error_format(flaw, message, (int)sizeof message);
  warn(user, message);
}

/* ---- Open ------------------------------------------------------------------------------------------------------ */

const char *mlxq_cpu_level(size_t index) {
  return index < MLXQ_ISA_COUNT ? mlxq_isa_name((mlxq_isa)index) : NULL;
}

/* The level that `cpu` names; the best where it is NULL. */
static mlxq_status choose_isa(mlxq_isa *isa, const char *cpu, mlxq_error *error) {
  char known[MLXQ_ERROR_MESSAGE_BYTES / 4] = "";
  size_t length = 0;
  *isa = MLXQ_ISA_COUNT;
  if (!cpu) return MLXQ_OK;
  for (unsigned i = 0; i < MLXQ_ISA_COUNT; i++) {
    const char *name = mlxq_isa_name((mlxq_isa)i);
    if (strcmp(cpu, name) == 0) {
      *isa = (mlxq_isa)i;
      if (mlxq_isa_usable(*isa)) return MLXQ_OK;
      return mlxq_fail(error, MLXQ_UNSUPPORTED, NULL, "cpu", "this machine cannot run '%s'", name);
    }
    int printed = snprintf(known + length, sizeof known - length, "%s%s", i > 0 ? ", " : "", name);
    if (printed > 0 && (size_t)printed < sizeof known - length) length += (size_t)printed;
  }
  return mlxq_fail(error, MLXQ_USAGE, NULL, "cpu", "unknown instruction set '%s'; known are %s", cpu, known);
}

mlxq_status mlxq_convert_check(mlxq_isa *isa, const mlxq_convert_options *options, mlxq_error *error) {
  if (options->profile != MLXQ_PROFILE_CPU && options->profile != MLXQ_PROFILE_GPU) {
    return mlxq_fail(error, MLXQ_USAGE, NULL, "profile", "unknown profile %d", (int)options->profile);
  }
  if (options->dtype && *options->dtype != MLXQ_F16 && *options->dtype != MLXQ_BF16 && *options->dtype != MLXQ_F32) {
    return mlxq_fail(error, MLXQ_UNSUPPORTED_DTYPE, NULL, "dtype", "is %s; F16, BF16 and F32 can be made",
                     mlxq_dtype_name(*options->dtype));
  }
  return choose_isa(isa, options->cpu, error);
}

static mlxq_status check_options(conversion *work, uint32_t version, mlxq_error *error) {
  if (version != MLXQ_CONVERT_OPTIONS_VERSION) {
    return mlxq_fail(error, MLXQ_USAGE, NULL, "version", "unknown version %u of the options", version);
  }
  return mlxq_convert_check(&work->isa, work->options, error);
}

/* A model that lacks shards converts into one that lacks layers, and whose own files are complete. */
static mlxq_status check_complete(const conversion *work, mlxq_error *error) {
  const mlxq_flaws warnings = {warn_of_flaw, (void *)(uintptr_t)work}; /* only read */
  mlxq_error reason;
  if (!work->checkpoint->is_folder) return MLXQ_OK;
  mlxq_status status = mlxq_survey_shards(work->checkpoint, NULL, &reason);
  if (status == MLXQ_MISSING_KEY && work->options->force) {
    warn_format(work, "%s: %s; going on because of --force", reason.key, reason.message);
    status = MLXQ_OK;
  }
  if (status != MLXQ_OK && error) *error = reason;
  return status == MLXQ_OK ? mlxq_find_gaps(work->checkpoint, &warnings, &warnings, error) : status;
}

static mlxq_status open_source(conversion *work, const char *source, mlxq_error *error) {
  const mlxq_cancel cancel = {work->options->cancelled, work->options->user};
  mlxq_status status = mlxq_checkpoint_survey(&work->checkpoint, source, &cancel, NULL, error);
  if (status == MLXQ_OK) status = check_complete(work, error);
  if (status != MLXQ_OK) return status;
  work->source_bytes = mlxq_total_bytes(work->checkpoint->tensors);
  status = mlxq_checkpoint_foreign(&work->foreign, &work->foreign_guessed, work->checkpoint, error);
  if (status != MLXQ_OK) return status;
  return mlxq_checkpoint_quantization(&work->existing, work->checkpoint, error);
}

/* What is in another format is imported, not quantized or dequantized. */
static mlxq_status refuse_foreign(const conversion *work, mlxq_error *error) {
  if (!work->foreign) return MLXQ_OK;
  if (work->foreign_guessed && work->options->force) {
    warn_format(work, "the tensors look like another format, '%s'; going on because of --force", work->foreign);
    return MLXQ_OK;
  }
  mlxq_fail(error, MLXQ_UNSUPPORTED, NULL, work->foreign_guessed ? NULL : "quant_method",
            "the source is quantized in another format, '%s'%s%s", work->foreign,
            work->foreign_guessed ? ", by the names and types of its tensors" : "",
            mlxq_import_planner(work->foreign) ? "; mlxq import reads it" : "");
  return mlxq_error_at_file(error, MLXQ_UNSUPPORTED, work->checkpoint->path);
}

/* mlx-lm's choice of the dtype to cast to: --dtype, or what config.json says. False: no cast. */
static bool find_cast(const conversion *work, mlxq_dtype *dtype) {
  if (!work->options->dtype) return mlxq_checkpoint_dtype(work->checkpoint, dtype);
  *dtype = *work->options->dtype;
  return true;
}

static void forward_warning(void *work, const char *message) {
  warn(work, message);
}

static mlxq_plan_request plan_request(conversion *work) {
  mlxq_plan_request request = {.source = work->checkpoint->tensors,
                               .profile = work->options->profile,
                               .allow_nonfinite = work->options->allow_nonfinite,
                               .files = work->checkpoint->files,
                               .cancel = work->checkpoint->cancel,
                               .scale_only_dtype = MLXQ_BF16,
                               .for_mlx = true,
                               .warn = forward_warning,
                               .warn_user = work};
  request.cast = find_cast(work, &request.cast_to);
  if (work->family) {
    request.keeps_dtype = mlxq_family_keeps_dtype;
    request.keeps_dtype_user = (void *)(uintptr_t)work->family; /* only read */
  }
  if (work->model) {
    request.model = work->model;
    request.source = work->model->tensors;
  }
  return request;
}

/* ---- Plan ------------------------------------------------------------------------------------------------------ */

/* Models do not load with tensors they do not know, so what mlx-lm drops is dropped; and a family that would come out
 * wrong is refused. */
static mlxq_status sanitize(conversion *work, mlxq_error *error) {
  mlxq_checkpoint *checkpoint = work->checkpoint;
  if (!checkpoint->is_folder) return MLXQ_OK;
  work->family = mlxq_family_of(checkpoint);
  mlxq_error reason;
  mlxq_status status = mlxq_family_check(work->family, checkpoint, &reason);
  if (status != MLXQ_OK && !work->options->force) {
    if (error) *error = reason;
    return mlxq_error_at_file(error, status, checkpoint->config_path);
  }
  if (status != MLXQ_OK) {
    warn_format(work, "%s; going on because of --force", reason.message);
    work->family = mlxq_family_unknown();
  }
  status = mlxq_family_edit_config(work->family, checkpoint, error);
  return status == MLXQ_OK ? mlxq_family_sanitize(work->family, checkpoint, forward_warning, work, error) : status;
}

/* Some families are published in formats that their class in mlx-lm reads: FP8 blocks, and gpt-oss's MXFP4 experts,
 * which are MLX's own. */
static mlxq_status accept_native(conversion *work, mlxq_error *error) {
  const mlxq_family *family = work->checkpoint->is_folder ? mlxq_family_of(work->checkpoint) : NULL;
  if (!work->foreign || !family || !mlxq_family_reads(family, work->foreign)) return MLXQ_OK;
  mlxq_status status = mlxq_checkpoint_accept(work->checkpoint, work->foreign, error);
  if (status == MLXQ_OK) status = mlxq_checkpoint_quantization(&work->existing, work->checkpoint, error);
  work->foreign = NULL;
  return status;
}

/* What quantizing starts from: the tensors as the family's class in mlx-lm has them. */
static mlxq_status open_model(conversion *work, mlxq_error *error) {
  mlxq_status status = accept_native(work, error);
  if (status == MLXQ_OK) status = refuse_foreign(work, error);
  if (status == MLXQ_OK) status = sanitize(work, error);
  if (status != MLXQ_OK || !work->family) return status;
  return mlxq_family_arrange(&work->model, work->family, work->checkpoint, work->checkpoint->tensors, NULL, error);
}

/* Layers that an action makes: of the jobs for pieces of one the first starts at its beginning. */
static uint64_t layers_of(const mlxq_plan *plan, mlxq_action action) {
  uint64_t count = 0;
  for (size_t i = 0; i < plan->job_count; i++) {
    const mlxq_job *job = &plan->jobs[i];
    count += job->action == action && job->outputs[0].slice == 0;
  }
  return count;
}

/* Tells how much of an unknown model could be quantized. */
static void warn_of_share(const conversion *work) {
  const mlxq_plan *plan = work->plan;
  struct json_object *model_type = NULL;
  uint64_t quantized = 0, all = mlxq_total_bytes(plan->stored);
  for (size_t i = 0; i < plan->job_count; i++) {
    const mlxq_job *job = &plan->jobs[i];
    if (job->action == MLXQ_ACTION_QUANTIZE) quantized += plan->stored->entries[job->inputs[0].tensor].tensor.bytes;
  }
  json_object_object_get_ex(work->checkpoint->config, "model_type", &model_type);
  double share = all > 0 ? 100.0 * (double)quantized / (double)all : 100.0;
  warn_format(work, "unknown model_type %s: tensors keep their names, and %.1f%% of the bytes are quantized%s",
              model_type ? json_object_get_string(model_type) : "(none)", share,
              share < 80.0 ? "; less than 80% may mean that layers were not recognised" : "");
}

static bool has_vision_tensors(const mlxq_weights *tensors) {
  for (size_t i = 0; i < tensors->count; i++) {
    if (strstr(tensors->entries[i].tensor.name, "vision_tower")) return true;
  }
  return false;
}

static mlxq_status write_config(conversion *work, const mlxq_quant_config *added, mlxq_error *error) {
  mlxq_checkpoint *checkpoint = work->checkpoint;
  if (!checkpoint->is_folder) return MLXQ_OK;
  bool keep_vision = !mlxq_family_is_known(work->family) && has_vision_tensors(checkpoint->tensors);
  return mlxq_config_write(&work->config_text, checkpoint, added, keep_vision, error);
}

static mlxq_status plan_quantize(conversion *work, const mlxq_quantize_options *options, mlxq_error *error) {
  mlxq_status status = open_model(work, error);
  const mlxq_family *family = work->family;
  if (status != MLXQ_OK) return status;
  mlxq_plan_request request = plan_request(work);
  status = mlxq_select(&work->selection, request.source, family, work->existing, options, error);
  if (status != MLXQ_OK) {
    bool of_layer = error && error->layer[0];
    return of_layer ? mlxq_error_at_file(error, status, work->checkpoint->path) : status;
  }
  request.config = work->selection.config;
  request.config_speaks = true;
  request.eligible = mlxq_selection_eligible;
  request.eligible_user = &work->selection;
  status = mlxq_plan_quantize(&work->plan, &request, error);
  if (status != MLXQ_OK) return status;
  if (layers_of(work->plan, MLXQ_ACTION_QUANTIZE) == 0) {
    warn(work, work->existing ? "nothing was quantized: the source is quantized already, and no dense layer qualifies"
                              : "nothing was quantized: no dense layer qualifies");
  }
  if (family && !mlxq_family_is_known(family) && !work->existing) warn_of_share(work);
  work->result = work->selection.config;
  work->selection.config = NULL;
  if (options->stats) {
    work->stats = mlxq_calloc((size_t)work->plan->tile_count, sizeof *work->stats);
    if (!work->stats) return mlxq_fail_memory(error);
  }
  return write_config(work, work->selection.added, error);
}

/* The configuration of what is to be dequantized: the source's, or the one given for a single file. */
static mlxq_status dequantize_config(conversion *work, const mlxq_scheme *scheme, bool was_foreign, mlxq_error *error) {
  if (work->checkpoint->is_folder) {
    if (scheme) {
      return mlxq_fail(
          error, MLXQ_USAGE, NULL, "mode",
          "a folder's schemes are in its config.json; --mode, --bits and --group-size are for a single file");
    }
    if (work->existing) return MLXQ_OK;
    if (!was_foreign) warn(work, "nothing to dequantize: config.json has no quantization");
    return mlxq_quant_config_new(&work->existing, NULL, error);
  }
  if (!scheme) {
    return mlxq_fail(error, MLXQ_USAGE, NULL, "mode",
                     "a single file does not say how it is quantized: give --mode, --bits or --group-size (what is "
                     "left out is the mode's default)");
  }
  mlxq_scheme complete = mlxq_scheme_complete(scheme);
  mlxq_status status = mlxq_scheme_check(&complete, error);
  return status == MLXQ_OK ? mlxq_quant_config_new(&work->existing, &complete, error) : status;
}

static mlxq_status plan_dequantize(conversion *work, const mlxq_dequantize_options *options, mlxq_error *error) {
  bool was_foreign = work->foreign != NULL;
  mlxq_status status = accept_native(work, error);
  if (status == MLXQ_OK) status = refuse_foreign(work, error);
  if (status == MLXQ_OK) status = dequantize_config(work, options->scheme, was_foreign, error);
  if (status == MLXQ_OK && work->checkpoint->is_folder) {
    work->family = mlxq_family_of(work->checkpoint);
    status = mlxq_family_edit_config(work->family, work->checkpoint, error);
    if (status == MLXQ_OK) {
      status = mlxq_family_sanitize(work->family, work->checkpoint, forward_warning, work, error);
    }
    if (status == MLXQ_OK) {
      status =
          mlxq_family_arrange(&work->model, work->family, work->checkpoint, work->checkpoint->tensors, NULL, error);
    }
  }
  if (status != MLXQ_OK) return status;
  mlxq_plan_request request = plan_request(work);
  request.config = work->existing;
  /* mlx-lm makes these bfloat16 whatever torch_dtype says; an explicit dtype is obeyed. */
  if (work->options->dtype) request.scale_only_dtype = *work->options->dtype;
  status = mlxq_plan_dequantize(&work->plan, &request, error);
  if (status != MLXQ_OK) return status;
  return write_config(work, NULL, error);
}

/* The planner of the source's format, as it is detected or named. */
static mlxq_status find_importer(conversion *work, const char *from, mlxq_import_fn *importer, mlxq_error *error) {
  const char *method = from ? from : work->foreign;
  if (from && !mlxq_import_planner(from)) {
    return mlxq_fail(error, MLXQ_USAGE, NULL, "from", "unknown format '%s'; awq and gptq are known", from);
  }
  if (!method || work->existing) {
    mlxq_fail(error, MLXQ_UNSUPPORTED, NULL, NULL,
              work->existing ? "the source is in MLX's format already"
                             : "nothing says that the source is quantized in another "
                               "format; mlxq quantize is for dense checkpoints");
    mlxq_error_at_file(error, MLXQ_UNSUPPORTED, work->checkpoint->path);
    return MLXQ_UNSUPPORTED;
  }
  *importer = mlxq_import_planner(method);
  work->foreign = method;
  if (*importer) return MLXQ_OK;
  mlxq_fail(error, MLXQ_UNSUPPORTED, NULL, "quant_method", "'%s' cannot be imported; awq and gptq can", method);
  mlxq_error_at_file(error, MLXQ_UNSUPPORTED, work->checkpoint->path);
  return MLXQ_UNSUPPORTED;
}

static mlxq_status plan_import(conversion *work, const mlxq_import_options *options, mlxq_error *error) {
  mlxq_import_fn importer = NULL;
  if (!work->checkpoint->is_folder) {
    return mlxq_fail(error, MLXQ_USAGE, NULL, NULL, "a folder is imported, with its config.json; %s is a file",
                     work->checkpoint->path);
  }
  mlxq_status status = find_importer(work, options->from, &importer, error);
  if (status == MLXQ_OK && options->requantize_bits != 0) {
    const mlxq_scheme scheme = {MLXQ_AFFINE, options->requantize_bits, 64};
    status = mlxq_scheme_check(&scheme, error);
  }
  if (status == MLXQ_OK) status = sanitize(work, error);
  if (status != MLXQ_OK) return status;
  mlxq_import_request request = {.common = plan_request(work),
                                 .family = work->family,
                                 .checkpoint = work->checkpoint,
                                 .requantize_bits = options->requantize_bits,
                                 .exact = options->exact};
  request.common.cast = work->options->dtype != NULL; /* what is not packed keeps its bytes */
  status = mlxq_foreign_config_read(&request.config, work->checkpoint, work->foreign, error);
  if (status == MLXQ_OK) status = importer(&work->plan, &request, error);
  mlxq_error_at_file(error, status, work->checkpoint->path);
  mlxq_foreign_config_free(&request.config);
  work->result = request.result;
  if (status == MLXQ_OK && layers_of(work->plan, MLXQ_ACTION_IMPORT) == 0) warn(work, "no layer is packed");
  return status == MLXQ_OK ? write_config(work, work->result, error) : status;
}

/* ---- Run and publish ------------------------------------------------------------------------------------------- */

/* Errors of tiles that are not made again would be missing from the report, so with stats all are. */
static mlxq_status open_journal(conversion *work, mlxq_error *error) {
  const mlxq_checkpoint *checkpoint = work->checkpoint;
  mlxq_journal_request request = {.plan = work->plan,
                                  .folder = work->staging.folder,
                                  .key = mlxq_journal_key(work->plan, checkpoint->files, checkpoint->file_count),
                                  .reuse = !work->stats,
                                  .progress = work->options->progress,
                                  .cancelled = work->options->cancelled,
                                  .user = work->options->user};
  mlxq_status status = mlxq_journal_open(&work->journal, &request, error);
  if (work->journal.stale) {
    warn_format(work, "what an earlier run left in %s is made anew: %s", work->staging.folder,
                work->stats ? "--stats measures all of it" : "the source, the options or mlxq itself are others");
  }
  return status;
}

static mlxq_status run(conversion *work, mlxq_error *error) {
  mlxq_run_request request = {.plan = work->plan,
                              .source_files = work->checkpoint->files,
                              .sink_folder = work->staging.folder,
                              .journal = &work->journal,
                              .threads = work->options->threads,
                              .isa = work->isa,
                              .stats = work->stats,
                              .progress = work->options->progress,
                              .cancelled = work->options->cancelled,
                              .user = work->options->user};
  mlxq_status status = mlxq_staging_create(&work->staging, error);
  if (status == MLXQ_OK) status = open_journal(work, error);
  if (status == MLXQ_OK) status = mlxq_staging_create_files(&work->staging, work->plan, &work->journal, error);
  /* Before the tiles, so that all of a full disk is known by then. */
  uint64_t copied_bytes = mlxq_side_files_bytes(work->checkpoint);
  if (status == MLXQ_OK) status = mlxq_room_check(&work->staging, work->plan, &work->journal, copied_bytes, error);
  if (status == MLXQ_OK && work->checkpoint->is_folder) {
    status = mlxq_side_files_write(work->staging.folder, work->checkpoint, &work->config_text, work->plan, work->result,
                                   error);
  }
  if (status == MLXQ_OK) status = mlxq_room_check(&work->staging, work->plan, &work->journal, 0, error);
  if (status == MLXQ_OK) status = mlxq_run(&request, error);
  return status == MLXQ_OK ? mlxq_checkpoint_check(work->checkpoint, error) : status;
}

/* Makes the report out of the finished plan, whose outputs and configuration it takes over. */
static mlxq_status make_report(mlxq_report **report, conversion *work, mlxq_action action, mlxq_error *error) {
  mlxq_plan *plan = work->plan;
  mlxq_kind_stats *kinds = NULL;
  size_t kind_count = 0;
  uint64_t changed = layers_of(plan, action);
  mlxq_status status = work->stats ? mlxq_stats_by_kind(&kinds, &kind_count, plan, work->stats, error) : MLXQ_OK;
  if (status != MLXQ_OK) return status;
  status = mlxq_report_new(report, plan->outputs, work->result, plan->file_count, mlxq_plan_file_name, plan, error);
  plan->outputs = NULL;
  work->result = NULL;
  if (status != MLXQ_OK) {
    mlxq_stats_free(kinds, kind_count);
    return status;
  }
  (*report)->source_bytes = work->source_bytes;
  (*report)->layers_changed = changed;
  (*report)->resumed_bytes = work->journal.reused_bytes;
  (*report)->kinds = kinds;
  (*report)->kind_count = kind_count;
  return MLXQ_OK;
}

/* A source may be a folder of links, to files anywhere. */
static mlxq_status check_links(const conversion *work, mlxq_error *error) {
  const mlxq_checkpoint *checkpoint = work->checkpoint;
  mlxq_status status = MLXQ_OK;
  for (size_t i = 0; status == MLXQ_OK && i < checkpoint->file_count; i++) {
    status = mlxq_staging_check_file(&work->staging, checkpoint->files[i].path, error);
  }
  for (size_t i = 0; status == MLXQ_OK && i < checkpoint->other_count; i++) {
    status = mlxq_staging_check_file(&work->staging, checkpoint->others[i].path, error);
  }
  return status;
}

static mlxq_status lay_out(conversion *work, const char *source, const char *destination, mlxq_error *error) {
  const mlxq_convert_options *options = work->options;
  uint64_t shard_bytes = options->max_shard_bytes ? options->max_shard_bytes : DEFAULT_SHARD_BYTES;
  bool is_folder = work->checkpoint->is_folder;
  mlxq_status status = mlxq_staging_check(&work->staging, source, destination, is_folder, options->force,
                                          options->keep_partial, options->dry_run, error);
  work->staging.cancel = work->checkpoint->cancel;
  if (status == MLXQ_OK && is_folder) status = mlxq_side_files_find(work->checkpoint, error);
  if (status == MLXQ_OK) status = check_links(work, error);
  if (status != MLXQ_OK) return status;
  const char *single_name = is_folder ? NULL : mlxq_path_base(work->staging.destination);
  status = mlxq_plan_layout(work->plan, shard_bytes, single_name, error);
  return mlxq_error_at_file(error, status, work->staging.destination);
}

/* What follows the plan, in either direction. The report is made before the result is published, so that nothing but
 * publishing itself can fail afterwards. */
static mlxq_status finish(mlxq_report **report, conversion *work, mlxq_action action, const char *source,
                          const char *destination, mlxq_error *error) {
  const mlxq_convert_options *options = work->options;
  mlxq_status status = lay_out(work, source, destination, error);
  if (status == MLXQ_OK && !options->dry_run) status = run(work, error);
  if (status == MLXQ_OK) status = mlxq_cancel_check(&work->checkpoint->cancel, error);
  if (status == MLXQ_OK && report) status = make_report(report, work, action, error);
  if (status == MLXQ_OK && !options->dry_run) status = mlxq_staging_publish(&work->staging, work->plan, error);
  if (status != MLXQ_OK && report) {
    mlxq_report_free(*report);
    *report = NULL;
  }
  return status;
}

static void release(conversion *work) {
  if (mlxq_staging_is_kept(&work->staging)) {
    bool is_of_use = work->plan && work->plan->file_count > 1 && !work->stats;
    warn_format(work, "%s is kept%s", work->staging.folder,
                is_of_use ? ": the same command reuses the files that are whole in it" : "");
  }
  mlxq_journal_close(&work->journal);
  mlxq_staging_close(&work->staging);
  mlxq_text_free(&work->config_text);
  free(work->stats);
  mlxq_plan_free(work->plan);
  mlxq_quant_config_free(work->result);
  mlxq_selection_free(&work->selection);
  mlxq_model_free(work->model);
  mlxq_quant_config_free(work->existing);
  mlxq_checkpoint_free(work->checkpoint);
}

mlxq_status mlxq_convert_open_dense(mlxq_checkpoint **checkpoint, mlxq_model **model, mlxq_plan_request *request,
                                    const char *source, const mlxq_convert_options *options, mlxq_error *error) {
  conversion work = {.options = options, .staging = {.lock = -1, .old_lock = -1}};
  *checkpoint = NULL;
  *model = NULL;
  mlxq_status status = open_source(&work, source, error);
  if (status == MLXQ_OK && work.existing) {
    status = mlxq_fail(error, MLXQ_UNSUPPORTED, NULL, "quantization", "this is no dense checkpoint");
    mlxq_error_at_file(error, status, work.checkpoint->config_path);
  }
  if (status == MLXQ_OK) status = open_model(&work, error);
  if (status == MLXQ_OK) {
    *request = plan_request(&work);
    request->warn = options->warn;
    request->warn_user = options->user;
    *checkpoint = work.checkpoint;
    *model = work.model;
    work.checkpoint = NULL;
    work.model = NULL;
  }
  release(&work);
  return status;
}

mlxq_status mlxq_quantize_checkpoint(mlxq_report **report, const char *source, const char *destination,
                                     const mlxq_quantize_options *options, mlxq_error *error) {
  conversion work = {.options = &options->common, .staging = {.lock = -1, .old_lock = -1}};
  if (report) *report = NULL;
  mlxq_status status = check_options(&work, options->version, error);
  if (status == MLXQ_OK) status = open_source(&work, source, error);
  if (status == MLXQ_OK) status = plan_quantize(&work, options, error);
  if (status == MLXQ_OK) status = finish(report, &work, MLXQ_ACTION_QUANTIZE, source, destination, error);
  release(&work);
  return status;
}

mlxq_status mlxq_dequantize_checkpoint(mlxq_report **report, const char *source, const char *destination,
                                       const mlxq_dequantize_options *options, mlxq_error *error) {
  conversion work = {.options = &options->common, .staging = {.lock = -1, .old_lock = -1}};
  if (report) *report = NULL;
  mlxq_status status = check_options(&work, options->version, error);
  if (status == MLXQ_OK) status = open_source(&work, source, error);
  if (status == MLXQ_OK) status = plan_dequantize(&work, options, error);
  if (status == MLXQ_OK) status = finish(report, &work, MLXQ_ACTION_DEQUANTIZE, source, destination, error);
  release(&work);
  return status;
}

mlxq_status mlxq_import_checkpoint(mlxq_report **report, const char *source, const char *destination,
                                   const mlxq_import_options *options, mlxq_error *error) {
  conversion work = {.options = &options->common, .staging = {.lock = -1, .old_lock = -1}};
  if (report) *report = NULL;
  mlxq_status status = check_options(&work, options->version, error);
  if (status == MLXQ_OK) status = open_source(&work, source, error);
  if (status == MLXQ_OK) status = plan_import(&work, options, error);
  if (status == MLXQ_OK) status = finish(report, &work, MLXQ_ACTION_IMPORT, source, destination, error);
  release(&work);
  return status;
}
