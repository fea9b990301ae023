"""Carries events from any thread to the row streams on the loop, and keeps their number in bounds.

Invariants: events of one PV stay in order; the first that comes after a pause is delivered at once, what comes within `GATHER_SECONDS`
after that as one batch per PV, since a block of rows costs as much as a single one; when the recorder is so far behind that `LIMIT`
events or `LIMIT_BYTES` wait, further samples are counted and declared as a gap, never forgotten. The loop is left to others after
`TURN_SECONDS` of work, and for `RESTS` times as long as a whole delivery took, at most `REST_SECONDS`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from dataclasses import dataclass

import numpy as np

from adapters.epics.events import Emit, Event, Numbers, Raw, Sample
from adapters.epics.rows import RowStream
from edge_agent.model import utc_now_ns

LIMIT = 200_000
LIMIT_BYTES = 64 * 2**20
GATHER_SECONDS = 0.2
TURN_SECONDS = 0.005
RESTS = 4
"""A delivery costs as much for many events of a PV as for few: seldom is cheaper, and the other threads need the interpreter too."""
REST_SECONDS = 1.0
"""A first delivery makes the groups of all PVs and may take seconds: what comes meanwhile need not wait as long again."""


@dataclass(slots=True)
class _Refused:
    count: int
    t_from: int
    t_to: int


class Pump:
    """One an instrument. ``emit(stream)`` gives the function that a follower calls; `run` delivers."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._bytes = self._count = 0
        self._waiting: deque[tuple[RowStream, Event]] = deque()
        self._refused: dict[RowStream, _Refused] = {}
        self._lock = threading.Lock()
        self._wake = asyncio.Event()
        self._signalled = False

    def emit(self, stream: RowStream) -> Emit:
        """A function that takes the events of one PV; call it from any thread."""

        def take(event: Event) -> None:
            size, count = _size(event), len(event.values) if isinstance(event, Numbers) else 1
            with self._lock:
                full = self._count + count > LIMIT or self._bytes + size > LIMIT_BYTES
                if full and isinstance(event, (Raw, Sample, Numbers)):
                    refused = self._refused.setdefault(stream, _Refused(0, event.t_arrival, 0))
                    refused.count += count
                    refused.t_to = event.t_arrival
                else:
                    self._waiting.append((stream, event))
                    self._count += count
                    self._bytes += size
                wake, self._signalled = not self._signalled, True
            if wake and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._wake.set)

        return take

    async def run(self) -> None:
        """Deliver for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            began = time.monotonic()
            await self.flush()
            await asyncio.sleep(min(max(GATHER_SECONDS, RESTS * (time.monotonic() - began)), REST_SECONDS))

    async def flush(self) -> None:
        """Deliver what waits now."""
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
            refused, self._refused = self._refused, {}
            self._bytes = self._count = 0
            self._signalled = False
        batches: dict[RowStream, list[Event]] = {}
        for stream, event in waiting:
            batches.setdefault(stream, []).append(event)
        began = time.monotonic()
        for stream, events in batches.items():
            await stream.take(events)
            if time.monotonic() - began > TURN_SECONDS:
                await asyncio.sleep(0)
                began = time.monotonic()
        for stream, one in refused.items():
            stream.missed(one.count, one.t_from, one.t_to or utc_now_ns())


def _size(event: Event) -> int:
    """Bytes of arrays and of what is not decoded yet; a number counts by being one."""
    if isinstance(event, Raw):
        return len(event.data)
    if isinstance(event, Sample) and isinstance(event.value, np.ndarray):
        return event.value.nbytes
    return 0
