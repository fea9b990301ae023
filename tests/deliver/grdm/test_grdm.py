from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from edge_agent.deliver.grdm import GrdmTarget
from edge_agent.deliver.grdm_talk import Talk
from edge_agent.deliver.target import Target
from edge_agent.errors import IntegrityError, PermissionRefused, TargetUnreachable
from edge_agent.model import ItemKind, OutboxItem, Proof

MakeItem = Callable[..., OutboxItem]
MakeTarget = Callable[..., GrdmTarget]
LARGE = os.urandom(3 << 20)
NAME = "/p/g/2026-11-26/000001/a.h5"


def ignore(_: int) -> None:
    """No progress wanted."""


async def ready(target: GrdmTarget) -> GrdmTarget:
    await target.probe()
    return target


async def test_it_finds_the_storage_of_each_project(rdm: Any, make_target: MakeTarget) -> None:
    target = make_target(rdm.address, nodes={"q": "xyz98"})
    assert isinstance(target, Target)
    found = await target.probe()
    assert (found.proof, found.resumable, found.max_size) == (Proof.STORE_DIGEST, False, 50 << 30)
    assert "abc12 (osfstorage), xyz98 (osfstorage)" in found.detail


@pytest.mark.parametrize("data", [b"", b"x", LARGE], ids=["empty", "small", "large"])
async def test_an_item_lands_with_the_storages_digest(rdm: Any, make_target: MakeTarget, make_item: MakeItem, data: bytes) -> None:
    target, item, seen = await ready(make_target(rdm.address)), make_item(data), []
    receipt = await target.send(item, seen.append)
    assert rdm.file(NAME) == data
    assert (receipt.sha256, receipt.size, receipt.proof) == (hashlib.sha256(data).digest(), len(data), Proof.STORE_DIGEST)
    assert seen[-1] == len(data)


async def test_folders_are_made_once_and_found_again(new_rdm: Callable[..., Any], make_target: MakeTarget, make_item: MakeItem) -> None:
    rdm = await new_rdm()
    target = await ready(make_target(rdm.address))
    await target.send(make_item(b"a", "p/ガス/a.h5"), ignore)
    await target.send(make_item(b"b", "p/ガス/b.h5", item_id="b"), ignore)
    made = [path for method, path in rdm.service.asked if method == "PUT" and "kind=folder" in path]
    assert len(made) == 2
    again = await ready(make_target(rdm.address))
    await again.send(make_item(b"c", unicodedata.normalize("NFD", "p/ガス/c.h5"), item_id="c"), ignore)
    assert rdm.names() == ["/p/", "/p/ガス/", "/p/ガス/a.h5", "/p/ガス/b.h5", "/p/ガス/c.h5"]


async def test_each_project_goes_to_its_own_node(rdm: Any, make_target: MakeTarget, make_item: MakeItem) -> None:
    target = await ready(make_target(rdm.address, node=None, nodes={"q": "xyz98"}))
    await target.send(make_item(b"x", "q/a.h5", project="q"), ignore)
    assert {entry.node for entry in rdm.service.tree.entries.values()} == {"xyz98"}
    with pytest.raises(PermissionRefused) as refused:
        await target.send(make_item(b"x"), ignore)
    assert refused.value.code == "GRDM_NO_PROJECT"
    assert "the token may write to abc12 (Lysozyme), xyz98 (Other)" in refused.value.why


