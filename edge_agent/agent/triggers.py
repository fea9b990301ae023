"""Watches the value behind ``run_while`` and tells the desk when it becomes true or false, with the source's own time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from edge_agent.config.adapters import adapter_module
from edge_agent.config.conditions import RunWhile
from edge_agent.config.models import Instrument
from edge_agent.errors import ConfigError
from edge_agent.runs.desk import Desk

log = logging.getLogger(__name__)

SCHEMES = {"ca": "epics", "pva": "epics", "opc.tcp": "opcua"}
FILE_POLL = 0.2


class Watcher(Protocol):
    """``watch`` of an adapter package: yields (value, source time in UTC ns) at connect and at each change, reconnecting for ever."""

    def __call__(self, uri: str, **options: Any) -> AsyncIterator[tuple[float | str, int]]:
        """Begin watching."""
        ...


def watcher(uri: str) -> Watcher:
    """The function that can watch this address.

    Raises:
        ConfigError: no adapter can.
    """
    scheme = urlsplit(uri).scheme
    if scheme == "file":
        return watch_file
    if scheme not in SCHEMES:
        raise ConfigError(f"nothing can watch {uri}", why=f"schemes: file, {', '.join(SCHEMES)}", code="CFG_TRIGGER")
    return cast(Watcher, adapter_module(SCHEMES[scheme]).watch)


async def watch_file(uri: str, **_: Any) -> AsyncIterator[tuple[float | str, int]]:
    """1 while the file exists, else 0; its time is the file's own when it appears."""
    path = Path(urlsplit(uri).path)
    known: bool | None = None
    while True:
        stat = await asyncio.to_thread(_stat, path)
        there = stat is not None
        if there != known:
            known = there
            yield (1.0 if there else 0.0), stat if stat is not None else _now()
        await asyncio.sleep(FILE_POLL)


def _stat(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _now() -> int:
    return time.time_ns()


def options_for(uri: str, instrument: Instrument) -> dict[str, Any]:
    """How the instrument itself reaches its source (addresses, security), when the trigger is of the same kind."""
    same = SCHEMES.get(urlsplit(uri).scheme) == instrument.adapter
    options = getattr(instrument.settings, "options", None)
    return dict(options()) if same and options is not None else {}


async def follow_project(group: str, uri: str, instrument: Instrument, desk: Desk) -> None:
    """Give a group's runs without a session the project that a value says, for ever; what is no name leaves the last one and is said."""
    async for value, _ in watcher(uri)(uri, **options_for(uri, instrument)):
        project = f"{value:g}" if isinstance(value, float) else str(value).strip()
        if not desk.assign(group, project, uri):
            log.warning("%s: %s gives %r, which is no name of a project; the last one stays", group, uri, value,
                        extra={"code": "TRIGGER"})  # fmt: skip


async def follow(group: str, condition: RunWhile, instrument: Instrument, desk: Desk) -> None:
    """Follow one trigger for ever; a value of the wrong kind (a text against a number) is said once."""
    watch = watcher(condition.uri)
    complained = False
    async for value, t_ns in watch(condition.uri, **options_for(condition.uri, instrument)):
        if isinstance(value, str) is not isinstance(condition.value, str) and not complained:
            kinds = "text and a number" if isinstance(value, str) else "a number and text"
            log.warning("%s: %s gives %r: %s never equal (%s)", group, condition.uri, value, kinds, condition, extra={"code": "TRIGGER"})
            complained = True
        desk.trigger(group, condition.holds(value), t_ns, str(condition))
