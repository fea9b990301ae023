"""``edge-agent keys change``: new session keys now, and not with the next day; ``--compromised`` when the old ones may be stolen."""

from __future__ import annotations

from typing import Annotated

import typer

from edge_agent.cli.options import ConfigOption, JsonFlag
from edge_agent.words import t


def register(app: typer.Typer) -> None:
    """Add the verb."""
    keys = typer.Typer(help=t("The keys that sign what is recorded."), no_args_is_help=True)
    keys.callback()(lambda: None)
    keys.command("change", help=t("Make new session keys and sign with them from the next segment on."))(change)
    app.add_typer(keys, name="keys")


def change(
    compromised: Annotated[
        str,
        typer.Option("--compromised", metavar="REASON", help=t("The old keys may be stolen: close what they sign, and say so for good.")),
    ] = "",
    config: ConfigOption = None,
    as_json: JsonFlag = False,
) -> int:
    """Ask the daemon to change its session keys."""
    import asyncio

    from edge_agent.cli import output
    from edge_agent.cli.options import config_path
    from edge_agent.config.loading import load
    from edge_agent.local_api import ask

    answer = asyncio.run(ask(load(config_path(config)).spool.dir, "POST", "/keys/change", {"compromised": compromised}))
    if as_json:
        output.emit({"ok": True, **answer})
    else:
        output.say(t("New session keys sign from the next segment on; the first is {kid}.", kid=answer["kid"]))
    return 0
