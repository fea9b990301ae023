"""HDF5 types in the grammar of docs/signed-chunks.md, both ways, and typed values for attributes and small datasets.

Only what the page lists exists here; a file with any other type raises `SealError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from h5py import h5t

from edge_agent.seal.cbor import SealError
from edge_agent.seal.meta import Value

TEXT_TYPE: list[Any] = ["vstr", h5t.STR_NULLTERM, h5t.CSET_UTF8]


def grammar(tid: Any) -> list[Any]:
    """The grammar of a low-level HDF5 type.

    Raises:
        SealError: a reference, a committed or variable-length type, odd padding, anything else that the page does not list.
    """
    if tid.committed():
        raise SealError("a committed type")
    kind = tid.get_class()
    # The grammar has no place for these, and readers obey them.
    if kind in (h5t.INTEGER, h5t.FLOAT) and tid.get_pad() != (h5t.PAD_ZERO, h5t.PAD_ZERO):
        raise SealError("a number whose unused bits are not zero")
    if kind == h5t.FLOAT and (tid.get_norm(), tid.get_inpad(), tid.get_offset()) != (h5t.NORM_IMPLIED, h5t.PAD_ZERO, 0):
        raise SealError("a float of another kind than those of IEEE 754")
    if kind == h5t.INTEGER:
        return ["int", tid.get_size(), tid.get_order(), tid.get_sign(), tid.get_precision(), tid.get_offset()]
    if kind == h5t.FLOAT:
        return ["flt", tid.get_size(), tid.get_order(), list(tid.get_fields()), tid.get_ebias(), tid.get_precision()]
    if kind == h5t.STRING:
        pad, cset = tid.get_strpad(), tid.get_cset()
        if cset not in (h5t.CSET_ASCII, h5t.CSET_UTF8):
            raise SealError(f"a text in the unknown encoding {cset}")
        return ["vstr", pad, cset] if tid.is_variable_str() else ["str", tid.get_size(), pad, cset]
    if kind == h5t.ENUM:
        members = [(tid.get_member_name(i).decode(), tid.get_member_value(i)) for i in range(tid.get_nmembers())]
        return ["enum", grammar(tid.get_super()), [list(m) for m in sorted(members)]]
    if kind == h5t.COMPOUND:
        fields = range(tid.get_nmembers())
        return [
            "cmp",
            tid.get_size(),
            [[tid.get_member_name(i).decode(), tid.get_member_offset(i), grammar(tid.get_member_type(i))] for i in fields],
        ]
    if kind == h5t.ARRAY:
        return ["arr", list(tid.get_array_dims()), grammar(tid.get_super())]
    if kind == h5t.OPAQUE:
        return ["opq", tid.get_size(), tid.get_tag().decode()]
    raise SealError(f"a type of HDF5 class {kind}")


def dtype_grammar(dtype: npt.DTypeLike) -> list[Any]:
    """The grammar of the HDF5 type that h5py makes of a numpy dtype."""
    return grammar(h5t.py_create(np.dtype(dtype), logical=True))


def text(value: str) -> Value:
    """A scalar UTF-8 string."""
    return Value(TEXT_TYPE, None, (value.encode(),))


def texts(values: Sequence[str]) -> Value:
    """A vector of UTF-8 strings."""
    return Value(TEXT_TYPE, (len(values),), tuple(v.encode() for v in values))


def integer(value: int) -> Value:
    """A scalar int64."""
    return array(np.int64(value))


def real(value: float) -> Value:
    """A scalar float64."""
    return array(np.float64(value))


def array(value: npt.ArrayLike) -> Value:
    """An array or a numpy scalar, in its own dtype."""
    data = np.asarray(value)
    return Value(dtype_grammar(data.dtype), data.shape if data.ndim else None, data.tobytes())


def of(value: str | int | float) -> Value:
    """A scalar of the matching kind."""
    if isinstance(value, str):
        return text(value)
    return integer(value) if isinstance(value, int) else real(value)


def numpy_value(value: Value) -> Any:
    """What h5py writes for a `Value`: numpy array, text, or list of texts (for building files from the grammar)."""
    if isinstance(value.data, tuple):
        decoded = [part.decode() for part in value.data]
        return decoded[0] if value.dims is None else np.array(decoded, dtype=object)
    data = np.frombuffer(value.data, dtype=numpy_dtype(value.type))
    return data[0] if value.dims is None else data.reshape(value.dims)


def numpy_dtype(kind: Any) -> np.dtype[Any]:
    """The numpy dtype of an integer, float or fixed-string grammar.

    Raises:
        SealError: any other type; segments written here hold no other.
    """
    if kind[0] == "int":
        return np.dtype(f"{'<' if kind[2] == h5t.ORDER_LE else '>'}{'i' if kind[3] else 'u'}{kind[1]}")
    if kind[0] == "flt":
        return np.dtype(f"{'<' if kind[2] == h5t.ORDER_LE else '>'}f{kind[1]}")
    if kind[0] == "str":
        return np.dtype(f"S{kind[1]}")
    raise SealError(f"type {kind[0]!r} is not written by this agent")


def is_text(value: Value) -> bool:
    """Whether the value is of variable-length strings."""
    return isinstance(value.data, tuple)


TEXT_DTYPE = h5py.string_dtype("utf-8")
