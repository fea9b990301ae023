"""The layers are real: the import contracts of pyproject.toml hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_room_imports_only_lower_floors() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--config", ROOT / "pyproject.toml"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_daemon_never_imports_hdf5plugin() -> None:
    """A registered filter would let HDF5 change the filter values that the agent signs."""
    code = "import sys, edge_agent.agent.agent, edge_agent.cli.verbs.run; print('hdf5plugin' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
