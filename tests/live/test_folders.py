"""Whole folders against mlx-lm: tiny models of every family, converted by mlx_lm.convert and by mlxq, must be equal.

Equal means: the same tensors with the same bytes, the same config.json, index, metadata and model card, the same files
beside them, and the same logits once mlx_lm has loaded the two results. Each family (families.py) occurs with every
scheme, with every way of keeping a checkpoint (VARIANTS), with recipes, with layers left out or given another scheme,
already quantized in part, in small shards, and back to dense.

Files beside the tensors. mlx_lm.convert loads the tokenizer and saves it anew; mlxq copies its files. Therefore

- TOKENIZER_FILES: mlxq's result has the source's bytes wherever the source has the file. mlx-lm writes tokenizer.json
  and tokenizer_config.json with the same meaning but other bytes, and a chat_template.jinja that it takes out of a
  tokenizer_config.json; it does not write the others.
- COPIED_FILES: both have the source's bytes.
- README.md: both write the same card, whatever the source's says.
- Other files of the source are in neither.

Shards. mlx-lm starts a shard when the next tensor would make it larger than the limit, in the order of its modules;
mlxq follows the same rule in the order of the source. Where the source is in mlx-lm's order, the shards must hold the
same tensors under the same names; otherwise mlxq's must obey the rule.

Families whose tensors mlx-lm stacks, splits, transposes or rescales (families_moe.py) go through fewer cases: each has
its own CASES, a recipe, small shards, back to dense, and experts that are missing or of another shape.

Folders that mlxq refuses. A packed layer is taken for what config.json says. mlx-lm infers from the shapes in its model
how a layer was packed that config.json has no entry for; mlxq has no model, and refuses where default and tensors
contradict each other. Without a quantization block both refuse.
"""

