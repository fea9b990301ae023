"""The rehearsal service answers what the real WaterButler was seen to answer."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

BASE = "/v1/resources/abc12/providers/osfstorage/"
OTHER = {"Authorization": "Bearer wrong"}


async def put(client: aiohttp.ClientSession, url: str, data: bytes = b"", **more: Any) -> tuple[int, Any]:
    async with client.put(url, data=data, headers={"Content-Length": str(len(data))}, **more) as response:
        return response.status, await response.json()


async def test_a_file_is_made_with_the_digests_of_what_came(rdm: Any, client: aiohttp.ClientSession) -> None:
    status, body = await put(client, f"{rdm.address}{BASE}?kind=file&name=a.h5", b"hello")
    said = body["data"]["attributes"]
    assert status == 201
    assert (said["name"], said["kind"], said["size"], said["sizeInt"], said["materialized"]) == ("a.h5", "file", 5, 5, "/a.h5")
    assert said["extra"]["hashes"]["sha256"] == hashlib.sha256(b"hello").hexdigest()
    assert said["extra"]["version"] == 1
    assert body["data"]["links"]["upload"].endswith("?kind=file")
    async with client.get(f"{rdm.address}/v1/resources/abc12/providers/osfstorage{said['path']}", headers={"Range": "bytes=1-2"}) as part:
        assert (part.status, await part.read()) == (206, b"el")


async def test_the_same_name_again_is_409_also_in_another_normal_form(rdm: Any, client: aiohttp.ClientSession) -> None:
    for kind in ("file", "folder"):
        name = f"ガ{kind}"
        assert (await put(client, f"{rdm.address}{BASE}?kind={kind}&name={name}"))[0] == 201
        status, body = await put(client, f"{rdm.address}{BASE}?kind={kind}&name=カ\N{COMBINING KATAKANA-HIRAGANA VOICED SOUND MARK}{kind}")
        assert (status, body["code"]) == (409, 409)


async def test_a_new_version_counts_up_and_equal_content_makes_none(rdm: Any, client: aiohttp.ClientSession) -> None:
    _, body = await put(client, f"{rdm.address}{BASE}?kind=file&name=a", b"one")
    place = f"{rdm.address}/v1/resources/abc12/providers/osfstorage{body['data']['attributes']['path']}"
    for content, version in ((b"one", 1), (b"two", 2), (b"two", 2)):
        status, body = await put(client, f"{place}?kind=file", content)
        assert (status, body["data"]["attributes"]["extra"]["version"]) == (200, version)
    async with client.get(f"{place}?versions=") as response:
        assert [entry["attributes"]["version"] for entry in (await response.json())["data"]] == ["2", "1"]
    async with client.get(f"{place}?version=1") as response:
        assert await response.read() == b"one"


async def raw(address: str, request: str, body: bytes = b"") -> int:
    """Status of a request that no client library would send."""
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    token = "Authorization: Bearer a-personal-access-token\r\n"
    writer.write(f"{request}\r\nHost: {host}\r\n{token}".encode() + body)
    status = int((await reader.readline()).split()[1])
    writer.close()
    return status


async def test_what_is_refused_and_how(new_rdm: Callable[..., Any], client: aiohttp.ClientSession) -> None:
    rdm = await new_rdm(max_body=1000, quota=1500)
    chunked = b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert await raw(rdm.address, f"PUT {BASE}?kind=file&name=c HTTP/1.1", chunked) == 411
    assert await raw(rdm.address, f"PUT {BASE}?kind=folder&name=c HTTP/1.1", b"\r\n") == 500
    assert (await put(client, f"{rdm.address}{BASE}?kind=file&name=a", b"x" * 1001))[0] == 413
    assert (await put(client, f"{rdm.address}{BASE}?kind=file&name=a", b"x" * 1000))[0] == 201
    assert (await put(client, f"{rdm.address}{BASE}?kind=file&name=b", b"x" * 1000))[0] == 406
    assert (await put(client, f"{rdm.address}{BASE}0123/?kind=file&name=b"))[0] == 404
    assert (await put(client, f"{rdm.address}{BASE}?kind=file"))[0] == 400
    assert (await put(client, f"{rdm.address}{BASE.replace('abc12', 'zzzzz')}?kind=file&name=b"))[0] == 404
    assert rdm.names() == ["/a"]


async def test_a_body_is_refused_before_it_is_sent(new_rdm: Callable[..., Any]) -> None:
    rdm = await new_rdm(quota=10)
    wants = b"Content-Length: 200000000\r\nExpect: 100-continue\r\n\r\n"
    assert await raw(rdm.address, f"PUT {BASE}?kind=file&name=a HTTP/1.1", wants) == 406


async def test_a_stranger_is_told_nothing(rdm: Any) -> None:
    async with aiohttp.ClientSession() as stranger:
        for url, status in ((BASE, 401), ("/v2/users/me/", 401), ("/v2/nodes/abc12/files/", 401), ("/v2/nodes/", 200)):
            async with stranger.get(f"{rdm.address}{url}", headers=OTHER) as response:
                assert response.status == status
                if status == 200:
                    assert (await response.json())["data"] == [], "an empty list, and no 401"


async def test_a_cut_upload_leaves_no_entry(rdm: Any) -> None:
    host, port = rdm.address.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"PUT {BASE}?kind=file&name=a HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer a-personal-access-token\r\nContent-Length: 5000\r\n\r\n"
    writer.write(head.encode() + b"x" * 2000)
    await writer.drain()
    while not list(rdm.service.tree.blobs.iterdir()):
        await asyncio.sleep(0.01)
    writer.transport.abort()
    await rdm.runner.cleanup()
    assert rdm.names() == []


async def test_it_goes_on_after_a_restart(new_rdm: Callable[..., Any], client: aiohttp.ClientSession) -> None:
    first = await new_rdm()
    await put(client, f"{first.address}{BASE}?kind=folder&name=f")
    await first.runner.cleanup()
    second = await new_rdm()
    assert second.names() == ["/f/"]


@pytest.mark.timeout(60)
def test_the_command_says_where_it_is(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "landing", "fake-rdm", str(tmp_path / "rdm"), "--token", "t", "--node", "abc12"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            assert said["nodes"] == ["abc12"]
            assert said["api"] == f"{said['files']}/v2"
        finally:
            process.kill()
