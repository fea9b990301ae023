"""A segment that was sent while its run went on has its digest from there: the papers do not read it again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.model import Frame, ItemKind, Proof, Receipt, Stream

New = Callable[..., Any]


@pytest.mark.parametrize("sent", [True, False])
async def test_a_segment_is_hashed_once_while_it_is_sent_or_for_the_papers(
    sent: bool, new_house: New, camera: Stream, frame: Callable[..., Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = new_house(targets=("space",))
    await house.open("bl")
    keeper, papers = type(house.keeper), type(house.papers)
    add, digest, read = keeper.add_segment, papers._digest, []

    def add_and_send(self: Any, entry: Any, closed: Any) -> None:
        add(self, entry, closed)
        item = house.spool.outbox.item(closed.segment_id.hex())
        if sent and house.spool.outbox.begin(item.item_id, "space"):
            found = hashlib.sha256(item.path.read_bytes()).digest()
            assert house.spool.outbox.proved(Receipt("space", item.item_id, found, item.size, Proof.READ_BACK, 7))

    def noted(self: Any, path: Path) -> bytes:
        read.append(path.name)
        return bytes(digest(self, path))

    monkeypatch.setattr(keeper, "add_segment", add_and_send)
    monkeypatch.setattr(papers, "_digest", noted)
    house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(1))
    await house.desk.stop("bl")
    run = await house.complete()
    folder = house.keeper.folder(run)
    segments = [item for item in house.spool.outbox.items_of_run(run.run_id) if item.kind is ItemKind.SEGMENT]
    assert segments
    for item in segments:
        assert read.count(item.path.name) == (0 if sent else 1)
        assert f"{hashlib.sha256(item.path.read_bytes()).hexdigest()}  {item.path.name}\n" in (folder / "manifest-sha256.txt").read_text()
