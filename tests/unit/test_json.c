/* base/text.h and base/json.h. What Python writes was captured from CPython 3.11's json and, for numbers that are not
 * finite, from mlx-lm 0.32.2's _encode_tagged_floats. */
#include "base/json.h"

#include <json-c/json_object_iterator.h>
#include <json-c/linkhash.h>
#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* Uses the headers above. */
#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- text ------------------------------------------------------------------------------------------------------ */

static void test_text_grows(void **state) {
  (void)state;
  mlxq_text text = {0};
  mlxq_text_append(&text, "", 0);
  assert_null(text.data);
  mlxq_text_puts(&text, "a");
  mlxq_text_append(&text, "bcd", 2);
  mlxq_text_printf(&text, "%s-%d", "x", 42);
  mlxq_text_printf(&text, "%s", "");
  assert_string_equal(text.data, "abcx-42");
  assert_int_equal(text.length, 7);
  for (int i = 0; i < 10000; i++) mlxq_text_printf(&text, "%04d", i);
  assert_int_equal(text.length, 7 + 40000);
  assert_string_equal(text.data + text.length - 8, "99989999");
  mlxq_text_append(&text, "\0z", 2);
  assert_int_equal(text.length, 7 + 40000 + 2);
  assert_memory_equal(text.data + 40007, "\0z", 3);
  assert_false(text.failed);
  mlxq_text_free(&text);
  assert_null(text.data);
  assert_int_equal(text.length, 0);
}

static void test_text_after_failure(void **state) {
  (void)state;
  mlxq_text text = {0};
  mlxq_text_puts(&text, "kept");
  mlxq_text_append(&text, "x", SIZE_MAX / 2);
  assert_true(text.failed);
  mlxq_text_puts(&text, "more");
  mlxq_text_printf(&text, "%d", 1);
  mlxq_text_json_string(&text, "s", 1);
  assert_true(text.failed);
  assert_string_equal(text.data, "kept");
  mlxq_text_free(&text);
  assert_false(text.failed);
}

static void test_utf8_decode(void **state) {
  (void)state;
  static const struct {
    const char *bytes;
    size_t length;
    uint32_t character;
  } GOOD[] = {
      {"A", 1, 'A'},
      {"\x7f", 1, 0x7F},
      {"\xC2\x80", 2, 0x80},
      {"\xDF\xBF", 2, 0x7FF},
      {"\xE0\xA0\x80", 3, 0x800},
      {"\xED\x9F\xBF", 3, 0xD7FF},
      {"\xEE\x80\x80", 3, 0xE000},
      {"\xEF\xBF\xBF", 3, 0xFFFF},
      {"\xF0\x90\x80\x80", 4, 0x10000},
      {"\xF4\x8F\xBF\xBF", 4, 0x10FFFF},
  };
  for (size_t i = 0; i < COUNT(GOOD); i++) {
    uint32_t character = 0;
    assert_int_equal(mlxq_utf8_decode(&character, GOOD[i].bytes, strlen(GOOD[i].bytes)), GOOD[i].length);
    assert_int_equal(character, GOOD[i].character);
    if (GOOD[i].length > 1) assert_int_equal(mlxq_utf8_decode(&character, GOOD[i].bytes, GOOD[i].length - 1), 0);
  }
  static const char *const BAD[] = {
      "\x80",         "\xBF",         "\xC0\x80",         "\xC1\xBF",         "\xE0\x9F\xBF",     "\xED\xA0\x80",
      "\xED\xBF\xBF", "\xC3(",        "\xE2\x82(",        "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80",
      "\xF8\x88\x80", "\xFE\x80\x80", "\xFF\xBF\xBF\xBF",
  };
  for (size_t i = 0; i < COUNT(BAD); i++) {
    uint32_t character = 7;
    assert_int_equal(mlxq_utf8_decode(&character, BAD[i], strlen(BAD[i])), 0);
    assert_int_equal(character, 7);
  }
  uint32_t nul = 7;
  assert_int_equal(mlxq_utf8_decode(&nul, "", 1), 1);
  assert_int_equal(nul, 0);
}

static void assert_json_string(const char *bytes, size_t length, const char *expected) {
  mlxq_text text = {0};
  mlxq_text_json_string(&text, bytes, length);
  assert_false(text.failed);
  assert_string_equal(text.data, expected);
  mlxq_text_free(&text);
}

