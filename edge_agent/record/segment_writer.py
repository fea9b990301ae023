"""One open segment: HDF5 file, journal and tree, kept in step (docs/recording.md).

Order of every write: payload into the HDF5 file, then its leaf with the byte offset into the journal, then the tree. What belongs to one
item is staged and becomes visible in one step (`settle`), so a commit never covers half an item. `sample` gives a point that both syncs of
a commit will cover; what is acknowledged is always a prefix. Whoever has the turn owns everything here but `sample`, the two syncs and
`confirm`, which the commit thread calls while it holds `committing`; `_lock` guards what the two share. Heads are signed under
`committing` and outside of `_lock`: a signature of ML-DSA takes longer than anything that a writer should wait for.

A disk that refuses kills the segment (`failed`): nothing after the last confirmed point counts, and the caller goes on in a new one.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from edge_agent.errors import DiskError
from edge_agent.model import NO_SEQ, NO_TIME
from edge_agent.record import journal
from edge_agent.record.clock import ClockWatch, Reading
from edge_agent.record.counts import LiveCounts
from edge_agent.record.finish import close_leaf, file_dtypes, finish_file
from edge_agent.record.hdf5_errors import as_disk_error
from edge_agent.record.items import Item, RowsItem
from edge_agent.record.journal import Frame, Opening, TableFrame, TagsFrame
from edge_agent.record.session import Session
from edge_agent.record.tree import ANCHOR_S, HEAD_LEAVES, HEAD_S, Tree
from edge_agent.seal import leaf
from edge_agent.seal.clock import Clock
from edge_agent.seal.dsd import Dsd
from edge_agent.seal.head import State
from edge_agent.seal.meta import MetaObject, encode_meta, meta_digest
from edge_agent.seal.tree import Frontier
from edge_agent.segment.file import SegmentFile
from edge_agent.segment.tags import Tag
from edge_agent.storage import Storage, durable

log = logging.getLogger(__name__)

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
    """A point in a segment: journal length, tree, and when that was."""

    position: int
    frontier: Frontier
    at: Reading


class _Pending(NamedTuple):
    """An item that is written but not yet durable, the journal length that covers it, and where its series stood after it."""

    position: int
    item: Item
    mark: Any


@dataclass(slots=True)
class SegmentWriter:
    """See the module. ``with_data`` False: a series of vendor files, which has no HDF5 file.

    ``objects`` are there from the beginning, ``mark`` is where the series stands; after a failure it says where the durable part ends.
    """

    folder: Path
    name: str
    opening: leaf.Open
    context: bytes
    session: Session
    storage: Storage
    with_data: bool = True
    objects: Mapping[str, MetaObject] = field(default_factory=dict)
    mark: Any = None
    clock: Callable[[], Clock] = Clock
    live: LiveCounts = field(default_factory=LiveCounts)
    gaps: dict[str, list[leaf.GapLeaf]] = field(default_factory=dict)
    last_seq: dict[str, int] = field(default_factory=dict)
    last_time: dict[str, int] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    confirmed_position: int = 0
    stored_bytes: int = 0
    failed: DiskError | None = None
    tree: Tree = field(init=False)
    started: float = field(init=False, default_factory=time.monotonic)
    committing: threading.Lock = field(init=False, default_factory=threading.Lock)
    _file: SegmentFile | None = field(init=False, default=None)
    _journal: int = field(init=False, default=-1)
    _data: int = field(init=False, default=-1)
    _staged: bytearray = field(init=False, default_factory=bytearray)
    _staged_leaves: list[bytes] = field(init=False, default_factory=list)
    _buffer: bytearray = field(init=False, default_factory=bytearray)
    _position: int = field(init=False, default=0)
    _pending: deque[_Pending] = field(init=False, default_factory=deque)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _signed_size: int = field(init=False, default=0)
    _signed_at: float = field(init=False, default=0.0)
    _anchored_at: float = field(init=False, default_factory=time.monotonic)
    _anchored_size: int = field(init=False, default=0)
    _anchor_from: int | None = field(init=False, default=1)
    _digests: dict[str, bytes] = field(init=False, default_factory=dict)
    _tables: int = field(init=False, default=0)
    _watch: ClockWatch = field(init=False)
    _ended: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        """Create both files, reserve their space, and make their names and the OPEN leaf durable.

        Raises:
            DiskError: the disk refused; nothing is left behind that would need recovery, and the segment was never there.
        """
        self.tree = Tree(self.opening.segment_id, self.session, clock=self.clock)
        self._watch = ClockWatch(self.tree.read)
        self.last_seq.update(self.opening.last_seq)
        try:
            self._create()
        except BaseException:
            self.abandon()
            for path in (self.part_path, self.journal_path):
                with contextlib.suppress(DiskError):
                    self.storage.unlink(path)
            raise

    def _create(self) -> None:
        durable.make_folder(self.storage, self.folder)
        self._journal = self.storage.open_append(self.journal_path)
        self._frame(Opening(self.name, self.context).frame())
        self.append_leaf(self.opening.payload())
        if self.with_data:
            with self._hdf5("creating a segment"):
                self._file = SegmentFile(self.part_path, self.storage)
            self._data = self.storage.reopen(self.part_path)
            self.add(self.objects)
        self.publish()
        # Durable before the ordinal counts as given: a run whose segments are numbered 1, 3 would look as if 2 was withheld.
        position = self.sample().position
        self.sync_journal()
        self.storage.sync_folder(self.folder)
        self.confirmed_position = position

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

    @property
    def size(self) -> int:
        """Bytes on the disk: of the HDF5 file or the journal, whichever is more (rows are journalled long before they are chunks)."""
        return max(self.stored_bytes, self._position)

    @property
    def leaves(self) -> int:
        """Number of leaves that came with data; those that introduce datasets are as many as the run has streams and columns."""
        return self.tree.frontier.size - len(self._digests)

    @property
    def spoilt(self) -> bool:
        """Whether something was begun and not settled, so that what is written cannot be told from what is not."""
        return self.failed is not None or bool(self._staged)

    def add(self, objects: Mapping[str, MetaObject], dsds: Sequence[Dsd] = ()) -> None:
        """Create objects; each DSD is journalled and introduced by its leaf before any chunk of it."""
        assert self._file is not None  # noqa: S101 - only series with data have objects
        new = {path: thing for path, thing in objects.items() if path not in self._file.objects}
        with self._hdf5("creating datasets"):
            self._file.add(objects, tuple(dsds))
        # The skeleton first: a journal torn after it names a dataset without chunks, never a chunk without its dataset.
        # Only what is new: the whole map again for each of thousands of streams would cost their square.
        self._frame(journal.frame(Frame.SKELETON, encode_meta(new)))
        for dsd in dsds:
            self._frame(journal.frame(Frame.DSD, dsd.encode()))
            self._digests[dsd.path] = dsd.digest()
            self.append_leaf(leaf.Dataset(dsd.digest()).payload())

    def declare_table(
        self, paths: Sequence[str], dtypes: Sequence[str], shapes: Sequence[tuple[int, ...]], chunk: int, codec: str, source: str
    ) -> int:
        """Number a table, so that its rows can be journalled before they fill a chunk."""
        number = self._tables
        self._tables += 1
        self._frame(TableFrame(number, tuple(paths), tuple(dtypes), tuple(shapes), chunk, codec, source).frame())
        return number

    def tags(self, tags: Sequence[Tag]) -> None:
        """Journal the next lines of the list of tags; their table is declared already, their rows come after."""
        self._frame(TagsFrame(tuple(tags)).frame())

    def rows(self, table: int, first: int, n: int, columns: Sequence[bytes | memoryview]) -> None:
        """Journal rows of a table; durable with the next commit."""
        self._staged += journal.rows_frame(table, first, n, columns)

    def chunk(
        self, path: str, offset: tuple[int, ...], stored: bytes | memoryview, mask: int, digest: bytes, t_ns: int, rows: int,
        seq: int = NO_SEQ,
    ) -> None:  # fmt: skip
        """Write one chunk, then its leaf."""
        assert self._file is not None  # noqa: S101
        size = len(stored)
        payload = leaf.chunk_payload(self.opening.segment_id, self._digests[path], offset, mask, size, digest, t_ns, seq, seq)
        try:
            position = self._file.write_chunk(path, offset, stored, mask, rows)
        except Exception as error:
            self._broken("writing a chunk", error)
            raise
        self.stored_bytes += size
        self.append_leaf(payload, position)

    def append_leaf(self, payload: bytes, offset: int = 0) -> None:
        """Journal a leaf and append it to the tree."""
        self._staged += journal.leaf_frame(offset, payload)
        self._staged_leaves.append(payload)

    def sign_rows(self, paths: Sequence[str], first: int, n: int, digest: bytes) -> None:
        """Append a ROWS leaf for rows of a table that are in no chunk yet."""
        self.append_leaf(leaf.RowsLeaf(tuple(self._digests[path] for path in paths), first, n, digest).payload())

    def gap(self, gap: leaf.GapLeaf) -> None:
        """Append a GAP leaf and remember it for the file and the ledger."""
        self.append_leaf(gap.payload())
        self.gaps.setdefault(gap.source_id, []).append(gap)

    def settle(self, item: Item, mark: Any = None, last: int | None = None) -> None:
        """An item is written whole; it counts as arrived, and is let go, once a commit covers this point.

        Args:
            item: the item.
            mark: where its series stands now.
            last: the last counter value that is accounted for, where the source counts.
        """
        key = item.key
        if last is not None:
            self.last_seq[key] = last
        if item.n:
            self.written[key] = self.written.get(key, 0) + item.n
        arrived = item.t_last if isinstance(item, RowsItem) else item.t_arrival
        if arrived != NO_TIME:
            self.last_time[key] = arrived
        self.publish(item, mark)

    def publish(self, item: Item | None = None, mark: Any = None) -> None:
        """Make what is staged visible to the next commit, in one step."""
        with self._lock:
            self._append(self._staged)
            for payload in self._staged_leaves:
                self.tree.append(payload)
            if item is not None:
                self._pending.append(_Pending(self._position, item, mark))
        self._staged.clear()
        self._staged_leaves.clear()

    def awaited(self) -> int:
        """The `confirmed_position` at which every item that was settled so far is durable."""
        with self._lock:
            return self._pending[-1].position if self._pending else 0

    def dirty(self) -> bool:
        """Whether something is waiting for a commit, or for a head."""
        unsigned = self._signed_size < self.tree.frontier.size and time.monotonic() - self._signed_at >= HEAD_S
        return bool(self._buffer) or bool(self._pending) or unsigned or self._anchor_from is not None

    def anchor_due(self) -> bool:
        """Whether it is time for the next anchor head."""
        return self._anchor_from is None and time.monotonic() - self._anchored_at >= ANCHOR_S

    def request_anchor(self) -> None:
        """The next commit that covers what is published now signs an anchor, if there is anything new."""
        with self._lock:
            size = self.tree.frontier.size
            self._anchor_from = size if size > self._anchored_size else None

    def sample(self) -> Sample:
        """Hand the journal to the system and take the point that a sync begun now will cover.

        Raises:
            DiskError: the disk refused, now or before: what it refused is gone from the buffer, so nothing behind it may be confirmed.
        """
        with self._lock:
            if self.failed is not None:
                raise self.failed
            at = self._observe()
            data, self._buffer = self._buffer, bytearray()
            position, frontier = self._position, self.tree.frontier.copy()
            try:
                if data:
                    self.storage.write(self._journal, data)
            except DiskError as error:
                self.failed = error
                raise
        return Sample(position, frontier, at)

    def watch_clock(self) -> None:
        """Declare it soon when the wall clock was set, also while nothing comes in."""
        with self._lock:
            self._observe()

    def _observe(self) -> Reading:
        """The clocks now. A step is in the tree before any head that has its time; after CLOSE nothing is, so time stands still."""
        if self._ended:
            return self._watch.last
        at, step = self._watch.observe()
        if step is not None:
            self._append(journal.leaf_frame(0, step.payload()))
            self.tree.append(step.payload())
        return at

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
        finished: list[Item] = []
        with self._lock:
            while self._pending and self._pending[0].position <= sample.position:
                pending = self._pending.popleft()
                finished.append(pending.item)
                self.mark = pending.mark
                self.live.add(pending.item.key, pending.item.n)
            self.confirmed_position = sample.position
        for item in finished:
            try:
                item.done()
            except Exception:
                # It is durable all the same, and the others must be let go.
                log.exception("%s: telling that an item is durable failed", item.key)
        self._sign_if_due(sample, now)
        return [now - item.entered for item in finished if item.n]

    def _sign_if_due(self, sample: Sample, now: float) -> None:
        size = sample.frontier.size
        grown = size - self._signed_size
        anchor = self._anchor_from is not None and size >= self._anchor_from
        if not anchor and (not grown or (grown < HEAD_LEAVES and now - self._signed_at < HEAD_S)):
            return
        head = self.tree.sign(sample.frontier, State.OPEN, anchor=anchor, at=sample.at)
        with self._lock:
            self._append(journal.frame(Frame.HEAD, head.cose))
            if anchor:
                self._anchored_at, self._anchored_size, self._anchor_from = now, size, None
        self._signed_size, self._signed_at = size, now

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
        with self._lock:
            at, step = self._watch.observe()
            self._ended = True
        if step is not None:
            self.append_leaf(step.payload())
        if self._file is not None:
            self.add(objects)
            self.append_leaf(leaf.Meta(meta_digest(self._file.objects)).payload())
        payloads = [*self.tree.payloads, *self._staged_leaves]
        self.append_leaf(close_leaf(self._file, payloads, policy, outcome, reason).payload())
        self.publish()
        self.commit()
        head = self.tree.sign(self.tree.frontier, State.CLOSED, anchor=True, at=at)
        with self._lock:
            self._append(journal.frame(Frame.HEAD, head.cose))
            self._append(journal.frame(Frame.CLOSE))
        position = self.sample().position
        self.sync_journal()
        self.confirmed_position = position
        size = 0
        dtypes: dict[str, str] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        if self._file is not None:
            shapes, dtypes = dict(self._file.shapes), file_dtypes(self._file)
            with self._hdf5("closing a segment"):
                size = finish_file(self._file, self.tree, self.part_path, self.path, self.storage)
        self.release()
        return Closed(
            self.path, self.journal_path, self.opening.segment_id, head.hash, head.cose, State.CLOSED, size, self.opening.ordinal,
            self.opening.series, dict(self.written), dict(self.gaps), dict(self.last_seq), dict(self.last_time), shapes, dtypes,
            () if self.with_data else tuple(self.tree.payloads),
        )  # fmt: skip

    def release(self) -> None:
        """Close the descriptors; the files stay as they are."""
        for fd in (self._journal, self._data):
            if fd >= 0:
                self.storage.close(fd)
        self._journal = self._data = -1

    def abandon(self) -> list[Item]:
        """Give up after a disk error: recovery will make of the files what is durable.

        Returns:
            the items that were written here and never became durable, in order; they are no longer this segment's.
        """
        # Under the lock of the commits: one that is under way may still confirm some of them.
        with self.committing:
            items = [pending.item for pending in self._pending]
            self._pending.clear()
            if self._file is not None:
                self._file.abandon()
            if self._journal >= 0:
                # Those items go to another segment: what the journal says of them must not be recovered as well.
                with contextlib.suppress(DiskError):
                    self.storage.cut(self._journal, self.confirmed_position)
            self.release()
        return items

    @contextlib.contextmanager
    def _hdf5(self, doing: str) -> Iterator[None]:
        """Whatever HDF5 fails at leaves its file in doubt, so the segment is given up; a refusal of the disk is told as such."""
        try:
            yield
        except Exception as error:
            self._broken(doing, error)
            raise

    def _broken(self, doing: str, error: Exception) -> None:
        refusal = (self._file.refused if self._file is not None else None) or as_disk_error(doing, error)
        self.failed = refusal or DiskError(f"HDF5 failed at {doing}", why=str(error), code="HDF5_FAILED")
        if refusal is not None:
            raise refusal from error

    def _sync(self, fd: int) -> None:
        try:
            self.storage.sync_data(fd)
        except DiskError as error:
            self.failed = error
            raise

    def _frame(self, encoded: bytes) -> None:
        self._staged += encoded

    def _append(self, encoded: bytes | bytearray) -> None:
        self._buffer += encoded
        self._position += len(encoded)
