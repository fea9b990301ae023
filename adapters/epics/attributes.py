"""The attributes of a camera's frames (NDAttributes of areaDetector) as rows: ``image.RingCurrent``.

An attribute makes a row when it is first seen, when it changed, and after each connection; until the next row it holds. Its time is that of
the frame, so the rows of a moving motor match the frames one by one. Invariant: runs in the thread of the image's callbacks, keeps nothing
of the library, and costs a frame no more than one look at each attribute.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

from adapters.epics.events import TEXT, Description, Emit, Joined, Lost, sample
from adapters.epics.rows import RowStream
from edge_agent.adapter import Sink
from edge_agent.model import NO_TIME, Kind, Stream

MOST = 200
"""Attributes of one camera that are recorded."""

_TYPES = {bool: "|u1", int: "<i8", float: "<f8", str: TEXT}
NS = 1_000_000_000

log = logging.getLogger(__name__)


class Attributes:
    """Of one image PV. ``wanted``: all, or those named. ``emit`` gives the function that takes the events of one stream."""

    def __init__(self, sink: Sink, image: Stream, wanted: bool | list[str], emit: Callable[[RowStream], Emit]) -> None:
        self._sink = _Quiet(sink)
        self._image = image
        self._wanted = None if isinstance(wanted, bool) else frozenset(wanted)
        self._make = emit
        self._emits: dict[str, Emit] = {}
        self._described: dict[str, Description] = {}
        self._followed: set[str] = set()
        """Names of those that were seen since the connection."""
        self._last: dict[str, Any] = {}
        self._full = False

    def take(self, value: Any, t_source: int, t_arrival: int, known: bool = False) -> None:
        """Look at the attributes of one frame; ``known``: it was there before us. Raises nothing that its data could bring about."""
        for attribute in value["attribute"]:
            name = attribute["name"]
            if self._wanted is not None and name not in self._wanted:
                continue
            found = attribute["value"]
            if name in self._last and self._last[name] == found:
                continue
            dtype = _TYPES.get(type(found))
            if dtype is None:
                continue  # an array, or nothing
            if self._last.get(name) is not None and type(found) is not type(self._last[name]):
                log.info("%s: attribute %s is now %s", self._image.key, name, type(found).__name__)
            emit = self._emit(name, str(attribute["descriptor"]), str(attribute["source"]))
            if emit is not None:
                if name not in self._followed:
                    self._followed.add(name)
                    emit(Joined(self._described[name], t_arrival, news=not known))
                self._last[name] = found
                seconds, nanoseconds = (0, 0) if t_source == NO_TIME else divmod(t_source, NS)
                emit(sample(found, dtype, seconds, nanoseconds, 0, 0))

    def lost(self, why: str, t: int) -> None:
        """The camera went: what its attributes are meanwhile is not known."""
        for name, emit in self._emits.items():
            if self._last.pop(name, None) is not None:
                emit(Lost(why, t))
                self._followed.discard(name)

    def _emit(self, name: str, descriptor: str, source: str) -> Emit | None:
        emit = self._emits.get(name)
        if emit is None:
            if len(self._emits) >= MOST:
                if not self._full:
                    log.warning("%s: more than %d attributes; the others are not recorded", self._image.key, MOST)
                self._full = True
                return None
            own = f"{self._image.name}.{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}"[:63]
            stream = Stream(self._image.instrument, own, Kind.ROWS, source_uri=self._image.source_uri)
            emit = self._emits[name] = self._make(RowStream(self._sink, stream))
            facts = {"description": descriptor, "attribute_source": source}
            self._described[name] = Description("pva NTNDArray attribute", "", {key: text for key, text in facts.items() if text})
        return emit


class _Quiet:
    """The sink, to which the image has said already whether the camera answers."""

    def __init__(self, sink: Sink) -> None:
        self.open = sink.open
        self.adopt = sink.adopt
        self.describe = sink.describe
        self.already_adopted = sink.already_adopted
        self.durable, self.note, self.noted, self.show = sink.durable, sink.note, sink.noted, sink.show

    def connected(self, source: str, *, detail: str = "") -> None:
        """Said by the image."""

    def disconnected(self, source: str, *, why: str) -> None:
        """Said by the image."""