static void test_json_string(void **state) {
  (void)state;
  assert_json_string("", 0, "\"\"");
  assert_json_string("a/b 'c' ~", 9, "\"a/b 'c' ~\"");
  assert_json_string("\"\\\b\f\n\r\t", 7, "\"\\\"\\\\\\b\\f\\n\\r\\t\"");
  assert_json_string("\0\x01\x1f\x7f", 4, "\"\\u0000\\u0001\\u001f\\u007f\"");
  assert_json_string("\u00e9\u2028\uffff", 8, "\"\\u00e9\\u2028\\uffff\"");
  assert_json_string("\U00010000\U0001F600\U0010FFFF", 12, "\"\\ud800\\udc00\\ud83d\\ude00\\udbff\\udfff\"");
  /* Each byte that belongs to no character is replaced by itself. */
  assert_json_string("a\xFFz\xE2\x82", 5, "\"a\\ufffdz\\ufffd\\ufffd\"");
  assert_json_string("\xED\xA0\x80", 3, "\"\\ufffd\\ufffd\\ufffd\"");
}

/* ---- documents ------------------------------------------------------------------------------------------------- */

static struct json_object *parse_bytes(const char *text, size_t bytes) {
  struct json_object *document;
  mlxq_error error = {0};
  if (mlxq_json_parse(&document, text, bytes, &error) != MLXQ_OK)
    fail_msg("%.*s: %s", bytes < 200 ? (int)bytes : 200, text, error.message);
  return document;
}

static struct json_object *parse(const char *text) {
  return parse_bytes(text, strlen(text));
}

static void assert_writes(struct json_object *document, int indent, const char *expected) {
  mlxq_text written = {0};
  mlxq_json_write(&written, document, indent);
  assert_false(written.failed);
  assert_string_equal(written.data, expected);
  mlxq_text_free(&written);
}

static void assert_rewritten(const char *text, const char *expected) {
  struct json_object *document = parse(text);
  assert_writes(document, 0, expected);
  json_object_put(document);
}

static void assert_broken_bytes(const char *text, size_t bytes, const char *message) {
  /* A copy of just these bytes, so that the address sanitizer sees a read beyond them. */
  char *exact = malloc(bytes > 0 ? bytes : 1);
  struct json_object *document = (struct json_object *)(uintptr_t)1;
  mlxq_error error = {0};
  assert_non_null(exact);
  if (bytes > 0) memcpy(exact, text, bytes);
  if (mlxq_json_parse(&document, exact, bytes, &error) != MLXQ_PARSE)
    fail_msg("accepted: %.*s", bytes < 200 ? (int)bytes : 200, text);
  assert_null(document);
  assert_int_equal(error.status, MLXQ_PARSE);
  assert_string_equal(error.message, message);
  assert_string_equal(error.file, "");
  assert_string_equal(error.layer, "");
  assert_string_equal(error.key, "");
  /* Without an error to fill. */
  assert_int_equal(mlxq_json_parse(&document, exact, bytes, NULL), MLXQ_PARSE);
  free(exact);
}

static void assert_broken(const char *text, const char *message) {
  assert_broken_bytes(text, strlen(text), message);
}

static const char CONFIG[] =
    "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"rms_norm_eps\": 1e-05,\n"
    " \"rope_theta\": 500000.0, \"rope_scaling\": null, \"tie_word_embeddings\": true, \"use_cache\": false,\r\n"
    "\t\"empty_list\": [], \"empty_object\": {}, \"eos_token_id\": [1, 2, [3]],\n"
    " \"large\": 340282366920938463463374607431768211456, \"negative\": -18446744073709551617,\n"
    " \"unsigned\": 18446744073709551615, \"zero\": -0, \"minus_zero\": -0.0, \"tiny\": 1e-320,\n"
    " \"huge\": 1.7976931348623157e+308, \"nested\": {\"b\": {\"y\": [{ }, [ ], null]}, \"a\": \"\"},\n"
    " \"text\": \"quote \\\" slash \\/ back \\\\ tab \\t bell \\u0007 del \x7f e\u00E9 \u2028 \\uD83D\\ude00 "
    "\\ufffd\"}\n";

