"""The papers of a finished run: final names, master, preview, crate, manifest, sidecar; then, with the witness's word, the receipts.

Every step can be done again. Papers are written beside their name and renamed; the sidecar is the last of them and signs the
others, so once ``<run>.hsc`` stands nothing is written anew, and before it stands nothing of them was sent. The crate goes into the
outbox last, because it is the mark that a run is complete at a target.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edge_agent.errors import EdgeAgentError
from edge_agent.model import ItemKind
from edge_agent.record.segment_writer import Closed
from edge_agent.runs.book import AMENDMENT, NAMED, RunEntry, Stage
from edge_agent.runs.keeper import Keeper
from edge_agent.runs.live import LiveRun
from edge_agent.seal import cose
from edge_agent.seal.leaf import FileLeaf, RunClose, parse
from edge_agent.seal.policy import policy_digest
from edge_agent.seal.receipt import Inclusion, Receipts, parse_receipts, parse_witness
from edge_agent.seal.sidecar import NamedFile, RunStatement, SegmentEntry, Sidecar
from edge_agent.segment.master import Part, write_master
from edge_agent.storage import durable

log = logging.getLogger(__name__)

PREVIEW = "preview.png"
MANIFEST = "manifest-sha256.txt"
CRATE = "ro-crate-metadata.json"
SIDECAR, WITNESSED, TOKEN = "sidecar", "witnessed", "token-"
"""Names of what is kept of a closed run: SHA-256 of the sidecar; receipts of witnesses; tokens by what they stamp."""
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


class Interrupted(EdgeAgentError):
    """The daemon stops; the papers are made by the next start."""

    default_code = "STOPPING"


@dataclass(slots=True)
class Papers:
    """Makes the papers; runs in a worker thread."""

    keeper: Keeper
    record: RecordMaker
    crate: CrateMaker
    preview: PreviewMaker
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set: give up between two steps."""
    signed: Callable[[RunEntry, bytes], None] = lambda entry, sidecar: None
    """Called with a run at stage closed and the SHA-256 of its sidecar."""

    def make(self, entry: RunEntry, live: LiveRun | None) -> RunEntry:
        """From the last closed segment to the signed sidecar in the outbox; returns the entry at stage closed.

        Raises:
            Interrupted: the daemon stops.
        """
        run, folder = entry.run, self.keeper.folder(entry.run)
        folder.mkdir(parents=True, exist_ok=True)
        self._name_segments(entry, live)
        segments = self.keeper.book.segments(run, folder)
        sidecar = folder / f"{run.name}.hsc"
        if sidecar.exists():
            # A crash may have come between its rename and the name's being durable, and the agent log tells of it next.
            self.keeper.storage.sync_folder(folder)
        else:
            self._write(entry, segments)
        for kind, name in self._standing(entry, segments):
            self.keeper.add_paper(entry, kind, name, self._digest(folder / name))
        digest = self._digest(sidecar)
        self.keeper.agent_log.append(RunClose(run.run_no, run.run_id, digest, self.keeper.now_ns()))
        self.keeper.book.put_late(run, SIDECAR, digest)
        done = entry.at(Stage.CLOSED)
        self.keeper.book.put(done)
        self.signed(done, digest)
        return done

    def complete(
        self, entry: RunEntry, certificates: Sequence[bytes], witnesses: Sequence[bytes], inclusions: Sequence[Inclusion], *,
        final: bool = True,
    ) -> None:  # fmt: skip
        """With the witness's word (or without one, when no target witnesses): receipts, then the crate.

        Args:
            entry: the run, at stage closed.
            certificates: DER of the receipt certificates.
            witnesses: COSE of the witness receipts that cover the run.
            inclusions: proofs that its segments are in the witnessed logs.
            final: no more receipts will come; else the receipts are written again when they do.
        """
        run, outbox = entry.run, self.keeper.spool.outbox
        if witnesses:
            custody = []
            for item in outbox.items_of_run(run.run_id):
                # Not of the receipts themselves: that would change them.
                if item.kind is not ItemKind.RECEIPTS:
                    custody += [d.receipt.cose for d in outbox.deliveries(item.item_id) if d.receipt is not None and d.receipt.cose]
            receipts = Receipts(tuple(certificates), (*witnesses, *custody), tuple(inclusions)).encode()
            self.keep_late(entry, WITNESSED, receipts)
        crate = self.keeper.folder(run) / CRATE
        if crate.exists():
            self.keeper.add_paper(entry, ItemKind.CRATE, CRATE, self._digest(crate))
        if final:
            with self.keeper.spool.transaction():
                self.keeper.book.done(entry)

    def keep_late(self, entry: RunEntry, name: str, data: bytes) -> None:
        """Keep a token, an amendment or the witness's word, and send the receipts anew with all that is kept, in one transaction."""
        run = entry.run
        with self.keeper.spool.transaction():
            self.keeper.book.put_late(run, name, data)
            self.keeper.folder(run).mkdir(parents=True, exist_ok=True)
            paper = self._paper(entry, f"{run.name}.receipts", ItemKind.RECEIPTS, self._receipts(entry).encode())
            self.keeper.add_paper(entry, ItemKind.RECEIPTS, paper.name, paper.sha256)

    def _receipts(self, entry: RunEntry) -> Receipts:
        late = self.keeper.book.late(entry.run)
        receipts = parse_receipts(late[WITNESSED]) if WITNESSED in late else Receipts()
        if receipts.receipts:
            named = (data for name, data in late.items() if name.startswith(NAMED))
            receipts = replace(receipts, receipts=tuple(dict.fromkeys((*receipts.receipts, *named))))
        amendments = tuple(data for name, data in late.items() if name.startswith(AMENDMENT))
        # A newer receipt of a witness may have taken the place of the one whose head was stamped.
        heads = {parse_witness(w.payload).head for data in receipts.receipts if (w := cose.parse(data)).content_type == cose.WITNESS}
        stamped = {f"{TOKEN}{digest.hex()}" for digest in (*heads, late.get(SIDECAR, b""))}
        tokens = tuple(data for name, data in late.items() if name in stamped)
        chain = self.keeper.chain_of({cose.parse_all(data).signatures[0].kid for data in amendments}) if amendments else receipts.chain
        return replace(receipts, tokens=tokens, amendments=amendments, chain=chain)

    def _write(self, entry: RunEntry, segments: Sequence[Closed]) -> None:
        """Everything that the sidecar signs, then the sidecar."""
        record = self.record(entry, segments)
        listed = [self._listed(entry, c.path.name, ItemKind.SEGMENT, c.segment_id.hex()) for c in segments if c.size]
        listed += self._vendor_files(segments)
        master = self._master(entry, segments, record)
        if master is not None:
            listed.append(master)
        self._check()
        picture = self.preview(entry, segments)
        self._check()
        if picture is not None:
            listed.append(self._paper(entry, PREVIEW, ItemKind.PREVIEW, picture))
        crate = self._paper(entry, CRATE, ItemKind.CRATE, self.crate(entry, segments, listed))
        listed.append(crate)
        lines = "".join(f"{each.sha256.hex()}  {each.name}\n" for each in sorted(listed, key=lambda each: each.name))
        manifest = self._paper(entry, MANIFEST, ItemKind.MANIFEST, lines.encode())
        named = (ItemKind.PREVIEW, ItemKind.CRATE, ItemKind.MANIFEST)
        others = {each.name: each.sha256 for each in (*listed, manifest) if each.kind in named}
        self._sidecar(entry, segments, listed, master, others)

    def _standing(self, entry: RunEntry, segments: Sequence[Closed]) -> list[tuple[ItemKind, str]]:
        """The papers that are sent before the run is complete."""
        run, folder = entry.run, self.keeper.folder(entry.run)
        papers = [(ItemKind.PREVIEW, PREVIEW), (ItemKind.MANIFEST, MANIFEST), (ItemKind.SIDECAR, f"{run.name}.hsc")]
        master = f"{run.name}.nxs"
        if all(c.path.name != master for c in segments):
            papers.insert(0, (ItemKind.MASTER, master))
        return [(kind, name) for kind, name in papers if (folder / name).exists()]

    def _check(self) -> None:
        if self.stopping.is_set():
            raise Interrupted("The agent stops", try_="the papers of the run are made at the next start")

    def _digest(self, path: Path) -> bytes:
        """SHA-256 of a file, 32 bytes."""
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                self._check()
                digest.update(piece)
        return digest.digest()

    def _name_segments(self, entry: RunEntry, live: LiveRun | None) -> None:
        """The only segment of a run is called ``<run>.nxs``; what was held back goes into the outbox under its final name."""
        segments = self.keeper.book.segments(entry.run, self.keeper.folder(entry.run))
        for closed in [c for c in segments if c.size and not self._in_outbox(c)]:
            named, path = closed, closed.path.with_name(f"{entry.run.name}.nxs")
            if not closed.path.exists() and not path.exists():
                continue  # freed before the database was lost: every required target has it
            if sum(1 for c in segments if c.size) == 1:
                if closed.path.exists():
                    self.keeper.storage.rename(closed.path, path)
                # Also what was renamed before a crash: the book has its new name next.
                self.keeper.storage.sync_folder(path.parent)
                named = replace(closed, path=path)
                self.keeper.book.add_segment(entry.run, named)
            if live is None:
                self.keeper.add_segment(entry, named)
            else:
                self.keeper.release(live, named)

    def _in_outbox(self, closed: Closed) -> bool:
        return self.keeper.spool.outbox.item(closed.segment_id.hex()) is not None

    def _listed(self, entry: RunEntry, name: str, kind: ItemKind, item_id: str) -> Listed:
        """A file that is or was in the spool; its digest is known once it was sent, else it is computed now."""
        item = self.keeper.spool.outbox.item(item_id)
        path = self.keeper.folder(entry.run) / name
        digest = item.sha256 if item is not None and item.sha256 is not None else self._digest(path)
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
        return Listed(name, path.stat().st_size, self._digest(path), ItemKind.MASTER)

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
        signed = cose.sign_all(session.keys, cose.RUN, statement.payload())
        trees = {c.segment_id: c.leaves for c in segments if not c.size}
        sidecar = Sidecar(signed, tuple(c.head_cose for c in segments), self.keeper.chains(segments, session), trees)
        return self._paper(entry, f"{run.name}.hsc", ItemKind.SIDECAR, sidecar.encode())

    def _paper(self, entry: RunEntry, name: str, kind: ItemKind, data: bytes) -> Listed:
        path = self.keeper.folder(entry.run) / name
        durable.replace_file(self.keeper.storage, path, data)
        return Listed(name, len(data), hashlib.sha256(data).digest(), kind)

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
