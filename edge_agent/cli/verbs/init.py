"""``edge-agent init [FILE]``: writes a commented configuration to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_agent.cli.options import JsonFlag
from edge_agent.words import t


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("init", help=t("Write a commented configuration to begin with."))(init)


def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help=t("Where to write it."))] = Path("edge-agent.toml"),
    force: Annotated[bool, typer.Option("--force", help=t("Overwrite a file that is there."))] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write the configuration and say what comes next."""
    from edge_agent.cli import output
    from edge_agent.config.template import write_template

    spool = write_template(file, force=force)
    if as_json:
        output.emit({"ok": True, "file": str(file), "spool": str(spool)})
        return
    output.say(t("{file} is written; data will wait in {spool}.", file=file, spool=spool))
    output.say(t("Next: edit it, then  edge-agent check {file}", file=file))
