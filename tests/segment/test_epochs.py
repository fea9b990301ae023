"""Segments of more than 4096 leaves: the roots of their epochs are there, right, and both verifiers insist on that."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from edge_agent.seal.tree import leaf_hash, root_of
from edge_agent.segment import integrity, reader
from edge_agent.segment.verify import verify_segment
from tests.independent import judged

EPOCHS = "/entry/integrity/epochs"


@pytest.fixture(scope="module")
def long_segment(shared_forge: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """A path to a segment of ``n`` leaves: META may be signed again as often as one likes."""
    folder, made = tmp_path_factory.mktemp("long"), dict[int, Path]()

    def make(n: int) -> Path:
        if n not in made:
            builder = shared_forge.frames(folder / f"{n}.h5")
            for _ in range(n - 2 - len(builder.leaves)):
                builder.meta()
            made[n] = builder.close().path
        return made[n]

    return make


def levels(path: Path, facility: Any, tmp_path: Path) -> tuple[int, int]:
    """What both verifiers say."""
    root = tmp_path / "root.pem"
    root.write_bytes(facility.root.public_bytes(Encoding.PEM))
    return verify_segment(path, facility.root).level, int(judged(path, "--root", root)["level"])


def edited(path: Path, tmp_path: Path, change: Callable[[h5py.File], Any]) -> Path:
    copy = tmp_path / "changed.h5"
    shutil.copy(path, copy)
    with h5py.File(copy, "r+", libver=("earliest", "v110")) as file:
        change(file)
    return copy


def other(change: Callable[[np.ndarray[Any, Any]], Any]) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        data = change(file[EPOCHS][()])
        del file[EPOCHS]
        file[EPOCHS] = data

    return edit


@pytest.mark.parametrize(("n", "epochs"), [(4096, None), (4097, 17), (4352, 17), (4353, 18)])
def test_only_segments_of_more_than_4096_leaves_have_epochs(
    n: int, epochs: int | None, long_segment: Any, facility: Any, tmp_path: Path
) -> None:
    path = long_segment(n)
    with h5py.File(path, "r") as file:
        leaves = integrity.read(reader.walk(file).integrity).leaves
        stored = file[EPOCHS][()] if EPOCHS in file else None
    assert len(leaves) == n
    assert (None if stored is None else stored.shape) == (None if epochs is None else (epochs, 32))
    if stored is not None:
        assert root_of([row.tobytes() for row in stored]) == root_of([leaf_hash(payload) for payload in leaves])
    assert levels(path, facility, tmp_path) == (2, 2)


CHANGES: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "missing": (lambda f: f.__delitem__(EPOCHS), "missing, with 4097 leaves"),
    "a bit": (other(lambda d: d ^ (np.arange(d.size).reshape(d.shape) == 70)), "not the roots"),
    "one less": (other(lambda d: d[:-1]), "not the roots"),
    "one more": (other(lambda d: np.vstack([d, d[-1:]])), "not the roots"),
    "two swapped": (other(lambda d: d[[1, 0, *range(2, len(d))]]), "not the roots"),
    "half as wide": (other(lambda d: d.reshape(-1, 16)), "not the roots"),
    "in one row": (other(lambda d: d.reshape(-1)), "an array of another type or rank"),
    "wider integers": (other(lambda d: d.astype("<u2")), "an array of another type or rank"),
    "an attribute": (lambda f: f[EPOCHS].attrs.__setitem__("more", 1), "not a plain array"),
    "a group": (lambda f: (f.__delitem__(EPOCHS), f.create_group(EPOCHS)), "not a plain array"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_epochs_that_are_not_the_roots_of_the_leaves_are_damage(change: str, long_segment: Any, facility: Any, tmp_path: Path) -> None:
    edit, reason = CHANGES[change]
    path = edited(long_segment(4097), tmp_path, edit)
    assert levels(path, facility, tmp_path) == (0, 0)
    assert verify_segment(path, facility.root).reason.startswith(f"{EPOCHS}: {reason}")


def test_epochs_in_a_short_segment_are_damage(frames_file: Path, facility: Any, tmp_path: Path) -> None:
    path = edited(frames_file, tmp_path, lambda f: f.__setitem__(EPOCHS, np.zeros((1, 32), "u1")))
    assert levels(path, facility, tmp_path) == (0, 0)
    assert verify_segment(path, facility.root).reason == f"{EPOCHS}: there, with 24 leaves"
