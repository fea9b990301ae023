"""Compares one chunked dataset as HDF5 has it with what was signed: its descriptor, its shape, every chunk.

Each chunk is found twice: by HDF5's own iteration, which shows chunks that nobody signed, and by its coordinate, which is the way
that every reader takes. Stored bytes are hashed as they are; no filter runs.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, cast

import numpy as np
from h5py import h5d, h5p, h5s

from edge_agent.errors import IntegrityError
from edge_agent.seal.cbor import SealError
from edge_agent.seal.dsd import Dsd
from edge_agent.seal.leaf import Chunk
from edge_agent.segment import types

Leaves = dict[tuple[int, ...], Chunk]
Stored = dict[tuple[int, ...], tuple[int, int]]
"""Stored size and filter mask by coordinate."""
THREADS = 2
WORTH_THREADS = 64
"""Fewer chunks are checked before a thread has begun."""


def check_properties(dataset: h5d.DatasetID, dsd: Dsd) -> None:
    """That type, chunk, limits, filters and fill value are those of the descriptor.

    Raises:
        SealError: the first one that is not.
    """
    properties = dataset.get_create_plist()
    limits = dataset.get_space().get_simple_extent_dims(True)
    pipeline = (properties.get_filter(i) for i in range(properties.get_nfilters()))
    # The descriptor was decoded from CBOR, where sequences are lists.
    for name, real, signed in (
        ("type", types.grammar(dataset.get_type()), dsd.type),
        ("chunk shape", tuple(int(n) for n in properties.get_chunk()), dsd.chunk),
        ("maximal shape", tuple(None if n == h5s.UNLIMITED else int(n) for n in limits), dsd.maxdims),
        ("filters", tuple((number, flags, tuple(int(v) for v in values)) for number, flags, values, _ in pipeline), dsd.filters),
        ("fill value", _fill(dataset, properties), dsd.fill),
        ("chunk options", chunk_options(properties), 0),
    ):
        if real != signed:
            raise SealError(f"{dsd.path}: {name} {real!r}, and {signed!r} was signed")


def _fill(dataset: h5d.DatasetID, properties: Any) -> bytes | None:
    dtype = dataset.get_type().dtype
    state = properties.fill_value_defined()
    if state == h5d.FILL_VALUE_DEFAULT:
        return bytes(dataset.get_type().get_size())
    if state != h5d.FILL_VALUE_USER_DEFINED:
        return None
    value = np.zeros((), dtype)
    properties.get_fill_value(value)
    return value.tobytes()


def chunk_options(properties: Any) -> int:
    """Chunk options of a creation list (H5Pget_chunk_opts, which h5py does not offer): 2 = partial edge chunks are not filtered.

    Raises:
        IntegrityError: the HDF5 library does not answer.
    """
    options = ctypes.c_uint()
    if _get_chunk_opts()(properties.id, ctypes.byref(options)) < 0:
        raise IntegrityError("HDF5 does not tell the chunk options", code="HDF5_OPTIONS")
    return options.value


@cache
def _get_chunk_opts() -> Callable[..., int]:
    # In the library that h5py itself uses: on POSIX a symbol is also looked for in what the extension module was linked with.
    function: Any = ctypes.CDLL("hdf5.dll" if os.name == "nt" else h5p.__file__).H5Pget_chunk_opts
    function.argtypes, function.restype = (ctypes.c_int64, ctypes.POINTER(ctypes.c_uint)), ctypes.c_int
    return cast(Callable[..., int], function)


def check_chunks(dataset: h5d.DatasetID, dsd: Dsd, leaves: Leaves, shape: tuple[int, ...]) -> None:
    """That the dataset has the signed shape and exactly the signed chunks.

    Raises:
        SealError: the first thing that differs, by coordinate.
    """
    real = tuple(int(n) for n in dataset.shape)
    if real != shape:
        raise SealError(f"{dsd.path}: shape {real}, and {shape} was signed")
    stored: Stored = {}

    def note(info: Any) -> None:
        offset = tuple(int(n) for n in info.chunk_offset)
        if offset in stored:
            # An exception would not cross HDF5's C code; no leaf has this coordinate.
            offset = (*offset, len(stored))
        stored[offset] = (int(info.size), int(info.filter_mask))

    dataset.chunk_iter(note)
    for offset in stored:
        if offset not in leaves:
            raise SealError(f"{dsd.path} at {offset[: len(shape)]}: a chunk that was not signed")
    _check_stored(dataset, dsd, list(leaves.items()), stored)
    grid = [range(0, n, c) for n, c in zip(shape, dsd.chunk, strict=True)]
    if len(leaves) != math.prod(map(len, grid)):
        hole = next(offset for offset in itertools.product(*grid) if offset not in leaves)
        raise SealError(f"{dsd.path} at {hole}: no chunk was signed, and readers would see something there")


def _check_stored(dataset: h5d.DatasetID, dsd: Dsd, leaves: list[tuple[tuple[int, ...], Chunk]], stored: Stored) -> None:
    """That every signed chunk is stored as it was signed: chunks in turn by threads that each read and hash into a buffer of their own.

    Raises:
        SealError: the first one that is not.
    """
    shape = tuple(int(n) for n in dataset.shape)

    def check(first: int, step: int) -> tuple[int, SealError] | None:
        sizes = (chunk.size for offset, chunk in leaves[first::step] if stored.get(offset) == (chunk.size, chunk.filter_mask))
        buffer = memoryview(bytearray(max(sizes, default=0)))
        for number in range(first, len(leaves), step):
            try:
                _check_one(dataset, f"{dsd.path} at {leaves[number][0]}", *leaves[number], stored, shape, buffer)
            except SealError as error:
                return number, error
        return None

    if len(leaves) < WORTH_THREADS:
        found = [check(0, 1)]
    else:
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(check, range(THREADS), [THREADS] * THREADS))
    failures = [failure for failure in found if failure is not None]
    if failures:
        raise min(failures, key=lambda failure: failure[0])[1]


def _check_one(
    dataset: h5d.DatasetID, where: str, offset: tuple[int, ...], chunk: Chunk, stored: Stored, shape: tuple[int, ...], buffer: memoryview
) -> None:
    if offset not in stored:
        raise SealError(f"{where}: a signed chunk is missing")
    if any(o >= n for o, n in zip(offset, shape, strict=True)):
        raise SealError(f"{where}: outside of the shape {shape}")
    if stored[offset] != (chunk.size, chunk.filter_mask):
        raise SealError(f"{where}: size and filter mask are {stored[offset]}, and {(chunk.size, chunk.filter_mask)} was signed")
    mask, data = dataset.read_direct_chunk(offset, out=buffer[: chunk.size])
    if mask != chunk.filter_mask or hashlib.sha256(data).digest() != chunk.digest:
        raise SealError(f"{where}: the stored bytes are not those that were signed")
