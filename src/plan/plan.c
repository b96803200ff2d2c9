#include "plan/plan.h"

#include "base/error.h"
#include "base/text.h"
#include "safetensors/safetensors.h"

#include <stdlib.h>
#include <string.h>

/* Bytes of all operands of a tile together, casts included. Large enough that system calls cost little, small enough
 * for the caches and for the memory promise of 8 MiB a thread. */
enum { TILE_BYTES = 2 << 20 };

/* The same for tiles that read columns, a few bytes of each row at a time: the wider the better. */
enum { COLUMN_TILE_BYTES = 24 << 20 };

/* The longest row that a tile may have to hold whole. */
enum { MAX_ROW_BYTES = 8 << 20 };

/* The most that one unit may take, which no tile can do without. */
enum { MAX_UNIT_BYTES = 28 << 20 };

/* Block scales of an FP8 matrix, of which every tile gets all: those of 2^34 elements. */
enum { MAX_BLOCK_SCALES = 1 << 20 };

mlxq_status mlxq_plan_new(mlxq_plan **result, const mlxq_plan_request *request, mlxq_error *error) {
  mlxq_plan *plan = mlxq_calloc(1, sizeof *plan);
  *result = NULL;
  if (!plan) return mlxq_fail_memory(error);
  plan->stored = request->model ? request->model->stored : request->source;
  plan->profile = request->profile;
  plan->allow_nonfinite = request->allow_nonfinite;
  plan->for_mlx = request->for_mlx;
  mlxq_status status = mlxq_weights_new(&plan->outputs, error);
  uint32_t none = 0;
  if (status == MLXQ_OK) status = mlxq_plan_slice(plan, &none, &(mlxq_slice){.unit_stride = 1, .rows = 1}, error);
  if (status == MLXQ_OK) status = mlxq_plan_preparation(plan, &none, &(mlxq_preparation){.row_elems = 0}, error);
  if (status != MLXQ_OK) {
    mlxq_plan_free(plan);
    return status;
  }
  *result = plan;
  return MLXQ_OK;
}

mlxq_status mlxq_plan_slice(mlxq_plan *plan, uint32_t *index, const mlxq_slice *slice, mlxq_error *error) {
  void *slices = plan->slices;
  if (plan->slice_count >= UINT32_MAX ||
      !mlxq_grow(&slices, plan->slice_count, &plan->slice_capacity, sizeof *plan->slices)) {
    return mlxq_fail_memory(error);
  }
  plan->slices = slices;
  plan->slices[plan->slice_count] = *slice;
  *index = (uint32_t)plan->slice_count++;
  return MLXQ_OK;
}

mlxq_status mlxq_plan_preparation(mlxq_plan *plan, uint32_t *index, const mlxq_preparation *preparation,
                                  mlxq_error *error) {
  void *preparations = plan->preparations;
  if (plan->preparation_count >= UINT32_MAX ||
      !mlxq_grow(&preparations, plan->preparation_count, &plan->preparation_capacity, sizeof *plan->preparations)) {
    return mlxq_fail_memory(error);
  }
  plan->preparations = preparations;
  plan->preparations[plan->preparation_count] = *preparation;
  *index = (uint32_t)plan->preparation_count++;
  return MLXQ_OK;
}

void mlxq_plan_free(mlxq_plan *plan) {
  if (!plan) return;
  for (size_t i = 0; i < plan->file_count; i++) free(plan->files[i].name);
  free(plan->files);
  free(plan->file_order);
  free(plan->jobs);
  free(plan->slices);
  free(plan->preparations);
  free(plan->foreign);
  mlxq_weights_free(plan->outputs);
  free(plan);
}

mlxq_status mlxq_plan_read(const mlxq_plan_request *request, size_t index, uint64_t offset, void *buffer, size_t bytes,
                           mlxq_error *error) {
  const mlxq_tensor_entry *entry = &request->source->entries[index];
  if (!request->files) {
    if (bytes > 0) memcpy(buffer, (const char *)entry->tensor.data + offset, bytes);
    return MLXQ_OK;
  }
  const mlxq_source_file *file = &request->files[entry->file];
  int fd;
  mlxq_status status = mlxq_file_reopen(&fd, &file->identity, file->path, error);
  if (status != MLXQ_OK) return status;
  status = mlxq_file_read_at(fd, buffer, bytes, entry->offset + offset, file->path, error);
  mlxq_file_close(fd);
  return status;
}

