"""Reads an NTNDArray into numpy. Pure: a p4p Value in, an image or the reason why not out.

Source: EPICS Normative Types 1.0, NTNDArray; codecs as areaDetector's NDPluginCodec names them. Invariants: uncompressed
pixels are a view of what the library received, not a copy; dimensions are fastest first on the wire and reversed here.
"""

from __future__ import annotations

import importlib
import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from adapters.epics.events import INVALID, time_ns
from adapters.epics.pva import normative_type, stamp

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
    """Pixels in C order, the counter, and the source time in UTC ns. ``codec``: how they travelled."""

    data: npt.NDArray[Any]
    number: int
    t_source: int
    bad: bool
    status: int
    codec: str


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
    codec = str(value["codec"]["name"])
    try:
        data = np.asarray(pixels) if codec == "" else _decode(codec, value, np.asarray(pixels), shape)
        data = data.view(np.uint8) if data.dtype == np.bool_ else data
        if not shape or min(shape) < 1 or data.size != math.prod(shape):
            raise ValueError(f"{data.size} pixels do not fit the dimensions {shape}")
        data = np.ascontiguousarray(data.reshape(shape))
    except (ValueError, zlib.error) as e:
        raise NotAnImage(str(e), number) from e
    severity, status = int(value["alarm"]["severity"]), int(value["alarm"]["status"])
    coded = (severity & 0xFFFF) << 16 | status & 0xFFFF
    return Image(data, number, time_ns(*stamp(value, "timeStamp")), severity >= INVALID, coded, codec)


def _decode(codec: str, value: Any, packed: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    dtype = np.dtype(_pixel_type(value))
    if math.prod(shape) * dtype.itemsize > MAX_BYTES:
        raise ValueError(f"dimensions {shape} of {dtype} are more than {MAX_BYTES} bytes")
    size = int(value["compressedSize"])
    payload = packed.view(np.uint8)[: size if size > 0 else None]
    if codec == "zlib":
        decoder = zlib.decompressobj()
        size = math.prod(shape) * dtype.itemsize
        plain = decoder.decompress(payload.tobytes(), size)
        if len(plain) != size:
            raise ValueError(f"{len(plain)} bytes do not fit the dimensions {shape} of {dtype}")
        return np.frombuffer(plain, dtype)
    if codec == "bslz4":
        return _bitshuffle_lz4(payload, shape, dtype)
    raise ValueError(f"codec {codec!r} is not known here; set the camera's codec plugin to None, zlib or bslz4")


def _bitshuffle_lz4(payload: npt.NDArray[np.uint8], shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    try:
        bitshuffle = importlib.import_module("bitshuffle")
    except ImportError as e:
        raise ValueError("codec 'bslz4' needs the package bitshuffle: pip install edge-agent-daq[fast]") from e
    _check_blocks(payload, math.prod(shape), dtype.itemsize)
    try:
        # areaDetector sends the blocks without the header of the HDF5 filter, at bitshuffle's own block size.
        plain: npt.NDArray[Any] = bitshuffle.decompress_lz4(np.ascontiguousarray(payload), shape, dtype, 0)
    except Exception as e:
        raise ValueError(f"bslz4 data cannot be unpacked: {e}") from e
    return plain


def _check_blocks(payload: npt.NDArray[np.uint8], items: int, item_size: int) -> None:
    """Follow the lengths of the LZ4 blocks: the library does, too, and would read past the end of a truncated image."""
    block = max(8192 // item_size // 8 * 8, 128)
    blocks = -(-(items - items % 8) // block)
    data, at = payload.tobytes(), 0
    for _ in range(blocks):
        if at + 4 > len(data):
            break
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    if at + items % 8 * item_size > len(data) or items < 1:
        raise ValueError("bslz4 data is shorter than its blocks say")


def _pixel_type(value: Any) -> str:
    parameters = value["codec"]["parameters"]
    if isinstance(parameters, (int, np.integer)) and 0 <= int(parameters) < len(_SCALAR_TYPES):
        return _SCALAR_TYPES[int(parameters)]
    raise ValueError(f"codec.parameters is {parameters!r} and not the number of a pixel type")
