/* Quantizing and dequantizing a map of weights in memory: plan, then run, from memory into memory. */
#include "base/error.h"
#include "run/run.h"

#include "plan/import.h"

#include <mlxq/import.h>
#include <mlxq/transform.h>
#include <stdlib.h>
#include <string.h>

static mlxq_status check_options(mlxq_transform_options *options, const mlxq_transform_options *given,
                                 mlxq_error *error) {
  *options = given ? *given : (mlxq_transform_options)MLXQ_TRANSFORM_OPTIONS_INIT;
  if (options->version != MLXQ_TRANSFORM_OPTIONS_VERSION) {
    return mlxq_fail(error, MLXQ_USAGE, NULL, "version", "unknown version %u of the options", options->version);
  }
  if (options->profile != MLXQ_PROFILE_CPU && options->profile != MLXQ_PROFILE_GPU) {
    return mlxq_fail(error, MLXQ_USAGE, NULL, "profile", "unknown profile %d", (int)options->profile);
  }
  if (options->dtype != MLXQ_F16 && options->dtype != MLXQ_BF16 && options->dtype != MLXQ_F32) {
    return mlxq_fail(error, MLXQ_UNSUPPORTED_DTYPE, NULL, "dtype", "is %s; F16, BF16 and F32 can be made",
                     mlxq_dtype_name(options->dtype));
  }
  return MLXQ_OK;
}

/* Runs a plan into memory and takes its outputs; releases the plan. */
static mlxq_status run_in_memory(mlxq_weights **out, mlxq_plan *plan, const mlxq_transform_options *options,
                                 mlxq_error *error) {
  mlxq_status status = MLXQ_OK;
  for (size_t i = 0; status == MLXQ_OK && i < plan->outputs->count; i++) {
    void *data;
    status = mlxq_weights_allocate(plan->outputs, i, &data, error);
  }
  mlxq_run_request request = {.plan = plan, .threads = options->threads, .isa = MLXQ_ISA_COUNT};
  if (status == MLXQ_OK) status = mlxq_run(&request, error);
  if (status == MLXQ_OK) {
    *out = plan->outputs;
    plan->outputs = NULL;
  }
  mlxq_plan_free(plan);
  return status;
}

mlxq_status mlxq_quantize_weights(mlxq_weights **out, const mlxq_weights *in, const mlxq_quant_config *config,
                                  mlxq_eligible_fn eligible, void *user, const mlxq_transform_options *options,
                                  mlxq_error *error) {
  mlxq_plan *plan = NULL;
  mlxq_transform_options chosen;
  *out = NULL;
  mlxq_status status = check_options(&chosen, options, error);
  if (status != MLXQ_OK) return status;
  mlxq_plan_request request = {.source = in,
                               .config = config,
                               .eligible = eligible,
                               .eligible_user = user,
                               .profile = chosen.profile,
                               .allow_nonfinite = chosen.allow_nonfinite};
  status = mlxq_plan_quantize(&plan, &request, error);
  return status == MLXQ_OK ? run_in_memory(out, plan, &chosen, error) : status;
}

mlxq_status mlxq_dequantize_weights(mlxq_weights **out, const mlxq_weights *in, const mlxq_quant_config *config,
                                    const mlxq_transform_options *options, mlxq_error *error) {
  mlxq_plan *plan = NULL;
  mlxq_transform_options chosen;
  *out = NULL;
  mlxq_status status = check_options(&chosen, options, error);
  if (status != MLXQ_OK) return status;
  mlxq_plan_request request = {
      .source = in, .config = config, .profile = chosen.profile, .scale_only_dtype = chosen.dtype};
  status = mlxq_plan_dequantize(&plan, &request, error);
  return status == MLXQ_OK ? run_in_memory(out, plan, &chosen, error) : status;
}

mlxq_status mlxq_import_awq(mlxq_weights **out, mlxq_quant_config **config, const mlxq_weights *in,
                            const mlxq_awq_options *options, const mlxq_transform_options *transform,
                            mlxq_error *error) {
  mlxq_plan *plan = NULL;
  mlxq_transform_options chosen;
  *out = NULL;
  *config = NULL;
  mlxq_status status = check_options(&chosen, transform, error);
  if (status != MLXQ_OK) return status;
  if (options->struct_version != MLXQ_AWQ_OPTIONS_VERSION) {
    return mlxq_fail(error, MLXQ_USAGE, NULL, "struct_version", "unknown version %u of the options",
                     options->struct_version);
  }
  mlxq_import_request request = {.common = {.source = in, .profile = chosen.profile},
                                 .config = {.bits = options->bits,
                                            .group_size = options->group_size,
                                            .zero_point = options->zero_point,
                                            .version = options->version ? options->version : "",
                                            .format = ""}};
  status = mlxq_plan_import_awq(&plan, &request, error);
  if (status == MLXQ_OK) status = run_in_memory(out, plan, &chosen, error);
  if (status == MLXQ_OK) {
    *config = request.result;
  } else {
    mlxq_quant_config_free(request.result);
  }
  return status;
}

mlxq_status mlxq_unpack_awq(uint32_t **codes, uint64_t shape[2], const mlxq_tensor *packed, mlxq_error *error) {
  static const unsigned SHIFTS[] = {0, 16, 4, 20, 8, 24, 12, 28};
  const uint32_t *words = packed->data;
  uint64_t columns, count;
  *codes = NULL;
  if (packed->rank != 2) {
    return mlxq_fail(error, MLXQ_RANK_MISMATCH, NULL, packed->name, "has rank %u; it must have two dimensions",
                     packed->rank);
  }
  if (packed->dtype != MLXQ_U32 && packed->dtype != MLXQ_I32) {
    return mlxq_fail(error, MLXQ_UNSUPPORTED_DTYPE, NULL, packed->name, "is %s; it must be U32 or I32",
                     mlxq_dtype_name(packed->dtype));
  }
  if (!mlxq_mul_u64(&columns, packed->shape[1], 8) || !mlxq_mul_u64(&count, packed->shape[0], columns)) {
    return mlxq_fail(error, MLXQ_OVERFLOW, NULL, packed->name, "the unpacked size does not fit 63 bits");
  }
  uint32_t *unpacked = count > SIZE_MAX ? NULL : mlxq_alloc((size_t)count, sizeof *unpacked);
  if (!unpacked) return mlxq_fail_memory(error);
  for (size_t i = 0; i < count; i++) {
    uint32_t word;
    memcpy(&word, words + i / 8, sizeof word);
    unpacked[i] = word >> SHIFTS[i % 8] & 15u;
  }
  shape[0] = packed->shape[0];
  shape[1] = columns;
  *codes = unpacked;
  return MLXQ_OK;
}