static void test_writes_as_python(void **state) {
  (void)state;
  struct json_object *document = parse(CONFIG);
  assert_writes(document, 4,
                "{\n"
                "    \"model_type\": \"llama\",\n"
                "    \"architectures\": [\n"
                "        \"LlamaForCausalLM\"\n"
                "    ],\n"
                "    \"rms_norm_eps\": 1e-05,\n"
                "    \"rope_theta\": 500000.0,\n"
                "    \"rope_scaling\": null,\n"
                "    \"tie_word_embeddings\": true,\n"
                "    \"use_cache\": false,\n"
                "    \"empty_list\": [],\n"
                "    \"empty_object\": {},\n"
                "    \"eos_token_id\": [\n"
                "        1,\n"
                "        2,\n"
                "        [\n"
                "            3\n"
                "        ]\n"
                "    ],\n"
                "    \"large\": 340282366920938463463374607431768211456,\n"
                "    \"negative\": -18446744073709551617,\n"
                "    \"unsigned\": 18446744073709551615,\n"
                "    \"zero\": 0,\n"
                "    \"minus_zero\": -0.0,\n"
                "    \"tiny\": 1e-320,\n"
                "    \"huge\": 1.7976931348623157e+308,\n"
                "    \"nested\": {\n"
                "        \"b\": {\n"
                "            \"y\": [\n"
                "                {},\n"
                "                [],\n"
                "                null\n"
                "            ]\n"
                "        },\n"
                "        \"a\": \"\"\n"
                "    },\n"
                "    \"text\": \"quote \\\" slash / back \\\\ tab \\t bell \\u0007 del \\u007f e\\u00e9 \\u2028 "
                "\\ud83d\\ude00 \\ufffd\"\n"
                "}");
  assert_writes(document, 0,
                "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"rms_norm_eps\": 1e-05, "
                "\"rope_theta\": 500000.0, \"rope_scaling\": null, \"tie_word_embeddings\": true, \"use_cache\": "
                "false, \"empty_list\": [], \"empty_object\": {}, \"eos_token_id\": [1, 2, [3]], \"large\": "
                "340282366920938463463374607431768211456, \"negative\": -18446744073709551617, \"unsigned\": "
                "18446744073709551615, \"zero\": 0, \"minus_zero\": -0.0, \"tiny\": 1e-320, \"huge\": "
                "1.7976931348623157e+308, \"nested\": {\"b\": {\"y\": [{}, [], null]}, \"a\": \"\"}, \"text\": "
                "\"quote \\\" slash / back \\\\ tab \\t bell \\u0007 del \\u007f e\\u00e9 \\u2028 \\ud83d\\ude00 "
                "\\ufffd\"}");
  json_object_put(document);
}

static void test_indent_two(void **state) {
  (void)state;
  struct json_object *document = parse("{\"a\":[1,{\"b\":[]}],\"c\":{}}");
  assert_writes(document, 2, "{\n  \"a\": [\n    1,\n    {\n      \"b\": []\n    }\n  ],\n  \"c\": {}\n}");
  json_object_put(document);
}

static void test_write_within(void **state) {
  (void)state;
  static const struct {
    const char *document;
    size_t max_bytes;
    bool fits;
  } CASES[] = {
      {"[[1]]", 25, true}, {"[[1]]", 24, false}, {"[]", 2, true},          {"[]", 1, false},
      {"\"a\"", 6, true},  {"\"a\"", 5, false},  {"{\"a\": 1}", 14, true}, {"{\"a\": 1}", 13, false},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) {
    struct json_object *document = parse(CASES[i].document);
    mlxq_text text = {0};
    assert_int_equal(mlxq_json_write_within(&text, document, 4, CASES[i].max_bytes), CASES[i].fits);
    json_object_put(document);
    mlxq_text_free(&text);
  }
}

static void test_written_reads_back_equal(void **state) {
  (void)state;
  struct json_object *document = parse(CONFIG);
  mlxq_text once = {0};
  mlxq_json_write(&once, document, 4);
  json_object_put(document);
  document = parse(once.data);
  assert_writes(document, 4, once.data);
  json_object_put(document);
  mlxq_text_free(&once);
}

static void test_tagged_floats(void **state) {
  (void)state;
  struct json_object *document =
      parse("{\"time_step_limit\": [0.0, Infinity], \"a\": -Infinity, \"b\": NaN, \"c\": 1e400, \"d\": -1e400}");
  assert_writes(document, 4,
                "{\n"
                "    \"time_step_limit\": [\n"
                "        0.0,\n"
                "        {\n"
                "            \"__float__\": \"Infinity\"\n"
                "        }\n"
                "    ],\n"
                "    \"a\": {\n"
                "        \"__float__\": \"-Infinity\"\n"
                "    },\n"
                "    \"b\": {\n"
                "        \"__float__\": \"NaN\"\n"
                "    },\n"
                "    \"c\": {\n"
                "        \"__float__\": \"Infinity\"\n"
                "    },\n"
                "    \"d\": {\n"
                "        \"__float__\": \"-Infinity\"\n"
                "    }\n"
                "}");
  assert_writes(document, 0,
                "{\"time_step_limit\": [0.0, {\"__float__\": \"Infinity\"}], \"a\": {\"__float__\": \"-Infinity\"}, "
                "\"b\": {\"__float__\": \"NaN\"}, \"c\": {\"__float__\": \"Infinity\"}, \"d\": {\"__float__\": "
                "\"-Infinity\"}}");
  json_object_put(document);
  assert_rewritten("{\"__float__\": \"Infinity\"}", "{\"__float__\": \"Infinity\"}");
}

static void test_null_document(void **state) {
  (void)state;
  struct json_object *document = (struct json_object *)(uintptr_t)1;
  assert_int_equal(mlxq_json_parse(&document, " null\n", 6, NULL), MLXQ_OK);
  assert_null(document);
  assert_writes(NULL, 4, "null");
}

