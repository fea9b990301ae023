"""Steps of several calls, each durable when it returns: the order of the calls is what survives a crash, so it stands here once.

Every function raises `DiskError`; then nothing is promised, and it can be called again.
"""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

from edge_agent.errors import DiskError
from edge_agent.storage.contract import Storage, disk_error

PART = ".part"
COPY_BYTES = 1 << 20


def make_folder(storage: Storage, path: Path) -> None:
    """Create a folder and those above it, each name durable; no error when it is there."""
    missing = [each for each in (path, *path.parents) if not storage.exists(each)]
    for each in reversed(missing):
        storage.make_folder(each)
        try:
            storage.sync_folder(each.parent)
        except DiskError:
            # The next call must find it missing, or nobody would sync its name.
            with contextlib.suppress(DiskError):
                storage.remove_folder(each)
            raise
    if not missing:
        # Another thread may have made it a moment ago.
        storage.sync_folder(path.parent)


def write_file(storage: Storage, path: Path, data: bytes | bytearray | memoryview) -> None:
    """Create a file with this content; an error when the name is taken."""
    fd = storage.open_append(path)
    try:
        storage.write(fd, data)
        storage.sync_data(fd)
    finally:
        storage.close(fd)
    storage.sync_folder(path.parent)


def replace_file(storage: Storage, path: Path, data: bytes | bytearray | memoryview) -> None:
    """Give a file this content in one step: a crash leaves the old or the new one, whole, and perhaps a ``.part`` beside it."""
    part = path.with_name(path.name + PART)
    storage.unlink(part)
    fd = storage.open_append(part)
    try:
        storage.write(fd, data)
        storage.sync_data(fd)
    finally:
        storage.close(fd)
    storage.rename(part, path)
    storage.sync_folder(path.parent)


def move(storage: Storage, source: Path, target: Path) -> None:
    """Rename within one file system, durable at both ends; an error when ``target`` exists."""
    if storage.exists(target):
        raise _taken(target)
    storage.rename(source, target)
    storage.sync_folder(target.parent)
    if source.parent != target.parent:
        storage.sync_folder(source.parent)


def copy(storage: Storage, source: Path, target: Path) -> None:
    """Copy the bytes; an error when ``target`` exists."""
    reader = storage.reopen(source)
    try:
        writer = storage.open_append(target)
        try:
            position = 0
            while piece := storage.read(reader, position, COPY_BYTES):
                storage.write(writer, piece)
                position += len(piece)
            storage.sync_data(writer)
        finally:
            storage.close(writer)
    finally:
        storage.close(reader)
    storage.sync_folder(target.parent)


def remove(storage: Storage, path: Path) -> None:
    """Remove a file; no error when it, or its folder, is not there."""
    storage.unlink(path)
    if storage.exists(path.parent):
        storage.sync_folder(path.parent)


def remove_folder(storage: Storage, path: Path) -> None:
    """Remove a folder of files with what is in it; no error when it is not there."""
    if storage.exists(path):
        for name in storage.names(path):
            storage.unlink(path / name)
        storage.remove_folder(path)
        storage.sync_folder(path.parent)


def allocate(storage: Storage, path: Path, size: int) -> None:
    """Create or replace a file that really holds ``size`` bytes of the disk."""
    storage.unlink(path)
    fd = storage.open_append(path)
    try:
        if storage.preallocate(fd, size):
            storage.cut(fd, size)
        else:
            for position in range(0, size, COPY_BYTES):
                storage.write(fd, bytes(min(COPY_BYTES, size - position)))
        storage.sync_data(fd)
    finally:
        storage.close(fd)
    storage.sync_folder(path.parent)


def _taken(target: Path) -> DiskError:
    return disk_error(f"moving to {target.name}", FileExistsError(errno.EEXIST, f"{target} exists"))
