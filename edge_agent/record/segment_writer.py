"""One open segment: HDF5 file, journal and tree, kept in step (docs/recording.md).

Order of every write: payload into the HDF5 file, then its leaf with the byte offset into the journal, then the tree. `sample` gives a point that both syncs of a commit will
cover; what is acknowledged is always a prefix. The writer thread owns everything here but `sample`, the two syncs and
`confirm`, which the commit thread calls while it holds `committing`; `_lock` guards what the two share.

An ``fsync`` that fails kills the segment (`failed`): nothing after the last confirmed point counts, and the caller goes on in a new one.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edge_agent.errors import DiskError
from edge_agent.model import NO_SEQ
from edge_agent.record import journal
from edge_agent.record.counts import LiveCounts
from edge_agent.record.journal import Frame, Opening, TableFrame
from edge_agent.record.session import Session
from edge_agent.record.tree import ANCHOR_S, HEAD_LEAVES, HEAD_S, Tree
from edge_agent.seal import leaf
from edge_agent.seal.dsd import Dsd
from edge_agent.seal.head import State
from edge_agent.seal.meta import MetaObject, encode_meta, meta_digest
from edge_agent.seal.tree import Frontier
from edge_agent.segment.file import SegmentFile
from edge_agent.segment.integrity import Tables
from edge_agent.segment.types import numpy_dtype
from edge_agent.storage import Storage

PART = ".part"
JOURNAL = ".journal"


@dataclass(frozen=True, slots=True)
class Closed:
    """A segment that is complete, signed and in its place. The journal is still there until the outbox holds it."""

    path: Path
    journal_path: Path | None
    segment_id: bytes
    head: bytes
    head_cose: bytes
    state: State
    size: int
    ordinal: int
    series: str
    counts: Mapping[str, int]
    gaps: Mapping[str, Sequence[leaf.GapLeaf]]
    last_seq: Mapping[str, int]
    last_time: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    leaves: tuple[bytes, ...] = ()
    """Leaf payloads, for series of vendor files only."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A point in a segment: journal length, tree, and how many acknowledgements it covers."""

    position: int
    frontier: Frontier


class Item(Protocol):
    """Something recorded: kept until it is durable, so that it can go to another segment if this one dies."""

    key: str
    n: int
    entered: float

    @property
    def seq(self) -> int | None:
        """The source's counter."""
        ...

    @property
    def t_arrival(self) -> int:
        """UTC ns."""
        ...

    def done(self) -> None:
        """It is durable: buffers may be used again."""
        ...


@dataclass(frozen=True, slots=True)
class _Pending:
    """An item that is written but not yet durable, and the journal length that covers it."""

    position: int
    item: Item


