/* Is a layer quantized already? The rules for a `.weight` with or without `.scales` and `.biases`. */
#ifndef MLXQ_PLAN_CLASSIFY_H
#define MLXQ_PLAN_CLASSIFY_H

#include "base/error.h"
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

/* Everything of a triple fits its scheme, as mlxq_dequantize_weights documents: biases, legal scheme, dtypes, ranks,
 * leading dimensions, last axes. The layer has scales. */
mlxq_status mlxq_check_triple(const mlxq_layer *layer, const mlxq_scheme *scheme, mlxq_error *error);

/* The same for those who list flaws: tells `flaws` of everything that does not fit, and returns how many that are. A
 * NULL scheme is unknown: only what every scheme asks for is checked then. */
size_t mlxq_survey_triple(const mlxq_layer *layer, const mlxq_scheme *scheme, const mlxq_flaws *flaws);

/* An error of the layer whose key is the layer's path followed by `part`. */
mlxq_status mlxq_fail_part(mlxq_error *error, mlxq_status status, const mlxq_layer *layer, const char *part,
                           const char *format, ...) __attribute__((format(printf, 5, 6)));

#endif
