"""The conservation ledger: per stream ``arrived = landed + spooled + quarantined + lost``.

Two sides are kept apart so that they can disagree. What *came*: tallies (one a closed segment or file, by key) of
durable items and declared gaps, given by the recorder. What *became of it*: the places of the outbox items and their
counts. `StreamTotals.discrepancy` is the difference; it is 0 or there is a bug. ``arrived`` includes what is known to
be lost, by count. Each row of ``sums`` changes in the same transaction as the details. Unknown losses are never added
to numbers: `lost_text` prints ``? (4.2 s)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from operator import add, attrgetter

from edge_agent.model import NO_TIME, Gap
from edge_agent.spool.database import Database


class Place(StrEnum):
    """Where the counts of an item stand in the ledger."""

    SPOOLED = "spooled"
    LANDED = "landed"
    QUARANTINED = "quarantined"
    DROPPED = "dropped"  # given up by a person with a reason: counted as lost


@dataclass(frozen=True, slots=True)
class Counts:
    """What came of one stream in one segment.

    ``items`` are durable, ``lost`` are missing in gaps of known size; ``unknown`` gaps have no size, ``unknown_ns`` is their total length;
    ``ignored`` came while nobody wanted it and is no loss.
    """

    items: int = 0
    lost: int = 0
    gaps: int = 0
    unknown: int = 0
    unknown_ns: int = 0
    ignored: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Field by field."""
        return Counts(*map(add, _values(self), _values(other)))

    def with_gap(self, gap: Gap) -> Counts:
        """These counts and one more gap."""
        if gap.count is not None:
            return self + Counts(lost=gap.count, gaps=1)
        known = NO_TIME not in (gap.t_from, gap.t_to)
        return self + Counts(gaps=1, unknown=1, unknown_ns=max(0, gap.t_to - gap.t_from) if known else 0)


_values = attrgetter(*(f.name for f in fields(Counts)))
"""The numbers of a `Counts` in order."""


@dataclass(frozen=True, slots=True)
class StreamTotals:
    """One line of the conservation table, in frames, rows or files; ``lost_unknown`` is a number of gaps, ``unknown_ns`` their length."""

    arrived: int
    landed: int
    spooled: int
    quarantined: int
    lost: int
    lost_unknown: int
    unknown_ns: int
    ignored: int
    gaps: int

    @property
    def discrepancy(self) -> int:
        """``arrived - landed - spooled - quarantined - lost``; anything but 0 is a bug."""
        return self.arrived - self.landed - self.spooled - self.quarantined - self.lost

    @property
    def lost_text(self) -> str:
        """The loss as people see it."""
        return lost_text(self.lost, self.lost_unknown, self.unknown_ns)


def lost_text(lost: int, unknown: int, unknown_ns: int) -> str:
    """``0``, ``3``, ``? (4.2 s)`` or ``3 + ? (4.2 s)``: an unknown loss is never printed as 0."""
    if not unknown:
        return str(lost)
    doubt = f"? ({unknown_ns / 1e9:.1f} s)" if unknown_ns else "?"
    return f"{lost} + {doubt}" if lost else doubt


class Ledger:
    """The tables. `tally` is the recorder's side; `place` is called by the outbox within its own transactions."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def tally(self, key: str, counts: Mapping[str, Counts]) -> None:
        """Set what came under ``key`` (item id, or a name for losses that belong to no segment); the same key again replaces it."""
        with self._db.transaction():
            known = self._db.rows("SELECT stream, items, lost, gaps, unknown, unknown_ns, ignored FROM tallies WHERE key = ?", (key,))
            before = {stream: values for stream, *values in known}
            nothing = _values(Counts())
            changes = [
                (*(b - a for a, b in zip(before.get(stream, nothing), _values(new), strict=True)), stream) for stream, new in counts.items()
            ]
            tallies = [(key, stream, *_values(new)) for stream, new in counts.items()]
            self._db.run_many("INSERT OR REPLACE INTO tallies VALUES (?, ?, ?, ?, ?, ?, ?, ?)", tallies)
            self._db.run_many("INSERT OR IGNORE INTO sums (stream) VALUES (?)", [(stream,) for stream in counts])
            self._db.run_many(
                "UPDATE sums SET items = items + ?, lost = lost + ?, gaps = gaps + ?, unknown = unknown + ?,"
                " unknown_ns = unknown_ns + ?, ignored = ignored + ? WHERE stream = ?",
                changes,
            )

    def place(self, item_no: int, new: Place, old: Place | None) -> None:
        """Move the counts of an item from one place to another (``old`` None: it is new)."""
        if new is old:
            return
        with self._db.transaction():
            counts = self._db.rows("SELECT n, stream FROM item_counts WHERE item_no = ?", (item_no,))
            self._db.run_many("INSERT OR IGNORE INTO sums (stream) VALUES (?)", [(stream,) for _, stream in counts])
            self._db.run_many(f"UPDATE sums SET {new} = {new} + ? WHERE stream = ?", counts)  # noqa: S608
            if old is not None:
                self._db.run_many(f"UPDATE sums SET {old} = {old} - ? WHERE stream = ?", counts)  # noqa: S608

    def totals(self, open_counts: Mapping[str, Counts] | None = None) -> dict[str, StreamTotals]:
        """The conservation table.

        Args:
            open_counts: what is durable in segments that are still open, by stream key.
        """
        opened = dict(open_counts or {})
        totals = {}
        rows = self._db.rows(
            "SELECT stream, items, lost, gaps, unknown, unknown_ns, ignored, landed, spooled, quarantined, dropped"
            " FROM sums ORDER BY stream"
        )
        zeros = [(stream, *[0] * 10) for stream in sorted(set(opened) - {row[0] for row in rows})]
        for stream, items, lost, gaps, unknown, unknown_ns, ignored, landed, spooled, quarantined, dropped in [*rows, *zeros]:
            live = opened.get(stream, Counts())
            came = Counts(items, lost, gaps, unknown, unknown_ns, ignored) + live
            totals[stream] = StreamTotals(
                came.items + came.lost, landed, spooled + live.items, quarantined, came.lost + dropped,
                came.unknown, came.unknown_ns, came.ignored, came.gaps,
            )  # fmt: skip
        return totals

    def audit(self) -> list[str]:
        """Recompute the sums from the details; one line for each that differs (none: sound)."""
        details: dict[str, dict[str, int]] = {}
        for stream, place, n in self._db.rows(
            "SELECT c.stream, i.place, sum(c.n) FROM item_counts c JOIN items i USING (item_no) GROUP BY 1, 2"
        ):
            details.setdefault(stream, {})[place] = n
        for stream, *sums in self._db.rows(
            "SELECT stream, sum(items), sum(lost), sum(gaps), sum(unknown), sum(unknown_ns), sum(ignored) FROM tallies GROUP BY 1"
        ):
            details.setdefault(stream, {}).update(zip((f.name for f in fields(Counts)), sums, strict=True))
        findings = []
        names = [*(f.name for f in fields(Counts)), *Place]
        for stream, *values in self._db.rows(f"SELECT stream, {', '.join(names)} FROM sums"):  # noqa: S608
            expected = details.pop(stream, {})
            findings += [
                f"{stream}: {name} is {value}, the details say {expected.get(name, 0)}"
                for name, value in zip(names, values, strict=True)
                if value != expected.get(name, 0)
            ]
        findings += [f"{stream}: has details and no sum" for stream in details]
        return findings
