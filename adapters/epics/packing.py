"""Compressed images as areaDetector's NDPluginCodec sends them, made into what HDF5 stores; what HDF5 has no filter for is unpacked.

NDPluginCodec sends the bare output of the compressor ("lz4", "bslz4") or the complete one ("blosc", "lz4hdf5"); other senders put the
HDF5 filter's header before "lz4" and "bslz4" as well, which is told apart by its first eight bytes: a bare LZ4 block never begins with
a zero. Framing: `H5Zlz4.c` (raw size, block size, and the length of each block) and bitshuffle's `bshuf_h5filter.c` (raw size, block
size in bytes), all big-endian. Invariants: what is passed on is as long as its own lengths say; nothing is unpacked to be checked.
"""

from __future__ import annotations

import io
import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pictures

from edge_agent.model import Packed

CODECS = ("lz4", "lz4hdf5", "bslz4", "blosc", "zlib", "jpeg")
"""What can be recorded, as ``codec.name`` has it; jpeg is unpacked, the others are stored as they came."""

_HEADER = struct.Struct(">QI")
_LENGTH = struct.Struct(">I")
_BLOSC = struct.Struct("<4B3I")
_SHUFFLE_BLOCK = 8192
_SHUFFLE_LEAST = 128
_SHUFFLE_GROUP = 8

Octets = npt.NDArray[np.uint8]


