"""The updates of one connected PV, as libca hands them over: kept as bytes in its thread, decoded many at a time by whoever delivers them.

What a client library does for a single value (ctypes overlays, an object with attributes, a turn of the loop) costs 40 us, and several
10 000 updates a second then leave no time for anything else. Here an update costs its copy; a block is decoded by numpy.

Invariants: each update is emitted, in order; times are the IOC's seconds and nanoseconds, never a float. Made and closed on the loop's
thread, to which aioca attached libca. Layouts: DBR_TIME_xxx of EPICS Base's db_access.h, as epicscorelibs overlays them.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
from epicscorelibs.ca import cadef, dbr

from adapters.epics.backlog import STEP_NS, STOPS_AT, intake
from adapters.epics.events import (
    EPICS_EPOCH,
    INVALID,
    NS,
    TEXT,
    Alarm,
    Alarms,
    Behind,
    Emit,
    Form,
    Lost,
    Raw,
    Samples,
    Spoiled,
    encode_text,
)
from edge_agent.model import NO_TIME, utc_now_ns

_STATUS = (
    "", "READ", "WRITE", "HIHI", "HIGH", "LOLO", "LOW", "STATE", "COS", "COMM", "TIMEOUT", "HWLIMIT", "CALC", "SCAN", "LINK", "SOFT",
    "BAD_SUB", "UDF", "DISABLE", "SIMM", "READ_ACCESS", "WRITE_ACCESS",
)  # fmt: skip
"""Alarm status by number (EPICS alarm.h)."""

_TIME_TYPES = (
    dbr.dbr_time_string, dbr.dbr_time_short, dbr.dbr_time_float, dbr.dbr_time_enum, dbr.dbr_time_char, dbr.dbr_time_long,
    dbr.dbr_time_double,
)  # fmt: skip
"""By the number of the native type; `DBR_TIME_STRING` is the first of them."""

DBR_CHAR = 4
MESSAGE_HEADER = 16
DECLARE_NS = 2_000_000_000
AFTER_NS = 500_000_000
"""Values of one delivery and the next come so far apart at most."""
DBR_TIME_STRING = 14
_HEADER = [("status", "=u2"), ("severity", "=u2"), ("seconds", "=u4"), ("nanoseconds", "=u4")]

log = logging.getLogger(__name__)

_open: set[Updates] = set()
"""libca holds a bare pointer to each: they must live until it has let go."""


class Updates:
    """A subscription to ``channel`` (aioca's), which is connected. ``emit`` is called from libca's thread.

    Raises:
        ValueError: the PV has a type that Channel Access does not have.
        cadef.Disconnected: the connection was lost meanwhile.
    """

    def __init__(self, pv: str, channel: Any, emit: Emit) -> None:
        native = cadef.ca_field_type(channel)
        if not 0 <= native < len(_TIME_TYPES):
            raise ValueError(f"DBR type {native} is not known")
        self._pv = pv
        self._emit = emit
        # EPICS's long strings: an array of characters, when it is asked for with a $ at the end.
        self._long = native == DBR_CHAR and pv.endswith("$")
        self._scalar = cadef.ca_element_count(channel) == 1
        self._offset = _TIME_TYPES[native].raw_value.offset
        self._element = np.dtype(_TIME_TYPES[native].dtype)
        self._alarms = Alarms()
        self._code = 0
        self._least: int | None = None
        self._begun = False
        self._behind: Behind | None = None
        self._server = str(cadef.ca_host_name(channel))
        event_id, mask = ctypes.c_void_p(), cadef.DBE_VALUE | cadef.DBE_ALARM
        _open.add(self)
        cadef.ca_create_subscription(DBR_TIME_STRING + native, 0, channel, mask, _on_event, ctypes.py_object(self), ctypes.byref(event_id))
        self._event_id = event_id.value
        cadef.ca_flush_io()

    def close(self) -> None:
        """No update is emitted any more; returns after the one that is being handed over."""
        if self in _open:
            self._emit = _forget
            cadef.ca_clear_subscription(self._event_id)
            cadef.ca_flush_io()
            _open.discard(self)

    def received(self, args: Any) -> None:
        """Take one update from libca's thread. Never raises: ctypes would only print it."""
        try:
            if args.status == cadef.ECA_NORMAL:
                data = ctypes.string_at(args.raw_dbr, self._offset + args.count * self._element.itemsize)
                now = time.time_ns()
                intake.took(len(data) + MESSAGE_HEADER, now)
                self._emit(Raw(data, now, self))
            else:
                # The IOC took the right to read away; it says so at each subscription.
                self._emit(Lost(f"it cannot be read: {cadef.ca_message(args.status)}", utc_now_ns()))
        except Exception as e:
            log.exception("ca://%s: an update was not understood", self._pv)
            self._emit(Spoiled(f"{type(e).__name__}: {e}", utc_now_ns()))

    def decode(self, updates: Sequence[Raw]) -> Iterator[Samples | Alarm | Behind]:
        """Values of one length as one block, then the changes of their alarm; then what the server may have left out."""
        for size, run in groupby(updates, lambda update: len(update.data)):
            yield from self._decode(list(run), (size - self._offset) // self._element.itemsize)

    def _decode(self, updates: list[Raw], count: int) -> Iterator[Samples | Alarm | Behind]:
        layout = np.dtype(
            {
                "names": [*(name for name, _ in _HEADER), "value"],
                "formats": [*(kind for _, kind in _HEADER), (self._element, (count,))],
                "offsets": [0, 2, 4, 8, self._offset],
                "itemsize": self._offset + count * self._element.itemsize,
            }
        )
        raw = np.frombuffer(b"".join(update.data for update in updates), layout)
        t_arrival = np.array([update.t_arrival for update in updates], np.int64)
        t_source = (raw["seconds"].astype(np.int64) + EPICS_EPOCH) * NS + raw["nanoseconds"]
        t_source[t_source == EPICS_EPOCH * NS] = NO_TIME
        status = raw["severity"].astype(np.uint32) << 16 | raw["status"]
        values, form, cut = self._values(raw["value"])
        bad = raw["severity"] >= INVALID
        if values.dtype.kind == "f" and values[0].size:
            bad = bad | np.isnan(values.reshape(len(values), -1)).all(axis=1)
        yield Samples(values, form, t_source, t_arrival, bad, status, t_arrival[cut].tolist())
        changed = np.flatnonzero(status != np.concatenate((np.array([self._code], np.uint32), status[:-1])))
        self._code = int(status[-1])
        for i in changed.tolist():
            severity, number = divmod(int(status[i]), 1 << 16)
            message = _STATUS[number] if number < len(_STATUS) else str(number)
            alarm = self._alarms.changed(severity, number, message, int(t_source[i]), int(t_arrival[i]))
            if alarm is not None:
                yield alarm

        yield from self._backlog(t_source, t_arrival)

    def _backlog(self, t_source: npt.NDArray[np.int64], t_arrival: npt.NDArray[np.int64]) -> Iterator[Behind]:
        """Declared as one as long as it lasts, but not later than after `DECLARE_NS`."""
        # The first value of a subscription is as old as its record.
        timed = np.flatnonzero(t_source != NO_TIME)[0 if self._begun else 1 :]
        self._begun = True
        if not timed.size:
            return
        late = t_arrival[timed] - t_source[timed]
        self._least = int(late.min()) if self._least is None else min(self._least, int(late.min()))
        worst = int(late.argmax())
        t, late_ns, until = int(t_arrival[timed[worst]]), int(late[worst]) - self._least, int(t_arrival[-1])
        now = Behind(t - late_ns, until, late_ns) if late_ns > STEP_NS and intake.before(t - late_ns, t) >= STOPS_AT else None
        if now is not None:
            intake.stopped[self._server] = now.t_from, now.t_to, now.late_ns
        elif (known := intake.stopped.get(self._server)) and known[0] <= until and known[1] >= int(t_arrival[0]) - AFTER_NS:
            now = Behind(known[0], until, known[2])
        before, self._behind = self._behind, now
        if before is not None:
            # What was left out stands between the last that came late and the next.
            since = before if now is None else Behind(min(before.t_from, now.t_from), until, max(before.late_ns, now.late_ns))
            if now is None or until - since.t_from >= DECLARE_NS:
                self._behind = None
                yield Behind(since.t_from, until, since.late_ns)
            else:
                self._behind = since

    def _values(self, raw: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Form, list[int]]:
        """``(n, count)`` as they stand in the bytes; the values, what they are, and the numbers of those that were cut."""
        if raw.dtype.kind == "S" or self._long:
            texts = [[_text(row.tobytes())] for row in raw] if self._long else [[_text(each) for each in row] for row in raw.tolist()]
            one = self._scalar or self._long
            coded = [[encode_text(text) for text in row] for row in texts]
            kept = np.array([[data for data, _ in row] for row in coded], TEXT).reshape(len(raw), -1)
            cut = [i for i, row in enumerate(coded) if any(long for _, long in row)]
            return (kept[:, 0], Form(TEXT), cut) if one else (kept, Form(TEXT, kept.shape[1:]), cut)
        values = np.ascontiguousarray(raw[:, 0] if self._scalar else raw)
        return values, Form(_spelled(raw.dtype), values.shape[1:]), []


def _spelled(dtype: np.dtype[Any]) -> str:
    return dtype.newbyteorder("<").str


def _text(data: bytes) -> str:
    """Up to the first zero byte: what stands behind it is left over from longer ones."""
    return data.partition(b"\0")[0].decode("utf-8", "replace")


def _forget(event: object) -> None:
    """Closed."""


_thread = threading.local()


def _keep_thread_state() -> None:
    """Have Python know the calling thread of libca as long as it lives.

    Otherwise ctypes makes and deletes a thread state for each update (PyGILState_Ensure of Python's C API), which costs as much as all the
    rest, and the lock that goes with a deleted state is not offered to those who wait: a busy IOC would starve the loop.
    """
    ctypes.pythonapi.PyGILState_Ensure()
    _thread.kept = True


@cadef.event_handler  # type: ignore[untyped-decorator]
def _on_event(args: Any) -> None:
    if not hasattr(_thread, "kept"):
        _keep_thread_state()
    args.usr.received(args)
