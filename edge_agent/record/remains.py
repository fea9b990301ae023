"""What a crash left of one segment: the good prefix of its journal, and the payload bytes that it points to.

The broken HDF5 file is read by byte offset only. A prefix is good when every frame of the journal in it is whole and every chunk has the
bytes that its leaf says. What stands behind it was either never acknowledged, or it was lost by the medium: the durable heads tell which.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from edge_agent.errors import DiskError, IntegrityError
from edge_agent.model import Valid
from edge_agent.record import journal
from edge_agent.record.journal import Entry, Frame, LeafFrame, Opening, RowsFrame, TableFrame, TagsFrame
from edge_agent.record.tree import SignedHead, signed_head
from edge_agent.seal import leaf
from edge_agent.seal.dsd import Counter, Dsd, parse_dsd
from edge_agent.seal.meta import MetaObject
from edge_agent.segment.skeleton import parse_meta
from edge_agent.segment.tags import SOURCE, Tag
from edge_agent.storage import Storage


class Damaged(IntegrityError):
    """What was signed as durable cannot be read back."""

    default_code = "SEGMENT_DAMAGED"


class NothingDurable(Exception):
    """The journal holds nothing that was ever acknowledged; the files can go."""


class Payload:
    """The HDF5 file that was open, read by offset; a missing or unreadable part reads as nothing. A context manager."""

    def __init__(self, path: Path, storage: Storage) -> None:
        """Open ``path`` if it is there."""
        self._storage = storage
        self._fd = storage.reopen(path) if storage.exists(path) else -1

    def read(self, offset: int, chunk: leaf.Chunk) -> bytes | None:
        """The stored bytes of a chunk, if they are what its leaf says."""
        if self._fd < 0:
            return None
        try:
            data = self._storage.read(self._fd, offset, chunk.size)
        except DiskError:
            # A bad sector is as good as other bytes.
            return None
        return data if hashlib.sha256(data).digest() == chunk.digest else None

    def holds(self, entry: LeafFrame, number: int) -> bool:
        """Whether the bytes that a leaf points to can be read back; ``number`` is the leaf's."""
        parsed = leaf.parse(entry.payload)
        return not isinstance(parsed, leaf.Chunk) or self.read(entry.offset, parsed) is not None

    def __enter__(self) -> Payload:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the file."""
        if self._fd >= 0:
            self._storage.close(self._fd)


@dataclass(slots=True)
class Rows:
    """A table as the journal tells it: the bytes of each column, part by part."""

    table: TableFrame
    parts: list[list[bytes]] = field(default_factory=list)
    n: int = 0

    def add(self, rows: RowsFrame) -> None:
        """Append the rows of one frame."""
        part: list[bytes] = []
        position = 0
        for dtype, shape in zip(self.table.dtypes, self.table.shapes, strict=True):
            size = np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64)) * rows.n
            part.append(rows.columns[position : position + size])
            position += size
        self.parts.append(part)
        self.n += rows.n

    @property
    def shared(self) -> bool:
        """Whether the rows are of many sources."""
        return self.table.source_id.startswith(SOURCE)

    def column(self, number: int) -> npt.NDArray[np.generic]:
        """All rows of one column, ``(n, *shape)``."""
        data = b"".join(part[number] for part in self.parts)
        return np.frombuffer(data, self.table.dtypes[number]).reshape(-1, *self.table.shapes[number])

    def digest_of_last(self, n: int) -> bytes:
        """What a ROWS leaf signs of the last ``n`` rows."""
        digest = hashlib.sha256()
        for number, (dtype, shape) in enumerate(zip(self.table.dtypes, self.table.shapes, strict=True)):
            size = n * np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
            tail, found = list[bytes](), 0
            for part in reversed(self.parts):
                if found >= size:
                    break
                tail.append(part[number])
                found += len(part[number])
            digest.update(b"".join(reversed(tail))[-size:])
        return digest.digest()

    def named(self, name: str) -> npt.NDArray[np.generic]:
        """All rows of the column with this name (the last part of its path)."""
        return self.column([path.rpartition("/")[2] for path in self.table.paths].index(name))

    def events(self) -> npt.NDArray[np.bool_]:
        """Which rows are events: last known values, repeated at the start of a run, are not counted."""
        events: npt.NDArray[np.bool_] = self.named("valid") != int(Valid.INITIAL)
        return events


@dataclass(slots=True)
class Remains:
    """The good prefix. ``stored`` maps leaf numbers of chunks to byte offsets; ``covered`` is the size of the largest durable head.

    ``end`` is the length of the journal up to the end of the prefix.
    """

    opening: Opening
    open_leaf: leaf.Open
    end: int = 0
    payloads: list[bytes] = field(default_factory=list)
    chunks: dict[int, leaf.Chunk] = field(default_factory=dict)
    stored: dict[int, int] = field(default_factory=dict)
    dsds: dict[bytes, Dsd] = field(default_factory=dict)
    objects: dict[str, MetaObject] = field(default_factory=dict)
    tables: dict[int, Rows] = field(default_factory=dict)
    tags: list[Tag] = field(default_factory=list)
    heads: list[SignedHead] = field(default_factory=list)
    covered: int = 0
    last_head_seq: int = -1
    _by_path: dict[str, Rows] = field(default_factory=dict)

    def has(self, kind: int) -> bool:
        """Whether a leaf of this type is there."""
        return any(payload[4] == kind for payload in self.payloads)

    def frames(self) -> dict[str, int]:
        """Frames of each source that has a counter."""
        counts = {dsd.source_id: 0 for dsd in self.dsds.values() if dsd.counter is Counter.FRAME}
        for chunk in self.chunks.values():
            dsd = self.dsds[chunk.dsd]
            if dsd.counter is Counter.FRAME:
                counts[dsd.source_id] += 1
        return counts

    def events(self) -> dict[str, int]:
        """Rows of each source that are events."""
        counts: dict[str, int] = {}
        for rows in self.tables.values():
            events = rows.events()
            if not rows.shared:
                counts[rows.table.source_id] = int(np.count_nonzero(events))
                continue
            for number, n in enumerate(np.bincount(rows.named("tag")[events])):
                if n:
                    key = self.tags[number].source_id
                    counts[key] = counts.get(key, 0) + int(n)
        return counts

    def last_times(self) -> dict[str, int]:
        """Arrival of the last row of each source, UTC ns."""
        times: dict[str, int] = {}
        for rows in self.tables.values():
            arrivals = rows.named("time_arrival")
            if not rows.shared:
                times |= {rows.table.source_id: int(arrivals[-1])} if rows.n else {}
                continue
            numbers, last = np.unique(rows.named("tag")[::-1], return_index=True)
            for number, time_ns in zip(numbers.tolist(), arrivals[::-1][last].tolist(), strict=True):
                key = self.tags[number].source_id
                times[key] = max(time_ns, times.get(key, time_ns))
        return times

    def take(self, entry: Entry) -> None:
        """Add one journal entry."""
        if isinstance(entry, LeafFrame):
            parsed = leaf.parse(entry.payload)
            if isinstance(parsed, leaf.Chunk):
                self.chunks[len(self.payloads)] = parsed
                self.stored[len(self.payloads)] = entry.offset
            elif isinstance(parsed, leaf.RowsLeaf):
                self._check_rows(parsed)
            self.payloads.append(entry.payload)
        elif isinstance(entry, TableFrame):
            self.tables[entry.number] = self._by_path[entry.paths[0]] = Rows(entry)
        elif isinstance(entry, TagsFrame):
            self.tags += entry.tags
        elif isinstance(entry, RowsFrame):
            self.tables[entry.number].add(entry)
        elif isinstance(entry, tuple):
            kind, body = entry
            if kind is Frame.DSD:
                dsd = parse_dsd(body)
                self.dsds[dsd.digest()] = dsd
            elif kind is Frame.SKELETON:
                self.objects |= parse_meta(body)
            elif kind is Frame.HEAD:
                self.heads.append(signed_head(body))

    def _check_rows(self, item: leaf.RowsLeaf) -> None:
        """The chunks are made of the journal's rows, so these must be the rows that were signed; the journal ends with them here."""
        path = self.dsds[item.dsds[0]].path
        rows = self._by_path[path]
        if rows.n != item.first + item.n or rows.digest_of_last(item.n) != item.digest:
            raise Damaged(
                f"{self.opening.final_name}: rows {item.first} to {item.first + item.n - 1} of {path} are not those that were signed",
                why="the journal has other bytes now", try_="the files are in quarantine; check the disk (smartctl, kernel log)",
            )  # fmt: skip

    def note_heads(self, entries: Iterator[Entry]) -> None:
        """Remember how far the heads among ``entries`` reach: what one covers was durable."""
        for entry in entries:
            if isinstance(entry, tuple) and entry[0] is Frame.HEAD:
                head = signed_head(entry[1]).head
                # Bytes of an instrument may look like a frame; they cannot know the segment's id.
                if head.tree_id == self.open_leaf.segment_id:
                    self.covered = max(self.covered, head.size)
                    self.last_head_seq = max(self.last_head_seq, head.head_seq)

    def drop_half_frame(self) -> None:
        """Forget a last frame whose row of companions was torn off."""
        frames = self.frames()
        for rows in self.tables.values():
            if frames.get(rows.table.source_id, 0) > rows.n and len(self.payloads) - 1 in self.chunks:
                self.payloads.pop()
                del self.chunks[len(self.payloads)], self.stored[len(self.payloads)]


