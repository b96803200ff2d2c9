/* verify.c and what it is made of: options, what ends the work, that no byte of a checkpoint can change unseen, and
 * findings in tensors of many tiles. What each defect looks like is in tests/cli/cases/verify_*. */
#include "helpers.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- Helpers --------------------------------------------------------------------------------------------------- */

static const char CONFIG[] = "{\"model_type\": \"llama\", \"torch_dtype\": \"bfloat16\"}";

/* The dense folder "src" with one layer and a norm, and "dst", what quantizing gives. */
static void make_pair(const void *scratch, const mlxq_scheme *scheme, mlxq_profile profile) {
  mlxq_weights *dense = new_weights();
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  add_random(dense, "model.up.weight", MLXQ_BF16, SHAPE(2, 128));
  add_random(dense, "model.norm.weight", MLXQ_BF16, SHAPE(5));
  make_folder(path_in(scratch, "src"));
  write_text(path_in(scratch, "src/config.json"), CONFIG);
  write_safetensors(path_in(scratch, "src/model.safetensors"), dense);
  mlxq_weights_free(dense);
  options.scheme = *scheme;
  options.common.profile = profile;
  assert_int_equal(mlxq_quantize_checkpoint(NULL, path_in(scratch, "src"), path_in(scratch, "dst"), &options, NULL),
                   MLXQ_OK);
}

static mlxq_verification *verify(const char *source, const char *against, mlxq_profile profile) {
  mlxq_verification *report = NULL;
  mlxq_verify_options options = MLXQ_VERIFY_OPTIONS_INIT;
  mlxq_error error;
  options.against = against;
  options.profile = profile;
  options.threads = 2;
  if (mlxq_verify(&report, source, &options, &error) != MLXQ_OK) {
    fail_msg("%s: %s: %s: %s", source, error.file, error.key, error.message);
  }
  assert_non_null(report);
  return report;
}

/* A call that fails, and its error. */
static void assert_refused(const char *source, const mlxq_verify_options *options, mlxq_status status,
                           const char *key) {
  mlxq_error error;
  mlxq_verification *report = (mlxq_verification *)(uintptr_t)16;
  assert_int_equal(mlxq_verify(&report, source, options, &error), status);
  assert_null(report);
  assert_int_equal(error.status, status);
  assert_string_equal(error.key, key);
  report = (mlxq_verification *)(uintptr_t)16;
  assert_int_equal(mlxq_verify(&report, source, options, NULL), status);
  assert_null(report);
}

static void flip(const char *path, uint64_t offset, unsigned char bits) {
  unsigned char byte;
  int fd = open(path, O_RDWR | O_CLOEXEC);
  assert_true(fd >= 0);
  assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
  byte ^= bits;
  assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
  assert_int_equal(close(fd), 0);
}

static uint64_t size_of(const char *path) {
  struct stat status;
  assert_int_equal(stat(path, &status), 0);
  return (uint64_t)status.st_size;
}

/* ---- Options --------------------------------------------------------------------------------------------------- */

static void test_options_are_checked(void **state) {
  mlxq_verify_options options = MLXQ_VERIFY_OPTIONS_INIT;
  mlxq_dtype dtype = MLXQ_I32;
  options.version = 2;
  assert_refused(*state, &options, MLXQ_USAGE, "version");
  options = (mlxq_verify_options)MLXQ_VERIFY_OPTIONS_INIT;
  options.profile = (mlxq_profile)2;
  assert_refused(*state, &options, MLXQ_USAGE, "profile");
  options = (mlxq_verify_options)MLXQ_VERIFY_OPTIONS_INIT;
  options.dtype = &dtype;
  assert_refused(*state, &options, MLXQ_UNSUPPORTED_DTYPE, "dtype");
  options = (mlxq_verify_options)MLXQ_VERIFY_OPTIONS_INIT;
  options.cpu = "z80";
  assert_refused(*state, &options, MLXQ_USAGE, "cpu");
  mlxq_verification_free(NULL);
}

/* ---- What ends the work ---------------------------------------------------------------------------------------- */

