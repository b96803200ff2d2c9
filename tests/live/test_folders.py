"""Whole folders against mlx-lm: tiny models of every family, converted by mlx_lm.convert and by mlxq, must be equal.

Equal means: the same tensors with the same bytes, the same config.json, index and metadata, and the same logits once
mlx_lm has loaded the two results. Each family (families.py) occurs with every scheme, with every way of keeping a
checkpoint (VARIANTS), with recipes, with layers left out or given another scheme, already quantized in part, and
back to dense.
"""

import contextlib
import io
import json
import os
import shutil
from dataclasses import dataclass

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import mlx.core as mx
import mlx_lm.utils
import numpy as np
from common import DTYPES, OPTION, LiveTest, Mismatch, compare_tensor, compare_tensors, read_safetensors, tensor, write_safetensors
from expected import dequantize
from families import FAMILIES
from mlx_lm.convert import convert
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

mlx_lm.utils.create_model_card = lambda *_: None  # its template takes longer than the conversion, and is not compared

SCHEMES = [("affine", 4, 64), ("affine", 3, 32), ("affine", 8, 128), ("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]
SCHEMES_PER_VARIANT = 2
RECIPES = [("mixed_3_6", 64), ("mixed_2_6", 32), ("mixed_4_6", 128), ("mixed_3_4", 64)]
RECIPE_LAYERS = 9  # from 8 layers on, the first eighth of them is a layer too
OTHER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")

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
    Variant("tied in two shards", tied=True, stored=("F16",), shards=2, index=True),
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
    Variant("unusual config", stored=("F32",), torch_dtype="float16", extra_keys=UNUSUAL_KEYS, generation_config="{broken"),
    Variant("inv_freq", inv_freq=True, stored=("F16",), torch_dtype="float32", generation_config='{"eos_token_id": 0}'),
    Variant("mixed dtypes", stored=("F32", "BF16", "F16"), torch_dtype=None, shards=2, index=True),
    Variant("dtype keys to ignore", stored=("F32",), torch_dtype=None, extra_keys='"dtype": "float16", "architecture": null,'),
    Variant("text_config", torch_dtype=None, extra_keys='"text_config": {"dtype": "float16", "b": 1, "a": 2},'),
    Variant("dtype not castable to", tied=True, stored=("F16",), torch_dtype="float64"),
]


def write_tokenizer(folder):
    """A byte-level tokenizer without merges: all that mlx_lm.load needs."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_weights(folder, shapes, variant, rng):
    """Random weights of these shapes, in the variant's dtypes and files."""
    tensors = {}
    for i, (name, shape) in enumerate(shapes.items()):
        dtype = variant.stored[i % len(variant.stored)]
        values = rng.normal(size=shape) * 0.08 + ("norm" in name)
        tensors[name] = tensor(mx.array(values, mx.float32).astype(DTYPES[dtype][0]))
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
    config = family.config_of(variant.layers)
    if variant.torch_dtype is not None:
        config["torch_dtype"] = variant.torch_dtype
    if tie_key is not None:
        config["tie_word_embeddings"] = tie_key
    (folder / "config.json").write_text("{" + variant.extra_keys + json.dumps(config)[1:])
    if variant.generation_config is not None:
        (folder / "generation_config.json").write_text(variant.generation_config)
    write_weights(folder, family.shapes(variant.layers, lm_head, inv_freq), variant, rng)
    write_tokenizer(folder)


def mlx_convert(source, destination, **options):
    """mlx_lm.convert without its prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        convert(str(source), str(destination), **options)


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
    if family.tie == "config" and "tie_word_embeddings" not in json.loads((source / "config.json").read_text()):
        if any("lm_head.weight" in read_safetensors(path)[0] for path in source.glob("*.safetensors")):
            config["tie_word_embeddings"] = family.tie_default
    for key in ("quantization", "quantization_config"):
        if skipped:
            config[key] |= dict.fromkeys(skipped, False)
    return config


def logits(folder):
    """What the model of a folder answers to a fixed prompt, loaded strictly."""
    try:
        model, _ = mlx_lm.utils.load(str(folder))
    except Exception as error:
        raise Mismatch(f"mlx_lm.load refuses {folder}: {error!r}") from error
    return tensor(model(mx.array([[0, 17, 42, 99, 200, 1]])))


def own_predicate(config):
    """The choice a model class of mlx-lm makes for its own layers, if it makes any."""
    prop = vars(mlx_lm.utils._get_classes(config)[0]).get("quant_predicate")
    return prop.fget(None) if prop else lambda path, module: True


class FolderTest:
    """The cases of one family."""

    def __init__(self, live, name, number):
        self.live, self.name, self.number, self.family = live, name, number, FAMILIES[name]
        self.rng = np.random.default_rng([live.seed, number])
        self.conversions = 0
        self.loaded = 0
        self.done = set()

    def compare(self, actual, expected, source, load_too=False, skipped=()):
        """Compares the folder mlxq wrote with mlx-lm's."""
        config = permitted_config(self.family, source, expected, skipped)
        compare_json("config.json", json.loads((actual / "config.json").read_text()), config)
        actual_tensors, actual_index = read_folder(actual)
        expected_tensors, expected_index = read_folder(expected)
        self.live.count(compare_tensors(actual_tensors, expected_tensors))
        compare_json("index metadata", actual_index["metadata"], expected_index["metadata"])
        for name in OTHER_FILES:
            if (source / name).exists() and (not (actual / name).exists() or (actual / name).read_bytes() != (source / name).read_bytes()):
                raise Mismatch(f"{name} is not the source's")
        self.conversions += 1
        if load_too:
            compare_tensor("logits", logits(actual), logits(expected))
            self.loaded += 1

    def quantize_and_back(self, variant, scheme, load_too):
        mode, bits, group = scheme
        with self.live.case(f"{self.name}, {variant.label}, {mode} {bits}/{group}") as folder:
            source, ours, theirs = folder / "source", folder / "mlxq", folder / "mlx-lm"
            write_source(source, self.family, variant, self.rng)
            mlx_convert(source, theirs, quantize=True, q_mode=mode, q_bits=bits, q_group_size=group)
            self.live.run("quantize", source, ours, "--mode", mode, "--bits", bits, "--group-size", group)
            self.compare(ours, theirs, source, load_too)
            self.dequantize(folder, theirs, load_too)
            self.done |= {variant.label, scheme}

    def dequantize(self, folder, source, load_too):
        """Back to dense. In the scale-only modes mlx-lm makes bfloat16 of every layer, whatever the model's dtype."""
        ours, theirs = folder / "mlxq dense", folder / "mlx-lm dense"
        mlx_convert(source, theirs, dequantize=True)
        self.live.run("dequantize", source, ours)
        self.compare(ours, theirs, source, load_too=load_too)

    def recipe(self, recipe, group):
        variant = Variant(recipe, layers=RECIPE_LAYERS, tied=self.number % 2 == 0)
        with self.live.case(f"{self.name}, {recipe} group {group}") as folder:
            source, ours, theirs = folder / "source", folder / "mlxq", folder / "mlx-lm"
            write_source(source, self.family, variant, self.rng)
            mlx_convert(source, theirs, quantize=True, q_group_size=group, quant_predicate=recipe)
            self.live.run("quantize", source, ours, "--recipe", recipe, "--group-size", group)
            self.compare(ours, theirs, source, load_too=True)
            self.dequantize(folder, theirs, load_too=False)

    def parts(self, scheme, second):
        """Layer 1 left dense and layer 0's MLP in another scheme; then the rest of that result quantized in a second run."""
        mode, bits, group = scheme
        with self.live.case(f"{self.name}, in parts, {mode} {bits}/{group}") as folder:
            source, ours, theirs = folder / "source", folder / "mlxq", folder / "mlx-lm"
            write_source(source, self.family, Variant("parts", tied=self.number % 2 == 1), self.rng)
            default = own_predicate(self.family.config)
            skipped = []

            def choose(path, module):
                if path.startswith("model.layers.1."):
                    skipped.append(path)
                    return False
                if path.startswith("model.layers.0.mlp."):
                    return {"group_size": 32, "bits": 6, "mode": "affine"}
                return default(path, module)

            mlx_convert(source, theirs, quantize=True, q_mode=mode, q_bits=bits, q_group_size=group, quant_predicate=choose)
            override = "model.layers.0.mlp.*=bits:6,group_size:32,mode:affine"
            scheme_options = ["--mode", mode, "--bits", bits, "--group-size", group]
            self.live.run("quantize", source, ours, *scheme_options, "--skip", "model.layers.1.*", "--override", override)
            self.compare(ours, theirs, source, load_too=True, skipped=skipped)

            mode, bits, group = second
            ours_again, theirs_again = folder / "mlxq again", folder / "mlx-lm again"
            mlx_convert(theirs, theirs_again, quantize=True, q_mode=mode, q_bits=bits, q_group_size=group)
            self.live.run("quantize", theirs, ours_again, "--mode", mode, "--bits", bits, "--group-size", group)
            self.compare(ours_again, theirs_again, theirs, load_too=True)

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
        quantization = json.loads((source / "config.json").read_text())["quantization"]
        packed, dense = read_safetensors(source / "model.safetensors")[0], read_safetensors(theirs / "model.safetensors")[0]
        for layer in [name.removesuffix(".scales") for name in packed if name.endswith(".scales")]:
            parts = {key: packed[f"{layer}.{key}"] for key in ("weight", "scales", "biases") if f"{layer}.{key}" in packed}
            if "biases" not in parts:
                scheme = quantization["mode"], quantization["bits"], quantization["group_size"]
                dense[f"{layer}.weight"] = dequantize(parts, *scheme, getattr(mx, dtype))
        write_safetensors(theirs / "model.safetensors", dense, {"format": "mlx"})
        index = json.loads((theirs / "model.safetensors.index.json").read_text())
        index["metadata"]["total_size"] = sum(t.bits.nbytes for t in dense.values())
        (theirs / "model.safetensors.index.json").write_text(json.dumps(index))
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
                extra = self.family.shapes(2, lm_head=what == "tied lm_head", inv_freq=what == "inv_freq")
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

    def all_cases(self):
        for i, variant in enumerate(VARIANTS):
            for j in range(SCHEMES_PER_VARIANT):
                scheme = SCHEMES[(self.number + i + j * len(SCHEMES) // SCHEMES_PER_VARIANT) % len(SCHEMES)]
                self.quantize_and_back(variant, scheme, load_too=j == 0)
        if "recipe" not in self.family.refused:
            self.recipe(*RECIPES[0])
            self.recipe(*RECIPES[1 + self.number % (len(RECIPES) - 1)])
        self.parts(SCHEMES[self.number % len(SCHEMES)], SCHEMES[(self.number + 1) % len(SCHEMES)])
        self.cast(list(OPTION.values())[self.number % len(OPTION)], SCHEMES[(self.number + 3) % len(SCHEMES)])
        for what, reason in self.family.refused.items():
            self.refused(what, reason)


def main():
    live = LiveTest("test_folders", __doc__)
    conversions = loaded = 0
    for number, name in enumerate(FAMILIES):
        test = FolderTest(live, name, number)
        test.all_cases()
        wanted = {variant.label for variant in VARIANTS} | set(SCHEMES)
        live.require(live.failures or test.done == wanted, f"{name}: not done: {wanted - test.done}")
        conversions += test.conversions
        loaded += test.loaded
    live.require(live.failures or conversions >= len(FAMILIES) * 2 * len(VARIANTS) * SCHEMES_PER_VARIANT, "too few conversions")
    live.finish(f"{conversions} conversions of {len(FAMILIES)} families, {loaded} pairs of models run")


if __name__ == "__main__":
    main()
