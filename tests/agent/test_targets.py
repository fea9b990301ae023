"""The daemon and its targets: a landing that is in trouble or lies, labels, and when space is freed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from edge_agent.agent.status import TargetStatus, TimestampStatus
from edge_agent.agent.targets import witnesses
from edge_agent.cli.app import run as command
from edge_agent.deliver.folder import FolderTarget
from edge_agent.deliver.landing import LandingTarget
from edge_agent.deliver.landing_keys import LandingKeys
from edge_agent.errors import UsageError
from edge_agent.local_api import serving
from edge_agent.model import Access, Block, Frame, ItemKind, Kind, Label, Stream
from edge_agent.provenance.policy import PolicyGate
from edge_agent.record.journal import LeafFrame, entries
from edge_agent.runs.desk import GroupPlan
from edge_agent.runs.keeper import Routes
from edge_agent.seal.leaf import Close, Open, SpoolFree, parse
from edge_agent.seal.log_leaf import Loss
from edge_agent.seal.policy import policy_digest
from edge_agent.segment import integrity, reader
from edge_agent.segment.roots import load_root
from edge_agent.segment.run import verify_run
from edge_agent.storage import Disk
from tests.tsa import Tsa

Configure = Callable[..., Path]
CAMERA = '[instrument.camera]\nadapter = "driven"\ngroup = "bl"\n'
IMAGE = Stream("camera", "image", Kind.FRAMES, "<u2", (8, 8), counted=True)
NUMBER = Stream("camera", "number", Kind.ROWS, "<f8")


def frame(number: int) -> Frame:
    now = time.time_ns()
    return Frame(np.full((8, 8), number, "<u2"), number, now, now)


async def sink(adapters: ModuleType, until: Any) -> Any:
    return await until(lambda: adapters.SINKS.get("camera"))


async def one_run(agent: Any, adapters: ModuleType, until: Any, n: int = 5) -> Any:
    """A session with ``n`` frames; returns its context when it is signed."""
    inlet = (await sink(adapters, until)).open(IMAGE)
    run = agent.desk.start("bl", project="p")
    for number in range(n):
        assert inlet.offer(frame(number))
    await agent.desk.stop("bl")
    return run


def landing_target(landing: Any) -> str:
    return f'[target.cloud]\nlanding = "{landing.url}"\n'


async def landed(agent: Any, until: Any) -> None:
    """Wait until every run is complete and nothing waits any more."""

    async def done() -> bool:
        status = await agent.status()
        return not status.runs and all(t.waiting == t.parked == 0 for t in status.targets)

    await until(done, 60)


async def total(agent: Any, key: str = IMAGE.key) -> Any:
    status = await agent.status()
    return next(s.totals for i in status.instruments for s in i.streams if s.name == key)


async def test_a_landing_that_answers_500_for_a_while_gets_everything_when_it_is_well_again_the_crate_last(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, landing: Any
) -> None:
    landing.trouble = True
    agent = await start(configure(CAMERA, landing_target(landing)))
    run = await one_run(agent, adapters, until)

    async def waits() -> Any:
        (target,) = (await agent.status()).targets
        return target if landing.refused >= 3 and target.state == "waiting" and "it is in trouble" in target.error else None

    target = await until(waits)
    assert "the storage is gone" in target.error
    assert "it is tried again" in target.error
    assert landing.space() == {}
    totals = await total(agent)
    assert (totals.arrived, totals.spooled, totals.landed, totals.lost) == (5, 5, 0, 0)
    landing.trouble = False
    await agent.engine.kick()
    await landed(agent, until)
    items = agent.spool.outbox.items_of_run(run.run_id)
    proved = {item.kind.value: agent.spool.outbox.deliveries(item.item_id)[0].receipt.t_ns for item in items}
    assert max(proved, key=proved.__getitem__) == "crate"
    report = verify_run(landing.home.space / run.folder, load_root(landing.home.root))
    assert (report.level, report.reason) == (3, "")
    totals = await total(agent)
    assert (totals.arrived, totals.landed, totals.discrepancy) == (5, 5, 0)


async def test_while_the_landing_is_down_data_waits_and_lands_when_it_is_back(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, landing: Any
) -> None:
    agent = await start(configure(CAMERA, landing_target(landing)))
    await landing.close()
    runs = [await one_run(agent, adapters, until) for _ in range(2)]
    await until(lambda: any(lane.last_error for lane in agent.engine.status()))
    (target,) = (await agent.status()).targets
    assert (target.waiting, target.parked, target.quarantined) == (6 + 2, 0, 0)
    await landing.open()
    await agent.engine.kick()
    agent.witnessing.wake.set()
    await landed(agent, until)
    for run in runs:
        assert verify_run(landing.home.space / run.folder, load_root(landing.home.root)).level == 3


async def test_an_outage_while_frames_come_costs_none_and_the_runs_land_in_the_order_in_which_they_were_made(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, landing: Any
) -> None:
    """The landing dies and comes back during a run; `python -m benchmarks.outage` says how fast the backlog goes."""
    agent = await start(configure(CAMERA, landing_target(landing)))
    target, begun = agent.engine._lanes["cloud"].target, []
    send = target.send

    async def noted(item: Any, progress: Any) -> Any:
        begun.append(item)
        return await send(item, progress)

    target.send = noted
    inlet = (await sink(adapters, until)).open(IMAGE)
    runs, number = [], 0
    for turn in range(3):
        runs.append(agent.desk.start("bl", project="p"))
        for step in range(10):
            assert inlet.offer(frame(number)), "capture does not wait for a target"
            number += 1
            if (turn, step) == (0, 5):
                await landing.close()
            if (turn, step) == (2, 5):
                await landing.open()
                await agent.engine.kick()
        await agent.desk.stop("bl")
    await landed(agent, until)
    totals = await total(agent)
    assert (totals.arrived, totals.landed, totals.lost, totals.discrepancy) == (number, number, 0, 0)
    segments = dict.fromkeys(item.run_no for item in begun if item.kind is ItemKind.SEGMENT)
    assert list(segments) == [run.run_no for run in runs]
    for run in runs:
        papers = [item.kind for item in begun if item.run_no == run.run_no and item.kind is not ItemKind.RECEIPTS]
        assert papers[-1] is ItemKind.CRATE, "the commit marker comes last"


@pytest.mark.expects_errors
async def test_a_landing_that_shows_a_certificate_of_another_authority_gets_nothing(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, landing: Any, new_home: Any, tmp_path: Path
) -> None:
    stranger = new_home(tmp_path / "stranger")
    await landing.close()
    await landing.open(stranger.keys)
    agent = await start(configure(CAMERA, landing_target(landing)))
    await one_run(agent, adapters, until)
    await until(lambda: any(lane.last_error for lane in agent.engine.status()))
    (lane,) = agent.engine.status()
    assert "this is not the landing service that we trust" in lane.last_error
    assert "certificate verify failed" in lane.last_error
    assert "was its certificate authority made anew?" in lane.last_error
    assert landing.space() == {}
    assert list(landing.home.incoming.iterdir()) == []
    assert (await total(agent)).spooled == 5
    await landing.close()
    await landing.open()
    await agent.engine.kick()
    agent.witnessing.wake.set()
    await landed(agent, until)


@pytest.mark.expects_errors
async def test_a_landing_with_the_right_certificate_and_the_wrong_receipt_key_is_not_believed_and_nothing_is_freed(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, landing: Any, new_home: Any, tmp_path: Path
) -> None:
    stranger = new_home(tmp_path / "stranger")
    for name in ("receipts.key", "receipts.pem"):
        shutil.copy(stranger.keys / name, landing.home.keys / name)
    await landing.close()
    await landing.open()
    agent = await start(configure(CAMERA, landing_target(landing)))
    run = await one_run(agent, adapters, until)
    folder = agent.keeper.folder(run)
    files = {path.name for path in folder.iterdir()}

    async def refused() -> bool:
        return (await agent.status()).targets[0].quarantined == 4

    await until(refused, 60)
    (target,) = (await agent.status()).targets
    assert "does not prove that our data is held" in target.error
    assert "the data is kept here" in target.error
    freed = await asyncio.to_thread(agent.spool.retention.release, agent._before_free, pressure=True)
    assert (freed.items, freed.bytes) == (0, 0)
    assert {path.name for path in folder.iterdir()} >= files
    assert leaves(agent, SpoolFree) == []
    totals = await total(agent)
    assert (totals.arrived, totals.landed, totals.quarantined, totals.discrepancy) == (5, 0, 5, 0)
    assert [r.stage for r in (await agent.status()).runs] == ["closed"], "its witness is not believed either"


def leaves(agent: Any, kind: type) -> list[Any]:
    data = (agent.spool.folder / "agent.log").read_bytes()
    return [leaf for entry, _ in entries(data) if isinstance(entry, LeafFrame) and isinstance(leaf := parse(entry.payload), kind)]


# Labels


async def test_closed_data_never_reaches_a_target_that_its_label_does_not_name_and_says_why(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, tmp_path: Path
) -> None:
    ours, other = tmp_path / "ours", tmp_path / "other"
    ours.mkdir()
    other.mkdir()
    targets = f'[target.ours]\nfolder = "{ours}"\n[target.other]\nfolder = "{other}"\n'
    agent = await start(configure(CAMERA + 'allowed = ["ours"]\n', targets))
    run = await one_run(agent, adapters, until)

    async def settled() -> bool:
        found = {t.name: t for t in (await agent.status()).targets}
        # Its crate is not even offered: it comes after everything else of its run.
        return bool(found["ours"].waiting == 0 and (found["other"].parked, found["other"].waiting) == (4, 1) and agent.keeper.book.past())

    await until(settled)
    assert list(other.iterdir()) == []
    assert {path.name for path in (ours / run.folder).iterdir()} >= {"000001.nxs", "000001.hsc", "ro-crate-metadata.json"}
    (item, *_) = agent.spool.outbox.items_of_run(run.run_id)
    delivery = {d.target: d for d in agent.spool.outbox.deliveries(item.item_id)}["other"]
    assert delivery.state == "parked"
    assert "may not go to other" in delivery.reason
    assert "the label names ours, and other is not the project's own space" in delivery.reason
    freed = await asyncio.to_thread(agent.spool.retention.release, agent._before_free, pressure=True)
    assert freed.items == 0


async def test_open_data_goes_to_every_target_whatever_the_label_names(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, tmp_path: Path
) -> None:
    ours, other = tmp_path / "ours", tmp_path / "other"
    ours.mkdir()
    other.mkdir()
    targets = f'[target.ours]\nfolder = "{ours}"\n[target.other]\nfolder = "{other}"\n'
    agent = await start(configure(CAMERA + 'allowed = ["ours"]\naccess = "open"\n', targets))
    run = await one_run(agent, adapters, until)
    await landed(agent, until)
    assert (other / run.folder / "000001.nxs").exists()


@pytest.mark.parametrize(
    ("label", "expected"),
    [("", ("closed", ())), ('access = "shared"\nallowed = ["disk"]\n', ("shared", ("disk",))), ('access = "open"\n', ("open", ()))],
)
async def test_the_label_is_signed_into_the_first_and_the_last_leaf_and_the_run(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, tmp_path: Path, label: str, expected: tuple[str, tuple[str, ...]]
) -> None:
    agent = await start(configure(CAMERA + label))
    run = await one_run(agent, adapters, until)
    await landed(agent, until)
    digest = policy_digest(*expected)
    with h5py.File(tmp_path / "space" / run.folder / "000001.nxs") as file:
        parsed = [parse(payload) for payload in integrity.read(reader.walk(file).integrity).leaves]
    assert [leaf.policy for leaf in parsed if isinstance(leaf, Open | Close)] == [digest, digest]
    assert verify_run(tmp_path / "space" / run.folder, None).policy == digest


async def test_of_two_labels_in_a_group_the_stricter_one_holds(configure: Configure, start: Any) -> None:
    two = '[instrument.a]\nadapter = "driven"\ngroup = "bl"\naccess = "open"\n[instrument.b]\nadapter = "driven"\ngroup = "bl"\naccess = "shared"\n'
    agent = await start(configure(two))
    assert agent.desk.plans["bl"].label.access.value == "shared"


LABELS = {
    "closed": Label(), "closed-disk": Label(Access.CLOSED, frozenset({"disk"})), "closed-cloud": Label(Access.CLOSED, frozenset({"cloud"})),
    "shared": Label(Access.SHARED), "shared-disk": Label(Access.SHARED, frozenset({"disk"})),
    "open": Label(Access.OPEN), "open-disk": Label(Access.OPEN, frozenset({"disk"})),
}  # fmt: skip
ALL = {"cloud", "lab"}
SHOWN = {
    ("closed", "all"): ALL, ("closed-disk", "all"): set(), ("closed-cloud", "all"): {"cloud"}, ("shared", "all"): ALL,
    ("shared-disk", "all"): set(), ("open", "all"): ALL, ("open-disk", "all"): ALL,
}  # fmt: skip


@pytest.mark.parametrize("routed", ["all", "disk"])
@pytest.mark.parametrize("label", LABELS)
def test_the_agent_log_is_shown_only_to_targets_where_data_may_go(label: str, routed: str, tmp_path: Path) -> None:
    keys = LandingKeys(tmp_path / "root.pem", tmp_path / "tls.pem", tmp_path / "receipts.pem")
    landings = {name: LandingTarget(name, "https://127.0.0.1:1", keys) for name in ("cloud", "lab", "unused")}
    targets = {"disk": FolderTarget("disk", tmp_path), **landings}
    routes = {"all": Routes(("disk", "cloud", "lab"), frozenset()), "disk": Routes(("disk",), frozenset())}
    plans = {"bl": GroupPlan("p", LABELS[label]), "other": GroupPlan("p", Label(Access.CLOSED, frozenset({"lab"})))}
    gate = PolicyGate(targets)
    alone = witnesses(targets, {"bl": plans["bl"]}, lambda group: routes[routed], gate)
    assert set(alone) == SHOWN.get((label, routed), set())
    both = witnesses(targets, plans, lambda group: routes[routed if group == "bl" else "all"], gate)
    assert set(both) == set(alone) | {"lab"}, "each group is asked for itself"


async def test_a_landing_that_no_label_allows_sees_neither_data_nor_the_log_and_the_run_is_complete_without_it(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, landing: Any, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    targets = f'[target.disk]\nfolder = "{tmp_path / "disk"}"\n{landing_target(landing)}'
    agent = await start(configure(CAMERA + 'allowed = ["disk"]\n', targets))
    run = await one_run(agent, adapters, until)
    await until(lambda: (tmp_path / "disk" / run.folder / "ro-crate-metadata.json").exists())
    await agent.stop()
    with contextlib.closing(sqlite3.connect(landing.home.catalogue)) as catalogue:
        assert [catalogue.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ("heads", "items", "refused")] == [(0,)] * 3
    assert list(landing.home.incoming.iterdir()) == []


# Space


async def test_what_is_still_here_goes_to_the_new_place_of_a_target_before_it_is_freed(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr("edge_agent.agent.agent.FREE_EVERY", 600.0)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    agent = await start(configure(CAMERA, f'[target.disk]\nfolder = "{tmp_path / "one"}"\n'))
    run = await one_run(agent, adapters, until)
    await landed(agent, until)
    items = {item.remote: item for item in agent.spool.outbox.items_of_run(run.run_id)}
    assert all(agent.spool.outbox.is_held(item.item_id) for item in items.values())
    await agent.stop()
    agent = await start(configure(CAMERA, f'[target.disk]\nfolder = "{tmp_path / "two"}"\n'))
    await landed(agent, until)
    assert {path.relative_to(tmp_path / "two").as_posix() for path in (tmp_path / "two").rglob("*") if path.is_file()} == set(items)
    assert "target disk is another place now" in caplog.text
    totals = agent.spool.ledger.totals()[IMAGE.key]
    assert (totals.landed, totals.discrepancy) == (5, 0)
    await agent.stop()
    caplog.clear()
    agent = await start(configure(CAMERA, f'[target.disk]\nfolder = "{tmp_path / "two"}"\n'))
    assert "another place" not in caplog.text


async def test_what_waits_for_a_target_that_is_not_configured_any_more_is_said(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent = await start(configure(CAMERA, f'[target.old]\nfolder = "{tmp_path / "none"}"\n'))
    await one_run(agent, adapters, until)
    await agent.stop()
    agent = await start(configure(CAMERA))
    old = next(target for target in (await agent.status()).targets if target.name == "old")
    assert (old.state, old.waiting > 0, old.bytes > 0) == ("gone", True, True)
    assert "until [target.old] is there again" in old.error
    assert "wait for target old" in caplog.text


async def test_what_waits_for_a_removed_target_can_be_given_up_and_nothing_else_by_that_name(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    (tmp_path / "new").mkdir()
    kept = f'[target.new]\nfolder = "{tmp_path / "new"}"\n'
    agent = await start(configure(CAMERA, kept + f'[target.old]\nfolder = "{tmp_path / "none"}"\n'))
    run = await one_run(agent, adapters, until)
    with pytest.raises(UsageError, match="Target old is configured") as configured:
        agent.drop("old", "it was closed")
    assert "take [target.old] out" in configured.value.try_
    await agent.stop()
    file = configure(CAMERA, kept)
    agent = await start(file)
    with pytest.raises(UsageError, match="needs a reason"):
        agent.drop("old", " ")
    with pytest.raises(UsageError, match="Nothing is quarantined as 'oldd'") as unknown:
        agent.drop("oldd", "it was closed")
    assert "nothing waits for a target of that name" in unknown.value.why
    drop = ["quarantine", "drop", "old", "--reason", "it was closed", "--config", str(file)]
    async with serving(agent, agent.spool.folder):
        assert await asyncio.to_thread(command, drop) == 0
    assert re.fullmatch(
        r"old is given up; this is on record: it was closed\n[1-9]\d* files waited for it; 0 of them no other target has or awaits\.\n",
        capsys.readouterr().out,
    )
    assert [(leaf.what, leaf.run_id, leaf.reason) for leaf in leaves(agent, Loss)] == [("old", run.run_id, "it was closed")]
    assert "old" not in {target.name for target in (await agent.status()).targets}
    await landed(agent, until)
    totals = agent.spool.ledger.totals()[IMAGE.key]
    assert (totals.landed, totals.lost, totals.discrepancy) == (5, 0, 0)
    with pytest.raises(UsageError, match="Nothing is quarantined as 'old'"):
        agent.drop("old", "it was closed")


async def test_space_is_freed_only_after_every_required_target_has_it_and_the_log_says_so_before(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.agent.agent.FREE_EVERY", 0.05)
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    targets = f'[target.one]\nfolder = "{one}"\n[target.two]\nfolder = "{two}"\n[target.spare]\nfolder = "{tmp_path / "none"}"\nrequired = false\n'
    agent = await start(configure(CAMERA, targets))
    unlinked: list[str] = []
    real = Disk.unlink

    def unlink(disk: Disk, path: Path) -> None:
        items = {item.path: item.item_id for e in agent.keeper.book.past() for item in agent.spool.outbox.items_of_run(e.run.run_id)}
        if path in items:
            assert items[path] in {leaf.item_id for leaf in leaves(agent, SpoolFree)}, "freed before the log said so"
            unlinked.append(path.name)
        real(disk, path)

    monkeypatch.setattr(Disk, "unlink", unlink)
    run = await one_run(agent, adapters, until)
    folder = agent.keeper.folder(run)

    async def at_one() -> bool:
        return bool(agent.keeper.book.past()) and {t.name: t.waiting for t in (await agent.status()).targets}["one"] == 0

    await until(at_one)
    await asyncio.to_thread(agent.spool.retention.release, agent._before_free, pressure=True)
    assert unlinked == []
    assert leaves(agent, SpoolFree) == []
    assert (folder / "000001.nxs").exists()
    two.mkdir()
    await agent.engine.kick()

    async def at_two() -> bool:
        return {t.name: t.waiting for t in (await agent.status()).targets}["two"] == 0

    await until(at_two)
    # The optional target is only given up when space is needed.
    assert (folder / "000001.nxs").exists()
    await asyncio.to_thread(agent.spool.retention.release, agent._before_free, pressure=True)
    assert sorted(unlinked) == ["000001.hsc", "000001.nxs", "manifest-sha256.txt", "preview.png", "ro-crate-metadata.json"]
    assert list(folder.iterdir()) == []
    for leaf in leaves(agent, SpoolFree):
        assert len(leaf.receipts) == 2
    totals = await total(agent)
    assert (totals.landed, totals.spooled, totals.discrepancy) == (5, 0, 0)
    for space in (one, two):
        assert verify_run(space / run.folder, None).reason == "signed by an unknown key"


async def test_a_run_of_a_day_gives_its_landed_segments_free_when_the_disk_fills_and_still_gets_its_papers(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, tmp_path: Path, read_space: Any
) -> None:
    agent = await start(configure(CAMERA + 'idle = "keep"\n'))
    inlet = (await sink(adapters, until)).open(IMAGE)
    for number in range(3):
        inlet.offer(frame(number))
    await until(lambda: IMAGE.key in (totals := agent.keeper.totals()) and totals[IMAGE.key].arrived == 3)
    (entry,) = agent.keeper.book.entries()
    (live,) = agent.keeper.live
    (series,) = live.recording.series()
    await asyncio.wrap_future(agent.recorder.call(lambda: series.roll("rolled")))
    (item,) = agent.spool.outbox.items_of_run(entry.run.run_id)
    await until(lambda: agent.spool.outbox.is_landed(item.item_id))
    await asyncio.to_thread(agent.spool.retention.release, agent._before_free, hold=[entry.run.run_id])
    assert item.path.exists(), "without pressure an open run keeps its files"
    await asyncio.to_thread(agent.spool.retention.release, agent._before_free, pressure=True)
    assert not item.path.exists()
    for number in range(3, 6):
        inlet.offer(frame(number))
    await until(lambda: agent.keeper.totals()[IMAGE.key].arrived == 6)
    await agent.stop()
    agent = await start(configure(CAMERA + 'idle = "keep"\n'))
    await landed(agent, until)
    report = verify_run(tmp_path / "space" / entry.run.folder, None)
    assert (report.reason, len(report.segments)) == ("signed by an unknown key", 2)
    assert read_space(tmp_path / "space")[IMAGE.key]["frame_number"] == list(range(6))


# Values


async def test_a_nan_is_kept_as_it_came_with_its_flag(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, tmp_path: Path, read_space: Any
) -> None:
    agent = await start(configure(CAMERA))
    inlet = (await sink(adapters, until)).open(NUMBER)
    agent.desk.start("bl", project="p")
    now = np.full(3, time.time_ns())
    await inlet.put(Block(np.array([1.0, np.nan, -np.inf]), now, now, valid=np.array([1, 0, 1], "|u1"), status=np.array([0, 7, 0], "<u4")))
    await agent.desk.stop("bl")
    await landed(agent, until)
    group = read_space(tmp_path / "space")[NUMBER.key]
    np.testing.assert_array_equal(group["value"], [1.0, np.nan, -np.inf])
    assert (group["valid"], group["status"]) == ([1, 0, 1], [0, 7, 0])
    assert (await total(agent, NUMBER.key)).arrived == 3


async def test_many_tags_share_a_table_from_their_first_run_on_and_are_drawn(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, tmp_path: Path, read_space: Any
) -> None:
    agent = await start(configure(CAMERA, head="own_streams = 2"))
    inlets = [(await sink(adapters, until)).open(replace(NUMBER, name=f"tag{n}")) for n in range(3)]
    run = agent.desk.start("bl", project="p")
    for n, inlet in enumerate(inlets):
        times = time.time_ns() + np.arange(3)
        await inlet.put(Block(np.arange(3.0) + n, times, times))
    await agent.desk.stop("bl")
    await landed(agent, until)
    space = tmp_path / "space" / run.folder
    with h5py.File(space / f"{run.name}.nxs") as file:
        assert file["entry/tags/table"].asstr()[()].tolist() == ["f8"] * 3
        assert [name for name in file["entry/instrument/camera"] if name.startswith("tag")] == []
    found = read_space(tmp_path / "space")
    assert {key: found[key]["value"] for key in found} == {f"camera/tag{n}": [n, n + 1.0, n + 2.0] for n in range(3)}
    assert (space / "preview.png").exists(), "tags are drawn too"
    assert verify_run(space, None).reason == "signed by an unknown key"


async def test_an_empty_file_is_adopted_and_lands_like_every_other(configure: Configure, start: Any, until: Any, tmp_path: Path) -> None:
    vendor = tmp_path / "vendor"
    vendor.mkdir()
    agent = await start(
        configure(f'[instrument.vendor]\nadapter = "files"\ngroup = "bl"\nfolder = "{vendor}"\nsettle = "100 ms"\nrescan = "200 ms"\n')
    )
    run = agent.desk.start("bl", project="p")
    (vendor / "empty.dat").touch()
    (vendor / "full.dat").write_bytes(b"abc")
    await until(lambda: agent.keeper.totals().get("vendor/files") is not None and agent.keeper.totals()["vendor/files"].arrived == 2)
    (vendor / "last.dat").write_bytes(b"written as the session ends")
    await agent.desk.stop("bl")
    await landed(agent, until)
    files = tmp_path / "space" / run.folder / "files" / "vendor"
    assert {path.name: path.read_bytes() for path in files.iterdir()} == {
        "empty.dat": b"", "full.dat": b"abc", "last.dat": b"written as the session ends",
    }  # fmt: skip
    report = verify_run(tmp_path / "space" / run.folder, None)
    assert (report.files, report.reason) == (3, "signed by an unknown key")


# What comes late


@pytest.mark.needs("openssl")
async def test_a_run_that_landed_is_witnessed_then_time_stamped_and_amended_as_both_verifiers_see(
    configure: Configure, start: Any, until: Any, adapters: ModuleType, landing: Any, tmp_path: Path
) -> None:
    tsa, away = Tsa(tmp_path / "tsa"), True

    async def answer(request: web.Request) -> web.Response:
        if away:
            raise web.HTTPServiceUnavailable
        return web.Response(body=await asyncio.to_thread(tsa.answer, await request.read()), content_type="application/timestamp-reply")

    app = web.Application()
    app.router.add_post("/", answer)
    async with TestServer(app) as server:
        table = f'timestamp = {{ tsa = "{server.make_url("/")}", root = "{tsa.root_file}", facility = true }}'
        agent = await start(configure(CAMERA, landing_target(landing), table))
        run = await one_run(agent, adapters, until)
        await landed(agent, until)
        folder, root = landing.home.space / run.folder, landing.home.root
        assert verify_run(folder, load_root(root), tsa_roots=[tsa.root]).level == 3, "landing waits for no time-stamp"
        stamps = (await agent.status()).timestamp
        assert (stamps.waiting, stamps.error.splitlines()[1]) == (1, "  why: status 503, text/plain")
        away = False
        agent.stamping.wake.set()
        await until(lambda: not agent.spool.state.under("stamp/"))
        assert (await agent.status()).timestamp == TimestampStatus(0, "")
        await asyncio.to_thread(agent.amending.amend, run.name, {"sample.name": "SiC"}, "Ada", "nobody had said it")
        await landed(agent, until)
    report = verify_run(folder, load_root(root), tsa_roots=[tsa.root])
    assert (report.level, report.notes, report.log_stamped_ns > 0) == (4, (), True)
    assert [change.new for amendment in report.amendments for change in amendment.changes] == ["SiC"]
    tool = Path(__file__).parents[2] / "tools" / "verify_hsc1.py"
    command = [sys.executable, tool, folder, "--root", root, "--tsa-root", tsa.root_file, "--level", "4", "--json"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout
    (item,) = json.loads(done.stdout)["items"]
    assert item["amendments"][0]["changes"] == [["sample.name", None, "SiC"]]


@pytest.mark.expects_errors
async def test_an_agent_that_is_not_enrolled_captures_all_the_same_and_says_what_to_do(
    configure: Configure, start: Any, adapters: ModuleType, until: Any
) -> None:
    agent = await start(configure(CAMERA, '[target.cloud]\nlanding = "https://landing.example"\n'))
    await one_run(agent, adapters, until)

    async def refused() -> TargetStatus | None:
        (cloud,) = (await agent.status()).targets
        return cloud if cloud.state == "refused" and cloud.waiting else None

    cloud = await until(refused)
    assert "not enrolled" in cloud.error
    assert "edge-agent enroll TOKEN, and restart the agent" in cloud.error
    assert cloud.parked == cloud.quarantined == 0
