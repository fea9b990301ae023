"""The book in files: small copies beside the database, from which it is made again when the database is lost.

One file a key, replaced by rename and durable when a method returns. A copy that cannot be read is left where it is and said.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

PART = ".part"


class Mirror:
    """Keys are those of the spool's state, as ``run/000001``."""

    def __init__(self, folder: Path) -> None:
        """Use ``folder``; made when it is not there."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, key: str, data: bytes) -> None:
        """Write or replace a copy."""
        path = self._path(key)
        part = path.with_name(path.name + PART)
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        self._sync()

    def delete(self, key: str) -> None:
        """Remove a copy; no error when there is none."""
        self._path(key).unlink(missing_ok=True)

    def items(self) -> dict[str, bytes]:
        """All copies by key."""
        found = {}
        for path in sorted(self._folder.iterdir()):
            if not path.name.endswith(PART):
                try:
                    found[path.name.replace("@", "/")] = path.read_bytes()
                except OSError as error:
                    log.warning("%s cannot be read: %s", path, error)
        return found

    def _path(self, key: str) -> Path:
        return self._folder / key.replace("/", "@")

    def _sync(self) -> None:
        if os.name != "nt":
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
