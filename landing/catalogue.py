"""What a landing service knows, in one SQLite file: agents, tokens, stored items, refusals, countersigned heads.

One connection, WAL, ``synchronous=FULL``: when a method that writes returns, the row survives a power cut. Other
processes (``token``, ``grant``) write to the same file. Once it is closed, whoever comes late (a request that was cut,
a connection that was being made) is refused with TROUBLE, which means: try again.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.model import ItemKind
from edge_agent.wire.refusal import Code, Refused

_SCHEMA = """
CREATE TABLE IF NOT EXISTS agents (agent_id BLOB PRIMARY KEY, identity BLOB NOT NULL, name TEXT NOT NULL, t_ns INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS projects (agent_id BLOB NOT NULL, project TEXT NOT NULL, PRIMARY KEY (agent_id, project)) STRICT;
CREATE TABLE IF NOT EXISTS tokens
    (secret BLOB PRIMARY KEY, projects TEXT NOT NULL, t_until INTEGER NOT NULL, used_by BLOB, t_used INTEGER) STRICT;
CREATE TABLE IF NOT EXISTS items
    (agent_id BLOB NOT NULL, item_id TEXT NOT NULL, kind TEXT NOT NULL, project TEXT NOT NULL, path TEXT NOT NULL, size INTEGER NOT NULL,
     sha256 BLOB NOT NULL, run_id BLOB NOT NULL, run_no INTEGER NOT NULL, level INTEGER, custody BLOB NOT NULL, t_ns INTEGER NOT NULL,
     PRIMARY KEY (agent_id, item_id)) STRICT;
CREATE INDEX IF NOT EXISTS items_by_path ON items (path);
CREATE TABLE IF NOT EXISTS refused
    (agent_id BLOB NOT NULL, item_id TEXT NOT NULL, refusal TEXT NOT NULL, t_ns INTEGER NOT NULL, PRIMARY KEY (agent_id, item_id)) STRICT;
CREATE TABLE IF NOT EXISTS heads
    (agent_id BLOB NOT NULL, log_id BLOB NOT NULL, size INTEGER NOT NULL, root BLOB NOT NULL, head BLOB NOT NULL, witness BLOB NOT NULL,
     PRIMARY KEY (agent_id, log_id, head)) STRICT;
CREATE TABLE IF NOT EXISTS restarts (agent_id BLOB NOT NULL, t_ns INTEGER NOT NULL, log_id BLOB, UNIQUE (agent_id, log_id)) STRICT;
"""

_RUN_FILES = "SELECT path, run_no, size, MAX(t_ns) FROM items WHERE project = ? GROUP BY path"
"""A path may be written again (``.receipts``): with ``GROUP BY path``, SQLite takes the other columns from the newest row."""


@dataclass(frozen=True, slots=True)
class Agent:
    """An enrolled agent: ``identity`` is its identity key as `algorithm.raw_public` has it."""

    agent_id: bytes
    identity: bytes
    name: str
    projects: frozenset[str]


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item in a project space, with the CUSTODY (COSE) that was signed for it."""

    agent_id: bytes
    item_id: str
    kind: ItemKind
    project: str
    path: str
    size: int
    sha256: bytes
    run_id: bytes
    run_no: int
    level: int | None
    custody: bytes
    t_ns: int


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A one-time token as it is stored; ``used_by`` None: not yet."""

    projects: tuple[str, ...]
    t_until: int
    used_by: bytes | None


@dataclass(frozen=True, slots=True)
class SeenHead:
    """A countersigned head of a log: its size and root, the hash of its payload, the WITNESS (COSE)."""

    size: int
    root: bytes
    head: bytes
    witness: bytes


@dataclass(frozen=True, slots=True)
class Run:
    """A run in a project space: ``path`` is its folder, ``t_ns`` when its last item came."""

    path: str
    run_no: int
    files: int
    size: int
    t_ns: int


class Catalogue:
    """The file. Methods are safe to call from several threads; after `close` they raise `Refused`: TROUBLE."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
        self._lock = threading.Lock()
        self._closed = False
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file, when nobody is in it."""
        with self._lock:
            self._closed = True
            self._db.close()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._closed:
                raise stopping()
            yield self._db

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    # ---- agents and tokens

    def agent(self, agent_id: bytes) -> Agent | None:
        """An agent, if it is enrolled."""
        with self._reading() as db:
            row = db.execute("SELECT identity, name FROM agents WHERE agent_id = ?", (agent_id,)).fetchone()
            projects = db.execute("SELECT project FROM projects WHERE agent_id = ?", (agent_id,)).fetchall()
        return None if row is None else Agent(agent_id, row[0], row[1], frozenset(p for (p,) in projects))

    def grant(self, agent_id: bytes, projects: tuple[str, ...]) -> None:
        """Let an agent write to more projects."""
        with self._writing() as db:
            db.executemany("INSERT OR IGNORE INTO projects VALUES (?, ?)", [(agent_id, project) for project in projects])

    def add_token(self, secret_hash: bytes, projects: tuple[str, ...], t_until: int) -> None:
        """Remember a token by the SHA-256 of its secret."""
        with self._writing() as db:
            db.execute("INSERT INTO tokens VALUES (?, ?, ?, NULL, NULL)", (secret_hash, "\n".join(projects), t_until))

    def token(self, secret_hash: bytes) -> TokenRow | None:
        """A token, if it was ever made."""
        with self._reading() as db:
            row = db.execute("SELECT projects, t_until, used_by FROM tokens WHERE secret = ?", (secret_hash,)).fetchone()
        return None if row is None else TokenRow(tuple(row[0].split("\n")), row[1], row[2])

    def enrol(self, secret_hash: bytes, agent: Agent, t_ns: int) -> bool:
        """Use a token up and enrol (or renew) the agent, in one transaction; False when somebody else used it first."""
        with self._writing() as db:
            used = db.execute(
                "UPDATE tokens SET used_by = ?, t_used = ? WHERE secret = ? AND used_by IS NULL", (agent.agent_id, t_ns, secret_hash)
            )
            if used.rowcount != 1:
                return False
            db.execute(
                "INSERT INTO agents VALUES (?, ?, ?, ?) ON CONFLICT (agent_id) DO UPDATE SET name = excluded.name",
                (agent.agent_id, agent.identity, agent.name, t_ns),
            )
            db.executemany("INSERT OR IGNORE INTO projects VALUES (?, ?)", [(agent.agent_id, project) for project in agent.projects])
        return True

    # ---- items

    def item(self, agent_id: bytes, item_id: str) -> StoredItem | None:
        """A stored item."""
        with self._reading() as db:
            row = db.execute("SELECT * FROM items WHERE agent_id = ? AND item_id = ?", (agent_id, item_id)).fetchone()
        return None if row is None else _stored(row)

    def store(self, item: StoredItem) -> None:
        """Remember a stored item; an earlier refusal of it is over."""
        with self._writing() as db:
            db.execute(
                "INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    item.agent_id, item.item_id, str(item.kind), item.project, item.path, item.size, item.sha256, item.run_id, item.run_no,
                    item.level, item.custody, item.t_ns,
                ),
            )  # fmt: skip
            db.execute("DELETE FROM refused WHERE agent_id = ? AND item_id = ?", (item.agent_id, item.item_id))

    def project_size(self, project: str) -> int:
        """Bytes that a project holds."""
        with self._reading() as db:
            rows = db.execute(_RUN_FILES, (project,)).fetchall()
        return sum(size for _, _, size, _ in rows)

    def runs(self, projects: frozenset[str]) -> list[Run]:
        """The runs of some projects, by path."""
        with self._reading() as db:
            rows = [row for project in sorted(projects) for row in db.execute(_RUN_FILES, (project,))]
        runs: dict[str, Run] = {}
        for path, run_no, size, t_ns in rows:
            folder = "/".join(path.split("/")[:4])
            old = runs.get(folder, Run(folder, run_no, 0, 0, 0))
            runs[folder] = Run(folder, run_no, old.files + 1, old.size + size, max(old.t_ns, t_ns))
        return [runs[folder] for folder in sorted(runs)]

    def files(self, folder: str) -> list[StoredItem]:
        """The newest item of each path below a folder, by path."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT * FROM items WHERE path >= ? AND path < ? ORDER BY path, t_ns", (folder + "/", folder + "0")
            ).fetchall()
        newest = {row[4]: _stored(row) for row in rows}
        return list(newest.values())

    def refuse(self, agent_id: bytes, item_id: str, refusal_json: str, t_ns: int) -> None:
        """Remember why an item was refused."""
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO refused VALUES (?, ?, ?, ?)", (agent_id, item_id, refusal_json, t_ns))

    def refusal(self, agent_id: bytes, item_id: str) -> str | None:
        """The JSON of an item's refusal."""
        with self._reading() as db:
            row = db.execute("SELECT refusal FROM refused WHERE agent_id = ? AND item_id = ?", (agent_id, item_id)).fetchone()
        return None if row is None else str(row[0])

    def forget_refusal(self, agent_id: bytes, item_id: str) -> None:
        """The item is sent again: its refusal is over."""
        with self._writing() as db:
            db.execute("DELETE FROM refused WHERE agent_id = ? AND item_id = ?", (agent_id, item_id))

    # ---- heads

    def last_head(self, agent_id: bytes, log_id: bytes) -> SeenHead | None:
        """The largest head of a log that was countersigned."""
        with self._reading() as db:
            row = db.execute(
                "SELECT size, root, head, witness FROM heads WHERE agent_id = ? AND log_id = ? ORDER BY size DESC, rowid DESC LIMIT 1",
                (agent_id, log_id),
            ).fetchone()
        return None if row is None else SeenHead(*row)

    def head(self, agent_id: bytes, log_id: bytes, head: bytes) -> SeenHead | None:
        """A countersigned head by the hash of its payload."""
        with self._reading() as db:
            row = db.execute(
                "SELECT size, root, head, witness FROM heads WHERE agent_id = ? AND log_id = ? AND head = ?", (agent_id, log_id, head)
            ).fetchone()
        return None if row is None else SeenHead(*row)

    def current_log(self, agent_id: bytes) -> bytes | None:
        """The log that an agent may go on with: the last one that was approved, else the first one that was seen."""
        with self._lock:
            row = self._db.execute(
                "SELECT log_id FROM restarts WHERE agent_id = ? AND log_id IS NOT NULL ORDER BY rowid DESC LIMIT 1", (agent_id,)
            ).fetchone() or self._db.execute("SELECT log_id FROM heads WHERE agent_id = ? ORDER BY rowid LIMIT 1", (agent_id,)).fetchone()
        return None if row is None else bytes(row[0])

    def approve_restart(self, agent_id: bytes, t_ns: int) -> None:
        """The owner lets an agent begin one new log; a second word before it was used adds nothing."""
        with self._writing() as db:
            if db.execute("SELECT 1 FROM restarts WHERE agent_id = ? AND log_id IS NULL", (agent_id,)).fetchone() is None:
                db.execute("INSERT INTO restarts VALUES (?, ?, NULL)", (agent_id, t_ns))

    def restart_approved(self, agent_id: bytes) -> bool:
        """Whether an approval waits to be used."""
        with self._lock:
            row = self._db.execute("SELECT 1 FROM restarts WHERE agent_id = ? AND log_id IS NULL", (agent_id,)).fetchone()
        return row is not None

    def use_restart(self, agent_id: bytes, log_id: bytes) -> None:
        """Use the approval up for a log, which is the current one from now on."""
        with self._writing() as db:
            db.execute("UPDATE restarts SET log_id = ? WHERE agent_id = ? AND log_id IS NULL", (log_id, agent_id))

    def add_head(self, agent_id: bytes, log_id: bytes, seen: SeenHead) -> None:
        """Remember a head; durable when this returns."""
        with self._writing() as db:
            db.execute("INSERT INTO heads VALUES (?, ?, ?, ?, ?, ?)", (agent_id, log_id, seen.size, seen.root, seen.head, seen.witness))


def stopping() -> Refused:
    """What everybody is told who comes while the service stops, or after."""
    return Refused(Code.TROUBLE, "The landing service is stopping", why="it takes nothing more", try_="try again when it is back")


def _stored(row: Sequence[Any]) -> StoredItem:
    values = list(row)
    values[2] = ItemKind(values[2])
    return StoredItem(*values)
