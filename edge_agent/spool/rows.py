"""How values stand in the database: outbox items, receipts, and paths relative to the spool, so that it can be moved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_agent.model import Access, Envelope, ItemKind, Label, OutboxItem, Proof, Receipt

RANK = {kind: rank for rank, kind in enumerate(ItemKind)}
"""Order of sending within a run."""

ITEM_COLUMNS = "item_id, kind, path, remote, size, run_id, run_no, project, access, allowed, segment_id, head_hash, sha256"
RECEIPT_COLUMNS = "target, proof, proof_sha256, proof_size, proof_ns, proof_cose, proof_envelope"


def item_values(item: OutboxItem, base: Path) -> tuple[Any, ...]:
    """The values of `ITEM_COLUMNS`."""
    label = item.label
    # What is bound to no country stands as it did before there were any.
    named = sorted(label.allowed)
    allowed = json.dumps(named if label.jurisdictions is None else {"allowed": named, "in": sorted(label.jurisdictions)})
    return (
        item.item_id, item.kind.value, stored_path(item.path, base), item.remote, item.size, item.run_id, item.run_no, item.project,
        item.label.access.value, allowed, item.segment_id, item.head_hash, item.sha256,
    )  # fmt: skip


def item_of(row: tuple[Any, ...], counts: Mapping[str, int], base: Path) -> OutboxItem:
    """The item in a row of `ITEM_COLUMNS`."""
    item_id, kind, path, remote, size, run_id, run_no, project, access, allowed, segment_id, head_hash, sha256 = row
    return OutboxItem(
        item_id, ItemKind(kind), base / path, remote, size, run_id, run_no, project, _label(access, json.loads(allowed)),
        segment_id, head_hash, sha256, counts,
    )  # fmt: skip


def _label(access: str, allowed: Any) -> Label:
    if isinstance(allowed, list):
        return Label(Access(access), frozenset(allowed))
    return Label(Access(access), frozenset(allowed["allowed"]), frozenset(allowed["in"]))


def receipt_values(receipt: Receipt) -> tuple[Any, ...]:
    """The values of `RECEIPT_COLUMNS` without the target."""
    held = receipt.envelope
    envelope = None if held is None else json.dumps([held.name, held.size, held.sha256.hex(), *held.keys])
    return (receipt.proof.value, receipt.sha256, receipt.size, receipt.t_ns, receipt.cose, envelope)


def receipt_of(item_id: str, row: tuple[Any, ...]) -> Receipt:
    """The receipt in a row of `RECEIPT_COLUMNS`."""
    target, proof, sha256, size, t_ns, cose, held = row
    return Receipt(target, item_id, sha256, size, Proof(proof), t_ns, cose, None if held is None else _envelope(*json.loads(held)))


def _envelope(name: str, size: int, sha256: str, *keys: str) -> Envelope:
    return Envelope(name, size, bytes.fromhex(sha256), keys)


def stored_path(path: Path, base: Path) -> str:
    """``path`` relative to the spool when it is inside; ``base / stored`` gives it back either way."""
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path)
