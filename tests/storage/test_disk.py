"""The real disk: every refusal of the system arrives as a DiskError that says what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.errors import DiskError
from edge_agent.record.hdf5_errors import as_disk_error
from edge_agent.storage import DISK


def test_a_full_disk_is_told_apart_from_a_broken_one() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(DiskError, match="The disk did not take it: writing") as failure:
        DISK.write(full, b"x")
    os.close(full)
    assert (failure.value.code, failure.value.why) == ("DISK_FULL", "No space left on device")
    assert "spool.dir" in failure.value.try_
    reading, writing = os.pipe()
    with pytest.raises(DiskError) as failure:
        DISK.sync_data(writing)
    os.close(reading)
    os.close(writing)
    assert failure.value.code == "DISK_FAILED"
    assert "kernel log" in failure.value.try_


CALLS: list[tuple[str, Callable[[Path], object]]] = [
    ("creating there", lambda p: DISK.open_append(p / "there")),
    ("opening none", lambda p: DISK.reopen(p / "none")),
    ("opening none", lambda p: DISK.sync_file(p / "none")),
    ("opening the folder none", lambda p: DISK.sync_folder(p / "none")),
    ("renaming none", lambda p: DISK.rename(p / "none", p / "other")),
    ("removing folder", lambda p: DISK.unlink(p / "folder")),
]


@pytest.mark.parametrize(("doing", "call"), CALLS)
def test_every_refusal_is_a_disk_error(tmp_path: Path, doing: str, call: Callable[[Path], object]) -> None:
    (tmp_path / "there").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DiskError, match=f"The disk did not take it: {doing}"):
        call(tmp_path)


def test_a_file_that_is_open_for_reading_cannot_be_shortened(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12")
    fd = os.open(tmp_path / "a", os.O_RDONLY)
    with pytest.raises(DiskError, match="setting the length of a file"):
        DISK.cut(fd, 1)
    os.close(fd)


def test_a_missing_file_is_already_removed(tmp_path: Path) -> None:
    DISK.unlink(tmp_path / "none")


def test_space_is_reserved_without_changing_the_size(tmp_path: Path) -> None:
    path = tmp_path / "a"
    fd = DISK.open_append(path)
    DISK.write(fd, b"12345")
    DISK.preallocate(fd, 1 << 20)
    assert path.stat().st_blocks * 512 >= 1 << 20
    assert path.stat().st_size == 5
    DISK.sync_data(fd)
    os.close(fd)
    assert path.read_bytes() == b"12345"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "x"), "DISK_FULL"),
        (RuntimeError("Can't decrement id ref count (unable to extend file properly, errno = 5, ...)"), "DISK_FAILED"),
        (ValueError("Unable to create dataset (file write failed: errno = 28)"), "DISK_FULL"),
        (DiskError("seen already", code="DISK_FULL"), "DISK_FULL"),
        (RuntimeError("Unspecified error in H5Dwrite"), None),
        (TypeError("no conversion path"), None),
    ],
)
def test_a_refusal_is_found_in_what_hdf5_makes_of_it(error: Exception, code: str | None) -> None:
    found = as_disk_error("writing a chunk", error)
    assert (None if found is None else found.code) == code


def test_a_large_write_arrives_whole_and_a_begun_sync_promises_nothing(tmp_path: Path) -> None:
    data = os.urandom(1_000_001)
    copy = DISK.open_append(tmp_path / "copy")
    DISK.write(copy, data)
    DISK.begin_sync(copy, 0, len(data))
    DISK.let_go(copy, 0, len(data))
    DISK.sync_data(copy)
    DISK.close(copy)
    assert (tmp_path / "copy").read_bytes() == data
    reading, writing = os.pipe()
    DISK.begin_sync(writing, 0, 1)
    os.close(reading)
    os.close(writing)
