"""Opens, resumes and closes runs, and hands every closed segment to the agent log, the book and the outbox, in that order.

Order for a closed segment, each step durable before the next: SEGMENT_CLOSE in the agent log, the segment in the book, the outbox
row (or, at the end of a run, the naming step); then the journal is removed, while the writer goes on. A crash in between is found by
`Salvage`: a journal beside a final file is finished again, idempotently. A disk, a log or a database that refuses a step makes the writer
wait and do it again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo
from functools import partial
from pathlib import Path

from edge_agent.errors import DiskError, EdgeAgentError
from edge_agent.model import Cause, FileItem, ItemKind, Label, OutboxItem, RunContext, Stream
from edge_agent.record.agent_log import AgentLog
from edge_agent.record.clock import boot_time_ns
from edge_agent.record.journal import Opening, scan
from edge_agent.record.recorder import Recorder
from edge_agent.record.recording import Recording, run_folder
from edge_agent.record.recovery import Damaged, NothingDurable, recover
from edge_agent.record.row_series import OWN_STREAMS
from edge_agent.record.segment_writer import JOURNAL, PART, Closed, SegmentWriter
from edge_agent.record.series import FRAME_LIMITS, ROW_LIMITS, Limits, RunState
from edge_agent.record.session import Session
from edge_agent.runs.book import Book, RunEntry, Stage
from edge_agent.runs.held import Held
from edge_agent.runs.intake import Intake
from edge_agent.runs.live import LiveRun, counts_of
from edge_agent.runs.logbook import Logbook
from edge_agent.runs.mirror import Mirror
from edge_agent.runs.settling import Settling
from edge_agent.seal import cose
from edge_agent.seal.cbor import SealError, dumps, loads
from edge_agent.seal.clock import Clock
from edge_agent.seal.keys import KeyChain, joined, key_chain, parse_session
from edge_agent.seal.leaf import FileLeaf, RunOpen
from edge_agent.seal.leaf import parse as parse_leaf
from edge_agent.seal.log_leaf import Quarantine
from edge_agent.seal.policy import policy_digest
from edge_agent.segment import peek
from edge_agent.segment.tags import Tag
from edge_agent.spool.disk import DiskState, size_text
from edge_agent.spool.ledger import Counts, StreamTotals
from edge_agent.spool.spool import Spool
from edge_agent.storage import Storage, durable

log = logging.getLogger(__name__)

RECOVERY_ROOM = 1 << 20
TOTALS_WAIT = 1.0
"""Seconds that the conservation table waits for the writer thread."""


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
    role: str = ""
    rule: str = ""
    rule_source: str = ""
    refused: str = ""


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
    own_streams: int = OWN_STREAMS
    known_rows: Callable[[str], int] = lambda group: 0
    """How many row streams of single values a group is known to have: it decides where they stand in its next run."""
    now_ns: Callable[[], int] = time.time_ns
    boot_ns: Callable[[], int] = boot_time_ns
    clock: Callable[[], Clock] = Clock
    disk: Callable[[], DiskState] = lambda: DiskState.OK
    book: Book = field(init=False)
    logbook: Logbook = field(init=False)
    held: Held = field(init=False)
    settling: Settling = field(init=False)
    live: list[LiveRun] = field(init=False, default_factory=list)
    _tried: dict[NewRun, tuple[int, bytes, bool]] = field(init=False, default_factory=dict)
    """Runs that the disk did not let begin: number, id, and whether the agent log has them."""
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _counting: threading.RLock = field(init=False, default_factory=threading.RLock)

    def __post_init__(self) -> None:
        """Open the book."""
        self.book = Book(self.spool.state, Mirror(self.spool.folder / "book", self.storage))
        self.held = Held(self.spool.state, self.session.newest, self.session.agent_id)
        self.settling = Settling(self.spool, lambda: self.kick())
        self.logbook = Logbook(self)
        self.logbook.begin()

    def folder(self, run: RunContext) -> Path:
        """Where the files of a run are."""
        return run_folder(self.spool.folder, run.name)

    def open(self, new: NewRun) -> LiveRun:
        """Begin a run; its number is one more than the last. What the disk refuses keeps its number for the next try.

        Raises:
            DiskError: the disk refused.
        """
        try:
            return self._open(new)
        except sqlite3.Error as error:
            raise database_error(error) from error

    def _open(self, new: NewRun) -> LiveRun:
        same = replace(new, started_ns=0)
        number, run_id, logged = self._tried.get(same) or (self.spool.state.next_run_no(), os.urandom(16), False)
        self._tried[same] = number, run_id, logged
        date = datetime.fromtimestamp(new.started_ns / 1e9, UTC).astimezone(self.timezone).date().isoformat()
        run = RunContext(
            run_id, number, new.project, new.group, new.started_ns, f"{new.project}/{new.group}/{date}/{number:06d}",
            new.label, new.title, new.user, new.sample, new.trigger or new.kind, new.role, new.rule, new.rule_source, new.refused,
        )  # fmt: skip
        entry = RunEntry(run, Stage.OPEN, new.kind)
        if not logged:
            self.agent_log.append(RunOpen(number, run.run_id, policy_digest(run.label.access.value, run.label.allowed), new.started_ns))
            self._tried[same] = number, run_id, True
        # Its folder once, because segments and vendor files begin in it at the same time; the book last of all that the disk can
        # refuse: what did not begin may not look open, nor be gone on with at the next start.
        durable.make_folder(self.storage, self.folder(run))
        self.book.begin(entry)
        live = self._start(entry, [])
        del self._tried[same]
        return live

    def resume(self, entry: RunEntry) -> LiveRun:
        """Go on with a run that was interrupted; its counters go on from its last segments."""
        durable.make_folder(self.storage, self.folder(entry.run))
        return self._start(entry, self.book.segments(entry.run, self.folder(entry.run)), entry.run.started_ns)

    def _start(self, entry: RunEntry, before: Sequence[Closed], interrupted_since: int | None = None) -> LiveRun:
        run, folder = entry.run, self.folder(entry.run)
        live: LiveRun
        described = entry.encode()
        state = RunState(
            run, self.site, folder, lambda: self.session, self.storage,
            record=lambda: self.record(live.entry),
            context=lambda: dumps([described, self.session.chain.value()]),
            closed=lambda closed: self._closed(live, closed),
            broken=lambda segment: self._broken(live, segment),
            wait_for_disk=self.recorder.wait_for_disk,
            now_ns=self.now_ns,
            clock=self.clock,
            interrupted_since=interrupted_since,
        )  # fmt: skip
        for closed in sorted(before, key=lambda c: c.ordinal):
            state.ordinal = max(state.ordinal, closed.ordinal)
            state.previous[closed.series] = (closed.segment_id, closed.head)
            state.last_seq.update(closed.last_seq)
            state.last_time.update(closed.last_time)
            state.files |= _files_in(closed)
            state.tags = self._tags_of(closed) or state.tags
        if interrupted_since is not None:
            state.tails = self._frame_streams(before)
        recording = Recording(
            self.recorder, state, frame_limits=self.frame_limits, row_limits=self.row_limits,
            own_streams=self.own_streams, known_rows=self.known_rows(run.group),
        )  # fmt: skip
        live = LiveRun(entry, recording, Intake(recording, self.disk), self.now_ns, self.boot_ns)
        with self._lock:
            self.live.append(live)
        return live

    def lives(self) -> list[LiveRun]:
        """The runs that are being recorded."""
        with self._lock:
            return list(self.live)

    def _tags_of(self, closed: Closed) -> tuple[Tag, ...]:
        """The list of tags of a segment that is still here. Without it a run goes on all the same, with a list of its own."""
        if closed.series != "rows" or not closed.size or not self.storage.exists(closed.path):
            return ()
        try:
            return peek.tags_of(closed.path, self.storage)
        except (OSError, RuntimeError, LookupError, ValueError) as error:
            log.warning("%s: its list of tags cannot be read: %s", closed.path.name, error, extra={"code": "TAGS"})
            return ()

    def _frame_streams(self, before: Sequence[Closed]) -> dict[str, Stream]:
        """The frame streams of the segments that are still here, as the last one of each tells."""
        # A segment that had no frame yet when the crash came does not say what its frames would have been.
        last = {closed.series: closed.path for closed in before if f"/entry/instrument/{closed.series}/data" in closed.shapes}
        found: dict[str, Stream] = {}
        for key, path in last.items():
            try:
                found[key] = peek.frame_stream(path, key, self.storage)
            except (OSError, RuntimeError, LookupError, ValueError) as error:
                log.warning("%s: its stream cannot be read: %s", path.name, error, extra={"code": "SEGMENT_READ"})
        return found

    def forget(self, live: LiveRun) -> None:
        """The run is no longer recorded."""
        with self._lock:
            self.live.remove(live)

    def totals(self) -> dict[str, StreamTotals]:
        """The conservation table, taken on the writer thread between two items: there a segment is open or handed over, never both.

        When the writer is busy for long (a disk that refuses), the table is taken all the same and may be off for a moment.
        """
        asked = self.recorder.call(self._totals)
        try:
            return asked.result(TOTALS_WAIT)
        except TimeoutError:
            asked.cancel()
            return self._totals()

    def _totals(self) -> dict[str, StreamTotals]:
        lives = self.lives()
        with self._counting:
            opened: dict[str, Counts] = {}
            for live in lives:
                for key, counts in live.open_counts().items():
                    opened[key] = opened.get(key, Counts()) + counts
            return self.spool.ledger.totals(opened)

    def look(self) -> None:
        """Remember which segments are open, in all runs; called a few times a second."""
        for live in self.lives():
            live.look()

    def adopt(self, live: LiveRun, stream: Stream, item: FileItem, durable: Callable[[], None]) -> None:
        """Take a vendor's file into a run (worker thread), leave ``live.adopting``; ``durable`` is called once it is in the outbox."""

        def add(path: str, sha256: bytes) -> None:
            self.add_file(live.entry, stream.key, path, sha256)
            self.spool.state.remember_adopted(stream.key, item.name, item.size, item.mtime_ns)

        try:
            live.recording.file(stream, item, lambda *file: self.settling.put(partial(add, *file), durable)).result()
        finally:
            live.adopting.leave()

    def add_file(self, entry: RunEntry, key: str, path: str, sha256: bytes) -> None:
        """Put a vendor's file that stands in the run's folder into the outbox."""
        self._add(entry, ItemKind.FILE, path, sha256=sha256, counts={key: Counts(items=1)})

    def _closed(self, live: LiveRun, closed: Closed) -> None:
        """A segment closed in the normal way (writer thread); done again after a `DiskError`."""
        try:
            self._hand_over(live, closed)
        except sqlite3.Error as error:
            raise database_error(error) from error

    def _hand_over(self, live: LiveRun, closed: Closed) -> None:
        with live.lock:
            live.held[closed.segment_id] = closed
            live.handed_over(closed.segment_id)
        self.logbook.segment(live.entry, closed)
        self.book.add_segment(live.entry.run, closed)
        if not closed.size:
            with self._counting:
                self.spool.ledger.tally(f"tree-{closed.segment_id.hex()}", counts_of(closed))
                self._let_go(live, closed)
        elif not self._alone(live, closed):
            self.release(live, closed)
        if closed.journal_path is not None:
            self.recorder.remove(self.storage, closed.journal_path)

    def release(self, live: LiveRun, closed: Closed) -> None:
        """Put a held segment into the outbox; whoever counts sees it in one place at every moment."""
        with self._counting:
            self.add_segment(live.entry, closed)
            self._let_go(live, closed)

    def _let_go(self, live: LiveRun, closed: Closed) -> None:
        with live.lock:
            live.held.pop(closed.segment_id, None)

    def _alone(self, live: LiveRun, closed: Closed) -> bool:
        """Whether this may turn out to be the only segment of its run, which would then be called ``<run>.nxs``."""
        return closed.ordinal == 1 and live.entry.stage is Stage.CLOSING

    def _broken(self, live: LiveRun, segment: SegmentWriter) -> None:
        """A segment whose disk failed: recover what it had made durable (writer thread)."""
        closed = self.recover_one(live.entry, segment.folder, segment.name, segment.confirmed_position, Cause.DISK)
        if closed is None:
            with live.lock:
                live.handed_over(segment.opening.segment_id)
        else:
            live.recording.state.previous[closed.series] = (closed.segment_id, closed.head)
            live.recording.state.ordinal = max(live.recording.state.ordinal, closed.ordinal)
            self._closed(live, closed)

    def recover_one(
        self, entry: RunEntry, folder: Path, name: str, limit: int | None = None, cause: Cause = Cause.CRASH,
        damaged: list[str] | None = None,
    ) -> Closed | None:  # fmt: skip
        """Make a segment of one journal; None when there was nothing durable in it, or it is damaged and in quarantine now.

        Raises:
            DiskError: the disk refused; it can be tried again.
        """
        policy = policy_digest(entry.run.label.access.value, entry.run.label.allowed)
        try:
            chain = _chain_of(folder / (name + JOURNAL))
            _check_room(folder, name)
            return recover(
                folder, name, self.session, self.storage, self.now_ns, policy, chain=chain, limit=limit, cause=cause, clock=self.clock,
                last=entry.stage is not Stage.OPEN,
            )  # fmt: skip
        except NothingDurable:
            if self.logbook.was_open(entry.run, name):
                # HDF5 reads nothing of a file that was not closed, so what the data file holds cannot tell.
                why = "its journal has lost what it held: the agent log says that it was open"
                log.error("%s: %s; its files are in quarantine", name, why, extra={"code": Damaged.default_code})
                self.set_aside(folder, name, why, damaged)
                return None
            log.info("%s: nothing had been acknowledged", name)
            self.storage.unlink(folder / (name + PART))
            self.storage.unlink(folder / (name + JOURNAL))
        except DiskError:
            raise
        except Damaged as error:
            log.error("%s", error, extra={"code": error.code})
            self.set_aside(folder, name, str(error), damaged)
        except (EdgeAgentError, SealError, OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
            # What cannot be read must not keep the rest from being recovered, nor the agent from capturing.
            log.exception("%s cannot be recovered; its files are in quarantine", name)
            self.set_aside(folder, name, f"{type(error).__name__}: {error}", damaged)
        return None

    def set_aside(self, folder: Path, name: str, why: str, damaged: list[str] | None = None) -> None:
        """Move a segment that cannot be used to quarantine, its journal last; nothing is deleted. ``damaged`` gets its name."""
        paths = [path for suffix in ("", PART, JOURNAL) if (path := folder / (name + suffix)).exists()]
        if paths:
            self.spool.quarantine.set_aside(paths, why, name)
        known = next((entry.run.run_id for entry in self.book.entries() if entry.run.name == folder.name), None)
        self.agent_log.append(Quarantine(name, known, why, self.now_ns()))
        if damaged is not None:
            damaged.append(name)

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
        path, project = self.folder(run) / name, self.book.project(run)
        item = OutboxItem(
            item_id or _item_id(run, name), kind, path, f"{run.folder}/{name}", path.stat().st_size, run.run_id, run.run_no,
            run.project, run.label, segment_id, head_hash, sha256, {key: c.items for key, c in (counts or {}).items() if c.items},
        )  # fmt: skip
        if project != run.project:
            item = claimed_item(item, project)
        with self.spool.transaction():
            refused = run.refused if project == run.project else ""
            before = self.spool.outbox.deliveries(item.item_id) if refused else ()
            self.spool.outbox.add(item, routes.targets, routes.required, counts or {})
            if refused and (not before or any(d.state == "quarantined" for d in before)):
                self.spool.outbox.refuse(item.item_id, refused)
                self.agent_log.append(Quarantine(item.item_id, run.run_id, f"{project}: {refused}", self.now_ns()))

    def chain_of(self, kids: set[bytes], *more: KeyChain) -> KeyChain:
        """The keys of the sessions that have one of these kids, and of the chains in ``more``."""
        known = [key_chain(loads(data, "key chain")) for data in self.book.chains()]
        used = [c for c in known if any(kids & set(parse_session(cose.parse(s).payload).by_kid) for s in c.sessions)]
        return joined((*used, *more))

    def chains(self, segments: Sequence[Closed], session: Session) -> KeyChain:
        """Keys of every session that signed a close head among ``segments``, and of the one that signs now."""
        return self.chain_of({cose.parse_all(closed.head_cose).signatures[0].kid for closed in segments}, session.chain)


def database_error(error: sqlite3.Error) -> DiskError:
    """What to tell when SQLite cannot write: the caller waits and tries again."""
    return DiskError("The spool's database did not take it.", why=str(error), try_="free space on the spool's disk", code="SPOOL_WRITE")


def context_of_journal(journal_path: Path) -> tuple[bytes, KeyChain] | None:
    """The encoded run entry and the key chain that a journal begins with; None when it does not begin with anything."""
    first = next(scan(journal_path.read_bytes()), None)
    if not isinstance(first, Opening):
        return None
    entry, chain = loads(first.context, "journal context")
    return bytes(entry), key_chain(chain)


def _check_room(folder: Path, name: str) -> None:
    """Recovery writes the segment anew, beside the old one; HDF5 does not bear a disk that runs full meanwhile.

    Raises:
        DiskError: there is no room for it now.
    """
    part = folder / (name + PART)
    needed = (part.stat().st_size if part.exists() else 0) + (folder / (name + JOURNAL)).stat().st_size + RECOVERY_ROOM
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskError(
            f"There is no room to recover {name}.", why=f"it needs {size_text(needed)}, the disk has {size_text(free)}",
            try_="free space on the spool's disk; nothing that was durable is lost", code="DISK_FULL",
        )  # fmt: skip


def _files_in(closed: Closed) -> set[str]:
    """Paths of the vendor files that a tree has leaves of."""
    leaves = (parse_leaf(payload) for payload in closed.leaves)
    return {leaf.path for leaf in leaves if isinstance(leaf, FileLeaf)}


def _chain_of(journal_path: Path) -> KeyChain | None:
    context = context_of_journal(journal_path)
    return None if context is None else context[1]


def claimed_item(item: OutboxItem, project: str) -> OutboxItem:
    """The same file for another project's space: under another id, because a target knows the old one by its old place."""
    remote = f"{project}/{item.remote.partition('/')[2]}"
    new_id = f"{item.run_id.hex()}-{hashlib.sha256(remote.encode()).hexdigest()[:24]}"
    return replace(item, item_id=new_id, remote=remote, project=project)


def _item_id(run: RunContext, name: str) -> str:
    """A stable id of a file of a run: letters, digits, - and _."""
    return f"{run.run_id.hex()}-{hashlib.sha256(name.encode()).hexdigest()[:24]}"
