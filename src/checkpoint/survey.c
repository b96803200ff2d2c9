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

/* "PREFIX-00002-of-00003.safetensors": five digits or more each, so that names are in the order of numbers. */
typedef struct shard_name {
  size_t prefix_length;
  int digits, total_digits;
  unsigned long number, total;
} shard_name;

enum { LEAST_DIGITS = 5, MOST_DIGITS = 9 };

/* Reads the digits that end before `*end`, and moves it before them. */
static bool take_digits(const char *name, size_t *end, int *digits, unsigned long *number) {
  size_t start = *end;
  while (start > 0 && isdigit((unsigned char)name[start - 1])) start--;
  if (*end - start < LEAST_DIGITS || *end - start > MOST_DIGITS) return false;
  *digits = (int)(*end - start);
  *number = strtoul(name + start, NULL, 10);
  *end = start;
  return true;
}

static bool take_word(const char *name, size_t *end, const char *word) {
  size_t length = strlen(word);
  if (*end < length || strncmp(name + *end - length, word, length) != 0) return false;
  *end -= length;
  return true;
}

static bool parse_shard_name(shard_name *shard, const char *name) {
  size_t end = strlen(name);
  bool fits = take_word(name, &end, ".safetensors") && take_digits(name, &end, &shard->total_digits, &shard->total) &&
              take_word(name, &end, "-of-") && take_digits(name, &end, &shard->digits, &shard->number) &&
              take_word(name, &end, "-");
  shard->prefix_length = end;
  return fits;
}

/* Files of one prefix and total, which follow each other since files are sorted by name. */
typedef struct shard_set {
  const mlxq_checkpoint *checkpoint;
  const mlxq_flaws *flaws;
  const char *name; /* its last file so far; NULL: no set */
  shard_name last;
  unsigned long next, end; /* the numbers after that file */
  unsigned long told, untold, first_untold;
} shard_set;

/* A few are named, the others are counted: one file may speak of 99,998 others. */
enum { MAX_ABSENT_TOLD = 10 };

/* Takes the file `number` of the set for absent, or with `count` above 1 so many from there on. */
static mlxq_status tell_absent(const shard_set *set, unsigned long number, unsigned long count, mlxq_error *error) {
  unsigned long total = set->last.total;
  mlxq_status status = mlxq_cancel_check(&set->checkpoint->cancel, error);
  if (status != MLXQ_OK) return status;
  char *absent = mlxq_asprintf("%.*s-%0*lu-of-%0*lu.safetensors", (int)set->last.prefix_length, set->name,
                               set->last.digits, number, set->last.total_digits, total);
  if (!absent) return mlxq_fail_memory(error);
  status = count == 1 ? mlxq_fail(error, MLXQ_MISSING_KEY, NULL, absent,
                                  "missing: by the name of %s there are %lu files", set->name, total)
                      : mlxq_fail(error, MLXQ_MISSING_KEY, NULL, absent,
                                  "missing, and so are %lu more of the %lu files", count - 1, total);
  status = mlxq_flaws_take(set->flaws, mlxq_error_at_file(error, status, set->checkpoint->path), error);
  free(absent);
  return status;
}

/* The numbers from `set->next` to below `end` are absent. */
static mlxq_status skip_to(shard_set *set, unsigned long end, mlxq_error *error) {
  mlxq_status status = MLXQ_OK;
  for (; status == MLXQ_OK && set->next < end && set->told < MAX_ABSENT_TOLD; set->told++) {
    status = tell_absent(set, set->next++, 1, error);
  }
  if (set->next >= end) return status;
  if (set->untold == 0) set->first_untold = set->next;
  set->untold += end - set->next;
  return status;
}

static mlxq_status end_set(shard_set *set, mlxq_error *error) {
  if (!set->name) return MLXQ_OK;
  mlxq_status status = skip_to(set, set->end, error);
  if (status == MLXQ_OK && set->untold > 0) status = tell_absent(set, set->first_untold, set->untold, error);
  *set = (shard_set){.checkpoint = set->checkpoint, .flaws = set->flaws};
  return status;
}

static mlxq_status add_shard(shard_set *set, const char *name, const shard_name *shard, mlxq_error *error) {
  bool follows = set->name && shard->total == set->last.total && shard->prefix_length == set->last.prefix_length &&
                 shard->digits == set->last.digits && shard->total_digits == set->last.total_digits &&
                 strncmp(name, set->name, shard->prefix_length) == 0;
  mlxq_status status = follows ? MLXQ_OK : end_set(set, error);
  if (!follows) { /* some count from 0 */
    set->next = shard->number == 0 ? 0 : 1;
    set->end = set->next + shard->total;
  }
  set->name = name;
  set->last = *shard;
  if (status == MLXQ_OK) status = skip_to(set, shard->number, error);
  set->next = shard->number + 1;
  return status;
}

mlxq_status mlxq_survey_shards(const mlxq_checkpoint *checkpoint, const mlxq_flaws *flaws, mlxq_error *error) {
  shard_set set = {.checkpoint = checkpoint, .flaws = flaws};
  mlxq_status status = MLXQ_OK;
  for (size_t i = 0; status == MLXQ_OK && i < checkpoint->file_count; i++) {
    const char *name = checkpoint->files[i].name;
    shard_name shard;
    status = parse_shard_name(&shard, name) ? add_shard(&set, name, &shard, error) : end_set(&set, error);
  }
  return status == MLXQ_OK ? end_set(&set, error) : status;
}
