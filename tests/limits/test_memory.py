"""The memory promise: 64 MiB + threads x 8 MiB (32 MiB where columns are read: imports, transposed experts) + 512 bytes x
tensors (of the source or the result, whichever has more), whatever the model's size, and however hostile its files.

Runs mlxq on one large sparse tensor, on folders of very many small ones, and on files made to take memory, and compares
the peak resident set that the kernel reports for it. Standard library only: python3 tests/limits/test_memory.py MLXQ
"""

import json
import math
import os
import struct
import sys
import tempfile
from pathlib import Path

MIB = 1 << 20
THREADS = 2
DTYPES = {"qweight": "I32", "qzeros": "I32", "scales": "F16"}  # by the last part of a name; others are BF16
CONFIG = '{"model_type": "llama", "tie_word_embeddings": false}'
INDEX = "model.safetensors.index.json"


def apart(work, *arguments):
    """Runs a function in a process of its own: a child starts with its parent's peak, so this process stays small."""
    pid = os.fork()
    if pid == 0:
        work(*arguments)
        os._exit(0)
    if os.waitpid(pid, 0)[1] != 0:
        sys.exit("cannot write the input")


def write_folder(folder, make_shapes, make_config=lambda: CONFIG, make_index=None):
    """A checkpoint whose data is a hole, which reads as zeros. The index agrees unless one is given."""
    shapes, header, end = make_shapes(), {}, 0
    for name, shape in shapes.items():
        dtype = DTYPES.get(name.rsplit(".", 1)[-1], "BF16")
        size = (4 if dtype == "I32" else 2) * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    folder.mkdir()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    agreeing = {"metadata": {}, "weight_map": {name: "model.safetensors" for name in shapes}}
    (folder / INDEX).write_text(make_index() if make_index else json.dumps(agreeing))
    (folder / "config.json").write_text(make_config())


