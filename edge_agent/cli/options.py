"""Options that several verbs share. A verb writes ``as_json: JsonFlag = False``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from edge_agent.errors import UsageError
from edge_agent.words import t

JsonFlag = Annotated[bool, typer.Option("--json", help=t("Print one JSON object instead of text."))]
"""``--json``."""

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help=t("The configuration. Default: edge-agent.toml here, else in /etc/edge-agent.")),
]
"""``--config FILE``; give it to `config_path`."""

PLACES = (Path("edge-agent.toml"), Path("/etc/edge-agent/edge-agent.toml"))
"""Where a configuration is looked for, after the environment variable ``EDGE_AGENT_CONFIG``."""


def config_path(given: Path | None) -> Path:
    """The configuration that was given, or the first one that is in its place.

    Raises:
        UsageError: none was given and none is there.
    """
    if given is not None:
        return given
    if named := os.environ.get("EDGE_AGENT_CONFIG"):
        return Path(named)
    for place in PLACES:
        if place.exists():
            return place
    raise UsageError(
        t("No configuration was given."),
        why=t("looked for {places}", places=", ".join(str(place) for place in PLACES)),
        try_=t("name it with --config FILE, or write one with: edge-agent init"),
    )


def account() -> str:
    """The account that runs the command.

    Raises:
        UsageError: the system does not know it.
    """
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError) as error:
        raise UsageError(t("Say who amends the run."), why=str(error), try_="--author NAME") from error
