"""A landed run is plain HDF5: the same values in environments without the project, with HDF5 1.12, 1.14 and 2.x."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
def test_a_landed_run_reads_the_same_in_every_hdf5(tmp_path: Path, reader_versions: Any, read_with: Callable[[str, Path], dict[str, Any]]) -> None:
    command = [sys.executable, "-m", "edge_agent.cli", "demo", "--json", "--seconds", "4", "--dir", str(tmp_path / "demo")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    space = tmp_path / "demo" / "space"
    folder = space / json.loads(done.stdout)["runs"][0]["path"]
    files = sorted([*folder.glob("*.h5"), *folder.glob("*.nxs")])
    assert len(files) == 3, "two segments and their master"
    for path in files:
        seen = {version: read_with(version, path) for version in reader_versions}
        first = next(iter(seen.values()))
        assert first, path
        assert all(other == first for other in seen.values()), path
