from __future__ import annotations

import dataclasses
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.errors import DiskError, IntegrityError
from edge_agent.model import Envelope, ItemKind, OutboxItem, Receipt
from edge_agent.spool import Entry, Spool

MakeItem = Callable[..., OutboxItem]
MakeReceipt = Callable[..., Receipt]
Prove = Callable[..., None]


def states(spool: Spool, item: OutboxItem) -> dict[str, str]:
    return {d.target: d.state for d in spool.outbox.deliveries(item.item_id)}


def test_an_item_comes_back_as_it_was_put_in(spool: Spool, make_item: MakeItem) -> None:
    item = make_item("a", counts={"cam/frames": 7})
    assert spool.outbox.add(item, ["cloud"])
    assert spool.outbox.next_for("cloud") == item
    assert spool.outbox.next_for("disk") is None


def test_adding_twice_changes_nothing(spool: Spool, make_item: MakeItem) -> None:
    item = make_item("a", counts={"cam/frames": 7})
    assert spool.outbox.add(item, ["cloud"])
    assert not spool.outbox.add(item, ["cloud"])
    assert spool.ledger.totals()["cam/frames"].arrived == 7


def test_two_different_files_with_one_id_are_refused_and_the_first_stays(spool: Spool, make_item: MakeItem) -> None:
    item = make_item("a")
    spool.outbox.add(item, ["cloud"])
    with pytest.raises(IntegrityError, match="Two different files claim to be a") as caught:
        spool.outbox.add(dataclasses.replace(item, size=999), ["cloud"])
    assert caught.value.why
    assert caught.value.try_
    assert spool.outbox.item("a") == item


def test_required_targets_must_be_among_the_targets(spool: Spool, make_item: MakeItem) -> None:
    with pytest.raises(ValueError, match="disk"):
        spool.outbox.add(make_item("a"), ["cloud"], required=["disk"])


def test_items_go_by_run_then_kind_then_insertion(spool: Spool, make_item: MakeItem, prove: Prove) -> None:
    order = [
        make_item("r1-s1", ItemKind.SEGMENT, 1), make_item("r1-s2", ItemKind.SEGMENT, 1), make_item("r1-file", ItemKind.FILE, 1),
        make_item("r1-hsc", ItemKind.SIDECAR, 1), make_item("r1-manifest", ItemKind.MANIFEST, 1), make_item("r2-s1", ItemKind.SEGMENT, 2),
    ]  # fmt: skip
    for position in (5, 3, 0, 4, 2, 1):
        spool.outbox.add(order[position], ["cloud"])
    sent = []
    while (item := spool.outbox.next_for("cloud")) is not None:
        sent.append(item.item_id)
        prove(spool, item)
    assert sent == [item.item_id for item in order]


def test_the_crate_waits_until_everything_else_of_its_run_is_proved_at_that_target(spool: Spool, make_item: MakeItem, prove: Prove) -> None:
    segment, crate = make_item("s"), make_item("crate", ItemKind.CRATE)
    other_run = make_item("other", ItemKind.CRATE, run=2)
    for item in (crate, segment, other_run):
        spool.outbox.add(item, ["cloud", "disk"])
    assert spool.outbox.begin("s", "cloud")
    assert spool.outbox.next_for("cloud", skip=["s"]) == other_run
    spool.outbox.failed("s", "cloud", "away", None)
    prove(spool, segment, "cloud")
    assert spool.outbox.next_for("cloud") == crate
    assert spool.outbox.next_for("disk", skip=["s"]) == other_run


@pytest.mark.parametrize("verdict", ["park", "quarantine", "failed"])
def test_receipts_go_only_where_the_sidecar_of_their_run_is_proved(
    spool: Spool, make_item: MakeItem, prove: Prove, verdict: str
) -> None:
    sidecar, receipts = make_item("hsc", ItemKind.SIDECAR), make_item("rcp", ItemKind.RECEIPTS)
    for item in (make_item("s"), sidecar, receipts):
        spool.outbox.add(item, ["cloud", "disk"])
    prove(spool, sidecar, "disk")
    assert spool.outbox.next_for("disk", skip=["s"]) == receipts
    assert spool.outbox.next_for("cloud", skip=["s", "hsc"]) is None
    assert spool.outbox.begin("hsc", "cloud")
    getattr(spool.outbox, verdict)("hsc", "cloud", "because", *([None] if verdict == "failed" else []))
    assert spool.outbox.next_for("cloud", skip=["s", "hsc"]) is None


