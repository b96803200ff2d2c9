#include "plan/import.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

mlxq_import_fn mlxq_import_planner(const char *method) {
  if (strcmp(method, "awq") == 0) return mlxq_plan_import_awq;
  if (strcmp(method, "gptq") == 0) return mlxq_plan_import_gptq;
  return NULL;
}

/* ---- What a layer becomes -------------------------------------------------------------------------------------- */

/* 0 for dtypes that are not floating. */
static int rank_of(mlxq_dtype dtype) {
  switch (dtype) {
    case MLXQ_F64:
      return 4;
    case MLXQ_F32:
      return 3;
    case MLXQ_BF16:
      return 2;
    case MLXQ_F16:
      return 1;
    default:
      return 0;
  }
}

/* F16 where there are no layers. */
static mlxq_dtype widest_dtype(const mlxq_weights *source, const mlxq_foreign_layers *layers) {
  mlxq_dtype widest = MLXQ_F16;
  bool f16 = false, bf16 = false;
  for (size_t i = 0; i < layers->count; i++) {
    mlxq_dtype found = source->entries[layers->items[i].scales].tensor.dtype;
    f16 = f16 || found == MLXQ_F16;
    bf16 = bf16 || found == MLXQ_BF16;
    if (rank_of(found) > rank_of(widest)) widest = found;
  }
  /* Neither holds the other's values. */
  return f16 && bf16 && widest == MLXQ_BF16 ? MLXQ_F32 : widest;
}

void mlxq_foreign_choose_dtypes(mlxq_foreign_layers *layers, const mlxq_plan_request *request) {
  mlxq_dtype widest = widest_dtype(request->source, layers);
  bool narrow = request->for_mlx;
  for (size_t i = 0; i < layers->count; i++) narrow = narrow || layers->items[i].requantized; /* kernels have no F64 */
  if (widest == MLXQ_F64 && narrow) widest = MLXQ_F32;
  for (size_t i = 0; i < layers->count; i++) {
    mlxq_foreign_layer *layer = &layers->items[i];
    mlxq_dtype stored = request->source->entries[layer->scales].tensor.dtype;
    layer->dtype = request->cast ? request->cast_to : widest;
    layer->round_dtype = request->cast ? request->cast_to : stored == MLXQ_F64 ? widest : stored;
  }
}

mlxq_status mlxq_foreign_check_collisions(const mlxq_weights *source, const char *path, const char *layer,
                                          mlxq_error *error) {
  static const char *const ENDS[] = {".weight", ".biases"};
  for (size_t i = 0; i < sizeof ENDS / sizeof *ENDS; i++) {
    const mlxq_tensor *other = mlxq_weights_part(source, path, strlen(path), ENDS[i]);
    if (!other) continue;
    return mlxq_fail(error, MLXQ_KEY_COLLISION, layer, other->name,
                     "must not be there: it is what the .qweight beside it becomes");
  }
  return MLXQ_OK;
}

mlxq_status mlxq_foreign_fail_shape(mlxq_error *error, const char *layer, const mlxq_tensor *part, uint64_t rows,
                                    uint64_t columns) {
  return mlxq_fail(error, MLXQ_SHAPE_MISMATCH, layer, part->name, "must be [%llu, %llu] beside that .qweight",
                   (unsigned long long)rows, (unsigned long long)columns);
}

/* The largest group of MLX's that divides a group; 0 where none does. */
static int32_t dividing_group(uint64_t group_size) {
  static const int32_t GROUPS[] = {128, 64, 32};
  for (size_t i = 0; i < sizeof GROUPS / sizeof *GROUPS; i++) {
    if (group_size > 0 && group_size % (uint64_t)GROUPS[i] == 0) return GROUPS[i];
  }
  return 0;
}

