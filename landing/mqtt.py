"""The MQTT door: pieces and questions from ``edge/v1/<agent>/piece`` and ``/ask``, answers to ``/reply`` of the same agent.

A broker proves nothing about who publishes, so every announcement and every finish is signed by a session key of the
agent that the topic names; the bytes between them are held to the signed SHA-256. Retained messages and foreign
response topics are ignored. Pieces that came together are made durable together; meanwhile the next ones are checked,
and the link takes no more than its inbox holds, which is the back-pressure. Several servers behind one broker share a
subscription, so that each message reaches one of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from itertools import groupby

from cryptography import x509
from paho.mqtt.enums import MQTTProtocolVersion

from edge_agent.errors import EdgeAgentError
from edge_agent.seal.cbor import SealError
from edge_agent.wire.broker import Broker
from edge_agent.wire.item import SIGNED_ITEM, ItemHeader, parse_header, parse_signed_item
from edge_agent.wire.link import Link, Message, open_link
from edge_agent.wire.names import BadName, check_upload_id
from edge_agent.wire.piece import Piece, parse_piece
from edge_agent.wire.refusal import Code, Refusal, Refused
from edge_agent.wire.talk import PREFIX, Answer, Ask, Reply, Verb, door_topics, parse_ask, parse_topic, parse_witness_ask, topic
from landing.receiver import Receiver
from landing.witness import WitnessBook, checked_payload

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
_LOG = logging.getLogger(__name__)
# Not every such broker refuses the subscription: some take it for the name of a topic, and then nothing ever comes.
_CANNOT_SHARE = (
    "broker %s speaks only MQTT 3.1.1, which has no shared subscriptions; serve without --mqtt-share, or choose a broker of MQTT 5"
)


class MqttDoor:
    """Keeps a connection to one broker while `run` runs."""

    def __init__(
        self, broker: Broker, receiver: Receiver, book: WitnessBook, root: x509.Certificate, prefix: str = PREFIX, share: str = ""
    ) -> None:
        """Prepare. ``share``: name of the group whose members the broker gives each message to one of (MQTT 5, 4.8.2); empty: none."""
        self._broker = broker
        self._receiver = receiver
        self._book = book
        self._root = root
        self._prefix = prefix
        self._share = share
        self._filters = [f"$share/{share}/{name}" if share else name for name in door_topics(prefix)]
        self._link: Link | None = None
        self._storing: asyncio.Task[None] | None = None
        self._checking: dict[tuple[bytes, str], asyncio.Task[None]] = {}
        self.connected = asyncio.Event()

    async def run(self) -> None:
        """Connect, serve, connect again; returns only when cancelled."""
        pause = FIRST_PAUSE
        try:
            while True:
                try:
                    self._link = await open_link(self._broker, self._filters, self.handle)
                except EdgeAgentError as error:
                    _LOG.warning("no connection to the broker: %s", error)
                else:
                    if self._share and self._link.protocol != MQTTProtocolVersion.MQTTv5:
                        _LOG.warning(_CANNOT_SHARE, self._broker)
                    _LOG.info("listening at broker %s, MQTT %s", self._broker, self._link.protocol.name)
                    self.connected.set()
                    pause = FIRST_PAUSE
                    reason = await asyncio.shield(self._link.lost)
                    self.connected.clear()
                    _LOG.warning("the broker is gone (%s)", reason)
                    await self._link.close()
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
        finally:
            self.connected.clear()
            if self._link is not None:
                await self._link.close()
            await self._stored()

    async def handle(self, link: Link, messages: Sequence[Message]) -> None:
        """What has arrived; whatever is in it, the door stays open."""
        for name, neighbours in groupby((message for message in messages if not message.retained), key=lambda message: message.topic):
            try:
                agent_id, channel = parse_topic(name, self._prefix)
            except SealError as error:
                _LOG.warning("ignored a message: %s", error)
                continue
            if channel == "piece":
                pieces, answers = await asyncio.to_thread(self._opened, agent_id, [message.payload for message in neighbours])
                for answer in answers:
                    self._say(link, agent_id, answer, None)
                await self._stored()
                self._storing = asyncio.create_task(self._pieces(link, agent_id, pieces))
                continue
            await self._stored()
            for message in neighbours:
                answered = await self._asked(agent_id, message)
                if answered is not None:
                    self._say(link, agent_id, answered, message.correlation)

    async def _stored(self) -> None:
        """What was begun to be stored is; its errors are logged here."""
        if self._storing is not None:
            await asyncio.wait([self._storing])
            if not self._storing.cancelled() and (error := self._storing.exception()) is not None:
                _LOG.error("pieces could not be stored", exc_info=error)
            self._storing = None

    async def _pieces(self, link: Link, agent_id: bytes, pieces: Sequence[Piece]) -> None:
        """Store pieces; those that follow each other are made durable together, and one answer tells how far it goes then."""
        while pieces:
            run = _run(pieces)
            first, taken = run[0], len(run)
            try:
                have = await self._store(agent_id, run)
                said = None if have is None else Answer(Reply.HAVE, first.item_id, first.turn, offset=have)
            except (SealError, BadName) as error:
                said = _no_protocol(agent_id, error)
            except Refused as refused:
                said = Answer(Reply.REFUSED, first.item_id, first.turn, refusal=refused.refusal)
                if refused.refusal.code is Code.OFFSET:
                    said = Answer(Reply.HAVE, first.item_id, first.turn, offset=refused.refusal.have)
                    taken = 1  # those behind it may still begin where the upload ends
            if said is not None:
                self._say(link, agent_id, said, None)
            pieces = pieces[taken:]

    def _opened(self, agent_id: bytes, payloads: Sequence[bytes]) -> tuple[list[Piece], list[Answer]]:
        """The pieces that may be stored, and what is said to the others. Blocks: they are hashed, and the catalogue is asked once."""
        refusal: Refusal | None = None
        try:
            self._receiver.admit(agent_id)
        except Refused as refused:
            refusal = refused.refusal
        pieces, answers = [], []
        for payload in payloads:
            try:
                piece = parse_piece(payload)
            except (SealError, BadName) as error:
                answers.append(_no_protocol(agent_id, error))
                continue
            try:
                _same_agent(agent_id, piece.agent_id)
            except Refused as refused:
                answers.append(Answer(Reply.REFUSED, piece.item_id, piece.turn, refusal=refused.refusal))
                continue
            if refusal is None:
                pieces.append(piece)
            else:
                answers.append(Answer(Reply.REFUSED, piece.item_id, piece.turn, refusal=refusal))
        return pieces, answers

    async def _store(self, agent_id: bytes, run: Sequence[Piece]) -> int | None:
        """Bytes that are durable after neighbouring pieces of one item; see `Receiver.pieces`."""
        first = run[0]
        if first.item is not None:
            header = self._verified(agent_id, first.item)
            if (header.item_id, header.size) != (first.item_id, first.total):
                raise Refused(Code.BAD_REQUEST, "The piece and its announcement are about different items")
            have = await self._receiver.create(agent_id, header)
            if have > 0:
                raise Refused(Code.OFFSET, "The bytes do not begin where the upload ends", have=have)
        return await self._receiver.pieces(agent_id, first.item_id, first.offset, [piece.data for piece in run])

    async def _asked(self, agent_id: bytes, message: Message) -> Answer | None:
        try:
            return await self._ask(agent_id, message)
        except (SealError, BadName) as error:
            return _no_protocol(agent_id, error)

    async def _ask(self, agent_id: bytes, message: Message) -> Answer | None:
        ask = parse_ask(message.payload)
        try:
            _same_agent(agent_id, ask.agent_id)
            await asyncio.to_thread(self._receiver.admit, agent_id)
            if ask.verb is Verb.WITNESS:
                signed = await asyncio.to_thread(self._book.countersign, agent_id, parse_witness_ask(ask.body))
                return Answer(Reply.RECEIPT, ask.subject, ask.turn, cose=signed)
            check_upload_id(ask.subject)
            if ask.verb is Verb.OFFSET:
                return await self._offset(agent_id, ask)
            return await self._finish(agent_id, ask, message.correlation)
        except Refused as refused:
            return Answer(Reply.REFUSED, ask.subject, ask.turn, refusal=refused.refusal)

    async def _offset(self, agent_id: bytes, ask: Ask) -> Answer:
        await self._receiver.agent(agent_id)
        have: int | None = None
        with contextlib.suppress(Refused):  # unknown, or refused before: to be sent from the beginning
            have, _ = await self._receiver.status(agent_id, ask.subject)
        return Answer(Reply.HAVE, ask.subject, ask.turn, offset=have)

    async def _finish(self, agent_id: bytes, ask: Ask, correlation: bytes | None) -> Answer | None:
        header = self._verified(agent_id, ask.body)
        if header.item_id != ask.subject or header.sha256 is None:
            raise Refused(Code.NO_DIGEST, "A finish names the item and its SHA-256")
        have = await self._receiver.create(agent_id, header)
        if have != header.size:
            return Answer(Reply.HAVE, ask.subject, ask.turn, offset=have)
        await self._receiver.finish(agent_id, ask.subject, header.sha256)
        key = (agent_id, ask.subject)
        if key in self._checking:
            return Answer(Reply.WORKING, ask.subject, ask.turn)
        task = asyncio.create_task(self._check(agent_id, ask, correlation))
        self._checking[key] = task
        task.add_done_callback(lambda _: self._checking.pop(key, None))
        return None

    async def _check(self, agent_id: bytes, ask: Ask, correlation: bytes | None) -> None:
        try:
            custody = await self._receiver.receipt(agent_id, ask.subject, None)
            reply = Reply.WORKING if custody is None else Reply.RECEIPT
            answer = Answer(reply, ask.subject, ask.turn, cose=custody)
        except Refused as refused:
            answer = Answer(Reply.REFUSED, ask.subject, ask.turn, refusal=refused.refusal)
        if self._link is not None:
            self._say(self._link, agent_id, answer, correlation)

    def _verified(self, agent_id: bytes, body: bytes) -> ItemHeader:
        signed = parse_signed_item(body)
        return parse_header(checked_payload(signed.cose, signed.chain.encode(), SIGNED_ITEM, agent_id, self._root))

    def _say(self, link: Link, agent_id: bytes, answer: Answer, correlation: bytes | None) -> None:
        link.publish(topic(agent_id, "reply", self._prefix), answer.encode(), link.properties(correlation))


def _run(pieces: Sequence[Piece]) -> list[Piece]:
    """The first pieces, as far as each begins where the one before ends."""
    run = [pieces[0]]
    for piece in pieces[1:]:
        last = run[-1]
        if (piece.item_id, piece.turn, piece.offset) != (last.item_id, last.turn, last.offset + len(last.data)) or piece.item is not None:
            break
        run.append(piece)
    return run


def _no_protocol(agent_id: bytes, error: Exception) -> Answer:
    _LOG.warning("refused a message of agent %s: %s", agent_id.hex(), error)
    refusal = Refused(Code.BAD_REQUEST, "This is not what the protocol says", why=str(error)).refusal
    return Answer(Reply.REFUSED, "", 0, refusal=refusal)


def _same_agent(agent_id: bytes, named: bytes) -> None:
    if named != agent_id:
        why = f"the topic names agent {agent_id.hex()}, the message {named.hex()}"
        raise Refused(Code.WRONG_AGENT, "An agent may only speak for itself", why=why)
