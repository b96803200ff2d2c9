/* A plan: the tensors to make, where they go, and the jobs that make them. Planning reads descriptions, never weights,
 * so every error of structure is known before the first byte is written.
 *
 * A job is one action on up to three inputs and outputs that are cut into units (elements of a copy, groups of a
 * scheme, rows of a result) with a fixed number of bytes of each operand, so that any range of units is a tile: it can
 * be made on its own, in any order, on any thread. */
#ifndef MLXQ_PLAN_PLAN_H
#define MLXQ_PLAN_PLAN_H

#include "checkpoint/checkpoint.h"
#include "plan/classify.h"
#include "plan/foreign.h"
#include "plan/model.h"
#include "tensor/tensor_map.h"

#include <mlxq/scheme.h>
#include <mlxq/transform.h>

typedef enum mlxq_action {
  MLXQ_ACTION_COPY,       /* one input, one output; nothing but the cast */
  MLXQ_ACTION_QUANTIZE,   /* dense -> weight, scales, and for affine biases */
  MLXQ_ACTION_DEQUANTIZE, /* weight, scales, and for affine biases -> dense */
  MLXQ_ACTION_IMPORT,     /* a foreign layer's parts -> weight, scales, biases */
} mlxq_action;

#define MLXQ_MAX_INPUTS  3u
#define MLXQ_MAX_OUTPUTS 3u

/* How units lie in a tensor where they do not simply follow each other from its first byte on: a unit is `unit_bytes`
 * of each of `rows` rows, so that a column of a matrix is one. */
typedef struct mlxq_slice {
  uint64_t offset;      /* of the first unit, in bytes; so are the strides */
  uint64_t unit_stride; /* from a unit to the next; 0: every tile gets the one unit there is */
  uint64_t rows, row_stride;
} mlxq_slice;

/* What is done to a job's first input before the cast and the action. The input is a matrix of `row_elems` elements a
 * row, or, where it is to be transposed, of that many rows and a column a unit. */
typedef struct mlxq_preparation {
  bool fp8;         /* F8_E4M3 with the scales of blocks, the second input, to BF16 */
  bool transpose;   /* columns become rows */
  bool add_one;     /* in the stored dtype */
  mlxq_dtype dtype; /* of the elements once FP8 is out of the way */
  uint64_t row_elems;
  uint64_t first_row, first_column; /* FP8: of the first unit, in the stored matrix */
  uint32_t block_rows, block_columns, scale_columns;
} mlxq_preparation;

/* A tensor that a job reads or writes, in units. */
typedef struct mlxq_operand {
  uint32_t tensor;            /* index into the plan's stored tensors or outputs */
  uint32_t slice;             /* index into the plan's slices; 0: unit after unit from the first byte on */
  uint32_t unit_bytes;        /* in a row of the tensor */
  uint32_t cast_elems;        /* inputs: elements of a unit to cast first; 0 for none */
  uint8_t cast_from, cast_to; /* an mlxq_dtype each: there are six operands for every tensor */
} mlxq_operand;

/* There may be a job for every tensor, so it is kept small. */
typedef struct mlxq_job {
  mlxq_action action;
  uint8_t input_count, output_count;
  uint8_t dtype; /* mlxq_dtype of the dense elements that kernels see */
  mlxq_operand inputs[MLXQ_MAX_INPUTS], outputs[MLXQ_MAX_OUTPUTS];
  mlxq_scheme scheme;
  uint32_t unit_groups; /* quantize, dequantize: groups in a unit */
  uint32_t detail;      /* import: index into the plan's foreign layers; else into its preparations, 0: none */
  uint32_t units_per_tile;
  uint64_t units;
  uint64_t first_tile; /* tiles are numbered through the plan, in order of jobs */
} mlxq_job;

/* One .safetensors file to write. */
typedef struct mlxq_plan_file {
  char *name;
  size_t first, count; /* its tensors: file_order[first .. first + count) */
  uint64_t bytes;      /* of the whole file */
} mlxq_plan_file;

typedef struct mlxq_plan {
  const mlxq_weights *stored; /* the tensors that jobs read */
  mlxq_weights *outputs;
  mlxq_job *jobs;
  size_t job_count, job_capacity;
  uint64_t tile_count;
  mlxq_slice *slices; /* the first of these, and of the preparations, stands for none */
  size_t slice_count, slice_capacity;
  mlxq_preparation *preparations;
  size_t preparation_count, preparation_capacity;
  mlxq_foreign_layer *foreign;
  mlxq_profile profile;
  bool allow_nonfinite, for_mlx;
  mlxq_plan_file *files; /* after mlxq_plan_layout; none for results in memory */
  size_t file_count;
  size_t *file_order;
} mlxq_plan;

/* What is done to the job's first input; NULL: nothing. */
const mlxq_preparation *mlxq_job_preparation(const mlxq_plan *plan, const mlxq_job *job);

