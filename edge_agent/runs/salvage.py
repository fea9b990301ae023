"""What a crash left: every journal becomes a segment again, and every vendor file that was durable goes on its way.

Idempotent: a crash while salvaging is found by the next start. A journal whose run is signed already belongs to nobody: what it
holds was never acknowledged, so it is set aside and nothing is added to a run whose list is closed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.errors import DiskError
from edge_agent.model import ItemKind
from edge_agent.record.recovery import REBUILT
from edge_agent.record.segment_writer import JOURNAL, PART, Closed
from edge_agent.runs.book import RunEntry, Stage, entry_of
from edge_agent.runs.keeper import Keeper, context_of_journal
from edge_agent.runs.live import counts_of
from edge_agent.runs.papers import CRATE, MANIFEST, PREVIEW
from edge_agent.seal.cbor import SealError
from edge_agent.seal.leaf import FileLeaf, parse

log = logging.getLogger(__name__)

VERSION = re.compile(r"~\d+$")
UNFINISHED = (JOURNAL, REBUILT, f".h5{PART}")


@dataclass(slots=True)
class Recovered:
    """What a start found of the run before: segments, items by stream, names of damaged segments."""

    segments: int = 0
    items: dict[str, int] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        """For the log and the status."""
        if not self.segments and not self.damaged:
            return "nothing to recover"
        items = json.dumps(self.items, sort_keys=True)
        damaged = f"; damaged and in quarantine: {', '.join(self.damaged)}" if self.damaged else ""
        return f"recovered {self.segments} interrupted segments: {items}{damaged}"


@dataclass(slots=True)
class Salvage:
    """See the module. Worker thread."""

    keeper: Keeper

    def recover(self) -> tuple[Recovered, list[RunEntry]]:
        """Finish what a crash left; what was found, and the runs that are not done.

        Raises:
            DiskError: the disk refused.
        """
        found = Recovered()
        spool = self.keeper.spool
        if not spool.fresh and self.keeper.book.is_ahead(self.keeper.book.entries(), spool.folder / "runs"):
            spool.is_older()
        if spool.fresh:
            self._rebuild()
        known = {entry.run.name: entry for entry in self.keeper.book.entries()}
        left = self._left()
        journals = [path for path in left if path.name.endswith(JOURNAL)]
        for journal_path in journals:
            folder, name = journal_path.parent, journal_path.name.removesuffix(JOURNAL)
            entry = known.get(folder.name) or self._entry_from(journal_path)
            if entry is None:
                self.keeper.set_aside(folder, name, "its run is not known", found.damaged)
                continue
            known.setdefault(entry.run.name, entry)
            self._one(entry, folder, name, found)
        # What was made of a journal, or failed to be, took files away.
        self._parts_alone(self._left() if journals else left, found)
        return found, [entry for entry in known.values() if not self.keeper.book.is_done(entry)]

    def _left(self) -> list[Path]:
        """Files of segments that are not finished, sorted. A full spool has a hundred thousand names: each is looked at once."""
        found: list[Path] = []
        runs = self.keeper.spool.folder / "runs"
        if not runs.is_dir():
            return found
        with os.scandir(runs) as entries:
            folders = [Path(entry.path) for entry in entries if entry.is_dir()]
        for folder in folders:
            names = os.listdir(folder)
            found += [folder / name for name in names if name.endswith(UNFINISHED)]
            if not names and self.keeper.book.find(folder.name) is None:
                # The end came between the folder of a run and its entry in the book: it never began.
                with contextlib.suppress(DiskError):
                    self.keeper.storage.remove_folder(folder)
        return sorted(found)

    def _parts_alone(self, left: Sequence[Path], found: Recovered) -> None:
        """Data without a journal: a file system that keeps no order of names leaves it, or one that lost the journal."""
        for rebuilt in [path for path in left if path.name.endswith(REBUILT)]:
            self.keeper.storage.unlink(rebuilt)
        for part in [path for path in left if path.name.endswith(f".h5{PART}")]:
            folder, name = part.parent, part.name.removesuffix(PART)
            if (folder / name).exists():
                self.keeper.storage.unlink(part)
            elif not (folder / (name + JOURNAL)).exists():
                self.keeper.set_aside(folder, name, "its journal is gone, and without it nothing can be made of it", found.damaged)

    def finish(self, entry: RunEntry) -> None:
        """Journals that a closed recording left behind, because something failed meanwhile; before the papers of the run are made.

        Raises:
            DiskError: the disk refused.
        """
        folder = self.keeper.folder(entry.run)
        for journal_path in sorted(folder.glob(f"*{JOURNAL}")):
            self._one(entry, folder, journal_path.name.removesuffix(JOURNAL), Recovered())

    def _rebuild(self) -> None:
        """The database is new, or older: hand everything on again that still has a file here. Targets bear being sent the same twice."""
        keeper = self.keeper
        signed = keeper.book.restore()
        for folder in (keeper.spool.folder / "runs").glob("[0-9]*"):
            keeper.spool.state.raise_run_no(int(folder.name) if folder.name.isdigit() else 0)
        for entry in signed:
            self._hand_on(entry)
        for entry in keeper.book.entries():
            if entry.stage is Stage.OPEN:
                self._hand_on_segments(entry)

    def _hand_on(self, entry: RunEntry) -> None:
        """Files of a run that is signed: nothing is made anew, because the sidecar names every byte."""
        segments = self._hand_on_segments(entry)
        name, folder = entry.run.name, self.keeper.folder(entry.run)
        papers = {
            f"{name}.nxs": ItemKind.MASTER, f"{name}.hsc": ItemKind.SIDECAR, PREVIEW: ItemKind.PREVIEW, MANIFEST: ItemKind.MANIFEST,
            f"{name}.receipts": ItemKind.RECEIPTS, CRATE: ItemKind.CRATE,
        }  # fmt: skip
        for paper, kind in papers.items():
            path = folder / paper
            if not path.exists() or paper in segments or (kind is ItemKind.CRATE and entry.stage is not Stage.DONE):
                continue
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
            self.keeper.add_paper(entry, kind, paper, digest)
        if entry.stage is Stage.DONE:
            self.keeper.book.forget_segments(entry)

    def _hand_on_segments(self, entry: RunEntry) -> set[str]:
        """Closed segments and vendor files of a run; the names of its segments."""
        segments = self.keeper.book.segments(entry.run, self.keeper.folder(entry.run))
        for closed in segments:
            if not closed.size:
                self._files_of(entry, closed)
                self.keeper.spool.ledger.tally(f"tree-{closed.segment_id.hex()}", counts_of(closed))
            elif closed.path.exists():
                self.keeper.add_segment(entry, closed)
        return {closed.path.name for closed in segments}

    def _one(self, entry: RunEntry, folder: Path, name: str, found: Recovered) -> None:
        keeper = self.keeper
        if entry.stage is Stage.CLOSED or keeper.book.is_done(entry):
            self._too_late(entry, folder, name, found)
            return
        closed = keeper.recover_one(entry, folder, name, damaged=found.damaged)
        if closed is None:
            return
        found.segments += 1
        for key, n in closed.counts.items():
            found.items[key] = found.items.get(key, 0) + n
        self._take(entry, closed)

    def _take(self, entry: RunEntry, closed: Closed) -> None:
        keeper = self.keeper
        keeper.book.put(entry)
        keeper.logbook.segment(entry, closed)
        keeper.book.add_segment(entry.run, closed)
        if closed.size:
            keeper.add_segment(entry, closed)
        else:
            self._files_of(entry, closed)
            keeper.spool.ledger.tally(f"tree-{closed.segment_id.hex()}", counts_of(closed))
        if closed.journal_path is not None:
            keeper.storage.unlink(closed.journal_path)

    def _files_of(self, entry: RunEntry, closed: Closed) -> None:
        """Vendor files that were durable in the tree when the crash came, and perhaps not yet in the outbox."""
        keeper = self.keeper
        for payload in closed.leaves:
            leaf = parse(payload)
            if isinstance(leaf, FileLeaf) and (keeper.folder(entry.run) / leaf.path).exists():
                _, instrument, name = leaf.path.split("/", 2)
                key = f"{instrument}/files"
                with keeper.spool.transaction():
                    keeper.add_file(entry, key, leaf.path, leaf.digest)
                    # A second version stands here as "name~2": at its source it has the name alone.
                    for original in {name, VERSION.sub("", name)}:
                        keeper.spool.state.remember_adopted(key, original, leaf.size, leaf.mtime_ns)

    def _too_late(self, entry: RunEntry, folder: Path, name: str, found: Recovered) -> None:
        if self.keeper.book.has_segment(entry.run, name):
            self.keeper.storage.unlink(folder / (name + JOURNAL))
            return
        log.error("%s: its run was already signed; it is in quarantine", name, extra={"code": "SEGMENT_LATE"})
        why = "its run was already signed when this was written; nothing of it was acknowledged"
        self.keeper.set_aside(folder, name, why, found.damaged)

    def _entry_from(self, journal_path: Path) -> RunEntry | None:
        """The run as its journal tells it, for a spool whose database was lost."""
        try:
            context = context_of_journal(journal_path)
            return None if context is None else entry_of(context[0])
        except (SealError, ValueError, TypeError, LookupError) as error:
            log.warning("%s does not say which run it belongs to: %s", journal_path.name, error)
            return None
