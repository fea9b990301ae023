"""Looks at a folder: which regular files it holds, and what in it is refused. Blocking; runs in a worker thread.

Invariants: nothing is opened and no symbolic link is followed below the root; only regular files are files (no links, FIFOs,
sockets, devices); every entry that is refused comes with the reason; an entry that vanishes meanwhile is simply not there.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from adapters.files.names import BadName, travel_name
from adapters.files.patterns import Selection
from adapters.files.ready import ReadyFiles

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """A regular file as one look found it. ``name`` is the one it travels under; ``mtime_ns`` is UTC ns."""

    path: Path
    name: str
    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """An entry that is not taken; ``path`` as it stands on the disk, below the root."""

    path: str
    why: str


@dataclass(slots=True)
class Found:
    """What a folder holds; ``files`` by name."""

    files: dict[str, Seen] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)


class Eye:
    """Looks at one folder. ``root`` must be resolved: it is the only path whose links were followed."""

    def __init__(self, root: Path, selection: Selection, *, recursive: bool, ready: ReadyFiles | None = None) -> None:
        self.root = root
        self._selection = selection
        self._recursive = recursive
        self._ready = ready

    def check(self) -> None:
        """Raise OSError when the folder cannot be listed."""
        os.scandir(self.root).close()

    def scan(self) -> Found:
        """Look through the whole folder; raises OSError when the root cannot be listed."""
        found = Found()
        for relative, status in self._walk(found):
            seen = self._consider(relative, status)
            if isinstance(seen, Refusal):
                found.refusals.append(seen)
            elif seen is not None:
                self._add(found, seen)
        return found

    def look(self, path: Path) -> Seen | Refusal | None:
        """Look at one path; None when it is not there, not wanted or not ready."""
        try:
            relative = path.relative_to(self.root).as_posix()
        except ValueError:
            return None
        if not self._recursive and "/" in relative:
            return None
        try:
            if path.parent.resolve(strict=True) != path.parent:
                return Refusal(relative, "a folder above it is a symbolic link")
            return self._consider(relative, path.lstat())
        except FileNotFoundError:
            return None
        except OSError as e:
            return Refusal(relative, e.strerror or str(e))

    def data_paths(self, paths: Iterable[Path]) -> set[Path]:
        """The files that notices about ``paths`` are about: those that a ready file speaks of instead of itself."""
        ready = self._ready
        if ready is None:
            return set(paths)
        found: set[Path] = set()
        folders: dict[str, set[str]] = {}
        for path in paths:
            relative = path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else ""
            if relative and ready.is_one(relative):
                folders.setdefault(ready.folder_of(relative), set()).add(relative)
            else:
                found.add(path)
        for folder, said in folders.items():
            # What cannot be listed is found, or refused with the reason, when the whole folder is looked through.
            with contextlib.suppress(OSError):
                names = (f"{folder}/{name}".lstrip("/") for name in os.listdir(self.root / folder))
                found |= {self.root / name for name in names if ready.of(name) in said}
        return found

    def _walk(self, found: Found) -> Iterator[tuple[str, os.stat_result]]:
        """All entries but folders, as ``(path below the root, status)``."""
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(self.root / folder) as entries:
                    for entry in entries:
                        relative = folder + entry.name
                        try:
                            status = entry.stat(follow_symlinks=False)
                        except FileNotFoundError:
                            continue
                        if not stat.S_ISDIR(status.st_mode):
                            yield relative, status
                        elif self._recursive and not self._selection.excludes(relative):
                            folders.append(f"{relative}/")
            except OSError as e:
                if not folder:
                    raise
                if not isinstance(e, FileNotFoundError):
                    found.refusals.append(Refusal(folder, f"the folder cannot be listed: {e.strerror}"))

    def _add(self, found: Found, seen: Seen) -> None:
        """Two paths may have one name in NFC; the same one must win each time."""
        other = found.files.get(seen.name)
        if other is not None:
            seen, loser = (seen, other) if str(seen.path) < str(other.path) else (other, seen)
            why = f"another file has the name {seen.name!r} too; rename it"
            found.refusals.append(Refusal(loser.path.relative_to(self.root).as_posix(), why))
        found.files[seen.name] = seen

    def _consider(self, relative: str, status: os.stat_result) -> Seen | Refusal | None:
        if stat.S_ISDIR(status.st_mode) or not self._selection.wants(relative) or not self._is_ready(relative):
            return None
        if not stat.S_ISREG(status.st_mode):
            return Refusal(relative, f"it is {_KINDS.get(stat.S_IFMT(status.st_mode), 'no regular file')}; only regular files are taken")
        try:
            name = travel_name(relative)
        except BadName as e:
            return Refusal(relative, f"its name is refused: {e}; rename it")
        return Seen(self.root / relative, name, status.st_size, status.st_mtime_ns, status.st_ino)

    def _is_ready(self, relative: str) -> bool:
        if self._ready is None:
            return True
        ready = self._ready.of(relative)
        return ready is not None and os.path.lexists(self.root / ready)
