"""What is wrong and waits for a person: items that a target refused, and files that nobody could parse.

Invariants: nothing that cannot be parsed is deleted; it is moved to ``quarantine/<id>/`` beside a ``reason.json``
that was durable first, with the files that belong to it (a segment and its journal). Dropping needs a reason, and the
reason is on record before a byte goes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_agent.errors import UsageError
from edge_agent.model import OutboxItem, utc_now_ns
from edge_agent.spool.database import Database
from edge_agent.spool.outbox import Outbox
from edge_agent.spool.outbox_reads import WAITING
from edge_agent.spool.retention import Retention
from edge_agent.storage import Storage, durable

log = logging.getLogger(__name__)
REASON = "reason.json"


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One entry. ``id`` is an item id or the name of a folder of quarantine; ``path`` is where the bytes are, ``size`` with ``beside``.

    ``targets`` are those that refused an item.
    """

    id: str
    path: Path
    size: int
    why: str
    since_ns: int
    targets: tuple[str, ...] = ()
    item: OutboxItem | None = None
    origin: Path | None = None
    """Where an unparsable file was found."""
    beside: tuple[Path, ...] = ()
    """Files that were set aside together with it."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """What was given up, and why."""

    id: str
    path: Path
    size: int
    why: str
    reason: str
    t_ns: int


@dataclass(frozen=True, slots=True)
class GivenUp:
    """What waited for a target that will not come back: how many items; of those, how many no other target has or awaits."""

    target: str
    items: int
    lost: int


def set_aside(storage: Storage, home: Path, paths: Sequence[Path], why: str) -> None:
    """Move files of one folder, all on the spool's file system, to ``home``, which is new: the reason first, then one after the other.

    Raises:
        DiskError: not all could be moved; each is here or there.
    """
    durable.make_folder(storage, home)
    reason = {"name": paths[-1].name, "origin": str(paths[-1]), "since_ns": utc_now_ns(), "why": why}
    durable.write_file(storage, home / REASON, _json(reason))
    for path in paths:
        durable.move(storage, path, home / path.name)
    log.warning("set aside %s as %s: %s", paths[-1], home.name, why)


class Quarantine:
    """List, show, retry, drop, export."""

    def __init__(self, db: Database, outbox: Outbox, retention: Retention, storage: Storage, folder: Path) -> None:
        self._db = db
        self._outbox = outbox
        self._retention = retention
        self._storage = storage
        self.folder = folder

    def set_aside(self, paths: Sequence[Path], why: str, name: str = "file") -> Quarantined:
        """Move files that cannot be used and belong together into quarantine, as one entry. All are on the spool's file system.

        Args:
            paths: of one folder; the entry is about the last, without which nobody looks for the others (the journal of a segment).
            why: for the operator.
            name: what the entry's id begins with.

        Raises:
            DiskError: not all could be moved; each is here or there.
        """
        now = utc_now_ns()
        while (home := self.folder / f"{name}-{now:016x}").exists():
            now += 1
        set_aside(self._storage, home, paths, why)
        return self.show(home.name)

    def entries(self) -> tuple[Quarantined, ...]:
        """All entries, oldest first."""
        return tuple(sorted([*self._items(), *self._files()], key=lambda entry: entry.since_ns))

    def show(self, entry_id: str) -> Quarantined:
        """One entry.

        Raises:
            UsageError: no such entry.
        """
        for entry in self.entries():
            if entry.id == entry_id:
                return entry
        raise UsageError(
            f"Nothing is quarantined as {entry_id!r}.", why="it may have been retried or dropped", try_="edge-agent quarantine list"
        )

    def retry(self, entry_id: str) -> Quarantined:
        """Try again: an item waits for its targets anew; a file goes back to where it was found, for the next scan.

        Returns:
            The entry as it was.

        Raises:
            UsageError: no such entry, or the file's old place is taken.
        """
        entry = self.show(entry_id)
        if entry.item is None:
            files = (entry.path, *entry.beside)
            if entry.origin is None or any(entry.origin.with_name(path.name).exists() for path in files):
                raise UsageError(
                    f"{entry_id} cannot go back to {entry.origin}.",
                    why="the place is taken or unknown",
                    try_=f"edge-agent quarantine export {entry_id} DIR, then look at both",
                )
            durable.make_folder(self._storage, entry.origin.parent)
            for path in files:
                durable.move(self._storage, path, entry.origin.with_name(path.name))
            durable.remove_folder(self._storage, self.folder / entry.id)
            return entry
        with self._db.transaction():
            (item_no,) = self._numbers(entry_id)
            self._db.run(
                "UPDATE deliveries SET state = 'sealed', reason = '', attempts = 0, changed_ns = ?"
                " WHERE item_no = ? AND state = 'quarantined'",
                (utc_now_ns(), item_no),
            )
            self._outbox.settle(item_no)
        return entry

    def drop(self, entry_id: str, reason: str) -> Quarantined:
        """Give an entry up: its counts become lost and the file is removed.

        An item that other targets have or await stays for them, and they decide from now on when its space is freed.

        Raises:
            UsageError: no such entry, or no reason.
        """
        want_reason(entry_id, reason)
        entry = self.show(entry_id)
        with self._db.transaction():
            self._record(Dropped(entry.id, entry.path, entry.size, entry.why, reason, utc_now_ns()))
            if entry.item is not None:
                (item_no,) = self._numbers(entry_id)
                self._drop_item(item_no, reason, "state = 'quarantined'")
        log.warning("dropped %s (%s): %s", entry.id, entry.why, reason)
        if entry.item is None:
            durable.remove_folder(self._storage, self.folder / entry.id)
        else:
            self._retention.finish_drops()
        return entry

    def drop_target(self, target: str, reason: str) -> GivenUp:
        """Give up what waits for a target to which nothing is sent any more; each item as by `drop`.

        Raises:
            UsageError: no reason.
        """
        want_reason(target, reason)
        why, lost = f"it waited for target {target}", 0
        with self._db.transaction():
            waiting = self._db.rows(f"SELECT d.item_no, i.item_id FROM {WAITING} ORDER BY d.item_no", (target,))  # noqa: S608
            for item_no, item_id in waiting:
                item = self._outbox.item(item_id)
                if item is not None:
                    self._record(Dropped(item_id, item.path, item.size, why, reason, utc_now_ns()))
                lost += self._drop_item(item_no, reason, "target = ?4", target)
        log.warning("dropped %d items that waited for target %s: %s", len(waiting), target, reason)
        self._retention.finish_drops()
        return GivenUp(target, len(waiting), lost)

    def dropped(self) -> tuple[Dropped, ...]:
        """Everything that was ever given up."""
        rows = self._db.rows("SELECT id, path, size, why, reason, dropped_ns FROM drops ORDER BY drop_no")
        return tuple(Dropped(i, Path(path), size, why, reason, t) for i, path, size, why, reason, t in rows)

    def export(self, entry_id: str, folder: Path) -> Path:
        """Copy the bytes and the reason into ``folder``; returns the path of the copy."""
        entry = self.show(entry_id)
        durable.make_folder(self._storage, folder)
        copy = folder / entry.path.name
        for path in (entry.path, *entry.beside):
            durable.copy(self._storage, path, folder / path.name)
        origin = str(entry.origin or entry.path)
        reason = {"id": entry.id, "why": entry.why, "since_ns": entry.since_ns, "targets": list(entry.targets), "origin": origin}
        durable.write_file(self._storage, folder / f"{entry.path.name}.{REASON}", _json(reason))
        return copy

    def _record(self, drop: Dropped) -> None:
        self._db.run(
            "INSERT INTO drops (id, path, size, why, reason, dropped_ns) VALUES (?, ?, ?, ?, ?, ?)",
            (drop.id, str(drop.path), drop.size, drop.why, drop.reason, drop.t_ns),
        )

    def _drop_item(self, item_no: int, reason: str, which: str, *values: str) -> bool:
        """Give an item up at some of its targets; whether none is left, so that it goes."""
        now = utc_now_ns()
        self._db.run(
            f"UPDATE deliveries SET state = 'dropped', reason = ?1, changed_ns = ?2 WHERE item_no = ?3 AND {which}",  # noqa: S608
            (reason, now, item_no, *values),
        )
        lost = not self._db.rows("SELECT 1 FROM deliveries WHERE item_no = ? AND state != 'dropped'", (item_no,))
        if lost:
            self._db.run("UPDATE items SET state = 'dropping', reason = ?, changed_ns = ? WHERE item_no = ?", (reason, now, item_no))
        self._outbox.settle(item_no)
        return lost

    def _items(self) -> list[Quarantined]:
        rows = self._db.rows(
            "SELECT i.item_id, group_concat(d.target, char(10)), group_concat(d.target || ': ' || d.reason, '; '), min(d.changed_ns)"
            " FROM deliveries d JOIN items i USING (item_no) WHERE d.state = 'quarantined' AND i.state = 'held' GROUP BY i.item_no"
        )
        entries = []
        for item_id, targets, why, since in rows:
            item = self._outbox.item(item_id)
            if item is not None:
                entries.append(Quarantined(item_id, item.path, item.size, why, since, tuple(sorted(targets.split("\n"))), item))
        return entries

    def _files(self) -> list[Quarantined]:
        homes = [home for home in sorted(self.folder.iterdir()) if home.is_dir()]
        return [entry for entry in map(_in_folder, homes) if entry is not None]

    def _numbers(self, item_id: str) -> tuple[int, ...]:
        return tuple(n for (n,) in self._db.rows("SELECT item_no FROM items WHERE item_id = ?", (item_id,)))


def want_reason(name: str, reason: str) -> None:
    """Refuse to give something up without a reason.

    Raises:
        UsageError: there is none.
    """
    if not reason.strip():
        raise UsageError(
            "Dropping needs a reason.",
            why="it is the only trace that is left of the data",
            try_=f'edge-agent quarantine drop {name} --reason "..."',
        )


def _in_folder(home: Path) -> Quarantined | None:
    """The entry in a folder of quarantine; None when there is nothing but the reason."""
    held = [path for path in sorted(home.iterdir()) if path.name != REASON]
    if not held:
        return None
    try:
        reason = json.loads((home / REASON).read_bytes())
        why, since, origin = str(reason["why"]), int(reason["since_ns"]), Path(reason["origin"])
        held.sort(key=lambda path: path.name != origin.name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        why, since, origin = f"its {REASON} cannot be read ({error})", held[0].stat().st_mtime_ns, None
    path, *beside = held
    size = sum(each.stat().st_size for each in held)
    return Quarantined(home.name, path, size, why, since, origin=origin and origin.with_name(path.name), beside=tuple(beside))


def _json(reason: dict[str, object]) -> bytes:
    return json.dumps(reason, ensure_ascii=False, indent=1).encode()
