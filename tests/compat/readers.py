"""Readers that are not us: small environments with an older and a newer HDF5, without this project.

`ask` opens a file in one of them and returns what was read. The environments are made once under `.test-tools/compat-<version>/` from
wheels and used again until their requirements change.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TOOLS = HERE.parent.parent / ".test-tools"
SCRIPT = HERE / "read_everything.py"

READERS = {
    "1.12": ("h5py==3.8.0", "hdf5plugin==4.1.3", "numpy==1.26.4"),
    "1.14": ("h5py==3.13.0", "hdf5plugin==5.1.0", "numpy==2.2.6"),
    "2.x": ("h5py==3.16.0", "hdf5plugin==7.1.0", "numpy==2.4.6"),
}
"""What a facility may have installed: HDF5 1.12.2, 1.14 and 2.0.0 come inside the h5py wheels."""

def environment(version: str) -> Path:
    """Return the Python of the environment of one HDF5 version, making it when it is missing or out of date."""
    folder = TOOLS / f"compat-{version}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ready = folder / "requirements.txt"
    wanted = "\n".join((sys.version.split()[0], *READERS[version])) + "\n"
    TOOLS.mkdir(exist_ok=True)
    with open(TOOLS / f"compat-{version}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists() or ready.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=False, symlinks=os.name != "nt")
            pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "--no-input"]
            install(*pip, "install", "--quiet", "--only-binary=:all:", "--no-compile", *READERS[version])
            ready.write_text(wanted)
    return python


def install(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, f"the packages of a reader could not be installed: {done.stderr}"


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
        [environment(version), "-I", SCRIPT, argument], env=clean, cwd="/", capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, f"HDF5 {version} does not read {argument}: {done.stderr}"
    return json.loads(done.stdout)
