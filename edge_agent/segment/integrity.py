"""The tables of ``/entry/integrity`` (docs/signed-chunks.md, In a segment): written once at close, read by the verifier."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import h5py
import numpy as np
import numpy.typing as npt

from edge_agent.seal import leaf
from edge_agent.seal.cbor import SealError, dumps, loads
from edge_agent.seal.dsd import dsd_digest
from edge_agent.seal.keys import KeyChain, parse_key_chain
from edge_agent.seal.sidecar import FORMAT

PATH = "/entry/integrity"
NAMES = frozenset({"leaves", "events", "descriptors", "index", "heads", "keychain", "README"})
README = (
    "This file is signed chunk by chunk (HSC/1). To check it without our software:\n"
    "python verify_hsc1.py FILE --root root.pem\n"
    "The format is described in docs/signed-chunks.md of edge-agent.\n"
)
_EVENT = 0xFFFFFFFF
_LENGTH = struct.Struct(">I")
_POINTER = struct.Struct(">IQI")


@dataclass(frozen=True, slots=True)
class Tables:
    """What the group says: leaf payloads in order, encoded DSDs, anchor heads (COSE), key chain, chunk index a DSD."""

    leaves: tuple[bytes, ...]
    descriptors: tuple[bytes, ...]
    heads: tuple[bytes, ...]
    chain: KeyChain


def write(file: h5py.File, tables: Tables) -> None:
    """Create the group."""
    group = file.create_group(PATH)
    for name, value in (("NX_class", "NXcollection"), ("format", FORMAT)):
        group.attrs.create(name, value, dtype=h5py.string_dtype("utf-8"))
    rows, events = _pack(tables.leaves)
    group.create_dataset("leaves", data=rows)
    for name, data in (
        ("events", events),
        ("descriptors", dumps(list(tables.descriptors))),
        ("heads", dumps(list(tables.heads))),
        ("keychain", tables.chain.encode()),
    ):
        group.create_dataset(name, data=np.frombuffer(data, np.uint8))
    index = group.create_group("index")
    for number, positions in enumerate(_index(tables)):
        index.create_dataset(str(number), data=np.array(positions, dtype="<u4"))
    group.create_dataset("README", data=README, dtype=h5py.string_dtype("utf-8"))


def read(file: h5py.File) -> Tables:
    """Read the group, with every bound checked.

    Raises:
        SealError: something is missing, extra, or not what the page says.
    """
    group = file.get(PATH)
    if not isinstance(group, h5py.Group):
        raise SealError("the file has no /entry/integrity: it is not signed")
    if set(group) != NAMES or set(group.attrs) != {"NX_class", "format"}:
        raise SealError(f"{PATH}: holds something else than the format says")
    if group.attrs["format"] != FORMAT or group.attrs["NX_class"] != "NXcollection":
        raise SealError(f"{PATH}: another format than {FORMAT}")
    if group["README"][()] != README.encode():
        raise SealError(f"{PATH}/README: another text")
    descriptors = loads(_bytes(group, "descriptors"), "descriptors")
    heads = loads(_bytes(group, "heads"), "heads")
    for name, parts in (("descriptors", descriptors), ("heads", heads)):
        if not isinstance(parts, list) or not all(isinstance(part, bytes) for part in parts):
            raise SealError(f"{PATH}/{name}: not an array of byte strings")
    chain = parse_key_chain(_bytes(group, "keychain"))
    leaves = group["leaves"]
    _check_plain(leaves, 2, "leaves")
    tables = Tables(_unpack(leaves[()], _bytes(group, "events")), tuple(descriptors), tuple(heads), chain)
    _check_index(group["index"], tables)
    return tables


def _pack(leaves: Sequence[bytes]) -> tuple[npt.NDArray[np.uint8], bytes]:
    chunk = leaf.MAGIC + bytes((leaf.Chunk.TYPE,))
    width = max([_POINTER.size, *(_LENGTH.size + len(p) for p in leaves if p.startswith(chunk))])
    rows = bytearray(width * len(leaves))
    events = bytearray()
    for number, payload in enumerate(leaves):
        start = number * width
        if payload.startswith(chunk):
            rows[start : start + _LENGTH.size + len(payload)] = _LENGTH.pack(len(payload)) + payload
        else:
            rows[start : start + _POINTER.size] = _POINTER.pack(_EVENT, len(events), len(payload))
            events += payload
    return np.frombuffer(bytes(rows), np.uint8).reshape(len(leaves), width), bytes(events)


def _unpack(rows: npt.NDArray[np.uint8], events: bytes) -> tuple[bytes, ...]:
    width = rows.shape[1]
    if width < _POINTER.size:
        raise SealError(f"{PATH}/leaves: rows of {width} bytes")
    data = rows.tobytes()
    payloads: list[bytes] = []
    expected = 0
    for number in range(rows.shape[0]):
        row = data[number * width : (number + 1) * width]
        (length,) = _LENGTH.unpack_from(row)
        if length == _EVENT:
            _, offset, size = _POINTER.unpack_from(row)
            if offset != expected or offset + size > len(events):
                raise SealError(f"{PATH}/leaves: row {number} points outside of events, or out of order")
            payloads.append(events[offset : offset + size])
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


def _index(tables: Tables) -> list[list[int]]:

    numbers = {dsd_digest(d): n for n, d in enumerate(tables.descriptors)}
    index: list[list[int]] = [[] for _ in tables.descriptors]
    for position, payload in enumerate(tables.leaves):
        if payload[4] == leaf.Chunk.TYPE:
            number = numbers.get(payload[21:53])
            if number is None:
                raise SealError(f"leaf {position}: a chunk of a dataset that has no descriptor")
            index[number].append(position)
    return index


def _check_index(group: h5py.Group, tables: Tables) -> None:
    expected = _index(tables)
    if not isinstance(group, h5py.Group) or set(group) != {str(n) for n in range(len(expected))} or len(group.attrs):
        raise SealError(f"{PATH}/index: not one dataset a descriptor")
    for number, positions in enumerate(expected):
        dataset = group[str(number)]
        _check_plain(dataset, 1, f"index/{number}", "<u4")
        if dataset[()].tolist() != positions:
            raise SealError(f"{PATH}/index/{number}: does not lead to its leaves")


def _bytes(group: h5py.Group, name: str) -> bytes:
    dataset = group[name]
    _check_plain(dataset, 1, name)
    return bytes(dataset[()].tobytes())


def _check_plain(dataset: object, rank: int, name: str, dtype: str = "|u1") -> None:
    if (
        not isinstance(dataset, h5py.Dataset)
        or dataset.dtype != np.dtype(dtype)
        or dataset.ndim != rank
        or dataset.chunks is not None
        or dataset.external
        or dataset.is_virtual
        or len(dataset.attrs)
    ):
        raise SealError(f"{PATH}/{name}: not a plain array")
