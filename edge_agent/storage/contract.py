"""What is asked of a file system, and how a refusal is told.

Invariants: every refusal of the system is a `DiskError`. Data is durable when a sync of its file returned, a name when a sync of its folder
did. A sync that fails is reported once and for all: the caller must treat the file as dead, because a second one may succeed without
having written anything.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edge_agent.errors import DiskError

if TYPE_CHECKING:
    from edge_agent.storage.file_object import FileObject


class Storage(Protocol):
    """A file system. Descriptors are plain integers and belong to it. From any thread; one descriptor from one thread at a time."""

    def open_append(self, path: Path) -> int:
        """Create a new file for appending; a file descriptor."""
        ...

    def open_random(self, path: Path) -> int:
        """Create a new file for writing at any place; a file descriptor."""
        ...

    def reopen(self, path: Path) -> int:
        """Open an existing file for reading, appending and syncing; a file descriptor."""
        ...

    def close(self, fd: int) -> None:
        """Let go of a descriptor; says nothing about durability and refuses nothing."""
        ...

    def read(self, fd: int, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``, fewer at the end of the file."""
        ...

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        """Append all of ``data``."""
        ...

    def write_at(self, fd: int, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of ``data`` at a place of a file that was opened with `open_random`."""
        ...

    def sync_data(self, fd: int) -> None:
        """``fdatasync``; returns when the data is durable."""
        ...

    def begin_sync(self, fd: int, offset: int, size: int) -> None:
        """Have the disk begin with what was written, so that `sync_data` finds little to wait for; promises nothing, refuses nothing."""
        ...

    def let_go(self, fd: int, offset: int, size: int) -> None:
        """Wait until the disk has taken what was written there, and let go of the memory that holds it; it is durable after `sync_data`."""
        ...

    def preallocate(self, fd: int, size: int) -> bool:
        """Reserve blocks without changing the size; False where the file system cannot."""
        ...

    def cut(self, fd: int, size: int) -> None:
        """Set the length of an open file: takes back what was appended and never acknowledged."""
        ...

    def read_file(self, path: Path) -> bytes:
        """All bytes of a file."""
        ...

    def size(self, path: Path) -> int:
        """Length of a file in bytes."""
        ...

    def exists(self, path: Path) -> bool:
        """Whether there is a file or a folder."""
        ...

    def names(self, folder: Path) -> list[str]:
        """Names in a folder, sorted."""
        ...

    def set_times(self, path: Path, accessed_ns: int, modified_ns: int) -> None:
        """Set the times of a file, UTC ns."""
        ...

    def sync_file(self, path: Path) -> None:
        """``fsync`` of a whole file."""
        ...

    def sync_folder(self, path: Path) -> None:
        """``fsync`` of a folder: makes names durable."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Atomic rename within one file system; what was at ``target`` is replaced."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove a name; a missing one is fine."""
        ...

    def make_folder(self, path: Path) -> None:
        """Create one folder in a folder that is there; fine when it is there already."""
        ...

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        ...

    def hdf5(self, path: Path, *, create: bool = False) -> Path | FileObject:
        """What to give to ``h5py.File``: the path, for HDF5's own driver, or a file object over this storage, for the caller to close."""
        ...


def disk_error(doing: str, error: OSError) -> DiskError:
    """What to tell of a refusal: a full disk or a taken name can be helped by the reader, anything else needs the kernel log."""
    if error.errno == errno.EEXIST:
        return DiskError(
            f"The disk did not take it: {doing}", why=error.strerror or str(error),
            try_="choose another place; nothing was overwritten", code="DISK_NAME_TAKEN",
        )  # fmt: skip
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return DiskError(
        f"The disk did not take it: {doing}",
        why=error.strerror or str(error),
        try_="free space on the spool's disk, or move the spool: spool.dir" if full else "look at the kernel log for disk errors",
        code="DISK_FULL" if full else "DISK_FAILED",
    )
