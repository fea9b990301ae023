"""A machine that is outrun: what it does not take stands in the file, the ledger and the metrics, with its numbers and its cause."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np

from edge_agent.metrics import exposition
from edge_agent.model import Frame, Kind, Stream

Configure = Callable[..., Path]
INSTRUMENTS = """
[instrument.camera]
adapter = "driven"
group = "bl"

[instrument.monitor]
adapter = "driven"
group = "bl"
priority = "low"
"""
NAMES = ("camera", "monitor")
Gaps = list[tuple[int, int, str, str]]


def frame(number: int) -> Frame:
    now = time.time_ns()
    return Frame(np.full((8, 8), number, "<u2"), number, now, now)


def gaps(space: Path, name: str) -> Gaps:
    """(first, last, cause, detail) of each gap in the landed segments of a camera."""
    found: Gaps = []
    for path in sorted(space.rglob("*.h5")) or sorted(space.rglob("*.nxs")):
        with h5py.File(path) as file:
            if f"entry/instrument/{name}" in file:
                group = file[f"entry/instrument/{name}/image/gaps"]
                texts = [group[each].asstr()[()] for each in ("cause", "detail")]
                found += zip(group["first"][()].tolist(), group["last"][()].tolist(), *(each.tolist() for each in texts), strict=True)
    return found


async def test_frames_that_were_thinned_out_or_refused_are_in_file_ledger_and_metrics(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, tmp_path: Path
) -> None:
    agent = await start(configure(INSTRUMENTS))
    await until(lambda: all(name in adapters.SINKS for name in NAMES))
    agent.desk.start("bl", project="p")
    inlets = {
        name: adapters.SINKS[name].open(Stream(name, "image", Kind.FRAMES, "<u2", (8, 8), counted=True, codec="none")) for name in NAMES
    }
    taken: dict[str, list[int]] = {name: [] for name in NAMES}

    def offer(numbers: range) -> None:
        for number in numbers:
            for name, inlet in inlets.items():
                if inlet.offer(frame(number)):
                    taken[name].append(number)

    room = agent.recorder.room
    tight = int(room.limit * 0.85)
    room.force(tight)
    offer(range(1, 21))
    room.force(room.limit - tight)
    offer(range(21, 31))
    room.leave(room.limit)
    offer(range(31, 32))
    assert taken == {"camera": [*range(1, 21), 31], "monitor": [1, 11, 31]}

    await agent.desk.stop("bl")

    async def landed() -> bool:
        status = await agent.status()
        return not status.runs and all(target.waiting == 0 for target in status.targets)

    await until(landed)
    assert gaps(tmp_path / "space", "camera") == [(21, 30, "overload", "no room")]
    assert gaps(tmp_path / "space", "monitor") == [
        (2, 10, "overload", "thinned out"), (12, 20, "overload", "thinned out"), (21, 30, "overload", "no room"),
    ]
    status = await agent.status()
    totals = {stream.name: stream.totals for instrument in status.instruments for stream in instrument.streams}
    assert {key: (each.arrived, each.landed, each.lost, each.discrepancy) for key, each in totals.items()} == {
        "camera/image": (21 + 10, 21, 10, 0), "monitor/image": (3 + 28, 3, 28, 0),
    }  # fmt: skip
    page = exposition(status).splitlines()
    assert 'edge_agent_lost_items_total{stream="camera/image"} 10' in page
    assert 'edge_agent_lost_items_total{stream="monitor/image"} 28' in page
    (latency,) = [line for line in page if line.startswith("edge_agent_durable_latency_p99_seconds ")]
    assert float(latency.split()[1]) > 0
