"""The HTTPS door spoken to by hand: tus 1.0, and clients that do not keep to it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from edge_agent.wire.item import ItemHeader, header_of
from edge_agent.wire.tls import client_context, client_session

TUS = {"Tus-Resumable": "1.0.0"}
BYTES = {**TUS, "Content-Type": "application/offset+octet-stream"}


@pytest.fixture
async def visit(site: Any, enrolled: Any) -> AsyncIterator[Any]:
    """A client session with an agent's certificate, and the agent."""
    await site.open()
    agent = await enrolled()
    context = client_context(agent.enrolment.root.read_text(), agent.enrolment.tls)
    async with client_session(context, site.url) as session:
        yield session, agent


def announced(header: ItemHeader, **more: str) -> dict[str, str]:
    item = base64.b64encode(header.encode()).decode()
    return {**TUS, "Upload-Length": str(header.size), "Upload-Metadata": f"item {item}", **more}


def digest(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(data).decode()}:"


ROUTES = """
POST /renew, OPTIONS /files/, POST /files/, HEAD /files/a, PATCH /files/a, GET /files/a/receipt, POST /witness, GET /witness/00,
GET /runs, GET /runs/demo-project, GET /nonsense
"""


@pytest.mark.parametrize(("method", "path"), [route.split() for route in ROUTES.split(",")])
async def test_without_a_client_certificate_only_health_and_enrolment_answer(site: Any, method: str, path: str) -> None:
    await site.open()
    async with client_session(client_context(site.home.root.read_text()), site.url) as session:
        async with session.request(method, path) as reply:
            assert reply.status == 401
            if method != "HEAD":
                said = await reply.json()
                assert (said["code"], bool(said["why"]), bool(said["try"])) == ("NO_CERTIFICATE", True, True)
        async with session.get("/health") as reply:
            assert reply.status == 200


async def test_a_tus_upload_by_hand(visit: Any, make_item: Any, site: Any, sha256: Any) -> None:
    session, agent = visit
    item = make_item(b"hello world")
    header = header_of(item, agent.agent_id)
    async with session.options("/files/") as reply:
        assert (reply.status, reply.headers["Tus-Version"], reply.headers["Tus-Extension"]) == (204, "1.0.0", "creation")
    async with session.head("/files/item-1", headers=TUS) as reply:
        assert reply.status == 404
    for _ in range(2):
        async with session.post("/files/", headers=announced(header)) as reply:
            assert (reply.status, reply.headers["Location"], reply.headers["Upload-Offset"]) == (201, "/files/item-1", "0")
    async with session.patch("/files/item-1", headers={**BYTES, "Upload-Offset": "0"}, data=b"hello ") as reply:
        assert (reply.status, reply.headers["Upload-Offset"]) == (204, "6")
    async with session.patch("/files/item-1", headers={**BYTES, "Upload-Offset": "0"}, data=b"hello ") as reply:
        assert (reply.status, reply.headers["Upload-Offset"]) == (409, "6")
        assert (await reply.json())["code"] == "OFFSET"
    async with session.get("/files/item-1/receipt") as reply:
        assert (reply.status, (await reply.json())["have"]) == (409, 6)
    async with session.head("/files/item-1", headers=TUS) as reply:
        assert (reply.headers["Upload-Offset"], reply.headers["Upload-Length"]) == ("6", "11")
    async with session.patch("/files/item-1", headers={**BYTES, "Upload-Offset": "6"}, data=b"world") as reply:
        assert reply.status == 204
    async with session.get("/files/item-1/receipt") as reply:
        assert (reply.status, (await reply.json())["code"]) == (409, "NO_DIGEST")
    last = {**BYTES, "Upload-Offset": "11", "Repr-Digest": digest(sha256(b"hello world"))}
    async with session.patch("/files/item-1", headers=last) as reply:
        assert reply.status == 204
    async with session.get("/files/item-1/receipt") as reply:
        assert (reply.status, reply.content_type) == (200, "application/cose")
    async with session.head("/files/item-1", headers=TUS) as reply:
        assert reply.headers["Upload-Offset"] == "11"
    assert (site.home.space / item.remote).read_bytes() == b"hello world"
    async with session.get("/runs") as reply:
        assert [run["path"] for run in await reply.json()] == ["demo-project/beamline/2026-11-24/000001"]
    async with session.get("/runs/demo-project/beamline/2026-11-24/000001") as reply:
        assert [(file["path"], file["size"]) for file in await reply.json()] == [(item.remote, 11)]


