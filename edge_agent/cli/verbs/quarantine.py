"""``edge-agent quarantine list|show|retry|export|drop``: what was refused or cannot be read, and waits for a person."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_agent.cli.options import ConfigOption, JsonFlag
from edge_agent.words import t

IdArgument = Annotated[str, typer.Argument(metavar="ID", help=t("The entry, as the list names it."))]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    quarantine = typer.Typer(help=t("What was refused or cannot be read, and waits for a person."), no_args_is_help=True)
    quarantine.command("list", help=t("What is quarantined, oldest first."))(list_)
    quarantine.command("show", help=t("One entry: where its bytes are, and why."))(show)
    quarantine.command("retry", help=t("Try an entry again, after its cause was mended."))(retry)
    quarantine.command("export", help=t("Copy an entry's bytes, and why it is here, into a folder."))(export)
    quarantine.command("drop", help=t("Give up an entry, or what waits for a removed target; what nobody else has is lost."))(drop)
    app.add_typer(quarantine, name="quarantine")


def list_(
    dropped: Annotated[bool, typer.Option("--dropped", help=t("List what was given up instead, and why."))] = False,
    config: ConfigOption = None,
    as_json: JsonFlag = False,
) -> int:
    """Print the entries."""
    from edge_agent.cli import output

    now = _ask(config, "GET", "/quarantine")
    if as_json:
        output.emit({"ok": True, **now})
    elif dropped:
        _say_dropped(now["dropped"])
    else:
        _say_entries(now["entries"])
    return 0


def show(entry: IdArgument, config: ConfigOption = None, as_json: JsonFlag = False) -> int:
    """Print one entry."""
    from urllib.parse import urlencode

    from edge_agent.cli import output

    (found,) = _ask(config, "GET", f"/quarantine?{urlencode({'id': entry})}")["entries"]
    if as_json:
        output.emit({"ok": True, **found})
        return 0
    output.say(t("{id} is quarantined: {why}", id=found["id"], why=found["why"]))
    output.say(f"  {t('bytes')}: {', '.join([found['path'], *found['beside']])} ({found['size']})")
    output.say(f"  {t('since')}: {_time(found['since_ns'])}")
    if found["targets"]:
        output.say(f"  {t('refused by')}: {', '.join(found['targets'])} ({found['remote']})")
    if found["origin"]:
        output.say(f"  {t('was found at')}: {found['origin']}")
    return 0


def retry(entry: IdArgument, config: ConfigOption = None, as_json: JsonFlag = False) -> int:
    """Ask the daemon to try an entry again."""
    was = _ask(config, "POST", "/quarantine/retry", {"id": entry})
    if was["targets"]:
        sentence = t("{id} is sent to {targets} again.", id=was["id"], targets=", ".join(was["targets"]))
    else:
        sentence = t("{id} is back at {path} and will be looked at again.", id=was["id"], path=was["origin"])
    _tell(was, sentence, as_json)
    return 0


def export(
    entry: IdArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help=t("Where the copy goes; the agent's user must be able to write there."))],
    config: ConfigOption = None,
    as_json: JsonFlag = False,
) -> int:
    """Ask the daemon to copy an entry."""
    copy = _ask(config, "POST", "/quarantine/export", {"id": entry, "folder": str(folder.absolute())})
    _tell(copy, t("{id} is copied to {path}; the reason is beside it.", id=copy["id"], path=copy["path"]), as_json)
    return 0


def drop(
    entry: Annotated[str, typer.Argument(metavar="ID", help=t("The entry, or a target that was taken out of the configuration."))],
    reason: Annotated[str, typer.Option("--reason", "-r", help=t("Why the data may be given up; the only trace that is left of it."))],
    config: ConfigOption = None,
    as_json: JsonFlag = False,
) -> int:
    """Ask the daemon to give up an entry, or what waits for a removed target."""
    was = _ask(config, "POST", "/quarantine/drop", {"id": entry, "reason": reason})
    sentence = t("{id} is given up; this is on record: {reason}", id=was["id"], reason=reason)
    if "items" in was:
        sentence += "\n" + t("{n} files waited for it; {lost} of them no other target has or awaits.", n=was["items"], lost=was["lost"])
    _tell(was, sentence, as_json)
    return 0


def _say_entries(entries: list[dict[str, Any]]) -> None:
    from edge_agent.cli import output

    if not entries:
        output.say(t("Nothing is quarantined."))
        return
    output.say(t("Quarantined, for you to decide: {n}; nothing is deleted until you drop it.", n=len(entries)))
    output.say()
    head = [t("entry"), t("since"), t("bytes"), t("file"), t("refused by")]
    rows = [[e["id"], _time(e["since_ns"]), e["size"], e["remote"] or e["origin"] or e["path"], ", ".join(e["targets"])] for e in entries]
    output.say(output.columns(head, rows, right=(2,)))
    output.say()
    for entry in entries:
        output.say(f"{entry['id']}: {entry['why']}")


def _say_dropped(dropped: list[dict[str, Any]]) -> None:
    from edge_agent.cli import output

    if not dropped:
        output.say(t("Nothing was ever given up."))
        return
    output.say(t("Given up so far: {n}.", n=len(dropped)))
    output.say()
    head = [t("entry"), t("when"), t("bytes"), t("reason")]
    output.say(output.columns(head, [[d["id"], _time(d["t_ns"]), d["size"], d["reason"]] for d in dropped], right=(2,)))


def _time(t_ns: int) -> str:
    return datetime.fromtimestamp(t_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _ask(config: ConfigOption, method: str, path: str, body: dict[str, str] | None = None) -> Any:
    import asyncio

    from edge_agent.cli.options import config_path
    from edge_agent.config.loading import load
    from edge_agent.local_api import ask

    return asyncio.run(ask(load(config_path(config)).spool.dir, method, path, body))


def _tell(answer: Any, sentence: str, as_json: bool) -> None:
    from edge_agent.cli import output

    if as_json:
        output.emit({"ok": True, **answer})
    else:
        output.say(sentence)
