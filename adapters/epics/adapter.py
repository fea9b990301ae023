"""The EPICS adapter: follows the configured PVs and the camera, and reports what they do.

Invariants: each PV stands and falls by itself; a PV that never answered is reported after `PATIENCE_SECONDS` with where
it was looked for; everything that was started is stopped when `run` ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, ClassVar

from adapters.epics import auto, ca
from adapters.epics.attributes import Attributes
from adapters.epics.camera import Settings
from adapters.epics.config import IMAGE, EpicsConfig, Pv, split_uri
from adapters.epics.environment import channel_access, where
from adapters.epics.images import ImageStream
from adapters.epics.preview import preview
from adapters.epics.pump import Pump
from adapters.epics.pva import scalar_callback
from adapters.epics.pva_client import PvaClient
from adapters.epics.rows import RowStream
from adapters.epics.watch import watch
from edge_agent.adapter import AdapterConfig, Sink
from edge_agent.model import Kind, Stream

PATIENCE_SECONDS = 5.0


class EpicsAdapter:
    """One or several IOCs as one instrument."""

    Config: ClassVar[type[AdapterConfig]] = EpicsConfig

    def __init__(self, instrument: str, config: EpicsConfig) -> None:
        self.instrument = instrument
        self._config = config
        self._addresses = config.parsed_addresses()
        # Before any instrument runs: libca reads its addresses once.
        if config.camera is not None or any(pv.scheme != "pva" for pv in config.rows()):
            channel_access.add(self._addresses)

    async def run(self, sink: Sink) -> None:
        """Follow every PV until cancelled."""
        pump = Pump(asyncio.get_running_loop())
        # On leaving: first the callbacks stop waiting for the loop and outages that nothing has ended are declared, then the tasks end,
        # then the client closes.
        async with contextlib.AsyncExitStack() as last, asyncio.TaskGroup() as tasks, contextlib.AsyncExitStack() as first:
            client = self._pva_client()
            if client is not None:
                last.push_async_callback(asyncio.to_thread, client.close)
                tasks.create_task(client.widen())
            for pv in self._config.rows():
                first.callback(self._follow_rows(sink, client, pv, pump, tasks).ended)
            image = self._config.image_pv()
            if image is not None and client is not None:
                frames = self._follow_image(sink, client, image, pump, tasks)
                first.callback(frames.ended)
                first.callback(frames.close)
            await pump.run()

    async def preview(self) -> list[Stream]:
        """The streams that answer within `PATIENCE_SECONDS`, described; raises InstrumentUnreachable when none does."""
        return await preview(self.instrument, self._expected(), self.run, PATIENCE_SECONDS)

    @classmethod
    def watch(cls, uri: str, options: Mapping[str, Any] | None = None) -> AsyncIterator[tuple[float | str, int]]:
        """Follow one PV, as a trigger of runs; see `adapters.epics.watch`. Options: ``addresses``, ``default``."""
        return watch(uri, **dict(options or {}))

    def _expected(self) -> list[Stream]:
        image = self._config.image_pv()
        return [self._rows(pv) for pv in self._config.rows()] + ([self._frames(image)] if image else [])

    def _pva_client(self) -> PvaClient | None:
        if self._config.image_pv() is None and all(pv.scheme == "ca" for pv in self._config.rows()):
            return None
        return PvaClient(self.instrument, self._addresses)

    def _follow_rows(self, sink: Sink, client: PvaClient | None, pv: Pv, pump: Pump, tasks: asyncio.TaskGroup) -> RowStream:
        stream = RowStream(sink, self._rows(pv), pv.unit)
        if pv.scheme == "ca" or client is None:
            tasks.create_task(ca.follow(pv.name, pump.emit(stream), self._addresses))
        elif pv.scheme == "auto":
            tasks.create_task(auto.follow(pv.name, pump.emit(stream), client, self._addresses, pv.queue, pipeline=pv.pipeline))
        else:
            client.monitor(pv.name, scalar_callback(pv.uri, pump.emit(stream)), pv.queue, pipeline=pv.pipeline, overruns=True)
            tasks.create_task(self._complain(sink, pv, stream.was_seen))
        return stream

    def _follow_image(self, sink: Sink, client: PvaClient, pv: Pv, pump: Pump, tasks: asyncio.TaskGroup) -> ImageStream:
        if self._config.camera is not None:
            prefix = split_uri(self._config.camera, "pva")[1]
            settings = Settings(client, prefix, self._config.settings, self._addresses, sink.describe)
            tasks.create_task(settings.follow())
        attributes = Attributes(sink, self._frames(pv), self._config.attributes, pump.emit) if self._config.attributes else None
        frames = ImageStream(sink, self._frames(pv), asyncio.get_running_loop(), attributes)
        client.monitor(pv.name, frames.take, pv.queue, pipeline=pv.pipeline, at_once=1)
        tasks.create_task(self._complain(sink, pv, frames.was_seen))
        return frames

    async def _complain(self, sink: Sink, pv: Pv, seen: Callable[[], bool]) -> None:
        await asyncio.sleep(PATIENCE_SECONDS)
        if not seen():
            sink.disconnected(pv.uri, why=f"nobody answered for it {where(self._addresses, 'pva')}")

    def _rows(self, pv: Pv) -> Stream:
        return Stream(self.instrument, pv.stream, Kind.ROWS, source_uri=pv.uri)

    def _frames(self, pv: Pv) -> Stream:
        # Shape and type are known with the first image.
        return Stream(
            self.instrument,
            IMAGE,
            Kind.FRAMES,
            dtype="<u2",
            unit="counts",
            source_uri=pv.uri,
            source_type="pva NTNDArray",
            counted=True,
            codec=self._config.codec,
        )
