"""The verifier that was written from the page alone says the same as the project's own, of the same files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from edge_agent.segment.levels import verify_path
from edge_agent.segment.verify import verify_segment
from tests.independent import judged

DATA = "/entry/instrument/camera/image/data"


@pytest.fixture
def root_file(facility: Any, tmp_path: Path) -> Path:
    path = tmp_path / "root.pem"
    path.write_bytes(facility.root.public_bytes(Encoding.PEM))
    return path


def independent(path: Path, root: Path | None) -> int:
    """The level that the other verifier gives."""
    return int(judged(path, *(("--root", root) if root else ()))["level"])


def test_both_give_the_same_level_to_good_segments(
    frames_file: Path, rows_file: Path, forge: Any, facility: Any, stranger: Any, root_file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(stranger.root.public_bytes(Encoding.PEM))
    for path in (frames_file, rows_file, forge.tags(tmp_path / "tags.h5").close().path):
        assert verify_segment(path, facility.root).level == independent(path, root_file) == 2
        assert verify_segment(path, None).level == independent(path, None) == 1
        assert verify_segment(path, stranger.root).level == independent(path, other) == 1


def test_both_give_the_same_level_to_a_run(forge: Any, root_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "000123"
    folder.mkdir()
    first = forge.frames(folder / "000123_camera_image_000001.h5").close(reason="rolled")
    follow = {"first": 18, "previous": (first.segment_id, first.head), "last_seq": {"camera/image": 17}}
    second = forge.frames(folder / "000123_camera_image_000002.h5", ordinal=2, **follow).close()
    series, files = forge.file_series(folder, ordinal=3)

    def levels() -> tuple[int, int]:
        return min(r.level for r in verify_path(folder, forge.facility.root, judge=verify_segment)), independent(folder, root_file)

    forge.sidecar(folder, [first, second], series=[series], files=files, **{"preview.png": b"x"})
    assert levels() == (2, 2)
    forge.receipts(folder, [first, second, series])
    assert levels() == (3, 3)
    (folder / "preview.png").write_bytes(b"y")
    assert levels() == (0, 0)


CHANGES: dict[str, Callable[[h5py.File], Any]] = {
    "unit": lambda f: f[DATA].attrs.__setitem__("units", "photon"),
    "chunk": lambda f: f[DATA].id.write_direct_chunk((2, 0, 0), f[DATA].id.read_direct_chunk((3, 0, 0))[1]),
    "shape": lambda f: f[DATA].id.set_extent((9, 12, 16)),
    "extra": lambda f: f.__setitem__("/entry/more", [1]),
    "link": lambda f: f.__setitem__("/entry/more", h5py.ExternalLink("/etc/passwd", "/")),
    "alias": lambda f: f.__setitem__("/a", f["/entry/integrity"]),
    "removed": lambda f: f.__delitem__("/entry/integrity/index/0"),
    "unsigned": lambda f: f.__delitem__("/entry/integrity"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_both_call_a_changed_segment_damaged(change: str, frames_file: Path, facility: Any, root_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "changed.h5"
    shutil.copy(frames_file, path)
    with h5py.File(path, "r+", libver=("earliest", "v110")) as file:
        CHANGES[change](file)
    assert verify_segment(path, facility.root).level == independent(path, root_file) == 0
