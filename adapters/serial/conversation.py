"""The conversation with one instrument: what is said to it, what is made of its lines, and whether it answers.

Invariants: at most one question is outstanding; an outage that began after the first value becomes one Gap with an unknown
count, from the last value to the reconnect; `Sink.connected` and `Sink.disconnected` are told once a change; nothing here
touches the port but through the `Reader`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adapters.serial.outcome import Answer, Outcome, Reading, Unparsed
from adapters.serial.plan import SILENT_QUESTIONS, Plan, expects_answer
from adapters.serial.ports import PortDown
from adapters.serial.reader import Down, Event, Reader, Refused, Up
from adapters.serial.rows import HOLD_NS, Rows, Sample
from adapters.serial.splitter import SHOWN, Junk, Line
from edge_agent.adapter import Sink
from edge_agent.model import Cause, Gap, utc_now_ns

TICK_SECONDS = 0.5
MOST_NOISE = 10
"""Bad lines in a row after which the instrument is said to be misunderstood."""

log = logging.getLogger(__name__)

OnLine = Callable[[bytes, Outcome], None]


@dataclass(slots=True)
class _Outage:
    t_from: int
    why: str


class Conversation:
    """One instrument on one port. ``on_line`` sees every line and what became of it."""

    def __init__(
        self, source: str, timeout: float, plan: Plan, reader: Reader, rows: Rows, sink: Sink, on_line: OnLine | None = None
    ) -> None:
        self._source = source
        self._timeout = timeout
        self._plan = plan
        self._reader = reader
        self._rows = rows
        self._sink = sink
        self._on_line = on_line
        self._question: bytes | None = None
        """The command of ``on_connect`` that waits for its answer."""
        self._answered = asyncio.Event()
        self._told: str | None = None
        """The last thing that was said of the source: why it is down, or "" for up."""
        self._outage: _Outage | None = None
        self._last_value = 0
        self._noise = 0

    async def run(self) -> None:
        """Read and talk until cancelled."""
        talk: asyncio.Task[None] | None = None
        try:
            self._reader.start()
            while True:
                events = await self._reader.take(TICK_SECONDS)
                if talk is not None and talk.done() and not talk.cancelled():
                    talk.result()
                for event in events:
                    if isinstance(event, Up | Down) and talk is not None:
                        talk.cancel()
                    if isinstance(event, Up):
                        talk = asyncio.create_task(self._talk())
                self._rows.declare_garbage(HOLD_NS)
                await self._deliver(events)
        finally:
            if talk is not None:
                talk.cancel()
            self._end_outage(utc_now_ns())
            self._rows.close()

    async def _deliver(self, events: Sequence[Event]) -> None:
        """Values of one read go out together; anything else stands where it happened between them."""
        samples: list[Sample] = []
        for event in events:
            outcome = self._read(event) if isinstance(event, Line) else None
            if isinstance(event, Line) and isinstance(outcome, Reading):
                samples.append(Sample(outcome, event.t))
            elif not isinstance(outcome, Answer):
                await self._rows.put(samples)
                samples = []
                self._note(event, outcome)
        await self._rows.put(samples)

    def _read(self, line: Line) -> Outcome:
        asked = self._plan.answer(self._question, line.raw) if self._question is not None else None
        if asked is not None:
            self._question = None
        outcome = asked or self._plan.parser.parse(line.raw)
        if line.doubtful and isinstance(outcome, Reading) and self._may_be_a_tail(line.raw):
            outcome = Unparsed("the line may have begun before the port was opened")
        if self._on_line is not None:
            self._on_line(line.raw, outcome)
        self._answered.set()
        if isinstance(outcome, Unparsed):
            return outcome
        self._well(line.t)
        if isinstance(outcome, Reading):
            self._last_value = line.t
        elif outcome.facts:
            self._sink.describe(outcome.facts)
        return outcome

    def _may_be_a_tail(self, raw: bytes) -> bool:
        """Whether a longer line would be read, too: then a digit may be missing in front."""
        return any(isinstance(self._plan.parser.parse(more + raw), Reading) for more in (b"1", b"A"))

    def _note(self, event: Event, outcome: Outcome | None) -> None:
        match event:
            case Up():
                if not self._plan.talks:
                    self._well(event.t)
            case Down():
                self._lose(str(event.error))
            case Refused():
                self._rows.gap(Gap(Cause.OVERLOAD, None, None, event.count, event.t_from, event.t_to, "too many lines waited"))
            case Junk():
                if self._on_line is not None:
                    self._on_line(event.head, Unparsed(event.why))
                self._bad(event)
            case Line():
                self._bad(Junk(event.raw[:SHOWN], outcome.why if isinstance(outcome, Unparsed) else "", event.t))

    def _well(self, t: int) -> None:
        """It answers, or its port is open and more is not expected."""
        self._noise = 0
        self._end_outage(t)
        if self._told != "":
            self._told = ""
            self._sink.connected(self._source, detail=self._plan.profile)

    def _bad(self, junk: Junk) -> None:
        self._answered.set()
        self._rows.garbage(junk)
        self._noise += 1
        if self._noise == MOST_NOISE:
            self._tell(f"what it sends is not understood ({junk.head!r}: {junk.why}); check baudrate, parity, delimiter and parse")

    def _lose(self, why: str) -> None:
        if self._outage is None and self._last_value:
            self._outage = _Outage(self._last_value, why)
        self._tell(why)

    def _tell(self, why: str) -> None:
        if self._told != why:
            self._told = why
            self._sink.disconnected(self._source, why=why)

    def _end_outage(self, t: int) -> None:
        if self._outage is not None:
            self._rows.declare_garbage()
            self._rows.gap(Gap(Cause.DISCONNECT, t_from=self._outage.t_from, t_to=t, detail=self._outage.why))
            self._outage = None

    async def _talk(self) -> None:
        """Say what is to be said on one connection, and again after each silence: the instrument may have been off."""
        silence = self._plan.silence
        was_silent = False
        while True:
            answered = await self._greet()
            if was_silent and not answered:
                self._lose(f"nothing came for {silence:g} s; is it on, is the cable right?")
            if self._plan.start is not None:
                await self._send(self._plan.start)
            if self._plan.ask is not None:
                await self._poll(self._plan.ask)
            elif silence is not None:
                await self._watch(silence)
                was_silent = True
            else:
                return

    async def _greet(self) -> bool:
        """Send the commands of ``on_connect``; whether one of them was answered."""
        answered = False
        for command in self._plan.on_connect:
            if expects_answer(self._plan, command):
                answered = await self._ask(command, opening=True) or answered
            else:
                await self._send(command)
        return answered

    async def _poll(self, command: bytes) -> None:
        """Ask regularly; returns when the instrument answers again after it did not."""
        loop = asyncio.get_running_loop()
        silent_since, misses = loop.time(), 0
        due = loop.time()
        while True:
            if await self._ask(command):
                if misses >= SILENT_QUESTIONS:
                    return
                silent_since, misses = loop.time(), 0
            else:
                misses += 1
            silent = loop.time() - silent_since
            if misses >= SILENT_QUESTIONS and silent >= (self._plan.silence or 0.0):
                self._lose(f"no answer to {command.strip().decode('ascii', 'replace')!r}; is it on, are cable, baudrate and parity right?")
            due = max(due + self._plan.every, loop.time())
            await asyncio.sleep(due - loop.time())

    async def _watch(self, silence: float) -> None:
        """Return after a silence."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while (rest := max(began, self._reader.heard_at) + silence - loop.time()) > 0:  # noqa: ASYNC110 - waits for nothing to happen
            await asyncio.sleep(rest)

    async def _ask(self, command: bytes, *, opening: bool = False) -> bool:
        """Send and wait for an answer; False when nothing at all came within the timeout."""
        began = asyncio.get_running_loop().time()
        self._answered.clear()
        self._question = command if opening else None
        try:
            if not await self._send(command):
                return False
            async with asyncio.timeout(self._timeout):
                await self._answered.wait()
            return True
        except TimeoutError:
            # It may have answered while the recorder held us up.
            return self._reader.heard_at > began
        finally:
            self._question = None

    async def _send(self, command: bytes) -> bool:
        try:
            await asyncio.to_thread(self._reader.write, command)
        except PortDown as e:
            log.debug("%s: %r was not sent: %s", self._source, command, e)
            return False
        return True
