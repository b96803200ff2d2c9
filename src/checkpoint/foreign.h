/* How a checkpoint in another format says it is quantized: the `quantization_config` of config.json, or the file that
 * older packers put beside it. */
#ifndef MLXQ_CHECKPOINT_FOREIGN_H
#define MLXQ_CHECKPOINT_FOREIGN_H

#include "checkpoint/checkpoint.h"

/* What AutoAWQ, AutoGPTQ and GPTQModel write. Texts belong to the object `owner`. */
typedef struct mlxq_foreign_config {
  struct json_object *owner;
  int64_t bits;       /* 0 where nothing is said */
  int64_t group_size; /* -1, also where nothing is said: see the scales */
  bool zero_point;
  bool symmetric; /* GPTQ: `sym`; true, as its packers have it, where nothing is said */
  bool says_symmetric;
  const char *version;   /* AWQ: "", "gemm", "gemv", ...; as it is spelt */
  const char *format;    /* GPTQ: checkpoint_format or format; "" where nothing is said */
  bool gptqmodel;        /* GPTQ: meta.quantizer names GPTQModel */
  int gptqmodel_version; /* ... its major version; 0 where that is not said */
  bool dynamic;          /* GPTQ: layers may have bits and group sizes of their own */
} mlxq_foreign_config;

/* Reads it for `method`, "awq" or "gptq". What is not said has its default. MLXQ_PARSE where a value
 * has another type. The caller releases it with mlxq_foreign_config_free, also after a failure. */
mlxq_status mlxq_foreign_config_read(mlxq_foreign_config *foreign, const mlxq_checkpoint *checkpoint,
                                     const char *method, mlxq_error *error);
void mlxq_foreign_config_free(mlxq_foreign_config *foreign);

#endif
