from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.model import NO_TIME, Cause, Gap, OutboxItem
from edge_agent.spool import Counts, Spool, StreamTotals, lost_text

MakeItem = Callable[..., OutboxItem]
Prove = Callable[..., None]
CAM = "cam/frames"


@pytest.mark.parametrize(
    ("lost", "unknown", "ns", "text"),
    [
        (0, 0, 0, "0"),
        (3, 0, 0, "3"),
        (0, 1, 4_200_000_000, "? (4.2 s)"),
        (3, 2, 1_900_000_000, "3 + ? (1.9 s)"),
        (0, 1, 0, "?"),
        (0, 1, 40_000_000, "? (0.0 s)"),
    ],
)
def test_a_loss_is_printed_as_it_is_known(lost: int, unknown: int, ns: int, text: str) -> None:
    assert lost_text(lost, unknown, ns) == text


@given(st.integers(0, 10**9), st.integers(1, 10**6), st.integers(0, 10**18))
def test_an_unknown_loss_is_never_printed_as_a_plain_number(lost: int, unknown: int, ns: int) -> None:
    assert "?" in lost_text(lost, unknown, ns)


@pytest.mark.parametrize(
    ("gap", "counts"),
    [
        (Gap(Cause.SOURCE, 5, 7, 3), Counts(lost=3, gaps=1)),
        (Gap(Cause.CRASH, t_from=10, t_to=25), Counts(gaps=1, unknown=1, unknown_ns=15)),
        (Gap(Cause.CRASH, t_from=NO_TIME, t_to=25), Counts(gaps=1, unknown=1)),
        (Gap(Cause.CRASH, t_from=30, t_to=25), Counts(gaps=1, unknown=1)),
        (Gap(Cause.GARBAGE, count=0), Counts(gaps=1)),
    ],
)
def test_a_gap_counts_what_it_knows(gap: Gap, counts: Counts) -> None:
    assert Counts().with_gap(gap) == counts


def test_an_item_moves_from_spooled_to_landed_and_nothing_is_counted_twice(spool: Spool, make_item: MakeItem, prove: Prove) -> None:
    item = make_item("a", counts={CAM: 100})
    spool.outbox.add(item, ["cloud", "disk"], counts={CAM: Counts(items=100, lost=4, gaps=2, unknown=1, unknown_ns=5, ignored=9)})
    assert spool.ledger.totals()[CAM] == StreamTotals(104, 0, 100, 0, 4, 1, 5, 9, 2)
    prove(spool, item, "cloud")
    assert spool.ledger.totals()[CAM].spooled == 100
    prove(spool, item, "disk")
    assert spool.ledger.totals()[CAM] == StreamTotals(104, 100, 0, 0, 4, 1, 5, 9, 2)
    assert spool.ledger.totals()[CAM].lost_text == "4 + ? (0.0 s)"


def test_live_counts_of_open_segments_are_spooled(spool: Spool, make_item: MakeItem) -> None:
    spool.outbox.add(make_item("a", counts={CAM: 10}), ["cloud"])
    totals = spool.ledger.totals({CAM: Counts(items=5, lost=1, gaps=1), "new/stream": Counts(items=2)})
    assert totals[CAM] == StreamTotals(16, 0, 15, 0, 1, 0, 0, 0, 1)
    assert totals["new/stream"].spooled == 2
    assert all(t.discrepancy == 0 for t in totals.values())


def test_a_recorder_that_counted_something_else_than_the_item_carries_shows_as_a_discrepancy(spool: Spool, make_item: MakeItem) -> None:
    spool.outbox.add(make_item("a", counts={CAM: 98}), ["cloud"], counts={CAM: Counts(items=100)})
    assert spool.ledger.totals()[CAM].discrepancy == 2


def test_a_loss_that_belongs_to_no_segment_is_counted_once_however_often_it_is_told(spool: Spool) -> None:
    for _ in range(3):
        spool.ledger.tally("down-since-42", {CAM: Counts(lost=7, gaps=1)})
    totals = spool.ledger.totals()[CAM]
    assert (totals.arrived, totals.lost, totals.discrepancy) == (7, 7, 0)


def test_a_quarantined_item_is_counted_there_and_moves_on_when_it_is_retried(spool: Spool, make_item: MakeItem, prove: Prove) -> None:
    item = make_item("a", counts={CAM: 10})
    spool.outbox.add(item, ["cloud"])
    spool.outbox.begin("a", "cloud")
    spool.outbox.quarantine("a", "cloud", "wrong digest")
    assert spool.ledger.totals()[CAM].quarantined == 10
    spool.quarantine.retry("a")
    prove(spool, item)
    assert spool.ledger.totals()[CAM].landed == 10


def test_what_an_optional_target_refuses_has_landed_all_the_same(spool: Spool, make_item: MakeItem, prove: Prove) -> None:
    item = make_item("a", counts={CAM: 10})
    spool.outbox.add(item, ["cloud", "disk"], required=["cloud"])
    prove(spool, item, "cloud")
    spool.outbox.begin("a", "disk")
    spool.outbox.quarantine("a", "disk", "wrong digest")
    assert spool.ledger.totals()[CAM].landed == 10


def test_the_audit_finds_a_sum_that_was_tampered_with(spool: Spool, make_item: MakeItem) -> None:
    spool.outbox.add(make_item("a", counts={CAM: 10}), ["cloud"])
    assert spool.ledger.audit() == []
    spool._db.run("UPDATE sums SET spooled = 9")
    assert spool.ledger.audit() == [f"{CAM}: spooled is 9, the details say 10"]
    spool._db.run("DELETE FROM sums")
    assert spool.ledger.audit() == [f"{CAM}: has details and no sum"]


def test_counts_add_field_by_field() -> None:
    total: Any = Counts(1, 2, 3, 4, 5, 6) + Counts(10, 20, 30, 40, 50, 60)
    assert total == Counts(11, 22, 33, 44, 55, 66)
