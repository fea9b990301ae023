"""HDF5 filter 32004 (LZ4): carried as a source packed it, never made here.

A stored chunk is the raw size (8 bytes, big-endian), the size of a block (4 bytes, big-endian), then per block the compressed size
(4 bytes, big-endian) and an LZ4 block; a block whose compressed size is its raw size holds the raw bytes (The HDF Group, "LZ4 filter
specification", and `H5Zlz4.c`).
"""

from __future__ import annotations

import ctypes
import struct
from typing import Any

import numpy as np

from edge_agent.codec.contract import OPTIONAL, Filter, Readable, check_size, check_type, damaged, stored_octets
from edge_agent.codec.native import find_library

LZ4 = 32004

_HEADER = struct.Struct(">QI")
_LENGTH = struct.Struct(">I")


class Lz4:
    """LZ4 in blocks; see `contract.Decoder`."""

    name = "lz4"

    def __init__(self) -> None:
        """Open the functions inside the `hdf5plugin` wheel.

        Raises:
            ConfigError: it is not installed.
        """
        self._decompress = ctypes.CDLL(str(find_library("hdf5plugin", "plugins/*h5lz4.*"))).LZ4_decompress_safe
        self._decompress.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
        self._decompress.restype = ctypes.c_int

    def filters(self, dtype: np.dtype[Any], chunk: tuple[int, ...]) -> tuple[Filter, ...]:
        """Return (block size 0 = the chunk says it), what the plugin's own users write by default."""
        check_type(dtype, chunk)
        return (Filter(LZ4, OPTIONAL, (0,)),)

    def decode(self, stored: Readable, filter_mask: int, nbytes: int, itemsize: int) -> bytes:
        """Decode one chunk; see `contract.Decoder.decode`."""
        check_size(nbytes, itemsize)
        data = stored_octets(stored, filter_mask, 0)
        if data.nbytes < _HEADER.size:
            raise damaged(f"{data.nbytes} stored bytes are too few for an LZ4 header")
        declared, block = _HEADER.unpack_from(data.data)
        if declared != nbytes or block < 1:
            raise damaged(f"the LZ4 header declares {declared} bytes in blocks of {block} where {nbytes} are expected")
        raw = np.empty(nbytes, np.uint8)
        at = _HEADER.size
        for begin in range(0, nbytes, block):
            size = min(block, nbytes - begin)
            if at + _LENGTH.size > data.nbytes:
                raise damaged("the stored bytes end before the last LZ4 block")
            (length,) = _LENGTH.unpack_from(data.data, at)
            at += _LENGTH.size
            part = data[at : at + length]
            if part.nbytes != length:
                raise damaged("the stored bytes end within an LZ4 block")
            if length == size:
                raw[begin : begin + size] = part
            elif length > 2**31 - 1 or self._decompress(part.ctypes.data, raw[begin:].ctypes.data, length, size) != size:
                raise damaged(f"an LZ4 block of {length} bytes does not unpack to {size}")
            at += length
        if at != data.nbytes:
            raise damaged(f"the LZ4 blocks end after {at} of {data.nbytes} stored bytes")
        return raw.tobytes()