typedef struct meddler {
  const char *path;
  int calls_left; /* before it acts */
  bool cancels;   /* or touches `path` */
  uint64_t last, total;
} meddler;

static bool meddle(void *user) {
  meddler *m = user;
  if (m->calls_left-- > 0) return false;
  if (m->cancels) return true;
  const struct timespec times[] = {{0, 0}, {0, 0}};
  assert_int_equal(utimensat(AT_FDCWD, m->path, times, 0), 0);
  return false;
}

static void follow(void *user, uint64_t done, uint64_t total) {
  meddler *m = user;
  assert_in_range(done, m->last, total);
  m->last = done;
  m->total = total;
}

/* Cancelled and changed at every tile: of the reading, then of the comparison. */
static void test_cancelled_or_changed_at_any_tile(void **state) {
  const mlxq_scheme scheme = mlxq_scheme_default(MLXQ_AFFINE);
  make_pair(*state, &scheme, MLXQ_PROFILE_CPU);
  mlxq_verify_options options = MLXQ_VERIFY_OPTIONS_INIT;
  options.threads = 1;
  options.against = path_in(*state, "src");
  options.cancelled = meddle;
  for (int poll = 2; poll < 8; poll++) { /* after the openings: a triple and a norm, each read, planned and compared */
    meddler m = {.path = path_in(*state, "dst/model.safetensors"), .calls_left = poll, .cancels = true};
    options.user = &m;
    options.against = path_in(*state, "src"); /* the buffers of paths are reused */
    mlxq_verification *report = NULL;
    mlxq_error error;
    assert_int_equal(mlxq_verify(&report, path_in(*state, "dst"), &options, &error), MLXQ_CANCELLED);
    m = (meddler){.path = path_in(*state, "dst/model.safetensors"), .calls_left = poll};
    assert_int_equal(mlxq_verify(&report, path_in(*state, "dst"), &options, &error), MLXQ_CHANGED);
    assert_string_equal(error.file, m.path);
    m = (meddler){.path = path_in(*state, "src/model.safetensors"), .calls_left = poll};
    assert_int_equal(mlxq_verify(&report, path_in(*state, "dst"), &options, &error), MLXQ_CHANGED);
    assert_string_equal(error.file, m.path);
    assert_null(report);
  }
  meddler m = {.calls_left = 8};
  options.against = path_in(*state, "src");
  mlxq_verification *report = NULL;
  options.user = &m;
  options.progress = follow;
  assert_int_equal(mlxq_verify(&report, path_in(*state, "dst"), &options, NULL), MLXQ_OK);
  assert_int_equal(m.calls_left, 0);
  assert_int_equal(m.last, 2 * report->bytes);
  assert_int_equal(m.total, 2 * report->bytes);
  mlxq_verification_free(report);
}

/* ---- Many names ------------------------------------------------------------------------------------------------ */

/* A name that layers 0 to MANY have and after them every second one, so that each lacks what its neighbour has. */
static void test_names_with_many_gaps(void **state) {
  enum { MANY = 40000 };
  char name[64], config[64];
  mlxq_weights *weights = new_weights();
  for (int i = 0; i < 2 * MANY; i++) {
    bool other = i >= MANY && i % 2 == 0;
    snprintf(name, sizeof name, "model.layers.%d.%c.weight", i, other ? 'b' : 'a');
    add_bytes(weights, name, MLXQ_F16, SHAPE(0), "");
  }
  make_folder(path_in(*state, "src"));
  snprintf(config, sizeof config, "{\"model_type\": \"llama\", \"num_hidden_layers\": %d}", 2 * MANY);
  write_text(path_in(*state, "src/config.json"), config);
  write_safetensors(path_in(*state, "src/model.safetensors"), weights);
  mlxq_weights_free(weights);
  clock_t start = clock();
  mlxq_verification *report = verify(path_in(*state, "src"), NULL, MLXQ_PROFILE_CPU);
  assert_int_equal(report->notes_found, 0);
  mlxq_verification_free(report);
  /* It takes some 0.2 s; the room is for sanitizers, and quadratic work would not fit it. */
  assert_true(clock() - start < 5 * (clock_t)CLOCKS_PER_SEC);
  /* Nothing but the names is long here, so that this is among them. */
  meddler m = {.calls_left = MANY, .cancels = true};
  mlxq_verify_options options = MLXQ_VERIFY_OPTIONS_INIT;
  options.cancelled = meddle;
  options.user = &m;
  assert_int_equal(mlxq_verify(&report, path_in(*state, "src"), &options, NULL), MLXQ_CANCELLED);
}

