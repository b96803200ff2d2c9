"""What the live tests share: raw safetensors files, exact comparison, running mlxq.

The live tests compare bytes, never within a tolerance. A tensor is therefore held as its safetensors dtype, its
shape and its elements as unsigned integers; a float is never looked at as a float except to exempt NaN payloads.
"""

import argparse
import contextlib
import json
import random
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np

# safetensors dtype: (the MLX dtype, unsigned integers of the same width)
DTYPES = {
    "F32": (mx.float32, np.uint32),
    "F16": (mx.float16, np.uint16),
    "BF16": (mx.bfloat16, np.uint16),
    "U32": (mx.uint32, np.uint32),
    "U8": (mx.uint8, np.uint8),
    "I64": (mx.int64, np.uint64),
    "F8_E4M3": (mx.uint8, np.uint8),  # as mx.load gives it
}
NAME_OF = {mlx_dtype: name for name, (mlx_dtype, _) in DTYPES.items() if name != "F8_E4M3"}
FLOATS = ("F32", "F16", "BF16")
OPTION = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # as --dtype and torch_dtype spell it

# every legal (mode, bits, group size)
SCHEMES = [("affine", bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)]
SCHEMES += [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]


class Tensor(NamedTuple):
    """One tensor of a safetensors file; `bits` are its elements as unsigned integers, in `shape`."""

    dtype: str
    bits: np.ndarray

    @property
    def shape(self):
        return self.bits.shape

    def mlx(self):
        """The same bytes as an MLX array."""
        return mx.array(self.bits).view(DTYPES[self.dtype][0])


def tensor(array):
    """A Tensor of an MLX array's bytes."""
    dtype = NAME_OF[array.dtype]
    unsigned = DTYPES[dtype][1]
    return Tensor(dtype, np.array(array.view(getattr(mx, np.dtype(unsigned).name))))


def read_safetensors(path):
    """Returns ({name: Tensor}, metadata), read without any safetensors library."""
    data = Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        raw = data[8 + length + begin : 8 + length + end]
        tensors[name] = Tensor(entry["dtype"], np.frombuffer(raw, DTYPES[entry["dtype"]][1]).reshape(entry["shape"]))
    return tensors, metadata


def write_safetensors(path, tensors, metadata=None, keep_order=False):
    """Writes {name: Tensor}, widest elements first so that every tensor is aligned, or in the order given."""
    header = {"__metadata__": metadata} if metadata else {}
    ordered = list(tensors.items())
    if not keep_order:
        ordered.sort(key=lambda item: (-item[1].bits.itemsize, item[0]))
    offset = 0
    for name, t in ordered:
        header[name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [offset, offset + t.bits.nbytes]}
        offset += t.bits.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, t in ordered:
            file.write(np.ascontiguousarray(t.bits).tobytes())


class Mismatch(Exception):
    """The actual result is not the expected one; the text says where and how."""


def is_nan(t):
    """Which elements of a float Tensor are NaN."""
    exponent, mantissa = {"F32": (0x7F800000, 0x007FFFFF), "F16": (0x7C00, 0x03FF), "BF16": (0x7F80, 0x007F)}[t.dtype]
    return ((t.bits & exponent) == exponent) & ((t.bits & mantissa) != 0)


def compare_tensor(name, actual, expected, any_nan=False):
    """Raises Mismatch at the first element whose bits differ; with `any_nan` one NaN is as good as another."""
    if (actual.dtype, actual.shape) != (expected.dtype, expected.shape):
        raise Mismatch(f"{name}: is {actual.dtype} {list(actual.shape)}, expected {expected.dtype} {list(expected.shape)}")
    differs = actual.bits != expected.bits
    if any_nan and expected.dtype in FLOATS:
        differs &= ~(is_nan(actual) & is_nan(expected))
    if differs.any():
        index = tuple(int(i) for i in np.argwhere(differs)[0])
        digits = 2 * expected.bits.itemsize
        raise Mismatch(
            f"{name}{list(index)}: is 0x{int(actual.bits[index]):0{digits}x}, expected 0x{int(expected.bits[index]):0{digits}x}"
            f" ({int(differs.sum())} of {differs.size} elements differ)"
        )


def compare_tensors(actual, expected, any_nan=False):
    """Compares two {name: Tensor}: the names, then every tensor. Returns how many tensors were compared."""
    if actual.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - actual.keys()), sorted(actual.keys() - expected.keys())
        raise Mismatch(f"tensor names differ: missing {missing}, not expected {extra}")
    for name in expected:
        compare_tensor(name, actual[name], expected[name], any_nan)
    return len(expected)


class LiveTest:
    """One run of a live test: its options, its random numbers, its scratch folder and its verdict.

    A failing case is reported at once, its files are kept, and the others still run.
    """

    def __init__(self, name, description, options=None):
        """`options` are further ones, with what their help says; `self.options` has what was given."""
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--mlxq", type=Path, required=True, help="the mlxq command to test")
        parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32), help="default: random")
        for option, text in (options or {}).items():
            parser.add_argument(option, help=text)
        self.options = options = parser.parse_args()
        self.name = name
        self.mlxq = options.mlxq.resolve()
        self.seed = options.seed
        self.scratch = Path(tempfile.mkdtemp(prefix=f"mlxq-{name}-"))
        self.comparisons = 0
        self.failures = 0
        self.last_command = None
        self.started = time.monotonic()
        mx.set_default_device(mx.cpu)
        print(f"{name}: seed {self.seed}", flush=True)

    def start(self, *arguments):
        """Runs mlxq."""
        command = [str(self.mlxq), *map(str, arguments), "--quiet"]
        self.last_command = shlex.join(command)
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")

    def run(self, *arguments):
        """Runs mlxq, which must succeed."""
        done = self.start(*arguments)
        if done.returncode != 0:
            raise Mismatch(f"exit {done.returncode}: {done.stderr.strip() or '(stderr is empty)'}")

    def run_refused(self, *arguments):
        """Runs mlxq, which must fail. Returns the error it reports."""
        done = self.start(*arguments, "--json")
        if done.returncode != 1:
            raise Mismatch(f"exit {done.returncode} where a refusal, 1, is expected")
        return json.loads(done.stderr.splitlines()[-1])["error"]

    @contextlib.contextmanager
    def case(self, label):
        """One independent case in a folder of its own: a Mismatch is reported, counted, and ends only this case."""
        folder = self.scratch / label.replace(" ", "-").replace("/", "-")
        folder.mkdir()
        self.last_command = None
        try:
            yield folder
        except Mismatch as mismatch:
            self.failures += 1
            print(f"FAIL {label}\n     {mismatch}\n     after: {self.last_command}", flush=True)
        else:
            shutil.rmtree(folder)

    def count(self, comparisons):
        self.comparisons += comparisons

    def require(self, condition, what):
        """A condition on the test itself, such as having compared enough."""
        if not condition:
            self.failures += 1
            print(f"FAIL {self.name} did not test what it should: {what}", flush=True)

    def finish(self, detail):
        """Prints the verdict and exits with it."""
        self.require(self.comparisons > 0, "nothing was compared")
        seconds = time.monotonic() - self.started
        if self.failures:
            print(f"{self.name}: {self.failures} failures, {self.comparisons} comparisons ({detail}, {seconds:.0f} s)")
            print(f"{self.name}: files kept in {self.scratch}; rerun: {sys.argv[0]} --mlxq {self.mlxq} --seed {self.seed}")
            sys.exit(1)
        shutil.rmtree(self.scratch)
        print(f"{self.name}: {self.comparisons} comparisons, all equal ({detail}, {seconds:.0f} s)")
        sys.exit(0)
