"""Takes a vendor's finished file into a run's folder: copied and hashed in one pass, byte for byte.

A copy, not a hard link: a vendor's program that opens its file again would change bytes that are already signed. The file is refused if it changed between the
first and the last look.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from edge_agent.model import FileItem
from edge_agent.seal.leaf import PIECE
from edge_agent.seal.tree import Frontier
from edge_agent.storage import Storage


@dataclass(frozen=True, slots=True)
class Adopted:
    """Where the file is now (below ``files/``), its SHA-256, and the RFC 9162 root over its pieces of 8 MiB."""

    name: str
    digest: bytes
    root: bytes


class ChangedWhileReading(OSError):
    """The vendor still writes the file; it is tried again later."""


def adopt(folder: Path, item: FileItem, storage: Storage) -> Adopted:
    """Copy ``item`` below ``folder`` and hash it on the way.

    Raises:
        ChangedWhileReading: size or time changed meanwhile.
        OSError: it cannot be read.
    """
    name = _free_name(folder, item.name)
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    digest, pieces = hashlib.sha256(), Frontier()
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(item.path, flags), "rb") as source, partial.open("wb") as copy:
        while piece := source.read(PIECE):
            digest.update(piece)
            pieces.append(piece)
            copy.write(piece)
        after = os.fstat(source.fileno())
        copy.flush()
        os.fsync(copy.fileno())
    if after.st_size != item.size or after.st_mtime_ns != item.mtime_ns:
        storage.unlink(partial)
        raise ChangedWhileReading(f"{item.name} changed while it was read")
    shutil.copystat(item.path, partial, follow_symlinks=False)
    storage.rename(partial, target)
    storage.sync_folder(target.parent)
    return Adopted(name, digest.digest(), pieces.root())


def _free_name(folder: Path, name: str) -> str:
    """``name``, or ``name~2`` and so on when an earlier version of the file is already there."""
    stem, version = name, 1
    while (folder / name).exists():
        version += 1
        name = f"{stem}~{version}"
    return name
