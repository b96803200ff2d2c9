"""Layers as AutoAWQ, AutoGPTQ and GPTQModel store them, written in NumPy from the description of their formats.

Nothing here is the code under test or taken from those packages. A layer is integer codes q, one integer zero point z
and one scale s for each row and group, and means (q - z) * s; a format is a way of packing them. `Layer.triple` says
what MLX's affine format must hold for the same meaning: the codes as they are, the scales, and -z * s as biases.
"""

from dataclasses import dataclass

import numpy as np
from common import Tensor

AWQ_SHIFTS = 4 * np.array([0, 4, 1, 5, 2, 6, 3, 7], np.uint32)  # of the 8 columns that a word of AutoAWQ's GEMM holds
GROUPS = (128, 64, 32)  # of MLX's affine mode

# What GPTQModel subtracts from the words of the zero points to make v1 of v2: a borrow runs into the next field. Three
# words hold 32 fields of 3 bits; GPTQModel before 7.0 had the constants of the first and the third exchanged.
BORROW = {
    2: [0x55555555],
    3: [0x24924924, 0x92492492, 0x49249249],
    4: [0x11111111],
    8: [0x01010101],
}


def float_bits(values, dtype):
    """float32 values in `dtype`, rounded to nearest even, as unsigned integers."""
    values = np.asarray(values, np.float32)
    if dtype == "F32":
        return values.view(np.uint32)
    if dtype == "F16":
        return values.astype(np.float16).view(np.uint16)
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def float_values(bits, dtype):
    """The inverse of float_bits."""
    if dtype == "F32":
        return bits.view(np.float32)
    if dtype == "F16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(values, dtype):
    """float32 values after a round trip through `dtype`."""
    return float_values(float_bits(values, dtype), dtype)


def floats(values, dtype):
    """A float Tensor."""
    return Tensor(dtype, np.ascontiguousarray(float_bits(values, dtype)))


def words(array):
    """An I32 Tensor of unsigned words."""
    return Tensor("I32", np.ascontiguousarray(array, np.uint32))


def bit_stream(values, bits):
    """Each row of the last axis as one stream of `bits`-bit fields in 32-bit words, lowest bit first."""
    each = (np.asarray(values, np.uint32)[..., None] >> np.arange(bits, dtype=np.uint32) & 1).astype(np.uint8)
    octets = np.packbits(each.reshape(*values.shape[:-1], -1), axis=-1, bitorder="little")
    return octets.view("<u4").astype(np.uint32)


def mlx_group(group):
    """The largest group of MLX into which a group of any size can be cut."""
    return next(size for size in GROUPS if group % size == 0)


@dataclass
class Layer:
    """q [out, in] and z [out, groups], integers; s [out, groups], float32 values that `dtype` can hold."""

    q: np.ndarray
    z: np.ndarray
    s: np.ndarray
    dtype: str
    bits: int
    g_idx: np.ndarray | None = None  # the group of each column, where columns of a group are not neighbours

    @property
    def group(self):
        return self.q.shape[1] // self.z.shape[1]

    def columns(self, per_group):
        """[out, groups] -> [out, in]."""
        return np.repeat(per_group, self.group, axis=1) if self.g_idx is None else per_group[:, self.g_idx]

    def formula(self):
        """(q - z) * s. A scale has at most 24 bits and a difference 9, so float64 holds the product exactly."""
        return (self.q.astype(np.float64) - self.columns(self.z)) * self.columns(self.s)

    def exact_biases(self):
        """Where the layer's dtype can hold z * s."""
        return rounded(self.z * self.s, self.dtype) == self.z.astype(np.float64) * self.s

    def triple(self, dtype=None, widened=False):
        """{"weight", "scales", "biases"} in MLX's affine format; the biases are rounded to the layer's dtype first.

        `widened`: with one more bit q' = q - z + 2^b is a code too, and its zero point a power of two.
        """
        q, z, bits = self.q, self.z, self.bits
        if widened:
            q, z, bits = q - self.columns(z) + 2**bits, np.full_like(z, 2**bits), bits + 1
        biases = rounded(-(z.astype(np.float32) * self.s), self.dtype)
        repeats = self.group // mlx_group(self.group)
        return {
            "weight": Tensor("U32", bit_stream(q, bits)),
            "scales": floats(np.repeat(self.s, repeats, axis=1), dtype or self.dtype),
            "biases": floats(np.repeat(biases, repeats, axis=1), dtype or self.dtype),
        }

    def scheme(self, widened=False):
        """What config.json must say of the triple."""
        return {"group_size": mlx_group(self.group), "bits": self.bits + widened, "mode": "affine"}


