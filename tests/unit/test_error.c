/* error.c: the names of statuses, how errors are filled, escaped, cut and written as a line. */
#include "base/error.h"

#include "base/file.h"
#include "helpers.h"

#include <errno.h>
#include <unistd.h>

/* ---- Statuses -------------------------------------------------------------------------------------------------- */

/* The contract of commands (names) and of the ABI (values). */
static const struct {
  int value;
  mlxq_status status;
  const char *name;
} STATUSES[] = {
    {0, MLXQ_OK, "ok"},
    {1, MLXQ_MISSING_KEY, "missing_key"},
    {2, MLXQ_KEY_COLLISION, "key_collision"},
    {3, MLXQ_RANK_MISMATCH, "rank_mismatch"},
    {4, MLXQ_SHAPE_MISMATCH, "shape_mismatch"},
    {5, MLXQ_LENGTH_MISMATCH, "length_mismatch"},
    {6, MLXQ_UNSUPPORTED_DTYPE, "unsupported_dtype"},
    {7, MLXQ_OUT_OF_RANGE, "out_of_range"},
    {8, MLXQ_NOT_DIVISIBLE, "not_divisible"},
    {9, MLXQ_OVERFLOW, "overflow"},
    {10, MLXQ_PARSE, "parse"},
    {11, MLXQ_UNKNOWN_VALUE, "unknown_value"},
    {12, MLXQ_INVARIANT, "invariant"},
    {13, MLXQ_NON_FINITE, "non_finite"},
    {14, MLXQ_CORRUPT, "corrupt"},
    {15, MLXQ_UNSUPPORTED, "unsupported"},
    {16, MLXQ_EXISTS, "exists"},
    {17, MLXQ_BUSY, "busy"},
    {18, MLXQ_CHANGED, "changed"},
    {19, MLXQ_NO_SPACE, "no_space"},
    {20, MLXQ_IO, "io"},
    {21, MLXQ_NO_MEMORY, "no_memory"},
    {22, MLXQ_CANCELLED, "cancelled"},
    {23, MLXQ_USAGE, "usage"},
};

static void test_statuses_are_pinned(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT(STATUSES); i++) {
    assert_int_equal(STATUSES[i].status, STATUSES[i].value);
    assert_string_equal(mlxq_status_name(STATUSES[i].status), STATUSES[i].name);
  }
}

static void test_other_values_are_unknown(void **state) {
  (void)state;
  static const int VALUES[] = {COUNT(STATUSES), COUNT(STATUSES) + 1, 1000, -1, INT32_MIN, INT32_MAX};
  for (size_t i = 0; i < COUNT(VALUES); i++) {
    assert_string_equal(mlxq_status_name((mlxq_status)VALUES[i]), "unknown");
  }
}

static void test_the_report_has_pinned_sizes(void **state) {
  (void)state;
  const mlxq_error *error = NULL;
  assert_int_equal(sizeof error->file, 1024);
  assert_int_equal(sizeof error->layer, 512);
  assert_int_equal(sizeof error->key, 512);
  assert_int_equal(sizeof error->message, 768);
}

static void test_version(void **state) {
  (void)state;
  assert_string_equal(mlxq_version(), MLXQ_VERSION);
}

/* ---- Filling --------------------------------------------------------------------------------------------------- */

static void test_fail_fills_everything_anew(void **state) {
  (void)state;
  mlxq_error error;
  memset(&error, 'x', sizeof error);
  assert_int_equal(mlxq_fail(&error, MLXQ_CORRUPT, "model.layers.0", "key", "%s is %d", "seven", 7), MLXQ_CORRUPT);
  assert_error(&error, MLXQ_CORRUPT, "model.layers.0", "key");
  assert_string_equal(error.message, "seven is 7");
  assert_int_equal(mlxq_fail(&error, MLXQ_PARSE, NULL, NULL, "again"), MLXQ_PARSE);
  assert_error(&error, MLXQ_PARSE, "", "");
  assert_string_equal(error.message, "again");
}

static void test_memory(void **state) {
  (void)state;
  mlxq_error error;
  memset(&error, 'x', sizeof error);
  assert_int_equal(mlxq_fail_memory(&error), MLXQ_NO_MEMORY);
  assert_error(&error, MLXQ_NO_MEMORY, "", "");
}

