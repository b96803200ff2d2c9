"""Tiny models of the families whose tensors are stacked, split, transposed or rescaled, as Hugging Face ships them.

The same form as families.py, whose tables these extend by what such families need:

    *           in a name: the number of an expert, 0 to E-1, so that one line stands for E tensors
    `mixed`     tables of layers that are not alike: the first layers have `first`, the others `mixed` in turn
    `nested`    the keys of `config` are those of text_config, and `outer` the top level around it
    `stored`    tensors that are always kept in the dtype said here, whatever the checkpoint is kept in: {pattern: dtype}
    `never_cast` patterns of the names, as mlx-lm writes them, that a change of dtype leaves alone
    `dropped`   a table of tensors beside the others that mlx-lm drops, such as a vision tower

Further letters: E experts, G intermediate size of an expert, S that of the shared experts. An axis `1` is one; `@` before
an axis makes it the number of FP8 blocks along it; `#` is P times the number of layers.
"""

import fnmatch
from dataclasses import dataclass, field

from families import (
    ATTENTION,
    HEAD_NORMS,
    KEEPS_INV_FREQ,
    KEEPS_LM_HEAD,
    MLP,
    NO_SANITIZE,
    QKV_BIASES,
    TWO_NORMS,
    Family,
    axis_size,
    config,
)

EXPERTS = 4
FP8_BLOCK = 128


