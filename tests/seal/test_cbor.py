"""Deterministic CBOR: the examples of RFC 8949 appendix A that HSC/1 uses, and refusals of everything else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_agent.seal.cbor import SealError, dumps, fields, loads, loads_own

# RFC 8949 appendix A: all its items that are deterministic and of the kinds that HSC/1 uses.
EXAMPLES: dict[str, Any] = {
    "00": 0, "01": 1, "0a": 10, "17": 23, "1818": 24, "1819": 25, "1864": 100, "1903e8": 1000, "1a000f4240": 1000000,
    "1b000000e8d4a51000": 1000000000000, "1bffffffffffffffff": 18446744073709551615, "3bffffffffffffffff": -18446744073709551616,
    "20": -1, "29": -10, "3863": -100, "3903e7": -1000, "f4": False, "f5": True, "f6": None,
    "40": b"", "4401020304": bytes((1, 2, 3, 4)), "60": "", "6161": "a", "6449455446": "IETF", "62225c": '"\\', "62c3bc": "ü",
    "63e6b0b4": "水", "64f0908591": "\U00010151", "80": [], "83010203": [1, 2, 3], "8301820203820405": [1, [2, 3], [4, 5]],
    "98190102030405060708090a0b0c0d0e0f101112131415161718181819": list(range(1, 26)), "a0": {}, "a201020304": {1: 2, 3: 4},
    "a26161016162820203": {"a": 1, "b": [2, 3]}, "826161a161626163": ["a", {"b": "c"}],
    "a56161614161626142616361436164614461656145": {"a": "A", "b": "B", "c": "C", "d": "D", "e": "E"},
}  # fmt: skip

# The other items of appendix A, and other ways to write the ones above.
REFUSED = {
    "f90000": "a float", "f93c00": "a float", "fb3ff199999999999a": "a float", "f97c00": "a float", "f7": "a float or simple value",
    "f0": "simple value", "f8ff": "simple value", "c249010000000000000000": "tag 2", "c349010000000000000000": "tag 3",
    "c074323031332d30332d32315432303a30343a30305a": "tag 0", "c11a514b67b0": "tag 1", "d74401020304": "tag 23",
    "d82076687474703a2f2f7777772e6578616d706c652e636f6d": "tag 32", "c48218641864": "tag 4", "d81e820102": "tag 30",
    "5f42010243030405ff": "indefinite length", "7f657374726561646d696e67ff": "indefinite length", "9fff": "indefinite length",
    "bf61610161629f0203ffff": "indefinite length", "1c": "indefinite length", "3d": "indefinite length",
    "1800": "deterministic", "1817": "deterministic", "190017": "deterministic", "1a00000001": "deterministic",
    "1b0000000000000001": "deterministic", "580141": "deterministic", "7801" + "61": "deterministic", "980101": "deterministic",
    "b8010102": "deterministic", "a203040102": "deterministic", "a201020102": "deterministic", "a2616201616101": "deterministic",
    "": "cut short", "18": "cut short", "42aa": "cut short", "61": "cut short", "81": "cut short", "a101": "cut short", "d2": "cut short",
    "9bffffffffffffffff": "cut short", "5bffffffffffffffff": "cut short", "0000": "trailing bytes", "80ff": "trailing bytes",
    "a1f501": "a map key", "a20201f501": "a map key", "a1181801": "a map key", "a1410101": "a map key", "a12301": "a map key",
    "61ff": "not CBOR", "62c328": "not CBOR", "81" * 65 + "00": "nested more than 64 deep",
}  # fmt: skip


@pytest.mark.parametrize("encoded", EXAMPLES)
def test_examples_of_rfc_8949_are_read_and_written_exactly(encoded: str) -> None:
    assert dumps(EXAMPLES[encoded]).hex() == encoded
    value = loads(bytes.fromhex(encoded), "example")
    assert value == EXAMPLES[encoded]
    assert type(value) is type(EXAMPLES[encoded])


@pytest.mark.parametrize("encoded", REFUSED)
def test_everything_else_is_refused_by_name(encoded: str) -> None:
    with pytest.raises(SealError, match=REFUSED[encoded]) as caught:
        loads(bytes.fromhex(encoded), "the thing")
    assert str(caught.value).startswith("the thing: ")


items = st.recursive(
    st.one_of(st.integers(-(2**64), 2**64 - 1), st.binary(max_size=40), st.text(max_size=20), st.booleans(), st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.integers(0, 23), inner, max_size=5),
        st.dictionaries(st.text(max_size=5), inner, max_size=5),
    ),
    max_leaves=20,
)


@given(items)
def test_what_was_written_is_read_again_and_nothing_shorter_or_longer(value: Any) -> None:
    encoded = dumps(value)
    assert loads(encoded, "x") == value
    for other in (encoded[:-1], encoded + b"\0"):
        with pytest.raises(SealError):
            loads(other, "x")


@given(st.binary(max_size=64))
@example(bytes.fromhex("c482190a00190a00"))
@example(b"\xd8\x1d\x00")
@example(b"\xa1\xa0\x00")
@example(b"\xa1\x80\x00")
@example(b"\xa2\x01\x02\xf5\x02")
def test_any_bytes_are_either_the_one_encoding_of_a_value_or_a_seal_error(data: bytes) -> None:
    try:
        value = loads(data, "x")
    except SealError:
        return
    assert dumps(value) == data


def test_fields_are_taken_by_number_and_type() -> None:
    assert fields({1: "a", 2: None}, "x", k2=(int, type(None)), k1=str) == [None, "a"]
    for value, message in (
        ([], "x: not a map"),
        ({1: "a"}, "has keys"),
        ({1: "a", 2: 1, 3: 1}, "has keys"),
        ({True: "a", 2: 1}, "has keys"),
        ({1: b"a", 2: 1}, "key 1 is a bytes"),
        ({1: "a", 2: True}, "key 2 is a bool"),
    ):
        with pytest.raises(SealError, match=message):
            fields(value, "x", k1=str, k2=int)
    assert fields({1: True}, "x", k1=bool) == [True]


def test_what_this_program_wrote_itself_is_read_without_being_distrusted() -> None:
    assert loads_own(dumps({1: [b"a", None]})) == {1: [b"a", None]}
