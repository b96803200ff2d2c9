/* Checkpoints on disk: a Hugging Face or MLX folder (config.json and its .safetensors files), or one .safetensors file.
 */
#ifndef MLXQ_CHECKPOINT_H
#define MLXQ_CHECKPOINT_H

#include <mlxq/scheme.h>
#include <mlxq/weights.h>

/* ---- What a call reports --------------------------------------------------------------------------------------- */

/* How far layers of one kind moved when quantized: the relative RMS error, sqrt(sum (w - w')^2 / sum w^2), with w the
 * weight after the cast and w' what dequantizing gives back. */
typedef struct mlxq_kind_stats {
  char *kind; /* last part of the layer path: "down_proj" */
  uint64_t layers, elems;
  double squared_error, squared_weight;
} mlxq_kind_stats;

/* A checkpoint, described: the one inspected, or the one written (or planned, for a dry run). Everything belongs to
 * the report, which the caller releases with mlxq_report_free. Members are only ever added at the end. */
typedef struct mlxq_report {
  mlxq_weights *tensors; /* without data; as read, or in the order in which they were planned */
  char **files;          /* names of the .safetensors files */
  size_t file_count;
  uint32_t *tensor_files;    /* tensor_files[i]: index into `files` of the i-th tensor */
  mlxq_quant_config *config; /* NULL where there is no quantization */
  char *foreign;             /* NULL, or the quant_method of a format that is not MLX's ("awq") */
  uint64_t total_bytes;      /* of the tensors' data */
  uint64_t parameters;       /* as mlx-lm counts them: a quantized layer has its weight's and its bias's */
  double bits_per_weight;    /* total_bytes * 8 / parameters; 0 without parameters */
  uint64_t source_bytes;     /* conversions: tensor data of the source */
  uint64_t layers_changed;   /* conversions: layers quantized or dequantized now */
  mlxq_kind_stats *kinds;    /* quantize with stats: in the order of first appearance */
  size_t kind_count;
  uint64_t resumed_bytes; /* conversions: tensor data that an interrupted run had finished, and this one kept */
} mlxq_report;

/* Releases a report; NULL is accepted. */
MLXQ_API void mlxq_report_free(mlxq_report *report);

/* ---- Inspecting ------------------------------------------------------------------------------------------------ */

/* Describes a checkpoint without reading its weights. Errors: io, parse (config.json, index), corrupt. Thread-safe. */
MLXQ_API mlxq_status mlxq_inspect(mlxq_report **report, const char *source, mlxq_error *error);

/* ---- Converting ------------------------------------------------------------------------------------------------ */

/* What every conversion takes. */
typedef struct mlxq_convert_options {
  unsigned threads;         /* workers; 0 means one for each processor */
  uint64_t max_shard_bytes; /* a new file starts where one would hold more tensor bytes; 0 means 5 * 2^30 */
  mlxq_profile profile;
  const mlxq_dtype *dtype; /* cast floating tensors to F16, BF16 or F32 first; NULL: as config.json says */
  const char *cpu;         /* highest instruction set to use, see mlxq_cpu_level; NULL: the best there is */
  bool dry_run;            /* plan and report, write nothing */
  bool force;              /* replace an existing destination; go on, with a warning, where a model_type that may come
                              out wrong is refused, or tensors that only look like another format's */
  bool keep_partial;       /* on failure leave the unfinished work beside the destination, for the next run */
  bool allow_nonfinite;    /* quantize groups that hold NaN or infinity to NaN */

  /* NULL for none; all but `cancelled` on the calling thread. `progress` gets bytes written so far and in all. `warn`
   * gets one line. `cancelled` is polled; true ends the call with MLXQ_CANCELLED. */
  void (*progress)(void *user, uint64_t done_bytes, uint64_t total_bytes);
  void (*warn)(void *user, const char *message);
  bool (*cancelled)(void *user); /* from worker threads too, until it returns true */
  void *user;
} mlxq_convert_options;

/* The instruction sets that `cpu` names, lowest first: "ref", "avx2", ...; NULL where `index` is beyond the last. The
 * result never depends on it. One that this machine cannot run is an error, not passed over. Thread-safe. */
MLXQ_API const char *mlxq_cpu_level(size_t index);

/* A scheme for the layers a pattern matches. Patterns are those of fnmatch(3) with FNM_NOESCAPE: `*` stands for any
 * text, dots included, `?` for one character, `[...]` for one of a set. A pattern matches whole layer paths
 * ("model.layers.*.mlp.down_proj"). */
typedef struct mlxq_override {
  const char *pattern;
  mlxq_scheme scheme;
} mlxq_override;