static void test_scalar_documents(void **state) {
  (void)state;
  assert_rewritten("true", "true");
  assert_rewritten("\t\r\n false ", "false");
  assert_rewritten("-12", "-12");
  assert_rewritten("\"x\"", "\"x\"");
  assert_rewritten("[]", "[]");
  assert_rewritten("{}", "{}");
  assert_rewritten("NaN", "{\"__float__\": \"NaN\"}");
}

static void test_numbers(void **state) {
  (void)state;
  static const char *const KEPT[] = {
      "0",
      "-1",
      "2147483648",
      "9223372036854775807",
      "-9223372036854775808",
      "9223372036854775808",
      "-9223372036854775809",
      "18446744073709551615",
      "18446744073709551616",
      "-18446744073709551615",
      "123456789012345678901234567890",
      "0.1",
      "1e5",
      "1E+05",
      "1e-400",
      "-0.0",
      "0e0",
      "3.141592653589793238462643383279",
      "12345678901234567890123e0",
  };
  for (size_t i = 0; i < COUNT(KEPT); i++) assert_rewritten(KEPT[i], KEPT[i]);
  assert_rewritten("-0", "0");

  struct json_object *document = parse("[2.5, 9007199254740993, 1e22]");
  assert_true(json_object_get_double(json_object_array_get_idx(document, 0)) == 2.5);
  assert_true(json_object_get_int64(json_object_array_get_idx(document, 1)) == INT64_C(9007199254740993));
  assert_true(json_object_get_double(json_object_array_get_idx(document, 2)) == 1e22);
  json_object_put(document);
}

static void test_endless_integer(void **state) {
  (void)state;
  /* Far beyond a double's range, and still an integer. */
  char digits[5002];
  memset(digits, '7', sizeof digits);
  digits[0] = '-';
  digits[sizeof digits - 1] = '\0';
  assert_rewritten(digits, digits);
  assert_rewritten(digits + 1, digits + 1);
}

static void test_numbers_made_in_c(void **state) {
  (void)state;
  struct json_object *array = json_object_new_array();
  json_object_array_add(array, json_object_new_int(-7));
  json_object_array_add(array, json_object_new_int64(INT64_MAX));
  json_object_array_add(array, json_object_new_uint64(UINT64_MAX));
  json_object_array_add(array, json_object_new_double(0.5));
  json_object_array_add(array, json_object_new_double((double)-INFINITY));
  json_object_array_add(array, NULL);
  assert_writes(array, 0, "[-7, 9223372036854775807, 18446744073709551615, 0.5, {\"__float__\": \"-Infinity\"}, null]");
  json_object_put(array);
}

static void test_strings(void **state) {
  (void)state;
  struct json_object *document = parse("[\"\\u0000a\", \"\\\"\\\\\\/\\b\\f\\n\\r\\t\", \"\\u00E9\\u00e9\\u07fF\"]");
  struct json_object *nul = json_object_array_get_idx(document, 0);
  assert_int_equal(json_object_get_string_len(nul), 2);
  assert_memory_equal(json_object_get_string(nul), "\0a", 3);
  assert_string_equal(json_object_get_string(json_object_array_get_idx(document, 1)), "\"\\/\b\f\n\r\t");
  assert_string_equal(json_object_get_string(json_object_array_get_idx(document, 2)), "\u00e9\u00e9\u07ff");
  assert_writes(document, 0, "[\"\\u0000a\", \"\\\"\\\\/\\b\\f\\n\\r\\t\", \"\\u00e9\\u00e9\\u07ff\"]");
  json_object_put(document);
  assert_rewritten("\"\\uD800\\uDC00\\uDBFF\\uDFFF\"", "\"\\ud800\\udc00\\udbff\\udfff\"");
  assert_rewritten("\"\xEF\xBB\xBF\"", "\"\\ufeff\"");
}

static void test_duplicate_keys(void **state) {
  (void)state;
  /* Python keeps the first one's place and the last one's value. */
  assert_rewritten("{\"a\": 1, \"b\": 2, \"a\": {\"x\": 3}}", "{\"a\": {\"x\": 3}, \"b\": 2}");
  assert_rewritten("{\"a\": {\"x\": 3}, \"a\": null}", "{\"a\": null}");
}

static void test_keys(void **state) {
  (void)state;
  assert_rewritten("{\"\": 1, \"\\u00e9\": 2, \"a\\\"b\": 3, \"\": 4}", "{\"\": 4, \"\\u00e9\": 2, \"a\\\"b\": 3}");
  /* An empty key after a longer one. */
  assert_rewritten("{\"long\": {\"k\": 0}, \"\": 1}", "{\"long\": {\"k\": 0}, \"\": 1}");
}

static void test_positions(void **state) {
  (void)state;
  assert_broken("", "line 1, column 1: a value is expected");
  assert_broken(" \n ", "line 2, column 2: a value is expected");
  assert_broken("{\"a\": 1,\n \"b\": ?}", "line 2, column 7: a value is expected");
  /* Characters, not bytes. */
  assert_broken("[\"\u00e9\u2028\U0001F600\", x]", "line 1, column 9: a value is expected");
  assert_broken("[1]\r\n\r\n]", "line 3, column 1: text after the document");
}

