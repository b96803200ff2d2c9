/* The speed of importing: whole tiles of AutoAWQ and GPTQ layers, from stored parts to MLX's, for every instruction set
 * that this machine has. One thread, data in memory; millions of weights in a second of processor time, the best of
 * some calls: import_tiles [INS OUTS] */
#include "kernels/kernels.h"
#include "plan/model.h"
#include "run/foreign_tile.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { GROUP = 128, KERNELS = MLXQ_ISA_COUNT };

typedef enum import_way { KEPT, EXACT, REQUANTIZED, REORDERED, WAYS } import_way;

static const char *const WAY_NAMES[WAYS] = {"", "--exact", "--requantize 4", "the same, g_idx"};

static const struct {
  const char *name;
  mlxq_packing packing;
  mlxq_zero_rule zero_rule;
  uint32_t bits;
} FORMATS[] = {
    {"awq gemm, 4 bits", MLXQ_PACKING_AWQ_GEMM, MLXQ_ZERO_STORED, 4},
    {"awq gemv, 4 bits", MLXQ_PACKING_AWQ_GEMV, MLXQ_ZERO_STORED, 4},
    {"gptq, 2 bits", MLXQ_PACKING_GPTQ, MLXQ_ZERO_LESS_ONE, 2},
    {"gptq, 3 bits", MLXQ_PACKING_GPTQ, MLXQ_ZERO_LESS_ONE, 3},
    {"gptq, 4 bits", MLXQ_PACKING_GPTQ, MLXQ_ZERO_LESS_ONE, 4},
    {"gptq, 8 bits", MLXQ_PACKING_GPTQ, MLXQ_ZERO_LESS_ONE, 8},
};

typedef struct buffers {
  uint8_t *inputs[3], *outputs[3], *scratch;
  int32_t *group_index; /* of each input: in no order */
} buffers;

static void *allocate(size_t bytes) {
  void *memory = malloc(bytes);
  if (!memory) {
    fputs("import_tiles: out of memory\n", stderr);
    exit(1);
  }
  memset(memory, 0, bytes);
  return memory;
}

static mlxq_foreign_layer layer_of(size_t format, import_way way, size_t ins, size_t outs) {
  const uint32_t bits = FORMATS[format].bits;
  mlxq_foreign_layer layer = {.packing = FORMATS[format].packing,
                              .zero_rule = FORMATS[format].zero_rule,
                              .group_index = MLXQ_NO_TENSOR,
                              .bits = bits,
                              .outs = outs,
                              .ins = ins,
                              .groups = ins / GROUP,
                              .group_ins = GROUP,
                              .repeat = 1,
                              .round_dtype = MLXQ_F16,
                              .dtype = MLXQ_F16,
                              .scheme = {MLXQ_AFFINE, (int32_t)bits, GROUP},
                              .widened = way == EXACT,
                              .requantized = way >= REQUANTIZED};
  if (way == EXACT) layer.scheme.bits++;
  if (layer.requantized) layer.scheme.bits = 4;
  return layer;
}

static double processor_time(void) {
  struct timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static double speed(const mlxq_foreign_tile *tile, const mlxq_kernel_table *kernels, const buffers *data) {
  const void *inputs[] = {data->inputs[0], data->inputs[1], data->inputs[2]};
  void *outputs[] = {data->outputs[0], data->outputs[1], data->outputs[2]};
  double best = INFINITY, spent = 0;
  for (int i = 0; i < 5 || spent < 0.2; i++) {
    const char *bad = NULL;
    const double start = processor_time();
    if (!mlxq_foreign_tile_run(tile, kernels, inputs, outputs, &bad)) {
      fprintf(stderr, "import_tiles: %s\n", bad);
      exit(1);
    }
    const double took = processor_time() - start;
    spent += took;
    if (took < best) best = took;
  }
  return (double)tile->layer->ins * (double)tile->outs / best / 1e6;
}

static void bench_line(size_t format, import_way way, size_t ins, size_t outs, const buffers *data) {
  const mlxq_foreign_layer layer = layer_of(format, way, ins, outs);
  const mlxq_foreign_tile tile = {.layer = &layer,
                                  .outs = outs,
                                  .scale_row = (size_t)layer.groups,
                                  .zero_row = (size_t)layer.groups * layer.bits / 32,
                                  .scales = MLXQ_F16,
                                  .must_be_finite = true,
                                  .group_index = way == REORDERED ? data->group_index : NULL,
                                  .scratch = data->scratch};
  printf("%-17s %-15s", FORMATS[format].name, WAY_NAMES[way]);
  for (unsigned isa = 0; isa < KERNELS; isa++) {
    if (mlxq_isa_usable((mlxq_isa)isa)) printf(" %9.0f", speed(&tile, mlxq_kernels((mlxq_isa)isa), data));
  }
  puts("");
  fflush(stdout);
}

int main(int argc, char **argv) {
  const size_t ins = argc > 2 ? strtoul(argv[1], NULL, 10) : 4096, outs = argc > 2 ? strtoul(argv[2], NULL, 10) : 1024;
  if (ins == 0 || ins % 1024 != 0 || outs == 0 || outs % 32 != 0) {
    fputs("import_tiles: INS must be a multiple of 1024, OUTS of 32\n", stderr);
    return 2;
  }
  const size_t room = outs * ins + outs * (ins / GROUP) * 64 + ins * 64;
  buffers data = {.scratch = allocate(room), .group_index = allocate(ins * sizeof(int32_t))};
  for (size_t i = 0; i < 3; i++) {
    data.inputs[i] = allocate(room);
    data.outputs[i] = allocate(room);
  }
  srand(1);
  for (size_t i = 0; i < room; i++) data.inputs[0][i] = (uint8_t)(rand() >> 8);
  memcpy(data.inputs[2], data.inputs[0], room);
  for (size_t i = 0; i < room / 2; i++) memcpy(data.inputs[1] + 2 * i, &(uint16_t){(uint16_t)(0x2400 + i % 512)}, 2);

  for (size_t i = 0; i < ins; i++) data.group_index[i] = (int32_t)(i * 37 % (ins / GROUP));

  printf("Melem/s, one thread, %zu x %-11zu", outs, ins);
  for (unsigned isa = 0; isa < KERNELS; isa++) {
    if (mlxq_isa_usable((mlxq_isa)isa)) printf(" %9s", mlxq_isa_name((mlxq_isa)isa));
  }
  puts("");
  for (size_t format = 0; format < sizeof FORMATS / sizeof *FORMATS; format++) {
    for (int way = KEPT; way < WAYS; way++) {
      if (way == EXACT && FORMATS[format].bits == 8) continue; /* MLX has no ninth bit */
      if (way == REORDERED && FORMATS[format].packing != MLXQ_PACKING_GPTQ) continue;
      bench_line(format, (import_way)way, ins, outs, &data);
    }
  }
  for (size_t i = 0; i < 3; i++) {
    free(data.inputs[i]);
    free(data.outputs[i]);
  }
  free(data.scratch);
  free(data.group_index);
  return 0;
}
