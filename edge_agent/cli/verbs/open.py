"""``edge-agent open PATH... --key KEY``: the files that were encrypted to a project's key, as they were signed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_agent.cli.options import JsonFlag
from edge_agent.words import t


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("open", help=t("Decrypt what was encrypted to a project's key; the files are as they were signed."))(open_)


def open_(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help=t("Files *.age, or folders with such files."))],
    key: Annotated[Path, typer.Option("--key", "-k", metavar="FILE", help=t("The secret key of the project."))],
    out: Annotated[Path, typer.Option("--out", "-o", help=t("Folder to write to."))] = Path(),
    as_json: JsonFlag = False,
) -> int:
    """Open all that the key opens; exit code 0 only if that was everything, else that of the first error."""
    from edge_agent.cli import output
    from edge_agent.errors import DiskError, EdgeAgentError, UsageError
    from edge_agent.wire import envelope

    keys = envelope.read_key(key)
    found = [each for path in paths for each in (sorted(path.rglob(f"*{envelope.SUFFIX}")) if path.is_dir() else [path])]
    missing = [str(path) for path in found if not path.is_file()]
    if missing or not found:
        raise UsageError(
            t("There is nothing to open at {paths}.", paths=", ".join(missing or map(str, paths))),
            try_=t("give files *.age, or a folder with such files"),
        )
    opened, failed = list[tuple[Path, envelope.Opened]](), list[tuple[Path, EdgeAgentError]]()
    for path in found:
        try:
            file = envelope.open_envelope(path, keys, out)
        except EdgeAgentError as error:
            failed.append((path, error))
        except OSError as error:
            what = t("{file} cannot be written.", file=out)
            failed.append((path, DiskError(what, why=str(error), try_=t("check that the folder may be written and has room"))))
        else:
            opened.append((path, file))
            if not as_json:
                output.say(f"{file.sha256.hex()}  {file.path}")
    if as_json:
        files = [
            {"from": str(path), "file": str(f.path), "size": f.size, "sha256": f.sha256.hex(), "was_there": f.there} for path, f in opened
        ]
        errors = [{"from": str(path), "what": e.what, "why": e.why, "try": e.try_, "code": e.code} for path, e in failed]
        output.emit({"ok": not failed, "files": files, "errors": errors})
    else:
        for _, each in failed:
            output.error(each)
        output.note(t("{opened} of {all} files are open. Whose they are says: {verb}", opened=len(opened), all=len(found), verb=_next(out)))
    return failed[0][1].exit_code if failed else 0


def _next(out: Path) -> str:
    return f"edge-agent verify {out}"
