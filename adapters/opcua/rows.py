"""Turns the values of one variable into the rows and gaps of one stream, or of one stream for each part of a structure.

Invariants: on the agent's loop, in the server's order; the first value of each subscription is `Valid.INITIAL`; an
outage becomes one Gap, with a count where the variable is a counter, else unknown, since values carry no numbers; a changed type or
length opens the stream anew before the next row; a value without content keeps the form that the stream has.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from adapters.opcua.binary import Value
from adapters.opcua.losses import Losses
from adapters.opcua.values import DEFAULT_FORM, TEXT_BYTES, Form, Samples, placeholder
from edge_agent.adapter import Inlet, Sink
from edge_agent.model import NO_TIME, Block, Cause, Gap, Reset, Stream, Valid

log = logging.getLogger(__name__)

OVERFLOWED = "the server's queue overflowed; give a larger queue or a shorter publish interval"


COMPARED_BYTES = 65_536
"""Larger values are not kept for `Outlet.differs`."""

BeforeFirst = Callable[[int], Awaitable[None]]
"""Called before the first value of a subscription is delivered, with its source time: what came before it may be fetched."""


class RowStream:
    """One scalar, array or text as a stream of rows. ``step`` is set for a variable that counts: its values are its numbers."""

    def __init__(self, sink: Sink, stream: Stream, form: Form | None = None, step: int | None = None) -> None:
        self.stream = stream
        self._sink = sink
        self._step = step
        self._inlet: Inlet | None = None
        self._form = form
        self._first = True
        self._stale = True
        self._number: int | None = None
        self.losses = Losses()
        self.t_last = NO_TIME
        self.last: bytes | None = None

    def subscribed(self, stream: Stream, form: Form | None) -> None:
        """A new subscription begins: describe the stream as the server now does; ``form`` is what it announces."""
        self._stale = self._stale or replace(self.stream, dtype=stream.dtype, shape=stream.shape, source_type=stream.source_type) != stream
        self.stream = stream
        self._first = True
        if self._form is None:
            self._form = form

    async def filled(self, samples: Samples) -> None:
        """Deliver what the server's history has of an interruption: marked so, and the interruption goes on."""
        form = samples.form or self._form or DEFAULT_FORM
        await self._put([samples], form, self._open(form), Valid.HISTORY)

    async def take(self, samples: Sequence[Samples]) -> None:
        """Deliver what came; successive values of one form go out as one block."""
        run: list[Samples] = []
        form = self._form or DEFAULT_FORM
        for one in samples:
            if one.form is not None and one.form != form:
                await self._deliver(run, form)
                run, form = [], one.form
            run.append(one)
        await self._deliver(run, form)

    async def _deliver(self, run: list[Samples], form: Form) -> None:
        if not run:
            return
        inlet = self._open(form)
        if self._step is None:
            self.losses.resumed(run[0].t_arrival)
        await self._put(run, form, inlet, Valid.GOOD)

    async def _put(self, run: list[Samples], form: Form, inlet: Inlet, good: Valid) -> None:
        t_source = _joined([one.t_source for one in run])
        values = _joined([placeholder(form, len(one)) if one.values is None else one.values for one in run])
        bad = _joined([one.bad for one in run])
        valid = np.where(bad, np.uint8(Valid.BAD), np.uint8(good))
        if good is Valid.GOOD:
            if self._first and not bad[0]:
                valid[0] = Valid.INITIAL
            self._first = False
            self._declare_losses(run, inlet)
        seq = self._numbers(values, bad, run, inlet) if self._step is not None else None
        self.t_last = int(t_source[-1])
        self.last = values[-1].tobytes() if values[-1].nbytes <= COMPARED_BYTES else None
        arrival = _joined([np.full(len(one), one.t_arrival, np.int64) for one in run])
        server, status = _joined([one.t_server for one in run]), _joined([one.status for one in run])
        await inlet.put(Block(values, t_source, arrival, t_server=server, valid=valid, status=status, seq=seq))

    def _declare_losses(self, run: list[Samples], inlet: Inlet) -> None:
        before = self.t_last
        for one in run:
            if one.overflow.any():
                for i in np.flatnonzero(one.overflow).tolist():
                    t_from = before if i == 0 else int(one.t_source[i - 1])
                    inlet.gap(Gap(Cause.OVERFLOW, t_from=t_from, t_to=int(one.t_source[i]), detail=OVERFLOWED))
            if one.cut:
                t = int(one.t_source[0])
                inlet.gap(Gap(Cause.GARBAGE, t_from=t, t_to=t, detail=f"text longer than {TEXT_BYTES} bytes cut"))
            before = int(one.t_source[-1])

    def _numbers(self, values: npt.NDArray[Any], bad: npt.NDArray[np.bool_], run: list[Samples], inlet: Inlet) -> npt.NDArray[np.uint64]:
        """The counter's values as numbers; what it skipped is declared with its count, and a restart as one."""
        step, last = self._step or 1, self._number
        good = np.flatnonzero(~bad & (values >= 0))
        counts = values[good].astype(np.int64)
        if len(counts):
            before = np.concatenate([counts[:1] - step if last is None else [last], counts[:-1]])
            for i in np.flatnonzero(counts - before != step).tolist():
                self._skipped(inlet, int(before[i]), int(counts[i]), run[0].t_arrival)
            self._number = int(counts[-1])
            self.losses.taken()
        numbers = np.full(len(values), self._number if self._number is not None else 0, np.uint64)
        numbers[good] = counts.astype(np.uint64)
        return numbers

    def _skipped(self, inlet: Inlet, last: int, number: int, arrival: int) -> None:
        step = self._step or 1
        cause, t_from, detail = Cause.SOURCE, self.t_last, "the counter jumped"
        outage = self.losses.taken()
        if outage is not None:
            cause, (t_from, detail) = Cause.DISCONNECT, outage
        if number > last and (number - last) % step == 0:
            inlet.gap(Gap(cause, last + step, number - step, (number - last) // step - 1, t_from, arrival, detail))
        elif number != last:  # the last known value that comes first after a new subscription is no news
            if outage is not None:
                inlet.gap(Gap(cause, t_from=t_from, t_to=arrival, detail=detail))
            inlet.reset(Reset(Cause.RESTART, last, number))

    def _open(self, form: Form) -> Inlet:
        if self._inlet is None or self._stale or form != self._form or form.dtype != self.stream.dtype or form.shape != self.stream.shape:
            if self._inlet is not None and self._form is not None and form != self._form:
                log.info("%s: now %s%s, was %s%s", self.stream.key, form.kind, form.shape, self._form.kind, self._form.shape)
            counted = self._step is not None and not form.shape and np.dtype(form.dtype).kind in "iu"
            self.stream = replace(
                self.stream, dtype=form.dtype, shape=form.shape, source_type=f"opcua {form.kind}", counted=counted, step=self._step or 1
            )
            if not counted:
                self._step = None
            self._inlet = self._sink.open(self.stream)
            self._form, self._stale = form, False
            self.losses.opened(self._inlet)
        return self._inlet


class Outlet:
    """One variable. It outlives connections: the adapter keeps it by name.

    A plain value is the stream itself; of a structure every part is a stream of its own, named ``variable.part``.
    """

    def __init__(self, sink: Sink, stream: Stream, step: int | None = None) -> None:
        self.stream = stream
        self._sink = sink
        self._step = step
        self._parts: dict[str, RowStream] = {}
        self._form: Form | None = None
        self._early = Losses()
        """Of the time in which there were no parts: of every part, once it is there."""
        self.before_first: BeforeFirst | None = None

    def __repr__(self) -> str:
        """The stream's key."""
        return f"Outlet({self.stream.key})"

    @property
    def parts(self) -> dict[str, RowStream]:
        """The streams that there are by now, by path below the variable."""
        return self._parts

    def subscribed(self, stream: Stream, form: Form | None) -> None:
        """A new subscription begins; see `RowStream.subscribed`."""
        self.stream, self._form = stream, form
        for path, part in self._parts.items():
            part.subscribed(_part(stream, path), form if not path else None)

    def declare(self, gap: Gap) -> None:
        """Something of all parts is missing."""
        for losses in self._losses():
            losses.declare(gap)

    def interrupted(self, t_from: int, why: str) -> None:
        """Nothing was heard of the variable since ``t_from``."""
        for losses in self._losses():
            losses.interrupted(t_from, why)

    def resumed(self, t_to: int) -> None:
        """Declare an interruption that nothing has ended."""
        for losses in self._losses():
            losses.resumed(t_to)

    def differs(self, value: Value) -> bool:
        """Whether a value that was read is another one than the last that was delivered."""
        for path, form, content, _ in value.leaves:
            part = self._parts.get(path)
            if part is not None and part.last is not None and np.asarray(content, form.dtype).tobytes() != part.last:
                return True
        return False

    async def take(self, path: str, samples: Sequence[Samples]) -> None:
        """Values of one part, or of all of them when they have no content."""
        if self.before_first is not None:
            fill, self.before_first = self.before_first, None
            await fill(int(samples[0].t_source[0]))
        self._early.resumed(samples[0].t_arrival)
        if not path and self._parts and "" not in self._parts and all(one.form is None for one in samples):
            for part in self._parts.values():
                await part.take(samples)
            return
        await self.part(path).take(samples)

    def part(self, path: str) -> RowStream:
        """The stream of one part, made when its first value comes."""
        if path not in self._parts:
            stream = _part(self.stream, path)
            self._parts[path] = RowStream(self._sink, stream, None if path else self._form, self._step)
            for gap in self._early.kept:
                self._parts[path].losses.declare(gap)
        return self._parts[path]

    def _losses(self) -> list[Losses]:
        return [part.losses for part in self._parts.values()] or [self._early]


def _part(stream: Stream, path: str) -> Stream:
    if not path:
        return stream
    name = stream.name[: 63 - len(path) - 1] + "." + path
    return replace(stream, name=name[:63], source_uri=f"{stream.source_uri}/{path}")


def _joined(columns: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return columns[0] if len(columns) == 1 else np.concatenate(columns)