mlxq_dtype mlxq_plan_cast_dtype(const mlxq_plan_request *request, const mlxq_tensor *tensor) {
  bool casts = request->cast && mlxq_dtype_is_floating(tensor->dtype);
  if (casts && request->keeps_dtype) casts = !request->keeps_dtype(request->keeps_dtype_user, tensor->name);
  return casts ? request->cast_to : tensor->dtype;
}

mlxq_operand mlxq_plan_operand(size_t tensor, uint64_t elems, mlxq_dtype dtype, mlxq_dtype to) {
  return (mlxq_operand){
      .tensor = (uint32_t)tensor,
      .unit_bytes = (uint32_t)(elems * mlxq_dtype_bits(dtype) / 8),
      .cast_elems = dtype == to ? 0 : (uint32_t)elems,
      .cast_from = (uint8_t)dtype,
      .cast_to = (uint8_t)to,
  };
}

static mlxq_status check_dimensions(const char *name, uint32_t rank, const uint64_t *shape, mlxq_error *error) {
  for (uint32_t i = 0; i < rank; i++) {
    if (shape[i] > INT32_MAX) {
      return mlxq_fail(error, MLXQ_OUT_OF_RANGE, NULL, name, "dimension %u is %llu; MLX keeps dimensions in 32 bits", i,
                       (unsigned long long)shape[i]);
    }
  }
  return MLXQ_OK;
}

mlxq_status mlxq_plan_output(mlxq_plan *plan, const char *layer, size_t layer_length, const char *suffix,
                             mlxq_dtype dtype, uint32_t rank, const uint64_t *shape, size_t *index, mlxq_error *error) {
  size_t suffix_length = strlen(suffix);
  char *name = mlxq_alloc(layer_length + suffix_length + 1, 1);
  if (!name) return mlxq_fail_memory(error);
  memcpy(name, layer, layer_length);
  memcpy(name + layer_length, suffix, suffix_length + 1);
  mlxq_status status = plan->for_mlx ? check_dimensions(name, rank, shape, error) : MLXQ_OK;
  if (status == MLXQ_OK) {
    status =
        mlxq_weights_describe(plan->outputs, name, layer_length + suffix_length, dtype, rank, shape, 0, 0, NULL, error);
  }
  if (status == MLXQ_OK) *index = plan->outputs->count - 1;
  if (status != MLXQ_OK && suffix_length > 0) {
    name[layer_length] = '\0';
    mlxq_error_at_layer(error, status, name);
  }
  free(name);
  return status;
}

bool mlxq_slice_is_shared(const mlxq_slice *slice) {
  return slice->unit_stride == 0;
}

bool mlxq_slice_is_dense(uint64_t run_bytes, uint64_t stride) {
  enum { SHORT = 4096 };
  return run_bytes < SHORT && stride <= 2 * run_bytes;
}

uint64_t mlxq_operand_cast_bytes(const mlxq_operand *operand) {
  return (uint64_t)operand->cast_elems * mlxq_dtype_bits(operand->cast_to) / 8;
}

const mlxq_preparation *mlxq_job_preparation(const mlxq_plan *plan, const mlxq_job *job) {
  return job->action == MLXQ_ACTION_IMPORT || job->detail == 0 ? NULL : &plan->preparations[job->detail];
}

/* Bytes that one more unit adds to a tile's buffers. */
static uint64_t unit_buffer_bytes(const mlxq_plan *plan, const mlxq_job *job, bool *columns) {
  const mlxq_preparation *preparation = mlxq_job_preparation(plan, job);
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < job->input_count; i++) {
    const mlxq_operand *input = &job->inputs[i];
    const mlxq_slice *slice = &plan->slices[input->slice];
    *columns = *columns || slice->rows > 1;
    if (mlxq_slice_is_shared(slice)) continue;
    uint64_t stride = slice->rows > 1 ? slice->row_stride : slice->unit_stride;
    bool dense = input->slice != 0 && mlxq_slice_is_dense(input->unit_bytes, stride);
    bytes += (dense ? 2 : 1) * slice->rows * input->unit_bytes + mlxq_operand_cast_bytes(input);
  }
  if (preparation) {
    bytes +=
        (preparation->fp8 + preparation->transpose) * preparation->row_elems * mlxq_dtype_bits(preparation->dtype) / 8;
  }
  if (job->action == MLXQ_ACTION_IMPORT) bytes += mlxq_foreign_scratch_bytes(&plan->foreign[job->detail]);
  for (uint32_t i = 0; i < job->output_count; i++) bytes += job->outputs[i].unit_bytes;
  return bytes;
}

