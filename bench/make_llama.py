"""Writes a synthetic Llama checkpoint in bfloat16, as Hugging Face would ship one: for benchmarks and for tests of memory.

The defaults are of the size of Llama 3.2 1B: 2.2 GB in two shards. Weights are drawn and written a few MiB at a time,
so memory does not depend on the size. Needs numpy only.
"""

import argparse
import json
import math
import struct
from pathlib import Path

import numpy as np

CHUNK = 1 << 22  # elements drawn at a time
STANDARD_DEVIATION = 0.02
HEAD_SIZE = 64
QUERIES_PER_KEY = 4


def tensor_shapes(o):
    """{name: shape} in the order of the layers."""
    hidden, kv = o.hidden, o.hidden // QUERIES_PER_KEY
    shapes = {"model.embed_tokens.weight": (o.vocab, hidden)}
    for i in range(o.layers):
        layer = f"model.layers.{i}."
        shapes |= {
            layer + "input_layernorm.weight": (hidden,),
            layer + "self_attn.q_proj.weight": (hidden, hidden),
            layer + "self_attn.k_proj.weight": (kv, hidden),
            layer + "self_attn.v_proj.weight": (kv, hidden),
            layer + "self_attn.o_proj.weight": (hidden, hidden),
            layer + "post_attention_layernorm.weight": (hidden,),
            layer + "mlp.gate_proj.weight": (o.intermediate, hidden),
            layer + "mlp.up_proj.weight": (o.intermediate, hidden),
            layer + "mlp.down_proj.weight": (hidden, o.intermediate),
        }
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (o.vocab, hidden)}


def split(shapes, shards):
    """The names in `shards` runs of about equal size."""
    total, held, runs = sum(map(math.prod, shapes.values())), 0, [[] for _ in range(shards)]
    for name, shape in shapes.items():
        runs[min(held * shards // total, shards - 1)].append(name)
        held += math.prod(shape)
    return runs


def bfloat16(values):
    """The bits of float32 values rounded to bfloat16, nearest, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def write_shard(path, names, shapes, rng):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in names:
        size = 2 * math.prod(shapes[name])
        header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            left, mean = math.prod(shapes[name]), np.float32("norm" in name)
            while left > 0:
                values = rng.standard_normal(min(left, CHUNK), np.float32) * np.float32(STANDARD_DEVIATION) + mean
                file.write(bfloat16(values).data)
                left -= CHUNK


def config_of(o):
    return {
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 0,
        "eos_token_id": 1,
        "head_dim": HEAD_SIZE,
        "hidden_act": "silu",
        "hidden_size": o.hidden,
        "intermediate_size": o.intermediate,
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "num_attention_heads": o.hidden // HEAD_SIZE,
        "num_hidden_layers": o.layers,
        "num_key_value_heads": o.hidden // HEAD_SIZE // QUERIES_PER_KEY,
        "rms_norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": o.vocab,
    }


def write_tokenizer(folder):
    """The least that mlx_lm.convert accepts: it loads a tokenizer before it converts."""
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"<s>": 0, "</s>": 1, "<unk>": 2}, "unk_token": "<unk>"},
    }
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def options_of(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("folder", type=Path, help="a finished checkpoint with the same config.json is left as it is")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=2048, help=f"a multiple of {HEAD_SIZE * QUERIES_PER_KEY}")
    parser.add_argument("--intermediate", type=int, default=8192)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args(arguments)
    if o.hidden % (HEAD_SIZE * QUERIES_PER_KEY):
        parser.error(f"--hidden must be a multiple of {HEAD_SIZE * QUERIES_PER_KEY}")
    return o


def make(o, rng):
    """Writes the checkpoint, with numbers from `rng`."""
    config = json.dumps(config_of(o), indent=2)
    config_path = o.folder / "config.json"  # written last, so its presence says that the checkpoint is whole
    if config_path.exists() and config_path.read_text() == config:
        print(f"{o.folder} exists already")
        return
    o.folder.mkdir(parents=True, exist_ok=True)
    shapes, weight_map = tensor_shapes(o), {}
    for i, names in enumerate(split(shapes, o.shards)):
        file = f"model-{i + 1:05}-of-{o.shards:05}.safetensors"
        write_shard(o.folder / file, names, shapes, rng)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": 2 * sum(map(math.prod, shapes.values()))}, "weight_map": weight_map}
    (o.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    write_tokenizer(o.folder)
    config_path.write_text(config)


if __name__ == "__main__":
    options = options_of()
    make(options, np.random.default_rng(options.seed))
