#!/usr/bin/env python3
"""Runs a command with its stderr on a terminal, and prints what came there in a form that does not depend on time.

    terminal.py COMMAND...

A bar's frames are overwritten and their number depends on the machine: of them only the first and the last are shown,
with N for megabytes a second and for seconds, and any that looks otherwise. Exits as the command did.
"""
import os
import pty
import re
import subprocess
import sys

FRAME = re.compile(r"\[(#*)(-*)\] +(\d+)%  \d+ MB/s  \d+ s left ")

ours, theirs = pty.openpty()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=theirs)
os.close(theirs)
text = b""
while True:
    try:
        piece = os.read(ours, 4096)
    except OSError:  # the other end is closed
        break
    if not piece:
        break
    text += piece
output, _ = process.communicate()

shown = []
for frame in text.decode().split("\r"):
    found = FRAME.fullmatch(frame)
    if found and (len(found[1]) + len(found[2]) != 40 or len(found[1]) != int(found[3]) * 40 // 100):
        shown.append(f"a wrong frame: {frame!r}")
    elif found:
        normal = re.sub(r"\d+ MB/s  \d+ s", "N MB/s  N s", frame)
        if len(shown) >= 2 and shown[-1].startswith("[") and shown[-2].startswith("["):
            shown.pop()
        shown.append(normal)
    elif frame:
        shown.append(repr(frame))
sys.stdout.buffer.write(output)
sys.stdout.flush()
for line in shown:
    print(line, file=sys.stderr)
sys.exit(process.returncode)
