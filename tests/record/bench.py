"""A recorder without threads, over any storage, that dies and starts again; and the judge of what it leaves.

One run with cameras, a balance and a folder of vendor files. Everything the recorder's threads would do is done here by calls, in an order
that a test chooses, so that a history is the same every time. The books that the outbox keeps are a dictionary that survives (`handed`).
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from edge_agent.codec import encoder
from edge_agent.errors import DiskError
from edge_agent.model import NO_SEQ, Cause, Gap, Reset, RunContext
from edge_agent.record import journal
from edge_agent.record.adopt import adopt
from edge_agent.record.closing import close_all
from edge_agent.record.file_series import FileSeries
from edge_agent.record.frame_series import FrameSeries
from edge_agent.record.items import AdoptedItem, Encoded, FrameItem, GapItem, Item, ResetItem, RowsItem, frame_row, rows_item
from edge_agent.record.recovery import REBUILT, NothingDurable, recover
from edge_agent.record.room import Charge
from edge_agent.record.row_series import RowSeries
from edge_agent.record.segment_writer import JOURNAL, PART, Closed, SegmentWriter
from edge_agent.record.series import RunState, Series
from edge_agent.seal import leaf
from edge_agent.seal.cbor import loads
from edge_agent.seal.dsd import parse_dsd
from edge_agent.seal.keys import key_chain
from edge_agent.segment import hdf5, integrity, reader
from edge_agent.segment.peek import CODECS
from edge_agent.segment.verify import verify_segment
from edge_agent.storage import Storage
from edge_agent.storage.faults import Faults
from edge_agent.storage.memory import Memory
from tests.record import conftest as kit

ROOT = Path("/spool")
FOLDER = ROOT / "runs" / "000001"
RUN = RunContext(b"r" * 16, 1, "p", "g", kit.T0, "p/g/d/000001")
PATIENCE = 40
"""How often a disk is asked again within one call: a fault that lasts must end before."""


@dataclass
class Shots:
    """The frames of one camera."""

    number: int = 0
    sent: list[int] = field(default_factory=list)
    durable: set[int] = field(default_factory=set)


@dataclass
class Told:
    """What was given to the recorder, and what it acknowledged; the truth of the instruments."""

    shots: dict[str, Shots] = field(default_factory=dict)
    values: list[float] = field(default_factory=list)
    durable_values: set[float] = field(default_factory=set)
    files: dict[str, bytes] = field(default_factory=dict)
    durable_files: set[str] = field(default_factory=set)
    crashes: int = 0


@dataclass
class NotedCharge(Charge):
    """Room for one frame; ``raw``: it is kept raw until it is durable, and not encoded."""

    raw: bool
    leave: Callable[[], None]

    def keep(self) -> bool:
        return self.raw

    def shrink(self, size: int) -> None: ...


class NotedFrame(FrameItem):
    """Being dropped is no acknowledgement."""

    __slots__ = ()

    def drop(self) -> None: ...


class NotedRows(RowsItem):
    """Being dropped is no acknowledgement."""

    __slots__ = ()

    def drop(self) -> None: ...


class AtOnce(Executor):
    """Does each job as it comes, on the thread that brings it."""

    def submit(self, job: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(job(*args, **kwargs))
        except BaseException as error:
            done.set_exception(error)
        return done


class Bench:
    """One agent over the life of one run. ``disk`` is what it has now; a crash puts another in its place.

    ``cameras``: how many. ``closers``: how many threads close the segments at the end; 0: one after the other on this one.
    """

    def __init__(self, disk: Faults, vendor: Path, facility: kit.Facility | None = None, *, cameras: int = 1, closers: int = 0) -> None:
        self.facility = facility or kit.Facility()
        self.vendor = vendor
        self.streams = [kit.CAMERA, *(replace(kit.CAMERA, instrument=f"camera{n}") for n in range(1, cameras))]
        self.closers = closers
        self.told = Told({stream.key: Shots() for stream in self.streams})
        self.handed: dict[bytes, Closed] = {}
        self.known: dict[tuple[bytes, bytes], Read] = {}
        self.mass = 0
        self.now = kit.T0
        self.disk = disk
        self.boot()

    def boot(self) -> None:
        """Recover what is there, then go on with the run."""
        self.session = self.facility.boot()
        self.recover()
        self.asked = 0
        self.state = RunState(
            RUN, "BL05", FOLDER, lambda: self.session, self.disk, lambda: "{}", self.session.chain.encode, self._closed, self._broken, self._wait,
            self._now, interrupted_since=kit.T0 if self.told.crashes else None,
        )  # fmt: skip
        for closed in self.segments():
            self.state.ordinal = max(self.state.ordinal, closed.ordinal)
            self.state.previous[closed.series] = (closed.segment_id, closed.head)
            self.state.last_seq.update(closed.last_seq)
            self.state.last_time.update(closed.last_time)
        self.cameras = [FrameSeries(self.state, stream) for stream in self.streams]
        self.camera, self.balance, self.scope = self.cameras[0], RowSeries(self.state), FileSeries(self.state)
        self.balance.describe(kit.BALANCE)

    @property
    def series(self) -> list[Series]:
        return [*self.cameras, self.balance, self.scope]

    def segments(self) -> list[Closed]:
        return sorted(self.handed.values(), key=lambda closed: closed.ordinal)

    def recover(self) -> None:
        """What a start does with every journal, and with a disk that refuses: it asks again."""
        for _ in range(PATIENCE):
            try:
                self._recover()
            except DiskError:
                continue
            return
        raise AssertionError("recovery did not end")

    def _recover(self) -> None:
        if not self.disk.exists(FOLDER):
            return
        for name in self.disk.names(FOLDER):
            if name.endswith(JOURNAL):
                self._recover_one(name.removesuffix(JOURNAL))
        for name in self.disk.names(FOLDER):
            if name.endswith((PART, REBUILT)):
                self.disk.unlink(FOLDER / name)

    def _recover_one(self, name: str, limit: int | None = None, cause: Cause = Cause.CRASH) -> Closed | None:
        opening = next(journal.scan(self.disk.read_file(FOLDER / (name + JOURNAL))), None)
        chain = key_chain(loads(opening.context, "context")) if isinstance(opening, journal.Opening) else None
        try:
            closed = recover(FOLDER, name, self.session, self.disk, self._now, kit.POLICY, chain=chain, limit=limit, cause=cause)
        except NothingDurable:
            self.disk.unlink(FOLDER / (name + PART))
            self.disk.unlink(FOLDER / (name + JOURNAL))
            return None
        self._closed(closed)
        return closed

    def _closed(self, closed: Closed) -> None:
        known = self.handed.get(closed.segment_id)
        assert known is None or known.head == closed.head, f"{closed.path.name} was signed twice, with other content"
        self.handed[closed.segment_id] = closed
        assert closed.journal_path is not None
        self.disk.unlink(closed.journal_path)

    def _broken(self, segment: SegmentWriter) -> None:
        closed = self._recover_one(segment.name, segment.confirmed_position, Cause.DISK)
        if closed is not None:
            self.state.previous[closed.series] = (closed.segment_id, closed.head)
            self.state.ordinal = max(self.state.ordinal, closed.ordinal)

    def _wait(self, error: DiskError) -> None:
        self.asked += 1
        assert self.asked < PATIENCE, f"the disk is asked for ever: {error}"

    def _now(self) -> int:
        self.now += 1_000_000
        return self.now

    def frame(self, skip: int = 0, camera: int = 0) -> None:
        """The next frame of a camera; ``skip`` numbers are missing before it."""
        stream = self.streams[camera]
        shots = self.told.shots[stream.key]
        shots.number += 1 + skip
        number = shots.number
        view = memoryview(kit.image(number).tobytes())
        frame = kit.frame(number)
        shots.sent.append(number)
        charge = NotedCharge(number % 2 == 0, self._note(shots.durable, number))
        item = NotedFrame(stream, number, frame.t_arrival, frame_row(frame), charge)
        item.again = lambda: Encoded(view, 0, hashlib.sha256(view).digest())
        self._write(self.cameras[camera], item)

    def refuse(self, n: int) -> None:
        """``n`` frames of the first camera come for which there is no room."""
        shots = self.told.shots[kit.CAMERA.key]
        first, shots.number = shots.number + 1, shots.number + n
        gap = Gap(Cause.OVERLOAD, first, shots.number, None, kit.T0 + first, kit.T0 + shots.number, "no room")
        self._write(self.camera, GapItem(kit.CAMERA, gap, refused=True))

    def restart(self, to: int) -> None:
        """The first camera's counter begins again, at a number it never had."""
        shots = self.told.shots[kit.CAMERA.key]
        shots.number += 1000 + to
        self._write(self.camera, ResetItem(kit.CAMERA, Reset(Cause.RESTART, None, shots.number + 1)))

    def rows(self, n: int) -> None:
        """``n`` values of the balance."""
        first, self.mass = self.mass, self.mass + n
        values = [k * 0.5 for k in range(first, self.mass)]
        self.told.values += values
        item = rows_item(kit.BALANCE, kit.rows(first, n), self._note(self.told.durable_values, *values))
        self._write(self.balance, NotedRows(**{each.name: getattr(item, each.name) for each in fields(item)}))

    def file(self, size: int) -> None:
        """A vendor's file."""
        name = f"{len(self.told.files):04d}.dat"
        data = random.Random(name).randbytes(size)
        self.told.files[name] = data
        item = kit.vendor_file(self.vendor, name, data)
        for _ in range(PATIENCE):
            try:
                adopted = adopt(FOLDER / "files" / "scope", item, self.disk)
            except DiskError:
                continue
            break
        else:
            raise AssertionError("the file could not be taken")
        path = f"files/scope/{adopted.name}"
        durable = self._note(self.told.durable_files, name)
        self._write(self.scope, AdoptedItem("scope/files", item, path, adopted.digest, adopted.root, durable))

    def _note(self, where: set[Any], *what: Any) -> Callable[[], None]:
        """Notes what was acknowledged; a process that is dead acknowledges nothing."""
        disk = self.disk
        return lambda: None if disk.ended else where.update(what)

    def _write(self, series: Series, item: Item) -> None:
        self.asked = 0
        series.write(item)

    def commit(self, *, sign: bool = False) -> None:
        """What the commit thread does; ``sign``: a head is due."""
        for series in self.series:
            segment = series.segment
            if segment is not None and segment.failed is None:
                if sign:
                    segment._signed_at = 0.0
                with segment.committing, contextlib.suppress(DiskError):
                    segment.commit()

    def tick(self) -> None:
        """What the writer thread does twice a second."""
        self.asked = 0
        for series in self.series:
            series.tick()

    def roll(self, which: int) -> None:
        """A limit is reached."""
        self.asked = 0
        self.series[which % 3].roll("rolled")

    def close(self) -> None:
        """The end of the run."""
        self.asked = 0
        with ThreadPoolExecutor(self.closers) if self.closers else AtOnce() as pool:
            close_all(self.series, "run-end", "complete", pool.submit)

    def die(self, chance: random.Random, *, power: bool) -> None:
        """SIGKILL or a power failure, now; then another boot over what is left."""
        memory = self.disk._inner
        assert isinstance(memory, Memory)
        left = memory.after_power_loss(chance) if power else memory.after_kill()
        self.told.crashes += 1
        self._bury()
        self.disk = Faults(left)
        self.boot()

    def _bury(self) -> None:
        """What the dead process held of HDF5 must not speak later."""
        self.disk.fault, self.disk.ended = None, False
        for series in self.series:
            if series.segment is not None and series.segment._file is not None:
                with contextlib.suppress(Exception):
                    series.segment._file.abandon()

    def judge(self, *, whole: bool) -> None:
        """Close the run, then compare what is there with what was told.

        Args:
            whole: nothing but disk errors happened, so nothing at all may be missing.
        """
        self.close()
        segments = self.segments()
        read = {closed.segment_id: self.verified(closed) for closed in segments}
        kit_chain(segments, read)
        for key, shots in self.told.shots.items():
            self._judge_frames(key, shots, segments, read, whole)
        self._judge_rows(segments, read, whole)
        self._judge_files(segments, read, whole)
        there = self.disk.names(FOLDER) if self.disk.exists(FOLDER) else []
        left = [name for name in there if name.endswith((JOURNAL, PART, REBUILT))]
        assert left == [], f"left behind: {left}"

    def verified(self, closed: Closed) -> Read:
        """What a segment holds, after the verifier has accepted it; once for the same bytes."""
        digest = hashlib.sha256(self.disk.read_file(closed.path)).digest() if closed.size else closed.segment_id
        if (digest, closed.head) not in self.known:
            self.known[digest, closed.head] = read_segment(closed, self.disk)
            if closed.size:
                report = verify_segment(closed.path, self.facility.root, self.disk)
                assert (report.level, report.reason) == (2, ""), report
                assert report.head == closed.head
        return self.known[digest, closed.head]

    def _judge_frames(self, key: str, shots: Shots, segments: Sequence[Closed], read: dict[bytes, Read], whole: bool) -> None:
        group, found, accounted = f"/entry/instrument/{key}", [], set()
        last, unknown, beginning = None, False, False
        for closed in segments:
            leaves, data = read[closed.segment_id]
            if closed.series != key:
                continue
            for number, picture in zip(data.get(f"{group}/frame_number", ()), data.get(f"{group}/data", ()), strict=True):
                assert np.array_equal(picture, kit.image(int(number))), f"frame {number} has other bytes"
                found.append(int(number))
            for each in leaves:
                if isinstance(each, leaf.Chunk) and each.seq_last != NO_SEQ:
                    last = each.seq_last
                elif isinstance(each, leaf.GapLeaf) and each.first is None:
                    unknown, beginning = True, beginning or last is None
                elif isinstance(each, leaf.GapLeaf):
                    assert not set(range(each.first, each.last + 1)) & set(found), "declared as missing, and there"
                    accounted |= set(range(each.first, each.last + 1))
                    last = each.last
                elif isinstance(each, leaf.SeqReset):
                    if unknown and last is not None:
                        accounted |= set(range(last + 1, each.first))
                    last, unknown = each.first - 1, False
        assert found == sorted(set(found)), "frames twice or out of order"
        assert set(found) <= set(shots.sent), "frames that were never sent"
        assert shots.durable <= set(found), f"durable and lost: {sorted(shots.durable - set(found))}"
        if whole:
            assert found == shots.sent, f"lost: {sorted(set(shots.sent) - set(found))}"
        if found:
            lost = {n for n in shots.sent if n not in set(found) and n < max(found[-1], last or 0)}
            lost = {n for n in lost if n > found[0] or not beginning}
            assert lost <= accounted, f"silent gap: {sorted(lost - accounted)}"

    def _judge_rows(self, segments: Sequence[Closed], read: dict[bytes, Read], whole: bool) -> None:
        path, found, gaps = "/entry/instrument/balance/mass/value", [], []
        for closed in segments:
            if closed.series == "rows":
                leaves, data = read[closed.segment_id]
                found += data.get(path, np.zeros(0)).tolist()
                gaps += [(each.t_from, each.t_to) for each in leaves if isinstance(each, leaf.GapLeaf) and each.cause == "crash"]
        have, sent = set(found), set(self.told.values)
        assert found == sorted(have), "rows twice or out of order"
        assert have <= sent, "rows that were never sent"
        assert self.told.durable_values <= have, f"durable and lost: {sorted(self.told.durable_values - have)}"
        if whole:
            assert have == sent, f"lost: {sorted(sent - have)}"
        for value in sent - have:
            if found and value < found[-1]:
                arrival = kit.T0 + int(value * 2) + 5
                assert any(since <= arrival <= until for since, until in gaps), f"silent gap at row {value}: {gaps}"

    def _judge_files(self, segments: Sequence[Closed], read: dict[bytes, Read], whole: bool) -> None:
        found = {}
        for closed in segments:
            for each in read[closed.segment_id][0]:
                if isinstance(each, leaf.FileLeaf):
                    data = self.disk.read_file(FOLDER / each.path)
                    assert hashlib.sha256(data).digest() == each.digest, f"{each.path} has other bytes"
                    assert each.path not in found, f"{each.path} twice"
                    found[each.path] = data
        names = {path.rpartition("/")[2].partition("~")[0]: data for path, data in found.items()}
        assert all(self.told.files[name] == data for name, data in names.items())
        missing = (set(self.told.files) if whole else self.told.durable_files) - set(names)
        assert not missing, f"files lost: {missing}"


