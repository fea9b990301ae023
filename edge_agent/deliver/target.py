"""What a target is to the rest of the agent.

Invariants: `send` is idempotent (a second sending of the same bytes to the same remote path succeeds); a `Receipt` is
returned only for what the other side proved; a target never looks at labels (the engine asks the policy before) and
never retries by itself for longer than one request: the engine owns the back-off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from edge_agent.model import OutboxItem, Proof, Receipt

Progress = Callable[[int], None]
"""Called with the number of bytes of the item that the other side has so far; may fall when a transfer begins again."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a target can take. ``max_size`` is bytes per item (None: no known limit); ``detail`` is one line for people.

    ``small_at_once``: how many small items it takes at once with gain; 0: as many as of any other.
    """

    max_size: int | None
    resumable: bool
    proof: Proof
    detail: str
    small_at_once: int = 0


class Memo(Protocol):
    """Where a target keeps what it has to know after a restart; durable."""

    def put(self, key: str, value: bytes) -> None:
        """Set the value under a key."""
        ...

    def delete(self, key: str) -> None:
        """Forget a key; no error when it is unknown."""
        ...

    def under(self, prefix: str) -> dict[str, bytes]:
        """All pairs whose key begins with ``prefix``."""
        ...


@runtime_checkable
class Target(Protocol):
    """One destination. ``name`` is its name in the configuration, in labels and in receipts."""

    @property
    def name(self) -> str:
        """Name in the configuration."""
        ...

    async def probe(self) -> Capabilities:
        """Ask whether it is there and what it takes.

        Raises:
            TargetUnreachable: no answer, or a passing fault.
            PermissionRefused: it knows us not, or refuses us.
        """
        ...

    async def send(self, item: OutboxItem, progress: Progress) -> Receipt:
        """Carry ``item.path`` to ``item.remote`` and return the proof; cancellable at every await.

        Raises:
            TargetUnreachable: retried with back-off.
            IntegrityError: the bytes or the proof are wrong; the item goes to quarantine.
            PermissionRefused: the item is parked until something changes, and somebody is told.
        """
        ...

    async def close(self) -> None:
        """Free connections; callable twice."""
        ...


@runtime_checkable
class Witnesses(Protocol):
    """A target that countersigns heads of the agent log."""

    async def witness(self, head: bytes, chain: bytes, proof: Sequence[bytes], first: int) -> bytes:
        """Have a head witnessed.

        Args:
            head: COSE of the head.
            chain: key chain (CBOR) that its key belongs to.
            proof: RFC 9162 consistency proof from size ``first``; empty when ``first`` is 0.
            first: size of the log that this target witnessed last, 0 for none.

        Returns:
            The COSE of the WITNESS receipt.

        Raises:
            TargetUnreachable: retried later.
            IntegrityError: the other side saw another history of this log.
            PermissionRefused: it refuses this agent.
        """
        ...
