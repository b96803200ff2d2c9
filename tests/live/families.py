"""Tiny models of the supported families, written down as Hugging Face ships them: config keys, tensor names, shapes.

A table lists one tensor a line: its name and its axes. An axis is a letter below, or a sum of letters with factors,
such as `Q+2K`. The tables are meant to be read beside the files of a real repository, not derived from mlx-lm.

    H hidden size, V vocabulary, I intermediate size, N query heads, M key-value heads, D head size, Q = N*D, K = M*D

What mlx-lm 0.32.2 refuses is written down as a reason in `refused`, and the test checks that it still does:

    "tied lm_head"  a checkpoint whose embeddings are tied that also holds lm_head.weight
    "inv_freq"      a checkpoint that holds `rotary_emb.inv_freq`, as old ones do
    "recipe"        a mixed-bit recipe
"""

from dataclasses import dataclass, field

NO_SANITIZE = "the model has no sanitize, so strict loading fails"
KEEPS_INV_FREQ = "sanitize leaves it in, so strict loading fails"
KEEPS_LM_HEAD = "sanitize leaves it in, so strict loading fails"


@dataclass
class Family:
    """One family. `tie` says how mlx-lm ties the embeddings to the output:

    "config"    as tie_word_embeddings says, which is `tie_default` where absent (None: the key is required)
    "always", "never", "presence"   without looking at the key; by presence of lm_head.weight
    """

    model_type: str
    tie: str
    config: dict
    layer: str
    top: str = "model.embed_tokens.weight V H\nmodel.norm.weight H"
    tie_default: bool | None = None
    layer_types: tuple = ()  # the config's layer_types, repeated over the layers
    refused: dict = field(default_factory=dict)

    def sizes(self):
        """The letters of the tables."""
        c = self.config
        heads, kv_heads = c["num_attention_heads"], c.get("num_key_value_heads", c["num_attention_heads"])
        head = c.get("head_dim", c["hidden_size"] // heads)
        sizes = {"H": c["hidden_size"], "V": c["vocab_size"], "I": c["intermediate_size"], "N": heads, "M": kv_heads}
        return sizes | {"D": head, "Q": heads * head, "K": kv_heads * head}

    def config_of(self, layers):
        """config.json for this many layers, without the keys that depend on how the checkpoint is kept."""
        config = self.config | {"num_hidden_layers": layers}
        if self.layer_types:
            config["layer_types"] = [self.layer_types[i % len(self.layer_types)] for i in range(layers)]
        return config

    def shapes(self, layers, lm_head, inv_freq):
        """{tensor name: shape} of a checkpoint with this many layers."""
        sizes = self.sizes()

        def read(table, prefix):
            for line in filter(None, map(str.strip, table.splitlines())):
                name, *axes = line.split()
                yield prefix + name, tuple(axis_size(axis, sizes) for axis in axes)

        shapes = dict(read(self.top, ""))
        for i in range(layers):
            shapes.update(read(self.layer, f"model.layers.{i}."))
            if inv_freq:
                shapes[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = (sizes["D"] // 2,)
        if lm_head:
            shapes["lm_head.weight"] = (sizes["V"], sizes["H"])
        return shapes


def axis_size(axis, sizes):
    """`Q+2K` as a number."""
    return sum(int(term[:-1] or 1) * sizes[term[-1]] for term in axis.split("+"))


ATTENTION = """
    self_attn.q_proj.weight Q H
    self_attn.k_proj.weight K H
    self_attn.v_proj.weight K H
    self_attn.o_proj.weight H Q
"""
QKV_BIASES = """
    self_attn.q_proj.bias Q
    self_attn.k_proj.bias K
    self_attn.v_proj.bias K
"""
HEAD_NORMS = """
    self_attn.q_norm.weight D
    self_attn.k_norm.weight D
"""
MLP = """
    mlp.gate_proj.weight I H
    mlp.up_proj.weight I H
    mlp.down_proj.weight H I
"""
MLP_BIASES = """
    mlp.gate_proj.bias I
    mlp.up_proj.bias I
    mlp.down_proj.bias H
"""
TWO_NORMS = """
    input_layernorm.weight H
    post_attention_layernorm.weight H
"""
FOUR_NORMS = (
    TWO_NORMS
    + """
    pre_feedforward_layernorm.weight H
    post_feedforward_layernorm.weight H
"""
)
POST_NORMS = """
    post_attention_layernorm.weight H
    post_feedforward_layernorm.weight H
"""


def config(model_type, architecture, **changes):
    """The keys nearly every config.json has."""
    common = {
        "architectures": [architecture],
        "bos_token_id": 0,
        "eos_token_id": 1,
        "hidden_act": "silu",
        "hidden_size": 128,
        "initializer_range": 0.02,
        "intermediate_size": 256,
        "max_position_embeddings": 512,
        "model_type": model_type,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "transformers_version": "4.51.3",
        "use_cache": True,
        "vocab_size": 259,
    }
    return common | changes


FAMILIES = {
    "llama": Family(
        "llama",
        tie="config",
        tie_default=True,
        config=config("llama", "LlamaForCausalLM", attention_bias=False, mlp_bias=False, rope_scaling=None, head_dim=32),
        layer=TWO_NORMS + ATTENTION + MLP,
    ),
    "llama with biases": Family(
        "llama",
        tie="config",
        tie_default=True,
        # 320: groups of 128 do not divide down_proj, which then stays dense
        config=config("llama", "LlamaForCausalLM", attention_bias=True, mlp_bias=True, intermediate_size=320),
        layer=TWO_NORMS + ATTENTION + QKV_BIASES + "self_attn.o_proj.bias H" + MLP + MLP_BIASES,
    ),
    "mistral": Family(
        "mistral",
        tie="config",
        tie_default=True,
        config=config("mistral", "MistralForCausalLM", sliding_window=None, head_dim=64, num_attention_heads=2, num_key_value_heads=1),
        layer=TWO_NORMS + ATTENTION + MLP,
    ),
    "qwen2": Family(
        "qwen2",
        tie="config",
        tie_default=True,
        # 352: groups of 64 and 128 do not divide down_proj, groups of 16 and 32 do
        config=config("qwen2", "Qwen2ForCausalLM", intermediate_size=352, sliding_window=512, max_window_layers=2),
        layer=TWO_NORMS + ATTENTION + QKV_BIASES + MLP,
    ),
    "qwen3": Family(
        "qwen3",
        tie="config",
        config=config("qwen3", "Qwen3ForCausalLM", attention_bias=False, head_dim=64, num_attention_heads=4, num_key_value_heads=1),
        layer=TWO_NORMS + ATTENTION + HEAD_NORMS + MLP,
        refused={"inv_freq": KEEPS_INV_FREQ},
    ),
    "gemma2": Family(
        "gemma2",
        tie="always",
        config=config(
            "gemma2",
            "Gemma2ForCausalLM",
            head_dim=64,
            hidden_activation="gelu_pytorch_tanh",
            query_pre_attn_scalar=64,
            attn_logit_softcapping=50.0,
            final_logit_softcapping=30.0,
            sliding_window=512,
        ),
        layer=FOUR_NORMS + ATTENTION + MLP,
        refused={"tied lm_head": NO_SANITIZE, "inv_freq": NO_SANITIZE},
    ),
    "gemma3_text": Family(
        "gemma3_text",
        tie="presence",
        config=config(
            "gemma3_text",
            "Gemma3ForCausalLM",
            head_dim=64,
            hidden_activation="gelu_pytorch_tanh",
            query_pre_attn_scalar=64,
            num_key_value_heads=1,
            rope_local_base_freq=10000.0,
            sliding_window=16,
            sliding_window_pattern=2,
        ),
        layer=FOUR_NORMS + ATTENTION + HEAD_NORMS + MLP,
        refused={"inv_freq": KEEPS_INV_FREQ},
    ),
    "phi3": Family(
        "phi3",
        tie="config",
        tie_default=False,
        config=config("phi3", "Phi3ForCausalLM", original_max_position_embeddings=512, rope_scaling=None, resid_pdrop=0.0),
        layer=TWO_NORMS
        + """
            self_attn.qkv_proj.weight Q+2K H
            self_attn.o_proj.weight H Q
            mlp.gate_up_proj.weight 2I H
            mlp.down_proj.weight H I
        """,
        refused={"tied lm_head": NO_SANITIZE, "inv_freq": NO_SANITIZE},
    ),
    "olmo2": Family(
        "olmo2",
        tie="config",
        tie_default=True,
        config=config("olmo2", "Olmo2ForCausalLM", attention_bias=False),
        layer=POST_NORMS
        + ATTENTION
        + """
            self_attn.q_norm.weight Q
            self_attn.k_norm.weight K
        """
        + MLP,
        refused={"tied lm_head": KEEPS_LM_HEAD},
    ),
    "smollm3": Family(
        "smollm3",
        tie="config",
        tie_default=True,
        config=config("smollm3", "SmolLM3ForCausalLM", attention_bias=False, mlp_bias=False, no_rope_layer_interval=2),
        layer=TWO_NORMS + ATTENTION + MLP,
    ),
    "glm4": Family(
        "glm4",
        tie="never",
        config=config("glm4", "Glm4ForCausalLM", attention_bias=True, head_dim=32, partial_rotary_factor=0.5, pad_token_id=0),
        layer=TWO_NORMS
        + """
            post_self_attn_layernorm.weight H
            post_mlp_layernorm.weight H
        """
        + ATTENTION
        + QKV_BIASES
        + """
            mlp.gate_up_proj.weight 2I H
            mlp.down_proj.weight H I
        """,
        refused={"inv_freq": NO_SANITIZE},
    ),
    "starcoder2": Family(
        "starcoder2",
        tie="config",
        tie_default=True,
        config=config("starcoder2", "Starcoder2ForCausalLM", norm_epsilon=1e-05, use_bias=True, mlp_type="default"),
        layer=TWO_NORMS
        + """
            input_layernorm.bias H
            post_attention_layernorm.bias H
        """
        + ATTENTION
        + QKV_BIASES
        + """
            self_attn.o_proj.bias H
            mlp.c_fc.weight I H
            mlp.c_fc.bias I
            mlp.c_proj.weight H I
            mlp.c_proj.bias H
        """,
        top="model.embed_tokens.weight V H\nmodel.norm.weight H\nmodel.norm.bias H",
        refused={
            "tied lm_head": NO_SANITIZE,
            "inv_freq": NO_SANITIZE,
            "recipe": "no layer is called down_proj, which the recipes look for",
        },
    ),
    "cohere": Family(
        "cohere",
        tie="always",
        config=config("cohere", "CohereForCausalLM", layer_norm_eps=1e-05, logit_scale=0.0625, use_qk_norm=False),
        layer="input_layernorm.weight H" + ATTENTION + MLP,
        refused={"tied lm_head": NO_SANITIZE, "inv_freq": NO_SANITIZE},
    ),
    "cohere with norms of heads": Family(
        "cohere",
        tie="always",
        # two-dimensional norms: they look like layers to quantize, and are not
        config=config("cohere", "CohereForCausalLM", layer_norm_eps=1e-05, logit_scale=0.0625, use_qk_norm=True, head_dim=32),
        layer="input_layernorm.weight H"
        + ATTENTION
        + """
            self_attn.q_norm.weight N D
            self_attn.k_norm.weight M D
        """
        + MLP,
        refused={"tied lm_head": NO_SANITIZE, "inv_freq": NO_SANITIZE},
    ),
    "granite": Family(
        "granite",
        tie="config",
        tie_default=True,
        config=config(
            "granite",
            "GraniteForCausalLM",
            attention_bias=False,
            mlp_bias=False,
            attention_multiplier=0.125,
            embedding_multiplier=12.0,
            logits_scaling=8.0,
            residual_multiplier=0.22,
            rope_scaling=None,
            intermediate_size=320,
        ),
        layer=TWO_NORMS + ATTENTION + MLP,
        refused={"inv_freq": KEEPS_INV_FREQ},
    ),
    "exaone4": Family(
        "exaone4",
        tie="config",
        config=config(
            "exaone4",
            "Exaone4ForCausalLM",
            head_dim=32,
            rope_scaling=None,
            sliding_window=16,
            sliding_window_pattern="LG",
        ),
        layer_types=("sliding_attention", "full_attention"),
        layer=POST_NORMS + ATTENTION + HEAD_NORMS + MLP,
        refused={"tied lm_head": NO_SANITIZE, "inv_freq": NO_SANITIZE},
    ),
}
