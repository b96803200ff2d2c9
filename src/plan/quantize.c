#include "base/error.h"
#include "plan/classify.h"
#include "plan/plan.h"

#include <stdlib.h>
#include <string.h>

/* Sets `*scheme` to what a dense layer is to be quantized with, or to NULL where it stays dense. */
static mlxq_status choose_scheme(const mlxq_scheme **scheme, const mlxq_layer *layer, const mlxq_plan_request *request,
                                 mlxq_error *error) {
  const mlxq_tensor *weight = layer->weight;
  *scheme = NULL;
  if (request->eligible && !request->eligible(request->eligible_user, layer->path, weight)) return MLXQ_OK;
  const mlxq_scheme *found = mlxq_quant_config_lookup(request->config, layer->path);
  if (!found || weight->rank < 2) return MLXQ_OK;
  if (found->group_size < 0) {
    return mlxq_fail(error, MLXQ_OUT_OF_RANGE, layer->path, "group_size", "%d is negative", found->group_size);
  }
  if (found->group_size == 0 || weight->shape[weight->rank - 1] % (uint64_t)found->group_size != 0) return MLXQ_OK;
  mlxq_status status = mlxq_check_layer_scheme(layer, found, error);
  if (status != MLXQ_OK) return status;
  mlxq_dtype dtype = mlxq_plan_cast_dtype(request, weight);
  if (!mlxq_dtype_is_floating(dtype) && request->for_mlx) {
    if (request->warn) {
      char *message = mlxq_asprintf("%s.weight is %s and stays as it is: only floating weights can be quantized",
                                    layer->path, mlxq_dtype_name(dtype));
      if (message) request->warn(request->warn_user, message);
      free(message);
    }
    return MLXQ_OK;
  }
  if (!mlxq_dtype_is_floating(dtype) || dtype == MLXQ_F64) {
    return mlxq_fail_part(error, MLXQ_UNSUPPORTED_DTYPE, layer, ".weight",
                          "is %s; F16, BF16 and F32 weights can be quantized%s", mlxq_dtype_name(dtype),
                          dtype == MLXQ_F64 && request->for_mlx ? " (--dtype casts)" : "");
  }
  *scheme = found;
  return MLXQ_OK;
}

static mlxq_status add_quantize_job(mlxq_plan *plan, const mlxq_plan_request *request, size_t index,
                                    const mlxq_layer *layer, const mlxq_scheme *scheme, mlxq_error *error) {
  const mlxq_tensor *weight = layer->weight;
  uint64_t shape[MLXQ_MAX_RANK];
  uint64_t group = (uint64_t)scheme->group_size, bits = (uint64_t)scheme->bits;
  uint64_t last = weight->shape[weight->rank - 1];
  mlxq_dtype dtype = mlxq_plan_cast_dtype(request, weight);
  mlxq_dtype scale_dtype = mlxq_mode_has_biases(scheme->mode) ? dtype : MLXQ_U8;
  mlxq_job job = {
      .action = MLXQ_ACTION_QUANTIZE,
      .input_count = 1,
      .output_count = mlxq_mode_has_biases(scheme->mode) ? 3 : 2,
      .inputs = {mlxq_plan_operand(index, group, weight->dtype, dtype)},
      .scheme = *scheme,
      .dtype = (uint8_t)dtype,
  };
  static const char *const PARTS[] = {".weight", ".scales", ".biases"};
  memcpy(shape, weight->shape, weight->rank * sizeof *shape);
  for (uint32_t i = 0; i < job.output_count; i++) {
    size_t output = 0;
    mlxq_dtype part_dtype = i == 0 ? MLXQ_U32 : scale_dtype;
    shape[weight->rank - 1] = i == 0 ? last / 32 * bits + last % 32 * bits / 32 : last / group;
    mlxq_status status = mlxq_plan_output(plan, layer->path, layer->path_length, PARTS[i], part_dtype, weight->rank,
                                          shape, &output, error);
    if (status != MLXQ_OK) return status;
    uint64_t elems = i == 0 ? group * bits / 32 : 1;
    job.outputs[i] = mlxq_plan_operand(output, elems, part_dtype, part_dtype);
  }
  return mlxq_plan_add_pieces(plan, request, index, &job, group, error);
}

static mlxq_status plan_layer(mlxq_plan *plan, const mlxq_plan_request *request, size_t index, const mlxq_layer *layer,
                              mlxq_error *error) {
  bool quantized = false;
  const mlxq_scheme *scheme = NULL;
  mlxq_status status = mlxq_classify_layer(&quantized, layer, request->config, error);
  if (status == MLXQ_OK && quantized && request->config_speaks) {
    status = mlxq_check_triple(layer, mlxq_quant_config_lookup(request->config, layer->path), error);
  }
  if (status == MLXQ_OK && !quantized) status = choose_scheme(&scheme, layer, request, error);
  if (status != MLXQ_OK) return status;
  if (!scheme) return mlxq_plan_copy(plan, request, index, error);
  return add_quantize_job(plan, request, index, layer, scheme, error);
}

mlxq_status mlxq_plan_quantize(mlxq_plan **plan, const mlxq_plan_request *request, mlxq_error *error) {
  return mlxq_plan_walk(plan, request, plan_layer, false, error);
}
