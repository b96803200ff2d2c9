#!/usr/bin/env python3
"""Fails every system call, allocation and thread of a command in turn, and kills conversions at every write.

    run.py --mlxq MLXQ --shim SHIM --examples FOLDER [--disk FOLDER]
           [--every K] [--only SCENARIO] [--jobs N]

A clean run is counted (shim.c); then, for every call of every group, the command runs again with that call failing,
cut short, or being the process's last. After each:

- the exit status is 1 and the error names the very file that the call was on, or what failed did not matter and the
  result is the clean one. The result of a command that only reads is its report; verify's may list what failed as its
  one defect, and is then held to what an error is. What such a command cannot read always matters;
- DST is absent (or what it was) or whole, byte for byte the clean result; SRC is untouched;
- nothing is left beside DST, unless the process was killed or could not remove it; then it is the one hidden sibling,
  and a rerun succeeds with the same bytes and leaves nothing; a command that only reads leaves nothing at all;
- no descriptor and no allocation is lost.

All is done with one thread, and what workers do again with several; which call is the n-th then varies. It is done in
memory (/dev/shm), where nothing is reserved; what is reserved on a disk is swept in --disk.
--every K takes every K-th call only, another one of them in each sweep.
"""
import argparse
import errno
import hashlib
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# What is done to which calls: the rows of the table in docs/reliability.md. Some of both must not matter.
HARMLESS_ACTIONS = ("short", errno.EINTR)
HARMLESS_GROUPS = ("hint", "thread")
GROUPS = {
    "open": ("open", (errno.EINTR, errno.EIO, errno.EMFILE, "kill")),
    "close": ("close", (errno.EIO,)),
    "read": ("pread", (errno.EINTR, errno.EIO, "short")),
    "write": ("pwrite", (errno.EINTR, errno.EIO, errno.ENOSPC, "kill", "short")),
    "sync": ("fsync, of files and folders", (errno.EINTR, errno.EIO, "kill")),
    "hint": ("sync_file_range", (errno.EIO,)),
    "truncate": ("ftruncate", (errno.EINTR, errno.EIO, errno.ENOSPC, "kill")),
    "allocate": (
        "fallocate, on a disk",
        (errno.EINTR, errno.EIO, errno.ENOSPC, errno.EOPNOTSUPP, errno.ENOSYS, "kill"),
    ),
    "room": ("fstatfs, statvfs", (errno.EIO, "full")),
    "rename": ("rename, renameat2", (errno.EINVAL, errno.EIO, "kill")),
    "folder": ("mkdir, flock, opendir, readdir", (errno.EIO, "kill")),
    "stat": ("stat, lstat, fstat, fstatat, realpath", (errno.EIO,)),
    "chmod": ("chmod", (errno.EIO, "kill")),
    "remove": ("remove, nftw", (errno.EIO, "kill")),
    "memory": ("malloc, calloc, realloc, aligned_alloc", (errno.ENOMEM,)),
    "thread": ("pthread_create", (errno.EAGAIN,)),
}
ON_DISK = ("allocate",)
WITH_THREADS = ("open", "close", "read", "write", "sync", "memory", "thread")
THREADS = 4


def label_of(action):
    if isinstance(action, int):
        return errno.errorcode[action].replace("ENOTSUP", "EOPNOTSUPP")
    return {"kill": "SIGKILL", "short": "one byte", "full": "no room"}[action]


