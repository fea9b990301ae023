"""A real spool, a real folder, and a folder target that can be told to fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_agent.deliver.folder import FolderTarget
from edge_agent.deliver.target import Capabilities, Progress
from edge_agent.model import Access, ItemKind, Label, OutboxItem, Receipt
from edge_agent.provenance.policy import PolicyGate
from edge_agent.spool import Spool


class FaultyFolder(FolderTarget):
    """A folder target with switches: ``faults`` maps item ids to the errors of the next sendings, ``down`` fails all and the probe too."""

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name, path)
        self.faults: dict[str, list[Exception]] = {}
        self.down: Exception | None = None
        self.sent: list[str] = []
        self.probes = 0
        self.at_once = self.most_at_once = 0
        self.gate: asyncio.Event | None = None
        self.largest: int | None = None
        self.small_at_once = 0

    async def probe(self) -> Capabilities:
        self.probes += 1
        if self.down is not None:
            raise self.down
        found = await super().probe()
        return Capabilities(self.largest, found.resumable, found.proof, found.detail, self.small_at_once)

    async def send(self, item: OutboxItem, progress: Progress) -> Receipt:
        self.sent.append(item.item_id)
        if self.down is not None:
            raise self.down
        if self.faults.get(item.item_id):
            raise self.faults[item.item_id].pop(0)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.gate is not None:
                progress(item.size // 2)
                await self.gate.wait()
            return await super().send(item, progress)
        finally:
            self.at_once -= 1


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "spool")
    yield made
    made.close()


@pytest.fixture
def share(tmp_path: Path) -> Path:
    folder = tmp_path / "share"
    folder.mkdir()
    return folder


@pytest.fixture
def faulty_folder(tmp_path: Path) -> Callable[[str], FaultyFolder]:
    def make(name: str) -> FaultyFolder:
        (tmp_path / name).mkdir(exist_ok=True)
        return FaultyFolder(name, tmp_path / name)

    return make


@pytest.fixture
def open_gate() -> PolicyGate:
    """Every target of the tests is a project space."""
    return PolicyGate(["cloud", "disk"])


@pytest.fixture
def make_item(tmp_path: Path) -> Callable[..., OutboxItem]:
    """``make_item("a", kind=..., run=1, data=b"...", label=...)`` writes the file and describes it."""

    def make(
        item_id: str,
        kind: ItemKind = ItemKind.SEGMENT,
        run: int = 1,
        data: bytes = b"",
        label: Label = Label(Access.CLOSED),  # noqa: B008
        remote: str = "",
        sha256: bytes | None = None,
    ) -> OutboxItem:
        path = tmp_path / "spool" / f"{item_id}.h5"
        path.parent.mkdir(exist_ok=True)
        content = data or item_id.encode() * 100
        path.write_bytes(content)
        where = remote or f"p/i/2026-11-24/{run:06d}/{path.name}"
        return OutboxItem(item_id, kind, path, where, len(content), run.to_bytes(16, "big"), run, "p", label, sha256=sha256)

    return make
