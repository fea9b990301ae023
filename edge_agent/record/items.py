"""What travels from the inlets into the files. An item lives until it is durable."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.codec import Lease
from edge_agent.model import NO_SEQ, NO_TIME, Block, FileItem, Frame, Gap, Reset, Stream, Valid
from edge_agent.record.room import PER_ITEM, Charge

_ROW = struct.Struct("<QqqqBI")


@dataclass(slots=True)
class Encoded:
    """An encoded frame: stored bytes, HDF5 filter mask, SHA-256 of the stored bytes, and the buffer that they are in, if any."""

    stored: memoryview
    mask: int
    digest: bytes
    lease: Lease | None = None

    def let_go(self) -> None:
        """Give the buffer back, where there is one; nobody may look at the bytes any more."""
        if self.lease is not None:
            self.lease.release()

    def shrunk(self) -> Encoded:
        """The same in a buffer that fits, where there is one."""
        lease = None if self.lease is None else self.lease.shrunk(len(self.stored))
        return self if lease is None else Encoded(lease.view, self.mask, self.digest, lease)


@dataclass(slots=True)
class FrameItem:
    """One frame on its way. Until it is durable it is held in one of two forms, so that no failing disk can take it.

    An encoder thread sets ``encoded`` and ``again`` (encodes it once more, from its raw data), or ``failed``. Once it is written, one of
    the two forms is let go of. ``row`` are the companions of the layout, packed; ``t_arrival`` is UTC ns.
    """

    stream: Stream
    number: int
    t_arrival: int
    row: bytes
    charge: Charge
    encoded: Encoded | None = None
    again: Callable[[], Encoded] | None = None
    failed: Exception | None = None
    ready: bool = False
    """Whether an encoder is done with it."""
    n: int = 1
    entered: float = field(default_factory=time.monotonic)

    @property
    def key(self) -> str:
        """The stream's key."""
        return self.stream.key

    @property
    def t_source(self) -> int:
        """UTC ns; `NO_TIME` where the source gives none."""
        return int(_ROW.unpack(self.row)[1])

    def result(self) -> Encoded:
        """The encoded frame.

        Raises:
            Exception: what kept it from being encoded.
        """
        if self.encoded is None:
            if self.again is None:
                raise self.failed or RuntimeError(f"frame {self.number} is not encoded yet")
            self.encoded = self.again()
        return self.encoded

    def encode(self, encoded: Encoded) -> None:
        """It is ready, in its encoder's thread; one of two forms waits for its turn, and then for the disk.

        While little waits, that is the raw data, and the buffer is used again as soon as it is written, while a core's cache has it; else
        the stored bytes, which are fewer. Few ones move into a buffer that fits: theirs is as large as the worst case, and a slow disk
        that held such buffers would soon have the encoders wait for them.
        """
        if not self.charge.keep():
            self.again = None
            encoded = encoded.shrunk()
            self.charge.shrink(len(encoded.stored) + PER_ITEM)
        self.encoded = encoded
        self.ready = True  # last: from here on it is the line's

    def fail(self, error: Exception) -> None:
        """It cannot be encoded; what is ready is to be declared as missing."""
        self.failed = error
        self.ready = True

    def written(self) -> None:
        """It is in the file, and not yet durable."""
        if self.encoded is not None and self.again is not None:
            self.encoded.let_go()
            self.encoded = None

    def done(self) -> None:
        """Durable: buffer and room may be used again."""
        if self.encoded is not None:
            self.encoded.let_go()
        self.encoded = self.again = None
        self.charge.leave()

    def drop(self) -> None:
        """Not recorded: buffer and room may be used again all the same."""
        self.done()


def frame_row(frame: Frame) -> bytes:
    """The companions of a frame as one row of the layout, packed: number, three times, valid, status.

    Raises:
        ValueError: a number or a time does not fit its column.
    """
    if not 0 <= frame.number < NO_SEQ:
        raise ValueError(f"frame number {frame.number}: 0 to 2^64-2")
    try:
        return _ROW.pack(frame.number, frame.t_source, frame.t_server, frame.t_arrival, frame.valid, frame.status)
    except struct.error as error:
        raise ValueError(f"frame {frame.number}: {error}") from error


@dataclass(slots=True)
class RowsItem:
    """Rows on their way; ``n`` of them are events. ``t_arrival`` is the first row's, ``t_last`` the last one's, UTC ns."""

    stream: Stream
    columns: Sequence[npt.NDArray[Any]]
    n: int
    t_arrival: int
    t_last: int
    finished: Callable[[], None]
    entered: float = field(default_factory=time.monotonic)

    @property
    def key(self) -> str:
        """The stream's key."""
        return self.stream.key

    def done(self) -> None:
        """Durable."""
        self.finished()

    def drop(self) -> None:
        """Not recorded: the room may be used again all the same."""
        self.finished()


