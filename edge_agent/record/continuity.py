"""The counter of one frame stream: turns numbers into GAP and SEQ_RESET leaves so that ranges and gaps leave no hole.

The rule is Continuity of docs/signed-chunks.md. Invariant: after every call, ``last`` is what the leaves returned so far account for, and
the next number that needs no leaf is ``last + step``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_agent.model import NO_TIME, Cause, Gap, Reset
from edge_agent.seal.leaf import GapLeaf, SeqReset

MAX_COUNT = 2**63 - 1
"""What the ``gaps`` table of a segment can hold; a jump beyond it (a broken counter) has no count that means anything."""


@dataclass(slots=True)
class Continuity:
    """``last`` is the last number that a CHUNK, GAP or reset accounted for; None before the first."""

    source_id: str
    step: int
    last: int | None = None
    last_time: int = NO_TIME

    def before(self, number: int, t_arrival: int, cause: Cause = Cause.SOURCE) -> list[GapLeaf | SeqReset]:
        """Leaves that must stand before the frame ``number``: none when it is the next one."""
        leaves = self._up_to(number, t_arrival, cause)
        self.last, self.last_time = number, t_arrival
        return leaves

    def refused(self, gap: Gap, cause: Cause = Cause.SOURCE) -> list[GapLeaf | SeqReset]:
        """Leaves for frames ``gap.first`` to ``gap.last``, of which ``gap.count`` came and could not be taken.

        What is missing before them has ``cause``; what did not come between them is counted by itself, without numbers: one gap more,
        and not one for each hole, of which a source that loses every second frame has thousands.
        """
        assert gap.first is not None  # noqa: S101 - refused frames have numbers
        assert gap.last is not None  # noqa: S101
        leaves = self._up_to(gap.first, gap.t_from, cause)
        whole = self._range(gap, gap.first, gap.last)
        lost = 0 if whole.count is None or gap.count is None else whole.count - gap.count
        if lost <= 0:
            return [*leaves, whole]
        came = replace(whole, count=gap.count, detail=f"{gap.detail}; the other {lost} did not come")
        said = f"numbers between {whole.first} and {whole.last}, where what came was refused"
        return [*leaves, came, gap_leaf(self.source_id, Gap(Cause.SOURCE, None, None, lost, gap.t_from, gap.t_to, said))]

    def declared(self, gap: Gap, cause: Cause = Cause.SOURCE) -> list[GapLeaf | SeqReset]:
        """Leaves for a gap that the adapter declared; numbers already accounted for are not counted twice.

        A count that is not known stays so: the numbers that did not come need not be all that is missing.
        """
        if gap.first is None or gap.last is None:
            return [gap_leaf(self.source_id, gap)]
        first = gap.first
        if self.last is not None:
            following = self.last + self.step
            first = following if first <= following else following + -(-(first - following) // self.step) * self.step
        if gap.last < first:
            return []
        leaves = self._up_to(first, gap.t_from, cause)
        whole = self._range(gap, first, gap.last)
        leaves.append(whole if gap.count is not None else replace(whole, count=None))
        return leaves

    def reset(self, reset: Reset, cause: Cause = Cause.SOURCE) -> list[GapLeaf | SeqReset]:
        """The leaf for a reset that the adapter declared."""
        leaves = self._interruption(NO_TIME, cause)
        leaves.append(SeqReset(self.source_id, self.last, reset.first, reset.cause.value))
        self.last = reset.first - self.step
        return leaves

    def _up_to(self, number: int, t_ns: int, cause: Cause) -> list[GapLeaf | SeqReset]:
        """Leaves after which ``number`` may come: a gap over what it skips, and a reset when it is not on the way of the counter."""
        if self.last is None:
            return self._interruption(t_ns, cause)
        leaves: list[GapLeaf | SeqReset] = []
        following = self.last + self.step
        if number > following:
            end = following + (number - following - 1) // self.step * self.step
            gap = Gap(cause, following, end, self._count(following, end), self.last_time, t_ns)
            leaves.append(gap_leaf(self.source_id, gap))
            following = end + self.step
        if number != following:
            leaves += self._interruption(t_ns, cause) if not leaves else []
            leaves.append(SeqReset(self.source_id, following - self.step, number, Cause.RESTART.value))
        return leaves

    def _interruption(self, t_ns: int, cause: Cause) -> list[GapLeaf | SeqReset]:
        """What a counter that began again while nobody was watching cannot tell: something is missing, nobody knows how much."""
        if cause is not Cause.CRASH:
            return []
        return [gap_leaf(self.source_id, Gap(cause, t_from=self.last_time, t_to=t_ns))]

    def _range(self, gap: Gap, first: int, last: int) -> GapLeaf:
        """A gap from ``first`` to the last number of the counter that is not beyond ``last``; the counter goes on after it."""
        self.last = max(first, first + (last - first) // self.step * self.step)
        self.last_time = gap.t_to if gap.t_to != NO_TIME else self.last_time
        count = self._count(first, self.last)
        return GapLeaf(self.source_id, first, self.last, gap.cause.value, count, gap.t_from, gap.t_to, gap.detail)

    def _count(self, first: int, last: int) -> int | None:
        count = (last - first) // self.step + 1
        return count if count <= MAX_COUNT else None


def gap_leaf(source_id: str, gap: Gap) -> GapLeaf:
    """A GAP leaf as the adapter declared it; half a range of numbers is no range."""
    whole = gap.first is not None and gap.last is not None
    first, last = (gap.first, gap.last) if whole else (None, None)
    return GapLeaf(source_id, first, last, gap.cause.value, gap.count, gap.t_from, gap.t_to, gap.detail)
