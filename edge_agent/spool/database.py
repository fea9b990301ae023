"""One SQLite file, one connection, one lock.

Invariants: WAL with ``synchronous=FULL``, so a committed transaction survives power loss; exclusive locking, so no
second connection (of this or another process) can ever write: in SQLite 3.7.0 to 3.51.2 two connections that write
and checkpoint at once can corrupt a WAL database. All methods may be called from any thread. A file that SQLite
refuses is set aside, never deleted, and a new one is begun (`Database.fresh`).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_agent.errors import DiskError

VERSION = 2
SCHEMA = """
CREATE TABLE items (
    item_no INTEGER PRIMARY KEY, item_id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, path TEXT NOT NULL, remote TEXT NOT NULL,
    size INTEGER NOT NULL, run_id BLOB NOT NULL, run_no INTEGER NOT NULL, project TEXT NOT NULL,
    access TEXT NOT NULL, allowed TEXT NOT NULL,
    segment_id BLOB NOT NULL, head_hash BLOB NOT NULL, sha256 BLOB, state TEXT NOT NULL, place TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '', added_ns INTEGER NOT NULL, changed_ns INTEGER NOT NULL);
CREATE INDEX items_by_run ON items(run_id);
CREATE INDEX items_by_state ON items(state) WHERE state IN ('held', 'evictable');
CREATE TABLE deliveries (
    item_no INTEGER NOT NULL REFERENCES items, target TEXT NOT NULL, required INTEGER NOT NULL, state TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '', attempts INTEGER NOT NULL DEFAULT 0, retry_ns INTEGER, changed_ns INTEGER NOT NULL,
    run_no INTEGER NOT NULL, rank INTEGER NOT NULL, run_id BLOB NOT NULL,
    proof TEXT, proof_sha256 BLOB, proof_size INTEGER, proof_ns INTEGER, proof_cose BLOB,
    proof_envelope TEXT, PRIMARY KEY (item_no, target));
CREATE INDEX waiting ON deliveries(target, run_no, rank, item_no) WHERE state IN ('sealed', 'sending');
CREATE INDEX unfinished ON deliveries(target, run_id, rank) WHERE state NOT IN ('proved', 'dropped', 'skipped');
CREATE TABLE item_counts (item_no INTEGER NOT NULL REFERENCES items, stream TEXT NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (item_no, stream)) WITHOUT ROWID;
CREATE TABLE tallies (key TEXT NOT NULL, stream TEXT NOT NULL, items INTEGER NOT NULL, lost INTEGER NOT NULL, gaps INTEGER NOT NULL,
    unknown INTEGER NOT NULL, unknown_ns INTEGER NOT NULL, ignored INTEGER NOT NULL, PRIMARY KEY (key, stream)) WITHOUT ROWID;
CREATE TABLE sums (stream TEXT PRIMARY KEY, items INTEGER NOT NULL DEFAULT 0, lost INTEGER NOT NULL DEFAULT 0,
    gaps INTEGER NOT NULL DEFAULT 0, unknown INTEGER NOT NULL DEFAULT 0, unknown_ns INTEGER NOT NULL DEFAULT 0,
    ignored INTEGER NOT NULL DEFAULT 0, landed INTEGER NOT NULL DEFAULT 0, spooled INTEGER NOT NULL DEFAULT 0,
    quarantined INTEGER NOT NULL DEFAULT 0, dropped INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE drops (drop_no INTEGER PRIMARY KEY, id TEXT NOT NULL, path TEXT NOT NULL, size INTEGER NOT NULL, why TEXT NOT NULL,
    reason TEXT NOT NULL, dropped_ns INTEGER NOT NULL);
CREATE TABLE adopted (stream TEXT NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    PRIMARY KEY (stream, name, size, mtime_ns)) WITHOUT ROWID;
CREATE TABLE sequences (source TEXT PRIMARY KEY, last TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE pairs (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""


class Database:
    """The connection. ``fresh`` says that the file was made now, so the files of the spool must be added again."""

    def __init__(self, path: Path, *, wait: float = 2.0) -> None:
        """Open or create ``path``; ``wait`` seconds for another process to let go.

        Raises:
            DiskError: another process holds it, a newer version wrote it, the disk refuses.
            sqlite3.DatabaseError: it is no database or is damaged; `open_or_set_aside` handles that.
        """
        self.path = path
        self.fresh = not path.exists()
        self._lock = threading.RLock()
        self._depth = 0
        self._db = sqlite3.connect(path, timeout=wait, isolation_level=None, check_same_thread=False)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        try:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            raise DiskError(
                "Another process has this spool open.",
                why=f"{self.path}: {error}",
                try_="stop the other agent (edge-agent status shows it), or give this one its own spool.dir",
                code="SPOOL_LOCKED",
            ) from error
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise DiskError(
                "The spool was written by a newer version of the agent.",
                why=f"{self.path}: schema {version}, this version knows {VERSION}",
                try_="install that version again, or let it empty the spool first",
                code="SPOOL_VERSION",
            )
        if version == 1:
            self._db.execute("ALTER TABLE deliveries ADD COLUMN proof_envelope TEXT")
            self._db.execute(f"PRAGMA user_version = {VERSION}")
        if version == 0:
            for statement in SCHEMA.split(";\n"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {VERSION}")
            self.fresh = True
        self._db.execute("COMMIT")
        findings = [row[0] for row in self._db.execute("PRAGMA quick_check(3)")]
        if findings != ["ok"]:
            raise sqlite3.DatabaseError("; ".join(findings))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, durable at the end of the outermost block; other threads wait."""
        with self._lock:
            if self._depth == 0:
                self._db.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
            except BaseException:
                self._depth -= 1
                if self._depth == 0:
                    self._db.execute("ROLLBACK")
                raise
            self._depth -= 1
            if self._depth == 0:
                self._commit()

    def _commit(self) -> None:
        try:
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def run(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Execute one statement in a transaction; returns the number of rows changed."""
        with self.transaction():
            return self._db.execute(sql, values).rowcount

    def mark(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Like `run`, for what a power failure may undo: it is on the disk with the next transaction, and never without those before."""
        with self._lock:
            if self._depth:
                return self.run(sql, values)
            self._db.execute("PRAGMA synchronous = NORMAL")
            try:
                return self.run(sql, values)
            finally:
                self._db.execute("PRAGMA synchronous = FULL")

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Execute one statement for each row in a transaction."""
        with self.transaction():
            self._db.executemany(sql, rows)

    def insert(self, sql: str, values: Sequence[Any]) -> int:
        """Execute one INSERT; returns the row number."""
        with self.transaction():
            return int(self._db.execute(sql, values).lastrowid or 0)

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def row(self, sql: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """The first row of a query."""
        with self._lock:
            row: tuple[Any, ...] | None = self._db.execute(sql, values).fetchone()
            return row

    def close(self) -> None:
        """Write the log back into the file and let go; callable twice."""
        with self._lock:
            self._db.close()
