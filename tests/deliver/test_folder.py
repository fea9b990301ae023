from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import errno
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.deliver import folder as folder_module
from edge_agent.deliver import folder_copy
from edge_agent.deliver.folder import FolderTarget
from edge_agent.deliver.target import Target
from edge_agent.errors import IntegrityError, PermissionRefused, TargetUnreachable
from edge_agent.model import ItemKind, OutboxItem, Proof, Receipt

MakeItem = Callable[..., OutboxItem]


def ignore(_: int) -> None:
    """No progress wanted."""


def part_of(share: Path, item: OutboxItem) -> Path:
    """Where an item is before it has its name."""
    return (share / item.remote).with_name(f".{hashlib.sha256(item.item_id.encode()).hexdigest()[:32]}.part")


def leftovers(share: Path) -> list[Path]:
    return [path for path in share.rglob(".*") if path.is_file()]


def test_it_is_a_target(share: Path) -> None:
    assert isinstance(FolderTarget("disk", share), Target)


async def test_an_item_lands_byte_for_byte_with_a_read_back_receipt(share: Path, make_item: MakeItem) -> None:
    data = os.urandom(3 * (1 << 20) + 17)
    item = make_item("a", data=data)
    seen: list[int] = []
    receipt = await FolderTarget("disk", share).send(item, seen.append)
    assert (share / item.remote).read_bytes() == data
    assert (receipt.target, receipt.item_id, receipt.size) == ("disk", "a", len(data))
    assert receipt.sha256 == hashlib.sha256(data).digest()
    assert receipt.proof is Proof.READ_BACK
    assert seen == sorted(seen)
    assert seen[-1] == len(data)
    assert leftovers(share) == []


async def test_an_empty_file_lands_too(share: Path, make_item: MakeItem) -> None:
    item = make_item("a")
    item.path.write_bytes(b"")
    receipt = await FolderTarget("disk", share).send(dataclasses.replace(item, size=0), ignore)
    assert receipt.size == 0
    assert (share / item.remote).read_bytes() == b""


async def test_sending_again_is_a_success_and_copies_nothing(share: Path, make_item: MakeItem) -> None:
    item, target = make_item("a"), FolderTarget("disk", share)
    first = await target.send(item, ignore)
    before = (share / item.remote).stat().st_ino
    second = await target.send(item, ignore)
    assert first.sha256 == second.sha256
    assert (share / item.remote).stat().st_ino == before


async def test_other_bytes_under_the_same_name_are_not_replaced(share: Path, make_item: MakeItem) -> None:
    item = make_item("a")
    place = share / item.remote
    place.parent.mkdir(parents=True)
    place.write_bytes(b"somebody's only copy")
    with pytest.raises(IntegrityError, match="exists with other content") as caught:
        await FolderTarget("disk", share).send(item, ignore)
    assert place.read_bytes() == b"somebody's only copy"
    assert "move the one in the folder away" in caught.value.try_


