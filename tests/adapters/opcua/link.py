"""A cable to a server that can be cut, stalled and listened to."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlparse

from firmware_sim.loopback import hold_port


class Link:
    """Forwards TCP to a server. Cut, it refuses; stalled, it takes connections and bytes and forwards none; ``heard`` is what the server said."""

    def __init__(self, endpoint: str) -> None:
        parts = urlparse(endpoint)
        self._target = (str(parts.hostname), int(parts.port or 0))
        self.port = hold_port()
        self.endpoint = f"opc.tcp://127.0.0.1:{self.port}"
        self.heard = bytearray()
        self._listener: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()

    async def mend(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    def stall(self) -> None:
        self._flows.clear()

    def resume(self) -> None:
        self._flows.set()

    async def cut(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self.resume()
        for writer in list(self._open):
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            await self._listener.wait_closed()
            self._listener = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._target)
        self._open |= {writer, back}
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._pump(source, sink, listen=source is there))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, listen: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                await self._flows.wait()
                if listen:
                    self.heard += data
                sink.write(data)
                await sink.drain()
        sink.transport.abort()
        self._open.discard(sink)