@pytest.mark.parametrize("verdict", ["park", "quarantine"])
def test_a_crate_never_overtakes_a_blocked_item_of_its_run(spool: Spool, make_item: MakeItem, verdict: str) -> None:
    spool.outbox.add(make_item("s"), ["cloud"])
    spool.outbox.add(make_item("crate", ItemKind.CRATE), ["cloud"])
    spool.outbox.begin("s", "cloud")
    getattr(spool.outbox, verdict)("s", "cloud", "because")
    assert spool.outbox.next_for("cloud") is None


def test_a_proof_is_kept_with_its_receipt_and_fixes_the_digest(spool: Spool, make_item: MakeItem, make_receipt: MakeReceipt) -> None:
    item = make_item("a")
    spool.outbox.add(item, ["cloud"])
    spool.outbox.begin("a", "cloud")
    receipt = make_receipt(item)
    assert spool.outbox.proved(receipt)
    (delivery,) = spool.outbox.deliveries("a")
    assert (delivery.state, delivery.receipt) == ("proved", receipt)
    known = spool.outbox.item("a")
    assert known is not None
    assert known.sha256 == receipt.sha256
    assert spool.outbox.is_landed("a")


@pytest.mark.parametrize("lie", [{"size": 1}, {"sha256": b"x" * 32}])
def test_a_proof_for_other_bytes_is_an_integrity_error_and_proves_nothing(
    spool: Spool, make_item: MakeItem, make_receipt: MakeReceipt, lie: dict[str, object]
) -> None:
    item = make_item("a", sha256=b"d" * 32)
    spool.outbox.add(item, ["cloud"])
    spool.outbox.begin("a", "cloud")
    with pytest.raises(IntegrityError, match="proof for other bytes") as caught:
        spool.outbox.proved(make_receipt(item, **({"sha256": b"d" * 32} | lie)))
    assert "nothing was freed" in caught.value.try_
    assert states(spool, item) == {"cloud": "sending"}


def test_two_targets_cannot_prove_different_digests_of_one_item(spool: Spool, make_item: MakeItem, make_receipt: MakeReceipt) -> None:
    item = make_item("a")
    spool.outbox.add(item, ["cloud", "disk"])
    for target in ("cloud", "disk"):
        spool.outbox.begin("a", target)
    assert spool.outbox.proved(make_receipt(item, "cloud"))
    with pytest.raises(IntegrityError):
        spool.outbox.proved(make_receipt(item, "disk", sha256=b"x" * 32))


def test_a_proof_that_nobody_asked_for_is_of_no_use(spool: Spool, make_item: MakeItem, make_receipt: MakeReceipt) -> None:
    item = make_item("a")
    assert not spool.outbox.proved(make_receipt(item))
    spool.outbox.add(item, ["cloud"])
    assert not spool.outbox.proved(make_receipt(item))
    assert states(spool, item) == {"cloud": "sealed"}


def test_a_failed_item_waits_again_and_says_why(spool: Spool, make_item: MakeItem) -> None:
    item = make_item("a")
    spool.outbox.add(item, ["cloud"])
    spool.outbox.begin("a", "cloud")
    spool.outbox.failed("a", "cloud", "503 for a minute", 77)
    (delivery,) = spool.outbox.deliveries("a")
    assert (delivery.state, delivery.reason, delivery.attempts, delivery.retry_ns) == ("sealed", "503 for a minute", 1, 77)
    assert spool.outbox.next_for("cloud") == item


def test_parked_items_wait_for_unpark_and_only_at_the_named_target(spool: Spool, make_item: MakeItem) -> None:
    item = make_item("a")
    spool.outbox.add(item, ["cloud", "disk"])
    for target in ("cloud", "disk"):
        spool.outbox.begin("a", target)
        spool.outbox.park("a", target, "no token")
    assert spool.outbox.next_for("cloud") is None
    assert spool.outbox.unpark("cloud") == 1
    assert states(spool, item) == {"cloud": "sealed", "disk": "parked"}
    assert spool.outbox.unpark() == 1


