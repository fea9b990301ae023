"""What the daemon knows of itself, as values: the source of the status page, the metrics and the local API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_agent.spool.ledger import StreamTotals


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One line of the conservation table. ``items`` came since the start of the daemon; ``last_arrival`` is UTC seconds."""

    name: str
    source: str
    kind: str
    totals: StreamTotals
    items: int
    last_arrival: float


@dataclass(frozen=True, slots=True)
class InstrumentStatus:
    """One instrument: connections as ``source -> (up, detail)``, its last error."""

    name: str
    adapter: str
    group: str
    connections: Mapping[str, tuple[bool, str]]
    error: str
    streams: tuple[StreamStatus, ...]


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run: stage is open, closing, closed (waits for receipts or space) or done."""

    name: str
    folder: str
    group: str
    project: str
    stage: str
    kind: str
    outcome: str


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """One target: what its lane does, what waits, whether the witness agrees."""

    name: str
    state: str
    waiting: int
    parked: int
    quarantined: int
    bytes: int
    error: str
    witness_error: str


@dataclass(frozen=True, slots=True)
class TimestampStatus:
    """The time-stamping service: how many closed runs wait for a time-stamp, and why, if it failed."""

    waiting: int
    error: str


@dataclass(frozen=True, slots=True)
class Status:
    """The whole daemon.

    ``commit_p99`` is seconds from arrival to durable; ``disk_left`` seconds until the disk is full, None: not filling;
    ``timestamp`` is None when no service is configured. ``disk_silent`` is seconds for which the disk has not answered; 0: it does.
    """

    site: str
    version: str
    agent_id: str
    enrolled: bool
    started: float
    recovered: str
    disk: str
    disk_free: int
    disk_left: float | None
    commit_p99: float | None
    instruments: tuple[InstrumentStatus, ...]
    runs: tuple[RunStatus, ...]
    past: tuple[RunStatus, ...]
    targets: tuple[TargetStatus, ...]
    timestamp: TimestampStatus | None = None
    disk_silent: float = 0.0
