/* Pieces of output that several commands print. */
#ifndef MLXQ_CLI_PRINT_H
#define MLXQ_CLI_PRINT_H

#include <mlxq/mlxq.h>
#include <stdio.h>

/* "4 bits, group size 64, affine" */
void format_scheme(char *text, size_t text_bytes, const mlxq_scheme *scheme);

/* "2.7 MB": powers of 1000, three digits. */
void format_bytes(char *text, size_t text_bytes, uint64_t bytes);

/* A copy of text out of a checkpoint for people: control characters, those that turn the
 * direction of writing, and broken UTF-8 as \xNN, as in
 * errors, lest they steer the terminal. The caller frees it; NULL when memory is out. */
char *escape(const char *text);

/* Prints text so, and puts what of it fits into a part of an error. */
void print_escaped(const char *text);
void set_escaped(char *part, size_t part_bytes, const char *text);

/* The scheme of a layer's tensor (".weight" with scales beside it), or NULL. */
const mlxq_scheme *scheme_of_tensor(const mlxq_report *report, const mlxq_tensor *tensor);

/* JSON on its way to a stream, spaced as json-c spaces it. Nothing is kept, so a list may have any length. Start with
 * {stream, ""}. Values take a key in an object and NULL elsewhere. Control characters in strings are escaped; bytes
 * that are not UTF-8 become U+FFFD. */
typedef struct json_writer {
  FILE *stream;
  const char *separator; /* before the next value */
} json_writer;

void json_open(json_writer *json, const char *key, char bracket);
void json_close(json_writer *json, char bracket);
void json_string(json_writer *json, const char *key, const char *text); /* NULL: null */
void json_uint(json_writer *json, const char *key, uint64_t value);
void json_double(json_writer *json, const char *key, double value); /* not finite: null */
void json_bool(json_writer *json, const char *key, bool value);

/* The members of results that list tensors and layers. */
void json_tensors(json_writer *json, const char *key, const mlxq_report *report);
void json_quantization(json_writer *json, const char *key, const mlxq_quant_config *config);

#endif
