"""Project spaces: checked bytes get their final name, once.

Invariants: a file appears under its name whole and synced or not at all; a name that is taken by other bytes is never
overwritten, but for ``.receipts``, which grow and are replaced atomically.
"""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

from landing.home import Home, make_folders, sync, sync_folder
from landing.store import clash
from landing.store.incoming import disk_errors, hash_file


class Space:
    """The folder of project spaces. Methods block; the caller lets one `place` run at a time."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def target(self, path: str) -> Path:
        """Where a remote path (checked by `edge_agent.wire.names`) is stored."""
        return self._home.space.joinpath(*path.split("/"))

    def free(self) -> int:
        """Bytes that the disk has left."""
        return shutil.disk_usage(self._home.space).free

    def size(self, path: str) -> int | None:
        """See `Store.size`; what is no file counts as nothing."""
        with disk_errors():
            try:
                found = self.target(path).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def place(self, part: Path, path: str, sha256: bytes, *, replace: bool) -> None:
        """Give ``part`` its final name.

        Args:
            part: the checked bytes.
            path: remote path.
            sha256: their digest.
            replace: whether other bytes under that name may be replaced.

        Raises:
            Refused: CLASH when the name is taken by other bytes or by a folder; FULL, TROUBLE.
        """
        target = self.target(path)
        with disk_errors():
            try:
                make_folders(target.parent, self._home.space)
            except (FileExistsError, NotADirectoryError) as error:
                raise clash(path, f"a part of the path is a file: {Path(error.filename).name}") from error
            if target.is_dir():
                raise clash(path, "it is a folder")
            if target.exists() and hash_file(target)[0] != sha256 and not replace:
                raise clash(path, "it holds other bytes")
            sync(part)
            part.replace(target)
            sync_folder(target.parent)
            sync_folder(part.parent)

    def make_durable(self, target: Path) -> None:
        """Sync a file that has its final name already, and the names that lead to it.

        Raises:
            Refused: TROUBLE.
        """
        with disk_errors():
            sync(target)
            for folder in target.parents:
                sync_folder(folder)
                if folder == self._home.space:
                    break
