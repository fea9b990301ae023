"""What travels from the inlets to the writer thread. An item lives until it is durable."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.model import NO_TIME, Block, FileItem, Frame, Stream, Valid


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded frame: stored bytes, HDF5 filter mask, SHA-256 of the stored bytes, and how to give the buffer back."""

    stored: memoryview
    mask: int
    digest: bytes
    release: Callable[[], None]


@dataclass(slots=True)
class FrameItem:
    """One frame on its way. ``encoded`` is the encoder thread's result; ``finished`` gives the room in the queue back."""

    key: str
    frame: Frame
    encoded: Future[Encoded]
    finished: Callable[[], None]
    n: int = 1
    entered: float = field(default_factory=time.monotonic)

    @property
    def seq(self) -> int:
        """The source's frame number."""
        return self.frame.number

    @property
    def t_arrival(self) -> int:
        """UTC ns."""
        return self.frame.t_arrival

    def columns(self) -> list[npt.NDArray[Any]]:
        """The companion columns of the layout: number, three times, valid, status."""
        f = self.frame
        times = [np.array([t], "<i8") for t in (f.t_source, f.t_server, f.t_arrival)]
        return [np.array([f.number], "<u8"), *times, np.array([int(f.valid)], "|u1"), np.array([f.status], "<u4")]

    def done(self) -> None:
        """Durable."""
        self.encoded.result().release()
        self.finished()


@dataclass(slots=True)
class RowsItem:
    """Rows on their way."""

    key: str
    columns: Sequence[npt.NDArray[Any]]
    n: int
    t_arrival: int
    finished: Callable[[], None]
    seq: int | None = None
    entered: float = field(default_factory=time.monotonic)

    def done(self) -> None:
        """Durable."""
        self.finished()


def rows_item(stream: Stream, block: Block, finished: Callable[[], None]) -> RowsItem:
    """The columns of the layout for a block.

    Raises:
        ValueError: the values do not have the stream's shape.
    """
    n = len(block)
    values = np.ascontiguousarray(block.values, np.dtype(stream.dtype))
    if values.shape != (n, *stream.shape):
        raise ValueError(f"{stream.key}: values of shape {values.shape}, the stream says {(n, *stream.shape)}")
    server = np.full(n, NO_TIME, "<i8") if block.t_server is None else block.t_server
    valid = np.full(n, int(Valid.GOOD), "|u1") if block.valid is None else block.valid
    status = np.zeros(n, "<u4") if block.status is None else block.status
    columns: list[npt.NDArray[Any]] = [values, block.t_source, server, block.t_arrival, valid, status]
    if stream.counted:
        if block.seq is None:
            raise ValueError(f"{stream.key}: the stream is counted, the block has no seq")
        columns.append(block.seq)
    # A last known value that is repeated at the start of a run is no event: it is written and not counted.
    events = int(np.count_nonzero(valid != Valid.INITIAL))
    return RowsItem(stream.key, columns, events, int(block.t_arrival[0]) if n else NO_TIME, finished)


@dataclass(slots=True)
class AdoptedItem:
    """A vendor's file that stands in the run's folder, hashed."""

    key: str
    item: FileItem
    path: str
    digest: bytes
    root: bytes
    finished: Callable[[], None]
    n: int = 1
    seq: int | None = None
    entered: float = field(default_factory=time.monotonic)

    @property
    def t_arrival(self) -> int:
        """UTC ns."""
        return self.item.t_arrival

    def done(self) -> None:
        """Durable."""
        self.finished()
