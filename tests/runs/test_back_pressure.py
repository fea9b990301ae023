"""Frames of a source that can wait: a file, a read-out on request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from edge_agent.agent.sink import RoutedInlet
from edge_agent.model import Frame, Stream
from edge_agent.record.room import PER_ITEM
from edge_agent.spool import DiskState

Make = Callable[..., Any]
FRAMES = 40


@pytest.fixture
async def waiting(new_house: Make, camera: Stream) -> tuple[Any, RoutedInlet]:
    """A house with a run open, room for two frames, and an inlet into it."""
    house = new_house()
    await house.open("bl")
    house.desk.start("bl", project="p")
    house.recorder.room.limit = 2 * (32 + PER_ITEM)
    return house, RoutedInlet(camera, house.groups["bl"], house.keeper)


async def test_a_source_that_can_wait_waits_for_room_and_loses_nothing(waiting: tuple[Any, RoutedInlet], frame: Make, camera: Stream) -> None:
    house, inlet = waiting
    room = house.recorder.room
    room.force(room.limit)
    first = asyncio.create_task(inlet.put_frame(frame(1)))
    for _ in range(3):
        await asyncio.sleep(0)
    assert (first.done(), room.used) == (False, room.limit), "it waits, and takes nothing beyond the room"
    room.leave(room.limit)
    await first
    for number in range(2, FRAMES + 1):
        await inlet.put_frame(frame(number))
    await house.desk.stop("bl")
    run = await house.complete()
    assert house.column(run, camera, "frame_number") == list(range(1, FRAMES + 1))
    assert house.gaps(run, camera) == []


async def test_it_waits_while_the_disk_is_full(waiting: tuple[Any, RoutedInlet], frame: Make, camera: Stream) -> None:
    house, inlet = waiting
    house.disk = DiskState.HARD
    coming = asyncio.create_task(inlet.put_frame(frame(1)))
    offered: Frame = frame(2)
    assert not inlet.offer(offered), "what cannot wait is refused and declared"
    assert not coming.done()
    house.disk = DiskState.OK
    await coming
    await house.desk.stop("bl")
    run = await house.complete()
    assert house.column(run, camera, "frame_number") == [1]
    assert [(gap.first, gap.last) for gap in house.gaps(run, camera)] == [(2, 2)]
    assert house.groups["bl"].arrivals[camera.key][1] == 2, "counted once, however often it tried"
