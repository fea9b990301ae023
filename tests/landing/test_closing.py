"""A landing service that closes while somebody is at its door: nobody meets a closed catalogue."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from typing import Any
from urllib.parse import urlsplit

import pytest

from edge_agent.enrolment import enrol
from edge_agent.errors import TargetUnreachable
from edge_agent.wire.refusal import Code, Refused
from edge_agent.wire.tls import client_context


class Handshake:
    """A TLS client that takes one step after the other."""

    def __init__(self, context: ssl.SSLContext, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")

    async def hear(self) -> None:
        data = await self._reader.read(1 << 16)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def say(self) -> None:
        self._writer.write(self._outgoing.read())
        await self._writer.drain()

    async def begin(self) -> None:
        """Up to the server's answer: it has accepted the connection and waits for us."""
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.do_handshake()
        await self.say()
        await self.hear()

    async def finish(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.say()
                await self.hear()
            else:
                return await self.say()

    async def ask(self, request: bytes) -> bytes:
        """Send a request; everything until the server closes the connection."""
        self._tls.write(request)
        await self.say()
        answer = b""
        while True:
            try:
                data = self._tls.read()
            except ssl.SSLWantReadError:
                await self.hear()
                continue
            except ssl.SSLEOFError:
                data = b""
            if not data:
                self._writer.close()
                return answer
            answer += data


@pytest.mark.parametrize("request_line", ["OPTIONS /files/", "GET /runs", "HEAD /files/item-1", "POST /enroll", "GET /health", "GET /nowhere"])
async def test_a_connection_that_was_being_made_while_the_service_closed_is_told_so(site: Any, enrolled: Any, request_line: str) -> None:
    service = await site.open()
    agent = await enrolled()
    at = urlsplit(site.url)
    streams = await asyncio.open_connection(at.hostname, at.port)
    connection = Handshake(client_context(agent.enrolment.root.read_text(), agent.enrolment.tls), *streams)
    await connection.begin()
    await site.runner.cleanup()
    await service.close()
    await connection.finish()
    answer = await connection.ask(f"{request_line} HTTP/1.1\r\nHost: landing\r\nTus-Resumable: 1.0.0\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503"), answer
    assert b"connection: close" in head.lower()
    if not request_line.startswith("HEAD"):
        said = json.loads(body)
        assert (said["code"], said["what"]) == ("TROUBLE", "The landing service is stopping")
        assert said["why"]
        assert said["try"]


async def test_a_request_that_was_cut_finds_the_catalogue_closed_and_may_be_repeated(
    site: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await site.open()
    token = site.token()
    working, go_on, ended = asyncio.Event(), threading.Event(), asyncio.Event()
    loop, raised = asyncio.get_running_loop(), []
    in_time, issue = service.registrar.enrol, service.registrar._certificates

    def slowly(*about: Any) -> Any:
        loop.call_soon_threadsafe(working.set)
        assert go_on.wait(60)
        return issue(*about)

    def enrolling(data: bytes) -> Any:
        try:
            return in_time(data)
        except Refused as refused:
            raised.append(refused.refusal.code)
            raise
        finally:
            loop.call_soon_threadsafe(ended.set)

    monkeypatch.setattr(service.registrar, "_certificates", slowly)
    monkeypatch.setattr(service.registrar, "enrol", enrolling)
    asking = asyncio.create_task(enrol(tmp_path / "agent", token, "agent"))
    await working.wait()
    await site.runner.cleanup()
    await service.close()
    with pytest.raises(TargetUnreachable):
        await asking
    go_on.set()
    await ended.wait()
    assert raised == [Code.TROUBLE]
    await site.open()
    token = type(token)(token.secret, token.root, site.url)
    assert (await enrol(tmp_path / "agent", token, "agent"))[1].projects == ("demo-project",)


async def test_what_is_being_checked_is_stored_before_the_catalogue_closes_and_nothing_more_is_begun(
    site: Any, enrolled: Any, make_item: Any, good_verdict: Any, monkeypatch: pytest.MonkeyPatch, progress: list[int]
) -> None:
    from edge_agent.model import ItemKind

    service = await site.open()
    agent = await enrolled()
    asked, go_on = asyncio.Event(), asyncio.Event()
    first, second = (make_item(item_id=name, kind=ItemKind.SEGMENT) for name in ("a", "b"))
    site.judge.verdict = good_verdict(first, agent.agent_id)
    judge = site.judge.judge

    async def slowly(path: Any) -> Any:
        asked.set()
        await go_on.wait()
        return await judge(path)

    monkeypatch.setattr(site.judge, "judge", slowly)
    sending = asyncio.create_task(agent.https().send(first, progress.append))
    await asked.wait()
    closing = asyncio.create_task(service.close())
    await asyncio.sleep(0)
    with pytest.raises(TargetUnreachable, match="is stopping"):
        await agent.https().send(second, progress.append)
    assert not closing.done()
    go_on.set()
    assert (await sending).size == first.size
    await closing
    with pytest.raises(Refused, match="is stopping"):
        service.catalogue.agent(agent.agent_id)
