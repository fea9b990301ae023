"""One history of the recorder, made to fail at each of its calls in turn: errors, short writes, kills and power failures. A program.

    python -m tests.record.every_call FOLDER [--every N] [--in-turn] FAULT...

The history is the same every time: a run with a camera, a balance and vendor files, which rolls, closes and is recovered when a fault ends it.
It is played once, and at each call that changes the medium the process forks: in the child the call fails and the history goes on from there
to its end and its judge. So what came before a call is not played again for it, and a segment that was closed before it is verified once.
``--every``: only every so many of HDF5's own writes, which are five in six. ``--in-turn``: one of the faults at each call, not all.
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import errno
import gc
import json
import os
import random
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from edge_agent.record.segment_writer import Closed
from edge_agent.storage.faults import Crashed, Fault, Faults
from edge_agent.storage.memory import Memory
from tests.record.bench import ROOT, Bench

T = TypeVar("T")

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


def history(bench: Bench) -> None:
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


class Forking(Faults):
    """Forks before each call. ``chosen`` is the fault of this process; None in the one that plays the history without any."""

    def __init__(self, inner: Memory, faults: list[str], every: int, in_turn: bool) -> None:
        super().__init__(inner)
        self.faults, self.every, self.in_turn = faults, every, in_turn
        self.chosen: str | None = None
        self.result = -1
        self.sites = 0
        self.met: Counter[str] = Counter()
        self.failures: list[str] = []

    def _do(self, kind: str, path: Path, call: Callable[[], T], half: Callable[[], object] = lambda: None) -> T:
        number = len(self.calls) + 1
        if self.chosen is None and (kind != HDF5 or number % self.every == 0):
            self.sites += 1
            turn = self.sites % len(self.faults)
            for name in self.faults[turn : turn + 1] if self.in_turn else self.faults:
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
            self.chosen, self.result = name, writing
            self.fault = replace(FAULTS[name][0], at=number)
            return True
        os.close(writing)
        with os.fdopen(reading) as pipe:
            said = pipe.read()
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code or said:
            self.failures.append(f"call {number}, {name}: {said or f'ended with {code}'}")
        self.met[name] += 1
        return False


class Played(Bench):
    """Verifies a segment as soon as it is closed, so that no child has to that finds it as it is."""

    def _closed(self, closed: Closed) -> None:
        self.verified(closed)
        super()._closed(closed)


def play(folder: Path, faults: list[str], every: int, in_turn: bool) -> Forking | None:
    """Play the history under all faults; None in a child, which has said what is wrong."""
    disk = Forking(Memory(ROOT), faults, every, in_turn)
    try:
        end(Played(disk, folder), disk)
    except BaseException:
        if disk.chosen is None:
            raise
        os.write(disk.result, traceback.format_exc(limit=-3).encode())
    return None if disk.chosen else disk


def end(played: Played, disk: Forking) -> None:
    """From the beginning to the judge; a child begins in the middle of it."""
    crashed = False
    try:
        history(played)
    except Crashed:
        crashed = True
        assert disk.chosen is not None
        assert disk.fault is not None
        played.die(random.Random(disk.fault.at), power=FAULTS[disk.chosen][1])
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
    parser.add_argument("--in-turn", action="store_true")
    options = parser.parse_args()
    gc.freeze()  # or each child copies what its collector looks at
    gc.disable()
    disk = play(options.folder, options.faults, options.every, options.in_turn)
    if disk is None:
        os._exit(0)
    kinds = Counter(kind for kind, _ in disk.calls)
    print(json.dumps({"calls": kinds, "sites": disk.sites, "met": disk.met, "failures": disk.failures}))
    return 1 if disk.failures else 0


if __name__ == "__main__":
    sys.exit(main())
