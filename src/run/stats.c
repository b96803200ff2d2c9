#include "run/stats.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

/* The kind of a layer: the last part of its path. `name` is its weight's. */
static const char *kind_of(const char *name, size_t *length) {
  mlxq_name_splits(name, ".weight", length);
  const char *end = name + *length, *start = end;
  while (start > name && start[-1] != '.') start--;
  *length = (size_t)(end - start);
  return start;
}

/* The kinds so far, and a map of their names whose i-th is that of the i-th kind. */
typedef struct kind_list {
  mlxq_kind_stats *items;
  size_t count, capacity;
  mlxq_weights *names;
} kind_list;

/* The entry of a kind, which is added where it is new. NULL when memory is out. */
static mlxq_kind_stats *find_kind(kind_list *kinds, const char *kind, size_t length) {
  size_t index = mlxq_weights_index(kinds->names, kind, length);
  if (index != SIZE_MAX) return &kinds->items[index];
  void *items = kinds->items;
  if (!mlxq_grow(&items, kinds->count, &kinds->capacity, sizeof *kinds->items)) return NULL;
  kinds->items = items;
  char *copy = mlxq_asprintf("%.*s", (int)length, kind);
  if (!copy) return NULL;
  kinds->items[kinds->count++] = (mlxq_kind_stats){.kind = copy};
  mlxq_status status = mlxq_weights_describe(kinds->names, kind, length, MLXQ_U8, 0, NULL, 0, 0, NULL, NULL);
  return status == MLXQ_OK ? &kinds->items[kinds->count - 1] : NULL;
}

static void add_job(mlxq_kind_stats *kind, const mlxq_plan *plan, size_t index, const mlxq_tile_stats *tiles) {
  const mlxq_job *job = &plan->jobs[index];
  kind->layers += job->outputs[0].slice == 0; /* of several jobs for a layer the first */
  kind->elems += job->units * job->unit_groups * (uint64_t)job->scheme.group_size;
  uint64_t end = index + 1 < plan->job_count ? plan->jobs[index + 1].first_tile : plan->tile_count;
  for (uint64_t tile = job->first_tile; tile < end; tile++) {
    kind->squared_error += tiles[tile].squared_error;
    kind->squared_weight += tiles[tile].squared_weight;
  }
}

mlxq_status mlxq_stats_by_kind(mlxq_kind_stats **result, size_t *result_count, const mlxq_plan *plan,
                               const mlxq_tile_stats *tiles, mlxq_error *error) {
  kind_list kinds = {0};
  mlxq_status status = mlxq_weights_new(&kinds.names, error);
  for (size_t i = 0; status == MLXQ_OK && i < plan->job_count; i++) {
    const mlxq_job *job = &plan->jobs[i];
    if (job->action != MLXQ_ACTION_QUANTIZE) continue;
    size_t length = 0;
    const char *name = kind_of(plan->outputs->entries[job->outputs[0].tensor].tensor.name, &length);
    mlxq_kind_stats *kind = find_kind(&kinds, name, length);
    if (kind) {
      add_job(kind, plan, i, tiles);
    } else {
      status = mlxq_fail_memory(error);
    }
  }
  mlxq_weights_free(kinds.names);
  if (status != MLXQ_OK) {
    mlxq_stats_free(kinds.items, kinds.count);
    return status;
  }
  *result = kinds.items;
  *result_count = kinds.count;
  return MLXQ_OK;
}

void mlxq_stats_free(mlxq_kind_stats *kinds, size_t count) {
  for (size_t i = 0; i < count; i++) free(kinds[i].kind);
  free(kinds);
}
