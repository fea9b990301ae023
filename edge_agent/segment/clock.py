"""Whether the heads of a segment tell a possible time (docs/signed-chunks.md, Clocks). Pure.

What is wrong here damages nothing: it is a warning, and a run that has one is at most signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from edge_agent.seal.head import Head
from edge_agent.seal.leaf import ClockLeaf

ALLOWED_NS = 5_000_000


def check_clock(heads: Sequence[Head], clocks: Sequence[tuple[int, ClockLeaf]]) -> str:
    """The first pair of heads of one boot whose wall clocks differ by more than boot time, CLOCK leaves and uncertainties explain.

    Args:
        heads: the anchor heads of one tree, in order.
        clocks: its CLOCK leaves with their numbers.

    Returns:
        A sentence, or nothing.
    """
    for number, (before, head) in enumerate(pairwise(heads), 1):
        if before.boot_id == head.boot_id:
            between = [item for index, item in clocks if before.size <= index < head.size]
            wrong = _pair(before, head, between)
            if wrong:
                return f"clock: from head {number - 1} to head {number} {wrong}"
    return ""


def _pair(before: Head, head: Head, between: Sequence[ClockLeaf]) -> str:
    passed = head.t_boot_ns - before.t_boot_ns
    if passed < 0:
        return f"the boot clock went back by {-passed / 1e9:.3f} s"
    gained = head.t_utc_ns - before.t_utc_ns - passed - sum(item.step_ns or 0 for item in between)
    if abs(gained) > ALLOWED_NS + passed // 2000 + _uncertainty(before) + _uncertainty(head):
        return f"the wall clock gained {gained / 1e9:.3f} s on the boot clock, and no CLOCK leaf says why"
    told = next((item.sync for item in reversed(between) if item.sync is not None), before.clock)
    if (told.source, told.synced) != (head.clock.source, head.clock.synced):
        return f"the clock became {_state(head)}, and no CLOCK leaf says so"
    return ""


def _uncertainty(head: Head) -> int:
    return max(head.clock.uncertainty_ns or 0, 0)


def _state(head: Head) -> str:
    return f"{head.clock.source}, {'synchronised' if head.clock.synced else 'not synchronised'}"
