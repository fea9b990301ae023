"""The system's own calls fail or are the last: an agent on the real disk under strace's fault injection. A program.

    python -m tests.torture.traced FOLDER [--seconds N] [--seed N]

An agent records, closes a run and stops, as in `power_child`. One run without a fault counts the calls of each kind and thread; then the agent
runs again and again, each time with one kind of call failing with EIO or ENOSPC, or ended by SIGKILL, at its n-th time in every thread
that gets so far (strace counts by thread), in random order until the time is over. Unlike in `tests/record/test_every_call.py`, SQLite and HDF5
use their own drivers here. After each, an agent starts on what is left, and everything that was said to be durable must be there. Prints
one JSON object with how many of all cases were met.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from edge_agent.enrolment import open_identity
from tests.torture.power import Word, judge

KINDS = ("write", "pwrite64", "fsync", "fdatasync", "ftruncate", "rename", "unlink", "mkdir")
FAULTS = ("error=EIO", "error=ENOSPC", "signal=SIGKILL")
ROUNDS = 4


def child(folder: Path, *strace: str) -> tuple[int, list[Word]]:
    """One agent under strace; its exit code, and what it said."""
    agent = [sys.executable, "-m", "tests.torture.power_child", str(folder / "spool"), str(folder.parent / "keys"), str(ROUNDS)]
    done = subprocess.run(["strace", "-f", "-qq", *strace, *agent], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    words = []
    for line in done.stdout.splitlines():
        if re.fullmatch(r"\d+ [a-z]+( \d+)*", line):
            t, what, *rest = line.split()
            words.append(Word(int(t), what, *map(int, rest)))
    return done.returncode, words


def cases(folder: Path) -> list[tuple[str, int, str]]:
    """Every kind of call, number and fault that there is; numbers are those of the thread that calls most often."""
    folder.mkdir()
    log = folder / "calls"
    code, words = child(folder, "-e", f"trace={','.join(KINDS)}", "-o", str(log))
    assert (code, words[-1].what) == (0, "ended"), words
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    for line in log.read_text().splitlines():
        found = re.match(r"(\d+) +(\w+)\((.*)", line)
        if found is not None and found[2] in counts:
            counts[found[2]][found[1]] += 1
    return [(kind, n, fault) for kind in KINDS for n in range(1, max(counts[kind].values(), default=0) + 1) for fault in FAULTS]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    seed = random.randrange(2**32) if options.seed is None else options.seed
    options.folder.mkdir(exist_ok=True)
    identity = open_identity(options.folder / "keys")
    every = cases(options.folder / "reference")
    random.Random(seed).shuffle(every)
    began, met, failures = time.monotonic(), 0, {}
    for kind, n, fault in every:
        if time.monotonic() - began > options.seconds:
            break
        folder = options.folder / f"{kind}-{n}-{fault.partition('=')[2]}"
        folder.mkdir()
        _, words = child(folder, "-e", f"trace={kind}", "-o", "/dev/null", "-e", f"inject={kind}:{fault}:when={n}")
        met += 1
        problems: list[Any] = judge(folder, identity, words, whole=True) if (folder / "spool" / "runs").exists() else []
        if problems:
            failures[folder.name] = problems
        else:
            shutil.rmtree(folder)
    print(json.dumps({"seed": seed, "cases": len(every), "met": met, "failures": failures}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
