"""`mlxq import`: AutoAWQ and GPTQ folders, packed by foreign.py, must become the MLX folders that foreign.py says.

A folder is a tiny model whose linear layers are packed; embeddings, norms and lm_head stay dense. Compared bit for bit
are every tensor, the parsed config.json and, for a part of the cases, the logits of the result with those of a folder
written from the expected tensors. What the result means is compared with the source's (q - z) * s, in float32 and
exactly, wherever the biases lose nothing. For AutoAWQ's GEMM format mlx_lm's own transform is a second witness.

Decisions of mlxq that this test holds it to, where the formats leave a choice:

- Without --dtype nothing that passes through is cast. With it floating tensors are cast first, biases computed after.
- GPTQ's zero points follow checkpoint_format, except where `sym` is true and all stored values are those of one version.
- --requantize touches only the layers that have no exact form, --exact only those whose biases lose bits. A stack of
  experts has one scheme, so one such expert widens all of them.
- --exact refuses an 8-bit layer that loses bits: there is no ninth bit.
"""

import json
import re
from collections import Counter

import mlx.core as mx
import mlx_lm.utils
import numpy as np
from common import DTYPES, OPTION, LiveTest, Mismatch, Tensor, compare_tensor, compare_tensors, tensor, write_safetensors
from expected import quantize
from families import ATTENTION, FAMILIES, HEAD_NORMS, MLP, QKV_BIASES, TWO_NORMS, Family, config
from foreign import Layer, awq_gemm, awq_gemv, awq_gemv_fast, floats, gptq, rounded, words
from test_folders import PROMPT, compare_json, logits, read_folder, write_tokenizer

LAYERS = 2
PACKED = re.compile(r"(self_attn|mlp|experts\.\d+)\.(\w+_proj|w[123])$")
LAST = f"model.layers.{LAYERS - 1}"
DOWN = f"{LAST}.mlp.down_proj"  # the layer that a refusal is about

# How a checkpoint is grouped: (group_size, hidden size, intermediate size). A group of -1 is a whole row.
GROUPINGS = {
    "32": (32, 128, 256),
    "64": (64, 128, 256),
    "128": (128, 128, 256),
    "256": (256, 256, 512),
    "-1": (-1, 256, 384),
    "-1 of 192": (-1, 128, 192),
    "-1 of 160": (-1, 128, 160),
}
AWQ = {"gemm": awq_gemm, "gemv": awq_gemv, "gemv_fast": awq_gemv_fast}

# GPTQ: how zero points are stored (3 bits apart, where GPTQModel changed its mind), config.json's keys, the smallest
# zero point that can be told, or none where every zero point is 2^(bits - 1). Newer GPTQModels stand in a list.
OLD = {"checkpoint_format": "gptq", "meta": {"quantizer": "gptqmodel:5.8.0"}}
NEW = {"format": "gptq", "meta": {"quantizer": ["gptqmodel:7.3.4", "someone:1.0"]}}
GPTQ = {
    "v1": ("v1", "v1", {"sym": False}, 1),
    "v2": ("v2", "v2", {"sym": False, "checkpoint_format": "gptq_v2"}, 0),
    "GPTQModel 5": ("v1 borrow", "v1 borrow", {"sym": False} | OLD, 0),
    "GPTQModel 7": ("v1 borrow", "v1", {"sym": False} | NEW, 0),
    "sym v1": ("v1", "v1", {"sym": True, "checkpoint_format": "gptq"}, None),
    "sym v2": ("v2", "v2", {"sym": True, "checkpoint_format": "gptq_v2"}, None),
    "sym GPTQModel 5": ("v1 borrow", "v1 borrow", {"sym": True} | OLD, None),
}


