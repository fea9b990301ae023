"""Sums of gaps, as the crate and the ledger print them."""

from __future__ import annotations

from edge_agent.model import NO_TIME
from edge_agent.record.counts import Loss, losses
from edge_agent.seal.leaf import GapLeaf


def gap(count: int | None, t_from: int = NO_TIME, t_to: int = NO_TIME) -> GapLeaf:
    return GapLeaf("a/b", None, None, "source", count, t_from, t_to)


def test_known_and_unknown_gaps_are_summed_apart() -> None:
    found = losses({"a/b": [gap(3), gap(None, 10, 25), gap(0), gap(None), gap(None, 30, 20)], "c/d": []})
    assert found == {"a/b": Loss(5, 3, 3, 15), "c/d": Loss()}
