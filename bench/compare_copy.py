"""Converting beside copying: mlxq and `cp -r` of the same folder, in turn, with source and results on tmpfs.

    python bench/make_llama.py /dev/shm/llama
    python bench/compare_copy.py --mlxq build/mlxq --model /dev/shm/llama

Disk noise is out that way, and copying is as fast as memory: what is left is the work. `--on DIR` does the same on a disk,
where a copy counts once it is there (`cp -r --reflink=never` and `sync -f`). A ratio is mlxq's time by cp's, medians.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from compare_convert import measure, tensors_of


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlxq", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="a dense folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rest", type=float, default=0, help="seconds before each run: disks of rented machines have bursts")
    parser.add_argument("--on", type=Path, help="where results go; default: beside the model")
    options = parser.parse_args()
    source, mlxq = str(options.model.resolve()), str(options.mlxq.resolve())

    scratch = Path(tempfile.mkdtemp(prefix="compare-copy-", dir=options.on or options.model.resolve().parent))
    copy = f'cp -r --reflink=never "$0" "$1" && {"sync -f" if options.on else "true"} "$1"'
    quantized = scratch / "quantized"
    commands = {
        "cp -r": ["/bin/sh", "-c", copy, source, str(scratch / "copy")],
        "quantize affine 4/64": [mlxq, "quantize", source, str(quantized), "--quiet"],
        "quantize mxfp4": [mlxq, "quantize", source, str(scratch / "mxfp4"), "--mode", "mxfp4", "--quiet"],
        "dequantize affine 4/64": [mlxq, "dequantize", str(quantized), str(scratch / "dense"), "--quiet"],
    }
    seconds, peak = {what: [] for what in commands}, {what: [] for what in commands}
    try:
        for _ in range(options.rounds):
            for what, command in commands.items():
                os.sync()
                time.sleep(options.rest)
                taken, memory = measure(command, scratch / "log")
                seconds[what].append(taken)
                peak[what].append(memory)
                if what != "quantize affine 4/64":
                    for folder in ("copy", "mxfp4", "dense"):
                        shutil.rmtree(scratch / folder, ignore_errors=True)
            shutil.rmtree(quantized)
    finally:
        shutil.rmtree(scratch)
    size = sum(entry[-1] for entry in tensors_of(options.model).values())
    base = statistics.median(seconds["cp -r"])
    print(f"Model of {size / 1e9:.2f} GB, {os.cpu_count()} cores, median of {options.rounds} rounds:\n")
    print("| | time | by cp's time | peak memory |\n|---|---|---|---|")
    for what in commands:
        middle = statistics.median(seconds[what])
        print(f"| {what} | {middle:.2f} s | {middle / base:.2f} | {max(peak[what]) / 1e6:.0f} MB |")


if __name__ == "__main__":
    main()
