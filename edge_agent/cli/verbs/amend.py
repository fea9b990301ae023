"""``edge-agent amend RUN --set sample.name=SiC --reason ...``: metadata that came late, signed beside a closed run."""

from __future__ import annotations

from typing import Annotated

import typer

from edge_agent.cli.options import ConfigOption, JsonFlag
from edge_agent.words import t


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("amend", help=t("Add or correct metadata of a closed run; nothing that was signed is edited."))(amend)


def amend(
    run: Annotated[str, typer.Argument(metavar="RUN", help=t("The run's number."))],
    fields: Annotated[
        list[str], typer.Option("--set", metavar="FIELD=VALUE", help=t("A field and its value, as sample.name=SiC; may be repeated."))
    ],
    reason: Annotated[str, typer.Option("--reason", "-r", help=t("Why: it is signed with the amendment."))],
    author: Annotated[str, typer.Option("--author", help=t("Who says so: an ORCID or a name. Default: your account."))] = "",
    config: ConfigOption = None,
    as_json: JsonFlag = False,
) -> int:
    """Ask the daemon to sign an amendment."""
    import asyncio

    from edge_agent.cli import output
    from edge_agent.cli.options import account, config_path
    from edge_agent.config.loading import load
    from edge_agent.errors import UsageError
    from edge_agent.local_api import ask

    body = {"run": run, "reason": reason, "author": author or account()}
    for text in fields:
        name, equals, value = text.partition("=")
        if not equals or f"set.{name}" in body:
            raise UsageError(t("{text} is no FIELD=VALUE, or its field is set twice.", text=repr(text)), try_="--set sample.name=SiC")
        body[f"set.{name}"] = value
    answer = asyncio.run(ask(load(config_path(config)).spool.dir, "POST", "/amend", body))
    if as_json:
        output.emit({"ok": True, **answer})
        return 0
    said = {key: answer[key] for key in ("run", "number", "folder")}
    output.say(t("Run {run} has amendment {number}; it is on its way to {folder}.", **said))
    for change in answer["changes"]:
        old = t("not given") if change["old"] is None else repr(change["old"])
        output.say(f"  {change['field']}: {old} -> {change['new']!r}")
    return 0
