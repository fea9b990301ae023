"""A disk that fills: what is refused is declared, what was durable stays, and capture resumes by itself."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_agent.local_api import ask
from edge_agent.model import Block, FileItem, Frame, Kind, Stream
from edge_agent.segment.run import verify_run
from edge_agent.spool.disk import Space

Configure = Callable[..., Path]
CAMERA = '[instrument.camera]\nadapter = "driven"\ngroup = "bl"\n'
IMAGE = Stream("camera", "image", Kind.FRAMES, "<u2", (8, 8), counted=True)
NUMBER = Stream("camera", "number", Kind.ROWS, "<f8")
FILES = Stream("camera", "files", Kind.FILES)
GB = 10**9


def frame(number: int) -> Frame:
    now = time.time_ns()
    return Frame(np.full((8, 8), number, "<u2"), number, now, now)


def row(value: float) -> Block:
    now = np.array([time.time_ns()])
    return Block(np.array([value]), now, now)


async def test_a_disk_that_fills_refuses_frames_then_rows_and_goes_on_when_it_has_room(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, tmp_path: Path, read_space: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.agent.sink.DISK_POLL", 0.05)
    free = 100 * GB

    async def disk(gigabytes: float, state: str) -> None:
        nonlocal free
        free = int(gigabytes * GB)
        await until(lambda: agent.disk is not None and agent.disk.state.value == state)

    file = configure(CAMERA)
    file.write_text(file.read_text().replace('keep_free = "1 MB"', 'keep_free = "1 GB", soft = "10 GB", hard = "5 GB"'))
    agent = await start(file, space=lambda folder: Space(1000 * GB, free))
    sink = await until(lambda: adapters.SINKS.get("camera"))
    images, numbers = sink.open(IMAGE), sink.open(NUMBER)
    run = agent.desk.start("bl", project="p")
    assert images.offer(frame(0))
    await numbers.put(row(0.0))
    await disk(3, "hard")
    assert not images.offer(frame(1))
    await numbers.put(row(1.0))
    await disk(0.5, "paused")
    assert (await agent.status()).disk == "paused"
    assert not images.offer(frame(2))
    await numbers.put(row(2.0))
    vendor = tmp_path / "scan.dat"
    vendor.write_bytes(b"waits where it is")
    stat = vendor.stat()
    adopting = asyncio.create_task(sink.adopt(FILES, FileItem(vendor, "scan.dat", stat.st_size, stat.st_mtime_ns, time.time_ns())))
    await asyncio.sleep(0.2)
    assert not adopting.done()
    await disk(100, "ok")
    assert images.offer(frame(3))
    await numbers.put(row(3.0))
    async with asyncio.timeout(60):
        await adopting
    await agent.desk.stop("bl")
    await until(agent.keeper.book.past)
    landed = read_space(tmp_path / "space" / run.folder)
    assert landed[IMAGE.key]["frame_number"] == [0, 3]
    assert landed[IMAGE.key].gaps == [(1, 2, 2, "disk")]
    assert landed[NUMBER.key]["value"] == [0.0, 1.0, 3.0]
    assert [(count, cause) for _, _, count, cause in landed[NUMBER.key].gaps] == [(1, "disk")]
    totals = agent.keeper.totals()
    assert {key: (t.arrived, t.lost, t.discrepancy) for key, t in totals.items()} == {
        IMAGE.key: (4, 2, 0), NUMBER.key: (4, 1, 0), FILES.key: (1, 0, 0),
    }  # fmt: skip
    await until(lambda: (tmp_path / "space" / run.folder / "ro-crate-metadata.json").exists())  # the crate is delivered last
    assert verify_run(tmp_path / "space" / run.folder, None).reason == "signed by an unknown key"


@pytest.mark.needs("root", "unshare")
async def test_a_real_disk_that_somebody_else_fills_to_the_last_byte_stops_capture_until_there_is_room_and_loses_nothing_durable(
    configure: Configure, package: Path, until: Any, tmp_path: Path, read_space: Any
) -> None:
    spool, space = tmp_path / "spool", tmp_path / "space"
    spool.mkdir()
    file = configure('[instrument.counter]\nadapter = "counting"\ngroup = "bl"\ncodec = "none"\n')
    inner = f'mount -t tmpfs -o size=64m tmpfs "{spool}" && exec "{sys.executable}" -m edge_agent.cli run --config "{file}"'
    environment = {**os.environ, "PYTHONPATH": str(package), "EDGE_AGENT_LANG": "en"}
    log = tmp_path / "agent.log"
    with log.open("w") as errors:
        process = subprocess.Popen(["unshare", "-m", "sh", "-c", inner], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    try:
        assert process.stdout is not None
        assert json.loads(await asyncio.to_thread(process.stdout.readline))["ready"] == "edge-agent", log.read_text()
        inside = Path(f"/proc/{process.pid}/root{spool}")

        async def images(state: str, more_than: int) -> Any:
            now = await ask(inside, "GET", "/status")
            totals = {s["name"]: s["totals"] for i in now["instruments"] for s in i["streams"]}
            found = totals.get("counter/image", {"arrived": 0, "lost": 0})
            # While the writer waits for the disk the table may be off for a moment; it must add up in the end.
            settled = now["disk"] == state and all(t["discrepancy"] == 0 for t in totals.values())
            return found if settled and found["arrived"] - found["lost"] > more_than else None

        run = await ask(inside, "POST", "/session/start", {"project": "p"})
        await until(lambda: images("ok", 50))
        hog = inside / "hog"
        with contextlib.suppress(OSError), hog.open("wb", buffering=0) as everything:
            while True:
                everything.write(bytes(1 << 16))
        full = await until(lambda: images("paused", 0))
        await asyncio.sleep(1.0)
        hog.unlink()
        n = full["arrived"] - full["lost"]
        await until(lambda: images("ok", n + 50))
        await ask(inside, "POST", "/session/stop", {})
        await until(lambda: (space / run["folder"] / "ro-crate-metadata.json").exists(), 60)
        last = await until(lambda: images("ok", n))
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 20) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    landed = read_space(space / run["folder"])["counter/image"]
    assert len(landed["frame_number"]) == last["arrived"] - last["lost"]
    assert sum(count for _, _, count, cause in landed.gaps if cause == "disk") > 0
    missing = [n for a, b in itertools.pairwise(landed["frame_number"]) for n in range(a + 1, b)]
    assert all(any(first <= n <= end for first, end, _, _ in landed.gaps) for n in missing), "what is missing is declared"
    assert len(set(landed["frame_number"])) == len(landed["frame_number"])
    assert verify_run(space / run["folder"], None).reason == "signed by an unknown key"
