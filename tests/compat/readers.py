"""Readers that are not us: small environments with an older and a newer HDF5, without this project.

`ask` opens a file in one of them and returns what was read. The environments are made once under `.test-tools/compat-<version>/` from
wheels and used again until their requirements change.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.environments import environment

HERE = Path(__file__).parent
SCRIPT = HERE / "read_everything.py"

READERS = {
    "1.12": ("h5py==3.8.0", "hdf5plugin==4.1.3", "numpy==1.26.4"),
    "1.14": ("h5py==3.13.0", "hdf5plugin==5.1.0", "numpy==2.2.6"),
    "2.x": ("h5py==3.16.0", "hdf5plugin==7.1.0", "numpy==2.4.6"),
}
"""What a facility may have installed: HDF5 1.12.2, 1.14 and 2.0.0 come inside the h5py wheels."""


def python(version: str) -> Path:
    """The Python of the environment of one HDF5 version."""
    return environment(f"compat-{version}", *READERS[version], options=("--only-binary=:all:", "--no-compile")) / "python"


def read(version: str, path: Path) -> dict[str, Any]:
    """Every dataset of a file as an HDF5 version reads it: {path: [shape, dtype, SHA-256 of the C-order bytes]}."""
    found = ask(version, str(path.resolve()))
    assert isinstance(found, dict)
    return found


def ask(version: str, argument: str) -> Any:
    """What `read_everything.py` prints in the environment of an HDF5 version."""
    # -I: neither this folder nor PYTHONPATH nor the user's packages are seen, so the project cannot be imported.
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HDF5", "PYTHON"))}
    done = subprocess.run(
        [python(version), "-I", SCRIPT, argument], env=clean, cwd="/", capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, f"HDF5 {version} does not read {argument}: {done.stderr}"
    return json.loads(done.stdout)