async def test_bytes_that_do_not_match_the_digest_are_refused_and_may_be_sent_again(
    visit: Any, make_item: Any, site: Any, sha256: Any
) -> None:
    session, agent = visit
    item = make_item(b"hello")
    header = header_of(item, agent.agent_id)
    with_digest = announced(header, **{"Repr-Digest": digest(sha256(b"hello"))})
    async with session.post("/files/", headers=with_digest) as reply:
        assert reply.status == 201
    async with session.patch("/files/item-1", headers={**BYTES, "Upload-Offset": "0"}, data=b"hellO") as reply:
        assert reply.status == 204
    async with session.get("/files/item-1/receipt") as reply:
        said = await reply.json()
        assert (reply.status, said["code"]) == (422, "DIGEST")
        assert sha256(b"hellO").hex() in said["why"]
    async with session.get("/files/item-1/receipt") as reply:
        assert (reply.status, await reply.json()) == (422, said)
    async with session.head("/files/item-1", headers=TUS) as reply:
        assert reply.status == 410
    assert [path.read_bytes() for path in site.home.refused.rglob("item-1.*") if path.suffix != ".json"] == [b"hellO"]
    async with session.post("/files/", headers=with_digest) as reply:
        assert (reply.status, reply.headers["Upload-Offset"]) == (201, "0")


async def test_more_bytes_than_announced_are_refused(visit: Any, make_item: Any, site: Any) -> None:
    session, agent = visit
    async with session.post("/files/", headers=announced(header_of(make_item(b"four"), agent.agent_id))) as reply:
        assert reply.status == 201
    async with session.patch("/files/item-1", headers={**BYTES, "Upload-Offset": "0"}, data=b"fourteen") as reply:
        assert (reply.status, (await reply.json())["code"]) == (413, "TOO_LARGE")
    [part] = site.home.incoming.rglob("*.part")
    assert part.stat().st_size == 0


async def test_a_connection_that_breaks_in_a_piece_keeps_what_came(visit: Any, make_item: Any, site: Any) -> None:
    session, agent = visit
    data = bytes(range(256)) * 8000
    item = make_item(data)
    async with session.post("/files/", headers=announced(header_of(item, agent.agent_id))) as reply:
        assert reply.status == 201

    context = client_context(agent.enrolment.root.read_text(), agent.enrolment.tls)
    _, writer = await asyncio.open_connection("127.0.0.1", int(site.url.rsplit(":")[-1]), ssl=context)
    headers = {**BYTES, "Host": "x", "Upload-Offset": "0", "Content-Length": str(len(data))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"PATCH /files/item-1 HTTP/1.1\r\n{lines}\r\n".encode() + data[:1_500_000])
    [part] = site.home.incoming.rglob("*.part")
    async with asyncio.timeout(20):
        while part.stat().st_size == 0:
            await asyncio.sleep(0.01)
    writer.transport.abort()
    async with session.head("/files/item-1", headers=TUS) as reply:
        offset = int(reply.headers["Upload-Offset"])
    assert 0 < offset < len(data)
    assert part.read_bytes() == data[:offset]
    async with session.patch("/files/item-1", headers={**BYTES, "Upload-Offset": str(offset)}, data=data[offset:]) as reply:
        assert (reply.status, reply.headers["Upload-Offset"]) == (204, str(len(data)))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"path": "demo-project/b/2026-11-24/000001/../../../../etc/passwd"}, "BAD_NAME"),
        ({"path": "/demo-project/b/2026-11-24/000001/a"}, "BAD_NAME"),
        ({"path": "other/b/2026-11-24/000001/a"}, "BAD_NAME"),
        ({"path": "demo-project/b/2026-11-24/000001/a\0"}, "BAD_NAME"),
        ({"path": "demo-project/b/2026-11-24/000001/NUL.h5"}, "BAD_NAME"),
        ({"item_id": "../escape"}, "BAD_NAME"),
        ({"item_id": ""}, "BAD_NAME"),
        ({"item_id": "x" * 65}, "BAD_NAME"),
        ({"project": "..", "path": "../b/2026-11-24/000001/a"}, "BAD_NAME"),
        ({"project": "other", "path": "other/b/2026-11-24/000001/a"}, "PROJECT"),
        ({"agent_id": b"?" * 16}, "WRONG_AGENT"),
        ({"agent_id": b"?"}, "BAD_REQUEST"),
        ({"sha256": b"?"}, "BAD_REQUEST"),
        ({"size": -1}, "BAD_REQUEST"),
        ({"size": 2**63}, "BAD_REQUEST"),
        ({"segment_id": b"S" * 16}, "BAD_REQUEST"),
    ],
)
async def test_hostile_announcements_are_refused(visit: Any, make_item: Any, site: Any, change: dict[str, Any], code: str) -> None:
    session, agent = visit
    header = replace(header_of(make_item(), agent.agent_id), **change)
    async with session.post("/files/", headers=announced(header)) as reply:
        said = await reply.json()
    assert 400 <= reply.status < 500
    assert said["code"] == code
    assert said["what"]
    assert said["why"]
    assert not list(site.home.incoming.iterdir())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Upload-Metadata": "item", "Upload-Length": "4"},
        {"Upload-Metadata": "item !!!", "Upload-Length": "4"},
        {"Upload-Metadata": "item " + base64.b64encode(b"\xff\xff").decode(), "Upload-Length": "4"},
        {"Upload-Metadata": "item " + base64.b64encode(b"\xa0").decode(), "Upload-Length": "4"},
        {"Upload-Metadata": "filename aGVsbG8=", "Upload-Length": "4"},
    ],
)
async def test_what_is_no_announcement_is_refused(visit: Any, headers: dict[str, str]) -> None:
    session, _ = visit
    async with session.post("/files/", headers={**TUS, **headers}) as reply:
        assert (reply.status, (await reply.json())["code"]) == (400, "BAD_REQUEST")


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"},
        {**TUS, "Content-Type": "text/plain", "Upload-Offset": "0"},
        {**BYTES},
        {**BYTES, "Upload-Offset": "-1"},
        {**BYTES, "Upload-Offset": "٣"},
        {**BYTES, "Upload-Offset": "0", "Repr-Digest": "md5=:AAAA:"},
    ],
)
async def test_patches_that_are_none_are_refused(visit: Any, make_item: Any, headers: dict[str, str]) -> None:
    session, agent = visit
    async with session.post("/files/", headers=announced(header_of(make_item(b"four"), agent.agent_id))) as reply:
        assert reply.status == 201
    async with session.patch("/files/item-1", headers=headers, data=b"four") as reply:
        assert (reply.status, (await reply.json())["code"]) == (400, "BAD_REQUEST")
    async with session.head("/files/item-1", headers=TUS) as reply:
        assert reply.headers["Upload-Offset"] == "0"


