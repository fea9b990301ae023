from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_agent.deliver.backoff import Backoff
from edge_agent.deliver.engine import Engine
from edge_agent.deliver.lane import SMALL
from edge_agent.errors import IntegrityError, PermissionRefused, TargetUnreachable
from edge_agent.model import Access, ItemKind, Label, OutboxItem, Proof, Receipt
from edge_agent.provenance.policy import PolicyGate
from edge_agent.spool import Spool

MakeItem = Callable[..., OutboxItem]
Faulty = Callable[[str], Any]
FAST = Backoff(0.01, 0.05)


@asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[Engine]:
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def state(spool: Spool, item_id: str, target: str = "cloud") -> str:
    return {d.target: d.state for d in spool.outbox.deliveries(item_id)}[target]


def reason(spool: Spool, item_id: str, target: str = "cloud") -> str:
    return {d.target: d.reason for d in spool.outbox.deliveries(item_id)}[target]


async def test_items_reach_every_target_and_are_proved(
    spool: Spool, make_item: MakeItem, faulty_folder: Faulty, open_gate: PolicyGate
) -> None:
    targets = [faulty_folder("cloud"), faulty_folder("disk")]
    items = [make_item(f"i{n}") for n in range(6)] + [make_item("crate", ItemKind.CRATE)]
    for item in items:
        spool.outbox.add(item, ["cloud", "disk"])
    proofs: list[tuple[str, str]] = []
    engine = Engine(spool.outbox, targets, open_gate, proved=lambda item, receipt: proofs.append((item.item_id, receipt.target)))
    async with running(engine):
        await until(lambda: all(spool.outbox.is_landed(item.item_id) for item in items))
        await until(lambda: len(proofs) == 14)
    for target in targets:
        assert target.sent[-1] == "crate"
        assert sorted(target.sent[:-1]) == [f"i{n}" for n in range(6)]
    assert {s.proved_items for s in engine.status()} == {7}
    assert {s.state for s in engine.status()} == {"stopped"}


async def test_an_item_that_is_added_later_goes_out_when_the_engine_is_woken_from_any_thread(
    spool: Spool, make_item: MakeItem, faulty_folder: Faulty, open_gate: PolicyGate
) -> None:
    engine = Engine(spool.outbox, [faulty_folder("cloud")], open_gate)
    async with running(engine):
        await until(lambda: engine.status()[0].state == "idle")
        item = make_item("late")

        def add() -> None:
            spool.outbox.add(item, ["cloud"])
            engine.wake()

        await asyncio.to_thread(add)
        await until(lambda: spool.outbox.is_landed("late"), 5)


async def test_no_more_than_the_limit_are_in_flight_and_their_progress_is_seen(
    spool: Spool, make_item: MakeItem, faulty_folder: Faulty, open_gate: PolicyGate
) -> None:
    target = faulty_folder("cloud")
    target.gate = asyncio.Event()
    for n in range(5):
        spool.outbox.add(make_item(f"i{n}"), ["cloud"])
    engine = Engine(spool.outbox, [target], open_gate, in_flight=2)
    async with running(engine):
        await until(lambda: target.at_once == 2)
        (lane,) = engine.status()
        assert lane.state == "sending"
        assert [(t.item_id, t.sent, t.size) for t in lane.in_flight] == [("i0", 100, 200), ("i1", 100, 200)]
        assert all(t.rate > 0 for t in lane.in_flight)
        target.gate.set()
        await until(lambda: spool.outbox.is_landed("i4"))
    assert target.most_at_once == 2


async def test_more_small_items_are_in_flight_where_the_target_gains_from_it(
    spool: Spool, make_item: MakeItem, faulty_folder: Faulty, open_gate: PolicyGate
) -> None:
    target = faulty_folder("cloud")
    target.gate, target.small_at_once = asyncio.Event(), 4
    for n in range(8):
        spool.outbox.add(make_item(f"i{n}", data=bytes(SMALL + (n == 3))), ["cloud"])
    async with running(Engine(spool.outbox, [target], open_gate, in_flight=2)) as engine:
        await until(lambda: target.at_once == 4)
        target.gate.set()
        await until(lambda: engine.status()[0].proved_items == 8)
    assert target.most_at_once == 4


