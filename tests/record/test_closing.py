"""The end of a run closes the segments of its series at the same time: what is refused is refused alone, and what ends there loses nothing."""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from edge_agent.record.segment_writer import JOURNAL, PART, Closed, SegmentWriter
from edge_agent.storage import Disk, disk_error
from edge_agent.storage.faults import Crashed, Fault, Faults
from edge_agent.storage.memory import Memory
from tests.record.bench import FOLDER, ROOT, Bench
from tests.record.every_call import HDF5

T = TypeVar("T")
Make = Callable[..., Any]
CAMERAS = 4
WAIT = 20.0


class Noted(Bench):
    """Remembers what was given up."""

    def boot(self) -> None:
        self.given_up: list[str] = []
        super().boot()

    def _broken(self, segment: SegmentWriter) -> None:
        self.given_up.append(segment.opening.series)
        super()._broken(segment)


def filled(disk: Faults, folder: Path) -> Noted:
    """Four cameras and a balance; of each some is durable, and some is not yet."""
    bench = Noted(disk, folder, cameras=CAMERAS, closers=CAMERAS)
    for camera in range(CAMERAS):
        bench.frame(camera=camera)
    bench.rows(3)
    bench.commit(sign=True)
    for camera in range(CAMERAS):
        bench.frame(skip=1, camera=camera)
    bench.rows(3)
    return bench


class System(Faults):
    """Counts no writes of HDF5, which are nine in ten: each of them fails in `test_every_call`."""

    def _do(self, kind: str, path: Path, call: Callable[[], T], half: Callable[[], object] = lambda: None) -> T:
        if kind != HDF5:
            return super()._do(kind, path, call, half)
        self._alive()
        return call()


def calls_of_closing(folder: Path) -> range:
    """The numbers of the calls that close a filled bench."""
    disk = System(Memory(ROOT))
    bench = filled(disk, folder)
    first = len(disk.calls) + 1
    bench.close()
    assert bench.given_up == []
    return range(first, len(disk.calls) + 1)


def refused(folder: Path, calls: range, number: int, times: int) -> None:
    """Each call, and those after it, are refused; then nothing at all may be missing."""
    for at in calls:
        disk = System(Memory(ROOT))
        bench = filled(disk, folder)
        disk.fault = Fault(at, number, times=times)
        bench.close()
        disk.fault = None
        assert len(bench.given_up) <= times
        order = list(dict.fromkeys(closed.series for closed in bench.handed.values()))
        assert order == [series.name for series in bench.cameras] + ["rows"], "handed over in another order"
        bench.judge(whole=True)


def ended(folder: Path, calls: range, *, power: bool, after: bool) -> None:
    """Each call is the last; then the run goes on after another boot."""
    for at in calls:
        disk = System(Memory(ROOT))
        bench = filled(disk, folder)
        disk.fault = Fault(at, after=after)
        with pytest.raises(Crashed):
            bench.close()
        bench.die(random.Random(at), power=power)
        for camera in range(CAMERAS):
            bench.frame(camera=camera)
        bench.rows(2)
        bench.judge(whole=False)


class OneRefused(Faults):
    """Refuses the first call of a kind on the files of one segment, or on the folder, once it is armed."""

    armed = ""
    victim = ""

    def _do(self, kind: str, path: Path, call: Callable[[], T], half: Callable[[], object] = lambda: None) -> T:
        with self._lock:
            hit = kind == self.armed and (self.victim in path.name or path == FOLDER)
            if hit:
                self.armed = ""
        if hit:
            half()
            raise disk_error(f"{kind} of {path.name}", OSError(errno.EIO, "refused"))
        return super()._do(kind, path, call, half)


@pytest.mark.parametrize("kind", ["write", "write_at", "sync_data", "sync_file", "rename"])
def test_a_disk_that_refuses_one_of_four_segments_at_the_end_costs_that_one_alone(tmp_path: Path, kind: str) -> None:
    disk = OneRefused(Memory(ROOT))
    bench = filled(disk, tmp_path)
    disk.victim, disk.armed = "_camera2_image_", kind
    bench.close()
    assert disk.armed == ""
    assert bench.given_up == ["camera2/image"]
    others = [closed for closed in bench.segments() if closed.series != "camera2/image"]
    assert [(closed.series, closed.state.name) for closed in others] == [
        ("camera/image", "CLOSED"), ("camera1/image", "CLOSED"), ("camera3/image", "CLOSED"), ("rows", "CLOSED"),
    ]  # fmt: skip
    bench.judge(whole=True)


@pytest.mark.parametrize(("kind", "given_up"), [("sync_folder", 1), ("unlink", 0)])
def test_a_name_or_a_journal_that_is_refused_at_the_end_is_done_again(tmp_path: Path, kind: str, given_up: int) -> None:
    """A folder is synced by each of them, so it is not said for whom it is refused."""
    disk = OneRefused(Memory(ROOT))
    bench = filled(disk, tmp_path)
    disk.victim, disk.armed = "_camera2_image_", kind
    bench.close()
    assert disk.armed == ""
    assert len(bench.given_up) == given_up
    assert {closed.state.name for closed in bench.segments()} == {"CLOSED"}
    bench.judge(whole=True)


def test_a_call_of_closing_four_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    refused(tmp_path, calls_of_closing(tmp_path)[::15], errno.EIO, 1)


