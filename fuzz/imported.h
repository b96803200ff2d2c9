/* What must hold of the import of any tensors: of its plan, and of what comes out. */
#ifndef MLXQ_FUZZ_IMPORTED_H
#define MLXQ_FUZZ_IMPORTED_H

#include "plan/import.h"
#include "sketch.h"

/* Whether the codes of a layer, `weight` of `bits` bits, are those that are stored. */
typedef void (*check_codes_fn)(const mlxq_tensor *stored, const mlxq_tensor *weight, unsigned bits);

/* Imports the sketch's tensors with the options that the input has next; `request` has the config. */
void check_import(mlxq_import_fn plan, sketch *s, mlxq_import_request *request, check_codes_fn check_codes);

/* Adds some layers by `add_layer`, and some tensors beside them. */
void sketch_layers(sketch *s, void (*add_layer)(void *user, const char *path), void *user);

#endif
