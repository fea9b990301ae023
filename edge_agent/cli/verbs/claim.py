"""``edge-agent claim RUN --project P``: a run without a project gets one."""

from __future__ import annotations

from typing import Annotated

import typer

from edge_agent.cli.options import ConfigOption, JsonFlag
from edge_agent.words import t


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("claim", help=t("Claim a run that has no project, or that its project refused; the claim is signed."))(claim)


def claim(
    run: Annotated[str, typer.Argument(metavar="RUN", help=t("The run's number."))],
    project: Annotated[str, typer.Option("--project", "-p", help=t("The project that the data belongs to."))],
    reason: Annotated[str, typer.Option("--reason", "-r", help=t("Why: it is signed with the claim."))] = "claimed",
    author: Annotated[str, typer.Option("--author", help=t("Who says so: an ORCID or a name. Default: your account."))] = "",
    config: ConfigOption = None,
    as_json: JsonFlag = False,
) -> int:
    """Ask the daemon to move a run into a project's space."""
    import asyncio

    from edge_agent.cli import output
    from edge_agent.cli.options import account, config_path
    from edge_agent.config.loading import load
    from edge_agent.local_api import ask

    body = {"run": run, "project": project, "author": author or account(), "reason": reason}
    answer = asyncio.run(ask(load(config_path(config)).spool.dir, "POST", "/claim", body))
    if as_json:
        output.emit({"ok": True, **answer})
    elif answer["sent"]:
        said = {key: answer[key] for key in ("run", "folder")}
        output.say(t("Run {run} belongs to {project}; it is on its way to {folder}.", project=project, **said))
    else:
        output.say(t("Run {run} belongs to {project}, which is signed.", run=answer["run"], project=project))
        folder = answer["folder"]
        output.say(t("Its files have left this machine: have {folder} moved into the project's space where it landed.", folder=folder))
    return 0
