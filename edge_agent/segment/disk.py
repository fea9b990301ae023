"""Compares files of a run folder with what was signed of them: size, SHA-256, pieces. Never leaves the folder, never opens a device."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from edge_agent.seal.cbor import SealError
from edge_agent.seal.leaf import PIECE, FileLeaf
from edge_agent.seal.tree import Frontier


def inside(folder: Path, name: str) -> Path:
    """The path of a name within the run folder.

    Raises:
        SealError: the name leads elsewhere, or there is no regular file.
    """
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if not name or "\0" in name or "\\" in name or posix.is_absolute() or windows.drive or ".." in posix.parts:
        raise SealError(f"{name!r}: not a path within the run")
    path = folder.joinpath(*posix.parts)
    if not path.is_file():
        raise SealError(f"{name}: missing")
    return path


def check_file(folder: Path, name: str, size: int | None, sha256: bytes) -> Path:
    """The path of a file that has this size (None: any) and digest.

    Raises:
        SealError: it has not, or cannot be read.
    """
    path = inside(folder, name)
    try:
        real = path.stat().st_size
        if size is not None and real != size:
            raise SealError(f"{name}: has {real} bytes, and {size} were signed")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise SealError(f"{name}: cannot be read: {error}") from error
    if digest != sha256:
        raise SealError(f"{name}: its SHA-256 is not the one that was signed")
    return path


def check_vendor_file(folder: Path, item: FileLeaf) -> None:
    """That a vendor's file is byte for byte what was adopted.

    Raises:
        SealError: it is not; the first piece of 8 MiB cannot be named, because only their root is signed.
    """
    path = check_file(folder, item.path, item.size, item.digest)
    frontier = Frontier()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            frontier.append(piece)
    if frontier.root() != item.root:
        raise SealError(f"{item.path}: its pieces are not those that were signed")
