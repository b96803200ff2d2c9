#include "run/side_files.h"

#include "base/error.h"
#include "base/memory.h"
#include "checkpoint/index.h"
#include "checkpoint/report.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* The card that mlx_lm.convert writes for a local folder. */
static const char CARD[] = "---\nlanguage: en\nlibrary_name: mlx\npipeline_tag: text-generation\ntags:\n- mlx\n---\n";

static mlxq_status write_text(const char *folder, const char *name, const char *text, size_t length,
                              mlxq_error *error) {
  char *path = mlxq_path_join(folder, name);
  mlxq_status status = path ? mlxq_file_write_text(path, text, length, error) : mlxq_fail_memory(error);
  free(path);
  return status;
}

static mlxq_status write_index(const char *folder, const mlxq_plan *plan, const mlxq_quant_config *result,
                               mlxq_error *error) {
  mlxq_text index = {0};
  uint64_t bytes = mlxq_total_bytes(plan->outputs), parameters = mlxq_count_parameters(plan->outputs, result);
  mlxq_status status = mlxq_index_write(&index, plan->outputs, mlxq_plan_file_name, plan, bytes, parameters, error);
  if (status == MLXQ_OK) status = write_text(folder, MLXQ_INDEX_NAME, index.data, index.length, error);
  mlxq_text_free(&index);
  return status;
}

/* Takes note of one file; a folder of that name is passed over. */
static mlxq_status find_one(mlxq_checkpoint *source, const char *name, mlxq_error *error) {
  struct stat kind;
  char *path = mlxq_path_join(source->path, name);
  if (path && stat(path, &kind) == 0 && S_ISDIR(kind.st_mode)) {
    free(path);
    return MLXQ_OK;
  }
  if (source->other_count < MLXQ_MAX_FILES) return mlxq_checkpoint_note(source, path, error);
  free(path);
  mlxq_fail(error, MLXQ_OUT_OF_RANGE, NULL, NULL, "more than %u files would have to be copied", MLXQ_MAX_FILES);
  return mlxq_error_at_file(error, MLXQ_OUT_OF_RANGE, source->path);
}

mlxq_status mlxq_side_files_find(mlxq_checkpoint *source, mlxq_error *error) {
  mlxq_status status = MLXQ_OK;
  DIR *listing = opendir(source->path);
  if (!listing) return mlxq_fail_errno(error, errno, source->path, "cannot open");
  source->first_side_file = source->other_count;
  while (status == MLXQ_OK) {
    errno = 0;
    const struct dirent *entry = readdir(listing);
    if (!entry) {
      if (errno != 0) status = mlxq_fail_errno(error, errno, source->path, "cannot list");
      break;
    }
    if (mlxq_is_side_file(entry->d_name)) status = find_one(source, entry->d_name, error);
  }
  closedir(listing);
  return status;
}

static mlxq_status copy_all(const char *folder, const mlxq_checkpoint *source, mlxq_error *error) {
  mlxq_status status = MLXQ_OK;
  for (size_t i = source->first_side_file; status == MLXQ_OK && i < source->other_count; i++) {
    char *to = mlxq_path_join(folder, source->others[i].name);
    status = to ? mlxq_file_copy(to, source->others[i].path, &source->cancel, error) : mlxq_fail_memory(error);
    free(to);
  }
  return status;
}

uint64_t mlxq_side_files_bytes(const mlxq_checkpoint *source) {
  uint64_t bytes = 0;
  for (size_t i = source->first_side_file; i < source->other_count; i++) {
    if (!mlxq_add_u64(&bytes, bytes, source->others[i].identity.bytes)) return INT64_MAX;
  }
  return bytes;
}

mlxq_status mlxq_side_files_write(const char *folder, const mlxq_checkpoint *source, const mlxq_text *config,
                                  const mlxq_plan *plan, const mlxq_quant_config *result, mlxq_error *error) {
  mlxq_status status = write_text(folder, "config.json", config->data, config->length, error);
  if (status == MLXQ_OK) status = write_index(folder, plan, result, error);
  if (status == MLXQ_OK) status = write_text(folder, "README.md", CARD, strlen(CARD), error);
  if (status == MLXQ_OK) status = copy_all(folder, source, error);
  return status;
}
