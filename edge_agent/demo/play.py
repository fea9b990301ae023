"""Plays the demo: session, production, perhaps a crash, the end of the run, and the judgement."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_agent.demo.judge import Verdict, judge
from edge_agent.demo.space import read_space
from edge_agent.demo.stage import PROJECT, ROWS, SITE, SOURCES, Row, Stage
from edge_agent.errors import EdgeAgentError
from edge_agent.local_api import ask
from edge_agent.segment.roots import load_root
from edge_agent.segment.run import verify_run

CONNECT = 60.0
DRAIN = 60.0
LAND = 60.0
POLL = 0.2
DOWN = 1.0

Progress = Callable[[str, float, dict[str, Any]], None]
"""What is going on, how far (0 to 1), and the agent's status."""


@dataclass(frozen=True, slots=True)
class StreamResult:
    """One line of the table; ``lost`` is known from the comparison with the truth, ``lost_text`` is what the agent says."""

    name: str
    source: str
    sent: int
    arrived: int
    landed: int
    spooled: int
    quarantined: int
    lost: int
    lost_text: str
    ignored: int
    gaps: int
    same_as_source: bool
    why: str
    unit: str


@dataclass(frozen=True, slots=True)
class RunResult:
    """One run in the project space."""

    path: str
    level: int
    segments: int
    chunks: int
    outcome: str
    reason: str


@dataclass(frozen=True, slots=True)
class Result:
    """The whole demo."""

    streams: tuple[StreamResult, ...]
    runs: tuple[RunResult, ...]
    root: str
    recovered: str
    ok: bool

    def to_json(self) -> dict[str, Any]:
        """The one object of ``--json``."""
        return asdict(self)


async def play(stage: Stage, seconds: float, crash: bool, progress: Progress) -> Result:
    """Run the whole demo on a stage that is set.

    Raises:
        EdgeAgentError: a part did not start, or nothing happened in time.
    """
    stage.start_agent()
    await _until(stage, "connecting", CONNECT, progress, _connected)
    await ask(
        stage.spool, "POST", "/session/start", {"project": PROJECT, "group": SITE, "user": "Demo Researcher", "sample": "demo sample"}
    )
    for device in stage.devices.values():
        await asyncio.to_thread(device.go)
    if crash:
        await _produce(stage, seconds / 2, 0.0, progress)
        await asyncio.to_thread(_crash, stage)
        await _until(stage, "connecting", CONNECT, progress, _connected)
        await _produce(stage, seconds / 2, 0.5, progress)
    else:
        await _produce(stage, seconds, 0.0, progress)
    sent: dict[str, dict[str, int]] = {}
    for name, device in stage.devices.items():
        sent[name] = await asyncio.to_thread(device.stop)
    await _drain(stage, sent, progress)
    await ask(stage.spool, "POST", "/session/stop", {"group": SITE, "outcome": "complete"})
    status = await _until(stage, "landing", LAND, progress, _landed)
    return await asyncio.to_thread(_result, stage, sent, status, crash)


def _crash(stage: Stage) -> None:
    assert stage.agent is not None  # noqa: S101 - it was started
    stage.agent.kill()
    time.sleep(DOWN)
    stage.start_agent()


async def _produce(stage: Stage, seconds: float, done: float, progress: Progress) -> None:
    began = time.monotonic()
    share = 0.5 if done else 1.0
    while (passed := time.monotonic() - began) < seconds:
        progress("measuring", done + min(1.0, passed / seconds) * (share if done else 1.0), await _status(stage))
        await asyncio.sleep(POLL)


async def _drain(stage: Stage, sent: dict[str, dict[str, int]], progress: Progress) -> None:
    """Wait until everything that was sent has arrived, or nothing has arrived for a while (what a crash lost does not come)."""
    deadline = time.monotonic() + DRAIN
    last, still = -1, time.monotonic()
    while time.monotonic() < deadline:
        status = await _status(stage)
        totals = _totals(status)
        arrived = sum(t["arrived"] for t in totals.values())
        if arrived != last:
            last, still = arrived, time.monotonic()
        missing = [row.key for row in ROWS if totals.get(row.key, {}).get("arrived", 0) < sent[row.device].get(row.stream, 0)]
        progress("draining", 1.0, status)
        if not missing or time.monotonic() - still > 5.0:
            return
        await asyncio.sleep(POLL)