async def test_one_agent_does_not_see_the_uploads_of_another(visit: Any, make_item: Any, site: Any, enrolled: Any) -> None:
    session, agent = visit
    async with session.post("/files/", headers=announced(header_of(make_item(b"four"), agent.agent_id))) as reply:
        assert reply.status == 201
    other = await enrolled("other")
    async with client_session(client_context(other.enrolment.root.read_text(), other.enrolment.tls), site.url) as stranger:
        async with stranger.head("/files/item-1", headers=TUS) as reply:
            assert reply.status == 404
        async with stranger.patch("/files/item-1", headers={**BYTES, "Upload-Offset": "0"}, data=b"evil") as reply:
            assert reply.status == 404
        async with stranger.get("/files/item-1/receipt") as reply:
            assert reply.status == 404
        async with stranger.get("/runs/demo-project/../../keys") as reply:
            assert reply.status == 404


async def test_two_writers_of_one_upload_do_not_mix(visit: Any, make_item: Any, site: Any) -> None:
    session, agent = visit
    data = bytes(range(256)) * 4096
    async with session.post("/files/", headers=announced(header_of(make_item(data), agent.agent_id))) as reply:
        assert reply.status == 201

    async def write() -> int:
        async with session.patch("/files/item-1", headers={**BYTES, "Upload-Offset": "0"}, data=data) as reply:
            return int(reply.status)

    assert sorted(await asyncio.gather(write(), write())) == [204, 409]
    [part] = site.home.incoming.rglob("*.part")
    assert part.read_bytes() == data


async def test_an_oversize_control_message_is_refused(visit: Any) -> None:
    session, _ = visit
    async with session.post("/witness", data=b"x" * (1 << 20)) as reply:
        assert reply.status == 413
    async with session.post("/witness", data=b"garbage") as reply:
        assert (reply.status, json.loads(await reply.text())["code"]) == (400, "BAD_REQUEST")
    async with session.get("/witness/zz") as reply:
        assert reply.status == 400


async def test_a_disk_that_is_full_in_the_middle_is_said_clearly_and_the_upload_goes_on_later(
    visit: Any, make_item: Any, site: Any
) -> None:
    session, agent = visit
    async with session.post("/files/", headers=announced(header_of(make_item(b"hello world"), agent.agent_id))) as reply:
        assert reply.status == 201
    [part] = site.home.incoming.rglob("*.part")
    async with session.patch("/files/item-1", headers={**BYTES, "Upload-Offset": "0"}, data=b"hello") as reply:
        assert reply.status == 204
    part.rename(part.with_suffix(".saved"))
    part.symlink_to("/dev/full")
    async with session.patch("/files/item-1", headers={**BYTES, "Upload-Offset": "5"}, data=b" world") as reply:
        said = await reply.json()
        assert (reply.status, said["code"]) == (507, "FULL")
        assert said["what"] == "The landing service's disk is full"
    part.unlink()
    part.with_suffix(".saved").rename(part)
    async with session.head("/files/item-1", headers=TUS) as reply:
        assert reply.headers["Upload-Offset"] == "5"
    async with session.patch("/files/item-1", headers={**BYTES, "Upload-Offset": "5"}, data=b" world") as reply:
        assert reply.status == 204
