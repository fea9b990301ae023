"""The file-system calls that durability rests on, behind one small interface, so that faults can be injected.

`DISK` is the real one. Every refusal of the system is a `DiskError`. An `fsync` that fails is reported once and for all: the caller must
treat the file as dead, because a second `fsync` may succeed without having written anything.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path
from typing import Protocol

from edge_agent.errors import DiskError

_KEEP_SIZE = 1


class Storage(Protocol):
    """What the record path asks of a file system."""

    def open_append(self, path: Path) -> int:
        """Create a new file for appending; a file descriptor."""
        ...

    def open_read(self, path: Path) -> int:
        """Open an existing file for reading and syncing; a file descriptor."""
        ...

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of ``data``."""
        ...

    def sync_data(self, fd: int) -> None:
        """``fdatasync``; returns when the data is durable."""
        ...

    def preallocate(self, fd: int, size: int) -> None:
        """Reserve blocks without changing the size; does nothing where the file system cannot."""
        ...

    def cut(self, fd: int, size: int) -> None:
        """Shorten an open file: takes back what was appended and never acknowledged."""
        ...

    def sync_file(self, path: Path) -> None:
        """``fsync`` of a whole file."""
        ...

    def sync_folder(self, path: Path) -> None:
        """``fsync`` of a folder: makes names durable."""
        ...

    def trim(self, path: Path) -> None:
        """Give preallocated blocks beyond the end of the file back."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Atomic rename within one file system."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove a name; a missing one is fine."""
        ...


def disk_error(doing: str, error: OSError) -> DiskError:
    """What to tell of a refusal: a full disk can be helped by the reader, anything else needs the kernel log."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return DiskError(
        f"The disk did not take it: {doing}",
        why=error.strerror or str(error),
        try_="free space on the spool's disk, or move the spool: spool.dir" if full else "look at the kernel log for disk errors",
        code="DISK_FULL" if full else "DISK_FAILED",
    )


class Disk:
    """The operating system's file system."""

    def open_append(self, path: Path) -> int:
        """See `Storage`."""
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o640)
        except OSError as error:
            raise disk_error(f"creating {path.name}", error) from error

    def open_read(self, path: Path) -> int:
        """See `Storage`. Opened for writing too because Windows needs that for syncing."""
        try:
            return os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise disk_error(f"opening {path.name}", error) from error

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        """See `Storage`."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(fd, view) :]
        except OSError as error:
            raise disk_error("writing", error) from error

    def sync_data(self, fd: int) -> None:
        """See `Storage`."""
        try:
            getattr(os, "fdatasync", os.fsync)(fd)
        except OSError as error:
            raise disk_error("making data durable", error) from error

    def preallocate(self, fd: int, size: int) -> None:
        """See `Storage`. Linux ``fallocate(FALLOC_FL_KEEP_SIZE)``; ENOSPC is an error, "not supported" is not."""
        if sys.platform != "linux":
            return
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.fallocate(fd, _KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(size)) != 0 and ctypes.get_errno() == errno.ENOSPC:
            raise disk_error(f"reserving {size} bytes", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def cut(self, fd: int, size: int) -> None:
        """See `Storage`."""
        try:
            os.ftruncate(fd, size)
        except OSError as error:
            raise disk_error("shortening a file", error) from error

    def sync_file(self, path: Path) -> None:
        """See `Storage`."""
        fd = self.open_read(path)
        try:
            os.fsync(fd)
        except OSError as error:
            raise disk_error(f"making {path.name} durable", error) from error
        finally:
            os.close(fd)

    def sync_folder(self, path: Path) -> None:
        """See `Storage`. Windows has no such call; NTFS journals names."""
        if os.name == "nt":
            return
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise disk_error(f"opening the folder {path.name}", error) from error
        try:
            os.fsync(fd)
        except OSError as error:
            raise disk_error(f"making the folder {path.name} durable", error) from error
        finally:
            os.close(fd)

    def trim(self, path: Path) -> None:
        """See `Storage`."""
        try:
            os.truncate(path, path.stat().st_size)
        except OSError as error:
            raise disk_error(f"trimming {path.name}", error) from error

    def rename(self, source: Path, target: Path) -> None:
        """See `Storage`."""
        try:
            source.replace(target)
        except OSError as error:
            raise disk_error(f"renaming {source.name}", error) from error

    def unlink(self, path: Path) -> None:
        """See `Storage`."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(f"removing {path.name}", error) from error


DISK: Storage = Disk()
