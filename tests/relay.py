"""A way to a server on loopback on which things happen: it goes down, is cut, loses answers, and lets bytes fall over."""

from __future__ import annotations

import asyncio
import contextlib

from firmware_sim.loopback import hold_port

_BLOCK = 1 << 16


class Relay:
    """Carries TCP from a port of its own to another one. Offsets and numbers count from the moment in which they are asked for."""

    def __init__(self, to: int) -> None:
        self.port = hold_port()
        self.lost = asyncio.Event()
        """An answer was asked to get lost, and has."""
        self._to = to
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._passed = self._answers = 0
        self._flip: int | None = None
        self._cut: int | None = None
        self._mute: int | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def open(self) -> None:
        """Carry; the port stays the same."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def close(self) -> None:
        """Break everything off; nobody gets through any more."""
        if self._server is not None:
            self._server.close()
        self._server = None
        await self._break_off()

    def flip(self, after: int) -> None:
        """One bit that is sent falls over, once, after so many bytes."""
        self._passed, self._flip = 0, after

    def cut(self, after: int) -> None:
        """All connections break off, once, after so many bytes were sent."""
        self._passed, self._cut = 0, after

    def mute(self, answer: int) -> None:
        """The answer of that number (from 1) and all that follow get lost: what it is to be killed before it comes."""
        self._answers, self._mute = 0, answer
        self.lost.clear()

    def well(self) -> None:
        """Nothing happens any more."""
        self._flip = self._cut = self._mute = None

    async def _break_off(self) -> None:
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            far, near = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        self._tasks.add(task)
        asked = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._there(reader, near, asked))
                both.create_task(self._back(far, writer, asked))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            near.close()
            writer.transport.abort()

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: asyncio.Event) -> None:
        while data := await reader.read(_BLOCK):
            self._passed += len(data)
            asked.set()
            if self._flip is not None and self._passed > self._flip:
                self._flip = None
                data = data[:-1] + bytes([data[-1] ^ 1])
            if self._cut is not None and self._passed > self._cut:
                writer.write(data[: len(data) - (self._passed - self._cut)])
                self._cut = None
                with contextlib.suppress(OSError):
                    await writer.drain()
                asyncio.get_running_loop().call_soon(lambda: [task.cancel() for task in self._tasks])
                return
            writer.write(data)
            await writer.drain()
        writer.close()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: asyncio.Event) -> None:
        while data := await reader.read(_BLOCK):
            if asked.is_set():
                asked.clear()
                self._answers += 1
            if self._mute is not None and self._answers >= self._mute:
                self.lost.set()
                continue
            writer.write(data)
            await writer.drain()
        writer.close()
