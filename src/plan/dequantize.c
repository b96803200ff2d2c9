#include "base/error.h"
#include "plan/classify.h"
#include "plan/plan.h"

#include <string.h>

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
      .dtype = dtype,
      .units = mlxq_tensor_elems(layer->scales),
  };
  for (uint32_t i = 0; i < job.input_count; i++) {
    size_t index = mlxq_weights_index(plan->stored, parts[i]->name, strlen(parts[i]->name));
    mlxq_dtype from = parts[i]->dtype;
    job.inputs[i] = mlxq_plan_operand(index, i == 0 ? group * bits / 32 : 1, from, i > 0 && affine ? dtype : from);
  }
  return mlxq_plan_add_job(plan, &job, error);
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
  return status == MLXQ_OK ? add_dequantize_job(plan, request, layer, scheme, error) : status;
}

mlxq_status mlxq_plan_dequantize(mlxq_plan **plan, const mlxq_plan_request *request, mlxq_error *error) {
  return mlxq_plan_walk(plan, request, plan_layer, true, error);
}