/* ---- No byte changes unseen ------------------------------------------------------------------------------------ */

/* The byte `offset` of the data belongs to one tensor; its elements before it. */
static const char *owner_of(const mlxq_weights *tensors, uint64_t offset, uint64_t *elem) {
  for (size_t i = 0; i < mlxq_weights_count(tensors); i++) {
    const mlxq_tensor *tensor = mlxq_weights_at(tensors, i);
    if (offset < tensor->bytes) {
      *elem = offset / (mlxq_dtype_bits(tensor->dtype) / 8);
      return tensor->name;
    }
    offset -= tensor->bytes;
  }
  fail_msg("beyond the data");
  return NULL;
}

/* Flips bits of each byte of the data: the comparison finds that tensor, that element, and no other. */
static void check_data_bytes(const void *scratch, mlxq_profile profile) {
  const char *path = path_in(scratch, "dst/model.safetensors"), *dst = path_in(scratch, "dst");
  const char *src = path_in(scratch, "src");
  mlxq_weights *tensors = read_safetensors(path);
  uint64_t data_bytes = 0, size = size_of(path);
  for (size_t i = 0; i < mlxq_weights_count(tensors); i++) data_bytes += mlxq_weights_at(tensors, i)->bytes;
  for (uint64_t at = 0; at < data_bytes; at++) {
    char expected[128];
    uint64_t elem = 0;
    unsigned found = 0;
    const char *name = owner_of(tensors, at, &elem);
    flip(path, size - data_bytes + at, (unsigned char)(1u << at % 8));
    mlxq_verification *report = verify(dst, src, profile);
    snprintf(expected, sizeof expected, "what the dense original gives; the first is %llu", (unsigned long long)elem);
    for (size_t i = 0; i < report->defects_kept; i++) {
      const mlxq_defect *defect = &report->defects[i];
      if (defect->key) assert_string_equal(defect->key, name); /* NaN, or a zero scale, of a layer is of its scales */
      if (strstr(defect->message, expected) && strcmp(defect->key, name) == 0) found++;
    }
    assert_int_equal(found, 1);
    assert_int_equal(report->comparison->elems_different, 1);
    assert_int_equal(report->comparison->tensors_different, 1);
    mlxq_verification_free(report);
    flip(path, size - data_bytes + at, (unsigned char)(1u << at % 8));
  }
  mlxq_weights_free(tensors);
}

static void test_no_byte_of_the_data_changes_unseen(void **state) {
  for (int mode = 0; mode < MLXQ_MODE_COUNT; mode++) {
    for (int profile = 0; profile < 2; profile++) {
      const mlxq_scheme scheme = mlxq_scheme_default((mlxq_mode)mode);
      seed_random((uint64_t)mode + 1);
      make_pair(*state, &scheme, (mlxq_profile)profile);
      mlxq_verification *report = verify(path_in(*state, "dst"), path_in(*state, "src"), (mlxq_profile)profile);
      assert_int_equal(report->defects_found, 0);
      assert_int_equal(report->comparison->tensors, report->tensors);
      mlxq_verification_free(report);
      check_data_bytes(*state, (mlxq_profile)profile);
      assert_int_equal(unlink(path_in(*state, "src/model.safetensors")), 0);
      assert_int_equal(unlink(path_in(*state, "src/config.json")), 0);
      assert_int_equal(rmdir(path_in(*state, "src")), 0);
      for (const char *const *name = (const char *const[]){"model.safetensors", "model.safetensors.index.json",
                                                           "config.json", "README.md", NULL};
           *name; name++) {
        assert_int_equal(unlink(path_in(path_in(*state, "dst"), "%s", *name)), 0);
      }
      assert_int_equal(rmdir(path_in(*state, "dst")), 0);
    }
  }
}

