"""What must be known of a run after a crash: kept in the spool's state, one entry a run and one a closed segment.

Stages: ``open`` (recording, or interrupted while recording), ``closing`` (all segments are closed, its papers are being made),
``closed`` (signed and in the outbox), ``done`` (witnessed and complete).
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from edge_agent.errors import DiskError
from edge_agent.model import Access, Label, RunContext
from edge_agent.record.segment_writer import JOURNAL, Closed
from edge_agent.runs.held import receipt
from edge_agent.runs.mirror import Mirror
from edge_agent.seal import cose
from edge_agent.seal.cbor import SealError, dumps, loads
from edge_agent.seal.head import State as HeadState
from edge_agent.seal.head import parse_head
from edge_agent.seal.leaf import GapLeaf
from edge_agent.spool.state import State

log = logging.getLogger(__name__)

NAMED = "receipt-"
"""Among what came late: a receipt that a close head of the run names, by its SHA-256."""
LATER = ("role", "rule", "rule_source", "refused")
"""Texts of a run context that agents did not write from the beginning, in the order in which they came to be."""
PUBLISHED = "published"
"""Of a public key: the runs that say, signed, that it was published; by key and run."""
AMENDMENT = "amendment-"
"""Among what came late: an amendment, by its number."""
CLAIMED = "claimed"
"""Among what came late: the project that a person claimed the run for."""


class Stage(StrEnum):
    """See the module."""

    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class RunEntry:
    """A run as the book knows it. ``kind`` is session, trigger or daily; ``facts`` what the instruments said of themselves."""

    run: RunContext
    stage: Stage
    kind: str
    outcome: str = ""
    ended_ns: int = 0
    facts: Mapping[str, Mapping[str, str | int | float]] = field(default_factory=dict)

    def at(self, stage: Stage) -> RunEntry:
        """The same run at another stage."""
        return replace(self, stage=stage)

    def encode(self) -> bytes:
        """For the spool's state."""
        # As JSON text: facts may be floats, which HSC/1's CBOR does not use.
        facts = json.dumps({instrument: dict(values) for instrument, values in self.facts.items()})
        return dumps([context_value(self.run), self.stage.value, self.kind, self.outcome, self.ended_ns, facts])


def context_value(run: RunContext) -> list[Any]:
    """A run context as CBOR values."""
    return [
        run.run_id, run.run_no, run.project, run.group, run.started_ns, run.folder, run.label.access.value, sorted(run.label.allowed),
        run.title, run.user, run.sample, run.trigger, run.role, run.rule, run.rule_source, run.refused,
        None if run.label.jurisdictions is None else sorted(run.label.jurisdictions),
    ]  # fmt: skip


def context_of(value: Any) -> RunContext:
    """The inverse of `context_value`; an agent that did not ask yet for a role or a rule wrote none."""
    run_id, run_no, project, group, started, folder, access, allowed, title, user, sample, trigger, *later = value
    countries = later.pop() if len(later) > len(LATER) else None
    label = Label(Access(access), frozenset(allowed), None if countries is None else frozenset(countries))
    return RunContext(run_id, run_no, project, group, started, folder, label, title, user, sample, trigger, *later)


def entry_of(data: bytes) -> RunEntry:
    """The inverse of `RunEntry.encode`."""
    run, stage, kind, outcome, ended, facts = loads(data, "run book")
    return RunEntry(context_of(run), Stage(stage), kind, outcome, ended, json.loads(facts))


def _closed_value(closed: Closed) -> bytes:
    gaps = [[g.source_id, g.first, g.last, g.cause, g.count, g.t_from, g.t_to, g.detail] for leaves in closed.gaps.values() for g in leaves]
    shapes = {path: list(shape) for path, shape in closed.shapes.items()}
    return dumps(
        [
            closed.path.name, closed.segment_id, closed.head, closed.head_cose, int(closed.state), closed.size,
            closed.ordinal, closed.series,
            dict(closed.counts), gaps, dict(closed.last_seq), dict(closed.last_time), shapes, dict(closed.dtypes), list(closed.leaves),
        ]
    )  # fmt: skip


