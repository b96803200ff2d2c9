/* The key of a journal: everything that decides the bytes of a plan's files, member by member, since structs have
 * padding. The instruction set and the number of threads are not in it: no byte depends on them. The program is in it,
 * by its source: MLXQ_SOURCES_DIGEST comes from CMakeLists.txt. */
#include "run/journal.h"

#include <string.h>

#if UINTPTR_MAX == UINT64_MAX
/* Who adds a member to one of these adds it below. */
_Static_assert(sizeof(mlxq_job) == 168, "the key covers every member of a job");
_Static_assert(sizeof(mlxq_operand) == 20, "the key covers every member of an operand");
_Static_assert(sizeof(mlxq_slice) == 32, "the key covers every member of a slice");
_Static_assert(sizeof(mlxq_preparation) == 48, "the key covers every member of a preparation");
_Static_assert(sizeof(mlxq_foreign_layer) == 96, "the key covers every member of a foreign layer");
_Static_assert(sizeof(mlxq_plan) == 136, "the key covers every member of a plan");
#endif

static void mix(uint64_t *key, uint64_t value) {
  *key = (*key ^ value) * UINT64_C(0x9e3779b97f4a7c15);
  *key ^= *key >> 29;
}

#define MIX(key, ...) \
  mix_all(key, (const uint64_t[]){__VA_ARGS__}, sizeof((uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

static void mix_all(uint64_t *key, const uint64_t *values, size_t count) {
  for (size_t i = 0; i < count; i++) mix(key, values[i]);
}

static void mix_text(uint64_t *key, const char *text) {
  MIX(key, strlen(text), mlxq_digest(text, strlen(text)));
}

static void mix_tensors(uint64_t *key, const mlxq_weights *tensors) {
  mix(key, tensors->count);
  for (size_t i = 0; i < tensors->count; i++) {
    const mlxq_tensor_entry *entry = &tensors->entries[i];
    const mlxq_tensor *tensor = &entry->tensor;
    mix_text(key, tensor->name);
    MIX(key, tensor->dtype, tensor->bytes, entry->file, entry->offset, tensor->rank);
    for (uint32_t k = 0; k < tensor->rank; k++) mix(key, tensor->shape[k]);
  }
}

static void mix_scheme(uint64_t *key, const mlxq_scheme *scheme) {
  MIX(key, scheme->mode, (uint64_t)scheme->bits, (uint64_t)scheme->group_size);
}

static void mix_operands(uint64_t *key, const mlxq_operand *operands, uint32_t count) {
  mix(key, count);
  for (uint32_t i = 0; i < count; i++) {
    const mlxq_operand *operand = &operands[i];
    MIX(key, operand->tensor, operand->slice, operand->unit_bytes, operand->cast_elems, operand->cast_from,
        operand->cast_to);
  }
}

static void mix_foreign(uint64_t *key, const mlxq_foreign_layer *layer) {
  MIX(key, layer->packing, layer->zero_rule, layer->weight, layer->scales, layer->zeros, layer->group_index,
      layer->bits, layer->outs, layer->ins, layer->groups, layer->group_ins, layer->repeat, layer->round_dtype,
      layer->dtype, layer->widened, layer->requantized);
  mix_scheme(key, &layer->scheme);
}

static void mix_jobs(uint64_t *key, const mlxq_plan *plan) {
  mix(key, plan->job_count);
  for (size_t i = 0; i < plan->job_count; i++) {
    const mlxq_job *job = &plan->jobs[i];
    MIX(key, job->action, job->dtype, job->unit_groups, job->detail, job->units, job->units_per_tile, job->first_tile);
    mix_operands(key, job->inputs, job->input_count);
    mix_operands(key, job->outputs, job->output_count);
    mix_scheme(key, &job->scheme);
    if (job->action == MLXQ_ACTION_IMPORT) mix_foreign(key, &plan->foreign[job->detail]);
  }
}

static void mix_places(uint64_t *key, const mlxq_plan *plan) {
  mix(key, plan->slice_count);
  for (size_t i = 0; i < plan->slice_count; i++) {
    const mlxq_slice *slice = &plan->slices[i];
    MIX(key, slice->offset, slice->unit_stride, slice->rows, slice->row_stride);
  }
  mix(key, plan->preparation_count);
  for (size_t i = 0; i < plan->preparation_count; i++) {
    const mlxq_preparation *how = &plan->preparations[i];
    MIX(key, how->fp8, how->transpose, how->add_one, how->dtype, how->row_elems, how->first_row, how->first_column,
        how->block_rows, how->block_columns, how->scale_columns);
  }
}

static void mix_sources(uint64_t *key, const mlxq_source_file *sources, size_t count) {
  mix(key, count);
  for (size_t i = 0; i < count; i++) {
    const mlxq_file_identity *identity = &sources[i].identity;
    mix_text(key, sources[i].path);
    MIX(key, identity->device, identity->inode, identity->bytes, (uint64_t)identity->modified_ns,
        (uint64_t)identity->changed_ns);
  }
}

uint64_t mlxq_journal_key(const mlxq_plan *plan, const mlxq_source_file *sources, size_t source_count) {
  uint64_t key = 0;
  mix_text(&key, MLXQ_SOURCES_DIGEST);
  MIX(&key, plan->profile, plan->allow_nonfinite, plan->for_mlx);
  mix_tensors(&key, plan->stored);
  mix_tensors(&key, plan->outputs);
  mix_jobs(&key, plan);
  mix_places(&key, plan);
  mix(&key, plan->file_count);
  for (size_t i = 0; i < plan->file_count; i++) {
    mix_text(&key, plan->files[i].name);
    mix(&key, plan->files[i].bytes);
  }
  mix_sources(&key, sources, source_count);
  return key;
}
