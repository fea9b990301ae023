"""What an encoder promises: its filter values, its worst case, and a bounded way back.

Invariants every encoder keeps:

- the filters that `filters()` gives are, value for value, what HDF5 holds after the dataset is created without those
  filters registered, and with them every reader decodes what `encode()` wrote;
- a chunk that does not shrink is stored as it is, with one filter-mask bit set for each filter of the pipeline;
- `encode()` and `decode()` may run in several threads at once on the same encoder;
- `decode()` gives exactly the expected number of bytes or raises, whatever the stored bytes say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import IntegrityError

Readable: TypeAlias = bytes | bytearray | memoryview | NDArray[Any]
Writable: TypeAlias = bytearray | memoryview | NDArray[Any]
Octets: TypeAlias = NDArray[np.uint8]

OPTIONAL = 1
"""H5Z_FLAG_OPTIONAL: HDF5 creates the dataset although the filter is not registered."""

LARGEST_CHUNK = 2**32 - 1
"""Bytes in one chunk, HDF5 file format specification, version 3 ("Dataset chunk size" is 32 bits)."""


class CodecError(IntegrityError):
    """Stored bytes that are cut, damaged or hostile, or that the C library refuses."""

    default_code = "CODEC"


@dataclass(frozen=True, slots=True)
class Filter:
    """One entry of the filter pipeline as the dataset creation property list stores it."""

    id: int
    """Registered HDF5 filter number."""
    flags: int
    """Always 1, H5Z_FLAG_OPTIONAL."""
    values: tuple[int, ...]
    """Client data values, unsigned 32-bit."""


class Decoder(Protocol):
    """A filter pipeline of HDF5, read outside HDF5."""

    @property
    def name(self) -> str:
        """The name in a stream's description."""
        ...

    def filters(self, dtype: np.dtype[Any], chunk: tuple[int, ...]) -> tuple[Filter, ...]:
        """Return the pipeline that HDF5 must hold for a dataset of `dtype` in chunks of `chunk` elements.

        Raises:
            ValueError: the type has no fixed size, or the chunk is empty or 4 GiB and larger.
        """
        ...

    def decode(self, stored: Readable, filter_mask: int, nbytes: int, itemsize: int) -> bytes:
        """Return the `nbytes` raw bytes of a stored chunk.

        Memory stays below about three times `nbytes`, whatever the stored bytes declare.

        Raises:
            CodecError: the stored bytes are cut, damaged, or do not hold exactly `nbytes`.
        """
        ...


class Encoder(Decoder, Protocol):
    """A filter pipeline, outside HDF5, both ways."""

    @property
    def skipped(self) -> int:
        """The filter mask of a chunk that is stored as it is."""
        ...

    def bound(self, nbytes: int, itemsize: int) -> int:
        """Return the size in bytes that `out` needs for a chunk of `nbytes` raw bytes."""
        ...

    def encode(self, raw: Readable, out: Writable, itemsize: int) -> tuple[int, int]:
        """Encode one whole chunk into the start of `out`.

        Args:
            raw: the chunk, C-contiguous, edge chunks padded to the full chunk size.
            out: at least `bound(nbytes, itemsize)` writable bytes that do not overlap `raw`.
            itemsize: bytes per element, as `dtype.itemsize`.

        Returns:
            The stored size in bytes, and the filter mask to write the chunk with.

        Raises:
            ValueError: a buffer is not contiguous, not whole elements, or `out` is too small.
            CodecError: the C library refuses the chunk.
        """
        ...


def octets(data: Readable, what: str) -> Octets:
    """Return the bytes of a C-contiguous buffer as a flat array, without a copy.

    Raises:
        ValueError: the buffer is not contiguous, or holds references instead of bytes.
    """
    if isinstance(data, np.ndarray):
        if not data.flags.c_contiguous:
            raise ValueError(f"{what} is not C-contiguous: pass numpy.ascontiguousarray(...) of it")
        if data.dtype.hasobject:
            raise ValueError(f"{what} holds Python objects: only fixed-size types can be encoded")
        return data.reshape(-1).view(np.uint8)
    try:
        return np.frombuffer(data, np.uint8)
    except BufferError as error:
        raise ValueError(f"{what} is not a C-contiguous buffer: {error}") from error


def chunk_octets(raw: Readable, itemsize: int) -> Octets:
    """Return the bytes of a chunk that is about to be encoded, after checking its size."""
    data = octets(raw, "the raw chunk")
    check_size(data.nbytes, itemsize)
    return data


def output_octets(out: Writable, needed: int) -> Octets:
    """Return the bytes of an output buffer, after checking that it is writable and large enough."""
    space = octets(out, "the output buffer")
    if not space.flags.writeable:
        raise ValueError("the output buffer is read-only: pass a bytearray or the view of a Buffers lease")
    if space.nbytes < needed:
        raise ValueError(f"the output buffer has {space.nbytes} bytes, the worst case is {needed}: size it with bound()")
    return space


def check_size(nbytes: int, itemsize: int) -> None:
    """Refuse chunk sizes that HDF5 cannot store or that are not whole elements."""
    if itemsize < 1:
        raise ValueError(f"an element size of {itemsize} bytes is impossible: pass dtype.itemsize")
    if not 0 < nbytes <= LARGEST_CHUNK:
        raise ValueError(f"a chunk of {nbytes} bytes cannot be stored: HDF5 takes 1 byte to 4 GiB - 1; change the chunk")
    if nbytes % itemsize:
        raise ValueError(f"a chunk of {nbytes} bytes is not a whole number of {itemsize}-byte elements: pad it")


def check_type(dtype: np.dtype[Any], chunk: tuple[int, ...]) -> None:
    """Refuse types and chunk shapes that no filter pipeline can hold."""
    if dtype.hasobject:
        raise ValueError(f"type {dtype} has no fixed size: use a fixed-length string or a number type")
    if not chunk:
        raise ValueError("a scalar dataset has no chunks and takes no filters: give it a shape")
    if min(chunk) < 1:
        raise ValueError(f"chunk {chunk} is empty: every dimension needs at least one element")
    check_size(math.prod(chunk) * dtype.itemsize, dtype.itemsize)


def stored_octets(stored: Readable, filter_mask: int, filters: int) -> Octets:
    """Return the bytes of a stored chunk, after checking that its mask names only filters of this pipeline."""
    if not 0 <= filter_mask < 1 << filters:
        raise damaged(f"filter mask {filter_mask:#x} names filters that a pipeline of {filters} does not have")
    return octets(stored, "the stored chunk")


def exactly(data: Octets, nbytes: int) -> Octets:
    """Return `data` when it has the expected raw size."""
    if data.nbytes != nbytes:
        raise damaged(f"{data.nbytes} bytes are stored where {nbytes} are expected")
    return data


def damaged(why: str) -> CodecError:
    """Return the error for stored bytes that do not decode."""
    return CodecError(
        "A stored chunk does not decode.",
        why=why,
        try_="keep the file as it is, fetch the chunk again from another copy of the run, and check both with: edge-agent verify",
    )
