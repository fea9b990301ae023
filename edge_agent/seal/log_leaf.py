"""Leaves of the agent log about keys, open segments and what befell the agent (docs/signed-chunks.md, Agent log).

Runs, closed segments and freed space are in `leaf`, which also reads these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from edge_agent.seal.cbor import SealError, dumps, fields, octets

_OPTIONAL = (16, type(None))


def _payload(kind: int, body: dict[int, Any]) -> bytes:
    return b"HSC1" + bytes((kind,)) + dumps(body)


@dataclass(frozen=True, slots=True)
class KeyAdd:
    """A session begins: the kids of its keys and the SHA-256 of its record (COSE). What it signs stands behind this leaf."""

    TYPE: ClassVar[int] = 65
    kids: tuple[bytes, ...]
    record: bytes
    t_ns: int

    def payload(self) -> bytes:
        """The signed bytes."""
        return _payload(self.TYPE, {1: list(self.kids), 2: self.record, 3: self.t_ns})


@dataclass(frozen=True, slots=True)
class KeyRetire:
    """A session is over: no segment that it closed stands behind this leaf."""

    TYPE: ClassVar[int] = 70
    kids: tuple[bytes, ...]
    reason: str
    t_ns: int

    def payload(self) -> bytes:
        """The signed bytes."""
        return _payload(self.TYPE, {1: list(self.kids), 2: self.reason, 3: self.t_ns})


@dataclass(frozen=True, slots=True)
class KeyCompromised:
    """Somebody else may have these keys: what they sign behind this leaf is worth nothing."""

    TYPE: ClassVar[int] = 71
    kids: tuple[bytes, ...]
    reason: str
    t_ns: int

    def payload(self) -> bytes:
        """The signed bytes."""
        return _payload(self.TYPE, {1: list(self.kids), 2: self.reason, 3: self.t_ns})


@dataclass(frozen=True, slots=True)
class SegmentOpen:
    """A segment was opened."""

    TYPE: ClassVar[int] = 72
    segment_id: bytes
    run_id: bytes
    ordinal: int
    series: str
    t_ns: int

    def payload(self) -> bytes:
        """The signed bytes."""
        return _payload(self.TYPE, {1: self.segment_id, 2: self.run_id, 3: self.ordinal, 4: self.series, 5: self.t_ns})


@dataclass(frozen=True, slots=True)
class Heads:
    """The newest anchor heads of open segments: (segment id, leaves, head hash) each. One leaf for all of them."""

    TYPE: ClassVar[int] = 73
    heads: tuple[tuple[bytes, int, bytes], ...]
    t_ns: int

    def payload(self) -> bytes:
        """The signed bytes."""
        return _payload(self.TYPE, {1: [list(head) for head in self.heads], 2: self.t_ns})


@dataclass(frozen=True, slots=True)
class Loss:
    """Data was given up: what (an entry of quarantine, or a target that was removed), of which run when that is known, and why."""

    TYPE: ClassVar[int] = 74
    what: str
    run_id: bytes | None
    reason: str
    t_ns: int

    def payload(self) -> bytes:
        """The signed bytes."""
        return _payload(self.TYPE, {1: self.what, 2: self.run_id, 3: self.reason, 4: self.t_ns})


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Something was set aside and waits for a person: a segment that cannot be used, or an item that a target refused."""

    TYPE: ClassVar[int] = 75
    what: str
    run_id: bytes | None
    reason: str
    t_ns: int

    def payload(self) -> bytes:
        """The signed bytes."""
        return _payload(self.TYPE, {1: self.what, 2: self.run_id, 3: self.reason, 4: self.t_ns})


@dataclass(frozen=True, slots=True)
class ClockStep:
    """The wall clock was set: by ``step_ns`` against the boot clock; ``t_ns`` is the time after it."""

    TYPE: ClassVar[int] = 76
    step_ns: int
    t_ns: int

    def payload(self) -> bytes:
        """The signed bytes."""
        return _payload(self.TYPE, {1: self.step_ns, 2: self.t_ns})


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """The agent started with another configuration than before (or for the first time): SHA-256 of it, without secrets."""

    TYPE: ClassVar[int] = 77
    digest: bytes
    t_ns: int

    def payload(self) -> bytes:
        """The signed bytes."""
        return _payload(self.TYPE, {1: self.digest, 2: self.t_ns})


@dataclass(frozen=True, slots=True)
class Update:
    """The agent started as another version than before."""

    TYPE: ClassVar[int] = 78
    before: str
    now: str
    t_ns: int

    def payload(self) -> bytes:
        """The signed bytes."""
        return _payload(self.TYPE, {1: self.before, 2: self.now, 3: self.t_ns})


@dataclass(frozen=True, slots=True)
class LogRestart:
    """Leaf 0 of a log that replaces another one, after a disk was restored and the owner approved: its id, and its size here."""

    TYPE: ClassVar[int] = 79
    log_id: bytes
    size: int
    t_ns: int

    def payload(self) -> bytes:
        """The signed bytes."""
        return _payload(self.TYPE, {1: self.log_id, 2: self.size, 3: self.t_ns})


LogLeaf = KeyAdd | KeyRetire | KeyCompromised | SegmentOpen | Heads | Loss | Quarantine | ClockStep | ConfigChange | Update | LogRestart


def _kids(value: list[Any]) -> tuple[bytes, ...]:
    if not value:
        raise SealError("agent log: no kids")
    return tuple(octets(kid, 32) for kid in value)


def _key_add(v: Any) -> KeyAdd:
    kids, record, t_ns = fields(v, "KEY_ADD", k1=list, k2=32, k3=int)
    return KeyAdd(_kids(kids), record, t_ns)


def _key_retire(v: Any) -> KeyRetire:
    kids, reason, t_ns = fields(v, "KEY_RETIRE", k1=list, k2=str, k3=int)
    return KeyRetire(_kids(kids), reason, t_ns)


def _key_compromised(v: Any) -> KeyCompromised:
    kids, reason, t_ns = fields(v, "KEY_COMPROMISED", k1=list, k2=str, k3=int)
    return KeyCompromised(_kids(kids), reason, t_ns)


def _heads(v: Any) -> Heads:
    heads, t_ns = fields(v, "HEADS", k1=list, k2=int)
    if not all(isinstance(head, list) and list(map(type, head)) == [bytes, int, bytes] for head in heads):
        raise SealError("HEADS: a head is not [segment id, size, head hash]")
    return Heads(tuple((octets(segment, 16), size, octets(digest, 32)) for segment, size, digest in heads), t_ns)


READERS: dict[int, Callable[[Any], LogLeaf]] = {
    65: _key_add,
    70: _key_retire,
    71: _key_compromised,
    72: lambda v: SegmentOpen(*fields(v, "SEGMENT_OPEN", k1=16, k2=16, k3=int, k4=str, k5=int)),
    73: _heads,
    74: lambda v: Loss(*fields(v, "LOSS", k1=str, k2=_OPTIONAL, k3=str, k4=int)),
    75: lambda v: Quarantine(*fields(v, "QUARANTINE", k1=str, k2=_OPTIONAL, k3=str, k4=int)),
    76: lambda v: ClockStep(*fields(v, "CLOCK_STEP", k1=int, k2=int)),
    77: lambda v: ConfigChange(*fields(v, "CONFIG_CHANGE", k1=32, k2=int)),
    78: lambda v: Update(*fields(v, "UPDATE", k1=str, k2=str, k3=int)),
    79: lambda v: LogRestart(*fields(v, "LOG_RESTART", k1=16, k2=int, k3=int)),
}
"""Leaf type to what reads its decoded body; raises `SealError`."""
