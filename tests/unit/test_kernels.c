/* Every usable kernel of kernels.def against slow oracles written here from docs/numerics.md: casts, the code and
 * scale encoders at every rounding boundary, the packed bit stream, and the edges (NaN, -0, overflow, no group,
 * buffers aligned to their element only). What whole tensors come to is golden/test_golden.c's. */
#include "kernels/kernel_list.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- The kernels under test ------------------------------------------------------------------------------------ */

static const struct {
  mlxq_format format;
  mlxq_isa isa;
  mlxq_quantize_fn run;
} QUANTIZERS[] = {
#define MLXQ_QUANTIZE(format, isa, function) {MLXQ_FORMAT_##format, MLXQ_ISA_##isa, function},
#include "kernels/kernels.def"
};

static const struct {
  mlxq_format format;
  mlxq_isa isa;
  mlxq_dequantize_fn run;
} DEQUANTIZERS[] = {
#define MLXQ_DEQUANTIZE(format, isa, function) {MLXQ_FORMAT_##format, MLXQ_ISA_##isa, function},
#include "kernels/kernels.def"
};

static const struct {
  mlxq_isa isa;
  mlxq_cast_fn run;
} CASTS[] = {
#define MLXQ_CAST(isa, function) {MLXQ_ISA_##isa, function},
#include "kernels/kernels.def"
};

#define FOR_QUANTIZERS(k)                        \
  for (size_t k = 0; k < COUNT(QUANTIZERS); k++) \
    if (mlxq_isa_usable(QUANTIZERS[k].isa))
#define FOR_DEQUANTIZERS(k)                        \
  for (size_t k = 0; k < COUNT(DEQUANTIZERS); k++) \
    if (mlxq_isa_usable(DEQUANTIZERS[k].isa))
#define FOR_CASTS(k)                        \
  for (size_t k = 0; k < COUNT(CASTS); k++) \
    if (mlxq_isa_usable(CASTS[k].isa))
#define FOR_PROFILES(profile) for (mlxq_profile profile = MLXQ_PROFILE_CPU; profile <= MLXQ_PROFILE_GPU; profile++)

static const unsigned FORMAT_BITS[MLXQ_FORMAT_COUNT] = {2, 3, 4, 5, 6, 8, 4, 8, 4};

static bool is_affine(mlxq_format format) {
  return format <= MLXQ_FORMAT_AFFINE8;
}

static bool is_mx(mlxq_format format) {
  return format == MLXQ_FORMAT_MXFP4 || format == MLXQ_FORMAT_MXFP8;
}

/* The group sizes of a format: 32 << i for affine, else one. */
static size_t group_sizes(mlxq_format format) {
  return is_affine(format) ? 3 : 1;
}

static size_t group_size_at(mlxq_format format, size_t i) {
  return format == MLXQ_FORMAT_NVFP4 ? 16 : (size_t)32 << i;
}

static const mlxq_dtype DTYPES[] = {MLXQ_F16, MLXQ_BF16, MLXQ_F32};

/* ---- Oracles --------------------------------------------------------------------------------------------------- */

/* A float format with codes 0 .. last for the magnitudes 0 .. its largest, or infinity. */
typedef struct small_float {
  int mantissa_bits, bias;
  uint32_t last;
} small_float;

static const small_float F16 = {10, 15, 0x7C00}, BF16 = {7, 127, 0x7F80}; /* last: infinity, as the next power of two */
static const small_float E4M3 = {3, 7, 0x7E}, E2M1 = {1, 1, 7};           /* last: the largest, which saturates */

static double value_of(const small_float *format, uint32_t code) {
  uint32_t mantissa = code & ((1u << format->mantissa_bits) - 1);
  int exponent = (int)(code >> format->mantissa_bits);
  if (exponent == 0) return ldexp(mantissa, 1 - format->bias - format->mantissa_bits);
  return ldexp((double)mantissa + (1 << format->mantissa_bits), exponent - format->bias - format->mantissa_bits);
}

/* The nearest code of |x|, ties to the even one. Differences of these doubles are exact where it matters. */
static uint32_t nearest(const small_float *format, double x) {
  uint32_t low = 0, high = format->last;
  x = fabs(x);
  if (x >= value_of(format, high)) return high;
  while (high - low > 1) { /* value(low) <= x < value(high) */
    uint32_t middle = low + (high - low) / 2;
    if (value_of(format, middle) <= x) {
      low = middle;
    } else {
      high = middle;
    }
  }
  double below = x - value_of(format, low), above = value_of(format, high) - x;
  if (below == above) return low % 2 == 0 ? low : high;
  return below < above ? low : high;
}

static float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

static uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

static uint16_t oracle_f16(float x) {
  return (uint16_t)(nearest(&F16, (double)x) | (signbit(x) ? 0x8000u : 0));
}

static uint16_t oracle_bf16(float x) {
  return (uint16_t)(nearest(&BF16, (double)x) | (signbit(x) ? 0x8000u : 0));
}

static float oracle_widen(const small_float *format, uint32_t bits) {
  uint32_t magnitude = bits & 0x7FFFu;
  double x = magnitude == format->last ? (double)INFINITY : value_of(format, magnitude);
  return (float)(bits & 0x8000u ? -x : x);
}

/* T(x), as float32. */
static float oracle_round(mlxq_dtype dtype, double x) {
  const small_float *format = dtype == MLXQ_F16 ? &F16 : &BF16;
  if (dtype == MLXQ_F32 || isnan(x) || isinf(x)) return (float)x;
  return oracle_widen(format, nearest(format, x) | (signbit(x) ? 0x8000u : 0));
}

static float oracle_e4m3(uint8_t code) {
  if ((code & 0x7F) == 0x7F) return NAN;
  return (float)(code & 0x80 ? -value_of(&E4M3, code & 0x7Fu) : value_of(&E4M3, code));
}

static float oracle_e2m1(unsigned code) {
  return (float)(code & 8 ? -value_of(&E2M1, code & 7) : value_of(&E2M1, code));
}

static float oracle_scale(mlxq_format format, uint8_t byte) {
  return is_mx(format) ? (byte == 255 ? INFINITY : (float)ldexp(1, byte - 127)) : oracle_e4m3(byte);
}

/* Element `index` of a packed row: bits [index * bits, (index + 1) * bits), the lowest first. */
static unsigned read_code(const uint8_t *packed, unsigned bits, size_t index) {
  unsigned code = 0;
  for (unsigned bit = 0; bit < bits; bit++) {
    size_t position = index * bits + bit;
    code |= (unsigned)(packed[position / 8] >> position % 8 & 1) << bit;
  }
  return code;
}

static void write_code(uint8_t *packed, unsigned bits, size_t index, unsigned code) {
  for (unsigned bit = 0; bit < bits; bit++) {
    size_t position = index * bits + bit;
    packed[position / 8] =
        (uint8_t)((packed[position / 8] & ~(1u << position % 8)) | (code >> bit & 1u) << position % 8);
  }
}

/* ---- Helpers --------------------------------------------------------------------------------------------------- */

static uint64_t random_state = 1;

static uint32_t random_bits(void) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(random_state >> 32);
}

/* In [-1, 1). */
static float random_float(void) {
  return (float)(int32_t)random_bits() * 0x1p-31f;
}

