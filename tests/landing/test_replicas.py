"""Several landing servers over one S3 store and one PostgreSQL: any of them may die, and nothing is lost."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import ConfigError, EdgeAgentError, IntegrityError, TargetUnreachable
from edge_agent.model import Access, ItemKind, Label, Proof, utc_now_ns
from edge_agent.seal import cose
from edge_agent.seal.receipt import parse_custody
from edge_agent.wire.item import header_of
from edge_agent.wire.refusal import Refused
from edge_agent.wire.tls import client_context, client_session
from landing.home import Home, S3Place, Settings
from landing.room import Limits
from landing.serve import Service, assemble
from tests.relay import Relay
from tests.weed import KEYS, Weed, seaweedfs

pytestmark = [pytest.mark.slow(4), pytest.mark.needs("pg_ctlcluster")]
FOLDER = "demo-project/beamline/2026-11-24"
MIB = 1 << 20


@pytest.fixture(scope="session")
def weed() -> Iterator[Weed]:
    """For the whole session: tests are dealt out to the workers one by one, and it takes long to start."""
    with seaweedfs() as made:
        yield made


@pytest.fixture
def client(weed: Weed) -> Iterator[Any]:
    made = weed.client()
    yield made
    made.close()


@pytest.fixture
def place(weed: Weed, client: Any, monkeypatch: pytest.MonkeyPatch) -> S3Place:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS[1])
    bucket = f"b-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    return S3Place(endpoint=weed.endpoint, bucket=bucket, prefix="landing/")


@pytest.fixture
def site(site: Any, place: S3Place, postgres_server: Any) -> Any:
    """The same site, its bytes and its catalogue elsewhere."""
    settings = Settings(name="Test site", postgres=postgres_server.new_schema(), s3=place)
    site.home.settings.write_text(settings.model_dump_json())
    return site


def keys_in(client: Any, place: S3Place, folder: str) -> set[str]:
    """What lies in a folder, without the prefix."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix=place.prefix + folder)
    return {entry["Key"].removeprefix(place.prefix) for page in pages for entry in page.get("Contents", ())}


def content(client: Any, place: S3Place, key: str) -> bytes:
    return bytes(client.get_object(Bucket=place.bucket, Key=place.prefix + key)["Body"].read())


async def test_a_server_that_is_killed_while_agents_send_over_the_broker_loses_nothing(
    site: Any, enrolled: Any, make_item: Any, new_mosquitto: Any, client: Any, place: S3Place, tmp_path: Path
) -> None:
    broker = await new_mosquitto()
    copy = Home(tmp_path / "copy")
    shutil.copytree(site.home.path, copy.path)
    one = await site.start("--mqtt", broker.url, "--mqtt-share", "landing")
    agents = [await enrolled(f"agent {n}") for n in range(2)]
    site.home, first = copy, site.home
    two = await site.start("--mqtt", broker.url, "--mqtt-share", "landing")
    assert first.path != site.home.path
    data = {f"item-{n}": os.urandom(size) for n, size in enumerate((5 * MIB, 4 * MIB + 17, 3 * MIB, 100, 0, 2 * MIB))}
    items = [make_item(content, name) for name, content in data.items()]
    begun = asyncio.Event()

    def progress(offset: int) -> None:
        if offset > MIB:
            begun.set()

    async def deliver(item: Any, target: Any) -> Any:
        while True:  # as the agent's lanes do
            try:
                return await target.send(item, progress)
            except TargetUnreachable:
                continue

    targets = [agent.mqtt(broker.broker, timeout=6.0) for agent in agents]
    sending = [asyncio.create_task(deliver(item, target)) for item, target in zip(items, itertools.cycle(targets), strict=False)]
    await asyncio.wait_for(begun.wait(), 120)
    await one.kill()
    receipts = await asyncio.wait_for(asyncio.gather(*sending), 150)
    for item, receipt in zip(items, receipts, strict=True):
        expected = hashlib.sha256(data[item.item_id]).digest()
        assert receipt.sha256 == expected
        assert receipt.proof in (Proof.STORE_DIGEST, Proof.READ_BACK)
        assert content(client, place, f"space/{item.remote}") == data[item.item_id]
        assert parse_custody(cose.parse(receipt.cose).payload).durable == str(receipt.proof)
    await two.stop()
    assert keys_in(client, place, "refused/") == set()
    again = await site.start()  # removes what the killed one left between a receipt and the tidying
    await again.stop()
    assert keys_in(client, place, "incoming/") == set()


