from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.errors import DiskError, UsageError
from edge_agent.model import OutboxItem
from edge_agent.spool import Spool
from edge_agent.spool.quarantine import GivenUp

MakeItem = Callable[..., OutboxItem]
Prove = Callable[..., None]


def refuse(spool: Spool, item: OutboxItem, *targets: str) -> None:
    for target in targets:
        spool.outbox.begin(item.item_id, target)
        spool.outbox.quarantine(item.item_id, target, "digest differs")


def test_a_file_that_cannot_be_parsed_is_moved_with_its_reason_and_not_a_byte_is_lost(spool: Spool, tmp_path: Path) -> None:
    junk = tmp_path / "spool" / "journal-000001.part"
    junk.write_bytes(b"\0" * 5 + b"junk")
    entry = spool.quarantine.set_aside([junk], "the journal has no OPEN record")
    assert not junk.exists()
    assert entry.path.read_bytes() == b"\0" * 5 + b"junk"
    reason = json.loads((entry.path.parent / "reason.json").read_text())
    assert (reason["why"], reason["origin"]) == ("the journal has no OPEN record", str(junk))
    assert spool.quarantine.entries() == (entry,)


def test_two_files_of_one_name_do_not_collide(spool: Spool, tmp_path: Path) -> None:
    for n in range(3):
        (tmp_path / "x.part").write_bytes(bytes([n]))
        spool.quarantine.set_aside([tmp_path / "x.part"], "why")
    assert sorted(e.path.read_bytes() for e in spool.quarantine.entries()) == [b"\0", b"\1", b"\2"]


