"""What somebody may do to a run: every leaf, every order of segments, parts of other runs. Both verifiers call each of them damaged."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from edge_agent.seal import cose
from edge_agent.seal.keys import KeyChain
from edge_agent.seal.sidecar import parse_sidecar
from edge_agent.segment.run import verify_run
from edge_agent.segment.verify import verify_segment
from tests.independent import module

Leaves = tuple[bytes, ...]
DATA = "/entry/instrument/camera/image/data"


@pytest.fixture
def root(facility: Any, tmp_path: Path) -> Path:
    path = tmp_path / "root.pem"
    path.write_bytes(facility.root.public_bytes(Encoding.PEM))
    return path


def levels(path: Path, facility: Any, root: Path) -> tuple[int, int]:
    """What both verifiers say of a segment or of a run's folder."""
    tool = module()
    (item, *_) = tool.items([str(path / f"{path.name}.hsc") if path.is_dir() else str(path)], tool.load_roots(str(root)))
    ours = verify_run(path, facility.root, judge=verify_segment) if path.is_dir() else verify_segment(path, facility.root)
    return ours.level, item["level"]


def rewritten(path: Path, leaves: list[bytes]) -> None:
    """Other leaves in the tables of a signed segment, everything that follows from them as an agent would have written it."""
    width = max([16, *(4 + len(p) for p in leaves if p[4] == 1)])
    rows, events, index = bytearray(), bytearray(), dict[bytes, list[int]]()
    for number, payload in enumerate(leaves):
        if payload[4] == 1:
            rows += (len(payload).to_bytes(4, "big") + payload).ljust(width, b"\0")
            index.setdefault(payload[21:53], []).append(number)
        else:
            rows += (b"\xff" * 4 + len(events).to_bytes(8, "big") + len(payload).to_bytes(4, "big")).ljust(width, b"\0")
            events += payload
    with h5py.File(path, "r+", libver=("earliest", "v110")) as file:
        group = file["/entry/integrity"]
        order = [payload[21:53] for payload in leaves if payload[4] == 1]
        for name, data in (("leaves", np.frombuffer(bytes(rows), "u1").reshape(-1, width)), ("events", np.frombuffer(bytes(events), "u1"))):
            del group[name]
            group[name] = data
        # Each index goes with its descriptor: DATASET leaves have their order.
        introduced = [payload[-32:] for payload in leaves if payload[4] == 2]
        for number, dsd in enumerate(dict.fromkeys(introduced)):
            if str(number) in group["index"] and dsd in order:
                del group[f"index/{number}"]
                group[f"index/{number}"] = np.array(index[dsd], "<u4")


def test_no_leaf_can_be_swapped_dropped_or_doubled(forge: Any, facility: Any, root: Path, tmp_path: Path) -> None:
    """Each leaf of a segment of frames with a gap, each of the three ways; CHUNK and CLOSE leaves too."""
    built = forge.frames(tmp_path / "good.h5", n=4).close()
    assert levels(built.path, facility, root) == (2, 2)
    tool, path = module(), tmp_path / "bad.h5"
    roots = tool.load_roots(str(root))
    for number, one in enumerate(built.leaves):
        before, after = built.leaves[:number], built.leaves[number + 1 :]
        cases = {"dropped": [*before, *after], "doubled": [*before, one, one, *after]}
        if after:
            cases["swapped"] = [*before, after[0], one, *after[1:]]
        for name, leaves in cases.items():
            shutil.copy(built.path, path)
            rewritten(path, leaves)
            assert verify_segment(path, facility.root).level == 0, (number, name)
            with pytest.raises((tool.Bad, OSError, RuntimeError, ValueError, LookupError)):
                tool.verify_segment(str(path), roots, hashed=False)


def test_the_rewriting_itself_changes_nothing(forge: Any, facility: Any, root: Path, tmp_path: Path) -> None:
    built = forge.frames(tmp_path / "good.h5", n=4).close()
    rewritten(built.path, built.leaves)
    assert levels(built.path, facility, root) == (2, 2)


