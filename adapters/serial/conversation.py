"""The conversation with one instrument: what is said to it, what is made of its lines, and whether it answers.

Invariants: at most one question is outstanding; an outage that began after the first value becomes one Gap with an unknown
count, from the last value to the reconnect; `Sink.connected` and `Sink.disconnected` are told once a change; nothing here
touches the port but through the `Reader`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import cast

import numpy as np

from adapters.serial.outcome import Answer, Outcome, Reading, Unparsed
from adapters.serial.plan import SILENT_QUESTIONS, Greeting, Plan, Query
from adapters.serial.ports import PortDown
from adapters.serial.raw import GARBAGE, Bytes, RawRows
from adapters.serial.reader import Disturbed, Down, Event, Reader, Refused, Up, lines_in
from adapters.serial.rows import HOLD_NS, Rows, Sample
from adapters.serial.splitter import MANY, Junk, Line, Lines
from adapters.serial.stars import Login, LoginRefused
from adapters.serial.why import Why
from edge_agent.adapter import Sink
from edge_agent.model import Cause, Gap, Int64Array, utc_now_ns

TICK_SECONDS = 0.5
MOST_NOISE = 10
"""Bad lines in a row after which the instrument is said to be misunderstood."""
BUSY_LINES = 64
GATHER_SECONDS = 0.25
"""A busy line is delivered in fewer and larger blocks."""

log = logging.getLogger(__name__)

OnLine = Callable[[bytes, Outcome], None]


@dataclass(slots=True)
class _Outage:
    t_from: int
    why: str


@dataclass(slots=True)
class _Unanswered:
    """How often a question stayed without an answer since ``t_from``, UTC ns."""

    t_from: int
    count: int = 0


class Conversation:
    """One instrument on one port. ``on_line`` sees every line and what became of it."""

    def __init__(
        self, source: str, timeout: float, plan: Plan, reader: Reader, rows: Rows, raw: RawRows, sink: Sink, on_line: OnLine | None = None
    ) -> None:
        self._source = source
        self._timeout = timeout
        self._plan = plan
        self._reader = reader
        self._rows = rows
        self._raw = raw
        self._sink = sink
        self._on_line = on_line
        self._question: Greeting | None = None
        """The command of ``on_connect`` that waits for its answer."""
        self._asked: Query | None = None
        """The query with a form of its own that waits for its answer."""
        self._login: Login | None = None
        """While the log-in is not done."""
        self._let_in = asyncio.Event()
        self._greeted: asyncio.Task[bool] | None = None
        """Says who we are; None before the server has said its number."""
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
                        self._login, self._greeted = self._plan.login, None
                        self._let_in.clear()
                        talk = asyncio.create_task(self._talk())
                self._rows.declare_garbage(HOLD_NS)
                await self._deliver(events)
                if lines_in(events) >= BUSY_LINES:
                    await asyncio.sleep(GATHER_SECONDS)
        finally:
            for task in (talk, self._greeted):
                if task is not None:
                    task.cancel()
            self._end_outage(utc_now_ns())
            self._rows.close()

    async def _deliver(self, events: Sequence[Event]) -> None:
        """Values of one read go out together; anything else stands where it happened between them."""
        bytes_: list[Bytes] = []
        for kind, run in groupby(events, type):
            if kind is Line:
                await self._deliver_lines(cast(list[Line], list(run)), bytes_)
                continue
            if kind is Lines:
                await self._deliver_many(cast(list[Lines], list(run)), bytes_)
                continue
            for event in run:
                if isinstance(event, Bytes):
                    bytes_.append(event)
                else:
                    self._note(event, bytes_)
        await self._raw.put(bytes_)

    async def _deliver_many(self, blocks: list[Lines], bytes_: list[Bytes]) -> None:
        raws = list(chain.from_iterable(block.raws for block in blocks))
        if not await self._deliver_at_once(raws, np.concatenate([block.times() for block in blocks])):
            await self._one_by_one([line for block in blocks for line in block.each()], bytes_)

    async def _deliver_lines(self, lines: list[Line], bytes_: list[Bytes]) -> None:
        if len(lines) >= MANY and not lines[0].doubtful:
            times = np.array([line.t for line in lines], np.int64)
            if await self._deliver_at_once([line.raw for line in lines], times):
                return
        await self._one_by_one(lines, bytes_)

    async def _one_by_one(self, lines: list[Line], bytes_: list[Bytes]) -> None:
        samples: list[Sample] = []
        for line in lines:
            outcome = self._read(line)
            if isinstance(outcome, Reading):
                samples.append(Sample(outcome, line.t))
            elif isinstance(outcome, Unparsed):
                await self._rows.put(samples)
                samples = []
                self._bad(Junk(line.raw, outcome.why, line.t), self._asked)
                self._keep(bytes_, Bytes(line.on_the_line, line.t))
        await self._rows.put(samples)

    async def _deliver_at_once(self, raws: list[bytes], times: Int64Array) -> bool:
        """Many lines that nobody asked for, all of the first form; False where they have to be read one by one."""
        if self._on_line is not None or self._question or self._asked or self._login or not self._plan.unasked:
            return False
        form = self._plan.unasked[0]
        columns = self._plan.parsers[form].parse_many(raws)
        if columns is None:
            return False
        self._answered.set()
        self._last_value = int(times[-1])
        self._well(self._last_value)
        await self._rows.put_columns(form, columns, times)
        return True

    def _read(self, line: Line) -> Outcome:
        if self._login is not None:
            self._log_in(self._login, line.raw)
            return Answer()
        outcome = self._outcome(line)
        if self._on_line is not None:
            self._on_line(line.on_the_line, outcome)
        if isinstance(outcome, Unparsed):
            return outcome
        self._well(line.t)
        if isinstance(outcome, Reading):
            self._last_value = line.t
        elif outcome.facts:
            self._sink.describe(outcome.facts)
        return outcome

    def _outcome(self, line: Line) -> Outcome:
        told = self._plan.answer(self._question.text, line.raw) if self._question is not None else None
        if told is not None:
            self._question = None
            self._answered.set()
            return told
        asked = self._asked
        if asked is None or asked.form is None:
            self._answered.set()
            return self._by_itself(line)
        outcome = self._parsed(asked.form, line.raw)
        if isinstance(outcome, Reading):
            self._asked = None
            self._answered.set()
            return outcome
        other = self._by_itself(line)
        if not isinstance(other, Unparsed):
            return other  # it came in between, and the answer is still to come
        # Noise, too, may come before the answer. Who takes it for the answer takes each answer for that of the next question from then on.
        return outcome

    def _by_itself(self, line: Line) -> Outcome:
        """What a line is that answers no query with a form of its own."""
        refused: Unparsed | None = None
        for form in self._plan.unasked:
            outcome = self._parsed(form, line.raw)
            if not isinstance(outcome, Unparsed):
                if line.doubtful and isinstance(outcome, Reading) and self._may_be_a_tail(line.raw):
                    return Unparsed(Why("the line may have begun before the port was opened"))
                return outcome
            refused = refused or outcome
        return refused or Unparsed(Why("nobody asked for it"))

    def _parsed(self, form: int, raw: bytes) -> Outcome:
        outcome = self._plan.parsers[form].parse(raw)
        return replace(outcome, form=form) if form and isinstance(outcome, Reading) else outcome

    def _may_be_a_tail(self, raw: bytes) -> bool:
        """Whether a longer line would be read, too: then a digit may be missing in front."""
        return any(isinstance(self._plan.parsers[form].parse(more + raw), Reading) for more in (b"1", b"A") for form in self._plan.unasked)

    def _keep(self, bytes_: list[Bytes], part: Bytes) -> None:
        """Bytes that are no item are kept, if not all are."""
        if self._plan.raw == GARBAGE:
            bytes_.append(part)

    def _note(self, event: Event, bytes_: list[Bytes]) -> None:
        match event:
            case Up():
                if not self._plan.talks:
                    self._well(event.t)
            case Down():
                if self._login is None or self._told is None:  # else the server's refusal says more
                    self._lose(event.error.reason)
            case Refused():
                self._refused(event)
            case Disturbed():
                for cause, words in event.errors.told():
                    self._rows.gap(Gap(cause, t_from=event.t_from, t_to=event.t_to, detail=f"{words} on the line"))
            case Junk():
                if self._on_line is not None:
                    self._on_line(event.raw, Unparsed(event.why))
                self._bad(event, self._asked)
                self._keep(bytes_, Bytes(event.raw, event.t))

    def _refused(self, event: Refused) -> None:
        detail = "too many lines waited"
        if event.count:
            self._rows.gap(Gap(Cause.OVERLOAD, None, None, event.count, event.t_from, event.t_to, detail))
        if event.size:
            self._raw.gap(Gap(Cause.OVERLOAD, t_from=event.t_from, t_to=event.t_to, detail=f"{detail}: {event.size} bytes"))

    def _well(self, t: int) -> None:
        """It answers, or its port is open and more is not expected."""
        self._noise = 0
        self._end_outage(t)
        if self._told != "":
            self._told = ""
            self._sink.connected(self._source, detail=self._plan.profile)

    def _bad(self, junk: Junk, asked: Query | None) -> None:
        if asked is None:
            self._answered.set()
        self._rows.garbage(junk, asked.form if asked is not None else None)
        self._noise += not junk.more
        if self._noise == MOST_NOISE:
            self._tell(
                Why(
                    "what it sends is not understood ({head}: {why}); check baudrate, parity, delimiter and parse",
                    head=repr(junk.head),
                    why=junk.why,
                )
            )

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
        if self._plan.login is not None:
            try:
                async with asyncio.timeout(self._timeout):
                    await self._let_in.wait()
            except TimeoutError:
                self._refuse(Why("the server did not let us in within {seconds} s", seconds=f"{self._timeout:g}"))
                return
            self._well(utc_now_ns())
        while True:
            answered = await self._greet()
            if was_silent and not answered:
                self._lose(Why("nothing came for {seconds} s; is it on, is the cable right?", seconds=f"{silence:g}"))
            if self._plan.start is not None:
                await self._send(self._plan.start)
            if self._plan.queries:
                await self._poll(self._plan.queries)
            elif silence is not None:
                await self._watch(silence)
                was_silent = True
            else:
                return

    def _log_in(self, login: Login, said: bytes) -> None:
        """One line of a log-in; a refusal is told, and tried again with another connection."""
        try:
            if self._greeted is None:
                self._greeted = asyncio.create_task(self._send(login.answer(said)))
                return
            login.check(said)
            self._login = None
            self._let_in.set()
        except LoginRefused as e:
            self._refuse(e.why)

    def _refuse(self, why: Why) -> None:
        self._lose(why)
        self._reader.hang_up()

    async def _greet(self) -> bool:
        """Send the commands of ``on_connect``; whether one of them was answered."""
        answered = False
        for greeting in self._plan.on_connect:
            if greeting.answered:
                answered = await self._ask(greeting.command, self._timeout, greeting=greeting) or answered
            else:
                await self._send(greeting.command)
        return answered

    async def _poll(self, queries: Sequence[Query]) -> None:
        """Ask regularly; returns when the instrument answers again after it did not."""
        loop = asyncio.get_running_loop()
        silent_since, misses = loop.time(), 0
        due = dict.fromkeys(range(len(queries)), loop.time())
        unanswered = {turn: _Unanswered(utc_now_ns()) for turn in due}
        try:
            while True:
                turn = min(due, key=lambda i: due[i])
                query = queries[turn]
                await asyncio.sleep(due[turn] - loop.time())
                if await self._put(query):
                    self._declare_unanswered(query, unanswered[turn])
                    unanswered[turn] = _Unanswered(utc_now_ns())
                    if misses >= SILENT_QUESTIONS:
                        return
                    silent_since, misses = loop.time(), 0
                else:
                    misses += 1
                    unanswered[turn].count += 1
                silent = loop.time() - silent_since
                if misses >= SILENT_QUESTIONS and silent >= (self._plan.silence or 0.0):
                    why = Why("no answer to {query}; is it on, are cable, baudrate and parity right?", query=repr(query.text))
                    self._lose(why)
                due[turn] = max(due[turn] + query.every, loop.time())
        finally:
            for turn, query in enumerate(queries):
                self._declare_unanswered(query, unanswered[turn])

    def _declare_unanswered(self, query: Query, unanswered: _Unanswered) -> None:
        """One question stays without an answer while others are answered: what it would have given is missing."""
        if unanswered.count >= SILENT_QUESTIONS and query.form is not None and self._outage is None:
            detail = f"no answer to {query.text!r}, asked {unanswered.count} times"
            self._rows.gap(Gap(Cause.DISCONNECT, t_from=unanswered.t_from, t_to=utc_now_ns(), detail=detail), query.form)

    async def _put(self, query: Query) -> bool:
        """Ask one query; an answer that is late is waited for as long again, so that it is not taken for that of the next one."""
        self._asked = query if query.form is not None else None
        try:
            heard = await self._ask(query.command, query.timeout)
            if self._asked is not None and len(self._plan.queries) > 1:
                return await self._heard(query.timeout)
            return heard
        finally:
            self._asked = None

    async def _watch(self, silence: float) -> None:
        """Return after a silence."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while (rest := max(began, self._reader.heard_at) + silence - loop.time()) > 0:  # noqa: ASYNC110 - waits for nothing to happen
            await asyncio.sleep(rest)

    async def _ask(self, command: bytes, timeout: float, *, greeting: Greeting | None = None) -> bool:
        """Send and wait for an answer; False when nothing at all came within the timeout."""
        began = asyncio.get_running_loop().time()
        self._answered.clear()
        self._question = greeting
        try:
            # It may have answered while the recorder held us up.
            return await self._send(command) and (await self._heard(timeout) or self._reader.heard_at > began)
        finally:
            self._question = None

    async def _heard(self, timeout: float) -> bool:
        try:
            async with asyncio.timeout(timeout):
                await self._answered.wait()
        except TimeoutError:
            return False
        return True

    async def _send(self, command: bytes) -> bool:
        try:
            await asyncio.to_thread(self._reader.write, command)
        except PortDown as e:
            log.debug("%s: %r was not sent: %s", self._source, command, e)
            return False
        return True
