"""Arrays against MLX itself: every mode, bits, group size, dtype and rank, on values chosen to be difficult.

For each scheme and dtype one single-file checkpoint goes through `mlxq quantize` and `mlxq dequantize`, and every
array is compared with mx.quantize and mx.dequantize on the CPU (see expected.py for the one class of groups where MLX
is not followed). Random packed words with random scales are dequantized too. The gpu profile cannot run here: the
golden tests cover it.
"""

import math

import mlx.core as mx
import numpy as np
from common import DTYPES, FLOATS, OPTION, SCHEMES, LiveTest, Tensor, compare_tensors, read_safetensors, tensor, write_safetensors
from expected import TIES_FP4, dequantize, e4m3_magnitudes, quantize

LARGEST_FINITE = {"F32": 0x7F7FFFFF, "F16": 0x7BFF, "BF16": 0x7F7F}
SIGN = {"F32": 0x80000000, "F16": 0x8000, "BF16": 0x8000}
SUBNORMAL_BITS = {"F32": 23, "F16": 10, "BF16": 7}

SHAPES_PER_RANK = 6
# the last axis holds this many groups
GROUPS_PER_ROW = (1, 2, 3, 5, 7)


class Groups:
    """Makes groups of weights for one dtype, as bit patterns that are always finite.

    Every kind of group is a method that makes n of them: [n, group] unsigned integers.
    """

    def __init__(self, rng, dtype, mode, bits, group):
        self.rng, self.dtype, self.mode, self.bits, self.group = rng, dtype, mode, bits, group
        self.kinds = [
            self.normal,
            self.any_finite,
            self.subnormal,
            self.zeros,
            self.constant,
            self.one_sign,
            self.one_huge,
            self.ties,
            self.near_ties,
            self.narrow,
            self.least_scales,
        ]

    def rounded(self, values):
        """Bit patterns of float64 values in this dtype, overflow clipped to the largest finite value."""
        with np.errstate(over="ignore"):
            array = mx.array(values.astype(np.float32))
        bits = tensor(array.astype(DTYPES[self.dtype][0])).bits
        magnitude = np.minimum(bits & (SIGN[self.dtype] - 1), LARGEST_FINITE[self.dtype])
        return bits & SIGN[self.dtype] | magnitude.astype(bits.dtype)

    def below(self, n, limit):
        """Bit patterns of either sign with magnitudes below `limit`."""
        magnitude = self.rng.integers(limit, size=(n, self.group))
        sign = self.rng.integers(2, size=(n, self.group)) * SIGN[self.dtype]
        return (magnitude | sign).astype(DTYPES[self.dtype][1])

    def powers(self, n):
        """A power of two for each group, mostly of the size weights have."""
        usual, any_size = self.rng.integers(-14, 4, size=(n, 1)), self.rng.integers(-140, 120, size=(n, 1))
        return np.ldexp(1.0, np.where(self.rng.random((n, 1)) < 0.3, any_size, usual))

    def put_one(self, bits, values):
        """Puts one value into each group, at any place."""
        bits[np.arange(len(bits)), self.rng.integers(self.group, size=len(bits))] = values
        return bits

    def normal(self, n):
        return self.rounded(self.rng.normal(size=(n, self.group)) * self.powers(n))

    def any_finite(self, n):
        return self.below(n, LARGEST_FINITE[self.dtype] + 1)

    def subnormal(self, n):
        """Subnormals and zeros, the largest of a group of any size."""
        return self.below(n, 2 ** self.rng.integers(1, SUBNORMAL_BITS[self.dtype] + 1, size=(n, 1)))

    def zeros(self, n):
        """Zeros of both signs, in half of the groups with a value among them."""
        bits = self.below(n, 1)
        return np.where(self.rng.random((n, 1)) < 0.5, bits, self.put_one(bits.copy(), self.normal(n)[:, 0]))

    def constant(self, n):
        return np.repeat(self.any_finite(n)[:, :1], self.group, axis=1)

    def one_sign(self, n):
        bits = self.normal(n)
        return np.where(self.rng.random((n, 1)) < 0.5, bits | SIGN[self.dtype], bits & (SIGN[self.dtype] - 1))

    def one_huge(self, n):
        return self.put_one(self.normal(n), self.rounded(self.rng.normal(size=n) * 1e38))

    def ties(self, n):
        """Values halfway between two codes, in groups whose scale is exactly a power of two."""
        if self.mode == "affine":
            steps = 2**self.bits - 1
            values = self.rng.integers(2 * steps + 1, size=(n, self.group)) / 2
            values[:, :2] = 0, steps
            values -= self.rng.integers(2, size=(n, 1)) * self.rng.integers(steps + 1, size=(n, 1))
        else:
            magnitudes = e4m3_magnitudes()
            halfway = TIES_FP4 if self.mode != "mxfp8" else (magnitudes[:-1] + magnitudes[1:]) / 2
            values = self.rng.choice(halfway, (n, self.group)) * self.rng.choice((-1, 1), (n, self.group))
            values[:, 0] = 448 if self.mode == "mxfp8" else 6
        return self.rounded(self.rng.permuted(values, axis=1) * self.powers(n))

    def near_ties(self, n):
        """Ties, some moved by one unit in the last place."""
        bits = self.ties(n)
        moved = bits + self.rng.integers(-1, 2, size=bits.shape).astype(bits.dtype)
        movable = (bits & (SIGN[self.dtype] - 1)) % LARGEST_FINITE[self.dtype] != 0
        return np.where(movable, moved, bits)

    def narrow(self, n):
        """Ranges about as small as the least affine scale, 1e-7, allows, around some value."""
        widths = 10.0 ** self.rng.integers(-9, -4, size=(n, 1))
        return self.rounded(self.rng.normal(size=(n, 1)) + self.rng.normal(size=(n, self.group)) * widths)

    def least_scales(self, n):
        """Magnitudes about those below which MLX's CPU scale byte wraps around, those themselves included."""
        edge = 1.75 * 2.0**-120 if self.mode == "mxfp8" else 1.5 * 2.0**-126
        sizes = edge * np.ldexp(1.0, self.rng.integers(-6, 3, size=(n, 1)))
        bits = self.rounded(self.rng.uniform(-1, 1, size=(n, self.group)) * sizes)
        at_edge = np.maximum(self.rounded(np.array([edge])), 1) + self.rng.integers(-1, 2, size=n)
        return self.put_one(bits, at_edge)

    def array(self, leading, groups_per_row):
        """A Tensor whose groups are of all kinds in turn, shuffled, of shape [*leading, groups_per_row * group]."""
        counts = np.bincount(np.arange(math.prod(leading) * groups_per_row) % len(self.kinds))
        rows = np.concatenate([kind(n) for kind, n in zip(self.rng.permutation(self.kinds), counts)])
        bits = self.rng.permutation(rows).astype(DTYPES[self.dtype][1])
        return Tensor(self.dtype, bits.reshape(*leading, groups_per_row * self.group))


