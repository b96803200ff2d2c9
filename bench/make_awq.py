"""Writes a synthetic Llama checkpoint packed as AutoAWQ's GEMM packs it: for benchmarks of importing.

The defaults are of the size of TinyLlama, 1.1 billion parameters: 0.77 GB. Codes, zero points and scales are random;
layers are packed in groups of 128, embeddings, norms and lm_head are float16. Needs numpy only.
"""

import argparse
import json
import struct
from pathlib import Path

import numpy as np
from make_llama import config_of, tensor_shapes, write_tokenizer

GROUP = 128
PACKED = ("self_attn", "mlp")


def parts_of(name, shape):
    """[(name, dtype, shape)] of a tensor as it is stored."""
    if not any(f".{part}." in name for part in PACKED):
        return [(name, "F16", shape)]
    layer, (outs, ins) = name.removesuffix(".weight"), shape
    return [
        (f"{layer}.qweight", "I32", (ins, outs // 8)),
        (f"{layer}.qzeros", "I32", (ins // GROUP, outs // 8)),
        (f"{layer}.scales", "F16", (ins // GROUP, outs)),
    ]


def values(rng, name, dtype, shape):
    if dtype == "I32":
        return rng.integers(0, 1 << 32, shape, np.uint32)
    if name.endswith(".scales"):
        return (rng.random(shape, np.float32) * 0.004 + 0.001).astype(np.float16)
    mean = np.float32("norm" in name)
    return (rng.standard_normal(shape, np.float32) * np.float32(0.02) + mean).astype(np.float16)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("folder", type=Path, help="a finished checkpoint with the same config.json is left as it is")
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--intermediate", type=int, default=5632)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args()

    quantization = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}
    config = json.dumps(config_of(o) | {"torch_dtype": "float16", "quantization_config": quantization}, indent=2)
    config_path = o.folder / "config.json"  # written last, so its presence says that the checkpoint is whole
    if config_path.exists() and config_path.read_text() == config:
        print(f"{o.folder} exists already")
        return
    o.folder.mkdir(parents=True, exist_ok=True)
    parts = [part for name, shape in tensor_shapes(o).items() for part in parts_of(name, shape)]
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape in parts:
        size = int(np.prod(shape)) * (4 if dtype == "I32" else 2)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(o.seed)
    with open(o.folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, dtype, shape in parts:
            file.write(values(rng, name, dtype, shape).data)
    write_tokenizer(o.folder)
    config_path.write_text(config)
    print(f"{o.folder}: {len(parts)} tensors, {end / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
