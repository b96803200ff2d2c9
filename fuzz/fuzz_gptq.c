/* The planner of GPTQ, on tiny layers of 2, 3, 4 and 8 bits, most of which fit the config, and what the plan makes. */
#include "imported.h"

#include <string.h>

typedef struct scenario {
  input in;
  sketch sketch;
  mlxq_import_request request;
  unsigned bits;
  uint64_t group;
} scenario;

static const unsigned BITS[] = {4, 2, 3, 8};

static void add_layer(void *user, const char *path) {
  static const uint64_t OUTS[] = {32, 16, 8, 64, 96, 0}, INS[] = {128, 64, 256, 32, 96, 0};
  scenario *s = user;
  uint64_t outs = take_one(&s->in, OUTS), ins = take_one(&s->in, INS);
  uint64_t group = s->group ? s->group : ins ? ins : 1;
  unsigned bits = take_rarely(&s->in, 8) ? take_one(&s->in, BITS) : s->bits;
  sketch_gptq(&s->sketch, path, bits, sketch_float(&s->sketch), outs, ins, group);
}

static void take_config(scenario *s) {
  static const char *const FORMATS[] = {"gptq", "gptq_v2", "", "marlin"};
  static const uint64_t GROUPS[] = {128, 64, 32, 0, 256, 16, 1, 48};
  s->bits = take_one(&s->in, BITS);
  s->group = take_one(&s->in, GROUPS);
  mlxq_foreign_config *config = &s->request.config;
  *config = (mlxq_foreign_config){.bits = s->bits,
                                  .group_size = s->group ? (int64_t)s->group : -1,
                                  .version = "",
                                  .format = take_one(&s->in, FORMATS)};
  config->symmetric = take_bool(&s->in);
  config->says_symmetric = take_bool(&s->in);
  config->gptqmodel = take_bool(&s->in);
  config->gptqmodel_version = config->gptqmodel ? (int)take_below(&s->in, 9) : 0;
  config->dynamic = take_rarely(&s->in, 4);
  if (take_rarely(&s->in, 8)) config->bits = 0;
  if (take_rarely(&s->in, 16)) config->bits = (int64_t)take_number(&s->in);
  if (take_rarely(&s->in, 16)) config->group_size = (int64_t)take_number(&s->in);
}

/* MLX's matrix of words is the stored one, transposed. */
static void check_codes(const mlxq_tensor *stored, const mlxq_tensor *weight, unsigned bits) {
  const uint32_t *from = stored->data, *to = weight->data;
  uint64_t rows = stored->shape[0], columns = stored->shape[1];
  (void)bits;
  require(weight->shape[0] == columns && weight->shape[1] == rows);
  for (uint64_t i = 0; i < rows * columns; i++) {
    uint64_t row = i / columns, column = i % columns;
    require(memcmp(&from[i], &to[column * rows + row], sizeof *from) == 0);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  scenario s = {.in = {data, size}, .sketch = {.tensors = new_weights(), .finite = true}};
  s.sketch.in = &s.in;
  take_config(&s);
  sketch_layers(&s.sketch, add_layer, &s);
  check_import(mlxq_plan_import_gptq, &s.sketch, &s.request, check_codes);
  mlxq_weights_free(s.sketch.tensors);
  return 0;
}
