"""Tiny models of the supported families, written down as Hugging Face ships them: config keys, tensor names, shapes.

A table lists one tensor a line: its name and its axes. An axis is a letter below, or a sum of letters with factors,
such as `Q+2K`. The tables are meant to be read beside the files of a real repository, not derived from mlx-lm.

    H hidden size, V vocabulary, I intermediate size, N query heads, M key-value heads, D head size, Q = N*D, K = M*D

Further letters are a family's own. Every family that mlxq knows and does not refuse is here, apart from NOT_COMPARED.

What mlx-lm 0.32.2 refuses is written down as a reason in `refused`, and the test checks that it still does:

    "tied lm_head"  a checkpoint whose embeddings are tied that also holds lm_head.weight
    "inv_freq"      a checkpoint that holds `rotary_emb.inv_freq`, as old ones do
    "recipe"        a mixed-bit recipe
"""

from dataclasses import dataclass, field

NO_SANITIZE = "the model has no sanitize, so strict loading fails"
KEEPS_INV_FREQ = "sanitize leaves it in, so strict loading fails"
KEEPS_LM_HEAD = "sanitize leaves it in, so strict loading fails"
NO_DOWN_PROJ = "no layer is called down_proj, which the recipes look for"

# Families that mlxq knows but that are not compared, and why. The test checks that the reason still holds.
NOT_COMPARED = {"olmo": "mlx_lm.models.olmo ends the process unless the package ai2-olmo is there, which we do not install"}


