"""A facility with one agent, recordings with everything around them that the daemon does, disks that fail when told, and readers that know
nothing of the writer."""

from __future__ import annotations

import datetime
import errno
import functools
import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from edge_agent.codec import encoder
from edge_agent.errors import DiskError
from edge_agent.model import Block, FileItem, Frame, Kind, RunContext, Stream
from edge_agent.record.recorder import Recorder
from edge_agent.record.recording import Recording
from edge_agent.record.recovery import NothingDurable, recover
from edge_agent.record.room import Room
from edge_agent.record.segment_writer import JOURNAL, Closed, SegmentWriter
from edge_agent.record.series import FRAME_LIMITS, ROW_LIMITS, Limits, RunState
from edge_agent.record.session import Session, new_session
from edge_agent.seal import leaf
from edge_agent.seal.dsd import parse_dsd
from edge_agent.seal.keys import AGENT_URN
from edge_agent.seal.policy import policy_digest
from edge_agent.segment import integrity, peek, reader
from edge_agent.segment.peek import CODECS
from edge_agent.segment.verify import verify_segment
from edge_agent.storage import DISK, Disk, Storage, disk_error

CAMERA = Stream(
    "camera", "image", Kind.FRAMES, "<u2", (16, 24), counted=True, codec="none", source_uri="pva://CAM:Image", source_type="NTNDArray"
)
BALANCE = Stream("balance", "mass", Kind.ROWS, "<f8", unit="g", source_uri="serial:///dev/ttyUSB0", source_type="sics")
VENDOR = Stream("scope", "files", Kind.FILES)
POLICY = policy_digest("closed", [])
T0 = 1_795_000_000_000_000_000
HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@dataclass
class Facility:
    """One enrolled agent, whose certificate is its own root; a new session a boot."""

    agent_id: bytes = field(default_factory=lambda: os.urandom(16))
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    def __post_init__(self) -> None:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agent")])
        start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
        urn = x509.UniformResourceIdentifier(AGENT_URN + self.agent_id.hex())
        self.root = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(1)
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=30))
            .add_extension(x509.SubjectAlternativeName([urn]), critical=False)
            .sign(self.key, None)
        )

    def boot(self) -> Session:
        return new_session(self.agent_id, self.key, [self.root.public_bytes(Encoding.DER)], T0)

    def pem(self, folder: Path) -> Path:
        path = folder / "root.pem"
        path.write_bytes(self.root.public_bytes(Encoding.PEM))
        return path


