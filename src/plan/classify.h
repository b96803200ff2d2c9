/* Is a layer quantized already? The rules for a `.weight` with or without `.scales` and `.biases`. */
#ifndef MLXQ_PLAN_CLASSIFY_H
#define MLXQ_PLAN_CLASSIFY_H

#include "tensor/tensor_map.h"

#include <mlxq/scheme.h>

/* The tensors of one layer. */
typedef struct mlxq_layer {
  const char *path; /* NUL-terminated, owned by whoever fills this */
  size_t path_length;
  const mlxq_tensor *weight, *scales, *biases; /* the latter two NULL where absent */
} mlxq_layer;

/* Sets `*quantized` to whether the layer has a valid triple (false: neither scales nor biases). A triple that is not
 * valid is an error, as mlxq_quantize_weights documents. */
mlxq_status mlxq_classify_layer(bool *quantized, const mlxq_layer *layer, const mlxq_quant_config *config,
                                mlxq_error *error);

/* MLXQ_OUT_OF_RANGE, naming the layer, for a scheme that MLX lacks. */
mlxq_status mlxq_check_layer_scheme(const mlxq_layer *layer, const mlxq_scheme *scheme, mlxq_error *error);

/* The rule both directions share: biases are there in affine mode and in no other. */
mlxq_status mlxq_check_biases(const mlxq_layer *layer, mlxq_mode mode, mlxq_error *error);

/* Rank and leading dimensions of `other` (scales or biases, `part` its suffix) are the weight's. */
mlxq_status mlxq_check_leading(const mlxq_layer *layer, const mlxq_tensor *other, const char *part, mlxq_error *error);

/* An error of the layer whose key is the layer's path followed by `part`. */
mlxq_status mlxq_fail_part(mlxq_error *error, mlxq_status status, const mlxq_layer *layer, const char *part,
                           const char *format, ...) __attribute__((format(printf, 5, 6)));

#endif
