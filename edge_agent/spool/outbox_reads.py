"""The read side of the outbox: what waits, in which order, and where an item stands.

Order within a target: run number, kind, insertion; a crate comes only after everything else of its run is proved
there, because it is the mark that the run is complete; where something of the run was skipped it never comes.
Receipts, which alone replace what is there, come only after the sidecar of their run: nobody replaces that, so where it
is proved, the receipts beside it are ours.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.model import ItemKind, OutboxItem, Receipt
from edge_agent.spool.database import Database
from edge_agent.spool.rows import ITEM_COLUMNS, RANK, RECEIPT_COLUMNS, item_of, receipt_of

ITEM = ", ".join(f"i.{column}" for column in ITEM_COLUMNS.split(", "))
LACKS = (
    "EXISTS (SELECT 1 FROM items x JOIN deliveries s USING (item_no)"  # noqa: S608 - the rank is a number of ours
    f" WHERE x.run_id = d.run_id AND s.target = d.target AND s.state = 'skipped' AND s.rank < {RANK[ItemKind.RECEIPTS]})"
)
"""Whether the target of a delivery ``d`` was not waited for with something of its run. Receipts do not count: they grow, and come again."""
WAITING = (
    "deliveries d JOIN items i USING (item_no)"
    " WHERE d.target = ? AND i.state = 'held' AND d.state IN ('sealed', 'sending', 'parked', 'quarantined')"
)
"""What is here and waits for one target, for a person too."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where an item stands at one target. ``retry_ns`` (UTC) is for people; the engine schedules by its own clock."""

    item_id: str
    target: str
    required: bool
    state: str
    reason: str
    attempts: int
    retry_ns: int | None
    receipt: Receipt | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for one target: numbers of items, bytes not yet proved, and when the oldest was added (UTC ns, None: nothing waits)."""

    target: str
    waiting: int
    parked: int
    quarantined: int
    bytes: int
    oldest_ns: int | None


class OutboxReads:
    """Queries over ``items`` and ``deliveries``; see `Outbox` for what changes them."""

    def __init__(self, db: Database, base: Path) -> None:
        self._db = db
        self._base = base

    def next_for(self, target: str, skip: Collection[str] = ()) -> OutboxItem | None:
        """The item to send next to ``target``, leaving out the ids in ``skip`` (in flight, or waiting for their back-off)."""
        rows = self._db.rows(
            f"SELECT i.item_no, {ITEM} FROM deliveries d JOIN items i USING (item_no)"  # noqa: S608
            " WHERE d.target = ?2 AND d.state IN ('sealed', 'sending') AND i.state = 'held' AND (d.rank < ?4 OR NOT EXISTS ("
            "SELECT 1 FROM deliveries o WHERE o.target = d.target AND o.run_id = d.run_id AND o.rank < ?1 AND (d.rank = ?1 OR o.rank = ?5)"
            " AND o.state NOT IN ('proved', 'dropped', 'skipped')))"
            f" AND NOT (d.rank = ?1 AND {LACKS})"
            " ORDER BY d.run_no, d.rank, d.item_no LIMIT ?3",
            (RANK[ItemKind.CRATE], target, len(skip) + 1, RANK[ItemKind.RECEIPTS], RANK[ItemKind.SIDECAR]),
        )
        return next((self._item(item_no, row) for item_no, *row in rows if row[0] not in skip), None)

    def item(self, item_id: str) -> OutboxItem | None:
        """An item by its id, also one that was freed."""
        row = self._db.row(f"SELECT i.item_no, {ITEM} FROM items i WHERE i.item_id = ?", (item_id,))  # noqa: S608
        return None if row is None else self._item(row[0], row[1:])

    def items_of_run(self, run_id: bytes) -> tuple[OutboxItem, ...]:
        """All items of a run in order of sending, also those that were freed."""
        rows = self._db.rows(f"SELECT i.item_no, {ITEM} FROM items i WHERE i.run_id = ? ORDER BY i.item_no", (run_id,))  # noqa: S608
        items = [self._item(row[0], row[1:]) for row in rows]
        return tuple(sorted(items, key=lambda item: RANK[item.kind]))

    def deliveries(self, item_id: str) -> tuple[Delivery, ...]:
        """Where an item stands at each of its targets, by name."""
        rows = self._db.rows(
            f"SELECT d.required, d.state, d.reason, d.attempts, d.retry_ns, {RECEIPT_COLUMNS} FROM deliveries d"  # noqa: S608
            " JOIN items i USING (item_no) WHERE i.item_id = ? ORDER BY d.target",
            (item_id,),
        )
        return tuple(
            Delivery(
                item_id, row[5], bool(row[0]), row[1], row[2], row[3], row[4], None if row[6] is None else receipt_of(item_id, row[5:])
            )
            for row in rows
        )

    def encrypted(self, run_id: bytes) -> tuple[tuple[OutboxItem, Receipt], ...]:
        """The items of a run that went somewhere encrypted, in order of sending, with the proof of each such target."""
        found = ((item, d.receipt) for item in self.items_of_run(run_id) for d in self.deliveries(item.item_id))
        return tuple((item, receipt) for item, receipt in found if receipt is not None and receipt.envelope is not None)

    def encrypted_to(self, key: str, folder: str) -> tuple[int, ...]:
        """The numbers of the runs of which something went somewhere encrypted to a public key.

        Args:
            key: the public key.
            folder: where its envelopes are; what was sent before the keys were kept is known by it.
        """
        rows = self._db.rows(
            "SELECT DISTINCT run_no FROM deliveries WHERE proof_envelope IS NOT NULL"
            " AND (instr(proof_envelope, ?) OR instr(proof_envelope, ?)) ORDER BY run_no",
            (f'"{key}"', f'["{folder}/'),
        )
        return tuple(row[0] for row in rows)

    def is_landed(self, item_id: str) -> bool:
        """Whether every required target proved it."""
        return self._db.row("SELECT 1 FROM items WHERE item_id = ? AND place = 'landed'", (item_id,)) is not None

    def waiting_for_a_claim(self, project: str, since_ns: int) -> frozenset[bytes]:
        """Runs of a project of which something that came since then (UTC ns) is still here."""
        rows = self._db.rows(
            "SELECT DISTINCT run_id FROM items WHERE state = 'held' AND place = 'landed' AND project = ? AND added_ns >= ?",
            (project, since_ns),
        )
        return frozenset(row[0] for row in rows)

    def runs_waiting_for(self, target: str) -> tuple[bytes, ...]:
        """The runs of which something that is here waits for a target, in their order."""
        rows = self._db.rows(f"SELECT d.run_id FROM {WAITING} GROUP BY d.run_id ORDER BY min(d.run_no)", (target,))  # noqa: S608
        return tuple(row[0] for row in rows)

    def is_held(self, item_id: str) -> bool:
        """Whether its file is here, and is not being freed."""
        return self._db.row("SELECT 1 FROM items WHERE item_id = ? AND state = 'held'", (item_id,)) is not None

    def backlog(self) -> tuple[Backlog, ...]:
        """What waits, by target; targets to which nothing was ever routed are absent."""
        rows = self._db.rows(
            "SELECT d.target, sum(d.state IN ('sealed', 'sending')), sum(d.state = 'parked'), sum(d.state = 'quarantined'), sum(i.size),"
            " min(CASE WHEN d.state IN ('sealed', 'sending') THEN i.added_ns END)"
            " FROM deliveries d JOIN items i USING (item_no)"
            " WHERE i.state = 'held' AND d.state IN ('sealed', 'sending', 'parked', 'quarantined') GROUP BY d.target"
        )
        found = {row[0]: Backlog(*row) for row in rows}
        names = sorted(row[0] for row in self._db.rows("SELECT DISTINCT target FROM deliveries"))
        return tuple(found.get(name, Backlog(name, 0, 0, 0, 0, None)) for name in names)

    def _item(self, item_no: int, row: Sequence[Any]) -> OutboxItem:
        counts = dict(self._db.rows("SELECT stream, n FROM item_counts WHERE item_no = ?", (item_no,)))
        return item_of(tuple(row), counts, self._base)
