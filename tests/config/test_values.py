from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from edge_agent.config.conditions import Idle, RunWhile, parse_idle, parse_run_while
from edge_agent.config.values import BYTES, SECONDS, Duration, PositiveDuration, Size, hours, rate


class Values(BaseModel):
    duration: Duration = 0.0
    positive: PositiveDuration = 1.0
    size: Size = 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2 s", 2.0), ("500 ms", 0.5), ("1.5 h", 5400.0), ("10min", 600.0), (" 1 d ", 86400.0), ("0 s", 0.0), ("3 µs", 3e-6), ("7 us", 7e-6)],
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert Values.model_validate({"duration": text}).duration == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("20 GB", 20 * 10**9),
        ("256 MiB", 2**28),
        ("1 B", 1),
        ("0 B", 0),
        ("1.5 kB", 1500),
        ("20 gb", 20 * 10**9),
        ("9007199254740993 B", 9007199254740993),
    ],
)
def test_sizes_are_exact_bytes(text: str, count: int) -> None:
    assert Values.model_validate({"size": text}).size == count


@pytest.mark.parametrize("field", [{"positive": "0 s"}, {"size": "-1 B"}, {"size": None}])
def test_what_makes_no_sense_is_refused(field: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Values.model_validate(field)


@given(st.one_of(st.text(), st.floats(), st.integers(), st.booleans(), st.none(), st.lists(st.text())))
def test_whatever_is_written_is_a_value_or_a_validation_error(anything: object) -> None:
    for field in Values.model_fields:
        try:
            value = getattr(Values.model_validate({field: anything}), field)
        except ValidationError:
            continue
        assert value >= 0


@given(st.integers(0, 10**6), st.sampled_from(sorted(SECONDS)), st.sampled_from(sorted(BYTES)))
def test_what_is_dumped_reads_back(number: int, unit: str, size: str) -> None:
    values = Values.model_validate({"duration": f"{number} {unit}", "size": f"{number} {size}"})
    again = Values.model_validate(values.model_dump())
    assert again.size == values.size
    assert again.duration == pytest.approx(values.duration, abs=1e-9)


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("ca://BL05:SHUTTER == 1", RunWhile("ca://BL05:SHUTTER", "==", 1.0)),
        ("pva://X:Y != open", RunWhile("pva://X:Y", "!=", "open")),
        ('opc.tcp://h:4840/ns=2;s=State == "RUN NOW"', RunWhile("opc.tcp://h:4840/ns=2;s=State", "==", "RUN NOW")),
        ("ca://T >= -1.5e3", RunWhile("ca://T", ">=", -1500.0)),
        ("ca://T <5", RunWhile("ca://T", "<", 5.0)),
        ('ca://T == "5"', RunWhile("ca://T", "==", "5")),
    ],
)
def test_run_while_is_address_comparison_and_value(text: str, condition: RunWhile) -> None:
    assert parse_run_while(text) == condition
    assert parse_run_while(str(condition)) == condition


def test_a_condition_holds_for_its_own_type_only() -> None:
    assert RunWhile("ca://X", "==", 1.0).holds(1)
    assert not RunWhile("ca://X", "==", 1.0).holds("1")
    assert RunWhile("ca://X", "!=", 1.0).holds("open")
    assert RunWhile("ca://X", "==", "open").holds("open")
    assert not RunWhile("ca://X", ">", 1.0).holds("open")
    assert not RunWhile("ca://X", ">", 1.0).holds(float("nan"))


@pytest.mark.parametrize("text", ["ring = 30 s", "ring:30 s", "ring 30 s", "ring=0.5min"])
def test_a_ring_holds_seconds(text: str) -> None:
    assert parse_idle(text) == Idle("ring", 30.0)
    assert parse_idle(str(parse_idle(text))) == Idle("ring", 30.0)


@pytest.mark.parametrize(("text", "value"), [("20 MB/s", 20_000_000), ("1.5 KiB/s", 1536)])
def test_a_rate_is_bytes_per_second(text: str, value: int) -> None:
    assert rate(text) == value


@pytest.mark.parametrize("text", ["20 MB", "20", "0 B/s", "fast", 20, None, "20 MB/min"])
def test_what_is_no_rate(text: object) -> None:
    with pytest.raises(PydanticCustomError):
        rate(text)


def test_hours_of_the_day() -> None:
    assert hours("22:00-06:30") == (datetime.time(22), datetime.time(6, 30))


@pytest.mark.parametrize("text", ["22-6", "24:00-06:00", "22:00-22:00", "night", 22, None, "22:60-06:00"])
def test_what_are_no_hours(text: object) -> None:
    with pytest.raises(PydanticCustomError):
        hours(text)