static void *allocate(size_t bytes) {
  void *memory = malloc(bytes > 0 ? bytes : 1);
  assert_non_null(memory);
  return memory;
}

static size_t elem_bytes(mlxq_dtype dtype) {
  return mlxq_dtype_bits(dtype) / 8;
}

/* Stores a float, rounded to the dtype. */
static void put(mlxq_dtype dtype, void *dense, size_t index, float x) {
  if (dtype == MLXQ_F32) {
    ((float *)dense)[index] = x;
  } else {
    ((uint16_t *)dense)[index] = dtype == MLXQ_F16 ? oracle_f16(x) : oracle_bf16(x);
  }
}

static float get(mlxq_dtype dtype, const void *dense, size_t index) {
  if (dtype == MLXQ_F32) return ((const float *)dense)[index];
  uint16_t bits = ((const uint16_t *)dense)[index];
  uint32_t infinity = dtype == MLXQ_F16 ? 0x7C00 : 0x7F80;
  if ((bits & 0x7FFFu) > infinity) return NAN;
  return oracle_widen(dtype == MLXQ_F16 ? &F16 : &BF16, bits);
}

/* Equal bits, or both NaN. */
static bool same(float a, float b) {
  return bits_of(a) == bits_of(b) || (isnan(a) && isnan(b));
}

/* ---- Casts ----------------------------------------------------------------------------------------------------- */

static bool is_nan16(const small_float *format, uint32_t bits) {
  return (bits & 0x7FFF) > format->last;
}

/* All 65536 values of a 16-bit type, to float32 and back, and to the other 16-bit type. */
static void check_all_values(mlxq_cast_fn cast, mlxq_dtype dtype, const small_float *format) {
  uint16_t *source = allocate(65536 * 2), *back = allocate(65536 * 2), *other = allocate(65536 * 2);
  float *wide = allocate(65536 * 4);
  mlxq_dtype other_dtype = dtype == MLXQ_F16 ? MLXQ_BF16 : MLXQ_F16;
  const small_float *other_format = dtype == MLXQ_F16 ? &BF16 : &F16;
  for (uint32_t i = 0; i < 65536; i++) source[i] = (uint16_t)i;
  cast(dtype, MLXQ_F32, source, wide, 65536);
  cast(MLXQ_F32, dtype, wide, back, 65536);
  cast(dtype, other_dtype, source, other, 65536);
  for (uint32_t i = 0; i < 65536; i++) {
    if (is_nan16(format, i)) {
      assert_true(isnan(wide[i]));
      assert_true(is_nan16(format, back[i]) && is_nan16(other_format, other[i]));
      assert_int_equal(signbit(wide[i]) != 0, i >> 15);
      assert_int_equal(back[i] >> 15, i >> 15);
    } else {
      assert_int_equal(bits_of(wide[i]), bits_of(oracle_widen(format, i)));
      assert_int_equal(back[i], i);
      assert_int_equal(other[i], other_dtype == MLXQ_F16 ? oracle_f16(wide[i]) : oracle_bf16(wide[i]));
    }
  }
  cast(dtype, dtype, source, back, 65536);
  for (uint32_t i = 0; i < 65536; i++) assert_true(is_nan16(format, i) ? is_nan16(format, back[i]) : back[i] == i);
  free(source);
  free(back);
  free(other);
  free(wide);
}

static void test_cast_all_values(void **state) {
  (void)state;
  FOR_CASTS(k) {
    check_all_values(CASTS[k].run, MLXQ_F16, &F16);
    check_all_values(CASTS[k].run, MLXQ_BF16, &BF16);
  }
}

/* float32 at every boundary between two neighbours of a 16-bit type: the midpoint goes to the even one, one float32
 * unit to either side goes there. The last boundary is that of infinity. */
static void check_boundaries(mlxq_cast_fn cast, mlxq_dtype dtype, const small_float *format) {
  size_t count = (size_t)format->last * 6;
  float *source = allocate(count * 4);
  uint16_t *result = allocate(count * 2);
  for (uint32_t code = 0; code < format->last; code++) {
    float middle = (float)((value_of(format, code) + value_of(format, code + 1)) / 2);
    float *at = source + 6 * code;
    at[0] = nextafterf(middle, 0);
    at[1] = middle;
    at[2] = nextafterf(middle, INFINITY);
    for (int i = 0; i < 3; i++) at[3 + i] = -at[i];
  }
  cast(MLXQ_F32, dtype, source, result, count);
  for (uint32_t code = 0; code < format->last; code++) {
    const uint16_t *at = result + 6 * code;
    assert_int_equal(at[0], code);
    assert_int_equal(at[1], code + code % 2);
    assert_int_equal(at[2], code + 1);
    for (int i = 0; i < 3; i++) assert_int_equal(at[3 + i], at[i] | 0x8000);
  }
  free(source);
  free(result);
}

static void test_cast_boundaries(void **state) {
  (void)state;
  FOR_CASTS(k) {
    check_boundaries(CASTS[k].run, MLXQ_F16, &F16);
    check_boundaries(CASTS[k].run, MLXQ_BF16, &BF16);
  }
}

static void test_cast_random(void **state) {
  (void)state;
  enum { N = 100000 };
  float *source = allocate(N * 4);
  uint16_t *half = allocate(N * 2), *brain = allocate(N * 2);
  for (size_t i = 0; i < N; i++) {
    uint32_t bits = random_bits();
    if (i % 2 == 0) bits = (bits & 0x807FFFFF) | (97 + bits % 50) << 23; /* where float16 has values */
    source[i] = float_of(bits);
  }
  FOR_CASTS(k) {
    CASTS[k].run(MLXQ_F32, MLXQ_F16, source, half, N);
    CASTS[k].run(MLXQ_F32, MLXQ_BF16, source, brain, N);
    for (size_t i = 0; i < N; i++) {
      if (isnan(source[i])) {
        assert_true(is_nan16(&F16, half[i]) && is_nan16(&BF16, brain[i]));
      } else {
        assert_int_equal(half[i], oracle_f16(source[i]));
        assert_int_equal(brain[i], oracle_bf16(source[i]));
      }
    }
  }
  free(source);
  free(half);
  free(brain);
}

/* NaN is quieted and keeps its sign and the top of its payload, even where that is 0 in the narrow type. */
static void test_cast_special(void **state) {
  (void)state;
  static const struct {
    uint32_t source;
    uint16_t half, brain;
  } CASES[] = {{0x7F800000, 0x7C00, 0x7F80}, {0xFF800000, 0xFC00, 0xFF80}, {0x7FC00000, 0x7E00, 0x7FC0},
               {0xFFC00000, 0xFE00, 0xFFC0}, {0x7F800001, 0x7E00, 0x7FC0}, {0xFF812345, 0xFE09, 0xFFC1},
               {0x7FFFFFFF, 0x7FFF, 0x7FFF}, {0x00000000, 0x0000, 0x0000}, {0x80000000, 0x8000, 0x8000},
               {0x00000001, 0x0000, 0x0000}, {0x7F7FFFFF, 0x7C00, 0x7F80}, {0x80800000, 0x8000, 0x8080}};
  FOR_CASTS(k) {
    for (size_t i = 0; i < COUNT(CASES); i++) {
      uint16_t half, brain;
      float wide;
      CASTS[k].run(MLXQ_F32, MLXQ_F16, &CASES[i].source, &half, 1);
      CASTS[k].run(MLXQ_F32, MLXQ_BF16, &CASES[i].source, &brain, 1);
      CASTS[k].run(MLXQ_F32, MLXQ_F32, &CASES[i].source, &wide, 1);
      assert_int_equal(half, CASES[i].half);
      assert_int_equal(brain, CASES[i].brain);
      assert_int_equal(bits_of(wide), CASES[i].source);
    }
  }
}

