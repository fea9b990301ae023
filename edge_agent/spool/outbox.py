"""The outbox: what waits for which target, in order.

For each item and target: ``sealed -> sending -> proved``, or ``parked`` (waits for a person or a change) or
``quarantined`` (the bytes or the proof were wrong); ``dropped`` (given up with a reason) and ``skipped`` (freed
before an optional target had it) end it too. A proof is taken only while sending, only for the right size and digest,
and never replaced; every other verdict counts only while sending too, so that one about an older revision changes
nothing. After a restart what was ``sending`` begins again. The order is that of `OutboxReads.next_for`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_agent.errors import IntegrityError
from edge_agent.model import ItemKind, OutboxItem, Receipt, utc_now_ns
from edge_agent.spool.database import Database
from edge_agent.spool.ledger import Counts, Ledger, Place
from edge_agent.spool.outbox_reads import OutboxReads
from edge_agent.spool.rows import ITEM_COLUMNS, RANK, item_values, receipt_values, stored_path
from edge_agent.spool.state import State

AGAIN = (
    "UPDATE deliveries SET state = 'sealed', reason = '', attempts = 0, retry_ns = NULL, changed_ns = ?, proof = NULL,"
    " proof_sha256 = NULL, proof_size = NULL, proof_ns = NULL, proof_cose = NULL, proof_envelope = NULL"
    " WHERE item_no = ? AND state != 'dropped'"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """An item with its route, for `Outbox.rebuild`; the fields are the arguments of `Outbox.add`."""

    item: OutboxItem
    targets: tuple[str, ...]
    required: frozenset[str] | None = None
    counts: Mapping[str, Counts] | None = None


class Outbox(OutboxReads):
    """The tables ``items`` and ``deliveries``. What a method did is durable when it returns, but for `begin`; from any thread."""

    def __init__(self, db: Database, ledger: Ledger, state: State, base: Path) -> None:
        super().__init__(db, base)
        self._ledger = ledger
        self._state = state
        db.run("UPDATE deliveries SET state = 'sealed' WHERE state = 'sending'")

    def add(
        self,
        item: OutboxItem,
        targets: Sequence[str],
        required: Collection[str] | None = None,
        counts: Mapping[str, Counts] | None = None,
    ) -> bool:
        """Put an item in; idempotent by ``item_id``. The file must be durable under its name before.

        An item that is known keeps its states; its route becomes the one given. A ``RECEIPTS`` item with another size or digest is a new
        revision and is sent again: replace its file by rename and call this within one `Spool.transaction`, and give ``sha256``.

        Args:
            item: the file and what it is.
            targets: names of the targets that shall have it.
            required: those whose proof frees the space; None: all of them; empty: it is never freed by itself.
            counts: what the recorder counted, by stream; None: ``item.counts`` and no gaps.

        Returns:
            Whether it is new (or a new revision).

        Raises:
            IntegrityError: the id is known with other content.
        """
        wanted = frozenset(targets if required is None else required)
        if not wanted <= set(targets):
            raise ValueError(f"required targets {sorted(wanted - set(targets))} are not among the targets")
        with self._db.transaction():
            tallies = counts if counts is not None else {stream: Counts(items=n) for stream, n in item.counts.items()}
            row = self._db.row(
                "SELECT item_no, kind, remote, size, run_id, head_hash, sha256, state, path FROM items WHERE item_id = ?", (item.item_id,)
            )
            if row is None:
                item_no = self._insert(item)
                self._ledger.tally(item.item_id, tallies)
                self._ledger.place(item_no, Place.SPOOLED, None)
                self._route(item_no, item, targets, wanted)
                return True
            item_no, kind, remote, size, run_id, head_hash, sha256, state, path = row
            same_bytes = item.size == size and (None in (item.sha256, sha256) or item.sha256 == sha256)
            if (item.kind, item.remote, item.run_id, item.head_hash) != (kind, remote, run_id, head_hash):
                raise _conflict(item, f"it is known as {kind} {remote}, and came as {item.kind} {item.remote} or of another run or head")
            if same_bytes and state != "held":
                return False
            if not same_bytes and item.kind is not ItemKind.RECEIPTS:
                raise _conflict(item, f"known with {size} bytes and another digest; now {item.size} bytes at {item.path}")
            if not same_bytes:
                self._revise(item_no, item)
            elif stored_path(item.path, self._base) != path:
                self._db.run("UPDATE items SET path = ? WHERE item_no = ?", (stored_path(item.path, self._base), item_no))
            self._route(item_no, item, targets, wanted)
            return not same_bytes

    def rebuild(self, entries: Iterable[Entry]) -> int:
        """Add what a scan of the files found, in one transaction; run numbers never fall below those seen. Returns how many were new."""
        with self._db.transaction():
            new = 0
            for entry in entries:
                new += self.add(entry.item, entry.targets, entry.required, entry.counts)
                self._state.raise_run_no(entry.item.run_no)
            return new

    def begin(self, item_id: str, target: str, revision: OutboxItem | None = None) -> bool:
        """Mark as sending; False when it does not wait any more (freed, parked or proved meanwhile), or not in that revision.

        The one change that is not durable when this returns: after a restart what was on its way waits again, marked or not.
        """
        digest, size = (None, 0) if revision is None else (revision.sha256, revision.size)
        changed = self._db.mark(
            "UPDATE deliveries SET state = 'sending', changed_ns = ? WHERE target = ? AND state IN ('sealed', 'sending')"
            " AND item_no = (SELECT item_no FROM items WHERE item_id = ? AND state = 'held' AND (? OR (sha256 IS ? AND size = ?)))",
            (utc_now_ns(), target, item_id, revision is None, digest, size),
        )
        return changed == 1

    def proved(self, receipt: Receipt) -> bool:
        """Take a proof.

        Returns:
            False when it is of no use: the item is unknown or not being sent (a newer revision took its place).

        Raises:
            IntegrityError: size or digest are not those of the item, or of an earlier proof.
        """
        with self._db.transaction():
            row = self._db.row(
                "SELECT i.item_no, i.size, i.sha256, d.state FROM items i JOIN deliveries d USING (item_no)"
                " WHERE i.item_id = ? AND d.target = ?",
                (receipt.item_id, receipt.target),
            )
            if row is None or row[3] not in ("sending", "proved"):
                return False
            item_no, size, sha256, state = row
            if receipt.size != size or (sha256 is not None and receipt.sha256 != sha256):
                raise IntegrityError(
                    f"{receipt.target} gave a proof for other bytes than {receipt.item_id} has.",
                    why=f"it says {receipt.size} bytes, SHA-256 {receipt.sha256.hex()};"
                    f" here {size} bytes, {(sha256 or b'').hex() or 'no digest yet'}",
                    try_="compare the file in the spool with the one at the target; nothing was freed",
                    code="PROOF_MISMATCH",
                )
            if state == "proved":
                return True
            self._db.run("UPDATE items SET sha256 = ?, changed_ns = ? WHERE item_no = ?", (receipt.sha256, utc_now_ns(), item_no))
            self._db.run(
                "UPDATE deliveries SET state = 'proved', reason = '', retry_ns = NULL, changed_ns = ?, proof = ?, proof_sha256 = ?,"
                " proof_size = ?, proof_ns = ?, proof_cose = ?, proof_envelope = ? WHERE item_no = ? AND target = ?",
                (utc_now_ns(), *receipt_values(receipt), item_no, receipt.target),
            )
            self.settle(item_no)
            return True

    def take_proofs(self, receipts: Sequence[Receipt]) -> list[bool | IntegrityError]:
        """`proved` for each of them, with one sync; what it would have raised stands in the place of its answer."""
        with self._db.transaction():
            return [self._verdict(receipt) for receipt in receipts]

    def failed(self, item_id: str, target: str, error: str, retry_ns: int | None) -> None:
        """A passing fault: back to sealed, one more attempt, tried again about ``retry_ns`` (UTC, shown to people)."""
        self._move(item_id, target, "sealed", error, retry_ns, attempt=1)

    def park(self, item_id: str, target: str, reason: str) -> None:
        """Somebody has to do something first; `unpark` makes it wait again."""
        self._move(item_id, target, "parked", reason)

    def quarantine(self, item_id: str, target: str, reason: str) -> bool:
        """Bytes or proof were wrong: not sent to ``target`` again until a person says so. The file stays where it is.

        Returns:
            False when it is not being sent: a newer revision took its place.
        """
        return self._move(item_id, target, "quarantined", reason)

    def refuse(self, item_id: str, reason: str) -> None:
        """Set aside what was never sent: every target that waits for an item gets it only when a person says so."""
        with self._db.transaction():
            row = self._db.row("SELECT item_no FROM items WHERE item_id = ?", (item_id,))
            if row is not None:
                self._db.run(
                    "UPDATE deliveries SET state = 'quarantined', reason = ?, changed_ns = ? WHERE item_no = ? AND state = 'sealed'",
                    (reason, utc_now_ns(), row[0]),
                )
                self.settle(row[0])

    def move(self, item: OutboxItem, moved: OutboxItem) -> None:
        """Give an item that is here and not on its way another id and place, and send it there. Nothing is removed elsewhere.

        Raises:
            LookupError: its file has left the spool.
        """
        with self._db.transaction():
            row = self._db.row("SELECT item_no FROM items WHERE item_id = ? AND state = 'held'", (item.item_id,))
            if row is None:
                raise LookupError(item.item_id)
            self._db.run(
                "UPDATE items SET item_id = ?, remote = ?, project = ? WHERE item_no = ?",
                (moved.item_id, moved.remote, moved.project, row[0]),
            )
            self._revise(row[0], item)
            self.settle(row[0])

    def unpark(self, target: str | None = None) -> int:
        """Something changed: what is parked (at ``target``, or anywhere) waits again. Returns how many."""
        return self._db.run(
            "UPDATE deliveries SET state = 'sealed', retry_ns = NULL, changed_ns = ?1"
            " WHERE state = 'parked' AND (?2 IS NULL OR target = ?2)",
            (utc_now_ns(), target),
        )

    def ask_again(self, target: str) -> int:
        """Its name stands for another place now: what was proved under it and is still here has to be proved there. Returns how many."""
        with self._db.transaction():
            rows = self._db.rows(
                "SELECT item_no FROM deliveries JOIN items USING (item_no)"
                " WHERE target = ? AND deliveries.state = 'proved' AND items.state = 'held'",
                (target,),
            )
            for (item_no,) in rows:
                self._db.run(f"{AGAIN} AND target = ?", (utc_now_ns(), item_no, target))
                self.settle(item_no)
            return len(rows)

    def settle(self, item_no: int) -> None:
        """Bring the ledger's place of an item in line with its states (called inside a transaction).

        When a person gave up every required target, those that are left decide instead.
        """
        row = self._db.row("SELECT state, place FROM items WHERE item_no = ?", (item_no,))
        if row is None:
            return
        state, old = row
        routes = self._db.rows("SELECT required, state FROM deliveries WHERE item_no = ?", (item_no,))
        states = [(r, s) for r, s in routes if s != "dropped"]
        if len(states) < len(routes) and not any(r for r, _ in states):
            self._db.run("UPDATE deliveries SET required = 1 WHERE item_no = ? AND state != 'dropped'", (item_no,))
            states = [(1, s) for _, s in states]
        required = [s for r, s in states if r]
        if state in ("dropping", "dropped"):
            new = Place.DROPPED
        elif state != "held" or (required and all(s == "proved" for s in required)):
            new = Place.LANDED
        elif "quarantined" in (required or [s for _, s in states]):
            new = Place.QUARANTINED
        else:
            new = Place.SPOOLED
        if new != old:
            self._ledger.place(item_no, new, Place(old))
            self._db.run("UPDATE items SET place = ? WHERE item_no = ?", (new.value, item_no))

    def _verdict(self, receipt: Receipt) -> bool | IntegrityError:
        try:
            return self.proved(receipt)
        except IntegrityError as error:
            # Raised before anything was changed: the others are not concerned.
            return error

    def _insert(self, item: OutboxItem) -> int:
        now = utc_now_ns()
        item_no = self._db.insert(
            f"INSERT INTO items ({ITEM_COLUMNS}, state, place, added_ns, changed_ns)"  # noqa: S608
            f" VALUES ({', '.join('?' * 13)}, 'held', 'spooled', ?, ?)",
            (*item_values(item, self._base), now, now),
        )
        self._db.run_many("INSERT INTO item_counts VALUES (?, ?, ?)", [(item_no, stream, n) for stream, n in item.counts.items()])
        return item_no

    def _route(self, item_no: int, item: OutboxItem, targets: Sequence[str], required: frozenset[str]) -> None:
        known = {t for (t,) in self._db.rows("SELECT target FROM deliveries WHERE item_no = ?", (item_no,))}
        for target in sorted(known - set(targets)):
            self._db.run(
                "DELETE FROM deliveries WHERE item_no = ? AND target = ? AND state NOT IN ('proved', 'dropped')", (item_no, target)
            )
            self._db.run("UPDATE deliveries SET required = 0 WHERE item_no = ? AND target = ?", (item_no, target))
        for target in targets:
            self._db.run(
                "INSERT INTO deliveries (item_no, target, required, state, changed_ns, run_no, rank, run_id)"
                " VALUES (?, ?, ?, 'sealed', ?, ?, ?, ?)"
                " ON CONFLICT (item_no, target) DO UPDATE SET required = excluded.required",
                (item_no, target, target in required, utc_now_ns(), item.run_no, RANK[item.kind], item.run_id),
            )
        self.settle(item_no)

    def _revise(self, item_no: int, item: OutboxItem) -> None:
        now = utc_now_ns()
        self._db.run(
            "UPDATE items SET path = ?, size = ?, sha256 = ?, state = 'held', changed_ns = ? WHERE item_no = ?",
            (stored_path(item.path, self._base), item.size, item.sha256, now, item_no),
        )
        self._db.run(AGAIN, (now, item_no))

    def _move(self, item_id: str, target: str, state: str, reason: str, retry_ns: int | None = None, attempt: int = 0) -> bool:
        with self._db.transaction():
            row = self._db.row("SELECT item_no FROM items WHERE item_id = ?", (item_id,))
            if row is None:
                raise KeyError(f"no item {item_id!r} in the outbox")
            moved = self._db.run(
                "UPDATE deliveries SET state = ?, reason = ?, retry_ns = ?, attempts = attempts + ?, changed_ns = ?"
                " WHERE item_no = ? AND target = ? AND state = 'sending'",
                (state, reason, retry_ns, attempt, utc_now_ns(), row[0], target),
            )
            self.settle(row[0])
            return moved == 1


def _conflict(item: OutboxItem, why: str) -> IntegrityError:
    return IntegrityError(
        f"Two different files claim to be {item.item_id}.",
        why=why,
        try_="nothing was changed; set the newer file aside (edge-agent quarantine) and report this, item ids must be unique",
        code="OUTBOX_CONFLICT",
    )
