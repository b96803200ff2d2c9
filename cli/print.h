/* Pieces of output that several commands print. */
#ifndef MLXQ_CLI_PRINT_H
#define MLXQ_CLI_PRINT_H

#include <json-c/json_object.h>
#include <mlxq/mlxq.h>

/* "4 bits, group size 64, affine" */
void format_scheme(char *text, size_t text_bytes, const mlxq_scheme *scheme);

/* "2.7 MB": powers of 1000, three digits. */
void format_bytes(char *text, size_t text_bytes, uint64_t bytes);

/* A copy of text out of a checkpoint for people: control characters as \xNN, as in errors, lest they steer the
 * terminal. The caller frees it; NULL when memory is out. */
char *escape(const char *text);

/* The scheme of a layer's tensor (".weight" with scales beside it), or NULL. */
const mlxq_scheme *scheme_of_tensor(const mlxq_report *report, const mlxq_tensor *tensor);

/* The parts of a JSON result, for json-c objects; NULL when memory is out, which prints as null. */
struct json_object *json_tensors(const mlxq_report *report);
struct json_object *json_quantization(const mlxq_quant_config *config);

/* Prints an object as one line and releases it. */
void print_json(struct json_object *object);

#endif