/* float64 goes by way of float32: rounded twice. */
static void test_cast_f64(void **state) {
  (void)state;
  static const double CASES[] = {0.0,
                                 -0.0,
                                 1.0,
                                 0.1,
                                 -1e300,
                                 1e-300,
                                 1e-45,
                                 65519.99,
                                 65519.999,
                                 1 + 0x1p-8 + 0x1p-30,
                                 5e-8,
                                 -1.5e-45,
                                 (double)INFINITY,
                                 -(double)INFINITY,
                                 1 + 0x1p-11 + 0x1p-40};
  FOR_CASTS(k) {
    for (size_t i = 0; i < COUNT(CASES); i++) {
      uint16_t half, brain;
      float wide, narrowed = (float)CASES[i];
      CASTS[k].run(MLXQ_F64, MLXQ_F16, &CASES[i], &half, 1);
      CASTS[k].run(MLXQ_F64, MLXQ_BF16, &CASES[i], &brain, 1);
      CASTS[k].run(MLXQ_F64, MLXQ_F32, &CASES[i], &wide, 1);
      assert_int_equal(half, oracle_f16(narrowed));
      assert_int_equal(brain, oracle_bf16(narrowed));
      assert_int_equal(bits_of(wide), bits_of(narrowed));
    }
    double nan = (double)NAN;
    float wide;
    CASTS[k].run(MLXQ_F64, MLXQ_F32, &nan, &wide, 1);
    assert_true(isnan(wide));
  }
}

/* Every count around the kernels' block sizes, from and to buffers aligned to their element only; nothing else is
 * written. */
static void test_cast_counts(void **state) {
  (void)state;
  static const mlxq_dtype FROM[] = {MLXQ_F16, MLXQ_BF16, MLXQ_F32, MLXQ_F64};
  enum { MAX = 300, GUARD = 64 };
  double source[MAX + 1]; /* finite and positive in every type */
  memset(source, 0x3F, sizeof source);
  FOR_CASTS(k) {
    for (size_t f = 0; f < COUNT(FROM); f++) {
      for (size_t t = 0; t < COUNT(DTYPES); t++) {
        const uint8_t *from = (const uint8_t *)source + elem_bytes(FROM[f]);
        for (size_t count = 0; count <= MAX; count = count < 40 ? count + 1 : count + 13) {
          float buffer[GUARD + MAX];
          uint8_t *result = (uint8_t *)buffer + elem_bytes(DTYPES[t]), *end = result + count * elem_bytes(DTYPES[t]);
          memset(buffer, 0xA5, sizeof buffer);
          CASTS[k].run(FROM[f], DTYPES[t], from, result, count);
          for (uint8_t *p = (uint8_t *)buffer; p < (uint8_t *)(buffer + GUARD + MAX); p++) {
            if (p < result || p >= end) assert_int_equal(*p, 0xA5);
          }
          for (size_t i = 1; i < count; i++) {
            assert_memory_equal(result, result + i * elem_bytes(DTYPES[t]), elem_bytes(DTYPES[t]));
          }
          if (count > 0) assert_true(get(DTYPES[t], result, 0) > 0);
        }
      }
    }
  }
}

/* ---- Codes ----------------------------------------------------------------------------------------------------- */

/* The cpu rule for E2M1, literally, with distances in float32. */
static unsigned oracle_e2m1_cpu(float q) {
  unsigned best = 0;
  float smallest = fabsf(q - oracle_e2m1(0));
  for (unsigned code = 1; code < 16; code++) {
    float distance = fabsf(q - oracle_e2m1(code));
    if (distance < smallest) {
      smallest = distance;
      best = code;
    }
  }
  return best;
}

static unsigned oracle_code(mlxq_format format, mlxq_profile profile, float q) {
  if (format == MLXQ_FORMAT_MXFP8) return nearest(&E4M3, (double)q) | (signbit(q) ? 0x80u : 0);
  if (profile == MLXQ_PROFILE_CPU) return oracle_e2m1_cpu(q);
  return nearest(&E2M1, (double)q) | (signbit(q) ? 8u : 0);
}

/* Each value and each midpoint of the codes, and one float32 unit to either side, both signs, in groups whose scale is
 * exactly 1. */
static void test_code_boundaries(void **state) {
  (void)state;
  FOR_QUANTIZERS(k) {
    mlxq_format format = QUANTIZERS[k].format;
    if (is_affine(format)) continue;
    const small_float *codes = format == MLXQ_FORMAT_MXFP8 ? &E4M3 : &E2M1;
    size_t size = group_size_at(format, 0);
    FOR_PROFILES(profile) {
      for (uint32_t code = 0; code < codes->last; code++) {
        float w[32] = {0}, value = (float)value_of(codes, code), next = (float)value_of(codes, code + 1);
        float middle = (value + next) / 2;
        float points[] = {value,  nextafterf(value, INFINITY),  nextafterf(middle, 0),
                          middle, nextafterf(middle, INFINITY), nextafterf(next, 0),
                          next};
        w[0] = (float)value_of(codes, codes->last);
        for (size_t i = 0; i < COUNT(points); i++) {
          w[1 + i] = points[i];
          w[size - 1 - i] = -points[i];
        }
        uint8_t packed[32], scale;
        mlxq_kernel_args args = {profile, MLXQ_F32, size, 1};
        assert_true(QUANTIZERS[k].run(&args, w, packed, &scale, NULL) == MLXQ_ALL_FINITE);
        assert_int_equal(scale, is_mx(format) ? 127 : 0x38);
        for (size_t i = 0; i < size; i++) {
          assert_int_equal(read_code(packed, FORMAT_BITS[format], i), oracle_code(format, profile, w[i]));
        }
      }
    }
  }
}

/* One finite nvfp4 group (rounded to the dtype) whose scale byte is known: the quotients, then the codes. */
static void check_nvfp4(mlxq_quantize_fn quantize, mlxq_profile profile, mlxq_dtype dtype, const float *w,
                        uint8_t byte) {
  uint32_t dense[16];
  uint8_t packed[8], scale;
  float decoded = oracle_e4m3(byte);
  mlxq_kernel_args args = {profile, dtype, 16, 1};
  for (size_t i = 0; i < 16; i++) put(dtype, dense, i, w[i]);
  assert_true(quantize(&args, dense, packed, &scale, NULL) == MLXQ_ALL_FINITE);
  assert_int_equal(scale, byte);
  for (size_t i = 0; i < 16; i++) {
    float x = get(dtype, dense, i);
    float q = profile == MLXQ_PROFILE_CPU ? oracle_round(dtype, (double)(x / decoded)) : x * (1 / decoded);
    assert_int_equal(read_code(packed, 4, i), oracle_code(MLXQ_FORMAT_NVFP4, profile, q));
  }
}

