"""What a variable delivers: rows of one form, with their times and codes. Pure.

Source: OPC 10000-4 (DataValue, StatusCode), 10000-6 (built-in types). Invariants: times are UTC ns, exact to what is on
the wire (100 ns, or the 10 ps that few servers add); a value that is bad has a place-holder and says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.model import NO_TIME, Int64Array

TEXT_BYTES = 256
TEXT = f"|S{TEXT_BYTES}"

DTYPES: dict[str, str] = {
    "Boolean": "|u1",
    "SByte": "|i1",
    "Byte": "|u1",
    "Int16": "<i2",
    "UInt16": "<u2",
    "Int32": "<i4",
    "UInt32": "<u4",
    "Int64": "<i8",
    "UInt64": "<u8",
    "Float": "<f4",
    "Double": "<f8",
    "StatusCode": "<u4",
    "DateTime": "<i8",
    "String": TEXT,
    "LocalizedText": TEXT,
    "QualifiedName": TEXT,
    "XmlElement": TEXT,
    "Guid": TEXT,
    "NodeId": TEXT,
    "ExpandedNodeId": TEXT,
    "ByteString": "|u1",
}
"""numpy type of one element per built-in type. DateTime is UTC ns (`NO_TIME` for none); a ByteString is an array of bytes."""

KINDS = {
    1: "Boolean", 2: "SByte", 3: "Byte", 4: "Int16", 5: "UInt16", 6: "Int32", 7: "UInt32", 8: "Int64", 9: "UInt64", 10: "Float",
    11: "Double", 12: "String", 13: "DateTime", 14: "Guid", 15: "ByteString", 16: "XmlElement",
    17: "NodeId", 18: "ExpandedNodeId", 19: "StatusCode",
    20: "QualifiedName", 21: "LocalizedText", 22: "ExtensionObject", 23: "DataValue", 24: "Variant", 25: "DiagnosticInfo",
}  # fmt: skip
"""Built-in types by number (OPC 10000-6, table 1)."""

BAD = 0x8000_0000
_OVERFLOW = 0x0480
"""InfoType DataValue and the Overflow bit (OPC 10000-4, StatusCode)."""

_EPOCH_TICKS = 116_444_736_000_000_000
"""1970 in ticks of 100 ns since 1601."""
_LAST_TICKS = _EPOCH_TICKS + 92_233_720_368_547_758
"""The last tick that fits into int64 ns, in 2262."""


@dataclass(frozen=True, slots=True)
class Form:
    """Type and shape of one item of a stream. ``kind`` is the built-in type's name."""

    kind: str
    dtype: str
    shape: tuple[int, ...] = ()


DEFAULT_FORM = Form("Double", "<f8")


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """``n`` successive values of one form. ``form`` None: the server sent none (``status`` says why), the last form holds.

    ``values`` is ``(n, *form.shape)``; ``t_source`` and ``t_server`` are int64 UTC ns, ``status`` uint32, all of length ``n``.
    ``cut`` says that a text among them was longer than `TEXT_BYTES`.
    """

    form: Form | None
    values: npt.NDArray[Any] | None
    t_source: Int64Array
    t_server: Int64Array
    status: npt.NDArray[np.uint32]
    t_arrival: int
    cut: bool = False

    def __len__(self) -> int:
        """Number of values."""
        return len(self.status)

    @property
    def bad(self) -> npt.NDArray[np.bool_]:
        """Which values must not be used: status bad, no value, or not a number."""
        bad: npt.NDArray[np.bool_] = (self.status & BAD) != 0
        if self.values is None:
            return np.ones(len(self), bool)
        if self.values.dtype.kind == "f" and self.values.size:
            bad = bad | np.isnan(self.values).reshape(len(self), -1).all(axis=1)
        return bad

    @property
    def overflow(self) -> npt.NDArray[np.bool_]:
        """Before which values the server's queue lost some."""
        lost: npt.NDArray[np.bool_] = (self.status & _OVERFLOW) == _OVERFLOW
        return lost

    def rows(self, which: slice) -> Samples:
        """Some of the values."""
        values = None if self.values is None else self.values[which]
        return Samples(self.form, values, self.t_source[which], self.t_server[which], self.status[which], self.t_arrival, self.cut)


class Unusable(ValueError):
    """A value that no dataset can hold; the message says which type."""


def ticks_ns(ticks: npt.NDArray[np.int64]) -> Int64Array:
    """UTC ns of ticks (100 ns since 1601); `NO_TIME` for 0 and for what servers send instead (before 1970, 9999)."""
    known = (ticks > _EPOCH_TICKS) & (ticks <= _LAST_TICKS)
    times: Int64Array = np.where(known, (np.where(known, ticks, _EPOCH_TICKS) - _EPOCH_TICKS) * 100, NO_TIME)
    return times


def tick_ns(ticks: int) -> int:
    """`ticks_ns` of one."""
    return (ticks - _EPOCH_TICKS) * 100 if _EPOCH_TICKS < ticks <= _LAST_TICKS else NO_TIME


def text_cell(text: str) -> tuple[bytes, bool]:
    """UTF-8 of at most `TEXT_BYTES`, cut between characters, and whether it was cut."""
    data = text.encode("utf-8", "replace")
    if len(data) <= TEXT_BYTES:
        return data, False
    return data[:TEXT_BYTES].decode("utf-8", "ignore").encode(), True


def placeholder(form: Form, n: int) -> npt.NDArray[Any]:
    """What stands where a server sent no value, ``n`` times: NaN, 0 or an empty text."""
    kind = np.dtype(form.dtype).kind
    return np.full((n, *form.shape), np.nan if kind == "f" else b"" if kind == "S" else 0, form.dtype)
