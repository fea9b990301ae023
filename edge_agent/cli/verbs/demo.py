"""``edge-agent demo``: the main job on simulated instruments, judged by what they sent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_agent.cli.options import JsonFlag
from edge_agent.words import t

if TYPE_CHECKING:
    from edge_agent.demo.play import Result


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("demo", help=t("Run the main job on simulated instruments and compare what landed with what they sent."))(demo)


def demo(
    seconds: Annotated[float, typer.Option("--seconds", min=2.0, max=3600.0, help=t("How long the instruments measure."))] = 20.0,
    via: Annotated[str, typer.Option("--via", help=t("How the data travels: https or mqtt."))] = "https",
    crash: Annotated[bool, typer.Option("--crash", help=t("Kill the agent half-way and start it again."))] = False,
    folder: Annotated[Path | None, typer.Option("--dir", help=t("Folder for everything; must be new or empty."))] = None,
    seed: Annotated[int, typer.Option("--seed", help=t("Seed of the instruments."))] = 1,
    as_json: JsonFlag = False,
) -> int:
    """Set the stage, play, judge; exit code 0 only if everything is in the project space, signed, witnessed, and as it was sent."""
    import asyncio

    from edge_agent.cli import output
    from edge_agent.demo.play import play
    from edge_agent.demo.stage import Stage
    from edge_agent.errors import IntegrityError, UsageError

    if via not in ("https", "mqtt"):
        raise UsageError(t("--via is https or mqtt"), why=via)
    place = (folder or _free_folder()).absolute()
    if place.exists() and any(place.iterdir()):
        raise UsageError(t("{folder} is not empty", folder=place), try_=t("choose a new folder with --dir"))
    place.mkdir(parents=True, exist_ok=True)
    stage = Stage(place, via, seed)
    with _Shown(quiet=as_json) as shown:
        try:
            shown("starting", 0.0, {})
            stage.set()
            result = asyncio.run(play(stage, seconds, crash, shown))
        finally:
            stage.take_down()
    if as_json:
        output.emit(result.to_json())
    else:
        _print(result, place, crash=crash)
    return 0 if result.ok else IntegrityError.exit_code


def _free_folder() -> Path:
    number = 1
    while (path := Path("edge-agent-demo" if number == 1 else f"edge-agent-demo-{number}")).exists():
        number += 1
    return path


def _print(result: Result, place: Path, *, crash: bool) -> None:
    from edge_agent.cli import output

    head = ["instrument", "source", "sent", "arrived", "landed", "spooled", "quarantined", "lost", "same as source"]
    rows = []
    for s in result.streams:
        matched = t("{n} of {sent} {unit}", n=s.landed, sent=s.sent, unit=t(s.unit)) + (t(", byte for byte") if s.unit != "values" else "")
        same = t("yes ({matched})", matched=matched) if s.same_as_source else t("NO: {why}", why=s.why)
        rows.append([s.name, s.source, s.sent, s.arrived, s.landed, s.spooled, s.quarantined, s.lost_text if crash else s.lost, same])
    output.say(output.columns([t(title) for title in head], rows, right=range(2, 8)))
    for run in result.runs:
        state = t("witnessed") if run.level >= 3 else t("level {level}: {reason}", level=run.level, reason=run.reason)
        segments = t("{n} segments", n=run.segments)
        output.say(f"{place / 'space' / run.path}/   {state}   {segments}   preview.png")
    output.say(t("check it without us:  {command}", command=f"python tools/verify_hsc1.py --root {result.root} {place / 'space'}"))
    if result.runs:
        name = result.runs[0].path.rpartition("/")[2]
        output.say(t("look at it:           {command}", command=f"silx view {place / 'space' / result.runs[0].path}/{name}.nxs"))
    output.say(_sentence(result, crash=crash))


def _sentence(result: Result, *, crash: bool) -> str:
    if not result.ok:
        return t("Something is not as it was sent: see the lines above.")
    if not crash:
        return t("Everything the instruments sent is in the project space, signed and witnessed; nothing was lost.")
    # Frames first, then one phrase an instrument: its streams were down together.
    missing = sorted((s for s in result.streams if s.lost or s.lost_text != "0"), key=lambda s: s.unit != "images")
    words: dict[str, str] = {}
    for s in missing:
        instrument = s.name.partition("/")[0]
        frames = f"{s.lost_text} {t('frames')}"
        others = t("{lost} of {name} {unit}", lost=s.lost_text, name=instrument, unit=t(s.unit))
        words.setdefault(instrument, frames if s.unit == "images" else others)
    listed = ", ".join(words.values())
    declared = t("{list} were not captured while the agent was down, and the data says so.", list=listed) if words else ""
    return f"{t('Nothing that was durable is missing after the crash.')} {declared}".strip()


class _Shown:
    """A progress bar on standard error; silent for programs."""

    def __init__(self, *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description:<12}"), BarColumn(), TextColumn("{task.fields[words]}"), TimeElapsedColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), disable=quiet)
        self._task = self._bar.add_task("", total=1.0, words="")

    def __enter__(self) -> _Shown:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, what: str, done: float, status: dict[str, Any]) -> None:
        totals = [s["totals"] for i in status.get("instruments", []) for s in i["streams"]]
        arrived, landed = sum(x["arrived"] for x in totals), sum(x["landed"] for x in totals)
        words = t("{arrived} arrived, {landed} landed", arrived=arrived, landed=landed) if totals else ""
        self._bar.update(self._task, description=t(what), completed=done, words=words)
