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

/* The entry of a kind; models have a dozen, so a search is fine. NULL when memory is out. */
static mlxq_kind_stats *find_kind(mlxq_kind_stats **kinds, size_t *count, size_t *capacity, const char *kind,
                                  size_t length) {
  for (size_t i = 0; i < *count; i++) {
    if (strncmp((*kinds)[i].kind, kind, length) == 0 && (*kinds)[i].kind[length] == '\0') return &(*kinds)[i];
  }
  void *grown = *kinds;
  if (!mlxq_grow(&grown, *count, capacity, sizeof **kinds)) return NULL;
  *kinds = grown;
  char *copy = mlxq_asprintf("%.*s", (int)length, kind);
  if (!copy) return NULL;
  (*kinds)[*count] = (mlxq_kind_stats){.kind = copy};
  return &(*kinds)[(*count)++];
}

mlxq_status mlxq_stats_by_kind(mlxq_kind_stats **result, size_t *result_count, const mlxq_plan *plan,
                               const mlxq_tile_stats *tiles, mlxq_error *error) {
  mlxq_kind_stats *kinds = NULL;
  size_t count = 0, capacity = 0;
  for (size_t i = 0; i < plan->job_count; i++) {
    const mlxq_job *job = &plan->jobs[i];
    if (job->action != MLXQ_ACTION_QUANTIZE) continue;
    const mlxq_tensor *weight = &plan->outputs->entries[job->outputs[0].tensor].tensor;
    size_t length = 0;
    const char *name = kind_of(weight->name, &length);
    mlxq_kind_stats *kind = find_kind(&kinds, &count, &capacity, name, length);
    if (!kind) {
      mlxq_stats_free(kinds, count);
      return mlxq_fail_memory(error);
    }
    kind->layers += job->outputs[0].slice == 0; /* of several jobs for a layer the first */
    kind->elems += job->units * job->unit_groups * (uint64_t)job->scheme.group_size;
    uint64_t end = i + 1 < plan->job_count ? plan->jobs[i + 1].first_tile : plan->tile_count;
    for (uint64_t tile = job->first_tile; tile < end; tile++) {
      kind->squared_error += tiles[tile].squared_error;
      kind->squared_weight += tiles[tile].squared_weight;
    }
  }
  *result = kinds;
  *result_count = count;
  return MLXQ_OK;
}

void mlxq_stats_free(mlxq_kind_stats *kinds, size_t count) {
  for (size_t i = 0; i < count; i++) free(kinds[i].kind);
  free(kinds);
}
