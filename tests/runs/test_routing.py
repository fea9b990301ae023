"""Which project a run gets, by which rule; what a project that is closed does not get; and how a run is claimed."""

from __future__ import annotations

import datetime as dt
import os
import zoneinfo
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import UsageError
from edge_agent.model import Frame, Proof, Receipt, Stream
from edge_agent.runs.amend import Amending
from edge_agent.runs.claim import Claiming
from edge_agent.runs.routing import PATH, UNCLAIMED, Configured, Route, Routing
from edge_agent.runs.schedule import Schedule, parse_schedule
from edge_agent.seal.amendment import Change, parse_amendment
from edge_agent.seal.cose import parse_all
from edge_agent.seal.log_leaf import Quarantine as QuarantineLeaf
from edge_agent.seal.receipt import parse_receipts

New = Callable[..., Any]
TOKYO = zoneinfo.ZoneInfo("Asia/Tokyo")
NOON = int(dt.datetime(2026, 11, 24, 12, 0, tzinfo=TOKYO).timestamp()) * 10**9
HOUR = 3600 * 10**9
BEAMTIME = """start,end,project,group
2026-11-24T09:00,2026-11-25T09:00,2026B1234,
2026-11-24T11:00,2026-11-24T13:00,2026B0007,bl
2026-11-25T00:00:00Z,2026-11-26T00:00:00Z,2026B5555,
"""


def schedule() -> Schedule:
    return Schedule(Path("beam.csv"), TOKYO, slots=parse_schedule(BEAMTIME, TOKYO))


def test_the_first_rule_that_knows_the_project_decides_and_is_named() -> None:
    routing = Routing((schedule(), Configured({"bl": "house", "attic": "house", "other": UNCLAIMED})))
    assert routing.decide("bl", NOON, "mine") == Route("mine", "session")
    assert routing.decide("bl", NOON, "folder", PATH) == Route("folder", "path")
    assert routing.decide("bl", NOON) == Route("2026B0007", "schedule", "beam.csv, line 3")
    assert routing.decide("attic", NOON) == Route("2026B1234", "schedule", "beam.csv, line 2")
    assert routing.decide("attic", NOON - 4 * HOUR) == Route("house", "configuration")
    assert routing.decide("other", NOON - 4 * HOUR) == Route(UNCLAIMED, "nobody")
    routing.values.say("bl", "2026B9999", "ca://BL05:PROPOSAL")
    assert routing.decide("bl", NOON) == Route("2026B9999", "value", "ca://BL05:PROPOSAL")


def test_a_line_holds_from_its_start_until_before_its_end_in_the_zone_that_it_names() -> None:
    found = schedule()
    assert found.project("attic", NOON - 3 * HOUR) == ("2026B1234", "beam.csv, line 2")
    assert found.project("attic", NOON - 3 * HOUR - 1) is None
    assert found.project("bl", NOON + HOUR) == ("2026B1234", "beam.csv, line 2"), "what was put in between has ended"
    assert found.project("bl", NOON + 21 * HOUR) == ("2026B5555", "beam.csv, line 4"), "nine in Tokyo is midnight UTC"
    assert found.project("bl", NOON + 45 * HOUR) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: has no column start, end, project"),
        ("start,end\n", "line 1: has no column project"),
        ("start,end,project\ntomorrow,2026-11-25,p\n", "line 2: Invalid isoformat"),
        ("start,end,project\n2026-11-24,2026-11-25,p\n2026-11-25\n", "line 3: "),
        ("start,end,project\n2026-11-24,2026-11-25,../p\n", "line 2: '../p' is no name of a project"),
        ("start,end,project\n2026-11-25,2026-11-25,p\n", "line 2: ends before it begins"),
    ],
)
def test_a_wrong_line_is_named(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="line") as refused:
        parse_schedule(text, TOKYO)
    assert str(refused.value).startswith(said)


