"""``edge-agent service install``: write the systemd unit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_agent.cli.options import ConfigOption, JsonFlag
from edge_agent.words import t


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    service = typer.Typer(help=t("Run the agent as a service of the system."), no_args_is_help=True)
    service.command("install", help=t("Write the systemd unit; the next command starts it."))(install)
    app.add_typer(service, name="service")


def install(
    config: ConfigOption = None,
    user: Annotated[str, typer.Option("--user", help=t("The account that the service runs as."))] = "edge-agent",
    folder: Annotated[Path | None, typer.Option("--folder", help=t("Write the unit here instead of the system's place."))] = None,
    as_json: JsonFlag = False,
) -> int:
    """Check the configuration, then write the unit."""
    from edge_agent.cli import output
    from edge_agent.cli.options import config_path
    from edge_agent.config.loading import load
    from edge_agent.service import unit

    file = config_path(config)
    loaded = load(file)
    path = unit.install(unit.unit_text(file, loaded, user), folder or unit.UNIT_FOLDER)
    if as_json:
        output.emit({"ok": True, "unit": str(path)})
    else:
        output.say(t("{path} is written. Start it now and at every boot:", path=path))
        output.say(f"  useradd --system --home-dir {loaded.spool.dir} {user}   # {t('once, if there is no such account')}")
        output.say(f"  systemctl enable --now {unit.NAME}")
    return 0
