"""From DataValue to numpy, without a server."""

from __future__ import annotations

import math
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from asyncua import ua
from hypothesis import given
from hypothesis import strategies as st

from adapters.opcua.values import Form, Unusable, convert, placeholder, read_value, time_ns
from edge_agent.model import NO_TIME

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@given(st.integers(min_value=1_000_000, max_value=9_000_000_000_000_000))
def test_times_are_exact_to_the_microsecond(microseconds: int) -> None:
    assert time_ns(EPOCH + timedelta(microseconds=microseconds)) == microseconds * 1000


@pytest.mark.parametrize(
    "moment", [None, datetime(1601, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)]
)
def test_what_servers_send_for_no_time_is_no_time(moment: datetime | None) -> None:
    assert time_ns(moment) == NO_TIME


def test_a_naive_time_is_utc() -> None:
    assert time_ns(datetime(2026, 1, 1)) == time_ns(datetime(2026, 1, 1, tzinfo=UTC))  # noqa: DTZ001 - older servers' stacks make them


@pytest.mark.parametrize(
    ("kind", "value", "dtype", "becomes"),
    [
        ("Double", 1.5, "<f8", 1.5),
        ("Float", 1.5, "<f4", 1.5),
        ("Boolean", True, "|u1", 1),
        ("SByte", -3, "|i1", -3),
        ("UInt64", 2**64 - 1, "<u8", 2**64 - 1),
        ("String", "Grad °", "|S256", "Grad °".encode()),
        ("LocalizedText", ua.LocalizedText("warm"), "|S256", b"warm"),
        ("QualifiedName", ua.QualifiedName("q", 1), "|S256", b"q"),
        ("NodeId", ua.NodeId("x", 2), "|S256", b"ns=2;s=x"),
        ("Guid", uuid.UUID(int=5), "|S256", str(uuid.UUID(int=5)).encode()),
        ("StatusCode", ua.StatusCode(0x80000000), "<u4", 0x80000000),
        ("DateTime", datetime(2026, 1, 1, tzinfo=UTC), "<i8", 1_767_225_600_000_000_000),
    ],
)
def test_every_scalar_type_has_a_form(kind: str, value: Any, dtype: str, becomes: Any) -> None:
    form, plain, cut = convert(ua.Variant(value, getattr(ua.VariantType, kind)))
    assert (form, plain, cut) == (Form(kind, dtype), becomes, False)


def test_arrays_keep_their_dimensions() -> None:
    form, plain, _ = convert(ua.Variant([[1, 2, 3], [4, 5, 6]], ua.VariantType.Int16, [2, 3], is_array=True))
    assert form == Form("Int16", "<i2", (2, 3))
    assert plain.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_bytes_are_an_array_of_bytes() -> None:
    form, plain, _ = convert(ua.Variant(b"\0\1\2\0", ua.VariantType.ByteString))
    assert form == Form("ByteString", "|u1", (4,))
    assert plain.tobytes() == b"\0\1\2\0"


def test_a_long_text_is_cut_between_characters_and_says_so() -> None:
    form, plain, cut = convert(ua.Variant("é" * 200, ua.VariantType.String))
    assert (form.dtype, plain, cut) == ("|S256", "é".encode() * 128, True)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (ua.Variant(ua.Range(0, 1), ua.VariantType.ExtensionObject), "values of type ExtensionObject cannot be recorded"),
        (ua.Variant([b"a", b"bc"], ua.VariantType.ByteString, is_array=True), "arrays of ByteString"),
        (ua.Variant([[1], [2, 3]], ua.VariantType.Int32, [2, 2], is_array=True), "odd dimensions"),
    ],
)
def test_what_no_dataset_can_hold_is_refused_by_name(value: Any, says: str) -> None:
    with pytest.raises(Unusable, match=says):
        convert(value)


def test_a_bad_status_without_a_value_is_bad_and_has_no_form() -> None:
    sample = read_value(_value(None, 0x808C0000), 7)
    assert sample.bad
    assert sample.form is None
    assert sample.status == 0x808C0000


@pytest.mark.parametrize(("status", "bad"), [(0, False), (0x40000000, False), (0x80000000, True)])
def test_only_bad_is_bad_uncertain_is_usable(status: int, bad: bool) -> None:
    assert read_value(_value(1.0, status), 0).bad is bad


def test_the_overflow_bit_is_seen() -> None:
    assert read_value(_value(1.0, 0x480), 0).overflow
    assert not read_value(_value(1.0, 0x400), 0).overflow


@pytest.mark.parametrize(("value", "bad"), [(math.nan, True), (1.0, False), ([math.nan, 1.0], False), ([math.nan, math.nan], True)])
def test_nan_is_bad_and_so_is_an_array_of_nothing_else(value: Any, bad: bool) -> None:
    assert read_value(_value(value, 0), 0).bad is bad


def test_a_placeholder_has_the_form_of_the_stream() -> None:
    assert np.isnan(placeholder(Form("Double", "<f8", (2,)))).all()
    assert placeholder(Form("Int32", "<i4")) == 0
    assert placeholder(Form("String", "|S256")) == b""


def _value(value: Any, status: int) -> Any:
    data = ua.DataValue(ua.Variant() if value is None else ua.Variant(value, ua.VariantType.Double))
    object.__setattr__(data, "StatusCode", ua.StatusCode(status))
    return data