mlxq_status mlxq_foreign_choose(mlxq_foreign_layer *layer, const char *path, const mlxq_import_request *request,
                                mlxq_error *error) {
  static const char HINT[] = "--requantize BITS dequantizes and quantizes anew, with a loss";
  uint64_t group_size = layer->group_ins;
  int32_t group = dividing_group(group_size);
  bool permuted = layer->group_index != MLXQ_NO_TENSOR, ragged = layer->ins % group_size != 0;
  layer->scheme = (mlxq_scheme){.mode = MLXQ_AFFINE, .bits = (int32_t)layer->bits, .group_size = group};
  if (group > 0 && !permuted && !ragged) {
    layer->repeat = (uint32_t)(group_size / (uint64_t)group);
    return MLXQ_OK;
  }
  if (request->requantize_bits == 0 && permuted) {
    return mlxq_fail(error, MLXQ_UNSUPPORTED, path, "g_idx",
                     "its groups are of scattered inputs (desc_act), which MLX cannot hold; %s", HINT);
  }
  if (request->requantize_bits == 0) {
    return mlxq_fail(error, MLXQ_OUT_OF_RANGE, path, "group_size", "MLX cannot hold groups of %llu in rows of %llu; %s",
                     (unsigned long long)group_size, (unsigned long long)layer->ins, HINT);
  }
  /* The group of MLX's nearest to the stored one that divides the row. */
  for (group = group_size >= 128 ? 128 : group_size >= 64 ? 64 : 32; group >= 32; group /= 2) {
    if (layer->ins % (uint64_t)group == 0) break;
  }
  if (group < 32) {
    return mlxq_fail(error, MLXQ_NOT_DIVISIBLE, path, "group_size", "no group of MLX's divides %llu inputs",
                     (unsigned long long)layer->ins);
  }
  layer->requantized = true;
  layer->repeat = 1;
  layer->scheme.bits = request->requantize_bits;
  layer->scheme.group_size = group;
  return mlxq_error_at_layer(error, mlxq_scheme_check(&layer->scheme, error), path);
}

mlxq_status mlxq_foreign_check_orphans(const mlxq_plan_request *request, const mlxq_foreign_layers *layers,
                                       mlxq_error *error) {
  static const char *const ENDS[] = {".scales", ".qzeros", ".scaled_zeros", ".g_idx"};
  for (size_t i = 0; i < request->source->count; i++) {
    const mlxq_tensor_entry *entry = &request->source->entries[i];
    for (size_t k = 0; !layers->consumed[i] && k < sizeof ENDS / sizeof *ENDS; k++) {
      size_t length = 0;
      if (!mlxq_name_splits(entry->tensor.name, ENDS[k], &length)) continue;
      mlxq_fail(error, MLXQ_UNSUPPORTED, NULL, entry->tensor.name,
                "belongs to no packed layer; scales of activations have no place in MLX");
      if (request->files) mlxq_error_at_file(error, MLXQ_UNSUPPORTED, request->files[entry->file].path);
      return MLXQ_UNSUPPORTED;
    }
  }
  return MLXQ_OK;
}

mlxq_scheme mlxq_foreign_common_scheme(const mlxq_foreign_layers *layers) {
  mlxq_scheme best = {.mode = MLXQ_AFFINE};
  size_t best_count = 0;
  for (size_t bits = 2; bits <= 8; bits++) {
    for (size_t group = 32; group <= 128; group *= 2) {
      size_t count = 0;
      for (size_t i = 0; i < layers->count; i++) {
        const mlxq_scheme *scheme = &layers->items[i].scheme;
        count += (size_t)scheme->bits == bits && (size_t)scheme->group_size == group;
      }
      if (count <= best_count) continue;
      best_count = count;
      best = (mlxq_scheme){MLXQ_AFFINE, (int32_t)bits, (int32_t)group};
    }
  }
  return best;
}

/* ---- The model's tensors --------------------------------------------------------------------------------------- */

/* Adds a layer as one tensor [out, in] under `P.weight`. `name` is that of the tensor that holds its codes. */
static mlxq_status add_layer(mlxq_model *model, const char *name, const mlxq_foreign_layer *layer, mlxq_error *error) {
  uint64_t shape[] = {layer->outs, layer->ins};
  size_t length = strlen(name) - strlen(strrchr(name, '.'));
  char *weight = mlxq_asprintf("%.*s.weight", (int)length, name);
  if (!weight) return mlxq_fail_memory(error);
  mlxq_status status = mlxq_model_add(model, weight, MLXQ_U32, 2, shape, error);
  free(weight);
  mlxq_piece piece = mlxq_whole_piece(layer->weight, 2, shape);
  return status == MLXQ_OK ? mlxq_model_add_piece(model, &piece, error) : status;
}

