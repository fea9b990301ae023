"""Freeing local space, only against proof.

Order, each step durable before the next: the row is marked evictable; ``before_free`` (the agent log's SPOOL_FREE);
the file is unlinked; the row is done and stays as history. A crash anywhere is finished by the next
`Retention.release`, which may call ``before_free`` a second time. A file that is not as long as what was proved is kept: its item goes to
quarantine. One that cannot be unlinked holds up no other.

A target that was not waited for has a run with holes, and a crate would call it complete: the run's crate is skipped there too, whenever
it came into the outbox.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from edge_agent.errors import DiskError
from edge_agent.model import ItemKind, OutboxItem, Receipt, utc_now_ns
from edge_agent.spool.database import Database
from edge_agent.spool.outbox import Outbox
from edge_agent.spool.outbox_reads import LACKS
from edge_agent.spool.rows import RANK
from edge_agent.storage import Storage, durable

log = logging.getLogger(__name__)

BeforeFree = Callable[[OutboxItem, tuple[Receipt, ...]], None]
"""Called with the item and the receipts of its required targets; must be durable when it returns; raising keeps the file."""

OTHER = "the file in the spool is not the one that was proved: {} bytes instead of {}; export it and look, then drop it with a reason"
LACKING = "this target does not have all of the run"
ENDED = {"evictable": "done", "dropping": "dropped"}


@dataclass(frozen=True, slots=True)
class Freed:
    """What a release did."""

    items: int
    bytes: int


class Retention:
    """Evicts what every required target holds."""

    def __init__(self, db: Database, outbox: Outbox, storage: Storage) -> None:
        self._db = db
        self._outbox = outbox
        self._storage = storage
        self._announced: set[tuple[str, bytes | None]] = set()
        """What ``before_free`` was told of and is still here: items in a revision."""

    def release(self, before_free: BeforeFree, *, pressure: bool = False, hold: Collection[bytes] = ()) -> Freed:
        """Free what may be freed.

        Args:
            before_free: writes SPOOL_FREE to the agent log.
            pressure: do not wait for optional targets; what they do not have yet is marked skipped.
            hold: run ids whose files are still needed here (open runs).

        Raises:
            DiskError: an unlink failed; the item stays evictable. The others were freed.
        """
        self._skip_crates()
        self._mark(pressure, frozenset(hold))
        items = size = 0
        failed: DiskError | None = None
        for (item_id,) in self._db.rows("SELECT item_id FROM items WHERE state = 'evictable'"):
            item = self._outbox.item(item_id)
            if item is None or not self._announce(item, before_free):
                continue
            try:
                freed = self._end(item, "evictable")
            except DiskError as error:
                failed = failed or error
                continue
            self._announced.discard((item_id, item.sha256))
            items, size = items + freed, size + item.size * freed
        self.finish_drops()
        if failed is not None:
            raise failed
        return Freed(items, size)

    def finish_drops(self) -> None:
        """Unlink what a person gave up (the reason is on record)."""
        for (item_id,) in self._db.rows("SELECT item_id FROM items WHERE state = 'dropping'"):
            item = self._outbox.item(item_id)
            if item is not None:
                self._end(item, "dropping")

    def _mark(self, pressure: bool, hold: frozenset[bytes]) -> None:
        busy = "('sending')" if pressure else "('sealed', 'sending', 'parked', 'quarantined')"
        with self._db.transaction():
            rows = self._db.rows(
                "SELECT item_no, run_id FROM items i WHERE state = 'held' AND place = 'landed'"  # noqa: S608
                f" AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.item_no = i.item_no AND d.state IN {busy}) ORDER BY item_no"
            )
            for item_no, run_id in rows:
                if run_id in hold:
                    continue
                now = utc_now_ns()
                self._db.run(
                    "UPDATE deliveries SET state = 'skipped', changed_ns = ?, reason = 'space was needed; all required targets have it'"
                    " WHERE item_no = ? AND state NOT IN ('proved', 'dropped', 'skipped')",
                    (now, item_no),
                )
                self._db.run("UPDATE items SET state = 'evictable', changed_ns = ? WHERE item_no = ?", (now, item_no))

    def _skip_crates(self) -> None:
        """Nobody waits for a crate that must not be sent."""
        # The second list is what the index of unfinished deliveries asks for.
        self._db.run(
            "UPDATE deliveries AS d SET state = 'skipped', changed_ns = ?1, reason = ?2 WHERE d.rank = ?3"  # noqa: S608
            f" AND d.state IN ('sealed', 'parked') AND d.state NOT IN ('proved', 'dropped', 'skipped') AND {LACKS}",
            (utc_now_ns(), LACKING, RANK[ItemKind.CRATE]),
        )

    def _announce(self, item: OutboxItem, before_free: BeforeFree) -> bool:
        """Have it said that an item goes; False when it must not."""
        if self._storage.exists(item.path) and (found := self._storage.size(item.path)) != item.size:
            self._refuse(item, OTHER.format(found, item.size))
            return False
        if (item.item_id, item.sha256) not in self._announced:
            held = self._outbox.deliveries(item.item_id)
            before_free(item, tuple(d.receipt for d in held if d.required and d.receipt is not None))
            self._announced.add((item.item_id, item.sha256))
        return True

    def _refuse(self, item: OutboxItem, why: str) -> None:
        """Keep what was marked, for a person; not if a newer revision brought the item back."""
        now = utc_now_ns()
        with self._db.transaction():
            row = self._db.row(
                "SELECT item_no FROM items WHERE item_id = ? AND size = ? AND state = 'evictable'", (item.item_id, item.size)
            )
            if row is not None:
                self._db.run("UPDATE items SET state = 'held', changed_ns = ? WHERE item_no = ?", (now, row[0]))
                self._db.run(
                    "UPDATE deliveries SET state = 'quarantined', reason = ?, changed_ns = ? WHERE item_no = ? AND state != 'dropped'",
                    (why, now, row[0]),
                )
                self._outbox.settle(row[0])
                log.error("%s is kept: %s", item.remote, why, extra={"code": "SPOOL_FILE_CHANGED"})

    def _end(self, item: OutboxItem, state: str) -> bool:
        """Unlink under the lock, and only if no newer revision brought the item back."""
        with self._db.transaction():
            changed = self._db.run(
                "UPDATE items SET state = ?, changed_ns = ? WHERE item_id = ? AND state = ?",
                (ENDED[state], utc_now_ns(), item.item_id, state),
            )
            if changed:
                durable.remove(self._storage, item.path)
            return changed == 1
