"""Reads an NTNDArray. Pure: a p4p Value in, an image or the reason why not out.

Source: EPICS Normative Types 1.0, NTNDArray; codecs as areaDetector's NDPluginCodec names them. Invariants: uncompressed pixels are a
view of what the library received, not a copy; dimensions are fastest first on the wire and reversed here; what HDF5 has a filter for
stays packed (`adapters.epics.packing`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from adapters.epics.events import INVALID, time_ns
from adapters.epics.packing import packed_or_plain
from adapters.epics.pva import normative_type, stamp
from edge_agent.model import Packed

_SCALAR_TYPES = ("|u1", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "<f4", "<f8")
"""pvData's ScalarType by number, as codec.parameters gives the type of compressed pixels."""

MAX_BYTES = 1 << 31
"""An image cannot be larger: what a compressed one claims is allocated before it is checked."""


class NotAnImage(ValueError):
    """The update is no image that can be recorded; the message says why. ``number``: its uniqueId, if it has one."""

    def __init__(self, why: str, number: int | None) -> None:
        super().__init__(why)
        self.number = number


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """Pixels in C order or packed, the counter, and the source time in UTC ns.

    ``wire``: the codec in which they travelled, as the camera calls it; ``codec``: that of the stored chunk, where they stay packed.
    """

    data: npt.NDArray[Any] | Packed
    number: int
    t_source: int
    bad: bool
    status: int
    wire: str
    codec: str | None


def read_image(value: Any) -> Image | None:
    """Read one update.

    Returns:
        The image, or None for an update without pixels (servers send one before the first exposure).

    Raises:
        NotAnImage: another type, dimensions that do not fit the pixels, a codec that is not known, broken data.
    """
    if normative_type(value) != "NTNDArray":
        raise NotAnImage(f"the PV holds {value.getID()}, not an NTNDArray; record it with pvs = [...]", None)
    # uniqueId is a signed int on the wire; as unsigned it goes on counting past 2**31.
    number = int(value["uniqueId"]) & 0xFFFFFFFF
    pixels = value["value"]
    if pixels is None or len(pixels) == 0:
        return None
    shape = tuple(int(dimension["size"]) for dimension in reversed(value["dimension"]))
    wire = str(value["codec"]["name"])
    codec: str | None = None
    data: npt.NDArray[Any] | Packed
    try:
        if wire == "":
            data = _plain(np.asarray(pixels), shape)
        else:
            dtype = np.dtype(_pixel_type(value))
            if not shape or min(shape) < 1 or math.prod(shape) * dtype.itemsize > MAX_BYTES:
                raise ValueError(f"dimensions {shape} of {dtype} are more than {MAX_BYTES} bytes, or nothing")
            size = int(value["compressedSize"])
            payload = np.asarray(pixels).view(np.uint8)[: size if size > 0 else None]
            data, codec = packed_or_plain(wire, payload, shape, dtype)
    except ValueError as e:
        raise NotAnImage(str(e), number) from e
    severity, status = int(value["alarm"]["severity"]), int(value["alarm"]["status"])
    coded = (severity & 0xFFFF) << 16 | status & 0xFFFF
    return Image(data, number, time_ns(*stamp(value, "timeStamp")), severity >= INVALID, coded, wire, codec)


def _plain(data: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    data = data.view(np.uint8) if data.dtype == np.bool_ else data
    if not shape or min(shape) < 1 or data.size != math.prod(shape):
        raise ValueError(f"{data.size} pixels do not fit the dimensions {shape}")
    return np.ascontiguousarray(data.reshape(shape))


def _pixel_type(value: Any) -> str:
    parameters = value["codec"]["parameters"]
    if isinstance(parameters, (int, np.integer)) and 0 <= int(parameters) < len(_SCALAR_TYPES):
        return _SCALAR_TYPES[int(parameters)]
    raise ValueError(f"codec.parameters is {parameters!r} and not the number of a pixel type")
