"""A disk that fails at any moment: nothing that was acknowledged is lost, nothing is there twice, every segment verifies."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from edge_agent.errors import DiskError
from edge_agent.model import Cause, Gap, Reset
from edge_agent.record.items import AdoptedItem
from edge_agent.record.segment_writer import SegmentWriter
from edge_agent.record.series import Limits
from edge_agent.seal import leaf
from edge_agent.seal.meta import MetaObject
from edge_agent.segment import integrity, layout
from edge_agent.segment.file import SegmentFile
from edge_agent.storage import DISK, disk_error
from edge_agent.storage.faults import Fault, Faults
from edge_agent.storage.memory import Memory

Make = Callable[..., Any]
LIMITS = Limits(size=16 << 10, min_age=0.0)


def adopt(run: Any, kit: Any, item: Any, durable: list[str]) -> None:
    """As an adapter does: a copy that the disk refuses is tried again."""
    for _ in range(100):
        with contextlib.suppress(DiskError):
            run.recording.file(kit.VENDOR, item, lambda path, _: durable.append(path)).result(20)
            return
    raise AssertionError("the file was never taken")


async def reference(run: Any, kit: Any, folder: Path) -> list[str]:
    """A short run with everything in it; returns the paths of the files that became durable."""
    durable: list[str] = []
    frames, mass = run.recording.frames(kit.CAMERA), run.recording.rows(kit.BALANCE)
    for number in range(1, 13):
        if number == 4:
            frames.gap(Gap(Cause.OVERFLOW, 4, 5, detail="declared"))
        elif number == 9:
            frames.reset(Reset(Cause.RESTART, 8, 100))
            frames.offer(kit.frame(100))
        elif number != 5:
            assert frames.offer(kit.frame(number if number < 9 else number + 92))
        await mass.put(kit.rows(number * 10, 10))
        if number == 6:
            mass.gap(Gap(Cause.DISCONNECT, t_from=kit.T0, t_to=kit.T0 + 1, detail="declared"))
            item = kit.vendor_file(folder, "x.dat", b"vendor")
            adopt(run, kit, item, durable)
        if number % 4 == 0:
            await asyncio.to_thread(run.durable)
    return durable


def check(run: Any, kit: Any, durable: list[str]) -> None:
    segments = run.segments()
    kit.check_chain(segments)
    kit.check_signed(segments, run.facility)
    assert list(kit.recorded_frames(segments)) == [1, 2, 3, 6, 7, 8, 100, 102, 103, 104]
    for number, picture in kit.recorded_frames(segments).items():
        assert np.array_equal(picture, kit.image(number))
    assert kit.recorded_rows(segments) == [n * 0.5 for n in range(10, 130)]
    gaps = [(key, g.first, g.last, g.cause) for closed in segments for key, gaps in closed.gaps.items() for g in gaps]
    assert sorted(gaps, key=str) == sorted(
        [("camera/image", 4, 5, "overflow"), ("camera/image", 101, 101, "source"), ("balance/mass", None, None, "disconnect")], key=str
    )
    resets = [each for closed in segments for each in kit.leaves_of(closed) if isinstance(each, leaf.SeqReset)]
    assert [(each.last, each.first) for each in resets] == [(8, 100)]
    files = [each.path for closed in segments for each in kit.leaves_of(closed) if isinstance(each, leaf.FileLeaf)]
    assert files == durable == ["files/scope/x.dat"]
    assert sorted(p.name for p in run.folder.iterdir()) == sorted(["files", *(c.path.name for c in segments if c.size)])
    assert run.room.used == 0
    assert run.recorder._encoders._buffers._held == sum(len(idle) * size for size, idle in run.recorder._encoders._buffers._idle.items())


KINDS = ["open_append", "reopen", "write", "sync_data", "sync_file", "sync_folder", "rename", "unlink"]


@pytest.mark.parametrize("kind", KINDS)
async def test_one_failure_anywhere_loses_and_doubles_nothing(
    rig: Make, kit: Any, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    disk = kit.Faulty()
    run = rig(disk, frame_limits=LIMITS, folder=tmp_path / "count" / "000001")
    check_files = await reference(run, kit, tmp_path / "vendor")
    run.close()
    check(run, kit, check_files)
    count = disk.calls[kind]
    # Calls are not in the same order each time, so each place is met by a few of these.
    for at in sorted({1, 3, count // 3, count // 2, count - 1, count} - {0}):
        number = (errno.EIO, errno.ENOSPC)[at % 2]
        disk = kit.Faulty(kind, at, number, times=1 + at % 3)
        run = rig(disk, frame_limits=LIMITS, folder=tmp_path / f"at{at}" / "000001")
        durable = await reference(run, kit, tmp_path / "vendor")
        run.close()
        check(run, kit, durable)


async def test_a_disk_that_stays_full_for_a_while_stops_nothing_for_good(rig: Make, kit: Any, tmp_path: Path) -> None:
    disk = kit.Faulty("write", 5, errno.ENOSPC, times=40)
    run = rig(disk, frame_limits=LIMITS)
    durable = await reference(run, kit, tmp_path / "vendor")
    run.close()
    check(run, kit, durable)
    assert len(run.errors) >= 1
    assert {error.code for error in run.errors} == {"DISK_FULL"}


class Breaking:
    """Makes HDF5 fail once, at the n-th chunk, as it fails on a full disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, error: Exception) -> None:
        self.calls, self.at, self.error = 0, at, error
        real = SegmentFile.write_chunk

        def write_chunk(file: SegmentFile, *args: Any) -> int:
            self.calls += 1
            if self.calls == self.at:
                raise self.error
            return real(file, *args)

        monkeypatch.setattr(SegmentFile, "write_chunk", write_chunk)


