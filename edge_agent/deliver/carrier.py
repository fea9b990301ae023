"""Connections that carry the bytes of items, one request at a time, each with a thread that reads, hashes, encrypts and sends.

asyncio's TLS would copy each block several times and encrypt it in the loop, which has other things to do (decision 0028).

Invariants: once `Carriers.patch` has returned, raised or was cancelled, nobody reads the file any more; a connection on which a request
did not come to its regular end is not used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from multidict import CIMultiDict, CIMultiDictProxy

from edge_agent.deliver.outgoing import OutgoingFile
from edge_agent.deliver.pace import Pace
from edge_agent.wire.talk import MAX_CONTROL
from edge_agent.wire.tls import CONNECT_TIMEOUT

BLOCK = 256 << 10
"""Bytes that are read, hashed and sent out of the processor's cache."""
FAULTS = (HTTPException, OSError)
"""What `Carriers.patch` raises when a connection cannot be made or breaks."""


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes ``start`` to ``end`` of an item, at a ``pace``."""

    file: OutgoingFile
    start: int
    end: int
    pace: Pace


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, its body whole."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    def number(self, name: str) -> int:
        """A header that is a number, -1 when it is none."""
        text = self.headers.get(name, "")
        return int(text) if text.isascii() and text.isdigit() else -1


class Carriers:
    """The connections to one server: as many as there are requests at a time, and kept for the next ones. Belongs to an event loop."""

    def __init__(self, context: ssl.SSLContext, url: str, timeout: float) -> None:
        """Prepare; nothing is connected yet. ``timeout`` is s that an answer, or sending a block, may take."""
        self._context = context
        self._url = url
        self._timeout = timeout
        self._idle: list[_Carrier] = []
        self._closed = False

    def prepare(self) -> None:
        """Begin to connect, for a request that comes soon."""
        if not self._idle:
            self._idle.append(_Carrier(self._context, self._url, self._timeout))
            self._idle[-1].prepare()

    async def patch(self, path: str, headers: Mapping[str, str], part: Part) -> Reply:
        """Send a part of an item; an answer that comes before its end ends it.

        Raises:
            EdgeAgentError: what is wrong with the file, see `OutgoingFile.read`.
            OSError, HTTPException: see `FAULTS`.
        """
        carrier = self._free()
        try:
            reply = await carrier.patch(path, {**headers, "Content-Length": str(part.end - part.start)}, part)
        except BaseException:
            carrier.close()
            raise
        if self._closed or not carrier.usable:
            carrier.close()
        else:
            self._idle.append(carrier)
        return reply

    def close(self) -> None:
        """Close what is idle; the others close when they have their answer."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _free(self) -> _Carrier:
        while self._idle:
            carrier = self._idle.pop()
            if not carrier.hung_up():
                return carrier
            carrier.close()
        return _Carrier(self._context, self._url, self._timeout)


class _Carrier:
    """One connection, which the first request opens; ``usable``: the last one came to its regular end."""

    def __init__(self, context: ssl.SSLContext, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        self._connection = HTTPSConnection(parts.hostname or "", parts.port, timeout=min(timeout, CONNECT_TIMEOUT), context=context)
        self._timeout = timeout
        # Sendings last long: they must not take the threads that everybody shares.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="carrier")
        self._heard = selectors.DefaultSelector()
        self._cut = threading.Event()
        self._opened = False
        self.usable = False

    def prepare(self) -> None:
        self._thread.submit(self._prepare)

    async def patch(self, path: str, headers: Mapping[str, str], part: Part) -> Reply:
        sending = asyncio.get_running_loop().run_in_executor(self._thread, self._patch, path, headers, part)
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            self._break_off()
            # A thread that still connects cannot be told before it has; it reads nothing any more.
            if self._opened:
                await asyncio.wait([sending])
            sending.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            raise

    def hung_up(self) -> bool:
        """Whether the other side says something before it was asked, or before we have finished; most likely that it goes."""
        # Windows cannot look at no socket at all.
        return bool(self._heard.get_map() and self._heard.select(0))

    def close(self) -> None:
        self._break_off()
        self._thread.submit(self._close)
        self._thread.shutdown(wait=False)

    def _break_off(self) -> None:
        self._cut.set()
        connected = self._connection.sock
        if connected is not None:
            # Not SSLSocket's own: after that the thread would send what it has in the clear.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connected, socket.SHUT_RDWR)

    # ---- in the thread

    def _prepare(self) -> None:
        with contextlib.suppress(*FAULTS):  # whoever needs it meets the same fault
            self._open()

    def _open(self) -> None:
        try:
            self._connect()
            # What TLS sends after its handshake comes before this answer: whatever is heard later is an answer, or the end.
            self._connection.request("OPTIONS", "/files/")
            self._answer()
            if self._connection.sock is None:
                # It closes after each answer; then one that comes early is heard late.
                self._connect()
            else:
                self._heard.register(self._connection.sock, selectors.EVENT_READ)
        except FAULTS:
            self._connection.close()
            raise
        self._opened = True

    def _connect(self) -> None:
        self._connection.connect()
        self._connection.sock.settimeout(self._timeout)

    def _patch(self, path: str, headers: Mapping[str, str], part: Part) -> Reply:
        if not self._opened:
            self._open()
        if self._cut.is_set():
            raise ConnectionAbortedError("nobody wants it any more")
        self.usable = False
        self._connection.request("PATCH", path, self._blocks(part), headers)
        return self._answer()

    def _blocks(self, part: Part) -> Iterator[bytes]:
        at = part.start
        while at < part.end:
            if self.hung_up():
                return
            data = part.file.read(at, min(BLOCK, part.end - at))
            if wait := part.pace.delay(len(data)):
                self._cut.wait(wait)
            at += len(data)
            yield data
        self.usable = True

    def _answer(self) -> Reply:
        with self._connection.getresponse() as response:
            body = response.read(MAX_CONTROL + 1)
            if len(body) > MAX_CONTROL:
                raise HTTPException(f"an answer of more than {MAX_CONTROL} bytes")
            self.usable &= not response.will_close
            return Reply(response.status, CIMultiDictProxy(CIMultiDict(response.getheaders())), body)

    def _close(self) -> None:
        self._heard.close()
        self._connection.close()
