"""One subscription with its monitored items, from its creation until something is wrong with it.

Invariants: values are handled in the order of the server's messages, a message that was lost is declared for every
stream; while the recorder is behind, no further message is asked for, so the server's queues fill and say so; the
server's clock is monitored beside the variables, so silence is noticed whatever keep-alive the server grants.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from asyncua import ua

from adapters.opcua.config import OpcUaConfig
from adapters.opcua.nodes import BATCH, Variable
from adapters.opcua.values import Form, Sample, Unusable, read_value
from edge_agent.model import Cause, Gap, Stream, utc_now_ns

HEARTBEAT = 1
"""Client handle of the server's clock (Server_ServerStatus_CurrentTime, which every server has)."""

FIRST_HANDLE = 100
HEARTBEAT_SECONDS = 1.0
LIFETIME_SECONDS = 60.0
MESSAGES = 64
"""Messages that may wait here before the next one is asked for."""

log = logging.getLogger(__name__)


class SubscriptionLost(ConnectionError):
    """The server ended the subscription, or nothing of it came for too long."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A monitored item as the server grants it, and what it says when it does not."""

    variable: Variable
    sampling: float
    queue: int
    refused: str = ""


class Taker(Protocol):
    """Where the values of one variable go; see `adapters.opcua.rows.RowStream`."""

    stream: Stream

    def subscribed(self, stream: Stream, form: Form | None) -> None:
        """A new subscription begins."""
        ...

    def declare(self, gap: Gap) -> None:
        """Something is missing."""
        ...

    async def take(self, samples: Sequence[Sample]) -> None:
        """Values, in their order."""
        ...


