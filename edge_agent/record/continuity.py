"""The counter of one frame stream: turns numbers into GAP and SEQ_RESET leaves so that ranges and gaps leave no hole (docs/signed-chunks.md, Continuity)."""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.model import NO_TIME, Cause, Gap, Reset
from edge_agent.seal.leaf import GapLeaf, SeqReset


@dataclass(slots=True)
class Continuity:
    """``last`` is the last number that a CHUNK, GAP or reset accounted for; None before the first."""

    source_id: str
    step: int
    last: int | None = None
    last_time: int = NO_TIME

    def before(self, number: int, t_arrival: int, cause: Cause = Cause.SOURCE) -> list[GapLeaf | SeqReset]:
        """Leaves that must stand before the frame ``number``: none when it is the next one."""
        leaves: list[GapLeaf | SeqReset] = []
        if self.last is not None and number <= self.last:
            leaves.append(SeqReset(self.source_id, self.last, number, Cause.RESTART.value))
        elif self.last is not None and number > self.last + self.step:
            first = self.last + self.step
            count = (number - first) // self.step
            leaves.append(GapLeaf(self.source_id, first, number - self.step, cause.value, count, self.last_time, t_arrival))
        self.last, self.last_time = number, t_arrival
        return leaves

    def declared(self, gap: Gap) -> list[GapLeaf]:
        """Leaves for a gap that the adapter or the inlet declared; numbers already accounted for are not counted twice."""
        if gap.first is None or gap.last is None:
            return [gap_leaf(self.source_id, gap)]
        first = gap.first if self.last is None else max(gap.first, self.last + self.step)
        if gap.last < first:
            return []
        leaves: list[GapLeaf] = []
        if self.last is not None and first > self.last + self.step:
            between = self.last + self.step
            count = (first - between) // self.step
            leaves.append(GapLeaf(self.source_id, between, first - self.step, Cause.SOURCE.value, count, self.last_time, gap.t_from))
        count = (gap.last - first) // self.step + 1
        leaves.append(GapLeaf(self.source_id, first, gap.last, gap.cause.value, count, gap.t_from, gap.t_to, gap.detail))
        self.last = gap.last
        return leaves

    def reset(self, reset: Reset) -> list[SeqReset]:
        """The leaf for a reset that the adapter declared."""
        last, self.last = self.last, reset.first - self.step
        return [SeqReset(self.source_id, last, reset.first, reset.cause.value)]


def gap_leaf(source_id: str, gap: Gap) -> GapLeaf:
    """A GAP leaf as the adapter declared it."""
    return GapLeaf(source_id, gap.first, gap.last, gap.cause.value, gap.count, gap.t_from, gap.t_to, gap.detail)
