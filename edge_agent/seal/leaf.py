"""Leaf payloads: ``"HSC1" || type || body`` (docs/signed-chunks.md, Leaves and Agent log).

One frozen dataclass a leaf with ``payload()``; `parse` is the inverse. CHUNK is fixed-width big-endian because there are many;
all others are CBOR maps.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from edge_agent.seal import log_leaf
from edge_agent.seal.cbor import SealError, dumps, fields, loads, octets
from edge_agent.seal.clock import Clock, parse_clock

MAGIC = b"HSC1"
NO_COUNTER = 2**64 - 1
PIECE = 8 * 1024 * 1024
MAX_RANK = 32
_HEAD = struct.Struct(">16s32sB")
_TAIL = struct.Struct(">IQ32sqQQ")
OptInt = (int, type(None))


@dataclass(frozen=True, slots=True)
class Chunk:
    """One stored chunk at element ``offset`` of the dataset ``dsd``.

    ``digest`` is SHA-256 of the ``size`` stored bytes; ``t_utc_ns`` is the arrival of the first byte.
    """

    TYPE: ClassVar[int] = 1
    segment_id: bytes
    dsd: bytes
    offset: tuple[int, ...]
    filter_mask: int
    size: int
    digest: bytes
    t_utc_ns: int
    seq_first: int = NO_COUNTER
    seq_last: int = NO_COUNTER

    def payload(self) -> bytes:
        """The signed bytes."""
        return chunk_payload(
            self.segment_id, self.dsd, self.offset, self.filter_mask, self.size, self.digest, self.t_utc_ns, self.seq_first, self.seq_last
        )


def chunk_payload(
    segment_id: bytes, dsd: bytes, offset: tuple[int, ...], mask: int, size: int, digest: bytes, t_utc_ns: int, first: int, last: int
) -> bytes:
    """The payload of a `Chunk`, without making one: there is one for each frame."""
    rank = len(offset)
    head = _HEAD.pack(segment_id, dsd, rank) + struct.pack(f">{rank}Q", *offset)
    return b"HSC1\x01" + head + _TAIL.pack(mask, size, digest, t_utc_ns, first, last)


def chunk_payload_size(rank: int) -> int:
    """Bytes of a CHUNK payload of that rank."""
    return 5 + _HEAD.size + 8 * rank + _TAIL.size


@dataclass(frozen=True, slots=True)
class Dataset:
    """Introduces a DSD."""

    TYPE: ClassVar[int] = 2
    dsd: bytes

    def payload(self) -> bytes:
        """The signed bytes."""
        return _payload(self.TYPE, {1: self.dsd})


@dataclass(frozen=True, slots=True)
class Meta:
    """Digest over all metadata of the file."""

    TYPE: ClassVar[int] = 3
    digest: bytes

    def payload(self) -> bytes:
        """The signed bytes."""
        return _payload(self.TYPE, {1: self.digest})


@dataclass(frozen=True, slots=True)
class GapLeaf:
    """Something that is missing: inclusive counter values where the source counts, and the times around it (UTC ns)."""

    TYPE: ClassVar[int] = 4
    source_id: str
    first: int | None
    last: int | None
    cause: str
    count: int | None
    t_from: int
    t_to: int
    detail: str = ""

    def payload(self) -> bytes:
        """The signed bytes."""
        body = {1: self.source_id, 2: self.first, 3: self.last, 4: self.cause, 5: self.count, 6: self.t_from, 7: self.t_to, 8: self.detail}
        return _payload(self.TYPE, body)


@dataclass(frozen=True, slots=True)
class Close:
    """The last leaf: final shape and number of chunks of each DSD, the last META digest, how it ended."""

    TYPE: ClassVar[int] = 6
    datasets: tuple[tuple[bytes, tuple[int, ...], int], ...]
    meta: bytes
    policy: bytes
    outcome: str
    reason: str

    def payload(self) -> bytes:
        """The signed bytes."""
        datasets = [[dsd, list(shape), chunks] for dsd, shape, chunks in self.datasets]
        return _payload(self.TYPE, {1: datasets, 2: self.meta, 3: self.policy, 4: self.outcome, 5: self.reason})


@dataclass(frozen=True, slots=True)
class Open:
    """Leaf 0: whose segment this is and what it follows. ``last_seq`` maps source ids to the last counter value before it."""

    TYPE: ClassVar[int] = 7
    agent_id: bytes
    run_id: bytes
    run_no: int
    ordinal: int
    previous: tuple[bytes, bytes] | None
    policy: bytes
    boot_id: bytes
    segment_id: bytes
    series: str
    last_seq: Mapping[str, int] = field(default_factory=dict)

    def payload(self) -> bytes:
        """The signed bytes."""
        previous = list(self.previous) if self.previous else None
        return _payload(
            self.TYPE,
            {
                1: self.agent_id, 2: self.run_id, 3: self.run_no, 4: self.ordinal, 5: previous, 6: dict(self.last_seq),
                7: self.policy, 8: self.boot_id, 9: self.segment_id, 10: self.series,
            },
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class SeqReset:
    """The source's counter began again at ``first``."""

    TYPE: ClassVar[int] = 8
    source_id: str
    last: int | None
    first: int
    cause: str

    def payload(self) -> bytes:
        """The signed bytes."""
        return _payload(self.TYPE, {1: self.source_id, 2: self.last, 3: self.first, 4: self.cause})


