"""Scalars, enums, arrays and tables over PV Access: what p4p gives becomes events.

Invariants: normative types are read here and not by p4p's wrappers. Numbers that differ from the last one in value and time alone, which
are nearly all, are handed on together (`Numbers`); everything else by itself.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from p4p import Value
from p4p.client.thread import Disconnected

from adapters.epics.events import (
    INVALID,
    TEXT,
    Alarms,
    Behind,
    Description,
    Emit,
    Form,
    Joined,
    Lost,
    Numbers,
    Sample,
    Spoiled,
    Table,
    code,
    sample,
    scalar_form,
    time_ns,
)
from adapters.epics.pva_client import Overrun, Take
from edge_agent.model import utc_now_ns

_TYPES = {
    "?": "|u1", "b": "|i1", "B": "|u1", "h": "<i2", "H": "<u2", "i": "<i4", "I": "<u4", "l": "<i8", "L": "<u8",
    "f": "<f4", "d": "<f8", "s": TEXT,
}  # fmt: skip
"""p4p's type codes; an array has an ``a`` before it."""

_TIME = "timeStamp.secondsPastEpoch", "timeStamp.nanoseconds"
_DISPLAY = ("limitLow", "limitHigh", "description", "format", "precision")

log = logging.getLogger(__name__)


def scalar_callback(uri: str, emit: Emit) -> Take:
    """What `PvaClient.monitor` calls for a PV that becomes rows."""
    return _Rows(uri, emit).take


class _Rows:
    """One PV: how its type is read is decided at each connection, since a server cannot change it in between."""

    def __init__(self, uri: str, emit: Emit) -> None:
        self._uri = uri
        self._emit = emit
        self._layout: Layout | None = None
        self._alarms = Alarms()
        self._form: Form | None = None
        """Of a single number, once one of this connection was understood; None of everything else."""
        self._alarm: tuple[int, int, str] = (0, 0, "")
        """Of the last update that was understood."""

    def take(self, updates: Sequence[Any]) -> None:
        """Take what the client gives. Never raises."""
        alike: list[Any] = []
        for update in updates:
            if self._is_alike(update):
                alike.append(update)
                continue
            self._numbers(alike)
            alike = []
            self._one(update)
        self._numbers(alike)

    def _is_alike(self, update: Any) -> bool:
        """Whether it is a number that says nothing but itself and its time."""
        layout = self._layout
        return (
            layout is not None
            and self._form is not None
            and isinstance(update, Value)
            and bool(update.changed("value"))
            and not (layout.described and update.changed(*layout.described))
            and (not layout.alarm or _alarm(update) == self._alarm)
        )

    def _numbers(self, updates: list[Any]) -> None:
        layout, form = self._layout, self._form
        if not updates or layout is None or form is None:
            return
        seconds, nanoseconds = ([update[field] for update in updates] for field in _TIME) if layout.time else ([0] * len(updates),) * 2
        severity, status, _ = self._alarm
        values = [update[layout.path] for update in updates]
        self._emit(Numbers(values, form, seconds, nanoseconds, utc_now_ns(), severity >= INVALID, code(severity, status)))

    def _one(self, update: Any) -> None:
        try:
            self._understand(update)
        except ValueError as e:
            self._emit(Spoiled(str(e), utc_now_ns()))
        except Exception as e:
            log.exception("%s: an update was not understood", self._uri)
            self._emit(Spoiled(f"{type(e).__name__}: {e}", utc_now_ns()))

    def _understand(self, value: Any) -> None:
        emit = self._emit
        if isinstance(value, Exception):
            if self._layout is not None or not isinstance(value, Disconnected):
                emit(Lost(reason(value), utc_now_ns()))
            self._layout = self._form = None
            return
        if isinstance(value, Overrun):
            now = utc_now_ns()
            emit(Behind(value.since, now, now - value.since))
            return
        layout, joins = self._layout, self._layout is None
        if layout is None:
            layout = layout_of(value)
        if joins or (layout.described and value.changed(*layout.described)):
            emit(Joined(replace(describe(value), uri=f"pva://{self._uri.partition('://')[2]}"), utc_now_ns()))
        self._layout = layout
        converted = convert(value, layout)
        # An update of the alarm alone is no value.
        if joins or value.changed("value"):
            emit(converted)
        known = _alarm(value) if layout.alarm else (0, 0, "")
        alarm = self._alarms.changed(*known, converted.t_source, converted.t_arrival) if layout.alarm else None
        if alarm is not None:
            emit(alarm)
        self._alarm = known
        self._form = None if layout.array else scalar_form(layout.dtype)


