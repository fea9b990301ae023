"""Talking with a landing service over MQTT: questions with a turn number, answers sorted by what they are about.

A link that is lost is thrown away with everything that paho had queued, and the next talk opens a new one. An answer
counts only for the turn that it names: late answers to earlier turns are ignored.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from edge_agent.errors import TargetUnreachable
from edge_agent.seal.cbor import SealError
from edge_agent.wire.broker import Broker
from edge_agent.wire.link import NO_LISTENER, Link, Message, open_link
from edge_agent.wire.talk import Answer, Ask, Verb, parse_answer, topic

_LOG = logging.getLogger(__name__)


class SilenceError(Exception):
    """No answer in time, though the link stands."""


@dataclass(slots=True)
class Talk:
    """The answers about one subject, and the link on which it is talked about."""

    link: Link
    subject: str
    answers: asyncio.Queue[Answer] = field(default_factory=asyncio.Queue)


class Talks:
    """All talks of one target, over one link at a time."""

    def __init__(self, name: str, broker: Broker, agent_id: bytes, prefix: str, timeout: float) -> None:
        self._name = name
        self._broker = broker
        self._agent_id = agent_id
        self._prefix = prefix
        self._timeout = timeout
        self._link: Link | None = None
        self._opening = asyncio.Lock()
        self._open: dict[str, Talk] = {}
        self._turn = secrets.randbits(40)

    async def connected(self) -> Link:
        """A live link.

        Raises:
            TargetUnreachable, PermissionRefused: see `open_link`.
        """
        async with self._opening:
            if self._link is not None and self._link.lost.done():
                await self.close()
            if self._link is None:
                reply = topic(self._agent_id, "reply", self._prefix)
                self._link = await open_link(self._broker, [reply], self._hear, timeout=self._timeout)
            return self._link

    async def close(self) -> None:
        """Close the link; callable twice."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    def next_turn(self) -> int:
        """A number that no answer on the way has."""
        self._turn += 1
        return self._turn

    def publish(self, talk: Talk, channel: str, payload: bytes) -> asyncio.Future[int]:
        """Queue a message on one of our topics; MQTT 5 properties of a question repeat what it is about."""
        reply = topic(self._agent_id, "reply", self._prefix)
        # None for pieces: a receiver that is paho copies the message twice for each.
        properties = talk.link.properties(talk.subject.encode(), reply, [("item", talk.subject)]) if channel == "ask" else None
        return talk.link.publish(topic(self._agent_id, channel, self._prefix), payload, properties)

    async def ask(self, talk: Talk, verb: Verb, body: bytes = b"") -> Answer:
        """Ask, and ask once more when there is silence.

        Raises:
            TargetUnreachable: nobody answers; else as `answer`.
        """
        for _ in range(2):
            turn = self.next_turn()
            acked = self.publish(talk, "ask", Ask(self._agent_id, verb, talk.subject, turn, body).encode())
            try:
                return await self.answer(talk, {turn}, acked)
            except SilenceError:
                continue
        raise silent(self._name, f"no answer within {2 * self._timeout:g} s")

    async def answer(self, talk: Talk, turns: set[int], acked: asyncio.Future[int] | None = None) -> Answer:
        """The next answer to one of these turns.

        Raises:
            SilenceError: none in time.
            TargetUnreachable: the link is gone, or nobody listens at the broker.
            IntegrityError, PermissionRefused: it is a refusal.
        """
        deadline = asyncio.get_running_loop().time() + self._timeout
        while True:
            getting = asyncio.ensure_future(talk.answers.get())
            waiting: set[asyncio.Future[object]] = {getting, talk.link.lost}  # type: ignore[arg-type]
            if acked is not None:
                waiting.add(acked)  # type: ignore[arg-type]
            try:
                left = deadline - asyncio.get_running_loop().time()
                await asyncio.wait(waiting, timeout=max(left, 0), return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not getting.done():
                    getting.cancel()
            if getting.done() and not getting.cancelled():
                answer = getting.result()
                if answer.turn not in turns:
                    continue
                if answer.refusal is not None:
                    raise answer.refusal.error(self._name)
                return answer
            if talk.link.lost.done():
                raise BrokerLostError(self._name, talk.link.lost.result())
            if acked is not None and acked.done():
                if not acked.cancelled() and acked.result() == NO_LISTENER:
                    raise silent(self._name, "nobody listens to our topic at the broker")
                acked = None
                continue
            raise SilenceError

    async def _hear(self, _link: Link, messages: Sequence[Message]) -> None:
        """Messages on our reply topic; called by the link."""
        for message in messages:
            self._sort(message)

    def _sort(self, message: Message) -> None:
        try:
            answer = parse_answer(message.payload)
        except SealError as error:
            _LOG.warning("%s: ignored what is no answer: %s", self._name, error)
            return
        talk = self._open.get(answer.subject)
        if talk is not None:
            talk.answers.put_nowait(answer)
        elif answer.refusal is not None:
            _LOG.warning("%s: refused a message: %s", self._name, answer.refusal)

    @contextlib.contextmanager
    def about(self, link: Link, subject: str) -> Iterator[Talk]:
        """Collect the answers about one subject while the block runs."""
        talk = Talk(link, subject)
        self._open[subject] = talk
        try:
            yield talk
        finally:
            if self._open.get(subject) is talk:
                del self._open[subject]


class BrokerLostError(TargetUnreachable):
    """The link broke in the middle of a talk."""

    default_code = "BROKER_LOST"

    def __init__(self, target: str, why: str) -> None:
        super().__init__(f"{target}: the broker is gone", why=why, try_="it is tried again from where it was")


def silent(target: str, why: str) -> TargetUnreachable:
    """The broker is there, the landing service is not."""
    try_ = "check that the landing service runs and is connected to this broker; broker settings that drop messages look like this too"
    return TargetUnreachable(f"{target}: the landing service does not answer", why=why, try_=try_, code="LANDING_SILENT")
