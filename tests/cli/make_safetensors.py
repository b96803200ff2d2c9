#!/usr/bin/env python3
"""Writes a .safetensors file from a description on the command line.

    make_safetensors.py FILE [--metadata KEY=VALUE]... NAME:DTYPE:DIMS[:FILL]...
    make_safetensors.py FILE --header TEXT [--length N] [--data N]

DIMS is 4x64, 7, or empty for a scalar. FILL says what the elements are:
    (absent)     numbers between -1 and 1 that depend on the name alone (integers: any value), with a period of 65521
    zeros, ones  what they say
    =1.5         that number everywhere
    hole         zeros that take no space on the disk, for large files
    nan@I, inf@I, -inf@I   as (absent), but for element I
    groups@N     element i is i // N
    finite       as (absent), but for F8_E4M3: no NaN among the bytes
With --header the text is the header as it stands, true or not: --length overrides the length word before it, and
--data is the number of zero bytes that follow.
"""
import argparse
import json
import re
import struct
import zlib

BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
         "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8}
PERIOD = 65521
FLOATS = {"F16": "<e", "F32": "<f", "F64": "<d"}


def numbers(seed, count):
    """The upper bits of a linear congruential generator, as 32-bit integers."""
    state = zlib.crc32(seed.encode("utf-8", "surrogateescape"))
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield state >> 32


def pack(dtype, value):
    """One element; bfloat16 rounds to nearest even, as every other conversion here."""
    if dtype == "BF16":
        if value != value:
            return b"\xc0\x7f"
        bits = struct.unpack("<I", struct.pack("<f", value))[0]
        return struct.pack("<H", min(bits + 0x7FFF + (bits >> 16 & 1), 0xFFFFFFFF) >> 16)
    if dtype in FLOATS:
        return struct.pack(FLOATS[dtype], value)
    return struct.pack("<Q", int(value) % 2**64)[: BYTES[dtype]]


def elements(name, dtype, count, fill):
    floating = dtype == "BF16" or dtype in FLOATS
    if fill in ("zeros", "ones") or fill.startswith("="):
        value = {"zeros": 0.0, "ones": 1.0}.get(fill)
        return pack(dtype, float(fill[1:]) if value is None else value) * count
    if fill.startswith("groups@"):
        return b"".join(pack(dtype, i // int(fill[7:])) for i in range(count))
    period = max(1, min(count, PERIOD))
    values = (n / 2**31 - 1 if floating else n for n in numbers(name, period))
    data = bytearray(b"".join(pack(dtype, value) for value in values) * (count // period))
    data += data[: (count - count // period * period) * BYTES[dtype]]
    if fill == "finite":
        return data.translate(bytes(code & 0xFE if code & 0x7F == 0x7F else code for code in range(256)))
    special = re.fullmatch(r"(nan|inf|-inf)@(\d+)", fill)
    if special:
        at = int(special[2]) * BYTES[dtype]
        data[at : at + BYTES[dtype]] = pack(dtype, float(special[1]))
    elif fill:
        raise SystemExit(f"make_safetensors.py: unknown fill {fill!r}")
    return bytes(data)


def write_tensors(path, metadata, descriptions):
    header, offset, parts = {}, 0, []
    if metadata:
        header["__metadata__"] = dict(item.split("=", 1) for item in metadata)
    for text in descriptions:
        found = re.fullmatch(r"(?s)(.*):([A-Z0-9_]+):([0-9x]*)(?::([^:]*))?", text)
        if not found:
            raise SystemExit(f"make_safetensors.py: {text!r} is not NAME:DTYPE:DIMS[:FILL]")
        name, dtype, dims, fill = found[1], found[2], found[3], found[4] or ""
        shape = [int(dim) for dim in dims.split("x")] if dims else []
        count = 1
        for dim in shape:
            count *= dim
        size = count * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        parts.append((offset, None if fill == "hole" else elements(name, dtype, count, fill)))
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        start = file.tell()
        for begin, data in parts:
            if data is not None:
                file.seek(start + begin)
                file.write(data)
        file.truncate(start + offset)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--metadata", action="append", default=[])
    parser.add_argument("--header")
    parser.add_argument("--length", type=int)
    parser.add_argument("--data", type=int, default=0)
    parser.add_argument("tensors", nargs="*")
    arguments = parser.parse_intermixed_args()
    if arguments.header is None:
        write_tensors(arguments.file, arguments.metadata, arguments.tensors)
        return
    text = arguments.header.encode("utf-8", "surrogateescape")
    length = len(text) if arguments.length is None else arguments.length
    with open(arguments.file, "wb") as file:
        file.write(struct.pack("<Q", length) + text)
        file.truncate(file.tell() + arguments.data)


if __name__ == "__main__":
    main()
