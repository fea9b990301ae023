"""Programs and libraries that nobody here wrote, in environments of their own below ``.test-tools/``.

Each is made by the test that needs it first, in whatever process, and again when what it consists of changes.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

TOOLS = Path(__file__).parent.parent / ".test-tools"


def made_once(name: str, wanted: str, make: Callable[[Path], None]) -> Path:
    """The folder ``.test-tools/<name>``; ``make`` fills it when it is not there or consists of something else than ``wanted``."""
    folder = TOOLS / name
    ready = folder / "requirements.txt"
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists() or ready.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            ready.write_text(wanted)
    return folder


def pip(*arguments: str) -> None:
    """Run this Python's pip."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"pip {' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


def environment(name: str, *packages: str, options: tuple[str, ...] = ()) -> Path:
    """The folder of programs (``python`` among them) of an environment with these packages; ``options`` are pip's."""

    def make(folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        pip("--python", str(folder / "bin/python"), "install", "--quiet", *options, *packages)

    return made_once(name, "\n".join((sys.version.split()[0], *packages)) + "\n", make) / "bin"
