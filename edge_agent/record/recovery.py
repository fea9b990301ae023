"""Makes a segment of what a crash left.

The recovered segment has the same segment id, the same DSDs and leaves 0..k-1 unchanged, k being the last good prefix (`remains`); then the
rows that the journal holds and no chunk did, GAP(crash), META, CLOSE(recovered), and a close head of this boot with state recovered. A
journal that holds CLOSE is finished with exactly its leaves. If a durable head covers more leaves than can be read back, the segment is
damaged: nothing is signed over it, `Damaged` is raised, no file is touched, and the files go to quarantine.

The crash it models: SIGKILL or power loss at any moment, also during recovery. Idempotent: until the caller removes the journal it can be
done again, and once the finished file (or, for vendor files, the journal) holds a close head, doing it again gives the same one.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_agent.codec import encoder
from edge_agent.errors import DiskError
from edge_agent.model import NO_TIME, Cause
from edge_agent.record import journal
from edge_agent.record.clock import Reading, unexplained
from edge_agent.record.finish import close_leaf, file_dtypes, finish_file
from edge_agent.record.hdf5_errors import as_disk_error
from edge_agent.record.journal import Frame
from edge_agent.record.remains import Damaged, NothingDurable, Payload, Remains, Rows, read_remains
from edge_agent.record.segment_writer import JOURNAL, PART, Closed
from edge_agent.record.session import Session
from edge_agent.record.tree import SignedHead, Tree, signed_head
from edge_agent.seal import leaf
from edge_agent.seal.clock import Clock
from edge_agent.seal.dsd import Counter, Dsd, parse_dsd
from edge_agent.seal.head import State
from edge_agent.seal.keys import KeyChain
from edge_agent.seal.meta import DatasetMeta, GroupMeta, MetaObject, meta_digest
from edge_agent.segment import hdf5, integrity, layout, nexus, nxmx, reader, tags
from edge_agent.segment.file import SegmentFile
from edge_agent.segment.report import INTACT
from edge_agent.segment.types import numpy_dtype, numpy_value
from edge_agent.segment.verify import verify_segment
from edge_agent.storage import Storage

__all__ = ["Damaged", "NothingDurable", "last_sequences", "recover"]

REBUILT = ".rebuilt"
EMPTY = 1 << 20
"""No segment file is larger before its journal says anything."""


def recover(
    folder: Path, final_name: str, session: Session, storage: Storage, now_ns: Callable[[], int], policy: bytes, *,
    chain: KeyChain | None, limit: int | None = None, cause: Cause = Cause.CRASH, clock: Callable[[], Clock] = Clock,
    last: bool = False,
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
        limit: see `read_remains`; then nothing is missing behind it, because what was not durable goes into the next segment.
        cause: why it was not closed.
        clock: what is known of the wall clock.
        last: nothing comes after it in its run, so nothing that could say how many frames are missing behind it.

    Raises:
        NothingDurable: nothing was acknowledged.
        Damaged: a durable head covers more than can be read back.
        DiskError: the disk refused; it can be tried again.
    """
    path, journal_path = folder / final_name, folder / (final_name + JOURNAL)
    part = folder / (final_name + PART)
    if storage.exists(path):
        # It got its name when it was complete and durable; only the steps after it are missing.
        closed = _finished(path, journal_path, storage)
        # The name itself perhaps not yet, and the journal goes next.
        storage.sync_folder(folder)
        storage.unlink(part)
        return closed
    with Payload(part, storage) as payload:
        try:
            remains = read_remains(journal_path, storage, payload.holds, limit)
        except NothingDurable:
            if storage.exists(part) and storage.size(part) > EMPTY:
                raise _without_journal(part) from None
            raise
        if remains.covered > len(remains.payloads):
            raise Damaged(
                f"{final_name}: the journal holds a head over {remains.covered} leaves, {len(remains.payloads)} can be read back",
                why="what was durable has other bytes now, or none",
                try_="the files are in quarantine; check the disk (smartctl, kernel log)",
            )
        builder = _Builder(remains, session, storage, now_ns, policy, chain, cause if limit is None else None, clock, last)
        if remains.objects and remains.open_leaf.series != "files":
            closed = builder.with_data(path, journal_path, payload)
        else:
            closed = builder.without_data(path, journal_path)
    storage.unlink(part)
    return closed