static void test_refused(void **state) {
  (void)state;
  static const struct {
    const char *text, *message;
  } CASES[] = {
      {"{", "line 1, column 2: a key in double quotes is expected"},
      {"[", "line 1, column 2: a value is expected"},
      {"[1", "line 1, column 3: ',' or ']' is expected"},
      {"[1 2]", "line 1, column 4: ',' or ']' is expected"},
      {"[1,]", "line 1, column 4: a value is expected"},
      {"[,]", "line 1, column 2: a value is expected"},
      {"[1}", "line 1, column 3: ',' or ']' is expected"},
      {"]", "line 1, column 1: a value is expected"},
      {"{\"a\"}", "line 1, column 5: ':' is expected"},
      {"{\"a\" 1}", "line 1, column 6: ':' is expected"},
      {"{\"a\":}", "line 1, column 6: a value is expected"},
      {"{\"a\": 1", "line 1, column 8: ',' or '}' is expected"},
      {"{\"a\": 1 \"b\": 2}", "line 1, column 9: ',' or '}' is expected"},
      {"{\"a\": 1,}", "line 1, column 9: a key in double quotes is expected"},
      {"{a: 1}", "line 1, column 2: a key in double quotes is expected"},
      {"{1: 1}", "line 1, column 2: a key in double quotes is expected"},
      {"{'a': 1}", "line 1, column 2: a key in double quotes is expected"},
      {"['a']", "line 1, column 2: a value is expected"},
      {"[1] 2", "line 1, column 5: text after the document"},
      {"{}{}", "line 1, column 3: text after the document"},
      {"nullx", "line 1, column 5: text after the document"},
      {"nul", "line 1, column 1: a value is expected"},
      {"True", "line 1, column 1: a value is expected"},
      {"nan", "line 1, column 1: a value is expected"},
      {"-NaN", "line 1, column 1: a value is expected"},
      {"+Infinity", "line 1, column 1: a value is expected"},
      {"-Inf", "line 1, column 1: a value is expected"},
      {"/* c */ 1", "line 1, column 1: a value is expected"},
      {"1 // c", "line 1, column 3: text after the document"},
      {"\xEF\xBB\xBF{}", "line 1, column 1: a value is expected"},
      {"\x0B{}", "line 1, column 1: a value is expected"},
      {"\xC2\xA0{}", "line 1, column 1: a value is expected"},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) assert_broken(CASES[i].text, CASES[i].message);
}

static void test_refused_numbers(void **state) {
  (void)state;
  static const struct {
    const char *text, *message;
  } CASES[] = {
      {"[1.]", "line 1, column 3: ',' or ']' is expected"},    {"[.5]", "line 1, column 2: a value is expected"},
      {"[+1]", "line 1, column 2: a value is expected"},       {"[-]", "line 1, column 2: a value is expected"},
      {"[--1]", "line 1, column 2: a value is expected"},      {"[01]", "line 1, column 3: ',' or ']' is expected"},
      {"[-01]", "line 1, column 4: ',' or ']' is expected"},   {"[1e]", "line 1, column 3: ',' or ']' is expected"},
      {"[1e+]", "line 1, column 3: ',' or ']' is expected"},   {"[1e+-5]", "line 1, column 3: ',' or ']' is expected"},
      {"[1.5e]", "line 1, column 5: ',' or ']' is expected"},  {"[1.e5]", "line 1, column 3: ',' or ']' is expected"},
      {"[1.5.5]", "line 1, column 5: ',' or ']' is expected"}, {"[0x1]", "line 1, column 3: ',' or ']' is expected"},
      {"[1_0]", "line 1, column 3: ',' or ']' is expected"},   {"[1,5,]", "line 1, column 6: a value is expected"},
      {"-", "line 1, column 1: a value is expected"},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) assert_broken(CASES[i].text, CASES[i].message);
}

