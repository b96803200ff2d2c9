#include "kernels/kernels.h"

#include "kernels/kernel_list.h"
#if defined(__x86_64__)
#include "kernels/x86/cpu.h"
#endif

#include <pthread.h>

mlxq_format mlxq_format_of(const mlxq_scheme *scheme) {
  switch (scheme->mode) {
    case MLXQ_MXFP4:
      return MLXQ_FORMAT_MXFP4;
    case MLXQ_MXFP8:
      return MLXQ_FORMAT_MXFP8;
    case MLXQ_NVFP4:
      return MLXQ_FORMAT_NVFP4;
    default:
      break;
  }
  switch (scheme->bits) {
    case 2:
      return MLXQ_FORMAT_AFFINE2;
    case 3:
      return MLXQ_FORMAT_AFFINE3;
    case 4:
      return MLXQ_FORMAT_AFFINE4;
    case 5:
      return MLXQ_FORMAT_AFFINE5;
    case 6:
      return MLXQ_FORMAT_AFFINE6;
    default:
      return MLXQ_FORMAT_AFFINE8;
  }
}

const char *mlxq_isa_name(mlxq_isa isa) {
  static const char *const NAMES[MLXQ_ISA_COUNT] = {
      [MLXQ_ISA_REF] = "ref", [MLXQ_ISA_AVX2] = "avx2", [MLXQ_ISA_AVX512] = "avx512", [MLXQ_ISA_NEON] = "neon"};
  return (unsigned)isa < MLXQ_ISA_COUNT ? NAMES[isa] : "unknown";
}

bool mlxq_isa_usable(mlxq_isa isa) {
  switch (isa) {
    case MLXQ_ISA_REF:
#if defined(__aarch64__) /* every such processor has it */
    case MLXQ_ISA_NEON:
#endif
      return true;
#if defined(__x86_64__)
    case MLXQ_ISA_AVX2:
      return mlxq_x86_has_avx2();
    case MLXQ_ISA_AVX512:
      return mlxq_x86_has_avx512();
#endif
    default:
      return false;
  }
}

/* tables[limit]: the reference first, then each usable ISA up to the limit over it. */
static mlxq_kernel_table tables[MLXQ_ISA_COUNT];

static void fill_one(mlxq_kernel_table *table, mlxq_isa level) {
#define MLXQ_QUANTIZE(format, isa, function) \
  if (MLXQ_ISA_##isa == level) table->quantize[MLXQ_FORMAT_##format] = function;
#define MLXQ_DEQUANTIZE(format, isa, function) \
  if (MLXQ_ISA_##isa == level) table->dequantize[MLXQ_FORMAT_##format] = function;
#define MLXQ_CAST(isa, function) \
  if (MLXQ_ISA_##isa == level) table->cast = function;
#define MLXQ_TRANSPOSE(isa, function) \
  if (MLXQ_ISA_##isa == level) table->transpose = function;
#define MLXQ_FP8(isa, function) \
  if (MLXQ_ISA_##isa == level) table->fp8 = function;
#define MLXQ_REPACK_AWQ(isa, function) \
  if (MLXQ_ISA_##isa == level) table->repack_awq = function;
#include "kernels/kernels.def"
}

static void fill_tables(void) {
  for (unsigned limit = 0; limit < MLXQ_ISA_COUNT; limit++) {
    if (limit > 0) tables[limit] = tables[limit - 1];
    if (mlxq_isa_usable((mlxq_isa)limit)) fill_one(&tables[limit], (mlxq_isa)limit);
  }
}

const mlxq_kernel_table *mlxq_kernels(mlxq_isa limit) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, fill_tables);
  return &tables[(unsigned)limit < MLXQ_ISA_COUNT ? (unsigned)limit : MLXQ_ISA_COUNT - 1u];
}
