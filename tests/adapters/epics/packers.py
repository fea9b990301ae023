"""Compresses images as areaDetector's NDPluginCodec does, with the C libraries that other wheels carry."""

from __future__ import annotations

import ctypes
import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import bitshuffle
import numpy as np
import numpy.typing as npt
from PIL import Image

from edge_agent.codec.native import find_library

Pixels = npt.NDArray[Any]


def lz4(data: Pixels) -> bytes:
    """LZ4_compress_default over the whole image."""
    function = ctypes.CDLL(str(find_library("hdf5plugin", "plugins/*h5lz4.*"))).LZ4_compress_default
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
    out = np.empty(data.nbytes + data.nbytes // 255 + 16, np.uint8)
    size = function(data.ctypes.data, out.ctypes.data, data.nbytes, out.nbytes)
    assert size > 0
    return out[:size].tobytes()


def lz4hdf5(data: Pixels) -> bytes:
    """With the header of the HDF5 filter, in blocks of 4 KiB."""
    raw, block = data.tobytes(), 4096
    parts = [raw[at : at + block] for at in range(0, len(raw), block)]
    packed = [lz4(np.frombuffer(part, np.uint8)) for part in parts]
    stored = [part if len(small) >= len(part) else small for part, small in zip(parts, packed, strict=True)]
    return struct.pack(">QI", len(raw), block) + b"".join(struct.pack(">I", len(one)) + one for one in stored)


def bslz4(data: Pixels) -> bytes:
    return bytes(bitshuffle.compress_lz4(data).tobytes())


def bslz4_with_header(data: Pixels) -> bytes:
    return struct.pack(">QI", data.nbytes, 8192) + bslz4(data)


def blosc(compressor: str) -> Callable[[Pixels], bytes]:
    """Blosc with bit shuffle and this codec inside."""

    def pack(data: Pixels) -> bytes:
        function = ctypes.CDLL(str(find_library("hdf5plugin", "plugins/*h5blosc.*"))).blosc_compress_ctx
        size, address = ctypes.c_size_t, ctypes.c_void_p
        function.argtypes = (ctypes.c_int, ctypes.c_int, size, size, address, address, size, ctypes.c_char_p, size, ctypes.c_int)
        out = np.empty(data.nbytes + 16, np.uint8)
        found = function(5, 2, data.itemsize, data.nbytes, data.ctypes.data, out.ctypes.data, out.nbytes, compressor.encode(), 0, 1)
        assert found > 0
        return out[:found].tobytes()

    return pack


def jpeg(data: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(data).save(file, "JPEG", quality=90)
    return file.getvalue()


PACKERS: dict[str, tuple[str, Callable[[Pixels], bytes]]] = {
    "lz4": ("lz4", lz4),
    "lz4hdf5": ("lz4hdf5", lz4hdf5),
    "lz4 with a header": ("lz4", lz4hdf5),
    "bslz4": ("bslz4", bslz4),
    "bslz4 with a header": ("bslz4", bslz4_with_header),
    **{f"blosc {name}": ("blosc", blosc(name)) for name in ("blosclz", "lz4", "lz4hc", "snappy", "zlib", "zstd")},
    "zlib": ("zlib", lambda data: zlib.compress(data.tobytes())),
}
"""How it is called here -> (``codec.name``, packer)."""
