"""The papers of a finished run: final names, master, preview, crate, manifest, sidecar; then, with the witness's word, the receipts.

Every step can be done again: papers are written beside their name and renamed, and ``<run>.hsc`` is fixed once it stands. The crate
goes into the outbox last, because it is the mark that a run is complete at a target.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge_agent.model import ItemKind
from edge_agent.record.segment_writer import Closed
from edge_agent.runs.book import RunEntry, Stage
from edge_agent.runs.keeper import Keeper
from edge_agent.runs.live import LiveRun
from edge_agent.seal import cose
from edge_agent.seal.leaf import FileLeaf, RunClose, parse
from edge_agent.seal.policy import policy_digest
from edge_agent.seal.receipt import Inclusion, Receipts
from edge_agent.seal.sidecar import NamedFile, RunStatement, SegmentEntry, Sidecar
from edge_agent.segment.master import Part, write_master

log = logging.getLogger(__name__)

PREVIEW = "preview.png"
MANIFEST = "manifest-sha256.txt"
CRATE = "ro-crate-metadata.json"
PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of the run, for the crate and the manifest."""

    name: str
    size: int
    sha256: bytes
    kind: ItemKind


CrateMaker = Callable[[RunEntry, Sequence[Closed], Sequence[Listed]], bytes]
RecordMaker = Callable[[RunEntry, Sequence[Closed]], str]
PreviewMaker = Callable[[RunEntry, Sequence[Closed]], bytes | None]


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file, 32 bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@dataclass(slots=True)
class Papers:
    """Makes the papers; runs in a worker thread."""

    keeper: Keeper
    record: RecordMaker
    crate: CrateMaker
    preview: PreviewMaker

    def make(self, entry: RunEntry, live: LiveRun | None) -> RunEntry:
        """From the last closed segment to the signed sidecar in the outbox; returns the entry at stage closed."""
        run, folder = entry.run, self.keeper.folder(entry.run)
        folder.mkdir(parents=True, exist_ok=True)
        self._name_segments(entry, live)
        segments = self.keeper.book.segments(run, folder)
        record = self.record(entry, segments)
        listed = [self._listed(entry, c.path.name, ItemKind.SEGMENT, c.segment_id.hex()) for c in segments if c.size]
        listed += self._vendor_files(segments)
        master = self._master(entry, segments, record)
        if master is not None:
            listed.append(master)
        picture = self.preview(entry, segments)
        if picture is not None:
            listed.append(self._paper(entry, PREVIEW, ItemKind.PREVIEW, picture))
        crate = self._paper(entry, CRATE, ItemKind.CRATE, self.crate(entry, segments, listed))
        listed.append(crate)
        lines = "".join(f"{each.sha256.hex()}  {each.name}\n" for each in sorted(listed, key=lambda each: each.name))
        manifest = self._paper(entry, MANIFEST, ItemKind.MANIFEST, lines.encode())
        others = {
            each.name: each.sha256 for each in (*listed, manifest) if each.kind in (ItemKind.PREVIEW, ItemKind.CRATE, ItemKind.MANIFEST)
        }
        sidecar = self._sidecar(entry, segments, listed, master, others)
        for paper in (*listed, manifest, sidecar):
            if paper.kind not in (ItemKind.SEGMENT, ItemKind.FILE, ItemKind.CRATE):
                self.keeper.add_paper(entry, paper.kind, paper.name, paper.sha256)
        self.keeper.agent_log.append(RunClose(run.run_no, run.run_id, sidecar.sha256, self.keeper.now_ns()))
        done = entry.at(Stage.CLOSED)
        self.keeper.book.put(done)
        return done

    def complete(self, entry: RunEntry, certificates: Sequence[bytes], witnesses: Sequence[bytes], inclusions: Sequence[Inclusion]) -> None:
        """With the witness's word (or without one, when no target witnesses): receipts, then the crate."""
        run = entry.run
        if witnesses:
            custody = []
            for item in self.keeper.spool.outbox.items_of_run(run.run_id):
                custody += [
                    d.receipt.cose for d in self.keeper.spool.outbox.deliveries(item.item_id) if d.receipt is not None and d.receipt.cose
                ]
            receipts = Receipts(tuple(certificates), (*witnesses, *custody), tuple(inclusions))
            paper = self._paper(entry, f"{run.name}.receipts", ItemKind.RECEIPTS, receipts.encode())
            self.keeper.add_paper(entry, ItemKind.RECEIPTS, paper.name, paper.sha256)
        crate = self.keeper.folder(run) / CRATE
        self.keeper.add_paper(entry, ItemKind.CRATE, CRATE, file_digest(crate))
        self.keeper.book.done(entry)

    def _name_segments(self, entry: RunEntry, live: LiveRun | None) -> None:
        """The only segment of a run is called ``<run>.nxs``; what was held back goes into the outbox under its final name."""
        if live is None:
            held = [c for c in self.keeper.book.segments(entry.run, self.keeper.folder(entry.run)) if c.size and not self._in_outbox(c)]
        else:
            held = list(live.held.values())
        segments = self.keeper.book.segments(entry.run, self.keeper.folder(entry.run))
        for closed in held:
            named = closed
            if sum(1 for c in segments if c.size) == 1:
                path = closed.path.with_name(f"{entry.run.name}.nxs")
                if closed.path.exists():
                    self.keeper.storage.rename(closed.path, path)
                    self.keeper.storage.sync_folder(path.parent)
                named = replace(closed, path=path)
                self.keeper.book.add_segment(entry.run, named)
            self.keeper.add_segment(entry, named)
            if live is not None:
                with live.lock:
                    live.held.pop(closed.segment_id, None)

    def _in_outbox(self, closed: Closed) -> bool:
        return self.keeper.spool.outbox.item(closed.segment_id.hex()) is not None

    def _listed(self, entry: RunEntry, name: str, kind: ItemKind, item_id: str) -> Listed:
        """A file that is or was in the spool; its digest is known once it was sent, else it is computed now."""
        item = self.keeper.spool.outbox.item(item_id)
        path = self.keeper.folder(entry.run) / name
        digest = item.sha256 if item is not None and item.sha256 is not None else file_digest(path)
        return Listed(name, item.size if item is not None else path.stat().st_size, digest, kind)

    def _vendor_files(self, segments: Sequence[Closed]) -> list[Listed]:
        leaves = [parse(payload) for closed in segments for payload in closed.leaves]
        return [Listed(leaf.path, leaf.size, leaf.digest, ItemKind.FILE) for leaf in leaves if isinstance(leaf, FileLeaf)]

    def _master(self, entry: RunEntry, segments: Sequence[Closed], record: str) -> Listed | None:
        name = f"{entry.run.name}.nxs"
        if any(c.path.name == name for c in segments):
            return None
        parts = [Part(c.path.name, c.shapes, c.dtypes) for c in segments if c.size]
        path = self.keeper.folder(entry.run) / name
        partial = path.with_name(name + ".part")
        self.keeper.storage.unlink(partial)
        write_master(partial, entry.run, self.keeper.site, entry.outcome, record, parts)
        self._in_place(partial, path)
        return Listed(name, path.stat().st_size, file_digest(path), ItemKind.MASTER)

    def _sidecar(
        self, entry: RunEntry, segments: Sequence[Closed], listed: Sequence[Listed], master: Listed | None, others: dict[str, bytes]
    ) -> Listed:
        run, session = entry.run, self.keeper.session
        by_name = {each.name: each for each in listed}
        entries = []
        for c in segments:
            name = c.path.name if c.size else None
            entries.append(
                SegmentEntry(c.ordinal, c.segment_id, name, c.size, by_name[name].sha256 if name else bytes(32), c.head, int(c.state))
            )
        files = tuple(NamedFile(each.name, each.size, each.sha256) for each in listed if each.kind is ItemKind.FILE)
        statement = RunStatement(
            session.agent_id, run.run_no, run.run_id, tuple(entries), files,
            None if master is None else NamedFile(master.name, master.size, master.sha256),
            others, _gap_summary(segments), entry.outcome, policy_digest(run.label.access.value, run.label.allowed),
        )  # fmt: skip
        signed = cose.sign(session.key, cose.RUN, statement.payload())
        trees = {c.segment_id: c.leaves for c in segments if not c.size}
        sidecar = Sidecar(signed, tuple(c.head_cose for c in segments), self.keeper.chains(segments), trees)
        return self._paper(entry, f"{run.name}.hsc", ItemKind.SIDECAR, sidecar.encode(), fixed=True)

    def _paper(self, entry: RunEntry, name: str, kind: ItemKind, data: bytes, *, fixed: bool = False) -> Listed:
        path = self.keeper.folder(entry.run) / name
        if not (fixed and path.exists()):
            partial = path.with_name(name + ".part")
            partial.write_bytes(data)
            self._in_place(partial, path)
        return Listed(name, path.stat().st_size, file_digest(path), kind)

    def _in_place(self, partial: Path, path: Path) -> None:
        self.keeper.storage.sync_file(partial)
        self.keeper.storage.rename(partial, path)
        self.keeper.storage.sync_folder(path.parent)


def _gap_summary(segments: Sequence[Closed]) -> tuple[tuple[str, int, int | None], ...]:
    """Per source: number of gaps, and items missing, None as soon as one gap is of unknown size."""
    summary: dict[str, tuple[int, int | None]] = {}
    for closed in segments:
        for source, gaps in closed.gaps.items():
            n, missing = summary.get(source, (0, 0))
            for gap in gaps:
                n += 1
                missing = None if missing is None or gap.count is None else missing + gap.count
            summary[source] = (n, missing)
    return tuple((source, n, missing) for source, (n, missing) in sorted(summary.items()))
