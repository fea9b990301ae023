"""Records of binary fields, IEEE 488.2 blocks, times of the instrument, and many lines at once."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.serial.binary import BinaryParser
from adapters.serial.blocks import BlockRecordParser, BlockSplitter, block_parser
from adapters.serial.outcome import Answer, Reading, Unparsed
from adapters.serial.splitter import Junk, Line
from adapters.serial.stamps import Stamps
from adapters.serial.stars import StarsParser
from adapters.serial.template import ScpiParser, TemplateParser, from_pattern, from_template
from adapters.testing import Opened

Run = Callable[..., Any]


def test_a_record_is_read_by_its_struct_format() -> None:
    parser = BinaryParser("<BHf3h2x4s", ["status", "n", "t", "axes", "name"], {"t": "K"})
    outcome = parser.parse(struct.pack("<BHf3h2x4s", 3, 500, 1.5, 1, -2, 3, b"ab"))
    assert isinstance(outcome, Reading)
    assert (outcome.values[0], outcome.values[1], outcome.values[3]) == (500, 1.5, b"ab")
    assert outcome.values[2].tolist() == [1, -2, 3]
    assert outcome.status == 3
    assert [(c.name, c.dtype, c.shape, c.unit) for c in parser.channels] == [
        ("n", "<u2", (), None), ("t", "<f4", (), "K"), ("axes", "<i2", (3,), None), ("name", "|S4", (), None),
    ]  # fmt: skip
    assert parser.parse(b"short") == Unparsed("has 5 bytes and not 19")


def test_big_endian_records_are_the_same_numbers() -> None:
    parser = BinaryParser(">I256H", ["_", "spectrum"], {})
    outcome = parser.parse(struct.pack(">I256H", 7, *range(256)))
    assert isinstance(outcome, Reading)
    assert outcome.values[0].tolist() == list(range(256))
    assert outcome.values[0].dtype == np.dtype("<u2")


def test_the_last_field_may_go_on_to_the_end_of_the_record() -> None:
    parser = BinaryParser("<I*H", ["n", "spectrum"], {})
    for size in (3, 5):
        outcome = parser.parse(struct.pack(f"<I{size}H", 7, *range(size)))
        assert isinstance(outcome, Reading)
        assert (outcome.values[0], outcome.values[1].tolist()) == (7, list(range(size)))
    assert [channel.shape for channel in parser.channels] == [(), None]
    for wrong in (b"", b"abcd", b"abcde"):
        assert parser.parse(wrong) == Unparsed(f"has {len(wrong)} bytes and not 4+")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_make_a_binary_parser_fail(data: bytes) -> None:
    record = BinaryParser("<Hf*B", ["a", "b", "c"], {})
    block = block_parser("X {s:block}", {}, {})
    stamped = TemplateParser(from_template("{time:ts} {x:float}"), "latin-1", {}, {})
    assert block is not None
    for parser in (record, block, BlockRecordParser(record, None), stamped, StarsParser(from_template("{x:float}"), "ascii", {}, {})):
        assert isinstance(parser.parse(data), Reading | Answer | Unparsed)
        assert isinstance(parser.parse(b"X #2" + data), Reading | Answer | Unparsed)


@pytest.mark.parametrize(
    ("form", "names", "said"),
    [
        ("<If", ["a"], "more fields than fields has names"),
        ("<I", ["a", "b"], "fields names 'b', for which struct has no field"),
        ("<II", ["a", "a"], "fields names 'a' twice"),
        ("<I", ["_"], "fields names no value"),
        ("@I", ["a"], 'begin it with "<"'),
        ("<Z", ["a"], "no format of a field"),
        ("<*HI", ["a", "b"], "* stands before the last field"),
        ("<4B", ["status"], "status has to be one whole number"),
    ],
)
def test_formats_that_do_not_fit_are_refused_with_what_would(form: str, names: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=r".+") as refused:
        BinaryParser(form, names, {})
    assert said in str(refused.value)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=40), st.just(b"12.5")), max_size=5), st.lists(st.integers(1, 9), max_size=20), st.booleans())
def test_blocks_may_hold_the_end_of_a_line(contents: list[bytes], sizes: list[int], with_text: bool) -> None:
    lines = [(b"CURVE " if with_text else b"") + b"#2%02d" % len(content) + content for content in contents]
    splitter, found, data = BlockSplitter(b"\n", 64), [], b"".join(line + b"\n" for line in lines)
    for size in [*sizes, len(data) or 1]:
        found += splitter.feed(data[:size], 1)
        data = data[size:]
    assert [one.raw for one in found if isinstance(one, Line)] == lines
    assert splitter.silence() + splitter.end() == []


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.one_of(st.binary(max_size=30), st.just(b"#"), st.just(b"#15ab"), st.just(b"\n"), st.just(b"#9999999999"))), st.booleans()
)
def test_whatever_comes_with_blocks_no_byte_of_it_is_dropped(parts: list[bytes], silent: bool) -> None:
    splitter, data = BlockSplitter(b"\n", 32), b"".join(parts)
    found = [one for part in parts for one in splitter.feed(part, 1)] + (splitter.silence() if silent else []) + splitter.end()
    assert b"".join(b"".join(one.raw for one in found).split()) == b"".join(data.split())


def test_a_block_that_is_cut_off_is_given_up_after_a_silence() -> None:
    splitter = BlockSplitter(b"\n", 64)
    assert splitter.feed(b"#3100abc\n1.5\n", 1) == []
    assert splitter.silence() == [Junk(b"#3100abc\n1.5\n", "13 of 105 bytes of a block and then silence", 1)]
    assert splitter.feed(b"2.5\n", 2) == [Line(b"2.5", 2)]


def test_a_block_becomes_an_array_of_the_type_that_was_given() -> None:
    parser = block_parser("CURVE {spectrum:block}", {"spectrum": ">f4"}, {"spectrum": "count"})
    assert parser is not None
    outcome = parser.parse(b"CURVE #18" + struct.pack(">2f", 1.5, -2))
    assert isinstance(outcome, Reading)
    assert outcome.values[0].tolist() == [1.5, -2]
    assert outcome.values[0].dtype == np.dtype("<f4")
    for line, why in (
        (b"CURVE 5", "holds no block (# and its length)"),
        (b"CURVE #18abcd", "does not look as parse or pattern says"),
        (b"CURVE #13abc", "holds a block of 3 bytes, which is no number of >f4"),
        (b"CURVE #1xabc", "holds a block whose length is no number"),
    ):
        assert parser.parse(line) == Unparsed(why)


def test_a_block_stands_alone_in_its_line() -> None:
    with pytest.raises(ValueError, match="a block stands alone in its line"):
        block_parser("{a:float} {b:block}", {}, {})
    assert block_parser("{a:float}", {}, {}) is None


async def test_spectra_over_a_line_are_rows_of_arrays_and_a_new_length_opens_the_stream_anew(cable: Any, run: Run) -> None:
    spectrum = np.arange(500, dtype="<u2")
    cable.answers[b"CURV?"] = b"#41000" + spectrum.tobytes() + b"\n"
    one = await run(
        cable.path, profile="scpi", on_connect=[], command="CURV?", every="20 ms", parse="{spectrum:block}", channels={"spectrum": {"dtype": "<u2"}}
    )  # fmt: skip
    await one.sink.until(lambda s: len(s.blocks("spectrum")) >= 2)
    np.testing.assert_array_equal(one.sink.blocks("spectrum")[0].values[0], spectrum)
    cable.answers[b"CURV?"] = b"#3100" + spectrum[:50].tobytes() + b"\n"
    await one.sink.until(lambda s: len(s.of(Opened)) >= 2)
    assert [event.stream.shape for event in one.sink.of(Opened)] == [(500,), (50,)]
    assert one.sink.gaps("spectrum") == []


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("2026-11-24T12:00:00Z", 1795521600_000000000),
        ("2026-11-24 21:00:00.5+09:00", 1795521600_500000000),
        ("2026/11/24 21:00:00.123456789", 1795521600_123456789),
        ("1795521600.25", 1795521600_250000000),
    ],
)
def test_times_are_read_as_instruments_write_them(text: str, ns: int) -> None:
    assert Stamps(timezone="Asia/Tokyo").read(text) == ns


def test_a_time_of_a_format_of_its_own_and_what_is_none() -> None:
    assert Stamps("%d.%m.%Y %H:%M:%S", "UTC").read("24.11.2026 12:00:00") == 1795521600_000000000
    for text in ("yesterday", "2026-13-01 00:00:00", "12", ""):
        with pytest.raises(ValueError):
            Stamps().read(text)


async def test_the_time_of_the_instrument_becomes_the_source_time(cable: Any, run: Run) -> None:
    one = await run(cable.path, parse="{time:ts} {mass:float} {unit:word}", timezone="Asia/Tokyo")
    cable.send(b"2026-11-24T21:00:00.5 1.25 g\r\n2026-11-24T21:00:99 1.25 g\r\n")
    await one.sink.until(lambda s: s.gaps("mass"))
    (block,) = one.sink.blocks("mass")
    assert (block.values.tolist(), block.t_source.tolist()) == ([1.25], [1795521600_500000000])
    assert "is no time; see time_format" in one.sink.gaps("mass")[0].detail
    assert one.sink.of(Opened)[0].stream.attributes["clock"] == "Asia/Tokyo"


numbers = st.one_of(st.floats(allow_nan=False).map(repr), st.sampled_from(["NaN", "inf", "- 1.5", "1e400", "9.9E37", ".5", "x"]))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["S", "D"]), numbers, st.sampled_from(["g"] * 9 + ["kg"])), min_size=1, max_size=12),
    st.sampled_from(["plain", "scpi", "f4"]),
)
def test_many_lines_at_once_are_read_as_one_by_one(lines: list[tuple[str, str, str]], kind: str) -> None:
    raws = [" ".join(line).encode() for line in lines]
    make = ScpiParser if kind == "scpi" else TemplateParser
    parser = make(from_template("{status:word} {mass:float} {unit:word}"), "ascii", {"mass": "<f4"} if kind == "f4" else {}, {})
    columns, single = parser.parse_many(raws), [parser.parse(raw) for raw in raws]
    if columns is None:
        return
    assert all(isinstance(one, Reading) for one in single)
    wanted = np.array([one.values[0] for one in single if isinstance(one, Reading)], columns.values[0].dtype)
    np.testing.assert_array_equal(columns.values[0], wanted)
    assert columns.status.tolist() == [one.status for one in single if isinstance(one, Reading)]
    assert {one.units[0] for one in single if isinstance(one, Reading)} == {columns.units[0]}


def test_many_ordinary_lines_are_read_at_once() -> None:
    parser = TemplateParser(from_template("{status:word} {mass:float} {unit:word} {note:word}"), "ascii", {}, {})
    columns = parser.parse_many([b"S 1.5 g ok", b"D -2 g ok"])
    assert columns is not None
    assert columns.values[0].tolist() == [1.5, -2]
    assert columns.values[1].tolist() == [b"ok", b"ok"]
    assert columns.units == ("g", "g")
    assert columns.status.tolist() == [0x53, 0x44]
    form = from_pattern(r"(?P<a>\d+)(,)?(?P<b>\d+)", {})
    other = TemplateParser(form, "ascii", {}, {}).parse_many([b"1,2", b"3,4"])
    assert other is not None
    assert [column.tolist() for column in other.values] == [[1, 3], [2, 4]]