def random_shapes(rng):
    """Shapes of rank 2, 3 and 4 as (leading dimensions, groups per row); one is large enough for several tiles."""
    for rank in (2, 3, 4):
        for _ in range(SHAPES_PER_RANK):
            yield tuple(map(int, rng.integers(1, 6, size=rank - 1))), int(rng.choice(GROUPS_PER_ROW))
    yield (int(rng.integers(150, 300)),), 9


def bystanders(rng, dtype, group):
    """Tensors that are not quantized: rank 1, a last axis that no group divides, another name, integers."""
    groups = Groups(rng, dtype, "affine", 4, group)
    return {
        "rank1.weight": Tensor(dtype, groups.array((), 2).bits),
        "indivisible.weight": Tensor(dtype, groups.array((3,), 2).bits[:, : group + 8]),
        "case0.bias": Tensor(dtype, groups.array((3,), 1).bits),
        "positions": Tensor("I64", rng.integers(2**63, size=(1, group), dtype=np.uint64)),
    }


def random_parts(rng, dtype, mode, bits, group, leading, groups_per_row):
    """Random codes with random scales: every scale byte of the scale-only modes, any finite scale and bias in affine."""
    words = rng.integers(2**32, size=(*leading, groups_per_row * group * bits // 32), dtype=np.uint32)
    parts = {"weight": Tensor("U32", words)}
    if mode == "affine":
        groups = Groups(rng, dtype, mode, bits, 32)
        for key in ("scales", "biases"):
            pool = groups.array((math.prod(leading), 1), groups_per_row).bits
            parts[key] = Tensor(dtype, pool[..., :groups_per_row].reshape(*leading, groups_per_row))
    else:
        parts["scales"] = Tensor("U8", rng.integers(256, size=(*leading, groups_per_row), dtype=np.uint8))
    return parts


def join(parts_of):
    """{"case0": {"weight": t}} as {"case0.weight": t}."""
    return {f"{name}.{key}": t for name, parts in parts_of.items() for key, t in parts.items()}


def cast(tensors, dtype):
    """The floating tensors in another MLX dtype."""
    return {name: tensor(t.mlx().astype(dtype)) if t.dtype in FLOATS else t for name, t in tensors.items()}


class ArrayTest:
    """The cases of one scheme and dtype."""

    def __init__(self, live, rng, scheme, dtype):
        self.live, self.rng, self.dtype = live, rng, dtype
        self.mode, self.bits, self.group = self.scheme = scheme
        self.mlx_dtype = DTYPES[dtype][0]
        self.options = ["--mode", self.mode, "--bits", self.bits, "--group-size", self.group]
        self.label = f"{self.mode} {self.bits}/{self.group} {OPTION[dtype]}"
        self.mended = 0

    def expect_quantized(self, weights, others):
        """What quantizing must give for {name: Tensor of weights} and the tensors beside them."""
        parts_of = {}
        for name, weight in weights.items():
            parts_of[name], mended = quantize(weight.mlx(), *self.scheme)
            self.mended += mended
        return parts_of, join(parts_of) | others

    def check(self, path, expected, any_nan=False):
        actual, _ = read_safetensors(path)
        self.live.count(compare_tensors(actual, expected, any_nan))

    def check_dequantized(self, source, destination, parts_of, others, dtype):
        """Dequantizes a file to `dtype` and compares. Overflow to infinity may meet another infinity: any NaN will do."""
        self.live.run("dequantize", source, destination, *self.options, "--dtype", OPTION[dtype])
        mlx_dtype = DTYPES[dtype][0]
        expected = {f"{name}.weight": dequantize(parts, *self.scheme, mlx_dtype) for name, parts in parts_of.items()}
        self.check(destination, expected | cast(others, mlx_dtype), any_nan=True)

    def round_trip(self):
        """Weights in this dtype to codes and back."""
        with self.live.case(self.label) as folder:
            groups = Groups(self.rng, self.dtype, *self.scheme)
            weights = {f"case{i}": groups.array(*shape) for i, shape in enumerate(random_shapes(self.rng))}
            others = bystanders(self.rng, self.dtype, self.group)
            dense, packed, back = (folder / f"{name}.safetensors" for name in ("dense", "packed", "back"))
            write_safetensors(dense, {f"{name}.weight": t for name, t in weights.items()} | others)
            parts_of, expected = self.expect_quantized(weights, others)
            self.live.run("quantize", dense, packed, *self.options)
            self.check(packed, expected)
            self.check_dequantized(packed, back, parts_of, others, self.dtype)

    def random_codes(self):
        """Codes and scales that no quantizer need ever have made, to every dtype."""
        with self.live.case(f"{self.label} random codes") as folder:
            parts_of = {
                f"case{i}": random_parts(self.rng, self.dtype, *self.scheme, *shape)
                for i, shape in enumerate(random_shapes(self.rng))
            }
            packed = folder / "packed.safetensors"
            write_safetensors(packed, join(parts_of))
            for dtype in FLOATS if self.mode == "affine" else (self.dtype,):
                self.check_dequantized(packed, folder / f"{OPTION[dtype]}.safetensors", parts_of, {}, dtype)

    def cast_first(self):
        """`quantize --dtype`: the weights are cast, then quantized."""
        with self.live.case(f"{self.label} cast first") as folder:
            source = "F32" if self.dtype != "F32" else "BF16"
            weights = {
                f"case{i}": tensor(mx.array(self.rng.normal(size=(3, 2 * self.group)), mx.float32).astype(DTYPES[source][0]))
                for i in range(3)
            }
            dense, packed = folder / "dense.safetensors", folder / "packed.safetensors"
            write_safetensors(dense, {f"{name}.weight": t for name, t in weights.items()})
            _, expected = self.expect_quantized(cast(weights, self.mlx_dtype), {})
            self.live.run("quantize", dense, packed, *self.options, "--dtype", OPTION[self.dtype])
            self.check(packed, expected)

    def empty(self):
        """Tensors without elements become empty tensors of the right shapes."""
        with self.live.case(f"{self.label} empty") as folder:
            weights = {
                "rows": Tensor(self.dtype, np.zeros((0, 2 * self.group), DTYPES[self.dtype][1])),
                "middle": Tensor(self.dtype, np.zeros((2, 0, self.group), DTYPES[self.dtype][1])),
            }
            dense, packed = folder / "dense.safetensors", folder / "packed.safetensors"
            write_safetensors(dense, {f"{name}.weight": t for name, t in weights.items()})
            _, expected = self.expect_quantized(weights, {})
            self.live.run("quantize", dense, packed, *self.options)
            self.check(packed, expected)


def main():
    live = LiveTest("test_arrays", __doc__)
    rng = np.random.default_rng(live.seed)
    mended = {}
    for scheme in SCHEMES:
        for dtype in FLOATS:
            test = ArrayTest(live, rng, scheme, dtype)
            test.round_trip()
            test.random_codes()
            test.cast_first()
            test.empty()
            mended[scheme[0], dtype] = test.mended
    for mode, dtype in (("mxfp4", "F32"), ("mxfp8", "F32"), ("mxfp8", "BF16")):
        live.require(mended[mode, dtype] > 0, f"no {mode} group of {dtype} made MLX's scale byte wrap around")
    arrays = 3 * SHAPES_PER_RANK + 1
    files = len(SCHEMES) * len(FLOATS)
    live.require(live.failures or live.comparisons >= files * arrays * 4, "fewer arrays than there should be")
    live.finish(f"{len(SCHEMES)} formats x {len(FLOATS)} dtypes")


if __name__ == "__main__":
    main()
