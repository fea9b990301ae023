"""The subscriptions of one session with their monitored items, from their creation until something is wrong with them.

Invariants: values are handled in the order of the server's messages, a message that was lost is declared for every
stream of its subscription; while the recorder is behind, no further message is asked for, so the server's queues fill
and say so: nothing is dropped here. The server's clock is monitored beside the variables, so silence is noticed whatever keep-alive the
server grants. Items that one subscription may not have go into another one of the same session.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from asyncua import ua

from adapters.opcua.binary import Structures, Undecodable
from adapters.opcua.config import OpcUaConfig
from adapters.opcua.nodes import Variable
from adapters.opcua.notifications import Published
from adapters.opcua.progress import Progress
from adapters.opcua.services import BATCH, ask, publish, read
from adapters.opcua.values import Form, Samples
from edge_agent.model import Cause, Gap, Stream, utc_now_ns

HEARTBEAT = 1
"""Client handle of the server's clock (Server_ServerStatus_CurrentTime, which every server has)."""

FIRST_HANDLE = 100
HEARTBEAT_SECONDS = 1.0
LIFETIME_SECONDS = 60.0
MESSAGES = 256
"""Messages that may wait here before the next one is asked for."""
GATHER_SECONDS = 0.2
"""Messages that follow each other faster are handed over together, this often."""
IN_FLIGHT = 3
"""Requests for messages that wait at the server, with one more for each further subscription; fewer where it refuses so many."""

_MOST_ITEMS = (24104, 24097)
"""MaxMonitoredItemsPerSubscription and MaxMonitoredItems of the server's capabilities."""
_FULL = ("BadTooManyMonitoredItems", "BadOutOfMemory", "BadTooManyOperations")

log = logging.getLogger(__name__)


class SubscriptionLost(ConnectionError):
    """The server ended a subscription, or nothing of it came for too long."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A monitored item as the server grants it, and what it says when it does not."""

    variable: Variable
    sampling: float
    queue: int
    refused: str = ""


class Taker(Protocol):
    """Where the values of one variable go; see `adapters.opcua.rows.Outlet`."""

    stream: Stream

    def subscribed(self, stream: Stream, form: Form | None) -> None:
        """A new subscription begins."""
        ...

    def declare(self, gap: Gap) -> None:
        """Something is missing."""
        ...

    async def take(self, path: str, samples: Sequence[Samples]) -> None:
        """Values of the variable or of one part of it, in their order."""
        ...


class EventTaker(Protocol):
    """Where events go; see `adapters.opcua.events.EventStream`."""

    def declare(self, gap: Gap) -> None:
        """Something is missing."""
        ...

    async def happened(self, events: Sequence[Sequence[Any]], arrival: int) -> None:
        """Events, each as its fields (``ua.Variant``), in their order."""
        ...


@dataclass(slots=True, eq=False)
class Item:
    """One monitored item. ``heard`` (monotonic seconds) and ``heard_ns`` (UTC): when something of it came last."""

    handle: int
    variable: Variable
    taker: Taker
    home: _Subscription
    number: int = 0
    heard: float = 0.0
    heard_ns: int = 0
    suspect: bool = False


@dataclass(slots=True, eq=False)
class _Subscription:
    """One subscription of the server's. ``period``: how often at least something of it comes, seconds.

    ``doubtful``: a message could not be read, maybe one of this subscription; the number of the next one will tell.
    """

    number: int
    period: float
    heard: float
    progress: Progress
    doubtful: bool = False
    sequence: int | None = None
    items: int = 0
    full: bool = False


