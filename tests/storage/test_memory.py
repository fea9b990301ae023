"""The model of the disk itself: what it promises after a power failure, and that it behaves like the real one until then."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from edge_agent.errors import DiskError
from edge_agent.storage import DISK, Storage, durable
from edge_agent.storage.faults import Crashed, Fault, Faults
from edge_agent.storage.memory import Memory

ROOT = Path("/model")


def deaths(memory: Memory, n: int = 60) -> list[Memory]:
    return [memory.after_power_loss(random.Random(seed)) for seed in range(n)]


def test_what_was_synced_survives_every_power_failure() -> None:
    memory = Memory(ROOT)
    durable.make_folder(memory, ROOT / "a" / "b")
    durable.write_file(memory, ROOT / "a" / "b" / "c", b"kept")
    for left in deaths(memory):
        assert left.read_file(ROOT / "a" / "b" / "c") == b"kept"


def test_of_what_was_not_synced_anything_may_be_left() -> None:
    memory = Memory(ROOT)
    durable.write_file(memory, ROOT / "a", b"1" * 512)
    fd = memory.reopen(ROOT / "a")
    memory.write(fd, b"2" * 512)
    memory.write(fd, b"3" * 1024)
    left = {left.read_file(ROOT / "a") for left in deaths(memory, 400)}
    whole = b"1" * 512 + b"2" * 512 + b"3" * 1024
    assert {whole[:512], whole[:1024], whole, whole[:512] + bytes(512) + whole[1024:]} <= left
    assert any(data[1024:1536] in (b"", bytes(512)) and data.endswith(b"3") for data in left), "a torn write"
    assert all(data.startswith(b"1" * 512) for data in left)


def test_a_name_needs_a_sync_of_its_folder_and_a_rename_is_never_half_done() -> None:
    memory = Memory(ROOT)
    durable.write_file(memory, ROOT / "new.part", b"new")
    durable.write_file(memory, ROOT / "it", b"old")
    memory.rename(ROOT / "new.part", ROOT / "it")
    names = {(tuple(left.names(ROOT)), left.read_file(ROOT / "it")) for left in deaths(memory)}
    assert names == {(("it", "new.part"), b"old"), (("it",), b"new")}
    memory.sync_folder(ROOT)
    assert {tuple(left.names(ROOT)) for left in deaths(memory)} == {("it",)}
    memory.unlink(ROOT / "it")
    assert {tuple(left.names(ROOT)) for left in deaths(memory)} == {("it",), ()}
    assert memory.after_kill().names(ROOT) == []


def same_on(storage: Storage, root: Path) -> list[Any]:
    """What a caller sees of a little of everything."""

    def said(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except DiskError as error:
            return error.code

    durable.make_folder(storage, root / "x")
    fd = storage.open_append(root / "x" / "a")
    storage.write(fd, b"hello")
    storage.write(fd, b" world")
    storage.cut(fd, 8)
    storage.preallocate(fd, 100)
    storage.sync_data(fd)
    storage.close(fd)
    other = storage.open_random(root / "x" / "b")
    storage.write_at(other, 3, b"zz")
    storage.write_at(other, 0, b"y")
    storage.sync_data(other)
    seen = [storage.read(other, 1, 10)]
    storage.close(other)
    durable.copy(storage, root / "x" / "a", root / "x" / "c")
    durable.move(storage, root / "x" / "c", root / "d")
    durable.replace_file(storage, root / "d", b"again")
    storage.set_times(root / "d", 1, 1)
    seen += [storage.read_file(root / "x" / "a"), storage.size(root / "x" / "b"), storage.names(root / "x"), storage.read_file(root / "d")]
    seen += [
        said(lambda: storage.open_append(root / "d")), said(lambda: storage.open_append(root / "no" / "d")),
        said(lambda: storage.reopen(root / "no")), said(lambda: storage.rename(root / "d", root / "no" / "d")),
        said(lambda: storage.rename(root / "no", root / "e")), said(lambda: storage.make_folder(root / "no" / "x")),
        said(lambda: storage.remove_folder(root / "x")), said(lambda: storage.names(root / "no")), said(lambda: storage.unlink(root / "x")),
        said(lambda: storage.sync_folder(root / "no")), said(lambda: storage.sync_file(root / "x")), said(lambda: storage.size(root / "no")),
        said(lambda: durable.move(storage, root / "d", root / "x" / "a")),
    ]  # fmt: skip
    durable.remove_folder(storage, root / "x")
    durable.remove(storage, root / "d")
    return [*seen, storage.names(root), storage.exists(root), storage.exists(root / "x")]


def test_the_model_and_the_disk_look_the_same_until_the_power_fails(tmp_path: Path) -> None:
    assert same_on(Memory(ROOT), ROOT) == same_on(DISK, tmp_path) == same_on(Faults(DISK), tmp_path)


@pytest.mark.parametrize("real", [False, True])
def test_hdf5_writes_and_reads_over_the_calls(tmp_path: Path, real: bool) -> None:
    storage, root = Faults(DISK if real else Memory(ROOT)), tmp_path if real else ROOT
    source = storage.hdf5(root / "a.h5", create=True)
    with h5py.File(source, "x") as file:
        file["data"] = np.arange(1000)
    source.close()
    again = storage.hdf5(root / "a.h5")
    with h5py.File(again, "r") as file:
        assert file["data"][:].tolist() == list(range(1000))
    again.close()
    assert ("write_at", "a.h5") in storage.calls


def test_a_fault_comes_at_its_call_and_as_often_as_it_is_told() -> None:
    disk = Faults(Memory(ROOT), Fault(2, errno.ENOSPC, times=2))
    fd = disk.open_append(ROOT / "a")
    for _ in range(2):
        with pytest.raises(DiskError, match="write of a") as failure:
            disk.write(fd, b"1234")
        assert failure.value.code == "DISK_FULL"
    disk.write(fd, b"56")
    assert disk.read_file(ROOT / "a") == b"121256", "a full disk takes what it can"
    disk.fault = Fault(5, errno.EIO, after=True)
    with pytest.raises(DiskError):
        disk.write(fd, b"78")
    assert disk.read_file(ROOT / "a") == b"12125678", "done, and reported as failed"
    assert str(disk.fault) == "EIO after call 5"


def test_a_process_that_crashed_does_nothing_any_more() -> None:
    disk = Faults(Memory(ROOT), Fault(2))
    fd = disk.open_append(ROOT / "a")
    for call in (
        lambda: disk.write(fd, b"12"), lambda: disk.write(fd, b"12"), lambda: disk.read_file(ROOT / "a"), lambda: disk.unlink(ROOT / "a"),
    ):  # fmt: skip
        with pytest.raises(Crashed):
            call()
    assert len(disk.calls) == 2
