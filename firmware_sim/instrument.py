"""What every simulated instrument is: a device that opens, ticks, suffers faults and closes.

Invariants: all methods run on one event loop; a client sees nothing new before the gate opened, except what a command
on stdin asked for, and nothing at all after it closed; each tick writes its truth before it shows anything.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from firmware_sim.faults import Fault
from firmware_sim.truth import Protocol, TruthWriter

SETTLE_SECONDS = 0.5


class CommandError(Exception):
    """A line on stdin that cannot be obeyed; the message says why and what would do."""


class StartError(Exception):
    """The instrument cannot start as asked; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Options:
    """What all instruments have in common. `rate` in ticks per second, `count` items of the main stream (0: no end)."""

    seed: int = 1
    rate: float = 10.0
    count: int = 0
    truth: Path | None = None
    hold: bool = False
    faults: tuple[Fault, ...] = ()
    random_faults: float = 0.0
    """Mean seconds between faults at random; 0: none."""


@dataclass(slots=True)
class Gate:
    """Whether the instrument produces. Opens once, closes once; closing also releases who waits for the opening."""

    opened: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def active(self) -> bool:
        """True between opening and closing."""
        return self.opened.is_set() and not self.closed.is_set()

    def close(self) -> None:
        """Close for ever."""
        self.closed.set()
        self.opened.set()


@dataclass(slots=True)
class Presence:
    """Notices that clients are there and that no further one came for `SETTLE_SECONDS`.

    A client subscribes to one thing after the other, and a channel is connected a moment before its monitor runs;
    what is produced in between would be missed without anybody being at fault.
    """

    _seen: asyncio.Event = field(default_factory=asyncio.Event)
    _last: float = 0.0

    def seen(self) -> None:
        """Note that a client connected or subscribed; on the event loop only."""
        self._last = asyncio.get_running_loop().time()
        self._seen.set()

    async def settled(self) -> None:
        """Wait until a client came and then none for a while."""
        await self._seen.wait()
        clock = asyncio.get_running_loop().time
        while (rest := self._last + SETTLE_SECONDS - clock()) > 0:  # noqa: ASYNC110 - what is awaited is that nothing happens
            await asyncio.sleep(rest)


class Instrument(ABC):
    """One simulated device. Subclasses set the class variables and implement `open`, `tick` and `close`."""

    name: ClassVar[str]
    model: ClassVar[str]
    protocol: ClassVar[Protocol]
    main_stream: ClassVar[str]
    units: ClassVar[Mapping[str, str]]
    rate: ClassVar[float] = 10.0
    faults: ClassVar[Mapping[str, str]] = {}
    """The kinds it knows, each with what it does; ARG is the fault's argument, with its default in brackets."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.rng = np.random.default_rng(options.seed)
        self.gate = Gate()
        self.truth = TruthWriter(self.name, self.protocol, options.seed, self.units, options.truth)

    @property
    def full(self) -> bool:
        """True when `count` items of the main stream were sent."""
        return 0 < self.options.count <= self.truth.sent.get(self.main_stream, 0)

    @property
    def random_kinds(self) -> tuple[str, ...]:
        """The kinds that may happen at random: all, unless the way in which the instrument is served leaves some out."""
        return tuple(self.faults)

    def step_clock(self, fault: Fault) -> None:
        """Set the instrument's clock by the seconds of the fault `clockstep`, back for those that begin with `-`."""
        self.truth.clock_offset_ns += round(fault.signed(3600) * 1e9) // 1000 * 1000

    @abstractmethod
    async def open(self) -> Mapping[str, Any]:
        """Begin to serve on loopback and return the addresses for the ready line.

        Raises:
            StartError: an address or folder cannot be used.
        """

    @abstractmethod
    async def tick(self) -> None:
        """Produce the next item of each stream that changes."""

    @abstractmethod
    async def close(self) -> None:
        """Stop serving and free every resource."""

    async def client_present(self) -> None:
        """Return when a client can receive; at once for instruments that need none."""
        return

    async def inject(self, fault: Fault, at: float) -> None:
        """Suffer a fault of one of the kinds in `faults`, `at` seconds after production began, and note it."""
        raise NotImplementedError(f"{self.name} has no fault {fault.kind}")

    async def command(self, words: Sequence[str]) -> Mapping[str, Any]:
        """Obey a line on stdin that only this instrument knows and return details for the reply.

        Raises:
            CommandError: unknown or impossible.
        """
        raise CommandError(f"{self.name} does not know {words[0]!r}; it knows: go, stop, quit")
