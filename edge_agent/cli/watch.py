"""A sink that stores nothing: it counts what an adapter delivers and keeps the last value of each stream, for ``edge-agent test``.

Invariant: `WatchInlet.offer` may be called from any thread; what a screen reads is a `Seen`, a copy.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_agent.adapter import ForgetfulSink
from edge_agent.model import NO_TIME, Block, FileItem, Frame, Gap, Kind, Packed, Reset, Stream


@dataclass(frozen=True, slots=True)
class Seen:
    """What one stream delivered so far. ``size`` is bytes before packing; ``t_ns`` UTC ns, by the clock that ``t_origin`` names."""

    stream: Stream
    count: int
    size: int
    seconds: float
    last: str
    t_ns: int | None
    t_origin: str
    gaps: int
    lost: int
    resets: int

    @property
    def rate(self) -> float:
        """Items per second since the watch began."""
        return self.count / self.seconds if self.seconds else 0.0


class WatchInlet:
    """One stream of the instrument."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._lock = threading.Lock()
        self._since = time.monotonic()
        self._count = self._size = self._gaps = self._lost = self._resets = 0
        self._last = ""
        self._time: tuple[int | None, str] = (None, "")

    async def put(self, block: Block) -> None:
        """Count rows; the last one is shown."""
        if len(block):
            source, server = int(block.t_source[-1]), NO_TIME if block.t_server is None else int(block.t_server[-1])
            self._take(len(block), block.values.nbytes, _value(block.values[-1]), (source, server, int(block.t_arrival[-1])))

    def offer(self, frame: Frame) -> bool:
        """Count one frame; always taken."""
        seen = self.stream.codec if isinstance(frame.data, Packed) else _range(frame.data)
        text = f"{'×'.join(str(n) for n in frame.data.shape)}  {seen}"
        self._take(1, frame.data.nbytes, text, (frame.t_source, frame.t_server, frame.t_arrival))
        return True

    async def put_frame(self, frame: Frame) -> None:
        """Count one frame."""
        self.offer(frame)

    def gap(self, gap: Gap) -> None:
        """Count what the adapter says to be missing."""
        with self._lock:
            self._gaps += 1
            self._lost += gap.count or 0

    def reset(self, reset: Reset) -> None:
        """Count a restart of the source's counter."""
        with self._lock:
            self._resets += 1

    def adopt(self, item: FileItem) -> None:
        """Count a finished file."""
        self._take(1, item.size, item.name, (item.mtime_ns, NO_TIME, item.t_arrival))

    def seen(self) -> Seen:
        """A copy of the counts."""
        with self._lock:
            seconds = time.monotonic() - self._since
            counts = (self._count, self._size, seconds, self._last, *self._time, self._gaps, self._lost, self._resets)
            return Seen(self.stream, *counts)

    def _take(self, count: int, size: int, last: str, times: tuple[int, int, int]) -> None:
        known = zip(times, ("source", "server", "arrival"), strict=True)
        with self._lock:
            self._count += count
            self._size += size
            self._last = last
            self._time = next(((t_ns, origin) for t_ns, origin in known if t_ns != NO_TIME), (None, ""))


class Watch(ForgetfulSink):
    """The sink of one instrument."""

    def __init__(self) -> None:
        self._inlets: dict[str, WatchInlet] = {}
        self.sources: dict[str, str] = {}
        """Source -> why it does not answer; empty text while it does."""
        self.facts: dict[str, str | int | float] = {}

    def open(self, stream: Stream) -> WatchInlet:
        """The inlet of a stream; a second announcement replaces its description."""
        inlet = self._inlets.setdefault(stream.key, WatchInlet(stream))
        inlet.stream = stream
        return inlet

    async def adopt(self, stream: Stream, item: FileItem, *others: FileItem) -> None:
        """Count finished files, and leave them where they are."""
        for each in (item, *others):
            self.open(stream).adopt(each)

    def connected(self, source: str, *, detail: str = "") -> None:
        """The source answers."""
        self.sources[source] = ""

    def disconnected(self, source: str, *, why: str) -> None:
        """The source does not answer."""
        self.sources[source] = why

    def describe(self, facts: Mapping[str, str | int | float]) -> None:
        """Keep what the instrument says of itself."""
        self.facts.update(facts)

    def seen(self) -> list[Seen]:
        """What came so far, by stream."""
        return [self._inlets[key].seen() for key in sorted(self._inlets)]


def item_word(kind: Kind) -> str:
    """The word for what a stream of this kind is counted in."""
    return {Kind.FRAMES: "frames", Kind.ROWS: "rows", Kind.FILES: "files"}[kind]


def _value(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.ndim:
        return _range(value)
    plain = value.item() if isinstance(value, np.generic | np.ndarray) else value
    if isinstance(plain, bytes):
        return plain.decode(errors="replace")
    return f"{plain:.9g}" if isinstance(plain, float) else str(plain)


def _range(data: np.ndarray[Any, Any]) -> str:
    return f"{_value(data.min())} … {_value(data.max())}" if data.size and data.dtype.kind in "biuf" else ""
