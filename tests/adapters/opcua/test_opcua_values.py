"""From the bytes of a server to numpy, without a server: what asyncua encodes is what we read."""

from __future__ import annotations

import math
import struct
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from asyncua import ua
from asyncua.ua.ua_binary import struct_to_binary, variant_to_binary
from hypothesis import given
from hypothesis import strategies as st

from adapters.opcua.binary import Reader, Undecodable
from adapters.opcua.notifications import one_sample, read_published
from adapters.opcua.values import Form, Samples, Unusable, placeholder, tick_ns, ticks_ns
from edge_agent.model import NO_TIME

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def variant(value: Any, kind: str, **more: Any) -> Any:
    return Reader(variant_to_binary(ua.Variant(value, getattr(ua.VariantType, kind), **more))).variant()


def data_value(value: Any, status: int = 0, kind: str = "Double", source: datetime | None = None) -> Any:
    data = ua.DataValue(ua.Variant() if value is None else ua.Variant(value, getattr(ua.VariantType, kind)), SourceTimestamp=source)
    object.__setattr__(data, "StatusCode", ua.StatusCode(status))
    return data


def sample(value: Any, status: int = 0) -> Samples:
    ((_, found),) = one_sample(Reader(struct_to_binary(data_value(value, status))).value(), 7)
    return found


@given(st.integers(min_value=1_000_000, max_value=9_000_000_000_000_000))
def test_times_are_exact(microseconds: int) -> None:
    ticks = 116_444_736_000_000_000 + 10 * microseconds + 3
    assert tick_ns(ticks) == microseconds * 1000 + 300
    assert ticks_ns(np.array([ticks])).tolist() == [microseconds * 1000 + 300]


@pytest.mark.parametrize("ticks", [0, 1, 116_444_736_000_000_000, 2_650_467_743_990_000_000, 2**63 - 1])
def test_what_servers_send_for_no_time_is_no_time(ticks: int) -> None:
    assert tick_ns(ticks) == NO_TIME
    assert ticks_ns(np.array([ticks])).tolist() == [NO_TIME]


@pytest.mark.parametrize(
    ("kind", "value", "dtype", "becomes"),
    [
        ("Double", 1.5, "<f8", 1.5),
        ("Float", 1.5, "<f4", 1.5),
        ("Boolean", True, "|u1", 1),
        ("SByte", -3, "|i1", -3),
        ("Int16", -3, "<i2", -3),
        ("UInt32", 2**32 - 1, "<u4", 2**32 - 1),
        ("UInt64", 2**64 - 1, "<u8", 2**64 - 1),
        ("String", "Grad °", "|S256", "Grad °".encode()),
        ("String", None, "|S256", b""),
        ("XmlElement", ua.XmlElement("<a/>"), "|S256", b"<a/>"),
        ("LocalizedText", ua.LocalizedText("warm", "en"), "|S256", b"warm"),
        ("QualifiedName", ua.QualifiedName("q", 1), "|S256", b"q"),
        ("NodeId", ua.NodeId("x", 2), "|S256", b"ns=2;s=x"),
        ("Guid", uuid.UUID(int=5), "|S256", str(uuid.UUID(int=5)).encode()),
        ("StatusCode", ua.StatusCode(0x80000000), "<u4", 0x80000000),
        ("DateTime", datetime(2026, 1, 1, tzinfo=UTC), "<i8", 1_767_225_600_000_000_000),
    ],
)
def test_every_scalar_type_has_a_form(kind: str, value: Any, dtype: str, becomes: Any) -> None:
    if value is None:  # the library takes a null text for no value at all
        leaves = Reader(bytes([12]) + struct.pack("<i", -1)).variant()
    else:
        leaves = variant(value, kind)
    assert leaves == [("", Form(kind, dtype), becomes, False)]


@pytest.mark.parametrize("kind", ["Boolean", "Byte", "Int16", "UInt32", "Int64", "Float", "Double"])
def test_numeric_arrays_become_arrays_and_never_lists(kind: str) -> None:
    ((_, form, array, _),) = variant([0, 1, 1], kind, is_array=True)
    assert isinstance(array, np.ndarray)
    assert array.flags.aligned
    assert (array.dtype.str, array.tolist()) == (form.dtype, [0, 1, 1])


def test_matrices_keep_their_dimensions() -> None:
    ((_, form, plain, _),) = variant([[1, 2, 3], [4, 5, 6]], "Int16", Dimensions=[2, 3], is_array=True)
    assert form == Form("Int16", "<i2", (2, 3))
    assert plain.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_an_image_of_a_million_pixels_and_more_is_an_array() -> None:
    pixels = np.arange(1200 * 1000, dtype="<u2")
    data = bytes([5 | 0xC0]) + struct.pack("<i", pixels.size) + pixels.tobytes() + struct.pack("<iii", 2, 1200, 1000)
    ((_, form, image, _),) = Reader(data).variant()
    assert (form.shape, image[1, 3]) == ((1200, 1000), 1003)


def test_arrays_of_times_and_texts_are_arrays() -> None:
    ((_, form, plain, _),) = variant([EPOCH + timedelta(seconds=1)], "DateTime", is_array=True)
    assert (form.dtype, plain.tolist()) == ("<i8", [10**9])
    ((_, form, plain, _),) = variant(["a", "bc"], "String", is_array=True)
    assert (form.shape, plain.tolist()) == ((2,), [b"a", b"bc"])


