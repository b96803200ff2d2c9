/* The planner of AWQ, on tiny layers of its three versions, most of which fit the config, and what the plan makes. */
#include "imported.h"

#include <mlxq/import.h>
#include <string.h>

typedef struct scenario {
  input in;
  sketch sketch;
  mlxq_import_request request;
  awq_version version;
  uint64_t group;
} scenario;

static void add_layer(void *user, const char *path) {
  static const uint64_t OUTS[] = {8, 16, 32, 4, 64, 0}, INS[] = {128, 64, 256, 32, 0, 512};
  scenario *s = user;
  uint64_t outs = take_one(&s->in, OUTS), ins = take_one(&s->in, INS);
  uint64_t group = s->group ? s->group : ins ? ins : 1;
  awq_version version = take_rarely(&s->in, 8) ? (awq_version)take_below(&s->in, 3) : s->version;
  mlxq_dtype dtype = take_rarely(&s->in, 16) ? MLXQ_F64 : sketch_float(&s->sketch);
  sketch_awq(&s->sketch, path, version, dtype, outs, ins, group);
}

static void take_config(scenario *s) {
  static const char *const VERSIONS[] = {"gemm", "GEMV", "gemv_fast", ""};
  static const uint64_t GROUPS[] = {128, 64, 32, 0, 256, 16, 1, 96};
  s->version = (awq_version)take_below(&s->in, 3);
  s->group = take_one(&s->in, GROUPS);
  s->request.config = (mlxq_foreign_config){.bits = 4,
                                            .group_size = s->group ? (int64_t)s->group : -1,
                                            .zero_point = !take_rarely(&s->in, 4),
                                            .version = VERSIONS[s->version],
                                            .format = ""};
  if (take_rarely(&s->in, 16)) s->request.config.bits = (int64_t)take_number(&s->in);
  if (take_rarely(&s->in, 16)) s->request.config.group_size = (int64_t)take_number(&s->in);
  if (take_rarely(&s->in, 16)) s->request.config.version = take_one(&s->in, VERSIONS);
}

/* GEMM's alone: the others' order is that of the unit tests' packer. */
static void check_codes(const mlxq_tensor *stored, const mlxq_tensor *weight, unsigned bits) {
  uint32_t *codes = NULL;
  uint64_t shape[2];
  if (stored->dtype == MLXQ_I16 || mlxq_unpack_awq(&codes, shape, stored, NULL) != MLXQ_OK) return;
  bool gemm = shape[1] == weight->shape[0] && shape[0] == weight->shape[1] * 8;
  bool gemv = stored->shape[0] == weight->shape[0] && stored->shape[1] == weight->shape[1];
  require(bits == 4 && (gemm || gemv));
  for (uint64_t i = 0; gemm && !gemv && i < shape[0] * shape[1]; i++) {
    uint64_t in = i / shape[1], out = i % shape[1];
    uint32_t word;
    memcpy(&word, (const uint32_t *)weight->data + out * weight->shape[1] + in / 8, sizeof word);
    require((word >> in % 8 * 4 & 15u) == codes[i]);
  }
  mlxq_free(codes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  scenario s = {.in = {data, size}, .sketch = {.tensors = new_weights(), .finite = true}};
  s.sketch.in = &s.in;
  take_config(&s);
  sketch_layers(&s.sketch, add_layer, &s);
  check_import(mlxq_plan_import_awq, &s.sketch, &s.request, check_codes);
  mlxq_weights_free(s.sketch.tensors);
  return 0;
}