class WatchedRoom(Room):
    """A room that one can wait to be empty: everything that went in is durable."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._changed = threading.Condition()

    def leave(self, size: int, kept: int = 0) -> None:
        super().leave(size, kept)
        with self._changed:
            self._changed.notify_all()

    def wait_empty(self, seconds: float = 20.0) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.used == 0, seconds), f"{self.used} bytes did not become durable"


class Rig:
    """One boot of an agent that records one run, with what the keeper does around it."""

    def __init__(
        self, folder: Path, facility: Facility, storage: Storage = DISK, *, room: int = 64 << 20, before: Sequence[Closed] = (),
        frame_limits: Limits = FRAME_LIMITS, row_limits: Limits = ROW_LIMITS, run: RunContext | None = None, patient: bool = False,
    ) -> None:  # fmt: skip
        self.folder, self.facility, self.storage = folder, facility, storage
        self.session = facility.boot()
        self.closed: dict[bytes, Closed] = {closed.segment_id: closed for closed in before}
        self.broken: list[str] = []
        self.errors: list[DiskError] = []
        self.recorder = Recorder(room=room)
        self.recorder.room = self.room = WatchedRoom(room)
        run = run or RunContext(b"r" * 16, 1, "p", "g", T0, "p/g/d/000001")
        wait = self.recorder.wait_for_disk if patient else self.errors.append
        self.state = RunState(
            run, "BL05", folder, lambda: self.session, storage, lambda: "{}", lambda: b"context", self._on_closed, self._on_broken, wait,
            time.time_ns,
        )  # fmt: skip
        for closed in sorted(before, key=lambda c: c.ordinal):
            self.state.ordinal = max(self.state.ordinal, closed.ordinal)
            self.state.previous[closed.series] = (closed.segment_id, closed.head)
            self.state.last_seq.update(closed.last_seq)
            self.state.last_time.update(closed.last_time)
            if closed.series == "rows":
                self.state.tags = peek.tags_of(closed.path) or self.state.tags
        self.recording = Recording(self.recorder, self.state, frame_limits=frame_limits, row_limits=row_limits)

    def _on_closed(self, closed: Closed) -> None:
        self.closed[closed.segment_id] = closed
        assert closed.journal_path is not None
        self.recorder.remove(self.storage, closed.journal_path)

    def _on_broken(self, segment: SegmentWriter) -> None:
        self.broken.append(segment.name)
        closed = recover(
            segment.folder, segment.name, self.session, self.storage, time.time_ns, self.state.policy, chain=self.session.chain,
            limit=segment.confirmed_position,
        )  # fmt: skip
        self.state.previous[closed.series] = (closed.segment_id, closed.head)
        self.state.ordinal = max(self.state.ordinal, closed.ordinal)
        self._on_closed(closed)

    def durable(self) -> None:
        """Wait until everything that was taken is durable."""
        self.recorder.call(lambda: None).result(20)
        self.room.wait_empty()

    def close(self, outcome: str = "complete") -> list[Closed]:
        self.recording.close(outcome).result(30)
        return self.segments()

    def segments(self) -> list[Closed]:
        return sorted(self.closed.values(), key=lambda c: c.ordinal)

    def stop(self) -> None:
        self.recorder.stop(0.5)


def recover_all(folder: Path, facility: Facility, chain: Any, storage: Storage = DISK) -> list[Closed]:
    """What a start does: every journal becomes a segment, then the journal goes."""
    session = facility.boot()
    found = []
    for path in sorted(folder.glob(f"*{JOURNAL}")):
        name = path.name.removesuffix(JOURNAL)
        try:
            closed = recover(folder, name, session, storage, time.time_ns, POLICY, chain=chain)
        except NothingDurable:
            path.unlink()
            continue
        found.append(closed)
        path.unlink()
    return found


def image(number: int, shape: tuple[int, ...] = (16, 24)) -> np.ndarray[Any, Any]:
    """The picture that a test camera gives frame ``number``."""
    return (np.arange(int(np.prod(shape)), dtype="<u4").reshape(shape) * 31 + number * 7).astype("<u2")


def frame(number: int, shape: tuple[int, ...] = (16, 24)) -> Frame:
    return Frame(image(number, shape), number, T0 + number, T0 + number + 5)


def rows(first: int, n: int = 1, **columns: Any) -> Block:
    numbers = np.arange(first, first + n)
    return Block(numbers * 0.5, (T0 + numbers).astype("<i8"), (T0 + numbers + 5).astype("<i8"), **columns)


class Faulty(Disk):
    """A real disk whose n-th call of one kind fails; counts the calls of each kind."""

    def __init__(self, kind: str = "", at: int = 0, number: int = errno.EIO, times: int = 1) -> None:
        self.kind, self.at, self.number, self.times = kind, at, number, times
        self.calls: dict[str, int] = {}
        self._lock = threading.Lock()

    def _call(self, kind: str) -> None:
        with self._lock:
            n = self.calls[kind] = self.calls.get(kind, 0) + 1
        if kind == self.kind and self.at <= n < self.at + self.times:
            raise disk_error(f"{kind} number {n}", OSError(self.number, os.strerror(self.number)))

    def open_append(self, path: Path) -> int:
        self._call("open_append")
        return super().open_append(path)

    def reopen(self, path: Path) -> int:
        self._call("reopen")
        return super().reopen(path)

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        try:
            self._call("write")
        except DiskError:
            super().write(fd, data[: len(data) // 2])  # a full disk takes what it can
            raise
        super().write(fd, data)

    def sync_data(self, fd: int) -> None:
        self._call("sync_data")
        super().sync_data(fd)

    def sync_file(self, path: Path) -> None:
        self._call("sync_file")
        super().sync_file(path)

    def sync_folder(self, path: Path) -> None:
        self._call("sync_folder")
        super().sync_folder(path)

    def rename(self, source: Path, target: Path) -> None:
        self._call("rename")
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._call("unlink")
        super().unlink(path)


class Gated(Disk):
    """A real disk whose syncs wait until they are let through."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.waiting = threading.Event()

    def sync_data(self, fd: int) -> None:
        self.waiting.set()
        assert self.open.wait(30), "nobody opened the gate"
        super().sync_data(fd)


