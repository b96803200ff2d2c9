#include "cli.h"

mlxq_status import(mlxq_report **report, const arguments *parsed, mlxq_error *error) {
  mlxq_import_options options = MLXQ_IMPORT_OPTIONS_INIT;
  options.common = parsed->quantize.common;
  options.from = parsed->from;
  options.requantize_bits = parsed->requantize_bits;
  options.exact = parsed->exact;
  return mlxq_import_checkpoint(report, parsed->source, parsed->destination, &options, error);
}
