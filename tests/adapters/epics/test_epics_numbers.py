"""Numbers that came together are the same rows as if each had come by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from p4p import Type, Value
from p4p.nt import NTScalar

from adapters.epics.events import EPICS_EPOCH, Alarm, Event, Joined, Lost, Numbers, Sample, Samples, decoded, sample, samples_of
from adapters.epics.pump import Pump
from adapters.epics.pva import scalar_callback
from adapters.epics.rows import RowStream
from adapters.testing import RecordingSink
from edge_agent.model import Cause, Kind, Stream

TYPE = NTScalar("d", display=True).type
READ = ("value", "alarm", "timeStamp")
seconds = st.one_of(st.sampled_from([0, -1, EPICS_EPOCH, 2**62, 1_700_000_000]), st.integers(1, 2**33))
updates = st.lists(
    st.tuples(
        st.floats(allow_infinity=True, allow_nan=True), seconds, st.integers(0, 999_999_999), st.sampled_from([(0, 0, ""), (2, 3, "HIHI")]),
        st.sampled_from([READ, ("alarm", "timeStamp"), (*READ, "display")]),
    ),
    max_size=20,
)  # fmt: skip


def made(value: float, second: int, nanosecond: int, alarm: tuple[int, int, str], marked: Iterable[str]) -> Value:
    update = Value(
        TYPE,
        {
            "value": value,
            "alarm": {"severity": alarm[0], "status": alarm[1], "message": alarm[2]},
            "timeStamp": {"secondsPastEpoch": second, "nanoseconds": nanosecond},
            "display": {"units": "K"},
        },
    )
    update.unmark()
    for field in marked:
        update.mark(field)
    return update


def one_by_one(events: Iterable[Event]) -> list[tuple[Any, ...]]:
    """What matters of each value, whatever event brought it."""
    values = (one for event in events if isinstance(event, (Sample, Numbers)) for one in samples_of(event))
    return [(repr(float(one.value)), one.form, one.t_source, bool(one.bad), int(one.status)) for one in values]


@given(updates)
def test_a_batch_says_what_each_of_its_updates_says(fields: list[Any]) -> None:
    events: list[Event] = []
    scalar_callback("pva://T:x", events.append)([made(*one) for one in fields])
    valued = [one for n, one in enumerate(fields) if n == 0 or "value" in one[4]]
    each = [sample(value, "<f8", second, nanosecond, *alarm[:2]) for value, second, nanosecond, alarm, _ in valued]
    assert one_by_one(events) == one_by_one(each)
    alarms = [(0, 0, ""), *(alarm for *_, alarm, _ in fields)]
    changes = [alarm for before, alarm in pairwise(alarms) if alarm != before]
    assert [event.status for event in events if isinstance(event, Alarm)] == [severity << 16 | status for severity, status, _ in changes]
    assert sum(isinstance(event, Joined) for event in events) == sum(n == 0 or "display" in one[4] for n, one in enumerate(fields))


@given(updates)
def test_numbers_that_stand_next_to_each_other_become_one_block(fields: list[Any]) -> None:
    events: list[Event] = []
    take = scalar_callback("pva://T:x", events.append)
    plain = [made(value, second, nanosecond, (0, 0, ""), READ) for value, second, nanosecond, _, _ in fields]
    for update in plain:
        take([update])
    blocks = [event for event in decoded(events) if isinstance(event, Samples)]
    assert len(blocks) <= 1
    if len(fields) > 1:
        assert repr(blocks[0].values.tolist()) == repr([value for value, *_ in fields[1:]])
        assert blocks[0].values.dtype == np.dtype("<f8")
    assert sum(isinstance(event, Joined) for event in events) == min(len(fields), 1)


def test_a_type_that_cannot_be_read_says_so_for_each_update(caplog: pytest.LogCaptureFixture) -> None:
    events: list[Event] = []
    take = scalar_callback("pva://T:x", events.append)
    odd = Type([("value", "d"), ("alarm", ("S", None, [("worry", "i")]))])
    take([Value(odd, {"value": float(n)}) for n in range(3)])
    assert [type(event).__name__ for event in events if not isinstance(event, Joined)] == ["Spoiled"] * 3
    caplog.clear()


def test_after_a_loss_the_next_update_joins_again() -> None:
    events: list[Event] = []
    take = scalar_callback("pva://T:x", events.append)
    reading = made(1.0, 5, 6, (0, 0, ""), READ)
    take([reading, reading, RuntimeError("gone"), reading, reading])
    assert [type(event) for event in events] == [Joined, Sample, Numbers, Lost, Joined, Sample, Numbers]


async def test_numbers_that_find_no_room_are_counted_one_by_one(monkeypatch: Any) -> None:
    monkeypatch.setattr("adapters.epics.pump.LIMIT", 5)
    sink = RecordingSink()
    stream = RowStream(sink, Stream("line", "x", Kind.ROWS, source_uri="pva://T:x"))
    pump = Pump(asyncio.get_running_loop())
    emit: Callable[[Event], None] = pump.emit(stream)
    take = scalar_callback("pva://T:x", emit)
    take([made(float(n), 5, n, (0, 0, ""), READ) for n in range(3)])  # joins, a sample, two numbers
    take([made(float(n), 5, n, (0, 0, ""), READ) for n in range(3, 10)])
    await pump.flush()
    assert sink.values("x").tolist() == [0.0, 1.0, 2.0]
    assert [(gap.cause, gap.count) for gap in sink.gaps("x")] == [(Cause.OVERLOAD, 7)]
