"""``edge-agent project-key new|publish|list``: a project's key, whose public part encrypts closed data where it is only stored.

The secret part is for the project: it opens the data, and publishing it opens them to all. So it is not made where an agent runs; what the
agent is told of a publication is only that it happened, which it signs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edge_agent.cli.options import ConfigOption, JsonFlag
from edge_agent.words import t


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    keys = typer.Typer(help=t("The key of a project, to which closed data is encrypted."), no_args_is_help=True)
    keys.command("new", help=t("Make a project's key, on a computer of the project: closed data is encrypted to it."))(new)
    keys.command("publish", help=t("Sign, beside each run that was encrypted to a key, that the key is published."))(publish)
    keys.command("list", help=t("The files of a run that went somewhere encrypted: to which key, and whether it is published."))(list_)
    app.add_typer(keys, name="project-key")


def new(
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


def publish(
    project: Annotated[str, typer.Argument(metavar="PROJECT", help=t("The project whose key is published."))],
    reason: Annotated[str, typer.Option("--reason", "-r", help=t("Why, and where the secret key is found: it is signed."))],
    key: Annotated[str, typer.Option("--key", "-k", metavar="AGE1...", help=t("The public key. Default: the first of encrypt_to."))] = "",
    author: Annotated[str, typer.Option("--author", help=t("Who says so: an ORCID or a name. Default: your account."))] = "",
    config: ConfigOption = None,
    as_json: JsonFlag = False,
) -> int:
    """Ask the daemon to sign that the key was published."""
    from edge_agent.cli import output
    from edge_agent.cli.options import account

    body = {"project": project, "key": key, "author": author or account(), "reason": reason}
    said = _ask(config, "POST", "/project-key/publish", body)
    if as_json:
        output.emit({"ok": True, **said})
        return 0
    output.say(t("{key} is published.", key=said["key"]))
    output.say(t("Runs that say so from now on: {runs}. Runs that did before: {n}.", runs=_names(said["runs"]), n=len(said["before"])))
    if said["still_open"]:
        output.say(t("Not closed yet: {runs}. Give the command again when they are.", runs=_names(said["still_open"])))
    if said["configured"]:
        output.say(t("Nothing else is encrypted to it: other closed data of {project} waits until it has another key.", project=project))
    return 0


def list_(
    run: Annotated[str, typer.Argument(metavar="RUN", help=t("The run's number."))], config: ConfigOption = None, as_json: JsonFlag = False
) -> int:
    """Print what targets hold of a run encrypted."""
    from urllib.parse import urlencode

    from edge_agent.cli import output

    found = _ask(config, "GET", f"/project-key?{urlencode({'run': run})}")
    if as_json:
        output.emit({"ok": True, **found})
        return 0
    if not found["items"]:
        output.say(t("No target has proved that it holds a file of run {run} encrypted.", run=run))
        return 0
    order = list(found["keys"])
    head = [t("file"), t("target"), t("object"), t("bytes"), t("key")]
    rows = [
        [each["file"], each["target"], each["object"], each["size"], ", ".join(str(order.index(key) + 1) for key in each["keys"]) or "?"]
        for each in found["items"]
    ]
    output.say(output.columns(head, rows, right=(3,)))
    output.say()
    for number, (key, word) in enumerate(found["keys"].items(), 1):
        output.say(f"{number}: {key}: {t('not published') if word is None else _word(word)}")
    return 0


def _word(word: dict[str, Any]) -> str:
    from datetime import UTC, datetime

    when = datetime.fromtimestamp(word["t_ns"] / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return t("published {time} by {author} ({reason})", time=when, author=word["author"], reason=word["reason"])


def _names(runs: list[str]) -> str:
    return ", ".join(runs) or t("none")


def _ask(config: ConfigOption, method: str, path: str, body: dict[str, str] | None = None) -> Any:
    import asyncio

    from edge_agent.cli.options import config_path
    from edge_agent.config.loading import load
    from edge_agent.local_api import ask

    return asyncio.run(ask(load(config_path(config)).spool.dir, method, path, body))


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