def _closed(folder: Path, data: bytes) -> Closed:
    name, segment_id, head, head_cose, state, size, ordinal, series, counts, gaps, seqs, times, shapes, dtypes, leaves = loads(
        data, "run book"
    )
    by_source: dict[str, list[GapLeaf]] = {}
    for gap in gaps:
        by_source.setdefault(gap[0], []).append(GapLeaf(*gap))
    return Closed(
        folder / name, None, segment_id, head, head_cose, HeadState(state), size, ordinal, series, counts, by_source, seqs, times,
        {path: tuple(shape) for path, shape in shapes.items()}, dtypes, tuple(leaves),
    )  # fmt: skip


class Book:
    """Durable when a method returns; from any thread."""

    def __init__(self, state: State, mirror: Mirror) -> None:
        """Keep the book in the spool's state, and a copy of it in files."""
        self._state = state
        self._mirror = mirror

    def put(self, entry: RunEntry) -> None:
        """Write or replace the entry of a run."""
        key, data = f"run/{entry.run.name}", entry.encode()
        self._mirror.put(key, data)
        self._state.put(key, data)

    def begin(self, entry: RunEntry) -> None:
        """Write the entry of a new run, or nothing: its copy alone would make it again when the database is lost.

        Raises:
            DiskError: the disk refused.
            sqlite3.Error: the database did.
        """
        try:
            self.put(entry)
        except (DiskError, sqlite3.Error):
            with contextlib.suppress(DiskError):
                self._mirror.delete(f"run/{entry.run.name}")
            raise

    def entries(self) -> list[RunEntry]:
        """All runs that are not done, by number."""
        return [entry_of(data) for data in self._state.under("run/").values()]

    def done(self, entry: RunEntry) -> None:
        """The run is complete: only its number is remembered, to be shown."""
        data = entry.at(Stage.DONE).encode()
        self._mirror.put(f"run/{entry.run.name}", data)
        self._state.put(f"past/{entry.run.name}", data)
        self._state.delete(f"run/{entry.run.name}")
        self.forget_segments(entry)

    def find(self, name: str) -> RunEntry | None:
        """A run by its name, done or not."""
        data = self._state.get(f"run/{name}") or self._state.get(f"past/{name}")
        return None if data is None else entry_of(data)

    def put_late(self, run: RunContext, name: str, data: bytes) -> None:
        """Keep something that came after the run was closed, to be written into its receipts each time that they grow."""
        key = f"late/{run.name}/{name}"
        self._mirror.put(key, data)
        self._state.put(key, data)

    def late(self, run: RunContext) -> dict[str, bytes]:
        """What came late, by name."""
        prefix = f"late/{run.name}/"
        return {key.removeprefix(prefix): data for key, data in self._state.under(prefix).items()}

    def put_published(self, run: RunContext, key: str) -> None:
        """Note that a run says that this public key was published."""
        name = f"{PUBLISHED}/{key}/{run.name}"
        self._mirror.put(name, b"")
        self._state.put(name, b"")

    def published(self, key: str) -> frozenset[str]:
        """The names of the runs that say that this public key was published; none: it was not."""
        prefix = f"{PUBLISHED}/{key}/"
        return frozenset(name.removeprefix(prefix) for name in self._state.under(prefix))

    def project(self, run: RunContext) -> str:
        """The project whose space gets the files of a run: the one that it was claimed for, else the one that it began with."""
        claimed = self._state.get(f"late/{run.name}/{CLAIMED}")
        return run.project if claimed is None else claimed.decode()

    def is_done(self, entry: RunEntry) -> bool:
        """Whether the run is complete."""
        return self._state.get(f"past/{entry.run.name}") is not None

    def past(self, most: int = 50) -> list[RunEntry]:
        """The last runs that are done, newest first."""
        return [entry_of(data) for data in list(self._state.under("past/").values())[-most:]][::-1]

    def add_segment(self, run: RunContext, closed: Closed) -> None:
        """Remember a closed segment, and the receipt that its head names; the same ordinal again replaces it."""
        named = parse_head(cose.payload_of(closed.head_cose)).not_before
        found = None if named is None else receipt(self._state, named)
        if named is not None and found is not None:
            self.put_late(run, f"{NAMED}{named.hex()}", found)
        key, data = f"segment/{run.name}/{closed.ordinal:06d}", _closed_value(closed)
        self._mirror.put(key, data)
        self._state.put(key, data)

    def segments(self, run: RunContext, folder: Path) -> list[Closed]:
        """The closed segments of a run by ordinal."""
        return [_closed(folder, data) for data in self._state.under(f"segment/{run.name}/").values()]

    def has_segment(self, run: RunContext, name: str) -> bool:
        """Whether a segment of this file name is in the book."""
        return any(closed.path.name == name for closed in self.segments(run, Path()))

    def add_chain(self, kid: bytes, chain: bytes) -> None:
        """Remember the key chain of a session, by the kid of its first key."""
        key = f"chain/{kid.hex()}"
        self._mirror.put(key, chain)
        self._state.put(key, chain)

    def chains(self) -> list[bytes]:
        """The key chains of all sessions."""
        return list(self._state.under("chain/").values())

    def is_ahead(self, unfinished: Sequence[RunEntry], folders: Path) -> bool:
        """Whether the copies know of what the database never had: an older database was put in its place.

        A crash between a copy and the database leaves a run whose number was given out, or a segment whose journal is still there. Of an
        amendment it leaves what an older database does; it is signed and in the agent log, so it is taken from its copy either way.
        """
        keys = self._mirror.keys()
        if any(self._state.get(key) is None for key in keys if key.startswith("late/") and key.split("/")[2].startswith(AMENDMENT)):
            return True
        last = self._state.last_run_no()
        if any(key[4:].isdigit() and int(key[4:]) > last for key in keys if key.startswith("run/")):
            return True
        newest = {key.split("/")[1]: key for key in keys if key.startswith("segment/")}
        known = [key for entry in unfinished if (key := newest.get(entry.run.name)) is not None]
        return any(self._state.get(key) is None and not self._has_journal(key, folders) for key in known)

    def _has_journal(self, key: str, folders: Path) -> bool:
        data = self._mirror.get(key)
        try:
            closed = None if data is None else _closed(folders / key.split("/")[1], data)
        except (SealError, ValueError, TypeError, LookupError):
            closed = None
        return closed is not None and closed.path.with_name(closed.path.name + JOURNAL).exists()

    def restore(self) -> list[RunEntry]:
        """The database is new, or older: take everything from the copies. Returns the signed runs, whose files have to be handed on."""
        signed = []
        for key, data in self._mirror.items().items():
            kind, _, rest = key.partition("/")
            try:
                if kind == "run":
                    entry = entry_of(data)
                    self._state.raise_run_no(entry.run.run_no)
                    if entry.stage is Stage.DONE:
                        self._state.delete(key)
                        key = f"past/{rest}"
                    signed += [entry] if entry.stage in (Stage.CLOSED, Stage.DONE) else []
                elif kind == "segment":
                    _closed(Path(), data)
                elif kind not in ("chain", "late", PUBLISHED):
                    continue
            except (SealError, ValueError, TypeError, LookupError) as error:
                log.error("the copy of %s cannot be used: %s", rest, error, extra={"code": "BOOK_COPY"})
                continue
            self._state.put(key, data)
        return signed

    def forget_segments(self, entry: RunEntry) -> None:
        """A complete run needs its segments no more."""
        for key in self._state.under(f"segment/{entry.run.name}/"):
            self._state.delete(key)

    def sweep(self, folders: Path) -> None:
        """Remove the copies of complete runs whose files are all gone."""
        # By name: there is a copy for each segment that waits, and reading all of them takes seconds.
        keys = self._mirror.keys()
        for key in [key for key in keys if key.startswith("run/")]:
            data = self._mirror.get(key)
            if data is not None and entry_of(data).stage is Stage.DONE and not _has_files(folders / key[4:]):
                mine = (f"segment/{key[4:]}/", f"late/{key[4:]}/")
                for other in [k for k in keys if k.startswith(mine)]:
                    self._mirror.delete(other)
                self._mirror.delete(key)


def _has_files(folder: Path) -> bool:
    return any(path.is_file() for path in folder.rglob("*"))
