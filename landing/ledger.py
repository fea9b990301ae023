"""Uploads on their way in, in tables of a `Database`: for stores whose objects cannot grow.

An upload is made of pieces, each an object of the store. Invariants: a piece is in the ledger only after its object is durable; ``have``
counts the bytes from the beginning on without a hole, whoever brought the pieces, and in whatever order; pieces may overlap, since all of
them are parts of the same file.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.model import utc_now_ns
from landing.database import Database, Session

_RESTING = """
SELECT uploads.agent_id, uploads.item_id FROM uploads
JOIN touched ON touched.agent_id = uploads.agent_id AND touched.item_id = uploads.item_id WHERE touched.t_ns < ?"""


@dataclass(frozen=True, slots=True)
class StoredPiece:
    """``size`` bytes at ``at`` of an upload, in the object ``key``."""

    at: int
    size: int
    key: str


class Ledger:
    """Methods block; all of them may raise `Refused`: TROUBLE."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def begin(self, agent_id: bytes, item_id: str, header: bytes) -> None:
        """Begin an upload, or begin it anew: pieces that it had do not count any more."""
        with self._db.writing(_about(agent_id, item_id)) as db:
            _drop(db, agent_id, item_id)
            db.execute("INSERT INTO uploads VALUES (?, ?, ?, 0)", (agent_id, item_id, header))
            _touch(db, agent_id, item_id)

    def note(self, agent_id: bytes, item_id: str, header: bytes) -> None:
        """Write down what is known of an upload now."""
        with self._db.writing(_about(agent_id, item_id)) as db:
            db.execute("UPDATE uploads SET header = ? WHERE agent_id = ? AND item_id = ?", (header, agent_id, item_id))

    def header(self, agent_id: bytes, item_id: str) -> bytes | None:
        """What was announced for an upload."""
        with self._db.reading() as db:
            row = db.execute("SELECT header FROM uploads WHERE agent_id = ? AND item_id = ?", (agent_id, item_id)).fetchone()
        return None if row is None else bytes(row[0])

    def have(self, agent_id: bytes, item_id: str) -> int | None:
        """Bytes from the beginning on; None: no such upload."""
        with self._db.reading() as db:
            return _have(db, agent_id, item_id)

    def add(self, agent_id: bytes, item_id: str, piece: StoredPiece) -> tuple[int | None, bool]:
        """Count a piece in.

        Returns:
            What `have` says now, and whether the piece was taken: not when all of it was here, or the upload is over.
        """
        with self._db.writing(_about(agent_id, item_id)) as db:
            have = _have(db, agent_id, item_id)
            if have is None or piece.at + piece.size <= have:
                return have, False
            made = db.execute(
                "INSERT INTO pieces VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", (agent_id, item_id, piece.at, piece.size, piece.key)
            )
            _touch(db, agent_id, item_id)
            if piece.at <= have:
                have = _reach(_pieces(db, agent_id, item_id), have)
                db.execute("UPDATE uploads SET have = ? WHERE agent_id = ? AND item_id = ?", (have, agent_id, item_id))
            return have, made.rowcount == 1

    def pieces(self, agent_id: bytes, item_id: str) -> list[StoredPiece]:
        """All pieces, by where they begin."""
        with self._db.reading() as db:
            return _pieces(db, agent_id, item_id)

    def end(self, agent_id: bytes, item_id: str) -> None:
        """The upload is over."""
        with self._db.writing(_about(agent_id, item_id)) as db:
            _drop(db, agent_id, item_id)

    def headers(self, agent_id: bytes) -> list[bytes]:
        """What was announced for the uploads of an agent that are not over."""
        with self._db.reading() as db:
            rows = db.execute("SELECT header FROM uploads WHERE agent_id = ? ORDER BY item_id", (agent_id,)).fetchall()
        return [bytes(header) for (header,) in rows]

    def resting(self, before_ns: int) -> list[tuple[bytes, str]]:
        """Uploads that have taken nothing since ``before_ns``; for those that are older than this record, it begins now."""
        with self._db.writing(b"resting") as db:
            db.execute(
                "INSERT INTO touched SELECT agent_id, item_id, ? FROM uploads WHERE true ON CONFLICT DO NOTHING", (utc_now_ns(),)
            )
            rows = db.execute(_RESTING, (before_ns,)).fetchall()
        return [(bytes(agent_id), str(item_id)) for agent_id, item_id in rows]

    def end_resting(self, agent_id: bytes, item_id: str, before_ns: int) -> bool:
        """The upload is over, if it has taken nothing since ``before_ns``; whether it is."""
        with self._db.writing(_about(agent_id, item_id)) as db:
            sql = "SELECT 1 FROM touched WHERE agent_id = ? AND item_id = ? AND t_ns < ?"
            if db.execute(sql, (agent_id, item_id, before_ns)).fetchone() is None:
                return False
            _drop(db, agent_id, item_id)
            return True

    def over(self) -> list[tuple[bytes, str]]:
        """Uploads of items that are stored: what a server that died between the receipt and the tidying left."""
        with self._db.reading() as db:
            rows = db.execute(
                "SELECT uploads.agent_id, uploads.item_id FROM uploads JOIN items "
                "ON items.agent_id = uploads.agent_id AND items.item_id = uploads.item_id"
            ).fetchall()
        return [(bytes(agent_id), str(item_id)) for agent_id, item_id in rows]


def _about(agent_id: bytes, item_id: str) -> bytes:
    return b"upload " + agent_id + item_id.encode()


def _have(db: Session, agent_id: bytes, item_id: str) -> int | None:
    row = db.execute("SELECT have FROM uploads WHERE agent_id = ? AND item_id = ?", (agent_id, item_id)).fetchone()
    return None if row is None else int(row[0])


def _pieces(db: Session, agent_id: bytes, item_id: str) -> list[StoredPiece]:
    rows = db.execute("SELECT at, size, object FROM pieces WHERE agent_id = ? AND item_id = ? ORDER BY at", (agent_id, item_id))
    return [StoredPiece(*row) for row in rows.fetchall()]


def _drop(db: Session, agent_id: bytes, item_id: str) -> None:
    db.execute("DELETE FROM pieces WHERE agent_id = ? AND item_id = ?", (agent_id, item_id))
    db.execute("DELETE FROM uploads WHERE agent_id = ? AND item_id = ?", (agent_id, item_id))
    db.execute("DELETE FROM touched WHERE agent_id = ? AND item_id = ?", (agent_id, item_id))


def _touch(db: Session, agent_id: bytes, item_id: str) -> None:
    db.execute(
        "INSERT INTO touched VALUES (?, ?, ?) ON CONFLICT (agent_id, item_id) DO UPDATE SET t_ns = excluded.t_ns",
        (agent_id, item_id, utc_now_ns()),
    )


def _reach(pieces: list[StoredPiece], have: int) -> int:
    for piece in pieces:
        if piece.at > have:
            break
        have = max(have, piece.at + piece.size)
    return have
