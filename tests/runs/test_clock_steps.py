"""Somebody sets the clock while data come in: no run loses anything by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.model import NO_TIME, Block, FileItem, Frame, Gap, Kind, Stream
from edge_agent.model import Cause as Because

MS, S = 1_000_000, 10**9
YEARS = 10 * 365 * 24 * 3600 * S
New = Callable[..., Any]
MakeFrame = Callable[..., Frame]
MakeRows = Callable[..., Block]


@pytest.mark.parametrize("steps", [(-YEARS,), (YEARS,), (YEARS, -YEARS), (-YEARS, YEARS), (-3600 * S,)])
async def test_an_open_session_holds_what_comes_whatever_the_clock_says(
    steps: tuple[int, ...], new_house: New, camera: Stream, tag: Stream, frame: MakeFrame, rows: MakeRows, t0: int
) -> None:
    house = new_house()
    await house.open("bl")
    group, number = house.groups["bl"], 0
    run = house.desk.start("bl", project="p")
    for set_by in (0, *steps):
        house.clock.set_by = set_by
        house.clock.now += S
        for source in (NO_TIME, house.clock()):
            number += 1
            assert group.offer(camera, frame(number, t=source, arrival=house.clock()))
        group.take(tag, rows([float(number)], [house.clock()]))
        group.gap(tag, Gap(Because.DISCONNECT, t_from=house.clock() - MS, t_to=house.clock()))
        assert group.run_for_file(Stream("scope", "files", Kind.FILES), FileItem(Path("x"), "x", 1, house.clock(), house.clock())).entry.run == run
        group.foreground.adopting.leave()
    house.clock.now += S
    await house.desk.stop("bl")
    assert house.column(run, camera, "frame_number") == list(range(1, number + 1))
    assert len(house.column(run, tag, "value")) == len(steps) + 1
    assert len(house.gaps(run, tag)) == len(steps) + 1
    assert house.keeper.totals()[camera.key].ignored == 0


async def test_a_triggered_run_holds_frames_without_a_time_of_their_own_when_the_clock_was_set_back(
    new_house: New, camera: Stream, frame: MakeFrame, t0: int
) -> None:
    house = new_house()
    await house.open("bl")
    house.desk.trigger("bl", True, t0, "shutter")
    house.clock.now += S
    house.clock.set_by = -YEARS
    assert house.groups["bl"].offer(camera, frame(1, t=NO_TIME, arrival=house.clock()))
    house.groups["bl"].offer(camera, frame(2, t=t0 - S, arrival=house.clock()))  # the detector's own clock says: before the shutter
    house.clock.now += S
    house.desk.trigger("bl", False, house.clock(), "shutter")
    run = await house.complete()
    assert house.column(run, camera, "frame_number") == [1]


async def test_the_run_of_the_day_changes_with_the_date_and_keeps_every_row(new_house: New, tag: Stream, rows: MakeRows) -> None:
    house = new_house()
    await house.open("bl")
    values: list[float] = []
    for set_by in (0, YEARS, -YEARS, 0):
        house.clock.set_by = set_by
        house.clock.now += S
        values.append(float(len(values)))
        house.groups["bl"].take(tag, rows(values[-1:], [house.clock()]))
        await house.durable(tag, len(values))
    house.clock.set_by = 2 * YEARS
    kept: list[float] = []
    for number in (1, 2, 3, 4):
        run = await house.complete(number)
        column = zip(house.column(run, tag, "value"), house.column(run, tag, "valid"), strict=True)
        kept += [value for value, valid in column if valid == 1]
    assert kept == values


async def test_a_session_goes_on_after_a_start_under_a_clock_that_is_behind(new_house: New, camera: Stream, frame: MakeFrame) -> None:
    first = new_house()
    await first.open("bl")
    run = first.desk.start("bl", project="p")
    first.clock.now += S
    assert first.groups["bl"].offer(camera, frame(1, t=NO_TIME, arrival=first.clock()))
    await first.durable(camera, 1)
    await first.crash()
    again = new_house()
    again.clock.set_by = -YEARS
    await again.open("bl")
    assert again.groups["bl"].offer(camera, frame(2, t=NO_TIME, arrival=again.clock()))
    again.clock.now += S
    await again.desk.stop("bl")
    assert again.column(run, camera, "frame_number") == [1, 2]
