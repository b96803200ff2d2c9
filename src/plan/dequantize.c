#include "base/error.h"
#include "plan/classify.h"
#include "plan/plan.h"

#include <string.h>

/* The part of a layer as pieces: one that is all of it where there is no model. */
static const mlxq_piece *pieces_of(const mlxq_plan_request *request, const mlxq_tensor *part, mlxq_piece *whole,
                                   size_t *count) {
  size_t index = mlxq_weights_index(request->source, part->name, strlen(part->name));
  if (request->model) return mlxq_model_pieces(request->model, index, count);
  *whole = mlxq_whole_piece(index, part->rank, part->shape);
  *count = 1;
  return whole;
}

/* Sets an input of a job that takes rows of a layer, from where a piece of `part` has them. */
static mlxq_status set_rows(mlxq_plan *plan, mlxq_job *job, uint32_t input, const mlxq_tensor *part,
                            const mlxq_piece *piece, mlxq_dtype to, mlxq_error *error) {
  uint64_t row_elems = part->shape[part->rank - 1];
  uint64_t stored_bytes = mlxq_dtype_bits(plan->stored->entries[piece->stored].tensor.dtype) / 8;
  mlxq_operand *operand = &job->inputs[input];
  *operand = mlxq_plan_operand(piece->stored, row_elems, part->dtype, to);
  mlxq_slice slice = {piece->first * stored_bytes, piece->stride * stored_bytes, 1, 0};
  if (slice.offset == 0 && slice.unit_stride == operand->unit_bytes) return MLXQ_OK;
  return mlxq_plan_slice(plan, &operand->slice, &slice, error);
}

/* Adds the jobs of a layer, row by row: one for each run of rows that is stored together. */
static mlxq_status add_dequantize_jobs(mlxq_plan *plan, const mlxq_plan_request *request, const mlxq_layer *layer,
                                       const mlxq_scheme *scheme, mlxq_error *error) {
  const mlxq_tensor *weight = layer->weight;
  const mlxq_tensor *parts[] = {weight, layer->scales, layer->biases};
  uint64_t shape[MLXQ_MAX_RANK], row = 0;
  uint64_t group = (uint64_t)scheme->group_size, row_groups = layer->scales->shape[weight->rank - 1];
  bool affine = mlxq_mode_has_biases(scheme->mode);
  mlxq_dtype dtype = affine ? mlxq_plan_cast_dtype(request, layer->scales) : request->scale_only_dtype;
  const mlxq_piece *pieces[3] = {NULL};
  mlxq_piece whole[3];
  size_t output = 0, counts[3] = {0};
  memcpy(shape, weight->shape, weight->rank * sizeof *shape);
  shape[weight->rank - 1] = row_groups * group;
  mlxq_status status =
      mlxq_plan_output(plan, layer->path, layer->path_length, ".weight", dtype, weight->rank, shape, &output, error);
  uint32_t part_count = layer->biases ? 3 : 2;
  for (uint32_t i = 0; i < part_count; i++) pieces[i] = pieces_of(request, parts[i], &whole[i], &counts[i]);
  for (size_t k = 0; status == MLXQ_OK && k < counts[0]; k++) {
    uint64_t row_bytes = row_groups * group * mlxq_dtype_bits(dtype) / 8;
    mlxq_job job = {.action = MLXQ_ACTION_DEQUANTIZE,
                    .input_count = (uint8_t)part_count,
                    .output_count = 1,
                    .outputs = {mlxq_plan_operand(output, row_groups * group, dtype, dtype)},
                    .scheme = *scheme,
                    .dtype = (uint8_t)dtype,
                    .unit_groups = (uint32_t)row_groups,
                    .units = pieces[0][k].rows};
    mlxq_slice slice = {row * row_bytes, row_bytes, 1, 0};
    if (row > 0) status = mlxq_plan_slice(plan, &job.outputs[0].slice, &slice, error);
    for (uint32_t i = 0; status == MLXQ_OK && i < part_count; i++) {
      if (k >= counts[i] || pieces[i][k].rows != job.units || pieces[i][k].transposed) {
        return mlxq_fail_part(error, MLXQ_UNSUPPORTED, layer, ".weight", "its parts are not stored alike");
      }
      mlxq_dtype to = i > 0 && affine ? dtype : parts[i]->dtype;
      status = set_rows(plan, &job, i, parts[i], &pieces[i][k], to, error);
    }
    if (status == MLXQ_OK) status = mlxq_plan_add_job(plan, &job, error);
    row += job.units;
  }
  return status;
}