@dataclass(slots=True)
class SegmentWriter:
    """See the module. ``with_data`` False: a series of vendor files, which has no HDF5 file."""

    folder: Path
    name: str
    opening: leaf.Open
    context: bytes
    session: Session
    storage: Storage
    preallocate: int = 0
    with_data: bool = True
    live: LiveCounts = field(default_factory=LiveCounts)
    gaps: dict[str, list[leaf.GapLeaf]] = field(default_factory=dict)
    last_seq: dict[str, int] = field(default_factory=dict)
    last_time: dict[str, int] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    confirmed_seq: dict[str, int] = field(default_factory=dict)
    confirmed_position: int = 0
    stored_bytes: int = 0
    failed: DiskError | None = None
    tree: Tree = field(init=False)
    started: float = field(init=False, default_factory=time.monotonic)
    _file: SegmentFile | None = field(init=False, default=None)
    _journal: int = field(init=False)
    _data: int = field(init=False, default=-1)
    _buffer: bytearray = field(init=False, default_factory=bytearray)
    _position: int = field(init=False, default=0)
    _pending: deque[_Pending] = field(init=False, default_factory=deque)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _signed_size: int = field(init=False, default=0)
    _signed_at: float = field(init=False, default=0.0)
    _anchored_at: float = field(init=False, default=-ANCHOR_S)
    committing: threading.Lock = field(init=False, default_factory=threading.Lock)
    _digests: dict[str, bytes] = field(init=False, default_factory=dict)
    _tables: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Create both files, reserve their space and make their names durable before anything is acknowledged."""
        self.tree = Tree(self.opening.segment_id, self.session)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._journal = self.storage.open_append(self.journal_path)
        try:
            self._create()
        except DiskError:
            # Nothing was acknowledged yet: leave nothing behind that would need recovery.
            self.abandon()
            self.storage.unlink(self.part_path)
            self.storage.unlink(self.journal_path)
            raise

    def _create(self) -> None:
        if self.with_data:
            self._file = SegmentFile(self.part_path)
            self._data = self.storage.open_read(self.part_path)
            if self.preallocate:
                self.storage.preallocate(self._data, self.preallocate)
        self._frame(Opening(self.name, self.context).frame())
        self.append_leaf(self.opening.payload())
        self.storage.sync_folder(self.folder)

    @property
    def path(self) -> Path:
        """Where the finished segment will be."""
        return self.folder / self.name

    @property
    def part_path(self) -> Path:
        """The HDF5 file while it is open."""
        return self.folder / (self.name + PART)

    @property
    def journal_path(self) -> Path:
        """The journal."""
        return self.folder / (self.name + JOURNAL)

    @property
    def age(self) -> float:
        """Seconds since it was opened."""
        return time.monotonic() - self.started

    def add(self, objects: Mapping[str, MetaObject], dsds: Sequence[Dsd] = ()) -> None:
        """Create objects; each DSD is journalled and introduced by its leaf before any chunk of it."""
        assert self._file is not None  # noqa: S101 - only series with data have objects
        self._file.add(objects, tuple(dsds))
        # The skeleton first: a journal torn after it names a dataset without chunks, never a chunk without its dataset.
        self._frame(journal.frame(Frame.SKELETON, encode_meta(self._file.objects)))
        for dsd in dsds:
            self._frame(journal.frame(Frame.DSD, dsd.encode()))
            self._digests[dsd.path] = dsd.digest()
            self.append_leaf(leaf.Dataset(dsd.digest()).payload())

    def declare_table(self, paths: Sequence[str], dtypes: Sequence[str], shapes: Sequence[tuple[int, ...]], chunk: int, codec: str, source: str) -> int:
        """Number a table, so that its rows can be journalled before they fill a chunk."""
        number = self._tables
        self._tables += 1
        self._frame(TableFrame(number, tuple(paths), tuple(dtypes), tuple(shapes), chunk, codec, source).frame())
        return number

    def rows(self, table: int, first: int, n: int, columns: Sequence[bytes | memoryview]) -> None:
        """Journal rows of a table; durable with the next commit."""
        self._frame(journal.rows_frame(table, first, n, columns))

    def chunk(
        self, path: str, offset: tuple[int, ...], stored: bytes | memoryview, mask: int, digest: bytes, t_ns: int, rows: int,
        seq: int = NO_SEQ,
    ) -> None:  # fmt: skip
        """Write one chunk, then its leaf."""
        assert self._file is not None  # noqa: S101
        position = self._file.write_chunk(path, offset, stored, mask, rows)
        size = len(stored)
        self.stored_bytes += size
        payload = leaf.Chunk(self.opening.segment_id, self._digests[path], offset, mask, size, digest, t_ns, seq, seq).payload()
        self.append_leaf(payload, position)

    def append_leaf(self, payload: bytes, offset: int = 0) -> None:
        """Journal a leaf and append it to the tree."""
        encoded = journal.leaf_frame(offset, payload)
        with self._lock:
            self._append(encoded)
            self.tree.append(payload)

    def gap(self, gap: leaf.GapLeaf) -> None:
        """Append a GAP leaf and remember it for the file and the ledger."""
        self.append_leaf(gap.payload())
        self.gaps.setdefault(gap.source_id, []).append(gap)

    def count(self, item: Item) -> None:
        """Note that an item was written; it counts as arrived, and is let go, once a commit covers this point."""
        if item.seq is not None:
            self.last_seq[item.key] = item.seq
        self.last_time[item.key] = item.t_arrival
        self.written[item.key] = self.written.get(item.key, 0) + item.n
        with self._lock:
            self._pending.append(_Pending(self._position, item))

    def unconfirmed(self) -> list[Item]:
        """Items that were written here and never became durable, in order; they are no longer this segment's."""
        with self._lock:
            items = [p.item for p in self._pending]
            self._pending.clear()
        return items

    def dirty(self) -> bool:
        """Whether something is waiting for a commit."""
        return bool(self._buffer) or bool(self._pending)

    def sample(self) -> Sample:
        """Hand the journal to the system and take the point that a sync begun now will cover."""
        with self._lock:
            data, self._buffer = self._buffer, bytearray()
            position, frontier = self._position, self.tree.frontier.copy()
            try:
                if data:
                    self.storage.write(self._journal, data)
            except DiskError as error:
                self.failed = error
                raise
        return Sample(position, frontier)

    def sync_journal(self) -> None:
        """``fdatasync`` of the journal."""
        self._sync(self._journal)

    def sync_payload(self) -> None:
        """``fdatasync`` of the HDF5 file."""
        if self._data >= 0:
            self._sync(self._data)

    def confirm(self, sample: Sample) -> list[float]:
        """Count what the commit made durable, and sign a head when one is due; returns the latencies in s of the items confirmed."""
        now = time.monotonic()
        latencies = []
        with self._lock:
            while self._pending and self._pending[0].position <= sample.position:
                item = self._pending.popleft().item
                self.live.add(item.key, item.n)
                if item.seq is not None:
                    self.confirmed_seq[item.key] = item.seq
                latencies.append(now - item.entered)
                item.done()
            self.confirmed_position = sample.position
            grown = sample.frontier.size - self._signed_size
            if grown and (grown >= HEAD_LEAVES or now - self._signed_at >= HEAD_S):
                anchor = now - self._anchored_at >= ANCHOR_S
                head = self.tree.sign(sample.frontier, State.OPEN, anchor=anchor)
                self._append(journal.frame(Frame.HEAD, head.cose))
                self._signed_size, self._signed_at = sample.frontier.size, now
                self._anchored_at = now if anchor else self._anchored_at
        return latencies

    def commit(self) -> list[float]:
        """Sample, sync both files one after the other, confirm (the closing path; the commit thread syncs in parallel)."""
        sample = self.sample()
        self.sync_payload()
        self.sync_journal()
        return self.confirm(sample)

    @property
    def released(self) -> bool:
        """Whether the files are closed."""
        return self._journal < 0

    def close(self, objects: Mapping[str, MetaObject], policy: bytes, outcome: str, reason: str) -> Closed:
        """META and CLOSE leaves, durable; the close head, durable; the tables; rename. The journal stays for the caller to remove."""
        with self.committing:
            return self._close(objects, policy, outcome, reason)

    def _close(self, objects: Mapping[str, MetaObject], policy: bytes, outcome: str, reason: str) -> Closed:
        if self._file is not None:
            self.add(objects)
            self.append_leaf(leaf.Meta(meta_digest(self._file.objects)).payload())
        self.append_leaf(close_leaf(self._file, self.tree.payloads, policy, outcome, reason).payload())
        self.commit()
        with self._lock:
            head = self.tree.sign(self.tree.frontier, State.CLOSED, anchor=True)
            self._append(journal.frame(Frame.HEAD, head.cose))
            self._append(journal.frame(Frame.CLOSE))
        self.sample()
        self.sync_journal()
        size = 0
        dtypes: dict[str, str] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        if self._file is not None:
            shapes, dtypes = dict(self._file.shapes), file_dtypes(self._file)
            size = finish_file(self._file, self.tree, self.part_path, self.path, self.storage)
        self.release()
        return Closed(
            self.path, self.journal_path, self.opening.segment_id, head.hash, head.cose, State.CLOSED, size, self.opening.ordinal, self.opening.series,
            dict(self.written), dict(self.gaps), dict(self.last_seq), dict(self.last_time), shapes, dtypes,
            () if self.with_data else tuple(self.tree.payloads),
        )  # fmt: skip

    def release(self) -> None:
        """Close the descriptors; the files stay as they are."""
        for fd in (self._journal, self._data):
            if fd >= 0:
                os.close(fd)
        self._journal = self._data = -1

    def abandon(self) -> None:
        """Give up after a disk error: recovery will make of the files what is durable."""
        with self.committing:
            if self._file is not None:
                self._file.abandon()
            self.release()

    def _sync(self, fd: int) -> None:
        try:
            self.storage.sync_data(fd)
        except DiskError as error:
            self.failed = error
            raise

    def _frame(self, encoded: bytes) -> None:
        with self._lock:
            self._append(encoded)

    def _append(self, encoded: bytes) -> None:
        self._buffer += encoded
        self._position += len(encoded)


