from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from edge_agent.deliver.encrypted import EncryptingTarget
from edge_agent.deliver.s3 import PROBE, Lock, S3Target, _Ability
from edge_agent.deliver.s3_store import Store
from edge_agent.deliver.target import Target
from edge_agent.errors import IntegrityError, PermissionRefused, TargetUnreachable
from edge_agent.model import ItemKind, OutboxItem, Proof
from edge_agent.wire import envelope
from tests.deliver.s3.careless import careless

MakeItem = Callable[..., OutboxItem]
MakeTarget = Callable[..., S3Target]
MIB = 1 << 20
LARGE = os.urandom(1021) * (13 * MIB // 1021 + 1)


def ignore(_: int) -> None:
    """No progress wanted."""


def stored(weed: Any, bucket: str, key: str) -> bytes:
    client = weed.client()
    try:
        found: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return found
    finally:
        client.close()


class Counting:
    """Counts the parts that are sent, and may end the upload before one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[int] = []
        self.fail_at: int | None = None
        part, lock = Store.part, threading.Lock()

        def count(store: Store, key: str, upload: str, number: int, data: bytes, sums: Any) -> str:
            if number == self.fail_at:
                raise TargetUnreachable("cut", why="the test cut it")
            etag = part(store, key, upload, number, data, sums)
            with lock:
                self.sent.append(number)
            return etag

        monkeypatch.setattr(Store, "part", count)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Counting:
    return Counting(monkeypatch)


async def ready(target: S3Target) -> S3Target:
    await target.probe()
    return target


async def test_the_store_is_tried_out_and_said_to_check_both_sums(weed: Any, bucket: str, make_target: MakeTarget) -> None:
    target = make_target(weed.endpoint, bucket)
    assert isinstance(target, Target)
    found = await target.probe()
    assert (found.proof, found.resumable) == (Proof.STORE_DIGEST, True)
    assert "checks SHA-256 and CRC-64/NVME" in found.detail
    assert "does not refuse" not in found.detail
    await target.probe()
    assert weed.client().list_objects_v2(Bucket=bucket)["KeyCount"] == 1, PROBE
    await target.close()


@pytest.mark.parametrize("data", [b"", b"x", LARGE[: 5 * MIB]], ids=["empty", "small", "as large as a part"])
async def test_a_small_item_lands_with_the_stores_digest(
    weed: Any, bucket: str, make_target: MakeTarget, make_item: MakeItem, data: bytes
) -> None:
    target, item, seen = await ready(make_target(weed.endpoint, bucket, prefix="bl05/")), make_item(data, "p/日本語 ラン/a.h5"), []
    receipt = await target.send(item, seen.append)
    assert stored(weed, bucket, "bl05/p/日本語 ラン/a.h5") == data
    assert (receipt.sha256, receipt.size, receipt.proof) == (hashlib.sha256(data).digest(), len(data), Proof.STORE_DIGEST)
    assert seen[-1] == len(data)
    await target.close()


@pytest.mark.parametrize("crc", [True, False], ids=["CRC-64/NVME", "SHA-256 of the parts"])
async def test_a_large_item_goes_in_parts(
    weed: Any, bucket: str, make_target: MakeTarget, make_item: MakeItem, parts: Counting, memory: Any, crc: bool
) -> None:
    target, item, seen = await ready(make_target(weed.endpoint, bucket)), make_item(LARGE), []
    target._ability = _Ability(crc, True, True)
    receipt = await target.send(item, seen.append)
    assert stored(weed, bucket, item.remote) == LARGE
    assert (receipt.sha256, receipt.proof) == (hashlib.sha256(LARGE).digest(), Proof.STORE_DIGEST)
    assert sorted(parts.sent) == [1, 2, 3]
    assert seen == sorted(seen)
    assert seen[-1] == len(LARGE)
    assert memory.pairs == {}
    await target.close()


async def test_after_a_break_only_the_missing_parts_are_sent(
    weed: Any, bucket: str, make_target: MakeTarget, make_item: MakeItem, parts: Counting, memory: Any
) -> None:
    target, item = await ready(make_target(weed.endpoint, bucket)), make_item(LARGE)
    parts.fail_at = 2
    with pytest.raises(TargetUnreachable):
        await target.send(item, ignore)
    await target.close()
    before, parts.fail_at = sorted(parts.sent), None
    assert 2 not in before
    assert list(memory.pairs) == ["s3/cloud/a"]
    target = await ready(make_target(weed.endpoint, bucket, part=7 * MIB))
    await target.send(item, ignore)
    assert sorted(parts.sent) == [1, 2, 3], "each once, and in the size with which the upload was begun"
    assert stored(weed, bucket, item.remote) == LARGE
    assert memory.pairs == {}
    await target.close()


async def test_an_upload_that_the_store_forgot_begins_again(
    weed: Any, bucket: str, make_target: MakeTarget, make_item: MakeItem, parts: Counting, memory: Any
) -> None:
    target, item = await ready(make_target(weed.endpoint, bucket)), make_item(LARGE)
    parts.fail_at = 3
    with pytest.raises(TargetUnreachable):
        await target.send(item, ignore)
    client = weed.client()
    for upload in client.list_multipart_uploads(Bucket=bucket)["Uploads"]:
        client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    parts.fail_at = None
    receipt = await target.send(item, ignore)
    assert receipt.sha256 == hashlib.sha256(stored(weed, bucket, item.remote)).digest()
    await target.close()


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["one", "parts"])
async def test_what_is_there_already_is_a_success_and_sends_nothing(
    weed: Any, bucket: str, make_target: MakeTarget, make_item: MakeItem, parts: Counting, data: bytes
) -> None:
    target, item = await ready(make_target(weed.endpoint, bucket)), make_item(data)
    first = await target.send(item, ignore)
    sent = list(parts.sent)
    again = await target.send(item, ignore)
    assert (again.sha256, again.proof) == (first.sha256, Proof.STORE_DIGEST)
    assert parts.sent == sent
    await target.close()


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["one", "parts"])
async def test_an_answer_that_got_lost_is_no_conflict(
    weed: Any, bucket: str, make_target: MakeTarget, make_item: MakeItem, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    """The object is made between our look and our request: what happens when a request is sent twice."""
    target, item = await ready(make_target(weed.endpoint, bucket)), make_item(data)
    await target.send(item, ignore)
    head, looks = Store.head, []

    def blind(store: Store, key: str) -> Any:
        looks.append(key)
        return None if len(looks) == 1 else head(store, key)

    monkeypatch.setattr(Store, "head", blind)
    receipt = await target.send(item, ignore)
    assert receipt.proof is Proof.STORE_DIGEST
    assert len(looks) == 2
    await target.close()


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["one", "parts"])
async def test_another_object_of_that_name_is_not_replaced(
    weed: Any, bucket: str, make_target: MakeTarget, make_item: MakeItem, data: bytes
) -> None:
    item = make_item(data)
    weed.client().put_object(Bucket=bucket, Key=item.remote, Body=data[:-1] + b"?")
    target = await ready(make_target(weed.endpoint, bucket))
    with pytest.raises(IntegrityError) as refused:
        await target.send(item, ignore)
    assert refused.value.code == "TARGET_CONFLICT"
    assert stored(weed, bucket, item.remote) == data[:-1] + b"?"
    await target.close()


async def test_receipts_are_replaced_by_their_next_revision(weed: Any, bucket: str, make_target: MakeTarget, make_item: MakeItem) -> None:
    target = await ready(make_target(weed.endpoint, bucket))
    for content in (b"one", b"one and two"):
        await target.send(make_item(content, kind=ItemKind.RECEIPTS), ignore)
        assert stored(weed, bucket, "p/g/2026-11-26/000001/a.h5") == content
    await target.close()


async def test_a_file_that_changed_since_it_was_sealed_makes_no_object(
    weed: Any, bucket: str, make_target: MakeTarget, make_item: MakeItem
) -> None:
    target, item = await ready(make_target(weed.endpoint, bucket)), make_item(LARGE)
    item.path.write_bytes(LARGE + b"more")
    with pytest.raises(IntegrityError) as refused:
        await target.send(item, ignore)
    assert refused.value.code == "SPOOL_FILE_CHANGED"
    with pytest.raises(ClientError):
        stored(weed, bucket, item.remote)
    await target.close()


@pytest.mark.parametrize(
    ("keys", "code"), [(("READKEY", "readsecret"), "S3_REFUSED"), (("AGENTKEY", "wrong"), "S3_REFUSED"), (("NOBODY", "x"), "S3_REFUSED")]
)
async def test_wrong_keys_are_refused_and_never_shown(
    weed: Any, bucket: str, make_target: MakeTarget, keys: tuple[str, str], code: str
) -> None:
    target = make_target(weed.endpoint, bucket, keys=keys)
    with pytest.raises(PermissionRefused) as refused:
        await target.probe()
    assert refused.value.code == code
    assert keys[1] not in str(refused.value)
    await target.close()


async def test_a_bucket_that_is_not_there_is_named(weed: Any, make_target: MakeTarget) -> None:
    target = make_target(weed.endpoint, "no-such-bucket")
    with pytest.raises(PermissionRefused) as refused:
        await target.probe()
    assert refused.value.code == "S3_NO_BUCKET"
    await target.close()


async def test_a_store_that_is_away_is_tried_later(make_target: MakeTarget) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        target = make_target(f"http://127.0.0.1:{nobody.getsockname()[1]}", "bucket")
        with pytest.raises(TargetUnreachable):
            await target.probe()
        await target.close()


async def test_objects_are_locked_where_it_is_asked_for(weed: Any, bucket: str, make_target: MakeTarget, make_item: MakeItem) -> None:
    client, locked = weed.client(), f"{bucket}-locked"
    client.create_bucket(Bucket=locked, ObjectLockEnabledForBucket=True)
    target = await ready(make_target(weed.endpoint, locked, lock=Lock("COMPLIANCE", 2)))
    for number, data in enumerate((b"small", LARGE)):
        item = make_item(data, f"p/{number}.h5", item_id=f"i{number}")
        await target.send(item, ignore)
        head = client.head_object(Bucket=locked, Key=item.remote)
        assert head["ObjectLockMode"] == "COMPLIANCE"
        left = head["ObjectLockRetainUntilDate"] - dt.datetime.now(dt.UTC)
        assert dt.timedelta(days=1, hours=23) < left <= dt.timedelta(days=2)
        with pytest.raises(ClientError):
            client.delete_object(Bucket=locked, Key=item.remote, VersionId=head["VersionId"])
    await target.close()
    target = make_target(weed.endpoint, bucket, lock=Lock("COMPLIANCE", 2))
    with pytest.raises(PermissionRefused) as refused:
        await target.probe()
    assert refused.value.code == "S3_NO_LOCK"
    await target.close()


@pytest.mark.parametrize("remote", ["/p/a.h5", "p/../a.h5", "p//a.h5", "./a.h5", "p/" + "長" * 400])
async def test_names_that_no_object_should_have(weed: Any, bucket: str, make_target: MakeTarget, make_item: MakeItem, remote: str) -> None:
    target = await ready(make_target(weed.endpoint, bucket))
    with pytest.raises(IntegrityError) as refused:
        await target.send(make_item(b"x", remote), ignore)
    assert refused.value.code == "TARGET_PATH"
    await target.close()


async def test_an_upload_that_is_stopped_goes_on_later(
    weed: Any, bucket: str, make_target: MakeTarget, make_item: MakeItem, parts: Counting
) -> None:
    target, item = await ready(make_target(weed.endpoint, bucket)), make_item(LARGE)
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    sending = asyncio.create_task(target.send(item, lambda _: loop.call_soon_threadsafe(begun.set)))
    await begun.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    receipt = await target.send(item, ignore)
    assert receipt.sha256 == hashlib.sha256(stored(weed, bucket, item.remote)).digest()
    await target.close()


# ---- a store that checks nothing


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["one", "parts"])
async def test_where_the_store_checks_nothing_objects_are_read_back(make_target: MakeTarget, make_item: MakeItem, data: bytes) -> None:
    with careless() as store:
        target = make_target(store.endpoint, "bucket")
        found = await target.probe()
        assert found.proof is Proof.READ_BACK
        assert "read back; does not refuse to replace objects" in found.detail
        receipt = await target.send(make_item(data), ignore)
        assert (receipt.proof, receipt.sha256) == (Proof.READ_BACK, hashlib.sha256(data).digest())
        assert store.objects["/bucket/p/g/2026-11-26/000001/a.h5"] == data
        await target.close()


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["one", "parts"])
async def test_what_it_spoils_is_found(make_target: MakeTarget, make_item: MakeItem, data: bytes) -> None:
    with careless() as store:
        target = await ready(make_target(store.endpoint, "bucket"))
        store.spoil = lambda kept: kept[:-1] + b"?"  # type: ignore[assignment]
        with pytest.raises(IntegrityError) as refused:
            await target.send(make_item(data), ignore)
        assert refused.value.code == "READ_BACK_DIFFERS"
        await target.close()


# ---- a store that has no room, in all the words that there are for it


@pytest.mark.parametrize(
    ("status", "said", "kind", "code"),
    [
        (400, "EntityTooLarge", PermissionRefused, "S3_TOO_LARGE"),
        (413, "", PermissionRefused, "S3_TOO_LARGE"),
        (403, "QuotaExceeded", PermissionRefused, "S3_FULL"),
        (507, "XMinioStorageFull", PermissionRefused, "S3_FULL"),
        (403, "AccessDenied", PermissionRefused, "S3_REFUSED"),
        (503, "SlowDown", TargetUnreachable, "S3_TROUBLE"),
        (429, "", TargetUnreachable, "S3_TROUBLE"),
    ],
)
async def test_what_it_refuses_is_told_by_what_can_be_done_and_others_go_on(
    make_target: MakeTarget, make_item: MakeItem, status: int, said: str, kind: type[Exception], code: str
) -> None:
    with careless() as store:
        target, item = await ready(make_target(store.endpoint, "bucket")), make_item(b"data")
        # A proxy before the store answers in HTML.
        body = f"<Error><Code>{said}</Code><Message>no</Message></Error>" if said else "<html><body>no</body></html>"
        store.refusals[f"/bucket/{item.remote}"] = (status, body.encode())
        with pytest.raises(kind) as refused:
            await target.send(item, ignore)
        assert refused.value.code == code  # type: ignore[attr-defined]
        await target.send(make_item(b"data", "p/b.h5", item_id="b"), ignore)
        assert "/bucket/p/b.h5" in store.objects
        await target.close()


# ---- envelopes, see edge_agent.deliver.encrypted


async def test_a_large_envelope_goes_on_after_a_restart_and_the_store_learns_no_name(
    weed: Any, bucket: str, make_target: MakeTarget, make_item: MakeItem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (secret, key), mark = envelope.new_key(), "zq7canary"
    data = (mark.encode() + os.urandom(1000)) * (13 * MIB // 1009)
    item = make_item(data, f"{mark}/g/2026-11-26/000001/{mark}.h5", item_id=mark)
    sent: list[int] = []
    part = Store.part

    def cut(store: Store, name: str, upload: str, number: int, piece: bytes, sums: Any) -> str:
        if number == 3 and 3 not in sent:
            sent.append(3)
            raise TargetUnreachable("cut")
        sent.append(number)
        return part(store, name, upload, number, piece, sums)

    monkeypatch.setattr(Store, "part", cut)
    for again in (False, True):
        target = EncryptingTarget(make_target(weed.endpoint, bucket), lambda _: (key,), tmp_path / "encrypted")
        await target.probe()
        if not again:
            with pytest.raises(TargetUnreachable, match="cut"):
                await target.send(item, ignore)
        else:
            receipt = await target.send(item, ignore)
        await target.close()
    assert sent.count(1) == sent.count(2) == 1, "parts that were there are not sent again"
    assert (receipt.proof, receipt.sha256) == (Proof.STORE_DIGEST, hashlib.sha256(data).digest())
    assert receipt.envelope is not None

    client = weed.client()
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]]
    assert sorted(keys) == sorted([PROBE, receipt.envelope.name])
    said = json.dumps(client.head_object(Bucket=bucket, Key=receipt.envelope.name), default=str)
    held = client.get_object(Bucket=bucket, Key=receipt.envelope.name)["Body"].read()
    client.close()
    plain = hashlib.sha256(data)
    for told in (mark, item.run_id.hex(), plain.hexdigest()):
        assert told not in said + str(keys)
    assert mark.encode() not in held
    assert hashlib.sha256(held).digest() == receipt.envelope.sha256
    (tmp_path / "a.age").write_bytes(held)
    (tmp_path / "key").write_text(secret)
    opened = envelope.open_envelope(tmp_path / "a.age", envelope.read_key(tmp_path / "key"), tmp_path / "out")
    assert opened.path.relative_to(tmp_path / "out").as_posix() == item.remote
    assert opened.sha256 == plain.digest()
