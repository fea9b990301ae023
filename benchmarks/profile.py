"""Where the time goes while frames are recorded, beside the limit of `benchmarks.capture`.

``python -m benchmarks.profile [--data NAME|FRAMES.npy] [--seconds N] [--streams N] [--dir DIR] [--json]`` runs both with a clock around
each of their steps. Everything is processor time a frame, of all threads, from the first frame to the last segment in its place; what is
left of the cores' time is waiting: for the disk, for another thread, for a core that somebody else has.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import capture_ways, frames
from benchmarks.harness import answer, machine, one

STEPS = {
    "encode": "encode", "hash": "SHA-256", "write": "HDF5, pwrite", "sync": "commits, syncs", "segment": "open and close",
    "python": "Python around it", "source": "the source", "waiting": "waiting",
}  # fmt: skip
"""In the order in which they are shown. The limit has no source and no segment."""


@dataclass(frozen=True, slots=True)
class Result:
    """Microseconds of a core a frame, by way and step; over all steps they are ``cores`` / (frames a second)."""

    data: str
    streams: int
    agent: dict[str, float]
    limit: dict[str, float]
    machine: str
    command: str


class _Thread(threading.local):
    """What one thread spent: seconds by step, and what was spent inside of the steps that it is in."""

    def __init__(self, known: list[dict[str, float]]) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.inside: list[float] = []
        known.append(self.spent)


@dataclass(slots=True)
class Clocks:
    """Processor time by step, without that of the steps within it."""

    _known: list[dict[str, float]] = field(default_factory=list)
    _thread: _Thread = field(init=False)

    def __post_init__(self) -> None:
        """Nothing is timed yet."""
        self._thread = _Thread(self._known)

    def around(self, owner: Any, name: str, step: str) -> None:
        """Time what is called ``name`` in a class or module from now on."""
        real: Callable[..., Any] = getattr(owner, name)

        @wraps(real)
        def timed(*args: Any, **options: Any) -> Any:
            thread, began = self._thread, time.thread_time()
            thread.inside.append(0.0)
            try:
                return real(*args, **options)
            finally:
                taken = time.thread_time() - began
                thread.spent[step] += taken - thread.inside.pop()
                if thread.inside:
                    thread.inside[-1] += taken

        setattr(owner, name, timed)

    def total(self) -> dict[str, float]:
        """Seconds by step so far, of all threads."""
        known = list(self._known)
        return {step: sum(spent[step] for spent in known) for step in STEPS}


def clock_agent(clocks: Clocks) -> None:
    """The steps of the recorder."""
    from edge_agent.codec.bitshuffle_lz4 import BitshuffleLz4
    from edge_agent.record import encoding
    from edge_agent.record.line import Line
    from edge_agent.record.recorder import Recorder
    from edge_agent.record.series import Series
    from edge_agent.segment.file import SegmentFile
    from edge_agent.storage.disk import Disk

    for owner, name, step in (
        (BitshuffleLz4, "encode", "encode"), (encoding, "_encode", "hash"), (encoding, "_as_it_is", "hash"),
        (SegmentFile, "write_chunk", "write"), (Recorder, "_commit", "sync"), (Disk, "sync_data", "sync"), (Series, "_new", "segment"),
        (Series, "roll", "segment"), (encoding.Encoders, "_one", "python"), (Line, "advance", "python"),
    ):  # fmt: skip
        clocks.around(owner, name, step)


def clock_limit(clocks: Clocks) -> None:
    """The steps of the limit."""
    for name, step in (("packed", "encode"), ("hashed", "hash"), ("written", "write"), ("synced", "sync")):
        clocks.around(capture_ways, name, step)


def profile(way: str, data: str, seconds: float, streams: int, folder: str | None) -> dict[str, float]:
    """Microseconds of a core a frame by step, of one way, in this process."""
    clocks = Clocks()
    (clock_agent if way == "agent" else clock_limit)(clocks)
    scratch = Path(tempfile.mkdtemp(dir=folder))
    try:
        found = getattr(capture_ways, way)(frames.load(data), seconds, scratch, streams)
    finally:
        shutil.rmtree(scratch)
    spent = clocks.total()
    cpu = found["cpu_s_per_gb"] * found["raw"] / 1e9
    wall = found["raw"] / 1e6 / found["mb_per_s"]
    spent["source" if way == "agent" else "python"] += max(0.0, cpu - sum(spent.values()))
    spent["waiting"] = max(0.0, (os.cpu_count() or 1) * wall - cpu)
    return {step: round(1e6 * spent[step] / found["frames"], 1) for step in STEPS}


def measure(data: str, seconds: float, streams: int, folder: str | None) -> Result:
    """Both ways.

    Raises:
        Impossible: one failed.
    """
    options = ["--data", data, "--seconds", str(seconds), "--streams", str(streams), *(["--dir", folder] if folder else [])]
    found = {way: one("benchmarks.profile", "--way", [way, *options]) for way in ("agent", "limit")}
    command = f"python -m benchmarks.profile --data {Path(data).name} --seconds {seconds:g} --streams {streams} --json"
    return Result(Path(data).name, streams, found["agent"], found["limit"], machine(), command)


def show(result: Result) -> None:
    """One sentence, then the table."""
    console = Console()
    more = sum(result.agent.values()) - sum(result.limit.values())
    console.print(f"A frame costs the agent {more:.0f} µs of a core more than the limit.")
    table = Table("step", "agent, µs a frame", "limit, µs a frame")
    for step, label in STEPS.items():
        table.add_row(label, f"{result.agent[step]:.0f}", f"{result.limit[step]:.0f}")
    console.print(table)
    console.print(f"{result.data}; {result.machine}")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--data", default="eiger", help=f"{', '.join(frames.NAMES)}, or a .npy file of frames")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each way")
    parser.add_argument("--streams", type=int, default=1, help="detectors at once")
    parser.add_argument("--dir", default=None, help="a folder on the disk to measure on")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.way:
        print(json.dumps(profile(asked.way, asked.data, asked.seconds, asked.streams, asked.dir)))
        return 0
    return answer(lambda: measure(asked.data, asked.seconds, asked.streams, asked.dir), show, as_json=asked.json)


if __name__ == "__main__":
    sys.exit(main())
