"""The spool of one agent: a folder with ``spool.db``, ``quarantine/`` and the files that the recorder writes there.

One process at a time. If the database is damaged it is set aside and begun anew (`Spool.fresh`): then the caller
scans its files and calls ``outbox.rebuild``; targets are idempotent, so sending again does no harm.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import AbstractContextManager
from pathlib import Path

from edge_agent.errors import DiskError, EdgeAgentError
from edge_agent.model import utc_now_ns
from edge_agent.spool.database import Database
from edge_agent.spool.ledger import Ledger
from edge_agent.spool.outbox import Outbox
from edge_agent.spool.quarantine import Quarantine, set_aside
from edge_agent.spool.retention import Retention
from edge_agent.spool.state import State
from edge_agent.storage import DISK, Storage, durable

log = logging.getLogger(__name__)
DATABASE = "spool.db"
QUARANTINE = "quarantine"


class Spool:
    """All parts over one database. Every method of the parts is synchronous, durable when it returns, and safe from any thread."""

    def __init__(self, folder: Path, storage: Storage = DISK) -> None:
        """Open or create the spool in ``folder``.

        Raises:
            DiskError: another process has it, the disk refuses, or a newer version wrote it.
        """
        self.folder = folder.absolute()
        self.storage = storage
        aside = self.folder / QUARANTINE
        try:
            durable.make_folder(storage, aside)
        except DiskError as error:
            raise _not_opened(self.folder, error.why) from error
        try:
            self._db = self._open(self.folder / DATABASE, aside)
        except (OSError, sqlite3.Error) as error:
            raise _not_opened(self.folder, str(error)) from error
        self.state = State(self._db)
        self.ledger = Ledger(self._db)
        self.outbox = Outbox(self._db, self.ledger, self.state, self.folder)
        self.retention = Retention(self._db, self.outbox, storage)
        self.quarantine = Quarantine(self._db, self.outbox, self.retention, storage, aside)

    @property
    def fresh(self) -> bool:
        """The database was made by this opening, or is older than the files: they have to be scanned and added."""
        return self._db.fresh

    def is_older(self) -> None:
        """The files know more than the database: somebody put back an older one. It is `fresh` from now on."""
        log.warning("%s is older than the files beside it; what is missing is taken from them", DATABASE, extra={"code": "SPOOL_OLDER"})
        self._db.fresh = True

    def transaction(self) -> AbstractContextManager[None]:
        """Group calls of the parts: all or none is durable at the end, with one sync. Other threads wait meanwhile."""
        return self._db.transaction()

    def close(self) -> None:
        """Let go of the database; callable twice."""
        self._db.close()

    def _open(self, path: Path, aside: Path) -> Database:
        try:
            return Database(path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            home = aside / f"database-{utc_now_ns():016x}"
            # The database last: a new one must never find the log of the old one beside it.
            names = (f"{path.name}-wal", f"{path.name}-shm", path.name)
            damaged = _damaged(path, home, error)
            set_aside(self.storage, home, [each for name in names if (each := path.parent / name).exists()], str(damaged))
            log.warning("%s", damaged)
            return Database(path)


def _not_opened(folder: Path, why: str) -> EdgeAgentError:
    return DiskError(
        "The spool cannot be opened.",
        why=f"{folder}: {why}",
        try_="check that the disk is mounted, writable and not full (df, ls -ld)",
        code="SPOOL_OPEN",
    )


def _damaged(path: Path, home: Path, error: sqlite3.Error) -> EdgeAgentError:
    return DiskError(
        "The spool's database was damaged; a new one is made from the files.",
        why=f"{path}: {error}",
        try_=f"nothing to do for the data; the old one is kept at {home}; check the disk (smartctl, dmesg)",
        code="SPOOL_REBUILT",
    )