@dataclass(frozen=True, slots=True)
class ClockLeaf:
    """The wall clock was set, or what is known of it changed, between the readings before and at ``t_utc_ns``, ``t_boot_ns``.

    ``step_ns`` is how far it was set forward (negative: back) against the boot clock; ``sync`` is the new state. One of them is there.
    """

    TYPE: ClassVar[int] = 5
    step_ns: int | None
    sync: Clock | None
    t_utc_ns: int
    t_boot_ns: int

    def payload(self) -> bytes:
        """The signed bytes."""
        sync = None if self.sync is None else self.sync.value()
        return _payload(self.TYPE, {1: self.step_ns, 2: sync, 3: self.t_utc_ns, 4: self.t_boot_ns})


@dataclass(frozen=True, slots=True)
class RowsLeaf:
    """Rows that no CHUNK holds yet: ``n`` of them from row ``first``, in the columns ``dsds`` of one table.

    ``digest`` is SHA-256 of their raw bytes, one column after the other. All of them will be in one chunk of each column.
    """

    TYPE: ClassVar[int] = 9
    dsds: tuple[bytes, ...]
    first: int
    n: int
    digest: bytes

    def payload(self) -> bytes:
        """The signed bytes."""
        return _payload(self.TYPE, {1: list(self.dsds), 2: self.first, 3: self.n, 4: self.digest})


@dataclass(frozen=True, slots=True)
class FileLeaf:
    """A vendor's file carried byte for byte; ``root`` is over pieces of 8 MiB."""

    TYPE: ClassVar[int] = 10
    path: str
    size: int
    root: bytes
    digest: bytes
    mtime_ns: int

    def payload(self) -> bytes:
        """The signed bytes."""
        return _payload(self.TYPE, {1: self.path, 2: self.size, 3: PIECE, 4: self.root, 5: self.digest, 6: self.mtime_ns})


@dataclass(frozen=True, slots=True)
class Boot:
    """Agent log: the process started."""

    TYPE: ClassVar[int] = 64
    agent_id: bytes
    boot_id: bytes
    version: str
    t_ns: int

    def payload(self) -> bytes:
        """The signed bytes."""
        return _payload(self.TYPE, {1: self.agent_id, 2: self.boot_id, 3: self.version, 4: self.t_ns})


@dataclass(frozen=True, slots=True)
class RunOpen:
    """Agent log: a run began; numbers rise strictly by one."""

    TYPE: ClassVar[int] = 66
    run_no: int
    run_id: bytes
    policy: bytes
    t_ns: int

    def payload(self) -> bytes:
        """The signed bytes."""
        return _payload(self.TYPE, {1: self.run_no, 2: self.run_id, 3: self.policy, 4: self.t_ns})


