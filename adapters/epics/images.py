"""One NTNDArray PV as a stream of frames.

Invariants: `take` runs in the client's thread and hands frames straight to `Inlet.offer`, which never blocks; everything else
(opening, gaps, resets, status) is done on the agent's loop while that thread waits, so that the order is kept. Numbers
are the camera's uniqueId: holes in them are the recorder's to find; what only we know is declared here, which is that a
counter began again and which numbers passed during an outage. How many frames an outage cost is not known, unless the
exposure from before is still there after it: a counter that began again meanwhile may have passed its old value by now.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from p4p.client.thread import Disconnected

from adapters.epics.attributes import Attributes
from adapters.epics.ndarray import Image, NotAnImage, read_image
from adapters.epics.pva import reason
from edge_agent.adapter import Inlet, Sink
from edge_agent.model import Cause, Frame, Gap, Reset, Stream, Valid, utc_now_ns

LOOK_UP_SECONDS = 0.2

log = logging.getLogger(__name__)


class ImageStream:
    """State of one image PV; ``attributes`` takes what stands beside the pixels."""

    def __init__(self, sink: Sink, stream: Stream, loop: asyncio.AbstractEventLoop, attributes: Attributes | None = None) -> None:
        self.stream = stream
        self._sink = sink
        self._loop = loop
        self._attributes = attributes
        self._codec = stream.codec
        self._form: tuple[tuple[int, ...], str, str] | None = None
        self._inlet: Inlet | None = None
        self._joined = False
        self._seen = False
        self._first = True
        self._last: tuple[int, int] | None = None
        self._last_arrival = 0
        self._outage: str | None = None
        self._refusal = ""
        self._unopened: Gap | None = None
        self._closing = threading.Event()

    def was_seen(self) -> bool:
        """Whether the PV answered, if only once."""
        return self._seen

    def close(self) -> None:
        """Let no callback wait for the loop any longer."""
        self._closing.set()

    def ended(self) -> None:
        """Nothing is followed any more: an outage that lasts until now is declared, on the loop."""
        if self._outage is not None and self._inlet is not None:
            gap = Gap(Cause.DISCONNECT, t_from=self._last_arrival, t_to=utc_now_ns(), detail=self._outage)
            self._inlet.gap(gap)
        self._outage = None

    def take(self, updates: Sequence[Any]) -> None:
        """Take what the client gives: p4p Values, an exception when the PV goes. Never raises."""
        for update in updates:
            try:
                self._take(update, utc_now_ns())
            except concurrent.futures.CancelledError:
                log.debug("%s: an update came while closing", self.stream.key)
            except Exception:
                # What comes behind it is not to be lost too.
                log.exception("%s: an update was lost", self.stream.key)

    def _take(self, value: Any, arrival: int) -> None:
        if isinstance(value, Exception):
            if self._attributes is not None:
                self._attributes.lost(reason(value), arrival)
            if self._joined or not isinstance(value, Disconnected):
                self._on_loop(self._lost, reason(value))
            return
        if not self._joined:
            self._on_loop(self._join, str(value.getID()))
        try:
            image = read_image(value)
        except NotAnImage as e:
            self._on_loop(self._refuse, str(e), e.number, arrival)
        except Exception as e:
            log.exception("%s: an update was not understood", self.stream.key)
            self._on_loop(self._refuse, f"{type(e).__name__}: {e}", None, arrival)
        else:
            if image is not None:
                self._deliver(image, arrival)
                if self._attributes is not None:
                    self._attributes.take(value, image.t_source, arrival, self._first)
        self._first = False  # what a server has ready for whoever connects was this update, pixels or not

    def _deliver(self, image: Image, arrival: int) -> None:
        if self._last == (image.number, image.t_source):
            self._outage = None
            return  # the same exposure once more: servers repeat their last update to whoever connects, so there was none in between
        if self._inlet is None or (image.data.shape, image.data.dtype.str, image.wire) != self._form:
            self._on_loop(self._open, image)
        if self._broken(image.number):
            self._on_loop(self._bridge, image.number, arrival)
        valid = Valid.BAD if image.bad else Valid.INITIAL if self._first else Valid.GOOD
        self._last, self._last_arrival = (image.number, image.t_source), arrival
        if self._inlet is not None:
            self._inlet.offer(Frame(image.data, image.number, image.t_source, arrival, valid=valid, status=image.status))

    def _broken(self, number: int) -> bool:
        """Whether there is more to say before this number than the recorder sees by itself."""
        return self._last is not None and (self._outage is not None or number <= self._last[0])

    # What follows runs on the loop.

    def _join(self, kind: str) -> None:
        self._joined = self._seen = True
        self._sink.connected(self.stream.source_uri, detail=kind)

    def _lost(self, why: str) -> None:
        self._joined = False
        if self._last is not None and self._outage is None:
            self._outage = why
        self._sink.disconnected(self.stream.source_uri, why=why)

    def _open(self, image: Image) -> None:
        if self._inlet is not None:
            log.info("%s: images are now %s %s, codec %s", self.stream.key, image.data.shape, image.data.dtype, image.wire or "none")
        self._form = (image.data.shape, image.data.dtype.str, image.wire)
        self.stream = replace(
            self.stream,
            shape=image.data.shape,
            dtype=image.data.dtype.str,
            codec=image.codec or self._codec,
            packed=image.codec is not None,
            attributes={"wire_codec": image.wire or "none"},
        )
        self._inlet = self._sink.open(self.stream)
        if self._unopened is not None:
            self._inlet.gap(self._unopened)
            self._unopened = None

    def _bridge(self, number: int, arrival: int) -> None:
        """Account for an outage and for a counter that began again."""
        outage, self._outage = self._outage, None
        if self._inlet is None or self._last is None:
            return
        last = self._last[0]
        if outage is not None:
            first = final = None
            if number > last + 1:
                first, final = last + 1, number - 1
                outage += "; more is missing than these numbers if the counter began again meanwhile"
            elif number == last + 1:
                outage += "; nothing is missing unless the counter began again meanwhile"
            self._inlet.gap(Gap(Cause.DISCONNECT, first, final, None, self._last_arrival, arrival, outage))
        if number <= last:
            self._inlet.reset(Reset(Cause.RESTART, last, number))

    def _refuse(self, why: str, number: int | None, arrival: int) -> None:
        if why != self._refusal:
            log.warning("%s: images cannot be recorded: %s", self.stream.key, why)
            self._refusal = why
        if self._inlet is None:
            # Shape and type of the frames are not known, so there is no stream yet that could say what it misses.
            self._sink.disconnected(self.stream.source_uri, why=why)
            since = self._unopened.t_from if self._unopened else arrival
            count = (self._unopened.count or 0) + 1 if self._unopened else 1
            self._unopened = Gap(Cause.GARBAGE, count=count, t_from=since, t_to=arrival, detail=why)
            return
        if number is not None and self._broken(number):
            self._bridge(number, arrival)
        self._inlet.gap(Gap(Cause.GARBAGE, number, number, 1, arrival, arrival, why))
        if number is not None:
            self._last, self._last_arrival = (number, 0), arrival

    def _on_loop(self, act: Callable[..., None], *args: Any) -> None:
        """Run something on the loop and wait for it; raises CancelledError when closing."""
        done: concurrent.futures.Future[None] = concurrent.futures.Future()

        def run() -> None:
            if self._closing.is_set():
                done.cancel()
                return
            try:
                act(*args)
            except Exception as e:
                done.set_exception(e)
            else:
                done.set_result(None)

        if self._closing.is_set() or self._loop.is_closed():
            raise concurrent.futures.CancelledError
        self._loop.call_soon_threadsafe(run)
        while True:
            try:
                done.result(LOOK_UP_SECONDS)
                return
            except TimeoutError:
                if done.done():
                    raise
                if self._closing.is_set():
                    raise concurrent.futures.CancelledError from None