/* What the planners need to know. */
typedef struct mlxq_plan_request {
  const mlxq_weights *source;    /* the tensors to go through; must outlive the plan */
  const mlxq_model *model;       /* of what stored tensors the source's are made; NULL: they are stored themselves */
  const mlxq_source_file *files; /* the source's, for errors; NULL in memory */
  mlxq_cancel cancel;
  const mlxq_quant_config *config;
  mlxq_eligible_fn eligible; /* quantize; NULL: all */
  void *eligible_user;
  mlxq_profile profile;
  bool allow_nonfinite;
  bool cast; /* cast floating tensors to `cast_to` first */
  mlxq_dtype cast_to;
  bool (*keeps_dtype)(void *user, const char *name); /* tensors that are never cast; NULL: none */
  void *keeps_dtype_user;
  mlxq_dtype scale_only_dtype; /* dequantize: the result's dtype in the scale-only modes */
  bool config_speaks;          /* quantize: the result's configuration will describe the triples, so they must fit it */
  bool for_mlx;                /* the result goes to a file that MLX must be able to load */
  void (*warn)(void *user, const char *message);
  void *warn_user;
} mlxq_plan_request;

/* The two planners; rules and errors as mlxq_quantize_weights and mlxq_dequantize_weights document, except that with
 * `for_mlx` a `.weight` that is not floating stays as it is, with a warning. The caller releases `*plan`. */
mlxq_status mlxq_plan_quantize(mlxq_plan **plan, const mlxq_plan_request *request, mlxq_error *error);
mlxq_status mlxq_plan_dequantize(mlxq_plan **plan, const mlxq_plan_request *request, mlxq_error *error);

/* Assigns the outputs to files of at most `max_bytes` tensor bytes each, named as mlx-lm names shards (or
 * `single_name` for the one file of a single-file result, whatever its size), and places them. */
mlxq_status mlxq_plan_layout(mlxq_plan *plan, uint64_t max_bytes, const char *single_name, mlxq_error *error);

/* The name of the i-th file of a laid out plan, given as an untyped pointer for those who ask by callback. */
const char *mlxq_plan_file_name(const void *plan, size_t index);

void mlxq_plan_free(mlxq_plan *plan);

/* ---- For planners ---------------------------------------------------------------------------------------------- */

/* Plans one layer, where its `.weight` (the source's tensor `index`) stands. */
typedef mlxq_status (*mlxq_plan_layer_fn)(mlxq_plan *plan, const mlxq_plan_request *request, size_t index,
                                          const mlxq_layer *layer, mlxq_error *error);

/* A plan without jobs. */
mlxq_status mlxq_plan_new(mlxq_plan **result, const mlxq_plan_request *request, mlxq_error *error);

/* Makes a plan by going through the source in order: `plan_layer` for every `.weight`, a copy for everything else; the
 * scales and biases of a triple are passed over where `consume_triples`. */
mlxq_status mlxq_plan_walk(mlxq_plan **result, const mlxq_plan_request *request, mlxq_plan_layer_fn plan_layer,
                           bool consume_triples, mlxq_error *error);

/* Plans the copy of a tensor (with the request's cast and what MLX can load in mind). */
mlxq_status mlxq_plan_copy(mlxq_plan *plan, const mlxq_plan_request *request, size_t index, mlxq_error *error);

/* Adds an output tensor `layer` + `suffix`; `*index` is its place in the plan's outputs. */
mlxq_status mlxq_plan_output(mlxq_plan *plan, const char *layer, size_t layer_length, const char *suffix,
                             mlxq_dtype dtype, uint32_t rank, const uint64_t *shape, size_t *index, mlxq_error *error);

/* Adds a job and cuts it into tiles. MLXQ_OUT_OF_RANGE where one unit is too large for a tile. */
mlxq_status mlxq_plan_add_job(mlxq_plan *plan, const mlxq_job *job, mlxq_error *error);

/* The dtype a tensor has after the request's cast. */
mlxq_dtype mlxq_plan_cast_dtype(const mlxq_plan_request *request, const mlxq_tensor *tensor);

/* Reads bytes of a tensor of the source, for what must be known before the plan stands. */
mlxq_status mlxq_plan_read(const mlxq_plan_request *request, size_t index, uint64_t offset, void *buffer, size_t bytes,
                           mlxq_error *error);

/* Add a slice or a preparation; `*index` is what operands and jobs refer to it by. */
mlxq_status mlxq_plan_slice(mlxq_plan *plan, uint32_t *index, const mlxq_slice *slice, mlxq_error *error);
mlxq_status mlxq_plan_preparation(mlxq_plan *plan, uint32_t *index, const mlxq_preparation *preparation,
                                  mlxq_error *error);

/* Adds the job `job`, whose units are of `unit_elems` elements each, once for each piece that the source's tensor
 * `index` is made of, with the input taken from where the piece is stored and the outputs placed where its rows go. */
mlxq_status mlxq_plan_add_pieces(mlxq_plan *plan, const mlxq_plan_request *request, size_t index, const mlxq_job *job,
                                 uint64_t unit_elems, mlxq_error *error);

/* Whether every tile gets the slice's one unit. */
bool mlxq_slice_is_shared(const mlxq_slice *slice);

/* Whether the slice's runs of bytes lie so close together that it is best read with what is between them. `run_bytes`
 * is the length of a run, `stride` leads from one to the next. */
bool mlxq_slice_is_dense(uint64_t run_bytes, uint64_t stride);

/* Bytes of a unit of the operand once it is cast; 0 where it is not. */
uint64_t mlxq_operand_cast_bytes(const mlxq_operand *operand);

/* An operand of `elems` elements of `dtype` a unit, cast to `to` first where that differs. */
mlxq_operand mlxq_plan_operand(size_t tensor, uint64_t elems, mlxq_dtype dtype, mlxq_dtype to);

#endif
