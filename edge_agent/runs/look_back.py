"""What arrived and belongs to no run yet: it waits, because the message that opens its run may still come.

Items leave in the order in which they came, to a run that takes them (`take`) or to the idle rule (`overdue`). Memory is bounded:
beyond `LIMIT` the oldest leave early, and a run that opens over their time is told what it missed (`squeezed`). Not thread-safe:
used under the group's lock.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from edge_agent.model import NO_TIME, Block, Cause, Frame, Gap, Stream
from edge_agent.runs.live import LiveRun
from edge_agent.runs.rows import masked, size_of, take_rows

LIMIT = 256 << 20
PER_ITEM = 1024
"""What the objects around an item take, in bytes: much more than a single value has."""


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """An item: what, when it came (monotonic, s), and its size in bytes."""

    stream: Stream
    item: Block | Frame | Gap
    came: float
    size: int


@dataclass(frozen=True, slots=True)
class _Squeezed:
    """An item that left early: its numbers where it has one, source and arrival time (UTC ns)."""

    stream: Stream
    number: int | None
    n: int
    source: int
    arrival: int
    came: float


class LookBack:
    """See the module."""

    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()
        self._bytes = 0
        self._squeezed: deque[_Squeezed] = deque()

    def add(self, stream: Stream, item: Block | Frame | Gap) -> None:
        """Let it wait."""
        waiting = Waiting(stream, item, time.monotonic(), memory(item))
        self._waiting.append(waiting)
        self._bytes += waiting.size

    def has(self, stream: Stream) -> bool:
        """Whether something of a stream waits."""
        return any(waiting.stream.key == stream.key for waiting in self._waiting)

    def take(self, live: LiveRun, everything: Callable[[Stream], bool]) -> list[Waiting]:
        """What a run that opens takes: what its span holds, and all of the streams for which ``everything`` says so."""
        taken: list[Waiting] = []
        kept: deque[Waiting] = deque()
        for waiting in self._waiting:
            item = waiting.item
            if everything(waiting.stream):
                taken.append(waiting)
            elif isinstance(item, Block):
                inside = live.inside(item)
                if inside.any():
                    taken.append(replace(waiting, item=masked(item, inside)))
                if not inside.all():
                    rest = masked(item, ~inside)
                    kept.append(replace(waiting, item=rest, size=memory(rest)))
            elif live.holds(item.t_source, item.t_arrival) if isinstance(item, Frame) else live.touches(item):
                taken.append(waiting)
            else:
                kept.append(waiting)
        self._waiting = kept
        self._bytes = sum(waiting.size for waiting in kept)
        return taken

    def overdue(self, patience: Callable[[Stream], float]) -> list[Waiting]:
        """What waited longer than its stream's patience (s), and the oldest when too much waits."""
        now = time.monotonic()
        out: list[Waiting] = []
        kept: deque[Waiting] = deque()
        for waiting in self._waiting:
            limit = patience(waiting.stream)
            late = now - waiting.came > limit
            if not late and self._bytes <= LIMIT:
                kept.append(waiting)
                continue
            if not late:
                self._note(waiting)
            self._bytes -= waiting.size
            out.append(waiting)
        self._waiting = kept
        while self._squeezed and now - self._squeezed[0].came > patience(self._squeezed[0].stream):
            self._squeezed.popleft()
        return out

    def clear(self) -> list[Waiting]:
        """Everything that waits, however long it has."""
        out, self._waiting, self._bytes = list(self._waiting), deque(), 0
        return out

    def squeezed(self, live: LiveRun) -> list[tuple[Stream, Gap]]:
        """What left early and would have belonged to this run, one gap a stream."""
        gaps: dict[str, tuple[Stream, Gap]] = {}
        for gone in self._squeezed:
            if not live.holds(gone.source, gone.arrival):
                continue
            _, before = gaps.get(gone.stream.key, (gone.stream, None))
            if before is None:
                gap = Gap(Cause.OVERLOAD, gone.number, gone.number, gone.n, gone.arrival, gone.arrival, "the look-back was full")
            else:
                count = None if before.count is None else before.count + gone.n
                gap = replace(before, last=gone.number, count=count, t_to=gone.arrival)
            gaps[gone.stream.key] = (gone.stream, gap)
        return list(gaps.values())

    def last_rows(self) -> dict[str, tuple[Stream, Block]]:
        """The last row of each stream that waits."""
        last: dict[str, tuple[Stream, Block]] = {}
        for waiting in self._waiting:
            if isinstance(waiting.item, Block):
                last[waiting.stream.key] = (waiting.stream, take_rows(waiting.item, np.array([len(waiting.item) - 1])))
        return last

    def _note(self, waiting: Waiting) -> None:
        item = waiting.item
        if isinstance(item, Frame):
            self._squeezed.append(_Squeezed(waiting.stream, item.number, 1, item.t_source, item.t_arrival, waiting.came))
        elif isinstance(item, Block):
            source = int(item.t_source[-1]) if len(item) else NO_TIME
            self._squeezed.append(_Squeezed(waiting.stream, None, len(item), source, int(item.t_arrival[-1]), waiting.came))


def memory(item: Block | Frame | Gap) -> int:
    """Bytes that an item takes while it waits."""
    data = item.data.nbytes if isinstance(item, Frame) else size_of(item) if isinstance(item, Block) else 0
    return int(data) + PER_ITEM
