"""The rehearsal GakuNin RDM on a free port of loopback, and targets that talk to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from edge_agent.deliver.grdm import GrdmTarget
from edge_agent.deliver.grdm_talk import Talk
from edge_agent.model import Access, ItemKind, Label, OutboxItem
from landing.fake_rdm import FakeRdm, Rehearsal

TOKEN = "a-personal-access-token"
NODE = "abc12"


@dataclass
class Rdm:
    """One that runs."""

    service: FakeRdm
    runner: web.AppRunner
    address: str

    def file(self, name: str) -> bytes:
        """The last version of a file, by its path for people."""
        found = [e for e in self.service.tree.entries.values() if e.kind == "file" and self.service.tree.materialized(e) == name]
        assert len(found) == 1, [self.service.tree.materialized(e) for e in self.service.tree.entries.values()]
        return (self.service.tree.blobs / found[0].versions[-1].blob).read_bytes()

    def names(self) -> list[str]:
        return sorted(self.service.tree.materialized(e) for e in self.service.tree.entries.values())


@pytest.fixture
async def new_rdm(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """``await new_rdm(quota=...)``; a second one goes on with the folder of the first."""
    runners = []

    async def make(**more: Any) -> Rdm:
        service = FakeRdm(tmp_path / "rdm", replace(Rehearsal(TOKEN, {NODE: "Lysozyme", "xyz98": "Other"}), **more))
        runner = web.AppRunner(service.app(), access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        runners.append(runner)
        return Rdm(service, runner, f"http://127.0.0.1:{runner.addresses[0][1]}")

    yield make
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def rdm(new_rdm: Callable[..., Any]) -> Rdm:
    made: Rdm = await new_rdm()
    return made


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        yield session


@pytest.fixture
async def make_target() -> AsyncIterator[Callable[..., GrdmTarget]]:
    """``make_target(address, token=..., nodes=..., node=..., storage=...)``."""
    made: list[GrdmTarget] = []

    def make(
        address: str, token: str = TOKEN, nodes: dict[str, str] | None = None, node: str | None = NODE, storage: str | None = None
    ) -> GrdmTarget:
        talk = Talk("rdm", f"{address}/v2", address, lambda: token, None)
        made.append(GrdmTarget("rdm", talk, nodes or {}, node, storage, 50 << 30))
        return made[-1]

    yield make
    for target in made:
        await target.close()


@pytest.fixture
def make_item(tmp_path: Path) -> Callable[..., OutboxItem]:
    """``make_item(data, remote=..., kind=..., project=...)``: an item in the spool."""

    def make(
        data: bytes, remote: str = "p/g/2026-11-26/000001/a.h5", kind: ItemKind = ItemKind.SEGMENT, item_id: str = "a", project: str = "p"
    ) -> OutboxItem:
        path = tmp_path / f"{item_id}.h5"
        path.write_bytes(data)
        return OutboxItem(item_id, kind, path, remote, len(data), b"\1" * 16, 1, project, Label(Access.CLOSED))

    return make