def close_leaf(file: SegmentFile | None, payloads: Sequence[bytes], policy: bytes, outcome: str, reason: str) -> leaf.Close:
    """The CLOSE leaf over what the file and the tree hold."""
    datasets = () if file is None else tuple((dsd.digest(), file.shapes[dsd.path], file.chunks[dsd.path]) for dsd in introduced(file, payloads))
    meta = next((p for p in reversed(payloads) if p[4] == leaf.Meta.TYPE), None)
    digest = bytes(32)
    if meta is not None:
        parsed = leaf.parse(meta)
        digest = parsed.digest if isinstance(parsed, leaf.Meta) else digest
    return leaf.Close(datasets, digest, policy, outcome, reason)


def introduced(file: SegmentFile, payloads: Sequence[bytes]) -> list[Dsd]:
    """The DSDs of a file in the order of their DATASET leaves."""
    by_digest = {dsd.digest(): dsd for dsd in file.dsds.values()}
    leaves = (leaf.parse(payload) for payload in payloads if payload[4] == leaf.Dataset.TYPE)
    return [by_digest[each.dsd] for each in leaves if isinstance(each, leaf.Dataset)]


def file_dtypes(file: SegmentFile) -> dict[str, str]:
    """Path to numpy dtype of each chunked dataset."""
    return {path: numpy_dtype(dsd.type).str for path, dsd in file.dsds.items()}


def finish_file(file: SegmentFile, tree: Tree, part: Path, final: Path, storage: Storage) -> int:
    """Write the tables, close, make durable, rename; returns the size in bytes."""
    descriptors = tuple(dsd.encode() for dsd in introduced(file, tree.payloads))
    file.finish(Tables(tuple(tree.payloads), descriptors, tuple(h.cose for h in tree.anchors), tree.chain()))
    storage.trim(part)
    storage.sync_file(part)
    storage.rename(part, final)
    storage.sync_folder(final.parent)
    return final.stat().st_size
