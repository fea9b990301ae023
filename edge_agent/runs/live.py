"""A run that is being recorded: its span in time, what it takes, and what it holds that the outbox does not have yet."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edge_agent.model import NO_TIME, Block, Gap
from edge_agent.record.clock import boot_time_ns
from edge_agent.record.counts import losses
from edge_agent.record.gate import Gate
from edge_agent.record.recording import Recording
from edge_agent.record.segment_writer import Closed, SegmentWriter
from edge_agent.runs.book import RunEntry
from edge_agent.runs.intake import Intake
from edge_agent.runs.rows import Mask, source_times
from edge_agent.seal.leaf import GapLeaf
from edge_agent.spool.ledger import Counts

SET_BACK_NS = 10**9
"""A clock that was set back by more is noticed here; by less it decides no more than a frame that was late."""


@dataclass(slots=True, eq=False)
class LiveRun:
    """``end_ns`` set: data of the time before it still belongs here, and the run closes after a grace time.

    A trigger's run holds what its source dates within [start, end]: the clocks of a beamline are compared with each other, and the
    message may be late. A session is a person's word at this machine: it holds what comes while it is open, and after its end what
    was dated before it; a source whose clock is wrong is not left out. When this machine's clock is set back, what comes then did not come
    before the start: `begin_ns` moves with it.
    """

    entry: RunEntry
    recording: Recording
    intake: Intake
    now_ns: Callable[[], int] = time.time_ns
    boot_ns: Callable[[], int] = boot_time_ns
    end_ns: int | None = None
    held: dict[bytes, Closed] = field(default_factory=dict)
    """Closed segments that are not in the outbox yet."""
    adopting: Gate = field(default_factory=Gate)
    """Vendor files that are being copied into the run."""
    opened: dict[str, SegmentWriter] = field(default_factory=dict)
    """The last open segment of each series, until it is handed over: one whose disk failed is not forgotten while it waits for recovery."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    _ahead: int = field(init=False)
    _opened: int = field(init=False)

    def __post_init__(self) -> None:
        """Note both clocks. A run that goes on under a clock that is behind its start (an empty battery) takes what comes from now on."""
        now = self.now_ns()
        self._ahead = now - self.boot_ns()
        start = self.entry.run.started_ns
        self._opened = now if start - now > SET_BACK_NS else start

    def begin_ns(self) -> int:
        """The start, as this machine's clock would give it now (UTC ns)."""
        back = self._ahead - (self.now_ns() - self.boot_ns())
        return self._opened - back if back > SET_BACK_NS else self._opened

    def holds(self, source: int, arrival: int) -> bool:
        """Whether an item of these times (UTC ns, ``source`` may be `NO_TIME`) belongs to this run."""
        dated = arrival if source == NO_TIME else source
        session = self.entry.kind == "session"
        begun = source != NO_TIME and source >= self.entry.run.started_ns
        if not begun and (session or source == NO_TIME):
            begun = arrival >= self.begin_ns()
        first = min(dated, arrival) if session else dated
        return begun and (self.end_ns is None or first <= self.end_ns)

    def holds_all(self, block: Block) -> bool:
        """Whether all rows are sure to belong to this run: the common case, told from one column. False: look at each (`inside`)."""
        times = block.t_arrival if self.entry.kind == "session" else block.t_source
        return self.end_ns is None and int(times.min()) >= self.entry.run.started_ns

    def inside(self, block: Block) -> Mask:
        """Which rows belong to this run."""
        dated = source_times(block)
        session = self.entry.kind == "session"
        arrived = block.t_arrival >= self.begin_ns()
        inside: Mask = (dated >= self.entry.run.started_ns) | (arrived & (session | (dated == block.t_arrival)))
        first = np.minimum(dated, block.t_arrival) if session else dated
        return inside if self.end_ns is None else inside & (first <= self.end_ns)

    def touches(self, gap: Gap) -> bool:
        """Whether something may be missing in this run; a gap without times belongs to a run that is open."""
        if gap.t_to == NO_TIME or gap.t_from == NO_TIME:
            return self.end_ns is None
        return gap.t_to >= self.begin_ns() and (self.end_ns is None or gap.t_from <= self.end_ns)

    def look(self) -> None:
        """Remember the open segments; called a few times a second."""
        with self.lock:
            for series in self.recording.series():
                segment = series.segment
                if segment is not None:
                    self.opened[series.name] = segment

    def handed_over(self, segment_id: bytes) -> None:
        """A segment is counted elsewhere now, or was never durable; under ``lock``."""
        for name, segment in list(self.opened.items()):
            if segment.opening.segment_id == segment_id:
                self.opened.pop(name, None)

    def open_counts(self) -> dict[str, Counts]:
        """What is durable here and not yet in the outbox, per stream."""
        totals: dict[str, Counts] = {}
        for series in self.recording.series():
            segment = series.segment or self.opened.get(series.name)
            if segment is None:
                continue
            if series.with_data:
                for key, n in dict(segment.live.arrived).items():
                    totals[key] = totals.get(key, Counts()) + Counts(items=n)
            _add_gaps(totals, dict(segment.gaps))
        with self.lock:
            held = list(self.held.values())
        for closed in held:
            for key, counts in counts_of(closed).items():
                totals[key] = totals.get(key, Counts()) + counts
        return totals


def counts_of(closed: Closed) -> dict[str, Counts]:
    """Items and gaps of a closed segment; the files of a file series are counted by their own outbox items."""
    totals = {key: Counts(items=n) for key, n in closed.counts.items()} if closed.size else {}
    _add_gaps(totals, closed.gaps)
    return totals


def _add_gaps(totals: dict[str, Counts], gaps: Mapping[str, Sequence[GapLeaf]]) -> None:
    for key, loss in losses({key: list(leaves) for key, leaves in gaps.items()}).items():
        missing = Counts(lost=loss.known, gaps=loss.gaps, unknown=loss.unknown, unknown_ns=loss.unknown_ns)
        totals[key] = totals.get(key, Counts()) + missing
