#include "kernels/x86/cpu.h"

#include <cpuid.h>
#include <stdint.h>

/* XCR0: the register states that the operating system saves. Only where CPUID says OSXSAVE. */
static uint64_t saved_states(void) {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t)high << 32 | low;
}

bool mlxq_x86_has_avx2(void) {
  const unsigned needed = bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C;
  const uint64_t xmm_and_ymm = 6;
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & needed) != needed) return false;
  if ((saved_states() & xmm_and_ymm) != xmm_and_ymm) return false;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ebx & bit_AVX2) != 0;
}
