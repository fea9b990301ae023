from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.model import Block, Cause, Frame, Gap, Outcome, Reset, Stream
from edge_agent.runs.group import Group
from edge_agent.runs.look_back import PER_ITEM
from edge_agent.spool import StreamTotals

MS = 1_000_000
LONG = 30.0
"""A look-back that does not end during a test."""
New = Callable[..., Any]
MakeFrame = Callable[..., Frame]
MakeRows = Callable[..., Block]


async def flush(house: Any, name: str = "bl") -> None:
    """The look-back is over."""
    group: Group = house.groups[name]
    group.look_back = 0.0
    group.expire()
    await asyncio.to_thread(house.desk._count_ignored, group)


@pytest.mark.parametrize("message", ["early", "after the first frames", "after the last frame"])
async def test_a_shutter_around_the_frames_has_every_frame_in_the_run_whenever_its_message_comes(
    new_house: New, camera: Stream, frame: MakeFrame, t0: int, message: str
) -> None:
    house = new_house()
    await house.open("bl", look_back=LONG)
    group, desk = house.groups["bl"], house.desk
    opens, closes = t0 + 100 * MS, t0 + 490 * MS
    first, last = 20, 39  # 100 ms after the shutter opened, 100 ms before it closed
    for number in range(9):
        assert group.offer(camera, frame(number))
    seen = {"early": first, "after the first frames": first + 3, "after the last frame": last + 1}[message]
    for number in range(first, seen):
        assert group.offer(camera, frame(number))
    desk.trigger("bl", True, opens, "ca://SHUTTER == 1")
    for number in range(seen, last + 1):
        assert group.offer(camera, frame(number))
    group.look_back = 0.1
    desk.trigger("bl", False, closes, "ca://SHUTTER == 1")
    for number in range(50, 58):
        assert group.offer(camera, frame(number))
    run = await house.complete()
    assert house.column(run, camera, "frame_number") == list(range(first, last + 1))
    assert run.trigger == "ca://SHUTTER == 1"
    assert run.started_ns == opens
    await flush(house)
    totals = house.keeper.totals()[camera.key]
    assert (totals.arrived, totals.ignored, totals.lost, totals.gaps, totals.discrepancy) == (20, 17, 0, 0, 0)


async def test_frames_that_were_on_their_way_when_the_shutter_closed_still_arrive_in_the_run(
    new_house: New, camera: Stream, frame: MakeFrame, t0: int
) -> None:
    house = new_house()
    await house.open("bl", look_back=0.2)
    group, desk = house.groups["bl"], house.desk
    desk.trigger("bl", True, t0, "shutter")
    desk.trigger("bl", False, t0 + 100 * MS, "shutter")
    for number in range(20):  # numbers 0 to 10 are dated within
        group.offer(camera, frame(number))
    run = await house.complete()
    assert house.column(run, camera, "frame_number") == list(range(11))
    await flush(house)
    assert house.keeper.totals()[camera.key].ignored == 9


async def test_a_shutter_that_opens_again_within_the_grace_time_begins_the_next_run_at_once(
    new_house: New, camera: Stream, frame: MakeFrame, t0: int
) -> None:
    house = new_house()
    await house.open("bl", look_back=0.5)
    group, desk = house.groups["bl"], house.desk
    desk.trigger("bl", True, t0, "shutter")
    for number in range(8):
        group.offer(camera, frame(number))
    desk.trigger("bl", False, t0 + 95 * MS, "shutter")
    desk.trigger("bl", True, t0 + 115 * MS, "shutter")
    assert len(group.ending) == 1
    for number in range(8, 20):  # 8 and 9 belong to the first, 10 and 11 to none, the rest to the second
        group.offer(camera, frame(number))
    desk.trigger("bl", False, t0 + 300 * MS, "shutter")
    assert house.column(await house.complete(1), camera, "frame_number") == list(range(10))
    assert house.column(await house.complete(2), camera, "frame_number") == list(range(12, 20))
    await flush(house)
    totals = house.keeper.totals()[camera.key]
    assert (totals.arrived, totals.ignored, totals.lost) == (18, 2, 0)


async def test_a_frame_that_came_before_the_message_that_the_shutter_closed_stays_in_the_run(
    new_house: New, camera: Stream, frame: MakeFrame, t0: int
) -> None:
    house = new_house()
    await house.open("bl", look_back=0.1)
    group, desk = house.groups["bl"], house.desk
    desk.trigger("bl", True, t0, "shutter")
    for number in range(5):
        group.offer(camera, frame(number))
    desk.trigger("bl", False, t0 + 25 * MS, "shutter")
    assert house.column(await house.complete(), camera, "frame_number") == [0, 1, 2, 3, 4]


async def test_an_off_without_an_on_and_a_second_on_change_nothing(new_house: New, t0: int) -> None:
    house = new_house()
    await house.open("bl", look_back=0.05)
    house.desk.trigger("bl", False, t0, "shutter")
    assert house.runs() == []
    house.desk.trigger("bl", True, t0, "shutter")
    house.desk.trigger("bl", True, t0 + 5, "shutter")
    assert [run.started_ns for run in house.runs()] == [t0]
    house.desk.trigger("bl", False, t0 + 9, "shutter")
    house.desk.trigger("bl", False, t0 + 11, "shutter")
    assert (await house.complete()).run_no == 1


