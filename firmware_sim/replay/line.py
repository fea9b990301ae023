"""Plays back a serial line from the bytes that were kept: what the instrument sent, when it sent it.

Where the run also holds what the agent sent, the playback waits for the same command (up to `PATIENCE` seconds) before it sends what
came after it, so that questions and answers stay together whoever asks at whatever pace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from firmware_sim.links import Link, TcpLink
from firmware_sim.replay.landed import Landed, RunError
from firmware_sim.truth import TruthWriter

BYTES: Final = "serial bytes"
SENT: Final = 0x100
COUNT: Final = 0xFF
PATIENCE: Final = 5.0


def raw_of(streams: Sequence[Landed], instrument: str) -> Landed:
    """The stream that holds an instrument's bytes.

    Raises:
        RunError: they were not kept.
    """
    for stream in streams:
        if stream.source_type == BYTES:
            return stream
    raise RunError(
        f"{instrument} cannot be played back: only its values were kept, not the bytes of its line; "
        f"record it with raw = true in [instrument.{instrument}], or leave it out with --instrument"
    )


class LinePart:
    """One instrument on a TCP port, as a serial device server gives it."""

    def __init__(self, streams: Sequence[Landed], truth: TruthWriter) -> None:
        (self._stream,) = streams
        self._truth = truth
        self._link: Link = TcpLink()
        self._heard: asyncio.Queue[str] = asyncio.Queue()

    async def open(self) -> Mapping[str, Any]:
        """See `Part`."""
        return {**await self._link.open(self._heard.put_nowait, lambda: None)}

    async def show(self, stream: Landed, row: int) -> None:
        """See `Part`."""
        status = int(stream.columns["status"][row])
        data = stream.columns["value"][row][: status & COUNT].tobytes()
        if status & SENT:
            await self._wait_for(data)
            return
        self._truth.item(stream.key, self._truth.now(), v=data.hex())
        self._link.send(data)

    async def settle(self) -> None:
        """What was sent is on its way."""

    async def close(self) -> None:
        """See `Part`."""
        await self._link.close()

    async def _wait_for(self, data: bytes) -> None:
        """Until the client says what the agent had said then."""
        try:
            async with asyncio.timeout(PATIENCE):
                for wanted in data.decode("ascii", "replace").split():
                    while wanted not in (await self._heard.get()).split():
                        pass
        except TimeoutError:
            return  # it need not ask; what came is sent all the same