/* Flips bits of each byte of the header, of its length, and of the index: always a defect, but for the value of
 * __metadata__ and of the index's metadata, which mean nothing. */
static void test_no_byte_of_a_header_changes_unseen(void **state) {
  static const char *const FILES[] = {"model.safetensors", "model.safetensors.index.json"};
  static const unsigned char BITS[] = {0x01, 0x02, 0x10, 0x20, 0x80};
  const mlxq_scheme scheme = mlxq_scheme_default(MLXQ_NVFP4);
  make_pair(*state, &scheme, MLXQ_PROFILE_CPU);
  const char *dst = path_in(*state, "dst"), *src = path_in(*state, "src");
  for (size_t file = 0; file < COUNT(FILES); file++) {
    const char *path = path_in(dst, "%s", FILES[file]);
    char text[4096];
    FILE *stream = fopen(path, "rb");
    assert_non_null(stream);
    size_t read = fread(text, 1, sizeof text - 1, stream);
    fclose(stream);
    text[read] = '\0';
    size_t end = file == 0 ? 8 + (unsigned char)text[0] + 256 * (size_t)(unsigned char)text[1] : read, unseen = 0;
    assert_in_range(end, 100, read);
    const char *free_text = file == 0 ? "format\":\"mlx" : NULL;
    for (size_t at = 0; at < end; at++) {
      for (size_t k = 0; k < COUNT(BITS); k++) {
        flip(path, at, BITS[k]);
        mlxq_verification *report = verify(dst, src, MLXQ_PROFILE_CPU);
        const char *value = free_text ? strstr(text + 8, free_text) : NULL;
        bool means_nothing = file == 0 ? value && text + at >= value && text + at < value + strlen(free_text)
                                       : text + at < strstr(text, "weight_map") || strchr(" \n", text[at]);
        if (report->defects_found == 0 && !means_nothing) fail_msg("%s: byte %zu ^ %02x", FILES[file], at, BITS[k]);
        unseen += report->defects_found == 0;
        mlxq_verification_free(report);
        flip(path, at, BITS[k]);
      }
    }
    assert_in_range(unseen, 1, end * COUNT(BITS) / 2);
  }
}

/* Whatever stands in config.json, the call works. */
static void test_any_config_is_survived(void **state) {
  const mlxq_scheme scheme = mlxq_scheme_default(MLXQ_MXFP8);
  make_pair(*state, &scheme, MLXQ_PROFILE_CPU);
  const char *path = path_in(*state, "dst/config.json"), *dst = path_in(*state, "dst"), *src = path_in(*state, "src");
  uint64_t size = size_of(path), defects = 0;
  for (uint64_t at = 0; at < size; at++) {
    flip(path, at, (unsigned char)(1u << at % 7));
    mlxq_verification *report = verify(dst, src, MLXQ_PROFILE_CPU);
    defects += report->defects_found > 0;
    mlxq_verification_free(report);
    flip(path, at, (unsigned char)(1u << at % 7));
  }
  assert_in_range(defects, size / 4, size);
}

/* ---- Many tiles ------------------------------------------------------------------------------------------------ */

