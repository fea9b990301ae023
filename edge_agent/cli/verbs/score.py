"""``edge-agent score RUN``: how ready a run is for people and programs that were not there, and what to add."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_agent.cli.options import ConfigOption, JsonFlag
from edge_agent.words import t


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("score", help=t("How ready a run's metadata is for others and for AI, and what to add."))(score)


def score(
    run: Annotated[Path, typer.Argument(metavar="RUN", help=t("Folder of a complete run, or its number while it is in the spool."))],
    config: ConfigOption = None,
    as_json: JsonFlag = False,
) -> int:
    """Print the score."""
    from edge_agent.cli import output
    from edge_agent.cli.options import config_path
    from edge_agent.config.loading import load
    from edge_agent.export.run_folder import open_run
    from edge_agent.export.score import score as judge

    folder = run
    if not run.is_dir() and run.name.isdigit() and len(run.parts) == 1:
        folder = load(config_path(config)).spool.dir / "runs" / f"{int(run.name):06d}"
    opened = open_run(folder)
    found = judge(opened)
    if as_json:
        checks = [
            {"key": c.key, "points": c.points, "got": round(c.got, 2), "about": c.about, "add": "" if c.share == 1 else c.add}
            for c in found.checks
        ]
        output.emit({"ok": True, "run": opened.name, "score": found.total, "checks": checks, "unknown": dict(found.unknown)})
        return 0
    output.say(t("Run {run}: {score} of 100 points for AI-readiness.", run=opened.name, score=found.total))
    for check in found.checks:
        if check.share == 1:
            output.say(f"  {check.got:4.1f} / {check.points:2}  {check.about}")
    missing = [check for check in found.checks if check.share < 1]
    if missing:
        output.say(t("To add:"))
    for check in missing:
        output.say(f"  {check.got:4.1f} / {check.points:2}  {check.about}: {check.add}")
    return 0