/* Quotients at and beside each midpoint of the codes, under each scale. */
static void test_nvfp4_quotients(void **state) {
  (void)state;
  FOR_QUANTIZERS(k) {
    if (QUANTIZERS[k].format != MLXQ_FORMAT_NVFP4) continue;
    for (uint32_t byte = 1; byte <= E4M3.last; byte++) {
      float decoded = oracle_e4m3((uint8_t)byte);
      for (uint32_t code = 0; code < E2M1.last; code++) {
        float w[16] = {6 * decoded}, middle = (oracle_e2m1(code) + oracle_e2m1(code + 1)) / 2 * decoded;
        float step = ldexpf(1, ilogbf(middle) - 10); /* of float16 */
        for (int i = 1; i < 8; i++) {
          w[i] = middle + (float)(i - 4) * step;
          w[15 - i] = -w[i];
        }
        FOR_PROFILES(profile) {
          check_nvfp4(QUANTIZERS[k].run, profile, MLXQ_F16, w, (uint8_t)byte);
          for (int i = 1; i < 8; i++) w[i] = middle + (float)(i - 4) * 8 * step;
          check_nvfp4(QUANTIZERS[k].run, profile, MLXQ_BF16, w, (uint8_t)byte);
          for (int i = 1; i < 8; i++) w[i] = middle + (float)(i - 4) * 0x1p-13f * step;
          check_nvfp4(QUANTIZERS[k].run, profile, MLXQ_F32, w, (uint8_t)byte);
        }
      }
    }
  }
}

/* Beyond 6 * 448 the scale is 448, so that the quotients can be anything; above 2^24 distances in float32 tie. */
static void test_nvfp4_saturated(void **state) {
  (void)state;
  FOR_QUANTIZERS(k) {
    if (QUANTIZERS[k].format != MLXQ_FORMAT_NVFP4) continue;
    for (int round = 0; round < 5000; round++) {
      mlxq_dtype dtype = DTYPES[round % 3];
      float w[16] = {dtype == MLXQ_F16 ? 65504.0f : oracle_round(dtype, 1e30)};
      for (size_t i = 1; i < 16; i++) {
        w[i] = ldexpf(random_float(), 10 + (int)(random_bits() % (dtype == MLXQ_F16 ? 6 : 60)));
        if (dtype != MLXQ_F16 && i % 2 == 0)
          w[i] = 448 * ldexpf(roundf(16 * random_float()), (int)(random_bits() % 30));
        w[i] = oracle_round(dtype, (double)w[i]);
      }
      FOR_PROFILES(profile) check_nvfp4(QUANTIZERS[k].run, profile, dtype, w, 0x7E);
    }
  }
}

/* ---- Scales ---------------------------------------------------------------------------------------------------- */

static uint8_t scale_of(mlxq_quantize_fn quantize, mlxq_format format, mlxq_profile profile, float amax) {
  float w[32] = {0};
  uint8_t packed[32], scale;
  mlxq_kernel_args args = {profile, MLXQ_F32, group_size_at(format, 0), 1};
  w[3] = -amax;
  assert_true(quantize(&args, w, packed, &scale, NULL) == MLXQ_ALL_FINITE);
  return scale;
}

/* E8M0 is the smallest power of two >= amax / M: around every power of two, and every exponent of a mantissa. */
static void test_e8m0_scales(void **state) {
  (void)state;
  FOR_QUANTIZERS(k) {
    mlxq_format format = QUANTIZERS[k].format;
    if (!is_mx(format)) continue;
    double largest = format == MLXQ_FORMAT_MXFP8 ? 448 : 6;
    FOR_PROFILES(profile) {
      for (int exponent = -149; exponent <= 127; exponent++) {
        float power = ldexpf(1, exponent), times = (float)(largest * ldexp(1, exponent));
        float cases[] = {times, nextafterf(times, 0), nextafterf(times, INFINITY), power, power * 1.25f};
        for (size_t i = 0; i < COUNT(cases); i++) {
          float amax = cases[i], s = amax / (float)largest;
          if (isinf(amax)) continue;
          int ceiling; /* of log2(s) */
          double mantissa = frexp((double)s, &ceiling);
          if (mantissa == 0.5) ceiling--;
          int byte = (s == 0.0f || ceiling < -127 ? -127 : ceiling) + 127;
          if (profile == MLXQ_PROFILE_CPU && s == 0.0f) byte = 127;
          assert_int_equal(scale_of(QUANTIZERS[k].run, format, profile, amax), byte);
        }
      }
    }
  }
}

static void test_e4m3_scales(void **state) {
  (void)state;
  FOR_QUANTIZERS(k) {
    mlxq_format format = QUANTIZERS[k].format;
    if (format != MLXQ_FORMAT_NVFP4) continue;
    FOR_PROFILES(profile) {
      for (uint32_t code = 0; code < E4M3.last; code++) {
        float value = 6 * (float)value_of(&E4M3, code);
        float middle = 3 * (float)(value_of(&E4M3, code) + value_of(&E4M3, code + 1));
        float cases[] = {value,  nextafterf(value, INFINITY),  nextafterf(middle, 0),
                         middle, nextafterf(middle, INFINITY), nextafterf(nextafterf(middle, INFINITY), INFINITY)};
        for (size_t i = 0; i < COUNT(cases); i++) {
          uint32_t byte = nearest(&E4M3, (double)(cases[i] / 6.0f));
          assert_int_equal(scale_of(QUANTIZERS[k].run, format, profile, cases[i]), byte);
        }
      }
      static const float HUGE[] = {6 * 448, 6 * 456, 6 * 464, 6 * 472, 6 * 480, 1e10f, FLT_MAX}; /* never NaN */
      for (size_t i = 0; i < COUNT(HUGE); i++) {
        assert_int_equal(scale_of(QUANTIZERS[k].run, format, profile, HUGE[i]), 0x7E);
      }
    }
  }
}

/* Where MLX's CPU byte wraps around (e < -127), the cpu profile writes the gpu profile's group; just above, its own. */
static void test_wrap_around(void **state) {
  (void)state;
  FOR_QUANTIZERS(k) {
    mlxq_format format = QUANTIZERS[k].format;
    if (!is_mx(format)) continue;
    mlxq_quantize_fn quantize = QUANTIZERS[k].run;
    float last = format == MLXQ_FORMAT_MXFP8 ? 0x1.Cp-120f : 0x1.8p-126f;
    float w[32];
    uint8_t packed[2][32], scales[2];
    size_t bytes = 4 * FORMAT_BITS[format];
    for (int round = 0; round < 1000; round++) {
      float amax = round == 0 ? last : ldexpf(last, -(int)(random_bits() % 14));
      for (size_t i = 0; i < 32; i++) w[i] = amax * random_float();
      w[random_bits() % 32] = amax;
      FOR_PROFILES(profile) {
        mlxq_kernel_args args = {profile, MLXQ_F32, 32, 1};
        quantize(&args, w, packed[profile], &scales[profile], NULL);
      }
      assert_memory_equal(packed[0], packed[1], bytes);
      assert_int_equal(scales[0], 0);
      assert_int_equal(scales[1], 0);
    }
    /* e = -127 is MLX's own. mxfp4 tells the profiles apart by its tie: 0.25 is code 0 in both, 0.75 is 1 or 2. */
    memset(w, 0, sizeof w);
    w[0] = last + (format == MLXQ_FORMAT_MXFP8 ? 448 : 6) * 0x1p-149f;
    w[1] = 0.75f * 0x1p-127f;
    FOR_PROFILES(profile) {
      mlxq_kernel_args args = {profile, MLXQ_F32, 32, 1};
      quantize(&args, w, packed[profile], &scales[profile], NULL);
      assert_int_equal(scales[profile], 0);
      if (format == MLXQ_FORMAT_MXFP4) {
        assert_int_equal(read_code(packed[profile], 4, 1), profile == MLXQ_PROFILE_CPU ? 1 : 2);
      }
    }
    /* A quotient that rounds to 0 is no wrap-around: e = 0. */
    assert_int_equal(scale_of(quantize, format, MLXQ_PROFILE_CPU, 0x1p-149f), 127);
    assert_int_equal(scale_of(quantize, format, MLXQ_PROFILE_GPU, 0x1p-149f), 0);
  }
}

