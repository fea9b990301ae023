"""One thread that owns the port: opens it, reads, cuts into lines, and opens it again when it is lost.

Invariants: only this thread opens, reads and closes; what it finds waits in order for the agent's loop, at most
`MOST_WAITING` lines, and what is refused beyond is counted in `Refused`; the thread ends within a moment of `stop` (an
attempt to connect may take `ports.CONNECT_SECONDS`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from adapters.serial.line_errors import LineErrors
from adapters.serial.ports import PATIENCE_SECONDS, Port, PortDown
from adapters.serial.raw import Bytes
from adapters.serial.splitter import Junk, Line, Lines, Splitter
from edge_agent.model import utc_now_ns

MOST_WAITING: Final = 100_000
SHORTEST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 5.0
QUIET_SECONDS: Final = 0.05
"""A line whose first byte comes after this much silence begins with it."""
GATHER_SECONDS: Final = 0.01
"""How long a busy line is left alone between two reads: fewer and larger reads cost less, and a driver's buffer holds far more."""
BUSY_BYTES: Final = 64
ERRORS_SECONDS: Final = 0.5
"""How often the counts of a bad line are looked at."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Up:
    """The port is open, since ``t`` (UTC ns)."""

    t: int


@dataclass(frozen=True, slots=True)
class Down:
    """The port cannot be opened, or is gone since ``t`` (UTC ns)."""

    error: PortDown
    t: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Lines that did not fit in, and bytes; times are UTC ns."""

    count: int
    size: int
    t_from: int
    t_to: int


@dataclass(frozen=True, slots=True)
class Disturbed:
    """What was counted of a bad line between two looks; times are UTC ns."""

    errors: LineErrors
    t_from: int
    t_to: int

    @property
    def t(self) -> int:
        """When it was seen."""
        return self.t_to


Event = Up | Down | Line | Lines | Junk | Refused | Bytes | Disturbed


def lines_in(events: Sequence[Event]) -> int:
    """How much waits, in lines; what is no line counts as one."""
    return sum(len(event.raws) if isinstance(event, Lines) else 1 for event in events)


class Reader:
    """Reads one port for ever. ``make_splitter(mid_line)`` gives the splitter of a new connection; with ``raw`` come all `Bytes`, too."""

    def __init__(self, name: str, open_port: Callable[[], Port], make_splitter: Callable[[bool], Splitter], *, raw: bool = False) -> None:
        self._open_port = open_port
        self._make_splitter = make_splitter
        self._raw = raw
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name=f"serial {name}", daemon=True)
        self._stop = threading.Event()
        self._hang_up = threading.Event()
        self._lock = threading.Lock()
        self._port: Port | None = None
        self._waiting: list[Event] = []
        self._size = 0
        self._refused: Refused | None = None
        self._news = asyncio.Event()
        self._heard = False
        self.heard_at = 0.0
        """When the last byte came, on the clock of the loop (monotonic seconds)."""

    def start(self) -> None:
        """Begin to open the port."""
        self._thread.start()

    async def stop(self) -> None:
        """Close the port and end the thread."""
        self._stop.set()
        await asyncio.to_thread(self._thread.join)

    def hang_up(self) -> None:
        """Give up this connection, and make the next one after the longest pause."""
        self._hang_up.set()

    async def take(self, timeout: float) -> Sequence[Event]:
        """All that waits, in order; nothing after ``timeout`` seconds without news."""
        try:
            async with asyncio.timeout(timeout):
                await self._news.wait()
        except TimeoutError:
            return ()
        self._news.clear()
        with self._lock:
            events, self._waiting, self._size = self._waiting, [], 0
            if self._refused is not None:
                events.append(self._refused)
                self._refused = None
        return events

    def write(self, data: bytes) -> None:
        """Send, from any thread but the loop's own; may wait. Raises PortDown."""
        with self._lock:
            port = self._port
        if port is None:
            raise PortDown("the port is closed")
        if self._raw:  # before it goes out, so that no answer stands before its question
            self._post([Bytes(data, utc_now_ns(), sent=True)])
        port.write(data)

    def _run(self) -> None:
        pause = SHORTEST_PAUSE
        while not self._stop.is_set():
            self._heard = False
            self._hang_up.clear()
            try:
                self._connection()
            except PortDown as e:
                self._post([Down(e, utc_now_ns())])
            except Exception as e:
                # A defect here must be seen and must not leave the instrument unread.
                log.exception("%s: reading failed", self._thread.name)
                self._post([Down(PortDown(f"reading failed: {type(e).__name__}: {e}"), utc_now_ns())])
            if self._hang_up.is_set():
                pause = LONGEST_PAUSE
            elif self._heard:
                pause = SHORTEST_PAUSE
            # Jitter: many instruments behind one hub or server must not come back in step.
            self._stop.wait(pause * random.uniform(0.8, 1.2))  # noqa: S311
            pause = min(2 * pause, LONGEST_PAUSE)

    def _connection(self) -> None:
        port = self._open_port()
        with self._lock:
            self._port = port
        splitter: Splitter | None = None
        try:
            self._post([Up(utc_now_ns())])
            look = _Look(port)
            since = time.monotonic()
            while not self._stop.is_set() and not self._hang_up.is_set():
                data = port.read(min(PATIENCE_SECONDS, splitter.patience) if splitter is not None else PATIENCE_SECONDS)
                t, now = utc_now_ns(), time.monotonic()
                if now - look.at >= ERRORS_SECONDS:
                    self._post(look.again(t, now))
                if splitter is None:
                    if not data:
                        continue
                    splitter = self._make_splitter(now - since < QUIET_SECONDS)
                if data:
                    busy = len(data) >= BUSY_BYTES and now - since < 2 * GATHER_SECONDS
                    self.heard_at, self._heard, since = now, True, now
                    self._post([Bytes(data, t), *splitter.feed(data, t)] if self._raw else splitter.feed(data, t))
                    if busy:
                        time.sleep(GATHER_SECONDS)
                elif now - since > splitter.patience:
                    self._post(splitter.silence())
        finally:
            with self._lock:
                self._port = None
            port.close()
            if splitter is not None:
                self._post(splitter.end())

    def _post(self, events: Sequence[Event]) -> None:
        if not events:
            return
        with self._lock:
            asleep = not self._waiting
            size = lines_in(events)
            if self._size + size <= MOST_WAITING:
                self._waiting.extend(events)
                self._size += size
            else:
                for event in events:
                    self._squeeze(event)
        if asleep:
            self._loop.call_soon_threadsafe(self._news.set)

    def _squeeze(self, event: Event) -> None:
        """Take what tells of the port, and what still fits in; count the rest."""
        if isinstance(event, Lines):
            for line in event.each():
                self._squeeze(line)
            return
        if not isinstance(event, Line | Junk | Bytes) or self._size < MOST_WAITING:
            self._waiting.append(event)
            self._size += 1
            return
        before = self._refused or Refused(0, 0, event.t, event.t)
        lines, size = (0, len(event.data)) if isinstance(event, Bytes) else (1, 0)
        self._refused = Refused(before.count + lines, before.size + size, before.t_from, event.t)


class _Look:
    """What a port has counted of its line, since the last look."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._before = port.errors()
        self._t = utc_now_ns()
        self.at = time.monotonic()

    def again(self, t: int, now: float) -> Sequence[Event]:
        errors, before, since = self._port.errors(), self._before or LineErrors(), self._t
        self._before, self._t, self.at = errors, t, now
        new = errors.since(before) if errors is not None else LineErrors()
        return [Disturbed(new, since, t)] if new != LineErrors() else []
