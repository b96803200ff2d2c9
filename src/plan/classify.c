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

/* Biases are there in affine mode and in no other. */
static mlxq_status check_biases(const mlxq_layer *layer, mlxq_mode mode, mlxq_error *error) {
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

/* Rank and leading dimensions of `other` (scales or biases, `part` its suffix) are the weight's. */
static mlxq_status check_leading(const mlxq_layer *layer, const mlxq_tensor *other, const char *part,
                                 mlxq_error *error) {
  const mlxq_tensor *weight = layer->weight;
  if (other->rank != weight->rank) {
    return mlxq_fail_part(error, MLXQ_LENGTH_MISMATCH, layer, part, "has rank %u, but the weight has rank %u",
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
  mlxq_status status = check_biases(layer, scheme->mode, error);
  if (status != MLXQ_OK) return status;
  if (layer->weight->dtype != MLXQ_U32) {
    return mlxq_fail_part(error, MLXQ_UNSUPPORTED_DTYPE, layer, ".weight",
                          "is %s beside scales; packed weights are U32", mlxq_dtype_name(layer->weight->dtype));
  }
  if (layer->weight->rank < 2) {
    return mlxq_fail_part(error, MLXQ_RANK_MISMATCH, layer, ".weight",
                          "has rank %u; quantized weights have rank 2 or more", layer->weight->rank);
  }
  status = check_leading(layer, layer->scales, ".scales", error);
  *quantized = status == MLXQ_OK;
  return status;
}

/* The packed last axis, the groups and the scheme fit each other. */
static mlxq_status check_last_axes(const mlxq_layer *layer, const mlxq_scheme *scheme, mlxq_error *error) {
  const mlxq_tensor *weight = layer->weight, *scales = layer->scales;
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

static mlxq_status check_scale_dtypes(const mlxq_layer *layer, mlxq_mode mode, mlxq_error *error) {
  mlxq_dtype scales = layer->scales->dtype;
  if (!mlxq_mode_has_biases(mode)) {
    if (scales == MLXQ_U8) return MLXQ_OK;
    return mlxq_fail_part(error, MLXQ_UNSUPPORTED_DTYPE, layer, ".scales", "is %s; %s scales are U8",
                          mlxq_dtype_name(scales), mlxq_mode_name(mode));
  }
  if (scales != MLXQ_F16 && scales != MLXQ_BF16 && scales != MLXQ_F32) {
    return mlxq_fail_part(error, MLXQ_UNSUPPORTED_DTYPE, layer, ".scales", "is %s; affine scales are F16, BF16 or F32",
                          mlxq_dtype_name(scales));
  }
  if (layer->biases && layer->biases->dtype != scales) {
    return mlxq_fail_part(error, MLXQ_UNSUPPORTED_DTYPE, layer, ".biases", "is %s, but the scales are %s",
                          mlxq_dtype_name(layer->biases->dtype), mlxq_dtype_name(scales));
  }
  return MLXQ_OK;
}

static mlxq_status check_packed(const mlxq_layer *layer, mlxq_error *error) {
  const mlxq_tensor *weight = layer->weight;
  if (weight->dtype != MLXQ_U32) {
    return mlxq_fail_part(error, MLXQ_UNSUPPORTED_DTYPE, layer, ".weight", "is %s; packed weights are U32",
                          mlxq_dtype_name(weight->dtype));
  }
  if (weight->rank < 2) {
    return mlxq_fail_part(error, MLXQ_RANK_MISMATCH, layer, ".weight",
                          "has rank %u; quantized weights have rank 2 or more", weight->rank);
  }
  return MLXQ_OK;
}

mlxq_status mlxq_check_triple(const mlxq_layer *layer, const mlxq_scheme *scheme, mlxq_error *error) {
  mlxq_status status = check_biases(layer, scheme->mode, error);
  if (status == MLXQ_OK) status = mlxq_check_layer_scheme(layer, scheme, error);
  if (status == MLXQ_OK) status = check_packed(layer, error);
  if (status != MLXQ_OK) return status;
  status = check_leading(layer, layer->scales, ".scales", error);
  if (status == MLXQ_OK && layer->biases) status = check_leading(layer, layer->biases, ".biases", error);
  if (status == MLXQ_OK) status = check_last_axes(layer, scheme, error);
  return status == MLXQ_OK ? check_scale_dtypes(layer, scheme->mode, error) : status;
}

static size_t tell(const mlxq_flaws *flaws, mlxq_status status, const mlxq_error *flaw) {
  mlxq_flaws_take(flaws, status, flaw);
  return status != MLXQ_OK;
}

size_t mlxq_survey_triple(const mlxq_layer *layer, const mlxq_scheme *scheme, const mlxq_flaws *flaws) {
  mlxq_error flaw;
  bool is_bytes = layer->scales->dtype == MLXQ_U8;
  mlxq_mode mode = scheme ? scheme->mode : is_bytes ? MLXQ_MXFP4 : MLXQ_AFFINE;
  size_t count = tell(flaws, check_biases(layer, mode, &flaw), &flaw);
  mlxq_layer judged = *layer;
  if (!mlxq_mode_has_biases(mode)) judged.biases = NULL; /* that they are there is told already */
  if (scheme) count += tell(flaws, mlxq_check_layer_scheme(&judged, scheme, &flaw), &flaw);
  count += tell(flaws, check_packed(&judged, &flaw), &flaw);
  count += tell(flaws, check_leading(&judged, judged.scales, ".scales", &flaw), &flaw);
  if (judged.biases) count += tell(flaws, check_leading(&judged, judged.biases, ".biases", &flaw), &flaw);
  bool comparable = judged.weight->rank >= 2 && judged.scales->rank == judged.weight->rank &&
                    (!judged.biases || judged.biases->rank == judged.weight->rank);
  if (scheme && comparable && judged.weight->dtype == MLXQ_U32 && mlxq_scheme_check(scheme, NULL) == MLXQ_OK) {
    count += tell(flaws, check_last_axes(&judged, scheme, &flaw), &flaw);
  }
  return count + tell(flaws, check_scale_dtypes(&judged, mode, &flaw), &flaw);
}
