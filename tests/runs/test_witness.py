from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.errors import TargetUnreachable
from edge_agent.model import Frame, Stream
from edge_agent.record.session import Newest
from edge_agent.runs.book import Stage
from edge_agent.runs.held import PREFIX, Held
from edge_agent.seal import cose
from edge_agent.seal.head import head_hash, parse_head
from edge_agent.seal.receipt import Witness, parse_receipts, parse_witness
from edge_agent.wire.refusal import Code, LogSizeDiffers, Refusal

New = Callable[..., Any]


@dataclass
class Notary:
    """Countersigns what it is shown; can be away, and can have seen another size last."""

    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    away: bool = False
    seen: int = 0
    asked: list[tuple[int, int]] = field(default_factory=list)

    async def witness(self, head: bytes, chain: bytes, proof: Sequence[bytes], first: int) -> bytes:
        if self.away:
            raise TargetUnreachable("The notary does not answer.")
        payload = cose.payload_of(head)
        shown = parse_head(payload)
        self.asked.append((first, shown.size))
        if first != self.seen:
            raise LogSizeDiffers(self.seen, Refusal(Code.LOG_SIZE, "another size"), "here")
        self.seen = shown.size
        return cose.sign(
            self.key, cose.WITNESS, Witness(shown.agent_id, shown.tree_id, shown.size, shown.root, head_hash(payload), 7).payload()
        )


def stage(house: Any) -> str:
    return {e.run.run_no: e.stage.value for e in (*house.keeper.book.entries(), *house.keeper.book.past())}[1]


async def one_run(house: Any, camera: Stream, frame: Callable[..., Frame]) -> Any:
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    await house.desk.stop("bl")
    return run


def receipts(house: Any, run: Any) -> Any:
    return parse_receipts((house.keeper.folder(run) / f"{run.name}.receipts").read_bytes())


def covering(house: Any, run: Any) -> int:
    """How many witnesses saw the segments of a run; one that its close head names saw less."""
    held = receipts(house, run)
    sizes = {inclusion.size for inclusion in held.inclusions}
    return sum(parse_witness(cose.parse(data).payload).size in sizes for data in held.receipts)