@dataclass
class Family:
    """One family. `tie` says how mlx-lm ties the embeddings to the output:

    "config"    as tie_word_embeddings says, which is `tie_default` where absent (None: the key is required)
    "always", "never", "presence"   without looking at the key; by presence of lm_head.weight

    `layer` is a table of names below `block`.0, `block`.1, ...; `mlp` is where the MLP is below these.
    """

    model_type: str
    tie: str
    config: dict
    layer: str
    top: str = "model.embed_tokens.weight V H\nmodel.norm.weight H"
    tie_default: bool | None = None
    layer_types: tuple = ()  # the config's layer_types, repeated over the layers
    refused: dict = field(default_factory=dict)
    block: str = "model.layers"
    mlp: str = "mlp"
    head: str = "lm_head.weight V H"
    inv_freq: str = "self_attn.rotary_emb.inv_freq"
    layers_key: str = "num_hidden_layers"
    letters: dict = field(default_factory=dict)
    tied_fails: str = ""  # why mlx-lm loads a tied quantized model but cannot run it
    least_layers: int = 2  # what mlx-lm needs

    def sizes(self):
        """The letters of the tables."""
        c = self.config
        heads, kv_heads = c["num_attention_heads"], c.get("num_key_value_heads", c["num_attention_heads"])
        head = c.get("head_dim", c["hidden_size"] // heads)
        sizes = {"H": c["hidden_size"], "V": c["vocab_size"], "I": c["intermediate_size"], "N": heads, "M": kv_heads}
        return sizes | {"D": head, "Q": heads * head, "K": kv_heads * head} | self.letters

    def config_of(self, layers):
        """config.json for this many layers, without the keys that depend on how the checkpoint is kept."""
        config = self.config | {self.layers_key: layers}
        if self.layer_types:
            config["layer_types"] = [self.layer_types[i % len(self.layer_types)] for i in range(layers)]
        return config

    def text_config(self, config):
        """The part of config.json that the model's own keys are in, such as tie_word_embeddings."""
        return config

    def dtype_of(self, name, dtype):
        """What a tensor is kept in, in a checkpoint of this dtype."""
        return dtype

    def shapes(self, layers, lm_head, inv_freq):
        """{tensor name: shape} of a checkpoint with this many layers."""
        sizes = self.sizes()

        def read(table, prefix):
            for line in filter(None, map(str.strip, table.splitlines())):
                name, *axes = line.split()
                yield prefix + name, tuple(axis_size(axis, sizes) for axis in axes)

        shapes = dict(read(self.top, ""))
        for i in range(layers):
            shapes.update(read(self.layer, f"{self.block}.{i}."))
            if inv_freq:
                shapes[f"{self.block}.{i}.{self.inv_freq}"] = (sizes["D"] // 2,)
        if lm_head:
            shapes.update(read(self.head, ""))
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
            "recipe": NO_DOWN_PROJ,
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

# Further families, which meet every scheme and every variant too, but fewer pairs of them.
FURTHER = {
    "gemma": Family(
        "gemma",
        tie="always",
        config=config("gemma", "GemmaForCausalLM", head_dim=64, hidden_act="gelu", hidden_activation="gelu_pytorch_tanh"),
        layer=TWO_NORMS + ATTENTION + MLP,
        refused={"tied lm_head": NO_SANITIZE, "inv_freq": NO_SANITIZE},
    ),
    "phi": Family(
        "phi",
        tie="never",
        config=config("phi", "PhiForCausalLM", hidden_act="gelu_new", layer_norm_eps=1e-05, partial_rotary_factor=0.5),
        layer="""
            input_layernorm.weight H
            input_layernorm.bias H
            self_attn.q_proj.weight Q H
            self_attn.k_proj.weight K H
            self_attn.v_proj.weight K H
            self_attn.dense.weight H Q
            self_attn.dense.bias H
            mlp.fc1.weight I H
            mlp.fc1.bias I
            mlp.fc2.weight H I
            mlp.fc2.bias H
        """
        + QKV_BIASES,
        top="model.embed_tokens.weight V H\nmodel.final_layernorm.weight H\nmodel.final_layernorm.bias H",
        head="lm_head.weight V H\nlm_head.bias V",
        refused={"inv_freq": NO_SANITIZE, "recipe": NO_DOWN_PROJ},
    ),
    "glm": Family(
        "glm",
        tie="config",
        tie_default=True,
        config=config("glm", "GlmForCausalLM", attention_bias=True, head_dim=32, partial_rotary_factor=0.5, pad_token_id=0),
        layer=TWO_NORMS
        + ATTENTION
        + QKV_BIASES
        + """
            mlp.gate_up_proj.weight 2I H
            mlp.down_proj.weight H I
        """,
    ),
    "olmo3": Family(
        "olmo3",
        tie="config",
        tie_default=False,
        config=config("olmo3", "Olmo3ForCausalLM", attention_bias=False, sliding_window=16, rope_scaling=None),
        layer_types=("sliding_attention", "full_attention"),
        layer=POST_NORMS
        + ATTENTION
        + """
            self_attn.q_norm.weight Q
            self_attn.k_norm.weight K
        """
        + MLP,
        refused={"tied lm_head": NO_SANITIZE, "inv_freq": NO_SANITIZE},
    ),
    "stablelm": Family(
        "stablelm",
        tie="never",
        config=config("stablelm", "StableLmForCausalLM", layer_norm_eps=1e-05, partial_rotary_factor=0.25, use_qkv_bias=True),
        layer=TWO_NORMS
        + """
            input_layernorm.bias H
            post_attention_layernorm.bias H
        """
        + ATTENTION
        + QKV_BIASES
        + MLP,
        top="model.embed_tokens.weight V H\nmodel.norm.weight H\nmodel.norm.bias H",
        refused={"inv_freq": NO_SANITIZE},
    ),
    "cohere2": Family(
        "cohere2",
        tie="always",
        config=config(
            "cohere2",
            "Cohere2ForCausalLM",
            head_dim=32,
            layer_norm_eps=1e-05,
            logit_scale=0.0625,
            sliding_window=16,
            sliding_window_pattern=2,
        ),
        layer="input_layernorm.weight H" + ATTENTION + MLP,
        refused={"tied lm_head": NO_SANITIZE, "inv_freq": NO_SANITIZE},
    ),
    "exaone": Family(
        "exaone",
        tie="config",
        tie_default=True,
        config=config("exaone", "ExaoneForCausalLM", activation_function="silu", head_dim=32, layer_norm_epsilon=1e-05),
        layers_key="num_layers",
        block="transformer.h",
        layer="""
            ln_1.weight H
            ln_2.weight H
            attn.attention.q_proj.weight Q H
            attn.attention.k_proj.weight K H
            attn.attention.v_proj.weight K H
            attn.attention.out_proj.weight H Q
            mlp.c_fc_0.weight I H
            mlp.c_fc_1.weight I H
            mlp.c_proj.weight H I
        """,
        top="transformer.wte.weight V H\ntransformer.ln_f.weight H",
        inv_freq="attn.attention.rotary_emb.inv_freq",
        refused={"tied lm_head": NO_SANITIZE, "inv_freq": NO_SANITIZE, "recipe": NO_DOWN_PROJ},
    ),
    "helium": Family(
        "helium",
        # there is always an lm_head, used or not: here the key says true where a variant leaves it alone, else false
        tie="never",
        config=config("helium", "HeliumForCausalLM", attention_bias=False, mlp_bias=False, head_dim=32, tie_word_embeddings=True),
        layer=TWO_NORMS + ATTENTION + MLP,
        refused={"inv_freq": NO_SANITIZE},
    ),
    "internlm2": Family(
        "internlm2",
        tie="config",
        tie_default=False,
        config=config("internlm2", "InternLM2ForCausalLM", bias=False, rope_scaling=None),
        layer="""
            attention_norm.weight H
            ffn_norm.weight H
            attention.wqkv.weight Q+2K H
            attention.wo.weight H Q
            feed_forward.w1.weight I H
            feed_forward.w2.weight H I
            feed_forward.w3.weight I H
        """,
        top="model.tok_embeddings.weight V H\nmodel.norm.weight H",
        head="output.weight V H",
        mlp="feed_forward",
        inv_freq="attention.rope.inv_freq",
        refused={"tied lm_head": KEEPS_LM_HEAD, "recipe": NO_DOWN_PROJ},
    ),
    "internlm3": Family(
        "internlm3",
        tie="config",
        tie_default=False,
        config=config("internlm3", "InternLM3ForCausalLM", bias=False, qkv_bias=False, head_dim=32, rope_scaling=None),
        layer=TWO_NORMS + ATTENTION + MLP,
        refused={"tied lm_head": KEEPS_LM_HEAD, "inv_freq": KEEPS_INV_FREQ},
    ),
    "minicpm3": Family(
        "minicpm3",
        tie="config",
        tie_default=False,
        config=config(
            "minicpm3",
            "MiniCPM3ForCausalLM",
            attention_bias=False,
            dim_model_base=64,
            kv_lora_rank=64,
            q_lora_rank=64,
            qk_nope_head_dim=32,
            qk_rope_head_dim=16,
            scale_depth=1.4,
            scale_emb=12,
            rope_scaling={
                "type": "longrope",
                "long_factor": [1.0] * 8,
                "short_factor": [1.0] * 8,
                "original_max_position_embeddings": 512,
            },
        ),
        # ranks of 64: groups of 128 do not divide them; A and B are the ranks, R the rotary part of a head, E the other
        letters={"A": 64, "B": 64, "R": 16, "E": 4 * (32 + 16), "F": 4 * (32 + 32)},
        layer=TWO_NORMS
        + """
            self_attn.q_a_proj.weight A H
            self_attn.q_a_layernorm.weight A
            self_attn.q_b_proj.weight E A
            self_attn.kv_a_proj_with_mqa.weight B+R H
            self_attn.kv_a_layernorm.weight B
            self_attn.kv_b_proj.weight F B
            self_attn.o_proj.weight H Q
        """
        + MLP,
        refused={"tied lm_head": NO_SANITIZE, "inv_freq": NO_SANITIZE},
    ),
    "nemotron": Family(
        "nemotron",
        tie="config",
        tie_default=False,
        config=config("nemotron", "NemotronForCausalLM", hidden_act="relu2", norm_eps=1e-05, partial_rotary_factor=0.5, head_dim=32),
        layer=TWO_NORMS
        + """
            input_layernorm.bias H
            post_attention_layernorm.bias H
        """
        + ATTENTION
        + """
            mlp.up_proj.weight I H
            mlp.down_proj.weight H I
        """,
        top="model.embed_tokens.weight V H\nmodel.norm.weight H\nmodel.norm.bias H",
        refused={"tied lm_head": NO_SANITIZE, "inv_freq": NO_SANITIZE},
    ),
    "mimo": Family(
        "mimo",
        tie="config",
        tie_default=False,
        config=config("mimo", "MiMoForCausalLM", attention_bias=True, num_nextn_predict_layers=1),
        layer=TWO_NORMS + ATTENTION + QKV_BIASES + MLP,
        # the layers that predict further tokens are dropped
        top="""
            model.embed_tokens.weight V H
            model.norm.weight H
            model.mtp_layers.0.input_layernorm.weight H
            model.mtp_layers.0.input_proj.weight H 2H
            model.mtp_layers.0.mlp.down_proj.weight H I
        """,
    ),
    "ernie4_5": Family(
        "ernie4_5",
        tie="config",
        config=config("ernie4_5", "Ernie4_5_ForCausalLM", head_dim=32, use_bias=False),
        layer=TWO_NORMS + ATTENTION + MLP,
        refused={"tied lm_head": NO_SANITIZE, "inv_freq": NO_SANITIZE},
    ),
    "hunyuan_v1_dense": Family(
        "hunyuan_v1_dense",
        tie="config",
        tie_default=False,
        config=config(
            "hunyuan_v1_dense",
            "HunYuanDenseV1ForCausalLM",
            attention_bias=False,
            head_dim=32,
            use_qk_norm=True,
            rope_scaling={"alpha": 1000.0, "factor": 1.0, "type": "dynamic"},
        ),
        layer=TWO_NORMS
        + ATTENTION
        + """
            self_attn.query_layernorm.weight D
            self_attn.key_layernorm.weight D
        """
        + MLP,
        refused={"inv_freq": KEEPS_INV_FREQ},
    ),
    "seed_oss": Family(
        "seed_oss",
        tie="config",
        tie_default=True,
        config=config("seed_oss", "SeedOssForCausalLM", attention_bias=True, attention_out_bias=False, mlp_bias=False, head_dim=64),
        layer=TWO_NORMS + ATTENTION + QKV_BIASES + MLP,
        refused={"inv_freq": KEEPS_INV_FREQ},
        tied_fails="it multiplies by embed_tokens.weight as if that were dense",
    ),
    "qwen": Family(
        "qwen",
        tie="never",
        config=config("qwen", "QWenLMHeadModel", num_key_value_heads=4, kv_channels=32, layer_norm_epsilon=1e-06, no_bias=True),
        block="transformer.h",
        letters={"J": 128},  # half the intermediate size, which counts both of w1 and w2
        layer="""
            ln_1.weight H
            ln_2.weight H
            attn.c_attn.weight 3Q H
            attn.c_attn.bias 3Q
            attn.c_proj.weight H Q
            mlp.w1.weight J H
            mlp.w2.weight J H
            mlp.c_proj.weight H J
        """,
        top="transformer.wte.weight V H\ntransformer.ln_f.weight H",
        inv_freq="attn.rotary_emb.inv_freq",
        refused={"inv_freq": NO_SANITIZE, "recipe": NO_DOWN_PROJ},
    ),
    "ministral3": Family(
        "ministral3",
        tie="config",
        tie_default=True,
        config=config(
            "ministral3",
            "Ministral3ForCausalLM",
            head_dim=32,
            sliding_window=16,
            rope_parameters={"rope_theta": 10000.0, "llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 512},
        ),
        layer_types=("sliding_attention", "full_attention"),
        layer=TWO_NORMS + ATTENTION + MLP,
    ),
    "iquestcoder": Family(
        "iquestcoder",
        tie="config",
        tie_default=True,
        config=config("iquestcoder", "IQuestCoderForCausalLM", head_dim=32, attention_bias=False, mlp_bias=False),
        layer=TWO_NORMS + ATTENTION + MLP,
    ),
    "xverse": Family(
        "xverse",
        tie="config",
        tie_default=True,
        config=config("xverse", "XverseForCausalLM", num_key_value_heads=4),
        layer=TWO_NORMS + ATTENTION + MLP,
    ),
}