static void test_errno_chooses_the_status(void **state) {
  (void)state;
  static const struct {
    int os_errno;
    mlxq_status status;
  } CASES[] = {
      {ENOSPC, MLXQ_NO_SPACE},  {EDQUOT, MLXQ_NO_SPACE},  {EFBIG, MLXQ_NO_SPACE}, {EEXIST, MLXQ_EXISTS},
      {ENOMEM, MLXQ_NO_MEMORY}, {ENOTEMPTY, MLXQ_EXISTS}, {EIO, MLXQ_IO},         {EACCES, MLXQ_IO},
      {ENOENT, MLXQ_IO},        {EROFS, MLXQ_IO},         {EISDIR, MLXQ_IO},      {99999, MLXQ_IO},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    char expected[256];
    mlxq_error error;
    memset(&error, 'x', sizeof error);
    assert_int_equal(mlxq_fail_errno(&error, CASES[i].os_errno, "a/b", "cannot do it"), CASES[i].status);
    assert_int_equal(error.status, CASES[i].status);
    assert_int_equal(error.os_errno, CASES[i].os_errno);
    assert_string_equal(error.file, "a/b");
    assert_string_equal(error.layer, "");
    assert_string_equal(error.key, "");
    snprintf(expected, sizeof expected, "cannot do it: %s", strerror(CASES[i].os_errno));
    assert_string_equal(error.message, expected);
    assert_int_equal(mlxq_fail_errno(NULL, CASES[i].os_errno, "a/b", "cannot do it"), CASES[i].status);
  }
}

static void test_places_are_added_where_none_is_set(void **state) {
  (void)state;
  mlxq_error error;
  mlxq_fail(&error, MLXQ_IO, NULL, NULL, "message");
  assert_int_equal(mlxq_error_at_key(&error, MLXQ_IO, NULL), MLXQ_IO);
  assert_error(&error, MLXQ_IO, "", "");
  assert_int_equal(mlxq_error_at_key(&error, MLXQ_IO, "key"), MLXQ_IO);
  assert_int_equal(mlxq_error_at_key(&error, MLXQ_CORRUPT, "outer"), MLXQ_CORRUPT);
  assert_int_equal(mlxq_error_at_layer(&error, MLXQ_IO, NULL), MLXQ_IO);
  assert_int_equal(mlxq_error_at_file(&error, MLXQ_IO, NULL), MLXQ_IO);
  assert_error(&error, MLXQ_IO, "", "key");
  assert_int_equal(mlxq_error_at_layer(&error, MLXQ_IO, "inner"), MLXQ_IO);
  assert_int_equal(mlxq_error_at_file(&error, MLXQ_IO, "inner.safetensors"), MLXQ_IO);
  assert_int_equal(mlxq_error_at_layer(&error, MLXQ_CORRUPT, "outer"), MLXQ_CORRUPT);
  assert_int_equal(mlxq_error_at_file(&error, MLXQ_CORRUPT, "outer.safetensors"), MLXQ_CORRUPT);
  assert_string_equal(error.layer, "inner");
  assert_string_equal(error.file, "inner.safetensors");
  assert_string_equal(error.key, "key");
  assert_string_equal(error.message, "message");
  assert_int_equal(error.status, MLXQ_IO);
  mlxq_fail(&error, MLXQ_IO, "layer", NULL, "message");
  mlxq_error_at_layer(&error, MLXQ_IO, "outer");
  assert_string_equal(error.layer, "layer");
}

/* ---- One line -------------------------------------------------------------------------------------------------- */

static void test_format_leaves_absent_parts_out(void **state) {
  (void)state;
  for (int parts = 0; parts < 8; parts++) {
    char expected[64] = "", line[64];
    mlxq_error error;
    mlxq_fail(&error, MLXQ_IO, parts & 2 ? "LAYER" : NULL, parts & 4 ? "KEY" : NULL, "the reason");
    if (parts & 1) mlxq_error_at_file(&error, MLXQ_IO, "FILE");
    snprintf(expected, sizeof expected, "%s%s%sthe reason", parts & 1 ? "FILE: " : "", parts & 2 ? "LAYER: " : "",
             parts & 4 ? "KEY: " : "");
    assert_int_equal(mlxq_error_format(&error, line, sizeof line), strlen(expected));
    assert_string_equal(line, expected);
  }
}