class Subscription:
    """Call `start`, `add` variables with their streams, then `deliver`, which ends only by an exception."""

    def __init__(self, client: Any, config: OpcUaConfig) -> None:
        self._client = client
        self._config = config
        self._id = 0
        self._messages: asyncio.Queue[Any] = asyncio.Queue(MESSAGES)
        self._streams: dict[int, Taker] = {}
        self._next_handle = FIRST_HANDLE
        self._sequence: int | None = None
        self._period = 0.0
        self._heard = time.monotonic()
        self.heard_ns = utc_now_ns()

    async def start(self) -> dict[str, str | int | float]:
        """Create the subscription; returns what the server grants, for the record."""
        publish = self._config.publish
        keep_alive = max(1, round(HEARTBEAT_SECONDS * 2 / publish))
        asked = ua.CreateSubscriptionParameters(
            RequestedPublishingInterval=publish * 1000,
            RequestedLifetimeCount=max(3 * keep_alive, round(LIFETIME_SECONDS / publish)),
            RequestedMaxKeepAliveCount=keep_alive,
            MaxNotificationsPerPublish=0,
            PublishingEnabled=True,
        )
        granted = await self._client.uaclient.create_subscription(asked, callback=self._published)
        self._id = granted.SubscriptionId
        interval = granted.RevisedPublishingInterval / 1000
        if interval > publish * 1.01:
            log.warning(
                "%s: the server publishes every %g ms instead of every %g ms", self._config.endpoint, interval * 1000, publish * 1000
            )
        self._period = max(interval * granted.RevisedMaxKeepAliveCount, interval)
        clock = ua.NodeId(ua.ObjectIds.Server_ServerStatus_CurrentTime)
        heartbeat = await self._create([_request(clock, HEARTBEAT, HEARTBEAT_SECONDS, 1)])
        if heartbeat[0].StatusCode.is_good():
            self._period = max(interval, heartbeat[0].RevisedSamplingInterval / 1000, HEARTBEAT_SECONDS)
        else:
            log.warning("%s: its clock cannot be monitored; silence is noticed after %g s only", self._config.endpoint, 3 * self._period)
        return {"publish_ms": interval * 1000, "keep_alive_count": int(granted.RevisedMaxKeepAliveCount)}

    async def add(self, variables: Sequence[Variable], streams: Mapping[str, Taker]) -> list[Granted]:
        """Monitor variables; their values go to the streams of their names. A refused one is among the results, too."""
        granted: list[Granted] = []
        for i in range(0, len(variables), BATCH):
            batch = variables[i : i + BATCH]
            handles = range(self._next_handle, self._next_handle + len(batch))
            self._next_handle += len(batch)
            for handle, variable in zip(handles, batch, strict=True):
                self._streams[handle] = streams[variable.stream.name]
            requests = [_request(v.node_id, h, self._config.sampling, self._config.queue) for h, v in zip(handles, batch, strict=True)]
            for handle, variable, result in zip(handles, batch, await self._create(requests), strict=True):
                if result.StatusCode.is_bad():
                    del self._streams[handle]
                    granted.append(Granted(variable, 0, 0, result.StatusCode.name))
                    continue
                one = Granted(variable, result.RevisedSamplingInterval / 1000, int(result.RevisedQueueSize))
                # In the description, so that whoever reads the values knows how closely they were looked at.
                streams[variable.stream.name].subscribed(described(variable.stream, one), variable.form)
                granted.append(one)
        return granted

    async def deliver(self) -> None:
        """Hand values over until the subscription is lost; raises `SubscriptionLost`, or what a stream raised."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            while True:
                await self._handle(await self._messages.get())

    async def _published(self, result: Any) -> None:
        self._heard, self.heard_ns = time.monotonic(), utc_now_ns()
        await self._messages.put((result, self.heard_ns))
        self._heard = time.monotonic()

    async def _watch(self) -> None:
        patience = 3 * self._period + self._config.timeout
        while True:
            await asyncio.sleep(patience / 4)
            silent = time.monotonic() - self._heard
            if silent > patience and self._messages.empty():
                raise SubscriptionLost(f"nothing came for {silent:.1f} s, not even the server's own clock")

    async def _handle(self, message: tuple[Any, int]) -> None:
        result, arrival = message
        notifications = result.NotificationMessage.NotificationData or []
        if not notifications:
            return  # a keep-alive
        self._count(int(result.NotificationMessage.SequenceNumber), notifications, arrival)
        batches: dict[Taker, list[Sample]] = {}
        for notification in notifications:
            if isinstance(notification, ua.StatusChangeNotification):
                raise SubscriptionLost(f"the server ended the subscription: {notification.Status.name}")
            for item in getattr(notification, "MonitoredItems", ()):
                # The heartbeat has done its work by arriving.
                if (stream := self._streams.get(item.ClientHandle)) is not None:
                    try:
                        batches.setdefault(stream, []).append(read_value(item.Value, arrival))
                    except Unusable as e:
                        log.warning("%s: %s", stream.stream.key, e)
                        stream.declare(Gap(Cause.GARBAGE, count=1, t_from=arrival, t_to=arrival, detail=str(e)))
        for stream, samples in batches.items():
            await stream.take(samples)

    def _count(self, number: int, notifications: Sequence[Any], arrival: int) -> None:
        """Messages are numbered one by one (OPC 10000-4, 5.14.1.4); 0 is what the library makes up itself."""
        if any(isinstance(one, ua.StatusChangeNotification) for one in notifications):
            return
        lost = 0 if self._sequence is None else number - self._sequence - 1
        self._sequence = number
        if lost > 0:
            why = f"{lost} messages of the server did not arrive or could not be decoded"
            log.warning("%s: %s", self._config.endpoint, why)
            for stream in self._streams.values():
                stream.declare(Gap(Cause.GARBAGE, t_from=self.heard_ns, t_to=arrival, detail=why))

    async def _create(self, requests: list[Any]) -> list[Any]:
        parameters = ua.CreateMonitoredItemsParameters(
            SubscriptionId=self._id, TimestampsToReturn=ua.TimestampsToReturn.Both, ItemsToCreate=requests
        )
        results: list[Any] = await self._client.uaclient.create_monitored_items(parameters)
        return results


def complaints(granted: Sequence[Granted], config: OpcUaConfig) -> list[str]:
    """What the server grants less than was asked, in words: it loses changes without saying so."""
    found = []
    slow = [f"{one.variable.stream.name} every {one.sampling * 1000:g} ms" for one in granted if one.sampling > config.sampling]
    if slow:
        asked = f"{config.sampling * 1000:g} ms"
        found.append(f"changes between two samples are not seen: asked for a look every {asked}, granted {', '.join(slow)}")
    small = [f"{one.variable.stream.name} {one.queue}" for one in granted if not one.refused and one.queue < config.queue]
    if small:
        found.append(f"queues are shorter than the {config.queue} asked for: {', '.join(small)}")
    return found


def described(stream: Stream, granted: Granted) -> Stream:
    """The stream with what the server grants among its attributes."""
    return replace(stream, attributes={**stream.attributes, "sampling_ms": granted.sampling * 1000, "server_queue": granted.queue})


def _request(node_id: Any, handle: int, sampling: float, queue: int) -> Any:
    return ua.MonitoredItemCreateRequest(
        ItemToMonitor=ua.ReadValueId(NodeId=node_id, AttributeId=ua.AttributeIds.Value),
        MonitoringMode=ua.MonitoringMode.Reporting,
        RequestedParameters=ua.MonitoringParameters(
            ClientHandle=handle, SamplingInterval=sampling * 1000, QueueSize=queue, DiscardOldest=True
        ),
    )
