"""A landing service behind an MQTT broker: pieces of at most 1 MiB, answered as they become durable, and the same CUSTODY at the end.

Invariants: a PUBACK proves nothing; pieces count when the landing service says so, and the item counts when its
receipt is believed. At most ``window`` pieces are unanswered. A link that is lost is thrown away with everything that
it had queued; the next attempt asks for the offset and goes on from there. Pieces that never arrive while questions
do are too large for the broker, which says so to nobody: they are made smaller.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edge_agent.deliver.mqtt_talk import BrokerLostError, SilenceError, Talk, Talks, silent
from edge_agent.deliver.outgoing import OutgoingFile, announce, late, once_more
from edge_agent.deliver.pace import UNLIMITED, Pace
from edge_agent.deliver.pieces import PiecesAhead
from edge_agent.deliver.target import Capabilities, Progress
from edge_agent.errors import PermissionRefused
from edge_agent.model import OutboxItem, Proof, Receipt
from edge_agent.seal import cose
from edge_agent.seal.head import parse_head
from edge_agent.seal.keys import KeyChain
from edge_agent.wire.broker import Broker
from edge_agent.wire.item import ItemHeader, sign_item
from edge_agent.wire.link import Link
from edge_agent.wire.piece import MAX_MESSAGE, room
from edge_agent.wire.proof import ReceiptTrust
from edge_agent.wire.talk import PREFIX, Ask, Reply, Verb, WitnessAsk

MESSAGE = 1_000_000
"""Bytes of one message: below the 1 MiB that some brokers count with topic and properties."""

SMALLEST = 16 << 10
ENVELOPE = 1024
"""Bytes that topic and MQTT 5 properties may take of the broker's Maximum Packet Size."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who signs announcements: a session key and its chain."""

    signer: cose.Signer = field(repr=False)
    chain: KeyChain


