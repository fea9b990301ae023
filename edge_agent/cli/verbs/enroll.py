"""``edge-agent enroll TOKEN``: three minutes, no course in certificates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_agent.cli.options import ConfigOption, JsonFlag
from edge_agent.words import t

if TYPE_CHECKING:
    from edge_agent.enrolment.sealing import Sealer


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("enroll", help=t("Enrol this agent at a landing service with a one-time token."))(enroll)


def enroll(
    token: Annotated[str, typer.Argument(help=t("What the landing service printed; - reads it from standard input."))],
    folder: Annotated[Path | None, typer.Option("--dir", help=t("Folder of the agent's keys. Default: as configured."))] = None,
    name: Annotated[str, typer.Option(help=t("Name of this agent, for people. Default: this machine's name."))] = "",
    config: ConfigOption = None,
    as_json: JsonFlag = False,
) -> int:
    """Enrol and print the words that both sides compare."""
    import asyncio
    import platform
    import sys

    from edge_agent.cli import output
    from edge_agent.enrolment import enrol, open_identity, read_token, token_words
    from edge_agent.enrolment.sealing import PLAIN

    made = read_token(sys.stdin.read() if token == "-" else token)  # noqa: S105 - a dash is no secret
    keys, sealer = (folder, PLAIN) if folder is not None else _configured(config)
    known = open_identity(keys, sealer)
    if not as_json:
        output.say(t("landing service: {url}", url=made.url))
        output.say(t("its words:       {words}", words=token_words(made)))
        output.say(t("this agent:      {words}", words=known.words))
    identity, enrolment = asyncio.run(enrol(keys, made, name or platform.node() or "edge-agent"))
    if as_json:
        said = {"agent_id": identity.agent_id.hex(), "url": enrolment.url, "service": enrolment.service, "projects": enrolment.projects}
        output.emit({**said, "words": token_words(made), "agent_words": identity.words, "dir": str(keys)})
        return 0
    projects = ", ".join(enrolment.projects)
    output.say(
        t(
            "Enrolled at {service} as {agent}; may write to {projects}.",
            service=enrolment.service,
            agent=identity.agent_id.hex(),
            projects=projects,
        )
    )
    output.say(t("Compare both lines of words with what the landing service shows."))
    output.say(t("Data goes there once the configuration says so:"))
    output.say(f'  [target.cloud]\n  landing = "{enrolment.url}"')
    return 0


def _configured(config: Path | None) -> tuple[Path, Sealer]:
    from edge_agent.cli.options import config_path
    from edge_agent.config.loading import load
    from edge_agent.enrolment.sealing import sealer_of

    found = load(config_path(config))
    return found.keys_dir, sealer_of(found.keys.seal)