def packed_or_plain(
    wire: str, payload: Octets, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[npt.NDArray[Any] | Packed, str | None]:
    """The image, and the codec of the stored chunk if it stays packed.

    Args:
        wire: ``codec.name``.
        payload: the compressed bytes.
        shape: of the image, slowest dimension first.
        dtype: of its pixels.

    Raises:
        ValueError: a codec that is not known, or bytes that contradict themselves.
    """
    nbytes = math.prod(shape) * dtype.itemsize
    if wire == "jpeg":
        return _jpeg(payload, shape, dtype), None
    if wire in ("lz4", "lz4hdf5"):
        if len(payload) == nbytes and not _is_framed(payload, nbytes):
            # The filter would take a block of this length for raw bytes.
            return np.frombuffer(unpack_lz4(payload.tobytes(), nbytes), dtype).reshape(shape), None
        stored, codec = _lz4(payload, nbytes, framed=wire == "lz4hdf5"), "lz4"
    elif wire == "bslz4":
        stored, codec = _bitshuffle(payload, nbytes, dtype.itemsize), "bitshuffle-lz4"
    elif wire == "blosc":
        stored, codec = _blosc(payload, nbytes), "blosc"
    elif wire == "zlib":
        stored, codec = _zlib(payload), "deflate"
    else:
        raise ValueError(f"codec {wire!r} is not known here; set the camera's codec plugin to None or one of {', '.join(CODECS)}")
    return Packed(stored, shape, dtype), codec


def _is_framed(payload: Octets, nbytes: int) -> bool:
    return len(payload) >= _HEADER.size and _HEADER.unpack_from(payload.data)[0] == nbytes


def _framed(header: bytes, payload: Octets) -> Octets:
    stored = np.empty(len(header) + len(payload), np.uint8)
    stored[: len(header)] = np.frombuffer(header, np.uint8)
    stored[len(header) :] = payload
    return stored


def _lz4(payload: Octets, nbytes: int, *, framed: bool) -> Octets:
    if not _is_framed(payload, nbytes):
        if framed or not len(payload) or payload[0] == 0:
            raise ValueError(f"lz4 data of {len(payload)} bytes does not begin like an image of {nbytes} bytes")
        return _framed(_HEADER.pack(nbytes, nbytes) + _LENGTH.pack(len(payload)), payload)
    block = _HEADER.unpack_from(payload.data)[1]
    blocks = -(-nbytes // block) if block else 0
    if _walk(payload, _HEADER.size, blocks) != len(payload):
        raise ValueError("lz4 data does not end where its blocks say")
    return np.ascontiguousarray(payload)


def _bitshuffle(payload: Octets, nbytes: int, item_size: int) -> Octets:
    at, block = 0, max(_SHUFFLE_BLOCK // item_size // _SHUFFLE_GROUP * _SHUFFLE_GROUP, _SHUFFLE_LEAST)
    if _is_framed(payload, nbytes):
        at, block = _HEADER.size, _HEADER.unpack_from(payload.data)[1] // item_size or block
    items = nbytes // item_size
    rest = items % _SHUFFLE_GROUP
    if _walk(payload, at, -(-(items - rest) // block)) + rest * item_size != len(payload):
        raise ValueError("bslz4 data does not end where its blocks say")
    return np.ascontiguousarray(payload) if at else _framed(_HEADER.pack(nbytes, block * item_size), payload)


def _walk(payload: Octets, at: int, blocks: int) -> int:
    """Where the last block ends, by the lengths before the blocks; -1 where they lead outside."""
    data, unpack, end = payload.tobytes(), _LENGTH.unpack_from, len(payload) - _LENGTH.size
    for _ in range(blocks):
        if at > end:
            return -1
        at += _LENGTH.size + unpack(data, at)[0]
    return at


def _blosc(payload: Octets, nbytes: int) -> Octets:
    if len(payload) < _BLOSC.size:
        raise ValueError(f"blosc data of {len(payload)} bytes has no header")
    declared, _, size = _BLOSC.unpack_from(payload.data)[4:]
    if declared != nbytes or not _BLOSC.size <= size <= len(payload):
        raise ValueError(f"blosc data says {declared} bytes packed in {size}; {nbytes} packed in {len(payload)} came")
    return np.ascontiguousarray(payload[:size])


def _zlib(payload: Octets) -> Octets:
    # RFC 1950, 2.2: method 8, and a check of the two bytes of the header.
    if len(payload) < 2 or payload[0] & 0x0F != 8 or (int(payload[0]) << 8 | int(payload[1])) % 31:
        raise ValueError("zlib data does not begin with a zlib header")
    return np.ascontiguousarray(payload)


def _jpeg(payload: Octets, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    try:
        with Pictures.open(io.BytesIO(payload.tobytes()), formats=["JPEG"]) as picture:
            width_first = tuple(reversed(picture.size))
            if shape[:2] != width_first or dtype != np.uint8:
                raise ValueError(f"a jpeg of {width_first} does not fit the dimensions {shape} of {dtype}")
            data = np.asarray(picture)
    except (OSError, SyntaxError, Pictures.DecompressionBombError) as e:
        raise ValueError(f"jpeg data cannot be unpacked: {e}") from e
    if data.shape != shape:
        raise ValueError(f"a jpeg of {data.shape} does not fit the dimensions {shape}")
    return data


def unpack_lz4(block: bytes, nbytes: int) -> bytes:
    """Unpack one LZ4 block (LZ4 Block Format Description) to exactly ``nbytes``; for the rare one that cannot be passed on.

    Raises:
        ValueError: it is damaged, or of another size.
    """
    raw, at = bytearray(), 0
    try:
        while True:
            token = block[at]
            at += 1
            literals, at = _more(block, at, token >> 4)
            if at + literals > len(block):
                raise ValueError("lz4 data ends within its literals")
            raw += block[at : at + literals]
            at += literals
            if at == len(block):
                break
            offset = block[at] | block[at + 1] << 8
            match, at = _more(block, at + 2, token & 0x0F)
            match += 4
            if not 0 < offset <= len(raw) or len(raw) + match > nbytes:
                raise ValueError("lz4 data refers to what is not there")
            begin = len(raw) - offset
            pattern = raw[begin : begin + min(offset, match)]
            raw += (pattern * (match // offset + 1))[:match]
    except IndexError:
        raise ValueError("lz4 data ends too early") from None
    if len(raw) != nbytes:
        raise ValueError(f"lz4 data unpacks to {len(raw)} bytes, not {nbytes}")
    return bytes(raw)


def _more(block: bytes, at: int, length: int) -> tuple[int, int]:
    """A length of 15 goes on in the next bytes."""
    if length == 15:
        while True:
            more = block[at]
            at += 1
            length += more
            if more != 255:
                break
    return length, at
