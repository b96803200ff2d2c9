/* Quantizing and dequantizing a map of weights in memory: plan, then run, from memory into memory. */
#include "base/error.h"
#include "run/run.h"

#include <mlxq/transform.h>

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
