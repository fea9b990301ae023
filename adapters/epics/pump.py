"""Carries events from any thread to the row streams on the loop, and keeps their number in bounds.

Invariants: events of one PV stay in order; the first that comes after a pause is delivered at once, what comes within `GATHER_SECONDS`
after that as one batch per PV, since a block of rows costs as much as a single one; when the recorder is so far behind that `LIMIT`
events wait, further samples are counted and declared as a gap, never forgotten.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import dataclass

from adapters.epics.events import Emit, Event, Sample
from adapters.epics.rows import RowStream
from edge_agent.model import utc_now_ns

LIMIT = 100_000
GATHER_SECONDS = 0.2


@dataclass(slots=True)
class _Refused:
    count: int
    t_from: int
    t_to: int


class Pump:
    """One an instrument. ``emit(stream)`` gives the function that a follower calls; `run` delivers."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int = LIMIT) -> None:
        self._loop = loop
        self._limit = limit
        self._waiting: deque[tuple[RowStream, Event]] = deque()
        self._refused: dict[RowStream, _Refused] = {}
        self._lock = threading.Lock()
        self._wake = asyncio.Event()
        self._signalled = False

    def emit(self, stream: RowStream) -> Emit:
        """A function that takes the events of one PV; call it from any thread."""

        def take(event: Event) -> None:
            with self._lock:
                if len(self._waiting) >= self._limit and isinstance(event, Sample):
                    refused = self._refused.setdefault(stream, _Refused(0, event.t_arrival, 0))
                    refused.count += 1
                    refused.t_to = event.t_arrival
                else:
                    self._waiting.append((stream, event))
                wake, self._signalled = not self._signalled, True
            if wake and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._wake.set)

        return take

    async def run(self) -> None:
        """Deliver for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.flush()
            await asyncio.sleep(GATHER_SECONDS)

    async def flush(self) -> None:
        """Deliver what waits now."""
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
            refused, self._refused = self._refused, {}
            self._signalled = False
        batches: dict[RowStream, list[Event]] = {}
        for stream, event in waiting:
            batches.setdefault(stream, []).append(event)
        for stream, events in batches.items():
            await stream.take(events)
        for stream, one in refused.items():
            stream.missed(one.count, one.t_from, one.t_to or utc_now_ns())