/* An nvfp4 scale of 0: in the gpu profile quotients are infinite or NaN, code 7 with the sign, unless all are 0. */
static void test_nvfp4_zero_scale(void **state) {
  (void)state;
  static const float W[16] = {1e-3f, -1e-3f, 0.0f, -0.0f, 1e-30f, -1e-30f};
  FOR_QUANTIZERS(k) {
    if (QUANTIZERS[k].format != MLXQ_FORMAT_NVFP4) continue;
    uint8_t packed[8], scale = 1;
    mlxq_kernel_args args = {MLXQ_PROFILE_CPU, MLXQ_F32, 16, 1};
    QUANTIZERS[k].run(&args, W, packed, &scale, NULL);
    assert_int_equal(scale, 0);
    for (size_t i = 0; i < 16; i++) assert_int_equal(read_code(packed, 4, i), 0);
    args.profile = MLXQ_PROFILE_GPU;
    QUANTIZERS[k].run(&args, W, packed, &scale, NULL);
    assert_int_equal(scale, 0);
    for (size_t i = 0; i < 16; i++) assert_int_equal(read_code(packed, 4, i), W[i] < 0 ? 15 : 7);
  }
}

/* ---- Affine ---------------------------------------------------------------------------------------------------- */

/* docs/numerics.md's affine, one group of float32. */
static void oracle_affine(mlxq_profile profile, unsigned bits, const float *w, size_t size, unsigned *codes,
                          float *scale, float *bias) {
  bool gpu = profile == MLXQ_PROFILE_GPU;
  float n = (float)((1u << bits) - 1), lo = w[0], hi = w[0];
  for (size_t i = 1; i < size; i++) {
    lo = fminf(lo, w[i]);
    hi = fmaxf(hi, w[i]);
  }
  if (gpu) hi = fmaxf(hi, 0);
  bool side = fabsf(lo) > fabsf(hi);
  float s = fmaxf((hi - lo) / n, 1e-7f), edge = side ? lo : hi, b = 0;
  if (!side) s = -s;
  float q0 = gpu ? roundf(edge / s) : rintf(edge / s);
  if (q0 != 0) {
    s = edge / q0;
    b = edge;
  }
  for (size_t i = 0; i < size; i++) {
    float x = (w[i] - b) / s;
    float rounded = gpu ? roundf(x) : rintf(x);
    codes[i] = isnan(x) ? (gpu ? (unsigned)n : 0) : (unsigned)fminf(fmaxf(rounded, 0), n);
  }
  *scale = s;
  *bias = b;
}

/* Groups of weights, ties, small integers, one value, tiny and huge ones. */
static float affine_element(int kind, float first) {
  switch (kind % 8) {
    case 0:
      return 0.05f * random_float();
    case 1:
      return (float)((int)(random_bits() % 65) - 32) * 0.5f; /* quotients that tie */
    case 2:
      return (float)((int)(random_bits() % 511) - 255) / 512;
    case 3:
      return first;
    case 4:
      return 1e-7f * random_float();
    case 5:
      return fabsf(random_float());
    case 6:
      return -fabsf(random_float());
    default:
      return FLT_MAX * random_float();
  }
}

static void test_affine_against_oracle(void **state) {
  (void)state;
  FOR_QUANTIZERS(k) {
    mlxq_format format = QUANTIZERS[k].format;
    if (!is_affine(format)) continue;
    for (int round = 0; round < 1500; round++) {
      size_t size = group_size_at(format, (size_t)round % 3);
      mlxq_dtype dtype = DTYPES[round / 3 % 3];
      float w[128], first = ldexpf(random_float(), (int)(random_bits() % 250) - 125);
      uint32_t dense[128];
      for (size_t i = 0; i < size; i++) {
        w[i] = oracle_round(dtype, (double)affine_element(round, first));
        float most = dtype == MLXQ_F16 ? 65504.0f : 0x1.FEp127f;
        if (isinf(w[i])) w[i] = copysignf(most, w[i]);
        put(dtype, dense, i, w[i]);
      }
      FOR_PROFILES(profile) {
        unsigned codes[128];
        float scale, bias;
        uint32_t scale_word, bias_word;
        uint8_t packed[128];
        mlxq_kernel_args args = {profile, dtype, size, 1};
        oracle_affine(profile, FORMAT_BITS[format], w, size, codes, &scale, &bias);
        assert_true(QUANTIZERS[k].run(&args, dense, packed, &scale_word, &bias_word) == MLXQ_ALL_FINITE);
        assert_true(same(get(dtype, &scale_word, 0), oracle_round(dtype, (double)scale)));
        assert_true(same(get(dtype, &bias_word, 0), oracle_round(dtype, (double)bias)));
        for (size_t i = 0; i < size; i++) {
          assert_int_equal(read_code(packed, FORMAT_BITS[format], i), codes[i]);
        }
      }
    }
  }
}

/* Finite weights whose range or quotient is not. */
static void test_affine_overflow(void **state) {
  (void)state;
  FOR_QUANTIZERS(k) {
    mlxq_format format = QUANTIZERS[k].format;
    if (!is_affine(format)) continue;
    unsigned bits = FORMAT_BITS[format], n = (1u << bits) - 1;
    FOR_PROFILES(profile) {
      float w[32], scale, bias;
      uint8_t packed[32];
      mlxq_kernel_args args = {profile, MLXQ_F32, 32, 1};
      for (size_t i = 0; i < 32; i++) w[i] = i % 2 == 0 ? 3e38f : -3e38f; /* hi - lo is infinite */
      assert_true(QUANTIZERS[k].run(&args, w, packed, &scale, &bias) == MLXQ_ALL_FINITE);
      assert_true(isinf(scale) && bits_of(bias) == 0);
      for (size_t i = 0; i < 32; i++) assert_int_equal(read_code(packed, bits, i), 0);
      for (size_t i = 0; i < 32; i++) w[i] = 3e38f; /* s is 0, every quotient 0 / 0 */
      assert_true(QUANTIZERS[k].run(&args, w, packed, &scale, &bias) == MLXQ_ALL_FINITE);
      assert_true(scale == 0.0f && bias == 3e38f);
      for (size_t i = 0; i < 32; i++) {
        assert_int_equal(read_code(packed, bits, i), profile == MLXQ_PROFILE_CPU ? 0 : n);
      }
    }
  }
}

