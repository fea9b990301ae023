"""One history of the recorder, made to fail at each of its calls in turn: errors, short writes, kills and power failures. A program.

    python -m tests.record.every_call FOLDER [--short] [--every N] FAULT...

The history is the same every time: a run with a camera, a balance and vendor files, which rolls, closes and is recovered when a fault ends it.
It is played once, and at each call that changes the medium the process forks: in the child the call fails and the history goes on from there
to its end and its judge. So what came before a call is not played again for it, and a segment that was closed before it is verified once.
``--every``: only every so many of HDF5's own writes, which are five in six. Prints one JSON object.

``--short``: a history with one segment of each kind, one after the other, which ends with the step whose call failed. Clocks stand still, keys
and ids are the same in each child and a session has no second key (whose signatures are other ones each time): so what is recovered has the
same bytes in many children, which are verified in one of them.
"""

from __future__ import annotations

import argparse
import errno
import gc
import json
import os
import pickle
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from edge_agent.record import session as sessions
from edge_agent.record import tree
from edge_agent.record.clock import Reading
from edge_agent.record.segment_writer import Closed
from edge_agent.record.session import Session
from edge_agent.storage.faults import Crashed, Fault, Faults
from edge_agent.storage.memory import Memory
from tests.record import conftest as kit
from tests.record.bench import ROOT, Bench, Read

T = TypeVar("T")
History = Callable[[Bench], Iterator[None]]
Verified = dict[tuple[bytes, bytes], Read]

FAULTS = {
    "EIO": (Fault(0, errno.EIO), False),
    "EIO-7": (Fault(0, errno.EIO, times=7), False),
    "ENOSPC": (Fault(0, errno.ENOSPC), False),
    "ENOSPC-3": (Fault(0, errno.ENOSPC, times=3), False),
    "ENOSPC-7": (Fault(0, errno.ENOSPC, times=7), False),
    "kill": (Fault(0), False),
    "kill-after": (Fault(0, after=True), False),
    "power": (Fault(0), True),
    "power-after": (Fault(0, after=True), True),
}
"""By name: the fault, and whether a crash takes what was not synced. A write that fails has taken half of its bytes."""

HDF5 = "write_at"
"""The call by which only HDF5 writes."""
LIFE = 60
"""Seconds after which a child is killed: it waits for something that does not come back."""


def short(bench: Bench) -> Iterator[None]:
    """Everything once: two frames with a gap and a restart between them, a file, rows that fill a chunk and rows that do not."""
    bench.frame()
    yield
    bench.commit(sign=True)
    yield
    bench.refuse(2)
    bench.restart(1)
    bench.frame(skip=2)
    yield
    bench.roll(0)
    yield
    bench.file(700)
    bench.commit()
    yield
    bench.roll(2)
    yield
    bench.rows(1030)
    yield
    bench.commit(sign=True)
    yield
    bench.rows(3)
    bench.tick()
    yield
    bench.close()
    yield


def long(bench: Bench) -> Iterator[None]:
    """Several segments are open at once, and the run goes on after a fault."""
    bench.frame()
    bench.rows(40)
    bench.file(700)
    bench.commit(sign=True)
    bench.frame(skip=2)
    bench.refuse(2)
    bench.rows(1100)
    bench.commit()
    bench.roll(0)
    bench.restart(1)
    bench.frame()
    bench.commit(sign=True)
    bench.rows(3)
    bench.tick()
    bench.close()
    yield


