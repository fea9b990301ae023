from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.errors import DiskError
from edge_agent.model import ItemKind, OutboxItem, Receipt
from edge_agent.spool import Spool
from edge_agent.storage import Disk, disk_error

MakeItem = Callable[..., OutboxItem]
Prove = Callable[..., None]


class Log:
    """Stands for the agent log: notes what was announced, and that the file was still there then."""

    def __init__(self) -> None:
        self.freed: list[tuple[str, tuple[str, ...]]] = []

    def __call__(self, item: OutboxItem, receipts: tuple[Receipt, ...]) -> None:
        assert item.path.exists()
        self.freed.append((item.item_id, tuple(r.target for r in receipts)))


def test_nothing_is_freed_before_every_required_target_proved_it(spool: Spool, make_item: MakeItem, prove: Prove) -> None:
    item, log = make_item("a"), Log()
    spool.outbox.add(item, ["cloud", "disk"])
    prove(spool, item, "cloud")
    assert spool.retention.release(log, pressure=True).items == 0
    assert item.path.exists()
    prove(spool, item, "disk")
    freed = spool.retention.release(log)
    assert (freed.items, freed.bytes) == (1, item.size)
    assert log.freed == [("a", ("cloud", "disk"))]
    assert not item.path.exists()


def test_an_item_without_a_required_target_is_never_freed_by_itself(spool: Spool, make_item: MakeItem, prove: Prove) -> None:
    item = make_item("a")
    spool.outbox.add(item, ["cloud"], required=[])
    prove(spool, item)
    assert spool.retention.release(Log(), pressure=True).items == 0
    assert item.path.exists()


def test_optional_targets_are_waited_for_until_the_space_is_needed(spool: Spool, make_item: MakeItem, prove: Prove) -> None:
    item = make_item("a")
    spool.outbox.add(item, ["cloud", "disk"], required=["cloud"])
    prove(spool, item, "cloud")
    assert spool.retention.release(Log()).items == 0
    assert spool.retention.release(Log(), pressure=True).items == 1
    disk = next(d for d in spool.outbox.deliveries("a") if d.target == "disk")
    assert disk.state == "skipped"
    assert "space was needed" in disk.reason


@pytest.mark.parametrize("crate_first", [True, False])
def test_a_target_that_was_not_waited_for_never_gets_the_crate_of_that_run(
    spool: Spool, make_item: MakeItem, prove: Prove, crate_first: bool
) -> None:
    segment, crate = make_item("a"), make_item("c", kind=ItemKind.CRATE)
    other = make_item("o", kind=ItemKind.CRATE, run=2)
    for item in (segment, crate, other) if crate_first else (segment, other):
        spool.outbox.add(item, ["cloud", "disk"], required=["cloud"])
    prove(spool, segment, "cloud")
    assert spool.retention.release(Log(), pressure=True).items == 1
    if not crate_first:
        spool.outbox.add(crate, ["cloud", "disk"], required=["cloud"])
    assert spool.outbox.next_for("disk") == other
    prove(spool, crate, "cloud")
    assert spool.retention.release(Log()).items == 1, "nothing waits for the crate"
    disk = next(d for d in spool.outbox.deliveries("c") if d.target == "disk")
    assert (disk.state, disk.reason) == ("skipped", "this target does not have all of the run")
    assert spool.outbox.next_for("disk") == other


def test_receipts_that_were_skipped_keep_no_crate_back(spool: Spool, make_item: MakeItem, prove: Prove) -> None:
    receipts, crate = make_item("r", kind=ItemKind.RECEIPTS), make_item("c", kind=ItemKind.CRATE)
    for item in (receipts, crate):
        spool.outbox.add(item, ["cloud", "disk"], required=["cloud"])
    prove(spool, receipts, "cloud")
    assert spool.retention.release(Log(), pressure=True).items == 1
    assert spool.outbox.next_for("disk") == crate


def test_what_is_being_sent_is_not_freed_even_under_pressure(spool: Spool, make_item: MakeItem, prove: Prove) -> None:
    item = make_item("a")
    spool.outbox.add(item, ["cloud", "disk"], required=["cloud"])
    prove(spool, item, "cloud")
    spool.outbox.begin("a", "disk")
    assert spool.retention.release(Log(), pressure=True).items == 0


def test_files_of_an_open_run_are_kept(spool: Spool, make_item: MakeItem, prove: Prove) -> None:
    item = make_item("a")
    spool.outbox.add(item, ["cloud"])
    prove(spool, item)
    assert spool.retention.release(Log(), hold={item.run_id}).items == 0
    assert spool.retention.release(Log()).items == 1