def llama(hidden, intermediate, **keys):
    family = FAMILIES["llama"]
    sizes = {"hidden_size": hidden, "intermediate_size": intermediate, "head_dim": hidden // 4}
    biases = QKV_BIASES + "self_attn.o_proj.bias H\n" if keys.get("attention_bias") else ""
    return Family("llama", tie="config", config=family.config | sizes | keys, layer=TWO_NORMS + ATTENTION + biases + MLP)


EXPERTS = 3
MIXTRAL_EXPERT = """
    block_sparse_moe.experts.{}.w1.weight I H
    block_sparse_moe.experts.{}.w2.weight H I
    block_sparse_moe.experts.{}.w3.weight I H
"""
QWEN3_EXPERT = MLP.replace("mlp.", "mlp.experts.{}.")


def mixture(model_type, architecture, layer, expert, **keys):
    """A family whose experts are stored one by one."""
    sizes = {"num_experts_per_tok": 2, "intermediate_size": 128, "head_dim": 32}
    experts = "".join(expert.replace("{}", str(e)) for e in range(EXPERTS))
    keys = config(model_type, architecture, **sizes, **keys)
    return Family(model_type, tie="config", config=keys, letters={"E": EXPERTS}, layer=TWO_NORMS + ATTENTION + layer + experts)


# (the family, what an expert's layers are called in the stack where that is another name)
MIXTURES = [
    (
        mixture("mixtral", "MixtralForCausalLM", "block_sparse_moe.gate.weight E H", MIXTRAL_EXPERT, num_local_experts=EXPERTS),
        {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"},
    ),
    (
        mixture(
            "qwen3_moe",
            "Qwen3MoeForCausalLM",
            HEAD_NORMS + "mlp.gate.weight E H",
            QWEN3_EXPERT,
            num_experts=EXPERTS,
            moe_intermediate_size=128,
            decoder_sparse_step=1,
            mlp_only_layers=[],
            norm_topk_prob=True,
        ),
        {},
    ),
]


class Source:
    """A checkpoint to be: dense tensors, layers, how they are packed, and what the config says."""

    def __init__(self, rng, family, dtype, bits, group, least_zero, dense=(), also=()):
        """Packs the linear layers, and those of `also`, but for those with one of the names in `dense`."""
        self.rng, self.bits, self.group, self.least_zero = rng, bits, group, least_zero
        self.config = family.config_of(LAYERS) | {"torch_dtype": "float16", "tie_word_embeddings": False}
        self.tensors, self.layers, self.packers = {}, {}, {}
        for name, shape in family.shapes(LAYERS, lm_head=True, inv_freq=False).items():
            path = name.removesuffix(".weight")
            if (PACKED.search(path) or path in also) and not any(part in path for part in dense):
                self.layers[path] = self.layer(shape, dtype)
            else:
                self.tensors[name] = floats(rng.normal(size=shape) * 0.08 + ("norm" in name), "F16")
        self.quantization, self.beside = {}, {}

    def layer(self, shape, dtype, bits=None, group=None, least_zero=None):
        """A random layer."""
        bits, group = bits or self.bits, group or self.group
        least_zero = self.least_zero if least_zero is None else least_zero
        rows, columns = shape
        q = self.rng.integers(0, 2**bits, shape)
        per_group = (rows, columns // (columns if group == -1 else group))
        if least_zero is None:
            z = np.full(per_group, 2 ** (bits - 1))
        else:
            z = self.rng.integers(least_zero, 2**bits, per_group)
        s = rounded(self.rng.uniform(0.1, 0.6, per_group) / 2**bits, dtype)
        return Layer(q, z, s, dtype, bits)

    def pack(self, packer):
        """The tensors of the folder; `packers` overrides `packer` for single layers."""
        tensors = dict(self.tensors)
        for path, layer in self.layers.items():
            tensors |= {f"{path}.{key}": part for key, part in self.packers.get(path, packer)(layer).items()}
        return tensors

    def write(self, folder, tensors, shards=1):
        """`beside` are files that say what config.json does not."""
        folder.mkdir()
        keys = {"quantization_config": self.quantization} if self.quantization else {}
        (folder / "config.json").write_text(json.dumps(self.config | keys))
        for name, content in self.beside.items():
            (folder / name).write_text(json.dumps(content))
        write_tokenizer(folder, "")
        names = list(self.rng.permutation(list(tensors)))
        for i in range(shards):
            file = "model.safetensors" if shards == 1 else f"model-{i + 1:05}-of-{shards:05}.safetensors"
            write_safetensors(folder / file, {name: tensors[name] for name in names[i::shards]}, {"format": "pt"})


class Expected:
    """The folder that must come out: tensors, the scheme of every packed layer, and what the layers mean."""

    def __init__(self, source, dtype=None, widened=(), stacks=()):
        """`dtype`: of scales and biases, where not each layer's own. `stacks`: {(path, path, ...): path of the stack}."""
        self.tensors, self.schemes, self.meaning = dict(source.tensors), {}, {}
        members = {path: (paths, stack) for paths, stack in dict(stacks).items() for path in paths}
        for path, layer in source.layers.items():
            paths, name = members.get(path, ((path,), path))
            if path != paths[0]:
                continue
            wide = any(each in widened for each in paths)
            triples = [source.layers[each].triple(dtype, wide) for each in paths]
            for key, part in triples[0].items():
                stacked = Tensor(part.dtype, np.stack([triple[key].bits for triple in triples]))
                self.tensors[f"{name}.{key}"] = stacked if path in members else part
            self.schemes[name] = layer.scheme(wide)
            self.meaning[name] = [source.layers[each] for each in paths]

    def quantization(self):
        """A block for config.json: the commonest scheme is the default."""
        ((text, _),) = Counter(json.dumps(scheme) for scheme in self.schemes.values()).most_common(1)
        default = json.loads(text)
        return default | {path: scheme for path, scheme in self.schemes.items() if scheme != default}

    def write(self, folder, source):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(source.config | {"quantization": self.quantization()}))
        write_safetensors(folder / "model.safetensors", self.tensors, {"format": "mlx"})


def schemes_of(config):
    """(the default, {path: a layer's own scheme}) of a result's config.json."""
    block = config["quantization"]
    if block != config.get("quantization_config"):
        raise Mismatch(f"quantization is {block}, quantization_config {config.get('quantization_config')}")
    default = {key: block[key] for key in ("group_size", "bits", "mode")}
    return default, {path: {"mode": "affine"} | entry for path, entry in block.items() if isinstance(entry, dict)}


def check_config(result, source, expected):
    config = json.loads((result / "config.json").read_text())
    default, own = schemes_of(config)
    for path, scheme in expected.schemes.items():
        if own.get(path, default) != scheme:
            raise Mismatch(f"config.json: {path} is {own.get(path, default)}, expected {scheme}")
    if extra := own.keys() - expected.schemes.keys():
        raise Mismatch(f"config.json: entries without a layer: {sorted(extra)}")
    if own and len({str(scheme) for scheme in expected.schemes.values()}) == 1:
        raise Mismatch(f"config.json: entries although all layers are alike: {own}")
    rest = {key: value for key, value in config.items() if key not in ("quantization", "quantization_config")}
    compare_json("config.json", rest, source.config)


def check_meaning(tensors, expected, all_exact):
    """Dequantized in float32 the layers are (q - z) * s, where nothing was rounded. Returns how many layers were compared."""
    compared = 0
    for path, layers in expected.meaning.items():
        scheme = expected.schemes[path]
        parts = [tensors[f"{path}.{key}"].mlx() for key in ("weight", "scales", "biases")]
        parts[1:] = [part.astype(mx.float32) for part in parts[1:]]
        dense = np.array(mx.dequantize(*parts, **scheme)).reshape(len(layers), *layers[0].q.shape)
        for layer, values in zip(layers, dense):
            formula = layer.formula()
            exact = np.ones_like(values, bool)
            if not all_exact:
                product = layer.q * layer.columns(layer.s).astype(np.float64)
                exact = layer.columns(layer.exact_biases()) & (product == product.astype(np.float32))
                exact &= formula == formula.astype(np.float32)
            if not np.array_equal(values[exact], formula[exact]):
                raise Mismatch(f"{path}: dequantized it is not (q - z) * s, although that can be held exactly")
            compared += exact.any()
    return compared


class ImportTest:
    def __init__(self, live):
        self.live = live
        self.rng = np.random.default_rng(live.seed)
        self.loaded = self.witnessed = self.exact_layers = self.refusals = 0
        self.done = set()

    def check(self, folder, source, tensors, expected, *options, run_too=True, shards=1, all_exact=False):
        """Writes the source, imports it and compares the result."""
        origin, result = folder / "source", folder / "mlxq"
        source.write(origin, tensors, shards)
        self.live.run("import", origin, result, *options)
        actual, _ = read_folder(result)
        self.live.count(compare_tensors(actual, expected.tensors))
        check_config(result, source, expected)
        self.exact_layers += check_meaning(actual, expected, all_exact)
        if run_too:
            expected.write(folder / "expected", source)
            model, _ = mlx_lm.utils.load_model(folder / "expected")
            compare_tensor("logits", logits(result), tensor(model(PROMPT)))
            self.loaded += 1

    def refused(self, folder, source, tensors, statuses, key, *options, hint=""):
        """The import fails with one of the statuses, names the key and leaves nothing behind."""
        origin, result = folder / "source", folder / "mlxq"
        source.write(origin, tensors)
        error = self.live.run_refused("import", origin, result, *options)
        told = " ".join(str(error.get(part) or "") for part in ("layer", "key", "message"))
        if error["status"] not in statuses.split():
            raise Mismatch(f"status is {error['status']}, expected {statuses}: {told}")
        for text in (key, hint):
            if text not in told:
                raise Mismatch(f"the error does not name {text!r}: {error}")
        if left := {path.name for path in folder.iterdir()} - {"source"}:
            raise Mismatch(f"a refused import leaves {sorted(left)} behind")
        self.refusals += 1

    def awq(self, version, grouping, dtype, least_zero=0, family=None, **more):
        group, hidden, intermediate = GROUPINGS[grouping]
        source = Source(self.rng, family or llama(hidden, intermediate), dtype, 4, group, least_zero, **more)
        source.quantization = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": version}
        source.quantization["modules_to_not_convert"] = None
        return source

    def gptq(self, kind, bits, grouping, dtype, family=None, **more):
        """(the source, its packer)."""
        group, hidden, intermediate = GROUPINGS[grouping]
        writer, three_bits, keys, least_zero = GPTQ[kind]
        source = Source(self.rng, family or llama(hidden, intermediate), dtype, bits, group, least_zero, **more)
        common = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": False, "damp_percent": 0.01}
        source.quantization = common | {"static_groups": False, "true_sequential": True} | keys
        return source, lambda layer: gptq(layer, three_bits if layer.bits == 3 else writer)

    # ---- every format, grouping and dtype

    def awq_formats(self):
        for version, packer in AWQ.items():
            for i, grouping in enumerate(GROUPINGS):
                for j, dtype in enumerate(OPTION):
                    if version == "gemv_fast" and grouping == "-1 of 160":
                        continue  # it interleaves 64 columns
                    with self.live.case(f"awq {version}, group {grouping}, {dtype}") as folder:
                        source = self.awq(version.upper() if i % 2 else version, grouping, dtype)
                        tensors = source.pack(packer)
                        self.check(folder, source, tensors, Expected(source), run_too=(i + j) % 3 == 0)
                        self.done |= {(version, dtype), (version, grouping)}
                        if (version, dtype) == ("gemm", "F16") and GROUPINGS[grouping][0] in (32, 64, 128):
                            self.witness(folder, source, tensors)

    def witness(self, folder, source, tensors):
        """mlx_lm's own transform of the same tensors, and its own load of the source."""
        arrays = {name: t.mlx() if t.dtype in DTYPES else mx.array(t.bits.view(np.int32)) for name, t in tensors.items()}
        theirs, _ = mlx_lm.utils._transform_awq_weights(arrays, source.quantization)
        actual, _ = read_folder(folder / "mlxq")
        self.live.count(compare_tensors(actual, {name: tensor(array) for name, array in theirs.items()}))
        compare_tensor("logits of the source", logits(folder / "mlxq"), logits(folder / "source"))
        self.witnessed += 1

    def awq_symmetric(self):
        """Without zero points they are 8; with `zero_point` false the stored ones do not count."""
        for i, grouping in enumerate(GROUPINGS):
            dtype = list(OPTION)[i % 3]
            with self.live.case(f"awq without qzeros, group {grouping}, {dtype}") as folder:
                source = self.awq("gemm", grouping, dtype, None)
                source.quantization["zero_point"] = i % 2 == 0
                tensors = {name: t for name, t in source.pack(awq_gemm).items() if not name.endswith(".qzeros")}
                self.check(folder, source, tensors, Expected(source), run_too=i == 0, all_exact=dtype != "F32")
            with self.live.case(f"awq with zero_point false, group {grouping}, {dtype}") as folder:
                source = self.awq("gemm", grouping, dtype)
                source.quantization["zero_point"] = False
                tensors = source.pack(awq_gemm)
                for layer in source.layers.values():
                    layer.z[:] = 8
                self.check(folder, source, tensors, Expected(source), run_too=i == 0, all_exact=dtype != "F32")

    def gptq_formats(self):
        for k, kind in enumerate(GPTQ):
            for b, bits in enumerate((2, 3, 4, 8)):
                for i, grouping in enumerate(GROUPINGS):
                    if i % 3 == (k + b) % 3:  # two or three groupings of each, all of them for each kind and for each bits
                        continue
                    dtype = list(OPTION)[(i + k + b) // 2 % 3]
                    with self.live.case(f"gptq {kind}, {bits} bits, group {grouping}, {dtype}") as folder:
                        source, packer = self.gptq(kind, bits, grouping, dtype)
                        symmetric = kind.startswith("sym") and dtype != "F32"
                        run_too = (i + k + b) % 4 == 0
                        self.check(folder, source, source.pack(packer), Expected(source), run_too=run_too, all_exact=symmetric)
                        self.done |= {(kind, bits), (kind, dtype), (kind, grouping), (bits, dtype), (bits, grouping)}

    # ---- what the config may say, and how else a folder may look

    def configs(self):
        with self.live.case("awq, quant_config.json of old repositories") as folder:
            source = self.awq("", "128", "F16")
            source.quantization = {}
            source.beside["quant_config.json"] = {"zero_point": True, "q_group_size": 128, "w_bit": 4, "version": "GEMM"}
            self.check(folder, source, source.pack(awq_gemm), Expected(source))
        with self.live.case("awq, the old names in config.json, layers left out, biases, U32") as folder:
            source = self.awq("", "64", "F16", family=llama(128, 256, attention_bias=True), dense=("k_proj", "layers.0.mlp"))
            names = {"w_bit": 4, "q_group_size": 64, "modules_to_not_convert": ["k_proj", "layers.0.mlp"]}
            source.quantization = {"quant_method": "awq", "zero_point": True, "version": "gemm"} | names
            tensors = {name: Tensor("U32", t.bits) if t.dtype == "I32" else t for name, t in source.pack(awq_gemm).items()}
            self.check(folder, source, tensors, Expected(source))
        with self.live.case("awq, scaled_zeros of llm-awq") as folder:
            source = self.awq("gemm", "128", "F16")
            source.quantization["backend"] = "llm-awq"
            self.check(folder, source, source.pack(lambda layer: awq_gemv_fast(layer, "scaled_zeros")), Expected(source))
        with self.live.case("awq, in three shards, --from awq") as folder:
            source = self.awq("gemm", "32", "F16")
            self.check(folder, source, source.pack(awq_gemm), Expected(source), "--from", "awq", shards=3)
        with self.live.case("awq, scales of two dtypes become float32") as folder:
            source = self.awq("gemm", "128", "F16")
            for path in source.layers:
                if path.startswith(LAST):
                    source.layers[path] = source.layer(source.layers[path].q.shape, "BF16")
            self.check(folder, source, source.pack(awq_gemm), Expected(source, dtype="F32"))
        with self.live.case("awq, --dtype bfloat16") as folder:
            source = self.awq("gemm", "128", "F16")
            tensors = source.pack(awq_gemm)
            for layer in source.layers.values():
                layer.s, layer.dtype = rounded(layer.s, "BF16"), "BF16"
            source.tensors = {name: tensor(t.mlx().astype(mx.bfloat16)) for name, t in source.tensors.items()}
            self.check(folder, source, tensors, Expected(source), "--dtype", "bfloat16")
        old = {"bits": 4, "group_size": 128, "damp_percent": 0.01, "desc_act": False, "sym": True, "true_sequential": True}
        for more in ((), ("--from", "gptq")):
            with self.live.case(f"gptq, quantize_config.json of old repositories {' '.join(more)}") as folder:
                source, packer = self.gptq("sym v1", 4, "128", "F16")
                source.quantization, source.beside["quantize_config.json"] = {}, old
                self.check(folder, source, source.pack(packer), Expected(source), *more)
        for keys in ({"bits": 8}, {"group_size": 64}, {"bits": 3, "group_size": 32}):
            with self.live.case(f"gptq, dynamic: other {' and '.join(keys)}, and layers left out") as folder:
                source, packer = self.gptq("v2", 4, "128", "F16", dense=("layers.0.self_attn.o_proj",))
                skipped = {r"-:.*layers\.0\.self_attn\.o_proj": {}}
                source.quantization["dynamic"] = skipped | {r"+:.*\.1\.mlp\.up": keys, ".*v_proj": keys}
                for name, layer in source.layers.items():
                    if "v_proj" in name or name == f"{LAST}.mlp.up_proj":
                        source.layers[name] = source.layer(layer.q.shape, "F16", keys.get("bits"), keys.get("group_size"))
                self.check(folder, source, source.pack(packer), Expected(source), run_too=False)
        with self.live.case("gptq, lm_head, biases, two shards") as folder:
            family = llama(128, 256, attention_bias=True, vocab_size=288)
            source, packer = self.gptq("sym v2", 4, "128", "BF16", family=family, also=("lm_head",))
            source.quantization["lm_head"] = True
            self.check(folder, source, source.pack(packer), Expected(source), shards=2, all_exact=True)
        with self.live.case("gptq, GPTQModel second in the list of quantizers") as folder:
            source, packer = self.gptq("GPTQModel 5", 4, "128", "F16")
            source.quantization["meta"] = {"quantizer": ["optimum:1.24.0", "gptqmodel:1.4.0"]}
            self.check(folder, source, source.pack(packer), Expected(source), run_too=False)
        with self.live.case("gptq, biases of zeros that the model does not have") as folder:
            source, packer = self.gptq("v1", 4, "128", "F16")
            zeros = {f"{path}.bias": floats(np.zeros(layer.q.shape[0], np.float32), "F16") for path, layer in source.layers.items()}
            self.check(folder, source, source.pack(packer) | zeros, Expected(source))
        for g_idx, desc_act in (("absent", False), ("trivial", True)):
            with self.live.case(f"gptq, g_idx {g_idx}, desc_act {desc_act}") as folder:
                source, _ = self.gptq("v1", 4, "64", "F16")
                source.quantization["desc_act"] = desc_act
                self.check(folder, source, source.pack(lambda layer: gptq(layer, "v1", g_idx)), Expected(source), run_too=False)

    def labels(self):
        """What is stored against what the config says of it: (sym, checkpoint_format, stored zero points, their meaning)."""
        for sym, label, stored, zero in (
            (True, "gptq", 7, 8),
            (True, "gptq", 8, 8),
            (True, "gptq_v2", 7, 8),
            (True, "gptq_v2", 8, 8),
            (True, None, 8, 8),
            (False, "gptq", 7, 8),
            (False, "gptq", 8, 9),
            (False, "gptq_v2", 7, 7),
            (False, "gptq_v2", 8, 8),
            (True, "gptq", "any", "stored + 1"),  # the kernels of AutoGPTQ go by what is stored
            (True, "gptq_v2", "any", "stored"),
        ):
            with self.live.case(f"gptq, sym {sym}, {label}, stored {stored}") as folder:
                source, _ = self.gptq("v1", 4, "128", "F16")
                source.quantization["sym"] = sym
                if label:
                    source.quantization["checkpoint_format"] = label
                for layer in source.layers.values():
                    layer.z = np.full_like(layer.z, stored) if stored != "any" else layer.z - 1
                tensors = source.pack(lambda layer: gptq(layer, "v2"))
                for layer in source.layers.values():
                    layer.z = np.full_like(layer.z, zero) if stored != "any" else layer.z + (zero == "stored + 1")
                self.check(folder, source, tensors, Expected(source), run_too=False)

    # ---- layers without an exact form

    def requantized(self, folder, source, tensors, paths, bits):
        """`paths` are dequantized and quantized again, in whatever groups the result says; the others are as ever."""
        origin, result = folder / "source", folder / "mlxq"
        source.write(origin, tensors)
        self.live.run("import", origin, result, "--requantize", bits)
        default, own = schemes_of(json.loads((result / "config.json").read_text()))
        again = {path: source.layers.pop(path) for path in paths}
        expected = Expected(source)
        for path, layer in again.items():
            scheme = own.get(path, default)
            if scheme["bits"] != bits or scheme["mode"] != "affine":
                raise Mismatch(f"config.json: {path} is {scheme}, expected {bits} bits")
            dense = floats(layer.formula().astype(np.float32), layer.dtype)
            parts, _ = quantize(dense.mlx(), "affine", bits, scheme["group_size"])
            expected.tensors |= {f"{path}.{key}": part for key, part in parts.items()}
            expected.schemes[path] = scheme
        actual, _ = read_folder(result)
        self.live.count(compare_tensors(actual, expected.tensors))
        check_config(result, source, expected)
        check_meaning(actual, expected, all_exact=False)
        logits(result)
        self.loaded += 1

    def inexact(self):
        cases = [(4, 4, "v1", "F16"), (3, 4, "sym v2", "BF16"), (8, 8, "v2", "F16"), (4, 6, "GPTQModel 5", "BF16")]
        for bits, again, kind, dtype in cases:
            source, packer = self.gptq(kind, bits, "64", dtype)
            source.quantization["desc_act"] = again == 4  # the data count, not the label
            paths = [path for path in source.layers if path.startswith(LAST) and "mlp" in path]
            for path in paths:
                layer = source.layers[path]
                layer.g_idx = self.rng.permutation(np.arange(layer.q.shape[1]) // 64)
            tensors = source.pack(packer)
            with self.live.case(f"gptq {kind}, {bits} bits, {dtype}, act-order, refused") as folder:
                self.refused(folder, source, tensors, "out_of_range unsupported", "mlp", hint="--requantize")
            with self.live.case(f"gptq {kind}, {bits} bits, {dtype}, act-order, --requantize {again}") as folder:
                self.requantized(folder, source, tensors, paths, again)
        for form in ("awq", "gptq"):
            source, packer = self.gptq("v1", 4, "32", "F16") if form == "gptq" else (self.awq("gemm", "32", "F16"), awq_gemm)
            source.quantization["group_size"] = 16
            for path, layer in source.layers.items():
                source.layers[path] = source.layer(layer.q.shape, "F16", group=16)
            tensors = source.pack(packer)
            with self.live.case(f"{form}, group 16, refused") as folder:
                self.refused(folder, source, tensors, "out_of_range", "16", hint="--requantize")
            with self.live.case(f"{form}, group 16, --requantize 4") as folder:
                self.requantized(folder, source, tensors, list(source.layers), 4)

    def exact(self):
        """--exact widens the layers whose biases would be rounded, and no others."""
        forms = [("awq gemm", 4, "F16"), ("awq gemv", 4, "F16"), ("v2", 4, "BF16"), ("v1", 4, "F16"), ("v2", 3, "F16")]
        forms += [("GPTQModel 7", 3, "BF16"), ("GPTQModel 5", 2, "F16"), ("v2", 2, "BF16"), ("sym v1", 8, "F16")]
        for form, bits, dtype in forms:
            with self.live.case(f"{form}, {bits} bits, {dtype}, --exact") as folder:
                if form.startswith("awq"):
                    version = form.split()[1]
                    source, packer = self.awq(version, "128", dtype), AWQ[version]
                else:
                    source, packer = self.gptq(form, bits, "64", dtype)
                if bits < 8:
                    for path, layer in source.layers.items():
                        if "q_proj" in path:
                            layer.z[:] = 2 ** (bits - 1)
                        elif "k_proj" in path:  # few bits in the scales leave room for any zero point
                            layer.s[:] = 2.0**-7 * self.rng.integers(1, 4, layer.s.shape)
                widened = [path for path, layer in source.layers.items() if not layer.exact_biases().all()]
                self.live.require(bits == 8 or 0 < len(widened) < len(source.layers), "no layer to widen, or only such")
                self.check(folder, source, source.pack(packer), Expected(source, widened=widened), "--exact", all_exact=True)
        with self.live.case("awq gemv_fast, --exact: its biases are what it stores") as folder:
            source = self.awq("gemv_fast", "128", "F16")
            self.check(folder, source, source.pack(awq_gemv_fast), Expected(source), "--exact", run_too=False)
        with self.live.case("8 bits, --exact, refused") as folder:
            source, packer = self.gptq("v2", 8, "64", "F16")
            self.refused(folder, source, source.pack(packer), "out_of_range unsupported", "_proj", "--exact")

    # ---- experts

    def experts(self):
        for family, names in MIXTURES:
            for form, dtype in (("awq", "F16"), ("gptq", "BF16"), ("awq --exact", "F16")):
                with self.live.case(f"{family.model_type}, {form}") as folder:
                    if form == "gptq":
                        source, packer = self.gptq("sym v1", 4, "64", dtype, family=family)
                    else:
                        source, packer = self.awq("gemm", "64", dtype, family=family), awq_gemm
                        source.quantization["modules_to_not_convert"] = ["gate"]
                    stacks = {}
                    for path in source.layers:
                        if "experts.0." in path:
                            layer = path.rpartition(".")[2]
                            paths = tuple(path.replace("experts.0.", f"experts.{e}.") for e in range(EXPERTS))
                            stacks[paths] = path.partition("experts.")[0] + "switch_mlp." + names.get(layer, layer)
                    options, widened = [], []
                    if form == "awq --exact":
                        options = ["--exact"]
                        for path, layer in source.layers.items():
                            if "experts.1" not in path:
                                layer.z[:] = 8
                        widened = [path for path, layer in source.layers.items() if not layer.exact_biases().all()]
                    result = Expected(source, widened=widened, stacks=stacks)
                    self.check(folder, source, source.pack(packer), result, *options, all_exact=form != "awq")

    # ---- refusals

    def refuse(self):
        """What is wrong with the config, or with one tensor: (format, what, the change, statuses, what is named)."""
        unknown = "unknown_value unsupported"
        for form, keys, statuses, key in (
            ("awq", {"version": "marlin"}, unknown, "marlin"),
            ("awq", {"version": "exllama"}, unknown, "exllama"),
            ("awq", {"bits": 5}, "out_of_range", "must be 4"),
            ("awq", {"bits": 8}, "out_of_range", "must be 4"),
            ("awq", {"group_size": 48}, "not_divisible out_of_range shape_mismatch", "_proj"),
            ("gptq", {"checkpoint_format": "marlin"}, unknown, "marlin"),
            ("gptq", {"is_marlin_format": True}, unknown, "marlin"),
            ("gptq", {"checkpoint_format": "bitblas"}, unknown, "bitblas"),
            ("gptq", {"format": "qqq"}, unknown, "qqq"),
            ("gptq", {"checkpoint_format": "gptq_p"}, unknown, "gptq_p"),
            ("gptq", {"quant_method": "exl3"}, unknown, "exl3"),
            ("gptq", {"bits": 5}, "out_of_range unsupported", "bits"),
        ):
            self.refuse_one(form, str(keys), keys, lambda tensors: tensors, statuses, key)

        dense = floats(np.zeros((128, 256)), "F16")
        for forms, what, key, edit, statuses, named in (
            ("awq gptq", "missing", "scales", None, "missing_key", f"{DOWN}.scales"),
            ("awq gptq", "in the way", "weight", lambda _: dense, "key_collision", f"{DOWN}.weight"),
            ("awq gptq", "in the way", "biases", lambda _: dense, "key_collision", f"{DOWN}.biases"),
            ("awq gptq", "I16", "scales", lambda t: Tensor("I16", t.bits), "unsupported_dtype", f"{DOWN}.scales"),
            ("awq gptq", "F32", "qweight", lambda t: Tensor("F32", t.bits), "unsupported_dtype", DOWN),
            ("awq gptq", "F32", "qzeros", lambda t: Tensor("F32", t.bits), "unsupported_dtype", DOWN),
            ("awq gptq", "rank 3", "qweight", lambda t: Tensor(t.dtype, t.bits[None]), "rank_mismatch", DOWN),
            ("awq gptq", "rank 3", "scales", lambda t: Tensor(t.dtype, t.bits[None]), "rank_mismatch", DOWN),
            ("awq gptq", "too narrow", "qweight", lambda t: Tensor(t.dtype, t.bits[:, :-8]), "shape_mismatch", DOWN),
            ("awq gptq", "too narrow", "scales", lambda t: Tensor(t.dtype, t.bits[:, :-8]), "shape_mismatch", DOWN),
            ("awq gptq", "too narrow", "qzeros", lambda t: Tensor(t.dtype, t.bits[:, :-8]), "shape_mismatch", DOWN),
            ("awq", "there", "g_idx", lambda _: words(np.zeros(256)), "invariant", f"{DOWN}.g_idx"),
            ("gptq", "too short", "g_idx", lambda t: words(t.bits[:-8]), "shape_mismatch", DOWN),
            ("gptq", "beyond the groups", "g_idx", lambda t: words(t.bits + 2), "out_of_range", DOWN),
        ):
            for form in forms.split():
                self.refuse_one(form, f"{key} {what}", {}, edited(f"{DOWN}.{key}", edit), statuses, named)
        # AutoAWQ's ScaledActivation: its scales divide the activations, for which MLX has no place
        act = f"{LAST}.mlp.act.scales"
        edit = edited(act, lambda _: floats(np.ones(256), "F16"))
        self.refuse_one("awq", "scaled activation", {}, edit, unknown + " invariant missing_key", act)

    def refuse_one(self, form, what, keys, edit, statuses, named):
        with self.live.case(f"{form} refused, {what}") as folder:
            source, packer = self.gptq("v1", 4, "128", "F16") if form == "gptq" else (self.awq("gemm", "128", "F16"), awq_gemm)
            source.quantization |= keys
            options = ("--requantize", "4") if "beyond" in what else ()  # otherwise any g_idx that is not trivial is refused
            self.refused(folder, source, edit(source.pack(packer)), statuses, named, *options)


def edited(key, change):
    """A function that changes one tensor of a dictionary, or without `change` removes it."""

    def edit(tensors):
        rest = {name: t for name, t in tensors.items() if name != key}
        return rest | {key: change(tensors.get(key))} if change else rest

    return edit


def main():
    live = LiveTest("test_import", __doc__)
    test = ImportTest(live)
    test.awq_formats()
    test.awq_symmetric()
    test.gptq_formats()
    test.configs()
    test.labels()
    test.inexact()
    test.exact()
    test.experts()
    test.refuse()
    wanted = {(version, what) for version in AWQ for what in (*OPTION, *GROUPINGS)} - {("gemv_fast", "-1 of 160")}
    wanted |= {(kind, what) for kind in GPTQ for what in (2, 3, 4, 8, *OPTION, *GROUPINGS)}
    wanted |= {(bits, what) for bits in (2, 3, 4, 8) for what in (*OPTION, *GROUPINGS)}
    live.require(live.failures or wanted == test.done, f"not met: {wanted - test.done}")
    live.require(live.failures or test.witnessed == 3, f"{test.witnessed} folders compared with mlx_lm's own transform")
    live.finish(
        f"{test.loaded} results run, {test.witnessed} also transformed by mlx_lm, "
        f"{test.exact_layers} layers exact, {test.refusals} refusals"
    )


if __name__ == "__main__":
    main()