async def test_an_upload_over_https_goes_on_at_another_server(
    site: Any, enrolled: Any, make_item: Any, client: Any, place: S3Place, good_verdict: Any, progress: Any, tmp_path: Path
) -> None:
    await site.open()
    agent = await enrolled()
    copy = Home(tmp_path / "copy")
    shutil.copytree(site.home.path, copy.path)
    item = make_item(os.urandom(20 * MIB), kind=ItemKind.SEGMENT)
    site.judge.verdict = good_verdict(item, agent.agent_id)
    seen: list[int] = []

    def cut(offset: int) -> None:
        seen.append(offset)
        if offset >= 8 * MIB:
            raise TargetUnreachable("cut", code="LANDING_TROUBLE")

    with pytest.raises(TargetUnreachable):
        await agent.https(piece=4 * MIB).send(item, cut)
    await site.runner.cleanup()
    site.home = copy
    await site.open()
    receipt = await agent.https(site.url, piece=4 * MIB).send(item, progress.append)
    assert progress[0] == seen[-1] >= 8 * MIB  # not from the beginning
    assert receipt.proof is Proof.STORE_DIGEST  # sent in two parts; the store says their SHA-256
    assert hashlib.sha256(content(client, place, f"space/{item.remote}")).digest() == receipt.sha256
    assert keys_in(client, place, "incoming/") == set()


@pytest.mark.expects_errors
async def test_a_stored_object_that_is_gone_is_taken_again(
    site: Any, enrolled: Any, make_item: Any, client: Any, place: S3Place, progress: Any
) -> None:
    service = await site.open()
    target, item = (await enrolled()).https(), make_item()
    first = await target.send(item, progress.append)
    assert service.store.size(item.remote) == item.size
    assert (await target.send(item, progress.append)).cose == first.cose
    client.delete_object(Bucket=place.bucket, Key=f"{place.prefix}space/{item.remote}")
    assert (await target.send(item, progress.append)).sha256 == first.sha256
    assert content(client, place, f"space/{item.remote}") == item.path.read_bytes()


async def test_two_servers_check_an_upload_once_and_a_name_is_given_once(
    site: Any, enrolled: Any, make_item: Any, client: Any, place: S3Place, good_verdict: Any, progress: Any
) -> None:
    service = await site.open()
    agent = await enrolled()
    item = make_item(b"one" * 1000, kind=ItemKind.SEGMENT)
    site.judge.verdict = good_verdict(item, agent.agent_id)
    with service.catalogue.alone(b"check " + agent.agent_id + b"item-1", wait=False) as ours:
        assert ours  # as another server that checks it
        sending = asyncio.create_task(agent.https().send(item, progress.append))
        while await asyncio.to_thread(_pieces, service, agent.agent_id) == 0:
            await asyncio.sleep(0.05)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(sending), 2)
        assert site.judge.asked == 0
    receipt = await asyncio.wait_for(sending, 60)
    assert site.judge.asked == 1
    other = make_item(b"two" * 1000, "item-2", remote=item.remote)
    with pytest.raises(EdgeAgentError) as refused:
        await agent.https().send(other, progress.append)
    assert refused.value.code == "LANDING_CLASH"
    assert hashlib.sha256(content(client, place, f"space/{item.remote}")).digest() == receipt.sha256
    kept = keys_in(client, place, f"refused/{agent.agent_id.hex()}/item-2.")
    assert len(kept) == 2  # the bytes and the reason
    assert b"two" * 1000 in [content(client, place, key) for key in kept]
    same = make_item(b"one" * 1000, "item-3", remote=item.remote)
    assert (await agent.https().send(same, progress.append)).proof is Proof.READ_BACK


def _pieces(service: Service, agent_id: bytes) -> int:
    return len(service.store._ledger.pieces(agent_id, "item-1"))


