"""The contract between an adapter and the agent.

An adapter is a protocol client. It connects, delivers into the `Sink` it was given, and reconnects for ever; it returns only when
cancelled. It reads clocks and counters of its source and says what it knows to be missing; it never decides where data
goes, never blocks the event loop, and never drops anything without an `Inlet.gap`.

Rates: `Inlet.offer` may be called from any thread and never blocks; `Inlet.put` is awaited on the agent's loop. Hand over blocks,
not single values, where the protocol gives several at once. Arrays handed over must not be changed afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from edge_agent.model import Block, FileItem, Frame, Gap, Reset, Stream

ENTRY_POINTS = "edge_agent.adapters"
"""Entry-point group; the name is the ``adapter = "..."`` of the configuration."""


class AdapterConfig(BaseModel):
    """Base of an adapter's TOML table. Every field has a one-line docstring; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Inlet(Protocol):
    """Where one stream of one instrument is delivered."""

    stream: Stream

    async def put(self, block: Block) -> None:
        """Deliver rows; waits while the recorder is behind (sources that can wait)."""
        ...

    def offer(self, frame: Frame) -> bool:
        """Deliver one frame; never blocks. False: refused, and the recorder already declared the Gap."""
        ...

    async def put_frame(self, frame: Frame) -> None:
        """Deliver one frame of a source that can wait (a file, a read-out on request): waits while the recorder or the disk is full."""
        ...

    def gap(self, gap: Gap) -> None:
        """Declare that something of this stream is missing."""
        ...

    def reset(self, reset: Reset) -> None:
        """Declare that the source's counter began again; the next item starts a new range."""
        ...


class Sink(Protocol):
    """What an adapter writes to. One sink an instrument."""

    def open(self, stream: Stream) -> Inlet:
        """Announce a stream and get its inlet; the same key again replaces the description (units changed, reconnect)."""
        ...

    async def adopt(self, stream: Stream, item: FileItem, *others: FileItem) -> None:
        """Take a finished file: copied into the spool, hashed once; returns when it is durable.

        ``others`` belong to it and go into the same run.
        """
        ...

    def connected(self, source: str, *, detail: str = "") -> None:
        """A source (endpoint, PV, port, folder) answers; shown in the status."""
        ...

    def disconnected(self, source: str, *, why: str) -> None:
        """A source stopped answering; shown in the status, and logged once an outage."""
        ...

    def describe(self, facts: Mapping[str, str | int | float]) -> None:
        """What the instrument says of itself (maker, model, serial number, settings): provenance."""
        ...

    def show(self, picture: npt.NDArray[Any], name: str) -> None:
        """A picture of what came last, ``(h, w)`` or ``(h, w, 3)``: the preview of a run that has no frames and rows of its own."""
        ...

    async def durable(self) -> None:
        """Return when every row and frame that was delivered through this sink so far is durable, or declared as missing."""
        ...

    async def note(self, key: str, value: str) -> None:
        """Keep a short text under a key of this instrument, durably: how far a file was read."""
        ...

    async def noted(self, key: str) -> str | None:
        """What was noted last under a key, before a restart too."""
        ...

    async def already_adopted(self, name: str, size: int, mtime_ns: int) -> bool:
        """Whether a file of this name, size and time was adopted before (the catalogue survives restarts)."""
        ...


class ForgetfulInlet:
    """Base of inlets that record nothing: takes everything, keeps nothing."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    async def put(self, block: Block) -> None:
        """Forget rows."""

    def offer(self, frame: Frame) -> bool:
        """Forget one frame."""
        return True

    async def put_frame(self, frame: Frame) -> None:
        """Forget one frame."""

    def gap(self, gap: Gap) -> None:
        """Forget a gap."""

    def reset(self, reset: Reset) -> None:
        """Forget a reset."""


class ForgetfulSink:
    """Base of sinks that record nothing, for a look at an instrument; a subclass keeps what it wants to show."""

    def open(self, stream: Stream) -> Inlet:
        """Forget what this stream delivers."""
        return ForgetfulInlet(stream)

    async def adopt(self, stream: Stream, item: FileItem, *others: FileItem) -> None:
        """Leave files where they are."""

    def connected(self, source: str, *, detail: str = "") -> None:
        """Nothing is kept."""

    def disconnected(self, source: str, *, why: str) -> None:
        """Nothing is kept."""

    def describe(self, facts: Mapping[str, str | int | float]) -> None:
        """Nothing is kept."""

    def show(self, picture: npt.NDArray[Any], name: str) -> None:
        """Nothing is kept."""

    async def durable(self) -> None:
        """Nothing is kept."""

    async def note(self, key: str, value: str) -> None:
        """Nothing is kept."""

    async def noted(self, key: str) -> str | None:
        """Nothing was kept."""
        return None

    async def already_adopted(self, name: str, size: int, mtime_ns: int) -> bool:
        """No file was adopted before: a look shows all of them."""
        return False


class Adapter(Protocol):
    """One protocol client for one instrument."""

    Config: ClassVar[type[AdapterConfig]]

    def __init__(self, instrument: str, config: Any) -> None:
        """Keep the values; connect nothing yet. ``config`` is an instance of ``Config``."""
        ...

    async def run(self, sink: Sink) -> None:
        """Connect, deliver, reconnect for ever; returns only when cancelled."""
        ...

    async def preview(self) -> list[Stream]:
        """What it would capture, for ``edge-agent test``. Raises `InstrumentUnreachable` with what was tried."""
        ...