def test_a_verdict_about_an_item_that_is_not_in_the_outbox_is_a_bug_and_says_so(spool: Spool) -> None:
    with pytest.raises(KeyError, match="ghost"):
        spool.outbox.park("ghost", "cloud", "x")


def test_receipts_that_grew_are_sent_again_and_a_verdict_about_the_old_ones_is_ignored(
    spool: Spool, make_item: MakeItem, make_receipt: MakeReceipt, prove: Prove
) -> None:
    old = make_item("rcp", ItemKind.RECEIPTS, data=b"one")
    spool.outbox.add(old, ["cloud"])
    spool.outbox.begin("rcp", "cloud")
    stale = make_receipt(old)
    new = make_item("rcp", ItemKind.RECEIPTS, data=b"one, two")
    assert spool.outbox.add(new, ["cloud"])
    assert not spool.outbox.proved(stale)
    assert not spool.outbox.quarantine("rcp", "cloud", "size differs")
    assert spool.outbox.next_for("cloud") == new
    assert not spool.outbox.begin("rcp", "cloud", old), "the lane took it from the outbox before it grew"
    assert spool.outbox.begin("rcp", "cloud", new)
    prove(spool, new)
    assert spool.outbox.is_landed("rcp")


def test_what_was_being_sent_when_the_process_died_waits_again(tmp_path: Path, make_item: MakeItem) -> None:
    spool = Spool(tmp_path / "spool")
    item = make_item("a")
    spool.outbox.add(item, ["cloud"])
    spool.outbox.begin("a", "cloud")
    spool.close()
    again = Spool(tmp_path / "spool")
    assert states(again, item) == {"cloud": "sealed"}
    assert again.outbox.next_for("cloud") == item
    again.close()


def test_the_route_follows_the_configuration_and_proofs_stay(spool: Spool, make_item: MakeItem, prove: Prove) -> None:
    item = make_item("a")
    spool.outbox.add(item, ["cloud", "disk"], required=["disk"])
    prove(spool, item, "cloud")
    spool.outbox.add(item, ["cloud", "tape"], required=["cloud"])
    assert states(spool, item) == {"cloud": "proved", "tape": "sealed"}
    assert spool.outbox.is_landed("a")


def test_rebuild_after_a_lost_database_makes_everything_wait_again_and_run_numbers_go_on(tmp_path: Path, make_item: MakeItem) -> None:
    entries = [Entry(make_item(f"i{n}", run=n), ("cloud",)) for n in (3, 8)]
    first = Spool(tmp_path / "spool")
    assert first.fresh
    assert first.outbox.rebuild(entries) == 2
    assert first.outbox.rebuild(entries) == 0
    first.close()
    for file in (tmp_path / "spool").glob("spool.db*"):
        file.unlink()
    second = Spool(tmp_path / "spool")
    assert second.fresh
    assert second.outbox.rebuild(entries) == 2
    assert second.state.next_run_no() == 9
    second.close()
    third = Spool(tmp_path / "spool")
    assert not third.fresh
    third.close()


def test_a_damaged_database_is_kept_aside_and_a_new_one_begun(
    tmp_path: Path, make_item: MakeItem, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path / "spool")
    spool.outbox.add(make_item("a"), ["cloud"])
    spool.close()
    (tmp_path / "spool" / "spool.db").write_bytes(b"not a database at all" * 500)
    again = Spool(tmp_path / "spool")
    assert again.fresh
    (kept,) = (tmp_path / "spool" / "quarantine").glob("database-*/spool.db")
    assert kept.read_bytes().startswith(b"not a database")
    (entry,) = again.quarantine.entries()
    assert entry.path == kept
    assert "was damaged" in entry.why
    assert "was damaged; a new one is made from the files" in caplog.text
    again.close()