static void test_format_cuts_as_snprintf_does(void **state) {
  (void)state;
  mlxq_error error;
  mlxq_fail(&error, MLXQ_IO, "layer", "key", "message");
  static const char WHOLE[] = "layer: key: message";
  int length = (int)strlen(WHOLE);
  for (int room = 1; room <= length + 2; room++) {
    char line[64];
    memset(line, '#', sizeof line);
    assert_int_equal(mlxq_error_format(&error, line, room), length);
    size_t kept = (size_t)(room <= length ? room - 1 : length);
    assert_memory_equal(line, WHOLE, kept);
    assert_int_equal(line[kept], '\0');
    assert_int_equal(line[kept + 1], '#');
  }
  char untouched = '#';
  assert_int_equal(mlxq_error_format(&error, &untouched, 0), length);
  assert_int_equal(mlxq_error_format(&error, &untouched, -5), length);
  assert_int_equal(mlxq_error_format(&error, NULL, 0), length);
  assert_int_equal(untouched, '#');
}

static void test_format_names_a_whole_tensor_once(void **state) {
  (void)state;
  char line[64];
  mlxq_error error;
  mlxq_fail(&error, MLXQ_IO, "a.scales", "a.scales", "message");
  mlxq_error_format(&error, line, sizeof line);
  assert_string_equal(line, "a.scales: message");
}

static void test_format_holds_the_longest_error(void **state) {
  (void)state;
  char text[4096], line[4096];
  mlxq_error error;
  memset(text, 'a', sizeof text);
  text[sizeof text - 1] = '\0';
  mlxq_fail(&error, MLXQ_IO, text, NULL, "%s", text);
  text[0] = 'b';
  mlxq_error_at_key(&error, MLXQ_IO, text);
  mlxq_error_at_file(&error, MLXQ_IO, text);
  int length = mlxq_error_format(&error, line, sizeof line);
  assert_int_equal(length, 1023 + 2 + 511 + 2 + 511 + 2 + 767);
  assert_int_equal(strlen(line), length);
}

/* ---- Escaping -------------------------------------------------------------------------------------------------- */

/* The message that a text becomes. */
static const char *escaped(const char *text) {
  static mlxq_error error;
  mlxq_fail(&error, MLXQ_IO, text, text, "%s", text);
  mlxq_error_at_file(&error, MLXQ_IO, text);
  assert_string_equal(error.layer, error.message);
  assert_string_equal(error.key, error.message);
  assert_string_equal(error.file, error.message);
  return error.message;
}

static void test_control_characters_are_escaped(void **state) {
  (void)state;
  for (int c = 1; c < 0x80; c++) {
    char text[] = {'a', (char)c, 'z', '\0'}, expected[16];
    snprintf(expected, sizeof expected, c < 0x20 || c == 0x7F ? "a\\x%02Xz" : "a%cz", c);
    assert_string_equal(escaped(text), expected);
  }
}

/* U+0080 to U+009F are control characters too: terminals take U+009B as ESC [. */
static void test_c1_controls_are_escaped(void **state) {
  (void)state;
  for (int c = 0x80; c < 0xA0; c++) {
    char text[] = {'a', (char)0xC2, (char)c, 'z', '\0'};
    const char *found = escaped(text);
    if (strstr(found, "\xC2")) fail_msg("U+%04X is not escaped", c);
    assert_int_equal(found[0], 'a');
    assert_int_equal(found[strlen(found) - 1], 'z');
  }
}

static void test_utf8_stays(void **state) {
  (void)state;
  static const char *const TEXTS[] = {
      "",
      "plain \\x41",
      "\xC2\xA0",
      "\xDF\xBF",
      "\xE0\xA0\x80",
      "\xE2\x82\xAC",
      "\xED\x9F\xBF",
      "\xEE\x80\x80",
      "\xEF\xBF\xBD",
      "\xF0\x90\x80\x80",
      "\xF0\x9F\xA6\x99",
      "\xF4\x8F\xBF\xBF",
      "k\xC3\xBC-weight",
  };
  for (size_t i = 0; i < COUNT(TEXTS); i++) assert_string_equal(escaped(TEXTS[i]), TEXTS[i]);
}