def write_awq(folder):
    """A small checkpoint as AutoAWQ's GEMM packs it: two layers, groups of 64."""
    rng = random.Random(1)
    folder.mkdir()
    quantization = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}
    config = {"model_type": "llama", "num_hidden_layers": 1, "tie_word_embeddings": True, "torch_dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    (folder / "tokenizer.json").write_text("{}")
    header, data = {}, b""
    for layer in ("self_attn.q_proj", "mlp.up_proj"):
        ins, outs = 128, 64
        for part, dtype, shape in [
            ("qweight", "I32", (ins, outs // 8)),
            ("qzeros", "I32", (ins // 64, outs // 8)),
            ("scales", "F16", (ins // 64, outs)),
        ]:
            count = shape[0] * shape[1]
            if dtype == "F16":
                piece = struct.pack(f"<{count}e", *(rng.uniform(0.001, 0.005) for _ in range(count)))
            else:
                piece = rng.randbytes(4 * count)
            end = len(data) + len(piece)
            header[f"model.layers.0.{layer}.{part}"] = {
                "dtype": dtype, "shape": shape, "data_offsets": [len(data), end]}  # fmt: skip
            data += piece
    for name, shape in (("model.embed_tokens.weight", (64, 128)), ("model.norm.weight", (128,))):
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        end = len(data) + 2 * count
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [len(data), end]}
        data += struct.pack(f"<{count}e", *(rng.gauss(0, 0.02) for _ in range(count)))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def fingerprint(path):
    """What is under a path: names and bytes; None where nothing is."""
    if not os.path.lexists(path):
        return None
    found = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        found.update(f"{file.relative_to(path)}\0".encode())
        found.update(file.read_bytes() if file.is_file() else b"-")
        found.update(b"\0")
    return found.hexdigest()


class Scenario:
    """A command, with places of its own in each folder it runs in. One that only reads has no destination."""

    def __init__(self, name, source, arguments, destination="out", old=None, partial=None):
        self.name, self.source, self.arguments = name, source, arguments
        self.inputs = [source, *(path for path in arguments if isinstance(path, Path))]
        self.destination, self.old, self.partial = destination, old, partial
        self.old_print = fingerprint(old) if old else None

    def has_workers(self):
        return self.arguments[0] != "inspect"

    def left_in(self, folder):
        """What is in its folder, but for the destination."""
        return [name for name in os.listdir(folder) if name != self.destination]

    def prepare(self, folder):
        folder.mkdir()
        if self.old:
            shutil.copytree(self.old, folder / self.destination)
        if self.partial:
            shutil.copytree(self.partial, folder / f".{self.destination}.mlxq-partial")

    def run(self, tools, folder, threads, fault=None):
        """Runs it; returns exit status, error text, and what the shim noted and the output told."""
        report = folder.with_suffix(".report")
        report.unlink(missing_ok=True)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("FAULT_", "LD_", "MLXQ_"))}
        environment |= {"LD_PRELOAD": tools.shim, "FAULT_REPORT": str(report), "LC_ALL": "C"}
        if fault:
            group, at, action = fault
            environment |= {"FAULT_GROUP": group, "FAULT_AT": str(at), "FAULT_ACTION": str(action)}
        command = [tools.mlxq, self.arguments[0], self.source, *filter(None, [self.destination]), *self.arguments[1:]]
        command += ["--quiet", "--json"]
        if self.has_workers():
            command += ["--threads", str(threads)]
        done = subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True)
        notes = {}
        for line in report.read_text().splitlines() if report.exists() else []:
            key, _, value = line.partition(" ")
            notes[key] = value
        error, output = done.stderr.decode(), json.loads(done.stdout) if done.stdout else None
        flaws = [json.loads(error)["error"]] if error.startswith("{") else []
        if self.destination:
            notes["result"] = fingerprint(folder / self.destination)
            notes |= {"resumed": output["resumed_bytes"], "total": output["total_bytes"]} if output else {}
        elif output and output.get("ok", True):
            notes["result"] = done.stdout
        elif output:
            flaws += output["defects"]
        if flaws:
            notes["file"] = flaws[0]["file"]
            error = "".join(
                f"mlxq: {flaw['file']}: {flaw['message']}\n" if flaw["file"] else f"mlxq: {flaw['message']}\n"
                for flaw in flaws
            )
        return done.returncode, error, notes


class Sweep:
    """One scenario's faults, in a folder and with a number of threads, and what was found."""

    def __init__(self, tools, scenario, scratch, groups, threads=1):
        self.tools, self.scenario, self.scratch, self.groups, self.threads = tools, scenario, scratch, groups, threads
        self.inputs_print = [fingerprint(path) for path in scenario.inputs]
        self.injected, self.findings, self.outcomes = Counter(), [], Counter()
        status, error, self.clean = scenario.run(tools, self.fresh("clean"), threads)
        if status != 0:
            sys.exit(f"{scenario.name}: the clean run failed: {error}")
        self.whole = self.clean["result"]

    def fresh(self, name):
        folder = self.scratch / f"{self.scenario.name}-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        self.scenario.prepare(folder)
        return folder

    def count(self, group):
        return int(self.clean[group])

    def inject(self, fault):
        group, at, action = fault
        folder = self.fresh(f"{group}-{action}-{at}")
        status, error, notes = self.scenario.run(self.tools, folder, self.threads, fault)
        problems = list(self.problems(fault, folder, status, error, notes))
        if self.scenario.left_in(folder) and not problems:
            problems = list(self.rerun_problems(folder))
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".report").unlink(missing_ok=True)
        return fault, notes.get("hit"), status, problems

    def problems(self, fault, folder, status, error, notes):
        group, _, action = fault
        scenario = self.scenario
        if "hit" not in notes:
            if self.threads == 1 or (status, notes.get("result")) != (0, self.whole):
                yield "the fault did not happen"
            return
        found = notes.get("result")
        if found not in (self.whole, scenario.old_print):
            yield "the result is neither absent nor whole"
        if [fingerprint(path) for path in scenario.inputs] != self.inputs_print:
            yield "SRC changed"
        left = scenario.left_in(folder)
        if action == "kill":
            if status != -9:
                yield f"status {status} after SIGKILL"
            hidden = {f".{scenario.destination}.mlxq-partial", f".{scenario.destination}.mlxq-old"}
            if set(left) - hidden:
                yield f"left beside DST: {left}"
            return
        if left and not self.may_stay(folder, found, error):
            yield f"left beside DST: {left}"
        yield from self.error_problems(fault, folder, status, error, notes, found)
        if notes.get("descriptors") != self.clean["descriptors"]:
            yield f"{notes.get('descriptors')} descriptors are open at the end, not {self.clean['descriptors']}"
        if int(notes.get("live", 10**9)) > int(self.clean["live"]):
            yield f"{notes.get('live')} allocations are not freed, not {self.clean['live']}"

    def may_stay(self, folder, found, error):
        """What was replaced stays where the new one may not be on the disk yet, and nothing can be done about what
        cannot be removed; a run that fails before it needs what another one left does not touch it."""
        scenario = self.scenario
        if found is None:
            partial = folder / f".{scenario.destination}.mlxq-partial"
            return scenario.partial and fingerprint(partial) == fingerprint(scenario.partial)
        not_removed = ("cannot remove", f".{scenario.destination}.mlxq-partial: cannot stat")
        return any(text in error for text in not_removed) or (scenario.old and "mlxq: .: cannot" in error)

    def is_named(self, group, folder, notes):
        """Whether the error's file is what the call was on. nftw does not tell on which file of a folder it failed."""
        place = os.path.normpath(folder / notes["hit"].removesuffix(" (deleted)"))
        if not notes.get("file"):
            return False
        named = os.path.normpath(folder / notes["file"])
        return named == place or (group == "remove" and place.startswith(named + "/") and named != str(folder))

    def must_matter(self, group, action, place):
        """Whether no report can be right after that. Other files are opened once just to see later if they changed."""
        if self.scenario.destination or action in HARMLESS_ACTIONS:
            return False
        return group in ("read", "folder") or (group == "open" and place.endswith(".safetensors"))

    def error_problems(self, fault, folder, status, error, notes, found):
        group, _, action = fault
        if status == 0:
            if found != self.whole:
                yield "success without the result"
            if error and self.scenario.old is None:
                yield f"success with a message: {error!r}"
            if self.must_matter(group, action, notes["hit"]):
                yield "what cannot be read is passed over"
            if action == "full" and notes["hit"].endswith(".mlxq-partial"):  # statvfs; fstatfs is not asked for room
                yield "a full disk is not noticed"
            return
        if status != 1 or not error.startswith("mlxq: ") or error.count("\n") != 1:
            yield f"status {status}: {error!r}"
        if self.scenario.destination is None and found:
            yield "an error beside a report of success"
        if action in HARMLESS_ACTIONS or group in HARMLESS_GROUPS:
            yield f"{action} is an error: {error!r}"
        elif group == "room":
            if action != "full" or "are still to be written" not in error:
                yield f"{action} is an error: {error!r}"
        elif group == "memory":
            if "memory" not in error:
                yield f"out of memory, but: {error!r}"
        else:
            if not self.is_named(group, folder, notes):
                yield f"{notes['hit']} is not named: {error!r}"
            if os.strerror(action) not in error:
                yield f"no reason: {error!r}"

    def rerun_problems(self, folder):
        status, error, notes = self.scenario.run(self.tools, folder, self.threads)
        if status != 0 and self.scenario.old is None and notes["result"] == self.whole:
            return  # it was published already
        if status != 0:
            yield f"the rerun fails: {error!r}"
            return
        self.outcomes["reruns"] += 1
        self.outcomes["reruns that resumed"] += notes["resumed"] > 0
        self.outcomes["bytes of reruns"] += notes["total"]
        self.outcomes["bytes resumed"] += notes["resumed"]
        if notes["result"] != self.whole:
            yield "the rerun makes something else"
        elif os.listdir(folder) != [self.scenario.destination]:
            yield f"the rerun leaves {os.listdir(folder)}"

    def go(self, every, pool, rng):
        faults = []
        for group in self.groups:
            for action in GROUPS[group][1]:
                if action == "kill" and self.scenario.destination is None:
                    continue  # there is nothing that it could leave
                first = rng.randrange(every) + 1
                faults += [(group, at, action) for at in range(first, self.count(group) + 1, every)]
        for (group, at, action), place, status, problems in pool.map(self.inject, faults):
            if place is None and not problems:
                continue  # threads made fewer calls than in the clean run
            self.injected[group, self.threads] += 1
            self.outcomes["killed" if status == -9 else "success" if status == 0 else "error"] += 1
            for problem in problems:
                fault = f"{self.scenario.name}, {self.threads} threads: {group} {at} {label_of(action)} ({place})"
                self.findings.append(f"{fault}: {problem}")
                print("FINDING", self.findings[-1], flush=True)


def scenarios(tools, scratch):
    tiny, awq = tools.examples / "tiny-llama", scratch / "awq"
    write_awq(awq)
    packed, other = scratch / "packed", scratch / "other"
    quiet = ["--quiet", "--max-shard-size", "400K"]
    subprocess.run([tools.mlxq, "quantize", tiny, packed, *quiet], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([tools.mlxq, "quantize", tiny, other, "--bits", "2", *quiet], check=True, stdout=subprocess.DEVNULL)
    one = ["--quiet", "--mode", "mxfp4"]
    subprocess.run([tools.mlxq, "quantize", tiny, scratch / "one", *one], check=True, stdout=subprocess.DEVNULL)
    single = tiny / "model-00002-of-00002.safetensors"
    killed = Scenario("killed", tiny, ["quantize", "--max-shard-size", "200K"])
    killed.prepare(scratch / "killed")
    killed.run(tools, scratch / "killed", 1, ("write", 120, "kill"))
    for file in (scratch / "killed" / ".out.mlxq-partial").glob("*.safetensors"):
        file.chmod(0o600)  # another umask's
    return [
        Scenario("quantize", tiny, ["quantize", "--max-shard-size", "200K"]),
        Scenario("dequantize", packed, ["dequantize", "--max-shard-size", "1M"]),
        Scenario("import", awq, ["import", "--max-shard-size", "8K"]),
        Scenario("force", tiny, ["quantize", "--max-shard-size", "400K", "--force"], old=other),
        Scenario("resume", tiny, killed.arguments, partial=scratch / "killed" / ".out.mlxq-partial"),
        Scenario("file", single, ["quantize", "--mode", "mxfp4"], destination="out.safetensors"),
        Scenario("verify", packed, ["verify"], destination=None),
        Scenario("verify-one", scratch / "one", ["verify"], destination=None),
        Scenario("against", packed, ["verify", "--against", tiny], destination=None),
        Scenario("inspect", packed, ["inspect"], destination=None),
    ]


def find_disk(build):
    """A folder that is not in memory, or else the last that could have been one."""
    for folder in (build, tempfile.gettempdir(), "/var/tmp"):
        kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True).stdout.strip()
        if kind not in ("tmpfs", "ramfs", ""):
            break
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlxq", required=True, type=os.path.abspath)
    parser.add_argument("--shim", required=True, type=os.path.abspath)
    parser.add_argument("--examples", required=True, type=lambda path: Path(path).absolute())
    parser.add_argument("--disk", help="a folder that is not in memory; default: SHIM's, /tmp or /var/tmp")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--only", help="one scenario, by its name in scenarios()")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    tools = parser.parse_args()
    tools.disk = os.path.abspath(tools.disk or find_disk(os.path.dirname(tools.shim)))
    start, injected, outcomes, findings = time.monotonic(), Counter(), Counter(), []
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(dir=place) as memory,
        tempfile.TemporaryDirectory(dir=tools.disk, prefix="faults-") as disk,
        ThreadPoolExecutor(tools.jobs) as pool,
    ):
        for number, scenario in enumerate(scenarios(tools, Path(memory))):
            if tools.only not in (None, scenario.name):
                continue
            sweeps = [Sweep(tools, scenario, Path(memory), [group for group in GROUPS if group not in ON_DISK])]
            if scenario.has_workers():
                sweeps.append(Sweep(tools, scenario, Path(memory), WITH_THREADS, THREADS))
            if scenario.destination:
                sweeps.append(Sweep(tools, scenario, Path(disk), ON_DISK))
                if sweeps[-1].count("allocate") == 0:
                    sys.exit(f"{tools.disk}: nothing is reserved there; --disk names a folder on a disk")
            for sweep in sweeps:
                sweep.go(tools.every, pool, random.Random(number))
                injected += sweep.injected
                outcomes += sweep.outcomes
                findings += sweep.findings
            print(f"{scenario.name}: {sum(sweep.injected.total() for sweep in sweeps)} faults", flush=True)
    for group, (calls, actions) in GROUPS.items():
        counts = [injected[group, threads] for threads in (1, THREADS)]
        print(f"| {calls} | {', '.join(label_of(action) for action in actions)} | {counts[0]} | {counts[1]} |")
    threaded = sum(count for (_, threads), count in injected.items() if threads == THREADS)
    print(f"{injected.total()} faults injected in {time.monotonic() - start:.0f} s, {len(findings)} findings")
    print(f"  {f'with {THREADS} threads':24} {threaded}")
    for outcome, count in sorted(outcomes.items()):
        print(f"  {outcome:24} {count}")
    if findings:
        sys.exit(f"{len(findings)} findings")


if __name__ == "__main__":
    main()
