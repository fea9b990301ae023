"""What goes on during one connection beside the delivery: variables that come late, vanish or fall silent.

Invariants: whatever happens to one variable is that variable's affair: it is named, its stream gets a gap, and the others go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from asyncua import ua

from adapters.opcua.config import OpcUaConfig
from adapters.opcua.connection import library_faults
from adapters.opcua.history import fill
from adapters.opcua.nodes import Directory, Missing, Variable, words
from adapters.opcua.outlets import Outlets
from adapters.opcua.rows import Outlet
from adapters.opcua.services import read_values
from adapters.opcua.subscription import Item, Subscriptions, complaints
from edge_agent.adapter import Sink

LOOK_AGAIN_SECONDS = 30.0

_VANISHED = ("BadNodeIdUnknown", "BadNodeIdInvalid", "BadAttributeIdInvalid")

log = logging.getLogger(__name__)


class Session:
    """What goes on during one connection beside the delivery: variables that come late, vanish or fall silent."""

    def __init__(
        self, instrument: str, config: OpcUaConfig, sink: Sink, client: Any, directory: Directory, subscriptions: Subscriptions,
        outlets: Outlets, missing: list[Missing],
    ) -> None:  # fmt: skip
        self._instrument = instrument
        self._config = config
        self._outlets = outlets
        self._sink = sink
        self._client = client
        self._directory = directory
        self._subscriptions = subscriptions
        self._missing = missing

    async def subscribe(self, variables: Sequence[Variable]) -> None:
        """Monitor variables, each with its stream; says what the server grants less than asked."""
        config, outlets, sink = self._config, self._outlets, self._sink
        streams: dict[str, Any] = {}
        for variable in variables:
            streams[variable.stream.name] = outlet = outlets.of(sink, variable)
            if config.backfill and variable.has_history and isinstance(outlet, Outlet):
                outlet.before_first = partial(self._fill, variable, outlet)
        with library_faults():
            granted = await self._subscriptions.add(variables, streams)
        for complaint in complaints(granted, config):
            if complaint not in outlets.complained:
                outlets.complained.add(complaint)
                log.warning("%s: %s", self._instrument, complaint)
        slow = {f"{one.variable.stream.name}.sampling_ms": one.sampling * 1000 for one in granted if one.sampling > config.sampling}
        if slow:
            sink.describe(slow)
        for one in granted:
            if one.refused:
                uri = one.variable.stream.source_uri
                sink.disconnected(uri, why=f"the server does not let {uri} be monitored: {one.refused}")
            else:
                outlets.active.add(one.variable.stream.name)

    async def look_again(self) -> None:
        """Ask again for what is not there, for as long as the connection lasts."""
        while True:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            if not self._missing:
                continue
            asked, self._missing = self._missing, []
            with library_faults():
                variables, missing = await self._directory.find([one.table for one in asked])
            self._missing += missing
            await self.subscribe([v for v in variables if v.stream.name not in self._outlets.active])
            for variable in variables:
                self._sink.connected(variable.stream.source_uri)

    async def check_silent(self) -> None:
        """Read the variables of which nothing came for long: one may be gone, or its monitored item dead."""
        patience = self._config.silence
        while True:
            await asyncio.sleep(patience / 2)
            silent = self._subscriptions.silent(patience)
            if not silent:
                continue
            with library_faults():
                values = await read_values(self._client, [one.variable.node_id for one in silent], self._directory.types)
            dead = []
            for item, value in zip(silent, values, strict=True):
                status = ua.StatusCode(value.status).name
                if status in _VANISHED:
                    self._vanished(item, status)
                elif isinstance(item.taker, Outlet) and item.taker.differs(value):
                    dead += [item] if item.suspect else []
                    item.suspect = True
            if dead:
                await self._revive(dead)

    def _vanished(self, item: Item, status: str) -> None:
        uri = item.variable.stream.source_uri
        why = f"{uri} is no longer there: {status}"
        log.warning("%s: %s; asked for again every %g s", self._instrument, why, LOOK_AGAIN_SECONDS)
        self._interrupt(item, why)
        self._subscriptions.forget([item])
        self._outlets.active.discard(item.variable.stream.name)
        self._missing.append(Missing(item.variable.table.model_copy(update={"name": item.variable.stream.name}), uri, why))
        self._sink.disconnected(uri, why=why)

    async def _revive(self, items: Sequence[Item]) -> None:
        names = ", ".join(item.variable.stream.name for item in items)
        log.warning("%s: %s changed without the server saying so; monitored anew", self._instrument, names)
        for item in items:
            self._interrupt(item, "the server stopped reporting changes of this variable")
        with library_faults():
            await self._subscriptions.remove(items)
        await self.subscribe([item.variable for item in items])

    def _interrupt(self, item: Item, why: str) -> None:
        self._outlets.named(item.variable.stream.name).interrupted(item.heard_ns, why)

    async def _fill(self, variable: Variable, outlet: Outlet, t_first: int) -> None:
        if all(part.losses.since is None for part in outlet.parts.values()):
            return
        try:
            async with asyncio.timeout(4 * self._config.timeout):
                await fill(self._client, variable.node_id, outlet, t_first, self._directory.types)
        except (ua.UaError, TimeoutError) as e:
            log.info("%s: the server's history cannot be read: %s", variable.stream.key, words(e) or type(e).__name__)
