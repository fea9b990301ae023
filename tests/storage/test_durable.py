from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.errors import DiskError
from edge_agent.storage import DISK, durable


def test_a_name_that_is_taken_is_never_overwritten(tmp_path: Path) -> None:
    for name in ("a", "b"):
        durable.write_file(DISK, tmp_path / name, name.encode())
    for call in (
        lambda: durable.write_file(DISK, tmp_path / "a", b"x"),
        lambda: durable.move(DISK, tmp_path / "a", tmp_path / "b"),
        lambda: durable.copy(DISK, tmp_path / "a", tmp_path / "b"),
    ):
        with pytest.raises(DiskError, match="exists"):
            call()
    assert (tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes() == b"ab"


def test_files_move_are_copied_and_go(tmp_path: Path) -> None:
    durable.make_folder(DISK, tmp_path / "x" / "y")
    durable.make_folder(DISK, tmp_path / "x" / "y")
    durable.write_file(DISK, tmp_path / "a", b"1")
    durable.move(DISK, tmp_path / "a", tmp_path / "x" / "y" / "b")
    durable.copy(DISK, tmp_path / "x" / "y" / "b", tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == b"1"
    durable.remove(DISK, tmp_path / "c")
    durable.remove(DISK, tmp_path / "c")
    durable.remove(DISK, tmp_path / "no" / "folder")
    durable.remove_folder(DISK, tmp_path / "x" / "y")
    durable.remove_folder(DISK, tmp_path / "x" / "y")
    assert list((tmp_path / "x").iterdir()) == []


def test_allocated_space_is_really_taken(tmp_path: Path) -> None:
    durable.allocate(DISK, tmp_path / "a", 1 << 20)
    stat = (tmp_path / "a").stat()
    assert (stat.st_size, stat.st_blocks * 512) == (1 << 20, 1 << 20)
