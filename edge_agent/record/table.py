"""Columns that grow together in one segment: rows are journalled as they come, and become chunks when a chunk is full.

A row is durable with the next commit because the journal holds its bytes; the chunk that it ends up in is written later, once, and the last
one is padded with zeros when the segment closes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.codec import encoder
from edge_agent.record.segment_writer import SegmentWriter
from edge_agent.segment.layout import TableLayout


@dataclass(slots=True)
class Table:
    """A table of ``layout`` in ``segment``. Owned by whoever has the turn."""

    segment: SegmentWriter
    layout: TableLayout
    source_id: str
    rows: int = 0
    _number: int = field(init=False)
    _columns: list[npt.NDArray[Any]] = field(init=False)
    _arrival: int = field(init=False, default=0)
    _signed: int = field(init=False, default=0)
    _packed: bytearray = field(init=False, default_factory=bytearray)

    def __post_init__(self) -> None:
        """Declare the table in the journal and allocate one chunk of rows."""
        columns = self.layout.columns
        paths = [dsd.path for dsd in self.layout.dsds]
        self._number = self.segment.declare_table(
            paths, [c.dtype for c in columns], [c.shape for c in columns], self.layout.chunk, self.layout.codec, self.source_id
        )
        self._columns = [np.zeros((self.layout.chunk, *c.shape), np.dtype(c.dtype)) for c in columns]

    def append(self, columns: Sequence[npt.NDArray[Any]], t_arrival: int) -> None:
        """Add rows.

        Args:
            columns: one array a column of the layout, all of the same length ``n``, in the layout's dtypes.
            t_arrival: arrival of the first row, UTC ns.
        """
        n = len(columns[0])
        ordered = [np.ascontiguousarray(c, dtype=t.dtype) for c, t in zip(columns, self._columns, strict=True)]
        self.segment.rows(self._number, self.rows, n, [c.tobytes() for c in ordered])
        done = 0
        while done < n:
            filled = self.rows % self.layout.chunk
            if filled == 0:
                self._arrival = t_arrival
            take = min(n - done, self.layout.chunk - filled)
            for target, source in zip(self._columns, ordered, strict=True):
                target[filled : filled + take] = source[done : done + take]
            self.rows += take
            done += take
            if self.rows % self.layout.chunk == 0:
                self._write(self.rows - self.layout.chunk)

    def append_row(self, packed: bytes, t_arrival: int) -> None:
        """Add one row of scalars, packed in the order and the dtypes of the columns: what stands beside a frame costs no arrays."""
        self.segment.rows(self._number, self.rows, 1, (packed,))
        if not self._packed:
            self._arrival = t_arrival
        self._packed += packed
        self.rows += 1
        if self.rows % self.layout.chunk == 0:
            self._unpack()
            self._packed.clear()
            self._write(self.rows - self.layout.chunk)

    def _unpack(self) -> None:
        """Spread the packed rows of the open chunk over the columns; a table gets its rows in one of the two ways only."""
        if self._packed:
            rows = np.frombuffer(bytes(self._packed), [(c.name, c.dtype) for c in self.layout.columns])
            for column, target in zip(self.layout.columns, self._columns, strict=True):
                target[: len(rows)] = rows[column.name]

    def flush(self) -> None:
        """Write the last, partly filled chunk, padded with zeros."""
        filled = self.rows % self.layout.chunk
        if filled:
            self._unpack()
            for column in self._columns:
                column[filled:] = np.zeros((), column.dtype)
            self._write(self.rows - filled)

    def sign_open(self) -> None:
        """Sign the rows that are in no chunk yet, each row once: a slow table must not wait for its chunk."""
        first = max(self._signed, self.rows - self.rows % self.layout.chunk)
        n = self.rows - first
        if n:
            self._unpack()
            start = first % self.layout.chunk
            digest = hashlib.sha256()
            for column in self._columns:
                digest.update(column[start : start + n].tobytes())
            self.segment.sign_rows([dsd.path for dsd in self.layout.dsds], first, n, digest.digest())
            self._signed = self.rows

    def _write(self, first: int) -> None:
        codec = encoder(self.layout.codec)
        for dsd, column in zip(self.layout.dsds, self._columns, strict=True):
            out = bytearray(codec.bound(column.nbytes, column.dtype.itemsize))
            size, mask = codec.encode(column, out, column.dtype.itemsize)
            stored = memoryview(out)[:size]
            offset = (first, *(0 for _ in column.shape[1:]))
            self.segment.chunk(dsd.path, offset, stored, mask, hashlib.sha256(stored).digest(), self._arrival, self.rows)
