/* What a row of the table of families says: how mlx-lm's class for a model_type names and shapes what is stored. */
#ifndef MLXQ_PLAN_FAMILY_RULES_H
#define MLXQ_PLAN_FAMILY_RULES_H

#include "plan/family.h"

/* How a family decides whether the output head is the embedding. */
typedef enum mlxq_tie_rule {
  TIE_BY_KEY,         /* tie_word_embeddings; untied where the key is absent */
  TIE_BY_KEY_OR_TRUE, /* tie_word_embeddings; tied where the key is absent */
  TIE_ALWAYS,
  TIE_BY_PRESENCE, /* tied where there is no lm_head */
  TIE_NEVER,       /* the key means nothing */
} mlxq_tie_rule;

typedef enum mlxq_rule_op {
  RULE_RENAME,
  RULE_STACK,             /* experts, numbered by `#`: [out, in] each -> [experts, out, in] */
  RULE_HALVES,            /* [..., 2 n, in]: the first n rows, then the others */
  RULE_ALTERNATE,         /* [..., 2 n, in]: even rows, then odd ones */
  RULE_ALTERNATE_COLUMNS, /* [..., 2 n]: even columns, then odd ones */
  RULE_TRANSPOSE,         /* [..., in, out] -> [..., out, in] */
  RULE_HALVES_TRANSPOSED, /* [..., in, 2 n] -> twice [..., n, in] */
  RULE_BLOCKS,            /* U8 [..., blocks, 16] -> U32 [..., 4 * blocks] */
  RULE_ALTERNATE_BLOCKS,  /* the same, even rows, then odd ones */
  RULE_CONV,              /* depthwise convolutions: [channels, 1, width] -> [channels, width, 1] */
  RULE_ADD_ONE,           /* norms whose weights are stored less one; where the trait `add_one_when` says so */
  RULE_KV_B,              /* [heads * (nope + v), rank] -> [heads, rank, nope] and [heads, v, rank] */
  RULE_REFUSE,            /* `to` is the reason */
} mlxq_rule_op;

/* `from` is the end of a tensor's name, from a dot on; `#` stands for a number. `to` (and `to2`, for operations that
 * make two tensors) take its place. */
typedef struct mlxq_rule {
  mlxq_rule_op op;
  const char *from, *to, *to2;
  const char *unless; /* the rule is off where a tensor's name ends like this */
} mlxq_rule;

/* The start of names: `to` takes its place, or NULL: such tensors are dropped. The first that fits counts. */
typedef struct mlxq_prefix {
  const char *from, *to;
} mlxq_prefix;

typedef enum mlxq_add_one { ADD_ONE_NEVER, ADD_ONE_WITH_EXPERTS, ADD_ONE_WITH_CONV } mlxq_add_one;

/* Lists end with a row of zeros. */
typedef struct mlxq_family_traits {
  const mlxq_rule *rules;
  const mlxq_prefix *prefixes;
  const char *const *eight_bits; /* ends of layers (after ^ whole paths) that get 8 bits, group 64 */
  const char *const *raw;        /* ends of layers that are arrays in mlx-lm, not quantized */
  const char *const *never_cast; /* parts of names of tensors that keep their dtype */
  const char *const *dropped;    /* parts of names of tensors that are left out */
  mlxq_add_one add_one;
  bool fp8;               /* weights may be F8_E4M3 with a scale for each block of 128 x 128 */
  bool fp8_padded;        /* ... of which there may be more than the matrix needs */
  bool mxfp4;             /* experts may be MXFP4, which is MLX's */
  bool nested;            /* the model's keys are in text_config, where there is one */
  bool rope_type_renamed; /* mlx-lm writes rope_parameters with "type" for "rope_type" */
} mlxq_family_traits;

struct mlxq_family {
  const char *model_type;
  mlxq_tie_rule tie;
  const char *refused; /* why it cannot be converted yet; NULL where it can */
  const mlxq_family_traits *traits;
};

/* True where `name` ends with `pattern`, whose `#` is any number: `*length` is that of what is before, `*number` the
 * number. */
bool mlxq_rule_matches(const char *pattern, const char *name, size_t *length, long *number);

#endif
