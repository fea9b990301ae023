"""Scalars, enums and arrays over PV Access (p4p): one client per instrument.

Invariants: normative types are read here and not by p4p's wrappers; plain ``queueSize``, no pipelining (it has taken
servers down); a callback never raises, since p4p would close its subscription for good and only log it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from p4p.client.raw import set_debug
from p4p.client.thread import Context, Disconnected, logLevelOff

from adapters.epics.callbacks import Callbacks
from adapters.epics.config import Address
from adapters.epics.environment import pva_configurations
from adapters.epics.events import (
    INVALID,
    TEXT,
    Alarms,
    Behind,
    Description,
    Emit,
    Joined,
    Lost,
    Sample,
    Spoiled,
    Table,
    code,
    sample,
    time_ns,
)
from edge_agent.model import utc_now_ns

_TYPES = {
    "?": "|u1", "b": "|i1", "B": "|u1", "h": "<i2", "H": "<u2", "i": "<i4", "I": "<u4", "l": "<i8", "L": "<u8",
    "f": "<f4", "d": "<f8", "s": TEXT,
}  # fmt: skip
"""p4p's type codes; an array has an ``a`` before it."""

_DISPLAY = ("limitLow", "limitHigh", "description", "format", "precision")

QUEUE = 100
"""Updates that wait in the client while we are busy, unless something else is configured."""

SEARCH_SECONDS = 1.5
"""How long a PV is looked for by UDP alone."""

log = logging.getLogger(__name__)


class PvaClient:
    """A PV Access client with one thread that runs all its callbacks, so that they keep their order."""

    def __init__(self, instrument: str, addresses: list[Address]) -> None:
        if "PVXS_LOG" not in os.environ:
            # It prints past Python's logging, every ten seconds while a server is away; we report that once.
            set_debug("pvxs.tcp.*", logLevelOff)
        found = pva_configurations(addresses)
        conf = found[0] if found else None
        self._fallback = found[1] if found else None
        self._contexts = [Context("pva", conf=conf, useenv=conf is None, nt=False)]
        self._work = Callbacks(f"{instrument} pva")
        self._monitors: list[Monitor] = []

    def monitor(
        self, pv: str, callback: Callable[[Any], None], queue: int = QUEUE, *, pipeline: bool = False, overruns: bool = False
    ) -> Monitor:
        """Call back with each p4p Value, and with an exception (`Disconnected` and others) when the PV goes.

        ``overruns``: with an `Overrun` too, where the updates have no number that would show it.
        """
        request = f"record[queueSize={queue}{',pipeline=true' if pipeline else ''}]"
        monitor = Monitor(pv, callback, request, self._work, queue if overruns and not pipeline else 0)
        self._monitors.append(monitor)
        for context in self._contexts:
            monitor.ask(context)
        return monitor

    async def widen(self) -> None:
        """After `SEARCH_SECONDS`: ask for what UDP did not find by TCP, where addresses were given."""
        await asyncio.sleep(SEARCH_SECONDS)
        if self._fallback is None or all(monitor.found for monitor in self._monitors):
            return
        context = Context("pva", conf=self._fallback, useenv=False, nt=False)
        self._contexts.append(context)
        for monitor in self._monitors:
            if not monitor.found:
                monitor.ask(context)

    def read(self, pvs: list[str], timeout: float) -> list[Any]:
        """Values of several PVs, an exception for each that does not answer; blocks up to ``timeout`` s, twice where TCP is asked."""
        values: list[Any] = [TimeoutError()] * len(pvs)
        for context in list(self._contexts):
            missing = [n for n, value in enumerate(values) if isinstance(value, Exception)]
            for n, value in zip(missing, context.get([pvs[n] for n in missing], timeout=timeout, throw=False), strict=True):
                values[n] = value
            if not any(isinstance(value, Exception) for value in values):
                break
        return values

    def close(self) -> None:
        """Stop all callbacks and disconnect; blocks until a running callback has returned."""
        for monitor in self._monitors:
            monitor.close()
        self._work.stop()
        for context in self._contexts:
            context.close()


@dataclass(frozen=True, slots=True)
class Overrun:
    """p4p's queue may have been full at some time after ``since`` (UTC ns): then it merged what came into its last update."""

    since: int


class _Round:
    """The ``queue`` of one subscription: p4p's own thread comes for what arrived in an empty one, ours for what is left in it."""

    def __init__(self, work: Callbacks, begins: Callable[[], None]) -> None:
        self._work = work
        self._begins = begins
        self.push_wait = work.push

    def push(self, job: Callable[[], None]) -> None:
        if not self._work.is_current():
            self._begins()
        self._work.push(job)


