/* What this x86 processor and its operating system can run. */
#ifndef MLXQ_KERNELS_X86_CPU_H
#define MLXQ_KERNELS_X86_CPU_H

#include <stdbool.h>

/* AVX2, FMA and F16C, with the YMM registers saved by the operating system. Thread-safe. */
bool mlxq_x86_has_avx2(void);

/* Those and AVX-512 F, BW, DQ and VL, with the ZMM and mask registers saved too. Thread-safe. */
bool mlxq_x86_has_avx512(void);

#endif
