"""The life of one instrument process: open, ready line, production at a steady rate, commands, end line, close.

Invariants: ticks are never closer than half a period, also after a stall, so a client's one-value queues are not
overrun by catching up; the end line is written on every way out but SIGKILL; every command gets exactly one reply.
Replies: `go` {"started": NAME}, `stop` {"stopped": NAME, "sent": {...}, "dropped": {...}} (also printed when --count
is reached), other commands {"did": COMMAND, ...}, anything impossible {"error": WHY, "command": COMMAND}.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from firmware_sim.console import Console
from firmware_sim.faults import Timetable, random_faults
from firmware_sim.instrument import CommandError, Instrument


async def serve(instrument: Instrument, console: Console) -> None:
    """Run an instrument until it is told to quit; raises what its production or opening raised."""
    console.listen()
    try:
        addresses = await instrument.open()
        console.say({"ready": instrument.name, "device": instrument.model, **addresses})
        session = _Session(instrument, console)
        production = asyncio.create_task(session.produce())
        production.add_done_callback(lambda task: console.end() if _failed(task) else None)
        async for line in console.lines():
            if line == "quit":
                break
            await session.obey(line)
        instrument.gate.close()
        await production
    finally:
        instrument.truth.end()
        await instrument.close()


class _Session:
    def __init__(self, instrument: Instrument, console: Console) -> None:
        self._instrument = instrument
        self._console = console
        self._go = asyncio.Event()
        self._finished = asyncio.Event()

    async def produce(self) -> None:
        """Wait for the start, then tick until count, stop or quit; ends with the end line."""
        try:
            await self._produce()
        finally:
            self._finished.set()
        self._say_stopped()

    async def obey(self, line: str) -> None:
        """Carry out one command and reply."""
        gate = self._instrument.gate
        try:
            match line.split():
                case ["go"]:
                    if gate.opened.is_set():
                        raise CommandError("production has already started or ended")
                    self._go.set()
                case ["stop"]:
                    if self._finished.is_set():
                        self._say_stopped()
                    gate.close()
                    await self._finished.wait()
                case words:
                    if gate.closed.is_set():
                        raise CommandError("production has ended; start the instrument again")
                    details = await self._instrument.command(words)
                    self._console.say({"did": line, **details})
        except CommandError as e:
            self._console.say({"error": str(e), "command": line})

    async def _produce(self) -> None:
        instrument = self._instrument
        gate = instrument.gate
        starters: list[Awaitable[object]] = [self._go.wait(), gate.closed.wait()]
        if not instrument.options.hold:
            starters.append(instrument.client_present())
        await _first_of(*starters)
        if not gate.closed.is_set():
            gate.opened.set()
            self._console.say({"started": instrument.name})
            await self._tick_on()
        gate.close()
        instrument.truth.end()

    async def _tick_on(self) -> None:
        instrument = self._instrument
        clock = asyncio.get_running_loop().time
        period = 1.0 / instrument.options.rate
        options = instrument.options
        endless = random_faults(options.seed, instrument.random_kinds, options.random_faults) if options.random_faults else ()
        timetable = Timetable(options.faults, endless)
        start = due = clock()
        while not instrument.full:
            for fault in timetable.due(clock() - start):
                await instrument.inject(fault, clock() - start)
            await instrument.tick()
            due = max(due + period, clock() + period / 2)
            if instrument.full or await _set_within(instrument.gate.closed, due - clock()):
                return

    def _say_stopped(self) -> None:
        truth = self._instrument.truth
        self._console.say({"stopped": self._instrument.name, "sent": truth.sent, "dropped": truth.dropped})


async def _first_of(*awaitables: Awaitable[object]) -> None:
    tasks = [asyncio.ensure_future(one) for one in awaitables]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(max(seconds, 0)):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _failed(task: asyncio.Task[None]) -> bool:
    return not task.cancelled() and task.exception() is not None