/* The tensors of the model before the family has its say: each foreign layer is one. */
static mlxq_status collect(mlxq_model **result, const mlxq_weights *source, const mlxq_foreign_layers *layers,
                           mlxq_error *error) {
  mlxq_model *model = NULL;
  size_t next = 0;
  mlxq_status status = mlxq_model_new(&model, source, error);
  for (size_t i = 0; status == MLXQ_OK && i < source->count; i++) {
    const mlxq_tensor *tensor = &source->entries[i].tensor;
    if (next < layers->count && layers->items[next].weight == i) {
      status = add_layer(model, tensor->name, &layers->items[next++], error);
    } else if (!layers->consumed[i]) {
      status = mlxq_model_add_stored(model, i, tensor->name, tensor->rank, tensor->shape, error);
    }
  }
  if (status != MLXQ_OK) {
    mlxq_model_free(model);
    model = NULL;
  }
  *result = model;
  return status;
}

static mlxq_foreign_layer *layer_of(const mlxq_foreign_layers *layers, uint32_t stored) {
  size_t low = 0, high = layers->count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (layers->items[middle].weight < stored) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < layers->count && layers->items[low].weight == stored ? &layers->items[low] : NULL;
}

/* The experts of a stack have one scheme: if one of them is widened, or quantized anew, all are. */
static void unify(const mlxq_model *model, const mlxq_foreign_layers *layers) {
  for (size_t i = 0; i < model->tensors->count; i++) {
    size_t count = 0;
    const mlxq_piece *pieces = mlxq_model_pieces(model, i, &count);
    const mlxq_foreign_layer *widened = NULL, *requantized = NULL;
    for (size_t k = 0; count > 1 && k < count; k++) {
      const mlxq_foreign_layer *layer = layer_of(layers, pieces[k].stored);
      if (layer && layer->widened) widened = layer;
      if (layer && layer->requantized) requantized = layer;
    }
    const mlxq_foreign_layer *pattern = requantized ? requantized : widened;
    for (size_t k = 0; pattern && k < count; k++) {
      mlxq_foreign_layer *layer = layer_of(layers, pieces[k].stored);
      if (!layer || layer->bits != pattern->bits || layer->group_ins != pattern->group_ins) continue;
      if (pattern->widened && layer->zero_rule == MLXQ_ZERO_SCALED) continue; /* has no integers to shift by */
      layer->widened = pattern->widened;
      layer->requantized = pattern->requantized;
      layer->repeat = pattern->repeat;
      layer->scheme = pattern->scheme;
    }
  }
}

/* ---- Jobs ------------------------------------------------------------------------------------------------------ */

/* Describes how one part of a layer is read: as columns of a matrix of `rows` rows, or row by row. */
static mlxq_status part(mlxq_plan *plan, mlxq_job *job, uint32_t stored, uint64_t unit_elems, bool columns,
                        mlxq_error *error) {
  const mlxq_tensor *tensor = &plan->stored->entries[stored].tensor;
  uint64_t elem_bytes = mlxq_dtype_bits(tensor->dtype) / 8;
  mlxq_operand *input = &job->inputs[job->input_count++];
  mlxq_slice slice = {
      .unit_stride = unit_elems * elem_bytes, .rows = tensor->shape[0], .row_stride = tensor->shape[1] * elem_bytes};
  *input = mlxq_plan_operand(stored, unit_elems, tensor->dtype, tensor->dtype);
  return columns ? mlxq_plan_slice(plan, &input->slice, &slice, error) : MLXQ_OK;
}

