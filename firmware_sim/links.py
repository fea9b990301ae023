"""The two lines a serial instrument may hang on: a pty, or one TCP connection as a serial device server gives it.

Invariants: sending never blocks and never tears a line: a line that does not fit is left out whole. Input is handed
over line by line, ended by CR, LF or both; a line above 256 bytes is thrown away.
"""

from __future__ import annotations

import asyncio
import os
import re
import tty
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

MAX_INPUT: Final = 256
MAX_UNSENT: Final = 65536
LOOPBACK: Final = "127.0.0.1"

OnLine = Callable[[str], None]


class Link(Protocol):
    """A line to whoever drives the instrument. `changed` is called when a client takes or leaves it."""

    async def open(self, on_line: OnLine, changed: Callable[[], None]) -> Mapping[str, Any]:
        """Begin to serve; returns what the ready line says about the address. Raises OSError."""

    def send(self, line: bytes) -> bool:
        """Send one whole line or leave it out; returns whether it went."""

    def drop(self) -> None:
        """Cut the connection; a pty cannot be cut, there it does nothing."""

    async def close(self) -> None:
        """Stop serving."""


class _Splitter:
    def __init__(self, on_line: OnLine) -> None:
        self._on_line = on_line
        self._rest = b""

    def feed(self, data: bytes) -> None:
        *lines, rest = re.split(rb"[\r\n]", self._rest + data)
        # A command without an end must not grow for ever; its tail is refused as an unknown command.
        self._rest = rest[:MAX_INPUT]
        for line in lines:
            if line.strip() and len(line) < MAX_INPUT:
                self._on_line(line.decode("ascii", "replace").strip())


class PtyLink:
    """A pseudo-terminal in raw mode. Keeps the slave open so that clients may come and go."""

    def __init__(self) -> None:
        self._master = self._slave = -1
        self._unsent = b""

    async def open(self, on_line: OnLine, changed: Callable[[], None]) -> Mapping[str, Any]:
        """Make the pty; `path` is the device a client opens. A pty does not show clients, so `changed` is never called."""
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        splitter = _Splitter(on_line)
        asyncio.get_running_loop().add_reader(self._master, self._read, splitter)
        return {"path": os.ttyname(self._slave)}

    def send(self, line: bytes) -> bool:
        """Write what fits; the rest goes out as soon as somebody reads, up to 64 KiB of it."""
        if len(self._unsent) > MAX_UNSENT:
            return False
        self._unsent += line
        if not self._flush():
            asyncio.get_running_loop().add_writer(self._master, self._flush)
        return True

    def drop(self) -> None:
        """Nothing: a pty has no connection."""

    async def close(self) -> None:
        """Close both ends."""
        if self._master >= 0:
            asyncio.get_running_loop().remove_reader(self._master)
            asyncio.get_running_loop().remove_writer(self._master)
            os.close(self._master)
            os.close(self._slave)
            self._master = self._slave = -1

    def _flush(self) -> bool:
        try:
            written = os.write(self._master, self._unsent)
        except BlockingIOError:
            written = 0
        self._unsent = self._unsent[written:]
        if not self._unsent:
            asyncio.get_running_loop().remove_writer(self._master)
        return not self._unsent

    def _read(self, splitter: _Splitter) -> None:
        try:
            data = os.read(self._master, 4096)
        except BlockingIOError:
            return
        splitter.feed(data)


class TcpLink:
    """A listening socket on loopback with one client at a time; a new client takes the place of the old one.

    ``whole``: input is handed over as it is read, a character a byte, and not line by line.
    """

    def __init__(self, port: int = 0, *, whole: bool = False) -> None:
        self._port = port
        self._whole = whole
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._changed: Callable[[], None] | None = None

    async def open(self, on_line: OnLine, changed: Callable[[], None]) -> Mapping[str, Any]:
        """Listen; `url` is what pyserial opens."""

        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.drop()
            self._writer = writer
            splitter = _Splitter(on_line)
            try:
                while data := await reader.read(4096):
                    if self._whole:
                        on_line(data.decode("latin-1"))
                    else:
                        splitter.feed(data)
            except ConnectionError:
                writer.close()
            if self._writer is writer:
                self.drop()

        self._changed = changed
        self._server = await asyncio.start_server(client, LOOPBACK, self._port)
        port = self._server.sockets[0].getsockname()[1]
        return {"host": LOOPBACK, "port": port, "url": f"socket://{LOOPBACK}:{port}"}

    def send(self, line: bytes) -> bool:
        """Send unless there is no client or it has not taken 64 KiB yet."""
        if self._writer is None or self._writer.transport.get_write_buffer_size() > MAX_UNSENT:
            return False
        self._writer.write(line)
        return True

    def drop(self) -> None:
        """Close the connection to the present client."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._changed is not None:
            self._changed()

    async def close(self) -> None:
        """Stop listening and close the connection."""
        self.drop()
        if self._server is not None:
            self._server.close()
