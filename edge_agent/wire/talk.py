"""Questions and answers that both doors of a landing service share, and the topics of the MQTT door.

Over MQTT an `Ask` goes to ``edge/v1/<agent>/ask`` and its `Answer` comes back on ``edge/v1/<agent>/reply``, never on
a topic that a message names. Over HTTPS the same questions are routes, and `WitnessAsk` is the body of ``POST
/witness``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from edge_agent.seal.cbor import SealError, dumps, fields, loads
from edge_agent.wire.refusal import Refusal, from_value

ASK_NAME = "EAP/1/ask"
ANSWER_NAME = "EAP/1/answer"
MAX_CONTROL = 1 << 18
"""Bytes of a question or answer: a key chain and a proof of 64 hashes are far smaller."""

PREFIX = "edge"
"""Beginning of all topics, unless a site configures another."""

_AGENT = re.compile(r"[0-9a-f]{32}")
_CHANNELS = frozenset({"piece", "ask"})


def topic(agent_id: bytes, channel: str, prefix: str = PREFIX) -> str:
    """``<prefix>/v1/<agent id, hex>/<piece | ask | reply>``."""
    return f"{prefix}/v1/{agent_id.hex()}/{channel}"


def door_topics(prefix: str = PREFIX) -> list[str]:
    """What a landing service subscribes to."""
    return [f"{prefix}/v1/+/{channel}" for channel in sorted(_CHANNELS)]


def parse_topic(name: str, prefix: str = PREFIX) -> tuple[bytes, str]:
    """Agent id and channel of a topic that an agent publishes to.

    Raises:
        SealError: any other topic.
    """
    start = f"{prefix}/v1/"
    agent, _, channel = name.removeprefix(start).partition("/")
    if not name.startswith(start) or not _AGENT.fullmatch(agent) or channel not in _CHANNELS:
        raise SealError(f"topic {name[:80]!r}: not {start}<agent id>/piece or ask")
    return bytes.fromhex(agent), channel


class Verb(StrEnum):
    """What an agent asks."""

    OFFSET = "offset"  # how much of this item do you have?
    FINISH = "finish"  # that was all; give me the receipt. Body: SignedItem with the digest
    WITNESS = "witness"  # countersign this head. Body: WitnessAsk


@dataclass(frozen=True, slots=True)
class Ask:
    """A question. ``subject`` is an upload id, or the log id in hex; ``turn`` comes back in the answer."""

    agent_id: bytes
    verb: Verb
    subject: str
    turn: int
    body: bytes = b""

    def encode(self) -> bytes:
        """Deterministic CBOR."""
        return dumps({1: ASK_NAME, 2: self.agent_id, 3: str(self.verb), 4: self.subject, 5: self.turn, 6: self.body})


def parse_ask(data: bytes) -> Ask:
    """The question in its CBOR.

    Raises:
        SealError: not one.
    """
    if len(data) > MAX_CONTROL:
        raise SealError(f"ask: {len(data)} bytes")
    name, agent, verb, subject, turn, body = fields(loads(data, "ask"), "ask", k1=str, k2=bytes, k3=str, k4=str, k5=int, k6=bytes)
    if name != ASK_NAME or verb not in set(Verb):
        raise SealError("ask: another message")
    return Ask(agent, Verb(verb), subject, turn, body)


class Reply(StrEnum):
    """What an answer says."""

    HAVE = "have"  # so many bytes are durable; None: no such upload
    WORKING = "working"  # all bytes are here and are being checked
    RECEIPT = "receipt"  # the COSE of a CUSTODY or WITNESS
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a piece or a question about ``subject``."""

    reply: Reply
    subject: str
    turn: int
    offset: int | None = None
    cose: bytes | None = None
    refusal: Refusal | None = None

    def encode(self) -> bytes:
        """Deterministic CBOR."""
        refusal = None if self.refusal is None else self.refusal.value()
        return dumps({1: ANSWER_NAME, 2: str(self.reply), 3: self.subject, 4: self.turn, 5: self.offset, 6: self.cose, 7: refusal})


def parse_answer(data: bytes) -> Answer:
    """The answer in its CBOR.

    Raises:
        SealError: not one, or one that lacks what its kind promises.
    """
    if len(data) > MAX_CONTROL:
        raise SealError(f"answer: {len(data)} bytes")
    name, reply, subject, turn, offset, cose, refusal = fields(
        loads(data, "answer"), "answer",
        k1=str, k2=str, k3=str, k4=int, k5=(int, type(None)), k6=(bytes, type(None)), k7=(list, type(None)),
    )  # fmt: skip
    if name != ANSWER_NAME or reply not in set(Reply):
        raise SealError("answer: another message")
    if (reply == Reply.RECEIPT) != (cose is not None) or (reply == Reply.REFUSED) != (refusal is not None):
        raise SealError(f"answer: {reply!r} without what it promises")
    return Answer(Reply(reply), subject, turn, offset, cose, None if refusal is None else from_value(refusal))


@dataclass(frozen=True, slots=True)
class WitnessAsk:
    """A head of the agent log to be countersigned: its COSE, its key chain (CBOR), RFC 9162 consistency proof from size ``first``."""

    head: bytes
    chain: bytes
    first: int
    proof: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Deterministic CBOR."""
        return dumps({1: self.head, 2: self.chain, 3: self.first, 4: list(self.proof)})


def parse_witness_ask(data: bytes) -> WitnessAsk:
    """The question in its CBOR.

    Raises:
        SealError: not one.
    """
    if len(data) > MAX_CONTROL:
        raise SealError(f"witness: {len(data)} bytes")
    head, chain, first, proof = fields(loads(data, "witness"), "witness", k1=bytes, k2=bytes, k3=int, k4=list)
    if not all(isinstance(digest, bytes) and len(digest) == 32 for digest in proof) or first < 0:
        raise SealError("witness: the proof is not a list of hashes")
    return WitnessAsk(head, chain, first, tuple(proof))