def test_bytes_are_an_array_of_bytes() -> None:
    ((_, form, plain, _),) = variant(b"\0\1\2\0", "ByteString")
    assert form == Form("ByteString", "|u1", (4,))
    assert plain.tobytes() == b"\0\1\2\0"


def test_a_long_text_is_cut_between_characters_and_says_so() -> None:
    ((_, form, plain, cut),) = variant("é" * 200, "String")
    assert (form.dtype, plain, cut) == ("|S256", "é".encode() * 128, True)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (variant_to_binary(ua.Variant([b"a", b"bc"], ua.VariantType.ByteString, is_array=True)), "ByteStrings of different lengths"),
        (bytes([6 | 0xC0]) + struct.pack("<i3i3i", 3, 1, 2, 3, 2, 2, 2), "odd dimensions"),
        (variant_to_binary(ua.Variant([ua.Variant(1, ua.VariantType.Int32)], ua.VariantType.Variant, is_array=True)), "type Variant"),
    ],
)
def test_what_no_dataset_can_hold_is_refused_by_name_and_skipped(data: bytes, says: str) -> None:
    reader = Reader(data + b"next")
    with pytest.raises(Unusable, match=says):
        reader.variant()
    assert reader.take(4) == b"next"


@given(st.binary(max_size=60))
def test_nonsense_is_undecodable_and_nothing_else(data: bytes) -> None:
    for read in (lambda: Reader(data).value(), lambda: read_published(data, 0, 0)):
        try:
            read()
        except (Undecodable, Unusable):
            pass


@given(st.data())
def test_a_message_cut_short_is_undecodable(data: st.DataObject) -> None:
    whole = published([(100, data_value(float(i), source=EPOCH)) for i in range(8)])
    with pytest.raises(Undecodable):
        read_published(whole[: data.draw(st.integers(0, len(whole) - 40))], 0, 0)


def published(changes: list[tuple[int, Any]]) -> bytes:
    """A PublishResult as asyncua encodes it."""
    items = [ua.MonitoredItemNotification(ClientHandle=handle, Value=value) for handle, value in changes]
    message = ua.NotificationMessage(SequenceNumber=5, NotificationData=[ua.DataChangeNotification(MonitoredItems=items)])
    return struct_to_binary(ua.PublishResult(SubscriptionId=9, NotificationMessage=message))


KINDS = st.sampled_from(["Int32", "Double", "UInt16", "Boolean", "String"])


@given(st.lists(st.tuples(st.integers(100, 103), KINDS, st.integers(0, 1), st.booleans(), st.integers(1, 9)), max_size=25))
def test_notifications_are_what_was_published_whatever_their_order_and_types(
    plan: list[tuple[int, str, int, bool, int]],
) -> None:
    changes = []
    expected: dict[int, list[tuple[Any, int]]] = {}
    for handle, kind, number, timed, repeats in plan:
        value = {"String": str(number), "Boolean": bool(number), "Double": float(number)}.get(kind, number)
        for i in range(repeats):
            source = EPOCH + timedelta(seconds=1 + i) if timed else None
            changes.append((handle, data_value(value, 0, kind, source)))
            becomes = value.encode() if isinstance(value, str) else value
            expected.setdefault(handle, []).append((becomes, (1 + i) * 10**9 if timed else NO_TIME))
    message = read_published(published(changes), 0, 7)
    assert (message.subscription, message.number) == (9, 5)
    got = {
        handle: [
            (value, t)
            for one in samples
            if one.values is not None
            for value, t in zip(one.values.tolist(), one.t_source.tolist(), strict=True)
        ]
        for (handle, _), samples in message.changes.items()
    }
    assert got == expected


def test_a_bad_status_without_a_value_is_bad_and_has_no_form() -> None:
    one = sample(None, 0x808C0000)
    assert one.bad.all()
    assert one.form is None
    assert one.status.tolist() == [0x808C0000]


@pytest.mark.parametrize(("status", "bad"), [(0, False), (0x40000000, False), (0x80000000, True)])
def test_only_bad_is_bad_uncertain_is_usable(status: int, bad: bool) -> None:
    assert sample(1.0, status).bad.tolist() == [bad]


def test_the_overflow_bit_is_seen() -> None:
    assert sample(1.0, 0x480).overflow.all()
    assert not sample(1.0, 0x400).overflow.any()


@pytest.mark.parametrize(("value", "bad"), [(math.nan, True), (1.0, False), ([math.nan, 1.0], False), ([math.nan, math.nan], True)])
def test_nan_is_bad_and_so_is_an_array_of_nothing_else(value: Any, bad: bool) -> None:
    assert sample(value).bad.tolist() == [bad]


def test_a_placeholder_has_the_form_of_the_stream() -> None:
    assert np.isnan(placeholder(Form("Double", "<f8", (2,)), 3)).all()
    assert placeholder(Form("Int32", "<i4"), 2).tolist() == [0, 0]
    assert placeholder(Form("String", "|S256"), 1).tolist() == [b""]
