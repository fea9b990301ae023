from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge_agent.model import NO_TIME, Block, Cause, Frame, Gap, Kind, Outcome, Stream, Valid
from edge_agent.spool import DiskState

MS, S = 1_000_000, 10**9
New = Callable[..., Any]
MakeFrame = Callable[..., Frame]
MakeRows = Callable[..., Block]


async def test_frames_between_runs_are_ignored_and_counted_and_never_lost(new_house: New, camera: Stream, frame: MakeFrame) -> None:
    house = new_house()
    await house.open("bl")
    for number in range(5):
        assert house.groups["bl"].offer(camera, frame(number))
    await house.until(lambda: camera.key in house.keeper.totals())
    totals = house.keeper.totals()[camera.key]
    assert (totals.arrived, totals.ignored, totals.lost, totals.lost_text) == (0, 5, 0, "0")
    assert house.runs() == []


async def test_ignored_items_of_an_earlier_boot_stay_counted(new_house: New, camera: Stream, frame: MakeFrame) -> None:
    async def boot(ignored: int) -> None:
        house = new_house()
        await house.open("bl")
        for number in range(3):
            house.groups["bl"].offer(camera, frame(number))
        await house.until(lambda: camera.key in (totals := house.keeper.totals()) and totals[camera.key].ignored == ignored)
        await house.stop()

    await boot(3)
    await boot(6)


async def test_rows_between_runs_are_kept_in_the_run_of_the_day(new_house: New, tag: Stream, rows: MakeRows, t0: int) -> None:
    house = new_house()
    await house.open("bl")
    house.groups["bl"].take(tag, rows([1.0, 2.0], [t0, t0 + 1]))
    await house.durable(tag, 2)
    (run,) = house.runs()
    assert (run.trigger, run.project, run.folder) == ("daily", "unclaimed", "unclaimed/bl/2026-11-24/000001")
    await house.stop()


async def test_a_gap_alone_begins_no_run_and_is_declared_when_data_begins_one(new_house: New, tag: Stream, rows: MakeRows, t0: int) -> None:
    house = new_house()
    await house.open("bl")
    group = house.groups["bl"]
    group.gap(tag, Gap(Cause.DISCONNECT, t_from=t0 - S, t_to=t0))
    assert house.runs() == []
    group.take(tag, rows([1.0], [t0]))
    await house.durable(tag, 1)
    assert house.keeper.totals()[tag.key].gaps == 1
    assert house.keeper.totals()[tag.key].lost_text == "? (1.0 s)"


async def test_a_ring_gives_everything_that_it_holds_to_the_run_that_begins(
    new_house: New, camera: Stream, frame: MakeFrame, rule: New, t0: int
) -> None:
    house = new_house()
    await house.open("bl", rules={"camera": rule("ring", 60.0)})
    group = house.groups["bl"]
    for number in range(10):
        group.offer(camera, frame(number))
    house.clock.now = t0 + 10 * S  # all of it is older than the session
    run = house.desk.start("bl", project="p")
    group.offer(camera, frame(10, t=house.clock.now))
    await house.durable(camera, 11)
    await house.desk.stop("bl")
    assert house.column(run, camera, "frame_number") == list(range(11))
    assert house.keeper.totals()[camera.key].ignored == 0


async def test_a_ring_forgets_what_is_older_than_it_and_counts_it(new_house: New, camera: Stream, frame: MakeFrame, rule: New) -> None:
    house = new_house()
    await house.open("bl", rules={"camera": rule("ring", 0.05)})
    for number in range(4):
        house.groups["bl"].offer(camera, frame(number))
    await house.until(lambda: camera.key in house.keeper.totals() and house.keeper.totals()[camera.key].ignored == 4)


