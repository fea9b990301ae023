"""A file system in memory that forgets what was not synced: the model against which the record path is tested.

A file has the bytes that everybody sees and the bytes that are on the medium; a sync makes them equal, and so does a folder's sync with
its names. `Memory.after_power_loss` is what a power failure leaves: of everything that was not synced any part may have reached the
medium, in any order. A write may be torn at sectors, a longer file may hold zeros where its bytes should be, a new file may have no
name, an old name may still be there. Only one thing is promised beyond POSIX, as every journalling file system does: a rename happens
whole or not at all.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.errors import DiskError
from edge_agent.storage.contract import disk_error
from edge_agent.storage.file_object import FileObject

SECTOR = 512
_KEPT = (0.0, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class _Write:
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class _Cut:
    size: int


@dataclass(slots=True, eq=False)
class _Node:
    """A file: what is seen, what is on the medium, and the changes in between."""

    seen: bytearray = field(default_factory=bytearray)
    medium: bytes = b""
    changes: list[_Write | _Cut] = field(default_factory=list)

    def change(self, change: _Write | _Cut) -> None:
        _apply(self.seen, change)
        self.changes.append(change)

    def sync(self) -> None:
        self.medium = bytes(self.seen)
        self.changes.clear()

    def left(self, chance: random.Random) -> _Node:
        """What a power failure leaves of it."""
        data, kept, torn = bytearray(self.medium), chance.choice(_KEPT), chance.random() < 0.5
        for change in self.changes:
            if chance.random() < kept:
                _apply(data, change)
            elif torn and isinstance(change, _Write):
                for piece in _sectors(change):
                    if chance.random() < 0.5:
                        _apply(data, piece)
        return _Node(data, bytes(data))


_FOLDER = _Node()


@dataclass(frozen=True, slots=True)
class _Names:
    """Names that changed in one step; None: the name went."""

    changes: tuple[tuple[Path, _Node | None], ...]

    def touches(self, folder: Path) -> bool:
        return any(path.parent == folder for path, _ in self.changes)


class Memory:
    """See the module, and `Storage` for the methods. ``root`` is the folder that is there from the beginning."""

    def __init__(self, root: Path) -> None:
        """Empty but for ``root``."""
        self.root = root
        self._seen: dict[Path, _Node] = {root: _FOLDER}
        self._medium: dict[Path, _Node] = {root: _FOLDER}
        self._changes: list[_Names] = []
        self._open: dict[int, _Node] = {}
        self._next = 1000
        self._lock = threading.RLock()

    def after_power_loss(self, chance: random.Random) -> Memory:
        """Another file system that holds what a power failure now might leave; this one stays as it is."""
        with self._lock:
            left = Memory(self.root)
            names, kept = dict(self._medium), chance.choice(_KEPT)
            for change in self._changes:
                if chance.random() < kept:
                    _rename(names, change.changes)
            nodes = {node: node.left(chance) for node in dict.fromkeys(names.values()) if node is not _FOLDER}
            for path, node in names.items():
                if all(names.get(above) is _FOLDER for above in path.parents if above.is_relative_to(self.root)):
                    left._seen[path] = nodes.get(node, _FOLDER)
            left._medium = dict(left._seen)
            return left

    def after_kill(self) -> Memory:
        """Another file system that holds everything that was written: what SIGKILL leaves."""
        with self._lock:
            left = Memory(self.root)
            nodes = {node: _Node(bytearray(node.seen), bytes(node.seen)) for node in self._seen.values() if node is not _FOLDER}
            left._seen = {path: nodes.get(node, _FOLDER) for path, node in self._seen.items()}
            left._medium = dict(left._seen)
            return left

    def open_append(self, path: Path) -> int:
        """See `Storage`."""
        with self._lock:
            if path in self._seen:
                raise _refused(f"creating {path.name}", errno.EEXIST)
            if self._seen.get(path.parent) is not _FOLDER:
                raise _refused(f"creating {path.name}", errno.ENOENT)
            node = _Node()
            self._change((path, node))
            return self._descriptor(node)

    def open_random(self, path: Path) -> int:
        """See `Storage`."""
        return self.open_append(path)

    def reopen(self, path: Path) -> int:
        """See `Storage`."""
        with self._lock:
            return self._descriptor(self._file(path, "opening"))

    def close(self, fd: int) -> None:
        """See `Storage`."""
        with self._lock:
            del self._open[fd]

    def read(self, fd: int, offset: int, size: int) -> bytes:
        """See `Storage`."""
        with self._lock:
            return bytes(self._open[fd].seen[offset : offset + size])

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        """See `Storage`."""
        with self._lock:
            node = self._open[fd]
            node.change(_Write(len(node.seen), bytes(data)))

    def write_at(self, fd: int, offset: int, data: bytes | bytearray | memoryview) -> None:
        """See `Storage`."""
        with self._lock:
            self._open[fd].change(_Write(offset, bytes(data)))

    def sync_data(self, fd: int) -> None:
        """See `Storage`."""
        with self._lock:
            self._open[fd].sync()

    def begin_sync(self, fd: int, offset: int, size: int) -> None:
        """See `Storage`."""

    def let_go(self, fd: int, offset: int, size: int) -> None:
        """See `Storage`."""

    def preallocate(self, fd: int, size: int) -> bool:
        """See `Storage`."""
        return True

    def cut(self, fd: int, size: int) -> None:
        """See `Storage`."""
        with self._lock:
            self._open[fd].change(_Cut(size))

    def read_file(self, path: Path) -> bytes:
        """See `Storage`."""
        with self._lock:
            return bytes(self._file(path, "reading").seen)

    def size(self, path: Path) -> int:
        """See `Storage`."""
        with self._lock:
            return len(self._file(path, "looking at").seen)

    def exists(self, path: Path) -> bool:
        """See `Storage`. Folders above the root are there."""
        with self._lock:
            return path in self._seen or self.root.is_relative_to(path)

    def names(self, folder: Path) -> list[str]:
        """See `Storage`."""
        with self._lock:
            if self._seen.get(folder) is not _FOLDER:
                raise _refused(f"listing {folder.name}", errno.ENOENT)
            return sorted(path.name for path in self._seen if path.parent == folder and path != folder)

    def set_times(self, path: Path, accessed_ns: int, modified_ns: int) -> None:
        """See `Storage`. The model has no times."""

    def sync_file(self, path: Path) -> None:
        """See `Storage`."""
        with self._lock:
            self._file(path, "making durable").sync()

    def sync_folder(self, path: Path) -> None:
        """See `Storage`."""
        with self._lock:
            if not self.exists(path):
                raise _refused(f"opening the folder {path.name}", errno.ENOENT)
            for change in [each for each in self._changes if each.touches(path)]:
                _rename(self._medium, change.changes)
                self._changes.remove(change)

    def rename(self, source: Path, target: Path) -> None:
        """See `Storage`."""
        with self._lock:
            node = self._file(source, "renaming")
            if self._seen.get(target.parent) is not _FOLDER:
                raise _refused(f"renaming {source.name}", errno.ENOENT)
            self._change((source, None), (target, node))

    def unlink(self, path: Path) -> None:
        """See `Storage`."""
        with self._lock:
            if path in self._seen:
                self._file(path, "removing")
                self._change((path, None))

    def make_folder(self, path: Path) -> None:
        """See `Storage`."""
        with self._lock:
            if self.exists(path):
                return
            if self._seen.get(path.parent) is not _FOLDER:
                raise _refused(f"creating the folder {path.name}", errno.ENOENT)
            self._change((path, _FOLDER))

    def remove_folder(self, path: Path) -> None:
        """See `Storage`."""
        with self._lock:
            if self.names(path):
                raise _refused(f"removing the folder {path.name}", errno.ENOTEMPTY)
            self._change((path, None))

    def hdf5(self, path: Path, *, create: bool = False) -> FileObject:
        """See `Storage`."""
        return FileObject(self, path, create=create)

    def _change(self, *names: tuple[Path, _Node | None]) -> None:
        _rename(self._seen, names)
        self._changes.append(_Names(names))

    def _descriptor(self, node: _Node) -> int:
        self._next += 1
        self._open[self._next] = node
        return self._next

    def _file(self, path: Path, doing: str) -> _Node:
        node = self._seen.get(path)
        if node is None:
            raise _refused(f"{doing} {path.name}", errno.ENOENT)
        if node is _FOLDER:
            raise _refused(f"{doing} {path.name}", errno.EISDIR)
        return node


def _rename(names: dict[Path, _Node], changes: Iterable[tuple[Path, _Node | None]]) -> None:
    for path, node in changes:
        if node is None:
            names.pop(path, None)
        else:
            names[path] = node


def _apply(data: bytearray, change: _Write | _Cut) -> None:
    if isinstance(change, _Cut):
        del data[change.size :]
        data.extend(bytes(change.size - len(data)))
    elif change.data:
        data.extend(bytes(max(0, change.offset - len(data))))
        data[change.offset : change.offset + len(change.data)] = change.data


def _sectors(write: _Write) -> Iterable[_Write]:
    """The pieces of a write that a medium takes one by one."""
    position, end = write.offset, write.offset + len(write.data)
    while position < end:
        following = min(end, (position // SECTOR + 1) * SECTOR)
        yield _Write(position, write.data[position - write.offset : following - write.offset])
        position = following


def _refused(doing: str, number: int) -> DiskError:
    return disk_error(doing, OSError(number, os.strerror(number)))
