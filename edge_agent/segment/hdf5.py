"""Builds the objects of a segment in HDF5, exactly as the META map and the DSDs say.

Invariants: no filter is ever registered here (`HDF5_PLUGIN_PATH` is ``::`` and hdf5plugin is never imported), so the filter values
that HDF5 stores are the encoder's own; `create_chunked` asserts it. Files open with ``libver=('earliest', 'v110')`` because
``'latest'`` in HDF5 2.0 makes files that 1.12 refuses; no page buffer, no SWMR, the default driver: a chunk that was written is in
the page cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5z

from edge_agent.errors import IntegrityError
from edge_agent.seal.dsd import Dsd
from edge_agent.seal.meta import DatasetMeta, GroupMeta, MetaObject, SoftLink, Value
from edge_agent.segment import types
from edge_agent.storage import DISK, Storage
from edge_agent.storage.file_object import FileObject

LIBVER = ("earliest", "v110")


def create(source: Path | FileObject) -> h5py.File:
    """A new, empty segment file in what `Storage.hdf5` gave; fails if it exists."""
    return h5py.File(source, "x", libver=LIBVER, fs_strategy="none", page_buf_size=None)


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
    """Write one attribute in the type of its `Value`."""
    if types.is_text(value):
        node.attrs.create(name, types.numpy_value(value), dtype=types.TEXT_DTYPE)
    else:
        node.attrs.create(name, types.numpy_value(value), shape=value.dims or (), dtype=types.numpy_dtype(value.type))


def write_value(parent: h5py.Group, name: str, value: Value) -> h5py.Dataset:
    """A contiguous dataset holding ``value``."""
    if types.is_text(value):
        return parent.create_dataset(name, data=types.numpy_value(value), dtype=types.TEXT_DTYPE)
    return parent.create_dataset(name, data=types.numpy_value(value), dtype=types.numpy_dtype(value.type))


def create_chunked(file: h5py.File, dsd: Dsd) -> h5py.Dataset:
    """An empty chunked dataset with the filters of ``dsd``, none of which need be registered.

    Raises:
        IntegrityError: HDF5 stored other filter values than the encoder's constant.
    """
    dcpl = h5p.create(h5p.DATASET_CREATE)
    dcpl.set_chunk(dsd.chunk)
    dcpl.set_alloc_time(h5d.ALLOC_TIME_INCR)
    dcpl.set_fill_time(h5d.FILL_TIME_NEVER)
    for number, flags, values in dsd.filters:
        dcpl.set_filter(number, flags, values)
    shape = tuple(0 if n is None else n for n in dsd.maxdims)
    space = h5s.create_simple(shape, tuple(h5s.UNLIMITED if n is None else n for n in dsd.maxdims))
    lcpl = h5p.create(h5p.LINK_CREATE)
    lcpl.set_create_intermediate_group(True)
    tid = h5py.h5t.py_create(types.numpy_dtype(dsd.type), logical=True)
    dataset_id = h5d.create(file.id, dsd.path.encode(), tid, space, dcpl=dcpl, lcpl=lcpl)
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
    if isinstance(thing, SoftLink):
        file[path] = h5py.SoftLink(thing.target)
        return None
    if isinstance(thing, GroupMeta):
        node: Any = file.require_group(path)
        made = None
    elif isinstance(thing, DatasetMeta) and thing.value is not None:
        parent, _, name = path.rpartition("/")
        node = write_value(file[parent or "/"], name, thing.value)
        made = None
    else:
        node = made = create_chunked(file, dsds[path])
    for name, value in getattr(thing, "attributes", {}).items():
        set_attribute(node, name, value)
    return made


def chunk_offsets(dataset: h5py.Dataset) -> dict[tuple[int, ...], tuple[int, int, int]]:
    """Element offset of each chunk to (byte offset, stored size, filter mask), in one pass over HDF5's index."""
    found: dict[tuple[int, ...], tuple[int, int, int]] = {}

    def note(info: Any) -> None:
        found[tuple(int(n) for n in info.chunk_offset)] = (int(info.byte_offset), int(info.size), int(info.filter_mask))

    dataset.id.chunk_iter(note)
    return found


def zeros(kind: Any) -> bytes:
    """The fill value of a type: zero bytes."""
    return bytes(np.dtype(types.numpy_dtype(kind)).itemsize)
