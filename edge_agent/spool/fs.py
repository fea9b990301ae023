"""The file-system calls on which durability rests, behind one small interface so that faults can be put in.

Invariant: when a method returns, what it did survives a power failure (as far as the device keeps its word); when it
raises, nothing is promised.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Protocol

COPY_BYTES = 1 << 20


class FileSystem(Protocol):
    """What the spool asks of a disk. Every method raises `OSError`."""

    def make_dir(self, path: Path) -> None:
        """Create a directory and its parents; durable; no error when it is there."""
        ...

    def write(self, path: Path, data: bytes) -> None:
        """Create a file with this content; durable; an error when the name is taken."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Move within one file system; durable at both ends; an error when ``target`` exists."""
        ...

    def copy(self, source: Path, target: Path) -> None:
        """Copy the bytes; durable; an error when ``target`` exists."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove a file; durable; no error when it is not there."""
        ...

    def remove_tree(self, path: Path) -> None:
        """Remove a directory and what is in it; no error when it is not there."""
        ...

    def allocate(self, path: Path, size: int) -> None:
        """Create a file that really holds ``size`` bytes of the disk."""
        ...


class DiskFs:
    """The real disk."""

    def make_dir(self, path: Path) -> None:
        """Create a directory and its parents; durable."""
        if path.is_dir():
            return
        self.make_dir(path.parent)
        path.mkdir(exist_ok=True)
        fsync_dir(path.parent)

    def write(self, path: Path, data: bytes) -> None:
        """Create a file with this content; durable."""
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fsync_dir(path.parent)

    def rename(self, source: Path, target: Path) -> None:
        """Move within one file system; durable at both ends."""
        if target.exists():
            raise FileExistsError(f"{target} exists")
        source.rename(target)
        fsync_dir(target.parent)
        if source.parent != target.parent:
            fsync_dir(source.parent)

    def copy(self, source: Path, target: Path) -> None:
        """Copy the bytes; durable."""
        with source.open("rb") as reader, target.open("xb") as writer:
            shutil.copyfileobj(reader, writer, COPY_BYTES)
            writer.flush()
            os.fsync(writer.fileno())
        fsync_dir(target.parent)

    def unlink(self, path: Path) -> None:
        """Remove a file; durable."""
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            fsync_dir(path.parent)

    def remove_tree(self, path: Path) -> None:
        """Remove a directory and what is in it."""
        if path.is_dir():
            shutil.rmtree(path)
            fsync_dir(path.parent)

    def allocate(self, path: Path, size: int) -> None:
        """Create a file that really holds ``size`` bytes of the disk."""
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                for _ in range(0, size, COPY_BYTES):
                    file.write(bytes(min(COPY_BYTES, size - file.tell())))
            file.flush()
            os.fsync(file.fileno())
        fsync_dir(path.parent)


def fsync_dir(path: Path) -> None:
    """Make the names in a directory durable. Windows has no such call and does it with the file."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
