"""Exported slices: read as written, and nothing else is read."""

from __future__ import annotations

import pytest

from edge_agent.seal.cbor import SealError, dumps
from edge_agent.seal.keys import KeyChain
from edge_agent.seal.slice_proof import MAGIC, Part, ProvenLeaf, SliceProof, parse_slice_proof


def test_an_exported_slice_is_read_as_it_was_written() -> None:
    leaves = (ProvenLeaf(0, b"open", (b"h" * 32,)), ProvenLeaf(1, b"close", ()))
    part = Part(KeyChain((b"c",), (b"s",)), b"head", leaves, b"dsd", b"meta", ((0, 1), (2, 5)), (b"stored", b""))
    for proof in (SliceProof("/entry/a", (part, part), b"sidecar", b"receipts"), SliceProof("/entry/a", (part,))):
        assert parse_slice_proof(proof.encode()) == proof
        assert proof.encode().startswith(MAGIC)


def test_what_is_no_exported_slice_is_refused() -> None:
    part = {1: {1: [], 2: []}, 2: b"", 3: [], 4: b"", 5: b"", 6: [], 7: []}
    good = {1: "HSC/1/slice", 2: "/a", 3: [part], 4: None, 5: None}
    assert parse_slice_proof(dumps(good)).dataset == "/a"
    for bad in (
        b"", dumps([]), dumps(good | {1: "HSC/1/slicf"}), dumps(good | {6: 1}), dumps(good | {3: []}), dumps(good | {3: [1]}), dumps(good | {4: 1}),
        *(dumps(good | {3: [part | {key: value}]}) for key, value in (
            (3, [1]), (3, [[1, b"", []], []]), (3, [[True, b"", []]]), (3, [[1, b"", [b"x"]]]), (6, [1]), (6, [[1]]), (6, [[1, None]]), (7, [1]),
        )),
    ):  # fmt: skip
        with pytest.raises(SealError):
            parse_slice_proof(bad)