def test_a_schedule_that_became_wrong_leaves_the_last_good_one_and_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "beam.csv"
    file.write_text("\ufeff" + BEAMTIME, encoding="utf-8")
    found = Schedule(file, TOKYO)
    found.look()
    assert found.project("bl", NOON) == ("2026B0007", "beam.csv, line 3")
    file.write_text("nonsense")
    found.look()
    found.look()
    assert found.project("bl", NOON) == ("2026B0007", "beam.csv, line 3")
    assert caplog.text.count("the last good one goes on") == 1
    file.write_text(BEAMTIME.replace("2026B0007", "2026B0008"))
    os.utime(file, ns=(1, 1))
    found.look()
    assert found.project("bl", NOON) == ("2026B0008", "beam.csv, line 3")
    file.unlink()
    found.look()
    assert found.project("bl", NOON) == ("2026B0008", "beam.csv, line 3")


async def test_the_decision_stands_in_the_book_and_survives_a_restart(new_house: New) -> None:
    house = new_house()
    await house.open("bl")
    house.desk.routing = Routing((schedule(),))
    house.desk.trigger("bl", True, NOON, "shutter")
    (entry,) = house.keeper.book.entries()
    assert (entry.run.project, entry.run.rule, entry.run.rule_source) == ("2026B0007", "schedule", "beam.csv, line 3")
    assert entry.run.folder.startswith("2026B0007/bl/2026-11-24/")
    await house.stop()
    house = new_house()
    await house.open("bl")
    (run,) = house.runs()
    assert (run.rule, run.rule_source) == ("schedule", "beam.csv, line 3")


def refuse(project: str, t_ns: int) -> str:
    return "its last day is over" if project == "old" else ""


def proved(house: Any) -> None:
    """A target takes everything that waits."""
    outbox = house.spool.outbox
    while (item := outbox.next_for("disk")) is not None:
        assert outbox.begin(item.item_id, "disk")
        assert outbox.proved(Receipt("disk", item.item_id, item.sha256 or bytes(32), item.size, Proof.FSYNCED, 1))


async def recorded(house: Any, camera: Stream, frame: Callable[..., Frame]) -> Any:
    """A run by a trigger with one frame, closed."""
    group = house.groups["bl"]
    house.desk.trigger("bl", True, house.clock() - 10, "shutter")
    group.offer(camera, frame(1))
    await house.durable(camera, 1)
    house.clock.now += 10**9
    house.desk.trigger("bl", False, house.clock(), "shutter")
    return await house.complete()


async def test_a_closed_project_refuses_a_session_and_what_comes_all_the_same_is_quarantined(
    new_house: New, camera: Stream, frame: Callable[..., Frame]
) -> None:
    house = new_house(targets=("disk",))
    await house.open("bl")
    house.desk.routing = routing = Routing((Configured({"bl": "old"}),), refuse)
    with pytest.raises(UsageError) as refused:
        house.desk.start("bl", project="old")
    assert refused.value.code == "PROJECT_CLOSED"
    run = await recorded(house, camera, frame)
    assert run.refused == "its last day is over"
    items = house.spool.outbox.items_of_run(run.run_id)
    assert {item.path.name for item in items} >= {f"{run.name}.nxs", f"{run.name}.hsc", "ro-crate-metadata.json"}
    assert {d.state for item in items for d in house.spool.outbox.deliveries(item.item_id)} == {"quarantined"}
    assert house.spool.outbox.next_for("disk") is None
    entries = house.spool.quarantine.entries()
    assert {entry.why for entry in entries} == {"disk: its last day is over"}
    assert {leaf.run_id for leaf in house.log(QuarantineLeaf)} == {run.run_id}

    amending = Amending(house.papers)
    amending.amend(run.name, {"sample.name": "steel"}, "Hanako", "forgotten")
    assert house.spool.outbox.next_for("disk") is None, "late metadata is no way around it"
    claimed = Claiming(amending, routing).claim(run.name, "new", "Hanako", "the proposal goes on under another number")
    assert (claimed.sent, claimed.folder) == (True, run.folder.replace("old/", "new/", 1))
    proved(house)
    assert {item.project for item in house.spool.outbox.items_of_run(run.run_id)} == {"new"}
    assert house.keeper.totals()[camera.key].landed == 1