async def test_a_witness_that_is_away_holds_up_neither_the_run_nor_another_witness(
    new_house: New, camera: Stream, frame: Callable[..., Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.runs.witness.RETRY", 0.05)
    here, away = Notary(), Notary(away=True)
    house = new_house(targets=("here", "away"))
    await house.open("bl", witnesses={"here": here, "away": away})
    run = await one_run(house, camera, frame)
    item = f"{run.run_id.hex()}-"
    await house.until(lambda: any(i.kind.value == "crate" for i in house.spool.outbox.items_of_run(run.run_id)))
    assert covering(house, run) == 1
    assert stage(house) == Stage.CLOSED.value
    assert house.witnessing.errors == {"away": "The notary does not answer."}
    first = next(i for i in house.spool.outbox.items_of_run(run.run_id) if i.kind.value == "receipts")
    assert first.item_id.startswith(item)
    away.away = False
    await house.complete()
    assert covering(house, run) == 2
    again = next(i for i in house.spool.outbox.items_of_run(run.run_id) if i.kind.value == "receipts")
    assert (again.item_id, again.sha256 == first.sha256) == (first.item_id, False)
    assert house.witnessing.errors == {}


async def test_a_run_waits_for_its_first_witness(
    new_house: New, camera: Stream, frame: Callable[..., Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.runs.witness.RETRY", 0.05)
    away = Notary(away=True)
    house = new_house(targets=("away",))
    await house.open("bl", witnesses={"away": away})
    run = await one_run(house, camera, frame)
    await house.until(lambda: bool(house.witnessing.errors))
    assert stage(house) == Stage.CLOSED.value
    assert not (house.keeper.folder(run) / f"{run.name}.receipts").exists()
    assert {i.kind.value for i in house.spool.outbox.items_of_run(run.run_id)} == {"segment", "sidecar", "manifest"}
    away.away = False
    await house.complete()


async def test_a_witness_that_saw_another_size_is_asked_from_there(new_house: New, camera: Stream, frame: Callable[..., Frame]) -> None:
    notary = Notary()
    house = new_house(targets=("here",))
    await house.open("bl", witnesses={"here": notary})
    await one_run(house, camera, frame)
    await house.complete()
    seen = notary.seen
    house.spool.state.delete("witness/here")  # the spool was restored from a copy
    house.witnessing.wake.set()
    house.desk.start("bl", project="p")
    await house.desk.stop("bl")
    await house.complete(2)
    assert [first for first, _ in notary.asked].count(seen) == 1


async def test_a_run_that_goes_to_one_of_two_witnessing_targets_waits_for_that_one_only(
    new_house: New, camera: Stream, frame: Callable[..., Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.runs.witness.RETRY", 0.05)
    house = new_house(targets=("here",))
    await house.open("bl", witnesses={"here": Notary(), "away": Notary(away=True)})
    run = await one_run(house, camera, frame)
    await house.complete()
    assert covering(house, run) == 1


async def test_waiting_for_something_to_witness_ends_when_it_is_cancelled_at_the_moment_that_it_is_woken(new_house: New) -> None:
    house = new_house()
    await house.open("bl")
    for _ in range(50):
        task = asyncio.create_task(house.witnessing.run())
        await asyncio.sleep(0.001)
        house.witnessing.wake.set()
        task.cancel()
        async with asyncio.timeout(5):
            await asyncio.wait([task])
        assert task.cancelled()


def close_head(house: Any, run: Any) -> Any:
    (closed,) = house.segments[run.run_no]
    return parse_head(cose.payload_of(closed.head_cose))


async def test_a_close_head_names_the_newest_receipt_and_the_receipts_of_its_run_hold_it(
    new_house: New, camera: Stream, frame: Callable[..., Frame]
) -> None:
    """Also after a restart, and when more receipts came meanwhile: what a head names is kept with its run."""
    house = new_house(targets=("here",))
    notary = Notary()
    await house.open("bl", witnesses={"here": notary})
    assert house.agent_log.head().head.not_before is None, "nothing was witnessed yet"
    await one_run(house, camera, frame)
    await house.complete()
    before = house.keeper.spool.state.get(f"{PREFIX}{house.keeper.session.newest.receipt.hex()}")
    await house.stop()
    await house.open("bl", witnesses={"here": notary})
    second = await one_run(house, camera, frame)
    await house.complete(2)
    named = close_head(house, second).not_before
    held = {hashlib.sha256(data).digest(): data for data in receipts(house, second).receipts}
    assert named in held
    assert parse_witness(cose.parse(held[named]).payload).t_ns == 7
    assert parse_witness(cose.parse(before).payload).size <= parse_witness(cose.parse(held[named]).payload).size
    assert parse_head(house.agent_log.head().head.payload()).not_before == house.keeper.session.newest.receipt


async def test_the_receipt_that_a_head_names_outlives_the_database(new_house: New, camera: Stream, frame: Callable[..., Frame]) -> None:
    notary = Notary()
    house = new_house(targets=("here",))
    await house.open("bl", witnesses={"here": notary})
    await one_run(house, camera, frame)
    await house.complete()
    notary.away = True
    second = await one_run(house, camera, frame)
    named = parse_head(cose.payload_of(house.keeper.book.segments(second, house.keeper.folder(second))[0].head_cose)).not_before
    await house.stop()
    for path in house.folder.glob("spool.db*"):
        path.unlink()
    notary.away = False
    await house.open("bl", witnesses={"here": notary})
    await house.until(lambda: (house.keeper.folder(second) / f"{second.name}.receipts").exists())
    assert named in {hashlib.sha256(data).digest() for data in receipts(house, second).receipts}


async def test_held_receipts_are_bounded_and_those_of_another_agent_are_not_named(new_house: New, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.runs.held.KEPT", 3)
    monkeypatch.setattr("edge_agent.runs.held.SLACK", 1)
    house = new_house()
    await house.open("bl")
    state, key, agent = house.keeper.spool.state, Ed25519PrivateKey.generate(), house.identity.agent_id
    told = [cose.sign(key, cose.WITNESS, Witness(agent, bytes(16), n, bytes(32), bytes(32), 100 - n).payload()) for n in range(9)]
    for receipt in told:
        house.keeper.held.take(receipt)
        house.keeper.held.take(receipt)
        assert house.keeper.session.newest.receipt == hashlib.sha256(receipt).digest()
        assert state.get(f"{PREFIX}{hashlib.sha256(receipt).hexdigest()}") == receipt
    assert len(state.under(PREFIX)) <= 5
    newest = Newest()
    Held(state, newest, agent)
    assert newest.receipt == hashlib.sha256(told[-1]).digest()
    other = Newest()
    Held(state, other, bytes(16))
    assert other.receipt is None
