"""More than the machine can take: what gives way, in which order, and that every number is accounted for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from edge_agent.model import Frame, Kind, Priority, Stream
from edge_agent.record.overload import ONE_IN, PATIENCE, RECOVERY, Yielding
from edge_agent.record.room import PER_ITEM
from edge_agent.record.series import Limits
from edge_agent.seal import leaf
from edge_agent.segment import integrity, reader

Make = Callable[..., Any]
DETECTOR = Stream("detector", "image", Kind.FRAMES, "<u2", (1065, 1030), counted=True)


def leaves_of(path: Path) -> list[leaf.Leaf]:
    """The leaves alone: so many frames, decoded, would not fit in memory."""
    with h5py.File(path, "r") as file:
        return [leaf.parse(payload) for payload in integrity.read(reader.walk(file).integrity).leaves]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_slow_codec_gives_way_to_the_fast_one_under_lasting_pressure_and_comes_back_when_it_is_calm() -> None:
    clock = Clock()
    yielding = Yielding(replace(DETECTOR, codec="shuffle-zstd"), clock)
    steps = [
        (0.0, 0.6, "shuffle-zstd"), (PATIENCE - 0.1, 0.6, "shuffle-zstd"), (PATIENCE, 0.6, "bitshuffle-lz4"),
        (PATIENCE + 1, 0.05, "bitshuffle-lz4"), (PATIENCE + RECOVERY, 0.05, "bitshuffle-lz4"), (PATIENCE + RECOVERY + 1, 0.05, "shuffle-zstd"),
    ]  # fmt: skip
    for now, full, codec in steps:
        clock.now = now
        assert yielding.described(full).codec == codec, f"at {now} s, {full} full"


def test_pressure_that_does_not_last_changes_no_codec() -> None:
    clock = Clock()
    yielding = Yielding(replace(DETECTOR, codec="shuffle-zstd"), clock)
    for second in range(10):
        clock.now = float(second)
        assert yielding.described(0.9 if second % 2 else 0.2).codec == "shuffle-zstd"


@pytest.mark.parametrize("codec", [None, "bitshuffle-lz4", "none"])
def test_other_codecs_are_left_as_they_are(codec: str | None) -> None:
    clock = Clock()
    stream = replace(DETECTOR, codec=codec)
    yielding = Yielding(stream, clock)
    for second in range(5):
        clock.now = float(second)
        assert yielding.described(1.0) is stream


def test_of_unimportant_frames_one_in_ten_is_taken_when_it_gets_tight() -> None:
    low, normal = Yielding(replace(DETECTOR, priority=Priority.LOW)), Yielding(DETECTOR)
    assert [low.skips(0.5) for _ in range(3)] == [False] * 3
    assert [low.skips(0.9) for _ in range(2 * ONE_IN)] == [False, *[True] * (ONE_IN - 1)] * 2
    assert not normal.skips(0.9)


def test_thinned_frames_are_declared_apart_from_refused_ones(rig: Make, kit: Any) -> None:
    disk = kit.Gated()
    run = rig(disk, room=10 * (768 + PER_ITEM))
    camera, spare = run.recording.frames(kit.CAMERA), run.recording.frames(replace(kit.CAMERA, name="spare", priority=Priority.LOW))
    assert camera.offer(kit.frame(1))
    assert spare.offer(kit.frame(1))
    run.durable()
    disk.open.clear()
    assert all(camera.offer(kit.frame(number)) for number in range(2, 10))
    came = {number: spare.offer(kit.frame(number)) for number in range(2, 26)}
    disk.open.set()
    run.durable()
    assert spare.offer(kit.frame(26))
    segments = run.close()
    kit.check_signed(segments, run.facility)
    gaps = [g for closed in segments for g in closed.gaps.get("camera/spare", [])]
    assert {g.detail for g in gaps} == {"thinned out", "no room"}
    covered = [number for g in gaps for number in range(g.first, g.last + 1)]
    assert covered == [number for number, taken in came.items() if not taken]


@pytest.mark.parametrize(
    ("came", "lost"), [([*range(10, 12), *range(15, 17)], 3), (range(10, 1010, 2), 499), (range(10, 17), 0)], ids=["a hole", "every second", "none"]
)
def test_what_its_source_loses_while_there_is_no_room_is_not_counted_as_refused(
    came: Sequence[int], lost: int, rig: Make, kit: Any
) -> None:
    disk = kit.Gated()
    run = rig(disk, room=5 * (768 + PER_ITEM))
    camera = run.recording.frames(kit.CAMERA)
    assert camera.offer(kit.frame(1))
    run.durable()
    disk.open.clear()
    assert [camera.offer(kit.frame(number)) for number in (*range(2, 10), *came)].count(True) == 5
    disk.open.set()
    run.durable()
    assert camera.offer(kit.frame(came[-1] + 1))
    segments = run.close()
    kit.check_signed(segments, run.facility)
    (closed,) = segments
    first, *rest = closed.gaps["camera/image"]
    assert (first.first, first.last, first.cause, first.count) == (7, came[-1], "overload", 3 + len(came))
    assert [(g.first, g.last, g.cause, g.count) for g in rest] == ([(None, None, "source", lost)] if lost else [])
    assert closed.counts["camera/image"] + sum(g.count for g in (first, *rest)) == came[-1] + 1


def test_however_long_a_disk_takes_nothing_what_two_streams_were_refused_is_one_range_of_each(rig: Make, kit: Any) -> None:
    disk = kit.Gated()
    run = rig(disk, room=10 * (768 + PER_ITEM))
    camera, spare = run.recording.frames(kit.CAMERA), run.recording.frames(replace(kit.CAMERA, name="spare", priority=Priority.LOW))
    assert camera.offer(kit.frame(1))
    assert spare.offer(kit.frame(1))
    run.durable()
    disk.open.clear()
    for number in range(2, 1002):
        camera.offer(kit.frame(number))
        spare.offer(kit.frame(number))
    disk.open.set()
    segments = run.close()
    for key in ("camera/image", "camera/spare"):
        present, gaps = kit.recorded_frames(segments, key), [g for closed in segments for g in closed.gaps.get(key, [])]
        assert len([g for g in gaps if g.detail == "no room"]) == 1
        missing = [n for g in gaps for n in range(g.first, g.last + 1)]
        assert sorted([*present, *missing]) == list(range(1, 1002))


def test_a_change_of_codec_in_the_middle_keeps_every_frame_in_order(rig: Make, kit: Any) -> None:
    run = rig(room=64 << 20)
    frames = run.recording.frames(replace(kit.CAMERA, codec="shuffle-zstd"))
    clock = Clock()
    frames._yielding = Yielding(frames.stream, clock)
    run.room.force(40 << 20)
    for number in range(1, 31):
        clock.now = number / 10
        assert frames.offer(kit.frame(number))
    run.room.leave(40 << 20)
    segments = run.close()
    kit.check_signed(segments, run.facility)
    kit.check_chain(segments)
    assert len(segments) == 2
    found = kit.recorded_frames(segments)
    assert list(found) == list(range(1, 31))
    assert all(np.array_equal(picture, kit.image(number)) for number, picture in found.items())


@pytest.mark.slow(40)
@pytest.mark.timeout(300)
def test_three_times_what_the_machine_can_take_for_half_a_minute_accounts_for_every_number(rig: Make, kit: Any) -> None:
    random = np.random.default_rng(3)
    pictures = random.poisson(0.02, (8, 1065, 1030)).astype("<u2")
    limits = Limits(size=256 << 20, min_age=5.0)
    run = rig(room=128 << 20, frame_limits=limits)
    frames = run.recording.frames(DETECTOR)

    def frame(number: int) -> Frame:
        now = time.time_ns()
        return Frame(pictures[number % 8], number, now, now)

    number = 0

    def drive(seconds: float, wait: Callable[[int], None]) -> tuple[int, int]:
        nonlocal number
        began, first, taken = time.monotonic(), number, 0
        while time.monotonic() - began < seconds:
            wait(number - first)
            number += 1
            taken += frames.offer(frame(number))
        return number - first, taken

    tick = threading.Event()

    def when_there_is_room(_: int) -> None:
        while run.room.full > 0.9:
            tick.wait(0.001)

    sustained, taken = drive(5.0, when_there_is_room)
    assert sustained == taken, "a source that waits for room loses nothing"
    rate, began = 3 * sustained / 5.0, time.monotonic()

    def thrice_as_fast(offered: int) -> None:
        ahead = offered / rate - (time.monotonic() - began)
        if ahead > 0.002:
            tick.wait(ahead)

    offered, taken = drive(30.0, thrice_as_fast)
    assert taken < offered, "the machine took everything: it was not outrun"
    run.durable()
    segments = run.close()
    kit.check_signed(segments, run.facility)
    accounted: list[int] = []
    for closed in segments:
        for each in leaves_of(closed.path):
            if isinstance(each, leaf.Chunk) and each.seq_first != 2**64 - 1:
                accounted.append(each.seq_first)
            elif isinstance(each, leaf.GapLeaf):
                assert each.cause == "overload"
                assert each.first is not None
                assert each.last is not None
                accounted += range(each.first, each.last + 1)
    assert accounted == list(range(1, number + 1))
    lost = sum(g.count or 0 for closed in segments for g in closed.gaps.get(DETECTOR.key, []))
    assert sum(closed.counts[DETECTOR.key] for closed in segments) + lost == number
    assert lost == offered - taken
