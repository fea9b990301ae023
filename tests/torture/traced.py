"""Every call of a reference run fails or is the last: EIO, ENOSPC or SIGKILL at each write, sync, rename, unlink and the like. A program.

    python -m tests.torture.traced FOLDER [--turn 0|1|2] [--only TEXT]

The run is `reference`. Without a fault it is counted first, by `gate` and by strace at once, which must agree: a *call* is the n-th of its
kind on one file below the spool and the target. Then every call is met by a fault, each time in a life of its own on a copy of the same
beginning, and judged by another life after it. Without ``--turn`` every call is met three times, by each fault; a turn gives each call one
of them (of HDF5's own writes every third), and three turns give the others all. The lives are forked from a process that has imported
everything. SQLite and HDF5 use their own
drivers. A life that does not reach its call (threads take turns as they like) is tried again. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import functools
import gc
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.enrolment import Identity, open_identity
from edge_agent.record.segment_writer import PART
from edge_agent.runs import desk
from tests.torture import reference
from tests.torture.gate import CALLS, Call, Watch, below, enter

FAULTS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "SIGKILL": 0}
TRIES = 4
WORKERS = 4
"""A life waits for half of its time; for pauses, not for a core."""
LIFE = 30.0
"""Seconds after which a life is killed: it waits for something that does not come back."""

Say = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended (exit code, or minus the signal), and the lines that it said."""

    status: int
    said: list[str]


@dataclass(frozen=True, slots=True)
class Child:
    """A process that was forked, and the pipe on which it speaks."""

    pid: int
    pipe: int

    def end(self) -> Ended:
        """Wait for its end."""
        with os.fdopen(self.pipe) as pipe:
            said = [line.rstrip("\n") for line in pipe if line.endswith("\n")]
        _, status = os.waitpid(self.pid, 0)
        return Ended(os.waitstatus_to_exitcode(status), said)


