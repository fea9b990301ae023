"""What a landing service knows, in tables of a `Database`: agents, tokens, stored items, refusals, countersigned heads.

When a method that writes returns, the row survives a power cut. Once it is closed, whoever comes late (a request that was
cut, a connection that was being made) is refused with TROUBLE, which means: try again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from edge_agent.model import Access, ItemKind, Label
from landing.database import Database, Session

_REFUSE = """
INSERT INTO refused VALUES (?, ?, ?, ?)
ON CONFLICT (agent_id, item_id) DO UPDATE SET refusal = excluded.refusal, t_ns = excluded.t_ns"""
_AGENT = """
SELECT agents.identity, agents.name, revoked.t_ns FROM agents
LEFT JOIN revoked ON revoked.agent_id = agents.agent_id WHERE agents.agent_id = ?"""
_RUN_FILES = """
SELECT path, run_no, size, t_ns FROM (
    SELECT path, run_no, size, t_ns, ROW_NUMBER() OVER (PARTITION BY path ORDER BY t_ns DESC, rowid DESC) AS nth
    FROM items WHERE project = ?) AS known
WHERE nth = 1"""
"""A path may be written again (``.receipts``): what counts is the newest row."""


_COLUMNS = ("agent_id", "item_id", "kind", "project", "path", "size", "sha256", "run_id", "run_no", "level", "custody", "t_ns")
_WITH_LABELS = "FROM items LEFT JOIN labels ON labels.agent_id = items.agent_id AND labels.item_id = items.item_id"
_LABELLED = f"""
SELECT {", ".join(f"items.{name}" for name in _COLUMNS)}, labels.access, labels.allowed {_WITH_LABELS}
WHERE items.path >= ? AND items.path <= ? ORDER BY items.path, items.t_ns, items.rowid"""
_NAMES = "SELECT DISTINCT path FROM items WHERE path > ? AND path < ? ORDER BY path LIMIT ?"
_SORTS = f"""
SELECT kind, run_id, access, allowed, COUNT(*), MIN(path) FROM (
    SELECT items.kind, items.run_id, items.path, labels.access, labels.allowed,
    ROW_NUMBER() OVER (PARTITION BY items.path ORDER BY items.t_ns DESC, items.rowid DESC) AS nth {_WITH_LABELS}
    WHERE items.path >= ? AND items.path < ?) AS known
