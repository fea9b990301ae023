"""One MQTT connection: paho's network thread on one side, asyncio on the other.

Invariants: a link is used once. When the connection is lost the link is dead and a new one is opened, so nothing that
paho still has in its queue is ever sent again (an over-size message would otherwise be repeated on every reconnect,
for ever). No more messages are unacknowledged than the broker's Receive Maximum. MQTT 5 is tried first, then 3.1.1.
Nothing that the broker says is proof of anything; `publish` is "queued", a PUBACK only tells who listens. What has
arrived is handled together and in order; meanwhile the next `INBOX` bytes are received, and then the network thread
waits, which is the back-pressure. A handler must therefore never wait for a PUBACK.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.errors import PermissionRefused, TargetUnreachable
from edge_agent.wire.broker import Broker, unreachable
from edge_agent.wire.bulk import BulkSocket
from edge_agent.wire.memory import keep_freed_memory

NO_LISTENER = 0x10
"""PUBACK reason of MQTT 5: nobody is subscribed to the topic."""

INBOX = 8 << 20
"""Bytes of messages that wait while others are handled; the last one may go over it."""

_AUTH = frozenset({0x86, 0x87, 0x8C})
_VERSION = 0x84
_LOG = logging.getLogger(__name__)
_MAX_PACKET = 268_435_455


@dataclass(frozen=True, slots=True)
class Message:
    """One received message. ``correlation`` is MQTT 5 correlation data, if there was any."""

    topic: str
    payload: bytes
    retained: bool
    correlation: bytes | None


Handler = Callable[["Link", Sequence[Message]], Awaitable[None]]


class Link:
    """A live connection; made by `open_link`."""

    def __init__(self, client: paho.Client, loop: asyncio.AbstractEventLoop, handler: Handler, protocol: MQTTProtocolVersion) -> None:
        self._client = client
        self._loop = loop
        self._handler = handler
        self._inbox: list[Message] = []
        self._inbox_bytes = 0
        self._room = threading.Condition()
        self._arrived = asyncio.Event()
        self._handling = loop.create_task(self._handle())
        self._acked: dict[int, asyncio.Future[int]] = {}
        self._waiting: deque[tuple[str, bytes, Properties | None, asyncio.Future[int]]] = deque()
        self._connack: asyncio.Future[None] = loop.create_future()
        self._subscribed: asyncio.Future[None] = loop.create_future()
        self._closing = False
        self.protocol = protocol
        self.lost: asyncio.Future[str] = loop.create_future()
        """Done, with the reason, when the connection is gone."""
        self.receive_maximum = 20
        self.maximum_packet = _MAX_PACKET
        client.on_socket_open = _without_delay
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message

    def publish(self, topic: str, payload: bytes, properties: Properties | None = None) -> asyncio.Future[int]:
        """Queue a message, QoS 1.

        The future is the PUBACK's reason code (0 with 3.1.1), or is cancelled when the link dies: neither proves
        anything. What paho's ``publish`` returns is not looked at: it says NO_CONN for messages that it has queued.
        """
        acked: asyncio.Future[int] = self._loop.create_future()
        if self.lost.done():
            acked.cancel()
        else:
            self._waiting.append((topic, payload, properties, acked))
            self._go_on()
        return acked

    def _go_on(self) -> None:
        """Hand to paho what the broker takes now: paho itself does not look at Receive Maximum."""
        while self._waiting and len(self._acked) < self.receive_maximum:
            topic, payload, properties, acked = self._waiting.popleft()
            self._acked[self._client.publish(topic, payload, qos=1, properties=properties).mid] = acked

    def properties(self, correlation: bytes | None, response: str | None = None, user: Sequence[tuple[str, str]] = ()) -> Properties | None:
        """MQTT 5 properties that repeat what the payload says; None with 3.1.1, and for nothing: paho takes long to make them."""
        if self.protocol != MQTTProtocolVersion.MQTTv5 or (correlation is None and response is None and not user):
            return None
        properties: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if correlation is not None:
            properties.CorrelationData = correlation
        if response is not None:
            properties.ResponseTopic = response
        if user:
            properties.UserProperty = list(user)
        return properties  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Disconnect and end the network thread; callable twice."""
        with self._room:
            self._closing = True
            self._room.notify_all()
        self._handling.cancel()
        await asyncio.shield(asyncio.to_thread(self._stop))
        self._die("closed")

    def _stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    async def _start(self, broker: Broker, topics: Sequence[str], timeout: float) -> None:
        """Connect and subscribe.

        Raises:
            _WrongVersion: the broker does not speak this version.
            PermissionRefused: it refuses the login or a subscription.
            TargetUnreachable: anything else.
        """
        try:
            if broker.tls is not None:
                await _look_at(broker, timeout)
            await asyncio.to_thread(self._client.connect, broker.host, broker.port, 30, properties=self._wishes())
        except (OSError, ValueError) as error:
            raise unreachable(broker, str(error) or type(error).__name__, error) from error
        self._client.loop_start()
        try:
            async with asyncio.timeout(timeout):
                await self._first(self._connack, broker)
                if topics:
                    self._client.subscribe([(topic, 1) for topic in topics])
                    await self._first(self._subscribed, broker)
        except TimeoutError as error:
            raise unreachable(broker, f"no answer within {timeout:g} s", error) from error

    def _wishes(self) -> Properties | None:
        """The session ends with the connection: whoever comes again asks how far it came, and a broker keeps nothing for who does not."""
        if self.protocol != MQTTProtocolVersion.MQTTv5:
            return None  # clean_session says it there
        wishes: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        wishes.SessionExpiryInterval = 0
        return wishes  # type: ignore[no-any-return]

    async def _first(self, awaited: asyncio.Future[None], broker: Broker) -> None:
        waiting: list[asyncio.Future[Any]] = [awaited, self.lost]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if awaited.done():
            awaited.result()
        elif self.protocol == MQTTProtocolVersion.MQTTv5 and awaited is self._connack:
            raise _WrongVersionError(self.lost.result())
        else:
            raise unreachable(broker, f"it closed the connection ({self.lost.result()})")

    # ---- paho's thread

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: ReasonCode, properties: Properties | None) -> None:
        self._call(self._connected, reason, properties)

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
        self._call(self._die, str(reason))

    def _on_subscribe(self, _client: Any, _data: Any, _mid: int, reasons: list[ReasonCode], _properties: Any) -> None:
        self._call(self._subscription, [str(reason) for reason in reasons if reason.is_failure])

    def _on_publish(self, _client: Any, _data: Any, mid: int, reason: ReasonCode, _properties: Any) -> None:
        self._call(self._puback, mid, int(reason.value))

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        correlation = getattr(message.properties, "CorrelationData", None)
        received = Message(message.topic, bytes(message.payload), message.retain, correlation)
        with self._room:
            self._room.wait_for(lambda: self._closing or self._inbox_bytes < INBOX)
            if self._closing:
                return
            self._inbox.append(received)
            self._inbox_bytes += len(received.payload)
            first = len(self._inbox) == 1
        if first:
            self._call(self._arrived.set)

    # ---- the loop's thread

    async def _handle(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            with self._room:
                messages, self._inbox, self._inbox_bytes = self._inbox, [], 0
                self._room.notify_all()
            try:
                await self._handler(self, messages)
            except Exception:
                _LOG.exception("messages on %s could not be handled", ", ".join(sorted({message.topic for message in messages})))

    def _connected(self, reason: ReasonCode, properties: Any) -> None:
        if self._connack.done():
            return
        code = int(reason.value)
        if code == _VERSION:
            self._connack.set_exception(_WrongVersionError(str(reason)))
        elif code in _AUTH:
            refused = PermissionRefused(
                "The broker refuses the login", why=str(reason), try_="check user name, password and client id", code="BROKER_LOGIN"
            )
            self._connack.set_exception(refused)
        elif reason.is_failure:
            self._connack.set_exception(TargetUnreachable("The broker refuses the connection", why=str(reason), code="BROKER_REFUSED"))
        else:
            self.receive_maximum = getattr(properties, "ReceiveMaximum", None) or self.receive_maximum
            self.maximum_packet = getattr(properties, "MaximumPacketSize", None) or self.maximum_packet
            self._connack.set_result(None)

    def _subscription(self, failures: list[str]) -> None:
        if self._subscribed.done():
            return
        if failures:
            why = ", ".join(failures)
            refused = PermissionRefused(
                "The broker refuses a subscription",
                why=why,
                try_="allow edge/v1/<agent>/reply to agents and edge/v1/# to the landing service",
                code="BROKER_ACL",
            )
            self._subscribed.set_exception(refused)
        else:
            self._subscribed.set_result(None)

    def _puback(self, mid: int, reason: int) -> None:
        acked = self._acked.pop(mid, None)
        if acked is not None and not acked.done():
            acked.set_result(reason)
        if not self.lost.done():
            self._go_on()

    def _die(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)
        for acked in (*self._acked.values(), *(waiting[-1] for waiting in self._waiting)):
            acked.cancel()
        self._acked.clear()
        self._waiting.clear()


def _without_delay(_client: Any, _data: Any, sock: Any) -> None:
    """A short packet behind a long one would wait for the other side's delayed acknowledgement, 40 ms of Linux."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class _WrongVersionError(Exception):
    pass


async def _look_at(broker: Broker, timeout: float) -> None:
    """Check the broker's certificate on a connection of our own: paho leaves the socket of a failed handshake open."""
    async with asyncio.timeout(timeout):
        _, writer = await asyncio.open_connection(broker.host, broker.port, ssl=broker.tls)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def open_link(broker: Broker, topics: Sequence[str], handler: Handler, *, client_id: str = "", timeout: float = 10.0) -> Link:
    """Connect and subscribe, with MQTT 5 if the broker speaks it, else 3.1.1.

    Args:
        broker: where.
        topics: filters to subscribe to, QoS 1.
        handler: called in the loop with the messages that have arrived, at least one; the next call waits for it.
        client_id: "" for a random one.
        timeout: s, for each of the two attempts.

    Raises:
        TargetUnreachable: no broker, no answer.
        PermissionRefused: the login or a subscription is refused.
    """
    keep_freed_memory()
    for protocol in (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311):
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id or f"edge-{uuid.uuid4().hex[:16]}",
            clean_session=None if protocol == MQTTProtocolVersion.MQTTv5 else True,
            protocol=protocol,
            reconnect_on_failure=False,
        )
        client.connect_timeout = timeout
        if broker.username is not None:
            client.username_pw_set(broker.username, broker.password)
        if broker.tls is not None:
            broker.tls.sslsocket_class = BulkSocket
            client.tls_set_context(broker.tls)
        link = Link(client, asyncio.get_running_loop(), handler, protocol)
        try:
            await link._start(broker, topics, timeout)  # noqa: SLF001 - its own factory
        except _WrongVersionError as error:
            await link.close()
            last = str(error)
            continue
        except BaseException:
            await link.close()
            raise
        return link
    raise unreachable(broker, f"it speaks neither MQTT 5 nor 3.1.1 ({last})")