/* Findings are those of the whole tensor, wherever tiles end. */
static void test_findings_across_tiles(void **state) {
  enum { ELEMS = 2500000 };
  static const mlxq_dtype DTYPES[] = {MLXQ_F16, MLXQ_BF16, MLXQ_F32, MLXQ_F64};
  static const uint64_t PLACES[] = {7, 524287, 524288, 1048575, 1048576, 2097152, ELEMS - 1};
  for (size_t i = 0; i < COUNT(DTYPES); i++) {
    char expected[128];
    mlxq_weights *weights = new_weights();
    add_random(weights, "wide", DTYPES[i], SHAPE(ELEMS));
    size_t elem_bytes = mlxq_dtype_bits(DTYPES[i]) / 8;
    for (size_t k = 0; k < COUNT(PLACES); k++) {
      unsigned char *elem = bytes_of(weights, "wide") + PLACES[k] * elem_bytes;
      memset(elem, 0, elem_bytes);
      elem[elem_bytes - 1] = k % 2 ? 0x7F : 0xFF; /* infinity, or a NaN in F16 */
      elem[elem_bytes - 2] = DTYPES[i] == MLXQ_F64 ? 0xF0 : 0x80;
    }
    write_safetensors(path_in(*state, "wide.safetensors"), weights);
    mlxq_weights_free(weights);
    mlxq_verification *report = verify(path_in(*state, "wide.safetensors"), NULL, MLXQ_PROFILE_CPU);
    snprintf(expected, sizeof expected, "%zu of %d elements are NaN or infinite; the first is 7", COUNT(PLACES), ELEMS);
    assert_int_equal(report->defects_found, 1);
    assert_string_equal(report->defects[0].message, expected);
    assert_int_equal(report->defects[0].status, MLXQ_NON_FINITE);
    assert_string_equal(report->defects[0].key, "wide");
    assert_null(report->defects[0].layer);
    assert_null(report->comparison);
    mlxq_verification_free(report);
  }
}

/* ---- Single files ---------------------------------------------------------------------------------------------- */

/* Every scheme is told from shapes, of every rank; also where the last axis is one group. */
static void test_schemes_are_told_from_shapes(void **state) {
  for (int mode = 0; mode < MLXQ_MODE_COUNT; mode++) {
    for (int32_t bits = 2; bits <= 8; bits++) {
      for (int32_t group = 16; group <= 128; group *= 2) {
        const mlxq_scheme scheme = {(mlxq_mode)mode, bits, group};
        if (mlxq_scheme_check(&scheme, NULL) != MLXQ_OK) continue;
        mlxq_weights *dense = new_weights();
        uint64_t last = (uint64_t)group;
        add_random(dense, "one.weight", MLXQ_F16, SHAPE(3, last));
        add_random(dense, "odd.weight", MLXQ_F16, SHAPE(2, 3, 5 * last));
        add_random(dense, "four.weight", MLXQ_F16, SHAPE(1, 2, 1, 4 * last));
        add_random(dense, "empty.weight", MLXQ_F16, SHAPE(0, last));
        write_safetensors(path_in(*state, "src.safetensors"), dense);
        mlxq_weights_free(dense);
        mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
        options.scheme = scheme;
        options.common.force = true;
        assert_int_equal(mlxq_quantize_checkpoint(NULL, path_in(*state, "src.safetensors"),
                                                  path_in(*state, "dst.safetensors"), &options, NULL),
                         MLXQ_OK);
        mlxq_verification *report =
            verify(path_in(*state, "dst.safetensors"), path_in(*state, "src.safetensors"), MLXQ_PROFILE_CPU);
        if (report->defects_found > 0) fail_msg("%d %d %d: %s", mode, bits, group, report->defects[0].message);
        assert_int_equal(report->layers, 4);
        assert_int_equal(report->comparison->tensors, report->tensors);
        assert_int_equal(report->comparison->elems_different, 0);
        mlxq_verification_free(report);
      }
    }
  }
}

#define ON_DISK(function) cmocka_unit_test_setup_teardown(function, make_scratch, remove_scratch)

int main(void) {
  const struct CMUnitTest tests[] = {
      ON_DISK(test_options_are_checked),
      ON_DISK(test_cancelled_or_changed_at_any_tile),
      ON_DISK(test_names_with_many_gaps),
      ON_DISK(test_no_byte_of_the_data_changes_unseen),
      ON_DISK(test_no_byte_of_a_header_changes_unseen),
      ON_DISK(test_any_config_is_survived),
      ON_DISK(test_findings_across_tiles),
      ON_DISK(test_schemes_are_told_from_shapes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
