"""A target that is away while a camera runs. ``python -m benchmarks.outage [--seconds N] [--mb-per-s N] [--json]``.

A daemon records frames at a steady rate in runs of ten seconds and uploads them to a landing service over TLS. The service is killed for
``--seconds`` and started again while frames still come: *draining* is the rate at which the backlog goes from the first new proof on.
Then the same once more with the camera stopped before the service comes back: *alone*, the full rate of this machine. The figures of the
capture are those before and during the outage: frames refused, and the time until a frame is durable.

What was promised is judged at the end; the exit code is 2 when something is not met. It needs room for all frames, and for as many again
that come while the backlog drains.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.harness import Impossible, answer, machine, peak_mb
from benchmarks.latency import p99
from benchmarks.outage_landing import Landing
from edge_agent.agent.agent import Agent
from edge_agent.agent.sink import AgentSink
from edge_agent.config.loading import load
from edge_agent.model import Frame, ItemKind, Kind, Stream

SHAPE = (512, 512)
RUN = 10.0
SHORTER = 60.0
"""Longest of the second outage."""
PATIENCE = 900.0
FULL_RATE = 0.8
"""Least share of the rate without a camera at which bytes are proved while the camera runs: it has its share of the processors and of the
disk, on which spool and landing service are both."""
SLOWER = 2.0
SOON = 500.0
"""At most `SLOWER` times longer may 99 of 100 frames take to be durable while the target is away, or ms that a disk takes on which others
work too; what a frame waits for is the disk alone."""
CONFIG = """\
site = "BENCH"
spool = {{ dir = "{spool}", keep_free = "1 MB" }}
[instrument.camera]
adapter = "files"
folder = "{watched}"
codec = "none"
[target.cloud]
landing = "{url}"
"""


@dataclass(frozen=True, slots=True)
class Result:
    """Latencies are 99th percentiles in ms; rates are of stored bytes, backlog is in MB."""

    outage_s: float
    frames: int
    refused: int
    missing: int
    p99_ms_before: float
    p99_ms_during: float
    backlog_mb: float
    noticed_s: float
    draining_mb_per_s: float
    alone_mb_per_s: float
    ratio: float
    out_of_order: int
    rss_peak_mb: float
    unmet: list[str]
    machine: str
    command: str


def unmet(
    *, refused: int, missing: int, before: float, during: float, ratio: float, out_of_order: int
) -> list[str]:  # fmt: skip
    """What was promised of an outage and is not so; empty when all of it is."""
    promises = {
        "capture unaffected: every frame is taken and lands": refused == missing == 0,
        f"capture unaffected: frames are durable as soon as before, or within {SOON:g} ms": during <= max(SLOWER * before, SOON),
        f"the backlog drains at the full rate: at least {FULL_RATE:g} of that without a camera": ratio >= FULL_RATE,
        "order kept: no run is complete before an earlier one, and its commit marker is last": out_of_order == 0,
    }
    return [promise for promise, kept in promises.items() if not kept]


class Camera:
    """Frames at a steady rate, in runs of `RUN` seconds, until it is stopped."""

    def __init__(self, agent: Agent, mb_per_s: float) -> None:
        self._agent = agent
        self._period = SHAPE[0] * SHAPE[1] * 2 / (mb_per_s * 1e6)
        self._pixels = [np.random.default_rng(n).integers(0, 1 << 16, SHAPE, "<u2") for n in range(8)]
        self._numbers = itertools.count()
        self.frames = self.refused = 0
        self.runs: list[bytes] = []
        self.enough = asyncio.Event()

    async def shoot(self, seconds: float) -> None:
        """Several runs; the last one when there is `enough`."""
        stream = Stream("camera", "image", Kind.FRAMES, "<u2", SHAPE, counted=True)
        sink = AgentSink(self._agent.instruments["camera"], self._agent.desk.groups["camera"], self._agent.keeper, None)
        inlet = sink.open(stream)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.enough.is_set():
            self.runs.append(self._agent.desk.start("camera", project="bench").run_id)
            due, until = time.monotonic(), time.monotonic() + min(RUN, left)
            while due < until:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                now = time.time_ns()
                number = next(self._numbers)
                self.refused += not inlet.offer(Frame(self._pixels[number % 8], number, now, now))
                self.frames += 1
                due += self._period
            await self._agent.desk.stop("camera")


async def until(condition: Callable[[], Any], every: float = 0.05) -> float:
    """Wait; the time (s, monotonic) at which it was true."""
    end = time.monotonic() + PATIENCE
    while not await asyncio.to_thread(condition):
        if time.monotonic() > end:
            raise Impossible(f"not done after {PATIENCE:g} s")
        await asyncio.sleep(every)
    return time.monotonic()


class Drain:
    """How a backlog goes."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        (self._before,) = agent.engine.status()

    def backlog(self) -> int:
        """Bytes that wait."""
        return sum(waits.bytes for waits in self._agent.spool.outbox.backlog())

    async def measure(self) -> tuple[float, float]:
        """Seconds until the first proof, and MB/s from then until nothing waits, of all that was proved."""
        began = time.monotonic()
        first = await until(lambda: self._agent.engine.status()[0].proved_bytes > self._before.proved_bytes)
        done = self._agent.engine.status()[0].proved_bytes
        last = await until(lambda: self.backlog() < 32e6)
        return first - began, (self._agent.engine.status()[0].proved_bytes - done) / 1e6 / (last - first)


