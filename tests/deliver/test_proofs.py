from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from edge_agent.deliver.proofs import Proofs
from edge_agent.errors import IntegrityError
from edge_agent.model import OutboxItem, Proof, Receipt
from edge_agent.spool import Spool

MakeItem = Callable[..., OutboxItem]


class Slow:
    """The outbox behind a gate; what came to it at once."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.began, self.gate = threading.Event(), threading.Event()
        self.calls: list[list[str]] = []

    def take(self, receipts: Sequence[Receipt]) -> Sequence[bool | IntegrityError]:
        self.calls.append([receipt.item_id for receipt in receipts])
        self.began.set()
        assert self.gate.wait(60)
        return self.spool.outbox.take_proofs(receipts)


@pytest.fixture
def receipts(spool: Spool, make_item: MakeItem) -> list[Receipt]:
    """Of six items on their way, the fourth one with a proof for other bytes, the fifth of nobody."""
    made = []
    for n in range(6):
        item = make_item(f"i{n}", sha256=bytes([n]) * 32)
        spool.outbox.add(item, ["disk"])
        assert spool.outbox.begin(item.item_id, "disk")
        made.append(Receipt("disk", item.item_id if n != 4 else "nobody", bytes([n if n != 3 else 9]) * 32, item.size, Proof.READ_BACK, 1))
    return made


async def test_proofs_that_come_while_the_outbox_is_busy_go_in_together_and_each_gets_its_own_answer(
    spool: Spool, receipts: list[Receipt]
) -> None:
    slow = Slow(spool)
    proofs = Proofs(slow.take)
    first = asyncio.create_task(proofs.put(receipts[0]))
    await asyncio.to_thread(slow.began.wait, 60)
    others = [asyncio.create_task(proofs.put(receipt)) for receipt in receipts[1:]]
    await asyncio.sleep(0)
    assert not any(task.done() for task in (first, *others))
    slow.gate.set()
    assert await first
    answers = await asyncio.gather(*others, return_exceptions=True)
    assert slow.calls == [["i0"], ["i1", "i2", "i3", "nobody", "i5"]]
    assert [answers[0], answers[1], answers[3], answers[4]] == [True, True, False, True]
    assert isinstance(answers[2], IntegrityError)
    states = [spool.outbox.deliveries(f"i{n}")[0].state for n in range(6)]
    assert states == ["proved", "proved", "proved", "sending", "sending", "proved"]
    assert spool.ledger.audit() == []


async def test_what_the_outbox_refuses_is_told_to_everybody_and_the_next_proof_is_taken(spool: Spool, receipts: list[Receipt]) -> None:
    refused = OSError("no space left on device")

    def take(given: Sequence[Receipt]) -> Sequence[bool | IntegrityError]:
        if refusing:
            raise refused
        return spool.outbox.take_proofs(given)

    refusing = True
    proofs = Proofs(take)
    assert await asyncio.gather(*(proofs.put(r) for r in receipts[:3]), return_exceptions=True) == [refused] * 3
    refusing = False
    assert await proofs.put(receipts[0])


async def test_closing_leaves_nobody_behind(spool: Spool, receipts: list[Receipt]) -> None:
    slow = Slow(spool)
    proofs = Proofs(slow.take)
    task = asyncio.create_task(proofs.put(receipts[0]))
    await asyncio.to_thread(slow.began.wait, 60)
    task.cancel()
    slow.gate.set()
    await proofs.close()
    with pytest.raises(asyncio.CancelledError):
        await task
