/* What the fuzzers share: an input taken apart byte by byte, what must hold of every error, and small things to work
 * with. A `require` that fails says so and aborts, which a fuzzer counts as a
 * finding. */
#ifndef MLXQ_FUZZ_INPUT_H
#define MLXQ_FUZZ_INPUT_H

#include "base/text.h"
#include "checkpoint/checkpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define require(holds) ((holds) ? (void)0 : broken_promise(#holds, __FILE__, __LINE__))
_Noreturn void broken_promise(const char *promise, const char *file, int line);

/* The error of a call that returned `status`: it has the status, a message, and texts that can be printed. */
void require_error(const mlxq_error *error, mlxq_status status);

/* ---- Taking bytes ---------------------------------------------------------------------------------------------- */

/* Beyond the end there are zeros without end, so that every input means something. */
typedef struct input {
  const uint8_t *next;
  size_t left;
} input;

uint8_t take_byte(input *in);
bool take_bool(input *in);

/* A number below `limit`, which is at most 256. */
unsigned take_below(input *in, unsigned limit);

/* One of `count` things. */
#define take_one(in, list) ((list)[take_below(in, sizeof(list) / sizeof *(list))])

/* True once in `odds` times. Not at the end of the input. */
bool take_rarely(input *in, unsigned odds);

/* Any number: a byte, or up to eight. */
uint64_t take_number(input *in);

/* ---- Things to work with --------------------------------------------------------------------------------------- */

mlxq_weights *new_weights(void);

/* The document as text that must be there; the caller frees `data`. */
mlxq_text json_text(struct json_object *document, int indent);
bool same_text(const mlxq_text *a, const mlxq_text *b);

/* The format that a checkpoint's config tells of, or NULL; mlxq_checkpoint_foreign fails for a lone copy of MLX's
 * block, and for nothing else. */
const char *format_of(const mlxq_checkpoint *checkpoint);

/* A folder of this process alone, in TMPDIR or else in memory, which goes with it. Fuzzers leave it as they found it.
 */
const char *scratch_folder(void);

/* Writes a file anew. */
void write_bytes(const char *path, const void *bytes, size_t count);

#endif
