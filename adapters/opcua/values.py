"""From an OPC-UA DataValue to a value of a fixed numpy form. Pure.

Source: OPC 10000-4 (DataValue, StatusCode), 10000-6 (built-in types). Invariants: times are UTC ns, exact to the
microsecond that the library keeps of the 100 ns on the wire; a value that is bad has a place-holder and says so.
"""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from asyncua import ua

from edge_agent.model import NO_TIME

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
    "ByteString": "|u1",
}
"""numpy type of one element per built-in type. DateTime is UTC ns (`NO_TIME` for none); a ByteString is an array of bytes."""

_BAD = 0x8000_0000
_OVERFLOW = 0x0480
"""InfoType DataValue and the Overflow bit (OPC 10000-4, StatusCode)."""

_EPOCH = datetime.fromtimestamp(0, UTC)
_MICROSECOND = timedelta(microseconds=1)
_EARLIEST = datetime.fromtimestamp(1, UTC)
_LATEST = datetime(2262, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Form:
    """Type and shape of one item of a stream. ``kind`` is the built-in type's name."""

    kind: str
    dtype: str
    shape: tuple[int, ...] = ()


DEFAULT_FORM = Form("Double", "<f8")


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One value. ``form`` None: the server sent none (its status says why), the last form holds."""

    value: Any
    form: Form | None
    t_source: int
    t_server: int
    t_arrival: int
    status: int
    bad: bool
    overflow: bool
    cut: bool = False


class Unusable(ValueError):
    """A value that no dataset can hold; the message says which type."""


def time_ns(moment: datetime | None) -> int:
    """UTC ns; `NO_TIME` for none and for what servers send instead (1601, 9999)."""
    if moment is None:
        return NO_TIME
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    if not _EARLIEST <= aware <= _LATEST:
        return NO_TIME
    return (aware - _EPOCH) // _MICROSECOND * 1000


def read_value(data: Any, t_arrival: int) -> Sample:
    """Convert a ``ua.DataValue``; raises `Unusable` on a structure and on arrays of odd shape."""
    status = int(data.StatusCode.value) if data.StatusCode is not None else 0
    variant = data.Value
    empty = variant is None or variant.Value is None or variant.VariantType == ua.VariantType.Null
    form: Form | None = None
    value: Any = None
    cut = False
    if not empty:
        form, value, cut = convert(variant)
    bad = bool(status & _BAD) or empty or _not_a_number(value)
    return Sample(
        value,
        form,
        time_ns(data.SourceTimestamp),
        time_ns(data.ServerTimestamp),
        t_arrival,
        status,
        bad,
        overflow=status & _OVERFLOW == _OVERFLOW,
        cut=cut,
    )


def convert(variant: Any) -> tuple[Form, Any, bool]:
    """Form and value of a ``ua.Variant``, and whether a text was cut; raises `Unusable`."""
    kind = getattr(variant.VariantType, "name", str(variant.VariantType))
    dtype = DTYPES.get(kind)
    if dtype is None:
        raise Unusable(f"values of type {kind} cannot be recorded; record the variables below it")
    plain = variant.Value
    if kind == "ByteString" and isinstance(plain, bytes):
        pixels = np.frombuffer(plain, np.uint8)
        return Form(kind, dtype, pixels.shape), pixels, False
    if not isinstance(plain, list):
        value, cut = _element(kind, plain)
        return Form(kind, dtype), value, cut
    if kind == "ByteString":
        raise Unusable("arrays of ByteString cannot be recorded; record the elements")
    if dtype == TEXT or kind in ("DateTime", "StatusCode"):
        coded = [_element(kind, one) for one in plain]
        array = np.array([value for value, _ in coded], dtype)
        return Form(kind, dtype, array.shape), array, any(cut for _, cut in coded)
    try:
        array = np.array(plain, dtype)
    except (TypeError, ValueError) as e:
        raise Unusable(f"an array of {kind} with holes or odd dimensions {variant.Dimensions} cannot be recorded") from e
    return Form(kind, dtype, array.shape), array, False


def _element(kind: str, plain: Any) -> tuple[Any, bool]:
    if kind == "DateTime":
        return time_ns(plain), False
    if kind == "StatusCode":
        return int(plain.value), False
    if DTYPES[kind] != TEXT:
        return plain, False
    if kind == "NodeId":
        text = str(plain.to_string())
    elif kind == "LocalizedText":
        text = str(plain.Text or "")
    elif kind == "QualifiedName":
        text = str(plain.Name or "")
    else:
        text = str(plain) if isinstance(plain, (str, uuid.UUID)) else ""
    data = text.encode("utf-8", "replace")
    if len(data) <= TEXT_BYTES:
        return data, False
    return data[:TEXT_BYTES].decode("utf-8", "ignore").encode(), True


def placeholder(form: Form) -> Any:
    """What stands where a server sent no value: NaN, 0 or an empty text."""
    kind = np.dtype(form.dtype).kind
    return np.full(form.shape, np.nan if kind == "f" else b"" if kind == "S" else 0, form.dtype)


def _not_a_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size:
        return bool(np.isnan(value).all())
    return False