async def test_receipts_of_a_run_are_replaced_and_nothing_else_is(
    site: Any, enrolled: Any, make_item: Any, client: Any, place: S3Place
) -> None:
    await site.open()
    agent = await enrolled()
    remote = "demo-project/beamline/2026-11-24/000001/000001.receipts"
    for n, data in enumerate((b"first", b"second and longer")):
        await agent.https().send(make_item(data, f"r{n}", kind=ItemKind.RECEIPTS, remote=remote), lambda _: None)
        assert content(client, place, f"space/{remote}") == data


async def test_pieces_that_come_in_any_order_and_overlap_make_the_whole(site: Any, enrolled: Any, make_item: Any) -> None:
    service = await site.open()
    agent = await enrolled()
    item = make_item(bytes(range(100)))
    header = header_of(item, agent.agent_id)
    assert await service.receiver.create(agent.agent_id, header) == 0
    data = bytes(range(100))
    told = [
        await service.receiver.pieces(agent.agent_id, "item-1", at, [data[at:end]])
        for at, end in ((60, 100), (20, 50), (20, 50), (0, 30), (40, 70), (0, 10))
    ]
    assert told == [None, None, None, 50, 100, 100]
    await service.receiver.finish(agent.agent_id, "item-1", hashlib.sha256(data).digest())
    assert await service.receiver.receipt(agent.agent_id, "item-1", None) is not None


async def test_an_abandoned_upload_goes_with_its_pieces_and_the_others_stay(
    site: Any, enrolled: Any, make_item: Any, client: Any, place: S3Place
) -> None:
    service = await site.open()
    agent, data = await enrolled(), bytes(range(100))
    items = [make_item(data, item_id=name) for name in ("old", "new")]
    for item in items:
        await service.receiver.create(agent.agent_id, header_of(item, agent.agent_id))
        await service.receiver.pieces(agent.agent_id, item.item_id, 0, [data[:50]])
    between = utc_now_ns()
    assert await service.receiver.pieces(agent.agent_id, "new", 50, [data[50:60]]) == 60
    assert await service.receiver.abandon(between) == 1
    assert {key.split("/")[-2] for key in keys_in(client, place, "incoming/")} == {"new"}
    target = agent.https()
    for item in items:
        assert (await target.send(item, lambda _: None)).size == 100
    assert keys_in(client, place, "incoming/") == set()


async def test_what_killed_servers_left_of_uploads_goes_when_it_is_old_and_nothing_that_a_row_names(
    site: Any, enrolled: Any, make_item: Any, client: Any, place: S3Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.home.settings.write_text(site.home.load().model_copy(update={"postgres": ""}).model_dump_json())  # SQLite
    services: list[Service] = [await site.open() for _ in range(2)]
    agent, data = await enrolled(), os.urandom(100)
    receiver = services[0].receiver
    item, gone = make_item(data), make_item(data, item_id="gone", remote=f"{FOLDER}/000001/gone.dat")
    for each in (item, gone):
        await receiver.create(agent.agent_id, header_of(each, agent.agent_id))
        await receiver.pieces(agent.agent_id, each.item_id, 0, [data[:50]])
    named = {key for key in keys_in(client, place, "incoming/") if "/gone/" not in key}

    def killed(*_: Any) -> Any:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):  # between the PUT and the INSERT of a piece
        patch.setattr("landing.ledger.Ledger.add", killed)
        await receiver.pieces(agent.agent_id, item.item_id, 50, [data[50:]])
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):  # between the rows of an abandoned upload and its objects
        patch.setattr("landing.store.bucket.Bucket.remove", killed)
        services[0].store.abandon(agent.agent_id, "gone", utc_now_ns())
    others = {"space/demo-project/moved/by-hand.dat", "refused/x/y", "incoming/of-the-operator.txt", "incoming/notes/item/1"}
    for key in others:
        client.put_object(Bucket=place.bucket, Key=place.prefix + key, Body=b"x")
    orphans = keys_in(client, place, "incoming/") - named - others
    assert len(orphans) == 2
    hour = 3600 * 10**9
    assert [await service.receiver.sweep(utc_now_ns() - hour) for service in services] == [0] * len(services), "they are young"
    assert keys_in(client, place, "") == named | orphans | others
    swept = await asyncio.gather(*(service.receiver.sweep(utc_now_ns() + hour) for service in services))
    assert sum(swept) >= 2, "who looks at the same moment counts them too"
    assert keys_in(client, place, "") == named | others
    sent: list[int] = []
    await agent.https().send(item, sent.append)
    assert sent[0] == 50, "it goes on where it was"
    assert content(client, place, f"space/{item.remote}") == data
    assert sum([await service.receiver.sweep(utc_now_ns() + hour) for service in services]) == 0
    assert keys_in(client, place, "") == others | {f"space/{item.remote}"}


