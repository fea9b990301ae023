"""Reads OPC-UA's binary encoding into numpy: variants and data values, one after the other.

Source: OPC 10000-6, 5.2. The library's own decoder makes a Python list of every array (6 times the processor time) and
datetime objects that keep 1 us; this one makes arrays and integers, and leaves the rare built-in types to the library.
Invariants: a value that cannot be recorded is skipped whole, so that the next one is read from its right place; what is
shorter than it says raises `Undecodable` and nothing is made up.
"""

from __future__ import annotations

import contextlib
import math
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from asyncua import ua
from asyncua.common.utils import Buffer

from adapters.opcua.values import DTYPES, KINDS, TEXT, Form, Unusable, text_cell, tick_ns, ticks_ns
from edge_agent.model import NO_TIME

DEPTH = 20
"""Deepest nesting that is followed."""

_ARRAY, _MATRIX = 0x80, 0x40
_NUMERIC = {number: np.dtype(DTYPES[KINDS[number]]) for number in (*range(1, 12), 13, 19)}


class Undecodable(ConnectionError):
    """Bytes that are not what they say they are; what follows them cannot be found."""


Leaf = tuple[str, Form, Any, bool]
"""One recordable part of a value: path below the variable (empty for all of it), form, value, whether a text was cut."""


class Structures(Protocol):
    """Knows the structures of a server."""

    def leaves(self, type_id: Any, body: bytes) -> list[Leaf]:
        """The parts of a structure; raises `Unusable`."""
        ...


@dataclass(frozen=True, slots=True)
class Value:
    """One DataValue. ``leaves`` is empty when there is no value; ``unusable`` says why one cannot be recorded."""

    leaves: list[Leaf]
    status: int
    t_source: int
    t_server: int
    unusable: str = ""


class Reader:
    """A position in received bytes. Every method reads on from it; all raise `Undecodable` at the end of the bytes."""

    def __init__(self, data: bytes, at: int = 0, structures: Structures | None = None) -> None:
        self.data = data
        self.at = at
        self._depth = 0
        self._structures = structures

    def number(self, form: struct.Struct) -> Any:
        """One number."""
        try:
            (value,) = form.unpack_from(self.data, self.at)
        except struct.error as e:
            raise Undecodable(f"the message ends at byte {len(self.data)}, in the middle of a value") from e
        self.at += form.size
        return value

    def byte(self) -> int:
        """One byte."""
        return int(self.number(U1))

    def length(self) -> int:
        """Length of an array or a string; -1 for none."""
        n = int(self.number(I4))
        if n > len(self.data) - self.at:  # no element takes less than a byte
            raise Undecodable(f"a length of {n} in a message of {len(self.data)} bytes")
        return n

    def take(self, n: int) -> bytes:
        """``n`` bytes."""
        if n < 0 or self.at + n > len(self.data):
            raise Undecodable(f"{n} bytes wanted at {self.at}, the message has {len(self.data)}")
        self.at += n
        return self.data[self.at - n : self.at]

    def string(self) -> bytes | None:
        """A string or ByteString; None for null."""
        n = self.length()
        return None if n < 0 else self.take(n)

    def by_library(self, read: Callable[[Any], Any]) -> Any:
        """What a function of the library reads from here."""
        buffer = Buffer(self.data, self.at)
        try:
            value = read(buffer)
        except Exception as e:
            raise Undecodable(f"{type(e).__name__} {e}".rstrip()) from e
        self.at = buffer.cur_pos
        return value

    def node_id(self) -> Any:
        """A NodeId or ExpandedNodeId."""
        return self.by_library(ua.ua_binary.nodeid_from_binary)

    def extension(self) -> tuple[Any, bytes | None]:
        """Type and body of an ExtensionObject; None for a body that is missing or XML."""
        type_id = self.node_id()
        encoding = self.byte()
        body = self.string() if encoding else None
        return type_id, body if encoding == 1 else None

    def value(self) -> Value:
        """A DataValue."""
        mask = self.byte()
        leaves: list[Leaf] = []
        unusable = ""
        if mask & 0x01:
            try:
                leaves = self.variant()
            except Unusable as e:
                unusable = str(e)
        status = self.number(U4) if mask & 0x02 else 0
        t_source = self._time(mask & 0x04, mask & 0x10)
        t_server = self._time(mask & 0x08, mask & 0x20)
        return Value(leaves, status, t_source, t_server, unusable)

    def _time(self, has_ticks: int, has_picoseconds: int) -> int:
        t = tick_ns(self.number(I8)) if has_ticks else NO_TIME
        picoseconds = self.number(U2) if has_picoseconds else 0  # in units of 10 ps
        return t if t == NO_TIME else t + picoseconds // 100

    def variant(self) -> list[Leaf]:
        """A Variant as its recordable parts, none for null; raises `Unusable` after the whole of it."""
        encoding = self.byte()
        number = encoding & 0x3F
        if number == 0:
            return []
        kind = KINDS.get(number, f"number {number}")
        if not encoding & _ARRAY:
            return self.scalar(number, kind)
        n = self.length()
        array: list[Leaf] | Unusable
        try:
            array = self.array(number, kind, max(n, 0))
        except Unusable as e:
            array = e
        shape = tuple(self.dimensions()) if encoding & _MATRIX else (max(n, 0),)
        if isinstance(array, Unusable):
            raise array
        return [] if n < 0 else [_reshaped(leaf, shape) for leaf in array]

    def dimensions(self) -> list[int]:
        """An array of Int32, as the dimensions of a matrix are written."""
        return [int(self.number(I4)) for _ in range(max(0, self.length()))]

    def scalar(self, number: int, kind: str) -> list[Leaf]:
        """One value of a built-in type."""
        if (dtype := _NUMERIC.get(number)) is not None:
            value = self.number(_FORMS[number])
            return [("", Form(kind, DTYPES[kind]), tick_ns(value) if number == 13 else dtype.type(value), False)]
        if number == 15:
            data = self.string()
            return [] if data is None else [("", Form(kind, "|u1", (len(data),)), np.frombuffer(data, np.uint8), False)]
        if number == 22:
            return self._structure()
        if kind in DTYPES:
            cell, cut = self._text(number)
            return [("", Form(kind, TEXT), cell, cut)]
        self._skip(number)
        raise Unusable(f"values of type {kind} cannot be recorded; record the variables below it")

    def array(self, number: int, kind: str, n: int) -> list[Leaf]:
        """``n`` values of a built-in type, one after the other."""
        if (dtype := _NUMERIC.get(number)) is not None:
            # A copy: the bytes of a message do not lie where numpy wants its elements, and are not kept for one array.
            numbers = np.frombuffer(self.take(n * dtype.itemsize), dtype, n).copy()
            return [("", Form(kind, DTYPES[kind], (n,)), ticks_ns(numbers) if number == 13 else numbers, False)]
        if number == 15:
            return [_equal_bytes([self.string() or b"" for _ in range(n)])]
        if number == 22:
            return stacked([self._structure_or_why() for _ in range(n)])
        if kind in DTYPES:
            cells = [self._text(number) for _ in range(n)]
            return [("", Form(kind, TEXT, (n,)), np.array([cell for cell, _ in cells], TEXT), any(cut for _, cut in cells))]
        for _ in range(n):
            self._skip(number)
        raise Unusable(f"values of type {kind} cannot be recorded; record the variables below it")

    def _structure(self) -> list[Leaf]:
        leaves = self._structure_or_why()
        if isinstance(leaves, Unusable):
            raise leaves
        return leaves

    def _structure_or_why(self) -> list[Leaf] | Unusable:
        type_id, body = self.extension()
        if body is None:
            return [] if not type_id.Identifier else Unusable(f"a structure of type {type_id.to_string()} came without content")
        if self._structures is None:
            return Unusable("structures cannot be recorded here")
        try:
            return self._structures.leaves(type_id, body)
        except Unusable as e:
            return e

    def _text(self, number: int) -> tuple[bytes, bool]:
        if number in (12, 16):
            return text_cell((self.string() or b"").decode("utf-8", "replace"))
        if number == 14:
            return text_cell(str(uuid.UUID(bytes_le=self.take(16))))
        if number == 20:
            self.number(U2)
            return text_cell((self.string() or b"").decode("utf-8", "replace"))
        if number == 21:
            mask = self.byte()
            locale = self.string() if mask & 1 else b""
            text = self.string() if mask & 2 else b""
            del locale  # the language that the server chose; the text itself is what was shown
            return text_cell((text or b"").decode("utf-8", "replace"))
        return text_cell(str(self.node_id().to_string()))

    def _skip(self, number: int) -> None:
        if number in (23, 24):
            self._depth += 1
            if self._depth > DEPTH:
                raise Undecodable("variants within variants, without end")
            with contextlib.suppress(Unusable):  # it is not wanted anyway
                self.value() if number == 23 else self.variant()
            self._depth -= 1
        elif number == 25:
            self.by_library(lambda data: ua.ua_binary.from_binary(ua.DiagnosticInfo, data))
        else:
            raise Undecodable(f"a value of built-in type {number}, which OPC-UA does not have")


