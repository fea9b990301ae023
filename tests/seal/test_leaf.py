"""Leaves: each kind is read as it was written, its bytes are fixed for good, and nothing else is read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.seal import leaf
from edge_agent.seal.cbor import SealError, dumps
from edge_agent.seal.clock import Clock

id16, digest = st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32)
u64, i64 = st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1)
text = st.text(max_size=30)
shape, last_seq = st.lists(u64, max_size=3).map(tuple), st.dictionaries(text, i64, max_size=3)
CLOCKS = st.builds(Clock, text, st.none() | i64, st.none() | i64, st.booleans())
LEAVES = st.one_of(
    st.builds(
        leaf.Chunk, id16, digest, st.lists(u64, max_size=32).map(tuple), st.integers(0, 2**32 - 1), u64, digest, i64, u64, u64
    ),
    st.builds(leaf.Dataset, digest),
    st.builds(leaf.Meta, digest),
    st.builds(leaf.GapLeaf, text, st.none() | u64, st.none() | u64, text, st.none() | u64, i64, i64, text),
    st.builds(leaf.Close, st.lists(st.tuples(digest, shape, u64), max_size=3).map(tuple), digest, digest, text, text),
    st.builds(leaf.Open, id16, id16, u64, u64, st.none() | st.tuples(id16, digest), digest, id16, id16, text, last_seq),
    st.builds(leaf.SeqReset, text, st.none() | i64, i64, text),
    st.builds(leaf.ClockLeaf, i64, st.none() | CLOCKS, i64, i64),
    st.builds(leaf.ClockLeaf, st.none() | i64, CLOCKS, i64, i64),
    st.builds(leaf.RowsLeaf, st.lists(digest, max_size=3).map(tuple), u64, u64, digest),
    st.builds(leaf.FileLeaf, text, u64, digest, digest, i64),
    st.builds(leaf.Boot, id16, id16, text, i64),
    st.builds(leaf.RunOpen, u64, id16, digest, i64),
    st.builds(leaf.RunClose, u64, id16, digest, i64),
    st.builds(leaf.SegmentClose, id16, digest, id16, u64, i64),
    st.builds(leaf.SpoolFree, text, st.lists(digest, max_size=3).map(tuple), i64),
    st.builds(leaf.Amended, st.binary(min_size=16, max_size=16), st.integers(1, 99), digest, i64),
)  # fmt: skip


@given(LEAVES)
def test_every_leaf_is_read_as_it_was_written(item: leaf.Leaf) -> None:
    payload = item.payload()
    assert payload[:5] == b"HSC1" + bytes((item.TYPE,))
    assert leaf.parse(payload) == item
    for other in (payload[:-1], payload + b"\0"):
        with pytest.raises(SealError):
            leaf.parse(other)


def test_the_bytes_of_each_kind_are_those_of_the_page() -> None:
    d, e, s = b"d" * 32, b"e" * 32, b"s" * 16
    assert leaf.Chunk(s, d, (1, 2), 1, 10, e, -1, 7, 7).payload() == (
        b"HSC1\x01" + s + d + b"\x02" + bytes(7) + b"\x01" + bytes(7) + b"\x02" + bytes(3) + b"\x01" + bytes(7) + b"\x0a"
        + e + b"\xff" * 8 + bytes(7) + b"\x07" + bytes(7) + b"\x07"
    )  # fmt: skip
    assert len(leaf.Chunk(s, d, (1, 2), 1, 10, e, -1).payload()) == leaf.chunk_payload_size(2) == 138
    assert leaf.Chunk(s, d, (), 0, 0, e, 0).payload()[-16:] == b"\xff" * 16
    known: list[tuple[Any, int, dict[int, Any]]] = [
        (leaf.Dataset(d), 2, {1: d}),
        (leaf.Meta(d), 3, {1: d}),
        (leaf.GapLeaf("a/b", 1, 2, "crash", None, 3, 4), 4, {1: "a/b", 2: 1, 3: 2, 4: "crash", 5: None, 6: 3, 7: 4, 8: ""}),
        (leaf.Close(((d, (1, 2), 3),), e, d, "complete", "rolled"), 6, {1: [[d, [1, 2], 3]], 2: e, 3: d, 4: "complete", 5: "rolled"}),
        (
            leaf.Open(s, s, 1, 2, (s, d), e, s, s, "rows", {"a/b": 9}),
            7,
            {1: s, 2: s, 3: 1, 4: 2, 5: [s, d], 6: {"a/b": 9}, 7: e, 8: s, 9: s, 10: "rows"},
        ),
        (leaf.Open(s, s, 1, 2, None, e, s, s, "rows"), 7, {1: s, 2: s, 3: 1, 4: 2, 5: None, 6: {}, 7: e, 8: s, 9: s, 10: "rows"}),
        (leaf.SeqReset("a/b", None, 1, "restart"), 8, {1: "a/b", 2: None, 3: 1, 4: "restart"}),
        (leaf.ClockLeaf(-7, None, 1, 2), 5, {1: -7, 2: None, 3: 1, 4: 2}),
        (leaf.ClockLeaf(None, Clock("chrony", 5, None, True), 1, 2), 5, {1: None, 2: ["chrony", 5, None, True], 3: 1, 4: 2}),
        (leaf.RowsLeaf((d, e), 3, 4, d), 9, {1: [d, e], 2: 3, 3: 4, 4: d}),
        (leaf.FileLeaf("f", 1, d, e, 2), 10, {1: "f", 2: 1, 3: 8388608, 4: d, 5: e, 6: 2}),
        (leaf.Boot(s, s, "1.0", 5), 64, {1: s, 2: s, 3: "1.0", 4: 5}),
        (leaf.RunOpen(1, s, d, 5), 66, {1: 1, 2: s, 3: d, 4: 5}),
        (leaf.RunClose(1, s, d, 5), 67, {1: 1, 2: s, 3: d, 4: 5}),
        (leaf.SegmentClose(s, d, s, 1, 5), 68, {1: s, 2: d, 3: s, 4: 1, 5: 5}),
        (leaf.SpoolFree("i", (d,), 5), 69, {1: "i", 2: [d], 3: 5}),
        (leaf.Amended(d[:16], 2, d, 5), 80, {1: d[:16], 2: 2, 3: d, 4: 5}),
    ]
    for item, number, body in known:
        assert item.payload() == b"HSC1" + bytes((number,)) + dumps(body)
        assert leaf.parse(item.payload()) == item


S, D = b"s" * 16, b"d" * 32
OPENED = {1: S, 2: S, 3: 1, 4: 1, 5: None, 6: {}, 7: D, 8: S, 9: S, 10: ""}
CLOSED = {1: [], 2: D, 3: D, 4: "", 5: ""}
BODIES: list[tuple[int, Any, str]] = [
    (2, {1: "d"}, "key 1 is a str"),
    (2, {1: S}, "key 1 is a bytes of 16 bytes"),
    (2, {}, "has keys"),
    (2, [], "not a map"),
    (4, {1: "a", 2: True, 3: 2, 4: "c", 5: None, 6: 3, 7: 4, 8: ""}, "key 2 is a bool"),
    (4, {1: "a", 2: None, 3: None, 4: "c", 5: None, 6: 3, 7: 4, 8: None}, "key 8 is a NoneType"),
    (6, CLOSED | {1: [1]}, "leaf of type 6"),
    (6, CLOSED | {1: [[5, [1], 1]]}, "a int where a byte string of 32 bytes belongs"),
    (6, CLOSED | {1: [[2**40, [1], 1]]}, "a int where a byte string of 32 bytes belongs"),
    (6, CLOSED | {1: [[S, [1], 1]]}, "a bytes where a byte string of 32 bytes belongs"),
    (6, CLOSED | {1: [[D, ["1"], 1]]}, "a field of a wrong type"),
    (6, CLOSED | {1: [[D, [1], "x"]]}, "leaf of type 6"),
    (6, CLOSED | {2: b""}, "key 2 is a bytes of 0 bytes"),
    (7, OPENED | {5: [S]}, "leaf of type 7"),
    (7, OPENED | {5: [S, 9]}, "a int where a byte string of 32 bytes belongs"),
    (7, OPENED | {6: {"a": "x"}}, "leaf of type 7"),
    (7, OPENED | {6: {1: 1}}, "a field of a wrong type"),
    (7, OPENED | {6: {"a": True}}, "a field of a wrong type"),
    (7, OPENED | {2: b"run"}, "key 2 is a bytes of 3 bytes"),
    (10, {1: "f", 2: 1, 3: 4096, 4: D, 5: D, 6: 2}, "FILE: piece size 4096"),
    (69, {1: "i", 2: ["x"], 3: 5}, "a str where a byte string of 32 bytes belongs"),
    (5, {1: None, 2: None, 3: 1, 4: 2}, "CLOCK: says nothing"),
    (5, {1: None, 2: ["a", 1, None], 3: 1, 4: 2}, "the clock field"),
    (5, {1: None, 2: ["a", True, None, True], 3: 1, 4: 2}, "the clock field"),
    (9, {1: [1], 2: 3, 3: 4, 4: D}, "a int where a byte string of 32 bytes belongs"),
    (11, {}, "type 11 is unknown"),
    (63, {}, "type 63 is unknown"),
]


@pytest.mark.parametrize(("number", "body", "message"), BODIES)
def test_bodies_that_are_not_those_of_the_page_are_refused(number: int, body: Any, message: str) -> None:
    with pytest.raises(SealError, match=message):
        leaf.parse(b"HSC1" + bytes((number,)) + dumps(body))


@pytest.mark.parametrize("payload", [b"", b"HSC1", b"HSC1\x02", b"HSC2\x02\xa0", b"hsc1\x02\xa0"])
def test_what_does_not_begin_like_a_leaf_is_none(payload: bytes) -> None:
    with pytest.raises(SealError, match="does not begin with HSC1"):
        leaf.parse(payload)


def test_chunk_leaves_of_another_length_or_rank_are_refused() -> None:
    good = leaf.Chunk(bytes(16), bytes(32), (0,) * 32, 0, 0, bytes(32), 0).payload()
    assert isinstance(leaf.parse(good), leaf.Chunk)
    with pytest.raises(SealError, match="too short"):
        leaf.parse(good[:40])
    too_many = bytearray(good)
    too_many[53] = 33
    with pytest.raises(SealError, match="do not fit rank 33"):
        leaf.parse(bytes(too_many) + bytes(8))


@given(st.binary(max_size=200), st.integers(0, 80))
def test_any_bytes_are_a_leaf_or_a_seal_error(data: bytes, kind: int) -> None:
    for payload in (data, b"HSC1" + bytes((kind,)) + data):
        try:
            item = leaf.parse(payload)
        except SealError:
            continue
        assert item.payload() == payload
