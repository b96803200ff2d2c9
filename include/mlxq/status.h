/* Status codes and the error report. */
#ifndef MLXQ_STATUS_H
#define MLXQ_STATUS_H

#include <mlxq/export.h>

/* What a call came to. Values are part of the ABI and never change; new ones are added at the end. */
typedef enum mlxq_status {
  MLXQ_OK = 0,
  MLXQ_MISSING_KEY = 1,       /* a tensor that another one needs is absent */
  MLXQ_KEY_COLLISION = 2,     /* a tensor is there that must not be */
  MLXQ_RANK_MISMATCH = 3,     /* a tensor has the wrong number of dimensions */
  MLXQ_SHAPE_MISMATCH = 4,    /* dimensions of related tensors disagree */
  MLXQ_LENGTH_MISMATCH = 5,   /* two lists that must be equally long are not */
  MLXQ_UNSUPPORTED_DTYPE = 6, /* a tensor's element type cannot be used here */
  MLXQ_OUT_OF_RANGE = 7,      /* a number is outside what is legal */
  MLXQ_NOT_DIVISIBLE = 8,     /* a dimension is no multiple of the group size */
  MLXQ_OVERFLOW = 9,          /* a size does not fit the integer that holds it */
  MLXQ_PARSE = 10,            /* text (JSON, a number) is malformed or has the wrong form */
  MLXQ_UNKNOWN_VALUE = 11,    /* a name is none of the known ones */
  MLXQ_INVARIANT = 12,        /* what must hold between inputs does not */
  MLXQ_NON_FINITE = 13,       /* a weight is NaN or infinite */
  MLXQ_CORRUPT = 14,          /* a file breaks its own format */
  MLXQ_UNSUPPORTED = 15,      /* understood, and not handled */
  MLXQ_EXISTS = 16,           /* the destination is there already */
  MLXQ_BUSY = 17,             /* another process works on the same destination */
  MLXQ_CHANGED = 18,          /* an input changed while it was read */
  MLXQ_NO_SPACE = 19,         /* the disk, a quota or a file size limit is exhausted */
  MLXQ_IO = 20,               /* the operating system refused; see os_errno */
  MLXQ_NO_MEMORY = 21,        /* an allocation failed */
  MLXQ_CANCELLED = 22,        /* the caller asked to stop */
  MLXQ_USAGE = 23             /* the call itself is wrong */
} mlxq_status;

/* How many bytes each text of an mlxq_error holds, its NUL included; longer text is cut and ends in "...". */
#define MLXQ_ERROR_NAME_BYTES    512
#define MLXQ_ERROR_FILE_BYTES    1024
#define MLXQ_ERROR_MESSAGE_BYTES 768

/* What went wrong, and where. The caller owns it; every call that takes one accepts NULL. It is written only when
 * the call fails, by the innermost function that knows. Absent parts are empty strings. All texts are valid UTF-8
 * without control characters: names out of untrusted files are escaped. Needs no release. */
typedef struct mlxq_error {
  mlxq_status status;
  int os_errno;                           /* errno of the failed system call, or 0 */
  char file[MLXQ_ERROR_FILE_BYTES];       /* path of the file at fault */
  char layer[MLXQ_ERROR_NAME_BYTES];      /* layer path, such as "model.layers.0.mlp.up_proj" */
  char key[MLXQ_ERROR_NAME_BYTES];        /* tensor name, JSON key or option */
  char message[MLXQ_ERROR_MESSAGE_BYTES]; /* the reason, one line */
} mlxq_error;

/* The name of a status as commands print it ("missing_key"), or "unknown" for a value that is none.
 * A constant string. Thread-safe. */
MLXQ_API const char *mlxq_status_name(mlxq_status status);

/* Writes "FILE: LAYER: KEY: message", absent parts left out, into `line` (at most `line_bytes`, NUL included).
 * Returns the length the whole text needs, its NUL excluded, as snprintf does. Thread-safe. */
MLXQ_API int mlxq_error_format(const mlxq_error *error, char *line, int line_bytes);

#endif
