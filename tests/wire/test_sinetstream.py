"""SINETStream's frame, byte for byte, and topics that no name can break out of."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.wire.sinetstream import LONGEST, frame, topic

HOSTILE = ["", "+", "#", "/", "a/b", "$SYS", "../..", "\0", "a\0b", "温度", "%2F", "a b", "\ud800", "x" * 70_000, "é", "\r\n"]


def test_the_frame_of_the_example_that_the_reader_accepted() -> None:
    expected = "df 03 00 00 00 00 c3 01 1f 9c 0c 91 eb 33 66 4f 80 89 81 82 83 89 85 06 0a 68 65 6c 6c 6f"
    assert frame(b"hello", 1_700_000_000_123_456_789) == bytes.fromhex(expected)


def test_an_unknown_time_is_zero_and_an_empty_message_is_one() -> None:
    assert frame(b"")[-2:] == b"\0\0"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_one_level_and_no_wildcard(name: str) -> None:
    made = topic("values", name, "end")
    assert re.fullmatch(r"values/[A-Za-z0-9_.:%~-]+/end", made)
    assert len(made) < LONGEST + 40


@given(st.text(), st.text())
def test_different_names_are_different_topics(one: str, other: str) -> None:
    assert (topic(one) == topic(other)) == (one == other)