async def test_a_ring_that_is_larger_than_the_recorders_room_goes_into_the_run_whole_and_in_order(
    new_house: New, frame: MakeFrame, rule: New, t0: int
) -> None:
    house = new_house()
    await house.open("bl", rules={"camera": rule("ring", 60.0)})
    house.recorder.room.limit = 300_000
    big = Stream("camera", "image", Kind.FRAMES, "<u2", (128, 128), counted=True)
    group = house.groups["bl"]
    for number in range(40):  # 1.3 MB
        group.offer(big, replace(frame(number), data=np.full((128, 128), number, "<u2")))
    run = house.desk.start("bl", project="p", started_ns=t0)
    for number in range(40, 44):
        assert group.offer(big, replace(frame(number), data=np.full((128, 128), number, "<u2")))
    await house.desk.stop("bl")
    assert house.column(run, big, "frame_number") == list(range(44))
    assert house.gaps(run, big) == []


async def test_a_full_disk_refuses_and_declares_what_a_ring_gives_to_the_run_that_begins(
    new_house: New, camera: Stream, frame: MakeFrame, rule: New, t0: int
) -> None:
    house = new_house()
    await house.open("bl", rules={"camera": rule("ring", 60.0)})
    for number in range(3):
        house.groups["bl"].offer(camera, frame(number))
    house.disk = DiskState.HARD
    run = house.desk.start("bl", project="p", started_ns=t0)
    house.disk = DiskState.OK
    house.groups["bl"].offer(camera, frame(3))
    await house.desk.stop("bl")
    assert house.column(run, camera, "frame_number") == [3]
    assert [(g.cause, g.first, g.last) for g in house.gaps(run, camera)] == [("disk", 0, 2)]


async def test_frames_that_a_full_disk_refuses_are_declared_although_their_counter_begins_again(
    new_house: New, camera: Stream, frame: MakeFrame
) -> None:
    house = new_house()
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    for state, numbers in ((DiskState.OK, range(4, 6)), (DiskState.HARD, [6, 7, 0, 1, 2]), (DiskState.OK, range(3, 5))):
        house.disk = state
        for number in numbers:
            house.groups["bl"].offer(camera, frame(number))
    await house.desk.stop("bl")
    assert house.column(run, camera, "frame_number") == [4, 5, 3, 4]
    assert [(g.cause, g.first, g.last, g.count) for g in house.gaps(run, camera)] == [("disk", 6, 7, 2), ("disk", 0, 2, 3)]
    assert house.keeper.totals()[camera.key].lost == 5


