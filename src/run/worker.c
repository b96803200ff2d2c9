#include "run/worker.h"

#include "base/error.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Buffers of a tile start on cache lines. */
enum { ALIGNMENT = 64 };

static size_t aligned(size_t bytes) {
  return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static size_t cast_bytes(const mlxq_operand *operand) {
  return (size_t)operand->cast_elems * mlxq_dtype_bits(operand->cast_to) / 8;
}

static uint64_t units_of_largest_tile(const mlxq_job *job) {
  return job->units < job->units_per_tile ? job->units : job->units_per_tile;
}

static size_t dense_bytes(const mlxq_job *job, uint64_t units) {
  return (size_t)units * (size_t)job->scheme.group_size * mlxq_dtype_bits(job->dtype) / 8;
}

size_t mlxq_worker_buffer_bytes(const mlxq_plan *plan, bool stats) {
  size_t most = 0;
  for (size_t i = 0; i < plan->job_count; i++) {
    const mlxq_job *job = &plan->jobs[i];
    size_t units = (size_t)units_of_largest_tile(job), bytes = 0;
    for (uint32_t k = 0; k < job->input_count; k++) {
      bytes += aligned(units * job->inputs[k].unit_bytes) + aligned(units * cast_bytes(&job->inputs[k]));
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
    mlxq_file_identity now;
    mlxq_file_close(open_file->fd);
    open_file->fd = -1;
    mlxq_status status = mlxq_file_open(&open_file->fd, &now, source->path, error);
    if (status == MLXQ_OK) status = mlxq_file_check(open_file->fd, &source->identity, source->path, error);
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

/* Sets `*data` to an input's bytes, cast where the plan says so. */
static mlxq_status load_input(mlxq_worker *worker, mlxq_tile *tile, const mlxq_operand *input, const void **data,
                              mlxq_error *error) {
  const mlxq_tensor_entry *entry = &worker->request->plan->source->entries[input->tensor];
  uint64_t offset = tile->first_unit * input->unit_bytes;
  size_t bytes = tile->units * input->unit_bytes;
  if (worker->request->source_files) {
    int fd;
    void *buffer = take_buffer(tile, bytes);
    mlxq_status status = open_source(worker, entry->file, &fd, error);
    if (status == MLXQ_OK) {
      const char *path = worker->request->source_files[entry->file].path;
      status = mlxq_file_read_at(fd, buffer, bytes, entry->offset + offset, path, error);
    }
    if (status != MLXQ_OK) return status;
    *data = buffer;
  } else {
    const unsigned char *bytes_in_memory = (const unsigned char *)entry->tensor.data + offset;
    *data = bytes_in_memory;
    if ((uintptr_t)bytes_in_memory % sizeof(uint64_t) != 0) {
      *data = memcpy(take_buffer(tile, bytes), bytes_in_memory, bytes);
    }
  }
  if (input->cast_elems > 0) {
    void *cast = take_buffer(tile, tile->units * cast_bytes(input));
    worker->kernels->cast(input->cast_from, input->cast_to, *data, cast, tile->units * input->cast_elems);
    *data = cast;
  }
  return MLXQ_OK;
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
  return (unsigned char *)(uintptr_t)tensor->data + tile->first_unit * output->unit_bytes;
}

static mlxq_status store_output(mlxq_worker *worker, const mlxq_tile *tile, const mlxq_operand *output,
                                const void *data, mlxq_error *error) {
  int fd;
  const mlxq_tensor_entry *entry = &worker->request->plan->outputs->entries[output->tensor];
  const mlxq_run_request *request = worker->request;
  if (request->store) {
    return request->store(request->look_user, output->tensor, tile->first_unit * output->unit_bytes, data,
                          tile->units * output->unit_bytes, error);
  }
  if (!request->sink_folder) return MLXQ_OK;
  mlxq_status status = open_sink(worker, entry->file, &fd, error);
  if (status != MLXQ_OK) return status;
  uint64_t offset = entry->offset + tile->first_unit * output->unit_bytes;
  status = mlxq_file_write_at(fd, data, tile->units * output->unit_bytes, offset, NULL, error);
  return at_sink(worker, entry->file, status, error);
}

static mlxq_status fail_non_finite(const mlxq_worker *worker, const mlxq_tile *tile, size_t elem, mlxq_error *error) {
  const mlxq_run_request *request = worker->request;
  const mlxq_tensor_entry *entry = &request->plan->source->entries[tile->job->inputs[0].tensor];
  uint64_t index = tile->first_unit * (uint64_t)tile->job->scheme.group_size + elem;
  size_t layer_length = 0;
  mlxq_name_splits(entry->tensor.name, ".weight", &layer_length);
  char *layer = mlxq_asprintf("%.*s", (int)layer_length, entry->tensor.name);
  mlxq_fail(error, MLXQ_NON_FINITE, layer, entry->tensor.name, "element %llu is NaN or infinite",
            (unsigned long long)index);
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

static mlxq_status run_kernels(mlxq_worker *worker, mlxq_tile *tile, uint64_t number, const void *const *inputs,
                               void *const *outputs, mlxq_error *error) {
  const mlxq_job *job = tile->job;
  const mlxq_plan *plan = worker->request->plan;
  mlxq_kernel_args args = {.profile = plan->profile,
                           .dtype = job->dtype,
                           .group_size = (size_t)job->scheme.group_size,
                           .groups = tile->units};
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
  const void *data = NULL;
  mlxq_status status = load_input(worker, tile, &tile->job->inputs[0], &data, error);
  if (status != MLXQ_OK) return status;
  *written = tile->units * output->unit_bytes;
  if (has_sink(worker->request)) return store_output(worker, tile, output, data, error);
  memcpy(place_output(worker, tile, output), data, (size_t)*written);
  return MLXQ_OK;
}

/* Shows a tile's inputs to whoever looks; `*written` is their bytes. */
static mlxq_status visit_tile(mlxq_worker *worker, mlxq_tile *tile, uint64_t *written, mlxq_error *error) {
  const mlxq_job *job = tile->job;
  const mlxq_run_request *request = worker->request;
  const void *inputs[MLXQ_MAX_OPERANDS] = {NULL};
  for (uint32_t i = 0; i < job->input_count; i++) {
    mlxq_status status = load_input(worker, tile, &job->inputs[i], &inputs[i], error);
    if (status != MLXQ_OK) return status;
    *written += tile->units * job->inputs[i].unit_bytes;
  }
  return request->visit(request->look_user, job, tile->first_unit, tile->units, inputs, error);
}

static mlxq_status run_tile(mlxq_worker *worker, mlxq_tile *tile, uint64_t number, uint64_t *written,
                            mlxq_error *error) {
  const mlxq_job *job = tile->job;
  const void *inputs[MLXQ_MAX_OPERANDS] = {NULL};
  void *outputs[MLXQ_MAX_OPERANDS] = {NULL};
  mlxq_status status = MLXQ_OK;
  for (uint32_t i = 0; status == MLXQ_OK && i < job->input_count; i++) {
    status = load_input(worker, tile, &job->inputs[i], &inputs[i], error);
  }
  for (uint32_t i = 0; i < job->output_count; i++) outputs[i] = place_output(worker, tile, &job->outputs[i]);
  if (status == MLXQ_OK) status = run_kernels(worker, tile, number, inputs, outputs, error);
  for (uint32_t i = 0; status == MLXQ_OK && i < job->output_count; i++) {
    status = store_output(worker, tile, &job->outputs[i], outputs[i], error);
    *written += tile->units * job->outputs[i].unit_bytes;
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
  if (job->action == MLXQ_ACTION_COPY) return run_copy(worker, &tile, written, error);
  return run_tile(worker, &tile, number, written, error);
}
