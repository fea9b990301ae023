"""Envelopes in GakuNin RDM: its tree shows no name of ours, and receipts that grow are a new version of one file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_agent.deliver.encrypted import EncryptingTarget
from edge_agent.deliver.grdm import GrdmTarget
from edge_agent.model import ItemKind, OutboxItem
from edge_agent.wire import envelope

SECRET, KEY = envelope.new_key()


def ignore(_: int) -> None:
    """No progress wanted."""


async def test_rdm_holds_what_only_the_key_opens_and_learns_no_name(
    rdm: Any, make_target: Callable[..., GrdmTarget], make_item: Callable[..., OutboxItem], tmp_path: Path
) -> None:
    target = EncryptingTarget(make_target(rdm.address), lambda _: (KEY,), tmp_path / "encrypted")
    await target.probe()
    (tmp_path / "key").write_text(SECRET)
    for kind, contents in ((ItemKind.SEGMENT, (b"zq7canary" * 9000,)), (ItemKind.RECEIPTS, (b"one", b"one and two"))):
        for data in contents:
            item = make_item(data, f"p/zq7canary/2026-11-26/000001/zq7canary.{kind}", kind)
            receipt = await target.send(item, ignore)
            assert receipt.envelope is not None
            held = rdm.file(f"/{receipt.envelope.name}")
            assert (len(held), hashlib.sha256(held).digest()) == (receipt.envelope.size, receipt.envelope.sha256)
            assert b"zq7canary" not in held
            (tmp_path / "a.age").write_bytes(held)
            out = tmp_path / str(len(data))
            assert envelope.open_envelope(tmp_path / "a.age", envelope.read_key(tmp_path / "key"), out).path.read_bytes() == data
    assert not [name for name in rdm.names() if "zq7canary" in name or "000001" in name]
    assert sum(name.endswith(".age") for name in rdm.names()) == 2
    await target.close()