static void test_refused_strings(void **state) {
  (void)state;
  static const struct {
    const char *text, *message;
  } CASES[] = {
      {"\"", "line 1, column 1: string without an end"},
      {"[\"abc]", "line 1, column 2: string without an end"},
      {"\"a\\\"", "line 1, column 1: string without an end"},
      {"\"a\\", "line 1, column 3: invalid escape in a string"},
      {"\"a\\x41\"", "line 1, column 3: invalid escape in a string"},
      {"\"\\u12\"", "line 1, column 2: invalid escape in a string"},
      {"\"\\u12G4\"", "line 1, column 2: invalid escape in a string"},
      {"\"\\u+123\"", "line 1, column 2: invalid escape in a string"},
      {"\"\\U0041\"", "line 1, column 2: invalid escape in a string"},
      {"\"\\u", "line 1, column 2: invalid escape in a string"},
      {"\"a\tb\"", "line 1, column 3: control character in a string"},
      {"\"a\nb\"", "line 1, column 3: control character in a string"},
      {"\"\x1f\"", "line 1, column 2: control character in a string"},
      {"\"\xFF\"", "line 1, column 2: invalid UTF-8"},
      {"\"ab\xC3\"", "line 1, column 4: invalid UTF-8"},
      {"\"\xC0\x80\"", "line 1, column 2: invalid UTF-8"},
      {"\"\xED\xA0\x80\"", "line 1, column 2: invalid UTF-8"},
      {"\"\\ud800\"", "line 1, column 2: half a surrogate pair in a string"},
      {"\"\\udc00\"", "line 1, column 2: half a surrogate pair in a string"},
      {"\"\\udc00\\ud800\"", "line 1, column 2: half a surrogate pair in a string"},
      {"\"\\ud800x\"", "line 1, column 2: half a surrogate pair in a string"},
      {"\"\\ud800\\n\"", "line 1, column 2: half a surrogate pair in a string"},
      {"\"\\ud800\\u0041\"", "line 1, column 2: half a surrogate pair in a string"},
      {"\"\\ud800\\ud800\"", "line 1, column 2: half a surrogate pair in a string"},
      {"\"\\ud800\\udc0\"", "line 1, column 2: half a surrogate pair in a string"},
      {"{\"a\\u0000b\": 1}", "line 1, column 2: U+0000 in a key"},
  };
  for (size_t i = 0; i < COUNT(CASES); i++) assert_broken(CASES[i].text, CASES[i].message);
}

static void test_nul_bytes(void **state) {
  (void)state;
  assert_broken_bytes("\0", 1, "line 1, column 1: a value is expected");
  assert_broken_bytes("{}\0", 3, "line 1, column 3: text after the document");
  assert_broken_bytes("[1\0]", 4, "line 1, column 3: ',' or ']' is expected");
  assert_broken_bytes("\"a\0b\"", 5, "line 1, column 3: control character in a string");
  assert_broken_bytes("\"a\\\0\"", 5, "line 1, column 3: invalid escape in a string");
  assert_broken_bytes("nul\0", 4, "line 1, column 1: a value is expected");
}

static void test_every_prefix_is_refused(void **state) {
  (void)state;
  size_t whole = sizeof CONFIG - 2; /* without the last line feed */
  for (size_t bytes = 0; bytes < whole; bytes++) {
    char *exact = malloc(bytes > 0 ? bytes : 1);
    struct json_object *document;
    assert_non_null(exact);
    memcpy(exact, CONFIG, bytes);
    assert_int_equal(mlxq_json_parse(&document, exact, bytes, NULL), MLXQ_PARSE);
    assert_null(document);
    free(exact);
  }
}

static void test_depth(void **state) {
  (void)state;
  enum { HOSTILE = 1000000 };
  char *text = malloc(HOSTILE);
  assert_non_null(text);
  memset(text, '[', MLXQ_JSON_MAX_DEPTH);
  memset(text + MLXQ_JSON_MAX_DEPTH, ']', MLXQ_JSON_MAX_DEPTH);
  struct json_object *document = parse_bytes(text, 2 * MLXQ_JSON_MAX_DEPTH);
  json_object_put(document);
  /* Numbers that are written as objects are a level more. */
  static const char *const NONFINITE[] = {"NaN", "1e999"};
  for (size_t i = 0; i < COUNT(NONFINITE); i++) {
    size_t length = strlen(NONFINITE[i]);
    memcpy(text + MLXQ_JSON_MAX_DEPTH, NONFINITE[i], length);
    memset(text + MLXQ_JSON_MAX_DEPTH + length, ']', MLXQ_JSON_MAX_DEPTH);
    assert_broken_bytes(text, 2 * MLXQ_JSON_MAX_DEPTH + length, "line 1, column 65: nested too deeply");
  }
  memset(text, '[', HOSTILE);
  assert_broken_bytes(text, HOSTILE, "line 1, column 65: nested too deeply");
  for (size_t i = 0; i + 5 <= HOSTILE; i += 5) memcpy(text + i, "{\"\":[", 5);
  assert_broken_bytes(text, HOSTILE, "line 1, column 161: nested too deeply");
  /* Depth, not the number of containers. */
  text[0] = '[';
  for (size_t i = 1; i + 3 < HOSTILE; i += 3) memcpy(text + i, "[],", 3);
  memcpy(text + 1000, "{}]", 3);
  document = parse_bytes(text, 1003);
  assert_int_equal(json_object_array_length(document), 334);
  json_object_put(document);
  free(text);
}

