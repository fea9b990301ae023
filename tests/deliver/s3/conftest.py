"""A real S3 store for the module, and what its tests need."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_agent.deliver.s3 import Lock, S3Target
from edge_agent.deliver.s3_store import Place
from edge_agent.model import Access, ItemKind, Label, OutboxItem
from tests.weed import KEYS, Weed, seaweedfs


@pytest.fixture(scope="module")
def weed() -> Iterator[Weed]:
    with seaweedfs() as made:
        yield made


@pytest.fixture
def bucket(weed: Weed) -> str:
    """A new bucket."""
    name = f"b-{uuid.uuid4().hex[:12]}"
    client = weed.client()
    client.create_bucket(Bucket=name)
    client.close()
    return name


class Memory:
    """What survives a restart of the agent."""

    def __init__(self) -> None:
        self.pairs: dict[str, bytes] = {}

    def put(self, key: str, value: bytes) -> None:
        self.pairs[key] = value

    def delete(self, key: str) -> None:
        self.pairs.pop(key, None)

    def under(self, prefix: str) -> dict[str, bytes]:
        return {key: value for key, value in self.pairs.items() if key.startswith(prefix)}


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def make_target(memory: Memory) -> Callable[..., S3Target]:
    """``make_target(endpoint, bucket, keys=..., part=..., lock=...)``; each call is an agent that was started anew."""

    def make(
        endpoint: str, bucket: str, keys: tuple[str, str] = KEYS, part: int = 5 << 20, lock: Lock | None = None, prefix: str = ""
    ) -> S3Target:
        return S3Target("cloud", Place(endpoint, bucket, "us-east-1", prefix, True, None), lambda: keys, memory, part=part, lock=lock)

    return make


@pytest.fixture
def make_item(tmp_path: Path) -> Callable[..., OutboxItem]:
    """``make_item(data, remote=..., kind=...)``: an item in the spool."""

    def make(data: bytes, remote: str = "p/g/2026-11-26/000001/a.h5", kind: ItemKind = ItemKind.SEGMENT, item_id: str = "a") -> OutboxItem:
        path = tmp_path / f"{item_id}.h5"
        path.write_bytes(data)
        return OutboxItem(item_id, kind, path, remote, len(data), b"\1" * 16, 1, "p", Label(Access.CLOSED))

    return make