static void test_broken_utf8_is_escaped(void **state) {
  (void)state;
  static const struct {
    const char *text, *expected;
  } CASES[] = {
      {"\x80", "\\x80"},
      {"\xBF", "\\xBF"},
      {"\xC0\x80", "\\xC0\\x80"},
      {"\xC1\xBF", "\\xC1\\xBF"},
      {"\xC3", "\\xC3"},
      {"\xC3(", "\\xC3("},
      {"\xE0\x80\x80", "\\xE0\\x80\\x80"},
      {"\xE0\x9F\xBF", "\\xE0\\x9F\\xBF"},
      {"\xE2\x82", "\\xE2\\x82"},
      {"\xE2(\xAC", "\\xE2(\\xAC"},
      {"\xED\xA0\x80", "\\xED\\xA0\\x80"},
      {"\xED\xBF\xBF", "\\xED\\xBF\\xBF"},
      {"\xF0\x80\x80\x80", "\\xF0\\x80\\x80\\x80"},
      {"\xF0\x8F\xBF\xBF", "\\xF0\\x8F\\xBF\\xBF"},
      {"\xF0\x9F\xA6", "\\xF0\\x9F\\xA6"},
      {"\xF4\x90\x80\x80", "\\xF4\\x90\\x80\\x80"},
      {"\xF5\x80\x80\x80", "\\xF5\\x80\\x80\\x80"},
      {"\xF8\x88\x80\x80\x80", "\\xF8\\x88\\x80\\x80\\x80"},
      {"\xFF\xFE", "\\xFF\\xFE"},
      {"a\xE2\x82z\xC3\xBC", "a\\xE2\\x82z\xC3\xBC"},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) assert_string_equal(escaped(CASES[i].text), CASES[i].expected);
}

/* Length of the well-formed sequence at `s` by the table of the Unicode standard, or 0. */
static size_t well_formed(const unsigned char *s, size_t left) {
  static const unsigned char TABLE[][9] = {
      /* length, then the range of each byte */
      {1, 0x00, 0x7F},
      {2, 0xC2, 0xDF, 0x80, 0xBF},
      {3, 0xE0, 0xE0, 0xA0, 0xBF, 0x80, 0xBF},
      {3, 0xE1, 0xEC, 0x80, 0xBF, 0x80, 0xBF},
      {3, 0xED, 0xED, 0x80, 0x9F, 0x80, 0xBF},
      {3, 0xEE, 0xEF, 0x80, 0xBF, 0x80, 0xBF},
      {4, 0xF0, 0xF0, 0x90, 0xBF, 0x80, 0xBF, 0x80, 0xBF},
      {4, 0xF1, 0xF3, 0x80, 0xBF, 0x80, 0xBF, 0x80, 0xBF},
      {4, 0xF4, 0xF4, 0x80, 0x8F, 0x80, 0xBF, 0x80, 0xBF},
  };
  for (size_t row = 0; row < COUNT(TABLE); row++) {
    size_t length = TABLE[row][0], i = 0;
    if (length > left) continue;
    while (i < length && s[i] >= TABLE[row][1 + 2 * i] && s[i] <= TABLE[row][2 + 2 * i]) i++;
    if (i == length) return length;
  }
  return 0;
}

static void assert_clean(const char *text) {
  const unsigned char *s = (const unsigned char *)text;
  for (size_t left = strlen(text); left > 0;) {
    size_t length = well_formed(s, left);
    assert_int_not_equal(length, 0);
    if (s[0] < 0x20 || s[0] == 0x7F) fail_msg("a control character is left");
    s += length;
    left -= length;
  }
}

static void test_any_bytes_become_clean_text(void **state) {
  (void)state;
  seed_random(11);
  for (int round = 0; round < 20000; round++) {
    /* Lead and continuation bytes come together often enough to make sequences of every kind. */
    static const unsigned char LIKELY[] = {0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xE0,
                                           0xE1, 0xED, 0xEF, 0xF0, 0xF1, 0xF4, 0xF5, 0x01, 0x7F};
    char text[400], expected[4 * sizeof text] = "";
    size_t length = (size_t)random_below(round % 100 == 0 ? sizeof text : 24), used = 0;
    for (size_t i = 0; i < length; i++) {
      text[i] = (char)(random_below(2) ? 1 + random_below(255) : LIKELY[random_below(sizeof LIKELY)]);
    }
    text[length] = '\0';
    bool c1 = false;
    for (size_t i = 0; i < length;) {
      size_t taken = well_formed((const unsigned char *)text + i, length - i);
      unsigned char first = (unsigned char)text[i];
      c1 = c1 || (taken == 2 && first == 0xC2 && (unsigned char)text[i + 1] < 0xA0);
      if (taken == 0 || first < 0x20 || first == 0x7F) {
        used += (size_t)snprintf(expected + used, sizeof expected - used, "\\x%02X", first);
        i++;
      } else {
        memcpy(expected + used, text + i, taken);
        used += taken;
        expected[used] = '\0';
        i += taken;
      }
    }
    mlxq_error error;
    mlxq_fail(&error, MLXQ_IO, NULL, text, "%s", text);
    assert_clean(error.message);
    assert_clean(error.key);
    if (!c1 && used < sizeof error.message) assert_string_equal(error.message, expected);
    if (!c1 && used < sizeof error.key) assert_string_equal(error.key, expected);
  }
}

