"""Builds the objects of a segment in HDF5, exactly as the META map and the DSDs say.

Invariants: no filter is ever registered here (`HDF5_PLUGIN_PATH` is ``::`` and `filters` refuses hdf5plugin), so the filter values
that HDF5 stores are the encoder's own; `create_chunked` asserts it. Files open with ``libver=('earliest', 'v110')`` because
``'latest'`` in HDF5 2.0 makes files that 1.12 refuses; no page buffer, no SWMR, the default driver: a chunk that was written is in
the page cache. So is every other value: HDF5 would keep small ones back until their dataset is closed, and when the disk refuses them
then, h5py cannot raise it and HDF5 crashes the process when it closes the dataset again with its file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from h5py import h5a, h5d, h5g, h5p, h5s, h5t, h5z

from edge_agent.errors import IntegrityError
from edge_agent.seal.dsd import Dsd
from edge_agent.seal.meta import DatasetMeta, GroupMeta, MetaObject, SoftLink, Value
from edge_agent.segment import types
from edge_agent.storage import DISK, Storage
from edge_agent.storage.file_object import FileObject

LIBVER = ("earliest", "v110")
_AT_ONCE = "edge-agent-at-once"


def _write_at_once(plist: Any) -> None:
    """HDF5's default driver without its sieve buffer."""
    plist.set_sieve_buf_size(0)


h5py.register_driver(_AT_ONCE, _write_at_once)


def create(source: Path | FileObject) -> h5py.File:
    """A new, empty segment file in what `Storage.hdf5` gave; fails if it exists."""
    driver = None if isinstance(source, FileObject) else _AT_ONCE
    return h5py.File(source, "x", driver=driver, libver=LIBVER, fs_strategy="none", page_buf_size=None)


@contextmanager
def opened(path: Path, storage: Storage = DISK) -> Iterator[h5py.File]:
    """A file open for reading, without a lock."""
    source = storage.hdf5(path)
    try:
        with h5py.File(source, "r", locking=False) as file:
            yield file
    finally:
        if isinstance(source, FileObject):
            source.close()


def set_attribute(node: Any, name: str, value: Value) -> None:
    """Write one attribute, new, in the type of its `Value`. ``node`` is h5py's low-level id of the object."""
    stored, memory, data = _in_memory(value)
    attribute = h5a.create(node, name.encode(), stored, _space(value.dims))
    attribute.write(data, mtype=memory)


def write_value(file: h5py.File, path: str, value: Value) -> Any:
    """A contiguous dataset holding ``value``; its low-level id."""
    stored, memory, data = _in_memory(value)
    dataset = h5d.create(file.id, path.encode(), stored, _space(value.dims), dcpl=_contiguous(), lcpl=_with_parents())
    dataset.write(h5s.ALL, h5s.ALL, data, mtype=memory)
    return dataset


def _in_memory(value: Value) -> tuple[Any, Any, npt.NDArray[Any]]:
    """The type in the file, the type in memory and the data of a value."""
    if isinstance(value.data, tuple):
        texts = [part.decode() for part in value.data]
        return *_text_types(), np.array(texts[0] if value.dims is None else texts, dtype=types.TEXT_DTYPE)
    dtype = types.numpy_dtype(value.type)
    return *_number_types(dtype), np.frombuffer(value.data, dtype).reshape(value.dims or ())


# What HDF5 only reads is made once: a run of many streams has ten thousands of attributes of a handful of types.


@cache
def _text_types() -> tuple[Any, Any]:
    return h5t.py_create(types.TEXT_DTYPE, logical=True), h5t.py_create(types.TEXT_DTYPE)


