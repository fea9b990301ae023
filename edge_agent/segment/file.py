"""One HDF5 segment file while it is written: objects, chunks by direct write, the integrity tables, close.

Owned by one thread. Chunks are written once and only appended; `write_chunk` returns the byte offset at which HDF5 put the stored
bytes, which the journal keeps because HDF5's own metadata is not trusted until the file was closed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path

import h5py

from edge_agent.errors import DiskError, IntegrityError
from edge_agent.seal.cbor import SealError
from edge_agent.seal.dsd import Dsd
from edge_agent.seal.meta import MetaObject, encode_meta
from edge_agent.segment import filters, hdf5, integrity, reader
from edge_agent.storage import DISK, Storage
from edge_agent.storage.file_object import FileObject

log = logging.getLogger(__name__)

AHEAD = 256
"""Rows by which a dataset of one row a chunk grows beyond what is written: growing costs HDF5 more than a write's book-keeping."""
_FINISHING = threading.Lock()
"""HDF5 lets in one thread at a time. Several that close files take turns here: waiting for each other at each call costs more."""


class SegmentFile:
    """A segment file open for writing."""

    def __init__(self, path: Path, storage: Storage = DISK) -> None:
        """Create ``path``; it must not exist."""
        self.path = path
        self.objects: dict[str, MetaObject] = {}
        self.dsds: dict[str, Dsd] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.chunks: dict[str, int] = {}
        self._offsets: dict[str, dict[tuple[int, ...], tuple[int, int, int]]] = {}
        self._grown: dict[str, int] = {}
        self._storage = storage
        self._source = storage.hdf5(path, create=True)
        filters.writing(self)
        self._file = hdf5.create(self._source)
        self._id = self._file.id
        self._datasets: dict[str, h5py.h5d.DatasetID] = {}

    @property
    def refused(self) -> DiskError | None:
        """What the storage refused, where HDF5 writes through one; see `FileObject`."""
        return self._source.refused if isinstance(self._source, FileObject) else None

    def add(self, objects: Mapping[str, MetaObject], dsds: tuple[Dsd, ...] = ()) -> None:
        """Create objects that are not there yet; parents come before children in ``objects``."""
        by_path = {dsd.path: dsd for dsd in dsds}
        for path, thing in objects.items():
            if path in self.objects:
                continue
            dataset = hdf5.add(self._file, path, thing, by_path)
            self.objects[path] = thing
            if dataset is not None:
                self._datasets[path] = dataset.id
                self.dsds[path] = by_path[path]
                self.shapes[path] = dataset.shape
                self.chunks[path] = 0
                self._offsets[path] = {}
                self._grown[path] = dataset.shape[0]

    def write_chunk(self, path: str, offset: tuple[int, ...], stored: bytes | memoryview, filter_mask: int, rows: int) -> int:
        """Append one chunk; returns the byte offset of its stored bytes in the file.

        Args:
            path: a chunked dataset.
            offset: element offset of the chunk, on a chunk boundary.
            stored: encoded bytes.
            filter_mask: bit n set: filter n was not applied.
            rows: length of the dataset along its first axis afterwards.
        """
        dataset, tail = self._datasets[path], self.shapes[path][1:]
        self.shapes[path] = (rows, *tail)
        if rows > self._grown[path]:
            # In strides where a chunk is one row: what is too much is taken back at the end, at a chunk's edge, so no chunk is touched.
            self._grown[path] = rows + (AHEAD if self.dsds[path].chunk[0] == 1 else 0)
            dataset.set_extent((self._grown[path], *tail))
        before = self._id.get_filesize()
        dataset.write_direct_chunk(offset, stored, filter_mask)
        size = len(stored)
        # HDF5 puts the chunk at the end of the file; when its index grew too, only HDF5 knows where, and asking costs a scan.
        position: int
        if self._id.get_filesize() - before == size:
            position = before
        else:
            position = dataset.get_chunk_info_by_coord(offset).byte_offset
        self.chunks[path] += 1
        self._offsets[path][offset] = (position, size, filter_mask)
        return position

    def finish(self, tables: integrity.Tables) -> None:
        """Write the tables and close, and read all of it back but the chunks: HDF5's own index of them must be what was written.

        Raises:
            IntegrityError: HDF5's index has more or fewer chunks; the file must not be used.
            DiskError: what is read back is something else, likewise.
        """
        with _FINISHING:
            self._finish(tables)

    def _finish(self, tables: integrity.Tables) -> None:
        for path, dataset in self._datasets.items():
            if self._grown[path] != self.shapes[path][0]:
                dataset.set_extent(self.shapes[path])
            if dataset.get_num_chunks() != self.chunks[path]:
                raise IntegrityError(
                    f"HDF5's chunk index of {path} is not what was written",
                    why=str(self.path),
                    try_="keep the file and report it",
                    code="HDF5_INDEX",
                )
        made = integrity.objects(tables)
        integrity.write(self._file, made)
        self._file.flush()
        self._close()
        self._read_back(made)

    def _read_back(self, tables: Mapping[str, MetaObject]) -> None:
        """HDF5 tells nobody when the disk refuses what it still had in its caches as an object is closed; chunks were told one by one."""
        try:
            with hdf5.opened(self.path, self._storage) as file:
                found = reader.walk(file)
                offsets = {path: hdf5.chunk_offsets(dataset) for path, dataset in found.chunked.items()}
                same = found.integrity == tables and encode_meta(found.objects) == encode_meta(self.objects)
        except (SealError, OSError, RuntimeError, LookupError, ValueError) as error:
            raise _not_there(self.path, str(error)) from error
        if not same or offsets != self._offsets:
            raise _not_there(self.path, "what is read back is not what was written")

    def abandon(self) -> None:
        """Close without tables, as far as HDF5 still can; the file is rebuilt from its journal or dropped."""
        try:
            self._close()
        except Exception as error:
            # Whatever it is: the file is given up, and what matters is what its caller does next.
            log.debug("%s: HDF5 could not close it: %s", self.path.name, error)

    def _close(self) -> None:
        try:
            self._file.close()
            filters.written(self)
        finally:
            if isinstance(self._source, FileObject):
                self._source.close()


def _not_there(path: Path, why: str) -> DiskError:
    what = f"The disk did not keep all of {path.name}"
    return DiskError(what, why=why, try_="look at the kernel log for disk errors", code="DISK_FAILED")
