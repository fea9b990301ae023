"""What the leaves of one segment say when read in order: who, which datasets, which chunks, which gaps (docs/signed-chunks.md, Leaves).

Pure: leaf payloads in, an `Account` out. Every rule about order and continuity is checked here, for HDF5 segments and for series of
vendor files alike; what the file really holds is compared with the account elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edge_agent.seal import leaf
from edge_agent.seal.cbor import SealError
from edge_agent.seal.dsd import Counter, Dsd, dsd_digest, parse_dsd
from edge_agent.segment.report import GapCount

NO_META = bytes(32)
"""What CLOSE says of the metadata of a series that has no HDF5 file."""
REASONS = frozenset({"rolled", "run-end", "recovered", "failed"})


@dataclass(slots=True)
class Account:
    """The leaves, sorted by what they are about.

    ``chunks`` maps each DSD digest to its CHUNK leaves by element offset, ``files`` the FILE leaves by path; ``clocks`` are the CLOCK
    leaves with their numbers; ``last_seq`` is the last counter value that each counted source has accounted for.
    """

    opening: leaf.Open
    closing: leaf.Close
    dsds: dict[bytes, Dsd]
    chunks: dict[bytes, dict[tuple[int, ...], leaf.Chunk]] = field(default_factory=dict)
    gaps: list[leaf.GapLeaf] = field(default_factory=list)
    files: dict[str, leaf.FileLeaf] = field(default_factory=dict)
    rows: list[leaf.RowsLeaf] = field(default_factory=list)
    clocks: list[tuple[int, leaf.ClockLeaf]] = field(default_factory=list)
    metas: list[bytes] = field(default_factory=list)
    last_seq: dict[str, int] = field(default_factory=dict)

    @property
    def by_path(self) -> dict[str, Dsd]:
        """DSDs by the path of their dataset."""
        return {dsd.path: dsd for dsd in self.dsds.values()}

    def counted_gaps(self) -> tuple[GapCount, ...]:
        """Gaps summed up per source, sorted by its id."""
        by_source: dict[str, list[int | None]] = {}
        for gap in self.gaps:
            by_source.setdefault(gap.source_id, []).append(gap.count)
        return tuple(
            GapCount(source, len(counts), None if None in counts else sum(c for c in counts if c is not None))
            for source, counts in sorted(by_source.items())
        )

    def uncounted(self) -> tuple[str, ...]:
        """Source ids for which continuity is not promised, sorted: their datasets are all of kind 0."""
        counted = {dsd.source_id for dsd in self.dsds.values() if dsd.counter is Counter.FRAME}
        return tuple(sorted({dsd.source_id for dsd in self.dsds.values()} - counted))


def account(payloads: Sequence[bytes], descriptors: Sequence[bytes], *, files: bool = False) -> Account:
    """Read the leaves of a closed tree.

    Args:
        payloads: all leaf payloads in order.
        descriptors: encoded DSDs in the order of their DATASET leaves.
        files: a series of vendor files: FILE leaves and no datasets; else an HDF5 segment: no FILE leaves.

    Raises:
        SealError: a leaf that cannot be read or stands where it may not, by leaf number or dataset and coordinate.
    """
    leaves = [_parsed(number, payload) for number, payload in enumerate(payloads)]
    opening, closing = (leaves[0], leaves[-1]) if leaves else (None, None)
    if not isinstance(opening, leaf.Open):
        raise SealError("leaf 0 is not OPEN")
    if not isinstance(closing, leaf.Close):
        raise SealError(f"leaf {len(leaves) - 1}, the last one, is not CLOSE")
    _check_close(opening, closing, files=files)
    known = {dsd_digest(encoded): parse_dsd(encoded) for encoded in descriptors}
    if len({dsd.path for dsd in known.values()}) != len(descriptors):
        raise SealError("descriptors: two for one dataset")
    steps = {(dsd.source_id, dsd.step) for dsd in known.values() if dsd.counter is Counter.FRAME}
    if len({source for source, _ in steps}) != len(steps):
        raise SealError("descriptors: two steps for one source")
    result = Account(opening, closing, {})
    reader = _Reader(result, known, _Continuity(known, opening.last_seq), files)
    for number, item in enumerate(leaves[1:-1], 1):
        try:
            reader.take(number, item)
        except SealError as error:
            raise SealError(f"leaf {number}: {error}") from error
    if list(result.dsds) != list(known):
        raise SealError("descriptors: not those that the DATASET leaves introduce, in their order")
    if [closing.meta] != (result.metas[-1:] or [NO_META] * files):
        raise SealError("CLOSE: does not name the last META leaf")
    result.last_seq.update(reader.continuity.last)
    return result


def check_mask(where: str, item: leaf.Chunk, dsd: Dsd) -> None:
    """That a chunk left out none but filters of its dataset.

    Raises:
        SealError: it did.
    """
    if item.filter_mask >> len(dsd.filters):
        raise SealError(f"{where}: filter mask {item.filter_mask:#x} names filters that the dataset does not have")


def _check_close(opening: leaf.Open, closing: leaf.Close, *, files: bool) -> None:
    if closing.reason not in REASONS:
        raise SealError(f"CLOSE: reason {closing.reason!r} is unknown")
    if closing.policy != opening.policy:
        raise SealError("CLOSE: names another policy than OPEN")
    if files and closing.datasets:
        raise SealError("CLOSE: names datasets in a series of vendor files")


def _parsed(number: int, payload: bytes) -> leaf.Leaf:
    try:
        return leaf.parse(payload)
    except SealError as error:
        raise SealError(f"leaf {number}: {error}") from error


@dataclass(slots=True)
class _Reader:
    account: Account
    known: Mapping[bytes, Dsd]
    continuity: _Continuity
    files: bool

    def take(self, number: int, item: leaf.Leaf) -> None:
        """One leaf between OPEN and CLOSE."""
        if isinstance(item, leaf.Chunk) and not self.files:
            self._chunk(item)
        elif isinstance(item, leaf.Dataset) and not self.files:
            self._dataset(item)
        elif isinstance(item, leaf.Meta) and not self.files:
            self.account.metas.append(item.digest)
        elif isinstance(item, leaf.GapLeaf):
            self.account.gaps.append(item)
            self.continuity.gap(item)
        elif isinstance(item, leaf.ClockLeaf):
            self.account.clocks.append((number, item))
        elif isinstance(item, leaf.RowsLeaf) and not self.files:
            self._rows(item)
        elif isinstance(item, leaf.SeqReset):
            self.continuity.reset(item)
        elif isinstance(item, leaf.FileLeaf) and self.files:
            if item.path in self.account.files:
                raise SealError(f"{item.path}: a second leaf for one file")
            self.account.files[item.path] = item
        else:
            raise SealError(f"a leaf of type {item.TYPE} does not belong here")

    def _dataset(self, item: leaf.Dataset) -> None:
        if item.dsd not in self.known:
            raise SealError("introduces a dataset that has no descriptor")
        if item.dsd in self.account.dsds:
            raise SealError(f"introduces {self.known[item.dsd].path} a second time")
        self.account.dsds[item.dsd] = self.known[item.dsd]
        self.account.chunks[item.dsd] = {}

    def _chunk(self, item: leaf.Chunk) -> None:
        dsd = self.account.dsds.get(item.dsd)
        if dsd is None:
            raise SealError("a chunk of a dataset that was not introduced before")
        where = f"{dsd.path} at {item.offset}"
        if item.segment_id != self.account.opening.segment_id:
            raise SealError(f"{where}: a chunk of another segment")
        if len(item.offset) != len(dsd.chunk) or any(o % c for o, c in zip(item.offset, dsd.chunk, strict=True)):
            raise SealError(f"{where}: not on a chunk boundary of {dsd.chunk}")
        check_mask(where, item, dsd)
        if item.offset in self.account.chunks[item.dsd]:
            raise SealError(f"{where}: two leaves for one chunk")
        self.account.chunks[item.dsd][item.offset] = item
        if dsd.counter is Counter.FRAME:
            self.continuity.chunk(where, dsd, item)
        elif (item.seq_first, item.seq_last) != (leaf.NO_COUNTER, leaf.NO_COUNTER):
            raise SealError(f"{where}: a number, and its source does not count")


    def _rows(self, item: leaf.RowsLeaf) -> None:
        dsds = [self.account.dsds.get(name) for name in item.dsds]
        chunks = {None if dsd is None else dsd.chunk[0] for dsd in dsds}
        whole = all(dsd is not None and dsd.maxdims[1:] == dsd.chunk[1:] for dsd in dsds)
        if len(chunks) != 1 or not whole or len(set(item.dsds)) != len(item.dsds):
            raise SealError("rows of no datasets, of one twice, of some not introduced before, or of differently chunked ones")
        (length,) = (n for n in chunks if n is not None)
        where = f"rows {item.first} to {item.first + item.n - 1} of {', '.join(dsd.path for dsd in dsds if dsd is not None)}"
        start = item.first - item.first % length
        if item.first < 0 or item.n < 1 or item.first + item.n > start + length:
            raise SealError(f"{where}: not within one chunk of {length}")
        if any((start, *(0 for _ in dsd.chunk[1:])) in self.account.chunks[name] for name, dsd in zip(item.dsds, dsds, strict=True) if dsd):
            raise SealError(f"{where}: signed after their chunk")
        self.account.rows.append(item)


class _Continuity:
    """For each counted source the number that must come next (docs/signed-chunks.md, Continuity)."""

    def __init__(self, dsds: Mapping[bytes, Dsd], last_seq: Mapping[str, int]) -> None:
        self.steps = {dsd.source_id: dsd.step for dsd in dsds.values() if dsd.counter is Counter.FRAME}
        self.last = {source: last_seq[source] for source in self.steps if source in last_seq}

    def chunk(self, where: str, dsd: Dsd, item: leaf.Chunk) -> None:
        if item.seq_first != item.seq_last or item.seq_last == leaf.NO_COUNTER:
            raise SealError(f"{where}: does not carry one frame number")
        self._expect(f"{where}: frame number", dsd.source_id, item.seq_first)
        self.last[dsd.source_id] = item.seq_last

    def gap(self, item: leaf.GapLeaf) -> None:
        if item.first is None and item.last is None:
            return
        if item.first is None or item.last is None:
            raise SealError(f"gap of {item.source_id}: has only one of its two numbers")
        if item.source_id in self.steps:
            if item.last < item.first:
                raise SealError(f"gap of {item.source_id}: from {item.first} to {item.last} is no range")
            self._expect(f"gap of {item.source_id}: it begins at", item.source_id, item.first)
            self.last[item.source_id] = item.last

    def reset(self, item: leaf.SeqReset) -> None:
        if item.source_id in self.steps:
            self.last[item.source_id] = item.first - self.steps[item.source_id]

    def _expect(self, what: str, source: str, number: int) -> None:
        if source in self.last and number != self.last[source] + self.steps[source]:
            raise SealError(f"{what} {number}, and {self.last[source] + self.steps[source]} must come next")
