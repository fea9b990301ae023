"""One run group: decides by source time to which run each item belongs, and keeps a look-back so that no race loses data.

A group has at most one foreground run (a session or a trigger) and one background run (daily, for what is kept between runs). An
item belongs to the foreground run whose span [start, end] holds its source time (arrival time where the source gives none).
Otherwise its instrument's idle rule says: ``keep`` (background run), ``ignore`` (counted, not lost) or ``ring`` (kept in memory for
so long; a run that starts takes all of it).

Look-back: with a trigger, an item that no run holds waits `look_back` seconds before the idle rule applies, and a run that ended
stays open as long, so the race between shutter and frame is decided by their times and not by who came first. Thread-safe: `take`
may be called from any thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.model import NO_TIME, Block, Frame, Gap, Kind, Reset, Stream, Valid
from edge_agent.record.recording import FrameChannel, RowChannel
from edge_agent.runs.live import LiveRun

LOOK_BACK_BYTES = 256 << 20
FOREVER = 2**63 - 1
WAITING_GAPS = 1000


class Idle(StrEnum):
    """What happens to data between runs."""

    KEEP = "keep"
    IGNORE = "ignore"
    RING = "ring"


@dataclass(frozen=True, slots=True)
class Rule:
    """Idle rule of one instrument; ``ring`` in seconds."""

    idle: Idle
    ring: float = 0.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An item in the look-back: what, when it came (monotonic), its time (UTC ns), and its size."""

    stream: Stream
    item: Block | Frame
    came: float
    t_ns: int
    size: int


