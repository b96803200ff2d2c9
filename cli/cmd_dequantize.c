#include "cli.h"

mlxq_status dequantize(mlxq_report **report, const arguments *parsed, mlxq_error *error) {
  mlxq_dequantize_options options = MLXQ_DEQUANTIZE_OPTIONS_INIT;
  options.common = parsed->quantize.common;
  options.scheme = parsed->has_scheme ? &parsed->quantize.scheme : NULL;
  return mlxq_dequantize_checkpoint(report, parsed->source, parsed->destination, &options, error);
}
