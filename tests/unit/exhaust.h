/* Allocations, objects of json-c and threads that fail on purpose: the linker sends these calls to exhaust.c
 * (tests/CMakeLists.txt). */
#ifndef MLXQ_TESTS_EXHAUST_H
#define MLXQ_TESTS_EXHAUST_H

#include <mlxq/status.h>

/* Runs an operation with its first allocation failing, then its second, and so on until none is left to fail; each
 * time that one alone, and all behind it too. `operation` returns its status and cleans up; `check` (or NULL) looks at
 * what it left behind. The only failure there may be is MLXQ_NO_MEMORY. Returns how many allocations there were. */
long exhaust(mlxq_status (*operation)(void *user, mlxq_error *error), void (*check)(void *user, mlxq_status status),
             void *user);

/* For an operation that is done and still has to look at what came of it: nothing fails from here on. */
void stop_failing(void);

/* So many threads can be started, then none; negative: as many as there are. */
void only_start(long threads);

#endif
