#!/usr/bin/env python3
"""Changes bytes of a tensor in a .safetensors file.

    poke.py FILE TENSOR OFFSET=HEX...       HEX replaces the bytes from OFFSET of the tensor on; ^HEX flips their bits
    poke.py FILE header OFFSET=HEX...       the same from the first byte of the file on
"""
import json
import struct
import sys

path, tensor = sys.argv[1:3]
with open(path, "r+b") as file:
    length = struct.unpack("<Q", file.read(8))[0]
    header = json.loads(file.read(length))
    start = 0 if tensor == "header" else 8 + length + header[tensor]["data_offsets"][0]
    for argument in sys.argv[3:]:
        offset, text = argument.split("=")
        data = bytes.fromhex(text.lstrip("^"))
        if text.startswith("^"):
            file.seek(start + int(offset))
            data = bytes(a ^ b for a, b in zip(data, file.read(len(data))))
        file.seek(start + int(offset))
        file.write(data)