_INITIAL = int(Valid.INITIAL)


@lru_cache(64)
def _absent(n: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """The columns that a source does not give: no server time, all good, no status; the same ones for all blocks of ``n`` rows."""
    columns = np.full(n, NO_TIME, "<i8"), np.full(n, int(Valid.GOOD), "|u1"), np.zeros(n, "<u4")
    for column in columns:
        column.flags.writeable = False
    return columns


def rows_item(stream: Stream, block: Block, finished: Callable[[], None]) -> RowsItem:
    """The columns of the layout for a block.

    Raises:
        ValueError: the values do not have the stream's shape, or a column is missing or of another type.
    """
    n = len(block)
    values = np.ascontiguousarray(block.values, stream.dtype)
    if values.shape != (n, *stream.shape):
        raise ValueError(f"{stream.key}: values of shape {values.shape}, the stream says {(n, *stream.shape)}")
    no_time, good, zeros = _absent(n)
    server = no_time if block.t_server is None else block.t_server
    valid = good if block.valid is None else block.valid
    status = zeros if block.status is None else block.status
    times = [np.ascontiguousarray(t, "<i8") for t in (block.t_source, server, block.t_arrival)]
    columns: list[npt.NDArray[Any]] = [values, *times, np.ascontiguousarray(valid, "|u1"), np.ascontiguousarray(status, "<u4")]
    if stream.counted:
        if block.seq is None:
            raise ValueError(f"{stream.key}: the stream is counted, the block has no seq")
        columns.append(np.ascontiguousarray(block.seq, "<u8"))
    # A last known value that is repeated at the start of a run is no event: it is written and not counted.
    events = n if block.valid is None else int(np.count_nonzero(block.valid != _INITIAL))
    first, last = (int(block.t_arrival[0]), int(block.t_arrival[-1])) if n else (NO_TIME, NO_TIME)
    return RowsItem(stream, columns, events, first, last, finished)


@dataclass(slots=True)
class AdoptedItem:
    """A vendor's file that stands in the run's folder, hashed."""

    key: str
    item: FileItem
    path: str
    digest: bytes
    root: bytes
    durable: Callable[[], None]
    n: int = 1
    entered: float = field(default_factory=time.monotonic)

    @property
    def t_arrival(self) -> int:
        """UTC ns."""
        return self.item.t_arrival

    def done(self) -> None:
        """Durable."""
        self.durable()

    def drop(self) -> None:
        """Not recorded: the caller was told, and tries again."""


@dataclass(slots=True)
class GapItem:
    """A gap on its way. ``refused``: frames that came and could not be taken, so their numbers were seen; else it is declared."""

    stream: Stream
    gap: Gap
    refused: bool = False
    n: int = 0
    entered: float = field(default_factory=time.monotonic)

    @property
    def key(self) -> str:
        """The stream's key."""
        return self.stream.key

    @property
    def t_arrival(self) -> int:
        """UTC ns, where known."""
        return self.gap.t_to

    def done(self) -> None:
        """Durable; it holds nothing."""

    def drop(self) -> None:
        """Not recorded; it holds nothing."""


@dataclass(slots=True)
class ResetItem:
    """A reset of the counter on its way."""

    stream: Stream
    reset: Reset
    n: int = 0
    t_arrival: int = NO_TIME
    entered: float = field(default_factory=time.monotonic)

    @property
    def key(self) -> str:
        """The stream's key."""
        return self.stream.key

    def done(self) -> None:
        """Durable; it holds nothing."""

    def drop(self) -> None:
        """Not recorded; it holds nothing."""


def checked(gap: Gap) -> Gap:
    """The gap, if the file can hold it.

    Raises:
        ValueError: a number, a count or a time that no counter or clock has.
    """
    for name, value, least, most in (
        ("first", gap.first, 0, NO_SEQ - 1),
        ("last", gap.last, 0, NO_SEQ - 1),
        ("count", gap.count, 0, 2**63 - 1),
        ("t_from", gap.t_from, NO_TIME, 2**63 - 1),
        ("t_to", gap.t_to, NO_TIME, 2**63 - 1),
    ):
        if value is not None and not least <= value <= most:
            raise ValueError(f"gap: {name} is {value}, and must be {least} to {most}")
    return gap


Item = FrameItem | RowsItem | AdoptedItem | GapItem | ResetItem
