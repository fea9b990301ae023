"""A storage whose calls fail when told: errors, short writes, and the end of the process at a call.

Only calls that change the medium count (`CHANGING`); they are numbered from 1 in the order in which they come, so that a run which is the
same every time can be made to fail at each of them in turn. HDF5 goes through here as well.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edge_agent.storage.contract import Storage, disk_error
from edge_agent.storage.file_object import FileObject

T = TypeVar("T")

CHANGING = (
    "open_append", "open_random", "write", "write_at", "sync_data", "preallocate", "cut", "sync_file", "sync_folder", "rename",
    "unlink", "make_folder", "remove_folder",
)  # fmt: skip


class Crashed(BaseException):
    """The process ended at a call. Not an `Exception`: nothing that the product does about errors happens any more."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at call number ``at``, and at the ``times - 1`` ones after it.

    ``number`` is the error (`errno`), 0 for a crash. ``after``: the call is done before it fails; a write that is not done has taken
    half of its bytes, as a full disk takes what it can.
    """

    at: int
    number: int = 0
    after: bool = False
    times: int = 1

    def __str__(self) -> str:
        """For the message of a failing test."""
        what = errno.errorcode[self.number] if self.number else "crash"
        return f"{what} {'after' if self.after else 'at'} call {self.at}" + (f" and {self.times - 1} more" if self.times > 1 else "")


class Faults:
    """Another storage under a `Fault`. ``calls`` is what was done, as ``(method, name of the file)``."""

    def __init__(self, inner: Storage, fault: Fault | None = None) -> None:
        """Count, and fail when ``fault`` says so; it may be set later."""
        self._inner = inner
        self.fault = fault
        self.calls: list[tuple[str, str]] = []
        self.ended = False
        self._paths: dict[int, Path] = {}
        self._lock = threading.Lock()

    def open_append(self, path: Path) -> int:
        """See `Storage`."""
        return self._opened(path, self._do("open_append", path, lambda: self._inner.open_append(path)))

    def open_random(self, path: Path) -> int:
        """See `Storage`."""
        return self._opened(path, self._do("open_random", path, lambda: self._inner.open_random(path)))

    def reopen(self, path: Path) -> int:
        """See `Storage`."""
        self._alive()
        return self._opened(path, self._inner.reopen(path))

    def close(self, fd: int) -> None:
        """See `Storage`. Works after a crash too, because tests go on in the same process."""
        self._inner.close(fd)

    def read(self, fd: int, offset: int, size: int) -> bytes:
        """See `Storage`."""
        self._alive()
        return self._inner.read(fd, offset, size)

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        """See `Storage`."""
        self._do(
            "write", self._paths[fd], lambda: self._inner.write(fd, data), lambda: self._inner.write(fd, memoryview(data)[: len(data) // 2])
        )

    def write_at(self, fd: int, offset: int, data: bytes | bytearray | memoryview) -> None:
        """See `Storage`."""
        self._do(
            "write_at", self._paths[fd], lambda: self._inner.write_at(fd, offset, data),
            lambda: self._inner.write_at(fd, offset, memoryview(data)[: len(data) // 2]),
        )  # fmt: skip

    def sync_data(self, fd: int) -> None:
        """See `Storage`."""
        self._do("sync_data", self._paths[fd], lambda: self._inner.sync_data(fd))

    def begin_sync(self, fd: int, offset: int, size: int) -> None:
        """See `Storage`."""
        self._inner.begin_sync(fd, offset, size)

    def let_go(self, fd: int, offset: int, size: int) -> None:
        """See `Storage`."""
        self._do("let_go", self._paths[fd], lambda: self._inner.let_go(fd, offset, size))

    def preallocate(self, fd: int, size: int) -> bool:
        """See `Storage`."""
        return self._do("preallocate", self._paths[fd], lambda: self._inner.preallocate(fd, size))

    def cut(self, fd: int, size: int) -> None:
        """See `Storage`."""
        self._do("cut", self._paths[fd], lambda: self._inner.cut(fd, size))

    def read_file(self, path: Path) -> bytes:
        """See `Storage`."""
        self._alive()
        return self._inner.read_file(path)

    def size(self, path: Path) -> int:
        """See `Storage`."""
        self._alive()
        return self._inner.size(path)

    def exists(self, path: Path) -> bool:
        """See `Storage`."""
        self._alive()
        return self._inner.exists(path)

    def names(self, folder: Path) -> list[str]:
        """See `Storage`."""
        self._alive()
        return self._inner.names(folder)

    def set_times(self, path: Path, accessed_ns: int, modified_ns: int) -> None:
        """See `Storage`."""
        self._alive()
        self._inner.set_times(path, accessed_ns, modified_ns)

    def sync_file(self, path: Path) -> None:
        """See `Storage`."""
        self._do("sync_file", path, lambda: self._inner.sync_file(path))

    def sync_folder(self, path: Path) -> None:
        """See `Storage`."""
        self._do("sync_folder", path, lambda: self._inner.sync_folder(path))

    def rename(self, source: Path, target: Path) -> None:
        """See `Storage`."""
        self._do("rename", source, lambda: self._inner.rename(source, target))

    def unlink(self, path: Path) -> None:
        """See `Storage`."""
        self._do("unlink", path, lambda: self._inner.unlink(path))

    def make_folder(self, path: Path) -> None:
        """See `Storage`."""
        self._do("make_folder", path, lambda: self._inner.make_folder(path))

    def remove_folder(self, path: Path) -> None:
        """See `Storage`."""
        self._do("remove_folder", path, lambda: self._inner.remove_folder(path))

    def hdf5(self, path: Path, *, create: bool = False) -> FileObject:
        """See `Storage`."""
        return FileObject(self, path, create=create)

    def _do(self, kind: str, path: Path, call: Callable[[], T], half: Callable[[], object] = lambda: None) -> T:
        self._alive()
        with self._lock:
            self.calls.append((kind, path.name))
            fault, number = self.fault, len(self.calls)
        if fault is None or not fault.at <= number < fault.at + fault.times:
            return call()
        if fault.after:
            call()
        else:
            half()
        if fault.number == 0:
            self.ended = True
            raise Crashed(f"call {number}: {kind} {path.name}")
        raise disk_error(f"{kind} of {path.name}", OSError(fault.number, os.strerror(fault.number)))

    def _alive(self) -> None:
        if self.ended:
            raise Crashed

    def _opened(self, path: Path, fd: int) -> int:
        with self._lock:
            self._paths[fd] = path
        return fd