/* ---- Cutting --------------------------------------------------------------------------------------------------- */

/* `unit`, repeated behind `padding` letters until the text is longer than any part of an error, is cut to `shown`
 * units: as many as fit with the dots. */
static void assert_cut(const char *unit, const char *shown, size_t padding) {
  char text[4096] = "";
  mlxq_error error;
  memset(text, 'p', padding);
  for (size_t used = padding; used + strlen(unit) < sizeof text; used += strlen(unit)) strcat(text + used, unit);
  mlxq_fail(&error, MLXQ_IO, text, text, "%s", text);
  mlxq_error_at_file(&error, MLXQ_IO, text);
  const struct {
    const char *text;
    size_t room;
  } PARTS[] = {{error.layer, sizeof error.layer},
               {error.key, sizeof error.key},
               {error.file, sizeof error.file},
               {error.message, sizeof error.message}};
  for (size_t i = 0; i < COUNT(PARTS); i++) {
    size_t units = (PARTS[i].room - 1 - 3 - padding) / strlen(shown), at = padding;
    assert_int_equal(strlen(PARTS[i].text), padding + units * strlen(shown) + 3);
    for (size_t k = 0; k < units; k++, at += strlen(shown)) {
      assert_memory_equal(PARTS[i].text + at, shown, strlen(shown));
    }
    assert_string_equal(PARTS[i].text + at, "...");
  }
}

static void test_long_text_is_cut_between_characters(void **state) {
  (void)state;
  for (size_t padding = 0; padding < 8; padding++) {
    assert_cut("a", "a", padding);
    assert_cut("\xC3\xBC", "\xC3\xBC", padding);
    assert_cut("\xE2\x82\xAC", "\xE2\x82\xAC", padding);
    assert_cut("\xF0\x9F\xA6\x99", "\xF0\x9F\xA6\x99", padding);
    assert_cut("\n", "\\x0A", padding);
    assert_cut("\xFF", "\\xFF", padding);
  }
}

static void test_text_that_just_fits_is_whole(void **state) {
  (void)state;
  static const char *const UNITS[] = {"a", "\xC3\xBC", "\xE2\x82\xAC", "\xF0\x9F\xA6\x99"};
  for (size_t i = 0; i < COUNT(UNITS); i++) {
    for (size_t length = 500; length < 520; length++) {
      char text[600] = "";
      size_t unit = strlen(UNITS[i]), used = length % unit;
      memset(text, 'p', used);
      for (; used < length; used += unit) strcat(text + used, UNITS[i]);
      mlxq_error error;
      mlxq_fail(&error, MLXQ_IO, NULL, text, "m");
      if (length < sizeof error.key) {
        assert_string_equal(error.key, text);
      } else {
        assert_string_equal(error.key + strlen(error.key) - 3, "...");
        assert_memory_equal(error.key, text, strlen(error.key) - 3);
        assert_clean(error.key);
      }
    }
  }
}

/* ---- Every call takes no error --------------------------------------------------------------------------------- */

static void test_null_errors_inside(void **state) {
  (void)state;
  assert_int_equal(mlxq_fail(NULL, MLXQ_CORRUPT, "l", "k", "%d", 1), MLXQ_CORRUPT);
  assert_int_equal(mlxq_fail_memory(NULL), MLXQ_NO_MEMORY);
  assert_int_equal(mlxq_error_at_file(NULL, MLXQ_IO, "f"), MLXQ_IO);
  assert_int_equal(mlxq_error_at_layer(NULL, MLXQ_IO, "l"), MLXQ_IO);
  assert_int_equal(mlxq_error_at_key(NULL, MLXQ_IO, "k"), MLXQ_IO);
}

