/* Tiny layers as tools write them, of an input's bytes: each a few tensors that fit together, unless the input bends
 * one of them. */
#ifndef MLXQ_FUZZ_SKETCH_H
#define MLXQ_FUZZ_SKETCH_H

#include "input.h"

#include <mlxq/scheme.h>

typedef struct sketch {
  input *in;
  mlxq_weights *tensors; /* with data */
  bool finite;           /* no floating tensor holds NaN or infinity */
  bool bent;             /* some tensor is not what its layer needs */
} sketch;

typedef enum awq_version { AWQ_GEMM, AWQ_GEMV, AWQ_GEMV_FAST } awq_version;

/* Adds a tensor `path` + `suffix`; one that is there already stays. */
void sketch_tensor(sketch *s, const char *path, const char *suffix, mlxq_dtype dtype, uint32_t rank,
                   const uint64_t *shape);

/* F16, BF16 or F32. */
mlxq_dtype sketch_float(sketch *s);

/* [outs, ins], and now and then a bias. */
void sketch_dense(sketch *s, const char *path, mlxq_dtype dtype, uint64_t outs, uint64_t ins);

void sketch_triple(sketch *s, const char *path, const mlxq_scheme *scheme, mlxq_dtype dtype, uint64_t outs,
                   uint64_t ins);
void sketch_awq(sketch *s, const char *path, awq_version version, mlxq_dtype dtype, uint64_t outs, uint64_t ins,
                uint64_t group);
void sketch_gptq(sketch *s, const char *path, unsigned bits, mlxq_dtype dtype, uint64_t outs, uint64_t ins,
                 uint64_t group);
void sketch_fp8(sketch *s, const char *path, uint64_t outs, uint64_t ins);

#endif
