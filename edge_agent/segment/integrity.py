"""The tables of ``/entry/integrity`` (docs/signed-chunks.md, In a segment): written once at close, read by the verifier."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import h5py
import numpy as np

from edge_agent.seal import leaf
from edge_agent.seal.cbor import SealError, dumps, loads
from edge_agent.seal.dsd import dsd_digest
from edge_agent.seal.keys import KeyChain, parse_key_chain
from edge_agent.seal.meta import DatasetMeta, GroupMeta, MetaObject, Value
from edge_agent.seal.sidecar import FORMAT
from edge_agent.seal.tree import EPOCHS_ABOVE, epoch_roots, leaf_hash
from edge_agent.segment import hdf5, types

PATH = "/entry/integrity"
NAMES = frozenset({"leaves", "events", "descriptors", "index", "heads", "keychain", "README"})
EPOCHS = "epochs"
"""There as well, in segments of more than `EPOCHS_ABOVE` leaves."""
README = (
    "This file is signed chunk by chunk (HSC/1). To check it without our software:\n"
    "python verify_hsc1.py FILE --root root.pem\n"
    "The format is described in docs/signed-chunks.md of edge-agent.\n"
)
_UINT8, _UINT32 = types.dtype_grammar("|u1"), types.dtype_grammar("<u4")
_CHUNK = leaf.MAGIC + bytes((leaf.Chunk.TYPE,))
_EVENT = 0xFFFFFFFF
_LENGTH = struct.Struct(">I")
_POINTER = struct.Struct(">IQI")


@dataclass(frozen=True, slots=True)
class Tables:
    """What the group says: leaf payloads in order, encoded DSDs, anchor heads (COSE), key chain; `epoch_roots` where they are known."""

    leaves: tuple[bytes, ...]
    descriptors: tuple[bytes, ...]
    heads: tuple[bytes, ...]
    chain: KeyChain
    epochs: tuple[bytes, ...] = ()


def objects(tables: Tables) -> dict[str, MetaObject]:
    """The group and everything below it, by path, parents first."""
    rows, width, events = _pack(tables.leaves)
    arrays = {
        "leaves": Value(_UINT8, (len(tables.leaves), width), rows),
        "events": _octets(events),
        "descriptors": _octets(dumps(list(tables.descriptors))),
        "heads": _octets(dumps(list(tables.heads))),
        "keychain": _octets(tables.chain.encode()),
    }
    if len(tables.leaves) > EPOCHS_ABOVE:
        epochs = b"".join(tables.epochs) or _epochs(tables.leaves)
        arrays[EPOCHS] = Value(_UINT8, (len(epochs) // 32, 32), epochs)
    for number, positions in enumerate(_index(tables)):
        arrays[f"index/{number}"] = Value(_UINT32, (len(positions),), np.array(positions, "<u4").tobytes())
    arrays["README"] = types.text(README)
    group = GroupMeta({"NX_class": types.text("NXcollection"), "format": types.text(FORMAT)})
    made: dict[str, MetaObject] = {PATH: group, f"{PATH}/index": GroupMeta({"NX_class": types.text("NXcollection")})}
    made.update({f"{PATH}/{name}": DatasetMeta(value.type, {}, value) for name, value in arrays.items()})
    return made


def write(file: h5py.File, made: Mapping[str, MetaObject]) -> None:
    """Create what `objects` made of the tables."""
    for path, thing in made.items():
        hdf5.add(file, path, thing, {})


def read(objects: Mapping[str, MetaObject]) -> Tables:
    """The tables, from the objects that `reader.walk` found at and below the group; every bound is checked.

    Raises:
        SealError: something is missing, extra, or not what the page says.
    """
    group = objects.get(PATH)
    if not isinstance(group, GroupMeta):
        raise SealError(f"the file has no {PATH}: it is not signed")
    if {name: text_of(value) for name, value in group.attributes.items()} != {"NX_class": "NXcollection", "format": FORMAT}:
        raise SealError(f"{PATH}: another format than {FORMAT}, or other attributes")
    descriptors = _byte_strings(objects, "descriptors")
    index = {f"{PATH}/index/{number}" for number in range(len(descriptors))}
    rest = set(objects) - {f"{PATH}/{EPOCHS}"}
    if rest != {PATH, *(f"{PATH}/{name}" for name in NAMES), *index} or not _is_index(objects[f"{PATH}/index"]):
        raise SealError(f"{PATH}: holds something else than the format says")
    if text_of(_plain(objects, "README")) != README:
        raise SealError(f"{PATH}/README: another text")
    data, dims = _array(objects, "leaves", 2)
    leaves = unpack(data, dims[1], _array(objects, "events", 1)[0])
    _check_epochs(objects, leaves)
    chain = parse_key_chain(_array(objects, "keychain", 1)[0])
    tables = Tables(leaves, descriptors, _byte_strings(objects, "heads"), chain)
    for number, positions in enumerate(_index(tables)):
        if _array(objects, f"index/{number}", 1, _UINT32)[0] != np.array(positions, "<u4").tobytes():
            raise SealError(f"{PATH}/index/{number}: does not lead to its leaves")
    return tables


def _octets(data: bytes) -> Value:
    return Value(_UINT8, (len(data),), data)


def _pack(leaves: Sequence[bytes]) -> tuple[bytes, int, bytes]:
    """The rows of ``leaves``, their width, and ``events``."""
    sizes = Counter(len(payload) for payload in leaves if payload.startswith(_CHUNK))
    width = max([_POINTER.size, *(_LENGTH.size + size for size in sizes)])
    # Chunks have one length nearly always, and there may be a hundred thousand of them while a detector waits.
    heads = {size: (_LENGTH.pack(size), bytes(width - _LENGTH.size - size)) for size in sizes}
    parts: list[bytes] = []
    events = bytearray()
    for payload in leaves:
        if payload.startswith(_CHUNK):
            head, padding = heads[len(payload)]
            parts += (head, payload, padding)
        else:
            parts.append(_POINTER.pack(_EVENT, len(events), len(payload)).ljust(width, b"\0"))
            events += payload
    return b"".join(parts), width, bytes(events)


def events_of(rows: bytes, width: int) -> tuple[int, int]:
    """Where in ``events`` the rows of `leaves` have their other leaves: begin and end; both 0 when there are only chunks.

    Raises:
        SealError: rows that are too narrow.
    """
    if width < _POINTER.size:
        raise SealError(f"{PATH}/leaves: rows of {width} bytes")
    spans = [_POINTER.unpack_from(rows, at)[1:] for at in range(0, len(rows), width) if rows[at : at + 4] == b"\xff" * 4]
    return (spans[0][0], spans[-1][0] + spans[-1][1]) if spans else (0, 0)


def unpack(data: bytes, width: int, events: bytes, begin: int = 0) -> tuple[bytes, ...]:
    """The leaf payloads in rows of ``leaves``; ``events`` is what stands at ``begin`` of the table of that name.

    Raises:
        SealError: rows and events that do not fit each other, or are not as the page says.
    """
    if width < _POINTER.size:
        raise SealError(f"{PATH}/leaves: rows of {width} bytes")
    payloads: list[bytes] = []
    expected = 0
    for number in range(len(data) // width):
        row = data[number * width : (number + 1) * width]
        (length,) = _LENGTH.unpack_from(row)
        if length == _EVENT:
            _, offset, size = _POINTER.unpack_from(row)
            if offset != begin + expected or expected + size > len(events):
                raise SealError(f"{PATH}/leaves: row {number} points outside of events, or out of order")
            payloads.append(events[expected : expected + size])
            expected += size
            used = _POINTER.size
        else:
            used = _LENGTH.size + length
            if used > width:
                raise SealError(f"{PATH}/leaves: row {number} is longer than the table is wide")
            payloads.append(row[_LENGTH.size : used])
        if any(row[used:]):
            raise SealError(f"{PATH}/leaves: row {number} is not padded with zeros")
    if expected != len(events):
        raise SealError(f"{PATH}/events: has bytes that no leaf points to")
    return tuple(payloads)


def _epochs(leaves: Sequence[bytes]) -> bytes:
    return b"".join(epoch_roots([leaf_hash(payload) for payload in leaves]))


def _check_epochs(objects: Mapping[str, MetaObject], leaves: Sequence[bytes]) -> None:
    there, needed = f"{PATH}/{EPOCHS}" in objects, len(leaves) > EPOCHS_ABOVE
    if there != needed:
        raise SealError(f"{PATH}/{EPOCHS}: {'missing' if needed else 'there'}, with {len(leaves)} leaves")
    if there:
        data, dims = _array(objects, EPOCHS, 2)
        if dims[1] != 32 or data != _epochs(leaves):
            raise SealError(f"{PATH}/{EPOCHS}: not the roots of the leaves")


def _index(tables: Tables) -> list[list[int]]:
    numbers = {dsd_digest(d): n for n, d in enumerate(tables.descriptors)}
    index: list[list[int]] = [[] for _ in tables.descriptors]
    for position, payload in enumerate(tables.leaves):
        if payload.startswith(_CHUNK):
            number = numbers.get(payload[21:53])
            if number is None:
                raise SealError(f"leaf {position}: a chunk of a dataset that has no descriptor")
            index[number].append(position)
    return index


def _is_index(found: MetaObject) -> bool:
    marks = {name: text_of(value) for name, value in found.attributes.items()} if isinstance(found, GroupMeta) else {}
    return marks == {"NX_class": "NXcollection"}


def _plain(objects: Mapping[str, MetaObject], name: str) -> Value:
    found = objects[f"{PATH}/{name}"]
    if not isinstance(found, DatasetMeta) or found.value is None or found.attributes:
        raise SealError(f"{PATH}/{name}: not a plain array")
    return found.value


def _array(objects: Mapping[str, MetaObject], name: str, rank: int, kind: object = _UINT8) -> tuple[bytes, tuple[int, ...]]:
    value = _plain(objects, name)
    if value.type != kind or value.dims is None or len(value.dims) != rank or not isinstance(value.data, bytes):
        raise SealError(f"{PATH}/{name}: an array of another type or rank")
    return value.data, value.dims


def _byte_strings(objects: Mapping[str, MetaObject], name: str) -> tuple[bytes, ...]:
    if f"{PATH}/{name}" not in objects:
        raise SealError(f"{PATH}: has no {name}")
    parts = loads(_array(objects, name, 1)[0], name)
    if not isinstance(parts, list) or not all(isinstance(part, bytes) for part in parts):
        raise SealError(f"{PATH}/{name}: not an array of byte strings")
    return tuple(parts)


def text_of(value: Value) -> str:
    """A scalar string, variable or fixed; nothing for any other value."""
    if value.dims is not None or value.type[0] not in ("vstr", "str"):
        return ""
    data = value.data[0] if isinstance(value.data, tuple) else value.data.rstrip(b"\0")
    return data.decode(errors="replace")
