"""Uploads that were begun and never finished: how many an agent may have, and when they go."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import TargetUnreachable
from edge_agent.model import ItemKind, utc_now_ns
from edge_agent.wire.item import header_of
from edge_agent.wire.refusal import Refused
from landing.room import Limits
from landing.sweep import sweep

DAY = 86_400
AGE_NS = 30 * DAY * 10**9


def rest(site: Any, name: str, days: float) -> list[Path]:
    """Let the files of an upload be so old."""
    files = list(site.home.incoming.rglob(f"{name}.*"))
    for file in files:
        os.utime(file, (time.time() - days * DAY,) * 2)
    return files


async def begin(service: Any, agent: Any, item: Any, data: bytes) -> None:
    await service.receiver.create(agent.agent_id, header_of(item, agent.agent_id))
    await service.receiver.pieces(agent.agent_id, item.item_id, 0, [data])


async def test_what_rests_longer_than_the_age_goes_and_what_may_be_resumed_stays(
    site: Any, enrolled: Any, make_item: Any, progress: list[int]
) -> None:
    service = await site.open()
    agent, data = await enrolled(), os.urandom(3000)
    old, young = make_item(data, item_id="old"), make_item(data, item_id="young")
    for item in (old, young):
        await begin(service, agent, item, data[:2000])
    rest(site, "old", 31)
    rest(site, "young", 29)
    assert await service.receiver.abandon(utc_now_ns() - AGE_NS) == 1
    assert {file.stem for file in site.home.incoming.rglob("*.*")} == {"young"}
    with pytest.raises(Refused, match="no upload old"):
        await service.receiver.status(agent.agent_id, "old")
    target = agent.https()
    await target.send(young, progress.append)
    assert progress[0] == 2000
    progress.clear()
    await target.send(old, progress.append)
    assert progress[0] == 0
    for item in (old, young):
        assert (site.home.space / item.remote).read_bytes() == data


async def test_one_byte_makes_an_upload_young_again(site: Any, enrolled: Any, make_item: Any) -> None:
    service = await site.open()
    agent = await enrolled()
    await begin(service, agent, make_item(bytes(100)), bytes(50))
    rest(site, "item-1", 31)
    await service.receiver.pieces(agent.agent_id, "item-1", 50, [bytes(1)])
    assert await service.receiver.abandon(utc_now_ns() - AGE_NS) == 0
    assert await service.receiver.status(agent.agent_id, "item-1") == (51, 100)


async def test_an_upload_that_is_being_written_stays_however_old_its_files_look(site: Any, enrolled: Any, make_item: Any) -> None:
    service = await site.open()
    agent = await enrolled()
    await begin(service, agent, make_item(bytes(100)), bytes(50))
    held, going = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        going.set()
        await held.wait()
        yield bytes(50)

    writing = asyncio.create_task(service.receiver.append(agent.agent_id, "item-1", 50, body()))
    await going.wait()
    rest(site, "item-1", 31)
    assert await service.receiver.abandon(utc_now_ns() - AGE_NS) == 0
    held.set()
    assert await writing == 100


async def test_an_upload_that_is_being_checked_stays(
    site: Any, enrolled: Any, make_item: Any, good_verdict: Any, progress: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await site.open()
    agent = await enrolled()
    item = make_item(kind=ItemKind.SEGMENT)
    checking, go_on = asyncio.Event(), asyncio.Event()

    async def judge(_path: Path) -> Any:
        checking.set()
        await go_on.wait()
        return good_verdict(item, agent.agent_id)

    monkeypatch.setattr(site.judge, "judge", judge)
    sending = asyncio.create_task(agent.https().send(item, progress.append))
    await checking.wait()
    assert rest(site, item.item_id, 31)
    assert await service.receiver.abandon(utc_now_ns() - AGE_NS) == 0
    go_on.set()
    assert (await sending).size == item.size


async def test_what_a_crash_left_of_an_upload_goes_too(site: Any, enrolled: Any) -> None:
    service = await site.open()
    folder = site.home.incoming / (await enrolled()).agent_id.hex()
    folder.mkdir(parents=True)
    for name in ("bytes-only.part", "half-a-note.item.part"):
        (folder / name).write_bytes(b"left")
        rest(site, name.partition(".")[0], 31)
    assert await service.receiver.abandon(utc_now_ns() - AGE_NS) == 2
    assert not list(folder.iterdir())


async def test_a_running_service_looks_by_itself(site: Any, enrolled: Any, make_item: Any) -> None:
    service = await site.open()
    agent = await enrolled()
    await begin(service, agent, make_item(bytes(100)), bytes(50))
    looking = asyncio.create_task(sweep(service.receiver, 30 * DAY, every=0.01))
    files = rest(site, "item-1", 31)
    async with asyncio.timeout(20):
        while any(file.exists() for file in files):
            await asyncio.sleep(0.01)
    looking.cancel()
    await asyncio.wait([looking])


async def test_a_service_that_starts_removes_what_was_abandoned_while_it_was_down(site: Any) -> None:
    folder = site.home.incoming / ("a" * 32)
    folder.mkdir(parents=True)
    for name in ("old", "young"):
        (folder / f"{name}.part").write_bytes(b"left")
    rest(site, "old", 3)
    await site.start("--upload-age", "2")
    async with asyncio.timeout(20):
        while (folder / "old.part").exists():
            await asyncio.sleep(0.01)
    assert (folder / "young.part").exists()


@pytest.mark.parametrize("limits", [Limits(keep_free=0, uploads=2), Limits(keep_free=0, upload_bytes=250)])
async def test_an_agent_with_too_many_unfinished_uploads_begins_no_more_and_may_finish_those(
    site: Any, enrolled: Any, make_item: Any, progress: list[int], limits: Limits
) -> None:
    service = await site.open(limits)
    agent, other = await enrolled("agent"), await enrolled("other")
    items = [make_item(bytes(100), item_id=f"item-{number}") for number in range(3)]
    for item in items[:2]:
        await begin(service, agent, item, bytes(50))
    target = agent.https()
    with pytest.raises(TargetUnreachable, match="too many unfinished") as error:
        await target.send(items[2], progress.append)
    assert error.value.code == "LANDING_FULL"
    elsewhere = make_item(bytes(100), item_id="item-2", remote="demo-project/beamline/2026-11-24/000002/other.dat")
    assert (await other.https().send(elsewhere, progress.append)).size == 100  # one agent is not another's trouble
    for item in items:
        assert (await target.send(item, progress.append)).size == 100
