"""``edge-agent status``: one plain sentence, then the conservation table, targets and runs."""

from __future__ import annotations

from typing import Any

import typer

from edge_agent.cli.options import ConfigOption, JsonFlag
from edge_agent.words import t


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("status", help=t("What the running agent has, where it is, and what is wrong."))(status)


def status(config: ConfigOption = None, as_json: JsonFlag = False) -> int:
    """Ask the daemon and print its answer."""
    import asyncio

    from edge_agent.cli import output
    from edge_agent.cli.options import config_path
    from edge_agent.config.loading import load
    from edge_agent.local_api import ask

    now: dict[str, Any] = asyncio.run(ask(load(config_path(config)).spool.dir, "GET", "/status"))
    if as_json:
        output.emit(now)
        return 0
    output.say(sentence(now))
    output.say()
    output.say(table(now))
    for line in details(now):
        output.say(line)
    return 0


def sentence(now: dict[str, Any]) -> str:
    """The plain sentence: what matters most now."""
    streams = [s for i in now["instruments"] for s in i["streams"]]
    down = [source for i in now["instruments"] for source, (up, _) in i["connections"].items() if not up]
    spooled = sum(s["totals"]["spooled"] for s in streams)
    landed = sum(s["totals"]["landed"] for s in streams)
    refused = sum(target["quarantined"] for target in now["targets"])
    if any(s["totals"]["discrepancy"] for s in streams):
        return t("The numbers do not add up: this is a bug; nothing was deleted. Please report it.")
    if now["disk_silent"]:
        return t(
            "The spool's disk has not answered for {seconds} s: nothing new becomes durable. Look at the kernel log and at the drive.",
            seconds=f"{now['disk_silent']:.0f}",
        )
    if now["disk"] in ("hard", "paused"):
        return t("The disk is full ({state}): data is being refused and declared as gaps.", state=now["disk"])
    if refused:
        return t("{n} files were refused by a target and wait in quarantine.", n=refused)
    if down:
        return t("{n} sources do not answer: {sources}.", n=len(down), sources=", ".join(down))
    if spooled:
        return t("{landed} items are in the project space and proved, {spooled} wait safely here.", landed=landed, spooled=spooled)
    return t("All {landed} items are in the project space and proved.", landed=landed)


def table(now: dict[str, Any]) -> str:
    """One line a stream."""
    from edge_agent.cli import output

    head = [t("stream"), t("arrived"), t("landed"), t("spooled"), t("quarantined"), t("lost"), t("ignored")]
    rows = [
        [
            s["name"],
            *(s["totals"][k] for k in ("arrived", "landed", "spooled", "quarantined")),
            s["totals"]["lost_text"],
            s["totals"]["ignored"],
        ]
        for i in now["instruments"]
        for s in i["streams"]
    ]
    return output.columns(head, rows, right=range(1, 7))


def details(now: dict[str, Any]) -> list[str]:
    """Targets, open runs, and what does not answer."""
    lines = ["", _disk(now)]
    for target in now["targets"]:
        lines.append(
            t(
                "target {name}: {state}, {waiting} waiting, {parked} parked",
                name=target["name"],
                state=target["state"],
                waiting=target["waiting"],
                parked=target["parked"],
            )
        )
        lines += [f"  {target[key]}" for key in ("error", "witness_error") if target[key]]
    if stamps := now["timestamp"]:
        lines.append(t("time-stamping service: {n} runs wait for it", n=stamps["waiting"]))
        lines += [f"  {line}" for line in stamps["error"].splitlines()]
    for run in now["runs"]:
        lines.append(t("run {name}: {stage}, {folder}", name=run["name"], stage=run["stage"], folder=run["folder"]))
    for instrument in now["instruments"]:
        for source, (up, detail) in instrument["connections"].items():
            if not up:
                lines.append(t("{instrument}: {source} does not answer: {why}", instrument=instrument["name"], source=source, why=detail))
    return lines


def _disk(now: dict[str, Any]) -> str:
    """How full the disk is, and until when it lasts at the present rate."""
    free = f"{now['disk_free'] / 1e9:.1f} GB"
    left = now["disk_left"]
    if left is None:
        return t("disk: {state}, {free} free, not filling", state=now["disk"], free=free)
    return t("disk: {state}, {free} free, full in {hours} h at this rate", state=now["disk"], free=free, hours=f"{left / 3600:.1f}")
