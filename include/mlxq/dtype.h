/* Element types, as safetensors names them. */
#ifndef MLXQ_DTYPE_H
#define MLXQ_DTYPE_H

#include <mlxq/status.h>
#include <stdbool.h>

typedef enum mlxq_dtype {
  MLXQ_BOOL,
  MLXQ_U8,
  MLXQ_I8,
  MLXQ_I16,
  MLXQ_U16,
  MLXQ_I32,
  MLXQ_U32,
  MLXQ_I64,
  MLXQ_U64,
  MLXQ_F16,
  MLXQ_BF16,
  MLXQ_F32,
  MLXQ_F64,
  MLXQ_C64, /* two float32 */
  MLXQ_F8_E4M3,
  MLXQ_F8_E5M2,
  MLXQ_F8_E8M0,
  MLXQ_F6_E2M3, /* six bits an element */
  MLXQ_F6_E3M2,
  MLXQ_F4, /* four bits an element */
  MLXQ_DTYPE_COUNT
} mlxq_dtype;

/* The safetensors name ("BF16"), a constant string. Thread-safe. */
MLXQ_API const char *mlxq_dtype_name(mlxq_dtype dtype);

/* The dtype of a safetensors name. Returns false, `*dtype` untouched, for any other text. Thread-safe. */
MLXQ_API bool mlxq_dtype_parse(const char *name, mlxq_dtype *dtype);

/* Bits an element takes: 4, 6, 8, 16, 32 or 64. Thread-safe. */
MLXQ_API unsigned mlxq_dtype_bits(mlxq_dtype dtype);

/* True for F16, BF16, F32 and F64: the types whose weights can be quantized (F64 after a cast). Thread-safe. */
MLXQ_API bool mlxq_dtype_is_floating(mlxq_dtype dtype);

#endif
