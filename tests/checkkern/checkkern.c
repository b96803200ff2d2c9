/* Every kernel of kernels.def that is not the reference against the reference, byte for byte:
 *   checkkern [--quick | --long | --bench [FORMAT | cast | transpose | fp8 | repack_awq | all [ELEMENTS]]]
 * What the formulas come to is the unit and golden tests'; here only equality counts, over inputs chosen to reach every
 * rounding, clamp and fallback, at any alignment and count of groups, with guard bytes around outputs. Inputs end where
 * their allocation ends, so that AddressSanitizer sees a read beyond. Kernels that this machine cannot run are printed;
 * it is a failure if one that it can run was not run. --bench prints the speed of all side by side, --long tries
 * many more inputs, all float32s for casts and 16385 around each boundary of codes among them, --quick fewer: for
 * emulators. */
#include "kernels/kernel_list.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#define COUNT(array) (sizeof(array) / sizeof *(array))

typedef enum kernel_kind { QUANTIZE, DEQUANTIZE, CAST, TRANSPOSE, FP8, REPACK_AWQ } kernel_kind;

typedef struct kernel {
  const char *name;
  kernel_kind kind;
  int format; /* of quantize and dequantize */
  mlxq_isa isa;
  union {
    mlxq_quantize_fn quantize;
    mlxq_dequantize_fn dequantize;
    mlxq_cast_fn cast;
    mlxq_transpose_fn transpose;
    mlxq_fp8_fn fp8;
    mlxq_repack_awq_fn repack_awq;
  };
  unsigned long runs;
} kernel;

