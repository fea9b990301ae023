"""Reads attributes and unchunked datasets of a foreign file as typed values, with every size bounded before anything is read.

Bytes are taken as the file stores them: the file's own type is also the memory type, so HDF5 converts nothing. Compound padding
is zeroed, because HDF5 does not promise what it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from h5py import h5a, h5d, h5s, h5t

from edge_agent.seal.cbor import SealError
from edge_agent.seal.meta import Value
from edge_agent.segment import types

MAX_STRINGS = 1 << 20
"""Strings in one value: far above any table of gaps, far below what exhausts a worker."""
MAX_ATTRIBUTES = 4096
WHOLE = ("int", "flt", "str", "opq")
"""Types without padding between their parts."""

_Read = Callable[[npt.NDArray[Any], Any], None]


def attributes(node: Any, limit: int) -> dict[str, Value]:
    """All attributes of an open low-level object, by name.

    Args:
        node: group or dataset id.
        limit: bytes that one value may have.

    Raises:
        SealError: too many, too large, or of a type that the page does not list.
    """
    count = h5a.get_num_attrs(node)
    if count > MAX_ATTRIBUTES:
        raise SealError(f"has {count} attributes, more than {MAX_ATTRIBUTES}")
    found: dict[str, Value] = {}
    for index in range(count):
        attribute = h5a.open(node, index=index)
        name = attribute.name.decode()
        # Nothing in HDF5 makes such a file; in one that was made by hand, each reader would see another of them.
        if name in found:
            raise SealError(f"attribute {name}: is there twice")
        try:
            tid = attribute.get_type()
            found[name] = _value(tid, types.grammar(tid), attribute.get_space(), attribute.read, limit)
        except SealError as error:
            raise SealError(f"attribute {name}: {error}") from error
    return found


def dataset_value(dataset: h5d.DatasetID, tid: Any, kind: list[Any], limit: int) -> Value:
    """The whole value of an unchunked dataset of at most ``limit`` bytes; its layout must have been checked.

    Args:
        dataset: its low-level id.
        tid: its low-level type.
        kind: the grammar of its type.
        limit: bytes that the value may have.

    Raises:
        SealError: too large, or of a type that the page does not list.
    """

    def read(array: npt.NDArray[Any], memory: Any) -> None:
        dataset.read(h5s.ALL, h5s.ALL, array, memory)

    return _value(tid, kind, dataset.get_space(), read, limit)


def _value(tid: Any, kind: list[Any], space: Any, read: _Read, limit: int) -> Value:
    extent = space.get_simple_extent_type()
    if extent == h5s.NULL:
        raise SealError("an empty dataspace, which is neither a scalar nor an array")
    dims = None if extent == h5s.SCALAR else tuple(map(int, space.get_simple_extent_dims()))
    # Only chunked datasets can grow, and only their descriptor signs how far.
    if dims is not None and tuple(map(int, space.get_simple_extent_dims(True))) != dims:
        raise SealError(f"{dims} elements that could become more, in what is not chunked")
    count = math.prod(dims or ())
    if kind[0] == "vstr":
        if count > MAX_STRINGS:
            raise SealError(f"{count} strings, more than {MAX_STRINGS}")
        return Value(kind, dims, _strings(kind, dims or (), read))
    size = tid.get_size()
    if count * size > limit:
        raise SealError(f"{count * size} bytes declared where at most {limit} can be")
    used = None if kind[0] in WHOLE else used_bytes(kind)
    array = np.zeros(dims or (), dtype=f"V{size}")
    if count:
        read(array, tid)
    if used is not None and not used.all():
        array.reshape(-1).view(np.uint8).reshape(-1, size)[:, ~used] = 0
    return Value(kind, dims, array.tobytes())


def _strings(kind: list[Any], dims: tuple[int, ...], read: _Read) -> tuple[bytes, ...]:
    dtype, memory = _text_type(kind[2])
    array = np.zeros(dims, dtype)
    if array.size:
        read(array, memory)
    # A string that was never written reads as the number 0.
    return tuple(part if isinstance(part, bytes) else b"" for part in array.ravel())


@cache
def _text_type(cset: int) -> tuple[np.dtype[Any], Any]:
    """What texts of a character set are read into: a numpy dtype and the same as a type of HDF5."""
    dtype = h5py.string_dtype("utf-8" if cset == h5t.CSET_UTF8 else "ascii")
    return dtype, h5t.py_create(dtype)


def used_bytes(kind: list[Any]) -> npt.NDArray[np.bool_]:
    """Which bytes of an element carry its value: all but the padding of compounds; shape ``(size,)``.

    Raises:
        SealError: a variable-length string within a compound or array: its bytes are elsewhere in the file.
    """
    if kind[0] == "vstr":
        raise SealError("a variable-length string inside another type")
    if kind[0] == "enum":
        return used_bytes(kind[1])
    if kind[0] == "arr":
        return np.tile(used_bytes(kind[2]), math.prod(kind[1]))
    if kind[0] == "cmp":
        used = np.zeros(kind[1], np.bool_)
        for _, offset, member in kind[2]:
            part = used_bytes(member)
            used[offset : offset + part.size] |= part
        return used
    return np.ones(kind[1], np.bool_)
