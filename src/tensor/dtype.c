#include <mlxq/dtype.h>
#include <string.h>

static const struct {
  const char *name;
  unsigned bits;
} DTYPES[MLXQ_DTYPE_COUNT] = {
    [MLXQ_BOOL] = {"BOOL", 8},       [MLXQ_U8] = {"U8", 8},           [MLXQ_I8] = {"I8", 8},
    [MLXQ_I16] = {"I16", 16},        [MLXQ_U16] = {"U16", 16},        [MLXQ_I32] = {"I32", 32},
    [MLXQ_U32] = {"U32", 32},        [MLXQ_I64] = {"I64", 64},        [MLXQ_U64] = {"U64", 64},
    [MLXQ_F16] = {"F16", 16},        [MLXQ_BF16] = {"BF16", 16},      [MLXQ_F32] = {"F32", 32},
    [MLXQ_F64] = {"F64", 64},        [MLXQ_C64] = {"C64", 64},        [MLXQ_F8_E4M3] = {"F8_E4M3", 8},
    [MLXQ_F8_E5M2] = {"F8_E5M2", 8}, [MLXQ_F8_E8M0] = {"F8_E8M0", 8}, [MLXQ_F6_E2M3] = {"F6_E2M3", 6},
    [MLXQ_F6_E3M2] = {"F6_E3M2", 6}, [MLXQ_F4] = {"F4", 4},
};

const char *mlxq_dtype_name(mlxq_dtype dtype) {
  return (unsigned)dtype < MLXQ_DTYPE_COUNT ? DTYPES[dtype].name : "unknown";
}

bool mlxq_dtype_parse(const char *name, mlxq_dtype *dtype) {
  for (unsigned i = 0; i < MLXQ_DTYPE_COUNT; i++) {
    if (strcmp(name, DTYPES[i].name) == 0) {
      *dtype = (mlxq_dtype)i;
      return true;
    }
  }
  return false;
}

unsigned mlxq_dtype_bits(mlxq_dtype dtype) {
  return (unsigned)dtype < MLXQ_DTYPE_COUNT ? DTYPES[dtype].bits : 0;
}

bool mlxq_dtype_is_floating(mlxq_dtype dtype) {
  return dtype == MLXQ_F16 || dtype == MLXQ_BF16 || dtype == MLXQ_F32 || dtype == MLXQ_F64;
}