def test_files_that_belong_together_are_one_entry_and_go_back_together(spool: Spool, tmp_path: Path) -> None:
    paths = [tmp_path / "runs" / name for name in ("a.h5.part", "a.h5.journal")]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_bytes(path.name.encode())
    entry = spool.quarantine.set_aside(paths, "chunk 3 has other bytes", "a.h5")
    assert spool.quarantine.entries() == (entry,)
    assert (entry.path.name, [path.name for path in entry.beside], entry.origin) == ("a.h5.journal", ["a.h5.part"], paths[1])
    assert (entry.size, entry.why) == (len("a.h5.parta.h5.journal"), "chunk 3 has other bytes")
    assert entry.id.startswith("a.h5-")
    spool.quarantine.export(entry.id, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.h5.part", "a.h5.journal", "a.h5.journal.reason.json"}
    paths[0].write_bytes(b"taken")
    with pytest.raises(UsageError, match="cannot go back"):
        spool.quarantine.retry(entry.id)
    paths[0].unlink()
    spool.quarantine.retry(entry.id)
    assert [path.read_bytes() for path in paths] == [path.name.encode() for path in paths]
    assert spool.quarantine.entries() == ()


def test_a_file_can_go_back_to_where_it_was_but_never_over_another(spool: Spool, tmp_path: Path) -> None:
    junk = tmp_path / "deep" / "a.part"
    junk.parent.mkdir()
    junk.write_bytes(b"old")
    entry = spool.quarantine.set_aside([junk], "why")
    junk.write_bytes(b"new")
    with pytest.raises(UsageError, match="cannot go back"):
        spool.quarantine.retry(entry.id)
    junk.unlink()
    junk.parent.rmdir()
    spool.quarantine.retry(entry.id)
    assert junk.read_bytes() == b"old"
    assert spool.quarantine.entries() == ()


def test_a_lost_reason_file_does_not_hide_the_entry(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(b"x")
    entry = spool.quarantine.set_aside([tmp_path / "a.part"], "why")
    (entry.path.parent / "reason.json").write_text("{")
    (shown,) = spool.quarantine.entries()
    assert "cannot be read" in shown.why
    with pytest.raises(UsageError, match="cannot go back"):
        spool.quarantine.retry(entry.id)
    spool.quarantine.drop(entry.id, "looked at it: noise")
    assert spool.quarantine.entries() == ()


def test_a_refused_item_is_listed_with_who_refused_it_and_why(spool: Spool, make_item: MakeItem) -> None:
    item = make_item("a")
    spool.outbox.add(item, ["cloud", "disk", "tape"])
    refuse(spool, item, "cloud", "disk")
    (entry,) = spool.quarantine.entries()
    assert (entry.id, entry.targets, entry.path) == ("a", ("cloud", "disk"), item.path)
    assert "cloud: digest differs" in entry.why
    assert item.path.exists()


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_dropping_needs_a_reason(spool: Spool, make_item: MakeItem, reason: str) -> None:
    item = make_item("a")
    spool.outbox.add(item, ["cloud"])
    refuse(spool, item, "cloud")
    with pytest.raises(UsageError, match="needs a reason") as caught:
        spool.quarantine.drop("a", reason)
    assert "--reason" in caught.value.try_
    assert item.path.exists()


def test_an_unknown_entry_is_a_usage_error(spool: Spool) -> None:
    with pytest.raises(UsageError, match="Nothing is quarantined as 'x'"):
        spool.quarantine.show("x")


def test_a_dropped_item_is_counted_as_lost_and_the_reason_stays_on_record(spool: Spool, make_item: MakeItem) -> None:
    item = make_item("a", counts={"cam/frames": 10})
    spool.outbox.add(item, ["cloud"])
    refuse(spool, item, "cloud")
    spool.quarantine.drop("a", "shutter was closed, empty frames")
    assert not item.path.exists()
    totals = spool.ledger.totals()["cam/frames"]
    assert (totals.arrived, totals.lost, totals.quarantined, totals.discrepancy) == (10, 10, 0, 0)
    (dropped,) = spool.quarantine.dropped()
    assert (dropped.id, dropped.reason, dropped.size) == ("a", "shutter was closed, empty frames", item.size)
    assert not spool.outbox.add(item, ["cloud"])
    assert spool.quarantine.entries() == ()


@pytest.mark.parametrize("state", ["sealed", "parked", "quarantined"])
def test_what_waits_for_a_removed_target_is_given_up_as_a_whole_and_other_targets_keep_theirs(
    spool: Spool, make_item: MakeItem, prove: Prove, state: str
) -> None:
    alone, both, proved = (make_item(name, counts={f"cam/{name}": 10}) for name in ("alone", "both", "proved"))
    spool.outbox.add(alone, ["old"])
    spool.outbox.add(both, ["new", "old"])
    spool.outbox.add(proved, ["new", "old"])
    prove(spool, proved, "old")
    for item in (alone, both) if state != "sealed" else ():
        spool.outbox.begin(item.item_id, "old")
        (spool.outbox.park if state == "parked" else spool.outbox.quarantine)(item.item_id, "old", "it will not")
    assert spool.outbox.runs_waiting_for("old") == (alone.run_id,)
    assert spool.quarantine.drop_target("old", "the place was closed") == GivenUp("old", 2, 1)
    assert (alone.path.exists(), both.path.exists(), proved.path.exists()) == (False, True, True)
    assert spool.outbox.runs_waiting_for("old") == ()
    assert next(waits for waits in spool.outbox.backlog() if waits.target == "old").bytes == 0
    assert {(d.id, d.reason) for d in spool.quarantine.dropped()} == {(i, "the place was closed") for i in ("alone", "both")}
    assert [d.state for d in spool.outbox.deliveries("proved")] == ["sealed", "proved"]
    prove(spool, both, "new")
    totals = spool.ledger.totals()
    assert (totals["cam/alone"].lost, totals["cam/both"].landed, totals["cam/proved"].spooled) == (10, 10, 10)
    assert spool.retention.release(lambda *_: None).items == 1


def test_giving_up_a_target_needs_a_reason(spool: Spool, make_item: MakeItem) -> None:
    spool.outbox.add(make_item("a"), ["old"])
    with pytest.raises(UsageError, match="needs a reason"):
        spool.quarantine.drop_target("old", " ")
    assert spool.outbox.runs_waiting_for("old")


def test_dropping_at_one_target_keeps_the_item_for_the_others_and_they_decide(spool: Spool, make_item: MakeItem, prove: Prove) -> None:
    item = make_item("a", counts={"cam/frames": 10})
    spool.outbox.add(item, ["cloud", "disk"], required=["cloud"])
    refuse(spool, item, "cloud")
    spool.quarantine.drop("a", "cloud will never take it")
    assert item.path.exists()
    assert spool.retention.release(lambda *_: None, pressure=True).items == 0
    spool.outbox.add(item, ["cloud", "disk"], required=["cloud"])
    prove(spool, item, "disk")
    assert spool.ledger.totals()["cam/frames"].landed == 10
    assert spool.retention.release(lambda *_: None).items == 1


def test_export_copies_the_bytes_and_the_reason_and_changes_nothing(spool: Spool, make_item: MakeItem, tmp_path: Path) -> None:
    item = make_item("a")
    spool.outbox.add(item, ["cloud"])
    refuse(spool, item, "cloud")
    copy = spool.quarantine.export("a", tmp_path / "out" / "here")
    assert copy.read_bytes() == item.path.read_bytes()
    assert json.loads((tmp_path / "out" / "here" / "a.h5.reason.json").read_text())["targets"] == ["cloud"]
    with pytest.raises(DiskError, match="exists"):
        spool.quarantine.export("a", tmp_path / "out" / "here")
    assert len(spool.quarantine.entries()) == 1
