"""Places that data goes to, each behind a relay on which things happen, and agents that are started, killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from edge_agent.deliver.backoff import Backoff
from edge_agent.deliver.engine import Engine
from edge_agent.deliver.grdm import GrdmTarget
from edge_agent.deliver.grdm_talk import Talk
from edge_agent.deliver.landing import LandingTarget
from edge_agent.deliver.landing_keys import LandingKeys
from edge_agent.deliver.pace import UNLIMITED, Pace
from edge_agent.deliver.s3 import S3Target
from edge_agent.deliver.s3_store import Place
from edge_agent.deliver.target import Memo, Target
from edge_agent.enrolment import enrol
from edge_agent.model import Access, ItemKind, Label, OutboxItem, Receipt, utc_now_ns
from edge_agent.provenance.policy import PolicyGate
from edge_agent.spool import Spool
from landing import authority
from landing.enrol import issue_token
from landing.fake_rdm import FakeRdm, Rehearsal
from landing.home import Home, Settings
from landing.https import server_context
from landing.judge import WorkerJudge
from landing.places import open_catalogue
from landing.room import Limits
from landing.serve import assemble
from tests.relay import Relay
from tests.weed import KEYS, Weed, seaweedfs

FAST = Backoff(0.01, 0.05)
PART = 5 << 20
RDM_TOKEN = "a-personal-access-token"


@dataclass
class Stage:
    """A place behind a relay.

    Attributes:
        make: the target, as an agent makes it that was just started.
        pace: how fast it is filled.
        kept: what the place keeps now, by path, every version of it.
        wrong: the agent says a wrong secret.
    """

    relay: Relay
    make: Callable[[Memo], Target]
    kept: Callable[[], dict[str, list[bytes]]]
    wrong: bool = False
    pace: Pace = UNLIMITED


@dataclass
class Agent:
    """Outbox and lane over one spool folder, from one start to the next death."""

    spool: Spool
    target: Target
    engine: Engine
    proofs: list[Receipt] = field(default_factory=list)

    def add(self, *items: OutboxItem) -> None:
        for item in items:
            self.spool.outbox.add(item, ["cloud"])
        self.engine.wake()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.005)

    async def landed(self, *items: OutboxItem) -> None:
        await self.until(lambda: {item.item_id for item in items} <= {proof.item_id for proof in self.proofs})


@pytest.fixture
def agent(tmp_path: Path) -> Callable[..., Any]:
    """``async with agent(stage, in_flight=2)``: it runs until the end of the block, which it does not see coming."""

    @contextlib.asynccontextmanager
    async def start(stage: Stage, in_flight: int = 2) -> AsyncIterator[Agent]:
        spool = Spool(tmp_path / "spool")
        target = stage.make(spool.state)
        made = Agent(spool, target, Engine(
            spool.outbox, [target], PolicyGate(["cloud"]), in_flight=in_flight, backoff=FAST, proved=lambda _, receipt: made.proofs.append(receipt)
        ))  # fmt: skip
        await made.engine.start()
        try:
            yield made
        finally:
            await made.engine.stop()
            # What a thread of its own waits for never comes.
            await stage.relay.close()
            spool.close()
            await stage.relay.open()

    return start


@pytest.fixture
def make_item(tmp_path: Path) -> Callable[..., OutboxItem]:
    """``make_item(data, run=1, kind=...)``: an item in the spool, each under a name of its own."""
    (tmp_path / "files").mkdir()

    def make(data: bytes, run: int = 1, kind: ItemKind = ItemKind.FILE) -> OutboxItem:
        name = f"i{len(list((tmp_path / 'files').iterdir())):04d}"
        path = tmp_path / "files" / name
        path.write_bytes(data)
        remote = f"p/g/2026-11-26/{run:06d}/{name}"
        return OutboxItem(name, kind, path, remote, len(data), run.to_bytes(16, "big"), run, "p", Label(Access.CLOSED))

    return make


@pytest.fixture(scope="module")
def weed() -> Iterator[Weed]:
    with seaweedfs() as made:
        yield made


@contextlib.asynccontextmanager
async def _s3(weed: Weed) -> AsyncIterator[Stage]:
    relay, bucket, client = Relay(weed.ports["s3.port"]), f"b-{uuid.uuid4().hex[:12]}", weed.client()
    client.create_bucket(Bucket=bucket)
    place = Place(f"http://{relay.address}", bucket, "us-east-1", "", True, None)

    def kept() -> dict[str, list[bytes]]:
        listed = client.list_objects_v2(Bucket=bucket, Prefix="p/").get("Contents", [])
        return {o["Key"]: [client.get_object(Bucket=bucket, Key=o["Key"])["Body"].read()] for o in listed}

    def keys() -> tuple[str, str]:
        return (KEYS[0], "wrong") if stage.wrong else KEYS

    stage = Stage(relay, lambda memo: S3Target("cloud", place, keys, memo, part=PART, pace=stage.pace), kept)
    yield stage
    client.close()


@contextlib.asynccontextmanager
async def _grdm(folder: Path, **more: Any) -> AsyncIterator[Stage]:
    service = FakeRdm(folder, Rehearsal(RDM_TOKEN, {"abc12": "Lysozyme"}, **more))
    runner = web.AppRunner(service.app(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    relay = Relay(runner.addresses[0][1])
    address = f"http://{relay.address}"

    def make(_: Memo) -> Target:
        talk = Talk("cloud", f"{address}/v2", address, lambda: "wrong" if stage.wrong else RDM_TOKEN, None)
        return GrdmTarget("cloud", talk, {}, "abc12", None, 50 << 30, pace=stage.pace)

    def kept() -> dict[str, list[bytes]]:
        files = [entry for entry in service.tree.entries.values() if entry.kind == "file"]
        return {
            service.tree.materialized(entry).lstrip("/"): [(service.tree.blobs / version.blob).read_bytes() for version in entry.versions]
            for entry in files
        }

    stage = Stage(relay, make, kept)
    yield stage
    await runner.cleanup()


@contextlib.asynccontextmanager
async def _landing(folder: Path, **more: Any) -> AsyncIterator[Stage]:
    home, settings = Home(folder), Settings(name="Test landing")
    home.create(settings)
    authority.create(home, settings)
    open_catalogue(home).close()
    service = assemble(home, Limits(keep_free=0, **more), WorkerJudge(home.root))
    runner = web.AppRunner(service.door.app(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    context = server_context(str(home.keys / "tls.pem"), str(home.keys / "tls.key"), str(home.root))
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    relay = Relay(runner.addresses[0][1])
    await relay.open()
    url = f"https://{relay.address}"
    with contextlib.closing(open_catalogue(home)) as catalogue:
        token = issue_token(catalogue, authority.load(home).root_der, url, ("p",), utc_now_ns())
    _, enrolment = await enrol(folder.with_name("keys"), token, "test")
    await relay.close()
    keys = LandingKeys(enrolment.root, enrolment.tls, enrolment.receipts)

    def kept() -> dict[str, list[bytes]]:
        return {str(path.relative_to(home.space)): [path.read_bytes()] for path in home.space.rglob("*") if path.is_file()}

    stage = Stage(relay, lambda _: LandingTarget("cloud", url, keys, piece=1 << 20, pace=stage.pace), kept)
    yield stage
    await runner.cleanup()
    await service.close()


@pytest.fixture
async def staged(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """``await staged("s3" | "grdm" | "landing", ...)``: the place, with an open relay before it."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(kind: str, **more: Any) -> Stage:
            if kind == "s3":
                made = await stack.enter_async_context(_s3(request.getfixturevalue("weed")))
            else:
                made = await stack.enter_async_context((_grdm if kind == "grdm" else _landing)(tmp_path / kind, **more))
            await made.relay.open()
            stack.push_async_callback(made.relay.close)
            return made

        yield make