def test_a_database_of_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    Spool(tmp_path / "spool").close()
    db = sqlite3.connect(tmp_path / "spool" / "spool.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(DiskError, match="newer version") as caught:
        Spool(tmp_path / "spool")
    assert "install that version" in caught.value.try_


def test_a_database_of_before_envelopes_is_taken_over_with_its_proofs(
    tmp_path: Path, make_item: MakeItem, make_receipt: MakeReceipt
) -> None:
    items, old = [make_item("a"), make_item("b")], Spool(tmp_path / "spool")
    for item in items:
        old.outbox.add(item, ["cloud"])
    old.outbox.begin("a", "cloud")
    first = make_receipt(items[0])
    old.outbox.proved(first)
    old.close()
    db = sqlite3.connect(tmp_path / "spool" / "spool.db")
    db.execute("ALTER TABLE deliveries DROP COLUMN proof_envelope")
    db.execute("PRAGMA user_version = 1")
    db.close()
    for _ in range(2):
        spool = Spool(tmp_path / "spool")
        assert not spool.fresh
        assert spool.outbox.deliveries("a")[0].receipt == first
        spool.outbox.begin("b", "cloud")
        second = dataclasses.replace(make_receipt(items[1]), envelope=Envelope("encrypted/x/y.age", 700, b"\7" * 32, ("age1x",)))
        assert spool.outbox.proved(second)
        assert spool.outbox.deliveries("b")[0].receipt == second
        spool.close()


def test_a_second_agent_on_the_same_spool_is_refused(tmp_path: Path, spool: Spool) -> None:
    with pytest.raises(DiskError, match="Another process has this spool open") as caught:
        Spool(tmp_path / "spool")
    assert caught.value.code == "SPOOL_LOCKED"
    assert caught.value.try_


def test_a_spool_that_cannot_be_made_says_where_and_what_to_check(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DiskError, match="cannot be opened") as caught:
        Spool(tmp_path / "file" / "spool")
    assert "mounted" in caught.value.try_


def test_a_transaction_is_all_or_nothing(spool: Spool, make_item: MakeItem) -> None:
    def adopt_and_fail() -> None:
        with spool.transaction():
            spool.outbox.add(make_item("a"), ["cloud"])
            spool.state.remember_adopted("s", "a", 1, 1)
            raise RuntimeError("power")

    with pytest.raises(RuntimeError):
        adopt_and_fail()
    assert spool.outbox.item("a") is None
    assert not spool.state.is_adopted("s", "a", 1, 1)
    with spool.transaction():
        spool.outbox.add(make_item("a"), ["cloud"])
        spool.state.remember_adopted("s", "a", 1, 1)
    assert spool.state.is_adopted("s", "a", 1, 1)


def test_many_threads_use_one_spool(spool: Spool, make_item: MakeItem, prove: Prove) -> None:
    items = [make_item(f"i{n}", counts={"cam/frames": 1}) for n in range(60)]

    def work(part: list[OutboxItem]) -> None:
        for item in part:
            spool.outbox.add(item, ["cloud"])
            prove(spool, item)

    threads = [threading.Thread(target=work, args=(items[n::6],)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert spool.ledger.totals()["cam/frames"].landed == 60
    assert spool.ledger.audit() == []


def test_the_backlog_tells_what_waits_where(spool: Spool, make_item: MakeItem, prove: Prove) -> None:
    a, b = make_item("a"), make_item("b")
    spool.outbox.add(a, ["cloud", "disk"])
    spool.outbox.add(b, ["cloud"])
    prove(spool, a, "disk")
    spool.outbox.begin("b", "cloud")
    spool.outbox.park("b", "cloud", "no")
    cloud, disk = spool.outbox.backlog()
    assert (cloud.target, cloud.waiting, cloud.parked, cloud.quarantined, cloud.bytes) == ("cloud", 1, 1, 0, a.size + b.size)
    assert cloud.oldest_ns is not None
    assert (disk.target, disk.waiting, disk.bytes, disk.oldest_ns) == ("disk", 0, 0, None)


def test_the_items_of_a_run_are_listed_in_order_of_sending(spool: Spool, make_item: MakeItem) -> None:
    for item in (make_item("crate", ItemKind.CRATE), make_item("s"), make_item("x", run=2)):
        spool.outbox.add(item, ["cloud"])
    assert [i.item_id for i in spool.outbox.items_of_run((1).to_bytes(16, "big"))] == ["s", "crate"]
