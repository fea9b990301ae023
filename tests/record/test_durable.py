"""`Recorder.durable`: what was handed over before is durable when it returns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np

from edge_agent.errors import DiskError
from edge_agent.model import Block, Frame, Kind, Stream
from edge_agent.storage import Disk
from tests.runs.conftest import T0, House, new_house  # noqa: F401 - a fixture


async def test_rows_and_frames_are_durable_and_a_busy_stream_does_not_hold_it_back(
    new_house: Callable[..., House],  # noqa: F811
) -> None:
    camera = Stream("camera", "image", Kind.FRAMES, "<u2", (64, 64), counted=True)
    tag = Stream("oven", "temperature", Kind.ROWS, "<f8", unit="K")
    house = new_house()
    await house.open("bl")
    house.desk.start("bl", project="p")
    times = np.arange(T0, T0 + 500, dtype="<i8")
    stop = asyncio.Event()

    async def busy() -> None:
        number = 0
        while not stop.is_set():
            house.groups["bl"].offer(camera, Frame(np.zeros((64, 64), "<u2"), number, T0, T0))
            number += 1
            await asyncio.sleep(0.001)

    task: Any = asyncio.create_task(busy())
    house.groups["bl"].take(tag, Block(np.arange(500.0), times, times))
    async with asyncio.timeout(30):
        await house.recorder.durable()
    assert house.totals(tag.key) == 500
    stop.set()
    await task
    async with asyncio.timeout(30):
        await house.recorder.durable()
    assert house.totals(camera.key) > 0
    await house.desk.stop("bl")


class OnceFull(Disk):
    """A disk that refuses one sync."""

    refuse = False

    def sync_data(self, fd: int) -> None:
        if self.refuse:
            self.refuse = False
            raise DiskError("The disk did not take it.", why="No space left on device", code="DISK_FULL")
        super().sync_data(fd)


async def test_a_segment_that_fails_meanwhile_is_waited_for_in_its_successor(new_house: Callable[..., House]) -> None:  # noqa: F811
    tag = Stream("oven", "temperature", Kind.ROWS, "<f8", unit="K")
    disk = OnceFull()
    house = new_house(storage=disk)
    await house.open("bl")
    house.desk.start("bl", project="p")
    times = np.array([T0], "<i8")
    house.groups["bl"].take(tag, Block(np.array([1.0]), times, times))
    await house.recorder.durable()
    disk.refuse = True
    house.groups["bl"].take(tag, Block(np.array([2.0]), times + 1, times + 1))
    async with asyncio.timeout(30):
        await house.recorder.durable()
    assert house.totals(tag.key) == 2
    await house.desk.stop("bl")
    (run,) = house.runs()
    assert house.column(run, tag, "value") == [1.0, 2.0]