@functools.cache
def _read(path: Path, segment_id: bytes) -> tuple[list[leaf.Leaf], dict[str, np.ndarray[Any, Any]]]:
    """The leaves of a segment, and every chunked dataset, decoded chunk by chunk with the codecs' own decoders."""
    found = {}
    with h5py.File(path, "r") as file:
        tables = integrity.read(reader.walk(file).integrity)
        for dsd in map(parse_dsd, tables.descriptors):
            dataset = file[dsd.path]
            codec = encoder(CODECS[tuple(number for number, _, _ in dsd.filters)])
            whole = np.zeros((-(-dataset.shape[0] // dsd.chunk[0]) * dsd.chunk[0], *dataset.shape[1:]), dataset.dtype)
            size = int(np.prod(dsd.chunk)) * dataset.dtype.itemsize
            for first in range(0, dataset.shape[0], dsd.chunk[0]):
                mask, data = dataset.id.read_direct_chunk((first, *(0 for _ in dataset.shape[1:])))
                decoded = codec.decode(data, mask, size, dataset.dtype.itemsize)
                whole[first : first + dsd.chunk[0]] = np.frombuffer(decoded, dataset.dtype).reshape(dsd.chunk)
            found[dsd.path] = whole[: dataset.shape[0]]
    return [leaf.parse(payload) for payload in tables.leaves], found


def contents(closed: Closed) -> dict[str, np.ndarray[Any, Any]]:
    """Every chunked dataset of a closed segment by path."""
    return _read(closed.path, closed.segment_id)[1] if closed.size else {}


def leaves_of(closed: Closed) -> list[leaf.Leaf]:
    """The leaves of a closed segment, from its file or, for vendor files, from its tree."""
    return _read(closed.path, closed.segment_id)[0] if closed.size else [leaf.parse(payload) for payload in closed.leaves]


def leaves_at(path: Path) -> list[leaf.Leaf]:
    """The leaves of a segment file."""
    return _read(path, b"")[0]


def frames_at(paths: Sequence[Path]) -> list[int]:
    """The numbers of all frames, each of which must be the picture that the test camera gave it."""
    numbers: list[int] = []
    for path in paths:
        found = _read(path, b"")[1]
        group = "/entry/instrument/camera/image"
        for number, picture in zip(found.get(f"{group}/frame_number", ()), found.get(f"{group}/data", ()), strict=True):
            assert np.array_equal(picture, image(int(number)))
            numbers.append(int(number))
    return numbers


def check_chain(segments: Sequence[Closed]) -> None:
    """Ordinals without a hole, each segment of a series naming the one before and its last number, all of them signed."""
    assert [closed.ordinal for closed in segments] == list(range(1, len(segments) + 1))
    before: dict[str, Closed] = {}
    for closed in segments:
        opening = leaves_of(closed)[0]
        assert isinstance(opening, leaf.Open)
        last = before.get(closed.series)
        assert opening.previous == (None if last is None else (last.segment_id, last.head))
        for source, number in opening.last_seq.items():
            assert last is None or last.last_seq[source] == number
        before[closed.series] = closed


def check_signed(segments: Sequence[Closed], facility: Facility) -> None:
    for closed in segments:
        if closed.size:
            report = verify_segment(closed.path, facility.root)
            assert (report.level, report.reason) == (2, ""), report
            assert report.head == closed.head


def recorded_frames(segments: Sequence[Closed], key: str = "camera/image") -> dict[int, np.ndarray[Any, Any]]:
    """Frames by number, of all segments; no number may come twice."""
    found: dict[int, np.ndarray[Any, Any]] = {}
    for closed in segments:
        data = contents(closed) if closed.series == key else {}
        group = f"/entry/instrument/{key}"
        if f"{group}/data" in data:
            for number, picture in zip(data[f"{group}/frame_number"], data[f"{group}/data"], strict=True):
                assert int(number) not in found, f"frame {number} twice"
                found[int(number)] = picture
    return found


def recorded_rows(segments: Sequence[Closed], key: str = "balance/mass") -> list[float]:
    values: list[float] = []
    for closed in segments:
        if closed.series == "rows":
            values += contents(closed).get(f"/entry/instrument/{key}/value", np.zeros(0)).tolist()
    return values


def independent_verifier(paths: Sequence[Path], root: Path) -> str:
    """What tools/verify_hsc1.py says; it must find every file at level 2."""
    # Only here: children import this file beside them, and know of no package `tests`.
    from tests.independent import ask

    done = ask(*paths, "--root", root)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def vendor_file(folder: Path, name: str, data: bytes) -> FileItem:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    stat = path.stat()
    return FileItem(path, name, stat.st_size, stat.st_mtime_ns, T0)


@pytest.fixture
def facility() -> Facility:
    return Facility()


@pytest.fixture
def rig(tmp_path: Path, facility: Facility) -> Iterator[Callable[..., Rig]]:
    """Makes rigs and stops them."""
    made: list[Rig] = []

    def make(*args: Any, folder: Path | None = None, **kwargs: Any) -> Rig:
        made.append(Rig(folder or tmp_path / "spool" / "000001", facility, *args, **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def kit() -> Any:
    """The helpers of this file, for tests that cannot import it."""
    return sys.modules[__name__]