/* ---- Dequantizing ---------------------------------------------------------------------------------------------- */

/* Each code under each scale byte. The products are exact in double. */
static void test_dequantize_micro(void **state) {
  (void)state;
  FOR_DEQUANTIZERS(k) {
    mlxq_format format = DEQUANTIZERS[k].format;
    if (is_affine(format)) continue;
    unsigned bits = FORMAT_BITS[format], codes = 1u << bits;
    size_t size = group_size_at(format, 0), groups = (codes + size - 1) / size;
    uint8_t packed[256], scales[8];
    for (unsigned i = 0; i < groups * size; i++) write_code(packed, bits, i, i % codes);
    for (size_t d = 0; d < COUNT(DTYPES); d++) {
      FOR_PROFILES(profile) {
        for (unsigned byte = 0; byte < 256; byte++) {
          uint32_t dense[256];
          mlxq_kernel_args args = {profile, DTYPES[d], size, groups};
          memset(scales, (int)byte, sizeof scales);
          DEQUANTIZERS[k].run(&args, packed, scales, NULL, dense);
          double scale = (double)oracle_scale(format, (uint8_t)byte);
          if (profile == MLXQ_PROFILE_CPU) scale = (double)oracle_round(DTYPES[d], scale);
          for (unsigned i = 0; i < groups * size; i++) {
            float value = bits == 8 ? oracle_e4m3((uint8_t)i) : oracle_e2m1(i % codes);
            float expected = oracle_round(DTYPES[d], (double)value * scale);
            if (!same(get(DTYPES[d], dense, i), expected)) {
              fail_msg("format %d, %s, profile %d, scale byte %u, code %u: %a, not %a", (int)format,
                       mlxq_dtype_name(DTYPES[d]), (int)profile, byte, i % codes, (double)get(DTYPES[d], dense, i),
                       (double)expected);
            }
          }
        }
      }
    }
  }
}

/* Each code under random scales and biases whose products and sums are exact in double. */
static void test_dequantize_affine(void **state) {
  (void)state;
  FOR_DEQUANTIZERS(k) {
    mlxq_format format = DEQUANTIZERS[k].format;
    if (!is_affine(format)) continue;
    unsigned bits = FORMAT_BITS[format];
    for (int round = 0; round < 2000; round++) {
      mlxq_dtype dtype = DTYPES[round % 3];
      size_t size = group_size_at(format, (size_t)(round / 3 % 3));
      unsigned first = random_bits();
      float scale = oracle_round(dtype, (double)ldexpf(random_float(), round % 5));
      float bias = oracle_round(dtype, (double)ldexpf(random_float(), (int)(random_bits() % 8)));
      uint32_t scale_word = 0, bias_word = 0, dense[128];
      uint8_t packed[128];
      put(dtype, &scale_word, 0, scale);
      put(dtype, &bias_word, 0, bias);
      for (unsigned i = 0; i < size; i++) write_code(packed, bits, i, (first + i) & ((1u << bits) - 1));
      FOR_PROFILES(profile) {
        mlxq_kernel_args args = {profile, dtype, size, 1};
        DEQUANTIZERS[k].run(&args, packed, &scale_word, &bias_word, dense);
        for (unsigned i = 0; i < size; i++) {
          double product = (double)((first + i) & ((1u << bits) - 1)) * (double)scale;
          if (profile == MLXQ_PROFILE_CPU) product = (double)oracle_round(dtype, product);
          float sum = (float)(product + (double)bias); /* both profiles add in float32 */
          assert_int_equal(bits_of(get(dtype, dense, i)), bits_of(oracle_round(dtype, (double)sum)));
        }
      }
    }
  }
}

/* ---- Packing --------------------------------------------------------------------------------------------------- */

/* Codes that are known, because the weights are small integers or the values of codes, read bit by bit; and back. */
static void test_packing(void **state) {
  (void)state;
  FOR_QUANTIZERS(k) {
    mlxq_format format = QUANTIZERS[k].format;
    unsigned bits = FORMAT_BITS[format], n = (1u << bits) - 1;
    for (size_t g = 0; g < group_sizes(format); g++) {
      enum { GROUPS = 3 };
      size_t size = group_size_at(format, g);
      float w[GROUPS * 128], scales[GROUPS], biases[GROUPS], back[GROUPS * 128];
      unsigned codes[GROUPS * 128];
      uint8_t packed[GROUPS * 128];
      for (size_t i = 0; i < GROUPS * size; i++) {
        unsigned code = random_bits() & n;
        if (i % size == 0) code = 0;
        if (i % size == 1) code = n;
        if (is_affine(format)) { /* lo = 0, hi = n: s = -1, b = n */
          w[i] = (float)(n - code);
        } else {
          unsigned largest = bits == 8 ? 0x7E : 7;
          if (i % size == 0 || (bits == 8 && (code & 0x7F) == 0x7F)) code = largest;
          if (bits == 4 && code == 8) code = 0;
          w[i] = bits == 8 ? oracle_e4m3((uint8_t)code) : oracle_e2m1(code);
        }
        codes[i] = code;
      }
      FOR_PROFILES(profile) {
        mlxq_kernel_args args = {profile, MLXQ_F32, size, GROUPS};
        memset(packed, 0xFF, sizeof packed);
        QUANTIZERS[k].run(&args, w, packed, scales, biases);
        for (size_t i = 0; i < GROUPS * size; i++) assert_int_equal(read_code(packed, bits, i), codes[i]);
        FOR_DEQUANTIZERS(d) {
          if (DEQUANTIZERS[d].format != format) continue;
          DEQUANTIZERS[d].run(&args, packed, scales, biases, back);
          for (size_t i = 0; i < GROUPS * size; i++) assert_true(back[i] == w[i]);
        }
      }
    }
  }
}

/* ---- Edges ----------------------------------------------------------------------------------------------------- */

static void check_nan_scale(mlxq_format format, mlxq_dtype dtype, const void *scales, size_t group) {
  if (!is_affine(format)) {
    assert_int_equal(((const uint8_t *)scales)[group], is_mx(format) ? 255 : 0x7F);
  } else if (dtype == MLXQ_F32) {
    assert_int_equal(((const uint32_t *)scales)[group], 0x7FC00000);
  } else {
    assert_int_equal(((const uint16_t *)scales)[group], dtype == MLXQ_F16 ? 0x7E00 : 0x7FC0);
  }
}

/* NaNs and infinities in groups 1 and 3 of 5, in any place: these get codes 0 and NaN, the others what they get
 * without, and the first one's index comes back. */