@cache
def _number_types(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    return h5t.py_create(dtype, logical=True), h5t.py_create(dtype)


@lru_cache(64)
def _space(dims: tuple[int, ...] | None) -> Any:
    return h5s.create(h5s.SCALAR) if dims is None else h5s.create_simple(dims)


@cache
def _contiguous() -> Any:
    dcpl = h5p.create(h5p.DATASET_CREATE)
    dcpl.set_obj_track_times(False)
    return dcpl


@cache
def _with_parents() -> Any:
    lcpl = h5p.create(h5p.LINK_CREATE)
    lcpl.set_create_intermediate_group(True)
    return lcpl


@cache
def _uncached() -> Any:
    """No chunk cache: chunks are written past it, and its empty table alone would take 64 KiB a dataset."""
    dapl = h5p.create(h5p.DATASET_ACCESS)
    dapl.set_chunk_cache(1, 0, 1.0)
    return dapl


@lru_cache(256)
def _chunked(chunk: tuple[int, ...], filters: tuple[tuple[int, int, tuple[int, ...]], ...]) -> Any:
    dcpl = h5p.create(h5p.DATASET_CREATE)
    # Nothing would sign the times, and a segment that is recovered twice has the same bytes without them.
    dcpl.set_obj_track_times(False)
    dcpl.set_chunk(chunk)
    dcpl.set_alloc_time(h5d.ALLOC_TIME_INCR)
    dcpl.set_fill_time(h5d.FILL_TIME_NEVER)
    for number, flags, values in filters:
        dcpl.set_filter(number, flags, values)
    return dcpl


def create_chunked(file: h5py.File, dsd: Dsd) -> h5py.Dataset:
    """An empty chunked dataset with the filters of ``dsd``, none of which need be registered.

    Raises:
        IntegrityError: HDF5 stored other filter values than the encoder's constant.
    """
    shape = tuple(0 if n is None else n for n in dsd.maxdims)
    space = h5s.create_simple(shape, tuple(h5s.UNLIMITED if n is None else n for n in dsd.maxdims))
    stored_type, _ = _number_types(types.numpy_dtype(dsd.type))
    dcpl = _chunked(dsd.chunk, dsd.filters)
    dataset_id = h5d.create(file.id, dsd.path.encode(), stored_type, space, dcpl=dcpl, lcpl=_with_parents(), dapl=_uncached())
    stored = filters_of(dataset_id)
    if stored != dsd.filters:
        raise IntegrityError(
            f"HDF5 changed the filter values of {dsd.path}", why=f"asked for {dsd.filters}, stored {stored}", code="HDF5_FILTER"
        )
    return h5py.Dataset(dataset_id)


def filters_of(dataset_id: Any) -> tuple[tuple[int, int, tuple[int, ...]], ...]:
    """The filter pipeline that HDF5 stored: ``(id, flags, values)``."""
    dcpl = dataset_id.get_create_plist()
    pipeline = (dcpl.get_filter(i) for i in range(dcpl.get_nfilters()))
    return tuple((number, flags & h5z.FLAG_OPTIONAL, tuple(int(v) for v in values)) for number, flags, values, _ in pipeline)


def add(file: h5py.File, path: str, thing: MetaObject, dsds: dict[str, Dsd]) -> h5py.Dataset | None:
    """Create one object of the META map; returns the dataset when it is a chunked one."""
    made = None
    if isinstance(thing, SoftLink):
        file[path] = h5py.SoftLink(thing.target)
        return None
    if isinstance(thing, GroupMeta):
        node: Any = _group(file, path)
    elif isinstance(thing, DatasetMeta) and thing.value is not None:
        node = write_value(file, path, thing.value)
    else:
        made = create_chunked(file, dsds[path])
        node = made.id
    for name, value in getattr(thing, "attributes", {}).items():
        set_attribute(node, name, value)
    return made


def _group(file: h5py.File, path: str) -> Any:
    """The low-level id of a group, made where it is not there."""
    if path == "/":
        return file.id
    try:
        return h5g.create(file.id, path.encode(), lcpl=_with_parents())
    except ValueError:
        return h5g.open(file.id, path.encode())


def chunk_offsets(dataset: h5d.DatasetID) -> dict[tuple[int, ...], tuple[int, int, int]]:
    """Element offset of each chunk to (byte offset, stored size, filter mask), in one pass over HDF5's index."""
    found: list[Any] = []
    dataset.chunk_iter(found.append)
    return {offset: (position, size, mask) for offset, mask, position, size in found}


def zeros(kind: Any) -> bytes:
    """The fill value of a type: zero bytes."""
    return bytes(np.dtype(types.numpy_dtype(kind)).itemsize)
