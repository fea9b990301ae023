"""The PV Access client (p4p): one an instrument, with one thread in which everybody is called back.

p4p's own way hands over each update by itself, through two threads and a queue. Here it says once that a queue is no longer empty, and
what came until the next round is taken together (`rounds`).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from p4p.client import raw
from p4p.client.thread import Context, Disconnected, logLevelOff

from adapters.epics.config import Address
from adapters.epics.environment import pva_configurations
from adapters.epics.rounds import Rounds
from edge_agent.model import utc_now_ns

QUEUE = 100
"""Updates that wait in the client while we are busy, unless something else is configured."""

AT_ONCE = 200
"""Updates of one PV that are taken before others have their turn."""

SEARCH_SECONDS = 1.5
"""How long a PV is looked for by UDP alone."""

Take = Callable[[Sequence[Any]], None]
"""Called with p4p Values in their order, an exception among them (`Disconnected` and others) where the PV went."""


class PvaClient:
    """A PV Access client with one thread that makes all its callbacks, so that they keep their order."""

    def __init__(self, instrument: str, addresses: list[Address]) -> None:
        if "PVXS_LOG" not in os.environ:
            # It prints past Python's logging, every ten seconds while a server is away; we report that once.
            raw.set_debug("pvxs.tcp.*", logLevelOff)
        found = pva_configurations(addresses)
        conf = found[0] if found else None
        self._fallback = found[1] if found else None
        self._contexts = [Context("pva", conf=conf, useenv=conf is None, nt=False)]
        self._rounds = Rounds(f"{instrument} pva")
        self._monitors: list[Monitor] = []

    def monitor(
        self, pv: str, take: Take, queue: int = QUEUE, *, pipeline: bool = False, overruns: bool = False, at_once: int = AT_ONCE
    ) -> Monitor:
        """Call back with what comes, at most ``at_once`` updates together.

        ``overruns``: with an `Overrun` among them too, where the updates have no number that would show it.
        """
        request = f"record[queueSize={queue}{',pipeline=true' if pipeline else ''}]"
        monitor = Monitor(pv, take, request, self._rounds, queue if overruns and not pipeline else 0, at_once)
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
        self._rounds.stop()
        for context in self._contexts:
            context.close()


@dataclass(frozen=True, slots=True)
class Overrun:
    """p4p's queue may have been full at some time after ``since`` (UTC ns): then it merged what came into its last update."""

    since: int


class Monitor:
    """One PV, asked for in one or two ways; the way that brings the first value stays, the other is ended."""

    def __init__(self, pv: str, take: Take, request: str, rounds: Rounds, size: int, at_once: int) -> None:
        """``size`` of the queue, 0 where nobody wants to know of an `Overrun`."""
        self._pv = pv
        self._take = take
        self._request = request
        self._rounds = rounds
        self._size = size
        self._at_once = at_once
        self._asked: list[_Way] = []
        self._chosen: _Way | None = None
        self._ended = False

    @property
    def found(self) -> bool:
        """Whether a value came, or nobody asks any more."""
        return self._ended or self._chosen is not None

    def ask(self, context: Context) -> None:
        """Ask by this way, too."""
        if not self._ended:
            way = _Way(self._came, self._rounds, self._size, self._at_once)
            self._asked.append(way)
            way.ask(context, self._pv, self._request)

    def close(self) -> None:
        """End it; blocks until a running callback has returned."""
        self._ended = True
        for way in self._asked:
            way.close()

    def _came(self, way: _Way, updates: Sequence[Any]) -> None:
        if self._chosen is None and not all(isinstance(update, Disconnected) for update in updates):
            self._chosen = way
            for other in self._asked:
                if other is not way:
                    other.close()
        if self._chosen in (None, way):
            self._take(updates)


class _Way:
    """One subscription and the queue that p4p keeps for it.

    p4p says nothing of a queue that overflowed. But while less than ``size`` updates were taken out of it since it was empty, it never
    held ``size`` of them. A PV that comes faster than it is taken is therefore told to be in doubt although nothing may be missing.
    """

    def __init__(self, came: Callable[[_Way, Sequence[Any]], None], rounds: Rounds, size: int, at_once: int) -> None:
        self._came = came
        self._rounds = rounds
        self._size = size
        self._at_once = at_once
        self._taken = 0
        self._since = 0
        self._subscription: raw.Subscription | None = None
        self._lock = threading.Lock()

    def ask(self, context: Context, pv: str, request: str) -> None:
        """Begin."""
        # Not the Context's own `monitor`, which hands over each update by itself.
        self._subscription = raw.Context.monitor(context, pv, self._filled, request=request)
        self._filled()  # what it said before it was known here

    def close(self) -> None:
        """End it; blocks until a running callback has returned."""
        with self._lock:
            if self._subscription is not None:
                self._subscription.close()
                self._subscription = None

    def drain(self) -> bool:
        """Hand over what waits, at most `AT_ONCE` updates, so that others have their turn; whether there may be more."""
        with self._lock:
            for _ in range(0, AT_ONCE, self._at_once):
                updates, emptied = self._pop()
                if updates:
                    self._came(self, updates)
                if emptied:
                    return False
        return True

    def _pop(self) -> tuple[list[Any], bool]:
        """At most ``at_once`` updates, and whether nothing was left."""
        updates: list[Any] = []
        for _ in range(self._at_once):
            update = self._subscription.pop() if self._subscription is not None else None
            if update is None:
                self._taken = 0
                return updates, True
            updates.append(update)
            self._taken += 1
            if self._taken == self._size:
                updates.append(Overrun(self._since))
                self._taken, self._since = 0, utc_now_ns()
        return updates, False

    def _filled(self) -> None:
        """The queue was empty and is not any more; p4p calls this in a thread of its own."""
        self._since = utc_now_ns()
        self._rounds.visit(self)
