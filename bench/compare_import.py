"""Importing an AWQ checkpoint with mlxq beside loading it with mlx_lm, which transforms it in memory each time.

    python bench/make_awq.py /tmp/awq
    python bench/compare_import.py --mlxq build/mlxq --model /tmp/awq

Time and memory are those of whole processes, as in compare_convert.py. mlx_lm.load of mlxq's result is the third column:
what is left to do once the checkpoint is imported.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from compare_convert import measure, tensors_of

LOAD = "import sys, mlx_lm; mlx_lm.load(sys.argv[1])"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlxq", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="a folder from make_awq.py")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", type=Path, help="where the result goes; default: beside the model")
    options = parser.parse_args()
    source = str(options.model.resolve())

    scratch = Path(tempfile.mkdtemp(prefix="compare-import-", dir=options.scratch or options.model.resolve().parent))
    result = scratch / "mlxq"
    commands = {
        "mlx_lm.load of the AWQ folder": [sys.executable, "-c", LOAD, source],
        "mlxq import": [str(options.mlxq.resolve()), "import", source, str(result), "--quiet"],
        "mlx_lm.load of the result": [sys.executable, "-c", LOAD, str(result)],
    }
    seconds, peak = {what: [] for what in commands}, {what: [] for what in commands}
    try:
        for _ in range(options.rounds):
            shutil.rmtree(result, ignore_errors=True)
            for what, command in commands.items():
                taken, memory = measure(command, scratch / "log")
                seconds[what].append(taken)
                peak[what].append(memory)
                print(f"{what}: {taken:.2f} s, {memory / 1e6:.0f} MB", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(scratch)
    size = sum(entry[-1] for entry in tensors_of(options.model).values())
    print(f"Model of {size / 1e9:.2f} GB, {os.cpu_count()} cores, median time and largest peak of {options.rounds} rounds:\n")
    print("| | time | peak memory |\n|---|---|---|")
    for what in commands:
        print(f"| {what} | {statistics.median(seconds[what]):.2f} s | {max(peak[what]) / 1e6:.0f} MB |")


if __name__ == "__main__":
    main()