static void test_null_errors_of_public_calls(void **state) {
  (void)state;
  static const char MISSING[] = "/nonexistent/mlxq";
  mlxq_mode mode;
  mlxq_scheme illegal = {MLXQ_AFFINE, 7, 48};
  mlxq_quant_config *config = NULL, *parsed = NULL;
  mlxq_layer_option option = {.kind = MLXQ_LAYER_SKIP};
  const char *path = "bits";
  char *text;
  uint64_t packed, scales, biases, elem[8] = {0};
  mlxq_weights *weights = new_weights(), *out;
  mlxq_report *report;
  mlxq_transform_options transform = MLXQ_TRANSFORM_OPTIONS_INIT;
  mlxq_quantize_options quantize = MLXQ_QUANTIZE_OPTIONS_INIT;
  mlxq_dequantize_options dequantize = MLXQ_DEQUANTIZE_OPTIONS_INIT;

  assert_int_equal(mlxq_mode_parse(&mode, "int4", NULL), MLXQ_UNKNOWN_VALUE);
  assert_int_equal(mlxq_scheme_check(&illegal, NULL), MLXQ_OUT_OF_RANGE);
  assert_int_equal(mlxq_quant_config_new(&config, NULL, NULL), MLXQ_OK);
  assert_int_equal(mlxq_quant_config_set_layer(config, "bits", &option, NULL), MLXQ_USAGE);
  assert_int_equal(mlxq_quant_config_to_json(&text, config, NULL), MLXQ_INVARIANT);
  assert_int_equal(mlxq_quant_config_from_layers(&parsed, NULL, &path, &option, 1, NULL), MLXQ_USAGE);
  assert_int_equal(mlxq_quant_config_parse(&parsed, "{", 1, NULL), MLXQ_PARSE);

  assert_int_equal(mlxq_quantized_bytes(&packed, &scales, &biases, &illegal, MLXQ_F16, 64, NULL), MLXQ_OUT_OF_RANGE);
  assert_int_equal(mlxq_quantize_array(elem, elem, elem, elem, MLXQ_F16, 64, &illegal, MLXQ_PROFILE_CPU, false, NULL),
                   MLXQ_OUT_OF_RANGE);
  assert_int_equal(mlxq_dequantize_array(elem, MLXQ_F16, 64, elem, elem, elem, &illegal, MLXQ_PROFILE_CPU, NULL),
                   MLXQ_OUT_OF_RANGE);

  assert_int_equal(mlxq_weights_add_copy(weights, "a.biases", MLXQ_U8, SHAPE(1), elem, NULL), MLXQ_OK);
  assert_int_equal(mlxq_weights_add_copy(weights, "a.biases", MLXQ_U8, SHAPE(1), elem, NULL), MLXQ_KEY_COLLISION);
  assert_int_equal(mlxq_weights_add_borrowed(weights, "b", MLXQ_F32, SHAPE(UINT64_MAX, 2), elem, NULL), MLXQ_OVERFLOW);
  assert_int_equal(mlxq_weights_add_copy(weights, "a.weight", MLXQ_U32, SHAPE(1, 2), elem, NULL), MLXQ_OK);
  assert_int_equal(mlxq_quantize_weights(&out, weights, config, NULL, NULL, NULL, NULL), MLXQ_MISSING_KEY);
  assert_int_equal(mlxq_dequantize_weights(&out, weights, config, NULL, NULL), MLXQ_MISSING_KEY);
  transform.version = 99;
  assert_int_equal(mlxq_quantize_weights(&out, weights, config, NULL, NULL, &transform, NULL), MLXQ_USAGE);
  assert_int_equal(mlxq_dequantize_weights(&out, weights, config, &transform, NULL), MLXQ_USAGE);

  assert_int_equal(mlxq_inspect(&report, MISSING, NULL), MLXQ_IO);
  assert_int_equal(mlxq_quantize_checkpoint(&report, MISSING, MISSING, &quantize, NULL), MLXQ_IO);
  assert_int_equal(mlxq_dequantize_checkpoint(NULL, MISSING, MISSING, &dequantize, NULL), MLXQ_IO);
  mlxq_weights_free(weights);
  mlxq_quant_config_free(config);
}