/* The same for a layer that is stored as it is, group by group. */
static mlxq_status add_dequantize_job(mlxq_plan *plan, const mlxq_plan_request *request, const mlxq_layer *layer,
                                      const mlxq_scheme *scheme, mlxq_error *error) {
  const mlxq_tensor *weight = layer->weight;
  const mlxq_tensor *parts[] = {weight, layer->scales, layer->biases};
  uint64_t shape[MLXQ_MAX_RANK];
  uint64_t group = (uint64_t)scheme->group_size, bits = (uint64_t)scheme->bits;
  bool affine = mlxq_mode_has_biases(scheme->mode);
  mlxq_dtype dtype = affine ? mlxq_plan_cast_dtype(request, layer->scales) : request->scale_only_dtype;
  size_t output = 0;
  memcpy(shape, weight->shape, weight->rank * sizeof *shape);
  shape[weight->rank - 1] = layer->scales->shape[weight->rank - 1] * group;
  mlxq_status status =
      mlxq_plan_output(plan, layer->path, layer->path_length, ".weight", dtype, weight->rank, shape, &output, error);
  if (status != MLXQ_OK) return status;
  mlxq_job job = {
      .action = MLXQ_ACTION_DEQUANTIZE,
      .input_count = layer->biases ? 3 : 2,
      .output_count = 1,
      .outputs = {mlxq_plan_operand(output, group, dtype, dtype)},
      .scheme = *scheme,
      .dtype = (uint8_t)dtype,
      .units = mlxq_tensor_elems(layer->scales),
  };
  for (uint32_t i = 0; i < job.input_count; i++) {
    size_t count = 0;
    mlxq_piece whole;
    mlxq_dtype from = parts[i]->dtype;
    job.inputs[i] = mlxq_plan_operand(pieces_of(request, parts[i], &whole, &count)->stored,
                                      i == 0 ? group * bits / 32 : 1, from, i > 0 && affine ? dtype : from);
  }
  return mlxq_plan_add_job(plan, &job, error);
}

/* Whether a layer's parts are whole stored tensors. */
static bool is_stored_whole(const mlxq_plan_request *request, const mlxq_layer *layer) {
  const mlxq_tensor *parts[] = {layer->weight, layer->scales, layer->biases};
  for (size_t i = 0; i < 3 && request->model; i++) {
    size_t count = 0;
    mlxq_piece whole;
    if (!parts[i]) continue;
    const mlxq_piece *piece = pieces_of(request, parts[i], &whole, &count);
    const mlxq_tensor *stored = &request->model->stored->entries[piece->stored].tensor;
    if (count != 1 || piece->first != 0 || stored->bytes != parts[i]->bytes) return false;
  }
  return true;
}

static mlxq_status plan_layer(mlxq_plan *plan, const mlxq_plan_request *request, size_t index, const mlxq_layer *layer,
                              mlxq_error *error) {
  if (!layer->scales) {
    if (layer->biases && layer->weight->dtype == MLXQ_U32 && layer->weight->rank >= 2) {
      return mlxq_fail_part(error, MLXQ_MISSING_KEY, layer, ".scales",
                            "missing: there are a packed weight and biases, which never come without scales");
    }
    return mlxq_plan_copy(plan, request, index, error);
  }
  const mlxq_scheme *scheme = mlxq_quant_config_lookup(request->config, layer->path);
  if (!scheme) {
    return mlxq_fail(error, MLXQ_INVARIANT, layer->path, NULL,
                     "the layer has scales, but the configuration has no scheme for it");
  }
  mlxq_status status = mlxq_check_triple(layer, scheme, error);
  if (status != MLXQ_OK) return status;
  return is_stored_whole(request, layer) ? add_dequantize_job(plan, request, layer, scheme, error)
                                         : add_dequantize_jobs(plan, request, layer, scheme, error);
}

mlxq_status mlxq_plan_dequantize(mlxq_plan **plan, const mlxq_plan_request *request, mlxq_error *error) {
  return mlxq_plan_walk(plan, request, plan_layer, true, error);
}
