/* The `quantization` block as a json-c object, for rooms that hold the rest of config.json too. */
#ifndef MLXQ_SCHEME_QUANT_CONFIG_H
#define MLXQ_SCHEME_QUANT_CONFIG_H

#include "base/error.h"

#include <json-c/json_object.h>
#include <mlxq/scheme.h>

/* Reads a parsed block, which stays the caller's. `*config` is NULL where the block is (null). Errors as
 * mlxq_quant_config_parse. */
mlxq_status mlxq_quant_config_from_json(mlxq_quant_config **config, struct json_object *block, mlxq_error *error);

/* The same for those who list flaws: layers whose value is wrong are told to `flaws` and left out. */
mlxq_status mlxq_quant_config_survey(mlxq_quant_config **config, struct json_object *block, const mlxq_flaws *flaws,
                                     mlxq_error *error);

/* The block as a new object, which the caller releases with json_object_put. Blocks and layers that were read without
 * a mode are written without one. MLXQ_INVARIANT where there is no default scheme. */
mlxq_status mlxq_quant_config_to_object(struct json_object **block, const mlxq_quant_config *config, mlxq_error *error);

#endif