def _alarm(value: Any) -> tuple[int, int, str]:
    return value["alarm.severity"], value["alarm.status"], value["alarm.message"]


def reason(error: Exception) -> str:
    """Why a PV went, in words."""
    if isinstance(error, Disconnected):
        return "the server closed the connection or no longer answers"
    return f"{type(error).__name__}: {error}"


def describe(value: Any) -> Description:
    """Type, unit, limits and states from an NTScalar, NTScalarArray or NTEnum."""
    attributes: dict[str, str | int | float] = {}
    unit = ""
    if "display" in value:
        display = value["display"]
        unit = str(display["units"]) if "units" in display else ""
        for name in _DISPLAY:
            if name in display and _worth(display[name]):
                attributes[name] = display[name]
    if is_enum(value):
        for number, state in enumerate(value["value"]["choices"]):
            attributes[f"state_{number}"] = str(state)
    return Description(f"pva {normative_type(value)}", unit, attributes)


def _worth(text: Any) -> bool:
    return (isinstance(text, str) and text != "") or (isinstance(text, (int, float)) and math.isfinite(text))


def normative_type(value: Any) -> str:
    """``NTScalar`` of ``epics:nt/NTScalar:1.0``."""
    return str(value.getID()).rpartition("/")[2].partition(":")[0]


def is_enum(value: Any) -> bool:
    """Whether the value is an index into a list of states."""
    inner = value["value"]
    return hasattr(inner, "getID") and "index" in inner and "choices" in inner


@dataclass(frozen=True, slots=True)
class Layout:
    """How a type is read: where its value is, what that is, and what stands beside it.

    ``described``: the fields that `describe` reads; ``columns``: of a table, with their dtypes.
    """

    path: str
    dtype: str
    array: bool
    alarm: bool
    time: bool
    described: tuple[str, ...] = ()
    columns: tuple[tuple[str, str], ...] = ()


def layout_of(value: Any) -> Layout:
    """The layout of an NTScalar, NTScalarArray, NTEnum or NTTable; raises ValueError on anything else."""
    if "value" not in value:
        raise ValueError(f"{value.getID()} has no value; NTScalar, NTScalarArray, NTEnum, NTTable can be recorded")
    alarm, time = "alarm" in value, "timeStamp" in value
    described = ("display",) if "display" in value else ()
    if is_enum(value):
        return Layout("value.index", "<i4", False, alarm, time, (*described, "value.choices"))
    if normative_type(value) == "NTTable":
        types = value["value"].type()
        columns = tuple((name, _TYPES[types[name][1:]]) for name in types.keys())
        return Layout("value", "", True, alarm, time, described, columns)
    spelled = value.type()["value"]
    element = spelled.removeprefix("a") if isinstance(spelled, str) else ""
    if element not in _TYPES:
        raise ValueError(f"{normative_type(value)} cannot be recorded as rows; NTScalar, NTScalarArray, NTEnum, NTTable can")
    return Layout("value", _TYPES[element], spelled.startswith("a"), alarm, time, described)


def convert(value: Any, layout: Layout) -> Sample | Table:
    """The value, with times and alarm."""
    severity, status = (value["alarm.severity"], value["alarm.status"]) if layout.alarm else (0, 0)
    seconds, nanoseconds = (value[field] for field in _TIME) if layout.time else (0, 0)
    if layout.columns:
        # Copies: an array is a view of what the library received.
        columns = {
            name: (list(value[f"value.{name}"]) if dtype == TEXT else np.array(value[f"value.{name}"], dtype), dtype)
            for name, dtype in layout.columns
        }
        return Table(columns, time_ns(seconds, nanoseconds), utc_now_ns(), severity >= INVALID, code(severity, status))
    plain = value[layout.path]
    if layout.array and layout.dtype != TEXT:
        plain = np.asarray(plain)
    return sample(plain, layout.dtype, seconds, nanoseconds, severity, status)


def stamp(value: Any, field: str) -> tuple[int, int]:
    """Seconds since 1970 and nanoseconds of a ``time_t`` field; zeros without one."""
    if field not in value:
        return 0, 0
    return int(value[field]["secondsPastEpoch"]), int(value[field]["nanoseconds"])
