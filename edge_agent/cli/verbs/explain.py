"""``edge-agent explain CODE``: what an error code means and what to do."""

from __future__ import annotations

from typing import Annotated

import typer

from edge_agent.cli.options import JsonFlag
from edge_agent.words import t


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("explain", help=t("Say what an error code means and what to do about it."))(explain)


def explain(
    code: Annotated[str | None, typer.Argument(metavar="CODE", help=t("The code, as CFG_UNKNOWN_KEY. Without it: all codes."))] = None,
    as_json: JsonFlag = False,
) -> None:
    """Explain one code, or list all."""
    from edge_agent.cli import output
    from edge_agent.config.problems import nearest
    from edge_agent.errors import UsageError
    from edge_agent.words import codes, explanation

    if code is None:
        known = {name: found for name in codes() if (found := explanation(name)) is not None}
        if as_json:
            output.emit({name: {"meaning": found.meaning, "cure": found.cure} for name, found in known.items()})
        else:
            output.say(t("There are {count} codes.", count=len(known)))
            output.say(output.columns((t("code"), t("meaning")), [(name, found.meaning) for name, found in known.items()]))
        return
    name = code.upper().replace("-", "_")
    found = explanation(name)
    if found is None:
        close = nearest(name, codes())
        raise UsageError(
            t('There is no code "{code}".', code=name),
            try_=f"edge-agent explain {close}" if close else "edge-agent explain",
        )
    if as_json:
        output.emit({"code": name, "meaning": found.meaning, "cure": found.cure})
    else:
        output.say(f"{name}: {found.meaning}\n{found.cure}")
