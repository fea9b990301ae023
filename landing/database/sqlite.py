"""The catalogue's tables in one SQLite file, for one server.

One connection, WAL, ``synchronous=FULL``: when a block that writes is left, the rows survive a power cut. Other processes
(``token``, ``grant``) write to the same file.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from landing.database import Session, stopping, tables


class SqliteDatabase:
    """See `landing.database.Database`."""

    shared = False

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
        self._lock = threading.Lock()
        self._closed = False
        self._held: set[bytes] = set()
        self._freed = threading.Condition()
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        for sql in tables("BLOB", "INTEGER", "TEXT", "", " STRICT"):
            self._db.execute(sql)

    def close(self) -> None:
        """See `Database.close`."""
        with self._lock:
            self._closed = True
            self._db.close()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """See `Database.reading`."""
        with self._lock:
            if self._closed:
                raise stopping()
            yield self._db

    @contextmanager
    def writing(self, about: bytes = b"") -> Iterator[Session]:
        """See `Database.writing`; here all of them wait for one another."""
        with self.reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    @contextmanager
    def alone(self, about: bytes, *, wait: bool) -> Iterator[bool]:
        """See `Database.alone`; one server works in the file, so it is enough to look here."""
        with self._freed:
            if about in self._held and not wait:
                ours = False
            else:
                self._freed.wait_for(lambda: about not in self._held)
                self._held.add(about)
                ours = True
        try:
            yield ours
        finally:
            if ours:
                with self._freed:
                    self._held.discard(about)
                    self._freed.notify_all()