static void check_nonfinite(mlxq_quantize_fn quantize, mlxq_format format, mlxq_dtype dtype, mlxq_profile profile,
                            size_t size, size_t place) {
  static const uint32_t BAD[][6] = {
      {0x7C00, 0xFC00, 0x7C01, 0xFE00, 0x7FFF, 0xFC01}, /* infinities; NaNs, quiet and signalling */
      {0x7F80, 0xFF80, 0x7F81, 0xFFC0, 0x7FFF, 0xFF81},
      {0x7F800000, 0xFF800000, 0x7F800001, 0xFFC00000, 0x7FFFFFFF, 0xFF800001}};
  enum { GROUPS = 5 };
  size_t bytes = size * FORMAT_BITS[format] / 8, scale_bytes = is_affine(format) ? elem_bytes(dtype) : 1;
  uint32_t dense[GROUPS * 128], clean_scales[GROUPS], clean_biases[GROUPS], scales[GROUPS], biases[GROUPS];
  uint8_t clean[GROUPS * 128], packed[GROUPS * 128];
  mlxq_kernel_args args = {profile, dtype, size, GROUPS};
  for (size_t b = 0; b < COUNT(BAD[0]); b++) {
    for (size_t i = 0; i < GROUPS * size; i++) put(dtype, dense, i, oracle_round(dtype, (double)random_float()));
    assert_true(quantize(&args, dense, clean, clean_scales, clean_biases) == MLXQ_ALL_FINITE);
    uint32_t bad = BAD[dtype == MLXQ_F16 ? 0 : dtype == MLXQ_BF16 ? 1 : 2][b];
    size_t at[] = {size + place, 3 * size + (size - 1 - place), 3 * size + place};
    for (size_t i = 0; i < COUNT(at); i++) {
      if (dtype == MLXQ_F32) {
        dense[at[i]] = bad;
      } else {
        ((uint16_t *)dense)[at[i]] = (uint16_t)bad;
      }
    }
    assert_int_equal(quantize(&args, dense, packed, scales, biases), size + place);
    for (size_t group = 0; group < GROUPS; group++) {
      if (group % 2 == 1) {
        for (size_t i = 0; i < bytes; i++) assert_int_equal(packed[group * bytes + i], 0);
        check_nan_scale(format, dtype, scales, group);
        if (is_affine(format)) check_nan_scale(format, dtype, biases, group);
      } else {
        assert_memory_equal(packed + group * bytes, clean + group * bytes, bytes);
        size_t offset = group * scale_bytes;
        assert_memory_equal((uint8_t *)scales + offset, (uint8_t *)clean_scales + offset, scale_bytes);
        if (is_affine(format)) {
          assert_memory_equal((uint8_t *)biases + offset, (uint8_t *)clean_biases + offset, scale_bytes);
        }
      }
    }
  }
}

static void test_nonfinite(void **state) {
  (void)state;
  FOR_QUANTIZERS(k) {
    mlxq_format format = QUANTIZERS[k].format;
    for (size_t g = 0; g < group_sizes(format); g++) {
      size_t size = group_size_at(format, g);
      for (size_t d = 0; d < COUNT(DTYPES); d++) {
        FOR_PROFILES(profile) {
          for (size_t place = 0; place < size; place += place < 2 || place + 3 > size ? 1 : 5) {
            check_nonfinite(QUANTIZERS[k].run, format, DTYPES[d], profile, size, place);
          }
        }
      }
    }
  }
}

/* A non-finite group dequantizes to NaN all over. */
static void test_nonfinite_dequantizes_to_nan(void **state) {
  (void)state;
  static const uint32_t NANS[] = {0x7E007E00, 0x7FC07FC0, 0x7FC00000};
  static const uint8_t PACKED[128] = {0};
  FOR_DEQUANTIZERS(k) {
    mlxq_format format = DEQUANTIZERS[k].format;
    for (size_t d = 0; d < COUNT(DTYPES); d++) {
      FOR_PROFILES(profile) {
        uint8_t byte = is_mx(format) ? 255 : 0x7F;
        const void *scale = is_affine(format) ? (const void *)&NANS[d] : &byte;
        uint32_t dense[32];
        size_t size = group_size_at(format, 0);
        mlxq_kernel_args args = {profile, DTYPES[d], size, 1};
        DEQUANTIZERS[k].run(&args, PACKED, scale, scale, dense);
        for (size_t i = 0; i < size; i++) assert_true(isnan(get(DTYPES[d], dense, i)));
      }
    }
  }
}

static void test_zeros(void **state) {
  (void)state;
  FOR_QUANTIZERS(k) {
    mlxq_format format = QUANTIZERS[k].format;
    size_t size = group_size_at(format, 0);
    for (size_t d = 0; d < COUNT(DTYPES); d++) {
      FOR_PROFILES(profile) {
        for (int negative = 0; negative < 2; negative++) {
          uint32_t dense[32], scale = 1, bias = 1;
          uint8_t packed[32], byte;
          for (size_t i = 0; i < size; i++) put(DTYPES[d], dense, i, negative ? -0.0f : 0.0f);
          mlxq_kernel_args args = {profile, DTYPES[d], size, 1};
          assert_true(QUANTIZERS[k].run(&args, dense, packed, &scale, &bias) == MLXQ_ALL_FINITE);
          unsigned code = 0;
          if (negative && format == MLXQ_FORMAT_MXFP8) code = 0x80;
          if (negative && format == MLXQ_FORMAT_MXFP4 && profile == MLXQ_PROFILE_GPU) code = 8;
          for (size_t i = 0; i < size; i++) assert_int_equal(read_code(packed, FORMAT_BITS[format], i), code);
          memcpy(&byte, &scale, 1);
          if (is_affine(format)) {
            assert_int_equal(bits_of(get(DTYPES[d], &scale, 0)), bits_of(oracle_round(DTYPES[d], (double)-1e-7f)));
            assert_int_equal(bits_of(get(DTYPES[d], &bias, 0)), 0);
          } else {
            assert_int_equal(byte, is_mx(format) && profile == MLXQ_PROFILE_CPU ? 127 : 0);
          }
        }
      }
    }
  }
}

/* Results in buffers aligned to their element only are those of aligned ones, and nothing beside them is written. */
static void check_buffers(mlxq_quantize_fn quantize, mlxq_dequantize_fn dequantize, mlxq_format format,
                          mlxq_dtype dtype, mlxq_profile profile, size_t size) {
  enum { GROUPS = 7, GUARD = 64, MAX = GROUPS * 128 * 4 };
  size_t elem = elem_bytes(dtype), scale_elem = is_affine(format) ? elem : 1, codes = FORMAT_BITS[format];
  size_t dense_bytes = GROUPS * size * elem, packed_bytes = GROUPS * size * codes / 8;
  size_t scale_bytes = GROUPS * scale_elem;
  uint64_t aligned[4][MAX / 8]; /* dense, packed, scales, biases */
  mlxq_kernel_args args = {profile, dtype, size, GROUPS};
  for (size_t i = 0; i < GROUPS * size; i++) put(dtype, aligned[0], i, oracle_round(dtype, (double)random_float()));
  quantize(&args, aligned[0], aligned[1], aligned[2], is_affine(format) ? aligned[3] : NULL);

  uint8_t *block = allocate(4 * (MAX + 2 * GUARD)); /* malloc aligns to 16; the parts start one element after that */
  memset(block, 0xA5, 4 * (MAX + 2 * GUARD));
  uint8_t *dense = block + GUARD + elem, *packed = block + MAX + 3 * GUARD + sizeof(uint32_t);
  uint8_t *scales = block + 2 * MAX + 5 * GUARD + scale_elem, *biases = block + 3 * MAX + 7 * GUARD + scale_elem;
  memcpy(dense, aligned[0], dense_bytes);
  quantize(&args, dense, packed, scales, is_affine(format) ? biases : NULL);
  assert_memory_equal(dense, aligned[0], dense_bytes);
  assert_memory_equal(packed, aligned[1], packed_bytes);
  assert_memory_equal(scales, aligned[2], scale_bytes);
  if (is_affine(format)) assert_memory_equal(biases, aligned[3], scale_bytes);

  dequantize(&args, aligned[1], aligned[2], is_affine(format) ? aligned[3] : NULL, aligned[0]);
  memset(dense, 0xA5, dense_bytes);
  dequantize(&args, packed, scales, is_affine(format) ? biases : NULL, dense);
  assert_memory_equal(dense, aligned[0], dense_bytes);

  memset(dense, 0xA5, dense_bytes);
  memset(packed, 0xA5, packed_bytes);
  memset(scales, 0xA5, scale_bytes);
  if (is_affine(format)) memset(biases, 0xA5, scale_bytes);
  for (size_t i = 0; i < 4 * (MAX + 2 * GUARD); i++) assert_int_equal(block[i], 0xA5);
  free(block);
}

