"""``edge-agent schema``: the JSON Schema of a configuration, for editors."""

from __future__ import annotations

import typer

from edge_agent.cli.options import JsonFlag
from edge_agent.words import t


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("schema", help=t("Print the JSON Schema of a configuration, for editors."))(schema)


def schema(as_json: JsonFlag = True) -> None:
    """Print the schema; it is JSON in any case."""
    from edge_agent.cli import output
    from edge_agent.config import json_schema

    output.emit(json_schema.schema())
