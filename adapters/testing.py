"""A sink in memory, for the tests of any adapter, ours or a facility's own.

`RecordingSink` keeps what an adapter delivered as one ordered list of events, so that a test can assert the exact order
of openings, rows, gaps and disconnections, and can wait for something to happen without sleeping. It never loses an
event: `Inlet.offer` may be called from any thread, and blocks are kept as they were handed over.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.model import Block, FileItem, Frame, Gap, Reset, Stream

LOOK_AGAIN_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Opened:
    """``Sink.open``."""

    stream: Stream


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """``Inlet.put``."""

    stream: Stream
    block: Block


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """``Inlet.offer``; ``accepted`` is what the adapter was told."""

    stream: Stream
    frame: Frame
    accepted: bool


@dataclass(frozen=True, slots=True)
class Missing:
    """``Inlet.gap``."""

    stream: Stream
    gap: Gap


@dataclass(frozen=True, slots=True)
class Restarted:
    """``Inlet.reset``."""

    stream: Stream
    reset: Reset


@dataclass(frozen=True, slots=True)
class Adopted:
    """``Sink.adopt``, after it succeeded; ``data`` are the bytes of the file at that moment, ``with_`` the first file of its call."""

    stream: Stream
    item: FileItem
    data: bytes
    with_: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """``Sink.show``."""

    picture: npt.NDArray[Any]
    name: str


@dataclass(frozen=True, slots=True)
class Synced:
    """``Sink.durable``."""


@dataclass(frozen=True, slots=True)
class Connected:
    """``Sink.connected``."""

    source: str
    detail: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """``Sink.disconnected``."""

    source: str
    why: str


@dataclass(frozen=True, slots=True)
class Described:
    """``Sink.describe``."""

    facts: Mapping[str, str | int | float]


Event = Opened | Rows | Image | Missing | Restarted | Adopted | Connected | Disconnected | Described | Shown | Synced


class RecordingInlet:
    """The inlet of one stream of a `RecordingSink`."""

    def __init__(self, sink: RecordingSink, stream: Stream) -> None:
        self._sink = sink
        self.stream = stream

    async def put(self, block: Block) -> None:
        """Keep the rows; waits while `RecordingSink.gate` is closed."""
        await self._sink.gate.wait()
        self._sink.record(Rows(self.stream, block))

    def offer(self, frame: Frame) -> bool:
        """Keep the frame, from any thread; refused while `RecordingSink.accepts` is False."""
        accepted = self._sink.accepts
        self._sink.record(Image(self.stream, frame, accepted))
        return accepted

    async def put_frame(self, frame: Frame) -> None:
        """Keep the frame; waits while `RecordingSink.gate` is closed."""
        await self._sink.gate.wait()
        self._sink.record(Image(self.stream, frame, accepted=True))

    def gap(self, gap: Gap) -> None:
        """Keep the gap."""
        self._sink.record(Missing(self.stream, gap))

    def reset(self, reset: Reset) -> None:
        """Keep the restart of the counter."""
        self._sink.record(Restarted(self.stream, reset))


class RecordingSink:
    """Keeps everything that an adapter delivers, in order.

    ``gate`` (open at first) holds back rows and files while it is cleared, as a recorder does that is behind. ``accepts``
    False refuses frames. ``before_adopt`` runs before each adoption and may raise what a spool would raise. ``catalogue``
    holds ``(name, size, mtime_ns)`` of what was adopted, ``notes`` what was noted; give them to the next sink to play a restart.
    """

    def __init__(self, catalogue: set[tuple[str, int, int]] | None = None, notes: dict[str, str] | None = None) -> None:
        self.events: list[Event] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.accepts = True
        self.before_adopt: Callable[[FileItem], Awaitable[None]] | None = None
        self.catalogue = set() if catalogue is None else catalogue
        self.notes = {} if notes is None else notes
        self._lock = threading.Lock()
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self, stream: Stream) -> RecordingInlet:
        """Keep the announcement and give an inlet."""
        self.record(Opened(stream))
        return RecordingInlet(self, stream)

    async def adopt(self, stream: Stream, item: FileItem, *others: FileItem) -> None:
        """Read the files and keep them; raises what reading raises (`OSError`)."""
        await self.gate.wait()
        for each in (item, *others):
            if self.before_adopt is not None:
                await self.before_adopt(each)
            data = await asyncio.to_thread(each.path.read_bytes)
            self.catalogue.add((each.name, each.size, each.mtime_ns))
            self.record(Adopted(stream, each, data, item.name))

    def connected(self, source: str, *, detail: str = "") -> None:
        """Keep that a source answers."""
        self.record(Connected(source, detail))

    def disconnected(self, source: str, *, why: str) -> None:
        """Keep that a source stopped answering."""
        self.record(Disconnected(source, why))

    def describe(self, facts: Mapping[str, str | int | float]) -> None:
        """Keep what the instrument says of itself."""
        self.record(Described(dict(facts)))

    def show(self, picture: npt.NDArray[Any], name: str) -> None:
        """Keep the picture."""
        self.record(Shown(picture, name))

    async def durable(self) -> None:
        """All is kept at once."""
        self.record(Synced())

    async def note(self, key: str, value: str) -> None:
        """Keep it in `notes`."""
        self.notes[key] = value

    async def noted(self, key: str) -> str | None:
        """What `notes` holds."""
        return self.notes.get(key)

    async def already_adopted(self, name: str, size: int, mtime_ns: int) -> bool:
        """Whether `catalogue` holds it."""
        return (name, size, mtime_ns) in self.catalogue

    def record(self, event: Event) -> None:
        """Append one event and wake the waiters; from any thread."""
        with self._lock:
            self.events.append(event)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._changed.set)

    async def until(self, predicate: Callable[[RecordingSink], object], timeout: float = 30.0) -> None:
        """Wait until ``predicate(self)`` is true.

        Raises:
            TimeoutError: after ``timeout`` seconds; the message shows the last events.
        """
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                while True:
                    self._changed.clear()
                    if predicate(self):
                        return
                    # A predicate may also look at something else, which does not say that it changed.
                    # Not wait_for: until Python 3.12 it swallows a cancellation that meets the change.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_AGAIN_SECONDS):
                            await self._changed.wait()
        except TimeoutError:
            last = "\n  ".join(str(event)[:300] for event in self.events[-10:])
            raise TimeoutError(f"not within {timeout} s; {len(self.events)} events, the last:\n  {last}") from None

    def of(self, *kinds: type[Any]) -> list[Any]:
        """The events of these kinds, in order."""
        return [event for event in list(self.events) if isinstance(event, kinds)]

    def blocks(self, name: str) -> list[Block]:
        """The blocks of the stream of this name."""
        return [event.block for event in self.of(Rows) if event.stream.name == name]

    def values(self, name: str) -> npt.NDArray[Any]:
        """All values of the stream of this name, joined along the first axis; empty when there are none."""
        blocks = self.blocks(name)
        return np.concatenate([block.values for block in blocks]) if blocks else np.empty(0)

    def frames(self, name: str) -> list[Frame]:
        """The accepted frames of the stream of this name."""
        return [event.frame for event in self.of(Image) if event.stream.name == name and event.accepted]

    def gaps(self, name: str) -> list[Gap]:
        """The gaps of the stream of this name."""
        return [event.gap for event in self.of(Missing) if event.stream.name == name]
