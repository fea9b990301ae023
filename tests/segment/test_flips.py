"""Every so many bytes of a segment, one bit flipped: the verifier reports it, or nothing that anybody reads has changed."""

from __future__ import annotations

import os
import selectors
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from edge_agent.seal import leaf
from edge_agent.seal.meta import DatasetMeta, GroupMeta
from edge_agent.segment.file import SegmentFile
from edge_agent.segment.layout import small, stream_layout
from edge_agent.segment.types import array, text, texts
from tests.golden.generate import Classical
from tests.segment.conftest import CAMERA, Builder, images

HERE = Path(__file__).parent
PATIENCE = 60.0
"""Seconds for one flip: a flip after which the HDF5 library waits for ever is a flip that is reported."""


class Bare(Builder):
    """Says little to people: a text, two numbers and no names. Further objects would be more bytes of the same kinds."""

    def conclude(self) -> None:
        numbers, names = array(np.array([2, 0], "<i8")), texts([])
        counts = DatasetMeta(numbers.type, {"units": text("count")}, numbers)
        self.file.add({"/entry/outcome": small(text("complete")), "/entry/counts": counts, "/entry/names": small(names)})


@pytest.fixture(scope="module")
def small_file(shared_forge: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each kind that a segment has, and nothing twice: one dataset of two frames, signed by Ed25519 alone."""
    path = tmp_path_factory.mktemp("small") / "small.h5"
    given = shared_forge.facility
    facility = Classical(given.agent_id, given.boot_id, given.ca_key, given.identity, session=given.session)
    builder = Bare(facility, path, shared_forge.run)
    builder.file.abandon()
    path.unlink()
    builder.file = SegmentFile(path)
    made = stream_layout(CAMERA, default=False).data
    assert made is not None
    dsd = replace(made, path="/entry/d")
    entry, frames = GroupMeta({"NX_class": text("NXentry")}), DatasetMeta(dsd.type, {"units": text("count")})
    builder.file.add({"/": GroupMeta(), "/entry": entry, dsd.path: frames}, (dsd,))
    builder.leaves.append(leaf.Dataset(dsd.digest()))
    for number, image in enumerate(images(2)):
        builder._chunk(dsd, "bitshuffle-lz4", (number, 0, 0), image[None], number + 1, number)
    builder.close()
    return path


class Flipper:
    """A `flipper.py` process that is started again when a flip kills it."""

    def __init__(self, segment: Path, root: Path, every: int) -> None:
        self.segment, self.root, self.every, self.whole = segment, root, every, segment.read_bytes()
        self.process = self.start()

    def start(self) -> subprocess.Popen[str]:
        self.segment.write_bytes(self.whole)
        env = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, str(HERE / "flipper.py"), str(self.segment), str(self.root), str(self.every)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def flip(self, offset: int) -> tuple[str, bool, str]:
        """(level or how the library died, whether an unreported change is visible or the other verifier disagrees, reason)."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{offset}\n")
        self.process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(PATIENCE):
                self.stop()
                self.process = self.start()
                return "hang", False, ""
        line = self.process.stdout.readline()
        if not line:
            self.stop()
            code = self.process.returncode
            self.process = self.start()
            # Python's own errors would be errors of the verifier: it never raises.
            return f"signal {-code}" if code < 0 else "exception", code >= 0, f"offset {offset}"
        _, level, differs, reason = line.split(" ", 3)
        return level, differs == "1", reason

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


def flip_all(segment: Path, root: Path, every: int, offsets: Sequence[int]) -> list[tuple[int, str, bool, str]]:
    flipper = Flipper(segment, root, every)
    try:
        return [(offset, *flipper.flip(offset)) for offset in offsets]
    finally:
        flipper.stop()


@pytest.mark.parametrize(
    ("which", "step", "every"),
    [
        ("small", 7, 7),
        ("frames", 2003, 1),
        ("rows", 4001, 1),
        pytest.param("small", 1, 2, marks=[pytest.mark.slow(180), pytest.mark.timeout(1500)]),
        pytest.param("frames", 31, 62, marks=[pytest.mark.slow(60), pytest.mark.timeout(1500)]),
        pytest.param("rows", 41, 82, marks=[pytest.mark.slow(140), pytest.mark.timeout(1500)]),
    ],
)
def test_every_flipped_bit_is_reported_or_changes_nothing_that_is_read(
    which: str, step: int, every: int, small_file: Path, frames_file: Path, rows_file: Path, facility: Any, tmp_path: Path
) -> None:
    """Each 7th byte of a small segment, each single one in make test-slow; the other verifier is asked about each 7th and each 2nd."""
    original = {"small": small_file, "frames": frames_file, "rows": rows_file}[which]
    root = tmp_path / "root.pem"
    root.write_bytes(facility.root.public_bytes(Encoding.PEM))
    copies = [tmp_path / "one.h5", tmp_path / "two.h5"]
    for copy in copies:
        shutil.copy(original, copy)
    offsets = range(0, original.stat().st_size, step)
    with ThreadPoolExecutor(len(copies)) as pool:
        parts = pool.map(flip_all, copies, [root, root], [every, every], [offsets[0::2], offsets[1::2]])
        results = [result for part in parts for result in part]
    unseen = [result for result in results if result[2]]
    assert not unseen, f"flips that were not reported and can be read, or judged differently: {unseen}"
    levels = Counter(level for _, level, _, _ in results)
    assert len(results) == len(offsets)
    assert levels["0"] > len(offsets) // 10, levels
