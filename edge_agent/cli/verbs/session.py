"""``edge-agent session start|stop``: a researcher's run begins and ends."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edge_agent.cli.options import ConfigOption, JsonFlag
from edge_agent.words import t

GroupOption = Annotated[str, typer.Option("--group", "-g", help=t("The group of instruments; needed when there are several."))]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    session = typer.Typer(help=t("Begin and end a run."), no_args_is_help=True)
    session.command("start", help=t("Begin a run for a project."))(start)
    session.command("stop", help=t("End the run that is open; its papers are signed."))(stop)
    app.add_typer(session, name="session")


def start(
    project: Annotated[str, typer.Option("--project", "-p", help=t("The project that the data belongs to."))],
    user: Annotated[str, typer.Option("--user", "-u", help=t("Who measures: an ORCID, a name, or both as 'NAME <ORCID>'."))] = "",
    role: Annotated[str, typer.Option("--role", help=t("As what, such as local_contact; default: operator."))] = "",
    sample: Annotated[str, typer.Option("--sample", "-s", help=t("The sample: an IGSN, a name, or both as 'NAME <IGSN>'."))] = "",
    title: Annotated[str, typer.Option("--title", help=t("What this run is."))] = "",
    access: Annotated[str, typer.Option("--access", help=t("closed or shared: stricter than the configuration has it."))] = "",
    group: GroupOption = "",
    config: ConfigOption = None,
    as_json: JsonFlag = False,
) -> int:
    """Ask the daemon to begin a session."""
    body = {"project": project, "user": user, "role": role, "sample": sample, "title": title, "group": group, "access": access}
    answer = _ask(config, "/session/start", body)
    _tell(answer, t("Run {run} is open; the data will be in {folder}.", run=answer["run"], folder=answer["folder"]), as_json)
    return 0


def stop(
    outcome: Annotated[str, typer.Option("--outcome", "-o", help=t("complete, aborted, failed or calibration."))] = "complete",
    group: GroupOption = "",
    config: ConfigOption = None,
    as_json: JsonFlag = False,
) -> int:
    """Ask the daemon to end the session."""
    answer = _ask(config, "/session/stop", {"outcome": outcome, "group": group})
    _tell(answer, t("Run {run} is closed and signed; it is on its way to {folder}.", run=answer["run"], folder=answer["folder"]), as_json)
    return 0


def _ask(config: ConfigOption, path: str, body: dict[str, str]) -> Any:
    import asyncio

    from edge_agent.cli.options import config_path
    from edge_agent.config.loading import load
    from edge_agent.local_api import ask

    return asyncio.run(ask(load(config_path(config)).spool.dir, "POST", path, body))


def _tell(answer: Any, sentence: str, as_json: bool) -> None:
    from edge_agent.cli import output

    if as_json:
        output.emit({"ok": True, **answer})
    else:
        output.say(sentence)
