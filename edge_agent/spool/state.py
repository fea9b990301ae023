"""What other rooms must remember across a restart: run numbers, adopted files, last counters, and small named values.

Invariant: what a method wrote is durable when it returns.
"""

from __future__ import annotations

from collections.abc import Mapping

from edge_agent.spool.database import Database

RUN_NO = "run-no"
UNDER = "SELECT key, value FROM pairs WHERE key >= ?1 AND key < ?1 || CAST(x'FF' AS TEXT) ORDER BY key"


class State:
    """Small durable tables in the spool's database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def next_run_no(self) -> int:
        """The next run's number: the last one plus 1, beginning with 1."""
        with self._db.transaction():
            number = self.last_run_no() + 1
            self.put(RUN_NO, str(number).encode())
            return number

    def last_run_no(self) -> int:
        """The highest number that was given out, 0 for none."""
        return int(self.get(RUN_NO) or b"0")

    def raise_run_no(self, at_least: int) -> None:
        """Never give out ``at_least`` or less again (numbers found in files or in the agent log)."""
        with self._db.transaction():
            if at_least > self.last_run_no():
                self.put(RUN_NO, str(at_least).encode())

    def remember_adopted(self, stream: str, name: str, size: int, mtime_ns: int) -> None:
        """Note that a vendor's file of this name, size and time was taken."""
        self._db.run("INSERT OR IGNORE INTO adopted VALUES (?, ?, ?, ?)", (stream, name, size, mtime_ns))

    def is_adopted(self, stream: str, name: str, size: int, mtime_ns: int) -> bool:
        """Whether it was."""
        found = self._db.row(
            "SELECT 1 FROM adopted WHERE stream = ? AND name = ? AND size = ? AND mtime_ns = ?", (stream, name, size, mtime_ns)
        )
        return found is not None

    def remember_seq(self, last: Mapping[str, int]) -> None:
        """Note the last counter value of each source (unsigned 64 bit)."""
        self._db.run_many("INSERT OR REPLACE INTO sequences VALUES (?, ?)", [(source, str(seq)) for source, seq in last.items()])

    def last_seqs(self) -> dict[str, int]:
        """The last counter value of every source."""
        return {source: int(last) for source, last in self._db.rows("SELECT source, last FROM sequences")}

    def get(self, key: str) -> bytes | None:
        """The value under a key."""
        row = self._db.row("SELECT value FROM pairs WHERE key = ?", (key,))
        return None if row is None else bytes(row[0])

    def put(self, key: str, value: bytes) -> None:
        """Set the value under a key."""
        self._db.run("INSERT OR REPLACE INTO pairs VALUES (?, ?)", (key, value))

    def delete(self, key: str) -> None:
        """Forget a key; no error when it is unknown."""
        self._db.run("DELETE FROM pairs WHERE key = ?", (key,))

    def under(self, prefix: str) -> dict[str, bytes]:
        """All pairs whose key begins with ``prefix``, sorted by key."""
        # As a range, which the key's index finds: there is a pair for each segment that waits. No text has the byte FF.
        rows = self._db.rows(UNDER, (prefix,))
        return {key: bytes(value) for key, value in rows}
