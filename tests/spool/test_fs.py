from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.spool.fs import DiskFs


def test_a_name_that_is_taken_is_never_overwritten(tmp_path: Path) -> None:
    fs = DiskFs()
    for name in ("a", "b"):
        fs.write(tmp_path / name, name.encode())
    for call in (
        lambda: fs.write(tmp_path / "a", b"x"),
        lambda: fs.rename(tmp_path / "a", tmp_path / "b"),
        lambda: fs.copy(tmp_path / "a", tmp_path / "b"),
    ):
        with pytest.raises(FileExistsError):
            call()
    assert (tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes() == b"ab"


def test_files_move_are_copied_and_go(tmp_path: Path) -> None:
    fs = DiskFs()
    fs.make_dir(tmp_path / "x" / "y")
    fs.make_dir(tmp_path / "x" / "y")
    fs.write(tmp_path / "a", b"1")
    fs.rename(tmp_path / "a", tmp_path / "x" / "y" / "b")
    fs.copy(tmp_path / "x" / "y" / "b", tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == b"1"
    fs.unlink(tmp_path / "c")
    fs.unlink(tmp_path / "c")
    fs.unlink(tmp_path / "no" / "folder")
    fs.remove_tree(tmp_path / "x")
    fs.remove_tree(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_allocated_space_is_really_taken(tmp_path: Path) -> None:
    DiskFs().allocate(tmp_path / "a", 1 << 20)
    stat = (tmp_path / "a").stat()
    assert (stat.st_size, stat.st_blocks * 512) == (1 << 20, 1 << 20)
