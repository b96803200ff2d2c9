#include "plan/classify.h"

#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

mlxq_status mlxq_fail_part(mlxq_error *error, mlxq_status status, const mlxq_layer *layer, const char *part,
                           const char *format, ...) {
  if (!error) return status;
  char message[MLXQ_ERROR_MESSAGE_BYTES];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  char *key = mlxq_asprintf("%s%s", layer->path, part);
  mlxq_fail(error, status, layer->path, key, "%s", message);
  free(key);
  return status;
}

mlxq_status mlxq_check_layer_scheme(const mlxq_layer *layer, const mlxq_scheme *scheme, mlxq_error *error) {
  return mlxq_error_at_layer(error, mlxq_scheme_check(scheme, error), layer->path);
}

mlxq_status mlxq_check_biases(const mlxq_layer *layer, mlxq_mode mode, mlxq_error *error) {
  if (mlxq_mode_has_biases(mode) && !layer->biases) {
    return mlxq_fail_part(error, MLXQ_MISSING_KEY, layer, ".biases",
                          "missing: an affine layer has biases beside its scales");
  }
  if (!mlxq_mode_has_biases(mode) && layer->biases) {
    return mlxq_fail_part(error, MLXQ_KEY_COLLISION, layer, ".biases", "must not be there: %s layers have no biases",
                          mlxq_mode_name(mode));
  }
  return MLXQ_OK;
}

mlxq_status mlxq_check_leading(const mlxq_layer *layer, const mlxq_tensor *other, const char *part, mlxq_error *error) {
  const mlxq_tensor *weight = layer->weight;
  if (other->rank != weight->rank) {
    return mlxq_fail_part(error, MLXQ_LENGTH_MISMATCH, layer, part, "has %u dimensions, but the weight has %u",
                          other->rank, weight->rank);
  }
  for (uint32_t i = 0; i + 1 < weight->rank; i++) {
    if (other->shape[i] != weight->shape[i]) {
      return mlxq_fail_part(error, MLXQ_SHAPE_MISMATCH, layer, part, "dimension %u is %llu, but the weight's is %llu",
                            i, (unsigned long long)other->shape[i], (unsigned long long)weight->shape[i]);
    }
  }
  return MLXQ_OK;
}

mlxq_status mlxq_classify_layer(bool *quantized, const mlxq_layer *layer, const mlxq_quant_config *config,
                                mlxq_error *error) {
  *quantized = false;
  if (!layer->scales) {
    if (!layer->biases) return MLXQ_OK;
    return mlxq_fail_part(error, MLXQ_MISSING_KEY, layer, ".scales",
                          "missing: there are biases, which never come without scales");
  }
  const mlxq_layer_option *option = mlxq_quant_config_layer(config, layer->path);
  if (option && option->kind == MLXQ_LAYER_SKIP) {
    return mlxq_fail_part(error, MLXQ_KEY_COLLISION, layer, ".scales",
                          "must not be there: the configuration says that the layer is not quantized");
  }
  const mlxq_scheme *scheme = mlxq_quant_config_lookup(config, layer->path);
  if (!scheme) {
    return mlxq_fail(error, MLXQ_INVARIANT, layer->path, NULL,
                     "the layer has scales, but the configuration has no scheme for it");
  }
  mlxq_status status = mlxq_check_biases(layer, scheme->mode, error);
  if (status != MLXQ_OK) return status;
  if (layer->weight->dtype != MLXQ_U32) {
    return mlxq_fail_part(error, MLXQ_UNSUPPORTED_DTYPE, layer, ".weight",
                          "is %s beside scales; packed weights are U32", mlxq_dtype_name(layer->weight->dtype));
  }
  if (layer->weight->rank < 2) {
    return mlxq_fail_part(error, MLXQ_RANK_MISMATCH, layer, ".weight",
                          "has %u dimensions; quantized weights have 2 or more", layer->weight->rank);
  }
  status = mlxq_check_leading(layer, layer->scales, ".scales", error);
  *quantized = status == MLXQ_OK;
  return status;
}
