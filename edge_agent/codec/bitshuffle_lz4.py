"""HDF5 filter 32008 (bitshuffle with LZ4): the codec for frames.

A stored chunk is the raw size (8 bytes, big-endian), the block size in bytes (4 bytes, big-endian), then per block
the compressed size (4 bytes, big-endian) and an LZ4 block; elements beyond the last multiple of eight follow as they
are (bitshuffle, `bshuf_h5filter.c` and `bitshuffle_core.c`). The C decoder is not told how long its input is, so
`decode()` walks the block sizes first and calls it only when they end exactly where the chunk ends.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

import numpy as np

from edge_agent.codec.contract import (
    OPTIONAL,
    CodecError,
    Filter,
    Octets,
    Readable,
    Writable,
    check_size,
    check_type,
    damaged,
    exactly,
    octets,
    output_octets,
    stored_octets,
)
from edge_agent.codec.native import BitshuffleLibrary

BITSHUFFLE = 32008
LZ4 = 2

VERSION = (0, 4)
"""Bitshuffle's version as the `set_local` of hdf5plugin 4.1, 5.1 and 7.1 writes it; readers ignore it."""

_HEADER = struct.Struct(">QI")
_LENGTH = struct.Struct(">I")
_SKIPPED = 0b1
_GROUP = 8
"""Elements are transposed in groups of eight; blocks hold whole groups."""


class BitshuffleLz4:
    """Bitshuffle and LZ4 in one C call that releases the interpreter lock; see `contract.Encoder`."""

    name = "bitshuffle-lz4"
    skipped = _SKIPPED

    def __init__(self, library: BitshuffleLibrary) -> None:
        """Use the functions of `library`."""
        self.library = library

    def filters(self, dtype: np.dtype[Any], chunk: tuple[int, ...]) -> tuple[Filter, ...]:
        """Return (major, minor, element size, block size 0 = default, 2 = LZ4), what the plugin itself ends with."""
        check_type(dtype, chunk)
        return (Filter(BITSHUFFLE, OPTIONAL, (*VERSION, dtype.itemsize, 0, LZ4)),)

    @lru_cache(256)  # noqa: B019 - there is one of each library for good, and sizes of frames are few
    def bound(self, nbytes: int, itemsize: int) -> int:
        """Return the header and the worst case of every LZ4 block."""
        check_size(nbytes, itemsize)
        return _HEADER.size + max(nbytes, self.library.bound(nbytes // itemsize, itemsize))

    def encode(self, raw: Readable, out: Writable, itemsize: int) -> tuple[int, int]:
        """Encode one chunk; see `contract.Encoder.encode`."""
        data = octets(raw, "the raw chunk")
        space = output_octets(out, self.bound(data.nbytes, itemsize))
        block = self.library.block(itemsize)
        _HEADER.pack_into(space.data, 0, data.nbytes, block * itemsize)
        written = self.library.compress(data, space[_HEADER.size :], itemsize, block)
        if written < 0:
            raise CodecError(f"Bitshuffle refused a chunk of {data.nbytes} bytes.", why=f"error {written}", try_="use another codec")
        size = _HEADER.size + written
        if size < data.nbytes:
            return size, 0
        space[: data.nbytes] = data
        return data.nbytes, _SKIPPED

    def decode(self, stored: Readable, filter_mask: int, nbytes: int, itemsize: int) -> bytes:
        """Decode one chunk; see `contract.Encoder.decode`."""
        check_size(nbytes, itemsize)
        data = stored_octets(stored, filter_mask, 1)
        if filter_mask & _SKIPPED:
            return exactly(data, nbytes).tobytes()
        block = self._block(data, nbytes, itemsize)
        _walk(data, nbytes, itemsize, block)
        raw = np.empty(nbytes, np.uint8)
        used = self.library.decompress(data[_HEADER.size :], raw, itemsize, block)
        if used != data.nbytes - _HEADER.size:
            raise damaged(f"bitshuffle used {used} of {data.nbytes - _HEADER.size} stored bytes")
        return raw.tobytes()

    def _block(self, data: Octets, nbytes: int, itemsize: int) -> int:
        """Return the block size in elements that the header declares."""
        if data.nbytes < _HEADER.size:
            raise damaged(f"{data.nbytes} stored bytes are too few for a bitshuffle header")
        declared, block_bytes = _HEADER.unpack_from(data.data)
        if declared != nbytes:
            raise damaged(f"the bitshuffle header declares {declared} bytes where {nbytes} are expected")
        if block_bytes % (itemsize * _GROUP):
            raise damaged(f"a block of {block_bytes} bytes is no multiple of {_GROUP} elements of {itemsize} bytes")
        return int(block_bytes // itemsize) or self.library.block(itemsize)


def _walk(data: Octets, nbytes: int, itemsize: int, block: int) -> None:
    """Check that the declared block lengths and the unpacked rest fill the stored chunk exactly."""
    elements = nbytes // itemsize
    rest = elements % _GROUP * itemsize
    blocks = elements // block + (elements % block >= _GROUP)
    view, at, end = data.data, _HEADER.size, data.nbytes - rest
    for index in range(blocks):
        if at + _LENGTH.size > end:
            raise damaged(f"the stored bytes end before block {index} of {blocks}")
        at += _LENGTH.size + _LENGTH.unpack_from(view, at)[0]
    if at != end:
        raise damaged(f"{blocks} bitshuffle blocks need {at + rest} stored bytes and {data.nbytes} are there")
