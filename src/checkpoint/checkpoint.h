/* A checkpoint opened for reading: where every tensor lies, and what config.json says. No weights are read. */
#ifndef MLXQ_CHECKPOINT_CHECKPOINT_H
#define MLXQ_CHECKPOINT_CHECKPOINT_H

#include "base/error.h"
#include "base/file.h"
#include "tensor/tensor_map.h"

#include <json-c/json_object.h>
#include <mlxq/scheme.h>

/* Most .safetensors files in a folder that is read or written: numbered names have five digits. */
#define MLXQ_MAX_FILES 99999u

#define MLXQ_NO_TOTAL UINT64_MAX

/* What a conversion keeps in a folder until it is finished (run/journal.h). */
#define MLXQ_JOURNAL_NAME ".mlxq-journal"

typedef struct mlxq_source_file {
  char *path;
  const char *name; /* the part of `path` inside the folder */
  mlxq_file_identity identity;
  bool unknown; /* after a survey: its header could not be read */
} mlxq_source_file;

typedef struct mlxq_checkpoint {
  char *path;
  bool is_folder;
  mlxq_source_file *files; /* the .safetensors files; tensors refer to them by index */
  size_t file_count;
  mlxq_weights *tensors;
  struct json_object *config; /* config.json; NULL for a single file */
  char *config_path;          /* NULL likewise */
  mlxq_source_file *others;   /* config.json, the index and what else is read beside the tensors, as found */
  size_t other_count, other_capacity;
  size_t first_side_file; /* of these, those that a converted folder keeps, see mlxq_side_files_find */
  uint64_t index_bytes;   /* after a survey: the index's total_size, or MLXQ_NO_TOTAL */
  mlxq_cancel cancel;     /* looked at while opening, and for planners */
} mlxq_checkpoint;

/* Opens a folder or a single file; see CLI.md, `SRC`. The caller releases `*result`. */
mlxq_status mlxq_checkpoint_open(mlxq_checkpoint **result, const char *path, mlxq_error *error);

/* The same for those who may cancel it, or list flaws (NULL for either). Of the latter: whatever is wrong within the
 * source is told to `flaws`, and the checkpoint holds what could be read: not the tensors of files with a broken
 * header, no config where that is broken, of a tensor that is in two files the first. Errors are left for what cannot
 * be opened at all. generation_config.json is not read. */
mlxq_status mlxq_checkpoint_survey(mlxq_checkpoint **result, const char *path, const mlxq_cancel *cancel,
                                   const mlxq_flaws *flaws, mlxq_error *error);

void mlxq_checkpoint_free(mlxq_checkpoint *checkpoint);

/* Takes note of what a file beside the tensors is now, before it is read: mlxq_checkpoint_check will look whether it
 * still is. Takes `path` over; NULL is MLXQ_NO_MEMORY. */
mlxq_status mlxq_checkpoint_note(mlxq_checkpoint *checkpoint, char *path, mlxq_error *error);

/* MLXQ_CHANGED, naming the file, unless every file is still what it was when opened, but for those whose header a
 * survey could not read, and a folder has no other file of tensors by now. */
mlxq_status mlxq_checkpoint_check(const mlxq_checkpoint *checkpoint, mlxq_error *error);

/* The `quantization_config` of config.json or, where that is absent or null (mlx-lm: only where it is absent), of its
 * text_config; NULL where Python takes it for false. */
struct json_object *mlxq_checkpoint_foreign_block(const mlxq_checkpoint *checkpoint);

/* A block in `quantization_config` that is MLX's, where `quantization`, of which it is a copy, is absent; or NULL.
 * MLX's names no quant_method, and says group_size and bits or stands beside packed layers. */
struct json_object *mlxq_checkpoint_lone_copy(const mlxq_checkpoint *checkpoint);

/* The quant_method of a quantization that is not MLX's, or NULL; valid while the checkpoint is. `*guessed` says whether
 * it comes from the tensors alone, and not from a config. MLXQ_MISSING_KEY where there is a lone copy. */
mlxq_status mlxq_checkpoint_foreign(const char **method, bool *guessed, const mlxq_checkpoint *checkpoint,
                                    mlxq_error *error);

/* Makes a source in a format that its own family reads one of MLX's: "mxfp4" becomes a `quantization` block, "fp8" is
 * only checked: MLXQ_UNSUPPORTED for other blocks than 128 x 128. */
mlxq_status mlxq_checkpoint_accept(mlxq_checkpoint *checkpoint, const char *method, mlxq_error *error);

/* The configuration in the `quantization` block; `*config` is NULL where there is none. Errors name config.json. */
mlxq_status mlxq_checkpoint_quantization(mlxq_quant_config **config, const mlxq_checkpoint *checkpoint,
                                         mlxq_error *error);

/* What torch_dtype, and --dtype, call a dtype that a model may be cast to: "float16"; NULL for others. Constant. */
const char *mlxq_torch_dtype_name(mlxq_dtype dtype);

/* The dtype that mlx-lm casts to: torch_dtype, or text_config's dtype. False: none. */
bool mlxq_checkpoint_dtype(const mlxq_checkpoint *checkpoint, mlxq_dtype *dtype);

/* Parameters as mlx-lm counts them: a quantized layer's weight has packed words x 32 / bits of them, its scales and
 * biases none, every other tensor its elements. */
uint64_t mlxq_count_parameters(const mlxq_weights *tensors, const mlxq_quant_config *config);

/* True for the files beside the weights that a converted folder keeps: tokenizer, chat template, code. */
bool mlxq_is_side_file(const char *name);

#endif
