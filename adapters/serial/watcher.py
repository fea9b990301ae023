"""A sink that records nothing: it notes which streams come and why the source is down, for a look before anything is configured."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edge_agent.adapter import ForgetfulInlet, ForgetfulSink, Inlet
from edge_agent.model import Block, Stream


class Watcher(ForgetfulSink):
    """Notes streams by name, the rows that came, and the last word on the source. ``on_down`` is told why it is down."""

    def __init__(self, on_down: Callable[[str], None] | None = None) -> None:
        self.why = ""
        self._streams: dict[str, Stream] = {}
        self._on_down = on_down
        self._rows: dict[str, int] = {}
        self._news = asyncio.Event()

    @property
    def streams(self) -> list[Stream]:
        """The streams that gave values, as last described."""
        return [stream for name, stream in self._streams.items() if self._rows.get(name)]

    async def enough(self, rows: int) -> None:
        """Return when each stream has given so many rows, or when it is known why none comes."""
        while not self.why and (not self._rows or min(self._rows.values()) < rows):
            self._news.clear()
            await self._news.wait()

    def open(self, stream: Stream) -> Inlet:
        """See `Sink`."""
        self._streams[stream.name] = stream
        self._rows.setdefault(stream.name, 0)
        return _WatchedInlet(stream, self)

    def connected(self, source: str, *, detail: str = "") -> None:
        """See `Sink`."""
        self.why = ""

    def disconnected(self, source: str, *, why: str) -> None:
        """See `Sink`."""
        self.why = why
        self._news.set()
        if self._on_down is not None:
            self._on_down(why)

    def count(self, stream: str, rows: int) -> None:
        """Rows of a stream came."""
        self._rows[stream] += rows
        self._news.set()


class _WatchedInlet(ForgetfulInlet):
    def __init__(self, stream: Stream, watcher: Watcher) -> None:
        super().__init__(stream)
        self._watcher = watcher

    async def put(self, block: Block) -> None:
        self._watcher.count(self.stream.name, len(block))
