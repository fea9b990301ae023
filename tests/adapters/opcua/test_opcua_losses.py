"""What is declared of an outage does not depend on what a variable holds: values, parts of a structure, images and events alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adapters.opcua.config import NodeConfig
from adapters.opcua.events import EventStream, event_stream
from adapters.opcua.images import ImageStream
from adapters.opcua.rows import Outlet
from adapters.opcua.values import Form, Samples
from adapters.testing import Image, Missing, RecordingSink, Rows
from edge_agent.model import Cause, Gap, Kind, Stream

DOUBLE, MATRIX = Form("Double", "<f8"), Form("UInt16", "<u2", (2, 3))
STREAM = Stream("plc", "level", Kind.ROWS, "<f8")


def samples(form: Form, t: int) -> Samples:
    times = np.array([t], np.int64)
    return Samples(form, np.zeros((1, *form.shape), form.dtype), times, times, np.zeros(1, np.uint32), t + 5)


def outlet(sink: RecordingSink, step: int | None = None) -> Outlet:
    return Outlet(sink, STREAM, step)


def images(sink: RecordingSink) -> ImageStream:
    return ImageStream(sink, STREAM, NodeConfig(id="i=1", frames=True))


def counter(sink: RecordingSink) -> Outlet:
    return outlet(sink, 1)


COUNTER = Form("UInt32", "<u4")


@pytest.mark.parametrize(
    ("make", "form", "paths"),
    [(outlet, DOUBLE, [""]), (outlet, DOUBLE, ["X", "Y"]), (counter, COUNTER, [""]), (images, MATRIX, [""])],
    ids=["value", "structure", "counter", "image"],
)
async def test_an_outage_before_the_first_value_is_declared_before_it(make: Any, form: Form, paths: list[str]) -> None:
    sink = RecordingSink()
    stream = make(sink)
    stream.subscribed(STREAM, None)
    stream.interrupted(100, "cut")
    stream.interrupted(150, "still")
    stream.subscribed(STREAM, None)
    for path in paths:
        await stream.take(path, [samples(form, 200)])
    told = [event for event in sink.events if isinstance(event, Missing | Rows | Image)]
    names = [f"level.{path}" if path else "level" for path in paths]
    assert [(type(event) is Missing, event.stream.name) for event in told] == [(first, name) for name in names for first in (True, False)]
    assert {event.gap for event in sink.of(Missing)} == {Gap(Cause.DISCONNECT, t_from=100, t_to=205, detail="cut")}
    stream.interrupted(300, "cut again")
    stream.resumed(400)
    assert [event.gap for event in sink.of(Missing)][len(paths) :] == [Gap(Cause.DISCONNECT, t_from=300, t_to=400, detail="cut again")] * len(
        paths
    )


async def test_a_variable_that_never_had_a_value_has_no_stream_to_declare_anything_on() -> None:
    sink = RecordingSink()
    for stream in (outlet(sink), images(sink)):
        stream.subscribed(STREAM, None)
        stream.interrupted(100, "cut")
        stream.resumed(200)
    assert sink.events == []


def test_an_outage_of_events_is_declared_whether_or_not_one_had_come() -> None:
    sink = RecordingSink()
    events = EventStream(sink, event_stream("plc", "opc.tcp://127.0.0.1", ""))
    events.interrupted(100, "cut")
    events.resumed(200)
    assert [event.gap for event in sink.of(Missing)] == [Gap(Cause.DISCONNECT, t_from=100, t_to=200, detail="cut")]
