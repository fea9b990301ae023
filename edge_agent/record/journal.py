"""The journal of one segment: what recovery rebuilds the segment from.

A frame is ``"HSCJ" | type u8 | length u32 | body | CRC32C u32`` (big-endian; the checksum covers type, length and body; Castagnoli,
RFC 3720 B.4). Frames are only ever appended. Invariants: a dataset's DSD precedes its first LEAF; a TABLE precedes its ROWS, and a tag's
line in TAGS precedes its first row; `scan` stops at the first frame that is torn or damaged, so what it yields is a prefix of what was
written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import google_crc32c

from edge_agent.seal.cbor import SealError, dumps, loads
from edge_agent.segment.tags import Tag

MAGIC = b"HSCJ"
_HEAD = struct.Struct(">4sBI")
_REST = struct.Struct(">BI")
"""The head without `MAGIC`."""
_CRC = struct.Struct(">I")
_OFFSET = struct.Struct(">Q")
_ROWS = struct.Struct(">HQI")


class Frame(IntEnum):
    """Types of journal frames."""

    OPEN = 1
    DSD = 2
    SKELETON = 3
    ROWS = 4
    LEAF = 5
    HEAD = 6
    CLOSE = 7
    TABLE = 8
    TAGS = 9


_KINDS = frozenset(int(kind) for kind in Frame)
_LEAF = int(Frame.LEAF)


def frame(kind: Frame, *parts: bytes | memoryview) -> bytes:
    """One encoded frame."""
    body = b"".join(parts)
    checked = _REST.pack(kind, len(body)) + body
    return MAGIC + checked + _CRC.pack(google_crc32c.value(checked))


@dataclass(frozen=True, slots=True)
class Opening:
    """First frame: names of the final file, and what recovery needs to know of the run (opaque to the journal)."""

    final_name: str
    context: bytes

    def frame(self) -> bytes:
        """Encoded."""
        return frame(Frame.OPEN, dumps({1: self.final_name, 2: self.context}))


@dataclass(frozen=True, slots=True)
class TableFrame:
    """Declares table ``number``: dataset paths in column order with numpy dtypes and item shapes; rows a chunk; codec; stream key."""

    number: int
    paths: tuple[str, ...]
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    chunk: int
    codec: str
    source_id: str

    def frame(self) -> bytes:
        """Encoded."""
        columns = [[p, d, list(s)] for p, d, s in zip(self.paths, self.dtypes, self.shapes, strict=True)]
        return frame(Frame.TABLE, dumps({1: self.number, 2: columns, 3: self.chunk, 4: self.codec, 5: self.source_id}))


@dataclass(frozen=True, slots=True)
class TagsFrame:
    """The next lines of the list of tags."""

    tags: tuple[Tag, ...]

    def frame(self) -> bytes:
        """Encoded."""
        return frame(Frame.TAGS, dumps([list(tag.line()) for tag in self.tags]))


@dataclass(frozen=True, slots=True)
class RowsFrame:
    """``n`` rows of table ``number`` from row ``first``: the raw bytes of its columns, one column after the other."""

    number: int
    first: int
    n: int
    columns: bytes


@dataclass(frozen=True, slots=True)
class LeafFrame:
    """A leaf payload; for a CHUNK the byte offset of its stored bytes in the segment file, else 0."""

    offset: int
    payload: bytes


def rows_frame(number: int, first: int, n: int, columns: Sequence[bytes | memoryview]) -> bytes:
    """An encoded ROWS frame."""
    return frame(Frame.ROWS, _ROWS.pack(number, first, n), *columns)


def leaf_frame(offset: int, payload: bytes) -> bytes:
    """An encoded LEAF frame."""
    return frame(Frame.LEAF, _OFFSET.pack(offset), payload)


Entry = Opening | TableFrame | TagsFrame | RowsFrame | LeafFrame | tuple[Frame, bytes]


def scan(data: bytes) -> Iterator[Entry]:
    """The frames of a journal up to the first one that is torn or damaged (the tail of a crash).

    DSD, SKELETON, HEAD and CLOSE come as ``(type, body)``.
    """
    return (entry for entry, _ in entries(data))


def entries(data: bytes) -> Iterator[tuple[Entry, int]]:
    """Like `scan`, each frame with the position at which it ends."""
    position = 0
    while (found := _at(data, position)) is not None:
        yield found
        position = found[1]


def beyond(data: bytes, position: int) -> Iterator[Entry]:
    """The whole frames that stand anywhere behind ``position``, where a frame is torn or damaged.

    A crash leaves none but those that were never acknowledged; frames that were tell that the medium lost something.
    """
    while (position := data.find(MAGIC, position)) >= 0:
        found = _at(data, position)
        if found is None:
            position += 1
            continue
        yield found[0]
        position = found[1]


def _at(data: bytes, position: int) -> tuple[Entry, int] | None:
    """The frame at ``position`` and where it ends, if a whole one is there."""
    if position + _HEAD.size + _CRC.size > len(data):
        return None
    magic, kind, length = _HEAD.unpack_from(data, position)
    end = position + _HEAD.size + length
    if magic != MAGIC or kind not in _KINDS or end + _CRC.size > len(data):
        return None
    if _CRC.unpack_from(data, end)[0] != google_crc32c.value(data[position + 4 : end]):
        return None
    try:
        return _decode(kind, data[position + _HEAD.size : end]), end + _CRC.size
    except (SealError, LookupError, ValueError, TypeError, struct.error):
        return None


def _decode(kind: int, body: bytes) -> Entry:
    if kind == _LEAF:  # nearly all of them
        return LeafFrame(_OFFSET.unpack_from(body)[0], body[_OFFSET.size :])
    if kind == Frame.OPEN:
        value = loads(body, "journal OPEN")
        return Opening(str(value[1]), bytes(value[2]))
    if kind == Frame.TABLE:
        value = loads(body, "journal TABLE")
        columns = value[2]
        shapes = tuple(tuple(int(n) for n in c[2]) for c in columns)
        paths, dtypes = tuple(c[0] for c in columns), tuple(c[1] for c in columns)
        return TableFrame(int(value[1]), paths, dtypes, shapes, int(value[3]), value[4], value[5])
    if kind == Frame.TAGS:
        return TagsFrame(tuple(Tag(*line) for line in loads(body, "journal TAGS")))
    if kind == Frame.ROWS:
        number, first, n = _ROWS.unpack_from(body)
        return RowsFrame(number, first, n, body[_ROWS.size :])
    return (Frame(kind), body)
