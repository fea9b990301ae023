"""HDF5 filters 2 (byte shuffle) and 32015 (Zstandard): the codec for rows.

The shuffle puts byte k of every element together (HDF5 "Shuffle filter"); the Zstandard frame (RFC 8878) always
carries its content size, which the HDF5 plugin needs to allocate the output.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import zstandard

from edge_agent.codec.contract import (
    OPTIONAL,
    Filter,
    Octets,
    Readable,
    Writable,
    check_size,
    check_type,
    chunk_octets,
    damaged,
    exactly,
    output_octets,
    stored_octets,
)

SHUFFLE = 2
ZSTD = 32015
LEVEL = 3

_SHUFFLE_SKIPPED = 0b01
_ZSTD_SKIPPED = 0b10
_ALL_SKIPPED = 0b11


class _PerThread(threading.local):
    """A compressor that two threads share crashes the interpreter, so each thread has its own."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor()
        self.scratch: Octets = np.empty(0, np.uint8)

    def shuffled(self, data: Octets, itemsize: int) -> Octets:
        """Return the shuffled bytes, valid until the next call in this thread."""
        if self.scratch.nbytes < data.nbytes:
            self.scratch = np.empty(data.nbytes, np.uint8)
        out = self.scratch[: data.nbytes]
        out.reshape(itemsize, -1)[:] = data.reshape(-1, itemsize).T
        return out


class ShuffleZstd:
    """Byte shuffle, then Zstandard at a fixed level; see `contract.Encoder`."""

    name = "shuffle-zstd"
    skipped = _ALL_SKIPPED

    def __init__(self) -> None:
        """Prepare the state that each encoding thread gets of its own."""
        self._thread = _PerThread()

    def filters(self, dtype: np.dtype[Any], chunk: tuple[int, ...]) -> tuple[Filter, ...]:
        """Return shuffle (element size) and zstd (level), both optional."""
        check_type(dtype, chunk)
        return (Filter(SHUFFLE, OPTIONAL, (dtype.itemsize,)), Filter(ZSTD, OPTIONAL, (LEVEL,)))

    def bound(self, nbytes: int, itemsize: int) -> int:
        """Return `nbytes`: what does not shrink is stored as it is."""
        check_size(nbytes, itemsize)
        return nbytes

    def encode(self, raw: Readable, out: Writable, itemsize: int) -> tuple[int, int]:
        """Encode one chunk; see `contract.Encoder.encode`."""
        data = chunk_octets(raw, itemsize)
        space = output_octets(out, data.nbytes)
        mine = self._thread
        # The plugin's shuffle leaves single-byte elements as they are, and so does the transposition of one column.
        source = data if itemsize == 1 else mine.shuffled(data, itemsize)
        frame = mine.compressor.compress(source.data)
        if len(frame) >= data.nbytes:
            space[: data.nbytes] = data
            return data.nbytes, _ALL_SKIPPED
        space[: len(frame)] = np.frombuffer(frame, np.uint8)
        return len(frame), 0

    def decode(self, stored: Readable, filter_mask: int, nbytes: int, itemsize: int) -> bytes:
        """Decode one chunk; see `contract.Encoder.decode`."""
        check_size(nbytes, itemsize)
        data = stored_octets(stored, filter_mask, 2)
        if not filter_mask & _ZSTD_SKIPPED:
            data = np.frombuffer(self._unpack(data, nbytes), np.uint8)
        data = exactly(data, nbytes)
        if filter_mask & _SHUFFLE_SKIPPED or itemsize == 1:
            return data.tobytes()
        return data.reshape(itemsize, -1).T.tobytes()

    def _unpack(self, data: Octets, nbytes: int) -> bytes:
        try:
            declared = zstandard.frame_content_size(data.data)
            if declared != nbytes:
                said = "no size" if declared < 0 else f"{declared} bytes"
                raise damaged(f"the zstd frame declares {said} where {nbytes} bytes are expected")
            return self._thread.decompressor.decompress(data.data, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise damaged(f"the {data.nbytes} stored bytes are no whole zstd frame: {error}") from error