@dataclass(frozen=True, slots=True)
class RunClose:
    """Agent log: a run ended; ``sidecar`` is the SHA-256 of its ``.hsc``."""

    TYPE: ClassVar[int] = 67
    run_no: int
    run_id: bytes
    sidecar: bytes
    t_ns: int

    def payload(self) -> bytes:
        """The signed bytes."""
        return _payload(self.TYPE, {1: self.run_no, 2: self.run_id, 3: self.sidecar, 4: self.t_ns})


@dataclass(frozen=True, slots=True)
class SegmentClose:
    """Agent log: a segment was closed with this head."""

    TYPE: ClassVar[int] = 68
    segment_id: bytes
    head: bytes
    run_id: bytes
    ordinal: int
    t_ns: int

    def payload(self) -> bytes:
        """The signed bytes."""
        return _payload(self.TYPE, {1: self.segment_id, 2: self.head, 3: self.run_id, 4: self.ordinal, 5: self.t_ns})


@dataclass(frozen=True, slots=True)
class SpoolFree:
    """Agent log: local space was freed, and the custody receipts (SHA-256 of their COSE) that allowed it."""

    TYPE: ClassVar[int] = 69
    item_id: str
    receipts: tuple[bytes, ...]
    t_ns: int

    def payload(self) -> bytes:
        """The signed bytes."""
        return _payload(self.TYPE, {1: self.item_id, 2: list(self.receipts), 3: self.t_ns})


@dataclass(frozen=True, slots=True)
class Amended:
    """Agent log: a closed run was amended; ``amendment`` is the hash of the amendment's payload."""

    TYPE: ClassVar[int] = 80
    run_id: bytes
    number: int
    amendment: bytes
    t_ns: int

    def payload(self) -> bytes:
        """The signed bytes."""
        return _payload(self.TYPE, {1: self.run_id, 2: self.number, 3: self.amendment, 4: self.t_ns})


SegmentLeaf = Chunk | Dataset | Meta | GapLeaf | ClockLeaf | Close | Open | SeqReset | RowsLeaf | FileLeaf
LogLeaf = Boot | RunOpen | RunClose | SegmentClose | SpoolFree | Amended | log_leaf.LogLeaf
Leaf = SegmentLeaf | LogLeaf


def _payload(kind: int, body: dict[int, Any]) -> bytes:
    return MAGIC + bytes((kind,)) + dumps(body)


def parse(payload: bytes) -> Leaf:
    """The leaf that a payload stands for.

    Raises:
        SealError: not a leaf of HSC/1, or not exactly its encoding.
    """
    if payload[:4] != MAGIC or len(payload) < 6:
        raise SealError("leaf: does not begin with HSC1 and a type")
    kind, body = payload[4], payload[5:]
    if kind == Chunk.TYPE:
        return _parse_chunk(body)
    reader = _READERS.get(kind) or log_leaf.READERS.get(kind)
    if reader is None:
        raise SealError(f"leaf: type {kind} is unknown")
    try:
        leaf = reader(loads(body, f"leaf of type {kind}"))
        exact = leaf.payload() == payload
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, SealError) else SealError(f"leaf of type {kind}: {error}") from error
    if not exact:
        raise SealError(f"leaf of type {kind}: a field of a wrong type")
    return leaf


def _parse_chunk(body: bytes) -> Chunk:
    if len(body) < _HEAD.size:
        raise SealError("CHUNK leaf: too short")
    segment_id, dsd, rank = _HEAD.unpack_from(body)
    if rank > MAX_RANK or len(body) != _HEAD.size + 8 * rank + _TAIL.size:
        raise SealError(f"CHUNK leaf: {len(body)} bytes do not fit rank {rank}")
    offset = struct.unpack_from(f">{rank}Q", body, _HEAD.size)
    mask, size, digest, t_utc_ns, first, last = _TAIL.unpack_from(body, _HEAD.size + 8 * rank)
    return Chunk(segment_id, dsd, offset, mask, size, digest, t_utc_ns, first, last)


