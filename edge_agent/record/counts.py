"""What a segment holds and what it says is missing, per stream: the numbers that the conservation ledger adds up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_agent.model import NO_TIME
from edge_agent.seal.leaf import GapLeaf


@dataclass(frozen=True, slots=True)
class Loss:
    """Gaps of one stream: how many, how many items are known to be missing, and the gaps of unknown size with their time in ns."""

    gaps: int = 0
    known: int = 0
    unknown: int = 0
    unknown_ns: int = 0

    def plus(self, gap: GapLeaf) -> Loss:
        """With one more gap."""
        if gap.count is not None:
            return Loss(self.gaps + 1, self.known + gap.count, self.unknown, self.unknown_ns)
        timed = gap.t_from != NO_TIME and gap.t_to != NO_TIME
        span = max(0, gap.t_to - gap.t_from) if timed else 0
        return Loss(self.gaps + 1, self.known, self.unknown + 1, self.unknown_ns + span)


def losses(gaps: Mapping[str, list[GapLeaf]]) -> dict[str, Loss]:
    """Sum of the gaps of each stream."""
    summed: dict[str, Loss] = {}
    for key, leaves in gaps.items():
        loss = Loss()
        for gap in leaves:
            loss = loss.plus(gap)
        summed[key] = loss
    return summed


@dataclass(slots=True)
class LiveCounts:
    """Durable items of a segment that is still open, per stream key; updated by the commit thread."""

    arrived: dict[str, int] = field(default_factory=dict)

    def add(self, key: str, n: int) -> None:
        """Count ``n`` items that a commit made durable."""
        self.arrived[key] = self.arrived.get(key, 0) + n