def many(pattern, count):
    return lambda: {pattern.format(i // 7, i % 7): [2, 64] for i in range(count)}


def awq_layer(path, outs, ins):
    return {f"{path}.qweight": [ins, outs // 8], f"{path}.qzeros": [ins // 128, outs // 8], f"{path}.scales": [ins // 128, outs]}


def awq_layers(count, outs, ins):
    layers = {}
    for i in range(count):
        layers |= awq_layer(f"model.layers.{i // 7}.mlp.part_{i % 7}", outs, ins)
    return layers


def experts(layers, count):
    names = [f"model.layers.{i}.block_sparse_moe.experts.{e}.w{k}.weight" for i in range(layers) for e in range(count) for k in (1, 2, 3)]
    return dict.fromkeys(names, [2, 64])


def spawn(mlxq, command, refusal=False):
    """Runs a command, which may fail only where `refusal` says so; what it used."""
    run = [mlxq, *command]
    if command[0] != "inspect":
        run += ["--quiet", "--threads", str(THREADS)]
    with open(os.devnull, "w") as null:
        quiet = [(os.POSIX_SPAWN_DUP2, null.fileno(), stream) for stream in (1, 2)[: 1 + refusal]]
        pid = os.posix_spawn(mlxq, run, os.environ, file_actions=quiet)
    _, status, usage = os.wait4(pid, 0)
    if status != 0 and not (refusal and os.waitstatus_to_exitcode(status) == 1):
        sys.exit(f"failed with status {status}: {' '.join(run)}")
    return usage


def check(mlxq, label, tensors, command, refusal=False, tile=8):
    """Runs a command and compares its peak with what is promised."""
    usage = spawn(mlxq, command, refusal)
    peak = usage.ru_maxrss * 1024
    allowed = 64 * MIB + THREADS * tile * MIB + 512 * tensors
    shown = " ".join(word for word in command if not word.startswith("/"))
    print(f"{label}: {shown}: peak {peak / MIB:.1f} MiB, promised {allowed / MIB:.1f} MiB", flush=True)
    return peak <= allowed


def check_all(mlxq, folder):
    def place(name):
        return str(folder / name)

    def tries(label, count, *overrides):
        """All that can be done with a source of `count` tensors, each of which makes a triple; last, quantizing the result
        once more, which copies it."""
        source, quantized, dense = place(label), place(label + "-q"), place(label + "-d")
        for command in [
            ["inspect", source],
            ["inspect", source, "--json"],
            ["quantize", source, quantized, "--dry-run", *overrides],
            ["quantize", source, quantized, "--dry-run", "--json", *overrides],
            ["quantize", source, quantized, "--max-shard-size", "4M", *overrides],
            ["quantize", source, quantized, "--force", "--stats", "--json", *overrides],
            ["inspect", quantized, "--json"],
            ["dequantize", quantized, dense],
            ["quantize", quantized, dense, "--force"],
            ["verify", source],
            ["verify", quantized, "--against", source, "--json"],
        ]:
            tensors = count if command[1] == source and command[0] in ("inspect", "verify") else 3 * count
            yield check(mlxq, label, tensors, command)

    def hostile(label, make_config, make_index):
        apart(write_folder, folder / label, lambda: {"a.weight": [2, 64]}, make_config, make_index)
        yield check(mlxq, label, 1, ["inspect", place(label), "--json"], refusal=True)
        yield check(mlxq, label, 3, ["quantize", place(label), place(label + "-q")], refusal=True)
        yield check(mlxq, label, 1, ["verify", place(label)], refusal=True)

    apart(write_folder, folder / "large", lambda: {"model.layers.0.mlp.up_proj.weight": [65536, 8192]})
    yield from tries("large", 1)
    apart(write_folder, folder / "many", many("model.layers.{}.mlp.part_{}.weight", 100_000))
    yield from tries("many", 100_000)
    apart(write_folder, folder / "long", many("model.layers.{:06d}.mlp." + 77 * "n" + "_{}.weight", 100_000))
    yield from tries("long", 100_000)
    apart(write_folder, folder / "own", many("model.layers.{}.mlp.part_{}.weight", 60_000))
    yield from tries("own", 60_000, "--override", "*=bits:8", "--override", "*_2=bits:6", "--skip", "*_3")

    awq = json.dumps(json.loads(CONFIG) | {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}})
    apart(write_folder, folder / "awq-large", lambda: awq_layer("model.layers.0.mlp.up_proj", 28672, 16384), lambda: awq)
    apart(write_folder, folder / "awq-many", lambda: awq_layers(33_000, 8, 128), lambda: awq)
    for label, tensors in (("awq-large", 3), ("awq-many", 99_000)):
        yield check(mlxq, label, tensors, ["import", place(label), place(label + "-m")], tile=32)
        yield check(mlxq, label, tensors, ["import", place(label), place(label + "-x"), "--exact", "--dtype", "bfloat16"], tile=32)
    mixtral = '{"model_type": "mixtral", "num_local_experts": 512}'
    apart(write_folder, folder / "experts", lambda: experts(60, 512), lambda: mixtral)
    yield check(mlxq, "experts", 92_160, ["quantize", place("experts"), place("experts-q"), "--stats"])
    llama4 = '{"model_type": "llama4", "text_config": {}}'
    fused = {"language_model.model.layers.0.feed_forward.experts.gate_up_proj": [4, 8192, 16384]}
    apart(write_folder, folder / "fused", lambda: fused, lambda: llama4)
    yield check(mlxq, "fused", 6, ["quantize", place("fused"), place("fused-q")], tile=32)

    agreeing = '"weight_map": {"a.weight": "model.safetensors"}}'
    for label, make_index in {
        "index-of-lists": lambda: '{"x": [' + "[]," * 4_000_000 + "0], " + agreeing,
        "index-of-members": lambda: '{"x": {' + ",".join(f'"{i}": {{}}' for i in range(1_000_000)) + "}, " + agreeing,
        "index-of-names": lambda: '{"weight_map": {' + 2_000_000 * '"a.weight": "model.safetensors", ' + '"b": ""}}',
        "index-of-one-name": lambda: '{"weight_map": {"' + 90_000_000 * "n" + '": "model.safetensors"}}',
    }.items():
        yield from hostile(label, lambda: CONFIG, make_index)
    for label, make_config in {
        "config-of-numbers": lambda: '{"x": [' + "1," * 8_000_000 + "0]}",
        "config-of-lists": lambda: '{"x": [' + ",".join(f"[{i}]" for i in range(200_000)) + "]}",
        "config-of-objects": lambda: '{"x": [' + ",".join(f'{{"{i}": 0}}' for i in range(1_000_000)) + "]}",
        "config-of-members": lambda: '{"x": {' + ",".join(f'"{i}": 0' for i in range(1_000_000)) + "}}",
        "config-of-a-string": lambda: '{"x": "' + 60_000_000 * "s" + '"}',
        "config-of-a-number": lambda: '{"x": ' + 60_000_000 * "7" + "}",
        "config-that-grows": lambda: '{"x": ' + 60 * "[" + 400_000 * "1," + "0" + 60 * "]" + "}",
    }.items():
        yield from hostile(label, make_config, lambda: "{" + agreeing)


def main():
    with tempfile.TemporaryDirectory() as folder:
        if not all(list(check_all(os.path.abspath(sys.argv[1]), Path(folder)))):
            sys.exit("more than promised")


if __name__ == "__main__":
    main()
