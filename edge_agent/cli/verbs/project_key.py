"""``edge-agent project-key FILE``: a project's key, whose public part encrypts closed data where it is only stored.

The secret part is for the project: it opens the data, and publishing it opens them to all. So it is not made where an agent runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_agent.cli.options import JsonFlag
from edge_agent.words import t


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("project-key", help=t("Make a project's key, on a computer of the project: closed data is encrypted to it."))(project_key)


def project_key(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=t("Where the secret key goes; a file that is there is never replaced."))],
    project: Annotated[str, typer.Option("--project", metavar="NAME", help=t("Name of the project, for the lines to copy."))] = "PROJECT",
    as_json: JsonFlag = False,
) -> int:
    """Write the secret key to a new file that only its owner reads; print the public one."""
    import os
    from datetime import UTC, datetime

    from edge_agent.cli import output
    from edge_agent.errors import UsageError
    from edge_agent.wire import envelope

    _not_beside_an_agent()
    secret, public = envelope.new_key()
    text = f"# created: {datetime.now(UTC).isoformat(timespec='seconds')}\n# public key: {public}\n{secret}\n"
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise UsageError(
            t("{file} cannot be written.", file=file), why=str(error), try_=t("name a new file in a folder of your own")
        ) from error
    if as_json:
        output.emit({"ok": True, "file": str(file), "public_key": public, "folder": envelope.folder_of(public)})
        return 0
    output.say(t("The secret key is in {file}. Keep it, and a copy elsewhere: without it nobody can ever read the data.", file=file))
    output.say(t("Whoever has it reads the data; publish it to open them to all."))
    output.say(t("For the agent's configuration:"))
    output.say(f'\n    [projects.{project}]\n    encrypt_to = ["{public}"]\n')
    output.say(t("In stores its data is in the folder {folder}.", folder=envelope.folder_of(public)))
    return 0


def _not_beside_an_agent() -> None:
    """A key that was ever on an instrument's computer opens the data to who takes that computer.

    Raises:
        UsageError: an agent is configured here.
    """
    import os

    from edge_agent.cli.options import PLACES
    from edge_agent.config.models import default_spool
    from edge_agent.errors import UsageError

    named = os.environ.get("EDGE_AGENT_CONFIG")
    signs = [path for path in (PLACES[-1], default_spool(), *([Path(named)] if named else [])) if path.exists()]
    if signs:
        raise UsageError(
            t("An agent runs on this computer: a project's secret key is not made here."), why=t("there is {path}", path=signs[0]),
            try_=t("make it on a computer of the project: pip install edge-agent-daq, or age-keygen (age-encryption.org)"),
            code="ENVELOPE_KEY_HERE",
        )  # fmt: skip
