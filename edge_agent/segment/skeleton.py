"""Reads the CBOR form of a META map back into objects: what the journal's SKELETON frames hold."""

from __future__ import annotations

from typing import Any

from edge_agent.seal.cbor import SealError, loads
from edge_agent.seal.meta import DatasetMeta, GroupMeta, HardLink, MetaObject, SoftLink, Value


def parse_meta(data: bytes) -> dict[str, MetaObject]:
    """The inverse of `edge_agent.seal.meta.encode_meta`; parents come before children.

    Raises:
        SealError: not such a map.
    """
    encoded = loads(data, "skeleton")
    try:
        objects = {str(path): _object(thing) for path, thing in encoded.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SealError(f"skeleton: {error}") from error
    return dict(sorted(objects.items()))


def _object(thing: dict[str, Any]) -> MetaObject:
    if "l" in thing:
        return SoftLink(thing["t"]) if thing["l"] == "soft" else HardLink(thing["t"])
    attributes = {name: _value(*value) for name, value in thing["a"].items()}
    if thing["k"] == "g":
        return GroupMeta(attributes)
    return DatasetMeta(thing["t"], attributes, _value(thing["t"], thing["s"], thing["v"]) if "v" in thing else None)


def _value(kind: Any, dims: Any, data: Any) -> Value:
    shape = None if dims is None else tuple(int(n) for n in dims)
    return Value(kind, shape, tuple(bytes(part) for part in data) if isinstance(data, list) else bytes(data))