async def measure(seconds: float, mb_per_s: float, folder: str | None) -> Result:
    """The outage with the camera on, then a shorter one with the camera off at its end."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        place = Path(scratch)
        await asyncio.to_thread(_check_room, place, seconds, mb_per_s)
        landing = await asyncio.to_thread(Landing, place / "landing")
        agent = None
        try:
            await asyncio.to_thread(landing.start)
            (place / "watched").mkdir()
            (place / "agent.toml").write_text(CONFIG.format(spool=place / "spool", watched=place / "watched", url=landing.url))
            await landing.enrol(place / "spool" / "keys")
            agent = Agent(load(place / "agent.toml"))
            await agent.start()
            camera = Camera(agent, mb_per_s)
            await camera.shoot(RUN / 2)
            agent.recorder.latencies = deque()
            await camera.shoot(RUN)
            before, agent.recorder.latencies = p99(list(agent.recorder.latencies)), deque()
            await asyncio.to_thread(landing.kill)
            await camera.shoot(seconds)
            during = p99(list(agent.recorder.latencies))
            drain = Drain(agent)
            backlog = await asyncio.to_thread(drain.backlog)
            shooting = asyncio.create_task(camera.shoot(PATIENCE))
            await asyncio.to_thread(landing.start)
            noticed, draining = await drain.measure()
            camera.enough.set()
            await shooting
            camera.enough.clear()
            await until(lambda: drain.backlog() == 0)
            await asyncio.to_thread(landing.kill)
            await camera.shoot(min(max(2 * RUN, seconds / 4), SHORTER))
            drain = Drain(agent)
            await asyncio.to_thread(landing.start)
            _, alone = await drain.measure()
            await until(lambda: drain.backlog() == 0)
            missing, swapped = await asyncio.to_thread(_look, agent, camera)
        finally:
            if agent is not None:
                await agent.stop()
            await asyncio.to_thread(landing.kill)
    command = f"python -m benchmarks.outage --seconds {seconds:g} --mb-per-s {mb_per_s:g} --json"
    ratio = draining / alone
    broken = unmet(refused=camera.refused, missing=missing, before=before, during=during, ratio=ratio, out_of_order=swapped)
    return Result(
        seconds, camera.frames, camera.refused, missing, round(before, 1), round(during, 1), round(backlog / 1e6), round(noticed, 1),
        round(draining, 1), round(alone, 1), round(ratio, 2), swapped, round(peak_mb()), broken, machine(), command,
    )  # fmt: skip


def _check_room(place: Path, seconds: float, mb_per_s: float) -> None:
    """All frames at the target, also those that come while the backlog drains; the spool is freed meanwhile.

    Raises:
        Impossible: the disk has less.
    """
    wanted, free = (2 * seconds + SHORTER + 6 * RUN) * mb_per_s * 1e6, shutil.disk_usage(place).free
    if free < wanted:
        raise Impossible(f"it needs {wanted / 1e9:.1f} GB, {place} has {free / 1e9:.1f} GB free; give another folder with --dir")


def _look(agent: Agent, camera: Camera) -> tuple[int, int]:
    """Frames that did not land, and runs that were complete before an earlier one, or of which something came after the commit marker."""
    totals = agent.keeper.totals()["camera/image"]
    swapped, last = 0, 0
    for run in camera.runs:
        items = agent.spool.outbox.items_of_run(run)
        at = {item.kind: agent.spool.outbox.deliveries(item.item_id)[0].receipt for item in items if item.kind is not ItemKind.RECEIPTS}
        times = {kind: 0 if receipt is None else receipt.t_ns for kind, receipt in at.items()}
        swapped += times[ItemKind.CRATE] < last or max(times, key=times.__getitem__) is not ItemKind.CRATE
        last = max(last, times[ItemKind.CRATE])
    return camera.frames - totals.landed, swapped


def show(result: Result) -> None:
    """Three sentences and the verdict."""
    Console().print(
        f"{result.outage_s:g} s without a target: {result.refused} of {result.frames} frames refused, {result.missing} missing;"
        f" 99 of 100 are durable within {result.p99_ms_during:.0f} ms ({result.p99_ms_before:.0f} ms before).\n"
        f"The first of {result.backlog_mb:.0f} MB is proved {result.noticed_s:.1f} s after the return; then"
        f" {result.draining_mb_per_s:.0f} MB/s go while the camera runs, {result.ratio:.2f} of {result.alone_mb_per_s:.0f} MB/s without it;"
        f" runs out of order: {result.out_of_order}.\n"
        + ("\n".join(f"NOT MET: {promise}" for promise in result.unmet) or "All promises are met.")
    )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outage", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--mb-per-s", type=float, default=20.0)
    parser.add_argument("--dir", default=None, help="a folder on the disk to measure on")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    results: list[Result] = []

    def once() -> Result:
        results.append(asyncio.run(measure(asked.seconds, asked.mb_per_s, asked.dir)))
        return results[0]

    code = answer(once, show, as_json=asked.json)
    return 2 if code == 0 and results[0].unmet else code


if __name__ == "__main__":
    sys.exit(main())
