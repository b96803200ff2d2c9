#include "base/error.h"

#include "base/text.h"

#include <errno.h>
#include <mlxq/mlxq.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Every status string of the project, at its value. */
static const char *const STATUS_NAMES[] = {
    "ok",
    "missing_key",
    "key_collision",
    "rank_mismatch",
    "shape_mismatch",
    "length_mismatch",
    "unsupported_dtype",
    "out_of_range",
    "not_divisible",
    "overflow",
    "parse",
    "unknown_value",
    "invariant",
    "non_finite",
    "corrupt",
    "unsupported",
    "exists",
    "busy",
    "changed",
    "no_space",
    "io",
    "no_memory",
    "cancelled",
    "usage",
};

const char *mlxq_status_name(mlxq_status status) {
  unsigned value = (unsigned)status;
  return value < sizeof STATUS_NAMES / sizeof *STATUS_NAMES ? STATUS_NAMES[value] : "unknown";
}

/* Control characters, and those that break lines or turn the direction of writing. */
static bool is_control(uint32_t character) {
  return character < 0x20 || (character >= 0x7F && character < 0xA0) || (character >= 0x2028 && character <= 0x202E) ||
         (character >= 0x2066 && character <= 0x2069);
}

/* Copies text into a buffer of an error: control characters and broken UTF-8 as \xNN, cut with "..." where too long. */
static void copy_escaped(char *target, size_t target_bytes, const char *text) {
  size_t left = strlen(text), used = 0, cut = 0;
  while (left > 0) {
    char piece[8];
    uint32_t character = 0;
    size_t taken = mlxq_utf8_decode(&character, text, left), length = taken;
    if (taken == 0 || is_control(character)) {
      taken = 1; /* what is left of a longer one is no UTF-8 */
      length = (size_t)snprintf(piece, sizeof piece, "\\x%02X", (unsigned char)*text);
    } else {
      memcpy(piece, text, taken);
    }
    if (used + length >= target_bytes) {
      memcpy(target + cut, "...", 4);
      return;
    }
    memcpy(target + used, piece, length);
    used += length;
    if (used + 4 <= target_bytes) cut = used;
    text += taken;
    left -= taken;
  }
  target[used] = '\0';
}

static void reset(mlxq_error *error, mlxq_status status, const char *layer, const char *key, const char *message) {
  error->status = status;
  error->os_errno = 0;
  error->file[0] = '\0';
  copy_escaped(error->layer, sizeof error->layer, layer ? layer : "");
  copy_escaped(error->key, sizeof error->key, key ? key : "");
  copy_escaped(error->message, sizeof error->message, message);
}

mlxq_status(mlxq_fail)(mlxq_error *error, mlxq_status status, const char *layer, const char *key, const char *format,
                       ...) {
  if (!error) return status;
  char message[4 * MLXQ_ERROR_MESSAGE_BYTES];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  reset(error, status, layer, key, message);
  return status;
}

static mlxq_status status_of_errno(int os_errno) {
  switch (os_errno) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return MLXQ_NO_SPACE;
    case EEXIST:
    case ENOTEMPTY:
      return MLXQ_EXISTS;
    case ENOMEM:
      return MLXQ_NO_MEMORY;
    default:
      return MLXQ_IO;
  }
}

mlxq_status(mlxq_fail_errno)(mlxq_error *error, int os_errno, const char *file, const char *what) {
  mlxq_status status = status_of_errno(os_errno);
  if (!error) return status;
  char reason[128];
  /* glibc's GNU strerror_r returns the text; strerrordesc_np would need glibc 2.32. */
  const char *text = strerror_r(os_errno, reason, sizeof reason);
  mlxq_fail(error, status, NULL, NULL, "%s: %s", what, text);
  error->os_errno = os_errno;
  return mlxq_error_at_file(error, status, file);
}

mlxq_status(mlxq_fail_memory)(mlxq_error *error) {
  return mlxq_fail(error, MLXQ_NO_MEMORY, NULL, NULL, "out of memory");
}

mlxq_status mlxq_error_at_file(mlxq_error *error, mlxq_status status, const char *file) {
  if (status != MLXQ_OK && error && file && !error->file[0]) copy_escaped(error->file, sizeof error->file, file);
  return status;
}

mlxq_status mlxq_error_at_layer(mlxq_error *error, mlxq_status status, const char *layer) {
  if (status != MLXQ_OK && error && layer && !error->layer[0]) copy_escaped(error->layer, sizeof error->layer, layer);
  return status;
}

mlxq_status mlxq_error_at_key(mlxq_error *error, mlxq_status status, const char *key) {
  if (status != MLXQ_OK && error && key && !error->key[0]) copy_escaped(error->key, sizeof error->key, key);
  return status;
}

mlxq_status mlxq_cancel_check(const mlxq_cancel *cancel, mlxq_error *error) {
  if (!cancel->asked || !cancel->asked(cancel->user)) return MLXQ_OK;
  return mlxq_fail(error, MLXQ_CANCELLED, NULL, NULL, "interrupted");
}

mlxq_status mlxq_flaws_take(const mlxq_flaws *flaws, mlxq_status status, const mlxq_error *error) {
  bool is_final = status == MLXQ_OK || status == MLXQ_NO_MEMORY || status == MLXQ_CHANGED || status == MLXQ_CANCELLED;
  if (!flaws || is_final) return status;
  flaws->add(flaws->user, error);
  return MLXQ_OK;
}

int mlxq_error_format(const mlxq_error *error, char *line, int line_bytes) {
  const char *file = error->file, *layer = error->layer;
  const char *key = strcmp(error->key, layer) != 0 ? error->key : ""; /* a whole tensor may stand for both */
  return snprintf(line, line_bytes > 0 ? (size_t)line_bytes : 0, "%s%s%s%s%s%s%s", file, *file ? ": " : "", layer,
                  *layer ? ": " : "", key, *key ? ": " : "", error->message);
}

const char *mlxq_version(void) {
  return MLXQ_VERSION;
}
