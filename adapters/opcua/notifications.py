"""Reads what a server publishes: changed values as columns by monitored item, events, and the end of a subscription.

Source: OPC 10000-4, 5.14.5 and 7.25; 10000-6, 5.2. Scalars of one type and one set of times have records of one length, so a run of
them is read at once as a numpy structure; the record after the run is where the run ends, since every record of it was looked at.
A server sends what it has queued for an item in one go, so runs are the rule. Invariant: the values of an item keep their order.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from asyncua import ua

from adapters.opcua.binary import I8, U4, Leaf, Reader, Structures, Value
from adapters.opcua.values import DTYPES, KINDS, Form, Samples, tick_ns, ticks_ns
from edge_agent.model import NO_TIME

RUN = 6
"""Records that make it worth while to read a run at once."""

_DATA_CHANGE, _STATUS_CHANGE, _EVENTS = 811, 820, 916
"""Encoding ids of DataChangeNotification, StatusChangeNotification and EventNotificationList."""

_HEAD = struct.Struct("<IBB")
_SCALARS = (*range(1, 12), 13, 19)
_OTHERS = (("status", 0x02, "<u4"), ("t_source", 0x04, "<i8"), ("_ps", 0x10, "<u2"), ("t_server", 0x08, "<i8"), ("_server_ps", 0x20, "<u2"))

Key = tuple[int, str]
"""Client handle, and path of the part where the value is a structure."""


@dataclass(slots=True)
class Published:
    """One NotificationMessage. ``changes`` has the values of each item in order; ``unusable`` says what could not be recorded.

    ``sent``: when, by the server's clock; ``asked``: when it was asked for, by ours (UTC ns).
    """

    subscription: int
    number: int
    changes: dict[Key, list[Samples]] = field(default_factory=dict)
    events: list[tuple[int, list[Any]]] = field(default_factory=list)
    unusable: list[tuple[int, str]] = field(default_factory=list)
    ended: str = ""
    empty: bool = True
    sent: int = NO_TIME
    asked: int = NO_TIME


class _Layout:
    """Records of one set of parts (the mask of a DataValue) and one scalar type."""

    def __init__(self, mask: int, number: int) -> None:
        self.form = Form(KINDS[number], DTYPES[KINDS[number]])
        parts = [("handle", "<u4"), ("mask", "|u1"), ("number", "|u1"), ("value", self.form.dtype)]
        parts += [(name, code) for name, bit, code in _OTHERS if mask & bit]
        self.dtype = np.dtype(parts)
        self.size = self.dtype.itemsize
        codes = "".join("B" if np.dtype(code) == np.uint8 else np.dtype(code).char for _, code in parts)
        self.record = struct.Struct("<" + codes.replace("l", "q").replace("L", "Q"))
        self._names = frozenset(name for name, _ in parts)
        self._is_time = KINDS[number] == "DateTime"

    def samples(self, records: npt.NDArray[Any], arrival: int) -> Samples:
        """The records of one item as columns."""
        n = len(records)
        values = ticks_ns(records["value"]) if self._is_time else np.ascontiguousarray(records["value"])
        status = np.ascontiguousarray(records["status"]) if "status" in self._names else np.zeros(n, np.uint32)
        return Samples(
            self.form, values, self._times(records, "t_source", "_ps"), self._times(records, "t_server", "_server_ps"), status, arrival
        )

    def _times(self, records: npt.NDArray[Any], name: str, fraction: str) -> npt.NDArray[np.int64]:
        if name not in self._names:
            return np.full(len(records), NO_TIME, np.int64)
        times = ticks_ns(records[name])
        if fraction in self._names:
            times = np.where(times == NO_TIME, times, times + records[fraction] // np.uint16(100))
        return times


_LAYOUTS = {mask << 8 | number: _Layout(mask, number) for mask in range(64) if mask & 1 for number in _SCALARS}


def read_published(data: bytes, at: int, arrival: int, structures: Structures | None = None) -> Published:
    """A PublishResponse from after its header; raises `Undecodable`."""
    reader = Reader(data, at, structures)
    subscription = int(reader.number(U4))
    for _ in range(max(0, reader.length())):
        reader.number(U4)
    reader.byte()  # more follows: it is asked for anyway
    message = Published(subscription, int(reader.number(U4)))
    message.sent = tick_ns(int(reader.number(I8)))
    for _ in range(max(0, reader.length())):
        type_id, body = reader.extension()
        message.empty = False
        if body is None:
            continue
        if type_id.Identifier == _DATA_CHANGE:
            _read_changes(message, body, arrival, structures)
        elif type_id.Identifier == _EVENTS:
            message.events += _read_events(Reader(body, 0, structures))
        elif type_id.Identifier == _STATUS_CHANGE:
            message.ended = str(ua.StatusCode(Reader(body).number(U4)).name)
    return message


def _read_changes(message: Published, data: bytes, arrival: int, structures: Structures | None) -> None:
    reader = Reader(data, 0, structures)
    pieces: defaultdict[Key, list[Any]] = defaultdict(list)
    left = max(0, reader.length())
    at, end = reader.at, len(data)
    while left:
        layout = None
        if at + _HEAD.size <= end:
            handle, mask, number = _HEAD.unpack_from(data, at)
            layout = _LAYOUTS.get(mask << 8 | number)
        if layout is None or at + layout.size > end:
            reader.at = at
            handle = int(reader.number(U4))
            _add_odd(message, pieces, handle, reader.value(), arrival)
            at, left = reader.at, left - 1
            continue
        size = layout.size
        ahead = at + (RUN - 1) * size
        if left >= RUN and ahead + size <= end and data[ahead + 4] == mask and data[ahead + 5] == number:
            run = np.frombuffer(data, layout.dtype, min(left, (end - at) // size), at)
            same = (run["mask"] == mask) & (run["number"] == number)
            n = len(run) if same.all() else int(same.argmin())
            for part in _by_handle(run[:n]):
                pieces[int(part["handle"][0]), ""].append((layout, part))
            at, left = at + n * size, left - n
            continue
        waiting = pieces[handle, ""]
        if waiting and waiting[-1][0] is layout and isinstance(waiting[-1][1], list):
            waiting[-1][1].append(layout.record.unpack_from(data, at))
        else:
            waiting.append((layout, [layout.record.unpack_from(data, at)]))
        at, left = at + size, left - 1
    for key, found in pieces.items():
        samples = message.changes.setdefault(key, [])
        for layout, records in found:
            samples.append(records if layout is None else layout.samples(np.asarray(records, layout.dtype), arrival))


def _by_handle(run: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """The records of each item, in order; an item has one part, wherever its records stand in the run."""
    handles = run["handle"]
    if (handles == handles[0]).all():
        yield run
        return
    order = np.argsort(handles, kind="stable")
    sorted_run = run[order]
    borders = np.flatnonzero(np.diff(sorted_run["handle"])) + 1
    yield from np.split(sorted_run, borders)


def _add_odd(message: Published, pieces: defaultdict[Key, list[Any]], handle: int, value: Value, arrival: int) -> None:
    if value.unusable:
        message.unusable.append((handle, value.unusable))
        return
    for path, samples in one_sample(value, arrival):
        pieces[handle, path].append((None, samples))


def one_sample(value: Value, arrival: int) -> Iterator[tuple[str, Samples]]:
    """A DataValue as samples of length 1, by path; without a value one that has no form, for the whole variable."""
    t_source, t_server = (np.array([t], np.int64) for t in (value.t_source, value.t_server))
    status = np.array([value.status], np.uint32)
    leaves: list[Leaf | None] = [*value.leaves] or [None]
    for leaf in leaves:
        if leaf is None:
            yield "", Samples(None, None, t_source, t_server, status, arrival)
        else:
            path, form, content, cut = leaf
            values = np.asarray(content, form.dtype).reshape(1, *form.shape)
            yield path, Samples(form, values, t_source, t_server, status, arrival, cut)


def _read_events(reader: Reader) -> list[tuple[int, list[Any]]]:
    """Client handle and fields (``ua.Variant``) of each event."""
    events = []
    for _ in range(max(0, reader.length())):
        handle = int(reader.number(U4))
        events.append((handle, [reader.by_library(ua.ua_binary.variant_from_binary) for _ in range(max(0, reader.length()))]))
    return events
