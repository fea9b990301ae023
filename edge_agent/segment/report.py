"""What a verifier found, as values and as JSON (bytes in hex). Levels are those of docs/signed-chunks.md.

The JSON of a `SegmentReport` is what a worker process prints and what `edge-agent verify --json` shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Only named: who asks a worker must not load what judges.
    from edge_agent.seal.amendment import Amendment

DAMAGED, INTACT, SIGNED, WITNESSED, STAMPED = range(5)


@dataclass(frozen=True, slots=True)
class GapCount:
    """Gaps of one source: how many, and the items missing in them; ``missing`` is None when one of them is not known."""

    source_id: str
    gaps: int
    missing: int | None


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


@dataclass(frozen=True, slots=True)
class SliceReport:
    """One slice. At level 0 only ``path``, ``dataset`` and ``reason`` are sure.

    ``bounds`` are first element and end along each axis, ``chunks`` how many chunks were touched and checked, ``stored`` their bytes as
    stored, ``leaves`` how many leaves were read, ``segments`` in how many segments they lie.
    ``first`` and ``last`` are the source's own numbers, None where it has no counter.
    """

    path: str
    dataset: str
    level: int
    reason: str = ""
    bounds: tuple[tuple[int, int], ...] = ()
    chunks: int = 0
    stored: int = 0
    leaves: int = 0
    first: int | None = None
    last: int | None = None
    segment_id: bytes = b""
    agent_id: bytes = b""
    run_id: bytes = b""
    run_no: int = 0
    ordinal: int = 0
    head: bytes = b""
    state: str = ""
    identity: bytes = b""
    segments: int = 1
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """A JSON object of the fields by their names, bytes in hex."""
        return {f.name: value.hex() if isinstance(value := getattr(self, f.name), bytes) else value for f in fields(self)}


def slice_from_json(value: Mapping[str, Any]) -> SliceReport:
    """The report that `SliceReport.as_json` turned into ``value``.

    Raises:
        ValueError: not such an object.
    """
    try:
        plain = dict(value)
        for name in ("segment_id", "agent_id", "run_id", "head", "identity"):
            plain[name] = bytes.fromhex(plain[name])
        plain["bounds"] = tuple((int(first), int(end)) for first, end in plain["bounds"])
        plain["notes"] = tuple(plain["notes"])
        report = SliceReport(**plain)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not the report of a slice: {error}") from error
    if report.level not in range(SIGNED + 1):
        raise ValueError(f"not the report of a slice: level {report.level!r}")
    return report


def _optional(value: Any) -> int | None:
    return None if value is None else int(value)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "as_json"):
        return value.as_json()
    if isinstance(value, GapCount):
        return {"source_id": value.source_id, "gaps": value.gaps, "missing": value.missing}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return dict(value) if isinstance(value, Mapping) else value


@dataclass(frozen=True, slots=True)
class Joined:
    """What a master file joins into ``dataset`` (a path without soft links).

    ``members`` are its segments in order with their lengths along the first axis; ``error`` says why there are none.
    """

    dataset: str
    members: tuple[tuple[str, int], ...] = ()
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        """A JSON object of the fields by their names."""
        return {"dataset": self.dataset, "members": [list(member) for member in self.members], "error": self.error}


def joined_from_json(value: Mapping[str, Any]) -> Joined:
    """What `Joined.as_json` turned into ``value``.

    Raises:
        ValueError: not such an object.
    """
    try:
        return Joined(str(value["dataset"]), tuple((str(name), int(length)) for name, length in value["members"]), str(value["error"]))
    except (TypeError, KeyError) as error:
        raise ValueError(f"not what a master joins: {error}") from error
