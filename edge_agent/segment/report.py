"""What a verifier found, as values and as JSON (bytes in hex). Levels are those of docs/signed-chunks.md.

The JSON of a `SegmentReport` is what a worker process prints and what `edge-agent verify --json` shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from edge_agent.seal.amendment import Amendment
from edge_agent.segment.account import GapCount

DAMAGED, INTACT, SIGNED, WITNESSED, STAMPED = range(5)


@dataclass(frozen=True, slots=True)
class SegmentReport:
    """One segment. At level 0 only ``path`` and ``reason`` are sure; ids are empty when they could not be read.

    ``head`` is the hash of the close head's payload, ``identity`` the RFC 9679 thumbprint of the identity key, ``previous`` the
    segment id and close head that OPEN names, ``start_seq`` the last counter value of each source before this segment, ``last_seq``
    at its end. ``rooted`` says that the key chain leads to the given root. For the sources in ``uncounted`` continuity is not promised.
    ``notes`` are sentences about what was not checked; ``warning`` says what cannot be about the clock.
    """

    path: str
    level: int
    reason: str = ""
    segment_id: bytes = b""
    agent_id: bytes = b""
    run_id: bytes = b""
    run_no: int = 0
    ordinal: int = 0
    series: str = ""
    head: bytes = b""
    state: str = ""
    outcome: str = ""
    policy: bytes = b""
    identity: bytes = b""
    rooted: bool = False
    chunks: int = 0
    gaps: tuple[GapCount, ...] = ()
    start_seq: Mapping[str, int] = field(default_factory=dict)
    last_seq: Mapping[str, int] = field(default_factory=dict)
    previous: tuple[bytes, bytes] | None = None
    uncounted: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warning: str = ""

    def as_json(self) -> dict[str, Any]:
        """A JSON object of the fields by their names."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


@dataclass(frozen=True, slots=True)
class RunReport:
    """One run: the lowest level of its parts. ``files`` counts vendor files, ``witnessed`` the segments with a valid witness.

    ``witnessed_ns`` is the server time (UTC ns) of the latest witness that the run needs for level 3, ``stamped_ns`` the TSA's time of
    the earliest valid time-stamp over the sidecar, ``log_stamped_ns`` of the earliest over a witnessed head of the agent log; each is 0
    when the run has not got it. ``amendments`` are those that hold, oldest first. With ``warnings`` the level is at most 2.
    """

    path: str
    level: int
    reason: str = ""
    agent_id: bytes = b""
    run_id: bytes = b""
    run_no: int = 0
    outcome: str = ""
    policy: bytes = b""
    identity: bytes = b""
    segments: tuple[SegmentReport, ...] = ()
    files: int = 0
    gaps: tuple[GapCount, ...] = ()
    witnessed: int = 0
    witnessed_ns: int = 0
    stamped_ns: int = 0
    log_stamped_ns: int = 0
    amendments: tuple[Amendment, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def chunks(self) -> int:
        """Chunks of all segments."""
        return sum(segment.chunks for segment in self.segments)

    def as_json(self) -> dict[str, Any]:
        """A JSON object of the fields by their names, segments included."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)} | {"chunks": self.chunks}


def segment_from_json(value: Mapping[str, Any]) -> SegmentReport:
    """The report that `SegmentReport.as_json` turned into ``value``.

    Raises:
        ValueError: not such an object.
    """
    try:
        plain = dict(value)
        for name in ("segment_id", "agent_id", "run_id", "head", "policy", "identity"):
            plain[name] = bytes.fromhex(plain[name])
        plain["gaps"] = tuple(GapCount(str(g["source_id"]), int(g["gaps"]), _optional(g["missing"])) for g in plain["gaps"])
        for name in ("start_seq", "last_seq"):
            plain[name] = {str(source): int(last) for source, last in plain[name].items()}
        if plain["previous"] is not None:
            before, head = plain["previous"]
            plain["previous"] = (bytes.fromhex(before), bytes.fromhex(head))
        plain["uncounted"], plain["notes"] = tuple(plain["uncounted"]), tuple(plain["notes"])
        report = SegmentReport(**plain)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not the report of a segment: {error}") from error
    if report.level not in range(SIGNED + 1) or not isinstance(report.rooted, bool):
        raise ValueError(f"not the report of a segment: level {report.level!r}")
    return report


def _optional(value: Any) -> int | None:
    return None if value is None else int(value)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, SegmentReport):
        return value.as_json()
    if isinstance(value, Amendment):
        changes = [{"field": change.field, "old": change.old, "new": change.new} for change in value.changes]
        return {"number": value.number, "changes": changes, "author": value.author, "reason": value.reason, "t_ns": value.t_ns}
    if isinstance(value, GapCount):
        return {"source_id": value.source_id, "gaps": value.gaps, "missing": value.missing}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return dict(value) if isinstance(value, Mapping) else value