async def test_a_store_that_is_away_is_trouble_for_now(
    site: Any, enrolled: Any, make_item: Any, weed: Weed, place: S3Place, progress: Any
) -> None:
    relay = Relay(weed.ports["s3.port"])
    await relay.open()
    settings = site.home.load()
    by_relay = place.model_copy(update={"endpoint": f"http://{relay.address}"})
    site.home.settings.write_text(settings.model_copy(update={"s3": by_relay}).model_dump_json())
    # The service asks the store for its bucket when it starts, in the thread of the relay.
    service = await asyncio.to_thread(assemble, site.home, Limits(keep_free=0), site.judge)
    await site.door(service)
    agent = await enrolled()
    await relay.close()
    with pytest.raises(TargetUnreachable) as away:
        await agent.https().send(make_item(), progress.append)
    assert away.value.code == "LANDING_TROUBLE"
    with pytest.raises(Refused, match="S3 store"):
        await asyncio.to_thread(assemble, site.home, Limits(), site.judge)
    await relay.open()
    assert (await agent.https().send(make_item(), progress.append)).proof is Proof.STORE_DIGEST
    await relay.close()


async def test_a_bucket_that_is_not_there_is_told_at_the_start(site: Any, place: S3Place) -> None:
    settings = site.home.load()
    none = place.model_copy(update={"bucket": "there-is-none"})
    site.home.settings.write_text(settings.model_copy(update={"s3": none}).model_dump_json())
    with pytest.raises(ConfigError) as wrong:
        assemble(site.home, Limits(), site.judge)
    assert wrong.value.code == "LANDING_BUCKET"


@pytest.mark.expects_errors
async def test_a_history_that_one_server_witnessed_is_not_forked_at_another(site: Any, enrolled: Any, proof_from: Any) -> None:
    await site.open()
    agent = await enrolled()
    chain = agent.session.chain.encode()
    head, hashes = agent.log(5)
    signed = await agent.https().witness(head, chain, proof_from(hashes, 0), 0)
    await site.open()
    other = agent.https(site.url)
    assert await other.witness(head, chain, (), 0) == signed
    forked, hashes = agent.log(9, salt=b"another history")
    with pytest.raises(IntegrityError) as fork:
        await other.witness(forked, chain, proof_from(hashes, 5), 5)
    assert fork.value.code == "LANDING_FORK"


async def test_a_page_of_an_open_run_is_read_from_the_store(site: Any, enrolled: Any, make_item: Any) -> None:
    settings = site.home.load().model_copy(update={"public": "https://data.example.ac.jp"})
    site.home.settings.write_text(settings.model_dump_json())
    await site.open()
    agent, run, data = await enrolled(), f"{FOLDER}/000001", os.urandom(3 * MIB)
    label = Label(Access.OPEN)
    crate = b'{"@graph": [{"@id": "./", "name": "Lysozyme"}]}'
    files = {"000001.nxs": (ItemKind.MASTER, data), "ro-crate-metadata.json": (ItemKind.CRATE, crate)}
    for name, (kind, content) in files.items():
        await agent.https().send(make_item(content, f"item-{kind}", kind, remote=f"{run}/{name}", label=label), lambda _: None)
    async with client_session(client_context(site.home.root.read_text()), site.url) as session:
        async with session.get(f"/open/{run}/") as reply:
            assert "Lysozyme" in await reply.text()
        async with session.get(f"/open/{run}/000001.nxs") as reply:
            assert await reply.read() == data