static kernel kernels[] = {
#define ROW(function, its_kind, its_format, its_isa, member) \
  { .name = #function, .kind = its_kind, .format = its_format, .isa = its_isa, .member = function }
#define MLXQ_QUANTIZE(format, isa, function) ROW(function, QUANTIZE, MLXQ_FORMAT_##format, MLXQ_ISA_##isa, quantize),
#define MLXQ_DEQUANTIZE(format, isa, function) \
  ROW(function, DEQUANTIZE, MLXQ_FORMAT_##format, MLXQ_ISA_##isa, dequantize),
#define MLXQ_CAST(isa, function)       ROW(function, CAST, 0, MLXQ_ISA_##isa, cast),
#define MLXQ_TRANSPOSE(isa, function)  ROW(function, TRANSPOSE, 0, MLXQ_ISA_##isa, transpose),
#define MLXQ_FP8(isa, function)        ROW(function, FP8, 0, MLXQ_ISA_##isa, fp8),
#define MLXQ_REPACK_AWQ(isa, function) ROW(function, REPACK_AWQ, 0, MLXQ_ISA_##isa, repack_awq),
#include "kernels/kernels.def"
};

static const struct {
  const char *name;
  unsigned bits;
  size_t smallest_group, group_sizes; /* smallest << 0 .. group_sizes - 1 */
  bool affine;
} FORMATS[MLXQ_FORMAT_COUNT] = {
    {"affine2", 2, 32, 3, true}, {"affine3", 3, 32, 3, true}, {"affine4", 4, 32, 3, true},
    {"affine5", 5, 32, 3, true}, {"affine6", 6, 32, 3, true}, {"affine8", 8, 32, 3, true},
    {"mxfp4", 4, 32, 1, false},  {"mxfp8", 8, 32, 1, false},  {"nvfp4", 4, 16, 1, false},
};

static const mlxq_dtype DTYPES[] = {MLXQ_BF16, MLXQ_F16, MLXQ_F32};

/* Of --long; as many or more also ask for what is exhaustive. */
enum { ROUNDS = 10, LONG_ROUNDS = 500 };

static unsigned long failures;

/* ---- Numbers --------------------------------------------------------------------------------------------------- */

static uint64_t random_state = 0x9E3779B97F4A7C15u;

static uint32_t random_bits(void) { /* splitmix64 */
  uint64_t z = random_state += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return (uint32_t)((z ^ (z >> 31)) >> 32);
}

static size_t random_below(size_t limit) {
  return (size_t)(random_bits() % limit);
}

static float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

static float random_finite(void) {
  const uint32_t bits = random_bits();
  return float_of((bits & 0x7F800000u) == 0x7F800000u ? bits & 0xBFFFFFFFu : bits);
}

/* Roughly normal. */
static float random_normal(void) {
  float sum = 0;
  for (int i = 0; i < 4; i++) sum += (float)(random_bits() >> 8) * 0x1p-24f - 0.5f;
  return sum;
}

static size_t dtype_bytes(mlxq_dtype dtype) {
  return mlxq_dtype_bits(dtype) / 8;
}

/* ---- Groups of input ------------------------------------------------------------------------------------------- */

enum pattern {
  NORMAL,       /* as weights are, of any magnitude */
  UNIFORM_BITS, /* any finite float32 */
  CONSTANT,     /* one value */
  ALL_NEGATIVE, /* and all positive */
  SIGNED_ZEROS, /* with, half of the time, one other value */
  SUBNORMALS,   /* in float32 or float16 */
  TIES,         /* multiples of a half step of a grid: every quotient is a tie or an integer */
  CODE_TIES,    /* of the E2M1 and E4M3 grids */
  NEAR_TIES,    /* one unit beside them */
  HUGE_VALUES,  /* near the largest float16, float32 */
  OUTLIER,      /* one element rules the rest */
  NONFINITE,    /* normal, with NaN and infinities */
  PATTERNS
};

static float pattern_value(enum pattern pattern, float unit, size_t i) {
  static const float CODES[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f, 6.0f};
  float sign = random_bits() & 1 ? -1.0f : 1.0f;
  switch (pattern) {
    case NORMAL:
      return unit * random_normal();
    case UNIFORM_BITS:
      return fabsf(unit) > 1.0f ? random_finite() : float_of(random_bits() & 0xBFFFFFFFu) * (i % 2 ? 1.0f : 0x1p60f);
    case CONSTANT:
      return unit;
    case ALL_NEGATIVE:
      return unit * (1.0f + fabsf(random_normal()));
    case SIGNED_ZEROS:
      return sign * 0.0f;
    case SUBNORMALS:
      return sign * float_of(random_bits() & (random_bits() & 1 ? 0x7FFFFFu : 0xFFu)) *
             (fabsf(unit) > 1.0f ? 0x1p112f : 1.0f);
    case TIES:
      return i == 0 ? unit * 16.0f : sign * unit * 0.5f * (float)random_below(32);
    case CODE_TIES:
      return i == 0 ? unit * 6.0f : sign * unit * CODES[random_below(8)] * (random_bits() & 1 ? 1.0f : 1.0f + 0x1p-4f);
    case NEAR_TIES:
      return i == 0 ? unit * 6.0f : sign * unit * nextafterf(CODES[random_below(8)], random_bits() & 1 ? 9.0f : 0.0f);
    case HUGE_VALUES:
      return sign * (fabsf(unit) > 1.0f ? 65504.0f : 3.38e38f) * (1.0f - (float)random_below(3) * 0x1p-9f);
    case OUTLIER:
      return i == 7 ? unit * 0x1p20f : unit * random_normal();
    default:
      return i % 29 == 11 ? float_of(0x7F800000u | (random_bits() & 0x80400000u)) : unit * random_normal();
  }
}

/* A group. Float32 values that the dtype cannot hold become infinite: those are scaled down first. */
static void fill_group(mlxq_dtype dtype, uint8_t *dense, size_t size, enum pattern pattern) {
  float values[128];
  float unit = ldexpf(1.0f + (float)random_below(8) * 0.125f, (int)random_below(24) - 16);
  if (random_bits() & 1) unit = -unit;
  if (random_below(8) == 0) unit = ldexpf(unit, dtype == MLXQ_F16 ? -8 : (int)random_below(200) - 110);
  size_t first = pattern == NONFINITE ? random_below(11) : 0;
  for (size_t i = 0; i < size; i++) {
    float x = pattern_value(pattern, unit, i + first);
    while (pattern != NONFINITE && dtype == MLXQ_F16 && fabsf(x) > 65504.0f) x *= 0x1p-16f;
    while (pattern != NONFINITE && fabsf(x) > 3.38e38f) x *= 0.5f;
    values[i] = x;
  }
  if (pattern == SIGNED_ZEROS && random_bits() & 1) values[random_below(size)] = unit;
  mlxq_cast_ref(MLXQ_F32, dtype, values, dense, size);
}

/* ---- Buffers with guards --------------------------------------------------------------------------------------- */

enum { GUARD = 64 };

/* An output of `bytes` at `at`, between guards; one to a kernel, compared as a whole. */
typedef struct output {
  uint8_t *allocation, *at;
  size_t bytes;
} output;

static void *allocate(size_t bytes) {
  void *memory = malloc(bytes > 0 ? bytes : 1);
  if (!memory) {
    fputs("checkkern: out of memory\n", stderr);
    exit(2);
  }
  return memory;
}

static output new_output(size_t bytes, size_t offset) {
  output out = {.allocation = allocate(bytes + offset + 2 * (size_t)GUARD), .bytes = bytes};
  memset(out.allocation, 0xA5, bytes + offset + 2 * (size_t)GUARD);
  out.at = out.allocation + GUARD + offset;
  return out;
}

/* Whether both hold the same, guards included. */
static bool same_output(const output *a, const output *b) {
  return memcmp(a->at - GUARD, b->at - GUARD, a->bytes + 2 * (size_t)GUARD) == 0;
}

static void report(const kernel *tested, const mlxq_kernel_args *args, const char *what, const output *ref,
                   const output *got) {
  failures++;
  if (failures > 20) return;
  size_t i = 0;
  while (i < ref->bytes && ref->at[i] == got->at[i]) i++;
  printf("%s: %s differ%s: profile %d, %s, group size %zu, %zu groups, byte %zu: %02x, reference %02x\n", tested->name,
         what, i == ref->bytes ? " outside the buffer" : "", (int)args->profile, mlxq_dtype_name(args->dtype),
         args->group_size, args->groups, i, got->at[i], ref->at[i]);
}

static kernel *reference_of(const kernel *tested) {
  for (size_t i = 0; i < COUNT(kernels); i++) {
    kernel *ref = &kernels[i];
    if (ref->isa == MLXQ_ISA_REF && ref->kind == tested->kind && ref->format == tested->format) return ref;
  }
  printf("%s has no reference\n", tested->name);
  exit(1);
}

/* ---- Checks ---------------------------------------------------------------------------------------------------- */

static void check_quantize(kernel *tested, const mlxq_kernel_args *args, const uint8_t *dense, size_t offset) {
  const unsigned bits = FORMATS[tested->format].bits;
  const size_t packed_bytes = args->groups * args->group_size / 8 * bits;
  const size_t scale_width = FORMATS[tested->format].affine ? dtype_bytes(args->dtype) : 1;
  const size_t scale_bytes = args->groups * scale_width;
  const char *const names[] = {"codes", "scales", "biases"};
  output out[2][3];
  size_t bad[2];
  for (int i = 0; i < 2; i++) {
    out[i][0] = new_output(packed_bytes, 4 * offset);
    out[i][1] = new_output(scale_bytes, scale_width * offset);
    out[i][2] = new_output(FORMATS[tested->format].affine ? scale_bytes : 0, scale_width * offset);
    bad[i] = (i == 0 ? reference_of(tested) : tested)->quantize(args, dense, out[i][0].at, out[i][1].at, out[i][2].at);
  }
  for (int part = 0; part < 3; part++) {
    if (!same_output(&out[0][part], &out[1][part])) report(tested, args, names[part], &out[0][part], &out[1][part]);
    free(out[0][part].allocation);
    free(out[1][part].allocation);
  }
  if (bad[0] != bad[1]) {
    failures++;
    printf("%s: first bad element %zu, reference %zu\n", tested->name, bad[1], bad[0]);
  }
  tested->runs++;
}

static void check_dequantize(kernel *tested, const mlxq_kernel_args *args, const uint8_t *packed, const uint8_t *scales,
                             const uint8_t *biases, size_t offset) {
  output out[2];
  for (int i = 0; i < 2; i++) {
    out[i] = new_output(args->groups * args->group_size * dtype_bytes(args->dtype), dtype_bytes(args->dtype) * offset);
    (i == 0 ? reference_of(tested) : tested)->dequantize(args, packed, scales, biases, out[i].at);
  }
  if (!same_output(&out[0], &out[1])) report(tested, args, "values", &out[0], &out[1]);
  free(out[0].allocation);
  free(out[1].allocation);
  tested->runs++;
}

/* A buffer that ends where its allocation ends, `offset` elements after an aligned place. */
static uint8_t *new_input(uint8_t **allocation, size_t bytes, size_t offset) {
  *allocation = allocate(bytes + offset);
  return *allocation + offset;
}

/* One call of a quantize kernel with groups of `pattern`, or of any where it is PATTERNS. */
static void try_quantize(kernel *tested, const mlxq_kernel_args *args, enum pattern pattern, size_t offset) {
  const size_t width = dtype_bytes(args->dtype), group_bytes = args->group_size * width;
  uint8_t *allocation, *dense = new_input(&allocation, args->groups * group_bytes, offset * width);
  for (size_t group = 0; group < args->groups; group++) {
    fill_group(args->dtype, dense + group * group_bytes, args->group_size,
               pattern == PATTERNS ? (enum pattern)random_below(PATTERNS) : pattern);
  }
  check_quantize(tested, args, dense, offset);
  free(allocation);
}

/* One call of a dequantize kernel: any codes; scales and biases of any size, NaN and infinity among them. */
static void try_dequantize(kernel *tested, const mlxq_kernel_args *args, enum pattern pattern, size_t offset) {
  const bool affine = FORMATS[tested->format].affine;
  const size_t width = affine ? dtype_bytes(args->dtype) : 1;
  const size_t packed_bytes = args->groups * args->group_size / 8 * FORMATS[tested->format].bits;
  uint8_t *allocations[3], *inputs[3];
  inputs[0] = new_input(&allocations[0], packed_bytes, 4 * offset);
  for (size_t i = 0; i < packed_bytes; i++) inputs[0][i] = (uint8_t)random_bits();
  for (int part = 1; part < 3; part++) {
    inputs[part] = new_input(&allocations[part], args->groups * width, offset * width);
    for (size_t group = 0; group < args->groups; group++) {
      float x = random_below(40) == 0   ? NAN
                : random_below(40) == 0 ? INFINITY
                                        : pattern_value(pattern % NONFINITE, ldexpf(1, (int)random_below(30) - 20), 1);
      if (affine) {
        mlxq_cast_ref(MLXQ_F32, args->dtype, &x, inputs[part] + group * width, 1);
      } else {
        inputs[part][group] = (uint8_t)(random_bits() & 1 ? random_bits() : 110 + random_below(40));
      }
    }
  }
  check_dequantize(tested, args, inputs[0], inputs[1], inputs[2], offset);
  for (int part = 0; part < 3; part++) free(allocations[part]);
}

/* Every value of a 16-bit dtype that is no larger than what rules the group, or for float32 every upper half with some
 * lower halves: so every boundary between codes is met from both sides, at a few scales. */
static void sweep_quantize(kernel *tested, mlxq_kernel_args *args) {
  static const float UNITS[] = {1.0f, -1.0f, 0x1p-9f, 1.375f * 0x1p3f, 0x1p-12f, 0x1p-13f, 1.25f * 0x1p-23f};
  static const uint16_t LOW_HALVES[] = {0, 1, 0x8000, 0xFFFF};
  const bool wide = args->dtype == MLXQ_F32;
  const size_t width = dtype_bytes(args->dtype), size = args->group_size,
               values = wide ? 65536 * COUNT(LOW_HALVES) : 65536;
  const uint32_t magnitude = wide ? 0x7FFFFFFFu : 0x7FFFu;
  const float ruler = FORMATS[tested->format].affine        ? (float)((1u << FORMATS[tested->format].bits) - 1)
                      : tested->format == MLXQ_FORMAT_MXFP8 ? 448.0f
                                                            : 6.0f;
  args->groups = values / (size - 1) + 1;
  uint8_t *dense = allocate(args->groups * size * width);
  for (size_t unit = 0; unit < COUNT(UNITS); unit++) {
    const float first = ruler * UNITS[unit];
    uint32_t first_bits = 0;
    mlxq_cast_ref(MLXQ_F32, args->dtype, &first, &first_bits, 1);
    size_t next = 0;
    for (size_t i = 0; i < args->groups * size; i++) {
      uint32_t bits = first_bits;
      if (i % size != 0) {
        bits = (uint32_t)next;
        if (wide) bits = (uint32_t)(next / COUNT(LOW_HALVES)) << 16 | LOW_HALVES[next % COUNT(LOW_HALVES)];
        if ((bits & magnitude) > (first_bits & magnitude)) bits = 0;
        next = (next + 1) % values;
      }
      memcpy(dense + i * width, &bits, width);
    }
    check_quantize(tested, args, dense, 0);
  }
  free(dense);
}

/* The magnitudes that a format's codes stand for, or for affine the codes; their count. */
static size_t code_values(int format, float *values) {
  static const float E2M1[] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  const size_t count = FORMATS[format].affine        ? (size_t)1 << FORMATS[format].bits
                       : format == MLXQ_FORMAT_MXFP8 ? 127
                                                     : COUNT(E2M1);
  for (size_t i = 0; i < count; i++) {
    if (FORMATS[format].affine) {
      values[i] = (float)i;
    } else if (format == MLXQ_FORMAT_MXFP8) {
      values[i] = i < 8 ? (float)i * 0x1p-9f : ldexpf((float)(8 + i % 8), (int)(i / 8) - 10);
    } else {
      values[i] = E2M1[i];
    }
  }
  return count;
}

/* Every float that is `reach` units or less from a boundary between two codes, at a few scales: about 2^-12 and 2^-13,
 * where halves and quarters are no longer normal float16s, and so small that the scale itself is none. */
static void sweep_boundaries(kernel *tested, mlxq_kernel_args *args, uint32_t reach) {
  static const float UNITS[] = {1.0f,
                                -1.0f,
                                0x1p-9f,
                                1.375f * 0x1p3f,
                                0.0317f,
                                0x1p-12f,
                                -0x1p-12f,
                                0x1p-12f * (1 + 0x1p-7f),
                                0x1p-12f * (1 - 0x1p-8f),
                                0x1p-13f,
                                0x1p-13f * (1 + 0x1p-7f),
                                0x1p-13f * (1 - 0x1p-8f),
                                1.25f * 0x1p-23f};
  const size_t size = args->group_size, near = 2 * (size_t)reach + 1, width = dtype_bytes(args->dtype);
  const uint32_t sign = width == 4 ? 0x80000000u : 0x8000u;
  float codes[256];
  const size_t count = code_values(tested->format, codes);
  args->groups = near / (size - 2) + 1; /* its largest and smallest value rule a group */
  uint8_t *dense = allocate(args->groups * size * width);
  for (size_t i = 0; i < (count - 1) * COUNT(UNITS); i++) {
    const float unit = UNITS[i % COUNT(UNITS)], *code = &codes[i / COUNT(UNITS)];
    const float first = codes[count - 1] * unit, boundary = (code[0] + code[1]) / 2 * unit;
    uint32_t ruler = 0, bits = 0, next = 0;
    mlxq_cast_ref(MLXQ_F32, args->dtype, &first, &ruler, 1);
    mlxq_cast_ref(MLXQ_F32, args->dtype, &boundary, &bits, 1);
    const int64_t middle = bits & ~sign, most = ruler & ~sign;
    for (size_t at = 0; at < args->groups * size; at++) {
      uint32_t x = at % size == 0 ? ruler : 0;
      if (at % size >= 2) {
        int64_t magnitude = middle - (int64_t)reach + (int64_t)(next++ % near);
        x = (bits & sign) | (uint32_t)(magnitude < 0 ? 0 : magnitude > most ? most : magnitude);
      }
      memcpy(dense + at * width, &x, width);
    }
    check_quantize(tested, args, dense, 0);
  }
  free(dense);
}

/* Every code with every scale byte; for affine, with many scales and biases. */
static void sweep_dequantize(kernel *tested, mlxq_kernel_args *args) {
  const unsigned bits = FORMATS[tested->format].bits;
  const size_t each = args->group_size < (1u << bits) ? (1u << bits) / args->group_size : 1;
  const size_t group_bytes = args->group_size / 8 * bits;
  args->groups = 256 * each;
  uint8_t *packed = allocate(args->groups * group_bytes), *scales = allocate(args->groups * 4);
  uint8_t *biases = allocate(args->groups * 4);
  memset(packed, 0, args->groups * group_bytes);
  for (size_t group = 0; group < args->groups; group++) {
    for (size_t i = 0; i < args->group_size; i++) { /* codes group * group_size .., in the bit stream */
      size_t code = group % each * args->group_size + i;
      for (unsigned bit = 0; bit < bits; bit++) {
        size_t at = (group * args->group_size + i) * bits + bit;
        packed[at / 8] = (uint8_t)(packed[at / 8] | ((code >> bit & 1u) << at % 8));
      }
    }
    float s = ldexpf(1.0f + (float)random_below(256) * 0x1p-8f, (int)random_below(30) - 20),
          b = s * 100.0f * random_normal();
    scales[group] = (uint8_t)(group / each);
    if (FORMATS[tested->format].affine) {
      mlxq_cast_ref(MLXQ_F32, args->dtype, &s, scales + group * dtype_bytes(args->dtype), 1);
      mlxq_cast_ref(MLXQ_F32, args->dtype, &b, biases + group * dtype_bytes(args->dtype), 1);
    }
  }
  check_dequantize(tested, args, packed, scales, biases, 0);
  free(packed);
  free(scales);
  free(biases);
}

/* All group sizes, profiles and dtypes of a kernel; `rounds` times the patterns at every count of groups. */
static void check_format(kernel *tested, unsigned rounds) {
  void (*attempt)(kernel *, const mlxq_kernel_args *, enum pattern, size_t) =
      tested->kind == QUANTIZE ? try_quantize : try_dequantize;
  for (size_t size = 0; size < FORMATS[tested->format].group_sizes; size++) {
    for (int profile = MLXQ_PROFILE_CPU; profile <= MLXQ_PROFILE_GPU; profile++) {
      for (size_t d = 0; d < COUNT(DTYPES); d++) {
        mlxq_kernel_args args = {.profile = (mlxq_profile)profile,
                                 .dtype = DTYPES[d],
                                 .group_size = FORMATS[tested->format].smallest_group << size};
        if (size == 0) (tested->kind == QUANTIZE ? sweep_quantize : sweep_dequantize)(tested, &args);
        if (size == 0 && tested->kind == QUANTIZE) {
          sweep_boundaries(tested, &args, rounds < LONG_ROUNDS || args.dtype != MLXQ_F32 ? 64 : 8192);
        }
        for (args.groups = 0; args.groups <= 40; args.groups++) attempt(tested, &args, PATTERNS, args.groups % 7);
        for (unsigned round = 0; round < rounds; round++) {
          for (int pattern = 0; pattern < PATTERNS; pattern++) {
            args.groups = 16 + random_below(9);
            attempt(tested, &args, (enum pattern)pattern, random_below(16));
          }
        }
      }
    }
  }
}

/* All values of the 16-bit dtypes, all roundings' surroundings and random bits of the wide ones, at many counts. */
static void check_cast(kernel *tested, unsigned rounds) {
  static const mlxq_dtype FROM[] = {MLXQ_F16, MLXQ_BF16, MLXQ_F32, MLXQ_F64};
  const size_t most = 65536;
  for (size_t from = 0; from < COUNT(FROM); from++) {
    for (size_t to = 0; to < COUNT(DTYPES); to++) {
      const size_t width = dtype_bytes(FROM[from]);
      for (size_t round = 0; round < 60 + rounds; round++) {
        const size_t offset = round % 9, elems = round < 50 ? round : most;
        uint8_t *allocation, *source = new_input(&allocation, elems * width, offset * width);
        for (size_t i = 0; i < elems; i++) {
          uint64_t bits = (uint64_t)random_bits() << 32 | random_bits();
          if (FROM[from] == MLXQ_F32 && round % 2 == 0) { /* near the values of a 16-bit float and their ties */
            bits = ((uint64_t)(i & 0xFFFF) << 16) + (random_bits() & 1 ? 0x8000u : 0x1000u) + random_below(3) - 1;
          } else if (FROM[from] == MLXQ_F64) {
            double x = (double)float_of((uint32_t)bits) * (1.0 + ((double)random_below(3) - 1.0) * 0x1p-25);
            if (random_bits() % 8 != 0) memcpy(&bits, &x, sizeof bits);
          } else if (width == 2) {
            bits = i;
          }
          memcpy(source + i * width, &bits, width);
        }
        const mlxq_kernel_args args = {.dtype = DTYPES[to], .group_size = 1, .groups = elems};
        output out[2];
        for (int i = 0; i < 2; i++) {
          out[i] = new_output(elems * dtype_bytes(DTYPES[to]), offset * dtype_bytes(DTYPES[to]));
          (i == 0 ? reference_of(tested) : tested)->cast(FROM[from], DTYPES[to], source, out[i].at, elems);
        }
        if (!same_output(&out[0], &out[1])) report(tested, &args, mlxq_dtype_name(FROM[from]), &out[0], &out[1]);
        free(out[0].allocation);
        free(out[1].allocation);
        free(allocation);
        tested->runs++;
      }
    }
  }
}

/* All float32s. */
static void sweep_cast(kernel *tested, mlxq_dtype to) {
  const size_t elems = (size_t)1 << 20, width = dtype_bytes(to);
  const mlxq_kernel_args args = {.dtype = to, .group_size = 1, .groups = elems};
  uint32_t *source = allocate(elems * sizeof *source);
  for (uint64_t first = 0; first < (uint64_t)1 << 32; first += elems) {
    output out[2];
    for (size_t i = 0; i < elems; i++) source[i] = (uint32_t)(first + i);
    for (int i = 0; i < 2; i++) {
      out[i] = new_output(elems * width, 0);
      (i == 0 ? reference_of(tested) : tested)->cast(MLXQ_F32, to, source, out[i].at, elems);
    }
    if (!same_output(&out[0], &out[1])) report(tested, &args, "all float32s", &out[0], &out[1]);
    free(out[0].allocation);
    free(out[1].allocation);
  }
  free(source);
  tested->runs++;
}

/* ---- Matrices -------------------------------------------------------------------------------------------------- */

static void compare_matrices(kernel *tested, output out[2], size_t elem_bytes, size_t rows, size_t columns) {
  tested->runs++;
  if (!same_output(&out[0], &out[1])) {
    failures++;
    printf("%s: %zu x %zu elements of %zu bytes differ from the reference\n", tested->name, rows, columns, elem_bytes);
  }
  free(out[0].allocation);
  free(out[1].allocation);
}

static uint8_t *random_input(uint8_t **allocation, size_t bytes, size_t offset) {
  uint8_t *at = new_input(allocation, bytes, offset);
  for (size_t i = 0; i < bytes; i++) at[i] = (uint8_t)random_bits();
  return at;
}

/* Shapes around the sizes of blocks and strips, and some larger ones. */
static size_t random_length(void) {
  return random_below(4) > 0 ? random_below(40) : random_below(300);
}

static void try_transpose(kernel *tested) {
  static const size_t WIDTHS[] = {1, 2, 4};
  const size_t width = WIDTHS[random_below(3)], rows = random_length(), columns = random_length();
  uint8_t *allocation, *in = random_input(&allocation, rows * columns * width, random_below(5) * width);
  output out[2];
  const size_t offset = random_below(9) * width;
  for (int i = 0; i < 2; i++) {
    out[i] = new_output(rows * columns * width, offset);
    (i == 0 ? reference_of(tested) : tested)->transpose(width, in, rows, columns, out[i].at);
  }
  compare_matrices(tested, out, width, rows, columns);
  free(allocation);
}

static void try_repack_awq(kernel *tested) {
  const size_t rows = 8 * random_below(40), words = random_length();
  uint8_t *allocation, *in = random_input(&allocation, rows * words * 4, 4 * random_below(9));
  output out[2];
  const size_t offset = 4 * random_below(9);
  for (int i = 0; i < 2; i++) {
    out[i] = new_output(rows * words * 4, offset);
    (i == 0 ? reference_of(tested) : tested)->repack_awq((const uint32_t *)(const void *)in, rows, words, out[i].at);
  }
  compare_matrices(tested, out, 4, rows, words);
  free(allocation);
}

/* Any finite float32, or with `special` any. */
static float random_scale(bool special) {
  const uint32_t bits = random_bits();
  if (special && random_below(4) == 0) return float_of(random_below(2) ? bits | 0x7F800000u : 0x7F800000u);
  return float_of(random_below(4) ? bits & 0xFF7FFFFFu : bits & 0x807FFFFFu);
}

/* All codes, among them NaNs, in parts of a matrix that begin and end anywhere in its blocks. */
static void try_fp8(kernel *tested) {
  static const size_t BLOCKS[] = {1, 3, 16, 50, 128};
  const size_t block_rows = BLOCKS[random_below(5)], block_columns = BLOCKS[random_below(5)];
  const bool special = random_below(4) == 0, in_order = random_below(2) == 0;
  mlxq_block_args args = {.rows = random_below(9),
                          .columns = random_length(),
                          .first_row = random_below(300),
                          .first_column = random_below(300),
                          .block_rows = block_rows,
                          .block_columns = block_columns,
                          .scale_columns = (300 + 300) / block_columns + 1};
  const size_t scale_count = ((300 + 9) / block_rows + 1) * args.scale_columns;
  uint8_t *allocation, *codes = random_input(&allocation, args.rows * args.columns, random_below(9));
  float *scales = allocate(scale_count * sizeof *scales);
  for (size_t i = 0; i < scale_count; i++) scales[i] = random_scale(special);
  for (size_t i = 0; in_order && i < args.rows * args.columns; i++) codes[i] = (uint8_t)i;
  output out[2];
  const size_t offset = 2 * random_below(9);
  for (int i = 0; i < 2; i++) {
    out[i] = new_output(args.rows * args.columns * 2, offset);
    (i == 0 ? reference_of(tested) : tested)->fp8(&args, codes, scales, out[i].at);
  }
  compare_matrices(tested, out, 2, args.rows, args.columns);
  free(scales);
  free(allocation);
}

static void check_matrices(kernel *tested, unsigned rounds, void (*attempt)(kernel *tested)) {
  for (unsigned i = 0; i < 100 * rounds; i++) attempt(tested);
}

/* ---- Speed ----------------------------------------------------------------------------------------------------- */

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* As many as a worker's tile has, unless the command says otherwise. */
enum { BENCH_ELEMS = 1 << 20, LEAST_BENCH_ELEMS = 1 << 17 };

/* What a kernel is timed on: enough for any format, and for casts to and from float32. */
typedef struct bench_data {
  mlxq_kernel_args args;
  mlxq_dtype from;   /* of a cast; to args.dtype */
  size_t elem_bytes; /* of a transpose */
  size_t elems;
  uint8_t *dense, *packed, *scales, *biases, *source;
} bench_data;

/* One call; matrices are of 1024 columns. */
static void call(const kernel *tested, const bench_data *data) {
  const size_t columns = 1024, rows = data->elems / columns;
  const mlxq_block_args blocks = {rows, columns, 0, 0, 128, 128, columns / 128};
  switch (tested->kind) {
    case QUANTIZE:
      tested->quantize(&data->args, data->dense, data->packed, data->scales, data->biases);
      break;
    case DEQUANTIZE:
      tested->dequantize(&data->args, data->packed, data->scales, data->biases, data->dense);
      break;
    case CAST:
      tested->cast(data->from, data->args.dtype, data->source, data->dense, data->elems);
      break;
    case TRANSPOSE:
      tested->transpose(data->elem_bytes, data->source, rows, columns, data->dense);
      break;
    case FP8:
      tested->fp8(&blocks, data->source, (const float *)(const void *)data->scales, data->dense);
      break;
    case REPACK_AWQ:
      tested->repack_awq((const uint32_t *)(const void *)data->source, rows, columns / 8, data->dense);
      break;
  }
}

/* Millions of elements a second: the best of some calls. */
static double speed(const kernel *tested, const bench_data *data) {
  double best = INFINITY, spent = 0;
  for (int i = 0; i < 5 || (spent < 0.1 && i < 1000); i++) {
    double start = now();
    call(tested, data);
    double took = now() - start;
    spent += took;
    if (took < best) best = took;
  }
  return (double)data->elems / best / 1e6;
}

/* The kernel of an ISA that does what `ref` does; NULL where there is none that this machine can run. */
static const kernel *counterpart(const kernel *ref, mlxq_isa isa) {
  for (size_t i = 0; i < COUNT(kernels); i++) {
    const kernel *other = &kernels[i];
    if (other->isa == isa && other->kind == ref->kind && other->format == ref->format && mlxq_isa_usable(isa)) {
      return other;
    }
  }
  return NULL;
}

/* One line: the reference's speed, and each ISA's. */
static void bench_line(const kernel *ref, const bench_data *data) {
  double base = speed(ref, data);
  printf(" %9.0f", base);
  for (unsigned isa = MLXQ_ISA_REF + 1; isa < MLXQ_ISA_COUNT; isa++) {
    const kernel *tested = counterpart(ref, (mlxq_isa)isa);
    if (tested) {
      double rate = speed(tested, data);
      printf(" %9.0f (%5.1fx)", rate, rate / base);
    } else {
      printf(" %9s %8s", "-", "");
    }
  }
  puts("");
  fflush(stdout);
}

/* Weights as a model has them, and what the reference makes of them. */
static void bench_format(const kernel *ref, bench_data *data) {
  const mlxq_kernel_args *args = &data->args;
  for (size_t i = 0; i < data->elems; i++) {
    float x = 0.04f * random_normal();
    mlxq_cast_ref(MLXQ_F32, args->dtype, &x, data->dense + i * dtype_bytes(args->dtype), 1);
  }
  mlxq_kernels(MLXQ_ISA_REF)->quantize[ref->format](args, data->dense, data->packed, data->scales, data->biases);
  printf("%-10s %-8s g%-4zu %-4s %s", ref->kind == QUANTIZE ? "quantize" : "dequantize", FORMATS[ref->format].name,
         args->group_size, mlxq_dtype_name(args->dtype), args->profile == MLXQ_PROFILE_GPU ? "gpu" : "cpu");
  bench_line(ref, data);
}

static void bench_cast(const kernel *ref, bench_data *data) {
  static const mlxq_dtype FROM[] = {MLXQ_BF16, MLXQ_F16, MLXQ_F32};
  for (size_t i = 0; i < COUNT(FROM); i++) {
    data->from = FROM[i];
    if (data->from == data->args.dtype) continue;
    for (size_t at = 0; at < data->elems; at++) {
      float x = 0.04f * random_normal();
      mlxq_cast_ref(MLXQ_F32, data->from, &x, data->source + at * dtype_bytes(data->from), 1);
    }
    printf("cast       from %-4s to    %-4s    ", mlxq_dtype_name(data->from), mlxq_dtype_name(data->args.dtype));
    bench_line(ref, data);
  }
}

static const char *const NAMES[] = {
    [CAST] = "cast", [TRANSPOSE] = "transpose", [FP8] = "fp8", [REPACK_AWQ] = "repack_awq"};

static void bench_matrix(const kernel *ref, bench_data *data) {
  for (size_t i = 0; i < data->elems; i++) data->source[i] = (uint8_t)random_bits();
  for (size_t i = 0; i < data->elems / 16384; i++) memcpy(data->scales + 4 * i, &(float){0.5f}, 4);
  for (data->elem_bytes = 2; data->elem_bytes <= 4; data->elem_bytes += 2) {
    if (ref->kind != TRANSPOSE && data->elem_bytes > 2) break;
    printf("%-10s %-25s", NAMES[ref->kind],
           ref->kind != TRANSPOSE  ? ""
           : data->elem_bytes == 2 ? "of 2 bytes"
                                   : "of 4 bytes");
    bench_line(ref, data);
  }
}

/* Everything, or one format ("affine4") or another kind ("cast"). */
static void bench(const char *only, size_t elems) {
  const size_t bytes = elems * sizeof(float);
  bench_data data = {.elems = elems,
                     .dense = allocate(bytes),
                     .packed = allocate(bytes),
                     .scales = allocate(bytes),
                     .biases = allocate(bytes),
                     .source = allocate(bytes)};
  printf("Melem/s, one thread, %8zu elements %5s", elems, "ref");
  for (unsigned isa = MLXQ_ISA_REF + 1; isa < MLXQ_ISA_COUNT; isa++)
    printf(" %9s %8s", mlxq_isa_name((mlxq_isa)isa), "");
  puts("");
  for (size_t d = 0; d < COUNT(DTYPES); d++) {
    data.args.dtype = DTYPES[d];
    for (size_t i = 0; i < COUNT(kernels); i++) {
      const kernel *ref = &kernels[i];
      const char *name = ref->kind >= CAST ? NAMES[ref->kind] : FORMATS[ref->format].name;
      if (ref->isa != MLXQ_ISA_REF || (only && strcmp(only, name) != 0)) continue;
      if (ref->kind == CAST) bench_cast(ref, &data);
      if (ref->kind > CAST && d == 0) bench_matrix(ref, &data);
      if (ref->kind >= CAST) continue;
      data.args.group_size = FORMATS[ref->format].affine ? 64 : FORMATS[ref->format].smallest_group;
      data.args.groups = elems / data.args.group_size;
      for (int profile = MLXQ_PROFILE_CPU; profile <= MLXQ_PROFILE_GPU; profile++) {
        data.args.profile = (mlxq_profile)profile;
        bench_format(ref, &data);
      }
    }
  }
  free(data.dense);
  free(data.packed);
  free(data.scales);
  free(data.biases);
  free(data.source);
}

/* Whether mlxq_isa_usable says what the compiler's own look at the processor says. It includes the operating system's;
 * F16C, whose name not every compiler knows, needs no more than AVX2 of it. */
static bool isas_are_right(void) {
#if defined(__x86_64__)
  const unsigned f16c = 1u << 29;
  unsigned eax, ebx, ecx, edx;
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
              __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & f16c) != 0;
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const struct {
    mlxq_isa isa;
    bool usable;
  } seen[] = {{MLXQ_ISA_AVX2, avx2}, {MLXQ_ISA_AVX512, avx512}};
  for (size_t i = 0; i < COUNT(seen); i++) {
    if (seen[i].usable == mlxq_isa_usable(seen[i].isa)) continue;
    printf("the processor %s %s, which mlxq_isa_usable denies\n", seen[i].usable ? "has" : "has no",
           mlxq_isa_name(seen[i].isa));
    return false;
  }
#elif defined(__aarch64__)
  if (!mlxq_isa_usable(MLXQ_ISA_NEON)) {
    puts("every aarch64 processor has neon, which mlxq_isa_usable denies");
    return false;
  }
#endif
  return true;
}

/* Whether each ISA that this build has kernels of has one for every one of the reference. */
static bool is_complete(void) {
  bool complete = true;
  for (unsigned isa = MLXQ_ISA_REF + 1; isa < MLXQ_ISA_COUNT; isa++) {
    size_t rows[2] = {0, 0}; /* of the reference, and of those the ones it has */
    for (size_t i = 0; i < COUNT(kernels); i++) {
      if (kernels[i].isa != MLXQ_ISA_REF) continue;
      rows[0]++;
      for (size_t k = 0; k < COUNT(kernels); k++) {
        rows[1] += kernels[k].isa == isa && reference_of(&kernels[k]) == &kernels[i];
      }
    }
    if (rows[1] == 0 || rows[1] == rows[0]) continue;
    printf("kernels.def has %zu kernels for %s, and %zu of the reference\n", rows[1], mlxq_isa_name((mlxq_isa)isa),
           rows[0]);
    complete = false;
  }
  return complete;
}

static int fail_usage(void) {
  fputs(
      "usage: checkkern [--quick | --long | --bench [FORMAT | cast | transpose | fp8 | repack_awq | all [ELEMENTS]]]\n",
      stderr);
  return 2;
}

static bool is_a_name(const char *name) {
  for (size_t i = 0; i < COUNT(FORMATS); i++) {
    if (strcmp(name, FORMATS[i].name) == 0) return true;
  }
  for (size_t i = CAST; i < COUNT(NAMES); i++) {
    if (strcmp(name, NAMES[i]) == 0) return true;
  }
  return strcmp(name, "all") == 0;
}

int main(int argc, char **argv) {
  unsigned rounds = ROUNDS;
  if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
    if (argc > 4 || (argc > 2 && !is_a_name(argv[2]))) return fail_usage();
    size_t elems = argc > 3 ? strtoul(argv[3], NULL, 10) : BENCH_ELEMS;
    if (elems == 0 || elems % LEAST_BENCH_ELEMS != 0) {
      printf("--bench: elements must be a multiple of %d\n", LEAST_BENCH_ELEMS);
      return 1;
    }
    bench(argc > 2 && strcmp(argv[2], "all") != 0 ? argv[2] : NULL, elems);
    return 0;
  }
  if (argc == 2 && strcmp(argv[1], "--long") == 0) {
    rounds = LONG_ROUNDS;
  } else if (argc == 2 && strcmp(argv[1], "--quick") == 0) {
    rounds = 1;
  } else if (argc > 1) {
    return fail_usage();
  }
  unsigned usable = 0, run = 0;
  for (size_t i = 0; i < COUNT(kernels); i++) {
    kernel *tested = &kernels[i];
    if (tested->isa == MLXQ_ISA_REF) continue;
    if (!mlxq_isa_usable(tested->isa)) {
      printf("not run, this machine has no %s: %s\n", mlxq_isa_name(tested->isa), tested->name);
      continue;
    }
    usable++;
    switch (tested->kind) {
      case CAST:
        check_cast(tested, rounds);
        if (rounds >= LONG_ROUNDS) sweep_cast(tested, MLXQ_BF16);
        if (rounds >= LONG_ROUNDS) sweep_cast(tested, MLXQ_F16);
        break;
      case TRANSPOSE:
        check_matrices(tested, rounds, try_transpose);
        break;
      case FP8:
        check_matrices(tested, rounds, try_fp8);
        break;
      case REPACK_AWQ:
        check_matrices(tested, rounds, try_repack_awq);
        break;
      default:
        check_format(tested, rounds);
    }
    run += tested->runs > 0;
  }
  printf("%u of %u usable kernels were compared with the reference; %lu differences\n", run, usable, failures);
  return failures == 0 && run == usable && isas_are_right() && is_complete() ? 0 : 1;
}
