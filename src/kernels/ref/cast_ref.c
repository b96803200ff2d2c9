#include "kernels/kernel_list.h"
#include "kernels/ref/group.h"

void mlxq_cast_ref(mlxq_dtype from, mlxq_dtype to, const void *source, void *result, size_t elems) {
  float values[MLXQ_REF_GROUP_MAX];
  for (size_t done = 0; done < elems; done += MLXQ_REF_GROUP_MAX) {
    size_t count = elems - done < MLXQ_REF_GROUP_MAX ? elems - done : MLXQ_REF_GROUP_MAX;
    mlxq_ref_load(values, from, source, done, count);
    mlxq_ref_store(to, result, done, values, count);
  }
}
