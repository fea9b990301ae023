"""Proves single leaves of a segment without reading the others: by their epochs and the close head (docs/signed-chunks.md, One slice).

Reads the rows of ``leaves`` that it is asked for, in whole epochs, and nothing else of that table. A segment of up to 4096 leaves has no
epochs and is one piece.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5s, h5t

from edge_agent.seal import leaf
from edge_agent.seal.cbor import SealError, loads
from edge_agent.seal.head import State
from edge_agent.seal.keys import KeyChain, Trusted, parse_key_chain
from edge_agent.seal.sidecar import FORMAT
from edge_agent.seal.tree import EPOCH, EPOCHS_ABOVE, inclusion_proof, leaf_hash, root_of
from edge_agent.segment import types, values
from edge_agent.segment.heads import Checked, signed_head
from edge_agent.segment.integrity import EPOCHS, NAMES, PATH, events_of, text_of, unpack
from edge_agent.segment.reader import open_object

_UINT8 = types.dtype_grammar("|u1")
_UINT32 = types.dtype_grammar("<u4")
_MAX_ATTRIBUTE = 1024


@dataclass(slots=True)
class PartialTree:
    """The leaves of a closed segment, read and proven when they are asked for."""

    file: h5py.File
    size: int = field(init=False)
    _width: int = field(init=False)
    _epochs: list[bytes] = field(init=False, default_factory=list)
    _known: dict[int, tuple[bytes, ...]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Check what the group is; read no leaf yet.

        Raises:
            SealError: not the tables of a segment.
        """
        group = open_object(self.file, PATH)
        if not isinstance(group, h5g.GroupID):
            raise SealError(f"{PATH}: not a group")
        marks = {name: text_of(value) for name, value in values.attributes(group, _MAX_ATTRIBUTE).items()}
        names: list[bytes] = []
        group.links.iterate(names.append)
        there = {name.decode() for name in names}
        if marks != {"NX_class": "NXcollection", "format": FORMAT} or there - {EPOCHS} != NAMES or len(there) != len(names):
            raise SealError(f"{PATH}: another format than {FORMAT}, or holds something else than the format says")
        self.size, self._width = self._dims("leaves", 2)
        if self.size < 2:
            raise SealError(f"{PATH}/leaves: {self.size} leaves, where OPEN and CLOSE are at least")
        if self.size > EPOCHS_ABOVE:
            rows, width = self._dims(EPOCHS, 2)
            if (rows, width) != (-(-self.size // EPOCH), 32):
                raise SealError(f"{PATH}/{EPOCHS}: {rows} rows of {width} bytes for {self.size} leaves")
            data = self._read(EPOCHS, 0, rows)
            self._epochs = [data[at : at + 32] for at in range(0, len(data), 32)]

    @property
    def read(self) -> int:
        """Leaves that were read."""
        return sum(map(len, self._known.values()))

    def chain(self) -> KeyChain:
        """The key chain."""
        return parse_key_chain(self._whole("keychain"))

    def descriptors(self) -> tuple[bytes, ...]:
        """Encoded DSDs in their order."""
        return self._byte_strings("descriptors")

    def close_head(self, trusted: Trusted, segment_id: bytes) -> Checked:
        """The close head, when it stands for the epochs (or leaves) that are here.

        Raises:
            SealError: it does not.
        """
        heads = self._byte_strings("heads")
        if not heads:
            raise SealError("heads: there is none")
        try:
            checked = signed_head(heads[-1], trusted)
            head = checked.head
            if head.tree_id != segment_id:
                raise SealError("of another tree")
            if head.state not in (State.CLOSED, State.RECOVERED) or head.size != self.size:
                raise SealError("no close head over all leaves, or of a tree that the agent itself declared damaged")
            if root_of(self._epochs or self._hashes(0)) != head.root:
                raise SealError(f"the {'epochs' if self._epochs else 'leaves'} are not those that were signed")
        except SealError as error:
            raise SealError(f"close head: {error}") from error
        return checked

    def leaf(self, number: int) -> leaf.Leaf:
        """One leaf, parsed; it is in the tree that `close_head` checked.

        Raises:
            SealError: its epoch is not the one that stands in ``epochs``, or it is no leaf.
        """
        try:
            return leaf.parse(self.payload(number))
        except SealError as error:
            raise SealError(f"leaf {number}: {error}") from error

    def payload(self, number: int) -> bytes:
        """The payload of one leaf, as `leaf`."""
        epoch = number // EPOCH if self._epochs else 0
        return self._piece(epoch)[number - epoch * EPOCH]

    def path(self, number: int) -> list[bytes]:
        """Its RFC 9162 inclusion proof."""
        if not self._epochs:
            return inclusion_proof(self._hashes(0), number)
        epoch = number // EPOCH
        return inclusion_proof(self._hashes(epoch), number - epoch * EPOCH) + inclusion_proof(self._epochs, epoch)

    def index(self, number: int, positions: Iterable[int]) -> list[int]:
        """What ``index/<number>`` says of some chunks; nothing proves it, so the leaves that it names have to be looked at.

        Raises:
            SealError: it is too short.
        """
        wanted = list(positions)
        name = f"index/{number}"
        (size,) = self._dims(name, 1, _UINT32)
        if not wanted:
            return []
        first, end = min(wanted), max(wanted) + 1
        if end > size:
            raise SealError(f"{PATH}/{name}: has {size} chunks")
        found = np.frombuffer(self._read(name, first, end - first, 4), "<u4")
        return [int(found[position - first]) for position in wanted]

    def _hashes(self, epoch: int) -> list[bytes]:
        return [leaf_hash(payload) for payload in self._piece(epoch)]

    def _piece(self, epoch: int) -> tuple[bytes, ...]:
        """The payloads of an epoch, compared with ``epochs``; of the whole table where there are none."""
        if epoch not in self._known:
            first = epoch * EPOCH
            rows = self._read("leaves", first, min(EPOCH, self.size - first) if self._epochs else self.size)
            begin, end = events_of(rows, self._width)
            (size,) = self._dims("events", 1)
            if not begin <= end <= size:
                raise SealError(f"{PATH}/leaves: rows from {first} on point outside of events")
            payloads = unpack(rows, self._width, self._read("events", begin, end - begin), begin)
            if self._epochs and root_of([leaf_hash(payload) for payload in payloads]) != self._epochs[epoch]:
                raise SealError(f"{PATH}/leaves: rows from {first} on do not have the root of their epoch")
            self._known[epoch] = payloads
        return self._known[epoch]

    def _dataset(self, name: str, rank: int, kind: object = _UINT8) -> h5d.DatasetID:
        node = open_object(self.file, f"{PATH}/{name}")
        if not isinstance(node, h5d.DatasetID):
            raise SealError(f"{PATH}/{name}: not a dataset")
        properties = node.get_create_plist()
        # Before anything else: asking a virtual dataset for its shape opens its sources.
        if properties.get_layout() not in (h5d.COMPACT, h5d.CONTIGUOUS) or properties.get_external_count():
            raise SealError(f"{PATH}/{name}: not stored in one piece in this file")
        if types.grammar(node.get_type()) != kind or len(node.shape) != rank or h5a.get_num_attrs(node):
            raise SealError(f"{PATH}/{name}: an array of another type or rank")
        return node

    def _dims(self, name: str, rank: int, kind: object = _UINT8) -> tuple[int, ...]:
        return tuple(int(n) for n in self._dataset(name, rank, kind).shape)

    def _whole(self, name: str) -> bytes:
        return self._read(name, 0, self._dims(name, 1)[0])

    def _byte_strings(self, name: str) -> tuple[bytes, ...]:
        parts = loads(self._whole(name), name)
        if not isinstance(parts, list) or not all(isinstance(part, bytes) for part in parts):
            raise SealError(f"{PATH}/{name}: not an array of byte strings")
        return tuple(parts)

    def _read(self, name: str, first: int, count: int, width: int = 1) -> bytes:
        """Rows of a table as they are stored."""
        rank = 2 if name in ("leaves", EPOCHS) else 1
        node = self._dataset(name, rank, _UINT32 if width == 4 else _UINT8)
        shape = (count, *node.shape[1:])
        if int(np.prod(shape)) * width > self.file.id.get_filesize():
            raise SealError(f"{PATH}/{name}: claims more bytes than the file has")
        out: Any = np.zeros(shape, "<u4" if width == 4 else "u1")
        if out.size:
            space = node.get_space()
            space.select_hyperslab((first, *(0 for _ in shape[1:])), shape)
            node.read(h5s.create_simple(shape), space, out, h5t.STD_U32LE if width == 4 else h5t.STD_U8LE)
        return bytes(out.tobytes())