static void assert_too_large(const char *text, size_t bytes) {
  struct json_object *document = (struct json_object *)(uintptr_t)1;
  mlxq_error error = {0};
  assert_int_equal(mlxq_json_parse(&document, text, bytes, &error), MLXQ_OUT_OF_RANGE);
  assert_null(document);
  assert_string_equal(error.message, "the document is too large: it takes more than 52 MiB");
}

/* Fills with copies of `unit` (as far as there is room) between an opening and a closing character, the last of which
 * has no comma. */
static char *repeat(char open, const char *unit, char close, size_t bytes) {
  size_t length = strlen(unit), at = 1;
  char *text = malloc(bytes);
  assert_non_null(text);
  memset(text, ' ', bytes);
  for (; at + length < bytes; at += length) memcpy(text + at, unit, length);
  text[0] = open;
  text[at - 1] = ' ';
  text[bytes - 1] = close;
  return text;
}

static void test_too_large(void **state) {
  (void)state;
  assert_too_large("1", (size_t)MLXQ_JSON_MAX_MEMORY + 1);
  assert_too_large("1", (size_t)INT_MAX + 1);
  /* Little text that makes many objects; and a string, a key and a number that are long. */
  static const char *const UNITS[] = {"1,", "\"\",", "[1],[2],[3],[4],[5],[6],[7],[8],[9],",
                                      "{},[],{\"\":1},{\"\":2},{\"\":3},{\"\":4},{\"\":5},{\"\":6},{\"\":7},"};
  for (size_t i = 0; i < COUNT(UNITS); i++) {
    size_t bytes = 4 << 20;
    char *text = repeat('[', UNITS[i], ']', bytes);
    assert_too_large(text, bytes);
    free(text);
  }
  /* A string that is found too large only when it has been made. */
  size_t escape_bytes = 4 + 6 * (5 << 20);
  char *escapes = malloc(escape_bytes);
  assert_non_null(escapes);
  for (size_t i = 2; i < escape_bytes - 2; i += 6) memcpy(escapes + i, "\\u0041", 6);
  memcpy(escapes, "[\"", 2);
  memcpy(escapes + escape_bytes - 2, "\"]", 2);
  assert_too_large(escapes, escape_bytes);
  free(escapes);
  size_t long_bytes = 20 << 20;
  char *text = malloc(long_bytes);
  assert_non_null(text);
  memset(text, '1', long_bytes);
  assert_too_large(text, long_bytes);
  text[0] = text[long_bytes - 1] = '"';
  assert_too_large(text, long_bytes);
  text[0] = '{';
  text[1] = '"';
  memcpy(text + long_bytes - 4, "\":1}", 4);
  assert_too_large(text, long_bytes);
  free(text);
}

static void test_many_layers_fit(void **state) {
  (void)state;
  enum { LAYERS = 100000 };
  mlxq_text text = {0};
  mlxq_text_puts(&text, "{");
  for (int block = 0; block < 2; block++) {
    mlxq_text_puts(&text, block ? ",\n    \"quantization_config\": {" : "\n    \"quantization\": {");
    mlxq_text_puts(&text, "\n        \"bits\": 4,\n        \"group_size\": 64");
    for (int i = 0; i < LAYERS; i++) {
      mlxq_text_printf(&text,
                       ",\n        \"model.layers.%d.mlp.experts.%d.down_proj\": {\n            \"group_size\": 64,\n"
                       "            \"bits\": %d,\n            \"mode\": \"affine\"\n        }",
                       i / 1000, i % 1000, i % 3 == 0 ? 8 : 6);
    }
    mlxq_text_puts(&text, "\n    }");
  }
  mlxq_text_puts(&text, "\n}");
  struct json_object *document = parse_bytes(text.data, text.length);
  struct json_object *block = json_object_object_get(document, "quantization");
  assert_int_equal(json_object_object_length(block), 2 + LAYERS);
  assert_ptr_equal(json_object_object_get(document, "quantization_config"), block);
  assert_writes(document, 4, text.data);
  json_object_put(document);
  mlxq_text_free(&text);
}

/* Objects of one text are one object: neither a key given twice nor a text that only begins alike mixes them up. */
static void test_equal_objects(void **state) {
  (void)state;
  assert_rewritten("[[1], [1], [1, 2], [12], [1], [[1], [1]], {\"a\": [1]}, {\"a\": [1]}, {\"a\": [1], \"b\": 2}]",
                   "[[1], [1], [1, 2], [12], [1], [[1], [1]], {\"a\": [1]}, {\"a\": [1]}, {\"a\": [1], \"b\": 2}]");
  assert_rewritten(
      "{\"a\": {\"x\": 1}, \"a\": 2, \"b\": {\"x\": 1}, \"a\": {\"x\": 1}, \"c\": [\"}\"], \"d\": [\"}\"]}",
      "{\"a\": {\"x\": 1}, \"b\": {\"x\": 1}, \"c\": [\"}\"], \"d\": [\"}\"]}");
  assert_broken("[[1], [1]", "line 1, column 10: ',' or ']' is expected");
  assert_broken("[[1], [1", "line 1, column 9: ',' or ']' is expected");
}