def _dataset(v: Any) -> Leaf:
    return Dataset(*fields(v, "DATASET", k1=32))


def _meta(v: Any) -> Leaf:
    return Meta(*fields(v, "META", k1=32))


def _gap(v: Any) -> Leaf:
    return GapLeaf(*fields(v, "GAP", k1=str, k2=OptInt, k3=OptInt, k4=str, k5=OptInt, k6=int, k7=int, k8=str))


def _close(v: Any) -> Leaf:
    datasets, meta, policy, outcome, reason = fields(v, "CLOSE", k1=list, k2=32, k3=32, k4=str, k5=str)
    return Close(tuple((octets(d, 32), tuple(int(n) for n in s), int(c)) for d, s, c in datasets), meta, policy, outcome, reason)


def _open(v: Any) -> Leaf:
    agent, run, no, ordinal, previous, last, policy, boot, segment, series = fields(
        v, "OPEN", k1=16, k2=16, k3=int, k4=int, k5=(list, type(None)), k6=dict, k7=32, k8=16, k9=16, k10=str
    )
    pair = None
    if previous is not None:
        before, head = previous
        pair = (octets(before, 16), octets(head, 32))
    return Open(agent, run, no, ordinal, pair, policy, boot, segment, series, {str(k): int(n) for k, n in last.items()})


def _reset(v: Any) -> Leaf:
    return SeqReset(*fields(v, "SEQ_RESET", k1=str, k2=OptInt, k3=int, k4=str))


def _clock(v: Any) -> Leaf:
    step, sync, t_utc, t_boot = fields(v, "CLOCK", k1=OptInt, k2=(list, type(None)), k3=int, k4=int)
    if step is None and sync is None:
        raise SealError("CLOCK: says nothing")
    return ClockLeaf(step, None if sync is None else parse_clock(sync), t_utc, t_boot)


def _rows(v: Any) -> Leaf:
    dsds, first, n, digest = fields(v, "ROWS", k1=list, k2=int, k3=int, k4=32)
    return RowsLeaf(tuple(octets(d, 32) for d in dsds), first, n, digest)


def _file(v: Any) -> Leaf:
    path, size, piece, root, digest, mtime = fields(v, "FILE", k1=str, k2=int, k3=int, k4=32, k5=32, k6=int)
    if piece != PIECE:
        raise SealError(f"FILE: piece size {piece}")
    return FileLeaf(path, size, root, digest, mtime)


def _boot(v: Any) -> Leaf:
    return Boot(*fields(v, "BOOT", k1=16, k2=16, k3=str, k4=int))


def _run_open(v: Any) -> Leaf:
    return RunOpen(*fields(v, "RUN_OPEN", k1=int, k2=16, k3=32, k4=int))


def _run_close(v: Any) -> Leaf:
    return RunClose(*fields(v, "RUN_CLOSE", k1=int, k2=16, k3=32, k4=int))


def _segment_close(v: Any) -> Leaf:
    return SegmentClose(*fields(v, "SEGMENT_CLOSE", k1=16, k2=32, k3=16, k4=int, k5=int))


def _spool_free(v: Any) -> Leaf:
    item, receipts, t_ns = fields(v, "SPOOL_FREE", k1=str, k2=list, k3=int)
    return SpoolFree(item, tuple(octets(r, 32) for r in receipts), t_ns)


def _amended(v: Any) -> Leaf:
    return Amended(*fields(v, "AMENDMENT", k1=16, k2=int, k3=32, k4=int))


_READERS = {
    2: _dataset, 3: _meta, 4: _gap, 5: _clock, 6: _close, 7: _open, 8: _reset, 9: _rows, 10: _file,
    64: _boot, 66: _run_open, 67: _run_close, 68: _segment_close, 69: _spool_free, 80: _amended,
}  # fmt: skip
