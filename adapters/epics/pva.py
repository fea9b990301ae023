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
from functools import partial
from typing import Any

import numpy as np
from p4p.client.raw import set_debug
from p4p.client.thread import Context, Disconnected, logLevelOff
from p4p.util import ThreadedWorkQueue

from adapters.epics.config import Address
from adapters.epics.environment import pva_configurations
from adapters.epics.events import TEXT, Description, Emit, Joined, Lost, Sample, Spoiled, sample
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
        self._work = ThreadedWorkQueue(name=f"{instrument} pva", maxsize=0, daemon=True).start()
        self._monitors: list[_Monitor] = []

    def monitor(self, pv: str, callback: Callable[[Any], None], queue: int = QUEUE, *, pipeline: bool = False) -> None:
        """Call back with each p4p Value, and with an exception (`Disconnected` and others) when the PV goes."""
        request = f"record[queueSize={queue}{',pipeline=true' if pipeline else ''}]"
        monitor = _Monitor(pv, callback, request, self._work)
        self._monitors.append(monitor)
        for context in self._contexts:
            monitor.ask(context)

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


class _Monitor:
    """One PV, asked for in one or two ways; the way that brings the first value stays, the other is ended."""

    def __init__(self, pv: str, callback: Callable[[Any], None], request: str, work: ThreadedWorkQueue) -> None:
        self._pv = pv
        self._callback = callback
        self._request = request
        self._work = work
        self._asked: list[Any] = []
        self._chosen: int | None = None

    @property
    def found(self) -> bool:
        """Whether a value came."""
        return self._chosen is not None

    def ask(self, context: Context) -> None:
        """Ask by this way, too."""
        way = len(self._asked)
        update = partial(self._take, way) if way else self._first
        self._asked.append(context.monitor(self._pv, update, request=self._request, notify_disconnect=True, queue=self._work))

    def close(self) -> None:
        """End it."""
        for subscription in self._asked:
            subscription.close()

    def _first(self, value: Any) -> None:
        # The way of nearly every update: as short as can be.
        if self._chosen == 0:
            self._callback(value)
        else:
            self._take(0, value)

    def _take(self, way: int, value: Any) -> None:
        if self._chosen is None and not isinstance(value, Disconnected):
            self._chosen = way
            for n, subscription in enumerate(self._asked):
                if n != way:
                    subscription.close()
        if self._chosen in (None, way):
            self._callback(value)


def scalar_callback(uri: str, emit: Emit) -> Callable[[Any], None]:
    """What `PvaClient.monitor` calls for a PV that becomes rows."""
    joined = False

    def update(value: Any) -> None:
        nonlocal joined
        try:
            if isinstance(value, Exception):
                if joined or not isinstance(value, Disconnected):
                    emit(Lost(reason(value), utc_now_ns()))
                joined = False
                return
            converted = convert(value)
            if not joined or any(field.startswith("display") or field == "value.choices" for field in value.changedSet()):
                emit(Joined(describe(value), utc_now_ns()))
                joined = True
            emit(converted)
        except ValueError as e:
            emit(Spoiled(str(e), utc_now_ns()))
        except Exception as e:
            log.exception("%s: an update was not understood", uri)
            emit(Spoiled(f"{type(e).__name__}: {e}", utc_now_ns()))

    return update


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


def convert(value: Any) -> Sample:
    """A sample from an NTScalar, NTScalarArray or NTEnum; raises ValueError on anything else."""
    if "value" not in value:
        raise ValueError(f"{value.getID()} has no value; NTScalar, NTScalarArray, NTEnum can be recorded")
    if is_enum(value):
        plain, code = value["value"]["index"], "i"
    else:
        plain, code = value["value"], value.type()["value"]
    element = code.removeprefix("a") if isinstance(code, str) else ""
    if element not in _TYPES:
        raise ValueError(f"{normative_type(value)} cannot be recorded as rows; NTScalar, NTScalarArray, NTEnum can")
    if code.startswith("a") and element != "s":
        plain = np.asarray(plain)
    seconds, nanoseconds = stamp(value, "timeStamp")
    severity, status = (value["alarm"]["severity"], value["alarm"]["status"]) if "alarm" in value else (0, 0)
    return sample(plain, _TYPES[element], seconds, nanoseconds, severity, status)


def stamp(value: Any, field: str) -> tuple[int, int]:
    """Seconds since 1970 and nanoseconds of a ``time_t`` field; zeros without one."""
    if field not in value:
        return 0, 0
    return int(value[field]["secondsPastEpoch"]), int(value[field]["nanoseconds"])