/* Start from MLXQ_QUANTIZE_OPTIONS_INIT. Precedence for a layer: skip, then the last override that matches, then the
 * recipe, then the default scheme. */
typedef struct mlxq_quantize_options {
  uint32_t version; /* MLXQ_CONVERT_OPTIONS_VERSION; another is MLXQ_USAGE */
  mlxq_convert_options common;
  mlxq_scheme scheme;       /* the default; bits and group_size 0 mean the mode's own */
  const char *recipe;       /* NULL, or mlx-lm's "mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6" */
  const char *const *skips; /* patterns of layers that stay dense */
  size_t skip_count;
  const mlxq_override *overrides;
  size_t override_count;
  bool stats; /* measure errors for the report */
} mlxq_quantize_options;

/* Start from MLXQ_DEQUANTIZE_OPTIONS_INIT. */
typedef struct mlxq_dequantize_options {
  uint32_t version; /* MLXQ_CONVERT_OPTIONS_VERSION */
  mlxq_convert_options common;
  const mlxq_scheme *scheme; /* of a single file, which has no config.json; must be NULL for a folder */
} mlxq_dequantize_options;

/* Start from MLXQ_IMPORT_OPTIONS_INIT. */
typedef struct mlxq_import_options {
  uint32_t version;            /* MLXQ_CONVERT_OPTIONS_VERSION */
  mlxq_convert_options common; /* without `dtype` nothing is cast */
  const char *from;            /* "awq" or "gptq"; NULL: as the source says */
  int32_t requantize_bits;     /* dequantize and quantize anew what MLX cannot hold exactly; 0: that is an error */
  bool exact;                  /* give layers whose biases would be rounded one bit more a code */
} mlxq_import_options;

#define MLXQ_CONVERT_OPTIONS_VERSION 1u
#define MLXQ_COMMON_OPTIONS_INIT_ \
  { 0, 0, MLXQ_PROFILE_CPU, NULL, NULL, false, false, false, false, NULL, NULL, NULL, NULL }
#define MLXQ_QUANTIZE_OPTIONS_INIT \
  { MLXQ_CONVERT_OPTIONS_VERSION, MLXQ_COMMON_OPTIONS_INIT_, {MLXQ_AFFINE, 0, 0}, NULL, NULL, 0, NULL, 0, false }
#define MLXQ_DEQUANTIZE_OPTIONS_INIT \
  { MLXQ_CONVERT_OPTIONS_VERSION, MLXQ_COMMON_OPTIONS_INIT_, NULL }

#define MLXQ_IMPORT_OPTIONS_INIT \
  { MLXQ_CONVERT_OPTIONS_VERSION, MLXQ_COMMON_OPTIONS_INIT_, NULL, 0, false }

/* Quantizes (dequantizes) the checkpoint `source` into `destination`, which is a folder where `source` is one and a
 * file where it is one. What is written is what mlx_lm.convert writes. The destination appears whole, by one rename,
 * or not at all; `source` is never written. What a killed run left in .NAME.mlxq-partial is checked and kept where it
 * is whole and source and options are the same (with `stats` all is made anew). Memory does not grow with the weights.
 *
 * On success the caller owns `*report` (may be requested with NULL). On failure it is NULL. Errors name file, layer and
 * key; beside those of mlxq_quantize_weights and mlxq_dequantize_weights: exists, busy (another process works on the
 * same destination), changed (the source, while it was read), no_space, io, parse, corrupt, unsupported (a family or a
 * foreign format that would come out wrong), out_of_range and not_divisible (a scheme), unknown_value (a pattern
 * that matches nothing), cancelled, no_memory, usage (options that contradict each other). Thread-safe. */
MLXQ_API mlxq_status mlxq_quantize_checkpoint(mlxq_report **report, const char *source, const char *destination,
                                              const mlxq_quantize_options *options, mlxq_error *error);
MLXQ_API mlxq_status mlxq_dequantize_checkpoint(mlxq_report **report, const char *source, const char *destination,
                                                const mlxq_dequantize_options *options, mlxq_error *error);

/* Turns a folder that AutoAWQ, AutoGPTQ or GPTQModel has quantized into MLX's format, with no other loss than the
 * rounding of biases to the dtype of the scales (docs/formats.md); other tensors keep their bytes. Errors as above,
 * and those that mlxq_import_awq lists; unsupported where the source is in no format that can be imported. */
MLXQ_API mlxq_status mlxq_import_checkpoint(mlxq_report **report, const char *source, const char *destination,
                                            const mlxq_import_options *options, mlxq_error *error);

#endif
