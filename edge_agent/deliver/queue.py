"""What the engine needs of its neighbours: the outbox that it empties and the policy that it asks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from edge_agent.errors import IntegrityError
from edge_agent.model import ItemKind, Label, OutboxItem, Receipt
from edge_agent.provenance.policy import Decision


class Queue(Protocol):
    """The outbox. Synchronous and durable; called in threads."""

    def next_for(self, target: str, skip: Collection[str] = ()) -> OutboxItem | None:
        """The next item in order, without those in ``skip``."""
        ...

    def begin(self, item_id: str, target: str, revision: OutboxItem | None = None) -> bool:
        """Mark as sending; False when it does not wait any more, or not in that revision."""
        ...

    def take_proofs(self, receipts: Sequence[Receipt]) -> Sequence[bool | IntegrityError]:
        """Take proofs; for each, False when it is of no use any more, or what is wrong when it is for other bytes."""
        ...

    def failed(self, item_id: str, target: str, error: str, retry_ns: int | None) -> None:
        """A passing fault; tried again about ``retry_ns`` (UTC)."""
        ...

    def park(self, item_id: str, target: str, reason: str) -> None:
        """Waits until something changes."""
        ...

    def quarantine(self, item_id: str, target: str, reason: str) -> bool:
        """Waits for a person; False when a newer revision took its place meanwhile."""
        ...

    def unpark(self, target: str | None = None) -> int:
        """Something changed; how many wait again."""
        ...


class Gate(Protocol):
    """The policy."""

    def __call__(self, label: Label, kind: ItemKind, target: str) -> Decision:
        """Whether an item of this kind and label may go to ``target``."""
        ...