@dataclass
class MixedFamily(Family):
    """A family of layers that are not alike, of experts, or of tensors kept in dtypes of their own."""

    first: tuple = ()
    mixed: tuple = ("",)
    nested: bool = False
    outer: dict = field(default_factory=dict)
    stored: dict = field(default_factory=dict)
    never_cast: tuple = ()
    dropped: str = ""
    counted: dict = field(default_factory=dict)  # keys of the config that are the number of layers plus this
    per_layer: dict = field(default_factory=dict)  # keys of the config with a value for each layer, repeated over the layers

    def sizes(self):
        width = self.config.get("moe_intermediate_size", self.config["intermediate_size"])
        return {"1": 1, "E": EXPERTS, "G": width} | super().sizes()

    def text_config(self, config):
        """The part of config.json that the model's own keys are in, such as tie_word_embeddings."""
        return config["text_config"] if self.nested else config

    def config_of(self, layers):
        config = super().config_of(layers)
        config |= {key: layers + more for key, more in self.counted.items()}
        for key, values in self.per_layer.items():
            config[key] = [values[i % len(values)] for i in range(layers)]
            if all(isinstance(value, str) and len(value) == 1 for value in values):
                config[key] = "".join(config[key])
        return self.outer | {"text_config": config} if self.nested else config

    def layer_of(self, i):
        """The table of layer i."""
        if i < len(self.first):
            return self.layer + self.first[i]
        return self.layer + self.mixed[(i - len(self.first)) % len(self.mixed)]

    def shapes(self, layers, lm_head, inv_freq):
        sizes = self.sizes()
        sizes["#"] = layers * sizes.get("P", 0)

        def read(table, prefix):
            for line in filter(None, map(str.strip, table.splitlines())):
                name, *axes = line.split()
                shape = tuple(axis_of(axis, sizes) for axis in axes)
                for e in range(sizes["E"] if "*" in name else 1):
                    yield prefix + name.replace("*", str(e)), shape

        shapes = dict(read(self.top, ""))
        for i in range(layers):
            shapes.update(read(self.layer_of(i), f"{self.block}.{i}."))
            if inv_freq:
                shapes[f"{self.block}.{i}.{self.inv_freq}"] = (sizes["D"] // 2,)
        if lm_head:
            shapes.update(read(self.head, ""))
        shapes.update(read(self.dropped, ""))
        return shapes

    def dtype_of(self, name, dtype):
        """What a tensor is kept in, in a checkpoint of this dtype."""
        return next((fixed for pattern, fixed in self.stored.items() if fnmatch.fnmatchcase(name, pattern)), dtype)


def axis_of(axis, sizes):
    """An axis as a number; `@` before it is the number of FP8 blocks along it."""
    return -(-axis_size(axis[1:], sizes) // FP8_BLOCK) if axis[0] == "@" else axis_size(axis, sizes)


def experts(where, gate="gate_proj", up="up_proj", down="down_proj"):
    """The weights of the experts, one by one."""
    return f"""
        {where}.*.{gate}.weight G H
        {where}.*.{up}.weight G H
        {where}.*.{down}.weight H G
    """


def shared(where):
    """The MLP that all tokens go through."""
    return f"""
        {where}.gate_proj.weight S H
        {where}.up_proj.weight S H
        {where}.down_proj.weight H S
    """


CORRECTION_BIAS = "mlp.gate.e_score_correction_bias E\n"

STACKED = {
    "mixtral": MixedFamily(
        "mixtral",
        tie="config",
        tie_default=False,
        config=config("mixtral", "MixtralForCausalLM", num_local_experts=EXPERTS, num_experts_per_tok=2, router_aux_loss_coef=0.02),
        layer=TWO_NORMS + ATTENTION + "block_sparse_moe.gate.weight E H" + experts("block_sparse_moe.experts", "w1", "w3", "w2"),
        mlp="block_sparse_moe",
        refused={"inv_freq": KEEPS_INV_FREQ},
    ),
    "qwen2_moe": MixedFamily(
        "qwen2_moe",
        tie="never",
        config=config(
            "qwen2_moe",
            "Qwen2MoeForCausalLM",
            decoder_sparse_step=1,
            mlp_only_layers=[],
            moe_intermediate_size=192,
            norm_topk_prob=False,
            num_experts=EXPERTS,
            num_experts_per_tok=2,
            shared_expert_intermediate_size=320,
        ),
        letters={"S": 320},
        layer=TWO_NORMS
        + ATTENTION
        + QKV_BIASES
        + "mlp.gate.weight E H\nmlp.shared_expert_gate.weight 1 H"
        + experts("mlp.experts")
        + shared("mlp.shared_expert"),
        refused={"inv_freq": KEEPS_INV_FREQ},
    ),
    "olmoe": MixedFamily(
        "olmoe",
        tie="config",
        tie_default=True,
        config=config(
            "olmoe",
            "OlmoeForCausalLM",
            attention_bias=False,
            clip_qkv=None,
            norm_topk_prob=False,
            num_experts=EXPERTS,
            num_experts_per_tok=2,
        ),
        layer=TWO_NORMS
        + ATTENTION
        + """
            self_attn.q_norm.weight Q
            self_attn.k_norm.weight K
            mlp.gate.weight E H
        """
        + experts("mlp.experts"),
        refused={"tied lm_head": KEEPS_LM_HEAD, "inv_freq": KEEPS_INV_FREQ},
    ),
    "qwen3_moe": MixedFamily(
        "qwen3_moe",
        tie="config",
        # the first layer has no experts
        config=config(
            "qwen3_moe",
            "Qwen3MoeForCausalLM",
            attention_bias=False,
            decoder_sparse_step=1,
            head_dim=64,
            mlp_only_layers=[0],
            moe_intermediate_size=192,
            norm_topk_prob=True,
            num_experts=EXPERTS,
            num_experts_per_tok=2,
            num_key_value_heads=1,
            rope_scaling=None,
        ),
        layer=TWO_NORMS + ATTENTION + HEAD_NORMS,
        first=(MLP,),
        mixed=("mlp.gate.weight E H" + experts("mlp.experts"),),
        refused={"inv_freq": KEEPS_INV_FREQ},
    ),
    "glm4_moe": MixedFamily(
        "glm4_moe",
        tie="never",
        config=config(
            "glm4_moe",
            "Glm4MoeForCausalLM",
            attention_bias=True,
            first_k_dense_replace=1,
            head_dim=64,
            moe_intermediate_size=192,
            n_group=1,
            n_routed_experts=EXPERTS,
            n_shared_experts=1,
            norm_topk_prob=True,
            num_experts_per_tok=2,
            num_nextn_predict_layers=1,
            partial_rotary_factor=0.5,
            rope_scaling=None,
            routed_scaling_factor=2.5,
            topk_group=1,
            use_qk_norm=True,
            tie_word_embeddings=False,
        ),
        letters={"S": 192},
        layer=TWO_NORMS + ATTENTION + QKV_BIASES + HEAD_NORMS,
        first=(MLP,),
        mixed=(CORRECTION_BIAS + "mlp.gate.weight E H" + experts("mlp.experts") + shared("mlp.shared_experts"),),
        stored={"*.e_score_correction_bias": "F32"},
        never_cast=("*.e_score_correction_bias",),
        refused={"inv_freq": KEEPS_INV_FREQ},
    ),
    "phimoe": MixedFamily(
        "phimoe",
        tie="never",
        config=config(
            "phimoe",
            "PhiMoEForCausalLM",
            attention_bias=True,
            lm_head_bias=True,
            num_local_experts=EXPERTS,
            num_experts_per_tok=2,
            original_max_position_embeddings=256,
            rope_scaling={
                "type": "longrope",
                "long_factor": [1.0] * 16,
                "short_factor": [1.0] * 16,
                "long_mscale": 1.24,
                "short_mscale": 1.24,
                "original_max_position_embeddings": 256,
            },
            router_jitter_noise=0.01,
        ),
        layer=TWO_NORMS
        + ATTENTION
        + QKV_BIASES
        + """
            self_attn.o_proj.bias H
            input_layernorm.bias H
            post_attention_layernorm.bias H
            block_sparse_moe.gate.weight E H
        """
        + experts("block_sparse_moe.experts", "w1", "w3", "w2"),
        top="model.embed_tokens.weight V H\nmodel.norm.weight H\nmodel.norm.bias H",
        head="lm_head.weight V H\nlm_head.bias V",
        mlp="block_sparse_moe",
        refused={"inv_freq": KEEPS_INV_FREQ},
    ),
    "dots1": MixedFamily(
        "dots1",
        tie="config",
        tie_default=False,
        config=config(
            "dots1",
            "Dots1ForCausalLM",
            attention_bias=False,
            first_k_dense_replace=1,
            head_dim=32,
            moe_intermediate_size=192,
            n_group=1,
            n_routed_experts=EXPERTS,
            n_shared_experts=2,
            norm_topk_prob=True,
            num_experts_per_tok=2,
            rope_scaling=None,
            routed_scaling_factor=2.5,
            scoring_func="noaux_tc",
            topk_group=1,
        ),
        letters={"S": 2 * 192},
        layer=TWO_NORMS + ATTENTION + HEAD_NORMS,
        first=(MLP,),
        mixed=(CORRECTION_BIAS + "mlp.gate.weight E H" + experts("mlp.experts") + shared("mlp.shared_experts"),),
        stored={"*.e_score_correction_bias": "F32"},
    ),
}

MAMBA = """
    {0}.A_log I T
    {0}.D I
    {0}.conv1d.weight I 1 C
    {0}.conv1d.bias I
    {0}.dt_proj.weight I R
    {0}.dt_proj.bias I
    {0}.in_proj.weight 2I H
    {0}.out_proj.weight H I
    {0}.x_proj.weight R+2T I
"""
# attention whose query projection also gives a gate for the output
GATED_ATTENTION = """
    self_attn.q_proj.weight 2Q H
    self_attn.k_proj.weight K H
    self_attn.v_proj.weight K H
    self_attn.o_proj.weight H Q
"""
# key heads of width X, value heads of width Y, both counted in all; B value heads
DELTA_NET = """
    linear_attn.A_log B
    linear_attn.dt_bias B
    linear_attn.conv1d.weight 2X+Y 1 C
    linear_attn.norm.weight W
    linear_attn.out_proj.weight H Y
"""
DELTA_NET_KEYS = {
    "full_attention_interval": 2,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 32,
}
DELTA_NET_SIZES = {"X": 2 * 32, "Y": 4 * 32, "B": 4, "W": 32, "C": 4}
QWEN3_5_DELTA_NET = (
    DELTA_NET
    + """
    linear_attn.in_proj_qkv.weight 2X+Y H
    linear_attn.in_proj_z.weight Y H
    linear_attn.in_proj_b.weight B H
    linear_attn.in_proj_a.weight B H
"""
)
SHARED_EXPERT = "mlp.gate.weight E H\nmlp.shared_expert_gate.weight 1 H" + shared("mlp.shared_expert")
QWEN3_5_MOE = """
    mlp.experts.gate_up_proj E 2G H
    mlp.experts.down_proj E H G
""" + SHARED_EXPERT
QWEN3_5_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25, "mrope_section": [2, 1, 1]}


def qwen3_5(model_type, nested, moe):
    """One of the four kinds of Qwen 3.5: with or without a vision tower, with or without experts."""
    keys = {
        "attn_output_gate": True,
        "head_dim": 64,
        "mtp_num_hidden_layers": 1,
        "num_key_value_heads": 1,
        "rope_parameters": QWEN3_5_ROPE,
    }
    if moe:
        keys |= {
            "moe_intermediate_size": 192,
            "num_experts": EXPERTS,
            "num_experts_per_tok": 2,
            "shared_expert_intermediate_size": 128,
        }
    architecture = f"Qwen3_5{'Moe' if moe else ''}ForConditionalGeneration"
    text_type = f"{model_type}_text" if nested else model_type
    prefix = "model.language_model" if nested else "model"
    mlp = QWEN3_5_MOE if moe else MLP
    visual = """
        model.visual.patch_embed.proj.weight H 3 2 4 4
        model.visual.blocks.0.attn.qkv.weight 3H H
        model.visual.merger.norm.weight H
    """
    return MixedFamily(
        model_type,
        tie="config",
        tie_default=False,
        nested=nested,
        outer={
            "architectures": [architecture],
            "image_token_id": 250,
            "model_type": model_type,
            "vision_config": {"depth": 1, "hidden_size": 128, "model_type": model_type},
        }
        if nested
        else {},
        config=config(text_type, architecture, **DELTA_NET_KEYS, **keys),
        letters=DELTA_NET_SIZES | {"S": 128, "3": 3, "2": 2, "4": 4},
        layer=TWO_NORMS,
        layer_types=("linear_attention", "full_attention"),
        mixed=(QWEN3_5_DELTA_NET + mlp, GATED_ATTENTION + HEAD_NORMS + mlp),
        block=f"{prefix}.layers",
        top=f"{prefix}.embed_tokens.weight V H\n{prefix}.norm.weight H",
        stored={"*.A_log": "F32", "*.linear_attn.norm.weight": "F32"},
        never_cast=("*.A_log",),
        dropped="""
            mtp.fc.weight H 2H
            mtp.norm.weight H
            mtp.layers.0.input_layernorm.weight H
        """
        + (visual if nested else ""),
        # a tied lm_head is looked for under the name that it no longer has
        refused={"tied lm_head": KEEPS_LM_HEAD, "inv_freq": KEEPS_INV_FREQ},
    )


TRANSFORMED = {
    "granitemoe": MixedFamily(
        "granitemoe",
        tie="config",
        tie_default=True,
        config=config(
            "granitemoe",
            "GraniteMoeForCausalLM",
            attention_bias=False,
            attention_multiplier=0.125,
            embedding_multiplier=12.0,
            logits_scaling=8.0,
            num_experts_per_tok=2,
            num_local_experts=EXPERTS,
            residual_multiplier=0.22,
            rope_scaling=None,
            intermediate_size=192,
        ),
        layer=TWO_NORMS
        + ATTENTION
        + """
            block_sparse_moe.input_linear.weight E 2I H
            block_sparse_moe.output_linear.weight E H I
            block_sparse_moe.router.layer.weight E H
        """,
        mlp="block_sparse_moe",
        refused={"inv_freq": KEEPS_INV_FREQ},
    ),
    "qwen3_5_moe": qwen3_5("qwen3_5_moe", nested=True, moe=True),
    "qwen3_5_moe text": qwen3_5("qwen3_5_moe", nested=False, moe=True),
    "qwen3_5": qwen3_5("qwen3_5", nested=True, moe=False),
    "qwen3_5 text": qwen3_5("qwen3_5", nested=False, moe=False),
    "lfm2": MixedFamily(
        "lfm2",
        tie="always",
        config=config(
            "lfm2",
            "Lfm2ForCausalLM",
            block_auto_adjust_ff_dim=False,
            block_dim=128,
            block_ff_dim=320,
            block_ffn_dim_multiplier=1.0,
            block_mlp_init_scale=1.0,
            block_multiple_of=64,
            conv_L_cache=3,
            conv_bias=False,
            norm_eps=1e-05,
        ),
        letters={"I": 320, "C": 3},
        layer_types=("conv", "full_attention"),
        layer="""
            operator_norm.weight H
            ffn_norm.weight H
            feed_forward.w1.weight I H
            feed_forward.w2.weight H I
            feed_forward.w3.weight I H
        """,
        mixed=(
            """
            conv.conv.weight H 1 C
            conv.in_proj.weight 3H H
            conv.out_proj.weight H H
            """,
            """
            self_attn.q_proj.weight Q H
            self_attn.k_proj.weight K H
            self_attn.v_proj.weight K H
            self_attn.out_proj.weight H Q
            self_attn.q_layernorm.weight D
            self_attn.k_layernorm.weight D
            """,
        ),
        top="model.embed_tokens.weight V H\nmodel.embedding_norm.weight H",
        mlp="feed_forward",
        refused={"tied lm_head": KEEPS_LM_HEAD, "inv_freq": KEEPS_INV_FREQ, "recipe": "no layer is called down_proj"},
    ),
    "mamba": MixedFamily(
        "mamba",
        tie="config",
        tie_default=True,
        config=config(
            "mamba",
            "MambaForCausalLM",
            conv_kernel=4,
            d_model=128,
            expand=2,
            state_size=16,
            time_step_rank=8,
            use_bias=False,
            use_conv_bias=True,
        ),
        letters={"T": 16, "R": 8, "C": 4},
        block="backbone.layers",
        layer="norm.weight H" + MAMBA.format("mixer"),
        top="backbone.embeddings.weight V H\nbackbone.norm_f.weight H",
        mlp="mixer",
        inv_freq="mixer.rotary_emb.inv_freq",
        stored={"*.A_log": "F32", "*.D": "F32"},
        refused={"tied lm_head": KEEPS_LM_HEAD, "inv_freq": KEEPS_INV_FREQ, "recipe": "no layer is called down_proj"},
    ),
    "jamba": MixedFamily(
        "jamba",
        tie="config",
        tie_default=True,
        config=config(
            "jamba",
            "JambaForCausalLM",
            attn_layer_offset=1,
            attn_layer_period=2,
            expert_layer_offset=1,
            expert_layer_period=2,
            mamba_conv_bias=True,
            mamba_d_conv=4,
            mamba_d_state=16,
            mamba_dt_rank=8,
            mamba_expand=2,
            mamba_proj_bias=False,
            num_experts=EXPERTS,
            num_experts_per_tok=2,
        ),
        letters={"T": 16, "R": 8, "C": 4},
        layer="input_layernorm.weight H\npre_ff_layernorm.weight H",
        mixed=(
            MAMBA.format("mamba")
            + """
            mamba.dt_layernorm.weight R
            mamba.b_layernorm.weight T
            mamba.c_layernorm.weight T
            feed_forward.gate_proj.weight I H
            feed_forward.up_proj.weight I H
            feed_forward.down_proj.weight H I
            """,
            ATTENTION + "feed_forward.router.weight E H" + experts("feed_forward.experts"),
        ),
        top="model.embed_tokens.weight V H\nmodel.final_layernorm.weight H",
        mlp="feed_forward",
        stored={"*.A_log": "F32"},
        refused={"inv_freq": KEEPS_INV_FREQ},
    ),
    "qwen3_next": MixedFamily(
        "qwen3_next",
        tie="config",
        tie_default=False,
        config=config(
            "qwen3_next",
            "Qwen3NextForCausalLM",
            attention_bias=False,
            decoder_sparse_step=1,
            head_dim=64,
            mlp_only_layers=[],
            moe_intermediate_size=192,
            norm_topk_prob=True,
            num_experts=EXPERTS,
            num_experts_per_tok=2,
            num_key_value_heads=1,
            partial_rotary_factor=0.25,
            rope_scaling=None,
            shared_expert_intermediate_size=128,
            **DELTA_NET_KEYS,
        ),
        letters=DELTA_NET_SIZES | {"S": 128},
        layer=TWO_NORMS + SHARED_EXPERT + experts("mlp.experts"),
        mixed=(
            DELTA_NET
            + """
            linear_attn.in_proj_qkvz.weight 2X+2Y H
            linear_attn.in_proj_ba.weight 2B H
            """,
            GATED_ATTENTION + HEAD_NORMS,
        ),
        dropped="""
            mtp.fc.weight H 2H
            mtp.norm.weight H
            mtp.layers.0.mlp.experts.0.up_proj.weight G H
        """,
        refused={"inv_freq": KEEPS_INV_FREQ},
    ),
}

TRANSFORMED |= {
    "llama4": MixedFamily(
        "llama4",
        tie="never",
        nested=True,
        least_layers=4,
        outer={
            "architectures": ["Llama4ForConditionalGeneration"],
            "boi_token_index": 250,
            "model_type": "llama4",
            "vision_config": {"hidden_size": 64, "model_type": "llama4_vision_model"},
        },
        config=config(
            "llama4_text",
            "Llama4ForCausalLM",
            attention_bias=False,
            attention_chunk_size=32,
            head_dim=32,
            interleave_moe_layer_step=2,
            intermediate_size=192,
            intermediate_size_mlp=320,
            num_experts_per_tok=1,
            num_local_experts=EXPERTS,
            rope_scaling=None,
            use_qk_norm=True,
        ),
        letters={"J": 320},
        block="language_model.model.layers",
        layer=TWO_NORMS + ATTENTION,
        mixed=(
            """
            feed_forward.gate_proj.weight J H
            feed_forward.up_proj.weight J H
            feed_forward.down_proj.weight H J
            """,
            """
            feed_forward.experts.gate_up_proj E H 2I
            feed_forward.experts.down_proj E I H
            feed_forward.router.weight E H
            feed_forward.shared_expert.gate_proj.weight I H
            feed_forward.shared_expert.up_proj.weight I H
            feed_forward.shared_expert.down_proj.weight H I
            """,
        ),
        top="language_model.model.embed_tokens.weight V H\nlanguage_model.model.norm.weight H",
        head="language_model.lm_head.weight V H",
        mlp="feed_forward",
        dropped="""
            multi_modal_projector.linear_1.weight H H
            vision_model.class_embedding H
            vision_model.model.layers.0.self_attn.q_proj.weight H H
        """,
        refused={"inv_freq": KEEPS_INV_FREQ},
    ),
    # of the text models only those without experts, which are MobileLLM's
    "llama4_text": MixedFamily(
        "llama4_text",
        tie="config",
        config=config(
            "llama4_text",
            "Llama4ForCausalLM",
            attention_bias=False,
            head_dim=32,
            intermediate_size=320,
            intermediate_size_mlp=320,
            interleave_moe_layer_step=0,
            num_local_experts=0,
            use_qk_norm=True,
        ),
        per_layer={"no_rope_layers": (1, 0)},
        letters={"J": 320},
        layer=TWO_NORMS
        + ATTENTION
        + """
            feed_forward.gate_proj.weight J H
            feed_forward.up_proj.weight J H
            feed_forward.down_proj.weight H J
        """,
        head="output.weight V H",
        mlp="feed_forward",
        refused={"tied lm_head": NO_SANITIZE, "inv_freq": NO_SANITIZE},
        tied_fails="it multiplies by embed_tokens.weight as if that were dense",
    ),
    "qwen3_vl_moe": MixedFamily(
        "qwen3_vl_moe",
        tie="never",
        nested=True,
        outer={
            "architectures": ["Qwen3VLMoeForConditionalGeneration"],
            "image_token_id": 250,
            "model_type": "qwen3_vl_moe",
            "vision_config": {"depth": 1, "hidden_size": 128, "model_type": "qwen3_vl_moe"},
        },
        config=config(
            "qwen3_vl_moe_text",
            "Qwen3VLMoeForCausalLM",
            attention_bias=False,
            decoder_sparse_step=1,
            head_dim=64,
            mlp_only_layers=[0],
            moe_intermediate_size=192,
            norm_topk_prob=True,
            num_experts=EXPERTS,
            num_experts_per_tok=2,
            num_key_value_heads=1,
            rope_scaling={"mrope_interleaved": True, "mrope_section": [4, 2, 2], "rope_type": "default"},
            tie_word_embeddings=False,
        ),
        letters={"2": 2, "3": 3, "4": 4},
        block="model.language_model.layers",
        layer=TWO_NORMS + ATTENTION + HEAD_NORMS,
        first=(MLP,),
        mixed=("mlp.gate.weight E H\nmlp.experts.gate_up_proj E H 2G\nmlp.experts.down_proj E G H",),
        top="model.language_model.embed_tokens.weight V H\nmodel.language_model.norm.weight H",
        dropped="""
            model.visual.patch_embed.proj.weight H 3 2 4 4
            model.visual.blocks.0.attn.qkv.weight 3H H
            model.visual.merger.norm.weight H
        """,
        refused={"inv_freq": KEEPS_INV_FREQ},
    ),
    "qwen3_vl": MixedFamily(
        "qwen3_vl",
        tie="config",
        nested=True,
        outer={
            "architectures": ["Qwen3VLForConditionalGeneration"],
            "image_token_id": 250,
            "model_type": "qwen3_vl",
            "vision_config": {"depth": 1, "hidden_size": 128, "model_type": "qwen3_vl"},
        },
        config=config(
            "qwen3_vl_text",
            "Qwen3VLForCausalLM",
            attention_bias=False,
            head_dim=64,
            num_key_value_heads=1,
            rope_scaling={"mrope_interleaved": True, "mrope_section": [4, 2, 2], "rope_type": "default"},
        ),
        letters={"2": 2, "3": 3, "4": 4},
        block="model.language_model.layers",
        layer=TWO_NORMS + ATTENTION + HEAD_NORMS + MLP,
        top="model.language_model.embed_tokens.weight V H\nmodel.language_model.norm.weight H",
        dropped="""
            model.visual.patch_embed.proj.weight H 3 2 4 4
            model.visual.blocks.0.attn.qkv.weight 3H H
            model.visual.merger.norm.weight H
        """,
        refused={"tied lm_head": KEEPS_LM_HEAD, "inv_freq": KEEPS_INV_FREQ},
    ),
}


def gpt_oss(packed):
    """As OpenAI publishes it, with experts in MXFP4; or dense, with the axes of the experts as the packed ones have them."""
    gate_up, down = ("gate_up_proj", "E 2I H"), ("down_proj", "E H I")
    parts = {}
    for name, axes in (gate_up, down):
        experts, rows, columns = axes.split()
        if packed:
            # groups of 32: Z of H, Y of I
            groups = {"H": "Z", "I": "Y"}[columns]
            parts[f"{name}_blocks"] = f"{experts} {rows} {groups} B"
            parts[f"{name}_scales"] = f"{experts} {rows} {groups}"
        else:
            parts[f"{name}.weight"] = axes
        parts[f"{name}_bias"] = f"{experts} {rows}"
    quantization = {
        "quantization_config": {
            "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"],
            "quant_method": "mxfp4",
        }
    }
    return MixedFamily(
        "gpt_oss",
        tie="never",
        config=config(
            "gpt_oss",
            "GptOssForCausalLM",
            attention_bias=True,
            experts_per_token=2,
            head_dim=32,
            initial_context_length=4096,
            intermediate_size=192,
            num_experts_per_tok=2,
            num_local_experts=EXPERTS,
            rope_scaling=None,
            sliding_window=16,
            swiglu_limit=7.0,
            tie_word_embeddings=False,
            **(quantization if packed else {}),
        ),
        letters={"Z": 128 // 32, "Y": 192 // 32, "B": 16},
        layer_types=("sliding_attention", "full_attention"),
        layer=TWO_NORMS
        + ATTENTION
        + QKV_BIASES
        + """
            self_attn.o_proj.bias H
            self_attn.sinks N
            mlp.router.weight E H
            mlp.router.bias E
        """
        + "".join(f"mlp.experts.{name} {axes}\n" for name, axes in parts.items()),
        stored={"*_blocks": "U8", "*_scales": "U8"},
        refused={"inv_freq": KEEPS_INV_FREQ},
    )


# the dimensions of latent attention: U of a query's latent, L of the keys' and values', R of a head's rotary part
LATENT_SIZES = {"U": 192, "L": 128, "R": 32, "F": 2 * (128 + 32), "J": 2 * (128 + 64), "O": 2 * 64}
LATENT_KEYS = {
    "kv_lora_rank": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "q_lora_rank": 192,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
}
LATENT_QUERY = """
    self_attn.q_a_proj.weight U H
    self_attn.q_a_layernorm.weight U
    self_attn.q_b_proj.weight F U
"""
LATENT_ATTENTION = """
    self_attn.kv_a_proj_with_mqa.weight L+R H
    self_attn.kv_a_layernorm.weight L
    self_attn.kv_b_proj.weight J L
    self_attn.o_proj.weight H O
"""
ROUTED = "mlp.gate.weight E H" + experts("mlp.experts") + shared("mlp.shared_experts")
ROUTED_KEYS = {
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 192,
    "moe_layer_freq": 1,
    "n_group": 1,
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_experts_per_tok": 2,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "topk_group": 1,
    "topk_method": "noaux_tc",
}
# layers whose weights the FP8 checkpoints keep in bfloat16
NOT_FP8 = ("gate.weight", "norm.weight", "embed_tokens.weight", "lm_head.weight", "eh_proj.weight")


def with_scales(table):
    """The table of an FP8 checkpoint: beside each matrix the scales of its blocks of 128 rows and columns."""
    lines = []
    for line in filter(None, map(str.strip, table.splitlines())):
        name, *axes = line.split()
        lines.append(line)
        if name.endswith(".weight") and len(axes) == 2 and not name.endswith(NOT_FP8):
            lines.append(f"{name}_scale_inv {' '.join(f'@{axis}' for axis in axes)}")
    return "".join(f"{line}\n" for line in lines)


def deepseek_v3(model_type, lora=True, fp8=False, architecture="DeepseekV3ForCausalLM"):
    """DeepSeek V3, as published (FP8) or made bfloat16."""
    attention = LATENT_QUERY if lora else "self_attn.q_proj.weight F H"
    tables = [TWO_NORMS + attention + LATENT_ATTENTION, MLP, CORRECTION_BIAS + ROUTED]
    # the layer that predicts further tokens is known by its number alone
    dropped = """
        model.layers.61.embed_tokens.weight V H
        model.layers.61.enorm.weight H
        model.layers.61.eh_proj.weight H 2H
        model.layers.61.self_attn.o_proj.weight H O
    """
    stored = {"*.e_score_correction_bias": "F32"}
    keys = LATENT_KEYS | ROUTED_KEYS | ({} if lora else {"q_lora_rank": None})
    if fp8:
        tables = [with_scales(table) for table in tables]
        dropped = with_scales(dropped)
        stored |= {"*.weight_scale_inv": "F32"} | {f"*{name}": "BF16" for name in NOT_FP8} | {"*layernorm.weight": "BF16"}
        stored |= {"*_proj.weight": "F8_E4M3", "*_mqa.weight": "F8_E4M3"}
        keys["quantization_config"] = {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [128, 128],
        }
    layer, dense, routed = tables
    return MixedFamily(
        model_type,
        tie="never",
        config=config(
            model_type,
            architecture,
            attention_bias=False,
            aux_loss_alpha=0.001,
            ep_size=1,
            num_nextn_predict_layers=1,
            rope_scaling=None,
            tie_word_embeddings=False,
            **keys,
        ),
        letters=LATENT_SIZES | {"S": 192},
        layer=layer,
        first=(dense,),
        mixed=(routed,),
        stored=stored,
        never_cast=("*.e_score_correction_bias",),
        dropped=dropped,
    )


TRANSFORMED |= {
    "gpt_oss": gpt_oss(packed=True),
    "gpt_oss dense": gpt_oss(packed=False),
    "deepseek_v3": deepseek_v3("deepseek_v3"),
    "deepseek_v3 without a latent query": deepseek_v3("deepseek_v3", lora=False),
    "deepseek_v3 in FP8": deepseek_v3("deepseek_v3", fp8=True),
    "kimi_k2 in FP8": deepseek_v3("kimi_k2", fp8=True),
}

# heads of a state-space model: A heads of width 32 in one group, T states; W is all their widths
MAMBA2_SIZES = {"A": 4, "W": 4 * 32, "T": 16, "C": 4}
MAMBA2 = """
    {0}.A_log A
    {0}.D A
    {0}.dt_bias A
    {0}.conv1d.weight W+2T 1 C
    {0}.conv1d.bias W+2T
    {0}.in_proj.weight 2W+2T+A H
    {0}.norm.weight W
    {0}.out_proj.weight H W
"""
SHORT_CONV = """
    conv.conv.weight H 1 C
    conv.in_proj.weight 3H H
    conv.out_proj.weight H H
"""
LFM2_ATTENTION = """
    self_attn.q_proj.weight Q H
    self_attn.k_proj.weight K H
    self_attn.v_proj.weight K H
    self_attn.out_proj.weight H Q
    self_attn.q_layernorm.weight D
    self_attn.k_layernorm.weight D
"""

KIMI_DELTA = """
    self_attn.A_log 1 1 B 1
    self_attn.dt_bias X
    self_attn.q_proj.weight X H
    self_attn.k_proj.weight X H
    self_attn.v_proj.weight X H
    self_attn.q_conv1d.weight X 1 C
    self_attn.k_conv1d.weight X 1 C
    self_attn.v_conv1d.weight X 1 C
    self_attn.f_a_proj.weight W H
    self_attn.f_b_proj.weight X W
    self_attn.b_proj.weight B H
    self_attn.g_a_proj.weight W H
    self_attn.g_b_proj.weight X W
    self_attn.o_norm.weight W
    self_attn.o_proj.weight H X
"""
KIMI_ROUTED = (
    """
    block_sparse_moe.gate.weight E H
    block_sparse_moe.gate.e_score_correction_bias E
"""
    + experts("block_sparse_moe.experts", "w1", "w3", "w2")
    + shared("block_sparse_moe.shared_experts")
)


class KimiLinear(MixedFamily):
    """Its config has the numbers of the layers of each kind, counted from 1."""

    def config_of(self, layers):
        config = super().config_of(layers)
        numbers = {"full_attn_layers": list(range(2, layers + 1, 2)), "kda_layers": list(range(1, layers + 1, 2))}
        return config | {"linear_attn_config": config["linear_attn_config"] | numbers}


def deepseek_v2(lora):
    """DeepSeek V2, and V2 Lite, whose queries have no latent."""
    keys = LATENT_KEYS | ROUTED_KEYS | {"scoring_func": "softmax", "topk_method": "greedy", "topk_group": 1}
    return MixedFamily(
        "deepseek_v2",
        tie="never",
        # without rope_scaling mlx-lm cannot build the model
        config=config(
            "deepseek_v2",
            "DeepseekV2ForCausalLM",
            attention_bias=False,
            tie_word_embeddings=False,
            rope_scaling={
                "beta_fast": 32,
                "beta_slow": 1,
                "factor": 40,
                "mscale": 0.707,
                "mscale_all_dim": 0.707,
                "original_max_position_embeddings": 4096,
                "type": "yarn",
            },
            **(keys if lora else keys | {"q_lora_rank": None}),
        ),
        letters=LATENT_SIZES | {"S": 192},
        layer=TWO_NORMS + (LATENT_QUERY if lora else "self_attn.q_proj.weight F H") + LATENT_ATTENTION,
        first=(MLP,),
        mixed=(ROUTED,),
        refused={"inv_freq": KEEPS_INV_FREQ},
    )


def minimax(model_type, fp8):
    """MiniMax M2, as published (FP8) or made bfloat16."""
    layer = (
        TWO_NORMS
        + ATTENTION
        + """
            self_attn.q_norm.weight Q
            self_attn.k_norm.weight K
            block_sparse_moe.e_score_correction_bias E
            block_sparse_moe.gate.weight E H
        """
        + experts("block_sparse_moe.experts", "w1", "w3", "w2")
    )
    stored = {"*.e_score_correction_bias": "F32"}
    keys = {}
    if fp8:
        layer = with_scales(layer)
        stored |= {"*.weight_scale_inv": "F32", "*_proj.weight": "F8_E4M3", "*.w[123].weight": "F8_E4M3"}
        keys["quantization_config"] = {
            "activation_scheme": "dynamic",
            "fmt": "float8_e4m3fn",
            "modules_to_not_convert": ["gate", "e_score_correction_bias", "lm_head"],
            "quant_method": "fp8",
            "weight_block_size": [128, 128],
        }
    return MixedFamily(
        model_type,
        tie="config",
        tie_default=False,
        config=config(
            model_type,
            "MiniMaxM2ForCausalLM",
            head_dim=64,
            intermediate_size=192,
            num_experts_per_tok=2,
            num_key_value_heads=1,
            num_local_experts=EXPERTS,
            rotary_dim=32,
            scoring_func="sigmoid",
            shared_intermediate_size=0,
            use_qk_norm=True,
            **keys,
        ),
        layer=layer,
        mlp="block_sparse_moe",
        stored=stored,
        never_cast=("*.e_score_correction_bias",),
        refused={"tied lm_head": KEEPS_LM_HEAD, "inv_freq": KEEPS_INV_FREQ},
    )


def granitemoehybrid(moe):
    """Granite 4, with and without experts."""
    dense = """
        shared_mlp.input_linear.weight 2I H
        shared_mlp.output_linear.weight H I
    """
    routed = """
        block_sparse_moe.input_linear.weight E 2I H
        block_sparse_moe.output_linear.weight E H I
        block_sparse_moe.router.layer.weight E H
        shared_mlp.input_linear.weight 2S H
        shared_mlp.output_linear.weight H S
    """
    return MixedFamily(
        "granitemoehybrid",
        tie="config",
        tie_default=True,
        config=config(
            "granitemoehybrid",
            "GraniteMoeHybridForCausalLM",
            attention_bias=False,
            attention_multiplier=0.125,
            embedding_multiplier=12.0,
            intermediate_size=192 if moe else 320,
            logits_scaling=8.0,
            mamba_chunk_size=256,
            mamba_conv_bias=True,
            mamba_d_conv=4,
            mamba_d_head=32,
            mamba_d_state=16,
            mamba_expand=1,
            mamba_n_groups=1,
            mamba_n_heads=4,
            mamba_proj_bias=False,
            num_experts_per_tok=2 if moe else 0,
            num_local_experts=EXPERTS if moe else 0,
            position_embedding_type="nope",
            residual_multiplier=0.22,
            rope_scaling=None,
            shared_intermediate_size=256 if moe else 320,
        ),
        letters=MAMBA2_SIZES | {"S": 256},
        layer_types=("mamba", "attention"),
        layer=TWO_NORMS + (routed if moe else dense),
        mixed=(MAMBA2.format("mamba"), ATTENTION),
        mlp="block_sparse_moe" if moe else "mlp",
        refused={"inv_freq": KEEPS_INV_FREQ},
    )


def mimo_v2_flash(fp8):
    """MiMo V2 Flash, as published (FP8) or made bfloat16. Of its heads the values are narrower: O in all, Z of the keys' number."""
    attention = """
        self_attn.q_proj.weight Q H
        self_attn.k_proj.weight K H
        self_attn.v_proj.weight Z H
        self_attn.o_proj.weight H O
    """
    tables = [TWO_NORMS + attention, MLP, CORRECTION_BIAS + "mlp.gate.weight E H" + experts("mlp.experts")]
    stored = {"*.e_score_correction_bias": "F32"}
    keys = {}
    if fp8:
        tables = [with_scales(table) for table in tables]
        # the projection of the output stays as it is
        tables[0] = "".join(line + "\n" for line in tables[0].splitlines() if "o_proj.weight_scale_inv" not in line)
        stored |= {"*.weight_scale_inv": "F32", "*.o_proj.weight": "BF16", "*_proj.weight": "F8_E4M3"}
        keys["quantization_config"] = {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "ignored_layers": ["model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj"],
            "quant_method": "fp8",
            "weight_block_size": [128, 128],
        }
    layer, dense, routed = tables
    return MixedFamily(
        "mimo_v2_flash",
        tie="never",
        config=config(
            "mimo_v2_flash",
            "MiMoV2FlashForCausalLM",
            add_full_attention_sink_bias=False,
            add_swa_attention_sink_bias=True,
            attention_bias=False,
            attention_value_scale=0.707,
            head_dim=96,
            layernorm_epsilon=1e-05,
            moe_intermediate_size=192,
            n_group=1,
            n_routed_experts=EXPERTS,
            n_shared_experts=None,
            norm_topk_prob=True,
            num_attention_heads=2,
            num_experts_per_tok=2,
            num_key_value_heads=1,
            partial_rotary_factor=0.334,
            rope_theta=5000000,
            routed_scaling_factor=None,
            scoring_func="sigmoid",
            sliding_window_size=16,
            swa_head_dim=96,
            swa_num_attention_heads=2,
            swa_num_key_value_heads=1,
            swa_rope_theta=10000,
            swa_v_head_dim=64,
            topk_group=1,
            topk_method="noaux_tc",
            v_head_dim=64,
            tie_word_embeddings=False,
            **keys,
        ),
        letters={"O": 2 * 64, "Z": 64},
        per_layer={"hybrid_layer_pattern": (0, 1), "moe_layer_freq": (0, 1)},
        layer=layer,
        mixed=(dense, routed + "self_attn.attention_sink_bias N\n"),
        stored=stored,
        never_cast=("*.e_score_correction_bias",),
        dropped="model.mtp.layers.0.enorm.weight H\nmodel.mtp.layers.0.mlp.gate_proj.weight I H",
        refused={"inv_freq": KEEPS_INV_FREQ},
    )


GEMMA4_NORMS = """
    layer_scalar 1
    input_layernorm.weight H
    post_attention_layernorm.weight H
    pre_feedforward_layernorm.weight H
    post_feedforward_layernorm.weight H
    self_attn.q_norm.weight {0}
"""
GEMMA4_ROPE = {
    "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"},
    "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
}


