"""The operating system's file system. Methods are described at `Storage`."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_agent.storage.contract import Storage, disk_error

_KEEP_SIZE = 1
_BEGIN, _WAIT = 2, 1 | 4
_AT_ONCE = 1 << 18
"""Bytes a call: larger ones make Linux take memory in large pieces, which took up to ten times as long (6.18, in a virtual machine)."""
_BINARY = getattr(os, "O_BINARY", 0)


@contextmanager
def _told(doing: str) -> Iterator[None]:
    """A refusal of the system as a `DiskError`."""
    try:
        yield
    except OSError as error:
        raise disk_error(doing, error) from error


def _sync_range(fd: int, offset: int, size: int, how: int) -> int:
    """``sync_file_range`` where there is one; the error number, 0 for none."""
    if sys.platform != "linux":
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    return ctypes.get_errno() if libc.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(size), how) else 0


class Disk:
    """The real one."""

    def open_append(self, path: Path) -> int:
        """See `Storage`."""
        with _told(f"creating {path.name}"):
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | _BINARY, 0o640)

    def open_random(self, path: Path) -> int:
        """See `Storage`."""
        with _told(f"creating {path.name}"):
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o640)

    def reopen(self, path: Path) -> int:
        """See `Storage`. Opened for writing too because Windows needs that for syncing."""
        with _told(f"opening {path.name}"):
            return os.open(path, os.O_RDWR | os.O_APPEND | _BINARY)

    def close(self, fd: int) -> None:
        """See `Storage`."""
        os.close(fd)

    def read(self, fd: int, offset: int, size: int) -> bytes:
        """See `Storage`."""
        data = bytearray()
        with _told("reading"):
            os.lseek(fd, offset, os.SEEK_SET)
            while len(data) < size and (more := os.read(fd, size - len(data))):
                data += more
        return bytes(data)

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        """See `Storage`."""
        view = memoryview(data)
        with _told("writing"):
            while view:
                view = view[os.write(fd, view[:_AT_ONCE]) :]

    def write_at(self, fd: int, offset: int, data: bytes | bytearray | memoryview) -> None:
        """See `Storage`."""
        with _told("writing"):
            os.lseek(fd, offset, os.SEEK_SET)
        self.write(fd, data)

    def sync_data(self, fd: int) -> None:
        """See `Storage`."""
        try:
            getattr(os, "fdatasync", os.fsync)(fd)
        except OSError as error:
            raise disk_error("making data durable", error) from error

    def begin_sync(self, fd: int, offset: int, size: int) -> None:
        """See `Storage`. Linux ``sync_file_range(SYNC_FILE_RANGE_WRITE)``, which leaves an error of the disk to the next ``fdatasync``."""
        _sync_range(fd, offset, size, _BEGIN)

    def let_go(self, fd: int, offset: int, size: int) -> None:
        """See `Storage`. Linux ``sync_file_range`` with both waits, which tells an error of the disk in place of the next ``fdatasync``."""
        if (number := _sync_range(fd, offset, size, _BEGIN | _WAIT)) in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
            raise disk_error("making data durable", OSError(number, os.strerror(number)))
        if hasattr(os, "posix_fadvise"):
            with _told("making data durable"):
                os.posix_fadvise(fd, offset, size, os.POSIX_FADV_DONTNEED)

    def preallocate(self, fd: int, size: int) -> bool:
        """See `Storage`. Linux ``fallocate(FALLOC_FL_KEEP_SIZE)``; ENOSPC is an error, "not supported" is not."""
        if sys.platform != "linux":
            return False
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.fallocate(fd, _KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(size)) == 0:
            return True
        if ctypes.get_errno() == errno.ENOSPC:
            raise disk_error(f"reserving {size} bytes", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        return False

    def cut(self, fd: int, size: int) -> None:
        """See `Storage`."""
        with _told("setting the length of a file"):
            os.ftruncate(fd, size)

    def read_file(self, path: Path) -> bytes:
        """See `Storage`."""
        with _told(f"reading {path.name}"):
            return path.read_bytes()

    def size(self, path: Path) -> int:
        """See `Storage`."""
        with _told(f"looking at {path.name}"):
            return path.stat().st_size

    def exists(self, path: Path) -> bool:
        """See `Storage`."""
        with _told(f"looking at {path.name}"):
            return path.exists()

    def names(self, folder: Path) -> list[str]:
        """See `Storage`."""
        with _told(f"listing {folder.name}"):
            return sorted(os.listdir(folder))

    def set_times(self, path: Path, accessed_ns: int, modified_ns: int) -> None:
        """See `Storage`."""
        with _told(f"dating {path.name}"):
            os.utime(path, ns=(accessed_ns, modified_ns))

    def sync_file(self, path: Path) -> None:
        """See `Storage`."""
        fd = self.reopen(path)
        try:
            with _told(f"making {path.name} durable"):
                os.fsync(fd)
        finally:
            os.close(fd)

    def sync_folder(self, path: Path) -> None:
        """See `Storage`. Windows has no such call; NTFS journals names."""
        if os.name == "nt":
            return
        with _told(f"opening the folder {path.name}"):
            fd = os.open(path, os.O_RDONLY)
        try:
            with _told(f"making the folder {path.name} durable"):
                os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        """See `Storage`."""
        with _told(f"renaming {source.name}"):
            source.replace(target)

    def unlink(self, path: Path) -> None:
        """See `Storage`."""
        with _told(f"removing {path.name}"):
            path.unlink(missing_ok=True)

    def make_folder(self, path: Path) -> None:
        """See `Storage`."""
        with _told(f"creating the folder {path.name}"):
            path.mkdir(exist_ok=True)

    def remove_folder(self, path: Path) -> None:
        """See `Storage`."""
        with _told(f"removing the folder {path.name}"):
            path.rmdir()

    def hdf5(self, path: Path, *, create: bool = False) -> Path:
        """See `Storage`."""
        return path


DISK: Storage = Disk()
