"""What recovery makes of every state that a crash can leave, and of files that the disk damaged."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.errors import DiskError
from edge_agent.model import Block, Cause, Gap, Valid
from edge_agent.record import journal
from edge_agent.record.recovery import Damaged, NothingDurable, recover
from edge_agent.record.segment_writer import JOURNAL, PART
from edge_agent.record.series import Limits
from edge_agent.record.tree import Tree
from edge_agent.seal import leaf
from edge_agent.seal.head import State
from edge_agent.segment import layout
from edge_agent.storage import Disk

Make = Callable[..., Any]


@dataclass
class Crash:
    """A copy of a run's folder as SIGKILL leaves it, and what had been acknowledged by then."""

    folder: Path
    chain: Any
    facility: Any
    frames: list[int]
    values: list[float]
    confirmed: dict[str, int] = field(default_factory=dict)

    def again(self, to: Path) -> Path:
        """A fresh copy to break."""
        return shutil.copytree(self.folder, to, dirs_exist_ok=True)


@pytest.fixture
def crash(rig: Make, kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Crash:
    """Twelve frames with a gap, 1500 rows and two vendor files are durable; a little more was written and is not."""
    monkeypatch.setattr(layout, "ROW_CHUNK", 1024)
    run = rig()
    frames, mass = run.recording.frames(kit.CAMERA), run.recording.rows(kit.BALANCE)
    numbers = [*range(1, 9), *range(11, 15)]
    for number in numbers:
        frames.offer(kit.frame(number))
        mass.put_now(kit.rows(number * 200, 125))
    mass.put_now(kit.rows(0, valid=np.array([Valid.INITIAL], "|u1")))
    for name in ("a.dat", "b/c.dat"):
        run.recording.file(kit.VENDOR, kit.vendor_file(tmp_path / "vendor", name, name.encode() * 99), lambda *_: None).result(20)
    run.durable()
    # A head is due after a second of writing; here it is asked for, so that there is one over everything.
    for series in run.recording.series():
        series.segment._signed_at = 0.0
        with series.segment.committing:
            series.segment.commit()
            series.segment.commit()
    confirmed = {series.segment.name: series.segment.confirmed_position for series in run.recording.series()}
    with run.recorder._series[0].segment.committing, run.recorder._series[1].segment.committing:
        frames.offer(kit.frame(15))
        mass.put_now(kit.rows(9999))
        run.recorder.call(lambda: None).result(20)
        folder = shutil.copytree(run.folder, tmp_path / "crashed")
        for series in run.recording.series():
            segment = series.segment
            with (folder / (segment.name + JOURNAL)).open("ab") as file:
                file.write(segment._buffer)  # as if a sample had just been written
    values = [k * 0.5 for number in numbers for k in range(number * 200, number * 200 + 125)] + [0.0]
    return Crash(folder, run.session.chain, run.facility, numbers, values, confirmed)


def names(folder: Path) -> list[str]:
    return sorted(path.name.removesuffix(JOURNAL) for path in folder.glob(f"*{JOURNAL}"))


def test_everything_durable_is_recovered_byte_for_byte_and_verifies(crash: Crash, kit: Any, tmp_path: Path) -> None:
    segments = sorted(kit.recover_all(crash.folder, crash.facility, crash.chain), key=lambda closed: closed.ordinal)
    assert [closed.state for closed in segments] == [State.RECOVERED] * 3
    kit.check_signed(segments, crash.facility)
    kit.check_chain(segments)
    kit.independent_verifier([closed.path for closed in segments if closed.size], crash.facility.pem(tmp_path))
    frames = kit.recorded_frames(segments)
    assert list(frames) == [*crash.frames, 15]
    assert all(np.array_equal(picture, kit.image(number)) for number, picture in frames.items())
    assert kit.recorded_rows(segments) == [*crash.values, 9999 * 0.5]
    by_series = {closed.series: closed for closed in segments}
    assert by_series["camera/image"].counts == {"camera/image": 13}
    assert by_series["rows"].counts == {"balance/mass": 1501}, "the last known value is no event"
    assert by_series["files"].counts == {"scope/files": 2}
    assert by_series["camera/image"].last_seq == {"camera/image": 15}
    assert by_series["rows"].last_time == {"balance/mass": kit.T0 + 9999 + 5}
    assert [(g.first, g.last, g.cause) for g in by_series["camera/image"].gaps["camera/image"]] == [(9, 10, "source")]
    (gap,) = by_series["rows"].gaps["balance/mass"]
    assert (gap.cause, gap.count, gap.t_from) == ("crash", None, kit.T0 + 9999 + 5)
    with h5py.File(by_series["camera/image"].path) as frames_file, h5py.File(by_series["rows"].path) as rows_file:
        complete = [{name: column[()].tolist() for name, column in f["entry/completeness"].items()} for f in (frames_file, rows_file)]
    assert complete[0] | {"received": [13], "missing": [2], "gaps": [1], "expected": [15]} == complete[0]
    assert complete[1] | {"received": [1501], "gaps_of_unknown_size": [1], "expected": [-1]} == complete[1]
    assert kit.leaves_of(by_series["rows"])[-1].reason == "recovered"
    assert sorted(path.suffix for path in crash.folder.iterdir() if path.is_file()) == [".h5", ".h5"]


def test_a_resumed_run_goes_on_where_the_crash_left_off(crash: Crash, rig: Make, kit: Any) -> None:
    before = kit.recover_all(crash.folder, crash.facility, crash.chain)
    run = rig(folder=crash.folder, before=before)
    frames, mass = run.recording.frames(kit.CAMERA), run.recording.rows(kit.BALANCE)
    frames.gap(Gap(Cause.OVERFLOW, 30, 31))
    frames.offer(kit.frame(33))
    mass.put_now(kit.rows(20_000))
    mass.put_now(kit.rows(20_001))
    segments = run.close()
    kit.check_chain(segments)
    kit.check_signed(segments, run.facility)
    said = [(g.first, g.last, g.cause) for closed in segments[3:] for g in closed.gaps.get("camera/image", [])]
    assert said == [(16, 29, "crash"), (30, 31, "overflow"), (32, 32, "source")]
    (gap,) = [g for closed in segments[3:] for g in closed.gaps.get("balance/mass", [])]
    assert (gap.cause, gap.t_from, gap.t_to) == ("crash", kit.T0 + 9999 + 5, kit.T0 + 20_005)


def test_recovering_again_before_the_journal_is_gone_gives_the_same_segments(crash: Crash, kit: Any) -> None:
    session = crash.facility.boot()
    for name in names(crash.folder):
        args = (crash.folder, name, session, kit.DISK, lambda: kit.T0, kit.POLICY)
        first = recover(*args, chain=crash.chain)
        # Another boot, another key: what was signed once is what counts.
        again = recover(crash.folder, name, crash.facility.boot(), kit.DISK, lambda: kit.T0 + 1, kit.POLICY, chain=crash.chain)
        assert again == first


class Snapshots(Disk):
    """A real disk that keeps a copy of a folder before and after each call: what SIGKILL at that moment leaves."""

    def __init__(self, folder: Path, to: Path, acknowledged: Callable[[], Any]) -> None:
        self.folder, self.to, self.acknowledged = folder, to, acknowledged
        self.taken: list[tuple[Path, str, Any]] = []
        self.on = False
        self._lock = threading.RLock()  # nothing is renamed or removed by another thread while it is copied

    def _around(self, kind: str, call: Callable[[], Any]) -> Any:
        with self._lock:
            self._copy(f"before {kind}")
            result = call()
            self._copy(f"after {kind}")
            return result

    def _copy(self, what: str) -> None:
        if self.on:
            place = self.to / f"{len(self.taken):03d}"
            shutil.copytree(self.folder, place)
            self.taken.append((place, what, self.acknowledged()))

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        with self._lock:
            self._copy("before write")
            super().write(fd, data[: len(data) // 2])
            self._copy("amid write")
            super().write(fd, data[len(data) // 2 :])
            self._copy("after write")

    def open_append(self, path: Path) -> int:
        return self._around("open_append", lambda: super(Snapshots, self).open_append(path))

    def sync_data(self, fd: int) -> None:
        self._around("sync_data", lambda: super(Snapshots, self).sync_data(fd))

    def sync_file(self, path: Path) -> None:
        self._around("sync_file", lambda: super(Snapshots, self).sync_file(path))

    def cut(self, fd: int, size: int) -> None:
        self._around("cut", lambda: super(Snapshots, self).cut(fd, size))

    def rename(self, source: Path, target: Path) -> None:
        self._around("rename", lambda: super(Snapshots, self).rename(source, target))

    def unlink(self, path: Path) -> None:
        self._around("unlink", lambda: super(Snapshots, self).unlink(path))


def test_a_crash_at_any_step_of_closing_finishes_with_exactly_those_leaves(rig: Make, kit: Any, tmp_path: Path) -> None:
    run: Any = None
    folder = tmp_path / "spool" / "000001"
    disk = Snapshots(folder, tmp_path / "snapshots", lambda: set(run.closed))
    run = rig(disk, folder=folder)
    frames, mass = run.recording.frames(kit.CAMERA), run.recording.rows(kit.BALANCE)
    for number in (1, 2, 5):
        frames.offer(kit.frame(number))
        mass.put_now(kit.rows(number))
    taken = threading.Event()
    run.recording.file(kit.VENDOR, kit.vendor_file(tmp_path / "vendor", "a.dat", b"a"), lambda *_: taken.set()).result(20)
    run.durable()
    assert taken.wait(20)
    durable = {series.segment.opening.segment_id: series.segment.tree.frontier.size for series in run.recording.series()}
    disk.on = True
    segments = run.close()
    disk.on = False
    leaves = {closed.segment_id: kit.leaves_of(closed) for closed in segments}
    heads = {closed.segment_id: closed.head for closed in segments}
    seen = set()
    for place, what, closed_before in disk.taken:
        recovered = kit.recover_all(place, run.facility, run.session.chain)
        kit.check_signed(recovered, run.facility)
        assert closed_before <= set(leaves)
        for closed in recovered:
            said = kit.leaves_of(closed)
            whole = leaves[closed.segment_id]
            if closed.state is State.CLOSED:
                assert (said, closed.head) == (whole, heads[closed.segment_id]), what
            elif whole[: len(said)] == said:
                assert said == whole, what
            else:
                assert closed.state is State.RECOVERED, what
                assert said[-1].reason == "recovered", what
                assert said[: durable[closed.segment_id]] == whole[: durable[closed.segment_id]], what
            seen.add((closed.series, closed.state, said == whole))
        for series, value in (("camera/image", [1, 2, 5]), ("rows", [0.5, 1.0, 2.5])):
            # Whatever is not in a journal any more is closed, and in its place.
            there = [closed for closed in recovered if closed.series == series]
            if there:
                assert value == (list(kit.recorded_frames(there)) if series != "rows" else kit.recorded_rows(there)), what
            else:
                (only,) = [closed for closed in segments if closed.series == series]
                assert (place / only.path.name).read_bytes() == only.path.read_bytes(), what
    for series in ("camera/image", "rows", "files"):
        assert {(series, State.RECOVERED, False), (series, State.RECOVERED, True), (series, State.CLOSED, True)} <= seen


def test_a_crash_at_any_step_of_recovery_is_recovered_from(crash: Crash, kit: Any, tmp_path: Path) -> None:
    disk = Snapshots(crash.folder, tmp_path / "snapshots", lambda: None)
    disk.on = True
    kit.recover_all(crash.folder, crash.facility, crash.chain, disk)
    assert len(disk.taken) > 15
    for place, what, _ in disk.taken:
        recovered = kit.recover_all(place, crash.facility, crash.chain)
        kit.check_signed(recovered, crash.facility)
        for closed in recovered:
            if closed.series == "camera/image":
                assert list(kit.recorded_frames([closed])) == [*crash.frames, 15], what
                assert closed.counts == {"camera/image": 13}, what
            elif closed.series == "rows":
                assert kit.recorded_rows([closed]) == [*crash.values, 9999 * 0.5], what
                assert closed.counts == {"balance/mass": 1501}, what
            else:
                assert closed.counts == {"scope/files": 2}, what
        assert [path.name for path in place.iterdir() if path.suffix in (PART, JOURNAL)] == [], what


@pytest.mark.parametrize("kind", ["reopen", "sync_file", "rename", "sync_folder", "unlink", "write", "sync_data"])
def test_a_disk_that_fails_during_recovery_is_asked_again_and_nothing_is_lost(crash: Crash, kit: Any, kind: str) -> None:
    for at in (1, 2):
        folder = crash.again(crash.folder.with_name(f"at{at}"))
        disk = kit.Faulty(kind, at)
        for _ in range(2):
            try:
                kit.recover_all(folder, crash.facility, crash.chain, disk)
            except DiskError:
                continue
            break
        assert names(folder) == []
        assert [path for path in folder.iterdir() if path.suffix not in (".h5", "")] == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_journal_torn_anywhere_behind_what_was_acknowledged_loses_nothing_of_it(
    crash: Crash, kit: Any, tmp_path: Path, data: Any
) -> None:
    name = data.draw(st.sampled_from(names(crash.folder)))
    folder = crash.again(tmp_path / "torn")
    path = folder / (name + JOURNAL)
    whole = path.read_bytes()
    cut = data.draw(st.integers(crash.confirmed[name], len(whole)))
    path.write_bytes(whole[:cut] + bytes(data.draw(st.sampled_from([0, 0, 3, 64]))))
    closed = recover(folder, name, crash.facility.boot(), kit.DISK, lambda: kit.T0, kit.POLICY, chain=crash.chain)
    kit.check_signed([closed], crash.facility)
    if closed.series == "camera/image":
        assert list(kit.recorded_frames([closed]))[:12] == crash.frames
    elif closed.series == "rows":
        assert kit.recorded_rows([closed])[: len(crash.values)] == crash.values
    else:
        assert closed.counts == {"scope/files": 2}
    shutil.rmtree(folder)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_flipped_byte_in_a_journal_is_noticed_or_costs_only_what_no_head_covers(
    crash: Crash, kit: Any, tmp_path: Path, data: Any
) -> None:
    name = data.draw(st.sampled_from(names(crash.folder)))
    folder = crash.again(tmp_path / "flipped")
    path = folder / (name + JOURNAL)
    broken = bytearray(path.read_bytes())
    broken[data.draw(st.integers(0, len(broken) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(broken)
    before = {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file()}
    try:
        closed = recover(folder, name, crash.facility.boot(), kit.DISK, lambda: kit.T0, kit.POLICY, chain=crash.chain)
    except Damaged:  # never NothingDurable: its files would be removed
        assert {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file()} == before
    else:
        kit.check_signed([closed], crash.facility)
        if closed.series == "camera/image":
            assert list(kit.recorded_frames([closed]))[:12] == crash.frames
    shutil.rmtree(folder)


@pytest.mark.parametrize("which", ["first", "last", "missing"])
def test_a_durable_chunk_with_other_bytes_is_damage_and_no_file_is_touched(crash: Crash, kit: Any, which: str) -> None:
    (name,) = [name for name in names(crash.folder) if "camera" in name]
    part = crash.folder / (name + PART)
    chunks = []
    for entry in journal.scan((crash.folder / (name + JOURNAL)).read_bytes()):
        parsed = leaf.parse(entry.payload) if isinstance(entry, journal.LeafFrame) else None
        if isinstance(parsed, leaf.Chunk) and parsed.seq_first != leaf.NO_COUNTER:
            chunks.append((entry.offset, parsed))
    data = bytearray(part.read_bytes())
    if which == "missing":
        part.unlink()
    else:
        offset, _ = chunks[0 if which == "first" else 11]
        data[offset + 100] ^= 0x40
        part.write_bytes(data)
    before = {each.name: each.read_bytes() for each in crash.folder.iterdir() if each.is_file()}
    with pytest.raises(Damaged, match=rf"{name}: the journal holds a head over \d+ leaves, \d+ can be read back") as failure:
        recover(crash.folder, name, crash.facility.boot(), kit.DISK, lambda: kit.T0, kit.POLICY, chain=crash.chain)
    assert failure.value.why
    assert "smartctl" in failure.value.try_
    assert {each.name: each.read_bytes() for each in crash.folder.iterdir() if each.is_file()} == before


def test_a_chunk_that_was_never_acknowledged_may_have_any_bytes(crash: Crash, kit: Any) -> None:
    (name,) = [name for name in names(crash.folder) if "camera" in name]
    part = crash.folder / (name + PART)
    data = bytearray(part.read_bytes())
    entries = journal.scan((crash.folder / (name + JOURNAL)).read_bytes())
    *_, last = [entry for entry in entries if isinstance(entry, journal.LeafFrame)]
    data[last.offset : last.offset + 768] = bytes(768)
    part.write_bytes(data)
    (closed,) = [c for c in kit.recover_all(crash.folder, crash.facility, crash.chain) if c.series == "camera/image"]
    assert list(kit.recorded_frames([closed])) == crash.frames
    assert closed.counts == {"camera/image": 12}
    kit.check_signed([closed], crash.facility)


def test_a_finished_file_with_other_bytes_is_damage(rig: Make, kit: Any) -> None:
    run = rig()
    run.state.closed = lambda closed: run.closed.update({closed.segment_id: closed})  # the journal stays
    run.recording.frames(kit.CAMERA).offer(kit.frame(1))
    (closed,) = run.close()
    good = closed.path.read_bytes()
    at = good.index(kit.image(1).tobytes())
    closed.path.write_bytes(good[:at] + b"!" + good[at + 1 :])
    with pytest.raises(Damaged, match="the finished file is not what was signed"):
        recover(run.folder, closed.path.name, run.facility.boot(), kit.DISK, lambda: kit.T0, kit.POLICY, chain=run.session.chain)
    closed.path.write_bytes(good)
    again = recover(run.folder, closed.path.name, run.facility.boot(), kit.DISK, lambda: kit.T0, kit.POLICY, chain=run.session.chain)
    assert again == closed
    assert closed.path.read_bytes() == good


def test_bytes_of_an_instrument_that_look_like_a_head_do_not_make_a_torn_journal_damaged(rig: Make, kit: Any, tmp_path: Path) -> None:
    run = rig()
    frames = run.recording.frames(kit.CAMERA)
    frames.offer(kit.frame(1))
    run.durable()
    run.close()
    tree = Tree(b"x" * 16, run.session)
    for _ in range(100):
        tree.append(b"HSC1\x03x")
    forged = journal.frame(journal.Frame.HEAD, tree.sign(tree.frontier, State.OPEN, anchor=True).cose)
    second = rig(folder=tmp_path / "spool" / "000002")
    stream = replace(kit.BALANCE, dtype=f"|S{len(forged) + 8}", unit="")
    lines = second.recording.rows(stream)
    lines.put_now(Block(np.array([forged + b"!" * 8], stream.dtype), *(np.array([kit.T0], "<i8"),) * 2))
    second.durable()
    folder = shutil.copytree(second.folder, tmp_path / "crashed2")
    (path,) = folder.glob(f"*{JOURNAL}")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(forged) + len(forged) + 4])
    (closed,) = kit.recover_all(folder, second.facility, second.session.chain)
    assert closed.counts == {"balance/mass": 0}


@pytest.mark.parametrize("data", [b"", b"HSCJ", b"\0" * 100, journal.Opening("x", b"").frame()])
def test_a_journal_without_its_opening_holds_nothing(kit: Any, facility: Any, tmp_path: Path, data: bytes) -> None:
    (tmp_path / f"a.h5{JOURNAL}").write_bytes(data)
    with pytest.raises(NothingDurable):
        recover(tmp_path, "a.h5", facility.boot(), kit.DISK, lambda: 0, kit.POLICY, chain=None)


@pytest.mark.parametrize("at", [0, 20])
def test_a_journal_with_a_damaged_opening_is_damage_and_not_empty(crash: Crash, kit: Any, at: int) -> None:
    for name in names(crash.folder):
        path = crash.folder / (name + JOURNAL)
        broken = bytearray(path.read_bytes())
        broken[at] ^= 1
        path.write_bytes(broken)
        with pytest.raises(Damaged, match="has a beginning that cannot be read"):
            recover(crash.folder, name, crash.facility.boot(), kit.DISK, lambda: kit.T0, kit.POLICY, chain=crash.chain)


def test_an_empty_journal_beside_what_it_was_written_for_is_damage(crash: Crash, rig: Make, kit: Any) -> None:
    (name,) = [name for name in names(crash.folder) if "camera" in name]
    with (crash.folder / (name + PART)).open("ab") as file:
        file.truncate(2 << 20)
    run = rig(folder=crash.folder / "other")
    run.state.closed = lambda closed: run.closed.update({closed.segment_id: closed})  # the journal stays
    run.recording.frames(kit.CAMERA).offer(kit.frame(1))
    (closed,) = run.close()
    for folder, each in ((crash.folder, name), (run.folder, closed.path.name)):
        (folder / (each + JOURNAL)).write_bytes(b"")
        with pytest.raises(Damaged, match="its journal has lost what it held"):
            recover(folder, each, crash.facility.boot(), kit.DISK, lambda: kit.T0, kit.POLICY, chain=crash.chain)


def test_a_run_killed_while_it_opens_a_segment_leaves_no_hole_in_the_numbers(rig: Make, kit: Any, tmp_path: Path) -> None:
    folder = tmp_path / "spool" / "000001"
    disk = Snapshots(folder, tmp_path / "snapshots", lambda: None)
    folder.mkdir(parents=True)
    disk.on = True
    run = rig(disk, folder=folder, frame_limits=Limits(size=2 * 768, min_age=0.0))
    frames, mass = run.recording.frames(kit.CAMERA), run.recording.rows(kit.BALANCE)
    mass.put_now(kit.rows(1))
    for number in range(1, 4):
        frames.offer(kit.frame(number))
    run.durable()
    disk.on = False
    for place, what, _ in disk.taken[::2]:
        recovered = kit.recover_all(place, run.facility, run.session.chain)
        closed = {path.name for path in place.glob("*.h5")}
        assert sorted(int(name[-9:-3]) for name in closed) == list(range(1, len(closed) + 1)), what
        kit.check_signed(recovered, run.facility)


def test_a_recovered_segment_of_a_detector_says_its_geometry(rig: Make, kit: Any, tmp_path: Path) -> None:
    run = rig()
    told = {key: "Si" if key in ("source", "sensorMaterial") else {"value": None, "reason": "not configured"} for key in (
        "source", "wavelength", "distance", "beamCenter", "pixelSize", "fastDirection", "slowDirection", "sensorMaterial", "sensorThickness",
    )}  # fmt: skip
    camera = {"name": "camera", "delivers": ["frames"], "detector": told}
    run.state.record = lambda: json.dumps({"instruments": [camera], "sample": {"name": "steel"}})
    frames = run.recording.frames(kit.CAMERA)
    frames.offer(kit.frame(1))
    run.durable()
    folder = shutil.copytree(run.folder, tmp_path / "crashed")
    (closed,) = kit.recover_all(folder, run.facility, run.session.chain)
    kit.check_signed([closed], run.facility)
    with h5py.File(closed.path) as file:
        entry = file["entry"]
        assert entry["definition"].asstr()[()] == "NXmx"
        assert entry["instrument/camera/data"].shape == (1, 16, 24)
        assert entry["instrument/camera/_module/data_size"][()].tolist() == [16, 24]
        assert entry["end_time_estimated"][()] >= entry["start_time"][()]
