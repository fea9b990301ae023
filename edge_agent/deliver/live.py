"""Live values and announcements for SINETStream readers, through an MQTT broker.

Live is not delivery: it proves nothing, and nothing waits for it. Of each stream the newest value is kept until the next turn and the older
ones are skipped; announcements wait in a queue of `WAITING`, of which the oldest give way. What is handed over has passed the policy. A
message leaves the queue when the broker acknowledged it; nothing is left to paho's own queue, so after a broken connection an announcement
may come twice, with the same ``item``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from edge_agent.errors import EdgeAgentError
from edge_agent.wire.broker import Broker
from edge_agent.wire.link import Link, Message, open_link
from edge_agent.wire.sinetstream import Word, topic

WAITING = 1000
ENVELOPE = 1024
"""Bytes that topic and properties may take of the broker's Maximum Packet Size."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
_LOG = logging.getLogger(__name__)


class Live:
    """One broker. All methods belong to the event loop; `value` and `announce` never wait."""

    def __init__(self, name: str, broker: Broker, prefix: str, *, every: float, timeout: float = 10.0) -> None:
        """Prepare; nothing is connected yet.

        Args:
            name: in the configuration.
            broker: where.
            prefix: beginning of all topics, as configured.
            every: s between two values of a stream.
            timeout: s, for the broker's acknowledgements.
        """
        self.name = name
        self._broker = broker
        self._prefix = prefix
        self._every = every
        self._timeout = timeout
        self._values: dict[str, Callable[[], Word]] = {}
        self._announced: deque[Word] = deque(maxlen=WAITING)
        self._wake = asyncio.Event()
        self.dropped = 0
        """Announcements that gave way or were too large for the broker."""
        self.error = ""

    def value(self, key: str, word: Callable[[], Word]) -> None:
        """The newest value of a stream; takes the place of the one before, which nobody has to make into a message then."""
        self._values[key] = word

    def announce(self, word: Word) -> None:
        """Something landed."""
        self.dropped += len(self._announced) == WAITING
        self._announced.append(word)
        self._wake.set()

    async def run(self) -> None:
        """Connect, send, connect again; returns only when cancelled."""
        pause = FIRST_PAUSE
        while True:
            try:
                link = await open_link(self._broker, [], _nothing, timeout=self._timeout)
            except EdgeAgentError as error:
                self._failed(str(error))
            else:
                self.error, pause = "", FIRST_PAUSE
                try:
                    await self._send_on(link)
                    self._failed(link.lost.result() if link.lost.done() else "the broker does not acknowledge")
                finally:
                    await link.close()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _send_on(self, link: Link) -> None:
        """Until the link is gone."""
        clock = asyncio.get_running_loop().time
        due = clock()
        while not link.lost.done():
            if clock() >= due:
                due = clock() + self._every
                values, self._values = self._values, {}
                if not await self._out(link, [word() for word in values.values()]):
                    return
            while self._announced:
                now = list(self._announced)[: _window(link)]
                if not await self._out(link, now):
                    return
                for word in now:
                    if self._announced and self._announced[0] is word:
                        self._announced.popleft()
            self._wake.clear()
            waking = asyncio.ensure_future(self._wake.wait())
            try:
                waiting: set[asyncio.Future[Any]] = {waking, link.lost}
                await asyncio.wait(waiting, timeout=max(0.0, due - clock()), return_when=asyncio.FIRST_COMPLETED)
            finally:
                waking.cancel()

    async def _out(self, link: Link, words: list[Word]) -> bool:
        """Send, at most as many at once as the broker takes; whether all were acknowledged."""
        window = _window(link)
        for start in range(0, len(words), window):
            acks = []
            for word in words[start : start + window]:
                payload = word.payload()
                if len(payload) > link.maximum_packet - ENVELOPE:
                    self.dropped += 1
                    _LOG.warning("live %s: a message of %d bytes is too large for the broker", self.name, len(payload))
                    continue
                user = [(key, str(word.content[key])) for key in ("item", "sha256") if key in word.content]
                acks.append(link.publish(f"{self._prefix}/{topic(*word.levels)}", payload, link.properties(None, None, user)))
            if acks:
                done, _ = await asyncio.wait(acks, timeout=self._timeout)
                if len(done) < len(acks) or any(ack.cancelled() for ack in acks):
                    return False
        return True

    def _failed(self, why: str) -> None:
        if not self.error:
            _LOG.warning("live %s: no values go out: %s", self.name, why)
        self.error = why


def _window(link: Link) -> int:
    return max(1, min(20, link.receive_maximum))


async def _nothing(_link: Link, _messages: Sequence[Message]) -> None:
    """Nothing is subscribed to."""