def test_a_call_of_closing_four_is_the_last_and_nothing_durable_is_lost(tmp_path: Path) -> None:
    ended(tmp_path, calls_of_closing(tmp_path)[7::15], power=True, after=False)


@pytest.mark.slow(40)
@pytest.mark.parametrize(("number", "times"), [(errno.EIO, 1), (errno.ENOSPC, 5)])
def test_each_call_of_closing_four_is_refused_and_nothing_is_lost(tmp_path: Path, number: int, times: int) -> None:
    refused(tmp_path, calls_of_closing(tmp_path), number, times)


@pytest.mark.slow(40)
@pytest.mark.parametrize(("power", "after"), [(True, False), (True, True), (False, False)])
def test_each_call_of_closing_four_is_the_last_and_nothing_durable_is_lost(tmp_path: Path, power: bool, after: bool) -> None:
    ended(tmp_path, calls_of_closing(tmp_path), power=power, after=after)


class Meeting(Disk):
    """A real disk at which so many have to be, each with a finished file, before one of them goes on."""

    def __init__(self, parties: int) -> None:
        self.barrier = threading.Barrier(parties, timeout=WAIT)
        self.met: Callable[[], None] = lambda: None

    def sync_file(self, path: Path) -> None:
        self.barrier.wait()
        self.met()
        super().sync_file(path)


def offered(run: Any, kit: Any, cameras: int = CAMERAS) -> None:
    """A frame of each camera, durable."""
    for n in range(cameras):
        run.recording.frames(replace(kit.CAMERA, instrument=f"camera{n}")).offer(kit.frame(1))
    run.durable()


def test_segments_wait_for_the_disk_together_and_nothing_else_is_done_meanwhile(rig: Make, kit: Any) -> None:
    disk = Meeting(CAMERAS)
    run = rig(disk)
    offered(run, kit)
    order: list[str] = []
    before = run.state.closed

    def closed(segment: Closed) -> None:
        before(segment)
        order.append(segment.series)

    run.state.closed = closed
    disk.met = lambda: run.recorder.submit(lambda: order.append("another job"))
    segments = run.close()
    run.recorder.call(lambda: None).result(WAIT)
    assert order == [f"camera{n}/image" for n in range(CAMERAS)] + ["another job"] * CAMERAS
    assert [closed.ordinal for closed in segments] == [1, 2, 3, 4]
    kit.check_chain(segments)
    kit.check_signed(segments, run.facility)


class FirstIsLast(Disk):
    """A real disk that takes the file of the first camera when the others have their names."""

    def __init__(self) -> None:
        self.named = threading.Semaphore(0)

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.named.release()

    def sync_file(self, path: Path) -> None:
        if "_camera0_" in path.name:
            for _ in range(CAMERAS - 1):
                assert self.named.acquire(timeout=WAIT), "the others wait for it"
        super().sync_file(path)


def test_segments_are_handed_over_in_the_order_of_their_series_whichever_is_closed_first(rig: Make, kit: Any) -> None:
    run = rig(FirstIsLast())
    offered(run, kit)
    run.close()
    assert [closed.series for closed in run.closed.values()] == [f"camera{n}/image" for n in range(CAMERAS)]
    assert run.broken == []


def test_a_segment_that_closes_keeps_no_other_one_from_being_committed(rig: Make, kit: Any) -> None:
    run = rig()
    offered(run, kit, 2)
    one, other = (series.segment for series in run.recording.series())
    behind = other.confirmed_position
    other.append_leaf(b"\0\0\0\0\x7f")
    other.publish()
    with one.committing:
        thread = threading.Thread(target=run.recorder._commit, args=([one, other],), daemon=True)
        thread.start()
        thread.join(WAIT)
        assert not thread.is_alive()
        assert other.confirmed_position > behind
    other.abandon()


class Kept(Disk):
    """A real disk that removes no journal until it is told to."""

    def __init__(self) -> None:
        self.asked, self.told = threading.Event(), threading.Event()

    def unlink(self, path: Path) -> None:
        if path.name.endswith(JOURNAL):
            self.asked.set()
            assert self.told.wait(WAIT), "nobody told it"
        super().unlink(path)


def test_a_journal_is_removed_while_others_have_the_turn_and_its_run_is_over_when_it_is_gone(rig: Make, kit: Any) -> None:
    disk = Kept()
    run = rig(disk)
    offered(run, kit)
    (first, *_) = run.recording.series()
    run.recorder.call(lambda: first.roll("rolled")).result(WAIT)
    assert disk.asked.wait(WAIT)
    closing = run.recording.close("complete")
    run.recorder.call(lambda: None).result(WAIT)
    assert len(run.closed) == CAMERAS
    assert not closing.done()
    disk.told.set()
    closing.result(WAIT)
    assert sorted(path.name for path in run.folder.iterdir() if path.name.endswith((JOURNAL, PART))) == []


def test_a_journal_that_the_disk_does_not_let_go_is_left_to_the_next_start(rig: Make, kit: Any) -> None:
    run = rig(kit.Faulty("unlink", 1, times=10**9), patient=True)
    offered(run, kit)
    closing = run.recording.close("complete")
    run.recorder.call(lambda: None).result(WAIT)
    assert not closing.done()
    run.stop()
    closing.result(WAIT)
    left = kit.recover_all(run.folder, run.facility, run.session.chain)
    assert [closed.head for closed in left] == [closed.head for closed in run.segments()]
