"""Cuts the bytes of a port into lines, as they come. Pure, no clock: times are given with the bytes.

Invariants: every line carries the arrival of its first byte; memory is bounded by the longest allowed line and one read; no byte
is dropped: what is no whole line comes out as `Junk`, and the next delimiter begins a good line again. Only delimiters, and blanks
that stand alone between two of them, are in neither.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

import numpy as np

from adapters.serial.why import Why
from edge_agent.model import Int64Array

SHOWN: Final = 60
"""Bytes of a bad line that are shown in the record of its gap."""


class Line(NamedTuple):
    """One line or record without its frame; ``t`` is the arrival of its first byte, UTC ns.

    ``doubtful`` says that it may have begun before anybody listened. ``whole`` are the bytes with the frame, where they differ.
    """

    raw: bytes
    t: int
    doubtful: bool = False
    whole: bytes = b""

    @property
    def on_the_line(self) -> bytes:
        """The bytes as they came, but for the delimiter."""
        return self.whole or self.raw


class Junk(NamedTuple):
    """Bytes that are no line. ``more`` says that they go on with the junk before, which has been counted."""

    raw: bytes
    why: str
    t: int
    more: bool = False

    @property
    def head(self) -> bytes:
        """The first bytes, for people."""
        return self.raw[:SHOWN]


class Lines(NamedTuple):
    """Lines of one read, without an object for each: ``first`` is the arrival of the first one, ``t`` of the others, UTC ns."""

    raws: list[bytes]
    t: int
    first: int

    def times(self) -> Int64Array:
        """The arrivals, one a line."""
        times = np.full(len(self.raws), self.t, np.int64)
        times[0] = self.first
        return times

    def each(self) -> list[Line]:
        """One by one."""
        return [Line(self.raws[0], self.first), *(Line(raw, self.t) for raw in self.raws[1:])]


Piece = Line | Lines | Junk


class Splitter(Protocol):
    """Cuts a stream of bytes; one object a connection. ``patience`` is how many seconds without a byte are a silence."""

    patience: float

    def feed(self, data: bytes, t: int) -> list[Piece]:
        """The lines that ``data``, read at ``t`` (UTC ns), completes."""
        ...

    def silence(self) -> list[Piece]:
        """What a silence on the line says of the bytes that wait."""
        ...

    def end(self) -> list[Piece]:
        """The connection is gone: what was cut off."""
        ...


MANY: Final = 8
"""So many lines of one read stay together."""
SILENCE_SECONDS: Final = 0.5
CUT_OFF: Final = Why("cut off by the end of the connection")


class DelimiterSplitter:
    """Lines that end with ``delimiter``. With ``mid_line`` the first one may have begun before anybody listened."""

    patience = SILENCE_SECONDS

    def __init__(self, delimiter: bytes, max_length: int, *, mid_line: bool = False) -> None:
        self._delimiter = delimiter
        self._max_length = max_length
        self._rest = b""
        self._t = 0
        self._skipping = False
        self._mid_line = mid_line

    def feed(self, data: bytes, t: int) -> list[Piece]:
        """See `Splitter`. Blank lines are left out."""
        if not self._rest:
            self._t = t
        *pieces, self._rest = (self._rest + data).split(self._delimiter)
        if pieces and not (self._skipping or self._mid_line) and len(self._rest) <= self._max_length >= max(map(len, pieces)):
            # A busy line is this, thousands of times a second.
            whole = [piece for piece in pieces if piece and not piece.isspace()]
            first, self._t = (self._t if pieces[0] else t), t
            if not whole:
                return []
            lines = Lines(whole, t, first)
            return [lines] if len(whole) >= MANY else list[Piece](lines.each())
        found: list[Piece] = []
        for piece in pieces:
            self._take(piece, found)
            self._t = t
        self._bound(found)
        return found

    def silence(self) -> list[Piece]:
        """Nothing: a line may take its time."""
        return []

    def end(self) -> list[Piece]:
        """The line that was cut off, if any."""
        rest, self._rest = self._rest, b""
        return [Junk(rest, CUT_OFF, self._t, self._skipping)] if rest.strip() else []

    def _take(self, piece: bytes, found: list[Piece]) -> None:
        if self._skipping:
            self._skipping = False
            if piece:
                found.append(Junk(piece, self._why, self._t, more=True))
        elif len(piece) > self._max_length:
            found.append(Junk(piece, self._why, self._t))
        elif piece.strip():
            found.append(Line(piece, self._t, self._mid_line))
        self._mid_line = False

    def _bound(self, found: list[Piece]) -> None:
        # The end of what waits may be the beginning of the delimiter.
        keep = len(self._delimiter) - 1
        if self._skipping or len(self._rest) > self._max_length + keep:
            cut = len(self._rest) - keep
            if cut > 0:
                found.append(Junk(self._rest[:cut], self._why, self._t, self._skipping))
                self._rest = self._rest[cut:]
            self._skipping, self._mid_line = True, False

    @property
    def _why(self) -> str:
        return Why("no {delimiter} within {most} bytes; is delimiter right?", delimiter=repr(self._delimiter), most=self._max_length)


class LengthSplitter:
    """Records of ``length`` bytes; a silence on the line begins a new one, which is how a lost byte is found."""

    patience = SILENCE_SECONDS

    def __init__(self, length: int) -> None:
        self._length = length
        self._rest = b""
        self._t = 0

    def feed(self, data: bytes, t: int) -> list[Piece]:
        """See `Splitter`."""
        if not self._rest:
            self._t = t
        data = self._rest + data
        found: list[Piece] = []
        whole = len(data) - len(data) % self._length
        for begin in range(0, whole, self._length):
            found.append(Line(data[begin : begin + self._length], self._t))
            self._t = t
        self._rest = data[whole:]
        return found

    def silence(self) -> list[Piece]:
        """The record that did not become whole."""
        rest, self._rest = self._rest, b""
        return [Junk(rest, Why("{got} of {wanted} bytes and then silence", got=len(rest), wanted=self._length), self._t)] if rest else []

    def end(self) -> list[Piece]:
        """The record that was cut off, if any."""
        return self.silence()


class QuietSplitter:
    """Messages that end with a silence of ``gap`` seconds: servers without any end of line, Modbus RTU."""

    def __init__(self, gap: float, max_length: int) -> None:
        self.patience = gap
        self._max_length = max_length
        self._rest = b""
        self._t = 0
        self._skipping = False

    def feed(self, data: bytes, t: int) -> list[Piece]:
        """See `Splitter`. Nothing is complete before the silence."""
        if not self._rest:
            self._t = t
        self._rest += data
        if not self._skipping and len(self._rest) <= self._max_length:
            return []
        rest, self._rest, more, self._skipping = self._rest, b"", self._skipping, True
        return [Junk(rest, Why("no silence within {most} bytes; is gap right?", most=self._max_length), self._t, more)]

    def silence(self) -> list[Piece]:
        """The message, whole now."""
        rest, self._rest, self._skipping = self._rest, b"", False
        return [Line(rest, self._t)] if rest.strip() else []

    def end(self) -> list[Piece]:
        """The message that was cut off, if any."""
        rest, self._rest = self._rest, b""
        return [Junk(rest, CUT_OFF, self._t)] if rest else []
