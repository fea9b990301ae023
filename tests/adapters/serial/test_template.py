from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.serial.outcome import Answer, Channel, Outcome, Reading, Unparsed, status_code
from adapters.serial.sics import SicsParser
from adapters.serial.template import ScpiParser, TemplateParser, from_pattern, from_template

BALANCE = "{status:word} {mass:float} {unit:word}"


def read(template: str, line: bytes, encoding: str = "ascii", **dtypes: str) -> Outcome:
    return TemplateParser(from_template(template), encoding, dtypes, {}).parse(line)


def why(outcome: Outcome) -> str:
    assert isinstance(outcome, Unparsed)
    return outcome.why


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"S    12.3450 g", 12.345),
        (b"  S +  12.3 g  ", 12.3),
        (b"S -   12.3 g", -12.3),
        (b"S .5 g", 0.5),
        (b"S 5. g", 5.0),
        (b"S 1.25E-3 g", 0.00125),
        (b"S\t-7\tg", -7.0),
    ],
)
def test_a_template_reads_numbers_as_instruments_write_them(line: bytes, value: float) -> None:
    assert read(BALANCE, line) == Reading((value,), ("g",), status_code("S"))


def test_not_a_number_and_infinity_are_numbers_that_a_line_may_hold() -> None:
    outcome = read("{a:float},{b:float}", b"NaN,-inf")
    assert isinstance(outcome, Reading)
    assert math.isnan(outcome.values[0])
    assert outcome.values[1] == -math.inf


def test_two_values_of_a_line_may_have_units_of_their_own() -> None:
    template = "T={t:float}{t_unit:word} {rh:float} {rh_unit:word}"
    assert read(template, b"T=21.5C 40 %") == Reading((21.5, 40.0), ("C", "%"))


def test_skipped_fields_literals_and_braces_are_not_recorded() -> None:
    parser = TemplateParser(from_template("{{{_:word}}} x={x:int} {note:text}"), "ascii", {}, {})
    assert parser.channels == (Channel("x", "<i8"), Channel("note", "|S256"))
    assert parser.parse(b"{abc} x=-12 all is well") == Reading((-12, b"all is well"), (None, None))


def test_a_pattern_reads_named_groups_as_numbers_or_as_what_the_dtype_says() -> None:
    dtypes = {"code": "|S8", "n": "<i4"}
    form = from_pattern(r"(?P<t>[-0-9.]+);(?P<code>\w+);(?P<n>\d+)(?P<unit>K|C)", dtypes)
    assert TemplateParser(form, "ascii", dtypes, {}).parse(b"1.5;ab;7K") == Reading((1.5, b"ab", 7), ("K", "K", "K"))


@pytest.mark.parametrize(
    ("template", "line", "dtypes", "said"),
    [
        (BALANCE, b"S  12.34", {}, "does not look as parse or pattern says"),
        (BALANCE, b"S 12.34 g trailing", {}, "does not look"),
        (BALANCE, b"S 12.34 \xff", {}, "bytes that are not ascii"),
        (BALANCE, b"S 12.34 g\x00", {}, "does not look"),
        (BALANCE, b"S 12.34 " + b"g" * 17, {}, "the unit 'ggggggggggggggggg' is longer than 16 characters"),
        ("{x:int}", b"9" * 30, {}, "does not fit <i8"),
        ("{x:int}", b"9" * 5000, {}, "is no number of type <i8"),
        ("{x:int}", b"70000", {"x": "<u2"}, "x = '70000' does not fit <u2"),
        ("{x:float}", b"1e300", {"x": "<f4"}, "does not fit <f4"),
        ("{x:float}", b"1.5", {"x": "<i4"}, "is no number of type <i4"),
        ("{x:word}", b"abcde", {"x": "|S4"}, 'x is longer than 4 bytes; set channels.x.dtype = "|S5"'),
    ],
)
def test_what_does_not_fit_is_told_and_never_guessed(template: str, line: bytes, dtypes: dict[str, str], said: str) -> None:
    assert said in why(read(template, line, **dtypes))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{mass} g", "a field is {name:kind} with the kinds float, int, word, text, ts; write for example {mass:float} {unit:word}"),
        ("{mass:double}", "a field is {name:kind}"),
        ("mass}", "and {{ for a brace"),
        ("{m:float} {m:float}", "parse names 'm' twice"),
        ("just text", "names no value; write for example {mass:float} {unit:word}"),
        ("{unit:word} {status:word}", "names no value"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_with_what_would_do(template: str, said: str) -> None:
    with pytest.raises(ValueError, match="parse") as refused:
        from_template(template)
    assert said in str(refused.value)


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="is no regular expression: "):
        from_pattern("(?P<x>", {})


def test_scpi_says_infinity_and_not_a_number_by_numbers() -> None:
    parser = ScpiParser(from_template("{a:float},{b:float},{c:float},{d:float}"), "ascii", {}, {})
    outcome = parser.parse(b"9.90000000E+37,-9.9E37,9.91E37,1.5")
    assert isinstance(outcome, Reading)
    assert outcome.values[:2] == (math.inf, -math.inf)
    assert math.isnan(outcome.values[2])
    assert outcome.values[3] == 1.5


@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        (b"S S   100.0000 g", Reading((100.0,), ("g",), 0x53)),
        (b"S D    -0.0012 g", Reading((-0.0012,), ("g",), 0x44)),
        (b"S S     12.34[5] g", Reading((12.345,), ("g",), 0x53)),
        (b"S S      1.2 kg\r", Reading((1.2,), ("kg",), 0x53)),
        (b"S I", Answer()),
        (b'I4 A "B123"', Answer({"serial_number": "B123"})),
        (b'I2 A "XSR204 220.0 g"', Answer({"maker": "Mettler-Toledo", "model": "XSR204 220.0 g"})),
        (b"ES", Unparsed("the balance did not understand the command")),
        (b"EL", Unparsed("the balance cannot do what the command asks")),
        (b"ET", Unparsed("the balance received the command with a transmission error")),
        (b"S S   100.0", Unparsed("is no MT-SICS answer")),
        (b"S X   100.0 g", Unparsed("is no MT-SICS answer")),
        (b"\xff\xfe", Unparsed("is no MT-SICS answer")),
    ],
)
def test_a_balance_is_read_as_its_manual_says(line: bytes, outcome: Outcome) -> None:
    assert SicsParser().parse(line) == outcome


@pytest.mark.parametrize(("line", "status"), [(b"S +", 0x2B), (b"S -", 0x2D)])
def test_overload_and_underload_are_not_a_number_with_their_status(line: bytes, status: int) -> None:
    outcome = SicsParser().parse(line)
    assert isinstance(outcome, Reading)
    assert math.isnan(outcome.values[0])
    assert (outcome.units, outcome.status) == ((None,), status)


@given(st.binary(max_size=200))
def test_no_bytes_make_a_parser_fail(line: bytes) -> None:
    for parser in (
        SicsParser(),
        TemplateParser(from_template("{a:float}{b:int} {c:text}{status:int}"), "utf-8", {"a": "<f4", "b": "<i2"}, {}),
        TemplateParser(from_pattern(r"(?P<a>.*)(?P<status>.)", {}), "latin-1", {}, {}),
    ):
        assert isinstance(parser.parse(line), Reading | Answer | Unparsed)
