"""The META digest: all groups, attributes, links and unchunked values of a file, in one map (docs/signed-chunks.md, META)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_agent.seal.cbor import dumps


@dataclass(frozen=True, slots=True)
class Value:
    """A typed value as the file stores it: ``data`` is bytes, or a tuple of byte strings for ``vstr``; dims None is a scalar."""

    type: Any
    dims: tuple[int, ...] | None
    data: bytes | tuple[bytes, ...]

    def encode(self) -> list[Any]:
        """``[type, dims, value]``."""
        data = list(self.data) if isinstance(self.data, tuple) else self.data
        return [self.type, None if self.dims is None else list(self.dims), data]


@dataclass(frozen=True, slots=True)
class GroupMeta:
    """A group and its attributes."""

    attributes: Mapping[str, Value] = field(default_factory=dict)

    def encode(self) -> dict[str, Any]:
        """The map of the page."""
        return {"k": "g", "a": _attributes(self.attributes)}


@dataclass(frozen=True, slots=True)
class DatasetMeta:
    """A dataset: with its value when it is not chunked, with its type only when it is."""

    type: Any
    attributes: Mapping[str, Value] = field(default_factory=dict)
    value: Value | None = None

    def encode(self) -> dict[str, Any]:
        """The map of the page."""
        encoded: dict[str, Any] = {"k": "d", "a": _attributes(self.attributes), "t": self.type}
        if self.value is not None:
            _, encoded["s"], encoded["v"] = self.value.encode()
        return encoded


@dataclass(frozen=True, slots=True)
class SoftLink:
    """A soft link and its target path."""

    target: str

    def encode(self) -> dict[str, Any]:
        """The map of the page."""
        return {"l": "soft", "t": self.target}


@dataclass(frozen=True, slots=True)
class HardLink:
    """A further name of an object that was met before."""

    target: str

    def encode(self) -> dict[str, Any]:
        """The map of the page."""
        return {"l": "hard", "t": self.target}


MetaObject = GroupMeta | DatasetMeta | SoftLink | HardLink


def encode_meta(objects: Mapping[str, MetaObject]) -> bytes:
    """Deterministic CBOR of ``{path: object}``."""
    return dumps({path: thing.encode() for path, thing in objects.items()})


def meta_digest(objects: Mapping[str, MetaObject]) -> bytes:
    r"""``SHA-256("HSC1-meta\0" || CBOR)``, 32 bytes."""
    return hashlib.sha256(b"HSC1-meta\0" + encode_meta(objects)).digest()


def _attributes(attributes: Mapping[str, Value]) -> dict[str, Any]:
    return {name: value.encode() for name, value in attributes.items()}
