"""A file for h5py's file-object driver, over the calls of a `Storage`: so that HDF5 too runs on the model and under faults.

https://docs.h5py.org/en/stable/high/file.html#python-file-like-objects. HDF5 alone moves in it, so it knows its own length.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_agent.errors import DiskError
from edge_agent.storage.contract import Storage


class FileObject(io.RawIOBase):
    """An open file. Nothing here syncs: HDF5's flush hands its buffers over, and the recorder says when they have to be durable.

    ``refused`` is the last thing that the storage refused: HDF5 goes on calling after a callback failed, and what h5py raises in the end
    may be any exception.
    """

    def __init__(self, storage: Storage, path: Path, *, create: bool) -> None:
        """Open ``path``; ``create``: it must not exist."""
        super().__init__()
        self._storage = storage
        self._fd = storage.open_random(path) if create else storage.reopen(path)
        self._length = 0 if create else storage.size(path)
        self._position = 0
        self.refused: DiskError | None = None

    def readable(self) -> bool:
        """Yes."""
        return True

    def writable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; returns the position."""
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill ``buffer`` as far as there is something."""
        with self._remembered():
            data = self._storage.read(self._fd, self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        """Write all of ``data``."""
        with self._remembered():
            self._storage.write_at(self._fd, self._position, data)
        self._position += len(data)
        self._length = max(self._length, self._position)
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        """Set the length."""
        self._length = self._position if size is None else size
        with self._remembered():
            self._storage.cut(self._fd, self._length)
        return self._length

    def close(self) -> None:
        """Let go; callable twice."""
        if not self.closed:
            self._storage.close(self._fd)
        super().close()

    @contextmanager
    def _remembered(self) -> Iterator[None]:
        try:
            yield
        except DiskError as error:
            self.refused = error
            raise
