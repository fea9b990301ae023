"""Ranges of what was refused: they grow while nothing is taken, however long that lasts."""

from __future__ import annotations

from dataclasses import replace

from edge_agent.model import Gap


def grown(before: Gap, gap: Gap) -> Gap | None:
    """``before`` and what came next in one range; None where the counter began again meanwhile, which makes another one."""
    if before.last is not None and gap.last is not None and gap.last < before.last:
        return None
    count = None if before.count is None or gap.count is None else before.count + gap.count
    return replace(before, last=gap.last, count=count, t_to=gap.t_to)


def joined(before: Gap, gap: Gap) -> Gap | None:
    """``before`` and a gap that its source declared behind it, with numbers or without; None where they make no range."""
    if gap.last is None:
        return grown(before, replace(gap, last=before.last, t_to=max(before.t_to, gap.t_to)))
    return None if before.last is None else grown(before, gap)
