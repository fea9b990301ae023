"""Reads binary records by a format of Python's ``struct`` module (``"<IHf256H"``), with a name for each field. Pure.

Invariants: a format has a fixed size, and a record of another size is no item; a repeated number (``256H``) is one field of so many
values side by side, and the last field may be repeated to the end of the record (``*H``); ``x`` skips a byte and has no name; the
name ``_`` skips a field, ``status`` goes to the status of the row.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from adapters.serial.outcome import Channel, Columns, Outcome, Reading, Unparsed, Value
from adapters.serial.why import Why

_CODES: Final[Mapping[str, str]] = {
    "b": "i1", "B": "u1", "?": "u1", "h": "i2", "H": "u2", "i": "i4", "I": "u4", "l": "i4", "L": "u4", "q": "i8", "Q": "u8",
    "e": "f2", "f": "f4", "d": "f8",
}  # fmt: skip
_OPEN: Final = re.compile(r"^[^*]*\*[bB?hHiIlLqQefd]$")
MOST_LENGTHS: Final = 64
_FIELD: Final = re.compile(r"\s*([0-9]*)([xcbB?hHiIlLqQefds])")


class BinaryParser:
    """Reads records of one format; raises ValueError for a format or names that do not fit together."""

    def __init__(self, form: str, names: Sequence[str], units: Mapping[str, str]) -> None:
        self._form, self._fields = form.rstrip(), tuple(names)
        self._open = "*" in form
        if self._open and not _OPEN.search(self._form):
            raise ValueError(f"struct = {form!r}: * stands before the last field, which then goes on to the end of the record")
        # One value in an open field is enough to know all types.
        dtype = _dtype(self._form.replace("*", "1"), names)
        self._least = dtype.itemsize - (dtype[-1].itemsize if self._open else 0)
        self._dtypes: dict[int, np.dtype[Any]] = {dtype.itemsize: dtype}
        fields = [name for name in dtype.names or () if not name.startswith("_") and name != "status"]
        if not fields:
            raise ValueError('fields names no value; write for example struct = "<If" with fields = ["_", "mass"]')
        self._status = "status" in (dtype.names or ())
        self.channels = tuple(_channel(name, dtype[name], units.get(name), any_length=self._open and name == names[-1]) for name in fields)

    def parse(self, line: bytes) -> Outcome:
        """The values of one record."""
        columns = self.parse_many([line])
        if columns is None:
            wanted = f"{self._least}+" if self._open else self._least
            return Unparsed(Why("has {size} bytes and not {wanted}", size=len(line), wanted=wanted))
        values: list[Value] = [column[0] if column.ndim > 1 else column[0].item() for column in columns.values]
        return Reading(tuple(values), columns.units, int(columns.status[0]))

    def parse_many(self, lines: Sequence[bytes]) -> Columns | None:
        """The values of many records, without a loop over them."""
        dtype = self._of(len(lines[0]))
        if dtype is None or any(len(line) != dtype.itemsize for line in lines):
            return None
        records: npt.NDArray[Any] = np.frombuffer(b"".join(lines), dtype)
        values = tuple(np.ascontiguousarray(records[channel.name]).astype(channel.dtype, copy=False) for channel in self.channels)
        status = records["status"].astype(np.uint32) if self._status else np.zeros(len(lines), np.uint32)
        return Columns(values, (None,) * len(values), status)

    def _of(self, size: int) -> np.dtype[Any] | None:
        """The type of a record of so many bytes; None when there is none."""
        if size in self._dtypes or not self._open:
            return self._dtypes.get(size)
        one = next(iter(self._dtypes.values()))
        count, rest = divmod(size - self._least, one[-1].base.itemsize)
        if rest or count < 1:
            return None
        dtype = _dtype(self._form.replace("*", str(count)), self._fields)
        if len(self._dtypes) < MOST_LENGTHS:
            self._dtypes[size] = dtype
        return dtype


def _dtype(form: str, names: Sequence[str]) -> np.dtype[Any]:
    order, body = (form[0], form[1:]) if form[:1] in ("<", ">", "!", "=", "@") else ("<", form)
    if order in ("@", "="):
        raise ValueError(f'struct = {form!r}: begin it with "<" (low byte first) or ">" (high byte first)')
    order = ">" if order == "!" else order
    described: list[tuple[Any, ...]] = []
    left, position = list(names), 0
    while position < len(body.rstrip()):
        found = _FIELD.match(body, position)
        if found is None:
            raise ValueError(f"struct, from {body[position : position + 10]!r}: no format of a field; write for example <I or 256H")
        count, code = int(found[1] or 1), found[2]
        position = found.end()
        if code == "x":
            described.append((f"_{len(described)}", f"V{count}"))
            continue
        if not left:
            raise ValueError(f"struct has more fields than fields has names ({', '.join(names) or 'none'}); name all, or _ to skip one")
        name = left.pop(0)
        name = f"_{len(described)}" if name == "_" else name
        if name in [one[0] for one in described]:
            raise ValueError(f"fields names {name!r} twice; every field needs a name of its own, or _ to skip it")
        if code in "sc":
            described.append((name, f"S{count}"))
        else:
            described.append((name, order + _CODES[code], *(((count,),) if found[1] else ())))
    if left:
        raise ValueError(f"fields names {left[0]!r}, for which struct has no field")
    dtype = np.dtype(described)
    if not 0 < dtype.itemsize <= 2**20 or dtype.itemsize != struct.calcsize(order + body):
        raise ValueError(f"struct = {form!r} describes {dtype.itemsize} bytes; a record has 1 to {2**20}")
    if "status" in (dtype.names or ()) and (dtype["status"].kind not in "iu" or dtype["status"].shape):
        raise ValueError("status has to be one whole number")
    return dtype


def _channel(name: str, dtype: np.dtype[Any], unit: str | None, *, any_length: bool) -> Channel:
    return Channel(name, dtype.base.newbyteorder("<").str, unit, None if any_length else dtype.shape)
