"""``edge-agent check FILE``: every mistake of a configuration, with line, column and what was probably meant."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edge_agent.cli.options import JsonFlag
from edge_agent.words import t


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("check", help=t("Print every mistake of a configuration; starts nothing."))(check)


def check(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help=t("The configuration."))] = None,
    as_json: JsonFlag = False,
) -> int:
    """Examine the file and this machine; exit code 3 when there are errors, 0 when there are only warnings."""
    from edge_agent.cli import output
    from edge_agent.cli.options import config_path
    from edge_agent.config.loading import examine
    from edge_agent.errors import ConfigError

    found = examine(config_path(file), machine=True)
    if as_json:
        output.emit({"ok": not found.errors, "file": found.file, "problems": [asdict(problem) for problem in found.problems]})
    else:
        for problem in found.problems:
            output.say(str(problem))
        output.say(_sentence(found.file, len(found.errors), len(found.warnings)))
    return ConfigError.exit_code if found.errors else 0


def _sentence(file: str, errors: int, warnings: int) -> str:
    if errors == 1:
        return t("{file} has one mistake; an agent would not start with it.", file=file)
    if errors:
        return t("{file} has {errors} mistakes; an agent would not start with it.", file=file, errors=errors)
    if warnings == 1:
        return t("{file} can be used; mind the warning.", file=file)
    if warnings:
        return t("{file} can be used; mind the {warnings} warnings.", file=file, warnings=warnings)
    return t("{file} is right.", file=file)
