/* Filling an mlxq_error. The innermost function that knows the reason sets it; outer ones add the place. */
#ifndef MLXQ_BASE_ERROR_H
#define MLXQ_BASE_ERROR_H

#include <mlxq/status.h>
#include <stdbool.h>

/* Fills `error` (unless NULL) anew: status, layer and key (NULL: absent) and the formatted reason. Returns `status`,
 * so that a function ends with `return mlxq_fail(...)`. */
mlxq_status mlxq_fail(mlxq_error *error, mlxq_status status, const char *layer, const char *key, const char *format,
                      ...) __attribute__((format(printf, 5, 6)));

/* A failed system call on `file`: the status that fits `os_errno` (no_space for ENOSPC, EDQUOT and EFBIG, exists for
 * EEXIST, no_memory for ENOMEM, else io), and "what: strerror". */
mlxq_status mlxq_fail_errno(mlxq_error *error, int os_errno, const char *file, const char *what);

/* "out of memory". */
mlxq_status mlxq_fail_memory(mlxq_error *error);

/* Add the file, the layer or the key where none is set yet. Nothing happens for MLXQ_OK. Return
 * `status`. */
mlxq_status mlxq_error_at_file(mlxq_error *error, mlxq_status status, const char *file);
mlxq_status mlxq_error_at_layer(mlxq_error *error, mlxq_status status, const char *layer);
mlxq_status mlxq_error_at_key(mlxq_error *error, mlxq_status status, const char *key);

/* Asks whether the caller wants a call to end; `asked` NULL: never. */
typedef struct mlxq_cancel {
  bool (*asked)(void *user);
  void *user;
} mlxq_cancel;

/* MLXQ_CANCELLED where it is asked for. */
mlxq_status mlxq_cancel_check(const mlxq_cancel *cancel, mlxq_error *error);

/* Who takes the flaws of a call that lists all it finds instead of stopping at the first. `flaw` belongs to the call.
 */
typedef struct mlxq_flaws {
  void (*add)(void *user, const mlxq_error *flaw);
  void *user;
} mlxq_flaws;

/* Turns an error into a flaw: tells `flaws` and returns MLXQ_OK. What ends the work whatever the data (no_memory,
 * changed, cancelled) is returned as it is, and so is everything where `flaws` is NULL. */
mlxq_status mlxq_flaws_take(const mlxq_flaws *flaws, mlxq_status status, const mlxq_error *error);

#if defined(__clang_analyzer__) || defined(MLXQ_ANALYZER)
/* An analyzer sees one file at a time, and would take what these return for MLXQ_OK. gcc's has no macro of its own. */
#define mlxq_fail(error, status, ...) ((mlxq_fail)(error, status, __VA_ARGS__), (status))
#define mlxq_fail_errno(...)          ((mlxq_fail_errno)(__VA_ARGS__), MLXQ_IO)
#define mlxq_fail_memory(error)       ((mlxq_fail_memory)(error), MLXQ_NO_MEMORY)
#endif

#endif
