#include "base/error.h"
#include "plan/classify.h"
#include "plan/plan.h"

#include <string.h>

static mlxq_status check_part_dtypes(const mlxq_layer *layer, mlxq_mode mode, mlxq_error *error) {
  mlxq_dtype weight = layer->weight->dtype, scales = layer->scales->dtype;
  if (weight != MLXQ_U32) {
    return mlxq_fail_part(error, MLXQ_UNSUPPORTED_DTYPE, layer, ".weight", "is %s; packed weights are U32",
                          mlxq_dtype_name(weight));
  }
  if (!mlxq_mode_has_biases(mode)) {
    if (scales == MLXQ_U8) return MLXQ_OK;
    return mlxq_fail_part(error, MLXQ_UNSUPPORTED_DTYPE, layer, ".scales", "is %s; %s scales are U8",
                          mlxq_dtype_name(scales), mlxq_mode_name(mode));
  }
  if (scales != MLXQ_F16 && scales != MLXQ_BF16 && scales != MLXQ_F32) {
    return mlxq_fail_part(error, MLXQ_UNSUPPORTED_DTYPE, layer, ".scales", "is %s; affine scales are F16, BF16 or F32",
                          mlxq_dtype_name(scales));
  }
  if (layer->biases->dtype != scales) {
    return mlxq_fail_part(error, MLXQ_UNSUPPORTED_DTYPE, layer, ".biases", "is %s, but the scales are %s",
                          mlxq_dtype_name(layer->biases->dtype), mlxq_dtype_name(scales));
  }
  return MLXQ_OK;
}

/* Everything of a triple fits: dtypes, ranks, leading dimensions, and the last axes. */
static mlxq_status check_triple(const mlxq_layer *layer, const mlxq_scheme *scheme, mlxq_error *error) {
  mlxq_status status = mlxq_check_biases(layer, scheme->mode, error);
  if (status == MLXQ_OK) status = mlxq_check_layer_scheme(layer, scheme, error);
  if (status == MLXQ_OK) status = check_part_dtypes(layer, scheme->mode, error);
  if (status != MLXQ_OK) return status;
  const mlxq_tensor *weight = layer->weight, *scales = layer->scales;
  if (weight->rank < 2) {
    return mlxq_fail_part(error, MLXQ_RANK_MISMATCH, layer, ".weight",
                          "has %u dimensions; quantized weights have 2 or more", weight->rank);
  }
  status = mlxq_check_leading(layer, scales, ".scales", error);
  if (status == MLXQ_OK && layer->biases) status = mlxq_check_leading(layer, layer->biases, ".biases", error);
  if (status != MLXQ_OK) return status;
  uint64_t words = weight->shape[weight->rank - 1], groups = scales->shape[weight->rank - 1];
  uint64_t bits = (uint64_t)scheme->bits, group_bits = (uint64_t)scheme->group_size * bits;
  /* The dimensions fit 63 bits as bytes, so 32 bits a word and group_bits a group may not: divide instead. */
  if (words % (group_bits / 32) != 0 || words / (group_bits / 32) != groups) {
    return mlxq_fail_part(error, MLXQ_SHAPE_MISMATCH, layer, ".scales",
                          "%llu groups of %d do not fit %llu packed words of %d-bit codes", (unsigned long long)groups,
                          scheme->group_size, (unsigned long long)words, scheme->bits);
  }
  if (layer->biases && layer->biases->shape[weight->rank - 1] != groups) {
    return mlxq_fail_part(error, MLXQ_SHAPE_MISMATCH, layer, ".biases", "has %llu groups, but the scales have %llu",
                          (unsigned long long)layer->biases->shape[weight->rank - 1], (unsigned long long)groups);
  }
  return MLXQ_OK;
}

static mlxq_status add_dequantize_job(mlxq_plan *plan, const mlxq_plan_request *request, const mlxq_layer *layer,
                                      const mlxq_scheme *scheme, mlxq_error *error) {
  const mlxq_tensor *weight = layer->weight;
  const mlxq_tensor *parts[] = {weight, layer->scales, layer->biases};
  uint64_t shape[MLXQ_MAX_RANK];
  uint64_t group = (uint64_t)scheme->group_size, bits = (uint64_t)scheme->bits;
  bool affine = mlxq_mode_has_biases(scheme->mode);
  mlxq_dtype dtype = affine ? mlxq_plan_cast_dtype(request, layer->scales->dtype) : request->scale_only_dtype;
  size_t output = 0;
  memcpy(shape, weight->shape, weight->rank * sizeof *shape);
  shape[weight->rank - 1] = layer->scales->shape[weight->rank - 1] * group;
  mlxq_status status =
      mlxq_plan_output(plan, layer->path, layer->path_length, ".weight", dtype, weight->rank, shape, &output, error);
  if (status != MLXQ_OK) return mlxq_error_at_layer(error, status, layer->path);
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
    size_t index = mlxq_weights_index(plan->source, parts[i]->name, strlen(parts[i]->name));
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
  mlxq_status status = check_triple(layer, scheme, error);
  return status == MLXQ_OK ? add_dequantize_job(plan, request, layer, scheme, error) : status;
}

mlxq_status mlxq_plan_dequantize(mlxq_plan **plan, const mlxq_plan_request *request, mlxq_error *error) {
  return mlxq_plan_walk(plan, request, plan_layer, true, error);
}