def gemma4_attention(queries, keys, head, values=True):
    """Attention with heads of its own width."""
    table = f"""
        self_attn.q_proj.weight {queries} H
        self_attn.k_proj.weight {keys} H
        self_attn.o_proj.weight H {queries}
        self_attn.k_norm.weight {head}
    """
    return GEMMA4_NORMS.format(head) + table + (f"self_attn.v_proj.weight {keys} H" if values else "")


def gemma4(model_type, moe):
    """Gemma 4, with experts; or the small ones, whose last layers take the keys and values of others.

    Heads of width D, or U in layers of full attention; R is all of these.
    """
    nested = model_type == "gemma4"
    prefix = "model.language_model" if nested else "model"
    routed = """
        experts.gate_up_proj E 2G H
        experts.down_proj E H G
        router.proj.weight E H
        router.scale H
        router.per_expert_scale E
        post_feedforward_layernorm_1.weight H
        post_feedforward_layernorm_2.weight H
        pre_feedforward_layernorm_2.weight H
    """
    wide = """
        mlp.gate_proj.weight 2I H
        mlp.up_proj.weight 2I H
        mlp.down_proj.weight H 2I
    """
    inputs = """
        per_layer_input_gate.weight P H
        per_layer_projection.weight H P
        post_per_layer_input_norm.weight H
    """
    top = f"{prefix}.embed_tokens.weight V H\n{prefix}.norm.weight H"
    keys = {
        "attention_k_eq_v": moe,
        "enable_moe_block": moe,
        "final_logit_softcapping": 30.0,
        "global_head_dim": 64,
        "head_dim": 32,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size_per_layer_input": 0 if moe else 64,
        "num_global_key_value_heads": 1 if moe else None,
        "rope_parameters": GEMMA4_ROPE,
        "sliding_window": 16,
        "use_double_wide_mlp": not moe,
        "vocab_size_per_layer_input": 259,
    }
    if moe:
        keys |= {"moe_intermediate_size": 192, "num_experts": EXPERTS, "num_kv_shared_layers": 0, "top_k_experts": 2}
        layers = {
            "mixed": (
                gemma4_attention("Q", "K", "D") + MLP + routed,
                gemma4_attention("R", "U", "U", values=False) + MLP + routed,
            )
        }
    else:
        sliding, full = gemma4_attention("Q", "K", "D"), gemma4_attention("R", "2U", "U")
        layers = {
            "first": (sliding + MLP + inputs, full + MLP + inputs),
            "mixed": (sliding + wide + inputs, full + wide + inputs),
            "counted": {"num_kv_shared_layers": -2},
            "least_layers": 4,
        }
        top += f"""
            {prefix}.embed_tokens_per_layer.weight V #
            {prefix}.per_layer_model_projection.weight # H
            {prefix}.per_layer_projection_norm.weight P
        """
    return MixedFamily(
        model_type,
        tie="always",
        nested=nested,
        outer={
            "architectures": ["Gemma4ForConditionalGeneration"],
            "audio_config": None,
            "model_type": "gemma4",
            "vision_config": {"hidden_size": 64, "model_type": "gemma4_vision"},
            # without this key mlx-lm takes 262144 for the vocabulary
            "vocab_size": 259,
        }
        if nested
        else {},
        config=config("gemma4_text", "Gemma4ForConditionalGeneration" if nested else "Gemma4ForCausalLM", **keys),
        letters={"U": 64, "R": 4 * 64, "P": 64, "3": 3},
        layer_types=("sliding_attention", "full_attention"),
        block=f"{prefix}.layers",
        layer="",
        top=top,
        dropped="""
            model.embed_vision.embedding_projection.weight H H
            model.vision_tower.patch_embedder.input_proj.weight H H
            model.vision_tower.encoder.layers.0.self_attn.q_proj.linear.weight H H
        """
        if nested
        else "",
        refused={"tied lm_head": KEEPS_LM_HEAD},
        **layers,
    )