@pytest.mark.parametrize("links", [True, False])
async def test_a_name_that_another_agent_takes_while_an_item_is_copied_stays_its_own(
    share: Path, make_item: MakeItem, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    if not links:
        monkeypatch.setattr(folder_module.os, "link", refuse)
    item = make_item("a")
    place = share / item.remote
    target = FolderTarget("disk", share)
    with pytest.raises(TargetUnreachable):
        await target.send(item, lambda _: place.write_bytes(b"somebody's only copy"))
    assert place.read_bytes() == b"somebody's only copy"
    assert leftovers(share) == []
    place.unlink()
    await target.send(item, ignore)
    assert place.read_bytes() == item.path.read_bytes()
    assert leftovers(share) == []


async def test_of_two_agents_at_one_name_none_takes_the_others_part(
    share: Path, make_item: MakeItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_item("a", data=b"of the one")
    second = dataclasses.replace(make_item("b", data=b"of another"), remote=first.remote)
    loop, target, copy = asyncio.get_running_loop(), FolderTarget("disk", share), folder_module.copy
    written, named = threading.Event(), threading.Event()
    others: list[concurrent.futures.Future[Receipt]] = []

    def copied(source: Path, *arguments: Any, **options: Any) -> folder_copy.Copied:
        found = copy(source, *arguments, **options)
        if source == first.path:
            others.append(asyncio.run_coroutine_threadsafe(target.send(second, ignore), loop))
            assert written.wait(60)
        else:
            written.set()
            assert named.wait(60)
        return found

    monkeypatch.setattr(folder_module, "copy", copied)
    await target.send(first, ignore)
    held = (share / first.remote).read_bytes()
    named.set()
    with pytest.raises(TargetUnreachable):
        await asyncio.wrap_future(others[0])
    assert held == (share / first.remote).read_bytes() == b"of the one"
    assert leftovers(share) == []


@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
async def test_what_is_there_already_is_no_proof_before_it_and_its_name_were_synced(
    share: Path, make_item: MakeItem, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    item, target = make_item("a"), FolderTarget("disk", share)

    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    if call == "fdatasync":
        await target.send(item, ignore)
    (share / item.remote).parent.mkdir(parents=True, exist_ok=True)
    with monkeypatch.context() as patch:
        patch.setattr(folder_module.os, call, refuse)
        for _ in range(2):
            with pytest.raises(TargetUnreachable, match="cannot be used now"):
                await target.send(item, ignore)
    assert (await target.send(item, ignore)).size == item.size


async def test_receipts_may_grow_in_place(share: Path, make_item: MakeItem) -> None:
    target = FolderTarget("disk", share)
    await target.send(make_item("rcp", ItemKind.RECEIPTS, data=b"one"), ignore)
    item = make_item("rcp", ItemKind.RECEIPTS, data=b"one, two")
    await target.send(item, ignore)
    assert (share / item.remote).read_bytes() == b"one, two"


async def test_a_stale_part_of_an_earlier_crash_is_no_obstacle(share: Path, make_item: MakeItem) -> None:
    item = make_item("a")
    part = part_of(share, item)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"half")
    await FolderTarget("disk", share).send(item, ignore)
    assert leftovers(share) == []


@pytest.mark.parametrize(
    "remote", ["../out.h5", "a/../../out.h5", "/etc/out.h5", "a//b", "", "a/./b", "a/\0b", "a\\..\\b", "a/b\n", ".", "a/.."]
)
async def test_a_path_that_leaves_the_folder_is_refused(share: Path, make_item: MakeItem, remote: str) -> None:
    item = dataclasses.replace(make_item("a"), remote=remote)
    with pytest.raises(IntegrityError, match="does not stay inside") as caught:
        await FolderTarget("disk", share).send(item, ignore)
    assert caught.value.why
    assert caught.value.try_
    assert not (share.parent / "out.h5").exists()


@pytest.mark.parametrize("where", ["p", "p/i/2026-11-24/000001/a.h5"])
async def test_a_symbolic_link_in_the_folder_is_never_followed(share: Path, tmp_path: Path, make_item: MakeItem, where: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (share / where).parent.mkdir(parents=True, exist_ok=True)
    (share / where).symlink_to(outside / "x" if where.endswith("h5") else outside)
    with pytest.raises(IntegrityError, match="does not stay inside"):
        await FolderTarget("disk", share).send(make_item("a"), ignore)
    assert list(outside.iterdir()) == []


async def test_the_folder_itself_may_be_a_link(share: Path, tmp_path: Path, make_item: MakeItem) -> None:
    (tmp_path / "link").symlink_to(share)
    item = make_item("a")
    await FolderTarget("disk", tmp_path / "link").send(item, ignore)
    assert (share / item.remote).exists()


async def test_a_share_that_is_not_mounted_is_unreachable_and_is_not_created(tmp_path: Path, make_item: MakeItem) -> None:
    target = FolderTarget("disk", tmp_path / "not-mounted")
    for call in (target.probe(), target.send(make_item("a"), ignore)):
        with pytest.raises(TargetUnreachable, match="cannot be used now") as caught:
            await call
        assert "mounted" in caught.value.try_
    assert not (tmp_path / "not-mounted").exists()


async def test_a_file_in_place_of_the_folder_is_unreachable(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(TargetUnreachable, match="cannot be used now"):
        await FolderTarget("disk", tmp_path / "f").probe()


async def test_the_probe_says_what_it_proves(share: Path) -> None:
    found = await FolderTarget("disk", share).probe()
    assert (found.max_size, found.resumable, found.proof) == (None, False, Proof.READ_BACK)
    assert "reading back" in found.detail


@pytest.mark.parametrize("change", ["longer", "shorter", "other"])
async def test_a_source_that_changed_after_it_was_sealed_is_not_sent(share: Path, make_item: MakeItem, change: str) -> None:
    item = make_item("a", data=b"0123456789", sha256=hashlib.sha256(b"0123456789").digest())
    item.path.write_bytes({"longer": b"0123456789+", "shorter": b"012345678", "other": b"0123456780"}[change])
    with pytest.raises(IntegrityError, match="changed after it was sealed"):
        await FolderTarget("disk", share).send(item, ignore)
    assert not (share / item.remote).exists()
    assert leftovers(share) == []


@pytest.fixture
def small_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a megabyte goes the way of one of gigabytes."""
    for name, size in (("SPAN", 256 << 10), ("PIECE", 32 << 10), ("AT_ONCE", 8 << 10)):
        monkeypatch.setattr(folder_copy, name, size)


def digest_of(data: bytes, known: bool) -> bytes | None:
    return hashlib.sha256(data).digest() if known else None


@pytest.mark.parametrize("known", [True, False], ids=["digest known", "digest unknown"])
@pytest.mark.parametrize("beyond", [-(256 << 10) + 1, -1, 0, 1, 17, (256 << 10) - 1])
@pytest.mark.usefixtures("small_spans")
async def test_a_large_item_lands_byte_for_byte_in_spans(share: Path, make_item: MakeItem, beyond: int, known: bool) -> None:
    data = os.urandom((1 << 20) + beyond)
    item = make_item("a", data=data, sha256=digest_of(data, known))
    seen: list[int] = []
    receipt = await FolderTarget("disk", share).send(item, seen.append)
    assert (share / item.remote).read_bytes() == data
    assert (receipt.sha256, receipt.size) == (hashlib.sha256(data).digest(), len(data))
    assert seen == sorted(set(seen))
    assert seen[-1] == len(data)
    assert leftovers(share) == []


@pytest.mark.parametrize("change", ["longer", "shorter", "other"])
@pytest.mark.usefixtures("small_spans")
async def test_a_large_source_that_changed_is_not_sent(share: Path, make_item: MakeItem, change: str) -> None:
    data = os.urandom(1 << 20)
    item = make_item("a", data=data, sha256=hashlib.sha256(data).digest())
    item.path.write_bytes({"longer": data + b"+" * 100_000, "shorter": data[:700_000], "other": b"\0" + data[1:]}[change])
    with pytest.raises(IntegrityError, match="changed after it was sealed"):
        await FolderTarget("disk", share).send(item, ignore)
    assert not (share / item.remote).exists()
    assert leftovers(share) == []


@pytest.mark.parametrize("known", [True, False], ids=["digest known", "digest unknown"])
@pytest.mark.parametrize("size", [3000, 1 << 20], ids=["small", "large"])
@pytest.mark.usefixtures("small_spans")
async def test_bytes_that_come_back_different_are_an_integrity_error_and_never_get_the_final_name(
    share: Path, make_item: MakeItem, size: int, known: bool
) -> None:
    data = os.urandom(size)
    item = make_item("a", data=data, sha256=digest_of(data, known))
    part = part_of(share, item)

    def rot(_: int) -> None:
        with part.open("r+b") as file:
            file.seek(min(2000, part.stat().st_size - 1))
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
            once.clear()

    once = [rot]
    with pytest.raises(IntegrityError, match="gave back other bytes") as caught:
        await FolderTarget("disk", share).send(item, lambda done: once[0](done) if once else None)
    assert "the spool keeps the item" in caught.value.try_
    assert not (share / item.remote).exists()
    assert leftovers(share) == []


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="nothing tells this system to let go of its page cache")
@pytest.mark.parametrize("size", [3000, (1 << 20) + 17], ids=["small", "large"])
@pytest.mark.usefixtures("small_spans")
async def test_every_byte_is_read_back_after_it_was_synced_and_had_left_the_memory(
    share: Path, make_item: MakeItem, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    item = make_item("a", data=os.urandom(size))
    part = str(part_of(share, item))
    synced = let_go = 0
    sync, advise, read = os.fdatasync, os.posix_fadvise, FileIO.readinto

    def fdatasync(fd: int) -> None:
        nonlocal synced
        before = os.fstat(fd).st_size
        sync(fd)
        synced = before

    def fadvise(fd: int, offset: int, length: int, advice: int) -> None:
        nonlocal let_go
        advise(fd, offset, length, advice)
        if os.readlink(f"/proc/self/fd/{fd}") == part:
            assert advice == os.POSIX_FADV_DONTNEED
            assert offset + length <= synced
            assert offset == let_go
            let_go = offset + length or synced

    class Watched(FileIO):
        def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
            if os.readlink(f"/proc/self/fd/{self.fileno()}") == part:
                assert self.tell() < let_go or self.tell() == size
                assert self.tell() + len(buffer) <= let_go or let_go == size
            return read(self, buffer)

    def opened(path: Path, mode: str, buffering: int) -> FileIO:
        return Watched(path, mode)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    monkeypatch.setattr(os, "posix_fadvise", fadvise)
    monkeypatch.setattr(Path, "open", opened)
    await FolderTarget("disk", share).send(item, ignore)
    assert (synced, let_go) == (size, size)


@pytest.mark.parametrize("size", [200 << 10, 1 << 20], ids=["small", "large"])
@pytest.mark.usefixtures("small_spans")
async def test_cancelling_stops_the_copy_and_leaves_no_part(share: Path, make_item: MakeItem, size: int) -> None:
    item = make_item("a", data=bytes(size))
    loop = asyncio.get_running_loop()
    begun, cancelled = asyncio.Event(), threading.Event()

    def progress(_: int) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert cancelled.wait(60)

    task = asyncio.create_task(FolderTarget("disk", share).send(item, progress))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    cancelled.set()
    async with asyncio.timeout(60):
        while leftovers(share):
            await asyncio.sleep(0.01)
    assert not (share / item.remote).exists()


def test_a_folder_without_write_permission_parks_and_says_what_to_grant(share: Path, make_item: MakeItem) -> None:
    item = make_item("a")
    code = f"""
import asyncio, os
from pathlib import Path
from edge_agent.deliver.folder import FolderTarget
from edge_agent.errors import PermissionRefused
target = FolderTarget("disk", Path({str(share)!r}))
if os.geteuid() == 0:
    asyncio.run(target.probe())  # root may, and all modules are loaded before the rights go
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    asyncio.run(target.probe())
except PermissionRefused as error:
    print(error)
"""
    for parent in [share, *share.parents]:
        if parent.owner() == share.owner() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    share.chmod(0o555)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=True)
    assert "may not be written" in done.stdout, done.stderr
    assert "give the agent's user write access" in done.stdout
    assert item.path.exists()


@pytest.mark.parametrize(
    ("number", "kind"), [(13, PermissionRefused), (30, PermissionRefused), (28, TargetUnreachable), (5, TargetUnreachable)]
)
async def test_errors_of_the_disk_are_told_by_what_can_be_done(
    share: Path, make_item: MakeItem, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folder_module.os, "link", refuse)
    with pytest.raises(kind, match="folder of target disk"):
        await FolderTarget("disk", share).send(make_item("a"), ignore)
    assert leftovers(share) == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(remote=st.text(max_size=20))
def test_no_remote_name_whatever_escapes_the_folder(share: Path, make_item: MakeItem, remote: str) -> None:
    item = dataclasses.replace(make_item("a"), remote=remote)
    around = set(share.parent.iterdir())
    try:
        asyncio.run(FolderTarget("disk", share).send(item, ignore))
    except (IntegrityError, TargetUnreachable, PermissionRefused):
        pass
    assert set(share.parent.iterdir()) == around
