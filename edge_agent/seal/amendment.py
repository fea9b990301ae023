"""Amendments: metadata that came late, as signed statements beside a run that is closed (docs/signed-chunks.md, Amendments).

Nothing of a closed run is ever edited. An amendment names the sidecar that it amends and the amendment before it, so one of another
run, one that was left out and two that swapped places are seen.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_agent.seal import cose
from edge_agent.seal.cbor import SealError, dumps, fields, loads
from edge_agent.seal.keys import Trusted, session_word

AMENDMENT_NAME = "HSC/1/amendment"
FIELD = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9][a-z0-9_]*)*")
"""The form of a field's name, as ``sample.name``."""


@dataclass(frozen=True, slots=True)
class Change:
    """One field: what it was (None: it was not there, or nobody knows) and what it is."""

    field: str
    old: str | None
    new: str


@dataclass(frozen=True, slots=True)
class Amendment:
    """One amendment. ``sidecar`` is the SHA-256 of the ``.hsc`` file, ``previous`` the hash of the payload before; ``t_ns`` is UTC."""

    agent_id: bytes
    run_id: bytes
    sidecar: bytes
    number: int
    previous: bytes | None
    changes: tuple[Change, ...]
    author: str
    reason: str
    t_ns: int

    def as_json(self) -> dict[str, Any]:
        """What people are shown of it, as a JSON object."""
        changes = [{"field": change.field, "old": change.old, "new": change.new} for change in self.changes]
        return {"number": self.number, "changes": changes, "author": self.author, "reason": self.reason, "t_ns": self.t_ns}

    def payload(self) -> bytes:
        """The bytes that are signed."""
        changes = [[change.field, change.old, change.new] for change in self.changes]
        return dumps(
            {
                1: AMENDMENT_NAME, 2: self.agent_id, 3: self.run_id, 4: self.sidecar, 5: self.number, 6: self.previous, 7: changes,
                8: self.author, 9: self.reason, 10: self.t_ns,
            }
        )  # fmt: skip


def parse_amendment(payload: bytes) -> Amendment:
    """The statement in a payload.

    Raises:
        SealError: another statement, nothing changed, a field that is named twice or has no name.
    """
    name, agent, run_id, sidecar, number, previous, changes, author, reason, t_ns = fields(
        loads(payload, "amendment"), "amendment", k1=str, k2=16, k3=16, k4=32, k5=int, k6=(32, type(None)), k7=list,
        k8=str, k9=str, k10=int,
    )  # fmt: skip
    if name != AMENDMENT_NAME:
        raise SealError("amendment: another statement")
    parsed = tuple(_change(item) for item in changes)
    if not parsed or len({change.field for change in parsed}) != len(parsed):
        raise SealError("amendment: changes nothing, or a field twice")
    return Amendment(agent, run_id, sidecar, number, previous, parsed, author, reason, t_ns)


def amendment_hash(payload: bytes) -> bytes:
    """SHA-256 of an amendment's payload: its name in the next one and in the agent log."""
    return hashlib.sha256(payload).digest()


def check_amendments(data: Sequence[bytes], trusted: Trusted, agent_id: bytes, run_id: bytes, sidecar: bytes) -> tuple[Amendment, ...]:
    """The amendments of a run, oldest first.

    Args:
        data: their COSE.
        trusted: the checked key chain that comes with them.
        agent_id: the agent of the run.
        run_id: the run.
        sidecar: SHA-256 of its ``.hsc`` file, 32 bytes.

    Raises:
        SealError: the first one that does not hold, by its number.
    """
    found: list[Amendment] = []
    values: dict[str, str] = {}
    before = None
    for number, item in enumerate(data, 1):
        try:
            word = session_word(item, trusted, cose.AMENDMENT)
            if word.missing:
                raise SealError(f"has no {' and no '.join(word.missing)} signature that holds, and its session record promises one")
            amendment = parse_amendment(word.payload)
            if not amendment.agent_id == agent_id == trusted.agent_id:
                raise SealError("of another agent")
            if (amendment.run_id, amendment.sidecar) != (run_id, sidecar):
                raise SealError("of another run, or of another sidecar than the one that stands here")
            if (amendment.number, amendment.previous) != (number, before):
                raise SealError("does not follow the one before it")
            for change in amendment.changes:
                if change.field in values and change.old != values[change.field]:
                    raise SealError(f"{change.field}: says that it was {change.old!r}, and it was {values[change.field]!r}")
                values[change.field] = change.new
        except SealError as error:
            raise SealError(f"amendment {number}: {error}") from error
        found.append(amendment)
        before = amendment_hash(word.payload)
    return tuple(found)


def _change(item: Any) -> Change:
    if not isinstance(item, list) or len(item) != 3:
        raise SealError("amendment: a change is not [field, old, new]")
    name, old, new = item
    if not isinstance(name, str) or FIELD.fullmatch(name) is None:
        raise SealError(f"amendment: {name!r} is no name of a field")
    if not (old is None or isinstance(old, str)) or not isinstance(new, str):
        raise SealError(f"amendment: {name} is not a text")
    return Change(name, old, new)
