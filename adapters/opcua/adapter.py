"""The OPC-UA adapter: connects, subscribes, delivers, and begins afresh after each loss.

Invariants: a new client for each attempt; every stream that had values gets one Gap per outage, also when the agent
stops during it; a variable that the server does not have, or no longer, is named and asked for again, while the others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from asyncua import ua

from adapters.opcua.config import NodeConfig, OpcUaConfig
from adapters.opcua.connection import PASSING, Connection, connected, library_faults, root_cause
from adapters.opcua.events import EventStream, event_filter, event_stream, refresh
from adapters.opcua.explain import explain, reason
from adapters.opcua.images import NotAnImage, decode
from adapters.opcua.nodes import Directory, Missing, Variable, distinct, words
from adapters.opcua.outlets import Outlets
from adapters.opcua.services import read_values
from adapters.opcua.session import LOOK_AGAIN_SECONDS, Session
from adapters.opcua.subscription import Subscriptions
from adapters.opcua.watch import watch
from edge_agent.adapter import AdapterConfig, Sink
from edge_agent.errors import InstrumentUnreachable
from edge_agent.model import NO_TIME, Kind, Stream, utc_now_ns

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0

_BUILD = {"manufacturer": 2263, "model": 2261, "software": 2264}
"""Server_ServerStatus_BuildInfo: ManufacturerName, ProductName, SoftwareVersion."""

log = logging.getLogger(__name__)


class OpcUaAdapter:
    """One server as one instrument."""

    Config: ClassVar[type[AdapterConfig]] = OpcUaConfig

    def __init__(self, instrument: str, config: OpcUaConfig) -> None:
        self.instrument = instrument
        self._config = config
        self._outlets = Outlets()
        self._events: EventStream | None = None
        self._pause = FIRST_PAUSE

    async def run(self, sink: Sink) -> None:
        """Record until cancelled; raises ConfigError or PermissionRefused when a file of the configuration is wrong."""
        if self._config.user is not None and self._config.security == "None":
            log.warning("%s: the password of %r crosses the network unencrypted; set security =", self.instrument, self._config.user)
        try:
            while True:
                error = await self._record(sink)
                if not isinstance(error, PASSING):
                    raise error
                people = explain(error, self.instrument, self._config)
                log.debug("%s", people)
                sink.disconnected(self._config.endpoint, why=people.why or people.what)
                await asyncio.sleep(self._pause)
                self._pause = min(2 * self._pause, LONGEST_PAUSE)
        finally:
            self._outlets.resumed(utc_now_ns())
            if self._events is not None:
                self._events.resumed(utc_now_ns())

    async def preview(self) -> list[Stream]:
        """The streams as the server describes them, with the types of their present values.

        Raises:
            InstrumentUnreachable: nobody answers, or none of the variables is there.
            PermissionRefused: certificate, user or clock are refused.
        """
        try:
            async with connected(self._config) as connection:
                with library_faults():
                    directory = await self._directory(connection)
                    variables, missing, _ = await self._find(directory)
                    values = await directory.values(variables)
        except PASSING as e:
            raise explain(e, self.instrument, self._config) from e
        for one in missing:
            log.warning("%s: %s", self.instrument, one.why)
        if not variables and not self._config.events:
            why = "; ".join(one.why for one in missing) or f"{self._config.browse or 'the server'} has no variables that fit"
            try_ = "look at the address space with an OPC-UA browser and correct nodes =, browse =, pattern = or lads ="
            raise InstrumentUnreachable(f"{self.instrument}: nothing to record at {self._config.endpoint}", why=why, try_=try_)
        streams = [stream for variable, value in zip(variables, values, strict=True) for stream in _typed(variable, value)]
        if self._config.events:
            streams.append(event_stream(self.instrument, self._config.endpoint, connection.transport))
        return streams

    @classmethod
    def watch(cls, uri: str, options: Mapping[str, Any] | None = None) -> AsyncIterator[tuple[float | str, int]]:
        """Follow one variable, as a trigger of runs; see `adapters.opcua.watch`. Options: keys of the configuration."""
        return watch(uri, **dict(options or {}))

    async def _record(self, sink: Sink) -> Exception:
        """One connection, from its beginning to its end; returns why it ended."""
        try:
            async with connected(self._config) as connection:
                await self._subscribed(sink, connection)
        except Exception as e:
            return root_cause(e)
        return ConnectionError("the connection ended")

    async def _subscribed(self, sink: Sink, connection: Connection) -> None:
        client = connection.client
        with library_faults():
            directory = await self._directory(connection)
            variables, missing, device = await self._find(directory)
            subscriptions = Subscriptions(client, self._config, directory.types)
            facts = {**device, **await _facts(client), **await subscriptions.start()}
        session = Session(self.instrument, self._config, sink, client, directory, subscriptions, self._outlets, missing)
        await session.subscribe(variables)
        if self._config.events:
            await self._subscribe_events(sink, connection, directory, subscriptions)
        sink.connected(self._config.endpoint, detail=f"{len(variables)} variables")
        sink.describe(facts)
        for one in missing:
            log.warning("%s: %s; asked for again every %g s", self.instrument, one.why, LOOK_AGAIN_SECONDS)
            sink.disconnected(one.uri, why=one.why)
        self._pause = FIRST_PAUSE
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(subscriptions.deliver())
                tasks.create_task(connection.until_lost())
                tasks.create_task(session.look_again())
                tasks.create_task(session.check_silent())
        except ExceptionGroup as group:
            why = reason(root_cause(group), self._config)
            try:
                await subscriptions.finish()
            finally:
                self._outlets.interrupted(subscriptions.settled(), why)
                since = subscriptions.events_settled()
                if self._events is not None and since is not None:
                    self._events.interrupted(since, why)
            raise
        finally:
            subscriptions.abandon()
            self._outlets.active.clear()

    async def _directory(self, connection: Connection) -> Directory:
        namespaces = await connection.client.get_namespace_array()
        return Directory(connection.client, self.instrument, self._config, namespaces, connection.transport)

    async def _find(self, directory: Directory) -> tuple[list[Variable], list[Missing], dict[str, str | int | float]]:
        config = self._config
        variables, missing = await directory.find(config.node_tables())
        device: dict[str, str | int | float] = {}
        if config.browse is not None or config.pattern:
            try:
                variables += await directory.below(config.browse, config.pattern, config.browse_limit)
            except (ua.UaStatusCodeError, ValueError) as e:
                missing.append(directory.missing(NodeConfig(id=config.browse or "0:Objects"), words(e)))
        if config.lads is not None:
            try:
                found, device = await directory.device(config.lads, config.browse_limit)
                variables += found
            except (ua.UaStatusCodeError, ValueError) as e:
                missing.append(Missing(NodeConfig(id=config.lads), f"{config.endpoint}#{config.lads}", words(e)))
        return distinct(variables), missing, device

    async def _subscribe_events(self, sink: Sink, connection: Connection, directory: Directory, subscriptions: Subscriptions) -> None:
        if self._events is None:
            self._events = EventStream(sink, event_stream(self.instrument, self._config.endpoint, connection.transport))
        self._events.resumed(utc_now_ns())
        wanted = event_filter(self._config.min_severity)
        for text in self._config.events:
            with library_faults():
                try:
                    node_id = await directory.resolve(text)
                except (ua.UaStatusCodeError, ValueError) as e:
                    sink.disconnected(f"{self._config.endpoint}#{text}", why=f"its events cannot be had: {words(e)}")
                    continue
                ((subscription, _, refused),) = await subscriptions.add_events([node_id], wanted, self._events)
                if refused:
                    sink.disconnected(directory.uri(node_id), why=f"the server does not let its events be monitored: {refused}")
                else:
                    await refresh(connection.client, subscription)


async def _facts(client: Any) -> dict[str, str | int | float]:
    """Maker, product and version of the server, as far as it tells, and how much its clock is ahead of ours."""
    facts: dict[str, str | int | float] = {}
    for name, number in _BUILD.items():
        with contextlib.suppress(ua.UaStatusCodeError):
            text = str(await client.get_node(ua.NodeId(number)).read_value() or "")
            if text:
                facts[name] = text
    before = utc_now_ns()
    (clock,) = await read_values(client, [ua.NodeId(ua.ObjectIds.Server_ServerStatus_CurrentTime)])
    theirs = int(clock.leaves[0][2]) if clock.leaves else NO_TIME
    if theirs != NO_TIME:
        facts["clock_ahead_s"] = round((theirs - (before + utc_now_ns()) // 2) / 1e9, 3)
    return facts


def _typed(variable: Variable, value: Any) -> list[Stream]:
    """The streams of a variable by its present value."""
    stream = variable.stream
    if value.unusable:
        log.warning("%s: %s", stream.key, value.unusable)
    found = []
    for path, form, content, _ in value.leaves:
        if variable.is_image:
            shape, dtype = form.shape, form.dtype
            with contextlib.suppress(NotAnImage):
                if form.kind == "ByteString" and variable.table.pixels is None:
                    image = decode(content.tobytes())
                    shape, dtype = image.shape, image.dtype.str
            found.append(replace(stream, kind=Kind.FRAMES, dtype=dtype, shape=shape, source_type=f"opcua {form.kind}"))
        else:
            name = f"{stream.name}.{path}" if path else stream.name
            found.append(replace(stream, name=name[:63], dtype=form.dtype, shape=form.shape, source_type=f"opcua {form.kind}"))
    return found or [stream]
