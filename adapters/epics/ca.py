"""One PV over Channel Access (aioca): connects, describes, monitors, and begins afresh after each loss.

Invariants: all updates are taken, none merged. Runs on the loop's thread, but for the updates themselves (`ca_updates`), which are emitted
in libca's. aioca is imported late: `environment` must speak first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from typing import Any

from adapters.epics.config import Address
from adapters.epics.environment import channel_access, where
from adapters.epics.events import Description, Emit, Event, Joined, Lost
from edge_agent.model import utc_now_ns

CONNECT_SECONDS = 5.0
READ_SECONDS = 5.0
DESCRIPTION_SECONDS = 1.0
AGAIN_SECONDS = 0.5

_TYPES = ("STRING", "SHORT", "FLOAT", "ENUM", "CHAR", "LONG", "DOUBLE")
"""DBR types by number (EPICS db_access.h)."""

_LIMITS = (
    "upper_disp_limit", "lower_disp_limit", "upper_alarm_limit", "upper_warning_limit", "lower_warning_limit", "lower_alarm_limit",
    "upper_ctrl_limit", "lower_ctrl_limit", "precision",
)  # fmt: skip

log = logging.getLogger(__name__)


async def follow(pv: str, emit: Emit, addresses: list[Address]) -> None:
    """Report the PV for ever; returns only when cancelled."""
    channel_access.add(addresses)
    with channel_access.in_use():
        await _follow(pv, emit, addresses)


async def _follow(pv: str, emit: Emit, addresses: list[Address]) -> None:
    import aioca
    from epicscorelibs.ca import cadef

    told = False
    while True:
        try:
            await aioca.connect(pv, timeout=None if told else CONNECT_SECONDS)
            description = await describe(pv)
        except (aioca.CANothing, cadef.CAException, cadef.Disconnected) as e:
            if not told:
                log.debug("%s", e)
                refused = getattr(e, "status", getattr(e, "errorcode", cadef.ECA_DISCONN)) not in (cadef.ECA_TIMEOUT, cadef.ECA_DISCONN)
                emit(Lost(f"it cannot be read: {e}" if refused else f"nobody answered for it {where(addresses, 'ca')}", utc_now_ns()))
            told = True
            # Whoever is connected and may not read is refused at once.
            await asyncio.sleep(AGAIN_SECONDS)
            continue
        emit(Joined(description, utc_now_ns()))
        told = True  # what follows reports its own end
        await _monitor(pv, emit)


async def describe(pv: str) -> Description:
    """Read type, unit, limits and states of a connected PV; raises aioca.CANothing."""
    import aioca

    info = await aioca.cainfo(pv, timeout=READ_SECONDS)
    kind = _TYPES[info.datatype] if 0 <= info.datatype < len(_TYPES) else "UNKNOWN"
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
    from epicscorelibs.ca import cadef

    from adapters.epics.ca_updates import Updates

    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    described: set[asyncio.Task[None]] = set()

    def report(event: Event) -> None:
        emit(event)
        if isinstance(event, Lost) and not loop.is_closed():
            loop.call_soon_threadsafe(over.set)

    async def describe_again() -> None:
        with contextlib.suppress(aioca.CANothing, cadef.CAException, cadef.Disconnected):
            emit(Joined(await describe(pv), utc_now_ns()))

    told = False

    def changed(value: Any) -> None:
        # Unit, precision, limits or states; the first one comes with the subscription and says nothing new.
        nonlocal told
        if isinstance(value, aioca.CANothing):
            if not over.is_set():
                report(Lost("the IOC closed the connection or no longer answers", utc_now_ns()))
            return
        first, told = not told, True
        if not first:
            task = asyncio.ensure_future(describe_again())
            described.add(task)
            task.add_done_callback(described.discard)

    properties = aioca.camonitor(pv, changed, events=aioca.DBE_PROPERTY, format=aioca.FORMAT_CTRL, all_updates=True, notify_disconnect=True)
    updates: Updates | None = None
    try:
        try:
            updates = Updates(pv, properties.channel, report)
        except (ValueError, cadef.Disconnected) as e:
            emit(Lost(str(e), utc_now_ns()))
        else:
            await over.wait()
    finally:
        if updates is not None:
            updates.close()
        properties.close()
        for task in list(described):
            task.cancel()
    await asyncio.sleep(AGAIN_SECONDS if updates is None else 0)
