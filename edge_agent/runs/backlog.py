"""What belongs to runs of the day that have not begun yet: it waits here, by run and in order.

Bounded: beyond `LIMIT` bytes no data is taken any more. What came all the same is a range of numbers that stands behind what waits of its
stream, where it would have stood itself, and grows however long that lasts; its counter that begins again makes another range. Not
thread-safe: used under the group's lock.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date

from edge_agent.model import Block, Frame, Gap, Reset, Stream
from edge_agent.runs.day import Day
from edge_agent.runs.last_known import Known
from edge_agent.runs.look_back import PER_ITEM, memory
from edge_agent.runs.ranges import grown, joined
from edge_agent.runs.rows import events

LIMIT = 256 << 20


@dataclass(slots=True, eq=False)
class Due:
    """An item, and its bytes; of a gap ``refused``: it came here, and there was no room for it."""

    stream: Stream
    item: Block | Frame | Gap | Reset
    size: int = PER_ITEM
    refused: bool = False

    @property
    def n(self) -> int:
        """How many items came."""
        if isinstance(self.item, Block):
            return events(self.item)
        if isinstance(self.item, Gap):
            return (self.item.count or 0) if self.refused else 0
        return int(isinstance(self.item, Frame))


@dataclass(slots=True)
class _Unbegun:
    """A run that something waits for: the values that were known when the first came, what waits, and the last of each stream."""

    day: Day
    known: Known
    items: deque[Due] = field(default_factory=deque)
    last: dict[str, Due] = field(default_factory=dict)

    def append(self, due: Due) -> None:
        self.items.append(due)
        self.last[due.stream.key] = due

    def popleft(self) -> Due:
        due = self.items.popleft()
        if self.last[due.stream.key] is due:
            del self.last[due.stream.key]
        return due


class Backlog:
    """See the module."""

    def __init__(self, known: Callable[[], Known]) -> None:
        """Nothing waits. ``known`` is asked once for each run: the last known values, when the first item for it comes."""
        self._known = known
        self._runs: dict[tuple[date, str], _Unbegun] = {}
        self._bytes = 0

    def first(self) -> Day | None:
        """The run that is waited for longest."""
        return next((run.day for run in self._runs.values()), None)

    def streams(self) -> set[str]:
        """The streams of which something waits."""
        return {key for run in self._runs.values() for key in run.last}

    def waits(self, day: Day) -> bool:
        """Whether something waits for that run."""
        return day.key in self._runs

    def known(self, day: Day) -> Known:
        """The last known values with which that run begins."""
        return self._runs[day.key].known

    def add(self, day: Day, stream: Stream, item: Block | Frame) -> bool:
        """Let it wait; False: there is no room."""
        size = memory(item)
        if self._bytes + size > LIMIT:
            return False
        self._append(self._run(day), Due(stream, item, size))
        return True

    def refuse(self, day: Day, stream: Stream, gap: Gap) -> None:
        """Remember what came and found no room."""
        run = self._run(day)
        last = run.last.get(stream.key)
        if last is not None and last.refused and isinstance(last.item, Gap) and last.item.cause is gap.cause:
            longer = grown(last.item, gap)
            if longer is not None:
                last.item = longer
                return
        self._append(run, Due(stream, gap, refused=True))

    def add_behind(self, stream: Stream, item: Gap | Reset) -> bool:
        """Let it wait behind what waits of its stream; False: nothing does."""
        run = next((run for run in reversed(self._runs.values()) if stream.key in run.last), None)
        if run is None:
            return False
        last = run.last[stream.key]
        if isinstance(item, Gap) and isinstance(last.item, Gap) and self._bytes + PER_ITEM > LIMIT:
            # There is no room for one after the other, however often a source declares something.
            both = joined(last.item, item)
            if both is not None:
                last.item = both
                return True
        self._append(run, Due(stream, item))
        return True

    def take(self, day: Day, n: int) -> list[Due]:
        """The first ``n`` that wait for that run; with the last one nothing waits for it any more."""
        run = self._runs.get(day.key)
        if run is None:
            return []
        taken = [run.popleft() for _ in range(min(n, len(run.items)))]
        self._bytes -= sum(due.size for due in taken)
        if not run.items:
            del self._runs[day.key]
        return taken

    def give_up(self) -> Mapping[str, int]:
        """Let go of everything: how many items of each stream that was, with those for which there had been no room."""
        lost: Counter[str] = Counter()
        for run in self._runs.values():
            for due in run.items:
                lost[due.stream.key] += due.n
        self._runs.clear()
        self._bytes = 0
        return lost

    def _run(self, day: Day) -> _Unbegun:
        run = self._runs.get(day.key)
        if run is None:
            run = self._runs[day.key] = _Unbegun(day, self._known())
        return run

    def _append(self, run: _Unbegun, due: Due) -> None:
        run.append(due)
        self._bytes += due.size
