from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from adapters.quantities import parse_bytes, parse_seconds
from adapters.serial import SerialConfig, try_parse
from edge_agent.config import examine
from edge_agent.errors import ConfigError

EXAMPLE = Path(__file__).parents[3] / "config" / "bench-serial.toml"


def refusal(**keys: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        SerialConfig.model_validate({"port": "/dev/ttyUSB0", **keys})
    (error,) = refused.value.errors()
    return str(error["msg"])


@pytest.mark.parametrize(("text", "seconds"), [("1 s", 1.0), ("500 ms", 0.5), ("2min", 120.0), (" 1.5 h ", 5400.0), ("20 us", 2e-5)])
def test_durations_are_written_with_their_unit(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [1, 1.5, True, "1", "s", "1 week", "-1 s", "0 s", "1e9 s", None])
def test_a_duration_without_unit_or_sense_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"is no duration; write for example|must be longer than 0 s"):
        parse_seconds(value)


def test_sizes_are_written_with_their_unit() -> None:
    assert (parse_bytes("2 GB"), parse_bytes("1.5 KiB"), parse_bytes("0 B")) == (2 * 10**9, 1536, 0)
    with pytest.raises(ValueError, match=r"'2 gb' is no size; write for example"):
        parse_bytes("2 gb")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"port": ""}, "must be a port"),
        ({"port": "usb:"}, "wants the serial number of the adapter"),
        ({"port": "socket://host"}, "is no address of a device server; write"),
        ({"port": "socket://host:99999"}, "is no address of a device server"),
        ({"port": "spy:///dev/ttyUSB0?file=/etc/x"}, "is no address of a device server"),
        ({"stopbits": 3}, "must be 1, 1.5 or 2"),
        ({"encoding": "klingon"}, "is no text encoding; write for example"),
        ({"delimiter": ""}, "delimiter must not be empty; for messages without an end set fixed_length"),
        ({"delimiter": "€"}, "delimiter = '€' cannot be written in ascii; set encoding"),
        ({"command": "READ?"}, 'command wants to know how often: add every = "1 s"'),
        ({"every": "1 s"}, 'every wants something to ask: add command = "READ?"'),
        ({"stream": True}, 'stream is for profile = "mettler-sics"'),
        ({"parse": "{x:float}", "pattern": "(?P<x>.)"}, "parse and pattern both say how a line is read; keep one of them"),
        ({"profile": "mettler-sics", "parse": "{x:float}"}, "knows how a line is read; leave out parse and pattern"),
        ({"profile": "mettler-sics", "stream": True, "every": "1 s"}, "keep one of them"),
        ({"profile": "mettler-sics", "channels": {"mass": {"dtype": "<i4"}}}, "an overload is recorded as NaN"),
        ({"parse": "{x:float}", "channels": {"y": {}}}, "channels names 'y', which no line has; there are x"),
        ({"parse": "{x:float}", "channels": {"x": {"dtype": "object"}}}, "'object' is no type of a value"),
        ({"parse": "{x:float}", "channels": {"x": {"dtype": "|S0"}}}, "holds nothing"),
        ({"every": 1}, "1 is no duration"),
    ],
)
def test_keys_that_do_not_fit_are_refused_with_what_would(keys: dict[str, Any], said: str) -> None:
    assert said in refusal(**keys)


def test_a_balance_without_every_sends_by_itself_and_with_it_is_asked() -> None:
    streaming = SerialConfig(port="x", profile="mettler-sics").plan()
    asked = SerialConfig(port="x", profile="mettler-sics", every="1 s").plan()
    assert (streaming.start, streaming.queries, streaming.silence) == (b"SIR\r\n", (), 10.0)
    assert (asked.start, [query.command for query in asked.queries], asked.every) == (None, [b"SI\r\n"], 1.0)
    assert [greeting.command for greeting in asked.on_connect] == [b"I4\r\n", b"I2\r\n"]


def test_the_delimiter_follows_the_profile_unless_it_is_given() -> None:
    assert SerialConfig(port="x", profile="scpi").plan().delimiter == b"\n"
    assert SerialConfig(port="x").plan().delimiter == b"\r\n"
    assert SerialConfig(port="x", delimiter="\x03").plan().delimiter == b"\x03"


def test_the_example_configuration_is_right() -> None:
    found = examine(EXAMPLE)
    assert found.problems == ()
    assert found.config is not None
    settings = found.config.instruments["thermometer"].settings
    assert isinstance(settings, SerialConfig)
    outcome = settings.plan().parsers[0].parse(b"T1= 21.35 C  T2= 20.90 C")
    assert outcome == settings.plan().parsers[0].parse(b"T1=21.35 C T2=20.90 C")
    assert "values=(21.35, 20.9)" in str(outcome)


def test_the_example_of_text_over_tcp_is_right() -> None:
    found = examine(EXAMPLE.with_name("beamline-text.toml"))
    assert found.problems == ()
    assert found.config is not None
    stars = found.config.instruments["stars"].settings
    assert isinstance(stars, SerialConfig)
    assert stars.keys == EXAMPLE.with_name("edge1.key")
    assert [query.text for query in stars.plan().queries] == ["idgap GetValue"]


async def test_trying_a_template_that_is_wrong_says_so_before_any_port_is_opened() -> None:
    with pytest.raises(ConfigError, match="cannot be read like this") as refused:
        await anext(try_parse("/dev/ttyUSB0", "{mass}"))
    assert "a field is {name:kind}" in refused.value.why