Read = tuple[list[leaf.Leaf], dict[str, np.ndarray[Any, Any]]]


def read_segment(closed: Closed, storage: Storage) -> Read:
    """The leaves of a segment, its numbers and values, decoded chunk by chunk with the codecs' own decoders."""
    if not closed.size:
        return [leaf.parse(payload) for payload in closed.leaves], {}
    found = {}
    with hdf5.opened(closed.path, storage) as file:
        tables = integrity.read(_integrity(file))
        for dsd in map(parse_dsd, tables.descriptors):
            if dsd.path.rpartition("/")[2] not in ("data", "frame_number", "value", "valid"):
                continue
            dataset = file[dsd.path]
            codec = encoder(CODECS[tuple(number for number, _, _ in dsd.filters)])
            whole = np.zeros((-(-dataset.shape[0] // dsd.chunk[0]) * dsd.chunk[0], *dataset.shape[1:]), dataset.dtype)
            size = int(np.prod(dsd.chunk)) * dataset.dtype.itemsize
            for first in range(0, dataset.shape[0], dsd.chunk[0]):
                mask, data = dataset.id.read_direct_chunk((first, *(0 for _ in dataset.shape[1:])))
                whole[first : first + dsd.chunk[0]] = np.frombuffer(
                    codec.decode(data, mask, size, dataset.dtype.itemsize), dataset.dtype
                ).reshape(dsd.chunk)
            found[dsd.path] = whole[: dataset.shape[0]]
    return [leaf.parse(payload) for payload in tables.leaves], found


def _integrity(file: h5py.File) -> dict[str, Any]:
    """The objects of the integrity tables alone: the verifier walks over the others."""
    contents, waiting = reader.Contents(), [(reader.INTEGRITY, file["entry"].id, b"integrity")]
    while waiting:
        path, parent, name = waiting.pop()
        below = reader._visit(path, parent, name, file.id.get_filesize(), contents, {})
        waiting += [(f"{path}/{link.decode()}", child, link) for child, link in below]
    return contents.integrity


def kit_chain(segments: Sequence[Closed], read: dict[bytes, Read]) -> None:
    """Ordinals without a hole, each segment of a series naming the one before."""
    assert [closed.ordinal for closed in segments] == list(range(1, len(segments) + 1))
    before: dict[str, Closed] = {}
    for closed in segments:
        opening = read[closed.segment_id][0][0]
        assert isinstance(opening, leaf.Open)
        last = before.get(closed.series)
        assert opening.previous == (None if last is None else (last.segment_id, last.head))
        for source, number in opening.last_seq.items():
            assert last is None or last.last_seq[source] == number
        before[closed.series] = closed
