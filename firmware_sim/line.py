"""What instruments on a serial line have in common: the line, the queue of commands, and the faults of a line.

Invariants: what a reading is counted as and what is put on the line belong together: a reading that a fault repeats is
counted twice, one that a fault cuts or corrupts is not counted; nothing blocks; while the instrument hangs it neither
answers nor sends. An instrument that sends by itself does so once a tick.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from firmware_sim.faults import Fault
from firmware_sim.instrument import Instrument, Options, StartError
from firmware_sim.links import Link, PtyLink, TcpLink
from firmware_sim.truth import Protocol

LINE_FAULTS: Final[Mapping[str, str]] = {
    "garbage": "ARG (16) bytes above 0x7F and an end of line; no reading",
    "partial": "the next reading is cut after ARG (8) bytes, its end of line kept; no reading",
    "hang": "no answer and nothing sent for ARG (5) seconds",
    "disconnect": "the TCP connection is closed (only with --tcp)",
    "duplicate": "the next reading is sent twice and counted twice",
    "drip": "for ARG (1) seconds bytes are sent one by one, 2 ms apart",
    "reset": "the instrument starts again: what it was told is forgotten",
    "nan": "the next reading is not a number, in the words of its protocol",
}
DRIP_SECONDS: Final = 0.002
NEXT: Final = frozenset({"partial", "duplicate", "nan", "typechange", "corrupt", "reorder"})
"""Faults that the next reading suffers."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What is measured at once: the bytes on the line with their end, and what the truth says of each stream."""

    data: bytes
    streams: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class LineInstrument(Instrument):
    """A device on a pty, or with `tcp` on a loopback socket. Subclasses say what they answer and what they measure."""

    protocol: ClassVar[Protocol] = "serial"
    end: ClassVar[bytes] = b"\r\n"

    def __init__(self, options: Options, *, tcp: bool = False, port: int = 0) -> None:
        if not tcp and any(fault.kind == "disconnect" for fault in options.faults):
            raise StartError("a pty cannot be disconnected; give --tcp to use the fault disconnect")
        super().__init__(options)
        self._tcp = tcp
        self._link: Link = TcpLink(port) if tcp else PtyLink()
        self._commands: asyncio.Queue[str] = asyncio.Queue()
        self._asked = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._hung_until = self._dripping_until = 0.0
        self._next: deque[Fault] = deque()
        self._held: Reading | None = None
        self._drops: asyncio.Queue[bytes] = asyncio.Queue()
        self._dripping = b""
        """What is left of the line that drips now."""

    @abstractmethod
    def obey(self, command: str) -> bytes | None:
        """Answer a command that measures nothing, with the end of line; None: no answer. Unknown ones are answered as the protocol does."""

    @abstractmethod
    def measures(self, command: str) -> bool:
        """Whether a reading answers this command."""

    @abstractmethod
    def reading(self, command: str) -> Reading:
        """Measure; `command` is what asked for it, empty when the instrument sends by itself."""

    @abstractmethod
    def not_now(self, command: str) -> bytes | None:
        """The answer to a command that measures while production does not run; None: no answer."""

    @abstractmethod
    def restart(self) -> bytes:
        """Forget what was told, and return what is sent at power on."""

    def spoil(self, fault: Fault, reading: Reading) -> Reading:
        """Return the reading as `nan` or `typechange` makes it; for instruments that know these kinds."""
        raise NotImplementedError(f"{self.name} has no fault {fault.kind}")

    @property
    def sends(self) -> bool:
        """Whether a reading is sent each tick, unasked."""
        return False

    def forget_client(self) -> None:
        """Who comes new has not asked for anything yet, and who has left wants nothing any more."""

    @property
    def random_kinds(self) -> tuple[str, ...]:
        """All kinds; on a pty those that it can suffer."""
        return tuple(kind for kind in self.faults if self._tcp or kind != "disconnect")

    async def open(self) -> Mapping[str, Any]:
        """Make the line and begin to answer."""
        try:
            address = await self._link.open(self._commands.put_nowait, self._new_client)
        except OSError as e:
            raise StartError(f"cannot listen ({e}); choose another --port or leave it out") from e
        self._tasks = [asyncio.create_task(self._answer()), asyncio.create_task(self._drip())]
        return address

    async def client_present(self) -> None:
        """Return at the first command: who asks is listening."""
        await self._asked.wait()

    async def tick(self) -> None:
        """Send the next reading, if a client asked for continuous sending."""
        for task in self._tasks:
            if task.done():
                task.result()  # it never ends by itself, so this raises what broke it
        if self.sends and not self._hung:
            self.send_reading("")

    async def inject(self, fault: Fault, at: float) -> None:
        """Do on the line what `faults` says."""
        clock = asyncio.get_running_loop().time
        details: dict[str, Any] = {}
        if fault.kind in NEXT:
            self._next.append(fault)
        elif fault.kind == "disconnect":
            self._link.drop()
        elif fault.kind == "hang":
            self._hung_until = clock() + fault.number(5)
        elif fault.kind == "drip":
            self._dripping_until = clock() + fault.number(1)
        elif fault.kind == "reset":
            if banner := self.restart():
                self._put(banner)
        else:
            noise = self.rng.integers(0x80, 0x100, int(fault.number(16)), dtype="u1").tobytes()
            self._put(noise + self.end)
            details = {"hex": noise.hex()}
        self.truth.fault(fault.kind, at, fault.arg, **details)

    async def close(self) -> None:
        """Close the line."""
        for task in self._tasks:
            task.cancel()
        await self._link.close()

    def send_reading(self, command: str) -> None:
        """Measure and send, as the faults that wait for the next reading have it."""
        if not self.gate.active or self.full:
            if (answer := self.not_now(command)) is not None:
                self._put(answer)
            return
        reading = self.reading(command)
        fault = self._next.popleft() if self._next else None
        match fault.kind if fault else "":
            case "partial" if fault:
                self._count_spoiled(reading)
                self._put(reading.data[: min(int(fault.number(8)), len(reading.data) - len(self.end) - 1)] + self.end)
            case "corrupt":
                self._count_spoiled(reading)
                self._put(_flipped(reading.data, len(self.end)))
            case "duplicate":
                self._count_and_put(reading)
                self._count_and_put(reading)
            case "reorder" if self._held is None:
                self._held = reading
                return
            case "nan" | "typechange" if fault:
                self._count_and_put(self.spoil(fault, reading))
            case _:
                self._count_and_put(reading)
        if self._held is not None:
            held, self._held = self._held, None
            self._count_and_put(held)

    @property
    def _hung(self) -> bool:
        return asyncio.get_running_loop().time() < self._hung_until

    def _new_client(self) -> None:
        self.forget_client()

    async def _answer(self) -> None:
        while True:
            command = await self._commands.get()
            self._asked.set()
            if not self.options.hold:
                await self.gate.opened.wait()
            if self._hung:
                continue
            if self.measures(command):
                self.send_reading(command)
            elif (answer := self.obey(command)) is not None:
                self._put(answer)

    def _count_and_put(self, reading: Reading) -> None:
        for stream, what in reading.streams.items():
            self.truth.item(stream, self.truth.now(), **what)
        self._put(reading.data)

    def _count_spoiled(self, reading: Reading) -> None:
        """A reading that carries the instrument's own number was counted by it; who watches the number misses it."""
        for stream, what in reading.streams.items():
            if "unique_id" in what:
                self.truth.item(stream, self.truth.now(), **what, dropped=True)

    def _put(self, data: bytes) -> None:
        # What drips goes before what comes after it.
        if self._dripping or not self._drops.empty() or asyncio.get_running_loop().time() < self._dripping_until:
            self._drops.put_nowait(data)
        else:
            self._link.send(data)

    async def _drip(self) -> None:
        while True:
            self._dripping = await self._drops.get()
            while self._dripping and asyncio.get_running_loop().time() < self._dripping_until:
                self._link.send(self._dripping[:1])
                self._dripping = self._dripping[1:]
                await asyncio.sleep(DRIP_SECONDS)
            if self._dripping:
                self._link.send(self._dripping)
                self._dripping = b""


def _flipped(data: bytes, end: int) -> bytes:
    """The same bytes but for one, before the end and behind the middle, whose lowest bit is turned over: what a checksum is for."""
    at = (len(data) - end) * 2 // 3
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
