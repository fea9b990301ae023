"""An exported slice: the stored chunks of some elements with all that proves them, in one file (docs/signed-chunks.md, Exported slices)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge_agent.seal.cbor import SealError, dumps, fields, is_one_of, loads
from edge_agent.seal.keys import KeyChain, key_chain

NAME = "HSC/1/slice"
MAGIC = b"\xa5\x01\x6b" + NAME.encode()
"""How every such file begins: a map of five, 1, a text of 11 bytes."""


@dataclass(frozen=True, slots=True)
class ProvenLeaf:
    """A leaf, where it stands, and its RFC 9162 inclusion proof."""

    number: int
    payload: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """What is taken from one segment.

    ``head`` is the close head (COSE), ``leaves`` are OPEN, CLOSE and the CHUNK leaves in row-major order of their coordinates, ``meta`` the
    CBOR of META's map, ``bounds`` first element and end along each axis, ``chunks`` the stored bytes in the order of their leaves.
    """

    chain: KeyChain
    head: bytes
    leaves: tuple[ProvenLeaf, ...]
    dsd: bytes
    meta: bytes
    bounds: tuple[tuple[int, int], ...]
    chunks: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SliceProof:
    """The whole file. ``sidecar`` and ``receipts`` are those of the run, None where they were not at hand."""

    dataset: str
    parts: tuple[Part, ...]
    sidecar: bytes | None = None
    receipts: bytes | None = None

    def encode(self) -> bytes:
        """Deterministic CBOR."""
        parts = [
            {
                1: part.chain.value(), 2: part.head, 3: [[one.number, one.payload, list(one.path)] for one in part.leaves],
                4: part.dsd, 5: part.meta, 6: [list(pair) for pair in part.bounds], 7: list(part.chunks),
            }
            for part in self.parts
        ]  # fmt: skip
        return dumps({1: NAME, 2: self.dataset, 3: parts, 4: self.sidecar, 5: self.receipts})


def parse_slice_proof(data: bytes) -> SliceProof:
    """The content of the file.

    Raises:
        SealError: not one.
    """
    optional = (bytes, type(None))
    name, dataset, parts, sidecar, receipts = fields(
        loads(data, "slice"), "slice", k1=str, k2=str, k3=list, k4=optional, k5=optional
    )  # fmt: skip
    if name != NAME or not parts:
        raise SealError("slice: another statement, or without parts")
    return SliceProof(dataset, tuple(_part(value) for value in parts), sidecar, receipts)


def _part(value: Any) -> Part:
    chain, head, leaves, dsd, meta, bounds, chunks = fields(
        value, "part of a slice", k1=dict, k2=bytes, k3=list, k4=bytes, k5=bytes, k6=list, k7=list
    )
    pairs = all(isinstance(pair, list) and list(map(type, pair)) == [int, int] for pair in bounds)
    if not pairs or not all(isinstance(chunk, bytes) for chunk in chunks):
        raise SealError("part of a slice: bounds that are not [first, end], or chunks that are not byte strings")
    exact = tuple((first, end) for first, end in bounds)
    return Part(key_chain(chain), head, tuple(map(_leaf, leaves)), dsd, meta, exact, tuple(chunks))


def _leaf(value: Any) -> ProvenLeaf:
    if not isinstance(value, list) or list(map(type, value)) != [int, bytes, list]:
        raise SealError("part of a slice: a leaf is not [number, payload, proof]")
    number, payload, path = value
    if not all(is_one_of(node, 32) for node in path):
        raise SealError("part of a slice: a proof is not of hashes")
    return ProvenLeaf(number, payload, tuple(path))
