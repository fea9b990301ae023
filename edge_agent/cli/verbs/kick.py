"""``edge-agent kick``: something was mended (a token, a label, a limit, the network), so everything is tried again now."""

from __future__ import annotations

import typer

from edge_agent.cli.options import ConfigOption, JsonFlag
from edge_agent.words import t


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("kick", help=t("Try everything that waits again, now: something was mended."))(kick)


def kick(config: ConfigOption = None, as_json: JsonFlag = False) -> int:
    """Ask the daemon to forget its back-off and to take up what is parked."""
    import asyncio

    from edge_agent.cli import output
    from edge_agent.cli.options import config_path
    from edge_agent.config.loading import load
    from edge_agent.local_api import ask

    answer = asyncio.run(ask(load(config_path(config)).spool.dir, "POST", "/kick", {}))
    if as_json:
        output.emit({"ok": True, **answer})
    else:
        output.say(t("Everything that waits is tried again now, also what had been parked: {n}.", n=answer["parked"]))
    return 0
