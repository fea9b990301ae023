"""A run that is being recorded, and what happens when one of its segments closes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_agent.record.recording import Recording
from edge_agent.record.segment_writer import Closed
from edge_agent.runs.book import RunEntry
from edge_agent.spool.ledger import Counts


@dataclass(slots=True, eq=False)
class LiveRun:
    """``end_ns`` set: data up to that source time still belongs here, and the run closes after a grace time."""

    entry: RunEntry
    recording: Recording
    end_ns: int | None = None
    held: dict[bytes, Closed] = field(default_factory=dict)
    """Closed segments that are not in the outbox yet (their final name is given at the end of the run)."""
    facts: dict[str, dict[str, str | int | float]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def open_counts(self) -> dict[str, Counts]:
        """What is durable here and not yet in the outbox, per stream."""
        totals: dict[str, Counts] = {}
        for series in self.recording.series():
            segment = series.segment
            if segment is None:
                continue
            if series.with_data:
                for key, n in dict(segment.live.arrived).items():
                    totals[key] = totals.get(key, Counts()) + Counts(items=n)
            add_gaps(totals, dict(segment.gaps))
        with self.lock:
            held = list(self.held.values())
        for closed in held:
            for key, counts in counts_of(closed).items():
                totals[key] = totals.get(key, Counts()) + counts
        return totals


def counts_of(closed: Closed) -> dict[str, Counts]:
    """Items and gaps of a closed segment; the files of a file series are counted by their own outbox items."""
    totals = {key: Counts(items=n) for key, n in closed.counts.items()} if closed.size else {}
    add_gaps(totals, closed.gaps)
    return totals


def add_gaps(totals: dict[str, Counts], gaps: Mapping[str, object]) -> None:
    """Add GAP leaves to counts."""
    for key, leaves in gaps.items():
        counts = totals.get(key, Counts())
        for gap in leaves:  # type: ignore[attr-defined]
            counts = counts.with_gap(gap)
        totals[key] = counts
