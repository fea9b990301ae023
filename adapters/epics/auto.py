"""One PV by the protocol that answers: PV Access first, Channel Access when that brought nothing for a moment.

Invariant: the first protocol that brings the PV is kept, so that its type does not change; the head start makes it the same one at the
next start of the agent.
"""

from __future__ import annotations

import asyncio

from adapters.epics import ca
from adapters.epics.config import Address
from adapters.epics.environment import where
from adapters.epics.events import Emit, Event, Lost
from adapters.epics.pva import scalar_callback
from adapters.epics.pva_client import QUEUE, PvaClient
from edge_agent.model import utc_now_ns

HEAD_START_SECONDS = 2.5
"""A little more than `pva_client.SEARCH_SECONDS`: time to be found by search and as a name server."""


async def follow(pv: str, emit: Emit, client: PvaClient, addresses: list[Address], queue: int = QUEUE, *, pipeline: bool = False) -> None:
    """Report the PV for ever; returns only when cancelled. ``emit`` may be called from any thread."""
    loop = asyncio.get_running_loop()
    answered = asyncio.Event()
    chosen = ""

    def by(scheme: str, event: Event) -> None:
        nonlocal chosen
        if not chosen and not isinstance(event, Lost):
            chosen = scheme
            if not loop.is_closed():
                loop.call_soon_threadsafe(answered.set)
        if chosen == scheme:
            emit(event)

    callback = scalar_callback(f"pva://{pv}", lambda event: by("pva", event))
    monitor = client.monitor(pv, callback, queue, pipeline=pipeline, overruns=True)
    try:
        async with asyncio.timeout(HEAD_START_SECONDS):
            await answered.wait()
    except TimeoutError:
        pass
    if chosen == "pva":
        await asyncio.Event().wait()
    following = asyncio.ensure_future(ca.follow(pv, lambda event: by("ca", event), addresses))
    try:
        try:
            async with asyncio.timeout(ca.CONNECT_SECONDS):
                await answered.wait()
        except TimeoutError:
            emit(Lost(f"nobody answered for it, neither {where(addresses, 'pva')} nor {where(addresses, 'ca')}", utc_now_ns()))
            await answered.wait()
        if chosen == "ca":
            await asyncio.to_thread(monitor.close)
            await following
        else:
            following.cancel()
            await asyncio.Event().wait()
    finally:
        following.cancel()
