"""mx.quantize and mx.dequantize on the CPU beside libmlxq, one thread each: speed, and whether the bytes are equal.

    python bench/compare_kernels.py --library build/libmlxq.so [--dtype F16] [--profile gpu] [--rounds 5]

A figure is millions of elements in a second of processor time, which other load on the machine disturbs least: the best
of some rounds in which the two take turns. MLX's CPU back-end runs an operation on one thread. The profile gpu makes
other bytes than that back-end, so that they are not compared.
"""

import argparse
import ctypes
import os
import sys
import time

import mlx.core as mx
import numpy as np

DTYPES = {"BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32}
PROFILES = ["cpu", "gpu"]
MODES = ["affine", "mxfp4", "mxfp8", "nvfp4"]
SCHEMES = [("affine", bits, group) for group in (64, 32, 128) for bits in (4, 8, 2, 3, 5, 6)]
SCHEMES += [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]


class Scheme(ctypes.Structure):
    _fields_ = [("mode", ctypes.c_int), ("bits", ctypes.c_int32), ("group_size", ctypes.c_int32)]


def pointer(array):
    return array.ctypes.data_as(ctypes.c_void_p)


def timed(function):
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def as_bytes(array):
    return np.array(array.view(mx.uint8)).reshape(-1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True)
    parser.add_argument("--dtype", choices=DTYPES, default="BF16")
    parser.add_argument("--profile", choices=PROFILES, default="cpu")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)
    library = ctypes.CDLL(os.path.abspath(options.library))
    dtype = ctypes.c_int()
    library.mlxq_dtype_parse(options.dtype.encode(), ctypes.byref(dtype))
    profile = PROFILES.index(options.profile)
    elems = options.rows * options.columns
    mx.random.seed(1)
    weight = (mx.random.normal((options.rows, options.columns)) * 0.02).astype(DTYPES[options.dtype])
    mx.eval(weight)
    dense = as_bytes(weight)
    restored = np.ones_like(dense)
    count = ctypes.c_uint64(elems)
    wrong = 0
    print(f"{options.dtype}, profile {options.profile}:\n")
    print("| scheme | quantize: MLX | mlxq | ratio | dequantize: MLX | mlxq | ratio | equal |")
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    for mode, bits, group in SCHEMES:
        scheme = Scheme(MODES.index(mode), bits, group)
        width = weight.itemsize if mode == "affine" else 1
        parts = [np.ones(elems // 8 * bits, np.uint8)] + [np.ones(elems // group * width, np.uint8) for _ in range(2)]
        best = [float("inf")] * 4
        kwargs = dict(group_size=group, bits=bits, mode=mode)

        def quantize():
            places = [pointer(part) for part in (*parts, dense)]
            return library.mlxq_quantize_array(*places, dtype, count, ctypes.byref(scheme), profile, False, None)

        def dequantize():
            places = [pointer(part) for part in parts]
            return library.mlxq_dequantize_array(
                pointer(restored), dtype, count, *places, ctypes.byref(scheme), profile, None
            )

        def mlx_quantize():
            arrays = mx.quantize(weight, **kwargs)
            mx.eval(arrays)
            return arrays

        def mlx_dequantize():
            array = mx.dequantize(*arrays, dtype=weight.dtype, **kwargs)
            mx.eval(array)
            return array

        for _ in range(options.rounds):
            seconds, arrays = timed(mlx_quantize)
            best[0] = min(best[0], seconds)
            seconds, status = timed(quantize)
            assert status == 0, status
            best[1] = min(best[1], seconds)
            seconds, array = timed(mlx_dequantize)
            best[2] = min(best[2], seconds)
            seconds, status = timed(dequantize)
            assert status == 0, status
            best[3] = min(best[3], seconds)
        same = all((as_bytes(a) == b).all() for a, b in zip(arrays, parts)) and (as_bytes(array) == restored).all()
        wrong += options.profile == "cpu" and not same
        equal = "-" if options.profile == "gpu" else "yes" if same else "NO"
        speed = [elems / seconds / 1e6 for seconds in best]
        print(
            f"| {mode} {bits}/{group} | {speed[0]:.0f} | {speed[1]:.0f} | {speed[1] / speed[0]:.1f} "
            f"| {speed[2]:.0f} | {speed[3]:.0f} | {speed[3] / speed[2]:.1f} | {equal} |",
            flush=True,
        )
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