static void test_buffers(void **state) {
  (void)state;
  FOR_QUANTIZERS(k) {
    FOR_DEQUANTIZERS(d) {
      mlxq_format format = QUANTIZERS[k].format;
      if (DEQUANTIZERS[d].format != format) continue;
      for (size_t g = 0; g < group_sizes(format); g++) {
        for (size_t t = 0; t < COUNT(DTYPES); t++) {
          FOR_PROFILES(profile) {
            check_buffers(QUANTIZERS[k].run, DEQUANTIZERS[d].run, format, DTYPES[t], profile, group_size_at(format, g));
          }
        }
      }
    }
  }
}

static void test_no_groups(void **state) {
  (void)state;
  for (size_t d = 0; d < COUNT(DTYPES); d++) {
    FOR_QUANTIZERS(k) {
      mlxq_kernel_args args = {MLXQ_PROFILE_CPU, DTYPES[d], group_size_at(QUANTIZERS[k].format, 0), 0};
      assert_true(QUANTIZERS[k].run(&args, NULL, NULL, NULL, NULL) == MLXQ_ALL_FINITE);
    }
    FOR_DEQUANTIZERS(k) {
      mlxq_kernel_args args = {MLXQ_PROFILE_CPU, DTYPES[d], group_size_at(DEQUANTIZERS[k].format, 0), 0};
      DEQUANTIZERS[k].run(&args, NULL, NULL, NULL, NULL);
    }
  }
}

/* ---- Dispatch -------------------------------------------------------------------------------------------------- */

static void test_table(void **state) {
  (void)state;
  size_t reference[2][MLXQ_FORMAT_COUNT] = {{0}};
  for (size_t k = 0; k < COUNT(QUANTIZERS); k++) {
    if (QUANTIZERS[k].isa == MLXQ_ISA_REF) reference[0][QUANTIZERS[k].format]++;
  }
  for (size_t k = 0; k < COUNT(DEQUANTIZERS); k++) {
    if (DEQUANTIZERS[k].isa == MLXQ_ISA_REF) reference[1][DEQUANTIZERS[k].format]++;
  }
  assert_true(mlxq_isa_usable(MLXQ_ISA_REF));
  for (unsigned limit = 0; limit < MLXQ_ISA_COUNT; limit++) {
    const mlxq_kernel_table *table = mlxq_kernels((mlxq_isa)limit);
    assert_ptr_equal(table, mlxq_kernels((mlxq_isa)limit));
    assert_non_null(table->cast);
    for (size_t format = 0; format < MLXQ_FORMAT_COUNT; format++) {
      assert_int_equal(reference[0][format], 1);
      assert_int_equal(reference[1][format], 1);
      assert_non_null(table->quantize[format]);
      assert_non_null(table->dequantize[format]);
    }
    /* What is in it is the highest usable ISA's, up to the limit. */
    FOR_QUANTIZERS(k) {
      bool best = QUANTIZERS[k].isa <= limit;
      FOR_QUANTIZERS(other) {
        if (QUANTIZERS[other].format == QUANTIZERS[k].format && QUANTIZERS[other].isa <= limit &&
            QUANTIZERS[other].isa > QUANTIZERS[k].isa) {
          best = false;
        }
      }
      assert_int_equal(table->quantize[QUANTIZERS[k].format] == QUANTIZERS[k].run, best);
    }
  }
  assert_ptr_equal(mlxq_kernels(MLXQ_ISA_COUNT), mlxq_kernels(MLXQ_ISA_COUNT - 1));
}

static void test_names(void **state) {
  (void)state;
  assert_string_equal(mlxq_isa_name(MLXQ_ISA_REF), "ref");
  assert_string_equal(mlxq_isa_name(MLXQ_ISA_AVX2), "avx2");
  assert_string_equal(mlxq_isa_name(MLXQ_ISA_AVX512), "avx512");
  assert_string_equal(mlxq_isa_name(MLXQ_ISA_NEON), "neon");
  for (unsigned isa = 0; isa < MLXQ_ISA_COUNT; isa++) assert_non_null(mlxq_isa_name((mlxq_isa)isa));
  assert_string_equal(mlxq_isa_name(MLXQ_ISA_COUNT), "unknown");
}

static void test_format_of(void **state) {
  (void)state;
  static const mlxq_mode MODES[MLXQ_FORMAT_COUNT] = {MLXQ_AFFINE, MLXQ_AFFINE, MLXQ_AFFINE, MLXQ_AFFINE, MLXQ_AFFINE,
                                                     MLXQ_AFFINE, MLXQ_MXFP4,  MLXQ_MXFP8,  MLXQ_NVFP4};
  for (int format = 0; format < MLXQ_FORMAT_COUNT; format++) {
    for (size_t g = 0; g < group_sizes((mlxq_format)format); g++) {
      mlxq_scheme scheme = {MODES[format], (int32_t)FORMAT_BITS[format],
                            (int32_t)group_size_at((mlxq_format)format, g)};
      assert_int_equal(mlxq_scheme_check(&scheme, NULL), MLXQ_OK);
      assert_int_equal(mlxq_format_of(&scheme), format);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_cast_all_values),
      cmocka_unit_test(test_cast_boundaries),
      cmocka_unit_test(test_cast_random),
      cmocka_unit_test(test_cast_special),
      cmocka_unit_test(test_cast_f64),
      cmocka_unit_test(test_cast_counts),
      cmocka_unit_test(test_code_boundaries),
      cmocka_unit_test(test_nvfp4_quotients),
      cmocka_unit_test(test_nvfp4_saturated),
      cmocka_unit_test(test_e8m0_scales),
      cmocka_unit_test(test_e4m3_scales),
      cmocka_unit_test(test_wrap_around),
      cmocka_unit_test(test_nvfp4_zero_scale),
      cmocka_unit_test(test_affine_against_oracle),
      cmocka_unit_test(test_affine_overflow),
      cmocka_unit_test(test_dequantize_micro),
      cmocka_unit_test(test_dequantize_affine),
      cmocka_unit_test(test_packing),
      cmocka_unit_test(test_nonfinite),
      cmocka_unit_test(test_nonfinite_dequantizes_to_nan),
      cmocka_unit_test(test_zeros),
      cmocka_unit_test(test_buffers),
      cmocka_unit_test(test_no_groups),
      cmocka_unit_test(test_table),
      cmocka_unit_test(test_names),
      cmocka_unit_test(test_format_of),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
