#!/usr/bin/env python3
"""Names the characters in files that would steer a terminal:   terminal_bytes.py FILE..."""
import sys
import unicodedata

for path in sys.argv[1:]:
    text = open(path, "rb").read().decode("utf-8", "surrogateescape")
    steering = {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")}
    steering |= {c for c in text if unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")}
    if steering:
        print(path, sorted(map(ascii, steering)))
