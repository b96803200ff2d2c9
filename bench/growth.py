"""mlxq on models of growing size: time, and peak memory, which is to stay what it is.

    python bench/growth.py --mlxq build/mlxq --on /dev/shm

Models are synthetic Llamas of 1, 8, 33 and 66 layers (0.1 to 8 GB), made and removed one after the other, with results beside
them; the largest takes 11 GB on DIR. On tmpfs the disk is out of it. Times are medians.
"""

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np
from compare_convert import measure
from make_llama import make, options_of

LAYERS = (1, 8, 33, 66)


class Repeated:
    """A generator whose numbers are drawn once: what is timed does not depend on them."""

    def __init__(self):
        self.drawn = np.random.default_rng(0).standard_normal(1 << 22, np.float32)

    def standard_normal(self, count, dtype):
        return self.drawn[:count].astype(dtype)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlxq", type=Path, required=True)
    parser.add_argument("--on", type=Path, required=True, metavar="DIR", help="where models and results go")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="growth-", dir=options.on))
    model, quantized, dense = scratch / "model", scratch / "quantized", scratch / "dense"
    print("| model | quantize 4/64 | a GB | peak | dequantize | a GB | peak |\n|---|---|---|---|---|---|---|")
    try:
        for layers in LAYERS:
            make(options_of([str(model), "--layers", str(layers), "--vocab", "2000"]), Repeated())
            size = sum(path.stat().st_size for path in model.iterdir()) / 1e9
            cells = []
            for command, source, result in (("quantize", model, quantized), ("dequantize", quantized, dense)):
                runs = []
                for _ in range(options.rounds):
                    shutil.rmtree(result, ignore_errors=True)
                    line = [str(options.mlxq.resolve()), command, str(source), str(result), "--quiet"]
                    runs.append(measure(line, scratch / "log"))
                if command == "quantize":
                    shutil.rmtree(model)
                seconds = statistics.median(run[0] for run in runs)
                cells += [f"{seconds:.2f} s", f"{seconds / size:.2f} s", f"{max(run[1] for run in runs) / 1e6:.1f} MB"]
            shutil.rmtree(quantized)
            shutil.rmtree(dense)
            print(f"| {size:.2f} GB | {' | '.join(cells)} |", flush=True)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
