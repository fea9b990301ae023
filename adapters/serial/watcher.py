"""A sink that records nothing: it notes which streams come and why the source is down, for a look before anything is configured."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from edge_agent.adapter import Inlet
from edge_agent.model import Block, FileItem, Frame, Gap, Reset, Stream


class Watcher:
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

    async def adopt(self, stream: Stream, item: FileItem, *others: FileItem) -> None:
        """See `Sink`."""

    def connected(self, source: str, *, detail: str = "") -> None:
        """See `Sink`."""
        self.why = ""

    def disconnected(self, source: str, *, why: str) -> None:
        """See `Sink`."""
        self.why = why
        self._news.set()
        if self._on_down is not None:
            self._on_down(why)

    def describe(self, facts: Mapping[str, str | int | float]) -> None:
        """See `Sink`."""

    def show(self, picture: npt.NDArray[Any], name: str) -> None:
        """See `Sink`."""

    async def durable(self) -> None:
        """See `Sink`."""

    async def note(self, key: str, value: str) -> None:
        """See `Sink`."""

    async def noted(self, key: str) -> str | None:
        """See `Sink`."""
        return None

    async def already_adopted(self, name: str, size: int, mtime_ns: int) -> bool:
        """See `Sink`."""
        return False

    def count(self, stream: str, rows: int) -> None:
        """Rows of a stream came."""
        self._rows[stream] += rows
        self._news.set()


@dataclass(slots=True)
class _WatchedInlet:
    stream: Stream
    watcher: Watcher

    async def put(self, block: Block) -> None:
        self.watcher.count(self.stream.name, len(block))

    def offer(self, frame: Frame) -> bool:
        return True

    async def put_frame(self, frame: Frame) -> None:
        pass

    def gap(self, gap: Gap) -> None:
        pass

    def reset(self, reset: Reset) -> None:
        pass
