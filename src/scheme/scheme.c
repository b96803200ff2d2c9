#include <mlxq/scheme.h>

#include "base/error.h"

#include <string.h>

static const char *const MODE_NAMES[MLXQ_MODE_COUNT] = {
    [MLXQ_AFFINE] = "affine",
    [MLXQ_MXFP4] = "mxfp4",
    [MLXQ_MXFP8] = "mxfp8",
    [MLXQ_NVFP4] = "nvfp4",
};

static const mlxq_scheme DEFAULTS[MLXQ_MODE_COUNT] = {
    [MLXQ_AFFINE] = {.mode = MLXQ_AFFINE, .bits = 4, .group_size = 64},
    [MLXQ_MXFP4] = {.mode = MLXQ_MXFP4, .bits = 4, .group_size = 32},
    [MLXQ_MXFP8] = {.mode = MLXQ_MXFP8, .bits = 8, .group_size = 32},
    [MLXQ_NVFP4] = {.mode = MLXQ_NVFP4, .bits = 4, .group_size = 16},
};

static bool is_mode(mlxq_mode mode) {
  return (unsigned)mode < MLXQ_MODE_COUNT;
}

const char *mlxq_mode_name(mlxq_mode mode) {
  return is_mode(mode) ? MODE_NAMES[mode] : "unknown";
}

mlxq_status mlxq_mode_parse(mlxq_mode *mode, const char *name, mlxq_error *error) {
  for (int i = 0; i < MLXQ_MODE_COUNT; i++) {
    if (strcmp(name, MODE_NAMES[i]) == 0) {
      *mode = (mlxq_mode)i;
      return MLXQ_OK;
    }
  }
  return mlxq_fail(error, MLXQ_UNKNOWN_VALUE, NULL, "mode", "\"%s\" is none of affine, mxfp4, mxfp8, nvfp4", name);
}

bool mlxq_mode_has_biases(mlxq_mode mode) {
  return mode == MLXQ_AFFINE;
}

mlxq_scheme mlxq_scheme_default(mlxq_mode mode) {
  return is_mode(mode) ? DEFAULTS[mode] : (mlxq_scheme){.mode = mode};
}

mlxq_scheme mlxq_scheme_complete(const mlxq_scheme *scheme) {
  mlxq_scheme complete = mlxq_scheme_default(scheme->mode);
  if (scheme->bits != 0) complete.bits = scheme->bits;
  if (scheme->group_size != 0) complete.group_size = scheme->group_size;
  return complete;
}

mlxq_status mlxq_scheme_check(const mlxq_scheme *scheme, mlxq_error *error) {
  int32_t bits = scheme->bits, group_size = scheme->group_size;
  if (!is_mode(scheme->mode)) {
    return mlxq_fail(error, MLXQ_OUT_OF_RANGE, NULL, "mode", "%d is no mode", (int)scheme->mode);
  }
  if (scheme->mode == MLXQ_AFFINE) {
    if (bits < 2 || bits > 8 || bits == 7) {
      return mlxq_fail(error, MLXQ_OUT_OF_RANGE, NULL, "bits", "affine takes 2, 3, 4, 5, 6 or 8 bits, not %d", bits);
    }
    if (group_size != 32 && group_size != 64 && group_size != 128) {
      return mlxq_fail(error, MLXQ_OUT_OF_RANGE, NULL, "group_size", "affine takes groups of 32, 64 or 128, not %d",
                       group_size);
    }
    return MLXQ_OK;
  }
  const mlxq_scheme *only = &DEFAULTS[scheme->mode];
  const char *mode = MODE_NAMES[scheme->mode];
  if (bits != only->bits) {
    return mlxq_fail(error, MLXQ_OUT_OF_RANGE, NULL, "bits", "%s takes %d bits, not %d", mode, only->bits, bits);
  }
  if (group_size != only->group_size) {
    return mlxq_fail(error, MLXQ_OUT_OF_RANGE, NULL, "group_size", "%s takes groups of %d, not %d", mode,
                     only->group_size, group_size);
  }
  return MLXQ_OK;
}