mlxq_status mlxq_plan_add_job(mlxq_plan *plan, const mlxq_job *job, mlxq_error *error) {
  bool columns = false;
  uint64_t unit_bytes = unit_buffer_bytes(plan, job, &columns);
  if (job->units > 0 && unit_bytes > MAX_UNIT_BYTES) {
    return mlxq_fail(error, MLXQ_OUT_OF_RANGE, NULL, plan->stored->entries[job->inputs[0].tensor].tensor.name,
                     "its rows or columns are too long: a piece of work would take %llu bytes, and may take %d",
                     (unsigned long long)unit_bytes, MAX_UNIT_BYTES);
  }
  void *jobs = plan->jobs;
  if (!mlxq_grow(&jobs, plan->job_count, &plan->job_capacity, sizeof *plan->jobs)) return mlxq_fail_memory(error);
  plan->jobs = jobs;
  uint64_t tile_bytes = columns ? COLUMN_TILE_BYTES : TILE_BYTES;
  mlxq_job *added = &plan->jobs[plan->job_count++];
  *added = *job;
  if (added->unit_groups == 0) added->unit_groups = 1;
  if (unit_bytes == 0) added->units = 0; /* of empty tensors there is nothing to make */
  added->units_per_tile = unit_bytes > 0 && unit_bytes < tile_bytes ? (uint32_t)(tile_bytes / unit_bytes) : 1;
  added->first_tile = plan->tile_count;
  plan->tile_count += added->units / added->units_per_tile + (added->units % added->units_per_tile != 0);
  return MLXQ_OK;
}

/* ---- Pieces ---------------------------------------------------------------------------------------------------- */

/* One piece of a model tensor, and what its job needs to know of both. */
typedef struct piece_view {
  const mlxq_piece *piece;
  const mlxq_tensor *stored;
  bool fp8;
  uint64_t row_elems, unit_elems; /* of the model tensor */
  uint64_t elem_bytes;            /* stored, of an element of the model tensor */
  uint64_t first, stride;         /* of the piece, in bytes */
  mlxq_dtype dtype;               /* of the elements once FP8 is out of the way */
} piece_view;

static piece_view view_piece(const mlxq_plan *plan, const mlxq_piece *piece, const mlxq_tensor *tensor,
                             uint64_t unit_elems) {
  const mlxq_tensor *stored = &plan->stored->entries[piece->stored].tensor;
  uint64_t stored_bytes = mlxq_dtype_bits(stored->dtype) / 8;
  piece_view view = {.piece = piece,
                     .stored = stored,
                     .fp8 = piece->block_scales != MLXQ_NO_TENSOR,
                     .row_elems = tensor->rank > 0 ? tensor->shape[tensor->rank - 1] : 1,
                     .unit_elems = unit_elems,
                     .elem_bytes = stored_bytes,
                     .first = piece->first * stored_bytes,
                     .stride = piece->stride * stored_bytes,
                     .dtype = stored->dtype};
  if (view.fp8) {
    view.dtype = MLXQ_BF16;
  } else if (!mlxq_dtype_is_floating(stored->dtype)) { /* bytes may be seen as words */
    view.dtype = tensor->dtype;
    view.elem_bytes = mlxq_dtype_bits(tensor->dtype) / 8;
  }
  return view;
}

static mlxq_status add_preparation(mlxq_plan *plan, mlxq_job *job, const piece_view *view, mlxq_error *error) {
  const mlxq_piece *piece = view->piece;
  mlxq_preparation preparation = {.fp8 = view->fp8,
                                  .transpose = piece->transposed,
                                  .add_one = piece->add_one,
                                  .dtype = view->dtype,
                                  .row_elems = view->row_elems};
  if (view->fp8) {
    const mlxq_tensor *scales = &plan->stored->entries[piece->block_scales].tensor;
    uint32_t shared = 0;
    if (mlxq_tensor_elems(scales) > MAX_BLOCK_SCALES) {
      return mlxq_fail(error, MLXQ_OUT_OF_RANGE, NULL, scales->name, "has %llu block scales; at most %d are accepted",
                       (unsigned long long)mlxq_tensor_elems(scales), MAX_BLOCK_SCALES);
    }
    mlxq_status status = mlxq_plan_slice(plan, &shared, &(mlxq_slice){.rows = 1}, error);
    if (status != MLXQ_OK) return status;
    preparation.first_row = piece->first / view->stored->shape[1];
    preparation.first_column = piece->first % view->stored->shape[1];
    preparation.scale_columns = (uint32_t)scales->shape[1];
    preparation.block_rows = preparation.block_columns = MLXQ_FP8_BLOCK;
    job->input_count = 2;
    job->inputs[1] = mlxq_plan_operand(piece->block_scales, mlxq_tensor_elems(scales), scales->dtype, MLXQ_F32);
    job->inputs[1].slice = shared;
  }
  return mlxq_plan_preparation(plan, &job->detail, &preparation, error);
}

