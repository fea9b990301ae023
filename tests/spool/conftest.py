"""Real files in a real spool: items are made on the disk before they are added."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_agent.model import Access, ItemKind, Label, OutboxItem, Proof, Receipt
from edge_agent.spool import Spool

MakeItem = Callable[..., OutboxItem]
MakeReceipt = Callable[..., Receipt]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "spool")
    yield made
    made.close()


@pytest.fixture
def make_item(tmp_path: Path) -> MakeItem:
    """``make_item("a", kind=..., run=1, counts={...}, data=b"...")`` writes the file and describes it."""

    def make(
        item_id: str,
        kind: ItemKind = ItemKind.SEGMENT,
        run: int = 1,
        counts: dict[str, int] | None = None,
        data: bytes | None = None,
        sha256: bytes | None = None,
    ) -> OutboxItem:
        path = tmp_path / "spool" / "sealed" / f"{item_id}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = item_id.encode() * 10 if data is None else data
        path.write_bytes(content)
        label = Label(Access.SHARED, frozenset({"cloud", "disk"}))
        return OutboxItem(
            item_id, kind, path, f"p/i/2026-11-24/{run:06d}/{path.name}", len(content), run.to_bytes(16, "big"), run, "p", label,
            sha256=sha256, counts=counts or {},
        )  # fmt: skip

    return make


@pytest.fixture
def make_receipt() -> MakeReceipt:
    def make(item: OutboxItem, target: str = "cloud", **changes: object) -> Receipt:
        digest = hashlib.sha256(item.path.read_bytes()).digest()
        values = {"sha256": digest, "size": item.size, "proof": Proof.FSYNCED, "t_ns": 1, "cose": b"signed"} | changes
        return Receipt(target, item.item_id, **values)  # type: ignore[arg-type]

    return make


@pytest.fixture
def prove(make_receipt: MakeReceipt) -> Callable[..., None]:
    """Send and prove an item at targets."""

    def do(spool: Spool, item: OutboxItem, *targets: str) -> None:
        for target in targets or ("cloud",):
            assert spool.outbox.begin(item.item_id, target)
            assert spool.outbox.proved(make_receipt(item, target))

    return do
