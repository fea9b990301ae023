"""What "works" means for every place over the network: the same sentences for each, with real servers behind a way that fails."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from edge_agent.deliver.pace import Pace
from edge_agent.model import ItemKind, OutboxItem

MakeItem = Callable[..., OutboxItem]
EVERYWHERE = pytest.mark.parametrize("kind", ["s3", "grdm", "landing"])
DATA = os.urandom((5 << 20) + 1000)
"""Two parts, several pieces."""


@pytest.mark.parametrize("kind", [pytest.param("s3", marks=pytest.mark.slow), "grdm", "landing"])
async def test_an_agent_that_is_killed_before_any_of_the_answers_leaves_exactly_one_copy(
    kind: str, staged: Any, agent: Any, make_item: MakeItem
) -> None:
    """The server has done what it was asked, and nobody heard of it: for every answer of the whole exchange in turn."""
    stage, expected = await staged(kind), {}
    for answer in itertools.count(1):
        item = make_item(DATA)
        expected[item.remote] = [DATA]
        stage.relay.mute(answer)
        async with agent(stage) as first:
            first.add(item)
            await first.until(lambda: stage.relay.lost.is_set() or bool(first.proofs))
            over = bool(first.proofs)
        stage.relay.well()
        if over:
            break
        async with agent(stage) as second:
            await second.landed(item)
    assert answer > 4
    assert stage.kept() == expected


@EVERYWHERE
async def test_an_upload_that_is_cut_at_any_byte_arrives_whole(kind: str, staged: Any, agent: Any, make_item: MakeItem) -> None:
    stage, chance = await staged(kind), random.Random(42)
    async with agent(stage) as running:
        for after in (0, *(chance.randrange(len(DATA)) for _ in range(4)), len(DATA)):
            item = make_item(DATA)
            stage.relay.cut(after)
            running.add(item)
            await running.landed(item)
            assert stage.kept()[item.remote] == [DATA], after
            stage.relay.well()


async def test_a_bit_that_falls_over_on_the_way_is_never_proved(staged: Any, agent: Any, make_item: MakeItem) -> None:
    """At the service that checks nothing before it stores. An S3 store: tests/deliver/s3/test_faults.py; behind TLS the connection breaks."""
    stage = await staged("grdm")
    async with agent(stage) as running:
        for after in (100_000, len(DATA) - 100_000):
            item = make_item(DATA)
            stage.relay.flip(after)
            running.add(item)
            await running.landed(item)
            assert stage.kept()[item.remote][-1] == DATA


@EVERYWHERE
async def test_what_comes_during_an_outage_waits_and_goes_in_order_afterwards(
    kind: str, staged: Any, agent: Any, make_item: MakeItem
) -> None:
    stage = await staged(kind)
    async with agent(stage, in_flight=1) as running:
        before = make_item(b"before")
        running.add(before)
        await running.landed(before)
        await stage.relay.close()
        runs = [
            [make_item(os.urandom(1000), run), make_item(os.urandom(1000), run), make_item(b"{}", run, ItemKind.CRATE)] for run in (1, 2, 3)
        ]
        running.add(*(item for run in reversed(runs) for item in (run[2], run[0], run[1])))
        await running.until(lambda: running.engine.status()[0].state == "waiting")
        await stage.relay.open()
        await running.landed(*(item for run in runs for item in run))
        assert [proof.item_id for proof in running.proofs[1:]] == [item.item_id for run in runs for item in run]


class Turns(Pace):
    """Lets everything go at once, and keeps what asked for its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def delay(self, size: int) -> float:
        self.asked.append(size)
        return 0.0


@EVERYWHERE
async def test_every_byte_waits_for_its_turn_where_there_is_a_rate(kind: str, staged: Any, agent: Any, make_item: MakeItem) -> None:
    stage, items = await staged(kind), [make_item(DATA), make_item(b"small")]
    stage.pace = turns = Turns()
    async with agent(stage) as running:
        running.add(*items)
        await running.landed(*items)
    assert sum(turns.asked) == sum(item.size for item in items)
    assert max(turns.asked) <= 5 << 20


@pytest.mark.expects_errors
@pytest.mark.parametrize("kind", ["s3", "grdm"])
async def test_a_secret_that_is_wrong_loses_nothing_and_all_goes_once_it_is_right(
    kind: str, staged: Any, agent: Any, make_item: MakeItem
) -> None:
    """An agent that a landing service does not know, or knows no more: tests/landing/test_enrol.py and test_revocation.py."""
    stage, items = await staged(kind), [make_item(b"one"), make_item(b"two")]
    stage.wrong = True
    async with agent(stage) as running:
        running.add(*items)
        await running.until(lambda: running.engine.status()[0].state == "refused")
        assert stage.kept() == {}
        stage.wrong = False
        await running.landed(*items)
    assert stage.kept() == {item.remote: [item.path.read_bytes()] for item in items}


@pytest.mark.expects_errors
@pytest.mark.parametrize(
    ("kind", "limits"), [("grdm", {"quota": 1 << 20}), ("grdm", {"max_body": 1 << 20}), ("landing", {"max_size": 1 << 20})]
)
async def test_an_item_for_which_there_is_no_room_is_parked_and_the_others_go(
    kind: str, limits: dict[str, int], staged: Any, agent: Any, make_item: MakeItem
) -> None:
    """An S3 store says so in many ways: tests/deliver/s3/test_s3.py."""
    stage, large, small = await staged(kind, **limits), make_item(DATA), make_item(b"small")
    async with agent(stage, in_flight=1) as running:
        running.add(large, small)
        await running.landed(small)
        await running.until(lambda: running.spool.outbox.deliveries(large.item_id)[0].state == "parked")
    assert stage.kept() == {small.remote: [b"small"]}


@pytest.mark.expects_errors
@EVERYWHERE
async def test_a_name_that_is_taken_by_something_else_is_quarantined_and_nothing_is_replaced(
    kind: str, staged: Any, agent: Any, make_item: MakeItem
) -> None:
    stage, first, other, next_ = await staged(kind), make_item(b"first"), make_item(b"other"), make_item(b"next")
    other = OutboxItem(other.item_id, other.kind, other.path, first.remote, other.size, other.run_id, other.run_no, "p", other.label)
    async with agent(stage, in_flight=1) as running:
        running.add(first)
        await running.landed(first)
        running.add(other, next_)
        await running.landed(next_)
        await running.until(lambda: running.spool.outbox.deliveries(other.item_id)[0].state == "quarantined")
    assert stage.kept() == {first.remote: [b"first"], next_.remote: [b"next"]}