class Monitor:
    """One PV, asked for in one or two ways; the way that brings the first value stays, the other is ended.

    p4p says nothing of a queue that overflowed. But while less than ``size`` updates were taken out of it since it was empty, it never
    held ``size`` of them. A PV that comes faster than it is taken is therefore told to be in doubt although nothing may be missing.
    """

    def __init__(self, pv: str, callback: Callable[[Any], None], request: str, work: Callbacks, size: int = 0) -> None:
        """``size`` of the queue, 0 where nobody wants to know of an `Overrun`."""
        self._size = size
        self._taken = 0
        self._since = 0
        self._pv = pv
        self._callback = callback
        self._request = request
        self._work = work
        self._asked: list[Any] = []
        self._chosen: int | None = None
        self._ended = False

    @property
    def found(self) -> bool:
        """Whether a value came, or nobody asks any more."""
        return self._ended or self._chosen is not None

    def ask(self, context: Context) -> None:
        """Ask by this way, too."""
        if self._ended:
            return
        way = len(self._asked)
        update = partial(self._take, way) if way else self._first
        queue = _Round(self._work, partial(self._begins, way)) if self._size else self._work
        self._asked.append(context.monitor(self._pv, update, request=self._request, notify_disconnect=True, queue=queue))

    def close(self) -> None:
        """End it; blocks until a running callback has returned."""
        self._ended = True
        for subscription in self._asked:
            subscription.close()

    def _first(self, value: Any) -> None:
        # The way of nearly every update: as short as can be.
        if self._chosen == 0:
            self._deliver(value)
        else:
            self._take(0, value)

    def _take(self, way: int, value: Any) -> None:
        if self._chosen is None and not isinstance(value, Disconnected):
            self._chosen = way
            for n, subscription in enumerate(self._asked):
                if n != way:
                    subscription.close()
        if self._chosen in (None, way):
            self._deliver(value)

    def _deliver(self, value: Any) -> None:
        self._callback(value)
        if self._size:
            self._taken += 1
            if self._taken >= self._size:
                since, self._taken, self._since = self._since, 0, utc_now_ns()
                self._callback(Overrun(since))

    def _begins(self, way: int) -> None:
        """The queue was empty and is not any more."""
        if self._chosen in (None, way):
            self._taken, self._since = 0, utc_now_ns()


def scalar_callback(uri: str, emit: Emit) -> Callable[[Any], None]:
    """What `PvaClient.monitor` calls for a PV that becomes rows."""
    return _Rows(uri, emit).update


class _Rows:
    """One PV: how its type is read is decided at each connection, since a server cannot change it in between."""

    def __init__(self, uri: str, emit: Emit) -> None:
        self._uri = uri
        self._emit = emit
        self._layout: Layout | None = None
        self._alarms = Alarms()

    def update(self, value: Any) -> None:
        """Take what p4p gives. Never raises."""
        try:
            self._take(value)
        except ValueError as e:
            self._emit(Spoiled(str(e), utc_now_ns()))
        except Exception as e:
            log.exception("%s: an update was not understood", self._uri)
            self._emit(Spoiled(f"{type(e).__name__}: {e}", utc_now_ns()))

    def _take(self, value: Any) -> None:
        emit = self._emit
        if isinstance(value, Exception):
            if self._layout is not None or not isinstance(value, Disconnected):
                emit(Lost(reason(value), utc_now_ns()))
            self._layout = None
            return
        if isinstance(value, Overrun):
            now = utc_now_ns()
            emit(Behind(value.since, now, now - value.since))
            return
        changed = value.changedSet()
        layout, joins = self._layout, self._layout is None
        if layout is None:
            layout = layout_of(value)
        if joins or any(field.startswith("display") or field == "value.choices" for field in changed):
            emit(Joined(replace(describe(value), uri=f"pva://{self._uri.partition('://')[2]}"), utc_now_ns()))
        self._layout = layout
        converted = convert(value, layout)
        # An update of the alarm alone is no value.
        if joins or any(field.startswith("value") for field in changed):
            emit(converted)
        if layout.alarm and (joins or any(field.startswith("alarm") for field in changed)):
            known = value["alarm.severity"], value["alarm.status"], value["alarm.message"]
            alarm = self._alarms.changed(*known, converted.t_source, converted.t_arrival)
            if alarm is not None:
                emit(alarm)


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
    """How a type is read: where its value is, what that is, and what stands beside it. ``columns``: of a table, with their dtypes."""

    path: str
    dtype: str
    array: bool
    alarm: bool
    time: bool
    columns: tuple[tuple[str, str], ...] = ()


def layout_of(value: Any) -> Layout:
    """The layout of an NTScalar, NTScalarArray, NTEnum or NTTable; raises ValueError on anything else."""
    if "value" not in value:
        raise ValueError(f"{value.getID()} has no value; NTScalar, NTScalarArray, NTEnum, NTTable can be recorded")
    beside = "alarm" in value, "timeStamp" in value
    if is_enum(value):
        return Layout("value.index", "<i4", False, *beside)
    if normative_type(value) == "NTTable":
        types = value["value"].type()
        columns = tuple((name, _TYPES[types[name][1:]]) for name in types.keys())
        return Layout("value", "", True, *beside, columns)
    spelled = value.type()["value"]
    element = spelled.removeprefix("a") if isinstance(spelled, str) else ""
    if element not in _TYPES:
        raise ValueError(f"{normative_type(value)} cannot be recorded as rows; NTScalar, NTScalarArray, NTEnum, NTTable can")
    return Layout("value", _TYPES[element], spelled.startswith("a"), *beside)


def convert(value: Any, layout: Layout) -> Sample | Table:
    """The value, with times and alarm."""
    severity, status = (value["alarm.severity"], value["alarm.status"]) if layout.alarm else (0, 0)
    seconds, nanoseconds = (value["timeStamp.secondsPastEpoch"], value["timeStamp.nanoseconds"]) if layout.time else (0, 0)
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
