"""Runs of the day begin in their own thread: whoever brings something goes on, and what waits for them is bounded and never lost in silence."""

from __future__ import annotations

import asyncio
import datetime as dt
import errno
import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.agent.sink import AgentSink, InstrumentState
from edge_agent.model import Block, Cause, FileItem, Frame, Gap, Kind, Reset, Stream, Valid
from edge_agent.runs.keeper import Keeper
from edge_agent.runs.look_back import PER_ITEM
from edge_agent.seal.leaf import RunOpen
from edge_agent.storage import Disk, disk_error

MS, S = 1_000_000, 10**9
MIDNIGHT = int(dt.datetime(2026, 11, 24, 15, 0, tzinfo=dt.UTC).timestamp()) * S
"""00:00 of the 25th in Tokyo."""
FRAME = 32 + PER_ITEM
VENDOR = Stream("vendor", "files", Kind.FILES)
New = Callable[..., Any]
MakeFrame = Callable[..., Frame]
MakeRows = Callable[..., Block]


class Held:
    """Keeps the beginning of runs back, from when ``go`` is cleared until it is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.asked = threading.Event(), threading.Event()
        self.go.set()
        real = Keeper.open

        def held(keeper: Keeper, new: Any) -> Any:
            self.asked.set()
            assert self.go.wait(100)
            return real(keeper, new)

        monkeypatch.setattr(Keeper, "open", held)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    held = Held(monkeypatch)
    yield held
    held.go.set()


class NoFolders(Disk):
    """A disk that makes no folder when it is told so."""

    full = False
    refused = 0

    def make_folder(self, path: Path) -> None:
        if self.full:
            self.refused += 1
            raise disk_error(f"creating the folder {path.name}", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        super().make_folder(path)


class Never:
    """A thread that is busy."""

    def submit(self, work: Callable[[], None]) -> None:
        pass


async def at_once(work: Callable[..., Any], *arguments: Any) -> Any:
    """What a thread gets that may not be made to wait for a run to begin."""
    async with asyncio.timeout(20):
        return await asyncio.to_thread(work, *arguments)


async def until_set(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 60)


def item(path: Path, t: int, project: str = "") -> FileItem:
    path.write_text("x")
    return FileItem(path, path.name, 1, path.stat().st_mtime_ns, t, project)


async def test_nobody_waits_for_the_run_of_the_day_to_begin_and_everything_is_in_it_in_order(
    new_house: New, camera: Stream, tag: Stream, frame: MakeFrame, rows: MakeRows, rule: New, t0: int, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.runs.background.SLICE", 2)
    house = new_house()
    await house.open("bl", rules={"camera": rule("keep")})
    group = house.groups["bl"]
    group.take(tag, rows([7.0], [t0 - S], valid=[Valid.INITIAL]))
    held.go.clear()

    def deliver() -> None:
        for number in range(10):
            assert group.offer(camera, frame(number))
            group.take(tag, rows([float(number)], [t0 + number * MS]))
        group.gap(camera, Gap(Cause.OVERFLOW, first=10, last=11, count=2, t_from=t0, t_to=t0 + 1))
        group.reset(camera, Reset(Cause.RESTART, 11, 3))
        group.expire()
        for number in range(3, 6):
            assert group.offer(camera, frame(number))

    await at_once(deliver)
    await until_set(held.asked)
    await at_once(group.offer, camera, frame(6))
    assert house.runs() == []
    held.go.set()
    for number in range(7, 40):
        await asyncio.to_thread(group.offer, camera, frame(number))
    await house.durable(camera, 47)
    (run,) = house.runs()
    assert (run.started_ns, [leaf.run_no for leaf in house.log(RunOpen)]) == (t0, [1])
    await house.desk.shutdown()
    assert house.column(run, camera, "frame_number") == [*range(10), *range(3, 40)]
    assert [(g.cause, g.first, g.last) for g in house.gaps(run, camera)] == [("overflow", 10, 11)]
    assert house.column(run, tag, "value") == [7.0, *map(float, range(10))]
    assert house.column(run, tag, "valid") == [Valid.INITIAL, *[Valid.GOOD] * 10]
    for key in (camera.key, tag.key):
        assert house.keeper.totals()[key].discrepancy == 0


async def test_what_comes_after_midnight_waits_for_the_new_day_and_not_for_the_disk(
    new_house: New, camera: Stream, frame: MakeFrame, rule: New, held: Held
) -> None:
    house = new_house()
    await house.open("bl", rules={"camera": rule("keep")})
    group = house.groups["bl"]
    house.clock.now = MIDNIGHT - S
    group.offer(camera, frame(0))
    await house.durable(camera, 1)
    held.go.clear()
    house.clock.now = MIDNIGHT
    for number in (1, 2):
        assert await at_once(group.offer, camera, frame(number))
    await house.complete(1)  # the day before ends although the new one has not begun
    house.clock.now = MIDNIGHT + 24 * 3600 * S
    assert await at_once(group.offer, camera, frame(3))
    held.go.set()
    await house.durable(camera, 4)
    await house.desk.shutdown()
    assert [run.folder.split("/")[2] for run in house.runs()] == ["2026-11-24", "2026-11-25", "2026-11-26"]
    assert [house.column(run, camera, "frame_number") for run in house.runs()] == [[0], [1, 2], [3]]


async def test_what_waits_goes_to_the_project_that_was_decided_when_it_came(
    new_house: New, camera: Stream, tag: Stream, frame: MakeFrame, rows: MakeRows, rule: New, t0: int, held: Held
) -> None:
    house = new_house()
    await house.open("bl", rules={"camera": rule("keep")})
    group = house.groups["bl"]
    held.go.clear()
    house.desk.assign("bl", "one")
    for number in (0, 1):
        await at_once(group.offer, camera, frame(number))
    await at_once(group.take, tag, rows([1.0], [t0]))
    house.desk.assign("bl", "two")
    await at_once(group.offer, camera, frame(2))
    await at_once(group.take, tag, rows([2.0], [t0 + 1]))
    held.go.set()
    await house.durable(camera, 3)
    await house.desk.shutdown()
    assert [run.project for run in house.runs()] == ["one", "two"]
    assert [house.column(run, camera, "frame_number") for run in house.runs()] == [[0, 1], [2]]
    assert [house.column(run, tag, "value") for run in house.runs()] == [[1.0], [1.0, 2.0]]
    assert house.column(house.runs()[1], tag, "valid") == [Valid.INITIAL, Valid.GOOD]


async def test_a_file_whose_run_begins_keeps_no_other_instrument_waiting(
    new_house: New, camera: Stream, frame: MakeFrame, rule: New, t0: int, tmp_path: Path, held: Held
) -> None:
    house = new_house()
    await house.open("bl", rules={"camera": rule("keep")})
    group = house.groups["bl"]
    held.go.clear()
    files = [asyncio.create_task(asyncio.to_thread(group.run_for_file, VENDOR, item(tmp_path / name, t0))) for name in "ab"]
    await until_set(held.asked)
    for number in range(3):
        assert await at_once(group.offer, camera, frame(number))
    held.go.set()
    found = await asyncio.gather(*files)
    assert found[0] is found[1]
    for live in found:
        live.adopting.leave()
    await house.durable(camera, 3)
    (run,) = house.runs()
    await house.desk.shutdown()
    assert house.column(run, camera, "frame_number") == [0, 1, 2]


async def test_what_comes_while_the_disk_lets_no_run_begin_waits_and_the_run_takes_one_number(
    new_house: New, camera: Stream, tag: Stream, frame: MakeFrame, rows: MakeRows, rule: New, t0: int, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr("edge_agent.runs.background.RETRY", 0.0)
    disk = NoFolders()
    house = new_house(storage=disk)
    await house.open("bl", rules={"camera": rule("keep")})
    group = house.groups["bl"]
    disk.full = True
    for n, number in enumerate([5, 6, 7, 0, 1]):
        assert group.offer(camera, frame(number))
        group.take(tag, rows([float(n)], [t0 + n]))
    await house.until(lambda: disk.refused > 2)
    disk.full = False
    await house.durable(camera, 5)
    await house.durable(tag, 5)
    (run,) = house.runs()
    assert (run.run_no, [opened.run_no for opened in house.log(RunOpen)]) == (1, [1])
    await house.desk.shutdown()
    assert house.column(run, camera, "frame_number") == [5, 6, 7, 0, 1]
    assert house.column(run, tag, "value") == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert (house.gaps(run, camera), house.gaps(run, tag)) == ([], [])
    assert caplog.text.count("no run can begin") == 1


async def test_what_waits_is_bounded_however_long_the_disk_lets_no_run_begin_and_what_finds_no_room_is_declared_where_it_lay(
    new_house: New, camera: Stream, tag: Stream, frame: MakeFrame, rows: MakeRows, rule: New, t0: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.runs.background.RETRY", 0.0)
    monkeypatch.setattr("edge_agent.runs.backlog.LIMIT", 4 * FRAME + 2 * (72 + PER_ITEM))
    disk = NoFolders()
    house = new_house(storage=disk)
    await house.open("bl", rules={"camera": rule("keep")})
    group = house.groups["bl"]
    disk.full = True
    assert group.offer(camera, frame(0))
    await house.until(lambda: disk.refused > 0)
    for n in range(2):
        group.take(tag, rows([float(n)], [t0 + n]))
    assert [group.offer(camera, frame(number)) for number in (1, 2, 3)] == [True] * 3
    assert not group.offer(camera, frame(4), waited=True)  # its source has it and brings it again
    for number in range(4, 500):
        assert not group.offer(camera, frame(number))
    for n in range(2, 500):
        group.take(tag, rows([float(n)], [t0 + n]))
        group.gap(tag, Gap(Cause.OVERFLOW, count=1, t_from=t0 + n, t_to=t0 + n))
    for number in range(3, 50):  # its counter began again
        assert not group.offer(camera, frame(number))
    assert group.background._backlog._bytes <= 6 * FRAME + 3 * (72 + PER_ITEM) + PER_ITEM
    disk.full = False
    await house.durable(camera, 4)
    await house.durable(tag, 2)
    assert group.offer(camera, frame(50))
    (run,) = house.runs()
    await house.desk.shutdown()
    assert house.column(run, camera, "frame_number") == [0, 1, 2, 3, 50]
    assert [(g.cause, g.first, g.last, g.count) for g in house.gaps(run, camera)] == [("disk", 4, 499, 496), ("disk", 3, 49, 47)]
    assert house.column(run, tag, "value") == [0.0, 1.0]
    assert [(g.cause, g.count) for g in house.gaps(run, tag)] == [("disk", 2 * 498)]
    for key in (camera.key, tag.key):
        assert house.keeper.totals()[key].discrepancy == 0


async def test_a_range_that_found_no_room_stands_before_what_found_room_after_it(
    new_house: New, camera: Stream, frame: MakeFrame, rule: New, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.runs.backlog.LIMIT", 2 * FRAME)
    house = new_house()
    await house.open("bl", rules={"camera": rule("keep")})
    group = house.groups["bl"]
    held.go.clear()
    taken = [await at_once(group.offer, camera, frame(number)) for number in range(4)]
    monkeypatch.setattr("edge_agent.runs.backlog.LIMIT", 9 * FRAME)
    taken += [await at_once(group.offer, camera, frame(number)) for number in range(4, 6)]
    assert taken == [True, True, False, False, True, True]
    held.go.set()
    await house.durable(camera, 4)
    (run,) = house.runs()
    await house.desk.shutdown()
    assert house.column(run, camera, "frame_number") == [0, 1, 4, 5]
    assert [(g.cause, g.first, g.last, g.detail) for g in house.gaps(run, camera)] == [("overload", 2, 3, "no room")]


async def test_more_than_the_recorder_has_room_for_is_handed_over_whole_and_in_order(
    new_house: New, frame: MakeFrame, rule: New, held: Held
) -> None:
    house = new_house()
    await house.open("bl", rules={"camera": rule("keep")})
    house.recorder.room.limit = 300_000
    big = Stream("camera", "image", Kind.FRAMES, "<u2", (128, 128), counted=True)
    group = house.groups["bl"]
    held.go.clear()
    for number in range(40):  # 1.3 MB
        await at_once(group.offer, big, replace(frame(number), data=np.full((128, 128), number, "<u2")))
    held.go.set()
    await house.durable(big, 40)
    (run,) = house.runs()
    await house.desk.shutdown()
    assert house.column(run, big, "frame_number") == list(range(40))
    assert house.gaps(run, big) == []


@pytest.mark.parametrize("seed", range(3))
async def test_days_and_projects_change_while_a_disk_refuses_now_and_then_and_each_frame_is_recorded_or_declared_once(
    new_house: New, frame: MakeFrame, rule: New, t0: int, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("edge_agent.runs.background.RETRY", 0.01)
    monkeypatch.setattr("edge_agent.runs.background.SLICE", 3)
    monkeypatch.setattr("edge_agent.runs.backlog.LIMIT", 60 * FRAME)
    disk, dice = NoFolders(), random.Random(seed)
    house = new_house(storage=disk)
    await house.open("bl", rules={"camera": rule("keep")})
    group = house.groups["bl"]
    streams = [Stream("camera", f"image{i}", Kind.FRAMES, "<u2", (4, 4), counted=True) for i in range(3)]
    sent = {stream.key: 0 for stream in streams}

    def shoot(stream: Stream) -> None:
        for _ in range(25):
            group.offer(stream, frame(sent[stream.key]))
            sent[stream.key] += 1

    for step in range(12):
        disk.full = dice.random() < 0.5
        house.clock.now = t0 + step // 4 * 24 * 3600 * S + step
        house.desk.assign("bl", f"p{step // 3}")
        await asyncio.gather(*(asyncio.to_thread(shoot, stream) for stream in streams))
        group.expire()
    disk.full = False
    await house.until(lambda: not group.unsettled())
    await house.desk.shutdown()
    for stream in streams:
        found = [n for run in house.runs() for n in house.column(run, stream, "frame_number")]
        lost = [n for run in house.runs() for gap in house.gaps(run, stream) if gap.detail for n in range(gap.first, gap.last + 1)]
        assert sorted(found + lost) == list(range(sent[stream.key]))
        for run in house.runs():
            assert house.column(run, stream, "frame_number") == sorted(house.column(run, stream, "frame_number"))
        assert house.keeper.totals()[stream.key].discrepancy == 0


@pytest.mark.parametrize("end", ["midnight", "stop"])
async def test_what_waits_for_room_is_in_its_run_although_the_day_or_the_agent_ends(
    new_house: New, camera: Stream, frame: MakeFrame, rule: New, t0: int, held: Held, end: str
) -> None:
    house = new_house()
    await house.open("bl", rules={"camera": rule("keep")})
    group, room = house.groups["bl"], house.recorder.room
    held.go.clear()
    for number in range(5):
        await at_once(group.offer, camera, frame(number))
    room.force(room.limit)
    held.go.set()
    await house.until(lambda: len(house.runs()) == 1 and group.background.current is not None)
    (run,) = house.runs()
    if end == "midnight":
        house.clock.now = MIDNIGHT
        ending = asyncio.create_task(house.complete(1))
    else:
        ending = asyncio.create_task(house.desk.shutdown())
    await house.until(lambda: not group.background._runs)
    assert group.unsettled() == {camera.key}
    room.leave(room.limit)
    await ending
    assert house.column(run, camera, "frame_number") == list(range(5))
    assert house.gaps(run, camera) == []


async def test_a_day_whose_run_begins_after_that_of_the_next_one_takes_what_waited_and_nothing_else(
    new_house: New, camera: Stream, frame: MakeFrame, rule: New, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = new_house()
    await house.open("bl", rules={"camera": rule("keep")})
    group = house.groups["bl"]
    house.clock.now = MIDNIGHT - S
    with monkeypatch.context() as patch:
        patch.setattr(group.days, "_beginner", Never())
        assert await at_once(group.offer, camera, frame(0))
        house.clock.now = MIDNIGHT
        live = await at_once(group.run_for_file, VENDOR, item(tmp_path / "a", MIDNIGHT))
        live.adopting.leave()
        assert await at_once(group.offer, camera, frame(1))
    group.background._asked = False
    group.expire()
    await house.durable(camera, 2)
    assert await at_once(group.offer, camera, frame(2))
    await house.desk.shutdown()
    new, old = house.runs()
    assert (old.folder, new.folder) == ("unclaimed/bl/2026-11-24/000002", "unclaimed/bl/2026-11-25/000001")
    assert [house.column(run, camera, "frame_number") for run in (old, new)] == [[0], [1, 2]]


async def test_a_stop_keeps_what_waits_in_the_look_back_where_the_idle_rule_says_so(
    new_house: New, camera: Stream, tag: Stream, frame: MakeFrame, rows: MakeRows, rule: New, t0: int
) -> None:
    house = new_house()
    ring = Stream("other", "image", Kind.FRAMES, "<u2", (4, 4), counted=True)
    await house.open("bl", rules={"camera": rule("keep"), "other": rule("ring", 60.0)}, look_back=60.0)
    group = house.groups["bl"]
    for number in range(5):
        group.offer(camera, frame(number))
        group.offer(ring, frame(number))
        group.take(tag, rows([float(number)], [t0 + number]))
    await house.desk.shutdown()
    (run,) = house.runs()
    assert house.column(run, camera, "frame_number") == list(range(5))
    assert house.column(run, tag, "value") == [0.0, 1.0, 2.0, 3.0, 4.0]
    totals = house.keeper.totals()
    assert (totals[ring.key].ignored, totals[camera.key].ignored) == (5, 0)


async def test_a_stop_waits_a_moment_for_the_run_for_which_something_waits(
    new_house: New, camera: Stream, frame: MakeFrame, rule: New, held: Held
) -> None:
    house = new_house()
    await house.open("bl", rules={"camera": rule("keep")})
    held.go.clear()
    await at_once(house.groups["bl"].offer, camera, frame(0))
    await until_set(held.asked)
    stopping = asyncio.create_task(house.desk.shutdown())
    for _ in range(3):
        await asyncio.sleep(0)
    held.go.set()
    await stopping
    (run,) = house.runs()
    assert house.column(run, camera, "frame_number") == [0]


@pytest.mark.expects_errors
async def test_a_stop_says_what_is_lost_when_the_disk_lets_no_run_begin(
    new_house: New, camera: Stream, tag: Stream, frame: MakeFrame, rows: MakeRows, rule: New, t0: int, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr("edge_agent.runs.backlog.LIMIT", 2 * FRAME + 72 + PER_ITEM)
    disk = NoFolders()
    house = new_house(storage=disk)
    await house.open("bl", rules={"camera": rule("keep")})
    group = house.groups["bl"]
    disk.full = True
    group.take(tag, rows([1.0], [t0]))
    for number in range(5):
        group.offer(camera, frame(number))
    await house.desk.shutdown()
    lost = [record.getMessage() for record in caplog.records if getattr(record, "code", "") == "RUN_LOST"]
    assert sorted(text.partition(", ")[0] for text in lost) == ["camera/image: 5 items are lost", "oven/temperature: 1 items are lost"]


@pytest.mark.expects_errors
async def test_a_stop_does_not_wait_for_a_disk_that_is_silent(
    new_house: New, camera: Stream, frame: MakeFrame, rule: New, held: Held, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    house = new_house()
    await house.open("bl", rules={"camera": rule("keep")})
    held.go.clear()
    await at_once(house.groups["bl"].offer, camera, frame(0))
    await until_set(held.asked)
    monkeypatch.setattr("edge_agent.runs.desk.SETTLE", 0.0)
    async with asyncio.timeout(20):
        await house.desk.shutdown()
    assert "camera/image: 1 items are lost" in caplog.text
    held.go.set()
    await house.until(lambda: house.groups["bl"].background._runs != {})
    assert [run.run_no for run in house.runs()] == [1]  # empty; the next start closes it


async def test_an_agent_that_waits_for_durable_data_waits_for_its_run_too_and_shows_no_value_whose_run_is_not_known(
    new_house: New, tag: Stream, rows: MakeRows, t0: int, held: Held
) -> None:
    house = new_house()
    await house.open("bl")
    shown: list[list[Any]] = []
    sink = AgentSink(
        InstrumentState("oven", "serial"), house.groups["bl"], house.keeper, None, live=lambda stream, block, runs: shown.append(runs)
    )
    held.go.clear()
    inlet = sink.open(tag)
    async with asyncio.timeout(20):
        await inlet.put(rows([1.0], [t0]))
    durable = asyncio.create_task(sink.durable())
    await until_set(held.asked)
    assert not durable.done()
    assert shown == []
    held.go.set()
    await durable
    assert house.totals(tag.key) == 1
    await inlet.put(rows([2.0], [t0 + 1]))
    assert shown == [house.runs()]


async def test_a_file_whose_adapter_ends_while_its_run_begins_does_not_keep_the_run_open(
    new_house: New, t0: int, tmp_path: Path, held: Held
) -> None:
    house = new_house()
    await house.open("bl")
    sink = AgentSink(InstrumentState("vendor", "files"), house.groups["bl"], house.keeper, None)
    held.go.clear()
    adopting = asyncio.create_task(sink.adopt(VENDOR, item(tmp_path / "a", t0), item(tmp_path / "b", t0)))
    await until_set(held.asked)
    adopting.cancel()
    await asyncio.wait([adopting])
    held.go.set()
    await house.until(lambda: len(house.runs()) == 1)
    house.clock.now = MIDNIGHT
    await house.complete(1)
