"""A file written as the recorder writes is read identically by HDF5 1.12, 1.14 and 2.x, without the project."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from edge_agent.codec import NAMES

ROOT = Path(__file__).parents[2]
ROW = np.dtype([("t", "<i8"), ("value", "<f4"), ("name", "S7")])


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(11)
    rows = np.zeros(3000, ROW)
    rows["t"], rows["value"], rows["name"] = np.arange(3000) * 10**9, rng.normal(size=3000), b"TC-01"
    return {
        "frames": rng.poisson(1.6, (4, 129, 131)).astype("<u2"),
        "noise": rng.integers(0, 256, (3, 64, 64), np.uint8),
        "rows": rows,
        "valid": rng.random(3000) < 0.5,
        "temperature": rng.normal(300, 0.1, 3000),
        "tag": np.full(50, b"furnace", "S16"),
    }


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The file, and the digest of what each of its datasets must hold."""
    folder = tmp_path_factory.mktemp("compat")
    data = {f"{name}-{codec}": array for codec in NAMES for name, array in arrays().items()}
    cases = [
        {"name": n, "codec": n.split("-", 1)[1], "library": "best", "chunk": (1, *a.shape[1:]) if a.ndim > 1 else (1024,)}
        for n, a in data.items()
    ]
    np.savez(folder / "cases.npz", **data)
    (folder / "cases.json").write_text(json.dumps(cases))
    path = folder / "recorded.h5"
    subprocess.run(
        [sys.executable, ROOT / "tests/codec/record_like.py", folder / "cases.npz", folder / "cases.json", path],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        timeout=60,
    )
    return path, {f"/{name}": hashlib.sha256(array.tobytes()).hexdigest() for name, array in data.items()}


def test_the_reader_has_the_hdf5_it_is_named_after_and_not_the_project(version: str, about_reader: Callable[[str], dict[str, Any]]) -> None:
    about = about_reader(version)
    assert about["hdf5"].startswith(version.removesuffix("x"))
    assert about["project"] is False


def test_a_recorded_file_is_read_identically(
    version: str, read_with: Callable[[str, Path], dict[str, Any]], recorded: tuple[Path, dict[str, str]]
) -> None:
    path, digests = recorded
    assert {name: digest for name, (_, _, digest) in read_with(version, path).items()} == digests


def test_all_versions_agree_on_shapes_and_types(
    reader_versions: tuple[str, ...], read_with: Callable[[str, Path], dict[str, Any]], recorded: tuple[Path, dict[str, str]]
) -> None:
    first, *others = (read_with(version, recorded[0]) for version in reader_versions)
    assert first["/frames-bitshuffle-lz4"][:2] == [[4, 129, 131], "<u2"]
    assert all(other == first for other in others)


def test_strings_scalars_and_null_datasets_are_counted_too(
    version: str, read_with: Callable[[str, Path], dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "small.h5"
    with h5py.File(path, "w", libver=("earliest", "v110")) as file:
        file["entry/title"] = "測定"
        file["entry/names"] = np.array(["a", "bc"], h5py.string_dtype())
        file["entry/count"] = np.int32(7)
        file["entry/nothing"] = h5py.Empty("f4")
        file["entry/none"] = np.empty((0, 3), "<f8")
    title = "測定".encode()
    found = read_with(version, path)
    assert found["/entry/title"] == [[], "|O", hashlib.sha256(len(title).to_bytes(8, "little") + title).hexdigest()]
    assert found["/entry/names"][2] == hashlib.sha256(b"\1" + bytes(7) + b"a\2" + bytes(7) + b"bc").hexdigest()
    assert found["/entry/count"] == [[], "<i4", hashlib.sha256(b"\7\0\0\0").hexdigest()]
    assert found["/entry/nothing"] == [None, "float32", hashlib.sha256(b"").hexdigest()]
    assert found["/entry/none"] == [[0, 3], "<f8", hashlib.sha256(b"").hexdigest()]