/* Makes the job's units rows of the model tensor, and describes how they are read. */
static mlxq_status read_by_rows(mlxq_plan *plan, mlxq_job *job, const piece_view *view, mlxq_error *error) {
  const mlxq_piece *piece = view->piece;
  uint64_t row_units = view->row_elems / view->unit_elems, row_bytes = view->row_elems * view->elem_bytes;
  mlxq_operand *input = &job->inputs[0];
  mlxq_slice slice = {.offset = view->first, .unit_stride = view->stride, .rows = 1};
  if (view->row_elems > MAX_ROW_BYTES / sizeof(float)) {
    return mlxq_fail(error, MLXQ_UNSUPPORTED, NULL, view->stored->name,
                     "rows of %llu elements are too long to rearrange", (unsigned long long)view->row_elems);
  }
  if (piece->transposed) slice = (mlxq_slice){view->first, view->elem_bytes, view->row_elems, view->stride};
  input->unit_bytes = (uint32_t)(piece->transposed ? view->elem_bytes : row_bytes);
  input->cast_elems = input->cast_from == input->cast_to ? 0 : (uint32_t)view->row_elems;
  job->units = piece->rows;
  job->unit_groups = (uint32_t)row_units;
  for (uint32_t i = 0; i < job->output_count; i++) job->outputs[i].unit_bytes *= (uint32_t)row_units;
  mlxq_status status = mlxq_plan_slice(plan, &input->slice, &slice, error);
  bool prepared = view->fp8 || piece->transposed || piece->add_one;
  return status == MLXQ_OK && prepared ? add_preparation(plan, job, view, error) : status;
}

/* Adds the job for one piece, the rows from `row` on of the model tensor. */
static mlxq_status add_piece(mlxq_plan *plan, const mlxq_job *like, const piece_view *view, uint64_t row,
                             mlxq_error *error) {
  const mlxq_piece *piece = view->piece;
  uint64_t row_units = view->row_elems / view->unit_elems;
  bool by_rows = piece->transposed || piece->add_one || view->fp8 ||
                 (view->stride != view->row_elems * view->elem_bytes && piece->rows > 1);
  mlxq_dtype to = (mlxq_dtype)like->inputs[0].cast_to;
  mlxq_job job = *like;
  mlxq_status status = MLXQ_OK;
  job.inputs[0] = mlxq_plan_operand(piece->stored, view->unit_elems, view->dtype, to);
  job.units = piece->rows * row_units;
  for (uint32_t i = 0; status == MLXQ_OK && row > 0 && i < job.output_count; i++) {
    uint64_t unit_bytes = job.outputs[i].unit_bytes;
    mlxq_slice slice = {row * row_units * unit_bytes, unit_bytes, 1, 0};
    status = mlxq_plan_slice(plan, &job.outputs[i].slice, &slice, error);
  }
  if (status != MLXQ_OK) return status;
  if (by_rows) {
    status = read_by_rows(plan, &job, view, error);
  } else if (view->first > 0) {
    mlxq_slice slice = {view->first, job.inputs[0].unit_bytes, 1, 0};
    status = mlxq_plan_slice(plan, &job.inputs[0].slice, &slice, error);
  }
  return status == MLXQ_OK ? mlxq_plan_add_job(plan, &job, error) : status;
}

mlxq_status mlxq_plan_add_pieces(mlxq_plan *plan, const mlxq_plan_request *request, size_t index, const mlxq_job *job,
                                 uint64_t unit_elems, mlxq_error *error) {
  const mlxq_tensor *tensor = &request->source->entries[index].tensor;
  uint64_t row = 0;
  size_t count = 1;
  mlxq_piece whole;
  const mlxq_piece *pieces = &whole;
  if (request->model) {
    pieces = mlxq_model_pieces(request->model, index, &count);
  } else {
    whole = mlxq_whole_piece(index, tensor->rank, tensor->shape);
  }
  for (size_t i = 0; i < count; i++) {
    piece_view view = view_piece(plan, &pieces[i], tensor, unit_elems);
    mlxq_status status = add_piece(plan, job, &view, row, error);
    if (status != MLXQ_OK) return status;
    row += pieces[i].rows;
  }
  return MLXQ_OK;
}