async def test_a_run_of_nobody_is_claimed_and_everything_of_it_goes_to_the_project(
    new_house: New, camera: Stream, frame: Callable[..., Frame]
) -> None:
    house = new_house(targets=("disk",))
    await house.open("bl")
    run = await recorded(house, camera, frame)
    assert (run.project, run.rule) == (UNCLAIMED, "nobody")
    proved(house)
    before = {item.path.name for item in house.spool.outbox.items_of_run(run.run_id)}
    claiming = Claiming(Amending(house.papers), house.desk.routing)
    made = claiming.claim(run.name, "steel-2026", "https://orcid.org/0000-0002-1825-0097", "my night shift")
    assert (made.number, made.sent) == (1, True)
    items = house.spool.outbox.items_of_run(run.run_id)
    assert {item.path.name for item in items} == before | {f"{run.name}.receipts"}
    assert {item.remote.rpartition("/")[0] for item in items} == {made.folder} == {run.folder.replace(UNCLAIMED, "steel-2026")}
    proved(house)
    assert all(house.spool.outbox.is_landed(item.item_id) for item in items)
    totals = house.keeper.totals()[camera.key]
    assert (totals.landed, totals.discrepancy) == (1, 0)
    receipts = parse_receipts((house.keeper.folder(run) / f"{run.name}.receipts").read_bytes())
    (amendment,) = (parse_amendment(parse_all(data).payload) for data in receipts.amendments)
    assert amendment.changes == (Change("project.name", UNCLAIMED, "steel-2026"),)
    assert (amendment.author, amendment.reason) == ("https://orcid.org/0000-0002-1825-0097", "my night shift")
    with pytest.raises(UsageError) as owned:
        claiming.claim(run.name, "other", "Taro", "mine")
    assert owned.value.code == "CLAIM_OWNED"
    amending = Amending(house.papers)
    amending.amend(run.name, {"sample.name": "steel"}, "Hanako", "forgotten")
    late = house.spool.outbox.next_for("disk")
    assert (late.project, late.remote) == ("steel-2026", f"{made.folder}/{run.name}.receipts")


async def test_a_claim_outlives_the_database(new_house: New, camera: Stream, frame: Callable[..., Frame]) -> None:
    house = new_house(targets=("disk",))
    await house.open("bl")
    run = await recorded(house, camera, frame)
    made = Claiming(Amending(house.papers), house.desk.routing).claim(run.name, "steel-2026", "Hanako", "mine")
    await house.stop()
    for path in house.folder.glob("spool.db*"):
        path.unlink()
    house = new_house(targets=("disk",))
    await house.open("bl")
    items = house.spool.outbox.items_of_run(run.run_id)
    assert len(items) >= 4
    assert {item.remote.rpartition("/")[0] for item in items} == {made.folder}


async def test_a_run_whose_files_have_left_is_claimed_by_its_signed_record_alone(
    new_house: New, camera: Stream, frame: Callable[..., Frame]
) -> None:
    house = new_house(targets=("disk",))
    await house.open("bl")
    run = await recorded(house, camera, frame)
    proved(house)
    assert house.spool.outbox.waiting_for_a_claim(UNCLAIMED, 0) == {run.run_id}
    assert house.spool.outbox.waiting_for_a_claim(UNCLAIMED, 2**62) == frozenset()
    house.spool.retention.release(lambda item, receipts: None)
    made = Claiming(Amending(house.papers), house.desk.routing).claim(run.name, "steel-2026", "Hanako", "mine")
    assert (made.sent, made.folder) == (False, run.folder)
    late = house.spool.outbox.next_for("disk")
    assert late.remote == f"{run.folder}/{run.name}.receipts"


async def test_what_is_no_claim_is_refused(new_house: New, camera: Stream, frame: Callable[..., Frame]) -> None:
    house = new_house(targets=("disk",))
    await house.open("bl")
    run = await recorded(house, camera, frame)
    claiming = Claiming(Amending(house.papers), Routing((), refuse))
    for number, project, code in (
        (run.name, "../x", "PROJECT_NAME"), (run.name, UNCLAIMED, "PROJECT_NAME"), (run.name, "old", "PROJECT_CLOSED"),
        ("99", "p", "RUN_UNKNOWN"),
    ):  # fmt: skip
        with pytest.raises(UsageError) as refused:
            claiming.claim(number, project, "Hanako", "mine")
        assert refused.value.code == code
    item = house.spool.outbox.next_for("disk")
    assert house.spool.outbox.begin(item.item_id, "disk")
    with pytest.raises(UsageError) as busy:
        claiming.claim(run.name, "p", "Hanako", "mine")
    assert busy.value.code == "CLAIM_BUSY"