def stacked(parts: list[list[Leaf] | Unusable]) -> list[Leaf]:
    """Structures side by side: for each of their parts one array over all of them; raises `Unusable` where they differ."""
    for one in parts:
        if isinstance(one, Unusable):
            raise one
    whole = [one for one in parts if not isinstance(one, Unusable)]
    if not whole:
        return []
    forms = [[(path, form) for path, form, _, _ in one] for one in whole]
    if any(one != forms[0] for one in forms):
        raise Unusable("an array of structures whose parts have different lengths or types cannot be recorded")
    found: list[Leaf] = []
    for i, (path, form) in enumerate(forms[0]):
        values = np.array([one[i][2] for one in whole], form.dtype).reshape(len(whole), *form.shape)
        found.append((path, Form(form.kind, form.dtype, values.shape), values, any(one[i][3] for one in whole)))
    return found


def _equal_bytes(parts: list[bytes]) -> Leaf:
    if len({len(part) for part in parts}) > 1:
        raise Unusable("an array of ByteStrings of different lengths cannot be recorded; record the elements")
    values: npt.NDArray[np.uint8] = np.frombuffer(b"".join(parts), np.uint8).reshape(len(parts), len(parts[0]) if parts else 0)
    return "", Form("ByteString", "|u1", values.shape), values, False


def _reshaped(leaf: Leaf, shape: tuple[int, ...]) -> Leaf:
    path, form, values, cut = leaf
    if len(shape) == 1:
        return leaf
    if any(n < 0 for n in shape) or math.prod(shape) != form.shape[0]:
        raise Unusable(f"an array of {form.shape[0]} {form.kind} with odd dimensions {list(shape)} cannot be recorded")
    form = Form(form.kind, form.dtype, (*shape, *form.shape[1:]))
    return path, form, values.reshape(form.shape), cut


U1, U2, U4, I4, I8 = (struct.Struct(f"<{code}") for code in "BHIiq")
_FORMS = {number: struct.Struct(f"<{dtype.char if number != 1 else 'B'}") for number, dtype in _NUMERIC.items()}
_FORMS |= {8: I8, 9: struct.Struct("<Q"), 13: I8, 19: U4, 6: I4, 7: U4}
