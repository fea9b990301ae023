"""Takes a vendor's finished file into a run's folder: copied and hashed in one pass, byte for byte.

A copy, not a hard link: a vendor's program that opens its file again would change bytes that are already signed. The file is refused if it
changed between the first and the last look. Safe to call from several threads at once.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edge_agent.errors import DiskError
from edge_agent.model import FileItem
from edge_agent.record.copying import copy_and_hash
from edge_agent.storage import Storage, durable

UNFINISHED = ".unfinished"
"""Folder of the copies that are being made; a crash leaves them behind."""

_naming = threading.Lock()


@dataclass(frozen=True, slots=True)
class Adopted:
    """Where the file is now (below ``files/``), its SHA-256, and the RFC 9162 root over its pieces of 8 MiB."""

    name: str
    digest: bytes
    root: bytes


class ChangedWhileReading(OSError):
    """The vendor still writes the file; it is tried again later."""


def adopt(
    folder: Path, item: FileItem, storage: Storage, taken: set[str] | None = None, made: set[Path] | None = None
) -> Adopted:
    """Copy ``item`` below ``folder`` and hash it on the way; durable with its name when this returns.

    Args:
        folder: the instrument's folder in the run.
        item: the file as it is now.
        storage: the file system.
        taken: names below ``folder`` that the run has recorded; gets the new one. A file of another name was left by a crash between its
            copy and its leaf: nobody was told of it, and it is replaced. None: every file that is there keeps its name.
        made: folders that this process made durable, which need no sync again; gets the new ones.

    Raises:
        ChangedWhileReading: size or time changed meanwhile.
        OSError: it cannot be read.
        DiskError: the disk refused the copy.
        ValueError: its name leads out of ``folder``.
    """
    name = PurePosixPath(item.name)
    if name.is_absolute() or not name.parts or {"..", UNFINISHED} & set(name.parts):
        raise ValueError(f"file name {item.name!r}: must stay below its folder")
    made = set() if made is None else made
    partial = folder / UNFINISHED / os.urandom(8).hex()
    place, named = partial, ""
    try:
        _make_folder(partial.parent, storage, made)
        digest, root = _copy(item, partial, storage)
        _make_folder((folder / name).parent, storage, made)
        with _naming:
            free = _free_name(folder, item.name, storage, taken)
            storage.rename(partial, folder / free)
            if taken is not None:
                taken.add(free)
                named = free
        place = folder / free
        storage.sync_folder(place.parent)
    except BaseException:
        # Its caller tries again: what is left here would stand beside the next copy for ever. Perhaps somebody removed a folder.
        made.clear()
        with contextlib.suppress(DiskError):
            storage.unlink(place)
        if taken is not None:
            taken.discard(named)
        raise
    return Adopted(free, digest, root)


def discard_unfinished(files: Path) -> None:
    """Remove the copies that a crash left half-made below ``files``; their originals are still where they were."""
    for left in files.glob(f"*/{UNFINISHED}"):
        shutil.rmtree(left, ignore_errors=True)


def _make_folder(path: Path, storage: Storage, made: set[Path]) -> None:
    if path not in made:
        durable.make_folder(storage, path)
        made.add(path)


def _copy(item: FileItem, partial: Path, storage: Storage) -> tuple[bytes, bytes]:
    """Copy the bytes and the times, durably; SHA-256 and the root over the pieces."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(item.path, flags), "rb") as source:
        copy = storage.open_append(partial)
        try:
            digest, root = copy_and_hash(source, item.size, copy, storage)
        finally:
            storage.close(copy)
        after = os.fstat(source.fileno())
    if after.st_size != item.size or after.st_mtime_ns != item.mtime_ns:
        raise ChangedWhileReading(f"{item.name} changed while it was read")
    storage.set_times(partial, after.st_atime_ns, after.st_mtime_ns)
    return digest, root


def _free_name(folder: Path, name: str, storage: Storage, taken: set[str] | None) -> str:
    """``name``, or ``name~2`` and so on when an earlier version of the file is already there."""
    free, version = name, 1
    while storage.exists(folder / free) if taken is None else free in taken:
        version += 1
        free = f"{name}~{version}"
    return free
