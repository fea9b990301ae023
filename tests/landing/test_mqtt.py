"""The landing service behind a real mosquitto: pieces, receipts, and everything that a broker does to them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from edge_agent.deliver import mqtt as mqtt_target
from edge_agent.errors import IntegrityError, PermissionRefused, TargetUnreachable
from edge_agent.model import ItemKind, Proof
from edge_agent.record.session import new_session
from edge_agent.seal import cose
from edge_agent.seal.receipt import parse_witness
from edge_agent.wire import link as link_module
from edge_agent.wire.broker import Broker
from edge_agent.wire.item import header_of, sign_item
from edge_agent.wire.link import Link, Message, open_link
from edge_agent.wire.piece import MAX_MESSAGE, Piece, parse_piece
from edge_agent.wire.refusal import Code, LogSizeDiffers
from edge_agent.wire.talk import Answer, Ask, Reply, Verb, parse_answer, topic
from edge_agent.wire.tls import client_context
from landing.catalogue import Revocation
from landing.judge import Verdict


@pytest.fixture
async def broker(new_mosquitto: Any) -> Any:
    return await new_mosquitto()


async def test_a_file_lands_with_a_custody_that_proves_it(
    site: Any, enrolled: Any, broker: Any, make_item: Any, progress: list[int], sha256: Any
) -> None:
    await site.open(mqtt=broker.url)
    agent = await enrolled()
    data = os.urandom(5_000_000)
    item = make_item(data)
    target = agent.mqtt(broker.broker)
    assert "MQTTv5" in (await target.probe()).detail
    receipt = await target.send(item, progress.append)
    assert (site.home.space / item.remote).read_bytes() == data
    assert (receipt.proof, receipt.sha256, receipt.size) == (Proof.FSYNCED, sha256(data), len(data))
    assert progress[-1] == len(data)
    again = await target.send(item, progress.append)
    assert again.cose == receipt.cose


@pytest.mark.expects_errors
async def test_a_stored_file_that_is_gone_is_taken_again(
    site: Any, enrolled: Any, broker: Any, make_item: Any, progress: list[int]
) -> None:
    await site.open(mqtt=broker.url)
    target, item = (await enrolled()).mqtt(broker.broker), make_item()
    await target.send(item, progress.append)
    (site.home.space / item.remote).unlink()
    await target.send(item, progress.append)
    assert (site.home.space / item.remote).read_bytes() == item.path.read_bytes()


async def test_empty_files_and_many_at_once(site: Any, enrolled: Any, broker: Any, make_item: Any, progress: list[int]) -> None:
    await site.open(mqtt=broker.url)
    target = (await enrolled()).mqtt(broker.broker, message=100_000, window=3)
    items = [make_item(os.urandom(150_000 * number), item_id=f"item-{number}") for number in range(5)]
    receipts = await asyncio.gather(*(target.send(item, progress.append) for item in items))
    assert [receipt.size for receipt in receipts] == [item.size for item in items]
    for item in items:
        assert (site.home.space / item.remote).read_bytes() == item.path.read_bytes()


async def test_a_segment_is_judged_here_too(
    site: Any, enrolled: Any, broker: Any, make_item: Any, progress: list[int], good_verdict: Any
) -> None:
    await site.open(mqtt=broker.url)
    agent = await enrolled()
    target = agent.mqtt(broker.broker)
    item = make_item(kind=ItemKind.SEGMENT)
    site.judge.verdict = Verdict(0, "chunk (0, 0) has another hash")
    with pytest.raises(IntegrityError, match="does not verify") as error:
        await target.send(item, progress.append)
    assert "chunk (0, 0)" in error.value.why
    site.judge.verdict = good_verdict(item, agent.agent_id)
    assert (await target.send(item, progress.append)).size == item.size


async def test_a_broker_killed_in_the_middle_costs_only_what_was_unanswered(site: Any, enrolled: Any, broker: Any, make_item: Any) -> None:
    await site.open(mqtt=broker.url)
    agent = await enrolled()
    item = make_item(os.urandom(6_000_000))
    target = agent.mqtt(broker.broker, message=200_000, window=2)
    half = asyncio.Event()
    sending = asyncio.create_task(target.send(item, lambda sent: half.set() if sent >= 2_000_000 else None))
    await half.wait()
    await broker.kill()
    with pytest.raises(TargetUnreachable) as error:
        await sending
    assert error.value.try_
    with pytest.raises(TargetUnreachable, match="No MQTT broker"):
        await target.probe()
    await broker.start()
    progress: list[int] = []
    async with asyncio.timeout(60):
        while True:
            try:
                await target.send(item, progress.append)
                break
            except TargetUnreachable:
                await asyncio.sleep(0.2)  # the landing service reconnects after a pause of its own
    assert progress[0] >= 2_000_000
    assert (site.home.space / item.remote).read_bytes() == item.path.read_bytes()


async def test_a_broker_whose_database_forgets_what_it_acknowledged_loses_nothing(
    site: Any, enrolled: Any, new_mosquitto: Any, make_item: Any, tmp_path: Any
) -> None:
    """Mosquitto with persistence as it is by default writes every half hour: a kill takes what it has acknowledged (50 of 50 messages, once)."""
    (tmp_path / "db").mkdir()
    broker = await new_mosquitto("allow_anonymous true", "user root", "persistence true", f"persistence_location {tmp_path}/db/")
    await site.open(mqtt=broker.url)
    await lands_over_a_kill(site, await enrolled(), broker, make_item)


@pytest.mark.peers
async def test_a_foreign_broker_killed_in_the_middle_loses_nothing(site: Any, enrolled: Any, nats: Any, make_item: Any) -> None:
    """NATS keeps what it acknowledged, and may send it again to whoever is there then."""
    await site.open(mqtt=nats.url)
    await lands_over_a_kill(site, await enrolled(), nats, make_item)


async def lands_over_a_kill(site: Any, agent: Any, broker: Any, make_item: Any) -> None:
    items = [make_item(os.urandom(1_500_000), item_id=f"item-{number}") for number in range(3)]
    target = agent.mqtt(Broker.parse(broker.url), message=100_000, window=4, timeout=2.0)
    left = {item.item_id: item for item in items}
    half = asyncio.Event()

    def on_progress(sent: int) -> None:
        if sent >= 500_000:
            half.set()

    sending = [asyncio.create_task(target.send(item, on_progress)) for item in items]
    await half.wait()
    await broker.kill()
    assert any(isinstance(end, TargetUnreachable) for end in await asyncio.gather(*sending, return_exceptions=True))
    await broker.start()
    receipts = {}
    async with asyncio.timeout(60):
        while left:
            for item in list(left.values()):
                with contextlib.suppress(TargetUnreachable):
                    receipts[item.item_id] = await target.send(item, print)
                    del left[item.item_id]
            await asyncio.sleep(0.2)  # the landing service reconnects after a pause of its own
    for item in items:
        assert (site.home.space / item.remote).read_bytes() == item.path.read_bytes()
        assert receipts[item.item_id].size == item.size


async def test_no_more_is_unacknowledged_and_no_packet_is_larger_than_the_broker_takes(
    site: Any, enrolled: Any, new_mosquitto: Any, make_item: Any
) -> None:
    """A broker that hangs up on who sends more: two items and their questions share one link."""
    strict = await new_mosquitto("allow_anonymous true", "max_inflight_messages 1", "max_packet_size 65536")
    await site.open(mqtt=strict.url)
    target = (await enrolled()).mqtt(strict.broker, window=8)
    link = await target._talks.connected()
    assert (link.receive_maximum, link.maximum_packet) == (1, 65536)
    most, publish, largest = 0, link._client.publish, 0

    def watched(topic: str, payload: bytes, **more: Any) -> Any:
        nonlocal most, largest
        most, largest = max(most, len(link._acked) + 1), max(largest, len(payload))
        return publish(topic, payload, **more)

    link._client.publish = watched  # type: ignore[method-assign]
    items = [make_item(os.urandom(400_000), item_id=f"item-{number}") for number in range(3)]
    await asyncio.gather(*(target.send(item, print) for item in items))
    assert most == 1
    assert 60_000 < largest < 65536
    assert not link.lost.done()
    for item in items:
        assert (site.home.space / item.remote).read_bytes() == item.path.read_bytes()


async def test_a_landing_killed_in_the_middle_goes_on_from_its_durable_offset(
    site: Any, enrolled: Any, broker: Any, make_item: Any
) -> None:
    server = await site.start("--mqtt", broker.url)
    agent = await enrolled()
    item = make_item(os.urandom(6_000_000))
    target = agent.mqtt(broker.broker, message=200_000, window=2, timeout=1.0)
    half = asyncio.Event()
    sending = asyncio.create_task(target.send(item, lambda sent: half.set() if sent >= 2_000_000 else None))
    await half.wait()
    await server.kill()
    with pytest.raises(TargetUnreachable) as error:
        await sending
    assert error.value.code == "LANDING_SILENT"
    await site.start("--mqtt", broker.url)
    progress: list[int] = []
    await agent.mqtt(broker.broker).send(item, progress.append)
    assert progress[0] >= 2_000_000
    assert (site.home.space / item.remote).read_bytes() == item.path.read_bytes()


async def test_a_broker_behind_tls_is_trusted_only_under_the_given_root(
    site: Any, enrolled: Any, new_mosquitto: Any, make_item: Any, progress: list[int], tmp_path: Any
) -> None:
    keys = site.home.keys
    secure = await new_mosquitto(
        "allow_anonymous true", f"certfile {keys / 'tls.pem'}", f"keyfile {keys / 'tls.key'}", f"cafile {site.home.root}", "user root"
    )
    url = f"mqtts://127.0.0.1:{secure.port}"
    server = await site.start("--mqtt", url, "--mqtt-ca", str(site.home.root))
    agent = await enrolled()
    good = Broker.parse(url, client_context(agent.enrolment.root.read_text()))
    assert (await agent.mqtt(good).send(make_item(), progress.append)).size == 4000
    with pytest.raises(TargetUnreachable, match="not the one we trust") as error:
        await agent.mqtt(Broker.parse(url)).probe()
    assert error.value.code == "BROKER_CERTIFICATE"
    await server.stop()


async def test_a_broker_that_wants_a_password_says_so(site: Any, enrolled: Any, new_mosquitto: Any) -> None:
    await site.open()
    agent = await enrolled()
    closed = await new_mosquitto("allow_anonymous false")
    with pytest.raises(PermissionRefused, match="refuses the login") as error:
        await agent.mqtt(closed.broker).probe()
    assert "password" in error.value.try_


async def test_nobody_behind_the_broker_is_noticed_at_once(
    site: Any, enrolled: Any, broker: Any, make_item: Any, progress: list[int]
) -> None:
    await site.open()
    target = (await enrolled()).mqtt(broker.broker, timeout=100)
    async with asyncio.timeout(60):
        with pytest.raises(TargetUnreachable, match="does not answer") as error:
            await target.send(make_item(), progress.append)
    assert "nobody listens" in error.value.why


async def test_no_broker_is_unreachable(site: Any, enrolled: Any, broker: Any, make_item: Any, progress: list[int]) -> None:
    await site.open()
    target = (await enrolled()).mqtt(broker.broker)
    await broker.kill()
    with pytest.raises(TargetUnreachable, match="No MQTT broker") as error:
        await target.send(make_item(), progress.append)
    assert error.value.try_


@pytest.mark.parametrize("version", [5, 3])
async def test_a_broker_that_drops_large_messages_in_silence_gets_smaller_ones(
    site: Any, enrolled: Any, new_mosquitto: Any, make_item: Any, progress: list[int], version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = await new_mosquitto("message_size_limit 100000", "allow_anonymous true")
    if version == 3:
        only_3(monkeypatch)
    await site.open(mqtt=small.url)
    target = (await enrolled()).mqtt(small.broker, timeout=2.0)
    item = make_item(os.urandom(600_000))
    async with asyncio.timeout(60):
        while True:
            try:
                await target.send(item, progress.append)
                break
            except TargetUnreachable:
                continue
    assert target.message_size < 100_000
    assert (site.home.space / item.remote).read_bytes() == item.path.read_bytes()


def only_3(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker seems to be one that speaks 3.1.1 only."""
    connected = Link._connected

    def refuse(link: Link, reason: Any, properties: Any) -> None:
        if link.protocol == 5 and not link._connack.done():
            from edge_agent.wire.link import _WrongVersionError

            link._connack.set_exception(_WrongVersionError("Unsupported protocol version"))
            return
        connected(link, reason, properties)

    monkeypatch.setattr(Link, "_connected", refuse)


