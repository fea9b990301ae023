"""The schedule file: which project has the beam when, as the user office exports it.

CSV with a header: ``start,end,project`` and, where groups differ, ``group``. Times are ISO 8601, without an offset in the facility's time
zone; a line holds from its start until just before its end. Of two lines that overlap the one that begins later decides, because it was
put in between. A file that cannot be read or has a wrong line changes nothing: the last good one goes on, and the line is told once.
"""

from __future__ import annotations

import asyncio
import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from pathlib import Path

from edge_agent.model import NAME
from edge_agent.runs.routing import SCHEDULE

log = logging.getLogger(__name__)

COLUMNS = ("start", "end", "project")
EVERY = 2.0
LARGEST = 4 << 20


@dataclass(frozen=True, slots=True)
class Slot:
    """One line: from ``start`` until before ``end`` (UTC ns); ``group`` empty: all groups."""

    start: int
    end: int
    project: str
    group: str
    line: int


def parse_schedule(text: str, zone: tzinfo) -> tuple[Slot, ...]:
    """The lines of a schedule, the one that begins last first.

    Raises:
        ValueError: the header or a line is wrong; the message names the line.
    """
    reader = csv.DictReader(text.removeprefix("\ufeff").splitlines())
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(f"line 1: has no column {', '.join(missing)}")
    slots = []
    for row in reader:
        try:
            start, end = (_ns(row[name] or "", zone) for name in ("start", "end"))
        except ValueError as error:
            raise ValueError(f"line {reader.line_num}: {error}") from error
        project, group = (row["project"] or "").strip(), (row.get("group") or "").strip()
        if not NAME.fullmatch(project):
            raise ValueError(f"line {reader.line_num}: {project!r} is no name of a project")
        if end <= start:
            raise ValueError(f"line {reader.line_num}: ends before it begins")
        slots.append(Slot(start, end, project, group, reader.line_num))
    return tuple(sorted(slots, key=lambda slot: (-slot.start, slot.line)))


def _ns(text: str, zone: tzinfo) -> int:
    time = datetime.fromisoformat(text.strip())
    return round((time if time.tzinfo is not None else time.replace(tzinfo=zone)).timestamp() * 10**6) * 1000


@dataclass(slots=True)
class Schedule:
    """A `RuleSource` over a schedule file. The file is read by `watch` alone, so a share that hangs keeps no data waiting."""

    path: Path
    zone: tzinfo
    rule: str = SCHEDULE
    slots: Sequence[Slot] = ()
    _seen: tuple[int, int] | None = None
    _trouble: str = field(default="")

    def project(self, group: str, t_ns: int) -> tuple[str, str] | None:
        """See `edge_agent.runs.routing.RuleSource`."""
        for slot in self.slots:
            if slot.start <= t_ns < slot.end and slot.group in ("", group):
                return slot.project, f"{self.path.name}, line {slot.line}"
        return None

    def look(self) -> None:
        """Read the file if it is another one than before (worker thread)."""
        try:
            stat = self.path.stat()
            if (stat.st_mtime_ns, stat.st_size) == self._seen:
                return
            if stat.st_size > LARGEST:
                raise ValueError(f"{stat.st_size} bytes are no schedule, at most {LARGEST}")
            slots = parse_schedule(self.path.read_text(encoding="utf-8"), self.zone)
        except (OSError, ValueError) as error:
            self._say(str(error))
            return
        self.slots, self._seen, self._trouble = slots, (stat.st_mtime_ns, stat.st_size), ""
        log.info("schedule %s: %d lines", self.path, len(slots))

    async def watch(self) -> None:
        """For ever."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(EVERY)

    def _say(self, trouble: str) -> None:
        if trouble != self._trouble:
            log.warning("schedule %s: %s; the last good one goes on, %d lines", self.path, trouble, len(self.slots),
                        extra={"code": "SCHEDULE"})  # fmt: skip
        self._trouble = trouble