static mlxq_status add_inputs(mlxq_plan *plan, mlxq_job *job, const mlxq_foreign_layer *layer, mlxq_error *error) {
  const mlxq_weights *stored = plan->stored;
  uint64_t outs = mlxq_foreign_unit_outs(layer);
  bool gemm = layer->packing == MLXQ_PACKING_AWQ_GEMM, gemv = layer->packing == MLXQ_PACKING_AWQ_GEMV;
  bool fast = layer->packing == MLXQ_PACKING_AWQ_GEMV_FAST;
  uint64_t weight_elems = gemm ? 1 : gemv || fast ? stored->entries[layer->weight].tensor.shape[1] : outs;
  mlxq_status status = part(plan, job, layer->weight, weight_elems, !gemv && !fast, error);
  if (status == MLXQ_OK) {
    uint64_t elems = gemv ? stored->entries[layer->scales].tensor.shape[1] : outs;
    status = part(plan, job, layer->scales, elems, !gemv, error);
  }
  if (status == MLXQ_OK && layer->zeros != MLXQ_NO_TENSOR) {
    uint64_t elems = gemv ? stored->entries[layer->zeros].tensor.shape[1] : fast ? outs : outs * layer->bits / 32;
    status = part(plan, job, layer->zeros, elems, !gemv, error);
  }
  return status;
}

/* Adds the jobs of a model tensor that is made of foreign layers, `first` and others of its scheme. */
static mlxq_status add_jobs(mlxq_plan *plan, const mlxq_model *model, size_t index, const mlxq_foreign_layers *layers,
                            const mlxq_foreign_layer *first, mlxq_error *error) {
  static const char *const PARTS[] = {".weight", ".scales", ".biases"};
  const mlxq_tensor *tensor = &model->tensors->entries[index].tensor;
  size_t piece_count = 0, length = 0, outputs[3];
  const mlxq_piece *pieces = mlxq_model_pieces(model, index, &piece_count);
  uint64_t shape[MLXQ_MAX_RANK], row = 0;
  uint64_t group = (uint64_t)first->scheme.group_size, bits = (uint64_t)first->scheme.bits;
  mlxq_status status = MLXQ_OK;
  if (!mlxq_name_splits(tensor->name, ".weight", &length)) length = strlen(tensor->name);
  memcpy(shape, tensor->shape, tensor->rank * sizeof *shape);
  for (size_t i = 0; status == MLXQ_OK && i < 3; i++) {
    shape[tensor->rank - 1] = i == 0 ? first->ins / 32 * bits + first->ins % 32 * bits / 32 : first->ins / group;
    status = mlxq_plan_output(plan, tensor->name, length, PARTS[i], i == 0 ? MLXQ_U32 : first->dtype, tensor->rank,
                              shape, &outputs[i], error);
  }
  for (size_t k = 0; status == MLXQ_OK && k < piece_count; k++) {
    const mlxq_foreign_layer *layer = layer_of(layers, pieces[k].stored);
    const char *name = plan->stored->entries[pieces[k].stored].tensor.name;
    if (!layer || pieces[k].transposed || pieces[k].rows != layer->outs) {
      return mlxq_fail(error, MLXQ_UNSUPPORTED, NULL, name, "this family's layer cannot be made of a packed one");
    }
    if (layer->scheme.bits != first->scheme.bits || layer->scheme.group_size != first->scheme.group_size) {
      return mlxq_fail(error, MLXQ_UNSUPPORTED, NULL, name, "the experts of one stack differ in bits or group size");
    }
    uint64_t outs = mlxq_foreign_unit_outs(layer);
    mlxq_job job = {.action = MLXQ_ACTION_IMPORT,
                    .output_count = 3,
                    .scheme = layer->scheme,
                    .dtype = (uint8_t)layer->dtype,
                    .detail = (uint32_t)(layer - layers->items),
                    .units = layer->outs / outs};
    status = add_inputs(plan, &job, layer, error);
    for (uint32_t i = 0; status == MLXQ_OK && i < 3; i++) {
      uint64_t row_elems = i == 0 ? layer->ins * bits / 32 : layer->ins / group;
      mlxq_dtype dtype = i == 0 ? MLXQ_U32 : layer->dtype;
      job.outputs[i] = mlxq_plan_operand(outputs[i], outs * row_elems, dtype, dtype);
      mlxq_slice slice = {.offset = row * row_elems * mlxq_dtype_bits(dtype) / 8, .unit_stride = 1, .rows = 1};
      if (row > 0) status = mlxq_plan_slice(plan, &job.outputs[i].slice, &slice, error);
    }
    if (status == MLXQ_OK) status = mlxq_plan_add_job(plan, &job, error);
    row += layer->outs;
  }
  return status;
}

