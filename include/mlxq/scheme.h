/* Quantization schemes, and the `quantization` block of config.json. */
#ifndef MLXQ_SCHEME_H
#define MLXQ_SCHEME_H

#include <mlxq/status.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How codes map to values; the formulas are in docs/numerics.md. */
typedef enum mlxq_mode {
  MLXQ_AFFINE, /* w = code * scale + bias; scale and bias in the weight's dtype */
  MLXQ_MXFP4,  /* E2M1 codes, one E8M0 scale for 32 elements */
  MLXQ_MXFP8,  /* E4M3 codes, one E8M0 scale for 32 elements */
  MLXQ_NVFP4,  /* E2M1 codes, one E4M3 scale for 16 elements */
  MLXQ_MODE_COUNT
} mlxq_mode;

/* Which of MLX's two published behaviours to equal, bit for bit (docs/numerics.md). */
typedef enum mlxq_profile {
  MLXQ_PROFILE_CPU, /* MLX's CPU back-end */
  MLXQ_PROFILE_GPU  /* MLX's Metal and CUDA back-ends */
} mlxq_profile;

/* One layer's scheme. Any numbers can be held; mlxq_scheme_check says whether MLX has such a scheme. */
typedef struct mlxq_scheme {
  mlxq_mode mode;
  int32_t bits;
  int32_t group_size; /* elements of the last axis that share a scale */
} mlxq_scheme;

/* "affine", "mxfp4", "mxfp8" or "nvfp4"; "unknown" for a value that is no mode. Constant. Thread-safe. */
MLXQ_API const char *mlxq_mode_name(mlxq_mode mode);

/* The mode of a name; MLXQ_UNKNOWN_VALUE, naming the text, for any other. Thread-safe. */
MLXQ_API mlxq_status mlxq_mode_parse(mlxq_mode *mode, const char *name, mlxq_error *error);

/* True where biases go with the scales: affine only. Thread-safe. */
MLXQ_API bool mlxq_mode_has_biases(mlxq_mode mode);

/* mlx-lm's default of a mode: affine 4 bits group 64, mxfp4 4/32, mxfp8 8/32, nvfp4 4/16. Thread-safe. */
MLXQ_API mlxq_scheme mlxq_scheme_default(mlxq_mode mode);

/* A scheme with the mode's own bits or group size where those are 0. Thread-safe. */
MLXQ_API mlxq_scheme mlxq_scheme_complete(const mlxq_scheme *scheme);

/* MLXQ_OK where MLX has the scheme: affine with 2, 3, 4, 5, 6 or 8 bits and group size 32, 64 or 128; the other
 * modes with their default alone. Otherwise MLXQ_OUT_OF_RANGE with key "mode", "bits" or "group_size". Thread-safe. */
MLXQ_API mlxq_status mlxq_scheme_check(const mlxq_scheme *scheme, mlxq_error *error);

/* What a configuration says of one layer path. */
typedef enum mlxq_layer_kind {
  MLXQ_LAYER_DEFAULT, /* `true` in the block: the default scheme */
  MLXQ_LAYER_SKIP,    /* `false`: not quantized */
  MLXQ_LAYER_SCHEME   /* an object: a scheme of its own */
} mlxq_layer_kind;

typedef struct mlxq_layer_option {
  mlxq_layer_kind kind;
  mlxq_scheme scheme; /* for MLXQ_LAYER_SCHEME */
  bool mode_implied;  /* for MLXQ_LAYER_SCHEME: the block names no mode (so it is affine), and serialising names none */
} mlxq_layer_option;

/* A quantization configuration: a default scheme, or none, and options of single layers, in the order they were
 * added. Opaque. Any number of threads may read one at once; changing it needs exclusive use. */
typedef struct mlxq_quant_config mlxq_quant_config;

/* Makes a configuration with `default_scheme` (copied), or with no default where it is NULL. The caller owns
 * `*config` and releases it with mlxq_quant_config_free. MLXQ_NO_MEMORY on failure. */
MLXQ_API mlxq_status mlxq_quant_config_new(mlxq_quant_config **config, const mlxq_scheme *default_scheme,
                                           mlxq_error *error);

/* Makes a configuration from a default and `count` layers: `paths[i]` has `options[i]`; all are copied, a later
 * entry of the same path replaces an earlier one. Ownership as mlxq_quant_config_new, errors as
 * mlxq_quant_config_set_layer. */
MLXQ_API mlxq_status mlxq_quant_config_from_layers(mlxq_quant_config **config, const mlxq_scheme *default_scheme,
                                                   const char *const *paths, const mlxq_layer_option *options,
                                                   size_t count, mlxq_error *error);

/* Reads the `quantization` block of a config.json document of `text_bytes` bytes (no NUL needed). `*config` is NULL,
 * and the call succeeds, where the document is no object, has no block, or has a null block. Otherwise the caller
 * owns it. Every error in the document or the block is MLXQ_PARSE, with line and column where the JSON is broken and
 * the layer where a layer's value is wrong; a layer's `global_scale: true` is MLXQ_UNSUPPORTED. Whether the numbers
 * are legal is not judged here: bits 7 parses. */
MLXQ_API mlxq_status mlxq_quant_config_parse(mlxq_quant_config **config, const char *text, size_t text_bytes,
                                             mlxq_error *error);

/* Sets (adds or replaces) one layer's option; `path` is copied. Exclusive use. MLXQ_USAGE where the path is one of the
 * block's own keys (group_size, bits, mode, quant_method, linear_class, quantization_mode), MLXQ_NO_MEMORY; the
 * configuration is unchanged then. */
MLXQ_API mlxq_status mlxq_quant_config_set_layer(mlxq_quant_config *config, const char *path,
                                                 const mlxq_layer_option *option, mlxq_error *error);

/* The default scheme, or NULL; owned by the configuration. Thread-safe. */
MLXQ_API const mlxq_scheme *mlxq_quant_config_default(const mlxq_quant_config *config);

/* The scheme of a layer: NULL where it is skipped, its own where it has one, else the default (NULL where there is
 * none). Owned by the configuration, valid until that changes. Thread-safe. */
MLXQ_API const mlxq_scheme *mlxq_quant_config_lookup(const mlxq_quant_config *config, const char *path);

/* The option of a layer, or NULL where the configuration does not name it. Ownership as above. Thread-safe. */
MLXQ_API const mlxq_layer_option *mlxq_quant_config_layer(const mlxq_quant_config *config, const char *path);

/* How many layers are named, and the i-th of them (0 <= i < count, in order; `*option` may be NULL-requested).
 * The path is owned by the configuration. Thread-safe. */
MLXQ_API size_t mlxq_quant_config_layer_count(const mlxq_quant_config *config);
MLXQ_API const char *mlxq_quant_config_layer_at(const mlxq_quant_config *config, size_t index,
                                                const mlxq_layer_option **option);

/* The block as mlx-lm writes it: {"group_size", "bits", "mode", PATH: ...}, one line of ASCII JSON; a block that was
 * read without a mode is written without one. The caller frees `*text` with mlxq_free. MLXQ_INVARIANT where there is no
 * default scheme. */
MLXQ_API mlxq_status mlxq_quant_config_to_json(char **text, const mlxq_quant_config *config, mlxq_error *error);

/* Releases a configuration; NULL is accepted. */
MLXQ_API void mlxq_quant_config_free(mlxq_quant_config *config);

/* Releases text that the library returned; NULL is accepted. */
MLXQ_API void mlxq_free(void *memory);

#endif
