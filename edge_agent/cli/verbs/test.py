"""``edge-agent test INSTRUMENT``: shows live what would be captured; nothing is stored and nothing leaves the machine."""

from __future__ import annotations

from typing import Annotated

import typer

from edge_agent.cli.options import ConfigOption, JsonFlag
from edge_agent.words import t


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("test", help=t("Show live what an instrument would deliver; nothing is stored."))(try_out)


def try_out(
    instrument: Annotated[str, typer.Argument(metavar="INSTRUMENT", help=t('Its name in the configuration, or "serial" with a PORT.'))],
    port: Annotated[str | None, typer.Argument(metavar="[PORT]", help=t("A serial port: then no configuration is needed."))] = None,
    config: ConfigOption = None,
    seconds: Annotated[float, typer.Option(min=0.1, help=t("How long to look."))] = 10.0,
    parse: Annotated[str | None, typer.Option(help=t("With PORT: how a line is read, as in the configuration."))] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=t("With PORT: any other key, as baudrate=19200."))
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Preview an instrument of a configuration and run its adapter into a sink that stores nothing, or listen to a port."""
    import asyncio

    from edge_agent.cli import lines, trial
    from edge_agent.cli.options import config_path
    from edge_agent.errors import UsageError

    if port is not None:
        asyncio.run(lines.show(instrument, port, parse, lines.parsed_settings(settings or []), seconds, as_json=as_json))
        return
    if parse is not None or settings:
        raise UsageError(t("--parse and --set are for a PORT without a configuration."), try_="edge-agent test serial PORT --parse ...")
    asyncio.run(trial.show(trial.from_configuration(config_path(config), instrument), seconds, as_json=as_json))
