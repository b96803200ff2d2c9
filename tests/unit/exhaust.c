#include "exhaust.h"

#include "helpers.h"

#include <errno.h>
#include <json-c/json_object.h>
#include <pthread.h>
#include <stdatomic.h>

static _Atomic long allocations_left = -1; /* that succeed before the first failure; negative: nothing fails */
static _Atomic bool only_one_fails, failed_once;
static _Atomic long threads_left = -1;

static bool allocation_fails(void) {
  long left = atomic_load(&allocations_left);
  if (left < 0) return false;
  if (left > 0) {
    atomic_fetch_sub(&allocations_left, 1);
    return false;
  }
  if (atomic_load(&only_one_fails) && atomic_exchange(&failed_once, true)) return false;
  atomic_store(&failed_once, true);
  return true;
}

/* ---- In the place of the real ones ----------------------------------------------------------------------------- */

#define WRAP(result, name, parameters, arguments, failure)           \
  result __real_##name parameters;                                   \
  result __wrap_##name parameters;                                   \
  result __wrap_##name parameters {                                  \
    return allocation_fails() ? (failure) : __real_##name arguments; \
  }

WRAP(void *, malloc, (size_t bytes), (bytes), NULL)
WRAP(void *, calloc, (size_t count, size_t bytes), (count, bytes), NULL)
WRAP(void *, realloc, (void *old, size_t bytes), (old, bytes), NULL)
WRAP(void *, aligned_alloc, (size_t alignment, size_t bytes), (alignment, bytes), NULL)

/* What json-c allocates itself; it hands over nothing that it could not add. */
typedef struct json_object object;
WRAP(object *, json_object_new_object, (void), (), NULL)
WRAP(object *, json_object_new_array_ext, (int size), (size), NULL)
WRAP(object *, json_object_new_boolean, (json_bool value), (value), NULL)
WRAP(object *, json_object_new_int, (int32_t value), (value), NULL)
WRAP(object *, json_object_new_int64, (int64_t value), (value), NULL)
WRAP(object *, json_object_new_uint64, (uint64_t value), (value), NULL)
WRAP(object *, json_object_new_double, (double value), (value), NULL)
WRAP(object *, json_object_new_double_s, (double value, const char *text), (value, text), NULL)
WRAP(object *, json_object_new_string, (const char *text), (text), NULL)
WRAP(object *, json_object_new_string_len, (const char *text, int length), (text, length), NULL)
WRAP(int, json_object_object_add, (object * to, const char *key, object *value), (to, key, value), -1)
WRAP(int, json_object_object_add_ex, (object * to, const char *key, object *value, unsigned flags),
     (to, key, value, flags), -1)
WRAP(int, json_object_array_add, (object * to, object *value), (to, value), -1)

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument) {
  if (atomic_load(&threads_left) == 0) return EAGAIN;
  if (atomic_load(&threads_left) > 0) atomic_fetch_sub(&threads_left, 1);
  return __real_pthread_create(thread, attributes, start, argument);
}

/* ---- For the tests --------------------------------------------------------------------------------------------- */

void stop_failing(void) {
  atomic_store(&allocations_left, -1);
}

void only_start(long threads) {
  atomic_store(&threads_left, threads);
}

static void fail_after(long allocations, bool only_one) {
  atomic_store(&only_one_fails, only_one);
  atomic_store(&failed_once, false);
  atomic_store(&allocations_left, allocations);
}

long exhaust(mlxq_status (*operation)(void *user, mlxq_error *error), void (*check)(void *user, mlxq_status status),
             void *user) {
  long count = 0;
  for (int only_one = 0; only_one < 2; only_one++) {
    for (count = 0;; count++) {
      mlxq_error error;
      memset(&error, 0, sizeof error);
      fail_after(count, only_one);
      mlxq_status status = operation(user, &error);
      stop_failing();
      bool failed = atomic_load(&failed_once);
      if (status != MLXQ_OK) {
        if (status != MLXQ_NO_MEMORY)
          fail_msg("allocation %ld: %s: %s", count, mlxq_status_name(status), error.message);
        assert_int_equal(error.status, MLXQ_NO_MEMORY);
        assert_true(strlen(error.message) > 0);
        assert_true(failed);
      }
      if (check) check(user, status);
      if (!failed) {
        assert_int_equal(status, MLXQ_OK);
        break;
      }
    }
  }
  return count;
}
