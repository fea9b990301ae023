"""The daemon as a process: signals, a second one, adapters that fail, and what it says."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from edge_agent.errors import EdgeAgentError, UsageError
from edge_agent.segment.run import verify_run

Configure = Callable[..., Path]
Run = Callable[..., Any]
Until = Callable[..., Any]

COUNTING = '[instrument.counter]\nadapter = "counting"\ngroup = "bl"\n'


def cli(package: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(package), "EDGE_AGENT_LANG": "en", **env}
    command = [sys.executable, "-m", "edge_agent.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200, check=False)


def adds_up(totals: dict[str, dict[str, Any]]) -> bool:
    """The table may be off for a moment while the writer waits for the disk; ``tests/runs`` proves it for every other moment."""
    return all(t["discrepancy"] == 0 for t in totals.values())


async def test_a_session_by_the_command_line_lands_signed_and_sigterm_ends_everything_cleanly(
    configure: Configure, run: Run, until: Until, package: Path, tmp_path: Path, read_space: Any
) -> None:
    file = configure(COUNTING + 'calibration = { id = "C-118" }\n[projects.p]\ngrant = "JP26K00001"\nlicence = "CC-BY-4.0"\n')
    daemon = await run(file)
    assert daemon.ready["ready"] == "edge-agent"
    assert daemon.ready["recovered"] == "nothing to recover"
    arguments = (
        "--project", "p", "--user", "Hanako <0000-0002-1825-0097>", "--role", "local_contact", "--sample", "steel", "--config", str(file),
    )  # fmt: skip
    began = await asyncio.to_thread(cli, package, "session", "start", *arguments, "--json")
    assert json.loads(began.stdout)["ok"] is True
    again = await asyncio.to_thread(cli, package, "session", "start", *arguments)
    assert again.returncode == 2
    assert "bl has run 00000" in again.stderr
    assert "edge-agent session stop --group bl" in again.stderr

    async def enough() -> bool:
        totals = await daemon.totals()
        return adds_up(totals) and totals.get("counter/image", {"arrived": 0})["arrived"] > 50

    await until(enough)
    ended = await asyncio.to_thread(cli, package, "session", "stop", "--outcome", "calibration", "--config", str(file), "--json")
    assert json.loads(ended.stdout) == {
        "ok": True,
        "run": json.loads(began.stdout)["run"],
        "folder": json.loads(began.stdout)["folder"],
        "group": "bl",
    }
    folder = tmp_path / "space" / json.loads(began.stdout)["folder"]
    await until(lambda: (folder / "ro-crate-metadata.json").exists())
    with h5py.File(folder / f"{folder.name}.nxs") as landed:
        record = json.loads(landed["entry/provenance/data"][()])
        assert record["project"]["grant"] == landed["entry/project/identifier_grant"].asstr()[()] == "JP26K00001"
        assert landed["entry/policy/licence"].asstr()[()] == "CC-BY-4.0"
        user = {name: value.asstr()[()] for name, value in landed["entry/user"].items()}
        assert user == {"name": "Hanako", "ORCID": "https://orcid.org/0000-0002-1825-0097", "role": "local_contact"}
        held = landed["entry/instrument/counter/_about"]
        assert held["identifier_calibration"].asstr()[()] == record["instruments"][0]["calibration"]["identifier"] == "C-118"
        complete = dict(zip(landed["entry/completeness/source_id"].asstr()[()], landed["entry/completeness/received"][()], strict=True))
        assert complete["counter/image"] == landed["entry/data/data"].shape[0]

    async def past() -> bool:
        return any(r["project"] == "p" for r in (await daemon.ask())["past"])

    await until(past)
    text = await asyncio.to_thread(cli, package, "status", "--config", str(file), EDGE_AGENT_LANG="ja")
    assert text.returncode == 0, text.stderr
    assert any("ぁ" <= c <= "ん" for c in text.stdout.splitlines()[0]), "the first line is a Japanese sentence"
    shown = json.loads((await asyncio.to_thread(cli, package, "status", "--config", str(file), "--json")).stdout)
    assert shown["site"] == "BL05"
    assert [r["outcome"] for r in shown["past"] if r["project"] == "p"] == ["calibration"]
    assert set(shown) == {
        "site", "version", "agent_id", "enrolled", "started", "recovered", "disk", "disk_free", "disk_left", "commit_p99", "instruments", "runs",
        "past", "targets", "timestamp", "disk_silent",
    }  # fmt: skip
    (instrument,) = shown["instruments"]
    assert set(instrument) == {"name", "adapter", "group", "connections", "error", "streams"}
    assert set(instrument["streams"][0]) == {"name", "source", "kind", "totals", "items", "last_arrival"}
    assert set(instrument["streams"][0]["totals"]) == {
        "arrived", "landed", "spooled", "quarantined", "lost", "lost_unknown", "unknown_ns", "ignored", "gaps", "lost_text", "discrepancy",
    }  # fmt: skip

    assert await daemon.end(signal.SIGTERM) == 0, daemon.text()
    assert not list((tmp_path / "spool").glob("runs/*/*.journal"))
    assert not (tmp_path / "spool" / "agent.sock").exists()
    assert "ERROR" not in daemon.text(), daemon.text()
    report = verify_run(folder, None)
    assert (report.level, report.outcome, report.reason) == (1, "calibration", "signed by an unknown key")
    numbers = read_space(tmp_path / "space")["counter/image"]["frame_number"]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))


async def test_after_sigkill_the_next_start_says_what_it_recovered_and_nothing_durable_is_missing(
    configure: Configure, run: Run, until: Until, tmp_path: Path, read_space: Any
) -> None:
    file = configure(COUNTING, head="own_streams = 0")
    daemon = await run(file)
    await daemon.ask("/session/start", "POST", project="p")

    async def arrived() -> dict[str, int]:
        totals = await daemon.totals()
        n = {key: totals[key]["arrived"] for key in ("counter/image", "counter/number") if key in totals}
        return n if len(n) == 2 and min(n.values()) > 40 else {}

    durable = await until(arrived)
    assert await daemon.end(signal.SIGKILL) == -signal.SIGKILL
    daemon = await run(file)
    assert daemon.ready["recovered"].startswith("recovered ")
    status = await daemon.ask()
    assert status["recovered"] == daemon.ready["recovered"]
    assert "after an interruption: recovered" in daemon.text()
    (run_open,) = [r for r in status["runs"] if r["kind"] == "session"]
    assert run_open["stage"] == "open"

    async def more() -> bool:
        totals = await daemon.totals()
        return adds_up(totals) and all(totals[key]["arrived"] > n + 20 for key, n in durable.items())

    await until(more)
    await daemon.ask("/session/stop", "POST")
    folder = tmp_path / "space" / run_open["folder"]
    await until(lambda: (folder / "ro-crate-metadata.json").exists())
    landed = read_space(folder.parent)
    for key, n in durable.items():
        assert len(landed[key]["time_arrival"]) >= n
        assert landed[key].gaps, f"{key} says that something may be missing"
    assert verify_run(folder, None).reason == "signed by an unknown key"
    assert await daemon.end() == 0


async def test_an_adapter_that_fails_never_stops_another_one(configure: Configure, run: Run, until: Until) -> None:
    file = configure(
        COUNTING
        + '[instrument.dead]\nadapter = "driven"\nbehaviour = "raise"\n'
        + '[instrument.leaky]\nadapter = "driven"\nbehaviour = "cancel"\n'
        + '[instrument.flaky]\nadapter = "counting"\nbreaks = 5\nidle = "keep"\n'
    )
    daemon = await run(file)

    async def all_seen() -> bool:
        status = await daemon.ask()
        by_name = {i["name"]: i for i in status["instruments"]}
        rows = {s["name"]: s["totals"] for i in status["instruments"] for s in i["streams"]}
        return (
            "RuntimeError: it never works" in daemon.text()
            and "something that it waited for was cancelled" in daemon.text()
            and rows.get("flaky/image", {"arrived": 0})["arrived"] >= 10  # it began again at least once
            and rows["flaky/image"]["discrepancy"] == 0
            and rows["counter/number"]["arrived"] > 50
            and by_name["counter"]["error"] == ""
        )

    await until(all_seen)
    assert await daemon.end() == 0
    assert "dead: begins again in" in daemon.text()


async def test_a_second_agent_on_the_same_spool_is_refused_and_the_first_goes_on(configure: Configure, run: Run) -> None:
    file = configure(COUNTING)
    first = await run(file)
    second = await run(file, ready=False)
    assert await asyncio.to_thread(second.process.wait, 30) == 8
    assert "Error: Another process has this spool open." in second.text()
    assert "Try: stop the other agent" in second.text()
    assert (await first.ask())["site"] == "BL05"
    assert await first.end() == 0


async def test_sigterm_ends_in_time_although_an_adapter_does_not_listen(configure: Configure, run: Run) -> None:
    file = configure(COUNTING + '[instrument.stubborn]\nadapter = "driven"\nbehaviour = "stubborn"\n')
    daemon = await run(file)
    assert await daemon.end() == 0
    assert "instrument stubborn did not stop in time" in daemon.text()
    assert not list(daemon.spool.glob("runs/*/*.journal"))


async def test_the_api_answers_mistakes_in_words_and_classes(configure: Configure, run: Run, tmp_path: Path, package: Path) -> None:
    file = configure(COUNTING)
    daemon = await run(file)
    for path, body, what in (
        ("/session/start", {}, "a session needs a project"),
        ("/session/start", {"project": "a/b"}, "'a/b' is no project name"),
        ("/session/start", {"project": "p", "sample": "a\0b"}, "the sample has a character that cannot be kept"),
        ("/session/start", {"project": "p", "colour": "red"}, "the request has other keys or values than it may"),
        ("/session/start", {"project": "p", "group": "x"}, "there is no group 'x'"),
        ("/session/stop", {"outcome": "splendid"}, "'splendid' is no outcome"),
        ("/session/stop", {}, "bl has no run open"),
        ("/nowhere", {}, "there is no POST /nowhere"),
    ):
        with pytest.raises(UsageError, match="^" + what.replace("/", ".")):
            await daemon.ask(path, "POST", **body)
    metrics = await daemon.ask("/metrics")
    assert "# TYPE edge_agent_arrived_items_total counter" in metrics
    assert 'edge_agent_discrepancy{stream="counter/number"} 0' in metrics
    assert (await daemon.ask("/kick", "POST")) == {"parked": 0}
    assert await daemon.end() == 0
    with pytest.raises(EdgeAgentError, match="No edge-agent answers here") as down:
        await daemon.ask()
    assert down.value.code == "AGENT_DOWN"
    told = await asyncio.to_thread(cli, package, "status", "--config", str(file), "--json")
    assert told.returncode == 1
    assert json.loads(told.stdout)["error"]["code"] == "AGENT_DOWN"
