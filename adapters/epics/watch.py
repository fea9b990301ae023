"""One PV as a trigger of runs: its value and source time at each change."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from adapters.epics import auto, ca
from adapters.epics.config import Scheme, parse_address, split_uri
from adapters.epics.events import Event, Lost, Sample, samples_of
from adapters.epics.pva import scalar_callback
from adapters.epics.pva_client import PvaClient
from edge_agent.model import NO_TIME


async def watch(uri: str, *, addresses: Sequence[str] = (), default: Scheme = "ca") -> AsyncIterator[tuple[float | str, int]]:
    """Yield ``(value, UTC ns)`` at each connection and each change, for ever.

    Enums are their number, texts are str, of arrays the first element. The time is the source's, or that of arrival
    where the source gives none. Values that the IOC marks INVALID are left out: they are no reason to start or end a run.

    Args:
        uri: ``ca://BL05:SHUTTER`` or ``pva://BL05:SHUTTER``.
        addresses: as in the configuration of the adapter.
        default: protocol when the URI names none.
    """
    scheme, pv = split_uri(uri, default)
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[Event] = asyncio.Queue()
    where = [parse_address(text) for text in addresses]

    def emit(event: Event) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(events.put_nowait, event)

    async with contextlib.AsyncExitStack() as stack:
        following: asyncio.Future[None] | None = None
        if scheme == "ca":
            following = asyncio.ensure_future(ca.follow(pv, emit, where))
        else:
            client = PvaClient(pv, where)
            stack.push_async_callback(asyncio.to_thread, client.close)
            widening = asyncio.ensure_future(client.widen())
            stack.callback(widening.cancel)
            if scheme == "auto":
                following = asyncio.ensure_future(auto.follow(pv, emit, client, where))
            else:
                client.monitor(pv, scalar_callback(uri, emit))
        if following is not None:
            stack.callback(following.cancel)
            following.add_done_callback(lambda done: emit(Lost("the watch ended", 0)) if not done.cancelled() else None)
        while True:
            event = await events.get()
            if following is not None and following.done():
                following.result()
            for one in samples_of(event):
                value = None if one.bad else _plain(one)
                if value is not None:
                    yield value, one.t_source if one.t_source != NO_TIME else one.t_arrival


def _plain(sample: Sample) -> float | str | None:
    value = sample.value
    if sample.form.shape:
        if not len(value):
            return None
        value = value[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else float(value)
