"""Descriptors, heads, metadata, policy, receipts and the sidecar: read as written, and nothing else is read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.seal.cbor import SealError, dumps, loads
from edge_agent.seal.clock import Clock
from edge_agent.seal.dsd import Counter, Dsd, dsd_digest, parse_dsd
from edge_agent.seal.head import Head, State, head_hash, parse_head
from edge_agent.seal.keys import KeyChain, parse_key_chain, parse_session
from edge_agent.seal.meta import DatasetMeta, GroupMeta, HardLink, SoftLink, Value, encode_meta, meta_digest
from edge_agent.seal.policy import policy_digest
from edge_agent.seal.receipt import Custody, Inclusion, Receipts, Witness, parse_custody, parse_receipts, parse_witness
from edge_agent.seal.sidecar import NamedFile, RunStatement, SegmentEntry, Sidecar, parse_run, parse_sidecar

D, E, S = b"d" * 32, b"e" * 32, b"s" * 16
INT = ["int", 2, 0, 0, 16, 0]
DSD = Dsd("/entry/a", INT, (1, 4), (None, 4), ((32008, 1, (0, 4, 2, 0, 2)),), b"\0\0", "cam/image", Counter.FRAME, 2)
HEAD = Head(S, S, 3, D, 1, E, 10, 20, S, Clock("chrony", 5, None, True), State.OPEN)
STATEMENT = RunStatement(
    S, 7, S, (SegmentEntry(1, S, "a.h5", 10, D, E, 1), SegmentEntry(2, S, None, 0, bytes(32), E, 1)), (NamedFile("files/a", 1, D),),
    NamedFile("m.nxs", 2, D), {"crate": D}, (("cam/image", 1, None), ("x/y", 2, 5)), "complete", E,
)  # fmt: skip
WITNESS = Witness(S, S, 3, D, E, 10)
CUSTODY = Custody(S, S, D, E, 3, "space", "fsynced", 10, "p/f")
RECEIPTS = Receipts(
    (b"cert",), (b"cose",), (Inclusion(S, 3, 1, b"leaf", (D, E)),), (b"token",), (b"amendment",), KeyChain((b"c",), (b"s",))
)
SIDECAR = Sidecar(b"statement", (b"head",), KeyChain((b"c",), (b"s",)), {S: (b"leaf", b"other")})


def test_each_statement_is_read_as_it_was_written() -> None:
    assert parse_dsd(DSD.encode()) == DSD
    assert parse_head(HEAD.payload()) == HEAD
    named = replace(HEAD, not_before=D)
    assert parse_head(named.payload()) == named
    assert parse_run(STATEMENT.payload()) == STATEMENT
    assert parse_run(replace(STATEMENT, master=None).payload()).master is None
    assert parse_witness(WITNESS.payload()) == WITNESS
    assert parse_custody(CUSTODY.payload()) == CUSTODY
    assert parse_receipts(RECEIPTS.encode()) == RECEIPTS
    assert parse_receipts(Receipts().encode()) == Receipts()
    assert parse_sidecar(SIDECAR.encode()) == SIDECAR


def test_the_digests_are_those_of_the_page() -> None:
    assert DSD.digest() == dsd_digest(DSD.encode()) == hashlib.sha256(b"HSC1-dsd\0" + DSD.encode()).digest()
    assert head_hash(HEAD.payload()) == hashlib.sha256(HEAD.payload()).digest()
    encoded = dumps({1: "closed", 2: ["a", "b"]})
    assert policy_digest("closed", {"b", "a"}) == policy_digest("closed", ["a", "b"]) == hashlib.sha256(encoded).digest()
    assert policy_digest("open", ["a", "b"]) != policy_digest("closed", ["a", "b"])


def test_the_maps_are_those_of_the_page() -> None:
    assert loads(DSD.encode(), "x") == {
        1: "/entry/a", 2: INT, 3: [1, 4], 4: [None, 4], 5: [[32008, 1, [0, 4, 2, 0, 2]]], 6: b"\0\0", 7: 0, 8: ["cam/image", 1, 2],
    }  # fmt: skip
    assert loads(replace(DSD, path="/entry/e\u0301").encode(), "x")[1] == "/entry/\u00e9"
    assert loads(HEAD.payload(), "x") == {
        1: "HSC/1/head", 2: S, 3: S, 4: 3, 5: D, 6: 1, 7: E, 8: 10, 9: 20, 10: S, 11: ["chrony", 5, None, True], 12: None, 13: 0, 14: 1,
    }  # fmt: skip
    assert loads(STATEMENT.payload(), "x") == {
        1: "HSC/1/run", 2: S, 3: 7, 4: S, 5: [[1, S, "a.h5", 10, D, E, 1], [2, S, None, 0, bytes(32), E, 1]], 6: [["files/a", 1, D]],
        7: ["m.nxs", 2, D], 8: {"crate": D}, 9: [["cam/image", 1, None], ["x/y", 2, 5]], 10: "complete", 11: E,
    }  # fmt: skip
    assert loads(SIDECAR.encode(), "x") == {
        1: "HSC/1", 2: b"statement", 3: [b"head"], 4: {1: [b"c"], 2: [b"s"]}, 5: [{1: S, 2: [b"leaf", b"other"]}],
    }  # fmt: skip
    assert loads(RECEIPTS.encode(), "x") == {
        1: "HSC/1/receipts", 2: [b"cert"], 3: [b"cose"], 4: [{1: S, 2: 3, 3: 1, 4: b"leaf", 5: [D, E]}], 5: [b"token"], 6: [b"amendment"],
        7: {1: [b"c"], 2: [b"s"]},
    }  # fmt: skip


def test_metadata_are_one_map_of_paths() -> None:
    value = Value(INT, (2,), b"\1\0\2\0")
    text = Value(["vstr", 0, 1], None, (b"a",))
    objects = {
        "/": GroupMeta({"a": value}),
        "/small": DatasetMeta(INT, {}, Value(INT, None, b"\1\0")),
        "/text": DatasetMeta(text.type, {"t": text}, text),
        "/chunked": DatasetMeta(INT),
        "/soft": SoftLink("/x"),
        "/hard": HardLink("/small"),
    }
    assert loads(encode_meta(objects), "x") == {
        "/": {"k": "g", "a": {"a": [INT, [2], b"\1\0\2\0"]}},
        "/small": {"k": "d", "a": {}, "t": INT, "s": None, "v": b"\1\0"},
        "/text": {"k": "d", "a": {"t": [["vstr", 0, 1], None, [b"a"]]}, "t": ["vstr", 0, 1], "s": None, "v": [b"a"]},
        "/chunked": {"k": "d", "a": {}, "t": INT},
        "/soft": {"l": "soft", "t": "/x"},
        "/hard": {"l": "hard", "t": "/small"},
    }
    assert meta_digest(objects) == hashlib.sha256(b"HSC1-meta\0" + encode_meta(objects)).digest()
    assert meta_digest(dict(reversed(objects.items()))) == meta_digest(objects)


def changed(encoded: bytes, key: int, value: Any) -> bytes:
    """The same map with another value at ``key``."""
    return dumps({**loads(encoded, "x"), key: value})


def entry(**other: Any) -> list[Any]:
    fields = {"ordinal": 1, "id": S, "name": "a", "size": 1, "sha": D, "head": E, "state": 1} | other
    return list(fields.values())


SAID: list[tuple[Callable[[bytes], Any], bytes, int, Any, str]] = [
    (parse_dsd, DSD.encode(), 7, 2, "does not know"),
    (parse_dsd, DSD.encode(), 8, ["a", 1], "DSD: "),
    (parse_dsd, DSD.encode(), 8, ["a", 2, 1], "DSD: 2 is not a valid Counter"),
    (parse_dsd, DSD.encode(), 8, ["a", 1, 0], "does not know"),
    (parse_dsd, DSD.encode(), 8, [1, 1, 1], "does not know"),
    (parse_dsd, DSD.encode(), 1, "/e\u0301", "does not know"),
    (parse_dsd, DSD.encode(), 3, [0, 4], "chunks of"),
    (parse_dsd, DSD.encode(), 3, [1], "chunks of"),
    (parse_dsd, DSD.encode(), 3, [], "chunks of"),
    (parse_dsd, DSD.encode(), 3, ["x"], "DSD: "),
    (parse_dsd, DSD.encode(), 5, [[1, 2]], "DSD: "),
    (parse_dsd, DSD.encode(), 5, [["1", 2, []]], "does not know"),
    (parse_dsd, DSD.encode(), 6, "x", "key 6 is a str"),
    (parse_head, HEAD.payload(), 1, "HSC/2/head", "does not know"),
    (parse_head, HEAD.payload(), 14, 2, "does not know"),
    (parse_head, HEAD.payload(), 12, b"x", "key 12 is a bytes of 1 bytes"),
    (parse_head, HEAD.payload(), 12, "x", "key 12 is a str"),
    (parse_head, HEAD.payload(), 11, [], "the clock field"),
    (parse_head, HEAD.payload(), 11, [1, 5, None, True], "the clock field"),
    (parse_head, HEAD.payload(), 11, ["a", "5", None, True], "the clock field"),
    (parse_head, HEAD.payload(), 11, ["a", 5, b"", True], "the clock field"),
    (parse_head, HEAD.payload(), 11, ["a", 5, None, 1], "the clock field"),
    (parse_head, HEAD.payload(), 13, 4, "does not know"),
    (parse_head, HEAD.payload(), 4, "3", "key 4 is a str"),
    (parse_head, HEAD.payload(), 2, D, "key 2 is a bytes of 32 bytes"),
    (parse_dsd, DSD.encode(), 2, ["int", 2, False, False, 16, 0], "does not know"),
    (parse_dsd, DSD.encode(), 8, ["a", 0, None], "DSD: "),
    (parse_run, STATEMENT.payload(), 5, [entry(ordinal=True)], "SegmentEntry.ordinal is a bool"),
    (parse_run, STATEMENT.payload(), 4, b"run", "key 4 is a bytes of 3 bytes"),
    (parse_run, STATEMENT.payload(), 8, {"a": b"x"}, "field 8"),
    (parse_run, STATEMENT.payload(), 1, "HSC/1/rum", "another statement"),
    (parse_run, STATEMENT.payload(), 5, [entry(ordinal="1")], "SegmentEntry.ordinal is a str"),
    (parse_run, STATEMENT.payload(), 5, [entry(name=1)], "SegmentEntry.name is a int"),
    (parse_run, STATEMENT.payload(), 5, [entry()[:6]], "run statement: "),
    (parse_run, STATEMENT.payload(), 5, [5], "run statement: "),
    (parse_run, STATEMENT.payload(), 6, [["a", "1", D]], "NamedFile.size is a str"),
    (parse_run, STATEMENT.payload(), 7, ["a", 1, "x"], "NamedFile.sha256 is a str"),
    (parse_run, STATEMENT.payload(), 8, {"a": 1}, "field 8"),
    (parse_run, STATEMENT.payload(), 8, {1: D}, "field 8"),
    (parse_run, STATEMENT.payload(), 9, [["a", 1]], "run statement: "),
    (parse_run, STATEMENT.payload(), 9, [["a", "1", None]], "a field of a wrong type"),
    (parse_run, STATEMENT.payload(), 9, [["a", "x", None]], "run statement: "),
    (parse_witness, WITNESS.payload(), 1, "HSC/1/custody", "WITNESS: another statement"),
    (parse_custody, CUSTODY.payload(), 1, "HSC/1/witness", "CUSTODY: another statement"),
    (parse_custody, CUSTODY.payload(), 6, None, "CUSTODY: key 6"),
    (parse_receipts, RECEIPTS.encode(), 1, "x", "another file"),
    (parse_receipts, RECEIPTS.encode(), 2, ["x"], "parts of a wrong type"),
    (parse_receipts, RECEIPTS.encode(), 3, [1], "parts of a wrong type"),
    (parse_receipts, RECEIPTS.encode(), 5, ["x"], "parts of a wrong type"),
    (parse_receipts, RECEIPTS.encode(), 6, [1], "parts of a wrong type"),
    (parse_receipts, RECEIPTS.encode(), 7, {}, "key chain: has keys"),
    (parse_receipts, RECEIPTS.encode(), 4, [1], "inclusion proof: not a map"),
    (parse_receipts, RECEIPTS.encode(), 4, [{1: S, 2: 1, 3: 0, 4: b"", 5: [b"short"]}], "a hash is not 32 bytes"),
    (parse_receipts, RECEIPTS.encode(), 4, [{1: S, 2: 1, 3: 0, 4: b"", 5: ["x"]}], "a hash is not 32 bytes"),
    (parse_sidecar, SIDECAR.encode(), 1, "HSC/2", "format 'HSC/2'"),
    (parse_sidecar, SIDECAR.encode(), 3, ["x"], "a head is not a byte string"),
    (parse_sidecar, SIDECAR.encode(), 4, {}, "key chain: has keys"),
    (parse_sidecar, SIDECAR.encode(), 5, [{1: S, 2: ["x"]}], "a leaf is not a byte string"),
    (parse_sidecar, SIDECAR.encode(), 5, [{1: S, 2: []}, {1: S, 2: []}], "twice for one segment"),
    (parse_sidecar, SIDECAR.encode(), 5, [[]], "file tree: not a map"),
]


@pytest.mark.parametrize(("parse", "encoded", "key", "value", "message"), SAID)
def test_a_field_that_says_something_else_is_refused(
    parse: Callable[[bytes], Any], encoded: bytes, key: int, value: Any, message: str
) -> None:
    with pytest.raises(SealError, match=message):
        parse(changed(encoded, key, value))


PARSERS = [parse_dsd, parse_head, parse_run, parse_witness, parse_custody, parse_receipts, parse_sidecar, parse_session, parse_key_chain]
simple = st.one_of(st.none(), st.integers(-5, 2**63), st.text(max_size=5), st.binary(max_size=5))
keys = st.integers(0, 14)
nested = st.recursive(simple, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8)


@given(st.binary(max_size=100), nested, st.integers(1, 14))
def test_any_bytes_and_any_fields_are_a_statement_or_a_seal_error(data: bytes, value: Any, key: int) -> None:
    statements = [DSD.encode(), HEAD.payload(), *(s.payload() for s in (STATEMENT, WITNESS, CUSTODY)), RECEIPTS.encode(), SIDECAR.encode()]
    for parse in PARSERS:
        for candidate in (data, dumps(value), *(changed(encoded, key, value) for encoded in statements)):
            try:
                parse(candidate)
            except SealError:
                continue
