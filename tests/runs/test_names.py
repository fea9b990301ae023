"""A name that a crash left is durable before anything durable tells of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.model import Frame, Stream
from edge_agent.record.agent_log import AgentLog
from edge_agent.runs.book import Book, Stage
from edge_agent.segment.run import verify_run
from edge_agent.storage import Disk


class Told(Disk):
    """A disk that notes which folders are made durable, among other things that are told."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self.events.append(f"sync {path.name}")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Notes what the agent log and the book are told as well."""
    disk = Told()

    def noted(real: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            disk.events.append(name(*arguments))
            return real(*arguments)

        return call

    monkeypatch.setattr(AgentLog, "append", noted(AgentLog.append, lambda log, leaf: type(leaf).__name__))
    monkeypatch.setattr(Book, "add_segment", noted(Book.add_segment, lambda book, run, closed: f"book {closed.path.name}"))
    return disk


async def closing(house: Any, camera: Stream, frame: Callable[..., Frame]) -> Any:
    """A run whose segment is closed and whose papers are not begun."""
    await house.open("bl")
    house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    live = house.groups["bl"].end(house.clock())
    house.groups["bl"].close(live)
    live.entry = house.keeper.book.entries()[0].at(Stage.CLOSING)
    house.keeper.book.put(live.entry)
    await asyncio.wrap_future(live.recording.close("complete"))
    return live


async def test_the_name_of_a_sidecar_that_a_crash_left_is_durable_before_the_agent_log_tells_of_it(
    new_house: Callable[..., Any], camera: Stream, frame: Callable[..., Frame], told: Told
) -> None:
    house = new_house()
    live = await closing(house, camera, frame)
    folder = house.keeper.folder(live.entry.run)
    house.papers._name_segments(live.entry, live)
    house.papers._write(live.entry, house.closed_segments(live.entry.run))
    await house.crash()
    told.events.clear()
    house = new_house(storage=told)
    await house.open("bl")
    await house.complete()
    assert told.events.index(f"sync {folder.name}") < told.events.index("RunClose")
    assert verify_run(folder, None).reason == "signed by an unknown key"


async def test_the_new_name_of_a_segment_that_a_crash_left_is_durable_before_the_book_has_it(
    new_house: Callable[..., Any], camera: Stream, frame: Callable[..., Frame], told: Told
) -> None:
    house = new_house()
    live = await closing(house, camera, frame)
    folder = house.keeper.folder(live.entry.run)
    (segment,) = folder.glob("*.h5")
    segment.rename(folder / f"{folder.name}.nxs")
    await house.crash()
    told.events.clear()
    house = new_house(storage=told)
    await house.open("bl")
    await house.complete()
    assert told.events.index(f"sync {folder.name}") < told.events.index(f"book {folder.name}.nxs")
    assert verify_run(folder, None).reason == "signed by an unknown key"
