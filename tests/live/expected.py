"""What mlxq must compute: MLX's CPU result, apart from the groups where that result is a defect.

For mxfp4 and mxfp8, MLX's CPU backend takes the scale s = T(amax / T(M)) (M = 6 or 448, T the dtype of the weights)
and the exponent e of the smallest power of two not below it, and stores e + 127 in a byte. Where e < -127 the byte
wraps around and the group decodes to something enormous. For exactly those groups mlxq writes what MLX's GPU kernels
write, which `gpu_group` computes here. Everything else is MLX's own answer.
"""

import functools

import mlx.core as mx
import numpy as np
from common import Tensor, tensor

LARGEST = {"mxfp4": 6, "mxfp8": 448}  # M: the largest magnitude the element format can hold
TIES_FP4 = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5)  # halfway between the E2M1 magnitudes 0, .5, 1, 1.5, 2, 3, 4, 6


def exponent_at_least(s):
    """For float32 s > 0: the exponent of the smallest power of two that is not below s."""
    mantissa, exponent = np.frexp(s)
    return exponent - (mantissa == 0.5)


@functools.cache
def e4m3_magnitudes():
    """The values of the E4M3 codes 0 to 0x7E."""
    code = np.arange(0x7F)
    exponent, mantissa = code >> 3, code & 7
    return np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(8 + mantissa, exponent - 10))


def e4m3(x):
    """E4M3 codes of float32 values: nearest, ties to even, saturating at 448, sign kept."""
    values = e4m3_magnitudes()
    halfway = (values[:-1] + values[1:]) / 2
    magnitude = np.abs(x).astype(np.float64)
    below, upto = np.searchsorted(halfway, magnitude, "left"), np.searchsorted(halfway, magnitude, "right")
    code = np.where(below % 2 == 0, below, upto)  # they differ only on a tie, and one of the two is even
    return (code | np.signbit(x) << 7).astype(np.uint8)


def e2m1(x):
    """E2M1 codes of float32 values, as MLX's GPU kernels round: nearest, ties to even, sign kept."""
    magnitude = np.abs(x)
    code = sum((magnitude >= tie if i % 2 else magnitude > tie).astype(np.uint8) for i, tie in enumerate(TIES_FP4))
    return code | np.signbit(x).astype(np.uint8) << 3


def gpu_group(w, mode):
    """MLX's GPU arithmetic on float32 groups [n, 32]: (packed words [n, 4 or 8], scale bytes [n])."""
    s = np.abs(w).max(axis=-1) / np.float32(LARGEST[mode])
    byte = np.where(s > 0, np.clip(exponent_at_least(s), -127, 127) + 127, 0)
    scale = np.ldexp(np.float32(1), byte - 127)
    q = w * (np.float32(1) / scale)[:, None]
    if mode == "mxfp8":
        codes = e4m3(q)
    else:
        codes = e2m1(q)
        codes = codes[:, 0::2] | codes[:, 1::2] << 4
    return codes.view(np.uint32), byte.astype(np.uint8)


def wrapped_groups(w, mode):
    """Which 32-element groups of an MLX array make MLX's CPU scale byte wrap around."""
    groups = w.reshape(-1, 32)
    s = mx.max(mx.abs(groups), axis=-1) / mx.array(LARGEST[mode], w.dtype)
    s = np.array(s.astype(mx.float32))
    return (s > 0) & (exponent_at_least(s) < -127)


def even(array, mode):
    """MLX's CPU backend refuses an odd number of nvfp4 groups: for these the array above itself."""
    return mx.concatenate([array, array]) if mode == "nvfp4" else array


def empty_parts(w, mode, bits, group):
    """The result for an array without elements, which MLX itself refuses in the fp4 modes."""
    *leading, columns = w.shape
    words = Tensor("U32", np.zeros((*leading, columns * bits // 32), np.uint32))
    scales = tensor(mx.zeros((*leading, columns // group), w.dtype if mode == "affine" else mx.uint8))
    return {"weight": words, "scales": scales} | ({"biases": scales} if mode == "affine" else {})


def quantize(w, mode, bits, group):
    """What mlxq makes of an MLX array: ({"weight": Tensor, "scales": ..., "biases": ...}, wrapped groups mended)."""
    if w.size == 0:
        return empty_parts(w, mode, bits, group), 0
    parts = mx.quantize(even(w, mode), group_size=group, bits=bits, mode=mode)
    result = {key: tensor(part[: len(w)]) for key, part in zip(("weight", "scales", "biases"), parts)}
    if mode not in LARGEST:
        return result, 0
    wrapped = wrapped_groups(w, mode)
    if wrapped.any():
        words, scales = result["weight"].bits, result["scales"].bits
        bad = np.array(w.astype(mx.float32)).reshape(-1, 32)[wrapped]
        words.reshape(len(wrapped), -1)[wrapped], scales.reshape(-1)[wrapped] = gpu_group(bad, mode)
    return result, int(wrapped.sum())


def dequantize(parts, mode, bits, group, dtype):
    """What mlxq makes of {"weight": Tensor, ...}: a Tensor whose MLX dtype is `dtype`."""
    arrays = [even(parts[key].mlx(), mode) for key in ("weight", "scales", "biases") if key in parts]
    if mode == "affine":
        arrays[1:] = [array.astype(dtype) for array in arrays[1:]]
    dense = mx.dequantize(*arrays, group_size=group, bits=bits, mode=mode, dtype=dtype)
    return tensor(dense[: len(parts["weight"].bits)])
