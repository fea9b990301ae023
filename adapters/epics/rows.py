"""Turns the events of one PV into the rows, gaps and status of one stream.

Invariants: runs on the agent's loop, takes events in their order; the first value after each connection is
`Valid.INITIAL`; an outage between two connections becomes exactly one Gap with an unknown count, since neither protocol
numbers its updates; a changed type, length, unit or limit opens the stream anew before the next row. Alarms are rows of a stream of
their own, which exists once there was one (``NAME.alarm``); so are the columns of a table (``NAME.COLUMN``), a row each.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from adapters.epics.events import (
    TEXT,
    TEXT_BYTES,
    Alarm,
    Behind,
    Description,
    Event,
    Form,
    Joined,
    Lost,
    Sample,
    Samples,
    Spoiled,
    Table,
    decoded,
    encode_text,
)
from edge_agent.adapter import Inlet, Sink
from edge_agent.model import Block, Cause, Gap, Stream, Valid, utc_now_ns

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
        self._source = stream.source_uri
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
        self._known_at: int | None = None
        """Arrival of the first value since the connection."""
        self._undeclared: list[Gap] = []
        self._children: dict[str, RowStream] = {}

    def was_seen(self) -> bool:
        """Whether the PV answered, if only once."""
        return self._seen

    async def take(self, events: Sequence[Event]) -> None:
        """Deliver a batch: runs of samples of one form go out as one block."""
        run: list[Sample] = []
        for event in decoded(events):
            if isinstance(event, Sample) and (not run or event.form is run[0].form or event.form == run[0].form):
                run.append(event)
                continue
            if run:
                await self._put(_together(run))
            run = []
            if isinstance(event, Sample):
                run.append(event)
            elif isinstance(event, Samples):
                await self._put(event)
            elif isinstance(event, Alarm):
                text, _ = encode_text(event.text)
                # An alarm that came with the first value was there before us; any other has just begun or ended.
                known = event.t_arrival == self._known_at
                await self._child("alarm").put_rows(np.array([text], TEXT), event.t_source, event.t_arrival, False, event.status, known)
            elif isinstance(event, Behind):
                why = f"values came {event.late_ns / 1e9:.2f} s late: the server may have sent the last of several only"
                self._declare(Gap(Cause.OVERLOAD, t_from=event.t_from, t_to=event.t_to, detail=why))
            elif isinstance(event, Table):
                await self._table(event)
            else:
                self._note(event)
        if run:
            await self._put(_together(run))

    def missed(self, count: int, t_from: int, t_to: int) -> None:
        """Declare values that were refused before they got here."""
        self._declare(Gap(Cause.OVERLOAD, count=count, t_from=t_from, t_to=t_to, detail="too many updates waited"))

    def _note(self, event: Joined | Lost | Spoiled) -> None:
        if not isinstance(event, Spoiled):
            for child in self._children.values():
                child.follow(event)
        if isinstance(event, Spoiled):
            log.warning("%s: an update cannot be recorded: %s", self.stream.source_uri, event.why)
            self._declare(Gap(Cause.GARBAGE, count=1, t_from=event.t, t_to=event.t, detail=event.why))
        elif isinstance(event, Joined):
            self._description = event.description
            if not self._joined:
                self._joined = self._seen = True
                self._first = not event.news
                self._sink.connected(self._source, detail=event.description.source_type)
        else:
            self._joined = False
            if self._outage is None and self._inlet is not None:
                self._outage = Outage(max(self._last_arrival, event.t - SIGN_OF_LIFE_NS), event.why)
            self._sink.disconnected(self._source, why=event.why)

    def ended(self) -> None:
        """Nothing is followed any more: an outage that lasts until now is declared."""
        for child in self._children.values():
            child.ended()
        if self._outage is not None and self._inlet is not None:
            self._inlet.gap(Gap(Cause.DISCONNECT, t_from=self._outage.t_from, t_to=utc_now_ns(), detail=self._outage.why))
        self._outage = None

    def follow(self, event: Joined | Lost) -> None:
        """What happens to the PV happens to its alarms and columns; the sink is told once."""
        if isinstance(event, Joined):
            self._description = replace(event.description, unit="", attributes={})
            self._first = self._first or not self._joined
            self._joined = True
        else:
            self._joined = False
            if self._outage is None and self._inlet is not None:
                self._outage = Outage(max(self._last_arrival, event.t - SIGN_OF_LIFE_NS), event.why)

    def _child(self, name: str) -> RowStream:
        child = self._children.get(name)
        if child is None:
            own = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:30]
            base = self.stream.name[: 62 - len(own)]
            child = self._children[name] = RowStream(self._sink, replace(self.stream, name=f"{base}.{own}", unit=""))
            child.follow(Joined(self._description, self._last_arrival))
        return child

    async def _table(self, table: Table) -> None:
        for name, (values, dtype) in table.columns.items():
            if dtype == TEXT:
                values = np.array([encode_text(text)[0] for text in values], TEXT)
            await self._child(name).put_rows(np.array(values, dtype), table.t_source, table.t_arrival, table.bad, table.status)

    async def put_rows(
        self, values: npt.NDArray[Any], t_source: int, t_arrival: int, bad: bool, status: int, known: bool | None = None
    ) -> None:
        """Rows of one time: the alarm, a column of a table. ``known``: whether they are no news; left out, the first ones are none."""
        n = len(values)
        if not n:
            return
        inlet = self._begin(Form(values.dtype.str), t_arrival)
        mark = Valid.BAD if bad else Valid.INITIAL if (self._first if known is None else known) else Valid.GOOD
        self._first, self._last_arrival = False, t_arrival
        times = np.full(n, t_source, np.int64), np.full(n, t_arrival, np.int64)
        await inlet.put(Block(values, *times, valid=np.full(n, mark, np.uint8), status=np.full(n, status, np.uint32)))

    def _begin(self, form: Form, t_arrival: int) -> Inlet:
        inlet = self._open(form)
        if self._outage is not None:
            inlet.gap(Gap(Cause.DISCONNECT, t_from=self._outage.t_from, t_to=t_arrival, detail=self._outage.why))
            self._outage = None
        return inlet

    async def _put(self, samples: Samples) -> None:
        inlet = self._begin(samples.form, int(samples.t_arrival[0]))
        valid = np.where(samples.bad, np.uint8(Valid.BAD), np.uint8(Valid.GOOD))
        if self._first:
            self._known_at = int(samples.t_arrival[0])
            if not samples.bad[0]:
                valid[0] = Valid.INITIAL
        self._first = False
        self._last_arrival = int(samples.t_arrival[-1])
        await inlet.put(Block(samples.values, samples.t_source, samples.t_arrival, valid=valid, status=samples.status))
        for t in samples.cut:
            inlet.gap(Gap(Cause.GARBAGE, t_from=t, t_to=t, detail=f"text longer than {TEXT_BYTES} bytes cut"))

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
                source_uri=description.uri or self.stream.source_uri,
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


def _together(run: Sequence[Sample]) -> Samples:
    """Samples of one form as columns."""
    form = run[0].form
    if form.shape or form.dtype == TEXT:
        # Filled item by item: numpy would make one array of rows that are arrays anyway, and cut no text unasked.
        values = np.empty((len(run), *form.shape), form.dtype)
        for i, one in enumerate(run):
            values[i] = one.value
    else:
        values = np.array([one.value for one in run], form.dtype)
    return Samples(
        values,
        form,
        np.array([one.t_source for one in run], np.int64),
        np.array([one.t_arrival for one in run], np.int64),
        np.array([one.bad for one in run], np.bool_),
        np.array([one.status for one in run], np.uint32),
        [one.t_arrival for one in run if one.cut],
    )
