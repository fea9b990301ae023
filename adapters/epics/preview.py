"""A short run of the adapter into nothing, to see which streams there are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from edge_agent.adapter import Inlet, Sink
from edge_agent.errors import InstrumentUnreachable
from edge_agent.model import Block, FileItem, Frame, Gap, Reset, Stream


class _NoInlet:
    """Takes everything, keeps nothing."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    async def put(self, block: Block) -> None:
        """Forget rows."""

    def offer(self, frame: Frame) -> bool:
        """Forget a frame."""
        return True

    async def put_frame(self, frame: Frame) -> None:
        """Forget a frame."""

    def gap(self, gap: Gap) -> None:
        """Forget a gap."""

    def reset(self, reset: Reset) -> None:
        """Forget a reset."""


class _Looker:
    """A Sink that remembers which streams were opened and what each source said."""

    def __init__(self, expected: Sequence[Stream]) -> None:
        self.opened: dict[str, Stream] = {}
        self.why: dict[str, str] = {}
        self.answered: set[str] = set()
        self.settled = asyncio.Event()
        self._names = {stream.source_uri: stream.name for stream in expected}

    def open(self, stream: Stream) -> Inlet:
        self.opened[stream.name] = stream
        self._look()
        return _NoInlet(stream)

    async def adopt(self, stream: Stream, item: FileItem, *others: FileItem) -> None:
        raise NotImplementedError("EPICS delivers no files")

    def connected(self, source: str, *, detail: str = "") -> None:
        self.answered.add(source)

    def disconnected(self, source: str, *, why: str) -> None:
        self.why[source] = why
        self._look()

    def describe(self, facts: Mapping[str, str | int | float]) -> None:
        """Facts are shown when it runs in earnest."""

    def show(self, picture: npt.NDArray[Any], name: str) -> None:
        """Nothing is kept."""

    async def durable(self) -> None:
        """Nothing is kept."""

    async def note(self, key: str, value: str) -> None:
        """Nothing is kept."""

    async def noted(self, key: str) -> str | None:
        """Nothing is kept."""
        return None

    async def already_adopted(self, name: str, size: int, mtime_ns: int) -> bool:
        return False

    def _look(self) -> None:
        if all(name in self.opened or uri in self.why for uri, name in self._names.items()):
            self.settled.set()


async def preview(instrument: str, expected: Sequence[Stream], run: Callable[[Sink], Awaitable[None]], patience: float) -> list[Stream]:
    """Run until every expected stream was opened or refused, at most a little longer than ``patience`` seconds.

    A PV that answers without a value (a camera before its first exposure) is listed as expected. Raises
    InstrumentUnreachable, naming each PV, when none answers.
    """
    looker = _Looker(expected)
    running = asyncio.ensure_future(run(looker))
    settled = asyncio.ensure_future(looker.settled.wait())
    try:
        done, _ = await asyncio.wait({running, settled}, timeout=patience + 1, return_when=asyncio.FIRST_COMPLETED)
        if running in done:
            running.result()
    finally:
        settled.cancel()
        running.cancel()
        await asyncio.gather(running, settled, return_exceptions=True)
    found = [
        looker.opened.get(stream.name, stream)
        for stream in expected
        if stream.name in looker.opened or stream.source_uri in looker.answered
    ]
    if not found:
        why = "; ".join(f"{stream.source_uri}: {looker.why.get(stream.source_uri, 'no answer')}" for stream in expected)
        raise InstrumentUnreachable(
            f"{instrument}: none of its {len(expected)} PVs answers",
            why=why,
            try_='ask caget or pvget on this machine; if the IOC is on another network, give addresses = ["host:port"]',
        )
    return found