async def test_a_target_that_takes_small_items_in_numbers_gets_large_ones_as_any_other(
    spool: Spool, make_item: MakeItem, faulty_folder: Faulty, open_gate: PolicyGate
) -> None:
    target = faulty_folder("cloud")
    target.small_at_once = 4
    for n in range(5):
        spool.outbox.add(make_item(f"i{n}", data=bytes(SMALL + 1)), ["cloud"])
    async with running(Engine(spool.outbox, [target], open_gate, in_flight=2)):
        await until(lambda: spool.outbox.is_landed("i4"))
    assert target.most_at_once <= 2


@pytest.mark.parametrize("kind", list(ItemKind))
async def test_nothing_of_a_forbidden_item_is_sent_and_the_reason_is_shown(
    spool: Spool, make_item: MakeItem, faulty_folder: Faulty, tmp_path: Path, kind: ItemKind, caplog: pytest.LogCaptureFixture
) -> None:
    target = faulty_folder("cloud")
    gate = PolicyGate(["cloud", "disk"])
    spool.outbox.add(make_item("secret", kind, label=Label(Access.CLOSED, frozenset({"disk"}))), ["cloud"])
    spool.outbox.add(make_item("open", run=2, label=Label(Access.OPEN)), ["cloud"])
    async with running(Engine(spool.outbox, [target], gate)):
        await until(lambda: spool.outbox.is_landed("open"))
        await until(lambda: state(spool, "secret") == "parked")
        await until(lambda: "may not go to cloud" in caplog.text)
    assert target.sent == ["open"]
    assert "the label names disk" in reason(spool, "secret")
    assert not [path for path in (tmp_path / "cloud").rglob("*secret*") if path.is_file()]


