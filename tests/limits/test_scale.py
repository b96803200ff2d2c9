"""Scale: 100,000 tensors in 300 shards within the memory promise and with few descriptors; tensors of 60 GB and of more
than 2^32 elements planned in no time; a header of 100 MB refused in none.

Standard library only: python3 tests/limits/test_scale.py MLXQ
"""

import json
import os
import resource
import struct
import sys
import tempfile
from pathlib import Path

from test_memory import CONFIG, MIB, apart, awq_layer, check, spawn, write_folder

DESCRIPTORS = 24  # of which 3 are standard, and 2 threads have 2 each
DTYPES = {"qweight": "I32", "qzeros": "I32", "scales": "F16"}


def write_shards(folder, shard_count, make_tensors, config=CONFIG):
    """A folder of shards with an index, whose data are small numbers that differ from tensor to tensor."""
    numbers = struct.pack("<4096H", *(0x3C00 + i * 37 % 1024 + (i % 2 << 15) for i in range(4096)))
    tensors = list(make_tensors().items())
    weight_map = {}
    folder.mkdir()
    for shard in range(shard_count):
        name = f"model-{shard + 1:05}-of-{shard_count:05}.safetensors"
        header, data = {}, bytearray()
        for i in range(shard, len(tensors), shard_count):
            tensor, shape = tensors[i]
            dtype = DTYPES.get(tensor.rsplit(".", 1)[-1], "BF16")
            size = shape[0] * shape[1] * (4 if dtype == "I32" else 2)
            at = 2 * (i % 1000)
            header[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + size]}
            data += numbers[at : at + size]
            weight_map[tensor] = name
        text = json.dumps(header).encode()
        (folder / name).write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(config)


def weights(count):
    return lambda: {f"model.layers.{i // 7}.mlp.part_{i % 7}.weight": [2, 64] for i in range(count)}


def packed_layers(count):
    layers = {}
    for i in range(count):
        layers |= awq_layer(f"model.layers.{i // 7}.mlp.part_{i % 7}", 8, 128)
    return layers


def shards_in(folder):
    return len(list(folder.glob("*.safetensors")))


def check_shards(mlxq, folder):
    """Every command on a source of many shards, with a result of many shards."""
    source, quantized, dense = folder / "many", folder / "many-q", folder / "many-d"
    apart(write_shards, source, 300, weights(100_000))
    for tensors, command in [
        (100_000, ["inspect", source, "--json"]),
        (100_000, ["verify", source]),
        (300_000, ["quantize", source, folder / "one", "--stats"]),
        (300_000, ["quantize", source, quantized, "--max-shard-size", "100K"]),
        (300_000, ["verify", quantized, "--against", source]),
        (300_000, ["dequantize", quantized, dense, "--max-shard-size", "400K"]),
        (300_000, ["verify", dense]),
    ]:
        yield check(mlxq, "300 shards", tensors, [str(word) for word in command])
    for result in (quantized, dense):
        if shards_in(result) < 60:
            sys.exit(f"{result} has only {shards_in(result)} shards")

    awq = json.loads(CONFIG) | {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}
    apart(write_shards, folder / "awq", 300, lambda: packed_layers(3000), json.dumps(awq))
    yield check(mlxq, "300 shards", 9000, ["import", str(folder / "awq"), str(folder / "awq-m"), "--max-shard-size", "40K"], tile=32)
    yield check(mlxq, "300 shards", 9000, ["verify", str(folder / "awq-m")])


def quick(mlxq, label, command, seconds, refusal=False):
    """A command that must take little time and little memory."""
    usage = spawn(mlxq, command, refusal)
    taken, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
    shown = " ".join(word for word in command if not word.startswith("/"))
    print(f"{label}: {shown}: {taken:.3f} s of {seconds} s, peak {peak / MIB:.1f} MiB", flush=True)
    return taken < seconds and peak < 32 * MIB


def write_header(path, length, text):
    """A file of a header, which is `text` and spaces. The rest of it is a hole where `text` is empty."""
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", length) + text)
        for left in range(length - len(text) if text else 0, 0, -MIB):
            file.write(b" " * min(left, MIB))
        file.truncate(8 + length)


def check_sizes(mlxq, folder):
    """What is large and has few tensors is planned by its header alone."""
    for label, shape in {
        "60 GB": [3_750_000, 8192],
        "more than 2^32 elements": [65_536, 65_600],
        "2^40 elements in three axes": [1024, 1 << 20, 1024],
    }.items():
        source = folder / label
        write_folder(source, lambda: {"model.layers.0.mlp.up_proj.weight": shape})
        yield quick(mlxq, label, ["inspect", str(source)], 1)
        yield quick(mlxq, label, ["quantize", str(source), str(folder / "absent"), "--dry-run"], 1)
    write_header(folder / "limit.safetensors", 100_000_000, b"")
    yield quick(mlxq, "header of 100 MB", ["inspect", str(folder / "limit.safetensors")], 0.1, refusal=True)
    write_header(folder / "below.safetensors", 99_999_999, b"{}")
    yield quick(mlxq, "header of a byte less", ["verify", str(folder / "below.safetensors")], 5)


def check_files(mlxq, folder):
    """Files without tensors cost memory that no tensor pays for: as many as numbered names have digits for."""
    source = folder / "files"
    source.mkdir()
    (source / "config.json").write_text(CONFIG)
    write_header(folder / "none.safetensors", 2, b"{}")
    for i in range(99_999):
        (source / f"{i}.safetensors").symlink_to("../none.safetensors")
    yield check(mlxq, "99,999 files", 0, ["inspect", str(source)])
    (source / "99999.safetensors").symlink_to("../none.safetensors")
    yield quick(mlxq, "100,000 files", ["inspect", str(source)], 1, refusal=True)


def main():
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, most))
    mlxq = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        results = [*check_shards(mlxq, Path(folder)), *check_sizes(mlxq, Path(folder)), *check_files(mlxq, Path(folder))]
    if not all(results):
        sys.exit("more than promised")


if __name__ == "__main__":
    main()
