"""Turns the values of one variable into frames: matrices, bare pixels, and encoded images.

Source: OPC 10000-3, 8.19 to 8.22 (ImageBMP, ImageGIF, ImageJPG, ImagePNG). Images are decoded to their pixels; a coloured one
is ``(height, width, 3)``. Invariants: OPC-UA numbers no values, so frames are numbered as they come and the stream does not count;
an image that cannot be decoded is a Gap, and the next one is tried.
"""

from __future__ import annotations

import io
import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from adapters.opcua.config import NodeConfig, pixel_form
from adapters.opcua.losses import Losses
from adapters.opcua.rows import OVERFLOWED
from adapters.opcua.values import Form, Samples
from edge_agent.adapter import Inlet, Sink
from edge_agent.model import Cause, Frame, Gap, Kind, Stream, Valid

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF")
MOST_PIXELS = 1 << 27

log = logging.getLogger(__name__)


class NotAnImage(ValueError):
    """A value that is no image; the message says why."""


class ImageStream:
    """One variable as a stream of frames. It outlives connections."""

    def __init__(self, sink: Sink, stream: Stream, table: NodeConfig) -> None:
        self.stream = replace(stream, kind=Kind.FRAMES)
        self._sink = sink
        self._pixels = pixel_form(table.pixels) if table.pixels is not None else None
        self._inlet: Inlet | None = None
        self._numbers = itertools.count()
        self._first = True
        self._losses = Losses()
        self._t_last = 0

    def subscribed(self, stream: Stream, form: Form | None) -> None:
        """A new subscription begins: the first image is the last known one."""
        described = replace(stream, kind=Kind.FRAMES, dtype=self.stream.dtype, shape=self.stream.shape, source_type=self.stream.source_type)
        if described != self.stream:
            self.stream, self._inlet = described, None
        self._first = True

    def declare(self, gap: Gap) -> None:
        """Something is missing."""
        self._losses.declare(gap)

    def interrupted(self, t_from: int, why: str) -> None:
        """No image can have come since ``t_from``."""
        self._losses.interrupted(t_from, why)

    def resumed(self, t_to: int) -> None:
        """Declare the interruption, if there was one."""
        self._losses.resumed(t_to)

    async def take(self, path: str, samples: Sequence[Samples]) -> None:
        """Deliver images one by one."""
        for one in samples:
            for i in range(len(one)):
                await self._one(one, i)

    async def _one(self, samples: Samples, i: int) -> None:
        t = int(samples.t_source[i])
        if samples.overflow[i]:
            self.declare(Gap(Cause.OVERFLOW, t_from=self._t_last, t_to=t, detail=OVERFLOWED))
        self._t_last = t
        if samples.form is None or samples.values is None:
            return  # no image, only a status: the server has none at the moment
        try:
            data = self._decoded(samples.form, samples.values[i])
        except NotAnImage as e:
            log.warning("%s: %s", self.stream.key, e)
            self.declare(Gap(Cause.GARBAGE, count=1, t_from=t, t_to=t, detail=str(e)))
            return
        inlet = self._open(data, samples.form)
        self.resumed(samples.t_arrival)
        valid = Valid.BAD if samples.bad[i] else Valid.INITIAL if self._first else Valid.GOOD
        self._first = False
        frame = Frame(
            data, next(self._numbers), t, samples.t_arrival, t_server=int(samples.t_server[i]), valid=valid, status=int(samples.status[i])
        )
        await inlet.put_frame(frame)

    def _decoded(self, form: Form, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if form.kind != "ByteString":
            if len(form.shape) < 2:
                raise NotAnImage(f"a value of shape {form.shape} is no image; leave frames = out")
            return np.ascontiguousarray(value)
        if self._pixels is None:
            return decode(value.tobytes())
        shape, dtype = self._pixels
        if value.size != math.prod(shape) * np.dtype(dtype).itemsize:
            raise NotAnImage(f"{value.size} bytes are not {shape[0]} x {shape[1]} {np.dtype(dtype).name}")
        return np.frombuffer(value.tobytes(), dtype).reshape(shape)

    def _open(self, data: npt.NDArray[Any], form: Form) -> Inlet:
        dtype = data.dtype.newbyteorder("<").str
        if self._inlet is None or (data.shape, dtype) != (self.stream.shape, self.stream.dtype):
            self.stream = replace(self.stream, shape=data.shape, dtype=dtype, source_type=f"opcua {form.kind}")
            self._inlet = self._sink.open(self.stream)
            self._losses.opened(self._inlet)
        return self._inlet


def decode(data: bytes) -> npt.NDArray[Any]:
    """The pixels of a PNG, JPEG, BMP, GIF (first picture) or TIFF; raises `NotAnImage`."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise NotAnImage(f"an image of {image.width} x {image.height} pixels is too large")
            shown = image.convert("RGBA" if "transparency" in image.info else "RGB") if image.mode == "P" else image
            pixels = np.asarray(shown)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        if isinstance(e, NotAnImage):
            raise
        raise NotAnImage(f"{len(data)} bytes are no image that can be decoded ({type(e).__name__})") from e
    return np.ascontiguousarray(pixels.view(np.uint8) if pixels.dtype == np.bool_ else pixels)
