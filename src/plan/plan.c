#include "plan/plan.h"

#include "base/error.h"
#include "base/text.h"
#include "safetensors/safetensors.h"

#include <stdlib.h>
#include <string.h>

/* Bytes of all operands of a tile together, casts included. Large enough that system calls cost little, small enough
 * for the caches and for the memory promise of 8 MiB a thread. */
enum { TILE_BYTES = 2 << 20 };

mlxq_status mlxq_plan_new(mlxq_plan **result, const mlxq_plan_request *request, mlxq_error *error) {
  mlxq_plan *plan = mlxq_calloc(1, sizeof *plan);
  *result = NULL;
  if (!plan) return mlxq_fail_memory(error);
  plan->source = request->source;
  plan->profile = request->profile;
  plan->allow_nonfinite = request->allow_nonfinite;
  plan->for_mlx = request->for_mlx;
  mlxq_status status = mlxq_weights_new(&plan->outputs, error);
  if (status != MLXQ_OK) {
    mlxq_plan_free(plan);
    return status;
  }
  *result = plan;
  return MLXQ_OK;
}

void mlxq_plan_free(mlxq_plan *plan) {
  if (!plan) return;
  for (size_t i = 0; i < plan->file_count; i++) free(plan->files[i].name);
  free(plan->files);
  free(plan->file_order);
  free(plan->jobs);
  mlxq_weights_free(plan->outputs);
  free(plan);
}

mlxq_dtype mlxq_plan_cast_dtype(const mlxq_plan_request *request, mlxq_dtype dtype) {
  return request->cast && mlxq_dtype_is_floating(dtype) ? request->cast_to : dtype;
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

mlxq_status mlxq_plan_add_job(mlxq_plan *plan, const mlxq_job *job, mlxq_error *error) {
  void *jobs = plan->jobs;
  if (!mlxq_grow(&jobs, plan->job_count, &plan->job_capacity, sizeof *plan->jobs)) return mlxq_fail_memory(error);
  plan->jobs = jobs;
  mlxq_job *added = &plan->jobs[plan->job_count++];
  *added = *job;
  uint64_t unit_bytes = 0;
  for (uint32_t i = 0; i < job->input_count; i++) {
    const mlxq_operand *input = &job->inputs[i];
    unit_bytes += input->unit_bytes + input->cast_elems * mlxq_dtype_bits(input->cast_to) / 8;
  }
  for (uint32_t i = 0; i < job->output_count; i++) unit_bytes += job->outputs[i].unit_bytes;
  added->units_per_tile = unit_bytes < TILE_BYTES ? TILE_BYTES / unit_bytes : 1;
  added->first_tile = plan->tile_count;
  plan->tile_count += job->units / added->units_per_tile + (job->units % added->units_per_tile != 0);
  return MLXQ_OK;
}

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
  const mlxq_tensor *tensor = &plan->source->entries[index].tensor;
  mlxq_dtype from = tensor->dtype, to = mlxq_plan_cast_dtype(request, from);
  bool cast = from != to;
  size_t output = 0;
  mlxq_status status = request->for_mlx ? check_loadable(tensor, &to, error) : MLXQ_OK;
  if (status != MLXQ_OK) return status;
  status =
      mlxq_plan_output(plan, tensor->name, strlen(tensor->name), "", to, tensor->rank, tensor->shape, &output, error);
  if (status != MLXQ_OK) return status;
  mlxq_job job = {.action = MLXQ_ACTION_COPY, .input_count = 1, .output_count = 1, .dtype = to};
  if (cast) {
    job.inputs[0] = mlxq_plan_operand(index, 1, from, to);
    job.outputs[0] = mlxq_plan_operand(output, 1, to, to);
    job.units = mlxq_tensor_elems(tensor);
  } else {
    job.inputs[0] = mlxq_plan_operand(index, 1, MLXQ_U8, MLXQ_U8);
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