@pytest.mark.parametrize("at", [1, 2, 5, 9, 14, 20])
async def test_hdf5_that_cannot_write_a_chunk_costs_a_segment_and_no_frame(
    rig: Make, kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    text = "Can't write unprocessed chunk data (file write failed: errno = 28, error message = 'No space left on device')"
    error = OSError(errno.ENOSPC, text) if at % 2 else RuntimeError(text)
    Breaking(monkeypatch, at, error)
    run = rig(frame_limits=LIMITS)
    durable = await reference(run, kit, tmp_path / "vendor")
    run.close()
    check(run, kit, durable)
    assert [e.code for e in run.errors] == ["DISK_FULL"]


@pytest.mark.expects_errors
async def test_an_item_that_fails_for_another_reason_is_declared_and_the_others_are_recorded(
    rig: Make, kit: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = rig()
    frames = run.recording.frames(kit.CAMERA)
    frames.offer(kit.frame(1))
    run.durable()
    Breaking(monkeypatch, 1, TypeError("a bug"))
    for number in (2, 3, 4):
        frames.offer(kit.frame(number))
    run.durable()
    segments = run.close()
    kit.check_chain(segments)
    kit.check_signed(segments, run.facility)
    assert list(kit.recorded_frames(segments)) == [1, 3, 4]
    (gap,) = [g for closed in segments for g in closed.gaps.get("camera/image", [])]
    assert (gap.first, gap.last, gap.cause, gap.detail) == (2, 2, "overload", "could not be recorded: TypeError")
    assert "TypeError: a bug" in caplog.text
    assert run.room.used == 0


@pytest.mark.expects_errors
def test_a_frame_that_cannot_be_encoded_is_declared_and_the_others_are_recorded(
    rig: Make, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = rig()
    frames = run.recording.frames(kit.CAMERA)
    real = run.recorder._encoders._buffers.take
    calls: list[int] = []

    def take(nbytes: int) -> Any:
        calls.append(nbytes)
        if len(calls) == 2:
            raise MemoryError
        return real(nbytes)

    monkeypatch.setattr(run.recorder._encoders._buffers, "take", take)
    for number in (1, 2, 3):
        frames.offer(kit.frame(number))
        run.recorder.call(lambda: None).result(20)
    (closed,) = run.close()
    assert list(kit.recorded_frames([closed])) == [1, 3]
    assert [(g.first, g.last, g.detail) for g in closed.gaps["camera/image"]] == [(2, 2, "could not be recorded: MemoryError")]
    assert run.room.used == 0


@pytest.mark.expects_errors
async def test_rows_that_cannot_be_written_are_declared_with_their_number(rig: Make, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "ROW_CHUNK", 1024)
    run = rig()
    mass = run.recording.rows(kit.BALANCE)
    await mass.put(kit.rows(1))
    run.durable()
    Breaking(monkeypatch, 1, TypeError("a bug"))
    await mass.put(kit.rows(2, 1500))
    await mass.put(kit.rows(9000))
    segments = run.close()
    kit.check_chain(segments)
    kit.check_signed(segments, run.facility)
    assert kit.recorded_rows(segments) == [0.5, 4500.0]
    assert 1500 in [g.count for closed in segments for g in closed.gaps.get("balance/mass", [])]


@pytest.mark.expects_errors
def test_a_segment_that_cannot_be_closed_is_made_from_its_journal_and_the_others_close(
    rig: Make, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = rig()
    run.recording.frames(kit.CAMERA).offer(kit.frame(1))
    run.recording.rows(kit.BALANCE).put_now(kit.rows(1))
    run.durable()
    real, failed = SegmentWriter.close, []

    def close(segment: SegmentWriter, *args: Any) -> Any:
        if segment.opening.series == "camera/image" and not failed:
            failed.append(segment.name)
            raise RuntimeError("a bug")
        return real(segment, *args)

    monkeypatch.setattr(SegmentWriter, "close", close)
    with pytest.raises(RuntimeError, match="a bug"):
        run.close()
    segments = run.segments()
    kit.check_chain(segments)
    kit.check_signed(segments, run.facility)
    assert list(kit.recorded_frames(segments)) == [1]
    assert kit.recorded_rows(segments) == [0.5]


@pytest.mark.expects_errors
def test_a_callback_that_fails_stops_neither_thread(rig: Make, kit: Any, tmp_path: Path) -> None:
    run = rig(frame_limits=Limits(size=2 * 768, min_age=0.0))
    before, failures = run.state.closed, [KeyError("the book"), DiskError("full"), DiskError("full")]

    def closed(segment: Any) -> None:
        if failures:
            raise failures.pop(0)
        before(segment)

    def durable(path: str, _: bytes) -> None:
        raise KeyError(path)

    run.state.closed = closed
    frames = run.recording.frames(kit.CAMERA)
    item = kit.vendor_file(tmp_path / "vendor", "x.dat", b"x")
    run.recording.file(kit.VENDOR, item, durable).result(20)
    for number in range(1, 10):
        frames.offer(kit.frame(number))
    run.durable()
    segments = run.close()
    assert run.recorder.alive()
    # The one whose callback failed still has its journal: the next start hands it over. A full disk is asked again.
    assert len(list(run.folder.glob("*.journal"))) == 1
    left = kit.recover_all(run.folder, run.facility, run.session.chain)
    assert list(kit.recorded_frames(sorted([*segments, *left], key=lambda c: c.ordinal))) == list(range(1, 10))


@pytest.mark.expects_errors
def test_a_commit_that_fails_for_another_reason_moves_the_series_on(rig: Make, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = rig()
    frames = run.recording.frames(kit.CAMERA)
    frames.offer(kit.frame(1))
    run.durable()
    real, failures = SegmentWriter.sample, [RuntimeError("a bug")]

    def sample(segment: SegmentWriter) -> Any:
        if failures:
            raise failures.pop()
        return real(segment)

    monkeypatch.setattr(SegmentWriter, "sample", sample)
    frames.offer(kit.frame(2))
    run.durable()
    segments = run.close()
    assert list(kit.recorded_frames(segments)) == [1, 2]
    assert [error.code for error in run.errors] == ["COMMIT_FAILED"]
    kit.check_chain(segments)


@pytest.mark.expects_errors
async def test_a_segment_that_cannot_be_closed_by_age_does_not_end_the_writer(rig: Make, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.record.recorder.TICK", 0.02)
    run = rig(row_limits=Limits(max_age=0.05))
    tried = asyncio.Event()
    loop = asyncio.get_running_loop()
    before = run.state.closed

    def closed(segment: Any) -> None:
        run.state.closed = before
        loop.call_soon_threadsafe(tried.set)
        raise KeyError("the book")

    run.state.closed = closed
    mass = run.recording.rows(kit.BALANCE)
    await mass.put(kit.rows(1))
    await asyncio.wait_for(tried.wait(), 20)
    await mass.put(kit.rows(2))
    await asyncio.to_thread(run.durable)
    run.close()
    assert run.recorder.alive()
    segments = [*run.segments(), *kit.recover_all(run.folder, run.facility, run.session.chain)]
    assert sorted(kit.recorded_rows(segments)) == [0.5, 1.0]


@pytest.mark.expects_errors
def test_a_broken_segment_whose_recovery_fails_waits_for_the_next_start(rig: Make, kit: Any) -> None:
    run = rig(kit.Faulty("sync_data", 4, times=2))
    run.state.broken = lambda segment: run.broken.append(1 / 0)
    frames = run.recording.frames(kit.CAMERA)
    for number in (1, 2, 3):
        frames.offer(kit.frame(number))
        run.durable()
    segments = run.close()
    (left,) = kit.recover_all(run.folder, run.facility, run.session.chain)
    segments = sorted([*segments, left], key=lambda closed: closed.ordinal)
    assert list(kit.recorded_frames(segments)) == [1, 2, 3]
    kit.check_signed(segments, run.facility)


def test_a_folder_that_cannot_be_made_is_a_disk_error(kit: Any, facility: Any, tmp_path: Path) -> None:
    (tmp_path / "spool").write_bytes(b"a file where a folder belongs")
    opening = leaf.Open(facility.agent_id, b"r" * 16, 1, 1, None, bytes(32), b"b" * 16, b"s" * 16, "files")
    with pytest.raises(DiskError, match="creating the folder 000001"):
        SegmentWriter(tmp_path / "spool" / "000001", "a.h5", opening, b"", facility.boot(), kit.DISK, with_data=False)


def test_a_cancelled_wait_for_the_end_of_a_run_ends_it_all_the_same(rig: Make, kit: Any) -> None:
    disk = kit.Gated()
    run = rig(disk)
    run.recording.frames(kit.CAMERA).offer(kit.frame(1))
    run.durable()
    disk.open.clear()
    assert run.recording.close("complete").cancel()
    disk.open.set()
    run.recorder.call(lambda: None).result(20)
    assert list(kit.recorded_frames(run.segments())) == [1]


@pytest.mark.expects_errors
def test_a_recorder_stops_although_the_disk_never_takes_anything_again(rig: Make, kit: Any) -> None:
    disk = kit.Faulty()
    run = rig(disk, patient=True)
    frames = run.recording.frames(kit.CAMERA)
    frames.offer(kit.frame(1))
    run.durable()
    disk.kind, disk.at, disk.times = "write", 0, 10**9
    for number in range(2, 20):
        frames.offer(kit.frame(number))
    closing = run.recording.close("complete")
    run.stop()
    assert isinstance(closing.exception(5), DiskError)
    assert not run.recorder.alive()
    disk.times = 0
    left = [*run.segments(), *kit.recover_all(run.folder, run.facility, run.session.chain)]
    assert list(kit.recorded_frames(left)) == [1]
    kit.check_signed(left, run.facility)


def test_nothing_is_confirmed_by_a_commit_that_was_waiting_while_another_failed(kit: Any, tmp_path: Path) -> None:
    facility, disk = kit.Facility(), kit.Faulty("write", 2)
    opening = leaf.Open(facility.agent_id, b"r" * 16, 1, 1, None, bytes(32), b"b" * 16, b"s" * 16, "files")
    segment = SegmentWriter(tmp_path, "a.h5", opening, b"", facility.boot(), disk, with_data=False)
    before = segment.confirmed_position
    segment.append_leaf(leaf.FileLeaf("files/a/b", 1, bytes(32), bytes(32), 0).payload())
    segment.publish()
    for _ in range(2):
        with pytest.raises(DiskError):
            segment.commit()
    with pytest.raises(DiskError):
        segment.close({}, bytes(32), "", "rolled")
    assert segment.abandon() == []
    assert segment.confirmed_position == before == segment.journal_path.stat().st_size


@pytest.mark.parametrize("method", ["write", "sync_data"])
def test_what_a_segment_gives_back_when_it_is_abandoned_is_gone_from_its_journal(kit: Any, tmp_path: Path, method: str) -> None:
    """SIGKILL between the giving up and the recovery: the next start must not find the items that another segment gets."""
    facility, disk = kit.Facility(), Faults(DISK)
    session = facility.boot()
    opening = leaf.Open(facility.agent_id, b"r" * 16, 1, 1, None, kit.POLICY, session.boot_id, b"s" * 16, "files")
    segment = SegmentWriter(tmp_path, "a.h5", opening, b"", session, disk, with_data=False)

    def settle(name: str) -> AdoptedItem:
        vendor = kit.vendor_file(tmp_path / "vendor", name, b"data")
        item = AdoptedItem("scope/files", vendor, f"files/scope/{name}", bytes(32), bytes(32), lambda: None)
        segment.append_leaf(leaf.FileLeaf(item.path, 4, bytes(32), bytes(32), 0).payload())
        segment.settle(item)
        return item

    settle("kept")
    segment.commit()
    durable = segment.confirmed_position
    given_back = [settle("first"), settle("second")]
    disk.fault = Fault(len(disk.calls) + (1 if method == "write" else 2), errno.EIO)
    with pytest.raises(DiskError):
        segment.commit()
    assert disk.calls[-1][0] == method
    assert segment.journal_path.stat().st_size > durable
    assert segment.abandon() == given_back
    assert segment.journal_path.stat().st_size == durable
    (closed,) = kit.recover_all(tmp_path, facility, session.chain)
    assert [each.path for each in map(leaf.parse, closed.leaves) if isinstance(each, leaf.FileLeaf)] == ["files/scope/kept"]


def test_no_descriptor_is_left_open_by_segments_that_failed(rig: Make, kit: Any) -> None:
    run = rig(kit.Faulty("sync_data", 2, times=6))
    frames = run.recording.frames(kit.CAMERA)
    for number in range(1, 30):
        frames.offer(kit.frame(number))
    run.close()
    assert run.broken
    folder = str(run.folder)
    held = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
    assert [path for path in held if path.startswith(folder)] == []


def test_a_full_disk_fills_and_empties_again_and_nothing_is_lost(tmp_path: Path) -> None:
    """A real one: a small file system in a mount namespace of its own."""
    program = Path(__file__).with_name("full_disk_child.py")
    rooted = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *rooted, "--mount", sys.executable, str(program), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, cwd=Path.cwd())
    assert done.stdout.strip() == "sound", done.stdout + done.stderr


@pytest.mark.parametrize("table", ["leaves", "events", "heads", "descriptors"])
def test_tables_that_the_disk_lost_without_hdf5_saying_so_cost_a_segment_and_no_frame(
    rig: Make, kit: Any, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    real, broken = integrity.write, []

    def write(file: h5py.File, made: Mapping[str, MetaObject]) -> None:
        real(file, made)
        if not broken:
            broken.append(table)
            dataset = file[f"{integrity.PATH}/{table}"]
            dataset[...] = np.zeros(dataset.shape, np.uint8)

    monkeypatch.setattr(integrity, "write", write)
    run = rig()
    frames = run.recording.frames(kit.CAMERA)
    for number in range(1, 6):
        assert frames.offer(kit.frame(number))
    segments = run.close()
    assert broken == [table]
    kit.check_signed(segments, run.facility)
    kit.check_chain(segments)
    assert list(kit.recorded_frames(segments)) == [1, 2, 3, 4, 5]


def test_a_name_that_was_not_made_durable_is_before_its_journal_goes(kit: Any, facility: Any) -> None:
    class Unsynced(Faults):
        """Its folder's sync fails once behind a rename."""

        renamed = False

        def rename(self, source: Path, target: Path) -> None:
            super().rename(source, target)
            self.renamed = True

        def sync_folder(self, path: Path) -> None:
            if self.renamed:
                self.renamed = False
                raise disk_error(f"making the folder {path.name} durable", OSError(errno.EIO, os.strerror(errno.EIO)))
            super().sync_folder(path)

    memory = Memory(Path("/spool"))
    run = kit.Rig(Path("/spool/000001"), facility, Unsynced(memory))
    run.recording.frames(kit.CAMERA).offer(kit.frame(1))
    (closed,) = run.close()
    run.stop()
    assert run.broken == [closed.path.name]
    for seed in range(40):
        left = memory.after_power_loss(random.Random(seed))
        assert left.exists(closed.path) or left.exists(closed.journal_path), "data without a name and without a journal"
