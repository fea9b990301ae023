"""Turns the events of one PV into the rows, gaps and status of one stream.

Invariants: runs on the agent's loop, takes events in their order; the first value after each connection is
`Valid.INITIAL`; an outage between two connections becomes exactly one Gap with an unknown count, since neither protocol
numbers its updates; a changed type, length, unit or limit opens the stream anew before the next row.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from adapters.epics.events import TEXT_BYTES, Description, Event, Form, Joined, Lost, Sample, Spoiled
from edge_agent.adapter import Inlet, Sink
from edge_agent.model import Block, Cause, Gap, Stream, Valid

SIGN_OF_LIFE_NS = 45_000_000_000
"""Both protocols ask a silent server for an echo; after this long without one it is lost (EPICS_CA_CONN_TMO 30 s, PVA 40 s)."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Outage:
    """Since when nothing can be said of a PV. Both in UTC ns of arrival."""

    t_from: int
    why: str


class RowStream:
    """One PV as a stream of rows."""

    def __init__(self, sink: Sink, stream: Stream, unit: str | None = None) -> None:
        self.stream = stream
        self._unit = unit
        self._sink = sink
        self._inlet: Inlet | None = None
        self._opened: tuple[Form, Description] | None = None
        self._description = Description("")
        self._joined = False
        self._seen = False
        self._first = True
        self._outage: Outage | None = None
        self._last_arrival = 0
        self._undeclared: list[Gap] = []

    def was_seen(self) -> bool:
        """Whether the PV answered, if only once."""
        return self._seen

    async def take(self, events: Sequence[Event]) -> None:
        """Deliver a batch: runs of samples of one form go out as one block."""
        run: list[Sample] = []
        for event in events:
            if isinstance(event, Sample) and (not run or event.form == run[0].form):
                run.append(event)
                continue
            await self._put(run)
            run = []
            if isinstance(event, Sample):
                run.append(event)
            else:
                self._note(event)
        await self._put(run)

    def missed(self, count: int, t_from: int, t_to: int) -> None:
        """Declare values that were refused before they got here."""
        self._declare(Gap(Cause.OVERLOAD, count=count, t_from=t_from, t_to=t_to, detail="too many updates waited"))

    def _note(self, event: Joined | Lost | Spoiled) -> None:
        if isinstance(event, Spoiled):
            log.warning("%s: an update cannot be recorded: %s", self.stream.source_uri, event.why)
            self._declare(Gap(Cause.GARBAGE, count=1, t_from=event.t, t_to=event.t, detail=event.why))
        elif isinstance(event, Joined):
            self._description = event.description
            if not self._joined:
                self._joined = self._seen = self._first = True
                self._sink.connected(self.stream.source_uri, detail=event.description.source_type)
        else:
            self._joined = False
            if self._outage is None and self._inlet is not None:
                self._outage = Outage(max(self._last_arrival, event.t - SIGN_OF_LIFE_NS), event.why)
            self._sink.disconnected(self.stream.source_uri, why=event.why)

    async def _put(self, run: list[Sample]) -> None:
        if not run:
            return
        inlet = self._open(run[0].form)
        if self._outage is not None:
            inlet.gap(Gap(Cause.DISCONNECT, t_from=self._outage.t_from, t_to=run[0].t_arrival, detail=self._outage.why))
            self._outage = None
        # Filled item by item: numpy would make one array of rows that are arrays anyway, and cut no text unasked.
        values = np.empty((len(run), *run[0].form.shape), run[0].form.dtype)
        for i, one in enumerate(run):
            values[i] = one.value
        valid = np.array([Valid.BAD if one.bad else Valid.GOOD for one in run], np.uint8)
        if self._first and not run[0].bad:
            valid[0] = Valid.INITIAL
        self._first = False
        self._last_arrival = run[-1].t_arrival
        await inlet.put(
            Block(
                values,
                np.array([one.t_source for one in run], np.int64),
                np.array([one.t_arrival for one in run], np.int64),
                valid=valid,
                status=np.array([one.status for one in run], np.uint32),
            )
        )
        for one in run:
            if one.cut:
                inlet.gap(Gap(Cause.GARBAGE, t_from=one.t_arrival, t_to=one.t_arrival, detail=f"text longer than {TEXT_BYTES} bytes cut"))

    def _declare(self, gap: Gap) -> None:
        """Declare now, or as soon as there is a stream: its type is known with the first value."""
        if self._inlet is None:
            self._undeclared.append(gap)
        else:
            self._inlet.gap(gap)

    def _open(self, form: Form) -> Inlet:
        description = self._description
        if self._inlet is None or self._opened != (form, description):
            if self._opened is not None and self._opened[0] != form:
                log.info("%s: now %s%s, was %s%s", self.stream.key, form.dtype, form.shape, self._opened[0].dtype, self._opened[0].shape)
            self.stream = replace(
                self.stream,
                dtype=form.dtype,
                shape=form.shape,
                unit=self._unit if self._unit is not None else description.unit,
                source_type=description.source_type,
                attributes=description.attributes,
            )
            self._inlet = self._sink.open(self.stream)
            self._opened = (form, description)
            for gap in self._undeclared:
                self._inlet.gap(gap)
            self._undeclared.clear()
        return self._inlet