import contextlib
import fnmatch
import io
import json
import os
import re
import shutil
from dataclasses import dataclass, replace

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import mlx.core as mx
import mlx_lm.utils
import numpy as np
from common import (
    DTYPES,
    FLOATS,
    OPTION,
    LiveTest,
    Mismatch,
    Tensor,
    compare_tensor,
    compare_tensors,
    read_safetensors,
    tensor,
    write_safetensors,
)
from expected import dequantize
from families import FAMILIES, FURTHER, NOT_COMPARED
from families_moe import ALL as MOE
from families_moe import EXPERTS, with_scales
from mlx_lm.convert import convert
from mlx_lm.models.switch_layers import SwitchLinear
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SCHEMES = [("affine", 4, 64), ("affine", 3, 32), ("affine", 8, 128), ("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]
SCHEMES_PER_VARIANT = 2  # FURTHER families: 1
RECIPES = [("mixed_3_6", 64), ("mixed_2_6", 32), ("mixed_4_6", 128), ("mixed_3_4", 64)]
RECIPE_LAYERS = 9  # from 8 layers on, the first eighth of them is a layer too

# Families of families_moe.py that mlxq refuses, and what stands in the way.
UNSUPPORTED = {
    "llama4_text": "its head is called output.weight",
    "gemma4": "it takes keys of text_config from elsewhere",
    "gemma4 of shared keys": "it takes keys of text_config from elsewhere",
    "gemma4_text": "layers that share keys with others have some that must be dropped",
    "kimi_linear": "what is renamed depends on the kind of layer",
}

# What mlx-lm's dequantize_model leaves packed, because it does not know the class. mlx_lm.load refuses the result. mlxq
# gives these layers what mx.dequantize gives.
LEFT_PACKED = dict.fromkeys(("deepseek_v3", "kimi_k2", "glm4_moe_lite"), ("*.self_attn.embed_q", "*.self_attn.unembed_out"))

# Families whose experts mlx-lm also stacks when they are packed.
PACKED_ONE_BY_ONE = ("mixtral", "qwen2_moe", "olmoe", "glm4_moe", "dots1", "phimoe", "deepseek", "deepseek_v3", "exaone_moe")

# Families that are also quantized in parts, and then again.
IN_PARTS = ("qwen3_moe", "deepseek_v3", "gpt_oss")

# Kept, as patterns; a source with side files has every one of SIDE_FILES, which mlx_lm.load does not mind.
TOKENIZER_FILES = ["tokenizer*", "special_tokens_map*.json", "added_tokens*.json", "vocab*", "merges*"]
TOKENIZER_FILES += ["*.jinja", "chat_template*.json", "*.tiktoken", "*.model"]
COPIED_FILES = ["*.py", "generation_config.json"]
WRITTEN_FILES = {"config.json", "model.safetensors.index.json", "README.md"}
SIDE_FILES = {
    "special_tokens_map.json": '{"bos_token": "<s>"}',
    "added_tokens.json": "{}",
    "vocab.json": "{}",
    "merges.txt": "#version: 0.2\n",
    "chat_template.json": "{}",
    "qwen.tiktoken": "",
    "tokenizer.model": "\x00",
    "modeling_own.py": "raise SystemExit\n",
    "configuration_own.py": "",
    # of no use to mlx-lm
    "README.md": "---\nlicense: mit\n---\n# A card\n",
    "LICENSE": "",
    ".gitattributes": "",
    "notes.txt": "",
    "preprocessor_config.json": "{}",
    "pytorch_model.bin": "",
    "pytorch_model.bin.index.json": "{}",
    "training_args.bin": "",
}
PROMPT = mx.array([[0, 17, 42, 99, 200, 1]])
CHAT_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"

# (default scheme, a layer's own scheme that config.json does not mention, mlxq's status). Affine schemes with one product
# of bits and group size, such as 4/64 and 8/32, cannot be told apart by the tensors alone.
UNMENTIONED = [
    (("affine", 4, 64), ("affine", 6, 32), "shape_mismatch"),
    (("mxfp4", 4, 32), ("affine", 4, 32), "key_collision"),
    (("affine", 4, 64), ("mxfp8", 8, 32), "missing_key"),
    (("mxfp4", 4, 32), ("mxfp8", 8, 32), "shape_mismatch"),
    (("mxfp8", 8, 32), ("nvfp4", 4, 16), "shape_mismatch"),
    (("affine", 8, 64), ("affine", 8, 32), "shape_mismatch"),
]

# Keys that mlx-lm does not know, among them values that strict JSON parsers refuse or round.
UNUSUAL_KEYS = """
    "_name_or_path": "someone/something",
    "vision_config": {"hidden_size": 1},
    "bare_infinity": -Infinity,
    "bare_nan": NaN,
    "tagged": {"__float__": "Infinity"},
    "not_a_tag": {"__float__": "Infinity", "b": 1},
    "big": 1000000000000000000000000000000,
    "tiny": 1e-05,
    "whole_float": 2.0,
    "long_float": 0.1000000000000000055511151231257827,
    "text": "\\u00e9\\ud83d\\ude00 \\"\\\\/",
    "nested": {"z": [1, {"y": null, "a": [NaN, true, []]}], "b": {}, "a": 1.5e300},
"""


@dataclass
class Variant:
    """A way of keeping a checkpoint. What a family does not permit is left out, as `adapted` says."""

    label: str
    tied: bool = False
    tie_key: bool = True
    extra_lm_head: bool = False  # lm_head.weight although the embeddings are tied
    inv_freq: bool = False
    stored: tuple = ("BF16",)  # dtypes, dealt out to the tensors in turn
    torch_dtype: str | None = "bfloat16"
    shards: int = 1
    index: bool = False
    extra_keys: str = ""
    generation_config: str | None = None
    layers: int = 2
    side_files: bool = False
    template: str = ""  # "jinja", "tokenizer_config": where the chat template is

    def adapted(self, family):
        """(does the checkpoint hold lm_head.weight, the tie_word_embeddings key or None)."""
        if family.tie in ("always", "never"):
            return family.tie == "never", (family.tie == "always") if self.tie_key else None
        if family.tie == "presence":
            return not self.tied or self.extra_lm_head, self.tied if self.tie_key else None
        key_absent = not self.tie_key and family.tie_default is not None
        tied = family.tie_default if key_absent else self.tied
        extra = self.extra_lm_head and "tied lm_head" not in family.refused
        return not tied or extra, None if key_absent else tied


VARIANTS = [
    Variant("plain"),
    Variant("tied in two shards", tied=True, stored=("F16",), shards=2, index=True, template="jinja"),
    Variant("no tie key, no index", tie_key=False, torch_dtype="float16", shards=2),
    Variant("no tie key, lm_head", tie_key=False, extra_lm_head=True, torch_dtype=None),
    Variant(
        "tied and lm_head",
        tied=True,
        extra_lm_head=True,
        stored=("F32",),
        index=True,
        generation_config='{"eos_token_id": [1, 5], "temperature": 0.6}',
    ),
    Variant(
        "unusual config",
        stored=("F32",),
        torch_dtype="float16",
        extra_keys=UNUSUAL_KEYS,
        generation_config="{broken",
        side_files=True,
    ),
    Variant("inv_freq", inv_freq=True, stored=("F16",), torch_dtype="float32", generation_config='{"eos_token_id": 0}'),
    Variant("mixed dtypes", stored=("F32", "BF16", "F16"), torch_dtype=None, shards=2, index=True),
    Variant("dtype keys to ignore", stored=("F32",), torch_dtype=None, extra_keys='"dtype": "float16", "architecture": null,'),
    Variant(
        "text_config",
        torch_dtype=None,
        extra_keys='"text_config": {"dtype": "float16", "b": 1, "a": 2},',
        template="tokenizer_config",
    ),
    Variant("dtype not castable to", tied=True, stored=("F16",), torch_dtype="float64"),
]


MOE_VARIANTS = [
    (
        Variant("as it is", index=True, generation_config='{"eos_token_id": [1, 5]}', template="jinja"),
        [("affine", 4, 64)],
    ),
    (
        Variant(
            "tied and lm_head in two shards",
            tied=True,
            extra_lm_head=True,
            inv_freq=True,
            stored=("F16",),
            torch_dtype="float32",
            shards=2,
            index=True,
        ),
        [("mxfp4", 4, 32), ("nvfp4", 4, 16), ("mxfp8", 8, 32)],
    ),
    (
        Variant("mixed dtypes", tie_key=False, extra_lm_head=True, stored=("F32", "BF16", "F16"), torch_dtype=None),
        [("affine", 3, 32), ("affine", 8, 128), ("nvfp4", 4, 16), ("affine", 6, 64)],
    ),
    (
        Variant("F32", tied=True, stored=("F32",), torch_dtype="float16"),
        [("mxfp4", 4, 32), ("affine", 5, 64), ("affine", 2, 32), ("mxfp8", 8, 32)],
    ),
]


def write_tokenizer(folder, template):
    """A byte-level tokenizer without merges: all that mlx_lm.load needs."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    if template == "tokenizer_config":
        settings["chat_template"] = CHAT_TEMPLATE
    elif template == "jinja":
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def random_tensor(name, dtype, shape, rng):
    """One tensor of a checkpoint, of such a size that the model does not overflow."""
    if dtype == "F8_E4M3":
        return Tensor(dtype, rng.choice([code for code in range(256) if code & 0x7F != 0x7F], size=shape).astype(np.uint8))
    if dtype == "U8":
        return Tensor(dtype, rng.integers(*((118, 124) if name.endswith("_scales") else (0, 256)), size=shape, dtype=np.uint8))
    values = rng.normal(size=shape) * 0.08 + ("norm" in name)
    if name.endswith(".weight_scale_inv"):
        values = rng.uniform(1e-4, 6e-4, size=shape)
    return tensor(mx.array(values, mx.float32).astype(DTYPES[dtype][0]))


def write_weights(folder, family, shapes, variant, rng):
    """Random weights of these shapes, in the variant's dtypes and files."""
    tensors = {}
    for i, (name, shape) in enumerate(shapes.items()):
        dtype = family.dtype_of(name, variant.stored[i % len(variant.stored)])
        tensors[name] = random_tensor(name, dtype, shape, rng)
    names = list(rng.permutation(list(tensors)))
    weight_map = {}
    for i in range(variant.shards):
        file = "model.safetensors" if variant.shards == 1 else f"model-{i + 1:05}-of-{variant.shards:05}.safetensors"
        shard = names[i :: variant.shards]
        write_safetensors(folder / file, {name: tensors[name] for name in shard}, {"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    if variant.index:
        index = {"metadata": {"total_size": sum(t.bits.nbytes for t in tensors.values())}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_source(folder, family, variant, rng):
    """The folder of one family and variant, as it would come from Hugging Face."""
    folder.mkdir()
    lm_head, tie_key = variant.adapted(family)
    inv_freq = variant.inv_freq and "inv_freq" not in family.refused
    layers = max(variant.layers, family.least_layers)
    config = family.config_of(layers)
    if variant.torch_dtype is not None:
        config["torch_dtype"] = variant.torch_dtype
    if tie_key is not None:
        family.text_config(config)["tie_word_embeddings"] = tie_key
    if family.text_config(config) is not config:
        config["tie_word_embeddings"] = lm_head  # the model's own key counts, or its absence
    (folder / "config.json").write_text("{" + variant.extra_keys + json.dumps(config)[1:])
    if variant.generation_config is not None:
        (folder / "generation_config.json").write_text(variant.generation_config)
    write_weights(folder, family, family.shapes(layers, lm_head, inv_freq), variant, rng)
    write_tokenizer(folder, variant.template)
    if variant.side_files:
        for name, text in SIDE_FILES.items():
            (folder / name).write_text(text)


class ModelCard:
    """mlx-lm's create_model_card, which takes longer than a tiny conversion: once for each family it really runs.

    For a local folder the card does not depend on the model, so the other conversions get the text of that one.
    """

    create = staticmethod(mlx_lm.utils.create_model_card)

    def __init__(self):
        self.text = None

    def __call__(self, path, hf_path):
        if hf_path is not None:
            raise ValueError(f"a card for the repository {hf_path}: the test converts local folders")
        card = path / "README.md"
        if self.text is None:
            self.create(path, hf_path)
            self.text = card.read_text()
        else:
            card.write_text(self.text)


class ShardLimit(int):
    """Bytes, where make_shards takes whole GiB and shifts them."""

    def __lshift__(self, bits):
        return int(self)


class Sharder:
    """mlx-lm's make_shards with another limit, noting the order and size of what it was given."""

    make_shards = staticmethod(mlx_lm.utils.make_shards)

    def __init__(self, limit):
        self.limit, self.sizes = limit, {}

    def __call__(self, weights):
        self.sizes = {name: array.nbytes for name, array in weights.items()}
        return self.make_shards(weights, ShardLimit(self.limit))


def mlx_convert(source, destination, limit=5 << 30, **options):
    """mlx_lm.convert without its prints. Returns {tensor name: bytes} in the order in which they went into shards."""
    mlx_lm.utils.make_shards = Sharder(limit)
    with contextlib.redirect_stdout(io.StringIO()):
        convert(str(source), str(destination), **options)
    return mlx_lm.utils.make_shards.sizes


def matches(name, patterns):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def compare_side_files(actual, expected, source):
    """Compares the files beside the tensors, by the rules at the top. Returns how many were compared."""
    held = {path.name for path in source.iterdir()}
    names = {path.name for path in actual.glob("*") if path.suffix != ".safetensors"}
    kept = {name for name in held if matches(name, TOKENIZER_FILES + COPIED_FILES)}
    if names != WRITTEN_FILES | kept:
        missing, extra = sorted((WRITTEN_FILES | kept) - names), sorted(names - WRITTEN_FILES - kept)
        raise Mismatch(f"files: missing {missing}, not expected {extra}")
    wanted = WRITTEN_FILES | {"tokenizer.json", "tokenizer_config.json"} | {name for name in held if matches(name, COPIED_FILES)}
    settings = json.loads((source / "tokenizer_config.json").read_text())
    if "chat_template.jinja" in held or "chat_template" in settings:
        wanted.add("chat_template.jinja")
    theirs = {path.name for path in expected.glob("*") if path.suffix != ".safetensors"}
    if theirs != wanted:
        raise Mismatch(f"mlx-lm's files are not those this test describes: {sorted(theirs ^ wanted)}")
    same = [(name, actual, source) for name in kept]
    same += [(name, actual, expected) for name in kept if matches(name, COPIED_FILES)]
    same += [("README.md", actual, expected)]
    for name, left, right in same:
        if (left / name).read_bytes() != (right / name).read_bytes():
            raise Mismatch(f"{name} differs from that of {right.name}")
    return len(names)


def shard_sizes(folder):
    """{file name: the bytes of each of its tensors}, by name."""
    paths = sorted(folder.glob("*.safetensors"))
    return {path.name: [t.bits.nbytes for t in read_safetensors(path)[0].values()] for path in paths}


def compare_shards(actual, expected, limit, same_order):
    """Compares the shards of two folders, or with the rule, by what is said at the top. Returns how many were compared."""
    shards = shard_sizes(actual)
    count = len(shards)
    names = [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)] if count > 1 else ["model.safetensors"]
    if list(shards) != names:
        raise Mismatch(f"shards are called {list(shards)}")
    if not same_order:
        sizes = list(shards.values())
        for name, held in shards.items():
            if len(held) > 1 and sum(held) > limit:
                raise Mismatch(f"{name}: {sum(held)} bytes in {len(held)} tensors, and the limit is {limit}")
        for name, held, following in zip(names, sizes, sizes[1:]):
            # which tensor came first in the next shard, nobody knows: at least one of them must not have had room
            if sum(held) + max(following) <= limit:
                raise Mismatch(f"{name}: {sum(held)} bytes, room for every tensor of the next shard within {limit}")
        return count
    maps = [json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"] for folder in (actual, expected)]
    compare_json("shards: weight_map", *maps)
    totals = [{name: sum(held) for name, held in sizes.items()} for sizes in (shards, shard_sizes(expected))]
    compare_json("bytes of a shard", *totals)
    return count


def read_folder(folder):
    """All tensors of a folder, with each file checked against the index."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        held, metadata = read_safetensors(path)
        if metadata != {"format": "mlx"}:
            raise Mismatch(f"{path.name}: __metadata__ is {metadata}")
        for name in held:
            if index["weight_map"].get(name) != path.name:
                raise Mismatch(f"index: {name} is in {path.name}, not in {index['weight_map'].get(name)}")
        tensors |= held
    if index["weight_map"].keys() != tensors.keys():
        raise Mismatch(f"index: names without a tensor: {sorted(index['weight_map'].keys() - tensors.keys())}")
    return tensors, index


def compare_json(what, actual, expected):
    """Compares two parsed JSON objects, 1 and 1.0 being different."""
    for key in sorted(actual.keys() | expected.keys()):
        pair = [json.dumps(side[key], sort_keys=True) if key in side else "absent" for side in (actual, expected)]
        if pair[0] != pair[1]:
            raise Mismatch(f"{what}: {key} is {pair[0]}, expected {pair[1]}")


def permitted_config(family, source, expected, skipped):
    """mlx-lm's config.json with the two differences that mlxq makes on purpose.

    Where the family goes by tie_word_embeddings but the source leaves it out although it holds an lm_head, mlxq writes
    down what mlx-lm takes as the default. And it writes false for the layers that --skip kept dense; mlx-lm's
    own command cannot skip, but its loader reads false as it is meant.
    """
    config = json.loads((expected / "config.json").read_text())
    held = json.loads((source / "config.json").read_text())
    if family.tie == "config" and family.text_config(held) is held and "tie_word_embeddings" not in held:
        head = family.head.split()[0]  # "lm_head.weight", or internlm2's own
        if any(head in read_safetensors(path)[0] for path in source.glob("*.safetensors")):
            config["tie_word_embeddings"] = family.tie_default
    for key in ("quantization", "quantization_config"):
        if skipped:
            config[key] |= dict.fromkeys(skipped, False)
    return config


def load(folder):
    """The model of a folder, loaded strictly."""
    try:
        return mlx_lm.utils.load(str(folder))[0]
    except Exception as error:
        raise Mismatch(f"mlx_lm.load refuses {folder}: {error!r}") from error


def logits(folder):
    """What the model of a folder answers to a fixed prompt. MLX's CPU backend runs dense experts in float32 only."""
    model = load(folder)
    if any(isinstance(module, SwitchLinear) for module in model.modules()):
        model.set_dtype(mx.float32)
    return tensor(model(PROMPT))


def own_predicate(family):
    """The choice a model class of mlx-lm makes for its own layers, if it makes any."""
    prop = vars(mlx_lm.utils._get_classes(family.config)[0]).get("quant_predicate")
    return prop.fget(None) if prop else lambda path, module: True


def dequantize_left(packed, folder, layers, dtype=None):
    """Makes layers of mlx-lm's dense folder what mx.dequantize makes of them, in `dtype`, or what they would be without."""
    quantization = json.loads((packed / "config.json").read_text())["quantization"]
    held, dense = read_safetensors(packed / "model.safetensors")[0], read_safetensors(folder / "model.safetensors")[0]
    for layer in layers:
        parts = {key: held[f"{layer}.{key}"] for key in ("weight", "scales", "biases") if f"{layer}.{key}" in held}
        own = quantization.get(layer, quantization)
        scheme = own.get("mode", "affine"), own["bits"], own["group_size"]
        of_scales = DTYPES[parts["scales"].dtype][0] if parts["scales"].dtype in FLOATS else mx.bfloat16
        for key in ("scales", "biases"):
            dense.pop(f"{layer}.{key}", None)
        dense[f"{layer}.weight"] = dequantize(parts, *scheme, dtype or of_scales)
    write_safetensors(folder / "model.safetensors", dense, {"format": "mlx"})
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["metadata"]["total_size"] = sum(t.bits.nbytes for t in dense.values())
    index["weight_map"] = dict.fromkeys(dense, "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


class FolderTest:
    """The cases of one family."""

    def __init__(self, live, name, number, family):
        self.live, self.name, self.number, self.family = live, name, number, family
        self.schemes_per_variant = 1 if name in FURTHER else SCHEMES_PER_VARIANT
        self.rng = np.random.default_rng([live.seed, number])
        self.conversions = self.loaded = self.run_pairs = self.shards_compared = self.refusals = 0
        self.done = set()
        self.schemes_loaded = set()
        self.card = mlx_lm.utils.create_model_card = ModelCard()

    def compare(self, actual, expected, source, run_too=False, skipped=(), limit=None, same_order=True):
        """Compares the folder mlxq wrote with mlx-lm's, and loads it. With a `limit` there may be more than one shard."""
        config = permitted_config(self.family, source, expected, skipped)
        compare_json("config.json", json.loads((actual / "config.json").read_text()), config)
        actual_tensors, actual_index = read_folder(actual)
        expected_tensors, expected_index = read_folder(expected)
        self.live.count(compare_tensors(actual_tensors, expected_tensors))
        compare_json("index metadata", actual_index["metadata"], expected_index["metadata"])
        self.live.count(compare_side_files(actual, expected, source))
        shards = compare_shards(actual, expected, limit or 5 << 30, same_order or not limit)
        self.shards_compared += shards if limit else 0
        self.conversions += 1
        packed = "quantization" in config
        if run_too and packed and self.family.tied_fails and config.get("tie_word_embeddings", self.family.tie_default):
            self.fails_to_run(actual)
        elif run_too:
            compare_tensor("logits", logits(actual), logits(expected))
            self.run_pairs += 1
        elif packed:
            load(actual)
        self.loaded += run_too or packed

    def fails_to_run(self, folder):
        """What families.py says mlx-lm loads but does not run, it still does not run."""
        model = load(folder)
        try:
            mx.eval(model(PROMPT))
        except ValueError:
            return
        raise Mismatch(f"mlx-lm runs this tied model, although families.py says it does not, because {self.family.tied_fails}")

    def quantize_and_back(self, variant, scheme, run_too):
        mode, bits, group = scheme
        with self.live.case(f"{self.name}, {variant.label}, {mode} {bits}/{group}") as folder:
            source, ours, theirs = folder / "source", folder / "mlxq", folder / "mlx-lm"
            write_source(source, self.family, variant, self.rng)
            mlx_convert(source, theirs, quantize=True, q_mode=mode, q_bits=bits, q_group_size=group)
            self.live.run("quantize", source, ours, "--mode", mode, "--bits", bits, "--group-size", group)
            self.compare(ours, theirs, source, run_too)
            self.dequantize(folder, theirs, run_too)
            self.done |= {variant.label, scheme}

    def dequantize(self, folder, source, run_too):
        """Back to dense. In the scale-only modes mlx-lm makes bfloat16 of every layer, whatever the model's dtype."""
        ours, theirs = folder / "mlxq dense", folder / "mlx-lm dense"
        self.mlx_dequantize(source, theirs)
        self.live.run("dequantize", source, ours)
        self.compare(ours, theirs, source, run_too)

    def mlx_dequantize(self, source, theirs):
        mlx_convert(source, theirs, dequantize=True)
        held = read_safetensors(theirs / "model.safetensors")[0]
        left = [name.removesuffix(".scales") for name in held if name.endswith(".scales")]
        patterns = LEFT_PACKED.get(self.family.model_type, ())
        if any(not matches(layer, patterns) for layer in left) or (patterns and not left):
            raise Mismatch(f"mlx-lm leaves packed {left}, and LEFT_PACKED says {patterns}")
        if left:
            dequantize_left(source, theirs, left)

    def recipe(self, recipe, group, layers=RECIPE_LAYERS, back=True):
        variant = Variant(recipe, layers=layers, tied=self.number % 2 == 0)
        with self.live.case(f"{self.name}, {recipe} group {group}") as folder:
            source, ours, theirs = folder / "source", folder / "mlxq", folder / "mlx-lm"
            write_source(source, self.family, variant, self.rng)
            mlx_convert(source, theirs, quantize=True, q_group_size=group, quant_predicate=recipe)
            self.live.run("quantize", source, ours, "--recipe", recipe, "--group-size", group)
            self.compare(ours, theirs, source, run_too=True)
            if back:
                self.dequantize(folder, theirs, run_too=False)

    def parts(self, scheme, second):
        """Layer 1 left dense and layer 0's MLP in another scheme; then the rest of that result quantized in a second run."""
        mode, bits, group = scheme
        with self.live.case(f"{self.name}, in parts, {mode} {bits}/{group}") as folder:
            source, ours, theirs = folder / "source", folder / "mlxq", folder / "mlx-lm"
            write_source(source, self.family, Variant("parts", tied=self.number % 2 == 1), self.rng)
            default = own_predicate(self.family)
            block, mlp = self.family.block, self.family.mlp
            skipped = []

            def choose(path, module):
                if path.startswith(f"{block}.1."):
                    skipped.append(path)
                    return False
                if path.startswith(f"{block}.0.{mlp}."):
                    return {"group_size": 32, "bits": 6, "mode": "affine"}
                return default(path, module)

            mlx_convert(source, theirs, quantize=True, q_mode=mode, q_bits=bits, q_group_size=group, quant_predicate=choose)
            override = f"{block}.0.{mlp}.*=bits:6,group_size:32,mode:affine"
            scheme_options = ["--mode", mode, "--bits", bits, "--group-size", group]
            self.live.run("quantize", source, ours, *scheme_options, "--skip", f"{block}.1.*", "--override", override)
            self.compare(ours, theirs, source, run_too=True, skipped=skipped)

            mode, bits, group = second
            ours_again, theirs_again = folder / "mlxq again", folder / "mlx-lm again"
            mlx_convert(theirs, theirs_again, quantize=True, q_mode=mode, q_bits=bits, q_group_size=group)
            self.live.run("quantize", theirs, ours_again, "--mode", mode, "--bits", bits, "--group-size", group)
            self.compare(ours_again, theirs_again, theirs, run_too=True)

    def cast(self, dtype, scheme):
        """`--dtype`, in both directions; back to dense in each of the other dtypes."""
        mode, bits, group = scheme
        with self.live.case(f"{self.name}, --dtype {dtype}, {mode} {bits}/{group}") as folder:
            source, ours, theirs = folder / "source", folder / "mlxq", folder / "mlx-lm"
            write_source(source, self.family, Variant("cast", stored=("F32",)), self.rng)
            mlx_convert(source, theirs, quantize=True, q_mode=mode, q_bits=bits, q_group_size=group, dtype=dtype)
            self.live.run("quantize", source, ours, "--mode", mode, "--bits", bits, "--group-size", group, "--dtype", dtype)
            self.compare(ours, theirs, source)
            for other in OPTION.values():
                if other != dtype:
                    self.cast_dense(theirs, folder / f"mlxq {other}", folder / f"mlx-lm {other}", other)

    def cast_dense(self, source, ours, theirs, dtype):
        """`dequantize --dtype`. mlx-lm's scale-only modes ignore the dtype; mlxq gives the layers what mx.dequantize gives."""
        mlx_convert(source, theirs, dequantize=True, dtype=dtype)
        packed = read_safetensors(source / "model.safetensors")[0]
        layers = [name.removesuffix(".scales") for name in packed if name.endswith(".scales")]
        layers = [layer for layer in layers if f"{layer}.biases" not in packed]
        dequantize_left(source, theirs, layers, getattr(mx, dtype))
        self.live.run("dequantize", source, ours, "--dtype", dtype)
        self.compare(ours, theirs, source)

    def refused(self, what, reason):
        """What families.py says mlx-lm refuses, it still refuses. mlxq drops the tensors in question."""
        with self.live.case(f"{self.name}, refused {what}") as folder:
            clean, source, ours, theirs = folder / "clean", folder / "source", folder / "mlxq", folder / "mlx-lm"
            write_source(clean, self.family, Variant("clean", tied=what == "tied lm_head"), self.rng)
            shutil.copytree(clean, source)
            options = {"quantize": True}
            if what == "recipe":
                options |= {"quant_predicate": "mixed_3_6", "q_group_size": 64}
            else:
                layers = max(2, self.family.least_layers)
                extra = self.family.shapes(layers, lm_head=what == "tied lm_head", inv_freq=what == "inv_freq")
                held, _ = read_safetensors(source / "model.safetensors")
                extra = {name: tensor(mx.zeros(shape)) for name, shape in extra.items() if name not in held}
                write_safetensors(source / "model.safetensors", held | extra)
            try:
                mlx_convert(source, theirs, **options)
            except ValueError:
                pass
            else:
                raise Mismatch(f"mlx-lm accepts {what}, although families.py says it does not, because {reason}")
            if what != "recipe":
                mlx_convert(clean, theirs, **options)
                self.live.run("quantize", source, ours)
                self.compare(ours, theirs, source)

    def shards(self, scheme):
        """Small shards, in mlx-lm's order of tensors and in another; the sharded result back to dense, in shards again."""
        mode, bits, group = scheme
        options = {"quantize": True, "q_mode": mode, "q_bits": bits, "q_group_size": group}
        scheme_options = ["--mode", mode, "--bits", bits, "--group-size", group]
        with self.live.case(f"{self.name}, shards, {mode} {bits}/{group}") as folder:
            shuffled, ordered = folder / "shuffled", folder / "in mlx-lm's order"
            write_source(shuffled, self.family, Variant("shards", tied=self.number % 2 == 0), self.rng)
            shutil.copytree(shuffled, ordered)
            sizes = mlx_convert(shuffled, folder / "whole", **options)
            held, _ = read_safetensors(shuffled / "model.safetensors")
            of_source = (name.removesuffix(".scales").removesuffix(".biases") for name in sizes)
            names = dict.fromkeys(name if name in held else f"{name}.weight" for name in of_source)
            held = {name: held[name] for name in names} | held
            write_safetensors(ordered / "model.safetensors", held, {"format": "pt"}, keep_order=True)
            permuted = {name: held[name] for name in self.rng.permutation(list(held))}
            write_safetensors(shuffled / "model.safetensors", permuted, {"format": "pt"}, keep_order=True)
            largest, some = max(sizes.values()), list(sizes.values())[: int(self.rng.integers(2, len(sizes)))]
            limits = [sum(sizes.values()) // 3, largest, largest - 1, sum(some), sum(some) - 1, 1]
            limit = limits[self.number % len(limits)]
            for source in (ordered, shuffled):
                ours, theirs = folder / f"mlxq {source.name}", folder / f"mlx-lm {source.name}"
                mlx_convert(source, theirs, limit, **options)
                self.live.run("quantize", source, ours, *scheme_options, "--max-shard-size", limit)
                self.compare(ours, theirs, source, limit=limit, same_order=source is ordered)
            dense, dense_theirs = folder / "mlxq dense", folder / "mlx-lm dense"
            mlx_convert(theirs, dense_theirs, limit, dequantize=True)
            self.live.run("dequantize", theirs, dense, "--max-shard-size", limit)
            self.compare(dense, dense_theirs, theirs, limit=limit, same_order=False)

    def expect_refusal(self, source, status, *more):
        """Both directions refuse the folder with this status and leave nothing behind."""
        for command in ("quantize", "dequantize"):
            ours = source.parent / f"{source.name} {command}"
            error = self.live.run_refused(command, source, ours, *more)
            if error["status"] != status:
                raise Mismatch(f"status is {error['status']}, expected {status}: {error['message']}")
            if ours.exists():
                raise Mismatch(f"{ours.name} is there, although {command} failed")
            self.refusals += 1

    def undescribed(self, default, own, status):
        """Packed layers that config.json describes by a wrong default, or not at all."""
        mode, bits, group = default
        with self.live.case(f"{self.name}, undescribed, {default} {own}") as folder:
            source, theirs, unmentioned, bare = (folder / name for name in ("source", "mlx-lm", "unmentioned", "bare"))
            write_source(source, self.family, Variant("undescribed"), self.rng)
            predicate = own_predicate(self.family)
            own_option = dict(zip(("mode", "bits", "group_size"), own))
            block, mlp = self.family.block, self.family.mlp

            def choose(path, module):
                return own_option if path.startswith(f"{block}.0.{mlp}.") else predicate(path, module)

            mlx_convert(source, theirs, quantize=True, q_mode=mode, q_bits=bits, q_group_size=group, quant_predicate=choose)
            config = json.loads((theirs / "config.json").read_text())
            for target in (unmentioned, bare):
                shutil.copytree(theirs, target)
                for key in ("quantization", "quantization_config"):
                    entries = {path: entry for path, entry in config[key].items() if not path.startswith(f"{block}.0.{mlp}.")}
                    config[key] = entries
                    if target is bare:
                        del config[key]
                (target / "config.json").write_text(json.dumps(config))
            compare_tensor("logits without the entries", logits(unmentioned), logits(theirs))
            self.expect_refusal(unmentioned, status)
            try:
                load(bare)
            except Mismatch:
                pass
            else:
                raise Mismatch("mlx-lm loads packed layers without a quantization block, although this test says it does not")
            self.expect_refusal(bare, "invariant")

    def all_cases(self):
        for i, variant in enumerate(VARIANTS):
            for j in range(self.schemes_per_variant):
                scheme = SCHEMES[(self.number + i + j * len(SCHEMES) // SCHEMES_PER_VARIANT) % len(SCHEMES)]
                self.quantize_and_back(variant, scheme, run_too=j == 0)
                if j == 0:
                    self.schemes_loaded.add(scheme)
        if "recipe" not in self.family.refused:
            self.recipe(*RECIPES[0])
            self.recipe(*RECIPES[1 + self.number % (len(RECIPES) - 1)])
        self.parts(SCHEMES[self.number % len(SCHEMES)], SCHEMES[(self.number + 1) % len(SCHEMES)])
        self.shards(SCHEMES[(self.number + 4) % len(SCHEMES)])
        self.undescribed(*UNMENTIONED[self.number % len(UNMENTIONED)])
        self.cast(list(OPTION.values())[self.number % len(OPTION)], SCHEMES[(self.number + 3) % len(SCHEMES)])
        for what, reason in self.family.refused.items():
            self.refused(what, reason)


class MoeTest(FolderTest):
    """The cases of one family of families_moe.py."""

    def convert_both(self, folder, variant, scheme, run_too):
        """Quantizes, in one file and in small ones. Returns (the source, mlx-lm's result, the limit)."""
        mode, bits, group = scheme
        source, ours, theirs = folder / "source", folder / "mlxq", folder / "mlx-lm"
        write_source(source, self.family, variant, self.rng)
        sizes = list(mlx_convert(source, theirs, quantize=True, q_mode=mode, q_bits=bits, q_group_size=group).values())
        self.live.run("quantize", source, ours, "--mode", mode, "--bits", bits, "--group-size", group)
        self.compare(ours, theirs, source, run_too)
        limits = [sum(sizes) // 3, max(sizes), max(sizes) - 1, 1]
        return source, theirs, limits[self.number % len(limits)]

    def whole_and_sharded(self, variant, scheme):
        """Quantizes and goes back, each in one file and in small ones."""
        mode, bits, group = scheme
        with self.live.case(f"{self.name}, {variant.label}, {mode} {bits}/{group}") as folder:
            source, theirs, limit = self.convert_both(folder, variant, scheme, run_too=True)
            sharded, dense, dense_theirs = folder / "mlxq shards", folder / "mlxq dense shards", folder / "mlx-lm dense"
            options = ["--mode", mode, "--bits", bits, "--group-size", group, "--max-shard-size", limit]
            self.live.run("quantize", source, sharded, *options)
            self.compare(sharded, theirs, source, limit=limit, same_order=False)
            self.dequantize(folder, theirs, run_too=True)
            self.live.run("dequantize", sharded, dense, "--max-shard-size", limit)
            self.compare(dense, dense_theirs, sharded, limit=limit, same_order=False)

    def once(self, variant, scheme, back):
        mode, bits, group = scheme
        with self.live.case(f"{self.name}, {variant.label}, {mode} {bits}/{group}") as folder:
            _, theirs, _ = self.convert_both(folder, variant, scheme, run_too=back)
            if back:
                self.dequantize(folder, theirs, run_too=False)
                # what is dense again has mlx-lm's names and shapes, and must be left as it is
                dense, ours_again, theirs_again = folder / "mlx-lm dense", folder / "mlxq again", folder / "mlx-lm again"
                mlx_convert(dense, theirs_again, quantize=True)
                self.live.run("quantize", dense, ours_again)
                self.compare(ours_again, theirs_again, dense)

    def unpack(self):
        """A checkpoint in FP8 or MXFP4 as it was published, to dense."""
        with self.live.case(f"{self.name}, unpacked") as folder:
            source, ours, theirs = folder / "source", folder / "mlxq", folder / "mlx-lm"
            write_source(source, self.family, Variant("unpacked"), self.rng)
            mlx_convert(source, theirs, dequantize=True)
            self.live.run("dequantize", source, ours)
            self.compare(ours, theirs, source, run_too=True)

    def expect_error(self, source, status, key=None):
        ours = source.parent / f"{source.name} refused"
        error = self.live.run_refused("quantize", source, ours)
        if error["status"] != status or (key and error["key"] != key):
            raise Mismatch(f"{source.name}: {error['status']} of {error['key']}, expected {status} of {key}: {error['message']}")
        if ours.exists():
            raise Mismatch(f"{ours.name} is there, although quantize failed")
        self.refusals += 1

    def odd_experts(self):
        """Experts that are missing, or smaller than the others."""
        for what in ("the first", "one in the middle", "the last", "a smaller one"):
            with self.live.case(f"{self.name}, experts, {what}") as folder:
                source, odd = folder / "source", folder / "odd"
                write_source(source, self.family, Variant("experts"), self.rng)
                held, metadata = read_safetensors(source / "model.safetensors")
                experts = [name for name in held if re.match(rf"{self.family.block}\..*\.experts\.\d+\..*weight$", name)]
                if not experts:
                    return
                last = max(int(re.search(r"\.experts\.(\d+)\.", name)[1]) for name in experts)
                number = {"the first": 0, "one in the middle": int(self.rng.integers(1, last))}.get(what, last)
                name = str(self.rng.choice([name for name in experts if f".experts.{number}." in name]))
                t = held.pop(name)
                status = "missing_key"
                if what == "a smaller one":
                    held[name] = Tensor(t.dtype, t.bits[:-32])
                    status = "shape_mismatch"
                shutil.copytree(source, odd)
                write_safetensors(odd / "model.safetensors", held, metadata)
                self.expect_error(odd, status, name)

    def packed_experts(self):
        """Experts packed one by one, with scales and biases of their own."""
        with self.live.case(f"{self.name}, experts, packed one by one") as folder:
            source, packed, ours, theirs = folder / "source", folder / "packed", folder / "mlxq", folder / "mlx-lm"
            write_source(source, self.family, Variant("packed"), self.rng)
            mlx_convert(source, packed, quantize=True)
            held, metadata = read_safetensors(packed / "model.safetensors")
            names = {"gate": "w1", "up": "w3", "down": "w2"} if self.family.mlp == "block_sparse_moe" else {}
            for name in list(held):
                found = re.fullmatch(r"(.*)\.(switch_mlp|experts)\.(gate|up|down)_proj\.(.*)", name)
                if found:
                    t, last = held.pop(name), names.get(found[3], f"{found[3]}_proj")
                    held |= {f"{found[1]}.experts.{e}.{last}.{found[4]}": Tensor(t.dtype, t.bits[e]) for e in range(len(t.bits))}
            write_safetensors(packed / "model.safetensors", held, metadata)
            (packed / "model.safetensors.index.json").unlink()
            self.mlx_dequantize(packed, theirs)
            self.live.run("dequantize", packed, ours)
            self.compare(ours, theirs, packed)

    def odd_scales(self):
        """FP8 matrices that have no scales, or scales of another dtype; experts of which one is dense."""
        cases = ["a matrix without", "the first expert without", "the last expert without", "in BF16", "one expert dense"]
        if self.family.model_type == "mimo_v2_flash":
            cases.append("for more blocks than there are")  # the others' classes refuse these
        for what in cases:
            with self.live.case(f"{self.name}, scales, {what}") as folder:
                source, odd, ours, theirs = folder / "source", folder / "odd", folder / "mlxq", folder / "mlx-lm"
                write_source(source, self.family, Variant("scales", tied=True), self.rng)
                held, metadata = read_safetensors(source / "model.safetensors")
                scales = [name for name in held if re.match(rf"{self.family.block}\.[01]\..*_scale_inv$", name)]
                experts = [name for name in scales if ".experts." in name]
                number = {"the first expert without": 0, "the last expert without": EXPERTS - 1}.get(what, 1)
                of_number = [name for name in experts if f".experts.{number}." in name]
                choices = [name for name in scales if name not in experts] if what == "a matrix without" else of_number
                name = str(self.rng.choice(choices))
                if what == "in BF16":
                    held |= {scale: tensor(held[scale].mlx().astype(mx.bfloat16)) for scale in scales}
                elif what.startswith("for more"):
                    held[name] = Tensor("F32", np.concatenate([held[name].bits, held[name].bits]))
                else:
                    del held[name]
                if what == "one expert dense":
                    weight = name.removesuffix("_scale_inv")
                    held[weight] = random_tensor(weight, "BF16", held[weight].shape, self.rng)
                shutil.copytree(source, odd)
                write_safetensors(odd / "model.safetensors", held, metadata)
                if what.endswith("without"):
                    self.expect_error(odd, "missing_key", name)
                    continue
                mlx_convert(odd, theirs, quantize=True)
                self.live.run("quantize", odd, ours)
                self.compare(ours, theirs, odd)

    def unsupported(self):
        with self.live.case(f"{self.name}, unsupported") as folder:
            write_source(folder / "source", self.family, Variant("unsupported"), self.rng)
            self.expect_error(folder / "source", "unsupported")

    def all_cases(self):
        for i, (variant, schemes) in enumerate(MOE_VARIANTS):
            scheme = schemes[self.number % len(schemes)]
            if i == 0:
                self.whole_and_sharded(variant, scheme)
            else:
                self.once(variant, scheme, back=i == 1)
            self.done.add(variant.label)
        if "recipe" not in self.family.refused:
            self.recipe(*RECIPES[self.number % len(RECIPES)], layers=4, back=False)
        if self.name in IN_PARTS:
            self.parts(SCHEMES[self.number % len(SCHEMES)], SCHEMES[(self.number + 1) % len(SCHEMES)])
        if "quantization_config" in self.family.config:
            self.unpack()
        self.odd_experts()
        if self.family.model_type in PACKED_ONE_BY_ONE:
            self.packed_experts()
        if any(name.endswith("_scale_inv") for name in self.family.stored):
            self.odd_scales()
        for what, reason in self.family.refused.items():
            self.refused(what, reason)


def refuse_other_forms(live):
    """Forms of a family that can be converted which mlx-lm does not load: nothing to be equal to."""
    test = MoeTest(live, "gpt_oss dense", 0, MOE["gpt_oss dense"])
    with live.case("gpt_oss as transformers saves it") as folder:
        source = folder / "source"
        write_source(source, test.family, Variant("dense"), test.rng)
        held, metadata = read_safetensors(source / "model.safetensors")
        for name in [name for name in held if name.endswith(("experts.gate_up_proj.weight", "experts.down_proj.weight"))]:
            t = held.pop(name)
            held[name.removesuffix(".weight")] = Tensor(t.dtype, np.swapaxes(t.bits, 1, 2))
        write_safetensors(source / "model.safetensors", held, metadata)
        test.expect_error(source, "unsupported")
    family = MOE["qwen3_moe"]
    family = replace(
        family,
        config=family.config | {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
        layer=with_scales(family.layer),
        first=tuple(map(with_scales, family.first)),
        mixed=tuple(map(with_scales, family.mixed)),
        stored={"*.weight_scale_inv": "F32", "*_proj.weight": "F8_E4M3"},
    )
    MoeTest(live, "qwen3_moe in FP8", 0, family).unsupported()


def check_not_compared(live):
    """The reasons why families are not compared still hold."""
    for model_type, reason in NOT_COMPARED.items():
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                mlx_lm.utils._get_classes({"model_type": model_type})
        except SystemExit:
            continue
        live.require(False, f"{model_type} can be compared now; families.py says that {reason}")


def main():
    options = {"--family": "only the families that this regular expression is found in"}
    live = LiveTest("test_folders", __doc__, options)
    chosen = live.options.family or ""
    check_not_compared(live)
    totals = dict.fromkeys(("conversions", "loaded", "run_pairs", "shards_compared", "refusals"), 0)
    least = tested = 0
    families = FAMILIES | FURTHER
    for number, (name, family) in enumerate([*families.items(), *MOE.items()]):
        if not re.search(chosen, name):
            continue
        dense = number < len(families)
        test = (FolderTest if dense else MoeTest)(live, name, number, family)
        if name in UNSUPPORTED and not dense:
            test.unsupported()
            live.require(live.failures or test.refusals == 1, f"{name}: not refused")
        elif dense:
            test.all_cases()
            wanted = {variant.label for variant in VARIANTS} | set(SCHEMES)
            live.require(live.failures or test.done == wanted, f"{name}: not done: {wanted - test.done}")
            live.require(live.failures or test.schemes_loaded == set(SCHEMES), f"{name}: not every scheme was loaded")
            live.require(live.failures or test.refusals == 4, f"{name}: {test.refusals} refusals, not 4")
            live.require(live.failures or test.card.text is not None, f"{name}: no model card of mlx-lm")
            least += 2 * len(VARIANTS) * test.schemes_per_variant + 5
        else:
            test.all_cases()
            least += 4 + 3 + 3
        for what in totals:
            totals[what] += getattr(test, what)
        tested += 1
    if re.search(chosen, "gpt_oss"):
        refuse_other_forms(live)
    live.require(live.failures or tested, "no family")
    live.require(live.failures or totals["conversions"] >= least, "too few conversions")
    live.require(live.failures or totals["shards_compared"] > 5 * tested, "too few shards")
    live.finish(
        f"{totals['conversions']} conversions of {tested} families, {totals['loaded']} results loaded, "
        f"{totals['run_pairs']} pairs of models run, {totals['shards_compared']} shards, {totals['refusals']} refusals, "
        f"not compared: {', '.join(NOT_COMPARED)}"
    )


if __name__ == "__main__":
    main()
