#include "kernels/x86/cpu.h"

#include <cpuid.h>
#include <stdint.h>

/* XCR0: the register states that the operating system saves. Only where CPUID says OSXSAVE. */
static uint64_t saved_states(void) {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t)high << 32 | low;
}

/* Whether the processor has these features (EBX of CPUID's leaf 7) beside AVX, FMA and F16C, and the operating system
 * saves these states. */
static bool has(unsigned features, uint64_t states) {
  const unsigned needed = bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C;
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & needed) != needed) return false;
  if ((saved_states() & states) != states) return false;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ebx & features) == features;
}

bool mlxq_x86_has_avx2(void) {
  const uint64_t xmm_and_ymm = 0x06;
  return has(bit_AVX2, xmm_and_ymm);
}

bool mlxq_x86_has_avx512(void) {
  const uint64_t masks_and_zmm = 0xE6; /* the upper halves of ZMM0 to 15, and ZMM16 to 31, are two states */
  return has(bit_AVX2 | bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL, masks_and_zmm);
}
