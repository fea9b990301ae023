"""One PV over Channel Access (aioca): connects, describes, monitors, and begins afresh after each loss.

Invariants: all updates are taken, none merged; times are the IOC's seconds and nanoseconds, never a float. Runs on the
loop's thread; libca's own threads stay inside aioca. aioca is imported late: `environment` must speak first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from typing import Any

from adapters.epics.config import Address
from adapters.epics.environment import channel_access, where
from adapters.epics.events import TEXT, Alarms, Description, Emit, Joined, Lost, Sample, Spoiled, sample
from edge_agent.model import utc_now_ns

CONNECT_SECONDS = 5.0
READ_SECONDS = 5.0
DESCRIPTION_SECONDS = 1.0

_TYPES = {
    0: ("STRING", TEXT),
    1: ("SHORT", "<i2"),
    2: ("FLOAT", "<f4"),
    3: ("ENUM", "<u2"),
    4: ("CHAR", "|u1"),
    5: ("LONG", "<i4"),
    6: ("DOUBLE", "<f8"),
}
"""DBR types by number (EPICS db_access.h)."""

_LIMITS = (
    "upper_disp_limit", "lower_disp_limit", "upper_alarm_limit", "upper_warning_limit", "lower_warning_limit", "lower_alarm_limit",
    "upper_ctrl_limit", "lower_ctrl_limit", "precision",
)  # fmt: skip

_STATUS = (
    "", "READ", "WRITE", "HIHI", "HIGH", "LOLO", "LOW", "STATE", "COS", "COMM", "TIMEOUT", "HWLIMIT", "CALC", "SCAN", "LINK", "SOFT",
    "BAD_SUB", "UDF", "DISABLE", "SIMM", "READ_ACCESS", "WRITE_ACCESS",
)  # fmt: skip
"""Alarm status by number (EPICS alarm.h)."""

log = logging.getLogger(__name__)


async def follow(pv: str, emit: Emit, addresses: list[Address]) -> None:
    """Report the PV for ever; returns only when cancelled."""
    channel_access.add(addresses)
    with channel_access.in_use():
        await _follow(pv, emit, addresses)


async def _follow(pv: str, emit: Emit, addresses: list[Address]) -> None:
    import aioca

    told = False
    while True:
        try:
            await aioca.connect(pv, timeout=None if told else CONNECT_SECONDS)
            description = await describe(pv)
        except aioca.CANothing as e:
            if not told:
                log.debug("%s", e)
                emit(Lost(f"nobody answered for it {where(addresses, 'ca')}", utc_now_ns()))
            told = True
            continue
        emit(Joined(description, utc_now_ns()))
        told = True  # what follows reports its own end
        await _monitor(pv, emit)


async def describe(pv: str) -> Description:
    """Read type, unit, limits and states of a connected PV; raises aioca.CANothing."""
    import aioca

    info = await aioca.cainfo(pv, timeout=READ_SECONDS)
    kind, _ = _TYPES.get(info.datatype, ("UNKNOWN", ""))
    control: Any = await aioca.caget(pv, format=aioca.FORMAT_CTRL, timeout=READ_SECONDS)
    attributes: dict[str, str | int | float] = {}
    for name in _LIMITS:
        limit = getattr(control, name, None)
        if isinstance(limit, (int, float)) and math.isfinite(limit):
            attributes[name] = limit
    for number, state in enumerate(getattr(control, "enums", ())):
        attributes[f"state_{number}"] = str(state)
    attributes["host"] = str(info.host)
    if "." not in pv:
        # The record's description is a PV of its own; servers that are no IOC do not have it.
        text = await aioca.caget(f"{pv}.DESC", timeout=DESCRIPTION_SECONDS, throw=False)
        if text.ok and str(text):
            attributes["description"] = str(text)
    return Description(f"ca {kind}", str(getattr(control, "units", "")), attributes, f"ca://{pv}")


async def _monitor(pv: str, emit: Emit) -> None:
    """Report updates until the connection is lost."""
    import aioca

    over = asyncio.Event()
    alarms = Alarms()
    described: set[asyncio.Task[None]] = set()

    async def describe_again() -> None:
        with contextlib.suppress(aioca.CANothing):
            emit(Joined(await describe(pv), utc_now_ns()))

    told = False

    def changed(value: Any) -> None:
        # Unit, precision, limits or states; the first one comes with the subscription and says nothing new.
        nonlocal told
        first, told = not told, True
        if not first and not isinstance(value, aioca.CANothing):
            task = asyncio.ensure_future(describe_again())
            described.add(task)
            task.add_done_callback(described.discard)

    def update(value: Any) -> None:
        # An exception here would close the subscription for good and only be printed.
        try:
            if isinstance(value, aioca.CANothing):
                if not over.is_set():
                    emit(Lost("the IOC closed the connection or no longer answers", utc_now_ns()))
                over.set()
            else:
                converted = convert(value)
                emit(converted)
                severity, status = value.severity, value.status
                message = _STATUS[status] if status < len(_STATUS) else str(status)
                alarm = alarms.changed(severity, status, message, converted.t_source, converted.t_arrival)
                if alarm is not None:
                    emit(alarm)
        except Exception as e:
            log.exception("ca://%s: an update was not understood", pv)
            emit(Spoiled(f"{type(e).__name__}: {e}", utc_now_ns()))

    subscription = aioca.camonitor(pv, update, format=aioca.FORMAT_TIME, all_updates=True, notify_disconnect=True)
    properties = aioca.camonitor(pv, changed, events=aioca.DBE_PROPERTY, format=aioca.FORMAT_CTRL, all_updates=True)
    try:
        await over.wait()
    finally:
        subscription.close()
        properties.close()
        for task in list(described):
            task.cancel()


def convert(value: Any) -> Sample:
    """A sample from what aioca gives with FORMAT_TIME; raises ValueError on a type that Channel Access does not have."""
    kind = _TYPES.get(value.datatype)
    if kind is None:
        raise ValueError(f"DBR type {value.datatype} is not known")
    seconds, nanoseconds = value.raw_stamp
    plain = +value
    if kind[1] == TEXT and not isinstance(plain, str):
        plain = [str(text) for text in plain]
    return sample(plain, kind[1], seconds, nanoseconds, value.severity, value.status)