class Subscriptions:
    """Call `start`, `add` variables with their streams, then `deliver`, which ends only by an exception."""

    def __init__(self, client: Any, config: OpcUaConfig, structures: Structures | None = None, gather: float = GATHER_SECONDS) -> None:
        self._gather_seconds = gather
        self._client = client
        self._config = config
        self._structures = structures
        self._messages: asyncio.Queue[tuple[Published, int]] = asyncio.Queue(MESSAGES)
        self._subscriptions: dict[int, _Subscription] = {}
        self._most = 0
        self._items: dict[int, Item] = {}
        self._events: dict[int, tuple[EventTaker, _Subscription]] = {}
        self._taken: list[tuple[Published, int]] = []
        self._handing: asyncio.Task[None] | None = None
        self._next_handle = FIRST_HANDLE
        self._in_flight = IN_FLIGHT
        self.longest_queue = 0

    async def start(self) -> dict[str, str | int | float]:
        """Create the first subscription; returns what the server grants, for the record."""
        limits = await read(self._client, [(ua.NodeId(number), ua.AttributeIds.Value) for number in _MOST_ITEMS])
        self._most = next((n for one in limits if (n := _count(one)) > 1), 0)
        interval, keep_alive = await self._create()
        facts: dict[str, str | int | float] = {"publish_ms": interval * 1000, "keep_alive_count": keep_alive}
        return facts | ({"items_per_subscription": self._most} if self._most else {})

    async def add(self, variables: Sequence[Variable], takers: Mapping[str, Taker]) -> list[Granted]:
        """Monitor variables; their values go to the takers of their names. A refused one is among the results, too."""
        granted: list[Granted] = []
        waiting = list(variables)
        while waiting:
            home = await self._room()
            size = min(BATCH, self._most - home.items if self._most else BATCH)
            batch, waiting = waiting[:size], waiting[size:]
            items = [self._item(variable, takers[variable.stream.name], home) for variable in batch]
            requests = [request(one.variable.node_id, one.handle, self._config.sampling, self._config.queue) for one in items]
            again = []
            for item, result in zip(items, await self._monitor(home, requests), strict=True):
                if result.StatusCode.is_bad():
                    del self._items[item.handle]
                    if result.StatusCode.name in _FULL and home.items > 1:
                        home.full = True
                        again.append(item.variable)
                    else:
                        granted.append(Granted(item.variable, 0, 0, result.StatusCode.name))
                    continue
                home.items += 1
                item.number = int(result.MonitoredItemId)
                one = Granted(item.variable, result.RevisedSamplingInterval / 1000, int(result.RevisedQueueSize))
                # In the description, so that whoever reads the values knows how closely they were looked at.
                item.taker.subscribed(described(item.variable.stream, one), item.variable.form)
                granted.append(one)
            waiting = again + waiting
        return granted

    async def add_events(self, node_ids: Sequence[Any], event_filter: Any, taker: EventTaker) -> list[tuple[int, int, str]]:
        """Monitor the events of objects; for each its subscription, client handle, and why it was refused or nothing."""
        home = await self._room()
        found = []
        for node_id in node_ids:
            handle = self._handle_number()
            self._events[handle] = (taker, home)
            (result,) = await self._monitor(home, [event_request(node_id, handle, event_filter, self._config.queue)])
            home.items += 1
            found.append((home.number, handle, result.StatusCode.name if result.StatusCode.is_bad() else ""))
        return found

    async def remove(self, items: Sequence[Item]) -> None:
        """Monitor these items no longer."""
        for home in {item.home for item in items}:
            mine = [item for item in items if item.home is home]
            numbers = [item.number for item in mine]
            await self._client.uaclient.delete_monitored_items(
                ua.DeleteMonitoredItemsParameters(SubscriptionId=home.number, MonitoredItemIds=numbers)
            )
            home.items -= len(mine)
        self.forget(items)

    def forget(self, items: Sequence[Item]) -> None:
        """Take nothing more of these items: their variables are gone, and some servers stumble over being asked to delete them."""
        for item in items:
            self._items.pop(item.handle, None)

    def silent(self, seconds: float) -> list[Item]:
        """The items of which nothing came for so long."""
        before = time.monotonic() - seconds
        return [item for item in self._items.values() if item.heard < before]

    async def deliver(self) -> None:
        """Hand values over until a subscription is lost; raises `SubscriptionLost`, or what a stream raised."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._receive())
            handed_over = 0.0
            while True:
                self._taken.append(await self._messages.get())
                # A first message goes on at once; those that come soon after it wait for each other: a block costs as much as a row.
                await asyncio.sleep(handed_over + self._gather_seconds - time.monotonic())
                handed_over = time.monotonic()
                # Not cancelled with this: what is half handed over could neither be repeated nor left out. See `finish`.
                self._handing = asyncio.create_task(self._hand_on())
                await asyncio.shield(self._handing)

    async def finish(self) -> None:
        """Once `deliver` has raised: hand over what had come by then. Raises what a stream raises."""
        with contextlib.suppress(SubscriptionLost):
            if self._handing is not None:
                await self._handing
            await self._hand_on()

    def abandon(self) -> None:
        """Hand over nothing more."""
        if self._handing is not None:
            self._handing.cancel()

    def settled(self) -> dict[str, int]:
        """Up to when everything is handed over, by stream: there the outage begins when the connection is lost (UTC ns)."""
        return {item.variable.stream.name: item.home.progress.until for item in self._items.values()}

    def events_settled(self) -> int | None:
        """The same for events; None while none are monitored."""
        return min((home.progress.until for _, home in self._events.values()), default=None)

    async def _hand_on(self) -> None:
        while not self._messages.empty():
            self._taken.append(self._messages.get_nowait())
        messages, self._taken = self._taken, []
        self.longest_queue = max(self.longest_queue, len(messages))
        await self._handle(messages)

    async def _receive(self) -> None:
        """Keep requests at the server and take its answers in their order."""
        waiting: deque[asyncio.Task[tuple[Published, int]]] = deque()
        acknowledge: list[tuple[int, int]] = []
        try:
            while True:
                while len(waiting) < max(1, self._in_flight + len(self._subscriptions) - 1):
                    waiting.append(asyncio.create_task(publish(self._client, acknowledge, self._structures)))
                    acknowledge = []
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                while waiting and (answered := next((one for one in waiting if one.done()), None)) is not None:
                    waiting.remove(answered)
                    message = self._answer(answered)
                    if message is None:
                        continue
                    published, _ = message
                    self._alive(published)
                    if not self._says_something(published):
                        continue
                    await self._messages.put(message)
                    self._alive(published)  # the time that the recorder took is no silence of the server
                    if not published.empty:
                        acknowledge.append((published.subscription, published.number))
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    def _answer(self, answered: asyncio.Task[tuple[Published, int]]) -> tuple[Published, int] | None:
        """What came; None when it is worth another request. What was lost with an unreadable message shows in the numbers."""
        try:
            return answered.result()
        except ua.UaStatusCodeError as e:
            name = type(e).__name__
            if name == "BadTooManyPublishRequests" and self._in_flight > 0:
                self._in_flight -= 1
            elif name != "BadTimeout":
                raise
            return None
        except asyncio.CancelledError:
            raise ConnectionError("the connection ended") from None
        except Undecodable as e:
            log.warning("%s: a message cannot be read: %s", self._config.endpoint, e)
            for one in self._subscriptions.values():
                one.doubtful = True
            return None

    def _says_something(self, message: Published) -> bool:
        """Whether a message carries something, or confirms that there is nothing: not while one that could not be read may be missing."""
        home = self._subscriptions.get(message.subscription)
        if home is not None and not message.empty:
            home.doubtful = False
        return home is None or not home.doubtful

    def _alive(self, message: Published) -> None:
        if (home := self._subscriptions.get(message.subscription)) is not None:
            home.heard = time.monotonic()

    async def _watch(self) -> None:
        while True:
            patience = min(3 * one.period for one in self._subscriptions.values()) + self._config.timeout
            await asyncio.sleep(patience / 4)
            for one in self._subscriptions.values():
                silent = time.monotonic() - one.heard
                if silent > 3 * one.period + self._config.timeout and self._messages.empty():
                    raise SubscriptionLost(f"nothing came for {silent:.1f} s, not even the server's own clock")

    async def _handle(self, messages: Sequence[tuple[Published, int]]) -> None:
        """Hand over what has come by now, the values of each item together."""
        batches: dict[tuple[Taker, str], list[Samples]] = {}
        gathered: list[tuple[Published, int]] = []

        async def hand_over() -> None:
            await _hand_over(batches)
            for message, arrival in gathered:
                if (home := self._subscriptions.get(message.subscription)) is not None:
                    home.progress.reached(message.asked, message.sent, arrival)
            gathered.clear()

        for message, arrival in messages:
            if message.ended:
                await hand_over()
                raise SubscriptionLost(f"the server ended the subscription: {message.ended}")
            if not message.empty:  # else a keep-alive
                if self._lost(message):
                    await hand_over()
                    self._declare_lost(message, arrival)
                self._gather(message, arrival, batches)
                await self._hand_over_events(message, arrival)
            gathered.append((message, arrival))
        await hand_over()

    def _gather(self, message: Published, arrival: int, batches: dict[tuple[Taker, str], list[Samples]]) -> None:
        heard = time.monotonic()
        for (handle, path), samples in message.changes.items():
            # The heartbeat has done its work by arriving.
            if (item := self._items.get(handle)) is not None:
                item.heard, item.heard_ns, item.suspect = heard, arrival, False
                batches.setdefault((item.taker, path), []).extend(samples)
        for handle, why in message.unusable:
            if (item := self._items.get(handle)) is not None:
                item.heard = heard
                log.warning("%s: %s", item.taker.stream.key, why)
                item.taker.declare(Gap(Cause.GARBAGE, count=1, t_from=arrival, t_to=arrival, detail=why))

    async def _hand_over_events(self, message: Published, arrival: int) -> None:
        batches: dict[EventTaker, list[Sequence[Any]]] = {}
        for handle, fields in message.events:
            if (known := self._events.get(handle)) is not None:
                batches.setdefault(known[0], []).append(fields)
        for taker, events in batches.items():
            await taker.happened(events, arrival)

    def _lost(self, message: Published) -> int:
        """How many messages are missing before this one: they are numbered one by one (OPC 10000-4, 5.14.1.4), 1 follows 2^32-1."""
        home = self._subscriptions.get(message.subscription)
        if home is None:
            return 0
        last, home.sequence = home.sequence, message.number
        return 0 if last is None or (last == 2**32 - 1 and message.number == 1) else max(0, message.number - last - 1)

    def _declare_lost(self, message: Published, arrival: int) -> None:
        why = "messages of the server did not arrive or could not be decoded"
        log.warning("%s: %s", self._config.endpoint, why)
        home = self._subscriptions[message.subscription]
        gap = Gap(Cause.GARBAGE, t_from=home.progress.until, t_to=arrival, detail=why)
        for item in self._items.values():
            if item.home is home:
                item.taker.declare(gap)
        for taker in {taker for taker, mine in self._events.values() if mine is home}:
            taker.declare(gap)

    async def _create(self) -> tuple[float, int]:
        """Make one more subscription; publishing interval in seconds and keep-alive count as granted."""
        wanted = self._config.publish
        keep_alive = max(1, round(HEARTBEAT_SECONDS * 2 / wanted))
        asked = ua.CreateSubscriptionRequest()
        asked.Parameters = ua.CreateSubscriptionParameters(
            RequestedPublishingInterval=wanted * 1000,
            RequestedLifetimeCount=max(3 * keep_alive, round(LIFETIME_SECONDS / wanted)),
            RequestedMaxKeepAliveCount=keep_alive,
            MaxNotificationsPerPublish=0,
            PublishingEnabled=True,
        )
        data, at = await ask(self._client, asked)
        granted = ua.ua_binary.struct_from_binary(ua.CreateSubscriptionResult, ua.utils.Buffer(data, at))
        interval = granted.RevisedPublishingInterval / 1000
        if interval > wanted * 1.01:
            log.warning(
                "%s: the server publishes every %g ms instead of every %g ms", self._config.endpoint, interval * 1000, wanted * 1000
            )
        period = max(interval * granted.RevisedMaxKeepAliveCount, interval)
        home = _Subscription(int(granted.SubscriptionId), period, time.monotonic(), Progress(utc_now_ns()))
        self._subscriptions[home.number] = home
        clock = ua.NodeId(ua.ObjectIds.Server_ServerStatus_CurrentTime)
        (heartbeat,) = await self._monitor(home, [request(clock, HEARTBEAT, HEARTBEAT_SECONDS, 1)])
        if heartbeat.StatusCode.is_good():
            home.period = max(interval, heartbeat.RevisedSamplingInterval / 1000, HEARTBEAT_SECONDS)
            home.items = 1
        else:
            log.warning("%s: its clock cannot be monitored; silence is noticed after %g s only", self._config.endpoint, 3 * period)
        return interval, int(granted.RevisedMaxKeepAliveCount)

    async def _room(self) -> _Subscription:
        """A subscription that takes at least one more item."""
        for one in self._subscriptions.values():
            if not one.full and (not self._most or one.items < self._most):
                return one
        await self._create()
        return list(self._subscriptions.values())[-1]

    def _handle_number(self) -> int:
        self._next_handle += 1
        return self._next_handle - 1

    def _item(self, variable: Variable, taker: Taker, home: _Subscription) -> Item:
        item = Item(self._handle_number(), variable, taker, home, heard=time.monotonic(), heard_ns=utc_now_ns())
        self._items[item.handle] = item
        return item

    async def _monitor(self, home: _Subscription, requests: list[Any]) -> list[Any]:
        parameters = ua.CreateMonitoredItemsParameters(
            SubscriptionId=home.number, TimestampsToReturn=ua.TimestampsToReturn.Both, ItemsToCreate=requests
        )
        results: list[Any] = await self._client.uaclient.create_monitored_items(parameters)
        return results


async def _hand_over(batches: dict[tuple[Taker, str], list[Samples]]) -> None:
    for (taker, path), samples in batches.items():
        await taker.take(path, samples)
    batches.clear()


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


def request(node_id: Any, handle: int, sampling: float, queue: int) -> Any:
    """What asks for the values of one variable."""
    return ua.MonitoredItemCreateRequest(
        ItemToMonitor=ua.ReadValueId(NodeId=node_id, AttributeId=ua.AttributeIds.Value),
        MonitoringMode=ua.MonitoringMode.Reporting,
        RequestedParameters=ua.MonitoringParameters(
            ClientHandle=handle, SamplingInterval=sampling * 1000, QueueSize=queue, DiscardOldest=True
        ),
    )


def event_request(node_id: Any, handle: int, event_filter: Any, queue: int) -> Any:
    """What asks for the events of one object."""
    return ua.MonitoredItemCreateRequest(
        ItemToMonitor=ua.ReadValueId(NodeId=node_id, AttributeId=ua.AttributeIds.EventNotifier),
        MonitoringMode=ua.MonitoringMode.Reporting,
        RequestedParameters=ua.MonitoringParameters(
            ClientHandle=handle, SamplingInterval=0, QueueSize=queue, DiscardOldest=True, Filter=event_filter
        ),
    )


def _count(value: Any) -> int:
    content = value.Value.Value if value.Value is not None and value.StatusCode is not None and value.StatusCode.is_good() else 0
    return content if isinstance(content, int) else 0
