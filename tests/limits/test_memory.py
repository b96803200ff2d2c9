"""The memory promise: 64 MiB + threads x 8 MiB + 512 bytes x tensors, whatever the model's size.

Runs mlxq on one large sparse tensor and on a folder of very many small ones, and compares the peak resident set that
the kernel reports for it. Standard library only: python3 tests/limits/test_memory.py PATH_OF_MLXQ
"""

import json
import os
import struct
import sys
import tempfile
from pathlib import Path

MIB = 1 << 20
THREADS = 2


def write_safetensors(path, shapes):
    """A file of BF16 tensors whose data is a hole, which reads as zeros."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * shape[1]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def peak_bytes(command):
    """Runs a command to success; its peak resident set."""
    pid = os.spawnv(os.P_NOWAIT, command[0], command)
    _, status, usage = os.wait4(pid, 0)
    if status != 0:
        sys.exit(f"failed with status {status}: {' '.join(command)}")
    return usage.ru_maxrss * 1024


def check(mlxq, folder, name, shapes):
    source = Path(folder, name)
    source.mkdir()
    write_safetensors(source / "model.safetensors", shapes)
    (source / "config.json").write_text('{"model_type": "llama", "tie_word_embeddings": false}')
    quantized, dense = Path(folder, name + "-q"), Path(folder, name + "-d")
    options = ["--quiet", "--threads", str(THREADS)]
    for tensors, command in (
        (3 * len(shapes), ["quantize", str(source), str(quantized)]),
        (3 * len(shapes), ["dequantize", str(quantized), str(dense)]),
    ):
        allowed = 64 * MIB + THREADS * 8 * MIB + 512 * tensors
        peak = peak_bytes([mlxq, *command, *options])
        print(f"{name}: {command[0]}: peak {peak / MIB:.1f} MiB, promised {allowed / MIB:.1f} MiB")
        if peak > allowed:
            sys.exit("more than promised")


def main():
    mlxq = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        check(mlxq, folder, "large", {"model.layers.0.mlp.up_proj.weight": [65536, 8192]})
        many = {f"model.layers.{i // 7}.mlp.part_{i % 7}.weight": [2, 64] for i in range(100_000)}
        check(mlxq, folder, "many", many)


if __name__ == "__main__":
    main()
