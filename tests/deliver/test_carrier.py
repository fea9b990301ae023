"""Connections that carry bytes: an answer before the end, a side that hangs up, who does not want it any more."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from edge_agent.deliver.carrier import BLOCK, FAULTS, Carriers, Part
from edge_agent.deliver.outgoing import OutgoingFile
from edge_agent.deliver.pace import UNLIMITED, Pace
from edge_agent.errors import TargetUnreachable
from edge_agent.wire.tls import client_context
from landing import authority
from landing.home import Home, Settings
from landing.https import server_context

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Bytes:
    """A file in memory; ``reading`` is called before each block."""

    def __init__(self, data: bytes, reading: Callable[[], None] = lambda: None) -> None:
        self.data, self.reading, self.busy = data, reading, False

    def read(self, offset: int, size: int) -> bytes:
        self.busy = True
        self.reading()
        self.busy = False
        return self.data[offset : offset + size]


def part(file: Bytes, pace: Pace = UNLIMITED) -> Part:
    return Part(cast(OutgoingFile, file), 0, len(file.data), pace)


class Server:
    """Answers PATCHes with ``answer``; counts connections."""

    def __init__(self, folder: Path) -> None:
        self.answer: Handler = self.take
        self.got = bytearray()
        self.transports: list[Any] = []
        self.closes = False
        home, settings = Home(folder), Settings(name="Test")
        home.create(settings)
        authority.create(home, settings)
        self.root = home.root.read_text()
        self.context = server_context(str(home.keys / "tls.pem"), str(home.keys / "tls.key"), str(home.root))
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.transport not in self.transports:
            self.transports.append(request.transport)
        answer = web.Response(status=204) if request.method == "OPTIONS" else await self.answer(request)
        if self.closes:
            answer.force_close()
        return answer

    async def take(self, request: web.Request) -> web.Response:
        with contextlib.suppress(ConnectionError):
            self.got += await request.read()
        return web.Response(status=204, headers={"Upload-Offset": str(len(self.got))})


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(tmp_path / "home")
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{any:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=made.context).start()
    made.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def carriers(server: Server) -> AsyncIterator[Carriers]:
    made = Carriers(client_context(server.root), server.url, 20)
    yield made
    made.close()


async def test_bytes_arrive_and_the_connection_carries_the_next_ones_too(server: Server, carriers: Carriers) -> None:
    data = os.urandom(3 * BLOCK + 7)
    carriers.prepare()
    for n in (1, 2):
        reply = await carriers.patch("/files/a", {}, part(Bytes(data)))
        assert (reply.status, reply.number("upload-offset"), reply.number("other")) == (204, n * len(data), -1)
    assert server.got == data * 2
    assert len(server.transports) == 1


async def test_an_answer_before_the_end_is_heard_and_the_rest_is_not_sent(server: Server, carriers: Carriers) -> None:
    answered = threading.Event()

    async def refuse(request: web.Request) -> web.Response:
        await request.content.readany()
        answered.set()
        return web.Response(status=507, text="full")

    server.answer = refuse
    asked = 0

    def reading() -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            answered.wait()

    reply = await carriers.patch("/files/a", {}, part(Bytes(bytes(1000 * BLOCK), reading)))
    assert (reply.status, reply.body) == (507, b"full")
    assert asked < 900
    server.answer = server.take
    assert (await carriers.patch("/files/a", {}, part(Bytes(b"x")))).status == 204
    assert len(server.transports) == 2  # the other side still waits for the rest on the first


async def test_a_server_that_closes_after_each_answer_gets_the_bytes_too(server: Server, carriers: Carriers) -> None:
    server.closes = True
    for n in (1, 2):
        assert (await carriers.patch("/files/a", {}, part(Bytes(b"xy")))).number("Upload-Offset") == 2 * n
    assert server.got == b"xyxy"


async def test_a_connection_that_was_closed_meanwhile_is_not_used(server: Server, carriers: Carriers) -> None:
    await carriers.patch("/files/a", {}, part(Bytes(b"x")))
    [transport] = server.transports
    transport.close()
    while server.got != b"xy":
        # Until its end has come here, the old connection may be tried, and breaks.
        try:
            await carriers.patch("/files/a", {}, part(Bytes(b"y")))
        except FAULTS:
            continue
    assert len(server.transports) == 2


async def test_what_is_wrong_with_the_file_is_said_and_no_broken_connection(carriers: Carriers) -> None:
    def reading() -> None:
        raise TargetUnreachable("the disk", why="is away", try_="look")

    with pytest.raises(TargetUnreachable, match="the disk"):
        await carriers.patch("/files/a", {}, part(Bytes(b"x", reading)))


async def test_who_is_cancelled_comes_back_only_when_nobody_reads_the_file_any_more(carriers: Carriers) -> None:
    asked, go = threading.Event(), threading.Event()

    def reading() -> None:
        asked.set()
        go.wait()

    file = Bytes(bytes(10), reading)
    sending = asyncio.create_task(carriers.patch("/files/a", {}, part(file)))
    await asyncio.to_thread(asked.wait)
    sending.cancel()
    await asyncio.sleep(0)
    assert not sending.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert not file.busy


async def test_who_is_cancelled_while_the_other_side_takes_nothing_does_not_wait_for_it(server: Server, carriers: Carriers) -> None:
    begun, never = asyncio.Event(), asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        begun.set()
        await never.wait()
        return web.Response()

    server.answer = hang
    sending = asyncio.create_task(carriers.patch("/files/a", {}, part(Bytes(bytes(200 * BLOCK)))))
    await begun.wait()
    sending.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await sending
    never.set()


async def test_who_is_cancelled_while_a_rate_holds_the_bytes_back_does_not_wait_for_their_turn(server: Server, carriers: Carriers) -> None:
    begun = asyncio.Event()

    async def take(request: web.Request) -> web.Response:
        begun.set()
        return await server.take(request)

    server.answer = take
    pace = Pace(BLOCK / 1000)
    sending = asyncio.create_task(carriers.patch("/files/a", {}, part(Bytes(bytes(4 * BLOCK)), pace)))
    await begun.wait()
    sending.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await sending


async def test_who_is_cancelled_while_it_connects_does_not_wait_for_that(server: Server) -> None:
    connected, never = asyncio.Event(), asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await never.wait()
        writer.close()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    carriers = Carriers(client_context(server.root), url, 20)
    file = Bytes(b"x", lambda: pytest.fail("it was read"))
    sending = asyncio.create_task(carriers.patch("/files/a", {}, part(file)))
    await connected.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    never.set()
    carriers.close()
    listener.close()
    await listener.wait_closed()


async def test_a_server_that_nobody_knows_gets_nothing(server: Server, tmp_path: Path) -> None:
    other = Server(tmp_path / "other")
    carriers = Carriers(client_context(other.root), server.url, 20)
    with pytest.raises(ssl.SSLCertVerificationError):
        await carriers.patch("/files/a", {}, part(Bytes(b"x", lambda: pytest.fail("it was read"))))
    carriers.close()
    assert server.transports == []
