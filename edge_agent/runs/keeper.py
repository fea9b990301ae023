"""Opens, resumes and closes runs, and hands every closed segment to the agent log, the book and the outbox, in that order.

Order for a closed segment, each step durable before the next: SEGMENT_CLOSE in the agent log, the segment in the book, the outbox
row (or, at the end of a run, the naming step), then the journal is removed. A crash in between is found by `Keeper.recover`: a
journal beside a final file is finished again, idempotently.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from pathlib import Path

from edge_agent.model import FileItem, ItemKind, Label, OutboxItem, RunContext, Stream
from edge_agent.record.agent_log import AgentLog
from edge_agent.record.journal import Opening, scan
from edge_agent.record.recorder import Recorder
from edge_agent.record.recording import Recording, run_folder
from edge_agent.record.recovery import Damaged, NothingDurable, recover
from edge_agent.record.segment_writer import JOURNAL, PART, Closed, SegmentWriter
from edge_agent.record.series import FRAME_LIMITS, ROW_LIMITS, Limits, RunState
from edge_agent.record.session import Session
from edge_agent.runs.book import Book, RunEntry, Stage, entry_of
from edge_agent.runs.live import LiveRun, counts_of
from edge_agent.seal import cose
from edge_agent.seal.cbor import dumps, loads
from edge_agent.seal.keys import KeyChain, key_chain, parse_session
from edge_agent.seal.leaf import FileLeaf, RunOpen, SegmentClose, parse
from edge_agent.seal.policy import policy_digest
from edge_agent.spool.ledger import Counts
from edge_agent.spool.spool import Spool
from edge_agent.storage import Storage

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Routes:
    """Which targets get the data of a group, and whose proof frees the space."""

    targets: tuple[str, ...]
    required: frozenset[str]


@dataclass(frozen=True, slots=True)
class NewRun:
    """What a run begins with."""

    group: str
    kind: str
    project: str
    label: Label
    started_ns: int
    title: str = ""
    user: str = ""
    sample: str = ""
    trigger: str = ""


@dataclass(slots=True)
class Recovered:
    """What a start found of the run before."""

    segments: int = 0
    items: dict[str, int] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Keeper:
    """See the module. Its callbacks run on the writer thread; everything they touch is thread-safe."""

    site: str
    timezone: tzinfo
    spool: Spool
    storage: Storage
    session: Session
    recorder: Recorder
    agent_log: AgentLog
    routes: Callable[[str], Routes]
    record: Callable[[RunEntry], str]
    kick: Callable[[], None]
    frame_limits: Limits = FRAME_LIMITS
    row_limits: Limits = ROW_LIMITS
    preallocate: int = 0
    now_ns: Callable[[], int] = time.time_ns
    book: Book = field(init=False)
    live: list[LiveRun] = field(init=False, default_factory=list)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Open the book."""
        self.book = Book(self.spool.state)
        self.spool.state.put(f"chain/{self.session.boot_id.hex()}", self.session.chain.encode())

    def folder(self, run: RunContext) -> Path:
        """Where the files of a run are."""
        return run_folder(self.spool.folder, run.name)

    def open(self, new: NewRun) -> LiveRun:
        """Begin a run; its number is one more than the last."""
        number = self.spool.state.next_run_no()
        date = datetime.fromtimestamp(new.started_ns / 1e9, UTC).astimezone(self.timezone).date().isoformat()
        run = RunContext(
            os.urandom(16), number, new.project, new.group, new.started_ns, f"{new.project}/{new.group}/{date}/{number:06d}",
            new.label, new.title, new.user, new.sample, new.trigger or new.kind,
        )  # fmt: skip
        entry = RunEntry(run, Stage.OPEN, new.kind)
        self.agent_log.append(RunOpen(number, run.run_id, policy_digest(run.label.access.value, run.label.allowed), new.started_ns))
        self.book.put(entry)
        return self._start(entry, [])

    def resume(self, entry: RunEntry) -> LiveRun:
        """Go on with a run that was interrupted; its counters go on from its last segments."""
        return self._start(entry, self.book.segments(entry.run, self.folder(entry.run)))

    def _start(self, entry: RunEntry, before: Sequence[Closed]) -> LiveRun:
        run = entry.run
        live: LiveRun
        context = dumps([entry.encode(), self.session.chain.value()])
        state = RunState(
            run, self.site, self.folder(run), self.session, self.storage,
            record=lambda: self.record(live.entry),
            context=lambda: context,
            closed=lambda closed: self._closed(live, closed),
            broken=lambda segment: self._broken(live, segment),
            wait_for_disk=self.recorder.wait_for_disk,
            now_ns=self.now_ns,
        )  # fmt: skip
        for closed in sorted(before, key=lambda c: c.ordinal):
            state.ordinal = max(state.ordinal, closed.ordinal)
            state.previous[closed.series] = (closed.segment_id, closed.head)
            state.last_seq.update(closed.last_seq)
            state.last_time.update(closed.last_time)
        recording = Recording(
            self.recorder, state, frame_limits=self.frame_limits, row_limits=self.row_limits, preallocate=self.preallocate
        )
        live = LiveRun(entry, recording)
        with self._lock:
            self.live.append(live)
        return live

    def forget(self, live: LiveRun) -> None:
        """The run is no longer recorded."""
        with self._lock:
            self.live.remove(live)

    def open_counts(self) -> dict[str, Counts]:
        """What is durable in open runs and not yet in the outbox, per stream."""
        with self._lock:
            lives = list(self.live)
        totals: dict[str, Counts] = {}
        for live in lives:
            for key, counts in live.open_counts().items():
                totals[key] = totals.get(key, Counts()) + counts
        return totals

    def adopt(self, live: LiveRun, stream: Stream, item: FileItem, durable: Callable[[], None]) -> None:
        """Take a vendor's file into a run (worker thread); in the outbox and in the catalogue when ``durable`` is called."""

        def done(path: str) -> None:
            self._add_file(live.entry, stream, item, path)
            durable()

        live.recording.file(stream, item, done).result()

    def _add_file(self, entry: RunEntry, stream: Stream, item: FileItem, path: str) -> None:
        with self.spool.transaction():
            self._add(entry, ItemKind.FILE, path, counts={stream.key: Counts(items=1)})
            self.spool.state.remember_adopted(stream.key, item.name, item.size, item.mtime_ns)
        self.kick()

    def _closed(self, live: LiveRun, closed: Closed) -> None:
        """A segment closed in the normal way (writer thread)."""
        self._log(live.entry, closed)
        self.book.add_segment(live.entry.run, closed)
        if not closed.size:
            self.spool.ledger.tally(f"tree-{closed.segment_id.hex()}", counts_of(closed))
        elif self._alone(live, closed):
            with live.lock:
                live.held[closed.segment_id] = closed
        else:
            self.add_segment(live.entry, closed)
        if closed.journal_path is not None:
            self.storage.unlink(closed.journal_path)

    def _alone(self, live: LiveRun, closed: Closed) -> bool:
        """Whether this may turn out to be the only segment of its run, which would then be called ``<run>.nxs``."""
        return closed.ordinal == 1 and live.entry.stage is Stage.CLOSING

    def _broken(self, live: LiveRun, segment: SegmentWriter) -> None:
        """A segment whose disk failed: recover what it had made durable."""
        closed = self._recover_one(live.entry, segment.folder, segment.name, None, segment.confirmed_position)
        if closed is not None:
            live.recording.state.previous[closed.series] = (closed.segment_id, closed.head)
            live.recording.state.ordinal = max(live.recording.state.ordinal, closed.ordinal)
            self._closed(live, closed)

    def _log(self, entry: RunEntry, closed: Closed) -> None:
        if self.agent_log.segment_close(closed.segment_id, closed.head) is None:
            self.agent_log.append(SegmentClose(closed.segment_id, closed.head, entry.run.run_id, closed.ordinal, self.now_ns()))

    def add_segment(self, entry: RunEntry, closed: Closed) -> None:
        """Put a closed segment into the outbox; durable before its journal goes."""
        self._add(
            entry, ItemKind.SEGMENT, closed.path.name, item_id=closed.segment_id.hex(), segment_id=closed.segment_id,
            head_hash=closed.head, counts=counts_of(closed),
        )  # fmt: skip
        self.kick()

    def add_paper(self, entry: RunEntry, kind: ItemKind, name: str, sha256: bytes) -> None:
        """Put a master, sidecar, preview, manifest, receipts file or crate of a run into the outbox."""
        self._add(entry, kind, name, sha256=sha256)
        self.kick()

    def _add(
        self, entry: RunEntry, kind: ItemKind, name: str, *, item_id: str = "", segment_id: bytes = bytes(16),
        head_hash: bytes = bytes(32), sha256: bytes | None = None, counts: Mapping[str, Counts] | None = None,
    ) -> None:  # fmt: skip
        run, routes = entry.run, self.routes(entry.run.group)
        path = self.folder(run) / name
        item = OutboxItem(
            item_id or _item_id(run, name), kind, path, f"{run.folder}/{name}", path.stat().st_size, run.run_id, run.run_no,
            run.project, run.label, segment_id, head_hash, sha256, {key: c.items for key, c in (counts or {}).items() if c.items},
        )  # fmt: skip
        self.spool.outbox.add(item, routes.targets, routes.required, counts or {})

    def chains(self, segments: Sequence[Closed]) -> KeyChain:
        """Keys of every boot that signed a close head among ``segments``, and of this one."""
        wanted = {cose.parse(closed.head_cose).kid for closed in segments}
        known = [key_chain(loads(data, "key chain")) for data in self.spool.state.under("chain/").values()]
        used = [c for c in known if any(cose.thumbprint(parse_session(cose.parse(s).payload).key) in wanted for s in c.sessions)]
        mine = self.session.chain
        certificates = dict.fromkeys(der for chain in (*used, mine) for der in chain.certificates)
        sessions = dict.fromkeys(record for chain in (*used, mine) for record in chain.sessions)
        return KeyChain(tuple(certificates), tuple(sessions))

    def recover(self) -> tuple[Recovered, list[RunEntry]]:
        """Finish what a crash left: every journal becomes a segment; returns what was found and the runs that are not done."""
        found = Recovered()
        known = {entry.run.name: entry for entry in self.book.entries()}
        for journal_path in sorted((self.spool.folder / "runs").glob(f"*/*{JOURNAL}")):
            folder, name = journal_path.parent, journal_path.name.removesuffix(JOURNAL)
            entry = known.get(folder.name) or _entry_from(journal_path)
            if entry is None:
                self._set_aside(folder, name, "its run is not known")
                continue
            if entry.run.name not in known:
                known[entry.run.name] = entry
                self.book.put(entry)
            closed = self._recover_one(entry, folder, name, found, None)
            if closed is not None:
                found.segments += 1
                for key, n in closed.counts.items():
                    found.items[key] = found.items.get(key, 0) + n
                self._take_recovered(entry, closed)
        return found, list(known.values())

    def _take_recovered(self, entry: RunEntry, closed: Closed) -> None:
        self._log(entry, closed)
        self.book.add_segment(entry.run, closed)
        if closed.size:
            self.add_segment(entry, closed)
        else:
            self._files_of(entry, closed)
            self.spool.ledger.tally(f"tree-{closed.segment_id.hex()}", counts_of(closed))
        if closed.journal_path is not None:
            self.storage.unlink(closed.journal_path)

    def _files_of(self, entry: RunEntry, closed: Closed) -> None:
        """Vendor files that were durable in the tree when the crash came, and perhaps not yet in the outbox."""
        for payload in closed.leaves:
            leaf = parse(payload)
            if isinstance(leaf, FileLeaf) and (self.folder(entry.run) / leaf.path).exists():
                _, instrument, name = leaf.path.split("/", 2)
                key = f"{instrument}/files"
                self._add(entry, ItemKind.FILE, leaf.path, counts={key: Counts(items=1)})
                self.spool.state.remember_adopted(key, name, leaf.size, leaf.mtime_ns)

    def _recover_one(self, entry: RunEntry, folder: Path, name: str, found: Recovered | None, limit: int | None) -> Closed | None:
        policy = policy_digest(entry.run.label.access.value, entry.run.label.allowed)
        try:
            chain = _chain_from(folder / (name + JOURNAL))
            return recover(folder, name, self.session, self.storage, self.now_ns, policy, chain=chain, limit=limit)
        except NothingDurable:
            log.info("%s: nothing had been acknowledged", name)
            self.storage.unlink(folder / (name + PART))
            self.storage.unlink(folder / (name + JOURNAL))
        except Damaged as error:
            log.error("%s", error, extra={"code": error.code})
            self._set_aside(folder, name, str(error))
            if found is not None:
                found.damaged.append(name)
        return None

    def _set_aside(self, folder: Path, name: str, why: str) -> None:
        """Move what cannot be used to quarantine; nothing is deleted."""
        home = self.spool.folder / "quarantine" / f"{folder.name}-{name}"
        home.mkdir(parents=True, exist_ok=True)
        for suffix in ("", PART, JOURNAL):
            path = folder / (name + suffix)
            if path.exists():
                self.storage.rename(path, home / path.name)
        (home / "reason.txt").write_text(why + "\n", encoding="utf-8")
        self.storage.sync_folder(home)


def _item_id(run: RunContext, name: str) -> str:
    """A stable id of a file of a run: letters, digits, - and _."""
    return f"{run.run_id.hex()}-{hashlib.sha256(name.encode()).hexdigest()[:24]}"


def _context(journal_path: Path) -> tuple[bytes, KeyChain] | None:
    first = next(scan(journal_path.read_bytes()), None)
    if not isinstance(first, Opening):
        return None
    entry, chain = loads(first.context, "journal context")
    return entry, key_chain(chain)


def _chain_from(journal_path: Path) -> KeyChain | None:
    context = _context(journal_path)
    return None if context is None else context[1]


def _entry_from(journal_path: Path) -> RunEntry | None:
    context = _context(journal_path)
    if context is None:
        return None
    return entry_of(context[0])


def describe(found: Recovered) -> str:
    """One sentence for the log and the status."""
    if not found.segments and not found.damaged:
        return "nothing to recover"
    items = json.dumps(found.items, sort_keys=True)
    damaged = f"; damaged and in quarantine: {', '.join(found.damaged)}" if found.damaged else ""
    return f"recovered {found.segments} interrupted segments: {items}{damaged}"
