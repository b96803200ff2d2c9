#include "checkpoint/survey.h"

#include "safetensors/safetensors.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* ---- Headers --------------------------------------------------------------------------------------------------- */

/* Moves the descriptions of `found`, the tensors of file `file`, to the checkpoint's. */
static mlxq_status merge(mlxq_checkpoint *checkpoint, mlxq_weights *found, const mlxq_source_file *file,
                         const mlxq_flaws *flaws, mlxq_error *error) {
  mlxq_weights *all = checkpoint->tensors;
  for (size_t i = 0; i < found->count; i++) {
    const mlxq_tensor_entry *entry = &found->entries[i];
    const mlxq_tensor *tensor = &entry->tensor;
    size_t length = strlen(tensor->name), other = mlxq_weights_index(all, tensor->name, length);
    mlxq_status status;
    if (other != SIZE_MAX) {
      status = mlxq_fail(error, MLXQ_KEY_COLLISION, NULL, tensor->name, "is in %s too",
                         checkpoint->files[all->entries[other].file].name);
    } else if (all->count >= MLXQ_SAFETENSORS_MAX_TENSORS) {
      return mlxq_fail(error, MLXQ_UNSUPPORTED, NULL, NULL, "more than %u tensors", MLXQ_SAFETENSORS_MAX_TENSORS);
    } else {
      status = mlxq_weights_describe(all, tensor->name, length, tensor->dtype, tensor->rank, tensor->shape, entry->file,
                                     entry->offset, NULL, error);
    }
    status = mlxq_flaws_take(flaws, mlxq_error_at_file(error, status, file->path), error);
    if (status != MLXQ_OK) return status;
  }
  return MLXQ_OK;
}

/* The first file's descriptions become the checkpoint's: most checkpoints are one file. */
static mlxq_status adopt(mlxq_checkpoint *checkpoint, mlxq_weights **found, const mlxq_source_file *file,
                         const mlxq_flaws *flaws, mlxq_error *error) {
  if (checkpoint->tensors->count > 0) return merge(checkpoint, *found, file, flaws, error);
  mlxq_weights *empty = checkpoint->tensors;
  checkpoint->tensors = *found;
  *found = empty;
  return MLXQ_OK;
}

static mlxq_status survey_header(mlxq_checkpoint *checkpoint, uint32_t index, const mlxq_flaws *flaws,
                                 mlxq_error *error) {
  mlxq_source_file *file = &checkpoint->files[index];
  mlxq_weights *found = NULL;
  int fd = -1;
  mlxq_status status = mlxq_cancel_check(&checkpoint->cancel, error);
  if (status == MLXQ_OK) status = mlxq_file_open(&fd, &file->identity, file->path, error);
  if (status != MLXQ_OK) return checkpoint->is_folder ? mlxq_flaws_take(flaws, status, error) : status;
  status = mlxq_weights_new(&found, error);
  if (status != MLXQ_OK) goto cleanup;
  status = mlxq_safetensors_survey(found, index, fd, file->identity.bytes, file->path, flaws, error);
  if (status != MLXQ_OK) {
    status = mlxq_flaws_take(flaws, mlxq_error_at_file(error, status, file->path), error);
    goto cleanup;
  }
  file->unknown = false;
  status = adopt(checkpoint, &found, file, flaws, error);
cleanup:
  mlxq_weights_free(found);
  mlxq_file_close(fd);
  return status;
}

mlxq_status mlxq_survey_headers(mlxq_checkpoint *checkpoint, const mlxq_flaws *flaws, mlxq_error *error) {
  mlxq_status status = MLXQ_OK;
  for (size_t i = 0; i < checkpoint->file_count; i++) checkpoint->files[i].unknown = true;
  for (size_t i = 0; status == MLXQ_OK && i < checkpoint->file_count; i++) {
    status = survey_header(checkpoint, (uint32_t)i, flaws, error);
  }
  return status;
}

/* ---- Numbered shards ------------------------------------------------------------------------------------------- */

/* "PREFIX-00002-of-00003.safetensors" */
typedef struct shard_name {
  size_t prefix_length;
  unsigned long number, total;
} shard_name;

static bool parse_shard_name(shard_name *shard, const char *name) {
  static const char PATTERN[] = "-00000-of-00000.safetensors";
  size_t length = strlen(name), tail = sizeof PATTERN - 1;
  if (length < tail) return false;
  const char *at = name + length - tail;
  for (size_t i = 0; i < tail; i++) {
    bool fits = PATTERN[i] == '0' ? isdigit((unsigned char)at[i]) != 0 : at[i] == PATTERN[i];
    if (!fits) return false;
  }
  *shard = (shard_name){length - tail, strtoul(at + 1, NULL, 10), strtoul(at + strlen("-00000-of-"), NULL, 10)};
  return true;
}

static mlxq_status tell_absent(const mlxq_checkpoint *checkpoint, const char *name, const shard_name *shard,
                               unsigned long from, unsigned long end, const mlxq_flaws *flaws, mlxq_error *error) {
  mlxq_status status = MLXQ_OK;
  for (unsigned long number = from; status == MLXQ_OK && number < end; number++) {
    char *absent =
        mlxq_asprintf("%.*s-%05lu-of-%05lu.safetensors", (int)shard->prefix_length, name, number, shard->total);
    if (!absent) return mlxq_fail_memory(error);
    status = mlxq_fail(error, MLXQ_MISSING_KEY, NULL, absent, "missing: %s is one of %lu files", name, shard->total);
    status = mlxq_flaws_take(flaws, mlxq_error_at_file(error, status, checkpoint->path), error);
    free(absent);
  }
  return status;
}

/* Files are sorted by name, so shards of one name follow each other. Some count them from 0. */
mlxq_status mlxq_survey_shards(const mlxq_checkpoint *checkpoint, const mlxq_flaws *flaws, mlxq_error *error) {
  const char *name = NULL;
  shard_name last = {0};
  unsigned long next = 0, end = 0;
  mlxq_status status = MLXQ_OK;
  for (size_t i = 0; status == MLXQ_OK && i <= checkpoint->file_count; i++) {
    shard_name shard;
    bool is_shard = i < checkpoint->file_count && parse_shard_name(&shard, checkpoint->files[i].name);
    bool follows = is_shard && name && shard.total == last.total && shard.prefix_length == last.prefix_length &&
                   strncmp(checkpoint->files[i].name, name, last.prefix_length) == 0;
    if (name && !follows) status = tell_absent(checkpoint, name, &last, next, end, flaws, error);
    if (!is_shard) {
      name = NULL;
      continue;
    }
    if (!follows) {
      next = shard.number == 0 ? 0 : 1;
      end = shard.number == 0 ? shard.total : shard.total + 1;
    }
    name = checkpoint->files[i].name;
    last = shard;
    if (status == MLXQ_OK) status = tell_absent(checkpoint, name, &last, next, shard.number, flaws, error);
    next = shard.number + 1;
  }
  return status;
}
