"""What the network and the store's machine do to an upload."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from edge_agent.deliver.backoff import Backoff
from edge_agent.deliver.engine import Engine
from edge_agent.deliver.s3 import S3Target
from edge_agent.errors import TargetUnreachable
from edge_agent.model import OutboxItem, Proof
from edge_agent.provenance.policy import PolicyGate
from edge_agent.spool import Spool
from tests.relay import Relay

MakeItem = Callable[..., OutboxItem]
MakeTarget = Callable[..., S3Target]
MIB = 1 << 20
LARGE = os.urandom(1021) * (12 * MIB // 1021 + 1)


def ignore(_: int) -> None:
    """No progress wanted."""


@pytest.fixture
async def relay(weed: Any) -> AsyncIterator[Relay]:
    made = Relay(weed.ports["s3.port"])
    await made.open()
    yield made
    await made.close()


@pytest.mark.parametrize("data", [LARGE[: 1 * MIB], LARGE], ids=["one", "parts"])
async def test_a_byte_that_falls_over_on_the_way_is_refused_and_sent_again(
    weed: Any, bucket: str, relay: Relay, make_target: MakeTarget, make_item: MakeItem, data: bytes
) -> None:
    target, item = make_target(f"http://{relay.address}", bucket), make_item(data)
    await target.probe()
    relay.flip(500_000)
    with pytest.raises(TargetUnreachable) as failed:
        await target.send(item, ignore)
    assert failed.value.code == "S3_WRONG_BYTES"
    client = weed.client()
    with pytest.raises(ClientError):
        client.head_object(Bucket=bucket, Key=item.remote)
    receipt = await target.send(item, ignore)
    assert receipt.sha256 == hashlib.sha256(client.get_object(Bucket=bucket, Key=item.remote)["Body"].read()).digest()
    client.close()
    await target.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_store_that_is_killed_in_the_middle_loses_nothing(
    weed: Any, bucket: str, make_target: MakeTarget, make_item: MakeItem, tmp_path: Any
) -> None:
    """Through the outbox and its lane: four items with a common fate, the store dies while they go, and comes back."""
    spool = Spool(tmp_path / "spool")
    target = S3Target("cloud", make_target(weed.endpoint, bucket)._place, lambda: ("AGENTKEY", "agentsecret"), spool.state, part=5 * MIB)
    contents = {f"i{n}": os.urandom(997) * ((n + 1) * 11 * MIB // 997) for n in range(4)}
    items = [make_item(data, f"p/g/2026-11-26/000001/{name}.h5", item_id=name) for name, data in contents.items()]
    for item in items:
        spool.outbox.add(item, ["cloud"])
    proofs: dict[str, Any] = {}
    half, done = asyncio.Event(), asyncio.Event()

    def proved(item: OutboxItem, receipt: Any) -> None:
        proofs[item.item_id] = receipt
        half.set()
        if len(proofs) == len(items):
            done.set()

    engine = Engine(spool.outbox, [target], PolicyGate(["cloud"]), backoff=Backoff(0.2, 2.0), proved=proved)
    await engine.start()
    engine.wake()
    await asyncio.wait_for(half.wait(), 120)
    await asyncio.to_thread(weed.kill)
    await asyncio.to_thread(weed.start)
    await engine.kick()
    await asyncio.wait_for(done.wait(), 120)
    await engine.stop()
    client = weed.client()
    for item in items:
        data = client.get_object(Bucket=bucket, Key=item.remote)["Body"].read()
        assert hashlib.sha256(data).digest() == proofs[item.item_id].sha256 == hashlib.sha256(contents[item.item_id]).digest()
        assert proofs[item.item_id].proof is Proof.STORE_DIGEST
    assert spool.state.under("s3/") == {}
    client.close()
    spool.close()
