"""Turns the notifications of one variable into the rows and gaps of one stream.

Invariants: on the agent's loop, in the server's order; the first value of each subscription is `Valid.INITIAL`; an
outage becomes one Gap with an unknown count, since values carry no numbers; a changed type or length opens the stream
anew before the next row; a value without content keeps the form that the stream has.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from adapters.opcua.values import DEFAULT_FORM, TEXT_BYTES, Form, Sample, placeholder
from edge_agent.adapter import Inlet, Sink
from edge_agent.model import NO_TIME, Block, Cause, Gap, Stream, Valid

log = logging.getLogger(__name__)


class RowStream:
    """One variable as a stream of rows. It outlives connections: the adapter keeps it by name."""

    def __init__(self, sink: Sink, stream: Stream) -> None:
        self.stream = stream
        self._sink = sink
        self._inlet: Inlet | None = None
        self._form: Form | None = None
        self._first = True
        self._stale = False
        self._t_last = NO_TIME
        self._undeclared: list[Gap] = []
        self._outage: tuple[int, str] | None = None

    def subscribed(self, stream: Stream, form: Form | None) -> None:
        """A new subscription begins: describe the stream as the server now does; ``form`` is what it announces."""
        self._stale = self._stale or self._inlet is None or replace(self.stream, dtype=stream.dtype, shape=stream.shape) != stream
        self.stream = stream
        self._first = True
        if self._form is None:
            self._form = form

    def declare(self, gap: Gap) -> None:
        """Declare a gap now, or as soon as the stream is open."""
        if self._inlet is None:
            self._undeclared.append(gap)
        else:
            self._inlet.gap(gap)

    def interrupted(self, t_from: int, why: str) -> None:
        """Nothing was heard since ``t_from``; without meaning before the first value ever."""
        if self._inlet is not None and self._outage is None:
            self._outage = (t_from, why)

    def resumed(self, t_to: int) -> None:
        """Declare the interruption, if there was one, as a gap that ends here."""
        if self._inlet is not None and self._outage is not None:
            self._inlet.gap(Gap(Cause.DISCONNECT, t_from=self._outage[0], t_to=t_to, detail=self._outage[1]))
        self._outage = None

    async def take(self, samples: Sequence[Sample]) -> None:
        """Deliver a batch; runs of one form go out as one block."""
        run: list[Sample] = []
        form = self._form or DEFAULT_FORM
        for sample in samples:
            if sample.form is not None and sample.form != form:
                await self._put(run, form)
                run, form = [], sample.form
            run.append(sample)
        await self._put(run, form)

    async def _put(self, run: list[Sample], form: Form) -> None:
        if not run:
            return
        inlet = self._open(form)
        self.resumed(run[0].t_arrival)
        values = np.empty((len(run), *form.shape), form.dtype)
        for i, one in enumerate(run):
            values[i] = placeholder(form) if one.form is None else one.value
        valid = np.array([Valid.BAD if one.bad else Valid.GOOD for one in run], np.uint8)
        if self._first and not run[0].bad:
            valid[0] = Valid.INITIAL
        self._first = False
        for one in run:
            if one.overflow:
                detail = "the server's queue overflowed; give a larger queue or a shorter publish interval"
                inlet.gap(Gap(Cause.OVERFLOW, t_from=self._t_last, t_to=one.t_source, detail=detail))
            if one.cut:
                inlet.gap(Gap(Cause.GARBAGE, t_from=one.t_source, t_to=one.t_source, detail=f"text longer than {TEXT_BYTES} bytes cut"))
            self._t_last = one.t_source
        await inlet.put(
            Block(
                values,
                np.array([one.t_source for one in run], np.int64),
                np.array([one.t_arrival for one in run], np.int64),
                t_server=np.array([one.t_server for one in run], np.int64),
                valid=valid,
                status=np.array([one.status for one in run], np.uint32),
            )
        )

    def _open(self, form: Form) -> Inlet:
        changed = form != self._form or form.dtype != self.stream.dtype or form.shape != self.stream.shape
        if self._inlet is None or self._stale or changed:
            if self._inlet is not None and self._form is not None and form != self._form:
                log.info("%s: now %s%s, was %s%s", self.stream.key, form.kind, form.shape, self._form.kind, self._form.shape)
            self.stream = replace(self.stream, dtype=form.dtype, shape=form.shape, source_type=f"opcua {form.kind}")
            self._inlet = self._sink.open(self.stream)
            self._form, self._stale = form, False
            for gap in self._undeclared:
                self._inlet.gap(gap)
            self._undeclared.clear()
        return self._inlet