async def test_a_service_that_does_not_list_projects_takes_data_all_the_same(
    rdm: Any, make_target: MakeTarget, make_item: MakeItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Talk.api

    async def refuse(talk: Talk, path: str) -> Any:
        if path.startswith("/nodes/?"):
            raise PermissionRefused("no such filter")
        return await ask(talk, path)

    monkeypatch.setattr(Talk, "api", refuse)
    target = await ready(make_target(rdm.address))
    await target.send(make_item(b"x"), ignore)
    assert rdm.file(NAME) == b"x"


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
async def test_what_is_there_already_is_a_success(rdm: Any, make_target: MakeTarget, make_item: MakeItem, data: bytes) -> None:
    """What a lost 201 looks like."""
    target, item = await ready(make_target(rdm.address)), make_item(data)
    first, again = await target.send(item, ignore), await target.send(item, ignore)
    assert (again.sha256, again.proof) == (first.sha256, Proof.STORE_DIGEST)
    entry = next(e for e in rdm.service.tree.entries.values() if e.kind == "file")
    assert len(entry.versions) == 1


async def test_another_file_of_that_name_is_not_replaced(rdm: Any, make_target: MakeTarget, make_item: MakeItem) -> None:
    target = await ready(make_target(rdm.address))
    await target.send(make_item(b"one"), ignore)
    with pytest.raises(IntegrityError) as refused:
        await target.send(make_item(b"two"), ignore)
    assert refused.value.code == "TARGET_CONFLICT"
    assert rdm.file(NAME) == b"one"


async def test_a_folder_of_that_name_is_a_conflict(rdm: Any, make_target: MakeTarget, make_item: MakeItem) -> None:
    target = await ready(make_target(rdm.address))
    await target.send(make_item(b"one", "p/a/b.h5"), ignore)
    with pytest.raises(IntegrityError) as refused:
        await target.send(make_item(b"two", "p/a"), ignore)
    assert refused.value.code == "TARGET_CONFLICT"


async def test_receipts_become_a_new_version(rdm: Any, make_target: MakeTarget, make_item: MakeItem) -> None:
    target = await ready(make_target(rdm.address))
    for number, content in enumerate((b"one", b"one and two"), 1):
        await target.send(make_item(content, kind=ItemKind.RECEIPTS), ignore)
        assert rdm.file(NAME) == content
        assert [len(e.versions) for e in rdm.service.tree.entries.values() if e.kind == "file"] == [number]


async def test_where_the_storage_says_no_digest_the_file_is_read_back(
    new_rdm: Callable[..., Any], make_target: MakeTarget, make_item: MakeItem
) -> None:
    rdm = await new_rdm(hashes=False, providers=("s3compat",))
    target, item = await ready(make_target(rdm.address)), make_item(LARGE)
    for _ in range(2):
        assert (await target.send(item, ignore)).proof is Proof.READ_BACK


@pytest.mark.parametrize("hashes", [True, False], ids=["digest", "read back"])
async def test_what_the_storage_spoils_once_is_sent_again_and_twice_is_told(
    new_rdm: Callable[..., Any], make_target: MakeTarget, make_item: MakeItem, monkeypatch: pytest.MonkeyPatch, hashes: bool
) -> None:
    rdm = await new_rdm(hashes=hashes)
    receive, spoilt = rdm.service._receive, 0

    async def spoil(request: Any) -> Any:
        nonlocal spoilt
        version = await receive(request)
        if spoilt:
            spoilt -= 1
            (rdm.service.tree.blobs / version.blob).write_bytes(b"spoi")
            version.sha256 = hashlib.sha256(b"spoi").hexdigest()
        return version

    monkeypatch.setattr(rdm.service, "_receive", spoil)
    target = await ready(make_target(rdm.address))
    spoilt = 1
    await target.send(make_item(b"good"), ignore)
    assert rdm.file(NAME) == b"good"
    spoilt = 2
    with pytest.raises(IntegrityError) as refused:
        await target.send(make_item(b"more", "p/b.h5", item_id="b"), ignore)
    assert refused.value.code == "READ_BACK_DIFFERS"


async def test_a_wrong_token_is_refused_and_never_shown(rdm: Any, make_target: MakeTarget) -> None:
    with pytest.raises(PermissionRefused) as refused:
        await make_target(rdm.address, token="not-the-token").probe()
    assert refused.value.code == "GRDM_REFUSED"
    assert "not-the-token" not in str(refused.value)


async def test_a_full_project_parks_and_a_large_file_too(
    new_rdm: Callable[..., Any], make_target: MakeTarget, make_item: MakeItem
) -> None:
    rdm = await new_rdm(quota=2 << 20, max_body=4 << 20)
    target = await ready(make_target(rdm.address))
    with pytest.raises(PermissionRefused) as refused:
        await target.send(make_item(LARGE), ignore)
    assert refused.value.code == "GRDM_QUOTA"
    with pytest.raises(PermissionRefused) as refused:
        await target.send(make_item(LARGE + LARGE, "p/b.h5", item_id="b"), ignore)
    assert refused.value.code == "GRDM_TOO_LARGE"
    await target.send(make_item(b"small", "p/c.h5", item_id="c"), ignore)
    assert rdm.file("/p/c.h5") == b"small"


async def test_a_storage_that_is_not_there_is_named(rdm: Any, make_target: MakeTarget) -> None:
    with pytest.raises(PermissionRefused) as refused:
        await make_target(rdm.address, storage="nextcloud").probe()
    assert refused.value.code == "GRDM_NO_STORAGE"
    assert "osfstorage" in str(refused.value)


async def test_a_folder_that_somebody_removed_is_made_again(rdm: Any, make_target: MakeTarget, make_item: MakeItem) -> None:
    target = await ready(make_target(rdm.address))
    await target.send(make_item(b"a", "p/f/a.h5"), ignore)
    folder = next(e for e in rdm.service.tree.entries.values() if e.name == "f")
    rdm.service.tree.remove(folder)
    with pytest.raises(TargetUnreachable):
        await target.send(make_item(b"b", "p/f/b.h5", item_id="b"), ignore)
    await target.send(make_item(b"b", "p/f/b.h5", item_id="b"), ignore)
    assert rdm.file("/p/f/b.h5") == b"b"


async def test_a_service_that_is_away_is_tried_later(rdm: Any, make_target: MakeTarget, make_item: MakeItem) -> None:
    target = await ready(make_target(rdm.address))
    await rdm.runner.cleanup()
    with pytest.raises(TargetUnreachable):
        await target.probe()


async def test_a_file_that_changed_since_it_was_sealed_is_not_proved(rdm: Any, make_target: MakeTarget, make_item: MakeItem) -> None:
    target, item = await ready(make_target(rdm.address)), make_item(b"sealed")
    item.path.write_bytes(b"sea")
    with pytest.raises((IntegrityError, TargetUnreachable)):
        await target.send(item, ignore)
    assert not [name for name in rdm.names() if name.endswith("a.h5")]


@pytest.mark.parametrize("remote", ["p/../a.h5", "p//a.h5", "p/", "./a.h5"])
async def test_names_that_no_file_should_have(rdm: Any, make_target: MakeTarget, make_item: MakeItem, remote: str) -> None:
    target = await ready(make_target(rdm.address))
    with pytest.raises(IntegrityError) as refused:
        await target.send(make_item(b"x", remote), ignore)
    assert refused.value.code == "TARGET_PATH"
    assert rdm.names() == []


async def test_names_with_every_sign_stay_what_they_are(rdm: Any, make_target: MakeTarget, make_item: MakeItem) -> None:
    target = await ready(make_target(rdm.address))
    name = "p/a b?c=d&e#f%20+é/g;h.h5"
    await target.send(make_item(b"x", name), ignore)
    assert rdm.file(f"/{name}") == b"x"


async def test_the_client_of_the_tests_is_another(client: aiohttp.ClientSession, rdm: Any) -> None:
    async with client.get(f"{rdm.address}/v2/nodes/") as response:
        assert [node["id"] for node in (await response.json())["data"]] == ["abc12", "xyz98"]
