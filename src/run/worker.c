#include "run/worker.h"

#include "base/error.h"
#include "run/foreign_tile.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Buffers of a tile start on cache lines. Writes as long as LONG_WRITE go to the disk at once; the system gathers
 * others. */
enum { ALIGNMENT = 64, LONG_WRITE = 64 * 1024 };

static size_t aligned(size_t bytes) {
  return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static uint64_t units_of_largest_tile(const mlxq_job *job) {
  return job->units < job->units_per_tile ? job->units : job->units_per_tile;
}

static size_t dense_bytes(const mlxq_job *job, uint64_t units) {
  return (size_t)units * job->unit_groups * (size_t)job->scheme.group_size * mlxq_dtype_bits((mlxq_dtype)job->dtype) /
         8;
}

/* The units of a tile as runs of bytes: `count` of them, `stride` bytes from one to the next. */
typedef struct mlxq_runs {
  size_t bytes, count;
  uint64_t offset, stride;
} mlxq_runs;

static mlxq_runs runs_of(const mlxq_plan *plan, const mlxq_operand *input, uint64_t first_unit, size_t units) {
  const mlxq_slice *slice = &plan->slices[input->slice];
  size_t unit_bytes = input->unit_bytes;
  mlxq_runs runs = {.bytes = units * unit_bytes, .count = 1, .offset = first_unit * unit_bytes};
  if (input->slice == 0) return runs;
  runs.offset = slice->offset + first_unit * slice->unit_stride;
  if (mlxq_slice_is_shared(slice)) units = 1;
  if (slice->unit_stride == unit_bytes || units == 1) {
    runs.bytes = units * unit_bytes;
    runs.count = (size_t)slice->rows;
    runs.stride = slice->row_stride;
  } else { /* units of one row each */
    runs.bytes = unit_bytes;
    runs.count = units;
    runs.stride = slice->unit_stride;
  }
  if (runs.stride == runs.bytes) {
    runs.bytes *= runs.count;
    runs.count = 1;
  }
  return runs;
}

/* Bytes from the first run to the end of the last, if all of it is read; else those of the runs alone. */
static size_t read_bytes(const mlxq_runs *runs) {
  if (runs->count <= 1 || !mlxq_slice_is_dense(runs->bytes, runs->stride)) return runs->count * runs->bytes;
  return (size_t)((runs->count - 1) * runs->stride + runs->bytes);
}

/* What `units` units of an input take, as stored. */
static size_t stored_bytes(const mlxq_plan *plan, const mlxq_operand *input, size_t units) {
  mlxq_runs runs = runs_of(plan, input, 0, units);
  return read_bytes(&runs);
}

static size_t cast_elems(const mlxq_plan *plan, const mlxq_operand *input, size_t units) {
  return (mlxq_slice_is_shared(&plan->slices[input->slice]) ? 1 : units) * input->cast_elems;
}

static size_t cast_bytes(const mlxq_plan *plan, const mlxq_operand *input, size_t units) {
  return cast_elems(plan, input, units) * mlxq_dtype_bits(input->cast_to) / 8;
}

/* One matrix of an input that is prepared. */
static size_t prepared_bytes(const mlxq_preparation *preparation, size_t units) {
  return units * (size_t)preparation->row_elems * mlxq_dtype_bits(preparation->dtype) / 8;
}

static size_t foreign_scratch_bytes(const mlxq_foreign_layer *layer, size_t units) {
  return units * (size_t)mlxq_foreign_scratch_bytes(layer) + mlxq_foreign_tile_bytes(layer);
}

static size_t group_index_bytes(const mlxq_foreign_layer *layer) {
  return layer->group_index == MLXQ_NO_TENSOR ? 0 : (size_t)layer->ins * sizeof(int32_t);
}

size_t mlxq_worker_buffer_bytes(const mlxq_plan *plan, bool stats) {
  size_t most = 0;
  for (size_t i = 0; i < plan->job_count; i++) {
    const mlxq_job *job = &plan->jobs[i];
    const mlxq_preparation *preparation = mlxq_job_preparation(plan, job);
    size_t units = (size_t)units_of_largest_tile(job), bytes = 0;
    for (uint32_t k = 0; k < job->input_count; k++) {
      bytes += aligned(stored_bytes(plan, &job->inputs[k], units)) + aligned(cast_bytes(plan, &job->inputs[k], units));
    }
    if (preparation && preparation->fp8) bytes += aligned(prepared_bytes(preparation, units));
    if (preparation && preparation->transpose) bytes += aligned(prepared_bytes(preparation, units));
    if (job->action == MLXQ_ACTION_IMPORT) {
      const mlxq_foreign_layer *layer = &plan->foreign[job->detail];
      bytes += aligned(foreign_scratch_bytes(layer, units)) + aligned(group_index_bytes(layer));
    }
    for (uint32_t k = 0; k < job->output_count; k++) bytes += aligned(units * job->outputs[k].unit_bytes);
    if (stats && job->action == MLXQ_ACTION_QUANTIZE) bytes += aligned(dense_bytes(job, units));
    if (bytes > most) most = bytes;
  }
  return most;
}

mlxq_status mlxq_worker_open(mlxq_worker *worker, const mlxq_run_request *request, size_t buffer_bytes,
                             mlxq_error *error) {
  *worker = (mlxq_worker){.request = request, .kernels = mlxq_kernels(request->isa), .buffer_bytes = buffer_bytes};
  worker->source.fd = worker->sink.fd = -1;
  worker->buffer = aligned_alloc(ALIGNMENT, buffer_bytes ? aligned(buffer_bytes) : ALIGNMENT);
  return worker->buffer ? MLXQ_OK : mlxq_fail_memory(error);
}

/* The error of a file to write names its path, which is made only then. */
static mlxq_status at_sink(const mlxq_worker *worker, uint32_t file, mlxq_status status, mlxq_error *error) {
  if (status == MLXQ_OK) return status;
  char *path = mlxq_path_join(worker->request->sink_folder, worker->request->plan->files[file].name);
  mlxq_error_at_file(error, status, path);
  free(path);
  return status;
}

/* Some file systems report a failed write only when the file is closed. */
static mlxq_status close_sink(mlxq_worker *worker, mlxq_error *error) {
  int fd = worker->sink.fd;
  worker->sink.fd = -1;
  if (fd < 0 || close(fd) == 0) return MLXQ_OK;
  return at_sink(worker, worker->sink.file, mlxq_fail_errno(error, errno, NULL, "cannot close"), error);
}

mlxq_status mlxq_worker_close(mlxq_worker *worker, mlxq_error *error) {
  mlxq_status status = close_sink(worker, error);
  mlxq_file_close(worker->source.fd);
  free(worker->buffer);
  return status;
}

/* ---- Files ----------------------------------------------------------------------------------------------------- */

static mlxq_status open_source(mlxq_worker *worker, uint32_t file, int *fd, mlxq_error *error) {
  mlxq_open_file *open_file = &worker->source;
  if (open_file->fd < 0 || open_file->file != file) {
    const mlxq_source_file *source = &worker->request->source_files[file];
    mlxq_file_close(open_file->fd);
    open_file->fd = -1;
    mlxq_status status = mlxq_file_reopen(&open_file->fd, &source->identity, source->path, error);
    if (status != MLXQ_OK) return status;
    open_file->file = file;
  }
  *fd = open_file->fd;
  return MLXQ_OK;
}

static mlxq_status open_sink(mlxq_worker *worker, uint32_t file, int *fd, mlxq_error *error) {
  mlxq_open_file *open_file = &worker->sink;
  if (open_file->fd < 0 || open_file->file != file) {
    mlxq_status status = close_sink(worker, error);
    if (status != MLXQ_OK) return status;
    char *path = mlxq_path_join(worker->request->sink_folder, worker->request->plan->files[file].name);
    status = path ? mlxq_file_open_write(&open_file->fd, path, error) : mlxq_fail_memory(error);
    free(path);
    if (status != MLXQ_OK) return status;
    open_file->file = file;
  }
  *fd = open_file->fd;
  return MLXQ_OK;
}

/* ---- A tile ---------------------------------------------------------------------------------------------------- */

/* A range of a job's units, and the next free byte of the worker's buffer. */
typedef struct mlxq_tile {
  const mlxq_job *job;
  uint64_t first_unit;
  size_t units;
  unsigned char *free_bytes;
} mlxq_tile;

static void *take_buffer(mlxq_tile *tile, size_t bytes) {
  void *taken = tile->free_bytes;
  tile->free_bytes += aligned(bytes);
  return taken;
}

/* The job a tile number belongs to: the last one that starts at or before it and has tiles. */
static const mlxq_job *find_job(const mlxq_plan *plan, uint64_t tile) {
  size_t low = 0, high = plan->job_count;
  while (high - low > 1) {
    size_t middle = low + (high - low) / 2;
    if (plan->jobs[middle].first_tile <= tile) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return &plan->jobs[low];
}

/* Sets `*data` to an input's bytes as they are stored. */
static mlxq_status load_stored(mlxq_worker *worker, mlxq_tile *tile, const mlxq_operand *input, const void **data,
                               mlxq_error *error) {
  const mlxq_plan *plan = worker->request->plan;
  const mlxq_tensor_entry *entry = &plan->stored->entries[input->tensor];
  mlxq_runs runs = runs_of(plan, input, tile->first_unit, tile->units);
  if (!worker->request->source_files) {
    const unsigned char *in_memory = (const unsigned char *)entry->tensor.data + runs.offset;
    *data = in_memory;
    if (runs.count == 1 && (uintptr_t)in_memory % sizeof(uint64_t) == 0) return MLXQ_OK;
    unsigned char *copy = take_buffer(tile, runs.count * runs.bytes);
    for (size_t i = 0; i < runs.count; i++) memcpy(copy + i * runs.bytes, in_memory + i * runs.stride, runs.bytes);
    *data = copy;
    return MLXQ_OK;
  }
  int fd;
  size_t bytes = read_bytes(&runs);
  bool at_once = runs.count == 1 || bytes > runs.count * runs.bytes;
  unsigned char *buffer = take_buffer(tile, bytes);
  const char *path = worker->request->source_files[entry->file].path;
  uint64_t offset = entry->offset + runs.offset;
  mlxq_status status = open_source(worker, entry->file, &fd, error);
  if (status == MLXQ_OK && at_once) status = mlxq_file_read_at(fd, buffer, bytes, offset, path, error);
  for (size_t i = 0; status == MLXQ_OK && i < runs.count && runs.count > 1; i++) {
    if (at_once) {
      memmove(buffer + i * runs.bytes, buffer + i * runs.stride, runs.bytes);
    } else {
      status = mlxq_file_read_at(fd, buffer + i * runs.bytes, runs.bytes, offset + i * runs.stride, path, error);
    }
  }
  *data = buffer;
  return status;
}

/* Adds one to every element, in the dtype. */
static void add_one(const mlxq_kernel_table *kernels, mlxq_dtype dtype, unsigned char *data, size_t elems) {
  enum { PIECE = 512 };
  float wide[PIECE];
  size_t elem_bytes = mlxq_dtype_bits(dtype) / 8;
  for (size_t at = 0; at < elems; at += PIECE) {
    size_t count = elems - at < PIECE ? elems - at : PIECE;
    kernels->cast(dtype, MLXQ_F32, data + at * elem_bytes, wide, count);
    for (size_t i = 0; i < count; i++) wide[i] += 1.0f;
    kernels->cast(MLXQ_F32, dtype, wide, data + at * elem_bytes, count);
  }
}

/* Undoes FP8, transposes, adds one. `data`, which may change, is what is stored of a job's first input, `scales` the
 * second input. */
static const void *prepare(mlxq_worker *worker, mlxq_tile *tile, const mlxq_preparation *how, unsigned char *data,
                           const float *scales) {
  size_t rows = how->transpose ? (size_t)how->row_elems : tile->units;
  size_t columns = how->transpose ? tile->units : (size_t)how->row_elems;
  unsigned elem_bytes = mlxq_dtype_bits(how->dtype) / 8;
  if (how->fp8) {
    unsigned char *dense = take_buffer(tile, prepared_bytes(how, tile->units));
    mlxq_block_args args = {.rows = rows,
                            .columns = columns,
                            .first_row = how->first_row + (how->transpose ? 0 : tile->first_unit),
                            .first_column = how->first_column + (how->transpose ? tile->first_unit : 0),
                            .block_rows = how->block_rows,
                            .block_columns = how->block_columns,
                            .scale_columns = how->scale_columns};
    worker->kernels->fp8(&args, data, scales, dense);
    data = dense;
  }
  if (how->transpose) {
    unsigned char *transposed = take_buffer(tile, prepared_bytes(how, tile->units));
    worker->kernels->transpose(elem_bytes, data, rows, columns, transposed);
    data = transposed;
  }
  if (how->add_one) add_one(worker->kernels, how->dtype, data, rows * columns);
  return data;
}

/* Casts an input where the plan says so. */
static const void *cast(mlxq_worker *worker, mlxq_tile *tile, const mlxq_operand *input, const void *data) {
  const mlxq_plan *plan = worker->request->plan;
  if (input->cast_elems == 0) return data;
  void *result = take_buffer(tile, cast_bytes(plan, input, tile->units));
  worker->kernels->cast(input->cast_from, input->cast_to, data, result, cast_elems(plan, input, tile->units));
  return result;
}

/* Sets `inputs` to what the action of the tile's job is to see. */
static mlxq_status load_inputs(mlxq_worker *worker, mlxq_tile *tile, const void **inputs, mlxq_error *error) {
  const mlxq_job *job = tile->job;
  const mlxq_preparation *how = mlxq_job_preparation(worker->request->plan, job);
  for (uint32_t i = 0; i < job->input_count; i++) {
    mlxq_status status = load_stored(worker, tile, &job->inputs[i], &inputs[i], error);
    if (status != MLXQ_OK) return status;
  }
  for (uint32_t i = job->input_count; i-- > 0;) {
    if (i == 0 && how) {
      /* Only files are read this way, so that the bytes are in the worker's buffer. */
      inputs[0] = prepare(worker, tile, how, (unsigned char *)(uintptr_t)inputs[0], inputs[1]);
    }
    inputs[i] = cast(worker, tile, &job->inputs[i], inputs[i]);
  }
  return MLXQ_OK;
}

/* Where the tile's part of an output starts in its tensor. The units of outputs follow each other. */
static uint64_t output_offset(const mlxq_plan *plan, const mlxq_tile *tile, const mlxq_operand *output) {
  uint64_t start = output->slice == 0 ? 0 : plan->slices[output->slice].offset;
  return start + tile->first_unit * output->unit_bytes;
}

/* Outputs go elsewhere than to memory of the map. */
static bool has_sink(const mlxq_run_request *request) {
  return request->sink_folder || request->store;
}

/* Where an output is to be made: in place in memory, or in the buffer. */
static void *place_output(const mlxq_worker *worker, mlxq_tile *tile, const mlxq_operand *output) {
  const mlxq_tensor *tensor = &worker->request->plan->outputs->entries[output->tensor].tensor;
  if (has_sink(worker->request)) return take_buffer(tile, tile->units * output->unit_bytes);
  /* The map owns what it allocated for its outputs, and hands it out as const to everyone else. */
  return (unsigned char *)(uintptr_t)tensor->data + output_offset(worker->request->plan, tile, output);
}

/* Whether an output is in a file that an earlier run has finished. */
static bool is_made(const mlxq_worker *worker, const mlxq_operand *output) {
  const mlxq_run_request *request = worker->request;
  return mlxq_journal_has(request->journal, request->plan->outputs->entries[output->tensor].file);
}

static bool is_all_made(const mlxq_worker *worker, const mlxq_job *job) {
  if (!worker->request->journal) return false;
  for (uint32_t i = 0; i < job->output_count; i++) {
    if (!is_made(worker, &job->outputs[i])) return false;
  }
  return true;
}

static mlxq_status store_output(mlxq_worker *worker, const mlxq_tile *tile, const mlxq_operand *output,
                                const void *data, uint64_t *written, mlxq_error *error) {
  int fd;
  const mlxq_tensor_entry *entry = &worker->request->plan->outputs->entries[output->tensor];
  const mlxq_run_request *request = worker->request;
  size_t bytes = tile->units * output->unit_bytes;
  if (is_made(worker, output)) return MLXQ_OK;
  *written += bytes;
  if (request->store) {
    return request->store(request->look_user, output->tensor, output_offset(request->plan, tile, output), data, bytes,
                          error);
  }
  if (!request->sink_folder) return MLXQ_OK;
  mlxq_status status = open_sink(worker, entry->file, &fd, error);
  if (status != MLXQ_OK) return status;
  uint64_t offset = entry->offset + output_offset(worker->request->plan, tile, output);
  status = mlxq_file_write_at(fd, data, bytes, offset, NULL, error);
  if (status == MLXQ_OK) {
    if (bytes >= LONG_WRITE) mlxq_file_start_writing(fd, offset, bytes);
    status = mlxq_journal_wrote(worker->request->journal, entry->file, fd, offset, data, bytes, error);
  }
  return at_sink(worker, entry->file, status, error);
}

static mlxq_status fail_non_finite(const mlxq_worker *worker, const mlxq_tile *tile, size_t elem, mlxq_error *error) {
  const mlxq_run_request *request = worker->request;
  const mlxq_tensor_entry *entry = &request->plan->stored->entries[tile->job->inputs[0].tensor];
  uint64_t index = tile->first_unit * tile->job->unit_groups * (uint64_t)tile->job->scheme.group_size + elem;
  size_t layer_length = 0;
  mlxq_name_splits(entry->tensor.name, ".weight", &layer_length);
  char *layer = mlxq_asprintf("%.*s", (int)layer_length, entry->tensor.name);
  if (tile->job->inputs[0].slice == 0) {
    mlxq_fail(error, MLXQ_NON_FINITE, layer, entry->tensor.name, "element %llu is NaN or infinite",
              (unsigned long long)index);
  } else {
    mlxq_fail(error, MLXQ_NON_FINITE, layer, entry->tensor.name, "an element is NaN or infinite");
  }
  free(layer);
  const char *file = request->source_files ? request->source_files[entry->file].path : NULL;
  return mlxq_error_at_file(error, MLXQ_NON_FINITE, file);
}

/* Dequantizes what a quantize tile has made and adds up what was lost. */
static void measure(const mlxq_worker *worker, mlxq_tile *tile, const mlxq_kernel_args *args, const void *dense,
                    void *const *outputs, mlxq_tile_stats *stats) {
  enum { PIECE = 512 };
  float weights[PIECE], restored[PIECE];
  const mlxq_kernel_table *kernels = worker->kernels;
  unsigned char *back = take_buffer(tile, dense_bytes(tile->job, tile->units));
  size_t elems = args->groups * args->group_size, elem_bytes = mlxq_dtype_bits(args->dtype) / 8;
  kernels->dequantize[mlxq_format_of(&tile->job->scheme)](args, outputs[0], outputs[1], outputs[2], back);
  *stats = (mlxq_tile_stats){0};
  for (size_t at = 0; at < elems; at += PIECE) {
    size_t count = elems - at < PIECE ? elems - at : PIECE;
    kernels->cast(args->dtype, MLXQ_F32, (const unsigned char *)dense + at * elem_bytes, weights, count);
    kernels->cast(args->dtype, MLXQ_F32, back + at * elem_bytes, restored, count);
    for (size_t i = 0; i < count; i++) {
      double weight = weights[i], lost = weight - restored[i];
      if (!isfinite(lost)) continue; /* let through on purpose, and no measure of the rest */
      stats->squared_error += lost * lost;
      stats->squared_weight += weight * weight;
    }
  }
}

/* Reads which group each input belongs to, where that is stored. */
static mlxq_status load_group_index(mlxq_worker *worker, mlxq_tile *tile, const mlxq_foreign_layer *layer,
                                    const int32_t **group_index, mlxq_error *error) {
  const void *data = NULL;
  if (layer->group_index == MLXQ_NO_TENSOR) return MLXQ_OK;
  mlxq_tile all = {.job = tile->job, .units = (size_t)layer->ins, .free_bytes = tile->free_bytes};
  mlxq_operand input = mlxq_plan_operand(layer->group_index, 1, MLXQ_I32, MLXQ_I32);
  mlxq_status status = load_stored(worker, &all, &input, &data, error);
  tile->free_bytes = all.free_bytes;
  *group_index = data;
  return status;
}

static mlxq_status import(mlxq_worker *worker, mlxq_tile *tile, const void *const *inputs, void *const *outputs,
                          mlxq_error *error) {
  const mlxq_job *job = tile->job;
  const mlxq_weights *stored = worker->request->plan->stored;
  const mlxq_foreign_layer *layer = &worker->request->plan->foreign[job->detail];
  const mlxq_tensor *scales = &stored->entries[layer->scales].tensor;
  const char *bad = NULL;
  mlxq_foreign_tile work = {.layer = layer,
                            .profile = worker->request->plan->profile,
                            .outs = tile->units * mlxq_foreign_unit_outs(layer),
                            .scale_row = (size_t)scales->shape[1],
                            .scales = scales->dtype,
                            .must_be_finite = worker->request->plan->for_mlx && !worker->request->plan->allow_nonfinite,
                            .scratch = take_buffer(tile, foreign_scratch_bytes(layer, tile->units))};
  if (layer->zeros != MLXQ_NO_TENSOR) work.zero_row = (size_t)stored->entries[layer->zeros].tensor.shape[1];
  mlxq_status status = load_group_index(worker, tile, layer, &work.group_index, error);
  if (status != MLXQ_OK) return status;
  if (mlxq_foreign_tile_run(&work, worker->kernels, inputs, outputs, &bad)) return MLXQ_OK;
  const mlxq_tensor_entry *entry = &stored->entries[layer->scales];
  size_t length = 0;
  mlxq_name_splits(scales->name, ".scales", &length);
  char *path = mlxq_asprintf("%.*s", (int)length, scales->name);
  mlxq_fail(error, MLXQ_NON_FINITE, path, scales->name, "%s", bad);
  free(path);
  const char *file = worker->request->source_files ? worker->request->source_files[entry->file].path : NULL;
  return mlxq_error_at_file(error, MLXQ_NON_FINITE, file);
}

static mlxq_status run_kernels(mlxq_worker *worker, mlxq_tile *tile, uint64_t number, const void *const *inputs,
                               void *const *outputs, mlxq_error *error) {
  const mlxq_job *job = tile->job;
  const mlxq_plan *plan = worker->request->plan;
  mlxq_kernel_args args = {.profile = plan->profile,
                           .dtype = (mlxq_dtype)job->dtype,
                           .group_size = (size_t)job->scheme.group_size,
                           .groups = tile->units * job->unit_groups};
  if (job->action == MLXQ_ACTION_IMPORT) return import(worker, tile, inputs, outputs, error);
  mlxq_format format = mlxq_format_of(&job->scheme);
  if (job->action == MLXQ_ACTION_DEQUANTIZE) {
    worker->kernels->dequantize[format](&args, inputs[0], inputs[1], inputs[2], outputs[0]);
    return MLXQ_OK;
  }
  size_t bad = worker->kernels->quantize[format](&args, inputs[0], outputs[0], outputs[1], outputs[2]);
  if (bad != MLXQ_ALL_FINITE && !plan->allow_nonfinite) return fail_non_finite(worker, tile, bad, error);
  if (worker->request->stats) measure(worker, tile, &args, inputs[0], outputs, &worker->request->stats[number]);
  return MLXQ_OK;
}

/* A copy needs no second buffer where its output is in a file. */
static mlxq_status run_copy(mlxq_worker *worker, mlxq_tile *tile, uint64_t *written, mlxq_error *error) {
  const mlxq_operand *output = &tile->job->outputs[0];
  const void *inputs[MLXQ_MAX_INPUTS] = {NULL};
  mlxq_status status = load_inputs(worker, tile, inputs, error);
  if (status != MLXQ_OK) return status;
  if (!has_sink(worker->request) && inputs[0]) {
    memcpy(place_output(worker, tile, output), inputs[0], tile->units * output->unit_bytes);
  }
  return store_output(worker, tile, output, inputs[0], written, error);
}

/* Shows a tile's inputs to whoever looks; `*written` is their bytes. */
static mlxq_status visit_tile(mlxq_worker *worker, mlxq_tile *tile, uint64_t *written, mlxq_error *error) {
  const mlxq_job *job = tile->job;
  const mlxq_run_request *request = worker->request;
  const void *inputs[MLXQ_MAX_INPUTS] = {NULL};
  mlxq_status status = load_inputs(worker, tile, inputs, error);
  if (status != MLXQ_OK) return status;
  for (uint32_t i = 0; i < job->input_count; i++) *written += tile->units * job->inputs[i].unit_bytes;
  return request->visit(request->look_user, job, tile->first_unit, tile->units, inputs, error);
}

static mlxq_status run_tile(mlxq_worker *worker, mlxq_tile *tile, uint64_t number, uint64_t *written,
                            mlxq_error *error) {
  const mlxq_job *job = tile->job;
  const void *inputs[MLXQ_MAX_INPUTS] = {NULL};
  void *outputs[MLXQ_MAX_OUTPUTS] = {NULL};
  mlxq_status status = load_inputs(worker, tile, inputs, error);
  for (uint32_t i = 0; i < job->output_count; i++) outputs[i] = place_output(worker, tile, &job->outputs[i]);
  if (status == MLXQ_OK) status = run_kernels(worker, tile, number, inputs, outputs, error);
  for (uint32_t i = 0; status == MLXQ_OK && i < job->output_count; i++) {
    status = store_output(worker, tile, &job->outputs[i], outputs[i], written, error);
  }
  return status;
}

mlxq_status mlxq_worker_tile(mlxq_worker *worker, uint64_t number, uint64_t *written, mlxq_error *error) {
  const mlxq_job *job = find_job(worker->request->plan, number);
  mlxq_tile tile = {
      .job = job, .first_unit = (number - job->first_tile) * job->units_per_tile, .free_bytes = worker->buffer};
  uint64_t left = job->units - tile.first_unit;
  tile.units = (size_t)(left < job->units_per_tile ? left : job->units_per_tile);
  *written = 0;
  if (worker->request->visit) return visit_tile(worker, &tile, written, error);
  if (is_all_made(worker, job)) return MLXQ_OK;
  if (job->action == MLXQ_ACTION_COPY) return run_copy(worker, &tile, written, error);
  return run_tile(worker, &tile, number, written, error);
}