FURTHER_MOE = {
    "deepseek": MixedFamily(
        "deepseek",
        tie="never",
        config=config(
            "deepseek",
            "DeepseekForCausalLM",
            attention_bias=False,
            first_k_dense_replace=1,
            moe_intermediate_size=192,
            moe_layer_freq=1,
            n_routed_experts=EXPERTS,
            n_shared_experts=2,
            norm_topk_prob=False,
            num_experts_per_tok=2,
            num_key_value_heads=4,
            rope_scaling=None,
            tie_word_embeddings=False,
        ),
        letters={"S": 2 * 192},
        layer=TWO_NORMS + ATTENTION,
        first=(MLP,),
        mixed=(ROUTED,),
        refused={"inv_freq": KEEPS_INV_FREQ},
    ),
    "deepseek_v2": deepseek_v2(lora=True),
    "deepseek_v2 without a latent query": deepseek_v2(lora=False),
    "exaone_moe": MixedFamily(
        "exaone_moe",
        tie="config",
        tie_default=False,
        config=config(
            "exaone_moe",
            "ExaoneMoEForCausalLM",
            first_k_dense_replace=1,
            head_dim=32,
            moe_intermediate_size=192,
            n_group=1,
            norm_topk_prob=True,
            num_experts=EXPERTS,
            num_experts_per_tok=2,
            num_shared_experts=1,
            rope_scaling=None,
            routed_scaling_factor=2.5,
            scoring_func="sigmoid",
            sliding_window=16,
            topk_group=1,
        ),
        letters={"S": 192},
        layer_types=("sliding_attention", "full_attention"),
        per_layer={"is_moe_layer": (False, True)},
        layer=TWO_NORMS + ATTENTION + HEAD_NORMS,
        mixed=(MLP, "mlp.e_score_correction_bias E\n" + ROUTED),
        stored={"*.e_score_correction_bias": "F32"},
        never_cast=("*.e_score_correction_bias",),
        dropped="mtp.fc.weight H 2H\nmtp.layers.0.input_layernorm.weight H",
        refused={"inv_freq": KEEPS_INV_FREQ},
    ),
    "ernie4_5_moe": MixedFamily(
        "ernie4_5_moe",
        tie="config",
        config=config(
            "ernie4_5_moe",
            "Ernie4_5_MoeForCausalLM",
            head_dim=32,
            moe_capacity=[64, 64, 64],
            moe_gate="topk",
            moe_intermediate_size=192,
            moe_k=2,
            moe_layer_interval=1,
            moe_layer_start_index=1,
            moe_num_experts=EXPERTS,
            moe_num_shared_experts=2,
            moe_use_aux_free=True,
            use_bias=False,
        ),
        letters={"S": 2 * 192},
        layer=TWO_NORMS + ATTENTION,
        first=(MLP,),
        mixed=("mlp.moe_statics.e_score_correction_bias 1 E\n" + ROUTED,),
        stored={"*.e_score_correction_bias": "F32"},
        dropped="model.mtp_block.0.input_layernorm.weight H\nmodel.mtp_linear_proj.0.weight H 2H\nmodel.mtp_hidden_norm.0.weight H",
        refused={"tied lm_head": KEEPS_LM_HEAD, "inv_freq": KEEPS_INV_FREQ},
    ),
    "minimax_m2": minimax("minimax_m2", fp8=False),
    "minimax_m2 in FP8": minimax("minimax_m2", fp8=True),
    "minimax": minimax("minimax", fp8=False),
    "mamba2": MixedFamily(
        "mamba2",
        tie="config",
        config=config(
            "mamba2",
            "Mamba2ForCausalLM",
            conv_kernel=4,
            expand=1,
            head_dim=32,
            layer_norm_epsilon=1e-05,
            n_groups=1,
            num_heads=4,
            state_size=16,
            time_step_limit=[0.0, float("inf")],
            time_step_rank=8,
            use_bias=False,
            use_conv_bias=True,
        ),
        letters=MAMBA2_SIZES,
        block="backbone.layers",
        layer="norm.weight H" + MAMBA2.format("mixer"),
        top="backbone.embeddings.weight V H\nbackbone.norm_f.weight H",
        mlp="mixer",
        inv_freq="mixer.rotary_emb.inv_freq",
        refused={"tied lm_head": KEEPS_LM_HEAD, "inv_freq": KEEPS_INV_FREQ, "recipe": "no layer is called down_proj"},
    ),
    "falcon_mamba": MixedFamily(
        "falcon_mamba",
        tie="config",
        tie_default=True,
        config=config(
            "falcon_mamba",
            "FalconMambaForCausalLM",
            conv_kernel=4,
            expand=2,
            mixer_rms_eps=1e-06,
            state_size=16,
            time_step_rank=8,
            use_bias=False,
            use_conv_bias=True,
        ),
        letters={"T": 16, "R": 8, "C": 4},
        block="backbone.layers",
        layer="norm.weight H" + MAMBA.format("mixer"),
        top="backbone.embeddings.weight V H\nbackbone.norm_f.weight H",
        mlp="mixer",
        inv_freq="mixer.rotary_emb.inv_freq",
        refused={"tied lm_head": KEEPS_LM_HEAD, "inv_freq": KEEPS_INV_FREQ, "recipe": "no layer is called down_proj"},
    ),
    "lfm2_moe": MixedFamily(
        "lfm2_moe",
        tie="always",
        config=config(
            "lfm2_moe",
            "Lfm2MoeForCausalLM",
            conv_L_cache=3,
            conv_bias=False,
            moe_intermediate_size=192,
            norm_eps=1e-05,
            norm_topk_prob=True,
            num_dense_layers=1,
            num_experts=EXPERTS,
            num_experts_per_tok=2,
            routed_scaling_factor=1.0,
            use_expert_bias=True,
        ),
        letters={"C": 3},
        layer_types=("conv", "full_attention"),
        layer="operator_norm.weight H\nffn_norm.weight H\n",
        first=(
            SHORT_CONV
            + """
            feed_forward.w1.weight I H
            feed_forward.w2.weight H I
            feed_forward.w3.weight I H
            """,
        ),
        mixed=tuple(
            table
            + "feed_forward.expert_bias E\nfeed_forward.gate.weight E H"
            + experts("feed_forward.experts", "w1", "w3", "w2")
            for table in (LFM2_ATTENTION, SHORT_CONV)
        ),
        top="model.embed_tokens.weight V H\nmodel.embedding_norm.weight H",
        mlp="feed_forward",
        stored={"*.expert_bias": "F32"},
        never_cast=("*.expert_bias",),
        refused={"tied lm_head": KEEPS_LM_HEAD, "inv_freq": KEEPS_INV_FREQ},
    ),
    "granitemoehybrid": granitemoehybrid(moe=True),
    "granitemoehybrid without experts": granitemoehybrid(moe=False),
    "glm4_moe_lite": MixedFamily(
        "glm4_moe_lite",
        tie="never",
        config=config(
            "glm4_moe_lite",
            "Glm4MoeLiteForCausalLM",
            attention_bias=False,
            num_nextn_predict_layers=1,
            partial_rotary_factor=1.0,
            rope_scaling=None,
            tie_word_embeddings=False,
            **LATENT_KEYS | ROUTED_KEYS,
        ),
        letters=LATENT_SIZES | {"S": 192},
        layer=TWO_NORMS + LATENT_QUERY + LATENT_ATTENTION,
        first=(MLP,),
        mixed=(CORRECTION_BIAS + ROUTED,),
        stored={"*.e_score_correction_bias": "F32"},
        never_cast=("*.e_score_correction_bias",),
        # layers beyond the last one
        dropped="model.layers.47.enorm.weight H\nmodel.layers.47.eh_proj.weight H 2H\nmodel.layers.48.self_attn.o_proj.weight H O",
        refused={"inv_freq": KEEPS_INV_FREQ},
    ),
    "nemotron_h": MixedFamily(
        "nemotron_h",
        tie="never",
        least_layers=4,
        config=config(
            "nemotron_h",
            "NemotronHForCausalLM",
            attention_bias=False,
            chunk_size=128,
            conv_kernel=4,
            head_dim=32,
            layer_norm_epsilon=1e-05,
            mamba_head_dim=32,
            mamba_num_heads=4,
            mamba_proj_bias=False,
            mlp_bias=False,
            moe_intermediate_size=192,
            moe_shared_expert_intermediate_size=320,
            n_group=1,
            n_groups=1,
            n_routed_experts=EXPERTS,
            n_shared_experts=1,
            norm_topk_prob=True,
            num_experts_per_tok=2,
            routed_scaling_factor=2.5,
            ssm_state_size=16,
            tie_word_embeddings=False,
            time_step_limit=[0.0, float("inf")],
            topk_group=1,
            use_bias=False,
            use_conv_bias=True,
        ),
        letters=MAMBA2_SIZES | {"S": 320},
        per_layer={"hybrid_override_pattern": ("M", "E", "*", "-")},
        block="backbone.layers",
        layer="norm.weight H\n",
        mixed=(
            MAMBA2.format("mixer"),
            """
            mixer.gate.weight E H
            mixer.gate.e_score_correction_bias E
            mixer.experts.*.up_proj.weight G H
            mixer.experts.*.down_proj.weight H G
            mixer.shared_experts.up_proj.weight S H
            mixer.shared_experts.down_proj.weight H S
            """,
            """
            mixer.q_proj.weight Q H
            mixer.k_proj.weight K H
            mixer.v_proj.weight K H
            mixer.o_proj.weight H Q
            """,
            """
            mixer.up_proj.weight I H
            mixer.down_proj.weight H I
            """,
        ),
        top="backbone.embeddings.weight V H\nbackbone.norm_f.weight H",
        mlp="mixer",
        inv_freq="mixer.rotary_emb.inv_freq",
        stored={"*.e_score_correction_bias": "F32", "*.A_log": "F32", "*.D": "F32"},
        never_cast=("*.e_score_correction_bias", "*.A_log"),
        dropped="mtp.layers.0.norm.weight H\nmtp.layers.0.mixer.up_proj.weight I H",
        refused={"inv_freq": KEEPS_INV_FREQ},
    ),
    "mimo_v2_flash": mimo_v2_flash(fp8=False),
    "mimo_v2_flash in FP8": mimo_v2_flash(fp8=True),
    "gemma4": gemma4("gemma4", moe=True),
    "gemma4 of shared keys": gemma4("gemma4", moe=False),
    "gemma4_text": gemma4("gemma4_text", moe=True),
    "kimi_linear": KimiLinear(
        "kimi_linear",
        tie="config",
        tie_default=False,
        config=config(
            "kimi_linear",
            "KimiLinearForCausalLM",
            first_k_dense_replace=1,
            head_dim=32,
            kv_lora_rank=128,
            linear_attn_config={"head_dim": 64, "num_heads": 2, "short_conv_kernel_size": 4},
            mla_use_nope=True,
            model_max_length=512,
            moe_intermediate_size=192,
            moe_layer_freq=1,
            moe_renormalize=True,
            moe_router_activation_func="sigmoid",
            num_attention_heads=2,
            num_expert_group=1,
            num_experts=EXPERTS,
            num_experts_per_token=2,
            num_key_value_heads=2,
            num_shared_experts=1,
            q_lora_rank=None,
            qk_nope_head_dim=128,
            qk_rope_head_dim=32,
            rope_scaling=None,
            routed_scaling_factor=2.446,
            topk_group=1,
            use_grouped_topk=True,
            v_head_dim=64,
        ),
        # B heads of width W in layers of linear attention, X in all
        letters=LATENT_SIZES | {"S": 192, "B": 2, "W": 64, "X": 2 * 64, "C": 4},
        layer=TWO_NORMS,
        first=(KIMI_DELTA + MLP,),
        mixed=("self_attn.q_proj.weight F H" + LATENT_ATTENTION + KIMI_ROUTED, KIMI_DELTA + KIMI_ROUTED),
        stored={"*.A_log": "F32", "*.dt_bias": "F32", "*.e_score_correction_bias": "F32"},
        never_cast=("*.A_log", "*.dt_bias", "*.e_score_correction_bias"),
        refused={"inv_freq": KEEPS_INV_FREQ},
    ),
}
ALL = STACKED | TRANSFORMED | FURTHER_MOE