async def test_a_broker_of_version_3_1_1_carries_everything_too(
    site: Any, enrolled: Any, broker: Any, make_item: Any, progress: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    only_3(monkeypatch)
    await site.open(mqtt=broker.url)
    agent = await enrolled()
    target = agent.mqtt(broker.broker)
    assert "MQTTv311" in (await target.probe()).detail
    item = make_item(os.urandom(2_500_000))
    await target.send(item, progress.append)
    assert (site.home.space / item.remote).read_bytes() == item.path.read_bytes()


@pytest.mark.peers
async def test_a_foreign_broker_that_speaks_only_3_1_1_carries_everything(
    site: Any, enrolled: Any, nats: Any, make_item: Any, progress: list[int]
) -> None:
    await site.open(mqtt=nats.url)
    agent = await enrolled()
    target = agent.mqtt(Broker.parse(nats.url))
    assert "MQTTv311" in (await target.probe()).detail
    item = make_item(os.urandom(5_000_000))
    await target.send(item, progress.append)
    assert (site.home.space / item.remote).read_bytes() == item.path.read_bytes()


async def test_heads_are_countersigned_over_mqtt(site: Any, enrolled: Any, broker: Any, proof_from: Any) -> None:
    await site.open(mqtt=broker.url)
    agent = await enrolled()
    target, chain = agent.mqtt(broker.broker), agent.session.chain.encode()
    head, _ = agent.log(3)
    await target.witness(head, chain, [], 0)
    later, hashes = agent.log(9)
    with pytest.raises(LogSizeDiffers) as error:
        await target.witness(later, chain, [], 0)
    receipt = await target.witness(later, chain, proof_from(hashes, error.value.size), error.value.size)
    assert parse_witness(cose.parse(receipt).payload).size == 9


async def test_an_unenrolled_agent_is_refused(
    site: Any, enrolled: Any, broker: Any, make_item: Any, progress: list[int], tmp_path: Any
) -> None:
    await site.open(mqtt=broker.url)
    agent = await enrolled()
    from edge_agent.enrolment import open_identity

    stranger = open_identity(tmp_path / "stranger")
    session = new_session(stranger.agent_id, stranger.key, (stranger.certificate,), 1)
    with pytest.raises(PermissionRefused, match="not enrolled here"):
        await replace(agent, identity=stranger, session=session).mqtt(broker.broker).send(make_item(), progress.append)


async def test_a_custody_under_a_wrong_receipt_key_is_not_believed(
    site: Any, enrolled: Any, broker: Any, make_item: Any, progress: list[int], stranger_key: Any
) -> None:
    service = await site.open(mqtt=broker.url)
    agent = await enrolled()
    service.receiver._check_in._signer = stranger_key
    item = make_item()
    with pytest.raises(IntegrityError, match="does not prove that our data is held"):
        await agent.mqtt(broker.broker).send(item, progress.append)
    assert item.path.exists()


class Outsider:
    """Somebody at the broker who publishes what it likes and reads the replies of one agent."""

    def __init__(self, agent: Any) -> None:
        self.agent = agent
        self.answers: asyncio.Queue[Answer] = asyncio.Queue()
        self.link: Link | None = None

    async def open(self, broker: Any) -> Outsider:
        self.link = await open_link(broker.broker, [topic(self.agent.agent_id, "reply")], self.hear)
        return self

    async def hear(self, _link: Link, messages: Sequence[Message]) -> None:
        for message in messages:
            self.answers.put_nowait(parse_answer(message.payload))

    def say(self, channel: str, payload: bytes) -> None:
        assert self.link is not None
        self.link.publish(channel if "/" in channel else topic(self.agent.agent_id, channel), payload)

    async def answer(self) -> Answer:
        return await asyncio.wait_for(self.answers.get(), 20)


@pytest.fixture
async def outsider(site: Any, enrolled: Any, broker: Any, stack: Any) -> Outsider:
    await site.open(mqtt=broker.url)
    made = await Outsider(await enrolled()).open(broker)
    assert made.link is not None
    stack.push_async_callback(made.link.close)
    return made


def first_piece(agent: Any, of: Any, data: bytes, **changes: Any) -> Piece:
    header = header_of(of, agent.agent_id)
    signed = sign_item(header, agent.session.key, agent.session.chain).encode()
    return replace(Piece(agent.agent_id, of.item_id, 0, of.size, 1, data, signed), **changes)


async def test_garbage_on_the_topics_is_refused_and_the_door_stays_open(outsider: Outsider, make_item: Any, broker: Any) -> None:
    for payload in (b"", b"garbage", b"EAP1", b"EAP1\xff\xff\xff\xff", b"EAP1\0\0\0\1\xa0", b"\xa0" * 70_000):
        outsider.say("piece", payload)
        answer = await outsider.answer()
        assert (answer.reply, answer.refusal and answer.refusal.code) == (Reply.REFUSED, Code.BAD_REQUEST)
        outsider.say("ask", payload)
        assert (await outsider.answer()).reply is Reply.REFUSED
    for name in ("edge/v1/nobody/piece", "edge/v1/" + "0" * 31 + "/ask", "edge/v1/" + "Z" * 32 + "/piece"):
        outsider.say(name, b"x")
    agent = outsider.agent
    assert (await agent.mqtt(broker.broker).send(make_item(), print)).size == 4000


async def test_an_oversize_piece_is_refused(outsider: Outsider, make_item: Any) -> None:
    data = os.urandom(MAX_MESSAGE)
    outsider.say("piece", first_piece(outsider.agent, make_item(data), data).encode())
    answer = await outsider.answer()
    assert answer.refusal is not None
    assert answer.refusal.code is Code.BAD_REQUEST
    assert f"at most {MAX_MESSAGE}" in answer.refusal.why


async def test_a_piece_whose_bytes_were_changed_on_the_way_is_refused(outsider: Outsider, make_item: Any) -> None:
    message = bytearray(first_piece(outsider.agent, make_item(b"12345"), b"12345").encode())
    message[-1] ^= 1
    outsider.say("piece", bytes(message))
    answer = await outsider.answer()
    assert answer.refusal is not None
    assert "another SHA-256" in answer.refusal.why


async def test_nobody_speaks_for_another_agent(outsider: Outsider, make_item: Any, enrolled: Any, site: Any) -> None:
    item = make_item(b"12345")
    other = await enrolled("other")
    outsider.say("piece", first_piece(other, item, b"12345").encode())
    answer = await outsider.answer()
    assert answer.refusal is not None
    assert answer.refusal.code is Code.WRONG_AGENT
    forged = sign_item(header_of(item, outsider.agent.agent_id), other.session.key, other.session.chain).encode()
    outsider.say("piece", first_piece(outsider.agent, item, b"12345", item=forged).encode())
    answer = await outsider.answer()
    assert answer.refusal is not None
    assert answer.refusal.code is Code.WRONG_AGENT
    unsigned = first_piece(outsider.agent, item, b"12345", item=b"\xa2\x01\x40\x02\xa2\x01\x80\x02\x80")
    outsider.say("piece", unsigned.encode())
    answer = await outsider.answer()
    assert answer.refusal is not None
    assert answer.refusal.code is Code.SIGNATURE
    assert not list(site.home.incoming.iterdir())


async def test_a_finish_needs_the_signature_over_the_digest(outsider: Outsider, make_item: Any, stranger_key: Any, sha256: Any) -> None:
    agent, item = outsider.agent, make_item(b"12345")
    outsider.say("piece", first_piece(agent, item, b"12345").encode())
    assert (await outsider.answer()).offset == 5
    header = header_of(item, agent.agent_id)
    for body in (
        sign_item(header, agent.session.key, agent.session.chain),
        sign_item(header.with_digest(sha256(b"12345")), stranger_key, agent.session.chain),
    ):
        outsider.say("ask", Ask(agent.agent_id, Verb.FINISH, item.item_id, 7, body.encode()).encode())
        answer = await outsider.answer()
        assert (answer.reply, answer.turn) == (Reply.REFUSED, 7)


async def test_bytes_injected_by_an_outsider_are_caught_by_the_signed_digest_and_replaced(
    outsider: Outsider, make_item: Any, site: Any, broker: Any
) -> None:
    """Whoever may publish on the topic can spoil an upload, but not get anything else stored under our name."""
    agent, item = outsider.agent, make_item(b"12345")
    outsider.say("piece", first_piece(agent, item, b"EVIL!").encode())
    assert (await outsider.answer()).offset == 5
    progress: list[int] = []
    await agent.mqtt(broker.broker).send(item, progress.append)
    assert (site.home.space / item.remote).read_bytes() == b"12345"
    assert [path.read_bytes() for path in site.home.refused.rglob("item-1.*") if path.suffix != ".json"] == [b"EVIL!"]


async def test_a_hole_is_answered_with_the_offset_that_is_wanted(outsider: Outsider, make_item: Any) -> None:
    agent, item = outsider.agent, make_item(b"0123456789")
    outsider.say("piece", first_piece(agent, item, b"012").encode())
    assert (await outsider.answer()).offset == 3
    for offset in (5, 0, 1):
        piece = first_piece(agent, item, b"xx", offset=offset, turn=9)
        outsider.say("piece", (piece if offset == 0 else replace(piece, item=None)).encode())
        answer = await outsider.answer()
        assert (answer.reply, answer.offset, answer.turn) == (Reply.HAVE, 3, 9)
    unknown = replace(first_piece(agent, item, b"xx", offset=2), item=None, item_id="unknown")
    outsider.say("piece", unknown.encode())
    answer = await outsider.answer()
    assert answer.refusal is not None
    assert answer.refusal.code is Code.NOT_FOUND


@pytest.fixture
async def together(site: Any, enrolled: Any, broker: Any, stack: Any) -> Any:
    """``await together(outsider, [payload, ...])``: pieces that reach the door at once; the outsider hears what it answers."""
    service = await site.open()
    door = await site.join(service, broker.url)
    made = await Outsider(await enrolled()).open(broker)
    assert made.link is not None
    stack.push_async_callback(made.link.close)

    async def arrive(*payloads: bytes) -> None:
        assert door._link is not None
        await door.handle(door._link, [Message(topic(made.agent.agent_id, "piece"), payload, False, None) for payload in payloads])

    return service, made, arrive


def pieces_of(agent: Any, item: Any, data: bytes, size: int) -> list[bytes]:
    first = first_piece(agent, item, data[:size])
    rest = [replace(first, item=None, offset=at, data=data[at : at + size]) for at in range(size, len(data), size)]
    return [piece.encode() for piece in (first, *rest)]


async def test_pieces_that_came_together_are_synced_once_and_answered_once(together: Any, make_item: Any, site: Any) -> None:
    service, outsider, arrive = together
    synced, real, asked, admit = [], service.store.offset, [], service.receiver.admit
    service.store.offset = lambda header: (synced.append(header.item_id), real(header))[1]
    service.receiver.admit = lambda agent_id: (asked.append(agent_id), admit(agent_id))[1]
    data = os.urandom(100_000)
    item, other = make_item(data), make_item(data, item_id="item-2")
    agent = outsider.agent
    await arrive(*pieces_of(agent, item, data, 10_000), *pieces_of(agent, other, data, 50_000))
    assert [await outsider.answer() for _ in range(2)] == [Answer(Reply.HAVE, name, 1, offset=100_000) for name in ("item-1", "item-2")]
    assert (synced, len(asked)) == (["item-1", "item-2"], 1)
    assert outsider.answers.empty()
    for name in ("item-1", "item-2"):
        assert next(site.home.incoming.rglob(f"{name}.part")).read_bytes() == data


async def test_one_bad_piece_among_many_costs_only_itself(together: Any, make_item: Any, site: Any) -> None:
    _, outsider, arrive = together
    data = os.urandom(50_000)
    messages = pieces_of(outsider.agent, make_item(data), data, 10_000)
    spoilt = bytearray(messages[2])
    spoilt[-1] ^= 1
    await arrive(messages[0], messages[1], bytes(spoilt), b"garbage", messages[3])
    refused = [await outsider.answer() for _ in range(2)]
    assert {answer.refusal and answer.refusal.code for answer in refused} == {Code.BAD_REQUEST}
    assert [(await outsider.answer()).offset for _ in range(2)] == [20_000, 20_000]
    await arrive(messages[1], *messages[2:])  # the broker sent one of them twice
    assert [(await outsider.answer()).offset for _ in range(2)] == [20_000, 50_000]
    assert next(site.home.incoming.rglob("*.part")).read_bytes() == data


async def test_nothing_of_many_pieces_is_taken_from_who_was_shut_out(together: Any, make_item: Any, site: Any) -> None:
    service, outsider, arrive = together
    agent, data = outsider.agent, bytes(30_000)
    service.catalogue.revoke(Revocation(agent.agent_id, "test", 1, b""))
    await arrive(*pieces_of(agent, make_item(data), data, 10_000))
    codes = [(await outsider.answer()).refusal for _ in range(3)]
    assert {refusal and refusal.code for refusal in codes} == {Code.REVOKED}
    assert not list(site.home.incoming.iterdir())


async def test_more_than_the_inbox_holds_waits_at_the_broker(site: Any, broker: Any, stack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that is slow: what it takes later has come in order, and never more at once than the inbox holds."""
    monkeypatch.setattr(link_module, "INBOX", 10_000)
    held, taken = asyncio.Event(), []

    async def slow(_link: Link, messages: Sequence[Message]) -> None:
        await held.wait()
        taken.append([message.payload[0] for message in messages])

    listener, speaker = await open_link(broker.broker, ["t"], slow), await open_link(broker.broker, [], slow)
    stack.push_async_callback(listener.close)
    stack.push_async_callback(speaker.close)
    await asyncio.gather(*(speaker.publish("t", bytes([number]) * 4000) for number in range(50)))
    held.set()
    async with asyncio.timeout(20):
        while sum(map(len, taken)) < 50:
            await asyncio.sleep(0.01)
    assert [number for batch in taken for number in batch] == list(range(50))
    assert max(map(len, taken)) <= 3


async def test_retained_messages_are_ignored(site: Any, enrolled: Any, broker: Any, make_item: Any) -> None:
    service = await site.open()
    agent = await enrolled()
    item = make_item(b"12345")
    poisoner = await Outsider(agent).open(broker)
    assert poisoner.link is not None
    piece = first_piece(agent, item, b"12345").encode()
    await asyncio.to_thread(
        lambda: poisoner.link._client.publish(topic(agent.agent_id, "piece"), piece, 1, retain=True).wait_for_publish(10)
    )
    await site.join(service, broker.url)
    poisoner.say("ask", Ask(agent.agent_id, Verb.OFFSET, item.item_id, 1).encode())
    assert (await poisoner.answer()).offset is None
    await poisoner.link.close()


async def test_answers_that_are_none_are_ignored_by_the_agent(outsider: Outsider, make_item: Any, broker: Any, progress: list[int]) -> None:
    agent, item = outsider.agent, make_item(os.urandom(300_000))
    reply = topic(agent.agent_id, "reply")
    target = agent.mqtt(broker.broker, message=20_000, window=2)
    sent = asyncio.Event()

    def on_progress(done: int) -> None:
        progress.append(done)
        sent.set()
        for payload in (b"", b"garbage", Answer(Reply.HAVE, item.item_id, 1, offset=10**12).encode(), Answer(Reply.HAVE, "x", 1).encode()):
            outsider.say(reply, payload)

    outsider.answers = asyncio.Queue()
    outsider.hear = lambda *_: asyncio.sleep(0)  # type: ignore[method-assign]
    outsider.link._handler = outsider.hear  # type: ignore[union-attr]
    assert (await target.send(item, on_progress)).size == item.size
    assert sent.is_set()


def test_a_message_stays_below_its_limit_with_the_largest_header(make_item: Any) -> None:
    item = b"i" * 3000
    data = b"d" * mqtt_target.room(1_000_000, item)
    piece = Piece(b"a" * 16, "x" * 64, 0, 2**46, 2**62, data, item)
    encoded = piece.encode()
    assert len(encoded) <= 1_000_000
    assert parse_piece(encoded) == piece


async def test_two_doors_that_share_a_broker_get_each_message_once(
    site: Any, enrolled: Any, make_item: Any, new_mosquitto: Any, progress: Any
) -> None:
    broker = await new_mosquitto()
    service = await site.open()
    doors = [await site.join(service, broker.url, share="landing") for _ in range(2)]
    met: list[list[int]] = [[], []]
    for door, seen in zip(doors, met, strict=True):
        real = door._pieces

        async def count(link: Link, agent_id: bytes, pieces: Sequence[Piece], real: Any = real, seen: list[int] = seen) -> None:
            seen.extend(piece.offset for piece in pieces)
            await real(link, agent_id, pieces)

        door._pieces = count  # type: ignore[method-assign]
    agent = await enrolled()
    target = agent.mqtt(broker.broker, message=64 << 10, window=1)
    await target.send(make_item(bytes(1 << 20)), progress.append)
    assert not set(met[0]) & set(met[1])
    assert all(met)


async def test_a_broker_that_cannot_share_is_told_to_the_operator(site: Any, nats: Any, caplog: pytest.LogCaptureFixture) -> None:
    service = await site.open()
    await site.join(service, nats.url, share="landing")
    assert any("no shared subscriptions" in record.getMessage() for record in caplog.records)


async def test_a_broker_keeps_nothing_for_an_agent_that_is_gone(
    site: Any, enrolled: Any, make_item: Any, new_mosquitto: Any, progress: Any
) -> None:
    """Neither a session nor messages: they would fill it up, and it drops in silence what is too much."""
    broker = await new_mosquitto("allow_anonymous true", "sys_interval 1")
    await site.open(mqtt=broker.url)
    target = (await enrolled()).mqtt(broker.broker)
    await target.send(make_item(), progress.append)
    told: dict[str, int] = {}
    news = asyncio.Event()

    async def hear(_: Link, messages: Sequence[Message]) -> None:
        told.update((message.topic.rpartition("/")[2], int(message.payload)) for message in messages)
        news.set()

    watch = await open_link(broker.broker, ["$SYS/broker/clients/+"], hear)

    async def until_connected(clients: int) -> None:
        async with asyncio.timeout(30):
            while told.get("connected") != clients:
                news.clear()
                await news.wait()

    await until_connected(3)  # the door, the agent and who watches
    link = await target._talks.connected()
    link._client.socket().shutdown(socket.SHUT_RDWR)  # no DISCONNECT
    await asyncio.wait_for(asyncio.shield(link.lost), 20)
    await until_connected(2)
    assert (told["disconnected"], told["total"]) == (0, 2)
    await link.close()
    await watch.close()
