from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.serial.outcome import Reading
from adapters.serial.splitter import MANY, DelimiterSplitter, Junk, LengthSplitter, Line, Lines, Piece
from adapters.serial.template import TemplateParser, from_template


def lines(found: list[Piece]) -> list[bytes]:
    each = [line for one in found for line in (one.each() if isinstance(one, Lines) else [one])]
    return [one.raw for one in each if isinstance(one, Line)]


@given(st.lists(st.binary(max_size=12).filter(lambda b: b"\r" not in b and b"\n" not in b and b.strip())), st.lists(st.integers(1, 9)))
def test_lines_are_the_same_however_the_bytes_were_read(wanted: list[bytes], sizes: list[int]) -> None:
    data = b"".join(line + b"\r\n" for line in wanted)
    splitter, got = DelimiterSplitter(b"\r\n", 100), []
    for size in [*sizes, len(data) or 1]:
        if data:
            got += splitter.feed(data[:size], 1)
            data = data[size:]
    assert lines(got) == wanted
    assert splitter.end() == []


def test_many_lines_of_one_read_stay_together_and_the_first_keeps_its_arrival() -> None:
    splitter = DelimiterSplitter(b"\n", 100)
    splitter.feed(b"-1\n0", 1)
    wanted = [b"%d" % n for n in range(MANY + 1)]
    (found,) = splitter.feed(b"\n\n" + b"\n".join(wanted[1:]) + b"\n", 2)
    assert found == Lines(wanted, 2, 1)
    assert found.times().tolist() == [line.t for line in found.each()] == [1, *[2] * MANY]
    (found,) = splitter.feed(b"\n" + b"\n".join(wanted) + b"\n", 3)
    assert found == Lines(wanted, 3, 3), "blank lines carry nothing on"


def test_a_line_carries_the_arrival_of_its_first_byte() -> None:
    splitter = DelimiterSplitter(b"\n", 100)
    found = [one for data, t in ((b"a", 10), (b"b\nc", 20), (b"\nd\n", 30)) for one in splitter.feed(data, t)]
    assert found == [Line(b"ab", 10), Line(b"c", 20), Line(b"d", 30)]


def test_a_delimiter_torn_between_two_reads_ends_the_line() -> None:
    splitter = DelimiterSplitter(b"\r\n", 100)
    assert splitter.feed(b"1.5\r", 1) == []
    assert splitter.feed(b"\n2.5\r\n", 2) == [Line(b"1.5", 1), Line(b"2.5", 2)]


def test_an_endless_line_is_one_junk_and_the_next_delimiter_begins_a_good_line() -> None:
    splitter = DelimiterSplitter(b"\r\n", 64)
    found = [one for _ in range(1000) for one in splitter.feed(b"x" * 1000, 5)]
    assert [one.more for one in found[:3]] == [False, True, True]
    assert sum(len(one.raw) for one in found) == 1_000_000 - 1
    assert found[0].head == b"x" * 60
    assert "no b'\\r\\n' within 64 bytes; is delimiter right?" in found[0].why
    assert [one.more for one in splitter.feed(b"xx\r", 6)] == [True]
    assert splitter.feed(b"\ngood\r\n", 7) == [Line(b"good", 7)]


def test_a_line_that_is_too_long_but_ends_is_junk_too() -> None:
    found = DelimiterSplitter(b"\n", 4).feed(b"12345\n1234\n", 1)
    assert isinstance(found[0], Junk)
    assert found[1:] == [Line(b"1234", 1)]


def test_the_end_of_the_connection_tells_what_was_cut_off() -> None:
    splitter = DelimiterSplitter(b"\n", 100)
    splitter.feed(b"good\nhalf a li", 3)
    assert splitter.end() == [Junk(b"half a li", "cut off by the end of the connection", 3)]
    assert splitter.end() == []


def test_only_the_first_line_of_a_connection_is_doubtful() -> None:
    found = DelimiterSplitter(b"\n", 100, mid_line=True).feed(b"5.0\n25.0\n", 1)
    assert found == [Line(b"5.0", 1, doubtful=True), Line(b"25.0", 1)]


def test_blank_lines_are_no_lines() -> None:
    assert DelimiterSplitter(b"\n", 100).feed(b"\n\r\n  \n", 1) == []


def test_records_of_a_fixed_length_need_no_delimiter() -> None:
    splitter = LengthSplitter(4)
    assert splitter.feed(b"abcdef", 1) == [Line(b"abcd", 1)]
    assert splitter.feed(b"ghij", 2) == [Line(b"efgh", 1)]
    assert splitter.feed(b"kl", 3) == [Line(b"ijkl", 2)]


def test_a_silence_begins_a_new_record_after_a_byte_was_lost() -> None:
    splitter = LengthSplitter(4)
    splitter.feed(b"abc", 1)
    assert splitter.silence() == [Junk(b"abc", "3 of 4 bytes and then silence", 1)]
    assert splitter.feed(b"abcd", 2) == [Line(b"abcd", 2)]


@pytest.mark.parametrize("splitter", [DelimiterSplitter(b"\r\n", 256), LengthSplitter(16)])
def test_twenty_thousand_reads_of_noise_leave_memory_flat(splitter: DelimiterSplitter | LengthSplitter) -> None:
    noise = random.Random(7)
    parser = TemplateParser(from_template("{status:word} {mass:float} {unit:word}"), "ascii", {}, {})
    chunks = [noise.randbytes(noise.randrange(1, 64)) for _ in range(1000)]
    for chunk in chunks:
        splitter.feed(chunk, 0)
    tracemalloc.start()
    try:
        for i in range(20_000):
            for one in splitter.feed(chunks[i * 7919 % 1000], i):
                if isinstance(one, Line):
                    assert not isinstance(parser.parse(one.raw), Reading)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200_000
