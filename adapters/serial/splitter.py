"""Cuts the bytes of a port into lines, as they come. Pure, no clock: times are given with the bytes.

Invariants: every line carries the arrival of its first byte; memory is bounded by the longest allowed line and one read;
what is no whole line comes out as `Junk` with its first bytes, and the next delimiter begins a good line again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

SHOWN: Final = 60
"""Bytes of a bad line that are kept, for the record of the gap."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its delimiter; ``t`` is the arrival of its first byte, UTC ns.

    ``doubtful`` says that it may have begun before anybody listened.
    """

    raw: bytes
    t: int
    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class Junk:
    """Bytes that are no line; ``head`` are the first of them, at most `SHOWN`."""

    head: bytes
    why: str
    t: int


class Splitter(Protocol):
    """Cuts a stream of bytes; one object a connection."""

    def feed(self, data: bytes, t: int) -> list[Line | Junk]:
        """The lines that ``data``, read at ``t`` (UTC ns), completes."""
        ...

    def silence(self) -> list[Line | Junk]:
        """What a silence on the line says of the bytes that wait."""
        ...

    def end(self) -> list[Line | Junk]:
        """The connection is gone: what was cut off."""
        ...


class DelimiterSplitter:
    """Lines that end with ``delimiter``. With ``mid_line`` the first one may have begun before anybody listened."""

    def __init__(self, delimiter: bytes, max_length: int, *, mid_line: bool = False) -> None:
        self._delimiter = delimiter
        self._max_length = max_length
        self._rest = b""
        self._t = 0
        self._skipping = False
        self._mid_line = mid_line

    def feed(self, data: bytes, t: int) -> list[Line | Junk]:
        """See `Splitter`. Blank lines are left out."""
        if not self._rest:
            self._t = t
        *pieces, self._rest = (self._rest + data).split(self._delimiter)
        found: list[Line | Junk] = []
        for piece in pieces:
            self._take(piece, found)
            self._t = t
        self._bound(found)
        return found

    def silence(self) -> list[Line | Junk]:
        """Nothing: a line may take its time."""
        return []

    def end(self) -> list[Line | Junk]:
        """The line that was cut off, if any."""
        rest, self._rest = self._rest, b""
        if self._skipping or not rest.strip():
            return []
        return [Junk(rest[:SHOWN], "cut off by the end of the connection", self._t)]

    def _take(self, piece: bytes, found: list[Line | Junk]) -> None:
        if self._skipping:
            self._skipping = False
        elif len(piece) > self._max_length:
            found.append(self._too_long(piece))
        elif piece.strip():
            found.append(Line(piece, self._t, self._mid_line))
        self._mid_line = False

    def _bound(self, found: list[Line | Junk]) -> None:
        # The end of what waits may be the beginning of the delimiter.
        keep = len(self._delimiter) - 1
        if len(self._rest) > self._max_length + keep:
            if not self._skipping:
                found.append(self._too_long(self._rest))
            self._skipping, self._mid_line = True, False
        if self._skipping:
            self._rest = self._rest[len(self._rest) - keep :] if keep else b""

    def _too_long(self, piece: bytes) -> Junk:
        return Junk(piece[:SHOWN], f"no {self._delimiter!r} within {self._max_length} bytes; is delimiter right?", self._t)


class LengthSplitter:
    """Records of ``length`` bytes; a silence on the line begins a new one, which is how a lost byte is found."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._rest = b""
        self._t = 0

    def feed(self, data: bytes, t: int) -> list[Line | Junk]:
        """See `Splitter`."""
        if not self._rest:
            self._t = t
        data = self._rest + data
        found: list[Line | Junk] = []
        whole = len(data) - len(data) % self._length
        for begin in range(0, whole, self._length):
            found.append(Line(data[begin : begin + self._length], self._t))
            self._t = t
        self._rest = data[whole:]
        return found

    def silence(self) -> list[Line | Junk]:
        """The record that did not become whole."""
        rest, self._rest = self._rest, b""
        return [Junk(rest[:SHOWN], f"{len(rest)} of {self._length} bytes and then silence", self._t)] if rest else []

    def end(self) -> list[Line | Junk]:
        """The record that was cut off, if any."""
        return self.silence()