/* Notes the scheme of a model tensor where it is not the default. */
static mlxq_status note_scheme(mlxq_quant_config *config, const char *name, const mlxq_scheme *scheme,
                               mlxq_error *error) {
  const mlxq_scheme *fallback = mlxq_quant_config_default(config);
  mlxq_layer_option option = {.kind = MLXQ_LAYER_SCHEME, .scheme = *scheme};
  size_t length = 0;
  if (scheme->bits == fallback->bits && scheme->group_size == fallback->group_size) return MLXQ_OK;
  mlxq_name_splits(name, ".weight", &length);
  char *path = mlxq_asprintf("%.*s", (int)length, name);
  if (!path) return mlxq_fail_memory(error);
  mlxq_status status = mlxq_quant_config_set_layer(config, path, &option, error);
  free(path);
  return status;
}

static mlxq_status plan_tensors(mlxq_plan *plan, const mlxq_plan_request *request, const mlxq_foreign_layers *layers,
                                mlxq_quant_config *config, mlxq_error *error) {
  const mlxq_model *model = request->model;
  mlxq_status status = MLXQ_OK;
  for (size_t i = 0; status == MLXQ_OK && i < model->tensors->count; i++) {
    const mlxq_tensor_entry *entry = &model->tensors->entries[i];
    size_t count = 0;
    const mlxq_piece *pieces = mlxq_model_pieces(model, i, &count);
    const mlxq_foreign_layer *layer = count > 0 ? layer_of(layers, pieces[0].stored) : NULL;
    status = mlxq_cancel_check(&request->cancel, error);
    if (status != MLXQ_OK) break;
    if (layer) {
      status = add_jobs(plan, model, i, layers, layer, error);
      if (status == MLXQ_OK) status = note_scheme(config, entry->tensor.name, &layer->scheme, error);
    } else {
      status = mlxq_plan_copy(plan, request, i, error);
    }
    if (request->files) mlxq_error_at_file(error, status, request->files[entry->file].path);
  }
  return status;
}

mlxq_status mlxq_plan_foreign(mlxq_plan **result, mlxq_import_request *request, const mlxq_foreign_layers *layers,
                              const mlxq_scheme *fallback, mlxq_error *error) {
  mlxq_plan_request common = request->common;
  mlxq_model *collected = NULL, *arranged = NULL;
  mlxq_plan *plan = NULL;
  *result = NULL;
  mlxq_status status = collect(&collected, common.source, layers, error);
  if (status == MLXQ_OK && request->family) {
    status = mlxq_family_arrange(&arranged, request->family, request->checkpoint, collected->tensors, collected, error);
  }
  if (status == MLXQ_OK) {
    common.model = arranged ? arranged : collected;
    common.source = common.model->tensors;
    status = mlxq_plan_new(&plan, &common, error);
  }
  if (status == MLXQ_OK) {
    plan->foreign = mlxq_alloc(layers->count, sizeof *plan->foreign);
    status = plan->foreign ? mlxq_quant_config_new(&request->result, fallback, error) : mlxq_fail_memory(error);
  }
  if (status == MLXQ_OK) {
    mlxq_foreign_layers planned = *layers;
    planned.items = plan->foreign;
    if (layers->count > 0) memcpy(plan->foreign, layers->items, layers->count * sizeof *layers->items);
    unify(common.model, &planned);
    mlxq_foreign_warn_of_cost(&planned, &common);
    status = plan_tensors(plan, &common, &planned, request->result, error);
  }
  mlxq_model_free(arranged);
  mlxq_model_free(collected);
  if (status != MLXQ_OK) {
    mlxq_plan_free(plan);
    plan = NULL;
  }
  *result = plan;
  return status;
}
