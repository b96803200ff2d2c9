#!/usr/bin/env python3
"""Runs a command, and meddles with it in the middle of its work.

    meddle.py DST interrupt|terminate|hangup|touch=FILE|truncate=FILE|kill=N|interrupt=N COMMAND...

The middle of the work is when DST's hidden working folder holds a file, or for kill=N (which is SIGKILL) and
interrupt=N, when its journal lists N finished files. Where the command was done before the meddling
could matter (it succeeded), its result is removed and all is done again, up to 50 times. Prints what the command
printed and exits as it did (128 + N for a signal N).
"""
import os
import shutil
import signal
import subprocess
import sys
import time

destination, action, command = sys.argv[1], sys.argv[2], sys.argv[3:]
working = os.path.join(os.path.dirname(destination), f".{os.path.basename(destination)}.mlxq-partial")


SIGNALS = {"interrupt": signal.SIGINT, "terminate": signal.SIGTERM, "hangup": signal.SIGHUP, "kill": signal.SIGKILL}


def finished_files():
    try:
        with open(os.path.join(working, ".mlxq-journal"), "rb") as journal:
            return sum(line.startswith(b"0") for line in journal)
    except FileNotFoundError:
        return 0


def at_work():
    name, _, value = action.partition("=")
    if name in ("kill", "interrupt") and value:
        return finished_files() >= int(value)
    try:
        return any(name.endswith(".safetensors") for name in os.listdir(working))
    except FileNotFoundError:
        return False


def meddle(process):
    name, _, path = action.partition("=")
    if name == "touch":
        os.utime(path)
    elif name == "truncate":
        size = os.path.getsize(path)
        os.truncate(path, size // 2)
        process.wait()
        os.truncate(path, size)  # for the next time
    else:
        process.send_signal(SIGNALS[name])


for attempt in range(50):
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while process.poll() is None and not at_work():
        time.sleep(0.001)
    if process.poll() is None:
        meddle(process)
    output, errors = process.communicate()
    if process.returncode != 0:
        break
    (shutil.rmtree if os.path.isdir(destination) else os.remove)(destination)
sys.stdout.buffer.write(output)
sys.stderr.buffer.write(errors)
sys.stdout.flush()
sys.exit(process.returncode if process.returncode >= 0 else 128 - process.returncode)