def _finished(path: Path, journal_path: Path, storage: Storage) -> Closed:
    """What a complete file says of itself; the journal adds what is counted by rows."""
    report = verify_segment(path, None, storage)
    if report.level < INTACT:
        raise Damaged(
            f"{path.name}: the finished file is not what was signed", why=report.reason,
            try_="the files are in quarantine; check the disk (smartctl, kernel log)",
        )  # fmt: skip
    with hdf5.opened(path, storage) as file:
        contents = reader.walk(file)
        tables = integrity.read(contents.integrity)
        shapes = {name: tuple(int(n) for n in dataset.shape) for name, dataset in contents.chunked.items()}
    dsds = {dsd.digest(): dsd for dsd in map(parse_dsd, tables.descriptors)}
    dtypes = {dsd.path: numpy_dtype(dsd.type).str for dsd in dsds.values()}
    head = signed_head(tables.heads[-1])
    try:
        remains = read_remains(journal_path, storage, lambda entry, number: tables.leaves[number : number + 1] == (entry.payload,))
    except NothingDurable:
        raise _without_journal(path) from None
    return _closed(path, journal_path, remains, tables.leaves, head, storage.size(path), shapes, dtypes, dsds)


def _without_journal(path: Path) -> Damaged:
    return Damaged(
        f"{path.name}: its journal has lost what it held", why=f"{path.name} is there, and was made after it",
        try_="the files are in quarantine; check the disk (smartctl, kernel log)",
    )  # fmt: skip


