"""The system refuses what HDF5 writes with its own driver: the process lives on, and nothing is missing; see `file_limit`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is of POSIX")
def test_a_file_that_may_not_grow_any_more_ends_neither_the_process_nor_the_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.record.file_limit", str(tmp_path), "5000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["lives"] > 10
    assert result["wrong"] == {}