def test_a_freed_item_stays_known_and_is_not_taken_in_again(spool: Spool, make_item: MakeItem, prove: Prove) -> None:
    item = make_item("a", counts={"cam/frames": 5})
    spool.outbox.add(item, ["cloud"])
    prove(spool, item)
    spool.retention.release(Log())
    assert not spool.outbox.add(item, ["cloud"])
    assert spool.outbox.next_for("cloud") is None
    assert not spool.outbox.begin("a", "cloud")
    assert spool.ledger.totals()["cam/frames"].landed == 5
    assert spool.outbox.is_landed("a")


def test_if_the_agent_log_cannot_be_written_the_file_stays_and_the_next_release_goes_on(
    spool: Spool, make_item: MakeItem, prove: Prove
) -> None:
    item = make_item("a")
    spool.outbox.add(item, ["cloud"])
    prove(spool, item)

    def broken(_item: OutboxItem, _receipts: tuple[Receipt, ...]) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        spool.retention.release(broken)
    assert item.path.exists()
    log = Log()
    assert spool.retention.release(log).items == 1
    assert log.freed == [("a", ("cloud",))]


def test_a_failed_unlink_is_tried_again(tmp_path: Path, make_item: MakeItem, prove: Prove) -> None:
    class Stubborn(Disk):
        refuse = True

        def unlink(self, path: Path) -> None:
            if self.refuse:
                raise disk_error("removing a", OSError(5, "Input/output error"))
            super().unlink(path)

    disk = Stubborn()
    spool = Spool(tmp_path / "spool", disk)
    item = make_item("a")
    spool.outbox.add(item, ["cloud"])
    prove(spool, item)
    with pytest.raises(DiskError, match="Input/output"):
        spool.retention.release(Log())
    disk.refuse = False
    assert spool.retention.release(Log()).items == 1
    assert not item.path.exists()
    spool.close()


def test_a_file_that_cannot_be_removed_holds_up_no_other_and_is_announced_once(tmp_path: Path, make_item: MakeItem, prove: Prove) -> None:
    class Stubborn(Disk):
        def unlink(self, path: Path) -> None:
            if path.name == "a.h5":
                raise disk_error("removing a", PermissionError(1, "Operation not permitted"))
            super().unlink(path)

    spool = Spool(tmp_path / "spool", Stubborn())
    items, log = [make_item("a"), make_item("b")], Log()
    for item in items:
        spool.outbox.add(item, ["cloud"])
        prove(spool, item)
    for _ in range(2):
        with pytest.raises(DiskError, match="Operation not permitted"):
            spool.retention.release(log)
    assert [item.path.exists() for item in items] == [True, False]
    assert [item_id for item_id, _ in log.freed] == ["a", "b"]
    spool.close()


@pytest.mark.expects_errors
def test_a_file_that_took_the_place_of_a_proved_one_is_kept_and_quarantined(spool: Spool, make_item: MakeItem, prove: Prove) -> None:
    item, log = make_item("a", counts={"cam/frames": 5}), Log()
    spool.outbox.add(item, ["cloud", "disk"], required=["cloud"])
    prove(spool, item, "cloud", "disk")
    item.path.write_bytes(b"something that nobody proved")
    assert spool.retention.release(log, pressure=True).items == 0
    assert item.path.read_bytes() == b"something that nobody proved"
    assert log.freed == []
    (entry,) = spool.quarantine.entries()
    assert "not the one that was proved" in entry.why
    totals = spool.ledger.totals()["cam/frames"]
    assert (totals.quarantined, totals.discrepancy) == (5, 0)
    spool.quarantine.drop("a", "it was put there by mistake")
    assert not item.path.exists()


def test_receipts_that_grew_while_being_freed_are_kept(spool: Spool, make_item: MakeItem, prove: Prove) -> None:
    old = make_item("rcp", ItemKind.RECEIPTS, data=b"one")
    spool.outbox.add(old, ["cloud"])
    prove(spool, old)

    def grows(_item: OutboxItem, _receipts: tuple[Receipt, ...]) -> None:
        with spool.transaction():
            spool.outbox.add(make_item("rcp", ItemKind.RECEIPTS, data=b"one, two"), ["cloud"])

    assert spool.retention.release(grows).items == 0
    assert old.path.read_bytes() == b"one, two"
    waiting = spool.outbox.next_for("cloud")
    assert waiting is not None
    assert waiting.size == 8
