"""The daemon and two clouds at once: an S3 store and a GakuNin RDM get the same run, and the spool is freed when both hold it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from edge_agent.model import Frame, Kind, Proof, Stream
from edge_agent.segment.run import verify_run
from landing.fake_rdm import FakeRdm, Rehearsal
from tests.weed import KEYS, Weed, seaweedfs

IMAGE = Stream("camera", "image", Kind.FRAMES, "<u2", (8, 8), counted=True)
CAMERA = '[instrument.camera]\nadapter = "driven"\ngroup = "bl"\n'
FRAMES = 20


@pytest.fixture(scope="module")
def weed() -> Iterator[Weed]:
    with seaweedfs() as made:
        yield made


async def test_a_run_lands_in_both_and_only_then_leaves_the_spool(
    configure: Callable[..., Path], start: Any, until: Any, adapters: ModuleType, weed: Weed, tmp_path: Path
) -> None:
    service = FakeRdm(tmp_path / "rdm", Rehearsal("the-token", {"abc12": "Lysozyme"}))
    runner = web.AppRunner(service.app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    rdm = f"http://127.0.0.1:{runner.addresses[0][1]}"
    bucket, client = f"b-{uuid.uuid4().hex[:8]}", weed.client()
    client.create_bucket(Bucket=bucket)
    for name, secret in (("access", KEYS[0]), ("secret", KEYS[1]), ("token", "the-token")):
        (tmp_path / name).write_text(f"{secret}\n")
        (tmp_path / name).chmod(0o600)
    targets = (
        f'[target.store]\ns3 = "{weed.endpoint}"\nbucket = "{bucket}"\nprefix = "bl05/"\n'
        f'access_key = {{ file = "{tmp_path / "access"}" }}\nsecret_key = {{ file = "{tmp_path / "secret"}" }}\n'
        f'[target.rdm]\ngrdm = "{rdm}"\napi = "{rdm}/v2"\ntoken = {{ file = "{tmp_path / "token"}" }}\nnode = "abc12"\n'
    )
    agent = await start(configure(CAMERA, targets))
    inlet = (await until(lambda: adapters.SINKS.get("camera"))).open(IMAGE)
    run = agent.desk.start("bl", project="p")
    for number in range(FRAMES):
        assert inlet.offer(Frame(np.full((8, 8), number, "<u2"), number, time.time_ns(), time.time_ns()))
    await agent.desk.stop("bl")

    async def landed() -> bool:
        status = await agent.status()
        return not status.runs and all(t.waiting == t.parked == t.quarantined == 0 for t in status.targets)

    await until(landed)
    items = agent.spool.outbox.items_of_run(run.run_id)
    for item in items:
        proofs = {delivery.target: delivery.receipt for delivery in agent.spool.outbox.deliveries(item.item_id)}
        assert {name: receipt.proof for name, receipt in proofs.items()} == {"store": Proof.STORE_DIGEST, "rdm": Proof.STORE_DIGEST}
        assert proofs["store"].sha256 == proofs["rdm"].sha256

    copies = {"s3": tmp_path / "from-s3", "rdm": tmp_path / "from-rdm"}
    for listed in client.list_objects_v2(Bucket=bucket, Prefix="bl05/p/")["Contents"]:
        _write(copies["s3"] / listed["Key"].removeprefix("bl05/"), client.get_object(Bucket=bucket, Key=listed["Key"])["Body"].read())
    for entry in service.tree.entries.values():
        if entry.kind == "file":
            blob = service.tree.blobs / entry.versions[-1].blob
            _write(copies["rdm"] / service.tree.materialized(entry).lstrip("/"), blob.read_bytes())
    for copy in copies.values():
        report = verify_run(copy / run.folder, None)
        assert (report.level, report.reason) == (1, "signed by an unknown key"), "whole; this agent was enrolled nowhere"
        assert {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()} == {item.remote for item in items}
    status = await agent.status()
    (totals,) = [s.totals for i in status.instruments for s in i.streams if s.name == IMAGE.key]
    assert (totals.arrived, totals.landed, totals.discrepancy) == (FRAMES, FRAMES, 0)
    client.close()
    await runner.cleanup()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