WHERE nth = 1 GROUP BY kind, run_id, access, allowed"""  # noqa: S608 - a constant


@dataclass(frozen=True, slots=True)
class Agent:
    """An enrolled agent: ``identity`` is its identity key as `algorithm.raw_public` has it."""

    agent_id: bytes
    identity: bytes
    name: str
    projects: frozenset[str]
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class Revocation:
    """An agent was shut out: why, for the operator; the KEY_COMPROMISED (COSE) that was signed, for everybody."""

    agent_id: bytes
    reason: str
    t_ns: int
    statement: bytes


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
class Sort:
    """The files of a folder that are of one kind, run and label (None: stored before there were any): how many, the first by path."""

    kind: ItemKind
    run_id: bytes
    label: Label | None
    files: int
    first: str


@dataclass(frozen=True, slots=True)
class LaterLabel:
    """What somebody who may decide it said of a run's label after it landed: who, why, when."""

    run_id: bytes
    access: Access
    author: str
    reason: str
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
    """The tables. Methods block, and are safe to call from several threads; after `close` they raise `Refused`: TROUBLE."""

    def __init__(self, database: Database) -> None:
        self._db = self.database = database

    def close(self) -> None:
        """Close the database, when nobody is in it."""
        self._db.close()

    def alone(self, about: bytes, *, wait: bool) -> AbstractContextManager[bool]:
        """See `landing.database.Database.alone`."""
        return self._db.alone(about, wait=wait)

    # ---- agents and tokens

    def agent(self, agent_id: bytes) -> Agent | None:
        """An agent, if it is enrolled."""
        with self._db.reading() as db:
            row = db.execute(_AGENT, (agent_id,)).fetchone()
            projects = db.execute("SELECT project FROM projects WHERE agent_id = ?", (agent_id,)).fetchall()
        return None if row is None else Agent(agent_id, row[0], row[1], frozenset(p for (p,) in projects), row[2] is not None)

    def agents(self) -> list[Agent]:
        """Everybody who was ever enrolled, in the order of enrolment."""
        with self._db.reading() as db:
            found = db.execute("SELECT agent_id FROM agents ORDER BY t_ns, agent_id").fetchall()
        return [agent for (agent_id,) in found if (agent := self.agent(bytes(agent_id))) is not None]

    def revoke(self, revocation: Revocation) -> Revocation:
        """Shut an agent out; what stands there then, which is the first word."""
        with self._db.writing(revocation.agent_id) as db:
            db.execute(
                "INSERT INTO revoked VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (revocation.agent_id, revocation.reason, revocation.t_ns, revocation.statement),
            )
            row = db.execute("SELECT * FROM revoked WHERE agent_id = ?", (revocation.agent_id,)).fetchone()
        return Revocation(*row)

    def revocations(self) -> list[Revocation]:
        """Everybody who was shut out, in that order."""
        with self._db.reading() as db:
            return [Revocation(*row) for row in db.execute("SELECT * FROM revoked ORDER BY t_ns, agent_id").fetchall()]

    def key_is_revoked(self, identity: bytes) -> bool:
        """Whether an agent with this identity key was shut out."""
        with self._db.reading() as db:
            sql = "SELECT 1 FROM revoked JOIN agents ON agents.agent_id = revoked.agent_id WHERE agents.identity = ?"
            return db.execute(sql, (identity,)).fetchone() is not None

    def grant(self, agent_id: bytes, projects: tuple[str, ...]) -> None:
        """Let an agent write to more projects."""
        with self._db.writing(agent_id) as db:
            _grant(db, agent_id, projects)

    def add_token(self, secret_hash: bytes, projects: tuple[str, ...], t_until: int) -> None:
        """Remember a token by the SHA-256 of its secret."""
        with self._db.writing(secret_hash) as db:
            db.execute("INSERT INTO tokens VALUES (?, ?, ?, NULL, NULL)", (secret_hash, "\n".join(projects), t_until))

    def token(self, secret_hash: bytes) -> TokenRow | None:
        """A token, if it was ever made."""
        with self._db.reading() as db:
            row = db.execute("SELECT projects, t_until, used_by FROM tokens WHERE secret = ?", (secret_hash,)).fetchone()
        return None if row is None else TokenRow(tuple(row[0].split("\n")), row[1], row[2])

    def enrol(self, secret_hash: bytes, agent: Agent, t_ns: int) -> bool:
        """Use a token up and enrol (or renew) the agent, in one transaction; False when somebody else used it first."""
        with self._db.writing(agent.agent_id) as db:
            used = db.execute(
                "UPDATE tokens SET used_by = ?, t_used = ? WHERE secret = ? AND used_by IS NULL", (agent.agent_id, t_ns, secret_hash)
            )
            if used.rowcount != 1:
                return False
            db.execute(
                "INSERT INTO agents VALUES (?, ?, ?, ?) ON CONFLICT (agent_id) DO UPDATE SET name = excluded.name",
                (agent.agent_id, agent.identity, agent.name, t_ns),
            )
            _grant(db, agent.agent_id, agent.projects)
        return True

    # ---- items

    def item(self, agent_id: bytes, item_id: str) -> StoredItem | None:
        """A stored item."""
        with self._db.reading() as db:
            row = db.execute("SELECT * FROM items WHERE agent_id = ? AND item_id = ?", (agent_id, item_id)).fetchone()
        return None if row is None else _stored(row)

    def store(self, item: StoredItem, label: Label | None = None) -> None:
        """Remember a stored item and its label; an earlier refusal of it is over."""
        with self._db.writing(item.agent_id) as db:
            db.execute(
                "INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (agent_id, item_id) DO NOTHING",
                (
                    item.agent_id, item.item_id, str(item.kind), item.project, item.path, item.size, item.sha256, item.run_id, item.run_no,
                    item.level, item.custody, item.t_ns,
                ),
            )  # fmt: skip
            if label is not None:
                db.execute(
                    "INSERT INTO labels VALUES (?, ?, ?, ?) ON CONFLICT (agent_id, item_id) DO NOTHING",
                    (item.agent_id, item.item_id, str(label.access), "\n".join(sorted(label.allowed))),
                )
            db.execute("DELETE FROM refused WHERE agent_id = ? AND item_id = ?", (item.agent_id, item.item_id))

    def forget_item(self, item: StoredItem) -> None:
        """An item is no longer where it was stored: forget it and its label, unless it was stored again meanwhile."""
        with self._db.writing(item.agent_id) as db:
            key = (item.agent_id, item.item_id)
            if db.execute("DELETE FROM items WHERE agent_id = ? AND item_id = ? AND t_ns = ?", (*key, item.t_ns)).rowcount:
                db.execute("DELETE FROM labels WHERE agent_id = ? AND item_id = ?", key)

    def project_size(self, project: str) -> int:
        """Bytes that a project holds."""
        with self._db.reading() as db:
            rows = db.execute(_RUN_FILES, (project,)).fetchall()
        return sum(size for _, _, size, _ in rows)

    def runs(self, projects: frozenset[str]) -> list[Run]:
        """The runs of some projects, by path."""
        with self._db.reading() as db:
            rows = [row for project in sorted(projects) for row in db.execute(_RUN_FILES, (project,)).fetchall()]
        runs: dict[str, Run] = {}
        for path, run_no, size, t_ns in rows:
            folder = "/".join(path.split("/")[:4])
            old = runs.get(folder, Run(folder, run_no, 0, 0, 0))
            runs[folder] = Run(folder, run_no, old.files + 1, old.size + size, max(old.t_ns, t_ns))
        return [runs[folder] for folder in sorted(runs)]

    def files(self, folder: str) -> list[StoredItem]:
        """The newest item of each path below a folder, by path."""
        with self._db.reading() as db:
            rows = db.execute(
                "SELECT * FROM items WHERE path >= ? AND path < ? ORDER BY path, t_ns, rowid", (folder + "/", folder + "0")
            ).fetchall()
        newest = {row[4]: _stored(row) for row in rows}
        return list(newest.values())

    def sorts(self, folder: str) -> list[Sort]:
        """What is below a folder, counted by kind, run and label; of each path the newest item."""
        with self._db.reading() as db:
            rows = db.execute(_SORTS, (folder + "/", folder + "0")).fetchall()
        return [Sort(ItemKind(kind), bytes(run), _label(*label), files, first) for kind, run, *label, files, first in rows]

    def labelled(self, folder: str, after: str, most: int) -> list[tuple[StoredItem, Label | None]]:
        """As `files`, each with its label: the first ``most`` whose names come after ``after`` ("": from the beginning)."""
        with self._db.reading() as db:
            names = db.execute(_NAMES, (f"{folder}/{after}", folder + "0", most)).fetchall()
            rows = db.execute(_LABELLED, (names[0][0], names[-1][0])).fetchall() if names else []
        return list({row[4]: (_stored(row), _label(row[12], row[13])) for row in rows}.values())

    def at(self, path: str) -> tuple[StoredItem, Label | None] | None:
        """The newest item of one path, with its label."""
        with self._db.reading() as db:
            rows = db.execute(_LABELLED, (path, path)).fetchall()
        return (_stored(rows[-1]), _label(rows[-1][12], rows[-1][13])) if rows else None

    def folder_of(self, run_id: bytes) -> str | None:
        """Where the crate of a run came last."""
        with self._db.reading() as db:
            row = db.execute(
                "SELECT path FROM items WHERE run_id = ? AND kind = ? ORDER BY t_ns DESC, rowid DESC LIMIT 1", (run_id, str(ItemKind.CRATE))
            ).fetchone()
        return None if row is None else str(row[0]).rpartition("/")[0]

    def say_later(self, word: LaterLabel) -> None:
        """Remember what somebody said of a run's label after it landed; what was said before stays on record."""
        with self._db.writing(word.run_id) as db:
            values = (word.run_id, str(word.access), word.author, word.reason, word.t_ns)
            db.execute("INSERT INTO said_later (run_id, access, author, reason, t_ns) VALUES (?, ?, ?, ?, ?)", values)

    def said_later(self, run_id: bytes) -> LaterLabel | None:
        """The newest word on the label of a run that landed; None: the labels that it came with count."""
        with self._db.reading() as db:
            sql = "SELECT run_id, access, author, reason, t_ns FROM said_later WHERE run_id = ? ORDER BY t_ns DESC, rowid DESC LIMIT 1"
            row = db.execute(sql, (run_id,)).fetchone()
        return None if row is None else LaterLabel(bytes(row[0]), Access(row[1]), *row[2:])

    def refuse(self, agent_id: bytes, item_id: str, refusal_json: str, t_ns: int) -> None:
        """Remember why an item was refused."""
        with self._db.writing(agent_id) as db:
            db.execute(_REFUSE, (agent_id, item_id, refusal_json, t_ns))

    def refusal(self, agent_id: bytes, item_id: str) -> str | None:
        """The JSON of an item's refusal."""
        with self._db.reading() as db:
            row = db.execute("SELECT refusal FROM refused WHERE agent_id = ? AND item_id = ?", (agent_id, item_id)).fetchone()
        return None if row is None else str(row[0])

    def forget_refusal(self, agent_id: bytes, item_id: str) -> None:
        """The item is sent again: its refusal is over."""
        with self._db.writing(agent_id) as db:
            db.execute("DELETE FROM refused WHERE agent_id = ? AND item_id = ?", (agent_id, item_id))

    # ---- heads

    def last_head(self, agent_id: bytes, log_id: bytes) -> SeenHead | None:
        """The largest head of a log that was countersigned."""
        with self._db.reading() as db:
            row = db.execute(
                "SELECT size, root, head, witness FROM heads WHERE agent_id = ? AND log_id = ? ORDER BY size DESC, rowid DESC LIMIT 1",
                (agent_id, log_id),
            ).fetchone()
        return None if row is None else SeenHead(*row)

    def last_heads(self, agent_id: bytes) -> list[tuple[bytes, SeenHead]]:
        """Id and largest countersigned head of each log of an agent."""
        with self._db.reading() as db:
            logs = db.execute("SELECT DISTINCT log_id FROM heads WHERE agent_id = ? ORDER BY log_id", (agent_id,)).fetchall()
        return [(bytes(log), seen) for (log,) in logs if (seen := self.last_head(agent_id, bytes(log))) is not None]

    def head(self, agent_id: bytes, log_id: bytes, head: bytes) -> SeenHead | None:
        """A countersigned head by the hash of its payload."""
        with self._db.reading() as db:
            row = db.execute(
                "SELECT size, root, head, witness FROM heads WHERE agent_id = ? AND log_id = ? AND head = ?", (agent_id, log_id, head)
            ).fetchone()
        return None if row is None else SeenHead(*row)

    def current_log(self, agent_id: bytes) -> bytes | None:
        """The log that an agent may go on with: the last one that was approved, else the first one that was seen."""
        with self._db.reading() as db:
            row = (
                db.execute(
                    "SELECT log_id FROM restarts WHERE agent_id = ? AND log_id IS NOT NULL ORDER BY rowid DESC LIMIT 1", (agent_id,)
                ).fetchone()
                or db.execute("SELECT log_id FROM heads WHERE agent_id = ? ORDER BY rowid LIMIT 1", (agent_id,)).fetchone()
            )
        return None if row is None else bytes(row[0])

    def approve_restart(self, agent_id: bytes, t_ns: int) -> None:
        """The owner lets an agent begin one new log; a second word before it was used adds nothing."""
        with self._db.writing(agent_id) as db:
            if db.execute("SELECT 1 FROM restarts WHERE agent_id = ? AND log_id IS NULL", (agent_id,)).fetchone() is None:
                db.execute("INSERT INTO restarts VALUES (?, ?, NULL)", (agent_id, t_ns))

    def restart_approved(self, agent_id: bytes) -> bool:
        """Whether an approval waits to be used."""
        with self._db.reading() as db:
            row = db.execute("SELECT 1 FROM restarts WHERE agent_id = ? AND log_id IS NULL", (agent_id,)).fetchone()
        return row is not None

    def use_restart(self, agent_id: bytes, log_id: bytes) -> None:
        """Use the approval up for a log, which is the current one from now on."""
        with self._db.writing(agent_id) as db:
            db.execute("UPDATE restarts SET log_id = ? WHERE agent_id = ? AND log_id IS NULL", (log_id, agent_id))

    def add_head(self, agent_id: bytes, log_id: bytes, seen: SeenHead) -> None:
        """Remember a head; durable when this returns."""
        with self._db.writing(agent_id) as db:
            db.execute("INSERT INTO heads VALUES (?, ?, ?, ?, ?, ?)", (agent_id, log_id, seen.size, seen.root, seen.head, seen.witness))


def _grant(db: Session, agent_id: bytes, projects: Iterable[str]) -> None:
    for project in projects:
        db.execute("INSERT INTO projects VALUES (?, ?) ON CONFLICT DO NOTHING", (agent_id, project))


def _label(access: str | None, allowed: str | None) -> Label | None:
    return None if access is None else Label(Access(access), frozenset((allowed or "").split("\n")) - {""})


def _stored(row: Sequence[Any]) -> StoredItem:
    values = list(row[:12])  # PostgreSQL has a column rowid behind them
    values[2] = ItemKind(values[2])
    return StoredItem(*values)
