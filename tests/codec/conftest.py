"""Two processes for each file: one writes as the recorder does, another reads by normal slicing with hdf5plugin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
READER = ROOT / "tests" / "compat" / "read_everything.py"


@dataclass(frozen=True)
class Case:
    name: str
    codec: str
    data: np.ndarray[Any, Any]
    chunk: tuple[int, ...]
    library: str = "best"


@dataclass(frozen=True)
class Recorded:
    path: Path
    filters: dict[str, list[Any]]
    masks: dict[str, list[int]]
    registered: bool
    read: dict[str, list[Any]]


def run(*arguments: object) -> Any:
    environment = {k: v for k, v in os.environ.items() if k != "HDF5_PLUGIN_PATH"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def make_case() -> type[Case]:
    return Case


@pytest.fixture(scope="session")
def record() -> Callable[[Path, list[Case]], Recorded]:
    """Write the cases to `folder`/cases.h5 in one process, read them back in another."""

    def record(folder: Path, cases: list[Case]) -> Recorded:
        arrays, listing, target = folder / "cases.npz", folder / "cases.json", folder / "cases.h5"
        np.savez(arrays, **{case.name: case.data for case in cases})
        listing.write_text(json.dumps([{"name": c.name, "codec": c.codec, "library": c.library, "chunk": c.chunk} for c in cases]))
        wrote = run(HERE / "record_like.py", arrays, listing, target)
        return Recorded(target, wrote["filters"], wrote["masks"], wrote["registered"], run(READER, target))

    return record
