"""The wheel in a clean environment outside of the clone gives a working agent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import h5py
import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow(50)
@pytest.mark.timeout(900)
def test_the_wheel_alone_gives_a_working_demo_and_service(tmp_path: Path) -> None:
    source = tmp_path / "source"
    run("git", "clone", "--quiet", ROOT, source, cwd=tmp_path)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path / "dist", source, cwd=tmp_path)
    wheel = next((tmp_path / "dist").glob("edge_agent_daq-*.whl"))
    venv.create(tmp_path / "env", with_pip=True)
    programs = tmp_path / "env" / "bin"
    run(programs / "python", "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    result = json.loads(run(programs / "edge-agent", "demo", "--json", "--seconds", "5", "--dir", "demo", cwd=elsewhere))
    assert result["ok"] is True
    landed = elsewhere / "demo" / "space" / result["runs"][0]["path"]
    with h5py.File(landed / f"{landed.name}.nxs") as file:
        assert len(file["entry/process/parameters/build_digest"].asstr()[()]) == 64, "the program knows which wheel it is"
    config = elsewhere / "edge-agent.toml"
    run(programs / "edge-agent", "init", config, cwd=elsewhere)
    run(programs / "edge-agent", "service", "install", "--config", config, "--folder", elsewhere / "units", cwd=elsewhere)
    assert "Type=notify" in (elsewhere / "units" / "edge-agent.service").read_text()
