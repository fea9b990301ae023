"""What an adapter writes to: routes every item to the run that its group has open, and keeps what the instrument says of itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy.typing as npt

from edge_agent.adapter import Inlet
from edge_agent.model import Block, FileItem, Frame, Gap, Priority, Reset, RunContext, Stream
from edge_agent.record.recording import frame_size
from edge_agent.runs.group import Group
from edge_agent.runs.intake import FULL
from edge_agent.runs.keeper import Keeper
from edge_agent.runs.live import LiveRun
from edge_agent.runs.rows import size_of
from edge_agent.spool.disk import DiskState

log = logging.getLogger(__name__)

DISK_POLL = 1.0
AGAIN = 0.1
"""Seconds after which a frame that can wait tries again: the disk is full, or older frames of its stream still wait."""


Watch = Callable[[Stream, Block, list[RunContext]], None]
"""Sees rows and the runs that may take them; never waits."""


@dataclass(slots=True)
class Connection:
    """A source of an instrument: does it answer, and since when (UTC ns)."""

    up: bool
    since_ns: int
    detail: str


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What an instrument's last file looks like: ``(h, w)`` or ``(h, w, 3)``, the file's name, when it came (UTC ns)."""

    pixels: npt.NDArray[Any]
    name: str
    t_ns: int


@dataclass(slots=True)
class InstrumentState:
    """What the status shows of one instrument."""

    name: str
    adapter: str
    connections: dict[str, Connection] = field(default_factory=dict)
    streams: dict[str, Stream] = field(default_factory=dict)
    facts: dict[str, str | int | float] = field(default_factory=dict)
    error: str = ""
    picture: Picture | None = None


class RoutedInlet:
    """One stream of one instrument; see `edge_agent.adapter.Inlet`."""

    def __init__(self, stream: Stream, group: Group, keeper: Keeper, live: Watch | None = None) -> None:
        """Route into ``group``; ``live`` sees rows when their run has them."""
        self.stream = stream
        self._group = group
        self._room = keeper.recorder.room
        self._disk = keeper.disk
        self._live = live

    async def put(self, block: Block) -> None:
        """See `Inlet`. Waits for room first: which run the rows belong to is decided when they are handed over, in one step."""
        if not len(block):
            return
        size = size_of(block) if self._disk() is not DiskState.PAUSED else 0
        if size:
            await self._room.enter(size)
        try:
            known = self._group.take(self.stream, block)
            if known and self._live is not None:  # in the same step, so that no run begins or ends between
                self._live(self.stream, block, self._group.open_runs())
        finally:
            if size:
                self._room.leave(size)

    def offer(self, frame: Frame) -> bool:
        """See `Inlet`."""
        return self._group.offer(self.stream, frame)

    async def put_frame(self, frame: Frame) -> None:
        """See `Inlet`. The room that it waited for is given back only when the recorder has taken it: nobody slips in between."""
        size = frame_size(frame)
        while True:
            await self._room.enter(size)
            try:
                if self._group.offer(self.stream, frame, waited=True):
                    return
            finally:
                self._room.leave(size)
            await asyncio.sleep(AGAIN)

    def gap(self, gap: Gap) -> None:
        """See `Inlet`."""
        self._group.gap(self.stream, gap)

    def reset(self, reset: Reset) -> None:
        """See `Inlet`."""
        self._group.reset(self.stream, reset)


