/* Is a checkpoint whole? Everything that its files say of each other is checked, and every number read. */
#ifndef MLXQ_VERIFY_H
#define MLXQ_VERIFY_H

#include <mlxq/dtype.h>
#include <mlxq/scheme.h>
#include <stddef.h>
#include <stdint.h>

/* How many defects (and as many notes) are kept; the rest are counted. */
#define MLXQ_VERIFY_MAX_DEFECTS 1000u

/* One thing that is wrong. Texts are those of an mlxq_error: UTF-8 without control characters, names escaped; NULL
 * where absent. */
typedef struct mlxq_defect {
  mlxq_status status; /* of which sort it is: what a command that stops at it would return */
  char *file, *layer, *key;
  char *message;
} mlxq_defect;

/* The comparison with the dense original: what quantizing it gives, against what the checkpoint holds. Every tensor
 * that either has is counted; those that only one has, that are not alike in dtype and shape, or of which a layer or
 * file is broken, as different. Elements are those of tensors that are alike. */
typedef struct mlxq_comparison {
  uint64_t tensors, tensors_different;
  uint64_t elems, elems_different; /* elements of the stored dtype: a packed word is one */
  char *worst_layer;               /* with the largest share of different elements (a tensor's name where it is of no
                                      layer); NULL: none differs */
  uint64_t worst_elems, worst_different;
} mlxq_comparison;

/* What was found. Everything belongs to the report, which the caller releases with mlxq_verification_free. Members are
 * only ever added at the end. */
typedef struct mlxq_verification {
  mlxq_defect *defects; /* the first defects_kept of defects_found; none: the checkpoint is whole */
  size_t defects_kept;
  uint64_t defects_found;
  mlxq_defect *notes; /* what is unusual, and right */
  size_t notes_kept;
  uint64_t notes_found;
  uint64_t files, tensors, layers, bytes; /* that were checked; layers with scales; bytes of tensor data */
  mlxq_comparison *comparison;            /* NULL without `against` */
} mlxq_verification;

/* Releases a report; NULL is accepted. */
MLXQ_API void mlxq_verification_free(mlxq_verification *report);

/* Start from MLXQ_VERIFY_OPTIONS_INIT. */
typedef struct mlxq_verify_options {
  uint32_t version;        /* MLXQ_VERIFY_OPTIONS_VERSION; another is MLXQ_USAGE */
  unsigned threads;        /* workers; 0 means one for each processor */
  const char *against;     /* the dense original to compare with, a folder or a file; NULL: none */
  mlxq_profile profile;    /* `against`: which of MLX's behaviours made the checkpoint */
  const mlxq_dtype *dtype; /* `against`: the cast before quantizing, as mlxq_convert_options has it */
  const char *cpu;         /* highest instruction set to use, see mlxq_cpu_level; NULL: the best there is */

  /* As those of mlxq_convert_options; progress is in bytes read. */
  void (*progress)(void *user, uint64_t done_bytes, uint64_t total_bytes);
  void (*warn)(void *user, const char *message);
  bool (*cancelled)(void *user);
  void *user;
} mlxq_verify_options;

#define MLXQ_VERIFY_OPTIONS_VERSION 1u
#define MLXQ_VERIFY_OPTIONS_INIT \
  { MLXQ_VERIFY_OPTIONS_VERSION, 0, NULL, MLXQ_PROFILE_CPU, NULL, NULL, NULL, NULL, NULL, NULL }

/* Looks for everything that is wrong with the checkpoint `source`, a folder or a file (docs/cli.md lists what that is),
 * and with `options->against` proves that quantizing the dense original gives the same bits, by docs/numerics.md, or
 * finds where they differ. Memory does not grow with the weights; nothing is written.
 *
 * MLXQ_OK says that the work was done, whatever it found: the caller owns `*report`, whose defects_found tells. On
 * failure it is NULL: io (`source` cannot be opened, holds no .safetensors file, or a disk fails), changed (a file,
 * while it was read), cancelled, no_memory, usage, unsupported_dtype (`dtype`); and for the dense original every error
 * of mlxq_quantize_checkpoint, unsupported where it is quantized itself. Thread-safe. */
MLXQ_API mlxq_status mlxq_verify(mlxq_verification **report, const char *source, const mlxq_verify_options *options,
                                 mlxq_error *error);

#endif