def awq_columns(values):
    """[rows, columns] of 4 bits -> [rows, columns / 8] words, eight neighbours in AutoAWQ's order."""
    eights = np.asarray(values, np.uint32).reshape(len(values), -1, 8)
    return np.bitwise_or.reduce(eights << AWQ_SHIFTS, axis=-1)


def awq_gemm(layer):
    return {
        "qweight": words(awq_columns(layer.q.T)),
        "qzeros": words(awq_columns(layer.z.T)),
        "scales": floats(layer.s.T, layer.dtype),
    }


def padded_groups(layer):
    """How many groups the GEMV formats make room for."""
    multiple = {64: 2, 32: 4}.get(layer.group, 1)
    zero_words = -(-layer.z.shape[1] // 8)
    return 8 * multiple * -(-zero_words // multiple)


def pad_groups(array, layer):
    return np.pad(array, ((0, 0), (0, padded_groups(layer) - array.shape[1])))


def awq_gemv(layer):
    return {
        "qweight": words(bit_stream(layer.q, 4)),
        "qzeros": words(bit_stream(pad_groups(layer.z, layer), 4)),
        "scales": floats(pad_groups(layer.s, layer), layer.dtype),
    }


def awq_gemv_fast(layer, zeros="qzeros"):
    """Four rows and 64 columns make 64 words of 16 bits; zero points are stored as biases. llm-awq: zeros="scaled_zeros"."""
    rows, columns = layer.q.shape
    row, column = np.ogrid[: rows // 4, :columns]
    w, t = column % 64, column % 16
    packed = np.zeros((rows // 4, columns), np.uint16)
    for nibble in range(4):
        codes = layer.q[4 * row + w // 16, column // 64 * 64 + 32 * (t >> 3) + 8 * nibble + (t & 7)]
        packed |= codes.astype(np.uint16) << np.uint16(4 * nibble)
    return {
        "qweight": Tensor("I16", packed),
        zeros: floats(pad_groups(-(layer.z.astype(np.float32) * layer.s), layer).T, layer.dtype),
        "scales": floats(pad_groups(layer.s, layer).T, layer.dtype),
    }


def gptq_zeros(layer, writer):
    """The words of the zero points, [groups, out * bits / 32], as `writer` stores them.

    "v2": as they are. "v1": less 1 in each field, modulo 2^bits. "v1 borrow": less 1 in each field of a whole word.
    """
    z = layer.z.T
    if writer == "v1":
        return bit_stream((z - 1) % 2**layer.bits, layer.bits)
    packed = bit_stream(z, layer.bits)
    if writer == "v1 borrow":
        packed = packed - np.resize(np.array(BORROW[layer.bits], np.uint32), packed.shape[1])
    return packed


def gptq(layer, writer, g_idx="trivial"):
    """`g_idx`: "trivial" writes the layer's own, or i / group where it has none; "absent" leaves it out."""
    parts = {
        "qweight": words(bit_stream(layer.q, layer.bits).T),
        "qzeros": words(gptq_zeros(layer, writer)),
        "scales": floats(layer.s.T, layer.dtype),
    }
    if g_idx != "absent":
        parts["g_idx"] = words(np.arange(layer.q.shape[1]) // layer.group if layer.g_idx is None else layer.g_idx)
    return parts
