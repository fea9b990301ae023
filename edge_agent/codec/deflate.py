"""HDF5 filter 1 (deflate): carried as a source packed it, never made here. A stored chunk is one zlib stream (RFC 1950)."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from edge_agent.codec.contract import OPTIONAL, Filter, Readable, check_size, check_type, damaged, stored_octets

DEFLATE = 1
LEVEL = 6


class Deflate:
    """A zlib stream; see `contract.Decoder`."""

    name = "deflate"

    def filters(self, dtype: np.dtype[Any], chunk: tuple[int, ...]) -> tuple[Filter, ...]:
        """Return (level); no reader uses it."""
        check_type(dtype, chunk)
        return (Filter(DEFLATE, OPTIONAL, (LEVEL,)),)

    def decode(self, stored: Readable, filter_mask: int, nbytes: int, itemsize: int) -> bytes:
        """Decode one chunk; see `contract.Decoder.decode`."""
        check_size(nbytes, itemsize)
        unpacking = zlib.decompressobj()
        try:
            # One byte more than may come: the end of a stream that fits is read only when there is room behind it.
            raw = unpacking.decompress(stored_octets(stored, filter_mask, 0).data, nbytes + 1)
        except zlib.error as error:
            raise damaged(str(error)) from error
        if len(raw) != nbytes or not unpacking.eof or unpacking.unused_data:
            raise damaged(f"a zlib stream does not unpack to exactly {nbytes} bytes")
        return raw
