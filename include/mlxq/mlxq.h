/* libmlxq: language-model weights in MLX's quantized formats, without MLX.
 *
 * MLX stores a quantized layer P as three tensors: P.weight, packed codes in uint32 words; P.scales, one for each group
 * of elements along the last axis; and in the affine mode P.biases, one for each scale. Which layers are quantized, and
 * how, is in the `quantization` block of config.json: a default scheme (mode, bits, group size) and exceptions by layer
 * path. The library makes, reads and checks such checkpoints, equal to MLX in every bit.
 *
 *   status.h      mlxq_status and mlxq_error: every call that can fail returns the one and fills the other
 *   dtype.h       element types
 *   scheme.h      a scheme; the configuration of a whole model, read from and written as JSON
 *   weights.h     an ordered map of named tensors in memory
 *   transform.h   quantize and dequantize one array, or such a map
 *   import.h      weights that other tools have quantized
 *   checkpoint.h  the same for folders and files on disk, in memory that does not grow with the model; inspect
 *   verify.h      is a checkpoint whole, and what quantizing its dense original gives?
 *
 * Conventions. Results come first in the argument list, the error last. What a call creates, the caller releases with
 * the
 * `_free` function of its type; inputs stay the caller's and are not kept. On failure results are NULL or untouched.
 * There is no global state: every function may be called from any thread, on objects that no other thread changes. The
 * library prints nothing, installs no signal handler, and never aborts for bad input or exhausted memory.
 *
 *   mlxq_error error;
 *   mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
 *   if (mlxq_quantize_checkpoint(NULL, "Llama", "Llama-4bit", &options, &error) != MLXQ_OK) {
 *     char line[4096];
 *     mlxq_error_format(&error, line, sizeof line);
 *     fprintf(stderr, "%s\n", line);
 *   }
 */
#ifndef MLXQ_MLXQ_H
#define MLXQ_MLXQ_H

#include <mlxq/checkpoint.h>
#include <mlxq/dtype.h>
#include <mlxq/import.h>
#include <mlxq/scheme.h>
#include <mlxq/status.h>
#include <mlxq/transform.h>
#include <mlxq/verify.h>
#include <mlxq/weights.h>

/* The version this header belongs to, and the one of the library that is linked ("0.1.0"). Thread-safe. */
#define MLXQ_VERSION "0.1.0"
MLXQ_API const char *mlxq_version(void);

#endif
