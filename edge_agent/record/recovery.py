"""Makes a segment of what a crash left: the journal, and the payload bytes that it points to.

Never opens the broken HDF5. The recovered segment has the same segment id, the same DSDs and leaves 0..k-1 unchanged, k being the last good prefix; then the rows that the
journal holds and no chunk did, GAP(crash), META, CLOSE(recovered), and a close head of this boot with state recovered. A journal that holds CLOSE is finished with exactly its leaves.
If a durable head covers more leaves than can be read back, the segment is damaged: nothing is signed over it, `Damaged` is raised and the files go to quarantine.

The crash it models: SIGKILL or power loss at any moment. Idempotent: a crash during recovery leaves the journal in place and recovery begins again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.codec import encoder
from edge_agent.errors import IntegrityError
from edge_agent.model import NO_TIME, Cause, Valid
from edge_agent.record import journal
from edge_agent.record.journal import Frame, LeafFrame, Opening, RowsFrame, TableFrame
from edge_agent.record.segment_writer import JOURNAL, PART, Closed, close_leaf, file_dtypes, finish_file
from edge_agent.record.session import Session
from edge_agent.record.tree import SignedHead, Tree
from edge_agent.seal import cose, leaf
from edge_agent.seal.dsd import Counter, Dsd, parse_dsd
from edge_agent.seal.head import State, head_hash, parse_head
from edge_agent.seal.keys import KeyChain
from edge_agent.seal.meta import DatasetMeta, MetaObject, meta_digest
from edge_agent.segment import layout
from edge_agent.segment.file import SegmentFile
from edge_agent.segment.skeleton import parse_meta
from edge_agent.storage import Storage


class Damaged(IntegrityError):
    """What was signed as durable cannot be read back."""

    default_code = "SEGMENT_DAMAGED"


class NothingDurable(Exception):  # noqa: N818 - an outcome, not an error
    """The journal holds nothing that was ever acknowledged; the files can go."""


@dataclass(slots=True)
class _Rows:
    """A table as the journal tells it: columns of bytes, row by row."""

    table: TableFrame
    parts: list[list[bytes]] = field(default_factory=list)
    n: int = 0


@dataclass(slots=True)
class Remains:
    """The good prefix of a journal, and the payload bytes of its chunks."""

    opening: Opening
    open_leaf: leaf.Open
    payloads: list[bytes] = field(default_factory=list)
    stored: dict[int, bytes] = field(default_factory=dict)
    dsds: dict[bytes, Dsd] = field(default_factory=dict)
    objects: dict[str, MetaObject] = field(default_factory=dict)
    tables: dict[int, _Rows] = field(default_factory=dict)
    heads: list[SignedHead] = field(default_factory=list)
    torn: bool = False


def read_remains(journal_path: Path, part_path: Path, limit: int | None = None) -> Remains:
    """Read the good prefix.

    Args:
        journal_path: the journal.
        part_path: the HDF5 file that was open, read by byte offset only; may be missing.
        limit: take the journal only up to this length (a segment whose disk failed while the agent lived on).

    Raises:
        NothingDurable: not even the opening is there.
    """
    data = journal_path.read_bytes()[:limit]
    entries = journal.scan(data)
    opening = next(entries, None)
    if not isinstance(opening, Opening):
        raise NothingDurable
    remains: Remains | None = None
    fd = os.open(part_path, os.O_RDONLY | getattr(os, "O_BINARY", 0)) if part_path.exists() else -1
    try:
        for entry in entries:
            if remains is None:
                first = leaf.parse(entry.payload) if isinstance(entry, LeafFrame) else None
                if not isinstance(first, leaf.Open) or not isinstance(entry, LeafFrame):
                    raise NothingDurable
                remains = Remains(opening, first, [entry.payload])
            elif not _take(remains, entry, fd):
                remains.torn = True
                break
    finally:
        if fd >= 0:
            os.close(fd)
    if remains is None:
        raise NothingDurable
    return remains


def _take(remains: Remains, entry: Any, fd: int) -> bool:
    """Add one journal entry; False when it is a chunk whose bytes are not there."""
    if isinstance(entry, LeafFrame):
        parsed = leaf.parse(entry.payload)
        if isinstance(parsed, leaf.Chunk):
            stored = _pread(fd, parsed.size, entry.offset)
            if hashlib.sha256(stored).digest() != parsed.digest:
                return False
            remains.stored[len(remains.payloads)] = stored
        remains.payloads.append(entry.payload)
    elif isinstance(entry, TableFrame):
        remains.tables[entry.number] = _Rows(entry)
    elif isinstance(entry, RowsFrame):
        rows = remains.tables[entry.number]
        rows.parts.append(_split(rows.table, entry))
        rows.n += entry.n
    elif isinstance(entry, tuple):
        kind, body = entry
        if kind is Frame.DSD:
            dsd = parse_dsd(body)
            remains.dsds[dsd.digest()] = dsd
        elif kind is Frame.SKELETON:
            remains.objects = parse_meta(body)
        elif kind is Frame.HEAD:
            payload = cose.parse(body).payload
            remains.heads.append(SignedHead(parse_head(payload), body, head_hash(payload)))
    return True


def _pread(fd: int, size: int, offset: int) -> bytes:
    if fd < 0:
        return b""
    os.lseek(fd, offset, os.SEEK_SET)
    data = bytearray()
    while len(data) < size and (more := os.read(fd, size - len(data))):
        data += more
    return bytes(data)


def _split(table: TableFrame, rows: RowsFrame) -> list[bytes]:
    """The bytes of each column of a ROWS frame."""
    parts = []
    position = 0
    for dtype, shape in zip(table.dtypes, table.shapes, strict=True):
        size = np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64)) * rows.n
        parts.append(rows.columns[position : position + size])
        position += size
    return parts


def recover(
    folder: Path, final_name: str, session: Session, storage: Storage, now_ns: Callable[[], int], policy: bytes, *,
    chain: KeyChain | None, limit: int | None = None, cause: Cause = Cause.CRASH,
) -> Closed:  # fmt: skip
    """Rebuild one segment; the journal stays for the caller to remove once the outbox holds the result.

    Args:
        folder: folder of the run in the spool.
        final_name: name of the finished segment.
        session: this boot's session; signs the close head.
        storage: the file system.
        now_ns: UTC clock.
        policy: policy digest of the run.
        chain: key chain of the boot that wrote the segment.
        limit: see `read_remains`.
        cause: why it was not closed.

    Raises:
        NothingDurable: nothing was acknowledged.
        Damaged: a durable head covers more than can be read back.
    """
    part, journal_path = folder / (final_name + PART), folder / (final_name + JOURNAL)
    remains = read_remains(journal_path, part, limit)
    size = len(remains.payloads)
    covered = max((h.head.size for h in remains.heads), default=0)
    if covered > size:
        raise Damaged(
            f"{final_name}: the journal holds a head over {covered} leaves, {size} can be read back",
            why="chunks that were durable have other bytes now, or none",
            try_="the files are in quarantine; check the disk (smartctl, kernel log)",
        )
    builder = _Builder(remains, session, storage, now_ns, policy, chain, cause)
    if (remains.objects or remains.dsds) and remains.open_leaf.series != "files":
        return builder.with_data(folder, final_name, journal_path)
    return builder.without_data(folder / final_name, journal_path)


@dataclass(slots=True)
class _Builder:
    """Rebuilds a segment from its remains."""

    remains: Remains
    session: Session
    storage: Storage
    now_ns: Callable[[], int]
    policy: bytes
    chain: KeyChain | None
    cause: Cause
    tree: Tree = field(init=False)
    gaps: dict[str, list[leaf.GapLeaf]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Start the tree with the leaves that are there."""
        self.tree = Tree(self.remains.open_leaf.segment_id, self.session, self.now_ns, earlier=self.chain)
        for payload in self.remains.payloads:
            self._leaf(payload)
        # The journal keeps all heads; anchors are the ones that later heads name, the first, and the close.
        named = {h.head.previous for h in self.remains.heads}
        self.tree.anchors = [h for h in self.remains.heads if h.hash in named or h.head.head_seq == 0 or h.head.state is State.CLOSED]
        self.tree.head_seq = 1 + max((h.head.head_seq for h in self.remains.heads), default=-1)

    def with_data(self, folder: Path, final_name: str, journal_path: Path) -> Closed:
        """A segment with an HDF5 file."""
        rebuilt = folder / (final_name + ".rebuilt")
        self.storage.unlink(rebuilt)
        file = SegmentFile(rebuilt)
        self._add_objects(file)
        lengths = self._copy_chunks(file)
        if not self._has(leaf.Close.TYPE):
            self._finish_rows(file, lengths)
            if not self._has(leaf.Meta.TYPE):
                self._declare(file)
            file.add(layout.closing_objects(self.now_ns(), "failed"))
            self._leaf(leaf.Meta(meta_digest(file.objects)).payload())
            self._leaf(close_leaf(file, self.tree.payloads, self.policy, "failed", "recovered").payload())
        head = self._close_head()
        shapes, dtypes = dict(file.shapes), file_dtypes(file)
        size = finish_file(file, self.tree, rebuilt, folder / final_name, self.storage)
        self.storage.unlink(folder / (final_name + PART))
        return self._closed(folder / final_name, journal_path, head, size, shapes, dtypes)

    def without_data(self, path: Path, journal_path: Path) -> Closed:
        """A series of vendor files."""
        if not self._has(leaf.Close.TYPE):
            self._leaf(close_leaf(None, self.tree.payloads, self.policy, "failed", "recovered").payload())
        return self._closed(path, journal_path, self._close_head(), 0, {}, {})

    def _close_head(self) -> SignedHead:
        if self.tree.anchors and self.tree.anchors[-1].head.state is State.CLOSED:
            return self.tree.anchors[-1]
        return self.tree.sign(self.tree.frontier, State.RECOVERED, anchor=True)

    def _has(self, kind: int) -> bool:
        return any(payload[4] == kind for payload in self.remains.payloads)

    def _add_objects(self, file: SegmentFile) -> None:
        """Objects of the last skeleton; a dataset whose DATASET leaf was torn off never had a chunk and is left out."""
        introduced = {p.dsd for p in map(leaf.parse, self.remains.payloads) if isinstance(p, leaf.Dataset)}
        self.remains.dsds = {digest: dsd for digest, dsd in self.remains.dsds.items() if digest in introduced}
        paths = {dsd.path for dsd in self.remains.dsds.values()}
        plain = {
            path: thing
            for path, thing in self.remains.objects.items()
            if not isinstance(thing, DatasetMeta) or thing.value is not None or path in paths
        }
        file.add(plain, tuple(self.remains.dsds.values()))
        self.remains.tables = {n: t for n, t in self.remains.tables.items() if paths.issuperset(t.table.paths)}

    def _leaf(self, payload: bytes) -> None:
        self.tree.append(payload)
        parsed = leaf.parse(payload)
        if isinstance(parsed, leaf.GapLeaf):
            self.gaps.setdefault(parsed.source_id, []).append(parsed)

    def _copy_chunks(self, file: SegmentFile) -> dict[str, int]:
        """Write the chunks that are there; the length of each dataset along its first axis."""
        lengths: dict[str, int] = {}
        most = {path: rows.n for rows in self.remains.tables.values() for path in rows.table.paths}
        for number, stored in self.remains.stored.items():
            chunk = leaf.parse(self.remains.payloads[number])
            assert isinstance(chunk, leaf.Chunk)  # noqa: S101 - only chunks have stored bytes
            dsd = self.remains.dsds[chunk.dsd]
            # The last chunk of a table is padded: its rows end where the journalled rows end.
            rows = chunk.offset[0] + dsd.chunk[0]
            lengths[dsd.path] = min(rows, most.get(dsd.path, rows))
            file.write_chunk(dsd.path, chunk.offset, stored, chunk.filter_mask, lengths[dsd.path])
        return lengths

    def _finish_rows(self, file: SegmentFile, lengths: dict[str, int]) -> None:
        """Chunks for the journalled rows that no chunk holds yet; a frame stream keeps as many rows as it has frames."""
        frames = self._frames_per_source()
        for rows in self.remains.tables.values():
            n = min(rows.n, frames.get(rows.table.source_id, rows.n))
            columns = [b"".join(part[i] for part in rows.parts) for i in range(len(rows.table.paths))]
            for path, dtype, shape, data in zip(rows.table.paths, rows.table.dtypes, rows.table.shapes, columns, strict=True):
                self._write_column(file, path, np.frombuffer(data, dtype).reshape(-1, *shape)[:n], lengths.get(path, 0), rows.table)

    def _frames_per_source(self) -> dict[str, int]:
        counts = {d.source_id: 0 for d in self.remains.dsds.values() if d.counter is Counter.FRAME}
        for number in self.remains.stored:
            chunk = leaf.parse(self.remains.payloads[number])
            assert isinstance(chunk, leaf.Chunk)  # noqa: S101
            dsd = self.remains.dsds[chunk.dsd]
            if dsd.counter is Counter.FRAME:
                counts[dsd.source_id] += 1
        return counts

    def _write_column(self, file: SegmentFile, path: str, values: Any, have: int, table: TableFrame) -> None:
        codec, dsd = encoder(table.codec), file.dsds[path]
        for first in range(have, len(values), table.chunk):
            block = np.zeros((table.chunk, *values.shape[1:]), values.dtype)
            part = values[first : first + table.chunk]
            block[: len(part)] = part
            out = bytearray(codec.bound(block.nbytes, block.dtype.itemsize))
            size, mask = codec.encode(block, out, block.dtype.itemsize)
            stored, offset = bytes(out[:size]), (first, *(0 for _ in values.shape[1:]))
            file.write_chunk(path, offset, stored, mask, first + len(part))
            digest = hashlib.sha256(stored).digest()
            self._leaf(leaf.Chunk(self.tree.tree_id, dsd.digest(), offset, mask, size, digest, self.now_ns()).payload())

    def _declare(self, file: SegmentFile) -> None:
        """The gaps of every stream, and one GAP(crash) a stream: its tail may be missing; the next segment says until when."""
        times = self._last_times()
        for source, group in self._groups().items():
            last = times.get(source, NO_TIME)
            if self._counts_frames(source):
                gaps = self.gaps.get(source, [])
            else:
                self._leaf(leaf.GapLeaf(source, None, None, self.cause.value, None, last, last, "the agent was interrupted").payload())
                gaps = self.gaps[source]
            file.add(layout.gap_objects(group, gaps))

    def _counts_frames(self, source: str) -> bool:
        return any(d.source_id == source and d.counter is Counter.FRAME for d in self.remains.dsds.values())

    def _groups(self) -> dict[str, str]:
        return {d.source_id: d.path.rpartition("/")[0] for d in self.remains.dsds.values()}

    def _last_times(self) -> dict[str, int]:
        times: dict[str, int] = {}
        for rows in self.remains.tables.values():
            column = [p.rpartition("/")[2] for p in rows.table.paths].index("time_arrival")
            if rows.parts:
                times[rows.table.source_id] = int(np.frombuffer(rows.parts[-1][column], rows.table.dtypes[column])[-1])
        return times

    def _counts(self) -> dict[str, int]:
        frames = self._frames_per_source()
        counts = {r.table.source_id: frames.get(r.table.source_id, _events(r)) for r in self.remains.tables.values()}
        for parsed in map(leaf.parse, self.tree.payloads):
            if isinstance(parsed, leaf.FileLeaf):
                key = f"{parsed.path.split('/')[1]}/files"
                counts[key] = counts.get(key, 0) + 1
        return counts

    def _last_seqs(self) -> dict[str, int]:
        return last_sequences(self.tree.payloads, self.remains.dsds, self.remains.open_leaf)

    def _closed(self, path: Path, journal_path: Path, head: SignedHead, size: int, shapes: dict[str, tuple[int, ...]], dtypes: dict[str, str]) -> Closed:
        opening = self.remains.open_leaf
        return Closed(
            path, journal_path, opening.segment_id, head.hash, head.cose, head.head.state, size, opening.ordinal, opening.series,
            self._counts(), self.gaps, self._last_seqs(), self._last_times(), shapes, dtypes,
            tuple(self.tree.payloads) if size == 0 else (),
        )  # fmt: skip


def _events(rows: _Rows) -> int:
    """Rows that are events: last known values, repeated at the start of a run, are not counted."""
    column = [p.rpartition("/")[2] for p in rows.table.paths].index("valid")
    return sum(int(np.count_nonzero(np.frombuffer(part[column], "|u1") != Valid.INITIAL)) for part in rows.parts)


def last_sequences(payloads: Iterable[bytes], dsds: dict[bytes, Dsd], opening: leaf.Open) -> dict[str, int]:
    """The last counter value that each counted source accounted for."""
    last = dict(opening.last_seq)
    for payload in payloads:
        parsed = leaf.parse(payload)
        if isinstance(parsed, leaf.Chunk) and dsds[parsed.dsd].counter is Counter.FRAME:
            last[dsds[parsed.dsd].source_id] = parsed.seq_last
        elif isinstance(parsed, leaf.GapLeaf) and parsed.last is not None:
            last[parsed.source_id] = parsed.last
    return last
