"""A watched folder and the adapter that watches it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.files import FilesAdapter, FilesConfig
from adapters.testing import Adopted, Connected, RecordingSink

QUICK = {"settle": "300 ms", "settle_closed": "50 ms", "rescan": "200 ms"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    return folder


@pytest.fixture
async def watch(folder: Path) -> AsyncIterator[Callable[..., Awaitable[SimpleNamespace]]]:
    """``await watch(**keys)`` starts an adapter on ``folder``; gives its ``sink`` and ``stop()``."""
    running: list[SimpleNamespace] = []

    async def start(*, sink: RecordingSink | None = None, wait: bool = True, **keys: Any) -> SimpleNamespace:
        sink = sink or RecordingSink()
        config = FilesConfig.model_validate({"folder": str(folder)} | QUICK | keys)
        task = asyncio.create_task(FilesAdapter("xrd", config).run(sink))

        async def stop() -> None:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

        running.append(SimpleNamespace(sink=sink, stop=stop))
        if wait:
            await sink.until(lambda s: s.of(Connected))
        return running[-1]

    yield start
    for one in running:
        await one.stop()


@pytest.fixture
def taken() -> Callable[..., Callable[[RecordingSink], bool]]:
    """``taken("a", "b")``: all of these names were adopted; ``taken(3)``: so many were."""

    def taken(*wanted: str | int) -> Callable[[RecordingSink], bool]:
        def predicate(sink: RecordingSink) -> bool:
            names = [event.item.name for event in sink.of(Adopted)]
            return all(len(names) >= one if isinstance(one, int) else one in names for one in wanted)

        return predicate

    return taken
