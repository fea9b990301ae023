"""A short run of the adapter into nothing, to see which streams there are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from edge_agent.adapter import ForgetfulSink, Inlet, Sink
from edge_agent.errors import InstrumentUnreachable
from edge_agent.model import Stream


class _Looker(ForgetfulSink):
    """Remembers which streams were opened and what each source said."""

    def __init__(self, expected: Sequence[Stream]) -> None:
        self.opened: dict[str, Stream] = {}
        self.why: dict[str, str] = {}
        self.answered: set[str] = set()
        self.settled = asyncio.Event()
        self._names = {stream.source_uri: stream.name for stream in expected}

    def open(self, stream: Stream) -> Inlet:
        self.opened[stream.name] = stream
        self._look()
        return super().open(stream)

    def connected(self, source: str, *, detail: str = "") -> None:
        self.answered.add(source)

    def disconnected(self, source: str, *, why: str) -> None:
        self.why[source] = why
        self._look()

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
