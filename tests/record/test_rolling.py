"""Segments close by size, age, number and description, and each names the one before."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge_agent.model import Block, Cause, Gap
from edge_agent.record import recorder, series
from edge_agent.record.series import Limits

Make = Callable[..., Any]
FRAME_BYTES = 768


def test_a_series_of_frames_rolls_by_size_and_stays_one_chain(rig: Make, kit: Any, tmp_path: Any) -> None:
    run = rig(frame_limits=Limits(size=8 * FRAME_BYTES, min_age=0.0))
    frames = run.recording.frames(kit.CAMERA)
    for number in range(1, 31):
        if number not in (9, 10, 20):
            assert frames.offer(kit.frame(number))
    segments = run.close()
    assert len(segments) > 2
    kit.check_chain(segments)
    kit.check_signed(segments, run.facility)
    kit.independent_verifier([closed.path for closed in segments], run.facility.pem(tmp_path))
    assert list(kit.recorded_frames(segments)) == [n for n in range(1, 31) if n not in (9, 10, 20)]
    assert sum(gap.count for closed in segments for gaps in closed.gaps.values() for gap in gaps) == 3
    reasons = [kit.leaves_of(closed)[-1].reason for closed in segments]
    assert reasons[:-1] == ["rolled"] * (len(segments) - 1)
    assert reasons[-1] in ("rolled", "run-end")


async def test_rows_roll_by_the_size_of_their_journal_because_chunks_come_late(rig: Make, kit: Any) -> None:
    run = rig(row_limits=Limits(size=10_000, min_age=0.0))
    mass = run.recording.rows(kit.BALANCE)
    for number in range(8):
        await mass.put(kit.rows(number * 100, 100))
    segments = run.close()
    assert len(segments) > 2
    assert kit.recorded_rows(segments) == [n * 0.5 for n in range(800)]
    kit.check_chain(segments)
    kit.check_signed(segments, run.facility)


async def test_a_segment_of_a_quiet_source_closes_by_age_alone(rig: Make, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "TICK", 0.02)
    closed = threading.Event()
    run = rig(frame_limits=Limits(max_age=0.05), row_limits=Limits(max_age=0.05))
    before = run.state.closed

    def note(segment: Any) -> None:
        before(segment)
        if len(run.closed) == 2:
            closed.set()

    run.state.closed = note
    run.recording.frames(kit.CAMERA).offer(kit.frame(1))
    await run.recording.rows(kit.BALANCE).put(kit.rows(1))
    assert closed.wait(20)
    kit.check_signed(run.segments(), run.facility)


def test_a_segment_rolls_before_its_leaves_fill_the_memory(rig: Make, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series, "MAX_LEAVES", 20)
    run = rig()
    mass = run.recording.rows(kit.BALANCE)
    for number in range(40):
        mass.gap(Gap(Cause.GARBAGE, count=number))
    segments = run.close()
    assert len(segments) >= 3
    assert [gap.count for closed in segments for gap in closed.gaps["balance/mass"]] == list(range(40))


def test_a_frame_segment_holds_only_so_many_chunks(rig: Make, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.segment.layout.MAX_CHUNKS", 5)
    run = rig()
    frames = run.recording.frames(kit.CAMERA)
    for number in range(1, 13):
        frames.offer(kit.frame(number))
    assert [closed.counts["camera/image"] for closed in run.close()] == [5, 5, 2]


@pytest.mark.parametrize("change", [{"unit": "counts/s"}, {"dtype": "<u4"}, {"shape": (8, 8)}, {"step": 2}, {"attributes": {"gain": 2.0}}])
def test_another_description_of_frames_begins_another_segment(rig: Make, kit: Any, change: dict[str, Any]) -> None:
    run = rig()
    frames = run.recording.frames(kit.CAMERA)
    for number in (1, 2, 3):
        frames.offer(kit.frame(number))
    other = replace(kit.CAMERA, **change)
    late, frames = frames, run.recording.frames(other)
    for number in (5, 7, 9):
        frames.offer(replace(kit.frame(number), data=kit.image(number, other.shape).astype(other.dtype)))
    late.offer(kit.frame(10))
    segments = run.close()
    assert [closed.counts["camera/image"] for closed in segments] == [3, 3, 1]
    kit.check_chain(segments)
    kit.check_signed(segments, run.facility)
    data = kit.contents(segments[1])["/entry/instrument/camera/image/data"]
    assert (data.dtype.str, data.shape) == (other.dtype, (3, *other.shape))


def test_the_same_description_again_goes_on_in_the_same_segment(rig: Make, kit: Any) -> None:
    run = rig()
    run.recording.frames(kit.CAMERA).offer(kit.frame(1))
    run.recording.frames(replace(kit.CAMERA)).offer(kit.frame(2))
    (closed,) = run.close()
    assert closed.counts == {"camera/image": 2}


def test_frames_refused_before_another_description_are_declared(rig: Make, kit: Any) -> None:
    disk = kit.Gated()
    run = rig(disk, room=1)
    frames = run.recording.frames(kit.CAMERA)
    frames.offer(kit.frame(1))
    run.durable()
    disk.open.clear()
    assert [frames.offer(kit.frame(number)) for number in (2, 3, 4)] == [True, False, False]
    run.recording.frames(replace(kit.CAMERA, unit="V"))
    disk.open.set()
    (closed,) = run.close()
    assert [(gap.first, gap.last, gap.cause) for gap in closed.gaps["camera/image"]] == [(3, 4, "overload")]


async def test_another_description_of_rows_begins_another_segment_and_mixes_no_types(rig: Make, kit: Any) -> None:
    run = rig()
    grams = run.recording.rows(kit.BALANCE)
    await grams.put(kit.rows(1))
    texts = run.recording.rows(replace(kit.BALANCE, dtype="|S4", unit=""))
    await texts.put(Block(np.array([b"low"], "|S4"), *(np.array([kit.T0], "<i8"),) * 2))
    await grams.put(kit.rows(2))  # was on its way when the description changed
    segments = run.close()
    values = [kit.contents(closed)["/entry/instrument/balance/mass/value"].tolist() for closed in segments]
    assert values == [[0.5], [b"low"], [1.0]]
    kit.check_chain(segments)
    kit.check_signed(segments, run.facility)


async def test_a_new_stream_joins_the_open_segment_of_rows(rig: Make, kit: Any) -> None:
    run = rig()
    await run.recording.rows(kit.BALANCE).put(kit.rows(1))
    await run.recording.rows(replace(kit.BALANCE, name="tare")).put(kit.rows(2))
    (closed,) = run.close()
    assert closed.counts == {"balance/mass": 1, "balance/tare": 1}
    kit.check_signed([closed], run.facility)


def test_the_frame_that_a_source_tells_again_after_a_crash_is_recorded_once(rig: Make, kit: Any, tmp_path: Any) -> None:
    first = rig(folder=tmp_path / "000001")
    frames = first.recording.frames(kit.CAMERA)
    for number in range(1, 6):
        frames.offer(kit.frame(number))
    before = first.close()
    again = rig(folder=tmp_path / "000001", before=before)
    frames = again.recording.frames(kit.CAMERA)
    assert frames.offer(replace(kit.frame(5), t_arrival=kit.T0 + 10**9)), "told again at connection: as old as it was"
    assert frames.offer(kit.frame(6))
    segments = again.close()
    kit.check_chain(segments)
    assert list(kit.recorded_frames(segments)) == [1, 2, 3, 4, 5, 6]
    assert [closed.gaps for closed in segments] == [{}, {}]
    assert again.room.used == 0


def test_a_counter_that_began_again_at_the_same_number_after_a_crash_is_a_new_frame(rig: Make, kit: Any, tmp_path: Any) -> None:
    first = rig(folder=tmp_path / "000001")
    first.recording.frames(kit.CAMERA).offer(kit.frame(1))
    again = rig(folder=tmp_path / "000001", before=first.close())
    later = kit.T0 + 10**9
    assert again.recording.frames(kit.CAMERA).offer(replace(kit.frame(1), t_source=later, t_arrival=later + 5))
    _, closed = again.close()
    assert closed.counts == {"camera/image": 1}
    assert [type(each).__name__ for each in kit.leaves_of(closed)].count("SeqReset") == 1


def test_a_segment_takes_no_name_that_a_file_has_already(rig: Callable[..., Any], kit: Any) -> None:
    run = rig()
    run.folder.mkdir(parents=True, exist_ok=True)
    other = run.folder / "000001_camera_image_000001.h5"
    other.write_bytes(b"of somebody else")
    run.recording.frames(kit.CAMERA).offer(kit.frame(1))
    (closed,) = run.close()
    assert other.read_bytes() == b"of somebody else"
    assert closed.path.name == "000001_camera_image_000002.h5"
    kit.check_signed([closed], run.facility)
