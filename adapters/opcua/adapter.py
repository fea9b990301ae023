"""The OPC-UA adapter: connects, subscribes, delivers, and begins afresh after each loss.

Invariants: a new client for each attempt; every stream that had values gets one Gap per outage, also when the agent
stops during it; a variable that the server does not have is named and asked for again, while the others go on.
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
from adapters.opcua.explain import explain, reason
from adapters.opcua.nodes import Directory, Missing, Variable, distinct, words
from adapters.opcua.rows import RowStream
from adapters.opcua.subscription import Subscription, complaints
from adapters.opcua.values import Unusable, convert, time_ns
from adapters.opcua.watch import watch
from edge_agent.adapter import AdapterConfig, Sink
from edge_agent.errors import InstrumentUnreachable
from edge_agent.model import NO_TIME, Stream, utc_now_ns

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0
LOOK_AGAIN_SECONDS = 30.0

_BUILD = {"manufacturer": 2263, "model": 2261, "software": 2264}
"""Server_ServerStatus_BuildInfo: ManufacturerName, ProductName, SoftwareVersion."""

log = logging.getLogger(__name__)


class OpcUaAdapter:
    """One server as one instrument."""

    Config: ClassVar[type[AdapterConfig]] = OpcUaConfig

    def __init__(self, instrument: str, config: OpcUaConfig) -> None:
        self.instrument = instrument
        self._config = config
        self._streams: dict[str, RowStream] = {}
        self._active: set[str] = set()
        self._complained: set[str] = set()
        self._pause = FIRST_PAUSE

    async def run(self, sink: Sink) -> None:
        """Record until cancelled; raises ConfigError or PermissionRefused when a file of the configuration is wrong."""
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
            for stream in self._streams.values():
                stream.resumed(utc_now_ns())

    async def preview(self) -> list[Stream]:
        """The streams as the server describes them, with the types of their present values.

        Raises:
            InstrumentUnreachable: nobody answers, or none of the variables is there.
            PermissionRefused: certificate, user or clock are refused.
        """
        try:
            async with connected(self._config) as connection:
                with library_faults():
                    directory = await self._directory(connection.client)
                    variables, missing = await self._find(directory)
                    values = await directory.values(variables)
        except PASSING as e:
            raise explain(e, self.instrument, self._config) from e
        for one in missing:
            log.warning("%s: %s", self.instrument, one.why)
        if not variables:
            why = "; ".join(one.why for one in missing) or f"{self._config.browse} has no variables below it"
            try_ = "look at the address space with an OPC-UA browser and correct nodes = or browse ="
            raise InstrumentUnreachable(f"{self.instrument}: nothing to record at {self._config.endpoint}", why=why, try_=try_)
        return [_typed(variable.stream, value) for variable, value in zip(variables, values, strict=True)]

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
        with library_faults():
            directory = await self._directory(connection.client)
            variables, missing = await self._find(directory)
            subscription = Subscription(connection.client, self._config)
            facts = {**await _facts(connection.client), **await subscription.start()}
        await self._subscribe(sink, subscription, variables)
        sink.connected(self._config.endpoint, detail=f"{len(variables)} variables")
        sink.describe(facts)
        for one in missing:
            log.warning("%s: %s; asked for again every %g s", self.instrument, one.why, LOOK_AGAIN_SECONDS)
            sink.disconnected(one.uri, why=one.why)
        self._pause = FIRST_PAUSE
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(subscription.deliver())
                tasks.create_task(connection.until_lost())
                tasks.create_task(self._look_again(sink, directory, subscription, missing))
        except ExceptionGroup as group:
            for name in self._active:
                self._streams[name].interrupted(subscription.heard_ns, reason(root_cause(group), self._config))
            raise
        finally:
            self._active.clear()

    async def _directory(self, client: Any) -> Directory:
        return Directory(client, self.instrument, self._config, await client.get_namespace_array())

    async def _find(self, directory: Directory) -> tuple[list[Variable], list[Missing]]:
        variables, missing = await directory.find(self._config.node_tables())
        if self._config.browse is not None:
            try:
                variables += await directory.below(self._config.browse, self._config.browse_limit)
            except (ua.UaStatusCodeError, ValueError) as e:
                missing.append(directory.missing(NodeConfig(id=self._config.browse), words(e)))
        return distinct(variables), missing

    async def _subscribe(self, sink: Sink, subscription: Subscription, variables: list[Variable]) -> None:
        for variable in variables:
            if variable.stream.name not in self._streams:
                self._streams[variable.stream.name] = RowStream(sink, variable.stream)
        with library_faults():
            granted = await subscription.add(variables, self._streams)
        for complaint in complaints(granted, self._config):
            if complaint not in self._complained:
                self._complained.add(complaint)
                log.warning("%s: %s", self.instrument, complaint)
        slow = {f"{one.variable.stream.name}.sampling_ms": one.sampling * 1000 for one in granted if one.sampling > self._config.sampling}
        if slow:
            sink.describe(slow)
        for one in granted:
            if one.refused:
                uri = one.variable.stream.source_uri
                sink.disconnected(uri, why=f"the server does not let {uri} be monitored: {one.refused}")
            else:
                self._active.add(one.variable.stream.name)

    async def _look_again(self, sink: Sink, directory: Directory, subscription: Subscription, missing: list[Missing]) -> None:
        while missing:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            with library_faults():
                variables, missing = await directory.find([one.table for one in missing])
            await self._subscribe(sink, subscription, [v for v in variables if v.stream.name not in self._active])
            for variable in variables:
                sink.connected(variable.stream.source_uri)


async def _facts(client: Any) -> dict[str, str | int | float]:
    """Maker, product and version of the server, as far as it tells, and how much its clock is ahead of ours."""
    facts: dict[str, str | int | float] = {}
    for name, number in _BUILD.items():
        with contextlib.suppress(ua.UaStatusCodeError):
            text = str(await client.get_node(ua.NodeId(number)).read_value() or "")
            if text:
                facts[name] = text
    with contextlib.suppress(ua.UaStatusCodeError):
        before = utc_now_ns()
        theirs = time_ns(await client.get_node(ua.NodeId(ua.ObjectIds.Server_ServerStatus_CurrentTime)).read_value())
        if theirs != NO_TIME:
            facts["clock_ahead_s"] = round((theirs - (before + utc_now_ns()) // 2) / 1e9, 3)
    return facts


def _typed(stream: Stream, data: Any) -> Stream:
    try:
        if data.Value is None or data.Value.Value is None:
            return stream
        form, _, _ = convert(data.Value)
    except Unusable as e:
        log.warning("%s: %s", stream.key, e)
        return stream
    return replace(stream, dtype=form.dtype, shape=form.shape, source_type=f"opcua {form.kind}")
