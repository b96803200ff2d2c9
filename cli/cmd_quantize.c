#include "cli.h"

mlxq_status quantize(mlxq_report **report, const arguments *parsed, mlxq_error *error) {
  return mlxq_quantize_checkpoint(report, parsed->source, parsed->destination, &parsed->quantize, error);
}
