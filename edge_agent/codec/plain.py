"""No filter at all: the stored bytes are the raw bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_agent.codec.contract import (
    Filter,
    Readable,
    Writable,
    check_size,
    check_type,
    chunk_octets,
    exactly,
    output_octets,
    stored_octets,
)


class Plain:
    """The empty pipeline; see `contract.Encoder`."""

    name = "none"
    skipped = 0

    def filters(self, dtype: np.dtype[Any], chunk: tuple[int, ...]) -> tuple[Filter, ...]:
        """Return no filter; refuse types and chunks that HDF5 cannot store."""
        check_type(dtype, chunk)
        return ()

    def bound(self, nbytes: int, itemsize: int) -> int:
        """Return `nbytes`."""
        check_size(nbytes, itemsize)
        return nbytes

    def encode(self, raw: Readable, out: Writable, itemsize: int) -> tuple[int, int]:
        """Copy the chunk."""
        data = chunk_octets(raw, itemsize)
        output_octets(out, data.nbytes)[: data.nbytes] = data
        return data.nbytes, 0

    def decode(self, stored: Readable, filter_mask: int, nbytes: int, itemsize: int) -> bytes:
        """Copy the chunk back."""
        check_size(nbytes, itemsize)
        return exactly(stored_octets(stored, filter_mask, 0), nbytes).tobytes()
