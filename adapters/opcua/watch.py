"""One variable as a trigger of runs: its value and source time at each change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
from asyncua import ua

from adapters.opcua.config import NodeConfig, OpcUaConfig
from adapters.opcua.connection import PASSING, connected, library_faults, root_cause
from adapters.opcua.explain import explain
from adapters.opcua.nodes import Directory
from adapters.opcua.subscription import Subscriptions
from adapters.opcua.values import Form, Samples
from edge_agent.errors import ConfigError
from edge_agent.model import NO_TIME, Gap, Stream

AGAIN_SECONDS = 1.0

log = logging.getLogger(__name__)

_Change = tuple[float | str, int]


async def watch(uri: str, **options: Any) -> AsyncIterator[_Change]:
    """Yield ``(value, UTC ns)`` at each connection and each change; connects again for ever.

    Texts are str, Booleans and numbers are float, of arrays the first element. The time is the source's, or that of arrival
    where the source gives none. Bad values are left out: they are no reason to start or end a run.

    Args:
        uri: endpoint and node, as ``opc.tcp://192.168.1.30:4840#nsu=urn:maker:furnace;s=Door``.
        options: keys of the adapter's configuration (security, user, ...), besides endpoint and nodes.

    Raises:
        ConfigError: the URI names no node, or an option is wrong.
    """
    endpoint, _, node = uri.partition("#")
    if not node:
        raise ConfigError(
            f"{uri!r} names no variable", why="there is nothing after #", try_="write opc.tcp://HOST:PORT#nsu=urn:maker:furnace;s=Door"
        )
    try:
        config = OpcUaConfig.model_validate({**options, "endpoint": endpoint, "nodes": [node]})
    except ValueError as e:
        raise ConfigError(f"{uri} cannot be watched", why=str(e)) from e
    changes: asyncio.Queue[_Change] = asyncio.Queue()
    following = asyncio.create_task(_follow(config, changes))
    waiting: asyncio.Task[_Change] | None = None
    try:
        while True:
            waiting = asyncio.create_task(changes.get())
            await asyncio.wait({following, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
            yield await waiting
    finally:
        ending = [task for task in (following, waiting) if task is not None]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)


class _Values:
    """Takes the values of the one variable."""

    def __init__(self, stream: Stream, changes: asyncio.Queue[_Change]) -> None:
        self.stream = stream
        self._changes = changes
        self._part: str | None = None

    def subscribed(self, stream: Stream, form: Form | None) -> None:
        """Nothing depends on the type."""
        self.stream = stream

    def declare(self, gap: Gap) -> None:
        """A trigger has no gaps; it starts from the present value again."""

    async def take(self, path: str, samples: Sequence[Samples]) -> None:
        """Hand on what is good, of a structure the part that comes first."""
        self._part = path if self._part is None else self._part
        for one in samples if path == self._part else ():
            for i in np.flatnonzero(~one.bad).tolist():
                value = _plain(one, i)
                if value is not None:
                    t = int(one.t_source[i])
                    self._changes.put_nowait((value, t if t != NO_TIME else one.t_arrival))


async def _follow(config: OpcUaConfig, changes: asyncio.Queue[_Change]) -> None:
    told = ""
    while True:
        try:
            await _connect(config, changes)
        except Exception as e:
            error = root_cause(e)
            if not isinstance(error, PASSING):
                raise error from None
            people = explain(error, "watch", config)
            if str(people) != told:
                told = str(people)
                log.warning("%s", people)
        await asyncio.sleep(AGAIN_SECONDS)


async def _connect(config: OpcUaConfig, changes: asyncio.Queue[_Change]) -> None:
    """One connection; ends by an exception."""
    async with connected(config) as connection:
        with library_faults():
            namespaces = await connection.client.get_namespace_array()
            directory = Directory(connection.client, "watch", config, namespaces, connection.transport)
            variables, missing = await directory.find([NodeConfig(id=table.id, name="value") for table in config.node_tables()])
            if missing:
                raise ua.UaError(missing[0].why)
            subscription = Subscriptions(connection.client, config, directory.types, gather=0.0)
            await subscription.start()
            values = {"value": _Values(variables[0].stream, changes)}
            refused = [one.refused for one in await subscription.add(variables, values) if one.refused]
            if refused:
                raise ua.UaError(f"{variables[0].stream.source_uri} cannot be monitored: {refused[0]}")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(subscription.deliver())
            tasks.create_task(connection.until_lost())


def _plain(samples: Samples, i: int) -> float | str | None:
    if samples.values is None:
        return None
    value: Any = samples.values[i]
    if np.ndim(value):
        if not np.size(value):
            return None
        value = value.flat[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else float(value)
