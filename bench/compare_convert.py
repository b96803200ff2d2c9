"""mlx_lm.convert and mlxq on one model, side by side: time, peak memory, and whether the results are equal.

    python bench/make_llama.py /tmp/llama
    python bench/compare_convert.py --mlxq build/mlxq --model /tmp/llama

The two take turns, so that a change in the machine's load falls on both. A time is that of the whole process, from start
to exit: mlx_lm.convert's includes importing MLX and transformers, mlxq's includes waiting until the result is on the disk
(fsync), which mlx_lm.convert does not do. Memory is the peak resident size of the process. What wait4 reports is never less
than this script's own peak, which a child inherits until exec; where that hides the child's, Linux's VmHWM is sampled.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import struct
import sys
import tempfile
import time
from pathlib import Path

CHUNK = 1 << 22
SAMPLE_SECONDS = 0.005
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


def high_water(pid):
    """The peak resident bytes of a running process so far; 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = [line.split() for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0][1]) * 1024 if lines else 0  # none when the process has just ended


def measure(command, log):
    """Runs a command to its end: (seconds, peak resident bytes)."""
    os.sync()  # earlier output is not written back on this command's time
    started = time.perf_counter()
    outputs = [(os.POSIX_SPAWN_OPEN, fd, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) for fd in (1, 2)]
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=outputs)
    sampled, done = 0, 0
    while not done:
        sampled = max(sampled, high_water(pid))
        time.sleep(SAMPLE_SECONDS)
        done, status, usage = os.wait4(pid, os.WNOHANG)
    seconds = time.perf_counter() - started
    if status != 0:
        sys.exit(f"{' '.join(command)}: status {status}\n{log.read_text(errors='replace')[-2000:]}")
    inherited = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return seconds, usage.ru_maxrss * RSS_UNIT if usage.ru_maxrss > inherited or not sampled else sampled


def tensors_of(folder):
    """{name: (file, dtype, shape, offset, bytes)} of a folder's safetensors files."""
    found = {}
    for path in folder.glob("*.safetensors"):
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            found[name] = (path, entry["dtype"], entry["shape"], 8 + length + begin, end - begin)
    return found


def compare(actual, expected):
    """Every tensor of two folders, byte by byte. Returns how many bytes were compared."""
    ours, theirs = tensors_of(actual), tensors_of(expected)
    if ours.keys() != theirs.keys():
        sys.exit(f"{actual}, {expected}: not the same tensors: {sorted(ours.keys() ^ theirs.keys())[:5]}")
    total = 0
    for name, (our_path, *ours_is, our_offset, size) in ours.items():
        their_path, *theirs_is, their_offset, their_size = theirs[name]
        if (ours_is, size) != (theirs_is, their_size):
            sys.exit(f"{name}: {ours_is}, not {theirs_is}")
        with open(our_path, "rb") as a, open(their_path, "rb") as b:
            a.seek(our_offset)
            b.seek(their_offset)
            for done in range(0, size, CHUNK):
                part = min(CHUNK, size - done)
                if a.read(part) != b.read(part):
                    sys.exit(f"{name}: differs within bytes {done} to {done + part}")
        total += size
    return total


def tasks(options, scratch):
    """[(what, the source, mlx_lm.convert's options, mlxq's arguments)]"""
    return [
        ("quantize affine 4/64", options.model, ["--quantize"], ["quantize", "--mode", "affine", "--bits", "4", "--group-size", "64"]),
        ("quantize mxfp4", options.model, ["--quantize", "--q-mode", "mxfp4"], ["quantize", "--mode", "mxfp4"]),
        ("dequantize affine 4/64", scratch / "quantized", ["--dequantize"], ["dequantize"]),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlxq", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="a folder from make_llama.py, or any other")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", type=Path, help="where the results go; default: beside the model")
    options = parser.parse_args()
    options.model = options.model.resolve()

    scratch = Path(tempfile.mkdtemp(prefix="compare-convert-", dir=options.scratch or options.model.parent))
    mlx_lm, mlxq = [sys.executable, "-m", "mlx_lm", "convert"], [str(options.mlxq.resolve())]
    lines = []
    try:
        for what, source, mlx_lm_options, (verb, *mlxq_options) in tasks(options, scratch):
            theirs, ours = scratch / "mlx-lm", scratch / "mlxq"
            commands = {
                theirs: [*mlx_lm, "--hf-path", str(source), "--mlx-path", str(theirs), *mlx_lm_options],
                ours: [*mlxq, verb, str(source), str(ours), *mlxq_options, "--quiet"],
            }
            seconds, peak = {theirs: [], ours: []}, {theirs: [], ours: []}
            for number in range(options.rounds):
                for folder, command in sorted(commands.items(), reverse=number % 2 == 1):
                    shutil.rmtree(folder, ignore_errors=True)
                    taken, memory = measure(command, scratch / "log")
                    seconds[folder].append(taken)
                    peak[folder].append(memory)
                    print(f"{what}: {folder.name} {taken:.2f} s, {memory / 1e6:.0f} MB", file=sys.stderr, flush=True)
            compared = compare(ours, theirs)
            print(f"{what}: {compared / 1e9:.2f} GB of tensors equal", file=sys.stderr, flush=True)
            if what == "quantize affine 4/64":
                theirs.rename(scratch / "quantized")
            middle = {folder: statistics.median(seconds[folder]) for folder in seconds}
            most = {folder: max(peak[folder]) for folder in peak}
            lines.append(
                f"| {what} | {middle[theirs]:.2f} s | {middle[ours]:.2f} s | {middle[theirs] / middle[ours]:.1f} x |"
                f" {most[theirs] / 1e6:.0f} MB | {most[ours] / 1e6:.0f} MB | {most[theirs] / most[ours]:.1f} x |"
            )
    finally:
        shutil.rmtree(scratch)
    size = sum(entry[-1] for entry in tensors_of(options.model).values())
    print(f"Model of {size / 1e9:.2f} GB, {os.cpu_count()} cores, median time and largest peak of {options.rounds} rounds, all results equal:\n")
    print("| operation | mlx-lm time | mlxq time | faster | mlx-lm memory | mlxq memory | smaller |\n|---|---|---|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
