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
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

HERE = Path(__file__).parent
PATIENCE = 60.0
"""Seconds for one flip: a flip after which the HDF5 library waits for ever is a flip that is reported."""


class Flipper:
    """A `flipper.py` process that is started again when a flip kills it."""

    def __init__(self, segment: Path, root: Path) -> None:
        self.segment, self.root, self.whole = segment, root, segment.read_bytes()
        self.process = self.start()

    def start(self) -> subprocess.Popen[str]:
        self.segment.write_bytes(self.whole)
        env = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, str(HERE / "flipper.py"), str(self.segment), str(self.root)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def flip(self, offset: int) -> tuple[str, bool, str]:
        """(level or how the library died, whether an unreported change is visible, reason)."""
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


def flip_all(segment: Path, root: Path, offsets: Sequence[int]) -> list[tuple[int, str, bool, str]]:
    flipper = Flipper(segment, root)
    try:
        return [(offset, *flipper.flip(offset)) for offset in offsets]
    finally:
        flipper.stop()


@pytest.mark.parametrize(
    ("which", "step"),
    [
        ("frames", 127),
        ("rows", 647),
        pytest.param("frames", 9, marks=[pytest.mark.slow(130), pytest.mark.timeout(1500)]),
        pytest.param("rows", 13, marks=[pytest.mark.slow(380), pytest.mark.timeout(1500)]),
    ],
)
def test_every_flipped_bit_is_reported_or_changes_nothing_that_is_read(
    which: str, step: int, frames_file: Path, rows_file: Path, facility: Any, tmp_path: Path
) -> None:
    original = frames_file if which == "frames" else rows_file
    root = tmp_path / "root.pem"
    root.write_bytes(facility.root.public_bytes(Encoding.PEM))
    copies = [tmp_path / "one.h5", tmp_path / "two.h5"]
    for copy in copies:
        shutil.copy(original, copy)
    offsets = range(0, original.stat().st_size, step)
    with ThreadPoolExecutor(len(copies)) as pool:
        parts = pool.map(flip_all, copies, [root, root], [offsets[0::2], offsets[1::2]])
        results = [result for part in parts for result in part]
    unseen = [result for result in results if result[2]]
    assert not unseen, f"flips that were not reported and can be read: {unseen}"
    levels = Counter(level for _, level, _, _ in results)
    assert len(results) == len(offsets)
    assert levels["0"] > len(offsets) // 10, levels