async def test_what_a_full_queue_refuses_is_one_range_that_grows_and_not_an_item_a_frame(
    new_house: New, frame: MakeFrame, rule: New, t0: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.runs.intake.QUEUE_BYTES", 200_000)
    house = new_house()
    await house.open("bl", rules={"camera": rule("ring", 60.0)})
    big = Stream("camera", "image", Kind.FRAMES, "<u2", (128, 128), counted=True)
    group, room = house.groups["bl"], house.recorder.room
    room.force(room.limit)
    group.offer(big, replace(frame(0), data=np.full((128, 128), 0, "<u2")))
    run = house.desk.start("bl", project="p", started_ns=t0)
    for number in [*range(1, 100), *range(3, 50)]:  # its counter begins again
        group.offer(big, replace(frame(number), data=np.full((128, 128), number, "<u2")))
    assert len(group.foreground.intake._queue) == 6 + 2
    room.leave(room.limit)
    await house.desk.stop("bl")
    assert house.column(run, big, "frame_number") == list(range(6))
    assert [(g.cause, g.first, g.last, g.count) for g in house.gaps(run, big)] == [
        ("overload", 6, 99, 94), ("overload", 3, 49, 47),
    ]


async def test_the_last_known_value_stands_first_in_a_run_and_is_no_event(new_house: New, tag: Stream, rows: MakeRows, t0: int) -> None:
    house = new_house()
    await house.open("bl")
    group = house.groups["bl"]
    group.take(tag, rows([1.0, 2.0], [t0, t0 + MS]))
    house.clock.now = t0 + S
    run = house.desk.start("bl", project="p")
    group.take(tag, rows([3.0], [t0 + S + MS]))
    await house.desk.stop("bl")
    assert house.column(run, tag, "value") == [2.0, 3.0]
    assert house.column(run, tag, "valid") == [Valid.INITIAL, Valid.GOOD]
    assert house.column(run, tag, "time")[0] == t0 + MS
    totals = house.keeper.totals()[tag.key]
    assert (totals.arrived, totals.discrepancy) == (3, 0)


async def test_an_unusable_value_is_never_repeated_as_the_last_known_one(new_house: New, tag: Stream, rows: MakeRows, t0: int) -> None:
    house = new_house()
    await house.open("bl")
    group = house.groups["bl"]
    group.take(tag, rows([1.0, float("nan")], [t0, t0 + MS], valid=[Valid.GOOD, Valid.BAD]))
    house.clock.now = t0 + S
    run = house.desk.start("bl", project="p")
    group.take(tag, rows([3.0], [t0 + S + MS]))
    await house.desk.stop("bl")
    assert house.column(run, tag, "value") == [3.0]


async def test_a_trigger_told_late_repeats_the_value_from_before_its_time_and_not_a_later_one(
    new_house: New, tag: Stream, rows: MakeRows, t0: int
) -> None:
    house = new_house()
    await house.open("bl", look_back=30.0)
    group = house.groups["bl"]
    for n in range(4):
        group.take(tag, rows([float(n)], [t0 + n * MS]))
    house.desk.trigger("bl", True, t0 + 2 * MS, "shutter")
    group.look_back = 0.01
    house.desk.trigger("bl", False, t0 + 9 * MS, "shutter")
    run = await house.complete()
    assert house.column(run, tag, "value") == [1.0, 2.0, 3.0]
    assert house.column(run, tag, "valid") == [2, 1, 1]


async def test_a_value_that_is_read_at_connect_begins_no_run_and_counts_for_nothing(
    new_house: New, tag: Stream, rows: MakeRows, t0: int
) -> None:
    house = new_house()
    await house.open("bl")
    house.groups["bl"].take(tag, rows([7.0], [t0], valid=[Valid.INITIAL]))
    assert house.runs() == []
    run = house.desk.start("bl", project="p")
    await house.desk.stop("bl")
    assert house.column(run, tag, "value") == [7.0]
    assert house.keeper.totals().get(tag.key) is None or house.keeper.totals()[tag.key].arrived == 0


@pytest.mark.parametrize("wrong", [-3600 * S, 3600 * S, -(10**9) * S])
async def test_a_source_whose_clock_is_wrong_is_not_left_out_of_a_session(
    new_house: New, camera: Stream, tag: Stream, frame: MakeFrame, rows: MakeRows, t0: int, wrong: int
) -> None:
    house = new_house()
    await house.open("bl")
    group = house.groups["bl"]
    run = house.desk.start("bl", project="p")
    for number in range(3):
        group.offer(camera, frame(number, t=t0 + wrong + number, arrival=t0 + number))
    group.take(tag, rows([1.0], [t0 + wrong], arrival=[t0 + 5]))
    house.clock.now = t0 + S
    await house.desk.stop("bl")
    assert house.column(run, camera, "frame_number") == [0, 1, 2]
    assert house.column(run, tag, "value") == [1.0]
    assert house.column(run, tag, "time") == [t0 + wrong]


async def test_what_has_no_time_of_its_own_is_placed_by_its_arrival(new_house: New, camera: Stream, frame: MakeFrame, t0: int) -> None:
    house = new_house()
    await house.open("bl", look_back=0.05)
    house.desk.trigger("bl", True, t0, "shutter")
    house.groups["bl"].offer(camera, frame(1, t=NO_TIME, arrival=t0 - 1))
    house.groups["bl"].offer(camera, frame(2, t=NO_TIME, arrival=t0 + 1))
    house.desk.trigger("bl", False, t0 + 5, "shutter")
    await house.durable(camera, 1)
    await house.until(lambda: house.keeper.totals()[camera.key].ignored == 1)
    assert house.keeper.totals()[camera.key].arrived == 1


async def test_while_the_disk_is_full_frames_and_rows_are_refused_and_one_gap_says_so_and_then_it_goes_on(
    new_house: New, camera: Stream, tag: Stream, frame: MakeFrame, rows: MakeRows, t0: int
) -> None:
    house = new_house()
    await house.open("bl")
    group = house.groups["bl"]
    run = house.desk.start("bl", project="p")
    assert group.offer(camera, frame(0))
    group.take(tag, rows([0.0], [t0]))
    house.disk = DiskState.HARD
    assert not group.offer(camera, frame(1))
    group.take(tag, rows([1.0], [t0 + MS]))  # rows are small: they go on
    house.disk = DiskState.PAUSED
    assert not group.offer(camera, frame(2))
    group.take(tag, rows([2.0, 3.0], [t0 + 2 * MS, t0 + 3 * MS]))
    group.take(tag, rows([4.0], [t0 + 4 * MS]))
    house.disk = DiskState.OK
    assert group.offer(camera, frame(3))
    group.take(tag, rows([5.0], [t0 + 5 * MS]))
    await house.desk.stop("bl")
    assert house.column(run, camera, "frame_number") == [0, 3]
    assert [(g.first, g.last, g.count, g.cause) for g in house.gaps(run, camera)] == [(1, 2, 2, "disk")]
    assert house.column(run, tag, "value") == [0.0, 1.0, 5.0]
    assert [(g.count, g.cause, g.t_from, g.t_to) for g in house.gaps(run, tag)] == [(3, "disk", t0 + 2 * MS, t0 + 4 * MS)]
    for key in (camera.key, tag.key):
        assert house.keeper.totals()[key].discrepancy == 0


async def test_what_a_full_disk_refused_is_declared_although_the_run_ends_before_it_has_room_again(
    new_house: New, camera: Stream, frame: MakeFrame
) -> None:
    house = new_house()
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    house.disk = DiskState.HARD
    house.groups["bl"].offer(camera, frame(1))
    house.groups["bl"].offer(camera, frame(2))
    await house.desk.stop("bl")
    assert [(g.first, g.last, g.count, g.cause) for g in house.gaps(run, camera)] == [(1, 2, 2, "disk")]


async def test_a_frame_or_a_block_that_is_not_what_the_stream_says_is_told_to_its_adapter_at_once(
    new_house: New, camera: Stream, tag: Stream, frame: MakeFrame, rows: MakeRows, t0: int
) -> None:
    house = new_house()
    await house.open("bl", look_back=30.0)
    with pytest.raises(ValueError, match=r"camera/image: a frame \(2, 2\) <u2, the stream says \(4, 4\) <u2"):
        house.groups["bl"].offer(camera, replace(frame(0), data=np.zeros((2, 2), "<u2")))
    with pytest.raises(ValueError, match="oven/temperature: values of shape"):
        house.groups["bl"].take(replace(tag, shape=(3,)), rows([1.0], [t0]))


async def test_data_that_comes_from_many_threads_while_runs_begin_and_end_is_in_exactly_one_run(
    new_house: New, camera: Stream, frame: MakeFrame, rule: New
) -> None:
    house = new_house()
    await house.open("bl", rules={"camera": rule("keep")})
    group = house.groups["bl"]
    streams = [Stream("camera", f"image{i}", Kind.FRAMES, "<u2", (4, 4), counted=True) for i in range(3)]
    done = 0

    def shoot(stream: Stream) -> None:
        nonlocal done
        for number in range(150):
            assert group.offer(stream, frame(number))
        done += 1

    threads = [asyncio.create_task(asyncio.to_thread(shoot, stream)) for stream in streams]
    while done < len(streams):
        house.desk.start("bl", project="p")
        await house.desk.stop("bl", Outcome.CALIBRATION)
    await asyncio.gather(*threads)
    await house.until(lambda: all(house.totals(s.key) == 150 for s in streams))
    await house.desk.shutdown()
    for stream in streams:
        numbers = [n for run in house.runs() for n in house.column(run, stream, "frame_number")]
        assert sorted(numbers) == list(range(150))
        assert house.keeper.totals()[stream.key].discrepancy == 0