@dataclass(slots=True)
class Group:
    """See the module. ``background`` gives the open background run, beginning one where there is none."""

    name: str
    rules: dict[str, Rule]
    background: Callable[[], LiveRun]
    look_back: float = 0.0
    foreground: LiveRun | None = None
    ignored: dict[str, int] = field(default_factory=dict)
    arrivals: dict[str, tuple[float, int]] = field(default_factory=dict)
    _known_background: LiveRun | None = None
    _gaps: deque[tuple[Stream, Gap]] = field(default_factory=lambda: deque(maxlen=WAITING_GAPS))
    _waiting: deque[_Waiting] = field(default_factory=deque)
    _waiting_bytes: int = 0
    _last: dict[str, tuple[Stream, Block]] = field(default_factory=dict)
    _channels: dict[tuple[int, str], FrameChannel | RowChannel] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def open(self, live: LiveRun) -> None:
        """Make ``live`` the foreground run: the last known value of each row stream first, then what waits and belongs to it."""
        start = live.entry.run.started_ns
        with self._lock:
            self.foreground = live
            self._last_known(live)
            keep: deque[_Waiting] = deque()
            for waiting in self._waiting:
                ring = self._rule(waiting.stream).idle is Idle.RING
                if not ring and waiting.t_ns < start:
                    keep.append(waiting)
                elif isinstance(waiting.item, Frame):
                    self._frames(live, waiting.stream).offer(waiting.item)
                else:
                    self._rows(live, waiting.stream).put_now(waiting.item)
            self._waiting = keep
            self._waiting_bytes = sum(w.size for w in keep)

    def end(self, end_ns: int) -> None:
        """The foreground run ends at this time; data up to it may still come."""
        with self._lock:
            if self.foreground is not None:
                self.foreground.end_ns = end_ns

    def close(self) -> LiveRun | None:
        """The foreground run takes nothing more; returns it."""
        with self._lock:
            live, self.foreground = self.foreground, None
            self._forget(live)
            return live

    def forget(self, live: LiveRun) -> None:
        """A background run is closing: drop its channels."""
        with self._lock:
            self._forget(live)
            if self._known_background is live:
                self._known_background = None

    def _forget(self, live: LiveRun | None) -> None:
        self._channels = {key: channel for key, channel in self._channels.items() if key[0] != id(live)}

    def offer(self, stream: Stream, frame: Frame) -> bool:
        """Route one frame; never blocks. False: refused, and declared."""
        t_ns = frame.t_source if frame.t_source != NO_TIME else frame.t_arrival
        with self._lock:
            self._seen(stream, 1, frame.t_arrival)
            if self._holds(t_ns) and self.foreground is not None:
                return self._frames(self.foreground, stream).offer(frame)
            if self._waits(stream):
                self._wait(_Waiting(stream, frame, time.monotonic(), t_ns, frame.data.nbytes))
                return True
            return self._idle_frame(stream, frame)

    def route(self, stream: Stream, block: Block) -> list[tuple[RowChannel, Block]]:
        """Where the rows of a block go; what waits or is ignored is not among them."""
        if not len(block):
            return []
        times = np.where(block.t_source == NO_TIME, block.t_arrival, block.t_source)
        initial = np.zeros(len(block), bool) if block.valid is None else block.valid == Valid.INITIAL
        with self._lock:
            self._seen(stream, int(np.count_nonzero(~initial)), int(block.t_arrival[-1]))
            live = self.foreground
            inside = self._inside(times)
            routed: list[tuple[RowChannel, Block]] = []
            if live is not None:
                inside |= initial  # a last known value belongs to the open run, whatever its time
                if inside.any():
                    routed.append((self._rows(live, stream), block if inside.all() else take_rows(block, np.flatnonzero(inside))))
            elif self._known_background is None:
                inside |= initial  # alone it begins no run: it is remembered for the next one
            outside = np.flatnonzero(~inside)
            if outside.size and self._waits(stream):
                self._wait_rows(stream, block, outside, times)
            elif outside.size:
                routed += self._idle_rows(stream, take_rows(block, outside))
            self._last[stream.key] = (stream, take_rows(block, np.array([len(block) - 1])))
            return routed

    def _inside(self, times: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which of these times the foreground run holds."""
        live = self.foreground
        if live is None:
            return np.zeros(len(times), bool)
        return (times >= live.entry.run.started_ns) & (times <= (live.end_ns if live.end_ns is not None else FOREVER))

    def _wait_rows(self, stream: Stream, block: Block, rows: npt.NDArray[np.intp], times: npt.NDArray[np.int64]) -> None:
        """Put rows into the look-back, one by one, because a run may begin between two of them."""
        now = time.monotonic()
        for row in rows:
            one = take_rows(block, np.array([row]))
            self._wait(_Waiting(stream, one, now, int(times[row]), one.values.nbytes + 64))

    def expire(self) -> list[tuple[RowChannel, Block]]:
        """Apply the idle rule to what waited long enough; returns rows to put. Called a few times a second."""
        now = time.monotonic()
        routed: list[tuple[RowChannel, Block]] = []
        with self._lock:
            kept: deque[_Waiting] = deque()
            for waiting in self._waiting:
                rule = self._rule(waiting.stream)
                limit = max(self.look_back, rule.ring if rule.idle is Idle.RING else 0.0)
                if now - waiting.came <= limit and self._waiting_bytes <= LOOK_BACK_BYTES:
                    kept.append(waiting)
                    continue
                self._waiting_bytes -= waiting.size
                if isinstance(waiting.item, Frame):
                    self._idle_frame(waiting.stream, waiting.item)
                else:
                    routed += self._idle_rows(waiting.stream, waiting.item)
            self._waiting = kept
        return routed

    def gap(self, stream: Stream, gap: Gap) -> None:
        """A declared gap goes to the run that is open, else to the background where the instrument's data is kept.

        A gap alone begins no run: it waits for the background run that the next data begins.
        """
        with self._lock:
            if self.foreground is not None:
                self._declare(self.foreground, stream, gap)
            elif self._rule(stream).idle is Idle.KEEP and self._known_background is not None:
                self._declare(self._background(), stream, gap)
            elif self._rule(stream).idle is Idle.KEEP:
                self._gaps.append((stream, gap))

    def _declare(self, live: LiveRun, stream: Stream, gap: Gap) -> None:
        if stream.kind is Kind.FILES:
            live.recording.file_gap(stream, gap)
        else:
            self._channel(live, stream).gap(gap)

    def reset(self, stream: Stream, reset: Reset) -> None:
        """A counter began again; rows have no counters to reset."""
        with self._lock:
            if self.foreground is not None and stream.kind is Kind.FRAMES:
                self._frames(self.foreground, stream).reset(reset)

    def run_for_file(self, stream: Stream, t_ns: int) -> LiveRun | None:
        """The run that a finished file belongs to; None: ignored."""
        with self._lock:
            self._seen(stream, 1, t_ns)
            if self.foreground is not None:
                return self.foreground
            if self._rule(stream).idle is Idle.IGNORE:
                self._ignore(stream, 1)
                return None
            return self._background()

    def take_ignored(self) -> dict[str, int]:
        """What was ignored since the last call, per stream."""
        with self._lock:
            counted, self.ignored = self.ignored, {}
            return counted

    def _background(self) -> LiveRun:
        """The background run; one that has just begun gets the last known values first."""
        live = self.background()
        if live is not self._known_background:
            self._known_background = live
            self._last_known(live)
            waiting, self._gaps = self._gaps, deque(maxlen=WAITING_GAPS)
            for stream, gap in waiting:
                self._declare(live, stream, gap)
        return live

    def _last_known(self, live: LiveRun) -> None:
        for stream, block in self._last.values():
            self._rows(live, stream).put_now(replace(block, valid=np.array([int(Valid.INITIAL)], "|u1")))

    def _holds(self, t_ns: int) -> bool:
        live = self.foreground
        return live is not None and t_ns >= live.entry.run.started_ns and (live.end_ns is None or t_ns <= live.end_ns)

    def _rule(self, stream: Stream) -> Rule:
        return self.rules.get(stream.instrument, Rule(Idle.IGNORE if stream.kind is Kind.FRAMES else Idle.KEEP))

    def _waits(self, stream: Stream) -> bool:
        return self.look_back > 0 or self._rule(stream).idle is Idle.RING

    def _wait(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        self._waiting_bytes += waiting.size

    def _idle_frame(self, stream: Stream, frame: Frame) -> bool:
        if self._rule(stream).idle is Idle.KEEP:
            return self._frames(self._background(), stream).offer(frame)
        self._ignore(stream, 1)
        return True

    def _idle_rows(self, stream: Stream, block: Block) -> list[tuple[RowChannel, Block]]:
        if self._rule(stream).idle is Idle.KEEP:
            return [(self._rows(self._background(), stream), block)]
        self._ignore(stream, len(block))
        return []

    def _ignore(self, stream: Stream, n: int) -> None:
        self.ignored[stream.key] = self.ignored.get(stream.key, 0) + n

    def _seen(self, stream: Stream, n: int, t_arrival: int) -> None:
        count = self.arrivals.get(stream.key, (0.0, 0))[1]
        self.arrivals[stream.key] = (t_arrival / 1e9, count + n)

    def _channel(self, live: LiveRun, stream: Stream) -> FrameChannel | RowChannel:
        key = (id(live), stream.key)
        channel = self._channels.get(key)
        if channel is None or channel.stream != stream:
            channel = live.recording.frames(stream) if stream.kind is Kind.FRAMES else live.recording.rows(stream)
            self._channels[key] = channel
        return channel

    def _frames(self, live: LiveRun, stream: Stream) -> FrameChannel:
        channel = self._channel(live, stream)
        assert isinstance(channel, FrameChannel)  # noqa: S101 - by the stream's kind
        return channel

    def _rows(self, live: LiveRun, stream: Stream) -> RowChannel:
        channel = self._channel(live, stream)
        assert isinstance(channel, RowChannel)  # noqa: S101 - by the stream's kind
        return channel


def take_rows(block: Block, rows: npt.NDArray[Any]) -> Block:
    """The given rows of a block, in order."""

    def part(column: npt.NDArray[Any] | None) -> Any:
        return None if column is None else column[rows]

    return Block(
        block.values[rows],
        block.t_source[rows],
        block.t_arrival[rows],
        part(block.t_server),
        part(block.valid),
        part(block.status),
        part(block.seq),
    )
