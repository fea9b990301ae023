"""Closed data at a store that others can read: only envelopes get there, and nothing is given up before the store proved one."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.deliver.backoff import Backoff
from edge_agent.deliver.encrypted import KEPT, EncryptingTarget, no_key
from edge_agent.deliver.engine import Engine
from edge_agent.deliver.target import Progress, Target
from edge_agent.errors import IntegrityError, PolicyRefused, TargetUnreachable
from edge_agent.model import ItemKind, OutboxItem, Receipt
from edge_agent.provenance.policy import PolicyGate
from edge_agent.spool import Spool
from edge_agent.wire import envelope

MakeItem = Callable[..., OutboxItem]
Faulty = Callable[[str], Any]
SECRET, KEY = envelope.new_key()
CANARY = b"zq7canary"
NAME = "zq7canary/zq7canary/2026-11-24/000001/zq7canary.h5"


def ignore(_: int) -> None:
    """No progress wanted."""


def closed(_: OutboxItem) -> tuple[str, ...]:
    return (KEY,)


@pytest.fixture
def cloud(faulty_folder: Faulty) -> Any:
    """The store behind."""
    return faulty_folder("cloud")


@pytest.fixture
def waiting(tmp_path: Path) -> Path:
    """Where envelopes wait."""
    return tmp_path / "spool" / "encrypted" / "cloud"


@pytest.fixture
def target(cloud: Any, waiting: Path) -> EncryptingTarget:
    return EncryptingTarget(cloud, closed, waiting)


def stored(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "cloud").rglob("*") if path.is_file())


def opened(path: Path, tmp_path: Path, out: str = "out") -> Path:
    (tmp_path / "key").write_text(SECRET)
    return envelope.open_envelope(path, envelope.read_key(tmp_path / "key"), tmp_path / out).path


def test_it_is_a_target(target: EncryptingTarget) -> None:
    assert isinstance(target, Target)


async def test_a_closed_item_lands_as_an_envelope_that_the_key_opens(
    target: EncryptingTarget, make_item: MakeItem, tmp_path: Path, waiting: Path
) -> None:
    data = CANARY * 100_000
    item, seen = make_item("zq7canary", data=data, remote=NAME), list[int]()
    assert (await target.probe()).max_size is None
    receipt = await target.send(item, seen.append)
    (path,) = stored(tmp_path)
    held = path.read_bytes()
    assert CANARY not in held
    assert "zq7canary" not in str(path.relative_to(tmp_path / "cloud"))
    assert (receipt.target, receipt.item_id) == ("cloud", "zq7canary")
    assert (receipt.sha256, receipt.size) == (hashlib.sha256(data).digest(), len(data))
    assert receipt.envelope is not None
    assert receipt.envelope.name == path.relative_to(tmp_path / "cloud").as_posix()
    assert (receipt.envelope.sha256, receipt.envelope.size) == (hashlib.sha256(held).digest(), len(held))
    assert receipt.statement == receipt.envelope.sha256
    assert opened(path, tmp_path) == tmp_path / "out" / NAME
    assert (tmp_path / "out" / NAME).read_bytes() == data
    assert max(seen) <= item.size
    assert not list(waiting.iterdir())


async def test_what_needs_no_envelope_goes_as_it_is(cloud: Any, make_item: MakeItem, tmp_path: Path, waiting: Path) -> None:
    item = make_item("a")
    receipt = await EncryptingTarget(cloud, lambda _: (), waiting).send(item, ignore)
    assert receipt.envelope is None
    assert (tmp_path / "cloud" / item.remote).read_bytes() == item.path.read_bytes()
    assert not waiting.exists()


async def test_receipts_that_grow_replace_their_envelope(target: EncryptingTarget, make_item: MakeItem, tmp_path: Path) -> None:
    for data in (b"one", b"one and two"):
        item = make_item("r", ItemKind.RECEIPTS, data=data, sha256=hashlib.sha256(data).digest())
        await target.send(item, ignore)
        (path,) = stored(tmp_path)
        assert opened(path, tmp_path, data.decode()).read_bytes() == data


async def test_what_broke_off_goes_on_with_the_same_bytes_also_after_a_restart(
    cloud: Any, target: EncryptingTarget, make_item: MakeItem, tmp_path: Path, waiting: Path
) -> None:
    item = make_item("a", data=os.urandom(100_000))
    cloud.down = TargetUnreachable("it is away")
    with pytest.raises(TargetUnreachable, match="it is away"):
        await target.send(item, ignore)
    (kept,) = waiting.iterdir()
    data = kept.read_bytes()
    (waiting / "0123456789abcdef.part").write_bytes(b"of a crash")
    cloud.down = None
    again = EncryptingTarget(cloud, closed, waiting)
    await again.probe()
    receipt = await again.send(item, ignore)
    (path,) = stored(tmp_path)
    assert path.read_bytes() == data
    assert receipt.sha256 == hashlib.sha256(item.path.read_bytes()).digest()
    assert not list(waiting.iterdir())


async def test_an_envelope_that_the_disk_spoilt_is_made_anew(
    cloud: Any, target: EncryptingTarget, make_item: MakeItem, tmp_path: Path, waiting: Path
) -> None:
    item = make_item("a", data=os.urandom(100_000))
    cloud.down = TargetUnreachable("it is away")
    with pytest.raises(TargetUnreachable):
        await target.send(item, ignore)
    (kept,) = waiting.iterdir()
    data = bytearray(kept.read_bytes())
    data[50_000] ^= 1
    kept.write_bytes(data)
    cloud.down = None
    with pytest.raises(IntegrityError):
        await target.send(item, ignore)
    assert stored(tmp_path) == []
    await target.send(item, ignore)
    (path,) = stored(tmp_path)
    assert opened(path, tmp_path).read_bytes() == item.path.read_bytes()


async def test_an_envelope_to_another_key_is_not_sent_after_the_key_was_changed(
    cloud: Any, target: EncryptingTarget, make_item: MakeItem, tmp_path: Path, waiting: Path
) -> None:
    item, (secret, key) = make_item("a"), envelope.new_key()
    cloud.down = TargetUnreachable("it is away")
    with pytest.raises(TargetUnreachable):
        await target.send(item, ignore)
    cloud.down = None
    await EncryptingTarget(cloud, lambda _: (key,), waiting).send(item, ignore)
    (path,) = stored(tmp_path)
    (tmp_path / "new").write_text(secret)
    assert envelope.open_envelope(path, envelope.read_key(tmp_path / "new"), tmp_path / "out").size == item.size


@pytest.mark.parametrize("change", ["longer", "shorter", "other", "gone"])
async def test_a_file_that_changed_since_it_was_signed_makes_no_envelope(
    change: str, target: EncryptingTarget, make_item: MakeItem, tmp_path: Path, waiting: Path
) -> None:
    data = os.urandom(50_000)
    item = make_item("a", data=data, sha256=hashlib.sha256(data).digest())
    if change == "gone":
        item.path.unlink()
    else:
        item.path.write_bytes({"longer": data + b"x", "shorter": data[:-1], "other": data[::-1]}[change])
    with pytest.raises(IntegrityError) as caught:
        await target.send(item, ignore)
    assert caught.value.code == "SPOOL_FILE_CHANGED"
    assert stored(tmp_path) == []
    assert not list(waiting.iterdir())


async def test_a_disk_that_takes_no_envelope_is_tried_again(target: EncryptingTarget, make_item: MakeItem, waiting: Path) -> None:
    item = make_item("a")
    waiting.parent.write_bytes(b"a file is in the way")
    with pytest.raises(TargetUnreachable) as caught:
        await target.send(item, ignore)
    assert caught.value.code == "ENVELOPE_DISK"


async def test_envelopes_that_nobody_goes_on_with_are_few(
    cloud: Any, target: EncryptingTarget, make_item: MakeItem, waiting: Path
) -> None:
    cloud.down = TargetUnreachable("it is away")
    for number in range(KEPT + 4):
        with pytest.raises(TargetUnreachable):
            await target.send(make_item(f"i{number}"), ignore)
    cloud.down = None
    await target.probe()
    assert len(list(waiting.iterdir())) == KEPT
    for path in waiting.iterdir():
        os.utime(path, (1, 1))
    await target.probe()
    assert not list(waiting.iterdir())


async def test_a_sending_that_is_cancelled_leaves_no_half_envelope(
    target: EncryptingTarget, make_item: MakeItem, waiting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = asyncio.Event(), asyncio.Event()
    loop, close = asyncio.get_running_loop(), envelope.close

    def slow(content: Any, *more: Any) -> tuple[int, bytes]:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result()
        try:
            return close(content, *more)
        finally:
            loop.call_soon_threadsafe(begun.clear)

    monkeypatch.setattr(envelope, "close", slow)
    sending = asyncio.create_task(target.send(make_item("a"), ignore))
    await begun.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    go.set()
    async with asyncio.timeout(20):
        while begun.is_set() or list(waiting.iterdir()):
            await asyncio.sleep(0.005)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def state(spool: Spool, item_id: str) -> str:
    return spool.outbox.deliveries(item_id)[0].state


async def test_the_plain_file_is_freed_only_against_the_proof_of_its_envelope(
    spool: Spool, cloud: Any, target: EncryptingTarget, make_item: MakeItem, open_gate: PolicyGate
) -> None:
    item, freed = make_item("a"), list[tuple[Receipt, ...]]()
    spool.outbox.add(item, ["cloud"])
    cloud.gate = asyncio.Event()
    engine = Engine(spool.outbox, [target], open_gate, backoff=Backoff(0.01, 0.05))
    await engine.start()
    try:
        await _until(lambda: cloud.at_once == 1)
        spool.retention.release(lambda _, receipts: freed.append(receipts), pressure=True)
        assert not freed
        assert item.path.exists()
        cloud.gate.set()
        await _until(lambda: spool.outbox.is_landed("a"))
    finally:
        await engine.stop()
    (delivery,) = spool.outbox.deliveries("a")
    assert delivery.receipt is not None
    assert delivery.receipt.envelope is not None
    plain = hashlib.sha256(item.path.read_bytes()).digest()
    spool.retention.release(lambda _, receipts: freed.append(receipts))
    assert not item.path.exists()
    ((receipt,),) = freed
    assert receipt == delivery.receipt
    assert (receipt.sha256, receipt.statement) == (plain, delivery.receipt.envelope.sha256)


@pytest.mark.expects_errors
async def test_a_proof_for_other_bytes_than_the_envelope_frees_nothing(
    spool: Spool, cloud: Any, target: EncryptingTarget, make_item: MakeItem, open_gate: PolicyGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = make_item("a")
    spool.outbox.add(item, ["cloud"])
    send = cloud.send

    async def lie(sent: OutboxItem, progress: Progress) -> Receipt:
        receipt: Receipt = await send(sent, progress)
        # Even the digest of the plain file is none of what the store holds.
        return dataclasses.replace(receipt, sha256=hashlib.sha256(item.path.read_bytes()).digest())

    monkeypatch.setattr(cloud, "send", lie)
    engine = Engine(spool.outbox, [target], open_gate, backoff=Backoff(0.01, 0.05))
    await engine.start()
    try:
        await _until(lambda: state(spool, "a") == "quarantined")
    finally:
        await engine.stop()
    assert not spool.outbox.is_landed("a")
    spool.retention.release(lambda *_: None, pressure=True)
    assert item.path.exists()


async def test_a_project_without_a_key_waits_and_stops_nobody(
    spool: Spool, cloud: Any, make_item: MakeItem, open_gate: PolicyGate, tmp_path: Path, waiting: Path
) -> None:
    items = [make_item("a"), make_item("b"), make_item("c")]
    for item in items:
        spool.outbox.add(item, ["cloud"])

    def keys(item: OutboxItem) -> tuple[str, ...]:
        if item.item_id == "a":
            raise no_key("cloud", item)
        return (KEY,)

    engine = Engine(spool.outbox, [EncryptingTarget(cloud, keys, waiting)], open_gate)
    await engine.start()
    try:
        await _until(lambda: spool.outbox.is_landed("b") and spool.outbox.is_landed("c") and state(spool, "a") == "parked")
    finally:
        await engine.stop()
    assert len(stored(tmp_path)) == 2
    assert "project p has no key" in spool.outbox.deliveries("a")[0].reason
    assert isinstance(no_key("cloud", items[0]), PolicyRefused)
