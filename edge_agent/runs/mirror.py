"""The book in files: small copies beside the database, from which it is made again when the database is lost.

One file a key, replaced by rename and durable when a method returns. A copy that cannot be read is left where it is and said.
"""

from __future__ import annotations

import logging
from pathlib import Path

from edge_agent.errors import DiskError
from edge_agent.storage import Storage, durable
from edge_agent.storage.durable import PART

log = logging.getLogger(__name__)


class Mirror:
    """Keys are those of the spool's state, as ``run/000001``."""

    def __init__(self, folder: Path, storage: Storage) -> None:
        """Use ``folder``; made when it is not there."""
        self._folder = folder
        self._storage = storage
        durable.make_folder(storage, folder)

    def put(self, key: str, data: bytes) -> None:
        """Write or replace a copy."""
        durable.replace_file(self._storage, self._path(key), data)

    def delete(self, key: str) -> None:
        """Remove a copy; no error when there is none."""
        self._storage.unlink(self._path(key))

    def keys(self) -> list[str]:
        """Keys of all copies, sorted."""
        return [name.replace("@", "/") for name in self._storage.names(self._folder) if not name.endswith(PART)]

    def get(self, key: str) -> bytes | None:
        """A copy; None when it cannot be read."""
        try:
            return self._storage.read_file(self._path(key))
        except DiskError as error:
            log.warning("%s cannot be read: %s", self._path(key), error)
            return None

    def items(self) -> dict[str, bytes]:
        """All copies by key."""
        found = {key: self.get(key) for key in self.keys()}
        return {key: data for key, data in found.items() if data is not None}

    def _path(self, key: str) -> Path:
        return self._folder / key.replace("/", "@")