def fork(work: Callable[[Say], object], log: Path) -> Child:
    """A process that does ``work`` and ends; what it writes to standard error is added to ``log``."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return Child(pid, reading)
    code = 3
    try:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        work(lambda *words: os.write(writing, (" ".join(map(str, words)) + "\n").encode()))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


Life = Callable[[Path, Identity, Say], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Sweep:
    """``start`` is what an earlier crash left, ``folder`` where everything happens."""

    folder: Path
    identity: Identity

    @property
    def start(self) -> Path:
        return self.folder / "start"

    def begin(self) -> None:
        """Make the beginning."""
        self.start.mkdir()
        ended = fork(lambda say: asyncio.run(reference.crash(self.start, self.identity, say)), self.folder / "start-log").end()
        assert ended.status == -signal.SIGKILL, (self.folder / "start-log").read_text()

    def count(self) -> list[Call]:
        """The calls of a run without a fault, which strace sees too."""
        place, log = self.folder / "counted", self.folder / "strace"
        ended, watch = self._live(place, strace=log)
        assert (ended.status, ended.said[-1]) == (0, "ended"), (place / "log").read_text()
        counted, traced = Counter((call.kind, call.file) for call in watch.seen), by_strace(log, place)
        assert counted == traced, f"strace counts differently: {counted - traced} and {traced - counted}"
        return watch.seen

    def meet(self, place: Path, call: Call, fault: str) -> dict[str, Any]:
        """Meet one call with one fault, and judge what comes of it. An error may end a life by an exception, never by a signal."""
        ended, watch = self._live(place, call, FAULTS[fault])
        said = [line.split() for line in ended.said]
        judged = fork(lambda say: say(json.dumps(reference.judge(place, self.identity, said))), place / "log").end()
        problems = json.loads(judged.said[0]) if judged.said else [f"the judge ended with {judged.status}"]
        if FAULTS[fault] and ended.status < 0:
            problems.append(f"an error ended the process, or had it wait for {LIFE:g} s: signal {-ended.status}")
        end = "went on to the end" if "ended" in ended.said else f"ended with {ended.status}"
        return {"met": watch.met, "problems": problems, "end": end}

    def work(self, number: int, cases: Sequence[tuple[Call, str]]) -> dict[str, Any]:
        """Meet cases one after the other."""
        failures: dict[str, list[str]] = {}
        ends: Counter[str] = Counter()
        unmet: list[str] = []
        for call, fault in cases:
            name, met = f"{call} {fault}", False
            for _ in range(TRIES):
                place = self.folder / f"case-{number}"
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(place)
                result = self.meet(place, call, fault)
                met = result["met"]
                if result["problems"]:
                    failures[name] = result["problems"]
                    place.rename(self.folder / f"failed-{number}-{len(failures)}")
                if met:
                    ends[result["end"]] += 1
                    break
            if not met:
                unmet.append(name)
        return {"met": ends.total(), "failures": failures, "unmet": unmet, "ends": ends}

    def _live(self, place: Path, at: Call | None = None, fault: int | None = None, strace: Path | None = None) -> tuple[Ended, Watch]:
        """One reference run on a copy of the beginning."""
        shutil.copytree(self.start, place)
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                kinds = CALLS if at is None else (at.kind,)
                child = fork(functools.partial(_run, place, self.identity, theirs, kinds, strace is not None), place / "log")
            command = ["strace", "-f", "-y", "-qq", "-e", f"trace={','.join(CALLS)}", "-o", str(strace), "-p", str(child.pid)]
            tracer = None if strace is None else subprocess.Popen(command)
            _, (listener, *_), _, _ = socket.recv_fds(ours, 1, 1)
        watch = Watch(child.pid, place, at, fault)
        try:
            watch.serve(listener, time.monotonic() + LIFE)
        finally:
            os.close(listener)
        ended = child.end()
        if tracer is not None:
            tracer.wait()
        return ended, watch


def _run(place: Path, identity: Identity, to: socket.socket, kinds: Sequence[str], traced: bool, say: Say) -> None:
    while traced and re.search(r"^TracerPid:\t0$", Path("/proc/self/status").read_text(), re.MULTILINE):
        os.sched_yield()
    enter(to, kinds)
    asyncio.run(reference.live(place, identity, say))


def by_strace(log: Path, folder: Path) -> Counter[tuple[str, str]]:
    """How many calls of each kind strace saw on each file below ``folder``."""
    counted: Counter[tuple[str, str]] = Counter()
    for line in log.read_text().splitlines():
        # Of a link the name that is made, as `gate` has it.
        line = re.sub(r'^(\d+ +link)\("[^"]*", ', r"\1(", line)
        found = re.match(r'\d+ +(\w+)\((?:\d+<([^>]*)>|(?:AT_FDCWD(?:<[^>]*>)?, )?"([^"]*)")', line)
        file = found and below(folder, found[2] or found[3])
        if found and file:
            counted[found[1], file] += 1
    return counted


def is_hdf5(call: Call) -> bool:
    """Whether HDF5 writes its own file: of these a turn has every third, because `tests.record.every_call` meets each in `make test`."""
    return call.kind == "pwrite64" and call.file.endswith(PART)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--turn", type=int, default=None, help="one fault a call, another one for each of 0, 1, 2; default: all faults")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    desk.RETRY_FIRST = 0.05
    folder = options.folder.resolve()
    folder.mkdir(exist_ok=True)
    sweep = Sweep(folder, open_identity(folder / "keys"))
    began = time.monotonic()
    sweep.begin()
    calls = sweep.count()
    gc.freeze()  # or each life goes through, and copies, what was imported
    cases = [(call, fault) for call in calls for fault in FAULTS]
    if options.turn is not None:
        cases = [cases[3 * n + (n + options.turn) % 3] for n, call in enumerate(calls) if not is_hdf5(call) or n // 3 % 3 == options.turn]
    left = len(calls) - len({call for call, _ in cases})
    cases = [case for case in cases if options.only in f"{case[0]} {case[1]}"]
    works = [functools.partial(sweep.work, n, cases[n :: options.workers]) for n in range(options.workers)]
    children = [fork(lambda say, work=work: say(json.dumps(work())), folder / "log") for work in works]  # type: ignore[misc]
    results = [json.loads(child.end().said[0]) for child in children]
    failures = {name: problems for result in results for name, problems in result["failures"].items()}
    unmet = [name for result in results for name in result["unmet"]]
    ends: Counter[str] = sum((Counter(result["ends"]) for result in results), Counter())
    kinds, seconds = Counter(call.kind for call in calls), round(time.monotonic() - began)
    answer = {"calls": len(calls), "left": left, "kinds": kinds, "cases": len(cases), "met": ends.total(), "ends": ends, "seconds": seconds}
    print(json.dumps(answer | {"unmet": unmet, "failures": failures}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