@dataclass(slots=True)
class _Builder:
    """Rebuilds a segment from its remains."""

    remains: Remains
    session: Session
    storage: Storage
    now_ns: Callable[[], int]
    policy: bytes
    chain: KeyChain | None
    cause: Cause | None
    clock: Callable[[], Clock]
    last: bool
    tree: Tree = field(init=False)
    at: Reading = field(init=False)
    gaps: dict[str, list[leaf.GapLeaf]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Start the tree with the leaves that are there."""
        self.tree = Tree(self.remains.open_leaf.segment_id, self.session, self.now_ns, self.clock, earlier=self.chain)
        self.at = self.tree.read()
        for payload in self.remains.payloads:
            self._leaf(payload)
        # The journal keeps all heads; anchors are the ones that later heads name, the first, and the close.
        named = {h.head.previous for h in self.remains.heads}
        self.tree.anchors = [h for h in self.remains.heads if h.hash in named or h.head.head_seq == 0 or h.head.state is not State.OPEN]
        self.tree.head_seq = 1 + self.remains.last_head_seq

    def with_data(self, path: Path, journal_path: Path, payload: Payload) -> Closed:
        """A segment with an HDF5 file."""
        rebuilt = path.with_name(path.name + REBUILT)
        self.storage.unlink(rebuilt)
        file: SegmentFile | None = None
        try:
            file = SegmentFile(rebuilt, self.storage)
            self._build(file, payload)
            head = self._close_head()
            shapes, dtypes = dict(file.shapes), file_dtypes(file)
            size = finish_file(file, self.tree, rebuilt, path, self.storage)
        except Exception as error:
            if file is not None:
                file.abandon()
            with contextlib.suppress(DiskError):
                self.storage.unlink(rebuilt)
            refusal = (file.refused if file is not None else None) or as_disk_error(f"rebuilding {path.name}", error)
            if refusal is not None:
                raise refusal from error
            raise
        return _closed(path, journal_path, self.remains, self.tree.payloads, head, size, shapes, dtypes, self.remains.dsds)

    def without_data(self, path: Path, journal_path: Path) -> Closed:
        """A series of vendor files, or a segment that never got so far: a tree without a file, finished in its journal."""
        if not self.remains.has(leaf.Close.TYPE):
            self._declare_clock()
            self._leaf(close_leaf(None, self.tree.payloads, self.policy, "failed", "recovered").payload())
        head = self._close_head()
        added = b"".join(journal.leaf_frame(0, payload) for payload in self.tree.payloads[len(self.remains.payloads) :])
        if head not in self.remains.heads:
            added += journal.frame(Frame.HEAD, head.cose)
        if added:
            self._append(journal_path, added)
        return _closed(path, journal_path, self.remains, self.tree.payloads, head, 0, {}, {}, self.remains.dsds)

    def _append(self, journal_path: Path, added: bytes) -> None:
        """Make what was signed durable before it is told to anybody."""
        fd = self.storage.reopen(journal_path)
        try:
            self.storage.cut(fd, self.remains.end)
            self.storage.write(fd, added)
            self.storage.sync_data(fd)
        finally:
            self.storage.close(fd)

    def _build(self, file: SegmentFile, payload: Payload) -> None:
        self._add_objects(file)
        lengths = self._copy_chunks(file, payload)
        if self.remains.has(leaf.Close.TYPE):
            return
        self._finish_rows(file, lengths)
        if not self.remains.has(leaf.Meta.TYPE):
            self._declare(file)
        self._declare_clock()
        complete = nexus.segment_completeness(_counts(self.remains), self.gaps, self._counted(file))
        file.add(complete | layout.closing_objects(self.now_ns(), "failed") | self._detector(layout.iso(self.now_ns())))
        self._leaf(leaf.Meta(meta_digest(file.objects)).payload())
        self._leaf(close_leaf(file, self.tree.payloads, self.policy, "failed", "recovered").payload())

    def _close_head(self) -> SignedHead:
        if self.tree.anchors and self.tree.anchors[-1].head.state is not State.OPEN:
            return self.tree.anchors[-1]
        return self.tree.sign(self.tree.frontier, State.RECOVERED, anchor=True, at=self.at)

    def _declare_clock(self) -> None:
        """When this boot itself began the segment (its disk failed), its close head follows the last anchor like any other."""
        before = self.tree.anchors[-1].head if self.tree.anchors else None
        if before is not None and before.boot_id == self.session.boot_id:
            later = map(leaf.parse, self.tree.payloads[before.size :])
            step = unexplained(before, [item for item in later if isinstance(item, leaf.ClockLeaf)], self.at)
            if step is not None:
                self._leaf(step.payload())

    def _add_objects(self, file: SegmentFile) -> None:
        """Objects of the last skeleton; a dataset whose DATASET leaf was torn off never had a chunk and is left out."""
        remains = self.remains
        introduced = {p.dsd for p in map(leaf.parse, remains.payloads) if isinstance(p, leaf.Dataset)}
        remains.dsds = {digest: dsd for digest, dsd in remains.dsds.items() if digest in introduced}
        paths = {dsd.path for dsd in remains.dsds.values()}
        remains.tables = {n: t for n, t in remains.tables.items() if paths.issuperset(t.table.paths)}
        unsigned = set() if remains.has(leaf.Meta.TYPE) else self._closing_paths()
        plain: dict[str, MetaObject] = {}
        for path, thing in remains.objects.items():
            chunked = isinstance(thing, DatasetMeta) and thing.value is None
            if path not in unsigned and (not chunked or path in paths):
                plain[path] = thing
        file.add(plain, tuple(remains.dsds.values()))

    def _closing_paths(self) -> set[str]:
        """What an orderly close had added and not signed: recovery says it in its own words."""
        paths = {*layout.closing_objects(0, ""), *nexus.completeness(())}
        for group in self._groups().values():
            paths |= set(layout.gap_objects(group, ()))
        return paths | set(tags.closing_objects((), {})) | {nxmx.ESTIMATED}

    def _detector(self, ended: str) -> dict[str, MetaObject]:
        """What NXmx demands, from the record as it was when the segment was opened."""
        stored = self.remains.objects.get(nexus.RECORD)
        if not isinstance(stored, DatasetMeta) or stored.value is None:
            return {}
        frames = {d.source_id: d.chunk[1:] for d in self.remains.dsds.values() if d.counter is Counter.FRAME}
        return nxmx.detector_objects(str(numpy_value(stored.value)), self.remains.open_leaf.series, frames, ended)

    def _leaf(self, payload: bytes) -> None:
        self.tree.append(payload)
        parsed = leaf.parse(payload)
        if isinstance(parsed, leaf.GapLeaf):
            self.gaps.setdefault(parsed.source_id, []).append(parsed)

    def _copy_chunks(self, file: SegmentFile, payload: Payload) -> dict[str, int]:
        """Write the chunks that are there; the length of each dataset along its first axis."""
        lengths: dict[str, int] = {}
        most = {path: rows.n for rows in self.remains.tables.values() for path in rows.table.paths}
        for number, chunk in self.remains.chunks.items():
            stored = payload.read(self.remains.stored[number], chunk)
            dsd = self.remains.dsds[chunk.dsd]
            if stored is None:
                raise Damaged(f"{dsd.path} at {chunk.offset} could be read a moment ago and cannot now", try_="check the disk (smartctl)")
            # The last chunk of a table is padded: its rows end where the journalled rows end.
            rows = chunk.offset[0] + dsd.chunk[0]
            lengths[dsd.path] = min(rows, most.get(dsd.path, rows))
            file.write_chunk(dsd.path, chunk.offset, stored, chunk.filter_mask, lengths[dsd.path])
        return lengths

    def _finish_rows(self, file: SegmentFile, lengths: dict[str, int]) -> None:
        """Chunks for the journalled rows that no chunk holds yet; a frame stream keeps as many rows as it has frames."""
        frames = self.remains.frames()
        for rows in self.remains.tables.values():
            n = min(rows.n, frames.get(rows.table.source_id, rows.n))
            arrivals = rows.named("time_arrival")
            for number, path in enumerate(rows.table.paths):
                self._write_column(file, path, rows.column(number)[:n], lengths.get(path, 0), arrivals, rows)

    def _write_column(
        self, file: SegmentFile, path: str, values: npt.NDArray[np.generic], have: int, arrivals: npt.NDArray[np.generic], rows: Rows
    ) -> None:
        codec, dsd, chunk = encoder(rows.table.codec), file.dsds[path], rows.table.chunk
        for first in range(have, len(values), chunk):
            block = np.zeros((chunk, *values.shape[1:]), values.dtype)
            part = values[first : first + chunk]
            block[: len(part)] = part
            out = bytearray(codec.bound(block.nbytes, block.dtype.itemsize))
            size, mask = codec.encode(block, out, block.dtype.itemsize)
            stored, offset = bytes(out[:size]), (first, *(0 for _ in values.shape[1:]))
            file.write_chunk(path, offset, stored, mask, first + len(part))
            digest = hashlib.sha256(stored).digest()
            self._leaf(leaf.Chunk(self.tree.tree_id, dsd.digest(), offset, mask, size, digest, int(arrivals[first])).payload())

    def _declare(self, file: SegmentFile) -> None:
        """The gaps of every stream; after a crash one more a row stream, whose tail may be missing: the next segment says until when.

        The next frame says exactly how many are missing before it; where none comes any more, frames have such a gap too.
        """
        times, counted, groups = self.remains.last_times(), self.remains.frames(), self._groups()
        if self.cause is not None:
            for source in dict.fromkeys((*groups, *times)):
                if source not in counted or self.last:
                    last = times.get(source, NO_TIME)
                    self._leaf(leaf.GapLeaf(source, None, None, self.cause.value, None, last, last, "the agent was interrupted").payload())
        for source, group in groups.items():
            file.add(layout.gap_objects(group, self.gaps.get(source, [])))
        if self.remains.tags:
            file.add(tags.closing_objects(self.remains.tags, self.gaps))

    def _counted(self, file: SegmentFile) -> dict[str, bool]:
        """Which sources count their items, as their groups and tags say."""
        groups = {source: file.objects[group] for source, group in self._groups().items()}
        own = {s: bool(numpy_value(group.attributes["counted"])) for s, group in groups.items() if isinstance(group, GroupMeta)}
        return own | {tag.source_id: tag.counted for tag in self.remains.tags}

    def _groups(self) -> dict[str, str]:
        """The groups of the streams that have their own."""
        dsds = self.remains.dsds.values()
        return {d.source_id: d.path.rpartition("/")[0] for d in dsds if not d.source_id.startswith(tags.SOURCE)}


def _closed(
    path: Path, journal_path: Path, remains: Remains, payloads: Sequence[bytes], head: SignedHead, size: int,
    shapes: dict[str, tuple[int, ...]], dtypes: dict[str, str], dsds: dict[bytes, Dsd],
) -> Closed:  # fmt: skip
    opening = remains.open_leaf
    gaps: dict[str, list[leaf.GapLeaf]] = {}
    files: dict[str, int] = {}
    for parsed in map(leaf.parse, payloads):
        if isinstance(parsed, leaf.GapLeaf):
            gaps.setdefault(parsed.source_id, []).append(parsed)
        elif isinstance(parsed, leaf.FileLeaf):
            key = f"{parsed.path.split('/')[1]}/files"
            files[key] = files.get(key, 0) + 1
    return Closed(
        path, journal_path, opening.segment_id, head.hash, head.cose, head.head.state, size, opening.ordinal, opening.series,
        _counts(remains) | files, gaps, last_sequences(payloads, dsds, opening), remains.last_times(), shapes, dtypes,
        tuple(payloads) if size == 0 else (),
    )  # fmt: skip


def _counts(remains: Remains) -> dict[str, int]:
    frames = remains.frames()
    return {source: frames.get(source, n) for source, n in remains.events().items()}


def last_sequences(payloads: Iterable[bytes], dsds: dict[bytes, Dsd], opening: leaf.Open) -> dict[str, int]:
    """The last counter value that each counted source accounted for."""
    last = dict(opening.last_seq)
    steps = {dsd.source_id: dsd.step for dsd in dsds.values() if dsd.counter is Counter.FRAME}
    for parsed in map(leaf.parse, payloads):
        if isinstance(parsed, leaf.Chunk) and dsds[parsed.dsd].counter is Counter.FRAME:
            last[dsds[parsed.dsd].source_id] = parsed.seq_last
        elif isinstance(parsed, leaf.GapLeaf) and parsed.last is not None and parsed.source_id in steps:
            last[parsed.source_id] = parsed.last
        elif isinstance(parsed, leaf.SeqReset) and parsed.source_id in steps:
            last[parsed.source_id] = parsed.first - steps[parsed.source_id]
    return last