class MqttTarget:
    """See `edge_agent.deliver.target.Target` and ``Witnesses``."""

    def __init__(
        self,
        name: str,
        broker: Broker,
        agent_id: bytes,
        speaker: Callable[[], Speaker],
        trust: Callable[[], ReceiptTrust],
        *,
        prefix: str = PREFIX,
        message: int = MESSAGE,
        window: int = 16,
        timeout: float = 10.0,
        patience: float = 900.0,
        pace: Pace = UNLIMITED,
    ) -> None:
        """Prepare; nothing is connected yet.

        Args:
            name: in the configuration.
            broker: where.
            agent_id: 16 bytes.
            speaker: the session key of now.
            trust: whose receipts are believed, now.
            prefix: beginning of all topics.
            message: bytes of the largest message, at most 1 MiB.
            window: pieces that may be unanswered.
            timeout: s, for one answer.
            patience: s, for the check of one item.
            pace: how fast pieces are published.
        """
        self._talks = Talks(name, broker, agent_id, prefix, timeout)
        self._name = name
        self._agent_id = agent_id
        self._speaker = speaker
        self._trust = trust
        self._message = min(message, MAX_MESSAGE)
        self._window = window
        self._patience = patience
        self._pace = pace
        self._barren = 0

    @property
    def name(self) -> str:
        """Name in the configuration."""
        return self._name

    @property
    def message_size(self) -> int:
        """Bytes of the largest message now; falls when the broker does not carry larger ones."""
        return self._message

    async def probe(self) -> Capabilities:
        """See `Target.probe`."""
        with self._talks.about(await self._talks.connected(), "probe") as talk:
            await self._talks.ask(talk, Verb.OFFSET)
            return Capabilities(None, True, Proof.FSYNCED, f"landing service behind an {talk.link.protocol.name} broker")

    async def send(self, item: OutboxItem, progress: Progress) -> Receipt:
        """See `Target.send`."""
        return await once_more(self._deliver, item, progress)

    async def witness(self, head: bytes, chain: bytes, proof: Sequence[bytes], first: int) -> bytes:
        """See `Witnesses.witness`. When the service saw another size last: `edge_agent.wire.refusal.LogSizeDiffers`."""
        log_id = parse_head(cose.payload_of(head)).tree_id
        with self._talks.about(await self._talks.connected(), log_id.hex()) as talk:
            answer = await self._talks.ask(talk, Verb.WITNESS, WitnessAsk(head, chain, first, tuple(proof)).encode())
        if answer.cose is None:
            raise silent(self._name, "it answers something else")
        self._trust().witness(answer.cose, head, self._name)
        return answer.cose

    async def close(self) -> None:
        """See `Target.close`."""
        await self._talks.close()

    # ---- one upload

    async def _deliver(self, item: OutboxItem, progress: Progress) -> Receipt:
        header = announce(item, self._agent_id, self._name)
        with self._talks.about(await self._talks.connected(), header.item_id) as talk, await asyncio.to_thread(OutgoingFile, item) as file:
            try:
                await self._pieces(talk, header, file, progress)
            except BrokerLostError:
                # A broker that speaks MQTT 5 hangs up on a message that is too large: the second time in vain, send smaller ones.
                self._barren += 1
                if self._barren >= 2:
                    self._smaller()
                raise
            sha256 = await asyncio.to_thread(file.sha256)
            whole = header.with_digest(sha256)
            signed = await self._finish(talk, whole)
        custody = self._trust().custody(signed, whole, self._name)
        return Receipt(self._name, item.item_id, sha256, item.size, Proof(custody.durable), custody.t_ns, signed)

    async def _pieces(self, talk: Talk, header: ItemHeader, file: OutgoingFile, progress: Progress) -> None:
        """Send until the service has all bytes."""
        announced = self._signed(header)
        have = (await self._talks.ask(talk, Verb.OFFSET)).offset
        vain = barren = 0
        while have is None or have < header.size:
            progress(have or 0)
            before = have or 0
            try:
                have = await self._turn_of_pieces(talk, header, file, before, announced, progress)
            except SilenceError:
                # Small questions come through: so the broker is there, and drops the pieces.
                have = (await self._talks.ask(talk, Verb.OFFSET)).offset
                # Once is a server behind the broker that died with them; twice is the broker.
                barren = barren + 1 if (have or 0) <= before else 0
                if barren >= 2:
                    self._smaller()
            vain = 0 if (have or 0) > before else vain + 1
            if vain > 4 and have != header.size:
                raise silent(self._name, "pieces are not answered, or are not taken")
        progress(header.size)

    async def _turn_of_pieces(
        self, talk: Talk, header: ItemHeader, file: OutgoingFile, start: int, announced: bytes, progress: Progress
    ) -> int | None:
        """Send from ``start`` until everything is answered, or an answer says that the service wants another offset; returns that offset.

        Raises:
            SilenceError: no answer in time.
        """
        turn = self._talks.next_turn()
        window = max(1, min(self._window, talk.link.receive_maximum))
        unanswered: deque[int] = deque()
        offset, told, first = start, start, True
        pieces = PiecesAhead(file, header, turn, start, announced, lambda item: self._room(talk.link, item))
        try:
            while first or offset < header.size or unanswered:
                # The announcement goes alone: of several servers behind the broker, another one may take the next piece sooner.
                while len(unanswered) < (window if told else 1) and (first or offset < header.size):
                    piece = await pieces.next()
                    await asyncio.sleep(self._pace.delay(piece.size))
                    self._talks.publish(talk, "piece", piece.message)
                    offset += piece.size
                    unanswered.append(offset)
                    first = False
                answer = await self._talks.answer(talk, {turn})
                if answer.offset is not None and start <= answer.offset < told:
                    continue  # of another server, overtaken by the next one's
                if answer.offset is None or not unanswered[0] <= answer.offset <= offset:
                    return answer.offset
                told = answer.offset
                while unanswered and unanswered[0] <= answer.offset:
                    unanswered.popleft()
                self._barren = 0
                progress(answer.offset)
        finally:
            await pieces.close()
        return header.size

    async def _finish(self, talk: Talk, header: ItemHeader) -> bytes:
        """The COSE of the custody."""
        body = self._signed(header)
        turns: set[int] = set()
        silences = 0
        try:
            async with asyncio.timeout(self._patience):
                while True:
                    turn = self._talks.next_turn()
                    turns.add(turn)
                    self._talks.publish(talk, "ask", Ask(self._agent_id, Verb.FINISH, talk.subject, turn, body).encode())
                    try:
                        while True:
                            answer = await self._talks.answer(talk, turns)
                            silences = 0
                            if answer.cose is not None:
                                return answer.cose
                            if answer.reply is Reply.HAVE:
                                raise silent(self._name, f"it has {answer.offset} of {header.size} bytes after all were answered")
                    except SilenceError:
                        silences += 1
                        if silences > 3:
                            raise silent(self._name, "the receipt is not answered") from None
        except TimeoutError as error:
            raise late(self._name, self._patience) from error

    # ---- limits

    def _room(self, link: Link, item: bytes) -> int:
        """Data bytes of the next piece."""
        left = room(min(self._message, link.maximum_packet - ENVELOPE), item)
        if left < 1:
            raise PermissionRefused(
                f"{self._name}: the broker takes only tiny messages", why=f"at most {link.maximum_packet} bytes",
                try_="raise the broker's maximum packet size to 1 MiB", code="BROKER_PACKET",
            )  # fmt: skip
        return left

    def _smaller(self) -> None:
        if self._message > SMALLEST:
            self._message = max(SMALLEST, self._message // 4)
            _LOG.warning("%s: the broker seems to drop large messages; now at most %d bytes", self._name, self._message)

    def _signed(self, header: ItemHeader) -> bytes:
        speaker = self._speaker()
        return sign_item(header, speaker.signer, speaker.chain).encode()
