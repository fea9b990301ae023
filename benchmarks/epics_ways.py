"""One way of `benchmarks.epics` in a process of its own: ``python -m benchmarks.epics_ways WAY JSON``; prints figures as one JSON line.

``frames_agent`` and ``scalars_agent`` run the whole daemon with its real adapter and recorder, and read back what it signed;
``frames_bare`` and ``scalars_bare`` are clients of the same libraries that throw everything away. Each warms up, then counts.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.epics_sources import IMAGE, QUEUE
from benchmarks.harness import Impossible, peak_mb

CONFIG = """\
site = "bench"
spool = {{ dir = "{folder}/spool", keep_free = "1 MB" }}
[instrument.bench]
adapter = "epics"
group = "bench"
addresses = ["ca://127.0.0.1:{ca_port}", "pva://127.0.0.1:{pva_port}"]
queue = {queue}
{what}
"""
CONNECT_SECONDS = 60.0
UNDERWAY_SECONDS = 2.0
"""What was stamped just now is still on its way to the recorder, and the run has no grace here."""


async def frames_agent(asked: dict[str, Any]) -> dict[str, Any]:
    """Frames that are durable and signed when the run is closed; missed: holes in their numbers, first to last."""
    from edge_agent.segment.peek import rows
    from edge_agent.segment.verify import verify_segment

    found: dict[str, Any] = {}
    async with _daemon(asked, f'image = "pva://{IMAGE}"\nidle = "ignore"') as agent:
        agent.desk.start("bench", project="bench")
        async with asyncio.timeout(CONNECT_SECONDS):
            while not sum(totals.arrived for totals in agent.keeper.totals().values()):  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0.01)
        began, cpu = time.monotonic(), time.process_time()
        await asyncio.sleep(asked["seconds"])
        found["cpu"] = (time.process_time() - cpu) / (time.monotonic() - began)
        found["durable_p99_ms"] = 1e3 * float(np.quantile(agent.recorder.latencies, 0.99))
        run = await agent.desk.stop("bench")
        folder = agent.keeper.folder(run)
        segments = list(folder.glob("*.h5")) or list(folder.glob("*.nxs"))
        column = "/entry/instrument/bench/image/"
        with_frames = [path for path in sorted(segments) if _has(path, column + "data")]
        parts = [(rows(path, column + "frame_number"), rows(path, column + "time_arrival")) for path in with_frames]
        found["causes"] = _causes(with_frames, column + "gaps")
        for path in segments:
            # Without a root that it knows, "intact, signed by an unknown key" is the most that can be said.
            report = verify_segment(path, None)
            if report.level < 1:
                raise Impossible(f"{path.name} is not signed: {report.reason}")
        found["stored"] = sum(path.stat().st_size for path in segments)
    numbers, arrived = (np.concatenate([part[n] for part in parts]).astype(np.int64) for n in (0, 1))
    return found | _rate(numbers, arrived / 1e9)


def _has(path: Path, dataset: str) -> bool:
    import h5py

    with h5py.File(path, "r") as file:
        return dataset in file


def _causes(paths: list[Path], gaps: str) -> dict[str, int]:
    """Frames that the files say are missing, by cause: ``source`` did not reach us, ``overload`` found no room here."""
    import h5py

    found: dict[str, int] = {}
    for path in paths:
        with h5py.File(path, "r") as file:
            if gaps in file:
                for cause, count in zip(file[f"{gaps}/cause"].asstr()[:], file[f"{gaps}/count"][:], strict=True):
                    found[cause] = found.get(cause, 0) + int(count)
    return found


def frames_bare(asked: dict[str, Any]) -> dict[str, Any]:
    """A p4p monitor, ``nt=False``, that looks at the numbers only."""
    from p4p.client.thread import Context

    conf = {"EPICS_PVA_ADDR_LIST": f"127.0.0.1:{asked['pva_port']}", "EPICS_PVA_AUTO_ADDR_LIST": "NO"}
    context = Context("pva", conf=conf, useenv=False, nt=False)
    seen: list[tuple[int, float]] = []

    def take(value: Any) -> None:
        pixels = value["value"]
        if pixels is not None and len(pixels):
            seen.append((int(value["uniqueId"]), time.time()))

    subscription = context.monitor(IMAGE, take, request=f"record[queueSize={QUEUE}]")
    deadline = time.monotonic() + CONNECT_SECONDS
    while not seen and time.monotonic() < deadline:
        time.sleep(0.01)
    cpu = time.process_time()
    time.sleep(asked["seconds"])
    found = {"cpu": (time.process_time() - cpu) / asked["seconds"]}
    subscription.close()
    context.close()
    return found | _rate(np.array([n for n, _ in seen]), np.array([t for _, t in seen]))


def _rate(numbers: np.ndarray[Any, Any], times: np.ndarray[Any, Any]) -> dict[str, Any]:
    missed = int(numbers[-1] - numbers[0]) + 1 - len(numbers)
    return {"frames": len(numbers), "missed": missed, "rate": (len(numbers) - 1) / float(times[-1] - times[0]), "rss_peak_mb": peak_mb()}


async def scalars_agent(asked: dict[str, Any]) -> dict[str, Any]:
    """Updates that the server stamped in each second and that became durable, however late: what came while it started does not count."""
    pvs = ", ".join(f'"{asked["scheme"]}://B:{n}"' for n in range(asked["pvs"]))
    async with _daemon(asked, f"pvs = [{pvs}]") as agent:
        agent.desk.start("bench", project="bench")
        async with asyncio.timeout(CONNECT_SECONDS):
            while sum(c.up for c in agent.instruments["bench"].connections.values()) < asked["pvs"]:  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0.05)
        await asyncio.sleep(asked["warm"])
        began, cpu = time.time_ns(), time.process_time()
        await asyncio.sleep(asked["seconds"])
        ended, cpu = time.time_ns(), time.process_time() - cpu
        await asyncio.sleep(UNDERWAY_SECONDS)
        folder = agent.keeper.folder(await agent.desk.stop("bench"))
        lost = sum(totals.lost for totals in agent.keeper.totals().values())
    # Only now: reading the files registers filters, which HDF5 must not meet while it still writes.
    taken = (ended - began) / 1e9
    return {"rate": _stamped(folder, began, ended) / taken, "cpu": cpu / taken, "lost": lost}


def _stamped(folder: Path, began: int, ended: int) -> int:
    """Rows of a run that are events of the time between ``began`` and ``ended``, UTC ns."""
    import h5py
    import hdf5plugin  # noqa: F401 - its filters

    count = 0

    def visit(name: str, thing: Any) -> None:
        nonlocal count
        if isinstance(thing, h5py.Group) and {"value", "valid", "time"} <= set(thing):
            times, events = thing["time"][:], thing["valid"][:] & 1 == 1
            count += int(np.count_nonzero(events & (began <= times) & (times < ended)))

    for path in list(folder.glob("*.h5")) or folder.glob("*.nxs"):
        with h5py.File(path) as file:
            file.visititems(visit)
    return count


async def scalars_bare(asked: dict[str, Any]) -> dict[str, Any]:
    """A client that counts what it is given: aioca with all updates and their times, p4p with ``nt=False``."""
    if asked["scheme"] == "ca":
        return await _aioca(asked)
    return await asyncio.to_thread(_p4p, asked)


async def _aioca(asked: dict[str, Any]) -> dict[str, Any]:
    import os

    os.environ |= {"EPICS_CA_ADDR_LIST": f"127.0.0.1:{asked['ca_port']}", "EPICS_CA_AUTO_ADDR_LIST": "NO"}
    from adapters.epics.repeater import keep_repeater_from_starting

    keep_repeater_from_starting()
    import aioca

    counter = itertools.count()
    names = [f"B:{n}" for n in range(asked["pvs"])]
    await aioca.connect(names, timeout=CONNECT_SECONDS)
    watching = aioca.camonitor(names, lambda value, index: next(counter), format=aioca.FORMAT_TIME, all_updates=True)
    await asyncio.sleep(asked["warm"])
    first, began, cpu = next(counter), time.monotonic(), time.process_time()
    await asyncio.sleep(asked["seconds"])
    last, taken, cpu = next(counter) - 1, time.monotonic() - began, time.process_time() - cpu
    for one in watching:
        one.close()
    aioca.purge_channel_caches()
    return {"rate": (last - first) / taken, "cpu": cpu / taken}


def _p4p(asked: dict[str, Any]) -> dict[str, Any]:
    from p4p.client.thread import Context
    from p4p.util import ThreadedWorkQueue

    conf = {"EPICS_PVA_ADDR_LIST": f"127.0.0.1:{asked['pva_port']}", "EPICS_PVA_AUTO_ADDR_LIST": "NO"}
    context = Context("pva", conf=conf, useenv=False, nt=False)
    counter = itertools.count()
    connected: set[int] = set()
    work = ThreadedWorkQueue(maxsize=0, daemon=True).start()

    def taker(n: int) -> Any:
        def take(value: Any) -> None:
            connected.add(n)
            next(counter)

        return take

    request = f"record[queueSize={QUEUE}]"
    watching = [context.monitor(f"B:{n}", taker(n), request=request, queue=work) for n in range(asked["pvs"])]
    deadline = time.monotonic() + CONNECT_SECONDS
    while len(connected) < asked["pvs"] and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(asked["warm"])
    first, began, cpu = next(counter), time.monotonic(), time.process_time()
    time.sleep(asked["seconds"])
    last, taken, cpu = next(counter) - 1, time.monotonic() - began, time.process_time() - cpu
    for one in watching:
        one.close()
    work.stop()
    context.close()
    return {"rate": (last - first) / taken, "cpu": cpu / taken}


class _daemon:
    """The daemon with this instrument."""

    def __init__(self, asked: dict[str, Any], what: str) -> None:
        self._folder = Path(asked["folder"])
        self._text = CONFIG.format(folder=self._folder, ca_port=asked["ca_port"], pva_port=asked["pva_port"], queue=QUEUE, what=what)

    async def __aenter__(self) -> Any:
        from edge_agent.agent.agent import Agent
        from edge_agent.config.loading import load

        logging.disable(logging.WARNING)
        (self._folder / "agent.toml").write_text(self._text)
        self._agent = Agent(load(self._folder / "agent.toml"))
        await self._agent.start()
        self._agent.desk.graces = {"bench": 0.0}
        return self._agent

    async def __aexit__(self, *_: object) -> None:
        await self._agent.stop()


def main() -> None:
    """Print the figures of one way as one JSON line."""
    way, asked = sys.argv[1], json.loads(sys.argv[2])
    if way == "frames_bare":
        found = frames_bare(asked)
    else:
        found = asyncio.run({"frames_agent": frames_agent, "scalars_agent": scalars_agent, "scalars_bare": scalars_bare}[way](asked))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