/* ---- Copies ---------------------------------------------------------------------------------------------------- */

/* What MLX cannot load is refused by name, and what it reads as plain bytes is written so (docs/formats.md). */
static mlxq_status check_loadable(const mlxq_tensor *tensor, mlxq_dtype *dtype, mlxq_error *error) {
  switch (*dtype) {
    case MLXQ_F8_E4M3:
    case MLXQ_F8_E8M0:
      *dtype = MLXQ_U8;
      break;
    case MLXQ_F64:
      return mlxq_fail(error, MLXQ_UNSUPPORTED_DTYPE, NULL, tensor->name,
                       "is F64, which MLX does not load; --dtype casts");
    case MLXQ_F8_E5M2:
    case MLXQ_F6_E2M3:
    case MLXQ_F6_E3M2:
    case MLXQ_F4:
      return mlxq_fail(error, MLXQ_UNSUPPORTED_DTYPE, NULL, tensor->name, "is %s, which MLX does not load",
                       mlxq_dtype_name(*dtype));
    default:
      break;
  }
  return MLXQ_OK;
}

mlxq_status mlxq_plan_copy(mlxq_plan *plan, const mlxq_plan_request *request, size_t index, mlxq_error *error) {
  const mlxq_tensor *tensor = &request->source->entries[index].tensor;
  mlxq_dtype from = tensor->dtype, to = mlxq_plan_cast_dtype(request, tensor);
  size_t output = 0;
  mlxq_job job = {.action = MLXQ_ACTION_COPY, .input_count = 1, .output_count = 1, .dtype = (uint8_t)to};
  mlxq_status status = request->for_mlx ? check_loadable(tensor, &to, error) : MLXQ_OK;
  if (status != MLXQ_OK) return status;
  status =
      mlxq_plan_output(plan, tensor->name, strlen(tensor->name), "", to, tensor->rank, tensor->shape, &output, error);
  if (status != MLXQ_OK) return status;
  /* Elements of less than a byte are no units; they get here only in memory, where no family cuts them. */
  size_t stored = index, pieces = 0;
  bool whole = !request->model || mlxq_dtype_bits(from) < 8;
  if (request->model && whole) stored = mlxq_model_pieces(request->model, index, &pieces)->stored;
  if (!whole) {
    job.inputs[0] = mlxq_plan_operand(index, 1, from, (mlxq_dtype)job.dtype);
    job.outputs[0] = mlxq_plan_operand(output, 1, to, to);
    return mlxq_plan_add_pieces(plan, request, index, &job, 1, error);
  }
  if (from != (mlxq_dtype)job.dtype) {
    job.inputs[0] = mlxq_plan_operand(stored, 1, from, to);
    job.outputs[0] = mlxq_plan_operand(output, 1, to, to);
    job.units = mlxq_tensor_elems(tensor);
  } else {
    job.inputs[0] = mlxq_plan_operand(stored, 1, MLXQ_U8, MLXQ_U8);
    job.outputs[0] = mlxq_plan_operand(output, 1, MLXQ_U8, MLXQ_U8);
    job.units = tensor->bytes;
  }
  return mlxq_plan_add_job(plan, &job, error);
}

/* Fills `layer` for the weight at `index`, whose path has `length` bytes. `path` is scratch that must outlive it. */
static mlxq_status describe_layer(mlxq_layer *layer, mlxq_text *path, const mlxq_weights *source, size_t index,
                                  size_t length, mlxq_error *error) {
  const mlxq_tensor *weight = &source->entries[index].tensor;
  mlxq_text_set(path, weight->name, length);
  if (path->failed) return mlxq_fail_memory(error);
  *layer = (mlxq_layer){
      .path = path->data,
      .path_length = length,
      .weight = weight,
      .scales = mlxq_weights_part(source, weight->name, length, ".scales"),
      .biases = mlxq_weights_part(source, weight->name, length, ".biases"),
  };
  return MLXQ_OK;
}

/* True for the scales and biases of a layer that has a weight and scales. */
static bool is_of_triple(const mlxq_weights *source, const char *name) {
  size_t length = 0;
  return (mlxq_name_splits(name, ".scales", &length) || mlxq_name_splits(name, ".biases", &length)) &&
         mlxq_weights_part(source, name, length, ".weight") && mlxq_weights_part(source, name, length, ".scales");
}

