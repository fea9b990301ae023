"""What no single key can know: names that must exist elsewhere, things that two instruments share, secrets that were written out.

`by_file` looks at the configuration alone; `by_machine` also at this machine (folders, secrets), which is only asked for by a check.
"""

from __future__ import annotations

import datetime
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any, Literal

from pydantic import BaseModel

from edge_agent.config.models import Config
from edge_agent.config.positions import Path
from edge_agent.config.problems import nearest
from edge_agent.config.secret import Secret
from edge_agent.config.targets import KINDS, SharedStore
from edge_agent.errors import ConfigError
from edge_agent.words import t

TAKEN = "name"
"""What stands beside the instruments in a file: ``/entry/instrument/name`` is the site (NXinstrument)."""
SHARED = tuple(kind for kind, table in KINDS.items() if issubclass(table, SharedStore))
"""Keys of the targets that only store."""
_SECRET = re.compile(r"(.*[_-])?(password|passwd|passphrase|secret|token|api_?key)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Remark:
    """One mistake or warning, by the path in the file."""

    path: Path
    message: str
    code: str
    nearest: str | None = None
    level: Literal["error", "warning"] = "error"


def inline_secrets(data: Any, path: Path = ()) -> Iterator[Remark]:
    """Keys that are named like a secret and hold text."""
    if isinstance(data, dict):
        for key, value in data.items():
            if isinstance(value, str) and _SECRET.fullmatch(key):
                message = t('a secret is never written here; put it in a file and write {{ file = "/path/of/the/file" }}')
                yield Remark((*path, key), message, "CFG_SECRET_INLINE")
            else:
                yield from inline_secrets(value, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from inline_secrets(value, (*path, index))


def by_file(data: Mapping[str, Any]) -> Iterator[Remark]:
    """What the configuration says against itself; ``data`` are the values as TOML gave them, right or wrong."""
    instruments, targets, lives = _tables(data, "instrument"), _tables(data, "target"), _tables(data, "live")
    for name, table in instruments.items():
        for key in ("targets", "allowed"):
            chosen = table.get(key)
            for index, target in enumerate(chosen if isinstance(chosen, list) else ()):
                if isinstance(target, str) and target not in targets and not (key == "allowed" and target in lives):
                    message = t("there is no [target.{target}]", target=target)
                    yield Remark(("instrument", name, key, index), message, "CFG_UNKNOWN_TARGET", nearest(target, targets))
    if TAKEN in instruments:
        message = t('an instrument cannot be called "{name}": in the files this is the name of the place', name=TAKEN)
        yield Remark(("instrument", TAKEN), message, "CFG_VALUE")
    yield from _same_names("instrument", instruments)
    yield from _same_names("target", targets)
    for name in sorted(set(targets) & set(lives)):
        yield Remark(("live", name), t("a target has this name too: a label could not tell them apart"), "CFG_VALUE")
    yield from _same_ports(instruments)
    yield from _two_triggers(instruments)
    yield from _without_key(data, instruments, targets)
    if not data.get("instrument"):
        yield Remark((), t("there is no [instrument.NAME]: nothing will be captured"), "CFG_NO_INSTRUMENT", level="warning")
    if not data.get("target"):
        yield Remark((), t("there is no [target.NAME]: data stays in the spool until the disk is full"), "CFG_NO_TARGET", level="warning")


def by_machine(config: Config) -> Iterator[Remark]:
    """What this machine says against the configuration: where the spool cannot be written, which secrets are not there."""
    folder = config.spool.dir
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not there.is_dir():
        yield Remark(("spool", "dir"), t("{path} is not a folder", path=there), "CFG_SPOOL")
    elif why := _not_writable(there):
        yield Remark(("spool", "dir"), t("this user cannot write in {path}: {why}", path=there, why=why), "CFG_SPOOL")
    for name, instrument in config.instruments.items():
        if (held := instrument.calibration) is not None and held.valid_until is not None and held.valid_until < _today(config):
            message = t("the calibration ended on {day}; runs are recorded all the same", day=held.valid_until)
            yield Remark(("instrument", name, "calibration", "valid_until"), message, "CFG_VALUE", level="warning")
    for path, secret in _secrets(config):
        try:
            secret.reveal()
        except ConfigError as e:
            level: Literal["error", "warning"] = "error" if secret.kind == "file" else "warning"
            yield Remark(path, f"{e.what} {e.why}", e.code, level=level)
            continue
        if secret.kind == "file" and os.name == "posix" and File(secret.where).stat().st_mode & 0o077:
            yield Remark(path, t("others can read {path}; chmod 600 it", path=secret.where), "CFG_SECRET_OPEN", level="warning")


def _today(config: Config) -> datetime.date:
    return datetime.datetime.now(config.zone).date()


def _not_writable(folder: File) -> str:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as e:
        return e.strerror or str(e)


def _same_names(table: str, names: Mapping[str, object]) -> Iterator[Remark]:
    seen: dict[str, str] = {}
    for name in names:
        if (first := seen.setdefault(name.lower(), name)) != name:
            yield Remark(
                (table, name),
                t('differs from "{name}" only in upper and lower case; some disks take them for one', name=first),
                "CFG_VALUE",
            )


def _two_triggers(instruments: Mapping[str, Mapping[str, Any]]) -> Iterator[Remark]:
    """A group's runs are opened by one value."""
    seen: dict[object, object] = {}
    for name, table in instruments.items():
        condition = table.get("run_while")
        if condition is not None and seen.setdefault(table.get("group", name), condition) != condition:
            message = t('group "{group}" has another run_while already; its runs are opened by one value', group=table.get("group", name))
            yield Remark(("instrument", name, "run_while"), message, "CFG_VALUE")


def _without_key(
    data: Mapping[str, Any], instruments: Mapping[str, Mapping[str, Any]], targets: Mapping[str, Mapping[str, Any]]
) -> Iterator[Remark]:
    """Targets that ask for encryption where a project has no key, and keys that no target encrypts to."""
    projects = _tables(data, "projects")
    stores = {name: table for name, table in targets.items() if any(kind in table for kind in SHARED)}
    named = [table.get("project") for table in (data, *instruments.values())]
    known = dict.fromkeys((*projects, *(each for each in named if isinstance(each, str))))
    keyless = [name for name in known if not projects.get(name, {}).get("encrypt_to")]
    for name, table in stores.items():
        if table.get("encrypt") in ("closed", "shared") and keyless:
            message = t("no encrypt_to is given for {projects}: what must be encrypted waits here", projects=", ".join(keyless))
            yield Remark(("target", name, "encrypt"), message, "CFG_VALUE", level="warning")
    if all(table.get("encrypt") == "never" for table in stores.values()):
        for name, table in projects.items():
            if table.get("encrypt_to"):
                message = t("no target encrypts: what a landing service gets, it can read")
                yield Remark(("projects", name, "encrypt_to"), message, "CFG_VALUE", level="warning")


def _same_ports(instruments: Mapping[str, Mapping[str, Any]]) -> Iterator[Remark]:
    seen: dict[tuple[str, str], str] = {}
    for name, table in instruments.items():
        adapter, port = table.get("adapter"), table.get("port")
        if isinstance(adapter, str) and isinstance(port, str) and (first := seen.setdefault((adapter, port), name)) != name:
            message = t('"{name}" has the same port; only one of them will get it', name=first)
            yield Remark(("instrument", name, "port"), message, "CFG_SAME_PORT", level="warning")


def _tables(data: Mapping[str, Any], key: str) -> dict[str, Mapping[str, Any]]:
    tables = data.get(key)
    return {name: table for name, table in tables.items() if isinstance(table, dict)} if isinstance(tables, dict) else {}


def _secrets(value: Any, path: Path = ()) -> Iterator[tuple[Path, Secret]]:
    if isinstance(value, Secret):
        yield path, value
    elif isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            here = path if name == "settings" else (*path, field.alias or name)
            yield from _secrets(getattr(value, name), here)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _secrets(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _secrets(inner, (*path, index))
