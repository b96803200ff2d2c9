/* JSON documents by way of json-c, with Python's habits: what json.load reads, json.dump wrote. */
#ifndef MLXQ_BASE_JSON_H
#define MLXQ_BASE_JSON_H

#include "base/text.h"

#include <json-c/json_object.h>
#include <mlxq/status.h>

/* Deepest nesting accepted; a number that is not finite is a level of its own, as it is written. */
#define MLXQ_JSON_MAX_DEPTH 64

/* What a document may take: its text and what json-c makes of it. A config.json with 100,000 layers that have a scheme
 * of their own fits. */
#define MLXQ_JSON_MAX_MEMORY (52 << 20)

/* Parses one document, white space around it allowed. As Python's json does: NaN, Infinity and -Infinity are numbers,
 * of a duplicate key the last wins. Numbers keep their text; integers beyond 64 bits keep every digit (inside json-c
 * they are doubles, mlxq_json_write writes the digits back). MLXQ_PARSE with line and column (from 1, in characters)
 * otherwise, and for what json-c cannot hold: half a surrogate pair, U+0000 in a key. MLXQ_OUT_OF_RANGE beyond
 * MLXQ_JSON_MAX_MEMORY. Objects (arrays) with one text and one parent may be one object: do not change them in place.
 * The caller releases `*document` with json_object_put; it is NULL for the document `null`. */
mlxq_status mlxq_json_parse(struct json_object **document, const char *text, size_t bytes, mlxq_error *error);

/* Appends the document as json.dump(..., indent=indent) writes it (indent 0: one line, ", " and ": "), ASCII, with
 * non-finite numbers tagged as transformers and mlx-lm do: {"__float__": "Infinity"}. */
void mlxq_json_write(mlxq_text *text, struct json_object *document, int indent);

/* The same, unless the text would have more than `max_bytes` (a string counts as if all of it were escaped): false
 * then, the text cut anywhere. A few bytes, nested deeply, take many as they are indented. */
bool mlxq_json_write_within(mlxq_text *text, struct json_object *document, int indent, size_t max_bytes);

/* Sorts the keys of an object by code point, as Python's sorted does; nested objects keep their order. False when
 * memory is out. */
bool mlxq_json_sort_keys(struct json_object *object);

/* Reads the integer under `key`: true and `*value` set only where it is a JSON integer that fits 32 bits. */
bool mlxq_json_get_int32(struct json_object *object, const char *key, int *value);

#endif
