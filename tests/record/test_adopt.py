"""A vendor's file is taken byte for byte, or not at all."""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import DiskError
from edge_agent.record import copying
from edge_agent.record.adopt import Adopted, ChangedWhileReading, adopt, discard_unfinished
from edge_agent.seal.tree import leaf_hash, root_of
from edge_agent.storage import Disk


def left_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("size", [0, 1, 1000, 1001, 4500, 8000, 20_001, 200_000])
def test_the_copy_has_the_bytes_the_digest_and_the_root_over_its_pieces(
    kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(copying, "PIECE", 1000)
    monkeypatch.setattr(copying, "LARGE", 8000)
    data = os.urandom(size)
    item = kit.vendor_file(tmp_path / "vendor", "day 1/ü.raw", data)
    adopted = adopt(tmp_path / "files", item, kit.DISK)
    pieces = [data[start : start + 1000] for start in range(0, size, 1000)]
    assert adopted == Adopted("day 1/ü.raw", hashlib.sha256(data).digest(), root_of([leaf_hash(piece) for piece in pieces]))
    copy = tmp_path / "files" / adopted.name
    assert copy.read_bytes() == data
    assert copy.stat().st_mtime_ns == item.mtime_ns
    assert left_in(tmp_path / "files") == [adopted.name]


def test_another_version_of_a_file_stands_beside_the_first(kit: Any, tmp_path: Path) -> None:
    names = [adopt(tmp_path / "files", kit.vendor_file(tmp_path / "vendor", "a.dat", data), kit.DISK).name for data in (b"1", b"22", b"3")]
    assert names == ["a.dat", "a.dat~2", "a.dat~3"]
    assert [(tmp_path / "files" / name).read_bytes() for name in names] == [b"1", b"22", b"3"]


def test_a_file_that_changes_while_it_is_read_is_left_to_a_later_try(kit: Any, tmp_path: Path) -> None:
    item = kit.vendor_file(tmp_path / "vendor", "a.dat", b"12")
    for changed in (replace(item, size=3), replace(item, mtime_ns=item.mtime_ns + 1)):
        with pytest.raises(ChangedWhileReading, match=r"a\.dat changed while it was read"):
            adopt(tmp_path / "files", changed, kit.DISK)
    assert left_in(tmp_path / "files") == []


def test_a_file_that_vanished_is_an_error_of_its_own(kit: Any, tmp_path: Path) -> None:
    item = kit.vendor_file(tmp_path / "vendor", "a.dat", b"12")
    item.path.unlink()
    with pytest.raises(FileNotFoundError):
        adopt(tmp_path / "files", item, kit.DISK)
    assert left_in(tmp_path / "files") == []


def test_a_link_is_not_followed(kit: Any, tmp_path: Path) -> None:
    item = kit.vendor_file(tmp_path / "vendor", "a.dat", b"12")
    link = tmp_path / "vendor" / "link"
    link.symlink_to(item.path)
    with pytest.raises(OSError, match="symbolic links"):
        adopt(tmp_path / "files", replace(item, path=link), kit.DISK)


@pytest.mark.parametrize("name", ["../a", "/etc/a", "", "a/../../b", ".unfinished/a", "."])
def test_a_name_that_leads_out_of_the_folder_is_refused(kit: Any, tmp_path: Path, name: str) -> None:
    item = replace(kit.vendor_file(tmp_path / "vendor", "a.dat", b"12"), name=name)
    with pytest.raises(ValueError, match="must stay below its folder"):
        adopt(tmp_path / "files", item, kit.DISK)


@pytest.mark.parametrize("kind", ["open_append", "write", "sync_data", "rename", "sync_folder"])
def test_a_disk_that_refuses_leaves_nothing_and_the_next_try_takes_the_name(kit: Any, tmp_path: Path, kind: str) -> None:
    item = kit.vendor_file(tmp_path / "vendor", "a.dat", b"12")
    for at in (1, 2, 3):
        folder = tmp_path / f"files{at}"
        try:
            adopt(folder, item, kit.Faulty(kind, at))
        except DiskError:
            assert left_in(folder) == []
        else:
            assert at > 1
            continue
        assert adopt(folder, item, kit.DISK).name == "a.dat"


def test_files_of_one_name_taken_at_once_get_names_of_their_own(kit: Any, tmp_path: Path) -> None:
    items = [kit.vendor_file(tmp_path / f"vendor{n}", "a.dat", bytes([n]) * 100_000) for n in range(8)]
    adopted: list[Adopted] = []
    threads = [threading.Thread(target=lambda item=item: adopted.append(adopt(tmp_path / "files", item, kit.DISK))) for item in items]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len({each.name for each in adopted}) == 8
    for each in adopted:
        assert hashlib.sha256((tmp_path / "files" / each.name).read_bytes()).digest() == each.digest


def test_copies_that_a_crash_left_half_made_are_discarded_when_the_run_goes_on(kit: Any, tmp_path: Path) -> None:
    adopt(tmp_path / "files" / "scope", kit.vendor_file(tmp_path / "vendor", "a.dat", b"1"), kit.DISK)
    (tmp_path / "files" / "scope" / ".unfinished" / "abc").write_bytes(b"half")
    discard_unfinished(tmp_path / "files")
    assert left_in(tmp_path / "files") == ["scope/a.dat"]


def test_a_copy_that_a_crash_left_without_a_leaf_gives_its_name_to_the_next_one(kit: Any, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    taken = {"recorded.dat"}
    for name, data in (("recorded.dat", b"signed"), ("left.dat", b"left by a crash")):
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    for name, expected in (("recorded.dat", "recorded.dat~2"), ("left.dat", "left.dat"), ("left.dat", "left.dat~2")):
        adopted = adopt(folder, kit.vendor_file(tmp_path / "vendor", name, b"new"), kit.DISK, taken)
        assert adopted.name == expected
    assert (folder / "recorded.dat").read_bytes() == b"signed"
    assert (folder / "left.dat").read_bytes() == b"new"
    assert taken == {"recorded.dat", "recorded.dat~2", "left.dat", "left.dat~2"}


@pytest.mark.parametrize(("kind", "at"), [("rename", 1), ("sync_folder", 3)])
def test_a_name_that_the_disk_did_not_take_is_free_again(kit: Any, tmp_path: Path, kind: str, at: int) -> None:
    taken: set[str] = set()
    item = kit.vendor_file(tmp_path / "vendor", "a.dat", b"1")
    folder = tmp_path / "files"
    folder.mkdir()
    with pytest.raises(DiskError):
        adopt(folder, item, kit.Faulty(kind, at), taken)
    assert taken == set()
    assert adopt(folder, item, kit.DISK, taken).name == "a.dat"


@pytest.mark.parametrize("step", ["write", "let_go", "sync_data"])
def test_a_disk_that_refuses_a_large_copy_is_told_and_nothing_is_left(
    kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The parts of a large file go through several threads: what one of them meets must come out."""
    monkeypatch.setattr(copying, "PIECE", 1000)
    monkeypatch.setattr(copying, "LARGE", 8000)
    item = kit.vendor_file(tmp_path / "vendor", "a.raw", os.urandom(100_000))

    class Refusing(Disk):
        calls = 0

        def _refuse(self) -> None:
            self.calls += 1
            if self.calls == 3:
                raise DiskError("no", why="the test's disk", try_="")

        def write(self, fd: int, data: Any) -> None:
            if step == "write":
                self._refuse()
            super().write(fd, data)

        def let_go(self, fd: int, offset: int, size: int) -> None:
            if step == "let_go":
                self._refuse()
            super().let_go(fd, offset, size)

        def sync_data(self, fd: int) -> None:
            if step == "sync_data":
                self._refuse()
            super().sync_data(fd)

    disk = Refusing()
    with pytest.raises(DiskError):
        for _ in range(3):
            adopt(tmp_path / "files", item, disk, set())
    assert disk.calls >= 3
    assert not [name for name in left_in(tmp_path / "files") if ".unfinished" in name]