class AgentSink:
    """The sink of one instrument; see `edge_agent.adapter.Sink`."""

    def __init__(
        self, state: InstrumentState, group: Group, keeper: Keeper, codec: str | None, priority: Priority = Priority.NORMAL,
        live: Watch | None = None,
    ) -> None:  # fmt: skip
        """Deliver into ``group``; ``codec`` and ``priority`` are the configured ones; ``live`` sees rows too."""
        self._live = live
        self._state = state
        self._group = group
        self._keeper = keeper
        self._codec = codec
        self._priority = priority

    def open(self, stream: Stream) -> Inlet:
        """See `Sink`."""
        codec = stream.codec if stream.packed else self._codec or stream.codec
        described = replace(stream, codec=codec, priority=self._priority)
        self._state.streams[described.key] = described
        return RoutedInlet(described, self._group, self._keeper, self._live)

    async def adopt(self, stream: Stream, item: FileItem, *others: FileItem) -> None:
        """See `Sink`. While the disk is full the file waits where it is.

        Raises:
            EdgeAgentError: the agent is stopping; the file is taken at the next start.
            OSError: it could not be read, or changed meanwhile.
        """
        self._state.streams[stream.key] = stream
        while self._keeper.disk() in FULL:  # noqa: ASYNC110 - a state that is read, and nobody announces it
            await asyncio.sleep(DISK_POLL)
        items = (item, *others)
        live = await self._run_for(stream, items)
        if live is None:
            for each in items:
                await asyncio.to_thread(self._keeper.spool.state.remember_adopted, stream.key, each.name, each.size, each.mtime_ns)
            return
        results = await asyncio.gather(*(self._adopt(live, stream, each) for each in items), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _run_for(self, stream: Stream, items: Sequence[FileItem]) -> LiveRun | None:
        """The run that waits for these files; one that must begin first takes as long as the disk takes."""
        found = asyncio.ensure_future(asyncio.to_thread(self._group.run_for_file, stream, *items))
        try:
            return await asyncio.shield(found)
        except asyncio.CancelledError:
            found.add_done_callback(partial(_leave, len(items)))
            raise

    async def _adopt(self, live: LiveRun, stream: Stream, item: FileItem) -> None:
        """Take one file into a run that waits for it."""
        loop = asyncio.get_running_loop()
        durable = loop.create_future()

        def done() -> None:
            # A loop that is closed has nobody who waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_resolve, durable)

        await asyncio.to_thread(self._keeper.adopt, live, stream, item, done)
        await durable

    def show(self, picture: npt.NDArray[Any], name: str) -> None:
        """See `Sink`."""
        self._state.picture = Picture(picture, name, time.time_ns())

    async def durable(self) -> None:
        """See `Sink`. What waits in a look-back belongs to no run yet, and is not waited for."""
        while self._group.unsettled() & self._state.streams.keys():  # noqa: ASYNC110 - other threads settle it
            await asyncio.sleep(AGAIN)
        await self._keeper.recorder.durable()

    async def note(self, key: str, value: str) -> None:
        """See `Sink`."""
        await asyncio.to_thread(self._keeper.spool.state.put, f"note/{self._state.name}/{key}", value.encode())

    async def noted(self, key: str) -> str | None:
        """See `Sink`."""
        value = await asyncio.to_thread(self._keeper.spool.state.get, f"note/{self._state.name}/{key}")
        return None if value is None else value.decode()

    async def already_adopted(self, name: str, size: int, mtime_ns: int) -> bool:
        """See `Sink`."""
        key = f"{self._state.name}/files"
        return await asyncio.to_thread(self._keeper.spool.state.is_adopted, key, name, size, mtime_ns)

    def connected(self, source: str, *, detail: str = "") -> None:
        """See `Sink`."""
        known = self._state.connections.get(source)
        if known is None or not known.up:
            log.info("%s: %s answers %s", self._state.name, source, detail)
            self._state.connections[source] = Connection(True, time.time_ns(), detail)
            self._state.error = ""

    def disconnected(self, source: str, *, why: str) -> None:
        """See `Sink`."""
        known = self._state.connections.get(source)
        if known is None or known.up:
            log.warning("%s: %s does not answer: %s", self._state.name, source, why, extra={"code": "INSTRUMENT"})
            self._state.connections[source] = Connection(False, time.time_ns(), why)

    def describe(self, facts: Mapping[str, str | int | float]) -> None:
        """See `Sink`."""
        self._state.facts.update(facts)


def _leave(n: int, found: asyncio.Future[LiveRun | None]) -> None:
    """Nobody brings the files any more for which a run was found: it does not wait for them."""
    if not found.cancelled() and found.exception() is None and (live := found.result()) is not None:
        for _ in range(n):
            live.adopting.leave()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