class Prepared(kit.Facility):
    """Its boots come with sessions that were made before they are needed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sessions = [kit.Facility.boot(self) for _ in range(2)]

    def boot(self) -> Session:
        return self.sessions.pop(0)


def stand_still() -> None:
    """Make everything the same in each child: clocks, ids, and signatures, of which those of ML-DSA are not."""
    tree.read_clocks = lambda clock, now_ns: Reading(kit.T0 + 10**9, 10**12)
    now = time.monotonic()
    Played._now = lambda self: kit.T0 + 10**9
    time.monotonic = lambda: now  # or heads are due where a slow machine lets a second pass
    sessions.new_ml_dsa = lambda: None
    os.urandom = random.Random(1).randbytes


class Forking(Faults):
    """Forks before each call. ``chosen`` is the fault of this process; None in the one that plays the history without any."""

    def __init__(self, inner: Memory, faults: list[str], every: int) -> None:
        super().__init__(inner)
        self.faults, self.every = faults, every
        self.verified: Verified = {}
        self.chosen: str | None = None
        self.result = -1
        self.inherited: frozenset[tuple[bytes, bytes]] = frozenset()
        self.sites = 0
        self.met: Counter[str] = Counter()
        self.failures: list[str] = []

    def _do(self, kind: str, path: Path, call: Callable[[], T], half: Callable[[], object] = lambda: None) -> T:
        number = len(self.calls) + 1
        if self.chosen is None and (kind != HDF5 or number % self.every == 0):
            self.sites += 1
            for name in self.faults:
                if self._fork(name, number):
                    break
        return super()._do(kind, path, call, half)

    def _fork(self, name: str, number: int) -> bool:
        """True in the child; the other one waits for its end."""
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            signal.alarm(LIFE)
            os.close(reading)
            self.chosen, self.result, self.inherited = name, writing, frozenset(self.verified)
            self.fault = replace(FAULTS[name][0], at=number)
            return True
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read()
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        wrong, verified = pickle.loads(said) if said and not code else (f"ended with {code}", {})
        self.verified |= verified
        if wrong:
            self.failures.append(f"call {number}, {name}: {wrong}")
        self.met[name] += 1
        return False


class Played(Bench):
    """Verifies a segment as soon as it is closed, so that no child has to that finds it as it is."""

    def _closed(self, closed: Closed) -> None:
        self.verified(closed)
        super()._closed(closed)


def play(folder: Path, history: History, facility: kit.Facility, disk: Forking) -> Forking | None:
    """Play the history under all faults; None in a child, which has said what is wrong and which segments it has verified."""
    played = Played(disk, folder, facility)
    played.known = disk.verified
    wrong = ""
    try:
        end(played, disk, history)
    except BaseException:
        if disk.chosen is None:
            raise
        wrong = traceback.format_exc(limit=-3)
    if disk.chosen is None:
        return disk
    # In the long history no other child has the same bytes.
    new = {key: read for key, read in disk.verified.items() if key not in disk.inherited} if history is short else {}
    said = pickle.dumps((wrong, new))
    with os.fdopen(disk.result, "wb") as pipe:
        pipe.write(said)
    return None


def end(played: Played, disk: Forking, history: History) -> None:
    """From the beginning to the judge; a child begins in the middle of it."""
    crashed = False
    try:
        for _ in history(played):
            if history is short and disk.chosen is not None:
                break
    except Crashed:
        crashed = True
        assert disk.chosen is not None
        assert disk.fault is not None
        played.die(random.Random(disk.fault.at), power=FAULTS[disk.chosen][1])
        if history is long:
            played.frame()
            played.rows(2)
    played.disk.fault = None
    played.judge(whole=not crashed)
    played._bury()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("faults", nargs="+", choices=FAULTS)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    if options.short:
        stand_still()
    facility = Prepared() if options.short else kit.Facility()
    gc.freeze()  # or each child copies what its collector looks at
    gc.disable()
    forking = Forking(Memory(ROOT), options.faults, options.every)
    disk = play(options.folder, short if options.short else long, facility, forking)
    if disk is None:
        os._exit(0)
    kinds = Counter(kind for kind, _ in disk.calls)
    print(json.dumps({"calls": kinds, "sites": disk.sites, "met": disk.met, "verified": len(disk.verified), "failures": disk.failures}))
    return 1 if disk.failures else 0


if __name__ == "__main__":
    sys.exit(main())