async def test_a_block_over_the_opening_and_the_closing_is_split_by_the_time_of_its_rows(
    new_house: New, tag: Stream, rows: MakeRows, rule: New, t0: int
) -> None:
    house = new_house()
    await house.open("bl", rules={"oven": rule("ignore")}, look_back=0.1)
    group, desk = house.groups["bl"], house.desk
    times = [t0 + n * MS for n in range(10)]
    group.take(tag, rows([float(n) for n in range(5)], times[:5]))
    desk.trigger("bl", True, t0 + 2 * MS, "shutter")
    group.take(tag, rows([5.0, 6.0], times[5:7]))
    desk.trigger("bl", False, t0 + 7 * MS, "shutter")
    group.take(tag, rows([7.0, 8.0, 9.0], times[7:]))
    run = await house.complete()
    values, valid = house.column(run, tag, "value"), house.column(run, tag, "valid")
    assert list(zip(values, valid, strict=True)) == [(1.0, 2), *((float(n), 1) for n in range(2, 8))]
    await flush(house)
    totals = house.keeper.totals()[tag.key]
    assert (totals.arrived, totals.ignored) == (6, 4)


async def test_a_gap_that_waits_in_the_look_back_is_declared_in_the_run_that_opens_over_it(
    new_house: New, tag: Stream, rows: MakeRows, rule: New, t0: int
) -> None:
    house = new_house()
    await house.open("bl", rules={"oven": rule("ignore")}, look_back=0.1)
    group, desk = house.groups["bl"], house.desk
    group.gap(tag, Gap(Cause.OVERFLOW, count=3, t_from=t0 - 20 * MS, t_to=t0 - 10 * MS))
    group.gap(tag, Gap(Cause.OVERFLOW, count=7, t_from=t0 + 1 * MS, t_to=t0 + 2 * MS))
    group.take(tag, rows([1.0], [t0 + 3 * MS]))
    desk.trigger("bl", True, t0, "shutter")
    desk.trigger("bl", False, t0 + 5 * MS, "shutter")
    run = await house.complete()
    assert [(gap.count, gap.cause) for gap in house.gaps(run, tag)] == [(7, "overflow")]


async def test_a_look_back_that_is_full_is_told_to_the_run_that_missed_something(
    new_house: New, camera: Stream, frame: MakeFrame, t0: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.runs.look_back.LIMIT", 5 * (32 + PER_ITEM))
    house = new_house()
    await house.open("bl", look_back=LONG)
    group, desk = house.groups["bl"], house.desk
    for number in range(10):
        group.offer(camera, frame(number))
    group.expire()  # five leave early
    desk.trigger("bl", True, t0 + 20 * MS, "shutter")  # numbers 2 to 4 would have been in it
    group.look_back = 0.05
    desk.trigger("bl", False, t0 + 200 * MS, "shutter")
    run = await house.complete()
    assert house.column(run, camera, "frame_number") == [5, 6, 7, 8, 9]
    (gap,) = house.gaps(run, camera)
    assert (gap.first, gap.last, gap.count, gap.cause, gap.detail) == (2, 4, 3, "overload", "the look-back was full")


async def test_a_counter_that_begins_again_does_not_overtake_frames_that_wait_in_the_look_back(
    new_house: New, camera: Stream, frame: MakeFrame, rule: New
) -> None:
    house = new_house()
    await house.open("bl", rules={"camera": rule("keep")}, look_back=LONG)
    group = house.groups["bl"]
    group.offer(camera, frame(4))
    await flush(house)
    await house.durable(camera, 1)
    group.look_back = LONG
    group.offer(camera, frame(5))
    group.reset(camera, Reset(Cause.RESTART, 5, 0))
    group.offer(camera, frame(0))
    await flush(house)
    await house.durable(camera, 3)
    await house.desk.shutdown()
    (run,) = house.runs()
    assert house.column(run, camera, "frame_number") == [4, 5, 0]
    assert house.gaps(run, camera) == []


@pytest.fixture
async def open_house(new_house: New) -> Any:
    house = new_house()
    await house.open("bl", look_back=LONG)
    return house


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
async def test_in_whatever_order_frames_and_messages_arrive_every_frame_of_the_span_is_in_the_run_and_none_is_uncounted(
    open_house: Any, camera: Stream, frame: MakeFrame, t0: int, data: st.DataObject
) -> None:
    house, group = open_house, open_house.groups["bl"]
    number = house.spool.state.last_run_no() + 1
    base, first = t0 + number * 10_000 * MS, number * 1000
    n = data.draw(st.integers(1, 12), "frames, 10 ms apart")
    on = data.draw(st.integers(0, n * 10), "opens at ms")
    off = data.draw(st.integers(on, n * 10 + 20), "closes at ms")
    told_on = data.draw(st.integers(0, n), "the opening is told after so many frames")
    told_off = data.draw(st.integers(told_on, n), "the closing is told after so many frames")
    was = house.keeper.totals().get(camera.key)
    group.look_back = LONG
    for sent in range(n + 1):
        if sent == told_on:
            house.desk.trigger("bl", True, base + on * MS, "shutter")
        if sent == told_off:
            live = group.end(base + off * MS)
        if sent < n:
            assert group.offer(camera, frame(first + sent, t=base + sent * 10 * MS))
    house.desk._begin(house.desk._end(live, Outcome.COMPLETE, 0.0))
    run = await house.complete(number)
    # What is dated after the end is in the run only if it came before anybody knew of the end.
    expected = [i for i in range(n) if on <= i * 10 and (i * 10 <= off or i < told_off)]
    assert [value - first for value in house.column(run, camera, "frame_number")] == expected
    await flush(house)
    now = house.keeper.totals().get(camera.key, StreamTotals(*[0] * 9))
    before = was or StreamTotals(*[0] * 9)
    assert now.arrived - before.arrived == len(expected)
    assert now.ignored - before.ignored == n - len(expected)
    assert (now.lost, now.discrepancy) == (0, 0)
