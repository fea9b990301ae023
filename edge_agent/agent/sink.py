"""What an adapter writes to: routes every item to the run that its group has open, and keeps what the instrument says of itself."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from edge_agent.adapter import Inlet
from edge_agent.model import Block, Cause, FileItem, Frame, Gap, Reset, Stream
from edge_agent.runs.group import Group
from edge_agent.runs.keeper import Keeper
from edge_agent.spool.disk import DiskState

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Connection:
    """A source of an instrument: does it answer, and since when (UTC ns)."""

    up: bool
    since_ns: int
    detail: str


@dataclass(slots=True)
class InstrumentState:
    """What the status shows of one instrument."""

    name: str
    adapter: str
    connections: dict[str, Connection] = field(default_factory=dict)
    streams: dict[str, Stream] = field(default_factory=dict)
    facts: dict[str, str | int | float] = field(default_factory=dict)
    error: str = ""


class RoutedInlet:
    """One stream of one instrument; see `edge_agent.adapter.Inlet`."""

    def __init__(self, stream: Stream, group: Group, disk: Callable[[], DiskState]) -> None:
        """Route into ``group``; ``disk`` tells how full the disk is."""
        self.stream = stream
        self._group = group
        self._disk = disk
        self._held: Gap | None = None

    async def put(self, block: Block) -> None:
        """See `Inlet`. While the disk is paused rows are refused and declared."""
        if self._disk() is DiskState.PAUSED:
            self._hold(int(block.t_arrival[0]), int(block.t_arrival[-1]), None, None, len(block))
            return
        self._release()
        for channel, rows in self._group.route(self.stream, block):
            await channel.put(rows)

    def offer(self, frame: Frame) -> bool:
        """See `Inlet`. While the disk is hard or paused frames are refused and declared."""
        if self._disk() in (DiskState.HARD, DiskState.PAUSED):
            self._hold(frame.t_arrival, frame.t_arrival, frame.number, frame.number, None)
            return False
        self._release()
        return self._group.offer(self.stream, frame)

    def gap(self, gap: Gap) -> None:
        """See `Inlet`."""
        self._group.gap(self.stream, gap)

    def reset(self, reset: Reset) -> None:
        """See `Inlet`."""
        self._group.reset(self.stream, reset)

    def _hold(self, t_from: int, t_to: int, first: int | None, last: int | None, rows: int | None) -> None:
        held = self._held
        if held is None:
            log.warning("%s: the disk is full, data is refused and declared as a gap", self.stream.key, extra={"code": "DISK_FULL"})
            self._held = Gap(Cause.DISK, first, last, rows, t_from, t_to, "the disk is full")
        else:
            count = None if held.count is None or rows is None else held.count + rows
            self._held = replace(held, last=last, count=count, t_to=t_to)

    def _release(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._group.gap(self.stream, held)


class AgentSink:
    """The sink of one instrument; see `edge_agent.adapter.Sink`."""

    def __init__(
        self,
        state: InstrumentState,
        group: Group,
        keeper: Keeper,
        disk: Callable[[], DiskState],
        codec: str | None,
        changed: Callable[[], None],
    ) -> None:
        """Deliver into ``group``; ``codec`` is the configured one; ``changed`` is called when facts or connections changed."""
        self._state = state
        self._group = group
        self._keeper = keeper
        self._disk = disk
        self._codec = codec
        self._changed = changed

    def open(self, stream: Stream) -> Inlet:
        """See `Sink`."""
        described = replace(stream, codec=self._codec or stream.codec)
        self._state.streams[described.key] = described
        self._changed()
        return RoutedInlet(described, self._group, self._disk)

    async def adopt(self, stream: Stream, item: FileItem) -> None:
        """See `Sink`."""
        self._state.streams[stream.key] = stream
        live = self._group.run_for_file(stream, item.t_arrival)
        if live is None:
            await asyncio.to_thread(self._keeper.spool.state.remember_adopted, stream.key, item.name, item.size, item.mtime_ns)
            return
        loop = asyncio.get_running_loop()
        durable = loop.create_future()

        def done() -> None:
            loop.call_soon_threadsafe(_resolve, durable)

        await asyncio.to_thread(self._keeper.adopt, live, stream, item, done)
        await durable

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
            self._changed()

    def disconnected(self, source: str, *, why: str) -> None:
        """See `Sink`."""
        known = self._state.connections.get(source)
        if known is None or known.up:
            log.warning("%s: %s does not answer: %s", self._state.name, source, why, extra={"code": "INSTRUMENT"})
            self._state.connections[source] = Connection(False, time.time_ns(), why)
            self._changed()

    def describe(self, facts: Mapping[str, str | int | float]) -> None:
        """See `Sink`."""
        self._state.facts.update(facts)
        self._changed()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