/* ---- members --------------------------------------------------------------------------------------------------- */

static void test_sort_keys(void **state) {
  (void)state;
  struct json_object *document = parse(
      "{\"b\": {\"z\": 1, \"y\": 2}, \"a\": 2, \"B\": null, \"\": 4, \"\u00e9\": 5, \"e\": 6, \"z\": [], "
      "\"\uffff\": 8, \"\U0001F600\": 9, \"a.b\": 10, \"ab\": 11}");
  assert_true(mlxq_json_sort_keys(document));
  assert_writes(document, 0,
                "{\"\": 4, \"B\": null, \"a\": 2, \"a.b\": 10, \"ab\": 11, \"b\": {\"z\": 1, \"y\": 2}, \"e\": 6, "
                "\"z\": [], \"\\u00e9\": 5, \"\\uffff\": 8, \"\\ud83d\\ude00\": 9}");
  json_object_put(document);
  document = parse("{}");
  assert_true(mlxq_json_sort_keys(document));
  assert_writes(document, 0, "{}");
  json_object_put(document);
}

static void test_sort_many_keys(void **state) {
  (void)state;
  enum { MEMBERS = 100000 };
  mlxq_text text = {0};
  for (int i = 0; i < MEMBERS; i++) {
    mlxq_text_printf(&text, "%s\"k%05d\": %d", i > 0 ? ", " : "{", (i * 7919) % MEMBERS, i);
  }
  mlxq_text_puts(&text, "}");
  struct json_object *document = parse_bytes(text.data, text.length);
  mlxq_text_free(&text);
  assert_true(mlxq_json_sort_keys(document));
  struct json_object_iter member;
  int at = 0;
  json_object_object_foreachC(document, member) {
    char expected[16];
    snprintf(expected, sizeof expected, "k%05d", at++);
    assert_string_equal(member.key, expected);
  }
  assert_int_equal(at, MEMBERS);
  json_object_put(document);
}

static void test_get_int32(void **state) {
  (void)state;
  struct json_object *object = parse(
      "{\"a\": 64, \"max\": 2147483647, \"min\": -2147483648, \"above\": 2147483648, \"below\": -2147483649, "
      "\"float\": "
      "64.0, \"exponent\": 1e1, \"true\": true, \"null\": null, \"string\": \"64\", \"unsigned\": "
      "18446744073709551615, \"large\": 18446744073709551680, \"wraps\": 4294967360, \"array\": [64]}");
  int value = 7;
  assert_true(mlxq_json_get_int32(object, "a", &value));
  assert_int_equal(value, 64);
  assert_true(mlxq_json_get_int32(object, "max", &value));
  assert_int_equal(value, INT32_MAX);
  assert_true(mlxq_json_get_int32(object, "min", &value));
  assert_int_equal(value, INT32_MIN);
  static const char *const NOT[] = {"above",  "below",    "float", "exponent", "true",  "null",
                                    "string", "unsigned", "large", "wraps",    "array", "absent"};
  value = 7;
  for (size_t i = 0; i < COUNT(NOT); i++) {
    assert_false(mlxq_json_get_int32(object, NOT[i], &value));
    assert_int_equal(value, 7);
  }
  json_object_put(object);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_text_grows),
      cmocka_unit_test(test_text_after_failure),
      cmocka_unit_test(test_utf8_decode),
      cmocka_unit_test(test_json_string),
      cmocka_unit_test(test_writes_as_python),
      cmocka_unit_test(test_indent_two),
      cmocka_unit_test(test_write_within),
      cmocka_unit_test(test_written_reads_back_equal),
      cmocka_unit_test(test_tagged_floats),
      cmocka_unit_test(test_null_document),
      cmocka_unit_test(test_scalar_documents),
      cmocka_unit_test(test_numbers),
      cmocka_unit_test(test_endless_integer),
      cmocka_unit_test(test_numbers_made_in_c),
      cmocka_unit_test(test_strings),
      cmocka_unit_test(test_duplicate_keys),
      cmocka_unit_test(test_keys),
      cmocka_unit_test(test_positions),
      cmocka_unit_test(test_refused),
      cmocka_unit_test(test_refused_numbers),
      cmocka_unit_test(test_refused_strings),
      cmocka_unit_test(test_nul_bytes),
      cmocka_unit_test(test_every_prefix_is_refused),
      cmocka_unit_test(test_depth),
      cmocka_unit_test(test_too_large),
      cmocka_unit_test(test_many_layers_fit),
      cmocka_unit_test(test_equal_objects),
      cmocka_unit_test(test_sort_keys),
      cmocka_unit_test(test_sort_many_keys),
      cmocka_unit_test(test_get_int32),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
