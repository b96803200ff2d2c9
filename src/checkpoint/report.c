#include "checkpoint/report.h"

#include "base/error.h"

#include <stdlib.h>

uint64_t mlxq_total_bytes(const mlxq_weights *tensors) {
  uint64_t bytes = 0;
  for (size_t i = 0; i < tensors->count; i++) bytes += tensors->entries[i].tensor.bytes;
  return bytes;
}

mlxq_status mlxq_report_new(mlxq_report **result, mlxq_weights *tensors, mlxq_quant_config *config, size_t file_count,
                            const char *(*file_name)(const void *user, size_t index), const void *user,
                            mlxq_error *error) {
  mlxq_report *report = mlxq_calloc(1, sizeof *report);
  *result = NULL;
  if (!report) {
    mlxq_weights_free(tensors);
    mlxq_quant_config_free(config);
    return mlxq_fail_memory(error);
  }
  report->tensors = tensors;
  report->config = config;
  report->files = mlxq_calloc(file_count, sizeof *report->files);
  report->tensor_files = mlxq_alloc(tensors->count, sizeof *report->tensor_files);
  if (!report->files || !report->tensor_files) {
    mlxq_report_free(report);
    return mlxq_fail_memory(error);
  }
  for (; report->file_count < file_count; report->file_count++) {
    char *name = mlxq_asprintf("%s", file_name(user, report->file_count));
    if (!name) {
      mlxq_report_free(report);
      return mlxq_fail_memory(error);
    }
    report->files[report->file_count] = name;
  }
  for (size_t i = 0; i < tensors->count; i++) report->tensor_files[i] = tensors->entries[i].file;
  report->total_bytes = mlxq_total_bytes(tensors);
  report->parameters = mlxq_count_parameters(tensors, config);
  if (report->parameters > 0) report->bits_per_weight = (double)report->total_bytes * 8 / (double)report->parameters;
  *result = report;
  return MLXQ_OK;
}

void mlxq_report_free(mlxq_report *report) {
  if (!report) return;
  for (size_t i = 0; report->files && i < report->file_count; i++) free(report->files[i]);
  for (size_t i = 0; i < report->kind_count; i++) free(report->kinds[i].kind);
  free(report->files);
  free(report->tensor_files);
  free(report->kinds);
  free(report->foreign);
  mlxq_weights_free(report->tensors);
  mlxq_quant_config_free(report->config);
  free(report);
}

static const char *source_file_name(const void *checkpoint, size_t index) {
  return ((const mlxq_checkpoint *)checkpoint)->files[index].name;
}

mlxq_status mlxq_inspect(mlxq_report **report, const char *source, mlxq_error *error) {
  mlxq_checkpoint *checkpoint = NULL;
  mlxq_quant_config *config = NULL;
  char *foreign = NULL;
  *report = NULL;
  mlxq_status status = mlxq_checkpoint_open(&checkpoint, source, error);
  if (status == MLXQ_OK) status = mlxq_checkpoint_quantization(&config, checkpoint, error);
  if (status != MLXQ_OK) goto cleanup;
  bool guessed = false;
  const char *method = NULL;
  status = mlxq_checkpoint_foreign(&method, &guessed, checkpoint, error);
  if (status != MLXQ_OK) {
    mlxq_quant_config_free(config);
    goto cleanup;
  }
  if (method && !(foreign = mlxq_asprintf("%s", method))) {
    mlxq_quant_config_free(config);
    status = mlxq_fail_memory(error);
    goto cleanup;
  }
  status =
      mlxq_report_new(report, checkpoint->tensors, config, checkpoint->file_count, source_file_name, checkpoint, error);
  checkpoint->tensors = NULL;
  if (status == MLXQ_OK) {
    (*report)->foreign = foreign;
    foreign = NULL;
  }
cleanup:
  free(foreign);
  mlxq_checkpoint_free(checkpoint);
  return status;
}
