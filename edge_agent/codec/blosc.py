"""HDF5 filter 32001 (Blosc 1): carried as a source packed it, never made here.

A stored chunk is a Blosc buffer: a header of 16 bytes (version, version of the inner codec, flags, element size, then raw size, block
size and compressed size, 4 bytes each, little-endian), and the blocks (c-blosc, "Blosc Header Format").
"""

from __future__ import annotations

import ctypes
import math
import struct
from typing import Any

import numpy as np

from edge_agent.codec.contract import OPTIONAL, Filter, Readable, check_size, check_type, damaged, stored_octets
from edge_agent.codec.native import find_library

BLOSC = 32001
FILTER_VERSION = 2
FORMAT_VERSION = 2
_HEADER = struct.Struct("<4B3I")
_ONE_THREAD = 1


class Blosc:
    """A Blosc buffer, whatever codec is inside; see `contract.Decoder`."""

    name = "blosc"

    def __init__(self) -> None:
        """Open the functions inside the `hdf5plugin` wheel.

        Raises:
            ConfigError: it is not installed.
        """
        library = ctypes.CDLL(str(find_library("hdf5plugin", "plugins/*h5blosc.*")))
        size, address = ctypes.c_size_t, ctypes.c_void_p
        self._validate = library.blosc_cbuffer_validate
        self._validate.argtypes, self._validate.restype = (address, size, ctypes.POINTER(size)), ctypes.c_int
        self._decompress = library.blosc_decompress_ctx
        self._decompress.argtypes, self._decompress.restype = (address, address, size, ctypes.c_int), ctypes.c_int

    def filters(self, dtype: np.dtype[Any], chunk: tuple[int, ...]) -> tuple[Filter, ...]:
        """Return (filter version, format version, element size, raw size): what every reader needs; the rest stands in the buffer."""
        check_type(dtype, chunk)
        nbytes = math.prod(chunk) * dtype.itemsize
        return (Filter(BLOSC, OPTIONAL, (FILTER_VERSION, FORMAT_VERSION, dtype.itemsize, nbytes)),)

    def decode(self, stored: Readable, filter_mask: int, nbytes: int, itemsize: int) -> bytes:
        """Decode one chunk; see `contract.Decoder.decode`."""
        check_size(nbytes, itemsize)
        data = stored_octets(stored, filter_mask, 0)
        if data.nbytes < _HEADER.size:
            raise damaged(f"{data.nbytes} stored bytes are too few for a Blosc header")
        declared, _, packed = _HEADER.unpack_from(data.data)[4:]
        found = ctypes.c_size_t()
        if packed != data.nbytes or declared != nbytes or self._validate(data.ctypes.data, data.nbytes, ctypes.byref(found)) != 0:
            raise damaged(f"the Blosc header declares {declared} bytes packed in {packed}; {nbytes} packed in {data.nbytes} are expected")
        raw = np.empty(nbytes, np.uint8)
        if self._decompress(data.ctypes.data, raw.ctypes.data, nbytes, _ONE_THREAD) != nbytes:
            raise damaged("a Blosc buffer does not unpack")
        return raw.tobytes()