static void test_null_errors_of_files(void **state) {
  (void)state;
  static const char MISSING[] = "/nonexistent/mlxq";
  int fd;
  mlxq_file_identity identity;
  char byte, *text;
  size_t length;
  assert_int_equal(mlxq_file_open(&fd, &identity, MISSING, NULL), MLXQ_IO);
  assert_int_equal(mlxq_file_open(&fd, &identity, "/", NULL), MLXQ_IO);
  assert_int_equal(mlxq_file_reopen(&fd, &(mlxq_file_identity){0}, MISSING, NULL), MLXQ_CHANGED);
  assert_int_equal(mlxq_file_reopen(&fd, &(mlxq_file_identity){0}, "/", NULL), MLXQ_IO);
  assert_int_equal(mlxq_file_create(&fd, MISSING, NULL), MLXQ_IO);
  assert_int_equal(mlxq_file_open_write(&fd, MISSING, NULL), MLXQ_IO);
  assert_int_equal(mlxq_file_read_at(-1, &byte, 1, 0, MISSING, NULL), MLXQ_IO);
  assert_int_equal(mlxq_file_write_at(-1, &byte, 1, 0, MISSING, NULL), MLXQ_IO);
  assert_int_equal(mlxq_file_reserve(-1, 1, MISSING, NULL), MLXQ_IO);
  assert_int_equal(mlxq_file_sync(-1, MISSING, NULL), MLXQ_IO);
  assert_int_equal(mlxq_folder_sync(MISSING, NULL), MLXQ_IO);
  assert_int_equal(mlxq_file_read_text(&text, &length, MISSING, 9, NULL), MLXQ_IO);
  assert_int_equal(mlxq_file_write_text(MISSING, "", 0, NULL), MLXQ_IO);
  assert_int_equal(mlxq_file_copy(MISSING, MISSING, &(mlxq_cancel){0}, NULL), MLXQ_IO);
  assert_int_equal(mlxq_file_remove_tree(MISSING, NULL), MLXQ_OK);
}

/* What succeeds leaves the caller's error alone. */
static void test_success_writes_no_error(void **state) {
  (void)state;
  mlxq_error error, before;
  memset(&error, 'x', sizeof error);
  before = error;
  mlxq_weights *weights = NULL, *out = NULL;
  mlxq_quant_config *config = config_of(MLXQ_AFFINE, 4, 64);
  assert_int_equal(mlxq_weights_new(&weights, &error), MLXQ_OK);
  add_random(weights, "a.weight", MLXQ_F32, SHAPE(2, 64));
  assert_int_equal(mlxq_quantize_weights(&out, weights, config, NULL, NULL, NULL, &error), MLXQ_OK);
  mlxq_weights_free(weights);
  assert_int_equal(mlxq_dequantize_weights(&weights, out, config, NULL, &error), MLXQ_OK);
  assert_memory_equal(&error, &before, sizeof error);
  mlxq_weights_free(weights);
  mlxq_weights_free(out);
  mlxq_quant_config_free(config);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_statuses_are_pinned),
      cmocka_unit_test(test_other_values_are_unknown),
      cmocka_unit_test(test_the_report_has_pinned_sizes),
      cmocka_unit_test(test_version),
      cmocka_unit_test(test_fail_fills_everything_anew),
      cmocka_unit_test(test_memory),
      cmocka_unit_test(test_errno_chooses_the_status),
      cmocka_unit_test(test_places_are_added_where_none_is_set),
      cmocka_unit_test(test_format_leaves_absent_parts_out),
      cmocka_unit_test(test_format_cuts_as_snprintf_does),
      cmocka_unit_test(test_format_names_a_whole_tensor_once),
      cmocka_unit_test(test_format_holds_the_longest_error),
      cmocka_unit_test(test_control_characters_are_escaped),
      cmocka_unit_test(test_c1_controls_are_escaped),
      cmocka_unit_test(test_utf8_stays),
      cmocka_unit_test(test_broken_utf8_is_escaped),
      cmocka_unit_test(test_any_bytes_become_clean_text),
      cmocka_unit_test(test_long_text_is_cut_between_characters),
      cmocka_unit_test(test_text_that_just_fits_is_whole),
      cmocka_unit_test(test_null_errors_inside),
      cmocka_unit_test(test_null_errors_of_public_calls),
      cmocka_unit_test(test_null_errors_of_files),
      cmocka_unit_test(test_success_writes_no_error),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