# ---- segments of a run


@dataclass
class Made:
    folder: Path
    names: tuple[str, ...]
    others: Path

    def path(self, number: int) -> Path:
        return self.folder / self.names[number]

    def swap(self, one: int, other: int) -> None:
        between = self.folder / "between"
        self.path(one).rename(between)
        self.path(other).rename(self.path(one))
        between.rename(self.path(other))


@pytest.fixture
def made(forge: Any, tmp_path: Path) -> Made:
    """A run of three segments, and another run of the same agent with segments of the same names."""
    folders = (tmp_path / "000123", tmp_path / "other")
    names: list[str] = []
    for folder in folders:
        folder.mkdir()
        built, options, first = [], {}, 10
        for ordinal in (1, 2, 3):
            name = f"000123_camera_image_{ordinal:06d}.h5"
            names.append(name)
            one = forge.frames(folder / name, n=3, first=first, ordinal=ordinal, **options).close(reason="rolled")
            built.append(one)
            first += 3
            options = {"previous": (one.segment_id, one.head), "last_seq": {"camera/image": first - 1}}
        forge.sidecar(folder, built)
        forge = replace(forge, run=replace(forge.run, run_id=os.urandom(16)))
    return Made(folders[0], tuple(names[:3]), folders[1])


TAMPERED: dict[str, Callable[[Made], Any]] = {
    "reordered": lambda m: m.swap(0, 1),
    "turned round": lambda m: m.swap(0, 2),
    "replayed": lambda m: shutil.copy(m.path(0), m.path(1)),
    "replayed at the end": lambda m: shutil.copy(m.path(1), m.path(2)),
    "left out": lambda m: m.path(1).unlink(),
    "the last left out": lambda m: m.path(2).unlink(),
    "cut by a byte": lambda m: os.truncate(m.path(2), m.path(2).stat().st_size - 1),
    "cut in the middle": lambda m: os.truncate(m.path(1), m.path(1).stat().st_size // 2),
    "cut to nothing": lambda m: os.truncate(m.path(1), 0),
    "a byte longer": lambda m: m.path(0).write_bytes(m.path(0).read_bytes() + b"\0"),
    "of another run": lambda m: shutil.copy(m.others / m.names[1], m.path(1)),
    "all of another run": lambda m: [shutil.copy(m.others / name, m.folder / name) for name in m.names],
    "the sidecar of another run": lambda m: shutil.copy(m.others / "000123.hsc", m.folder / "000123.hsc"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_segments_in_another_order_cut_or_of_another_run_are_damage(case: str, made: Made, facility: Any, root: Path) -> None:
    TAMPERED[case](made)
    assert levels(made.folder, facility, root) == (0, 0)


def test_the_run_that_is_tampered_with_is_a_good_one(made: Made, facility: Any, root: Path) -> None:
    assert levels(made.folder, facility, root) == (2, 2)


def test_a_segment_cut_at_any_length_is_damage(forge: Any, facility: Any, root: Path, tmp_path: Path) -> None:
    data, path = forge.frames(tmp_path / "good.h5", n=2).close().path.read_bytes(), tmp_path / "cut.h5"
    for size in range(0, len(data), len(data) // 12):
        path.write_bytes(data[:size])
        assert levels(path, facility, root) == (0, 0), size


def test_a_sidecar_signed_again_by_a_stranger_is_never_signed(made: Made, forge: Any, stranger: Any, facility: Any, root: Path) -> None:
    """With the stranger's own chain, and with both."""
    path = made.folder / "000123.hsc"
    good = parse_sidecar(path.read_bytes())
    statement = cose.sign_all(stranger.keys, cose.RUN, cose.payload_of(good.statement))
    both = KeyChain((*good.chain.certificates, *stranger.chain.certificates), (*good.chain.sessions, *stranger.chain.sessions))
    for chain in (good.chain, stranger.chain, both):
        path.write_bytes(replace(good, statement=statement, chain=chain).encode())
        assert levels(made.folder, facility, root) == (0, 0)
