"""Arrival to durable at half of the most that the agent takes, beside the two syncs alone.

``python -m benchmarks.latency [--data NAME|FRAMES.npy] [--seconds N] [--rounds N] [--dir DIR] [--json]`` runs in turn: ``agent`` (finds its
fastest rate for two seconds, then records at half of it) and ``syncs`` (writes the same bytes a second to two files and syncs both at once,
as a commit does, 5 ms after the last sync ended; first, like the agent, twice as many for two seconds: a disk that lets nobody write
faster for long makes them wait afterwards). Of the syncs it also tells when bytes that arrive at that pace are durable: a sync that
takes long holds many of them, and is one of a thousand syncs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks import frames
from benchmarks.capture_ways import Watch, daemon, feed
from benchmarks.harness import answer, machine, one

PAUSE = 0.005
LEAF = 256
ALLOWED_MS = 20.0
FASTEST_S = 2.0
"""Seconds at the fastest rate, which go before."""


@dataclass(frozen=True, slots=True)
class Result:
    """99th percentiles in ms, medians over the rounds; ``allowed`` is 20 ms + 2 x the syncs', ``bare`` from arrival to the syncs' end."""

    data: str
    frames_per_s: float
    durable_p99_ms: float
    syncs_p99_ms: float
    bare_p99_ms: float
    allowed_ms: float
    missed: int
    machine: str
    command: str


def empty(room: Any) -> None:
    """Wait until everything that was taken is durable."""
    while room.used:
        time.sleep(0.01)


def p99(values: list[float]) -> float:
    """99th percentile of seconds, in ms."""
    return 1000 * sorted(values)[int(len(values) * 0.99)]


async def agent(data: frames.Frames, seconds: float, folder: Path) -> dict[str, float]:
    """Latencies of a daemon at half of its fastest rate."""
    async with daemon(data, folder, 1) as (running, inlets):
        watch = Watch()
        most, _ = await asyncio.to_thread(feed, running.recorder.room, inlets, data, lambda _: watch() < FASTEST_S)
        rate = most / watch() / 2
        await asyncio.to_thread(empty, running.recorder.room)
        running.recorder.latencies = deque()
        watch, first = Watch(), most

        def paced(offered: int) -> bool:
            time.sleep(max(0.0, offered / rate - watch()))
            return watch() < seconds

        offered, missed = await asyncio.to_thread(feed, running.recorder.room, inlets, data, paced, first)
        latencies = list(running.recorder.latencies)
        (segment,) = [series.segment for series in running.desk.groups["bench"].foreground.recording.series()]
        stored = segment.stored_bytes / (most + offered)
        await running.desk.stop("bench")
    return {"frames_per_s": rate, "p99_ms": p99(latencies), "missed": missed, "stored": stored}


def syncs(rate: float, stored: float, seconds: float, folder: Path) -> tuple[float, float]:
    """99th percentiles in ms: of both syncs together, and from the arrival of a frame's bytes until they are durable."""
    files = [os.open(folder / name, os.O_RDWR | os.O_CREAT) for name in ("payload", "journal")]
    with ThreadPoolExecutor(2) as pool:
        _paced(2 * rate, stored, FASTEST_S, files, pool)
        taken, waited = _paced(rate, stored, seconds, files, pool)
    for fd in files:
        os.close(fd)
    return p99(taken), p99(waited)


def _paced(rate: float, stored: float, seconds: float, files: list[int], pool: ThreadPoolExecutor) -> tuple[list[float], list[float]]:
    """Seconds of each sync, and from each frame's arrival until it is durable."""
    block = os.urandom(1 << 20)
    taken: list[float] = []
    waited: list[float] = []
    watch, done = Watch(), 0
    while watch() < seconds:
        due = int(rate * watch()) - done
        left = int(due * stored)
        while left > 0:
            left -= os.write(files[0], block[: min(left, len(block))])
        os.write(files[1], bytes(LEAF * due))
        began = time.monotonic()
        list(pool.map(os.fdatasync, files))
        taken.append(time.monotonic() - began)
        waited.extend(watch() - n / rate for n in range(done, done + due))
        done += due
        time.sleep(PAUSE)
    return taken, waited


def measure(data: str, seconds: float, rounds: int, folder: str | None) -> Result:
    """Both ways ``rounds`` times.

    Raises:
        Impossible: a way failed.
    """
    ours, bare = [], []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for _ in range(rounds):
            ours.append(one("benchmarks.latency", "--way", ["agent", "--data", data, "--seconds", str(seconds), "--dir", scratch]))
            place = Path(tempfile.mkdtemp(dir=scratch))
            bare.append(syncs(ours[-1]["frames_per_s"], ours[-1]["stored"], seconds, place))
            shutil.rmtree(place)
    alone = median(each for each, _ in bare)
    return Result(
        Path(data).name, round(median(r["frames_per_s"] for r in ours), 1), round(median(r["p99_ms"] for r in ours), 1), round(alone, 1),
        round(median(waited for _, waited in bare), 1), round(ALLOWED_MS + 2 * alone, 1), int(sum(r["missed"] for r in ours)), machine(),
        f"python -m benchmarks.latency --data {Path(data).name} --seconds {seconds:g} --rounds {rounds} --json",
    )  # fmt: skip


def show(result: Result) -> None:
    """One sentence."""
    Console().print(
        f"At {result.frames_per_s:.0f} frames/s, half of the most, 99 of 100 frames are durable within {result.durable_p99_ms:.0f} ms;"
        f" {result.allowed_ms:.0f} ms are allowed (20 ms + 2 x {result.syncs_p99_ms:.0f} ms of the syncs alone)."
    )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("--data", default="eiger", help=f"{', '.join(frames.NAMES)}, or a .npy file of frames")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", default=None, help="a folder on the disk to measure on")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.way:
        place = Path(tempfile.mkdtemp(dir=asked.dir))
        print(json.dumps(asyncio.run(agent(frames.load(asked.data), asked.seconds, place))))
        shutil.rmtree(place)
        return 0
    return answer(lambda: measure(asked.data, asked.seconds, asked.rounds, asked.dir), show, as_json=asked.json)


if __name__ == "__main__":
    sys.exit(main())
