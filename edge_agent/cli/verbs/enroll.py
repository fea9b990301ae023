"""``edge-agent enroll TOKEN``: three minutes, no course in certificates."""

from __future__ import annotations

import asyncio
import json
import platform
import sys
from pathlib import Path
from typing import Annotated

import typer

from edge_agent.enrolment.client import enrol, read_token, token_words
from edge_agent.enrolment.identity import open_identity


def enroll(
    token: Annotated[str, typer.Argument(help="What `landing token` printed; - reads it from standard input.")],
    folder: Annotated[Path, typer.Option("--dir", help="Identity folder of this agent.")] = Path("/var/lib/edge-agent/identity"),
    name: Annotated[str, typer.Option(help="Name of this agent, for people; this machine's name by default.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Enrol this agent at a landing service with a one-time token."""
    made = read_token(sys.stdin.read() if token == "-" else token)  # noqa: S105 - a dash is no secret
    if not as_json:
        typer.echo(f"landing service: {made.url}")
        typer.echo(f"its words:       {token_words(made)}")
        typer.echo(f"this agent:      {open_identity(folder).words}")
    identity, enrolment = asyncio.run(enrol(folder, made, name or platform.node() or "edge-agent"))
    if as_json:
        said = {"agent_id": identity.agent_id.hex(), "url": enrolment.url, "service": enrolment.service, "projects": enrolment.projects}
        typer.echo(json.dumps({**said, "words": token_words(made), "agent_words": identity.words, "dir": str(folder)}))
    else:
        typer.echo(f"enrolled at {enrolment.service} as {identity.agent_id.hex()}; may write to {', '.join(enrolment.projects)}")
        typer.echo("Compare the words with those that the landing service shows.")
