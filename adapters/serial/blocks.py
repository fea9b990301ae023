"""Binary blocks of IEEE 488.2 (8.7.9): ``#`` | number of digits | number of bytes | bytes, inside an answer that ends with a delimiter.

The bytes of a block may hold the delimiter, so a line that may hold blocks is cut by their lengths. ``#0`` (a block of unknown
length) ends with the line, which a serial line can only tell by the delimiter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from adapters.serial.binary import BinaryParser
from adapters.serial.frame import BadFrame, Frame
from adapters.serial.outcome import Channel, Columns, Outcome, Reading, Unparsed
from adapters.serial.splitter import CUT_OFF, SILENCE_SECONDS, Junk, Line, Piece
from adapters.serial.why import Why

LONGEST_BLOCK: Final = 2**24
_HEADER: Final = re.compile(rb"#([1-9])([0-9]*)")


class BlockSplitter:
    """Lines that end with ``delimiter`` where no block says otherwise; ``max_length`` is of a line without its blocks."""

    patience = SILENCE_SECONDS

    def __init__(self, delimiter: bytes, max_length: int) -> None:
        self._delimiter = delimiter
        self._max_length = max_length
        self._parts: list[bytes] = []
        self._size = 0
        self._wanted = 0
        """Bytes up to the end of the block that has begun."""
        self._t = 0
        self._skipping = False

    def feed(self, data: bytes, t: int) -> list[Piece]:
        """See `Splitter`. Blank lines are left out."""
        found: list[Piece] = []
        if not self._size:
            self._t = t
        self._parts.append(data)
        self._size += len(data)
        while self._size and self._size >= self._wanted:
            before = self._size
            self._step(found)
            if self._size == before:
                break
            self._t = t
        return found

    def silence(self) -> list[Piece]:
        """A block that has not become whole."""
        if not self._wanted:
            return []
        return self._all("{got} of {wanted} bytes of a block and then silence")

    def end(self) -> list[Piece]:
        """What was cut off, if anything."""
        return self._all(CUT_OFF)

    def _all(self, why: str) -> list[Piece]:
        rest, wanted, skipping = b"".join(self._parts), self._wanted, self._skipping
        self._keep(b"")
        self._skipping = False
        said = Why("{got} of {wanted} bytes of a block and then silence", got=len(rest), wanted=wanted) if why != CUT_OFF else why
        return [Junk(rest, said, self._t, skipping)] if rest.strip() else []

    def _step(self, found: list[Piece]) -> None:
        """Take one line from what waits, if it is whole; else note how much is wanted."""
        data = b"".join(self._parts)
        self._parts = [data]
        at = 0
        while True:
            end = data.find(self._delimiter, at)
            header = None if self._skipping else _HEADER.search(data, at, end if end >= 0 else len(data))
            if header is None:
                break
            digits = int(header[1])
            if len(header[2]) < digits:
                if end < 0 and header.end() == len(data):
                    break  # its digits may still come
                at = header.end()  # a "#" that begins no block
                continue
            at = header.start() + 2 + digits + int(header[2][:digits])
            if at - header.start() > LONGEST_BLOCK:
                self._junk(data, Why("says that a block has more than {most} bytes", most=LONGEST_BLOCK), found)
                return
            if at > len(data):
                self._wanted = at
                return
        self._wanted = 0
        if end >= 0:
            self._whole(data[:end], data[end + len(self._delimiter) :], found)
        elif len(data) - at > self._max_length:
            self._junk(
                data,
                Why("no {delimiter} within {most} bytes; is delimiter right?", delimiter=repr(self._delimiter), most=self._max_length),
                found,
            )

    def _whole(self, line: bytes, rest: bytes, found: list[Piece]) -> None:
        if self._skipping:
            found.append(Junk(line, "", self._t, more=True))
        elif line.strip():
            found.append(Line(line, self._t))
        self._skipping = False
        self._keep(rest)

    def _junk(self, data: bytes, why: str, found: list[Piece]) -> None:
        keep = len(self._delimiter) - 1
        found.append(Junk(data[: len(data) - keep], why, self._t, self._skipping))
        self._skipping = True
        self._keep(data[len(data) - keep :])

    def _keep(self, rest: bytes) -> None:
        self._parts, self._size, self._wanted = [rest] if rest else [], len(rest), 0


class BlockParser:
    """Reads answers of the form ``prefix#41024...suffix`` as one array.

    Args:
        name: of the channel.
        prefix: what stands before the block, a regular expression over bytes; most answers have none.
        suffix: what stands behind it.
        dtype: of the numbers in the block, with its byte order, as ``>f4`` or ``<u2``.
        unit: of the numbers.
    """

    def __init__(self, name: str, prefix: bytes, suffix: bytes, dtype: str, unit: str | None) -> None:
        self._dtype = np.dtype(dtype)
        self._before = re.compile(prefix + rb"\s*#([0-9])")
        self._after = re.compile(rb"\s*" + suffix + rb"\s*")
        self.channels: tuple[Channel, ...] = (Channel(name, self._dtype.newbyteorder("<").str, unit, None),)

    def parse(self, line: bytes) -> Outcome:
        """The numbers of the block, one row."""
        begin = self._before.match(line.lstrip())
        line = line.lstrip()
        if begin is None:
            return Unparsed(Why("holds no block (# and its length)"))
        digits = int(begin[1])
        head = line[begin.end() : begin.end() + digits]
        if digits and not (len(head) == digits and head.isdigit()):
            return Unparsed(Why("holds a block whose length is no number"))
        start = begin.end() + digits
        stop = start + int(head) if digits else len(line)
        data = line[start:stop]
        if len(data) < stop - start or self._after.fullmatch(line, stop) is None:
            return Unparsed(Why("does not look as parse or pattern says"))
        if len(data) % self._dtype.itemsize or not data:
            return Unparsed(Why("holds a block of {size} bytes, which is no number of {dtype}", size=len(data), dtype=self._dtype.str))
        values: npt.NDArray[Any] = np.frombuffer(data, self._dtype).astype(self.channels[0].dtype)
        return Reading((values,), (None,))

    def parse_many(self, lines: Sequence[bytes]) -> Columns | None:
        """None: blocks may have any length, and are few."""
        return None


def block_parser(template: str, dtypes: Mapping[str, str], units: Mapping[str, str]) -> BlockParser | None:
    """The parser of a template with a field of the kind ``block``, as ``CURVE {spectrum:block}``; None without one. Raises ValueError."""
    found = re.fullmatch(r"([^{}]*)\{([A-Za-z][A-Za-z0-9_]{0,62}):block\}([^{}]*)", template)
    if found is None:
        if ":block}" in template:
            raise ValueError('a block stands alone in its line but for plain text; write for example "CURVE {spectrum:block}"')
        return None
    before, after = (_blanks(part) for part in (found[1], found[3]))
    return BlockParser(found[2], before, after, dtypes.get(found[2], "<f4"), units.get(found[2]))


def _blanks(text: str) -> bytes:
    return rb"\s+".join(re.escape(word.encode()) for word in re.split(r"\s+", text.strip()))


class BlockRecordParser:
    """Reads answers that are one block, whose content is a record of binary fields, if its check is right."""

    def __init__(self, record: BinaryParser, check: Frame | None) -> None:
        self._record = record
        self._check = check
        self._content = BlockParser("content", b"", b"", "|u1", None)
        self.channels = record.channels

    def parse(self, line: bytes) -> Outcome:
        """The values of the record."""
        found = self._content.parse(line)
        if not isinstance(found, Reading):
            return found
        content = np.asarray(found.values[0]).tobytes()
        try:
            return self._record.parse(content if self._check is None else self._check.decode(content))
        except BadFrame as e:
            return Unparsed(e.why)

    def parse_many(self, lines: Sequence[bytes]) -> Columns | None:
        """None: blocks are few."""
        return None