def read_remains(journal_path: Path, storage: Storage, holds: Callable[[LeafFrame, int], bool], limit: int | None = None) -> Remains:
    """Read the good prefix.

    Args:
        journal_path: the journal.
        storage: the file system.
        holds: whether what a leaf with its number stands for is there; the prefix ends before the first one for which it is not.
        limit: take the journal only up to this length (a segment whose disk failed while the agent lived on).

    Raises:
        NothingDurable: not even the opening is there.
        Damaged: the journal cannot be read at all, or it goes on behind an opening that cannot.
    """
    try:
        data = storage.read_file(journal_path)[:limit]
    except DiskError as error:
        raise Damaged(f"{journal_path.name} cannot be read", why=error.why, try_="check the disk (smartctl, kernel log)") from error
    entries = journal.entries(data)
    opening, _ = next(entries, (None, 0))
    first, end = next(entries, (None, 0))
    parsed = leaf.parse(first.payload) if isinstance(first, LeafFrame) else None
    if not isinstance(opening, Opening) or not isinstance(first, LeafFrame) or not isinstance(parsed, leaf.Open):
        if any(_follows_opening(entry) for entry in journal.beyond(data, 0)):
            raise Damaged(
                f"{journal_path.name} has a beginning that cannot be read", why="what was durable has other bytes now",
                try_="the files are in quarantine; check the disk (smartctl, kernel log)",
            )  # fmt: skip
        raise NothingDurable
    remains = Remains(opening, parsed, end, [first.payload])
    for entry, position in entries:
        if isinstance(entry, LeafFrame) and not holds(entry, len(remains.payloads)):
            break
        remains.take(entry)
        remains.end = position
    # Heads stand behind what they cover: one behind the end of the good prefix tells what is missing from it.
    remains.note_heads(journal.beyond(data, 0))
    remains.drop_half_frame()
    return remains


def _follows_opening(entry: Entry) -> bool:
    """Whether an entry is one that is written only when the opening is durable."""
    if isinstance(entry, LeafFrame):
        return entry.payload[4:5] != bytes([leaf.Open.TYPE])
    return not isinstance(entry, Opening) and not (isinstance(entry, tuple) and entry[0] is Frame.SKELETON)
