"""The bytes of a line beside its values, so that nothing that came is lost to a parser and a run can be played back.

A row of the stream holds up to `WIDTH` bytes; its ``status`` says how many of them count, plus `SENT` when the agent sent them. The
rows of one direction, cut to their counts and put one after the other, are exactly what passed over the line; all bytes of one
read have its arrival time. See ``docs/serial.md``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from edge_agent.adapter import Inlet, Sink
from edge_agent.model import NO_TIME, Block, Gap, Kind, Stream

WIDTH: Final = 32
SENT: Final = 0x100
RAW: Final = "raw"
"""All bytes, of both directions: with ``raw = true``."""
GARBAGE: Final = "garbage"
"""Without it: only those received bytes that are no item."""
_ABOUT: Final = f"bytes; status: how many of the {WIDTH} count, +{SENT} when the agent sent them"


class Bytes(NamedTuple):
    """What one read gave or one write took; ``t`` is UTC ns."""

    data: bytes
    t: int
    sent: bool = False


class RawRows:
    """The stream `RAW` or `GARBAGE` of one instrument; opened with its first byte."""

    def __init__(self, sink: Sink, stream: Stream, name: str) -> None:
        attributes = {key: value for key, value in stream.attributes.items() if key != "status"} | {"bytes": _ABOUT}
        source_type = "serial bytes" if name == RAW else "serial bytes that are no item"
        self._stream = replace(
            stream, name=name, kind=Kind.ROWS, dtype="|u1", shape=(WIDTH,), unit="", source_type=source_type, attributes=attributes
        )
        self._sink = sink
        self._inlet: Inlet | None = None

    async def put(self, parts: list[Bytes]) -> None:
        """Deliver, in order."""
        blocks = [_rows(part) for part in parts if part.data]
        if not blocks:
            return
        values = np.concatenate([rows for rows, _, _ in blocks])
        arrivals = np.concatenate([np.full(len(rows), t, np.int64) for rows, _, t in blocks])
        status = np.concatenate([counts for _, counts, _ in blocks])
        await self._open().put(Block(values, np.full(len(values), NO_TIME, np.int64), arrivals, status=status))

    def gap(self, gap: Gap) -> None:
        """Declare that bytes are missing."""
        self._open().gap(gap)

    def _open(self) -> Inlet:
        if self._inlet is None:
            self._inlet = self._sink.open(self._stream)
        return self._inlet


def _rows(part: Bytes) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.uint8]], np.ndarray[tuple[int], np.dtype[np.uint32]], int]:
    count = -(-len(part.data) // WIDTH)
    rows = np.zeros((count, WIDTH), np.uint8)
    rows.reshape(-1)[: len(part.data)] = np.frombuffer(part.data, np.uint8)
    used = np.full(count, WIDTH, np.uint32)
    used[-1] = len(part.data) - (count - 1) * WIDTH
    return rows, used + np.uint32(SENT if part.sent else 0), part.t