async def test_a_target_that_is_down_is_tried_again_until_it_is_back_and_nothing_is_lost(
    spool: Spool, make_item: MakeItem, faulty_folder: Faulty, open_gate: PolicyGate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    target = faulty_folder("cloud")
    target.down = TargetUnreachable("The landing does not answer.", why="503", try_="wait")
    spool.outbox.add(make_item("a"), ["cloud"])
    engine = Engine(spool.outbox, [target], open_gate, backoff=FAST)
    async with running(engine):
        await until(lambda: target.probes > 5)
        assert target.sent == [], "items are not offered to a target that is not there"
        assert engine.status()[0].state == "waiting"
        assert "503" in engine.status()[0].last_error
        target.down = None
        await until(lambda: spool.outbox.is_landed("a"))
        await until(lambda: "target cloud is back" in caplog.text)
    assert len([r for r in caplog.records if "is not there" in r.getMessage()]) == 1


async def test_what_was_tried_in_vain_keeps_its_place(
    spool: Spool, make_item: MakeItem, faulty_folder: Faulty, open_gate: PolicyGate
) -> None:
    """A store whose door opens while its disk is full: the item that met it waits no longer than the lane, and nobody goes before it."""
    target, names = faulty_folder("cloud"), [f"i{n}" for n in range(6)]
    target.faults = {name: [TargetUnreachable("507") for _ in range(3)] for name in names[:1]}
    for name in names:
        spool.outbox.add(make_item(name), ["cloud"])
    async with running(Engine(spool.outbox, [target], open_gate, in_flight=1, backoff=FAST)):
        await until(lambda: all(spool.outbox.is_landed(name) for name in names))
    assert target.sent == ["i0"] * 3 + names


async def test_one_target_that_is_down_does_not_hold_up_another(
    spool: Spool, make_item: MakeItem, faulty_folder: Faulty, open_gate: PolicyGate
) -> None:
    cloud, disk = faulty_folder("cloud"), faulty_folder("disk")
    cloud.down = TargetUnreachable("down")
    for n in range(4):
        spool.outbox.add(make_item(f"i{n}"), ["cloud", "disk"])
    async with running(Engine(spool.outbox, [cloud, disk], open_gate)):
        await until(lambda: all(state(spool, f"i{n}", "disk") == "proved" for n in range(4)))
    assert all(state(spool, f"i{n}") == "sealed" for n in range(4))


async def test_one_item_that_always_fails_does_not_stop_the_others(
    spool: Spool, make_item: MakeItem, faulty_folder: Faulty, open_gate: PolicyGate
) -> None:
    target = faulty_folder("cloud")
    target.faults["poison"] = [TargetUnreachable("500 for this one") for _ in range(1000)]
    spool.outbox.add(make_item("poison"), ["cloud"])
    for n in range(5):
        spool.outbox.add(make_item(f"i{n}", run=2), ["cloud"])
    async with running(Engine(spool.outbox, [target], open_gate, in_flight=1, backoff=FAST)):
        await until(lambda: all(spool.outbox.is_landed(f"i{n}") for n in range(5)))
        await until(lambda: target.sent.count("poison") > 2)
    assert state(spool, "poison") in ("sealed", "sending")  # stopped while it was waiting or trying
    (delivery,) = spool.outbox.deliveries("poison")
    assert delivery.attempts > 1
    assert delivery.reason == "500 for this one"
    assert delivery.retry_ns is not None


@pytest.mark.expects_errors
async def test_an_integrity_error_quarantines_the_item_logs_what_why_try_and_keeps_the_file(
    spool: Spool, make_item: MakeItem, faulty_folder: Faulty, open_gate: PolicyGate, caplog: pytest.LogCaptureFixture
) -> None:
    target = faulty_folder("cloud")
    target.faults["a"] = [IntegrityError("The landing lies about the digest.", why="it says 00", try_="look at it")]
    item = make_item("a")
    spool.outbox.add(item, ["cloud"])
    spool.outbox.add(make_item("b"), ["cloud"])
    async with running(Engine(spool.outbox, [target], open_gate)):
        await until(lambda: state(spool, "a") == "quarantined")
        await until(lambda: spool.outbox.is_landed("b"))
        await until(lambda: "try: look at it" in caplog.text)
    assert item.path.exists()
    assert "why: it says 00" in caplog.text
    (entry,) = spool.quarantine.entries()
    assert entry.id == "a"


@pytest.mark.expects_errors
async def test_a_receipt_with_the_wrong_digest_is_never_taken_as_proof(
    spool: Spool, make_item: MakeItem, faulty_folder: Faulty, open_gate: PolicyGate
) -> None:
    target = faulty_folder("cloud")
    item = make_item("a")
    known = make_item("a", sha256=hashlib.sha256(item.path.read_bytes()).digest())
    spool.outbox.add(known, ["cloud"])

    async def lie(sent: OutboxItem, progress: Callable[[int], None]) -> Receipt:
        return Receipt("cloud", sent.item_id, b"\0" * 32, sent.size, Proof.FSYNCED, 1)

    target.send = lie
    async with running(Engine(spool.outbox, [target], open_gate)):
        await until(lambda: state(spool, "a") == "quarantined")
    assert "proof for other bytes" in reason(spool, "a")
    assert not spool.outbox.is_landed("a")


@pytest.mark.expects_errors
async def test_a_receipt_for_another_item_is_never_taken_as_proof(
    spool: Spool, make_item: MakeItem, faulty_folder: Faulty, open_gate: PolicyGate
) -> None:
    target = faulty_folder("cloud")
    spool.outbox.add(make_item("a"), ["cloud"])

    async def confuse(sent: OutboxItem, progress: Callable[[int], None]) -> Receipt:
        return Receipt("disk", "b", b"\0" * 32, sent.size, Proof.FSYNCED, 1)

    target.send = confuse
    async with running(Engine(spool.outbox, [target], open_gate)):
        await until(lambda: state(spool, "a") == "quarantined")
    assert "something else" in reason(spool, "a")


@pytest.mark.expects_errors
async def test_a_refused_item_is_parked_somebody_is_told_and_a_kick_tries_again(
    spool: Spool, make_item: MakeItem, faulty_folder: Faulty, open_gate: PolicyGate, caplog: pytest.LogCaptureFixture
) -> None:
    target = faulty_folder("cloud")
    target.faults["a"] = [PermissionRefused("The token is not good for this project.", why="403", try_="ask for a token")]
    spool.outbox.add(make_item("a"), ["cloud"])
    spool.outbox.add(make_item("b"), ["cloud"])
    engine = Engine(spool.outbox, [target], open_gate)
    async with running(engine):
        await until(lambda: spool.outbox.is_landed("b"))
        await until(lambda: state(spool, "a") == "parked")
        await until(lambda: "token is not good" in caplog.text)
        assert [r.levelname for r in caplog.records if "token is not good" in r.getMessage()] == ["ERROR"]
        assert await engine.kick("disk") == 0
        assert await engine.kick() == 1
        await until(lambda: spool.outbox.is_landed("a"))


@pytest.mark.expects_errors
async def test_a_target_that_refuses_the_agent_altogether_is_told_once_and_goes_on_by_itself_when_it_relents(
    spool: Spool, make_item: MakeItem, faulty_folder: Faulty, open_gate: PolicyGate, caplog: pytest.LogCaptureFixture
) -> None:
    target = faulty_folder("cloud")
    for n in range(3):
        spool.outbox.add(make_item(f"i{n}"), ["cloud"])
    spool.outbox.begin("i0", "cloud")
    spool.outbox.park("i0", "cloud", "401 before")
    engine = Engine(spool.outbox, [target], open_gate, backoff=FAST)
    target.down = PermissionRefused("The certificate was revoked.", why="403", try_="enroll again")
    async with running(engine):
        await until(lambda: target.probes > 3)
        assert engine.status()[0].state == "refused"
        assert target.sent == []
        assert [r.levelname for r in caplog.records if "revoked" in r.getMessage()] == ["ERROR"]
        target.down = None
        await until(lambda: all(spool.outbox.is_landed(f"i{n}") for n in range(3)))


@pytest.mark.expects_errors
async def test_an_unforeseen_error_of_a_target_is_logged_and_retried(
    spool: Spool, make_item: MakeItem, faulty_folder: Faulty, open_gate: PolicyGate, caplog: pytest.LogCaptureFixture
) -> None:
    target = faulty_folder("cloud")
    target.faults["a"] = [ZeroDivisionError("a bug")]
    spool.outbox.add(make_item("a"), ["cloud"])
    async with running(Engine(spool.outbox, [target], open_gate, backoff=FAST)):
        await until(lambda: spool.outbox.is_landed("a"))
    assert "unforeseen" in caplog.text


@pytest.mark.expects_errors
async def test_a_fault_of_the_outbox_does_not_kill_the_lane(
    spool: Spool, make_item: MakeItem, faulty_folder: Faulty, open_gate: PolicyGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.outbox.add(make_item("a"), ["cloud"])
    faults = {"next_for": 2, "begin": 1, "proved": 2}

    def shaky(name: str) -> Callable[..., Any]:
        real = getattr(spool.outbox, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if faults[name] > 0:
                faults[name] -= 1
                raise OSError(28, "No space left on device")
            return real(*args, **kwargs)

        return call

    for name in faults:
        monkeypatch.setattr(spool.outbox, name, shaky(name))
    async with running(Engine(spool.outbox, [faulty_folder("cloud")], open_gate, backoff=FAST)):
        await until(lambda: spool.outbox.is_landed("a"))
    assert set(faults.values()) == {0}


async def test_what_becomes_due_while_the_outbox_is_asked_is_not_waited_for(
    spool: Spool, make_item: MakeItem, faulty_folder: Faulty, open_gate: PolicyGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a disk that takes longer to answer than the lane waits after a failure, and a lane that never looks again by itself."""
    monkeypatch.setattr("edge_agent.deliver.lane.POLL", 3600.0)
    monkeypatch.setattr("edge_agent.deliver.lane.AFTER", 0.05)
    target = faulty_folder("cloud")
    target.faults["a"] = [TargetUnreachable("not there")] * 6
    spool.outbox.add(make_item("a"), ["cloud"])
    ask = spool.outbox.next_for

    def slow(*args: Any) -> Any:
        item = ask(*args)
        time.sleep(0.1)
        return item

    monkeypatch.setattr(spool.outbox, "next_for", slow)
    async with running(Engine(spool.outbox, [target], open_gate, in_flight=1, backoff=FAST)):
        await until(lambda: spool.outbox.is_landed("a"))


@pytest.mark.expects_errors
@pytest.mark.parametrize(("damage", "message"), [("gone", "not in the spool any more"), ("changed", "changed after it was sealed")])
async def test_a_local_file_that_is_not_what_was_sealed_is_not_sent(
    spool: Spool, make_item: MakeItem, faulty_folder: Faulty, open_gate: PolicyGate, damage: str, message: str
) -> None:
    item, target = make_item("a"), faulty_folder("cloud")
    spool.outbox.add(item, ["cloud"])
    if damage == "gone":
        item.path.unlink()
    else:
        item.path.write_bytes(b"x")
    async with running(Engine(spool.outbox, [target], open_gate)):
        await until(lambda: state(spool, "a") == "quarantined")
    assert message in reason(spool, "a")
    assert target.sent == []


@pytest.mark.expects_errors
async def test_an_item_larger_than_the_target_takes_is_parked_with_both_figures(
    spool: Spool, make_item: MakeItem, faulty_folder: Faulty, open_gate: PolicyGate
) -> None:
    target = faulty_folder("cloud")
    target.largest = 50
    spool.outbox.add(make_item("a"), ["cloud"])
    async with running(Engine(spool.outbox, [target], open_gate)):
        await until(lambda: state(spool, "a") == "parked")
    assert "100 bytes, the target takes 50" in reason(spool, "a")
    assert target.sent == []


async def test_stopping_does_not_wait_for_a_target_and_leaves_unfinished_items_for_the_next_start(
    spool: Spool, make_item: MakeItem, faulty_folder: Faulty, open_gate: PolicyGate
) -> None:
    target = faulty_folder("cloud")
    target.gate = asyncio.Event()
    for n in range(3):
        spool.outbox.add(make_item(f"i{n}"), ["cloud"])
    engine = Engine(spool.outbox, [target], open_gate)
    await engine.start()
    await until(lambda: target.at_once == 2)
    async with asyncio.timeout(20):  # the target would take for ever
        await engine.stop()
        await engine.stop()
    assert [state(spool, f"i{n}") for n in range(3)] == ["sending", "sending", "sealed"]
    target.gate.set()
    async with running(Engine(spool.outbox, [target], open_gate)):
        await until(lambda: all(spool.outbox.is_landed(f"i{n}") for n in range(3)))


async def test_capture_goes_on_at_full_speed_while_a_target_is_down(
    spool: Spool, make_item: MakeItem, faulty_folder: Faulty, open_gate: PolicyGate
) -> None:
    target = faulty_folder("cloud")
    target.down = TargetUnreachable("down for long")
    engine = Engine(spool.outbox, [target], open_gate, backoff=FAST)
    async with running(engine):
        for n in range(50):
            await asyncio.to_thread(spool.outbox.add, make_item(f"i{n}"), ["cloud"])
            engine.wake()
        assert spool.outbox.backlog()[0].waiting == 50
        target.down = None
        await until(lambda: spool.outbox.backlog()[0].waiting == 0)


def test_two_targets_of_one_name_are_refused(spool: Spool, faulty_folder: Faulty, open_gate: PolicyGate) -> None:
    with pytest.raises(ValueError, match="same name"):
        Engine(spool.outbox, [faulty_folder("cloud"), faulty_folder("cloud")], open_gate)


def test_waking_an_engine_that_does_not_run_does_nothing(spool: Spool, faulty_folder: Faulty, open_gate: PolicyGate) -> None:
    Engine(spool.outbox, [faulty_folder("cloud")], open_gate).wake()


def test_the_back_off_doubles_from_the_first_delay_to_the_cap_with_jitter() -> None:
    backoff = Backoff(0.5, 60)
    for failures, full in [(1, 0.5), (2, 1), (5, 8), (8, 60), (10_000, 60)]:
        delays = [backoff.delay(failures) for _ in range(200)]
        assert full / 2 <= min(delays) <= max(delays) <= full
        assert len(set(delays)) > 100