async def _until(stage: Stage, what: str, within: float, progress: Progress, done: Callable[[dict[str, Any]], str]) -> dict[str, Any]:
    deadline = time.monotonic() + within
    while True:
        status = await _status(stage)
        missing = done(status)
        if not missing:
            return status
        if time.monotonic() > deadline:
            raise EdgeAgentError(
                f"{what} took longer than {within:g} s", why=missing, try_=f"read {stage.logs / 'agent.log'}", code="DEMO_TIME"
            )
        progress(what, 1.0, status)
        await asyncio.sleep(POLL)


async def _status(stage: Stage) -> dict[str, Any]:
    found: dict[str, Any] = await ask(stage.spool, "GET", "/status")
    return found


def _totals(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {s["name"]: s["totals"] for i in status["instruments"] for s in i["streams"]}


def _connected(status: dict[str, Any]) -> str:
    """Which instruments do not answer yet; those that only speak when they measure (the camera) need only a connection."""
    waiting = [i["name"] for i in status["instruments"] if not i["connections"] or not all(up for up, _ in i["connections"].values())]
    return f"not connected: {', '.join(waiting)}" if waiting else ""


def _landed(status: dict[str, Any]) -> str:
    """What is still on its way."""
    if status["runs"]:
        return f"runs not complete: {', '.join(run['name'] + ' ' + run['stage'] for run in status['runs'])}"
    busy = [
        f"{target['name']}: {target['waiting']} files wait {target['error']}"
        for target in status["targets"]
        if target["waiting"] or target["parked"]
    ]
    return "; ".join(busy)


def _result(stage: Stage, sent: dict[str, dict[str, int]], status: dict[str, Any], crash: bool) -> Result:
    space = stage.folder / "space"
    landed = read_space(space)
    truths = stage.truths()
    totals = _totals(status)
    streams = []
    for row in ROWS:
        verdict = judge(truths[row.device], row.stream, landed.get(row.key))
        streams.append(_line(row, verdict, totals.get(row.key, {})))
    root = stage.folder / "root.pem"
    runs = tuple(_run(folder, space, root) for folder in sorted({path.parent for path in space.rglob("*.hsc")}))
    whole = all(s.same_as_source and s.sent == s.landed + s.lost for s in streams)
    balanced = all(t["discrepancy"] == 0 for t in totals.values())
    nothing_lost = crash or all(s.lost == 0 and s.arrived == s.sent for s in streams)
    ok = whole and balanced and nothing_lost and bool(runs) and all(run.level >= 3 for run in runs) and all(s.sent > 0 for s in streams)
    return Result(tuple(streams), runs, str(root), stage.recovered[-1] if crash else "", ok)


def _line(row: Row, verdict: Verdict, totals: dict[str, Any]) -> StreamResult:
    unit = "images" if row.device == "camera" else "files" if row.device == "vendor" else "values"
    zero: dict[str, Any] = {"arrived": 0, "spooled": 0, "quarantined": 0, "lost_text": "0", "ignored": 0} | totals
    return StreamResult(
        row.name, SOURCES[row.device], verdict.sent, zero["arrived"], verdict.landed, zero["spooled"], zero["quarantined"], verdict.lost,
        zero["lost_text"], zero["ignored"], verdict.gaps, verdict.same, verdict.why, unit,
    )  # fmt: skip


def _run(folder: Path, space: Path, root: Path) -> RunResult:
    report = verify_run(folder, load_root(root))
    return RunResult(str(folder.relative_to(space)), report.level, len(report.segments), report.chunks, report.outcome, report.reason)