mlxq_status mlxq_plan_walk(mlxq_plan **result, const mlxq_plan_request *request, mlxq_plan_layer_fn plan_layer,
                           bool consume_triples, mlxq_error *error) {
  mlxq_plan *plan = NULL;
  mlxq_text path = {0};
  const mlxq_weights *source = request->source;
  mlxq_status status = mlxq_plan_new(&plan, request, error);
  for (size_t i = 0; status == MLXQ_OK && i < source->count; i++) {
    const char *name = source->entries[i].tensor.name;
    size_t length = 0;
    status = mlxq_cancel_check(&request->cancel, error);
    if (status != MLXQ_OK) break;
    if (mlxq_name_splits(name, ".weight", &length)) {
      mlxq_layer layer;
      status = describe_layer(&layer, &path, source, i, length, error);
      if (status == MLXQ_OK) status = plan_layer(plan, request, i, &layer, error);
    } else if (!consume_triples || !is_of_triple(source, name)) {
      status = mlxq_plan_copy(plan, request, i, error);
    }
    if (status != MLXQ_OK && request->files) {
      mlxq_error_at_file(error, status, request->files[source->entries[i].file].path);
    }
  }
  mlxq_text_free(&path);
  if (status != MLXQ_OK) {
    mlxq_plan_free(plan);
    plan = NULL;
  }
  *result = plan;
  return status;
}

/* ---- Layout ---------------------------------------------------------------------------------------------------- */

/* Cuts the outputs, in order, into files: sets their number, and each output's file. */
static void cut_into_files(mlxq_plan *plan, uint64_t max_bytes) {
  uint64_t used = 0;
  plan->file_count = 0;
  for (size_t i = 0; i < plan->outputs->count; i++) {
    mlxq_tensor_entry *entry = &plan->outputs->entries[i];
    /* A tensor has fewer than 2^63 bytes, and so do the tensors before it in a file that is not over the limit. */
    if (i == 0 || used > max_bytes || entry->tensor.bytes > max_bytes - used) {
      plan->file_count++;
      used = 0;
    }
    used += entry->tensor.bytes;
    entry->file = (uint32_t)(plan->file_count - 1);
  }
  if (plan->file_count == 0) plan->file_count = 1; /* a checkpoint without tensors is one file without tensors */
}

static char *shard_name(size_t index, size_t count) {
  if (count == 1) return mlxq_asprintf("model.safetensors");
  return mlxq_asprintf("model-%05zu-of-%05zu.safetensors", index + 1, count);
}

mlxq_status mlxq_plan_layout(mlxq_plan *plan, uint64_t max_bytes, const char *single_name, mlxq_error *error) {
  size_t count = plan->outputs->count, next = 0;
  cut_into_files(plan, single_name ? INT64_MAX : max_bytes);
  if (plan->file_count > MLXQ_MAX_FILES) {
    size_t files = plan->file_count;
    plan->file_count = 0;
    return mlxq_fail(error, MLXQ_OUT_OF_RANGE, NULL, "max_shard_size",
                     "the result would be in %zu files; at most %u are made", files, MLXQ_MAX_FILES);
  }
  plan->file_order = mlxq_alloc(count, sizeof *plan->file_order);
  plan->files = mlxq_calloc(plan->file_count, sizeof *plan->files);
  if (!plan->file_order || !plan->files) {
    if (!plan->files) plan->file_count = 0;
    return mlxq_fail_memory(error);
  }
  for (size_t i = 0; i < count; i++) plan->file_order[i] = i;
  for (size_t i = 0; i < plan->file_count; i++) {
    mlxq_plan_file *file = &plan->files[i];
    char *header = NULL;
    size_t header_bytes = 0;
    file->first = next;
    while (next < count && plan->outputs->entries[next].file == i) next++;
    file->count = next - file->first;
    file->name = single_name ? mlxq_asprintf("%s", single_name) : shard_name(i, plan->file_count);
    if (!file->name) return mlxq_fail_memory(error);
    /* The header is made again when the file is created: all of them together would not be small. */
    mlxq_status status = mlxq_safetensors_layout(plan->outputs, (uint32_t)i, plan->file_order + file->first,
                                                 file->count, &header, &header_bytes, &file->bytes, error);
    free(header);
    if (status != MLXQ_OK) return mlxq_error_at_file(error, status, file->name);
  }
  return MLXQ_OK;
}

const char *mlxq_plan_file_name(const void *plan, size_t index) {
  return ((const mlxq_plan *)plan)->files[index].name;
}
